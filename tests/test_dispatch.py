# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""The operators as citizens of PyTorch: opcheck, compile, export, autocast, saved tensors."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.fx.experimental import _config as fx_config
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

import fastconv
from fastconv.testing import OP_SPECS, SMALL_SAMPLES, as_tuple, each_isa

CONVS = [spec for spec in OP_SPECS if spec.name.startswith("depthwise_conv")]
each_op = pytest.mark.parametrize("spec", OP_SPECS, ids=lambda spec: spec.name)


def first(spec, problem):
    """The operator as a function of its tensors, with one result."""

    def run(*tensors):
        return as_tuple(spec.op(*tensors, **problem.kwargs))[0]

    return run


class Recorder(TorchDispatchMode):
    """Notes every call of an operator of fastconv that reaches a backend."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "fastconv":
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def recorded(spec, problem, tensors):
    """The calls behind a forward and a backward pass."""
    with Recorder() as recorder:
        y = first(spec, problem)(*tensors)
        if any(t is not None and t.requires_grad for t in tensors):
            y.backward(torch.randn_like(y))
    return recorder.calls


def leaves(args):
    return [
        t.detach().clone().requires_grad_(t.is_floating_point()) if torch.is_tensor(t) else t
        for t in args
    ]


@each_op
def test_opcheck(spec, device, rng):
    """All four utilities, on what a forward and a backward pass call."""
    for problem in [*spec.samples[:2], SMALL_SAMPLES[spec.name]]:
        tensors = leaves(problem.tensors(torch.float32, device, rng))
        calls = recorded(spec, problem, tensors)
        assert calls
        for func, args, kwargs in calls:
            opcheck(func, tuple(leaves(args)), kwargs)


@each_op
def test_opcheck_without_grad(spec, device, rng):
    problem = spec.samples[0]
    for dtype in {torch.int64, torch.bfloat16} & set(spec.dtypes):
        tensors = problem.tensors(dtype, device, rng)
        for func, args, kwargs in recorded(spec, problem, tensors):
            opcheck(func, args, kwargs)


@each_op
def test_meta_agrees_with_the_kernels(spec, device, rng):
    """Sizes, strides and dtypes of every problem, without running it."""
    for problem in spec.samples:
        tensors = problem.tensors(torch.float32, device, rng)
        for channels_last in (False, True):
            if channels_last and tensors[0].dim() in (4, 5):
                four = tensors[0].dim() == 4
                form = torch.channels_last if four else torch.channels_last_3d
                tensors[0] = tensors[0].contiguous(memory_format=form)
            real = as_tuple(spec.op(*tensors, **problem.kwargs))
            shadows = [t if t is None else t.to("meta") for t in tensors]
            for a, b in zip(real, as_tuple(spec.op(*shadows, **problem.kwargs)), strict=True):
                assert (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)


def other_size(problem):
    """The same problem with a larger batch, and more pixels where it has a convolution's shapes."""
    x, *rest = problem.shapes
    if len(rest) == 1:  # a gate, which grows with the batch
        gate = (x[0] + 1, *rest[0][1:])
        return type(problem)("other", ((x[0] + 1, x[1], *[n + 1 for n in x[2:]]), gate), {})
    grown = [n + 1 for n in x[2:]] if rest else x[2:]
    return type(problem)("other", ((x[0] + 1, x[1], *grown), *rest), problem.kwargs)


def run_with_grads(function, tensors, seed):
    tensors = leaves(tensors)
    y = function(*tensors)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed)).to(y)
    y.backward(grad.contiguous())
    return [y, *(t.grad for t in tensors if t is not None)]


def assert_same(got, expected):
    for a, b in zip(got, expected, strict=True):
        assert a.stride() == b.stride()
        torch.testing.assert_close(a, b)


@each_op
def test_compile_with_dynamic_shapes(spec, device, rng):
    """One graph serves other sizes too, forward and backward, and keeps eager's strides."""
    problem = SMALL_SAMPLES[spec.name]
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    run = first(spec, problem)
    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend=counter)
    # Otherwise sizes that happen to be equal at first would have to stay so.
    with fx_config.patch(use_duck_shape=False):
        for case in (problem, other_size(problem), other_size(other_size(problem))):
            tensors = case.tensors(torch.float32, device, rng)
            assert_same(run_with_grads(compiled, tensors, 1), run_with_grads(run, tensors, 1))
    assert counter.frame_count == 1


@pytest.mark.slow
def test_compile_a_network_with_inductor(device):
    """Every 2-D operator in one graph, between operators that inductor fuses."""
    layout = torch.channels_last  # inductor relies on the strides that meta() promised

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = fastconv.nn.DepthwiseConv2d(12, 24, 3, stride=2, padding="same")
            self.mix = torch.nn.Conv2d(12, 16, 1)

        def forward(self, x):
            x = fastconv.space_to_depth(x.relu(), 2)
            x = self.conv(x * 2).relu()
            x = self.mix(fastconv.depth_max_pool(fastconv.channel_shuffle(x, 3), 2))
            return fastconv.pixel_shuffle(x, 2).sigmoid()

    torch._dynamo.reset()
    net = Net().to(device, memory_format=layout)
    compiled = torch.compile(net, fullgraph=True, dynamic=True)
    for n, size in ((2, 16), (3, 24)):
        x = torch.randn(n, 3, size, size, device=device).to(memory_format=layout)
        results = []
        for module in (net, compiled):
            net.zero_grad()
            leaf = x.clone().requires_grad_()
            y = module(leaf)
            y.square().sum().backward()
            results.append([y, leaf.grad, *(p.grad for p in net.parameters())])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@each_op
def test_export(spec, device, rng):
    """torch.export keeps the operator as one node, for any batch size."""

    class Net(torch.nn.Module):
        def forward(self, *tensors):
            return first(spec, problem)(*tensors)

    problem = SMALL_SAMPLES[spec.name]
    tensors = tuple(problem.tensors(torch.float32, device, rng))
    batched = 2 if spec.name == "sigmoid_gate" else 1
    dim = {0: torch.export.Dim("batch", min=2)}
    batch = [dim] * batched + [None] * (len(tensors) - batched)
    program = torch.export.export(Net(), tensors, dynamic_shapes=(tuple(batch),))
    nodes = [n for n in program.graph.nodes if "fastconv" in str(n.target)]
    assert len(nodes) == 1
    more = (*[torch.cat([t] * 3) for t in tensors[:batched]], *tensors[batched:])
    torch.testing.assert_close(program.module()(*more), first(spec, problem)(*more))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@each_op
def test_autocast(spec, dtype, device, rng):
    """Convolutions run in the autocast dtype and return gradients in that of the parameters."""
    problem = spec.samples[0]
    tensors = leaves(problem.tensors(torch.float32, device, rng))
    run = first(spec, problem)
    with torch.autocast(device, dtype):
        assert torch.get_autocast_dtype(device) == dtype
        y = run(*tensors)
        native = as_tuple(spec.native(*tensors, **problem.kwargs))[0]
    want = dtype if spec in CONVS else torch.float32
    assert y.dtype == native.dtype == want
    half = [t if t is None else t.detach().to(want) for t in tensors]
    assert torch.equal(y, run(*half))
    y.float().square().sum().backward()
    assert all(t is None or t.grad.dtype == torch.float32 for t in tensors)


def test_autocast_of_mixed_and_wide_tensors():
    """As torch: what is narrow is cast, float64 is left, and a disabled region casts nothing."""
    x, w = torch.randn(1, 2, 8), torch.randn(2, 1, 3)
    conv = fastconv.depthwise_conv1d
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x.half(), w).dtype == torch.bfloat16
        assert conv(x.double(), w.double()).dtype == torch.float64
        with torch.autocast("cpu", enabled=False):
            assert conv(x, w).dtype == torch.float32
    with torch.autocast("cpu", torch.float16):
        assert conv(x, w.bfloat16()).dtype == torch.float16


@each_op
def test_inference_mode_and_no_grad(spec, device, rng):
    problem = spec.samples[0]
    tensors = leaves(problem.tensors(torch.float32, device, rng))
    y = first(spec, problem)(*tensors)
    assert y.requires_grad
    with torch.no_grad():
        quiet = first(spec, problem)(*tensors)
    with torch.inference_mode():
        inference = first(spec, problem)(*tensors)
    assert not quiet.requires_grad and inference.is_inference()
    assert torch.equal(y, quiet) and torch.equal(y, inference.clone())


@each_op
def test_saves_no_more_than_it_needs(spec, device, rng):
    """A convolution keeps its input and weight; an average or a rearrangement keeps nothing."""
    problem = spec.samples[0]
    tensors = leaves(problem.tensors(torch.float32, device, rng))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        first(spec, problem)(*tensors)
    kept = {t.data_ptr() for t in saved}
    if spec in CONVS or spec.name == "sigmoid_gate":
        assert kept == {tensors[0].data_ptr(), tensors[1].data_ptr()}
    elif spec.name != "depth_max_pool":
        assert not saved
    else:
        assert tensors[0].data_ptr() not in kept


@each_op
def test_checkpointing(spec, device, rng):
    problem = spec.samples[0]
    tensors = leaves(problem.tensors(torch.float32, device, rng))
    run = first(spec, problem)
    run(*tensors).square().sum().backward()
    want = tensors[0].grad
    tensors[0].grad = None
    y = torch.utils.checkpoint.checkpoint(run, *tensors, use_reentrant=False)
    y.square().sum().backward()
    assert torch.equal(tensors[0].grad, want)


def test_every_isa_level_can_be_chosen():
    from fastconv import _C

    assert list(each_isa("cpu")) == _C.isa_levels()
    assert _C.isa() in _C.isa_levels()
    with pytest.raises(ValueError, match="FASTCONV_ISA"):
        _C.set_isa("mmx")
