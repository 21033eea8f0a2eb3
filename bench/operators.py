# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""The calls behind a case: ours, PyTorch's own, and the least work that either must do.

PyTorch's calls are bare: a wrapper that sorted out arguments would be timed with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from blocks import BlockCall, flops, parameter_shapes
from cases import Case
from torch import Tensor

# Called with the input and, for a convolution, weight and bias.
Call = Callable[..., Tensor]


# On a CPU one thread makes all random numbers, so large tensors repeat so many: a prime, since
# rows, planes and images are not to be equal.
_RANDOM = (1 << 22) - 3


def random_tensor(shape: Sequence[int], dtype: torch.dtype, device: str) -> Tensor:
    """Random values of either sign in [0.25, 1): no denormals, no overflow.

    Integers are any of their dtype's.
    """
    size = math.prod(shape)
    if size > _RANDOM and not device.startswith("cuda"):
        some = random_tensor((_RANDOM,), dtype, device)
        out = torch.empty(tuple(shape), dtype=dtype, device=device)
        for piece in out.view(-1).split(_RANDOM):
            piece.copy_(some[: piece.numel()])
        return out
    if not dtype.is_floating_point:
        return torch.randint(256, tuple(shape), dtype=dtype, device=device)
    values = torch.empty(tuple(shape), device=device).uniform_(0.25, 1)
    sign = torch.empty_like(values).uniform_(-1, 1)
    return values.copysign_(sign).to(dtype)


def to_layout(x: Tensor, layout: str) -> Tensor:
    """The same values with channels first or last in memory; rank 3 has no name for the latter."""
    if layout == "contiguous":
        return x.contiguous()
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def tensors_of(case: Case, device: str) -> tuple[Tensor, ...]:
    """Fresh random input, weight and bias."""
    dtype = getattr(torch, case.dtype)
    tensors = [to_layout(random_tensor(case.shape, dtype, device), case.layout)]
    if case.is_conv:
        channels = case.shape[1] * case.multiplier
        filters = (channels, 1)
        if case.is_transposed:
            filters = (case.shape[1], case.multiplier)
        tensors.append(random_tensor((*filters, *case.kernel), dtype, device))
        if case.bias:
            tensors.append(random_tensor((channels,), dtype, device))
    elif case.op == "sigmoid_gate":
        tensors.append(random_tensor(case.shape[:2], dtype, device))
    elif case.is_block:
        for shape in parameter_shapes(case.op, case.shape[1], case.args):
            # As initialisers do, so that activations neither vanish nor explode.
            fan_in = max(1, math.prod(shape[1:]))
            tensors.append(random_tensor(shape, dtype, device) / math.sqrt(fan_in))
    return tuple(tensors)


def ours(case: Case) -> Call:
    """The public function with the case's arguments."""
    import fastconv

    if case.is_block:
        return BlockCall(case.op, case.shape[1], case.args, native=False)
    function, args = getattr(fastconv, case.op), dict(case.args)
    return lambda *tensors: function(*tensors, **args)


def natives(case: Case) -> dict[str, Call]:
    """What a PyTorch user writes without fastconv; "native" first."""
    args = case.args
    if case.is_block:
        return {"native": BlockCall(case.op, case.shape[1], args, native=True)}
    if case.is_conv:
        return {"native": _native_conv(case)}
    if case.op == "global_avg_pool2d":
        return {
            "native": lambda x: F.adaptive_avg_pool2d(x, 1),
            "mean": lambda x: x.mean((2, 3), keepdim=True),
        }
    if case.op == "sigmoid_gate":
        return {"native": lambda x, g: x * torch.sigmoid(g)[..., None, None]}
    if case.op == "depth_max_pool":
        return _native_pools(case)
    if case.op == "pixel_shuffle":
        return {"native": lambda x: F.pixel_shuffle(x, args["upscale_factor"])}
    if case.op == "pixel_unshuffle":
        return {"native": lambda x: F.pixel_unshuffle(x, args["downscale_factor"])}
    if case.op == "channel_shuffle":
        return {"native": lambda x: F.channel_shuffle(x, args["groups"])}
    block, order = args["block_size"], args["order"]
    if case.op == "space_to_depth":
        if order == "focus":
            return {"native": lambda x: _focus(x, block)}
        if order == "crd":
            return {"native": lambda x: F.pixel_unshuffle(x, block)}
        return {"native": lambda x: _space_to_depth_dcr(x, block)}
    if order == "crd":
        return {"native": lambda x: F.pixel_shuffle(x, block)}
    return {"native": lambda x: _depth_to_space_dcr(x, block)}


def in_two_passes(case: Case) -> dict[str, Call]:
    """Our convolution with torch's activation after it, and on its own."""
    import fastconv

    args = dict(case.args)
    name = args.pop("activation", None)
    if name is None:
        return {}
    conv, activate = getattr(fastconv, case.op), _ACTIVATIONS[name]
    return {
        "two passes": lambda *tensors: activate(conv(*tensors, **args)),
        "conv alone": lambda *tensors: conv(*tensors, **args),
    }


# In place, as the models do.
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": partial(F.relu, inplace=True),
    "relu6": partial(F.relu6, inplace=True),
    "hardswish": partial(F.hardswish, inplace=True),
    "silu": partial(F.silu, inplace=True),
    "gelu": F.gelu,
}


def _native_conv(case: Case) -> Call:
    bare = _native_conv_alone(case)
    if "activation" not in case.args:
        return bare
    activate = _ACTIVATIONS[case.args["activation"]]
    return lambda *tensors: activate(bare(*tensors))


def _native_conv_alone(case: Case) -> Call:
    conv = (F.conv1d, F.conv2d, F.conv3d)[len(case.kernel) - 1]
    if case.is_transposed:
        transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
        conv = transposed[len(case.kernel) - 1]
    args, groups = dict(case.args), case.shape[1]
    args.pop("activation", None)
    if args.get("padding") != "causal":
        return lambda *tensors: conv(*tensors, groups=groups, **args)
    args["padding"] = args.get("dilation", 1) * (case.kernel[0] - 1)
    length = case.shape[2]
    # Mamba's own fallback: pad both sides, drop the tail.
    return lambda *tensors: conv(*tensors, groups=groups, **args)[..., :length]


def _native_pools(case: Case) -> dict[str, Call]:
    size = case.args["kernel_size"]
    args = {key: value for key, value in case.args.items() if key != "kernel_size"}
    if not isinstance(size, int):
        return {"native": lambda x: F.max_pool3d(x.unsqueeze(1), size, **args).squeeze(1)}
    calls: dict[str, Call] = {
        "native": lambda x: F.max_pool3d(x.unsqueeze(1), (size, 1, 1)).squeeze(1)
    }
    if not args and case.shape[1] % size == 0:
        groups = case.shape[1] // size
        calls["view+amax"] = lambda x: x.unflatten(1, (groups, size)).amax(2)
        calls["chunk loop"] = lambda x: torch.cat(
            [chunk.max(1, keepdim=True).values for chunk in x.chunk(groups, 1)], 1
        )
    return calls


def _focus(x: Tensor, block: int) -> Tensor:
    offsets = [(dy, dx) for dx in range(block) for dy in range(block)]
    return torch.cat([x[..., dy::block, dx::block] for dy, dx in offsets], 1)


def _space_to_depth_dcr(x: Tensor, block: int) -> Tensor:
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, c * block * block, h // block, w // block)


def _depth_to_space_dcr(x: Tensor, block: int) -> Tensor:
    n, c, h, w = x.shape
    x = x.reshape(n, block, block, c // (block * block), h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, c // (block * block), h * block, w * block)


def in_mode(call: Call, tensors: Sequence[Tensor], mode: str) -> Callable[[], Any]:
    """`call` as the pass asks for it, closed over its tensors.

    Gradients are returned, not accumulated, and the incoming one is random and has the layout of
    the output.
    """
    if mode == "forward":
        return lambda: call(*tensors)
    leaves = tuple(tensor.detach().requires_grad_() for tensor in tensors)
    out = call(*leaves)
    grad = torch.empty_like(out).copy_(random_tensor(out.shape, out.dtype, str(out.device)))
    if mode == "backward":
        return partial(torch.autograd.grad, out, leaves, grad, retain_graph=True)
    # No closure over `out`: that would keep a graph and its tensors alive.
    return partial(_step, call, leaves, grad)


def _step(call: Call, leaves: Sequence[Tensor], grad: Tensor) -> Any:
    return torch.autograd.grad(call(*leaves), leaves, grad)


def least_bytes(case: Case, tensors: Sequence[Tensor], out: Tensor) -> int:
    """Bytes that must move: each tensor that a pass needs is read once, each result written once.

    A training step is two passes over memory: the backward reads what it needs again.
    """
    x, params, y = tensors[0].nbytes, sum(tensor.nbytes for tensor in tensors[1:]), out.nbytes
    forward = x + params + y
    backward = y + x
    if case.is_conv or case.is_block or case.op == "sigmoid_gate":
        backward += x + 2 * params
    elif case.op == "depth_max_pool":
        # Which element won: at least a byte an output, written forward, read backward.
        backward += out.numel()
        forward += out.numel() if case.mode == "both" else 0
    return {"forward": forward, "backward": backward, "both": forward + backward}[case.mode]


def big_outputs(case: Case) -> int:
    """How many tensors of the size of an activation the pass allocates."""
    return 2 if case.mode == "both" else 1


def least_flops(case: Case, out: Tensor) -> int:
    """Multiply-adds counted twice, of the taps that fall inside the input, not on padding."""
    times = {"forward": 1, "backward": 2, "both": 3}[case.mode]
    if case.is_block:
        native = BlockCall(case.op, case.shape[1], case.args, native=True)
        return times * flops(native, tensors_of(case, str(out.device)))
    if not case.is_conv:
        return 0
    from fastconv.reference import conv_padding

    rank, args = len(case.kernel), case.args

    def each(value: Any) -> tuple[int, ...]:
        return (value,) * rank if isinstance(value, int) else tuple(value)

    size, stride = case.shape[2:], each(args.get("stride", 1))
    dilation = each(args.get("dilation", 1))
    if case.is_transposed:
        taps = math.prod(
            sum(0 <= i * s + t * d - p < outs for i in range(n) for t in range(k))
            for n, outs, k, s, d, p in zip(
                size, out.shape[2:], case.kernel, stride, dilation, each(args["padding"]),
                strict=True,
            )
        )  # fmt: skip
        return times * 2 * taps * case.shape[0] * case.shape[1] * case.multiplier
    pads = conv_padding(size, case.kernel, stride, args.get("padding", 0), dilation)
    taps = math.prod(
        sum(0 <= o * s + t * d - p < n for o in range(outs) for t in range(k))
        for n, outs, k, s, d, (p, _) in zip(
            size, out.shape[2:], case.kernel, stride, dilation, pads, strict=True
        )
    )
    forward = 2 * taps * case.shape[0] * case.shape[1] * case.multiplier
    # The gradients of input and weight are as much work again, each.
    return forward * times
