# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Builds CUDA sources with the host compiler, against the executor of host_cuda.h.

A room's tests need a bridge (``<room>.cpp`` with ``extern "C"`` functions over its launchers) and
``build("room", ["room.cpp", *room_sources("room")])``, which returns a ctypes library.
"""

from __future__ import annotations

import ctypes
import functools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import native_build
from native_build import CSRC

HERE = pathlib.Path(__file__).resolve().parent
BUILD = native_build.BUILD / "host_cuda"

FORWARD, REVERSE, RANDOM = 0, 1, 2
ORDERS = (FORWARD, REVERSE, RANDOM)
CUDA_SUCCESS, CUDA_ERROR_INVALID_VALUE = 0, 1
CUDA_ERROR_INVALID_CONFIGURATION, CUDA_ERROR_LAUNCH_FAILURE = 9, 719

# Unoptimised: instrumented code takes longer to compile than to run.
_SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1", "-O0"]


@functools.cache
def cuda_include() -> pathlib.Path | None:
    """The directory of CUDA's headers: the toolkit's own, else the one of torch's wheels."""
    roots = []
    nvcc = shutil.which("nvcc")
    if nvcc:  # it may be a link or a wrapper: only nvcc itself knows where it lives
        dry = subprocess.run(
            [nvcc, "--dryrun", "-c", "-x", "cu", os.devnull, "-o", os.devnull],
            capture_output=True,
            text=True,
            check=False,
        )
        roots += re.findall(r"^#\$ TOP=(.*)$", dry.stderr, re.MULTILINE)
    roots += [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    site = pathlib.Path(sysconfig.get_paths()["purelib"])
    for directory in [pathlib.Path(r) / "include" for r in roots if r] + [
        *site.glob("nvidia/cu*/include"),
        *site.glob("nvidia/cuda_runtime/include"),
    ]:
        if all((directory / h).is_file() for h in ("cuda_runtime_api.h", "cuda_bf16.h")):
            return directory.resolve()
    return None


def skip_reason() -> str | None:
    if shutil.which("g++") is None:
        return "no g++"
    if cuda_include() is None:
        return "no CUDA headers: neither nvcc's toolkit nor torch's wheels have them"
    return None


def room_sources(room: str) -> list[pathlib.Path]:
    return sorted((CSRC / "ops" / room).glob("*.cu"))


def _digest(sources: list[pathlib.Path], flags: list[str]) -> str:
    headers = [*HERE.glob("*.h"), *(CSRC / "common").rglob("*.h")]
    for room in sorted({s.parent for s in sources if s.suffix == ".cu"}):
        headers += [*room.glob("*.h"), *room.glob("*.cuh")]
    return native_build.digest(sources + sorted(headers), flags)


def build_path(
    name: str, sources: list[pathlib.Path | str], sanitize: bool = False
) -> pathlib.Path:
    """Compiles ``sources`` (relative ones are in this directory) into a shared library."""
    paths = [HERE / s for s in ["host_cuda.cpp", *sources]]
    include = cuda_include()
    flags = ["-std=c++20", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    flags += ["-Wno-unknown-pragmas", f"-I{CSRC}", f"-I{HERE}", "-isystem", str(include)]
    flags += _SANITIZE if sanitize else []
    library = BUILD / f"{name}{'-san' if sanitize else ''}-{_digest(paths, flags)}.so"
    sources = [(path, [*flags, "-x", "c++"]) for path in paths]
    return native_build.compile_and_link(
        library, sources, ["-shared", *(_SANITIZE if sanitize else [])]
    )


def build(name: str, sources: list[pathlib.Path | str], sanitize: bool = False) -> ctypes.CDLL:
    library = ctypes.CDLL(str(build_path(name, sources, sanitize)))
    library.host_cuda_last_error.restype = ctypes.c_char_p
    return library


def check(library: ctypes.CDLL, status: int) -> None:
    """Raises the kernel's error, if any."""
    if status != CUDA_SUCCESS:
        raise RuntimeError(f"cudaError {status}: {library.host_cuda_last_error().decode()}")


def sanitizer_environment() -> dict[str, str]:
    """The environment in which a Python process can load libraries built with ``sanitize``."""

    def runtime(name: str) -> str:
        found = subprocess.run(
            ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        )
        return found.stdout.strip()

    # libstdc++ goes along, or AddressSanitizer would look for __cxa_throw before it is loaded.
    preload = f"{runtime('libasan.so')} {runtime('libstdc++.so')}"
    options = "detect_leaks=0:abort_on_error=0:exitcode=99:detect_stack_use_after_return=0"
    return {**os.environ, "LD_PRELOAD": preload, "ASAN_OPTIONS": options}
