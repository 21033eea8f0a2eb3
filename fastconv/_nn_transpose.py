# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Transposed depthwise convolutions as layers: a part of :mod:`fastconv.nn`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fastconv import functional
from fastconv._arguments import Ints

if TYPE_CHECKING:
    _ConvTransposeNd = nn.modules.conv._ConvTransposeNd
else:
    _ConvTransposeNd = object


class _DepthwiseTranspose(_ConvTransposeNd):
    """What the layers share; mixed into ``nn.ConvTranspose1d``, ``2d`` and ``3d``."""

    _dims: int  # of the class, whatever the length of kernel_size

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Ints = 0,
        output_padding: Ints = 0,
        groups: int | None = None,
        bias: bool = True,
        dilation: Ints = 1,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        groups = in_channels if groups is None else groups
        if groups != in_channels:
            raise ValueError(
                f"groups must equal in_channels in a depthwise convolution, but got "
                f"groups={groups} and in_channels={in_channels}"
            )
        super().__init__(  # type: ignore[call-arg]
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            output_padding=output_padding,
            groups=groups,
            bias=bias,
            dilation=dilation,
            padding_mode=padding_mode,
            device=device,
            dtype=dtype,
        )

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolves `input`; `output_size`, with or without batch and channels, replaces
        `output_padding`.
        """  # noqa: D205
        if self.padding_mode != "zeros":
            raise ValueError(f"Only `zeros` padding mode is supported for {type(self).__name__}")
        nd = self._dims
        conv = (
            functional.depthwise_conv_transpose1d,
            functional.depthwise_conv_transpose2d,
            functional.depthwise_conv_transpose3d,
        )[nd - 1]
        output_padding = self._output_padding(
            input,
            output_size,
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.kernel_size,  # type: ignore[arg-type]
            nd,
            self.dilation,  # type: ignore[arg-type]
        )
        return conv(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            output_padding,
            self.dilation,
        )


class DepthwiseConvTranspose1d(_DepthwiseTranspose, nn.ConvTranspose1d):
    """A :class:`torch.nn.ConvTranspose1d` with ``groups == in_channels``; see
    :func:`fastconv.depthwise_conv_transpose1d`.

    Takes the arguments of ``nn.ConvTranspose1d``; `groups` defaults to `in_channels`.

    Shape:
        ``(N, C, L)`` or ``(C, L)`` to ``(N, out_channels, L_out)`` or ``(out_channels, L_out)``;
        float32, float64, float16 or bfloat16, as the parameters.

    Raises:
        ValueError: `groups` is not `in_channels`, or `out_channels` is not a multiple of it.

    Example:
        >>> layer = fastconv.nn.DepthwiseConvTranspose1d(16, 16, 4, stride=2, padding=1)
        >>> layer(torch.randn(2, 16, 9)).shape
        torch.Size([2, 16, 18])
    """  # noqa: D205

    _dims = 1


class DepthwiseConvTranspose2d(_DepthwiseTranspose, nn.ConvTranspose2d):
    """A :class:`torch.nn.ConvTranspose2d` with ``groups == in_channels``; see
    :func:`fastconv.depthwise_conv_transpose2d`.

    Takes the arguments of ``nn.ConvTranspose2d``; `groups` defaults to `in_channels`.

    Shape:
        ``(N, C, H, W)`` or ``(C, H, W)`` to ``(N, out_channels, H_out, W_out)`` or the same without
        ``N``; float32, float64, float16 or bfloat16, as the parameters.

    Raises:
        ValueError: `groups` is not `in_channels`, or `out_channels` is not a multiple of it.

    Example:
        >>> layer = fastconv.nn.DepthwiseConvTranspose2d(8, 16, 3, stride=2)
        >>> layer(torch.randn(1, 8, 9, 9)).shape
        torch.Size([1, 16, 19, 19])
    """  # noqa: D205

    _dims = 2


class DepthwiseConvTranspose3d(_DepthwiseTranspose, nn.ConvTranspose3d):
    """A :class:`torch.nn.ConvTranspose3d` with ``groups == in_channels``; see
    :func:`fastconv.depthwise_conv_transpose3d`.

    Takes the arguments of ``nn.ConvTranspose3d``; `groups` defaults to `in_channels`.

    Shape:
        ``(N, C, D, H, W)`` or ``(C, D, H, W)`` to ``(N, out_channels, D_out, H_out, W_out)`` or the
        same without ``N``; float32, float64, float16 or bfloat16, as the parameters.

    Raises:
        ValueError: `groups` is not `in_channels`, or `out_channels` is not a multiple of it.

    Example:
        >>> layer = fastconv.nn.DepthwiseConvTranspose3d(4, 4, 2, stride=2)
        >>> layer(torch.randn(1, 4, 5, 6, 7)).shape
        torch.Size([1, 4, 10, 12, 14])
    """  # noqa: D205

    _dims = 3
