# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Sources, flags and the number of jobs."""

import re
import shlex
from pathlib import Path

import build_plan
import pytest
from cuda_choice import Choice, Toolkit
from stop import BuildStop

ROOT = Path(__file__).resolve().parents[2]
GPU = Choice("nvcc", Toolkit("/cuda/bin/nvcc", "13.0", "/cuda"), ("8.0", "9.0+PTX"))
CPU = Choice("torch 2.13.0+cpu is built without CUDA")


def test_sources_are_sorted_and_cuda_is_optional(tmp_path):
    for name in ("module.cpp", "ops/b/torch.cpp", "ops/b/b.cu", "ops/a/a.cpp", "ops/a/a.h"):
        (tmp_path / "csrc" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "csrc" / name).touch()
    host = ["csrc/module.cpp", "csrc/ops/a/a.cpp", "csrc/ops/b/torch.cpp"]
    assert build_plan.sources(str(tmp_path), cuda=False) == host
    assert build_plan.sources(str(tmp_path), cuda=True) == sorted([*host, "csrc/ops/b/b.cu"])


def test_files_with_torch_headers_are_compiled_together(tmp_path):
    files = [f"csrc/{name}" for name in ("a.cpp", "b/torch.cpp", "b/x_torch.cpp", "module.cpp")]
    merged = build_plan.merge_torch_files(str(tmp_path), files, "build")
    assert merged == ["build/torch_files.cpp", "csrc/a.cpp"]
    text = (tmp_path / merged[0]).read_text()
    assert text == '#include "b/torch.cpp"\n#include "b/x_torch.cpp"\n#include "module.cpp"\n'


def test_an_unchanged_file_is_not_written_again(tmp_path):
    def build():
        build_plan.merge_torch_files(str(tmp_path), ["csrc/a/torch.cpp"], "build")
        return (tmp_path / "build/torch_files.cpp").stat().st_mtime_ns

    assert build() == build()


def test_without_files_that_have_torch_headers(tmp_path):
    assert build_plan.merge_torch_files(str(tmp_path), ["csrc/a.cpp"], "build") == ["csrc/a.cpp"]


def test_sources_with_the_same_object_file(tmp_path):
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "a.cpp").touch()
    (tmp_path / "csrc" / "a.cu").touch()
    with pytest.raises(BuildStop, match="different stems"):
        build_plan.sources(str(tmp_path), cuda=True)


def test_sources_of_this_tree_have_different_stems():
    assert build_plan.sources(str(ROOT), cuda=True)


@pytest.mark.parametrize(
    ("asked", "cores", "gigabytes", "count"),
    [
        ("", 8, 64, 8),
        ("", 8, 7, 2),
        ("", 8, 1, 1),
        ("", 2, None, 2),
        ("5", 2, 1, 5),
    ],
)
def test_jobs(asked, cores, gigabytes, count):
    memory = None if gigabytes is None else gigabytes * build_plan.GIB
    assert build_plan.jobs({"MAX_JOBS": asked}, cores, memory) == count


@pytest.mark.parametrize("asked", ["x", "0", "-1"])
def test_jobs_that_are_no_number(asked):
    with pytest.raises(BuildStop, match="MAX_JOBS"):
        build_plan.jobs({"MAX_JOBS": asked}, 2, None)


def test_available_memory_is_plausible():
    memory = build_plan.available_memory()
    assert memory is None or memory > build_plan.GIB // 16


@pytest.mark.parametrize(
    ("jobs", "files", "archs", "threads"),
    [(2, 10, 2, 1), (16, 4, 2, 2), (64, 4, 3, 3), (1, 0, 2, 1)],
)
def test_nvcc_threads(jobs, files, archs, threads):
    assert build_plan.nvcc_threads(jobs, files, archs) == threads


def test_openmp_reaches_the_host_compiler():
    assert "-fopenmp" in build_plan.cxx_flags("/src", CPU, [], werror=False)


def test_reason_is_one_define_that_needs_no_escaping():
    choice = Choice("""nvcc "is" bad: $HOME `x` \\ (/opt/bin/nvcc); see\nbelow""")
    (define,) = [
        flag for flag in build_plan.cxx_flags("/src", choice, [], False) if "REASON" in flag
    ]
    text = re.fullmatch(r'-DFASTCONV_NO_CUDA_REASON="(.*)"', define)[1]
    assert text == "nvcc is bad HOME x  (/opt/bin/nvcc), seebelow"
    assert shlex.split(shlex.quote(define)) == [define]


def test_cuda_defines():
    assert "-DFASTCONV_WITH_CUDA=1" in build_plan.cxx_flags("/src", GPU, [], False)
    assert "-DFASTCONV_WITH_CUDA=1" in build_plan.nvcc_flags(GPU, 1, False, False)
    assert not any("REASON" in flag for flag in build_plan.cxx_flags("/src", GPU, [], False))
    assert not any("WITH_CUDA" in flag for flag in build_plan.cxx_flags("/src", CPU, [], False))


def test_warnings_as_errors_and_ptxas_report_are_for_ci():
    plain = build_plan.cxx_flags("/src", GPU, [], False) + build_plan.nvcc_flags(
        GPU, 1, False, False
    )
    assert not any("-Werror" in flag or "ptxas" in flag for flag in plain)
    assert "-Werror" in build_plan.cxx_flags("/src", GPU, [], True)
    strict = build_plan.nvcc_flags(GPU, 1, True, True)
    assert {"-Werror=all-warnings", "-Xptxas=-v"} <= set(strict)
    assert any(flag.startswith("-Xcompiler=") and "-Werror" in flag for flag in strict)


@pytest.mark.parametrize("version", ["2.11.0", "2.13.0+cpu", "2.14.0a0+git12ab", "3.0.0"])
def test_torch_new_enough(version):
    build_plan.require_torch(version, "/site")


@pytest.mark.parametrize("version", ["2.10.1", "1.13.1+cu117"])
def test_torch_too_old(version):
    with pytest.raises(BuildStop, match=r"too old: fastconv needs torch >= 2\.11"):
        build_plan.require_torch(version, "/site")


def test_oldest_torch_is_the_one_that_the_metadata_asks_for():
    project = (ROOT / "pyproject.toml").read_text()
    asked = re.search(r'dependencies = \["torch>=(\d+)\.(\d+)"\]', project)
    assert (int(asked[1]), int(asked[2])) == build_plan.MIN_TORCH
