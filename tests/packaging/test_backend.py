# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Which torch a build uses: the decisions of the build backend, without building."""

import importlib.util
import sys

import fastconv_backend as backend
import pytest
from stop import BuildStop

real_find_spec = importlib.util.find_spec


@pytest.fixture
def no_torch(monkeypatch):
    def find_spec(name, package=None):
        return None if name == "torch" else real_find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A package folder with a torch of version 2.12.0 and a private dependency of it."""
    folder = tmp_path / "site-packages"
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text("")
    (folder / "torch" / "version.py").write_text("__version__ = '2.12.0'\n")
    (folder / "only_torch_needs_it.py").write_text("value = 1\n")
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    return folder


def test_importable_torch_is_used_as_it_is():
    before = list(sys.meta_path)
    backend.borrow_torch()
    assert sys.meta_path == before
    assert backend.torch_requirements() == []


def test_torch_of_the_target_is_borrowed(no_torch, site, monkeypatch):
    monkeypatch.setattr(backend, "own_folders", lambda: [str(site)])
    backend.borrow_torch()
    finder = sys.meta_path[-1]
    assert isinstance(finder, backend.BorrowFinder)
    assert finder.find_spec("torch").origin == str(site / "torch" / "__init__.py")
    assert importlib.import_module("only_torch_needs_it").value == 1
    assert finder.find_spec("torch.version", [str(site / "torch")]) is None


def test_torch_is_fetched_only_where_the_target_has_none(no_torch, site, monkeypatch):
    monkeypatch.setattr(backend, "own_folders", lambda: [])
    monkeypatch.setattr(backend, "is_overlay", lambda file, folders: True)
    backend.borrow_torch()
    assert backend.torch_requirements() == ["torch>=2.11"]


def test_environment_made_for_the_build_alone(no_torch, monkeypatch):
    monkeypatch.setattr(backend, "is_overlay", lambda file, folders: False)
    with pytest.raises(BuildStop, match="FASTCONV_BUILD_PYTHON=/path/to/env/bin/python"):
        backend.torch_requirements()


def test_no_isolation_and_no_torch(no_torch):
    with pytest.raises(BuildStop, match="torch is needed to build"):
        backend.check_tools()


def test_old_setuptools(monkeypatch):
    monkeypatch.setattr(backend.setuptools, "__version__", "65.5.0")
    with pytest.raises(BuildStop, match=r"setuptools 65\.5\.0 is too old"):
        backend.check_tools()


def test_old_torch_stops_before_pip_fetches_another(site, monkeypatch):
    (site / "torch" / "version.py").write_text("__version__ = '2.9.1+cu128'\n")
    finder = backend.BorrowFinder([str(site)])
    monkeypatch.setattr(importlib.util, "find_spec", finder.find_spec)
    with pytest.raises(BuildStop, match=r"torch 2\.9\.1\+cu128 .* is too old"):
        backend.torch_requirements()


def test_overlay(tmp_path):
    file = tmp_path / "overlay" / "setuptools" / "__init__.py"
    assert backend.is_overlay(str(file), [str(tmp_path / "site-packages")])
    assert not backend.is_overlay(str(file), [str(tmp_path / "overlay")])


def test_named_interpreter_gives_its_folders():
    assert set(backend.folders_of(sys.executable)) & set(sys.path)


def test_named_interpreter_without_torch(no_torch, monkeypatch):
    monkeypatch.setenv("FASTCONV_BUILD_PYTHON", sys.executable)
    monkeypatch.setattr(backend, "folders_of", lambda python: [])
    with pytest.raises(BuildStop, match="has no torch"):
        backend.borrow_torch()


def test_named_interpreter_that_does_not_run(no_torch, monkeypatch):
    monkeypatch.setenv("FASTCONV_BUILD_PYTHON", "/nowhere/python")
    with pytest.raises(BuildStop, match="does not run as Python"):
        backend.borrow_torch()


def test_named_interpreter_of_another_version(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho '[\"cpython-39\", []]'\n")
    python.chmod(0o755)
    with pytest.raises(BuildStop, match="use the same Python for both"):
        backend.folders_of(str(python))
