# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""The operators as citizens of PyTorch: opcheck, compile, export, torch.func, autocast, streams."""

import itertools
import warnings

import pytest
import torch
import torch.autograd.forward_ad as fwAD
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vjp, vmap
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

import fastconv
from fastconv.testing import OP_SPECS, as_tuple, conv_sample, each_isa, sample

CONVS = [spec for spec in OP_SPECS if spec.name.startswith("depthwise_conv")]
SPECS = {spec.name: spec for spec in OP_SPECS}
# One problem per operator where a check is too slow for three.
SMALL = {
    "depthwise_conv1d": conv_sample((8,), (3,), c=2, m=2, padding="causal", dilation=2),
    "depthwise_conv2d": conv_sample((5, 6), (3, 2), c=2, padding=1, stride=(2, 1)),
    "depthwise_conv3d": conv_sample((3, 4, 5), (2, 3, 3), c=2, padding=1),
    "depth_max_pool": sample((2, 4, 4, 4), kernel_size=(2, 2, 2)),
    "space_to_depth": sample((2, 2, 4, 6), block_size=(2, 3)),
    "depth_to_space": sample((2, 12, 2, 3), block_size=(2, 3), order="focus"),
    "pixel_shuffle": sample((2, 8, 2, 3), upscale_factor=2),
    "pixel_unshuffle": sample((2, 2, 4, 6), downscale_factor=2),
    "channel_shuffle": sample((2, 6, 3, 2), groups=3),
}
each_op = pytest.mark.parametrize("spec", OP_SPECS, ids=lambda spec: spec.name)


def first(spec, problem):
    """The operator as a function of its tensors, with one result."""

    def run(*tensors):
        return as_tuple(spec.op(*tensors, **problem.kwargs))[0]

    return run


def oracle(spec, problem):
    def run(*tensors):
        return as_tuple(spec.reference(*tensors, **problem.kwargs))[0]

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
    for problem in [*spec.samples[:2], SMALL[spec.name]]:
        tensors = leaves(problem.tensors(torch.float32, device, rng))
        calls = recorded(spec, problem, tensors)
        assert calls
        for func, args, kwargs in calls:
            opcheck(func, tuple(leaves(args)), kwargs)


@each_op
def test_opcheck_without_grad(spec, device, rng):
    problem = spec.samples[0]
    for dtype in {spec.dtypes[-1], torch.bfloat16}:
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
    problem = SMALL[spec.name]
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    run = first(spec, problem)
    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend=counter)
    for case in (problem, other_size(problem), other_size(other_size(problem))):
        tensors = case.tensors(torch.float32, device, rng)
        assert_same(run_with_grads(compiled, tensors, 1), run_with_grads(run, tensors, 1))
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_compile_a_network_with_inductor(layout, device):
    """Every 2-D operator in one graph, between operators that inductor fuses."""

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

    problem = SMALL[spec.name]
    tensors = tuple(problem.tensors(torch.float32, device, rng))
    batch = [{0: torch.export.Dim("batch", min=2)}] + [None] * (len(tensors) - 1)
    program = torch.export.export(Net(), tensors, dynamic_shapes=(tuple(batch),))
    nodes = [n for n in program.graph.nodes if "fastconv" in str(n.target)]
    assert len(nodes) == 1
    more = (torch.cat([tensors[0]] * 3), *tensors[1:])
    torch.testing.assert_close(program.module()(*more), first(spec, problem)(*more))


@each_op
def test_forward_mode(spec, device, rng):
    """Tangents of every tensor, and of some, against the reference's."""
    problem = SMALL[spec.name]
    tensors = problem.tensors(torch.float64, device, rng)
    tangents = problem.tensors(torch.float64, device, rng)
    for mask in itertools.product([False, True], repeat=len(tensors)):
        pushed = []
        for function in (first(spec, problem), oracle(spec, problem)):
            with fwAD.dual_level():
                duals = [
                    fwAD.make_dual(t, d) if m else t
                    for t, d, m in zip(tensors, tangents, mask, strict=True)
                ]
                pushed.append(fwAD.unpack_dual(function(*duals)))
        (y, dy), (want, dwant) = pushed
        torch.testing.assert_close(y, want)
        assert (dy is None) == (dwant is None) == (not any(mask))
        if dy is not None:
            torch.testing.assert_close(dy, dwant)


@pytest.fixture
def no_warnings():
    """A missing batching rule only warns, and is slow: here it fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@each_op
def test_transforms(spec, device, rng, no_warnings):
    """grad, vjp, jvp, jacrev and jacfwd, against the same of the reference."""
    problem = SMALL[spec.name]
    tensors = problem.tensors(torch.float64, device, rng)
    tangents = tuple(problem.tensors(torch.float64, device, rng))
    ours, theirs = first(spec, problem), oracle(spec, problem)
    every = tuple(range(len(tensors)))

    def loss(function):
        return grad(lambda *t: (function(*t) ** 2).sum(), argnums=every)(*tensors)

    def pulled(function):
        y, back = vjp(function, *tensors)
        return back(torch.ones_like(y).cumsum(0))

    def second(function):
        return grad(lambda t: loss_of_grad(function, t))(tensors[0])

    def loss_of_grad(function, x):
        inner = grad(lambda t: (function(t, *tensors[1:]) ** 3).sum())(x)
        return (inner**2).sum()

    for transform in (
        loss,
        pulled,
        lambda f: jvp(f, tuple(tensors), tangents),
        lambda f: jacrev(f, argnums=every)(*tensors),
        lambda f: jacfwd(f, argnums=every)(*tensors),
        second,
    ):
        torch.testing.assert_close(transform(ours), transform(theirs))


@each_op
def test_vmap(spec, device, rng, no_warnings):
    """Over every subset of the tensors, along the first or the last axis, once and twice."""
    problem = SMALL[spec.name]
    tensors = problem.tensors(torch.float64, device, rng)
    run = first(spec, problem)
    for mask in itertools.product([False, True], repeat=len(tensors)):
        if not any(mask):
            continue
        for place in (0, -1):
            stacks = [
                torch.stack([t, 2 * t, t - 1], place) if m else t
                for t, m in zip(tensors, mask, strict=True)
            ]
            dims = tuple(place if m else None for m in mask)
            singles = [
                run(*[s.select(place, i) if m else s for s, m in zip(stacks, mask, strict=True)])
                for i in range(3)
            ]
            torch.testing.assert_close(vmap(run, dims)(*stacks), torch.stack(singles))
    twice = torch.stack([torch.stack([tensors[0], -tensors[0]])] * 3)
    got = vmap(vmap(lambda x: run(x, *tensors[1:])))(twice)
    torch.testing.assert_close(got[2, 1], run(-tensors[0], *tensors[1:]))


@pytest.mark.parametrize("spec", CONVS, ids=lambda spec: spec.name)
def test_per_sample_gradients(spec, device, rng, no_warnings):
    """vmap(grad), as differential privacy does, through a layer."""
    dims = int(spec.name[-2])
    layer = getattr(fastconv.nn, f"DepthwiseConv{dims}d")(3, 6, 3, padding=1)
    layer = layer.to(device, torch.float64)
    x = torch.randn(4, 3, *[5] * dims, dtype=torch.float64, generator=rng).to(device)
    params = dict(layer.named_parameters())

    def loss(params, x):
        return functional_call(layer, params, (x.unsqueeze(0),)).square().sum()

    together = vmap(grad(loss), (None, 0))(params, x)
    for i in range(4):
        alone = torch.autograd.grad(loss(params, x[i]), list(params.values()))
        for name, want in zip(params, alone, strict=True):
            torch.testing.assert_close(together[name][i], want)


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
    """A convolution keeps its input and weight; a rearrangement keeps nothing."""
    problem = spec.samples[0]
    tensors = leaves(problem.tensors(torch.float32, device, rng))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        first(spec, problem)(*tensors)
    kept = {t.data_ptr() for t in saved}
    if spec in CONVS:
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


@pytest.mark.cuda
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


@pytest.mark.cuda
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
