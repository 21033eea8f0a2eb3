# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Bad input to a transposed convolution: torch's error, a message that names the argument."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fastconv
from fastconv import reference

CONV = {n: getattr(fastconv, f"depthwise_conv_transpose{n}d") for n in (1, 2, 3)}
NATIVE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
REFERENCE = {n: getattr(reference, f"depthwise_conv_transpose{n}d") for n in (1, 2, 3)}
SIZE = {1: (9,), 2: (7, 9), 3: (5, 7, 9)}


def tensor(*shape, dtype=torch.float32, device="cpu"):
    return torch.zeros(shape, dtype=dtype, device=device)


def conv_args(dims, x=None, w=None, b=None):
    """Valid tensors, unless others are given."""
    x = tensor(2, 4, *SIZE[dims]) if x is None else x
    return x, tensor(4, 2, *[3] * dims) if w is None else w, tensor(8) if b is None else b


def plain(d):
    return {}


RANKS = (RuntimeError, r"Expected \dD \(unbatched\) or \dD \(batched\) input")
# What is wrong: how to spoil the tensors, other arguments, the error, its message.
BAD = {
    "input_has_too_few_dims": (lambda d: {"x": tensor(*SIZE[d])}, {}, RANKS),
    "input_has_too_many_dims": (lambda d: {"x": tensor(1, 2, 4, *SIZE[d])}, {}, RANKS),
    "input_without_pixels": (
        lambda d: {"x": tensor(2, 4, *SIZE[d][:-1], 0)},
        {},
        (RuntimeError, "input with non-zero size"),
    ),
    "weight_has_too_few_dims": (
        lambda d: {"w": tensor(4, *[3] * d)},
        {},
        (RuntimeError, r"weight of . dimensions, \(C, multiplier, \*kernel_size\)"),
    ),
    "weight_has_too_many_dims": (
        lambda d: {"w": tensor(4, 2, 1, *[3] * d)},
        {},
        (RuntimeError, "weight of . dimensions"),
    ),
    "weight_of_other_channels": (
        lambda d: {"w": tensor(8, 1, *[3] * d)},
        {},
        (RuntimeError, r"weight of size \(C, multiplier.* input's 4 channels"),
    ),
    "bias_of_another_length": (lambda d: {"b": tensor(4)}, {}, (RuntimeError, "bias.*8 elements")),
    "bias_of_two_dims": (lambda d: {"b": tensor(8, 1)}, {}, (RuntimeError, "bias.*1-dim")),
    "kernel_of_size_0": (
        lambda d: {"w": tensor(4, 2, *[0] * d)},
        {},
        (RuntimeError, "kernel of positive size"),
    ),
    "padding_crops_everything": (
        plain,
        lambda d: {"padding": [SIZE[d][0] + 2] * d},
        (RuntimeError, "Output size is too small"),
    ),
    "stride_0": (plain, {"stride": 0}, (RuntimeError, "non-positive stride")),
    "stride_negative": (plain, {"stride": -1}, (RuntimeError, "non-positive stride")),
    "dilation_0": (plain, {"dilation": 0}, (RuntimeError, "dilation")),
    "dilation_negative": (plain, {"dilation": -2}, (RuntimeError, "dilation")),
    "padding_negative": (plain, {"padding": -1}, (RuntimeError, "negative padding")),
    "output_padding_negative": (
        plain,
        {"output_padding": -1, "stride": 2},
        (RuntimeError, "negative output_padding"),
    ),
    "output_padding_as_large_as_the_stride": (
        plain,
        {"output_padding": 2, "stride": 2},
        (RuntimeError, "output_padding must be smaller than either stride or dilation"),
    ),
    "output_padding_as_large_as_both": (
        plain,
        {"output_padding": 3, "stride": 2, "dilation": 3},
        (RuntimeError, "output_padding must be smaller than either stride or dilation"),
    ),
    "too_many_strides": (plain, {"stride": [1] * 4}, (RuntimeError, "stride.*list of")),
    "too_many_paddings": (plain, {"padding": [1] * 6}, (RuntimeError, "padding.*list of")),
    "too_many_dilations": (plain, {"dilation": [1] * 4}, (RuntimeError, "dilation.*list of")),
    "too_many_output_paddings": (
        plain,
        {"output_padding": [0] * 4},
        (RuntimeError, "output_padding.*list of"),
    ),
    "padding_is_a_mode": (plain, {"padding": "same"}, (TypeError, "argument 'padding'")),
    "padding_is_pairs": (
        plain,
        lambda d: {"padding": [(1, 0)] * d},
        (TypeError, "argument 'padding'"),
    ),
    "stride_is_a_float": (plain, {"stride": 1.5}, (TypeError, "argument 'stride'")),
    "dilation_is_a_string": (plain, {"dilation": "2"}, (TypeError, "argument 'dilation'")),
    "output_padding_is_a_float": (
        plain,
        {"output_padding": 0.5},
        (TypeError, "argument 'output_padding'"),
    ),
    "output_padding_is_none": (
        plain,
        {"output_padding": None},
        (TypeError, "argument 'output_padding'"),
    ),
    "weight_of_another_dtype": (
        lambda d: {"w": tensor(4, 2, *[3] * d, dtype=torch.float64)},
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
}

# The same, where torch accepts it or has another limit.
BAD_OF_OURS = {
    "all_of_int": (
        lambda d: {k: t.to(torch.int32) for k, t in zip("xwb", conv_args(d), strict=True)},
        {},
        (NotImplementedError, "Int"),
    ),
    "all_of_complex": (
        lambda d: {k: t.to(torch.complex64) for k, t in zip("xwb", conv_args(d), strict=True)},
        {},
        (NotImplementedError, "ComplexFloat"),
    ),
    "input_without_channels": (
        lambda d: {"x": tensor(2, 0, *SIZE[d]), "w": tensor(0, 2, *[3] * d)},
        {},
        (RuntimeError, "at least one channel"),
    ),
    "weight_without_filters": (
        lambda d: {"w": tensor(4, 0, *[3] * d), "b": tensor(0)},
        {},
        (RuntimeError, "weight of size"),
    ),
    "weight_on_another_device": (
        lambda d: {"w": tensor(4, 2, *[3] * d, device="meta")},
        {},
        (RuntimeError, "same device.* input is on cpu and weight is on meta"),
    ),
    "bias_on_another_device": (
        lambda d: {"b": tensor(8, device="meta")},
        {},
        (RuntimeError, "same device.* input is on cpu and bias is on meta"),
    ),
    "stride_beyond_31_bits": (plain, {"stride": 2**31}, (RuntimeError, r"below 2\^31.*stride")),
    "padding_beyond_31_bits": (plain, {"padding": 2**62}, (RuntimeError, r"below 2\^31")),
    "dilation_beyond_64_bits": (plain, {"dilation": 2**63}, (ValueError, "'dilation'")),
}


@pytest.mark.parametrize("dims", [1, 2, 3], ids=["1d", "2d", "3d"])
@pytest.mark.parametrize("name", [*BAD, *BAD_OF_OURS])
def test_transposed(name, dims, assert_raises):
    spoil, kwargs, (error, match) = {**BAD, **BAD_OF_OURS}[name]
    args = conv_args(dims, **spoil(dims))
    kwargs = kwargs(dims) if callable(kwargs) else kwargs
    native = None
    if name in BAD:

        def native(*args, **kwargs):
            return NATIVE[dims](*args, **kwargs, groups=4)

    assert_raises(CONV[dims], args, kwargs, error, match, native)


def test_output_too_large_for_64_bits(assert_raises):
    args = conv_args(3)
    assert_raises(CONV[3], args, {"stride": 2**31 - 1}, RuntimeError, "overflow")


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_output_that_only_memory_forbids(dims, error_of):
    """A size that 64 bits can hold is for the allocator to refuse."""
    x = tensor(1, 1, *SIZE[dims]).expand(2**14, *[-1] * (dims + 1))
    stride = [1] * (dims - 1) + [2**30]
    error = error_of(CONV[dims], x, tensor(1, 64, *[1] * dims), None, stride=stride)
    assert isinstance(error, RuntimeError)


@pytest.mark.cuda
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_mixed_devices(dims):
    x, w, b = conv_args(dims)
    for args in ((x.cuda(), w, None), (x, w.cuda(), None), (x, w, b.cuda())):
        with pytest.raises(RuntimeError, match="same device"):
            CONV[dims](*args)


@pytest.mark.parametrize(
    "inputs", [(2, 4, 0), (0, 4, 5), (0, 4, 0), (2, 4, 3, 0), (0, 4, 3, 2), (0, 4, 0, 3)], ids=str
)
@pytest.mark.parametrize("padding", [0, 1])
def test_nothing(inputs, padding, error_of):
    """Sizes of zero: an error, or a result of the same size, as in torch."""
    dims = len(inputs) - 2
    args = (tensor(*inputs), tensor(4, 1, *[3] * dims), tensor(4) + 1)
    ours = error_of(CONV[dims], *args, padding=padding)
    theirs = error_of(NATIVE[dims], *args, padding=padding, groups=4)
    if ours is not None:
        assert isinstance(ours, RuntimeError)
        if inputs[0] > 0:  # of an empty batch torch checks less
            assert theirs is not None, "torch accepts this"
        return
    y = CONV[dims](*args, padding=padding)
    assert theirs is None
    assert y.shape == NATIVE[dims](*args, padding=padding, groups=4).shape
    assert torch.equal(y, REFERENCE[dims](*args, padding=padding))


@pytest.mark.parametrize(("size", "padding"), [((0, 4, 3, 2), 0), ((2, 4, 1, 2), (1, 0))])
def test_gradients_of_an_empty_result_are_zero(size, padding):
    """Of an empty batch, or of padding that leaves nothing."""
    torch_says = F.conv_transpose2d(tensor(*size), tensor(4, 2, 2, 2), padding=padding, groups=4)
    leaves = [t.requires_grad_() for t in (tensor(*size), tensor(4, 2, 2, 2) + 1, tensor(8))]
    y = fastconv.depthwise_conv_transpose2d(*leaves, padding=padding)
    assert y.shape == torch_says.shape and y.numel() == 0
    y.sum().backward()
    assert all(t.grad.shape == t.shape and not t.grad.any() for t in leaves)


def test_backward_of_another_size_is_refused():
    """The operator behind autograd checks what it is given."""
    x, w, _ = conv_args(1)
    backward = torch.ops.fastconv._depthwise_conv_transpose_backward
    for grad, match in (
        (tensor(2, 8, 12), "grad_output of size"),
        (tensor(2, 4, 11), "grad_output of size"),
        (tensor(2, 8, 11, 1), "grad_output of size"),
        (tensor(2, 8, 11, dtype=torch.float64), "grad_output of dtype"),
    ):
        with pytest.raises(RuntimeError, match=match):
            backward(grad, x, w, [1], [0], [0], [1], [True, True, True])
