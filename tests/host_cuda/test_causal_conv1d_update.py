# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""The CUDA kernel of causal_conv1d_update, on the host executor."""

import ctypes
import itertools
import random

import host_cuda_harness as hc
import pytest
import torch
import torch.nn.functional as F

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]  # in the order of Dtype
ACTIVATIONS = [lambda y: y, F.relu, F.relu6, F.hardswish, F.silu, F.gelu]  # of Activation


@pytest.fixture(scope="module")
def library():
    room = "causal_conv1d_update"
    return hc.build(room, [f"{room}.cpp", *hc.room_sources(room)])


def longs(values):
    return (ctypes.c_int64 * len(values))(*values)


def pointer(t):
    return ctypes.c_void_p(None if t is None else t.data_ptr())


def expected(x, state, weight, bias, act, dilation):
    """In float64, by torch's convolution of everything that there is."""
    everything = torch.cat([state, x], 2).double()
    begin = state.shape[2] - (weight.shape[1] - 1) * dilation
    w = weight.double().unsqueeze(1)
    b = None if bias is None else bias.double()
    y = F.conv1d(everything[..., begin:], w, b, dilation=dilation, groups=w.shape[0])
    return act(y), everything[..., x.shape[2] :]


@pytest.mark.parametrize("innermost", ["time", "channels"])
@pytest.mark.parametrize("code", range(4), ids=[str(d) for d in DTYPES])
def test_update(library, code, innermost):
    check_updates(library, code, innermost)


def check_updates(library, code, innermost):
    dtype = DTYPES[code]
    tolerance = {torch.float16: 5e-3, torch.bfloat16: 4e-2, torch.float64: 1e-12}.get(dtype, 1e-5)
    sizes = [*itertools.product((1, 4), (1, 2), (1, 3), (0, 2))]
    random.shuffle(sizes)
    for i, (taps, dilation, length, extra) in enumerate(sizes):
        number = i % len(ACTIVATIONS)
        act = ACTIVATIONS[number]
        library.host_cuda_configure(random.choice(hc.ORDERS), random.randrange(1 << 30))
        channels = random.choice((1, 5, 70))
        state_length = (taps - 1) * dilation + extra

        def draw(*shape):
            t = torch.randn(shape, dtype=torch.float64).to(dtype)
            if innermost == "channels":
                t = t.transpose(1, -1).contiguous().transpose(1, -1)
            return t

        with hc.Arena(library) as arena:
            x = arena.place(draw(2, channels, length))
            state = arena.place(draw(2, channels, state_length))
            weight = arena.place(torch.randn(channels, taps).to(dtype))
            bias = arena.place(torch.randn(channels).to(dtype)) if random.random() < 0.7 else None
            y = arena.place(torch.full((2, channels, length), 77.0, dtype=dtype))
            want, after = expected(x, state, weight, bias, act, dilation)
            numbers = longs([2, channels, length, state_length, taps, dilation])
            status = library.update(
                code, number, numbers, pointer(x), longs(x.stride()), pointer(state),
                longs(state.stride()), pointer(weight), longs(weight.stride()), pointer(bias),
                pointer(y), longs(y.stride()),
            )  # fmt: skip
            hc.check(library, status)
            torch.testing.assert_close(y.double(), want, rtol=tolerance, atol=tolerance)
            assert torch.equal(state.double(), after)


def run_sanitized(library):
    """All of it, for test_sanitizers.py."""
    for code in range(len(DTYPES)):
        check_updates(library, code, ("time", "channels")[code % 2])
