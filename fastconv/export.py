# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Export to ONNX."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

__all__ = ["onnx_translation_table"]


def onnx_translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Tells ``torch.onnx.export(dynamo=True)`` what fastconv's operators are in ONNX.

    Convolutions become Conv and ConvTranspose, with a Pad before where ``'same'`` depends on a size
    that is not known yet; rearrangements become DepthToSpace and SpaceToDepth where these can do
    it, and Reshape and Transpose otherwise; pooling over channels becomes MaxPool, a global average
    GlobalAveragePool, and a gate Sigmoid and Mul.  These are ONNX's own operators, so that the
    model runs without fastconv.  :func:`fastconv.causal_conv1d_update` needs no entry: it is
    written out when its module is exported; `conv_state` must be an input and an output.  Needs
    ``onnxscript``, as ``torch.onnx.export`` itself does.

    Returns:
        A table from operators to functions, for `custom_translation_table`.

    Raises:
        ModuleNotFoundError: onnxscript is not installed.

    Example:
        >>> layer = fastconv.nn.DepthwiseConv2d(8, 8, 3, stride=2, padding="same").eval()
        >>> program = torch.onnx.export(
        ...     layer,
        ...     (torch.randn(1, 8, 32, 32),),
        ...     dynamo=True,
        ...     verbose=False,
        ...     custom_translation_table=fastconv.onnx_translation_table(),
        ... )
        >>> [node.op_type for node in program.model.graph]
        ['Conv']
    """
    try:
        table = importlib.import_module("fastconv._onnx").table()
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"onnx_translation_table() needs {error.name}. Run: pip install onnx onnxscript",
            name=error.name,
        ) from None
    return dict(table)
