# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Transposed depthwise convolution as functions: a part of :mod:`fastconv.functional`."""

from __future__ import annotations

import torch
from torch import Tensor

from fastconv import _C
from fastconv._arguments import Ints, compiling, per_dimension, require_tensor

_conv_transpose = torch.ops.fastconv.depthwise_conv_transpose.default


def _depthwise_conv_transpose(
    nd: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    output_padding: Ints,
    dilation: Ints,
) -> Tensor:
    if not compiling():
        short = _C.depthwise_conv_transpose(
            nd, input, weight, bias, stride, padding, output_padding, dilation
        )
        if short is not None:
            return short
    function = f"depthwise_conv_transpose{nd}d"
    require_tensor(function, "input", input)
    require_tensor(function, "weight", weight)
    if bias is not None:
        require_tensor(function, "bias", bias)
    lists = [
        per_dimension(function, argument, value, nd)
        for argument, value in (
            ("stride", stride),
            ("padding", padding),
            ("output_padding", output_padding),
            ("dilation", dilation),
        )
    ]
    output: Tensor = _conv_transpose(input, weight, bias, *lists)
    return output


def depthwise_conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    dilation: Ints = 1,
) -> Tensor:
    """Spreads each element of a sequence over a filter of its channel: learned upsampling.

    As :func:`torch.nn.functional.conv_transpose1d` with ``groups`` equal to the channels of
    `input`; the gradient of :func:`depthwise_conv1d` with respect to its input.

    Args:
        input: ``(N, C, L)`` or ``(C, L)``; float32, float64, float16 or bfloat16.  If the channels
            are innermost in memory (a transposed ``(N, L, C)``), so are the result's.
        weight: ``(C, multiplier, k)``, of the dtype of `input`.
        bias: ``(C * multiplier,)``.
        stride: Step between the results of neighbouring inputs.
        padding: How much of the result to leave out at both ends.
        output_padding: How much to add at the end of the result; less than `stride` or `dilation`.
        dilation: Step between the taps of a filter.

    Returns:
        ``(N, C * multiplier, L_out)``, or without ``N``, where
        ``L_out = (L - 1) * stride - 2 * padding + dilation * (k - 1) + output_padding + 1``.

    Raises:
        TypeError: An argument is of the wrong Python type.
        RuntimeError: Shapes, dtypes or devices do not fit, or a number is out of range.
        ValueError: A number does not fit into 64 bits.

    Example:
        >>> x, w = torch.randn(2, 8, 50), torch.randn(8, 1, 4)
        >>> fastconv.depthwise_conv_transpose1d(x, w, stride=2, padding=1).shape
        torch.Size([2, 8, 100])
    """
    return _depthwise_conv_transpose(
        1, input, weight, bias, stride, padding, output_padding, dilation
    )


def depthwise_conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    dilation: Ints = 1,
) -> Tensor:
    """Spreads each element of an image over a filter of its channel: learned upsampling.

    As :func:`torch.nn.functional.conv_transpose2d` with ``groups`` equal to the channels of
    `input`; the gradient of :func:`depthwise_conv2d` with respect to its input.

    Args:
        input: ``(N, C, H, W)`` or ``(C, H, W)``; float32, float64, float16 or bfloat16.
        weight: ``(C, multiplier, kh, kw)``, of the dtype of `input`.
        bias: ``(C * multiplier,)``.
        stride: Step between the results of neighbouring inputs: one int, or one per dimension.
        padding: How much of the result to leave out on all sides: one int, or one per dimension.
        output_padding: How much to add at the end of each dimension; less than `stride` or
            `dilation`.
        dilation: Step between the taps of a filter: one int, or one per dimension.

    Returns:
        ``(N, C * multiplier, H_out, W_out)``, or without ``N``, channels-last if `input` or
        `weight` is; sizes are those of :func:`depthwise_conv_transpose1d`.

    Raises:
        TypeError: An argument is of the wrong Python type.
        RuntimeError: Shapes, dtypes or devices do not fit, or a number is out of range.
        ValueError: A number does not fit into 64 bits.

    Example:
        >>> x, w = torch.randn(1, 32, 28, 28), torch.randn(32, 1, 3, 3)
        >>> y = fastconv.depthwise_conv_transpose2d(x, w, stride=2, padding=1, output_padding=1)
        >>> y.shape
        torch.Size([1, 32, 56, 56])
    """
    return _depthwise_conv_transpose(
        2, input, weight, bias, stride, padding, output_padding, dilation
    )


def depthwise_conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    dilation: Ints = 1,
) -> Tensor:
    """Spreads each element of a volume or video over a filter of its channel: learned upsampling.

    As :func:`torch.nn.functional.conv_transpose3d` with ``groups`` equal to the channels of
    `input`; the gradient of :func:`depthwise_conv3d` with respect to its input.

    Args:
        input: ``(N, C, D, H, W)`` or ``(C, D, H, W)``; float32, float64, float16 or bfloat16.
        weight: ``(C, multiplier, kd, kh, kw)``, of the dtype of `input`.
        bias: ``(C * multiplier,)``.
        stride: Step between the results of neighbouring inputs: one int, or one per dimension.
        padding: How much of the result to leave out on all sides: one int, or one per dimension.
        output_padding: How much to add at the end of each dimension; less than `stride` or
            `dilation`.
        dilation: Step between the taps of a filter: one int, or one per dimension.

    Returns:
        ``(N, C * multiplier, D_out, H_out, W_out)``, or without ``N``, channels-last if `input` or
        `weight` is; sizes are those of :func:`depthwise_conv_transpose1d`.

    Raises:
        TypeError: An argument is of the wrong Python type.
        RuntimeError: Shapes, dtypes or devices do not fit, or a number is out of range.
        ValueError: A number does not fit into 64 bits.

    Example:
        >>> x, w = torch.randn(1, 8, 5, 10, 10), torch.randn(8, 1, 3, 4, 4)
        >>> fastconv.depthwise_conv_transpose3d(x, w, stride=(1, 2, 2), padding=1).shape
        torch.Size([1, 8, 5, 20, 20])
    """
    return _depthwise_conv_transpose(
        3, input, weight, bias, stride, padding, output_padding, dilation
    )
