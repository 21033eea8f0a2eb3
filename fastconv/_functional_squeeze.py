# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Squeeze and excitation as functions: a part of :mod:`fastconv.functional`."""

from __future__ import annotations

import torch
from torch import Tensor

from fastconv._arguments import require_tensor

_global_avg_pool = torch.ops.fastconv.global_avg_pool.default
_sigmoid_gate = torch.ops.fastconv.sigmoid_gate.default


def _pool(nd: int, input: Tensor) -> Tensor:
    function = f"global_avg_pool{nd}d"
    require_tensor(function, "input", input)
    output: Tensor
    if input.dim() == nd + 1:
        output = _global_avg_pool(input.unsqueeze(0)).squeeze(0)
        return output
    if input.dim() != nd + 2:  # the operator takes every rank
        raise RuntimeError(
            f"Expected {nd + 1}D (unbatched) or {nd + 2}D (batched) input to {function}, but got "
            f"input of size: {list(input.shape)}"
        )
    output = _global_avg_pool(input)
    return output


def global_avg_pool1d(input: Tensor) -> Tensor:
    """Averages each channel of a sequence: ``F.adaptive_avg_pool1d(input, 1)``.

    Sums are taken in float32 (float64 for float64), in an order that depends on the sizes alone.

    Args:
        input: ``(N, C, L)`` or ``(C, L)``; float32, float64, float16 or bfloat16, in any layout.

    Returns:
        ``(N, C, 1)``, or without ``N``.

    Raises:
        TypeError: `input` is no tensor.
        RuntimeError: `input` is of another rank or dtype.

    Example:
        >>> fastconv.global_avg_pool1d(torch.ones(2, 8, 50)).shape
        torch.Size([2, 8, 1])
    """
    return _pool(1, input)


def global_avg_pool2d(input: Tensor) -> Tensor:
    """Averages each channel of an image: ``F.adaptive_avg_pool2d(input, 1)``.

    The global average pooling of Network In Network (https://arxiv.org/abs/1312.4400), and the
    squeeze of squeeze-and-excitation (https://arxiv.org/abs/1709.01507).  Sums are taken in float32
    (float64 for float64), in an order that depends on the sizes alone.

    Args:
        input: ``(N, C, H, W)`` or ``(C, H, W)``; float32, float64, float16 or bfloat16, in any
            layout.

    Returns:
        ``(N, C, 1, 1)``, or without ``N``.

    Raises:
        TypeError: `input` is no tensor.
        RuntimeError: `input` is of another rank or dtype.

    Example:
        >>> fastconv.global_avg_pool2d(torch.ones(2, 8, 7, 7)).shape
        torch.Size([2, 8, 1, 1])
    """
    return _pool(2, input)


def global_avg_pool3d(input: Tensor) -> Tensor:
    """Averages each channel of a volume or video: ``F.adaptive_avg_pool3d(input, 1)``.

    Args:
        input: ``(N, C, D, H, W)`` or ``(C, D, H, W)``; float32, float64, float16 or bfloat16, in
            any layout.

    Returns:
        ``(N, C, 1, 1, 1)``, or without ``N``.

    Raises:
        TypeError: `input` is no tensor.
        RuntimeError: `input` is of another rank or dtype.

    Example:
        >>> fastconv.global_avg_pool3d(torch.ones(2, 8, 4, 7, 7)).shape
        torch.Size([2, 8, 1, 1, 1])
    """
    return _pool(3, input)


def sigmoid_gate(input: Tensor, gate: Tensor) -> Tensor:
    """Multiplies each channel by the sigmoid of its gate, in one pass: ``input * gate.sigmoid()``.

    The excitation of squeeze-and-excitation (https://arxiv.org/abs/1709.01507).  The backward is
    one pass as well: it reads the incoming gradient and `input` once, and writes both gradients.

    Args:
        input: ``(N, C, *spatial)`` with one to three spatial dimensions; float32, float64, float16
            or bfloat16, in any layout.
        gate: ``(N, C)`` or ``(N, C, 1, ...)``, of the dtype of `input`; before the sigmoid.

    Returns:
        A tensor of the size of `input`, channels-last if `input` is.

    Raises:
        TypeError: An argument is no tensor.
        RuntimeError: Shapes, dtypes or devices do not fit.

    Example:
        >>> x, gate = torch.ones(2, 8, 7, 7), torch.zeros(2, 8, 1, 1)
        >>> fastconv.sigmoid_gate(x, gate)[0, 0, 0, 0].item()
        0.5
    """
    require_tensor("sigmoid_gate", "input", input)
    require_tensor("sigmoid_gate", "gate", gate)
    output: Tensor = _sigmoid_gate(input, gate)
    return output
