# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Line kernels where images, borders or sizes are out of the ordinary."""

import dataclasses
import random

import pytest
import torch
from depthwise_conv_cases import DTYPES, FUSED, ROUNDING, Run, load
from test_depthwise_conv_line import DOWN, LAYOUTS, along, check_lines, lines


@pytest.fixture(scope="module")
def library():
    torch.set_num_threads(1)
    return load()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_images_out_of_step(library, dtype):
    """One channel, aligned: where a line begins between aligned addresses is the image's affair.

    Lines of 8 n + 7 elements leave a vector no room to begin elsewhere; x and y differ by an odd
    number, so that vectors of one are aligned where those of the other are for one image at most.
    """
    for longer in (0, 1):  # x, or y
        odd = 2 * random.randrange(-2, 3) + 1
        length = 8 * random.randrange(2, 5) + 7 - (odd if longer else 0)
        begin = random.randrange(5)
        case = along(
            2,
            (1, 1, length),
            4,
            (begin, 3 + odd - begin),
            batch=random.choice([2, 3]),
            channels=1,
            offset=8,
            dtype=dtype,
        )
        assert case.out[2] == length + odd
        check_lines(library, case, random.getrandbits(20), {"line_rows"})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_one_element_expanded(library, dtype):
    """A line of stride 0 has no vectors, though it is the only one and in step with any other."""
    length = random.randrange(20, 40)
    case = along(2, (1, 1, length), 4, batch=1, channels=1, dtype=dtype, view="expanded")
    check_lines(library, case, random.getrandbits(20), {"line_rows"})


# Filters far from most of the input or the output: taps, padding, and the length of x.
FAR = {
    "pad": (4, (41, 17), 30),
    "pad, 8 taps": (8, (20, 21), 30),
    "pad, 31 taps": (31, (75, 70), 20),
    "crop": (4, (-45, -11), 80),
    "crop, 8 taps": (8, (-21, -20), 70),
    "crop, 31 taps": (31, (-40, -12), 90),
}


@LAYOUTS
@pytest.mark.parametrize("name", FAR)
def test_what_meets_nothing_may_be_anything(library, name, channels_last):
    """Elements that no tap joins to another are in no product, not even with a zero."""
    taps, pad, length = FAR[name]
    case = along(2, (1, 1, length), taps, pad, batch=1, channels=8)
    dtype = random.choice(list(DTYPES))
    case = dataclasses.replace(case, channels_last=channels_last, dtype=dtype, bias=False)
    run = Run(library, case, random.getrandbits(20))
    meets = torch.zeros(case.out[2], length)  # whether a tap joins them
    for k in range(taps):
        at = torch.arange(case.out[2]) + k - pad[0]
        there = (at >= 0) & (at < length)
        meets[there.nonzero()[:, 0], at[there]] = 1
    idle = [  # the values, and where they meet nothing
        (run.x.detach(), ~meets.any(0).expand_as(run.x)),
        (run.dy.detach(), ~meets.any(1).expand_as(run.dy)),
    ]
    assert any(places.any() for _, places in idle)
    for which in ("backward_weight", FUSED):
        expected = [value for value, _ in run.reference(which)]
        for tile in lines(run, which).values():
            for values, places in idle:
                values[places] = random.choice([float("inf"), -float("inf"), float("nan")])
            got = run.run(which, tile, order=tile % 3)
            for values, places in idle:
                values[places] = 0
            for result, want in zip(got, expected, strict=True):
                torch.testing.assert_close(
                    result.double(), want, rtol=2 * ROUNDING[dtype], atol=1e-4
                )
    run.close()


def test_empty_axes(library):
    """Gradients of no rows, no lines, no neighbours."""
    for axis, size, channels_last in DOWN.values():
        for i in range(3):
            sizes = tuple(0 if i == j else n for j, n in enumerate(size))
            case = along(axis, sizes, 3, (2, 0), batch=2, channels=16, channels_last=channels_last)
            check_lines(library, case, 0)
    for i in range(3):
        sizes = tuple(0 if i == j else 5 for j in range(3))
        check_lines(library, along(2, sizes, 3, (2, 0), batch=2, channels=3), 0)
