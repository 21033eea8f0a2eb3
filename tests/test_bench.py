# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""The benchmark's own parts: cases, clocks, limits, and the command from end to end."""

import json
import math
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "bench"
sys.path.insert(0, str(BENCH))

import cases  # noqa: E402
import limits  # noqa: E402
import operators  # noqa: E402
import random_sizes  # noqa: E402
import report  # noqa: E402
import results  # noqa: E402
import rivals  # noqa: E402
import run  # noqa: E402
import sizes  # noqa: E402
import timing  # noqa: E402
from case import REARRANGEMENTS  # noqa: E402


def test_summarize():
    stats = timing.summarize([5.0, 1.0, 3.0, 2.0, 4.0], inner=7)
    assert (stats.median, stats.q1, stats.q3, stats.min) == (3, 2, 4, 1)
    assert (stats.n, stats.inner, stats.spread) == (5, 7, pytest.approx(1 / 3))
    one = timing.summarize([2.0])
    assert (one.median, one.q1, one.q3, one.spread) == (2, 2, 2, 0)
    with pytest.raises(ValueError, match="no samples"):
        timing.summarize([])


def test_geomean():
    assert timing.geomean([1, 4, 16]) == pytest.approx(4)
    assert timing.geomean(0.5 for _ in range(3)) == pytest.approx(0.5)
    assert math.isnan(timing.geomean([]))


class FakeClock:
    """Every call takes the number of seconds that it returns."""

    def __init__(self):
        self.order = []

    def warm_up(self, call, fastest):
        return call(), None

    def sample(self, call, inner):
        self.order.append(call)
        return call()

    def resolve(self, samples):
        return samples

    def inner(self, estimate):
        return 1


def test_measure_takes_turns_and_leaves_out_what_fails():
    def broken():
        raise RuntimeError("no kernel\nand a long story")

    clock, failed = FakeClock(), {}
    calls = {"a": lambda: 1e-4, "b": lambda: 2e-4, "slow": lambda: 0.5, "glacial": lambda: 9.0}
    stats = timing.measure(calls | {"broken": broken}, clock, budget=1.0, failed=failed)
    assert failed == {"broken": "RuntimeError: no kernel"}
    assert {name: stat.median for name, stat in stats.items()} == {
        name: call() for name, call in calls.items()
    }
    assert stats["a"].n == stats["b"].n == timing.MAX_ROUNDS
    assert (stats["slow"].n, stats["glacial"].n) == (timing.SLOW_ROUNDS, 1)
    # In every round once, and not always in the same order.
    pairs = [call for call in clock.order if call in (calls["a"], calls["b"])]
    rounds = [tuple(pairs[i : i + 2]) for i in range(0, len(pairs), 2)]
    assert all(set(pair) == {calls["a"], calls["b"]} for pair in rounds)
    assert len(set(rounds)) == 2
    with pytest.raises(RuntimeError, match="no kernel"):
        timing.measure({"broken": broken}, clock, budget=1.0)


def test_cpu_clock_repeats_short_calls():
    clock = timing.CpuClock()
    for _ in range(20):  # a busy machine may leave the first call waiting, which then seems long
        stats = timing.measure({"short": lambda: None}, clock, budget=0.01)["short"]
        if stats.inner > 1000:
            break
    assert stats.inner > 1000
    assert 0 < stats.min <= stats.q1 <= stats.median <= stats.q3
    assert clock.inner(1.0) == 1


@pytest.mark.parametrize(("fastest", "calls"), [(math.inf, 2), (0.04, 2), (0.001, 1)])
def test_cpu_clock_calls_what_is_far_slower_once(fastest, calls):
    ran = []
    timing.CpuClock().warm_up(lambda: ran.append(time.sleep(0.2)), fastest)
    assert len(ran) == calls


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("suite", cases.SUITES)
def test_suites_are_well_formed(suite, device):
    table = cases.cases_of(suite, device)
    assert len({case.name for case in table}) == len(table) > 0
    for case in table:
        assert case.op in cases.OPS
        assert case.dtype in cases.DTYPES
        assert case.layout in cases.LAYOUTS
        assert case.mode in cases.PASSES
        assert len(case.kernel) == (len(case.shape) - 2 if case.is_conv else 0)
        assert cases.Case.from_json(json.loads(json.dumps(case.to_json()))) == case
    blocks = {op for op in cases.OPS if op.endswith("_block")}
    for key, wanted in {
        "op": {
            "quick": set(cases.OPS) - blocks,
            "models": {"depthwise_conv2d", "pixel_shuffle"} | blocks,
            "activations": {"depthwise_conv1d", "depthwise_conv2d", "depthwise_conv3d"},
            "random": {"depthwise_conv1d", "depthwise_conv2d", "depthwise_conv3d"},
        }.get(suite, set(cases.OPS)),
        "layout": set(cases.LAYOUTS),
        "mode": {"both"} if suite == "tiny" else {"forward", "both"},
    }.items():
        assert wanted <= {getattr(case, key) for case in table}


def test_quick_suite_has_reduced_precision_and_few_compilations():
    table = cases.cases_of("quick", "cpu")
    assert {"float32", "bfloat16", "float16"} <= {case.dtype for case in table}
    assert 0 < sum(case.compile for case in table) <= 6


def test_models_come_at_one_and_eight_images():
    table = cases.cases_of("models", "cpu", ["float32"], ["contiguous"], ["forward"])
    layers = sum(map(len, json.loads(cases.SHAPES.read_text()).values()))
    assert {case.shape[0] for case in table} == {1, 8}
    # Models share layers.
    layers += len(sizes.pool_sizes([1])) + len(sizes.block_sizes([1]))
    assert 0.7 * 2 * layers < len(table) <= 2 * layers


def test_models_have_the_dtypes_that_their_operators_take():
    table = cases.cases_of("models", "cpu")
    assert {c.dtype for c in table if c.is_conv} == {"float32", "bfloat16", "float16"}
    assert {(c.op in REARRANGEMENTS, c.mode) for c in table if c.dtype == "uint8"} == {
        (True, "forward")
    }
    assert {c.dtype for c in table if c.is_block} == {"float32"}


def test_random_shapes_are_those_of_their_seed():
    names = [{c.name for c in cases.cases_of("random", "cpu", seed=seed)} for seed in (3, 3, 4)]
    assert names[0] == names[1]
    assert len(names[0]) == 4 * random_sizes.COUNT > len(names[0] & names[2]) * 10


def test_choices_replace_the_suites_own():
    table = cases.cases_of("quick", "cpu", ["float64"], ["channels_last"], ["backward"])
    assert {(c.dtype, c.layout, c.mode) for c in table} == {
        ("float64", "channels_last", "backward")
    }
    assert {case.op for case in table} == {op for op in cases.OPS if not op.endswith("_block")}
    args = run.parse(["--op", "depthwise_conv", "--filter", "7x7"])
    chosen = run.choose(args, "cpu")
    assert chosen
    assert all(case.is_conv and "7x7" in case.name for case in chosen)


CONVS = [case for case in cases.cases_of("tiny", "cpu", ["float32"], passes=["forward"])
         if case.is_conv and case.layout == "contiguous"]  # fmt: skip


@pytest.mark.parametrize("case", CONVS, ids=lambda case: case.size)
def test_flops_count_taps_inside_the_input(case):
    # A convolution of ones with ones counts the taps that meet an element.
    ones = [torch.ones_like(tensor) for tensor in operators.tensors_of(case, "cpu")[:2]]
    alone = {name: value for name, value in case.args.items() if name != "activation"}
    out = operators.natives(cases.replace(case, args=alone))["native"](*ones)
    assert operators.least_flops(case, out) == 2 * int(out.double().sum())
    step = cases.replace(case, mode="both")
    assert operators.least_flops(step, out) == 6 * int(out.double().sum())


def test_a_step_keeps_no_graph():
    case = cases.Case("channel_shuffle", (1, 4, 2, 2), args={"groups": 2}, mode="both")
    made = []

    def call(x):
        made.append(weakref.ref(y := x * 2))
        return y

    step = operators.in_mode(call, operators.tensors_of(case, "cpu"), "both")
    assert made[0]() is None
    (grad,) = step()
    assert grad.abs().min() >= 0.5
    again = operators.in_mode(call, operators.tensors_of(case, "cpu"), "backward")
    assert again()[0].shape == again()[0].shape == (1, 4, 2, 2)


def test_bytes_of_a_rearrangement_and_of_a_convolution():
    x = torch.zeros(2, 8, 6, 6)
    shuffle = cases.Case("channel_shuffle", (2, 8, 6, 6), args={"groups": 2})
    assert operators.least_bytes(shuffle, [x], x) == 2 * x.nbytes
    conv = cases.Case("depthwise_conv2d", (2, 8, 6, 6), (3, 3), bias=True, mode="both")
    weight, bias = torch.zeros(8, 1, 3, 3), torch.zeros(8)
    params = weight.nbytes + bias.nbytes
    assert operators.least_bytes(conv, [x, weight, bias], x) == 5 * x.nbytes + 3 * params


@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_inputs_are_random_normal_numbers_in_the_layout(layout):
    case = cases.Case("channel_shuffle", (2, 8, 6, 5), args={"groups": 2}, layout=layout)
    (x,), (y,) = operators.tensors_of(case, "cpu"), operators.tensors_of(case, "cpu")
    assert not torch.equal(x, y)
    assert x.abs().min() >= 0.25
    assert (x > 0).any() and (x < 0).any()
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    assert x.is_contiguous(memory_format=form)


def test_copies_move_the_bytes_asked_for():
    for pieces in (1, 2):
        calls = limits.copies(16 << 20, pieces, "cpu")
        assert set(calls) == {results.COPY_CLONE, results.COPY_REUSED, results.COPY_MEMCPY}
        for call in calls.values():
            assert sum(2 * copy.nbytes for copy in call()) == 16 << 20
    source = operators.random_tensor((1_500_001,), torch.float32, "cpu")
    assert torch.equal(limits._memcpy(source, torch.empty_like(source), 3), source)


def test_one_command_measures_reports_and_writes(tmp_path, capsys):
    target = tmp_path / "out" / "result.json"
    argv = ["--device", "cpu", "--suite", "tiny", "--filter", "channels_last", "--dtype", "float32",
            "--op", "pixel_shuffle", "depthwise_conv1d", "--no-compile", "--case-seconds", "0.01",
            "--threads", "1",
            "--json", str(target)]  # fmt: skip
    threads = torch.get_num_threads()
    try:
        assert run.main(argv) == 0
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    result = results.load(target)
    assert report.full(result) + "\n" == printed
    assert [row["case"]["op"] for row in result["rows"]] == ["depthwise_conv1d", "pixel_shuffle"]
    for row in results.rows_of(result):
        assert row.ok
        assert {"ours", "native", "native, other layout", results.COPY_CLONE} <= set(row.times)
        assert row.fraction > 0
    assert result["machine"]["torch"] == str(torch.__version__)
    assert result["limits"]["fma_peak"]["float32"] > 1e8


def test_a_wrong_result_fails_the_run(monkeypatch, capsys):
    monkeypatch.setattr(rivals, "ours", lambda case: lambda x: F.channel_shuffle(x, 3) * 1.01)
    argv = ["--device", "cpu", "--suite", "tiny", "--op", "channel_shuffle", "--check"]
    assert run.main(argv) == 1
    assert "result 0 is off by 1.0e-02" in capsys.readouterr().out


def test_help_and_list_need_nothing_installed():
    for script, words in (("run.py", "--at-least"), ("report.py", "--update")):
        command = [sys.executable, str(BENCH / script), "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert words in done.stdout
    subprocess.run(["bash", "-n", str(BENCH / "gpu.sh")], check=True)
