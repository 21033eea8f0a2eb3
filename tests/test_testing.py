# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""fastconv.testing's own judgement."""

import math

import pytest
import torch

from fastconv.testing import assert_within


def judge(actual, expected, bound, dtype):
    result = torch.tensor([1.0, actual], dtype=torch.float64).to(dtype)
    limits = torch.tensor([0.0, bound], dtype=torch.float64)
    assert_within(result, torch.tensor([1.0, expected], dtype=torch.float64), limits)


@pytest.mark.parametrize(
    ("actual", "expected", "bound", "dtype"),
    [
        (1.5, 1.25, 0.25, torch.float32),
        (math.nan, math.nan, 0.0, torch.float32),
        (math.inf, math.inf, 0.0, torch.float16),
        (-math.inf, -79493.75, 52.6, torch.float16),  # more than float16 holds
        (math.inf, 65500.0, 52.6, torch.float16),  # may round up to what it does not hold
        (65504.0, 65530.0, 52.6, torch.float16),
    ],
)
def test_accepts(actual, expected, bound, dtype):
    judge(actual, expected, bound, dtype)


@pytest.mark.parametrize(
    ("actual", "expected", "bound", "dtype"),
    [
        (1.5, 1.25, 0.2, torch.float32),
        (math.nan, 1.0, 1.0, torch.float32),
        (1.0, math.nan, 1.0, torch.float32),
        (1e30, math.inf, 1.0, torch.float32),
        (math.inf, -79493.75, 52.6, torch.float16),
        (math.inf, 60000.0, 52.6, torch.float16),
        (65504.0, 79493.75, 52.6, torch.float16),
        (math.inf, 79493.75, 52.6, torch.bfloat16),
    ],
)
def test_refuses(actual, expected, bound, dtype):
    with pytest.raises(AssertionError, match=r"1 of 2 elements are off; the worst, at \[1\]"):
        judge(actual, expected, bound, dtype)
