# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""What every operator of fastconv means, in plain PyTorch: the oracle of the tests.

Each function has the signature and the arguments of its namesake in :mod:`fastconv`, where they
are described, and spells out the definition with slices, products and sums, so that it can be
read, differentiated any number of times, and trusted.  It calls no convolution, pooling or
shuffle of PyTorch, whose kernels are themselves wrong now and then.  Run it in float64 on the
CPU; it is slow, and it does not check its arguments beyond what keeps it from returning nonsense.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastconv._reference_squeeze import (
    causal_conv1d_update,
    global_avg_pool1d,
    global_avg_pool2d,
    global_avg_pool3d,
    sigmoid_gate,
)
from fastconv._reference_transpose import (
    depthwise_conv_transpose1d,
    depthwise_conv_transpose2d,
    depthwise_conv_transpose3d,
)

__all__ = [
    "causal_conv1d_update",
    "channel_shuffle",
    "conv_padding",
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
]

_ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda y: y,
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "silu": F.silu,
    "gelu": F.gelu,
}


def per_dim(value: Any, dims: int) -> tuple[Any, ...]:
    """Repeats a single value for every dimension, as torch.nn does."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(value) if len(value) == dims else tuple(value) * dims
    return (value,) * dims


def conv_padding(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Any,
    dilation: Sequence[int],
) -> list[tuple[int, int]]:
    """Resolves the ``padding`` argument of a depthwise convolution.

    Args:
        size: spatial size of the input.
        kernel: spatial size of the kernel.
        stride: stride of every dimension.
        padding: what the caller gave: an int, one int or one ``(begin, end)`` pair per dimension,
            ``'valid'``, ``'same'`` or ``'causal'``.
        dilation: dilation of every dimension.

    Returns:
        How many zeros stand before and after the input, for every dimension.
    """
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    if padding == "valid":
        return [(0, 0)] * len(size)
    if padding == "causal":
        return [(extent[0] - 1, 0)]
    if padding == "same":
        pads = []
        for n, e, s in zip(size, extent, stride, strict=True):
            out = -(-n // s)
            total = max((out - 1) * s + e - n, 0)
            pads.append((total // 2, total - total // 2))
        return pads
    return [(p, p) if isinstance(p, int) else (p[0], p[1]) for p in per_dim(padding, len(size))]


def _depthwise_conv(
    dims: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    activation: str | None,
) -> Tensor:
    batched = input.dim() == dims + 2
    x = input if batched else input.unsqueeze(0)
    size, kernel = x.shape[2:], weight.shape[2:]
    stride, dilation = per_dim(stride, dims), per_dim(dilation, dims)
    pads = conv_padding(size, kernel, stride, padding, dilation)

    # F.pad counts dimensions from the last one.
    x = F.pad(x, [p for pair in reversed(pads) for p in pair])
    x = x.repeat_interleave(weight.shape[0] // x.shape[1], dim=1)
    out = [
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(x.shape[2:], kernel, stride, dilation, strict=True)
    ]
    if min(out) <= 0:
        raise RuntimeError("depthwise_conv: the kernel is larger than the padded input")

    y = x.new_zeros((*x.shape[:2], *out))
    for tap in itertools.product(*map(range, kernel)):
        window = [
            slice(t * d, t * d + (o - 1) * s + 1, s)
            for t, o, s, d in zip(tap, out, stride, dilation, strict=True)
        ]
        place: tuple[Any, ...] = (..., *tap)
        view: tuple[Any, ...] = (..., *window)
        y = y + x[view] * weight[:, 0][place].reshape(-1, *[1] * dims)
    if bias is not None:
        y = y + bias.reshape(-1, *[1] * dims)
    y = _ACTIVATIONS[activation](y)
    return y if batched else y.squeeze(0)


def depthwise_conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    *,
    activation: str | None = None,
) -> Tensor:
    """Reference of :func:`fastconv.depthwise_conv1d`: a sum over taps of shifted slices."""
    return _depthwise_conv(1, input, weight, bias, stride, padding, dilation, activation)


def depthwise_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    *,
    activation: str | None = None,
) -> Tensor:
    """Reference of :func:`fastconv.depthwise_conv2d`; see :func:`depthwise_conv1d`."""
    return _depthwise_conv(2, input, weight, bias, stride, padding, dilation, activation)


def depthwise_conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    *,
    activation: str | None = None,
) -> Tensor:
    """Reference of :func:`fastconv.depthwise_conv3d`; see :func:`depthwise_conv1d`."""
    return _depthwise_conv(3, input, weight, bias, stride, padding, dilation, activation)


def _pool_out_size(n: int, k: int, s: int, p: int, d: int, ceil_mode: bool) -> int:
    span = n + 2 * p - d * (k - 1) - 1
    out = (-(-span // s) if ceil_mode else span // s) + 1
    # A window may hang over the end, but must not start in the padding there.
    return out - 1 if ceil_mode and (out - 1) * s >= n + p else out


def depth_max_pool(
    input: Tensor,
    kernel_size: int | Sequence[int],
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Reference of :func:`fastconv.depth_max_pool`: a scan over the taps of each window.

    The first of equal maxima wins, a NaN beats every number (and the last NaN of several wins),
    and padding never wins: what ``F.max_pool3d(input.unsqueeze(1), ...)`` does for 2-D inputs.
    """
    if isinstance(kernel_size, int):  # the spatial axes are left as they are
        rest = input.dim() - 2
        stride = kernel_size if stride is None else stride
        kernel_size = (kernel_size, *[1] * rest)
        stride, dilation = (stride, *[1] * rest), (dilation, *[1] * rest)
        padding = (padding, *[0] * rest)
    axes = len(kernel_size)
    batched = input.dim() == axes + 1
    kernel, step = tuple(kernel_size), per_dim(kernel_size if stride is None else stride, axes)
    pad, dil = per_dim(padding, axes), per_dim(dilation, axes)

    x = input if batched else input.unsqueeze(0)
    size = x.shape[1:]
    out = [
        _pool_out_size(n, k, s, p, d, ceil_mode)
        for n, k, s, p, d in zip(size, kernel, step, pad, dil, strict=True)
    ]
    if min(out) <= 0:
        raise RuntimeError("depth_max_pool: the window is larger than the padded input")

    flat = x.detach().flatten(1)
    best = torch.zeros((x.shape[0], *out), dtype=x.dtype)
    index = torch.zeros((x.shape[0], *out), dtype=torch.int64)
    found = torch.zeros(out, dtype=torch.bool)
    for tap in itertools.product(*map(range, kernel)):
        place = torch.zeros(out, dtype=torch.int64)
        inside = torch.ones(out, dtype=torch.bool)
        for axis, n in enumerate(size):
            at = torch.arange(out[axis]) * step[axis] + tap[axis] * dil[axis] - pad[axis]
            at = at.reshape(-1, *[1] * (axes - axis - 1))
            inside = inside & (at >= 0) & (at < n)
            place = place * n + at.clamp(0, n - 1)
        value = flat[:, place.flatten()].reshape(best.shape)
        take = inside & (~found | (value > best) | value.isnan())
        best = torch.where(take, value, best)
        index = torch.where(take, place, index)
        found = found | inside

    # Gathered, so that the gradient flows to the winners.
    y = x.flatten(1).gather(1, index.flatten(1)).reshape(index.shape)
    if not batched:
        y, index = y.squeeze(0), index.squeeze(0)
    return (y, index) if return_indices else y


def _order_axes(order: str, dims: int) -> list[int]:
    """Places of (C, block offsets...) inside the deep channel, slowest first; 0 stands for C."""
    offsets = list(range(1, dims + 1))
    return {"crd": [0, *offsets], "dcr": [*offsets, 0], "focus": [*reversed(offsets), 0]}[order]


def space_to_depth(input: Tensor, block_size: int | Sequence[int], order: str = "dcr") -> Tensor:
    """Reference of :func:`fastconv.space_to_depth`: a view, a permutation and a copy."""
    dims = input.dim() - 2
    block = per_dim(block_size, dims)
    coarse = [n // b for n, b in zip(input.shape[2:], block, strict=True)]
    split = [n for pair in zip(coarse, block, strict=True) for n in pair]
    x = input.reshape(*input.shape[:2], *split)
    # Axes of x: batch, C, then (coarse, offset) of every spatial dimension.
    deep = [1 if a == 0 else 2 * a + 1 for a in _order_axes(order, dims)]
    x = x.permute(0, *deep, *[2 * a + 2 for a in range(dims)])
    channels = input.shape[1] * math.prod(block)
    return x.reshape(input.shape[0], channels, *coarse)


def depth_to_space(input: Tensor, block_size: int | Sequence[int], order: str = "dcr") -> Tensor:
    """Reference of :func:`fastconv.depth_to_space`, the inverse of :func:`space_to_depth`."""
    dims = input.dim() - 2
    block = per_dim(block_size, dims)
    channels = input.shape[1] // math.prod(block)
    axes = _order_axes(order, dims)
    deep = [channels if a == 0 else block[a - 1] for a in axes]
    x = input.reshape(input.shape[0], *deep, *input.shape[2:])
    # Axis of C, and of the offset of every spatial dimension, in x.
    where = {a: i + 1 for i, a in enumerate(axes)}
    spatial = [axis for a in range(dims) for axis in (dims + 2 + a, where[a + 1])]
    x = x.permute(0, where[0], *spatial)
    fine = [n * b for n, b in zip(input.shape[2:], block, strict=True)]
    return x.reshape(input.shape[0], channels, *fine)


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """Reference of :func:`fastconv.pixel_shuffle`: :func:`depth_to_space` in the 'crd' order."""
    x = input.reshape(input.shape[:-3].numel(), *input.shape[-3:])
    y = depth_to_space(x, upscale_factor, "crd")
    return y.reshape(*input.shape[:-3], *y.shape[1:])


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """Reference of :func:`fastconv.pixel_unshuffle`: :func:`space_to_depth` in the 'crd' order."""
    x = input.reshape(input.shape[:-3].numel(), *input.shape[-3:])
    y = space_to_depth(x, downscale_factor, "crd")
    return y.reshape(*input.shape[:-3], *y.shape[1:])


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """Reference of :func:`fastconv.channel_shuffle`: a transposition of (groups, C / groups)."""
    n, c = input.shape[:2]
    x = input.reshape(n, groups, c // groups, *input.shape[2:])
    return x.transpose(1, 2).reshape(input.shape)
