# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""For mutate.py: a room's mutated copy, and what is known of its mutants from earlier runs."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
import pathlib
import re
import sys

import host_cuda_harness as hc
import mutants

# Headers outside the rooms whose device code is mutated, with the room whose tests judge them.
SHARED = {"depthwise_conv": ["common/activation.cuh", "common/gpu.h"]}

# `mutated` gives the value of the mutant in force.  host_cuda_seen notes what was evaluated (1) and
# what would have had another value (2): a test that saw no other value cannot fail for a mutant.
SWITCH_HEADER = """
#include <type_traits>
extern "C" unsigned char host_cuda_seen[];
extern "C" int host_cuda_mutant;
constexpr bool mutant(int number) {
  if (std::is_constant_evaluated()) return false;
  host_cuda_seen[number] = 3;
  return host_cuda_mutant == number;
}
template <class T, class... Others>
constexpr T mutated(int first, T original, Others... others) {
  if (std::is_constant_evaluated()) return original;
  const T values[] = {static_cast<T>(others)...};
  const int count = sizeof...(others);
  for (int i = 0; i < count; ++i) {
    host_cuda_seen[first + i] |= static_cast<unsigned char>(values[i] != original ? 3 : 1);
  }
  const int chosen = host_cuda_mutant - first;
  return chosen >= 0 && chosen < count ? values[chosen] : original;
}
"""
SWITCH_SOURCE = """
#include <cstdlib>
extern "C" {{
unsigned char host_cuda_seen[{count}];
int host_cuda_mutant = [] {{
  const char* number = std::getenv("HOST_CUDA_MUTANT");
  return number != nullptr ? std::atoi(number) : -1;
}}();
}}
"""


def _hash(paths: set[pathlib.Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


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

    def use(self) -> None:
        """Lets the harness of this process build from the mutated copy."""
        hc.CSRC = self.work / "csrc"
        hc.BUILD = self.work / "build"
        hc.EXTRA_FLAGS = ["-w", "-include", str(self.work / "switch.h")]
        hc.EXTRA_SOURCES = [self.work / "switch.cpp"]
        for name in [m for m in sys.modules if m.startswith("test_")]:
            del sys.modules[name]

    # ---- what results depend on ----

    def _includes(self, path: pathlib.Path) -> set[pathlib.Path]:
        """A source with all that it includes of csrc/."""
        seen, left = set(), [path]
        while left:
            one = left.pop()
            if one not in seen and one.is_file():
                seen.add(one)
                named = re.findall(r'^#include "(.+)"', one.read_text(), re.MULTILINE)
                left += [self.csrc / name for name in named]
        return seen

    @functools.cache  # noqa: B019
    def source_stamp(self, file: str) -> str:
        """Changes with a kernel's file, what that includes, and the .cu files that launch it.

        Those include it, or begin with the same word: walk.cu for walk_gradient.cuh.
        """
        own = self.csrc / file.removeprefix("csrc/")
        needed = self._includes(own)
        word = re.split(r"[_.]", own.name)[0]
        launchers = (self.csrc / "ops" / self.name).glob("*.cu")
        needed |= {p for p in launchers if own in self._includes(p) or p.name.startswith(word)}
        needed |= {hc.HERE / "mutants.py", hc.HERE / "cuda_source.py"}
        return _hash(needed)

    @functools.cache  # noqa: B019
    def test_stamp(self, name: str) -> str:
        """Changes with a file of tests, and what such a file uses."""
        own = [p for p in self.tests if p.name == name]
        helpers = [
            p for p in hc.HERE.glob("*.*")
            if p.suffix in (".cpp", ".h") or p.name == "host_cuda_harness.py"
            or p.name.startswith(self.name)
        ]  # fmt: skip
        return _hash({*own, *helpers}) if own else "gone"

    @functools.cache  # noqa: B019
    def stamp(self) -> str:
        """Changes with anything that changes the numbers of mutants."""
        return _hash({*self.sources, hc.HERE / "mutants.py", hc.HERE / "cuda_source.py"})

    # ---- what is known ----

    @property
    def record(self) -> pathlib.Path:
        return self.work / "verdicts.jsonl"

    def results(self, found: list[mutants.Mutant]) -> dict[int, dict]:
        """What still holds of earlier verdicts, by the mutant's number of today.

        A kill holds as long as the kernel's code and the test that killed are what they were.  A
        survivor has met the files of tests in "tests", for so many "seconds" (or as long as it
        takes): those that are new or changed may still kill it.
        """
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        by_key = {json.loads(line)["key"]: json.loads(line) for line in lines}
        known = {}
        for mutant, key in zip(found, keys(found), strict=True):
            result = by_key.get(key)
            if result is None or result["source"] != self.source_stamp(mutant.file):
                continue
            holds = {n: s for n, s in result["tests"].items() if s == self.test_stamp(n)}
            if result["outcome"] == "killed" and holds != result["tests"]:
                continue
            known[mutant.number] = {**result, **dataclasses.asdict(mutant), "tests": holds}
        return known

    def untried(self, result: dict) -> list[pathlib.Path]:
        """The files of tests that a survivor has not met."""
        return [p for p in self.tests if p.name not in result["tests"]]

    def write(self, mutant: mutants.Mutant, key: str, result: dict) -> None:
        """Notes a verdict."""
        stamps = {name: self.test_stamp(name) for name in result["tests"]}
        full = {"key": key, **dataclasses.asdict(mutant), **result, "tests": stamps}
        with self.record.open("a") as file:
            file.write(json.dumps({**full, "source": self.source_stamp(mutant.file)}) + "\n")

    def load_reached(self) -> dict[str, dict[str, list]]:
        """By file of tests: by test, its seconds, the mutants reached and those seen to differ."""
        path = self.work / "reached.json"
        saved = json.loads(path.read_text()) if path.exists() else {}
        if saved.get("stamp") != self.stamp():
            return {}
        files = saved["files"].items()
        return {n: f["tests"] for n, f in files if f["stamp"] == self.test_stamp(n)}

    def save_reached(self, reached: dict[str, dict[str, list]]) -> None:
        files = {n: {"stamp": self.test_stamp(n), "tests": t} for n, t in reached.items()}
        text = json.dumps({"stamp": self.stamp(), "files": files})
        (self.work / "reached.json").write_text(text)


def keys(found: list[mutants.Mutant]) -> list[str]:
    """A name for each mutant that does not change when other lines do."""
    seen: collections.Counter[tuple[str, str, str]] = collections.Counter()
    out = []
    for m in found:
        same = (m.file, m.text, m.change)
        out.append(" | ".join([*same, str(seen[same])]))
        seen[same] += 1
    return out
