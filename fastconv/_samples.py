# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""The tables of problems that :mod:`fastconv.testing` puts to every operator.

They walk over the edges of kernels: channel and column counts around multiples of 8 and 16, windows
that touch no, one or both borders, and the corner cases of every argument.  The first three samples
of a table stand for all of it where a check is too slow for more.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastconv.reference import per_dim

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Sample:
    """One problem: shapes of an operator's tensors and its other arguments.

    Attributes:
        name: A readable name, unique within an operator; pytest shows it.
        shapes: Shapes of the tensors, in the operator's positional order.  None is passed as None.
        kwargs: The arguments that are not tensors.
    """

    name: str
    shapes: tuple[Shape | None, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def tensors(
        self,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        generator: torch.Generator | None = None,
    ) -> list[Tensor | None]:
        """Draws the tensors: normal values, or small integers for types that hold nothing else.

        Args:
            dtype: Type of every tensor.
            device: Where they are put.  Values are drawn on the CPU, whatever the device.
            generator: Source of the values; torch's default generator without one.
        """
        return [None if s is None else _draw(s, dtype, device, generator) for s in self.shapes]


def _draw(
    shape: Shape,
    dtype: torch.dtype,
    device: str | torch.device,
    generator: torch.Generator | None,
) -> Tensor:
    if torch.device(device).type == "meta":
        return torch.empty(shape, dtype=dtype, device=device)
    if dtype.is_complex:
        return torch.randn(shape, dtype=dtype, generator=generator).to(device)
    if dtype.is_floating_point:
        return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype).to(device)
    low, high = (0, 2) if dtype == torch.bool else (0, 100)
    return torch.randint(low, high, shape, generator=generator).to(dtype).to(device)


def _text(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "x".join("+".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in value)
    return str(value)


def conv_sample(
    size: Sequence[int],
    kernel: Sequence[int],
    *,
    n: int | None = 2,
    c: int = 8,
    m: int = 1,
    bias: bool = True,
    **kwargs: Any,
) -> Sample:
    """Describes a depthwise convolution, with a name that says it all.

    Args:
        size: Spatial size of the input.
        kernel: Spatial size of the kernel.
        n: Batch size; None for an unbatched input.
        c: Channels of the input.
        m: Channel multiplier.
        bias: Whether there is a bias.
        **kwargs: stride, padding, dilation and activation, where they are not the defaults.
    """
    name = "" if n is None else f"n{n}"
    name += f"c{c}" + (f"m{m}" if m > 1 else "") + f"-{_text(size)}-k{_text(kernel)}"
    name += "".join(f"-{key[0]}{_text(value)}" for key, value in kwargs.items())
    name += "" if bias else "-nobias"
    batch = () if n is None else (n,)
    shapes = ((*batch, c, *size), (c * m, 1, *kernel), (c * m,) if bias else None)
    return Sample(name, shapes, kwargs)


def sample(shape: Shape, **kwargs: Any) -> Sample:
    """Describes a problem of an operator that takes one tensor, likewise.

    Args:
        shape: Shape of the tensor.
        **kwargs: The operator's other arguments.
    """
    name = "-".join([_text(shape), *(f"{key}_{_text(value)}" for key, value in kwargs.items())])
    return Sample(name, (shape,), kwargs)


def _unique(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    return tuple({s.name: s for s in samples}.values())


CONV1D = _unique(
    [
        conv_sample((33,), (4,), c=17, padding="causal"),
        conv_sample((31,), (5,), c=8, stride=2, padding="same"),
        conv_sample((16,), (3,), c=3, m=2, padding=((2, 0),), dilation=2, bias=False),
        conv_sample((2048,), (4,), n=1, c=36, padding="causal"),
        conv_sample((2048,), (4,), n=1, c=16, padding="causal", dilation=3, bias=False),
        *(
            conv_sample((40,), (k,), c=18, padding=k // 2, bias=k % 2 > 0)
            for k in (1, 2, 3, 4, 5, 7, 9, 13, 31)
        ),
        *(conv_sample((w,), (3,), c=5, padding=1) for w in (1, 5, 7, 14, 15, 16, 17, 33, 64, 100)),
        *(conv_sample((w,), (4,), c=16, padding="causal") for w in (1, 2, 3, 15, 16, 17, 65)),
        *(conv_sample((21,), (7,), c=c, padding="same") for c in (1, 3, 8, 16, 17, 31, 64, 100)),
        *(
            conv_sample((w,), (k,), c=9, stride=s, padding="same")
            for s in (2, 3)
            for w in (15, 16, 17)
            for k in (1, 2, 5)
        ),
        *(conv_sample((50,), (k,), c=8, stride=2, dilation=3, padding=4) for k in (3, 4)),
        *(conv_sample((19,), (3,), c=4, m=m, padding="causal") for m in (2, 3, 5)),
        *(conv_sample((19,), (3,), n=n, c=4, padding=1) for n in (0, 1, 3)),
        conv_sample((33,), (5,), n=None, c=7, padding="same", dilation=2),
        conv_sample((100,), (51,), c=4, padding=25),
        conv_sample((7,), (7,), c=4),
        conv_sample((3,), (3,), c=4, padding=9, dilation=4),
        conv_sample((5,), (2,), c=20, padding=((0, 6),), stride=3),
    ]
)

CONV2D = _unique(
    [
        conv_sample((14, 15), (3, 3), c=17, padding=1),
        conv_sample((9, 12), (5, 3), c=8, stride=2, padding="same"),
        conv_sample((10, 7), (3, 2), c=3, m=2, padding=((2, 0), (1, 2)), dilation=(1, 2)),
        *(
            conv_sample((14, 17), (k, k), c=17, padding=k // 2, bias=k % 2 > 0)
            for k in (1, 2, 3, 4, 5, 7, 9, 13)
        ),
        conv_sample((20, 33), (31, 31), n=1, c=3, padding=15),
        conv_sample((9, 60), (5, 51), n=1, c=4, padding=(2, 25)),
        conv_sample((60, 9), (51, 5), n=1, c=17, padding=(25, 2), bias=False),
        *(
            conv_sample((12, 19), k, c=18, padding="same")
            for k in ((1, 7), (7, 1), (1, 3), (3, 1), (2, 5), (6, 4))
        ),
        *(
            conv_sample((15, 18), (k, k), c=16, stride=s, padding=k // 2, bias=False)
            for k in (3, 5, 7)
            for s in (2, 3, (2, 1), (1, 3))
        ),
        *(conv_sample((11, 10), (2, 2), c=9, stride=s) for s in (2, 3)),
        conv_sample((11, 10), (1, 1), c=9, stride=(3, 2)),
        *(
            conv_sample((17, 16), (3, 3), c=17, dilation=d, padding=3)
            for d in (2, 3, (1, 3), (2, 1))
        ),
        conv_sample((17, 16), (5, 5), c=6, dilation=2),
        conv_sample((17, 16), (3, 5), c=6, dilation=(3, 2), stride=(2, 3), padding=(3, 1)),
        *(
            conv_sample((h, w), (k, k), c=8, stride=s, padding="same")
            for s in (2, 3)
            for h, w in ((14, 15), (15, 14), (1, 2))
            for k in (2, 3, 4)
        ),
        conv_sample((9, 9), (3, 3), c=8, stride=2, dilation=2, padding="same"),
        conv_sample((9, 9), (4, 3), c=8, padding="valid"),
        *(
            conv_sample((12, 13), (3, 3), c=c, m=m, padding=1, stride=s)
            for c, m, s in ((8, 2, 1), (8, 2, 2), (5, 3, 1), (1, 3, 2), (16, 5, 1), (17, 2, 1))
        ),
        conv_sample((13, 12), (7, 7), c=9, m=3, padding=3, bias=False),
        *(conv_sample((9, 10), (3, 3), c=c, padding=1) for c in (1, 3, 8, 16, 17, 31, 64, 100)),
        *(conv_sample((7, 7), (7, 7), n=1, c=c, padding=3) for c in (16, 31, 100)),
        *(
            conv_sample((5, w), (3, 3), c=5, padding=1)
            for w in (1, 5, 7, 14, 15, 16, 17, 33, 64, 100)
        ),
        *(conv_sample((6, w), (5, 5), c=16, stride=2, padding=2) for w in (1, 7, 15, 16, 17, 33)),
        *(conv_sample((8, 9), (3, 3), n=n, c=4, padding=1) for n in (0, 1, 3)),
        conv_sample((8, 9), (3, 3), n=None, c=7, padding="same"),
        conv_sample((8, 9), (5, 3), n=None, c=4, m=2, stride=2),
        conv_sample((5, 6), (5, 6), c=4),
        conv_sample((3, 4), (5, 6), c=17, padding=1),
        conv_sample((3, 4), (3, 3), c=5, padding=7, dilation=5),
        conv_sample((4, 3), (3, 3), c=17, padding=7),
        conv_sample((4, 3), (2, 3), c=17, padding=((9, 0), (0, 8)), stride=2),
        conv_sample((1, 1), (3, 3), c=33, padding=1),
    ]
)

CONV3D = _unique(
    [
        conv_sample((5, 6, 7), (3, 3, 3), c=17, padding=1),
        conv_sample((5, 6, 9), (3, 2, 3), c=8, stride=(1, 2, 2), padding="same"),
        conv_sample((4, 6, 5), (2, 1, 3), c=3, m=2, padding=((1, 0), (0, 0), (2, 1)), bias=False),
        *(conv_sample((7, 8, 9), (k, k, k), n=1, c=5, padding=k // 2) for k in (1, 2, 3, 5)),
        *(
            conv_sample((6, 7, 16), k, c=9, padding="same")
            for k in ((1, 3, 3), (3, 1, 1), (1, 1, 5), (3, 5, 7))
        ),
        *(conv_sample((7, 8, 9), (3, 3, 3), c=4, stride=s, padding=1) for s in (2, 3, (2, 1, 3))),
        *(conv_sample((8, 7, 9), (3, 3, 3), c=4, dilation=d) for d in (2, (1, 2, 3))),
        *(conv_sample((4, 5, 6), (3, 3, 3), c=c, padding=1) for c in (1, 3, 16, 31, 64)),
        *(conv_sample((3, 4, w), (3, 3, 3), c=3, padding=1) for w in (1, 15, 16, 17, 33)),
        *(conv_sample((4, 5, 6), (3, 3, 3), c=4, m=m, padding=1, stride=2) for m in (2, 3)),
        *(conv_sample((4, 5, 6), (3, 3, 3), n=n, c=3, padding=1) for n in (0, 1, 3)),
        conv_sample((4, 5, 6), (3, 3, 3), n=None, c=6, padding=1),
        conv_sample((3, 2, 4), (3, 2, 4), c=4),
        conv_sample((2, 3, 3), (3, 3, 3), c=17, padding=5, dilation=(1, 4, 2)),
    ]
)

DEPTH_MAX_POOL = _unique(
    [
        sample((2, 12, 6, 7), kernel_size=3),
        sample((2, 9, 8, 7), kernel_size=(2, 3, 2), stride=(2, 2, 1), padding=(1, 1, 0)),
        sample((2, 7, 5, 9), kernel_size=2, ceil_mode=True, return_indices=True),
        *(sample((2, 33, 3, 17), kernel_size=k) for k in (1, 2, 4, 5, 33)),
        sample((2, 10, 4, 5), kernel_size=3, stride=1, padding=1),
        sample((2, 10, 4, 5), kernel_size=3, stride=2, dilation=2, return_indices=True),
        sample((2, 8, 16), kernel_size=2),
        sample((2, 8, 3, 4, 5), kernel_size=4, return_indices=True),
        sample((2, 6, 9), kernel_size=(2, 3), stride=(1, 2), ceil_mode=True),
        sample((1, 6, 4, 5, 6), kernel_size=(2, 2, 2, 2), return_indices=True),
        sample((2, 6, 4, 5, 6), kernel_size=(3, 1, 3, 2), stride=1, padding=(1, 0, 1, 1)),
        sample((6, 7, 8), kernel_size=(2, 2, 2)),
        sample((0, 6, 4, 4), kernel_size=2),
    ]
)

_SPATIAL = ((6,), 3), ((4, 6), 2), ((6, 4), (3, 2)), ((4, 16), (1, 4)), ((2, 4, 6), (2, 1, 3))
_ORDERS = ("dcr", "crd", "focus")

SPACE_TO_DEPTH = _unique(
    [sample((2, 3, 8, 12), block_size=2, order=order) for order in _ORDERS]
    + [sample((2, 5, *sp), block_size=b, order=order) for sp, b in _SPATIAL for order in _ORDERS]
    + [sample((n, 16, 8, 32), block_size=4) for n in (0, 1)]
)

DEPTH_TO_SPACE = _unique(
    [sample((2, 12, 4, 6), block_size=2, order=order) for order in _ORDERS]
    + [
        sample((2, 2 * math.prod(per_dim(b, len(sp))), *sp), block_size=b, order=order)
        for sp, b in _SPATIAL
        for order in _ORDERS
    ]
    + [sample((n, 64, 3, 17), block_size=4) for n in (0, 1)]
)

PIXEL_SHUFFLE = _unique(
    [sample((2, 4 * r * r, 5, 7), upscale_factor=r) for r in (2, 3, 1, 4)]
    + [sample((16, 3, 4), upscale_factor=2), sample((2, 3, 8, 3, 4), upscale_factor=2)]
)

PIXEL_UNSHUFFLE = _unique(
    [sample((2, 5, 4 * r, 3 * r), downscale_factor=r) for r in (2, 3, 1, 4)]
    + [sample((4, 6, 8), downscale_factor=2), sample((2, 3, 2, 6, 4), downscale_factor=2)]
)

CHANNEL_SHUFFLE = _unique(
    [sample((2, 12, 5, 7), groups=g) for g in (3, 2, 4, 1, 12)]
    + [sample((2, 34, 16), groups=2), sample((2, 6, 2, 3, 4), groups=3)]
)

# A tiny problem for each operator, for checks that are slow in the number of elements.
SMALL_SAMPLES = {
    "depthwise_conv1d": conv_sample((8,), (3,), c=2, m=2, padding="causal", dilation=2),
    "depthwise_conv2d": conv_sample((5, 6), (3, 2), c=2, padding=1, stride=(2, 1)),
    "depthwise_conv3d": conv_sample((3, 4, 5), (2, 3, 3), c=2, padding=1),
    "depth_max_pool": sample((2, 4, 4, 4), kernel_size=(2, 2, 2)),
    "space_to_depth": sample((2, 2, 4, 6), block_size=(2, 3)),
    "depth_to_space": sample((2, 12, 2, 3), block_size=(2, 3), order="focus"),
    "pixel_shuffle": sample((2, 8, 2, 3), upscale_factor=2),
    "pixel_unshuffle": sample((2, 2, 4, 6), downscale_factor=2),
    "channel_shuffle": sample((2, 6, 3, 2), groups=3),
}
