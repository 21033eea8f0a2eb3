# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""convert_() leaves a layer alone if it cannot tell what its own forward does, and says so."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastconv


class Scaled(nn.Conv2d):
    """Does more than pad, and calls the convolution by itself."""

    def forward(self, x):
        return F.conv2d(
            x, 2 * self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class OtherMethod(nn.Conv2d):
    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, weight.abs(), bias)


class OddPad(nn.Conv2d):
    """Pads by a rule that is neither fixed nor TensorFlow's."""

    def forward(self, x):
        x = F.pad(x, (0, x.shape[-1] % 3))
        return F.conv2d(x, self.weight, self.bias, groups=self.groups)


class PadsWithOnes(nn.Conv2d):
    def forward(self, x):
        x = F.pad(x, (1, 1), value=1.0)
        return F.conv2d(x, self.weight, self.bias, groups=self.groups)


class Asks(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x


class OtherStride(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight, self.bias, stride=2, groups=self.groups)


class OtherWeight(nn.Conv2d):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.other = nn.Parameter(torch.zeros_like(self.weight))

    def forward(self, x):
        return F.conv2d(x, self.other, self.bias, groups=self.groups)


class PadsInTraining(nn.Conv2d):
    def forward(self, x):
        x = F.pad(x, (1, 1)) if self.training else x
        return F.conv2d(x, self.weight, self.bias, groups=self.groups)


class PadsAndCrops(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(F.pad(x, (-1, 2)), self.weight, self.bias, groups=self.groups)


class Registered(nn.Conv2d):
    def __init_subclass__(cls, *, key):
        raise AssertionError("unreachable: the keyword is missing")


OWN = [
    (Scaled, "does more than pad"),
    (OtherMethod, "does more than pad"),
    (OddPad, "does more than pad"),
    (PadsWithOnes, "does more than pad"),
    (Asks, "could not be followed (RuntimeError)"),
    (OtherStride, "does more than pad"),
    (OtherWeight, "does more than pad"),
    (PadsInTraining, "does more than pad"),
    (PadsAndCrops, "does more than pad"),
    (Registered, "class cannot be replaced"),
]


@pytest.mark.parametrize(("kind", "reason"), OWN, ids=lambda v: getattr(v, "__name__", ""))
def test_forwards_of_their_own_are_left_alone(kind, reason):
    model = nn.Sequential(kind(6, 6, 3, groups=6))
    with pytest.warns(UserWarning, match="no layer to swap"):
        report = fastconv.convert_(model)
    assert reason in report.left[0].reason and type(model[0]) is kind
