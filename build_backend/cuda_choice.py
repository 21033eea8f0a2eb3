# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Decides whether the CUDA kernels are built, with which toolkit and for which architectures.

Nothing here imports torch: the caller passes in what torch says, so the tests can say anything.

`FASTCONV_CUDA=0` never builds them and `FASTCONV_CUDA=1` builds them or fails. Without either they
are built when someone could use them (a GPU is visible, or TORCH_CUDA_ARCH_LIST is set) and when
they can be built; otherwise the reason is kept and shown at the first CUDA tensor.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from stop import BuildStop

# With no GPU to look at. 8.0 code runs on 8.6 and 8.9 too, and the 9.0 PTX on all that came after;
# more entries would only add build time.
DEFAULT_ARCHS = "8.0;9.0+PTX"


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit that was found to run."""

    nvcc: str
    version: str
    home: str


@dataclass(frozen=True)
class Choice:
    """What to build; `why` is one line for the build log and for the user."""

    why: str
    toolkit: Toolkit | None = None
    archs: tuple[str, ...] = ()

    @property
    def cuda(self) -> bool:
        """Whether the CUDA kernels are built."""
        return self.toolkit is not None


class NoToolkitError(Exception):
    """No nvcc that runs; the message says what was tried."""


def find_toolkit(env: Mapping[str, str]) -> Toolkit:
    """Finds nvcc where torch would look for it: CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda."""
    named = env.get("CUDA_HOME") or env.get("CUDA_PATH")
    if named:
        nvcc = os.path.join(named, "bin", "nvcc")
    else:
        nvcc = shutil.which("nvcc", path=env.get("PATH")) or "/usr/local/cuda/bin/nvcc"
    try:
        said = subprocess.run([nvcc, "--version"], text=True, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise NoToolkitError(f"nvcc was not found or does not run ({nvcc})") from None
    release = re.search(r"release (\d+\.\d+)", said.stdout)
    if release is None:
        raise NoToolkitError(f"{nvcc} --version names no release")
    return Toolkit(nvcc, release[1], named or _toolkit_root(nvcc))


def _toolkit_root(nvcc: str) -> str:
    """The folder that nvcc itself takes as its toolkit.

    An nvcc on PATH may be a wrapper script or a ccache link far from the toolkit; the folder above
    it then has no headers and no libcudart, so nvcc is asked instead.
    """
    dry = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", "-c", os.devnull], text=True, capture_output=True
    )
    here = re.search(r"^#\$ _HERE_=(.+)$", dry.stderr + dry.stdout, re.MULTILINE)
    bin_folder = here[1].strip() if here else os.path.dirname(os.path.realpath(nvcc))
    return os.path.dirname(bin_folder)


def parse_archs(text: str) -> tuple[str, ...]:
    """Splits TORCH_CUDA_ARCH_LIST ("8.0;9.0+PTX", spaces allowed), keeping the order."""
    archs = tuple(dict.fromkeys(re.split(r"[;,\s]+", text.strip(" ;,"))))
    for arch in archs:
        if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", arch):
            raise BuildStop(
                f"TORCH_CUDA_ARCH_LIST={text!r}: {arch!r} is not an architecture. "
                f'Write numbers, for example TORCH_CUDA_ARCH_LIST="{DEFAULT_ARCHS}".'
            )
    return archs


def gencode_flags(archs: Sequence[str]) -> list[str]:
    """The nvcc options for the architectures, as torch writes them."""
    flags = []
    for arch in archs:
        number = arch.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def choose(
    env: Mapping[str, str],
    torch_version: str,
    torch_cuda: str | None,
    capabilities: Sequence[tuple[int, int]],
    find: Callable[[Mapping[str, str]], Toolkit] = find_toolkit,
) -> Choice:
    """Makes the choice.

    Args:
        env: The environment variables.
        torch_version: `torch.__version__`.
        torch_cuda: `torch.version.cuda`.
        capabilities: Compute capability of each visible GPU.
        find: Finds the toolkit, or raises NoToolkitError.

    Raises:
        BuildStop: FASTCONV_CUDA=1 and it cannot be done, or a variable has no meaning.
    """
    wish = env.get("FASTCONV_CUDA", "").strip()
    if wish not in ("", "0", "1"):
        raise BuildStop(f"FASTCONV_CUDA={wish!r}: use 1 (build or fail), 0 (never), or unset it.")
    must = wish == "1"
    if torch_cuda is None:
        return _cannot(must, f"torch {torch_version} is built without CUDA", _NEEDS_CUDA_TORCH)
    if wish == "0":
        return Choice("FASTCONV_CUDA=0 was set")
    wanted = env.get("TORCH_CUDA_ARCH_LIST", "").strip(" ;,")
    if not (must or wanted or capabilities):
        return Choice(
            "no GPU was visible at build time, and neither FASTCONV_CUDA=1 nor "
            "TORCH_CUDA_ARCH_LIST was set"
        )
    try:
        toolkit = find(env)
    except NoToolkitError as problem:
        major = torch_cuda.split(".")[0]
        return _cannot(must, str(problem), f"Install a CUDA {major}.x toolkit and set CUDA_HOME.")
    if toolkit.version.split(".")[0] != torch_cuda.split(".")[0]:
        return _mismatch(must, toolkit, torch_version, torch_cuda)
    if wanted and wanted != "native":
        archs, source = parse_archs(wanted), "TORCH_CUDA_ARCH_LIST"
    elif capabilities:
        archs = tuple(f"{major}.{minor}" for major, minor in sorted(set(capabilities)))
        source = "the visible GPUs"
    else:
        archs, source = parse_archs(DEFAULT_ARCHS), "the default"
    return Choice(f"nvcc {toolkit.version}, {';'.join(archs)} ({source})", toolkit, archs)


_NEEDS_CUDA_TORCH = "Install a torch with CUDA, or build for the CPU with FASTCONV_CUDA=0."


def _cannot(must: bool, why: str, remedy: str) -> Choice:
    if must:
        raise BuildStop(f"FASTCONV_CUDA=1 is set, but {why}.\n{remedy}")
    return Choice(why)


def _mismatch(must: bool, toolkit: Toolkit, torch_version: str, torch_cuda: str) -> Choice:
    need = torch_cuda.split(".")[0]
    return _cannot(
        must,
        f"nvcc is CUDA {toolkit.version} and torch {torch_version} is CUDA {torch_cuda}; "
        "the major versions must be equal",
        f"nvcc used: {toolkit.nvcc}\n"
        f"Set CUDA_HOME to a CUDA {need}.x toolkit, install a torch built for CUDA "
        f"{toolkit.version.split('.')[0]}.x, or build for the CPU with FASTCONV_CUDA=0.",
    )
