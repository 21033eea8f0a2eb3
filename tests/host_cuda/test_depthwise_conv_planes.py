# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Walks over the planes of 3-D tensors: filters of one plane, (1, k, k), and of 3x3x3."""

import dataclasses
import random

import pytest
import torch
from depthwise_conv_cases import DTYPES, PASSES, Case, Run, load
from test_depthwise_conv import conv2d, same
from test_depthwise_conv_edges import meeting_products
from test_depthwise_conv_walk import LAYOUTS, check_walks, walks


@pytest.fixture(scope="module")
def library():
    torch.set_num_threads(1)
    return load()


@LAYOUTS
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 2), (7, 1)])
@pytest.mark.parametrize("view", ["dense", "sliced"])
def test_filters_of_one_plane(library, view, kernel, stride, channels_last):
    """Planes are dense, or far apart."""
    case = conv2d(
        (9, 16),
        (kernel, kernel),
        (stride, stride),
        pad=same((kernel, kernel)),
        batch=2,
        channels=8,
        channels_last=channels_last,
        dtype=random.choice([t for t in DTYPES if kernel < 7 or t != torch.float64]),
        view=view,
    )
    case = dataclasses.replace(case, size=(3, *case.size[1:]))
    run = Run(library, case, 0)
    assert all(walks(run, which) for which in PASSES)
    run.close()
    check_walks(library, case, random.getrandbits(20))


def cube(size, **more):
    return Case(size=size, kernel=(3, 3, 3), pad=same((3, 3, 3)), **more)


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_kind(library, dtype, channels_last):
    forward, weight = {"walk_scalar"}, {"walk_scalar"}
    if channels_last:
        weight |= {"walk_channels"}
        if dtype != torch.float64:
            forward |= {"walk_channels"}
        if dtype in (torch.float16, torch.bfloat16):
            weight |= {"walk_channels16"}
    elif dtype != torch.float64:
        forward |= {"walk_columns4"}
        weight |= {"walk_columns4", "walk_columns8"}
    expected = {"forward": forward, "backward_data": forward, "backward_weight": weight}
    case = cube((4, 9, 16), batch=2, channels=16, channels_last=channels_last, dtype=dtype)
    check_walks(library, case, random.getrandbits(20), expected)


SIZES = [(1, 5, 4), (2, 1, 1), (5, 3, 7), (3, 14, 14), (6, 13, 12), (2, 2, 21)]


@LAYOUTS
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sizes(library, size, channels_last):
    number = SIZES.index(size)
    for dtype in random.sample(list(DTYPES), 2):
        case = cube(
            size,
            batch=1 + number % 3,
            channels=(8, 3, 12)[number % 3],
            channels_last=channels_last,
            dtype=dtype,
            view=("dense", "sliced", "expanded")[number % 3],
            bias=number % 4 > 0,
        )
        check_walks(library, case, random.getrandbits(20))
    # Other paddings of the rows and columns than the filter's half.
    case = cube(size, batch=2, channels=4, channels_last=channels_last)
    case = dataclasses.replace(case, pad=((1, 1), (2, 1), (3, 0)))
    check_walks(library, case, random.getrandbits(20))


@LAYOUTS
def test_many_threads(library, channels_last):
    for size, batch, channels in (((3, 33, 40), 1, 40), ((2, 5, 264), 1, 4), ((4, 3, 8), 9, 72)):
        case = cube(size, batch=batch, channels=channels, channels_last=channels_last)
        dtype = random.choice([torch.float32, torch.bfloat16])
        check_walks(library, dataclasses.replace(case, dtype=dtype), random.getrandbits(20))


@LAYOUTS
def test_transposed_with_bias(library, channels_last):
    case = cube((4, 9, 16), batch=2, channels=8, channels_last=channels_last, transposed=True)
    check_walks(library, case, random.getrandbits(20), passes=PASSES[:2])


@LAYOUTS
def test_nonfinite_values_reach_only_their_own_outputs(library, channels_last):
    case = cube((4, 9, 16), batch=2, channels=8, channels_last=channels_last)
    for bad in (float("nan"), float("inf")):
        run = Run(library, case, 1)
        for t in (run.x, run.dy):
            t[0, 1, 0, 0, 2] = t[-1, 0, 3, -1, -1] = t[0, 3, 1, 4, 3] = bad
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
def test_pick(library, channels_last):
    """And the two passes of a backward stay two."""
    for dtype in (torch.float32, torch.bfloat16):
        case = cube((4, 28, 28), batch=1, channels=8, channels_last=channels_last, dtype=dtype)
        run = Run(library, case, 0)
        name = "walk_channels" if channels_last else "walk_columns4"
        assert [library.tile_name(run.picked(which)).decode() for which in PASSES] == [name] * 3
        assert run.picked("backward") == -1
        run.close()
