# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""The same bits from every thread, for every number of threads, and in processes of all kinds."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from fastconv.testing import (
    LAYOUTS,
    OP_SPECS,
    SMALL_SAMPLES,
    Sample,
    as_tuple,
    conv_sample,
    sample,
    transpose_sample,
)

# One problem for each operator that is cut into more tasks than there are threads, so that threads
# take part; `test_problems_are_shared_out` checks that they do.
WIDE = {
    "depthwise_conv1d": conv_sample((5000,), (5,), c=51, padding=2),
    "depthwise_conv2d": conv_sample((33, 37), (3, 5), c=35, padding=1, stride=(1, 2)),
    "depthwise_conv3d": conv_sample((7, 18, 19), (3, 3, 3), c=18, padding=1),
    "depthwise_conv_transpose1d": transpose_sample((2500,), (5,), c=51, stride=2),
    "depthwise_conv_transpose2d": transpose_sample((21, 26), (3, 4), c=35, stride=2, padding=1),
    "depthwise_conv_transpose3d": transpose_sample((4, 9, 10), (3, 3, 2), c=18, stride=2),
    "depth_max_pool": sample((2, 48, 60, 61), kernel_size=(3, 2, 3), stride=(2, 2, 1)),
    "space_to_depth": sample((2, 20, 66, 98), block_size=2),
    "depth_to_space": sample((2, 80, 33, 49), block_size=2),
    "pixel_shuffle": sample((2, 90, 33, 49), upscale_factor=3),
    "pixel_unshuffle": sample((2, 10, 99, 147), downscale_factor=3),
    "channel_shuffle": sample((2, 60, 45, 49), groups=4),
    "global_avg_pool1d": sample((2, 96, 5000)),
    "global_avg_pool2d": sample((2, 96, 70, 71)),
    "global_avg_pool3d": sample((2, 96, 17, 18, 19)),
    "sigmoid_gate": Sample("", ((2, 96, 70, 71), (2, 96, 1, 1)), {}),
}
each_op = pytest.mark.parametrize("spec", OP_SPECS, ids=lambda spec: spec.name)


def draw(spec, rng, dtype=torch.float32, layout="contiguous", problem=None):
    """A call's tensors and the gradient to start from."""
    problem = problem or WIDE[spec.name]
    tensors = problem.tensors(dtype, generator=rng)
    tensors[0] = LAYOUTS[layout](tensors[0], 1)
    y = as_tuple(spec.op(*tensors, **problem.kwargs))[0]
    grad = torch.randn(y.shape, generator=rng).to(y)
    return problem, tensors, LAYOUTS[layout](grad, 1) if layout == "channels_last" else grad


def train(spec, problem, tensors, grad):
    """Results and gradients of one step."""
    leaves = [t if t is None else t.detach().requires_grad_() for t in tensors]
    results = as_tuple(spec.op(*leaves, **problem.kwargs))
    wanted = [t for t in leaves if t is not None]
    return [*(t.detach() for t in results), *torch.autograd.grad(results[0], wanted, grad)]


def same_bits(a, b):
    return all(torch.equal(bits(x), bits(y)) for x, y in zip(a, b, strict=True))


def bits(t):
    return t.contiguous().view(torch.uint8)


# Idle threads sleep under the passive policy: those whose time slices go up have run tasks.
SHARED_OUT = """
import pathlib, sys, torch
sys.path.insert(0, sys.argv[1])
import test_concurrency as t
from fastconv.testing import OP_SPECS

def slices():
    tasks = pathlib.Path("/proc/self/task").iterdir()
    return {p.name: int((p / "schedstat").read_text().split()[2]) for p in tasks}

for spec in OP_SPECS:
    torch.set_num_threads(1)
    call = t.draw(spec, torch.Generator().manual_seed(1))
    torch.set_num_threads(7)
    torch.empty(1 << 20).fill_(1)  # all seven threads exist
    for step in (lambda: spec.op(*call[1], **call[0].kwargs), lambda: t.train(spec, *call)):
        before = slices()
        step()
        print(spec.name, sum(n > before.get(name, 0) for name, n in slices().items()))
"""


@each_op
def test_same_bits_for_any_number_of_threads(spec, rng):
    for dtype in (d for d in spec.dtypes if d in spec.grad_dtypes):
        for layout in ("contiguous", "channels_last", "steps", "transposed"):
            call = draw(spec, rng, dtype, layout)
            torch.set_num_threads(1)
            one = train(spec, *call)
            for threads in (2, 7, 7, 1):
                torch.set_num_threads(threads)
                many = train(spec, *call)
                assert same_bits(one, many), (dtype, layout, threads)


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="needs Linux's schedstat")
def test_problems_are_shared_out():
    """Without this the test above could compare one thread with one thread."""
    done = subprocess.run(
        [sys.executable, "-c", SHARED_OUT, str(Path(__file__).parent)],
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ran = [line.split() for line in done.stdout.splitlines()]
    assert [name for name, _ in ran] == [spec.name for spec in OP_SPECS for _ in range(2)]
    assert all(int(threads) >= 3 for _, threads in ran), ran


def test_all_operators_from_eight_threads_at_once(rng):
    """Each thread has its own order of calls, and compares with the bits of a serial run."""
    torch.set_num_threads(2)
    calls = [
        (spec, *draw(spec, rng, dtype, layout))
        for spec in OP_SPECS
        for dtype in (torch.float32, torch.bfloat16)
        for layout in ("contiguous", "channels_last")
    ]
    expected = [train(*call) for call in calls]
    start, wrong = threading.Barrier(8), []

    def work(number):
        start.wait()
        for round_ in range(2):
            for i in range(len(calls)):
                k = (i * 5 + number * 3 + round_) % len(calls)  # 5 and 36 share no factor
                try:
                    if not same_bits(train(*calls[k]), expected[k]):
                        wrong.append((number, calls[k][0].name))
                except Exception as error:  # a thread's own exception would be lost
                    wrong.append((number, calls[k][0].name, repr(error)))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_backward_in_another_thread_than_forward(rng):
    for spec in OP_SPECS:
        problem, tensors, grad = draw(spec, rng)
        expected = train(spec, problem, tensors, grad)[-1 if len(tensors) == 1 else 1]
        leaf = tensors[0].detach().requires_grad_()
        y = as_tuple(spec.op(leaf, *tensors[1:], **problem.kwargs))[0]
        worker = threading.Thread(target=y.backward, args=(grad,))
        worker.start()
        worker.join()
        assert same_bits([leaf.grad], [expected]), spec.name


@each_op
def test_inference_mode(spec, rng):
    problem, tensors, _ = draw(spec, rng)
    expected = as_tuple(spec.op(*tensors, **problem.kwargs))
    with torch.inference_mode():
        inner = [t if t is None else t.clone() for t in tensors]  # inference tensors as inputs
        for inputs in (tensors, inner):
            assert same_bits(as_tuple(spec.op(*inputs, **problem.kwargs)), expected)


class Steps(Dataset):
    """Item i is what step i of operator i gives, in whichever process asks for it."""

    def __len__(self):
        return len(OP_SPECS)

    def __getitem__(self, i):
        spec = OP_SPECS[i]
        call = draw(spec, torch.Generator().manual_seed(i), problem=SMALL_SAMPLES[spec.name])
        return [t.flatten() for t in train(spec, *call)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_data_loader_workers():
    """Forward and backward in forked workers, after threads have run in this process."""
    torch.set_num_threads(2)
    for spec in OP_SPECS:
        spec.op(*WIDE[spec.name].tensors(), **WIDE[spec.name].kwargs)
    expected = [Steps()[i] for i in range(len(OP_SPECS))]
    loader = DataLoader(
        Steps(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=600
    )
    for got, want in zip(loader, expected, strict=True):
        assert same_bits(got, want)
