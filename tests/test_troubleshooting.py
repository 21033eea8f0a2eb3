# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""docs/troubleshooting.md has every message of the build and of the import, and no other."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
FILES = [
    *sorted((ROOT / "build_backend").glob("*.py")),
    ROOT / "setup.py",
    *(ROOT / "fastconv" / name for name in ("__init__.py", "_config.py", "_lazy.py", "export.py")),
]
# What gives up, warns, reports, or says why there will be no CUDA kernels; and which argument holds
# the text.
SAYS = {
    "BuildStop": 0,
    "ImportError": 0,
    "ModuleNotFoundError": 0,
    "_say": 0,
    "warn": 0,
    "Choice": 0,
    "NoToolkitError": 0,
    "_cannot": 1,
}
HOLE = "\0"


def literal(node):
    """The text of an expression, with holes for what is filled in; None if it is all holes."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(literal(v) if isinstance(v, ast.Constant) else HOLE for v in node.values)
    return None


def messages(path):
    """(line, text) of every message; functions that return one are looked into too."""
    tree = ast.parse(path.read_text())
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in SAYS and len(node.args) > SAYS[name]:
                found[node.lineno] = literal(node.args[SAYS[name]])
        # no_torch() and mismatch() make a text that somebody else raises.
        if isinstance(node, ast.FunctionDef) and node.name in ("no_torch", "mismatch"):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return):
                    found[inner.lineno] = literal(inner.value)
    for line, text in sorted(found.items()):
        text = " ".join((text or "").replace("\\\n", " ").split())
        if re.sub(rf"[{HOLE}\W]", "", text):
            yield line, text


MESSAGES = [
    pytest.param(text, id=f"{path.relative_to(ROOT)}:{line}")
    for path in FILES
    for line, text in messages(path)
]


def entries():
    """The first cells of the page's tables of messages, in backquotes."""
    _, _, text = PAGE.read_text().partition("## What the build says")
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def fits(entry, text):
    """Whether an entry is a part of a message; `...` stands for what is filled in."""
    pattern = ".*".join(re.escape(part.strip()) for part in entry.split("..."))
    return re.search(pattern.replace(r"\ ", r"\s"), text) is not None


@pytest.mark.parametrize("text", MESSAGES)
def test_every_message_is_on_the_page(text):
    assert any(fits(entry, text) for entry in entries()), text.replace(HOLE, "...")


def test_every_entry_is_a_message():
    texts = [parameter.values[0] for parameter in MESSAGES]
    cpp = (ROOT / "csrc" / "torch_utils.h").read_text()
    stale = [e for e in entries() if not any(fits(e, t) for t in texts) and not fits(e, cpp)]
    assert not stale


def test_entries_say_something():
    """An entry of holes would fit every message."""
    texts = [parameter.values[0] for parameter in MESSAGES]
    for entry in entries():
        assert sum(fits(entry, text) for text in texts) <= 2, entry


def test_messages_are_found():
    """The search has not lost its way: the well-known ones are there."""
    texts = " ".join(parameter.values[0] for parameter in MESSAGES)
    for words in ("is too old", "was not found", "the major versions must be equal"):
        assert words in texts
    for words in ("is not compiled for Python", "but the torch in use is", "FASTCONV_ISA"):
        assert words in texts
    assert len(MESSAGES) > 22
