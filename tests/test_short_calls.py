# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""The short way from Python to convolutions, pooling and decoding steps.

Functions of fastconv._C serve plain calls; everything else is spelled out in Python and goes
through torch.ops.  Nobody must be able to tell the two apart.  The rearrangements' short ways are
in tests/test_rearrange_calls.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import fastconv
from fastconv import _C, _functional_transpose, _functional_update, functional

BIG = 2**70
# What may be said of a number per dimension, of two dimensions.
NUMBERS: tuple[Any, ...] = (
    1, 2, 0, -1, (2, 1), [1, 2], (2,), [1], (), (1, 2, 1), True, (1, True), 1.0, (1, 1.5), "1",
    None, np.int64(2), (np.int64(1), 2), BIG, (1, BIG), 2**31, -(2**63), torch.tensor(2),
)  # fmt: skip
PADDINGS: tuple[Any, ...] = (
    *NUMBERS, "valid", "same", "causal", "Same", b"same", "\ud800", ((1, 2), (0, 1)),
    [[1, 0], [0, 1]], ((1, 2),), ((1, 2), (1,)), ((1, 2), 1), (1, (1, 2)), ((1, -2), (0, 1)),
    ((1, BIG), (0, 1)), ((1, True), (0, 1)), ((1, 2.0), (0, 1)), ((1, 2), (3, 4), (5, 6)),
)  # fmt: skip
ACTIVATIONS: tuple[Any, ...] = (None, "relu", "silu", "elu", "", 3, b"relu", "\ud800")


@pytest.fixture
def the_long_way(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def close() -> None:
        for module in (functional, _functional_transpose, _functional_update):
            monkeypatch.setattr(module, "compiling", lambda: True)

    return close


def outcome(call: Callable[[], Tensor]) -> Any:
    try:
        y = call()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        return type(error), str(error)
    return y.stride(), y


def variations() -> dict[str, Callable[[], Tensor]]:
    """Calls with one argument or two that are said in another way, right or wrong."""
    torch.manual_seed(6)
    x, flat = torch.randn(2, 4, 9, 8), torch.randn(4, 9, 8)
    last = x.contiguous(memory_format=torch.channels_last)
    w, wide, b = torch.randn(4, 1, 3, 2), torch.randn(8, 1, 3, 2), torch.randn(4)
    # (function, its tensors, {argument: values}); every value, and every pair of the first two.
    table: tuple[tuple[Any, tuple[Any, ...], dict[str, tuple[Any, ...]]], ...] = (
        (fastconv.depthwise_conv2d, (x, w, b),
         {"padding": PADDINGS, "stride": NUMBERS, "dilation": NUMBERS, "activation": ACTIVATIONS}),
        (fastconv.depthwise_conv2d, (last, wide), {"padding": PADDINGS, "dilation": NUMBERS}),
        (fastconv.depthwise_conv2d, (flat, w), {"padding": PADDINGS}),
        (fastconv.depthwise_conv1d, (x[0], w[..., 0]), {"padding": PADDINGS, "stride": NUMBERS}),
        (fastconv.depthwise_conv3d, (x[None].transpose(1, 2), w.unsqueeze(2)),
         {"padding": (*PADDINGS, (1, 0, 2), ((0, 1),) * 3)}),
        (fastconv.depthwise_conv2d, (x[0, 0], w), {"padding": PADDINGS}),
        (fastconv.depthwise_conv2d, (x, w[0]), {"padding": PADDINGS}),
        (fastconv.depthwise_conv2d, (x, w[:, :, :0]), {"padding": PADDINGS}),
        (fastconv.depthwise_conv2d, (x[:, :, :0], w), {"padding": PADDINGS}),
        (fastconv.depthwise_conv2d, (x, w), {"bias": (None, b, b.double(), 3, b.tolist())}),
        (fastconv.depthwise_conv2d, (x, 3), {}),
        (fastconv.depthwise_conv2d, ([1], w), {}),
        (fastconv.depthwise_conv_transpose2d, (x, w, b),
         {"stride": NUMBERS, "output_padding": NUMBERS, "padding": NUMBERS, "dilation": NUMBERS}),
        (fastconv.depthwise_conv_transpose1d, (x[0], w[..., 0]), {"stride": NUMBERS}),
        (fastconv.depth_max_pool, (x,),
         {"kernel_size": (*NUMBERS, (2, 2, 2), [1, 2, 1], (3,)),
          "stride": (*NUMBERS, (2, 1, 2), []), "padding": (*NUMBERS, (1, 0, 0)),
           "dilation": NUMBERS, "ceil_mode": (True, 1, None)}),
        (fastconv.depth_max_pool, (flat, (2, 2)),
         {"stride": (*NUMBERS, None), "padding": NUMBERS, "ceil_mode": (True, False)}),
    )  # fmt: skip
    calls: dict[str, Callable[[], Tensor]] = {}
    for number, (function, tensors, arguments) in enumerate(table):
        pools = function is fastconv.depth_max_pool and len(tensors) == 1
        rest = {"kernel_size": 2} if pools else {}
        one = [{name: value} for name, values in arguments.items() for value in values]
        pairs = [
            dict(zip(list(arguments)[:2], two, strict=True))
            for two in itertools.product(*list(arguments.values())[:2])
        ]
        for said in [{}, *one, *(pairs if len(arguments) > 1 else [])]:
            key = f"{number} {function.__name__} {said}"
            calls[key] = lambda f=function, t=tensors, s=said, r=rest: f(*t, **{**r, **s})
    return calls


def test_any_spelling_means_the_same(the_long_way: Callable[[], None]) -> None:
    calls = variations()
    short = {key: outcome(call) for key, call in calls.items()}
    the_long_way()
    fine = 0
    for key, call in calls.items():
        expected, got = outcome(call), short[key]
        assert got[0] == expected[0], f"{key}: {got} {expected}"
        if isinstance(got[1], Tensor):
            fine += 1
            assert torch.equal(got[1], expected[1]), key
        else:
            assert got[1] == expected[1], key
    assert 200 < fine < len(calls) - 200


def test_a_decoding_step_means_the_same(the_long_way: Callable[[], None]) -> None:
    x, w, b = torch.randn(2, 4, 3), torch.randn(4, 3), torch.randn(4)
    start = torch.randn(2, 4, 5)
    said = [
        *(dict(activation=a) for a in ACTIVATIONS),
        *(dict(dilation=d) for d in NUMBERS if not isinstance(d, Tensor)),
        *(dict(bias=bias) for bias in (None, b, 3, b.double())),
    ]

    def all_of_them() -> list[Any]:
        results = []
        for arguments in said:
            state = start.clone()
            results += [
                outcome(lambda s=state, a=arguments: fastconv.causal_conv1d_update(x, s, w, **a)),
                (None, state),
            ]
        return results

    short = all_of_them()
    the_long_way()
    for got, expected in zip(short, all_of_them(), strict=True):
        assert got[0] == expected[0], (got, expected)
        same = torch.equal if isinstance(got[1], Tensor) else str.__eq__
        assert same(got[1], expected[1])


# ---- who has a say in it ----

X, W, B = torch.randn(2, 4, 9, 8), torch.randn(4, 1, 3, 3), torch.randn(4)
SHORT: dict[str, Callable[..., Tensor | None]] = {
    "depthwise_conv": lambda x: _C.depthwise_conv(2, x, W, B, 1, "same", 1, None),
    "depthwise_conv_act": lambda x: _C.depthwise_conv(2, x, W, None, (1, 2), (1, 0), 1, "silu"),
    "depthwise_conv_transpose": lambda x: _C.depthwise_conv_transpose(2, x, W, B, 2, 1, 1, 1),
    "depth_max_pool": lambda x: _C.depth_max_pool(x, 2, None, 0, 1, False),
    "causal_conv1d_update": lambda x: _C.causal_conv1d_update(
        x[:, :, :, 0], torch.zeros(2, 4, 4), W[:, 0, 0], None, None, 1
    ),
}


class Subclass(Tensor):
    pass


class FunctionMode(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return func(*args, **(kwargs or {}))


class DispatchRecorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", SHORT)
def test_whoever_overrides_torch_sees_the_operator(name: str) -> None:
    short = SHORT[name]
    assert isinstance(short(X), Tensor)
    assert short(X.as_subclass(Subclass)) is None
    with FunctionMode():
        assert short(X) is None
    with DispatchRecorder() as recorder:
        assert short(X) is not None
    assert any(seen.startswith(f"fastconv.{name}.") for seen in recorder.seen)


def test_a_subclass_of_any_tensor_counts() -> None:
    w, b = W.as_subclass(Subclass), B.as_subclass(Subclass)
    assert _C.depthwise_conv(2, X, w, B, 1, 0, 1, None) is None
    assert _C.depthwise_conv(2, X, W, b, 1, 0, 1, None) is None
    assert _C.depthwise_conv_transpose(2, X, w, None, 1, 0, 0, 1) is None
    assert _C.depthwise_conv_transpose(2, X, W, b, 1, 0, 0, 1) is None
    assert type(fastconv.depthwise_conv2d(X, w)) is Subclass
    assert _C.depthwise_conv(2, X, torch.nn.Parameter(W), None, 1, 0, 1, None) is not None


def test_traces_hold_the_operator() -> None:
    traced = torch.jit.trace(lambda x: fastconv.depthwise_conv2d(x, W, padding="same"), (X,))
    assert "fastconv::depthwise_conv" in str(traced.graph)
    other = torch.randn_like(X)
    assert torch.equal(traced(other), fastconv.depthwise_conv2d(other, W, padding="same"))


def test_a_count_of_arguments_that_is_none_of_ours() -> None:
    for name in ("depthwise_conv", "depthwise_conv_transpose", "depth_max_pool"):
        assert getattr(_C, name)() is None
        assert getattr(_C, name)(X) is None
    assert _C.causal_conv1d_update() is None  # type: ignore[call-arg]
