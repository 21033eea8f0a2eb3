# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Result files of models.py: their names for contenders, tables and the plot.

Speed is always native's time over the contender's, in the same memory layout: above 1, the
contender is faster.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from results import STATS
from tables import markdown
from timing import geomean

MODES = ("infer", "train")
TITLES = {"infer": "inference", "train": "training step"}
LAYOUTS = ("contiguous", "channels_last")
COMPILED = "torch.compile"
HOW = ("converted", "fused")
# Below this, a network counts as slower than native: times of one run spread by as much.
LOST = 0.98


def contender_name(how: str, layout: str) -> str:
    return f"{how}, {layout}"


@dataclass(frozen=True)
class ModelCase:
    """A network with a batch of images of one size."""

    network: str
    batch: int
    size: int
    mode: str

    @property
    def name(self) -> str:
        return f"{self.network} {self.batch}x{self.size}x{self.size} {TITLES[self.mode]}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class ModelRow:
    """A measured case, and what follows from its times."""

    def __init__(self, data: dict[str, Any], stat: str = "median") -> None:
        self.case = ModelCase(**data["case"])
        self.times = {name: time[stat] for name, time in data["times"].items()}
        self.memory: dict[str, int] = data["memory"]
        self.layers: int = data["layers"]
        self.wrong: str = data["wrong"]

    def speed(self, how: str, layout: str) -> float:
        """Against native in the same layout; NaN where one was not measured."""
        ours = self.times.get(contender_name(how, layout), math.nan)
        return self.times.get(contender_name("native", layout), math.nan) / ours

    def against(self, name: str) -> float:
        """A contender's speed against native, contiguous."""
        native = self.times.get(contender_name("native", "contiguous"), math.nan)
        return native / self.times.get(name, math.nan)

    def extra_memory(self, how: str, layout: str) -> float:
        """Peak memory of a contender, as a share of native's in the same layout."""
        ours = self.memory.get(contender_name(how, layout), math.nan)
        return ours / self.memory.get(contender_name("native", layout), math.nan)


def rows_of(result: dict[str, Any], stat: str = "median") -> list[ModelRow]:
    return [ModelRow(row, stat) for row in result["rows"]]


def _ratio(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _has(rows: Sequence[ModelRow], how: str) -> bool:
    return any(name.startswith(f"{how},") for row in rows for name in row.times)


def speeds(rows: Sequence[ModelRow], how: str) -> str:
    """A line for each network, a column for each mode and batch: both layouts in a cell."""
    columns = _unique((row.case.mode, row.case.batch) for row in rows)
    columns.sort(key=lambda c: (MODES.index(c[0]), c[1]))
    found = {(row.case.network, row.case.mode, row.case.batch): row for row in rows}
    lines = []

    def cell(row: ModelRow | None) -> str:
        values = [row.speed(how, layout) if row else math.nan for layout in LAYOUTS]
        return " / ".join(_ratio(v) for v in values)

    for network in _unique(row.case.network for row in rows):
        layers = max(row.layers for row in rows if row.case.network == network)
        cells = [cell(found.get((network, mode, batch))) for mode, batch in columns]
        lines.append([network, str(layers), *cells])
    means = []
    for mode, batch in columns:
        of = [row for row in rows if (row.case.mode, row.case.batch) == (mode, batch)]
        values = [
            geomean(v for v in (row.speed(how, layout) for row in of) if not math.isnan(v))
            for layout in LAYOUTS
        ]
        means.append(" / ".join(_ratio(v) for v in values))
    lines.append(["geometric mean", "", *means])
    heads = [f"{TITLES[mode]}, N={batch}" for mode, batch in columns]
    return markdown(["network", "layers", *heads], lines)


def details(rows: Sequence[ModelRow]) -> str:
    """Milliseconds and MiB of every contender."""
    names = _unique(name for row in rows for name in row.times)
    order = [contender_name(how, layout) for how in ("native", *HOW) for layout in LAYOUTS]
    names.sort(key=lambda n: order.index(n) if n in order else len(order))
    lines = []
    for row in rows:
        cells = [
            f"{1e3 * row.times[name]:.2f} ms {row.memory[name] / 2**20:.1f} MiB"
            if name in row.times
            else "-"
            for name in names
        ]
        lines.append([row.case.name + (f": {row.wrong}" if row.wrong else ""), *cells])
    return markdown(["network", *names], lines)


def memory_range(rows: Sequence[ModelRow], how: str) -> str:
    """The least and the greatest share of native's peak memory."""
    shares = [row.extra_memory(how, layout) for row in rows for layout in LAYOUTS]
    shares = [share for share in shares if not math.isnan(share)]
    return f"{min(shares):.2f} to {max(shares):.2f}" if shares else "-"


def slower(rows: Sequence[ModelRow], below: float) -> list[str]:
    """Cases in which a conversion lost time."""
    return [
        f"{row.case.name}, {contender_name(how, layout)}: {row.speed(how, layout):.2f}"
        for row in rows
        for how in HOW
        for layout in LAYOUTS
        if row.speed(how, layout) < below
    ]


def full(result: dict[str, Any], stat: str = "median") -> str:
    """The whole report."""
    from report import device_line

    rows = rows_of(result, stat)
    parts = [device_line(result), details(rows)]
    for how in HOW:
        if _has(rows, how):
            parts.append(
                f"Speed of {how} networks, native = 1 in the same layout "
                f"(contiguous / channels_last); `layers` counts what was converted:"
            )
            parts.append(speeds(rows, how))
            parts.append(f"Peak memory, native = 1 in the same layout: {memory_range(rows, how)}")
    lost = slower(rows, LOST)
    if lost:
        parts.append("Slower than native:\n" + "\n".join(f"- {line}" for line in lost))
    failures = [
        f"{ModelCase(**row['case']).name}: {reason}"
        for row in result["rows"]
        for reason in dict.fromkeys(row["failed"].values())
    ]
    notes = [*result["notes"], *failures]
    if notes:
        parts.append("Notes:\n" + "\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts)


def claim(result: dict[str, Any], words: Sequence[str]) -> str:
    """What a document's block must hold.

    `speeds HOW`, `mean HOW MODE`, `count HOW` (of cases that lost time), `lost` (which), `memory
    HOW`, `details` or `device`; a statistic at the end stands in for the median.
    """
    from report import device_line

    stat = words[-1] if words[-1] in STATS else "median"
    rows = rows_of(result, stat)
    if words[0] == "speeds":
        return speeds(rows, words[1])
    if words[0] == "memory":
        return memory_range(rows, words[1])
    if words[0] == "count":
        ratios = [row.speed(words[1], layout) for row in rows for layout in LAYOUTS]
        ratios = [ratio for ratio in ratios if not math.isnan(ratio)]
        return f"{sum(ratio < LOST for ratio in ratios)} of {len(ratios)}"
    if words[0] == "mean":
        values = [r.speed(words[1], x) for r in rows if r.case.mode == words[2] for x in LAYOUTS]
        return _ratio(geomean(v for v in values if not math.isnan(v)))
    if words[0] == "lost":
        lines = [f"- {line}" for line in slower(rows, LOST)]
        return "\n".join(lines) + ("\n" if len(lines) == 1 else "") or "None."
    return {"details": lambda: details(rows), "device": lambda: device_line(result)}[words[0]]()


# Contender: marker, colour, filled.
_LOOK = {
    contender_name("native", "channels_last"): ("s", "0.45", False),
    COMPILED: ("^", "tab:orange", True),
    contender_name("converted", "contiguous"): ("o", "tab:blue", True),
    contender_name("converted", "channels_last"): ("s", "tab:blue", False),
    contender_name("fused", "contiguous"): ("o", "tab:green", True),
    contender_name("fused", "channels_last"): ("s", "tab:green", False),
}


def plot(result: dict[str, Any], stem: Path, stat: str = "median") -> list[Path]:
    """A panel for each mode and batch, a line for each network; speed against native, contiguous.

    Filled marks are contiguous, hollow ones channels-last.
    """
    try:
        import matplotlib
    except ImportError:
        raise SystemExit('bench: --plot needs matplotlib (pip install ".[plot]")') from None
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "fastconv"  # the same file from the same numbers
    from matplotlib import pyplot as plt
    from matplotlib.ticker import ScalarFormatter

    rows = rows_of(result, stat)
    networks = _unique(row.case.network for row in rows)[::-1]
    modes = [mode for mode in MODES if any(row.case.mode == mode for row in rows)]
    batches = sorted(_unique(row.case.batch for row in rows))
    figure, axes = plt.subplots(
        len(modes), len(batches), sharex=True, sharey=True, squeeze=False, layout="constrained",
        figsize=(2.2 + 3.1 * len(batches), 1.2 + 0.27 * len(networks) * len(modes)),
    )  # fmt: skip
    for i, mode in enumerate(modes):
        for j, batch in enumerate(batches):
            ax = axes[i][j]
            ax.axvline(1, color="0.45", linewidth=1.2, zorder=1)
            for row in (r for r in rows if (r.case.mode, r.case.batch) == (mode, batch)):
                y = networks.index(row.case.network)
                for name, (marker, color, filled) in _LOOK.items():
                    x = row.against(name)
                    if not math.isnan(x):
                        face = color if filled else "none"
                        ax.scatter(x, y, 34, marker=marker, edgecolors=color, facecolors=face,
                                   linewidths=1.3, zorder=3)  # fmt: skip
            ax.set_title(f"{TITLES[mode]}, N={batch}", fontsize=10)
            ax.set_xscale("log")
            ax.set_xticks([0.5, 1, 2, 4, 8, 16])
            ax.xaxis.set_major_formatter(ScalarFormatter())
            ax.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
            ax.grid(True, color="0.9", zorder=0)
            ax.set_yticks(range(len(networks)), networks, fontsize=9)
            ax.set_ylim(-0.6, len(networks) - 0.4)
    shown = [name for name in _LOOK if any(name in row.times for row in rows)]
    handles = []
    for name in shown:
        marker, color, filled = _LOOK[name]
        style = {"marker": marker, "color": color, "markerfacecolor": color if filled else "none"}
        handles.append(plt.Line2D([], [], linestyle="none", label=name, **style))
    figure.legend(handles=handles, loc="outside lower center", fontsize=9, frameon=False,
                  ncols=max(2, len(batches)))  # fmt: skip
    size = rows[0].case.size if rows else 0
    figure.suptitle(f"Times as fast as PyTorch in its default layout, {size} pixels", fontsize=11)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("svg", "png")]
    for path in paths:
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
    return paths
