# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Fixtures shared by the tests: devices, fresh random numbers, and the thread count."""

import importlib.util
import os
import random
import zlib

import pytest
import torch

# Every run draws fresh numbers; FASTCONV_TEST_SEED repeats the ones that a header named.
SEED = int(os.environ.get("FASTCONV_TEST_SEED", random.SystemRandom().randrange(2**31)))


def pytest_report_header():
    return f"fastconv: FASTCONV_TEST_SEED={SEED}"


def has_cuda():
    # The build's own tests also run where the package is not built.
    if not torch.cuda.is_available() or importlib.util.find_spec("fastconv") is None:
        return False
    return importlib.import_module("fastconv._C").has_cuda()


def pytest_collection_modifyitems(items):
    if has_cuda():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device and CUDA kernels")
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    """Runs a test on the CPU and, where there is one, on a CUDA device."""
    return request.param


@pytest.fixture
def rng(request):
    """A generator of this test's own, so that a seed repeats it without the tests before it."""
    own = zlib.crc32(request.node.name.encode())
    return torch.Generator().manual_seed((SEED << 32) + own)


@pytest.fixture(autouse=True)
def _restore_global_state(request):
    """Seeds torch's own generator, and puts back what a test may leave behind."""
    torch.manual_seed(SEED ^ zlib.crc32(request.node.name.encode()))
    threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
