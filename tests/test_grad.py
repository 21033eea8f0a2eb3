# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Gradients against float64 autograd through the reference, and what autograd asks of a node."""

import itertools
import random

import pytest
import torch

from fastconv.testing import LAYOUTS, OP_SPECS, as_tuple, assert_within, each_isa, poison
from fastconv.testing import conv_sample as conv
from fastconv.testing import transpose_sample as transposed

CONVS = [spec for spec in OP_SPECS if spec.name.startswith("depthwise_conv")]
PROBLEMS = [
    pytest.param(spec, problem, id=f"{spec.name}-{problem.name}")
    for spec in OP_SPECS
    for problem in spec.samples
]
# Small enough for numerical differentiation, and with every argument in use.
TINY = {
    "depthwise_conv1d": [
        conv((6,), (3,), c=2, padding="causal", dilation=2),
        conv((7,), (3,), n=1, c=2, m=2, stride=2, padding=((2, 0),), bias=False),
    ],
    "depthwise_conv2d": [
        conv((4, 3), (3, 2), n=1, c=2, padding=1, stride=(2, 1)),
        conv((4, 5), (2, 3), n=1, c=1, m=2, padding="same", dilation=(1, 2), bias=False),
    ],
    "depthwise_conv3d": [
        conv((3, 2, 3), (2, 2, 3), n=1, c=2, padding=1, stride=(1, 2, 1)),
        conv((2, 3, 2), (1, 3, 2), n=None, c=2, padding="same"),
    ],
}


def batched(spec, problem):
    return spec not in CONVS or len(problem.shapes[0]) == len(problem.shapes[1])


def with_grad(tensors):
    return [t if t is None else t.detach().requires_grad_() for t in tensors]


def grads_of(spec, problem, tensors, grad_output):
    leaves = with_grad(tensors)
    y = as_tuple(spec.op(*leaves, **problem.kwargs))[0]
    wanted = [t for t in leaves if t is not None]
    poison(*wanted)
    found = iter(torch.autograd.grad(y, wanted, grad_output))
    return [None if t is None else next(found) for t in leaves]


def check_grads(spec, problem, tensors, grad_output, expected, what):
    grads = grads_of(spec, problem, tensors, grad_output)
    for name, tensor, grad, want in zip("xwb", tensors, grads, expected, strict=False):
        if want is not None:
            assert grad.dtype == tensor.dtype, what
            assert_within(grad, *want, f"grad of {name}, {what}")


@pytest.mark.parametrize(("spec", "problem"), PROBLEMS)
def test_gradients(spec, problem, device, rng):
    axis = 1 if batched(spec, problem) else 0
    for dtype in spec.grad_dtypes:
        tensors = problem.tensors(dtype, device, rng)
        y = as_tuple(spec.op(*tensors, **problem.kwargs))[0]
        grad = torch.randn(y.shape, dtype=dtype, generator=rng).to(device)
        expected = spec.expected_grads(problem, tensors, grad, dtype)
        for layout in ("contiguous", "channels_last"):
            arranged = [LAYOUTS[layout](tensors[0], axis), *tensors[1:]]
            arranged_grad = LAYOUTS[layout](grad, axis)
            for isa in each_isa(device):
                what = f"{dtype}, {layout}, {isa}"
                check_grads(spec, problem, arranged, arranged_grad, expected, what)


@pytest.mark.parametrize("chunk", range(4))
@pytest.mark.parametrize("spec", CONVS, ids=lambda spec: spec.name)
def test_gradients_of_random_problems(spec, chunk, device, rng, random_conv):
    dice = random.Random(rng.initial_seed())
    layouts = [name for name in LAYOUTS if name != "expanded"]
    for _ in range(12):
        problem, dtype = random_conv(dice, spec), dice.choice(spec.dtypes)
        a, b = dice.choice(layouts), dice.choice(layouts)
        tensors = problem.tensors(dtype, device, rng)
        y = spec.op(*tensors, **problem.kwargs)
        grad = torch.randn(y.shape, dtype=dtype, generator=rng).to(device)
        expected = spec.expected_grads(problem, tensors, grad, dtype)
        arranged = [LAYOUTS[a](tensors[0], 1), *tensors[1:]]
        for isa in each_isa(device):
            what = f"{problem.name}, {dtype}, x {a}, grad {b}, {isa}"
            check_grads(spec, problem, arranged, LAYOUTS[b](grad, 1), expected, what)


@pytest.mark.parametrize("spec", OP_SPECS, ids=lambda spec: spec.name)
def test_gradients_in_any_layout(spec, device, rng):
    """Inputs and incoming gradients need not agree in layout; a sum() sends strides of zero."""
    for problem in [p for p in spec.samples if batched(spec, p)][:6]:
        if 0 in problem.shapes[0]:
            continue
        for dtype in (torch.float32, torch.bfloat16):
            tensors = problem.tensors(dtype, device, rng)
            y = as_tuple(spec.op(*tensors, **problem.kwargs))[0]
            grad = torch.randn(y.shape, dtype=dtype, generator=rng).to(device)
            ones = torch.ones((), dtype=dtype, device=device).expand_as(y)
            expected = spec.expected_grads(problem, tensors, grad, dtype)
            expected_sum = spec.expected_grads(problem, tensors, ones, dtype)
            for (a, x_layout), (b, g_layout) in itertools.product(LAYOUTS.items(), LAYOUTS.items()):
                if "expanded" in (a, b):
                    continue
                arranged = [x_layout(tensors[0], 1), *tensors[1:]]
                what = f"{problem.name}, {dtype}, x {a}, grad {b}"
                check_grads(spec, problem, arranged, g_layout(grad, 1), expected, what)
                check_grads(spec, problem, arranged, ones, expected_sum, what + " of a sum")


@pytest.mark.parametrize("spec", CONVS, ids=lambda spec: spec.name)
def test_only_the_gradients_asked_for(spec, device, rng):
    for problem, mask in itertools.product(
        spec.samples[:3], itertools.product([False, True], repeat=3)
    ):
        tensors = problem.tensors(torch.float32, device, rng)
        if not any(m and t is not None for m, t in zip(mask, tensors, strict=True)):
            assert not spec.op(*tensors, **problem.kwargs).requires_grad
            continue
        for t, wanted in zip(tensors, mask, strict=True):
            if t is not None:
                t.requires_grad_(wanted)
        y = spec.op(*tensors, **problem.kwargs)
        grad = torch.randn_like(y)
        expected = spec.expected_grads(problem, tensors, grad, torch.float32)
        y.backward(grad)
        for t, wanted, want in zip(tensors, mask, expected, strict=True):
            if t is not None and wanted:
                assert_within(t.grad, *want, f"{problem.name}, {mask}")
            elif t is not None:
                assert t.grad is None


def tiny(spec):
    """Problems for numerical differentiation."""
    small = [p for p in spec.samples if sum(torch.Size(s).numel() for s in p.shapes if s) <= 300]
    return TINY.get(spec.name) or small[:3]


@pytest.mark.parametrize("spec", OP_SPECS, ids=lambda spec: spec.name)
def test_gradcheck(spec, device, rng):
    for problem in tiny(spec):
        tensors = with_grad(problem.tensors(torch.float64, device, rng))

        def run(*tensors, kwargs=problem.kwargs):
            return as_tuple(spec.op(*tensors, **kwargs))[0]

        assert torch.autograd.gradcheck(
            run, tensors, check_batched_grad=True, check_forward_ad=True, nondet_tol=0.0
        )


@pytest.mark.parametrize("spec", OP_SPECS, ids=lambda spec: spec.name)
def test_gradgradcheck(spec, device, rng):
    for problem in tiny(spec):
        tensors = with_grad(problem.tensors(torch.float64, device, rng))

        def run(*tensors, kwargs=problem.kwargs):
            return as_tuple(spec.op(*tensors, **kwargs))[0]

        if spec.double_backward:
            assert torch.autograd.gradgradcheck(run, tensors)
        else:
            (grad,) = torch.autograd.grad(run(*tensors).sum(), tensors[:1], create_graph=True)
            with pytest.raises(RuntimeError, match=r"derivative|differentia|backward"):
                grad.sum().backward()


@pytest.mark.parametrize("spec", CONVS, ids=lambda spec: spec.name)
def test_double_backward_with_every_mask(spec, device, rng):
    """Second derivatives with respect to subsets of the tensors, against the reference's."""
    problem = next(p for p in tiny(spec) if p.shapes[2])
    for mask in itertools.product([False, True], repeat=3):
        if not mask[0] and not mask[1]:
            continue
        tensors = problem.tensors(torch.float64, device, rng)
        leaves = [
            [t.clone().requires_grad_(m) for t, m in zip(tensors, mask, strict=True)] for _ in "ab"
        ]
        seconds = []
        for f, own in zip((spec.op, spec.reference), leaves, strict=True):
            wanted = [t for t in own if t.requires_grad]
            y = f(*own, **problem.kwargs)
            first = torch.autograd.grad((y**3).sum(), wanted, create_graph=True)
            total = sum((g**2).sum() for g in first)
            seconds.append(torch.autograd.grad(total, wanted))
        for a, b in zip(*seconds, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("spec", OP_SPECS, ids=lambda spec: spec.name)
def test_gradients_have_the_same_bits_every_time(spec, device, rng):
    """Whatever the number of threads, and however often."""
    for problem in spec.samples:
        for dtype in (torch.float32, torch.bfloat16):
            tensors = problem.tensors(dtype, device, rng)
            y = as_tuple(spec.op(*tensors, **problem.kwargs))[0]
            grad = torch.randn(y.shape, dtype=dtype, generator=rng).to(device)
            first = grads_of(spec, problem, tensors, grad)
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                again = grads_of(spec, problem, tensors, grad)
                for a, b in zip(first, again, strict=True):
                    assert a is None or torch.equal(a, b), (problem.name, dtype, threads)


@pytest.mark.parametrize("spec", CONVS, ids=lambda spec: spec.name)
def test_long_sums(spec, device, rng):
    """A weight's gradient sums over all pixels: rounding must not pile up, nor a tail be lost."""
    size = {1: (30011,), 2: (173, 131), 3: (29, 27, 31)}[int(spec.name[-2])]
    make = transposed if "transpose" in spec.name else conv
    problem = make(size, (3,) * len(size), n=3, c=3, padding=1)
    for dtype in spec.dtypes:
        tensors = problem.tensors(dtype, device, rng)
        tensors[0] = tensors[0] / 8 + 1  # so that the sums grow instead of cancelling
        y = spec.op(*tensors, **problem.kwargs)
        grad = (torch.randn(y.shape, generator=rng) / 8 + 0.25).to(y)
        expected = spec.expected_grads(problem, tensors, grad, dtype)
        for layout in ("contiguous", "channels_last"):
            arranged = [LAYOUTS[layout](tensors[0], 1), *tensors[1:]]
            for isa in each_isa(device):
                what = f"{dtype}, {layout}, {isa}"
                check_grads(spec, problem, arranged, LAYOUTS[layout](grad, 1), expected, what)


@pytest.mark.parametrize("spec", CONVS, ids=lambda spec: spec.name)
def test_every_pixel_counts_in_the_weight_gradient(spec, device):
    """Integers add up without rounding, so that one pixel lost, or counted twice, shows."""
    dice = random.Random(7)
    for problem in spec.samples:
        tensors = problem.tensors(torch.float32, device)
        y = spec.op(*tensors, **problem.kwargs)
        tensors = [
            t if t is None else torch.randint(-3, 4, t.shape).to(t.dtype).to(device)
            for t in tensors
        ]
        grad = torch.randint(-3, 4, y.shape).to(y)
        expected = spec.expected_grads(problem, tensors, grad, torch.float32)
        layout = dice.choice(["contiguous", "channels_last"])
        arranged = [LAYOUTS[layout](tensors[0], 1 if batched(spec, problem) else 0), *tensors[1:]]
        for isa in each_isa(device):
            for got, want in zip(grads_of(spec, problem, arranged, grad), expected, strict=True):
                if want is not None:
                    exact = torch.zeros_like(want[1])
                    assert_within(got, want[0], exact, f"{problem.name}, {layout}, {isa}")


@pytest.mark.parametrize("spec", OP_SPECS, ids=lambda spec: spec.name)
def test_changing_a_saved_tensor_raises(spec, device, rng):
    if spec not in CONVS and spec.name != "sigmoid_gate":
        pytest.skip("saves no input")
    for problem in spec.samples[:3]:
        for changed in (0, 1):
            tensors = with_grad(problem.tensors(torch.float32, device, rng))
            y = spec.op(*tensors, **problem.kwargs)
            with torch.no_grad():
                tensors[changed].add_(1)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                y.sum().backward()


@pytest.mark.parametrize("spec", OP_SPECS, ids=lambda spec: spec.name)
def test_gradients_flow_through_views_and_accumulate(spec, device, rng):
    problem = spec.samples[0]
    tensors = problem.tensors(torch.float32, device, rng)
    base = torch.cat([tensors[0], tensors[0]]).requires_grad_()
    rows = tensors[0].shape[0]
    for _ in range(2):
        y = as_tuple(spec.op(base[rows:], *tensors[1:], **problem.kwargs))[0]
        y.sum().backward()
    ones = torch.ones_like(y)
    value, bound = spec.expected_grads(problem, tensors, ones, torch.float32)[0]
    assert not base.grad[:rows].any()
    assert_within(base.grad[rows:], 2 * value, 4 * bound + 1e-6 * value.abs(), spec.name)


@pytest.mark.parametrize("spec", OP_SPECS, ids=lambda spec: spec.name)
def test_results_can_be_changed_in_place(spec, device, rng):
    """The result is nobody's view, and a ReLU(inplace=True) after it still trains."""
    problem = spec.samples[0]
    tensors = with_grad(problem.tensors(torch.float32, device, rng))
    y = as_tuple(spec.op(*tensors, **problem.kwargs))[0]
    kept = [None if t is None else t.detach().clone() for t in tensors]
    y.mul_(2)
    y.sum().backward()
    for t, k in zip(tensors, kept, strict=True):
        assert t is None or torch.equal(t, k)
    twos = torch.full_like(y, 2)
    value, bound = spec.expected_grads(problem, tensors, twos, torch.float32)[0]
    assert_within(tensors[0].grad, value, bound, spec.name)
