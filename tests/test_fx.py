# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Layers under torch.fx."""

import pickle

import pytest
import torch
from test_layers import EVERY_LAYER
from torch import nn

import fastconv


@pytest.mark.parametrize("name", sorted(set(EVERY_LAYER) - {"DepthPool2d"}))
def test_layers_trace_with_fx(name):
    """As calls of our functions, whole.  (DepthPool2d looks at sizes, which torch.fx forbids.)"""
    args, kwargs, shape = EVERY_LAYER[name]
    layer = getattr(fastconv.nn, name)(*args, **kwargs)
    traced = torch.fx.symbolic_trace(nn.Sequential(layer, nn.ReLU()))
    called = [n.target for n in traced.graph.nodes if n.op == "call_function"]
    assert len(called) == 1 and called[0].__module__.startswith("fastconv.")
    x = torch.randn(shape)
    assert torch.equal(pickle.loads(pickle.dumps(traced))(x), layer(x).relu())
