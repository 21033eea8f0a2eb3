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
import random
import re
import shutil
import subprocess
import sys
import sysconfig
import typing

import pytest

if typing.TYPE_CHECKING:  # slow to load under AddressSanitizer
    import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import native_build
from native_build import CSRC
from native_build import ROOT as ROOT

HERE = pathlib.Path(__file__).resolve().parent
BUILD = native_build.BUILD / "host_cuda"

FORWARD, REVERSE, RANDOM = 0, 1, 2
ORDERS = (FORWARD, REVERSE, RANDOM)
CUDA_SUCCESS, CUDA_ERROR_INVALID_VALUE = 0, 1
CUDA_ERROR_INVALID_CONFIGURATION, CUDA_ERROR_LAUNCH_FAILURE = 9, 719

LOADED: dict[str, ctypes.CDLL] = {}  # by path: what this process has run kernels of

# In a pytest config's stash: says why a session is no run of everything (conftest.py).
LEFT_OUT: pytest.StashKey = pytest.StashKey()

# Of mutate.py, which builds changed sources.
EXTRA_FLAGS: list[str] = []
EXTRA_SOURCES: list[pathlib.Path] = []

_EXECUTOR = ["host_cuda.cpp", "memory.cpp", "faults.cpp", "record.cpp"]
# An index outside a local array traps; the executor makes that an error of the launch.
_PLAIN = ["-fsanitize=bounds-strict,object-size", "-fsanitize-undefined-trap-on-error"]
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
    headers = [*HERE.glob("*.h"), *(CSRC / "common").rglob("*.*h")]
    for room in sorted({s.parent for s in sources if s.suffix == ".cu"}):
        headers += [*room.glob("*.h"), *room.glob("*.cuh")]
    return native_build.digest(sources + sorted(headers), flags)


def build_path(
    name: str, sources: list[pathlib.Path | str], sanitize: bool = False
) -> pathlib.Path:
    """Compiles ``sources`` (relative ones are in this directory) into a shared library."""
    paths = [HERE / s for s in [*EXTRA_SOURCES, *sources]]
    executor = [HERE / s for s in _EXECUTOR]
    include = cuda_include()
    flags = ["-std=c++20", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    flags += ["-Wno-unknown-pragmas", f"-I{CSRC}", f"-I{HERE}", "-isystem", str(include)]
    flags += _SANITIZE if sanitize else _PLAIN
    kind = "-san" if sanitize else ""
    changed = [*flags, *EXTRA_FLAGS]
    # One object that all libraries share.
    shared = native_build.compile_and_link(
        BUILD / f"executor{kind}-{_digest(executor, flags)}.o",
        [(path, flags) for path in executor],
        ["-r", "-nostdlib"],
    )
    return native_build.compile_and_link(
        BUILD / f"{name}{kind}-{_digest([*paths, *executor], changed)}.so",
        [(path, [*changed, "-x", "c++"]) for path in paths],
        ["-shared", *(_SANITIZE if sanitize else []), str(shared)],
    )


def build(name: str, sources: list[pathlib.Path | str], sanitize: bool = False) -> ctypes.CDLL:
    library = ctypes.CDLL(str(build_path(name, sources, sanitize)))
    library.host_cuda_last_error.restype = ctypes.c_char_p
    library.host_cuda_launches.restype = ctypes.c_char_p
    library.host_cuda_demangle.restype = ctypes.c_char_p
    library.host_cuda_alloc.restype = ctypes.c_void_p
    library.host_cuda_alloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_bool]
    library.host_cuda_free.restype = ctypes.c_bool
    library.host_cuda_free.argtypes = [ctypes.c_void_p]
    LOADED[library._name] = library
    return library


class Arena:
    """Tensors between pages that cannot be touched: an access out of bounds is an error.

    A tensor begins or ends (up to its alignment) at such a page, by chance unless told; what else
    lies in its own pages is a red zone that ``close`` looks at.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._addresses: list[int] = []

    def memory(self, size: int, at_end: bool | None = None, align: int = 16) -> ctypes.Array:
        """``size`` bytes that live until ``close``."""
        if at_end is None:
            at_end = random.random() < 0.5
        address = self._library.host_cuda_alloc(size, align, at_end)
        if address is None:
            raise MemoryError
        self._addresses.append(address)
        return (ctypes.c_char * max(size, 1)).from_address(address)

    def place(self, tensor: torch.Tensor, at_end: bool | None = None) -> torch.Tensor:
        """A copy with the same strides; nothing else lies in the gaps, which hold red zone."""
        import torch

        strides = [
            1 if size == 1 else stride  # any stride will do, and views may have huge ones
            for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
        ]
        if tensor.numel() == 0:
            return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype)
        count = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, strides, strict=True))
        raw = self.memory(count * tensor.element_size(), at_end)
        flat = torch.frombuffer(raw, dtype=tensor.dtype, count=count)
        # Written through a view without overlaps: expanded axes hold one value each.
        out = flat.as_strided(tensor.shape, tensor.stride() if 0 in strides else strides)
        plain = tuple(slice(0, 1) if s == 0 else slice(None) for s in strides)
        out[plain].copy_(tensor[plain])
        return out

    def close(self) -> None:
        """Frees the tensors."""
        addresses, self._addresses = self._addresses, []
        if not all([self._library.host_cuda_free(a) for a in addresses]):
            raise RuntimeError("a kernel wrote next to a tensor")

    def __enter__(self) -> Arena:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            for address in self._addresses:
                self._library.host_cuda_free(address)


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
