# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""The kernels that walk down the rows: filters of 3, 5 and 7 taps a side, at strides 1 and 2."""

import dataclasses
import random

import host_cuda_harness as hc
import pytest
import torch
from depthwise_conv_cases import DTYPES, PASSES, Run, load
from test_depthwise_conv import conv2d, same
from test_depthwise_conv_edges import meeting_products

HALVES = (torch.float16, torch.bfloat16)
LAYOUTS = pytest.mark.parametrize(
    "channels_last", [False, True], ids=["contiguous", "channels_last"]
)


@pytest.fixture(scope="module")
def library():
    torch.set_num_threads(1)
    return load()


def walks(run, which):
    """The walking tiles that serve a pass, by name."""
    names = {t: run.library.tile_name(t).decode() for t in run.tiles(which)}
    return {name: t for t, name in names.items() if name.startswith("walk_")}


def check_walks(library, case, seed, expected=None, passes=PASSES):
    run = Run(library, case, seed)
    try:
        for which in passes:
            tiles = walks(run, which)
            assert expected is None or set(tiles) == expected[which], which
            for name, tile in tiles.items():
                run.check(which, tile, order=(seed + len(name)) % 3, seed=seed)
    finally:
        run.close()


def expected_walks(kernel, stride, dtype, channels_last):
    """Which tiles serve sizes that suit them all."""
    tiles = {"walk_scalar"}
    if channels_last:
        if dtype != torch.float64 or kernel == 3:
            tiles |= {"walk_channels"}
        if kernel == 3 and stride == 1 and dtype in HALVES:
            tiles |= {"walk_channels16"}
    elif dtype != torch.float64:
        tiles |= {"walk_columns4"} | ({"walk_columns8"} if stride == 1 else set())
    expected = dict.fromkeys(PASSES, tiles)
    if dtype == torch.float64 and kernel == 7:
        expected["backward_weight"] = set()
    return expected


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_all_sizes_of_filter(library, kernel, stride, dtype, channels_last):
    case = conv2d(
        (random.randint(9, 13), 16),
        (kernel, kernel),
        (stride, stride),
        pad=same((kernel, kernel)),
        batch=2,
        channels=16,
        channels_last=channels_last,
        dtype=dtype,
    )
    expected = expected_walks(kernel, stride, dtype, channels_last)
    check_walks(library, case, random.getrandbits(20), expected)


def shifted(kernel, begin, end, row_begin, row_end):
    """Paddings: as many columns, and rows, more than the filter's half as told."""
    half = (kernel - 1) // 2
    return (half + row_begin, half + row_end), (half + begin, half + end)


SIZES = {
    "more outputs than inputs": ((6, 16), (0, 8, 3, 5)),
    "far more outputs than inputs": ((4, 8), (0, 24, 9, 0)),
    "fewer outputs than inputs": ((12, 24), (0, -8, -1, -2)),
    "an odd pad": ((9, 16), (1, 3, 1, 0)),
    "crops": ((17, 24), (-5, 0, -6, -4)),
    "odd crops": ((18, 19), (-4, -1, -5, 0)),
    "odd sizes": ((11, 13), (0, 0, 0, 0)),
    "one row": ((1, 8), (0, 0, 0, 0)),
    "one column": ((9, 1), (0, 0, 0, 0)),
    "one pixel": ((1, 1), (0, 0, 0, 0)),
    "7x7": ((7, 7), (0, 0, 0, 0)),
    "14x14": ((14, 14), (0, 0, 0, 0)),
}


@LAYOUTS
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("name", SIZES)
def test_sizes(library, name, kernel, channels_last):
    size, pads = SIZES[name]
    number = list(SIZES).index(name) + kernel // 2
    for stride in (1, 2):
        for dtype in list(DTYPES)[(number + stride) % 2 :: 2]:
            case = conv2d(
                size,
                (kernel, kernel),
                (stride, stride),
                pad=shifted(kernel, *pads),
                batch=1 + number % 3,
                channels=(8, 12, 3)[(number + stride) % 3],
                channels_last=channels_last,
                dtype=dtype,
                view=("dense", "sliced", "expanded")[number % 3],
                bias=number % 4 > 0,
            )
            if min(case.out) > 0:
                check_walks(library, case, random.getrandbits(20))


# Threads enough that each walks more rows than the filter has; more packs or strips than a block
# has threads, and numbers of them that no block width divides.
@LAYOUTS
@pytest.mark.parametrize(
    ("size", "batch", "channels"),
    [((33, 40), 1, 272), ((5, 536), 1, 6), ((3, 8), 2, 524)],
)
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 2), (7, 1)])
def test_many_threads(library, size, batch, channels, kernel, stride, channels_last):
    dtype = random.choice(list(DTYPES))
    case = conv2d(
        size,
        (kernel, kernel),
        (stride, stride),
        pad=same((kernel, kernel)),
        batch=batch,
        channels=channels,
        channels_last=channels_last,
        dtype=dtype,
    )
    check_walks(library, case, random.getrandbits(20))


@LAYOUTS
def test_transposed_with_bias(library, channels_last):
    """The gradient of the input with a bias: the forward pass of a transposed convolution."""
    for kernel, stride in ((3, 1), (3, 2), (5, 2), (7, 2)):
        case = conv2d(
            (10, 16),
            (kernel, kernel),
            (stride, stride),
            pad=same((kernel, kernel)),
            batch=2,
            channels=8,
            channels_last=channels_last,
            transposed=True,
        )
        check_walks(library, case, random.getrandbits(20), passes=PASSES[:2])


@LAYOUTS
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_nonfinite_values_reach_only_their_own_outputs(library, kernel, stride, channels_last):
    case = conv2d(
        (15, 16),
        (kernel, kernel),
        (stride, stride),
        pad=same((kernel, kernel)),
        batch=2,
        channels=8,
        channels_last=channels_last,
    )
    for bad in (float("nan"), float("inf")):
        run = Run(library, case, 1)
        for t in (run.x, run.dy):
            t[0, 1, 0, 0, 2] = t[-1, 0, 0, -1, -1] = t[0, 3, 0, 4, 3] = t[1, 2, 0, 5, 4] = bad
        for which in PASSES[:2]:
            expected = run.reference(which)[0][0]
            for tile in walks(run, which).values():
                y = run.run(which, tile)[0].double()
                torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
        expected = meeting_products(case, run.x, run.dy)
        assert expected.isfinite().any() and not expected.isfinite().all()
        for tile in walks(run, "backward_weight").values():
            dw = run.run("backward_weight", tile, order=tile % 3)[0].double()
            torch.testing.assert_close(dw, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
        run.close()


@LAYOUTS
@pytest.mark.parametrize("where", ["x", "dy"])
def test_weight_gradient_of_infinities_at_borders(library, where, channels_last):
    """One infinity in a corner of one tensor: all taps that do not meet it stay finite."""
    for kernel, stride, width in ((3, 1, 10), (5, 2, 13), (7, 1, 9), (3, 1, 16), (5, 2, 16)):
        pad = same((kernel, kernel))
        case = conv2d((9, width), (kernel, kernel), (stride, stride), pad=pad, batch=1, channels=8)
        run = Run(library, dataclasses.replace(case, channels_last=channels_last), 1)
        for c, (row, column) in enumerate(((0, 0), (0, -1), (-1, 0), (-1, -1))):
            getattr(run, where)[0, c, 0, row, column] = float("inf")
        expected = meeting_products(case, run.x, run.dy)
        assert not expected[:4].isfinite().flatten(1).all(1).any()
        assert expected[:4].isfinite().flatten(1).any(1).all()
        for tile in walks(run, "backward_weight").values():
            dw = run.run("backward_weight", tile, order=tile % 3)[0].double()
            torch.testing.assert_close(dw, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
        run.close()


@LAYOUTS
def test_stride_of_a_single_column(library, channels_last):
    """It may be any number, far outside 32 bits: no address may depend on it."""
    pad = ((1, 1), (1, 1))
    case = conv2d((9, 1), (3, 3), pad=pad, batch=2, channels=8, channels_last=channels_last)
    run = Run(library, case, 4)
    for name in ("x", "dy"):
        t = getattr(run, name)
        strides = (*t.stride()[:4], (1 << 40) + (3 << 29))
        setattr(run, name, t.as_strided(t.shape, strides))
    for which in PASSES:
        tiles = walks(run, which)
        assert tiles
        for tile in tiles.values():
            run.check(which, tile)
    run.close()


def test_weight_gradient_in_parts(library):
    """Without the bias, and the bias alone, which takes no walk by itself."""
    for channels_last in (False, True):
        case = dataclasses.replace(
            conv2d((9, 16), (3, 3), pad=same((3, 3)), batch=2, channels=8),
            channels_last=channels_last,
        )
        for bias in (False, True):
            run = Run(library, dataclasses.replace(case, bias=bias), 2)
            for tile in walks(run, "backward_weight").values():
                run.check("backward_weight", tile)
            run.close()
        run = Run(library, case, 2)
        for tile in (-1, *walks(run, "backward_weight").values()):
            run.check_bias_alone(tile)
        run.close()


@LAYOUTS
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 1), (7, 2)])
def test_results_do_not_depend_on_the_schedule(library, kernel, stride, channels_last):
    case = conv2d(
        (12, 16),
        (kernel, kernel),
        (stride, stride),
        pad=same((kernel, kernel)),
        batch=3,
        channels=24,
        channels_last=channels_last,
    )
    run = Run(library, case, 3)
    try:
        for which in PASSES:
            for tile in walks(run, which).values():
                first = run.run(which, tile)
                for order in hc.ORDERS:
                    again = run.run(which, tile, order, seed=order)
                    assert all(map(torch.equal, again, first))
    finally:
        run.close()


def picked(library, case):
    run = Run(library, case, 0)
    try:
        return [library.tile_name(run.picked(which)).decode() for which in PASSES]
    finally:
        run.close()


# (size, batch, channels, kernel, stride): what serves NCHW, and NHWC; all passes alike, but for
# the gradient of the weight of a filter of even width and the gradient of a stride of 3.
PICKS = [
    ((112, 112), 1, 32, 3, 1, "walk_columns4", "walk_channels"),
    ((56, 56), 8, 128, 3, 1, "walk_columns8", "walk_channels"),
    ((56, 56), 4, 96, 7, 1, "walk_columns4", "walk_channels"),
    ((28, 28), 2, 192, 5, 1, "walk_columns4", "walk_channels"),
    ((112, 112), 1, 16, 3, 2, "walk_columns4", "walk_channels"),
    ((14, 14), 2, 384, 3, 1, "walk_scalar", "walk_channels"),
    ((7, 7), 2, 576, 5, 1, "walk_scalar", "walk_channels"),
    ((30, 30), 1, 10, 3, 1, "walk_scalar", "walk_scalar"),
    ((30, 30), 1, 10, 5, 1, "walk_scalar", "walk_channels"),
    ((32, 32), 1, 7, 7, 1, "walk_columns4", "walk_scalar"),
    ((32, 32), 1, 8, 4, 1, "scalar_window4", "pack_window4"),
    ((32, 32), 1, 8, 3, 3, "scalar_any", "pack_any"),
]


@pytest.mark.parametrize(
    ("size", "batch", "channels", "kernel", "stride", "contiguous", "last"), PICKS
)
def test_pick(library, size, batch, channels, kernel, stride, contiguous, last):
    for channels_last, name in ((False, contiguous), (True, last)):
        for dtype in (torch.float32, torch.bfloat16):
            case = conv2d(
                size,
                (kernel, kernel),
                (stride, stride),
                pad=same((kernel, kernel)),
                batch=batch,
                channels=channels,
                channels_last=channels_last,
                dtype=dtype,
            )
            got = picked(library, case)
            assert got[0] == name
            assert not name.startswith("walk_") or got == [name] * 3


def test_what_a_walk_refuses(library):
    """One property at a time that keeps a problem from walking, or from its vectors."""
    square = {"batch": 1, "channels": 8, "pad": same((3, 3))}
    fits = conv2d((8, 8), (3, 3), **square)
    refused = [
        conv2d((8, 8), (3, 5), batch=1, channels=8, pad=same((3, 5))),
        conv2d((8, 8), (3, 3), (1, 1), (2, 2), **square),
        conv2d((8, 8), (3, 3), (2, 1), **square),
        conv2d((8, 8), (3, 3), multiplier=2, **square),
        dataclasses.replace(fits, size=(2, 8, 8), pad=((1, 1), *fits.pad[1:])),
        dataclasses.replace(fits, size=(3, 8, 8), stride=(2, 1, 1)),
        dataclasses.replace(fits, size=(4, 8, 8), pad=((1, 0), *fits.pad[1:]), kernel=(3, 3, 3)),
        dataclasses.replace(fits, size=(4, 8, 8), pad=((2, 0), *fits.pad[1:]), kernel=(3, 3, 3)),
        dataclasses.replace(fits, size=(4, 8, 8), pad=((1, 1), *fits.pad[1:]), kernel=(2, 3, 3)),
    ]
    for channels_last in (False, True):
        run = Run(library, dataclasses.replace(fits, channels_last=channels_last), 0)
        assert all(walks(run, which) for which in PASSES)
        run.close()
        for case in refused:
            run = Run(library, dataclasses.replace(case, channels_last=channels_last), 0)
            assert not any(walks(run, which) for which in PASSES), case
            run.close()
    scalar = [
        dataclasses.replace(fits, offset=1),
        dataclasses.replace(fits, offset=1, channels_last=True),
        dataclasses.replace(fits, channels=7, channels_last=True),
        dataclasses.replace(fits, view="sliced"),
        conv2d((8, 10), (3, 3), **square),
        conv2d((8, 8), (3, 3), batch=1, channels=8, pad=((1, 1), (0, 2))),
        conv2d((8, 8), (3, 3), batch=1, channels=8, pad=((1, 1), (1, 0))),
    ]
    for case in scalar:
        run = Run(library, case, 0)
        assert all(set(walks(run, which)) == {"walk_scalar"} for which in PASSES), case
        run.close()
