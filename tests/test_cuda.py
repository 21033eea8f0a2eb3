# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""What only a CUDA device can show: streams, graphs, other devices, sizes beyond 32 bits."""

import pytest
import torch

import fastconv
from fastconv.testing import OP_SPECS, as_tuple

pytestmark = pytest.mark.cuda
each_op = pytest.mark.parametrize("spec", OP_SPECS, ids=lambda spec: spec.name)


def first(spec, problem):
    """The operator as a function of its tensors, with one result."""

    def run(*tensors):
        return as_tuple(spec.op(*tensors, **problem.kwargs))[0]

    return run


def leaves(args):
    return [t if t is None else t.detach().clone().requires_grad_() for t in args]


@each_op
def test_on_a_side_stream(spec, rng):
    """The operator waits for, and is waited for, on the current stream alone."""
    problem = spec.samples[0]
    tensors = problem.tensors(torch.float32, "cuda", rng)
    want = first(spec, problem)(*tensors)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        late = [t if t is None else t * 1 for t in tensors]
        y = first(spec, problem)(*late)
    stream.synchronize()
    assert torch.equal(y, want)


@each_op
def test_in_a_cuda_graph(spec, rng):
    """Forward and backward are captured, and replayed on new values."""
    problem = spec.samples[0]
    tensors = leaves(problem.tensors(torch.float32, "cuda", rng))
    wanted = [t for t in tensors if t is not None]
    run = first(spec, problem)
    run(*tensors).sum().backward()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = run(*tensors)
        grads = torch.autograd.grad(y.square().sum(), wanted)
    with torch.no_grad():
        wanted[0].normal_()
    graph.replay()
    again = run(*tensors)
    assert torch.equal(y, again)
    for a, b in zip(grads, torch.autograd.grad(again.square().sum(), wanted), strict=True):
        assert torch.equal(a, b)


@each_op
def test_on_another_device_than_the_current_one(spec, rng):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two devices")
    tensors = leaves(spec.samples[0].tensors(torch.float32, "cuda:1", rng))
    y = first(spec, spec.samples[0])(*tensors)
    y.sum().backward()
    assert y.device == tensors[0].grad.device == torch.device("cuda:1")
    assert torch.cuda.current_device() == 0


@pytest.mark.slow
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_more_than_2_to_the_31_elements(layout):
    """The last channels of a tensor that 32-bit indices cannot reach."""
    if torch.cuda.get_device_properties(0).total_memory < 20 << 30:
        pytest.skip("needs 20 GiB")
    x = torch.empty(1, 40, 8200, 8200, dtype=torch.bfloat16, device="cuda", memory_format=layout)
    x.normal_()
    assert x.numel() > 2**31
    w = torch.randn(40, 1, 3, 3, dtype=torch.bfloat16, device="cuda")
    y = fastconv.depthwise_conv2d(x, w, padding=1)
    last = slice(-4, None)
    part = x[:, last, -50:].contiguous()
    want = fastconv.depthwise_conv2d(part.double(), w[last].double(), padding=1)
    close = {"rtol": 0.01, "atol": 0.05}
    torch.testing.assert_close(y[:, last, -40:].double(), want[:, :, -40:], **close)
    del y
    pooled = fastconv.depth_max_pool(x, 4)
    assert torch.equal(pooled[:, -1], x[:, last].amax(1))
    deep = fastconv.space_to_depth(x, 2)
    assert torch.equal(deep[:, -1], x[:, -1, 1::2, 1::2])


@pytest.mark.slow
def test_more_blocks_than_a_grid_axis_holds(rng):
    """Grids have 65535 blocks in y and z."""
    x = torch.randn(70000, 3, 5, generator=rng).cuda()
    w = torch.randn(3, 1, 3, generator=rng).cuda()
    got = fastconv.depthwise_conv1d(x, w, padding=1)
    want = torch.nn.functional.conv1d(x.double(), w.double(), padding=1, groups=3)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
    tall = x.reshape(1, 3, 70000, 5)
    got = fastconv.depthwise_conv2d(tall, w.unsqueeze(-1), padding=(1, 0))
    want = torch.nn.functional.conv2d(
        tall.double(), w.unsqueeze(-1).double(), padding=(1, 0), groups=3
    )
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
