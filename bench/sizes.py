# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""The sizes of the suites, as cases of which dtype, layout and pass are still open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from case import Case


def _conv(family: str, shape: Sequence[int], kernel: Sequence[int] | int, **args: Any) -> Case:
    rank = len(shape) - 2
    sizes = (kernel,) * rank if isinstance(kernel, int) else tuple(kernel)
    bias, multiplier = args.pop("bias", True), args.pop("multiplier", 1)
    args.setdefault("padding", [k // 2 for k in sizes] if rank > 1 else sizes[0] // 2)
    op = f"depthwise_conv{rank}d"
    return Case(op, tuple(shape), sizes, multiplier, bias, args, family)


def _transposed(
    family: str, shape: Sequence[int], kernel: int, stride: int, padding: int, **args: Any
) -> Case:
    """Learned upsampling, of 2-D and 3-D space alone: time keeps its length."""
    rank = len(shape) - 2
    steps: Any = [1, stride, stride] if rank == 3 else stride
    kernels = (3, kernel, kernel) if rank == 3 else (kernel,) * rank
    pads: Any = [1, padding, padding] if rank == 3 else padding
    args = {"stride": steps, "padding": pads, **args}
    return Case(f"depthwise_conv_transpose{rank}d", tuple(shape), kernels, 1, True, args, family)


def _plain(op: str, family: str, shape: Sequence[int], **args: Any) -> Case:
    return Case(op, tuple(shape), args=args, family=family)


def quick_sizes(device: str) -> list[Case]:
    """One or a few sizes of every operator, in batches that fill the device."""
    n = 64 if device == "cuda" else 4
    return [
        _conv("mamba", (max(1, n // 4), 1536, 2048), 4, padding="causal"),
        _conv("conformer", (n, 512, 500), 31),
        _conv("mobilenet", (n, 144, 56, 56), 3, bias=False),
        _conv("efficientnet", (n, 240, 28, 28), 5, stride=2, bias=False),
        _conv("efficientnet", (n, 144, 56, 56), 3, activation="silu"),
        _conv("convnext", (n, 192, 28, 28), 7),
        _conv("replknet", (max(1, n // 8), 128, 28, 28), 27),
        _conv("x3d", (max(1, n // 4), 108, 13, 20, 20), 3, bias=False),
        _plain("depth_max_pool", "maxout", (n, 128, 56, 56), kernel_size=2),
        _plain("depth_max_pool", "maxout", (n, 64, 56, 56), kernel_size=[2, 2, 2]),
        _plain("space_to_depth", "yolo", (max(1, n // 4), 64, 160, 160), block_size=2,
               order="focus"),
        _plain("depth_to_space", "tensorflow", (n, 256, 48, 48), block_size=2, order="dcr"),
        _plain("pixel_shuffle", "edsr", (n, 256, 48, 48), upscale_factor=2),
        _plain("pixel_unshuffle", "restormer", (max(1, n // 2), 24, 256, 256), downscale_factor=2),
        _plain("channel_shuffle", "shufflenet", (n, 232, 28, 28), groups=2),
        _transposed("vocoder", (max(1, n // 4), 256, 2048), 4, 2, 1),
        _transposed("upsampling", (n, 64, 56, 56), 4, 2, 1),
        _transposed("video", (max(1, n // 4), 32, 8, 28, 28), 4, 2, 1),
        _plain("global_avg_pool2d", "efficientnet", (n, 240, 28, 28)),
        _plain("global_avg_pool2d", "efficientnet", (n, 1280, 7, 7)),
        _plain("sigmoid_gate", "efficientnet", (n, 240, 28, 28)),
    ]  # fmt: skip


def pool_sizes(batches: Sequence[int]) -> list[Case]:
    """Maxout behind the stages of a residual network, and channels pooled together with pixels.

    No published model is a source of sizes here; these are the feature maps of ResNet-50.
    """
    maps = ((64, 112), (128, 56), (256, 56), (512, 28), (1024, 14), (2048, 7))
    return [
        _plain("depth_max_pool", "maxout", (n, channels, side, side), **args)
        for n in batches
        for channels, side in maps
        for args in (
            {"kernel_size": 2},
            {"kernel_size": 4},
            {"kernel_size": [2, 2, 2]},
            {"kernel_size": [3, 3, 3], "stride": 2, "padding": 1},
        )
    ]


def block_sizes(batches: Sequence[int]) -> list[Case]:
    """Blocks of real models, most of whose time is in layers that are PyTorch's own."""
    return [
        block
        for n in batches
        for block in (
            _plain("convnext_block", "convnext", (n, 192, 28, 28)),
            _plain("mobilenetv2_block", "mobilenet", (n, 32, 28, 28), oup=32, stride=1,
                   expand_ratio=6),
            _plain("se_block", "efficientnet", (n, 240, 28, 28), squeeze_channels=10),
        )
    ]  # fmt: skip


def large_sizes() -> list[Case]:
    """Tensors far larger than any cache."""
    return [
        _conv("large", (32, 64, 112, 112), 3),
        _conv("large", (32, 96, 112, 112), 7),
        _conv("large", (32, 144, 112, 112), 5, stride=2),
        _conv("large", (8, 4096, 2048), 4, padding="causal"),
        _conv("large", (8, 54, 16, 112, 112), 3),
        _plain("depth_max_pool", "large", (32, 128, 112, 112), kernel_size=2),
        _plain("space_to_depth", "large", (32, 64, 160, 160), block_size=2, order="dcr"),
        _plain("depth_to_space", "large", (32, 256, 80, 80), block_size=2, order="dcr"),
        _plain("pixel_shuffle", "large", (16, 256, 96, 96), upscale_factor=2),
        _plain("pixel_unshuffle", "large", (16, 48, 256, 256), downscale_factor=2),
        _plain("channel_shuffle", "large", (32, 232, 56, 56), groups=2),
        _transposed("large", (8, 512, 8192), 4, 2, 1),
        _transposed("large", (32, 64, 56, 56), 4, 2, 1),
        _transposed("large", (8, 32, 16, 56, 56), 4, 2, 1),
        _plain("global_avg_pool2d", "large", (32, 144, 112, 112)),
        _plain("sigmoid_gate", "large", (32, 144, 112, 112)),
        _plain("convnext_block", "large", (32, 96, 56, 56)),
        _plain("mobilenetv2_block", "large", (32, 24, 56, 56), oup=24, stride=1, expand_ratio=6),
        _plain("se_block", "large", (32, 144, 56, 56), squeeze_channels=6),
    ]


def huge_sizes() -> list[Case]:
    """More than 2^31 elements."""
    return [
        _conv("huge", (352, 128, 224, 224), 3),
        _plain("pixel_shuffle", "huge", (352, 128, 224, 224), upscale_factor=2),
    ]


def tiny_sizes() -> list[Case]:
    """Every code path at sizes that a sanitizer can afford."""
    return [
        _conv("tiny", (2, 33, 17, 19), 3),
        _conv("tiny", (2, 32, 15, 14), 5, stride=2, bias=False),
        _conv("tiny", (1, 20, 11, 13), 3, activation="silu"),
        _conv("tiny", (1, 24, 14, 14), 7, dilation=2, padding=6),
        _conv("tiny", (1, 16, 12, 12), 13, multiplier=2),
        _conv("tiny", (2, 40, 67), 4, padding="causal"),
        _conv("tiny", (1, 16, 5, 9, 10), 3, stride=[1, 2, 2]),
        _plain("depth_max_pool", "tiny", (2, 16, 9, 11), kernel_size=2),
        _plain("depth_max_pool", "tiny", (2, 16, 9, 11), kernel_size=[3, 3, 3], stride=2,
               padding=[1, 1, 1]),
        _plain("space_to_depth", "tiny", (2, 5, 12, 14), block_size=2, order="focus"),
        _plain("depth_to_space", "tiny", (2, 36, 7, 5), block_size=3, order="dcr"),
        _plain("pixel_shuffle", "tiny", (2, 48, 7, 5), upscale_factor=4),
        _plain("pixel_unshuffle", "tiny", (2, 3, 16, 12), downscale_factor=4),
        _plain("channel_shuffle", "tiny", (2, 30, 9, 7), groups=3),
        _transposed("tiny", (2, 33, 17), 4, 2, 1),
        _transposed("tiny", (2, 33, 9, 7), 3, 2, 1, output_padding=1),
        _transposed("tiny", (1, 16, 3, 5, 6), 3, 2, 1),
        _plain("global_avg_pool2d", "tiny", (2, 33, 9, 7)),
        _plain("sigmoid_gate", "tiny", (2, 33, 9, 7)),
        _plain("convnext_block", "tiny", (2, 16, 9, 7)),
        _plain("mobilenetv2_block", "tiny", (2, 8, 9, 7), oup=8, stride=1, expand_ratio=2),
        _plain("se_block", "tiny", (2, 33, 9, 7), squeeze_channels=3),
    ]  # fmt: skip
