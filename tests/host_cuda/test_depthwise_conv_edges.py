# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Depthwise convolution's CUDA kernels where values are not finite, and its second stage alone."""

import ctypes
import dataclasses
import itertools
import math

import host_cuda_harness as hc
import pytest
import torch
from depthwise_conv_cases import PASSES, Run, load
from test_depthwise_conv import CASES


@pytest.fixture(scope="module")
def library():
    torch.set_num_threads(1)
    return load()


@pytest.mark.parametrize("name", ["3x3", "3x3 stride 2", "9x9", "dilation and stride 2", "crop"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_nonfinite_values_reach_only_their_own_outputs(library, name, channels_last):
    for bad in (float("nan"), float("inf"), -float("inf")):
        run = Run(library, dataclasses.replace(CASES[name], channels_last=channels_last), 1)
        run.x[0, 1, 0, 0, 2] = run.x[-1, 0, 0, -1, -1] = bad
        run.dy[0, 1, 0, 0, 2] = run.dy[-1, 0, 0, -1, -1] = bad
        for which in PASSES[:2]:
            expected = run.reference(which)[0][0]
            for tile in run.tiles(which):
                y = run.run(which, tile)[0].double()
                torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
        run.close()


def meeting_products(case, x, dy):
    """dw in float64 from products of two elements alone: nothing is multiplied by padding."""
    dw = torch.zeros(case.channels * case.multiplier, *case.kernel, dtype=torch.float64)
    wide = x.double().repeat_interleave(case.multiplier, 1)
    for tap in itertools.product(*map(range, case.kernel)):
        outs, ins = [], []
        for i, k in enumerate(tap):
            at = torch.arange(case.out[i]) * case.stride[i] + k * case.dilation[i] - case.pad[i][0]
            inside = (at >= 0) & (at < case.size[i])
            outs.append(inside.nonzero()[:, 0])
            ins.append(at[inside])
        every = slice(None)
        products = dy.double()[(every, every, *torch.meshgrid(*outs, indexing="ij"))]
        products = products * wide[(every, every, *torch.meshgrid(*ins, indexing="ij"))]
        dw[(every, *tap)] = products.sum((0, 2, 3, 4))
    return dw


@pytest.mark.parametrize(
    "name",
    ["3x3", "3x3 stride 2", "5x5 stride 2", "7x7", "9x9", "dilation and stride 2", "3x3x3"],
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_weight_gradient_of_infinities(library, name, channels_last):
    """They reach the taps that meet them: neither padding nor absent outputs make NaN of them."""
    for bad in (float("inf"), float("nan")):
        run = Run(library, dataclasses.replace(CASES[name], channels_last=channels_last), 1)
        # At corners, where a strip ends: a channel of dy, another of x.
        run.dy[0, 0, 0, 0, 0] = run.dy[-1, 1, -1, -1, -1] = bad
        run.x[0, 2, 0, 0, 0] = run.x[-1, 3, -1, -1, -1] = bad
        expected = meeting_products(run.case, run.x, run.dy)
        assert expected.isfinite().any() and not expected.isfinite().all()
        for tile in run.tiles("backward_weight"):
            dw = run.run("backward_weight", tile, order=tile % 3)[0].double()
            torch.testing.assert_close(dw, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
        run.close()


@pytest.mark.parametrize("order", hc.ORDERS)
@pytest.mark.parametrize("splits", [1, 15, 16, 40])
def test_second_stage_goes_round(library, order, splits):
    """As it does where there are more sums than 65,536 blocks take at once."""
    taps, channels = 9, 37
    partial = torch.randn(splits, taps + 1, channels)
    library.host_cuda_configure(order, splits)
    with hc.Arena(library) as arena:
        partial = arena.place(partial)
        dw = arena.place(torch.full((channels, taps), math.nan))
        db = arena.place(torch.full((channels,), math.nan))
        sums = [ctypes.c_int64(n) for n in (splits, taps, channels)]
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in (partial, dw, db)]
        hc.check(library, library.add_splits(pointers[0], *sums, *pointers[1:], 3))
        expected = partial.double().sum(0)
        torch.testing.assert_close(dw.double(), expected[:taps].T, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(db.double(), expected[taps], rtol=1e-5, atol=1e-5)


def test_failure_of_the_first_stage_is_reported(library):
    assert library.gradient_without_kernel() == hc.CUDA_ERROR_INVALID_VALUE
