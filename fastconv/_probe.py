# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Finds out what a module's own ``forward()`` does, by running it on a replica and watching.

Reading the source, or the name of the package, would be guessing: a forward is recognised by the
operators that it calls (convolutions, on the meta device) or by its result (rearrangements).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastconv import reference
from fastconv._arguments import padding_list

Recipe = tuple[Any, ...]
"""What a converted class does: a layer's or function's name, and constants found by probing."""

_aten = torch.ops.aten


@dataclass(frozen=True)
class ConvProbe:
    """What a convolution's overridden ``forward()`` was seen to do."""

    padding: Any = None  # if it only pads and convolves: (begin, end) pairs, or 'same'
    through: bool = False  # it convolves by its _conv_forward()
    why: str = ""  # if neither


def _meta(value: Any) -> Any:
    if isinstance(value, nn.Parameter):
        return nn.Parameter(_meta(value.data), requires_grad=False)
    if isinstance(value, Tensor):
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    return value


def replica(module: nn.Module, cls: type, training: bool, to: Callable[[Any], Any]) -> Any:
    """A module with the same attributes, without hooks: what it does to itself is not seen."""
    twin: Any = object.__new__(cls)
    state = {k: copy(v) if type(v) in (list, set) else to(v) for k, v in vars(module).items()}
    for name, value in state.items():
        if "_hooks" in name and isinstance(value, dict):
            state[name] = OrderedDict()
    for name in ("_parameters", "_buffers"):
        state[name] = {k: to(v) for k, v in vars(module)[name].items()}
    state["_modules"] = {
        k: None if child is None else replica(child, type(child), training, to)
        for k, child in module._modules.items()
        if k != "parametrizations"
    }
    state["training"] = training
    state["_compiled_call_impl"] = None
    object.__setattr__(twin, "__dict__", state)
    return twin


def tensor_of(module: nn.Module, name: str) -> Tensor | None:
    """The tensor behind a parameter's name, without running a parametrization.

    Spectral normalisation changes its buffers whenever the weight is read.
    """
    found = module._parameters.get(name)
    if found is None:
        found = vars(module).get(name)  # where torch.nn.utils.weight_norm and prune put it
    if found is None and "parametrizations" in module._modules:
        owner = getattr(module.parametrizations, name, None)
        found = getattr(owner, "original", None)
        if found is None:
            found = getattr(owner, "original0", None)
    return found


def _state(twin: nn.Module) -> dict[str, Any]:
    """What a forward that keeps something would change."""
    return {k: (id(v), len(v) if type(v) in (list, set) else 0) for k, v in vars(twin).items()}


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lists the calls of operators with their results."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, tuple[Any, ...], Any]] = []

    def __torch_dispatch__(  # type: ignore[no-untyped-def]
        self, func, types, args=(), kwargs=None
    ):
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, (*args, *(kwargs or {}).values()), out))
        return out


def _pads_of(twin: Any, input: Tensor, output: Any, calls: Sequence[Any]) -> list[int] | None:
    """The (begin, end) pairs that were added, if zeros and the twin's convolution are all."""
    nd = len(twin.kernel_size)
    pads = [0] * (2 * nd)
    for func, args, out in calls[:-1]:
        if func is not _aten.constant_pad_nd.default or args[0] is not input:
            return None
        amounts = list(args[1]) + [0] * (2 * nd - len(args[1]))
        if len(amounts) > 2 * nd or min(amounts) < 0 or (len(args) > 2 and args[2] != 0):
            return None
        for d in range(nd):  # constant_pad_nd starts with the last dimension
            pads[2 * d] += amounts[2 * (nd - 1 - d)]
            pads[2 * d + 1] += amounts[2 * (nd - 1 - d) + 1]
        input = out
    if not calls or calls[-1][0] is not _aten.convolution.default or calls[-1][2] is not output:
        return None
    x, weight, bias, stride, padding, dilation, transposed, _, groups = calls[-1][1]
    own = x is input and weight is twin.weight and bias is twin.bias and not transposed
    same = (tuple(stride), tuple(dilation), groups)
    if not own or same != (tuple(twin.stride), tuple(twin.dilation), twin.groups):
        return None
    return [p + padding[i // 2 if len(padding) > 1 else 0] for i, p in enumerate(pads)]


def probe_conv(module: Any, cls: type) -> ConvProbe:
    """Runs ``cls.forward`` on a replica of a depthwise convolution, on the meta device."""
    nd = len(module.kernel_size)
    tensor = tensor_of(module, "weight")
    dtype = torch.float32 if tensor is None else tensor.dtype
    shapes = {
        "weight": (module.out_channels, 1, *module.kernel_size),
        "bias": None if tensor_of(module, "bias") is None else (module.out_channels,),
    }
    reach = [d * (k - 1) + 1 for k, d in zip(module.kernel_size, module.dilation, strict=True)]
    # Every remainder of every stride, and a size well beyond the kernel.
    steps = [*range(2 * max(module.stride) + 1), 17 + max(reach)]
    sizes = [[r + step + i * (step > 0) for i, r in enumerate(reach)] for step in steps]
    fixed: set[tuple[int, ...]] = set()
    simple = same = through = True
    for training in (True, False):
        twin = replica(module, cls, training, _meta)
        for name, shape in shapes.items():
            vars(twin).pop(name, None)
            value = None if shape is None else torch.empty(shape, dtype=dtype, device="meta")
            twin._parameters[name] = None if value is None else nn.Parameter(value)
        own_forward = twin._conv_forward
        passed: list[bool] = []

        def note(
            input: Tensor,
            weight: Tensor,
            bias: Tensor | None,
            passed: list[bool] = passed,
            own_forward: Callable[..., Tensor] = own_forward,
        ) -> Tensor:
            passed.append(weight.shape == shapes["weight"])
            return own_forward(input, weight, bias)

        vars(twin)["_conv_forward"] = note
        before = _state(twin)
        for size in sizes:
            x = torch.empty((2, module.in_channels, *size), dtype=dtype, device="meta")
            passed.clear()
            try:
                with torch.no_grad(), _Watch() as watch:
                    y = cls.forward(twin, x)  # type: ignore[attr-defined]
            except Exception as error:  # what a user's code raises on our input, is its own affair
                name = type(error).__name__
                return ConvProbe(why=f"its own forward() could not be followed ({name})")
            through = through and passed != [] and all(passed)
            pads = _pads_of(twin, x, y, watch.calls) if simple else None
            simple = simple and pads is not None
            if pads is not None:
                fixed.add(tuple(pads))
                rule = padding_list(
                    "probe", "same", x, twin.kernel_size, twin.stride, twin.dilation
                )
                same = same and pads == rule
        simple = simple and _state(twin) == before
    if simple and len(fixed) == 1:
        (pairs,) = fixed
        return ConvProbe(padding=tuple((pairs[2 * d], pairs[2 * d + 1]) for d in range(nd)))
    if simple and same:
        return ConvProbe(padding="same")
    why = "its own forward() does more than pad and does not use _conv_forward()"
    return ConvProbe(through=through, why="" if through else why)


# --- rearrangements: a name proposes, the result decides ---

_HINTS = ("spacetodepth", "space2depth", "depthtospace", "depth2space", "shuffle", "focus")


def may_rearrange(module: nn.Module) -> bool:
    """Whether a module's class is named like a rearrangement, and holds nothing else."""
    name = type(module).__name__.lower().replace("_", "")
    empty = not (module._parameters or module._buffers or module._modules)
    return empty and any(hint in name for hint in _HINTS)


def _numbers(module: nn.Module) -> list[int]:
    """What a block size or a number of groups may be: the module's own integers, else 2."""
    values = [v for k, v in vars(module).items() if not k.startswith("_")]
    found = [
        v[0] if isinstance(v, (tuple, list)) and len(set(map(str, v))) == 1 else v for v in values
    ]
    own = [v for v in found if type(v) is int and 2 <= v <= 64]
    return list(dict.fromkeys(own)) or [2]


def probe_rearrangement(module: nn.Module, cls: type) -> Recipe | None:
    """The function and its arguments that give the same as ``cls.forward``; None if none does."""
    for number in _numbers(module):
        square = number * number
        families = {
            "space_to_depth": [(2, 3, 2 * number, 3 * number), (1, 2, 3 * number, number)],
            "depth_to_space": [(2, 3 * square, 2, 3), (1, 2 * square, 3, 1)],
            "channel_shuffle": [(2, 3 * number, 2, 2), (1, 5 * number, 1, 3)],
        }
        for function, shapes in families.items():
            orders = [()] if function == "channel_shuffle" else [("crd",), ("dcr",), ("focus",)]
            inputs = [
                torch.arange(torch.Size(s).numel(), dtype=torch.float64, device="cpu").view(s)
                for s in shapes
            ]
            outputs = [
                y for x in inputs for t in (True, False) for y in _outputs(module, cls, t, x)
            ]
            for order in orders:
                oracle = getattr(reference, function)
                wanted = [oracle(x, number, *order) for x in inputs for _ in range(2)]
                if len(outputs) == len(wanted) and all(
                    isinstance(y, Tensor) and torch.equal(y, want)
                    for y, want in zip(outputs, wanted, strict=True)
                ):
                    return (function, number, *order)
    return None


def _outputs(module: nn.Module, cls: type, training: bool, x: Tensor) -> list[Any]:
    """The result in a list, which is empty if there was an error."""
    twin = replica(module, cls, training, lambda value: value)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=()):
            return [cls.forward(twin, x.clone())]  # type: ignore[attr-defined]
    except Exception:
        return []
