# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""The operators in terms of ONNX's own: what :func:`fastconv.onnx_translation_table` returns.

Imported only when it is asked for, because it needs onnxscript.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import ir
from onnxscript import opset18 as op

from fastconv import _onnx_squeeze as squeeze
from fastconv._onnx_activation import with_activation

# Sizes are ints where they are known, and one-dimensional tensors of one element where they are
# only known when the model runs.
Size = Any


def _constant(values: Sequence[int]) -> Any:
    return op.Constant(value_ints=list(values))


def _size(x: Any, dim: int) -> Size:
    size = x.shape[dim]
    return size if isinstance(size, int) else op.Shape(x, start=dim, end=dim + 1)


def _times(size: Size, factor: int) -> Size:
    return size * factor if isinstance(size, int) else op.Mul(size, _constant([factor]))


def _over(size: Size, divisor: int) -> Size:
    return size // divisor if isinstance(size, int) else op.Div(size, _constant([divisor]))


def _list(values: Sequence[Size]) -> Any:
    """A tensor of the values, some of which may be known only when the model runs."""
    if all(isinstance(v, int) for v in values):
        return _constant(values)
    rows = [_constant([v]) if isinstance(v, int) else op.Reshape(v, _constant([1])) for v in values]
    return op.Concat(*rows, axis=0)


def _reshape(x: Any, sizes: Sequence[Size]) -> Any:
    if sum(not isinstance(s, int) for s in sizes) == 1 and 0 not in sizes and -1 not in sizes:
        sizes = [s if isinstance(s, int) else -1 for s in sizes]
    return op.Reshape(x, _list(sizes), allowzero=int(0 in sizes))


def _sizes(x: Any, first: int = 0) -> list[Size]:
    return [_size(x, d) for d in range(first, len(x.shape))]


def _shaped(value: Any, like: Any, sizes: Sequence[Size]) -> Any:
    """Notes what the exporter does not infer until later, for the functions here."""
    value.shape = ir.Shape([s if isinstance(s, int) else None for s in sizes])
    value.dtype = like.dtype
    return value


def _batched(x: Any, rank: int) -> tuple[Any, bool]:
    """The tensor with a batch of one if it came without."""
    if len(x.shape) == rank:
        return x, False
    sizes = [1, *_sizes(x)]
    return _shaped(op.Unsqueeze(x, _constant([0])), x, sizes), True


def _channels(x: Any, function: str) -> int:
    if not isinstance(x.shape[1], int):
        raise ValueError(f"{function}: ONNX needs the number of channels when the model is made")
    return x.shape[1]


# ---- convolutions ----


def _conv(
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    tile: int = -1,
) -> Any:
    x, single = _batched(input, len(weight.shape))
    nd = len(weight.shape) - 2
    group = _channels(x, "depthwise_conv")
    begin, end = list(padding[0::2]), list(padding[1::2])
    if not all(isinstance(p, int) for p in padding):
        # 'same' at a stride depends on the size: Conv's own pads are constants.
        x = op.Pad(x, _list([0, 0, *begin, 0, 0, *end]))
        begin, end = [0] * nd, [0] * nd
    y = op.Conv(
        x,
        weight,
        bias,
        strides=list(stride),
        pads=[*begin, *end],
        dilations=list(dilation),
        group=group,
        kernel_shape=list(weight.shape[2:]),
    )
    return op.Squeeze(y, _constant([0])) if single else y


def _conv_transpose(
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    dilation: Any,
    tile: int = -1,
) -> Any:
    x, single = _batched(input, len(weight.shape))
    group = _channels(x, "depthwise_conv_transpose")
    # onnxruntime refuses an output_padding of a stride or more.  A zero after the input makes the
    # result one stride longer: output_padding = zeros * stride + extra.
    zeros = [e // s for e, s in zip(output_padding, stride, strict=True)]
    extra = [e % s for e, s in zip(output_padding, stride, strict=True)]
    if any(zeros):
        x = op.Pad(x, _constant([0] * (2 + len(zeros) + 2) + zeros))
    y = op.ConvTranspose(
        x,
        weight,
        bias,
        strides=list(stride),
        pads=[*padding, *padding],
        output_padding=extra,
        dilations=list(dilation),
        group=group,
        kernel_shape=list(weight.shape[2:]),
    )
    return op.Squeeze(y, _constant([0])) if single else y


# ---- rearrangements ----


def _orders(lead: int, nd: int, order: str) -> list[int]:
    """Where (C, offsets) are among the channels: positions in (*lead, C, s1, b1, s2, b2, ...)."""
    channel = lead
    offsets = [lead + 2 + 2 * d for d in range(nd)]
    if order == "crd":
        return [channel, *offsets]
    return [*(offsets if order == "dcr" else reversed(offsets)), channel]


def _own_operator(x: Any, blocks: Sequence[int], modes: Sequence[str], order: str) -> bool:
    """ONNX's operators are for square blocks of images; runtimes have them for floats."""
    image = len(x.shape) == 4 and len(blocks) == 2 and blocks[0] == blocks[1]
    return image and order in modes and x.dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE)


def _space_to_depth(input: Any, block_size: Any, order: str = "dcr", tile: int = -1) -> Any:
    blocks, nd = list(block_size), len(block_size)
    if _own_operator(input, blocks, ("dcr",), order):
        return op.SpaceToDepth(input, blocksize=blocks[0])
    lead = len(input.shape) - nd - 1
    small = [_over(s, b) for s, b in zip(_sizes(input, lead + 1), blocks, strict=True)]
    split = [v for pair in zip(small, blocks, strict=True) for v in pair]
    x = _reshape(input, [*_sizes(input)[: lead + 1], *split])
    space = [lead + 1 + 2 * d for d in range(nd)]
    x = op.Transpose(x, perm=[*range(lead), *_orders(lead, nd, order), *space])
    channels = _times(_size(input, lead), math.prod(blocks))
    return _reshape(x, [*_sizes(input)[:lead], channels, *small])


def _depth_to_space(input: Any, block_size: Any, order: str = "dcr", tile: int = -1) -> Any:
    blocks, nd = list(block_size), len(block_size)
    if _own_operator(input, blocks, ("dcr", "crd"), order):
        return op.DepthToSpace(input, blocksize=blocks[0], mode=order.upper())
    lead = len(input.shape) - nd - 1
    channels = _over(_size(input, lead), math.prod(blocks))
    space = _sizes(input, lead + 1)
    split = [v for pair in zip(space, blocks, strict=True) for v in pair]
    deep = [*_orders(lead, nd, order), *(lead + 1 + 2 * d for d in range(nd))]
    parts = [channels, *split]
    x = _reshape(input, [*_sizes(input)[:lead], *(parts[p - lead] for p in deep)])
    # The inverse of the permutation that space_to_depth would do.
    back = [lead + deep.index(d) for d in sorted(deep)]
    x = op.Transpose(x, perm=[*range(lead), *back])
    large = [_times(s, b) for s, b in zip(space, blocks, strict=True)]
    return _reshape(x, [*_sizes(input)[:lead], channels, *large])


def _channel_shuffle(input: Any, groups: int, tile: int = -1) -> Any:
    batch, channels, *space = _sizes(input)
    x = _reshape(input, [batch, groups, _over(channels, groups), *space])
    x = op.Transpose(x, perm=[0, 2, 1, *range(3, len(space) + 3)])
    return _reshape(x, [batch, channels, *space])


# ---- pooling ----


def _windows(x: Any, windows: Sequence[Sequence[int]], ceil_mode: bool) -> Any:
    kernel, stride, padding, dilation = (list(w) for w in windows)
    return op.MaxPool(
        x,
        kernel_shape=kernel,
        strides=stride,
        pads=[*padding, *padding],
        dilations=dilation,
        ceil_mode=int(ceil_mode),
    )


def _over_channels(x: Any, windows: Sequence[Sequence[int]], ceil_mode: bool) -> tuple[Any, Any]:
    """Pools the channels of (N, C, *spatial) alone: the pixels are one row."""
    batch, channels, *space = _sizes(x)
    image = _reshape(x, [batch, 1, channels, -1])
    padded = [[w[0], rest] for w, rest in zip(windows, (1, 1, 0, 1), strict=True)]
    y, where = _windows(image, padded, ceil_mode)
    return _reshape(y, [batch, -1, *space]), _reshape(where, [batch, -1, *space])


def _pool(input: Any, windows: Sequence[Sequence[int]], ceil_mode: bool) -> tuple[Any, Any]:
    """The maxima, and their positions in the flattened (C, *spatial)."""
    nd = len(windows[0]) - 1
    x, single = _batched(input, nd + 2)
    plain = all(w[1:] == [rest] * nd for w, rest in zip(windows[:3], (1, 1, 0), strict=True))
    if plain:
        y, where = _over_channels(x, windows, ceil_mode)
    elif nd <= 2:
        y, where = _windows(op.Unsqueeze(x, _constant([1])), windows, ceil_mode)
        y, where = op.Squeeze(y, _constant([1])), op.Squeeze(where, _constant([1]))
    else:
        # Runtimes pool over three dimensions at most.  First space, then channels: of equal values
        # the first one in (C, *spatial) wins, as when all are pooled at once.
        mid, first = _windows(x, [w[1:] for w in windows], ceil_mode)
        space = [op.Shape(mid, start=d, end=d + 1) for d in range(2, nd + 2)]
        sizes = [*_sizes(x)[:2], *space]
        y, where = _over_channels(_shaped(mid, x, sizes), windows, ceil_mode)
        where = op.Gather(op.Reshape(first, _constant([-1])), where)
    # ONNX counts through the batch too.
    count = op.ReduceProd(op.Shape(x, start=1), keepdims=0)
    where = op.Mod(where, count)
    if single:
        y, where = op.Squeeze(y, _constant([0])), op.Squeeze(where, _constant([0]))
    return y, where


def _depth_max_pool(
    input: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool = False,
    tile: int = -1,
) -> Any:
    windows = [list(w) for w in (kernel_size, stride, padding, dilation)]
    return _pool(input, windows, ceil_mode)[0]


def _depth_max_pool_with_indices(
    input: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool = False,
    tile: int = -1,
) -> Any:
    windows = [list(w) for w in (kernel_size, stride, padding, dilation)]
    return _pool(input, windows, ceil_mode)


def table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Every operator that a forward pass calls, with its translation.

    All but causal_conv1d_update, which writes to an argument: it is written out before.
    """
    ops = torch.ops.fastconv
    return {
        ops.depthwise_conv.default: _conv,
        ops.depthwise_conv_act.default: with_activation(_conv),
        ops.depthwise_conv_transpose.default: _conv_transpose,
        ops.space_to_depth.default: _space_to_depth,
        ops.depth_to_space.default: _depth_to_space,
        ops.channel_shuffle.default: _channel_shuffle,
        ops.depth_max_pool.default: _depth_max_pool,
        ops.depth_max_pool_with_indices.default: _depth_max_pool_with_indices,
        ops.global_avg_pool.default: squeeze.global_avg_pool,
        ops.sigmoid_gate.default: squeeze.sigmoid_gate,
    }
