"""gemm, gemv and linear on every machine: what is added, scaled and activated, and gradients."""

from __future__ import annotations

import tracemalloc
from functools import partial

import numpy as np
import pytest
from backends import Backend
from comparing import assert_close, assert_same_bits, wide
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import place
from strategies import examples, layouts, make_numbers, numbers

import nnkernels as nnk
from nnkernels import registry
from nnkernels.dispatch.dtypes import ELEMENTS, numpy_dtype
from nnkernels.dispatch.matmul_product import match_shapes

SIDES = (0, 1, 2, 3, 5, 8, 17, 33)
# dtypes of both operands and of what is added.
TYPES = (
    ("float32", "float32", "float32"),
    ("float64", "float64", "float64"),
    ("float16", "float16", "float32"),
    ("bfloat16", "bfloat16", "bfloat16"),
    ("complex64", "complex64", "complex64"),
    ("float32", "float32", "complex64"),
    ("int8", "int8", "int32"),
    ("int64", "int64", "int64"),
)
# Defined for every kind of number they are drawn for.
ACTIVATIONS = {
    "f": [None, None, "relu", partial(nnk.gelu, approximate="tanh"), nnk.tanh],
    "c": [None, None, "tanh"],
    "i": [None, None, "relu"],
}


def sizes(a, b, c, alpha, beta):
    """How large the numbers are that are added up, for each element of the result."""
    total = abs(alpha) * np.abs(np.matmul(np.abs(wide(a)), np.abs(wide(b))))
    return total if c is None else total + abs(beta) * np.abs(wide(c))


def scalars(draw, kind):
    values = {"f": [1.0, 0.5, -2.0, 0.0], "c": [1.0, 0.5 - 1j, 0.0], "i": [1, 3, -2, 0]}[kind]
    return draw(st.sampled_from(values)), draw(st.sampled_from(values))


@st.composite
def broadcast_shapes(draw, shape):
    """A shape that broadcasts to another."""
    kept = draw(st.integers(0, len(shape)))
    return tuple(1 if draw(st.integers(0, 3)) == 0 else n for n in shape[kept:])


# ---- any layout, any option ------------------------------------------------------------------


@st.composite
def gemms(draw, backend):
    """Operands of gemm at any place, with its options."""
    types = draw(st.sampled_from(TYPES))
    kind = "i" if ELEMENTS[types[2]].kind in "iu" else ELEMENTS[types[2]].kind
    m, n, k = (draw(st.sampled_from(SIDES)) for _ in range(3))
    batch = tuple(draw(st.lists(st.integers(1, 2), max_size=2)))
    transpose = draw(st.booleans()), draw(st.booleans())
    # One of the operands may be the same matrix for the whole batch.
    alone = draw(st.sampled_from([None, None, 0, 1]))
    shapes = []
    for i, matrix in enumerate(((m, k), (k, n))):
        matrix = matrix[::-1] if transpose[i] else matrix
        shapes.append(matrix if alone == i else (*batch, *matrix))
    shapes.append(draw(broadcast_shapes((*batch, m, n))))
    placed = []
    for shape, dtype in zip(shapes, types, strict=True):
        layout = draw(layouts(shape, numpy_dtype(dtype).itemsize, byte_shifts=backend.is_cpu))
        placed.append(place(draw(numbers(shape, dtype, kinds=("ordinary",))), layout))
    alpha, beta = scalars(draw, kind)
    options = {
        "alpha": alpha,
        "beta": beta,
        "transpose_a": transpose[0],
        "transpose_b": transpose[1],
        "epilogue": draw(st.sampled_from(ACTIVATIONS[kind])),
    }
    return placed[: 3 if draw(st.integers(0, 3)) else 2], options


def test_gemm_of_any_layout(backend):
    @given(gemms(backend), st.integers(0, 99))
    def right(case, seed):
        placed, options = case
        arrays = [p.view for p in placed]
        with backend.context(seed):
            y = nnk.gemm(*map(backend.array, arrays), **options)
        if backend.recording:
            return
        assert all(p.is_unchanged for p in placed)
        assert backend.is_own(y)
        a, b = arrays[:2]
        a = a.swapaxes(-1, -2) if options["transpose_a"] else a
        b = b.swapaxes(-1, -2) if options["transpose_b"] else b
        c = arrays[2] if len(arrays) > 2 else None
        expected = registry.find("gemm").reference(*arrays, **options)
        scale = sizes(a, b, c, options["alpha"], options["beta"])
        assert_close(backend.numpy(y), expected, max(a.shape[-1], 1), scale, "gemm")

    backend.precompiled(right)


@examples(0.5)
@given(st.data())
def check_gemv(backend, data):
    draw = data.draw
    m, k = (draw(st.sampled_from(SIDES)) for _ in range(2))
    transpose = draw(st.booleans())
    batch = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    shapes = (*batch, *((k, m) if transpose else (m, k))), (*batch[len(batch) // 2 :], k)
    shapes = (*shapes, draw(broadcast_shapes((*batch, m))))
    placed = []
    for shape in shapes:
        layout = draw(layouts(shape, 4, byte_shifts=backend.is_cpu))
        placed.append(place(draw(numbers(shape, "float32", kinds=("ordinary",))), layout))
    alpha, beta = scalars(draw, "f")
    options = {"alpha": alpha, "beta": beta, "transpose_a": transpose}
    a, x, y = (p.view for p in placed)
    with backend.context():
        z = nnk.gemv(*map(backend.array, (a, x, y)), **options)
    if not backend.recording:
        op_a = a.swapaxes(-1, -2) if transpose else a
        scale = sizes(op_a, x[..., None], y[..., None], alpha, beta)[..., 0]
        expected = registry.find("gemv").reference(a, x, y, **options)
        assert_close(backend.numpy(z), expected, max(k, 1), scale, "gemv")


def test_gemv_of_any_layout(backend):
    backend.precompiled(lambda: check_gemv(backend))


def test_linear_of_any_layout(backend):
    @examples(0.5)
    @given(st.data())
    def right(data):
        draw = data.draw
        inputs, outputs = (draw(st.sampled_from(SIDES)) for _ in range(2))
        rows = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
        placed = []
        for shape in ((*rows, inputs), (outputs, inputs), (outputs,)):
            layout = draw(layouts(shape, 4, byte_shifts=backend.is_cpu))
            placed.append(place(draw(numbers(shape, "float32", kinds=("ordinary",))), layout))
        activation = draw(st.sampled_from([None, "relu"]))
        x, weight, bias = (p.view for p in placed)
        with backend.context():
            y = nnk.linear(*map(backend.array, (x, weight, bias)), activation=activation)
        if not backend.recording:
            expected = registry.find("linear").reference(x, weight, bias, activation=activation)
            scale = sizes(x, weight.T, bias, 1, 1)
            assert_close(backend.numpy(y), expected, max(inputs, 1), scale, "linear")

    backend.precompiled(right)


# ---- scalars, what is added, activations --------------------------------------------------------


@pytest.mark.in_turn
def test_what_is_times_zero_is_not_read(backend):
    a, b = np.ones((5, 4), np.float32), np.ones((4, 6), np.float32)
    with backend.context():
        product = nnk.gemm(*map(backend.array, (a, b, np.full((5, 6), np.nan, "f4"))), beta=0)
        vector = nnk.gemv(*map(backend.array, (a, b[:, 0], np.full(5, np.inf, "f4"))), beta=0.0)
        unread = np.full((5, 6), np.nan, "f4")
        out = backend.array(unread)
        nnk.gemm(*map(backend.array, (a, b)), out, beta=0, out=out)
        kept = nnk.gemm(*map(backend.array, (a, b, np.full((5, 6), np.inf, "f4"))), alpha=0)
    assert np.all(backend.numpy(product) == 4)
    assert np.all(backend.numpy(vector) == 4)
    assert np.all(backend.numpy(out) == 4)
    assert np.all(backend.numpy(kept) == np.inf)


@pytest.mark.in_turn
def test_an_empty_sum_leaves_what_is_added(backend):
    def body():
        for number, types in enumerate(TYPES):
            # Of every second dtype on a CPU the matrices, of others the vectors; else the opposite.
            matrices = number % 2 != backend.is_cpu
            thinned = settings.default.derandomize
            (a, b, c), x = (numpy_dtype(name) for name in types), np.array([-4, 3])
            arrays = np.ones((3, 0), a), np.ones((0, 2), b), x.astype(c)
            vectors = np.ones((2, 0), a), np.ones(0, b), x.astype(c)
            with backend.context():
                if matrices or not thinned:
                    y = backend.numpy(nnk.gemm(*map(backend.array, arrays), beta=2))
                    assert backend.recording or y.tolist() == [[-8, 6]] * 3
                if not matrices or not thinned:
                    z = backend.numpy(nnk.gemv(*map(backend.array, vectors), alpha=3, beta=2))
                    assert backend.recording or z.tolist() == [-8, 6]

    backend.precompiled(body)


@pytest.mark.in_turn
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint64"])
def test_integers_wrap_as_their_sums_do(dtype, backend):
    generator = np.random.default_rng(50)
    a, b, c = (make_numbers(generator, (4, 4), dtype, "wide") for _ in range(3))
    with backend.context():
        y = nnk.gemm(*map(backend.array, (a, b, c)), alpha=-3, beta=2**40 + 7, epilogue=nnk.relu)
    with np.errstate(over="ignore"):
        sums = a.astype(np.int64) @ b.astype(np.int64) * -3 + c.astype(np.int64) * (2**40 + 7)
    assert np.array_equal(backend.numpy(y), np.maximum(sums.astype(dtype), 0))


@pytest.mark.parametrize("machine", ["cpu", "sim:sm_80"])
def test_every_activation_can_be_fused(machine):
    x = np.linspace(-4, 4, 41, dtype=np.float64)[:, None]
    names = [name for name in nnk.ops.activations.__all__ if name != "prelu"]
    if settings.default.derandomize:  # each on one of the machines
        names = names[machine != "cpu" :: 2]
    backend = Backend(machine)

    def body():
        for name in names:
            with backend.context():
                fused = nnk.matmul(x, np.ones((1, 1)), epilogue=name)
            if not backend.recording:
                assert_close(fused, registry.find(name).reference(x), what=name)

    backend.precompiled(body)


def test_options_of_an_activation_are_used():
    x = np.array([[-2.0, 3.0]])
    slope = partial(nnk.leaky_relu, negative_slope=0.25)
    assert nnk.matmul(x, np.eye(2), epilogue=slope).tolist() == [[-0.5, 3.0]]
    assert nnk.linear(x, np.eye(2), activation=nnk.relu).tolist() == [[0.0, 3.0]]


def test_a_new_scalar_compiles_nothing(kernels):
    a, b, c = np.ones((9, 9), "f4"), np.ones((9, 9), "f4"), np.ones(9, "f4")
    nnk.gemm(a, b, c, alpha=2.0, epilogue=partial(nnk.elu, alpha=0.5))
    kernels.clear()
    machine = nnk.dispatch.machines.cpu_machine()
    before = len(machine._kernels._values)
    y = nnk.gemm(a, b, c, alpha=-0.125, beta=4.0, epilogue=partial(nnk.elu, alpha=0.25))
    assert len(kernels) == 1  # the plan is new
    assert len(machine._kernels._values) == before
    assert_close(y, np.full((9, 9), -9 / 8 + 4, "f4"))


def test_a_fused_result_is_rounded_once():
    # 2049 is no float16: the sum 2048 + 1 - 2048 is 1 only if nothing is rounded in between.
    a, b = np.array([[2048.0, 1.0]], np.float16), np.ones((2, 1), np.float16)
    y = nnk.gemm(a, b, np.array([-2048.0], np.float16))
    assert y.tolist() == [[1.0]]


# ---- out ---------------------------------------------------------------------------------------


@pytest.mark.in_turn
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_result_may_replace_what_is_added(dtype, backend):
    # On a CPU, of more terms than one slice has: sums must not wait where the addend still is.
    k = 1100 if backend.is_cpu else 40
    generator = np.random.default_rng(51)
    a, b, c = (make_numbers(generator, s, dtype) for s in ((33, k), (k, 20), (33, 20)))
    expected = registry.find("gemm").reference(a, b, c, alpha=0.5, beta=-1.5)
    scale = sizes(a, b, c, 0.5, 1.5)
    for order in "CF" if dtype == "float32" else "F":
        out = backend.array(np.array(c, order=order))
        with backend.context():
            y = nnk.gemm(backend.array(a), backend.array(b), out, alpha=0.5, beta=-1.5, out=out)
            apart = nnk.gemm(*map(backend.array, (a, b, c)), alpha=0.5, beta=-1.5)
        assert y is out
        assert_close(backend.numpy(out), expected, k, scale, "gemm in place")
        assert_same_bits(
            np.ascontiguousarray(backend.numpy(out)), backend.numpy(apart), "in place and apart"
        )


# ---- stacks ------------------------------------------------------------------------------------


def test_rows_of_a_stack_become_rows_of_one_matrix():
    def folded(a, b, c=None):
        shapes = match_shapes(a, b, ("a", "b"))
        strides = np.empty(shapes.result, np.float32).strides
        product = shapes.product(a, b, strides, c, "c").folded()
        return product.batch, product.m

    weight = np.ones((6, 5), np.float32)
    assert folded(np.ones((4, 3, 7, 6), "f4"), weight) == ((), 84)
    assert folded(np.ones((4, 3, 7, 6), "f4"), weight, np.ones(5, "f4")) == ((), 84)
    assert folded(np.ones((4, 1, 6), "f4"), weight) == ((), 4)
    # Rows with a gap after each matrix, a bias for each matrix, and a stack of weights: not.
    assert folded(np.ones((4, 9, 6), "f4")[:, :7], weight) == ((4,), 7)
    assert folded(np.ones((4, 7, 6), "f4"), weight, np.ones((4, 1, 5), "f4")) == ((4,), 7)
    assert folded(np.ones((4, 7, 6), "f4"), np.ones((4, 6, 5), "f4")) == ((4,), 7)
    # Only the inner axis of the stack.
    outer = np.ones((4, 1, 6, 5), "f4")
    assert folded(np.ones((4, 3, 7, 6), "f4"), outer) == ((4,), 21)


def test_the_gradient_of_shared_weights_makes_no_stack():
    x, weight = np.ones((50, 20, 64), np.float32), np.ones((48, 64), np.float32)
    dy = np.ones((50, 20, 48), np.float32)
    nnk.linear_backward(dy, x, weight)
    tracemalloc.start()
    try:
        nnk.linear_backward(dy, x, weight)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The results, and not one matrix of the size of weight for each of the 50.
    assert peak < x.nbytes + weight.nbytes + 20_000


@pytest.fixture
def one_simulator():
    """What is the same on all machines runs where kernels take the least time to compile."""
    with nnk.use_backend("sim:sm_80"):
        yield


# ---- gradients -----------------------------------------------------------------------------------


def inner(a, b):
    return float(np.sum(np.conj(wide(a)) * wide(b)).real)


CALLS = {
    "gemm": (
        ((13, 9), (9, 5), (13, 1)),
        ((2, 1, 9, 6), (3, 4, 9), (3, 6, 4)),
        ((2, 6, 9), (9, 4), (4,)),
    ),
    "gemv": (((13, 9), (9,), (13,)), ((2, 9, 6), (9,), (1,)), ((3, 4), (2, 3), ())),
    "linear": (((7, 9), (5, 9), (5,)), ((2, 3, 9), (4, 9), (1,)), ((9,), (4, 9), (4,))),
}
OPTIONS = {
    "gemm": ({}, {"alpha": -0.5, "transpose_a": True, "transpose_b": True}, {"beta": 3.0}),
    "gemv": ({}, {"alpha": 2.0, "transpose_a": True}, {"beta": 3.0, "transpose_a": True}),
    "linear": ({}, {}, {}),
}


def shared(arch):
    """A dtype on a CPU, where kernels take long to compile, and another one in the simulator."""
    if not settings.default.derandomize:
        return ("float32", "complex64")
    return ("float32",) if arch == "host" else ("complex64",)


@pytest.mark.in_turn
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.dtypes(of=shared)
def test_gradients_are_adjoint(name, dtype, backend):
    op, backward = registry.find(name), registry.find(f"{name}_backward")

    def body():
        generator = np.random.default_rng(52)
        for shapes, options in zip(CALLS[name], OPTIONS[name], strict=True):
            arrays = [make_numbers(generator, shape, dtype) for shape in shapes]
            dy = make_numbers(generator, op.reference(*arrays, **options).shape, dtype)
            with backend.context(1):
                found = backward.function(*map(backend.array, (dy, *arrays)), **options)
            if backend.recording:
                continue
            found = backend.numpy(found)
            expected = backward.reference(dy, *arrays, **options)
            for g, x, wanted in zip(found, arrays, expected, strict=True):
                assert g.shape == x.shape
                assert_close(g, wanted, 150, scale=100.0)
            # The product is bilinear and the addend linear: their inner products are equal.
            product = op.reference(*map(wide, arrays[:2]), **options)
            size = 1e-6 * float(np.sum(np.abs(dy)) * 100)
            assert abs(inner(found[0], arrays[0]) - inner(dy, product)) <= size
            assert abs(inner(found[1], arrays[1]) - inner(dy, product)) <= size

    backend.precompiled(body)


@pytest.mark.in_turn
def test_gradients_of_complex_scalars_are_conjugates(backend):
    generator = np.random.default_rng(55)
    a, b, c, dy = (
        make_numbers(generator, s, "complex64") for s in ((5, 9), (9, 4), (5, 1), (5, 4))
    )
    scalars = {"alpha": 2 - 1j, "beta": 1 + 3j}

    def body():
        with backend.context():
            of_matrices = nnk.gemm_backward(*map(backend.array, (dy, a, b, c)), **scalars)
            vectors = (dy[:, 0], a, b[:, 0], c[:, 0])
            of_vectors = nnk.gemv_backward(*map(backend.array, vectors), **scalars)
        if backend.recording:
            return
        for gradients, z, x2, added in (
            (backend.numpy(of_matrices), dy, b, c),
            (backend.numpy(of_vectors), *vectors[::2], vectors[3]),
        ):
            product = scalars["alpha"] * (wide(a) @ wide(x2))
            size = 1e-5 * float(np.sum(np.abs(z)) * 100)
            assert abs(inner(gradients[0], a) - inner(z, product)) <= size
            assert abs(inner(gradients[1], x2) - inner(z, product)) <= size
            assert abs(inner(gradients[2], added) - inner(z, scalars["beta"] * added)) <= size

    backend.precompiled(body)


@pytest.mark.parametrize("activation", ["tanh", "gelu"], ids=["from result", "from operand"])
def test_gradients_through_an_activation(activation, one_simulator):
    generator = np.random.default_rng(53)
    x, weight, bias = (make_numbers(generator, s, "float64") for s in ((6, 4), (5, 4), (5,)))
    dy = make_numbers(generator, (6, 5), "float64")
    expected = registry.find("linear_backward").reference(
        dy, x, weight, bias, activation=activation
    )
    _, pullback = nnk.vjp(nnk.linear, x, weight, bias, activation=activation)
    again = nnk.linear_backward(dy, x, weight, bias, activation=activation)
    for g, h, wanted in zip(pullback(dy), again, expected, strict=True):
        assert_close(g, wanted, 20, scale=20.0)
        assert_close(h, wanted, 20, scale=20.0)
    y, pull = nnk.vjp(nnk.matmul, x, weight.T, epilogue=activation)
    assert_close(y, registry.find(activation).reference(x @ weight.T), 4, scale=20.0)
    dz = registry.find(f"{activation}_backward")
    residual = y if dz.arrays[1] == "y" else x @ weight.T
    assert_close(pull(dy)[0], dz.reference(dy, residual) @ weight, 20, scale=20.0)


def test_what_was_not_given_has_no_gradient():
    x, weight = np.ones((3, 4)), np.ones((2, 4))
    assert len(nnk.vjp(nnk.linear, x, weight)[1](np.ones((3, 2)))) == 2
    assert nnk.vjp(nnk.linear, x, weight, None)[1](np.ones((3, 2)))[2] is None
    assert nnk.gemm_backward(np.ones((3, 3)), x, x, transpose_b=True)[2] is None


def test_real_operands_beside_complex_ones_have_real_gradients(one_simulator):
    generator = np.random.default_rng(54)
    a = make_numbers(generator, (3, 4), "float32")
    b = make_numbers(generator, (4, 5), "complex64")
    dy = make_numbers(generator, (3, 5), "complex64")
    c = make_numbers(generator, (5,), "float32")
    da, db, dc = nnk.gemm_backward(dy, a, b, c)
    assert (da.dtype, db.dtype, dc.dtype) == (np.float32, np.complex64, np.float32)
    assert_close(da, (dy @ b.conj().T).real, 5, scale=50.0)
    assert_close(db, a.T @ dy, 4, scale=50.0)
    assert_close(dc, dy.sum(0).real, 4, scale=20.0)
    da, db = nnk.matmul_backward(dy, a, b)
    assert_close(da, (dy @ b.conj().T).real, 5, scale=50.0)


def test_gradients_have_the_types_of_their_operands(one_simulator):
    a, b = np.ones((3, 4), np.float16), np.ones((4, 5), np.float16)
    for c in (np.ones((3, 5), np.float32), np.ones(5, np.float32)):
        y, pullback = nnk.vjp(nnk.gemm, a, b, c)
        assert y.dtype == np.float32
        found = pullback(np.ones_like(y))
        assert [g.dtype for g in found] == [np.float16, np.float16, np.float32]
        assert [g.shape for g in found] == [a.shape, b.shape, c.shape]
    # An addend of the shape of the result, and narrower than it.
    y, pullback = nnk.vjp(nnk.gemm, a.astype("f4"), b.astype("f4"), np.ones((3, 5), np.float16))
    assert pullback(np.ones_like(y))[2].dtype == np.float16
