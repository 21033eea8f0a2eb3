# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Averages, gates and decoding steps on DTensor; runs the checks of distributed_worker.py too."""

import copy

import torch
from distributed_worker import S0, S1, S2, S3, R, both, check, cpu_mesh, main, whole
from torch.distributed.tensor import DTensor, Partial, distribute_module, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import fastconv
import fastconv.nn


def sharded(t, place):
    return distribute_tensor(t, cpu_mesh(), [place])


@check
def averages_need_no_communication():
    torch.manual_seed(21)
    for nd in (1, 2, 3):
        function = getattr(fastconv, f"global_avg_pool{nd}d")
        for channels in (4, 3):  # 3 channels in two parts are 2 and 1
            x = torch.randn(2, channels, *[4] * nd, dtype=torch.float64)
            for place in (R, S0, S1):
                both(function, [x], [place], place)
        both(function, [x[0]], [R], R)


@check
def averages_of_space_are_averaged():
    """Each process has the average of its half; only averages are sent."""
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for place in (S2, S3):
        plain, shards = x.clone().requires_grad_(), sharded(x, place).requires_grad_()
        with CommDebugMode() as mode:
            y = fastconv.global_avg_pool2d(shards)
        assert mode.get_total_counts() == 0 and y.placements == (Partial("avg"),), y.placements
        want = fastconv.global_avg_pool2d(plain)
        torch.testing.assert_close(whole(y), want.detach())
        want.square().sum().backward()
        y.redistribute(placements=[R]).square().sum().backward()
        torch.testing.assert_close(whole(shards.grad), plain.grad)
    for size in ((5, 4), (1, 4)):  # 3 rows and 2, 1 and none
        try:
            fastconv.global_avg_pool2d(sharded(torch.randn(2, 3, *size), S2))
        except (NotImplementedError, RuntimeError) as error:
            assert "over dimension 2, which is space, into parts" in str(error), error
        else:
            raise AssertionError("an average of averages of different sizes")


@check
def activations_need_no_communication():
    torch.manual_seed(23)
    x = torch.randn(4, 4, 6, 6, dtype=torch.float64)
    w, b = torch.randn(4, 1, 3, 3, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    for name in ("relu", "silu"):
        for tensors in ([x, w], [x, w, b]):

            def function(*t, name=name):
                return fastconv.depthwise_conv2d(*t, padding=1, activation=name)

            for p, q, r in ((R, R, R), (S0, R, S0), (S1, S0, S1), (R, S0, S1), (S1, R, S1)):
                both(function, tensors, [p, q, q][: len(tensors)], r)
        # The activation of a sum is not the sum of activations: parts are added up before.
        parts = DTensor.from_local(x, cpu_mesh(), [Partial()], run_check=False)
        got = fastconv.depthwise_conv2d(parts, sharded(w, R), activation=name)
        torch.testing.assert_close(whole(got), fastconv.depthwise_conv2d(2 * x, w, activation=name))


@check
def gates_need_no_communication():
    torch.manual_seed(22)
    places = ((R, R, R), (S0, S0, S0), (S1, S1, S1), (S2, R, S2), (S3, R, S3))
    for channels in (4, 3):
        x = torch.randn(2, channels, 5, 4, dtype=torch.float64)
        for gate in (torch.randn(2, channels), torch.randn(2, channels, 1, 1)):
            for a, b, y in places:
                both(fastconv.sigmoid_gate, [x, gate.double()], [a, b], y)
    # One of the two that needs a gradient.
    for a, b, _ in places:
        for needs in (0, 1):
            plain, shards = [x, gate.double()], [sharded(x, a), sharded(gate.double(), b)]
            for tensors in (plain, shards):
                tensors[needs] = tensors[needs].detach().clone().requires_grad_()
                fastconv.sigmoid_gate(*tensors).square().sum().backward()
            torch.testing.assert_close(whole(shards[needs].grad), plain[needs].grad)


@check
def sums_of_averages_and_gates():
    parts = torch.randn(2, 2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    mesh = cpu_mesh()
    x = DTensor.from_local(parts[mesh.get_local_rank()], mesh, [Partial()], run_check=False)
    total, gate = parts.sum(0), torch.randn(2, 4, generator=torch.Generator().manual_seed(4))
    y = fastconv.sigmoid_gate(x.unsqueeze(0), sharded(gate[:1, :2].double(), R))
    assert y.placements == (Partial(),), y.placements
    want = fastconv.sigmoid_gate(total.unsqueeze(0), gate[:1, :2].double())
    torch.testing.assert_close(whole(y), want)
    mean = fastconv.global_avg_pool2d(x)
    assert mean.placements == (Partial(),), mean.placements
    torch.testing.assert_close(whole(mean), fastconv.global_avg_pool2d(total))


@check
def squeeze_and_excitation_of_a_batch():
    """Training of the layer, data-parallel: its weights are replicated."""
    torch.manual_seed(23)
    layer = fastconv.nn.SqueezeExcitation(8, 2).double()
    x = torch.randn(4, 8, 5, 5, dtype=torch.float64)
    shards = distribute_module(copy.deepcopy(layer), cpu_mesh())
    y, want = shards(sharded(x, S0)), layer(x)
    torch.testing.assert_close(whole(y), want.detach())
    y.square().sum().backward()
    want.square().sum().backward()
    for a, b in zip(shards.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(whole(a.grad), b.grad)


@check
def decoding_steps_update_shards():
    torch.manual_seed(24)
    for channels in (4, 3):
        tensors = [(2, channels), (2, channels, 5), (channels, 4), (channels,)]
        x, start, weight, bias = (torch.randn(s, dtype=torch.float64) for s in tensors)
        for given in (None, bias):
            for a, b in ((R, R), (S0, R), (S1, S0)):
                state, shards = start.clone(), sharded(start, a)
                weights = [sharded(weight, b), None if given is None else sharded(given, b)]
                step = sharded(x, a)
                for _ in range(2):
                    want = fastconv.causal_conv1d_update(x, state, weight, given, "silu")
                    with CommDebugMode() as mode:
                        y = fastconv.causal_conv1d_update(step, shards, *weights, "silu")
                    assert mode.get_total_counts() == 0, mode.get_comm_counts()
                    assert y.placements == shards.placements == (a,)
                    torch.testing.assert_close(whole(y), want)
                    torch.testing.assert_close(whole(shards), state)


@check
def states_stay_where_they_are():
    """Other tensors move; what is written to a copy of the state would be lost."""
    torch.manual_seed(25)
    x, start, weight = torch.randn(2, 4), torch.randn(2, 4, 4), torch.randn(4, 4)
    update = fastconv.causal_conv1d_update
    for a in (R, S0, S1):
        for b in (R, S0, S1):
            state, shards = start.clone(), sharded(start, a)
            y = update(sharded(x, b), shards, sharded(weight, R if b == S0 else S0))
            torch.testing.assert_close(whole(y), update(x, state, weight))
            assert shards.placements == (a,)
            torch.testing.assert_close(whole(shards), state)
    summed = DTensor.from_local(start.clone(), cpu_mesh(), [Partial()], run_check=False)
    for state in (sharded(start, S2), summed):
        try:
            update(sharded(x, R), state, sharded(weight, R))
        except (NotImplementedError, RuntimeError) as error:
            assert "conv_state is updated in place" in str(error), error
        else:
            raise AssertionError("the state was not updated")


if __name__ == "__main__":
    main()
