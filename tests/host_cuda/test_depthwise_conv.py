# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Every tile of every pass of depthwise convolution's CUDA kernels, on the host executor."""

import dataclasses
import random

import host_cuda_harness as hc
import pytest
import torch
from depthwise_conv_cases import DTYPES, FUSED, PASSES, Case, Run, load


def conv1d(size, kernel, stride=1, dilation=1, pad=(0, 0), **more):
    return Case(
        size=(1, 1, size),
        kernel=(1, 1, kernel),
        stride=(1, 1, stride),
        dilation=(1, 1, dilation),
        pad=((0, 0), (0, 0), pad),
        **more,
    )


def conv2d(size, kernel, stride=(1, 1), dilation=(1, 1), pad=((0, 0), (0, 0)), **more):
    return Case(
        size=(1, *size),
        kernel=(1, *kernel),
        stride=(1, *stride),
        dilation=(1, *dilation),
        pad=((0, 0), *pad),
        **more,
    )


def same(kernel):
    return tuple(((k - 1) // 2, k // 2) for k in kernel)


CASES = {
    "3x3": conv2d((9, 11), (3, 3), pad=same((3, 3)), batch=2, channels=16),
    "3x3 stride 2": conv2d((9, 12), (3, 3), (2, 2), pad=same((3, 3)), batch=2, channels=16),
    "3x3 stride 3": conv2d((10, 11), (3, 3), (3, 3), pad=same((3, 3)), batch=1, channels=8),
    "3x3 dilation 2": conv2d((9, 8), (3, 3), (1, 1), (2, 2), ((2, 2), (2, 2)), batch=2, channels=8),
    "dilation and stride 2": conv2d(
        (11, 10), (3, 3), (2, 2), (2, 2), ((2, 1), (1, 2)), batch=1, channels=8
    ),
    "dilation 2, stride 3": conv2d(
        (13, 12), (3, 4), (3, 3), (2, 2), ((2, 1), (1, 2)), batch=1, channels=8
    ),
    "dilation 6, stride 4": conv2d(
        (20, 21), (3, 2), (4, 4), (6, 6), ((3, 5), (2, 6)), batch=1, channels=4
    ),
    "stride above the kernel": conv2d((11, 13), (2, 1), (4, 5), batch=1, channels=8),
    "stride above the size": conv2d((3, 4), (3, 3), (9, 7), pad=same((3, 3)), batch=1, channels=8),
    "mixed strides": conv2d((9, 10), (3, 5), (1, 2), pad=same((3, 5)), batch=2, channels=8),
    "5x5": conv2d((8, 7), (5, 5), pad=same((5, 5)), batch=2, channels=8),
    "5x5 stride 2": conv2d((9, 12), (5, 5), (2, 2), pad=same((5, 5)), batch=1, channels=8),
    "7x7": conv2d((7, 7), (7, 7), pad=same((7, 7)), batch=2, channels=24),
    "7x7 stride 2": conv2d((14, 13), (7, 7), (2, 2), pad=same((7, 7)), batch=1, channels=8),
    "9x9": conv2d((9, 10), (9, 9), pad=same((9, 9)), batch=1, channels=8),
    "13x4": conv2d((12, 9), (13, 4), pad=same((13, 4)), batch=1, channels=8),
    "31x31": conv2d((8, 9), (31, 31), pad=same((31, 31)), batch=1, channels=8),
    "51x5": conv2d((20, 6), (51, 5), pad=same((51, 5)), batch=1, channels=8),
    "1x1": conv2d((4, 5), (1, 1), batch=2, channels=8),
    "1x1 stride 2": conv2d((5, 5), (1, 1), (2, 2), batch=2, channels=8),
    "asymmetric": conv2d((9, 8), (3, 3), pad=((2, 0), (0, 3)), batch=1, channels=8),
    "asymmetric, stride 2": conv2d(
        (9, 8), (4, 3), (2, 2), pad=((3, 0), (0, 2)), batch=1, channels=8
    ),
    "crop": conv2d((11, 12), (3, 3), pad=((-2, 1), (1, -3)), batch=1, channels=8),
    "crop, stride 2": conv2d(
        (11, 12), (3, 3), (2, 2), pad=((-3, 1), (-1, -2)), batch=1, channels=8
    ),
    "all padding": conv2d((1, 2), (3, 3), pad=((4, 3), (5, 4)), batch=1, channels=8),
    "multiplier 2": conv2d((7, 8), (3, 3), pad=same((3, 3)), batch=2, channels=4, multiplier=2),
    "multiplier 3, stride 2": conv2d(
        (7, 8), (3, 3), (2, 2), pad=same((3, 3)), batch=1, channels=5, multiplier=3
    ),
    "multiplier of one channel": conv2d((7, 8), (5, 3), batch=1, channels=1, multiplier=8),
    "odd channels": conv2d((7, 9), (3, 3), pad=same((3, 3)), batch=1, channels=5),
    "many channels": conv2d((3, 4), (3, 3), pad=same((3, 3)), batch=1, channels=528),
    "small planes": conv2d((2, 2), (3, 3), pad=same((3, 3)), batch=5, channels=40),
    "many strips": conv2d((40, 50), (3, 3), pad=same((3, 3)), batch=2, channels=8),
    "causal": conv1d(70, 4, pad=(3, 0), batch=2, channels=16),
    "causal, dilated": conv1d(50, 3, dilation=4, pad=(8, 0), batch=2, channels=8),
    "1-D, long filter": conv1d(40, 33, pad=(32, 0), batch=1, channels=8),
    "1-D, stride 4": conv1d(41, 8, 4, pad=(2, 3), batch=1, channels=8),
    # (taps + 1) * channels is one more than the columns of a block that adds up splits.
    "1-D, 33 sums": conv1d(45, 32, pad=(3, 0), batch=1, channels=1),
    "3x3x3": Case(1, 8, (4, 5, 6), (3, 3, 3), pad=same((3, 3, 3))),
    "3x3x3 stride 2": Case(1, 8, (5, 6, 7), (3, 3, 3), (2, 2, 2), pad=same((3, 3, 3))),
    "3x5x5, stride 1x2x2": Case(1, 8, (4, 7, 8), (3, 5, 5), (1, 2, 2), pad=same((3, 5, 5))),
    "3-D, all different": Case(
        2, 3, (6, 5, 7), (2, 3, 4), (2, 1, 3), (1, 2, 1), ((1, 0), (2, 1), (-1, 3)), multiplier=2
    ),
}
VARIANTS = {
    "": {},
    "unaligned": {"offset": 1},
    "sliced": {"view": "sliced"},
    "expanded": {"view": "expanded"},
    "no bias": {"bias": False},
}


@pytest.fixture(scope="module")
def library():
    torch.set_num_threads(1)
    return load()


def check_all(library, case, seed, passes=(*PASSES, FUSED)):
    """Every tile that fits, each under a schedule of its own."""
    run = Run(library, case, seed)
    try:
        tiles_seen = 0
        for which in passes:
            tiles = run.tiles(which)
            # Two passes may be better than one.
            assert run.picked(which) in (tiles if which in PASSES else [-1, *tiles])
            for tile in tiles:
                run.check(which, tile, order=(tile + seed) % 3, seed=seed)
                tiles_seen += 1
        return tiles_seen
    finally:
        run.close()


# Each case meets two dtypes in each layout; all four between the layouts and the neighbours.
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("name", CASES)
def test_cases(library, name, channels_last):
    number = list(CASES).index(name)
    for dtype in list(DTYPES)[(number + channels_last) % 2 :: 2]:
        case = dataclasses.replace(CASES[name], channels_last=channels_last, dtype=dtype)
        assert check_all(library, case, random.getrandbits(20))


# Every CASE whose strides, dilations, pads or multipliers are a matter of their own.
TRANSPOSED = [
    n for n in CASES if any(w in n for w in ("stride", "3x3", "multiplier", "1-D", "all"))
]


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed(library, name, channels_last):
    """The gradient of the input with a bias, and several filters per channel on its side."""
    number = list(CASES).index(name)
    for multiplier in {CASES[name].multiplier, 1 + number % 3}:
        dtype = list(DTYPES)[(number + channels_last + multiplier) % 4]
        more = {"channels_last": channels_last, "dtype": dtype, "multiplier": multiplier}
        case = dataclasses.replace(CASES[name], transposed=True, **more)
        assert check_all(library, case, random.getrandbits(20), PASSES[:2])


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(library, variant, dtype, channels_last):
    case = dataclasses.replace(
        CASES["3x3"], channels_last=channels_last, dtype=dtype, **VARIANTS[variant]
    )
    check_all(library, case, random.getrandbits(20))


def test_every_tile_is_covered(library):
    """Both layouts together use each tile in each pass; only even windows are no gradient's.

    Walks, lines and large filters have tests of their own.
    """
    for which in PASSES:
        seen = set()
        for channels_last in (False, True):
            run = Run(library, dataclasses.replace(CASES["3x3"], channels_last=channels_last), 0)
            seen.update(run.tiles(which))
            run.close()
        names = {library.tile_name(t).decode() for t in range(library.tile_count())}
        missing = names - {library.tile_name(t).decode() for t in seen}
        assert {n for n in missing if not n.startswith(("walk_", "line_", "large_"))} == (
            {f"{kind}_window{width}" for kind in ("pack", "scalar") for width in (2, 4)}
            if which == "backward_weight"
            else set()
        )


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_results_do_not_depend_on_the_schedule(library, which, channels_last):
    run = Run(library, dataclasses.replace(CASES["many strips"], channels_last=channels_last), 3)
    try:
        first = run.run(which, -1)
        for order in hc.ORDERS:
            for again, before in zip(run.run(which, -1, order, seed=order), first, strict=True):
                assert torch.equal(again, before)
    finally:
        run.close()


@pytest.mark.parametrize("channels_last", [False, True])
def test_filter_too_large_for_shared_memory(library, channels_last):
    case = conv1d(25010, 25003, batch=1, channels=1, bias=True, channels_last=channels_last)
    run = Run(library, case, 5)
    try:
        for which in PASSES[:2]:
            assert library.tile_name(run.picked(which)) == b"wide"
        run.check("forward", -1)
        run.check("backward_data", -1)
    finally:
        run.close()


@pytest.mark.parametrize("channels_last", [False, True])
def test_empty(library, channels_last):
    more = {"channels": 8, "channels_last": channels_last}
    for case in (
        conv2d((4, 5), (3, 3), batch=0, **more),
        conv2d((0, 5), (3, 3), pad=((2, 2), (1, 1)), batch=2, **more),
        conv2d((2, 5), (3, 3), batch=2, **more),  # no output
    ):
        check_all(library, case, 0)


def test_tile_that_does_not_fit_is_refused(library):
    run = Run(library, dataclasses.replace(CASES["odd channels"], channels_last=True), 0)
    try:
        for which in PASSES:
            unfit = set(range(library.tile_count())) - set(run.tiles(which))
            assert unfit
            for tile in [*unfit, library.tile_count()]:
                with pytest.raises(RuntimeError, match=f"cudaError {hc.CUDA_ERROR_INVALID_VALUE}"):
                    run.run(which, tile)
    finally:
        run.close()


@pytest.mark.parametrize(
    ("case", "tile"),
    [
        (conv2d((56, 56), (3, 3), batch=1, channels=64), "window3"),
        (conv2d((56, 56), (3, 3), (2, 2), batch=1, channels=64), "window3"),
        (conv2d((56, 56), (4, 4), batch=1, channels=64), "window4"),
        (conv2d((56, 56), (5, 5), batch=1, channels=64), "window5"),
        (conv2d((56, 56), (7, 7), batch=1, channels=64), "window7"),
        (conv2d((56, 56), (3, 3), (1, 1), (2, 2), batch=1, channels=64), "any"),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pick(library, case, tile, dtype):
    case = dataclasses.replace(case, pad=((1, 1), *case.pad[1:]))  # planes alone would walk
    for channels_last, prefix in ((True, "pack"), (False, "scalar")):
        run = Run(library, dataclasses.replace(case, dtype=dtype, channels_last=channels_last), 0)
        assert library.tile_name(run.picked("forward")).decode() == f"{prefix}_{tile}"
        run.close()
