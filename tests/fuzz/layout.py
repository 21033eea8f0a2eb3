# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Where a result lies in memory: as torch would lay it out, and as a meta call says."""

from __future__ import annotations

from typing import Any

import torch
from calls import Call
from torch import Tensor
from torch._prims_common import suggest_memory_format


def strides_of(t: Tensor, all_of_them: bool) -> list[int]:
    """Its strides, or those that matter."""
    pairs = zip(t.stride(), t.shape, strict=True)
    return [s for s, n in pairs if all_of_them or n > 1] if t.numel() else []


def check_agree(
    a: tuple[Tensor, ...], b: tuple[Tensor, ...], what: str, all_strides: bool = True
) -> None:
    assert len(a) == len(b)
    for s, t in zip(a, b, strict=True):
        assert s.shape == t.shape and s.dtype == t.dtype, f"{what}: {s.shape} {s.dtype}"
        same = strides_of(s, all_strides) == strides_of(t, all_strides)
        assert same, f"{what} has strides {s.stride()}, not {t.stride()}"


def check_layout(call: Call, x: Tensor, w: Any, y: Tensor) -> None:
    """Dense, and channels-last exactly where torch would make it so."""
    plain = last = torch.contiguous_format
    if w is not None and x.dim() < w.dim():  # torch computes a batch of one
        x, y = x.unsqueeze(0), y.unsqueeze(0)
    if call.function == "sigmoid_gate":
        w = None
    if call.function in ("depthwise_conv1d", "depthwise_conv_transpose1d") or (
        call.function == "sigmoid_gate" and x.dim() == 3
    ):
        channels_last = suggest_memory_format(x.unsqueeze(2)) != plain
        like = y.transpose(1, 2).contiguous().transpose(1, 2) if channels_last else y.contiguous()
    else:
        said = call.kwargs.get("kernel_size", call.kwargs.get("block_size"))
        # Before the last three of a pixel shuffle any number of dimensions is the batch.
        spatial = 2 if call.function.startswith("pixel") else y.dim() - 2
        if isinstance(said, (list, tuple)):
            spatial = len(said) - (call.function == "depth_max_pool")
        if y.dim() == spatial + 2 and y.dim() in (4, 5):
            last = suggest_memory_format(x)
            if w is not None and last == plain:
                last = suggest_memory_format(w)
        like = y.contiguous(memory_format=last)
    same = strides_of(y, False) == strides_of(like, False)
    assert same, f"strides {y.stride()}, expected {like.stride()}"
