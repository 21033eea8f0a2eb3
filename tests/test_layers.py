# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Layers: drop-in replacements of torch.nn's, in weights, in arguments and in results."""

import copy
import inspect
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastconv
import fastconv.nn
from fastconv import reference

OURS = {
    1: fastconv.nn.DepthwiseConv1d,
    2: fastconv.nn.DepthwiseConv2d,
    3: fastconv.nn.DepthwiseConv3d,
}
TORCHS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
SIZE = {1: (19,), 2: (10, 13), 3: (7, 8, 9)}
every_rank = pytest.mark.parametrize("dims", [1, 2, 3], ids=["1d", "2d", "3d"])

ARGUMENTS = {
    "defaults": {"kernel_size": 3},
    "strided": {"kernel_size": 3, "stride": 2, "padding": 1},
    "dilated": {"kernel_size": 2, "dilation": 3, "padding": 2, "bias": False},
    "same": {"kernel_size": 4, "padding": "same", "dilation": 2},
    "valid": {"kernel_size": 3, "padding": "valid"},
    "reflect": {"kernel_size": 5, "padding": 2, "padding_mode": "reflect"},
    "replicate": {"kernel_size": 3, "padding": 3, "stride": 2, "padding_mode": "replicate"},
    "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    "circular_same": {"kernel_size": 4, "padding": "same", "padding_mode": "circular"},
    "float64": {"kernel_size": 3, "dtype": torch.float64},
}


@every_rank
@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("multiplier", [1, 2])
def test_conv_is_a_torch_conv(dims, name, multiplier, device):
    """Weights go both ways; results and gradients agree."""
    kwargs = ARGUMENTS[name]
    ours = OURS[dims](6, 6 * multiplier, device=device, **kwargs)
    theirs = TORCHS[dims](6, 6 * multiplier, groups=6, device=device, **kwargs)
    assert isinstance(ours, TORCHS[dims])
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(TORCHS[dims](6, 6 * multiplier, groups=6, **kwargs).state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    dtype = kwargs.get("dtype", torch.float32)
    x = torch.randn(2, 6, *SIZE[dims], dtype=dtype, device=device)
    leaves = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    for layer, leaf in zip((ours, theirs), leaves, strict=True):
        layer(leaf).square().sum().backward()
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(ours(x[0]), theirs(x[0]))


@every_rank
@pytest.mark.parametrize("name", ARGUMENTS)
def test_conv_repr_and_attributes(dims, name):
    kwargs = ARGUMENTS[name]
    ours = OURS[dims](6, 12, **kwargs)
    theirs = TORCHS[dims](6, 12, groups=6, **kwargs)
    assert repr(ours) == repr(theirs).replace("Conv", "DepthwiseConv")
    for attribute in ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"):
        assert getattr(ours, attribute) == getattr(theirs, attribute), attribute


@every_rank
def test_conv_takes_torchs_arguments(dims):
    """By position too: groups is the seventh argument and defaults to in_channels."""
    ours = inspect.signature(OURS[dims].__init__).parameters
    theirs = inspect.signature(TORCHS[dims].__init__).parameters
    assert list(ours) == list(theirs)
    assert OURS[dims](4, 8, 3, 1, 0, 1, 4).groups == 4
    assert OURS[dims](4, 8, 3).weight.shape == (8, 1, *[3] * dims)
    torch.manual_seed(1)
    ours = OURS[dims](4, 8, 3)
    torch.manual_seed(1)
    theirs = TORCHS[dims](4, 8, 3, groups=4)
    assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)


@every_rank
@pytest.mark.parametrize("groups", [1, 2, 12, 0])
def test_conv_is_depthwise_only(dims, groups):
    with pytest.raises(ValueError, match="groups"):
        OURS[dims](6, 12, 3, groups=groups)


@every_rank
def test_conv_rejects_what_torch_rejects(dims):
    with pytest.raises(ValueError, match="out_channels"):
        OURS[dims](4, 6, 3)
    with pytest.raises(ValueError, match=r"[Ii]nvalid padding"):
        OURS[dims](4, 4, 3, padding="full")
    with pytest.raises(ValueError, match="padding_mode"):
        OURS[dims](4, 4, 3, padding_mode="mirror")
    if dims > 1:
        with pytest.raises(ValueError, match=r"[Ii]nvalid padding"):
            OURS[dims](4, 4, 3, padding="causal")


@every_rank
def test_conv_has_the_rank_of_its_class(dims):
    for other in {1, 2, 3} - {dims}:
        x = torch.zeros(1, 4, *[3] * other)
        for layer, more in ((OURS[dims], {}), (TORCHS[dims], {"groups": 4})):
            with pytest.raises(RuntimeError):
                layer(4, 4, (1,) * other, (1,), (0,), (1,), **more)(x)


@every_rank
def test_conv_paddings_that_torch_lacks(dims):
    x = torch.randn(2, 3, *SIZE[dims], dtype=torch.float64)
    oracle = getattr(reference, f"depthwise_conv{dims}d")
    paddings = ["same", ((2, 1),) * dims] + (["causal"] if dims == 1 else [])
    for padding in paddings:
        for stride in (1, 2, 3):
            layer = OURS[dims](3, 6, 3, stride, padding, dtype=torch.float64)
            want = oracle(x, layer.weight, layer.bias, stride, padding)
            torch.testing.assert_close(layer(x), want)
            assert f"padding={padding}" in repr(layer)


def test_causal_layer_does_not_see_the_future():
    layer = fastconv.nn.DepthwiseConv1d(2, 2, 4, padding="causal", dilation=2)
    x = torch.randn(1, 2, 20)
    y = layer(x)
    x[..., 11:] += 1
    changed = (layer(x) != y).any(1)[0]
    assert y.shape == x.shape and not changed[:11].any() and changed[11:].all()


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_causal_with_a_padding_mode(mode):
    layer = fastconv.nn.DepthwiseConv1d(2, 2, 4, padding="causal", padding_mode=mode)
    x = torch.randn(1, 2, 9)
    want = F.conv1d(F.pad(x, (3, 0), mode=mode), layer.weight, layer.bias, groups=2)
    torch.testing.assert_close(layer(x), want)


def test_separable_conv(device):
    layer = fastconv.nn.DepthwiseSeparableConv2d(
        6, 10, 3, stride=2, padding=1, channel_multiplier=2, bias=False
    ).to(device)
    assert [*layer.state_dict()] == ["depthwise.weight", "pointwise.weight"]
    x = torch.randn(2, 6, 9, 11, device=device)
    hidden = F.conv2d(x, layer.depthwise.weight, None, 2, 1, groups=6)
    torch.testing.assert_close(layer(x), F.conv2d(hidden, layer.pointwise.weight))
    assert layer(x).shape == (2, 10, 5, 6)
    layer(x).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def seed_depth_pool(inputs, pool_size):
    """The composition that DepthPool2d replaces, chunk by chunk."""
    inputs = F.max_pool2d(inputs, kernel_size=pool_size)
    chunks = torch.chunk(inputs, chunks=inputs.shape[1] // pool_size, dim=1)
    return torch.cat([torch.max(c, dim=1, keepdim=True).values for c in chunks], dim=1)


@pytest.mark.parametrize("pool_size", [1, 2, 3, 4])
def test_depth_pool_follows_the_chunk_rule(pool_size, device):
    """Whatever the remainders of channels, height and width."""
    layer = fastconv.nn.DepthPool2d(pool_size)
    for channels in range(pool_size, 23):
        x = torch.randn(2, channels, 7, 9, device=device)
        for arranged in (x, x.contiguous(memory_format=torch.channels_last)):
            assert torch.equal(layer(arranged), seed_depth_pool(x, pool_size)), channels


def test_depth_pool_of_seven_channels(device):
    x = torch.randn(1, 7, 32, 32, device=device, requires_grad=True)
    y = fastconv.nn.DepthPool2d(2)(x)
    assert y.shape == (1, 3, 16, 16)
    y.sum().backward()
    ours, x.grad = x.grad, None
    seed_depth_pool(x, 2).sum().backward()
    assert torch.equal(ours, x.grad)
    assert torch.equal(fastconv.nn.DepthPool2d()(x[0]), y[0])
    assert "pool_size=2" in repr(fastconv.nn.DepthPool2d())


def test_depth_pool_errors():
    for shape, pool in (((1, 3, 8, 8), 4), ((1, 8, 3, 8), 4), ((1, 8, 8, 3), 4), ((8, 8), 2)):
        with pytest.raises(RuntimeError, match="DepthPool2d"):
            fastconv.nn.DepthPool2d(pool)(torch.zeros(shape))


def test_depth_max_pool_layer():
    x = torch.randn(2, 9, 7, 6)
    kwargs = {"stride": (2, 1, 2), "padding": (1, 0, 1), "dilation": 1, "ceil_mode": True}
    layer = fastconv.nn.DepthMaxPool((3, 2, 2), **kwargs, return_indices=True)
    values, indices = layer(x)
    want = F.max_pool3d(x.unsqueeze(1), (3, 2, 2), **kwargs, return_indices=True)
    assert torch.equal(values, want[0].squeeze(1)) and torch.equal(indices, want[1].squeeze(1))
    assert "kernel_size=(3, 2, 2)" in repr(layer) and "ceil_mode=True" in repr(layer)
    assert torch.equal(fastconv.nn.DepthMaxPool(3)(x), x.unflatten(1, (3, 3)).amax(2))


REARRANGEMENTS = {
    "PixelShuffle": ((2,), (2, 12, 3, 4)),
    "PixelUnshuffle": ((2,), (2, 3, 4, 6)),
    "ChannelShuffle": ((3,), (2, 12, 3, 4)),
}


@pytest.mark.parametrize("name", REARRANGEMENTS)
def test_shuffles_are_torch_layers(name, device):
    args, shape = REARRANGEMENTS[name]
    ours, theirs = getattr(fastconv.nn, name)(*args), getattr(nn, name)(*args)
    assert isinstance(ours, type(theirs)) and repr(ours) == repr(theirs)
    for dtype in (torch.float32, torch.int32, torch.bool):
        x = torch.randn(shape, device=device).to(dtype)
        assert torch.equal(ours(x), theirs(x))


def test_pixel_shuffle_by_a_pair():
    x = torch.randn(2, 12, 3, 4)
    y = fastconv.nn.PixelShuffle((3, 2))(x)
    assert torch.equal(y, reference.depth_to_space(x, (3, 2), "crd"))
    assert torch.equal(fastconv.nn.PixelUnshuffle((3, 2))(y), x)


@pytest.mark.parametrize("order", ["dcr", "crd", "focus"])
def test_space_to_depth_layers(order):
    x = torch.randn(2, 3, 4, 6)
    there = fastconv.nn.SpaceToDepth((2, 3), order)
    back = fastconv.nn.DepthToSpace((2, 3), order)
    assert torch.equal(there(x), reference.space_to_depth(x, (2, 3), order))
    assert torch.equal(back(there(x)), x)
    assert order in repr(there) and "(2, 3)" in repr(back)


EVERY_LAYER = {
    "DepthwiseConv1d": ((4, 8, 3), {"padding": "causal"}, (2, 4, 9)),
    "DepthwiseConv2d": ((4, 8, 3), {"padding": ((1, 0), (2, 1))}, (2, 4, 9, 6)),
    "DepthwiseConv3d": ((4, 8, 3), {"padding": 1}, (2, 4, 5, 4, 6)),
    "DepthwiseConvTranspose1d": ((4, 8, 3), {"stride": 2}, (2, 4, 9)),
    "DepthwiseConvTranspose2d": ((4, 8, 3), {"output_padding": 1, "stride": 2}, (2, 4, 5, 6)),
    "DepthwiseConvTranspose3d": ((4, 8, 2), {"padding": 1, "bias": False}, (2, 4, 5, 4, 6)),
    "DepthwiseSeparableConv1d": ((4, 6, 3), {}, (2, 4, 9)),
    "DepthwiseSeparableConv2d": ((4, 6, 3), {}, (2, 4, 9, 6)),
    "DepthwiseSeparableConv3d": ((4, 6, 3), {"activation": "gelu"}, (2, 4, 5, 4, 6)),
    "GlobalAvgPool1d": ((), {}, (2, 4, 9)),
    "GlobalAvgPool2d": ((), {}, (2, 4, 9, 6)),
    "GlobalAvgPool3d": ((), {}, (2, 4, 3, 4, 6)),
    "SqueezeExcitation": ((4, 2), {}, (2, 4, 9, 6)),
    "DepthMaxPool": ((2,), {}, (2, 4, 9)),
    "DepthPool2d": ((2,), {}, (2, 4, 9, 6)),
    "SpaceToDepth": ((2,), {}, (2, 4, 8, 6)),
    "DepthToSpace": ((2,), {}, (2, 4, 8, 6)),
    "PixelShuffle": ((2,), {}, (2, 4, 8, 6)),
    "PixelUnshuffle": ((2,), {}, (2, 4, 8, 6)),
    "ChannelShuffle": ((2,), {}, (2, 4, 8, 6)),
}


def test_every_layer_is_listed():
    assert set(EVERY_LAYER) == set(fastconv.nn.__all__)


@pytest.mark.parametrize("name", EVERY_LAYER)
def test_copies_and_pickles(name):
    args, kwargs, shape = EVERY_LAYER[name]
    layer = getattr(fastconv.nn, name)(*args, **kwargs)
    x = torch.randn(shape)
    stream = io.BytesIO()
    torch.save(layer, stream)
    stream.seek(0)
    for twin in (
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(stream, weights_only=False),
    ):
        assert torch.equal(twin(x), layer(x)) and repr(twin) == repr(layer)


@pytest.mark.parametrize("name", EVERY_LAYER)
def test_layers_compile(name):
    args, kwargs, shape = EVERY_LAYER[name]
    layer = getattr(fastconv.nn, name)(*args, **kwargs)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (2, 3):
        x = torch.randn(n, *shape[1:])
        torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize("name", sorted(set(EVERY_LAYER) - {"DepthPool2d"}))
def test_layers_trace_with_fx(name):
    """As calls of our functions, whole.  (DepthPool2d looks at sizes, which torch.fx forbids.)"""
    args, kwargs, shape = EVERY_LAYER[name]
    layer = getattr(fastconv.nn, name)(*args, **kwargs)
    traced = torch.fx.symbolic_trace(nn.Sequential(layer, nn.ReLU()))
    called = [n.target for n in traced.graph.nodes if n.op == "call_function"]
    assert len(called) == (2 if name in {"SqueezeExcitation", "DepthwiseSeparableConv1d"} else 1)
    assert all(function.__module__.startswith("fastconv.") for function in called)
    x = torch.randn(shape)
    assert torch.equal(pickle.loads(pickle.dumps(traced))(x), layer(x).relu())


@pytest.mark.parametrize("name", [name for name in EVERY_LAYER if "DepthwiseConv" in name])
def test_meta_and_half_layers(name):
    args, kwargs, shape = EVERY_LAYER[name]
    layer = getattr(fastconv.nn, name)(*args, **kwargs, device="meta")
    assert layer(torch.empty(shape, device="meta")).is_meta
    half = getattr(fastconv.nn, name)(*args, **kwargs).to(torch.bfloat16)
    assert half(torch.randn(shape, dtype=torch.bfloat16)).dtype == torch.bfloat16
