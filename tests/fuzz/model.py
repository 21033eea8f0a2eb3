# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Which calls are wrong, and how: written from the documentation, on plain Python numbers.

``problems(call)`` lists what a call gets wrong; a sound call has none.  It shares no code with the
checks of the operators, whose answers it predicts.
"""

from __future__ import annotations

import math
from typing import Any

import squeeze_target
import torch
import transpose_model
from arguments import (
    FLOATS,
    LIMIT,
    Problem,
    as_int,
    ints,
    per_dim,
    refused,
    tensor_of,
    tensors_agree,
    wrong_type,
)
from calls import Call, T

ACTIVATIONS = (None, "relu", "relu6", "hardswish", "silu", "gelu")


def _pairs(call: Call, nd: int, found: list[Problem]) -> Any:
    """The padding: a list of pairs, a mode, or None if it is wrong."""
    padding = call.kwargs.get("padding", 0)
    if isinstance(padding, str):
        if padding not in ("valid", "same", *(["causal"] if nd == 1 else [])):
            found.append(refused("padding"))
            return None
        return padding
    if isinstance(padding, (tuple, list)) and any(isinstance(p, (tuple, list)) for p in padding):
        wrong: list[Problem] = []
        pairs = []
        for p in padding:
            if isinstance(p, (tuple, list)) and len(p) == 2:
                pairs.append(ints(p, 2, wrong, "padding"))
            else:
                wrong.append(wrong_type("padding"))
        if not wrong and len(padding) != nd:
            wrong.append(refused("padding", ours=True))
        found += wrong
        return None if wrong else pairs
    single = per_dim(padding, nd, found, "padding")
    return None if single is None else [(p, p) for p in single]


def conv(call: Call) -> list[Problem]:
    found: list[Problem] = []
    nd = int(call.function[-2])
    x = tensor_of(call.args[0], "input", found)
    w = tensor_of(call.args[1], "weight", found)
    b = None if call.args[2] is None else tensor_of(call.args[2], "bias", found)
    activation = call.kwargs.get("activation")
    if not isinstance(activation, (str, type(None))) or activation not in ACTIVATIONS:
        found.append(Problem((ValueError, TypeError), "", ours=True))
    stride = per_dim(call.kwargs.get("stride", 1), nd, found, "stride")
    dilation = per_dim(call.kwargs.get("dilation", 1), nd, found, "dilation")
    padding = _pairs(call, nd, found)
    tensors_agree(x, w, b, found)
    if x is None or w is None or None in (stride, dilation, padding):
        return found
    if len(x.shape) not in (nd + 1, nd + 2):
        found.append(refused("input"))
    if len(w.shape) != nd + 2:
        found.append(refused("weight"))
    if found:
        return found
    return _conv_sizes(call, nd, x, w, b, stride, padding, dilation)


def _conv_sizes(
    call: Call, nd: int, x: T, w: T, b: T | None, stride: Any, padding: Any, dilation: Any
) -> list[Problem]:
    found: list[Problem] = []
    channels, outputs = x.shape[-nd - 1], w.shape[0]
    if w.shape[1] != 1:
        found.append(refused("weight"))
    if channels == 0:
        found.append(refused("channel", ours=True))
    elif outputs == 0 or outputs % channels:
        found.append(refused("weight", ours=outputs == 0))
    if b is not None and b.shape != (outputs,):
        found.append(refused("bias"))
    kernel = w.shape[2:]
    if 0 in kernel:
        found.append(refused("", ours=True))
    if min(stride) < 1 or min(dilation) < 1:
        found.append(refused("stride" if min(stride) < 1 else "dilation"))
    if max(*stride, *dilation, 0) >= LIMIT:
        found.append(refused("2^31", ours=True))
    if isinstance(padding, list):
        if min(v for p in padding for v in p) < 0:
            found.append(refused("padding"))
        if max(v for p in padding for v in p) >= LIMIT:
            found.append(refused("2^31", ours=True))
    if found:
        return found
    elements = max(x.shape[0], 1) if len(x.shape) == nd + 2 else 1
    elements *= outputs
    axes = zip(x.shape[-nd:], kernel, stride, dilation, strict=True)
    for i, (n, k, s, d) in enumerate(axes):
        reach = d * (k - 1)
        if padding == "same":
            total = reach if s == 1 else max((-(-n // s) - 1) * s + reach + 1 - n, 0)
        else:
            total = {"valid": 0, "causal": reach}.get(padding) if isinstance(padding, str) else None
            total = sum(padding[i]) if total is None else total
        most = total if padding == "causal" else -(-total // 2)  # on one side
        if padding in ("same", "causal") and most >= LIMIT:
            found.append(refused("", ours=True))
        elif n + total < reach + 1:
            found.append(refused("Kernel size can't be greater", ours=isinstance(padding, str)))
        elements *= max((n + total - reach - 1) // s + 1, 0)
        if elements >= 2**63:
            found.append(refused("overflow", ours=True))
    return found


def pool_windows(call: Call, problems: list[Problem]) -> dict[str, list[int]] | None:
    """The windows, one value for every axis, or None if they are wrong."""
    kernel = call.kwargs["kernel_size"]
    alone = as_int(kernel) is not None
    if not alone and not isinstance(kernel, (tuple, list)):
        problems.append(wrong_type("kernel_size"))
        return None
    axes = max(len(call.x.shape) - 1, 1) if alone else len(kernel)
    out = {}
    rest = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
    for name, default in rest.items():
        value = call.kwargs.get(name, None if name == "stride" else default)
        if name == "stride" and (value is None or (isinstance(value, (tuple, list)) and not value)):
            value = kernel
        if alone and as_int(value) is not None:
            value = [value] + [default] * (axes - 1)
        checked = ints if alone else per_dim
        numbers = checked(value, axes, problems, name)
        if numbers is not None and len(numbers) != axes:
            problems.append(refused(name, ours=True))
            numbers = None
        if numbers is None:
            return None
        out[name] = numbers
    return out


def pool(call: Call) -> list[Problem]:
    found: list[Problem] = []
    x = tensor_of(call.x, "input", found)
    if type(call.kwargs.get("ceil_mode", False)) is not bool:
        found.append(wrong_type("ceil_mode"))
    if x is None:
        return found
    windows = pool_windows(call, found)
    if x.dtype not in FLOATS:
        found.append(refused("", ours=True))
    if windows is None:
        return found
    axes = len(windows["kernel_size"])
    if not 1 <= axes <= 4:
        found.append(refused("", ours=True))
        return found
    for name, values in windows.items():
        if min(values) < (0 if name == "padding" else 1):
            found.append(refused("pad" if name == "padding" else name))
        if max(values) >= LIMIT:
            found.append(refused(name, ours=True))
    if len(x.shape) not in (axes, axes + 1):
        found.append(refused("input", ours=True))
    reaches = [d * (k - 1) + 1 for k, _, _, d in zip(*windows.values(), strict=True)]
    if any(2 * p > reach for p, reach in zip(windows["padding"], reaches, strict=True)):
        found.append(refused("at most half"))
    if found:
        return found
    for n, reach, s, p in zip(
        x.shape[-axes:], reaches, windows["stride"], windows["padding"], strict=True
    ):
        if n == 0:
            found.append(refused("positive length"))
        elif n + 2 * p - reach + (s - 1 if call.kwargs.get("ceil_mode") else 0) < 0:
            found.append(refused("too small"))
    grad = x.grad and not call.kwargs.get("return_indices")
    if grad and math.prod(windows["kernel_size"]) >= LIMIT:
        found.append(refused("2^31", ours=True))
    return found


def _exists(sizes: tuple[int, ...]) -> bool:
    """Whether torch has such a tensor: of an empty one's sizes the product may be too large."""
    try:
        torch.empty(sizes, device="meta")
    except RuntimeError:
        return False
    return True


def blocks(call: Call) -> list[Problem]:
    """space_to_depth, depth_to_space and the pixel shuffles."""
    found: list[Problem] = []
    pixel = call.function.startswith("pixel")
    to_depth = call.function in ("space_to_depth", "pixel_unshuffle")
    name = next(iter(call.kwargs))
    x = tensor_of(call.x, "input", found)
    order = call.kwargs.get("order", "dcr")
    if not isinstance(order, str):
        found.append(wrong_type("order"))
    elif order not in ("crd", "dcr", "focus"):
        found.append(Problem((ValueError,), "order"))
    if x is None:
        return found
    dims = 2 if pixel else min(max(len(x.shape) - 2, 1), 3)
    block = ints(call.kwargs[name], dims, found, name)
    if found or block is None:
        return found
    if (pixel and len(block) != 2) or not 1 <= len(block) <= 3:
        found.append(refused(name, ours=True))
    elif len(x.shape) <= len(block):
        found.append(refused("input"))
    elif min(block) < 1:
        found.append(refused("positive"))
    if found:
        return found
    volume = math.prod(block)
    channels, *space = x.shape[-len(block) - 1 :]
    sizes = [channels * volume] if to_depth else [n * b for n, b in zip(space, block, strict=True)]
    if volume >= 2**63 or max(sizes) >= 2**63:
        found.append(Problem((ValueError,), "64 bits", ours=True))
    else:
        rest = [n // b for n, b in zip(space, block, strict=True)]
        sizes += rest if to_depth else []
        channels_out = [] if to_depth else [channels // volume]
        if not _exists((*x.shape[: -len(block) - 1], *channels_out, *sizes)):
            found.append(refused(""))
    if to_depth and any(n % b for n, b in zip(space, block, strict=True)):
        found.append(refused("divisible"))
    if not to_depth and channels % volume:
        found.append(refused("divisible"))
    return found


def channel_shuffle(call: Call) -> list[Problem]:
    found: list[Problem] = []
    x = tensor_of(call.x, "input", found)
    groups = as_int(call.kwargs["groups"])
    if groups is None:
        found.append(wrong_type("'groups'"))
    elif not -(2**63) <= groups < 2**63:
        found.append(Problem((ValueError,), "groups"))
    if found or x is None or groups is None:
        return found
    if len(x.shape) < 3:
        found.append(refused("input"))
    elif groups < 1 or x.shape[1] % groups:
        found.append(refused("groups"))
    return found


def problems(call: Call) -> list[Problem]:
    """What is wrong with a call."""
    if call.function.startswith("depthwise_conv_transpose"):
        return transpose_model.conv(call)
    if call.function.startswith("depthwise_conv"):
        return conv(call)
    if call.function in squeeze_target.NAMES:
        return squeeze_target.problems(call)
    return {"depth_max_pool": pool, "channel_shuffle": channel_shuffle}.get(call.function, blocks)(
        call
    )
