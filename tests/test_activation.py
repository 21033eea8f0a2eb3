# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Activations in the same pass as a convolution: their accuracy, and that they are that pass's."""

import math
import sys
from pathlib import Path

import mpmath
import pytest
import torch

import fastconv
from fastconv.testing import LAYOUTS, each_isa, poison

sys.path.insert(0, str(Path(__file__).parent))

from activation_exact import FORWARD, FORWARD_CUDA, check, every_kind, exact, unit
from activation_problems import (
    NATIVE,
    PROBLEMS,
    activation_of,
    each_activation,
    gradient_of,
    problem,
)

# The largest errors of slopes, in units in the last place of one: docs/numerics.md.
SLOPE = {"relu": 0, "relu6": 0, "hardswish": 1, "silu": 2.1, "gelu": 2}
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def activated(z, name):
    """The activation of these numbers: a filter of one tap that is one gives them to it."""
    c = 48
    x = z.reshape(1, c, -1)
    return fastconv.depthwise_conv1d(x, x.new_ones(c, 1, 1), activation=name).reshape(z.shape)


def slopes(z, name):
    return gradient_of(torch.ones_like(z), z, name)


def exact_slope(z, name):
    z = z.detach().double().clone().requires_grad_()
    if name == "gelu":
        tail = torch.special.erfc(z.detach().abs() * math.sqrt(0.5)) / 2
        density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        return (torch.where(z < 0, tail, 1 - tail) + z * density).detach()
    (slope,) = torch.autograd.grad(NATIVE[name](z).sum(), z)
    return slope


@each_activation
def test_accuracy_of_float32(name, rng):
    z = every_kind(torch.float32, rng)
    want, slope = exact(z, name), exact_slope(z, name)
    for isa in each_isa():
        check(activated(z, name), want, FORWARD[name] * unit(want, z.dtype), isa)
        got = slopes(z, name)
        # What hardswish's slope is at its corners is torch's choice, and ours.
        got = torch.where(z.abs() == 3, slope.float(), got) if name == "hardswish" else got
        check(got, slope, SLOPE[name] * 2.0**-23, f"slope, {isa}")


@each_activation
def test_neighbours_do_not_matter(name, rng):
    """What a vector does for a number of large magnitude leaves its other numbers their bits."""
    z = torch.randn(48 * 64, generator=rng) * 6
    far = torch.tensor([1e3, -1e3, math.inf, -80.0, math.nan, 14.0])
    mixed = z.clone()
    mixed[::5] = far.repeat(len(mixed[::5]) // len(far) + 1)[: len(mixed[::5])]
    near = torch.ones_like(z, dtype=torch.bool)
    near[::5] = False
    for isa in each_isa():
        for f in (activated, slopes):
            assert torch.equal(f(z, name)[near], f(mixed, name)[near]), isa


@each_activation
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_accuracy_of_half_precision(name, dtype):
    """Every number: rounded once, after errors of float32."""
    z = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    z = torch.cat([z, z[: -len(z) % 48]])
    want = exact(z, name)
    bound = 0.5 * unit(want, dtype) + 4 * unit(want, torch.float32)
    if dtype == torch.bfloat16:  # a level may flush what is subnormal in it
        bound = bound.clamp(min=torch.finfo(dtype).smallest_normal)
    else:
        too_large = want.abs() >= 65520
        want = torch.where(too_large, want.sign() * math.inf, want)
    for isa in each_isa():
        got = activated(z, name)
        check(got, want, bound, isa)


def test_accuracy_of_float64(rng):
    """To a few units, against sums in arithmetic of 60 digits."""
    z = torch.cat(
        [
            torch.randn(600, generator=rng, dtype=torch.float64) * 5,
            (torch.rand(360, generator=rng, dtype=torch.float64) - 0.5) * 74,
        ]
    )
    with mpmath.workdps(60):
        numbers = [mpmath.mpf(v) for v in z.tolist()]
        silu = [v / (1 + mpmath.exp(-v)) for v in numbers]
        gelu = [v * mpmath.erfc(-v / mpmath.sqrt(2)) / 2 for v in numbers]
    for name, want in (("silu", silu), ("gelu", gelu)):
        want = torch.tensor([float(v) for v in want], dtype=torch.float64)
        for isa in each_isa():
            check(activated(z, name), want, 8 * unit(want, torch.float64), f"{name}, {isa}")
            slope = exact_slope(z, name)
            # The reference's z * (1 - sigmoid(z)) multiplies errors by z.
            bound = (8 + z.abs()) * 2.0**-52
            check(slopes(z, name), slope, bound, f"slope of {name}, {isa}")


# ---- in every engine ----


def layouts(x, kernel_dims):
    channel = x.dim() - kernel_dims + 1
    for layout in ("contiguous", "channels_last", "steps"):
        yield layout, LAYOUTS[layout](x, channel)


@pytest.mark.parametrize("which", PROBLEMS)
@each_activation
def test_follows_the_convolution(which, name, rng, device):
    """The result is the activation of exactly what the convolution alone gives."""
    for dtype in DTYPES:
        conv, x, w, b, kwargs = problem(which, dtype, rng, device)
        for layout, x_ in layouts(x, w.dim()):
            for isa in each_isa(device):
                z = conv(x_, w, b, **kwargs)
                poison(z)
                y = conv(x_, w, b, **kwargs, activation=name)
                what = f"{dtype}, {layout}, {isa}"
                assert y.stride() == z.stride() and y.dtype == dtype, what
                order = 0
                if device != "cpu" and dtype.itemsize == 2:
                    # The sum is not rounded before; in float32 another kernel may add it up.
                    wide = [t.float() for t in (x_, w, b)]
                    z = conv(*wide, **kwargs)
                    order = 4e-6 * conv(*map(torch.abs, wide), **kwargs).double().cpu()
                want = exact(z.cpu(), name)
                slack = (FORWARD if device == "cpu" else FORWARD_CUDA)[name] + 1e-3
                if dtype == torch.float64:
                    # The reference's argument z * sqrt(0.5) has two roundings, each of which erfc
                    # multiplies by z^2: the test against 60 digits is the sharp one.
                    slack = 8 + 2 * z.cpu().square()
                slack = slack * unit(want, torch.promote_types(dtype, torch.float32))
                if dtype.itemsize == 2:
                    slack = 0.501 * unit(want, dtype) + slack
                if dtype == torch.bfloat16:  # a level may flush what is subnormal in it
                    slack = slack.clamp(min=torch.finfo(dtype).smallest_normal)
                check(y.cpu(), want, slack + order, what)


@each_activation
@pytest.mark.parametrize("shape", [(3, 7, 5, 11), (2, 48, 6, 7), (1, 1, 1, 9), (9001,), (), (0, 3)])
def test_passes_of_their_own(shape, name, rng, device):
    """What training runs after the convolution: the same bits, and slopes times the incoming."""
    for dtype in DTYPES:
        for layout in LAYOUTS if len(shape) == 4 else ["contiguous"]:
            z, dy = (4 * torch.randn(shape, generator=rng, dtype=torch.float64) for _ in range(2))
            z, dy = (LAYOUTS[layout](t.to(device, dtype), 1) for t in (z, dy))
            for isa in each_isa(device):
                what = f"{dtype}, {layout}, {isa}"
                y = activation_of(z, name)
                assert y.stride() == torch.empty_like(z).stride() and y.dtype == dtype, what
                if z.numel() % 48 == 0 and z.dim() == 4 and device == "cpu":
                    assert torch.equal(y, activated(z.contiguous(), name)), what
                poison(y)
                slope = exact_slope(z.cpu(), name)
                eps = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
                # The reference's z * (1 - sigmoid(z)) multiplies errors by z.
                units = 16 + (z.double().cpu().abs() if dtype == torch.float64 else 0)
                for incoming in (dy, dy.contiguous(), dy.sum().expand(shape)):
                    g = gradient_of(incoming, z, name)
                    assert g.stride() == y.stride() and g.dtype == dtype, what
                    want = slope * incoming.double().cpu()
                    bound = units * eps * incoming.double().cpu().abs()
                    bound = bound + (0.501 * unit(want, dtype) if dtype.itemsize == 2 else 0)
                    check(g.cpu(), want, bound, what)


@each_activation
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradients(name, layout, rng, device):
    """Of input, weight and bias, against the reference in float64."""
    for which in ("small planes", "stride", "multiplier", "1d", "unbatched"):
        conv, x, w, b, kwargs = problem(which, torch.float64, rng, device)
        x = LAYOUTS[layout](x, x.dim() - w.dim() + 1)
        leaves = [t.detach().requires_grad_() for t in (x, w, b)]
        y = conv(*leaves, **kwargs, activation=name)
        dy = torch.randn(y.shape, generator=rng, dtype=torch.float64).to(y)
        oracle = getattr(fastconv.reference, conv.__name__)
        for some in (leaves, leaves[1:], leaves[:1]):
            got = torch.autograd.grad(y, some, dy, retain_graph=True)
            want = torch.autograd.grad(oracle(*leaves, **kwargs, activation=name), some, dy)
            for a, e in zip(got, want, strict=True):
                torch.testing.assert_close(a, e)
                assert a.dtype == e.dtype


@each_activation
def test_gradcheck(name, rng, device):
    """First and second derivatives, with and without a bias."""
    x = torch.randn(2, 3, 5, 6, generator=rng, dtype=torch.float64).to(device)
    w = torch.randn(6, 1, 3, 2, generator=rng, dtype=torch.float64).to(device)
    b = torch.randn(6, generator=rng, dtype=torch.float64).to(device)
    for tensors in ((x, w, b), (x, w)):
        leaves = [t.clone().requires_grad_() for t in tensors]

        def run(*t):
            return fastconv.depthwise_conv2d(*t, stride=(1, 2), padding=1, activation=name)

        assert torch.autograd.gradcheck(run, leaves)
        assert torch.autograd.gradgradcheck(run, leaves)
