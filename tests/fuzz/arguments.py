# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""What is wrong with a call, in words of the model, and the ways to write a list of ints."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any


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
    if not isinstance(values, (tuple, list)) or any(as_int(v) is None for v in values):
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
