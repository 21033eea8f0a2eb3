# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Averages, gates and decoding steps on ``DTensor``: a part of :mod:`fastconv._sharding`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch.distributed.tensor import Partial, Replicate, Shard

if TYPE_CHECKING:
    from torch.distributed.tensor._dtensor_spec import DTensorSpec

    from fastconv._sharding import Placements
    from fastconv._sharding import _Input as Input

_R = Replicate()


def average_rule(op: Any, x: Input) -> list[Placements]:
    """Shards of space of the same size have averages whose average is the result."""
    rules = [[p, p] for p in (_R, Shard(0), Shard(1), Partial())]
    for dim in range(2, x.ndim):
        if x.shape[dim] % x.parts(dim) == 0:
            rules.append([Partial("avg"), Shard(dim)])
        elif x.shards(dim) > 1:
            raise NotImplementedError(
                f"{op.name()}: a tensor of size {list(x.shape)} is sharded over dimension {dim}, "
                "which is space, into parts that are not equal. Shard the batch or the channels, "
                "or gather it first: x.redistribute(placements=[Replicate()])"
            )
    return rules


def average_backward_rule(op: Any, dy: Input, *_: Any) -> list[Placements]:
    # Not of space: the operator divides by the pixels of the size that it is given.
    return [[p, p] for p in (_R, Shard(0), Shard(1), Partial())]


def gate_rule(op: Any, x: Input, gate: Input) -> list[Placements]:
    rules: list[Placements] = [[p, p, p] for p in (_R, Shard(0), Shard(1))]
    rules += [[Shard(d), Shard(d), _R] for d in range(2, x.ndim)]
    return [*rules, [Partial(), Partial(), _R]]


def gate_backward_rule(
    op: Any, dy: Input, x: Input, gate: Input, mask: Sequence[bool]
) -> list[Placements]:
    """The gradient of a gate is a sum over space."""
    rules: list[Placements] = [[p] * 5 for p in (_R, Shard(0), Shard(1))]
    rules += [[Shard(d), Partial(), Shard(d), Shard(d), _R] for d in range(2, x.ndim)]
    rules.append([Partial(), Partial(), Partial(), _R, _R])
    rules.append([_R, Partial(), _R, Partial(), _R])
    return [[p if m else None for p, m in zip(r, mask, strict=False)] + r[2:] for r in rules]


def update_rule(op: Any, x: Input, state: Input, *rest: Any) -> list[Placements]:
    """What is written to a copy of the state would be lost: it has to stay where it is."""
    for place in state.spec.placements:
        if place not in (_R, Shard(0), Shard(1)):
            raise NotImplementedError(
                f"{op.name()}: conv_state is updated in place, and cannot be while it is {place}. "
                "Shard its batch or its channels, or replicate it: "
                "conv_state = conv_state.redistribute(placements=[Replicate()])"
            )
    weights = sum(hasattr(a, "spec") for a in rest)
    return [
        [_R, _R, _R] + [_R] * weights,
        [Shard(0), Shard(0), Shard(0)] + [_R] * weights,
        [Shard(1), Shard(1), Shard(1)] + [Shard(0)] * weights,
    ]


def state_stays(op: Any, args: Sequence[Any], specs: Sequence[DTensorSpec]) -> bool:
    return bool(specs[1].placements == args[1].spec.placements)
