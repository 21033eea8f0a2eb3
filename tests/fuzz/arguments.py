# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""What is wrong with a call, in words of the model, and the ways to write a list of ints."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

from calls import NOT_STRIDED, T

FLOATS = ("float32", "float64", "float16", "bfloat16")
LIMIT = 2**31


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing wrong: errors that may be raised for it, and a word their message must have.

    `ours` says that torch accepts such a call, or has no such argument.
    """

    types: tuple[type[Exception], ...]
    word: str
    ours: bool = False


def wrong_type(word: str, ours: bool = False) -> Problem:
    return Problem((TypeError,), word, ours)


def refused(word: str, ours: bool = False) -> Problem:
    return Problem((RuntimeError, NotImplementedError), word, ours)


def as_int(value: Any) -> int | None:
    """The value as an int if torch takes it for one."""
    if isinstance(value, (bool, str)):
        return None
    try:
        return operator.index(value)
    except (TypeError, RuntimeError):
        return None


def ints(value: Any, length: int, problems: list[Problem], name: str) -> list[int] | None:
    """One int for each dimension, or a problem."""
    single = as_int(value)
    values = [single] * length if single is not None else value
    if not isinstance(values, (tuple, list)) or any(
        as_int(v) is None and not (i and isinstance(v, bool)) for i, v in enumerate(values)
    ):  # torch refuses bools in the first place only
        problems.append(wrong_type(name))
        return None
    numbers = [operator.index(v) for v in values]
    if any(not -(2**63) <= v < 2**63 for v in numbers):
        problems.append(Problem((ValueError,), name, ours=True))  # in a list torch's is a TypeError
        return None
    return numbers


def per_dim(value: Any, length: int, problems: list[Problem], name: str) -> list[int] | None:
    values = ints(value, length, problems, name)
    if values is not None and len(values) == 1:
        values = values * length
    if values is not None and len(values) != length:
        problems.append(refused(name))
        return None
    return values


def tensor_of(spec: Any, name: str, problems: list[Problem]) -> T | None:
    if not isinstance(spec, T):
        problems.append(wrong_type(f"'{name}'"))
        return None
    if spec.layout in NOT_STRIDED:
        # Dispatched by torch to a backend that has no such kernel.
        problems.append(Problem((RuntimeError, NotImplementedError, ValueError), "", ours=True))
        return None
    return spec


def tensors_agree(x: T | None, w: T | None, b: T | None, found: list[Problem]) -> None:
    """What the tensors of a convolution must have in common."""
    tensors = [t for t in (x, w, b) if t is not None]
    if len({t.device for t in tensors}) > 1:
        found.append(refused("same device", ours=True))
    elif len({t.dtype for t in tensors}) > 1:
        # Some of torch's kernels take a bias of another dtype.
        found.append(refused("", ours=x is not None and w is not None and x.dtype == w.dtype))
    if any(t.dtype not in FLOATS for t in tensors):
        found.append(refused("", ours=True))
