# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Writes the compiler's columns of docs/cuda-kernels.md: what nvcc made of each kernel.

FASTCONV_CUDA=1 TORCH_CUDA_ARCH_LIST="8.0;9.0" FASTCONV_PTXAS_VERBOSE=1 \\
  pip install -v --no-build-isolation . > build.log 2>&1
python tools/cuda_kernels.py build.log --binary fastconv/_C*.so --write docs/cuda-kernels.md

Registers and shared memory come from ptxas's report (ptxas_report.py), the widths of loads and
stores and the instructions of the main loop from `cuobjdump -sass`; occupancy and the prediction
are arithmetic on them.  `--binary` may be repeated: shared libraries, objects or cubins.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from ptxas_report import Usage, demangle, parse

BEGIN, END = "<!-- compiler: begin -->", "<!-- compiler: end -->"
# Threads of a block, where the launch gives no more (launch.cuh, walk_launch.cuh, line_launch.cuh).
THREADS = {
    "walk_kernel": 128,
    "walk_planes_kernel": 128,
    "walk_gradient_kernel": 128,
    "walk_backward_kernel": 128,
    "line_rows_kernel": 128,
    "line_rows_gradient_kernel": 128,
    "line_down_kernel": 128,
    "line_down_gradient_kernel": 128,
    "gather_kernel": 128,
    "weight_gradient_kernel": 128,
    "add_splits_kernel": 512,
}
SIZES = {"float": 4, "__nv_bfloat16": 2, "__half": 2, "double": 8}

# H100 SXM, as docs/cuda-kernels.md says: bytes per second of a copy, instructions per second of
# all schedulers (132 multiprocessors, 4 each, 1.755 GHz), of 32 lanes each.
COPY = 3.0e12
ISSUE = 132 * 4 * 1.755e9
# What a well-made kernel reaches of the two: the rest goes to register banks, branches, the ends of
# blocks.
COPY_SHARE, ISSUE_SHARE = 0.92, 0.90


@dataclass
class Code:
    """What the machine code of a function shows."""

    accesses: Counter[str] = field(default_factory=Counter)  # LDG.128 and the like
    loop: Counter[str] = field(default_factory=Counter)  # of the loop with most multiply-adds

    @property
    def multiply_adds(self) -> int:
        return self.loop["FFMA"] + self.loop["DFMA"] + self.loop["HMMA"]


def opcode(instruction: str) -> str:
    """`LDG.128` for a global access, else the name without modifiers."""
    words = instruction.split()
    name = words[1] if words[0].startswith("@") else words[0]
    base = name.split(".")[0]
    if base not in ("LDG", "STG"):
        return base
    width = re.search(r"\.(128|64|U16|S16|U8|S8)\b", name)
    return f"{base}.{width[1].lstrip('US') if width else 32}"


def read_sass(lines: Iterable[str]) -> dict[tuple[str, str], Code]:
    """Functions by mangled name and architecture, from cuobjdump's listing."""
    found: dict[tuple[str, str], Code] = {}
    arch, body = "", None
    bodies: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for line in lines:
        if hit := re.search(r"code for sm_(\w+)", line):
            arch = hit[1]
        elif hit := re.search(r"Function : (\S+)", line):
            body = bodies.setdefault((hit[1], arch), [])
        elif body is not None and (hit := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", line)):
            body.append((int(hit[1], 16), hit[2]))
    for key, instructions in bodies.items():
        found[key] = read_function(instructions)
    return found


def read_function(instructions: Sequence[tuple[int, str]]) -> Code:
    """Global accesses of a function, and its main loop: that of the most multiply-adds."""
    code = Code()
    for address, text in instructions:
        name = opcode(text)
        if name.startswith(("LDG", "STG")):
            code.accesses[name] += 1
        hit = re.search(r"\bBRA\b.*?\b0x([0-9a-f]+)", text)
        if hit and int(hit[1], 16) <= address:
            inside = Code(
                loop=Counter(opcode(t) for a, t in instructions if int(hit[1], 16) <= a <= address)
            )
            if inside.multiply_adds > code.multiply_adds:
                code.loop = inside.loop
    return code


def disassemble(paths: Sequence[Path]) -> dict[tuple[str, str], Code]:
    """The code of every function in some binaries."""
    tool = shutil.which("cuobjdump")
    if tool is None:
        import triton  # its wheel has one

        tool = str(Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump")
    found = {}
    for path in paths:
        said = subprocess.run(
            [tool, "-sass", str(path)], capture_output=True, text=True, check=True
        )
        found.update(read_sass(said.stdout.splitlines()))
    return found


def warps(usage: Usage, threads: int) -> int:
    """Warps that fit on a multiprocessor with 65,536 registers, given out by 256 to a warp."""
    per_warp = -(-usage.registers * 32 // 256) * 256
    block = threads // 32
    return min(65536 // (per_warp * block) * block, 64)


@dataclass
class Walk:
    """The template arguments of walk_kernel, and the arithmetic of its main loop."""

    dtype: str
    lanes: int
    kernel: int
    down: int
    up: int
    strip: int

    @property
    def outputs(self) -> int:
        """Of one thread in one round."""
        return self.strip * self.lanes * self.up**2

    @property
    def bytes_per_output(self) -> float:
        """Read and written once each."""
        return SIZES[self.dtype] * (1 + self.down**2 / self.up**2)

    @property
    def adds_per_output(self) -> float:
        return self.kernel**2 / self.up**2

    def predict(self, code: Code) -> float:
        """The limit's time (copy or multiply-adds) as a share of what the loop should take."""
        # Filter rows that are left out leave behind moves, which are not executed otherwise.
        executed = sum(code.loop.values()) - (code.loop["MOV"] if self.kernel > 3 else 0)
        copy = self.bytes_per_output / COPY
        limit = max(copy, self.adds_per_output / (ISSUE * 32))
        issue = executed / (ISSUE * 32) / self.outputs
        return limit / max(copy / COPY_SHARE, issue / ISSUE_SHARE)


def walk_of(kernel: str) -> Walk | None:
    hit = re.search(r"walk_kernel<(\w+), (\d), (\d), (\d), (\d), (\d), \w+>", kernel)
    return Walk(hit[1], *map(int, hit.groups()[1:])) if hit else None


def widths(codes: Sequence[Code], kind: str) -> str:
    """`128 16`: the widths in bits of a kind of access, widest first."""
    found = {int(name[4:]) for code in codes for name in code.accesses if name.startswith(kind)}
    return " ".join(map(str, sorted(found, reverse=True)))


def pair(values: Sequence[object]) -> str:
    return " / ".join(map(str, values if len(set(values)) > 1 else values[:1]))


def row(kernel: str, usages: Sequence[Usage], codes: Sequence[Code]) -> str:
    """A kernel's line of the table; two figures where architectures differ."""
    name = re.sub(r"^depthwise_conv::", "", kernel)
    threads = THREADS[name.partition("<")[0]]
    shares = [f"{c.multiply_adds / max(sum(c.loop.values()), 1):.2f}" for c in codes]
    walk = walk_of(kernel)
    cells = [
        f"`{name}`",
        pair([u.registers for u in usages]),
        pair([u.smem for u in usages]),
        pair([warps(u, threads) for u in usages]),
        widths(codes, "LDG"),
        widths(codes, "STG"),
        pair(shares),
        f"{walk.bytes_per_output:g}" if walk else "",
        f"{walk.adds_per_output:g}" if walk else "",
        f"{walk.predict(codes[-1]):.2f}" if walk and codes else "",
    ]
    return f"| {' | '.join(cells)} |"


def table(usages: Sequence[Usage], codes: dict[tuple[str, str], Code]) -> str:
    """The generated part of the page."""
    names = demangle([usage.kernel for usage in usages])
    kernels: dict[str, list[Usage]] = {}
    for usage in sorted(usages, key=lambda u: int(re.sub(r"\D", "", u.arch))):
        short = names[usage.kernel]
        if short.partition("<")[0].removeprefix("depthwise_conv::") in THREADS:
            kernels.setdefault(short, []).append(usage)
    lines = [
        BEGIN,
        "| kernel | registers | static smem | warps | loads | stores | FMA share | bytes | FMA "
        "| predicted |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for short, found in sorted(kernels.items()):
        if re.search(r"<(double|__half)\b", short):
            continue
        lines.append(row(short, found, [codes[u.kernel, u.arch] for u in found]))
    return "\n".join([*lines, END])


def replace(page: str, generated: str) -> str:
    """The page with its generated part exchanged."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the page lacks {BEGIN} or {END}")
    return before + generated + after


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path, nargs="+", help="output of the build")
    parser.add_argument("--binary", type=Path, action="append", required=True)
    parser.add_argument("--write", type=Path, metavar="FILE", help="exchange FILE's table")
    options = parser.parse_args(arguments)
    lines = [line for log in options.log for line in log.read_text(errors="replace").splitlines()]
    generated = table(parse(lines), disassemble(options.binary))
    if options.write:
        options.write.write_text(replace(options.write.read_text(), generated))
    else:
        print(generated)
    return 0


if __name__ == "__main__":
    sys.exit(main())
