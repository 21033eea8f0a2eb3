# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""convert_() over layers that torch has changed: parametrized, pruned, scripted, prepared."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.ao.quantization import quantize_fx
from torch.nn.utils import parametrizations, parametrize, prune

import fastconv
import fastconv.nn

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


def depthwise(**kwargs):
    return nn.Conv2d(8, 8, 3, padding=1, groups=8, **kwargs)


def close(ours, theirs, tolerance=1e-11):
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def is_swapped(module):
    return isinstance(module, fastconv.nn.DepthwiseConv2d)


# --- parametrizations, old and new ---


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


PARAMETRIZE = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "own": lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
    "bias": lambda layer: parametrize.register_parametrization(layer, "bias", Doubled()),
}


@pytest.mark.parametrize("name", PARAMETRIZE)
def test_parametrized_before(name):
    layer = PARAMETRIZE[name](depthwise().double()).eval()
    native, kind = copy.deepcopy(layer), type(layer)
    buffers = {k: v.clone() for k, v in layer.state_dict().items()}
    layer.train()  # in which spectral_norm changes its buffers at each look at the weight
    assert fastconv.convert_(layer).converted and is_swapped(layer)
    layer.eval()
    assert all(torch.equal(v, buffers[k]) for k, v in layer.state_dict().items())
    assert parametrize.is_parametrized(layer) and layer.state_dict().keys() == buffers.keys()
    assert is_swapped(layer) and repr(layer).startswith("ParametrizedDepthwiseConv2d")
    x = torch.randn(1, 8, 5, 6, dtype=torch.float64)
    close(layer(x), native(x))
    close(copy.deepcopy(layer)(x), native(x))
    fastconv.revert_(layer)
    assert type(layer) is kind
    close(layer(x), native(x))


@pytest.mark.parametrize("name", PARAMETRIZE)
@pytest.mark.parametrize("remove", ["while converted", "after"])
def test_parametrizations_come_and_go_on_converted_layers(name, remove):
    layer = depthwise().double()
    x = torch.randn(1, 8, 5, 6, dtype=torch.float64)
    fastconv.convert_(layer)
    inner = type(layer)
    PARAMETRIZE[name](layer).eval()
    assert is_swapped(layer) and fastconv.convert_(layer).already
    want = layer(x)
    if remove == "while converted":
        parametrize.remove_parametrizations(layer, "bias" if name == "bias" else "weight")
        assert type(layer) is inner
        fastconv.revert_(layer)
    else:
        fastconv.revert_(layer)
        assert type(layer).__name__ == "ParametrizedConv2d" and not is_swapped(layer)
        close(layer(x), want)
        parametrize.remove_parametrizations(layer, "bias" if name == "bias" else "weight")
    assert type(layer) is nn.Conv2d
    close(layer(x), want)


def test_a_parametrization_removed_and_another_added_while_converted():
    layer = parametrizations.weight_norm(depthwise().double())
    twin = copy.deepcopy(layer)  # shares the class that torch made
    fastconv.convert_(layer)
    assert not is_swapped(twin)
    parametrize.register_parametrization(layer, "bias", Doubled())
    x = torch.randn(1, 8, 5, 6, dtype=torch.float64)
    want = layer(x)
    fastconv.revert_(layer)
    assert not is_swapped(layer) and parametrize.is_parametrized(layer, "bias")
    close(layer(x), want)
    parametrize.remove_parametrizations(layer, "bias")
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is nn.Conv2d and parametrize.is_parametrized(twin, "weight")
    close(layer(x), want)


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "prune"])
def test_norms_and_pruning_that_work_by_hooks(name):
    layer = depthwise().double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        if name == "prune":
            prune.random_unstructured(layer, "weight", amount=0.5)
        else:
            getattr(nn.utils, name)(layer)
    layer.eval()
    x = torch.randn(1, 8, 5, 6, dtype=torch.float64)
    want = layer(x)
    assert fastconv.convert_(layer).converted
    close(layer(x), want)
    layer(x).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    if name == "prune":
        prune.remove(layer, "weight")
    else:
        getattr(nn.utils, f"remove_{name}")(layer)
    close(layer(x), want)


# --- what must be left alone ---


def test_scripted_modules():
    model = nn.Sequential(torch.jit.script(nn.Sequential(depthwise())), depthwise())
    report = fastconv.convert_(model)
    assert [e.name for e in report.converted] == ["1"]
    assert [(e.name, e.reason.split(";")[0]) for e in report.left] == [
        ("0", "compiled by TorchScript")
    ]
    assert model(torch.randn(1, 8, 5, 5)).shape == (1, 8, 5, 5)


def prepared_eager():
    model = nn.Sequential(torch.ao.quantization.QuantStub(), depthwise(), nn.ReLU())
    model.qconfig = torch.ao.quantization.get_default_qconfig("x86")
    return torch.ao.quantization.prepare(model.eval())


def prepared_qat():
    model = nn.Sequential(torch.ao.quantization.QuantStub(), depthwise(), nn.ReLU())
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
    return torch.ao.quantization.prepare_qat(model.train())


def prepared_fx():
    mapping = torch.ao.quantization.get_default_qconfig_mapping("x86")
    model = nn.Sequential(depthwise(), nn.ReLU()).eval()
    example = (torch.randn(1, 8, 5, 5),)
    return quantize_fx.prepare_fx(model, mapping, example)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
@pytest.mark.filterwarnings("ignore::UserWarning:torch.ao")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("prepare", [prepared_eager, prepared_qat, prepared_fx])
def test_models_prepared_for_quantization(prepare):
    """torch's converter looks layers up by class: one that it does not know stays float."""
    model = prepare()
    kinds = [type(m) for m in model.modules()]
    with pytest.warns(UserWarning, match="quantization"):
        report = fastconv.convert_(model)
    assert report.left and [type(m) for m in model.modules()] == kinds
    model(torch.randn(1, 8, 5, 5))
    convert = torch.ao.quantization.convert
    if prepare is prepared_fx:
        convert = quantize_fx.convert_fx
    quantized = convert(model.eval())
    assert any("quantized" in type(m).__module__ for m in quantized.modules())
    with pytest.warns(UserWarning, match="quantization"):
        fastconv.convert_(quantized)


def test_a_forward_on_the_instance_is_left_alone():
    layer = nn.Conv2d(4, 4, 3, groups=4)
    layer.forward = lambda x: x + 1
    with pytest.warns(UserWarning, match="replaced on the instance"):
        fastconv.convert_(layer)
    assert type(layer) is nn.Conv2d and layer(1) == 2


class Wrapped(torch.Tensor):
    pass


def test_weights_of_other_tensor_classes():
    layer = depthwise()
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Wrapped))
    with pytest.warns(UserWarning, match="weight is a Wrapped"):
        fastconv.convert_(layer)
