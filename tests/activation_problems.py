# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""What the tests of fused activations share."""

import sys
from pathlib import Path

import pytest
import torch

import fastconv

sys.path.insert(0, str(Path(__file__).parent))

from activation_exact import NATIVE

each_activation = pytest.mark.parametrize("name", NATIVE)
activation_of = torch.ops.fastconv._activation.default
gradient_of = torch.ops.fastconv._activation_gradient.default

# Name: input, weight, arguments.  Together they reach every engine of the CPU, every kind of tile
# that overlaps another, and planes that are finished in several pieces.
PROBLEMS = {
    "1d": ((2, 5, 90), (5, 1, 4), {"padding": 3}),
    "1d long": ((1, 3, 9001), (3, 1, 3), {"padding": 1}),
    "small planes": ((2, 21, 7, 7), (21, 1, 3, 3), {"padding": 1}),
    "large filter": ((1, 35, 14, 14), (35, 1, 7, 7), {"padding": 3}),
    "5x5": ((2, 19, 15, 17), (19, 1, 5, 5), {"padding": 2}),
    # A window's sums wait in L1 for several vectors of channels, and for part of a row.
    "window in chunks": ((1, 40, 11, 150), (40, 1, 3, 3), {"padding": 1}),
    "conflicting rows": ((1, 64, 66, 64), (64, 1, 3, 3), {"padding": 1, "stride": 2}),
    "stride": ((2, 33, 17, 30), (33, 1, 3, 3), {"padding": 1, "stride": 2}),
    "wide": ((1, 3, 9, 75), (3, 1, 5, 7), {"padding": (0, 6)}),
    "pieces": ((1, 2, 150, 130), (2, 1, 3, 3), {"padding": 1}),
    "dilation": ((1, 4, 21, 40), (4, 1, 3, 3), {"padding": 4, "dilation": (2, 3)}),
    "one column": ((2, 19, 11, 13), (19, 1, 5, 1), {"padding": (2, 0)}),
    "multiplier": ((2, 7, 12, 19), (21, 1, 3, 3), {"padding": 1}),
    "3d": ((1, 17, 4, 6, 9), (17, 1, 3, 2, 3), {"padding": 1, "stride": (1, 2, 1)}),
    "unbatched": ((9, 11, 13), (9, 1, 3, 3), {}),
}


def problem(name, dtype, rng, device="cpu"):
    shape, kernel, kwargs = PROBLEMS[name]

    def draw(size):
        return torch.randn(size, generator=rng, dtype=torch.float64).to(dtype).to(device)

    function = getattr(fastconv, f"depthwise_conv{len(kernel) - 2}d")
    return function, draw(shape), 2 * draw(kernel), draw((kernel[0],)), kwargs
