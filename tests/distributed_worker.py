# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""One of two processes that test_distributed.py starts: python distributed_squeeze.py RANK FOLDER.

Writes {check: traceback or None} to FOLDER/RANK.json.  Everything is compared with the same on
whole tensors in this process.
"""

import copy
import functools
import itertools
import json
import sys
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Replicate,
    Shard,
    distribute_module,
    distribute_tensor,
)
from torch.distributed.tensor.debug import CommDebugMode

import fastconv
import fastconv.nn

RANK, FOLDER = int(sys.argv[1]), Path(sys.argv[2])
WORLD = 2
R, S0, S1, S2, S3 = Replicate(), *(Shard(d) for d in range(4))
CHECKS = {}


def check(function):
    CHECKS[function.__name__] = function
    return function


@functools.cache
def cpu_mesh():
    return dist.init_device_mesh("cpu", (WORLD,))


def network():
    """A network in float64, the same in every process."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 6, 1),
        nn.Conv2d(6, 12, 3, padding=1, groups=6),
        nn.SiLU(),
        nn.ConvTranspose2d(12, 12, 4, 2, 1, groups=12),
        nn.Conv2d(12, 8, 1),
        fastconv.nn.DepthMaxPool(2),
        nn.PixelShuffle(2),
    ).double()


def train(model, batches):
    """Losses and weights of a few steps; gradients are averaged over the processes by a wrapper."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for x in batches:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return {k.removeprefix("module."): whole(v) for k, v in model.state_dict().items()}


def whole(t):
    return (t.full_tensor() if hasattr(t, "full_tensor") else t).detach()


def compare_training(wrap):
    torch.manual_seed(11)
    batches = torch.randn(4, 4, 2, 6, 6, dtype=torch.float64)
    want = train(network(), batches)  # native, one process, the whole batch
    model = network()
    report = fastconv.convert_(model)
    assert len(report.converted) == 3, str(report)
    start = copy.deepcopy(model.state_dict())
    got = train(wrap(model), batches[:, 2 * RANK : 2 * RANK + 2])
    assert want.keys() == got.keys()
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-10, atol=1e-12)
        assert not torch.equal(value, start[name]), f"{name} was not trained"


@check
def ddp():
    compare_training(nn.parallel.DistributedDataParallel)


@check
def fsdp2():
    def wrap(model):
        mesh = cpu_mesh()
        for index in (1, 3):
            fully_shard(model[index], mesh=mesh)
        return fully_shard(model, mesh=mesh)

    compare_training(wrap)


def both(function, tensors, placements, output):
    """Runs on shards and on whole tensors: values, gradients, placements, communication."""
    mesh = cpu_mesh()
    plain = [t.clone().requires_grad_() for t in tensors]
    shards = [
        distribute_tensor(t, mesh, [p]).requires_grad_()
        for t, p in zip(tensors, placements, strict=True)
    ]
    want = function(*plain)
    with CommDebugMode() as mode:
        got = function(*shards)
    assert mode.get_total_counts() == 0, mode.get_comm_counts()
    assert got.placements == (output,), got.placements
    assert got.stride() == want.stride() and got.shape == want.shape
    torch.testing.assert_close(whole(got), want)
    torch.manual_seed(5)
    cotangent = torch.randn_like(want)
    want.backward(cotangent)
    sharded = distribute_tensor(cotangent, mesh, [output])
    with CommDebugMode() as mode:
        got.backward(sharded)
    assert mode.get_total_counts() == 0, mode.get_comm_counts()
    for a, b in zip(shards, plain, strict=True):
        torch.testing.assert_close(whole(a.grad), b.grad)


@check
def convolutions_need_no_communication():
    torch.manual_seed(7)
    for nd, m, with_bias, transposed in itertools.product((1, 2, 3), (1, 2), (0, 1), (0, 1)):
        name = f"depthwise_conv{'_transpose' * transposed}{nd}d"
        size = (4, m) if transposed else (4 * m, 1)
        tensors = [
            torch.randn(4, 4, *[6] * nd, dtype=torch.float64),
            torch.randn(*size, *[3] * nd, dtype=torch.float64),
            torch.randn(4 * m, dtype=torch.float64),
        ][: 2 + with_bias]
        # One after the other: what was found out for one stride must not serve another.
        for stride in (1, 2):

            def function(*t, stride=stride, name=name):
                return getattr(fastconv, name)(*t, stride=stride, padding=1)

            for x, w, y in ((R, R, R), (S0, R, S0), (S1, S0, S1), (R, S0, S1), (S1, R, S1)):
                both(function, tensors, [x, w, w][: 2 + with_bias], y)


@check
def channels_that_do_not_divide():
    torch.manual_seed(8)
    x = torch.randn(2, 3, 9, dtype=torch.float64)
    w = torch.randn(3, 1, 3, dtype=torch.float64)
    both(fastconv.depthwise_conv1d, [x, w], [Shard(1), Shard(0)], Shard(1))
    # Two filters per channel are not cut where the channels are: something has to move.

    mesh = cpu_mesh()
    w = torch.randn(6, 1, 3, dtype=torch.float64)
    y = fastconv.depthwise_conv1d(
        distribute_tensor(x, mesh, [Shard(1)]), distribute_tensor(w, mesh, [Shard(0)])
    )
    torch.testing.assert_close(whole(y), fastconv.depthwise_conv1d(x, w))


@check
def rearrangements_and_pooling_need_no_communication():
    torch.manual_seed(9)
    x = torch.randn(2, 8, 4, 8, dtype=torch.float64)
    cases = [
        (lambda t: fastconv.pixel_shuffle(t, 2), (R, S0, S1, S2, S3)),
        (lambda t: fastconv.pixel_unshuffle(t, 2), (R, S0, S1, S2, S3)),
        (lambda t: fastconv.space_to_depth(t, 2), (R, S0, S2, S3)),
        (lambda t: fastconv.depth_to_space(t, 2, "focus"), (R, S0, S2, S3)),
        (lambda t: fastconv.channel_shuffle(t, 2), (R, S0, S2, S3)),
        (lambda t: fastconv.depth_max_pool(t, 2), (R, S0, S1, S2, S3)),
        (lambda t: fastconv.depth_max_pool(t, 3, 2, 1), (R, S0, S2, S3)),
        (lambda t: fastconv.depth_max_pool(t, (2, 2, 1)), (R, S0, S1, S3)),
        (lambda t: fastconv.depth_max_pool(t, 2, return_indices=True)[0], (R, S0)),
    ]
    for function, placements in cases:
        for place in placements:
            both(function, [x], [place], place)


@check
def indices_of_shards():
    mesh = cpu_mesh()
    x = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    for place in (Shard(0), Shard(1)):  # positions count through channels: those are gathered
        got = fastconv.depth_max_pool(distribute_tensor(x, mesh, [place]), 2, return_indices=True)
        for a, b in zip(got, fastconv.depth_max_pool(x, 2, return_indices=True), strict=True):
            assert torch.equal(whole(a), b)


@check
def shards_that_must_move_give_the_same():
    """Channels of an order that mixes them are exchanged; the result is that of whole tensors."""
    mesh = cpu_mesh()
    x = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(1))
    for function in (
        lambda t: fastconv.space_to_depth(t, 3),
        lambda t: fastconv.depth_to_space(t, 2, "focus"),
        lambda t: fastconv.channel_shuffle(t, 4),
        lambda t: fastconv.depth_max_pool(t, 3, 1, 1),
    ):
        assert torch.equal(whole(function(distribute_tensor(x, mesh, [Shard(1)]))), function(x))


@check
def sums_that_are_still_to_be_added_up():
    mesh = cpu_mesh()
    torch.manual_seed(4)
    parts = torch.randn(WORLD, 2, 4, 5, 5, dtype=torch.float64)
    w = torch.randn(4, 1, 3, 3, dtype=torch.float64)
    x = DTensor.from_local(parts[RANK], mesh, [Partial()], run_check=False)
    y = fastconv.depthwise_conv2d(x, distribute_tensor(w, mesh, [Replicate()]))
    assert y.placements == (Partial(),)
    torch.testing.assert_close(whole(y), fastconv.depthwise_conv2d(parts.sum(0), w))
    # With a bias, which would be added twice, they are added up before.
    b = torch.randn(4, dtype=torch.float64)
    y = fastconv.depthwise_conv2d(x, *(distribute_tensor(t, mesh, [Replicate()]) for t in (w, b)))
    torch.testing.assert_close(whole(y), fastconv.depthwise_conv2d(parts.sum(0), w, b))
    # The maximum of sums is not the sum of maxima.
    y = fastconv.depth_max_pool(x, 2)
    torch.testing.assert_close(whole(y), fastconv.depth_max_pool(parts.sum(0), 2))


@check
def space_is_refused():
    mesh = cpu_mesh()
    x = torch.randn(2, 4, 6, 6)
    w = distribute_tensor(torch.randn(4, 1, 3, 3), mesh, [Replicate()])
    rows = distribute_tensor(x, mesh, [Shard(2)])
    for call in (
        lambda: fastconv.depthwise_conv2d(rows, w, padding=1),
        lambda: fastconv.depthwise_conv_transpose2d(rows, w),
        lambda: fastconv.depth_max_pool(rows, (2, 2, 2)),
        lambda: fastconv.depth_max_pool(rows, 2, return_indices=True),
        lambda: fastconv.space_to_depth(rows, 2),  # 3 rows in each process
    ):
        try:
            call()
        except (NotImplementedError, RuntimeError) as error:
            assert "sharded over dimension 2, which is space" in str(error), error
        else:
            raise AssertionError("silently gathered")


@check
def layer_with_sharded_channels():
    """As tensor parallelism holds it: each process has its channels' filters alone."""
    mesh = cpu_mesh()
    torch.manual_seed(6)
    layer = fastconv.nn.DepthwiseConv2d(8, 8, 3, padding=1).double()
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)

    def shard(name, module, mesh):
        for key, p in list(module.named_parameters(recurse=False)):
            module.register_parameter(key, nn.Parameter(distribute_tensor(p, mesh, [Shard(0)])))

    sharded = distribute_module(copy.deepcopy(layer), mesh, shard)
    shards = distribute_tensor(x, mesh, [Shard(1)])
    with CommDebugMode() as mode:
        y = sharded(shards)
        y.square().sum().backward()
    assert mode.get_total_counts() == 0, mode.get_comm_counts()
    want = layer(x)
    want.square().sum().backward()
    torch.testing.assert_close(whole(y), want)
    for a, b in zip(sharded.parameters(), layer.parameters(), strict=True):
        assert a.grad.placements == (Shard(0),)
        torch.testing.assert_close(whole(a.grad), b.grad)


def main():
    torch.set_num_threads(1)
    store = f"file://{FOLDER}/store"
    dist.init_process_group("gloo", init_method=store, rank=RANK, world_size=WORLD)
    results = {}
    for name, function in CHECKS.items():
        try:
            function()
            results[name] = None
        except Exception:
            results[name] = traceback.format_exc()
        (FOLDER / f"{RANK}.json").write_text(json.dumps(results))
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
