# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
import pathlib
import sys

import pytest

# pytest's importlib mode leaves sys.path alone, and the tests here share modules.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import client


@pytest.fixture(scope="session")
def fuzzer(tmp_path_factory):
    """One worker for the session; a new one after a crash."""
    with client.Fuzzer(tmp_path_factory.mktemp("fuzz")) as own:
        yield own
