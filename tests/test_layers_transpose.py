# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Transposed convolutions as layers: torch's, in weights, in arguments and in results."""

import inspect

import pytest
import torch
from torch import nn

import fastconv.nn

OURS = {n: getattr(fastconv.nn, f"DepthwiseConvTranspose{n}d") for n in (1, 2, 3)}
TORCHS = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
SIZE = {1: (11,), 2: (6, 9), 3: (4, 5, 6)}
every_rank = pytest.mark.parametrize("dims", [1, 2, 3], ids=["1d", "2d", "3d"])

ARGUMENTS = {
    "defaults": {"kernel_size": 3},
    "strided": {"kernel_size": 4, "stride": 2, "padding": 1},
    "output_padding": {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    "dilated": {"kernel_size": 2, "dilation": 3, "padding": 2, "bias": False},
    "lists": {"kernel_size": 3, "stride": (2,), "padding": (1,), "output_padding": (1,)},
    "float64": {"kernel_size": 3, "dtype": torch.float64},
}


@every_rank
@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("multiplier", [1, 2])
def test_is_a_torch_layer(dims, name, multiplier, device):
    """Weights go both ways; results, gradients and layouts agree."""
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
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(ours(x[0]), theirs(x[0]))


@every_rank
@pytest.mark.parametrize("name", ARGUMENTS)
def test_repr_attributes_and_initial_values(dims, name):
    kwargs = ARGUMENTS[name]
    torch.manual_seed(1)
    ours = OURS[dims](6, 12, **kwargs)
    torch.manual_seed(1)
    theirs = TORCHS[dims](6, 12, groups=6, **kwargs)
    assert repr(ours) == repr(theirs).replace("Conv", "DepthwiseConv")
    for attribute in ("kernel_size", "stride", "padding", "output_padding", "dilation", "groups"):
        assert getattr(ours, attribute) == getattr(theirs, attribute), attribute
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


@every_rank
def test_takes_torchs_arguments(dims):
    """By position too: groups is the eighth argument and defaults to in_channels."""
    ours = inspect.signature(OURS[dims].__init__).parameters
    theirs = inspect.signature(TORCHS[dims].__init__).parameters
    assert list(ours) == list(theirs)
    assert list(inspect.signature(OURS[dims].forward).parameters) == list(
        inspect.signature(TORCHS[dims].forward).parameters
    )
    layer = OURS[dims](4, 8, 3, 2, 1, 1, 4, False, 2)
    assert (layer.groups, layer.bias, layer.dilation) == (4, None, (2,) * dims)
    assert layer.weight.shape == (4, 2, *[3] * dims)


@every_rank
@pytest.mark.parametrize("batched", [True, False])
def test_output_size(dims, batched):
    """Every size that torch can reach, with and without batch and channels, and no other."""
    args = {"kernel_size": 3, "stride": 3, "padding": 1}
    ours, theirs = OURS[dims](4, 4, **args), TORCHS[dims](4, 4, groups=4, **args)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(*([2] if batched else []), 4, *SIZE[dims])
    least = [3 * (n - 1) + 1 for n in SIZE[dims]]
    for extra in range(3):
        size = [n + extra for n in least]
        y = ours(x, size)
        torch.testing.assert_close(y, theirs(x, size))
        assert list(y.shape[-dims:]) == size
        assert torch.equal(ours(x, output_size=[*y.shape]), y)
    for size in ([n - 1 for n in least], [n + 3 for n in least], [*least, 1, 1, 1]):
        for layer in (ours, theirs):
            with pytest.raises(ValueError, match="output"):
                layer(x, size)


@every_rank
@pytest.mark.parametrize("groups", [1, 2, 12, 0])
def test_is_depthwise_only(dims, groups):
    with pytest.raises(ValueError, match="groups"):
        OURS[dims](6, 12, 3, groups=groups)


@every_rank
def test_rejects_what_torch_rejects(dims):
    for layer, more in ((OURS[dims], {}), (TORCHS[dims], {"groups": 4})):
        with pytest.raises(ValueError, match="out_channels"):
            layer(4, 6, 3, **more)
        with pytest.raises(ValueError, match="padding mode"):
            layer(4, 4, 3, padding_mode="reflect", **more)
        changed = layer(4, 4, 3, **more)
        changed.padding_mode = "circular"
        with pytest.raises(ValueError, match="padding mode"):
            changed(torch.zeros(1, 4, *SIZE[dims]))


@every_rank
def test_has_the_rank_of_its_class(dims):
    """Also if kernel_size has another length and all else could be of any rank."""
    for other in {1, 2, 3} - {dims}:
        x = torch.zeros(1, 4, *SIZE[other])
        for layer, more in ((OURS[dims], {}), (TORCHS[dims], {"groups": 4})):
            ones = {"stride": (1,), "padding": (0,), "output_padding": (0,), "dilation": (1,)}
            with pytest.raises(RuntimeError):
                layer(4, 4, (1,) * other, **ones, **more)(x)


@every_rank
def test_undoes_the_convolution_of_the_same_arguments(dims):
    """Sizes come back, and <conv(x), y> is <x, transposed(y)>."""
    args = {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False, "dtype": torch.float64}
    down = getattr(fastconv.nn, f"DepthwiseConv{dims}d")(5, 5, **args)
    up = OURS[dims](5, 5, **args)
    up.load_state_dict(down.state_dict())  # (5, 1, *kernel) both
    x = torch.randn(2, 5, *[2 * n + 1 for n in SIZE[dims]], dtype=torch.float64)
    y = torch.randn_like(down(x))
    assert up(y).shape == x.shape
    torch.testing.assert_close((down(x) * y).sum(), (x * up(y)).sum())
