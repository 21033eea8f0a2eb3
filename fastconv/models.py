# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Blocks of well-known networks, built of the layers of :mod:`fastconv.nn`.

Each is a thin composition whose ``state_dict`` is that of the same block made of PyTorch's layers.
Feed them channels-last (``x.to(memory_format=torch.channels_last)``): nothing in between then
copies an activation from one layout to the other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastconv._models_grouped import ResNeXtBlock, ShuffleBlock, SqueezeExcite
from fastconv.nn import DepthwiseConv2d, SqueezeExcitation

__all__ = [
    "ConvNeXtBlock",
    "InvertedResidual",
    "ResNeXtBlock",
    "ShuffleBlock",
    "SqueezeExcite",
    "StochasticDepth",
]


def _stochastic_depth(input: Tensor, p: float) -> Tensor:
    keep = input.new_empty([input.shape[0]] + [1] * (input.dim() - 1)).bernoulli_(1 - p)
    return input * (keep / (1 - p) if p < 1 else keep)


torch.fx.wrap("_stochastic_depth")  # it asks for the rank, which a proxy does not know


class StochasticDepth(nn.Module):
    """Drops the residual branch of whole samples (https://arxiv.org/abs/1603.09382).

    Args:
        p: Probability to drop a sample in training; what stays is divided by ``1 - p``.

    Shape:
        ``(N, *)`` to the same; any floating-point dtype.

    Raises:
        ValueError: `p` is not in [0, 1].

    Example:
        >>> fastconv.models.StochasticDepth(0.5).eval()(torch.ones(2, 3)).sum().item()
        6.0
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"drop probability has to be between 0 and 1, but got {p}")
        self.p = p

    def forward(self, input: Tensor) -> Tensor:
        """Drops samples in training, and none otherwise."""
        if not self.training or self.p == 0:
            return input
        return _stochastic_depth(input, self.p)

    def extra_repr(self) -> str:
        """The probability."""
        return f"p={self.p}"


class ConvNeXtBlock(nn.Module):
    """The block of ConvNeXt (https://arxiv.org/abs/2201.03545).

    A 7x7 depthwise convolution, LayerNorm over channels, a pointwise expansion, GELU, a pointwise
    projection, a learned scale for each channel and stochastic depth, added to the input.  The
    pointwise parts are ``nn.Linear`` on a permuted view, which is contiguous where the input is
    channels-last: no activation is ever copied into another layout.

    Args:
        dim: Channels.
        kernel_size: Size of the depthwise filters; odd.
        mlp_ratio: By how much the pointwise part expands.
        layer_scale_init_value: What the scales start as; without them if None.
        drop_path: Probability of stochastic depth.

    Shape:
        ``(N, dim, H, W)`` to the same, of the dtype of the parameters.

    Raises:
        RuntimeError: At the call: the input does not have `dim` channels.

    Example:
        >>> x = torch.randn(1, 96, 14, 14).to(memory_format=torch.channels_last)
        >>> y = fastconv.models.ConvNeXtBlock(96)(x)
        >>> y.shape, y.is_contiguous(memory_format=torch.channels_last)
        (torch.Size([1, 96, 14, 14]), True)
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int = 7,
        mlp_ratio: int = 4,
        layer_scale_init_value: float | None = 1e-6,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.dwconv = DepthwiseConv2d(dim, dim, kernel_size, padding=kernel_size // 2)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, mlp_ratio * dim)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(mlp_ratio * dim, dim)
        scale = layer_scale_init_value
        self.gamma = None if scale is None else nn.Parameter(torch.full((dim,), float(scale)))
        self.drop_path = StochasticDepth(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, input: Tensor) -> Tensor:
        """The input plus what the branch makes of it."""
        x = self.dwconv(input).permute(0, 2, 3, 1)
        x = self.pwconv2(self.act(self.pwconv1(self.norm(x))))
        if self.gamma is not None:
            x = self.gamma * x
        output: Tensor = input + self.drop_path(x.permute(0, 3, 1, 2))
        return output


class InvertedResidual(nn.Module):
    """The inverted residual with linear bottleneck of MobileNetV2.

    From https://arxiv.org/abs/1801.04381.  A pointwise expansion, a depthwise convolution, and a
    pointwise projection, each followed by batch normalisation and, but for the last, ReLU6; added
    to the input where sizes allow it.  The layers have the names of torchvision's
    ``InvertedResidual``.

    Args:
        inp: Channels of the input.
        oup: Channels of the output.
        stride: Of the depthwise convolution: 1 or 2.
        expand_ratio: By how much channels are expanded; 1 leaves the expansion out.
        kernel_size: Size of the depthwise filters; odd.
        squeeze_channels: If given, squeeze-and-excitation of so many channels precedes the
            projection, as in MobileNetV3 and EfficientNet.

    Shape:
        ``(N, inp, H, W)`` to ``(N, oup, ceil(H / stride), ceil(W / stride))``, of the dtype of the
        parameters.

    Raises:
        ValueError: `stride` is neither 1 nor 2.

    Example:
        >>> fastconv.models.InvertedResidual(16, 24, 2, 6)(torch.randn(1, 16, 28, 28)).shape
        torch.Size([1, 24, 14, 14])
    """

    def __init__(
        self,
        inp: int,
        oup: int,
        stride: int,
        expand_ratio: int,
        kernel_size: int = 3,
        squeeze_channels: int | None = None,
    ) -> None:
        super().__init__()
        if stride not in (1, 2):
            raise ValueError(f"stride should be 1 or 2 instead of {stride}")
        hidden = inp * expand_ratio
        depthwise = DepthwiseConv2d(
            hidden, hidden, kernel_size, stride, kernel_size // 2, bias=False
        )
        layers: list[nn.Module] = []
        if expand_ratio != 1:
            expand = nn.Conv2d(inp, hidden, 1, bias=False)
            layers.append(nn.Sequential(expand, nn.BatchNorm2d(hidden), nn.ReLU6(inplace=True)))
        layers.append(nn.Sequential(depthwise, nn.BatchNorm2d(hidden), nn.ReLU6(inplace=True)))
        if squeeze_channels is not None:
            layers.append(SqueezeExcitation(hidden, squeeze_channels))
        layers += [nn.Conv2d(hidden, oup, 1, bias=False), nn.BatchNorm2d(oup)]
        self.conv = nn.Sequential(*layers)
        self.use_res_connect = stride == 1 and inp == oup

    def forward(self, input: Tensor) -> Tensor:
        """What the layers make of the input, added to it where sizes allow."""
        output: Tensor = self.conv(input)
        return input + output if self.use_res_connect else output
