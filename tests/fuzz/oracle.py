# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Runs a call and judges it: ``check(call)`` raises AssertionError unless all is as promised.

A sound call returns what the float64 reference returns, within the rounding of its dtype, in the
memory format that torch would give, with the right gradients and the same bits with any number of
threads; a meta call agrees.  A wrong call raises what the model names and torch raises.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from typing import Any

import model
import native
import squeeze_target
import torch
import transpose_model
from arguments import Problem
from calls import NOT_STRIDED, Call, T, arrange, build, channel_axis, function_of
from layout import check_agree, check_layout
from torch import Tensor

import fastconv
from fastconv import reference
from fastconv.testing import OP_SPECS, Sample, as_tuple, assert_within, poison

SPECS = {spec.name: spec for spec in OP_SPECS}
LARGEST = 2**22  # elements of a result that is really computed
MOST = 2**26  # multiply-adds of the reference: seconds, as it makes a pass over memory for each tap


@dataclasses.dataclass
class Outcome:
    """What a call did: results, or an error."""

    results: tuple[Tensor, ...] = ()
    error: Exception | None = None

    def __str__(self) -> str:
        if self.error is not None:
            return f"{type(self.error).__name__}: {self.error}"
        return ", ".join(f"{tuple(t.shape)} with strides {t.stride()}" for t in self.results)


def outcome(function: Any, *args: Any, **kwargs: Any) -> Outcome:
    try:
        return Outcome(as_tuple(function(*args, **kwargs)))
    except Exception as error:
        return Outcome(error=error)


def check(call: Call) -> None:
    threads, isa = torch.get_num_threads(), fastconv._C.isa()
    torch.set_num_threads(call.threads)
    fastconv._C.set_isa(call.isa)
    try:
        if call.function.startswith("nn."):
            import layer_oracle

            layer_oracle.check(call)
        else:
            _check(call)
    finally:
        torch.set_num_threads(threads)
        fastconv._C.set_isa(isa)


def _check(call: Call) -> None:
    found = model.problems(call)
    specs = [a for a in call.args if isinstance(a, T)]
    if specs and all(t.device == "meta" for t in specs):  # nothing to compare a meta call with
        specs = [dataclasses.replace(t, device="cpu") for t in specs]
        args = iter(specs)
        call = dataclasses.replace(
            call, args=tuple(next(args) if isinstance(a, T) else a for a in call.args)
        )
    plain = all(t.layout not in NOT_STRIDED and t.device == "cpu" for t in specs)
    meta = outcome(function_of(call), *build(call, "meta"), **call.kwargs) if plain else None
    if meta is not None and any(t.numel() > LARGEST for t in meta.results):
        assert not found, f"a meta call returned {meta}, but the model says {found}"
        return
    args = build(call)
    ours = outcome(function_of(call), *args, **call.kwargs)
    if ours.error is not None:
        check_error(call, ours.error, found, args)
        if meta is not None:
            assert type(meta.error) is type(ours.error), f"a meta call gave {meta}, not {ours}"
        return
    assert not found, f"it returned {ours}, but the model says {found}"
    assert meta is not None and meta.error is None, f"it returned {ours}, a meta call {meta}"
    bare = call.kwargs.get("activation") in (None, "relu", "relu6")
    check_agree(meta.results, ours.results, "a meta call", bare)
    check_layout(call, args[0], args[1] if len(args) > 1 else None, ours.results[0])
    if steps(call, args, ours.results[0]) > MOST:
        return
    check_result(call, args, ours.results)
    check_gradients(call, args, ours.results[0])


def check_error(call: Call, error: Exception, found: list[Problem], args: tuple[Any, ...]) -> None:
    text = f"{type(error).__name__}: {error}"
    assert "INTERNAL ASSERT" not in text, text
    assert found, f"the model finds nothing wrong, but it raised {text}"
    fitting = [p for p in found if type(error) in p.types]
    assert fitting, f"it raised {text}, but the model says {found}"
    assert any(p.word in str(error) for p in found), f"{text!r} does not speak of {found}"
    torchs = native.native_of(call)
    if torchs is None or any(p.ours for p in found):
        return
    theirs = outcome(torchs, *args)
    if theirs.error is None:
        # Of what it need not compute torch checks less.
        assert 0 in call.x.shape, f"torch accepts this, but it raised {text}"
        return
    if "INTERNAL ASSERT" in str(theirs.error):
        return
    if not isinstance(theirs.error, AttributeError):  # torch's for what is no tensor, at times
        assert isinstance(error, type(theirs.error)), f"torch raises {theirs}, it raised {text}"


def steps(call: Call, args: tuple[Any, ...], y: Tensor) -> int:
    """Elements that the reference visits: for every tap, and those of the padding."""
    if call.function == "depth_max_pool":
        return y.numel() * math.prod((model.pool_windows(call, []) or {})["kernel_size"])
    if not call.function.startswith("depthwise_conv"):
        return y.numel()
    x, kernel, kwargs = args[0], args[1].shape[2:], plain_kwargs(call)
    if "transpose" in call.function:
        return max(x.numel(), y.numel()) * math.prod(kernel)
    nd = len(kernel)
    stride, dilation = (reference.per_dim(kwargs.get(k, 1), nd) for k in ("stride", "dilation"))
    size = x.shape[-nd:]
    pads = reference.conv_padding(size, kernel, stride, kwargs.get("padding", 0), dilation)
    padded = [n + begin + end for n, (begin, end) in zip(size, pads, strict=True)]
    zeros = math.prod(max(n, 1) for n in (*padded, *x.shape[:-nd]))
    # The zeros are written and read a few times, whatever becomes of them.
    return y.numel() * math.prod(kernel) + 16 * zeros


# ---- values ----


def plain_kwargs(call: Call) -> dict[str, Any]:
    """The arguments as the reference knows them: Python ints, a window for every axis."""

    def plain(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return tuple(int(v) if isinstance(v, bool) else plain(v) for v in value)
        return value if isinstance(value, (str, bool, type(None))) else operator.index(value)

    kwargs = {k: plain(v) for k, v in call.kwargs.items()}
    if call.function == "depth_max_pool":
        windows = model.pool_windows(call, [])
        kwargs |= {k: tuple(v) for k, v in (windows or {}).items()}
    return kwargs


def move(call: Call, x: Tensor) -> Tensor:
    """The reference of a rearrangement, which wants batches of one dimension."""
    kwargs = plain_kwargs(call)
    name, value = next(iter(kwargs.items()))
    if name == "groups":
        return x if x.numel() == 0 else reference.channel_shuffle(x, value)
    dims = 2 if call.function.startswith("pixel") else min(max(x.dim() - 2, 1), 3)
    block = reference.per_dim(value, dims) if isinstance(value, int) else value
    rest = x.shape[: x.dim() - len(block) - 1]
    to_depth = call.function in ("space_to_depth", "pixel_unshuffle")
    if x.numel() == 0:  # factors may be so large that the reference's views overflow
        channels, *space = x.shape[len(rest) :]
        sizes = [n // b if to_depth else n * b for n, b in zip(space, block, strict=True)]
        volume = math.prod(block)
        return x.new_empty(*rest, channels * volume if to_depth else channels // volume, *sizes)
    order = "crd" if call.function.startswith("pixel") else kwargs.get("order", "dcr")
    flat = x.reshape(math.prod(rest), *x.shape[len(rest) :])
    y = (reference.space_to_depth if to_depth else reference.depth_to_space)(flat, block, order)
    return y.reshape(*rest, *y.shape[1:])


def assert_same_bits(a: Tensor, b: Tensor, what: str) -> None:
    assert a.shape == b.shape and a.dtype == b.dtype, f"{what}: {a.shape} {a.dtype}"
    raw = [_raw(t) for t in (a, b)]
    assert torch.equal(*raw), f"{what}: {int((raw[0] != raw[1]).sum())} bytes differ"


def rounding(bound: Tensor, terms: int, dtype: torch.dtype) -> Tensor:
    """The bound where it exists, and the rounding of `terms` products below the normal range."""
    acc = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32)
    return torch.where(bound.isfinite(), bound, 0) + terms * acc.tiny * acc.eps


def sample_of(call: Call, kwargs: dict[str, Any]) -> Sample:
    return Sample("", tuple(a and a.shape for a in call.args), kwargs)


def check_result(call: Call, args: tuple[Any, ...], results: tuple[Tensor, ...]) -> None:
    y, dtype = results[0], args[0].dtype
    assert y.dtype == dtype
    kwargs = plain_kwargs(call)
    spec = SPECS[call.function]
    before = [None if a is None else a.detach().clone() for a in args]
    poison(*results)
    torch.set_num_threads(1)
    again = as_tuple(function_of(call)(*args, **call.kwargs))
    torch.set_num_threads(call.threads)
    # In training some activations are torch's operators, whose bits depend on threads.
    ours = call.kwargs.get("activation") in (None, "relu", "relu6") or not y.requires_grad
    for a, b in zip(results, again, strict=True) if ours else ():
        assert_same_bits(a, b, "another run, with one thread")
    for a, b in zip(args, before, strict=True):
        assert a is None or a.numel() == 0 or torch.equal(*[_raw(t) for t in (a, b)]), "wrote input"
    if call.function == "depth_max_pool":
        _check_pool(call, kwargs, args[0].detach(), results)
    elif squeeze_target.sums(call):
        sample = sample_of(call, kwargs)
        value, bound = spec.expected(sample, args, dtype)
        assert_within(y, value, rounding(bound, spec.terms(sample)[0], dtype), "result")
    else:
        assert_same_bits(y, move(call, args[0].detach()), "result")


def _raw(t: Tensor) -> Tensor:
    # NaN and -0 are themselves only in bytes.
    return torch.empty(t.numel(), dtype=t.dtype).copy_(t.detach().reshape(-1)).view(torch.uint8)


def empty_windows(call: Call, kwargs: dict[str, Any], size: torch.Size) -> Tensor:
    """Which windows hold no element of the input."""
    k, s, p, d = (kwargs[n] for n in ("kernel_size", "stride", "padding", "dilation"))
    axes, empty = len(k), torch.zeros((), dtype=torch.bool)
    lengths = call.x.shape[len(call.x.shape) - axes :]
    for axis in range(axes):
        at = torch.arange(size[len(size) - axes + axis])[:, None] * s[axis] - p[axis]
        at = at + torch.arange(k[axis]) * d[axis]
        none = ~((at >= 0) & (at < lengths[axis])).any(1)
        empty = empty | none.reshape(-1, *[1] * (axes - axis - 1))
    return empty.expand(size)


def _check_pool(call: Call, kwargs: dict[str, Any], x: Tensor, results: Any) -> None:
    _, index = reference.depth_max_pool(x, **{**kwargs, "return_indices": True})
    assert results[0].shape == index.shape, f"shape {results[0].shape}, expected {index.shape}"
    empty = empty_windows(call, kwargs, index.shape)
    first = x.dim() - len(kwargs["kernel_size"])
    # The winners' bits: torch's own gather may change those of a NaN.
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.itemsize]
    flat = torch.empty(x.shape, dtype=x.dtype).copy_(x).view(bits).flatten(first)
    want = flat.gather(first, index.flatten(first)).reshape(index.shape).view(x.dtype)
    want = torch.where(empty, torch.full_like(want, -math.inf).view(bits), want.view(bits))
    assert_same_bits(results[0], want.view(x.dtype), "maxima")
    if len(results) > 1:
        assert results[1].dtype == torch.int64
        assert torch.equal(results[1][~empty], index[~empty]), "indices"


# ---- gradients ----


def check_gradients(call: Call, args: tuple[Any, ...], y: Tensor) -> None:
    wanted = [a for a in args if isinstance(a, Tensor) and a.requires_grad]
    assert y.requires_grad == bool(wanted)
    if not wanted or call.kwargs.get("activation") is not None:
        return
    spec, kwargs, dtype = SPECS[call.function], plain_kwargs(call), y.dtype
    generator = torch.Generator().manual_seed(call.seed + 1)
    real = torch.complex64 if dtype.is_complex else torch.float64
    grad = torch.randn(y.shape, dtype=real, generator=generator).to(dtype)
    grad = arrange(grad, call.grad_layout, channel_axis(call, grad.dim()))
    got = torch.autograd.grad(y, wanted, grad, retain_graph=True)
    poison(*got)
    torch.set_num_threads(1)
    again = torch.autograd.grad(y, wanted, grad)
    torch.set_num_threads(call.threads)
    for a, b, t in zip(got, again, wanted, strict=True):
        assert a.shape == t.shape and a.dtype == t.dtype, f"gradient {a.shape} {a.dtype}"
        assert_same_bits(a, b, "another gradient, with one thread")
    _check_meta_gradients(call, grad, got)
    moves = call.function != "depth_max_pool" and not squeeze_target.sums(call)
    if moves and y.numel() == 0:
        return
    if moves:
        leaf = args[0].detach().requires_grad_()
        (want,) = torch.autograd.grad(move(call, leaf), leaf, grad)
        assert_same_bits(got[0], want, "gradient")
        return
    if call.function == "depth_max_pool":  # its reference has an element for every window
        empty = empty_windows(call, kwargs, y.shape)
        grad = torch.where(empty, torch.zeros_like(grad), grad)
    sample = sample_of(call, {k: v for k, v in kwargs.items() if k != "return_indices"})
    expected = spec.expected_grads(sample, args, grad, dtype)
    pairs = [
        (e, n)
        for e, n, a in zip(expected, spec.terms(sample)[1:], args, strict=False)
        if a is not None and a.requires_grad
    ]
    for i, (g, (e, n)) in enumerate(zip(got, pairs, strict=True)):
        if not transpose_model.is_free(call, args, g):
            assert_within(g, e[0], rounding(e[1], n, dtype), f"gradient {i}")


def _check_meta_gradients(call: Call, grad: Tensor, got: tuple[Tensor, ...]) -> None:
    args = build(call, "meta")
    y = as_tuple(function_of(call)(*args, **call.kwargs))[0]
    meta = torch.empty_strided(grad.shape, grad.stride(), dtype=grad.dtype, device="meta")
    wanted = [a for a in args if isinstance(a, Tensor) and a.requires_grad]
    check_agree(torch.autograd.grad(y, wanted, meta), got, "a meta gradient")
