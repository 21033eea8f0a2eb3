# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""What is measured: one `Case` is one call of one operator at one size, dtype, layout and pass."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

OPS = (
    "depthwise_conv1d",
    "depthwise_conv2d",
    "depthwise_conv3d",
    "depth_max_pool",
    "space_to_depth",
    "depth_to_space",
    "pixel_shuffle",
    "pixel_unshuffle",
    "channel_shuffle",
)
DTYPES = ("float32", "float16", "bfloat16", "float64")
LAYOUTS = ("contiguous", "channels_last")
# "both" is a training step through the layer: forward, then the gradients of input and parameters.
PASSES = ("forward", "backward", "both")
SUITES = ("quick", "models", "large", "tiny", "all")

SHAPES = Path(__file__).with_name("shapes.json")

_SHORT = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "float64": "f64"}
_ABBREVIATED = {
    "stride": "s",
    "padding": "p",
    "dilation": "d",
    "kernel_size": "k",
    "block_size": "b",
    "upscale_factor": "r",
    "downscale_factor": "r",
    "groups": "g",
    "order": "",
}


@dataclass(frozen=True)
class Case:
    """One line of the table.

    `shape` is the input's, (N, C, *spatial).  `kernel`, `multiplier` and `bias` are a convolution's
    parameters; `args` are the keyword arguments of the call.
    """

    op: str
    shape: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    multiplier: int = 1
    bias: bool = False
    args: dict[str, Any] = field(default_factory=dict)
    family: str = ""
    dtype: str = "float32"
    layout: str = "contiguous"
    mode: str = "forward"
    # torch.compile costs seconds a case, so the quick suite does it for a few.
    compile: bool = True

    @property
    def is_conv(self) -> bool:
        return self.op.startswith("depthwise_conv")

    @property
    def size(self) -> str:
        """Size and arguments: "8x144x56x56 k3x3 s2"."""
        words = ["x".join(map(str, self.shape))]
        if self.kernel:
            words.append("k" + "x".join(map(str, self.kernel)))
        if self.multiplier != 1:
            words.append(f"m{self.multiplier}")
        for key, value in self.args.items():
            # The usual padding of an odd kernel goes without saying.
            if key == "padding" and _pads_half(self.kernel, value, self.args.get("dilation", 1)):
                continue
            text = "x".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
            letters = "" if text.isalpha() else _ABBREVIATED.get(key, key)
            words.append(letters + text)
        return " ".join(words)

    @property
    def variant(self) -> str:
        """Dtype, layout and pass: "f32 channels_last both"."""
        return f"{_SHORT[self.dtype]} {self.layout} {self.mode}"

    @property
    def name(self) -> str:
        return f"{self.op} {self.size} {self.variant}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Case:
        data = dict(data)
        data["shape"], data["kernel"] = tuple(data["shape"]), tuple(data["kernel"])
        return cls(**data)


def _pads_half(kernel: Sequence[int], padding: Any, dilation: Any) -> bool:
    if isinstance(padding, str) or not kernel:
        return False
    rank = len(kernel)
    pads = [padding] * rank if isinstance(padding, int) else list(padding)
    steps = [dilation] * rank if isinstance(dilation, int) else list(dilation)
    return all(2 * p == d * (k - 1) for p, k, d in zip(pads, kernel, steps, strict=True))


def _conv(family: str, shape: Sequence[int], kernel: Sequence[int] | int, **args: Any) -> Case:
    rank = len(shape) - 2
    sizes = (kernel,) * rank if isinstance(kernel, int) else tuple(kernel)
    bias, multiplier = args.pop("bias", True), args.pop("multiplier", 1)
    args.setdefault("padding", [k // 2 for k in sizes] if rank > 1 else sizes[0] // 2)
    op = f"depthwise_conv{rank}d"
    return Case(op, tuple(shape), sizes, multiplier, bias, args, family)


def _plain(op: str, family: str, shape: Sequence[int], **args: Any) -> Case:
    return Case(op, tuple(shape), args=args, family=family)


def _expand(
    sizes: Iterable[Case], dtypes: Sequence[str], layouts: Sequence[str], passes: Sequence[str]
) -> Iterator[Case]:
    for case in sizes:
        for dtype in dtypes:
            for layout in layouts:
                for mode in passes:
                    yield replace(case, dtype=dtype, layout=layout, mode=mode)


def _quick_sizes(device: str) -> list[Case]:
    """One or a few sizes of every operator, in batches that fill the device."""
    n = 64 if device == "cuda" else 4
    return [
        _conv("mamba", (max(1, n // 4), 1536, 2048), 4, padding="causal"),
        _conv("conformer", (n, 512, 500), 31),
        _conv("mobilenet", (n, 144, 56, 56), 3, bias=False),
        _conv("efficientnet", (n, 240, 28, 28), 5, stride=2, bias=False),
        _conv("convnext", (n, 192, 28, 28), 7),
        _conv("replknet", (max(1, n // 8), 128, 28, 28), 27),
        _conv("x3d", (max(1, n // 4), 108, 13, 20, 20), 3, bias=False),
        _plain("depth_max_pool", "maxout", (n, 128, 56, 56), kernel_size=2),
        _plain("depth_max_pool", "maxout", (n, 64, 56, 56), kernel_size=[2, 2, 2]),
        _plain("space_to_depth", "yolo", (max(1, n // 4), 64, 160, 160), block_size=2,
               order="focus"),
        _plain("depth_to_space", "tensorflow", (n, 256, 48, 48), block_size=2, order="dcr"),
        _plain("pixel_shuffle", "edsr", (n, 256, 48, 48), upscale_factor=2),
        _plain("pixel_unshuffle", "restormer", (max(1, n // 2), 24, 256, 256), downscale_factor=2),
        _plain("channel_shuffle", "shufflenet", (n, 232, 28, 28), groups=2),
    ]  # fmt: skip


def _quick(device: str) -> list[Case]:
    sizes = _quick_sizes(device)
    cases = list(_expand(sizes, ["float32"], LAYOUTS, ["forward", "both"]))
    compiled = {"mobilenet", "maxout", "edsr"}
    cases = [
        replace(
            case,
            compile=case.family in compiled
            and case.layout == "contiguous"
            and (case.mode == "forward" or case.is_conv),
        )
        for case in cases
    ]
    # Reduced precision: everything where it is cheap to measure, one convolution elsewhere.
    halves = [case for case in sizes if device == "cuda" or case.family == "mobilenet"]
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


def _large_sizes() -> list[Case]:
    """Tensors far larger than any cache."""
    return [
        _conv("large", (32, 64, 112, 112), 3),
        _conv("large", (32, 96, 112, 112), 7),
        _conv("large", (32, 144, 112, 112), 5, stride=2),
        _conv("large", (8, 4096, 2048), 4, padding="causal"),
        _conv("large", (8, 54, 16, 112, 112), 3),
        _plain("depth_max_pool", "large", (32, 128, 112, 112), kernel_size=2),
        _plain("space_to_depth", "large", (32, 64, 160, 160), block_size=2, order="dcr"),
        _plain("depth_to_space", "large", (32, 256, 80, 80), block_size=2, order="dcr"),
        _plain("pixel_shuffle", "large", (16, 256, 96, 96), upscale_factor=2),
        _plain("pixel_unshuffle", "large", (16, 48, 256, 256), downscale_factor=2),
        _plain("channel_shuffle", "large", (32, 232, 56, 56), groups=2),
    ]


def _huge_sizes() -> list[Case]:
    """More than 2^31 elements."""
    return [
        _conv("huge", (352, 128, 224, 224), 3),
        _plain("pixel_shuffle", "huge", (352, 128, 224, 224), upscale_factor=2),
    ]


def _tiny_sizes() -> list[Case]:
    """Every code path at sizes that a sanitizer can afford."""
    return [
        _conv("tiny", (2, 33, 17, 19), 3),
        _conv("tiny", (2, 32, 15, 14), 5, stride=2, bias=False),
        _conv("tiny", (1, 24, 14, 14), 7, dilation=2, padding=6),
        _conv("tiny", (1, 16, 12, 12), 13, multiplier=2),
        _conv("tiny", (2, 40, 67), 4, padding="causal"),
        _conv("tiny", (1, 16, 5, 9, 10), 3, stride=[1, 2, 2]),
        _plain("depth_max_pool", "tiny", (2, 16, 9, 11), kernel_size=2),
        _plain("depth_max_pool", "tiny", (2, 16, 9, 11), kernel_size=[3, 3, 3], stride=2,
               padding=[1, 1, 1]),
        _plain("space_to_depth", "tiny", (2, 5, 12, 14), block_size=2, order="focus"),
        _plain("depth_to_space", "tiny", (2, 36, 7, 5), block_size=3, order="dcr"),
        _plain("pixel_shuffle", "tiny", (2, 48, 7, 5), upscale_factor=4),
        _plain("pixel_unshuffle", "tiny", (2, 3, 16, 12), downscale_factor=4),
        _plain("channel_shuffle", "tiny", (2, 30, 9, 7), groups=3),
    ]  # fmt: skip


def cases_of(
    suite: str,
    device: str,
    dtypes: Sequence[str] = (),
    layouts: Sequence[str] = (),
    passes: Sequence[str] = (),
    batches: Sequence[int] = (1, 8),
) -> list[Case]:
    """The cases of a suite; dtypes, layouts and passes, where given, replace the suite's own."""
    if suite == "all":
        # "tiny" is for checking, not for measuring.
        chosen = [
            case
            for each in ("quick", "models", "large")
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
        sizes = _quick_sizes(device)
    elif suite == "models":
        sizes = model_sizes(batches)
    elif suite == "large":
        sizes = _large_sizes()
    elif suite == "tiny":
        sizes = _tiny_sizes()
        dtypes = dtypes or ("float32", "float16", "bfloat16")
        passes = passes or ("both",)
    else:
        raise ValueError(f"unknown suite {suite!r}; there are {', '.join(SUITES)}")
    layouts, passes = layouts or LAYOUTS, passes or ("forward", "both")
    cases = list(_expand(sizes, dtypes or ("float32",), layouts, passes))
    if suite == "large" and device == "cuda" and not dtypes and "forward" in passes:
        cases += _expand(_huge_sizes(), ["bfloat16"], layouts, ["forward"])
    return cases


def tensor_bytes(case: Case) -> int:
    """Bytes of the case's input: what decides whether it fits into memory."""
    return math.prod(case.shape) * {"float64": 8, "float32": 4}.get(case.dtype, 2)
