# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Compiles what the test files given need, in the background: conftest.py starts it.

Compiling takes a core for minutes, and most other tests use one.  Nothing is reported: a test that
needs what did not compile tries again, and says why.
"""

from __future__ import annotations

import os
import pathlib
import signal
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().with_name("cpu_kernels")))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().with_name("host_cuda")))

import cpu_kernels_harness as ck
import host_cuda_harness as hc
import native_build


def build_host_cuda(names: list[str]) -> None:
    """The libraries of tests/host_cuda, those first that its tests use first."""
    rooms = sorted({path.parent.name for path in hc.CSRC.glob("ops/*/*.cu")})
    sources = {room: [f"{room}.cpp", *hc.room_sources(room)] for room in rooms}
    for room in rooms:
        if any(name.startswith(f"test_{room}") for name in names):
            hc.build_path(room, sources[room])
    if "test_executor.py" in names:
        for sanitize in (False, True):
            hc.build_path("selftest", ["selftest.cpp"], sanitize)
    if "test_sanitizers.py" in names:
        for room in rooms:
            hc.build_path(room, sources[room], sanitize=True)


def build_cpu_kernels() -> None:
    """The programs of tests/cpu_kernels."""
    for room in (*ck.ROOMS, "selftest"):
        ck.build(room)
    for room in (*ck.ROOMS, "selftest") if ck.has_valgrind() else ():
        ck.build(room, sanitize=False)


def end_with(parent: int) -> None:
    """Ends this process, and the compilers, soon after the tests were killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(0, signal.SIGTERM)


def main() -> None:
    os.nice(5)
    if os.getpgrp() == os.getpid():  # as conftest.py starts it
        threading.Thread(target=end_with, args=[os.getppid()], daemon=True).start()
    native_build.CORES = max(1, native_build.CORES - 1)  # the tests use one
    files = [pathlib.Path(argument).resolve() for argument in sys.argv[1:]]
    host_cuda = [file.name for file in files if file.parent == hc.HERE]
    if host_cuda and not hc.skip_reason():
        build_host_cuda(host_cuda)
    if any(file.parent == ck.HERE for file in files) and not ck.skip_reason():
        build_cpu_kernels()


if __name__ == "__main__":
    main()
