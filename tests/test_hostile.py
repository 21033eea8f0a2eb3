# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Sound but hostile calls: extreme strides, aliased memory, values at the edges of a type."""

import pytest
import torch

import fastconv
from fastconv.testing import each_isa

LARGE = 2**31 - 1


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_stride_or_dilation_that_nothing_uses(dims):
    """One window has no stride and one tap no dilation: no buffer may grow with them."""
    conv = (fastconv.depthwise_conv1d, fastconv.depthwise_conv2d, fastconv.depthwise_conv3d)
    x = torch.randn(2, 20, *[9, 8, 7][:dims], dtype=torch.float64, requires_grad=True)
    for kernel, args in ((3, {"stride": LARGE}), (1, {"stride": LARGE, "dilation": LARGE})):
        w = torch.randn(20, 1, *[kernel] * dims, dtype=torch.float64, requires_grad=True)
        want = (x[(..., *[slice(kernel)] * dims)] * w[:, 0]).flatten(2).sum(2)
        for isa in each_isa():
            y = conv[dims - 1](x, w, **args)
            torch.testing.assert_close(y.flatten(1), want, msg=lambda m, isa=isa: f"{isa}: {m}")
        ours = torch.autograd.grad(y.square().sum(), (x, w))
        theirs = torch.autograd.grad(want.square().sum(), (x, w), retain_graph=True)
        torch.testing.assert_close(ours, theirs)
