# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Whole blocks of networks: the same modules with fastconv's layers and with PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

BLOCKS = ("convnext_block", "mobilenetv2_block", "se_block")


class _PlainSqueezeExcitation(nn.Module):
    def __init__(self, channels: int, squeeze_channels: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeeze_channels, 1)
        self.fc2 = nn.Conv2d(squeeze_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        s = self.fc2(torch.relu(self.fc1(self.avgpool(x))))
        return x * torch.sigmoid(s)


def _natively(module: nn.Module) -> nn.Module:
    """Swaps fastconv's layers for PyTorch's."""
    from fastconv.nn import DepthwiseConv2d

    for name, child in module.named_children():
        if isinstance(child, DepthwiseConv2d):
            plain = nn.Conv2d(
                child.in_channels, child.out_channels, child.kernel_size, child.stride,
                child.padding, child.dilation, child.groups, child.bias is not None,
            )  # fmt: skip
            setattr(module, name, plain)
        else:
            _natively(child)
    return module


def make(op: str, channels: int, args: dict[str, Any], native: bool) -> nn.Module:
    """The module of a case, for training."""
    from fastconv import models
    from fastconv.nn import SqueezeExcitation

    if op == "se_block":
        return (_PlainSqueezeExcitation if native else SqueezeExcitation)(channels, **args)
    block = {"convnext_block": models.ConvNeXtBlock, "mobilenetv2_block": models.InvertedResidual}
    made: nn.Module = block[op](channels, **args)
    return _natively(made) if native else made


class BlockCall:
    """A module as a function of its input and parameters, which it takes in as they are."""

    def __init__(self, op: str, channels: int, args: dict[str, Any], native: bool) -> None:
        self._module = make(op, channels, args, native)
        owners = [m for m in self._module.modules() for p in m._parameters.values()
                  if p is not None]  # fmt: skip
        names = [n for m in self._module.modules() for n, p in m._parameters.items()
                 if p is not None]  # fmt: skip
        self._slots = list(zip(owners, names, strict=True))
        self._current: tuple[Tensor, ...] = ()

    def __call__(self, x: Tensor, *parameters: Tensor) -> Tensor:
        if len(self._current) != len(parameters) or any(
            a is not b for a, b in zip(self._current, parameters, strict=True)
        ):
            self._take(parameters)
        return self._module(x)  # type: ignore[no-any-return]

    def _take(self, parameters: tuple[Tensor, ...]) -> None:
        for (owner, name), parameter in zip(self._slots, parameters, strict=True):
            owner._parameters[name] = parameter  # type: ignore[assignment]
        for module in self._module.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and buffer.is_floating_point():
                    module._buffers[name] = buffer.to(parameters[0])
                elif buffer is not None:
                    module._buffers[name] = buffer.to(parameters[0].device)
        self._current = parameters


def parameter_shapes(op: str, channels: int, args: dict[str, Any]) -> list[torch.Size]:
    with torch.device("meta"):
        module = make(op, channels, args, native=True)
    return [p.shape for p in module.parameters()]


def flops(call: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> int:
    """Multiply-adds, counted twice, of the convolutions and matrix products of a forward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(*tensors)
    return int(counter.get_total_flops())
