# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""The training example: what it promises about its network, and a run of a few batches."""

import importlib.util
import pathlib
import pickle
import re
import sys

import numpy as np
import pytest
import torch

PATH = pathlib.Path(__file__).resolve().parents[1] / "examples" / "train_cifar_like.py"


@pytest.fixture(scope="module")
def example():
    for package in ("matplotlib", "tqdm"):
        pytest.importorskip(package)
    spec = importlib.util.spec_from_file_location("train_cifar_like", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


def test_the_network_is_as_described(example):
    for layers in example.LAYER_SETS:
        model = example.network(layers)
        assert sum(p.numel() for p in model.parameters()) < 1_000_000
        assert example.receptive_field(model) > 44
        kinds = [type(m).__name__ for m in model.modules()]
        assert kinds.count("MaxPool2d") == 3
        assert any(m.dilation == (2, 2) for m in model.modules() if isinstance(m, torch.nn.Conv2d))


def test_receptive_field_is_what_changes(example):
    """A pixel beyond half of it has no part in the pooled channels' centre; one within has."""
    model = example.network("native").double().eval()
    body = model[: [type(m).__name__ for m in model].index("AdaptiveAvgPool2d")]
    reach = example.receptive_field(model)
    x = torch.randn(1, 3, 160, 160, dtype=torch.float64, requires_grad=True)
    y = body(x)
    y[0, :, y.shape[2] // 2, y.shape[3] // 2].sum().backward()
    rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert 44 < rows.max() - rows.min() + 1 <= reach


def test_both_networks_start_the_same(example):
    torch.manual_seed(5)
    native = example.network("native").double()
    torch.manual_seed(5)
    ours = example.network("fastconv").double()
    for a, b in zip(native.parameters(), ours.parameters(), strict=True):
        assert torch.equal(a, b)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(native(x), ours(x))


def cifar_folder(folder):
    """A folder as CIFAR-10's, with ten images in a file."""
    inner = folder / "cifar-10-batches-py"
    inner.mkdir()
    dice = np.random.default_rng()
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        data = dice.integers(0, 256, (10, 3072), dtype=np.uint8)
        batch = {b"data": data, b"labels": dice.integers(0, 10, 10).tolist()}
        (inner / name).write_bytes(pickle.dumps(batch))
    return inner


def test_runs_on_cifar(example, tmp_path, capsys):
    inner = cifar_folder(tmp_path)
    plot = tmp_path / "plot.png"
    arguments = ["--data", str(tmp_path), "--epochs", "2", "--batch", "25", "--seeds", "1", "2"]
    results = example.main([*arguments, "--width", "4", "--device", "cpu", "--plot", str(plot)])
    assert plot.stat().st_size > 1000
    said = capsys.readouterr().out
    assert "CIFAR-10: 50 images to train with, 10 to test" in said
    assert re.search(r"fastconv +[\d.]+% +[\d.]+% +[\d.]+% +[\d.]+", said)
    for native, ours in zip(*results.values(), strict=True):
        assert len(native.losses) == len(ours.seconds) == 2
        # The same parameters and batches: float32's rounding is all that differs at first.
        assert ours.losses[0] == pytest.approx(native.losses[0], rel=1e-2)
    images = example.cifar10(inner)
    assert images.train[0].shape == (50, 3, 32, 32) and images.test[0].abs().max() <= 1


def test_digits(example):
    pytest.importorskip("sklearn")
    data = example.digits()
    assert data.train[0].shape == (1437, 3, 32, 32) and data.test[0].shape == (360, 3, 32, 32)
    assert data.train[0].min() >= -1 and data.train[0].max() <= 1
    assert set(data.test[1].tolist()) == set(range(10))
