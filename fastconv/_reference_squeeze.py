# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Squeeze and excitation, and step-by-step causal convolution: a part of the reference."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda y: y,
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "silu": F.silu,
    "swish": F.silu,
    "gelu": F.gelu,
}


def _global_avg_pool(nd: int, input: Tensor) -> Tensor:
    pixels = input.shape[-nd:].numel()
    mean = input.flatten(-nd).sum(-1) / pixels
    return mean.reshape(*mean.shape, *[1] * nd)


def global_avg_pool1d(input: Tensor) -> Tensor:
    """Reference of :func:`fastconv.global_avg_pool1d`: a sum and a division."""
    return _global_avg_pool(1, input)


def global_avg_pool2d(input: Tensor) -> Tensor:
    """Reference of :func:`fastconv.global_avg_pool2d`; see :func:`global_avg_pool1d`."""
    return _global_avg_pool(2, input)


def global_avg_pool3d(input: Tensor) -> Tensor:
    """Reference of :func:`fastconv.global_avg_pool3d`; see :func:`global_avg_pool1d`."""
    return _global_avg_pool(3, input)


def sigmoid_gate(input: Tensor, gate: Tensor) -> Tensor:
    """Reference of :func:`fastconv.sigmoid_gate`: a sigmoid and a product."""
    ones = [1] * (input.dim() - 2)
    e = torch.exp(torch.where(gate < 0, gate, -gate))
    # torch's own slope, y * (1 - y), has few digits where y is near one.
    sigmoid = torch.where(gate < 0, e, 1) / (1 + e)
    return input * sigmoid.reshape(*input.shape[:2], *ones)


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    dilation: int = 1,
) -> Tensor:
    """Reference of :func:`fastconv.causal_conv1d_update`: sums over shifted slices."""
    steps = x if x.dim() == 3 else x.unsqueeze(2)
    filters = weight.flatten(1)
    length, taps = steps.shape[2], filters.shape[1]
    everything = torch.cat([conv_state, steps], 2)
    y = torch.zeros_like(steps)
    for tap in range(taps):
        begin = conv_state.shape[2] - (taps - 1 - tap) * dilation
        y = y + everything[:, :, begin : begin + length] * filters[:, tap, None]
    if bias is not None:
        y = y + bias[:, None]
    conv_state.copy_(everything[:, :, length:])
    return _ACTIVATIONS[activation](y).reshape(x.shape)
