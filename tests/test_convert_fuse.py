# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""convert_(fuse=True): what is fused and what is not, that results stay, and the way back."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import fastconv
import fastconv.nn

sys.path.insert(0, str(Path(__file__).parent))

from fusible_blocks import NORM, Block, draw, settled

ACTS = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardswish": nn.Hardswish,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}


def operators(model, x):
    """The operators that a forward pass calls."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as prof:
        model(x)
    return {e.name for e in prof.events()}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("dims", [1, 2, 3])
@torch.no_grad()
def test_fuses_a_block(act, dims, rng):
    model = settled(Block(act=ACTS[act], dims=dims), rng)
    x = draw((2, 3, *[7] * dims), rng)
    want, state = model(x), copy.deepcopy(model.state_dict())
    report = fastconv.convert_(model, fuse=True)
    (fused,) = report.fused
    assert (fused.name, fused.aliases) == ("depthwise", [])
    assert fused.was == f"DepthwiseConv{dims}d + BatchNorm{dims}d + {ACTS[act].__name__}" or (
        fused.was == f"Conv{dims}d + BatchNorm{dims}d + {ACTS[act].__name__}"
    )
    assert fused.became == f"DepthwiseConv{dims}d(activation={act!r})"
    assert repr(report) == "ConversionReport(converted=1, already=0, left=2, fused=1)"
    assert fused.became in str(report)
    torch.testing.assert_close(model(x), want)
    ran = operators(model, x)
    assert "fastconv::depthwise_conv_act" in ran
    assert not [name for name in ran if "batch_norm" in name or name == f"aten::{act}"]
    assert isinstance(model.norm, NORM[dims]) and isinstance(model.act, ACTS[act])
    for name, t in model.state_dict().items():
        assert torch.equal(t, state[name])
    again = fastconv.convert_(model, fuse=True)
    assert repr(again) == "ConversionReport(converted=0, already=1, left=2)"
    assert fastconv.revert_(model) == ["depthwise"]
    plain = Block(act=ACTS[act], dims=dims)
    for ours, theirs in zip(model.modules(), plain.modules(), strict=True):
        assert type(ours) is type(theirs)
        assert set(vars(ours)) == set(vars(theirs))
    assert torch.equal(model(x), want)


@torch.no_grad()
def test_fuses_sequences_and_what_is_fastconvs_already(rng):
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8, affine=False)),
        nn.Sequential(fastconv.nn.DepthwiseConv2d(8, 8, 3, padding="same", stride=2), nn.SiLU()),
        nn.Conv2d(8, 8, (1, 3), groups=8),
        nn.Identity(),
        nn.BatchNorm2d(8, eps=0.1),
        nn.Hardtanh(0, 6),
    )
    settled(model, rng)
    x = draw((2, 4, 12, 13), rng)
    want = model(x)
    report = fastconv.convert_(model, fuse=True)
    assert [(f.name, f.became) for f in report.fused] == [
        ("0.0", "DepthwiseConv2d, normalised"),
        ("1.0", "DepthwiseConv2d(activation='silu')"),
        ("2", "DepthwiseConv2d(activation='relu6')"),
    ]
    torch.testing.assert_close(model(x), want)
    names = fastconv.revert_(model)
    assert names == ["0.0", "1.0", "2"]
    assert type(model[1][0]) is fastconv.nn.DepthwiseConv2d and type(model[2]) is nn.Conv2d
    assert torch.equal(model(x), want) or torch.allclose(model(x), want)


class NormAct(nn.BatchNorm2d):
    """Both in one module, as some libraries have it."""

    def __init__(self, c):
        super().__init__(c)
        self.drop, self.act = nn.Identity(), nn.SiLU()

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


class Scaled(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) * 1.001


class Mine(nn.Module):
    def forward(self, x):
        return x * x.sigmoid()


class Branch(nn.Module):
    """The convolution's result is used twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return y + self.norm(y)


class Shared(nn.Module):
    """One norm and one activation for two convolutions."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Conv2d(4, 4, 3, groups=4) for _ in range(2))
        self.norm, self.act = nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x):
        return self.act(self.norm(self.b(self.act(self.norm(self.a(x))))))


class Untraceable(nn.Module):
    """Control flow on values; its parts can be traced."""

    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x):
        return self.block(x) if x.sum() > -1e9 else x


def conv_norm(norm=nn.BatchNorm2d, **kwargs):
    return nn.Sequential(nn.Conv2d(4, 4, 3, groups=4, **kwargs), norm(4))


def hooked():
    model = conv_norm()
    model[1].register_forward_hook(lambda module, args, result: result)
    return model


def normed():
    model = conv_norm()
    nn.utils.parametrizations.weight_norm(model[0])
    return model


CASES = {
    "norm and activation in one": (lambda: conv_norm(NormAct), ["silu"]),
    "norm of another kind": (lambda: conv_norm(Scaled), []),
    "own activation": (lambda: nn.Sequential(*conv_norm(), Mine()), ["silu"]),
    "activation of another kind": (lambda: nn.Sequential(*conv_norm(), nn.ELU()), [None]),
    "tanh gelu": (lambda: nn.Sequential(*conv_norm(), nn.GELU("tanh")), [None]),
    "used twice": (Branch, []),
    "shared": (Shared, []),
    "parts of the untraceable": (Untraceable, ["relu6"]),
    "hook": (hooked, []),
    "parametrized": (normed, []),
    "reflecting": (lambda: conv_norm(padding=1, padding_mode="reflect"), []),
    "no statistics": (
        lambda: conv_norm(lambda c: nn.BatchNorm2d(c, track_running_stats=False)),
        [],
    ),
    "pointwise": (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), Block()), ["relu6"]),
}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_fuses_what_it_may(case, rng):
    make, wanted = CASES[case]
    model = make()
    channels = 3 if case == "parts of the untraceable" else 4
    if case == "pointwise":
        model[0], model[1] = nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3)
    settled(model, rng)
    x = draw((2, channels, 9, 8), rng)
    want = model(x)
    report = fastconv.convert_(model, fuse=True)
    assert [f.became.partition("=")[2].strip("')") or None for f in report.fused] == wanted
    torch.testing.assert_close(model(x), want)
    fastconv.revert_(model)
    torch.testing.assert_close(model(x), want)


@torch.no_grad()
def test_filter_keeps_layers(rng):
    model = settled(nn.Sequential(Block(), Block()), rng)
    x = draw((1, 3, 8, 8), rng)
    want = model(x)
    report = fastconv.convert_(model, lambda name, module: name.startswith("1."), fuse=True)
    assert [f.name for f in report.fused] == ["1.depthwise"]
    torch.testing.assert_close(model(x), want)
    report = fastconv.convert_(model, fuse=True)
    assert [f.name for f in report.fused] == ["0.depthwise"]
    torch.testing.assert_close(model(x), want)
