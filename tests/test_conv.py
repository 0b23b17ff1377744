"""Convolutions and their gradients on every machine."""

from __future__ import annotations

import numpy as np
import pytest
from comparing import assert_close, assert_same_bits, wide
from convolving import (
    BY_DATA,
    BY_WEIGHT,
    FORWARD,
    TRANSPOSE,
    Geometry,
    assert_right,
    geometries,
    operands,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import channels_last, is_dense, keeps_order
from strategies import examples, make_numbers
from threads import same_on_any_threads

import nnkernels as nnk

# ---- any geometry and layout --------------------------------------------------------------------


@st.composite
def cases(draw, backend):
    geometry = draw(geometries())
    last = draw(st.booleans())
    shapes = (geometry.x, geometry.weight, geometry.y, geometry.weight[:1])
    return geometry, [draw(operands(shape, "float32", backend, last)) for shape in shapes]


def test_any_geometry(backend):
    # On a CPU nearly every call is a kernel of its own, of two seconds.
    @examples(0.25 if backend.is_cpu else 0.4)
    @given(cases(backend), st.integers(0, 99))
    def right(case, seed):
        geometry, given_arrays = case
        x, weight, dy, bias = (backend.array(a) for a in given_arrays)
        with backend.context(seed):
            y = nnk.conv(x, weight, bias, **geometry.options)
            dx = nnk.conv_backward_data(dy, weight, geometry.x, **geometry.options)
            dw = nnk.conv_backward_weight(dy, x, geometry.weight, **geometry.options)
        if backend.recording:
            return
        assert is_dense(y)
        assert is_dense(dx)
        assert y.shape != x.shape or keeps_order(y, x)
        assert_all_right(geometry, given_arrays, [backend.numpy(a) for a in (y, dx, dw)])

    backend.precompiled(right)


def assert_all_right(geometry, arrays, results, **more):
    """Raise unless a convolution and both gradients are those of the references."""
    x, weight, dy, bias = arrays
    options = geometry.options
    outputs = weight.shape[0] // options.get("groups", 1)
    taps = int(np.prod(weight.shape[2:]))
    assert_right(FORWARD, [x, weight, bias], options | more, results[0], geometry.terms)
    own = options | {"x_shape": geometry.x}
    assert_right(BY_DATA, [dy, weight], own, results[1], outputs * taps)
    own = options | {"weight_shape": geometry.weight}
    pixels = max(dy.size // max(dy.shape[1], 1), 1)
    assert_right(BY_WEIGHT, [dy, x], own, results[2], pixels)


def run_all(backend, geometry, arrays, **more):
    x, weight, dy, bias = (None if a is None else backend.array(a) for a in arrays)
    with backend.context(3):
        return [
            nnk.conv(x, weight, bias, **geometry.options, **more),
            nnk.conv_backward_data(dy, weight, geometry.x, **geometry.options),
            nnk.conv_backward_weight(dy, x, geometry.weight, **geometry.options),
        ]


def make_arrays(geometry, dtype, last=False, seed=8):
    generator = np.random.default_rng(seed)
    shapes = (geometry.x, geometry.weight, geometry.y, geometry.weight[:1])
    arrays = [make_numbers(generator, shape, dtype) for shape in shapes]
    return [channels_last(a) if last and a.ndim > 1 else a for a in arrays]


STRIDED = Geometry(
    (2, 4, 9, 7),
    (6, 2, 3, 2),
    {"stride": (2, 1), "padding": ((1, 2), (0, 1)), "dilation": (1, 2), "groups": 2},
)


@pytest.mark.in_turn
@pytest.mark.parametrize("last", [False, True], ids=["channels_first", "channels_last"])
def test_dtypes(last, backend):
    def body():
        for dtype in ("float16", "bfloat16", "float64", "complex64"):
            if last and dtype != "float16":
                continue
            arrays = make_arrays(STRIDED, dtype, last)
            more = {} if dtype == "complex64" else {"epilogue": "relu"}
            results = run_all(backend, STRIDED, arrays, **more)
            if not backend.recording:
                numbers = [backend.numpy(r) for r in results]
                assert_all_right(STRIDED, arrays, numbers, **more)

    backend.precompiled(body)


@pytest.mark.in_turn
@pytest.mark.parametrize("dtypes", [("int8", "int8"), ("uint8", "int8"), ("int32", "int16")])
def test_integers_are_exact(dtypes, backend):
    """In 32 bits at least; what overflows wraps."""
    generator = np.random.default_rng(5)
    shapes = STRIDED.x, STRIDED.weight
    x, weight = (
        make_numbers(generator, s, d, "special") for s, d in zip(shapes, dtypes, strict=True)
    )
    with backend.context():
        y = nnk.conv(*(backend.array(a) for a in (x, weight)), **STRIDED.options)
    expected = FORWARD.reference(x, weight, **STRIDED.options)
    assert expected.dtype == np.int32
    np.testing.assert_array_equal(backend.numpy(y), expected)


# ---- the transposed convolution -----------------------------------------------------------------

TRANSPOSED = [
    ((2, 3, 5, 4), (3, 2, 3, 4), {"stride": 2, "padding": 1, "output_padding": (1, 0)}),
    ((1, 4, 6), (4, 3, 5), {"stride": 3, "dilation": 2, "groups": 2, "padding": ((0, 3),)}),
    ((2, 2, 7), (2, 5, 2), {"stride": 2, "padding": "same", "flip": True}),
]


@pytest.mark.in_turn
def test_transpose(backend):
    def body():
        generator = np.random.default_rng(6)
        # The options are the same on all machines.
        one = backend.is_cpu and settings.default.derandomize
        for shape, kernel, options in TRANSPOSED[: 1 if one else None]:
            x, weight = (make_numbers(generator, s, "float32") for s in (shape, kernel))
            outputs = kernel[1] * options.get("groups", 1)
            bias = make_numbers(generator, (outputs,), "float32")
            arrays = x, weight, bias
            with backend.context():
                y, pullback = nnk.vjp(nnk.conv_transpose, *map(backend.array, arrays), **options)
                expected = TRANSPOSE.reference(*arrays, **options)
                dy = make_numbers(generator, expected.shape, "float32")
                gradients = pullback(backend.array(dy))
            if backend.recording:
                continue
            terms = int(np.prod(kernel)) * shape[1]
            assert_right(TRANSPOSE, list(arrays), options, backend.numpy(y), terms)
            gradients = [wide(backend.numpy(g)) for g in gradients]
            for operand, gradient, without in zip(arrays, gradients, (bias, bias, 0), strict=True):
                product = np.vdot(wide(dy), wide(expected) - _added(without, expected))
                if operand is bias:
                    np.testing.assert_allclose(gradient, _sums(dy), rtol=1e-4, atol=1e-3)
                else:
                    found = np.vdot(gradient, wide(operand))
                    assert abs(found - product) <= 1e-4 * np.abs(dy).sum()

    backend.precompiled(body)


def _added(bias, y):
    """What a bias adds to every element."""
    return np.reshape(wide(np.asarray(bias)), (-1, *[1] * (y.ndim - 2)))


def _sums(dy):
    return wide(dy).sum(axis=(0, *range(2, dy.ndim)))


# ---- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_adjoint(dtype, cpu):
    """<conv(x, w), dy> = <x, dx> = <w, dw>, and the pullback is made of these."""
    x, weight, dy, bias = make_arrays(STRIDED, dtype)
    y, pullback = nnk.vjp(nnk.conv, x, weight, bias, **STRIDED.options)
    dx, dw, db = pullback(dy)
    product = np.vdot(wide(dy), wide(y) - _added(bias, y))
    room = np.sqrt(np.vdot(y, y).real * np.vdot(dy, dy).real) * (
        1e-5 if dtype != "float64" else 1e-13
    )
    assert abs(np.vdot(wide(dx), wide(x)) - product) <= room
    assert abs(np.vdot(wide(dw), wide(weight)) - product) <= room
    assert_close(db, _sums(dy).astype(dtype), dy.size, np.abs(_sums(np.abs(dy))))
    assert (dx.shape, dw.shape, db.shape) == (x.shape, weight.shape, bias.shape)


def test_activation_is_differentiated(cpu):
    x, weight, dy, bias = make_arrays(STRIDED, "float64")
    for epilogue in ("relu", "silu"):
        _, pullback = nnk.vjp(nnk.conv, x, weight, bias, epilogue=epilogue, **STRIDED.options)
        gradients = pullback(dy)
        generator = np.random.default_rng(2)
        for i, operand in enumerate((x, weight, bias)):
            direction = generator.standard_normal(operand.shape)
            sides = []
            for step in (1e-6, -1e-6):
                moved = [x, weight, bias]
                moved[i] = operand + step * direction
                sides.append(nnk.conv(*moved, epilogue=epilogue, **STRIDED.options))
            slope = np.sum(dy * (sides[0] - sides[1])) / 2e-6
            found = np.sum(gradients[i] * direction)
            assert abs(found - slope) <= 1e-4 * max(abs(slope), 1.0)


# ---- views, threads, edges ----------------------------------------------------------------------


def test_a_view_is_its_copy(cpu):
    """Of one order of axes: bit for bit."""
    x, weight, dy, bias = make_arrays(STRIDED, "float32")
    big = [np.repeat(np.repeat(a, 2, -1), 2, 0) for a in (x, weight, dy)]
    views = [a[::2, ..., ::2] for a in big]

    def body():
        of_views = run_all(cpu, STRIDED, [*views, bias])
        for a, b in zip(of_views, run_all(cpu, STRIDED, [x, weight, dy, bias]), strict=True):
            if not cpu.recording:
                assert_same_bits(a, b, "a view and its copy")

    cpu.precompiled(body)


@pytest.mark.parametrize("last", [False, True])
def test_threads(last, cpu):
    geometry = Geometry((3, 16, 30, 30), (40, 16, 3, 3), {"padding": 1})
    if not last:  # the kernels of the tests above, many blocks of them
        geometry = Geometry((3, 4, 60, 50), (40, 2, 3, 2), STRIDED.options)
    arrays = make_arrays(geometry, "float32", last)
    results = same_on_any_threads(lambda: tuple(run_all(cpu, geometry, arrays)))
    assert_all_right(geometry, arrays, list(results))


@pytest.mark.in_turn
@pytest.mark.parametrize(
    "geometry",
    [
        Geometry((0, 3, 4, 5), (2, 3, 2, 2)),
        Geometry((2, 3, 4, 5), (0, 3, 2, 2)),
        Geometry((2, 0, 4, 5), (2, 0, 2, 2)),
        Geometry((1, 2, 0), (3, 2, 2), {"padding": 3}),
        Geometry((1, 2, 3), (3, 2, 2), {"padding": 9, "stride": 4}),
        Geometry((1, 1, 1, 1, 1), (1, 1, 3, 1, 2), {"padding": 4, "dilation": 3}),
    ],
    ids=["no images", "no outputs", "no channels", "no pixels", "padding alone", "3-D"],
)
def test_edges(geometry, backend):
    """Empty sums are the bias; a window may see padding alone."""
    arrays = make_arrays(geometry, "float32")
    results = [backend.numpy(r) for r in run_all(backend, geometry, arrays)]
    assert_all_right(geometry, arrays, results)


def test_taps_that_no_pixel_has_are_no_memory(cpu):
    """Of pixels between strides wider than the weight; conftest.py guards the scratch memory."""
    dy, weight = np.ones((4, 64, 8, 8), "float32"), np.ones((64, 32, 1, 1), "float32")
    dx = nnk.conv_backward_data(dy, weight, (4, 32, 16, 16), stride=2)
    assert (dx[:, :, ::2, ::2] == 64).all()
    assert not dx[:, :, 1::2].any()
    assert not dx[..., 1::2].any()


@pytest.fixture
def one_simulator():
    """What is the same on all machines runs where kernels take the least time to compile."""
    with nnk.use_backend("sim:sm_80"):
        yield


def test_named_padding(one_simulator):
    x = np.arange(1.0, 8.0).reshape(1, 1, 7)
    weight = np.array([[[1.0, 10.0, 100.0, 1000.0]]])
    for stride in (1, 2, 3):
        windows = -(-7 // stride)
        total = max((windows - 1) * stride + 4 - 7, 0)
        low, high = total // 2, total - total // 2
        for name, pair in (("same", (low, high)), ("same_lower", (high, low)), ("valid", (0, 0))):
            y = nnk.conv(x, weight, stride=stride, padding=name)
            expected = nnk.conv(x, weight, stride=stride, padding=(pair,))
            np.testing.assert_array_equal(y, expected)
            assert name == "valid" or y.shape[-1] == windows


def test_flip_is_the_convolution_of_mathematics(one_simulator):
    signal = pytest.importorskip("scipy.signal")
    generator = np.random.default_rng(4)
    x, weight = generator.standard_normal((9, 12)), generator.standard_normal((3, 4))
    y = nnk.conv(x[None, None], weight[None, None], flip=True)[0, 0]
    np.testing.assert_allclose(y, signal.convolve2d(x, weight, "valid"), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_pytorch(rank, cpu):
    torch = pytest.importorskip("torch")
    geometry = Geometry(
        (2, 4, *(9, 8, 7)[:rank]),
        (6, 2, *(3, 2, 4)[:rank]),
        {"stride": 2, "padding": 2, "dilation": 2, "groups": 2},
    )
    arrays = make_arrays(geometry, "float32")
    x, weight, dy, bias = (torch.from_numpy(a) for a in arrays)
    function = getattr(torch.nn.functional, f"conv{rank}d")
    options = (2, 2, 2, 2)
    leaves = [a.clone().requires_grad_() for a in (x, weight)]
    y = function(*leaves, bias, *options)
    y.backward(dy)
    expected = [a.detach().numpy() for a in (y, leaves[0].grad, leaves[1].grad)]
    for got, wanted in zip(run_all(cpu, geometry, arrays), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


# ---- bad input ----------------------------------------------------------------------------------

X, W = np.zeros((2, 4, 5, 6), np.float32), np.zeros((6, 4, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: nnk.conv(X[0, 0], W), nnk.ShapeError, "one to three spatial"),
        (lambda: nnk.conv(X, W[0]), nnk.ShapeError, "as many axes"),
        (lambda: nnk.conv(X, W[:, :3]), nnk.ShapeError, "4 / 1 = 4, not 3"),
        (lambda: nnk.conv(X, W, groups=3), nnk.ShapeError, "channels 4 do not divide|4 .*groups=3"),
        (lambda: nnk.conv(X, W[:5, :2], groups=2), nnk.ShapeError, "do not divide into groups=2"),
        (lambda: nnk.conv(X, W[..., :0]), nnk.ShapeError, "at least one tap"),
        (lambda: nnk.conv(X, W, np.zeros(5, np.float32)), nnk.ShapeError, r"bias .*\(6,\)"),
        (lambda: nnk.conv(X, W, dilation=3), nnk.ShapeError, r"5 elements.*\(3 - 1\).* = 7"),
        (lambda: nnk.conv(X, W, stride=0), ValueError, "stride"),
        (lambda: nnk.conv(X, W, stride=(1, 1, 1)), nnk.ShapeError, "stride has 3 numbers"),
        (lambda: nnk.conv(X, W, stride=1.5), TypeError, "stride"),
        (lambda: nnk.conv(X, W, padding=-1), ValueError, "padding"),
        (lambda: nnk.conv(X, W, padding="full"), ValueError, '"same_lower"'),
        (lambda: nnk.conv(X, W, padding=((1, 2, 3), 1)), nnk.ShapeError, "low, high"),
        (lambda: nnk.conv(X, W, padding=(1, 1, 1)), nnk.ShapeError, "padding has 3 entries"),
        (lambda: nnk.conv(X, W, groups=True), TypeError, "groups"),
        (lambda: nnk.conv(X, W, flip=1), TypeError, "flip"),
        (lambda: nnk.conv(X, W, epilogue="reluu"), ValueError, "epilogue"),
        (lambda: nnk.conv(X, W.astype("int8")), nnk.DTypeError, "float32 and int8|int8"),
        (lambda: nnk.conv(X, [[1.0]]), nnk.DTypeError, "weight"),
        (lambda: nnk.conv_transpose(X, W), nnk.ShapeError, "the 4 channels of x, not 6"),
        (
            lambda: nnk.conv_transpose(X, W[:4], output_padding=1),
            nnk.ShapeError,
            "output_padding 1 .* less than its stride 1",
        ),
        (
            lambda: nnk.conv_transpose(X, W[:4], padding=4),
            nnk.ShapeError,
            r"\(5 - 1\) \* stride 1 .* = -1",
        ),
        (lambda: nnk.conv_backward_data(X, W, 5), TypeError, "x_shape"),
        (lambda: nnk.conv_backward_data(X, W, (2, 4, 5)), nnk.ShapeError, "x_shape is"),
        (
            lambda: nnk.conv_backward_data(X, W, (2, 4, 5, 6)),
            nnk.ShapeError,
            r"dy has shape \(2, 4, 5, 6\); the convolution has shape \(2, 6, 3, 4\)",
        ),
        (
            lambda: nnk.conv_backward_weight(X, X, (6, 3, 3, 3)),
            nnk.ShapeError,
            "weight_shape must be channels / groups",
        ),
    ],
)
def test_bad_input(call, error, text, cpu):
    with pytest.raises(error, match=text):
        call()


def test_lists_are_tuples(one_simulator):
    y = nnk.conv(X, W, stride=[2, 1], padding=[[0, 1], 2])
    assert y.shape == nnk.conv(X, W, stride=(2, 1), padding=((0, 1), 2)).shape


def test_options_are_refused_whatever_was_called_before(one_simulator):
    """True and 1.0 equal 1, which a plan may already be there for; an array is no key at all."""
    calls = {
        "stride": (1, True, 1.0, np.ones(2, int)),
        "groups": (1, True, 1.0),
        "padding": (((1, 1), (0, 1)), ((True, 1), (0, 1)), ((1.0, 1), (0, 1))),
    }
    for name, (good, *bad) in calls.items():
        nnk.conv(X, W, **{name: good})
        for value in bad:
            with pytest.raises(TypeError, match=name):
                nnk.conv(X, W, **{name: value})
    weight = W[:4]
    nnk.conv_transpose(X, weight, stride=2, output_padding=1)
    with pytest.raises(TypeError, match="output_padding"):
        nnk.conv_transpose(X, weight, stride=2, output_padding=True)
