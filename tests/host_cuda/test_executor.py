# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""The host CUDA executor catches the bugs that it exists to catch."""

import ctypes
import subprocess
import sys

import host_cuda_harness as hc
import numpy as np
import pytest
import torch

NONE, MISSING_BARRIER, WRONG_WAIT, DIVERGENT_BARRIER, DIVERGENT_SHUFFLE = range(5)
MISALIGNED, SMEM_OVERRUN, IN_FLIGHT, READ_PAST_INPUT, LANE_OUTSIDE_MASK = range(5, 10)
DIVERGENT_MMA, GLOBAL_READ, GLOBAL_WRITE, LOCAL_INDEX, STATIC_OVERRUN = range(10, 15)


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


def test_wrong_wait_gives_numbers_too(library):
    """A kernel that computes anew what is not finite would hide it else."""
    result, expected = mirror(library, WRONG_WAIT, hc.REVERSE)
    assert np.isfinite(result).all() and not is_right((result, expected))


@pytest.mark.parametrize(
    ("bug", "message"),
    [
        (DIVERGENT_BARRIER, "divergence: of 64 threads"),
        (DIVERGENT_SHUFFLE, "divergence"),
        (MISALIGNED, "misaligned access of 16 bytes"),
        (SMEM_OVERRUN, "past an end of shared memory"),
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("order", hc.ORDERS)
def test_mma_is_a_matrix_product(library, dtype, order):
    """Exact on small integers, so that one element out of its lane shows."""
    library.host_cuda_configure(order, 5)
    tiles = 3
    a = torch.randint(-8, 9, (tiles, 16, 16)).to(dtype)
    b = torch.randint(-8, 9, (tiles, 16, 8)).to(dtype)
    d = torch.randint(-8, 9, (tiles, 16, 8)).float()
    expected = d.double() + a.double() @ b.double()
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (a, b, d)]
    which = 0 if dtype == torch.float16 else 1
    hc.check(library, library.selftest_multiply(*pointers, tiles, which, NONE))
    assert torch.equal(d.double(), expected)
    with pytest.raises(RuntimeError, match="divergence"):
        hc.check(library, library.selftest_multiply(*pointers, tiles, which, DIVERGENT_MMA))
    with pytest.raises(RuntimeError, match="fewer than 32"):
        hc.check(library, library.selftest_partial_mma(pointers[2]))


@pytest.mark.parametrize("width", [32, 16, 8, 2])
@pytest.mark.parametrize("order", hc.ORDERS)
def test_shuffles(library, width, order):
    """Each kind of shuffle, against CUDA's description of it."""
    library.host_cuda_configure(order, 5)
    threads = 64
    x = np.random.default_rng().standard_normal(threads).astype(np.float32)
    own = np.arange(threads)
    base = own // width * width
    for lanes in range(width):
        y = np.full((4, threads), np.nan, np.float32)
        hc.check(library, library.selftest_shuffles(pointer(x), pointer(y), threads, width, lanes))
        for got, source in zip(
            y, [base + lanes % width, own ^ lanes, own - lanes, own + lanes], strict=True
        ):
            inside = (source >= base) & (source < base + width)
            assert (got == x[np.where(inside, source, own)]).all()


@pytest.mark.parametrize("at_end", [False, True])
def test_stray_accesses(library, at_end):
    """Without AddressSanitizer: tensors between guard pages, shared memory between guards."""
    run = library.selftest_stray
    for _ in range(2):  # the process lives on
        with hc.Arena(library) as arena:
            x, y = (arena.place(torch.randn(64), at_end) for _ in range(2))
            pointers = [ctypes.c_void_p(t.data_ptr()) for t in (x, y)]
            hc.check(library, run(*pointers, NONE, 0))
            assert torch.equal(x, y)
            outside = 64 if at_end else -1
            for bug, offset, message in [
                (GLOBAL_READ, outside, "access out of bounds"),
                (GLOBAL_WRITE, outside, "access out of bounds"),
                (LOCAL_INDEX, 4, "index outside a local array, in .*stray"),
                (LOCAL_INDEX, -1, "index outside a local array"),
                (STATIC_OVERRUN, 64, "past an end of shared memory"),
                (STATIC_OVERRUN, -1, "past an end of shared memory"),
            ]:
                library.host_cuda_configure(hc.FORWARD, 1)
                with pytest.raises(RuntimeError, match=message):
                    hc.check(library, run(*pointers, bug, offset))


def test_writes_next_to_a_tensor(library):
    """Within a page of its own a write outside goes through: the red zone tells of it."""
    for at_end, offset in ((False, 64), (True, -1)):
        with hc.Arena(library) as arena:
            x, y = (arena.place(torch.randn(64), at_end) for _ in range(2))
            pointers = [ctypes.c_void_p(t.data_ptr()) for t in (x, y)]
            hc.check(library, library.selftest_stray(*pointers, GLOBAL_WRITE, offset))
            with pytest.raises(RuntimeError, match="wrote next to a tensor"):
                arena.close()


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
