# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""How the operators work on ``DTensor``: which shards of their tensors give which of the results.

A strategy lists, for one dimension of the device mesh, placements of results and of inputs that
need no communication.  DTensor redistributes inputs that fit none, to the cheapest that does; where
that would gather an image that the user sharded over space, there is an error instead.

Registered with DTensor's dispatcher when ``torch.distributed.tensor`` is imported, by
:mod:`fastconv._lazy`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec
from torch.distributed.tensor._op_schema import OpSchema, OpStrategy, RuntimeSchemaInfo
from torch.distributed.tensor._ops.utils import expand_to_full_mesh_op_strategy

from fastconv import _sharding_squeeze as squeeze

Placements = list[Any]  # of the results, then of the tensors; None where there is none
Rule = Callable[..., list[Placements]]

_R = Replicate()


class _Input:
    """A tensor argument of an operator, as a rule sees it."""

    def __init__(self, spec: DTensorSpec, shape: Sequence[int] | None = None) -> None:
        assert spec.tensor_meta is not None
        self.spec = spec
        self.dtype = spec.tensor_meta.dtype
        self.shape = spec.tensor_meta.shape if shape is None else shape
        self.ndim = len(self.shape)

    def shards(self, dim: int) -> int:
        """Into how many parts a dimension of the tensor is cut."""
        return _shards(self.spec, dim)

    def parts(self, dim: int) -> int:
        """Into how many parts it must be possible to cut it."""
        return self.shards(dim) if self.shards(dim) > 1 else self.spec.mesh.size()


def _shards(spec: DTensorSpec, dim: int) -> int:
    places = enumerate(spec.placements)
    return math.prod(spec.mesh.size(i) for i, p in places if getattr(p, "dim", None) == dim)


def _refuse(op: Any, tensor: _Input, dims: range, hint: str) -> None:
    for dim in dims:
        if tensor.shards(dim) > 1:
            raise NotImplementedError(
                f"{op.name()}: a tensor of size {list(tensor.shape)} is sharded over dimension "
                f"{dim}, which is space, but windows reach across shards. Shard the batch or the "
                f"channels, or gather it first: x.redistribute(placements=[Replicate()]){hint}"
            )


# ---- convolutions ----


def _conv_dims(x: _Input, w: _Input) -> tuple[int, range]:
    """The channels' dimension, and those of space."""
    channel = x.ndim - w.ndim + 1
    return channel, range(channel + 1, x.ndim)


def _cut_alike(op: Any, args: Sequence[Any], specs: Sequence[DTensorSpec]) -> bool:
    """Whether shards of the filters belong to the same shards of the channels.

    One filter per channel is cut where the channels are.  More are not if the channels do not
    divide: 3 channels in two parts are 2 and 1, their 6 filters 3 and 3.
    """
    first = 1 if "backward" in op.name() else 0
    x, w = args[first : first + 2]
    channel = x.ndim - w.ndim + 1
    channels = x.shape[channel]
    filters = w.shape[0] * w.shape[1]  # of either kind of weight: (C * m, 1, ...), (C, m, ...)
    return bool(filters == channels or channels % _shards(specs[first], channel) == 0)


def _conv_rule(op: Any, x: _Input, w: _Input, b: _Input | None, *_: Any) -> list[Placements]:
    channel, space = _conv_dims(x, w)
    _refuse(op, x, space, "")
    by_channel: Placements = [Shard(channel), Shard(channel), Shard(0)]
    alone: Placements = [_R, _R, _R]
    rules = [alone, by_channel]
    if channel == 1:
        rules.append([Shard(0), Shard(0), _R])
    if b is None:
        # A convolution is linear: sums that are still to be added up may be added afterwards.
        return [*rules, [Partial(), Partial(), _R], [Partial(), _R, Partial()]]
    return [[*rule, Shard(0) if rule is by_channel else _R] for rule in rules]


def _conv_act_rule(op: Any, x: _Input, w: _Input, b: _Input | None, *_: Any) -> list[Placements]:
    # Sums must be complete before the activation.
    rules = _conv_rule(op, x, w, b)
    return [rule for rule in rules if not any(isinstance(p, Partial) for p in rule)]


def _pointwise_rule(op: Any, *tensors: Any) -> list[Placements]:
    places = [_R, *(Shard(dim) for dim in range(tensors[0].ndim))]
    count = sum(isinstance(t, _Input) for t in tensors)
    return [[place] * (1 + count) for place in places]


def _conv_backward_rule(op: Any, dy: _Input, x: _Input, w: _Input, *rest: Any) -> list[Placements]:
    mask = next(a for a in rest if isinstance(a, (list, tuple)) and _is_mask(a))
    channel, space = _conv_dims(x, w)
    _refuse(op, x, space, "")
    _refuse(op, dy, space, "")
    rules: list[Placements] = [
        [_R, _R, _R, _R, _R, _R],
        [Shard(channel), Shard(0), Shard(0), Shard(channel), Shard(channel), Shard(0)],
    ]
    if channel == 1:
        rules.append([Shard(0), Partial(), Partial(), Shard(0), Shard(0), _R])
    return [[p if m else None for p, m in zip(r, mask, strict=False)] + r[3:] for r in rules]


def _is_mask(values: Sequence[Any]) -> bool:
    return len(values) == 3 and all(isinstance(v, bool) for v in values)


# ---- rearrangements ----


def _block_rule(
    op: Any, x: _Input, blocks: Sequence[int], order: str = "dcr", *_: Any
) -> list[Placements]:
    """Shards of everything but the channels; of space, where no block is cut."""
    deep = op is torch.ops.fastconv.depth_to_space.default
    channel = x.ndim - len(blocks) - 1
    rules: list[Placements] = [[_R, _R], [Partial(), Partial()]]
    rules += [[Shard(d), Shard(d)] for d in range(channel)]
    unit = (math.prod(blocks) if deep else 1) * x.parts(channel)
    if order == "crd" and x.shape[channel] % unit == 0:
        rules.append([Shard(channel), Shard(channel)])
    for d, block in enumerate(blocks):
        dim = channel + 1 + d
        unit = (1 if deep else block) * x.parts(dim)
        if x.shape[dim] % unit == 0:
            rules.append([Shard(dim), Shard(dim)])
        elif x.shards(dim) > 1:
            raise NotImplementedError(
                f"{op.name()}: a tensor of size {list(x.shape)} is sharded over dimension {dim}, "
                f"which is space, into parts that are not equal and whole blocks of {block}. Shard "
                "the batch, or gather it first: x.redistribute(placements=[Replicate()])"
            )
    return rules


def _shuffle_rule(op: Any, x: _Input, *_: Any) -> list[Placements]:
    others = [d for d in range(x.ndim) if d != 1]
    return [[_R, _R], [Partial(), Partial()], *([Shard(d), Shard(d)] for d in others)]


# ---- pooling ----


def _pool_dims(x: _Input, windows: Sequence[Sequence[int]], flat: bool) -> list[int]:
    """The dimensions that may be sharded, those of space included."""
    kernel, stride, padding, _ = windows
    first = x.ndim - len(kernel)
    dims = list(range(first))
    if flat:  # positions count through channels and space
        return dims
    k = kernel[0]
    aligned = stride[0] == k and padding[0] == 0 and windows[3][0] == 1
    if aligned and x.shape[first] % (k * x.parts(first)) == 0:
        dims.append(first)
    for a in range(1, len(kernel)):
        if (kernel[a], stride[a], padding[a]) == (1, 1, 0):
            dims.append(first + a)
    return dims


def _pool(op: Any, x: _Input, windows: Sequence[Sequence[int]], flat: bool) -> list[int]:
    first = x.ndim - len(windows[0])
    dims = _pool_dims(x, windows, flat)
    for dim in range(first + 1, x.ndim):
        if dim not in dims:
            hint = ". The positions of the maxima count through space" if flat else ""
            _refuse(op, x, range(dim, dim + 1), hint)
    return dims


def _pool_rule(op: Any, x: _Input, *rest: Any) -> list[Placements]:
    dims = _pool(op, x, rest[:4], False)
    return [[_R, _R], *([Shard(d), Shard(d)] for d in dims)]


def _pool_pair_rule(op: Any, x: _Input, *rest: Any) -> list[Placements]:
    flat = op is torch.ops.fastconv.depth_max_pool_with_indices.default
    dims = _pool(op, x, rest[:4], flat)
    return [[_R, _R, _R], *([Shard(d), Shard(d), Shard(d)] for d in dims)]


def _pool_backward_rule(
    op: Any, dy: _Input, index: _Input, size: Sequence[int], _: bool, *rest: Any
) -> list[Placements]:
    # Positions within the window are bytes or int32; int64 ones count through (C, *spatial).
    dims = _pool(op, _Input(dy.spec, size), rest[:4], index.dtype == torch.int64)
    return [[_R, _R, _R], [Partial(), Partial(), _R], *([Shard(d)] * 3 for d in dims)]


# ---- registration ----


def _strategy(rule: Rule, valid: Any, schema: OpSchema) -> OpStrategy:
    def seen(argument: Any) -> Any:
        if not isinstance(argument, OpStrategy):
            return argument
        return _Input(argument.strategies[0].output_spec)

    args = [seen(a) for a in schema.args_schema]
    every = expand_to_full_mesh_op_strategy(
        schema.get_mesh_from_args(),
        schema,
        rule(schema.op, *args),
        input_index=len(schema.op._schema.returns),
    )
    if valid is None:
        return every
    return OpStrategy([s for s in every.strategies if valid(schema.op, args, s.input_specs)])


def register() -> None:
    """Tells DTensor about every operator."""
    ops = torch.ops.fastconv
    rules: dict[Any, tuple[Rule, Any]] = {
        ops.depthwise_conv.default: (_conv_rule, _cut_alike),
        ops.depthwise_conv_act.default: (_conv_act_rule, _cut_alike),
        ops._activation.default: (_pointwise_rule, None),
        ops._activation_gradient.default: (_pointwise_rule, None),
        ops.depthwise_conv_transpose.default: (_conv_rule, _cut_alike),
        ops._depthwise_conv_backward.default: (_conv_backward_rule, _cut_alike),
        ops._depthwise_conv_transpose_backward.default: (_conv_backward_rule, _cut_alike),
        ops.space_to_depth.default: (_block_rule, None),
        ops.depth_to_space.default: (_block_rule, None),
        ops.channel_shuffle.default: (_shuffle_rule, None),
        ops.depth_max_pool.default: (_pool_rule, None),
        ops.depth_max_pool_with_indices.default: (_pool_pair_rule, None),
        ops._depth_max_pool_argmax.default: (_pool_pair_rule, None),
        ops._depth_max_pool_backward.default: (_pool_backward_rule, None),
        ops.global_avg_pool.default: (squeeze.average_rule, None),
        ops._global_avg_pool_backward.default: (squeeze.average_backward_rule, None),
        ops.sigmoid_gate.default: (squeeze.gate_rule, None),
        ops._sigmoid_gate_backward.default: (squeeze.gate_backward_rule, None),
        ops.causal_conv1d_update.default: (squeeze.update_rule, squeeze.state_stays),
    }
    propagator = DTensor._op_dispatcher.sharding_propagator
    for op, (rule, valid) in rules.items():
        # torch.distributed.tensor.experimental.register_sharding() would not do: it takes lists of
        # ints for arguments on which the result's size does not depend, and would reuse the size
        # that it found for another stride.
        tensors = ["Tensor" in str(a.type) for a in op._schema.arguments]
        first_number = [*tensors, False].index(False)
        propagator.register_op_strategy(
            op, partial(_strategy, rule, valid), RuntimeSchemaInfo(first_number)
        )
    # The size of the gradient is an argument, and each process needs that of its shard.
    propagator.op_to_shape_and_stride_idx[ops._depth_max_pool_backward.default] = 2
    propagator.op_to_shape_and_stride_idx[ops._global_avg_pool_backward.default] = 1
