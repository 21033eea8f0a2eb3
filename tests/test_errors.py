# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Bad input to a convolution: torch's error, a message that names the argument, no allocation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fastconv
import fastconv.reference

CONV = {1: fastconv.depthwise_conv1d, 2: fastconv.depthwise_conv2d, 3: fastconv.depthwise_conv3d}
NATIVE_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
SIZE = {1: (9,), 2: (7, 9), 3: (5, 7, 9)}
FP8 = torch.float8_e4m3fn


def tensor(*shape, dtype=torch.float32, device="cpu"):
    return torch.zeros(shape, dtype=dtype, device=device)


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
    "too_few_pairs": (
        lambda d: {},
        lambda d: {"padding": [(0, 1)] * (d // 2) or [(0, 1)] * 2},
        (RuntimeError, "padding of . .begin, end. pairs"),
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
def test_conv(name, dims, assert_raises):
    spoil, kwargs, (error, match) = {**BAD_CONV, **BAD_CONV_OF_OURS}[name]
    args = conv_args(dims, **spoil(dims))
    kwargs = kwargs(dims) if callable(kwargs) else kwargs
    native = None
    if name in BAD_CONV:

        def native(*args, **kwargs):
            return NATIVE_CONV[dims](*args, **kwargs, groups=4)

    assert_raises(CONV[dims], args, kwargs, error, match, native)


@pytest.mark.parametrize("dims", [2, 3])
def test_causal_is_for_sequences(dims, assert_raises):
    args = conv_args(dims)
    assert_raises(CONV[dims], args, {"padding": "causal"}, RuntimeError, "'causal'.*1-D")


def test_conv_output_too_large_for_64_bits(assert_raises):
    args = conv_args(3)
    assert_raises(CONV[3], args, {"padding": 2**31 - 1}, RuntimeError, "overflow")


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_conv_that_only_memory_forbids(dims, error_of):
    """A size that 64 bits can hold is for the allocator to refuse."""
    padding = [0] * (dims - 1) + [2**30]
    error = error_of(CONV[dims], tensor(1, 1, *SIZE[dims]).expand(2**14, *[-1] * (dims + 1)),
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
def test_conv_of_nothing(inputs, padding, error_of):
    """Sizes of zero: an error, or a result of the same size, as in torch."""
    dims = len(inputs) - 2
    args = (tensor(*inputs), tensor(4, 1, *[3] * dims), tensor(4) + 1)
    ours = error_of(CONV[dims], *args, padding=padding)
    theirs = error_of(NATIVE_CONV[dims], *args, padding=padding, groups=4)
    if ours is None:
        y = CONV[dims](*args, padding=padding)
        want = fastconv.reference.depthwise_conv1d if dims == 1 else None
        want = want or fastconv.reference.depthwise_conv2d
        assert torch.equal(y, want(*args, padding=padding))
    else:
        assert theirs is not None, "torch accepts this"
        assert isinstance(ours, RuntimeError)
