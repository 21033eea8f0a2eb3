# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Export to ONNX: every operator and layer gives the same in onnxruntime."""

import contextlib
import inspect
import io
import sys
import warnings

import pytest
import torch
from torch import nn

import fastconv
import fastconv.nn
from fastconv.testing import OP_SPECS, as_tuple, assert_within

OWN = {"Conv", "ConvTranspose", "DepthToSpace", "SpaceToDepth", "MaxPool", "Reshape", "Transpose"}
OWN |= {"GlobalAveragePool", "Sigmoid"}


@pytest.fixture
def onnx(library):
    """Exports and runs a model: onnx(model, args, dynamic_shapes)."""
    for name in ("onnx", "onnxscript"):
        library(name)
    runtime = library("onnxruntime")

    def export(model, args, dynamic_shapes=None):
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model.eval(),
                args,
                dynamo=True,
                verbose=False,
                dynamic_shapes=dynamic_shapes,
                custom_translation_table=fastconv.onnx_translation_table(),
            )
        kinds = [node.op_type for node in program.model.graph]
        assert all(node.domain == "" for node in program.model.graph), "not ONNX's own operators"
        session = runtime.InferenceSession(program.model_proto.SerializeToString())
        names = [i.name for i in session.get_inputs()]

        def run(*tensors):
            feed = {n: t.numpy() for n, t in zip(names, tensors, strict=True)}
            return [torch.from_numpy(y) for y in session.run(None, feed)]

        return run, kinds

    return export


class Samples(nn.Module):
    """Every problem of one operator, in one graph."""

    def __init__(self, spec, problems):
        super().__init__()
        self.spec, self.problems = spec, problems

    def forward(self, lists):
        return [
            as_tuple(self.spec.op(*tensors, **problem.kwargs))
            for problem, tensors in zip(self.problems, lists, strict=True)
        ]


@pytest.mark.parametrize("spec", OP_SPECS, ids=lambda spec: spec.name)
def test_every_operator(spec, onnx, rng):
    """Problems of the parity tests, within the same bounds."""
    problems, lists = [], []
    for problem in spec.samples:
        tensors = problem.tensors(torch.float32, "cpu", rng)
        small = sum(t.numel() for t in tensors if t is not None) < 200_000
        if small and all(t is None or t.numel() for t in tensors):
            problems.append(problem)
            lists.append(tensors)
    count = 25 if "conv" in spec.name else len(problems)  # each takes a tenth of a second to export
    step = -(-len(problems) // count)
    problems, lists = problems[::step], lists[::step]
    run, kinds = onnx(Samples(spec, problems), (lists,))
    assert OWN & set(kinds)
    outputs = iter(run(*[t for tensors in lists for t in tensors if t is not None]))
    for problem, tensors in zip(problems, lists, strict=True):
        want, bound = spec.expected(problem, tensors, torch.float32)
        assert_within(next(outputs), want, 2 * bound, problem.name)
        for other in as_tuple(spec.op(*tensors, **problem.kwargs))[1:]:
            assert torch.equal(next(outputs), other), problem.name
    assert next(outputs, None) is None


ORDERS = ("crd", "dcr", "focus")


class Rearranged(nn.Module):
    def forward(self, x):
        deep = [fastconv.space_to_depth(x, b, o) for o in ORDERS for b in (2, (1, 2))]
        back = [fastconv.depth_to_space(y, 2, o) for o, y in zip(ORDERS, deep[::2], strict=True)]
        shuffled = [fastconv.pixel_shuffle(x, 2), fastconv.pixel_unshuffle(x, 2)]
        return [*deep, *back, *shuffled, fastconv.channel_shuffle(x, 4)]


class Convolved(nn.Module):
    """Padding that depends on the size, unequal padding, activations, transposition."""

    def __init__(self):
        super().__init__()
        self.same = fastconv.nn.DepthwiseConv2d(8, 16, (3, 4), stride=(2, 3), padding="same")
        self.uneven = fastconv.nn.DepthwiseConv2d(8, 8, 3, padding=((0, 2), (1, 0)))
        self.up = fastconv.nn.DepthwiseConvTranspose2d(8, 8, 4, 2, 1, output_padding=1)
        self.mirror = fastconv.nn.DepthwiseConv2d(8, 8, 3, padding=1, padding_mode="reflect")

    def forward(self, x):
        names = ("relu", "relu6", "hardswish", "silu", "gelu")
        weight = self.uneven.weight
        active = [fastconv.depthwise_conv2d(x, weight, padding=1, activation=a) for a in names]
        return [self.same(x), self.uneven(x), self.up(x), self.mirror(x), *active]


class Pooled(nn.Module):
    def forward(self, x):
        pool = fastconv.depth_max_pool
        pairs = (*pool(x, 3, 2, 1, return_indices=True), *pool(x, (2, 3, 3), return_indices=True))
        return [*pairs, pool(x, (3, 2, 2), 2, 1), pool(x, 3, ceil_mode=True)]


class Squeezed(nn.Module):
    """Gates with and without dimensions of space, of images with and without a batch."""

    def forward(self, x):
        mean = fastconv.global_avg_pool2d(x)
        row = fastconv.global_avg_pool1d(x.flatten(2))
        single = fastconv.global_avg_pool2d(x[0])
        flat = fastconv.sigmoid_gate(x, mean.flatten(1))
        return [mean, row, single, flat, fastconv.sigmoid_gate(x, mean)]


@pytest.mark.parametrize("model", [Rearranged, Convolved, Pooled, Squeezed])
def test_sizes_that_are_known_later(model, onnx):
    """One graph for every batch and image size."""
    net = model().eval()
    x = torch.randn(2, 8, 12, 16)
    sizes = {"x": {0: torch.export.Dim("n"), 2: 2 * torch.export.Dim("h", max=99)}}
    sizes["x"][3] = 2 * torch.export.Dim("w", max=99)
    if model is Pooled:
        sizes = {"x": {0: torch.export.Dim("n"), 2: torch.export.Dim("h", min=6, max=99)}}
    run, _ = onnx(net, (x,), sizes)
    for shape in ((2, 8, 12, 16), (3, 8, 22, 16 if model is Pooled else 30)):
        x = torch.randn(shape)
        with torch.no_grad():
            want = net(x)
        for got, y in zip(run(x), want, strict=True):
            torch.testing.assert_close(got, y, rtol=1e-5, atol=1e-5)


def test_integers_are_rearranged(onnx):
    """Runtimes have DepthToSpace for floats alone."""
    x = torch.arange(2 * 8 * 4 * 4, dtype=torch.int32).view(2, 8, 4, 4)
    run, kinds = onnx(Rearranged(), (x,))
    assert "DepthToSpace" not in kinds
    for got, want in zip(run(x), Rearranged()(x), strict=True):
        assert torch.equal(got, want)


def test_operators_of_onnx_are_used(onnx):
    """Where ONNX has the very operator, runtimes have a kernel for it."""

    def kinds_of(function):
        class Net(nn.Module):
            def forward(self, x):
                return function(x)

        return onnx(Net(), (torch.randn(1, 8, 4, 4),))[1]

    assert kinds_of(lambda x: fastconv.pixel_shuffle(x, 2)) == ["DepthToSpace"]
    assert kinds_of(lambda x: fastconv.depth_to_space(x, 2)) == ["DepthToSpace"]
    assert kinds_of(lambda x: fastconv.space_to_depth(x, 2)) == ["SpaceToDepth"]
    layer = fastconv.nn.DepthwiseConv2d(8, 8, 3, 2, padding="same")
    assert onnx(layer, (torch.randn(1, 8, 5, 6),))[1] == ["Conv"]


LAYERS = {
    "ChannelShuffle": ((2,), (1, 8, 4, 4)),
    "DepthMaxPool": ((2,), (1, 8, 4, 4)),
    "DepthPool2d": ((2,), (1, 7, 5, 4)),
    "DepthToSpace": ((2, "focus"), (1, 8, 4, 4)),
    "DepthwiseConv1d": ((4, 8, 4, 1, "causal"), (2, 4, 9)),
    "DepthwiseConv2d": ((4, 4, 3, 2, "same"), (2, 4, 9, 8)),
    "DepthwiseConv3d": ((4, 4, 3, 1, 1), (2, 4, 5, 6, 7)),
    "DepthwiseConvTranspose1d": ((4, 4, 3, 2), (4, 9)),
    "DepthwiseConvTranspose2d": ((4, 8, 3, 2, 1), (2, 4, 5, 6)),
    "DepthwiseConvTranspose3d": ((4, 4, 2, 2), (2, 4, 3, 4, 5)),
    "DepthwiseSeparableConv1d": ((4, 6, 3, 1, "causal"), (2, 4, 9)),
    "DepthwiseSeparableConv2d": ((4, 6, 3), (2, 4, 5, 6)),
    "DepthwiseSeparableConv3d": ((4, 6, 2), (2, 4, 3, 4, 5)),
    "GlobalAvgPool1d": ((), (2, 4, 9)),
    "GlobalAvgPool2d": ((), (2, 4, 5, 6)),
    "GlobalAvgPool3d": ((), (4, 3, 4, 5)),
    "PixelShuffle": ((2,), (1, 8, 4, 4)),
    "PixelUnshuffle": ((2,), (1, 8, 4, 4)),
    "SpaceToDepth": ((2, "crd"), (1, 8, 4, 4)),
    "SqueezeExcitation": ((8, 2), (2, 8, 5, 6)),
}


def test_every_layer_is_listed():
    assert set(LAYERS) <= set(fastconv.nn.__all__)
    missing = set(fastconv.nn.__all__) - set(LAYERS)
    assert not missing, f"no ONNX test of {missing}"


def test_every_layer(onnx):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            built = [getattr(fastconv.nn, name)(*args) for name, (args, _) in LAYERS.items()]
            self.layers = nn.ModuleList(built)

        def forward(self, inputs):
            return [layer(x) for layer, x in zip(self.layers, inputs, strict=True)]

    net = Net().eval()
    inputs = [torch.randn(shape) for _, shape in LAYERS.values()]
    run, _ = onnx(net, (inputs,))
    with torch.no_grad():
        want = net(inputs)
    for name, got, y in zip(LAYERS, run(*inputs), want, strict=True):
        torch.testing.assert_close(got, y, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


class Decoder(nn.Module):
    """A step of a decoder; it gives the state back where the model can only return it."""

    def __init__(self, weight, **kwargs):
        super().__init__()
        self.weight, self.kwargs = nn.Parameter(weight, requires_grad=False), kwargs

    def forward(self, x, state):
        return fastconv.causal_conv1d_update(x, state, self.weight, **self.kwargs), state


@pytest.mark.parametrize("length", [(), (1,), (7,)], ids=str)
def test_state_of_a_decoder(length, onnx):
    """The state is an input and an output; what the exported step returns goes into the next."""
    bias = torch.randn(8)
    for weight, kwargs in (
        (torch.randn(8, 4), {"activation": "silu"}),
        (torch.randn(8, 1, 3), {"dilation": 2, "bias": bias}),
    ):
        model = Decoder(weight, **kwargs)
        n = torch.export.Dim("n")
        args = (torch.randn(2, 8, *length), torch.zeros(2, 8, 5))
        run, _ = onnx(model, args, {"x": {0: n}, "state": {0: n}})
        state = torch.randn(3, 8, 5)
        exported = state.clone()
        for _ in range(3):
            x = torch.randn(3, 8, *length)
            want, _ = model(x, state)  # updates the state
            got, exported = run(x, exported)
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
            assert torch.equal(exported, state)


def test_table_covers_every_operator():
    """Those that a forward pass calls and that write to none of their arguments."""
    pytest.importorskip("onnxscript", reason="needs onnxscript")
    names = torch._C._dispatch_get_all_op_names()
    ours = {n.split("::")[1] for n in names if n.startswith("fastconv::")}
    public = {name for name in ours if not name.startswith("_")} - {"causal_conv1d_update"}
    assert {op.name().split("::")[1] for op in fastconv.onnx_translation_table()} == public


def test_without_onnxscript(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.delitem(sys.modules, "fastconv._onnx", raising=False)
    with pytest.raises(ModuleNotFoundError, match="pip install onnx onnxscript"):
        fastconv.onnx_translation_table()
    assert "custom_translation_table" in inspect.getdoc(fastconv.onnx_translation_table)
