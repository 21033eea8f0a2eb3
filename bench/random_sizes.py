# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Convolutions that no model has: where kernels were tuned to some shapes, others show it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random

from case import Case

COUNT = 200
# Filters of each rank; those that occur twice are what models have.
_KERNELS: dict[int, list[tuple[int, ...]]] = {
    1: [(k,) for k in (2, 3, 3, 4, 4, 5, 7, 8, 9, 15, 31)],
    2: [(k, k) for k in (1, 2, 3, 3, 3, 3, 4, 5, 5, 7, 7, 9, 11, 13)]
    + [(1, 3), (3, 1), (1, 7), (7, 1), (3, 5), (1, 11), (11, 1)],
    3: [(3, 3, 3), (5, 1, 1), (3, 1, 1), (1, 3, 3), (1, 5, 5), (5, 3, 3), (2, 2, 2)],
}
_RANKS = (1, 1, 2, 2, 2, 2, 2, 3)
# Elements of the input: from what is bounded by the call to what comes from memory.
_ELEMENTS = (1e4, 1e5, 3e5, 1e6, 3e6, 6e6)


def _extent(random: Random, rank: int, pixels: float) -> tuple[int, ...]:
    """Lengths whose product is about `pixels`, up to 1.6 times as long as wide."""
    size: tuple[int, ...] = ()
    for left in range(rank, 0, -1):
        share = pixels ** (1 / left) * (random.uniform(0.6, 1.6) if left > 1 else 1)
        size += (max(1, int(share)),)
        pixels = max(1.0, pixels / size[-1])
    return size


def _draw(random: Random) -> Case | None:
    rank, batch = random.choice(_RANKS), random.choice((1, 1, 2, 4, 8))
    channels = random.choice(
        (
            random.randint(1, 64),
            random.randrange(8, 513, 8),
            random.randrange(16, 2049, 16),
            random.choice((96, 128, 192, 256, 384, 512, 768, 1024)),
        )
    )
    size = _extent(random, rank, max(1, random.choice(_ELEMENTS) / (batch * channels)))
    kernel = random.choice(_KERNELS[rank])
    stride = [random.choice((1, 1, 1, 2, 2, 3))] * rank
    if rank == 3 and random.random() < 0.5:
        stride[0] = 1
    spread = random.random() < 0.3
    dilation = [random.choice((1, 2, 3)) if spread and k > 1 else 1 for k in kernel]
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    padding = [random.choice((n // 2, n // 2, 0)) for n in reach]
    if any(n + 2 * p <= r for n, p, r in zip(size, padding, reach, strict=True)):
        return None
    steps = {"stride": stride, "dilation": dilation}
    args = {"padding": padding} | {name: n for name, n in steps.items() if set(n) != {1}}
    multiplier = random.choice((1,) * 8 + (2, 3))
    bias = random.random() < 0.4
    op = f"depthwise_conv{rank}d"
    return Case(op, (batch, channels, *size), kernel, multiplier, bias, args, "random")


def random_sizes(seed: int) -> list[Case]:
    """`COUNT` convolutions, the same for the same seed."""

    def drawn(random: Random) -> Iterator[Case]:
        while True:
            case = _draw(random)
            # A layer of seconds tells no more than one of milliseconds.
            if case and math.prod(case.shape) * case.multiplier * math.prod(case.kernel) < 1e9:
                yield case

    cases: dict[str, Case] = {}
    for case in drawn(Random(seed)):
        cases.setdefault(case.name, case)
        if len(cases) == COUNT:
            break
    return list(cases.values())
