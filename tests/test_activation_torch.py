# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Convolutions with an activation as citizens of PyTorch: transforms, compile, autocast, memory."""

import sys
from pathlib import Path

import pytest
import torch
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

import fastconv
import fastconv.reference

sys.path.insert(0, str(Path(__file__).parent))

from activation_problems import activation_of, each_activation, gradient_of, problem


@each_activation
def test_transforms(name, rng):
    """jvp, vjp, vmap and Jacobians, against the same of the reference."""
    x = torch.randn(2, 3, 5, 4, generator=rng, dtype=torch.float64)
    w = torch.randn(3, 1, 3, 3, generator=rng, dtype=torch.float64)
    b = torch.randn(3, generator=rng, dtype=torch.float64)
    ours, theirs = (
        lambda *t, m=module: m.depthwise_conv2d(*t, padding=1, activation=name)
        for module in (fastconv, fastconv.reference)
    )
    tangents = tuple(torch.randn_like(t) for t in (x, w, b))
    for transform in (
        lambda f: torch.func.jvp(f, (x, w, b), tangents),
        lambda f: torch.func.jacrev(f, argnums=(0, 1, 2))(x, w, b),
        lambda f: torch.func.hessian(lambda t: f(x, t, b).square().sum())(w),
        lambda f: torch.func.vmap(torch.func.grad(lambda s: f(s, w, b).sum()))(x),
    ):
        torch.testing.assert_close(transform(ours), transform(theirs))


@each_activation
def test_batched_gradients(name, rng):
    """Several incoming gradients at once, through vmap."""
    x = torch.randn(2, 3, 5, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    w = torch.randn(3, 1, 3, 3, generator=rng, dtype=torch.float64)
    dy = torch.randn(4, 2, 3, 5, 4, generator=rng, dtype=torch.float64)
    y = fastconv.depthwise_conv2d(x, w, padding=1, activation=name)
    (got,) = torch.autograd.grad(y, x, dy, is_grads_batched=True, retain_graph=True)
    want = torch.stack([torch.autograd.grad(y, x, d, retain_graph=True)[0] for d in dy])
    torch.testing.assert_close(got, want)


class Recorder(TorchDispatchMode):
    """Notes every operator that reaches a backend."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


@each_activation
def test_one_pass(name, rng):
    """Inference is one operator; training too if the result tells the slope, but for the mask."""
    leaves = [t.requires_grad_() for t in problem("5x5", torch.float32, rng)[1:4]]
    with Recorder() as recorder:
        y = fastconv.depthwise_conv2d(*leaves, padding=2, activation=name)
        torch.autograd.grad(y, leaves, torch.randn_like(y))
    names = [func.name() for func, _, _ in recorder.calls if "randn" not in func.name()]
    names = [n for n in names if n != "aten::detach"]
    if name in ("relu", "relu6"):
        mask = {"relu": "aten::threshold_backward", "relu6": "aten::hardtanh_backward"}[name]
        assert names == ["fastconv::depthwise_conv_act", mask, "fastconv::_depthwise_conv_backward"]
    else:
        passes = ["depthwise_conv", "_activation", "_activation_gradient"]
        assert names == [f"fastconv::{n}" for n in (*passes, "_depthwise_conv_backward")]
    with Recorder() as recorder, torch.no_grad():
        fastconv.depthwise_conv2d(*leaves, padding=2, activation=name)
    assert [func.name() for func, _, _ in recorder.calls] == ["fastconv::depthwise_conv_act"]


@each_activation
def test_opcheck(name, rng):
    for which in ("5x5", "unbatched"):
        conv, *tensors, kwargs = problem(which, torch.float32, rng)
        with Recorder() as recorder, torch.no_grad():
            y = conv(*tensors, **kwargs, activation=name)
        ((func, args, options),) = recorder.calls
        for each, arguments in (
            (func, args),
            (activation_of, (y, name)),
            (gradient_of, (torch.randn_like(y), y, name)),
        ):
            fresh = [
                t.detach().clone().requires_grad_() if torch.is_tensor(t) else t for t in arguments
            ]
            opcheck(each, tuple(fresh), options)


@each_activation
def test_compiles(name, rng):
    """Forward and backward with dynamic shapes, in one graph."""

    def run(x, w, b):
        return fastconv.depthwise_conv2d(x, w, b, padding=1, activation=name)

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True, dynamic=True)
    for size in ((2, 5, 9, 8), (3, 5, 7, 11)):
        tensors = [
            torch.randn(s, generator=rng).requires_grad_() for s in (size, (5, 1, 3, 3), (5,))
        ]
        results = []
        for f in (run, compiled):
            y = f(*tensors)
            results.append([y, *torch.autograd.grad(y.square().sum(), tensors)])
        for a, b in zip(*results, strict=True):
            assert a.stride() == b.stride()
            torch.testing.assert_close(a, b)


def test_saves_no_more_than_it_needs(rng):
    """relu and relu6 keep the result, which the next layer keeps as well."""
    for name in ("relu", "relu6"):
        _, x, w, b, _ = problem("5x5", torch.float32, rng)
        saved = []
        leaves = [t.requires_grad_() for t in (x, w, b)]
        keep = torch.autograd.graph.saved_tensors_hooks(
            lambda t, saved=saved: saved.append(t) or t, lambda t: t
        )
        with keep:
            y = fastconv.depthwise_conv2d(*leaves, activation=name)
        assert {t.data_ptr() for t in saved} <= {t.data_ptr() for t in (*leaves, y)}


@each_activation
def test_autocast_and_threads(name, rng):
    """Autocast's dtype, and the same bits for any number of threads."""
    x, w = torch.randn(4, 40, 40, 40, generator=rng), torch.randn(40, 1, 3, 3, generator=rng)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = fastconv.depthwise_conv2d(x, w, activation=name)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, fastconv.depthwise_conv2d(x.bfloat16(), w.bfloat16(), activation=name))
    for layout in (torch.contiguous_format, torch.channels_last):
        dy = torch.randn(4, 40, 38, 38, generator=rng)
        results = []
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            leaf = x.to(memory_format=layout).requires_grad_()
            y = fastconv.depthwise_conv2d(leaf, w, activation=name)
            grads = torch.autograd.grad(y, leaf, dy)
            with torch.no_grad():
                results.append([y, fastconv.depthwise_conv2d(leaf, w, activation=name), *grads])
            assert torch.equal(results[-1][0], results[-1][1])
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                assert torch.equal(a, b)


def test_errors():
    x, w = torch.randn(1, 2, 4, 4), torch.randn(2, 1, 3, 3)
    with pytest.raises(ValueError, match=r"depthwise_conv2d: unknown activation 'tanh'"):
        fastconv.depthwise_conv2d(x, w, activation="tanh")
    with pytest.raises(ValueError, match=r"depthwise_conv_act: unknown activation 'tanh'"):
        torch.ops.fastconv.depthwise_conv_act(x, w, None, [1, 1], [0, 0], [1, 1], "tanh")
    with pytest.raises(RuntimeError, match="expected grad_output of size"):
        gradient_of(x, x[..., :3], "silu")
    with pytest.raises(ValueError, match=r"_activation: unknown activation 'tanh'"):
        activation_of(x, "tanh")
    with pytest.raises(NotImplementedError, match=r"not implemented for 'Int'"):
        activation_of(x.int(), "silu")
