# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""The benchmark's rivals: who runs in a case, on which tensors, and how their results compare."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

import cases
import operators
import results
import rivals


def test_bytes_are_compared_exactly(monkeypatch):
    table = cases.cases_of("tiny", "cpu", ["uint8"], ["contiguous"], ["forward"])
    assert {c.op for c in table} == {"space_to_depth", "depth_to_space", "pixel_shuffle",
                                     "pixel_unshuffle", "channel_shuffle"}  # fmt: skip
    for each in table:
        tensors = operators.tensors_of(each, "cpu")
        assert tensors[0].dtype == torch.uint8 and tensors[0].max() > 127
        assert rivals.differs(each, tensors) == ""
    ours = rivals.ours
    monkeypatch.setattr(rivals, "ours", lambda case: lambda x: ours(case)(x) ^ 1)
    assert "is off by" in rivals.differs(each, tensors)


def test_large_random_tensors_repeat_what_is_far_apart():
    values = operators.random_tensor((3, operators._RANDOM), torch.bfloat16, "cpu")
    assert values.abs().min() >= 0.25 and values.abs().max() <= 1
    assert torch.equal(values[0], values[2])
    assert 0.4 < (values[0] > 0).double().mean() < 0.6
    assert values[0].unique().numel() > 200


def test_of_large_tensors_some_images_are_compared():
    for op, args in {"pixel_shuffle": {"upscale_factor": 2}, "sigmoid_gate": {}}.items():
        for shape, images in (((3, 24, 256, 256), 1), ((5, 8, 256, 256), 4), ((3, 8, 64, 64), 3)):
            case = cases.Case(op, shape, args=args)
            some = rivals.some_images(case, operators.tensors_of(case, "cpu"))
            assert {tensor.shape[0] for tensor in some} == {images}
            assert rivals.differs(case, some) == ""


def test_float16_that_takes_native_minutes_is_measured_alone():
    case = cases.Case("depthwise_conv1d", (1, 2, 9), (3,), dtype="float16")
    tensors = operators.tensors_of(case, "cpu")
    for flops, names in ((10**10, {results.OURS}), (10**6, {results.OURS, results.NATIVE,
                                                           results.OTHER})):  # fmt: skip
        failed = {}
        compiler = rivals.Compiler(0)
        ready = rivals.contenders_of(case, tensors, flops, ["native"], compiler, failed)
        assert set(ready) == names
        assert failed == ({} if len(names) > 1 else {"native": "left out: 10.0 GFLOP in float16"})
