# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Writes the compiler's tables of docs/cuda-kernels.md: what nvcc made of each kernel.

    python tools/cuda_kernels.py --write docs/cuda-kernels.md --registers docs/cuda-registers.md
    python tools/cuda_kernels.py --arch 86 --spills    # compiles for one chip; fails on spills

Compiles the kernels for sm_80 and sm_90 (machine_code.py; what has not changed since the last time
is not compiled again).  Registers and shared memory come from ptxas's report, the widths of loads
and stores and the instructions of the main loop from `cuobjdump -sass`; occupancy and the
prediction are arithmetic on them.  A kernel that KERNELS below does not know is an error.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from machine_code import ROOT, Code, compile_kernels, disassemble
from ptxas_report import ALLOWED, Usage, demangle, parse, problems, read_allowed
from ptxas_report import table as ptxas_table

BEGIN, END = "<!-- compiler: begin -->", "<!-- compiler: end -->"
SIZES = {"float": 4, "__nv_bfloat16": 2, "__half": 2, "double": 8}
ARCHS = ("80", "90")
SHARED_MEMORY = {"80": 164 * 1024, "90": 228 * 1024}  # of a multiprocessor

# H100 SXM, as docs/cuda-kernels.md says: bytes per second of a copy, instructions per second of
# all schedulers (132 multiprocessors, 4 each, 1.755 GHz), of 32 lanes each.
COPY = 3.0e12
MULTIPROCESSORS = 132
ISSUE = MULTIPROCESSORS * 4 * 1.755e9
LATENCY = 700e-9  # of a load that misses the caches, under load
# What a well-made kernel reaches of the two: the rest goes to register banks, branches, the ends of
# blocks.
COPY_SHARE, ISSUE_SHARE = 0.92, 0.90


@dataclass
class Work:
    """What an output of a kernel needs, by the problem that its template arguments are made for."""

    bytes_per_output: float  # read and written once each
    adds_per_output: float
    outputs: int = 0  # of one thread in a round of the main loop; 0: as many as it multiplies for
    unused_moves: bool = False

    def predict(self, code: Code) -> float:
        """The limit's time (copy or multiply-adds) as a share of what the loop should take."""
        executed = sum(code.loop.values())
        if self.unused_moves:
            executed -= code.loop["MOV"]
        outputs = self.outputs or max(code.multiply_adds, 1) / self.adds_per_output
        copy = self.bytes_per_output / COPY
        limit = max(copy, self.adds_per_output / (ISSUE * 32))
        issue = executed / (ISSUE * 32) / outputs
        return limit / max(copy / COPY_SHARE, issue / ISSUE_SHARE)


def walk(a: list[str]) -> Work:
    """walk_kernel<T, V, K, stride, stride of a gradient, P, vectors>."""
    lanes, kernel, down, up, strip = map(int, a[1:6])
    # Filter rows that are left out leave behind moves, which are not executed otherwise.
    return Work(
        SIZES[a[0]] * (1 + down**2 / up**2),
        kernel**2 / up**2,
        strip * lanes * up**2,
        unused_moves=kernel > 3,
    )


def walk_gradient(a: list[str]) -> Work:
    """walk_gradient_kernel<T, V, K, stride, P, vectors>: an output is an element of dy."""
    return Work(SIZES[a[0]] * (1 + int(a[3]) ** 2), int(a[2]) ** 2)


def window(a: list[str]) -> Work | None:
    """gather_kernel, weight_gradient_kernel<T, V, window, step, wide>: a square filter."""
    size, step = int(a[2]), int(a[3])
    return Work(SIZES[a[0]] * (1 + step**2), size**2) if size > 1 else None


def large(a: list[str]) -> Work:
    """The strips of a 13x13 filter, the smallest that the notes predict for."""
    return Work(2 * SIZES[a[0]], 13 * 13)


@dataclass
class Kernel:
    """A kernel's threads per block, the argument that says 64-bit indices, what it computes."""

    threads: int
    wide: int | None = None
    work: Callable[[list[str]], Work | None] | None = None
    copies: bool = False  # moves each byte once: the prediction counts those in the main loop


# By room; the threads are those of the largest block, from launch.cuh and the tables of tiles.
KERNELS: dict[str, dict[str, Kernel]] = {
    "depthwise_conv": {
        "walk_kernel": Kernel(128, work=walk),
        "walk_planes_kernel": Kernel(128),
        "walk_gradient_kernel": Kernel(128, work=walk_gradient),
        "walk_backward_kernel": Kernel(128),
        "line_rows_kernel": Kernel(128),
        "line_rows_gradient_kernel": Kernel(128),
        "line_down_kernel": Kernel(128),
        "line_down_gradient_kernel": Kernel(128),
        "gather_kernel": Kernel(128, 4, window),
        "weight_gradient_kernel": Kernel(128, 4, window),
        "large_gather_kernel": Kernel(256, work=large),
        "large_bands_kernel": Kernel(256),
        "large_weight_kernel": Kernel(256, work=large),
        "large_weight_bands_kernel": Kernel(512),
        "add_splits_kernel": Kernel(512),
    },
    "depth_max_pool": {
        "forward_kernel": Kernel(256, 2, copies=True),
        "backward_kernel": Kernel(256, 2, copies=True),
    },
    "rearrange": {
        "copy_runs": Kernel(256, -1, copies=True),
        "copy_long_runs": Kernel(256, -1, copies=True),
        "copy_registers": Kernel(256, -1, copies=True),
        "copy_boxes": Kernel(512, -1, copies=True),
    },
    "squeeze_excite": {
        "planes_kernel": Kernel(256, copies=True),
        "channels_kernel": Kernel(256, copies=True),
        "combine_kernel": Kernel(256),
    },
    "causal_conv1d_update": {"update_kernel": Kernel(128)},
}


def kernel_of(short: str) -> tuple[Kernel, list[str]]:
    """What is known of `room::kernel<arguments>`, and its template arguments."""
    room, _, rest = short.partition("::")
    name, _, arguments = rest.partition("<")
    if name not in KERNELS.get(room, {}):
        raise SystemExit(f"tools/cuda_kernels.py: KERNELS does not know {room}::{name}")
    return KERNELS[room][name], [a.strip() for a in arguments.rstrip(">").split(",")]


def left_out(short: str) -> bool:
    """Instantiations that say nothing new: two dtypes of four, and 64-bit indices."""
    kernel, arguments = kernel_of(short)
    wide = kernel.wide is not None and arguments[kernel.wide] in ("true", "long", "unsigned long")
    return wide or arguments[0] in ("double", "__half")


def warps(usage: Usage, threads: int) -> int:
    """Warps that fit on a multiprocessor with 65,536 registers, given out by 256 to a warp."""
    per_warp = -(-usage.registers * 32 // 256) * 256
    block = threads // 32
    blocks = min(65536 // (per_warp * block), 64 // block, 32)
    if usage.smem and usage.arch in SHARED_MEMORY:  # a block takes another KiB
        blocks = min(blocks, SHARED_MEMORY[usage.arch] // (usage.smem + 1024))
    return blocks * block


def copy_share(code: Code, resident: int) -> float:
    """Of a copy's speed, for a kernel that moves each byte once, with so many resident warps.

    By Little's law a multiprocessor moves what a round of its warps loads and stores per latency.
    """
    issue = sum(code.loop.values()) / code.moved / (ISSUE * 32)
    rounds = resident * 32 * code.moved * MULTIPROCESSORS / LATENCY
    waits = 1 / rounds if any(name.startswith("LDG") for name in code.loop) else 0
    return 1 / COPY / max(1 / COPY / COPY_SHARE, issue / ISSUE_SHARE, waits)


def widths(codes: Sequence[Code], kind: str) -> str:
    """`128 16`: the widths in bits of a kind of access, widest first."""
    found = {int(name[4:]) for code in codes for name in code.accesses if name.startswith(kind)}
    return " ".join(map(str, sorted(found, reverse=True)))


def pair(values: Sequence[object]) -> str:
    """Two figures where architectures differ."""
    return " / ".join(map(str, values if len(set(values)) > 1 else values[:1]))


def row(short: str, usages: Sequence[Usage], codes: Sequence[Code]) -> str:
    """A kernel's line of the table."""
    kernel, arguments = kernel_of(short)
    work = kernel.work(arguments) if kernel.work else None
    multiplies = any(code.multiply_adds for code in codes)
    moved = [f"{c.moved / max(sum(c.loop.values()), 1):.2f}" for c in codes]
    shares = [f"{c.multiply_adds / max(sum(c.loop.values()), 1):.2f}" for c in codes]
    predicted = ""
    if work is not None:
        predicted = f"{work.predict(codes[-1]):.2f}"
    elif kernel.copies and codes[-1].moved:
        predicted = f"{copy_share(codes[-1], warps(usages[-1], kernel.threads)):.2f}"
    cells = [
        f"`{short.partition('::')[2]}`",
        pair([u.registers for u in usages]),
        pair([u.smem for u in usages]),
        pair([warps(u, kernel.threads) for u in usages]),
        widths(codes, "LDG"),
        widths(codes, "STG"),
        pair(shares) if multiplies and not kernel.copies else "",
        pair(moved) if kernel.copies else "",
        f"{work.bytes_per_output:g}" if work else "",
        f"{work.adds_per_output:g}" if work else "",
        predicted,
    ]
    return f"| {' | '.join(cells)} |"


def table(usages: Sequence[Usage], codes: Mapping[tuple[str, str], Code]) -> str:
    """The generated part of the page: a table for each room."""
    names = demangle([usage.kernel for usage in usages])
    rooms: dict[str, dict[str, list[Usage]]] = {room: {} for room in KERNELS}
    for usage in sorted(usages, key=lambda u: int(re.sub(r"\D", "", u.arch))):
        short = names[usage.kernel]
        if (usage.kernel, usage.arch) in codes and not left_out(short):
            rooms[short.partition("::")[0]].setdefault(short, []).append(usage)
    lines = [BEGIN]
    for room, kernels in rooms.items():
        lines += ["", f"### {room}", ""]
        lines += [
            "| kernel | registers | static smem | warps | loads | stores | FMA share "
            "| bytes moved | bytes | FMA | predicted |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for short, found in sorted(kernels.items()):
            lines.append(row(short, found, [codes[u.kernel, u.arch] for u in found]))
    return "\n".join([*lines, "", END])


def exchange(page: str, generated: str) -> str:
    """The page with its generated part exchanged."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the page lacks {BEGIN} or {END}")
    return before + generated + after


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", action="append", help="80, 90 and so on; may be repeated")
    parser.add_argument("--write", type=Path, metavar="FILE", help="exchange FILE's tables")
    parser.add_argument("--registers", type=Path, metavar="FILE", help="writes cuda-registers.md")
    parser.add_argument("--spills", action="store_true", help="look for spills alone")
    parser.add_argument("--log", type=Path, help="of a build with FASTCONV_PTXAS_VERBOSE=1 ...")
    parser.add_argument("--binary", type=Path, help="... and its library: nothing is compiled")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "cuda_kernels")
    options = parser.parse_args(arguments)
    if options.log:
        report = options.log.read_text(errors="replace").splitlines()
        binaries = [options.binary]
    else:
        report, binaries = compile_kernels(options.arch or ARCHS, options.cache)
    usages = parse(report)
    names = demangle([usage.kernel for usage in usages])
    readable = [replace(usage, kernel=names[usage.kernel]) for usage in usages]
    if options.registers:
        options.registers.write_text(ptxas_table(readable))
    if options.spills:
        bad = problems(readable, read_allowed(ALLOWED.read_text(encoding="utf-8")))
        print("\n".join([f"{len(usages)} functions, {len(bad)} problem(s)", *bad]))
        return 1 if bad else 0
    generated = table(usages, disassemble(binaries))
    if options.write:
        options.write.write_text(exchange(options.write.read_text(), generated))
    else:
        print(generated)
    return 0


if __name__ == "__main__":
    sys.exit(main())
