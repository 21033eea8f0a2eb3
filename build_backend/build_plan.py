# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""What is compiled and with which flags: pure functions of the tree, the choice and the env."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence

from cuda_choice import Choice, gencode_flags
from stop import BuildStop

MIN_TORCH = (2, 11)
GIB = 1024**3
# A host file that includes torch's headers takes 1 to 1.5 GB, nvcc up to 3.
BYTES_PER_JOB = 3 * GIB


def version_tuple(version: str) -> tuple[int, int]:
    """(major, minor) of a version such as 2.13.0+cpu or 2.14.0a0+git12ab."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        raise BuildStop(f"torch reports a version that is not one: {version!r}")
    return int(found[1]), int(found[2])


def require_torch(version: str, where: str) -> None:
    """Stops when torch is older than the oldest that is supported."""
    if version_tuple(version) < MIN_TORCH:
        need = ".".join(map(str, MIN_TORCH))
        raise BuildStop(
            f"torch {version} ({where}) is too old: fastconv needs torch >= {need}.\n"
            f"Run: pip install 'torch>={need}'"
        )


def no_torch(python: str) -> str:
    """The message for a build that has no torch and may not fetch one."""
    return (
        f"torch is needed to build, and {python} has none.\n"
        f"Run: {python} -m pip install torch\n"
        "and then the same command again, or use pip with build isolation, which fetches torch."
    )


def sources(root: str, cuda: bool) -> list[str]:
    """Every C++ file under csrc, and with `cuda` every .cu file, relative to `root`, sorted."""
    found = []
    for suffix in ("cpp", "cu") if cuda else ("cpp",):
        pattern = os.path.join("csrc", "**", f"*.{suffix}")
        found += glob.glob(pattern, root_dir=root, recursive=True)
    stems: dict[str, str] = {}
    for path in sorted(found):
        # Both would be compiled to the same object file.
        twin = stems.setdefault(os.path.splitext(path)[0], path)
        if twin != path:
            raise BuildStop(f"{twin} and {path} need different stems.")
    return sorted(found)


def merge_torch_files(root: str, files: Sequence[str], folder: str) -> list[str]:
    """Replaces the files that include torch's or pybind11's headers by one in `folder` with all.

    Those headers take 7 seconds a file, more than what is ours in it. Files of one folder that use
    the same names need namespaces of their own.
    """
    inside = [path for path in files if path.endswith(("torch.cpp", "module.cpp"))]
    if not inside:
        return list(files)
    text = "".join(f'#include "{os.path.relpath(path, "csrc")}"\n' for path in inside)
    name = os.path.join(folder, "torch_files.cpp")
    _write_if_changed(os.path.join(root, name), text)
    return [name, *(path for path in files if path not in inside)]


def _write_if_changed(path: str, text: str) -> None:
    if os.path.exists(path):
        with open(path, encoding="utf-8") as old:
            if old.read() == text:
                return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as new:
        new.write(text)


def jobs(env: Mapping[str, str], cores: int, memory: int | None) -> int:
    """How many compilers run at once: MAX_JOBS, or as many as cores and memory allow."""
    asked = env.get("MAX_JOBS", "").strip()
    if asked:
        if not asked.isdigit() or int(asked) < 1:
            raise BuildStop(f"MAX_JOBS={asked!r} is not a positive number.")
        return int(asked)
    return max(1, cores if memory is None else min(cores, memory // BYTES_PER_JOB))


def available_memory() -> int | None:
    """Bytes that the build may use, or None where the system does not say."""
    limits = []
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            limits += [
                int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")
            ]
    except OSError:
        pass
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path, encoding="ascii") as text:
                limits.append(int(text.read()))
        except (OSError, ValueError):  # absent, or "max"
            pass
    return min(limits, default=None)


def nvcc_threads(job_count: int, files: int, archs: int) -> int:
    """Architectures that one nvcc compiles at once: more than one only where jobs would idle."""
    return max(1, min(archs, job_count // max(1, files)))


def cxx_flags(root: str, choice: Choice, system_dirs: Sequence[str], werror: bool) -> list[str]:
    """Options for the host compiler.

    Instruction sets above the baseline are chosen in the sources, by target pragmas.
    """
    flags = [
        # The rest of -O3 makes the rearrangements up to 1.4 times faster, which ask for it in their
        # sources, nothing else, and takes a fifth longer to compile.
        "-O2",
        "-fpeel-loops",
        "-funswitch-loops",
        "-g0",  # Python's own flags often hold -g, which doubles time and size
        "-std=c++20",
        "-fopenmp",  # without it at::parallel_for is a plain loop
        "-fvisibility=hidden",
        "-fno-math-errno",
        "-Wall",
        "-Wextra",
        # Messages and __FILE__ name csrc/..., and the binary does not depend on where it was built.
        f"-ffile-prefix-map={root}{os.sep}=",
    ]
    for folder in system_dirs:  # GCC then ignores the -I for it, and its warnings are not ours
        flags += ["-isystem", folder]
    if werror:
        flags.append("-Werror")
    if choice.cuda:
        flags.append("-DFASTCONV_WITH_CUDA=1")
    else:
        flags.append(f'-DFASTCONV_NO_CUDA_REASON="{plain(choice.why)}"')
    return flags


def nvcc_flags(choice: Choice, threads: int, werror: bool, verbose: bool) -> list[str]:
    """Options for nvcc. The -gencode options are ours, so torch adds none of its own."""
    host = ["-fvisibility=hidden", "-Wall", "-Wextra"] + (["-Werror"] if werror else [])
    flags = [
        "-O3",
        "-std=c++20",
        "-lineinfo",
        "--expt-relaxed-constexpr",
        f"--threads={threads}",
        f"-Xcompiler={','.join(host)}",
        "-DFASTCONV_WITH_CUDA=1",
        # torch hides the half and bfloat16 operators from extensions; our kernels are the same
        # under the host compiler, where they are visible.
        "-U__CUDA_NO_HALF_OPERATORS__",
        "-U__CUDA_NO_HALF_CONVERSIONS__",
        "-U__CUDA_NO_HALF2_OPERATORS__",
        "-U__CUDA_NO_BFLOAT16_CONVERSIONS__",
        *gencode_flags(choice.archs),
    ]
    if werror:
        flags.append("-Werror=all-warnings")
    if verbose:
        flags.append("-Xptxas=-v")
    return flags


def plain(text: str) -> str:
    """`text` with nothing that a shell, ninja or a C string would read in a special way."""
    return re.sub(r"[^A-Za-z0-9 .,;:_+=/()-]", "", text).replace(":", "").replace(";", ",")
