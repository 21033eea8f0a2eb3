# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""For mutate.py: runs a room's tests for each mutant."""

from __future__ import annotations

import collections
import ctypes
import dataclasses
import itertools
import os
import pathlib
import signal
import sys
import time
from collections.abc import Iterator

import host_cuda_harness as hc
import mutants
import pytest
from mutate_room import Room, keys

# What a mutant may take: this many times as long as the unchanged code, or a few seconds.
PATIENCE, LEAST_SECONDS = 30, 4


@dataclasses.dataclass
class Todo:
    """A mutant to judge: by which files of tests, and for how many seconds of them."""

    mutant: mutants.Mutant
    key: str
    files: list[str]
    met: list[str]  # files that it has survived before
    seconds: float | None = None


class Trial:
    """A pytest plugin: the tests of a room once without a mutant, then some for each.

    Tests are imported, collected and linked against the mutated library in one process; every
    mutant runs in a fork of it, which takes milliseconds.
    """

    def __init__(self, room: Room, todo: list[Todo], count: int, jobs: int, known: list[dict]):
        self.room, self.todo, self.count, self.jobs = room, todo, count, jobs
        # Of a kernel's file, by test: what has killed its mutants comes first.
        self.kills: collections.Counter[tuple[str, str]] = collections.Counter(
            (r["file"], r["by"]) for r in known if r["outcome"] == "killed"
        )
        self.seconds: dict[str, float] = {}
        self.reached: dict[str, set[int]] = {}
        self.differs: dict[str, set[int]] = {}
        self.in_fork = False
        self.failed = ""
        self.results = 0

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Failed("the tests cannot be collected")
        items = {item.nodeid: item for item in session.items}
        self._without_mutant(session, items)
        running: dict[int, tuple[Todo, pathlib.Path]] = {}
        for todo in self.todo:
            while len(running) >= self.jobs:
                self._collect(running)
            number = todo.mutant.number
            own = [n for n, item in items.items() if item.path.name in todo.files]
            names = [n for n in own if number in self.differs[n]]
            if not names:
                reached = any(number in self.reached[n] for n in own)
                why = "no test gives it another value" if reached else "no test reaches it"
                self._write(todo, "survived", why if not todo.met else "")
                continue
            names = self._in_order(todo, names)
            log = self.room.work / f"mutant-{number}.log"
            sys.stdout.flush()
            child = os.fork()
            if child == 0:
                self._run(todo.mutant, [items[name] for name in names], log)
            running[child] = todo, log
        while running:
            self._collect(running)
        return True

    def _in_order(self, todo: Todo, names: list[str]) -> list[str]:
        """The most promising tests first, as many as there is time for."""
        file = todo.mutant.file
        names = sorted(names, key=lambda n: (self.seconds[n] + 0.01) / (1 + self.kills[file, n]))
        if todo.seconds is None:
            return names
        spent = itertools.accumulate(self.seconds[name] for name in names)
        within = [n for n, t in zip(names, spent, strict=True) if t <= todo.seconds]
        return within or names[:1]

    # ---- the unchanged code ----

    def _without_mutant(self, session: pytest.Session, items: dict[str, pytest.Item]) -> None:
        """What each test takes, and which mutants it can see."""
        saved = self.room.load_reached()
        for path in self.room.tests:
            names = [n for n, item in items.items() if item.path == path]
            known = saved.get(path.name, {})
            if set(names) <= set(known):  # one test is enough to load the library
                run = sorted(names, key=lambda n: known[n][0])[:1]
            else:
                run, known = names, {}
            for name in run:
                self._seen()
                session.config.hook.pytest_runtest_protocol(item=items[name], nextitem=None)
                if self.failed:
                    raise session.Failed(f"{self.failed} fails without a mutant")
                known[name] = known.get(name, [self.seconds[name], *self._seen()])
            for name in names:
                self.seconds[name] = known[name][0]
                self.reached[name], self.differs[name] = map(set, known[name][1:])
            saved[path.name] = known
        self.room.save_reached(saved)
        total = sum(self.seconds.values())
        print(f"\n{len(items)} tests take {total:.0f} s without a mutant", flush=True)

    def _seen(self) -> tuple[list[int], list[int]]:
        """The mutants reached, and those that would have differed, since the last call."""
        seen = bytearray(self.count)
        for library in hc.LOADED.values():
            flags = (ctypes.c_ubyte * self.count).in_dll(library, "host_cuda_seen")
            seen = bytearray(a | b for a, b in zip(seen, bytes(flags), strict=True))
            ctypes.memset(flags, 0, self.count)
        reached = [i for i, flag in enumerate(seen) if flag]
        return reached, [i for i in reached if seen[i] & 2]

    # ---- mutants ----

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
                log.with_suffix(".test").write_text(item.nodeid)
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
                if self.failed:
                    break
            os._exit(1 if self.failed else 0)
        finally:
            os._exit(70)

    def _collect(self, running: dict[int, tuple[Todo, pathlib.Path]]) -> None:
        child, raw = os.wait()
        if child not in running:
            return
        todo, log = running.pop(child)
        status = os.waitstatus_to_exitcode(raw)
        if status > 1:
            raise RuntimeError(f"{todo.mutant}: the run fails itself: see {log}")
        test = log.with_suffix(".test")
        if status == 0:
            self._write(todo, "survived", "")
        else:
            why = {1: "", -signal.SIGPROF: "it does not end"}.get(status, f"signal {-status}")
            self._write(todo, "killed", test.read_text(), why)
        log.unlink()
        test.unlink()

    def _write(self, todo: Todo, outcome: str, by: str, how: str = "") -> None:
        killed = outcome == "killed"
        tests = [pathlib.Path(by.partition("::")[0]).name] if killed else todo.met + todo.files
        result = {"outcome": outcome, "by": by, "how": how, "tests": tests}
        if killed:
            self.kills[todo.mutant.file, by] += 1
        self.room.write(todo.mutant, todo.key, {**result, "seconds": todo.seconds})
        self.results += 1
        if not killed or self.results % 50 == 0:
            text = describe({**dataclasses.asdict(todo.mutant), **result})
            print(f"{self.results}/{len(self.todo)} {outcome}: {text}", flush=True)

    # ---- pytest's hooks ----

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        # All in processor time: others may be busy too.
        if self.in_fork:
            limit = max(LEAST_SECONDS, PATIENCE * self.seconds[item.nodeid])
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_PROF, limit)
        begin = time.process_time()
        try:
            return (yield)
        finally:
            if not self.in_fork:
                self.seconds[item.nodeid] = time.process_time() - begin

    def pytest_runtest_teardown(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


def try_out(room: Room, todo: list[Todo], count: int, jobs: int, known: list[dict]) -> None:
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
            trial = Trial(room, todo, count, jobs, known)
            status = int(pytest.main([*arguments, *map(str, room.tests)], plugins=[trial]))
            if trial.failed:
                print(f"{trial.failed} fails without a mutant")
        finally:
            sys.stdout.flush()
            os._exit(status)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
        raise RuntimeError(f"the tests of {room.name} do not run, see above")


def plan(
    room: Room,
    chosen: list[mutants.Mutant],
    found: list[mutants.Mutant],
    limits: dict[int, float | None],
) -> list[Todo]:
    """What of the chosen mutants earlier runs leave open; ``limits``: seconds of tests for each."""
    names = keys(found)
    done = room.results(found)
    todo = []
    for mutant in chosen:
        result, limit = done.get(mutant.number), limits[mutant.number]
        if result is not None and result["outcome"] == "killed":
            continue
        met = [] if result is None else sorted(result["tests"])
        shorter = result is not None and result["seconds"] is not None
        if shorter and (limit is None or result["seconds"] < limit):
            met = []  # there is more time now
        files = [p.name for p in room.tests if p.name not in met]
        if files:
            todo.append(Todo(mutant, names[mutant.number], files, met, limit))
    return todo


def describe(result: dict) -> str:
    why = f"  ({result['how'] or result['by']})" if result["by"] else ""
    return f"{result['file']}:{result['line']}: {result['change']}   in: {result['text']}{why}"
