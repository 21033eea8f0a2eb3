# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""The ways to write an argument that torch accepts, and those that it does not."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fastconv

CONV = {1: fastconv.depthwise_conv1d, 2: fastconv.depthwise_conv2d, 3: fastconv.depthwise_conv3d}
NATIVE_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def conv_tensors(dims):
    return torch.randn(2, 4, *[9, 8, 7][:dims]), torch.randn(4, 1, *[3] * dims)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("argument", ["stride", "padding", "dilation"])
@pytest.mark.parametrize("number", [np.int64(2), np.uint8(2), torch.tensor(2)], ids=repr)
def test_whatever_is_an_int_to_torch(dims, argument, number):
    x, w = conv_tensors(dims)
    for value in (number, (number,), [1] * (dims - 1) + [number]):
        y = CONV[dims](x, w, **{argument: value})
        assert y.shape == NATIVE_CONV[dims](x, w, groups=4, **{argument: value}).shape


def test_numbers_of_numpy_everywhere():
    x, two = torch.randn(2, 8, 6, 6), np.int64(2)
    assert torch.equal(fastconv.pixel_shuffle(x, two), F.pixel_shuffle(x, 2))
    assert torch.equal(fastconv.pixel_unshuffle(x, (two, 2)), F.pixel_unshuffle(x, 2))
    assert torch.equal(fastconv.channel_shuffle(x, two), F.channel_shuffle(x, 2))
    assert torch.equal(fastconv.space_to_depth(x, two), fastconv.space_to_depth(x, 2))
    assert torch.equal(fastconv.depth_max_pool(x, two), fastconv.depth_max_pool(x, 2))
    y = fastconv.depth_max_pool(x, (two, 2, 2), padding=np.int8(1))
    assert torch.equal(y, F.max_pool3d(x, 2, padding=1))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("argument", ["stride", "padding", "dilation"])
def test_a_list_of_one_is_for_every_dimension(dims, argument):
    x, w = conv_tensors(dims)
    for value in ((2,), [2]):
        y = CONV[dims](x, w, **{argument: value})
        want = NATIVE_CONV[dims](x, w, groups=4, **{argument: value})
        torch.testing.assert_close(y, want)
    kernel = (2, 3, 3)
    x = torch.randn(2, 8, 9, 9)
    y = fastconv.depth_max_pool(x, kernel, **{argument: (1,)})
    assert torch.equal(y, F.max_pool3d(x.unsqueeze(1), kernel, **{argument: (1,)}).squeeze(1))


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 2**70])
def test_beyond_64_bits(value, assert_raises):
    x, w = conv_tensors(2)
    for argument in ("stride", "padding", "dilation"):
        native = lambda *args, **kwargs: F.conv2d(*args, groups=4, **kwargs)  # noqa: E731
        match = f"argument '{argument}'.*64 bits"
        assert_raises(CONV[2], (x, w), {argument: value}, ValueError, match, native)
        assert_raises(CONV[2], (x, w), {argument: (1, value)}, ValueError, match)
    for name in ("pixel_shuffle", "pixel_unshuffle", "channel_shuffle"):
        call, native = getattr(fastconv, name), getattr(F, name)
        assert_raises(call, (x, value), {}, ValueError, "64 bits", native)


def test_a_bool_is_no_number(assert_raises):
    x, w = conv_tensors(2)
    native = lambda *args, **kwargs: F.conv2d(*args, groups=4, **kwargs)  # noqa: E731
    assert_raises(CONV[2], (x, w), {"stride": True}, TypeError, "'stride'", native)
    assert_raises(fastconv.channel_shuffle, (x, True), {}, TypeError, "'groups'", F.channel_shuffle)
    assert_raises(
        fastconv.pixel_shuffle, (x, True), {}, TypeError, "'upscale_factor'", F.pixel_shuffle
    )
    pool = lambda x, *args, **kwargs: F.max_pool3d(x.unsqueeze(1), *args, **kwargs)  # noqa: E731
    assert_raises(fastconv.depth_max_pool, (x, True), {}, TypeError, "'kernel_size'", pool)


def test_a_bool_that_is_not_the_first_of_its_sequence(assert_raises):
    """torch looks at the type of the first number alone."""
    x, w = conv_tensors(2)
    for argument in ("stride", "padding", "dilation"):
        y = CONV[2](x, w, **{argument: (1, True)})
        torch.testing.assert_close(y, F.conv2d(x, w, groups=4, **{argument: (1, True)}))
    y = CONV[2](x, w, padding=((0, True), (1, True)))
    torch.testing.assert_close(y, F.conv2d(F.pad(x, (1, 1, 0, 1)), w, groups=4))
    assert_raises(CONV[2], (x, w), {"padding": ((0, 1), (True, 1))}, TypeError, "'padding'")


@pytest.mark.parametrize("stride", [(), []])
def test_an_empty_stride_of_pooling_is_no_stride(stride):
    x = torch.randn(2, 8, 9, 9)
    want = F.max_pool3d(x, (2, 3, 3), stride=stride)
    assert torch.equal(fastconv.depth_max_pool(x, (2, 3, 3), stride), want)
    assert torch.equal(fastconv.nn.DepthMaxPool((2, 3, 3), stride)(x), want)
    assert torch.equal(fastconv.depth_max_pool(x, 2, stride), fastconv.depth_max_pool(x, 2))


def test_ceil_mode_and_order_have_their_types(assert_raises):
    x = torch.randn(2, 8, 6, 6)
    pool = lambda x, *args, **kwargs: F.max_pool3d(x.unsqueeze(1), *args, **kwargs)  # noqa: E731
    for value in (1, None, "yes"):
        kwargs = {"ceil_mode": value}
        args = (x, (2, 2, 2))
        assert_raises(fastconv.depth_max_pool, args, kwargs, TypeError, "'ceil_mode'", pool)
    for value in (None, 3, b"crd"):
        for call in (fastconv.space_to_depth, fastconv.depth_to_space):
            assert_raises(call, (x, 2), {"order": value}, TypeError, "'order' must be str")


@pytest.mark.parametrize("factor", [(2,), (2, 2, 2), ()])
def test_pixel_shuffle_is_about_height_and_width(factor, assert_raises):
    """Another number of factors would move other dimensions."""
    x = torch.randn(2, 8, 8, 6)
    for name in ("upscale_factor", "downscale_factor"):
        call = fastconv.pixel_shuffle if name[0] == "u" else fastconv.pixel_unshuffle
        assert_raises(call, (x, factor), {}, RuntimeError, f"{name}.*height and width")


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("padding", ["same", "causal"])
def test_a_mode_whose_padding_leaves_64_bits(dims, padding, assert_raises):
    if padding == "causal" and dims > 1:
        return
    for stride in (1, 2):
        kwargs = {"padding": padding, "dilation": 2**62, "stride": stride}
        assert_raises(CONV[dims], conv_tensors(dims), kwargs, RuntimeError, r"below 2\^31")


@pytest.mark.parametrize("stride", [1, 2])
def test_the_largest_dilation_of_same(stride):
    """On either side as much zero as a padding may be: of 3 taps the middle one meets the input.

    At stride 2 the 8 columns want one zero less, and the odd one is at the end.
    """
    x, w = conv_tensors(2)
    y = fastconv.depthwise_conv2d(x, w, None, stride, "same", 2**31 - 1)
    want = (x * w[:, 0, 1:2, 1:2])[:, :, ::stride, stride - 1 :: stride]
    torch.testing.assert_close(y, want)


def test_a_layer_with_a_stride_of_one_element():
    kwargs = {"stride": (2,), "dilation": (1,), "padding": 1, "padding_mode": "reflect"}
    torch.manual_seed(0)
    ours = fastconv.nn.DepthwiseConv2d(4, 4, 3, **kwargs)
    torch.manual_seed(0)
    theirs = torch.nn.Conv2d(4, 4, 3, groups=4, **kwargs)
    x = torch.randn(2, 4, 7, 6)
    torch.testing.assert_close(ours(x), theirs(x))
