# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""What tests compile: by two processes at once, and ahead of the tests that need it."""

import os
import pathlib
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).resolve().parent

# Writes down what it is asked for and takes a while.
COMPILER = """#!/bin/sh
echo "$@" >> {log}
sleep 0.3
while [ "$1" != -o ]; do
  case $1 in *bad.cpp) echo "no such thing" >&2; exit 1;; esac
  shift
done
echo made > "$2"
"""
BUILD = """
import pathlib, sys
sys.path.insert(0, {tests!r})
import native_build
sources = [(pathlib.Path(name), ["-O0"]) for name in {names}]
print(native_build.compile_and_link(pathlib.Path({target!r}), sources, ["-shared"]).read_text())
"""


@pytest.fixture
def build(tmp_path):
    """Starts a process that builds `names` with a compiler of its own; and what that was told."""
    tools, log = tmp_path / "tools", tmp_path / "log"
    tools.mkdir()
    (tools / "g++").write_text(COMPILER.format(log=log))
    (tools / "g++").chmod(0o755)
    env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "MAX_JOBS": "2"}

    def start(*names):
        target = str(tmp_path / "build" / "library-0123")
        code = BUILD.format(tests=str(TESTS), names=names, target=target)
        return subprocess.Popen(
            [sys.executable, "-c", code],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start, log


def test_processes_that_want_the_same_share_the_work(build, tmp_path):
    start, log = build
    names = [f"{i}.cpp" for i in range(6)]
    for done in [start(*names) for _ in range(3)]:
        out, err = done.communicate()
        assert out == "made\n\n", err
    *compiled, linked = log.read_text().splitlines()
    assert sorted(line.split()[2] for line in compiled) == names
    assert linked.startswith("-shared")
    assert [path.name for path in (tmp_path / "build").iterdir()] == ["library-0123"]


def test_what_fails_says_why_each_time(build):
    start, log = build
    for _ in range(2):
        _, err = start("good.cpp", "bad.cpp").communicate()
        assert "no such thing" in err and "-c bad.cpp" in err
    said = log.read_text()
    assert said.count("-c good.cpp") == 1 and said.count("-c bad.cpp") == 2
    assert "-shared" not in said


# In a process of its own: test folders have modules of the same names.
LISTED = """
import sys
sys.path.insert(0, {tests!r})
import build_ahead, host_cuda_harness as hc, cpu_kernels_harness as ck
hc.build_path = lambda name, sources, sanitize=False: print("host", name, sanitize, *sources)
ck.build = lambda room, sanitize=True: print("cpu", room, sanitize)
hc.skip_reason = ck.skip_reason = lambda: None
ck.has_valgrind = lambda: True
sys.argv[1:] = {files}
build_ahead.main()
"""


def listed(*files):
    code = LISTED.format(tests=str(TESTS), files=[str(file) for file in files])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_all_that_the_tests_build_is_built_ahead():
    rooms = {path.parent.name for path in TESTS.parent.glob("csrc/ops/*/*.cu")}
    lines = listed(*TESTS.glob("host_cuda/test_*.py"), *TESTS.glob("cpu_kernels/test_*.py"))
    host = {tuple(line.split()[1:3]) for line in lines if line.startswith("host")}
    assert host == {(name, s) for name in (*rooms, "selftest") for s in ("False", "True")}
    cpu = {tuple(line.split()[1:]) for line in lines if line.startswith("cpu")}
    programs = {path.stem for path in TESTS.glob("cpu_kernels/*.cpp")} - {"harness", "numbers"}
    assert cpu == {(name, s) for name in programs for s in ("False", "True")}


def test_nothing_else_is_built_ahead():
    assert not listed()
    (line,) = listed(TESTS / "host_cuda" / "test_rearrange_kernels.py")
    assert line.startswith("host rearrange False rearrange.cpp ")
