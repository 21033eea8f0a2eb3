# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""convert_() and revert_(): what is swapped, what stays, what is said about it."""

import copy
import warnings

import pytest
import torch
from torch import nn

import fastconv
import fastconv.nn
from fastconv.convert import ConversionReport

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
SIZE = {1: (19,), 2: (10, 13), 3: (5, 6, 7)}
every_rank = pytest.mark.parametrize("dims", [1, 2, 3], ids=["1d", "2d", "3d"])


def results(model, x):
    """Output and gradients of input and parameters, for a fixed random cotangent."""
    x = x.clone().requires_grad_()
    y = model(x)
    cotangent = torch.rand(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(5))
    parameters = [p for p in model.parameters() if p.requires_grad]
    return y, *torch.autograd.grad(y, [x, *parameters], cotangent)


def assert_same(model, native, x):
    """In float64 there is nothing between the two but the order of sums."""
    for ours, theirs in zip(results(model, x), results(native, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def state(model):
    """Every object that a model is made of, and the classes."""
    modules = [m for _, m in model.named_modules(remove_duplicate=False)]
    owned = [{k: id(v) for k, v in vars(m).items()} for m in modules]
    tables = [
        {
            k: id(v)
            for name in ("_parameters", "_buffers", "_modules")
            for k, v in vars(m)[name].items()
        }
        for m in modules
    ]
    return [id(m) for m in modules], owned, tables, list(model.state_dict())


def classes(model):
    return [type(m) for m in model.modules()]


CASES = {
    "defaults": {"kernel_size": 3},
    "strided": {"kernel_size": 3, "stride": 2, "padding": 1},
    "dilated": {"kernel_size": 2, "dilation": 3, "padding": 2, "bias": False},
    "same": {"kernel_size": 4, "padding": "same", "dilation": 2},
    "reflect": {"kernel_size": 5, "padding": 2, "padding_mode": "reflect"},
}


@every_rank
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_convolutions(dims, case, multiplier):
    model = nn.Sequential(
        nn.Conv1d(6, 6, 1) if dims == 1 else nn.Identity(),
        CONVS[dims](6, 6 * multiplier, groups=6, **CASES[case]),
    ).double()
    native, before = copy.deepcopy(model), state(model)
    report = fastconv.convert_(model)
    assert isinstance(model[1], getattr(fastconv.nn, f"DepthwiseConv{dims}d"))
    assert [(e.name, e.was, e.became) for e in report.converted] == [
        ("1", f"Conv{dims}d", f"DepthwiseConv{dims}d")
    ]
    assert state(model) == before
    assert_same(model, native, torch.randn(2, 6, *SIZE[dims], dtype=torch.float64))


@every_rank
def test_transposed_convolutions(dims):
    """Swapped once the package has the layer, left with a reason before."""
    name = f"DepthwiseConvTranspose{dims}d"
    layer = TRANSPOSED[dims](4, 8, 3, stride=2, padding=1, output_padding=1, groups=4).double()
    model = nn.Sequential(layer)
    native = copy.deepcopy(model)
    if not hasattr(fastconv.nn, name):
        with pytest.warns(UserWarning, match=f"fastconv.nn has no {name}"):
            report = fastconv.convert_(model)
        assert report.left[0].reason == f"fastconv.nn has no {name}"
        pytest.skip(f"fastconv.nn has no {name} yet")
    report = fastconv.convert_(model)
    assert [e.became for e in report.converted] == [name]
    assert isinstance(layer, getattr(fastconv.nn, name))
    x = torch.randn(2, 4, *SIZE[dims], dtype=torch.float64)
    assert_same(model, native, x)
    size = [2 * s for s in SIZE[dims]]
    torch.testing.assert_close(layer(x, output_size=size), native[0](x, output_size=size))
    fastconv.revert_(model)
    assert classes(model) == classes(native)


def test_transposed_convolution_with_its_own_forward():
    class Theirs(nn.ConvTranspose2d):
        def forward(self, input):
            return super().forward(input).relu()

    model = nn.Sequential(*[kind(4, 4, 3, groups=4) for kind in (nn.ConvTranspose2d, Theirs)])
    x = torch.randn(1, 4, 5, 5)
    want = model[0](x), model(x)
    report = fastconv.convert_(model)
    assert isinstance(model[0], fastconv.nn.DepthwiseConvTranspose2d)
    assert not isinstance(model[1], fastconv.nn.DepthwiseConvTranspose2d)
    torch.testing.assert_close((model[0](x), model(x)), want)
    assert [e.reason for e in report.left] == ["has its own forward()"]


SHUFFLES = {"PixelShuffle": 2, "PixelUnshuffle": 2, "ChannelShuffle": 3}


@pytest.mark.parametrize("name", SHUFFLES)
def test_shuffles(name):
    model = nn.Sequential(getattr(nn, name)(SHUFFLES[name]))
    native = copy.deepcopy(model)
    report = fastconv.convert_(model)
    assert isinstance(model[0], getattr(fastconv.nn, name)) and len(report.converted) == 1
    assert_same(model, native, torch.randn(2, 12, 4, 6, dtype=torch.float64))


LEFT = {
    "dense": (nn.Conv2d(4, 8, 3), "not depthwise"),
    "grouped": (nn.Conv2d(8, 8, 3, groups=4), "not depthwise"),
    "one channel": (nn.Conv2d(1, 8, 3), "one input channel"),
    "complex": (nn.Conv2d(4, 4, 3, groups=4, dtype=torch.complex64), "complex64"),
    "lazy": (nn.LazyConv2d(8, 3, groups=4), "lazy"),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_is_left_alone_is_explained(case):
    layer, reason = LEFT[case]
    model = nn.Sequential(layer)
    before, kinds = state(model) if case != "lazy" else None, classes(model)
    with pytest.warns(UserWarning, match=f"no layer to swap in Sequential.*{reason}"):
        report = fastconv.convert_(model)
    assert [e.name for e in report.left] == ["0"] and reason in report.left[0].reason
    assert repr(report) == "ConversionReport(converted=0, already=0, left=1)"
    assert classes(model) == kinds and (before is None or state(model) == before)


def test_one_channel_with_one_filter_is_depthwise():
    layer = nn.Conv1d(1, 1, 31, padding=15).double()
    native = copy.deepcopy(layer)
    assert fastconv.convert_(layer).converted
    assert_same(layer, native, torch.randn(2, 1, 100, dtype=torch.float64))


def test_a_lazy_layer_after_its_first_batch():
    layer = nn.LazyConv2d(8, 3, groups=4)
    layer(torch.randn(1, 4, 5, 5))
    assert fastconv.convert_(layer).converted


def test_the_root_is_the_layer():
    layer = nn.Conv2d(4, 4, 3, groups=4)
    weight = layer.weight
    report = fastconv.convert_(layer)
    assert report.converted[0].name == "" and "(the model)" in str(report)
    assert isinstance(layer, fastconv.nn.DepthwiseConv2d) and layer.weight is weight
    assert fastconv.revert_(layer) == [""] and type(layer) is nn.Conv2d


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.shared = self.first
        self.tied = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.tied.weight = self.first.weight
        self.dense = nn.Conv2d(8, 8, 1)
        self.up = nn.PixelShuffle(2)

    def forward(self, x):
        x = self.tied(self.norm(self.first(x)).relu()) + self.shared(x)
        return self.up(self.dense(x))


def test_shared_modules_and_tied_weights():
    model = Block().double()
    native, before = copy.deepcopy(model), state(model)
    report = fastconv.convert_(model)
    assert state(model) == before
    assert [(e.name, e.aliases) for e in report.converted] == [
        ("first", ["shared"]),
        ("tied", []),
        ("up", []),
    ]
    assert model.first is model.shared and model.tied.weight is model.first.weight
    assert_same(model, native, torch.randn(2, 8, 6, 7, dtype=torch.float64))


def test_idempotent_and_reversible():
    model = Block()
    kinds, before = classes(model), state(model)
    assert len(fastconv.convert_(model).converted) == 3
    converted = classes(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = fastconv.convert_(model)
    assert (len(again.converted), len(again.already)) == (0, 3)
    assert classes(model) == converted
    assert fastconv.revert_(model) == ["first", "tied", "up"]
    assert classes(model) == kinds and state(model) == before
    assert fastconv.revert_(model) == []


def test_layers_built_as_fastconvs_are_counted_and_stay():
    model = nn.Sequential(fastconv.nn.DepthwiseConv2d(4, 4, 3), nn.PixelUnshuffle(2))
    report = fastconv.convert_(model)
    assert [e.became for e in report.already] == ["DepthwiseConv2d"]
    assert fastconv.revert_(model) == ["1"]
    assert classes(model)[1:] == [fastconv.nn.DepthwiseConv2d, nn.PixelUnshuffle]


def test_filter():
    model, asked = Block(), []

    def not_first(name, module):
        asked.append((name, module))
        return name != "first"

    report = fastconv.convert_(model, not_first)
    assert asked == [("first", model.first), ("tied", model.tied), ("up", model.up)]
    assert [e.name for e in report.converted] == ["tied", "up"]
    assert type(model.first) is nn.Conv2d
    assert {e.name: e.reason for e in report.left}["first"] == "filter_fn said no"
    assert [e.name for e in fastconv.convert_(model).converted] == ["first"]


def test_a_filter_that_raises_changes_nothing():
    model = Block()
    kinds = classes(model)

    def fails_late(name, module):
        if name == "up":
            raise KeyError(name)
        return True

    with pytest.raises(KeyError):
        fastconv.convert_(model, fails_late)
    assert classes(model) == kinds


def test_wrong_arguments():
    for call in (fastconv.convert_, fastconv.revert_):
        with pytest.raises(TypeError, match="'model' must be Module, not int"):
            call(3)
    with pytest.raises(TypeError, match="'filter_fn' must be callable, not str"):
        fastconv.convert_(nn.ReLU(), "features")


def test_nothing_to_swap_warns():
    with pytest.warns(UserWarning, match=r"no layer to swap in Linear\.$") as caught:
        report = fastconv.convert_(nn.Linear(2, 2))
    assert caught[0].filename == __file__
    assert str(report) == repr(report) == "ConversionReport(converted=0, already=0, left=0)"
    with pytest.warns(UserWarning, match="filter_fn said no"):
        fastconv.convert_(Block(), lambda name, module: False)


def test_report_as_a_table():
    model = nn.Sequential(*[nn.Conv2d(2, 2, 1) for _ in range(5)], Block())
    report = fastconv.convert_(model)
    assert isinstance(report, ConversionReport)
    assert str(report).splitlines() == [
        "ConversionReport(converted=3, already=0, left=6)",
        "  layer               was           is fastconv's",
        "  5.first = 5.shared  Conv2d        DepthwiseConv2d",
        "  5.tied              Conv2d        DepthwiseConv2d",
        "  5.up                PixelShuffle  PixelShuffle",
        "  left: not depthwise (groups != in_channels): 0, 1, 2 and 3 more",
    ]
