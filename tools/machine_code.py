# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""For cuda_kernels.py: compiles the CUDA kernels alone and reads what nvcc made of them.

The kernels see no torch, so nvcc, cuobjdump and the sources are all that is needed.  The cubins and
nvcc's reports stay in build/cuda_kernels/, and only what has changed is compiled again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "build_backend"))

import build_plan
from cuda_choice import Choice, find_toolkit

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Code:
    """What the machine code of a function shows."""

    accesses: Counter[str] = field(default_factory=Counter)  # LDG.128 and the like
    # Of the loop with most multiply-adds, or with most bytes moved if none multiplies.
    loop: Counter[str] = field(default_factory=Counter)

    @property
    def multiply_adds(self) -> int:
        return self.loop["FFMA"] + self.loop["DFMA"] + self.loop["HMMA"]

    @property
    def moved(self) -> int:
        """Bytes that a thread loads and stores in one round of the loop."""
        widths = ((name[4:], n) for name, n in self.loop.items() if name[:4] in ("LDG.", "STG."))
        return sum(int(width) // 8 * n for width, n in widths)


def opcode(instruction: str) -> str:
    """`LDG.128` for a global access, else the name without modifiers."""
    words = instruction.split()
    name = words[1] if words[0].startswith("@") else words[0]
    base = name.split(".")[0]
    if base == "LDGSTS":  # from global into shared memory, past the registers
        base = "LDG"
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


def without_activations(instructions: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """A function without what runs only for an activation (csrc/common/activation.cuh).

    That is what a branch skips that computes powers of e and accesses no global memory: nothing
    else in a loop does.
    """
    kept = list(instructions)
    for address, text in instructions:
        hit = re.search(r"\bBRA\b.*?\b0x([0-9a-f]+)", text)
        if not hit or (end := int(hit[1], 16)) <= address:
            continue
        skipped = [t for a, t in instructions if address < a < end]
        if any("MUFU.EX2" in t for t in skipped) and not any(
            opcode(t).startswith(("LDG", "STG", "EXIT")) for t in skipped
        ):
            kept = [(a, t) for a, t in kept if not address < a < end]
    return kept


def read_function(instructions: Sequence[tuple[int, str]]) -> Code:
    """Global accesses of a function, and its main loop; all of it where no loop moves a byte.

    Of loops in one another it is the innermost that holds half of the multiply-adds.  Code of
    activations does not count.
    """
    instructions = without_activations(instructions)
    code = Code()
    loops: list[tuple[int, int, Code]] = []
    for address, text in instructions:
        name = opcode(text)
        if name.startswith(("LDG.", "STG.")):
            code.accesses[name] += 1
        hit = re.search(r"\bBRA\b.*?\b0x([0-9a-f]+)", text)
        if hit and (begin := int(hit[1], 16)) < address:
            own = Counter(opcode(t) for a, t in instructions if begin <= a <= address)
            loops.append((begin, address, Code(loop=own)))
    adds = any(one.multiply_adds for *_, one in loops)

    def weight(one: Code) -> int:
        return one.multiply_adds if adds else one.moved

    while loops:
        begin, end, best = max(loops, key=lambda loop: (weight(loop[2]), loop[0] - loop[1]))
        code.loop = best.loop
        loops = [
            (a, b, one)
            for a, b, one in loops
            if begin <= a and b <= end and b - a < end - begin and 2 * weight(one) >= weight(best)
        ]
    if not code.multiply_adds and not code.moved:
        code.loop = Counter(opcode(text) for _, text in instructions)
    return code


def cuobjdump() -> str:
    """The toolkit's, or the one that Triton's wheel brings along."""
    tool = shutil.which("cuobjdump")
    if tool is not None:
        return tool
    try:
        import triton
    except ImportError:
        raise SystemExit("no cuobjdump: it comes with the CUDA toolkit, and with triton") from None
    return str(Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump")


def disassemble(paths: Sequence[Path]) -> dict[tuple[str, str], Code]:
    """The code of every function in some binaries."""
    found = {}
    for path in paths:
        said = subprocess.run(
            [cuobjdump(), "-sass", str(path)], capture_output=True, text=True, check=True
        )
        found.update(read_sass(said.stdout.splitlines()))
    return found


def compile_kernels(archs: Sequence[str], folder: Path) -> tuple[list[str], list[Path]]:
    """Compiles every .cu for every architecture; returns ptxas's report and the cubins."""
    nvcc = find_toolkit(os.environ).nvcc
    sources = sorted((ROOT / "csrc").glob("ops/*/*.cu"))
    flags = build_plan.nvcc_flags(Choice("", None, ()), 1, werror=True, verbose=True)
    flags.append(f"-I{ROOT / 'csrc'}")
    folder.mkdir(parents=True, exist_ok=True)

    def compile_one(job: tuple[str, Path]) -> tuple[str, Path]:
        arch, source = job
        common = sorted((ROOT / "csrc" / "common").glob("*.*h"))
        room = sorted(p for p in source.parent.glob("*.*h") if p.suffix in (".h", ".cuh"))
        state = hashlib.sha256(repr((arch, flags)).encode())
        for path in [source, *common, *room]:
            state.update(path.read_bytes())
        name = f"{source.parent.name}-{source.stem}-sm_{arch}-{state.hexdigest()[:12]}"
        cubin, report = folder / f"{name}.cubin", folder / f"{name}.txt"
        if not (cubin.exists() and report.exists()):
            command = [nvcc, "-cubin", f"-arch=sm_{arch}", *flags, str(source), "-o", str(cubin)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
            report.write_text(done.stdout + done.stderr)
            print(f"{source.relative_to(ROOT)} for sm_{arch}", file=sys.stderr, flush=True)
        return report.read_text(), cubin

    jobs = int(os.environ.get("MAX_JOBS", 0)) or len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(jobs) as pool:
        done = list(pool.map(compile_one, [(a, s) for a in archs for s in sources]))
    return [line for text, _ in done for line in text.splitlines()], [cubin for _, cubin in done]
