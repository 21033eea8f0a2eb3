# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Depthwise separable convolutions as layers: a part of :mod:`fastconv.nn`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastconv import nn as layers
from fastconv._arguments import Ints, Padding

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardswish": nn.Hardswish,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}


def _pointwise_conv1d(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 1x1 convolution that keeps (N, L, C) in memory, which torch's would lose."""
    if input.dim() == 3 and input.stride(1) == 1 and input.shape[1] > 1:
        return F.linear(input.transpose(1, 2), weight.squeeze(-1), bias).transpose(1, 2)
    return F.conv1d(input, weight, bias)


torch.fx.wrap("_pointwise_conv1d")


class _Pointwise1d(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return _pointwise_conv1d(input, self.weight, self.bias)


class _Separable(nn.Sequential):
    """What the layers share, for one to three dimensions."""

    _depthwise: type[nn.Module]
    _pointwise: type[nn.Module]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        channel_multiplier: int = 1,
        bias: bool | None = None,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        norm: Callable[[int], nn.Module] | None = None,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        if activation is not None and activation not in ACTIVATIONS:
            raise ValueError(
                f"{type(self).__name__}: unknown activation {activation!r}, should be None or one "
                f"of {', '.join(map(repr, ACTIVATIONS))}"
            )
        hidden = in_channels * channel_multiplier
        to: dict[str, Any] = {"device": device, "dtype": dtype}
        to["bias"] = norm is None if bias is None else bias
        depthwise = self._depthwise(
            in_channels,
            hidden,
            kernel_size,
            stride,
            padding,
            dilation,
            padding_mode=padding_mode,
            **to,
        )
        pointwise = self._pointwise(hidden, out_channels, 1, **to)
        convolutions = (("depthwise", depthwise, hidden), ("pointwise", pointwise, out_channels))
        for name, convolution, channels in convolutions:
            self.add_module(name, convolution)
            if norm is not None:
                self.add_module(f"{name}_norm", norm(channels).to(device=device, dtype=dtype))
            if activation is not None:
                self.add_module(f"{name}_activation", ACTIVATIONS[activation]())


class DepthwiseSeparableConv1d(_Separable):
    """A depthwise convolution, then a pointwise (1x1) one, over sequences.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Size of the depthwise filters.
        stride: Of the depthwise convolution, as are `padding`, `dilation` and `padding_mode`.
        padding: As for :class:`DepthwiseConv1d`, ``'causal'`` included.
        dilation: Step between the taps of a filter.
        channel_multiplier: Depthwise filters per input channel.
        bias: Whether both convolutions have one; if not given, they do unless `norm` follows.
        padding_mode: ``'zeros'``, ``'reflect'``, ``'replicate'`` or ``'circular'``.
        device: Where the parameters live.
        dtype: Of the parameters.
        norm: Makes the normalisation after each convolution, from its channels: such as
            ``nn.BatchNorm1d``.
        activation: What follows each convolution, or its normalisation: None, ``'relu'``,
            ``'relu6'``, ``'hardswish'``, ``'silu'`` or ``'gelu'``.

    Shape:
        ``(N, in_channels, L)`` to ``(N, out_channels, L_out)``.  An input that is ``(N, L, C)`` in
        memory is not rearranged, and gives such an output.

    Raises:
        ValueError: The activation is unknown.

    Example:
        >>> layer = fastconv.nn.DepthwiseSeparableConv1d(16, 32, 3, padding="causal")
        >>> layer(torch.randn(2, 16, 50)).shape
        torch.Size([2, 32, 50])
    """

    depthwise: layers.DepthwiseConv1d
    pointwise: nn.Conv1d
    _depthwise, _pointwise = layers.DepthwiseConv1d, _Pointwise1d


class DepthwiseSeparableConv2d(_Separable):
    """A depthwise convolution, then a pointwise (1x1) one, over images.

    The building block of Xception (https://arxiv.org/abs/1610.02357) and, with
    ``norm=nn.BatchNorm2d, activation='relu'``, of MobileNet (https://arxiv.org/abs/1704.04861).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Size of the depthwise filters.
        stride: Of the depthwise convolution, as are `padding`, `dilation` and `padding_mode`.
        padding: As for :class:`DepthwiseConv2d`.
        dilation: Step between the taps of a filter.
        channel_multiplier: Depthwise filters per input channel.
        bias: Whether both convolutions have one; if not given, they do unless `norm` follows.
        padding_mode: ``'zeros'``, ``'reflect'``, ``'replicate'`` or ``'circular'``.
        device: Where the parameters live.
        dtype: Of the parameters.
        norm: Makes the normalisation after each convolution, from its channels: such as
            ``nn.BatchNorm2d``.
        activation: What follows each convolution, or its normalisation: None, ``'relu'``,
            ``'relu6'``, ``'hardswish'``, ``'silu'`` or ``'gelu'``.

    Shape:
        ``(N, in_channels, H, W)`` to ``(N, out_channels, H_out, W_out)``, both contiguous or both
        channels-last.

    Raises:
        ValueError: The activation is unknown.

    Example:
        >>> layer = fastconv.nn.DepthwiseSeparableConv2d(16, 32, 3, padding=1, bias=False)
        >>> sum(p.numel() for p in layer.parameters())
        656
    """

    depthwise: layers.DepthwiseConv2d
    pointwise: nn.Conv2d
    _depthwise, _pointwise = layers.DepthwiseConv2d, nn.Conv2d


class DepthwiseSeparableConv3d(_Separable):
    """A depthwise convolution, then a pointwise (1x1) one, over volumes or video.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Size of the depthwise filters.
        stride: Of the depthwise convolution, as are `padding`, `dilation` and `padding_mode`.
        padding: As for :class:`DepthwiseConv3d`.
        dilation: Step between the taps of a filter.
        channel_multiplier: Depthwise filters per input channel.
        bias: Whether both convolutions have one; if not given, they do unless `norm` follows.
        padding_mode: ``'zeros'``, ``'reflect'``, ``'replicate'`` or ``'circular'``.
        device: Where the parameters live.
        dtype: Of the parameters.
        norm: Makes the normalisation after each convolution, from its channels: such as
            ``nn.BatchNorm3d``.
        activation: What follows each convolution, or its normalisation: None, ``'relu'``,
            ``'relu6'``, ``'hardswish'``, ``'silu'`` or ``'gelu'``.

    Shape:
        ``(N, in_channels, D, H, W)`` to ``(N, out_channels, D_out, H_out, W_out)``, both contiguous
        or both channels-last.

    Raises:
        ValueError: The activation is unknown.

    Example:
        >>> make = fastconv.nn.DepthwiseSeparableConv3d
        >>> layer = make(4, 8, 3, padding=1, norm=torch.nn.BatchNorm3d)
        >>> layer(torch.randn(1, 4, 5, 6, 7)).shape
        torch.Size([1, 8, 5, 6, 7])
    """

    depthwise: layers.DepthwiseConv3d
    pointwise: nn.Conv3d
    _depthwise, _pointwise = layers.DepthwiseConv3d, nn.Conv3d
