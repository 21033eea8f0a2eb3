# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""What every public docstring has to say: shapes, dtypes, errors, an example, the source."""

import inspect
import re

import pytest

import fastconv
from fastconv import models, nn

# What they work on is models or nothing, and what they do is nobody else's.
NO_TENSORS = {"config", "convert_", "revert_", "onnx_translation_table"}
NAMES = [name for name in fastconv.__all__ if name not in ("__version__", "models", "nn")]
FUNCTIONS = {name: getattr(fastconv, name) for name in NAMES}
LAYERS = {f"nn.{name}": getattr(nn, name) for name in nn.__all__}
LAYERS |= {f"models.{name}": getattr(models, name) for name in models.__all__}
SHAPE = re.compile(r"``\((N|\*|C)[,)]")
DTYPES = re.compile(
    r"float32, float64, float16 or bfloat16|any dtype|floating-point dtype|"
    r"dtype of the parameters|dtype: Of the parameters",
    re.IGNORECASE,
)
SOURCE = re.compile(
    r"https://arxiv\.org/abs/\d{4}\.\d{5}|torch\.nn\.(functional\.)?\w+|F\.\w+|TensorFlow"
    r"|:(func|class|attr):`\w|``torch\.chunk"
)


def section(text, title):
    """The indented lines under a title; None if there is no such title."""
    found = re.search(rf"^{title}:\n((?:    .*\n?|\n)+)", text + "\n", re.MULTILINE)
    return found[1] if found else None


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_say_everything(name):
    text = inspect.getdoc(FUNCTIONS[name])
    wanted = ["Returns", "Example"]
    wanted += ["Args"] if inspect.signature(FUNCTIONS[name]).parameters else []
    wanted += ["Raises"] if name != "config" else []
    assert [title for title in wanted if not section(text, title)] == []
    if name not in NO_TENSORS:
        assert SHAPE.search(text), "shapes"
        assert DTYPES.search(" ".join(section(text, "Args").split())), "dtypes"
        assert SOURCE.search(text), "source"


@pytest.mark.parametrize("name", LAYERS)
def test_layers_say_everything(name):
    text = inspect.getdoc(LAYERS[name])
    assert SHAPE.search(section(text, "Shape") or ""), "shapes"
    assert DTYPES.search(" ".join(text.split())), "dtypes"
    assert section(text, "Raises"), "errors"
    assert ">>> " in (section(text, "Example") or ""), "example"
    assert SOURCE.search(text), "source"
    parameters = inspect.signature(LAYERS[name]).parameters.values()
    given = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    arguments = section(text, "Args")
    if arguments is None and given:
        assert re.search(r"Takes the\s+arguments of ``nn\.\w+``", text), "arguments"
    elif given:
        described = re.findall(r"^    (\w+):", arguments, re.MULTILINE)
        assert described == given, "arguments in the order of the constructor"


def test_a_poor_docstring_is_noticed():
    class Layer:
        """Pools.

        Args:
            size: Of the window.

        Example:
            >>> Layer()
        """

        def __init__(self, size=2):
            pass

    LAYERS["poor"] = Layer
    try:
        with pytest.raises(AssertionError, match="shapes"):
            test_layers_say_everything("poor")
    finally:
        del LAYERS["poor"]
