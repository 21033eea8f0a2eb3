# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Averages and gates in terms of ONNX's own operators: a part of :mod:`fastconv._onnx`."""

from __future__ import annotations

from typing import Any

from onnxscript import opset18 as op


def global_avg_pool(input: Any) -> Any:
    return op.GlobalAveragePool(input)


def sigmoid_gate(input: Any, gate: Any) -> Any:
    if len(gate.shape) < len(input.shape):
        space = list(range(len(gate.shape), len(input.shape)))
        gate = op.Unsqueeze(gate, op.Constant(value_ints=space))
    return op.Mul(input, op.Sigmoid(gate))
