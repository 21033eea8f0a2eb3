# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Brings the many spellings of integer arguments into the operators' one."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

# The functions of _C are short ways to the operators, which Dynamo cannot look into: what
# torch.compile sees is torch.ops.  They return None for calls that they leave to it as well.
compiling = torch.compiler.is_dynamo_compiling

Ints: TypeAlias = int | Sequence[int]
Padding: TypeAlias = str | int | Sequence[int] | Sequence[tuple[int, int]]
"""One int, one per dimension, one (begin, end) pair per dimension, or a mode's name."""


def require_tensor(function: str, argument: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{function}(): argument '{argument}' must be Tensor, not {type(value).__name__}"
        )


def as_int(function: str, argument: str, value: object, given: object) -> int:
    """What torch takes for an int: whatever has ``__index__``, such as NumPy's, but no bool."""
    if type(value) is int and -(2**63) <= value < 2**63:
        return value
    if isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]
    number = value
    if type(number) is not int:
        try:
            number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            number = None
        if number is None:
            raise TypeError(
                f"{function}(): argument '{argument}' must be int or tuple of ints, not {given!r}"
            )
    if not -(2**63) <= number < 2**63:
        raise ValueError(
            f"{function}(): argument '{argument}' does not fit into 64 bits, got {given!r}"
        )
    return number


def int_list(function: str, argument: str, value: Ints, length: int) -> list[int]:
    """One int becomes `length` of them; a sequence is taken as it is.

    Of a sequence torch refuses bools in the first place only, and so does this.
    """
    if isinstance(value, (tuple, list)):
        return [
            int(v) if i and isinstance(v, bool) else as_int(function, argument, v, value)
            for i, v in enumerate(value)
        ]
    return [as_int(function, argument, value, value)] * length


def per_dimension(function: str, argument: str, value: Ints, nd: int) -> list[int]:
    """As :func:`int_list`, for a function whose rank its name says: the operator cannot know."""
    values = int_list(function, argument, value, nd)
    if len(values) == 1:
        values = values * nd  # as torch.nn.functional does
    if len(values) != nd:
        raise RuntimeError(
            f"{function}: expected {argument} to be a single integer or a list of {nd} values to "
            f"match its dimensions, but got {argument}={value!r}"
        )
    return values


def _in_64_bits(value: int) -> int:
    """Leaves numbers beyond 64 bits so large that the operator refuses them, and able to pass."""
    return max(-(2**61), min(value, 2**61)) if type(value) is int else value


def padding_list(
    function: str,
    padding: Padding,
    input: Tensor,
    kernel: Sequence[int],
    stride: list[int],
    dilation: list[int],
) -> list[int]:
    """Any padding as (begin, end, begin, end, ...), one pair per dimension."""
    nd = len(stride)
    if isinstance(padding, str):
        if padding == "valid":
            return [0] * (2 * nd)
        if padding == "causal":
            if nd != 1:
                raise RuntimeError(f"{function}: padding='causal' is for 1-D convolutions only")
            return [_in_64_bits(dilation[0] * (kernel[0] - 1)), 0]
        if padding == "same":
            pairs = []
            sizes: Sequence[int] = input.shape[-nd:]
            # Under torch.jit.trace sizes are tensors, which it cannot pass on as ints.
            if not compiling() and torch._C._is_tracing():
                sizes, kernel = [int(n) for n in sizes], [int(k) for k in kernel]
            for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=False):
                total = _in_64_bits(d * (k - 1))
                if s != 1:
                    # TensorFlow's rule: ceil(size / s) outputs, the odd zero at the end.  The last
                    # one starts at (size - 1) // s * s and needs `total` elements after that one,
                    # of which (size - 1) % s are there.  So written, torch.export can see bounds.
                    there = (size - 1) % s if s > 0 else size - 1
                    total = total - there
                    if s < 1 or d * (k - 1) < s - 1:  # only then can it be negative
                        total = torch.sym_max(total, 0)  # type: ignore[no-untyped-call]
                pairs += [total // 2, (total + 1) // 2]
            return pairs
        raise RuntimeError(
            f"{function}: invalid padding string {padding!r}, should be one of "
            "'valid', 'same' or, in one dimension, 'causal'"
        )
    if isinstance(padding, (tuple, list)) and any(isinstance(p, (tuple, list)) for p in padding):
        pairs = []
        for pair in padding:
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise TypeError(
                    f"{function}(): argument 'padding' must have one (begin, end) pair per "
                    f"dimension, not {padding!r}"
                )
            pairs += int_list(function, "padding", pair, 2)
        if len(padding) != nd:  # half as many pairs would pass for one number per dimension
            raise RuntimeError(
                f"{function}: expected padding of {nd} (begin, end) pairs, but got {padding!r}"
            )
        return pairs
    each = per_dimension(function, "padding", padding, nd)  # type: ignore[arg-type]
    return [p for p in each for _ in range(2)]
