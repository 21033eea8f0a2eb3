# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Reads nvcc's -Xptxas -v output: fails on spills and local memory, and tabulates resources.

FASTCONV_PTXAS_VERBOSE=1 pip install -v --no-build-isolation . > build.log 2>&1
python tools/ptxas_report.py build.log --check docs/cuda-registers.md
"""

from __future__ import annotations

import argparse
import difflib
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ALLOWED = Path(__file__).with_name("ptxas_allowed.txt")


@dataclass
class Usage:
    """What one function uses when compiled for one architecture; sizes in bytes."""

    kernel: str
    arch: str
    registers: int = 0
    smem: int = 0
    stack: int = 0
    spills: int = 0


def parse(lines: Iterable[str]) -> list[Usage]:
    """Collects the resources of every function, in the order of the log."""
    found: dict[tuple[str, str], Usage] = {}
    arch, current, entry = "", None, ""
    for line in lines:
        if hit := re.search(r"Compiling entry function '(\S+)' for 'sm_(\w+)'", line):
            entry, arch = hit.groups()
        elif hit := re.search(r"Function properties for '?([\w$.]+)", line):
            # Also printed for a device function that was not inlined, in the entry's report.
            current = found.setdefault((hit[1], arch), Usage(hit[1], arch))
        elif current and (hit := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill", line)):
            # A template in a header may be compiled twice, with the same result.
            spilled = sum(map(int, re.findall(r"(\d+) bytes spill", line)))
            current.stack = max(current.stack, int(hit[1]))
            current.spills = max(current.spills, spilled)
        elif hit := re.search(r"ptxas info\s*: Used (\d+) registers", line):
            usage = found.setdefault((entry, arch), Usage(entry, arch))
            usage.registers = int(hit[1])
            smem = re.search(r"(\d+)(?:\+\d+)? bytes smem", line)
            usage.smem = int(smem[1]) if smem else 0
    return list(found.values())


def demangle(names: Sequence[str]) -> dict[str, str]:
    """Readable names, without result type and parameters; mangled where c++filt is missing."""
    try:
        said = subprocess.run(
            ["c++filt"], input="\n".join(names), text=True, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return {name: name for name in names}
    return {old: short(new) for old, new in zip(names, said.stdout.splitlines(), strict=True)}


def short(signature: str) -> str:
    """`void ns::kernel<float, 3>(Params)` as `ns::kernel<float, 3>`."""
    name = re.sub(r"\((anonymous namespace|unnamed)\)::", "", signature)
    name = re.sub(r"\([a-z ]+\)(?=[-\d])", "", name)  # casts of template arguments
    if name.endswith(")"):
        depth = 0
        for at in range(len(name) - 1, -1, -1):
            depth += (name[at] == ")") - (name[at] == "(")
            if depth == 0:
                name = name[:at]
                break
    return name.removeprefix("void ").replace("fastconv::", "")


def read_allowed(text: str) -> dict[str, str]:
    """Maps patterns to reasons; a line is `pattern  # reason`."""
    allowed = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            pattern, _, reason = line.partition("  # ")
            if not reason.strip():
                raise SystemExit(f"{ALLOWED.name}: {pattern!r} gives no reason")
            allowed[pattern.strip()] = reason.strip()
    return allowed


def problems(usages: Sequence[Usage], allowed: dict[str, str]) -> list[str]:
    """One line for each kernel that spills and may not, and for each permission without use."""
    out, used = [], set()
    for usage in usages:
        if not (usage.spills or usage.stack):
            continue
        hits = {pattern for pattern in allowed if re.search(pattern, usage.kernel)}
        used |= hits
        if not hits:
            out.append(
                f"{usage.kernel} for sm_{usage.arch}: {usage.spills} bytes spilled, "
                f"{usage.stack} bytes of stack ({usage.registers} registers)"
            )
    return out + [f"{ALLOWED.name}: {p!r} is not needed any more" for p in allowed.keys() - used]


def table(usages: Sequence[Usage]) -> str:
    """The Markdown page: a row for each kernel, `a / b` where architectures differ."""
    archs = sorted({usage.arch for usage in usages}, key=lambda arch: int(re.sub(r"\D", "", arch)))
    kernels: dict[str, dict[str, Usage]] = {}
    for usage in usages:
        kernels.setdefault(usage.kernel, {})[usage.arch] = usage
    lines = [
        "# Registers and shared memory of the CUDA kernels",
        "",
        "`tools/ptxas_report.py --write` makes this page from nvcc's report; CI fails when it is",
        f"out of date. Compiled for {' and '.join('sm_' + arch for arch in archs)}; two figures",
        "where they differ, in that order. Sizes are in bytes; shared memory is the static part,",
        "without what the launch adds.",
        "",
        "| kernel | registers | shared memory | stack | spills |",
        "|---|---|---|---|---|",
    ]
    for name, by_arch in sorted(kernels.items()):
        cells = [
            merged([getattr(by_arch[arch], field) for arch in archs if arch in by_arch])
            for field in ("registers", "smem", "stack", "spills")
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def merged(values: Sequence[int]) -> str:
    """One number if all are the same."""
    return " / ".join(map(str, values if len(set(values)) > 1 else values[:1]))


def differences(path: Path, page: str) -> list[str]:
    """Nothing if the file holds `page`; otherwise what to run, and the lines that differ."""
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    if old == page:
        return []
    lines = difflib.unified_diff(
        old.splitlines(), page.splitlines(), "file", "build", "", "", 0, ""
    )
    return ["\n".join([f"{path} is out of date: run this with --write {path}", *lines])]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path, help="output of the build")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table to FILE")
    parser.add_argument("--check", type=Path, metavar="FILE", help="fail if FILE is not the table")
    options = parser.parse_args(arguments)

    usages = parse(options.log.read_text(encoding="utf-8", errors="replace").splitlines())
    names = demangle([usage.kernel for usage in usages])
    for usage in usages:
        usage.kernel = names[usage.kernel]
    if not usages:
        print(f"{options.log} has no output of ptxas: build with FASTCONV_PTXAS_VERBOSE=1")
        return 1
    bad = problems(usages, read_allowed(ALLOWED.read_text(encoding="utf-8")))
    page = table(usages)
    if options.write:
        options.write.parent.mkdir(parents=True, exist_ok=True)
        options.write.write_text(page, encoding="utf-8")
    if options.check:
        bad += differences(options.check, page)
    archs = sorted({usage.arch for usage in usages})
    print(
        f"{len(usages)} functions for {', '.join('sm_' + a for a in archs)}: {len(bad)} problem(s)"
    )
    for line in bad:
        print(f"  {line}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
