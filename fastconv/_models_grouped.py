# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Blocks with grouped convolutions and of SqueezeNet: a part of :mod:`fastconv.models`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastconv import functional
from fastconv.nn import DepthwiseConv2d


class ResNeXtBlock(nn.Module):
    """The bottleneck of ResNeXt (https://arxiv.org/abs/1611.05431): a grouped 3x3 convolution.

    Pointwise reduction, grouped convolution and pointwise expansion, each followed by batch
    normalisation; ReLU in between and after the sum.  The layers have the names of torchvision's
    ``Bottleneck``.  With as many groups as channels the convolution is depthwise, and fastconv's.

    Args:
        inplanes: Channels of the input.
        planes: A quarter of the channels of the output.
        stride: Of the grouped convolution.
        groups: Of the grouped convolution: the cardinality.
        base_width: ``planes * base_width // 64`` is the width of each group.

    Shape:
        ``(N, inplanes, H, W)`` to ``(N, 4 * planes, ceil(H / stride), ceil(W / stride))``, of the
        dtype of the parameters.

    Raises:
        RuntimeError: At the call: the input does not have `inplanes` channels.

    Example:
        >>> block = fastconv.models.ResNeXtBlock(64, 16, groups=8, base_width=16)
        >>> block(torch.randn(1, 64, 14, 14)).shape
        torch.Size([1, 64, 14, 14])
    """

    expansion = 4

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        groups: int = 32,
        base_width: int = 4,
    ) -> None:
        super().__init__()
        width = planes * base_width // 64 * groups
        outputs = planes * self.expansion
        grouped: nn.Module
        if groups == width:
            grouped = DepthwiseConv2d(width, width, 3, stride, 1, bias=False)
        else:
            grouped = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.conv1 = nn.Conv2d(inplanes, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = grouped
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inplanes != outputs:
            project = nn.Conv2d(inplanes, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(project, nn.BatchNorm2d(outputs))

    def forward(self, input: Tensor) -> Tensor:
        """The bottleneck added to the input, or to a projection of it."""
        x = self.relu(self.bn1(self.conv1(input)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        identity = input if self.downsample is None else self.downsample(input)
        output: Tensor = self.relu(x + identity)
        return output


class ShuffleBlock(nn.Module):
    """The unit of ShuffleNet (https://arxiv.org/abs/1707.01083).

    A grouped pointwise convolution, a channel shuffle, a 3x3 depthwise convolution and another
    grouped pointwise convolution, each convolution followed by batch normalisation.  With stride 1
    the sum with the input follows, with stride 2 its 3x3 average pooling is concatenated; then
    ReLU.

    Args:
        inplanes: Channels of the input.
        planes: Channels of the output; those of the input with stride 1, more with stride 2.
        stride: 1 or 2.
        groups: Of the pointwise convolutions; divides all channels and a quarter of `planes`.

    Shape:
        ``(N, inplanes, H, W)`` to ``(N, planes, ceil(H / stride), ceil(W / stride))``, of the dtype
        of the parameters.

    Raises:
        ValueError: Channels do not fit stride or groups.

    Example:
        >>> fastconv.models.ShuffleBlock(24, 48, 2, groups=3)(torch.randn(1, 24, 28, 28)).shape
        torch.Size([1, 48, 14, 14])
    """

    def __init__(self, inplanes: int, planes: int, stride: int = 1, groups: int = 3) -> None:
        super().__init__()
        if stride not in (1, 2):
            raise ValueError(f"stride should be 1 or 2 instead of {stride}")
        if (stride == 1 and inplanes != planes) or (stride == 2 and planes <= inplanes):
            raise ValueError(
                f"planes should be {'equal to' if stride == 1 else 'more than'} inplanes with "
                f"stride {stride}, but got inplanes={inplanes} and planes={planes}"
            )
        hidden, outputs = planes // 4, planes - (inplanes if stride == 2 else 0)
        if hidden < 1 or any(n % groups for n in (inplanes, hidden, outputs)):
            raise ValueError(
                f"groups should divide inplanes, planes // 4 and the channels that are made, but "
                f"got groups={groups}, inplanes={inplanes} and planes={planes}"
            )
        self.stride, self.groups = stride, groups
        self.conv1 = nn.Conv2d(inplanes, hidden, 1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = DepthwiseConv2d(hidden, hidden, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, outputs, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)

    def forward(self, input: Tensor) -> Tensor:
        """The unit's branch and the input, added or side by side."""
        x = F.relu(self.bn1(self.conv1(input)))
        x = functional.channel_shuffle(x, self.groups)
        x = self.bn3(self.conv3(self.bn2(self.conv2(x))))
        if self.stride == 1:
            return F.relu(input + x)
        return F.relu(torch.cat([F.avg_pool2d(input, 3, 2, 1), x], 1))


class SqueezeExcite(nn.Module):
    """The fire module of SqueezeNet (https://arxiv.org/abs/1602.07360), with batch normalisation.

    A pointwise convolution squeezes the channels; a pointwise and a 3x3 convolution, side by side,
    expand them.  All are PyTorch's; the block is here for completeness.  For squeeze-and-excitation
    see :class:`fastconv.nn.SqueezeExcitation`.

    Args:
        in_planes: Channels of the input.
        squeeze_planes: Channels between the two parts.
        expand_planes: Half of the channels of the output.

    Shape:
        ``(N, in_planes, H, W)`` to ``(N, 2 * expand_planes, H, W)``, of the dtype of the
        parameters.

    Raises:
        RuntimeError: At the call: the input does not have `in_planes` channels.

    Example:
        >>> block = fastconv.models.SqueezeExcite(256, 48, 192)
        >>> sum(p.numel() for p in block.parameters())
        105744
    """

    def __init__(self, in_planes: int, squeeze_planes: int, expand_planes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, squeeze_planes, 1)
        self.bn1 = nn.BatchNorm2d(squeeze_planes)
        self.conv2 = nn.Conv2d(squeeze_planes, expand_planes, 1)
        self.bn2 = nn.BatchNorm2d(expand_planes)
        self.conv3 = nn.Conv2d(squeeze_planes, expand_planes, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(expand_planes)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, input: Tensor) -> Tensor:
        """Squeezes, expands in two ways, and concatenates."""
        x = self.relu(self.bn1(self.conv1(input)))
        both = torch.cat([self.bn2(self.conv2(x)), self.bn3(self.conv3(x))], 1)
        output: Tensor = self.relu(both)
        return output
