# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Fuzzes in a process of its own, so that a crash or a hang costs no test run.

    python tests/fuzz/worker.py --seconds 600                    all functions
    python tests/fuzz/worker.py --seconds 60 depth_max_pool      some of them
    python tests/fuzz/worker.py --replay "Call('pixel_shuffle', (T((1, 4, 2, 2)),), ...)"

Before a call is made it is written to a file, which tells its maker from which input it died.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import json
import os
import pathlib
import random
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from typing import Any

import calls
import hypothesis
import layer_strategies
import ledger
import oracle
import strategies
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

EXAMPLES = 40  # of one seed
# Seconds for one call and all that is compared with it: two or three, but a machine may be busy.
HANG = 300
warnings.filterwarnings("ignore", "Initializing zero-element tensors")


class Journal:
    """The call in progress, in a file that outlives this process."""

    def __init__(self, path: str) -> None:
        self.path = pathlib.Path(path)

    def write(self, call: calls.Call) -> None:
        self.path.write_text(repr(call))


def targets() -> dict[str, SearchStrategy[calls.Call]]:
    return {**strategies.FUNCTIONS, **layer_strategies.LAYERS}


def one_seed(
    strategy: Any, seed: int, end: float, journal: Journal, counts: collections.Counter[str]
) -> str | None:
    """Runs the examples of one seed.  Returns a report on the smallest failing one, or None."""
    failing: list[calls.Call] = []

    @hypothesis.seed(seed)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(strategy)
    def example(call: calls.Call) -> None:
        if not failing and time.monotonic() > end:
            return
        journal.write(call)
        faulthandler.dump_traceback_later(HANG, exit=True)
        try:
            counts[judge(call)] += 1
        except Exception:
            failing.append(call)
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()

    try:
        example()
    except Exception as error:
        if not failing:
            raise
        where = traceback.format_tb(error.__traceback__)[-1]
        return (
            f"{type(error).__name__}: {error}\n{where}"
            f"smallest call: {failing[-1]!r}\n"
            f'replay it: python tests/fuzz/worker.py --replay "{failing[-1]!r}"'
        )
    return None


def judge(call: calls.Call) -> str:
    """Checks a call; raises for what the ledger does not waive."""
    try:
        oracle.check(call)
    except Exception as error:
        if ledger.waiver(call, error) is None:
            raise
        return "waived"
    return "passed"


def fuzz(target: str, seed: int, seconds: float, journal: Journal) -> dict[str, Any]:
    """Fuzzes one function for a while, at least with one seed."""
    end = time.monotonic() + seconds
    counts: collections.Counter[str] = collections.Counter()
    strategy = targets()[target]
    report = None
    seeds = 0
    while report is None and (seeds == 0 or time.monotonic() < end):
        # The first must run to its end on a slow machine too.
        report = one_seed(strategy, seed + seeds, end if seeds else 1e18, journal, counts)
        seeds += 1
    if report is not None:
        report = f"{target}, seed {seed + seeds - 1}: {report}"
    return {"report": report, "counts": counts, "seeds": seeds}


def serve(journal: Journal) -> None:
    """Takes jobs as lines of JSON from stdin and answers on stdout, which nothing else may use."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            answer = fuzz(**json.loads(line), journal=journal)
        except Exception:
            answer = {"report": traceback.format_exc(), "counts": {}, "seeds": 0}
        print(json.dumps(answer), file=answers, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", help="functions, layers as nn.<layer>")
    parser.add_argument("--seconds", type=float, default=60, help="for all of them together")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**40))
    parser.add_argument("--replay", metavar="CALL", help="judge one call, as a failure prints it")
    journal = pathlib.Path(tempfile.gettempdir(), f"fastconv-fuzz-{os.getpid()}.txt")
    parser.add_argument("--journal", default=str(journal), help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.replay:
        oracle.check(calls.parse(options.replay))
        print("passed")
        return 0
    journal = Journal(options.journal)
    faulthandler.enable()
    if options.serve:
        serve(journal)
        return 0
    print(f"seed {options.seed}; the call in progress is in {options.journal}", flush=True)
    names = options.targets or list(targets())
    failed = 0
    for name in names:
        seed = options.seed + zlib.crc32(name.encode())
        answer = fuzz(name, seed, options.seconds / len(names), journal)
        print(f"{name}: {dict(answer['counts'])}, seeds from {seed}", flush=True)
        if answer["report"]:
            failed += 1
            print(answer["report"], flush=True)
    pathlib.Path(options.journal).unlink()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
