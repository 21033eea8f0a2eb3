# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""The CUDA kernels of global average pooling and the sigmoid gate, on the host executor."""

import ctypes
import random

import host_cuda_harness as hc
import pytest
import torch

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]  # in the order of Dtype
MEAN, MEAN_GRADIENT, GATE, GATE_GRADIENT = range(4)  # in the order of Pass

# (N, C, P): a part of a warp, several warps, a block; tiles of channels with a rest; chunks.
SIZES = [(2, 5, 1), (3, 7, 9), (2, 33, 49), (1, 3, 1500), (1, 40, 700), (2, 32, 64), (5, 64, 30)]


@pytest.fixture(scope="module")
def library():
    return hc.build("squeeze_excite", ["squeeze_excite.cpp", *hc.room_sources("squeeze_excite")])


def longs(values):
    return (ctypes.c_int64 * len(values))(*values)


def pointer(t):
    return ctypes.c_void_p(None if t is None else t.data_ptr())


def strides(t):
    return longs([0, 0, 0] if t is None else t.stride())


def activation(arena, size, dtype, channels_last, fill=None):
    """A tensor between guard pages, at times with gaps between images."""
    n, c, p = size
    shape = (n + 1, p, c) if channels_last else (n + 1, c, p)
    if random.random() < 0.5:
        shape = (n + 1, shape[1] + 1, shape[2])
    t = torch.randn(shape, dtype=torch.float64).to(dtype)
    t = t[1:, :p, :c].transpose(1, 2) if channels_last else t[1:, :c, :p]
    if fill is not None:
        t = torch.full_like(t, fill)
    return arena.place(t)


def partial_bytes(library, head):
    library.partial_bytes.restype = ctypes.c_int64
    return library.partial_bytes(*head)


def run(library, arena, what, code, channels_last, size, x=None, dy=None, gate=None):
    """Runs a pass; returns the activation and the sums that it writes."""
    dtype = DTYPES[code]
    y = None if what == MEAN else activation(arena, size, dtype, channels_last, 77)
    sums = None
    if what in (MEAN, GATE_GRADIENT):
        sums = arena.place(torch.full(size[:2], 77.0, dtype=dtype))
    head = (what, code, channels_last, longs(size))
    bytes_ = partial_bytes(library, head)
    partial = arena.memory(bytes_) if bytes_ else None
    status = library.run(
        *head, pointer(x), strides(x), pointer(dy), strides(dy), pointer(gate),
        pointer(y), strides(y), pointer(sums), partial and ctypes.byref(partial),
    )  # fmt: skip
    hc.check(library, status)
    return y, sums


@pytest.mark.parametrize("order", hc.ORDERS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("code", range(4), ids=[str(d) for d in DTYPES])
def test_passes(library, code, channels_last, order):
    library.host_cuda_configure(order, random.randrange(1 << 30))
    check_passes(library, code, channels_last, SIZES)


def check_passes(library, code, channels_last, sizes):
    dtype = DTYPES[code]
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 1e-2, torch.float64: 1e-12}.get(dtype, 1e-5)
    for size in sizes:
        with hc.Arena(library) as arena:
            args = (library, arena)
            x, dy = (activation(arena, size, dtype, channels_last) for _ in range(2))
            gate = arena.place(3 * torch.randn(size[:2]).to(dtype))
            wide, dwide = x.double(), dy.double()
            s = gate.double().sigmoid()[..., None]
            slope = (s * (1 - s))[..., 0]
            common = (code, channels_last, size)

            def close(got, want, size=size, tolerance=tolerance):
                scale = max(want.abs().max().item(), 1e-3)
                error = (got.double() - want).abs().max().item()
                assert error <= tolerance * scale, (size, error)

            _, mean = run(*args, MEAN, *common, x=x)
            close(mean, wide.mean(2))
            y, _ = run(*args, MEAN_GRADIENT, *common, gate=gate)
            close(y, (gate.double()[..., None] / size[2]).expand(size))
            y, _ = run(*args, GATE, *common, x=x, gate=gate)
            close(y, wide * s)
            y, sums = run(*args, GATE_GRADIENT, *common, x=x, dy=dy, gate=gate)
            close(y, dwide * s)
            close(sums, (wide * dwide).sum(2) * slope)


@pytest.mark.parametrize("size", [(1, 40, 700), (1, 3, 1500), (2, 33, 49)])
def test_sums_have_the_same_bits_in_every_order(library, size):
    for channels_last in (False, True):
        with hc.Arena(library) as arena:
            x, dy = (activation(arena, size, torch.float32, channels_last) for _ in range(2))
            gate = arena.place(torch.randn(size[:2]))
            results = []
            for order in hc.ORDERS:
                library.host_cuda_configure(order, random.randrange(1 << 30))
                common = (0, channels_last, size)
                results.append(
                    [
                        run(library, arena, MEAN, *common, x=x)[1],
                        run(library, arena, GATE_GRADIENT, *common, x=x, dy=dy, gate=gate)[1],
                    ]
                )
            for other in results[1:]:
                assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_every_pixel_counts(library):
    """Integers add up without rounding, so that one pixel lost, or counted twice, shows."""
    for size in SIZES:
        for channels_last in (False, True):
            with hc.Arena(library) as arena:
                x, dy = (activation(arena, size, torch.float64, channels_last, 1) for _ in range(2))
                x.copy_(torch.randint(-3, 4, size))
                dy.copy_(torch.randint(-3, 4, size))
                gate = arena.place(torch.zeros(size[:2], dtype=torch.float64))
                common = (1, channels_last, size)
                _, sums = run(library, arena, GATE_GRADIENT, *common, x=x, dy=dy, gate=gate)
                assert torch.equal(sums, (x * dy).sum(2) / 4)


def test_the_gate_at_its_ends(library):
    gates = torch.tensor([[0.0, 104, -104, torch.inf, -torch.inf]])
    with hc.Arena(library) as arena:
        x = arena.place(torch.full((1, 5, 2), 2.0))
        gate = arena.place(gates)
        y, sums = run(library, arena, GATE_GRADIENT, 0, False, (1, 5, 2), x=x, dy=x, gate=gate)
        assert y[0, :, 0].tolist()[3:] == [2, 0] and y.isfinite().all()
        assert sums[0, 0] == 2 and sums.isfinite().all() and sums[0, 3:].eq(0).all()


def test_a_first_stage_that_fails_is_reported(library):
    """Not the success of the second, which adds up what nobody wrote."""
    size = (1, 40, 700)
    with hc.Arena(library) as arena:
        head = (MEAN, 0, True, longs(size))
        sums = arena.place(torch.zeros(size[:2]))
        partial = arena.memory(partial_bytes(library, head))
        nowhere = longs([0, 0, 0])
        status = library.run(
            *head, None, nowhere, None, nowhere, None, None, nowhere, pointer(sums),
            ctypes.byref(partial),
        )  # fmt: skip
        assert status == hc.CUDA_ERROR_LAUNCH_FAILURE


def run_sanitized(library):
    """Each size in both layouts, dtypes taking turns, for test_sanitizers.py."""
    for number, size in enumerate(SIZES):
        for channels_last in (False, True):
            check_passes(library, (number + channels_last) % len(DTYPES), channels_last, [size])
