# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""The host CUDA executor catches the bugs that it exists to catch."""

import ctypes
import subprocess
import sys

import host_cuda_harness as hc
import numpy as np
import pytest

NONE, MISSING_BARRIER, WRONG_WAIT, DIVERGENT_BARRIER, DIVERGENT_SHUFFLE = range(5)
MISALIGNED, SMEM_OVERRUN, IN_FLIGHT, READ_PAST_INPUT, LANE_OUTSIDE_MASK = range(5, 10)


@pytest.fixture(scope="module")
def library():
    return hc.build("selftest", ["selftest.cpp"])


def pointer(array):
    return ctypes.c_void_p(array.ctypes.data)


def mirror(library, bug, order, threads=64, tiles=3):
    """Runs the kernel; returns its output and what it should have been."""
    library.host_cuda_configure(order, 7)
    size = threads * 4
    x = np.random.default_rng().standard_normal((tiles, size)).astype(np.float32)
    y = np.full_like(x, np.nan)
    hc.check(library, library.selftest_mirror(pointer(x), pointer(y), threads, tiles, bug))
    return y, x[:, ::-1] + x.astype(np.float64).sum(1, keepdims=True)


def is_right(pair):
    return np.allclose(*pair, atol=1e-3)


@pytest.mark.parametrize("order", hc.ORDERS)
@pytest.mark.parametrize("threads", [32, 64, 256])
def test_correct_kernel(library, order, threads):
    assert is_right(mirror(library, NONE, order, threads))


def test_missing_barrier_gives_wrong_results(library):
    assert not all(is_right(mirror(library, MISSING_BARRIER, order)) for order in hc.ORDERS)


def test_wrong_wait_gives_nan(library):
    assert np.isnan(mirror(library, WRONG_WAIT, hc.FORWARD)[0]).any()


@pytest.mark.parametrize(
    ("bug", "message"),
    [
        (DIVERGENT_BARRIER, "divergence: of 64 threads"),
        (DIVERGENT_SHUFFLE, "divergence"),
        (MISALIGNED, "misaligned access of 16 bytes"),
        (SMEM_OVERRUN, "past the end of shared memory"),
        (IN_FLIGHT, "cp.async in flight"),
        (LANE_OUTSIDE_MASK, "outside"),
    ],
)
@pytest.mark.parametrize("order", hc.ORDERS)
def test_error_is_reported(library, bug, message, order):
    with pytest.raises(RuntimeError, match=message):
        mirror(library, bug, order)


@pytest.mark.parametrize("threads", [32, 64, 96])
@pytest.mark.parametrize("order", hc.ORDERS)
def test_votes(library, threads, order):
    library.host_cuda_configure(order, 3)
    x = np.random.default_rng().standard_normal(threads).astype(np.float32)
    x[:32] = 1
    warps = threads // 32
    y = np.zeros(2 * warps, np.uint32)
    hc.check(library, library.selftest_votes(pointer(x), pointer(y), threads))
    bits = (x > 0).reshape(warps, 32)
    assert (y[:warps] == (bits.astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(1)).all()
    assert (y[warps:] == bits.any(1) + 2 * bits.all(1)).all()


@pytest.mark.parametrize(
    ("grid", "threads", "smem"),
    [
        ((0, 1, 1), 32, 0),
        ((2**31, 1, 1), 32, 0),
        ((1, 65536, 1), 32, 0),
        ((1, 1, 65536), 32, 0),
        ((1, 1, 1), 1025, 0),
        ((1, 1, 1), 0, 0),
        ((1, 1, 1), 32, 228 * 1024),
    ],
)
def test_launch_limits(library, grid, threads, smem):
    assert (
        library.selftest_limits(*map(ctypes.c_uint, grid), threads, smem)
        == hc.CUDA_ERROR_INVALID_CONFIGURATION
    )


SANITIZED = """
import ctypes, sys
sys.path.insert(0, {path!r})
import host_cuda_harness as hc
library = hc.build("selftest", ["selftest.cpp"], sanitize=True)
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
x, y = (ctypes.c_void_p(libc.malloc(ctypes.c_size_t(3 * 64 * 16))) for _ in range(2))
ctypes.memset(x, 0, 3 * 64 * 16)
hc.check(library, library.selftest_mirror(x, y, 64, 3, {bug}))
print("clean")
"""


@pytest.mark.parametrize(
    ("bug", "report"),
    [(NONE, None), (READ_PAST_INPUT, "heap-buffer-overflow"), (SMEM_OVERRUN, "selftest.cpp")],
)
def test_address_sanitizer(bug, report):
    hc.build_path("selftest", ["selftest.cpp"], sanitize=True)
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED.format(path=str(hc.HERE), bug=bug)],
        env=hc.sanitizer_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if report is None:
        assert done.returncode == 0 and "clean" in done.stdout, done.stderr
    else:
        assert done.returncode != 0 and report in done.stderr, done.stderr
