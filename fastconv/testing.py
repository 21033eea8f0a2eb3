# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""The operators as data, and tools to test one with: what drives the tests and the benchmark.

``OP_SPECS`` lists the operators: for each the function, its reference, what a PyTorch user writes
today, a table of problems, and how large a rounding error may be.  Results are compared with the
reference in float64, element by element, against a bound that follows from the arithmetic:

    |y - y64| <= 1.1 * (g * u_acc * M + u_out * |y64|) + one subnormal step

M is the operator applied to the absolute values of its tensors (for a convolution ``|x| conv |w|``
plus ``|b|``), u_acc the unit roundoff of the accumulator (float32; float64 for float64), u_out
that of the result, and g the growth of the error over a sum of n terms: n in the worst case
(Higham), ``6 * sqrt(n)`` with near certainty for long sums (Higham and Mary, 2019); the smaller.
An operator that only moves data has n = 0 and must be exact.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fastconv
from fastconv import _samples, _samples_squeeze, _samples_transpose, reference
from fastconv._opspec import OpSpec, as_tuple, exact, rounding_bound
from fastconv._samples import Sample, conv_sample, sample
from fastconv._samples_transpose import transpose_sample

__all__ = [
    "LAYOUTS",
    "OP_SPECS",
    "SMALL_SAMPLES",
    "OpSpec",
    "Sample",
    "as_tuple",
    "assert_within",
    "conv_sample",
    "each_isa",
    "exact",
    "poison",
    "rounding_bound",
    "sample",
    "transpose_sample",
]

SMALL_SAMPLES = {
    **_samples.SMALL_SAMPLES,
    **_samples_transpose.SMALL_TRANSPOSED,
    **_samples_squeeze.SMALL_SQUEEZE,
}

FLOAT_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
ANY_DTYPES = (
    *FLOAT_DTYPES,
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2),
)


def assert_within(actual: Tensor, expected: Tensor, bound: Tensor, what: str = "") -> None:
    """Asserts that every element is within its bound, and that inf and NaN are where expected.

    Args:
        actual: The result under test.
        expected: What it should be, on the CPU.
        bound: How far each element may be off; 0 asks for equality.
        what: What to call it in the message.

    Raises:
        AssertionError: naming the worst element.
    """
    got = exact(actual)
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    if not got.is_floating_point() or got.dtype.itemsize == 1:
        assert torch.equal(_bits(got), _bits(expected)), f"{what}: not equal"
        return
    same = (got == expected) | (got.isnan() & expected.isnan())
    # What is too large for the result's type rounds to infinity.
    reached = expected.abs() + bound >= torch.finfo(actual.dtype).max
    same |= got.isinf() & (got.sign() == expected.sign()) & reached
    wrong = ~same & ~((got - expected).abs() <= bound)
    if not wrong.any():
        return
    ratio = torch.where(wrong, (got - expected).abs() / bound, -1.0).nan_to_num(math.inf)
    place = [int(i) for i in torch.unravel_index(ratio.argmax(), ratio.shape)]
    at = tuple(place)
    raise AssertionError(
        f"{what}: {int(wrong.sum())} of {wrong.numel()} elements are off; the worst, at {place}, "
        f"is {got[at].item()} instead of {expected[at].item()}, {ratio[at].item():.3g} times the "
        f"bound {bound[at].item():.3g}"
    )


def _bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.uint8) if tensor.dtype.itemsize == 1 else tensor


def poison(*likes: Tensor) -> None:
    """Leaves NaN in the memory that the allocator is about to hand out.

    An operator that forgets to write an element then returns a NaN there instead of what happened
    to be right.

    Args:
        *likes: Tensors of the sizes that will be asked for.
    """
    sizes = [t.untyped_storage().nbytes() for t in likes for _ in range(2)]
    # All ones are a NaN in every floating-point type.  All blocks live until the function returns.
    [torch.full((n,), 255, dtype=torch.uint8, device=likes[0].device) for n in sizes]


def each_isa(device: str | torch.device = "cpu") -> Iterator[str]:
    """Runs a loop's body once with every ISA level of this CPU, or once on another device.

    Args:
        device: Where the operators will run.

    Yields:
        The name of the level, or of the device.
    """
    from fastconv import _C

    if torch.device(device).type != "cpu":
        yield str(device)
        return
    before = _C.isa()
    try:
        for level in _C.isa_levels():
            _C.set_isa(level)
            yield level
    finally:
        _C.set_isa(before)


def _channels_last(t: Tensor, channel: int) -> Tensor:
    return t.movedim(channel, -1).contiguous().movedim(-1, channel)


def _steps(t: Tensor, channel: int) -> Tensor:
    big = t.new_empty([2 * n + 1 for n in t.shape])
    view = big[tuple(slice(1, None, 2) for _ in t.shape)]
    return view.copy_(t)


def _channel_slice(t: Tensor, channel: int) -> Tensor:
    shape = list(t.shape)
    shape[channel] += 5
    return _channels_last(t.new_empty(shape), channel).narrow(channel, 3, t.shape[channel]).copy_(t)


def _transposed(t: Tensor, channel: int) -> Tensor:
    axes = list(reversed(range(t.dim())))
    return t.permute(axes).contiguous().permute(axes)


def _offset(t: Tensor, channel: int) -> Tensor:
    return t.new_empty(t.numel() + 1)[1:].view(t.shape).copy_(t)


def _expanded(t: Tensor, channel: int) -> Tensor:
    return t[..., :1].expand_as(t)


# Ways to lay out a tensor in memory: a function of the tensor and of the place of its channels.
# All keep its values, except 'expanded', which repeats its first column with a stride of zero.
LAYOUTS: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "contiguous": lambda t, channel: t.contiguous(),
    "channels_last": _channels_last,
    "steps": _steps,
    "channel_slice": _channel_slice,
    "transposed": _transposed,
    "offset": _offset,
    "expanded": _expanded,
}


def _conv_terms(problem: Sample) -> tuple[int, ...]:
    x, w, b = problem.shapes
    assert x is not None and w is not None
    taps, multiplier = math.prod(w[2:]), w[0] // x[1 - len(w)]
    args = problem.kwargs
    dims = len(w) - 2
    stride = reference.per_dim(args.get("stride", 1), dims)
    dilation = reference.per_dim(args.get("dilation", 1), dims)
    pads = reference.conv_padding(x[-dims:], w[2:], stride, args.get("padding", 0), dilation)
    pixels = x[0] if len(x) == len(w) else 1
    for n, k, s, d, (begin, end) in zip(x[-dims:], w[2:], stride, dilation, pads, strict=True):
        pixels *= (n + begin + end - d * (k - 1) - 1) // s + 1
    return taps + (b is not None), taps * multiplier, pixels, pixels


def _native_conv(dims: int) -> Callable[..., Tensor]:
    conv: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]

    def native(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
    ) -> Tensor:
        step, dil = reference.per_dim(stride, dims), reference.per_dim(dilation, dims)
        size, groups = input.shape[-dims:], input.shape[-dims - 1]
        pads = reference.conv_padding(size, weight.shape[2:], step, padding, dil)
        if any(begin != end for begin, end in pads):
            input = F.pad(input, [p for pair in reversed(pads) for p in pair])
            pads = [(0, 0)] * dims
        return conv(input, weight, bias, stride, [p[0] for p in pads], dilation, groups)

    return native


def _native_pool(input: Tensor, kernel_size: Any, *args: Any, **kwargs: Any) -> Any:
    channels_alone = isinstance(kernel_size, int)
    if not channels_alone and len(kernel_size) > 3:
        raise NotImplementedError("PyTorch has no pooling over four dimensions")
    # One spatial dimension is enough where the window does not reach into it.
    x = input.flatten(2) if channels_alone else input
    if channels_alone:
        names = ("stride", "padding", "dilation")
        rest = {"stride": 1, "padding": 0, "dilation": 1}
        kwargs |= {k: (v, rest[k]) for k, v in zip(names, args, strict=False) if v is not None}
        kwargs |= {k: (kwargs[k], rest[k]) for k in names if isinstance(kwargs.get(k), int)}
        kernel_size, args = (kernel_size, 1), args[3:]
    pool = F.max_pool2d if len(kernel_size) == 2 else F.max_pool3d
    batched = x.dim() == len(kernel_size) + 1
    x = x.unsqueeze(1) if batched else x.unsqueeze(0).unsqueeze(0)
    results = as_tuple(pool(x, kernel_size, *args, **kwargs))
    results = tuple(t.squeeze(1) if batched else t[0, 0] for t in results)
    if channels_alone:
        results = tuple(t.reshape(*t.shape[:2], *input.shape[2:]) for t in results)
    return results if len(results) > 1 else results[0]


def _native_space_to_depth(input: Tensor, block_size: Any, order: str = "dcr") -> Tensor:
    if order == "crd" and input.dim() == 4 and isinstance(block_size, int):
        return F.pixel_unshuffle(input, block_size)
    return reference.space_to_depth(input, block_size, order)  # view, permute, reshape


def _native_depth_to_space(input: Tensor, block_size: Any, order: str = "dcr") -> Tensor:
    if order == "crd" and input.dim() == 4 and isinstance(block_size, int):
        return F.pixel_shuffle(input, block_size)
    return reference.depth_to_space(input, block_size, order)


def _conv_spec(dims: int, samples: tuple[Sample, ...]) -> OpSpec:
    name = f"depthwise_conv{dims}d"
    op, oracle = getattr(fastconv, name), getattr(reference, name)
    native = _native_conv(dims)
    return OpSpec(name, op, oracle, native, samples, FLOAT_DTYPES, FLOAT_DTYPES, _conv_terms)


def _transpose_spec(dims: int, samples: tuple[Sample, ...]) -> OpSpec:
    name = f"depthwise_conv_transpose{dims}d"
    op, oracle = getattr(fastconv, name), getattr(reference, name)
    conv: Callable[..., Tensor] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[
        dims - 1
    ]

    def native(input: Tensor, weight: Tensor, bias: Tensor | None = None, **kwargs: Any) -> Tensor:
        return conv(input, weight, bias, groups=weight.shape[0], **kwargs)

    terms = _samples_transpose.transpose_terms
    return OpSpec(name, op, oracle, native, samples, FLOAT_DTYPES, FLOAT_DTYPES, terms)


def _move_spec(name: str, native: Callable[..., Tensor], samples: tuple[Sample, ...]) -> OpSpec:
    op, oracle = getattr(fastconv, name), getattr(reference, name)
    grad_dtypes = (*FLOAT_DTYPES, torch.complex64, torch.complex128)
    return OpSpec(name, op, oracle, native, samples, ANY_DTYPES, grad_dtypes, lambda _: (0, 0))


def _global_pool_spec(dims: int, samples: tuple[Sample, ...]) -> OpSpec:
    name = f"global_avg_pool{dims}d"
    op, oracle = getattr(fastconv, name), getattr(reference, name)
    pools = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)
    pool: Callable[..., Tensor] = pools[dims - 1]

    def native(input: Tensor) -> Tensor:
        return pool(input, 1)

    terms = partial(_samples_squeeze.pool_terms, dims)
    return OpSpec(name, op, oracle, native, samples, FLOAT_DTYPES, FLOAT_DTYPES, terms)


def _native_gate(input: Tensor, gate: Tensor) -> Tensor:
    return input * gate.sigmoid().view(*input.shape[:2], *[1] * (input.dim() - 2))


def _pool_terms(problem: Sample) -> tuple[int, ...]:
    # A gradient sums over the windows that an element may win.
    kernel = problem.kwargs["kernel_size"]
    return 0, kernel if isinstance(kernel, int) else math.prod(kernel)


OP_SPECS: tuple[OpSpec, ...] = (
    _conv_spec(1, _samples.CONV1D),
    _conv_spec(2, _samples.CONV2D),
    _conv_spec(3, _samples.CONV3D),
    _transpose_spec(1, _samples_transpose.CONV_TRANSPOSE1D),
    _transpose_spec(2, _samples_transpose.CONV_TRANSPOSE2D),
    _transpose_spec(3, _samples_transpose.CONV_TRANSPOSE3D),
    OpSpec(
        "depth_max_pool",
        fastconv.depth_max_pool,
        reference.depth_max_pool,
        _native_pool,
        _samples.DEPTH_MAX_POOL,
        FLOAT_DTYPES,
        FLOAT_DTYPES,
        _pool_terms,
    ),
    _global_pool_spec(1, _samples_squeeze.GLOBAL_AVG_POOL1D),
    _global_pool_spec(2, _samples_squeeze.GLOBAL_AVG_POOL2D),
    _global_pool_spec(3, _samples_squeeze.GLOBAL_AVG_POOL3D),
    OpSpec(
        "sigmoid_gate",
        fastconv.sigmoid_gate,
        reference.sigmoid_gate,
        _native_gate,
        _samples_squeeze.SIGMOID_GATE,
        FLOAT_DTYPES,
        FLOAT_DTYPES,
        _samples_squeeze.gate_terms,
    ),
    _move_spec("space_to_depth", _native_space_to_depth, _samples.SPACE_TO_DEPTH),
    _move_spec("depth_to_space", _native_depth_to_space, _samples.DEPTH_TO_SPACE),
    _move_spec("pixel_shuffle", F.pixel_shuffle, _samples.PIXEL_SHUFFLE),
    _move_spec("pixel_unshuffle", F.pixel_unshuffle, _samples.PIXEL_UNSHUFFLE),
    _move_spec("channel_shuffle", F.channel_shuffle, _samples.CHANNEL_SHUFFLE),
)
