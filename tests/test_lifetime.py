# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Processes and memory: forks, growth, exit, and machines without a GPU or its driver."""

import gc
import mmap
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import fastconv
from fastconv.testing import OP_SPECS, SMALL_SAMPLES, as_tuple


def step(spec, tensors=None):
    """One forward and, where there are gradients, backward pass of a tiny problem."""
    problem = SMALL_SAMPLES[spec.name]
    tensors = tensors or [
        t if t is None else t.requires_grad_() for t in problem.tensors(torch.float32)
    ]
    y = as_tuple(spec.op(*tensors, **problem.kwargs))[0]
    wanted = [t for t in tensors if t is not None]
    return [y.detach(), *torch.autograd.grad(y, wanted, torch.ones_like(y))]


def run_script(script, *arguments, **environment):
    """Runs Python code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", script, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=900,  # for a hang; ten seconds of work, which a busy machine may make minutes
        check=False,
    )


# --- forks ---

FORK = """
import os, torch, fastconv
x, w = torch.randn(4, 32, 64, 64, requires_grad=True), torch.randn(32, 1, 3, 3)

def train():
    y = fastconv.depth_max_pool(fastconv.space_to_depth(fastconv.depthwise_conv2d(x, w), 2), 2)
    return y.detach(), torch.autograd.grad(y.sum(), x)[0]

torch.set_num_threads(2)
expected = train()  # threads have run
child = os.fork()
if child == 0:
    torch.set_num_threads(1)  # OpenMP's threads are gone; see docs/adr/0004-threads.md
    same = all(torch.equal(a, b) for a, b in zip(train(), expected))
    os._exit(0 if same else 3)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert all(torch.equal(a, b) for a, b in zip(train(), expected)), "the parent"
raise SystemExit(status)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_forward_and_backward_in_a_forked_child():
    done = run_script(FORK)
    assert done.returncode == 0, done.stderr


# --- memory ---


def resident():
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def least_growth(work, enough, rounds=4):
    """Bytes that this process grows by as work() runs: the least of a few rounds.

    What leaks does so in every round; that the kernel joins pages to huge ones, or an allocator
    takes a new arena, does not.  A round that grows by less than `enough` is the last.
    """
    least = None
    for _ in range(rounds):
        before = resident()
        work()
        grown = resident() - before
        least = grown if least is None else min(least, grown)
        if least < enough:
            break
    return least


def tensors_alive():
    gc.collect()
    return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("spec", OP_SPECS, ids=lambda spec: spec.name)
def test_memory_does_not_grow(spec):
    """10,000 calls: a leak of 1 KiB each would be 10 MiB."""
    problem = SMALL_SAMPLES[spec.name]
    tensors = [t if t is None else t.requires_grad_() for t in problem.tensors()]
    for _ in range(500):
        step(spec, tensors)
    alive = tensors_alive()

    def work():
        for _ in range(5000):  # forward and backward
            step(spec, tensors)

    assert least_growth(work, enough=3 << 20) < 3 << 20
    assert tensors_alive() <= alive


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_scratch_of_threads_that_ended_is_freed():
    """Threads keep scratch for their next call; 60 of them would keep more than 60 MiB."""
    # A wide image, on one thread: the rows of a task take a megabyte.
    x, w = torch.randn(1, 3, 40, 4096, dtype=torch.float64), torch.randn(3, 1, 31, 3).double()
    torch.set_num_threads(1)

    def work():
        torch.set_num_threads(1)
        fastconv.depthwise_conv2d(x, w)

    def run_threads(count):
        for _ in range(count):
            worker = threading.Thread(target=work)
            worker.start()
            worker.join()

    run_threads(5)
    assert least_growth(lambda: run_threads(60), enough=20 << 20) < 20 << 20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_a_leak_is_seen():
    """By the measure of the two tests above."""
    kept = []

    def leak():
        kept.append(mmap.mmap(-1, 5 << 20))  # not of the heap, which may have room
        kept[-1].write(b"x" * (5 << 20))

    assert least_growth(leak, enough=3 << 20) > 3 << 20


# --- the end of a process ---

EXIT = """
import sys, threading, torch, fastconv
layer = fastconv.nn.DepthwiseConv2d(8, 8, 3)
x = torch.randn(2, 8, 16, 16, requires_grad=True)
kept = layer(x)  # a graph that is alive at exit
kept.sum().backward(retain_graph=True)

class Late:
    def __del__(self, layer=layer, x=x):
        layer(x).sum()  # torch may be half gone: an exception is fine, a crash is not

late = Late()
ran, forever = threading.Event(), threading.Event()

def wait():
    layer(x.detach())  # scratch of this thread is alive at exit
    ran.set()
    forever.wait()

# Waiting, not running: torch aborts where a daemon thread is inside one of its own layers.
threading.Thread(target=wait, daemon=True).start()
ran.wait()
sys.modules["kept"] = kept
"""


def test_exit_with_graphs_and_threads_alive():
    done = run_script(EXIT)
    assert done.returncode == 0, done.stderr


# --- no GPU, no driver ---

NO_GPU = """
import sys, torch, fastconv
from fastconv import _C

assert not torch.cuda.is_available()
x = torch.randn(1, 8, 9, 9, requires_grad=True)
y = fastconv.depthwise_conv2d(x, torch.randn(8, 1, 3, 3), padding=1)
fastconv.pixel_shuffle(fastconv.depth_max_pool(y, 2), 2).sum().backward()
assert x.grad.isfinite().all()
assert not torch.cuda.is_initialized(), "importing or running on the CPU must not start CUDA"
report = str(fastconv.config())
assert "fastconv" in report or "version" in report
for move in (lambda: x.cuda(), lambda: fastconv.nn.DepthwiseConv2d(8, 8, 3).cuda()):
    try:
        move()
    except (RuntimeError, AssertionError) as error:
        print(type(error).__name__, error)
    else:
        raise SystemExit("moved to a GPU that does not exist")
print("done", _C.has_cuda())
"""


def test_a_machine_without_a_gpu():
    """Import and CPU work; moving to the GPU is torch's error.  A CUDA build needs no driver."""
    done = run_script(NO_GPU, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == f"done {fastconv._C.has_cuda()}"
    assert len(lines) == 3 and all("CUDA" in s or "NVIDIA" in s for s in lines[:2]), lines


def test_command_line_without_a_gpu():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "fastconv"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert torch.__version__.split("+")[0] in done.stdout


def test_pickles_hold_no_process_state():
    """What a layer's pickle needs is its class and its tensors: it loads in another process."""
    layer = fastconv.nn.DepthwiseConv2d(4, 8, 3, padding=1)
    data = pickle.dumps(layer)
    script = (
        "import pickle, sys, torch\n"
        "layer = pickle.loads(bytes.fromhex(sys.stdin.read()))\n"
        "print(layer(torch.ones(1, 4, 5, 5)).sum().item())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], input=data.hex(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    expected = layer(torch.ones(1, 4, 5, 5)).sum().item()
    assert abs(float(done.stdout) - expected) <= 1e-5 * (1 + abs(expected))
