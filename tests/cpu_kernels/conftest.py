# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
import pathlib
import sys

import pytest

# pytest's importlib mode leaves sys.path alone, and the tests here share a module.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import cpu_kernels_harness


@pytest.fixture(autouse=True, scope="session")
def _needs_a_compiler():
    if reason := cpu_kernels_harness.skip_reason():
        pytest.skip(reason)
