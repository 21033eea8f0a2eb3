# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""What torch does with modules still works on converted ones, and the other way round."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval, skip_init
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import fastconv
import fastconv.nn

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


def depthwise(**kwargs):
    return nn.Conv2d(8, 8, 3, padding=1, groups=8, **kwargs)


def network():
    return nn.Sequential(
        nn.Conv2d(2, 8, 1), depthwise(bias=False), nn.BatchNorm2d(8), nn.SiLU(), nn.PixelShuffle(2)
    )


def converted(model):
    """A converted copy."""
    twin = copy.deepcopy(model)
    assert fastconv.convert_(twin).converted
    return twin


def close(ours, theirs, tolerance=1e-11):
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def is_swapped(module):
    return isinstance(module, fastconv.nn.DepthwiseConv2d)


# --- transformations of models ---


def test_graph_modules_and_tracing():
    model = network().eval()
    x = torch.randn(1, 2, 4, 4)
    want = model(x)
    graph = torch.fx.symbolic_trace(model)
    assert len(fastconv.convert_(graph).converted) == 2
    close(graph(x), want, 1e-5)
    fastconv.revert_(graph)
    assert {type(m) for m in graph.children()} >= {nn.Conv2d, nn.PixelShuffle}
    ours = converted(model)
    close(torch.fx.symbolic_trace(ours)(x), want, 1e-5)
    close(torch.jit.trace(ours, x)(torch.cat([x, x]))[:1], want, 1e-5)


@pytest.mark.parametrize("when", ["before", "after the first call"])
def test_compiled_models(when):
    """A model may be converted before or after torch.compile, which notices that classes change."""
    torch._dynamo.reset()
    model = network().eval()
    calls = []

    def backend(graph, inputs):
        calls.append({str(node.target) for node in graph.graph.nodes})
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, backend=backend)
    x = torch.randn(1, 2, 4, 4)
    want = model(x)
    if when != "before":
        close(compiled(x), want, 1e-5)
    report = fastconv.convert_(compiled)
    assert [e.name for e in report.converted] == ["_orig_mod.1", "_orig_mod.4"]
    close(compiled(x), want, 1e-5)
    assert "fastconv.depthwise_conv.default" in calls[-1]
    fastconv.revert_(compiled)
    close(compiled(x), want, 1e-5)
    close(torch.export.export(converted(model), (x,)).module()(x), want, 1e-5)


def test_fused_with_batch_norm():
    ours = network().double()
    ours(torch.randn(8, 2, 6, 6, dtype=torch.float64))  # statistics
    fastconv.convert_(ours.eval())
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    fused = fuse_conv_bn_eval(ours[1], ours[2])
    assert type(fused) is type(ours[1]) and fused.bias is not None and ours[1].bias is None
    close(fused(x), ours[2](ours[1](x)))
    fastconv.revert_(fused)
    assert type(fused) is nn.Conv2d and is_swapped(ours[1])


def test_meta_device_and_skip_init():
    with torch.device("meta"):
        model = network()
    assert len(fastconv.convert_(model).converted) == 2
    assert model(torch.empty(3, 2, 4, 4, device="meta")).shape == (3, 2, 8, 8)
    source = network()
    model.to_empty(device="cpu").load_state_dict(source.state_dict())
    x = torch.randn(2, 2, 4, 4)
    close(model.eval()(x), source.eval()(x), 1e-5)
    model = network()
    assert fastconv.convert_(model.to("meta")).converted  # after, too
    assigned = copy.deepcopy(model)
    assigned.load_state_dict(source.state_dict(), assign=True)
    assert all(assigned.get_parameter(k) is not v for k, v in source.named_parameters())
    close(assigned.eval()(x), source(x), 1e-5)
    empty = skip_init(fastconv.nn.DepthwiseConv2d, 8, 8, 3, padding=1)
    empty.load_state_dict(depthwise().state_dict())
    assert empty(torch.randn(1, 8, 5, 5)).isfinite().all()


# --- gradients ---


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant):
    native = network().double().train()
    ours = converted(native)
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    results = []
    for model, run in (
        (native, lambda m: m(x)),
        (ours, lambda m: checkpoint(m, x, use_reentrant=reentrant)),
        (ours, lambda m: checkpoint_sequential(m, 2, x, use_reentrant=reentrant)),
    ):
        y = run(model)
        # Gradients go to .grad: the re-entrant variant knows no torch.autograd.grad().
        model.zero_grad()
        x.grad = None
        y.square().sum().backward()
        results.append([y.detach(), x.grad, *(p.grad for p in model.parameters())])
    close(results[1], results[0])
    close(results[2], results[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_training(dtype, device):
    native = network().to(device)
    ours = converted(native)
    x = torch.randn(4, 2, 8, 8, device=device)
    losses = []
    for model in (native, ours):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        scaler = torch.amp.GradScaler(device, init_scale=256.0)
        losses.append([])
        for _ in range(4):
            optimizer.zero_grad()
            with torch.autocast(device, dtype):
                y = model(x)
                assert y.dtype == dtype
                loss = F.mse_loss(y.float(), torch.ones_like(y, dtype=torch.float32))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses[-1].append(loss.detach())
    assert losses[1][-1] < losses[1][0]
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0.0)


def test_func_transforms():
    """Per-sample gradients, jacobians, and stacked models, as for the native model."""
    native = network().double().eval()
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    answers = []
    for model in (native, converted(native)):
        weights = {k: v.detach() for k, v in model.named_parameters()}
        buffers = dict(model.named_buffers())

        def call(w, sample, model=model, buffers=buffers):
            return torch.func.functional_call(model, (w, buffers), (sample[None],)).square().sum()

        per_sample = torch.func.vmap(torch.func.grad(call), (None, 0))(weights, x)
        jacobian = torch.func.jacrev(call)(weights, x[0])
        tangent = torch.func.jvp(lambda s, w=weights: call(w, s), (x[0],), (x[1],))
        stacked = {k: torch.stack([v, 2 * v]) for k, v in weights.items()}
        ensemble = torch.func.vmap(call, (0, None))(stacked, x[0])
        answers.append((per_sample, jacobian, tangent, ensemble))
    close(answers[1], answers[0])
