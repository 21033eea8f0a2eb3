# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""A progress bar on standard error: rich's or tqdm's, or plain lines where neither is installed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

# Without a terminal, a line every so many seconds.
_EVERY_S = 10.0


def track(items: list[T], label: str) -> Iterable[T]:
    """The items, with a bar that moves as they are consumed."""
    if sys.stderr.isatty():
        try:
            return _rich(items, label)
        except ImportError:
            pass
        try:
            from tqdm import tqdm
        except ImportError:
            pass
        else:
            return tqdm(items, desc=label, unit="case")
    return _lines(items, label)


def _rich(items: list[T], label: str) -> Iterable[T]:
    from rich.console import Console
    from rich.progress import track as rich_track

    return rich_track(items, label, console=Console(stderr=True))


def _lines(items: list[T], label: str) -> Iterator[T]:
    start = said = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done == 0 or now - said >= _EVERY_S:
            said = now
            print(f"{label}: {done}/{len(items)}, {now - start:.0f} s", file=sys.stderr, flush=True)
        yield item
    print(f"{label}: {len(items)}/{len(items)}, {time.monotonic() - start:.0f} s", file=sys.stderr)
