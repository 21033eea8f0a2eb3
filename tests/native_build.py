# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Compiles C++ for tests, once for each content: what the harnesses of the test folders share."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import pathlib
import shutil
import subprocess
import threading
from collections.abc import Iterable, Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"
BUILD = ROOT / "build"
CORES = int(os.environ.get("MAX_JOBS", 0)) or len(os.sched_getaffinity(0))  # as for the build
_compilers = threading.BoundedSemaphore(CORES)  # each may take a GiB


def run(command: Sequence[str]) -> None:
    with _compilers:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def digest(paths: Iterable[pathlib.Path], flags: object) -> str:
    """Changes when anything that goes into a build may have changed."""
    state = hashlib.sha256(repr(flags).encode())
    for path in paths:
        state.update(path.name.encode())
        state.update(path.read_bytes())
    return state.hexdigest()[:16]


def compile_and_link(
    target: pathlib.Path,
    sources: Sequence[tuple[pathlib.Path, Sequence[str]]],
    link: Sequence[str],
) -> pathlib.Path:
    """Compiles ``(source, flags)`` on all cores and links them, unless ``target`` exists.

    The caller puts a digest of the sources into the name of the target.
    """
    if target.exists():
        return target
    objects = target.with_suffix(f".{os.getpid()}.objects")
    objects.mkdir(parents=True, exist_ok=True)
    jobs = [
        ["g++", *flags, "-c", str(path), "-o", str(objects / f"{i}-{path.name}.o")]
        for i, (path, flags) in enumerate(sources)
    ]
    with concurrent.futures.ThreadPoolExecutor(min(len(jobs), CORES)) as pool:
        list(pool.map(run, jobs))
    unfinished = target.with_suffix(f".{os.getpid()}")
    run(["g++", *link, *(job[-1] for job in jobs), "-o", str(unfinished)])
    unfinished.replace(target)
    shutil.rmtree(objects)
    return target
