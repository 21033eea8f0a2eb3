# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""The build_ext command: compiles fastconv._C with the torch that is importable here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from types import ModuleType
from typing import Any

import build_plan
from cuda_choice import Choice, choose
from setuptools.command.build_ext import build_ext as _build_ext
from setuptools.command.build_py import build_py as _build_py
from stop import BuildStop

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class build_py(_build_py):
    """Copies the Python files to a clean folder.

    pip builds in the checkout, so modules that have since been renamed or removed would still be
    in the build folder and end up in the wheel.
    """

    def run(self) -> None:
        """Empties the folder first, then copies."""
        if not self.editable_mode:
            shutil.rmtree(os.path.join(self.build_lib, "fastconv"), ignore_errors=True)
        super().run()


class build_ext(_build_ext):
    """Runs torch's BuildExtension in place of the stub extension that setup.py declares.

    torch is imported by run() alone, so metadata and source distributions never need it.
    """

    def run(self) -> None:
        """Compiles and links fastconv._C, then writes fastconv/_build_info.py beside it."""
        torch = _import_torch()
        where = os.path.dirname(torch.__file__)
        build_plan.require_torch(torch.__version__, where)
        _say(f"building for torch {torch.__version__} at {where}")
        choice = choose(os.environ, torch.__version__, torch.version.cuda, _capabilities(torch))
        _say(f"{'with' if choice.cuda else 'WITHOUT'} CUDA: {choice.why}")
        compiler = _compiler()
        count = build_plan.jobs(os.environ, _cores(), build_plan.available_memory())
        os.environ["MAX_JOBS"] = str(count)
        _say(f"{count} compiler(s) at once (MAX_JOBS), {compiler}")
        if choice.toolkit:  # before cpp_extension is imported: it looks once, and less well
            os.environ["CUDA_HOME"] = choice.toolkit.home
        self._torch_command(torch, choice, count).run()
        self._write_info(torch, choice, compiler)
        _say(f"built {'with' if choice.cuda else 'WITHOUT'} CUDA for torch {torch.__version__}")

    def _torch_command(self, torch: ModuleType, choice: Choice, count: int) -> Any:
        from torch.utils import cpp_extension

        # One folder per torch: objects are reused by the next build against the same torch, also
        # by editable installs (which get a temporary folder otherwise), and never by another.
        kind = "cuda" if choice.cuda else "cpu"
        tag = f"{sys.implementation.cache_tag}-torch{torch.__version__}-{kind}"
        temp = os.path.join("build", f"temp-{tag}")
        self.distribution.ext_modules = [_extension(cpp_extension, choice, count, temp)]
        command = cpp_extension.BuildExtension(self.distribution)
        for name in ("build_lib", "inplace", "editable_mode", "debug", "plat_name"):
            if hasattr(self, name):
                setattr(command, name, getattr(self, name))
        command.build_temp = os.path.join(ROOT, temp)
        command.ensure_finalized()
        return command

    def _write_info(self, torch: ModuleType, choice: Choice, compiler: str) -> None:
        folder = os.path.join(ROOT if self.inplace else self.build_lib, "fastconv")
        facts = {
            "version": self.distribution.get_version(),
            "torch": str(torch.__version__),
            "torch_cuda": torch.version.cuda,
            "cuda": choice.toolkit.version if choice.toolkit else None,
            "cuda_archs": choice.archs,
            "no_cuda_reason": None if choice.cuda else choice.why,
            "compiler": compiler,
        }
        lines = ['"""What this build was made for and with. Written by the build."""', ""]
        lines += [f"{name} = {value!r}" for name, value in facts.items()]
        with open(os.path.join(folder, "_build_info.py"), "w", encoding="utf-8") as out:
            out.write("\n".join(lines) + "\n")


def _extension(cpp_extension: ModuleType, choice: Choice, count: int, temp: str) -> Any:
    files = build_plan.sources(ROOT, choice.cuda)
    if not files:
        raise BuildStop(f"there are no sources under {os.path.join(ROOT, 'csrc')}.")
    files = build_plan.merge_torch_files(ROOT, files, temp)
    make = cpp_extension.CUDAExtension if choice.cuda else cpp_extension.CppExtension
    system_dirs = cpp_extension.include_paths("cuda" if choice.cuda else "cpu")
    werror = os.environ.get("FASTCONV_WERROR") == "1"
    flags = {"cxx": build_plan.cxx_flags(ROOT, choice, system_dirs, werror)}
    if choice.cuda:
        kernels = sum(path.endswith(".cu") for path in files)
        verbose = os.environ.get("FASTCONV_PTXAS_VERBOSE") == "1"
        # The reports of two architectures at once would mix line by line.
        threads = 1 if verbose else build_plan.nvcc_threads(count, kernels, len(choice.archs))
        flags["nvcc"] = build_plan.nvcc_flags(choice, threads, werror, verbose)
    # No -fopenmp for the linker: it would add the compiler's libgomp, a second thread pool where
    # torch carries another. The GOMP_* symbols come from the one that libtorch_cpu.so needs.
    return make(
        "fastconv._C",
        files,
        include_dirs=[os.path.join(ROOT, "csrc")],
        extra_compile_args=flags,
        language="c++",
    )


def _import_torch() -> ModuleType:
    try:
        import torch
    except ModuleNotFoundError as problem:
        if problem.name != "torch":
            raise BuildStop(f"torch cannot be imported here: {problem}") from problem
        raise BuildStop(build_plan.no_torch(sys.executable)) from None
    return torch


def _capabilities(torch: ModuleType) -> list[tuple[int, int]]:
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]


def _compiler() -> str:
    name = os.environ.get("CXX") or "c++"
    if shutil.which(name.split()[0]) is None:
        raise BuildStop(
            f"the C++ compiler {name!r} was not found. Install one that knows C++20 "
            "(for example g++ 11 or newer), or set CXX."
        )
    said = subprocess.run([*name.split(), "--version"], text=True, capture_output=True)
    return (said.stdout.splitlines() or [name])[0].strip()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _say(line: str) -> None:
    print(f"fastconv: {line}", file=sys.stderr, flush=True)
