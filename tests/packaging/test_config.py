# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""What a build says about itself, and whether it fits the running torch."""

import json
import platform
import shutil
import subprocess
import sys
from importlib import metadata

import pytest
import torch

import fastconv
from fastconv import _build_info, _config


@pytest.mark.parametrize(
    ("built", "running"),
    [
        (("2.13.0+cpu", None), ("2.13.1+cpu", None)),
        (("2.14.1+cu130", "13.0"), ("2.14.0+cu132", "13.2")),
        (("2.14.1", None), ("2.14.1", "13.0")),  # kernels were not built: nothing to go wrong
    ],
)
def test_fitting_torch(built, running):
    assert _config.mismatch(*built, *running) == ""


@pytest.mark.parametrize(
    ("built", "running", "message"),
    [
        (
            ("2.13.0+cpu", None),
            ("2.14.1", "13.0"),
            "for torch 2.13.0+cpu, but the torch in use",
        ),
        (("2.14.1", "13.0"), ("2.14.1", "12.8"), "built for CUDA 13.0 (torch 2.14.1), but"),
        (("2.14.1", "13.0"), ("2.14.1+cpu", None), "2.14.1+cpu, has no CUDA"),
    ],
)
def test_torch_that_does_not_fit(built, running, message):
    assert message in _config.mismatch(*built, *running)


def test_wrong_torch_at_import_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setattr(_build_info, "torch", "2.1.0")
    with pytest.raises(ImportError) as error:
        _config.check_import()
    message = str(error.value)
    assert "\n" not in message
    assert f"built for torch 2.1.0, but the torch in use is {torch.__version__}" in message
    assert f"{sys.executable} -m pip install --force-reinstall --no-deps" in message


@pytest.fixture
def checkout(tmp_path):
    """A source tree that was never compiled."""
    (tmp_path / "checkout" / "fastconv").mkdir(parents=True)
    shutil.copy(_config.__file__, tmp_path / "checkout" / "fastconv")
    (tmp_path / "checkout" / "setup.py").touch()
    start = "from fastconv import _config\n_config.check_import()\nwhich = 'source'\n"
    (tmp_path / "checkout" / "fastconv" / "__init__.py").write_text(start)
    return tmp_path / "checkout"


def start_python(folder, path=""):
    return subprocess.run(
        [
            sys.executable,
            "-S",
            "-c",
            "import fastconv; print(fastconv.which, fastconv.other.which)",
        ],
        text=True,
        capture_output=True,
        cwd=folder,
        env={"PYTHONPATH": str(path)},
    )


def test_source_that_is_not_compiled(checkout):
    said = start_python(checkout)
    assert f"is not compiled for Python {platform.python_version()}. Run: " in said.stderr
    assert f"{sys.executable} -m pip install {checkout}" in said.stderr


def test_python_in_the_checkout_gets_the_installed_package(checkout, tmp_path):
    installed = tmp_path / "site" / "fastconv"
    installed.mkdir(parents=True)
    (installed / "_build_info.py").touch()
    (installed / "__init__.py").write_text("from fastconv import other\nwhich = 'installed'\n")
    (installed / "other.py").write_text("which = 'too'\n")
    said = start_python(checkout, tmp_path / "site")
    assert said.stdout == "installed too\n", said.stderr


class Record:
    def __init__(self, record):
        self.record = record

    def read_text(self, name):
        assert name == "direct_url.json"
        return self.record and json.dumps(self.record)


@pytest.mark.parametrize(
    ("record", "source"),
    [
        (None, "fastconv"),
        ({"url": "file:///home/me/fast%20conv", "dir_info": {}}, "'/home/me/fast conv'"),
        ({"url": "file:///src/fastconv", "dir_info": {"editable": True}}, "-e /src/fastconv"),
        (
            {"url": "https://host/fastconv", "vcs_info": {"vcs": "git", "commit_id": "12ab"}},
            "git+https://host/fastconv@12ab",
        ),
    ],
)
def test_reinstall_command_names_where_it_came_from(monkeypatch, record, source):
    monkeypatch.setattr(metadata, "distribution", lambda name: Record(record))
    assert _config._reinstall_command().endswith(f"--no-cache-dir {source}")


@pytest.mark.parametrize(
    ("archs", "capability", "runs"),
    [
        (("8.0",), (8, 6), True),
        (("8.6",), (8, 0), False),
        (("8.0",), (9, 0), False),
        (("8.0+PTX",), (9, 0), True),
        (("8.0", "9.0+PTX"), (12, 0), True),
        (("9.0+PTX",), (8, 0), False),
        (("9.0a",), (9, 0), True),
        (("9.0a+PTX",), (10, 0), False),
        ((), (9, 0), False),
    ],
)
def test_covers(archs, capability, runs):
    assert _config.covers(archs, capability) is runs


def test_config_of_this_build():
    facts = fastconv.config()
    assert facts.torch == torch.__version__
    assert facts.version == metadata.version("fastconv")
    assert facts.isa in facts.isa_levels
    assert (facts.cuda is None) == (facts.no_cuda_reason is not None) == (facts.cuda_archs == ())


def test_command_line_prints_the_facts():
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "fastconv"],
        text=True,
        capture_output=True,
        check=True,
    )
    facts = fastconv.config()
    for text in (
        facts.version,
        facts.built_for_torch,
        facts.isa,
        facts.no_cuda_reason or facts.cuda,
    ):
        assert text in said.stdout
