# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Tables from result files.

    python bench/report.py RESULT.json                   all tables, as Markdown
    python bench/report.py RESULT.json --baseline OLD    how ours changed since OLD
    python bench/report.py --check README.md             do its numbers agree with the files?
    python bench/report.py --update README.md            write them anew

A document takes its numbers from a result file between two comments (file names are relative to
bench/results):

    <!-- bench cpu.json summary -->...<!-- /bench -->
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import goals
from cases import OPS
from model_results import claim as model_claim
from model_results import full as model_full
from results import COMPILE, NATIVE, OTHER, OURS, STATS, Row, load, rows_of
from tables import markdown
from timing import geomean

RESULTS = Path(__file__).with_name("results")
_BLOCK = re.compile(r"(<!-- bench (\S+) (.+?) -->)(.*?)(<!-- /bench -->)", re.DOTALL)


def _number(value: float, digits: int = 2) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _ms(seconds: float) -> str:
    ms = seconds * 1e3
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.3g}" if ms >= 1 else f"{ms:.4f}"


def table(rows: Sequence[Row], floor: dict[str, float]) -> str:
    """Every case of one operator: milliseconds of ours and each rival, ratios, share of the limit.

    The spread is half the interquartile range.  A star marks a case in which any operator's host
    time is a tenth of ours or more.
    """
    rivals = sorted(
        {name for row in rows for name in row.rivals},
        key=lambda name: (name != NATIVE, name != OTHER, name),
    )
    header = ["case", "ours, ms", "spread", *rivals, "vs native", "vs best", "of limit"]
    lines = []
    for row in rows:
        label = f"{row.case.size} {row.case.variant}"
        if not row.ok:
            reason = row.wrong or row.failed.get(OURS, "not measured")
            lines.append([f"{label}: {reason}", *["-"] * (len(header) - 1)])
            continue
        stat = row.stats[OURS]
        spread = (stat["q3"] - stat["q1"]) / 2 / stat["median"]
        star = "*" if floor.get(row.case.mode, 0) > 0.1 * row.times[OURS] else ""
        lines.append(
            [
                label,
                star + _ms(row.times[OURS]),
                f"{spread:.0%}",
                *(_ms(row.times[name]) if name in row.times else "-" for name in rivals),
                _number(row.ratio(NATIVE)),
                _number(row.ratio(row.best)),
                _number(row.fraction),
            ]
        )
    return markdown(header, lines)


def _groups(rows: Iterable[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.ok:
            groups.setdefault(key(row), []).append(row)
    return groups


def _mean(values: Iterable[float]) -> float:
    return geomean([value for value in values if not math.isnan(value)])


def summary(rows: Sequence[Row], key: Callable[[Row], str], title: str) -> str:
    """Geometric means and the worst case of each group."""
    header = [title, "cases", "vs native", "vs its best layout", "vs torch.compile",
              "vs best rival", "of limit", "worst vs native", "worst case"]  # fmt: skip
    lines = []
    for name, group in _groups(rows, key).items():
        worst = min(
            (row for row in group if NATIVE in row.times),
            key=lambda row: row.ratio(NATIVE),
            default=None,
        )
        lines.append(
            [
                name,
                str(len(group)),
                _number(_mean(row.ratio(NATIVE) for row in group)),
                _number(_mean(row.best_layout for row in group)),
                _number(_mean(row.ratio(COMPILE) for row in group)),
                _number(_mean(row.ratio(row.best) for row in group)),
                _number(_mean(row.fraction for row in group)),
                _number(worst.ratio(NATIVE)) if worst else "-",
                f"{worst.case.size} {worst.case.variant}" if worst else "-",
            ]
        )
    return markdown(header, lines)


def device_line(result: dict[str, Any]) -> str:
    """Machine, versions and commit in one line."""
    facts = result["machine"]
    name = facts["device_name"]
    if facts["device"] == "cpu":
        isa = facts["isa"] or facts["cpu_capability"]
        name += f" ({isa}), {facts['threads']} thread(s)"
    dirty = " with local changes" if facts["dirty"] else ""
    return (
        f"{name}; torch {facts['torch']}, fastconv {facts['fastconv']} "
        f"at {facts['commit'] or 'an unknown commit'}{dirty}; {facts['date']}"
    )


def limits_line(result: dict[str, Any]) -> str:
    """The ceilings that do not depend on a case."""
    limits = result["limits"]
    peaks = ", ".join(
        f"{dtype} {peak / 1e9:,.0f} GFLOP/s" for dtype, peak in limits["fma_peak"].items()
    )
    floor = ", ".join(f"{name} {us * 1e6:.1f} us" for name, us in limits["host_floor"].items())
    return (
        f"Multiply-add peak (dense product): {peaks}. Host time of an empty operator: {floor}; "
        "* marks cases where that is a tenth or more."
    )


def full(result: dict[str, Any], stat: str = "median") -> str:
    """The whole report."""
    if result.get("kind") == "models":
        return model_full(result, stat)
    rows, floor = rows_of(result, stat), result["limits"]["host_floor"]
    parts = [device_line(result), limits_line(result)]
    for op in OPS:
        of_op = [row for row in rows if row.case.op == op]
        if of_op:
            parts.append(f"### {op}\n\n{table(of_op, floor)}")
    parts.append(
        "### Summary\n\nSpeed of ours over the rival's (above 1: ours is faster) and share of the "
        f"limit: geometric means of ratios of the {stat}."
    )
    parts.append(summary(rows, lambda row: f"{row.case.op} {row.case.mode}", "operator"))
    if len({row.case.family for row in rows}) > 1:
        parts.append(summary(rows, lambda row: f"{row.case.kind}, {row.case.variant}", "kind"))
        parts.append(summary(rows, lambda row: row.case.family, "family"))
    if result["machine"]["device"] == "cpu" and result.get("suite") == "models":
        parts.append(goals.section(rows))
    if result.get("suite") == "random":
        parts.append(goals.losses(rows))
    failures = {
        f"{name}: {reason}" for row in rows for name, reason in row.failed.items() if name != OURS
    }
    notes = [*result.get("notes", []), *sorted(failures)]
    if notes:
        parts.append("Notes:\n" + "\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts)


def compare(new: dict[str, Any], old: dict[str, Any]) -> str:
    """How much faster each case of ours became, judged against the copy of the same run."""
    before = {row.case.name: row for row in rows_of(old) if row.ok}
    lines, ratios = [], []
    for row in rows_of(new):
        if row.ok and row.case.name in before:
            was = before[row.case.name]
            ratios.append(row.fraction / was.fraction)
            lines.append(
                [row.case.name, _number(was.fraction), _number(row.fraction), _number(ratios[-1])]
            )
    lines.append(["geometric mean", "", "", _number(_mean(ratios))])
    return "\n\n".join(
        [
            f"before: {device_line(old)}\n\nafter: {device_line(new)}",
            markdown(["case", "of limit before", "after", "after/before"], lines),
        ]
    )


def claim(result: dict[str, Any], what: str) -> str:
    """The text that a document's block `what` must hold.

    `what` is summary, families, goals, table OP, device, or a single number: `native OP PASS`,
    `compile OP PASS`, `limit OP PASS` (geometric means; `*` for any OP or PASS).  model_results.py
    says what there is for a file of models.py.
    """
    words = what.split()
    if result.get("kind") == "models":
        return model_claim(result, words)
    rows = rows_of(result)
    if words[0] == "summary":
        return summary(rows, lambda row: f"{row.case.op} {row.case.mode}", "operator")
    if words[0] == "families":
        return summary(rows, lambda row: row.case.family, "family")
    if words[0] == "goals":
        return markdown(goals.HEADER, goals.lines(rows))
    if words[0] == "table":
        chosen = [row for row in rows if row.case.op == words[1]]
        return table(chosen, result["limits"]["host_floor"])
    if words[0] == "device":
        return device_line(result)
    value: Callable[[Row], float] = {
        "native": lambda row: row.ratio(NATIVE),
        "compile": lambda row: row.ratio(COMPILE),
        "limit": lambda row: row.fraction,
    }[words[0]]
    op, mode = words[1:]
    chosen = [
        row for row in rows if row.ok and op in ("*", row.case.op) and mode in ("*", row.case.mode)
    ]
    return _number(_mean(value(row) for row in chosen))


def fill(text: str, results: Path = RESULTS) -> str:
    """The document with every block written from its result file."""

    def block(match: re.Match[str]) -> str:
        content = claim(load(results / match[2]), match[3])
        # Tables stand on lines of their own; a number stays within its sentence.
        content = f"\n{content}\n" if "\n" in content else content
        return match[1] + content + match[5]

    return _BLOCK.sub(block, text)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", nargs="?", type=Path, help="a JSON file of run.py --json")
    parser.add_argument("--stat", choices=STATS, default="median", help="which times (median)")
    parser.add_argument("--baseline", type=Path, help="an older file to compare with")
    parser.add_argument(
        "--check",
        type=Path,
        nargs="+",
        default=[],
        metavar="DOCUMENT",
        help="fail if a document disagrees with the result files",
    )
    parser.add_argument(
        "--update",
        type=Path,
        nargs="+",
        default=[],
        metavar="DOCUMENT",
        help="write a document's numbers anew",
    )
    args = parser.parse_args(argv)
    if not (args.result or args.check or args.update):
        parser.error("a result file, --check or --update is needed")
    if args.result:
        result = load(args.result)
        print(compare(result, load(args.baseline)) if args.baseline else full(result, args.stat))
    stale = []
    for document in [*args.check, *args.update]:
        text = document.read_text()
        filled = fill(text)
        if filled != text and document in args.update:
            document.write_text(filled)
        elif filled != text:
            stale.append(document)
            print(f"{document} disagrees with {RESULTS}: run bench/report.py --update {document}")
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
