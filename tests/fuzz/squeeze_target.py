# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Global average pooling and the sigmoid gate: how calls are drawn, and which are wrong."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
from arguments import FLOATS, Problem, refused, tensor_of
from calls import Call, T
from drawing import STEPS, environment, layout_of, pick, shrink_to

POOLS = ("global_avg_pool1d", "global_avg_pool2d", "global_avg_pool3d")
NAMES = (*POOLS, "sigmoid_gate")


@st.composite
def _activation(draw: Any, nd: int, batched: bool) -> T:
    sizes = [draw(st.one_of(st.integers(1, 20), pick((1, 0, 64, 130)))) for _ in range(nd + 1)]
    sizes = shrink_to(STEPS // 4, math.prod, sizes)
    shape = (*([draw(pick((2, 1, 3, 0)))] if batched else []), *sizes)
    # No infinities and no largest numbers: a sum of them may overflow where a mean does not.
    values = draw(pick(("normal", "integers")))
    layout = draw(layout_of(len(shape)))
    return T(shape, draw(pick(FLOATS)), layout, values, draw(st.booleans()))


@st.composite
def pool(draw: Any, nd: int) -> Call:
    x = draw(_activation(nd, draw(pick((True, True, False)))))
    return Call(f"global_avg_pool{nd}d", (x,), {}, **draw(environment()))


@st.composite
def gate(draw: Any) -> Call:
    nd = draw(pick((2, 1, 3)))
    x = draw(_activation(nd, True))
    shape = (*x.shape[:2], *([1] * nd if draw(st.booleans()) else []))
    layout, values = draw(layout_of(len(shape))), draw(pick(("normal", "integers")))
    g = T(shape, x.dtype, layout, values, draw(st.booleans()))
    return Call("sigmoid_gate", (x, g), {}, **draw(environment()))


def problems(call: Call) -> list[Problem]:
    """What is wrong with a call."""
    found: list[Problem] = []
    x = tensor_of(call.x, "input", found)
    g = tensor_of(call.args[1], "gate", found) if call.function == "sigmoid_gate" else None
    tensors = [t for t in (x, g) if t is not None]
    if len({t.device for t in tensors}) > 1:
        found.append(refused("same device", ours=True))
    if len({t.dtype for t in tensors}) > 1:
        found.append(refused("same dtype", ours=True))
    if any(t.dtype not in FLOATS for t in tensors):
        found.append(refused("", ours=True))
    if found or x is None:
        return found
    rank = len(x.shape)
    if call.function in POOLS:
        nd = int(call.function[-2])
        return [] if rank in (nd + 1, nd + 2) else [refused("input", ours=True)]
    assert g is not None
    if not 3 <= rank <= 5:
        return [refused("input", ours=True)]
    if g.shape not in (x.shape[:2], (*x.shape[:2], *[1] * (rank - 2))):
        return [refused("gate", ours=True)]
    return []


def sums(call: Call) -> bool:
    """Whether results are rounded sums or products, and no copies of what there was."""
    return call.function.startswith("depthwise_conv") or call.function in NAMES
