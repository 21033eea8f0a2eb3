# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Global average pooling and squeeze-and-excitation as layers: a part of :mod:`fastconv.nn`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastconv import functional


class GlobalAvgPool1d(nn.Module):
    """The average of each channel of a sequence: :func:`fastconv.global_avg_pool1d`.

    As :class:`torch.nn.AdaptiveAvgPool1d` of 1.

    Shape:
        ``(N, C, L)`` or ``(C, L)`` to ``(N, C, 1)`` or ``(C, 1)``;
        float32, float64, float16 or bfloat16.

    Raises:
        RuntimeError: At the call: the input is of another rank or dtype.

    Example:
        >>> fastconv.nn.GlobalAvgPool1d()(torch.randn(2, 8, 50)).shape
        torch.Size([2, 8, 1])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Averages over the sequence."""
        return functional.global_avg_pool1d(input)


class GlobalAvgPool2d(nn.Module):
    """The average of each channel of an image: :func:`fastconv.global_avg_pool2d`.

    As :class:`torch.nn.AdaptiveAvgPool2d` of 1.

    Shape:
        ``(N, C, H, W)`` or ``(C, H, W)`` to ``(N, C, 1, 1)`` or ``(C, 1, 1)``;
        float32, float64, float16 or bfloat16.

    Raises:
        RuntimeError: At the call: the input is of another rank or dtype.

    Example:
        >>> fastconv.nn.GlobalAvgPool2d()(torch.randn(2, 8, 7, 7)).shape
        torch.Size([2, 8, 1, 1])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Averages over the image."""
        return functional.global_avg_pool2d(input)


class GlobalAvgPool3d(nn.Module):
    """The average of each channel of a volume: :func:`fastconv.global_avg_pool3d`.

    As :class:`torch.nn.AdaptiveAvgPool3d` of 1.

    Shape:
        ``(N, C, D, H, W)`` or ``(C, D, H, W)`` to ``(N, C, 1, 1, 1)`` or ``(C, 1, 1, 1)``;
        float32, float64, float16 or bfloat16.

    Raises:
        RuntimeError: At the call: the input is of another rank or dtype.

    Example:
        >>> fastconv.nn.GlobalAvgPool3d()(torch.randn(2, 8, 4, 7, 7)).shape
        torch.Size([2, 8, 1, 1, 1])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Averages over the volume."""
        return functional.global_avg_pool3d(input)


class SqueezeExcitation(nn.Module):
    """Squeeze-and-excitation (SENet, https://arxiv.org/abs/1709.01507).

    Averages each channel, sends the averages through two fully connected layers with an activation
    between them, and multiplies the channels by the sigmoid of the result.  The layers have the
    names and shapes of torchvision's ``SqueezeExcitation``, so that a ``state_dict`` fits both.

    Args:
        input_channels: Channels of the input.
        squeeze_channels: Channels between the two layers; ``input_channels // 16`` if not given,
            the reduction ratio of the paper.
        activation: Makes the activation between the two layers.
        device: Where the parameters live.
        dtype: Of the parameters.

    Shape:
        ``(N, C, H, W)`` to the same.

    Raises:
        ValueError: There would be no squeezed channels.
        RuntimeError: The input does not have these channels.

    Example:
        >>> fastconv.nn.SqueezeExcitation(64)(torch.randn(2, 64, 7, 7)).shape
        torch.Size([2, 64, 7, 7])
    """

    def __init__(
        self,
        input_channels: int,
        squeeze_channels: int | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        squeezed = input_channels // 16 if squeeze_channels is None else squeeze_channels
        if squeezed < 1:
            raise ValueError(
                f"squeeze_channels must be positive, but got input_channels={input_channels} and "
                f"squeeze_channels={squeeze_channels}"
            )
        to: dict[str, Any] = {"device": device, "dtype": dtype}
        self.fc1 = nn.Conv2d(input_channels, squeezed, 1, **to)
        self.activation = activation()
        self.fc2 = nn.Conv2d(squeezed, input_channels, 1, **to)

    def forward(self, input: Tensor) -> Tensor:
        """Scales the channels of `input`."""
        scale = self.fc2(self.activation(self.fc1(functional.global_avg_pool2d(input))))
        return functional.sigmoid_gate(input, scale)
