# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Activations in float64, and how far a kernel's may be from them."""

import math

import torch
import torch.nn.functional as F

NATIVE = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "silu": F.silu,
    "gelu": F.gelu,
}
# The largest errors of float32, in units in the last place of the result.  Measured on every
# float: docs/numerics.md.
FORWARD = {"relu": 0, "relu6": 0, "hardswish": 2.6, "silu": 2.6, "gelu": 7.5}
FORWARD_CUDA = FORWARD | {"silu": 3.5}


def exact(z, name):
    """In float64, without the digits that torch loses to 1 + erf."""
    z = z.double()
    if name != "gelu":
        return NATIVE[name](z)
    tail = torch.special.erfc(z.abs() * math.sqrt(0.5)) / 2
    return z * torch.where(z < 0, tail, 1 - tail)


def unit(y, dtype):
    """The unit in the last place of numbers of this size."""
    info = torch.finfo(dtype)
    digits = 1 - round(math.log2(info.eps))
    _, exponent = torch.frexp(y.abs().clamp(min=info.smallest_normal))
    return torch.ldexp(torch.ones_like(y), exponent - digits)


def check(got, want, bound, what):
    """Within the bound, and not finite where what is wanted is not."""
    got, want = got.double(), want.double()
    same = (got == want) | (got.isnan() & want.isnan())
    wrong = ~same & ~((got - want).abs() <= bound)
    worst = ((got - want).abs() / bound)[wrong]
    assert not wrong.any(), f"{what}: {got[wrong][:3]}, {want[wrong][:3]}: {worst.max()} bounds"


def every_kind(dtype, rng):
    """Random bits: all sizes, infinities, NaN, subnormals; and twice as many of usual size."""
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    info = torch.iinfo(kind)
    count = 48 * 1024
    bits = torch.randint(info.min, info.max, (count,), generator=rng, dtype=kind).view(dtype)
    usual = torch.randn(count, generator=rng, dtype=torch.float64) * 4
    tails = (torch.rand(count, generator=rng, dtype=torch.float64) - 0.5) * 240
    special = [math.inf, -math.inf, math.nan, 0.0, -0.0, 3.0, -3.0, 6.0, -110.0, -15.0, 15.0]
    edges = torch.tensor(special, dtype=dtype).repeat(48)
    return torch.cat([bits, usual.to(dtype), tails.to(dtype), edges])
