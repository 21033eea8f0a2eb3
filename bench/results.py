# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Result files: their names for contenders, and what follows from the times in them.

Files hold times alone; ratios and shares of the limit are worked out here, and nowhere else.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from cases import Case

SCHEMA = 1
# The median is what counts.  The others tell more on a machine that is busy with something else.
STATS = ("median", "q1", "min")

OURS = "ours"
NATIVE = "native"
OTHER = "native, other layout"
COMPILE = "torch.compile"
# Copies that allocate their result define the limit; limits.py says why.
COPY_CLONE = "copy: clone"
COPY_MEMCPY = "copy: memcpy"
COPY_REUSED = "copy: reused"


class Row:
    """A measured case, and what follows from its times; `stat` says which statistic of them."""

    def __init__(self, data: dict[str, Any], peaks: dict[str, float], stat: str) -> None:
        self.case = Case.from_json(data["case"])
        self.times = {name: time[stat] for name, time in data["times"].items()}
        self.stats = data["times"]
        self.failed: dict[str, str] = data["failed"]
        self.wrong: str = data["wrong"]
        self.bytes, self.flops = data["bytes"], data["flops"]
        self._peak = peaks.get(self.case.dtype, math.inf)

    @property
    def ok(self) -> bool:
        return not self.wrong and OURS in self.times

    @property
    def rivals(self) -> dict[str, float]:
        """Every rival's time."""
        return {
            name: seconds
            for name, seconds in self.times.items()
            if name != OURS and not name.startswith("copy: ")
        }

    def ratio(self, rival: str) -> float:
        """Our speed over the rival's: above 1, ours is faster."""
        return self.times[rival] / self.times[OURS] if rival in self.times else math.nan

    @property
    def best(self) -> str:
        """The fastest rival of all."""
        return min(self.rivals, key=self.rivals.__getitem__, default="")

    @property
    def best_layout(self) -> float:
        """Our speed over that of PyTorch's eager call in whichever layout suits it."""
        times = [self.times[name] for name in (NATIVE, OTHER) if name in self.times]
        return min(times) / self.times[OURS] if times else math.nan

    @property
    def limit(self) -> float:
        """Least seconds: the copy of the same bytes, or the arithmetic at the measured peak."""
        copy = min(
            (self.times[name] for name in (COPY_CLONE, COPY_MEMCPY) if name in self.times),
            default=0.0,
        )
        return max(copy, self.flops / self._peak)

    @property
    def fraction(self) -> float:
        return self.limit / self.times[OURS]


def load(path: Path) -> dict[str, Any]:
    """A result file."""
    data = json.loads(path.read_text())
    if data.get("schema") != SCHEMA:
        raise ValueError(f"{path} has schema {data.get('schema')}, this is {SCHEMA}")
    return data


def rows_of(result: dict[str, Any], stat: str = "median") -> list[Row]:
    return [Row(row, result["limits"]["fma_peak"], stat) for row in result["rows"]]


def save(path: Path, result: dict[str, Any]) -> None:
    """Writes a result file, a row a line: indented, thousands of rows are megabytes of blanks."""
    head = json.dumps({key: value for key, value in result.items() if key != "rows"}, indent=1)
    rows = ",\n".join(json.dumps(row) for row in result["rows"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{head.removesuffix("}").rstrip()},\n "rows": [\n{rows}\n]}}\n')
