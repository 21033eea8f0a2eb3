# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Draws calls over all arguments of the public functions; about a third are spoiled on purpose.

Alternatives are ordered simplest first: hypothesis shrinks towards the first.
"""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import squeeze_target
import transpose_strategies
from calls import Call, T
from drawing import (
    FLOATS,
    OTHERS,
    STEPS,
    environment,
    layout_of,
    pick,
    shrink_to,
    spelled,
)
from spoil import spoil


@st.composite
def conv_axis(draw: Any, nd: int) -> tuple[int, int, int, int, int, int]:
    """Size, kernel, stride, dilation and both paddings of one dimension."""
    kernel = draw(pick((1, 2, 3, 3, 4, 5, 7, *((9, 11, 31) if nd < 3 else ()))))
    stride = draw(pick((1, 1, 2, 3, 4, 7, 16)))
    dilation = draw(pick((1, 1, 1, 2, 3, 8)))
    paddings = pick((0, 0, 1, 2, 3, 5, *((40,) if nd < 3 else ())))
    begin, end = draw(paddings), draw(paddings)
    size = draw(
        st.one_of(st.integers(0, 12), st.integers(0, 40 if nd < 3 else 16), pick((64, 100, 257)))
    )
    need = dilation * (kernel - 1) + 1
    if draw(st.integers(0, 9)):  # the rest has nothing but padding, if it is valid at all
        size = max(size, 1)
    return max(size, need - begin - end), kernel, stride, dilation, begin, end


@st.composite
def conv(draw: Any, nd: int) -> Call:
    axes = [draw(conv_axis(nd)) for _ in range(nd)]
    size, kernel, stride, dilation, begin, end = (list(v) for v in zip(*axes, strict=True))
    batch = draw(pick((2, 1, 3, 0, None)))
    channels = draw(st.one_of(st.integers(1, 8), st.integers(1, 40), pick((16, 32, 64, 65, 130))))
    multiplier = draw(pick((1, 1, 1, 2, 3)))
    kwargs: dict[str, Any] = {}

    padding = draw(pick(("numbers", "pairs", "same", "valid", "causal" if nd == 1 else "same")))
    if padding == "numbers":
        end = begin
        kwargs["padding"] = draw(spelled(begin, 0))
    elif padding == "pairs":
        kwargs["padding"] = draw(pick((tuple, list)))(zip(begin, end, strict=True))
    else:
        kwargs["padding"] = padding
        begin = end = [0] * nd
    spans = [d * (k - 1) + 1 - b - e for k, d, b, e in zip(kernel, dilation, begin, end)]  # noqa: B905
    least = [1 if padding in ("same", "causal") else max(s, 0) for s in spans]
    size = [max(n, s) for n, s in zip(size, least, strict=True)]
    kwargs["stride"], kwargs["dilation"] = draw(spelled(stride, 1)), draw(spelled(dilation, 1))
    kwargs = {k: v for k, v in kwargs.items() if v is not None}

    def cost(few: list[int]) -> int:
        padded = [n + b + e for n, b, e in zip(size, begin, end)]  # noqa: B905
        outs = math.prod(p // s + 1 for p, s in zip(padded, stride))  # noqa: B905
        return math.prod(few) * multiplier * (outs * math.prod(kernel) + math.prod(padded))

    few = shrink_to(STEPS, cost, [batch or 1, channels])
    batch, channels = (few[0] if batch else batch), few[1]
    while cost(few) > STEPS:  # then space
        i = max(range(nd), key=lambda d: size[d] - least[d])
        if size[i] <= least[i]:
            break
        size[i] = max(least[i], size[i] // 2)

    dtype = draw(pick(FLOATS))
    grads = [draw(st.booleans()) for _ in range(3)]
    values = draw(pick(("normal", "integers", "special", "tiny", "large")))
    shape = (*([] if batch is None else [batch]), channels, *size)
    x = T(shape, dtype, draw(layout_of(len(shape))), values, grads[0])
    shape = (channels * multiplier, 1, *kernel)
    plain = draw(pick(("normal", "integers")))
    w = T(shape, dtype, draw(layout_of(nd + 2)), plain, grads[1])
    b = T(shape[:1], dtype, draw(pick(("contiguous", "steps", "scalar"))), plain, grads[2])
    if not draw(st.integers(0, 5)):
        kwargs["activation"] = draw(pick(("relu", "relu6", "hardswish", "silu", "gelu", None)))
        x = T(x.shape, x.dtype, x.layout, "normal", x.grad)
    bias = b if draw(st.booleans()) else None
    return Call(f"depthwise_conv{nd}d", (x, w, bias), kwargs, **draw(environment()))


@st.composite
def pool_axis(draw: Any, space: bool) -> tuple[int, int, int, int, int]:
    kernel = draw(pick((1, 2, 3, 4, 5, 7) if space else (2, 3, 1, 4, 9, 17)))
    dilation = draw(pick((1, 1, 1, 2, 3)))
    reach = dilation * (kernel - 1) + 1
    padding = draw(pick((0, 0, 1, reach // 2)))
    padding = min(padding, reach // 2)
    stride = draw(pick((kernel, 1, 2, 3, 20)))
    size = draw(st.one_of(st.integers(1, 12), st.integers(1, 30 if space else 140)))
    return max(size, reach - 2 * padding, 1), kernel, stride, padding, dilation


@st.composite
def pool(draw: Any) -> Call:
    axes = draw(pick((3, 2, 4, 1)))
    alone = draw(st.booleans())
    drawn = [draw(pool_axis(i > 0)) for i in range(axes)]
    size, kernel, stride, padding, dilation = (list(v) for v in zip(*drawn, strict=True))
    batch = draw(pick((2, 1, 3, 0, None)))
    kwargs: dict[str, Any]
    if alone:
        batch = 2 if batch is None else batch
        kwargs = {"kernel_size": kernel[0]}
        named = {"stride": stride[0], "padding": padding[0], "dilation": dilation[0]}
        kernel = [kernel[0]] + [1] * (axes - 1)
    else:
        kwargs = {"kernel_size": draw(pick((tuple, list)))(kernel)}
        named = {
            "stride": draw(spelled(stride)),
            "padding": draw(spelled(padding, 0)),
            "dilation": draw(spelled(dilation, 1)),
        }
        if axes == 1:  # a tuple of one could be either
            named = {k: v for k, v in named.items() if v is not None}
    kwargs |= {k: v for k, v in named.items() if v is not None and draw(st.booleans())}
    if "padding" not in kwargs or "dilation" not in kwargs:
        size = [max(n, d * (k - 1) + 1) for n, k, d in zip(size, kernel, dilation, strict=True)]
    if alone:
        size = [size[0], *(draw(st.integers(1, 30)) for _ in range(axes - 1))]
    kwargs |= {"ceil_mode": True} if draw(st.booleans()) else {}
    kwargs |= {"return_indices": True} if draw(st.booleans()) else {}

    def cost(few: list[int]) -> int:
        return math.prod(few) * math.prod(size) * math.prod(kernel)

    few = shrink_to(4 * STEPS, cost, [batch or 1])
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    if "padding" in kwargs:
        spans = [max(n - 2 * p, 1) for n, p in zip(spans, padding, strict=True)]
    least = [spans[0], *[1] * (axes - 1)] if alone else spans
    while cost(few) > 4 * STEPS:  # then space
        i = max(range(axes), key=lambda d: size[d] - least[d])
        if size[i] <= least[i]:
            break
        size[i] = max(least[i], size[i] // 2)
    shape = (*([] if batch is None else [few[0] if batch else 0]), *size)
    values = draw(pick(("normal", "integers", "special", "minus_inf", "tiny", "large")))
    dtype = draw(pick(FLOATS))
    x = T(shape, dtype, draw(layout_of(len(shape))), values, draw(st.booleans()))
    return Call("depth_max_pool", (x,), kwargs, **draw(environment()))


@st.composite
def moved(draw: Any, shape: tuple[int, ...]) -> T:
    """A tensor of any dtype, for what only moves elements."""
    dtype = draw(pick(FLOATS + OTHERS))
    grad = draw(st.booleans()) and dtype in (*FLOATS, "complex64", "complex128")
    values = draw(pick(("normal", "special")))
    return T(shape, dtype, draw(layout_of(len(shape))), values, grad)


@st.composite
def blocks(draw: Any, name: str) -> Call:
    pixel = name.startswith("pixel")
    to_depth = name in ("space_to_depth", "pixel_unshuffle")
    spatial = 2 if pixel else draw(pick((2, 1, 3)))
    factor = pick((2, 1, 3, 4, 5, 8))
    block = [draw(factor) for _ in range(spatial)]
    if draw(st.booleans()):
        block = block[:1] * spatial
    as_tuple = len(set(block)) > 1 or draw(st.booleans())
    lead = draw(pick((1, 1, 1, 0, 2, 3))) if pixel or as_tuple else 1
    if not pixel and not as_tuple and spatial == 3:
        lead = draw(pick((1, 2)))
    batch = [draw(pick((2, 1, 3, 0))) for _ in range(lead)]
    small = st.one_of(st.integers(0, 4), st.integers(0, 17))
    channels, space = draw(small), [draw(st.one_of(small, pick((33, 70)))) for _ in range(spatial)]

    def cost(few: list[int]) -> int:
        return math.prod(batch) * math.prod(few) * math.prod(block)

    channels, *space = shrink_to(STEPS // 4, cost, [channels, *space])
    if to_depth:
        space = [n * b for n, b in zip(space, block, strict=True)]
    else:
        channels *= math.prod(block)
    argument = {"pixel_shuffle": "upscale_factor", "pixel_unshuffle": "downscale_factor"}
    value: Any = draw(pick((tuple(block), block))) if as_tuple else block[0]
    kwargs: dict[str, Any] = {argument.get(name, "block_size"): value}
    if not pixel and draw(st.booleans()):
        kwargs["order"] = draw(pick(("dcr", "crd", "focus")))
    x = draw(moved((*batch, channels, *space)))
    return Call(name, (x,), kwargs, **draw(environment()))


@st.composite
def channel_shuffle(draw: Any) -> Call:
    groups = draw(pick((2, 1, 3, 4, 7, 16)))
    per_group = draw(st.one_of(st.integers(0, 4), st.integers(0, 30)))
    sizes = st.one_of(st.integers(0, 5), st.integers(0, 30))
    space = [draw(sizes) for _ in range(draw(pick((2, 1, 3, 4))))]
    space = shrink_to(STEPS // 4, lambda few: 3 * groups * per_group * math.prod(few), space)
    x = draw(moved((draw(pick((2, 1, 3, 0))), groups * per_group, *space)))
    return Call("channel_shuffle", (x,), {"groups": groups}, **draw(environment()))


@st.composite
def maybe_spoiled(draw: Any, valid: Any) -> Call:
    call = draw(valid)
    return draw(spoil(call)) if draw(pick((False, False, True))) else call


FUNCTIONS = {
    "depthwise_conv1d": maybe_spoiled(conv(1)),
    "depthwise_conv2d": maybe_spoiled(conv(2)),
    "depthwise_conv3d": maybe_spoiled(conv(3)),
    "depthwise_conv_transpose1d": maybe_spoiled(transpose_strategies.conv(1)),
    "depthwise_conv_transpose2d": maybe_spoiled(transpose_strategies.conv(2)),
    "depthwise_conv_transpose3d": maybe_spoiled(transpose_strategies.conv(3)),
    "depth_max_pool": maybe_spoiled(pool()),
    "space_to_depth": maybe_spoiled(blocks("space_to_depth")),
    "depth_to_space": maybe_spoiled(blocks("depth_to_space")),
    "pixel_shuffle": maybe_spoiled(blocks("pixel_shuffle")),
    "pixel_unshuffle": maybe_spoiled(blocks("pixel_unshuffle")),
    "channel_shuffle": maybe_spoiled(channel_shuffle()),
    "global_avg_pool1d": maybe_spoiled(squeeze_target.pool(1)),
    "global_avg_pool2d": maybe_spoiled(squeeze_target.pool(2)),
    "global_avg_pool3d": maybe_spoiled(squeeze_target.pool(3)),
    "sigmoid_gate": maybe_spoiled(squeeze_target.gate()),
}
