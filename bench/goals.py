# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""What the CPU kernels are meant to reach on the layers of models, family by family.

A family is a kind of layer in some dtypes and layouts.  Its goals are geometric means over its
cases: the share of the limit and the speed over PyTorch's in the same layout, of the forward pass
and of a training step.  `docs/lab/cpu_goals.md` says what was found on the way to them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from results import NATIVE, Row
from tables import markdown
from timing import geomean

# Below this a case is slower than PyTorch, and not by noise.
NOT_SLOWER = 0.97
_EITHER = ("contiguous", "channels_last")
_WIDE, _HALF, _BRAIN = ("float32",), ("float16",), ("bfloat16",)


@dataclass(frozen=True)
class Goal:
    """`limit` is a share of the forward pass's limit; `forward` and `both` are ratios of speed."""

    kind: str
    dtypes: Sequence[str]
    layouts: Sequence[str]
    limit: float
    forward: float
    both: float = math.nan

    def holds(self, row: Row) -> bool:
        case = row.case
        return case.kind == self.kind and case.dtype in self.dtypes and case.layout in self.layouts

    @property
    def name(self) -> str:
        layout = self.layouts[0] if len(self.layouts) == 1 else "either layout"
        return f"{self.kind}, {' and '.join(self.dtypes)}, {layout}"


_FIRST, _LAST = ("contiguous",), ("channels_last",)
GOALS = (
    Goal("2-D k<=5", _WIDE, _FIRST, 0.6, 3.5, 6),
    Goal("2-D k<=5", _WIDE, _LAST, 0.6, 2, 3),
    Goal("2-D k<=5", _BRAIN, _FIRST, 0.5, 5, 8),
    Goal("2-D k<=5", _BRAIN, _LAST, 0.5, 1.6, 4),
    Goal("2-D k<=5", _HALF, _EITHER, 0.5, 50, 30),
    Goal("2-D k 7 to 11", _WIDE, _FIRST, 0.65, 2.4, 5),
    Goal("2-D k 7 to 11", _WIDE, _LAST, 0.65, 1.6, 4),
    Goal("2-D k 7 to 11", _BRAIN, _LAST, 0.8, 1.5, 5),
    Goal("2-D k>=13 or 1xk", _WIDE, _FIRST, 0.75, 10, 20),
    Goal("2-D k>=13 or 1xk", _WIDE, _LAST, 0.75, 1.05, 15),
    Goal("2-D k>=13 or 1xk", _BRAIN, _LAST, 1, 1.2, 10),
    Goal("2-D multiplier or dilation", _WIDE, _FIRST, 0.5, 10, 6),
    Goal("2-D multiplier or dilation", _WIDE, _LAST, 0.5, 8, 5),
    Goal("3-D", _WIDE, _FIRST, 0.5, 5, 6),
    Goal("3-D", _WIDE, _LAST, 0.5, 1.8, 3),
    Goal("1-D k<=8", _WIDE + _BRAIN, _EITHER, 0.6, 4, 5),
    Goal("1-D k>8", _WIDE + _BRAIN, _EITHER, 0.5, 4, 6),
    Goal("rearrangement", _WIDE, _FIRST, 0.8, 6, 6),
    Goal("rearrangement", _WIDE, _LAST, 0.8, 1.4, 1.4),
    Goal("rearrangement", ("uint8",), _FIRST, 0.8, 30),
    Goal("depth_max_pool", _WIDE + _BRAIN, _EITHER, 0.6, 20, 10),
)


def _reached(value: float, goal: float) -> str:
    """ "0.71 of 0.6"; a star where the goal is missed; a hyphen where either is not known."""
    if math.isnan(value) or math.isnan(goal):
        return "-"
    return f"{value:.2f} of {goal:g}" + ("" if value >= goal else " *")


def lines(rows: Sequence[Row]) -> list[list[str]]:
    """A line for each goal that has rows: name, cases, and what was reached of what."""
    table = []
    for goal in GOALS:
        mine = [row for row in rows if row.ok and NATIVE in row.times and goal.holds(row)]
        passes = {
            mode: [row for row in mine if row.case.mode == mode] for mode in ("forward", "both")
        }
        if not mine:
            continue
        speed = {mode: [row.ratio(NATIVE) for row in passes[mode]] for mode in passes}
        table.append(
            [
                goal.name,
                str(len(mine)),
                _reached(geomean(row.fraction for row in passes["forward"]), goal.limit),
                _reached(geomean(speed["forward"]), goal.forward),
                _reached(geomean(speed["both"]), goal.both),
                _reached(geomean(row.best_layout for row in mine), 1),
                str(sum(row.ratio(NATIVE) < NOT_SLOWER for row in mine)),
            ]
        )
    return table


HEADER = [
    "family", "cases", "of limit", "forward", "forward+backward", "native's best layout", "slower",
]  # fmt: skip


def slower(rows: Sequence[Row]) -> list[Row]:
    """The cases in which PyTorch is faster, the worst first."""
    losing = [row for row in rows if row.ok and row.ratio(NATIVE) < NOT_SLOWER]
    return sorted(losing, key=lambda row: row.ratio(NATIVE))


def section(rows: Sequence[Row]) -> str:
    """What a report says of the goals."""
    text = (
        "### Goals\n\nGeometric means, and what they should be; a star is a goal that is missed. "
        f"`slower` counts the cases below {NOT_SLOWER} of native's speed.\n\n"
    )
    return text + markdown(HEADER, lines(rows)) + "\n\n" + losses(rows)


def losses(rows: Sequence[Row]) -> str:
    """How many cases PyTorch is faster in, and which."""
    losing = slower(rows)
    text = f"Slower than native: {len(losing)} of {sum(row.ok for row in rows)} cases."
    return "\n".join(
        [text, "", *(f"- {row.case.name}: {row.ratio(NATIVE):.2f}" for row in losing)]
    ).strip()
