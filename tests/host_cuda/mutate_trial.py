# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""For mutate.py: a room's mutated copy, and the run of its tests for each mutant."""

from __future__ import annotations

import collections
import ctypes
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
import signal
import sys

import host_cuda_harness as hc
import mutants
import pytest

# Headers outside the rooms whose device code is mutated, with the room whose tests judge them.
SHARED = {"depthwise_conv": ["common/gpu.h"]}
# What a mutant may take: this many times as long as the unchanged code, or a few seconds.
PATIENCE, LEAST_SECONDS = 30, 4

UNDECIDED = {"outcome": "undecided"}

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
int host_cuda_mutant = [] {{
  const char* number = std::getenv("HOST_CUDA_MUTANT");
  return number != nullptr ? std::atoi(number) : -1;
}}();
}}
"""


@dataclasses.dataclass(frozen=True, eq=False)
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

    @functools.cache  # noqa: B019
    def digest(self) -> str:
        """Changes with anything that a result depends on."""
        digest = hashlib.sha256()
        code = {"cuda_source.py", "mutants.py", "host_cuda_harness.py"}
        helpers = [
            p for p in hc.HERE.glob("*.*")
            if p.suffix in (".cpp", ".h") or p.name in code or p.name.startswith(self.name)
        ]  # fmt: skip
        for path in sorted({*self.sources, *self.tests, *helpers}):
            digest.update(path.read_bytes())
        return digest.hexdigest()[:16]

    @property
    def record(self) -> pathlib.Path:
        return self.work / "results.jsonl"

    def results(self) -> dict[int, dict]:
        """What is known of these sources and tests, by the mutant's number."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        known = [json.loads(line) for line in lines]
        return {r["number"]: r for r in known if r["stamp"] == self.digest()}

    def use(self) -> None:
        """Lets the harness of this process build from the mutated copy."""
        hc.CSRC = self.work / "csrc"
        hc.BUILD = self.work / "build"
        hc.EXTRA_FLAGS = ["-w", "-include", str(self.work / "switch.h")]
        hc.EXTRA_SOURCES = [self.work / "switch.cpp"]
        for name in [m for m in sys.modules if m.startswith("test_")]:
            del sys.modules[name]


class Trial:
    """A pytest plugin: the tests of a room once without a mutant, then once for each.

    Tests are imported, collected and linked against the mutated library in one process; every
    mutant runs in a fork of it, which takes milliseconds.
    """

    def __init__(
        self,
        room: Room,
        todo: list[mutants.Mutant],
        count: int,
        jobs: int,
        quick: float | None = None,
    ) -> None:
        self.room, self.todo, self.count, self.jobs, self.quick = room, todo, count, jobs, quick
        self.kills: collections.Counter[str] = collections.Counter()
        self.seconds: dict[str, float] = {}
        self.reached: dict[str, set[int]] = {}
        self.in_fork = False
        self.failed = ""
        self.results = 0

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Failed("the tests cannot be collected")
        items = {item.nodeid: item for item in session.items}
        for item in items.values():
            self._reaches()
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            if self.failed:
                raise session.Failed(f"{self.failed} fails without a mutant")
            self.reached[item.nodeid] = self._reaches()
        total = sum(self.seconds.values())
        print(f"\n{len(items)} tests take {total:.0f} s without a mutant", flush=True)
        running: dict[int, tuple[mutants.Mutant, pathlib.Path]] = {}
        for mutant in self.todo:
            while len(running) >= self.jobs:
                self._collect(running)
            names = [name for name, reached in self.reached.items() if mutant.number in reached]
            if not names:
                self._write(mutant, "survived", "no test reaches it")
                continue
            names.sort(key=lambda name: (self.seconds[name] + 0.01) / (1 + self.kills[name]))
            if self.quick is not None:
                spent = itertools.accumulate(self.seconds[name] for name in names)
                names = [n for n, t in zip(names, spent, strict=True) if t <= self.quick] or names[
                    :1
                ]
            log = self.room.work / f"mutant-{mutant.number}.log"
            sys.stdout.flush()
            child = os.fork()
            if child == 0:
                self._run(mutant, [items[name] for name in names], log)
            running[child] = mutant, log
        while running:
            self._collect(running)
        return True

    def _reaches(self) -> set[int]:
        """The mutants evaluated since the last call."""
        reached: set[int] = set()
        for library in hc.LOADED.values():
            flags = (ctypes.c_ubyte * self.count).in_dll(library, "host_cuda_reached")
            reached |= {i for i, flag in enumerate(bytes(flags)) if flag}
            ctypes.memset(flags, 0, self.count)
        return reached

    def _run(self, mutant: mutants.Mutant, items: list[pytest.Item], log: pathlib.Path) -> None:
        """In the fork: runs tests until one fails, and exits."""
        try:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            self.in_fork = True
            os.environ["HOST_CUDA_MUTANT"] = str(mutant.number)
            for library in hc.LOADED.values():
                ctypes.c_int.in_dll(library, "host_cuda_mutant").value = mutant.number
            for item in items:
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
                if self.failed:
                    break
            log.write_text(self.failed)
            os._exit(1 if self.failed else 0)
        finally:
            os._exit(70)

    def _collect(self, running: dict[int, tuple[mutants.Mutant, pathlib.Path]]) -> None:
        child, raw = os.wait()
        if child not in running:
            return
        mutant, log = running.pop(child)
        status = os.waitstatus_to_exitcode(raw)
        if status == 1:
            by = log.read_text()
            self.kills[by] += 1
        elif status == -signal.SIGPROF:
            by = "it does not end"
        elif status < 0:
            by = f"signal {-status}"
        elif status != 0:
            raise RuntimeError(f"{mutant}: the run fails itself: see {log}")
        if status == 0:
            self._write(mutant, "survived" if self.quick is None else "undecided", "")
        else:
            self._write(mutant, "killed", by)
        log.unlink()

    def _write(self, mutant: mutants.Mutant, outcome: str, by: str) -> None:
        result = {**dataclasses.asdict(mutant), "outcome": outcome, "by": by}
        with self.room.record.open("a") as file:
            file.write(json.dumps({**result, "stamp": self.room.digest()}) + "\n")
        self.results += 1
        if outcome != "killed" or self.results % 50 == 0:
            print(f"{self.results}/{len(self.todo)} {outcome}: {describe(result)}", flush=True)

    def pytest_runtest_call(self, item: pytest.Item) -> None:
        if self.in_fork:
            limit = max(LEAST_SECONDS, PATIENCE * self.seconds[item.nodeid])
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_PROF, limit)  # processor time: others may be busy too

    def pytest_runtest_teardown(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid
        if not self.in_fork and report.when == "call":
            self.seconds[report.nodeid] = report.duration


def try_out(
    room: Room, todo: list[mutants.Mutant], count: int, jobs: int, quick: float | None = None
) -> None:
    """Judges mutants in a process of their own: it loads the mutated library and its tests."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 70
        try:
            room.use()
            # What builds with sanitizers builds the tree, not the copy.
            arguments = ["-q", "-x", "-s", "-p", "no:cacheprovider", "-p", "no:faulthandler",
                         "-k", "not sanitizer"]  # fmt: skip
            trial = Trial(room, todo, count, jobs, quick)
            status = int(pytest.main([*arguments, *map(str, room.tests)], plugins=[trial]))
            if trial.failed:
                print(f"{trial.failed} fails without a mutant")
        finally:
            sys.stdout.flush()
            os._exit(status)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
        raise RuntimeError(f"the tests of {room.name} do not run, see above")


def describe(result: dict) -> str:
    why = f"  ({result['by']})" if result["by"] else ""
    return f"{result['file']}:{result['line']}: {result['change']}   in: {result['text']}{why}"
