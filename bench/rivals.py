# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Who runs against us in a case: PyTorch in both layouts, torch.compile, cuDNN's settings, others.

Every rival gets its input in the layout it is measured in, at no charge for getting there.
"""

from __future__ import annotations

import importlib.util
import inspect
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from cases import LAYOUTS, Case, tensor_bytes
from operators import Call, in_mode, in_two_passes, natives, ours, random_tensor, to_layout
from ort import OrtSession
from results import COMPILE, NATIVE, OTHER, OURS
from timing import Contender, first_line
from torch import Tensor

# PyTorch has no kernels of its own for float16 convolutions on a CPU: 0.3 to 1.3 GFLOP/s were
# measured on two cores.  Nothing is learned from waiting for minutes.
_SLOW_DTYPE, _SLOW_FLOPS = "float16", 1e9

KINDS = ("native", "unfused", "compile", "cudnn", "causal-conv1d", "onnxruntime")


class Compiler:
    """torch.compile within a budget; says once why it stopped."""

    def __init__(self, budget: float) -> None:
        self.left = budget
        self.reason = "" if budget > 0 else "switched off"
        self._failures = 0

    def contender(self, call: Call, tensors: Sequence[Tensor], mode: str) -> Contender | None:
        """`call` compiled and run once, or None if that failed or there is no time left."""
        if self.reason:
            return None
        start = time.perf_counter()
        try:
            # Without this the limit on recompilations silently turns later cases into eager ones.
            torch._dynamo.reset()
            # A backward that is run again needs its buffers.
            torch._functorch.config.donated_buffer = mode == "both"
            contender = in_mode(torch.compile(call, dynamic=False), tensors, mode)
            contender()
        except Exception as error:
            self._failures += 1
            if self._failures == 2:
                self.reason = f"failed twice, last with {first_line(error)}"
            return None
        finally:
            self.left -= time.perf_counter() - start
            if self.left <= 0 and not self.reason:
                self.reason = "its time was used up"
        self._failures = 0
        return contender


def contenders_of(
    case: Case,
    tensors: Sequence[Tensor],
    flops: int,
    kinds: Sequence[str],
    compiler: Compiler,
    failed: dict[str, str],
) -> dict[str, Contender]:
    """Ours and every rival of `kinds` that can run the case of `flops`, each ready to be called."""
    other = next(layout for layout in LAYOUTS if layout != case.layout)
    calls: dict[str, Callable[[], Contender | None]] = {
        OURS: lambda: in_mode(ours(case), tensors, case.mode)
    }
    eager = natives(case)
    if case.is_conv and case.dtype == _SLOW_DTYPE and flops > _SLOW_FLOPS and tensors[0].is_cpu:
        failed[NATIVE] = f"left out: {flops / 1e9:.1f} GFLOP in {_SLOW_DTYPE}"
    elif "native" in kinds:
        for name, call in eager.items():
            calls[name] = lambda call=call: in_mode(call, tensors, case.mode)
        calls[OTHER] = lambda: in_mode(
            eager[NATIVE], (to_layout(tensors[0], other), *tensors[1:]), case.mode
        )
    if "unfused" in kinds:
        for name, call in in_two_passes(case).items():
            calls[name] = lambda call=call: in_mode(call, tensors, case.mode)
    if "compile" in kinds and case.compile:
        calls[COMPILE] = lambda: compiler.contender(eager[NATIVE], tensors, case.mode)
    if "cudnn" in kinds and case.is_conv and tensors[0].is_cuda:
        for name, flags in _cudnn_settings().items():
            calls[name] = lambda flags=flags: _with_cudnn(
                in_mode(eager[NATIVE], tensors, case.mode), flags
            )
    if "causal-conv1d" in kinds:
        causal = _causal_conv1d(case, tensors)
        if causal:
            calls["causal-conv1d"] = lambda: in_mode(causal, tensors, case.mode)
    if "onnxruntime" in kinds and OrtSession.runs(case, tensors[0].device.type):
        calls["onnxruntime"] = lambda: OrtSession(case, torch.get_num_threads())

    ready: dict[str, Contender] = {}
    for name, build in calls.items():
        try:
            contender = build()
        except Exception as error:
            failed[name] = first_line(error)
        else:
            if contender is not None:
                ready[name] = contender
    return ready


def _cudnn_settings() -> dict[str, dict[str, Any]]:
    settings: dict[str, dict[str, Any]] = {"cudnn.benchmark": {"benchmark": True}}
    if "depthwise_kernel" in inspect.signature(torch.backends.cudnn.flags).parameters:
        for kernel in ("cudnn", "native"):
            settings[f"depthwise_kernel={kernel}"] = {"depthwise_kernel": kernel}
    return settings


def _with_cudnn(call: Contender, flags: dict[str, Any]) -> Contender:
    """`call` under cudnn.flags; the other flags keep what PyTorch starts with."""

    def run() -> Any:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=True, **flags):
            return call()

    return run


def _causal_conv1d(case: Case, tensors: Sequence[Tensor]) -> Call | None:
    fits = (
        case.op == "depthwise_conv1d"
        and case.args == {"padding": "causal"}
        and case.multiplier == 1
        and 2 <= case.kernel[0] <= 4
        and tensors[0].is_cuda
    )
    if not fits or importlib.util.find_spec("causal_conv1d") is None:
        return None
    from causal_conv1d import causal_conv1d_fn

    return lambda x, weight, bias=None: causal_conv1d_fn(x, weight.squeeze(1), bias)


# What a CPU compares before it measures; --check compares everything.
_SOME_BYTES = 8 << 20


def some_images(case: Case, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The case's tensors with as many images as are worth comparing, and one at least."""
    images = max(1, case.shape[0] * _SOME_BYTES // tensor_bytes(case))
    per_image = 2 if case.op == "sigmoid_gate" else 1
    return [*(tensor[:images] for tensor in tensors[:per_image]), *tensors[per_image:]]


def differs(case: Case, tensors: Sequence[Tensor]) -> str:
    """Compares ours with PyTorch in higher precision; says what is wrong, or nothing.

    A guard against timing the wrong answer; the tests are what shows that the answer is right.
    """
    # cuDNN's kernels are not what a sanitizer should spend its time on.
    small = tensor_bytes(case) <= 1 << 20
    wide = torch.float64 if small or case.dtype == "float64" else torch.float32
    home = "cpu" if small else tensors[0].device
    tolerances = {"float64": 1e-9, "float32": 1e-4, "float16": 4e-3, "bfloat16": 2e-2}
    grad: Tensor | None = None
    results: list[list[Tensor]] = []
    for call, inputs in (
        (ours(case), tensors),
        (natives(case)[NATIVE], [to_layout(tensors[0], "contiguous"), *tensors[1:]]),
    ):
        if results:
            inputs = [tensor.to(home, wide) for tensor in inputs]
        leaves = [tensor.detach().requires_grad_(case.mode != "forward") for tensor in inputs]
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            out = call(*leaves)
            results.append([out.detach()])
            if case.mode != "forward":
                if grad is None:
                    grad = random_tensor(out.shape, out.dtype, str(out.device))
                results[-1] += torch.autograd.grad(out, leaves, grad.to(out))
    for index, (got, right) in enumerate(zip(*results, strict=True)):
        if got.shape != right.shape:
            return f"result {index} has shape {tuple(got.shape)}, not {tuple(right.shape)}"
        error = (got.to(right) - right).norm() / right.norm().clamp_min(1e-30)
        # NaN must not pass.
        if not error <= tolerances.get(case.dtype, 0):
            return f"result {index} is off by {float(error):.1e}"
    return ""
