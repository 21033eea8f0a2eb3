# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""docs/cuda-kernels.md and its script: against cuda-registers.md, and on made-up machine code."""

import re
from pathlib import Path

import cuda_kernels
import pytest
from ptxas_report import Usage

ROOT = Path(__file__).resolve().parents[2]


def rows(page, name):
    """{kernel: registers} of the rows that begin with a kernel's name."""
    text = (ROOT / "docs" / page).read_text()
    found = re.findall(r"^\| `(?:depthwise_conv::)?(\w+<[^`]*>)` \| ([\d /]+) \|", text, re.M)
    return {kernel: registers for kernel, registers in found if kernel.startswith(name)}


@pytest.mark.parametrize("name", ["walk_kernel", "walk_gradient_kernel"])
def test_registers_agree_with_the_other_page(name):
    here, there = rows("cuda-kernels.md", name), rows("cuda-registers.md", name)
    assert len(here) > 20
    assert here == {k: r for k, r in there.items() if not re.search(r"<(double|__half)\b", k)}


SASS = """
code for sm_90
\t\tFunction : kernel
        /*0000*/                   LDG.E.U16.CONSTANT R1, desc[UR4][R2.64] ;  /* 0x1 */
        /*0010*/                   FFMA R1, R2, R3, R1 ;
        /*0020*/              @!P0 BRA 0x60 ;
        /*0030*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0040*/                   FFMA R1, R4, R3, R1 ;
        /*0050*/                   FFMA R1, R5, R3, R1 ;
        /*0060*/               @P1 STG.E desc[UR4][R2.64], R1 ;
        /*0070*/               @P2 BRA 0x30 ;
        /*0080*/                   EXIT ;
        /*0090*/                   BRA 0x90 ;
"""


def test_reads_machine_code():
    (code,) = cuda_kernels.read_sass(SASS.splitlines()).values()
    assert code.accesses == {"LDG.16": 1, "LDG.128": 1, "STG.32": 1}
    assert code.multiply_adds == 2 and sum(code.loop.values()) == 5
    assert cuda_kernels.widths([code], "LDG") == "128 16"


@pytest.mark.parametrize(
    ("registers", "threads", "expected"),
    [(32, 128, 64), (33, 128, 48), (128, 128, 16), (129, 128, 12), (255, 128, 8), (40, 512, 48)],
)
def test_occupancy(registers, threads, expected):
    """Against CUDA's occupancy calculator."""
    assert cuda_kernels.warps(Usage("k", "80", registers), threads) == expected


def test_prediction():
    """A loop of multiply-adds alone is bound by memory at 3x3, and by itself at 7x7 and 16 bits."""
    code = cuda_kernels.Code()
    small = cuda_kernels.walk_of("walk_kernel<__nv_bfloat16, 4, 3, 1, 1, 4, false>")
    code.loop.update({"FFMA": 9 * small.outputs})
    assert small.outputs == 16 and small.bytes_per_output == 4 and small.adds_per_output == 9
    assert small.predict(code) == pytest.approx(cuda_kernels.COPY_SHARE)
    large = cuda_kernels.walk_of("walk_kernel<__nv_bfloat16, 2, 7, 1, 1, 4, false>")
    code.loop = cuda_kernels.Counter({"FFMA": 49 * large.outputs, "MOV": 1000})
    assert large.predict(code) == pytest.approx(cuda_kernels.ISSUE_SHARE)
    code.loop["LDG"] = 49 * large.outputs
    assert large.predict(code) == pytest.approx(cuda_kernels.ISSUE_SHARE / 2)
    up = cuda_kernels.walk_of("walk_kernel<float, 4, 3, 1, 2, 2, false>")
    assert up.outputs == 32 and up.bytes_per_output == 5 and up.adds_per_output == 2.25


def test_page_without_its_marks_is_refused():
    with pytest.raises(SystemExit):
        cuda_kernels.replace("no table", "table")
    page = f"a\n{cuda_kernels.BEGIN}\nold\n{cuda_kernels.END}\nb\n"
    assert cuda_kernels.replace(page, "new") == "a\nnew\nb\n"
