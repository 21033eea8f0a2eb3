# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Every tile of depth max pooling's CUDA kernels, on the host executor."""

import ctypes
import itertools
import math
import random

import coverage
import host_cuda_harness as hc
import pytest
import torch
import torch.nn.functional as F

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]  # in the order of Dtype
INDEX_TYPES = [None, torch.uint8, torch.int32, torch.int64]  # in the order of IndexType

# (size, kernel, stride, padding, dilation, ceil_mode); windows are (C, H, W) or (C, D, H, W)
CASES = {
    "channels 2": ((2, 16, 3, 8), (2, 1, 1), (2, 1, 1), (0, 0, 0), (1, 1, 1), False),
    "channels 4": ((2, 32, 2, 8), (4, 1, 1), (4, 1, 1), (0, 0, 0), (1, 1, 1), False),
    "channels 3": ((1, 24, 3, 5), (3, 1, 1), (3, 1, 1), (0, 0, 0), (1, 1, 1), False),
    "remainder": ((2, 9, 2, 8), (2, 1, 1), (2, 1, 1), (0, 0, 0), (1, 1, 1), True),
    "joint 2": ((2, 16, 4, 32), (2, 2, 2), (2, 2, 2), (0, 0, 0), (1, 1, 1), False),
    "joint 4": ((1, 32, 2, 32), (4, 2, 4), (4, 2, 4), (0, 0, 0), (1, 1, 1), False),
    "spatial 3": ((1, 16, 7, 9), (1, 3, 3), (1, 2, 2), (0, 1, 1), (1, 1, 1), False),
    "overlapping": ((2, 7, 5, 6), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), False),
    "dilated": ((1, 9, 8, 10), (2, 3, 2), (3, 1, 2), (1, 1, 0), (2, 2, 3), True),
    "rows": ((1, 16, 6, 16), (3, 2, 1), (2, 1, 1), (1, 1, 0), (1, 1, 1), True),
    "3-D": ((1, 6, 4, 5, 6), (2, 2, 3, 3), (2, 2, 1, 2), (0, 1, 1, 1), (1, 1, 1, 1), False),
    "3-D, dilated": ((1, 6, 7, 5, 5), (3, 3, 2, 2), (1, 1, 2, 1), (1, 1, 1, 1), (1, 2, 2, 3), True),
}


class Problem:
    """A case as four window axes (C, D, H, W), and the maxima in float64 by definition."""

    def __init__(self, case):
        self.size, *windows, ceil_mode = case
        if len(self.size) == 4:
            self.size = (*self.size[:2], 1, *self.size[2:])
            windows = [(w[0], fill, *w[1:]) for w, fill in zip(windows, (1, 1, 0, 1), strict=True)]
        self.kernel, self.stride, self.padding, self.dilation = windows
        self.out = tuple(self._out(a, ceil_mode) for a in range(4))

    def _out(self, axis, ceil_mode):
        size, stride, pad = self.size[axis + 1], self.stride[axis], self.padding[axis]
        room = size + 2 * pad - self.dilation[axis] * (self.kernel[axis] - 1) - 1
        out = (room + (stride - 1 if ceil_mode else 0)) // stride + 1
        # The last window begins inside the input or its front padding.
        return out - 1 if ceil_mode and (out - 1) * stride >= size + pad else out

    def maxima(self, x):
        """Values, flat positions in the image, and offsets of the winners in their windows."""
        x = x.double()
        value = torch.zeros(x.shape[0], *self.out, dtype=torch.float64)
        position, offset = torch.zeros_like(value).long(), torch.zeros_like(value).long()
        found = torch.zeros_like(value, dtype=torch.bool)
        for number, tap in enumerate(itertools.product(*map(range, self.kernel))):
            at = [
                torch.arange(self.out[a]) * self.stride[a] + k * self.dilation[a] - self.padding[a]
                for a, k in enumerate(tap)
            ]
            grid = torch.meshgrid(*at, indexing="ij")
            sizes = self.size[1:]
            inside = torch.stack([(g >= 0) & (g < n) for g, n in zip(grid, sizes, strict=True)])
            grid = [g.clamp(0, n - 1) for g, n in zip(grid, sizes, strict=True)]
            seen = x[(slice(None), *grid)]
            take = inside.all(0) & (~found | (seen > value) | seen.isnan())
            flat = 0
            for g, n in zip(grid, sizes, strict=True):
                flat = flat * n + g
            value = torch.where(take, seen, value)
            position = torch.where(take, flat, position)
            offset = torch.where(take, number, offset)
            found |= take
        return value, position, offset

    def gradient(self, position, grad):
        image = math.prod(self.size[1:])
        dx = torch.zeros(self.size[0], image, dtype=torch.float64)
        dx.scatter_add_(1, position.flatten(1), grad.double().flatten(1))
        return dx.view(self.size)


@pytest.fixture(scope="module")
def library():
    return hc.build("depth_max_pool", ["depth_max_pool.cpp", *hc.room_sources("depth_max_pool")])


def longs(values):
    return (ctypes.c_int64 * len(values))(*values)


def strides(t):
    return longs([0 if n == 1 else s for n, s in zip(t.shape, t.stride(), strict=True)])


def axes(p):
    rows = zip(p.size[1:], p.out, p.kernel, p.stride, p.dilation, p.padding, strict=True)
    return longs([n for row in rows for n in row])


def pointer(t):
    return ctypes.c_void_p(None if t is None else t.data_ptr())


@pytest.mark.parametrize("case", CASES)
def test_reference_is_that_of_torch(case):
    """Where torch has such windows: joint ones over (C, H, W)."""
    p = Problem(CASES[case])
    if p.size[2] > 1:
        return
    x = torch.randint(-3, 4, p.size).double()
    x[torch.rand(p.size) < 0.05] = float("nan")
    windows = [w[:1] + w[2:] for w in (p.kernel, p.stride, p.padding, p.dilation)]
    value, position = F.max_pool3d(x.transpose(1, 2), *windows, CASES[case][-1], True)
    ours = p.maxima(x)
    torch.testing.assert_close(ours[0], value.transpose(1, 2), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(ours[1], position.transpose(1, 2))


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_forward_and_backward(library, case, channels_last, wide):
    # No barriers: one order is as good as another.
    order = random.choice(hc.ORDERS)
    library.host_cuda_configure(order, 1)
    for code, dtype in enumerate(DTYPES):
        with hc.Arena(library) as arena:
            check(library, arena, Problem(CASES[case]), code, dtype, channels_last, wide)


def check(library, arena, p, code, dtype, channels_last, wide):
    format = torch.channels_last_3d if channels_last else torch.contiguous_format
    x = torch.randint(-3, 4, p.size).to(dtype)
    x[torch.rand(p.size) < 0.05] = float("nan")
    x = arena.place(x.contiguous(memory_format=format))
    value, position, offset = p.maxima(x)
    grad = arena.place(torch.randn(value.shape).to(dtype).contiguous(memory_format=format))
    dx_expected = p.gradient(position, grad)
    inner = 0 if channels_last else 3
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 1e-2}.get(dtype, 1e-5)
    for tile in range(-1, library.tile_count()):
        for index_type, stored in enumerate(INDEX_TYPES):
            y = arena.place(torch.full_like(grad, 77))
            index = None
            if stored is not None:
                index = arena.place(torch.full_like(grad, 77, dtype=stored))
            common = (code, index_type, inner, ctypes.c_int64(p.size[0]), axes(p))
            status = library.forward(
                *common,
                *(pointer(x), strides(x), pointer(y), pointer(index), strides(y), tile, wide),
            )
            hc.check(library, status)
            torch.testing.assert_close(y, value.to(dtype), rtol=0, atol=0, equal_nan=True)
            if stored is None:
                continue
            assert torch.equal(index.long(), position if stored == torch.int64 else offset)
            dx = arena.place(torch.full_like(x, 77))
            status = library.backward(
                *common,
                *(pointer(grad), strides(grad), pointer(index), strides(index)),
                *(pointer(dx), strides(dx), tile, wide),
            )
            hc.check(library, status)
            torch.testing.assert_close(dx.double(), dx_expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", ["channels 2", "channels 4", "joint 2", "joint 4"])
def test_vectors_are_used_where_they_fit(library, case):
    """A result does not tell which kernel made it."""
    before = set(coverage.launches(library))
    with hc.Arena(library) as arena:
        check(library, arena, Problem(CASES[case]), 0, torch.float32, True, False)
    for tile in (1, 2):
        for launcher in ("forward_cuda", "backward_cuda"):
            new = set(coverage.launches(library)) - before
            new = [r for r in new if (r.launcher, r.tile) == (launcher, tile)]
            assert any(r.arguments[-1] != "0" for r in new), f"{launcher}, tile {tile}: {new}"


def run_sanitized(library):
    """Each case in one dtype of both layouts and both widths of indices, for test_sanitizers.py."""
    for number, case in enumerate(CASES.values()):
        for turn in range(2):
            code = (number + turn) % len(DTYPES)
            with hc.Arena(library) as arena:
                wide = (number + turn) % 3 == 0
                check(library, arena, Problem(case), code, DTYPES[code], turn == 1, wide)
