# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Rearrangements that move long runs of neighbouring bytes."""

from __future__ import annotations

import pytest
import torch

import fastconv
from fastconv.testing import each_isa, poison

# Around a group of vectors, the length from which stores are aligned, and that of memcpy.
SIZES = (255, 256, 257, 4095, 4096, 4097, 8191, 8192, 8200)


@pytest.mark.parametrize(
    ("planes", "sizes"), [(6, SIZES), (2100, SIZES[-3:])], ids=["cached", "beyond the caches"]
)
def test_copies_of_runs(planes: int, sizes: tuple[int, ...]) -> None:
    for size in sizes:
        x = torch.randint(0, 256, (1, planes, 1, size), dtype=torch.uint8)
        assert planes == 6 or x.nbytes > 16 << 20
        want = x.view(1, 3, planes // 3, 1, size).transpose(1, 2).reshape(x.shape)
        for isa in each_isa():
            got = fastconv.channel_shuffle(x, 3)
            assert torch.equal(got, want), (isa, size)
            poison(got)
