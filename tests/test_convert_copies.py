# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""What goes on as before in a converted model: hooks, optimizers, copies, pickles, weights."""

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastconv
import fastconv.nn


def classes(model):
    return [type(m) for m in model.modules()]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.shared = self.first
        self.tied = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.tied.weight = self.first.weight
        self.dense = nn.Conv2d(8, 8, 1)
        self.up = nn.PixelShuffle(2)

    def forward(self, x):
        x = self.tied(self.norm(self.first(x)).relu()) + self.shared(x)
        return self.up(self.dense(x))


def test_hooks_and_training_flag():
    model, seen = Block().eval(), []
    model.tied.train()
    model.first.register_forward_pre_hook(lambda m, args: seen.append("before"))
    model.first.register_forward_hook(lambda m, args, y: seen.append("after"))
    model.first.register_full_backward_hook(lambda m, gi, go: seen.append("backward"))
    model.first.weight.register_hook(lambda g: seen.append("weight"))
    model.up.register_state_dict_pre_hook(lambda *args: seen.append("state"))
    flags = [m.training for m in model.modules()]
    fastconv.convert_(model)
    assert [m.training for m in model.modules()] == flags
    model(torch.randn(1, 8, 4, 4, requires_grad=True)).sum().backward()
    assert seen.count("before") == seen.count("after") == 2
    assert seen.count("backward") == 2 and seen.count("weight") == 1
    model.state_dict()
    assert seen[-1] == "state"


def test_an_optimizer_goes_on():
    """Three steps native, three converted, three native again: as nine native ones."""
    model = Block().double()
    native = copy.deepcopy(model)
    x = torch.randn(4, 8, 6, 6, dtype=torch.float64)
    optimizers = [torch.optim.Adam(m.parameters(), lr=1e-2) for m in (model, native)]
    for turn in (lambda m: None, fastconv.convert_, fastconv.revert_):
        turn(model)
        for _ in range(3):
            for m, optimizer in zip((model, native), optimizers, strict=True):
                optimizer.zero_grad()
                F.mse_loss(m(x), torch.ones(4, 2, 12, 12, dtype=torch.float64)).backward()
                optimizer.step()
    for ours, theirs in zip(model.parameters(), native.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def saved(model):
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "save": saved,
    **{
        f"pickle{n}": lambda model, n=n: pickle.loads(pickle.dumps(model, n))
        for n in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


@pytest.mark.parametrize("way", COPIES)
def test_copies_stay_converted_and_can_be_reverted(way):
    model, native = Block(), Block()
    fastconv.convert_(model)
    x = torch.randn(2, 8, 6, 6)
    twin = COPIES[way](model)
    assert classes(twin) == classes(model) and repr(twin) == repr(model)
    assert twin.first is twin.shared and twin.tied.weight is twin.first.weight
    assert torch.equal(twin.eval()(x), model.eval()(x))
    if way != "copy":  # which shares its children
        fastconv.revert_(twin)
        assert classes(twin) == classes(native)
        assert isinstance(model.first, fastconv.nn.DepthwiseConv2d)


def test_a_pickle_loads_in_a_new_process(tmp_path):
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.PixelShuffle(2))
    fastconv.convert_(model)
    x = torch.randn(1, 8, 5, 5)
    torch.save((model, x, model(x)), tmp_path / "model.pt")
    code = (
        "import sys, torch\n"
        "model, x, y = torch.load(sys.argv[1], weights_only=False)\n"
        "assert 'fastconv' in sys.modules and torch.equal(model(x), y)\n"
        "import fastconv\n"
        "assert len(fastconv.revert_(model)) == 2 and type(model[0]) is torch.nn.Conv2d\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model.pt")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_weights_go_both_ways():
    model, native = Block(), Block()
    fastconv.convert_(model)
    assert list(model.state_dict()) == list(native.state_dict())
    model.load_state_dict(native.state_dict())
    native.load_state_dict(model.state_dict())
    x = torch.randn(1, 8, 4, 4)
    torch.testing.assert_close(model.eval()(x), native.eval()(x))


def test_a_converted_layers_class_can_build_another():
    layer = nn.Conv2d(4, 4, 3, groups=4)
    fastconv.convert_(layer)
    other = type(layer)(6, 6, 5, padding=2, groups=6)
    assert isinstance(other, fastconv.nn.DepthwiseConv2d) and other.kernel_size == (5, 5)
