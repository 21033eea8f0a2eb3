# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Measures fastconv against PyTorch and against the machine's limits.

python bench/run.py --quick                         every operator, about two minutes
python bench/run.py --suite models --json out.json  the layers of models, thousands of cases
python bench/run.py --suite models --op depthwise_conv2d --dtype float32
python bench/run.py --suite random --rivals native   shapes of no model, and which are slow
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from cases import DTYPES, LAYOUTS, OPS, PASSES, SUITES, Case, cases_of, tensor_bytes
from limits import copies, fma_peaks, free_bytes, host_floor
from machine import facts
from operators import big_outputs, least_bytes, least_flops, ours, tensors_of
from progress import track
from results import COMPILE, NATIVE, OURS, SCHEMA, STATS, rows_of, save
from rivals import KINDS, Compiler, contenders_of, differs, some_images
from timing import clock_for, first_line, measure

# Seconds per case, and for all of torch.compile, where the command line does not say: thousands of
# layers would keep it busy for days, so they get it when it is asked for.
CASE_S = {"cpu": 0.4, "cuda": 0.15}
MODELS_CASE_S = 0.1
COMPILE_S = {"quick": 30.0, "models": 0.0}
# Contenders hold inputs and gradients of their own, and the copies as much again.
MEMORY_FACTOR = 16
# Comparing results that are larger than this costs more memory than it tells.
CHECK_BYTES = 1 << 30


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument

    def listed(name: str, choices: Sequence[str], text: str) -> None:
        add(f"--{name}", nargs="+", default=[], choices=choices, metavar=name.upper(),
            help=f"{text}: {', '.join(choices)}")  # fmt: skip

    add("--quick", action="store_true", help="the same as --suite quick, which is the default")
    add("--suite", choices=SUITES, default="quick", help="which sizes (default: quick)")
    add("--device", choices=("cpu", "cuda"), help="default: cuda if there is one, else cpu")
    listed("op", (*OPS, "depthwise_conv"), "operators, all if not given")
    listed("dtype", DTYPES, "dtypes instead of the suite's own")
    listed("layout", LAYOUTS, "layouts instead of both")
    listed("pass", PASSES, "passes instead of forward and both (forward and backward)")
    listed("rivals", KINDS, "rivals instead of all that can run")
    add("--batch", type=int, nargs="+", default=[1, 8], help="batch sizes of models (1 8)")
    add("--seed", type=int, default=0, help="which shapes the random suite has (0)")
    add("--filter", default="", metavar="TEXT", help="only cases with this in their name or family")
    add("--no-compile", action="store_true", help="leave out torch.compile, which costs minutes")
    add("--threads", type=int, help="CPU threads (default: torch's own choice)")
    add("--case-seconds", type=float, help="time for measuring one case")
    add("--time-limit", type=float, help="start no case after so many seconds")
    add("--check", action="store_true", help="compare results only, measure nothing")
    add("--list", action="store_true", help="print the cases and stop")
    add(
        "--at-least",
        type=float,
        metavar="RATIO",
        help="fail if a case reaches less than this of native's speed in the same layout",
    )
    add("--stat", choices=STATS, default="median",
        help="times to print and judge; q1 or min on a busy machine (median)")  # fmt: skip
    add("--json", type=Path, metavar="PATH", help="write the result file for report.py")
    args = parser.parse_args(argv)
    if args.quick:
        args.suite = "quick"
    args.passes = getattr(args, "pass")
    return args


def usable_device(asked: str | None) -> str:
    """The device to measure; an error message if it was asked for and cannot be used."""
    try:
        import fastconv
    except ImportError as error:
        sys.exit(f'bench: {error} (pip install ".[bench]")')
    kernels = getattr(fastconv._C, "has_cuda", lambda: True)() if hasattr(fastconv, "_C") else True
    if asked == "cpu" or (asked is None and not (torch.cuda.is_available() and kernels)):
        return "cpu"
    if not torch.cuda.is_available():
        sys.exit("bench: --device cuda, but torch sees no CUDA device")
    if not kernels:
        sys.exit("bench: --device cuda, but fastconv was built without CUDA: python -m fastconv")
    return "cuda"


def choose(args: argparse.Namespace, device: str) -> list[Case]:
    """The cases that the command line asks for."""
    cases = cases_of(
        args.suite, device, args.dtype, args.layout, args.passes, args.batch, args.seed
    )
    return [
        case
        for case in cases
        if (not args.op or case.op.startswith(tuple(args.op)))
        and args.filter in f"{case.name} {case.family}"
    ]


def run_case(
    case: Case, device: str, kinds: Sequence[str], compiler: Compiler, seconds: float, check: bool
) -> dict[str, Any]:
    """One row of the result file; what goes wrong is in it too."""
    row: dict[str, Any] = {"case": case.to_json(), "bytes": 0, "flops": 0, "times": {}}
    row["wrong"], row["failed"] = "", {}
    try:
        _fill(row, case, device, kinds, compiler, seconds, check)
    except Exception as error:
        row["failed"][OURS] = first_line(error)
    return row


def _fill(
    row: dict[str, Any],
    case: Case,
    device: str,
    kinds: Sequence[str],
    compiler: Compiler,
    seconds: float,
    check: bool,
) -> None:
    tensors = tensors_of(case, device)
    out = ours(case)(*tensors)
    row["bytes"], row["flops"] = least_bytes(case, tensors, out), least_flops(case, out)
    del out
    if tensor_bytes(case) <= CHECK_BYTES:
        whole = check or device != "cpu"
        row["wrong"] = differs(case, tensors if whole else some_images(case, tensors))
    if check or row["wrong"]:
        return
    contenders = contenders_of(case, tensors, row["flops"], kinds, compiler, row["failed"])
    contenders |= copies(row["bytes"], big_outputs(case), device)
    try:
        stats = measure(contenders, clock_for(device), seconds, row["failed"])
    finally:
        for contender in contenders.values():
            getattr(contender, "close", lambda: None)()
    row["times"] = {name: stat.to_json() for name, stat in stats.items()}


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.list:
        print("\n".join(case.name for case in choose(args, args.device or "cpu")))
        return 0
    device = usable_device(args.device)
    cases = choose(args, device)
    if not cases:
        sys.exit("bench: no case fits; --list shows what a suite has")

    start = time.monotonic()
    kinds = args.rivals or KINDS
    compile_s = 1e9 if "compile" in args.rivals else COMPILE_S.get(args.suite, 1e9)
    compiler = Compiler(0 if args.no_compile or args.check else compile_s)
    dtypes = sorted({case.dtype for case in cases})
    seconds = args.case_seconds or (MODELS_CASE_S if args.suite == "models" else CASE_S[device])
    machine, rows, notes = facts(device), [], []
    peaks: list[dict[str, float]] = []
    if not args.check:
        peaks.append(fma_peaks(dtypes, device, seconds))
    try:
        for case in track(cases, "checking" if args.check else "measuring"):
            if args.time_limit and time.monotonic() - start > args.time_limit:
                notes.append(f"not run for lack of time: {case.name}")
            elif MEMORY_FACTOR * tensor_bytes(case) > free_bytes(device):
                notes.append(f"not run for lack of memory: {case.name}")
            else:
                rows.append(run_case(case, device, kinds, compiler, seconds, args.check))
    except KeyboardInterrupt:
        notes.append(f"interrupted: {len(rows)} of {len(cases)} cases were run")
    if compiler.reason and "compile" in kinds and not args.check:
        notes.append(f"{COMPILE} was left out of some cases: {compiler.reason}")

    if not args.check:
        # Once more, since a peak that something else had a share in is none.
        peaks.append(fma_peaks(dtypes, device, seconds))
    limits = {
        "fma_peak": {
            dtype: max(peak[dtype] for peak in peaks) for dtype in (peaks[0] if peaks else ())
        },
        "host_floor": {} if args.check else host_floor(device),
    }
    if machine["load"] > 0.25 * machine["cores"] and device == "cpu":
        notes.append(
            f"the machine was busy before this began (load {machine['load']:.1f} on "
            f"{machine['cores']} cores): times are too long; --threads 1 and --stat q1 suffer least"
        )

    result = {
        "schema": SCHEMA,
        "machine": machine,
        "suite": args.suite,
        "command": sys.argv[1:] if argv is None else list(argv),
        "seconds": round(time.monotonic() - start, 1),
        "limits": limits,
        "notes": notes,
        "rows": rows,
    }
    if args.json:
        save(args.json, result)
    return verdict(result, args)


def verdict(result: dict[str, Any], args: argparse.Namespace) -> int:
    """Prints what came out; 0 if every case ran, was right, and was fast enough."""
    bad = [
        f"{Case.from_json(row['case']).name}: {row['wrong'] or row['failed'][OURS]}"
        for row in result["rows"]
        if row["wrong"] or OURS in row["failed"]
    ]
    if args.check:
        print(f"{len(result['rows'])} cases checked, {len(bad)} failed")
    else:
        from report import full

        print(full(result, args.stat))
        if args.at_least:
            bad += [
                f"{row.case.name}: {row.ratio(NATIVE):.2f} of native's speed"
                for row in rows_of(result, args.stat)
                if row.ok and row.ratio(NATIVE) < args.at_least
            ]
    print("".join(f"FAILED {line}\n" for line in bad), end="")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
