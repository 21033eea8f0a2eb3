# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""convert_() over subclasses and other libraries' modules: a forward of its own is never lost."""

import copy
import itertools
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastconv
import fastconv.nn

SHAPES = [(2, 6, h, w) for h, w in itertools.product((7, 8, 9, 12), (6, 11, 13))]


def same_pads(size, kernel, stride, dilation):
    pads = []
    for n, k, s, d in reversed(list(zip(size, kernel, stride, dilation, strict=True))):
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        pads += [total // 2, total - total // 2]
    return pads


def padded_conv(x, weight, bias, stride, dilation, groups):
    pads = same_pads(x.shape[2:], weight.shape[2:], stride, dilation)
    return F.conv2d(F.pad(x, pads), weight, bias, stride, 0, dilation, groups)


class Same(nn.Conv2d):
    """TensorFlow's padding in a function of its own, called with torch's arguments."""

    def forward(self, x):
        return padded_conv(x, self.weight, self.bias, self.stride, self.dilation, self.groups)


class SameIfNeeded(nn.Conv2d):
    def __init__(self, channels, kernel_size, **kwargs):
        super().__init__(channels, channels, kernel_size, groups=channels, **kwargs)

    def forward(self, x):
        pads = same_pads(x.shape[2:], self.kernel_size, self.stride, self.dilation)
        if any(pads):
            x = F.pad(x, pads)
        return super().forward(x)


class StaticSame(nn.Conv2d):
    """Padding computed for one image size, by a child."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.static_padding = nn.ZeroPad2d((0, 1, 1, 2))

    def forward(self, x):
        x = self.static_padding(x)
        return F.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class Causal(nn.Conv1d):
    def forward(self, x):
        return super().forward(F.pad(x, (self.dilation[0] * (self.kernel_size[0] - 1), 0)))


class Plain(nn.Conv2d):
    """Adds only what does not compute."""

    tag = "plain"

    def extra_repr(self):
        return "tagged, " + super().extra_repr()


PURE = {
    "same": (Same(6, 12, 3, 2, groups=6), "DepthwiseConv2d(padding='same')"),
    "same dilated": (
        Same(6, 6, (5, 3), (3, 1), dilation=(1, 2), groups=6, bias=False),
        "DepthwiseConv2d(padding='same')",
    ),
    "same even": (Same(6, 6, 4, 1, groups=6), "DepthwiseConv2d(padding=((1, 2), (1, 2)))"),
    "if needed": (SameIfNeeded(6, 3, stride=2), "DepthwiseConv2d(padding='same')"),
    "static": (
        StaticSame(6, 6, 3, 2, padding=1, groups=6),
        "DepthwiseConv2d(padding=((2, 3), (1, 2)))",
    ),
    "plain": (Plain(6, 6, 3, padding=1, groups=6), "DepthwiseConv2d"),
}


def run(model, x):
    x = x.clone().requires_grad_()
    y = model(x)
    cotangent = torch.rand(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(5))
    return y, *torch.autograd.grad(y, [x, *model.parameters()], cotangent)


def assert_same(model, native, shapes):
    for shape in shapes:
        x = torch.randn(shape, dtype=torch.float64)
        for ours, theirs in zip(run(model, x), run(native, x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def operators_of(model, x):
    with torch.profiler.profile() as prof:
        model(x)
    return {event.key for event in prof.key_averages()}


@pytest.mark.parametrize("case", PURE)
def test_forwards_that_only_pad_are_fused(case):
    layer, became = PURE[case]
    model, native = copy.deepcopy(layer).double(), copy.deepcopy(layer).double()
    attributes = dict(vars(model))
    report = fastconv.convert_(model)
    assert [e.became for e in report.converted] == [became]
    assert vars(model).keys() == attributes.keys()
    assert all(vars(model)[k] is v for k, v in attributes.items())
    assert isinstance(model, (type(layer), fastconv.nn.DepthwiseConv2d))
    assert model.extra_repr() == layer.extra_repr()
    assert_same(model, native, SHAPES)
    ran = operators_of(model, torch.randn(SHAPES[0], dtype=torch.float64))
    assert "fastconv::depthwise_conv" in ran and not ran & {
        "aten::constant_pad_nd",
        "aten::convolution",
    }
    twin = pickle.loads(pickle.dumps(model))
    assert type(twin) is type(model)
    assert_same(twin, native, SHAPES[:2])
    fastconv.revert_(twin)
    assert type(twin) is type(layer)
    assert_same(twin, native, SHAPES[:1])


def test_causal_sequence_layers():
    model = Causal(6, 6, 4, dilation=2, groups=6).double()
    native = copy.deepcopy(model)
    report = fastconv.convert_(model)
    assert report.converted[0].became == "DepthwiseConv1d(padding=((6, 0),))"
    assert_same(model, native, [(2, 6, 5), (1, 6, 40)])


class Standardized(nn.Conv2d):
    """Changes the weight, and lets torch's method convolve."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, self.gain * weight, self.bias)


class Chomped(nn.Conv2d):
    def forward(self, x):
        return super().forward(x)[..., :-1, :-1].relu()


class Counting(nn.Conv2d):
    """Only pads, but keeps something: to leave its forward out would be noticed."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.calls, self.seen = 0, []

    def forward(self, x):
        self.calls += 1
        self.seen.append(tuple(x.shape))
        return super().forward(F.pad(x, (1, 1)))


class OnlyInTraining(nn.Conv2d):
    def forward(self, x):
        y = super().forward(x)
        return F.dropout(y, 0.5) if self.training else y


THROUGH = [Standardized, Chomped, Counting, OnlyInTraining]


@pytest.mark.parametrize("kind", THROUGH)
def test_forwards_that_use_conv_forward_stay_and_get_ours(kind):
    model = kind(6, 6, 3, padding=1, groups=6, padding_mode="circular").double().eval()
    native = copy.deepcopy(model)
    report = fastconv.convert_(model)
    assert [e.became for e in report.converted] == ["DepthwiseConv2d"]
    assert type(model).forward is kind.forward
    assert getattr(model, "calls", 0) == 0 and getattr(model, "seen", []) == []
    assert_same(model, native, SHAPES[:4])
    assert getattr(model, "calls", 4) == len(getattr(model, "seen", SHAPES[:4])) == 4
    ran = operators_of(model, torch.randn(SHAPES[0], dtype=torch.float64))
    assert "fastconv::depthwise_conv" in ran and "aten::convolution" not in ran


class Slotted(nn.Conv2d):
    __slots__ = ("note",)


def test_slots_are_kept():
    layer = Slotted(6, 6, 3, groups=6)
    layer.note = "kept"
    fastconv.convert_(layer)
    assert layer.note == "kept" and isinstance(layer, fastconv.nn.DepthwiseConv2d)


def test_a_hook_on_a_padding_child_still_runs():
    """The child would not be called any more if the padding were fused."""
    layer, seen = StaticSame(6, 6, 3, groups=6), []
    layer.static_padding.register_forward_hook(lambda *args: seen.append(1))
    with pytest.warns(UserWarning, match="more than pad"):
        fastconv.convert_(layer)
    layer(torch.randn(1, 6, 5, 5))
    assert seen == [1]


def test_other_calls_of_a_fused_layer_reach_the_original():
    class Optional(nn.Conv2d):
        def forward(self, image, scale=1.0):
            y = F.conv2d(F.pad(image, (1, 1)), self.weight, self.bias, groups=self.groups)
            return y if scale == 1.0 else y * scale

    layer = Optional(6, 6, 3, groups=6)
    x = torch.randn(1, 6, 5, 5)
    want = layer(x)
    assert "padding=((0, 0), (1, 1))" in fastconv.convert_(layer).converted[0].became
    torch.testing.assert_close(layer(image=x), want)
    torch.testing.assert_close(layer(x, scale=2.0), 2 * want)


def test_a_forward_that_keeps_something_stays():
    """It only pads and convolves with zeros, but its counter would stop."""
    layer = Counting(6, 6, 3, groups=6)
    assert fastconv.convert_(layer).converted[0].became == "DepthwiseConv2d"
    layer(torch.randn(1, 6, 5, 5))
    assert layer.calls == 1 and layer.seen == [(1, 6, 5, 5)]


def test_constructors_and_classes_on_top():
    layer = SameIfNeeded(6, 3, stride=2)
    fastconv.convert_(layer)
    assert type(layer)(4, 5).kernel_size == (5, 5)
    layer.__class__ = type("OnTop", (type(layer),), {"more": 1})
    assert copy.deepcopy(layer).more == 1
    assert fastconv.revert_(layer) == [""]
    assert layer.more == 1 and not isinstance(layer, fastconv.nn.DepthwiseConv2d)
