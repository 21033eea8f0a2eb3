# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""What this build was made for, what runs it, and whether the two fit."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import sys
import warnings
from dataclasses import dataclass
from importlib import import_module, metadata, util
from importlib.machinery import PathFinder
from urllib.parse import unquote

try:
    from fastconv import _build_info
except ImportError:  # not compiled: check_import() says what to do
    __version__ = "unknown"
else:
    __version__ = _build_info.version


@dataclass(frozen=True)
class Config:
    """The facts that :func:`fastconv.config` reports.

    Attributes:
        version: Version of fastconv.
        python: Version of the running Python.
        torch: Version of the running torch.
        built_for_torch: Version of the torch that fastconv was compiled against.
        compiler: The C++ compiler, as it names itself.
        isa: The CPU level in use; ``FASTCONV_ISA`` chooses another.
        isa_levels: The CPU levels that are compiled in and that this processor has.
        cuda: Version of the CUDA toolkit that compiled the kernels, or None without kernels.
        cuda_archs: The architectures the kernels were compiled for, such as ``8.0`` or ``9.0+PTX``.
        no_cuda_reason: Why there are no CUDA kernels, or None if there are.
    """

    version: str
    python: str
    torch: str
    built_for_torch: str
    compiler: str
    isa: str
    isa_levels: tuple[str, ...]
    cuda: str | None
    cuda_archs: tuple[str, ...]
    no_cuda_reason: str | None


def config() -> Config:
    """Reports versions, CPU levels, CUDA architectures and why CUDA kernels are missing.

    Returns:
        A :class:`~fastconv._config.Config`; ``python -m fastconv`` prints it.

    Example:
        >>> import fastconv
        >>> fastconv.config().version
        '0.1.0'
    """
    import torch

    from fastconv import _C

    return Config(
        version=_build_info.version,
        python=platform.python_version(),
        torch=str(torch.__version__),
        built_for_torch=_build_info.torch,
        compiler=_build_info.compiler,
        isa=_C.isa(),
        isa_levels=tuple(_C.isa_levels()),
        cuda=_build_info.cuda,
        cuda_archs=_build_info.cuda_archs,
        no_cuda_reason=_build_info.no_cuda_reason,
    )


def check_import() -> None:
    """Raises a clear ImportError where loading the compiled module would fail obscurely.

    Raises:
        ImportError: fastconv is not compiled, torch is missing, or torch is not the one that
            fastconv was compiled against.
    """
    folder = os.path.dirname(os.path.abspath(__file__))
    if not all(util.find_spec(f"fastconv.{name}") for name in ("_build_info", "_C")):
        if _import_installed(folder):
            return  # that one has checked itself
        root = os.path.dirname(folder)
        command = f"{sys.executable} -m pip install {shlex.quote(root)}"
        if not os.path.isfile(os.path.join(root, "setup.py")):
            command = _reinstall_command()
        raise ImportError(
            f"{folder} is not compiled for Python {platform.python_version()}. Run: {command}"
        )
    try:
        import torch
    except ModuleNotFoundError:
        minor = ".".join(_build_info.torch.split(".")[:2])
        raise ImportError(
            f"fastconv needs torch {minor}. Run: {sys.executable} -m pip install torch=={minor}.*"
        ) from None
    problem = mismatch(
        _build_info.torch,
        _build_info.torch_cuda if _build_info.cuda else None,
        str(torch.__version__),
        torch.version.cuda,
    )
    if problem:
        raise ImportError(f"{problem} Rebuild it: {_reinstall_command()}")


def _import_installed(source: str) -> bool:
    """Imports the installed package in place of its own source in `source`, if there is one.

    Python puts the current folder first on sys.path, so in a checkout `import fastconv` finds the
    source, of which pip has compiled and installed a copy.
    """
    root = os.path.dirname(source)
    others = [entry for entry in sys.path if os.path.abspath(entry) != root]
    spec = PathFinder.find_spec("fastconv", others)
    if spec is None or spec.origin is None:
        return False
    if not os.path.isfile(os.path.join(os.path.dirname(spec.origin), "_build_info.py")):
        return False
    for name in [name for name in sys.modules if name.partition(".")[0] == "fastconv"]:
        del sys.modules[name]
    before = sys.path[:]
    sys.path[:] = others
    try:
        import_module("fastconv")  # whoever is importing fastconv gets this one
    finally:
        sys.path[:] = before
    return True


def check_isa() -> None:
    """Warns if ``FASTCONV_ISA`` names a level that this build or processor does not have."""
    from fastconv import _C

    wanted = os.environ.get("FASTCONV_ISA")
    if wanted and wanted not in _C.isa_levels():
        warnings.warn(
            f"FASTCONV_ISA={wanted!r} is ignored: this processor's levels are "
            f"{', '.join(_C.isa_levels())}; {_C.isa()} is in use",
            stacklevel=3,
        )


def mismatch(built: str, built_cuda: str | None, running: str, running_cuda: str | None) -> str:
    """Says why a build does not fit the running torch; empty if it does.

    Args:
        built: Version of the torch that was compiled against.
        built_cuda: Its CUDA version, or None if no CUDA kernels were compiled.
        running: Version of the running torch.
        running_cuda: Its CUDA version, or None.
    """
    # C++ symbols and layouts of torch are stable within a minor version only.
    if _numbers(built) != _numbers(running):
        return f"fastconv was built for torch {built}, but the torch in use is {running}."
    if built_cuda is None:
        return ""
    if running_cuda and _numbers(running_cuda)[0] == _numbers(built_cuda)[0]:
        return ""
    uses = f"uses CUDA {running_cuda}" if running_cuda else "has no CUDA"
    return (
        f"fastconv was built for CUDA {built_cuda} (torch {built}), "
        f"but the torch in use, {running}, {uses}."
    )


def covers(archs: tuple[str, ...], capability: tuple[int, int]) -> bool:
    """Whether kernels compiled for `archs` run on a device of that compute capability."""
    for arch in archs:
        have = _numbers(arch)
        # Machine code runs on later minors of its major; PTX is compiled for anything later.
        # An "a" architecture runs on exactly its own.
        if re.fullmatch(r"\d+\.\d+a(\+PTX)?", arch):
            if have == capability:
                return True
        elif have <= capability and (have[0] == capability[0] or arch.endswith("+PTX")):
            return True
    return False


def _numbers(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _reinstall_command() -> str:
    """The command that builds this installation again.

    pip keeps the wheels that it builds from a repository or an archive, and would put the same one
    back without --no-cache-dir.
    """
    source, editable = "fastconv", ""
    try:
        text = metadata.distribution("fastconv").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        text = None
    if text:
        record = json.loads(text)
        source = record["url"]
        if source.startswith("file://"):
            source = shlex.quote(unquote(source.removeprefix("file://")))
        if origin := record.get("vcs_info"):
            source = f"{origin['vcs']}+{source}@{origin['commit_id']}"
        editable = "-e " if record.get("dir_info", {}).get("editable") else ""
    options = "--force-reinstall --no-deps --no-cache-dir"
    return f"{sys.executable} -m pip install {options} {editable}{source}"
