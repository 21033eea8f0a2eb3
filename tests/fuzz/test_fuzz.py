# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Every public function and layer, on arguments that hypothesis draws: about a minute.

``FASTCONV_FUZZ_SECONDS=600 pytest tests/fuzz`` takes ten.  ``FASTCONV_TEST_SEED`` repeats a run.
"""

import inspect
import os

import layer_strategies
import pytest
import strategies

import fastconv

SECONDS = float(os.environ.get("FASTCONV_FUZZ_SECONDS", 40))
# Which share of the time each gets: more where there are more kernels.
SHARES = dict.fromkeys([*strategies.FUNCTIONS, *layer_strategies.LAYERS], 1.0)
SHARES |= {"depthwise_conv1d": 3, "depthwise_conv2d": 4, "depthwise_conv3d": 3}
SHARES |= {"depthwise_conv_transpose2d": 2, "depth_max_pool": 3, "nn.convolutions": 1.5}


@pytest.mark.parametrize("target", SHARES)
def test_fuzz(target, fuzzer, rng):
    seconds = SECONDS * SHARES[target] / sum(SHARES.values())
    answer = fuzzer.run(target, rng.initial_seed(), seconds)
    print(f"{target}: {answer['counts']}, seeds from {rng.initial_seed()}")
    assert answer["report"] is None, answer["report"]
    assert answer["counts"].get("passed", 0) > 20


def test_everything_public_is_drawn():
    # Those of models, and what is no operator: tests/test_convert*.py, tests/test_onnx.py
    no_operators = {"config", "convert_", "onnx_translation_table", "revert_"}
    functions = {n for n in fastconv.__all__ if callable(getattr(fastconv, n))} - no_operators
    functions -= {"causal_conv1d_update"}  # changes an argument: tests/test_causal_update.py
    assert functions == set(strategies.FUNCTIONS)
    convolutions = {f"DepthwiseConv{kind}{n}d" for kind in ("", "Transpose") for n in (1, 2, 3)}
    others = {"DepthPool2d", "DepthwiseSeparableConv2d", *layer_strategies.THIN}
    # Compositions of what is drawn: tests/test_separable.py, tests/test_squeeze.py
    compositions = {"DepthwiseSeparableConv1d", "DepthwiseSeparableConv3d", "SqueezeExcitation"}
    assert set(fastconv.nn.__all__) == convolutions | others | compositions
    source = inspect.getsource(layer_strategies)
    assert all(f"nn.{name}" in source for name in others - set(layer_strategies.THIN))
