# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Gives one module another class, so that it computes with fastconv and is otherwise the same.

The new class derives from the old one.  Classes that torch makes for one instance and puts on top
(parametrizations, ``fully_shard``) are made again on top of the new class.
"""

from __future__ import annotations

import copyreg
from typing import Any

import torch
from torch import Tensor, nn

from fastconv import functional
from fastconv import nn as layers
from fastconv._probe import Recipe

_MARK = "_fastconv_wrapped"


class Converted(nn.Module):
    """Mixed into the class that a swapped layer gets; its subclasses are made by class_for()."""

    _fastconv_original: type[nn.Module]
    _fastconv_recipe: Recipe

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies and pickles by the original class: this one is in no module."""
        reduced = super().__reduce_ex__(max(protocol, 2))
        cls = type(self)
        if reduced[0] is not copyreg.__newobj__ or not is_converted(cls):  # type: ignore[attr-defined]
            return reduced  # a way of the original class's own, or a class on top of ours
        return (_rebuild, (cls._fastconv_original, cls._fastconv_recipe), *reduced[2:])


class _Padded(Converted):
    """A convolution whose own forward was seen to do nothing but pad, which is its recipe's."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Convolves and pads in one pass."""
        me: Any = self
        if len(args) != 1 or kwargs:
            return me._fastconv_original.forward(self, *args, **kwargs)
        padding = me._fastconv_recipe[1]
        return _conv(me)(args[0], me.weight, me.bias, me.stride, padding, me.dilation)


class _Rearranged(Converted):
    """A module of another library that was seen to do what a function of fastconv does."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Rearranges an image."""
        me: Any = self
        if len(args) != 1 or kwargs or args[0].dim() != 4:
            return me._fastconv_original.forward(self, *args, **kwargs)
        function, *arguments = me._fastconv_recipe
        return getattr(functional, function)(args[0], *arguments)


class Chain:
    """A convolution, and what was fused with it: its modules know of each other by this.

    Attributes:
        conv: The convolution.
        norm: The batch norm that followed, or None.
        rest: The modules that have become the identity: the norm, the activation.
    """

    def __init__(self, conv: nn.Module, norm: nn.Module | None, rest: list[nn.Module]) -> None:
        self.conv, self.norm, self.rest = conv, norm, rest
        self.folded: tuple[Any, Tensor, Tensor | None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without what is computed from the rest."""
        return {**vars(self), "folded": None}

    def active(self) -> bool:
        """False while any of the modules is in training, when each does its own work."""
        return not (self.conv.training or any(m.training for m in self.rest))

    def filters(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the convolution with the norm folded in."""
        conv: Any = self.conv
        norm: Any = self.norm
        if norm is None:
            return conv.weight, conv.bias
        names = (conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean)
        tensors = [*names, norm.running_var]
        dims = len(conv.kernel_size)
        if _traced() or _differentiated(tensors) or _untracked(tensors):
            return _fold(tensors, norm.eps, dims)
        # Changed in place, replaced, or moved: then they are folded once more.
        key = [
            t if t is None else (id(t), t._version, t.untyped_storage()._cdata, t.dtype, t.device)
            for t in tensors
        ]
        if self.folded is None or self.folded[0] != key:
            # The copies may serve in an ordinary call later.
            with torch.inference_mode(False), torch.no_grad():
                self.folded = (key, *_fold(tensors, norm.eps, dims))
        return self.folded[1:]


def _traced() -> bool:
    return (
        torch.compiler.is_compiling()
        or torch.fx._symbolic_trace.is_fx_tracing()
        or torch._C._are_functorch_transforms_active()
    )


def _differentiated(tensors: list[Any]) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _untracked(tensors: list[Any]) -> bool:
    return any(t is not None and t.is_inference() for t in tensors)


def _fold(tensors: list[Any], eps: float, dims: int) -> tuple[Tensor, Tensor]:
    wide: list[Any] = [t if t is None else t.double() for t in tensors]
    weight, bias, gain, shift, mean, var = wide
    scale = (var + eps).rsqrt()
    scale = scale if gain is None else scale * gain
    offset = -mean if bias is None else bias - mean
    offset = offset * scale if shift is None else offset * scale + shift
    dtype = tensors[0].dtype
    return (weight * scale.view(-1, *[1] * (dims + 1))).to(dtype), offset.to(dtype)


class _Fused(Converted):
    """A convolution with the batch norm and the activation that follow it."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Does all of it in one pass, unless one of the modules is in training."""
        me: Any = self
        chain: Chain = me._fastconv_chain
        if len(args) != 1 or kwargs or not chain.active():
            return super().forward(*args, **kwargs)
        _, activation, padding = me._fastconv_recipe[:3]
        weight, bias = chain.filters()
        pads = me.padding if padding is None else padding
        return _conv(me)(args[0], weight, bias, me.stride, pads, me.dilation, activation=activation)


class _Passed(Converted):
    """A module whose work the convolution before it does."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Returns its input, unless one of the modules is in training."""
        me: Any = self
        if len(args) != 1 or kwargs or not me._fastconv_chain.active():
            return super().forward(*args, **kwargs)
        return args[0]


def _conv(me: Any) -> Any:
    return (
        functional.depthwise_conv1d,
        functional.depthwise_conv2d,
        functional.depthwise_conv3d,
    )[len(me.kernel_size) - 1]


def is_converted(cls: type) -> bool:
    return "_fastconv_recipe" in vars(cls)


def is_passed(cls: type) -> bool:
    return issubclass(cls, _Passed)


def class_for(original: type[nn.Module], recipe: Recipe) -> type[nn.Module]:
    """The class of converted instances of `original`; there is one for each recipe."""
    # A fused convolution is a converted one, or a layer of ours, with more around it.
    inner = recipe[3] if recipe[0] == "fused" else None
    base = original if inner is None else class_for(original, inner)
    for known in base.__subclasses__():
        if vars(known).get("_fastconv_recipe") == recipe:
            return known
    layer = getattr(layers, recipe[0], None)
    name = f"Converted{original.__name__}"
    bases: tuple[type, ...]
    if recipe[0] == "fused":
        name = f"Fused{base.__name__}"
        bases = (_Fused, base)
    elif recipe[0] == "passed":
        name = original.__name__
        bases = (_Passed, original)
    elif layer is None:
        bases = (_Rearranged, original)
    else:
        bases = (Converted if len(recipe) == 1 else _Padded, layer, original)
        if original.__module__.startswith("torch.nn."):
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
    return object.__new__(class_for(original, recipe))


def own_class(module: nn.Module) -> type[nn.Module]:
    """A module's class without those that torch makes for one instance and puts on top."""
    cls = type(module)
    while cls.__module__.startswith(("torch.nn.utils.parametrize", "torch.distributed.")):
        base = cls.__bases__[-1]  # fully_shard() puts a mixin first
        if not issubclass(base, nn.Module) or base is nn.Module:
            break
        cls = base
    return cls


def rebase(cls: Any, old: type, new: type) -> type:
    """`cls` with `old`, which it is or derives from, replaced by `new`."""
    if cls is old:
        return new

    def names(c: type) -> set[str]:
        return set(vars(c)) - {_MARK, "__dict__", "__weakref__"}

    wrapped = vars(cls).get(_MARK)
    if wrapped is not None and new in wrapped.__mro__ and names(wrapped) == names(cls):
        return wrapped  # type: ignore[no-any-return]
    bases = tuple(rebase(b, old, new) if issubclass(b, old) else b for b in cls.__bases__)
    namespace = {name: vars(cls)[name] for name in names(cls)}
    namespace[_MARK] = cls
    return type(cls.__name__.replace(old.__name__, new.__name__), bases, namespace)


def assign(module: nn.Module, cls: type) -> None:
    object.__setattr__(module, "__class__", cls)  # whatever the module's own __setattr__ does


def description(cls: type) -> str:
    recipe = next((vars(c)["_fastconv_recipe"] for c in cls.__mro__ if is_converted(c)), None)
    if recipe is None:
        return cls.__name__
    name, *rest = recipe
    if name == "fused":
        inside = next(c.__name__ for c in cls.__mro__ if c.__module__.startswith("fastconv.nn"))
        return f"{inside}(activation={rest[0]!r})" if rest[0] else f"{inside}, normalised"
    if not rest:
        return str(name)
    return f"{name}(padding={rest[0]!r})" if hasattr(layers, name) else f"{name}{tuple(rest)}"
