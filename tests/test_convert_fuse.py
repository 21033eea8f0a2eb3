# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""convert_(fuse=True): what is fused and what is not, that results stay, and the way back."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastconv
import fastconv.nn

ACTS = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardswish": nn.Hardswish,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}
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
