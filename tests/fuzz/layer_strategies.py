# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Draws layers of fastconv.nn and inputs for them: what layers add to the functions."""

from __future__ import annotations

import dataclasses
from typing import Any

import hypothesis.strategies as st
import torch
import transpose_strategies
from calls import Call, T
from drawing import dense_layout, environment, pick, spelled
from strategies import FUNCTIONS

# For an argument of a convolution's constructor.
JUNK = (0, -1, 1.5, None, "full", "same", (1, 1), (1, 1, 1), (1,), ((0, 1),))
MODES = ("zeros", "reflect", "replicate", "circular")
# Layers that hold a function's arguments and call it.
THIN = {
    "DepthMaxPool": "depth_max_pool",
    "SpaceToDepth": "space_to_depth",
    "DepthToSpace": "depth_to_space",
    "PixelShuffle": "pixel_shuffle",
    "PixelUnshuffle": "pixel_unshuffle",
    "ChannelShuffle": "channel_shuffle",
    "GlobalAvgPool1d": "global_avg_pool1d",
    "GlobalAvgPool2d": "global_avg_pool2d",
    "GlobalAvgPool3d": "global_avg_pool3d",
}


@st.composite
def conv(draw: Any, nd: int) -> Call:
    kernel = [draw(pick((1, 2, 3, 5))) for _ in range(nd)]
    stride = [draw(pick((1, 1, 2, 3))) for _ in range(nd)]
    dilation = [draw(pick((1, 1, 2))) for _ in range(nd)]
    sizes = st.integers(1, 14 if nd < 3 else 7)
    size = [
        max(draw(sizes), d * (k - 1) + 1 - draw(pick((0, 2))))
        for k, d in zip(kernel, dilation, strict=True)
    ]
    channels, multiplier = draw(st.integers(1, 9)), draw(pick((1, 1, 2)))
    kwargs: dict[str, Any] = {
        "in_channels": channels,
        "out_channels": channels * multiplier,
        "kernel_size": draw(pick((tuple(kernel), kernel))),
        "stride": draw(spelled(stride, 1)),
        "dilation": draw(spelled(dilation, 1)),
    }
    few = st.integers(0, 3)
    pairs = tuple((draw(few), draw(few)) for _ in range(nd))
    paddings = [0, 1, tuple(draw(few) for _ in range(nd)), pairs, "same", "valid"]
    kwargs["padding"] = draw(pick([*paddings, *(["causal"] if nd == 1 else [])]))
    kwargs["padding_mode"] = draw(pick(MODES))
    kwargs["bias"] = draw(st.booleans())
    kwargs = {k: v for k, v in kwargs.items() if v is not None}
    dtype = draw(pick(("float32", "float64")))
    if dtype != "float32":
        kwargs["dtype"] = torch.float64
    batch = draw(pick((2, 1, 0, None)))
    shape = (*([] if batch is None else [batch]), channels, *size)
    x = T(shape, dtype, draw(dense_layout(len(shape))), grad=draw(st.booleans()))
    if draw(pick((False, False, True))):
        name = draw(pick((*kwargs, "groups")))
        junk = {"padding_mode": "mirror", "dtype": torch.float16, "bias": False}
        kwargs[name] = junk.get(name) or draw(pick(JUNK if name != "groups" else (1, 2, 0, None)))
    return Call(f"nn.DepthwiseConv{nd}d", (x,), kwargs, **draw(environment()))


@st.composite
def thin(draw: Any) -> Call:
    layer = draw(pick(tuple(THIN)))
    call = draw(FUNCTIONS[THIN[layer]])
    return dataclasses.replace(call, function=f"nn.{layer}")


@st.composite
def depth_pool(draw: Any) -> Call:
    sizes = [draw(st.integers(0, 13)) for _ in range(draw(pick((3, 3, 2, 4))))]
    batch = draw(pick((2, 1, 0, None)))
    shape = (*([] if batch is None else [batch]), *sizes)
    values = draw(pick(("normal", "integers", "special")))
    dtype = draw(pick(("float32", "bfloat16", "int64")))
    layout = draw(dense_layout(len(shape)))
    x = T(shape, dtype, layout, values, dtype != "int64" and draw(st.booleans()))
    kwargs = {"pool_size": draw(pick((2, 1, 3, 4, 7, 0, -1)))}
    return Call("nn.DepthPool2d", (x,), kwargs, **draw(environment()))


@st.composite
def separable(draw: Any) -> Call:
    channels = draw(st.integers(1, 9))
    kwargs = {
        "in_channels": channels,
        "out_channels": draw(st.integers(1, 9)),
        "kernel_size": draw(pick((3, 1, (1, 2), 5))),
        "stride": draw(pick((1, 2, (1, 3)))),
        "padding": draw(pick((2, 0, "same", ((1, 2), (2, 0)), (2, 1)))),
        "dilation": draw(pick((1, 2))),
        "channel_multiplier": draw(pick((1, 2, 3))),
        "bias": draw(st.booleans()),
        "padding_mode": draw(pick(MODES)),
        "dtype": torch.float64,
    }
    shape = (draw(pick((2, 1))), channels, *(draw(st.integers(9, 14)) for _ in range(2)))
    x = T(shape, "float64", draw(dense_layout(4)), grad=True)
    return Call("nn.DepthwiseSeparableConv2d", (x,), kwargs, **draw(environment()))


LAYERS = {
    "nn.convolutions": st.integers(1, 3).flatmap(conv),
    "nn.transposed": st.integers(1, 3).flatmap(transpose_strategies.layer),
    "nn.others": st.one_of(thin(), depth_pool(), separable()),
}
