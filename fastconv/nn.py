# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Layers: one for each function of :mod:`fastconv`.

The convolutions and shuffles subclass their :mod:`torch.nn` counterparts: same constructor, same
``state_dict``, same initialisation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastconv import functional
from fastconv._arguments import Ints, Padding, padding_list, per_dimension
from fastconv._nn_squeeze import (
    GlobalAvgPool1d,
    GlobalAvgPool2d,
    GlobalAvgPool3d,
    SqueezeExcitation,
)
from fastconv._nn_transpose import (
    DepthwiseConvTranspose1d,
    DepthwiseConvTranspose2d,
    DepthwiseConvTranspose3d,
)

__all__ = [
    "ChannelShuffle",
    "DepthMaxPool",
    "DepthPool2d",
    "DepthToSpace",
    "DepthwiseConv1d",
    "DepthwiseConv2d",
    "DepthwiseConv3d",
    "DepthwiseConvTranspose1d",
    "DepthwiseConvTranspose2d",
    "DepthwiseConvTranspose3d",
    "DepthwiseSeparableConv1d",
    "DepthwiseSeparableConv2d",
    "DepthwiseSeparableConv3d",
    "GlobalAvgPool1d",
    "GlobalAvgPool2d",
    "GlobalAvgPool3d",
    "PixelShuffle",
    "PixelUnshuffle",
    "SpaceToDepth",
    "SqueezeExcitation",
]

if TYPE_CHECKING:
    _ConvNd = nn.modules.conv._ConvNd
else:
    _ConvNd = object


_CONVOLUTIONS = {nd: f"depthwise_conv{nd}d" for nd in (1, 2, 3)}


class _Depthwise(_ConvNd):
    """What the depthwise convolutions share; mixed into ``nn.Conv1d``, ``2d`` and ``3d``."""

    _dims: int  # of the class, whatever the length of kernel_size
    _modes: tuple[str, ...] = ("valid", "same")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int | None = None,
        bias: bool = True,
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
        if isinstance(padding, str) and padding not in self._modes:
            raise ValueError(
                f"Invalid padding string {padding!r}, should be one of "
                f"{', '.join(map(repr, self._modes))}"
            )
        # torch's constructor knows neither pairs nor these modes with a stride: it is given none.
        ours = isinstance(padding, str) or (
            isinstance(padding, (tuple, list)) and any(not isinstance(p, int) for p in padding)
        )
        super().__init__(  # type: ignore[call-arg]
            in_channels,
            out_channels,
            kernel_size,  # type: ignore[arg-type]
            stride=stride,  # type: ignore[arg-type]
            padding=0 if ours else padding,  # type: ignore[arg-type]
            dilation=dilation,  # type: ignore[arg-type]
            groups=groups,
            bias=bias,
            padding_mode=padding_mode,  # type: ignore[arg-type]
            device=device,
            dtype=dtype,
        )
        if ours:
            self.padding = (
                padding if isinstance(padding, str) else tuple(map(tuple, padding))  # type: ignore[arg-type]
            )

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        nd = self._dims
        # Looked up at each call: torch.fx replaces the function while it traces.
        conv = getattr(functional, _CONVOLUTIONS[nd])
        if self.padding_mode == "zeros":
            output: Tensor = conv(input, weight, bias, self.stride, self.padding, self.dilation)
            return output
        name = type(self).__name__
        stride = per_dimension(name, "stride", self.stride, nd)
        dilation = per_dimension(name, "dilation", self.dilation, nd)
        pads = padding_list(name, self.padding, input, self.kernel_size, stride, dilation)
        # F.pad starts with the last dimension.
        pairs = [pads[2 * d : 2 * d + 2] for d in reversed(range(nd))]
        padded = F.pad(input, [p for pair in pairs for p in pair], mode=self.padding_mode)
        output = conv(padded, weight, bias, self.stride, 0, self.dilation)
        return output


class DepthwiseConv1d(_Depthwise, nn.Conv1d):
    """A :class:`torch.nn.Conv1d` with ``groups == in_channels``; see
    :func:`fastconv.depthwise_conv1d`.

    Takes the arguments of ``nn.Conv1d``; `groups` defaults to `in_channels`, and `padding` may also
    be ``'causal'``, a ``((begin, end),)`` pair, or ``'same'`` with any stride.

    Shape:
        ``(N, C, L)`` or ``(C, L)`` to ``(N, out_channels, L_out)`` or ``(out_channels, L_out)``;
        float32, float64, float16 or bfloat16, as the parameters.

    Raises:
        ValueError: `groups` is not `in_channels`, or `out_channels` is not a multiple of it.

    Example:
        >>> fastconv.nn.DepthwiseConv1d(16, 16, 4, padding="causal")(torch.randn(2, 16, 9)).shape
        torch.Size([2, 16, 9])
    """  # noqa: D205

    _dims = 1
    _modes = ("valid", "same", "causal")


class DepthwiseConv2d(_Depthwise, nn.Conv2d):
    """A :class:`torch.nn.Conv2d` with ``groups == in_channels``; see
    :func:`fastconv.depthwise_conv2d`.

    Takes the arguments of ``nn.Conv2d``; `groups` defaults to `in_channels`, and `padding` may also
    be one ``(begin, end)`` pair per dimension, or ``'same'`` with any stride.

    Shape:
        ``(N, C, H, W)`` or ``(C, H, W)`` to ``(N, out_channels, H_out, W_out)`` or the same without
        ``N``; float32, float64, float16 or bfloat16, as the parameters.

    Raises:
        ValueError: `groups` is not `in_channels`, or `out_channels` is not a multiple of it.

    Example:
        >>> fastconv.nn.DepthwiseConv2d(8, 16, 3, padding=1)(torch.randn(1, 8, 9, 9)).shape
        torch.Size([1, 16, 9, 9])
    """  # noqa: D205

    _dims = 2


class DepthwiseConv3d(_Depthwise, nn.Conv3d):
    """A :class:`torch.nn.Conv3d` with ``groups == in_channels``; see
    :func:`fastconv.depthwise_conv3d`.

    Takes the arguments of ``nn.Conv3d``; `groups` defaults to `in_channels`, and `padding` may also
    be one ``(begin, end)`` pair per dimension, or ``'same'`` with any stride.

    Shape:
        ``(N, C, D, H, W)`` or ``(C, D, H, W)`` to ``(N, out_channels, D_out, H_out, W_out)`` or the
        same without ``N``; float32, float64, float16 or bfloat16, as the parameters.

    Raises:
        ValueError: `groups` is not `in_channels`, or `out_channels` is not a multiple of it.

    Example:
        >>> fastconv.nn.DepthwiseConv3d(4, 4, 3, padding=1)(torch.randn(1, 4, 5, 6, 7)).shape
        torch.Size([1, 4, 5, 6, 7])
    """  # noqa: D205

    _dims = 3


class DepthMaxPool(nn.Module):
    """Maximum over windows of channels, or of channels and space: :func:`fastconv.depth_max_pool`.

    For images and a tuple it is :class:`torch.nn.MaxPool3d` of ``input.unsqueeze(1)``.

    Args:
        kernel_size: An int pools over channels alone; ``(kc, *spatial)`` over all of them.
        stride: As `kernel_size`, which is its default.
        padding: Minus infinity on both sides, at most half the window.
        dilation: Step between the elements of a window.
        return_indices: Return the maxima's positions too.
        ceil_mode: Keep a last window that is only partly filled.

    Shape:
        ``(N, C, *spatial)`` to ``(N, C_out, *spatial_out)``, of the dtype of the input: float32,
        float64, float16 or bfloat16.  With `return_indices` also int64 positions.

    Raises:
        RuntimeError: At the call: sizes or dtype do not fit, or a number is out of range.

    Example:
        >>> fastconv.nn.DepthMaxPool(2)(torch.randn(1, 8, 4, 4)).shape
        torch.Size([1, 4, 4, 4])
    """

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        dilation: Ints = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Pools `input`."""
        return functional.depth_max_pool(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
        )

    def extra_repr(self) -> str:
        """The arguments, as torch's pooling layers show them."""
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class DepthPool2d(nn.Module):
    """Max pooling over space and over channels at once, all by `pool_size`, in one pass.

    The composition that it replaces is ``max_pool2d(x, pool_size)``, then
    ``torch.chunk(x, C // pool_size, dim=1)``, then the maximum of each chunk.  Where `pool_size`
    does not divide the channels, chunks are as :func:`torch.chunk` makes them: of
    ``ceil(C / (C // pool_size))`` channels, the last one smaller.

    Args:
        pool_size: Size and stride of the windows.

    Shape:
        ``(N, C, H, W)`` or ``(C, H, W)`` to ``(N, chunks, H // pool_size, W // pool_size)`` or the
        same without ``N``; float32, float64, float16 or bfloat16.

    Raises:
        RuntimeError: `pool_size` is greater than the input's channels or size.

    Example:
        >>> fastconv.nn.DepthPool2d(2)(torch.randn(1, 7, 32, 32)).shape
        torch.Size([1, 3, 16, 16])
    """

    def __init__(self, pool_size: int = 2) -> None:
        super().__init__()
        self.pool_size = pool_size

    def forward(self, input: Tensor) -> Tensor:
        """Pools `input`."""
        if input.dim() not in (3, 4):
            raise RuntimeError(
                f"DepthPool2d: expected 3D or 4D input, but got input of size {list(input.shape)}"
            )
        p = self.pool_size
        channels, height, width = input.shape[-3:]
        if p < 1 or channels < p or height < p or width < p:
            raise RuntimeError(
                f"DepthPool2d: pool_size={p} must be positive and at most the channels, height "
                f"and width of the input, but got input of size {list(input.shape)}"
            )
        chunk = -(-channels // (channels // p))
        # ceil_mode keeps a smaller last chunk; for height and width the remainder goes first.
        whole = input[..., : height // p * p, : width // p * p]
        output = functional.depth_max_pool(whole, (chunk, p, p), ceil_mode=True)
        assert isinstance(output, Tensor)
        return output

    def extra_repr(self) -> str:
        """The pool size."""
        return f"pool_size={self.pool_size}"


class SpaceToDepth(nn.Module):
    """Moves blocks of space into channels: :func:`fastconv.space_to_depth`, which has the sources.

    Args:
        block_size: An int for every spatial dimension, or one for each.
        order: ``'crd'``, ``'dcr'`` or ``'focus'``.

    Shape:
        ``(N, C, H, W)`` to ``(N, C * bh * bw, H / bh, W / bw)``; also with one or three spatial
        dimensions.  Any dtype.

    Raises:
        RuntimeError: At the call: a size is not divisible by its block.
        ValueError: At the call: the order is unknown.

    Example:
        >>> fastconv.nn.SpaceToDepth(2, "focus")(torch.randn(1, 3, 640, 640)).shape
        torch.Size([1, 12, 320, 320])
    """

    def __init__(self, block_size: Ints, order: str = "dcr") -> None:
        super().__init__()
        self.block_size = block_size
        self.order = order

    def forward(self, input: Tensor) -> Tensor:
        """Rearranges `input`."""
        return functional.space_to_depth(input, self.block_size, self.order)

    def extra_repr(self) -> str:
        """Block size and order."""
        return f"block_size={self.block_size}, order={self.order!r}"


class DepthToSpace(SpaceToDepth):
    """Moves channels into blocks of space: :func:`fastconv.depth_to_space`, which has the sources.

    Args:
        block_size: An int for every spatial dimension, or one for each.
        order: ``'crd'``, ``'dcr'`` or ``'focus'``.

    Shape:
        ``(N, C * bh * bw, H, W)`` to ``(N, C, H * bh, W * bw)``; also with one or three spatial
        dimensions.  Any dtype.

    Raises:
        RuntimeError: At the call: the channels are not divisible by the block.
        ValueError: At the call: the order is unknown.

    Example:
        >>> fastconv.nn.DepthToSpace(2)(torch.randn(1, 12, 320, 320)).shape
        torch.Size([1, 3, 640, 640])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Rearranges `input`."""
        return functional.depth_to_space(input, self.block_size, self.order)


class PixelShuffle(nn.PixelShuffle):
    """A :class:`torch.nn.PixelShuffle` that also takes a pair; see :func:`fastconv.pixel_shuffle`.

    Args:
        upscale_factor: An int, or one for each of height and width.

    Shape:
        ``(*, C * r * r, H, W)`` to ``(*, C, H * r, W * r)``.  Any dtype.

    Raises:
        RuntimeError: At the call: the channels are not divisible by the factors.

    Example:
        >>> fastconv.nn.PixelShuffle(2)(torch.randn(1, 8, 4, 4)).shape
        torch.Size([1, 2, 8, 8])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Rearranges `input`."""
        return functional.pixel_shuffle(input, self.upscale_factor)


class PixelUnshuffle(nn.PixelUnshuffle):
    """A :class:`torch.nn.PixelUnshuffle` that also takes a pair; see
    :func:`fastconv.pixel_unshuffle`.

    Args:
        downscale_factor: An int, or one for each of height and width.

    Shape:
        ``(*, C, H * r, W * r)`` to ``(*, C * r * r, H, W)``.  Any dtype.

    Raises:
        RuntimeError: At the call: a size is not divisible by its factor.

    Example:
        >>> fastconv.nn.PixelUnshuffle(2)(torch.randn(1, 2, 8, 8)).shape
        torch.Size([1, 8, 4, 4])
    """  # noqa: D205

    def forward(self, input: Tensor) -> Tensor:
        """Rearranges `input`."""
        return functional.pixel_unshuffle(input, self.downscale_factor)


class ChannelShuffle(nn.ChannelShuffle):
    """A :class:`torch.nn.ChannelShuffle`; see :func:`fastconv.channel_shuffle`.

    Args:
        groups: Number of groups; divides the channels.

    Shape:
        ``(N, C, *)`` to the same.  Any dtype.

    Raises:
        RuntimeError: At the call: `groups` does not divide the channels.

    Example:
        >>> fastconv.nn.ChannelShuffle(2)(torch.randn(1, 8, 4, 4)).shape
        torch.Size([1, 8, 4, 4])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Shuffles the channels of `input`."""
        return functional.channel_shuffle(input, self.groups)


# These are built of the layers above.
from fastconv._nn_separable import (  # noqa: E402
    DepthwiseSeparableConv1d,
    DepthwiseSeparableConv2d,
    DepthwiseSeparableConv3d,
)
