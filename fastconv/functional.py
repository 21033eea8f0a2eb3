# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""The operators as functions, with the conventions of :mod:`torch.nn.functional`.

These functions only bring their arguments into one form; the operators check them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastconv import _C
from fastconv._arguments import (
    Ints,
    Padding,
    as_int,
    compiling,
    int_list,
    padding_list,
    per_dimension,
    require_tensor,
)
from fastconv._functional_squeeze import global_avg_pool1d as global_avg_pool1d
from fastconv._functional_squeeze import global_avg_pool2d as global_avg_pool2d
from fastconv._functional_squeeze import global_avg_pool3d as global_avg_pool3d
from fastconv._functional_squeeze import sigmoid_gate as sigmoid_gate
from fastconv._functional_transpose import (
    depthwise_conv_transpose1d as depthwise_conv_transpose1d,
)
from fastconv._functional_transpose import (
    depthwise_conv_transpose2d as depthwise_conv_transpose2d,
)
from fastconv._functional_transpose import (
    depthwise_conv_transpose3d as depthwise_conv_transpose3d,
)
from fastconv._functional_update import causal_conv1d_update as causal_conv1d_update

_conv = torch.ops.fastconv.depthwise_conv.default
_conv_act = torch.ops.fastconv.depthwise_conv_act.default
_space_to_depth = torch.ops.fastconv.space_to_depth.default
_depth_to_space = torch.ops.fastconv.depth_to_space.default
_channel_shuffle = torch.ops.fastconv.channel_shuffle.default
_depth_max_pool = torch.ops.fastconv.depth_max_pool.default
_depth_max_pool_with_indices = torch.ops.fastconv.depth_max_pool_with_indices.default

_ACTIVATIONS = ("relu", "relu6", "hardswish", "silu", "gelu")


def _depthwise_conv(
    nd: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Padding,
    dilation: Ints,
    activation: str | None,
) -> Tensor:
    if not compiling():
        short = _C.depthwise_conv(nd, input, weight, bias, stride, padding, dilation, activation)
        if short is not None:
            return short
    function = f"depthwise_conv{nd}d"
    require_tensor(function, "input", input)
    require_tensor(function, "weight", weight)
    if bias is not None:
        require_tensor(function, "bias", bias)
    if activation is not None and activation not in _ACTIVATIONS:
        raise ValueError(
            f"{function}: unknown activation {activation!r}, should be None or one of "
            f"{', '.join(map(repr, _ACTIVATIONS))}"
        )
    strides = per_dimension(function, "stride", stride, nd)
    dilations = per_dimension(function, "dilation", dilation, nd)
    if isinstance(padding, str) and (weight.dim() != nd + 2 or input.dim() < nd):
        padding = 0  # there is nothing to compute it from; the operator says what is wrong
    pads = padding_list(function, padding, input, weight.shape[2:], strides, dilations)
    output: Tensor
    if activation is None:
        output = _conv(input, weight, bias, strides, pads, dilations)
    else:
        output = _conv_act(input, weight, bias, strides, pads, dilations, activation)
    return output


def depthwise_conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    *,
    activation: str | None = None,
) -> Tensor:
    """Convolves each channel of a sequence with filters of its own.

    As :func:`torch.nn.functional.conv1d` with ``groups`` equal to the channels of `input`.

    Args:
        input: ``(N, C, L)`` or ``(C, L)``; float32, float64, float16 or bfloat16.  If the channels
            are innermost in memory (a transposed ``(N, L, C)``), so are the result's.
        weight: ``(C * multiplier, 1, k)``, of the dtype of `input`.
        bias: ``(C * multiplier,)``.
        stride: Step between outputs.
        padding: Zeros on both sides: an int, a ``((begin, end),)`` pair, ``'valid'``, ``'same'``
            (TensorFlow's rule where ``stride > 1``), or ``'causal'``: ``dilation * (k - 1)`` before
            and none after, so that no output sees the future.
        dilation: Step between the taps of a filter.
        activation: None, ``'relu'``, ``'relu6'``, ``'hardswish'``, ``'silu'`` or ``'gelu'``,
            applied in the same pass.

    Returns:
        ``(N, C * multiplier, L_out)``, or without ``N``.

    Raises:
        TypeError: An argument is of the wrong Python type.
        RuntimeError: Shapes, dtypes or devices do not fit, or a number is out of range.
        ValueError: The activation is unknown, or a number does not fit into 64 bits.

    Example:
        >>> x, w = torch.randn(2, 8, 100), torch.randn(8, 1, 4)
        >>> fastconv.depthwise_conv1d(x, w, padding="causal").shape
        torch.Size([2, 8, 100])
    """
    return _depthwise_conv(1, input, weight, bias, stride, padding, dilation, activation)


def depthwise_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    *,
    activation: str | None = None,
) -> Tensor:
    """Convolves each channel of an image with filters of its own.

    As :func:`torch.nn.functional.conv2d` with ``groups`` equal to the channels of `input`; the
    depthwise convolution of MobileNet (https://arxiv.org/abs/1704.04861).

    Args:
        input: ``(N, C, H, W)`` or ``(C, H, W)``; float32, float64, float16 or bfloat16.
        weight: ``(C * multiplier, 1, kh, kw)``, of the dtype of `input`.
        bias: ``(C * multiplier,)``.
        stride: One int, or one per dimension.
        padding: Zeros around the image: an int, one per dimension, one ``(begin, end)`` pair per
            dimension, ``'valid'``, or ``'same'`` (TensorFlow's rule where ``stride > 1``).
        dilation: One int, or one per dimension.
        activation: None, ``'relu'``, ``'relu6'``, ``'hardswish'``, ``'silu'`` or ``'gelu'``,
            applied in the same pass.

    Returns:
        ``(N, C * multiplier, H_out, W_out)``, or without ``N``, channels-last if `input` or
        `weight` is.

    Raises:
        TypeError: An argument is of the wrong Python type.
        RuntimeError: Shapes, dtypes or devices do not fit, or a number is out of range.
        ValueError: The activation is unknown, or a number does not fit into 64 bits.

    Example:
        >>> x, w = torch.randn(1, 32, 56, 56), torch.randn(32, 1, 3, 3)
        >>> fastconv.depthwise_conv2d(x, w, stride=2, padding="same").shape
        torch.Size([1, 32, 28, 28])
    """
    return _depthwise_conv(2, input, weight, bias, stride, padding, dilation, activation)


def depthwise_conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    *,
    activation: str | None = None,
) -> Tensor:
    """Convolves each channel of a volume or video with filters of its own.

    As :func:`torch.nn.functional.conv3d` with ``groups`` equal to the channels of `input`.

    Args:
        input: ``(N, C, D, H, W)`` or ``(C, D, H, W)``; float32, float64, float16 or bfloat16.
        weight: ``(C * multiplier, 1, kd, kh, kw)``, of the dtype of `input`.
        bias: ``(C * multiplier,)``.
        stride: One int, or one per dimension.
        padding: As for :func:`depthwise_conv2d`.
        dilation: One int, or one per dimension.
        activation: As for :func:`depthwise_conv2d`.

    Returns:
        ``(N, C * multiplier, D_out, H_out, W_out)``, or without ``N``, channels-last if `input` or
        `weight` is.

    Raises:
        TypeError: An argument is of the wrong Python type.
        RuntimeError: Shapes, dtypes or devices do not fit, or a number is out of range.
        ValueError: The activation is unknown, or a number does not fit into 64 bits.

    Example:
        >>> x, w = torch.randn(1, 8, 13, 20, 20), torch.randn(8, 1, 3, 3, 3)
        >>> fastconv.depthwise_conv3d(x, w, stride=(1, 2, 2), padding=1).shape
        torch.Size([1, 8, 13, 10, 10])
    """
    return _depthwise_conv(3, input, weight, bias, stride, padding, dilation, activation)


def depth_max_pool(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Takes the maximum over windows of channels, or of channels and space together.

    For two-dimensional images this is ``F.max_pool3d(input.unsqueeze(1), ...).squeeze(1)``, in one
    pass: the first maximum wins ties, and NaN propagates.

    Args:
        input: ``(N, C, *spatial)`` with up to three spatial dimensions, or ``(C, *spatial)`` if
            `kernel_size` is a tuple; float32, float64, float16 or bfloat16.
        kernel_size: An int pools over channels alone; ``(kc, *spatial)`` over all of them.
        stride: As `kernel_size`, which is its default.  With an int `kernel_size` an int concerns
            channels alone; with a tuple, every dimension.  So for `padding` and `dilation`.
        padding: Minus infinity on both sides, at most half the window.
        dilation: Step between the elements of a window.
        ceil_mode: Keep a last window that is only partly filled.
        return_indices: Return the maxima's positions too.

    Returns:
        The maxima; with `return_indices` also their int64 positions in the flattened
        ``(C, *spatial)``.

    Raises:
        TypeError: An argument is of the wrong Python type.
        RuntimeError: Shapes or dtypes do not fit, or a number is out of range.
        ValueError: A number does not fit into 64 bits.

    Example:
        >>> fastconv.depth_max_pool(torch.randn(1, 8, 32, 32), 2).shape
        torch.Size([1, 4, 32, 32])
        >>> fastconv.depth_max_pool(torch.randn(1, 8, 32, 32), (2, 2, 2)).shape
        torch.Size([1, 4, 16, 16])
    """
    if not return_indices and not compiling():
        short = _C.depth_max_pool(input, kernel_size, stride, padding, dilation, ceil_mode)
        if short is not None:
            return short
    require_tensor("depth_max_pool", "input", input)
    if not isinstance(ceil_mode, bool):
        raise TypeError(
            f"depth_max_pool(): argument 'ceil_mode' must be bool, not {type(ceil_mode).__name__}"
        )
    channels_only = not isinstance(kernel_size, (tuple, list))
    dims = max(input.dim() - 1, 1) if channels_only else len(kernel_size)  # type: ignore[arg-type]

    def windows(argument: str, value: Ints, rest: int) -> list[int]:
        if not channels_only:
            return per_dimension("depth_max_pool", argument, value, dims)
        if isinstance(value, (tuple, list)):
            return int_list("depth_max_pool", argument, value, dims)
        return int_list("depth_max_pool", argument, value, 1) + [rest] * (dims - 1)

    kernel = windows("kernel_size", kernel_size, 1)
    # An empty sequence is what torch's own default is made of.
    as_kernel = stride is None or (isinstance(stride, (tuple, list)) and not stride)
    arguments = (
        input,
        kernel,
        kernel if as_kernel else windows("stride", stride, 1),  # type: ignore[arg-type]
        windows("padding", padding, 0),
        windows("dilation", dilation, 1),
        ceil_mode,
    )
    if return_indices:
        values, indices = _depth_max_pool_with_indices(*arguments)
        return values, indices
    output: Tensor = _depth_max_pool(*arguments)
    return output


def _blocks(function: str, input: Tensor, block_size: Ints, order: str) -> list[int]:
    require_tensor(function, "input", input)
    if not isinstance(order, str):
        raise TypeError(f"{function}(): argument 'order' must be str, not {type(order).__name__}")
    spatial = min(max(input.dim() - 2, 1), 3)
    return int_list(function, "block_size", block_size, spatial)


def space_to_depth(input: Tensor, block_size: Ints, order: str = "dcr") -> Tensor:
    """Moves blocks of space into channels.

    ``(N, C, H, W)`` becomes ``(N, C * bh * bw, H / bh, W / bw)``, and likewise for one and three
    spatial dimensions.  `order` says where offset ``(dy, dx)`` of channel ``c`` goes:

    ========  ==============================  =============================================
    order     output channel                  as
    ========  ==============================  =============================================
    'crd'     ``c * bh * bw + dy * bw + dx``  :func:`torch.nn.functional.pixel_unshuffle`
    'dcr'     ``(dy * bw + dx) * C + c``      TensorFlow, ONNX SpaceToDepth
    'focus'   ``(dx * bh + dy) * C + c``      YOLOv5's Focus, SPD-Conv
    ========  ==============================  =============================================

    Args:
        input: ``(N, C, *spatial)`` of any dtype; with a tuple `block_size`, any number of leading
            dimensions.
        block_size: An int for every spatial dimension, or one for each.
        order: ``'crd'``, ``'dcr'`` or ``'focus'``.

    Returns:
        The rearranged tensor, channels-last if `input` is.

    Raises:
        TypeError: An argument is of the wrong Python type.
        RuntimeError: A size is not divisible by its block, or a number is out of range.
        ValueError: The order is unknown, or a size would not fit into 64 bits.

    Example:
        >>> fastconv.space_to_depth(torch.randn(1, 3, 224, 224), 4).shape
        torch.Size([1, 48, 56, 56])
    """
    if not compiling():
        short = _C.space_to_depth(input, block_size, order)
        if short is not None:
            return short
    blocks = _blocks("space_to_depth", input, block_size, order)
    output: Tensor = _space_to_depth(input, blocks, order)
    return output


def depth_to_space(input: Tensor, block_size: Ints, order: str = "dcr") -> Tensor:
    """Moves channels into blocks of space: the inverse of :func:`space_to_depth`.

    Args:
        input: ``(N, C * blocks, *spatial)`` of any dtype; with a tuple `block_size`, any number of
            leading dimensions.
        block_size: An int for every spatial dimension, or one for each.
        order: ``'crd'`` (:func:`torch.nn.functional.pixel_shuffle`), ``'dcr'`` (TensorFlow, ONNX
            DepthToSpace) or ``'focus'``; see :func:`space_to_depth`.

    Returns:
        The rearranged tensor, channels-last if `input` is.

    Raises:
        TypeError: An argument is of the wrong Python type.
        RuntimeError: The channels are not divisible by the block, or a number is out of range.
        ValueError: The order is unknown, or a size would not fit into 64 bits.

    Example:
        >>> fastconv.depth_to_space(torch.randn(1, 48, 56, 56), (4, 4)).shape
        torch.Size([1, 3, 224, 224])
    """
    if not compiling():
        short = _C.depth_to_space(input, block_size, order)
        if short is not None:
            return short
    blocks = _blocks("depth_to_space", input, block_size, order)
    output: Tensor = _depth_to_space(input, blocks, order)
    return output


def _pair(function: str, argument: str, value: Ints) -> list[int]:
    values = int_list(function, argument, value, 2)
    if len(values) != 2:  # the operator would take the last dimensions for other ones
        raise RuntimeError(
            f"{function}: expected {argument} to be an int, or one for each of height and width, "
            f"but got {argument}={value!r}"
        )
    return values


def pixel_shuffle(input: Tensor, upscale_factor: Ints) -> Tensor:
    """Rearranges ``(*, C * r * r, H, W)`` to ``(*, C, H * r, W * r)``.

    As :func:`torch.nn.functional.pixel_shuffle` (https://arxiv.org/abs/1609.05158); also takes a
    pair of factors.

    Args:
        input: At least three dimensions, of any dtype.
        upscale_factor: An int, or one for each of height and width.

    Returns:
        The rearranged tensor, channels-last if `input` is.

    Raises:
        TypeError: An argument is of the wrong Python type.
        RuntimeError: The channels are not divisible by the factors, or a factor is not positive.
        ValueError: A size would not fit into 64 bits.

    Example:
        >>> fastconv.pixel_shuffle(torch.randn(1, 8, 4, 4), 2).shape
        torch.Size([1, 2, 8, 8])
    """
    if not compiling():
        short = _C.depth_to_space(input, upscale_factor)
        if short is not None:
            return short
    require_tensor("pixel_shuffle", "input", input)
    block = _pair("pixel_shuffle", "upscale_factor", upscale_factor)
    output: Tensor = _depth_to_space(input, block, "crd")
    return output


def pixel_unshuffle(input: Tensor, downscale_factor: Ints) -> Tensor:
    """Rearranges ``(*, C, H * r, W * r)`` to ``(*, C * r * r, H, W)``.

    As :func:`torch.nn.functional.pixel_unshuffle`; also takes a pair of factors.

    Args:
        input: At least three dimensions, of any dtype.
        downscale_factor: An int, or one for each of height and width.

    Returns:
        The rearranged tensor, channels-last if `input` is.

    Raises:
        TypeError: An argument is of the wrong Python type.
        RuntimeError: A size is not divisible by its factor, or a factor is not positive.
        ValueError: A size would not fit into 64 bits.

    Example:
        >>> fastconv.pixel_unshuffle(torch.randn(1, 2, 8, 8), 2).shape
        torch.Size([1, 8, 4, 4])
    """
    if not compiling():
        short = _C.space_to_depth(input, downscale_factor)
        if short is not None:
            return short
    require_tensor("pixel_unshuffle", "input", input)
    block = _pair("pixel_unshuffle", "downscale_factor", downscale_factor)
    output: Tensor = _space_to_depth(input, block, "crd")
    return output


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """Interleaves the channels of `groups` groups.

    As :func:`torch.nn.functional.channel_shuffle` (ShuffleNet, https://arxiv.org/abs/1707.01083).

    Args:
        input: ``(N, C, *)`` with at least three dimensions, of any dtype.
        groups: Number of groups; divides ``C``.

    Returns:
        A tensor of the same size, channels-last if `input` is.

    Raises:
        TypeError: An argument is of the wrong Python type.
        RuntimeError: `groups` is not positive or does not divide the channels.
        ValueError: `groups` does not fit into 64 bits.

    Example:
        >>> fastconv.channel_shuffle(torch.arange(4.0).view(1, 4, 1), 2).flatten().tolist()
        [0.0, 2.0, 1.0, 3.0]
    """
    if not compiling():
        short = _C.channel_shuffle(input, groups)
        if short is not None:
            return short
    require_tensor("channel_shuffle", "input", input)
    output: Tensor = _channel_shuffle(input, as_int("channel_shuffle", "groups", groups, groups))
    return output


# torch.fx keeps the layers of torch.nn whole; without this it would follow ours in here, where its
# proxies are no tensors.
for _name in (
    "causal_conv1d_update",
    "channel_shuffle",
    "depth_max_pool",
    "depth_to_space",
    "depthwise_conv1d",
    "depthwise_conv2d",
    "depthwise_conv3d",
    "depthwise_conv_transpose1d",
    "depthwise_conv_transpose2d",
    "depthwise_conv_transpose3d",
    "global_avg_pool1d",
    "global_avg_pool2d",
    "global_avg_pool3d",
    "pixel_shuffle",
    "pixel_unshuffle",
    "sigmoid_gate",
    "space_to_depth",
):
    torch.fx.wrap(_name)
