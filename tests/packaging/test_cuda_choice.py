# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""When the CUDA kernels are built, and what is said when they are not."""

import stat

import cuda_choice
import pytest
from cuda_choice import Choice, NoToolkitError, Toolkit, choose
from stop import BuildStop

H100, A100 = (9, 0), (8, 0)


def toolkit(version="13.0"):
    return lambda env: Toolkit("/cuda/bin/nvcc", version, "/cuda")


def no_toolkit(env):
    raise NoToolkitError("nvcc was not found or does not run (/cuda/bin/nvcc)")


def decide(env=None, cuda="13.0", gpus=(), find=None):
    version = "2.14.1+cu130" if cuda else "2.14.1+cpu"
    return choose(env or {}, version, cuda, gpus, find or toolkit())


@pytest.mark.parametrize(
    ("env", "gpus", "archs"),
    [
        ({}, [H100], ("9.0",)),
        ({}, [H100, A100, H100], ("8.0", "9.0")),
        ({"FASTCONV_CUDA": "1"}, [], ("8.0", "9.0+PTX")),
        ({"FASTCONV_CUDA": "1"}, [H100], ("9.0",)),
        ({"TORCH_CUDA_ARCH_LIST": "8.6"}, [], ("8.6",)),
        ({"TORCH_CUDA_ARCH_LIST": "8.0 9.0+PTX"}, [H100], ("8.0", "9.0+PTX")),
        ({"TORCH_CUDA_ARCH_LIST": "native"}, [A100], ("8.0",)),
        ({"TORCH_CUDA_ARCH_LIST": "native"}, [], ("8.0", "9.0+PTX")),
        ({"FASTCONV_CUDA": "1", "TORCH_CUDA_ARCH_LIST": ""}, [], ("8.0", "9.0+PTX")),
    ],
)
def test_built(env, gpus, archs):
    choice = decide(env, gpus=gpus)
    assert choice.cuda
    assert choice.archs == archs
    assert choice.toolkit.home == "/cuda"


@pytest.mark.parametrize(
    ("env", "options", "why"),
    [
        ({}, {}, "no GPU was visible at build time"),
        ({"TORCH_CUDA_ARCH_LIST": " ; "}, {}, "no GPU was visible at build time"),
        ({"FASTCONV_CUDA": "0"}, {"gpus": [H100]}, "FASTCONV_CUDA=0 was set"),
        ({"FASTCONV_CUDA": "0", "TORCH_CUDA_ARCH_LIST": "9.0"}, {}, "FASTCONV_CUDA=0 was set"),
        ({}, {"cuda": None}, "torch 2.14.1+cpu is built without CUDA"),
        ({"TORCH_CUDA_ARCH_LIST": "9.0"}, {"cuda": None}, "is built without CUDA"),
        ({}, {"gpus": [H100], "find": no_toolkit}, "nvcc was not found or does not run"),
        (
            {"TORCH_CUDA_ARCH_LIST": "9.0"},
            {"find": toolkit("12.8")},
            "nvcc is CUDA 12.8 and torch 2.14.1+cu130 is CUDA 13.0; the major versions must",
        ),
    ],
)
def test_not_built_and_why(env, options, why):
    choice = decide(env, **options)
    assert not choice.cuda
    assert choice.archs == ()
    assert why in choice.why


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cuda": None}, "FASTCONV_CUDA=1 is set, but torch 2.14.1+cpu is built without CUDA"),
        ({"find": no_toolkit}, "Install a CUDA 13.x toolkit and set CUDA_HOME"),
        ({"find": toolkit("12.8")}, "nvcc is CUDA 12.8 and torch 2.14.1+cu130 is CUDA 13.0"),
        ({"find": toolkit("12.8")}, "Set CUDA_HOME to a CUDA 13.x toolkit"),
    ],
)
def test_demand_that_cannot_be_met(options, message):
    with pytest.raises(BuildStop) as stop:
        decide({"FASTCONV_CUDA": "1"}, **options)
    assert message in stop.value.message


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"FASTCONV_CUDA": "maybe"}, "use 1 (build or fail), 0 (never)"),
        ({"TORCH_CUDA_ARCH_LIST": "Hopper"}, "'Hopper' is not an architecture"),
        ({"TORCH_CUDA_ARCH_LIST": "8.0;sm_90"}, "'sm_90' is not an architecture"),
    ],
)
def test_variables_without_meaning(env, message):
    with pytest.raises(BuildStop) as stop:
        decide(env)
    assert message in stop.value.message


def test_minor_versions_of_toolkit_and_torch_may_differ():
    assert decide({"FASTCONV_CUDA": "1"}, find=toolkit("13.2")).cuda


def test_default_has_the_promised_architectures():
    archs = cuda_choice.parse_archs(cuda_choice.DEFAULT_ARCHS)
    assert {"8.0", "9.0"} <= {arch.removesuffix("+PTX") for arch in archs}
    assert any(arch.endswith("+PTX") for arch in archs)


def test_gencode_flags():
    assert cuda_choice.gencode_flags(["8.0", "9.0a", "10.0+PTX"]) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_100,code=sm_100",
        "-gencode=arch=compute_100,code=compute_100",
    ]


def write_script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


FAKE_NVCC = """
case "$1" in
  --version) echo 'Cuda compilation tools, release 12.9, V12.9.41' ;;
  --dryrun) echo "#\\$ _HERE_={root}/bin" >&2 ;;
esac
"""


def test_toolkit_behind_a_wrapper_on_the_path(tmp_path):
    root = tmp_path / "cuda-12.9"
    nvcc = write_script(tmp_path / "usr" / "bin" / "nvcc", FAKE_NVCC.format(root=root))
    found = cuda_choice.find_toolkit({"PATH": str(nvcc.parent)})
    assert found == Toolkit(str(nvcc), "12.9", str(root))


def test_named_toolkit_comes_first(tmp_path):
    root = tmp_path / "named"
    nvcc = write_script(root / "bin" / "nvcc", FAKE_NVCC.format(root="/elsewhere"))
    found = cuda_choice.find_toolkit({"CUDA_HOME": str(root), "PATH": ""})
    assert found == Toolkit(str(nvcc), "12.9", str(root))


@pytest.mark.parametrize("text", ["exit 1", "echo hello"])
def test_nvcc_that_does_not_work(tmp_path, text):
    write_script(tmp_path / "bin" / "nvcc", text)
    with pytest.raises(NoToolkitError):
        cuda_choice.find_toolkit({"CUDA_HOME": str(tmp_path)})


def test_no_nvcc_at_all(tmp_path):
    with pytest.raises(NoToolkitError, match="not found"):
        cuda_choice.find_toolkit({"CUDA_PATH": str(tmp_path)})


def test_choice_without_toolkit_is_a_cpu_build():
    assert not Choice("why").cuda
