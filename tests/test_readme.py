# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Runs the code that users copy: the Python blocks of README, and the examples of docstrings."""

import doctest
import inspect
import re
from pathlib import Path

import pytest
import torch

import fastconv
import fastconv.functional
import fastconv.nn

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
# Pages with code to copy; blocks of one page are run in order and share nothing.
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{index}")
    for page in PAGES
    for index, block in enumerate(BLOCK.findall(page.read_text()))
]
FUNCTIONS = [n for n in fastconv.__all__ if hasattr(fastconv.functional, n)]
OTHERS = ["convert_", "revert_", "onnx_translation_table"]
DOCUMENTED = {
    **{name: getattr(fastconv, name) for name in [*FUNCTIONS, *OTHERS]},
    **{f"nn.{name}": getattr(fastconv.nn, name) for name in fastconv.nn.__all__},
}


def test_readme_has_code():
    assert BLOCK.search((ROOT / "README.md").read_text())


@pytest.fixture
def needs(library):
    """Skips code that calls a library that is not installed."""

    def look(text):
        if "torch.onnx.export(" in text:
            library("onnxscript")
        if "import timm" in text:
            library("timm")

    return look


@pytest.mark.parametrize("block", BLOCKS)
def test_code_block(block, needs):
    needs(block)
    exec(compile(block, "block", "exec"), {"__name__": "block"})


@pytest.mark.parametrize("name", DOCUMENTED)
def test_docstring(name, needs):
    """What is public is described, with an example that is right."""
    thing = DOCUMENTED[name]
    text = inspect.getdoc(thing)
    parameters = inspect.signature(thing).parameters
    if inspect.isfunction(thing):
        for parameter in parameters:
            assert re.search(rf"^    {parameter}:", text, re.MULTILINE), parameter
        assert "Returns:" in text and "Raises:" in text
    needs(text)
    parser = doctest.DocTestParser()
    test = parser.get_doctest(text, {"torch": torch, "fastconv": fastconv}, name, None, 0)
    assert test.examples, "no example"
    out = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=out.append)
    assert result.failed == 0, "".join(out)


def test_readme_commands_are_those_of_the_package():
    """The extras that README's commands install exist, and hold what they run."""
    readme = (ROOT / "README.md").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    for extra, what in (("bench", "python bench/run.py --quick"), ("test", "pytest")):
        assert f'pip install ".[{extra}]" && {what}' in readme
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE)
    assert (ROOT / "bench" / "run.py").is_file()
