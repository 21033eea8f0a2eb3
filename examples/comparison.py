# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""What the examples with real weights share: pictures, and two models' times side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor


def pictures(paths: list[Path]) -> dict[str, Image.Image]:
    """The pictures at `paths`, or the two photographs that come with scikit-learn."""
    if paths:
        return {path.stem: Image.open(path).convert("RGB") for path in paths}
    from sklearn.datasets import load_sample_image

    return {name: Image.fromarray(load_sample_image(f"{name}.jpg")) for name in ("china", "flower")}


def side_by_side(calls: dict[str, Callable[[], Any]], seconds: float = 2.0) -> dict[str, float]:
    """Median seconds of each call; they take turns, so that what slows one slows the others."""
    for call in calls.values():
        call()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(samples[next(iter(calls))]) < 3:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            samples[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in samples.items()}


def timed(model: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], None]:
    """One inference as a call that returns when the device has finished it."""

    def call() -> None:
        with torch.inference_mode():
            model(x)
        if x.is_cuda:
            torch.cuda.synchronize()

    return call


def say_times(times: dict[str, float], what: str) -> None:
    """Milliseconds of both, and how they compare."""
    native, ours = times["native"], times["converted"]
    print(f"{what}: native {1e3 * native:.2f} ms, converted {1e3 * ours:.2f} ms: "
          f"{native / ours:.2f} times as fast")  # fmt: skip
