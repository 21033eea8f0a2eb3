# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""What the rearrangement operators themselves refuse, before the functions see it."""

from __future__ import annotations

import pytest
import torch

import fastconv._C  # noqa: F401

ops = torch.ops.fastconv

BAD = [
    (lambda x: ops.space_to_depth(x, [2, 2], "rcd"), ValueError, "'crd', 'dcr' or 'focus'.*'rcd'"),
    (lambda x: ops.depth_to_space(x, [2, 2], ""), ValueError, "depth_to_space: expected order"),
    (lambda x: ops.space_to_depth(x, []), RuntimeError, "block_size to have 1 to 3 entries"),
    (lambda x: ops.space_to_depth(x, [1, 1, 1, 1]), RuntimeError, "1 to 3 entries"),
    (lambda x: ops.space_to_depth(x, [0, 2]), RuntimeError, r"positive.*\[0, 2\]"),
    (lambda x: ops.depth_to_space(x, [2, -2]), RuntimeError, r"positive.*\[2, -2\]"),
    (lambda x: ops.space_to_depth(x, [3, 2]), RuntimeError, r"input.size\(.\).*divisible.* 3"),
    (lambda x: ops.space_to_depth(x, [2, 4]), RuntimeError, r"input.size\(.\).*divisible.* 4"),
    (lambda x: ops.depth_to_space(x, [3, 2]), RuntimeError, r"channels, input.size\(.\)"),
    (lambda x: ops.space_to_depth(x[0, 0], [2, 2]), RuntimeError, "at least 3 dimensions"),
    (lambda x: ops.depth_to_space(x[0], [1, 1, 1]), RuntimeError, "at least 4 dimensions"),
    (lambda x: ops.space_to_depth(x[:, :, :0], [2**62, 2]), ValueError, "64 bits"),
    (lambda x: ops.depth_to_space(x[:, :0], [2**62, 1]), ValueError, "64 bits"),
    (lambda x: ops.depth_to_space(x[:, :0], [2**32, 2**32]), ValueError, "64 bits"),
    (lambda x: ops.channel_shuffle(x, 0), RuntimeError, "groups to be positive"),
    (lambda x: ops.channel_shuffle(x, -2), RuntimeError, "groups to be positive"),
    (lambda x: ops.channel_shuffle(x, 5), RuntimeError, "8 channels and 5 groups"),
    (lambda x: ops.channel_shuffle(x[0, 0], 1), RuntimeError, "more than 2 dimensions"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_bad_input(case: int, device: str) -> None:
    call, error, message = BAD[case]
    for grad in (False, True):
        x = torch.zeros(2, 8, 4, 6, device=device, requires_grad=grad)
        with pytest.raises(error, match=message):
            call(x)
    with pytest.raises(error, match=message):
        torch.func.vmap(call)(torch.zeros(3, 2, 8, 4, 6, device=device))


def test_not_a_tensor() -> None:
    for op in (ops.space_to_depth, ops.depth_to_space):
        with pytest.raises((TypeError, RuntimeError)):
            op([[1.0]], [1])
