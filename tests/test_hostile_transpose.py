# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Sound but hostile calls of transposed convolutions: extreme steps, aliased memory, changes."""

import pytest
import torch
import torch.nn.functional as F

import fastconv
from fastconv import reference
from fastconv.testing import each_isa

LARGE = 2**31 - 1
CONV = {n: getattr(fastconv, f"depthwise_conv_transpose{n}d") for n in (1, 2, 3)}
REFERENCE = {n: getattr(reference, f"depthwise_conv_transpose{n}d") for n in (1, 2, 3)}


def doubles(*shapes):
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_stride_or_dilation_that_nothing_uses(dims):
    """One element has no stride and one tap no dilation: no buffer may grow with them."""
    for kernel, args in ((3, {"stride": LARGE}), (1, {"stride": LARGE, "dilation": LARGE})):
        x, w = doubles((2, 20, *[1] * dims), (20, 1, *[kernel] * dims))
        want = x * w[:, 0]
        grad = torch.randn_like(want)
        expected = torch.autograd.grad(want, (x, w), grad)
        for isa in each_isa():
            y = CONV[dims](x, w, **args)
            torch.testing.assert_close(y, want, msg=lambda m, isa=isa: f"{isa}: {m}")
            torch.testing.assert_close(torch.autograd.grad(y, (x, w), grad), expected)


@pytest.mark.parametrize("less", [0, 3, 11])
@pytest.mark.parametrize("dilation", [2**17, 2**30])
def test_taps_of_which_few_reach_the_result(dilation, less):
    """Time and memory follow the tensors, not the distance between taps."""
    size, padding = 11, dilation - less
    x, w, b = leaves = doubles((2, 20, size), (20, 1, 3), (20,))
    out = size - 2 * padding + 2 * dilation
    want = b[:, None] + torch.zeros(2, 20, out, dtype=torch.float64)
    for k in range(3):  # tap k takes x[i] to output i + shift, where that exists
        shift = k * dilation - padding
        lo, hi = max(0, shift), min(out, size + shift)
        if lo < hi:
            part = w[:, 0, k, None] * x[..., lo - shift : hi - shift]
            want = want + F.pad(part, (lo, out - hi))
    grad = torch.randn_like(want)
    expected = torch.autograd.grad(want, leaves, grad)
    for layout in (lambda t: t, lambda t: t.transpose(1, 2).contiguous().transpose(1, 2)):
        own = [layout(x).detach().requires_grad_(), w, b]
        for isa in each_isa():
            y = CONV[1](*own, padding=padding, dilation=dilation)
            torch.testing.assert_close(y, want, msg=lambda m, isa=isa: f"{isa}: {m}")
            torch.testing.assert_close(torch.autograd.grad(y, own, grad), expected)


# Channels, size, weight's other sizes, arguments.
PROBLEMS = {
    "1d": (21, (37,), (1, 4), {"stride": 2, "padding": 1}),
    "2d": (19, (9, 21), (1, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    "2d multiplier": (5, (6, 17), (3, 3, 2), {"dilation": 2}),
    "3d": (17, (4, 3, 9), (1, 3, 2, 3), {"padding": 1, "stride": (1, 2, 1)}),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_aliased_inputs(name):
    """Zero strides, and elements that overlap in memory, are read as any other."""
    channels, size, kernel, args = PROBLEMS[name]
    nd, shape = len(size), (2, channels, *size)
    strides = list(range(nd + 2, 0, -1))
    memory = torch.randn(sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1)
    aliased = [
        memory.as_strided(shape, strides),
        memory[:1].as_strided(shape, (0,) * (nd + 2)),
        memory[:channels].as_strided(shape, (0, 1, *[0] * nd)),
        torch.randn(1, channels, *size).expand(shape),
        torch.randn(2, 1, *size).expand(shape),
    ]
    w = torch.randn(channels, *kernel, requires_grad=True)
    wide = w.detach().double().requires_grad_()
    for i, x in enumerate(aliased):
        leaf, wide_x = x.detach().requires_grad_(), x.double().requires_grad_()
        want = REFERENCE[nd](wide_x, wide, **args)
        grad = torch.randn(1).expand_as(want)
        expected = torch.autograd.grad(want, (wide_x, wide), grad.double())
        for isa in each_isa():
            y = CONV[nd](leaf, w, **args)
            got = torch.autograd.grad(y, (leaf, w), grad)
            for a, e in zip((y, *got), (want, *expected), strict=True):
                # Sums of up to 2 * 9 * 21 products: more than assert_close's own for float32.
                torch.testing.assert_close(
                    a, e.float(), rtol=1e-5, atol=1e-4, msg=lambda m, i=i, a=isa: f"{i} {a} {m}"
                )


@pytest.mark.parametrize("through", ["leaf", "base", "another view", "weight"])
def test_a_change_between_forward_and_backward(through):
    """As torch's: the gradient of what is no more there is an error."""
    for conv in (CONV[2], lambda x, w: F.conv_transpose2d(x, w, groups=4)):
        base = torch.randn(2, 8, 9, 9)
        x = base[:, :4].requires_grad_() if through == "leaf" else base[:, :4]
        w = torch.randn(4, 1, 3, 3, requires_grad=True)
        y = conv(x, w)
        changed = {"leaf": x, "base": base, "another view": base[:, 1:2], "weight": w}[through]
        if through == "leaf":
            changed = changed.detach()
        with torch.no_grad():
            changed.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_output_size_overflow():
    x = torch.zeros(1, 1, 1).expand(2**31, 1, 2**31)  # 2^62 elements, of which one exists
    for device in ("cpu", "meta"):
        t, w = x.to(device) if device == "meta" else x, torch.zeros(1, 4, 1, device=device)
        with pytest.raises(RuntimeError, match="overflow"):
            CONV[1](t, w)
    with pytest.raises(RuntimeError, match=r"alloc|memory|Storage size"):
        CONV[1](x, torch.zeros(1, 1, 1))
