# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Both gradients of a square filter in one pass: walk_backward_kernel."""

import dataclasses
import random

import host_cuda_harness as hc
import pytest
import torch
from depthwise_conv_cases import DTYPES, FUSED, PASSES, Run, load
from test_depthwise_conv import conv2d, same
from test_depthwise_conv_edges import meeting_products

LAYOUTS = pytest.mark.parametrize(
    "channels_last", [False, True], ids=["contiguous", "channels_last"]
)
KERNELS = pytest.mark.parametrize("kernel", [3, 5])


@pytest.fixture(scope="module")
def library():
    torch.set_num_threads(1)
    return load()


def square(kernel, size, depth=1, **more):
    case = conv2d(size, (kernel, kernel), pad=same((kernel, kernel)), **more)
    return dataclasses.replace(case, size=(depth, *size))


def tiles(run):
    return {run.library.tile_name(t).decode(): t for t in run.tiles(FUSED)}


def check(library, case, seed, expected=None):
    run = Run(library, case, seed)
    try:
        found = tiles(run)
        assert expected is None or set(found) == expected
        for name, tile in found.items():
            run.check(FUSED, tile, order=(seed + len(name)) % 3, seed=seed)
    finally:
        run.close()


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@KERNELS
def test_every_kind(library, kernel, dtype, channels_last):
    expected = {"walk_scalar"}
    if kernel == 5 and dtype != torch.float32:
        expected = set()
    elif dtype == torch.float64:
        pass
    elif not channels_last:
        expected |= {"walk_columns4"}
    elif kernel == 3:
        expected |= {"walk_channels"}
    more = {"channels": 8, "channels_last": channels_last, "dtype": dtype}
    case = square(kernel, (random.randint(9, 13), 16), batch=2, **more)
    check(library, case, random.getrandbits(20), expected)


SIZES = [(1, 1), (1, 8), (9, 1), (2, 3), (7, 7), (11, 13), (12, 20)]


@LAYOUTS
@KERNELS
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sizes(library, size, kernel, channels_last):
    number = SIZES.index(size) + kernel // 2
    halves = (torch.float16, torch.bfloat16)
    for dtype in (torch.float32, halves[number % 2])[: 2 if kernel == 3 else 1]:
        case = square(
            kernel,
            size,
            depth=1 + number % 2,
            batch=1 + number % 3,
            channels=(8, 3, 12)[number % 3],
            channels_last=channels_last,
            dtype=dtype,
            view=("dense", "sliced", "expanded")[number % 3],
            bias=number % 4 > 0,
            offset=number % 5 // 4,
        )
        check(library, case, random.getrandbits(20))


# More packs or strips than a block has threads, several segments, several splits.
@LAYOUTS
@pytest.mark.parametrize(
    ("size", "batch", "channels"), [((33, 40), 1, 72), ((5, 264), 1, 6), ((3, 8), 30, 40)]
)
@KERNELS
def test_many_threads(library, size, batch, channels, kernel, channels_last):
    dtype = random.choice([torch.float32, torch.float16, torch.bfloat16][: 3 if kernel == 3 else 1])
    more = {"batch": batch, "channels": channels, "channels_last": channels_last}
    check(library, square(kernel, size, dtype=dtype, **more), random.getrandbits(20))


@LAYOUTS
@KERNELS
def test_infinities(library, kernel, channels_last):
    """They reach what meets them, and nothing beside a border."""
    for bad in (float("nan"), float("inf")):
        for width in (9, 16):
            case = square(kernel, (9, width), batch=2, channels=8, channels_last=channels_last)
            run = Run(library, case, 1)
            for c, (row, column) in enumerate(((0, 0), (0, -1), (-1, 0), (-1, -1), (4, 3))):
                run.x[0, c, 0, row, column] = run.dy[1, c, 0, row, column] = bad
            expected = meeting_products(case, run.x, run.dy)
            assert expected.isfinite().any() and not expected.isfinite().all()
            dx_expected = run.reference("backward_data")[0][0]
            for tile in tiles(run).values():
                dx, dw, _ = run.run(FUSED, tile, order=tile % 3)
                for got, want in ((dx, dx_expected), (dw, expected)):
                    torch.testing.assert_close(
                        got.double(), want, rtol=1e-4, atol=1e-4, equal_nan=True
                    )
            run.close()


@LAYOUTS
@KERNELS
def test_results_do_not_depend_on_the_schedule(library, kernel, channels_last):
    case = square(kernel, (12, 16), batch=3, channels=24, channels_last=channels_last)
    run = Run(library, case, 3)
    try:
        for tile in tiles(run).values():
            first = run.run(FUSED, tile)
            for order in hc.ORDERS:
                again = run.run(FUSED, tile, order, seed=order)
                assert all(map(torch.equal, again, first))
    finally:
        run.close()


# kernel, size, channels: what serves NCHW and NHWC of fp32, bf16 and fp64; None: two passes do.
PICKS = [
    (3, (56, 56), 8, ("walk_columns4",) * 2, ("walk_channels",) * 2, "walk_scalar"),
    (3, (14, 14), 8, ("walk_scalar",) * 2, ("walk_channels",) * 2, "walk_scalar"),
    (3, (9, 9), 7, ("walk_scalar",) * 2, ("walk_scalar",) * 2, "walk_scalar"),
    (5, (28, 28), 8, ("walk_columns4", None), ("walk_scalar", None), None),
    (5, (7, 7), 8, ("walk_scalar", None), ("walk_scalar", None), None),
    (7, (28, 28), 8, (None, None), (None, None), None),
]


@pytest.mark.parametrize(("kernel", "size", "channels", "contiguous", "last", "double"), PICKS)
def test_pick(library, kernel, size, channels, contiguous, last, double):
    for channels_last, names in ((False, contiguous), (True, last)):
        dtypes = (torch.float32, torch.bfloat16, torch.float64)
        for dtype, name in zip(dtypes, (*names, double), strict=True):
            more = {"channels": channels, "channels_last": channels_last, "dtype": dtype}
            run = Run(library, square(kernel, size, batch=1, **more), 0)
            tile = run.picked(FUSED)
            assert (None if tile < 0 else library.tile_name(tile).decode()) == name
            run.close()


def test_what_takes_two_passes(library):
    """One property at a time, and a gradient of the weight that walks by itself."""
    more = {"batch": 1, "channels": 8}
    refused = [
        conv2d((9, 9), (3, 3), (2, 2), pad=same((3, 3)), **more),
        conv2d((9, 9), (3, 3), pad=((1, 0), (1, 2)), **more),
        conv2d((9, 9), (3, 3), pad=((2, 0), (1, 1)), **more),
        conv2d((9, 9), (3, 3), pad=((1, 1), (0, 2)), **more),
        conv2d((9, 9), (3, 3), pad=((1, 1), (1, 3)), **more),
        conv2d((9, 9), (7, 7), pad=same((7, 7)), **more),
    ]
    for case in refused:
        for channels_last in (False, True):
            run = Run(library, dataclasses.replace(case, channels_last=channels_last), 0)
            assert not tiles(run), case
            assert run.picked(FUSED) == -1
            for which in PASSES[1:]:
                assert any(library.tile_name(t).startswith(b"walk_") for t in run.tiles(which))
            run.close()
