# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Gives one module another class, so that it computes with fastconv and is otherwise the same.

The new class derives from the old one.  Classes that torch makes for one instance and puts on top
(parametrizations, ``fully_shard``) are made again on top of the new class.
"""

from __future__ import annotations

import copyreg
from typing import Any

from torch import nn

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
        nd = len(me.kernel_size)
        conv: Any = (
            functional.depthwise_conv1d,
            functional.depthwise_conv2d,
            functional.depthwise_conv3d,
        )[nd - 1]
        return conv(args[0], me.weight, me.bias, me.stride, padding, me.dilation)


class _Rearranged(Converted):
    """A module of another library that was seen to do what a function of fastconv does."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Rearranges an image."""
        me: Any = self
        if len(args) != 1 or kwargs or args[0].dim() != 4:
            return me._fastconv_original.forward(self, *args, **kwargs)
        function, *arguments = me._fastconv_recipe
        return getattr(functional, function)(args[0], *arguments)


def is_converted(cls: type) -> bool:
    return "_fastconv_recipe" in vars(cls)


def class_for(original: type[nn.Module], recipe: Recipe) -> type[nn.Module]:
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
    if not rest:
        return str(name)
    return f"{name}(padding={rest[0]!r})" if hasattr(layers, name) else f"{name}{tuple(rest)}"
