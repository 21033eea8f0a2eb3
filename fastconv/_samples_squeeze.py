# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Problems of global average pooling and of the sigmoid gate: a part of :mod:`fastconv._samples`.

Channels and pixels are around multiples of 8 and 16; some planes are large enough for a task of
their own, and some channels-last images for several chunks.
"""

import math

from fastconv._samples import Sample, Shape, _unique, sample


def _gate(x: Shape, full: bool = False) -> Sample:
    gate = (*x[:2], *[1] * (len(x) - 2)) if full else x[:2]
    name = "x".join(map(str, x)) + ("-full" if full else "")
    return Sample(name, (x, gate), {})


def pool_terms(dims: int, problem: Sample) -> tuple[int, ...]:
    """Counts the terms of one average; a gradient is a division."""
    x = problem.shapes[0]
    assert x is not None
    return 1 + math.prod(x[-dims:]), 2


def gate_terms(problem: Sample) -> tuple[int, ...]:
    """A sigmoid is a few roundings; the gradient of a gate sums over an image."""
    x = problem.shapes[0]
    assert x is not None
    return 8, 8, 8 + math.prod(x[2:])


GLOBAL_AVG_POOL1D = _unique(
    [
        sample((2, 17, 50)),
        sample((3, 8, 64)),
        sample((1, 33, 7)),
        *(sample((2, c, 19)) for c in (1, 5, 16, 100)),
        *(sample((2, 6, n)) for n in (1, 2, 15, 16, 31, 257)),
        sample((1, 3, 5000)),
        sample((1, 130, 300)),
        sample((0, 4, 9)),
        sample((5, 9)),
    ]
)

GLOBAL_AVG_POOL2D = _unique(
    [
        sample((2, 17, 7, 7)),
        sample((3, 40, 5, 9)),
        sample((2, 8, 14, 14)),
        *(sample((2, c, 7, 6)) for c in (1, 3, 15, 16, 31, 64, 100)),
        *(sample((2, 5, h, w)) for h, w in ((1, 1), (1, 5), (4, 4), (16, 17), (33, 31))),
        sample((1, 130, 20, 15)),  # several chunks, channels-last
        sample((0, 4, 3, 3)),
        sample((6, 7, 8)),
    ]
)

GLOBAL_AVG_POOL3D = _unique(
    [
        sample((2, 17, 3, 4, 5)),
        sample((1, 8, 4, 4, 4)),
        sample((2, 3, 1, 5, 2)),
        sample((0, 4, 2, 3, 3)),
        sample((6, 3, 4, 5)),
    ]
)

SIGMOID_GATE = _unique(
    [
        _gate((2, 17, 7, 7)),
        _gate((3, 40, 5, 9), full=True),
        _gate((2, 8, 14, 14)),
        *(_gate((2, c, 7, 6)) for c in (1, 3, 15, 16, 31, 64, 100)),
        *(_gate((2, 5, h, w)) for h, w in ((1, 1), (1, 5), (4, 4), (16, 17), (33, 31))),
        _gate((1, 130, 20, 15), full=True),
        _gate((2, 9, 20)),
        _gate((2, 9, 20), full=True),
        _gate((2, 9, 3, 4, 5)),
        _gate((0, 4, 3, 3)),
        _gate((2, 4, 0, 3)),
    ]
)

SMALL_SQUEEZE = {
    "global_avg_pool1d": sample((2, 3, 5)),
    "global_avg_pool2d": sample((2, 3, 3, 2)),
    "global_avg_pool3d": sample((2, 2, 2, 3, 2)),
    "sigmoid_gate": _gate((2, 3, 3, 2)),
}
