# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Values at the edges of a type: infinities, NaN, subnormals, -0, ties, overflow."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

import fastconv
from fastconv import reference
from fastconv.testing import each_isa

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Channels, size, kernel, arguments: enough of each to fill vectors and leave a rest.
PROBLEMS = {
    "1d": (21, (37,), (4,), {"padding": 3}),
    "1d strided": (5, (50,), (3,), {"padding": 2, "stride": 3}),
    "2d": (19, (9, 21), (3, 3), {"padding": 1}),
    "2d strided": (35, (11, 18), (3, 5), {"padding": 2, "stride": 2}),
    "2d dilated": (4, (12, 40), (3, 3), {"padding": 4, "dilation": (2, 3)}),
    "2d wide": (2, (7, 75), (5, 7), {"padding": (0, 6)}),
    "2d large": (24, (9, 12), (7, 5), {"padding": (3, 2)}),
    "2d large, strided": (17, (14, 9), (6, 5), {"padding": 2, "stride": (2, 1)}),
    "2d window": (18, (9, 14), (5, 5), {"padding": 2}),
    "3d": (17, (4, 6, 9), (3, 2, 3), {"padding": 1, "stride": (1, 2, 1)}),
    "1d transposed": (21, (18,), (4,), {"padding": 1, "stride": 2}),
    "2d transposed": (19, (6, 11), (3, 3), {"stride": 2, "output_padding": 1}),
    "2d transposed, dense": (5, (8, 33), (3, 5), {"padding": 1, "dilation": (1, 2)}),
    "3d transposed": (17, (3, 4, 5), (2, 3, 2), {"padding": (0, 1, 0), "stride": (1, 2, 3)}),
}


def functions(name):
    """The operator of a problem, and its reference."""
    operator = "depthwise_conv_transpose" if "transposed" in name else "depthwise_conv"
    operator += name[:2]
    return getattr(fastconv, operator), getattr(reference, operator)


def layouts_of(x):
    yield "contiguous", x.contiguous()
    yield "channels_last", x.movedim(1, -1).contiguous().movedim(-1, 1)


def bits(t):
    return t.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[t.itemsize])


def same(a, b, bound=1e-2):
    """Equal infinities and NaN, and finite values alike."""
    a, b = a.double(), b.double()
    equal = (a == b) | (a.isnan() & b.isnan())
    return equal | ((a - b).abs() <= bound * (1 + b.abs()))


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan], ids=str)
@pytest.mark.parametrize("name", PROBLEMS)
def test_nonfinite_values_in_gradients(name, bad):
    """They reach the gradients whose sums hold them, whatever zeros a kernel multiplies them by.

    Only what meets zero padding is free: 0 * inf may be left out or be NaN.
    """
    channels, size, kernel, args = PROBLEMS[name]
    conv, oracle = functions(name)
    nd = len(size)
    x = torch.randn(2, channels, *size, dtype=torch.float64)
    w = torch.randn(channels, 1, *kernel, dtype=torch.float64)
    y = oracle(x, w, **args)
    grad = torch.randn_like(y)
    for where in ("input", "gradient"):
        spoiled, g = x.clone(), grad.clone()
        target = spoiled if where == "input" else g
        for corner in (0, -1):
            target[(corner, corner, *[corner] * nd)] = bad
            target[(0, channels // 2, *[corner] * nd)] = bad
        wide = [t.clone().requires_grad_() for t in (spoiled, w)]
        b = torch.zeros(channels, dtype=torch.float64, requires_grad=True)
        value = oracle(*wide, b, **args)
        want = torch.autograd.grad(value, (*wide, b), g)
        # Without the padding: what dw sums up where nothing is multiplied by it.
        inside = oracle(torch.ones_like(x), torch.ones_like(w), **args)
        assert inside.max() > inside.min()
        # Of a transposed convolution the input is what meets padding: results left out.
        cropped = torch.zeros_like(w).bool()
        if "transposed" in name:
            (products,) = torch.autograd.grad(
                oracle(torch.ones_like(x), wide[1], **args), wide[1], torch.ones_like(g)
            )
            cropped = products < products.max()
        for dtype, (layout, data) in itertools.product((torch.float32, torch.bfloat16),
                                                       layouts_of(spoiled)):  # fmt: skip
            leaves = [t.to(dtype).requires_grad_() for t in (data, w, b.detach())]
            for isa in each_isa():
                what = f"{where}, {dtype}, {layout}, {isa}"
                out = conv(*leaves, **args)
                got = torch.autograd.grad(out, leaves, g.to(dtype))
                assert same(out, value, 0.1).all(), what
                assert same(got[0], want[0], 0.1).all(), f"dx, {what}"
                assert same(got[2], want[2], 0.3).all(), f"db, {what}"
                free = want[1].isnan() if where == "gradient" else cropped
                ok = same(got[1], want[1], 0.3) | free
                assert ok.all(), f"dw, {what}"


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_subnormal_numbers_are_kept(dtype):
    """Small integers times the smallest subnormal: exact sums, in which nothing may vanish.

    But where bfloat16 has instructions, which take subnormals for zeros: one rounds vectors, and
    one multiplies pairs of numbers in some kernels.
    """
    step = torch.finfo(dtype).tiny * torch.finfo(dtype).eps
    for name, (channels, size, kernel, args) in PROBLEMS.items():
        conv, oracle = functions(name)
        x = torch.randint(-3, 4, (2, channels, *size)).double()
        w = torch.randint(-3, 4, (channels, 1, *kernel)).double()
        wide = [t.clone().requires_grad_() for t in (x, w)]
        want = oracle(*wide, **args)
        grad = torch.randint(-1, 2, want.shape).double()
        dx, dw = torch.autograd.grad(want, wide, grad)
        for layout, data in layouts_of(x):
            for isa in each_isa():
                what = f"{layout}, {isa}, {name}"
                small = [(data * step).to(dtype).requires_grad_(), w.to(dtype).requires_grad_()]
                y = conv(*small, **args)
                flushed = dtype == torch.bfloat16 and isa == "avx512_bf16"
                kept = y.double() / step == want
                if flushed:
                    kept |= y == 0
                assert kept.all(), what
                got = torch.autograd.grad(y, small, grad.to(dtype))
                assert torch.equal(got[0].double(), dx), what
                assert torch.equal(got[1].double() / step, dw), what


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
def test_overflow_happens_at_the_store_alone(dtype):
    # bfloat16 reaches as far as the accumulator does.
    top = torch.finfo(dtype).max / (2 if dtype == torch.bfloat16 else 1)
    x = torch.full((1, 20, 5, 40), top, dtype=dtype)
    for layout, data in layouts_of(x):
        for isa in each_isa():
            w = torch.tensor([1.0, 1.0, -1.0], dtype=dtype).expand(20, 1, 1, 3)
            assert torch.equal(fastconv.depthwise_conv2d(data, w), x[..., 2:]), (
                layout,
                isa,
            )  # by way of 2 * top
            assert (fastconv.depthwise_conv2d(data, w.abs()) == math.inf).all(), (layout, isa)
            assert (fastconv.depthwise_conv2d(data, -w.abs()) == -math.inf).all(), (layout, isa)


WINDOWS = [(2, 1, 1), (2, 2, 2), (3, 3, 3), (1, 2, 5), (5, 1, 3)]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("kernel", WINDOWS, ids=str)
def test_pooling_of_minus_infinity_zeros_and_ties(kernel, dtype):
    """All -inf, 0 and -0, equal values: the first of the window wins, as in F.max_pool3d."""
    shape = (2, 13, 6, 37)
    sign = torch.where(torch.rand(shape) < 0.5, -1.0, 1.0)
    pad = [k // 2 for k in kernel]
    cases = {
        "minus infinity": torch.full(shape, -math.inf),
        "zeros": torch.zeros(shape) * sign,
        "ties": torch.ones(shape),
        "lowest": torch.full(shape, torch.finfo(dtype).min, dtype=dtype),
        "some": torch.where(sign < 0, -math.inf, torch.randint(0, 2, shape).float()),
    }
    for (name, x), (stride, ceil_mode) in itertools.product(
        cases.items(), (((1, 1, 1), False), (kernel, True))
    ):
        args = (kernel, stride, pad, 1, ceil_mode)
        leaf = x.double().requires_grad_()
        y, index = F.max_pool3d(leaf.unsqueeze(1), *args, return_indices=True)
        grad = torch.randint(-2, 3, y.shape).double()
        (dx,) = torch.autograd.grad(y, leaf, grad)
        for layout, data in layouts_of(x.to(dtype)):
            data.requires_grad_()
            for isa in each_isa():
                what = f"{name}, {layout}, {isa}, stride {stride}"
                got, at = fastconv.depth_max_pool(data, *args, return_indices=True)
                assert torch.equal(bits(got), bits(y.squeeze(1).to(dtype))), what
                assert torch.equal(at, index.squeeze(1)), what
                plain = fastconv.depth_max_pool(data, *args)
                assert torch.equal(bits(plain), bits(got)), what
                for result in (got, plain):
                    (d,) = torch.autograd.grad(result, data, grad.squeeze(1).to(dtype))
                    assert torch.equal(d.double(), dx), what


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_nan_payloads(dtype):
    """Rearrangements keep every bit; pooling those of quiet NaN, of which the last wins."""
    quiet, payload = {
        torch.float16: (0x7E00, 0x1FF),
        torch.bfloat16: (0x7FC0, 0x3F),
        torch.float32: (0x7FC00000, 0x3FFFFF),
        torch.float64: (0x7FF8000000000000, 0x7FFFFFFFFFFFF),
    }[dtype]
    size = bits(torch.empty(0, dtype=dtype)).dtype
    patterns = torch.randint(0, payload + 1, (2, 12, 6, 40)).to(size) | quiet
    x = patterns.view(dtype)
    for layout, data in layouts_of(x):
        for isa in each_isa():
            pooled, index = fastconv.depth_max_pool(data, 3, return_indices=True)
            assert torch.equal(bits(pooled), patterns[:, 2::3]), (layout, isa)
            assert torch.equal(index // 240, torch.arange(2, 12, 3).view(4, 1, 1).expand_as(index))
            moved = fastconv.space_to_depth(data, 2, "crd")
            assert torch.equal(bits(moved), F.pixel_unshuffle(patterns, 2)), (layout, isa)
            signalling = (bits(data) ^ (quiet & -quiet)).view(dtype)
            moved = fastconv.channel_shuffle(signalling, 3)
            assert torch.equal(bits(moved), F.channel_shuffle(bits(signalling), 3)), (layout, isa)
