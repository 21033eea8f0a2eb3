# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Forward passes against the float64 reference: every operator, problem, dtype, layout, ISA."""

import itertools
import math
import random

import pytest
import torch
from torch._prims_common import suggest_memory_format

import fastconv.reference
from fastconv.testing import (
    LAYOUTS,
    OP_SPECS,
    as_tuple,
    assert_within,
    each_isa,
    poison,
)

CONVS = [spec for spec in OP_SPECS if spec.name.startswith("depthwise_conv")]
PROBLEMS = [
    pytest.param(spec, problem, id=f"{spec.name}-{problem.name}")
    for spec in OP_SPECS
    for problem in spec.samples
]


def channel_axis(spec, problem):
    """Where the channels of the first tensor are: batched or not."""
    shape = problem.shapes[0]
    if spec in CONVS:
        return len(shape) - len(problem.shapes[1]) + 1
    if "pixel" in spec.name:
        return len(shape) - 3
    if spec.name.startswith("global_avg_pool"):
        return len(shape) - int(spec.name[-2]) - 1
    kernel = problem.kwargs.get("kernel_size")
    return 0 if isinstance(kernel, tuple) and len(kernel) == len(shape) else 1


def dtype_id(dtype):
    return str(dtype).removeprefix("torch.")


def assert_strides(actual, expected, what):
    """Strides agree wherever they matter."""
    got = [s for s, n in zip(actual.stride(), actual.shape, strict=True) if n > 1]
    want = [s for s, n in zip(expected.stride(), expected.shape, strict=True) if n > 1]
    assert got == want or actual.numel() == 0, f"{what}: strides {got}, expected {want}"


def as_torch_lays_out(spec, problem, tensors, y):
    """A tensor like y in the memory format that PyTorch would have given the result."""
    x = tensors[0]
    if spec in CONVS:
        dense_nlc = x.dim() == 3 and len(problem.shapes[1]) == 3 and suggests_nlc(x)
        if dense_nlc:  # fastconv's choice: torch has no name for this format, and loses it
            return y.transpose(1, 2).contiguous().transpose(1, 2)
        # With one thread torch takes other kernels for 1x1 filters, and those lose the format.
        torch.set_num_threads(2)
        return spec.native(*tensors, **problem.kwargs)
    if x.dim() not in (4, 5) or channel_axis(spec, problem) != 1:
        return None
    return y.contiguous(memory_format=suggest_memory_format(x))


def suggests_nlc(x):
    """Whether torch would call a (N, C, L) tensor channels_last, were it (N, C, 1, L)."""
    return suggest_memory_format(x.unsqueeze(2)) == torch.channels_last


def check(spec, problem, tensors, value, bound, what):
    """Runs the operator in dirty memory and compares values, dtype and layout of the result."""
    y = as_tuple(spec.op(*tensors, **problem.kwargs))
    poison(*y)
    del y
    y = as_tuple(spec.op(*tensors, **problem.kwargs))[0]
    assert y.dtype == tensors[0].dtype and y.device == tensors[0].device, what
    assert_within(y, value, bound, what)
    return y


@pytest.mark.parametrize(("spec", "problem"), PROBLEMS)
def test_forward(spec, problem, device, rng):
    axis = channel_axis(spec, problem)
    for dtype in spec.dtypes:
        original = problem.tensors(dtype, device, rng)
        value, bound = spec.expected(problem, original, dtype)
        for layout, arrange in LAYOUTS.items():
            if layout == "expanded" and original[0].shape[-1] == 0:
                continue
            tensors = [arrange(original[0], axis), *original[1:]]
            if layout == "expanded":
                value, bound = spec.expected(problem, tensors, dtype)
            for isa in each_isa(device):
                what = f"{dtype}, {layout}, {isa}"
                y = check(spec, problem, tensors, value, bound, what)
            if dtype == torch.float32:
                like = as_torch_lays_out(spec, problem, tensors, y)
                if like is not None:
                    assert_strides(y, like, what)


@pytest.mark.parametrize("spec", OP_SPECS, ids=lambda spec: spec.name)
def test_reference_agrees_with_torch(spec, rng):
    for problem in spec.samples:
        tensors = problem.tensors(torch.float64, generator=rng)
        try:
            native = as_tuple(spec.native(*tensors, **problem.kwargs))
        except NotImplementedError:
            continue
        ours = as_tuple(spec.reference(*tensors, **problem.kwargs))
        for a, b in zip(ours, native, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("spec", CONVS, ids=lambda spec: spec.name)
def test_any_layout_of_weight_and_bias(spec, device, rng):
    for problem, dtype in itertools.product(spec.samples[:3], spec.dtypes):
        x, w, b = problem.tensors(dtype, device, rng)
        filters = w.shape[:2].numel()
        b = torch.randn(filters, generator=rng).to(w) if b is None else b
        value, bound = spec.expected(problem, [x, w, b], dtype)
        channels_last = x.movedim(1, -1).contiguous().movedim(-1, 1)
        for name, arrange in LAYOUTS.items():
            if name == "expanded":
                continue
            weight, bias = arrange(w, 0), torch.stack([b, b], 1)[:, 1]
            for data in (x, channels_last):
                check(spec, problem, [data, weight, bias], value, bound, f"{dtype}, {name}")


@pytest.mark.parametrize(
    "spec", [s for s in CONVS if s.name[-2] != "1"], ids=lambda spec: spec.name
)
def test_channels_last_weight_decides_as_in_torch(spec, device, rng):
    problem = spec.samples[0]
    x, w, b = problem.tensors(torch.float32, device, rng)
    w = w.to(memory_format=suggest_memory_format(x.movedim(1, -1).contiguous().movedim(-1, 1)))
    y = spec.op(x, w, b, **problem.kwargs)
    assert_strides(y, spec.native(x, w, b, **problem.kwargs), "channels_last weight")


@pytest.mark.parametrize("chunk", range(4))
@pytest.mark.parametrize("spec", CONVS, ids=lambda spec: spec.name)
def test_random_problems(spec, chunk, device, rng, random_conv):
    dice = random.Random(rng.initial_seed())
    for _ in range(15):
        problem = random_conv(dice, spec)
        dtype, layout = dice.choice(spec.dtypes), dice.choice(list(LAYOUTS))
        tensors = problem.tensors(dtype, device, rng)
        tensors[0] = LAYOUTS[layout](tensors[0], 1)
        value, bound = spec.expected(problem, tensors, dtype)
        for isa in each_isa(device):
            what = f"{problem.name}, {dtype}, {layout}, {isa}"
            check(spec, problem, tensors, value, bound, what)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan], ids=str)
@pytest.mark.parametrize(
    ("spec", "problem"),
    [p for p in PROBLEMS if p.values[0] in CONVS or p.values[0].name == "depth_max_pool"],
)
def test_nonfinite_values_stay_in_their_windows(spec, problem, bad, device, rng):
    """An inf or a NaN reaches the results whose window holds it and no others.

    They sit at corners, where a kernel that reads past a border, or that multiplies what it read
    there by zero, spreads them.
    """
    if 0 in problem.shapes[0]:
        return
    axis = channel_axis(spec, problem)
    for dtype in (torch.float32, torch.bfloat16):
        tensors = problem.tensors(dtype, device, rng)
        x = tensors[0]
        corners = itertools.product(*[(0, n - 1) for n in x.shape[axis + 1 :]])
        for corner in random.Random(rng.initial_seed()).sample(list(corners), 2):
            x[
                (..., x.shape[axis] // 2, *corner) if axis == 0 else (0, x.shape[1] // 2, *corner)
            ] = bad
        value, bound = spec.expected(problem, tensors, dtype)
        bound = torch.where(bound.isfinite(), bound, 0)
        for layout in ("contiguous", "channels_last"):
            arranged = [LAYOUTS[layout](x, axis), *tensors[1:]]
            for isa in each_isa(device):
                y = as_tuple(spec.op(*arranged, **problem.kwargs))[0]
                assert_within(y, value, bound, f"{dtype}, {layout}, {isa}")


@pytest.mark.parametrize("spec", OP_SPECS, ids=lambda spec: spec.name)
def test_memory_around_a_view_is_not_read(spec, device, rng):
    """The same bits come out whatever surrounds the elements of a strided input."""
    for problem in spec.samples[:12]:
        axis = channel_axis(spec, problem)
        tensors = problem.tensors(torch.float32, device, rng)
        for surroundings in (0.0, math.nan):
            shape = [n + 3 for n in tensors[0].shape]
            big = torch.full(shape, surroundings, device=device)
            for layout in ("contiguous", "channels_last"):
                outer = LAYOUTS[layout](big, axis)
                view = outer[tuple(slice(1, n + 1) for n in tensors[0].shape)].copy_(tensors[0])
                value, bound = spec.expected(problem, tensors, torch.float32)
                for isa in each_isa(device):
                    check(spec, problem, [view, *tensors[1:]], value, bound, f"{layout}, {isa}")


@pytest.mark.parametrize("spec", OP_SPECS, ids=lambda spec: spec.name)
def test_same_bits_every_time_and_with_any_number_of_threads(spec, device, rng):
    for problem in spec.samples:
        tensors = problem.tensors(torch.float32, device, rng)
        first = as_tuple(spec.op(*tensors, **problem.kwargs))
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            again = as_tuple(spec.op(*tensors, **problem.kwargs))
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)), problem.name


@pytest.mark.parametrize("spec", CONVS, ids=lambda spec: spec.name)
def test_does_not_write_its_inputs(spec, device, rng):
    for problem in spec.samples[:3]:
        tensors = [t for t in problem.tensors(torch.float32, device, rng) if t is not None]
        before = [t.clone() for t in tensors]
        spec.op(*tensors, **problem.kwargs)
        assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


def test_backward_data_with_a_stride_beyond_the_kernel():
    """Strips of whole phases can be wider than the cache budget: the plan must still end."""
    x = torch.randn(1, 16, 40, 600, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(16, 1, 3, 3, dtype=torch.float64)
    fastconv.depthwise_conv2d(x, weight, stride=16).square().sum().backward()
    y = fastconv.reference.depthwise_conv2d(x.detach(), weight, stride=16)
    expected = torch.zeros_like(x)
    for i in range(3):
        for j in range(3):
            part = expected[..., i::16, j::16][..., : y.shape[-2], : y.shape[-1]]
            part += 2 * y * weight[:, 0, i, j].view(16, 1, 1)
    torch.testing.assert_close(x.grad, expected)
