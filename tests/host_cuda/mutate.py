# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Does a test fail for every barrier, bound and mask that a kernel could lack?

    python tests/host_cuda/mutate.py                        # all rooms: about an hour on one core
    python tests/host_cuda/mutate.py --room rearrange --jobs 2
    python tests/host_cuda/mutate.py --only copy.cuh:74     # one line; --list shows what there is

Copies csrc/, changes every barrier, predicate, clamp and mask of a room's device code (mutants.py)
and runs the room's tests once for each mutant, the fastest that reach it first.  Results go to
build/mutate/<room>.jsonl as they come; a second run goes on where the first stopped as long as no
source or test has changed.  Exits with 1 if a mutant survives that mutants.toml does not explain,
or if an entry there explains none, or one that a test kills.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

import tomllib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import host_cuda_harness as hc
import mutants
import torch
from mutate_trial import UNDECIDED, Room, describe, try_out


class Ledger:
    """mutants.toml: mutants that change no result, each with the reason why."""

    def __init__(self, path: pathlib.Path) -> None:
        self.entries = []  # one change each
        text = path.read_text() if path.exists() else ""
        for entry in tomllib.loads(text).get("mutant", []):
            if set(entry) - {"which"} != {"file", "line", "change", "reason"}:
                raise ValueError(f"{path}: an entry has file, line, change and reason: {entry}")
            changes = entry["change"]
            for change in [changes] if isinstance(changes, str) else changes:
                self.entries.append({**entry, "change": change})

    @staticmethod
    def _explains(entry: dict, result: dict, lines: list[int]) -> bool:
        """``lines``: the numbers of all lines that read as the result's does."""
        which = lines.index(result["line"]) + 1
        return (
            result["file"].endswith(entry["file"])
            and result["text"] == entry["line"]
            and result["change"] == entry["change"]
            and which in entry.get("which", [which])
        )

    def judge(self, results: list[dict], found: list[mutants.Mutant]) -> tuple[list, list[str]]:
        """The survivors that no entry explains, and what is wrong with the entries."""
        lines: dict[tuple[str, str], list[int]] = {}
        for m in found:
            same = lines.setdefault((m.file, m.text), [])
            if m.line not in same:
                same.append(m.line)
        explained, errors = set(), []
        for entry in self.entries:
            if not any(m.file.endswith(entry["file"]) for m in found):
                continue
            matches = [r for r in results if self._explains(entry, r, lines[r["file"], r["text"]])]
            explained |= {r["number"] for r in matches}
            if not matches:
                errors.append(f"mutants.toml: no such mutant: {entry['line']}: {entry['change']}")
            errors += [
                f"mutants.toml: killed by {r['by']}: {describe(r)}"
                for r in matches
                if r["outcome"] == "killed"
            ]
        left = [r for r in results if r["outcome"] != "killed" and r["number"] not in explained]
        return left, errors


def run_room(
    room: Room, ledger: Ledger, only: list[str] | None, jobs: int, quick: float | None = None
) -> tuple[list[dict], bool]:
    """Judges the mutants of a room; returns the results and whether all is well."""
    room.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # torch is loaded here once, for all the forks
    found = room.prepare()
    chosen = [m for m in found if not only or f"{m.file}:{m.line}".endswith(tuple(only))]
    done = room.results()
    todo = [m for m in chosen if done.get(m.number, UNDECIDED)["outcome"] == "undecided"]
    if todo:
        try_out(room, todo, len(found), jobs, quick)
    done = room.results()
    results = [done[m.number] for m in chosen]
    survivors = [r for r in results if r["outcome"] != "killed"]
    unexplained, errors = ledger.judge(results, found)
    if only:  # most entries are of other lines
        errors = []
    print(
        f"{room.name}: {len(results)} mutants, {len(results) - len(survivors)} killed, "
        f"{len(survivors)} survive, {len(unexplained)} of them unexplained"
    )
    for text in [*map(describe, unexplained), *errors]:
        print(f"  {text}")
    return results, not unexplained and not errors


def rooms(csrc: pathlib.Path, tests: pathlib.Path, work: pathlib.Path) -> list[Room]:
    names = sorted({p.parent.name for p in (csrc / "ops").glob("*/*.cuh")})
    return [Room(n, csrc, sorted(tests.glob(f"test_{n}*.py")), work / n) for n in names]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--room", action="append", help="one room; may be repeated")
    parser.add_argument(
        "--only", action="append", metavar="FILE:LINE", help="the mutants of one line; repeatable"
    )
    parser.add_argument("--list", action="store_true", help="show the mutants and run nothing")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--quick", type=float, metavar="SECONDS", help="tests of that length; decides kills alone"
    )
    parser.add_argument("--csrc", type=pathlib.Path, default=hc.CSRC)
    parser.add_argument("--tests", type=pathlib.Path, default=hc.HERE)
    parser.add_argument("--work", type=pathlib.Path, default=hc.ROOT / "build" / "mutate")
    options = parser.parse_args(arguments)
    ledger = Ledger(options.tests / "mutants.toml")
    well = True
    for room in rooms(options.csrc, options.tests, options.work):
        if options.room and room.name not in options.room:
            continue
        if options.list:
            for mutant in room.prepare():
                print(mutant)
            continue
        well = run_room(room, ledger, options.only, options.jobs, options.quick)[1] and well
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
