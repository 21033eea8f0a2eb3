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
import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import signal
import sys
import tomllib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import host_cuda_harness as hc
import mutants
import pytest

# Headers outside the rooms whose device code is mutated, with the room whose tests judge them.
SHARED = {"depthwise_conv": ["common/gpu.h"]}
# What a mutant may take: this many times as long as the unchanged code, or a few seconds.
PATIENCE, LEAST_SECONDS = 30, 4

SWITCH_HEADER = """
#include <type_traits>
extern "C" unsigned char host_cuda_reached[];
extern "C" int host_cuda_mutant;
constexpr bool mutant(int number) {
  if (std::is_constant_evaluated()) return false;
  host_cuda_reached[number] = 1;
  return host_cuda_mutant == number;
}
"""
SWITCH_SOURCE = """
#include <cstdlib>
extern "C" {{
unsigned char host_cuda_reached[{count}];
int host_cuda_mutant = std::getenv("HOST_CUDA_MUTANT") ? std::atoi(std::getenv("HOST_CUDA_MUTANT")) : -1;
}}
"""


@dataclasses.dataclass
class Room:
    """A room's mutated copy, and the tests that judge it."""

    name: str
    csrc: pathlib.Path
    tests: list[pathlib.Path]
    work: pathlib.Path

    @property
    def sources(self) -> list[pathlib.Path]:
        shared = [self.csrc / s for s in SHARED.get(self.name, [])]
        return sorted((self.csrc / "ops" / self.name).glob("*.cuh")) + shared

    def prepare(self) -> list[mutants.Mutant]:
        """Writes the mutated copy; returns the mutants."""
        found: list[mutants.Mutant] = []
        copy = self.work / "csrc"
        written = {}
        for path in sorted(self.csrc.rglob("*")):
            if path.suffix not in (".h", ".cuh", ".cu"):
                continue
            text = path.read_text()
            if path in self.sources:
                name = f"csrc/{path.relative_to(self.csrc)}"
                text, more = mutants.mutate(name, text, len(found))
                found += more
            written[copy / path.relative_to(self.csrc)] = text
        written[self.work / "switch.h"] = SWITCH_HEADER
        written[self.work / "switch.cpp"] = SWITCH_SOURCE.format(count=len(found) + 1)
        for target, text in written.items():
            if not target.exists() or target.read_text() != text:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text)
        return found

    def digest(self) -> str:
        """Changes with anything that a result depends on."""
        digest = hashlib.sha256()
        for path in sorted([*self.sources, *self.tests, *hc.HERE.glob("*.py"), *hc.HERE.glob("*.h"),
                            *hc.HERE.glob("*.cpp")]):  # fmt: skip
            digest.update(path.read_bytes())
        return digest.hexdigest()[:16]

    def use(self) -> None:
        """Lets the harness of this process build from the mutated copy."""
        hc.CSRC = self.work / "csrc"
        hc.BUILD = self.work / "build"
        hc.EXTRA_FLAGS = ["-w", "-include", str(self.work / "switch.h")]
        hc.EXTRA_SOURCES = [self.work / "switch.cpp"]
        for name in [m for m in sys.modules if m.startswith("test_")]:
            del sys.modules[name]


class Baseline:
    """A pytest plugin: how long each test of the unchanged code takes and what it reaches."""

    def __init__(self, count: int) -> None:
        self.count, self.tests, self.failed = count, {}, []

    def _reached(self) -> set[int]:
        reached: set[int] = set()
        for library in hc.LOADED.values():
            flags = (hc.ctypes.c_ubyte * self.count).in_dll(library, "host_cuda_reached")
            reached |= {i for i, flag in enumerate(bytes(flags)) if flag}
            hc.ctypes.memset(flags, 0, self.count)
        return reached

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)
        if report.when == "call" and report.passed:
            self.tests[report.nodeid] = (report.duration, sorted(self._reached()))


class Deadline:
    """A pytest plugin: ends the process at a test that takes far longer than it should."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds

    def pytest_runtest_call(self, item: pytest.Item) -> None:
        limit = max(LEAST_SECONDS, PATIENCE * self.seconds.get(item.nodeid, 0))
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, limit)

    def pytest_runtest_teardown(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)


def in_child(work, log: pathlib.Path) -> int:
    """Runs work() in a fork, its output in a file; returns the exit status, or -signal."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 70
        try:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            status = int(work())
        finally:
            sys.stdout.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def pytest_main(arguments: list[str], plugin: object) -> int:
    quiet = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:faulthandler", "--tb=line"]
    return pytest.main([*quiet, "--durations=0", *arguments], plugins=[plugin])


def run_baseline(room: Room, count: int) -> dict[str, tuple[float, list[int]]]:
    """Builds the copy and runs its tests with no mutant in force."""
    path = room.work / "baseline.json"

    def work() -> int:
        room.use()
        plugin = Baseline(count)
        # What builds with sanitizers builds the tree, not the copy.
        skip = ["-k", "not sanitizer"]
        status = pytest_main([*skip, *map(str, room.tests)], plugin)
        path.write_text(json.dumps(plugin.tests))
        return status or bool(plugin.failed)

    log = room.work / "baseline.log"
    if in_child(work, log) != 0:
        raise RuntimeError(f"the tests of {room.name} fail without a mutant: see {log}")
    return json.loads(path.read_text())


def judge(room: Room, mutant: mutants.Mutant, baseline: dict, kills: collections.Counter) -> dict:
    """Runs the tests that reach a mutant until one fails."""
    reaching = {name: t for name, (t, reached) in baseline.items() if mutant.number in reached}
    result = {**dataclasses.asdict(mutant), "outcome": "survived", "by": ""}
    if not reaching:
        return {**result, "by": "no test reaches it"}
    order = sorted(reaching, key=lambda name: (reaching[name] + 0.02) / (1 + kills[name]))

    def work() -> int:
        os.environ["HOST_CUDA_MUTANT"] = str(mutant.number)
        room.use()
        return pytest_main(order, Deadline(reaching))

    log = room.work / "logs" / f"{mutant.number}.log"
    log.parent.mkdir(exist_ok=True)
    status = in_child(work, log)
    if status == 0:
        return result
    text = log.read_text(errors="replace")
    failed = [line.split()[1] for line in text.splitlines() if line.startswith("FAILED")]
    if status == 1 and failed:
        by = failed[0]
        kills[by] += 1
    elif status == -signal.SIGPROF:
        by = "it does not end"
    elif status < 0:
        by = f"signal {-status}"
    else:
        raise RuntimeError(f"{mutant}\npytest exits with {status}: see {log}")
    return {**result, "outcome": "killed", "by": by}


class Ledger:
    """mutants.toml: mutants that change no result, each with the reason why."""

    def __init__(self, path: pathlib.Path) -> None:
        text = path.read_text() if path.exists() else ""
        self.entries = tomllib.loads(text).get("mutant", [])
        for entry in self.entries:
            if set(entry) != {"file", "line", "change", "reason"} or not entry["reason"].strip():
                raise ValueError(f"{path}: an entry has file, line, change and reason: {entry}")

    @staticmethod
    def _explains(entry: dict, result: dict) -> bool:
        wanted = entry["change"]
        changes = [wanted] if isinstance(wanted, str) else wanted
        return (
            result["file"].endswith(entry["file"])
            and result["text"] == entry["line"]
            and result["change"] in changes
        )

    def explained(self, result: dict) -> bool:
        return any(self._explains(e, result) for e in self.entries)

    def errors(self, results: list[dict], files: set[str]) -> list[str]:
        """Entries for one of ``files`` that match nothing, or something that a test kills."""
        out = []
        for entry in self.entries:
            if not any(f.endswith(entry["file"]) for f in files):
                continue
            changes = entry["change"] if isinstance(entry["change"], list) else [entry["change"]]
            for change in changes:
                one = {**entry, "change": change}
                matches = [r for r in results if self._explains(one, r)]
                if not matches:
                    out.append(f"mutants.toml: no such mutant: {one['line']}: {change}")
                out += [
                    f"mutants.toml: killed by {r['by']}: {r['file']}:{r['line']}: {change}"
                    for r in matches
                    if r["outcome"] == "killed"
                ]
        return out


def run_room(room: Room, ledger: Ledger, only: str | None, jobs: int) -> tuple[list[dict], bool]:
    """Judges the mutants of a room; returns the results and whether all is well."""
    room.work.mkdir(parents=True, exist_ok=True)
    found = room.prepare()
    chosen = [m for m in found if only is None or f"{m.file}:{m.line}".endswith(only)]
    record = room.work / "results.jsonl"
    stamp = room.digest()
    done = {}
    if record.exists():
        for line in record.read_text().splitlines():
            result = json.loads(line)
            if result["stamp"] == stamp:
                done[result["number"]] = result
    todo = [m for m in chosen if m.number not in done]
    if todo:
        baseline = run_baseline(room, len(found))
        total = sum(t for t, _ in baseline.values())
        print(f"{room.name}: {len(baseline)} tests take {total:.0f} s without a mutant", flush=True)
        kills: collections.Counter = collections.Counter()
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool, record.open("a") as file:
            waiting = [pool.submit(judge, room, m, baseline, kills) for m in todo]
            for i, future in enumerate(concurrent.futures.as_completed(waiting), 1):
                result = {**future.result(), "stamp": stamp}
                file.write(json.dumps(result) + "\n")
                file.flush()
                done[result["number"]] = result
                if result["outcome"] == "survived" or i % 50 == 0:
                    print(f"  {i}/{len(todo)} {result['outcome']}: {describe(result)}", flush=True)
    results = [done[m.number] for m in chosen]
    survivors = [r for r in results if r["outcome"] == "survived"]
    unexplained = [r for r in survivors if not ledger.explained(r)]
    errors = [] if only else ledger.errors(results, {m.file for m in found})
    print(
        f"{room.name}: {len(results)} mutants, {len(results) - len(survivors)} killed, "
        f"{len(survivors)} survive, {len(unexplained)} of them unexplained"
    )
    for text in [*map(describe, unexplained), *errors]:
        print(f"  {text}")
    return results, not unexplained and not errors


def describe(result: dict) -> str:
    why = f"  ({result['by']})" if result["by"] else ""
    return f"{result['file']}:{result['line']}: {result['change']}   in: {result['text']}{why}"


def rooms(csrc: pathlib.Path, tests: pathlib.Path, work: pathlib.Path) -> list[Room]:
    names = sorted({p.parent.name for p in (csrc / "ops").glob("*/*.cuh")})
    return [Room(n, csrc, sorted(tests.glob(f"test_{n}*.py")), work / n) for n in names]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--room", action="append", help="one room; may be repeated")
    parser.add_argument("--only", metavar="FILE:LINE", help="the mutants of one line")
    parser.add_argument("--list", action="store_true", help="show the mutants and run nothing")
    parser.add_argument("--jobs", type=int, default=1)
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
        well = run_room(room, ledger, options.only, options.jobs)[1] and well
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
