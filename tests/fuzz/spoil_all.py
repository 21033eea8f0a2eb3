# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Every wrong value of spoil.py in every place of every argument, one at a time.

Random draws take days to put each value everywhere; here they are all there, around a few sound
calls.  What comes out may still be sound: the model decides.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import spoil
import torch
from calls import Call, T

import fastconv

# Rarer than spoil.JUNK: nested, mixed, of other types, at the limits of 64 bits in second place.
MORE = (
    *(False, (True, 1), (1, True), (True,), [True, True], (2, True, 1), ((True, 1),), ((1, True),)),
    *(((0, 1), (True, 0)), ((0, 1), (1, True)), ((1, 1), 1), [[1, 1], [1, 1]], ((),), ((), ())),
    *((1.0,), (1, 2.0), ("1",), (1, "1"), (0,), (-1,), (2**63,), (1, 2**63), (2**62, 2**62)),
    *(np.array(2), np.array([2, 2]), (np.bool_(True), 1), (1, np.bool_(True)), (1, np.float64(1))),
    *(torch.tensor(2), torch.tensor([2, 2]), torch.tensor(2.5), torch.tensor(True)),
    *((torch.tensor(2), 1), (1, torch.tensor(2)), torch.Size([2, 2]), range(1, 3), {1}, 1j),
    *("valid ", "SAME", 10**30, -(10**30), (10**30,), (1, 10**30)),
)
JUNK = (*spoil.JUNK, *MORE)


def _call(function: str, *tensors: T | None, **kwargs: Any) -> Call:
    level = fastconv._C.isa_levels()[-1]
    return Call(function, tensors, kwargs, isa=level, threads=1, grad_layout="contiguous", seed=7)


def sound() -> list[Call]:
    """What is spoiled: a call or two of every function, with every argument."""
    x, small = T((2, 4, 7, 7), grad=True), T((2, 4, 5, 5), grad=True)
    filters, bias = T((4, 1, 3, 3), grad=True), T((4,), grad=True)
    two = {"stride": (2, 2), "dilation": (2, 2)}
    calls = [
        _call("depthwise_conv2d", x, filters, bias, **two, padding=(1, 1), activation="relu"),
        _call("depthwise_conv2d", x, filters, None, **two, padding=((1, 2), (2, 1))),
        _call("depthwise_conv2d", x, filters, None, stride=1, padding="same", dilation=1),
        _call("depthwise_conv1d", T((2, 4, 7)), T((4, 1, 3)), None, padding=(1,), stride=(2,)),
        _call(
            "depthwise_conv_transpose2d", small, filters, bias,
            **two, padding=(1, 1), output_padding=(1, 1),
        ),
        _call("depth_max_pool", x, kernel_size=3, stride=2, padding=1, dilation=1, ceil_mode=True),
        _call("pixel_unshuffle", T((2, 3, 4, 4)), downscale_factor=2),
        _call("pixel_shuffle", T((2, 4, 3, 3)), upscale_factor=2),
        _call("channel_shuffle", T((2, 6, 3, 3)), groups=3),
        _call("space_to_depth", T((2, 3, 4, 4)), block_size=(2, 2), order="dcr"),
        _call("depth_to_space", T((2, 8, 3, 3)), block_size=(2, 2), order="dcr"),
        _call("global_avg_pool2d", small),
        _call("sigmoid_gate", small, T((2, 4, 1, 1))),
    ]  # fmt: skip
    for axes in (1, 3):
        size, shape = (2,) * axes, (2, 7, 7, 7)[: axes + 1]
        windows = {"kernel_size": (3,) * axes, "stride": size, "padding": (1,) * axes}
        calls.append(_call("depth_max_pool", T(shape), **windows, dilation=(1,) * axes))
    return calls


def arguments(call: Call) -> Iterator[Call]:
    """Another value for an argument, or for one number of it, or one number less or more."""
    conv = ("stride", "padding", "dilation", "activation")
    plain = () if not call.kwargs else conv
    for name in spoil.ARGUMENTS.get(call.function, plain):
        value = call.kwargs.get(name)
        values: list[Any] = list(JUNK)
        if name in ("order", "activation"):
            values += spoil.STRINGS
        elif name == "ceil_mode":
            values += spoil.FLAGS
        elif isinstance(value, tuple):
            values += [value[1:], value + value[:1]]
            for i, v in itertools.product(range(len(value)), JUNK):
                values.append((*value[:i], v, *value[i + 1 :]))
                if isinstance(value[i], tuple):  # a pair
                    pairs = ((v, value[i][1]), (value[i][0], v))
                    values += [(*value[:i], pair, *value[i + 1 :]) for pair in pairs]
        for v in values:
            yield dataclasses.replace(call, kwargs={**call.kwargs, name: v})


def tensors(call: Call) -> Iterator[Call]:
    """Another size, rank, dtype, device or layout of a tensor, or something else in its place."""
    for dtype in spoil.DTYPES:
        args = tuple(spoil._retyped(a, dtype) if isinstance(a, T) else a for a in call.args)
        yield dataclasses.replace(call, args=args)
    for i, t in enumerate(call.args):
        if not isinstance(t, T):
            continue
        shapes = [
            (*t.shape[:d], size, *t.shape[d + 1 :])
            for d, n in enumerate(t.shape)
            for size in (0, 1, 2, n + 1, 2 * n)
        ]
        shapes += [t.shape[1:], t.shape[:-1], (*t.shape, 1), (1, *t.shape)]
        shapes += [(), (0,), (1,), (1,) * 7, *((n,) * len(t.shape) for n in (0, 1))]
        others: list[Any] = [spoil._reshaped(t, shape) for shape in shapes]
        others += [spoil._retyped(t, dtype) for dtype in spoil.DTYPES]
        others.append(dataclasses.replace(t, device="meta"))
        others += [dataclasses.replace(t, layout=name, grad=False) for name in ("sparse", "mkldnn")]
        others += [*spoil.NO_TENSORS, (), 3, True, np.ones(3)]
        for other in others:
            yield spoil._with_arg(call, i, other)
