# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""The CUDA kernels of the rearrangements, executed on the host: every tile, every element size."""

import ctypes
import random

import coverage
import host_cuda_harness as hc
import numpy as np
import pytest

SOURCES = ["rearrange.cpp", *hc.room_sources("rearrange")]
DTYPES = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64, 16: np.complex128}
REGISTERS = 1  # the only tile that some problems do not fit

# The sizes of a dense input and the order in which the output takes its axes.
CASES = {
    "s2d nchw 2x2": ((2, 3, 4, 2, 10, 2), (0, 1, 3, 5, 2, 4)),
    "d2s nchw 2x2": ((2, 3, 2, 2, 4, 16), (0, 1, 4, 2, 5, 3)),
    "d2s nchw 2x2, odd row": ((1, 3, 2, 2, 3, 7), (0, 1, 4, 2, 5, 3)),
    "s2d nchw 3x3": ((1, 2, 5, 3, 11, 3), (0, 1, 3, 5, 2, 4)),
    "d2s nchw 3x3": ((1, 2, 3, 3, 6, 50), (0, 1, 4, 2, 5, 3)),
    "d2s nchw 4x4": ((1, 2, 4, 4, 3, 12), (0, 1, 4, 2, 5, 3)),
    "s2d nchw 4x4": ((1, 2, 3, 4, 12, 4), (0, 1, 3, 5, 2, 4)),
    "s2d nhwc crd 2x2": ((2, 3, 2, 5, 2, 16), (0, 1, 3, 5, 2, 4)),
    "d2s nhwc crd 2x2": ((2, 3, 5, 16, 2, 2), (0, 1, 4, 2, 5, 3)),
    "d2s nhwc crd 3x3": ((1, 3, 4, 21, 3, 3), (0, 1, 4, 2, 5, 3)),
    "s2d nhwc crd 4x4": ((1, 2, 4, 3, 4, 5), (0, 1, 3, 5, 2, 4)),
    "s2d nhwc dcr 2x2": ((2, 3, 2, 5, 2, 16), (0, 1, 3, 2, 4, 5)),
    "d2s nhwc focus 2x3, three channels": ((1, 3, 5, 3, 2, 3), (0, 1, 4, 2, 3, 5)),
    "s2d 3-D": ((1, 2, 3, 2, 2, 2, 5, 3), (0, 1, 3, 5, 7, 2, 4, 6)),
    "channel shuffle nchw": ((2, 3, 4, 25), (0, 2, 1, 3)),
    "channel shuffle nhwc": ((30, 8, 29), (0, 2, 1)),
    "transpose": ((130, 150), (1, 0)),
    "one element": ((1,), (0,)),
}


@pytest.fixture(scope="module")
def library():
    return hc.build("rearrange", SOURCES)


def copy(library, view, tile, wide, order=None):
    """Copies `view` into a dense array of its shape; returns the status and the array."""
    order = random.choice(hc.ORDERS) if order is None else order
    library.host_cuda_configure(order, int(np.random.default_rng().integers(1 << 30)))
    # Without the alignment that vectors need, memory ends at the last element to the byte.
    align = 16 if tile == REGISTERS else random.choice([view.itemsize, 16])
    blank = np.empty(view.shape, view.dtype)
    blank.view(np.uint8)[...] = 0xA5
    with hc.Arena(library) as arena:
        source, target = fenced(arena, view, align), fenced(arena, blank, align)
        return run(library, source, target, tile, wide), target.copy()


def fenced(arena, array, align):
    """A copy with the same strides and the same offset from alignment, between guard pages."""
    last = sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True))
    offset = array.ctypes.data % 16
    size = offset + last + array.itemsize
    raw = np.frombuffer(arena.memory(size, align=align), np.uint8, size)
    out = np.ndarray(array.shape, array.dtype, raw, offset, array.strides)
    np.copyto(out, array)
    return out


def run(library, view, out, tile, wide):
    axes = [n for axis in zip(view.shape, view.strides, out.strides, strict=True) for n in axis]
    return library.rearrange_copy(
        ctypes.c_void_p(view.ctypes.data),
        ctypes.c_void_p(out.ctypes.data),
        ctypes.c_int64(view.itemsize),
        view.ndim,
        (ctypes.c_int64 * len(axes))(*axes),
        tile,
        wide,
    )


def check(library, view, tile, wide=0, order=None):
    status, out = copy(library, view, tile, wide, order)
    if tile == REGISTERS and status == hc.CUDA_ERROR_INVALID_VALUE:
        return False
    hc.check(library, status)
    assert np.ascontiguousarray(view).tobytes() == out.tobytes()
    return True


def randoms(shape, element):
    count = int(np.prod(shape)) * element
    data = np.random.default_rng().integers(0, 256, count, np.uint8)
    return data.view(DTYPES[element]).reshape(shape)


def tiles(library):
    return range(-1, library.rearrange_tile_count())


@pytest.mark.parametrize("element", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_parity(library, name, element):
    sizes, order = CASES[name]
    view = randoms(sizes, element).transpose(order)
    for tile in tiles(library):
        for wide in (0, 1):
            check(library, view, tile, wide)


@pytest.mark.parametrize("order", hc.ORDERS)
@pytest.mark.parametrize("tile", [2, 3])
def test_barriers(library, tile, order):
    assert check(library, randoms((3, 8, 290), 4).transpose(0, 2, 1), tile, order=order)


@pytest.mark.parametrize("element", [1, 2, 4])
def test_registers_apply(library, element):
    for name in ("s2d nchw 2x2", "d2s nchw 2x2", "d2s nchw 2x2, odd row", "d2s nchw 4x4",
                 "s2d nchw 4x4", "s2d nhwc crd 2x2", "d2s nhwc crd 2x2"):  # fmt: skip
        sizes, order = CASES[name]
        assert check(library, randoms(sizes, element).transpose(order), REGISTERS), name
    for name in ("d2s nchw 3x3", "transpose"):
        sizes, order = CASES[name]
        assert not check(library, randoms(sizes, element).transpose(order), REGISTERS), name


@pytest.mark.parametrize("element", DTYPES)
@pytest.mark.parametrize("name", ["s2d nchw 2x2", "d2s nhwc crd 2x2", "s2d nhwc dcr 2x2"])
def test_strides_and_alignment(library, name, element):
    sizes, order = CASES[name]
    count = int(np.prod(sizes))
    shifted = randoms((count + 3,), element)[3:].reshape(sizes)
    padded = randoms((*sizes[:-2], sizes[-2] + 1, sizes[-1] + 3), element)
    padded = padded[..., : sizes[-2], : sizes[-1]]
    stepped = randoms((*sizes[:-1], 2 * sizes[-1]), element)[..., ::2]
    expanded = np.broadcast_to(randoms((*sizes[:-1], 1), element), sizes)
    for view in (shifted, padded, stepped, expanded):
        for tile in tiles(library):
            check(library, view.transpose(order), tile)


@pytest.mark.parametrize("wide", [0, 1])
@pytest.mark.parametrize("interleave", [False, True])
@pytest.mark.parametrize("element", [1, 2, 4, 8])
def test_every_pack_of_registers(library, element, interleave, wide):
    """Each number of pieces and lanes; the last with more packs than a round of a block takes."""
    for pieces in (2, 4):
        lanes = 1
        while element * pieces * lanes <= 16:
            for count in (3, 3 * 700):
                rows = randoms((pieces, lanes * count), element)
                view = rows.T if interleave else np.ascontiguousarray(rows.T).T
                assert check(library, view, REGISTERS, wide), (pieces, lanes, count)
            lanes *= 2


@pytest.mark.parametrize("wide", [0, 1])
def test_as_many_axes_as_there_may_be(library, wide):
    """Nothing behind the last axis is read."""
    view = randoms((2,) * 12, 1).transpose()
    for tile in (0, 2, 3):
        assert check(library, view, tile, wide)


@pytest.mark.parametrize(
    ("name", "element", "kernel", "threads"),
    [
        ("transpose", 4, "copy_boxes", 256),
        ("transpose", 1, "copy_boxes", 512),
        ("s2d nchw 3x3", 4, "copy_boxes", 256),
        ("s2d nchw 2x2", 4, "copy_registers", 256),
        ("d2s nchw 2x2", 4, "copy_registers", 256),
        ("s2d nhwc dcr 2x2", 4, "copy_runs", 256),
        ("one element", 4, "copy_runs", 256),
        ("stepped", 4, "copy_runs", 256),
    ],
)
def test_pick(library, name, element, kernel, threads):
    """A result does not tell which kernel made it: the record of launches does."""
    if name == "stepped":  # no axis of the input is contiguous
        view = randoms((9, 10, 14), element)[:, ::2, ::2].transpose(0, 2, 1)
    else:
        sizes, order = CASES[name]
        view = randoms(sizes, element).transpose(order)
    for tile, expected in ((-1, (kernel, threads)), (0, ("copy_runs", 256))):
        before = coverage.launches(library)
        assert check(library, view, tile)
        (new,) = set(coverage.launches(library)) - set(before)
        assert (new.kernel, new.threads) == expected


# Bytes of a run, and of the units that its length or the tensors' alignment leaves.
LONG_RUNS = [(16, 1), (17, 1), (31, 1), (18, 2), (98, 2), (20, 4), (196, 4), (33, 1), (1028, 4)]


@pytest.mark.parametrize("wide", [0, 1])
@pytest.mark.parametrize(("length", "unit"), LONG_RUNS)
def test_runs_that_no_vector_fits(library, length, unit, wide):
    """Every distance of the output from an aligned address; few runs, and more than a block's."""
    before = set(coverage.launches(library))
    for rows in (1, 3, 700 if length < 100 else 150):
        view = randoms((2, rows, length // unit + 1), unit)[..., 1:].transpose(1, 0, 2)
        for shift in range(0, 16, unit):
            blank = np.zeros(view.size * unit + 16, np.uint8)
            with hc.Arena(library) as arena:
                source = fenced(arena, view, unit)
                raw = fenced(arena, blank[: view.size * unit + shift], 16)
                out = raw[shift:].view(view.dtype).reshape(view.shape)
                library.host_cuda_configure(random.choice(hc.ORDERS), 1)
                hc.check(library, run(library, source, out, 0, wide))
                assert out.tobytes() == view.tobytes() and not raw[:shift].any()
    new = set(coverage.launches(library)) - before  # with how often: all that ran
    assert {launch.kernel for launch in new} == {"copy_long_runs"}


def test_blocks_go_round(library):
    """More boxes than blocks."""
    assert check(library, randoms((33, 400, 401), 1).transpose(0, 2, 1), 2)


def test_unknown_tile(library):
    status, _ = copy(library, randoms((2, 2), 4), library.rearrange_tile_count(), 0)
    assert status == hc.CUDA_ERROR_INVALID_VALUE


def run_sanitized(library):
    """The edges of boxes above all, for test_sanitizers.py."""
    for element in (1, 4, 16):
        for name in ("d2s nchw 3x3", "d2s nhwc crd 2x2", "s2d nchw 4x4", "channel shuffle nhwc",
                     "channel shuffle nchw"):  # fmt: skip
            sizes, order = CASES[name]
            for tile in tiles(library):
                check(library, randoms(sizes, element).transpose(order), tile)
