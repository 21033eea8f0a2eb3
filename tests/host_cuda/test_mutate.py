# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""mutate.py on a room of one small kernel: what it finds, kills, and asks to be explained."""

import pathlib
import shutil
import subprocess
import sys

import host_cuda_harness as hc
import mutants
import mutate_room
import mutate_trial
import pytest

pytest.importorskip("tomllib")

KERNEL = """
#include "common/gpu.h"
// The block's numbers turned round, each with its neighbour's added.
inline __global__ void turn(const float* x, float* y, int n) {
  FASTCONV_STATIC_SMEM(float, tile, 64);
  const int t = threadIdx.x;
  if (t < n) tile[t] = x[t];
  __syncthreads();
  float mine = t < n ? tile[n - 1 - t] : 0;
  if (n > 64) mine = 0;
  mine += __shfl_xor_sync(0xFFFFFFFFu, mine, 1);
  if (t < n) y[t] = mine;
}
"""
BRIDGE = """
#include "ops/toy/turn.cuh"
extern "C" int turn_all(const float* x, float* y, int n) {
  return FASTCONV_LAUNCH(turn, dim3(1), dim3(64), 0, nullptr, x, y, n);
}
"""
TESTS = """
import ctypes, pathlib, random
import host_cuda_harness as hc
import pytest

@pytest.mark.parametrize("order", hc.ORDERS)
def test_turn(order):
    library = hc.build("toy", [pathlib.Path(__file__).with_name("toy.cpp")])
    library.host_cuda_configure(order, 1)
    for n in (50, 64):
        with hc.Arena(library) as arena:
            # Up to a guard page at the very end.
            x, y = (arena.memory(4 * n, at_end=True, align=4) for _ in range(2))
            x, y = (ctypes.cast(p, ctypes.POINTER(ctypes.c_float)) for p in (x, y))
            for i in range(n):
                x[i] = random.randrange(100)
            hc.check(library, library.turn_all(x, y, n))
            turned = [x[n - 1 - i] for i in range(n)]
            assert y[:n] == [a + b for a, b in zip(turned, (turned[i ^ 1] for i in range(n)))]
"""
LEDGER = """
[[mutant]]
file = "toy/turn.cuh"
line = "float mine = t < n ? tile[n - 1 - t] : 0;"
change = ["`t < n` -> `true`", "`t < n` -> `t <= n`"]
reason = "nobody stores the sum of such a lane"
[[mutant]]
file = "toy/turn.cuh"
line = "if (n > 64) mine = 0;"
change = "`n > 64` -> `false`"
reason = "no block is that large"
"""


@pytest.fixture(scope="module")
def mutate(tmp_path_factory):
    """A function that runs mutate.py on the room with a ledger; its status and output."""
    root = tmp_path_factory.mktemp("toy")
    shutil.copytree(hc.CSRC / "common", root / "csrc" / "common")
    for name, text in {
        "csrc/ops/toy/turn.cuh": KERNEL,
        "tests/toy.cpp": BRIDGE,
        "tests/test_toy.py": TESTS,
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(ledger, *more):
        (root / "tests" / "mutants.toml").write_text(ledger)
        folders = [f"--{name}={root / name}" for name in ("csrc", "tests", "work")]
        done = subprocess.run(
            [sys.executable, str(hc.HERE / "mutate.py"), *folders, *more],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout

    return run


def test_survivors_are_reported(mutate):
    status, text = mutate("")
    assert status == 1
    assert "toy: 16 mutants, 13 killed, 3 survive, 3 of them unexplained" in text, text
    assert "turn.cuh:10: `n > 64` -> `false`" in text
    assert "if (n > 64) mine = 0;  (no test gives it another value)" in text
    assert mutate("", "--list")[1].count("turn.cuh:8: `__syncthreads()` -> `removed`") == 1


def test_ledger(mutate):
    status, text = mutate(LEDGER)
    assert status == 0 and "3 survive, 0 of them unexplained" in text, text
    assert "without a mutant" not in text, "verdicts that hold are not asked for again"
    status, text = mutate(LEDGER.replace("`n > 64` -> `false`", "`n > 64` -> `n >= 64`"))
    assert status == 1 and "mutants.toml: killed by" in text and "`n >= 64`" in text, text
    status, text = mutate(LEDGER + LEDGER.replace("64", "65"))
    assert status == 1 and "mutants.toml: no such mutant: if (n > 65) mine = 0;" in text, text


def test_what_a_verdict_depends_on(tmp_path):
    """A kernel's own code and its launchers; the test that killed, or those that could not."""
    (tmp_path / "csrc" / "ops" / "toy").mkdir(parents=True)
    room = tmp_path / "csrc" / "ops" / "toy"
    tests = [tmp_path / "test_toy_a.py", tmp_path / "test_toy_b.py"]
    texts = {
        room / "turn.cuh": '#include "ops/toy/part.h"\nif (a < b) f();\n',
        room / "part.h": "",
        room / "turn.cu": "",
        room / "other.cuh": "",
        **dict.fromkeys(tests, ""),
    }
    for path, text in texts.items():
        path.write_text(text)

    def fresh():
        return mutate_room.Room("toy", tmp_path / "csrc", tests, tmp_path / "work")

    first = fresh()
    (tmp_path / "work").mkdir()
    found = first.prepare()
    names = mutate_room.keys(found)
    killed = {"outcome": "killed", "by": "test_toy_a.py::test", "how": "", "seconds": None}
    first.write(found[0], names[0], {**killed, "tests": ["test_toy_a.py"]})
    survived = {**killed, "outcome": "survived", "tests": ["test_toy_a.py", "test_toy_b.py"]}
    first.write(found[1], names[1], survived)
    assert set(fresh().results(found)) == {0, 1}
    (room / "other.cuh").write_text("// changed")
    assert set(fresh().results(found)) == {0, 1}
    tests[1].write_text("# changed")
    known = fresh().results(found)
    assert known[0]["outcome"] == "killed" and list(known[1]["tests"]) == ["test_toy_a.py"]
    (todo,) = mutate_trial.plan(fresh(), found[:2], found, dict.fromkeys(range(2)))
    assert todo.mutant.number == 1 and todo.files == ["test_toy_b.py"]
    tests[0].write_text("# changed")
    assert set(fresh().results(found)) == {1}
    for path in (room / "part.h", room / "turn.cu"):
        before = fresh().source_stamp("csrc/ops/toy/turn.cuh")
        path.write_text("// changed")
        assert fresh().source_stamp("csrc/ops/toy/turn.cuh") != before
    assert not fresh().results(found)


def changes(source):
    return {m.change for m in mutants.mutate("x.cuh", source, 0)[1]}


def test_what_is_mutated():
    assert changes("for (int i = 0; i < n; ++i) f(i);") == {
        "`i < n` -> `false`",
        "`i < n` -> `i <= n`",
        "`i < n` -> `i + 1 < n`",
    }
    assert changes("const bool in = at >= 0 && at < g.size<T, 3>();") == {
        "`at >= 0` -> `true`",
        "`at >= 0` -> `false`",
        "`at >= 0` -> `at > 0`",
        "`at < g.size<T, 3>()` -> `true`",
        "`at < g.size<T, 3>()` -> `false`",
        "`at < g.size<T, 3>()` -> `at <= g.size<T, 3>()`",
    }
    assert changes("n = min(a, f(b, c));") == {
        "`min(a, f(b, c))` -> `a`",
        "`min(a, f(b, c))` -> `f(b, c)`",
    }
    assert changes("gpu::cp_async_wait<1>(); __syncwarp(m);") == {
        "`gpu::cp_async_wait<1>()` -> `removed`",
        "`gpu::cp_async_wait<1>()` -> `cp_async_wait<1 + 1>()`",
        "`__syncwarp(m)` -> `removed`",
    }
    assert changes("x = __shfl_down_sync(mask, x, d);") == {
        "`mask` -> `(mask >> 1)`",
        "`d` -> `(d ^ 1)`",
        "`d` -> `(d + 1)`",
    }
    assert changes("if (valid) y = p != nullptr ? *p : 0;") == {
        "`valid` -> `true`",
        "`valid` -> `false`",
        "`p != nullptr` -> `true`",
        "`p != nullptr` -> `false`",
    }


def test_what_is_left_alone():
    for source in (
        "if constexpr (kStep == 0) f();",
        "static_assert(sizeof(T) <= 8);",
        "template <class T, int V = 3 < 4> struct S;",
        "// a < b\n",
        "#define F(a, b) a < b\n",
        "#if defined(__CUDACC__)\nif (a < b) c();\n#else\n#endif\n",
        "a << b; c >> d; std::array<int, 3> x;",
    ):
        assert not changes(source), source


def test_lines_stay_where_they_are():
    for path in sorted(hc.CSRC.rglob("*.cuh")):
        source = path.read_text()
        text, found = mutants.mutate(path.name, source, 0)
        assert text.count("\n") == source.count("\n")
        assert [m.number for m in found] == list(range(len(found)))
        barriers = mutants.blank(source).count("__syncthreads()")
        assert sum(m.change == "`__syncthreads()` -> `removed`" for m in found) == barriers


def test_every_room_has_tests():
    for room in {path.parent.name for path in hc.CSRC.glob("ops/*/*.cuh")}:
        assert list(pathlib.Path(hc.HERE).glob(f"test_{room}*.py")), room
