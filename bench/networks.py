# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""The networks of models.py: torchvision's, timm's, and a few written out here, all PyTorch's own.

Their weights are random, which costs as much time as any other numbers.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Network:
    """How to make a network, and what it is fed with.

    `shape` gives the input of a batch at a resolution.  `layouts` says whether channels-last means
    anything for it.
    """

    make: Callable[[], nn.Module]
    shape: Callable[[int, int], tuple[int, ...]]
    library: str = ""
    layouts: tuple[str, ...] = ("contiguous", "channels_last")

    @property
    def missing(self) -> str:
        """The library that it needs and that is not installed."""
        return self.library if self.library and not _installed(self.library) else ""


@cache
def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@cache
def _prepare_torchvision() -> None:
    """A torchvision made for a torch with CUDA does not load its operators beside another torch.

    Its import then stops at two that it takes for granted; the networks need none.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or hasattr(torch.ops.torchvision, "nms"):
        return
    try:
        torch.ops.load_library(str(Path(spec.origin).parent / "_C.so"))
    except OSError:
        for name in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", schema)


def _from(library: str, name: str) -> Network:
    def make() -> nn.Module:
        _prepare_torchvision()
        if library == "timm":
            made: nn.Module = importlib.import_module("timm").create_model(name)
        else:
            made = importlib.import_module("torchvision.models").get_model(name, weights=None)
        return made

    return Network(make, lambda n, size: (n, 3, size, size), library)


class _LargeKernels(nn.Module):
    """RepLKNet's block: a large and a 5x5 depthwise convolution side by side, between 1x1 ones."""

    def __init__(self, c: int, kernel: int) -> None:
        super().__init__()
        self.into = nn.Sequential(nn.Conv2d(c, c, 1, bias=False), nn.BatchNorm2d(c), nn.ReLU())
        self.large = nn.Conv2d(c, c, kernel, padding=kernel // 2, groups=c, bias=False)
        self.large_norm = nn.BatchNorm2d(c)
        self.small = nn.Conv2d(c, c, 5, padding=2, groups=c, bias=False)
        self.small_norm = nn.BatchNorm2d(c)
        self.out = nn.Sequential(nn.ReLU(), nn.Conv2d(c, c, 1, bias=False), nn.BatchNorm2d(c))

    def forward(self, x: Tensor) -> Tensor:
        y = self.into(x)
        y = self.large_norm(self.large(y)) + self.small_norm(self.small(y))
        return x + self.out(y)


def _replknet() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU()]
    c = 64
    for kernel in (31, 29, 27, 13):
        layers += [nn.Conv2d(c, 2 * c if c < 256 else c, 3, 2, 1)] if kernel != 31 else []
        c = min(2 * c, 256) if kernel != 31 else c
        layers += [_LargeKernels(c, kernel), _LargeKernels(c, kernel)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 1000))


class _GatedConv(nn.Module):
    """Mamba's block without its scan: a short causal convolution, cut off at the end; a gate."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(c)
        self.into, self.out = nn.Linear(c, 4 * c), nn.Linear(2 * c, c)
        self.conv1d = nn.Conv1d(2 * c, 2 * c, 4, padding=3, groups=2 * c)

    def forward(self, x: Tensor) -> Tensor:
        y, gate = self.into(self.norm(x)).chunk(2, -1)
        y = self.conv1d(y.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)
        return x + self.out(nn.functional.silu(y) * nn.functional.silu(gate))


def _sequence() -> nn.Module:
    return nn.Sequential(*(_GatedConv(128) for _ in range(6)), nn.Linear(128, 128))


class _Residual(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c, c, 7, padding=3, groups=c), nn.Conv2d(c, 2 * c, 1), nn.GELU(),
            nn.Conv2d(2 * c, c, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def _upscaler() -> nn.Module:
    body = [_Residual(32) for _ in range(6)]
    first, last = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 3 * 16, 3, padding=1)
    return nn.Sequential(first, *body, last, nn.PixelShuffle(4))


_TORCHVISION = ("mobilenet_v2", "mobilenet_v3_large", "mnasnet1_0", "shufflenet_v2_x1_0",
                "efficientnet_b0", "convnext_tiny")  # fmt: skip
_TIMM = ("tf_efficientnet_lite0", "mixnet_s", "mobilenetv4_conv_small", "repvit_m0_9",
         "inception_next_atto")  # fmt: skip

NETWORKS: dict[str, Network] = {
    **{name: _from("torchvision", name) for name in _TORCHVISION},
    **{name: _from("timm", name) for name in _TIMM},
    "replknet": Network(_replknet, lambda n, size: (n, 3, size, size)),
    "upscaler": Network(_upscaler, lambda n, size: (n, 3, size // 2, size // 2)),
    # As many tokens as an image has patches of 4x4.
    "gated_conv1d": Network(
        _sequence, lambda n, size: (n, (size // 4) ** 2, 128), layouts=("contiguous",)
    ),
}
QUICK = ("mobilenet_v2", "efficientnet_b0", "convnext_tiny", "upscaler", "gated_conv1d")
