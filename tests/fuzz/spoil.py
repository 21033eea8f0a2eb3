# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Spoils a sound call in one place.  What comes out may still be sound: the model decides."""

from __future__ import annotations

import dataclasses
from typing import Any

import hypothesis.strategies as st
import numpy as np
from calls import Call, T

pick = st.sampled_from

DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "int64", "uint8", "bool", "complex64"),
    "float8_e4m3fn",
)
# For an int.  The last are ints to torch: they have __index__.
JUNK = (
    *(0, -1, -2, 5, 7, 100, 2**31 - 1, 2**31, 2**32 + 1, 2**62, 2**63 - 1, 2**63, -(2**63) - 1),
    *(None, True, 1.0, 2.5, float("inf"), "1", "", "same", (), (1,), (1, 1), (1, None), [2, 2, 2]),
    *((1, 1, 1, 1), (2**33, 2), ((1, 1),), ((0, 1), (1, 0)), ((-1, 0),), (1, (1, 1)), {"a": 1}),
    *(np.int64(2), np.int32(1), np.float32(1), (np.int64(1), np.uint8(2)), np.bool_(True)),
)
STRINGS = (None, "", "CRD", "tanh", "reflect", "causal", 3, b"crd", ("crd",))
FLAGS = (None, 0, 1, "yes", 0.0, (), np.bool_(True))
NO_TENSORS = (None, 1.0, [1.0, 2.0], "x")


def _with_arg(call: Call, i: int, value: Any) -> Call:
    args = (*call.args[:i], value, *call.args[i + 1 :])
    return dataclasses.replace(call, args=args)


def _retyped(t: T, dtype: str) -> T:
    real = dtype in ("float64", "float32", "float16", "bfloat16", "complex64")
    return dataclasses.replace(t, dtype=dtype, grad=t.grad and real)


def _reshaped(t: T, shape: tuple[int, ...]) -> T:
    layout = "contiguous" if len(shape) != len(t.shape) else t.layout
    return dataclasses.replace(t, shape=shape, layout=layout)


@st.composite
def _spoil_tensor(draw: Any, call: Call) -> Call:
    i = draw(pick([i for i, a in enumerate(call.args) if isinstance(a, T)]))
    t: T = call.args[i]
    how = draw(pick(("size", "rank", "dtype", "dtypes", "kind", "device", "layout")))
    if how == "dtypes":
        dtype = draw(pick(DTYPES))
        args = tuple(_retyped(a, dtype) if isinstance(a, T) else a for a in call.args)
        return dataclasses.replace(call, args=args)
    if how == "size" and t.shape:
        d = draw(st.integers(0, len(t.shape) - 1))
        size = draw(pick((0, 1, t.shape[d] + 1, 2 * t.shape[d])))
        t = _reshaped(t, (*t.shape[:d], size, *t.shape[d + 1 :]))
    elif how == "rank":
        shapes = [t.shape[1:], t.shape[:-1], (*t.shape, 1), (1, *t.shape), (), (1,) * 7]
        t = _reshaped(t, draw(pick(shapes)))
    elif how == "dtype":
        t = _retyped(t, draw(pick(DTYPES)))
    elif how == "device":
        t = dataclasses.replace(t, device="meta")
    elif how == "layout" and t.dtype == "float32" and 0 < len(t.shape) < 6 and 0 not in t.shape:
        t = dataclasses.replace(t, layout=draw(pick(("sparse", "mkldnn"))), grad=False)
    elif how == "kind":
        return _with_arg(call, i, draw(pick(NO_TENSORS)))
    return _with_arg(call, i, t)


@st.composite
def _spoil_argument(draw: Any, call: Call, names: tuple[str, ...]) -> Call:
    name = draw(pick(names))
    value = call.kwargs.get(name)
    if name in ("order", "activation"):
        value = draw(pick(STRINGS))
    elif name == "ceil_mode":
        value = draw(pick(FLAGS))
    elif isinstance(value, (tuple, list)) and value and draw(st.booleans()):
        changed = list(value)
        i = draw(st.integers(0, len(changed) - 1))
        how = draw(pick(("replace", "drop", "double")))
        changed[i : i + 1] = {
            "replace": [draw(pick(JUNK))],
            "drop": [],
            "double": [changed[i], changed[i]],
        }[how]
        value = type(value)(changed)
    else:
        value = draw(pick(JUNK))
    return dataclasses.replace(call, kwargs={**call.kwargs, name: value})


ARGUMENTS = {
    "depth_max_pool": ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    "space_to_depth": ("block_size", "order"),
    "depth_to_space": ("block_size", "order"),
    "pixel_shuffle": ("upscale_factor",),
    "pixel_unshuffle": ("downscale_factor",),
    "channel_shuffle": ("groups",),
    **dict.fromkeys(
        [f"depthwise_conv_transpose{nd}d" for nd in (1, 2, 3)],
        ("stride", "padding", "output_padding", "dilation"),
    ),
}


@st.composite
def spoil(draw: Any, call: Call) -> Call:
    if not call.kwargs and call.function not in ARGUMENTS and "conv" not in call.function:
        return draw(_spoil_tensor(call))  # it has no other arguments
    if draw(st.booleans()):
        return draw(_spoil_tensor(call))
    conv = ("stride", "padding", "dilation", "activation")
    return draw(_spoil_argument(call, ARGUMENTS.get(call.function, conv)))
