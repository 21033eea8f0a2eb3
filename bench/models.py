# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Whole networks, native and converted: time and memory of inference and of training steps.

python bench/models.py --quick                       five networks, about a minute and a half
python bench/models.py --json bench/results/cpu-models.json --plot docs/images/models
python bench/models.py --network convnext_tiny --batch 8 --size 224 --mode train

Networks of torchvision and timm are left out where these are not installed
(pip install ".[models,plot]").  Contenders of a case take turns in one process: PyTorch in both
memory layouts, torch.compile, and `fastconv.convert_()`, in both layouts too.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import memory
import torch
from limits import free_bytes
from machine import facts
from model_results import COMPILED, MODES, ModelCase, contender_name
from networks import NETWORKS, QUICK
from progress import track
from results import SCHEMA, STATS, save
from run import usable_device
from timing import Contender, clock_for, first_line, measure
from torch import Tensor, nn

SIZE = 96
CASE_S = {"cpu": 0.5, "cuda": 0.3}
COMPILE_S = {True: 0.0, False: 90.0}
# A guard against timing the wrong answer, for networks of random weights in float32.
TOLERANCE = 1e-3


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help=f"{', '.join(QUICK)}; no torch.compile")
    add("--network", nargs="+", choices=NETWORKS, metavar="NAME",
        help=f"networks instead of all: {', '.join(NETWORKS)}")  # fmt: skip
    add("--batch", type=int, nargs="+", help="batch sizes (1 8 32; --quick: 1 8)")
    add("--size", type=int, default=SIZE, help=f"height and width of images ({SIZE})")
    add("--mode", nargs="+", choices=MODES, default=list(MODES), help="instead of both")
    add("--device", choices=("cpu", "cuda"), help="default: cuda if there is one, else cpu")
    add("--threads", type=int, help="CPU threads (default: torch's own choice)")
    add("--case-seconds", type=float, help="time for measuring one case")
    add("--compile-seconds", type=float, help="for torch.compile in all (90; --quick: 0)")
    add("--compile-batch", type=int, nargs="+", default=[8], help="batch sizes to compile (8)")
    add("--plain-malloc", action="store_true", help="let malloc give memory back between layers")
    add("--time-limit", type=float, help="start no case after so many seconds")
    add("--list", action="store_true", help="print the cases and stop")
    add("--stat", choices=STATS, default="median", help="times to print and plot (median)")
    add("--json", type=Path, metavar="PATH", help="write the result file")
    add("--plot", type=Path, metavar="STEM", help="write STEM.svg and STEM.png (needs matplotlib)")
    args = parser.parse_args(argv)
    args.network = args.network or list(QUICK if args.quick else NETWORKS)
    args.batch = args.batch or ([1, 8] if args.quick else [1, 8, 32])
    if args.compile_seconds is None:
        args.compile_seconds = COMPILE_S[args.quick]
    return args


def choose(args: argparse.Namespace) -> tuple[list[ModelCase], list[str]]:
    """The cases, a network's next to each other, and what is left out for want of a library."""
    cases = [
        ModelCase(name, batch, args.size, mode)
        for name in args.network
        for mode in args.mode
        for batch in args.batch
        if not NETWORKS[name].missing
    ]
    notes = [
        f"not run: {name} needs {NETWORKS[name].missing}"
        for name in args.network
        if NETWORKS[name].missing
    ]
    return cases, notes


class Step:
    """One inference, or one step of training: forward, backward, SGD, and no gradients left."""

    def __init__(self, model: nn.Module, x: Tensor, mode: str) -> None:
        self.model = model.train(mode == "train")
        self.x, self.training = x, mode == "train"
        if self.training:
            self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def __call__(self) -> Tensor | None:
        if not self.training:
            with torch.inference_mode():
                return self.model(self.x)  # type: ignore[no-any-return]
        self.model(self.x).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return None


def conversions(mode: str) -> dict[str, dict[str, Any]]:
    """The ways to convert: as it is, and for inference also with fusion."""
    ways: dict[str, dict[str, Any]] = {"converted": {}}
    return ways if mode == "train" else ways | {"fused": {"fuse": True}}


class Models:
    """A network's copies, native and converted, in every layout, made once for all its cases."""

    def __init__(self, name: str, device: str) -> None:
        import fastconv

        self.network = NETWORKS[name]
        torch.manual_seed(0)
        native = self.network.make().to(device)
        self.failed: dict[str, str] = {}
        self.copies: dict[tuple[str, str, str], nn.Module] = {}
        self.layers = 0
        for mode in MODES:
            made = {"native": native}
            for how, options in conversions(mode).items():
                try:
                    made[how] = copy.deepcopy(native).train(mode == "train")
                    report = fastconv.convert_(made[how], **options)
                except Exception as error:
                    del made[how]
                    self.failed[how] = first_line(error)
                else:
                    self.layers = max(self.layers, len(report.converted))
            for how, model in made.items():
                for layout in self.network.layouts:
                    form = getattr(torch, f"{layout}_format", None) or getattr(torch, layout)
                    twin = copy.deepcopy(model).to(memory_format=form)
                    self.copies[how, layout, mode] = twin.train(mode == "train")

    def input(self, case: ModelCase, layout: str, device: str) -> Tensor:
        x = torch.randn(self.network.shape(case.batch, case.size), device=device)
        return x.contiguous(memory_format=torch.channels_last) if layout != "contiguous" else x

    def differs(self, case: ModelCase, device: str) -> str:
        """Compares what the copies make of the same images; says what is wrong, or nothing."""
        x = self.input(case, "contiguous", device)
        with torch.inference_mode():
            wanted = self.copies["native", "contiguous", "infer"](x)
            for (how, layout, mode), model in self.copies.items():
                if mode == "infer" and how != "native":
                    error = (model(x) - wanted).norm() / wanted.norm().clamp_min(1e-30)
                    if not error <= TOLERANCE:  # NaN must not pass
                        return f"{contender_name(how, layout)} is off by {float(error):.1e}"
        return ""


class Compiler:
    """torch.compile within a budget of seconds."""

    def __init__(self, budget: float, batches: Sequence[int]) -> None:
        self.left, self.batches, self.skipped = budget, batches, 0

    def contender(
        self, make: Callable[[], Step], case: ModelCase, failed: dict[str, str]
    ) -> Step | None:
        """The step compiled and run once."""
        if case.batch not in self.batches:
            return None
        if self.left <= 0:
            self.skipped += 1
            return None
        start = time.perf_counter()
        try:
            torch._dynamo.reset()
            step = make()
            step.model = torch.compile(step.model, dynamic=False)  # type: ignore[assignment]
            step()
        except Exception as error:
            failed[COMPILED] = first_line(error)
            return None
        finally:
            self.left -= time.perf_counter() - start
        return step


def run_case(
    case: ModelCase, models: Models, device: str, compiler: Compiler, seconds: float
) -> dict[str, Any]:
    """One row of the result file."""
    row: dict[str, Any] = {"case": case.to_json(), "layers": models.layers, "times": {}}
    row |= {"memory": {}, "failed": dict(models.failed), "wrong": ""}
    failed = row["failed"]
    if case.batch == 1 or case.mode == "infer":
        row["wrong"] = models.differs(ModelCase(case.network, 1, case.size, "infer"), device)
    if row["wrong"]:
        return row
    contenders: dict[str, Contender] = {}
    for (how, layout, mode), model in models.copies.items():
        if mode == case.mode:
            step = Step(model, models.input(case, layout, device), mode)
            contenders[contender_name(how, layout)] = step

    def native() -> Step:
        model = copy.deepcopy(models.copies["native", "contiguous", case.mode])
        return Step(model, models.input(case, "contiguous", device), case.mode)

    compiled = compiler.contender(native, case, failed)
    if compiled is not None:
        contenders[COMPILED] = compiled
    for name, call in list(contenders.items()):
        try:  # this is the first call too, which may set something up
            row["memory"][name] = memory.peak(call, device)
        except Exception as error:
            failed[name] = first_line(error)
            del contenders[name]
    stats = measure(contenders, clock_for(device), seconds, failed)
    row["times"] = {name: stat.to_json() for name, stat in stats.items()}
    return row


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    cases, notes = choose(args)
    if args.list:
        print("\n".join([*(case.name for case in cases), *notes]))
        return 0
    device = usable_device(args.device)
    start = time.monotonic()
    machine = facts(device)
    if device == "cpu" and not args.plain_malloc and memory.keep_freed_memory():
        notes.append("malloc kept freed memory between layers and calls")
    compiler = Compiler(args.compile_seconds, args.compile_batch)
    rows: list[dict[str, Any]] = []
    models: tuple[str, Models] | None = None
    try:
        for case in track(cases, "measuring"):
            if args.time_limit and time.monotonic() - start > args.time_limit:
                notes.append(f"not run for lack of time: {case.name}")
                continue
            if models is None or models[0] != case.network:
                models = None  # give back the memory of the last one first
                models = (case.network, Models(case.network, device))
            try:
                seconds = args.case_seconds or CASE_S[device]
                rows.append(run_case(case, models[1], device, compiler, seconds))
            except (RuntimeError, MemoryError) as error:  # out of memory is a RuntimeError too
                notes.append(f"{case.name}: {first_line(error)} ({free_bytes(device) >> 20} MiB)")
    except KeyboardInterrupt:
        notes.append(f"interrupted: {len(rows)} of {len(cases)} cases were run")
    if compiler.skipped:
        notes.append(f"{COMPILED} was left out of {compiler.skipped} cases: its time was used up")
    result = {
        "schema": SCHEMA,
        "kind": "models",
        "machine": machine,
        "command": sys.argv[1:] if argv is None else list(argv),
        "seconds": round(time.monotonic() - start, 1),
        "notes": notes,
        "rows": rows,
    }
    if args.json:
        save(args.json, result)
    return finish(result, args)


def finish(result: dict[str, Any], args: argparse.Namespace) -> int:
    """Prints and plots; 0 if every conversion gave what it should."""
    from model_results import full, plot

    print(full(result, args.stat))
    if args.plot:
        for path in plot(result, args.plot, args.stat):
            print(f"written: {path}")
    wrong = [row for row in result["rows"] if row["wrong"]]
    for row in wrong:
        print(f"FAILED {ModelCase(**row['case']).name}: {row['wrong']}")
    return bool(wrong) or not result["rows"]


if __name__ == "__main__":
    sys.exit(main())
