# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Step-by-step causal convolution: a part of :mod:`fastconv.functional`."""

from __future__ import annotations

import torch
from torch import Tensor

from fastconv import _C, functional
from fastconv._arguments import as_int, compiling, require_tensor

_update = torch.ops.fastconv.causal_conv1d_update.default


def _written_out(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    dilation: int,
) -> Tensor:
    """The same for ONNX, whose exporter translates no operator that writes to its arguments."""
    steps = x if x.dim() == 3 else x.unsqueeze(2)
    filters = weight if weight.dim() == 3 else weight.unsqueeze(1)
    everything = torch.cat([conv_state, steps], 2)
    seen = everything[:, :, conv_state.shape[2] - (weight.shape[-1] - 1) * dilation :]
    y = functional.depthwise_conv1d(seen, filters, bias, dilation=dilation, activation=activation)
    conv_state.copy_(everything[:, :, steps.shape[2] :])
    return y if x.dim() == 3 else y.squeeze(2)


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    dilation: int = 1,
) -> Tensor:
    """Continues a causal depthwise convolution by one or more time steps; updates `conv_state`.

    Fed with a sequence in pieces, it gives what ``depthwise_conv1d(..., padding='causal')`` gives
    for the whole, if `conv_state` starts as zeros: the decoding step of Mamba
    (https://arxiv.org/abs/2312.00752).  The first arguments are those of the function of the same
    name in the causal-conv1d package.  There is no gradient.

    Args:
        x: The new elements, ``(N, C)`` for one step or ``(N, C, L)``; float32, float64, float16 or
            bfloat16.
        conv_state: The last elements of each channel, oldest first: ``(N, C, state_len)`` with
            ``state_len >= dilation * (k - 1)``, of the dtype of `x`.  The new ones are shifted in
            from the end, in place.
        weight: ``(C, k)``, or ``(C, 1, k)`` as :class:`torch.nn.Conv1d` stores it.
        bias: ``(C,)``.
        activation: None, ``'relu'``, ``'relu6'``, ``'hardswish'``, ``'silu'`` (or ``'swish'``) or
            ``'gelu'``, applied to the result.
        dilation: Step between the taps of a filter.

    Returns:
        A new tensor of the size of `x`.

    Raises:
        TypeError: An argument is of the wrong Python type.
        RuntimeError: Shapes, dtypes or devices do not fit, an argument requires a gradient, or
            several elements of `conv_state` share memory.
        ValueError: The activation is unknown.

    Example:
        >>> x, w = torch.randn(2, 8, 10), torch.randn(8, 4)
        >>> state = torch.zeros(2, 8, 3)
        >>> steps = [fastconv.causal_conv1d_update(x[:, :, t], state, w) for t in range(10)]
        >>> whole = fastconv.depthwise_conv1d(x, w.unsqueeze(1), padding="causal")
        >>> torch.allclose(torch.stack(steps, 2), whole, atol=1e-5)
        True
    """
    if not compiling():
        short = _C.causal_conv1d_update(x, conv_state, weight, bias, activation, dilation)
        if short is not None:
            return short
    require_tensor("causal_conv1d_update", "x", x)
    require_tensor("causal_conv1d_update", "conv_state", conv_state)
    require_tensor("causal_conv1d_update", "weight", weight)
    if bias is not None:
        require_tensor("causal_conv1d_update", "bias", bias)
    if activation is not None and not isinstance(activation, str):
        raise TypeError(
            "causal_conv1d_update(): argument 'activation' must be str, not "
            f"{type(activation).__name__}"
        )
    if type(dilation) is not int:
        dilation = as_int("causal_conv1d_update", "dilation", dilation, dilation)
    if torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():
        return _written_out(x, conv_state, weight, bias, activation, dilation)
    output: Tensor = _update(x, conv_state, weight, bias, activation, dilation)
    return output
