# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Builds the programs of this folder: the CPU kernels of a room with a loop over cases around them.

The kernels see no torch, so they are compiled here a second time, with sanitizers.
"""

from __future__ import annotations

import functools
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import native_build
from native_build import CSRC

HERE = pathlib.Path(__file__).resolve().parent
BUILD = native_build.BUILD / "cpu_kernels"
ISA = CSRC / "common" / "isa.cpp"
ROOMS = (
    "depthwise_conv",
    "depth_max_pool",
    "rearrange",
    "squeeze_excite",
    "causal_conv1d_update",
)

# More cases, and all checks: minutes instead of seconds.
EXHAUSTIVE = os.environ.get("FASTCONV_EXHAUSTIVE", "0") != "0"

# Kernels are not optimised and checks are calls, or compiling would take minutes.  Left out unless
# exhaustive: null, object-size and alignment, which see little that the memory of harness.h
# does not show, and pointer-overflow, for addresses that wrap around.
_CHEAP = ["-fno-sanitize=null,object-size,alignment,pointer-overflow"]
_SANITIZE = [
    "-fsanitize=address,undefined",
    "-fsanitize-undefined-trap-on-error",
    *("--param", "asan-instrumentation-with-call-threshold=0"),
    *([] if EXHAUSTIVE else _CHEAP),
]
# A level that is not compiled is a null in the tables of isa.h, as one without code of its own.
_LEAVE_OUT = ["-no-pie", "-Wl,--unresolved-symbols=ignore-all"]
_FLAGS = ["-std=c++20", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-g1", f"-I{CSRC}"]


def skip_reason() -> str | None:
    if shutil.which("g++") is None:
        return "no g++"
    if platform.system() != "Linux":
        return "guard pages are written for Linux"
    return None


def has_valgrind() -> bool:
    return shutil.which("valgrind") is not None


def level_sources(room: str) -> list[pathlib.Path]:
    """The files that compile a room's kernels, one for each level: those that name a level."""
    files = sorted((CSRC / "ops" / room).glob("*.cpp"))
    return [f for f in files if "FASTCONV_ISA_BODY" in f.read_text()]


def plain_sources(room: str) -> list[pathlib.Path]:
    """The room's other files that see no torch: plans."""
    files = sorted((CSRC / "ops" / room).glob("*.cpp"))
    return [f for f in files if f not in level_sources(room) and "torch" not in f.name]


_one_at_a_time = threading.Lock()


@functools.cache
def _common(sanitize: bool) -> pathlib.Path:
    """What all programs share, compiled once."""
    flags = [*_FLAGS, *(_SANITIZE if sanitize else []), "-O2"]
    sources = [(f, flags) for f in (HERE / "harness.cpp", HERE / "numbers.cpp", ISA)]
    headers = sorted([*HERE.glob("*.h"), *(CSRC / "common").glob("*.h")])
    digest = native_build.digest([*(f for f, _ in sources), *headers], flags)
    target = BUILD / f"common{'-san' if sanitize else ''}-{digest}.o"
    return native_build.compile_and_link(target, sources, ["-r", "-nostdlib"])


@functools.cache
def build(room: str, sanitize: bool = True) -> pathlib.Path:
    """Compiles a room's program; without sanitizers for levels that valgrind's processor has."""
    with _one_at_a_time:  # the cache alone would let two threads begin
        common = _common(sanitize)
    checks = _SANITIZE if sanitize else []
    link = [str(common), *(checks if sanitize else _LEAVE_OUT)]
    flags = [*_FLAGS, *checks]
    levels = [f for f in level_sources(room) if sanitize or "avx512" not in f.name]
    sources = [(f, [*flags, "-O0"]) for f in levels]
    sources += [(f, [*flags, "-O1"]) for f in (HERE / f"{room}.cpp", *plain_sources(room))]
    headers = [h for d in (HERE, CSRC / "common", CSRC / "ops" / room) for h in d.glob("*.h")]
    digest = native_build.digest([*(f for f, _ in sources), *sorted(headers)], [sources, link])
    target = BUILD / f"{room}{'-san' if sanitize else ''}-{digest}"
    return native_build.compile_and_link(target, sources, link)


def levels(room: str) -> list[str]:
    """The levels that this processor has and a room has code of its own for.

    At another level the table of isa.h gives the code of the one below, which would run twice.
    """
    from fastconv import _C

    own = {f.stem.removeprefix("cpu_") for f in level_sources(room)}
    return [level for level in _C.isa_levels() if level in own]


def run(
    program: pathlib.Path, *arguments: object, prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Runs a program; LeakSanitizer stays off because it cannot work under a debugger."""
    return subprocess.run(
        [*prefix, str(program), *map(str, arguments)],
        env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0:exitcode=99"},
        capture_output=True,
        text=True,
        check=False,
        timeout=6 * 3600 if EXHAUSTIVE else 3600,  # for a hang; minutes of work, if alone
    )


def counts(output: str) -> dict[str, dict[str, int]]:
    """What a program says it ran: ``{level: {what: how many cases}}``."""
    lines = re.findall(r"^(\w+): \d+ cases ok;(.*)$", output, re.MULTILINE)
    return {
        level: {name: int(n) for name, n in re.findall(r"(\S+)=(\d+)", rest)}
        for level, rest in lines
    }
