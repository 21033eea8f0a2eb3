# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Global average pooling, the sigmoid gate, and squeeze-and-excitation as a layer.

The generic tests go over the operators as well: parity, gradients, layouts, dispatch.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastconv
from fastconv.testing import LAYOUTS, each_isa

POOL = {
    1: (fastconv.global_avg_pool1d, F.adaptive_avg_pool1d, fastconv.nn.GlobalAvgPool1d),
    2: (fastconv.global_avg_pool2d, F.adaptive_avg_pool2d, fastconv.nn.GlobalAvgPool2d),
    3: (fastconv.global_avg_pool3d, F.adaptive_avg_pool3d, fastconv.nn.GlobalAvgPool3d),
}
SIZE = {1: (9,), 2: (7, 9), 3: (5, 7, 9)}


class PlainSqueezeExcitation(nn.Module):
    """The layer as one writes it without us, with torchvision's names."""

    def __init__(self, channels, squeezed, activation=nn.ReLU):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation, self.scale_activation = activation(), nn.Sigmoid()

    def forward(self, x):
        return x * self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x)))))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_squeeze_excitation_equals_its_twin(layout, activation, device):
    plain = PlainSqueezeExcitation(20, 5, activation).to(device).double()
    layer = fastconv.nn.SqueezeExcitation(20, 5, activation).to(device).double()
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(3, 20, 7, 6, dtype=torch.float64, device=device)
    results = []
    for module in (layer, plain):
        leaf = LAYOUTS[layout](x, 1).requires_grad_()
        y = module(leaf)
        y.sin().sum().backward()
        assert y.stride() == leaf.stride()
        results.append([y, leaf.grad, *(p.grad for p in module.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_squeeze_excitation_gradcheck():
    layer = fastconv.nn.SqueezeExcitation(3, 2, nn.SiLU).double()
    x = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x) and torch.autograd.gradgradcheck(layer, x)


def test_squeeze_excitation_reduces_by_16():
    layer = fastconv.nn.SqueezeExcitation(64)
    assert layer.fc1.weight.shape == (4, 64, 1, 1) and layer.fc2.weight.shape == (64, 4, 1, 1)
    with pytest.raises(ValueError, match="squeeze_channels must be positive"):
        fastconv.nn.SqueezeExcitation(8)
    with pytest.raises(RuntimeError, match="channels"):
        layer(torch.randn(2, 32, 9, 9))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_pooling_layers(dims, device):
    function, native, layer = POOL[dims]
    for shape in ((2, 6, *SIZE[dims]), (6, *SIZE[dims])):
        x = torch.randn(shape, device=device, dtype=torch.float64)
        assert torch.equal(layer()(x), function(x))
        torch.testing.assert_close(function(x), native(x, 1))


def tensor(*shape, dtype=torch.float32, device="cpu"):
    return torch.zeros(shape, dtype=dtype, device=device)


# What is wrong with the input, the error, and its message.
BAD_POOL = {
    "too_few_dims": (lambda d: tensor(*[4] * d), RuntimeError, r"Expected \dD \(unbatched\)"),
    "too_many_dims": (lambda d: tensor(*[4] * (d + 3)), RuntimeError, r"Expected \dD"),
    "ints": (lambda d: tensor(2, 3, *[4] * d, dtype=torch.int64), NotImplementedError, "Long"),
    "complex": (lambda d: tensor(2, 3, *[4] * d, dtype=torch.cfloat), NotImplementedError, "Comp"),
    "list": (lambda d: [1.0], TypeError, "argument 'input' must be Tensor, not list"),
}


@pytest.mark.parametrize("name", BAD_POOL)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_pooling_errors(dims, name, assert_raises):
    make, error, match = BAD_POOL[name]
    assert_raises(POOL[dims][0], (make(dims),), {}, error, match)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_an_average_of_nothing_is_nan(dims, device):
    """As torch's, as are results without channels or samples."""
    function, native, _ = POOL[dims]
    for shape in ((2, 3, *[4] * (dims - 1), 0), (2, 0, *[4] * dims), (0, 3, *[4] * dims)):
        x = torch.randn(shape, device=device, requires_grad=True)
        y = function(x)
        torch.testing.assert_close(y, native(x, 1), equal_nan=True)
        y.sum().backward()
        assert x.grad.shape == x.shape


X = tensor(2, 4, 5, 6)
BAD_GATE = {
    "input_is_a_list": ([1.0], tensor(2, 4), TypeError, "argument 'input' must be Tensor"),
    "gate_is_a_list": (X, [1.0], TypeError, "argument 'gate' must be Tensor"),
    "two_dims": (tensor(2, 4), tensor(2, 4), RuntimeError, "1 to 3 spatial dimensions"),
    "six_dims": (tensor(1, 1, 1, 1, 1, 1), tensor(1, 1), RuntimeError, "1 to 3 spatial"),
    "other_dtype": (X, tensor(2, 4).half(), RuntimeError, r"gate \(Half\) should have the same"),
    "other_channels": (X, tensor(2, 5), RuntimeError, r"expected gate of size \(N, C\)"),
    "other_batch": (X, tensor(1, 4), RuntimeError, r"expected gate of size \(N, C\)"),
    "of_the_inputs_size": (X, X, RuntimeError, r"expected gate of size \(N, C\)"),
    "of_another_rank": (X, tensor(2, 4, 1), RuntimeError, r"expected gate of size \(N, C\)"),
    "on_another_device": (X, tensor(2, 4, device="meta"), RuntimeError, "same device"),
    "ints": (X.long(), tensor(2, 4).long(), NotImplementedError, "Long"),
}


@pytest.mark.parametrize("name", BAD_GATE)
def test_gate_errors(name, assert_raises):
    x, gate, error, match = BAD_GATE[name]
    assert_raises(fastconv.sigmoid_gate, (x, gate), {}, error, match)


def test_a_long_mean_is_a_mean_of_float32(device):
    """In bfloat16 a running sum would stop growing at 256."""
    for layout in ("contiguous", "channels_last"):
        x = LAYOUTS[layout](torch.full((1, 3, 150, 150), 3.0, dtype=torch.bfloat16), 1).to(device)
        for isa in each_isa(device):
            assert torch.equal(fastconv.global_avg_pool2d(x).cpu(), x[..., :1, :1].cpu()), isa


def test_the_gate_at_its_ends(device):
    """Neither value nor gradient loses its digits, or its zeros, where the sigmoid is flat."""
    gates = [0.0, -0.0, 1e-30, 20.0, -20.0, 80.0, -80.0, 86.9, -86.9, 87.1, -87.1, 104.0, -104.0]
    gates += [math.inf, -math.inf]
    gate = torch.tensor([gates], device=device).requires_grad_()
    x = torch.full((1, len(gates), 3), 2.0, device=device)
    exact = gate.detach().double()
    want, e = exact.sigmoid(), (-exact.abs()).exp()
    slope = e / (1 + e) ** 2
    smallest = torch.finfo(torch.float32).tiny
    for isa in each_isa(device):
        y = fastconv.sigmoid_gate(x, gate)
        assert y[0, -1].tolist() == [0, 0, 0] and y[0, -2].tolist() == [2, 2, 2], isa
        torch.testing.assert_close(y[..., 0].double(), 2 * want, rtol=4e-7, atol=smallest)
        (grad,) = torch.autograd.grad(y.sum(), gate)
        torch.testing.assert_close(grad.double(), 6 * slope, rtol=8e-7, atol=8 * smallest)
        nan = fastconv.sigmoid_gate(x[:, :1], torch.full((1, 1), math.nan, device=device))
        assert nan.isnan().all(), isa


@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_one_gradient_of_the_gate(wanted, device):
    x = torch.randn(2, 5, 4, 3, dtype=torch.float64, device=device, requires_grad=wanted[0])
    gate = torch.randn(2, 5, dtype=torch.float64, device=device, requires_grad=wanted[1])
    fastconv.sigmoid_gate(x, gate).sin().sum().backward()
    ours = (x.grad, gate.grad)
    x.grad = gate.grad = None
    (x * gate.sigmoid()[..., None, None]).sin().sum().backward()
    for got, want, is_wanted in zip(ours, (x.grad, gate.grad), wanted, strict=True):
        assert (got is not None) == is_wanted
        if is_wanted:
            torch.testing.assert_close(got, want)


def test_autocast_takes_the_wider_type():
    """As torch's multiplication: a gate of a narrow layer on an input that was left wide."""
    x, gate = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        y = fastconv.sigmoid_gate(x, gate.bfloat16())
        assert y.dtype == (x * gate.bfloat16().sigmoid()).dtype == torch.float32
        assert fastconv.sigmoid_gate(x.bfloat16(), gate.bfloat16()).dtype == torch.bfloat16
        assert fastconv.nn.SqueezeExcitation(4, 2)(x).dtype == torch.float32
