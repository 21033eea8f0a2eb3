# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Registers with parts of torch that are imported late, if ever: they would double import time."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def _register(name: str) -> None:
    """Calls the module's ``register()``; what goes wrong must not stop the import of torch's."""
    try:
        importlib.import_module(name).register()
    except Exception as error:
        import torch

        warnings.warn(
            f"fastconv's operators do not work on DTensor with torch {torch.__version__}: {error}",
            stacklevel=2,
        )


class _Watcher(MetaPathFinder):
    """Lets one module be found by whoever finds it, and notes when it has run."""

    def __init__(self, module: str, ours: str) -> None:
        self.module, self.ours = module, ours

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.module or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                _register(self.ours)

            spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


def after_import(module: str, ours: str) -> None:
    """Calls ``ours.register()`` once `module` is imported: now, if it is already."""
    if module in sys.modules:
        _register(ours)
    else:
        sys.meta_path.insert(0, _Watcher(module, ours))
