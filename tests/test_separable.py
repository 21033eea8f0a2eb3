# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Depthwise separable convolutions against the same layers of torch.nn."""

import pytest
import torch
from torch import nn

import fastconv
from fastconv.testing import LAYOUTS

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
SIZE = {1: (19,), 2: (9, 11), 3: (4, 5, 6)}
ACTIVATION = {"relu": nn.ReLU, "relu6": nn.ReLU6, "silu": nn.SiLU, "gelu": nn.GELU}
ACTIVATION["hardswish"] = nn.Hardswish


def ours(dims, *args, **kwargs):
    return getattr(fastconv.nn, f"DepthwiseSeparableConv{dims}d")(*args, **kwargs)


def twin(dims, layer, multiplier, activation=None, norm=False, **kwargs):
    """The layers of torch.nn, with the parameters of ours."""
    conv, point = layer.depthwise, layer.pointwise
    hidden = conv.in_channels * multiplier
    parts = {
        "depthwise": CONV[dims](
            conv.in_channels, hidden, 3, groups=conv.in_channels, bias=not norm, **kwargs
        )
    }
    for name, channels in (("depthwise", hidden), ("pointwise", point.out_channels)):
        if name == "pointwise":
            parts[name] = CONV[dims](hidden, channels, 1, bias=not norm)
        if norm:
            parts[f"{name}_norm"] = NORM[dims](channels)
        if activation:
            parts[f"{name}_activation"] = ACTIVATION[activation]()
    plain = nn.Sequential()
    for name, part in parts.items():
        plain.add_module(name, part)
    plain.to(next(layer.parameters())).load_state_dict(layer.state_dict())
    return plain


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("activation", [None, *ACTIVATION])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_equals_its_twin(dims, activation, norm, device):
    kwargs = {"stride": 2, "padding": 1, "dilation": 1}
    options = {"norm": NORM[dims] if norm else None, "activation": activation}
    layer = ours(dims, 6, 10, 3, channel_multiplier=2, **kwargs, **options).to(device).double()
    plain = twin(dims, layer, 2, activation, norm, **kwargs)
    for layout in ("contiguous", "channels_last"):
        x = torch.randn(2, 6, *SIZE[dims], device=device, dtype=torch.float64)
        results = []
        for module in (layer, plain):
            leaf = LAYOUTS[layout](x, 1).requires_grad_()
            module.zero_grad()
            y = module(leaf)
            y.sin().sum().backward()
            results.append([y, leaf.grad, *(p.grad for p in module.parameters())])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_gradcheck(dims):
    layer = ours(dims, 2, 3, 2, channel_multiplier=2, activation="silu").double()
    x = torch.randn(2, 2, *[3] * dims, dtype=torch.float64, requires_grad=True)

    def run(x, *parameters):
        named = dict(zip(dict(layer.named_parameters()), parameters, strict=True))
        return torch.func.functional_call(layer, named, x)

    assert torch.autograd.gradcheck(run, (x, *layer.parameters()))


def count(layer):
    return sum(p.numel() for p in layer.parameters())


def test_parameter_counts():
    """16 to 32 channels without biases, and 10 to 32 with them, against plain convolutions."""
    assert count(nn.Conv2d(16, 32, 3, bias=False)) == 4608
    assert count(fastconv.nn.DepthwiseSeparableConv2d(16, 32, 3, bias=False)) == 656
    assert count(nn.Conv2d(10, 32, 3)) == 2912
    layer = fastconv.nn.DepthwiseSeparableConv2d(10, 32, 3)
    assert count(layer) == 452
    assert layer(torch.rand(1, 10, 128, 128)).shape == (1, 32, 126, 126)
    assert fastconv.nn.DepthwiseSeparableConv2d(16, 32, 3, padding=1)(
        torch.randn(2, 16, 23, 23)
    ).shape == (2, 32, 23, 23)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_channels_last_stays(dims, norm, device):
    """No layer gives or gets another layout, in either direction."""
    if norm and dims == 1:
        pytest.skip("nn.BatchNorm1d has no channels-last")
    torch.set_num_threads(2)  # with one, torch makes small pointwise convolutions contiguous
    layer = ours(dims, 8, 12, 3, padding=1, norm=NORM[dims] if norm else None).to(device)
    seen = []

    def innermost(t):
        seen.append(t.stride(1) == 1)

    for part in layer:
        part.register_forward_hook(lambda m, args, y: (innermost(args[0]), innermost(y), None)[-1])
    x = LAYOUTS["channels_last"](torch.randn(2, 8, *SIZE[dims], device=device), 1)
    y = layer(x.requires_grad_())
    y.backward(torch.ones_like(y))
    innermost(x.grad)
    assert len(seen) >= 5 and all(seen)


def test_bias_where_no_norm_follows():
    make = fastconv.nn.DepthwiseSeparableConv2d
    assert make(4, 8, 3).depthwise.bias is not None
    assert make(4, 8, 3, norm=nn.BatchNorm2d).depthwise.bias is None
    assert make(4, 8, 3, norm=nn.BatchNorm2d, bias=True).pointwise.bias is not None
    double = make(4, 8, 3, norm=nn.BatchNorm2d, dtype=torch.float64)
    assert {t.dtype for t in double.parameters()} == {torch.float64}


def test_unknown_activation():
    with pytest.raises(ValueError, match=r"DepthwiseSeparableConv2d: unknown activation 'tanh'"):
        fastconv.nn.DepthwiseSeparableConv2d(4, 8, 3, activation="tanh")
