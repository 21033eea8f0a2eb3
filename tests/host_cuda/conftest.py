# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
import pathlib
import sys

import pytest

# pytest's importlib mode leaves sys.path alone, and the tests here share modules.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import host_cuda_harness as hc

_deselected: set[pathlib.Path] = set()


@pytest.fixture(autouse=True, scope="session")
def _needs_cuda_headers():
    if reason := hc.skip_reason():
        pytest.skip(reason)


def pytest_configure(config):
    config.stash[hc.LEFT_OUT] = _left_out


def pytest_deselected(items):
    _deselected.update(item.path for item in items)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """The tests of what the others have run come last."""
    items.sort(key=lambda item: item.path == hc.HERE / "test_coverage.py")


def _left_out(session):
    """Why this run cannot tell what all tests together run; "" if it can."""
    rooms = {p.parent.name for p in hc.CSRC.glob("ops/*/*.cu*")}
    files = {p for room in rooms for p in hc.HERE.glob(f"test_{room}*.py")}
    if files - {item.path for item in session.items} or files & _deselected:
        return "needs a run of all tests in tests/host_cuda"
    if any("::" in argument for argument in session.config.args):
        return "needs a run of whole files"
    return "other tests have failed" if session.testsfailed else ""


def pytest_terminal_summary(terminalreporter):
    """What the kernels' tests have covered, a line for every room."""
    if not hc.LOADED:
        return
    import coverage

    lines = [
        coverage.summary(source, library)
        for source in coverage.read_sources(hc.CSRC)
        if (library := coverage.library_of(source.room)) is not None
    ]
    if lines:
        terminalreporter.section("CUDA kernels on the host executor")
        for line in lines:
            terminalreporter.line(line)
