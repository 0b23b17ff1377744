"""Padding, windows and resampling on every machine."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from comparing import assert_close, assert_same_bits, wide
from hypothesis import given
from hypothesis import strategies as st
from layouts import channels_last, is_dense, keeps_order, lay_out, place
from strategies import examples, layouts, make_numbers
from threads import same_on_any_threads

import nnkernels as nnk
from nnkernels import registry
from nnkernels.dispatch.dtypes import ELEMENTS
from nnkernels.registry import COMPLEX, FLOATING, INTEGERS

MODES = ("constant", "edge", "reflect", "symmetric", "wrap")
RESAMPLING = ("nearest", "linear", "cubic")
# One of each size, and of each kind.
MOVED = ("float32", "float16", "float64", "complex128", "int8", "uint64")


def views(x):
    """An array with its elements at other places: channels last, reversed, spread, shifted."""
    itemsize = x.dtype.itemsize
    rank = x.ndim
    found = [x, channels_last(x)]
    for order, steps in (
        (range(rank), [1] * (rank - 1) + [-1]),
        (range(rank), [2] + [1] * (rank - 2) + [3]),
        ([0, *range(2, rank), 1], [-1] + [2] * (rank - 1)),
    ):
        found.append(place(x, lay_out(x.shape, itemsize, order, steps, itemsize)).view)
    return found


def run(backend, function, x, *arguments, seed=0, **options):
    with backend.context(seed):
        return backend.numpy(function(backend.array(x), *arguments, **options))


def reference(function, *arguments, **options):
    return registry.of_function(function).reference(*arguments, **options)


def inner(a, b):
    return float(np.sum(wide(a) * wide(b)))


# ---- padding -------------------------------------------------------------------------------------


@st.composite
def paddings(draw):
    rank = draw(st.integers(1, 4))
    shape = tuple(draw(st.integers(2, 7)) for _ in range(rank))
    widths = [
        (draw(st.sampled_from((0, 0, 1, 3))), draw(st.sampled_from((0, 0, 2, 2 * n + 1))))
        for n in shape
    ]
    return shape, tuple(widths), draw(st.sampled_from(MODES))


@pytest.mark.in_turn
def test_padding_is_that_of_numpy(backend):
    @examples(1)
    @given(st.data(), paddings(), st.integers(0, 99))
    def right(data, case, seed):
        shape, widths, mode = case
        x = make_numbers(np.random.default_rng(seed), shape, "float32")
        placed = place(x, data.draw(layouts(shape, 4, backend.is_cpu)))
        x = placed.view
        more = {"value": 1.5} if mode == "constant" else {}
        with backend.context(seed):
            y = nnk.pad(backend.array(x), widths, mode=mode, **more)
        if backend.recording:
            return
        assert placed.is_unchanged
        assert backend.is_own(y)
        assert is_dense(y)
        assert keeps_order(y, x)
        more = {"constant_values": 1.5} if more else {}
        assert_same_bits(backend.numpy(y), np.pad(x, widths, mode=mode, **more), f"{mode} {widths}")

    backend.precompiled(right)


# (shape, widths): whole planes, a long row, a long row that is only copied, an empty array.
PADDED = (
    ((2, 3, 5, 9), ((0, 0), (0, 0), (2, 1), (1, 20))),
    ((50_000,), ((3, 70),)),
    ((3, 20, 1000), ((2, 2), (0, 0), (0, 0))),
    ((0, 4), ((0, 0), (1, 2))),
)


@pytest.mark.in_turn
@pytest.mark.parametrize("mode", MODES)
def test_paddings_of_every_size(mode, backend):
    def body():
        generator = np.random.default_rng(1)
        for shape, widths in PADDED if backend.is_cpu else PADDED[::3]:
            x = make_numbers(generator, shape, "float32")
            y = run(backend, nnk.pad, x, widths, mode=mode)
            dy = make_numbers(generator, y.shape, "float32")
            dx = run(backend, nnk.pad_backward, dy, widths, mode=mode)
            if not backend.recording:
                assert_same_bits(y, np.pad(x, widths, mode=mode), f"{mode} {shape}")
                wanted = reference(nnk.pad_backward, dy, widths, mode=mode)
                assert_close(dx, wanted, 60, what=f"{mode} {shape}")

    backend.precompiled(body)


@pytest.mark.in_turn
def test_every_dtype_is_moved(backend):
    def body():
        generator = np.random.default_rng(2)
        for dtype in MOVED:
            x = make_numbers(generator, (2, 8, 4, 6), dtype, "wide")
            for function, arguments, options in (
                (nnk.pad, (1,), {"mode": "reflect"}),
                (nnk.pad, (((0, 0), (0, 0), (1, 0), (0, 2)),), {"value": 7}),
                (nnk.unfold, (2,), {}),
                (nnk.pixel_shuffle, (2,), {}),
                (nnk.pixel_unshuffle, (2,), {}),
                (nnk.interpolate, ((7, 5),), {}),
            ):
                y = run(backend, function, x, *arguments, **options)
                if not backend.recording:
                    assert_same_bits(y, reference(function, x, *arguments, **options), dtype)

    backend.precompiled(body)


ADDED = (*FLOATING, *COMPLEX, "int16", "uint8", "int64")


@pytest.mark.in_turn
def test_every_dtype_is_added_up(backend):
    def body():
        generator = np.random.default_rng(3)
        for dtype in ADDED:
            cols = make_numbers(generator, (2, 6, 7), dtype)
            calls = [(nnk.fold, cols, (8, 2), {})]
            if dtype not in INTEGERS:
                dy = make_numbers(generator, (3, 9), dtype)
                calls.append((nnk.pad_backward, dy, (((0, 0), (1, 4)),), {"mode": "symmetric"}))
            if dtype in FLOATING:
                dy = make_numbers(generator, (2, 3, 11), dtype)
                calls.append((nnk.interpolate_backward, dy, ((2, 3, 5),), {"mode": "cubic"}))
                calls.append((nnk.interpolate, dy, (6,), {"mode": "linear"}))
            for function, x, arguments, options in calls:
                y = run(backend, function, x, *arguments, **options)
                if not backend.recording:
                    wanted = reference(function, x, *arguments, **options)
                    assert_close(y, wanted, 8, what=f"{function.__name__} {dtype}")

    backend.precompiled(body)


def test_values_of_paddings():
    def padded(dtype, value):
        return nnk.pad(np.ones(2, dtype), 1, value=value)[0]

    assert np.isnan(padded(np.float32, np.nan))
    assert np.isnan(padded(np.float32, float("nan")))  # another object
    assert not np.signbit(padded(np.float32, 0.0))
    assert np.signbit(padded(np.float32, -0.0))
    assert padded(np.complex64, 1 - 2j) == 1 - 2j
    assert padded(np.uint64, 2**64 - 1) == 2**64 - 1
    assert padded(np.int8, -128) == -128
    assert padded(np.float64, np.float32(0.1)) == np.float32(0.1)
    for dtype, value, error in (
        (np.int8, 128, ValueError),
        (np.uint8, -1, ValueError),
        (np.int32, 0.5, nnk.DTypeError),
        (np.float32, 1j, nnk.DTypeError),
        (np.float32, "0", TypeError),
        (np.float32, True, TypeError),
        (np.int32, np.inf, nnk.DTypeError),
    ):
        with pytest.raises(error, match="value"):
            padded(dtype, value)


# ---- windows -------------------------------------------------------------------------------------


@st.composite
def window_cases(draw):
    rank = draw(st.integers(1, 3))
    sizes = tuple(draw(st.integers(1, 7)) for _ in range(rank))
    options = {
        "kernel_size": tuple(draw(st.integers(1, 3)) for _ in range(rank)),
        "stride": tuple(draw(st.integers(1, 3)) for _ in range(rank)),
        "dilation": tuple(draw(st.integers(1, 2)) for _ in range(rank)),
    }
    low = [draw(st.integers(0, 4)) for _ in range(rank)]
    high = [
        max(draw(st.integers(0, 4)), (k - 1) * d + 1 - n - before)
        for n, k, d, before in zip(
            sizes, options["kernel_size"], options["dilation"], low, strict=True
        )
    ]
    options["padding"] = tuple(zip(low, high, strict=True))
    return (draw(st.integers(1, 2)), draw(st.integers(1, 3)), *sizes), options


@pytest.mark.in_turn
def test_windows_in_any_layout(backend):
    @examples(0.6)
    @given(st.data(), window_cases(), st.integers(0, 99))
    def right(data, case, seed):
        shape, options = case
        generator = np.random.default_rng(seed)
        x = make_numbers(generator, shape, "float32")
        x = place(x, data.draw(layouts(shape, 4, backend.is_cpu))).view
        y = run(backend, nnk.unfold, x, seed=seed, **options)
        cols = make_numbers(generator, y.shape, "float32")
        cols = place(cols, data.draw(layouts(y.shape, 4, backend.is_cpu))).view
        z = run(backend, nnk.fold, cols, shape[2:], seed=seed, **options)
        if backend.recording:
            return
        assert_same_bits(y, reference(nnk.unfold, x, **options), str(options))
        assert_close(z, reference(nnk.fold, cols, shape[2:], **options), 30, what=str(options))
        # The adjoint of each other.
        size = 1e-5 * (1 + np.abs(wide(y) * wide(cols)).sum())
        assert abs(inner(y, cols) - inner(x, z)) <= size

    backend.precompiled(right)


@pytest.mark.in_turn
def test_pixels_in_any_layout(backend):
    def body():
        generator = np.random.default_rng(4)
        for shape, factor in (((2, 12, 3, 5), 2), ((9, 4, 4), 3), ((2, 1, 16, 8, 6), 4)):
            x = make_numbers(generator, shape, "float32")
            for view in (x, *views(x)[2:4]) if x.ndim != 4 else views(x):
                y = run(backend, nnk.pixel_shuffle, view, factor)
                back = run(backend, nnk.pixel_unshuffle, y, factor)
                if not backend.recording:
                    assert_same_bits(y, reference(nnk.pixel_shuffle, x, factor), str(shape))
                    assert_same_bits(back, x, str(shape))
                    assert is_dense(y)

    backend.precompiled(body)


# ---- resampling ----------------------------------------------------------------------------------

# (shape, sizes): larger, smaller, both; one, two and three axes; one element; a long row.
RESIZED = (
    ((2, 3, 7, 9), (14, 18)),
    ((2, 3, 7, 9), (3, 20)),
    ((1, 2, 40), (13,)),
    ((1, 2, 3, 2, 5), (4, 1, 9)),
    ((2, 3, 1, 1), (3, 4)),
)
# Channels that fill vectors, and some more: lanes are channels where these are adjacent.
MANY_CHANNELS = (2, 75, 5, 6), (8, 4)


@pytest.mark.in_turn
@pytest.mark.parametrize("mode", RESAMPLING)
@pytest.mark.parametrize("align_corners", [False, True])
def test_resampling_in_any_layout(mode, align_corners, backend):
    if mode == "nearest" and align_corners:
        pytest.skip("there are no corners")
    options = {"mode": mode, "align_corners": align_corners}

    def body():
        generator = np.random.default_rng(5)
        for number, (shape, sizes) in enumerate((MANY_CHANNELS, *RESIZED)):
            x = make_numbers(generator, shape, "float32")
            dy = make_numbers(generator, (*shape[:2], *sizes), "float32")
            found = []
            pairs = list(zip(views(x), views(dy), strict=True))
            for view, of_dy in pairs if number < 3 else pairs[:1]:
                y = run(backend, nnk.interpolate, view, sizes, **options)
                dx = run(backend, nnk.interpolate_backward, of_dy, shape, **options)
                if backend.recording:
                    continue
                assert keeps_order(y, view)
                found.append((y, dx))
            if backend.recording:
                continue
            wanted = reference(nnk.interpolate, x, sizes, **options)
            assert_close(found[0][0], wanted, 16, 8.0, what=str((shape, sizes)))
            back = reference(nnk.interpolate_backward, dy, shape, **options)
            assert_close(found[0][1], back, 60, 30.0, what=str((shape, sizes)))
            for y, dx in found[1:]:  # the sums are made in one order, whatever the layout
                assert_same_bits(y, found[0][0], "another layout")
                assert_same_bits(dx, found[0][1], "another layout of dy")

    backend.precompiled(body)


@pytest.mark.parametrize("mode", RESAMPLING)
def test_scales(mode, cpu):
    generator = np.random.default_rng(6)
    x = make_numbers(generator, (2, 3, 7, 10), "float64")
    for scale in (2, 0.5, (1.7, 0.31), 3.0):
        y = run(cpu, nnk.interpolate, x, scale=scale, mode=mode)
        assert_close(y, reference(nnk.interpolate, x, scale=scale, mode=mode), 16)
        dy = make_numbers(generator, y.shape, "float64")
        dx = run(cpu, nnk.interpolate_backward, dy, x.shape, scale=scale, mode=mode)
        assert abs(inner(y, dy) - inner(x, dx)) <= 1e-12 * np.abs(y * dy).sum()


def test_infinities_stay_where_they_are(backend):
    # A term that is not there must not count as 0 times an infinity.
    dy = np.ones((1, 1, 4, 21), np.float32)
    dy[..., 0], dy[..., -1] = np.inf, np.nan

    def body():
        dx = run(backend, nnk.pad_backward, dy, ((0, 0), (0, 0), (0, 0), (2, 2)), mode="edge")
        z = run(backend, nnk.fold, dy.reshape(1, 4, 21), (24,), 4)
        if not backend.recording:
            assert np.isfinite(dx[..., 1:-1]).all()
            assert np.isinf(dx[..., 0]).all()
            assert np.isnan(dx[..., -1]).all()
            assert np.isfinite(z[..., 4:-4]).all()

    backend.precompiled(body)


# ---- what holds for all --------------------------------------------------------------------------

CALLS = (
    (nnk.pad, (2, 3, 6, 40), (((0, 0), (0, 0), (1, 2), (3, 1)),), {"mode": "reflect"}),
    (nnk.pad_backward, (2, 3, 6, 40), (((0, 0), (0, 0), (1, 2), (3, 1)),), {"mode": "wrap"}),
    (nnk.unfold, (2, 3, 6, 10), (3,), {"padding": 1}),
    (nnk.fold, (2, 12, 90), ((10, 11),), {"kernel_size": 2}),
    (nnk.pixel_shuffle, (2, 8, 3, 10), (2,), {}),
    (nnk.interpolate, (2, 3, 6, 10), ((9, 21),), {"mode": "linear"}),
    (nnk.interpolate_backward, (2, 3, 9, 21), ((2, 3, 6, 10),), {"mode": "cubic"}),
)


@pytest.mark.in_turn
def test_results_into_arrays_of_any_layout(backend):
    def body():
        generator = np.random.default_rng(7)
        for function, shape, arguments, options in CALLS:
            x = make_numbers(generator, shape, "float32")
            y = run(backend, function, x, *arguments, **options)
            rank = y.ndim
            for steps in ([1] * rank, [2] * rank, [-1] * (rank - 1) + [-3]):
                layout = lay_out(y.shape, 4, range(rank), steps, 4)
                placed = place(np.full(y.shape, 9, np.float32), layout)
                out = backend.array(placed.view)
                with backend.context():
                    result = function(backend.array(x), *arguments, out=out, **options)
                if not backend.recording:
                    assert result is out
                    assert_same_bits(backend.numpy(out), y, f"{function.__name__} {steps}")
                    assert backend.is_cupy or placed.is_unchanged_outside

    backend.precompiled(body)


def test_any_number_of_threads(cpu):
    generator = np.random.default_rng(8)
    for function, shape, arguments, options in CALLS:
        x = make_numbers(generator, (40, *shape[1:]), "float32")
        if function is nnk.interpolate_backward:
            arguments = ((40, *arguments[0][1:]),)
        for view in (x, channels_last(x)) if x.ndim == 4 else (x,):
            same_on_any_threads(lambda v=view, f=function, a=arguments, o=options: f(v, *a, **o))


def test_second_calls_take_the_plan(cpu):
    x = np.arange(12.0).reshape(3, 4)
    first = nnk.pad(x, 1, mode="edge")
    count = len(cpu.machine.plans)
    assert_same_bits(nnk.pad(x + 0, 1, mode="edge"), first, "the same plan")
    assert len(cpu.machine.plans) == count
    nnk.pad(x, 1, value=np.nan), nnk.pad(x, 1, value=float("nan"))
    assert len(cpu.machine.plans) == count + 1


@pytest.mark.in_turn
@pytest.mark.parametrize("function", [c[0] for c in CALLS], ids=lambda f: f.__name__)
def test_64_bit_offsets(function, backend):
    """A batch axis with two entries two GiB apart: only the addresses are looked at."""
    call = next(c for c in CALLS if c[0] is function)
    _, shape, arguments, options = call
    generator = np.random.default_rng(9)
    x = make_numbers(generator, shape, "float32")
    memory = np.empty(2**31 + 2 * x.nbytes, np.uint8)  # untouched pages take no memory
    offset = -memory.__array_interface__["data"][0] % 64
    inner_strides = x.strides[1:]
    far = np.ndarray(shape, np.float32, memory, offset, (2**31, *inner_strides))
    far[...] = x

    def body():
        if backend.is_cupy:
            pytest.skip("needs the memory")
        y = run(backend, function, far, *arguments, **options)
        near = run(backend, function, x, *arguments, **options)
        if not backend.recording:
            assert_same_bits(y, near, function.__name__)

    backend.precompiled(body)


# ---- PyTorch -------------------------------------------------------------------------------------


def test_results_are_those_of_torch(cpu):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    generator = np.random.default_rng(10)
    x = make_numbers(generator, (2, 4, 6, 7), "float64")
    tx = torch.from_numpy(x)
    y = nnk.unfold(x, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2))
    assert np.array_equal(y, functional.unfold(tx, (3, 2), (1, 2), (1, 2), (2, 1)).numpy())
    z = nnk.fold(y, (6, 7), (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2))
    wanted = functional.fold(torch.from_numpy(y), (6, 7), (3, 2), (1, 2), (1, 2), (2, 1))
    assert_close(z, wanted.numpy(), 6)
    assert np.array_equal(nnk.pixel_shuffle(x, 2), functional.pixel_shuffle(tx, 2).numpy())
    names = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}
    for mode in RESAMPLING:
        for align in (False, True)[: 1 if mode == "nearest" else 2]:
            more = {} if mode == "nearest" else {"align_corners": align}
            for size in ((12, 14), (4, 3), (6, 20)):
                leaf = tx.clone().requires_grad_(True)
                wanted = functional.interpolate(leaf, size, mode=names[mode], **more)
                y = nnk.interpolate(x, size, mode=mode, align_corners=align)
                assert_close(y, wanted.detach().numpy(), 16, 8.0)
                dy = make_numbers(generator, y.shape, "float64")
                wanted.backward(torch.from_numpy(dy))
                dx = nnk.interpolate_backward(dy, x.shape, mode=mode, align_corners=align)
                assert_close(dx, leaf.grad.numpy(), 30, 20.0)
    for rank, mode in ((1, "linear"), (3, "trilinear")):
        x = make_numbers(generator, (2, 3, *range(4, 4 + rank)), "float64")
        for scale in (2.0, 0.7):
            wanted = functional.interpolate(torch.from_numpy(x), scale_factor=scale, mode=mode)
            y = nnk.interpolate(x, scale=scale, mode="linear")
            assert_close(y, wanted.numpy(), 16, 8.0)


# ---- bad input -----------------------------------------------------------------------------------

X = np.zeros((2, 4, 5, 6), np.float32)
REFUSED = (
    (lambda: nnk.pad(X, (1, 2, 3)), nnk.ShapeError, "pad_width"),
    (lambda: nnk.pad(X, -1), ValueError, "pad_width"),
    (lambda: nnk.pad(X, 1.5), TypeError, "pad_width"),
    (lambda: nnk.pad(X, 1, mode="mirror"), ValueError, "mode must be one of"),
    (lambda: nnk.pad(X, 1, mode=None), TypeError, "mode"),
    (lambda: nnk.pad(X[:1], 1, mode="reflect"), nnk.ShapeError, "axis 0 has 1 elements"),
    (lambda: nnk.pad(X[:0], 1, mode="reflect"), nnk.ShapeError, "axis 0 has 0 elements"),
    (lambda: nnk.pad(X[:0], 1, mode="wrap"), nnk.ShapeError, "at least 1"),
    (lambda: nnk.pad([1.0], 1), nnk.DTypeError, "x"),
    (lambda: nnk.pad(np.ones(3, bool), 1, mode="edge"), nnk.DTypeError, "x has dtype bool"),
    (lambda: nnk.pad_backward(X, ((0, 0), (0, 0), (3, 3), (0, 0))), nnk.ShapeError, "3 \\+ 3 = 6"),
    (lambda: nnk.pad_backward(X.astype(int), 1), nnk.DTypeError, "dy has dtype int64"),
    (lambda: nnk.unfold(X[0, 0], 2), nnk.ShapeError, "x has shape \\(5, 6\\)"),
    (lambda: nnk.unfold(X, 7), nnk.ShapeError, "5 elements"),
    (lambda: nnk.unfold(X, (2, 2, 2)), nnk.ShapeError, "kernel_size"),
    (lambda: nnk.unfold(X, 2, stride=0), ValueError, "stride"),
    (lambda: nnk.fold(X[0], (3, 3), 2), nnk.ShapeError, "2 \\* 2 = 4 windows"),
    (lambda: nnk.fold(X[0, :, :3, :4], (3, 3), 2), nnk.ShapeError, "2 \\* 2 = 4 taps"),
    (lambda: nnk.fold(X, (3, 3), 2), nnk.ShapeError, "cols has shape"),
    (lambda: nnk.fold(X[0], (1, 2, 3, 4), 2), nnk.ShapeError, "output_size"),
    (lambda: nnk.pixel_shuffle(X, 3), nnk.ShapeError, "factor\\^2 = 9"),
    (lambda: nnk.pixel_shuffle(X[0, 0], 1), nnk.ShapeError, "three axes"),
    (lambda: nnk.pixel_unshuffle(X, 2), nnk.ShapeError, "height 5"),
    (lambda: nnk.pixel_shuffle(X, 0), ValueError, "factor"),
    (lambda: nnk.pixel_shuffle(X, 2.0), TypeError, "factor"),
    (lambda: nnk.interpolate(X), ValueError, "size and scale.*neither"),
    (lambda: nnk.interpolate(X, 3, scale=2), ValueError, "size and scale.*both"),
    (lambda: nnk.interpolate(X, (3, 4, 5)), nnk.ShapeError, "size"),
    (lambda: nnk.interpolate(X, 0), ValueError, "size"),
    (lambda: nnk.interpolate(X, scale=0.1), nnk.ShapeError, "floor\\(5 \\* 0.1\\) = 0"),
    (lambda: nnk.interpolate(X, scale=(1, 2, 3)), nnk.ShapeError, "scale"),
    (lambda: nnk.interpolate(X, scale=-1), ValueError, "scale"),
    (lambda: nnk.interpolate(X, scale="2"), TypeError, "scale"),
    (lambda: nnk.interpolate(X, 3, mode="bilinear"), ValueError, "mode must be one of"),
    (lambda: nnk.interpolate(X, 3, align_corners=True), ValueError, "align_corners"),
    (lambda: nnk.interpolate(X, 3, mode="linear", align_corners=1), TypeError, "align_corners"),
    (lambda: nnk.interpolate(X[:, :, :0], 3), nnk.ShapeError, "nothing along"),
    (lambda: nnk.interpolate(X.astype(int), 3, mode="linear"), nnk.DTypeError, "x has dtype int64"),
    (lambda: nnk.interpolate_backward(X, (2, 4, 3)), nnk.ShapeError, "ranks differ"),
    (lambda: nnk.interpolate_backward(X, (2, 3, 3, 3)), nnk.ShapeError, "dy has shape"),
    (lambda: nnk.interpolate_backward(X, (2, 4, 3, 3), scale=3), nnk.ShapeError, "dy has shape"),
    (lambda: nnk.interpolate_backward(X, 3), TypeError, "x_shape"),
    (lambda: nnk.pad(X, 1, out=X), nnk.ShapeError, "out has shape"),
    (lambda: nnk.pad(X, 0, out=X), nnk.ShapeError, "shares memory"),
    (lambda: nnk.pad(X, 0, out=np.zeros(X.shape)), nnk.DTypeError, "out has dtype"),
)


@pytest.mark.parametrize("case", range(len(REFUSED)))
@pytest.mark.parametrize("machine", ["cpu", "reference"])
def test_refused(case, machine):
    call, error, words = REFUSED[case]
    with nnk.use_backend(machine), pytest.raises(error, match=words):
        call()


def test_empty_arrays(backend):
    def body():
        with backend.context():
            x = backend.array(np.zeros((0, 3, 4, 5), np.float32))
            shapes = [
                nnk.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0))).shape,
                nnk.unfold(x, 2).shape,
                nnk.interpolate(x, (2, 9), mode="cubic").shape,
                nnk.pad(backend.array(np.zeros((0, 3), np.float32)), ((2, 0), (0, 0))).shape,
            ]
        assert shapes == [(0, 4, 4, 5), (0, 12, 12), (0, 3, 2, 9), (2, 3)]

    backend.precompiled(body)


def test_dtypes_of_records_are_what_functions_take():
    for op in registry.all_ops().values():
        if op.family == "windows":
            assert set(FLOATING) <= set(op.dtypes)
            assert all(name in ELEMENTS for name in op.dtypes)
            assert all(prod(shape) for example in op.examples for shape in example.shapes)
