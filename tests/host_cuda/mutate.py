# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Does a test fail for every barrier, bound and mask that a kernel could lack?

    python tests/host_cuda/mutate.py                        # all rooms: hours, the first time
    python tests/host_cuda/mutate.py --room rearrange --jobs 2
    python tests/host_cuda/mutate.py --only copy.cuh:74     # one line; --list shows what there is

Copies csrc/, changes every barrier, predicate, clamp and mask of a room's device code (mutants.py)
and runs tests for each mutant until one fails: of those that saw the mutated expression take
another value, the most promising first.  A mutant that mutants.toml explains gets a few seconds of
tests, one that nothing explains gets them all.  --quick SECONDS gives a first picture.

Results go to build/mutate/<room>/verdicts.jsonl as they come, and a later run goes on from there: a
kill holds until the kernel's code or the test that killed changes, a survivor meets only files of
tests that are new or changed.  Exits with 1 if a mutant survives that mutants.toml does not
explain, or if an entry there explains none, or one that a test kills.
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
from mutate_room import Room
from mutate_trial import describe, plan, try_out

# Tests enough for a mutant of which mutants.toml says why none can fail.
EXPLAINED_SECONDS = 3.0


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

    def explained(self, found: list[mutants.Mutant]) -> tuple[dict[int, dict], list[str]]:
        """The mutants of a room that have an entry, and the entries that explain none."""
        lines: dict[tuple[str, str], list[int]] = {}
        for m in found:
            same = lines.setdefault((m.file, m.text), [])
            if m.line not in same:
                same.append(m.line)
        explained, errors = {}, []
        for entry in self.entries:
            of_file = [m for m in found if m.file.endswith(entry["file"])]
            matches = [
                m for m in of_file
                if (m.text, m.change) == (entry["line"], entry["change"])
                and lines[m.file, m.text].index(m.line) + 1 in entry.get("which", range(99))
            ]  # fmt: skip
            explained |= {m.number: entry for m in matches}
            if of_file and not matches:
                errors.append(f"mutants.toml: no such mutant: {entry['line']}: {entry['change']}")
        return explained, errors


def run_room(
    room: Room, ledger: Ledger, only: list[str] | None, jobs: int, quick: float | None = None
) -> bool:
    """Judges the mutants of a room; returns whether all is well."""
    room.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # torch is loaded here once, for all the forks
    found = room.prepare()
    chosen = [m for m in found if not only or f"{m.file}:{m.line}".endswith(tuple(only))]
    explained, errors = ledger.explained(found)
    limits = {m.number: EXPLAINED_SECONDS if m.number in explained else quick for m in chosen}
    if todo := plan(room, chosen, found, limits):
        todo.sort(key=lambda one: one.mutant.number in explained)  # news first
        try_out(room, todo, len(found), jobs, list(room.results(found).values()))
    done = room.results(found)
    results = [done[m.number] for m in chosen]
    survivors = [r for r in results if r["outcome"] != "killed"]
    unexplained = [r for r in survivors if r["number"] not in explained]
    errors += [
        f"mutants.toml: killed by {r['by']}: {describe(r)}"
        for r in results
        if r["outcome"] == "killed" and r["number"] in explained
    ]
    print(
        f"{room.name}: {len(results)} mutants, {len(results) - len(survivors)} killed, "
        f"{len(survivors)} survive, {len(unexplained)} of them unexplained"
    )
    for text in [*map(describe, unexplained), *errors]:
        print(f"  {text}")
    return not unexplained and not errors


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
        "--quick", type=float, metavar="SECONDS", help="so many seconds of tests for each mutant"
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
        well = run_room(room, ledger, options.only, options.jobs, options.quick) and well
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
