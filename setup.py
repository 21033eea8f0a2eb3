# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Declares the compiled module; everything else about the package is in pyproject.toml."""

import os
import sys

from setuptools import Extension, setup

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "build_backend"))
from native_ext import build_ext, build_py

setup(
    # A stub: it makes the wheel a platform wheel, and build_ext puts the real one in its place.
    ext_modules=[Extension("fastconv._C", sources=[])],
    cmdclass={"build_ext": build_ext, "build_py": build_py},
)
