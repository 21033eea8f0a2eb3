# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""setuptools' build backend, plus: build against the torch of the environment installed into.

A build requirement on torch would fetch the newest one, and the extension would not load with the
torch that the user has. pip's isolation runs the interpreter of the target environment and only
hides its packages, so torch can still be found there and borrowed. Where the target has none, one
is asked for, and the runtime requirement installs the same. Other installers build in a throw-away
environment that knows nothing of the target; there the build stops and says what to do.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import site
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder

import setuptools
from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403 (every hook that setuptools has)

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import build_plan
from stop import BuildStop

MIN_SETUPTOOLS = 77  # the first that reads pyproject.toml's license
PYTHON_VARIABLE = "FASTCONV_BUILD_PYTHON"
REQUIREMENT = "torch>=" + ".".join(map(str, build_plan.MIN_TORCH))


class BorrowFinder:
    """Finds top-level modules in the folders of another environment, after everything else.

    Extending sys.path would do more than is wanted: the plug-ins of setuptools that the user has
    installed would take part in the build.
    """

    def __init__(self, folders: Sequence[str]) -> None:
        """Looks in `folders`, in that order."""
        self.folders = list(folders)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: object = None
    ) -> ModuleSpec | None:
        """The spec of a top-level module; submodules are found through their package."""
        return PathFinder.find_spec(name, self.folders) if path is None else None


def own_folders() -> list[str]:
    """The package folders of the running interpreter, hidden by the installer or not."""
    folders = [sysconfig.get_path("platlib"), sysconfig.get_path("purelib")]
    folders += site.getsitepackages()
    # A virtual environment sees the user's folder only together with the system's packages.
    if sys.prefix == sys.base_prefix or sys.base_prefix in site.PREFIXES:
        folders.append(site.getusersitepackages())
    return [folder for folder in dict.fromkeys(folders) if os.path.isdir(folder)]


def folders_of(python: str) -> list[str]:
    """The package folders of another interpreter, which must be of the same Python version."""
    ask = "import json, sys; print(json.dumps([sys.implementation.cache_tag, sys.path]))"
    try:
        said = subprocess.run(
            [python, "-c", ask], text=True, capture_output=True, check=True, cwd="/"
        )
        tag, folders = json.loads(said.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError) as problem:
        raise BuildStop(f"{PYTHON_VARIABLE}={python} does not run as Python: {problem}") from None
    if tag != sys.implementation.cache_tag:
        raise BuildStop(
            f"{PYTHON_VARIABLE}={python} is {tag}, but the build runs under "
            f"{sys.implementation.cache_tag} ({sys.executable}): use the same Python for both."
        )
    return [folder for folder in folders if os.path.isdir(folder)]


def is_overlay(setuptools_file: str, folders: Sequence[str]) -> bool:
    """Whether the build's own packages come from outside the interpreter's folders.

    True for pip, which lays them over the target interpreter. False in an environment made for
    the build alone, and without isolation.
    """
    real = os.path.realpath(setuptools_file)
    return not any(real.startswith(os.path.realpath(folder) + os.sep) for folder in folders)


def borrow_torch() -> None:
    """Makes torch importable if it is in the target environment."""
    python = os.environ.get(PYTHON_VARIABLE)
    if importlib.util.find_spec("torch"):
        return  # no isolation, or fetched because the target has none
    folders = folders_of(python) if python else own_folders()
    if PathFinder.find_spec("torch", folders):
        sys.meta_path.append(BorrowFinder(folders))
    elif python:
        raise BuildStop(f"{PYTHON_VARIABLE}={python} has no torch. Install it there first.")


def torch_requirements() -> list[str]:
    """What to fetch for the build: nothing if torch is there, torch if pip installs into a void."""
    spec = importlib.util.find_spec("torch")
    if spec and spec.origin:
        _check_age(os.path.dirname(spec.origin))
        return []
    if is_overlay(setuptools.__file__, own_folders()):
        return [REQUIREMENT]
    raise BuildStop(
        f"""\
        this build runs in an environment of its own, {sys.prefix},
        and cannot see which torch it is for. One of these will do:
          pip install .                                     (finds torch by itself)
          {PYTHON_VARIABLE}=/path/to/env/bin/python <the same command>
          pip install torch setuptools ninja, then <the same command> without build isolation"""
    )


def _check_age(folder: str) -> None:
    """Stops early: pip would fetch a newer torch, gigabytes, only for the build to fail."""
    try:
        with open(os.path.join(folder, "version.py"), encoding="utf-8") as text:
            found = re.search(r"__version__ = '([^']+)'", text.read())
    except OSError:
        return
    if found:
        build_plan.require_torch(found[1], folder)


def check_tools() -> None:
    """Stops before anything is fetched or compiled when the build cannot end well."""
    if int(setuptools.__version__.split(".")[0]) < MIN_SETUPTOOLS:
        raise BuildStop(
            f"setuptools {setuptools.__version__} is too old. "
            f"Run: {sys.executable} -m pip install 'setuptools>={MIN_SETUPTOOLS}' ninja"
        )
    spec = importlib.util.find_spec("torch")
    if spec is None:
        raise BuildStop(build_plan.no_torch(sys.executable))
    _check_age(os.path.dirname(spec.origin or ""))


def get_requires_for_build_wheel(config_settings=None):
    """What setuptools needs, and torch where there is none."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *torch_requirements()]


def get_requires_for_build_editable(config_settings=None):
    """The same for an editable install."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *torch_requirements()]


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    """setuptools' hook, the first one that is called without build isolation."""
    check_tools()
    return build_meta.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def prepare_metadata_for_build_editable(metadata_directory, config_settings=None):
    """The same for an editable install."""
    check_tools()
    return build_meta.prepare_metadata_for_build_editable(metadata_directory, config_settings)


borrow_torch()
