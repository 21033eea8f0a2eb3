# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Runs depthwise convolution's CUDA kernels through the host executor, against fp64."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import math

import host_cuda_harness as hc
import torch
import torch.nn.functional as F

DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
ROUNDING = {torch.float32: 2e-6, torch.float64: 1e-14, torch.float16: 1e-3, torch.bfloat16: 8e-3}
PASSES = ("forward", "backward_data", "backward_weight")
FUSED = "backward"  # the last two in one

_i64, _pointer = ctypes.c_int64, ctypes.c_void_p


class _Strides(ctypes.Structure):
    _fields_ = [("n", _i64), ("c", _i64), ("sp", _i64 * 3)]


class _Axis(ctypes.Structure):
    _fields_ = [(name, _i64) for name in ("in_", "out", "kernel", "stride", "dilation", "pad")]


class _Problem(ctypes.Structure):
    _fields_ = [
        ("dtype", ctypes.c_uint8),
        ("channels_last", ctypes.c_bool),
        ("wide_in", ctypes.c_bool),
        ("batch", _i64),
        ("channels", _i64),
        ("multiplier", _i64),
        ("axis", _Axis * 3),
    ]


class Forward(_Problem):
    _fields_ = [
        ("x", _pointer),
        ("x_strides", _Strides),
        ("weight", _pointer),
        ("bias", _pointer),
        ("y", _pointer),
        ("y_strides", _Strides),
        ("activation", ctypes.c_uint8),
    ]


class BackwardData(_Problem):
    _fields_ = [
        ("dy", _pointer),
        ("dy_strides", _Strides),
        ("weight", _pointer),
        ("bias", _pointer),
        ("dx", _pointer),
        ("dx_strides", _Strides),
    ]


class BackwardWeight(_Problem):
    _fields_ = [
        ("x", _pointer),
        ("x_strides", _Strides),
        ("dy", _pointer),
        ("dy_strides", _Strides),
        ("dw", _pointer),
        ("db", _pointer),
        ("workspace", _pointer),
    ]


class Backward(BackwardWeight):
    _fields_ = [("weight", _pointer), ("dx", _pointer), ("dx_strides", _Strides)]


@dataclasses.dataclass(frozen=True)
class Case:
    """A problem over (D, H, W); `pad` holds (begin, end) pairs, and may be negative."""

    batch: int
    channels: int
    size: tuple[int, int, int]
    kernel: tuple[int, int, int]
    stride: tuple[int, int, int] = (1, 1, 1)
    dilation: tuple[int, int, int] = (1, 1, 1)
    pad: tuple[tuple[int, int], ...] = ((0, 0), (0, 0), (0, 0))
    multiplier: int = 1
    bias: bool = True
    channels_last: bool = False
    dtype: torch.dtype = torch.float32
    offset: int = 0  # elements between the buffers' aligned start and the tensors
    transposed: bool = False  # the filters of a channel, and the bias, are on x's side
    view: str = "dense"  # or 'sliced': the inputs are cut out of larger tensors; 'expanded'

    @property
    def out(self):
        return tuple(
            (i + b + e - d * (k - 1) - 1) // s + 1
            for i, k, s, d, (b, e) in zip(
                self.size, self.kernel, self.stride, self.dilation, self.pad, strict=True
            )
        )


def _zeros_around(case, x):  # negative pads crop
    return F.pad(x, [p for pair in reversed(case.pad) for p in pair])


class Run:
    """The tensors of one case, its reference results, and the three passes."""

    def __init__(self, library, case, seed):
        self.library, self.case = library, case
        self.random = torch.Generator().manual_seed(seed)
        self.arena = hc.Arena(library)
        wide, narrow = case.channels * case.multiplier, case.channels
        in_channels, out_channels = (wide, narrow) if case.transposed else (narrow, wide)
        self.x = self.input((case.batch, in_channels, *case.size))
        self.dy = self.input((case.batch, out_channels, *case.out))
        self.weight = self.dense(torch.randn(wide, *case.kernel, generator=self.random))
        self.bias = self.dense(torch.randn(wide, generator=self.random))

    # ---- tensors ----

    def storage(self, count):
        """`count` elements that start `offset` elements after an aligned address."""
        item = torch.empty(0, dtype=self.case.dtype).element_size()
        # What no vector access serves ends where its memory ends, to the byte.
        align = 16 if self.case.channels_last or self.case.offset else item
        raw = self.arena.memory((count + self.case.offset) * item, align=align)
        if count == 0:
            return torch.empty(0, dtype=self.case.dtype)
        flat = torch.frombuffer(raw, dtype=self.case.dtype, count=count + self.case.offset)
        flat.fill_(math.nan)
        return flat[self.case.offset :]

    def close(self):
        self.arena.close()

    def dense(self, values):
        out = self.storage(values.numel()).view(values.shape)
        return out.copy_(values)

    def empty(self, shape):
        n, c, *spatial = shape
        flat = self.storage(math.prod(shape))
        if self.case.channels_last:
            return flat.view(n, *spatial, c).permute(0, 4, 1, 2, 3)
        return flat.view(shape)

    def input(self, shape):
        values = torch.randn(shape, generator=self.random)
        if self.case.view == "expanded":
            values = values[:1, :, :, :, :1].expand(shape) if values.numel() else values
            small = self.empty((min(shape[0], 1), *shape[1:4], min(shape[4], 1)))
            return small.copy_(values[:1, :, :, :, :1]).expand(shape)
        if self.case.view == "sliced":
            pack = 16 if self.case.channels_last else 3
            n, c, d, h, w = shape
            big = self.empty((n, c + pack, d + 1, h + 2, w + 1))
            view = big[:, pack:, 1:, 1 : h + 1, 1:]
            return view.copy_(values)
        return self.empty(shape).copy_(values)

    # ---- the kernels ----

    def fill(self, params, **tensors):
        case = self.case
        params.dtype, params.channels_last = DTYPES[case.dtype], case.channels_last
        params.batch, params.channels = case.batch, case.channels
        params.multiplier, params.wide_in = case.multiplier, case.transposed
        for axis, *values in zip(
            params.axis, case.size, case.out, case.kernel, case.stride, case.dilation, strict=True
        ):
            axis.in_, axis.out, axis.kernel, axis.stride, axis.dilation = values
        for axis, (begin, _) in zip(params.axis, case.pad, strict=True):
            axis.pad = begin
        for name, tensor in tensors.items():
            setattr(params, name, tensor.data_ptr() if tensor is not None else None)
            if hasattr(params, f"{name}_strides"):
                n, c, *sp = tensor.stride()
                setattr(params, f"{name}_strides", _Strides(n, c, (_i64 * 3)(*sp)))
        return params

    def params(self, which):
        """The pass's parameters and its output tensors."""
        biases = [self.bias if self.case.bias else None, None]  # of y, and of dx
        bias, other = reversed(biases) if self.case.transposed else biases
        if which == "forward":
            y = self.empty(self.dy.shape)
            return self.fill(Forward(), x=self.x, weight=self.weight, bias=bias, y=y), [y]
        if which == "backward_data":
            dx, tensors = self.empty(self.x.shape), {"dy": self.dy, "weight": self.weight}
            return self.fill(BackwardData(), **tensors, bias=other, dx=dx), [dx]
        dw = self.dense(torch.full_like(self.weight, math.nan))
        db = self.dense(torch.full_like(self.bias, math.nan)) if self.case.bias else None
        outputs = [dw] if db is None else [dw, db]
        tensors = {"x": self.x, "dy": self.dy, "dw": dw, "db": db}
        if which == FUSED:
            dx = self.empty(self.x.shape)
            return self.fill(Backward(), **tensors, weight=self.weight, dx=dx), [dx, *outputs]
        return self.fill(BackwardWeight(), **tensors), outputs

    def tiles(self, which):
        params, _ = self.params(which)
        fits = getattr(self.library, f"{which}_fits")
        fits.restype = ctypes.c_bool
        return [t for t in range(self.library.tile_count()) if fits(ctypes.byref(params), t)]

    def picked(self, which):
        params, _ = self.params(which)
        return getattr(self.library, f"{which}_pick")(ctypes.byref(params))

    def give_workspace(self, params, tile, which="backward_weight"):
        bytes_of = getattr(self.library, f"{which}_workspace")
        bytes_of.restype = _i64
        size = bytes_of(ctypes.byref(params), tile)
        workspace = self.arena.memory(size, align=8)
        ctypes.memset(workspace, 0xFF, size)  # NaN
        params.workspace = ctypes.addressof(workspace)

    def run(self, which, tile, order=hc.FORWARD, seed=1):
        params, outputs = self.params(which)
        if which in ("backward_weight", FUSED):
            self.give_workspace(params, tile, which)
        self.library.host_cuda_configure(order, seed)
        hc.check(self.library, getattr(self.library, which)(ctypes.byref(params), tile))
        return outputs

    def check_bias_alone(self, tile):
        """The weight gradient of a call that wants the bias's gradient only."""
        params, (_, db) = self.params("backward_weight")
        params.dw = None
        self.give_workspace(params, tile)
        hc.check(self.library, self.library.backward_weight(ctypes.byref(params), tile))
        expected = self.dy.double().sum((0, 2, 3, 4))
        torch.testing.assert_close(db.double(), expected, rtol=1e-2, atol=1e-2)

    # ---- the reference ----

    @functools.cache  # noqa: B019
    def reference(self, which):
        """Pairs (expected, magnitude): the sums of products and of their absolute values."""
        if which == FUSED:
            return [*self.reference("backward_data"), *self.reference("backward_weight")]
        case = self.case
        x, dy, weight = self.x.double(), self.dy.double(), self.weight.double()[:, None]
        bias = self.bias.double() if case.bias else None
        if 0 in case.out:  # torch refuses what sums over nothing
            zeros = {"forward": [dy], "backward_data": [x], "backward_weight": [weight[:, 0]]}
            if case.bias:
                zeros["backward_weight"].append(bias)
            return [(torch.zeros_like(t), torch.zeros_like(t)) for t in zeros[which]]

        def transposed(x, weight):  # a filter per channel of x; those of a channel of y are added
            return forward(x, weight, None).unflatten(1, (case.channels, case.multiplier)).sum(2)

        def forward(x, weight, bias):
            return F.conv3d(
                _zeros_around(case, x),
                weight,
                bias,
                case.stride,
                0,
                case.dilation,
                groups=x.shape[1],
            )

        if case.transposed:
            return self._reference_transposed(which, transposed, x, dy, weight, bias)
        if which == "forward":
            positive = None if bias is None else bias.abs()
            return [(forward(x, weight, bias), forward(x.abs(), weight.abs(), positive))]
        results = []
        for map_ in (lambda t: t, torch.abs):
            xs, ws = map_(x).requires_grad_(), map_(weight).requires_grad_()
            y = forward(xs, ws, None)
            dx, dw = torch.autograd.grad(y, (xs, ws), map_(dy))
            db = map_(dy).sum((0, 2, 3, 4))
            results.append([dx] if which == "backward_data" else [dw[:, 0], db])
        results = list(zip(*results, strict=True))
        return results if case.bias or which == "backward_data" else results[:1]

    def _reference_transposed(self, which, forward, x, dy, weight, bias):
        if which == "forward":
            return [(forward(x, weight), forward(x.abs(), weight.abs()))]
        results = []
        for map_ in (lambda t: t, torch.abs):
            xs = map_(x).requires_grad_()
            (dx,) = torch.autograd.grad(forward(xs, map_(weight)), xs, map_(dy))
            results.append(dx if bias is None else dx + map_(bias).view(-1, 1, 1, 1))
        return [tuple(results)]

    def check(self, which, tile, order=hc.FORWARD, seed=1):
        outputs = self.run(which, tile, order, seed)
        tolerance = ROUNDING[self.case.dtype]
        for got, (expected, magnitude) in zip(outputs, self.reference(which), strict=True):
            error = (got.double() - expected).abs()
            allowed = tolerance * expected.abs() + 4e-6 * magnitude + 1e-30
            if self.case.dtype == torch.float64:
                allowed = tolerance * (1 + magnitude)
            elif self.case.dtype == torch.float16:
                allowed = allowed + 6e-8
            bad = ~(error <= allowed)
            assert not bad.any(), (
                f"{which} {self.library.tile_name(tile)}: {int(bad.sum())} of {bad.numel()} wrong, "
                f"first at {bad.nonzero()[0].tolist()}: "
                f"{got[tuple(bad.nonzero()[0])]} for {expected[tuple(bad.nonzero()[0])]}"
            )
        return outputs


def load(sanitize=False):
    library = hc.build(
        "depthwise_conv", ["depthwise_conv.cpp", *hc.room_sources("depthwise_conv")], sanitize
    )
    library.tile_name.restype = ctypes.c_char_p
    return library
