# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""The short way from Python to the rearrangements, and their autograd nodes.

Functions of fastconv._C serve plain calls; all that could be said to another one is torch.ops'
business.  Nobody must be able to tell the two apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import fastconv
from fastconv import _C

ops = torch.ops.fastconv
# (public call, short call, operator, native): all on a tensor of 12 channels and 12 x 8 pixels.
CALLS: dict[str, tuple[Callable[..., Tensor], ...]] = {
    "pixel_shuffle": (
        lambda x: fastconv.pixel_shuffle(x, 2),
        lambda x: _C.depth_to_space(x, 2),
        lambda x: ops.depth_to_space(x, [2, 2], "crd"),
        lambda x: F.pixel_shuffle(x, 2),
    ),
    "pixel_unshuffle": (
        lambda x: fastconv.pixel_unshuffle(x, (2, 2)),
        lambda x: _C.space_to_depth(x, (2, 2)),
        lambda x: ops.space_to_depth(x, [2, 2], "crd"),
        lambda x: F.pixel_unshuffle(x, 2),
    ),
    "space_to_depth": (
        lambda x: fastconv.space_to_depth(x, 4, "crd"),
        lambda x: _C.space_to_depth(x, 4, "crd"),
        lambda x: ops.space_to_depth(x, [4, 4], "crd"),
        lambda x: F.pixel_unshuffle(x, 4),
    ),
    "depth_to_space": (
        lambda x: fastconv.depth_to_space(x, [2, 2], "crd"),
        lambda x: _C.depth_to_space(x, [2, 2], "crd"),
        lambda x: ops.depth_to_space(x, [2, 2], "crd"),
        lambda x: F.pixel_shuffle(x, 2),
    ),
    "channel_shuffle": (
        lambda x: fastconv.channel_shuffle(x, 3),
        lambda x: _C.channel_shuffle(x, 3),
        lambda x: ops.channel_shuffle(x, 3),
        lambda x: F.channel_shuffle(x, 3),
    ),
}
each = pytest.mark.parametrize("name", CALLS)


def tensor(**options: Any) -> Tensor:
    return torch.randn(2, 12, 12, 8, **options)


@each
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_same_as_torch_ops(name: str, layout: torch.memory_format) -> None:
    public, short, operator, native = CALLS[name]
    x = tensor().contiguous(memory_format=layout)
    y = short(x)
    for other in (public, operator):
        z = other(x)
        assert torch.equal(y, z) and y.stride() == z.stride()
    assert torch.equal(y, native(x))
    leaf = torch.nn.Parameter(x)
    grad = torch.randn_like(y)
    (expected,) = torch.autograd.grad(native(leaf), leaf, grad)
    for call in (short, operator):
        (actual,) = torch.autograd.grad(call(leaf), leaf, grad)
        assert torch.equal(actual, expected)


class Subclass(Tensor):
    pass


class Recorder(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class DispatchRecorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


@each
def test_whoever_overrides_torch_sees_the_operator(name: str) -> None:
    public, short, operator, _ = CALLS[name]
    x = tensor()
    assert short(x.as_subclass(Subclass)) is None
    assert type(public(x.as_subclass(Subclass))) is type(operator(x.as_subclass(Subclass)))
    with Recorder() as functions:
        assert short(x) is None
        public(x)
    assert any(str(function).startswith("fastconv") for function in functions.seen)
    for call in (public, short):  # modes of the dispatcher see either
        with DispatchRecorder() as recorder:
            assert call(x) is not None
        assert [str(function).split(".")[0] for function in recorder.seen] == ["fastconv"]
    traced = torch.jit.trace(public, (x,))
    assert "fastconv::" in str(traced.graph)
    other = tensor()
    assert torch.equal(traced(other), public(other))


def test_what_is_no_plain_number_takes_the_long_way() -> None:
    x = tensor()
    for factor in (True, 2.0, "2", None, np.int64(2), 2**70, {2}, (2, np.int64(2))):
        assert _C.depth_to_space(x, factor) is None
        assert _C.space_to_depth(x, factor, "crd") is None
        assert _C.channel_shuffle(x, factor) is None
    for count in ((), (2,), (2, 2, 1)):
        assert _C.depth_to_space(x, count) is None
    assert _C.space_to_depth(x, 2, b"crd") is None
    assert _C.space_to_depth(3, 2) is None
    assert torch.equal(fastconv.channel_shuffle(x, np.int64(3)), F.channel_shuffle(x, 3))


@pytest.mark.parametrize(
    ("short", "operator"),
    [
        (lambda x: _C.channel_shuffle(x, 5), lambda x: ops.channel_shuffle(x, 5)),
        (lambda x: _C.channel_shuffle(x, 0), lambda x: ops.channel_shuffle(x, 0)),
        (lambda x: _C.channel_shuffle(x, -3), lambda x: ops.channel_shuffle(x, -3)),
        (lambda x: _C.depth_to_space(x, 5), lambda x: ops.depth_to_space(x, [5, 5], "crd")),
        (lambda x: _C.space_to_depth(x, 0), lambda x: ops.space_to_depth(x, [0, 0], "crd")),
        (lambda x: _C.space_to_depth(x, 2, "cdr"), lambda x: ops.space_to_depth(x, [2, 2], "cdr")),
        (lambda x: _C.space_to_depth(x, (), "crd"), lambda x: ops.space_to_depth(x, [], "crd")),
    ],
)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_same_errors(short: Any, operator: Any, requires_grad: bool) -> None:
    x = tensor(requires_grad=requires_grad)
    with pytest.raises((RuntimeError, ValueError)) as expected:
        operator(x)
    with pytest.raises(expected.type) as raised:
        short(x)
    assert str(raised.value) == str(expected.value)


@each
def test_compiled_autograd(name: str) -> None:
    public, _, _, native = CALLS[name]
    x = tensor(requires_grad=True)
    grad = torch.randn_like(public(x))
    (expected,) = torch.autograd.grad(native(x * 2), x, grad)

    def compiler(graph: torch.fx.GraphModule) -> Any:
        return torch.compile(graph, backend="eager", fullgraph=True)

    with torch._dynamo.compiled_autograd._enable(compiler):
        public(x * 2).backward(grad)
    assert x.grad is not None
    assert torch.equal(x.grad, expected)


@each
def test_nodes(name: str) -> None:
    public, _, _, native = CALLS[name]
    x = tensor(dtype=torch.float64, requires_grad=True)
    y = public(x)
    assert y.grad_fn is not None and y.grad_fn.name().startswith("fastconv::")
    grad = torch.randn_like(y, requires_grad=True)
    (first,) = torch.autograd.grad(y, x, grad, create_graph=True)
    (again,) = torch.autograd.grad(y, x, grad)  # nothing was saved, so nothing is freed
    assert torch.equal(first, again)
    weight = torch.randn_like(first)
    (second,) = torch.autograd.grad(first, grad, weight)
    assert torch.equal(second, native(weight))
    assert not public(x.detach()).requires_grad
    with torch.no_grad():
        assert public(x).grad_fn is None
    with torch.inference_mode():
        assert public(x).is_inference()
