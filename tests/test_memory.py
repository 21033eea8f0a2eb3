# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""The table of docs/performance.md that says how much memory a call takes beyond its results."""

import re
import sys
from pathlib import Path

import pytest
import torch

import fastconv

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench"))

import memory  # noqa: E402

PAGE = (ROOT / "docs" / "performance.md").read_text()
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20}
# What Python, torch and the measurement allocate themselves: events, threads, small objects.
NOISE = 32 << 10


def stated(row):
    """The sizes in the last cell of a row, in bytes."""
    (cell,) = re.findall(rf"^\| {row}[^|]*\|[^|]*\| ([^|]+) \|$", PAGE, re.MULTILINE)
    return [int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+) (\w+B)", cell)]


def convolution(dims, shape, kernel, dtype=torch.float32, last=False, m=1, **kwargs):
    """Input, weight and the call of a convolution, in channels-last if `last`."""
    x = torch.randn(shape, dtype=dtype)
    if last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    weight = torch.randn((shape[1] * m, 1, *kernel), dtype=dtype)
    call = getattr(fastconv, f"depthwise_conv{dims}d")
    return x, weight, lambda x, w: call(x, w, **kwargs)


# Each is among the worst of its kind: large filters, many channels, long rows, strips of images.
PROBLEMS = {
    "27x27 of many channels": (2, (1, 508, 14, 14), (27, 27), torch.bfloat16, True),
    "27x27, packed": (2, (1, 512, 14, 14), (27, 27), torch.bfloat16, True),
    "31x31 contiguous": (2, (1, 192, 48, 48), (31, 31)),
    "31x31 of fewer than 32 blocks": (2, (1, 496, 32, 32), (31, 31), torch.float32, True),
    "29x29 in three groups": (2, (1, 384, 40, 40), (29, 29), torch.float32, True),
    "51x51 in float64": (2, (1, 64, 60, 60), (51, 51), torch.float64),
    "1023 taps": (1, (1, 64, 2048), (1023,), torch.float32, True),
    "a long row": (1, (1, 8, 300_000), (31,)),
    "wide images, stride 2": (2, (2, 96, 112, 112), (3, 3), torch.bfloat16),
    "volumes": (3, (1, 216, 13, 20, 20), (3, 3, 3), torch.float32, True),
    "a multiplier": (2, (2, 64, 40, 40), (3, 3), torch.float32, True, 4),
    "a long row, a multiplier": (1, (1, 64, 5000), (3,), torch.float32, True, 4),
    "taps far apart": (1, (1, 64, 100_000), (9,)),
    "long volumes, stride 2": (3, (1, 16, 3000, 6, 6), (3, 3, 3), torch.float32, True),
    "many filters of a channel": (1, (1, 32, 2048), (31,), torch.float32, False, 8),
    "large filters of a channel": (2, (1, 16, 20, 20), (27, 27), torch.float32, True, 12),
    "few rows": (2, (1, 64, 31, 1024), (31, 9), torch.float32),
    "many filters, 511 taps": (1, (1, 16, 1019), (511,), torch.float32, False, 16),
    "many large filters": (2, (1, 16, 20, 20), (27, 27), torch.float32, False, 16),
    "narrow and high": (2, (4, 64, 20_000, 3), (3, 3), torch.float32, True),
    "thousands of taps": (1, (1, 240, 3000), (2047,), torch.float32, True),
    "many channels": (2, (1, 4096, 8, 8), (3, 3), torch.float32, True),
    "very many channels": (2, (1, 40_000, 8, 8), (3, 3), torch.float32, True),
    "very many channels, bf16": (2, (1, 40_000, 8, 8), (3, 3), torch.bfloat16, True),
    "large filters, bf16": (2, (2, 40, 70, 70), (39, 39), torch.bfloat16, True),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_convolutions_take_no_more_than_stated(name):
    kernel = PROBLEMS[name][2]
    stride = {"stride": 2} if "stride 2" in name else {}
    if "volumes" in name and stride:
        stride = {"stride": (1, 2, 2)}
    if "far apart" in name:
        stride = {"dilation": 5000}
    padding = {"padding": [k // 2 for k in kernel]}
    x, weight, call = convolution(*PROBLEMS[name], **stride, **padding)
    (scratch,), (tensors,) = stated("any call"), stated("forward")
    found = memory.extra(lambda: call(x, weight))
    assert found.tensors <= tensors
    assert found.scratch <= scratch + NOISE

    x.requires_grad_()
    weight.requires_grad_()
    y = call(x, weight)
    gradient = torch.randn_like(y)

    def backward(*leaves):
        return lambda: torch.autograd.grad(y, leaves, gradient, retain_graph=True)

    found = memory.extra(backward(x))
    assert found.tensors <= tensors
    assert found.scratch <= scratch + NOISE
    least, per_tap = stated("gradient of a convolution's weight")
    bound = max(least, per_tap * torch.Size(kernel).numel(), 4 * (weight.numel() + weight.size(0)))
    found = memory.extra(backward(x, weight))
    assert found.tensors <= bound * (2 if x.dtype == torch.float64 else 1)
    assert found.scratch <= scratch + NOISE


X = torch.randn(2, 64, 56, 56)
W3, W4, GATE = torch.randn(64, 1, 3, 3), torch.randn(64, 1, 4, 4), torch.randn(2, 64)
OTHERS = {
    "max pooling": lambda: fastconv.depth_max_pool(X, (3, 3, 3), (2, 2, 2), (1, 1, 1)),
    "max pooling over channels": lambda: fastconv.depth_max_pool(X, 2),
    "transposed": lambda: fastconv.depthwise_conv_transpose2d(X, W4, stride=2, padding=1),
    "space to depth": lambda: fastconv.space_to_depth(X, 2),
    "focus": lambda: fastconv.space_to_depth(X[..., 1:-1], 2, "focus"),
    "pixel shuffle": lambda: fastconv.pixel_shuffle(X[:, :63], (3, 3)),
    "channel shuffle": lambda: fastconv.channel_shuffle(X, 4),
    "average": lambda: fastconv.global_avg_pool2d(X),
    "gate": lambda: fastconv.sigmoid_gate(X, GATE),
    "a strided view": lambda: fastconv.depthwise_conv2d(X[..., ::2], W3),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_operators_take_no_more_than_stated(name):
    with torch.no_grad():
        found = memory.extra(OTHERS[name])
    assert found.tensors <= stated("forward")[0]
    assert found.scratch <= stated("any call")[0] + NOISE


def test_the_statement_is_not_vague():
    """The worst that is known reaches half of what is stated."""
    x, weight, call = convolution(*PROBLEMS["large filters of a channel"], padding=13)
    x.requires_grad_()
    y = call(x, weight)
    found = memory.extra(lambda: torch.autograd.grad(y, x, torch.ones_like(y), retain_graph=True))
    assert found.scratch > stated("any call")[0] / 2
    x, weight, call = convolution(*PROBLEMS["31x31 of fewer than 32 blocks"], padding=15)
    weight.requires_grad_()
    y = call(x, weight)
    found = memory.extra(lambda: torch.autograd.grad(y, weight, y.detach(), retain_graph=True))
    assert found.tensors > 961 * stated("gradient of a convolution's weight")[1] / 2


def test_exceptions_are_as_described():
    """A tensor in no usual order is copied by the average, and by nothing else."""
    sliced = X[..., ::2]
    assert memory.extra(lambda: fastconv.global_avg_pool2d(sliced)).tensors >= sliced.nbytes
    pooled = fastconv.depth_max_pool(X.clone().requires_grad_(), (3, 3, 3), (2, 2, 2), (1, 1, 1))
    assert pooled.grad_fn is not None

    def keep():
        return fastconv.depth_max_pool(X.clone().requires_grad_(), (3, 3, 3), (2, 2, 2), (1, 1, 1))

    kept = memory.extra(keep).tensors
    assert X.nbytes <= kept <= X.nbytes + 1.01 * pooled.numel()  # the clone, and a byte each
