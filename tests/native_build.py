# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Compiles C++ for tests, once for each content: what the harnesses of the test folders share."""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence

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


@contextlib.contextmanager
def _locked(path: pathlib.Path, how: int) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, how)
        yield


def _compile(command: Sequence[str], target: pathlib.Path) -> None:
    with _locked(target.with_suffix(".lock"), fcntl.LOCK_EX):
        if not target.exists():
            unfinished = target.with_suffix(".unfinished")
            run([*command, "-o", str(unfinished)])
            unfinished.replace(target)


def compile_and_link(
    target: pathlib.Path,
    sources: Sequence[tuple[pathlib.Path, Sequence[str]]],
    link: Sequence[str],
) -> pathlib.Path:
    """Compiles ``(source, flags)`` on all cores and links them, unless ``target`` exists.

    The caller puts a digest of the sources into the name of the target.  Processes that want the
    same target at once, as build_ahead.py and the tests may, share the work: each compiles what no
    other has begun.
    """
    if target.exists():
        return target
    objects = target.with_suffix(".objects")
    lock = target.with_suffix(".lock")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(lock, fcntl.LOCK_SH):  # nobody links, and throws the objects away, meanwhile
        if target.exists():
            return target
        objects.mkdir(exist_ok=True)
        jobs = [
            (["g++", *flags, "-c", str(path)], objects / f"{i}-{path.name}.o")
            for i, (path, flags) in enumerate(sources)
        ]
        with concurrent.futures.ThreadPoolExecutor(min(len(jobs), CORES)) as pool:
            list(pool.map(_compile, *zip(*jobs, strict=True)))
    with _locked(lock, fcntl.LOCK_EX):
        if not target.exists():
            unfinished = target.with_suffix(".unfinished")
            run(["g++", *link, *(str(job[-1]) for job in jobs), "-o", str(unfinished)])
            unfinished.replace(target)
            shutil.rmtree(objects)
            lock.unlink()  # who waits for it, or makes a new one, finds the target
    return target
