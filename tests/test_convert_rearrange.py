# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""convert_() over other libraries' space-to-depth and shuffle modules: known by their results."""

import copy
import pickle

import pytest
import torch
from torch import nn

import fastconv
import fastconv.nn


class SpaceToDepth(nn.Module):
    """Blocks first, then channels, as TResNet's stem."""

    def __init__(self, block_size=4):
        super().__init__()
        self.bs = block_size

    def forward(self, x):
        n, c, h, w = x.size()
        b = self.bs
        x = x.view(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).contiguous()
        return x.view(n, c * b * b, h // b, w // b)


class DepthToSpace(nn.Module):
    def __init__(self, block_size):
        super().__init__()
        self.bs = block_size

    def forward(self, x):
        n, c, h, w = x.size()
        b = self.bs
        x = x.view(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).contiguous()
        return x.view(n, c // b**2, h * b, w * b)


class space_to_depth(nn.Module):
    """No attribute at all: the slices of a detector's stem."""

    def forward(self, x):
        a, b, c, d = (x[..., i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1)))
        return torch.cat([a, b, c, d], 1)


class ShuffleChannels(nn.Module):
    def __init__(self, groups):
        super().__init__()
        self.groups = groups

    def forward(self, x):
        n, c, h, w = x.shape
        return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class PixelShuffleOfOurOwn(nn.PixelShuffle):
    def forward(self, input):
        r = self.upscale_factor
        return input.unflatten(1, (-1, r, r)).permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3)


class Renamed(nn.PixelUnshuffle):
    pass


FOUND = {
    "space_to_depth": (SpaceToDepth(4), "space_to_depth(4, 'dcr')", (2, 3, 8, 12)),
    "two": (SpaceToDepth(2), "space_to_depth(2, 'dcr')", (2, 3, 8, 12)),
    "depth_to_space": (DepthToSpace(3), "depth_to_space(3, 'dcr')", (2, 18, 2, 3)),
    "slices": (space_to_depth(), "space_to_depth(2, 'focus')", (2, 3, 8, 12)),
    "channels": (ShuffleChannels(3), "channel_shuffle(3,)", (2, 12, 4, 5)),
    "own shuffle": (PixelShuffleOfOurOwn(2), "depth_to_space(2, 'crd')", (2, 12, 4, 5)),
    "subclass": (Renamed(2), "PixelUnshuffle", (2, 3, 4, 6)),
}


@pytest.mark.parametrize("case", FOUND)
@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8])
def test_modules_that_rearrange(case, dtype):
    layer, became, shape = FOUND[case]
    model = nn.Sequential(copy.deepcopy(layer))
    report = fastconv.convert_(model)
    assert [e.became for e in report.converted] == [became]
    x = torch.randint(100, shape).to(dtype)
    for twin in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), layer(x))
        assert type(twin[0]) is type(model[0]) and isinstance(twin[0], type(layer))
    with torch.profiler.profile() as prof:
        model(x)
    assert any(e.key.startswith("fastconv::") for e in prof.key_averages())
    assert fastconv.convert_(model).already and fastconv.revert_(model) == ["0"]
    assert type(model[0]) is type(layer)


def test_gradients_of_a_rearrangement():
    model = nn.Sequential(SpaceToDepth(2))
    native = copy.deepcopy(model)
    fastconv.convert_(model)
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 12, 2, 3, dtype=torch.float64)
    (ours,) = torch.autograd.grad(model(x), x, y)
    (theirs,) = torch.autograd.grad(native(x), x, y)
    assert torch.equal(ours, theirs)


class FocusLoss(nn.Module):
    def forward(self, x):
        return x.square().mean()


class SpaceToDepthAndScale(SpaceToDepth):
    def forward(self, x):
        return super().forward(x) * 2


class SpaceToDepthInTraining(SpaceToDepth):
    def forward(self, x):
        return super().forward(x) if self.training else super().forward(x).flip(0)


class SpaceToDepthInEval(SpaceToDepth):
    def forward(self, x):
        return super().forward(x).flip(0) if self.training else super().forward(x)


class ShuffleAtRandom(nn.Module):
    def forward(self, x):
        return x[:, torch.randperm(x.shape[1])]


@pytest.mark.parametrize(
    "layer",
    [
        FocusLoss(),
        SpaceToDepthAndScale(2),
        SpaceToDepthInTraining(2),
        SpaceToDepthInEval(2),
        ShuffleAtRandom(),
    ],
)
def test_only_the_name_is_not_enough(layer):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    with pytest.warns(UserWarning, match="no layer to swap"):
        report = fastconv.convert_(nn.Sequential(layer))
    assert report.left == []
    assert torch.equal(torch.rand(3), expected), "a probe drew from the global generator"


def test_a_shuffle_with_another_forward_is_left_with_a_reason():
    class Flipped(nn.PixelShuffle):
        def forward(self, input):
            return super().forward(input).flip(1)

    with pytest.warns(UserWarning, match="does something else"):
        report = fastconv.convert_(Flipped(2))
    assert report.left[0].was == "Flipped"


def test_other_ranks_reach_the_original():
    class ChannelShuffle1d(nn.Module):
        def __init__(self, groups):
            super().__init__()
            self.groups = groups

        def forward(self, x):
            return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2) + (x.dim() == 3)

    layer = ChannelShuffle1d(2)
    x = torch.randn(2, 4, 6)
    want = layer(x)
    assert fastconv.convert_(layer).converted
    assert torch.equal(layer(x), want)
