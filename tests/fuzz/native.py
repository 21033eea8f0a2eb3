# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""The call as PyTorch's own users write it: whose error is the right one."""

from __future__ import annotations

from typing import Any

import torch
from arguments import as_int
from calls import Call, T


def native_of(call: Call) -> Any:
    """The call as PyTorch's own users write it, if torch has all of its arguments."""
    f, kwargs = torch.nn.functional, dict(call.kwargs)
    numbers = [v for a in kwargs.values() for v in (a if isinstance(a, (tuple, list)) else [a])]
    if any(as_int(v) is not None and abs(as_int(v) or 0) > 10**4 for v in numbers):
        return None  # torch may try to allocate it
    if call.function.startswith("depthwise_conv_transpose"):
        native = getattr(f, call.function.removeprefix("depthwise_"))
        nd, shape = int(call.function[-2]), call.x.shape if isinstance(call.x, T) else ()
        groups = shape[-nd - 1] if len(shape) > nd else 1
        return lambda *args: native(*args, **kwargs, groups=groups)
    if call.function.startswith("depthwise_conv"):
        nd, padding = int(call.function[-2]), kwargs.get("padding", 0)
        nested = isinstance(padding, (tuple, list)) and any(isinstance(p, tuple) for p in padding)
        mode = padding if isinstance(padding, str) else ""
        stride = kwargs.get("stride", 1)
        strides = stride if isinstance(stride, (tuple, list)) else [stride]
        strided = mode == "same" and any(as_int(s) != 1 for s in strides)
        if kwargs.pop("activation", None) is not None or nested or strided or mode == "causal":
            return None
        shape = call.x.shape if isinstance(call.x, T) else ()
        groups = shape[-nd - 1] if len(shape) > nd else 1
        native = (f.conv1d, f.conv2d, f.conv3d)[nd - 1]
        return lambda *args: native(*args, **kwargs, groups=groups)
    if call.function == "depth_max_pool":
        kernel = kwargs["kernel_size"]
        shape = call.x.shape if isinstance(call.x, T) else (1,) * 3
        if not isinstance(kernel, (tuple, list)) or len(kernel) != 3 or len(shape) < 3:
            return None
        return lambda x: f.max_pool3d(x.unsqueeze(-4) if hasattr(x, "dim") else x, **kwargs)
    if call.function.startswith("pixel") and isinstance(next(iter(kwargs.values())), (tuple, list)):
        return None
    return getattr(f, call.function, None) and (
        lambda x: getattr(f, call.function)(x, *kwargs.values())
    )
