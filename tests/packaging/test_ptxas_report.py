# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""The report on registers and spills."""

import ptxas_report
import pytest

LOG = """
  [1/2] nvcc -c a.cu
  ptxas info    : Compiling entry function '_Z5cleanPf' for 'sm_80'
  ptxas info    : Function properties for _Z5cleanPf
      0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
  ptxas info    : Used 10 registers, used 1 barriers, 1024 bytes smem, 376 bytes cmem[0]
  ptxas info    : Compiling entry function '_Z5cleanPf' for 'sm_90'
  ptxas info    : Function properties for _Z5cleanPf
      0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
  ptxas info    : Used 12 registers, used 1 barriers, 1024 bytes smem
  ptxas info    : Compiling entry function '_Z5spillPf' for 'sm_90'
  ptxas info    : Function properties for _Z5spillPf
      48 bytes stack frame, 24 bytes spill stores, 40 bytes spill loads
  ptxas info    : Used 255 registers, used 0 barriers, 16 bytes cumulative stack size
"""


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "build.log"
    path.write_text(LOG)
    return path


@pytest.fixture
def allow(tmp_path, monkeypatch):
    path = tmp_path / "allowed.txt"
    path.write_text("")
    monkeypatch.setattr(ptxas_report, "ALLOWED", path)
    return path


def test_parse():
    clean80, clean90, spill = ptxas_report.parse(LOG.splitlines())
    assert (clean80.arch, clean80.registers, clean80.smem) == ("80", 10, 1024)
    assert (clean90.arch, clean90.registers, clean90.spills) == ("90", 12, 0)
    assert (spill.kernel, spill.registers, spill.stack, spill.spills) == ("_Z5spillPf", 255, 48, 64)


def test_spill_fails(log, allow, capsys):
    assert ptxas_report.main([str(log)]) == 1
    assert "spill for sm_90: 64 bytes spilled, 48 bytes of stack" in capsys.readouterr().out


def test_spill_on_the_list_passes(log, allow):
    allow.write_text("^spill  # the tile is worth it\n")
    assert ptxas_report.main([str(log)]) == 0


def test_permission_needs_a_reason_and_a_use(log, allow, capsys):
    allow.write_text("^spill\n")
    with pytest.raises(SystemExit, match="gives no reason"):
        ptxas_report.main([str(log)])
    allow.write_text("^spill  # yes\nother  # was needed once\n")
    assert ptxas_report.main([str(log)]) == 1
    assert "'other' is not needed any more" in capsys.readouterr().out


def test_log_without_ptxas_output_fails(tmp_path, allow):
    (tmp_path / "build.log").write_text("ninja: no work to do.\n")
    assert ptxas_report.main([str(tmp_path / "build.log")]) == 1


def test_table_is_written_and_checked(log, allow, tmp_path):
    allow.write_text("^spill  # the tile is worth it\n")
    page = tmp_path / "docs" / "registers.md"
    assert ptxas_report.main([str(log), "--check", str(page)]) == 1
    assert ptxas_report.main([str(log), "--write", str(page)]) == 0
    assert "| `clean` | 10 / 12 | 1024 | 0 | 0 |" in page.read_text()
    assert ptxas_report.main([str(log), "--check", str(page)]) == 0
    page.write_text(page.read_text().replace("10", "11"))
    assert ptxas_report.main([str(log), "--check", str(page)]) == 1


@pytest.mark.parametrize(
    ("signature", "name"),
    [
        ("void fastconv::dw::forward<float, 3>(fastconv::dw::Params)", "dw::forward<float, 3>"),
        ("void (anonymous namespace)::k<(int)3, (bool)1>(float*)", "k<3, 1>"),
        ("void k<void (*)(int)>(P, void (*)(int))", "k<void (*)(int)>"),
        ("plain", "plain"),
    ],
)
def test_short_names(signature, name):
    assert ptxas_report.short(signature) == name
