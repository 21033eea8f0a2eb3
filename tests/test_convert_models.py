# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Whole models, native and converted, in float64: blocks written out here, and real libraries'."""

import copy
import importlib
import os
import warnings
from functools import partial
from unittest import mock

import pytest
import torch
from torch import nn

import fastconv
import fastconv.nn


def results(model, x):
    x = x.clone().requires_grad_()
    y = model(x)
    y = y[-1] if isinstance(y, (tuple, list)) else y
    cotangent = torch.rand(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(5))
    parameters = {k: p for k, p in model.named_parameters() if p.requires_grad}
    leaves = [x, *parameters.values()]
    gradients = torch.autograd.grad(y, leaves, cotangent, allow_unused=True)
    return dict(zip(("output", "input", *parameters), (y.detach(), *gradients), strict=True))


def depthwise_layers(model):
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return [m for m in model.modules() if isinstance(m, kinds) and m.groups == m.in_channels > 1]


def check(model, shape, title):
    """Converts a model; every output and every gradient stays the same up to rounding."""
    native = model.double().eval()
    ours = copy.deepcopy(native)
    expected = len(depthwise_layers(native))
    report = fastconv.convert_(ours)
    names = tuple(getattr(fastconv.nn, f"DepthwiseConv{n}d") for n in (1, 2, 3))
    assert sum(isinstance(m, names) for m in ours.modules()) >= expected, str(report)
    x = torch.randn(shape, dtype=torch.float64)
    wanted = results(native, x)
    sizes = {k: v.abs().max().item() for k, v in wanted.items() if v is not None}
    largest = max(size for name, size in sizes.items() if name != "output")
    swapped = {name for layer in report.converted for name in (layer.name, *layer.aliases)}
    worst = {"output": 0.0, "input": 0.0, "weights": 0.0}
    for name, value in results(ours, x).items():
        if wanted[name] is None:
            assert value is None, name
            continue
        # Deep networks of random weights spread rounding errors over many magnitudes.
        bound = 1e-8 * max(sizes[name], 1e-30)
        if name.rpartition(".")[0] not in swapped and sizes[name] < 1e-12 * largest:
            # Zero but for rounding: attention does not depend on the bias of its keys.
            bound = 1e-12 * largest
        error = (value - wanted[name]).abs().max().item()
        assert error <= bound, name
        kind = name if name in worst else "weights"
        worst[kind] = max(worst[kind], error / max(sizes[name], 1e-12 * largest))
    fastconv.revert_(ours)
    assert [type(m) for m in ours.modules()] == [type(m) for m in native.modules()]
    if "FASTCONV_MODELS_TABLE" in os.environ:
        with open(os.environ["FASTCONV_MODELS_TABLE"], "a") as table:
            row = (title, len(report.converted), len(report.left), *worst.values())
            table.write("| {} | {} | {} | {:.0e} | {:.0e} | {:.0e} |\n".format(*row))
    return report


class InvertedResidual(nn.Module):
    """MobileNetV2's block, with MobileNetV3's gate."""

    def __init__(self, c, out, stride, expand, kernel=3):
        super().__init__()
        hidden = c * expand
        self.use_shortcut = stride == 1 and c == out
        self.conv = nn.Sequential(
            nn.Sequential(nn.Conv2d(c, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()),
            nn.Sequential(
                nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False),
                nn.BatchNorm2d(hidden),
                nn.Hardswish(),
            ),
            nn.Conv2d(hidden, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(out, out, 1), nn.Sigmoid())

    def forward(self, x):
        y = self.conv(x)
        y = y * self.gate(y)
        return x + y if self.use_shortcut else y


class ConvNeXtBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.dwconv = nn.Conv2d(c, c, 7, padding=3, groups=c)
        self.mlp = nn.Sequential(
            nn.LayerNorm(c), nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c)
        )
        self.scale = nn.Parameter(torch.ones(c))

    def forward(self, x):
        y = self.dwconv(x).permute(0, 2, 3, 1)
        return x + (self.scale * self.mlp(y)).permute(0, 3, 1, 2)


class SequenceMixer(nn.Module):
    """A short causal convolution in a gated block, cut off at the end as Mamba's is."""

    def __init__(self, c):
        super().__init__()
        self.into, self.out = nn.Linear(c, 2 * c), nn.Linear(c, c)
        self.conv1d = nn.Conv1d(c, c, 4, padding=3, groups=c)

    def forward(self, x):
        y, gate = self.into(x).chunk(2, -1)
        y = self.conv1d(y.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)
        return x + self.out(nn.functional.silu(y) * gate.sigmoid())


def mobilenet():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        InvertedResidual(16, 16, 1, 1),
        InvertedResidual(16, 24, 2, 4),
        InvertedResidual(24, 24, 1, 3, 5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    )


def super_resolution():
    return nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), ConvNeXtBlock(8), nn.PixelShuffle(2))


def video():
    return nn.Sequential(
        nn.Conv3d(3, 8, (3, 1, 1), padding=(1, 0, 0)),
        nn.Conv3d(8, 16, 3, (1, 2, 2), 1, groups=8),
        nn.BatchNorm3d(16),
        nn.SiLU(),
    )


BLOCKS = {
    "mobilenet": (mobilenet, (2, 3, 33, 40), 3),
    "super_resolution": (super_resolution, (1, 3, 12, 9), 2),
    "video": (video, (1, 3, 5, 9, 10), 1),
    "sequence": (lambda: nn.Sequential(SequenceMixer(8), SequenceMixer(8)), (2, 21, 8), 2),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name):
    build, shape, count = BLOCKS[name]
    assert len(check(build(), shape, name).converted) == count


SMALL = (1, 3, 64, 64)
TORCHVISION = {  # the input, and what the constructor must know of it
    **dict.fromkeys(
        [
            "convnext_tiny",
            "efficientnet_b0",
            "efficientnet_v2_s",
            "mnasnet0_5",
            "mnasnet1_0",
            "mobilenet_v2",
            "mobilenet_v3_large",
            "mobilenet_v3_small",
            "shufflenet_v2_x0_5",
            "shufflenet_v2_x1_0",
        ],
        (SMALL, {}),
    ),
    "maxvit_t": ((1, 3, 224, 224), {}),
    "mvit_v2_s": ((1, 3, 4, 64, 64), {"spatial_size": (64, 64), "temporal_size": 4}),
}
TIMM = {
    **dict.fromkeys(
        [
            "convmixer_768_32",
            "convnext_atto",
            "convnextv2_atto",
            "edgenext_xx_small",
            "efficientnet_b0",
            "efficientnet_lite0",
            "efficientvit_b0",
            "ese_vovnet19b_dw",
            "fastvit_t8",
            "fbnetc_100",
            "ghostnet_100",
            "hardcorenas_a",
            "hgnetv2_b0",
            "inception_next_tiny",
            "lcnet_050",
            "mixnet_s",
            "mnasnet_100",
            "mobilenetv2_100",
            "mobilenetv3_large_100",
            "mobilenetv4_conv_small",
            "mobileone_s0",
            "mobilevit_xxs",
            "pvt_v2_b0",
            "repvit_m0_9",
            "rexnet_100",
            "semnasnet_075",
            "spnasnet_100",
            "starnet_s1",
            "tf_efficientnet_b0",
            "tf_efficientnet_lite0",
            "tf_mixnet_s",
            "tf_mobilenetv3_small_100",
            "tinynet_e",
            "tresnet_m",
            "xception41",
        ],
        (SMALL, {}),
    ),
    "efficientformerv2_s0": (SMALL, {"img_size": 64}),
    "tiny_vit_5m_224": (SMALL, {}),
    "xcit_nano_12_p8_224": (SMALL, {"img_size": 64}),
}


def quiet(build, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build(*args, **kwargs)


def small_mvit(build, sizes, **arguments):
    """The public constructors insist on 16 images of 224 x 224."""
    return build(**{**arguments, **sizes})


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name, library):
    models = library("torchvision").models
    shape, arguments = TORCHVISION[name]
    mvit = models.video.mvit
    with mock.patch.object(mvit, "_mvit", partial(small_mvit, mvit._mvit, arguments)):
        model = quiet(models.get_model, name, weights=None)
    check(model, shape, f"torchvision {name}")


@pytest.mark.parametrize("name", TIMM)
def test_timm(name, library):
    timm = library("timm")
    if name not in timm.list_models():
        pytest.skip(f"this timm has no {name}")
    shape, arguments = TIMM[name]
    model = quiet(timm.create_model, name, pretrained=False, **arguments)
    report = check(model, shape, f"timm {name}")
    if name.startswith("tf_"):
        assert any("padding='same'" in layer.became for layer in report.converted), str(report)
    if name.startswith("tresnet"):
        assert any("space_to_depth" in layer.became for layer in report.converted), str(report)


def test_a_video_network_without_depthwise_layers(library):
    models = library("torchvision").models
    with pytest.warns(UserWarning, match="no layer to swap in VideoResNet"):
        fastconv.convert_(quiet(models.get_model, "r3d_18", weights=None))


def test_the_package_does_not_import_the_libraries():
    """They are recognised by structure."""
    for module in ("convert", "_probe", "_report"):
        source = importlib.import_module(f"fastconv.{module}").__file__
        with open(source) as file:
            text = file.read()
        assert "timm" not in text and "torchvision" not in text
