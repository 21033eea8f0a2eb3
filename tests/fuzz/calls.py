# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""A call as plain data: what hypothesis draws and shrinks, and what a failure prints.

``repr`` of a :class:`Call` is Python that builds it again; ``parse`` reads it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastconv
from fastconv import nn as layers
from fastconv.testing import LAYOUTS

# Strides of zero and overlapping elements: no such tensor can be written in place.
ALIASED = ("expanded", "expanded_batch", "expanded_channels", "scalar", "overlapping")
NOT_STRIDED = ("sparse", "mkldnn")


class _Brief:
    """Shows the fields that differ from their defaults."""

    def __repr__(self) -> str:
        shown = []
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if f.default is dataclasses.MISSING:
                shown.append(repr(value))
            elif value != f.default:
                shown.append(f"{f.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclasses.dataclass(frozen=True, repr=False)
class T(_Brief):
    """A tensor to be drawn."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: str = "contiguous"
    values: str = "normal"
    grad: bool = False
    device: str = "cpu"

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)


@dataclasses.dataclass(frozen=True, repr=False)
class Call(_Brief):
    """One call of a public function, or of a layer built from `kwargs`."""

    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    isa: str = "baseline"
    threads: int = 1
    grad_layout: str = "contiguous"
    seed: int = 0

    @property
    def x(self) -> Any:
        return self.args[0]


def parse(text: str) -> Call:
    return eval(text, {"Call": Call, "T": T, "np": np, "torch": torch, "inf": math.inf})


def function_of(call: Call) -> Any:
    return getattr(fastconv, call.function)


def layer_of(call: Call, native: bool = False) -> torch.nn.Module:
    """Builds the layer of a call of ``nn.<layer>``; the seed decides its parameters."""
    torch.manual_seed(call.seed)
    name = call.function.removeprefix("nn.")
    if native:
        return getattr(torch.nn, name.removeprefix("Depthwise"))(**call.kwargs)
    return getattr(layers, name)(**call.kwargs)


def channel_axis(call: Call, dim: int) -> int:
    """Where a tensor of `dim` dimensions has its channels, if it can have any."""
    name = call.function
    axis = 1
    if "onv" in name:
        axis = dim - int(name[-2]) - 1
    elif "pixel" in name or "Pixel" in name:
        axis = dim - 3
    elif "ool" in name:
        kernel = call.kwargs.get("kernel_size")
        axis = dim - len(kernel) if isinstance(kernel, (tuple, list)) else 1
    return min(max(axis, 0), max(dim - 1, 0))


def _values(spec: T, generator: torch.Generator) -> Tensor:
    shape, dtype = spec.shape, spec.torch_dtype
    if not (dtype.is_floating_point or dtype.is_complex):
        low, high = (0, 2) if dtype == torch.bool else (0, 100)
        return torch.randint(low, high, shape, generator=generator).to(dtype)
    if dtype.is_complex:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "ComplexHalf support is experimental")
            return torch.randn(shape, dtype=torch.complex64, generator=generator).to(dtype)
    if spec.values == "integers":  # sums without rounding, and ties
        x = torch.randint(-3, 4, shape, generator=generator).double()
    else:
        x = torch.randn(shape, dtype=torch.float64, generator=generator)
    if spec.values == "special":
        kind = torch.randint(0, 40, shape, generator=generator)
        rare = (math.inf, -math.inf, math.nan, 0.0, -0.0, torch.finfo(dtype).tiny / 4)
        for i, value in enumerate(rare):
            x = torch.where(kind == i, value, x)
    elif spec.values == "minus_inf":
        x = torch.where(torch.rand(shape, generator=generator) < 0.8, -math.inf, x)
    elif spec.values == "tiny":  # around the smallest normal number
        x = x * torch.finfo(dtype).tiny
    elif spec.values == "large":  # a few of them are more than a float16 can hold
        x = x * 2.0**13
    return x.to(dtype)


def _overlapping(t: Tensor) -> Tensor:
    strides = list(range(t.dim(), 0, -1))
    need = sum((n - 1) * s for n, s in zip(t.shape, strides, strict=True)) + 1
    flat = t.flatten()
    return flat.repeat(-(-need // flat.numel()))[:need].as_strided(t.shape, strides)


def _sliced(t: Tensor) -> Tensor:
    around = t.new_empty([n + 3 for n in t.shape])
    around.view(torch.uint8).fill_(255)  # NaN
    return around[tuple(slice(1, n + 1) for n in t.shape)].copy_(t)


def _permuted(t: Tensor, number: int) -> Tensor:
    orders = itertools.permutations(range(t.dim()))
    order = next(itertools.islice(orders, number % math.factorial(t.dim()), None))
    back = sorted(range(t.dim()), key=order.__getitem__)
    return t.permute(order).contiguous().permute(back)


def arrange(t: Tensor, layout: str, channel: int) -> Tensor:
    """Lays a tensor out in memory as `layout` says; only the ALIASED ones change its values."""
    if layout.startswith("permuted:"):
        return _permuted(t, int(layout.partition(":")[2]))
    if layout == "sparse":
        return t.to_sparse()
    if layout == "mkldnn":
        return t.to_mkldnn()
    if t.dim() == 0:
        return t
    if t.numel() == 0 and layout not in ("contiguous", "channels_last", "transposed"):
        return t
    if layout == "sliced":
        return _sliced(t)
    if layout == "expanded_batch":
        return t[:1].expand_as(t)
    if layout == "expanded_channels":
        return t.narrow(channel, 0, 1).expand_as(t)
    if layout == "scalar":
        return t.flatten()[0].expand_as(t)
    if layout == "overlapping":
        return _overlapping(t)
    return LAYOUTS[layout](t, channel)


def build(call: Call, device: str = "cpu") -> tuple[Any, ...]:
    """The arguments of a call: the same ones each time."""
    generator = torch.Generator().manual_seed(call.seed)
    built = []
    for spec in call.args:
        if isinstance(spec, T):
            t = arrange(_values(spec, generator), spec.layout, channel_axis(call, len(spec.shape)))
            if device == "meta" or spec.device == "meta":
                t = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")
            built.append(t.detach().requires_grad_(spec.grad))
        else:
            built.append(spec)
    return tuple(built)
