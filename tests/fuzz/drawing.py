# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""What the strategies share: dtypes, layouts, spellings of a list of ints, and budgets."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
from calls import ALIASED

import fastconv

FLOATS = ("float32", "float64", "float16", "bfloat16")
OTHERS = (
    *("int64", "int32", "int16", "int8", "uint8", "bool", "uint16", "uint32", "uint64"),
    *("complex64", "complex128", "complex32", "float8_e4m3fn", "float8_e5m2"),
)
LAYOUTS = (
    *("contiguous", "channels_last", "sliced", "steps", "channel_slice", "transposed", "offset"),
    *ALIASED,
)
STEPS = 400_000  # multiply-adds, or elements moved: what keeps a call to milliseconds

pick = st.sampled_from


def layout_of(rank: int) -> Any:
    return st.one_of(
        pick(LAYOUTS), st.integers(0, math.factorial(rank) - 1).map(lambda k: f"permuted:{k}")
    )


def dense_layout(rank: int) -> Any:
    return layout_of(rank).filter(lambda name: name not in ALIASED)


@st.composite
def environment(draw: Any) -> dict[str, Any]:
    """What is no argument and must not matter."""
    return {
        "isa": draw(pick(fastconv._C.isa_levels())),
        "threads": draw(pick((1, 2, 3))),
        "grad_layout": draw(pick(("contiguous", "channels_last", "transposed", "scalar"))),
        "seed": draw(st.integers(0, 2**16)),
    }


@st.composite
def spelled(draw: Any, values: list[int], default: int | None = None) -> Any:
    """One of the ways to write a list of ints, or nothing where it is the default."""
    same = len(set(values)) == 1
    if same and values[0] == default and draw(st.booleans()):
        return None
    ways = [tuple(values), list(values)]
    if same:
        ways = [values[0], (values[0],), *ways]
    return draw(pick(ways))


def shrink_to(budget: int, cost: Any, sizes: list[int]) -> list[int]:
    """Halves the largest of `sizes` until the cost is within the budget."""
    while cost(sizes) > budget and max(sizes) > 1:
        i = sizes.index(max(sizes))
        sizes[i] = -(-sizes[i] // 2)
    return sizes
