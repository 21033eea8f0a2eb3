# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Depthwise convolution's CUDA kernels for large 2-D filters, on the host executor."""

import dataclasses
import random

import host_cuda_harness as hc
import pytest
import torch
from depthwise_conv_cases import DTYPES, PASSES, Run, load
from test_depthwise_conv import VARIANTS, conv2d, same
from test_depthwise_conv_edges import meeting_products

LARGE = {
    "9x9": conv2d((12, 16), (9, 9), pad=same((9, 9)), batch=2, channels=16),
    "13x13": conv2d((14, 14), (13, 13), pad=same((13, 13)), batch=2, channels=8),
    "15x12": conv2d((10, 40), (15, 12), pad=same((15, 12)), batch=1, channels=4),
    "11x11, odd": conv2d((13, 11), (11, 11), pad=same((11, 11)), batch=3, channels=5),
    "31x31": conv2d((16, 24), (31, 31), pad=same((31, 31)), batch=1, channels=8),
    "27x27 on 7x7": conv2d((7, 7), (27, 27), pad=same((27, 27)), batch=5, channels=8),
    "51x5": conv2d((20, 8), (51, 5), pad=same((51, 5)), batch=1, channels=8),
    "5x51": conv2d((6, 40), (5, 51), pad=same((5, 51)), batch=1, channels=8),
    "1x17": conv2d((5, 24), (1, 17), pad=same((1, 17)), batch=2, channels=8),
    "17x1": conv2d((24, 5), (17, 1), pad=same((17, 1)), batch=2, channels=8),
    "no padding": conv2d((14, 19), (9, 10), batch=1, channels=4),
    "asymmetric": conv2d((11, 12), (9, 9), pad=((8, 0), (1, 5)), batch=1, channels=4),
    "wide padding": conv2d((3, 5), (9, 9), pad=((12, 10), (11, 14)), batch=1, channels=4),
    "crop": conv2d((16, 17), (9, 9), pad=((-2, -1), (-3, 2)), batch=1, channels=4),
    "multiplier 3": conv2d((9, 16), (9, 9), pad=same((9, 9)), batch=1, channels=4, multiplier=3),
    "many images": conv2d((14, 10), (9, 9), pad=same((9, 9)), batch=35, channels=1),
    # A block of the weight's gradient works through two tiles.
    "many channels": conv2d((66, 3), (9, 2), pad=same((9, 2)), batch=1, channels=530),
    "several tiles": conv2d((70, 136), (9, 3), pad=same((9, 3)), batch=1, channels=2),
}


@pytest.fixture(scope="module")
def library():
    torch.set_num_threads(1)
    return load()


def large_tiles(run, which):
    return [t for t in run.tiles(which) if run.library.tile_name(t).startswith(b"large")]


def check_large(library, case, seed, passes=PASSES):
    run = Run(library, case, seed)
    try:
        seen = 0
        for which in passes:
            for tile in large_tiles(run, which):
                run.check(which, tile, order=(tile + seed) % 3, seed=seed)
                seen += 1
        return seen
    finally:
        run.close()


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("name", LARGE)
def test_large(library, name, channels_last):
    """Each case meets two dtypes in each layout, and all four in both."""
    number = list(LARGE).index(name)
    for dtype in list(DTYPES)[(number + channels_last) % 2 :: 2]:
        case = dataclasses.replace(LARGE[name], channels_last=channels_last, dtype=dtype)
        assert check_large(library, case, random.getrandbits(20))


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(library, variant, dtype, channels_last):
    case = dataclasses.replace(
        LARGE["9x9"], channels_last=channels_last, dtype=dtype, **VARIANTS[variant]
    )
    assert check_large(library, case, random.getrandbits(20))


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["9x9", "15x12", "crop", "27x27 on 7x7"])
def test_nonfinite_values_reach_only_their_own_outputs(library, name, dtype, channels_last):
    for bad in (float("nan"), float("inf")):
        case = dataclasses.replace(LARGE[name], dtype=dtype, channels_last=channels_last)
        run = Run(library, case, 1)
        for tensor in (run.x, run.dy):
            y, x = tensor.shape[3] // 2, tensor.shape[4] // 2
            tensor[0, 1, 0, 0, 2] = tensor[-1, 0, 0, -1, -1] = tensor[0, 2, 0, y, x] = bad
        rounding = 1e-4 if dtype == torch.float32 else 1e-2
        for which in PASSES[:2]:
            expected = run.reference(which)[0][0]
            assert expected.isfinite().any() and not expected.isfinite().all()
            for tile in large_tiles(run, which):
                y = run.run(which, tile)[0].double()
                torch.testing.assert_close(
                    y, expected, rtol=rounding, atol=rounding, equal_nan=True
                )
        run.close()


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["9x9", "13x13", "crop", "several tiles"])
def test_weight_gradient_of_infinities(library, name, dtype, channels_last):
    """They reach the taps that meet them: padding does not make NaN of them."""
    for bad in (float("inf"), float("nan")):
        case = dataclasses.replace(
            LARGE[name], dtype=dtype, channels_last=channels_last, channels=4
        )
        run = Run(library, case, 1)
        run.dy[0, 0, 0, 0, 0] = run.dy[-1, 1, -1, -1, -1] = bad
        run.x[0, 2, 0, 0, 0] = run.x[-1, 3, -1, -1, -1] = bad
        expected = meeting_products(run.case, run.x, run.dy)
        rounding = 1e-4 if dtype == torch.float32 else 2e-2
        for tile in large_tiles(run, "backward_weight"):
            dw = run.run("backward_weight", tile, order=tile % 3)[0].double()
            torch.testing.assert_close(dw, expected, rtol=rounding, atol=rounding, equal_nan=True)
        run.close()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pick(library, dtype, channels_last):
    """Tensor cores for 16-bit types, strips in registers for the others and for narrow filters."""
    more = {"batch": 2, "channels": 64, "dtype": dtype, "channels_last": channels_last}
    half = dtype in (torch.float16, torch.bfloat16)
    for kernel in ((9, 9), (31, 31), (5, 51), (51, 5), (17, 3), (9, 2), (3, 17), (7, 7)):
        run = Run(library, conv2d((24, 28), kernel, pad=same(kernel), **more), 0)
        for which in PASSES:
            name = library.tile_name(run.picked(which)).decode()
            band = kernel[0] if which == "backward_weight" else kernel[1]
            if max(kernel) > 7:
                assert name == ("large_bands" if half and band >= 5 else "large_strips")
            else:
                assert "large" not in name
        run.close()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("which", PASSES)
def test_results_do_not_depend_on_the_schedule(library, which, channels_last):
    case = dataclasses.replace(
        LARGE["15x12"], channels_last=channels_last, dtype=torch.bfloat16, channels=16
    )
    run = Run(library, case, 3)
    try:
        for tile in large_tiles(run, which):
            first = run.run(which, tile)
            for order in hc.ORDERS:
                for again, before in zip(
                    run.run(which, tile, order, seed=order), first, strict=True
                ):
                    assert torch.equal(again, before)
    finally:
        run.close()


@pytest.mark.parametrize("which", PASSES)
def test_tiles_that_do_not_fit_are_refused(library, which):
    """Strides, dilations, three dimensions, fp32 on the tensor cores, too large a filter."""
    several = dataclasses.replace(conv2d((9, 9), (9, 9), batch=1, channels=2), kernel=(2, 9, 9),
                                  size=(3, 9, 9))  # fmt: skip
    for case, unfit in (
        (conv2d((12, 12), (9, 9), (1, 2), batch=1, channels=2), {"large_strips", "large_bands"}),
        (conv2d((20, 20), (9, 9), (1, 1), (2, 1), batch=1, channels=2),
         {"large_strips", "large_bands"}),
        (several, {"large_strips", "large_bands"}),
        (conv2d((12, 12), (9, 9), batch=1, channels=2), {"large_bands"}),
        (conv2d((400, 400), (400, 400), batch=1, channels=2), {"large_strips", "large_bands"}),
    ):  # fmt: skip
        run = Run(library, case, 0)
        names = {t: library.tile_name(t).decode() for t in range(library.tile_count())}
        large = {t for t, n in names.items() if n.startswith("large")}
        refused = large - set(large_tiles(run, which))
        assert {names[t] for t in refused} == unfit
        assert run.picked(which) not in refused
        for tile in refused:
            with pytest.raises(RuntimeError, match=f"cudaError {hc.CUDA_ERROR_INVALID_VALUE}"):
                run.run(which, tile)
        run.close()
