# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""causal_conv1d_update: equal to the whole sequence, and to its reference; errors; dispatch."""

import itertools
import random

import pytest
import torch
from torch.library import opcheck

import fastconv
from fastconv import reference
from fastconv.testing import LAYOUTS, assert_within, each_isa, rounding_bound

update = fastconv.causal_conv1d_update
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
ACTIVATIONS = (None, "relu", "relu6", "hardswish", "silu", "swish", "gelu")


def draw(rng, *shape, dtype=torch.float32, device="cpu"):
    return torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype).to(device)


def expected(x, state, weight, bias, activation, dilation):
    """Result, bound and new state, from float64."""
    tensors = (x, state, weight, bias)
    wide = [None if t is None else t.detach().cpu().double().clone() for t in tensors]
    plain = reference.causal_conv1d_update(wide[0], wide[1].clone(), *wide[2:], dilation=dilation)
    sizes = [None if t is None else t.abs() for t in wide]
    size = reference.causal_conv1d_update(sizes[0], sizes[1], *sizes[2:], dilation=dilation)
    value = reference.causal_conv1d_update(*wide, activation, dilation=dilation)
    # No activation has a slope of more than 1.13; it works in the accumulator's precision.
    bound = 1.13 * rounding_bound(plain, size, weight.shape[-1] + 1, x.dtype)
    return value, bound + rounding_bound(value, plain.abs() + value.abs(), 8, x.dtype), wide[1]


def check(x, state, weight, bias, activation, dilation, what):
    value, bound, after = expected(x, state, weight, bias, activation, dilation)
    y = update(x, state, weight, bias, activation, dilation=dilation)
    assert y.shape == x.shape and y.dtype == x.dtype and y.is_contiguous()
    assert_within(y, value, bound, what)
    assert torch.equal(state.cpu().double(), after), f"{what}: state"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_parity(activation, dtype, device, rng):
    dice = random.Random(rng.initial_seed())
    for taps, dilation, extra in itertools.product((1, 2, 4, 7), (1, 3), (0, 2)):
        channels = dice.choice((1, 3, 8, 16, 17, 31, 64, 100))
        length = dice.choice((None, 1, 2, 5, 30))
        state_length = max(dilation * (taps - 1) + extra, 1)
        x = draw(rng, 2, channels, *([length] if length else []), dtype=dtype, device=device)
        weight = draw(rng, channels, taps, dtype=dtype, device=device)
        bias = draw(rng, channels, dtype=dtype, device=device) if dice.random() < 0.7 else None
        if dice.random() < 0.5:
            weight = weight.unsqueeze(1)
        for layout, isa in itertools.product(("contiguous", "channels_last"), each_isa(device)):
            state = LAYOUTS[layout](draw(rng, 2, channels, state_length, dtype=dtype), 1)
            inner = LAYOUTS[layout](x, 1) if x.dim() == 3 else x
            what = f"{taps} taps, dilation {dilation}, {length}, {layout}, {isa}"
            check(inner, state.to(device), weight, bias, activation, dilation, what)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "expanded"])
def test_any_strides(layout, device, rng):
    for dtype in (torch.float32, torch.bfloat16):
        x, state, weight = (
            LAYOUTS[layout](draw(rng, *s, dtype=dtype, device=device), 1)
            for s in ((3, 18, 4), (3, 18, 5), (18, 1, 4))
        )
        bias = torch.stack([draw(rng, 18, dtype=dtype, device=device)] * 2, 1)[:, 1]
        for isa in each_isa(device):
            check(x, state, weight, bias, "silu", 1, f"{dtype}, {layout}, {isa}")
            check(x[..., 0], state, weight[:, 0], None, None, 1, f"{dtype}, {layout}, {isa}")


@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_steps_are_the_whole_sequence(activation, dilation, device, rng):
    """In pieces of any length."""
    x, weight, bias = draw(rng, 2, 24, 40), draw(rng, 24, 1, 4), draw(rng, 24)
    x, weight, bias = x.to(device), weight.to(device), bias.to(device)
    conv = fastconv.depthwise_conv1d
    kwargs = {"padding": "causal", "dilation": dilation, "activation": activation}
    whole = conv(x.double(), weight.double(), bias.double(), **kwargs)
    dice = random.Random(rng.initial_seed())
    for isa in each_isa(device):
        state = torch.zeros(2, 24, 3 * dilation, device=device)
        pieces, at = [], 0
        while at < 40:
            n = min(dice.choice((0, 1, 1, 2, 5)), 40 - at)
            piece = x[..., at : at + n] if n else x[..., at]
            y = update(piece, state, weight, bias, activation, dilation=dilation)
            pieces.append(y if n else y.unsqueeze(2))
            at += max(n, 1)
        steps = torch.cat(pieces, 2)
        torch.testing.assert_close(steps.double(), whole, rtol=1e-5, atol=1e-5, msg=isa)


def test_a_prefix_by_the_convolution_then_steps(rng):
    """How a model decodes: the prompt at once, its last elements as the state."""
    x, weight = draw(rng, 1, 8, 20), draw(rng, 8, 1, 4)
    whole = fastconv.depthwise_conv1d(x, weight, padding="causal")
    state = x[..., 12 - 3 : 12].clone()
    for t in range(12, 20):
        torch.testing.assert_close(update(x[..., t], state, weight), whole[..., t])


def test_same_bits_with_any_number_of_threads(rng):
    x, state, weight = draw(rng, 9, 700, 40), draw(rng, 9, 700, 3), draw(rng, 700, 4)
    first = state.clone()
    want = update(x, first, weight, None, "gelu")
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        again = state.clone()
        assert torch.equal(update(x, again, weight, None, "gelu"), want)
        assert torch.equal(again, first)


def test_empty(device):
    state = torch.ones(0, 4, 3, device=device)
    assert update(torch.ones(0, 4, device=device), state, torch.ones(4, 4)).shape == (0, 4)
    state = torch.ones(2, 4, 3, device=device)
    x = torch.ones(2, 4, 0, device=device)
    assert update(x, state, torch.ones(4, 4, device=device)).shape == (2, 4, 0)
    assert state.eq(1).all()
    # Without taps that look back there may be no state.
    y = update(x.new_full((2, 4), 3.0), x, torch.ones(4, 1, device=device))
    assert y.eq(3).all()


X, STATE, WEIGHT, BIAS = torch.ones(2, 4), torch.ones(2, 4, 3), torch.ones(4, 4), torch.ones(4)
BAD = {
    "x_is_a_list": (([1.0], STATE, WEIGHT), {}, TypeError, "'x' must be Tensor, not list"),
    "state_is_none": ((X, None, WEIGHT), {}, TypeError, "'conv_state' must be Tensor"),
    "weight_is_none": ((X, STATE, None), {}, TypeError, "'weight' must be Tensor"),
    "bias_is_a_float": ((X, STATE, WEIGHT, 1.0), {}, TypeError, "'bias' must be Tensor"),
    "activation_is_a_bool": ((X, STATE, WEIGHT, BIAS, True), {}, TypeError, "must be str"),
    "activation_unknown": ((X, STATE, WEIGHT, BIAS, "tanh"), {}, ValueError, "'tanh'"),
    "dilation_is_a_float": ((X, STATE, WEIGHT), {"dilation": 1.0}, TypeError, "dilation"),
    "dilation_0": ((X, STATE, WEIGHT), {"dilation": 0}, RuntimeError, "dilation=0"),
    "x_of_four_dims": ((torch.ones(2, 4, 1, 1), STATE, WEIGHT), {}, RuntimeError, r"\(batch, dim"),
    "x_of_one_dim": ((torch.ones(4), STATE, WEIGHT), {}, RuntimeError, r"x of size \(batch, dim"),
    "state_of_two_dims": ((X, STATE[0], WEIGHT), {}, RuntimeError, "conv_state of size"),
    "state_of_other_batch": ((X, STATE[:1], WEIGHT), {}, RuntimeError, r"conv_state of size \(2"),
    "state_too_short": ((X, STATE[..., 1:], WEIGHT), {}, RuntimeError, r"at least .* = 3 elem"),
    "state_too_short_for_dilation": ((X, STATE, WEIGHT), {"dilation": 2}, RuntimeError, "= 6"),
    "weight_of_other_channels": ((X, STATE, WEIGHT[:3]), {}, RuntimeError, r"weight of size \(4, "),
    "weight_of_a_group": (
        (X, STATE, torch.ones(4, 2, 4)), {}, RuntimeError, r"weight of size \(4, 1, width"
    ),
    "weight_of_one_dim": ((X, STATE, BIAS), {}, RuntimeError, r"weight of size \(dim, width\)"),
    "weight_without_taps": ((X, STATE, WEIGHT[:, :0]), {}, RuntimeError, "positive width"),
    "bias_of_other_length": ((X, STATE, WEIGHT, BIAS[:3]), {}, RuntimeError, "bias.*4 elements"),
    "bias_of_two_dims": ((X, STATE, WEIGHT, WEIGHT), {}, RuntimeError, "bias.*1-dim"),
    "ints": ((X.long(), STATE.long(), WEIGHT.long()), {}, NotImplementedError, "Long"),
    "state_of_other_dtype": ((X, STATE.half(), WEIGHT), {}, RuntimeError, r"conv_state \(Half\)"),
    "weight_of_other_dtype": ((X, STATE, WEIGHT.half()), {}, RuntimeError, r"weight \(Half\)"),
    "weight_on_another_device": ((X, STATE, WEIGHT.to("meta")), {}, RuntimeError, "same device"),
    "state_is_expanded": (
        (X, torch.ones(2, 4, 1).expand(2, 4, 3), WEIGHT), {}, RuntimeError, "memory location"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_errors(name, assert_raises):
    args, kwargs, error, match = BAD[name]
    assert_raises(update, args, kwargs, error, match)
    assert STATE.eq(1).all()


def test_has_no_gradient():
    for i in range(4):
        args = [t.clone().requires_grad_(i == j) for j, t in enumerate((X, STATE, WEIGHT, BIAS))]
        with pytest.raises(RuntimeError, match=r"no gradient.*depthwise_conv1d"):
            update(*args)
        with torch.no_grad():
            assert not update(*args).requires_grad


def test_counts_as_a_change_of_the_state():
    state = STATE.clone()
    kept = torch.ones_like(state, requires_grad=True)
    product = kept * state
    before = state._version
    update(X, state, WEIGHT)
    assert state._version == before + 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_opcheck(device, rng):
    op = torch.ops.fastconv.causal_conv1d_update.default
    for shape in ((2, 5), (2, 5, 3)):
        x, state = draw(rng, *shape, device=device), draw(rng, 2, 5, 4, device=device)
        weight, bias = draw(rng, 5, 3, device=device), draw(rng, 5, device=device)
        opcheck(op, (x, state, weight, bias, "silu", 2))
        opcheck(op, (x, state, weight.unsqueeze(1)))
    assert "Tensor(a!) conv_state" in str(op._schema)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles(backend, rng):
    """A decoding loop with the state inside of a module."""
    torch._dynamo.reset()

    class Step(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("state", torch.zeros(2, 6, 3))
            self.register_buffer("weight", draw(rng, 6, 4))

        def forward(self, x):
            return update(x * 2, self.state, self.weight, None, "silu") + 1

    plain = Step()
    compiled = Step()
    compiled.load_state_dict(plain.state_dict())
    run = torch.compile(compiled, fullgraph=True, backend=backend)
    with torch.no_grad():
        for x in draw(rng, 5, 2, 6):
            torch.testing.assert_close(run(x), plain(x))
            torch.testing.assert_close(compiled.state, plain.state)


def test_vmap(rng):
    x, state, weight = draw(rng, 3, 2, 5), draw(rng, 3, 2, 5, 4), draw(rng, 5, 3)
    want = [update(a, b, weight) for a, b in zip(x, state.clone(), strict=True)]
    after = state.clone()
    for a, b in zip(x, after, strict=True):
        update(a, b, weight)
    got = torch.vmap(lambda a, b: update(a, b, weight))(x, state)
    torch.testing.assert_close(got, torch.stack(want))
    assert torch.equal(state, after)
