# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Swaps the layers of an existing model for fastconv's, in place, and back.

A layer is swapped by assigning its ``__class__``.  The object stays the same object with the same
``__dict__``, so whatever refers to it or to its parameters need not be told: parents, optimizers,
hooks, tied weights, parametrizations, wrappers for distributed training (docs/adr/0013).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastconv import nn as layers
from fastconv._fuse import find_fusions, fuse_, fusible
from fastconv._probe import Recipe, may_rearrange, probe_conv, probe_rearrangement, tensor_of
from fastconv._report import ConversionReport, Layer
from fastconv._swap import (
    Converted,
    assign,
    class_for,
    description,
    is_converted,
    is_passed,
    own_class,
    rebase,
)

__all__ = ["ConversionReport", "Layer", "convert_", "revert_"]

# Looked up in fastconv.nn by name, when a model is converted.
_COUNTERPARTS: dict[type[nn.Module], str] = {
    nn.Conv1d: "DepthwiseConv1d",
    nn.Conv2d: "DepthwiseConv2d",
    nn.Conv3d: "DepthwiseConv3d",
    nn.ConvTranspose1d: "DepthwiseConvTranspose1d",
    nn.ConvTranspose2d: "DepthwiseConvTranspose2d",
    nn.ConvTranspose3d: "DepthwiseConvTranspose3d",
    nn.PixelShuffle: "PixelShuffle",
    nn.PixelUnshuffle: "PixelUnshuffle",
    nn.ChannelShuffle: "ChannelShuffle",
}
_CONVOLUTIONS = tuple(c for c in _COUNTERPARTS if "Conv" in c.__name__)
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_METHODS = ("forward", "_conv_forward")  # those in which the work is done


def _walk(
    module: nn.Module, name: str = "", blocked: str = ""
) -> Iterator[tuple[str, nn.Module, str]]:
    """Every module under every one of its names, with the reason to leave it alone if any."""
    if isinstance(module, torch.jit.ScriptModule):
        yield name, module, "compiled by TorchScript; convert before tracing"
        return
    if type(module).__module__.startswith(("torch.ao.", "torch.nn.intrinsic")):
        blocked = "belongs to torch's quantization"
    yield name, module, blocked
    for key, child in module._modules.items():
        if child is not None:
            yield from _walk(child, f"{name}.{key}" if name else key, blocked)


def _defined_above(cls: type, base: type) -> set[str]:
    """Which of _METHODS `cls` does not have from `base`."""
    mro = cls.__mro__
    return {m for m in _METHODS if any(m in vars(c) for c in mro[: mro.index(base)])}


def _not_depthwise(module: Any) -> str:
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return "is lazy and not initialised; run it once before"
    if module.groups != module.in_channels:
        return "not depthwise (groups != in_channels)"
    if module.in_channels == 1 and module.out_channels > 1:
        # One channel with several filters is what native dense kernels are good at.
        return "has one input channel and several filters: a dense convolution"
    return ""


def _unsuited(module: Any) -> str:
    """Reasons that have nothing to do with the module's class."""
    prepared = getattr(module, "qconfig", None) is not None
    if prepared or "activation_post_process" in module._modules:
        return "is prepared for quantization"
    if any(method in vars(module) for method in _METHODS):
        return "its forward is replaced on the instance"
    if isinstance(module, _CONVOLUTIONS):
        weight = tensor_of(module, "weight")
        if weight is not None and weight.dtype not in _DTYPES:
            return f"weight is {weight.dtype}"
        known = (Tensor, nn.Parameter)
        if weight is not None and type(weight) not in known and not _is_dtensor(weight):
            return f"weight is a {type(weight).__name__}"
    return ""


def _is_dtensor(tensor: Tensor) -> bool:
    return type(tensor).__module__.startswith("torch.distributed.tensor")


def _recipe(module: nn.Module, cls: type[nn.Module], base: type[nn.Module]) -> Recipe | str:
    """How to do what the module does, or why it cannot be done."""
    name = _COUNTERPARTS[base]
    layer = getattr(layers, name, None)
    if layer is None:
        return f"fastconv.nn has no {name}"
    own, ours = _defined_above(cls, base), _defined_above(layer, base)
    if not own:
        return (name,)
    if base not in _CONVOLUTIONS:
        return probe_rearrangement(module, cls) or "its own forward() does something else"
    if "_conv_forward" not in ours:
        return "has its own forward()"
    found = probe_conv(module, cls)
    hooked = any(
        child is not module and (child._forward_hooks or child._forward_pre_hooks)
        for child in module.modules()
    )
    if found.padding is not None and not hooked:
        return (name, found.padding)
    if found.through and "_conv_forward" not in own:
        return (name,)  # its forward stays, and calls our _conv_forward
    return found.why or "its own forward() does more than pad"


def _judge(name: str, module: nn.Module, filter_fn: Callable[[str, nn.Module], bool] | None) -> Any:
    """None for modules that are none of our business; a class to assign; or a reason."""
    cls = own_class(module)
    base = next((b for b in _COUNTERPARTS if issubclass(cls, b)), None)
    if base is None and not (may_rearrange(module) and not cls.__module__.startswith("torch.")):
        return None
    if base in _CONVOLUTIONS and (reason := _not_depthwise(module)):
        return reason
    if filter_fn is not None and not filter_fn(name, module):
        return "filter_fn said no"
    if reason := _unsuited(module):
        return reason
    if base is None:
        recipe: Recipe | str | None = probe_rearrangement(module, cls)
        if recipe is None:
            return None  # it had the name only
    else:
        recipe = _recipe(module, cls, base)
    if isinstance(recipe, str):
        return recipe
    try:
        target = rebase(type(module), cls, class_for(cls, recipe))
        assign(object.__new__(type(module)), target)  # layouts differ with __slots__
    except TypeError as error:
        return f"its class cannot be replaced ({error})"
    return target


def _is_ours(module: nn.Module) -> bool:
    names = {*_COUNTERPARTS.values(), "SpaceToDepth", "DepthToSpace"}
    return any(c is Converted or c in map(vars(layers).get, names) for c in type(module).__mro__)


def _concerns_us(module: Any) -> bool:
    """Whether a module that is blocked would have been considered."""
    if isinstance(module, torch.jit.ScriptModule):
        return True
    conv = hasattr(module, "groups") and module.groups == getattr(module, "in_channels", None)
    shuffle = isinstance(module, (nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle))
    return (conv or shuffle) and not _is_ours(module)


def convert_(
    model: nn.Module,
    filter_fn: Callable[[str, nn.Module], bool] | None = None,
    *,
    fuse: bool = False,
) -> ConversionReport:
    """Swaps every layer of a model that fastconv does for fastconv's, in place.

    These are depthwise ``nn.Conv1d``, ``2d`` and ``3d`` and their transposes, ``nn.PixelShuffle``,
    ``nn.PixelUnshuffle``, ``nn.ChannelShuffle``, subclasses of them, and modules of other libraries
    that are found to pad before they convolve, or to move space into channels or back.  A subclass
    with a ``forward`` of its own is swapped only if that is known to be kept.

    Modules and parameters stay the same objects: only a module's class changes, to a subclass of
    the one that it had.  So names, ``state_dict``, hooks, tied weights, shared modules,
    parametrizations, the training flag and the state of optimizers stay as they are, and `model`
    may itself be the layer.  A converted model can be copied and pickled.  To convert again changes
    nothing; :func:`fastconv.revert_` undoes it.  If this function raises, the model is as it was.

    One thing may be noticed: a one-dimensional convolution of a transposed ``(N, L, C)`` tensor
    keeps that layout in memory, so ``view()`` of its result may have to be ``reshape()``.

    Leave layers that are to be quantized as they are: torch's quantization looks layers up by
    class.  ``torch.jit.trace`` and ``torch.fx`` take converted models; ``torch.jit.script`` does
    not.

    Args:
        model: A module, of any shape of input and any dtype; wrappers such as
            ``DistributedDataParallel`` and compiled models too.
        filter_fn: Called with the name and the module of each layer that could be swapped; those
            for which it returns False are left alone.  A module that has several names is asked
            about by its first.
        fuse: Also compute the batch norm and the activation that follow a depthwise convolution in
            its pass, where :mod:`torch.fx` sees that nothing else uses what is between them.  For
            inference: the model must be in evaluation mode.  The norm and the activation stay where
            they are and return their input; if any of them is put into training mode, all do their
            own work again.  Weights may change: they are folded anew.

    Returns:
        What was swapped, what was fused, what was fastconv's already, and what was left alone and
        why, as a :class:`~fastconv.convert.ConversionReport`; ``print(report)`` shows a table.

    Raises:
        TypeError: `model` is not a module, or `filter_fn` is not callable.
        ValueError: `fuse` is asked for a model that is in training mode.

    Warns:
        UserWarning: No layer of the model is fastconv's, then or before.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, groups=8), torch.nn.ReLU())
        >>> report = fastconv.convert_(model)
        >>> report
        ConversionReport(converted=1, already=0, left=0)
        >>> report.converted[0].name, report.converted[0].became
        ('0', 'DepthwiseConv2d')
        >>> model(torch.randn(1, 8, 9, 9)).shape
        torch.Size([1, 8, 7, 7])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert_(): argument 'model' must be Module, not {type(model).__name__}")
    if filter_fn is not None and not callable(filter_fn):
        raise TypeError(
            f"convert_(): argument 'filter_fn' must be callable, not {type(filter_fn).__name__}"
        )
    if fuse:
        training = next((name for name, m in model.named_modules() if m.training), None)
        if training is not None:
            what = f"its module {training!r} is" if training else "it is"
            raise ValueError(
                f"convert_(): fuse=True folds batch norms for inference, and takes a model in "
                f"evaluation mode, but {what} in training mode; call model.eval() before"
            )
    found: dict[int, tuple[nn.Module, Layer, Any]] = {}
    for name, module, blocked in _walk(model):
        if id(module) in found:
            found[id(module)][1].aliases.append(name)
            continue
        layer = Layer(name, type(module).__name__)
        if blocked:
            verdict: Any = blocked if _concerns_us(module) else None
        elif is_passed(type(module)):
            verdict = None
        elif _is_ours(module):
            verdict = True
            layer.was = getattr(module, "_fastconv_original", type(module)).__name__
            layer.became = description(type(module))
        else:
            verdict = _judge(name, module, filter_fn)
        found[id(module)] = (module, layer, verdict)
    convs = {}
    for module, layer, verdict in found.values():
        ours = verdict is True and (filter_fn is None or filter_fn(layer.name, module))
        if fuse and (ours or isinstance(verdict, type)) and fusible(module, verdict):
            convs[id(module)] = len(module.kernel_size)  # type: ignore[arg-type]
    fusions = find_fusions(model, convs) if convs else []
    # Nothing is changed until everything is decided.
    report = ConversionReport([], [], [])
    for fusion in fusions:
        _, layer, verdict = found[id(fusion.conv)]
        parts = (fusion.conv, *fusion.rest)
        was = " + ".join(type(m).__name__ for m in parts)
        fuse_(fusion, verdict)
        became = description(type(fusion.conv))
        report.fused.append(Layer(layer.name, was, became, aliases=layer.aliases))
    for module, layer, verdict in found.values():
        if isinstance(verdict, type):
            layer.became = description(verdict)
            if "_fastconv_chain" not in vars(module):
                assign(module, verdict)
            report.converted.append(layer)
        elif verdict is True:
            report.already.append(layer)
        elif verdict:
            layer.reason = verdict
            report.left.append(layer)
    if not report.converted and not report.already:
        reasons = dict.fromkeys(str(layer.reason) for layer in report.left)
        because = f" Left alone: {'; '.join(reasons)}." if reasons else ""
        warnings.warn(
            f"convert_() found no layer to swap in {type(model).__name__}.{because}", stacklevel=2
        )
    return report


def revert_(model: nn.Module) -> list[str]:
    """Gives the layers that :func:`fastconv.convert_` swapped their classes back, in place.

    Layers that were built as fastconv's stay.  Nothing else about the model changes, so what was
    trained meanwhile stays too.

    Args:
        model: A module that was converted, or a copy of one.

    Returns:
        The names of the layers that were swapped back.

    Raises:
        TypeError: `model` is not a module.

    Example:
        >>> layer = torch.nn.PixelShuffle(2)
        >>> _ = fastconv.convert_(layer)
        >>> isinstance(layer, fastconv.nn.PixelShuffle)
        True
        >>> fastconv.revert_(layer)
        ['']
        >>> type(layer) is torch.nn.PixelShuffle
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"revert_(): argument 'model' must be Module, not {type(model).__name__}")
    names = []
    for name, module in model.named_modules():
        ours = next((c for c in type(module).__mro__ if is_converted(c)), None)
        if ours is not None:
            passed = is_passed(type(module))
            assign(module, rebase(type(module), ours, vars(ours)["_fastconv_original"]))
            vars(module).pop("_fastconv_chain", None)
            if not passed:
                names.append(name)
    return names
