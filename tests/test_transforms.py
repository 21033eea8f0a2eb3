# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""torch.func and forward-mode AD, against the same transforms of the reference."""

import itertools
import warnings

import pytest
import torch
import torch.autograd.forward_ad as fwAD
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vjp, vmap

import fastconv.nn
from fastconv.testing import OP_SPECS, SMALL_SAMPLES, as_tuple

CONVS = [spec for spec in OP_SPECS if spec.name.startswith("depthwise_conv")]
each_op = pytest.mark.parametrize("spec", OP_SPECS, ids=lambda spec: spec.name)


def first(spec, problem):
    """The operator as a function of its tensors, with one result."""

    def run(*tensors):
        return as_tuple(spec.op(*tensors, **problem.kwargs))[0]

    return run


def oracle(spec, problem):
    def run(*tensors):
        return as_tuple(spec.reference(*tensors, **problem.kwargs))[0]

    return run


@each_op
def test_forward_mode(spec, device, rng):
    """Tangents of every tensor, and of some, against the reference's."""
    problem = SMALL_SAMPLES[spec.name]
    tensors = problem.tensors(torch.float64, device, rng)
    tangents = problem.tensors(torch.float64, device, rng)
    for mask in itertools.product([False, True], repeat=len(tensors)):
        pushed = []
        for function in (first(spec, problem), oracle(spec, problem)):
            with fwAD.dual_level():
                duals = [
                    fwAD.make_dual(t, d) if m else t
                    for t, d, m in zip(tensors, tangents, mask, strict=True)
                ]
                pushed.append(fwAD.unpack_dual(function(*duals)))
        (y, dy), (want, dwant) = pushed
        torch.testing.assert_close(y, want)
        assert (dy is None) == (dwant is None) == (not any(mask))
        if dy is not None:
            torch.testing.assert_close(dy, dwant)


@pytest.fixture
def no_warnings():
    """A missing batching rule only warns, and is slow: here it fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@each_op
def test_transforms(spec, device, rng, no_warnings):
    """grad, vjp, jvp, jacrev and jacfwd, against the same of the reference."""
    problem = SMALL_SAMPLES[spec.name]
    tensors = problem.tensors(torch.float64, device, rng)
    tangents = tuple(problem.tensors(torch.float64, device, rng))
    ours, theirs = first(spec, problem), oracle(spec, problem)
    every = tuple(range(len(tensors)))

    def loss(function):
        return grad(lambda *t: (function(*t) ** 2).sum(), argnums=every)(*tensors)

    def pulled(function):
        y, back = vjp(function, *tensors)
        return back(torch.ones_like(y).cumsum(0))

    def second(function):
        return grad(lambda t: loss_of_grad(function, t))(tensors[0])

    def loss_of_grad(function, x):
        inner = grad(lambda t: (function(t, *tensors[1:]) ** 3).sum())(x)
        return (inner**2).sum()

    for transform in (
        loss,
        pulled,
        lambda f: jvp(f, tuple(tensors), tangents),
        lambda f: jacrev(f, argnums=every)(*tensors),
        lambda f: jacfwd(f, argnums=every)(*tensors),
        second,
    ):
        torch.testing.assert_close(transform(ours), transform(theirs))


@each_op
def test_vmap(spec, device, rng, no_warnings):
    """Over every subset of the tensors, along the first or the last axis, once and twice."""
    problem = SMALL_SAMPLES[spec.name]
    tensors = problem.tensors(torch.float64, device, rng)
    run = first(spec, problem)
    for mask in itertools.product([False, True], repeat=len(tensors)):
        if not any(mask):
            continue
        for place in (0, -1):
            stacks = [
                torch.stack([t, 2 * t, t - 1], place) if m else t
                for t, m in zip(tensors, mask, strict=True)
            ]
            dims = tuple(place if m else None for m in mask)
            singles = [
                run(*[s.select(place, i) if m else s for s, m in zip(stacks, mask, strict=True)])
                for i in range(3)
            ]
            torch.testing.assert_close(vmap(run, dims)(*stacks), torch.stack(singles))
    twice = torch.stack([torch.stack([tensors[0], -tensors[0]])] * 3)
    got = vmap(vmap(lambda x: run(x, *tensors[1:])))(twice)
    torch.testing.assert_close(got[2, 1], run(-tensors[0], *tensors[1:]))


@pytest.mark.parametrize("spec", CONVS, ids=lambda spec: spec.name)
def test_per_sample_gradients(spec, device, rng, no_warnings):
    """vmap(grad), as differential privacy does, through a layer."""
    dims = int(spec.name[-2])
    kind = "DepthwiseConvTranspose" if "transpose" in spec.name else "DepthwiseConv"
    layer = getattr(fastconv.nn, f"{kind}{dims}d")(3, 6, 3, padding=1)
    layer = layer.to(device, torch.float64)
    x = torch.randn(4, 3, *[5] * dims, dtype=torch.float64, generator=rng).to(device)
    params = dict(layer.named_parameters())

    def loss(params, x):
        return functional_call(layer, params, (x.unsqueeze(0),)).square().sum()

    together = vmap(grad(loss), (None, 0))(params, x)
    for i in range(4):
        alone = torch.autograd.grad(loss(params, x[i]), list(params.values()))
        for name, want in zip(params, alone, strict=True):
            torch.testing.assert_close(together[name][i], want)
