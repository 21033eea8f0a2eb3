# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""What the tests and the benchmark know about an operator, and how far its results may be off."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastconv._samples import Sample


@dataclass(frozen=True)
class OpSpec:
    """One operator, and all that a generic test or benchmark has to know about it.

    Attributes:
        name: Name of the public function.
        op: The function: tensors first, then keyword arguments.
        reference: Its oracle, with the same signature.
        native: What does the same in PyTorch alone, as its users write it.
        samples: Problems; the first three stand for all where a check is slow.
        dtypes: The types it takes.
        grad_dtypes: The types it differentiates.
        terms: How many terms are summed up for one element of the result, and of the gradient of
            each tensor; 0 where elements are only moved.
        double_backward: Whether gradients can be differentiated.
    """

    name: str
    op: Callable[..., Any]
    reference: Callable[..., Any]
    native: Callable[..., Any]
    samples: tuple[Sample, ...]
    dtypes: tuple[torch.dtype, ...]
    grad_dtypes: tuple[torch.dtype, ...]
    terms: Callable[[Sample], tuple[int, ...]]
    double_backward: bool = True

    def flops(self, problem: Sample) -> int:
        """Counts the floating-point operations of the forward pass."""
        meta = self.op(*problem.tensors(device="meta"), **problem.kwargs)
        taps = self.terms(problem)[0] - 1 if len(problem.shapes) > 2 else 0
        return 2 * max(taps, 0) * as_tuple(meta)[0].numel()

    def bytes(self, problem: Sample, dtype: torch.dtype) -> int:
        """Counts the bytes that the forward pass must read and write."""
        tensors = problem.tensors(dtype, "meta")
        results = as_tuple(self.op(*tensors, **problem.kwargs))
        return sum(t.nbytes for t in (*tensors, *results) if t is not None)

    def expected(
        self, problem: Sample, tensors: Sequence[Tensor | None], dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Computes the right result for the given tensors, and how far one may be from it.

        Args:
            problem: The problem the tensors belong to.
            tensors: The tensors, in any type.
            dtype: Type whose rounding is allowed for.

        Returns:
            The result and the error bound, in float64 on the CPU.
        """
        wide = [exact(t) for t in tensors]
        kwargs = dict(problem.kwargs)
        with _one_thread():
            value = as_tuple(self.reference(*wide, **kwargs))[0]
        terms = self.terms(problem)[0]
        if terms == 0:
            return value, torch.zeros_like(value, dtype=torch.float64)
        activation = kwargs.pop("activation", None)
        with _one_thread():
            magnitude = self.reference(*[t if t is None else t.abs() for t in wide], **kwargs)
            if activation is None:
                return value, rounding_bound(value, magnitude, terms, dtype)
            plain = as_tuple(self.reference(*wide, **kwargs))[0]
        # The sum is rounded to dtype; the activation stretches that error by less than 1.13, works
        # in the accumulator's precision with errors of its own, and rounds again.
        before = rounding_bound(plain, magnitude, terms, dtype)
        after = rounding_bound(value, plain.abs() + value.abs(), 8, dtype)
        return value, 1.13 * before + after

    def expected_grads(
        self,
        problem: Sample,
        tensors: Sequence[Tensor | None],
        grad_output: Tensor,
        dtype: torch.dtype,
    ) -> list[tuple[Tensor, Tensor] | None]:
        """Computes the right gradient of every tensor, and how far one may be from it.

        Args:
            problem: The problem the tensors belong to; without an activation.
            tensors: The tensors, in any type.
            grad_output: The gradient of the first result.
            dtype: Type whose rounding is allowed for.

        Returns:
            The gradient and its error bound for every tensor, None where there is no tensor.
        """
        wide = [exact(t) for t in tensors]
        grads = self._grads(problem, wide, exact(grad_output))
        terms = self.terms(problem)[1:]
        magnitudes = grads
        if any(terms):
            # The winners of a pooling depend on signs; a sum over what one element won does not.
            linear = len(wide) > 1
            sizes = [t if t is None or not linear else t.abs() for t in wide]
            magnitudes = self._grads(problem, sizes, exact(grad_output).abs())
        return [
            g if g is None else (g, rounding_bound(g, m, n, dtype))
            for g, m, n in zip(grads, magnitudes, terms, strict=True)
        ]

    def _grads(self, problem: Sample, tensors: Sequence[Tensor | None], grad_output: Tensor) -> Any:
        leaves = [t if t is None else t.detach().requires_grad_() for t in tensors]
        wanted = [t for t in leaves if t is not None]
        with _one_thread():
            result = as_tuple(self.reference(*leaves, **problem.kwargs))[0]
            grads = iter(torch.autograd.grad(result, wanted, grad_output))
        return [None if t is None else next(grads) for t in leaves]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Keeps the reference's many small steps from waking threads, which may cost far more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def as_tuple(result: Any) -> tuple[Tensor, ...]:
    """Wraps the result of an operator that returns one tensor."""
    return result if isinstance(result, tuple) else (result,)


def exact(tensor: Tensor | None) -> Any:
    """Brings a tensor to the CPU, in double precision if it is one of the types that round."""
    if tensor is None:
        return None
    tensor = tensor.detach().cpu()
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    wide = tensor.is_floating_point() and tensor.dtype.itemsize > 1
    return tensor.double() if wide else tensor


def rounding_bound(value: Tensor, magnitude: Tensor, terms: int, dtype: torch.dtype) -> Tensor:
    """Bounds the error of a rounded sum, as :mod:`fastconv.testing` says.

    Args:
        value: The exact sum.
        magnitude: The sum of the absolute values.
        terms: Number of terms.
        dtype: Type of the result.

    Returns:
        The bound, of ``value``'s shape.
    """
    if terms == 0:
        return torch.zeros_like(value)
    u_out = torch.finfo(dtype).eps / 2
    # In float64 the reference rounds as much as the operator does.
    u_acc = torch.finfo(torch.float64).eps if dtype == torch.float64 else 2.0**-24
    growth = min(terms, 6 * math.sqrt(terms))
    step = torch.finfo(dtype).smallest_normal
    if dtype != torch.bfloat16:  # some levels flush what is subnormal in it: docs/numerics.md
        step *= torch.finfo(dtype).eps
    return 1.1 * (growth * u_acc * magnitude.detach() + u_out * value.detach().abs()) + step
