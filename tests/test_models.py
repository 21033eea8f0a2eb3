# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""fastconv.models against the same blocks of torch.nn, with one state_dict."""

import doctest
import inspect
import pathlib
import pickle
import sys

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import fastconv
from fastconv import models
from fastconv.testing import LAYOUTS

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import plain_blocks

# Arguments, and channels of the input.
BLOCKS = {
    "convnext": ("ConvNeXtBlock", (24,), {"layer_scale_init_value": 0.5}),
    "convnext, no scale": ("ConvNeXtBlock", (8, 5, 2, None), {}),
    "mobilenet v2": ("InvertedResidual", (8, 8, 1, 6), {}),
    "mobilenet v2, stride 2": ("InvertedResidual", (8, 12, 2, 3), {}),
    "mobilenet v2, plain": ("InvertedResidual", (8, 4, 1, 1), {}),
    "efficientnet": ("InvertedResidual", (8, 8, 1, 4, 5, 2), {}),
    "resnext": ("ResNeXtBlock", (32, 8), {"groups": 4, "base_width": 16}),
    "resnext, stride 2": ("ResNeXtBlock", (16, 8, 2, 4, 32), {}),
    "resnext, depthwise": ("ResNeXtBlock", (16, 4, 2, 16, 16), {}),
    "shufflenet": ("ShuffleBlock", (24, 24), {}),
    "shufflenet, stride 2": ("ShuffleBlock", (24, 48, 2, 2), {}),
    "fire": ("SqueezeExcite", (12, 4, 8), {}),
}


def pair(name):
    """Our block and PyTorch's, with the same parameters."""
    block, args, kwargs = BLOCKS[name]
    ours, plain = (getattr(m, block)(*args, **kwargs) for m in (models, plain_blocks))
    assert [*ours.state_dict()] == [*plain.state_dict()]
    ours.load_state_dict(plain.state_dict())
    return ours.double(), plain.double()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", BLOCKS)
def test_equals_its_twin(name, layout, training, device):
    ours, plain = (m.to(device).train(training) for m in pair(name))
    x = torch.randn(2, BLOCKS[name][1][0], 9, 10, dtype=torch.float64, device=device)
    results = []
    for module in (ours, plain):
        leaf = LAYOUTS[layout](x, 1).requires_grad_()
        y = module(leaf)
        y.sin().sum().backward()
        buffers = [b.double() for b in module.buffers()]
        results.append([y, leaf.grad, *(p.grad for p in module.parameters()), *buffers])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    if layout == "channels_last":
        assert results[0][0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", BLOCKS)
def test_gradcheck(name):
    ours, _ = pair(name)
    ours.eval()  # the statistics of a batch of this size are all but constant
    x = torch.randn(1, BLOCKS[name][1][0], 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ours, x, fast_mode=True)


def copies(module, x):
    """The names of what moves an activation from one place to another, in both directions."""
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    grad = torch.randn_like(module(leaf))
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as prof:
        module(leaf).backward(grad)
    size = x[0].numel()
    return [
        e.name
        for e in prof.events()
        if e.name in ("aten::copy_", "aten::clone", "aten::contiguous")
        and e.input_shapes
        and torch.Size(e.input_shapes[0] or [0]).numel() >= size
        # A matrix product starts from its bias.
        and not (e.cpu_parent and e.cpu_parent.name == "aten::addmm")
    ]


def test_convnext_copies_nothing_in_channels_last():
    """Where the input is contiguous, it does: the test would see a copy."""
    x = torch.randn(2, 32, 9, 9)
    block = models.ConvNeXtBlock(32)
    last = x.contiguous(memory_format=torch.channels_last)
    assert copies(block, x)
    assert not copies(block, last)
    assert block(last).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", BLOCKS)
def test_channels_last_stays(name):
    ours, _ = pair(name)
    seen = []

    def look(module, args, y):
        for t in (args[0], y):
            # (N, H, W, C) of a ConvNeXt's pointwise part is contiguous.
            fine = t.is_contiguous(memory_format=torch.channels_last) or t.stride(-1) == 1
            seen.append(fine and (t.stride(1) == 1 or isinstance(module, TOKENS)))

    for module in ours.modules():
        if not [*module.children()]:
            module.register_forward_hook(look)
    x = torch.randn(2, BLOCKS[name][1][0], 9, 10, dtype=torch.float64)
    ours(x.to(memory_format=torch.channels_last))
    assert len(seen) >= 10 and all(seen)


TOKENS = (nn.LayerNorm, nn.Linear, nn.GELU, nn.Identity)


@pytest.mark.parametrize("name", BLOCKS)
def test_traces_compiles_and_pickles(name):
    ours, _ = pair(name)
    ours.eval()
    x = torch.randn(2, BLOCKS[name][1][0], 9, 10, dtype=torch.float64)
    want = ours(x)
    assert torch.equal(torch.fx.symbolic_trace(ours)(x), want)
    assert torch.equal(pickle.loads(pickle.dumps(ours))(x), want)
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), want)


def test_stochastic_depth():
    x = torch.ones(4000, 2, 1, 1)
    layer = models.StochasticDepth(0.25)
    y = layer(x)
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert torch.equal(y[:, 0], y[:, 1]) and 0.9 < y.mean() < 1.1
    assert torch.equal(layer.eval()(x), x) and "p=0.25" in repr(layer)
    assert not models.StochasticDepth(1)(x).any()
    assert torch.equal(models.StochasticDepth(0)(x), x)
    with pytest.raises(ValueError, match="between 0 and 1"):
        models.StochasticDepth(1.5)
    block = models.ConvNeXtBlock(4, layer_scale_init_value=1.0, drop_path=1.0)
    images = torch.randn(3, 4, 7, 7)
    assert torch.equal(block(images), images)
    assert not torch.equal(block.eval()(images), images)


def test_parameter_counts():
    def count(block):
        return sum(p.numel() for p in block.parameters())

    assert count(models.SqueezeExcite(256, 48, 192)) == 105744
    # The first block of ConvNeXt-T: 49 + 1 + 2 numbers a channel, two matrices, and the scales.
    assert count(models.ConvNeXtBlock(96)) == 96 * 52 + (96 + 1) * 384 + (384 + 1) * 96 + 96


def test_depthwise_layers_are_ours():
    for name in ("mobilenet v2", "convnext", "shufflenet", "resnext, depthwise"):
        ours, _ = pair(name)
        assert any(isinstance(m, fastconv.nn.DepthwiseConv2d) for m in ours.modules()), name


BAD = [
    (models.InvertedResidual, (8, 8, 3, 6), "stride should be 1 or 2 instead of 3"),
    (models.ShuffleBlock, (24, 24, 3), "stride should be 1 or 2 instead of 3"),
    (models.ShuffleBlock, (24, 48), "equal to inplanes with stride 1"),
    (models.ShuffleBlock, (24, 24, 2), "more than inplanes with stride 2"),
    (models.ShuffleBlock, (24, 24, 1, 5), "groups should divide"),
]


@pytest.mark.parametrize(("block", "args", "match"), BAD)
def test_errors(block, args, match):
    with pytest.raises(ValueError, match=match):
        block(*args)


@pytest.mark.parametrize("name", models.__all__)
def test_docstring(name):
    text = inspect.getdoc(getattr(models, name))
    assert "https://arxiv.org" in text and "Args:" in text and "Shape:" in text
    scope = {"torch": torch, "fastconv": fastconv}
    test = doctest.DocTestParser().get_doctest(text, scope, name, None, 0)
    assert test.examples
    assert doctest.DocTestRunner(verbose=False).run(test).failed == 0
