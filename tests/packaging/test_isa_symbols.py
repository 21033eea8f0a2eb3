# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""No object file of one instruction-set level offers its functions to the whole library."""

import shutil
import subprocess

import isa_symbols
import pytest

needs_tools = pytest.mark.skipif(
    shutil.which("nm") is None or shutil.which("g++") is None, reason="no nm or no g++"
)


@needs_tools
def test_this_build():
    found = isa_symbols.objects(isa_symbols.ROOT / "build")
    if not found:
        pytest.skip("no build in this checkout")
    leaks = {path.name: isa_symbols.weak_symbols(path, level) for path, level in found}
    assert not any(leaks.values()), leaks


def test_every_level_of_every_room_is_looked_at(tmp_path):
    for source in (isa_symbols.ROOT / "csrc" / "ops").glob("*/cpu_*.cpp"):
        path = tmp_path / "temp-x" / source.relative_to(isa_symbols.ROOT).with_suffix(".o")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = isa_symbols.objects(tmp_path)
    rooms = {path.parent.name for path, _ in found}
    assert rooms == {path.name for path in (isa_symbols.ROOT / "csrc" / "ops").iterdir()}
    header = (isa_symbols.ROOT / "csrc" / "common" / "isa.h").read_text()
    for _, level in found:
        assert f"X({level} " in header
    common = header[
        header.index("FASTCONV_FOREACH_COMMON_ISA(X") : header.index("FASTCONV_FOREACH_ISA(X")
    ]
    for room in rooms:
        levels = {level for path, level in found if path.parent.name == room}
        assert levels >= {level for _, level in found if f"X({level} " in common}


FUNCTION = "namespace {0} {{ inline int f() {{ return 1; }} }} int use() {{ return {0}::f(); }}"


@needs_tools
@pytest.mark.parametrize(
    ("code", "leaks"),
    [
        (FUNCTION.format("fastconv"), True),
        (FUNCTION.format("fastconv::avx512"), True),
        (FUNCTION.format("fastconv::avx2"), False),
        ("static int f() { return 1; } int use() { return f(); }", False),
    ],
)
def test_a_leak_is_found(tmp_path, code, leaks):
    source, target = tmp_path / "a.cpp", tmp_path / "a.o"
    source.write_text(code)
    subprocess.run(["g++", "-O0", "-c", str(source), "-o", str(target)], check=True)
    assert bool(isa_symbols.weak_symbols(target, "avx2")) == leaks
