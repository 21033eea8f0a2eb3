# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Every CPU kernel under sanitizers, in memory of exactly the right size, at every level.

A failing program names the seed and the case: ``PROGRAM --seed SEED --only CASE --level LEVEL``.
"""

import concurrent.futures
import os
import random

import cpu_kernels_harness as ck
import pytest

SEED = int(os.environ.get("FASTCONV_TEST_SEED", random.SystemRandom().randrange(2**31)))

# Random cases beside each program's table.  The exhaustive run takes minutes.
CASES = {
    "depthwise_conv": 60,
    "depth_max_pool": 250,
    "rearrange": 120,
    "squeeze_excite": 60,
    "causal_conv1d_update": 60,
}
EXHAUSTIVE_CASES = {
    "depthwise_conv": 6000,
    "depth_max_pool": 40000,
    "rearrange": 20000,
    "squeeze_excite": 10000,
    "causal_conv1d_update": 10000,
}

# What the cases must have reached, or the programs do not test what they claim to.
ENGINES = ("channels", "rows", "blocked")
WAYS = ("forward", "data", "weight", "transposed", "transposed_data")
DTYPES = {"float32", "float64", "float16", "bfloat16"}
ACTIVATIONS = ("relu", "relu6", "hardswish", "silu", "gelu")
REACHED = {
    "depthwise_conv": {f"{way}:{e}" for way in WAYS for e in ENGINES}
    | {f"{way}:flat" for way in WAYS if way != "weight"}
    | {"forward:packed", "data:packed", "forward:scale", "data:scale"}
    | {"stream", "volume", "planar"}
    | {f"{rows}:{taps}" for taps in ("runs", "taps") for rows in ("line", "lines")}
    | {f"activation:{name}" for name in ACTIVATIONS}
    | DTYPES,
    "depth_max_pool": {f"forward:{index}" for index in ("none", "uint8", "int32", "int64")}
    | {f"backward:{way}" for way in ("expand", "scatter", "gather")}
    | DTYPES
    | {"stages"},
    "rearrange": {"runs", "interleave", "deinterleave", "weave", "unweave"}
    | {"tile", "scalar", "permute"}
    | {"two:runs", "two:tile"}
    | {f"bytes:{n}" for n in (1, 2, 4, 8, 16)},
    "squeeze_excite": {
        f"{way}:{layout}"
        for way in ("mean", "mean_gradient", "gate", "gate_gradient")
        for layout in ("planes", "channels_last")
    }
    | {"chunks"}
    | DTYPES,
    "causal_conv1d_update": {"none", *ACTIVATIONS} | {"channels", "time"} | DTYPES,
}
# Engines that the baseline does not have.
IN_PLACE = {f"{way}:direct" for way in WAYS if way != "weight"} | {f"{way}:rolling" for way in WAYS}


def says(done):
    return f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"


@pytest.fixture(scope="module")
def runs(request):
    """All runs that were asked for, side by side: ``{(room, level): what the program said}``."""
    wanted = [
        (item.callspec.params["room"], item.callspec.params["level"])
        for item in request.session.items
        if item.originalname == "test_kernels" and hasattr(item, "callspec")
    ]

    def run(room):
        program = ck.build(room)
        cases = (EXHAUSTIVE_CASES if ck.EXHAUSTIVE else CASES)[room]
        common = ("--seed", SEED, "--cases", cases)
        return {
            (room, level): ck.run(program, *common, "--level", level)
            for other, level in wanted
            if other == room
        }

    rooms = sorted({room for room, _ in wanted})
    with concurrent.futures.ThreadPoolExecutor(len(rooms)) as pool:
        return {key: done for part in pool.map(run, rooms) for key, done in part.items()}


@pytest.mark.parametrize(
    ("room", "level"), [(room, level) for room in ck.ROOMS for level in ck.levels(room)]
)
def test_kernels(runs, room, level):
    done = runs[room, level]
    assert done.returncode == 0, says(done)
    reached = ck.counts(done.stdout)[level]
    expected = REACHED[room]
    if room == "depthwise_conv":
        expected = expected | (IN_PLACE if level.startswith("avx") else set())
        expected = expected | ({"pairs"} if level == "avx512_bf16" else set())
    assert set(reached) >= expected, expected - set(reached)


# In the order of harness.h's Bug, and what the program says when it is there.
SHORT_INPUT, SHORT_OUTPUT, SHORT_SCRATCH, LOST_TASK, WRONG_VALUE = range(1, 6)
READ_BEHIND, READ_BEFORE, WRITE_BEFORE, WRITE_BETWEEN, USE_SCRATCH, OVERFLOW = range(6, 12)
PAST_THE_END = "ERROR: AddressSanitizer"


@pytest.mark.parametrize(
    ("room", "bug", "report"),
    [
        *((room, bug, PAST_THE_END) for room in ck.ROOMS for bug in (SHORT_INPUT, SHORT_OUTPUT)),
        ("depthwise_conv", SHORT_SCRATCH, PAST_THE_END),
        ("depth_max_pool", SHORT_SCRATCH, PAST_THE_END),
        *((room, LOST_TASK, "instead of|not what it should be") for room in ck.ROOMS),
        *((room, WRONG_VALUE, "instead of|not what it should be") for room in ck.ROOMS),
    ],
)
def test_planted_bugs_are_found(room, bug, report):
    done = ck.run(ck.build(room), "--seed", SEED, "--cases", 0, "--bug", bug)
    assert done.returncode != 0
    assert any(word in done.stderr for word in report.split("|")), says(done)
    assert "in baseline case" in done.stderr, "the report does not name the case"


@pytest.mark.parametrize(
    ("bug", "report"),
    [
        (READ_BEHIND, "bad address"),
        (READ_BEFORE, "bad address"),
        (WRITE_BEFORE, "written outside of a buffer"),
        (WRITE_BETWEEN, "written between the elements"),
        (USE_SCRATCH, "the bits depend on memory"),
        (OVERFLOW, "undefined behaviour"),
    ],
)
def test_harness_finds_what_sanitizers_do_not(bug, report):
    """A kernel of the harness's own with one bug, without instrumentation: ``selftest.cpp``."""
    clean = ck.run(ck.build("selftest"), "--seed", SEED, "--cases", 0)
    assert clean.returncode == 0, says(clean)
    done = ck.run(ck.build("selftest"), "--seed", SEED, "--cases", 0, "--bug", bug)
    assert done.returncode != 0 and report in done.stderr, says(done)


def run_valgrind(room, *arguments):
    """In heap blocks that hold nothing; without AVX-512, which valgrind's processor lacks."""
    if not ck.has_valgrind():
        pytest.skip("no valgrind")
    prefix = ("valgrind", "-q", "--error-exitcode=97")
    common = ("--seed", SEED, "--fill", 0, *arguments)
    return ck.run(ck.build(room, sanitize=False), *common, prefix=prefix)


@pytest.mark.parametrize("room", ck.ROOMS)
def test_no_use_of_uninitialised_memory(room):
    levels = [level for level in ck.levels(room) if not level.startswith("avx512")]

    def run(level):
        cases = 400 if ck.EXHAUSTIVE else 15
        return run_valgrind(room, "--cases", cases, "--level", level)

    with concurrent.futures.ThreadPoolExecutor(len(levels)) as pool:
        for level, done in zip(levels, pool.map(run, levels), strict=True):
            assert done.returncode == 0, says(done)
            assert list(ck.counts(done.stdout)) == [level]


def test_valgrind_sees_a_use_of_scratch():
    assert run_valgrind("selftest", "--cases", 0).returncode == 0
    done = run_valgrind("selftest", "--cases", 0, "--bug", USE_SCRATCH)
    assert done.returncode == 97 and "uninitialised" in done.stderr, says(done)
