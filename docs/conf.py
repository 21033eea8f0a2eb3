# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Sphinx's settings: `pip install ".[docs]" && sphinx-build -W --keep-going docs build/docs`."""

import posixpath
import re

import fastconv

project = "fastconv"
copyright = "fastconv contributors"
version = release = fastconv.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_title = f"fastconv {release}"
html_copy_source = False

# Every reference within the package has to lead somewhere; those of Python and torch would need a
# network to be looked up.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|nn|collections\.abc)\..*"),
    (r"py:class", r"Tensor"),
]
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Shape"]
myst_heading_anchors = 3

# Pages of the repository that are pages here too; a link to any other file becomes plain text.
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "bench/results/README.md": "results.md",
    "docs/adr": "adr/index.md",
    "docs/lab": "lab/index.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#:\s]+)(#[\w-]*)?\)")


def links_here(text, folder):
    """The text of a file in `folder` of the repository, its links leading to this site's pages."""

    def link(match):
        image, text, target, anchor = match.groups()
        whole = posixpath.normpath(posixpath.join(folder, target))
        page = ELSEWHERE.get(whole) or (whole[5:] if whole.startswith("docs/") else None)
        return f"{image}[{text}](/{page}{anchor or ''})" if page else text

    parts = text.split("```")  # every other one is code
    return "```".join(LINK.sub(link, p) if i % 2 == 0 else p for i, p in enumerate(parts))


def included(app, path, docname, content):
    """README and its like, which lie outside docs/."""
    content[0] = links_here(content[0], posixpath.normpath(posixpath.join("docs", path.parent)))


def read(app, docname, content):
    """A page of docs/; it may link to files outside."""
    content[0] = links_here(content[0], posixpath.dirname(f"docs/{docname}"))


def setup(app):
    """Sphinx calls this."""
    app.connect("include-read", included)
    app.connect("source-read", read)
