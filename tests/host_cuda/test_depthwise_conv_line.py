# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""The kernels of filters along one axis: 1-D convolutions, and the like of (k, 1) and (k, 1, 1)."""

import ctypes
import dataclasses
import random

import host_cuda_harness as hc
import pytest
import torch
from depthwise_conv_cases import DTYPES, FUSED, PASSES, Case, Run, load
from test_depthwise_conv_edges import meeting_products

EVERY = (*PASSES, FUSED)
LAYOUTS = pytest.mark.parametrize(
    "channels_last", [False, True], ids=["contiguous", "channels_last"]
)


@pytest.fixture(scope="module")
def library():
    torch.set_num_threads(1)
    return load()


def along(axis, sizes, kernel, pad=None, dilation=1, **more):
    """A case whose filter lies along one axis; `sizes` are D, H, W."""
    reach = dilation * (kernel - 1)
    pads, kernels, dilations = [(0, 0)] * 3, [1, 1, 1], [1, 1, 1]
    pads[axis] = {None: (reach // 2, reach - reach // 2), "causal": (reach, 0)}.get(pad, pad)
    kernels[axis], dilations[axis] = kernel, dilation
    return Case(
        size=sizes, kernel=tuple(kernels), pad=tuple(pads), dilation=tuple(dilations), **more
    )


def lines(run, which):
    """The line tiles that serve a pass, by name."""
    names = {t: run.library.tile_name(t).decode() for t in run.tiles(which)}
    return {name: t for t, name in names.items() if name.startswith("line_")}


def check_lines(library, case, seed, expected=None, passes=EVERY):
    """Every line tile that fits; `expected` of them serve the forward pass."""
    run = Run(library, case, seed)
    try:
        served = {}
        for which in passes:
            served[which] = lines(run, which)
            for name, tile in served[which].items():
                run.check(which, tile, order=(seed + len(name)) % 3, seed=seed)
        assert expected is None or set(served["forward"]) == expected
        return served
    finally:
        run.close()


# ---- contiguous lines: line_rows ----

KERNELS = {
    "k1": (1, None, 1),
    "k2 causal": (2, "causal", 1),
    "k3": (3, None, 1),
    "k4 causal": (4, "causal", 1),
    "k4 anticausal": (4, (0, 3), 1),
    "k5": (5, None, 1),
    "k8 causal": (8, "causal", 1),
    "k9": (9, None, 1),
    "k16 more pad": (16, (20, 11), 1),
    "k31": (31, None, 1),
    "k33 causal": (33, "causal", 1),
    "k3 crop": (3, (-2, -3), 1),
    "k2 dilation 2": (2, "causal", 2),
    "k3 dilation 3": (3, None, 3),
    # Each chunk of positions has its tap in front, with nothing of the next one to follow.
    "k3 dilation 4": (3, "causal", 4),
    "k3 dilation 8": (3, "causal", 8),
    "k3 dilation 20": (3, "causal", 20),
    "k4 far pad": (4, (40, 17), 1),
}
WAYS = [
    {},
    {"offset": 1},
    {"offset": 3},
    {"view": "sliced"},
    {"view": "expanded"},
    {"bias": False},
]


@pytest.mark.parametrize("name", KERNELS)
def test_rows(library, name):
    kernel, pad, dilation = KERNELS[name]
    number = list(KERNELS).index(name)
    for i, dtype in enumerate(DTYPES):
        way = WAYS[(number + i) % len(WAYS)]
        length = random.choice([40, 48, 61, 64, 67])
        case = along(
            2, (1, 1, length), kernel, pad, dilation, batch=2, channels=3, dtype=dtype, **way
        )
        served = check_lines(library, case, random.getrandbits(20), {"line_rows"})
        assert set(served["backward_weight"]) == {"line_rows"}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_at_every_alignment(library, dtype):
    """Every distance between outputs' and inputs' aligned addresses, and between lines'."""
    for offset in range(9):
        for length in (16, 21):
            pad = (offset % 5, 3 - offset % 4)
            case = along(2, (1, 2, length), 4, pad, batch=2, channels=2, offset=offset, dtype=dtype)
            check_lines(library, case, random.getrandbits(20), {"line_rows"})


@pytest.mark.parametrize(
    ("size", "batch", "channels", "kernel"),
    [
        ((1, 1, 2500), 1, 2, 4),  # more vectors than a block has threads
        ((1, 1, 9), 5, 150, 3),  # more lines than a block has
        ((3, 5, 40), 2, 3, 31),
        ((1, 1, 1), 3, 70, 4),
        ((2, 1, 700), 40, 1, 5),  # several turns of a gradient's blocks
        ((4, 3, 1), 1, 5, 3),
    ],
)
def test_rows_many(library, size, batch, channels, kernel):
    for dtype in random.sample(list(DTYPES), 2):
        case = along(2, size, kernel, "causal", batch=batch, channels=channels, dtype=dtype)
        check_lines(library, case, random.getrandbits(20), {"line_rows"})


def test_rows_of_other_axes(library):
    """What lies behind the filter's axis is of size 1: the axis is contiguous all the same."""
    for size, axis in (((1, 20, 1), 1), ((21, 1, 1), 0), ((5, 20, 1), 1)):
        case = along(axis, size, 4, batch=2, channels=3)
        check_lines(library, case, random.getrandbits(20), {"line_rows"})


# ---- lines next to each other: line_down ----

DOWN = {
    "NLC": (2, (1, 1, 37), True),
    "NHWC (k, 1)": (1, (1, 19, 5), True),
    "NHWC (1, k)": (2, (1, 3, 18), True),
    "NDHWC (k, 1, 1)": (0, (17, 2, 3), True),
    "NDHWC (1, 1, k)": (2, (2, 3, 16), True),
    "NCHW (k, 1)": (1, (1, 18, 16), False),
    "NCHW (k, 1), planes": (1, (3, 17, 8), False),
    "NCDHW (k, 1, 1)": (0, (18, 4, 6), False),
    "NCDHW (k, 1, 1), one row": (0, (18, 1, 8), False),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", DOWN)
def test_down(library, name, kernel):
    axis, size, channels_last = DOWN[name]
    taps, pad, dilation = KERNELS[kernel]
    number = list(DOWN).index(name) + list(KERNELS).index(kernel)
    way = {"dilation": dilation, "bias": number % 5 > 0, "channels_last": channels_last}
    dtype = list(DTYPES)[number % 4]
    for channels in ((16, 5)[number // 4 % 2],) if channels_last else (3,):
        case = along(axis, size, taps, pad, batch=2, channels=channels, dtype=dtype, **way)
        if min(case.out) <= 0 or (taps == 1 and not channels_last):
            continue  # a single tap lies along any axis, and W serves it best
        packs = channels == 16 or not channels_last
        expected = {"line_down", "line_down_scalar"} if packs else {"line_down_scalar"}
        served = check_lines(library, case, random.getrandbits(20), expected)
        assert set(served[FUSED]) == (expected if taps <= 8 else set())


@pytest.mark.parametrize("name", DOWN)
def test_down_of_views(library, name):
    axis, size, channels_last = DOWN[name]
    for way in WAYS[1:5]:
        for dtype in random.sample(list(DTYPES), 2):
            case = along(
                axis, size, 4, batch=2, channels=16, channels_last=channels_last, dtype=dtype, **way
            )
            check_lines(library, case, random.getrandbits(20))


@pytest.mark.parametrize(
    ("axis", "size", "batch", "channels", "kernel", "channels_last"),
    [
        (2, (1, 1, 150), 1, 16, 4, True),  # several segments
        (2, (1, 1, 9), 3, 600, 4, True),  # several columns of packs
        (2, (1, 1, 30), 40, 8, 3, True),  # several splits
        (1, (1, 40, 520), 1, 2, 3, False),
        (1, (1, 9, 8), 50, 5, 5, False),
        (0, (6, 9, 9), 2, 70, 3, False),
        (1, (1, 1, 64), 2, 3, 4, False),
    ],
)
def test_down_many(library, axis, size, batch, channels, kernel, channels_last):
    more = {"batch": batch, "channels": channels, "channels_last": channels_last}
    for dtype in random.sample(list(DTYPES), 2):
        case = along(axis, size, kernel, dtype=dtype, **more)
        check_lines(library, case, random.getrandbits(20))


# ---- both ----


@LAYOUTS
@pytest.mark.parametrize("kernel", ["k4 causal", "k5", "k31", "k3 dilation 3", "k4 far pad"])
def test_nonfinite_values_reach_only_their_own_outputs(library, kernel, channels_last):
    taps, pad, dilation = KERNELS[kernel]
    for bad in (float("nan"), float("inf")):
        case = along(2, (1, 1, 42), taps, pad, dilation, batch=2, channels=8)
        run = Run(library, dataclasses.replace(case, channels_last=channels_last), 1)
        for t in (run.x, run.dy):
            t[0, 1, 0, 0, 0] = t[-1, 0, 0, 0, -1] = t[0, 3, 0, 0, 17] = bad
        expected = [run.reference(which)[0][0] for which in PASSES[:2]]
        expected.append(meeting_products(case, run.x, run.dy))
        assert expected[2].isfinite().any() and not expected[2].isfinite().all()
        for which, index in (*zip(PASSES, range(3), strict=True), (FUSED, 1)):
            for tile in lines(run, which).values():
                got = run.run(which, tile, order=tile % 3)
                wanted = expected[1:] if which == FUSED else [expected[index]]
                for result, want in zip(got, wanted, strict=False):
                    torch.testing.assert_close(
                        result.double(), want, rtol=1e-4, atol=1e-4, equal_nan=True
                    )
        run.close()


@LAYOUTS
@pytest.mark.parametrize("where", ["x", "dy"])
def test_weight_gradient_of_infinities_at_the_ends(library, where, channels_last):
    for kernel, length in ((3, 10), (4, 16), (9, 13)):
        case = along(2, (1, 1, length), kernel, batch=1, channels=8, channels_last=channels_last)
        run = Run(library, case, 1)
        for c, place in enumerate((0, -1)):
            getattr(run, where)[0, c, 0, 0, place] = float("inf")
        expected = meeting_products(case, run.x, run.dy)
        assert expected[:2].isfinite().flatten(1).any(1).all()
        for which in ("backward_weight", FUSED):
            for tile in lines(run, which).values():
                dw = run.run(which, tile, order=tile % 3)[-2].double()
                torch.testing.assert_close(dw, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
        run.close()


@LAYOUTS
def test_results_do_not_depend_on_the_schedule(library, channels_last):
    case = along(2, (1, 1, 90), 4, "causal", batch=9, channels=16, channels_last=channels_last)
    run = Run(library, case, 3)
    try:
        for which in EVERY:
            assert lines(run, which)
            for tile in lines(run, which).values():
                first = run.run(which, tile)
                for order in hc.ORDERS:
                    again = run.run(which, tile, order, seed=order)
                    assert all(map(torch.equal, again, first))
    finally:
        run.close()


@LAYOUTS
def test_weight_gradient_in_parts(library, channels_last):
    """Without the bias; and the bias alone, which takes no line by itself."""
    case = along(2, (1, 1, 40), 4, batch=2, channels=8, channels_last=channels_last)
    for bias in (False, True):
        check_lines(library, dataclasses.replace(case, bias=bias), 2)
    run = Run(library, case, 2)
    for tile in (-1, *lines(run, "backward_weight").values()):
        run.check_bias_alone(tile)
    params, _ = run.params(FUSED)
    params.dw = None
    assert library.backward_pick(ctypes.byref(params)) == -1
    run.close()


@LAYOUTS
def test_transposed_with_bias(library, channels_last):
    for kernel in (3, 4, 31):
        case = along(2, (1, 1, 45), kernel, batch=2, channels=8, transposed=True)
        case = dataclasses.replace(case, channels_last=channels_last)
        check_lines(library, case, random.getrandbits(20), passes=PASSES[:2])


def test_empty(library):
    for channels_last in (False, True):
        for case in (
            along(2, (1, 1, 9), 4, batch=0, channels=8),
            along(2, (1, 1, 0), 3, (2, 2), batch=2, channels=8),
            along(2, (1, 1, 2), 3, (0, 0), batch=2, channels=8),  # no output
        ):
            check_lines(library, dataclasses.replace(case, channels_last=channels_last), 0)
