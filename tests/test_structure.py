# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Rules of CONTRIBUTING.md that a machine can check: includes, lengths, names, registrations."""

import fnmatch
import importlib
import inspect
import re
import subprocess
from pathlib import Path

import pytest
import torch

import fastconv
import fastconv.functional
from fastconv import reference
from fastconv.testing import OP_SPECS

ROOT = Path(__file__).resolve().parents[1]
SKIPPED = {".git", "build", "dist", ".venv", "__pycache__", ".pytest_cache", "fastconv.egg-info"}


def checkout_files():
    """Files of the checkout, without what building and running leaves there."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode == 0:
        names = [Path(name) for name in listed.stdout.splitlines()]
    else:  # an unpacked source distribution
        names = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
    return sorted(n for n in names if not SKIPPED & set(n.parts) and (ROOT / n).is_file())


FILES = checkout_files()
SOURCES = [f for f in FILES if f.suffix in {".py", ".h", ".cpp", ".cuh", ".cu", ".pyi"}]
DOCS = [f for f in FILES if f.suffix == ".md"]
KERNELS = [f for f in SOURCES if f.parts[0] == "csrc"]
by_name = {"ids": str}

# --- who may include what: the table of CONTRIBUTING.md ---

INTRINSICS = ["<immintrin.h>", "<arm_neon.h>"]
CUDA = ["<cuda_runtime*.h>", "<cuda_fp16.h>", "<cuda_bf16.h>"]
PLAIN = [
    "<cstdint>",
    "<cstring>",
    *(f'"common/{name}.h"' for name in ("types", "isa", "activation")),
]
ANYTHING = ["*"]
LEVEL_SWITCH = ['"common/isa_compile.h"', '"common/isa_region*.h"', "FASTCONV_ISA_BODY"]


def room_of(path):
    return "/".join(path.parts[1:3]) if path.parts[1] == "ops" else None


def allowed_includes(path):
    """Patterns of what a file may include; the first row that fits counts."""
    name, room = path.name, room_of(path)
    own = f'"{room}/*'
    if path.as_posix() in {"csrc/torch_utils.h", "csrc/module.cpp"} or "torch" in name:
        return ANYTHING
    if name == "gpu.h":
        return [*CUDA, *PLAIN, '"host_cuda.h"']
    cuda = [*PLAIN, *CUDA, "<type_traits>", '"common/gpu.h"', '"common/activation.cuh"']
    if path.parts[1] == "common" and path.suffix == ".cuh":
        return cuda
    if path.parts[1] == "common":
        local = [*PLAIN, *INTRINSICS, *LEVEL_SWITCH, '"common/*-inl.h"']
        return [*local, "<cstdlib>"] if path.suffix == ".cpp" else local
    if path.suffix in {".cuh", ".cu"} or name.endswith("_cuda.h") or name.startswith("cuda_"):
        return [*cuda, own + '.h"', own + '.cuh"']
    if name.endswith("-inl.h") or re.fullmatch(r"cpu_(baseline|avx2|avx512\w*)\.cpp", name):
        common = [*PLAIN, *INTRINSICS, *LEVEL_SWITCH, '"common/*-inl.h"']
        return [*common, own + '.h"']
    return [*PLAIN, own + '.h"']


def includes(path):
    text = (ROOT / path).read_text()
    return re.findall(r"^\s*#\s*include\s+(\S+)", text, re.MULTILINE)


@pytest.mark.parametrize("path", KERNELS, **by_name)
def test_includes(path):
    allowed = allowed_includes(path)
    for include in includes(path):
        assert any(fnmatch.fnmatchcase(include, pattern) for pattern in allowed), include
        if allowed is not ANYTHING:
            assert "torch" not in include, "a kernel may not see torch"
            plain_row = [*PLAIN, f'"{room_of(path)}/*.h"']
            if allowed == plain_row:
                assert not include.endswith(('-inl.h"', '_cuda.h"')), include


def test_the_rule_would_catch_an_include():
    """The table is not a tautology."""
    room = Path("csrc/ops/depthwise_conv")
    for name, include in (
        ("depthwise_conv.h", "<vector>"),
        ("tiles.h", "<cuda_runtime.h>"),
        ("cpu-inl.h", "<algorithm>"),
        ("gather.cuh", "<ATen/ATen.h>"),
        ("cpu.h", '"ops/rearrange/rearrange.h"'),
    ):
        allowed = allowed_includes(room / name)
        assert not any(fnmatch.fnmatchcase(include, pattern) for pattern in allowed)


def code_of(path):
    """The text without comments and strings."""
    text = (ROOT / path).read_text()
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:[^"\\\n]|\\.)*"', "", text, flags=re.DOTALL)


@pytest.mark.parametrize("path", [f for f in KERNELS if f.name.endswith("-inl.h")], **by_name)
def test_code_of_a_level_uses_no_std_templates(path):
    used = set(re.findall(r"std::(\w+)", code_of(path)))
    assert used <= {"memcpy", "memset"}


@pytest.mark.parametrize("path", [f for f in KERNELS if f.suffix in {".cu", ".cuh"}], **by_name)
def test_cuda_particulars_live_in_one_header(path):
    code = code_of(path)
    for word in (r"\basm\b", "__CUDACC__", "__CUDA_ARCH__", "<<<", "extern __shared__", "atomic"):
        assert not re.search(word, code), word


@pytest.mark.parametrize("path", [f for f in KERNELS if f.parts[1] == "ops"], **by_name)
def test_kernels_start_no_threads(path):
    assert not re.search(r"std::thread|omp\s+parallel|pthread|std::async", code_of(path))


# --- files ---

# Longer than 300 lines, and why: one table, one executor, or mostly documentation.  500 for all.
LONG = {
    "csrc/ops/depth_max_pool/autograd_torch.cpp",
    "csrc/ops/depthwise_conv/cpu_channels_weight-inl.h",
    "csrc/ops/depthwise_conv/depthwise_conv.cu",
    "fastconv/convert.py",
    "fastconv/functional.py",
    "fastconv/nn.py",
    "fastconv/reference.py",
    "fastconv/testing.py",
    "tests/fuzz/oracle.py",
    "tests/host_cuda/depthwise_conv_cases.py",
    "tests/host_cuda/host_cuda.cpp",
    "tests/host_cuda/test_depthwise_conv_walk.py",
    "tests/test_depth_max_pool.py",
    "tests/test_layers.py",
    "tests/test_rearrange.py",
}


@pytest.mark.parametrize("path", SOURCES, **by_name)
def test_length(path):
    lines = len((ROOT / path).read_text().splitlines())
    assert lines <= (500 if path.as_posix() in LONG else 300), f"{lines} lines"


def test_long_files_are_still_long():
    for name in LONG:
        path = ROOT / name
        assert path.is_file(), f"{name} is gone"
        assert len(path.read_text().splitlines()) > 300, f"{name} need not be listed"


@pytest.mark.parametrize("path", SOURCES, **by_name)
def test_license_header(path):
    lines = [line for line in (ROOT / path).read_text().splitlines() if not line.startswith("#!")]
    mark = "#" if path.suffix in {".py", ".pyi"} else "//"
    assert lines[0] == f"{mark} SPDX-FileCopyrightText: fastconv contributors"
    assert lines[1] == f"{mark} SPDX-License-Identifier: BSD-3-Clause"


# --- documents ---

# Names in documents that stand for something the reader has or makes, or that a build makes.
EXAMPLES = {"new.json", "old.json", "build.log", "NAME.json", "bench/results/NAME.json"}
EXAMPLES |= {"fastconv/_C", "fastconv/_build_info.py"}
KNOWN_FOLDERS = {f.parts[0] for f in FILES if len(f.parts) > 1}
A_FILE = re.compile(r"[\w.{},*<>/-]+\.(py|h|cuh|cu|cpp|md|toml|json|txt|sh|yaml|pyi)")


def mentions(text):
    """Inline code that reads like a file of this repository."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for code in re.findall(r"`([^`\n]+)`", prose):
        for word in code.split():
            word = word.rstrip(":,;.")
            rooted = "/" in word and word.split("/")[0] in KNOWN_FOLDERS
            if (rooted or A_FILE.fullmatch(word)) and "://" not in word:
                yield word


def exists(word):
    pattern = re.sub(r"<[^>]*>", "*", word).removesuffix("/")
    everything = {p.as_posix() for f in FILES for p in (f, *f.parents)}
    return any(fnmatch.fnmatchcase(f, p) for f in everything for p in (pattern, "*/" + pattern))


@pytest.mark.parametrize("path", DOCS, **by_name)
def test_documents_name_files_that_exist(path):
    text = (ROOT / path).read_text()
    missing = [w for w in mentions(text) if w not in EXAMPLES and not exists(w)]
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]*)?\)", text):
        if "://" not in target and not (ROOT / path.parent / target).exists():
            missing.append(target)
    assert not missing


@pytest.mark.parametrize("path", DOCS, **by_name)
def test_documents_name_functions_that_exist(path):
    text = (ROOT / path).read_text()
    for name in set(re.findall(r"`fastconv((?:\.\w+)+)", text)):
        *modules, last = name[1:].split(".")
        if last in {"py", "egg", "json"}:
            continue
        owner = fastconv
        for module in modules:
            owner = getattr(owner, module, None) or importlib.import_module(f"fastconv.{module}")
        found = hasattr(owner, last) or (ROOT / "fastconv" / f"{last}.py").is_file()
        assert found or last in fastconv._C.isa_levels(), f"fastconv{name}"


# --- registrations ---


def operators():
    return [s for s in torch._C._dispatch_get_all_op_names() if s.startswith("fastconv::")]


@pytest.mark.parametrize("name", operators())
def test_every_operator_has_every_kernel(name):
    for key in ("CPU", "CUDA", "Meta", "AutogradCPU", "AutogradCUDA", "FuncTorchBatched"):
        has = torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, key)
        assert has, key
    packet, _, overload = name.removeprefix("fastconv::").partition(".")
    op = getattr(getattr(torch.ops.fastconv, packet), overload or "default")
    assert torch.Tag.pt2_compliant_tag in op.tags


NO_OPERATORS = {"config", "convert_", "onnx_translation_table", "revert_"}
# Changes an argument: what a table drives may be called twice.  tests/test_causal_update.py.
STATEFUL = {"causal_conv1d_update"}


def test_every_function_has_a_reference_and_a_table():
    public = {n for n in fastconv.__all__ if callable(getattr(fastconv, n))} - NO_OPERATORS
    assert public - STATEFUL == {spec.name for spec in OP_SPECS}
    for name in public:
        signatures = [inspect.signature(getattr(m, name)) for m in (fastconv, reference)]
        shown = [[(p.name, p.default, p.kind) for p in s.parameters.values()] for s in signatures]
        assert shown[0] == shown[1], name
    for spec in OP_SPECS:
        assert spec.op is getattr(fastconv, spec.name)
        assert spec.reference is getattr(reference, spec.name)
        assert len({problem.name for problem in spec.samples}) == len(spec.samples)


@pytest.mark.parametrize("spec", OP_SPECS, ids=lambda spec: spec.name)
def test_counts_of_bytes_and_operations(spec):
    problem = spec.samples[0]
    results = spec.op(*problem.tensors(), **problem.kwargs)
    y = results[0] if isinstance(results, tuple) else results
    if spec.name.startswith("depthwise_conv"):
        kernel = problem.shapes[1][2:]
        if "transpose" in spec.name:  # an output meets every stride-th tap
            stride = reference.per_dim(problem.kwargs["stride"], len(kernel))
            kernel = [-(-k // s) for k, s in zip(kernel, stride, strict=True)]
        taps = torch.Size(kernel).numel()
        assert spec.flops(problem) == 2 * taps * y.numel()
    else:
        assert spec.flops(problem) == 0
    tensors = [t for t in problem.tensors(torch.float16) if t is not None]
    assert spec.bytes(problem, torch.float16) == sum(t.nbytes for t in tensors) + 2 * y.numel()
