# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""The oracle of transposed depthwise convolution: a part of :mod:`fastconv.reference`."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor


def _per_dim(value: Any, dims: int) -> tuple[Any, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    return values if len(values) == dims else values * dims


def transposed_size(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
) -> list[int]:
    """Computes the spatial size of the result."""
    dims = len(kernel)
    numbers = [_per_dim(v, dims) for v in (stride, padding, output_padding, dilation)]
    return [
        (n - 1) * s - 2 * p + d * (k - 1) + extra + 1
        for n, k, s, p, extra, d in zip(size, kernel, *numbers, strict=True)
    ]


def _apart(x: Tensor, axis: int, stride: int) -> Tensor:
    """Puts ``stride - 1`` zeros between neighbouring elements along an axis."""
    if stride == 1 or x.shape[axis] < 2:
        return x
    x = x.movedim(axis, -1)
    x = F.pad(x.unsqueeze(-1), (0, stride - 1)).flatten(-2)
    return x.movedim(-1, axis)


def _place(x: Tensor, axis: int, begin: int, size: int) -> Tensor:
    """Fits x, which starts at position `begin` along an axis, into `size` elements."""
    x = x.movedim(axis, -1)
    first = min(max(-begin, 0), x.shape[-1])
    last = max(first, min(x.shape[-1], size - begin))
    before = min(max(begin, 0), size)
    x = F.pad(x[..., first:last], (before, size - before - (last - first)))
    return x.movedim(-1, axis)


def _depthwise_conv_transpose(
    dims: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    dilation: Any,
) -> Tensor:
    batched = input.dim() == dims + 2
    x = input if batched else input.unsqueeze(0)
    kernel = weight.shape[2:]
    out = transposed_size(x.shape[2:], kernel, stride, padding, output_padding, dilation)
    if min(out) < 0:
        raise RuntimeError("depthwise_conv_transpose: the output is too small")
    steps, pads, dils = (_per_dim(v, dims) for v in (stride, padding, dilation))

    x = x.repeat_interleave(weight.shape[1], dim=1)
    y = x.new_zeros((*x.shape[:2], *out))
    for tap in itertools.product(*map(range, kernel)):
        place: tuple[Any, ...] = (..., *tap)
        part = x
        for axis, (t, s, p, d) in enumerate(zip(tap, steps, pads, dils, strict=True)):
            part = _place(_apart(part, axis + 2, s), axis + 2, t * d - p, out[axis])
        y = y + part * weight.flatten(0, 1)[place].reshape(-1, *[1] * dims)
    if bias is not None:
        y = y + bias.reshape(-1, *[1] * dims)
    return y if batched else y.squeeze(0)


def depthwise_conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
) -> Tensor:
    """Reference of :func:`fastconv.depthwise_conv_transpose1d`: a sum of shifted copies."""
    return _depthwise_conv_transpose(
        1, input, weight, bias, stride, padding, output_padding, dilation
    )


def depthwise_conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
) -> Tensor:
    """Reference of :func:`fastconv.depthwise_conv_transpose2d`; see the one for 1-D."""
    return _depthwise_conv_transpose(
        2, input, weight, bias, stride, padding, output_padding, dilation
    )


def depthwise_conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
) -> Tensor:
    """Reference of :func:`fastconv.depthwise_conv_transpose3d`; see the one for 1-D."""
    return _depthwise_conv_transpose(
        3, input, weight, bias, stride, padding, output_padding, dilation
    )
