# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Bad input: torch's kind of error, a message that names the argument, and nothing allocated."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

import fastconv
import fastconv.reference

CONV = {1: fastconv.depthwise_conv1d, 2: fastconv.depthwise_conv2d, 3: fastconv.depthwise_conv3d}
NATIVE_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
SIZE = {1: (9,), 2: (7, 9), 3: (5, 7, 9)}
FP8 = torch.float8_e4m3fn


def tensor(*shape, dtype=torch.float32, device="cpu"):
    return torch.zeros(shape, dtype=dtype, device=device)


def raised_by(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except Exception as error:
        return error
    return None


def assert_raises(call, args, kwargs, error, match, native=None, native_args=None):
    """The call raises `error` exactly, as `native` does, without asking for memory."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        ours = raised_by(call, *args, **kwargs)
    with pytest.raises(error, match=match) as caught:
        if ours is not None:
            raise ours
    assert type(caught.value) is error
    assert not [e for e in prof.events() if e.name == "[memory]"], "allocated before it raised"
    if native is not None:
        theirs = raised_by(native, *(args if native_args is None else native_args), **kwargs)
        assert theirs is not None, "torch accepts this"
        assert isinstance(ours, type(theirs)), f"torch raises {theirs!r}"


def conv_args(dims, x=None, w=None, b=None):
    """Valid tensors, unless others are given."""
    x = tensor(2, 4, *SIZE[dims]) if x is None else x
    return x, tensor(8, 1, *[3] * dims) if w is None else w, tensor(8) if b is None else b


# What is wrong: how to spoil the tensors, other arguments, the error, its message, and whether
# torch knows these arguments at all.
BAD_CONV = {
    "input_has_too_few_dims": (
        lambda d: {"x": tensor(*SIZE[d])},
        {},
        (RuntimeError, r"Expected \dD \(unbatched\) or \dD \(batched\) input"),
    ),
    "input_has_too_many_dims": (
        lambda d: {"x": tensor(1, 2, 4, *SIZE[d])},
        {},
        (RuntimeError, r"Expected \dD \(unbatched\) or \dD \(batched\) input"),
    ),
    "weight_has_too_few_dims": (
        lambda d: {"w": tensor(8, *[3] * d)},
        {},
        (RuntimeError, "weight"),
    ),
    "weight_has_too_many_dims": (
        lambda d: {"w": tensor(8, 1, 1, *[3] * d)},
        {},
        (RuntimeError, "weight"),
    ),
    "out_channels_are_no_multiple": (
        lambda d: {"w": tensor(6, 1, *[3] * d), "b": tensor(6)},
        {},
        (RuntimeError, r"weight.*multiple of the input's 4 channels"),
    ),
    "weight_second_dim_is_not_1": (
        lambda d: {"w": tensor(8, 4, *[3] * d)},
        {},
        (RuntimeError, r"weight of size \(C \* multiplier, 1"),
    ),
    "bias_of_another_length": (lambda d: {"b": tensor(7)}, {}, (RuntimeError, "bias.*8 elements")),
    "bias_of_two_dims": (lambda d: {"b": tensor(8, 1)}, {}, (RuntimeError, "bias.*1-dim")),
    "kernel_larger_than_input": (
        lambda d: {"w": tensor(8, 1, *[3] * (d - 1), 12)},
        {"padding": 1},
        (RuntimeError, r"Kernel size can't be greater than actual input size"),
    ),
    "dilated_kernel_larger_than_input": (
        lambda d: {},
        {"dilation": 5},
        (RuntimeError, r"Kernel size can't be greater than actual input size"),
    ),
    "kernel_of_size_0": (
        lambda d: {"w": tensor(8, 1, *[0] * d)},
        {},
        (RuntimeError, "kernel of positive size"),
    ),
    "stride_0": (lambda d: {}, {"stride": 0}, (RuntimeError, "stride")),
    "stride_negative": (lambda d: {}, {"stride": -1}, (RuntimeError, "stride")),
    "dilation_0": (lambda d: {}, {"dilation": 0}, (RuntimeError, "dilation")),
    "dilation_negative": (lambda d: {}, {"dilation": -2}, (RuntimeError, "dilation")),
    "padding_negative": (lambda d: {}, {"padding": -1}, (RuntimeError, "padding")),
    "padding_mode_unknown": (lambda d: {}, {"padding": "full"}, (RuntimeError, "padding.*'full'")),
    "int_input": (
        lambda d: {"x": tensor(2, 4, *SIZE[d], dtype=torch.int64)},
        {},
        (NotImplementedError, "Long"),
    ),
    "weight_of_another_dtype": (
        lambda d: {"w": tensor(8, 1, *[3] * d, dtype=torch.float64)},
        {},
        (RuntimeError, r"weight \(Double\).*same dtype"),
    ),
    "bias_of_another_dtype": (
        lambda d: {"b": tensor(8, dtype=torch.float16)},
        {},
        (RuntimeError, r"bias \(Half\).*same dtype"),
    ),
    "input_is_an_array": (
        lambda d: {"x": np.zeros((2, 4, *SIZE[d]), np.float32)},
        {},
        (TypeError, "argument 'input' must be Tensor, not ndarray"),
    ),
    "weight_is_a_list": (
        lambda d: {"w": [1.0, 2.0]},
        {},
        (TypeError, "argument 'weight' must be Tensor, not list"),
    ),
    "bias_is_a_number": (
        lambda d: {"b": 1.0},
        {},
        (TypeError, "argument 'bias' must be Tensor, not float"),
    ),
    "stride_is_a_float": (lambda d: {}, {"stride": 1.5}, (TypeError, "argument 'stride'")),
    "dilation_is_a_string": (lambda d: {}, {"dilation": "2"}, (TypeError, "argument 'dilation'")),
    "padding_is_a_float": (lambda d: {}, {"padding": 0.5}, (TypeError, "argument 'padding'")),
}

# The same, where torch has no such argument, or accepts it.
BAD_CONV_OF_OURS = {
    "all_of_complex": (
        lambda d: {k: t.to(torch.complex64) for k, t in zip("xwb", conv_args(d), strict=True)},
        {},
        (NotImplementedError, "ComplexFloat"),
    ),
    "all_of_int": (
        lambda d: {k: t.to(torch.int32) for k, t in zip("xwb", conv_args(d), strict=True)},
        {},
        (NotImplementedError, "Int"),
    ),
    "all_of_fp8": (
        lambda d: {k: t.to(FP8) for k, t in zip("xwb", conv_args(d), strict=True)},
        {},
        (NotImplementedError, "Float8_e4m3fn"),
    ),
    "input_without_channels": (
        lambda d: {"x": tensor(2, 0, *SIZE[d])},
        {},
        (RuntimeError, "at least one channel"),
    ),
    "weight_on_another_device": (
        lambda d: {"w": tensor(8, 1, *[3] * d, device="meta")},
        {},
        (RuntimeError, "same device.* input is on cpu and weight is on meta"),
    ),
    "bias_on_another_device": (
        lambda d: {"b": tensor(8, device="meta")},
        {},
        (RuntimeError, "same device.* input is on cpu and bias is on meta"),
    ),
    "too_many_strides": (lambda d: {}, {"stride": [1] * 4}, (RuntimeError, "stride")),
    "too_many_dilations": (lambda d: {}, {"dilation": [1] * 4}, (RuntimeError, "dilation")),
    "too_many_paddings": (lambda d: {}, {"padding": [1] * 8}, (RuntimeError, "padding")),
    "pair_of_three": (lambda d: {}, lambda d: {"padding": [(1, 1, 1)] * d}, (TypeError, "padding")),
    "pair_is_negative": (
        lambda d: {},
        lambda d: {"padding": [(0, -1)] * d},
        (RuntimeError, "padding"),
    ),
    "too_many_pairs": (lambda d: {}, {"padding": [(0, 1)] * 4}, (RuntimeError, "padding")),
    "activation_unknown": (lambda d: {}, {"activation": "tanh"}, (ValueError, "activation 'tanh'")),
    "padding_beyond_64_bits": (lambda d: {}, {"padding": 2**62}, (RuntimeError, "padding")),
    "stride_beyond_64_bits": (lambda d: {}, {"stride": 2**63 - 1}, (RuntimeError, "stride")),
    "same_with_stride_0": (
        lambda d: {},
        {"padding": "same", "stride": 0},
        (RuntimeError, "stride"),
    ),
    "same_with_dilation_0": (
        lambda d: {},
        {"padding": "same", "dilation": 0},
        (RuntimeError, "dilation"),
    ),
    "same_with_input_of_wrong_rank": (
        lambda d: {"x": tensor(4)},
        {"padding": "same"},
        (RuntimeError, r"input"),
    ),
}


@pytest.mark.parametrize("dims", [1, 2, 3], ids=["1d", "2d", "3d"])
@pytest.mark.parametrize("name", [*BAD_CONV, *BAD_CONV_OF_OURS])
def test_conv(name, dims):
    spoil, kwargs, (error, match) = {**BAD_CONV, **BAD_CONV_OF_OURS}[name]
    args = conv_args(dims, **spoil(dims))
    kwargs = kwargs(dims) if callable(kwargs) else kwargs
    native = None
    if name in BAD_CONV:

        def native(*args, **kwargs):
            return NATIVE_CONV[dims](*args, **kwargs, groups=4)

    assert_raises(CONV[dims], args, kwargs, error, match, native)


@pytest.mark.parametrize("dims", [2, 3])
def test_causal_is_for_sequences(dims):
    args = conv_args(dims)
    assert_raises(CONV[dims], args, {"padding": "causal"}, RuntimeError, "'causal'.*1-D")


def test_conv_output_too_large_for_64_bits():
    args = conv_args(3)
    assert_raises(CONV[3], args, {"padding": 2**31 - 1}, RuntimeError, "overflow")


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_conv_that_only_memory_forbids(dims):
    """A size that 64 bits can hold is for the allocator to refuse."""
    padding = [0] * (dims - 1) + [2**30]
    error = raised_by(CONV[dims], tensor(1, 1, *SIZE[dims]).expand(2**14, *[-1] * (dims + 1)),
                      tensor(64, 1, *[1] * dims), None, padding=padding)  # fmt: skip
    assert isinstance(error, RuntimeError)


@pytest.mark.cuda
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_conv_of_mixed_devices(dims):
    x, w, b = conv_args(dims)
    for args in ((x.cuda(), w, None), (x, w.cuda(), None), (x, w, b.cuda())):
        with pytest.raises(RuntimeError, match="same device"):
            CONV[dims](*args)


@pytest.mark.parametrize("inputs", [(2, 4, 0), (0, 4, 5), (2, 4, 3, 0), (2, 4, 0, 3)], ids=str)
@pytest.mark.parametrize("padding", [0, 1, 3])
def test_conv_of_nothing(inputs, padding):
    """Sizes of zero: an error, or a result of the same size, as in torch."""
    dims = len(inputs) - 2
    args = (tensor(*inputs), tensor(4, 1, *[3] * dims), tensor(4) + 1)
    ours = raised_by(CONV[dims], *args, padding=padding)
    theirs = raised_by(NATIVE_CONV[dims], *args, padding=padding, groups=4)
    if ours is None:
        y = CONV[dims](*args, padding=padding)
        want = fastconv.reference.depthwise_conv1d if dims == 1 else None
        want = want or fastconv.reference.depthwise_conv2d
        assert torch.equal(y, want(*args, padding=padding))
    else:
        assert theirs is not None, "torch accepts this"
        assert isinstance(ours, RuntimeError)


def max_pool3d(x, *args, **kwargs):
    return F.max_pool3d(x.unsqueeze(1), *args, **kwargs)


X = tensor(2, 8, 6, 6)
# What is wrong: input, arguments, error, message, and whether torch's max_pool3d knows it.
BAD_POOL = {
    "input_has_too_few_dims": (tensor(6, 6), (2, 2, 2), {}, RuntimeError, "input", False),
    "input_has_too_many_dims": (tensor(1, 1, 2, 8, 6, 6), (2, 2, 2), {}, RuntimeError, "inpu", 0),
    "window_larger_than_channels": (X, 9, {}, RuntimeError, "[Oo]utput size is too small", False),
    "window_larger_than_input": (X, (1, 7, 1), {}, RuntimeError, "size is too small", True),
    "kernel_0": (X, (2, 0, 2), {}, RuntimeError, "kernel_size", True),
    "kernel_negative": (X, (-1, 2, 2), {}, RuntimeError, "kernel_size", True),
    "kernel_empty": (X, (), {}, RuntimeError, "kernel_size", True),
    "stride_0": (X, (2, 2, 2), {"stride": 0}, RuntimeError, "stride", True),
    "stride_negative": (X, (2, 2, 2), {"stride": (1, -1, 1)}, RuntimeError, "stride", True),
    "dilation_0": (X, (2, 2, 2), {"dilation": 0}, RuntimeError, "dilation", True),
    "padding_negative": (X, (2, 2, 2), {"padding": -1}, RuntimeError, "pad", True),
    "padding_beyond_half": (X, (2, 2, 2), {"padding": 2}, RuntimeError, "at most half", True),
    "stride_of_two": (X, (2, 2, 2), {"stride": (1, 1)}, RuntimeError, "stride", True),
    "padding_of_two": (X, (2, 2, 2), {"padding": (1, 1)}, RuntimeError, "padding", True),
    "kernel_is_a_float": (X, 2.5, {}, TypeError, "kernel_size", False),
    "stride_is_a_string": (X, 2, {"stride": "2"}, TypeError, "stride", False),
    "input_is_a_list": ([1.0], 2, {}, TypeError, "'input' must be Tensor", False),
    "int_input": (X.long(), 2, {}, RuntimeError, "Long", False),
    "complex_input": (X.to(torch.complex64), 2, {}, RuntimeError, "ComplexFloat", False),
    "fp8_input": (X.to(FP8), 2, {}, RuntimeError, "Float8", False),
    "kernel_beyond_64_bits": (X, 2**62, {}, RuntimeError, "kernel_size", False),
}


@pytest.mark.parametrize("name", BAD_POOL)
def test_pool(name):
    x, kernel, kwargs, error, match, known = BAD_POOL[name]
    native = max_pool3d if known else None
    assert_raises(fastconv.depth_max_pool, (x, kernel), kwargs, error, match, native)


def test_pool_drops_a_window_that_starts_in_padding():
    x = torch.randn(1, 5, 5, 5)
    args = {"kernel_size": (2, 2, 2), "stride": 3, "padding": 1, "ceil_mode": True}
    y, indices = fastconv.depth_max_pool(x, **args, return_indices=True)
    want, want_indices = max_pool3d(x, **args, return_indices=True)
    assert torch.equal(y, want.squeeze(1)) and torch.equal(indices, want_indices.squeeze(1))


S2D, D2S = fastconv.space_to_depth, fastconv.depth_to_space
BAD_REARRANGEMENT = {
    "s2d_not_divisible": (S2D, (X, 4), {}, RuntimeError, "divisible", None),
    "s2d_not_divisible_crd": (S2D, (X, 4), {"order": "crd"}, RuntimeError, "divisible", None),
    "s2d_one_axis_not_divisible": (S2D, (X, (3, 4)), {}, RuntimeError, "divisible", None),
    "d2s_not_divisible": (D2S, (X, 3), {}, RuntimeError, "channels", None),
    "s2d_block_0": (S2D, (X, 0), {}, RuntimeError, "block_size", None),
    "d2s_block_0": (D2S, (X, 0), {}, RuntimeError, "block_size", None),
    "s2d_block_negative": (S2D, (X, (-2, 2)), {}, RuntimeError, "block_size", None),
    "d2s_block_negative": (D2S, (X, (2, -2)), {}, RuntimeError, "block_size", None),
    "s2d_order": (S2D, (X, 2), {"order": "tf"}, ValueError, "order.*'tf'", None),
    "d2s_order": (D2S, (X, 2), {"order": "CRD"}, ValueError, "order.*'CRD'", None),
    "s2d_block_is_a_float": (S2D, (X, 2.0), {}, TypeError, "block_size", None),
    "s2d_block_empty": (S2D, (X, ()), {}, RuntimeError, "block_size", None),
    "s2d_too_many_blocks": (S2D, (X, (1, 1, 1, 1)), {}, RuntimeError, "block_size", None),
    "s2d_rank": (S2D, (tensor(4), 2), {}, RuntimeError, "input", None),
    "d2s_rank": (D2S, (tensor(4), 2), {}, RuntimeError, "input", None),
    "s2d_not_a_tensor": (S2D, (3, 2), {}, TypeError, "'input' must be Tensor", None),
    "d2s_overflow": (D2S, (X[:, :0], 2**62), {}, RuntimeError, "64 bits", None),
    "shuffle_rank": (fastconv.pixel_shuffle, (tensor(4, 4), 2), {}, RuntimeError, "input",
                     F.pixel_shuffle),
    "shuffle_channels": (fastconv.pixel_shuffle, (tensor(1, 6, 2, 2), 2), {}, RuntimeError,
                         "channels", F.pixel_shuffle),
    "shuffle_factor_0": (fastconv.pixel_shuffle, (X, 0), {}, RuntimeError, "positive",
                         F.pixel_shuffle),
    "shuffle_factor_is_a_float": (fastconv.pixel_shuffle, (X, 2.0), {}, TypeError,
                                  "upscale_factor", F.pixel_shuffle),
    "unshuffle_rank": (fastconv.pixel_unshuffle, (tensor(4, 4), 2), {}, RuntimeError, "input",
                       F.pixel_unshuffle),
    "unshuffle_not_divisible": (fastconv.pixel_unshuffle, (X, 4), {}, RuntimeError, "divisible",
                                F.pixel_unshuffle),
    "unshuffle_factor_negative": (fastconv.pixel_unshuffle, (X, -2), {}, RuntimeError, "positive",
                                  F.pixel_unshuffle),
    "channel_shuffle_groups": (fastconv.channel_shuffle, (X, 3), {}, RuntimeError, "groups",
                               F.channel_shuffle),
    "channel_shuffle_0": (fastconv.channel_shuffle, (X, 0), {}, RuntimeError, "groups",
                          F.channel_shuffle),
    "channel_shuffle_rank": (fastconv.channel_shuffle, (tensor(4, 4), 2), {}, RuntimeError,
                             "input", F.channel_shuffle),
    "channel_shuffle_tensor": (fastconv.channel_shuffle, (None, 2), {}, TypeError, "'input'",
                               F.channel_shuffle),
    "channel_shuffle_float": (fastconv.channel_shuffle, (X, 2.0), {}, TypeError, "'groups'",
                              F.channel_shuffle),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_REARRANGEMENT)
def test_rearrangement(name):
    call, args, kwargs, error, match, native = BAD_REARRANGEMENT[name]
    assert_raises(call, args, kwargs, error, match, native)


def test_a_meta_call_finds_the_same_errors():
    """Tracing must refuse what a run would refuse."""
    x, w, b = (t.to("meta") for t in conv_args(2))
    with pytest.raises(RuntimeError, match="stride"):
        fastconv.depthwise_conv2d(x, w, b, stride=0)
    with pytest.raises(RuntimeError, match="multiple"):
        fastconv.depthwise_conv2d(x, w[:6], b[:6])
    with pytest.raises(RuntimeError, match="divisible"):
        fastconv.space_to_depth(x, 4)
    with pytest.raises(RuntimeError, match="too small"):
        fastconv.depth_max_pool(x, 5)
