# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Which calls of a transposed depthwise convolution are wrong, and how: a part of model.py."""

from __future__ import annotations

from typing import Any

from arguments import LIMIT, Problem, per_dim, refused, tensor_of, tensors_agree
from calls import Call, T
from torch import Tensor


def conv(call: Call) -> list[Problem]:
    found: list[Problem] = []
    nd = int(call.function[-2])
    x = tensor_of(call.args[0], "input", found)
    w = tensor_of(call.args[1], "weight", found)
    b = None if call.args[2] is None else tensor_of(call.args[2], "bias", found)
    defaults = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1}
    lists = [
        per_dim(call.kwargs.get(name, default), nd, found, name)
        for name, default in defaults.items()
    ]
    tensors_agree(x, w, b, found)
    if x is None or w is None or None in lists:
        return found
    if len(x.shape) not in (nd + 1, nd + 2):
        found.append(refused("input"))
    if len(w.shape) != nd + 2:
        found.append(refused("weight"))
    if found:
        return found
    return _numbers(nd, w, lists) or _sizes(nd, x, w, b, lists)


def is_free(call: Call, args: tuple[Any, ...], grad: Tensor) -> bool:
    """Whether it is the gradient of a weight for infinities that padding may meet: inf * 0."""
    if "transpose" not in call.function or call.args[1].shape != grad.shape:
        return False
    return bool(call.kwargs.get("padding", 0)) and not bool(args[0].isfinite().all())


def _numbers(nd: int, w: T, lists: list[Any]) -> list[Problem]:
    found: list[Problem] = []
    stride, padding, extra, dilation = lists
    if 0 in w.shape[2:]:
        found.append(refused("", ours=True))
    if min(stride) < 1 or min(dilation) < 1:
        found.append(refused("stride" if min(stride) < 1 else "dilation"))
    if min(padding) < 0:
        found.append(refused("padding"))
    if max(*stride, *dilation, *padding) >= LIMIT:
        found.append(refused("2^31", ours=True))
    steps = zip(extra, stride, dilation, strict=True)
    if min(extra) < 0 or any(e >= max(s, d) for e, s, d in steps):
        found.append(refused("output_padding"))
    return found


def _sizes(nd: int, x: T, w: T, b: T | None, lists: list[Any]) -> list[Problem]:
    found: list[Problem] = []
    channels, batch = x.shape[-nd - 1], x.shape[0] if len(x.shape) == nd + 2 else 1
    outputs = channels * w.shape[1]
    if channels == 0:
        found.append(refused("channel", ours=True))
    elif w.shape[0] != channels or w.shape[1] == 0:
        found.append(refused("weight", ours=w.shape[1] == 0))
    if b is not None and b.shape != (outputs,):
        found.append(refused("bias"))
    if found:
        return found
    elements = max(batch, 1) * outputs
    for n, k, s, p, e, d in zip(x.shape[-nd:], w.shape[2:], *lists, strict=True):
        if n == 0 and batch > 0:
            found.append(refused("non-zero size"))
            break
        whole = max(n - 1, 0) * s + d * (k - 1) + e + 1
        if whole * elements >= 2**63:
            found.append(refused("overflow", ours=True))
            break
        out = (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        if out < 0:
            found.append(refused("too small"))
            break
        elements *= out
    return found
