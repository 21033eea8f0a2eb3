# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""What the benchmark makes of its times: ratios, tables, and the documents that quote them."""

import json
import math
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench"))

import cases  # noqa: E402
import goals  # noqa: E402
import report  # noqa: E402
import results  # noqa: E402
import timing  # noqa: E402

DOCUMENTS = [path for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md")) if path.exists()]


def fake_result(ours=1e-3):
    case = cases.Case("channel_shuffle", (1, 8, 64, 64), args={"groups": 2}, family="a")
    times = {
        "ours": ours,
        "native": 3e-3,
        "native, other layout": 2e-3,
        "torch.compile": 1.5e-3,
        "copy: clone": 0.8e-3,
        "copy: memcpy": 0.5e-3,
        "copy: reused": 0.1e-3,
    }
    row = {
        "case": case.to_json(),
        "bytes": 1000,
        "flops": 0,
        "times": {k: timing.summarize([v, 1.1 * v, 0.9 * v]).to_json() for k, v in times.items()},
        "failed": {},
        "wrong": "",
    }
    machine = {"device": "cpu", "device_name": "A CPU", "isa": "avx2", "threads": 2, "cores": 2,
               "torch": "2.13.0", "fastconv": "0.1.0", "commit": "0123456789ab", "dirty": False,
               "date": "2026-01-01"}  # fmt: skip
    floor = {"forward": 1e-6, "backward": 1e-5, "both": 1e-5}
    peak = dict.fromkeys(cases.DTYPES, 1e11)
    return {"schema": results.SCHEMA, "machine": machine, "notes": ["a note"], "rows": [row],
            "limits": {"fma_peak": peak, "host_floor": floor}}  # fmt: skip


def test_ratios_and_limits():
    (row,) = results.rows_of(fake_result())
    assert row.ratio("native") == pytest.approx(3)
    assert row.best_layout == pytest.approx(2)
    assert row.best == "torch.compile"
    assert math.isnan(row.ratio("onnxruntime"))
    # The fastest copy that allocates.
    assert row.fraction == pytest.approx(0.5)
    result = fake_result()
    result["rows"][0]["flops"] = int(0.9e-3 * 1e11)
    assert results.rows_of(result)[0].fraction == pytest.approx(0.9)
    (row,) = results.rows_of(fake_result(ours=2e-3), "min")
    assert row.times["ours"] == pytest.approx(1.8e-3)
    assert row.ratio("native") == pytest.approx(1.5)


def test_goals_of_the_models_layers():
    shuffle = fake_result()
    text = report.full({**shuffle, "suite": "models"})
    # Ours takes 1 ms: native 3, the copy 0.5, native's other layout 2.
    assert "rearrangement, float32, contiguous" in text
    assert all(cell in text for cell in ("0.50 of 0.8 *", "3.00 of 6 *", "2.00 of 1 "))
    assert "### Goals" not in report.full(shuffle)
    assert goals.slower(results.rows_of(shuffle)) == []
    slow = {**fake_result(ours=4e-3), "suite": "models"}
    assert "- channel_shuffle 1x8x64x64 g2 f32 contiguous forward: 0.75" in report.full(slow)
    assert "Slower than native: 1 of 1 cases." in report.full({**slow, "suite": "random"})
    # Every goal has cases of its own in the suite.
    kinds = {(c.kind, c.dtype, c.layout) for c in cases.cases_of("models", "cpu")}
    for goal in goals.GOALS:
        for dtype in goal.dtypes:
            assert all((goal.kind, dtype, layout) in kinds for layout in goal.layouts), goal


def test_report_names_everything():
    text = report.full(fake_result())
    for words in (
        "A CPU (avx2), 2 thread(s)",
        "torch 2.13.0",
        "0123456789ab",
        "### channel_shuffle",
        "1x8x64x64 g2 f32 contiguous forward",
        "torch.compile",
        "a note",
        "3.00",
        "0.50",
    ):
        assert words in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in lines)
    wrong = fake_result()
    wrong["rows"][0]["wrong"] = "result 0 is off by 1.0e+00"
    assert "off by 1.0e+00" in report.full(wrong)
    faster = report.compare(fake_result(ours=0.5e-3), fake_result())
    assert "2.00" in faster


def test_documents_are_filled_from_results(tmp_path, monkeypatch):
    (tmp_path / "cpu.json").write_text(json.dumps(fake_result()))
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(report.fill, "__defaults__", (tmp_path,))
    document = tmp_path / "README.md"
    block = "<!-- bench cpu.json {} -->{}<!-- /bench -->"
    number = block.format("native channel_shuffle forward", "7.00")
    document.write_text(f"It is {number} times as fast.\n{block.format('summary', '')}\n")
    assert report.main(["--check", str(document)]) == 1
    assert report.main(["--update", str(document)]) == 0
    assert report.main(["--check", str(document)]) == 0
    assert ">3.00<" in document.read_text()
    assert "| channel_shuffle forward |" in document.read_text()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_agree_with_result_files(path):
    text = path.read_text()
    assert report.fill(text) == text, f"python bench/report.py --update {path}"


@pytest.mark.parametrize(
    "path", sorted(report.RESULTS.glob("*.json")), ids=lambda path: path.name
)  # fmt: skip
def test_result_files_name_their_origin(path):
    machine = results.load(path)["machine"]
    assert machine["commit"] and not machine["dirty"]
    assert machine["torch"] and machine["fastconv"] and machine["device_name"]
