# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""docs/cuda-kernels.md and its script: against the sources, cuda-registers.md, made-up code."""

import re
from pathlib import Path

import cuda_kernels
import machine_code
import pytest
from ptxas_report import Usage

ROOT = Path(__file__).resolve().parents[2]


def registers():
    """{`room::kernel<arguments>`: registers} of cuda-registers.md."""
    text = (ROOT / "docs" / "cuda-registers.md").read_text()
    return dict(re.findall(r"^\| `(\w+::\w+<[^`]*>)` \| ([\d /]+) \|", text, re.M))


def rows():
    """The same of the generated part of cuda-kernels.md, which has a section for each room."""
    text = (ROOT / "docs" / "cuda-kernels.md").read_text()
    generated = text[text.index(cuda_kernels.BEGIN) : text.index(cuda_kernels.END)]
    found = {}
    for section in generated.split("### ")[1:]:
        room = section.partition("\n")[0].strip()
        listed = re.findall(r"^\| `(\w+<[^`]*>)` \| ([\d /]+) \|", section, re.M)
        found |= {f"{room}::{kernel}": count for kernel, count in listed}
    return found


def kernels_of_sources():
    """`room::kernel` of every __global__ function: the name before a parameter list."""
    found = set()
    for path in sorted((ROOT / "csrc" / "ops").glob("*/*.cu*")):
        text = re.sub(r"//[^\n]*", "", path.read_text())
        for match in re.finditer(r"\b__global__\s+void\b", text):
            head = text[match.end() : text.index("{", match.end())]
            nested = r"\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"
            head = re.sub(rf"__launch_bounds__\s*{nested}", "", head)
            name = re.match(r"[^(]*?(\w+)\s*[(]", head)[1]
            found.add(f"{path.parent.name}::{name}")
    return found


def test_the_page_names_every_kernel():
    """In the table that the script writes, and in what was written about it by hand."""
    sources = kernels_of_sources()
    assert {"rearrange::copy_runs", "depthwise_conv::walk_kernel"} <= sources
    known = {
        f"{room}::{name}" for room, kernels in cuda_kernels.KERNELS.items() for name in kernels
    }
    assert known == sources
    assert {name.partition("<")[0] for name in rows()} == sources
    text = (ROOT / "docs" / "cuda-kernels.md").read_text().partition(cuda_kernels.BEGIN)[0]
    missing = [n for n in sorted(sources) if f"`{n.partition('::')[2]}`" not in text]
    assert not missing, f"docs/cuda-kernels.md says nothing about {missing}"


def test_registers_agree_with_the_other_page():
    here, there = rows(), registers()
    assert len(there) > 400
    assert here == {k: r for k, r in there.items() if not cuda_kernels.left_out(k)}


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
    (code,) = machine_code.read_sass(SASS.splitlines()).values()
    assert code.accesses == {"LDG.16": 1, "LDG.128": 1, "STG.32": 1}
    assert (
        machine_code.opcode("@P0 LDGSTS.E.BYPASS.LTC128B.128 [R1], desc[UR4][R2.64]") == "LDG.128"
    )
    assert code.multiply_adds == 2 and sum(code.loop.values()) == 5
    assert cuda_kernels.widths([code], "LDG") == "128 16"


@pytest.mark.parametrize(
    ("registers", "threads", "expected"),
    [(32, 128, 64), (33, 128, 48), (128, 128, 16), (129, 128, 12), (255, 128, 8), (40, 512, 48)],
)
def test_occupancy(registers, threads, expected):
    """Against CUDA's occupancy calculator."""
    assert cuda_kernels.warps(Usage("k", "80", registers), threads) == expected


def work_of(name):
    kernel, arguments = cuda_kernels.kernel_of(f"depthwise_conv::{name}")
    return kernel.work(arguments)


def test_prediction():
    """A loop of multiply-adds alone is bound by memory at 3x3, and by itself at 7x7 and 16 bits."""
    code = machine_code.Code()
    small = work_of("walk_kernel<__nv_bfloat16, 4, 3, 1, 1, 4, false>")
    code.loop.update({"FFMA": 9 * small.outputs})
    assert small.outputs == 16 and small.bytes_per_output == 4 and small.adds_per_output == 9
    assert small.predict(code) == pytest.approx(cuda_kernels.COPY_SHARE)
    large = work_of("walk_kernel<__nv_bfloat16, 2, 7, 1, 1, 4, false>")
    code = machine_code.Code()
    code.loop.update({"FFMA": 49 * large.outputs, "MOV": 1000})
    assert large.predict(code) == pytest.approx(cuda_kernels.ISSUE_SHARE)
    code.loop["LDG"] = 49 * large.outputs
    assert large.predict(code) == pytest.approx(cuda_kernels.ISSUE_SHARE / 2)
    up = work_of("walk_kernel<float, 4, 3, 1, 2, 2, false>")
    assert up.outputs == 32 and up.bytes_per_output == 5 and up.adds_per_output == 2.25


def test_prediction_from_the_share_of_multiply_adds():
    """Without a count of outputs: half of the instructions at 7x7 and 16 bits, half of the rate."""
    gather = work_of("gather_kernel<__nv_bfloat16, 8, 7, 1, false>")
    assert gather.bytes_per_output == 4 and gather.adds_per_output == 49
    code = machine_code.Code()
    code.loop.update({"FFMA": 56, "LDG.128": 28, "IMAD": 28})
    assert gather.predict(code) == pytest.approx(cuda_kernels.ISSUE_SHARE / 2)
    assert work_of("gather_kernel<float, 4, 1, 1, false>") is None


def test_prediction_of_copies():
    """Bound by a copy's speed, by instructions, or by too few bytes under way."""
    code = machine_code.Code()
    code.loop.update({"LDG.128": 4, "STG.128": 4, "IADD3": 24})
    assert code.moved == 128
    assert cuda_kernels.copy_share(code, 64) == pytest.approx(cuda_kernels.COPY_SHARE)
    code = machine_code.Code()
    code.loop.update({"LDG.16": 1, "STG.16": 1, "IADD3": 78})
    # 4 bytes in 80 instructions of 29.65 T per second: 1.48 TB/s of 3.
    assert cuda_kernels.copy_share(code, 64) == pytest.approx(0.494 * 0.9, rel=1e-3)
    # 16 warps of 32 lanes move 2 KiB in 700 ns, on 132 multiprocessors: 0.386 TB/s.
    assert cuda_kernels.copy_share(code, 16) == pytest.approx(0.1287, rel=1e-3)
    del code.loop["LDG.16"]
    assert cuda_kernels.copy_share(code, 16) == pytest.approx(0.25 * 0.9 * 80 / 79, rel=2e-2)


def test_the_innermost_loop_counts():
    """Of two loops around the same multiply-adds; a loop beside them with fewer does not."""
    loop = [
        (0x00, "IADD3 R0, R0, R1, R2"),
        (0x10, "FFMA R1, R2, R3, R1"),
        (0x20, "FFMA R1, R2, R3, R1"),
        (0x30, "@P0 BRA 0x10"),
        (0x40, "IADD3 R0, R0, R1, R2"),
        (0x50, "@P1 BRA 0x0"),
        (0x60, "FFMA R1, R2, R3, R1"),
        (0x70, "@P1 BRA 0x60"),
    ]
    code = machine_code.read_function(loop)
    assert dict(code.loop) == {"FFMA": 2, "BRA": 1}


def test_activations_do_not_count():
    """Powers of e behind a branch; the branch around them that skips a store as well is not it."""
    loop = [
        (0x00, "FFMA R1, R2, R3, R1"),
        (0x10, "@P0 BRA 0x70"),
        (0x20, "@!P1 BRA 0x60"),
        (0x30, "MUFU.EX2 R1, R1"),
        (0x40, "FFMA R1, R2, R3, R1"),
        (0x50, "@P2 BRA 0x30"),
        (0x60, "STG.E desc[UR4][R2.64], R1"),
        (0x70, "@P3 BRA 0x0"),
    ]
    assert dict(machine_code.read_function(loop).loop) == {"FFMA": 1, "BRA": 3, "STG.32": 1}


def test_an_unknown_kernel_is_an_error():
    with pytest.raises(SystemExit, match="does not know rearrange::copy_new"):
        cuda_kernels.left_out("rearrange::copy_new<1, unsigned int>")
    assert cuda_kernels.left_out("rearrange::copy_runs<1, 4, unsigned long>")
    assert not cuda_kernels.left_out("rearrange::copy_runs<1, 4, unsigned int>")


def test_page_without_its_marks_is_refused():
    with pytest.raises(SystemExit):
        cuda_kernels.exchange("no table", "table")
    page = f"a\n{cuda_kernels.BEGIN}\nold\n{cuda_kernels.END}\nb\n"
    assert cuda_kernels.exchange(page, "new") == "a\nnew\nb\n"
