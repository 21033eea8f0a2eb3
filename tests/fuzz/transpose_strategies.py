# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Draws calls of transposed depthwise convolutions, functions and layers."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import torch
from calls import Call, T
from drawing import FLOATS, STEPS, dense_layout, environment, layout_of, pick, shrink_to, spelled

# For an argument of a layer's constructor.
JUNK = (0, -1, 1.5, None, "full", (1, 1), (1, 1, 1), (1,))


@st.composite
def axis(draw: Any, nd: int) -> tuple[int, int, int, int, int, int]:
    """Size, kernel, stride, padding, output padding and dilation of one dimension."""
    kernel = draw(pick((1, 2, 3, 3, 4, 5, 7, *((9, 11, 31) if nd < 3 else ()))))
    stride = draw(pick((1, 2, 2, 3, 4, 7, 16)))
    dilation = draw(pick((1, 1, 1, 2, 3, 8)))
    extra = draw(st.one_of(st.just(0), st.integers(0, max(stride, dilation) - 1)))
    size = draw(st.one_of(st.integers(1, 12), st.integers(1, 30 if nd < 3 else 9), pick((64, 100))))
    whole = (size - 1) * stride + dilation * (kernel - 1) + extra + 1
    padding = draw(pick((0, 0, 1, 2, 3, 5, *((40,) if nd < 3 else ()))))
    return size, kernel, stride, min(padding, (whole - 1) // 2), extra, dilation


@st.composite
def conv(draw: Any, nd: int) -> Call:
    axes = [draw(axis(nd)) for _ in range(nd)]
    size, kernel, stride, padding, extra, dilation = (list(v) for v in zip(*axes, strict=True))
    batch = draw(pick((2, 1, 3, 0, None)))
    channels = draw(st.one_of(st.integers(1, 8), st.integers(1, 40), pick((16, 32, 64, 65, 130))))
    multiplier = draw(pick((1, 1, 1, 2, 3)))

    def cost(few: list[int]) -> int:
        outs = math.prod(n * s + d * k for n, s, d, k in zip(size, stride, dilation, kernel))  # noqa: B905
        taps = math.prod(kernel)  # the reference fills a whole result for each
        return math.prod(few) * multiplier * (math.prod(size) * taps + outs * max(1, taps // 32))

    few = shrink_to(STEPS, cost, [batch or 1, channels])
    batch, channels = (few[0] if batch else batch), few[1]
    while cost(few) > STEPS and max(size) > 1:  # then space
        i = size.index(max(size))
        size[i] //= 2
        whole = (size[i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + extra[i] + 1
        padding[i] = min(padding[i], (whole - 1) // 2)
    if batch == 0 and not draw(st.integers(0, 3)):
        size[0] = 0  # where there is nothing to compute it may be
    named = {
        "stride": draw(spelled(stride, 1)),
        "padding": draw(spelled(padding, 0)),
        "output_padding": draw(spelled(extra, 0)),
        "dilation": draw(spelled(dilation, 1)),
    }
    kwargs = {k: v for k, v in named.items() if v is not None}

    dtype = draw(pick(FLOATS))
    grads = [draw(st.booleans()) for _ in range(3)]
    values = draw(pick(("normal", "integers", "special", "tiny", "large")))
    shape = (*([] if batch is None else [batch]), channels, *size)
    x = T(shape, dtype, draw(layout_of(len(shape))), values, grads[0])
    plain = draw(pick(("normal", "integers")))
    w = T((channels, multiplier, *kernel), dtype, draw(layout_of(nd + 2)), plain, grads[1])
    layout = draw(pick(("contiguous", "steps", "scalar")))
    b = T((channels * multiplier,), dtype, layout, plain, grads[2])
    bias = b if draw(st.booleans()) else None
    return Call(f"depthwise_conv_transpose{nd}d", (x, w, bias), kwargs, **draw(environment()))


@st.composite
def layer(draw: Any, nd: int) -> Call:
    kernel = [draw(pick((1, 2, 3, 5))) for _ in range(nd)]
    stride = [draw(pick((1, 2, 2, 3))) for _ in range(nd)]
    dilation = [draw(pick((1, 1, 2))) for _ in range(nd)]
    extra = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)]
    size = [draw(st.integers(1, 10 if nd < 3 else 5)) for _ in range(nd)]
    channels, multiplier = draw(st.integers(1, 9)), draw(pick((1, 1, 2)))
    kwargs: dict[str, Any] = {
        "in_channels": channels,
        "out_channels": channels * multiplier,
        "kernel_size": draw(pick((tuple(kernel), kernel))),
        "stride": draw(pick((tuple(stride), stride))),
        "padding": draw(pick((0, 1, tuple(k // 2 for k in kernel)))),
        "output_padding": draw(spelled(extra, 0)),
        "dilation": draw(pick((tuple(dilation), dilation))),
        "bias": draw(st.booleans()),
    }
    kwargs = {k: v for k, v in kwargs.items() if v is not None}
    dtype = draw(pick(("float32", "float64")))
    if dtype != "float32":
        kwargs["dtype"] = torch.float64
    batch = draw(pick((2, 1, 0, None)))
    shape = (*([] if batch is None else [batch]), channels, *size)
    x = T(shape, dtype, draw(dense_layout(len(shape))), grad=draw(st.booleans()))
    args: tuple[Any, ...] = (x,)
    if draw(pick((False, False, True))):  # some sizes are possible, others are not
        pads = kwargs["padding"]
        pads = (pads,) * nd if isinstance(pads, int) else pads
        rest = zip(size, stride, pads, dilation, kernel, strict=True)
        least = [(n - 1) * s - 2 * p + d * (k - 1) + 1 for n, s, p, d, k in rest]
        asked = [n + draw(pick((0, 1, 0, 2, -1))) for n in least]
        lead = [shape[:-nd], (), (1,)]
        args = (x, [*draw(pick(lead)), *asked])
    if draw(pick((False, False, False, True))):
        name = draw(pick((*kwargs, "groups", "padding_mode")))
        junk = {"padding_mode": "reflect", "dtype": torch.float16, "bias": False}
        kwargs[name] = junk.get(name) or draw(pick(JUNK if name != "groups" else (1, 2, 0, None)))
    return Call(f"nn.DepthwiseConvTranspose{nd}d", args, kwargs, **draw(environment()))
