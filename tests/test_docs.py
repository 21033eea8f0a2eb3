# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""The site of docs/: builds without a warning, has every public name, and leads somewhere."""

import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import fastconv
from fastconv import models, nn

ROOT = Path(__file__).resolve().parents[1]
REASON = 'needs {}: pip install ".[docs]"'
NO_PAGES = {"__version__", "models", "nn"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; warnings are errors."""
    for package in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(package, reason=REASON.format(package))
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [*command, "-d", str(out / "doctrees"), str(ROOT / "docs"), str(out / "html")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return out / "html"


def inventory(site):
    """What other projects' documentation may link to: {name: kind}."""
    data = (site / "objects.inv").read_bytes()
    start = 0
    for _ in range(4):  # lines of plain text come first
        start = data.index(b"\n", start) + 1
    lines = zlib.decompress(data[start:]).decode().splitlines()
    return dict(line.split(" ")[:2] for line in lines)


def test_every_public_name_has_an_entry(site):
    found = inventory(site)
    public = {f"fastconv.{name}" for name in fastconv.__all__ if name not in NO_PAGES}
    public |= {f"fastconv.nn.{name}" for name in nn.__all__}
    public |= {f"fastconv.models.{name}" for name in models.__all__}
    missing = sorted(public - set(found))
    assert not missing
    assert found["fastconv.depthwise_conv2d"] == "py:function"
    assert found["fastconv.nn.DepthwiseConv2d"] == "py:class"


def test_entries_have_their_sections(site):
    text = (site / "api" / "functions.html").read_text()
    for words in ("Parameters", "Returns", "Raises", "Example", "1704.04861"):
        assert words in text


def test_links_lead_to_pages_and_anchors(site):
    pages = {path: path.read_text() for path in site.rglob("*.html")}
    broken = []
    for path, text in pages.items():
        for target in set(re.findall(r'href="([^"]+)"', text)):
            name, _, anchor = target.partition("#")
            if "://" in target or target.startswith(("data:", "mailto:")):
                continue
            there = (path.parent / name.partition("?")[0]).resolve() if name else path
            known = there.exists() and (
                not anchor or there not in pages or f'id="{anchor}"' in pages[there]
            )
            if not known:
                broken.append(f"{path.name}: {target}")
    assert len(pages) > 30 and not broken


def test_a_broken_reference_fails_the_build(site, tmp_path):
    """The settings do notice: a function that is not there, and a page that is not there."""
    (tmp_path / "conf.py").write_text((ROOT / "docs" / "conf.py").read_text())
    page = "# A page\n\n{0}\n\n```{{eval-rst}}\n:func:`{1}`\n```\n\n" \
        "```{{eval-rst}}\n.. autofunction:: fastconv.pixel_shuffle\n```\n"  # fmt: skip
    out = str(tmp_path / "out")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(tmp_path), out]
    for link, name, status in (
        ("[here](index.md)", "fastconv.pixel_shuffle", 0),
        ("[here](nowhere.md)", "fastconv.pixel_shuffle", 1),
        ("[here](index.md)", "fastconv.pixel_shuffles", 1),
    ):
        (tmp_path / "index.md").write_text(page.format(link, name))
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode != 0) == bool(status), done.stderr
