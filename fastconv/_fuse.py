# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Finds the batch norms and activations that follow a depthwise convolution and nothing else.

The graph says so, which :mod:`torch.fx` traces: of the whole model, or where that cannot be traced,
of its largest parts that can.  What a norm or an activation computes is found out by running it on
a replica, as for other modules: libraries have their own classes, some of which do both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastconv import nn as layers
from fastconv._probe import Recipe, replica
from fastconv._swap import Chain, assign, class_for, is_converted, own_class, rebase

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "silu": F.silu,
    "gelu": F.gelu,
}
_STATISTICS = ("running_mean", "running_var")


@dataclass
class Fusion:
    """What is to be fused.

    Attributes:
        conv: The convolution.
        norm: The batch norm that follows it, or None.
        act: The module of its own that the activation is, or None.
        activation: Its name, or None.
    """

    conv: nn.Module
    norm: nn.Module | None = None
    act: nn.Module | None = None
    activation: str | None = None
    rest: list[nn.Module] = field(init=False)

    def __post_init__(self) -> None:
        """Lists the modules that become the identity."""
        self.rest = [m for m in (self.norm, self.act) if m is not None]


def _is_norm(module: nn.Module) -> bool:
    """Whether it has what a batch norm has, and is of no kind that computes statistics anew."""
    return all(isinstance(getattr(module, name, None), Tensor) for name in _STATISTICS)


def _has_hooks(module: Any) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _in_double(value: Any) -> Any:
    if isinstance(value, nn.Parameter):
        return nn.Parameter(_in_double(value.data), requires_grad=False)
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return value.double() if value.is_floating_point() else value.clone()
    return value


def _run(module: nn.Module, x: Tensor) -> Tensor | None:
    """What the module gives for x in double precision; None if it does not take it so."""
    if any(t.is_meta for t in module.state_dict().values() if isinstance(t, Tensor)):
        return None
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=()):
            y = replica(module, type(module), False, _in_double)(x.clone())
    except Exception:  # whatever it asks of its input, it is not what we look for
        return None
    return y if isinstance(y, Tensor) and y.shape == x.shape else None


def _named(y: Tensor, plain: Tensor) -> str | None:
    """Which activation of `plain` y is: its name, empty for none at all; None for another."""
    if torch.allclose(y, plain, rtol=1e-6, atol=1e-6):
        return ""
    for name, function in ACTIVATIONS.items():
        if torch.allclose(y, function(plain), rtol=1e-6, atol=1e-6):
            return name
    return None


def _norm_and_activation(norm: Any, dims: int) -> str | None:
    """The activation that a batch norm ends with; None if that is not all it does."""
    mean, var = (_in_double(getattr(norm, name)) for name in _STATISTICS)
    gain, shift = (_in_double(getattr(norm, name, None)) for name in ("weight", "bias"))
    generator = torch.Generator().manual_seed(0)
    size = (2, mean.numel(), *[7] * dims)
    x = 4 * torch.randn(size, generator=generator, dtype=torch.float64)
    # Such inputs that the result is spread over where activations differ, whatever the statistics.
    columns = (1, -1, *[1] * dims)
    y = _run(norm, x * (var + norm.eps).sqrt().view(columns) + mean.view(columns))
    if y is None:
        return None
    for parameter, ones in ((gain, 1), (shift, 0)):
        if parameter is None:
            parameter = torch.full_like(mean, ones)
        x = x * parameter.view(columns) if ones else x + parameter.view(columns)
    return _named(y, x)


def _activation(module: nn.Module) -> str | None:
    """The activation that a module without parameters is; None if it is none of ours."""
    if any(True for _ in module.parameters()) or any(True for _ in module.buffers()):
        return None
    x = torch.linspace(-12, 12, 2 * 3 * 5 * 16, dtype=torch.float64).view(2, 3, 5, 16)
    y = _run(module, x)
    return None if y is None else _named(y, x) or None


class _Tracer(torch.fx.Tracer):
    """Stops at whatever may be part of a chain, besides the layers of torch.nn."""

    def __init__(self, convs: set[int]) -> None:
        super().__init__()
        self.convs = convs

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Decides by what the module holds."""
        simple = not any(True for _ in m.children()) and not any(True for _ in m.parameters())
        return (
            id(m) in self.convs
            or _is_norm(m)
            or (simple and not isinstance(m, nn.ModuleList))
            or bool(super().is_leaf_module(m, module_qualified_name))
        )


def _graphs(module: nn.Module, convs: set[int]) -> Iterator[tuple[nn.Module, torch.fx.Graph]]:
    """Graphs of the largest parts of a model that can be traced and hold convolutions."""
    if id(module) in convs or not any(id(m) in convs for m in module.modules()):
        return
    try:
        graph = _Tracer(convs).trace(module)
    except Exception:  # control flow on values, or arguments that a proxy does not serve as
        for child in module.children():
            yield from _graphs(child, convs)
        return
    yield module, graph


def _next(node: torch.fx.Node, root: nn.Module) -> tuple[torch.fx.Node, nn.Module] | None:
    """The module that takes the node's result and nothing else, if nobody else does."""
    while True:
        users = list(node.users)
        if len(users) != 1 or users[0].op != "call_module":
            return None
        user = users[0]
        if user.args != (node,) or user.kwargs:
            return None
        module = root.get_submodule(str(user.target))
        if type(module) is not nn.Identity:
            return user, module
        node = user


def find_fusions(model: nn.Module, convs: dict[int, int]) -> list[Fusion]:
    """Looks for what follows convolutions.

    Args:
        model: The model, in evaluation mode.
        convs: By identity, the convolutions that fastconv computes and their numbers of dimensions.

    Returns:
        Every convolution with something that may be fused with it.
    """
    found: list[Fusion] = []
    names = Counter(id(m) for _, m in model.named_modules(remove_duplicate=False))
    for root, graph in _graphs(model, set(convs)):
        whole = root is model
        calls = Counter(
            id(root.get_submodule(str(n.target))) for n in graph.nodes if n.op == "call_module"
        )

        def once(module: nn.Module, calls: Counter[int] = calls, whole: bool = whole) -> bool:
            single = calls[id(module)] == 1 and (whole or names[id(module)] == 1)
            return single and not _has_hooks(module)

        for node in graph.nodes:
            conv = root.get_submodule(str(node.target)) if node.op == "call_module" else None
            if conv is None or id(conv) not in convs or not once(conv):
                continue
            fusion = _follow(node, root, conv, convs[id(conv)], once)
            if fusion.rest:
                found.append(fusion)
    return found


def _follow(node: torch.fx.Node, root: nn.Module, conv: Any, dims: int, once: Any) -> Fusion:
    norm, activation = None, None
    after = _next(node, root)
    if after is not None and _is_norm(after[1]) and once(after[1]):
        activation = _norm_and_activation(after[1], dims)
        if activation is not None:
            (node, norm), after = after, _next(after[0], root)
    if not activation and after is not None and not _is_norm(after[1]) and once(after[1]):
        named = _activation(after[1])
        if named is not None:
            return Fusion(conv, norm, after[1], named)
    return Fusion(conv, norm, None, activation or None)


def fusible(module: Any, verdict: Any) -> type[nn.Module] | None:
    """The class of a plain depthwise convolution that is fastconv's or will be, else None."""
    cls = verdict if isinstance(verdict, type) else own_class(module)
    plain = (layers.DepthwiseConv1d, layers.DepthwiseConv2d, layers.DepthwiseConv3d)
    if not issubclass(cls, plain) or module.padding_mode != "zeros":
        return None
    if "parametrizations" in module._modules or module._parameters.get("weight") is None:
        return None  # computed anew each time
    recipe = _recipe_of(cls)
    if recipe is not None and recipe[0] == "fused":
        return None
    padded = recipe is not None and len(recipe) > 1
    own = cls.forward not in (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)
    return None if own and not padded else cls


def _recipe_of(cls: type) -> Recipe | None:
    return next((vars(c)["_fastconv_recipe"] for c in cls.__mro__ if is_converted(c)), None)


def fuse_(fusion: Fusion, verdict: Any) -> None:
    """Gives the modules of a chain their classes."""
    conv = fusion.conv
    chain = Chain(conv, fusion.norm, fusion.rest)
    if isinstance(verdict, type):
        assign(conv, verdict)
    cls = type(conv)
    ours = next((c for c in cls.__mro__ if is_converted(c)), None)
    inner = None if ours is None else vars(ours)["_fastconv_recipe"]
    old = own_class(conv) if ours is None else ours
    original = old if ours is None else vars(ours)["_fastconv_original"]
    padding = inner[1] if inner is not None and len(inner) > 1 else None
    assign(
        conv, rebase(cls, old, class_for(original, ("fused", fusion.activation, padding, inner)))
    )
    for module in fusion.rest:
        plain = own_class(module)
        assign(module, rebase(type(module), plain, class_for(plain, ("passed",))))
    for module in (conv, *fusion.rest):
        vars(module)["_fastconv_chain"] = chain
