# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Bad input to pooling and rearrangement: as in test_errors.py."""

import pytest
import torch
import torch.nn.functional as F

import fastconv

FP8 = torch.float8_e4m3fn


def tensor(*shape, dtype=torch.float32, device="cpu"):
    return torch.zeros(shape, dtype=dtype, device=device)


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
def test_pool(name, assert_raises):
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
    "d2s_overflow": (D2S, (X[:, :0], 2**62), {}, ValueError, "64 bits", None),
    "shuffle_rank": (fastconv.pixel_shuffle, (tensor(4, 4), 2), {}, RuntimeError, "input",
                     F.pixel_shuffle),
    "shuffle_channels": (fastconv.pixel_shuffle, (tensor(1, 6, 2, 2), 2), {}, RuntimeError,
                         "channels", F.pixel_shuffle),
    "shuffle_factor_0": (fastconv.pixel_shuffle, (X, 0), {}, RuntimeError, "positive",
                         F.pixel_shuffle),
    "shuffle_factor_overflows": (fastconv.pixel_shuffle, (X, 2**62), {}, ValueError, "64 bits",
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
def test_rearrangement(name, assert_raises):
    call, args, kwargs, error, match, native = BAD_REARRANGEMENT[name]
    assert_raises(call, args, kwargs, error, match, native)


def test_a_meta_call_finds_the_same_errors():
    """Tracing must refuse what a run would refuse."""
    x, w = tensor(2, 4, 7, 9, device="meta"), tensor(8, 1, 3, 3, device="meta")
    with pytest.raises(RuntimeError, match="stride"):
        fastconv.depthwise_conv2d(x, w, stride=0)
    with pytest.raises(RuntimeError, match="multiple"):
        fastconv.depthwise_conv2d(x, w[:6])
    with pytest.raises(RuntimeError, match="divisible"):
        fastconv.space_to_depth(x, 4)
    with pytest.raises(RuntimeError, match="too small"):
        fastconv.depth_max_pool(x, 5)
