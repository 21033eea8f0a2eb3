# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""torch.export and AOTInductor: programs that run in another process, at sizes not seen before."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import fastconv
import fastconv.nn

RUN = """
import sys
import torch
import fastconv  # registers the operators: nothing else is needed

runs = [torch.export.load(f"{i}.pt2").module() for i in range(2)]
runs.append(torch._inductor.aoti_load_package("package.pt2"))
torch.save([[run(x) for x in torch.load("inputs.pt")] for run in runs], "results.pt")
"""


class Net(nn.Module):
    """Every operator between others that a compiler fuses."""

    def __init__(self):
        super().__init__()
        self.down = fastconv.nn.DepthwiseConv2d(12, 24, 3, stride=2, padding="same")
        self.act = fastconv.nn.DepthwiseConv2d(24, 24, (3, 1), padding=((0, 2), (0, 0)))
        self.up = fastconv.nn.DepthwiseConvTranspose2d(12, 12, 4, 2, 1)
        self.mix = nn.Conv2d(12, 16, 1)

    def forward(self, x):
        x = fastconv.space_to_depth(x.relu(), 2, "focus")
        x = fastconv.channel_shuffle(self.act(self.down(x * 2)), 3)
        x, where = fastconv.depth_max_pool(x, 2, return_indices=True)
        x = self.mix(self.up(x)) + where.to(x.dtype).mean()
        return fastconv.pixel_shuffle(x, 2).sigmoid()


def converted():
    """A model of torch.nn alone, converted."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.Conv2d(8, 8, 3, 2, 1, groups=8),
        nn.Hardswish(),
        nn.PixelShuffle(2),
        nn.Conv2d(2, 3, 1),
    )
    assert len(fastconv.convert_(model).converted) == 2
    return model


SIZES = ((2, 3, 16, 20), (3, 3, 24, 36), (2, 3, 40, 20))


def exported(model, x):
    n, h, w = (torch.export.Dim(name, min=2, max=64) for name in "nhw")
    sizes = ({0: n, 2: 4 * h, 3: 4 * w},)
    with torch.no_grad():
        return torch.export.export(model, (x,), dynamic_shapes=sizes)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """For each model what it gives here, and what its program gives in another process."""
    folder = tmp_path_factory.mktemp("programs")
    models = [Net().eval(), converted().eval()]
    inputs = [torch.randn(s) for s in SIZES]
    for i, model in enumerate(models):
        torch.export.save(exported(model, inputs[0]), folder / f"{i}.pt2")
    program = exported(models[0], inputs[0])
    path = str(folder / "package.pt2")
    with torch.no_grad():
        torch._inductor.aoti_compile_and_package(program, package_path=path)
        want = [[model(x) for x in inputs] for model in [*models, models[0]]]
    torch.save(inputs, folder / "inputs.pt")
    subprocess.run([sys.executable, "-c", RUN], cwd=folder, check=True)
    got = torch.load(folder / "results.pt")
    names = ("every operator", "converted", "AOTInductor")
    return dict(zip(names, zip(got, want, strict=True), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["every operator", "converted", "AOTInductor"])
def test_programs_run_elsewhere(name, elsewhere):
    """With what torch.export saved, and with what AOTInductor compiled: at every size."""
    for y, expected in zip(*elsewhere[name], strict=True):
        assert y.stride() == expected.stride()
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


def test_exported_in_channels_last():
    """A program made from one layout keeps its promise about strides."""
    model = Net().eval()
    x, other = (torch.randn(s).to(memory_format=torch.channels_last) for s in SIZES[:2])
    program = exported(model, x)
    assert "fastconv.depthwise_conv.default" in {str(node.target) for node in program.graph.nodes}
    for t in (x, other):
        y, want = program.module()(t), model(t)
        assert y.stride() == want.stride()
        torch.testing.assert_close(y, want)


def test_decomposed_programs_keep_the_operators():
    """run_decompositions() takes native operators apart, ours are for a backend to know."""
    model = Net().eval()
    program = exported(model, torch.randn(SIZES[0])).run_decompositions()
    calls = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert sum(call.startswith("fastconv.") for call in calls) == 7
    x = torch.randn(SIZES[1])
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize("stride", [2, 3])
def test_same_padding_of_any_size(stride):
    """TensorFlow's rule depends on the size; the program must not."""
    layer = fastconv.nn.DepthwiseConv2d(4, 4, (3, 4), stride, padding="same", dilation=(1, 2))
    sizes = ({0: torch.export.Dim("n"), 2: torch.export.Dim("h", min=6)},)
    program = torch.export.export(layer, (torch.randn(2, 4, 16, 16),), dynamic_shapes=sizes)
    run = program.module()
    for height in range(6, 20):
        x = torch.randn(3, 4, height, 16)
        torch.testing.assert_close(run(x), layer(x))
        assert run(x).shape[2] == -(-height // stride)
