# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""After convert_(fuse=True): training, changed weights, copies, export; whole networks."""

import copy
import pickle
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastconv
import fastconv.nn

sys.path.insert(0, str(Path(__file__).parent))

from fusible_blocks import Block, draw, settled


def test_refuses_training():
    model = nn.Sequential(Block()).eval()
    model[0].norm.train()
    with pytest.raises(ValueError, match=r"its module '0.norm' is in training mode; call model.ev"):
        fastconv.convert_(model, fuse=True)
    with pytest.raises(ValueError, match=r"but it is in training mode"):
        fastconv.convert_(Block(), fuse=True)
    assert type(model[0].depthwise) is nn.Conv2d


def test_training_does_each_modules_work(rng):
    """A fused model that is trained behaves, and learns, as if it were not fused."""
    plain = settled(Block(), rng)
    model = copy.deepcopy(plain)
    fastconv.convert_(model, fuse=True)
    x = draw((4, 3, 9, 9), rng)
    for m in (plain, model):
        m.train()
        optimizer = torch.optim.SGD(m.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            m(x).square().mean().backward()
            optimizer.step()
        m.eval()
    for a, b in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(x))


def test_follows_changed_weights(rng):
    """Weights and statistics that change are folded anew, and gradients go through."""
    plain = settled(Block(act=nn.SiLU), rng)
    model = copy.deepcopy(plain)
    fastconv.convert_(model, fuse=True)
    x = draw((2, 3, 8, 8), rng)

    def same():
        with torch.no_grad():
            torch.testing.assert_close(model(x), plain(x))

    same()
    other = settled(Block(act=nn.SiLU), rng).state_dict()
    for m in (plain, model):
        m.load_state_dict(other)
    same()
    for m in (plain, model):
        m.norm.running_var.mul_(2)
    same()
    for m in (plain, model):
        m.depthwise.weight = nn.Parameter(torch.ones_like(m.depthwise.weight))
    same()
    for m in (plain, model):
        m.float().double()
    same()
    got, want = (torch.autograd.grad(m(x).sum(), list(m.parameters())) for m in (model, plain))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)
    values = {name: p.detach() for name, p in plain.named_parameters()}
    jac = [
        torch.func.jacrev(lambda v, m=m: torch.func.functional_call(m, v, (x,)).mean())(values)
        for m in (model, plain)
    ]
    for name in values:
        torch.testing.assert_close(jac[0][name], jac[1][name])


@torch.no_grad()
def test_copies_compiles_and_exports(rng):
    model = settled(nn.Sequential(Block(act=nn.SiLU)), rng)
    x = draw((2, 3, 8, 8), rng)
    want = model(x)
    fastconv.convert_(model, fuse=True)
    model(x)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin(x), want)
        twin[0].norm.running_mean += 1
        assert not torch.allclose(twin(x), want)
        assert fastconv.revert_(twin) == ["0.depthwise"]
        assert type(twin[0].norm) is nn.BatchNorm2d
    torch.testing.assert_close(model(x), want)
    torch.testing.assert_close(torch.compile(model, backend="aot_eager", fullgraph=True)(x), want)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), want)
    torch.testing.assert_close(torch.jit.trace(model, x)(x), want)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), want)
    assert F.mse_loss(model.float()(x.float()), want.float()) < 1e-8


NETWORKS = [
    ("torchvision", "mobilenet_v2"),
    ("torchvision", "mobilenet_v3_small"),
    ("torchvision", "efficientnet_b0"),
    ("torchvision", "mnasnet0_5"),
    ("torchvision", "shufflenet_v2_x0_5"),
    ("torchvision", "convnext_tiny"),
    ("timm", "mobilenetv3_small_050"),
    ("timm", "efficientnet_b0"),
    ("timm", "tf_efficientnet_lite0"),
    ("timm", "mobilenetv4_conv_small"),
    ("timm", "fastvit_t8"),
    ("timm", "repghostnet_050"),
]


@pytest.mark.parametrize(("package", "name"), NETWORKS, ids=lambda v: v)
@torch.no_grad()
def test_networks(package, name, library, rng):
    """Real models in float64: the same results, and nothing left after depthwise convolutions."""
    made = library(package)
    if package == "torchvision":
        model = library("torchvision.models").get_model(name, weights=None)
    else:
        model = made.create_model(name, pretrained=False)
    model = model.double().eval()
    for m in model.modules():
        if getattr(m, "running_mean", None) is not None:
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 1.5)
    x = draw((1, 3, 96, 96), rng)
    want = model(x)
    report = fastconv.convert_(model, fuse=True)
    if name != "convnext_tiny":  # whose convolutions are followed by a layer norm
        assert len(report.fused) >= 0.5 * len(report.converted) > 0
    got = model(x)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10 * float(want.abs().max()))
    fastconv.revert_(model)
    assert torch.equal(model(x), want) or torch.allclose(model(x), want, rtol=1e-12, atol=1e-12)
