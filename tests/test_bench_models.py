# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""The benchmark of whole networks, and the measurement of memory."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastconv

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench"))

import memory  # noqa: E402
import model_results  # noqa: E402
import models  # noqa: E402
import networks  # noqa: E402
import report  # noqa: E402
import timing  # noqa: E402

OWN = ["upscaler", "gated_conv1d"]


def test_peak_memory_is_what_exists_at_once():
    def call():
        a = torch.empty(1 << 20, dtype=torch.uint8)
        b = torch.empty(1 << 21, dtype=torch.uint8)
        del a
        c = torch.empty(1 << 18, dtype=torch.uint8)
        return b, c

    for _ in range(2):
        assert memory.peak(call) == (1 << 20) + (1 << 21)
    assert memory.bytes_of(call()) == (1 << 21) + (1 << 18)
    assert memory.extra(call).tensors == (1 << 20) - (1 << 18)


def test_kept_memory_is_seen():
    kept = []

    def call():
        if not kept:
            kept.append(bytearray(3 << 20))
        return torch.empty(1 << 20)

    found = memory.extra(call)
    assert 3 << 20 <= found.scratch < (3 << 20) + (1 << 17)
    assert found.tensors == 0


def test_malloc_keeps_memory():
    """In a process of its own: no page is taken anew once memory is there."""
    code = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import memory, torch
assert sys.argv[2] == "plain" or memory.keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(15):  # it takes a few until there is a hole that fits
    torch.ones(1 << 24)
before = faults()
for _ in range(5):
    torch.ones(1 << 24)  # 64 MiB: 16384 pages each time where it was given back
print(faults() - before)
"""
    found = {}
    for how in ("plain", "kept"):
        command = [sys.executable, "-c", code, str(ROOT / "bench"), how]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[how] = int(done.stdout)
    assert found["kept"] < 1000 < found["plain"]


def test_there_are_networks_of_every_kind():
    assert len(networks.NETWORKS) >= 12 and set(networks.QUICK) < set(networks.NETWORKS)
    cases, notes = models.choose(models.parse([]))
    missing = {name for name, network in networks.NETWORKS.items() if network.missing}
    assert len(notes) == len(missing)
    assert {case.network for case in cases} == set(networks.NETWORKS) - missing
    wanted = {(mode, batch) for mode in model_results.MODES for batch in (1, 8, 32)}
    assert {(case.mode, case.batch) for case in cases} == wanted
    quick, _ = models.choose(models.parse(["--quick"]))
    assert {case.network for case in quick} <= set(networks.QUICK)


def test_networks_have_what_fastconv_does(library):
    """Every network has depthwise convolutions or shuffles, and the inputs fit."""
    for name, network in networks.NETWORKS.items():
        if network.missing or network.library:
            continue
        model = network.make().eval()
        assert len(fastconv.convert_(model).converted) >= 6, name
        with torch.inference_mode():
            assert model(torch.randn(network.shape(2, 32))).isfinite().all()


@pytest.mark.parametrize("name", [n for n, net in networks.NETWORKS.items() if net.library])
def test_networks_of_libraries_are_found(name, library):
    library(networks.NETWORKS[name].library)
    with torch.device("meta"):
        model = networks.NETWORKS[name].make()
    kinds = (torch.nn.Conv1d, torch.nn.Conv2d)
    assert sum(isinstance(m, kinds) and m.groups > 1 for m in model.modules()) >= 8


def test_one_command_measures_reports_and_plots(tmp_path, capsys):
    target, stem = tmp_path / "out" / "m.json", tmp_path / "plots" / "m"
    argv = ["--device", "cpu", "--network", *OWN, "--batch", "1", "2", "--size", "16"]
    argv += ["--case-seconds", "0.01", "--compile-seconds", "0", "--threads", "1"]
    argv += ["--json", str(target)]
    drawn = importlib.util.find_spec("matplotlib") is not None
    assert models.main([*argv, *(["--plot", str(stem)] if drawn else [])]) == 0
    printed = capsys.readouterr().out
    result = json.loads(target.read_text())
    assert printed.startswith(report.full(result))
    rows = model_results.rows_of(result)
    assert [(r.case.network, r.case.mode, r.case.batch) for r in rows] == [
        (name, mode, batch) for name in OWN for mode in model_results.MODES for batch in (1, 2)
    ]
    for row in rows:
        layouts = networks.NETWORKS[row.case.network].layouts
        ways = models.conversions(row.case.mode)
        assert ("fused" in ways) == (row.case.mode == "infer")
        wanted = {model_results.contender_name(how, x) for how in ways for x in layouts}
        assert wanted < set(row.times) and set(row.memory) == set(row.times)
        assert row.layers >= 6
        for layout in layouts:
            assert row.speed("converted", layout) > 0 and row.extra_memory("converted", layout) > 0
    # Two images take more memory than one, and a step of training more than an inference.
    one, two, step, _ = (row.memory["native, contiguous"] for row in rows[:4])
    assert one < two and one < step
    for what in ("speeds converted", "details", "mean converted train min", "memory converted"):
        assert report.claim(result, what).strip(" -")
    if drawn:
        assert stem.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
        assert "<svg" in stem.with_suffix(".svg").read_text()


def test_a_wrong_network_fails_the_run(monkeypatch, capsys):
    def convert_(model, *args, convert_=fastconv.convert_, **kwargs):
        found = convert_(model, *args, **kwargs)
        next(model.parameters()).data.mul_(1.5)
        return found

    monkeypatch.setattr(fastconv, "convert_", convert_)
    argv = ["--device", "cpu", "--network", "upscaler", "--batch", "1", "--size", "16"]
    assert models.main([*argv, "--mode", "infer", "--case-seconds", "0.01"]) == 1
    assert "converted, contiguous is off by" in capsys.readouterr().out


def test_training_changes_nothing_but_weights():
    """A step leaves no gradients behind, and the copies of a network share nothing."""
    made = models.Models("upscaler", "cpu")
    case = model_results.ModelCase("upscaler", 1, 16, "train")
    native = made.copies["native", "contiguous", "train"]
    before = {name: p.detach().clone() for name, p in native.named_parameters()}
    ours = made.copies["converted", "channels_last", "train"]
    models.Step(ours, made.input(case, "channels_last", "cpu"), "train")()
    assert all(p.grad is None for p in ours.parameters())
    assert all(torch.equal(p, before[name]) for name, p in native.named_parameters())
    changed = [not torch.equal(p, before[name]) for name, p in ours.named_parameters()]
    assert any(changed)


def fake(times, mode="infer", batch=1):
    stats = {k: timing.summarize([v, 1.2 * v, 1.4 * v]).to_json() for k, v in times.items()}
    case = model_results.ModelCase("upscaler", batch, 16, mode)
    sizes = {name: 1000 * (i + 1) for i, name in enumerate(times)}
    return {"case": case.to_json(), "layers": 7, "times": stats, "memory": sizes, "failed": {},
            "wrong": ""}  # fmt: skip


def test_speeds_are_against_native_in_the_same_layout():
    row = fake({"native, contiguous": 3.0, "native, channels_last": 1.0,
                "converted, contiguous": 1.5, "converted, channels_last": 2.0})  # fmt: skip
    result = {"kind": "models", "rows": [row, fake({"native, contiguous": 1.0}, batch=8)]}
    first, second = model_results.rows_of(result)
    assert first.speed("converted", "contiguous") == pytest.approx(2)
    assert first.speed("converted", "channels_last") == pytest.approx(0.5)
    assert first.against("converted, channels_last") == pytest.approx(1.5)
    assert first.extra_memory("converted", "channels_last") == 2
    assert math.isnan(second.speed("converted", "contiguous"))
    assert math.isnan(first.speed("fused", "contiguous"))
    table = report.claim(result, "speeds converted min")
    assert "2.00 / 0.50" in table and "geometric mean" in table
    assert report.claim(result, "mean converted infer") == "1.00"
    lost = report.claim(result, "lost")
    assert lost.strip() == "- upscaler 1x16x16 inference, converted, channels_last: 0.50"
    assert report.claim(result, "count converted") == "1 of 2"
    assert report.claim(result, "memory converted") == "2.00 to 3.00"
