# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Activations at the store of every kernel that runs a forward pass."""

import ctypes
import dataclasses
import math
import random

import mpmath
import pytest
import torch
from activation_exact import FORWARD_CUDA, NATIVE, check, exact, unit
from depthwise_conv_cases import DTYPES, Run, load
from test_depthwise_conv import CASES, conv1d, conv2d, same
from test_depthwise_conv_line import along
from test_depthwise_conv_planes import cube

NUMBERS = {name: 1 + i for i, name in enumerate(NATIVE)}  # of Activation
# A unit of numbers from 2^-122 down, where e^z loses digits that the CPU's kernels keep.
SMALL = 2.0**-145
LAYOUTS = pytest.mark.parametrize(
    "channels_last", [False, True], ids=["contiguous", "channels_last"]
)
each_activation = pytest.mark.parametrize("name", NATIVE)

# Together they fit every kernel and tile that has a forward pass.
PROBLEMS = {
    "3x3": conv2d((5, 16), (3, 3), pad=same((3, 3)), batch=1, channels=16),
    "3x3 stride 2": conv2d((5, 16), (3, 3), (2, 2), pad=same((3, 3)), batch=1, channels=16),
    "3x3 ragged": conv2d((4, 7), (3, 3), pad=same((3, 3)), batch=2, channels=5),
    "2x2": conv2d((3, 7), (2, 2), batch=1, channels=8),
    "4x4": conv2d((5, 9), (4, 4), batch=1, channels=8),
    "5x5": conv2d((5, 16), (5, 5), pad=same((5, 5)), batch=1, channels=8),
    "5x5 stride 2": conv2d((5, 16), (5, 5), (2, 2), pad=same((5, 5)), batch=1, channels=8),
    "7x7": conv2d((5, 16), (7, 7), pad=same((7, 7)), batch=1, channels=8),
    "7x7 stride 2": conv2d((5, 16), (7, 7), (2, 2), pad=same((7, 7)), batch=1, channels=8),
    "9x9": conv2d((9, 19), (9, 9), pad=same((9, 9)), batch=1, channels=8),
    "5x51": conv2d((5, 20), (5, 51), pad=same((5, 51)), batch=1, channels=4),
    "causal": conv1d(45, 4, pad=(3, 0), batch=1, channels=16),
    "down": along(1, (1, 9, 16), 5, batch=1, channels=16),
    "3x3x3": cube((2, 4, 16), batch=1, channels=8),
    "multiplier": dataclasses.replace(CASES["multiplier 2"], batch=1),
}


@pytest.fixture(scope="module")
def library():
    torch.set_num_threads(1)
    return load()


def forward(run, tile, name, order=0):
    """The tile's result with an activation, or without."""
    params, (y,) = run.params("forward")
    params.activation = 0 if name is None else NUMBERS[name]
    run.library.host_cuda_configure(order, 1)
    assert run.library.forward(ctypes.byref(params), tile) == 0
    return y


def check_activations(library, case, names, seed):
    """Each tile that fits, with each of the names."""
    run = Run(library, case, seed)
    run.weight.mul_(2)  # sums on both sides of 6, and of -3
    tiles = run.tiles("forward")
    narrow = case.dtype.itemsize == 2
    if not narrow:  # behind each kernel's own sums, which are in its result
        run.x.flatten()[0] = math.nan
        run.x[-1, -1, -1, -1, -1] = math.inf
    for tile in tiles:
        alone = None if narrow else forward(run, tile, None, tile % 3)
        for name in names if isinstance(names, list) else [names(tile)]:
            y = forward(run, tile, name, tile % 3)
            what = f"{library.tile_name(tile).decode()}, {name}, {case.dtype}"
            if not narrow:
                want = exact(alone, name)
                slack = (FORWARD_CUDA[name] + 1e-3) * unit(want, case.dtype).clamp(min=SMALL)
                if case.dtype == torch.float64:
                    # Two roundings of z * sqrt(0.5), each of which erfc multiplies by z^2, here
                    # and in the kernel.
                    slack = (8 + 4 * alone.square()) * unit(want, case.dtype)
                check(y, want, slack, what)
                continue
            # The sum is rounded nowhere but in the result.  No slope is above 1.13.
            z, magnitude = run.reference("forward")[0]
            want = exact(z, name)
            bound = 1.13 * 4e-6 * magnitude + 6 * unit(want, torch.float32)
            check(y, want, bound + 0.501 * unit(want, case.dtype), what)
    run.close()
    return [library.tile_name(tile).decode() for tile in tiles]


@LAYOUTS
@pytest.mark.parametrize("which", PROBLEMS)
def test_float32(library, which, channels_last):
    case = dataclasses.replace(PROBLEMS[which], channels_last=channels_last)
    check_activations(library, case, list(NATIVE), random.getrandbits(20))


@LAYOUTS
@pytest.mark.parametrize("dtype", [t for t in DTYPES if t != torch.float32], ids=str)
def test_other_types(library, dtype, channels_last):
    """One activation for each tile of a problem, another one for the next."""
    names, seen = list(NATIVE), set()
    for i, case in enumerate(PROBLEMS.values()):
        case = dataclasses.replace(case, dtype=dtype, channels_last=channels_last)
        tiles = check_activations(
            library, case, lambda tile, i=i: names[(tile + i) % 5], random.getrandbits(20)
        )
        seen.update(tiles)
    assert ("large_bands" in seen) == (dtype.itemsize == 2)
    assert {"walk_scalar", "wide"} <= seen and any(t.startswith("line_down") for t in seen)


def test_every_tile(library):
    seen = set()
    for case in PROBLEMS.values():
        for channels_last in (False, True):
            for dtype in (torch.float32, torch.float16):
                more = {"channels_last": channels_last, "dtype": dtype}
                run = Run(library, dataclasses.replace(case, **more), 0)
                seen.update(run.tiles("forward"))
                run.close()
    assert len(seen) == library.tile_count()


def activated(library, z, name):
    """A filter of one tap that is one gives these numbers to the activation."""
    case = conv1d(len(z), 1, batch=1, channels=1, bias=False, dtype=z.dtype)
    run = Run(library, case, 0)
    run.weight.fill_(1)
    run.x.copy_(z.view(run.x.shape))
    (tile,) = [t for t in run.tiles("forward") if library.tile_name(t) == b"scalar_any"]
    y = forward(run, tile, name).flatten().clone()
    run.close()
    return y


@each_activation
def test_accuracy_of_float32(library, name, rng):
    z = torch.cat(
        [
            torch.randint(-(2**31), 2**31, (8192,), generator=rng)
            .to(torch.int32)
            .view(torch.float),
            torch.randn(8192, generator=rng) * 4,
            (torch.rand(8192, generator=rng) - 0.5) * 240,
            torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0, 3, -3, 6, -110, -15, 15, 13]),
        ]
    )
    want = exact(z, name)
    bound = (FORWARD_CUDA[name] + 0.01) * unit(want, z.dtype).clamp(min=SMALL)
    check(activated(library, z, name), want, bound, name)


@each_activation
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_accuracy_of_half_precision(library, name, dtype):
    """Every seventh number: rounded once, after errors of float32."""
    z = torch.arange(-(2**15) + random.randrange(7), 2**15, 7).to(torch.int16).view(dtype)
    want = exact(z, name)
    bound = 0.5 * unit(want, dtype) + 7 * unit(want, torch.float32)
    if dtype == torch.float16:
        too_large = want.abs() >= 65520
        want = torch.where(too_large, want.sign() * math.inf, want)
    check(activated(library, z, name), want, bound, name)


def test_accuracy_of_float64(library, rng):
    """To a few units, against sums in arithmetic of 60 digits."""
    z = torch.randn(500, generator=rng, dtype=torch.float64) * 6
    with mpmath.workdps(60):
        numbers = [mpmath.mpf(v) for v in z.tolist()]
        silu = [v / (1 + mpmath.exp(-v)) for v in numbers]
        gelu = [v * mpmath.erfc(-v / mpmath.sqrt(2)) / 2 for v in numbers]
    for name, want in (("silu", silu), ("gelu", gelu)):
        want = torch.tensor([float(v) for v in want], dtype=torch.float64)
        # erfc multiplies the two roundings of its argument by up to z^2.
        units = 8 + (2 * z.square() if name == "gelu" else 0)
        check(activated(library, z, name), want, units * unit(want, torch.float64), name)


def test_gradients_have_none(library):
    """A transposed convolution is a gradient of the input: its parameters know no activation."""
    for case in (PROBLEMS["3x3"], PROBLEMS["3x3 stride 2"]):
        run = Run(library, dataclasses.replace(case, transposed=True), 1)
        for tile in run.tiles("backward_data"):
            run.check("backward_data", tile)
        run.close()
