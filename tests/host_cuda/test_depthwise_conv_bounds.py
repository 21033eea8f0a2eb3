# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Problems in which one bound of the walks, or of the kernels for large filters, decides.

Each is shaped so that blocks, slices or strips come out as its test says: partly filled, empty, or
full up to their last element.
"""

import ctypes
import dataclasses
import random

import host_cuda_harness as hc
import pytest
import torch
from depthwise_conv_cases import FUSED, PASSES, Case, Run, load
from test_depthwise_conv import conv2d, same
from test_depthwise_conv_edges import meeting_products

LAYOUTS = pytest.mark.parametrize(
    "channels_last", [False, True], ids=["contiguous", "channels_last"]
)


@pytest.fixture(scope="module")
def library():
    torch.set_num_threads(1)
    return load()


@pytest.fixture
def ends_at_page(monkeypatch):
    """Tensors end at a page that cannot be touched."""
    monkeypatch.setattr(random, "random", lambda: 0.0)


def named(run, which, start):
    """The tiles that serve a pass and whose names begin with ``start``."""
    found = [t for t in run.tiles(which) if run.library.tile_name(t).startswith(start)]
    assert found
    return found


def check(library, case, start, passes=PASSES, orders=(hc.FORWARD,)):
    run = Run(library, case, random.getrandbits(20))
    try:
        for which in passes:
            for tile in named(run, which, start):
                for order in orders:
                    run.check(which, tile, order=order, seed=1)
    finally:
        run.close()


# ---- large filters ----


@pytest.mark.parametrize(
    ("batch", "size", "kernel", "pad"),
    [(5, (38, 29), (30, 26), (1, 8)), (7, (40, 9), (20, 18), (4, 15))],
)
def test_bands_without_a_last_image(library, batch, size, kernel, pad):
    """A block has two images, the last one has one: the other's results have no place."""
    case = conv2d(size, kernel, pad=[(p, p) for p in pad], batch=batch, channels=2)
    case = dataclasses.replace(case, channels_last=True, dtype=torch.bfloat16)
    check(library, case, b"large_bands", ["forward"])


def test_bands_without_a_last_channel(library):
    """Nor has a channel that does not exist a bias: here a page ends behind the last one."""
    case = conv2d((5, 9), (9, 9), pad=same((9, 9)), batch=1, channels=17)  # blocks of two
    case = dataclasses.replace(case, channels_last=True, dtype=torch.float16)
    run = Run(library, case, random.getrandbits(20))
    try:
        raw = run.arena.memory(2 * case.channels, at_end=True, align=2)
        run.bias = torch.frombuffer(raw, dtype=case.dtype).copy_(run.bias)
        for tile in named(run, "forward", b"large_bands"):
            run.check("forward", tile)
    finally:
        run.close()


def test_a_filter_row_of_many_steps(library):
    """Nine steps of sixteen columns, an odd number of threes; all that they meet is there."""
    case = conv2d((2, 104), (3, 129), pad=((1, 1), (64, 64)), batch=1, channels=2)
    for dtype in (torch.float16, torch.bfloat16):
        check(library, dataclasses.replace(case, dtype=dtype), b"large_bands", PASSES[:2])


@LAYOUTS
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_infinities_in_every_corner_of_bands(library, bad, channels_last):
    """A warp's 32 rows and columns, to its last result: what is not finite is computed anew."""
    case = conv2d((40, 40), (9, 9), pad=((0, 0), (0, 0)), batch=1, channels=4)
    case = dataclasses.replace(case, dtype=torch.bfloat16, channels_last=channels_last)
    run = Run(library, case, random.getrandbits(20))
    assert run.dy.shape[3:] == (32, 32)
    # Each meets one result of its channel, at a corner of 16 columns or at the border between two.
    for c, (y, x) in enumerate(((-1, -1), (-1, 0), (0, -1), (0, 0))):
        run.x[0, c, 0, y, x] = bad
    expected = run.reference("forward")[0][0]
    assert (~expected.isfinite()).flatten(2).sum(2).eq(1).all()
    try:
        for tile in named(run, "forward", b"large_bands"):
            for order in hc.ORDERS:
                y = run.run("forward", tile, order)[0].double()
                torch.testing.assert_close(y, expected, rtol=1e-2, atol=1e-2, equal_nan=True)
    finally:
        run.close()


@pytest.mark.parametrize("kernel", [(31, 4), (33, 3)])
@pytest.mark.parametrize("padded", [False, True])
def test_all_groups_of_sums(library, padded, kernel):
    """64 rows of dy at a time, and as many filter rows as a warp takes: its last products count."""
    pad = same(kernel) if padded else ((0, 0), same(kernel)[1])
    rows = 64 if padded else 64 + kernel[0] - 1
    case = conv2d((rows, 6), kernel, pad=pad, batch=1, channels=2, dtype=torch.bfloat16)
    orders = (hc.FORWARD, hc.REVERSE)
    check(library, case, b"large_bands", ["backward_weight"], orders)


@LAYOUTS
def test_slices_that_end_before_their_rows(library, channels_last):
    """Tiles of 21 rows in six slices of four, or of 11 in three: the last slice is shorter."""
    case = conv2d((42, 9), (1, 18), pad=((0, 0), (8, 8)), batch=1, channels=3)
    check(library, dataclasses.replace(case, channels_last=channels_last), b"large_strips")


def test_infinities_of_an_image_that_others_lack(library, ends_at_page):
    """A block's items have two images each, the last one has one: its share of a tap ends there."""
    case = conv2d((2, 6), (26, 1), pad=((15, 15), (4, 4)), batch=5, channels=588)
    run = Run(library, case, random.getrandbits(20))
    run.dy[1, 2, 0, 3, 5] = float("inf")
    run.x[3, 587, 0, 1, 2] = -float("inf")
    expected = meeting_products(case, run.x, run.dy)
    assert not expected[2].isfinite().all() and not expected[587].isfinite().all()
    assert expected[3:587].isfinite().all()
    try:
        for tile in named(run, "backward_weight", b"large_strips"):
            dw = run.run("backward_weight", tile)[0].double()
            torch.testing.assert_close(dw, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
    finally:
        run.close()


# ---- walks ----


@LAYOUTS
def test_rows_far_below_the_input(library, ends_at_page, channels_last):
    """Segments that begin where the input has ended read nothing."""
    more = {"batch": 1, "channels": 4, "channels_last": channels_last}
    for kernel, rows in ((3, 3), (3, 5), (5, 3)):  # of five, the second segment begins behind them
        half = kernel // 2
        pad = ((half, 29), (half, half))
        check(library, conv2d((rows, 8), (kernel, kernel), pad=pad, **more), b"walk_")
    cube = Case(size=(2, 3, 8), kernel=(3, 3, 3), pad=((1, 1), (1, 29), (1, 1)), **more)
    check(library, cube, b"walk_")


@LAYOUTS
@pytest.mark.parametrize("stride", [1, 2])
def test_infinities_in_columns_that_are_cropped(library, stride, channels_last):
    """A strip may lack outputs where all of its columns exist."""
    width = 14 if stride == 1 else 18
    pad = ((1, 1), (0, -3))
    case = conv2d((6, width), (3, 3), (stride, stride), pad=pad, batch=2, channels=4)
    case = dataclasses.replace(case, channels_last=channels_last)
    for bad in (float("inf"), float("nan")):
        run = Run(library, case, random.getrandbits(20))
        run.x[..., -3:] = bad
        expected = meeting_products(case, run.x, run.dy)
        assert expected.isfinite().all()
        for tile in named(run, "backward_weight", b"walk_"):
            dw = run.run("backward_weight", tile)[0].double()
            torch.testing.assert_close(dw, expected, rtol=1e-4, atol=1e-4)
        run.close()


@LAYOUTS
def test_both_gradients_of_nothing(library, channels_last):
    """Without rows, columns or images there is nothing to read; the sums are zero."""
    more = {"pad": same((3, 3)), "channels": 8, "channels_last": channels_last}
    for size, batch in (((0, 5), 2), ((4, 0), 2), ((4, 5), 0)):
        check(library, conv2d(size, (3, 3), batch=batch, **more), b"walk_", [FUSED])


@pytest.mark.parametrize("which", ["backward_weight", FUSED])
def test_segments_of_more_rows_than_a_word_has_bits(library, which):
    """A bit for each age of a row: 1,024 segments of 34 rows, in blocks of one thread."""
    case = conv2d((34 * 1024, 3), (3, 3), pad=same((3, 3)), batch=1, channels=1)
    check(library, dataclasses.replace(case, channels_last=True), b"walk_scalar", [which])


# ---- every kernel of two stages ----


@LAYOUTS
@pytest.mark.parametrize("which", ["backward_weight", FUSED])
def test_faults_of_the_first_stage_are_reported(library, which, channels_last):
    """The second one, which would succeed, does not hide them."""
    for kernel, dtype in (
        ((3, 3), torch.float32),
        ((9, 5), torch.bfloat16),
        ((1, 5), torch.float64),
    ):
        rows = 1 if kernel[0] == 1 else 9
        case = conv2d((rows, 8), kernel, pad=same(kernel), batch=1, channels=8, dtype=dtype)
        run = Run(library, dataclasses.replace(case, channels_last=channels_last), 0)
        for tile in run.tiles(which):
            params, _ = run.params(which)
            run.give_workspace(params, tile, which)
            params.x = 1 << 12  # where no memory is
            with pytest.raises(RuntimeError, match=f"cudaError {hc.CUDA_ERROR_LAUNCH_FAILURE}"):
                hc.check(library, getattr(library, which)(ctypes.byref(params), tile))
        run.close()
