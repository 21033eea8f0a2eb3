# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""What the tests of convert_(fuse=True) share."""

import torch
from torch import nn

NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def settled(model, rng):
    """In double, in evaluation mode, with statistics and gains that are not those of a new norm."""
    for m in model.modules():
        if getattr(m, "running_mean", None) is not None:
            m.running_mean.copy_(torch.randn(m.running_mean.shape, generator=rng))
            m.running_var.copy_(torch.rand(m.running_var.shape, generator=rng) + 0.1)
            for p in (m.weight, m.bias):
                if p is not None:
                    p.data.copy_(torch.randn(p.shape, generator=rng))
    return model.double().eval()


class Block(nn.Module):
    """An inverted residual written out, as libraries do."""

    def __init__(self, c=6, act=nn.ReLU6, dims=2, **norm):
        super().__init__()
        self.expand = CONV[dims](3, c, 1)
        self.depthwise = CONV[dims](c, c, 3, padding=1, groups=c, bias=False)
        self.norm = NORM[dims](c, **norm)
        self.act = act()
        self.project = CONV[dims](c, 3, 1)

    def forward(self, x):
        return x + self.project(self.act(self.norm(self.depthwise(self.expand(x)))))


def draw(shape, rng):
    return torch.randn(shape, generator=rng, dtype=torch.float64)
