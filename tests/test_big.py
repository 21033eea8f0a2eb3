# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""More than 2^31 elements, bytes per plane, and positions.

Memory that is asked for and never touched costs nothing: a convolution with wide strides reads a
few pages of a huge tensor.  What writes all of a huge tensor needs the memory, and is skipped where
there is too little; FASTCONV_BIG=1 also runs what takes more than eight GB or many seconds.
"""

import mmap
import os
import pathlib

import pytest
import torch
import torch.nn.functional as F

import fastconv
from fastconv import reference

GB = 10**9
pytestmark = pytest.mark.big
more = pytest.mark.skipif(os.environ.get("FASTCONV_BIG") != "1", reason="set FASTCONV_BIG=1")


def free_memory():
    """Bytes that this process may still take, by the kernel's and the container's account."""
    info = pathlib.Path("/proc/meminfo")
    if not info.is_file():
        return 0
    lines = dict(line.split(":") for line in info.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    group = pathlib.Path("/sys/fs/cgroup")
    if (group / "memory.max").is_file() and (group / "memory.max").read_text().strip() != "max":
        limit, used = ((group / f"memory.{n}").read_text() for n in ("max", "current"))
        free = min(free, int(limit) - int(used))
    return free


def need(gigabytes):
    if free_memory() < gigabytes * GB:
        pytest.skip(f"needs {gigabytes} GB of memory, {free_memory() / GB:.1f} are free")


def huge(shape, dtype, order=None):
    """Zeros that take no memory until they are written, in the given order of dimensions."""
    order = order or range(len(shape))
    try:
        memory = mmap.mmap(-1, torch.Size(shape).numel() * dtype.itemsize)
    except OSError as error:
        pytest.skip(f"no address space: {error}")
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # one element would make two MB of zeros
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    t = torch.frombuffer(memory, dtype=dtype).view([shape[d] for d in order])
    return t.permute(sorted(range(len(shape)), key=list(order).__getitem__))


def pattern(n):
    """n bytes whose period is no divisor of 2^31 or 2^32, as offsets that wrap around are."""
    out, period = torch.empty(n, dtype=torch.int8), 1_000_003
    block = torch.randint(-128, 128, (period,)).to(torch.int8)
    whole = n // period * period
    out[:whole].view(-1, period).copy_(block)
    out[whole:].copy_(block[: n - whole])
    return out


LAST = 2**21 + 3  # rows of 1025: more than 2^31 elements


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "columns first"])
def test_convolution_with_offsets_beyond_31_bits(layout, dtype):
    """Planes of more than 2^31 elements; the windows are few and far between."""
    order = {"contiguous": None, "channels_last": (0, 2, 3, 1), "columns first": (0, 1, 3, 2)}
    channels = 5 if layout == "channels_last" else 1
    shape = (1, channels, LAST // channels + 1, 1025)
    stride = (2**18 // channels, 16)
    x = huge(shape, dtype, order[layout])
    rows = torch.arange(0, shape[2], stride[0])
    near = (rows[:, None] + torch.arange(-1, 2)).clamp(0, shape[2] - 1).unique()
    # Small integers: sums are exact, and rounded at most once, at the end.
    x[:, :, near] = torch.randint(-3, 4, (1, channels, len(near), 1025)).to(dtype)
    w = torch.randint(-3, 4, (channels, 1, 3, 3)).to(dtype).requires_grad_()
    b = torch.randint(-3, 4, (channels,)).to(dtype).requires_grad_()
    y = fastconv.depthwise_conv2d(x, w, b, stride=stride, padding=1)
    # The same windows side by side: stride 3 over their rows, the first and last padded.
    parts = [x[:, :, max(r - 1, 0) : r + 2].double() for r in rows.tolist()]
    parts[0] = F.pad(parts[0], (0, 0, 1, 0))
    parts[-1] = F.pad(parts[-1], (0, 0, 0, 3 - parts[-1].shape[2]))
    small, leaves = torch.cat(parts, 2), [t.detach().double().requires_grad_() for t in (w, b)]
    want = reference.depthwise_conv2d(small, *leaves, (3, 16), ((0, 0), (1, 1)))
    assert torch.equal(y, want.to(dtype))
    grad = torch.randint(-1, 2, y.shape).double()
    got = torch.autograd.grad(y, (w, b), grad.to(dtype))
    for a, e in zip(got, torch.autograd.grad(want, leaves, grad), strict=True):
        assert torch.equal(a, e.to(dtype))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_transposed_convolution_with_offsets_beyond_31_bits(layout):
    """Of a huge image padding leaves a few rows in the middle, behind 2^31 elements."""
    order, channels = (None, 1) if layout == "contiguous" else ((0, 2, 3, 1), 5)
    rows = 2 * LAST // channels
    skipped = rows // 2 - 3
    out = rows + 2 - 2 * skipped
    x = huge((1, channels, rows, 1025), torch.bfloat16, order)
    first = skipped - 2  # output o is a sum over the rows o + skipped - (0, 1, 2)
    near = x[:, :, first : skipped + out]
    near[...] = torch.randint(-3, 4, near.shape).bfloat16()
    assert first * x.stride(2) > 2**31
    w = torch.randint(-3, 4, (channels, 1, 3, 3)).bfloat16()
    y = fastconv.depthwise_conv_transpose2d(x, w, padding=(skipped, 0))
    want = reference.depthwise_conv_transpose2d(near.double(), w.double(), padding=(2, 0))
    assert torch.equal(y, want.bfloat16())


def test_convolution_of_an_expanded_view():
    """2^31 elements and more that are 4 million floats in memory: zero and overlapping strides."""
    memory = torch.randn(2**16 * 63)
    for shape, strides in (
        ((1, 1, 2**16 + 1, 2**15), (0, 0, 1, 61)),
        ((1, 1, 2**15 + 1, 2**16), (0, 0, 0, 61)),
        ((1, 16, 2**13 + 1, 2**14), (0, 1, 16, 16)),
    ):
        x = memory.as_strided(shape, strides)
        assert x.numel() > 2**31
        w = torch.randn(shape[1], 1, 2, 2)
        s = shape[2] // 16
        y = fastconv.depthwise_conv2d(x, w, stride=s)
        want = sum(
            x[:, :, i::s, j::s][..., : y.shape[2], : y.shape[3]] * w[:, 0, i, j].view(-1, 1, 1)
            for i in (0, 1)
            for j in (0, 1)
        )
        torch.testing.assert_close(y, want)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_pooling_with_positions_beyond_31_bits(layout):
    """Indices count the whole image: they, too, need 64 bits."""
    shape = (1, LAST, 5, 205)
    x = huge(shape, torch.bfloat16, (0, 2, 3, 1) if layout == "channels_last" else None)
    step = 2**19
    starts = list(range(0, LAST - 1, step))
    for c in starts:
        x[:, c : c + 2] = torch.randn(1, 2, 5, 205).bfloat16()
    pooled, index = fastconv.depth_max_pool(x, 2, step, return_indices=True)
    assert torch.equal(pooled, fastconv.depth_max_pool(x, 2, step))
    for i, c in enumerate(starts):
        value, which = x[0, c : c + 2].max(0)
        assert torch.equal(pooled[0, i], value)
        assert torch.equal(index[0, i], (c + which) * 1025 + torch.arange(1025).view(5, 205))
    assert index.max() > 2**31


def test_space_to_depth_of_more_than_2_31_bytes():
    need(6)
    height, width = 2 * 23171, 2 * 23173  # 2^31 and a few elements
    x = pattern(height * width).view(1, 1, height, width)
    assert x.numel() > 2**31
    y = fastconv.space_to_depth(x, 2, "crd")
    for k in range(4):
        dy, dx = divmod(k, 2)
        for rows in torch.arange(23171).tensor_split(64):
            r = slice(int(rows[0]), int(rows[-1]) + 1)
            assert torch.equal(y[0, k, r], x[0, 0, dy::2, dx::2][r]), (k, r)


@more
def test_depth_to_space_and_shuffle_of_more_than_2_31_bytes():
    need(6)
    x = pattern(4 * 23171 * 23173).view(1, 4, 23171, 23173)
    y = fastconv.depth_to_space(x, 2, "dcr")
    for k in range(4):
        dy, dx = divmod(k, 2)
        for rows in torch.arange(23171).tensor_split(64):
            r = slice(int(rows[0]), int(rows[-1]) + 1)
            assert torch.equal(y[0, 0, dy::2, dx::2][r], x[0, k, r]), (k, r)
    del y
    z = fastconv.channel_shuffle(x, 2)
    for c, source in enumerate((0, 2, 1, 3)):
        assert torch.equal(z[0, c], x[0, source]), c
    del z
    last = x.view(1, 23171, 23173, 4).permute(0, 3, 1, 2)
    z = fastconv.channel_shuffle(last, 2)
    for c, source in enumerate((0, 2, 1, 3)):
        for rows in torch.arange(23171).tensor_split(16):
            r = slice(int(rows[0]), int(rows[-1]) + 1)
            assert torch.equal(z[0, c, r], last[0, source, r]), (c, r)


@more
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradients_of_more_than_2_31_elements(layout):
    """An input gradient of five GB: of a convolution, and of pooling."""
    need(12)
    order = (0, 2, 3, 1) if layout == "channels_last" else None
    x = huge((1, 3, LAST // 3 + 1, 1025), torch.bfloat16, order).requires_grad_()
    w = torch.randn(3, 1, 3, 3).bfloat16()
    stride = (2**17, 16)
    y = fastconv.depthwise_conv2d(x, w, stride=stride)
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
    for r in range(0, x.shape[2], 2**14):
        want = torch.zeros(3, min(2**14, x.shape[2] - r), 1025).bfloat16()
        if r % stride[0] == 0 and r // stride[0] < y.shape[2]:
            for i in range(3):
                for j in range(3):
                    want[:, i, j :: stride[1]][:, : y.shape[3]] = w[:, 0, i, j, None]
        assert torch.equal(dx[0, :, r : r + 2**14], want), r
    del dx, y
    y = fastconv.depth_max_pool(x, (2, 1, 1), (1, *stride))
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
    for r in range(0, x.shape[2], 2**14):
        want = torch.zeros(3, min(2**14, x.shape[2] - r), 1025).bfloat16()
        if r % stride[0] == 0:
            want[:2, 0, :: stride[1]] = 1  # zeros everywhere: the first channel of each pair wins
        assert torch.equal(dx[0, :, r : r + 2**14], want), r
