# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""One `Case` is one call of one operator at one size, dtype, layout and pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from blocks import BLOCKS

REARRANGEMENTS = (
    "space_to_depth",
    "depth_to_space",
    "pixel_shuffle",
    "pixel_unshuffle",
    "channel_shuffle",
)
OPS = (
    "depthwise_conv1d",
    "depthwise_conv2d",
    "depthwise_conv3d",
    "depthwise_conv_transpose1d",
    "depthwise_conv_transpose2d",
    "depthwise_conv_transpose3d",
    "depth_max_pool",
    *REARRANGEMENTS,
    "global_avg_pool2d",
    "sigmoid_gate",
    *BLOCKS,
)
DTYPES = ("float32", "float16", "bfloat16", "float64", "uint8")
LAYOUTS = ("contiguous", "channels_last")
# "both" is a training step through the layer: forward, then the gradients of input and parameters.
PASSES = ("forward", "backward", "both")
SUITES = ("quick", "models", "activations", "large", "random", "tiny", "all")

_SHORT = {
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "float64": "f64",
    "uint8": "u8",
}
_ABBREVIATED = {
    "stride": "s",
    "padding": "p",
    "output_padding": "op",
    "dilation": "d",
    "kernel_size": "k",
    "block_size": "b",
    "upscale_factor": "r",
    "downscale_factor": "r",
    "groups": "g",
    "order": "",
    "expand_ratio": "t",
    "squeeze_channels": "r",
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
    def is_transposed(self) -> bool:
        return self.op.startswith("depthwise_conv_transpose")

    @property
    def is_block(self) -> bool:
        return self.op in BLOCKS

    @property
    def makes_sense(self) -> bool:
        """Whether the operator takes the dtype, and has the pass in it."""
        if self.dtype == "uint8":
            return self.op in REARRANGEMENTS and self.mode == "forward"
        # A block rounds after each of its layers: one kernel's tolerance does not fit it.
        return self.dtype == "float32" or not self.is_block

    @property
    def kind(self) -> str:
        """What bounds it and which kernels it needs: "2-D k<=5"."""
        if not self.is_conv:
            return "rearrangement" if self.op in REARRANGEMENTS else self.op
        rank = f"{len(self.kernel)}-D"
        if self.is_transposed:
            return f"{rank} transposed"
        if self.multiplier != 1 or self.args.get("dilation", 1) not in (1, [1] * len(self.kernel)):
            return f"{rank} multiplier or dilation"
        most, least = max(self.kernel), min(self.kernel)
        if rank == "3-D":
            return rank
        if rank == "1-D":
            return "1-D k<=8" if most <= 8 else "1-D k>8"
        if most <= 5:
            return "2-D k<=5"
        return "2-D k 7 to 11" if most <= 11 and least > 1 else "2-D k>=13 or 1xk"

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
