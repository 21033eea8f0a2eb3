# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Small problems for what changes of single bounds in depthwise convolution's kernels show."""

import dataclasses
import random

import host_cuda_harness as hc
import pytest
import torch
from depthwise_conv_cases import PASSES, Run, load
from test_depthwise_conv import conv2d, same

LAYOUTS = pytest.mark.parametrize(
    "channels_last", [False, True], ids=["contiguous", "channels_last"]
)


@pytest.fixture(scope="module")
def library():
    torch.set_num_threads(1)
    return load()


@pytest.fixture(params=[True, False], ids=["at_end", "at_start"])
def aligned_memory(request, monkeypatch):
    """Tensors end, or begin, at a page that cannot be touched."""
    monkeypatch.setattr(random, "random", lambda: 0.0 if request.param else 1.0)


def check(library, case, start, passes=PASSES, orders=(hc.REVERSE,)):
    """All tiles whose names begin with ``start``, in each order."""
    run = Run(library, case, random.getrandbits(20))
    try:
        seen = 0
        for which in passes:
            for tile in run.tiles(which):
                if library.tile_name(tile).decode().startswith(start):
                    for order in orders:
                        run.check(which, tile, order=order, seed=1)
                    seen += 1
        assert seen
    finally:
        run.close()


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch", [1, 3, 5])
def test_large_filters_read_no_image_behind_the_last(
    library, aligned_memory, batch, dtype, channels_last
):
    """Several images share a block where planes are small: the last block has room for more."""
    case = conv2d((5, 7), (9, 9), pad=same((9, 9)), batch=batch, channels=1, dtype=dtype)
    check(library, dataclasses.replace(case, channels_last=channels_last), "large_")


@LAYOUTS
@pytest.mark.parametrize("size", [(31, 9), (9, 35), (26, 33)])
def test_bands_of_many_rows_and_columns(library, size, channels_last):
    """All groups of eight rows and both tiles of columns of a warp, at borders."""
    case = conv2d(size, (9, 9), pad=same((9, 9)), batch=1, channels=1, dtype=torch.bfloat16)
    orders = (hc.FORWARD, hc.REVERSE)
    check(
        library,
        dataclasses.replace(case, channels_last=channels_last),
        "large_bands",
        orders=orders,
    )


@LAYOUTS
def test_tiles_that_lie_in_the_padding(library, channels_last):
    """Whole tiles of results that meet no row of the input."""
    pad = ((70, 66), (4, 4))
    case = conv2d((3, 5), (9, 9), pad=pad, batch=1, channels=2, dtype=torch.bfloat16)
    check(library, dataclasses.replace(case, channels_last=channels_last), "large_")
