# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""The operators torch.ops.fastconv.depth_max_pool*, against max_pool3d in fp64 and plain Python.

A maximum is exact, so values and positions must be equal, not close. Arguments are full lists
(channels, *spatial), as the operators take them.
"""

import itertools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.library import opcheck

import fastconv

ops = torch.ops.fastconv

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
LAYOUTS = [
    "contiguous",
    "channels_last",
    "narrowed",
    "narrowed_channels_last",
    "strided",
    "expanded",
]

# (size, kernel, stride, padding, dilation, ceil_mode): 2-D inputs
CASES = [
    ((2, 8, 5, 9), (2, 1, 1), (2, 1, 1), (0, 0, 0), (1, 1, 1), False),
    ((2, 64, 6, 37), (4, 1, 1), (4, 1, 1), (0, 0, 0), (1, 1, 1), False),
    ((3, 7, 9, 19), (2, 1, 1), (2, 1, 1), (0, 0, 0), (1, 1, 1), True),
    ((2, 96, 3, 70), (3, 1, 1), (3, 1, 1), (0, 0, 0), (1, 1, 1), False),
    ((1, 200, 4, 5), (7, 1, 1), (7, 1, 1), (3, 0, 0), (1, 1, 1), True),
    ((2, 40, 4, 5), (3, 1, 1), (1, 1, 1), (1, 0, 0), (2, 1, 1), False),
    ((2, 70, 1, 1), (20, 1, 1), (18, 1, 1), (9, 0, 0), (1, 1, 1), True),
    ((2, 12, 20, 70), (2, 2, 2), (2, 2, 2), (0, 0, 0), (1, 1, 1), False),
    ((2, 66, 9, 38), (2, 2, 2), (2, 2, 2), (1, 1, 1), (1, 1, 1), True),
    ((2, 6, 17, 90), (1, 3, 3), (1, 2, 2), (0, 1, 1), (1, 1, 1), False),
    ((2, 9, 11, 45), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), False),
    ((2, 35, 7, 7), (3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1), True),
    ((2, 10, 16, 40), (2, 3, 5), (3, 1, 4), (1, 0, 2), (2, 3, 1), False),
    ((2, 9, 12, 100), (1, 2, 4), (1, 2, 4), (0, 0, 0), (1, 1, 1), True),
    ((1, 21, 14, 15), (9, 6, 5), (2, 3, 1), (4, 3, 2), (1, 1, 1), False),  # 270 taps
    ((2, 5, 4, 60), (2, 2, 17), (2, 2, 18), (0, 0, 0), (1, 1, 1), False),
    ((0, 8, 5, 5), (2, 2, 2), (2, 2, 2), (0, 0, 0), (1, 1, 1), False),
]

# Large enough for the backward pass to cut an image into several pieces.
LARGE_CASES = [
    ((1, 50, 28, 40), (3, 3, 3), (1, 2, 1), (1, 1, 1), (1, 1, 1), False),
    ((1, 49, 30, 40), (2, 2, 2), (2, 2, 2), (0, 0, 0), (1, 1, 1), True),
    ((1, 36000, 1, 1), (5, 1, 1), (3, 1, 1), (2, 0, 0), (1, 1, 1), False),
]


# At a level without a file of its own the code of the one below runs.
ROOM = Path(__file__).resolve().parents[1] / "csrc" / "ops" / "depth_max_pool"
LEVELS = [n for n in fastconv._C.isa_levels() if (ROOM / f"cpu_{n}.cpp").is_file()]


@pytest.fixture(params=LEVELS)
def isa(request):
    before = fastconv._C.isa()
    fastconv._C.set_isa(request.param)
    yield request.param
    fastconv._C.set_isa(before)


def values(size, kind="random"):
    if kind == "ties":  # also of 0 and -0
        return torch.randint(-2, 3, size).double() * torch.randn(size).sign()
    x = torch.randn(size, dtype=torch.float64)
    if kind == "special":
        x[torch.rand(size) < 0.7] = -float("inf")
        x[torch.rand(size) < 0.05] = float("inf")
        x[torch.rand(size) < 0.1] = float("nan")
    return x


def lay_out(x, layout):
    """The same values at other strides."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "narrowed":
        return F.pad(x, (1, 2, 3, 1, 5, 1), value=9.0)[:, 5:-1, 3:-1, 1:-2]
    if layout == "narrowed_channels_last":
        wide = F.pad(x, (0, 0, 0, 0, 3, 2), value=9.0)
        return wide.contiguous(memory_format=torch.channels_last)[:, 3:-2]
    if layout == "strided":
        return torch.stack([x + 9, x, x + 9], -1)[..., 1]
    if layout == "expanded":
        return x[:, :, :, :1].expand(x.shape)
    return x


def native(x, kernel, stride, padding, dilation, ceil_mode):
    y, indices = F.max_pool3d(
        x.double().contiguous().unsqueeze(1), kernel, stride, padding, dilation, ceil_mode, True
    )
    return y.squeeze(1), indices.squeeze(1)


def out_size(size, k, s, p, d, ceil_mode):
    room = size + 2 * p - d * (k - 1) - 1
    count = (-(-room // s) if ceil_mode else room // s) + 1
    return count - 1 if ceil_mode and (count - 1) * s >= size + p else count


def by_hand(x, kernel, stride, padding, dilation, ceil_mode):
    """Element by element, for any number of window axes; x is (N, C, *spatial)."""
    sizes = x.shape[1:]
    axes = list(zip(sizes, kernel, stride, padding, dilation, strict=True))
    out = [out_size(*axis, ceil_mode) for axis in axes]
    y = torch.empty((x.shape[0], *out), dtype=torch.float64)
    indices = torch.empty(y.shape, dtype=torch.int64)
    for n, image in enumerate(x.double().flatten(1).tolist()):
        for o in itertools.product(*map(range, out)):
            ranges = [
                [i for i in (at * s - p + t * d for t in range(k)) if 0 <= i < size]
                for at, (size, k, s, p, d) in zip(o, axes, strict=True)
            ]
            best, where = -float("inf"), None
            for place in itertools.product(*ranges):
                flat = 0
                for i, size in zip(place, sizes, strict=True):
                    flat = flat * size + i
                where = flat if where is None else where
                if image[flat] > best or image[flat] != image[flat]:
                    best, where = image[flat], flat
            y[(n, *o)], indices[(n, *o)] = best, where
    return y, indices


def assert_same(actual, expected):
    """Equal bit by bit but for the payloads of NaNs: signed zeros count."""
    assert actual.shape == expected.shape
    expected = expected.to(actual.dtype)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
    numbers = ~expected.isnan()
    assert torch.equal(actual.signbit()[numbers], expected.signbit()[numbers])


@pytest.mark.parametrize("kind", ["random", "ties", "special"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_and_indices(isa, layout, dtype, kind):
    for size, *windows in CASES:
        x = lay_out(values(size, kind).to(dtype), layout)
        expected, expected_indices = native(x, *windows)
        y = ops.depth_max_pool(x, *windows)
        assert_same(y, expected)
        y, indices = ops.depth_max_pool_with_indices(x, *windows)
        assert_same(y, expected)
        assert torch.equal(indices, expected_indices)
        y, argmax = ops._depth_max_pool_argmax(x, *windows)
        assert_same(y, expected)
        assert argmax.dtype == (
            torch.uint8 if torch.Size(windows[0]).numel() <= 256 else torch.int32
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_backward(isa, channels_last, dtype):
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 1e-2}.get(dtype, 1e-5)
    for size, *windows in CASES + LARGE_CASES:
        x = values(size, "ties").to(dtype)
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        wide = x.double().contiguous().unsqueeze(1).requires_grad_()
        expected = F.max_pool3d(wide, *windows)
        grad = torch.randn(expected.squeeze(1).shape).to(dtype)
        if channels_last:
            grad = grad.contiguous(memory_format=torch.channels_last)
        expected.backward(grad.double().unsqueeze(1))
        for op in (ops.depth_max_pool, lambda *a: ops.depth_max_pool_with_indices(*a)[0]):
            leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
            op(leaf, *windows).backward(grad)
            torch.testing.assert_close(
                leaf.grad.double(), wide.grad.squeeze(1), rtol=tolerance, atol=tolerance
            )
            assert leaf.grad.stride() == x.stride() or x.numel() == 0


def test_backward_of_expanded_and_transposed_gradients(isa):
    x = torch.randn(2, 8, 6, 10, requires_grad=True)
    windows = ([2, 2, 2], [2, 2, 2], [0, 0, 0], [1, 1, 1])
    y = ops.depth_max_pool(x, *windows)
    (flat,) = torch.autograd.grad(y, x, torch.ones_like(y), retain_graph=True)
    (expanded,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    assert torch.equal(flat, expanded)
    grad = torch.randn(y.shape)
    transposed = grad.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    (a,) = torch.autograd.grad(y, x, grad, retain_graph=True)
    (b,) = torch.autograd.grad(y, x, transposed, retain_graph=True)
    assert torch.equal(a, b)


@pytest.mark.parametrize("size", [(2, 4, 5, 1), (2, 4, 3, 1, 1), (2, 1, 1, 1), (2, 4, 6, 5, 1)])
def test_gradient_that_is_a_view_of_one_column(size):
    """The axis of one element hides that the next one, merged into its place, is not dense."""
    x = torch.randn(size, requires_grad=True)
    y = fastconv.depth_max_pool(x, 2 if size[1] > 1 else 1)
    grad = torch.randn(*y.shape[:-1], 3)[..., 1:2]
    (strided,) = torch.autograd.grad(y, x, grad, retain_graph=True)
    (dense,) = torch.autograd.grad(y, x, grad.contiguous())
    assert torch.equal(strided, dense)


def test_results_do_not_depend_on_threads():
    threads = torch.get_num_threads()
    x = torch.randn(2, 16, 30, 40).bfloat16()
    windows = ([3, 3, 3], [1, 2, 2], [1, 1, 1], [1, 1, 1])
    grad, results = None, []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            leaf = x.clone().requires_grad_()
            y = ops.depth_max_pool(leaf, *windows)
            grad = torch.randn(y.shape).bfloat16() if grad is None else grad
            y.backward(grad)
            results.append((y.detach(), leaf.grad))
    finally:
        torch.set_num_threads(threads)
    for y, dx in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(dx, results[0][1])


@pytest.mark.parametrize(
    "size, windows",
    [
        ((2, 9), ([3], [2], [1], [2])),
        ((2, 5, 9), ([2, 3], [2, 2], [1, 1], [1, 2])),
        ((2, 5, 6, 7), ([3, 2, 3], [1, 2, 2], [1, 1, 0], [1, 1, 2])),
        ((2, 6, 4, 5, 7), ([2, 1, 1, 1], [2, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1])),
        ((2, 6, 4, 5, 7), ([3, 2, 3, 2], [2, 1, 2, 2], [1, 1, 1, 1], [1, 2, 1, 1])),
        ((1, 34, 3, 4, 5), ([2, 2, 2, 2], [2, 2, 2, 2], [0, 0, 0, 0], [1, 1, 1, 1])),
        ((1, 2, 3), ([2, 2], [1, 1], [1, 1], [3, 1])),  # a window without any element
        ((2, 3, 1), ([2, 2], [2, 1], [0, 1], [1, 1])),  # one pixel that becomes several
        ((2, 6, 1, 1), ([2, 2, 2], [2, 1, 1], [0, 1, 1], [1, 1, 1])),
    ],
)
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("kind", ["random", "ties", "special"])
def test_every_rank_against_python(isa, size, windows, ceil_mode, kind):
    x = values(size, kind)
    inputs = [x]
    if x.dim() == 5:
        inputs.append(x.contiguous(memory_format=torch.channels_last_3d))
    dilated_away = any(d > n for n, d in zip(size[1:], windows[3], strict=True))
    if not dilated_away:
        expected, expected_indices = by_hand(x, *windows, ceil_mode)
    for tensor in inputs:
        y, indices = ops.depth_max_pool_with_indices(tensor, *windows, ceil_mode)
        assert_same(ops.depth_max_pool(tensor, *windows, ceil_mode), y)
        single = ops.depth_max_pool(tensor[0], *windows, ceil_mode)
        assert_same(single, y[0])
        if dilated_away:
            assert (y == -float("inf")).any()
            continue
        assert_same(y, expected)
        assert torch.equal(indices, expected_indices)


def test_memory_formats():
    x = torch.randn(2, 8, 4, 6)
    windows = ([2, 1, 1], [2, 1, 1], [0, 0, 0], [1, 1, 1])
    last = torch.channels_last
    for tensor, expected in [
        (x, (96, 24, 6, 1)),
        (x.contiguous(memory_format=last), (96, 1, 24, 4)),
        (x.contiguous(memory_format=last)[:, 2:], (72, 1, 18, 3)),
    ]:
        assert ops.depth_max_pool(tensor, *windows).stride() == expected
        y, indices = ops.depth_max_pool_with_indices(tensor, *windows)
        assert y.stride() == indices.stride() == expected
        assert ops.depth_max_pool(tensor.to("meta"), *windows).stride() == expected
    cube = torch.randn(2, 8, 3, 4, 5).contiguous(memory_format=torch.channels_last_3d)
    y = ops.depth_max_pool(cube, *[[*v, f] for v, f in zip(windows, (1, 1, 0, 1), strict=True)])
    assert y.is_contiguous(memory_format=torch.channels_last_3d)


def distinct(size):
    count = torch.Size(size).numel()
    return torch.randperm(count).view(size).double().div_(7.0).requires_grad_()


GRAD_WINDOWS = [
    ((2, 6, 3, 4), ([2, 1, 1], [2, 1, 1], [0, 0, 0], [1, 1, 1])),
    ((1, 5, 4, 5), ([3, 2, 3], [1, 1, 2], [1, 1, 1], [1, 1, 1])),
    ((4, 3, 4), ([2, 2, 2], [1, 2, 1], [1, 0, 1], [1, 1, 2])),
    ((2, 4, 2, 3, 3), ([2, 2, 2, 2], [2, 1, 1, 2], [0, 1, 0, 1], [1, 1, 1, 1])),
    ((3, 7), ([3], [2], [1], [1])),
]


@pytest.mark.parametrize("size, windows", GRAD_WINDOWS)
def test_gradcheck(size, windows):
    x = distinct(size)

    def run(t):
        return ops.depth_max_pool(t, *windows, True)

    def with_indices(t):
        return ops.depth_max_pool_with_indices(t, *windows, True)[0]

    for f in (run, with_indices):
        assert torch.autograd.gradcheck(f, x, check_forward_ad=True, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(f, x, check_fwd_over_rev=True)


@pytest.mark.parametrize("size, windows", GRAD_WINDOWS)
def test_torch_func(size, windows):
    x, tangent = distinct(size).detach(), torch.randn(size, dtype=torch.float64)

    def run(t):
        return ops.depth_max_pool(t, *windows)

    leaf = x.clone().requires_grad_()
    y = run(leaf)
    cotangent = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, leaf, cotangent)
    out, vjp = torch.func.vjp(run, x)
    assert torch.equal(out, y)
    torch.testing.assert_close(vjp(cotangent)[0], expected)
    out, out_tangent = torch.func.jvp(run, (x,), (tangent,))
    assert torch.equal(out, y)
    torch.testing.assert_close((out_tangent * cotangent).sum(), (expected * tangent).sum())
    many = torch.stack([x, tangent, -x], 1)
    mapped = torch.vmap(run, in_dims=1)(many)
    assert torch.equal(mapped, torch.stack([run(t) for t in many.unbind(1)]))
    y_many, indices = torch.vmap(lambda t: ops.depth_max_pool_with_indices(t, *windows), in_dims=1)(
        many
    )
    assert torch.equal(y_many, mapped)
    assert torch.equal(indices[2], ops.depth_max_pool_with_indices(-x, *windows)[1])
    per_sample = torch.vmap(torch.func.grad(lambda t: (run(t) * cotangent).sum()))(x[None])
    torch.testing.assert_close(per_sample[0], expected)
    twice = torch.vmap(torch.vmap(run))(torch.stack([many.movedim(1, 0), many.movedim(1, 0) * 2]))
    assert torch.equal(twice[1], mapped * 2)


@pytest.mark.parametrize("size, windows", GRAD_WINDOWS)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(size, windows, requires_grad):
    x = torch.randn(size, requires_grad=requires_grad)
    for op in ("depth_max_pool", "depth_max_pool_with_indices", "_depth_max_pool_argmax"):
        opcheck(getattr(ops, op).default, (x, *windows), {"ceil_mode": True})
    y, argmax = ops._depth_max_pool_argmax(x.detach(), *windows)
    grad = torch.randn_like(y).requires_grad_(requires_grad)
    opcheck(ops._depth_max_pool_backward.default, (grad, argmax, list(size), False, *windows))


def test_compile_dynamic():
    def run(x, scale):
        y = ops.depth_max_pool(x * scale, [2, 2, 2], [2, 2, 2], [0, 0, 0], [1, 1, 1], True)
        return y.relu()

    compiled = torch.compile(run, fullgraph=True, dynamic=True)
    for size in [(2, 8, 6, 10), (3, 9, 7, 12), (1, 4, 11, 5)]:
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(size).contiguous(memory_format=layout)
            leaf, reference = x.clone().requires_grad_(), x.clone().requires_grad_()
            scale = torch.tensor(0.5)
            y, expected = compiled(leaf, scale), run(reference, scale)
            torch.testing.assert_close(y, expected)
            assert y.stride() == expected.stride()
            grad = torch.randn_like(expected)
            y.backward(grad)
            expected.backward(grad)
            torch.testing.assert_close(leaf.grad, reference.grad)


def test_autocast_keeps_the_dtype():
    x = torch.randn(1, 4, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        y = ops.depth_max_pool(x, [2, 1, 1], [2, 1, 1], [0, 0, 0], [1, 1, 1])
    assert y.dtype == torch.float32


def test_no_argmax_in_inference():
    """Training saves one byte per output; without a gradient nothing is."""
    windows = ([2, 1, 1], [2, 1, 1], [0, 0, 0], [1, 1, 1])
    x = torch.randn(1, 4, 3, 3, requires_grad=True)
    with torch.no_grad():
        assert ops.depth_max_pool(x, *windows).grad_fn is None
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        ops.depth_max_pool(x, *windows)
    assert [t.dtype for t in saved] == [torch.uint8]


@pytest.mark.parametrize("tile", [0, 1, 2, 99])
def test_tile_is_only_a_hint(tile):
    x = torch.randn(1, 4, 3, 3)
    windows = ([2, 1, 1], [2, 1, 1], [0, 0, 0], [1, 1, 1])
    assert torch.equal(ops.depth_max_pool(x, *windows, tile=tile), ops.depth_max_pool(x, *windows))


GOOD = {
    "kernel_size": [2, 2, 2],
    "stride": [2, 2, 2],
    "padding": [0, 0, 0],
    "dilation": [1, 1, 1],
}


@pytest.mark.parametrize(
    "size, change, message",
    [
        ((2, 8, 5), {"kernel_size": [2, 2]}, "stride to have 2 values"),
        ((2, 8), {}, "expected a 4-D .batched. or 3-D input"),
        ((1, 2, 8, 5, 6), {}, "expected a 4-D .batched. or 3-D input"),
        ((2, 8, 5, 6), {"kernel_size": []}, "1 to 4 values"),
        ((2, 8, 5, 6), {"kernel_size": [1] * 5}, "1 to 4 values"),
        ((2, 8, 5, 6), {"kernel_size": [2, 0, 2]}, "kernel_size should be greater than zero"),
        ((2, 8, 5, 6), {"stride": [2, 2, -1]}, "stride should be greater than zero"),
        ((2, 8, 5, 6), {"dilation": [0, 1, 1]}, "dilation should be greater than zero"),
        ((2, 8, 5, 6), {"padding": [0, -1, 0]}, "padding must be non-negative"),
        ((2, 8, 5, 6), {"padding": [0, 2, 0]}, "at most half of effective kernel size"),
        ((2, 8, 5, 6), {"kernel_size": [9, 1, 1]}, "Output size is too small"),
        ((2, 8, 5, 6), {"kernel_size": [2**40, 1, 1]}, "fit in 32 bits"),
        ((2, 8, 5, 6), {"dilation": [2**31 - 1, 1, 1]}, "Output size is too small"),
        ((2, 0, 5, 6), {}, "non-batch dimensions to have positive length"),
        ((2, 8, 5, 0), {}, "non-batch dimensions to have positive length"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_errors(size, change, message, device, requires_grad):
    x = torch.zeros(size, device=device, requires_grad=requires_grad)
    for op in (ops.depth_max_pool, ops.depth_max_pool_with_indices):
        with pytest.raises(RuntimeError, match=f"depth_max_pool.*{message}"):
            op(x, **{**GOOD, **change})


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64], ids=str)
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(RuntimeError, match="expected input to be float32, float64"):
        ops.depth_max_pool(torch.zeros(1, 4, 4, 4, dtype=dtype), **GOOD)


def test_backward_checks_its_arguments():
    windows = list(GOOD.values())
    y, index = ops._depth_max_pool_argmax(torch.randn(2, 8, 6, 6), *windows)
    for grad, winners, size, message in [
        (y[:1], index, [2, 8, 6, 6], "one size and device"),
        (y, index.int(), [2, 8, 6, 6], "indices of type"),
        (y, index, [8, 6], "expected an input size"),
        (y, index, [3, 8, 6, 6], "batch size"),
        (y.long(), index, [2, 8, 6, 6], "grad_output to be float32"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            ops._depth_max_pool_backward(grad, winners, size, False, *windows)


def test_non_tensor():
    with pytest.raises((TypeError, RuntimeError)):
        ops.depth_max_pool([1.0, 2.0], **GOOD)
