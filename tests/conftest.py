# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Fixtures shared by the tests: devices, fresh random numbers, and the thread count."""

import functools
import importlib.util
import os
import random
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

# Every run draws fresh numbers; FASTCONV_TEST_SEED repeats the ones that a header named.
SEED = int(os.environ.get("FASTCONV_TEST_SEED", random.SystemRandom().randrange(2**31)))


def pytest_report_header():
    return f"fastconv: FASTCONV_TEST_SEED={SEED}"


def has_cuda():
    # The build's own tests also run where the package is not built.
    if not torch.cuda.is_available() or importlib.util.find_spec("fastconv") is None:
        return False
    return importlib.import_module("fastconv._C").has_cuda()


# Tests of what they compile themselves.
COMPILING = [Path(__file__).parent / folder for folder in ("host_cuda", "cpu_kernels")]


def pytest_collection_modifyitems(items):
    # Last, so that the compilers have finished: see _compile_ahead.
    items.sort(key=lambda item: (item.path.parent in COMPILING, item.path.parent == COMPILING[1]))
    if has_cuda():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device and CUDA kernels")
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def _compile_ahead(request):
    """Compiles, while other tests run, what the last ones need."""
    files = {item.path for item in request.session.items}
    compiling = sorted(path for path in files if path.parent in COMPILING)
    if not compiling or len(compiling) == len(files):
        yield
        return
    command = [sys.executable, Path(__file__).with_name("build_ahead.py"), *compiling]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, start_new_session=True, **quiet) as compilers:
        yield
        if compilers.poll() is None:  # with the compilers that it has started
            os.killpg(compilers.pid, signal.SIGTERM)


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
    """Seeds the generators that all share, and puts back what a test may leave behind."""
    seed = SEED ^ zlib.crc32(request.node.name.encode())
    torch.manual_seed(seed)
    random.seed(seed)
    threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def raised_by(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except Exception as error:
        return error
    return None


def check_raises(call, args, kwargs, error, match, native=None, native_args=None):
    """The call raises `error` exactly, as `native` does, without asking for memory."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        ours = raised_by(call, *args, **kwargs)
    with pytest.raises(error, match=match) as caught:
        if ours is not None:
            raise ours
    assert type(caught.value) is error
    assert not [e for e in prof.events() if e.name == "[memory]"], "allocated before it raised"
    if native is not None:
        theirs = raised_by(native, *(args if native_args is None else native_args), **kwargs)
        assert theirs is not None, "torch accepts this"
        assert isinstance(ours, type(theirs)), f"torch raises {theirs!r}"


@pytest.fixture
def assert_raises():
    """Checks what a bad call raises: assert_raises(call, args, kwargs, error, match, native)."""
    return check_raises


@pytest.fixture
def error_of():
    """What a call raises, or None: error_of(call, *args, **kwargs)."""
    return raised_by


def random_problem(rng, dims):
    """Draws a valid convolution; every argument is free."""
    pick = rng.choice
    kernel = [pick([1, 1, 2, 3, 3, 4, 5, 7]) for _ in range(dims)]
    stride = [pick([1, 1, 2, 3]) for _ in range(dims)]
    dilation = [pick([1, 1, 2, 3]) for _ in range(dims)]
    padding = [(rng.randrange(6), rng.randrange(6)) for _ in range(dims)]
    size = [
        max(rng.randrange(1, 24 if dims < 3 else 9), d * (k - 1) + 1 - sum(p))
        for k, d, p in zip(kernel, dilation, padding, strict=True)
    ]
    from fastconv.testing import conv_sample

    return conv_sample(
        size,
        kernel,
        n=rng.randrange(1, 4),
        c=rng.randrange(1, 40),
        m=pick([1, 1, 1, 2, 3]),
        bias=pick([True, False]),
        stride=tuple(stride),
        padding=tuple(padding) if pick([True, False]) else pick(["same", tuple(padding)]),
        dilation=tuple(dilation),
    )


def random_transposed(rng, dims):
    """Draws a valid transposed convolution; every argument is free."""
    pick = rng.choice
    kernel = [pick([1, 2, 3, 3, 4, 5, 7]) for _ in range(dims)]
    stride = [pick([1, 2, 2, 3, 5]) for _ in range(dims)]
    dilation = [pick([1, 1, 2, 3]) for _ in range(dims)]
    extra = [rng.randrange(max(s, d)) for s, d in zip(stride, dilation, strict=True)]
    size = [rng.randrange(1, 16 if dims < 3 else 6) for _ in range(dims)]
    # At least one element has to be left.
    whole = [
        (n - 1) * s + d * (k - 1) + e
        for n, s, d, k, e in zip(size, stride, dilation, kernel, extra, strict=True)
    ]
    from fastconv.testing import transpose_sample

    return transpose_sample(
        size,
        kernel,
        n=rng.randrange(1, 4),
        c=rng.randrange(1, 40),
        m=pick([1, 1, 1, 2, 3]),
        bias=pick([True, False]),
        stride=tuple(stride),
        padding=tuple(rng.randrange(min(w // 2, 5) + 1) for w in whole),
        output_padding=tuple(extra),
        dilation=tuple(dilation),
    )


@pytest.fixture
def random_conv():
    """Draws a valid problem of a convolution: random_conv(random.Random(seed), spec)."""

    def draw(rng, spec):
        problem = random_transposed if "transpose" in spec.name else random_problem
        return problem(rng, int(spec.name[-2]))

    return draw


def import_library(name):
    """A library that only tests use, or a skip."""
    if name in ("timm", "torchvision"):
        _prepare_torchvision()
    return pytest.importorskip(name, reason=f'needs {name}: see "Real models" in CONTRIBUTING.md')


@functools.cache
def _prepare_torchvision():
    """The package index has torchvision for a torch with CUDA only.

    Beside another torch its compiled part does not load, and its import stops at two operators that
    it takes for granted.  The networks need none of its operators.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None:
        return
    try:
        torch.ops.load_library(Path(spec.origin).parent / "_C.so")
    except OSError:
        for name in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", schema)


@pytest.fixture
def library():
    """Imports what tests use and fastconv does not: library("timm")."""
    return import_library
