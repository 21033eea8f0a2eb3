# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""space_to_depth, depth_to_space and channel_shuffle as operators, on the CPU."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastconv._C

ops = torch.ops.fastconv
ORDERS = ("crd", "dcr", "focus")
# One dtype per element size.
SIZES = {
    1: torch.uint8,
    2: torch.float16,
    4: torch.float32,
    8: torch.int64,
    16: torch.complex128,
}
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


# At a level without a file of its own the code of the one below runs.
ROOM = Path(__file__).resolve().parents[1] / "csrc" / "ops" / "rearrange"
LEVELS = [n for n in fastconv._C.isa_levels() if (ROOM / f"cpu_{n}.cpp").is_file()]


@pytest.fixture(params=LEVELS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = fastconv._C.isa()
    fastconv._C.set_isa(request.param)
    yield request.param
    fastconv._C.set_isa(before)


def reference_s2d(x: Tensor, block: tuple[int, ...], order: str) -> Tensor:
    """The definition: one strided slice per offset inside the block."""
    slices = {}
    for offset in itertools.product(*map(range, block)):
        index = [slice(o, None, b) for o, b in zip(offset, block, strict=True)]
        slices[offset] = x[(..., *index)]
    offsets = sorted(slices, key=lambda offset: offset[::-1] if order == "focus" else offset)
    channel = x.dim() - len(block) - 1
    parts = [slices[offset] for offset in offsets]
    if order == "crd":
        return torch.stack(parts, channel + 1).flatten(channel, channel + 1)
    return torch.cat(parts, channel)


def wide_sizes(shape: tuple[int, ...], block: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes that depth_to_space makes of `shape`."""
    channel = len(shape) - len(block) - 1
    spatial = (s * b for s, b in zip(shape[channel + 1 :], block, strict=True))
    return (*shape[:channel], shape[channel] // math.prod(block), *spatial)


def reference_d2s(x: Tensor, block: tuple[int, ...], order: str) -> Tensor:
    """The inverse, found by sending the positions of the output through reference_s2d."""
    channel = x.dim() - len(block) - 1
    shape = wide_sizes(tuple(x.shape), block)
    positions = torch.arange(math.prod(shape[channel:])).reshape(shape[channel:])
    inverse = reference_s2d(positions, block, order).flatten().argsort()
    return x.flatten(channel)[..., inverse].reshape(shape)


def reference_shuffle(x: Tensor, groups: int) -> Tensor:
    return x[:, torch.arange(x.size(1)).reshape(groups, -1).t().flatten()]


def randoms(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Random bits: a permutation must keep every one of them, NaN payloads included."""
    if dtype is torch.bool:
        return torch.rand(shape) < 0.5
    count = math.prod(shape) * dtype.itemsize
    return torch.randint(0, 256, (count,), dtype=torch.uint8).view(dtype).reshape(shape)


def bits(x: Tensor) -> Tensor:
    if x.dtype is torch.bool:
        return x
    return x.contiguous().flatten().view(torch.uint8).reshape(*x.shape, -1)


def same(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    assert torch.equal(bits(actual), bits(expected))


def layouts(x: Tensor) -> dict[str, Tensor]:
    """The same values with different strides."""
    stepped = x.new_zeros(*x.shape[:-1], 2 * x.size(-1) + 3)[..., 1 : 2 * x.size(-1) : 2]
    cropped = x.new_zeros(*x.shape[:-2], x.size(-2) + 2, x.size(-1) + 5)[..., 1:-1, 3:-2]
    backwards = range(x.dim())[::-1]
    views = {
        "contiguous": x.contiguous(),
        "stepped": stepped.copy_(x),
        "cropped": cropped.copy_(x),
        "reversed axes": x.permute(*backwards).contiguous().permute(*backwards),
    }
    if x.dim() in FORMATS:
        views["channels_last"] = x.contiguous(memory_format=FORMATS[x.dim()])
        more = x.new_zeros(x.size(0), 2 * x.size(1), *x.shape[2:])
        more = more.contiguous(memory_format=FORMATS[x.dim()])
        views["half the channels"] = more[:, : x.size(1)].copy_(x)
    return views


def kept_format(x: Tensor, spatial: int) -> torch.memory_format:
    """The format of the output; what is dense in both formats counts as contiguous."""
    if x.dim() == spatial + 2 and x.dim() in FORMATS:
        return torch._prims_common.suggest_memory_format(x)
    return torch.contiguous_format


def check_both(x: Tensor, block: tuple[int, ...], order: str) -> None:
    """space_to_depth of x, and depth_to_space back, over the layouts of both."""
    deep = reference_s2d(x, block, order)
    for op, source, target in ((ops.space_to_depth, x, deep), (ops.depth_to_space, deep, x)):
        for name, view in layouts(source).items():
            out = op(view, block, order)
            same(out, target)
            same(view, source)
            assert out.is_contiguous(memory_format=kept_format(view, len(block))), name


# Batch, channels, deep spatial sizes, block: around the vector widths, odd, thin and rectangular.
CASES = [
    ((2,), 3, (5,), (2,)),
    ((1,), 1, (67,), (3,)),
    ((3,), 2, (16,), (5,)),
    ((2,), 5, (4, 7), (2, 2)),
    ((1,), 3, (3, 33), (2, 2)),
    ((1,), 2, (3, 17), (3, 3)),
    ((2,), 4, (2, 16), (4, 4)),
    ((1,), 3, (2, 9), (1, 2)),
    ((1,), 3, (2, 9), (2, 1)),
    ((1,), 2, (4, 19), (3, 5)),
    ((1,), 1, (2, 21), (2, 7)),
    ((1,), 2, (2, 18), (2, 9)),
    ((1,), 1, (2, 5), (8, 8)),
    ((1,), 1, (2, 3), (3, 17)),
    ((1,), 37, (2, 3), (2, 2)),
    ((1,), 16, (3, 2), (3, 3)),
    ((2,), 65, (1, 2), (4, 4)),
    ((), 3, (4, 6), (2, 3)),
    ((2, 3), 2, (3, 4), (2, 2)),
    ((1,), 3, (2, 3, 5), (2, 2, 2)),
    ((2,), 1, (2, 2, 17), (1, 2, 3)),
    ((1,), 18, (2, 1, 2), (2, 3, 1)),
    ((1,), 4, (3, 4), (1, 1)),
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", SIZES)
def test_parity(isa: str, size: int, order: str) -> None:
    for batch, channels, deep, block in CASES:
        shape = wide_sizes((*batch, channels * math.prod(block), *deep), block)
        check_both(randoms(shape, SIZES[size]), block, order)


@pytest.mark.parametrize("trial", range(2))
def test_parity_random(isa: str, trial: int) -> None:
    for _ in range(30):
        spatial = random.randint(1, 3)
        block = tuple(random.choice((1, 2, 2, 3, 4, 5)) for _ in range(spatial))
        batch = [random.randint(1, 3) for _ in range(random.choice((0, 1, 1, 2)))]
        deep = [random.randint(1, 40 if spatial == 1 else 9) for _ in range(spatial)]
        channels = random.choice((1, 2, 3, 4, 7, 16, 20)) * math.prod(block)
        shape = wide_sizes((*batch, channels, *deep), block)
        x = randoms(shape, SIZES[random.choice(list(SIZES))])
        check_both(x, block, random.choice(ORDERS))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(2, 24, 66, 252), (1, 3, 384, 500)])
def test_large_enough_for_threads(shape: tuple[int, ...], order: str) -> None:
    for dtype in (torch.uint8, torch.float16, torch.float32):
        for block in ((2, 2), (3, 4)):
            x = randoms(shape, dtype)
            deep = reference_s2d(x, block, order)
            for view in (x, x.contiguous(memory_format=torch.channels_last)):
                same(ops.space_to_depth(view, block, order), deep)
            for view in (deep, deep.contiguous(memory_format=torch.channels_last)):
                same(ops.depth_to_space(view, block, order), x)


@pytest.mark.parametrize("block", [2, 3, 4, 7, 30, 300_001])
def test_one_long_row_is_split(isa: str, block: int) -> None:
    for dtype in (torch.uint8, torch.float32, torch.float64):
        x = randoms((1, 1, block * 300_001 if block < 10 else 300_001 * 30 // block * block), dtype)
        deep = x.reshape(1, -1, block).mT
        same(ops.space_to_depth(x, [block]), deep)
        same(ops.depth_to_space(deep, [block]), x)
        same(ops.depth_to_space(deep.contiguous(), [block]), x)
        same(ops.space_to_depth(x[..., :1].expand(1, 1, x.size(2)), [block]),
             x[..., :1].expand(deep.shape))  # fmt: skip


def test_results_do_not_depend_on_threads() -> None:
    x = torch.randn(3, 12, 96, 100)
    threads = torch.get_num_threads()
    outputs = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            outputs.append(ops.depth_to_space(x, [2, 2], "crd"))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(outputs[0], out) for out in outputs)


DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32,
    torch.uint64, torch.int64, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz, torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.complex32, torch.complex64, torch.complex128,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(dtype: torch.dtype) -> None:
    x = randoms((2, 4, 6, 34), dtype)
    # Indexing lacks some dtypes; any other of that size will do for the reference.
    plain = x if dtype is torch.bool else x.view(SIZES[dtype.itemsize])
    for view in (x, x.contiguous(memory_format=torch.channels_last)):
        for order in ORDERS:
            deep = ops.space_to_depth(view, [2, 2], order)
            same(deep, reference_s2d(plain, (2, 2), order).view(dtype))
            same(ops.depth_to_space(deep, [2, 2], order), x)
        same(ops.channel_shuffle(view, 2), reference_shuffle(plain, 2).view(dtype))


def test_conjugate_and_negative_views() -> None:
    x = torch.randn(1, 4, 4, 6, dtype=torch.complex64)
    for view in (x.conj(), torch._neg_view(x.real), x.conj().imag):
        assert view.is_conj() or view.is_neg()
        plain = view.resolve_conj().resolve_neg()
        same(ops.space_to_depth(view, [2, 2]), reference_s2d(plain, (2, 2), "dcr"))
        same(ops.depth_to_space(view, [2, 2]), reference_d2s(plain, (2, 2), "dcr"))
        same(ops.channel_shuffle(view, 2), reference_shuffle(plain, 2))


@pytest.mark.parametrize("size", SIZES)
def test_expanded_and_many_axes(isa: str, size: int) -> None:
    x = randoms((1, 4, 1, 6), SIZES[size])
    for view in (x.expand(3, 4, 4, 6), x[:, :1].expand(2, 4, 4, 6), x[..., :1].expand(2, 4, 2, 8)):
        plain = view.contiguous()
        same(ops.space_to_depth(view, [2, 2]), reference_s2d(plain, (2, 2), "dcr"))
        same(ops.depth_to_space(view, [2, 2]), reference_d2s(plain, (2, 2), "dcr"))
        same(ops.channel_shuffle(view, 2), reference_shuffle(plain, 2))
    # Nine batch axes, none of which merges with its neighbour; then eleven spatial ones.
    many = randoms((2,) * 9 + (4, 2, 2), SIZES[size]).permute(*range(8, -1, -1), 9, 10, 11)
    same(ops.depth_to_space(many, [2, 2], "crd"), reference_d2s(many, (2, 2), "crd"))
    many = randoms((2, 6) + (2,) * 11, SIZES[size]).permute(0, 1, *range(12, 1, -1))
    same(ops.channel_shuffle(many, 3), reference_shuffle(many, 3))


@pytest.mark.parametrize("shape", [(2, 8, 6, 4), (8, 6, 4), (2, 3, 8, 6, 4), (1, 8, 2, 4)])
def test_like_native_pixel_shuffle(shape: tuple[int, ...]) -> None:
    for name, x in layouts(torch.randn(shape)).items():
        if x.dim() == 5 and name in ("channels_last", "half the channels"):
            continue  # native raises
        for ours, native in (
            (ops.depth_to_space(x, [2, 2], "crd"), F.pixel_shuffle(x, 2)),
            (ops.space_to_depth(x, [2, 2], "crd"), F.pixel_unshuffle(x, 2)),
        ):
            same(ours, native)
            assert ours.stride() == native.stride(), name


@pytest.mark.parametrize("size", SIZES)
def test_channel_shuffle(isa: str, size: int) -> None:
    factors = (12, 3), (12, 4), (12, 1), (12, 12), (40, 2), (58, 2), (72, 8), (96, 24), (51, 17)
    for spatial in ((5,), (3, 7), (2, 3, 3)):
        for channels, groups in (*factors, (1, 1)):
            x = randoms((2, channels, *spatial), SIZES[size])
            for name, view in layouts(x).items():
                out = ops.channel_shuffle(view, groups)
                same(out, reference_shuffle(x, groups))
                if size == 4 and name != "half the channels":
                    assert out.stride() == F.channel_shuffle(view, groups).stride(), name


@pytest.mark.parametrize("shape", [(0, 4, 2, 2), (2, 0, 2, 2), (2, 4, 0, 2), (2, 4, 2, 0)])
def test_empty(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    wide = F.pixel_shuffle(x, 2)
    for call, argument, expected in (
        (lambda t: ops.depth_to_space(t, [2, 2], "crd"), x, wide),
        # F.pixel_unshuffle returns what it gets where there is nothing in it.
        (lambda t: ops.space_to_depth(t, [2, 2], "crd"), wide, x),
        (lambda t: ops.channel_shuffle(t, 2), x, F.channel_shuffle(x, 2)),
    ):
        leaf = argument.clone().requires_grad_()
        assert call(leaf).shape == expected.shape
        assert call(leaf).stride() == expected.stride()
        call(leaf).sum().backward()
        assert leaf.grad.shape == argument.shape


# ---- autograd, each call next to the same in native ops ----

Call = Callable[[Tensor], Tensor]


def native_s2d(block: tuple[int, ...], order: str) -> Call:
    return lambda x: reference_s2d(x, block, order)


def native_d2s(block: tuple[int, ...], order: str) -> Call:
    """index_select with the permutation: linear, and every transform knows it."""

    def call(x: Tensor) -> Tensor:
        channel = x.dim() - len(block) - 1
        shape = wide_sizes(tuple(x.shape), block)
        positions = torch.arange(math.prod(shape[channel:])).reshape(shape[channel:])
        inverse = reference_s2d(positions, block, order).flatten().argsort()
        return x.flatten(channel).index_select(channel, inverse).reshape(shape)

    return call


CALLS: dict[str, tuple[Call, Call, tuple[int, ...]]] = {
    "space_to_depth 1d": (
        lambda x: ops.space_to_depth(x, [2]),
        native_s2d((2,), "dcr"),
        (2, 3, 4),
    ),
    "depth_to_space 3d": (
        lambda x: ops.depth_to_space(x, [2, 1, 2], "focus"),
        native_d2s((2, 1, 2), "focus"),
        (1, 8, 2, 2, 3),
    ),
    "channel_shuffle": (
        lambda x: ops.channel_shuffle(x, 3),
        lambda x: x.unflatten(1, (3, -1)).transpose(1, 2).flatten(1, 2),
        (2, 6, 2, 2),
    ),
}
for _order in ORDERS:
    CALLS[f"space_to_depth {_order}"] = (
        lambda x, order=_order: ops.space_to_depth(x, [2, 3], order),
        native_s2d((2, 3), _order),
        (2, 2, 4, 6),
    )
    CALLS[f"depth_to_space {_order}"] = (
        lambda x, order=_order: ops.depth_to_space(x, [2, 3], order),
        native_d2s((2, 3), _order),
        (2, 12, 2, 3),
    )
calls = pytest.mark.parametrize("name", CALLS)


@calls
def test_gradients(name: str) -> None:
    call, native, shape = CALLS[name]
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.equal(call(x), native(x))
    small = x[:, :, :, :3].detach().requires_grad_() if "s2d" in name else x
    assert torch.autograd.gradcheck(call, (small,), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, (small,), check_batched_grad=True)
    weight = torch.randn_like(call(x))
    (ours,) = torch.autograd.grad(call(x), x, weight)
    (theirs,) = torch.autograd.grad(native(x), x, weight)
    assert torch.equal(ours, theirs)


def test_gradient_keeps_channels_last() -> None:
    x = torch.randn(2, 8, 4, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    for op in (ops.space_to_depth, ops.depth_to_space):
        out = op(x, [2, 2])
        (grad,) = torch.autograd.grad(out, x, torch.randn_like(out))
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert grad.is_contiguous(memory_format=torch.channels_last)


def test_what_requires_grad() -> None:
    x = torch.randn(1, 4, 2, 2, requires_grad=True)
    for call in (
        lambda t: ops.depth_to_space(t, [2, 2]),
        lambda t: ops.space_to_depth(t, [2, 2]),
        lambda t: ops.channel_shuffle(t, 2),
    ):
        assert call(x).requires_grad
        assert not call(x.detach()).requires_grad
        with torch.no_grad():
            assert not call(x).requires_grad
        with torch.inference_mode():
            assert not call(x).requires_grad
        leaf = torch.randn(1, 4, 2, 2, dtype=torch.complex64, requires_grad=True)
        call(leaf).abs().square().sum().backward()
        torch.testing.assert_close(leaf.grad, 2 * leaf.detach())


@calls
def test_transforms(name: str) -> None:
    call, native, shape = CALLS[name]
    x, tangent = torch.randn(3, *shape), torch.randn(3, *shape)
    for in_dim in (0, 1, -1):
        out = torch.func.vmap(call, in_dims=in_dim)(x.movedim(0, in_dim))
        assert torch.equal(out, torch.stack([native(item) for item in x]))
    out, derivative = torch.func.jvp(call, (x[0],), (tangent[0],))
    assert torch.equal(out, native(x[0]))
    assert torch.equal(derivative, native(tangent[0]))
    grads = torch.func.vmap(torch.func.grad(lambda t: call(t).square().sum()))(x)
    torch.testing.assert_close(grads, 2 * x)
    hessian = torch.func.hessian(lambda t: call(t).pow(3).sum())(x[0])
    expected = torch.diag(6 * x[0].flatten()).reshape(*shape, *shape)
    torch.testing.assert_close(hessian, expected)


@pytest.mark.parametrize("rank", [4, 5])
@pytest.mark.parametrize("order", ORDERS)
def test_transforms_keep_channels_last(rank: int, order: str) -> None:
    x = torch.randn((2, 8, 4, 6, 2)[:rank]).contiguous(memory_format=FORMATS[rank])
    block = [2] * (rank - 2)
    for call in (
        lambda t: ops.space_to_depth(t, block, order),
        lambda t: ops.depth_to_space(t, block, order),
        lambda t: ops.channel_shuffle(t, 2),
    ):
        out, _ = torch.func.jvp(call, (x,), (torch.randn_like(x),))
        assert torch.equal(out, call(x))
        assert out.stride() == call(x).stride()


# ---- dispatch ----


@calls
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "stepped"])
def test_opcheck(name: str, layout: str) -> None:
    op = getattr(ops, name.split()[0]).default
    shape = CALLS[name][2]
    view = layouts(torch.randn(shape)).get(layout)
    if view is None:
        pytest.skip("no such layout at this rank")
    args = ([2] * (view.dim() - 2), "focus") if op is not ops.channel_shuffle.default else (3,)
    if op is ops.depth_to_space.default and view.dim() == 4:
        args = ([2, 3], "crd")
    torch.library.opcheck(op, (view, *args))
    torch.library.opcheck(op, (view.detach().requires_grad_(), *args))


@calls
def test_meta_strides(name: str) -> None:
    call, _, shape = CALLS[name]
    for view in layouts(torch.randn(shape)).values():
        meta = torch.empty_strided(view.shape, view.stride(), device="meta")
        assert call(meta).shape == call(view).shape
        assert call(meta).stride() == call(view).stride()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_inductor_relies_on_strides_of_meta(memory_format: torch.memory_format) -> None:
    def model(x: Tensor, weight: Tensor) -> Tensor:
        y = ops.space_to_depth(x * weight, [2, x.size(-1) // 2], "focus")
        y = ops.channel_shuffle(y, x.size(1)).sin()
        return ops.depth_to_space(y, [2, 2], "crd") * weight

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for shape in ((2, 4, 4, 6), (1, 12, 8, 4), (3, 20, 6, 10)):
        x = torch.randn(shape).contiguous(memory_format=memory_format).requires_grad_()
        weight = torch.randn(1, requires_grad=True)
        ours, theirs = compiled(x, weight), model(x, weight)
        torch.testing.assert_close(ours, theirs)
        assert ours.stride() == theirs.stride()
        torch.testing.assert_close(
            torch.autograd.grad(ours.square().sum(), (x, weight)),
            torch.autograd.grad(theirs.square().sum(), (x, weight)),
        )


def test_autocast_passes_the_dtype_through() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int32):
            x = torch.zeros(1, 4, 2, 2, dtype=dtype)
            assert ops.space_to_depth(x, [2, 2]).dtype == dtype
            assert ops.depth_to_space(x, [2, 2]).dtype == dtype
            assert ops.channel_shuffle(x, 2).dtype == dtype
