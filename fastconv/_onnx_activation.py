# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Activations in terms of ONNX's own operators: a part of :mod:`fastconv._onnx`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from onnxscript import opset18 as op


def _number(value: float, like: Any) -> Any:
    return op.CastLike(op.Constant(value_float=value), like)


def activate(y: Any, activation: str) -> Any:
    if activation == "relu":
        return op.Relu(y)
    if activation == "relu6":
        return op.Clip(y, _number(0, y), _number(6, y))
    if activation == "hardswish":
        return op.HardSwish(y)
    if activation == "silu":
        return op.Mul(y, op.Sigmoid(y))
    if activation != "gelu":
        raise ValueError(f"depthwise_conv_act: unknown activation {activation!r}")
    # Gelu itself comes with opset 20.
    erf = op.Erf(op.Mul(y, _number(math.sqrt(0.5), y)))
    return op.Mul(op.Mul(y, _number(0.5, y)), op.Add(erf, _number(1, y)))


def with_activation(conv: Callable[..., Any]) -> Callable[..., Any]:
    """The translation of a convolution, with the name of an activation as a last argument."""

    def translation(
        input: Any,
        weight: Any,
        bias: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        activation: str,
        tile: int = -1,
    ) -> Any:
        return activate(conv(input, weight, bias, stride, padding, dilation), activation)

    return translation
