# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Every tile of depth max pooling's CUDA kernels, on the host executor."""

import ctypes

import host_cuda_harness as hc
import pytest
import torch
import torch.nn.functional as F

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]  # in the order of Dtype
INDEX_TYPES = [None, torch.uint8, torch.int32, torch.int64]  # in the order of IndexType

# (size, kernel, stride, padding, dilation, ceil_mode)
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
}


@pytest.fixture(scope="module")
def library():
    return hc.build("depth_max_pool", ["depth_max_pool.cpp", *hc.room_sources("depth_max_pool")])


def longs(values):
    return (ctypes.c_int64 * len(values))(*values)


def strides(t):
    n, c, h, w = (
        1 if size == 1 else stride for size, stride in zip(t.shape, t.stride(), strict=True)
    )
    return longs([n, c, 0, h, w])


def axes(size, out, kernel, stride, padding, dilation):
    rows = [list(row) for row in zip(size, out, kernel, stride, dilation, padding, strict=True)]
    return longs(rows[0] + [1, 1, 1, 1, 1, 0] + rows[1] + rows[2])


def pointer(t):
    return ctypes.c_void_p(None if t is None else t.data_ptr())


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_forward_and_backward(library, case, channels_last, wide):
    format = torch.channels_last if channels_last else torch.contiguous_format
    library.host_cuda_configure(hc.RANDOM, 1)  # no barriers: one order is as good as another
    for code, dtype in enumerate(DTYPES):
        with hc.Arena(library) as arena:
            check(library, arena, CASES[case], code, dtype, format, wide)


def check(library, arena, case, code, dtype, format, wide):
    size, kernel, stride, padding, dilation, ceil_mode = case
    channels_last = format == torch.channels_last
    x = torch.randint(-3, 4, size).to(dtype)
    x[torch.rand(size) < 0.05] = float("nan")
    x = arena.place(x.contiguous(memory_format=format))
    leaf = x.double().contiguous().unsqueeze(1).requires_grad_()
    windows = (kernel, stride, padding, dilation)
    expected, positions = F.max_pool3d(leaf, *windows, ceil_mode, True)
    expected, positions = expected.squeeze(1), positions.squeeze(1)
    grad = torch.randn(expected.shape).to(dtype).contiguous(memory_format=format)
    grad = arena.place(grad)
    expected.backward(grad.double())
    shape = axes(size[1:], expected.shape[1:], *windows)
    inner = 0 if channels_last else 3
    for tile in range(-1, library.tile_count()):
        for index_type, stored in enumerate(INDEX_TYPES):
            y = arena.place(torch.full_like(grad, 77))
            index = None
            if stored is not None:
                index = arena.place(torch.full_like(grad, 77, dtype=stored))
            common = (code, index_type, inner, ctypes.c_int64(size[0]), shape)
            status = library.forward(
                *common,
                pointer(x),
                strides(x),
                pointer(y),
                pointer(index),
                strides(y),
                tile,
                wide,
            )
            hc.check(library, status)
            torch.testing.assert_close(
                y, expected.detach().to(dtype), rtol=0, atol=0, equal_nan=True
            )
            if stored is None:
                continue
            if stored == torch.int64:
                assert torch.equal(index, positions)
            dx = arena.place(torch.full_like(x, 77))
            status = library.backward(
                *common,
                *(pointer(grad), strides(grad), pointer(index), strides(index)),
                *(pointer(dx), strides(dx), tile, wide),
            )
            hc.check(library, status)
            tolerance = {torch.float16: 2e-3, torch.bfloat16: 1e-2}.get(dtype, 1e-5)
            torch.testing.assert_close(
                dx.double(), leaf.grad.squeeze(1), rtol=tolerance, atol=tolerance
            )
