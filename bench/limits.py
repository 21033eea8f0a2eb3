# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""What the machine can do: copies, multiply-adds and empty calls, measured in the same run.

No operator can be faster than a copy of the bytes it must move, or than its multiply-adds at the
rate of a large matrix product.  The copies run as contenders beside the operators, case by case,
at the case's size.  They allocate what they write, as an operator does: on a CPU the operating
system hands out large blocks page by page, and that costs more than the copy.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from operators import random_tensor
from results import COPY_CLONE, COPY_MEMCPY, COPY_REUSED
from timing import CpuClock, clock_for, measure
from torch import Tensor

# Below this a thread pool costs more than it copies.
_MEMCPY_BYTES = 4 << 20


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def _memcpy(source: Tensor, out: Tensor, threads: int) -> Tensor:
    """The C library's copy, one piece a thread; it streams past the cache where that pays."""
    size = source.nbytes
    step = -(-size // threads // 4096) * 4096
    begins = range(0, size, step)
    list(
        _pool(threads).map(
            lambda begin: ctypes.memmove(
                out.data_ptr() + begin, source.data_ptr() + begin, min(step, size - begin)
            ),
            begins,
        )
    )
    return out


def copies(nbytes: int, pieces: int, device: str) -> dict[str, Callable[[], Any]]:
    """Copies that read and write `nbytes` in all, `pieces` tensors of half of that over `pieces`.

    "clone" and "memcpy" allocate their results and set the limit; "reused" writes into the same
    memory again and again, and is there to show what allocation costs.
    """
    count = max(1, nbytes // 2 // pieces // 4)
    sources = [random_tensor((count,), torch.float32, device) for _ in range(pieces)]
    reused = [torch.empty_like(source) for source in sources]
    calls: dict[str, Callable[[], Any]] = {
        COPY_CLONE: lambda: [source.clone() for source in sources],
        COPY_REUSED: lambda: [
            out.copy_(source) for out, source in zip(reused, sources, strict=True)
        ],
    }
    if device == "cpu" and sources[0].nbytes >= _MEMCPY_BYTES:
        threads = torch.get_num_threads()
        calls[COPY_MEMCPY] = lambda: [
            _memcpy(source, torch.empty_like(source), threads) for source in sources
        ]
    return calls


def fma_peaks(dtypes: Iterable[str], device: str, budget: float) -> dict[str, float]:
    """Multiply-add rate of each dtype in flops per second.

    Reduced precision has float32's, since sums are taken in float32; dot-product and tensor-core
    instructions can beat it.  Integers are moved alone.
    """
    real = {
        dtype: "float64" if dtype == "float64" else "float32"
        for dtype in dtypes
        if getattr(torch, dtype).is_floating_point
    }
    peaks = {
        name: _fma_peak(getattr(torch, name), device, budget) for name in sorted(set(real.values()))
    }
    return {dtype: peaks[name] for dtype, name in real.items()}


def _fma_peak(real: torch.dtype, device: str, budget: float) -> float:
    """The best of a few large dense products; TF32 is off, as torch has it by default."""
    n = 4096 if device.startswith("cuda") else 1024
    a, b = (random_tensor((n, n), real, device) for _ in range(2))
    flops = {"mm": 2.0 * n**3}
    calls: dict[str, Callable[[], Any]] = {"mm": lambda: a @ b}
    if device == "cpu" and real is torch.float32:
        # oneDNN's dense convolution reaches more of the peak than the BLAS on some processors.
        x = random_tensor((4, 256, 30, 30), real, device)
        x = x.contiguous(memory_format=torch.channels_last)
        w = random_tensor((256, 256, 3, 3), real, device)
        calls["conv"] = lambda: F.conv2d(x, w)
        flops["conv"] = 2.0 * 4 * 256 * 256 * 9 * 28 * 28
    stats = measure(calls, clock_for(device), budget)
    # The fastest sample: a peak is what the machine can do when left alone.
    return max(flops[name] / stat.min for name, stat in stats.items())


def host_floor(device: str) -> dict[str, float]:
    """Seconds of host time per pass that any PyTorch operator spends: allocate, record, return."""
    x = random_tensor((16,), torch.float32, device)
    leaf, grad = x.clone().requires_grad_(), torch.ones_like(x)
    view = leaf.view_as(leaf)
    calls: dict[str, Callable[[], Any]] = {
        "forward": lambda: torch.empty_like(x),
        "backward": lambda: torch.autograd.grad(view, leaf, grad, retain_graph=True),
        "both": lambda: torch.autograd.grad(leaf.view_as(leaf), leaf, grad),
    }
    return {name: stat.median for name, stat in measure(calls, CpuClock(), 0.2).items()}


def free_bytes(device: str) -> int:
    """Memory that a case may use."""
    if device.startswith("cuda"):
        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + cached
    try:
        info = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024 * int(info["MemAvailable"].split()[0])
    except (OSError, KeyError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
