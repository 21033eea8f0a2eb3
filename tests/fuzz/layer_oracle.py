# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Judges calls of layers: against the functions, the reference, and torch's layers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import layer_strategies
import torch
import torch.nn.functional as F
from calls import Call, build, function_of, layer_of
from oracle import Outcome, assert_same_bits, outcome
from torch import Tensor

from fastconv import reference
from fastconv.testing import assert_within, rounding_bound


def check(call: Call) -> None:
    name = call.function.removeprefix("nn.")
    if name in layer_strategies.THIN:
        _check_thin(call, layer_strategies.THIN[name])
    elif name == "DepthPool2d":
        _check_depth_pool(call)
    elif name == "DepthwiseSeparableConv2d":
        _check_separable(call)
    else:
        _check_conv(call)


def run(call: Call, native: bool = False) -> tuple[Any, Outcome]:
    """The layer, if it could be built, and what it did."""
    built = outcome(lambda: (layer_of(call, native),))
    if built.error is not None:
        return None, built
    layer: Any = built.results[0]
    return layer, outcome(layer, *build(call))


def _check_thin(call: Call, function: str) -> None:
    """A layer does what its function does."""
    _, ours = run(call)
    same = dataclasses.replace(call, function=function)
    theirs = outcome(function_of(same), *build(call), **call.kwargs)
    assert type(ours.error) is type(theirs.error), f"the layer: {ours}, the function: {theirs}"
    for a, b in zip(ours.results, theirs.results, strict=True):
        if a.device.type == "cpu":
            assert_same_bits(a, b, "layer and function")


def _check_depth_pool(call: Call) -> None:
    _, ours = run(call)
    x, p = build(call)[0], call.kwargs["pool_size"]
    fits = x.dim() in (3, 4) and 1 <= p <= min(x.shape[-3:])
    if not fits or not x.is_floating_point():
        assert isinstance(ours.error, RuntimeError), f"{ours}"
        return
    assert ours.error is None, f"{ours}"
    # Remainders: of space dropped, of channels as torch.chunk splits them.
    space = reference.depth_max_pool(x.detach(), (1, p, p))
    parts = torch.chunk(space, x.shape[-3] // p, dim=-3)
    want = torch.stack([_amax(part) for part in parts], -3)
    y = ours.results[0]
    assert y.shape == want.shape, f"shape {y.shape}, expected {want.shape}"
    assert_within(y, want.double(), torch.zeros_like(want, dtype=torch.float64), "maxima")
    assert y.requires_grad == x.requires_grad


def _amax(part: Tensor) -> Tensor:
    return part.amax(-3)


def _pad(x: Tensor, pads: list[tuple[int, int]], mode: str) -> Tensor:
    flat = [p for pair in reversed(pads) for p in pair]
    return F.pad(x, flat, mode="constant" if mode == "zeros" else mode)


def _pads(call: Call, x: Tensor, nd: int) -> list[tuple[int, int]]:
    k = call.kwargs
    kernel, stride, dilation = (
        reference.per_dim(v, nd)
        for v in (k["kernel_size"], k.get("stride", 1), k.get("dilation", 1))
    )
    return reference.conv_padding(x.shape[-nd:], kernel, stride, k.get("padding", 0), dilation)


def _check_conv(call: Call) -> None:
    nd, k = int(call.function[-2]), call.kwargs
    layer, ours = run(call)
    theirs = Outcome()  # where torch has no such layer
    nested = isinstance(k.get("padding"), tuple) and any(isinstance(p, tuple) for p in k["padding"])
    strided = k.get("padding") == "same" and k.get("stride", 1) not in (1, (1,), [1], [1] * nd)
    if not nested and not strided and k.get("padding") != "causal":
        groups = k.get("groups") if k.get("groups") is not None else k["in_channels"]
        native = dataclasses.replace(call, kwargs={**k, "groups": groups})
        other, theirs = run(native, native=True)
        _check_same_error(call, ours, theirs, layer is None)
        if layer is not None and other is not None:
            assert repr(layer) == repr(other).replace("Conv", "DepthwiseConv", 1)
            for a, b in zip(layer.parameters(), other.parameters(), strict=True):
                assert_same_bits(a, b, "parameters")
    if ours.error is not None:
        text = f"{type(ours.error).__name__}: {ours.error}"
        types = [TypeError, ValueError, RuntimeError, type(theirs.error)]
        assert isinstance(ours.error, tuple(types)), text
        assert "INTERNAL ASSERT" not in text, text
        return
    _check_conv_values(call, layer, nd, ours.results[0])


def _check_same_error(call: Call, ours: Outcome, theirs: Outcome, unbuilt: bool) -> None:
    if theirs.error is None:
        # Of groups only one number makes a depthwise convolution.  With a padding mode, torch pads
        # other dimensions than those meant if there are too few numbers.  Of what it need not
        # compute it checks less.
        k, nd = call.kwargs, int(call.function[-2])
        depthwise = k.get("groups") in (None, k["in_channels"])
        paddings = len(k["padding"]) if isinstance(k.get("padding"), tuple) else nd
        strict = not depthwise or paddings != nd or 0 in call.x.shape
        assert ours.error is None or strict, f"torch accepts this, but it raised {ours}"
    elif ours.error is not None:
        # A call can be wrong in two ways, and types are looked at first, or last.
        expected = [type(theirs.error), TypeError, *([ValueError] if unbuilt else [])]
        # torch looks into a kernel of no elements, and pads dimensions that are not there.
        if isinstance(theirs.error, (IndexError, NotImplementedError)):
            expected.append(RuntimeError)
        assert isinstance(ours.error, tuple(expected)), f"torch raises {theirs}, it raised {ours}"


def _check_conv_values(call: Call, layer: Any, nd: int, y: Tensor) -> None:
    k, x = call.kwargs, build(call)[0]
    conv = (reference.depthwise_conv1d, reference.depthwise_conv2d, reference.depthwise_conv3d)
    mode, dtype = k.get("padding_mode", "zeros"), x.dtype
    leaves = [t.detach().double().requires_grad_() for t in (x, *layer.parameters())]
    transposed = "Transpose" in call.function

    def run_reference(tensors: list[Tensor]) -> Tensor:
        if transposed:
            function = getattr(reference, f"depthwise_conv_transpose{nd}d")
            extra = layer._output_padding(
                x, *(call.args[1:] or [None]), layer.stride, layer.padding, layer.kernel_size, nd,
                layer.dilation,
            )  # fmt: skip
            bias = tensors[2] if k["bias"] else None
            return function(*tensors[:2], bias, layer.stride, layer.padding, extra, layer.dilation)
        padded = _pad(tensors[0], _pads(call, x, nd), mode)
        rest = (k.get("stride", 1), 0, k.get("dilation", 1))
        return conv[nd - 1](padded, *tensors[1:], *([] if k["bias"] else [None]), *rest)

    value = run_reference(leaves)
    magnitude = run_reference([t.abs() for t in leaves])
    terms = math.prod(layer.kernel_size) + 1
    assert_within(y, value.detach(), rounding_bound(value, magnitude, terms, dtype), "result")
    generator = torch.Generator().manual_seed(call.seed + 1)
    grad = torch.randn(y.shape, dtype=torch.float64, generator=generator).to(dtype)
    wanted = list(layer.parameters())
    got = list(torch.autograd.grad(y, wanted, grad))
    want = torch.autograd.grad(value, leaves[1:], grad.double())
    sizes = [t.detach().abs().requires_grad_() for t in leaves]
    bounds = torch.autograd.grad(run_reference(sizes), sizes[1:], grad.double().abs())
    for i, (g, e, m) in enumerate(zip(got, want, bounds, strict=True)):
        bound = rounding_bound(e, m, max(grad.numel(), 1), dtype)
        assert_within(g, e, bound, f"gradient of parameter {i}")


def _check_separable(call: Call) -> None:
    layer, ours = run(call)
    k, x = call.kwargs, build(call)[0]
    assert ours.error is None, f"{ours}"
    padded = _pad(x, _pads(call, x, 2), k["padding_mode"])
    deep = layer.depthwise
    hidden = reference.depthwise_conv2d(
        padded, deep.weight, deep.bias, k["stride"], 0, k["dilation"]
    )
    want = F.conv2d(hidden, layer.pointwise.weight, layer.pointwise.bias)
    torch.testing.assert_close(ours.results[0], want)
    wanted = list(layer.parameters())
    grad = torch.ones_like(want)
    for a, b in zip(
        torch.autograd.grad(ours.results[0], wanted, grad),
        torch.autograd.grad(want, wanted, grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
