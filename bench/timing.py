# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Interleaved measurement: every contender gets one short sample a round, in random order.

Whatever slows the machine for a while then slows everybody, and the medians stay comparable.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Protocol
from weakref import WeakKeyDictionary

# A sample shorter than this says more about the clock than about the code.
MIN_SAMPLE_S = 1e-3
MAX_INNER = 10_000
MIN_ROUNDS = 5
MAX_ROUNDS = 100
# A contender that takes this share of the budget gets SLOW_ROUNDS samples, not more, and so do all
# where one round takes the whole budget.
SLOW_SHARE = 0.2
SLOW_ROUNDS = 3
# One that takes this many budgets a call has had its samples when its warm-up ends, and one that
# takes so many seconds is called once; or fewer, if that is so many times what another one takes.
GLACIAL_SHARE = 2.0
ONCE_S = 2.0
FAR_S, FAR_TIMES = 0.1, 10.0

Contender = Callable[[], Any]


@dataclass(frozen=True)
class Stats:
    """Seconds per call over `n` samples of `inner` calls each."""

    median: float
    q1: float
    q3: float
    min: float
    n: int
    inner: int
    # Seconds that the host takes to enqueue one call; on the CPU there is no such thing.
    host: float | None = None

    @property
    def spread(self) -> float:
        """Half the interquartile range, as a share of the median."""
        return (self.q3 - self.q1) / 2 / self.median if self.median else 0.0

    def to_json(self) -> dict[str, Any]:
        # No clock is better than that.
        return {
            name: float(f"{value:.5g}") if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


def summarize(samples: Iterable[float], inner: int = 1, host: float | None = None) -> Stats:
    values = sorted(samples)
    if not values:
        raise ValueError("no samples")
    if len(values) == 1:
        q1 = q3 = values[0]
    else:
        q1, _, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return Stats(statistics.median(values), q1, q3, values[0], len(values), inner, host)


def geomean(values: Iterable[float]) -> float:
    """The geometric mean; NaN of nothing."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


class Clock(Protocol):
    def warm_up(self, call: Contender, fastest: float) -> tuple[float, float | None]:
        """Runs `call` until it is warm: seconds a call, and the host's share where it differs.

        The fastest of those before took `fastest` seconds.
        """

    def sample(self, call: Contender, inner: int) -> Any:
        """Times `inner` calls; the result means something to `resolve` only."""

    def resolve(self, samples: list[Any]) -> list[float]:
        """Seconds per call of each sample."""

    def inner(self, estimate: float) -> int:
        """How many calls make one sample."""


class CpuClock:
    """Wall time.  Tensors stay in whatever cache holds them, as between two layers of a network."""

    def warm_up(self, call: Contender, fastest: float = math.inf) -> tuple[float, None]:
        best, spent = math.inf, 0.0
        once = min(ONCE_S, max(FAR_S, FAR_TIMES * fastest))
        for done in range(10):
            seconds = self.sample(call, 1)
            best, spent = min(best, seconds), spent + seconds
            # Twice at least: the first call may pay for memory that the others find mapped.
            if spent > 0.03 and (done or spent > once):
                break
        if best < MIN_SAMPLE_S / 10:  # the clock itself had a share in that
            best = min(best, self.sample(call, math.ceil(MIN_SAMPLE_S / 10 / best)))
        return best, None

    def sample(self, call: Contender, inner: int) -> float:
        timed = getattr(call, "seconds", None)
        if timed:  # it runs elsewhere and brings its own clock
            return timed(inner)
        start = time.perf_counter()
        for _ in range(inner):
            call()
        return (time.perf_counter() - start) / inner

    def resolve(self, samples: list[float]) -> list[float]:
        return samples

    def inner(self, estimate: float) -> int:
        return max(1, min(MAX_INNER, math.ceil(MIN_SAMPLE_S / max(estimate, 1e-9))))


class CudaClock:
    """Device time between two events, with the L2 cache emptied and the queue filled before.

    The device waits in front of the first event until the host has enqueued the whole call, so
    host time is not in the sample: it is measured apart.
    """

    def __init__(self, device: str) -> None:
        # Reports need this module too, and no torch.
        import torch

        self._torch, self.device = torch, torch.device(device)
        l2 = torch.cuda.get_device_properties(device).L2_cache_size
        self._flush = torch.empty(max(4 * l2, 256 << 20), dtype=torch.int8, device=self.device)
        self._wait: WeakKeyDictionary[Contender, int] = WeakKeyDictionary()

    def warm_up(self, call: Contender, fastest: float = math.inf) -> tuple[float, float]:
        for _ in range(3):
            call()
        self._torch.cuda.synchronize(self.device)
        host, start = [], self._torch.cuda.Event(enable_timing=True)
        end = self._torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(5):
            begin = time.perf_counter()
            call()
            host.append(time.perf_counter() - begin)
        end.record()
        self._torch.cuda.synchronize(self.device)
        seconds = statistics.median(host)
        # _sleep counts cycles of a clock below 2 GHz; twice the host time, and some.
        self._wait[call] = int(min(4 * seconds + 100e-6, 20e-3) * 1e9)
        return start.elapsed_time(end) / 5e3, seconds

    def sample(self, call: Contender, inner: int) -> tuple[Any, Any, int]:
        start = self._torch.cuda.Event(enable_timing=True)
        end = self._torch.cuda.Event(enable_timing=True)
        self._flush.zero_()
        self._torch.cuda._sleep(self._wait.get(call, 200_000))
        start.record()
        for _ in range(inner):
            call()
        end.record()
        return start, end, inner

    def resolve(self, samples: list[tuple[Any, Any, int]]) -> list[float]:
        self._torch.cuda.synchronize(self.device)
        return [start.elapsed_time(end) / 1e3 / inner for start, end, inner in samples]

    def inner(self, estimate: float) -> int:
        # More calls in one sample would find the cache warm.
        return 1


def clock_for(device: str) -> Clock:
    return CudaClock(device) if device.startswith("cuda") else CpuClock()


@cache
def _leave_modules_alone() -> None:
    """What torch's modules hold takes 40 ms to go through, every time."""
    gc.collect()
    gc.freeze()


@contextmanager
def _no_gc() -> Iterator[None]:
    enabled = gc.isenabled()
    _leave_modules_alone()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def measure(
    contenders: Mapping[str, Contender],
    clock: Clock,
    budget: float,
    failed: dict[str, str] | None = None,
) -> dict[str, Stats]:
    """Seconds per call of every contender, within about `budget` seconds.

    A contender that raises while it warms up is left out, and why goes into `failed`.
    """
    estimates: dict[str, float] = {}
    hosts: dict[str, float | None] = {}
    for name, call in contenders.items():
        try:
            fastest = min(estimates.values(), default=math.inf)
            estimates[name], hosts[name] = clock.warm_up(call, fastest)
        except Exception as error:
            if failed is None:
                raise
            failed[name] = first_line(error)
    inner = {name: clock.inner(estimate) for name, estimate in estimates.items()}
    samples: dict[str, list[float]] = {name: [] for name in estimates}
    active = [name for name in estimates if estimates[name] < GLACIAL_SHARE * budget]
    slow = {name for name in active if estimates[name] > SLOW_SHARE * budget}
    round_s = sum(estimates[name] * inner[name] for name in active if name not in slow)
    least = SLOW_ROUNDS if round_s > budget else MIN_ROUNDS
    shuffle = random.Random(0).shuffle
    with _no_gc():
        start = time.perf_counter()
        for done in range(MAX_ROUNDS):
            if done >= least and time.perf_counter() - start > budget:
                break
            shuffle(active)
            turn = [name for name in active if name not in slow or len(samples[name]) < SLOW_ROUNDS]
            drawn = [clock.sample(contenders[name], inner[name]) for name in turn]
            for name, seconds in zip(turn, clock.resolve(drawn), strict=True):
                samples[name].append(seconds)
    return {
        name: summarize(samples[name] or [estimates[name]], inner[name], hosts[name])
        for name in estimates
    }


def first_line(error: BaseException) -> str:
    """The error in one line, for a note."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200] if text else ''}".rstrip(": ")
