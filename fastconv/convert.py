# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Swaps the layers of an existing model for fastconv's, in place, and back.

A layer is swapped by assigning its ``__class__``.  The object stays the same object with the same
``__dict__``, so whatever refers to it or to its parameters need not be told: parents, optimizers,
hooks, tied weights, parametrizations, wrappers for distributed training (docs/adr/0013).
"""

from __future__ import annotations

import copyreg
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastconv import functional
from fastconv import nn as layers
from fastconv._probe import Recipe, may_rearrange, probe_conv, probe_rearrangement, tensor_of
from fastconv._report import ConversionReport, Layer

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
_MARK = "_fastconv_wrapped"


class _Converted(nn.Module):
    """Mixed into the class that a swapped layer gets; its subclasses are made by _class_for()."""

    _fastconv_original: type[nn.Module]
    _fastconv_recipe: Recipe

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies and pickles by the original class: this one is in no module."""
        reduced = super().__reduce_ex__(max(protocol, 2))
        cls = type(self)
        if reduced[0] is not copyreg.__newobj__ or not _is_converted(cls):  # type: ignore[attr-defined]
            return reduced  # a way of the original class's own, or a class on top of ours
        return (_rebuild, (cls._fastconv_original, cls._fastconv_recipe), *reduced[2:])


class _Padded(_Converted):
    """A convolution whose own forward was seen to do nothing but pad, which is its recipe's."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Convolves and pads in one pass."""
        me: Any = self
        if len(args) != 1 or kwargs:
            return me._fastconv_original.forward(self, *args, **kwargs)
        padding = me._fastconv_recipe[1]
        nd = len(me.kernel_size)
        conv: Any = (
            functional.depthwise_conv1d,
            functional.depthwise_conv2d,
            functional.depthwise_conv3d,
        )[nd - 1]
        return conv(args[0], me.weight, me.bias, me.stride, padding, me.dilation)


class _Rearranged(_Converted):
    """A module of another library that was seen to do what a function of fastconv does."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Rearranges an image."""
        me: Any = self
        if len(args) != 1 or kwargs or args[0].dim() != 4:
            return me._fastconv_original.forward(self, *args, **kwargs)
        function, *arguments = me._fastconv_recipe
        return getattr(functional, function)(args[0], *arguments)


def _is_converted(cls: type) -> bool:
    return "_fastconv_recipe" in vars(cls)


def _class_for(original: type[nn.Module], recipe: Recipe) -> type[nn.Module]:
    """The class of converted instances of `original`; there is one for each recipe."""
    for known in original.__subclasses__():
        if vars(known).get("_fastconv_recipe") == recipe:
            return known
    layer = getattr(layers, recipe[0], None)
    name = f"Converted{original.__name__}"
    bases: tuple[type, ...]
    if layer is None:
        bases = (_Rearranged, original)
    else:
        bases = (_Converted if len(recipe) == 1 else _Padded, layer, original)
        if original in _COUNTERPARTS:
            name = layer.__name__
    namespace = {
        "__module__": __name__,
        "__doc__": original.__doc__,
        # The layer's constructor may take other arguments than the original's.
        "__init__": original.__init__,
        "_fastconv_original": original,
        "_fastconv_recipe": recipe,
    }
    return type(name, bases, namespace)


def _rebuild(original: type[nn.Module], recipe: Recipe) -> nn.Module:
    """What pickle calls; the state comes after."""
    return object.__new__(_class_for(original, recipe))


def _own_class(module: nn.Module) -> type[nn.Module]:
    """A module's class without those that torch makes for one instance and puts on top."""
    cls = type(module)
    while cls.__module__.startswith(("torch.nn.utils.parametrize", "torch.distributed.")):
        base = cls.__bases__[-1]  # fully_shard() puts a mixin first
        if not issubclass(base, nn.Module) or base is nn.Module:
            break
        cls = base
    return cls


def _rebase(cls: Any, old: type, new: type) -> type:
    """`cls` with `old`, which it is or derives from, replaced by `new`."""
    if cls is old:
        return new

    def names(c: type) -> set[str]:
        return set(vars(c)) - {_MARK, "__dict__", "__weakref__"}

    wrapped = vars(cls).get(_MARK)
    if wrapped is not None and new in wrapped.__mro__ and names(wrapped) == names(cls):
        return wrapped  # type: ignore[no-any-return]
    bases = tuple(_rebase(b, old, new) if issubclass(b, old) else b for b in cls.__bases__)
    namespace = {name: vars(cls)[name] for name in names(cls)}
    namespace[_MARK] = cls
    return type(cls.__name__.replace(old.__name__, new.__name__), bases, namespace)


def _assign(module: nn.Module, cls: type) -> None:
    object.__setattr__(module, "__class__", cls)  # whatever the module's own __setattr__ does


# --- which modules, and why not ---


def _walk(
    module: nn.Module, name: str = "", blocked: str = ""
) -> Iterator[tuple[str, nn.Module, str]]:
    """Every module under every one of its names, with the reason to leave it alone if any."""
    if isinstance(module, torch.jit.ScriptModule):
        yield name, module, "compiled by TorchScript; convert the model before that"
        return
    if type(module).__module__.startswith(("torch.ao.", "torch.nn.intrinsic")):
        blocked = "belongs to torch's quantization"
    yield name, module, blocked
    if "_observed_graph_module_attrs" in getattr(module, "meta", ()):
        blocked = "is prepared for quantization"
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
    cls = _own_class(module)
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
        target = _rebase(type(module), cls, _class_for(cls, recipe))
        _assign(object.__new__(type(module)), target)  # layouts differ with __slots__
    except TypeError as error:
        return f"its class cannot be replaced ({error})"
    return target


def _description(cls: type) -> str:
    recipe = next((vars(c)["_fastconv_recipe"] for c in cls.__mro__ if _is_converted(c)), None)
    if recipe is None:
        return cls.__name__
    name, *rest = recipe
    if not rest:
        return str(name)
    return f"{name}(padding={rest[0]!r})" if hasattr(layers, name) else f"{name}{tuple(rest)}"


def _is_ours(module: nn.Module) -> bool:
    names = (*_COUNTERPARTS.values(), "SpaceToDepth", "DepthToSpace")
    known = tuple(getattr(layers, n) for n in names if hasattr(layers, n))
    return isinstance(module, (_Converted, *known))


def convert_(
    model: nn.Module, filter_fn: Callable[[str, nn.Module], bool] | None = None
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

    Convert before TorchScript or quantization, which know classes by name.

    Args:
        model: A module, of any shape of input; wrappers such as ``DistributedDataParallel`` and
            compiled models too.
        filter_fn: Called with the name and the module of each layer that could be swapped; those
            for which it returns False are left alone.  A module that has several names is asked
            about by its first.

    Returns:
        A report: what was swapped, what was fastconv's already, and what was left alone and why.
        ``print(report)`` shows it as a table.

    Raises:
        TypeError: `model` is not a module, or `filter_fn` is not callable.

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
    found: dict[int, tuple[nn.Module, Layer, Any]] = {}
    for name, module, blocked in _walk(model):
        if id(module) in found:
            found[id(module)][1].aliases.append(name)
            continue
        layer = Layer(name, type(module).__name__)
        verdict: Any
        if isinstance(module, torch.jit.ScriptModule) or (
            blocked and (_judge_family(module) and not _is_ours(module))
        ):
            verdict = blocked
        elif blocked:
            verdict = None
        elif _is_ours(module):
            verdict = True
            layer.was = getattr(module, "_fastconv_original", type(module)).__name__
            layer.became = _description(type(module))
        else:
            verdict = _judge(name, module, filter_fn)
        found[id(module)] = (module, layer, verdict)
    # Nothing is changed until everything is decided.
    report = ConversionReport([], [], [])
    for module, layer, verdict in found.values():
        if isinstance(verdict, type):
            _assign(module, verdict)
            layer.became = _description(verdict)
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


def _judge_family(module: Any) -> bool:
    """Whether a module of a quantized model would have been considered otherwise."""
    conv = hasattr(module, "groups") and module.groups == getattr(module, "in_channels", None)
    return conv or isinstance(module, (nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle))


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
        ours = next((c for c in type(module).__mro__ if _is_converted(c)), None)
        if ours is not None:
            _assign(module, _rebase(type(module), ours, vars(ours)["_fastconv_original"]))
            names.append(name)
    return names
