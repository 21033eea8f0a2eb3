# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""What is measured: the suites, as tables of cases."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from case import DTYPES as DTYPES
from case import LAYOUTS as LAYOUTS
from case import OPS as OPS
from case import PASSES as PASSES
from case import SUITES as SUITES
from case import Case as Case
from random_sizes import random_sizes
from sizes import block_sizes, huge_sizes, large_sizes, pool_sizes, quick_sizes, tiny_sizes

SHAPES = Path(__file__).with_name("shapes.json")


def _expand(
    sizes: Iterable[Case], dtypes: Sequence[str], layouts: Sequence[str], passes: Sequence[str]
) -> Iterator[Case]:
    for case in sizes:
        for dtype in dtypes:
            for layout in layouts:
                for mode in passes:
                    yield replace(case, dtype=dtype, layout=layout, mode=mode)


def _quick(device: str) -> list[Case]:
    sizes = quick_sizes(device)
    cases = list(_expand(sizes, ["float32"], LAYOUTS, ["forward", "both"]))
    compiled = {"mobilenet", "maxout", "edsr"}
    cases = [
        replace(
            case,
            compile=case.family in compiled
            and case.layout == "contiguous"
            and case.op != "depthwise_conv_transpose2d"
            and (case.mode == "forward" or case.is_conv),
        )
        for case in cases
    ]
    # Reduced precision: everything where it is cheap to measure, one convolution elsewhere.
    halves = [
        case
        for case in sizes
        if device == "cuda" or case.family == "mobilenet" or "pool2d" in case.op
    ]
    for case in _expand(halves, ["bfloat16", "float16"], LAYOUTS, ["forward", "both"]):
        cases.append(replace(case, compile=False))
    if device != "cuda":
        some = [case for case in sizes if case.family in {"maxout", "edsr"}][1:]
        for case in _expand(some, ["bfloat16"], LAYOUTS, ["forward"]):
            cases.append(replace(case, compile=False))
    return cases


def model_sizes(batches: Sequence[int]) -> list[Case]:
    """The layers of real models, each distinct size once a batch size; a bias is no distinction."""
    cases: dict[str, Case] = {}
    for model, layers in json.loads(SHAPES.read_text()).items():
        for layer in layers:
            for n in batches:
                case = Case(
                    op=layer["op"],
                    shape=(n, layer["channels"], *layer["size"]),
                    kernel=tuple(layer.get("kernel", ())),
                    multiplier=layer.get("multiplier", 1),
                    bias=layer.get("bias", False),
                    args=layer["args"],
                    family=model.split("@")[0],
                )
                cases.setdefault(case.name, case)
    return list(cases.values())


# What follows the depthwise convolutions of a model, by the beginning of its name.
_FOLLOWED_BY = {
    "mobilenetv2": "relu6",
    "mobilenetv3": "hardswish",
    "mobilenetv4": "relu",
    "mobileone": "relu",
    "efficientnet_lite": "relu6",
    "efficientnet_b": "silu",
    "tf_efficientnet": "silu",
    "tv_efficientnet": "silu",
    "convmixer": "gelu",
    "x3d": "silu",
    "mamba": "silu",
}


def activation_sizes(batches: Sequence[int]) -> list[Case]:
    """The layers of models with the activations that follow them, batch norm folded in."""
    cases: dict[str, Case] = {}
    for case in model_sizes(batches):
        for family, name in _FOLLOWED_BY.items():
            if case.is_conv and case.family.startswith(family):
                case = replace(case, bias=True, args={**case.args, "activation": name})
                cases.setdefault(case.name, case)
    return list(cases.values())


def cases_of(
    suite: str,
    device: str,
    dtypes: Sequence[str] = (),
    layouts: Sequence[str] = (),
    passes: Sequence[str] = (),
    batches: Sequence[int] = (1, 8),
    seed: int = 0,
) -> list[Case]:
    """The cases of a suite; dtypes, layouts and passes, where given, replace the suite's own."""
    if suite == "all":
        # "tiny" is for checking, not for measuring; "random" is for looking for what is slow.
        chosen = [
            case
            for each in ("quick", "models", "activations", "large")
            for case in cases_of(each, device, dtypes, layouts, passes, batches)
        ]
        return list({case.name: case for case in chosen}.values())
    if suite == "quick" and not dtypes and "backward" not in passes:
        return [
            case
            for case in _quick(device)
            if case.layout in (layouts or LAYOUTS) and case.mode in (passes or PASSES)
        ]
    if suite == "quick":
        sizes = quick_sizes(device)
    elif suite == "models":
        sizes = [*model_sizes(batches), *pool_sizes(batches), *block_sizes(batches)]
        dtypes = dtypes or ("float32", "bfloat16", "float16", "uint8")
    elif suite == "activations":
        sizes = activation_sizes(batches)
    elif suite == "large":
        sizes = large_sizes()
    elif suite == "random":
        sizes = random_sizes(seed)
    elif suite == "tiny":
        sizes = tiny_sizes()
        dtypes = dtypes or ("float32", "float16", "bfloat16")
        passes = passes or ("both",)
    else:
        raise ValueError(f"unknown suite {suite!r}; there are {', '.join(SUITES)}")
    layouts, passes = layouts or LAYOUTS, passes or ("forward", "both")
    cases = [
        case for case in _expand(sizes, dtypes or ("float32",), layouts, passes) if case.makes_sense
    ]
    if suite == "large" and device == "cuda" and not dtypes and "forward" in passes:
        cases += _expand(huge_sizes(), ["bfloat16"], layouts, ["forward"])
    return cases


def tensor_bytes(case: Case) -> int:
    """Bytes of the case's input: what decides whether it fits into memory."""
    return math.prod(case.shape) * {"float64": 8, "float32": 4, "uint8": 1}.get(case.dtype, 2)
