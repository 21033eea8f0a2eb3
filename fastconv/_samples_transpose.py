# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Problems of transposed depthwise convolution: a part of :mod:`fastconv._samples`.

They walk over strides, dilations and what they have in common, kernels smaller than the stride, and
paddings that crop; sizes and channels are around multiples of 8 and 16.
"""

import math
from collections.abc import Sequence
from typing import Any

from fastconv._reference_transpose import transposed_size
from fastconv._samples import Sample, _text, _unique
from fastconv.reference import per_dim


def transpose_sample(
    size: Sequence[int],
    kernel: Sequence[int],
    *,
    n: int | None = 2,
    c: int = 8,
    m: int = 1,
    bias: bool = True,
    **kwargs: Any,
) -> Sample:
    """Describes a transposed depthwise convolution, with a name that says it all.

    Args:
        size: Spatial size of the input.
        kernel: Spatial size of the kernel.
        n: Batch size; None for an unbatched input.
        c: Channels of the input.
        m: Channel multiplier.
        bias: Whether there is a bias.
        **kwargs: stride, padding, output_padding and dilation, where they are not the defaults.
    """
    name = "" if n is None else f"n{n}"
    name += f"c{c}" + (f"m{m}" if m > 1 else "") + f"-{_text(size)}-k{_text(kernel)}"
    name += "".join(f"-{key[0]}{_text(value)}" for key, value in kwargs.items())
    name += "" if bias else "-nobias"
    batch = () if n is None else (n,)
    shapes = ((*batch, c, *size), (c, m, *kernel), (c * m,) if bias else None)
    return Sample(name, shapes, kwargs)


def transpose_terms(problem: Sample) -> tuple[int, ...]:
    """Counts the terms of one element of the result, and of the gradient of each tensor."""
    x, w, b = problem.shapes
    assert x is not None and w is not None
    args, dims = problem.kwargs, len(w) - 2
    stride = per_dim(args.get("stride", 1), dims)
    dilation = per_dim(args.get("dilation", 1), dims)
    # An output meets every so-many-th tap of each dimension.
    steps = [s // math.gcd(s, d) for s, d in zip(stride, dilation, strict=True)]
    met = math.prod(-(-k // step) for k, step in zip(w[2:], steps, strict=True))
    batch = x[0] if len(x) == len(w) else 1
    pixels = batch * math.prod(x[-dims:])
    out = batch * math.prod(transposed_size(x[-dims:], w[2:], **args))
    return met + (b is not None), math.prod(w[1:]), pixels, out


_t = transpose_sample

CONV_TRANSPOSE1D = _unique(
    [
        _t((17,), (4,), c=17, stride=2, padding=1),
        _t((16,), (3,), c=8, padding=1),
        _t((9,), (3,), c=3, m=2, stride=3, dilation=2, output_padding=2, bias=False),
        _t((1024,), (4,), n=1, c=36, stride=2, padding=1),
        *(_t((21,), (k,), c=18, stride=s) for k in (1, 2, 5, 8, 31) for s in (1, 2, 4)),
        *(_t((w,), (3,), c=5, stride=2, padding=1, output_padding=1) for w in (1, 7, 8, 9, 16, 33)),
        *(_t((13,), (5,), c=c, stride=2, padding=2) for c in (1, 3, 16, 31, 64, 100)),
        *(_t((11,), (4,), c=8, stride=s, dilation=d) for s in (1, 2, 4, 6) for d in (2, 3, 6)),
        *(_t((9,), (4,), c=4, m=m, stride=2, padding=1) for m in (2, 3, 5)),
        *(_t((9,), (3,), n=n, c=4, stride=2) for n in (0, 1, 3)),
        _t((12,), (4,), n=None, c=7, stride=2, padding=1),
        _t((5,), (2,), c=20, stride=7, output_padding=6),
        _t((9,), (2,), c=4, padding=4),
        _t((9,), (3,), c=4, padding=6, stride=2, dilation=2),
    ]
)

CONV_TRANSPOSE2D = _unique(
    [
        _t((7, 9), (3, 3), c=17, stride=2, padding=1, output_padding=1),
        _t((8, 6), (4, 4), c=8, stride=2, padding=1, bias=False),
        _t((5, 6), (3, 2), c=3, m=2, stride=(1, 3), output_padding=(0, 2), dilation=(2, 1)),
        *(_t((9, 10), (k, k), c=17, padding=k // 2, bias=k % 2 > 0) for k in (1, 2, 3, 5, 7)),
        _t((9, 12), (3, 3), c=64, padding=1),
        _t((10, 11), (13, 31), n=1, c=3, padding=(6, 15)),
        *(_t((6, 9), (k, k), c=16, stride=s) for k in (1, 2, 3, 4, 5) for s in (2, 3, (2, 1))),
        *(_t((7, 8), (3, 4), c=9, stride=s, dilation=d) for s in (1, 2, 3) for d in (2, (1, 3))),
        _t((7, 6), (3, 3), c=6, stride=4, dilation=6, padding=3, output_padding=5),
        *(
            _t((6, 7), (3, 3), c=c, m=m, stride=s, padding=1)
            for c, m, s in ((8, 2, 1), (8, 2, 2), (5, 3, 1), (1, 3, 2), (16, 5, 1), (17, 2, 2))
        ),
        *(_t((5, 6), (3, 3), c=c, stride=2, padding=1) for c in (1, 3, 16, 31, 33, 100)),
        *(_t((3, w), (3, 3), c=5, padding=1) for w in (1, 7, 15, 16, 17, 33, 64)),
        *(_t((3, w), (4, 4), c=16, stride=2, padding=1) for w in (1, 7, 8, 9, 16, 17)),
        *(_t((4, 5), (2, 2), n=n, c=4, stride=2) for n in (0, 1, 3)),
        _t((4, 5), (3, 3), n=None, c=7, stride=2, padding=1),
        _t((4, 5), (3, 2), n=None, c=4, m=2),
        _t((1, 1), (5, 6), c=17, padding=(2, 1)),
        _t((1, 1), (1, 1), c=33),
        _t((6, 7), (2, 3), c=17, padding=(3, 4)),
        _t((3, 2), (2, 1), c=8, stride=(9, 7), output_padding=(8, 0), padding=(2, 3)),
    ]
)

CONV_TRANSPOSE3D = _unique(
    [
        _t((3, 4, 5), (3, 3, 3), c=17, stride=2, padding=1, output_padding=1),
        _t((3, 5, 6), (3, 4, 4), c=8, stride=(1, 2, 2), padding=1),
        _t((2, 3, 4), (2, 1, 3), c=3, m=2, stride=(2, 1, 3), dilation=(1, 1, 2), bias=False),
        *(_t((4, 5, 6), (k, k, k), n=1, c=5, padding=k // 2) for k in (1, 2, 3)),
        *(_t((4, 3, 9), (2, 2, 2), c=4, stride=s) for s in (2, 3, (2, 1, 3))),
        *(_t((4, 3, 5), (3, 3, 2), c=4, stride=2, dilation=d) for d in (2, (1, 2, 3))),
        *(_t((2, 3, 4), (3, 3, 3), c=c, padding=1) for c in (1, 16, 31, 64)),
        *(_t((2, 3, 4), (2, 3, 3), c=4, m=m, stride=2) for m in (2, 3)),
        *(_t((2, 3, 4), (2, 2, 2), n=n, c=3, stride=2) for n in (0, 1, 3)),
        _t((3, 2, 3), (3, 3, 3), n=None, c=6, stride=2, padding=1),
        _t((3, 4, 4), (1, 2, 2), c=4, padding=(1, 1, 2)),
    ]
)

# A tiny problem for each, for checks that are slow in the number of elements.
SMALL_TRANSPOSED = {
    "depthwise_conv_transpose1d": _t((4,), (3,), c=2, m=2, stride=2, padding=1, output_padding=1),
    "depthwise_conv_transpose2d": _t((3, 4), (3, 2), c=2, stride=(2, 1), padding=(1, 0)),
    "depthwise_conv_transpose3d": _t(
        (2, 2, 3), (2, 3, 2), c=2, stride=(1, 2, 1), padding=(0, 1, 0)
    ),
}
