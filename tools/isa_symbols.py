#!/usr/bin/env python3
# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Looks for functions that one instruction-set level may lend to all: python tools/isa_symbols.py.

A weak symbol outside a level's namespace, in an object file of that level, is one that the linker
may pick for the whole library; another processor would run it and stop at an illegal instruction.
See docs/adr/0008-target-pragmas.md.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def level_of(source: Path) -> str | None:
    """The level that a source file compiles, if it is one of those files; baseline is for all."""
    found = re.search(r"^#define FASTCONV_ISA (\w+)$", source.read_text(), re.MULTILINE)
    return found[1] if found and found[1] != "baseline" else None


def objects(build: Path) -> list[tuple[Path, str]]:
    """What a build left: object files of levels above the baseline, with their level."""
    found = []
    for source in sorted((ROOT / "csrc" / "ops").glob("*/*.cpp")):
        if level := level_of(source):
            # Folders are named after the variant that was built; a CUDA build has the same files.
            pattern = f"temp-*/csrc/ops/{source.parent.name}/{source.stem}.o"
            found += [(path, level) for path in sorted(build.glob(pattern))]
    return found


def weak_symbols(path: Path, level: str) -> list[str]:
    """Weak symbols of an object file outside the namespace of its level."""
    listed = subprocess.run(
        ["nm", "--defined-only", "-C", str(path)], capture_output=True, text=True, check=True
    )
    symbols = re.findall(r"^\S* ?[VWu] (.*)$", listed.stdout, re.MULTILINE)
    return [name for name in symbols if f"::{level}::" not in name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", nargs="?", type=Path, default=ROOT / "build", help="its folder")
    build = parser.parse_args().build
    found = objects(build)
    if not found:
        raise SystemExit(f"{build}: no object files of an instruction-set level")
    leaks = [f"{path}: {name}" for path, level in found for name in weak_symbols(path, level)]
    if leaks:
        raise SystemExit("\n".join(["weak symbols:", *leaks]))
    print(f"{len(found)} object files, no weak symbol outside its level")


if __name__ == "__main__":
    main()
