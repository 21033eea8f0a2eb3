# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Which line kernel is picked, and what none of them takes."""

import ctypes
import dataclasses

import host_cuda_harness as hc
import pytest
import torch
from depthwise_conv_cases import FUSED, PASSES, Run, load
from test_depthwise_conv_line import EVERY, LAYOUTS, along, lines


@pytest.fixture(scope="module")
def library():
    torch.set_num_threads(1)
    return load()


def picked(library, case, which):
    run = Run(library, case, 0)
    try:
        tile = run.picked(which)
        return None if tile < 0 else library.tile_name(tile).decode()
    finally:
        run.close()


# axis, sizes, channels, kernel: forward and backward of NCHW, and of NHWC, in fp32 and bf16.
PICKS = [
    (2, (1, 1, 2048), 16, 4, ("line_rows", "line_rows"), ("line_down", "line_down")),
    (2, (1, 1, 2047), 15, 4, ("line_rows", "line_rows"), ("line_down_scalar", "line_down_scalar")),
    (2, (1, 1, 300), 8, 31, ("line_rows", None), ("line_down", None)),
    (2, (1, 20, 24), 8, 21, ("line_rows", None), ("line_down", None)),
    (1, (1, 20, 24), 8, 21, ("line_down", None), ("line_down", None)),
    (1, (1, 20, 23), 8, 3, ("line_down_scalar", "line_down_scalar"), ("line_down", "line_down")),
    (0, (8, 14, 12), 8, 3, ("line_down", "line_down"), ("line_down", "line_down")),
    (1, (1, 80, 24), 8, 71, ("large_strips", None), ("large_strips", None)),
]


@pytest.mark.parametrize(("axis", "size", "channels", "kernel", "contiguous", "last"), PICKS)
def test_pick(library, axis, size, channels, kernel, contiguous, last):
    for channels_last, names in ((False, contiguous), (True, last)):
        for dtype in (torch.float32, torch.bfloat16):
            case = along(axis, size, kernel, batch=1, channels=channels, dtype=dtype)
            case = dataclasses.replace(case, channels_last=channels_last)
            assert (picked(library, case, "forward"), picked(library, case, FUSED)) == names


@LAYOUTS
def test_pick_of_many_elements(library, channels_last):
    """More than 2^31 elements take a line as well, and 2^30 places of one channel do not."""
    run = Run(library, along(2, (1, 1, 16), 4, "causal", batch=1, channels=8), 0)
    for batch, length, name in ((8, 32768, b"line_"), (32768, 32768, b"wide")):
        for which in PASSES:
            params, _ = run.params(which)
            params.channels_last = channels_last
            params.batch, params.channels = batch, 16384
            params.axis[2].in_ = params.axis[2].out = length
            strides = (16384 * length, 1 if channels_last else length)
            for field in ("x", "y", "dy", "dx"):
                if hasattr(params, f"{field}_strides"):
                    view = getattr(params, f"{field}_strides")
                    view.n, view.c = strides
                    view.sp[2] = 16384 if channels_last else 1
            tile = getattr(library, f"{which}_pick")(ctypes.byref(params))
            assert library.tile_name(tile).startswith(name)
    run.close()


def test_what_a_line_refuses(library):
    """One property at a time."""
    fits = along(2, (1, 4, 24), 3, batch=2, channels=8)
    refused = [
        dataclasses.replace(fits, stride=(1, 1, 2)),
        dataclasses.replace(fits, stride=(1, 2, 1)),
        dataclasses.replace(fits, multiplier=2),
        dataclasses.replace(fits, kernel=(1, 3, 3)),
        dataclasses.replace(fits, pad=((0, 0), (1, 0), (1, 1))),
        dataclasses.replace(fits, kernel=(2, 1, 3), size=(3, 4, 24)),
    ]
    for channels_last in (False, True):
        run = Run(library, dataclasses.replace(fits, channels_last=channels_last), 0)
        assert all(lines(run, which) for which in EVERY)
        run.close()
        for case in refused:
            run = Run(library, dataclasses.replace(case, channels_last=channels_last), 0)
            assert not any(lines(run, which) for which in EVERY), case
            run.close()
    # Lines that do not follow each other in one stride, and filters that no block has room for.
    sliced = along(2, (3, 4, 24), 3, batch=1, channels=8, view="sliced")
    long = along(2, (1, 1, 1100), 1050, batch=1, channels=1)
    for case in (sliced, long):
        run = Run(library, case, 0)
        assert not lines(run, "forward"), case
        run.close()


def test_tile_that_does_not_fit_is_refused(library):
    run = Run(library, along(2, (1, 1, 24), 31, batch=1, channels=8), 0)
    assert not lines(run, FUSED)
    names = [library.tile_name(t).decode() for t in range(library.tile_count())]
    with pytest.raises(RuntimeError, match=f"cudaError {hc.CUDA_ERROR_INVALID_VALUE}"):
        params, _ = run.params(FUSED)
        hc.check(library, library.backward(ctypes.byref(params), names.index("line_rows")))
    run.close()
