# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Sound but hostile calls: extreme strides, aliased memory, values at the edges of a type."""

import pytest
import torch
import torch.nn.functional as F

import fastconv
from fastconv import reference
from fastconv.testing import each_isa

LARGE = 2**31 - 1


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_stride_or_dilation_that_nothing_uses(dims):
    """One window has no stride and one tap no dilation: no buffer may grow with them."""
    conv = (fastconv.depthwise_conv1d, fastconv.depthwise_conv2d, fastconv.depthwise_conv3d)
    x = torch.randn(2, 20, *[9, 8, 7][:dims], dtype=torch.float64, requires_grad=True)
    for kernel, args in ((3, {"stride": LARGE}), (1, {"stride": LARGE, "dilation": LARGE})):
        w = torch.randn(20, 1, *[kernel] * dims, dtype=torch.float64, requires_grad=True)
        want = (x[(..., *[slice(kernel)] * dims)] * w[:, 0]).flatten(2).sum(2)
        for isa in each_isa():
            y = conv[dims - 1](x, w, **args)
            torch.testing.assert_close(y.flatten(1), want, msg=lambda m, isa=isa: f"{isa}: {m}")
        ours = torch.autograd.grad(y.square().sum(), (x, w))
        theirs = torch.autograd.grad(want.square().sum(), (x, w), retain_graph=True)
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("size", [(2, 4, 6, 1), (2, 4, 1, 6), (2, 8, 5, 1, 1), (2, 4, 3, 2, 1)])
@pytest.mark.parametrize("kernel", ["channels", "all"])
def test_pooling_gradient_in_another_format_where_a_size_is_one(size, kernel):
    """Axes of one element have arbitrary strides, and are merged with their neighbours."""
    x = torch.randn(size, dtype=torch.float64, requires_grad=True)
    kernel = 2 if kernel == "channels" else (2,) * 2 + (1,) * (len(size) - 3)
    if isinstance(kernel, tuple) and size[2] == 1:
        kernel = (2, 1, 2)
    y = fastconv.depth_max_pool(x, kernel)
    z = reference.depth_max_pool(x, kernel)
    dims = list(range(1, y.dim()))
    for order in (dims, dims[::-1], dims[1:] + dims[:1]):
        back = [0] + [1 + order.index(d) for d in dims]
        grad = torch.randn_like(y).permute(0, *order).contiguous().permute(back)
        (want,) = torch.autograd.grad(z, x, grad, retain_graph=True)
        for isa in each_isa():
            (got,) = torch.autograd.grad(y, x, grad, retain_graph=True)
            assert torch.equal(got, want), (order, isa)


CONV = (fastconv.depthwise_conv1d, fastconv.depthwise_conv2d, fastconv.depthwise_conv3d)
REFERENCE = (
    reference.depthwise_conv1d,
    reference.depthwise_conv2d,
    reference.depthwise_conv3d,
)
POOL = (fastconv.depth_max_pool, reference.depth_max_pool)
# Channels, size, kernel, arguments: enough of each to fill vectors and leave a rest.
PROBLEMS = {
    "1d": (21, (37,), (4,), {"padding": 3}),
    "1d strided": (5, (50,), (3,), {"padding": 2, "stride": 3}),
    "2d": (19, (9, 21), (3, 3), {"padding": 1}),
    "2d strided": (35, (11, 18), (3, 5), {"padding": 2, "stride": 2}),
    "2d dilated": (4, (12, 40), (3, 3), {"padding": 4, "dilation": (2, 3)}),
    "2d wide": (2, (7, 75), (5, 7), {"padding": (0, 6)}),
    "3d": (17, (4, 6, 9), (3, 2, 3), {"padding": 1, "stride": (1, 2, 1)}),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_aliased_inputs(name):
    """Zero strides, and windows that overlap in memory, are read as any other."""
    channels, size, kernel, args = PROBLEMS[name]
    nd = len(size)
    shape = (2, channels, *size)
    w = torch.randn(channels, 1, *kernel)
    strides = list(range(nd + 2, 0, -1))
    memory = torch.randn(sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1)
    aliased = [
        memory.as_strided(shape, strides),
        memory[:1].as_strided(shape, (0,) * (nd + 2)),
        memory[:channels].as_strided(shape, (0, 1, *[0] * nd)),
        torch.randn(1, channels, *size).expand(shape),
        torch.randn(2, 1, *size).expand(shape),
    ]
    for i, x in enumerate(aliased):
        leaf = x.detach().requires_grad_()
        want = REFERENCE[nd - 1](x.double(), w.double(), **args)
        (dx,) = torch.autograd.grad(
            REFERENCE[nd - 1](wide := x.double().requires_grad_(), w.double(), **args).sum(), wide
        )
        pooled = reference.depth_max_pool(x, (2, *[1] * nd))
        for isa in each_isa():
            y = CONV[nd - 1](leaf, w, **args)
            torch.testing.assert_close(y, want.float(), msg=lambda m, i=i, a=isa: f"{i} {a} {m}")
            (got,) = torch.autograd.grad(y.sum(), leaf)
            torch.testing.assert_close(got, dx.float(), msg=lambda m, i=i, a=isa: f"{i} {a} {m}")
            assert torch.equal(fastconv.depth_max_pool(x, (2, *[1] * nd)), pooled), (i, isa)


def test_gradients_of_a_view_reach_its_base():
    base = torch.randn(3, 12, 9, 9, dtype=torch.float64, requires_grad=True)
    w = torch.randn(5, 1, 3, 3, dtype=torch.float64)
    grads = []
    for conv, pool in (
        (CONV[1], fastconv.depth_max_pool),
        (REFERENCE[1], reference.depth_max_pool),
    ):
        view = base[1:, 2:12:2, ::2, 1:8]
        out = conv(view, w, padding=1).square().sum() + pool(view, 2).square().sum()
        grads.append(torch.autograd.grad(out, base)[0])
    torch.testing.assert_close(*grads)
    assert not grads[0][0].any() and not grads[0][:, 1::2].any()


@pytest.mark.parametrize("through", ["leaf", "base", "another view", "weight"])
def test_a_change_between_forward_and_backward(through):
    """As torch's convolution: the gradient of what is no more there is an error."""
    for conv in (CONV[1], lambda x, w: torch.nn.functional.conv2d(x, w, groups=4)):
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


def test_a_change_that_no_gradient_depends_on():
    """Pooling saves where its maxima were, and rearrangements nothing."""
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    for call in (
        lambda x: fastconv.depth_max_pool(x * 1, (2, 2, 2)),
        lambda x: fastconv.space_to_depth(x * 1, 2),
        lambda x: fastconv.channel_shuffle(x * 1, 2),
    ):
        (want,) = torch.autograd.grad(call(x).square().sum(), x)
        y = call(x)
        y.square_()
        (got,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(got, want)
    # What it does save is guarded, also where the caller gets it.
    y, indices = fastconv.depth_max_pool(x, (2, 2, 2), return_indices=True)
    indices.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_output_size_overflow():
    x = torch.zeros(1, 1, 1).expand(2**31, 1, 2**31)  # 2^62 elements, of which one exists
    for device in ("cpu", "meta"):
        t, w = x.to(device) if device == "meta" else x, torch.zeros(4, 1, 1, device=device)
        with pytest.raises(RuntimeError, match="overflows 64 bits"):
            CONV[0](t, w)
    # What 64 bits hold is for the allocator to refuse.
    for call in (lambda: CONV[0](x, torch.zeros(1, 1, 1)), lambda: fastconv.depth_max_pool(x, 1)):
        with pytest.raises(RuntimeError, match=r"alloc|memory|Storage size"):
            call()


@pytest.mark.parametrize("padding", ["causal", "both", "end"])
@pytest.mark.parametrize("dilation", [2**17, LARGE])
def test_taps_so_far_apart_that_few_meet_the_input(dilation, padding):
    """Time and memory follow the tensors, not the distance between taps."""
    taps, size = 4, 11
    reach = dilation * (taps - 1)
    if padding == "causal" and reach > LARGE:
        taps, reach = 2, dilation
    pads = {"causal": (reach, 0), "both": (dilation, reach - dilation), "end": (2, reach - 2)}
    if max(pads[padding]) > LARGE:
        taps, reach = 2, dilation
        pads = {"causal": (reach, 0), "both": (dilation, 0), "end": (2, reach - 2)}
    begin, end = pads[padding]
    x, w, b = (torch.randn(s, dtype=torch.float64) for s in ((2, 20, size), (20, 1, taps), 20))
    leaves = [t.requires_grad_() for t in (x, w, b)]
    out = size + begin + end - reach
    # Tap k of output o meets x[o + k * dilation - begin], where that exists.
    want = b[:, None] + torch.zeros(2, 20, out, dtype=torch.float64)
    for k in range(taps):
        shift = k * dilation - begin
        lo, hi = max(0, -shift), min(out, size - shift)
        if lo < hi:
            part = w[:, 0, k, None] * x[..., lo + shift : hi + shift]
            want = want + F.pad(part, (lo, out - hi))
    grad = torch.randn_like(want)
    expected = torch.autograd.grad(want, leaves, grad)
    for layout in (lambda t: t, lambda t: t.transpose(1, 2).contiguous().transpose(1, 2)):
        own = [layout(x).detach().requires_grad_(), w, b]
        for isa in each_isa():
            y = CONV[0](*own, padding=((begin, end),), dilation=dilation)
            torch.testing.assert_close(y, want, msg=lambda m, isa=isa: f"{isa}: {m}")
            torch.testing.assert_close(torch.autograd.grad(y, own, grad), expected)
