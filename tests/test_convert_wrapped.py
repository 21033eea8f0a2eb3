# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""convert_() around the wrappers of distributed training: one process, no network."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn

import fastconv
import fastconv.nn

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch is built without it")


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def network():
    return nn.Sequential(
        nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(), nn.PixelShuffle(2)
    ).double()


def trained(model, x, steps=3):
    """Losses of some steps of training."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def wrap_ddp(model):
    return nn.parallel.DistributedDataParallel(model)


def wrap_fsdp2(model):
    from torch.distributed.fsdp import fully_shard

    mesh = dist.init_device_mesh("cpu", (1,))
    fully_shard(model[1], mesh=mesh)  # the class of the layer itself changes
    return fully_shard(model, mesh=mesh)


WRAPPERS = {"data_parallel": nn.DataParallel, "ddp": wrap_ddp, "fully_shard": wrap_fsdp2}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("order", ["convert, wrap", "wrap, convert"])
def test_wrapped_models(group, wrapper, order):
    native, model = network(), None
    x = torch.randn(4, 2, 5, 6, dtype=torch.float64)
    model = copy.deepcopy(native)
    want = trained(native, x)
    if order == "convert, wrap":
        fastconv.convert_(model)
    wrapped = WRAPPERS[wrapper](model)
    report = fastconv.convert_(wrapped)
    assert len(report.already if order == "convert, wrap" else report.converted) == 2
    layers = [m for m in wrapped.modules() if isinstance(m, fastconv.nn.DepthwiseConv2d)]
    assert len(layers) == 1
    torch.testing.assert_close(trained(wrapped, x), want, rtol=1e-9, atol=1e-9)
    assert fastconv.convert_(wrapped).converted == []
    assert len(fastconv.revert_(wrapped)) == 2
    assert not isinstance(layers[0], fastconv.nn.DepthwiseConv2d)
    if wrapper == "fully_shard":
        from torch.distributed.fsdp import FSDPModule

        assert isinstance(layers[0], FSDPModule) and isinstance(layers[0], nn.Conv2d)
    else:
        assert type(layers[0]) is nn.Conv2d
    assert len(trained(wrapped, x, 1)) == 1
