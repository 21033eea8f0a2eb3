# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Trains one small network with PyTorch's layers and with fastconv's, and compares the two.

pip install ".[examples]"
python examples/train_cifar_like.py                        scikit-learn's digits, a few minutes
python examples/train_cifar_like.py --data CIFAR_FOLDER    CIFAR-10: cifar-10-batches-py

Three blocks that end in max pooling and one that does not (C1 C2 C3 C40), of depthwise separable
convolutions, two of them dilated, global average pooling and a linear layer; trained with Adamax.
Both layer sets start from the same parameters and see the same batches, for each of three seeds.
"""

from __future__ import annotations

import argparse
import pickle
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import fastconv

LAYER_SETS = ("native", "fastconv")


# ---- the network ----


def separable(layers: str, c: int, out: int, dilation: int = 1) -> nn.Module:
    """A 3x3 depthwise separable convolution that keeps the size, with batch norms and ReLUs."""
    if layers == "fastconv":
        return fastconv.nn.DepthwiseSeparableConv2d(
            c, out, 3, padding=dilation, dilation=dilation, norm=nn.BatchNorm2d, activation="relu"
        )
    return nn.Sequential(
        nn.Conv2d(c, c, 3, padding=dilation, dilation=dilation, groups=c, bias=False),
        nn.BatchNorm2d(c),
        nn.ReLU(),
        nn.Conv2d(c, out, 1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    )


def network(layers: str, classes: int = 10, width: int = 16) -> nn.Sequential:
    """For images of 3x32x32."""
    w = width
    gap = fastconv.nn.GlobalAvgPool2d() if layers == "fastconv" else nn.AdaptiveAvgPool2d(1)
    c1 = [nn.Conv2d(3, w, 3, padding=1, bias=False), nn.BatchNorm2d(w), nn.ReLU()]
    c1 += [separable(layers, w, 2 * w), nn.MaxPool2d(2)]
    c2 = [separable(layers, 2 * w, 4 * w), separable(layers, 4 * w, 4 * w, 2), nn.MaxPool2d(2)]
    c3 = [separable(layers, 4 * w, 8 * w), separable(layers, 8 * w, 8 * w, 2), nn.MaxPool2d(2)]
    c40 = [separable(layers, 8 * w, 8 * w), gap, nn.Flatten(), nn.Linear(8 * w, classes)]
    return nn.Sequential(*c1, *c2, *c3, *c40)


def receptive_field(model: nn.Module) -> int:
    """How many pixels in a row the last convolution sees."""
    field, step = 1, 1
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):
            k, s, d = (
                v[0] if isinstance(v, tuple) else v
                for v in (layer.kernel_size, layer.stride, layer.dilation)
            )
            field += (k - 1) * d * step
            step *= s
    return field


# ---- the images ----


@dataclass
class Images:
    """Training and test images in [-1, 1], and their classes."""

    name: str
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    flip: bool  # whether a mirrored image is one of the same class


def cifar10(folder: Path) -> Images:
    """The Python version of https://www.cs.toronto.edu/~kriz/cifar.html."""
    inner = folder / "cifar-10-batches-py"
    folder = inner if inner.is_dir() else folder

    def read(names: list[str]) -> tuple[Tensor, Tensor]:
        # Pickles run code: only files that you trust.
        batches = [pickle.loads((folder / name).read_bytes(), encoding="bytes") for name in names]
        data = np.concatenate([b[b"data"] for b in batches]).reshape(-1, 3, 32, 32)
        labels = [label for b in batches for label in b[b"labels"]]
        return torch.from_numpy(data).float() / 127.5 - 1, torch.tensor(labels)

    train = read([f"data_batch_{i}" for i in range(1, 6)])
    return Images("CIFAR-10", train, read(["test_batch"]), flip=True)


def digits() -> Images:
    """scikit-learn's 1797 handwritten digits of 8x8, enlarged; every fifth is for testing."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    small = torch.from_numpy(loaded.images).float().unsqueeze(1) / 8 - 1
    images = F.interpolate(small, size=32, mode="bilinear").expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(loaded.target).long()
    test = torch.arange(len(labels)) % 5 == 0
    train = (images[~test], labels[~test])
    return Images("scikit-learn's digits", train, (images[test], labels[test]), flip=False)


def augmented(images: Tensor, flip: bool, generator: torch.Generator) -> Tensor:
    """Shifts a batch by up to three pixels, and mirrors it or not."""
    dy, dx = torch.randint(0, 7, (2,), generator=generator).tolist()
    size = images.shape[-1]
    images = F.pad(images, (3, 3, 3, 3), value=-1)[..., dy : dy + size, dx : dx + size]
    if flip and torch.rand((), generator=generator) < 0.5:
        images = images.flip(-1)
    return images


# ---- training ----


@dataclass
class Result:
    """One training run."""

    losses: list[float] = field(default_factory=list)  # the mean of every epoch
    seconds: list[float] = field(default_factory=list)  # of training, for every epoch
    accuracy: float = 0.0


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of test images that are classified right."""
    model.eval()
    with torch.inference_mode():
        right = [
            (model(x).argmax(1) == y).sum().item()
            for x, y in zip(images.split(256), labels.split(256), strict=True)
        ]
    return sum(right) / len(labels)


def train(layers: str, seed: int, data: Images, args: argparse.Namespace, bar: tqdm) -> Result:
    """Trains a network from a seed, which decides parameters, batches and augmentation."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    model = network(layers, width=args.width).to(args.device, memory_format=layout)
    images, labels = (t.to(args.device) for t in data.train)
    optimizer = torch.optim.Adamax(model.parameters(), lr=args.lr)
    steps = -(-len(labels) // args.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, args.epochs * steps, cycle_momentum=False
    )
    result = Result()
    for _ in range(args.epochs):
        model.train()
        total = torch.zeros((), device=args.device)
        start = time.perf_counter()
        for index in torch.randperm(len(labels), generator=generator).split(args.batch):
            x = augmented(images[index], data.flip, generator).contiguous(memory_format=layout)
            loss = F.cross_entropy(model(x), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(index)
            bar.update()
        result.losses.append(total.item() / len(labels))  # waits for the device
        result.seconds.append(time.perf_counter() - start)
        bar.set_postfix_str(f"{layers}, seed {seed}: loss {result.losses[-1]:.3f}")
    test_images, test_labels = (t.to(args.device) for t in data.test)
    result.accuracy = accuracy(model, test_images, test_labels)
    return result


# ---- what comes out ----


def print_results(
    results: dict[str, list[Result]], epochs: int, say: Callable[[str], None]
) -> None:
    """Loss curves side by side, then accuracy and time."""
    say("\nloss after each epoch, mean over seeds")
    say(f"{'epoch':>6} " + " ".join(f"{name:>10}" for name in LAYER_SETS))
    for epoch in range(epochs):
        means = [statistics.mean(r.losses[epoch] for r in results[name]) for name in LAYER_SETS]
        say(f"{epoch + 1:>6} " + " ".join(f"{mean:>10.4f}" for mean in means))
    say(f"\n{'layers':<10} {'accuracy':>9} {'lowest':>8} {'highest':>8} {'s/epoch':>8}")
    times = {}
    for name in LAYER_SETS:
        found = [100 * r.accuracy for r in results[name]]
        times[name] = statistics.median(s for r in results[name] for s in r.seconds)
        mean = statistics.mean(found)
        say(f"{name:<10} {mean:>8.2f}% {min(found):>7.2f}% {max(found):>7.2f}% {times[name]:>8.2f}")
    say(f"\nAn epoch with fastconv's layers takes {times['fastconv'] / times['native']:.2f} of the "
        "time with PyTorch's.")  # fmt: skip


def save_plot(results: dict[str, list[Result]], title: str, path: Path) -> None:
    """The loss of every run over epochs, and over seconds."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for name, color in zip(LAYER_SETS, ("tab:gray", "tab:blue"), strict=True):
        for i, run in enumerate(results[name]):
            label = name if i == 0 else None
            axes[0].plot(range(1, len(run.losses) + 1), run.losses, color=color, label=label)
            axes[1].plot(np.cumsum(run.seconds), run.losses, color=color, label=label)
    axes[0].set(xlabel="epoch", ylabel="training loss", yscale="log", title=title)
    axes[1].set(xlabel="seconds", title="the same over time")
    axes[0].legend()
    figure.savefig(path, dpi=120)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, help="folder with CIFAR-10's Python batches; digits if not given")
    add("--epochs", type=int, help="default: 8 for digits, 30 for CIFAR-10")
    add("--seeds", type=int, nargs="+", default=[1, 2, 3], help="one pair of runs each (1 2 3)")
    add("--batch", type=int, default=64, help="batch size (64)")
    add("--lr", type=float, default=0.01, help="highest learning rate of Adamax (0.01)")
    add("--width", type=int, default=16, help="channels of the first convolution (16)")
    add("--limit", type=int, help="use only so many training images")
    add("--channels-last", action="store_true", help="train in channels-last")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    add("--plot", type=Path, default=Path("train_cifar_like.png"), help="where the plot goes")
    args = parser.parse_args(argv)
    args.epochs = args.epochs or (30 if args.data else 8)
    return args


def main(argv: list[str] | None = None) -> dict[str, list[Result]]:
    """Trains everything and reports."""
    args = parse(argv)
    data = cifar10(args.data) if args.data else digits()
    if args.limit:
        data.train = (data.train[0][: args.limit], data.train[1][: args.limit])
    model = network("native", width=args.width)
    parameters, seen = sum(p.numel() for p in model.parameters()), receptive_field(model)
    if parameters >= 1_000_000 or seen <= 44:
        raise SystemExit(
            "the network must have less than 1M parameters and see more than 44 pixels"
        )
    print(f"{data.name}: {len(data.train[1])} images to train with, {len(data.test[1])} to test; "
          f"{parameters} parameters, receptive field {seen}; torch {torch.__version__}, "
          f"{args.device}, {torch.get_num_threads()} threads")  # fmt: skip
    results: dict[str, list[Result]] = {name: [] for name in LAYER_SETS}
    steps = -(-len(data.train[1]) // args.batch) * args.epochs
    with tqdm(total=steps * len(args.seeds) * len(LAYER_SETS), unit="batch") as bar:
        for seed in args.seeds:
            for name in LAYER_SETS:
                results[name].append(train(name, seed, data, args, bar))
    print_results(results, args.epochs, print)
    save_plot(results, data.name, args.plot)
    print(f"The loss curves are in {args.plot}.")
    return results


if __name__ == "__main__":
    main()
