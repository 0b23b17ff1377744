"""Matrix products on every machine."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
from comparing import assert_close, assert_same_bits, wide
from comparing import assert_product as assert_right
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import dense, lay_out, place
from strategies import examples, layouts, make_numbers, numbers
from threads import same_on_any_threads

import nnkernels as nnk
from nnkernels import registry
from nnkernels.config import matmul as config
from nnkernels.config import matmul_simt
from nnkernels.dispatch.dtypes import numpy_dtype
from nnkernels.registry import FLOATING, INTEGERS

MATMUL, BACKWARD = registry.find("matmul"), registry.find("matmul_backward")
PAIRS = (
    ("float32", "float32"),
    ("float32", "float32"),
    ("float64", "float64"),
    ("float16", "float16"),
    ("bfloat16", "bfloat16"),
    ("float16", "float32"),
    ("complex64", "complex64"),
    ("complex128", "float64"),
    ("int8", "int8"),
    ("int32", "uint8"),
    ("uint16", "uint16"),
    ("int64", "int64"),
)
SIDES = (0, 1, 1, 2, 3, 5, 8, 17, 33, 65)


@st.composite
def products(draw, most_batch=3):
    """Shapes of two operands: with batches that broadcast, or vectors."""
    m, n, k = (draw(st.sampled_from(SIDES)) for _ in range(3))
    if m * n * k > 40_000:
        k = 8
    batch = draw(st.lists(st.integers(0, most_batch), max_size=3))
    one, two = ([1 if draw(st.booleans()) else size for size in batch] for _ in range(2))
    first, second = (*one[draw(st.integers(0, len(one))) :], m, k), (*two, k, n)
    kind = draw(st.sampled_from(["matrices", "matrices", "matrices", "row", "column", "vectors"]))
    if kind in ("row", "vectors"):
        first = (k,)
    if kind in ("column", "vectors"):
        second = (k,)
    return first, second


# ---- any layout ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pairs", [PAIRS[:5], PAIRS[5:8], PAIRS[8:]], ids=["real", "mixed", "whole"]
)
def test_any_layout(pairs, backend):
    @st.composite
    def cases(draw):
        placed = []
        for shape, dtype in zip(draw(products()), draw(st.sampled_from(pairs)), strict=True):
            layout = draw(layouts(shape, numpy_dtype(dtype).itemsize, byte_shifts=backend.is_cpu))
            placed.append(place(draw(numbers(shape, dtype, kinds=("ordinary",))), layout))
        return placed, draw(st.integers(0, 99))

    @given(cases())
    def right(case):
        placed, seed = case
        x1, x2 = (p.view for p in placed)
        with backend.context(seed):
            y = nnk.matmul(backend.array(x1), backend.array(x2))
        if not backend.recording:
            assert all(p.is_unchanged for p in placed)
            assert backend.is_own(y)
            assert y.flags.c_contiguous
            assert_right(backend.numpy(y), x1, x2)

    backend.precompiled(right)


def test_infinities_and_nan_stay_in_their_rows_and_columns(backend):
    # Nothing but zeros may be added past the end of a sum: inf times a zero that pads a tile
    # would be NaN.
    generator = np.random.default_rng(30)
    x1 = make_numbers(generator, (5, 37), "float32")
    x2 = make_numbers(generator, (37, 9), "float32")
    x1[1, 36], x1[3, 0], x2[36, 4] = np.inf, np.nan, -np.inf
    with backend.context():
        y = nnk.matmul(backend.array(x1), backend.array(x2))
    with np.errstate(invalid="ignore"):
        wanted = (x1.astype(np.float64) @ x2.astype(np.float64)).astype(np.float32)
    assert np.isfinite(wanted).sum() == 3 * 8
    assert_close(backend.numpy(y), wanted, 37, scale=100.0)


# On a CPU: beyond a slice of 128 to 512 terms, with whole, half and cut micro-tiles, several
# packings of A, and several blocks.
SLICED = ((30, 513, 33), (200, 600, 70), (15, 520, 600), (1, 1100, 1), (260, 385, 16))
TURNED = ((False, False), (True, True), (True, False), (False, True))
# Each is a kernel, which takes two seconds to compile: of float32, two ways to turn the operands
# have a result by rows and the other two one by columns; other dtypes, of the same template, one.
SLICED_CASES = (
    ("float32", False, TURNED[::2]),
    ("float32", True, TURNED[1::2]),
    ("float64", True, TURNED[2:3]),
    ("float16", False, TURNED[3:]),
    ("int16", True, TURNED[:1]),
    ("complex64", False, TURNED[1:2]),
)


@pytest.mark.parametrize(("dtype", "out_by_columns", "ways"), SLICED_CASES)
def test_sums_of_several_slices(dtype, out_by_columns, ways, cpu):
    def body():
        generator = np.random.default_rng(35)
        every = ways if settings.default.derandomize else TURNED
        shapes = SLICED if dtype == "float32" or every is TURNED else SLICED[:2]
        for (m, k, n), transposed in product(shapes, every):
            x1, x2 = (
                make_numbers(generator, shape[::-1] if turned else shape, dtype)
                for shape, turned in zip(((m, k), (k, n)), transposed, strict=True)
            )
            x1, x2 = x1.T if transposed[0] else x1, x2.T if transposed[1] else x2
            out = np.full((n, m), 99, x1.dtype).T if out_by_columns else None
            with cpu.context():
                y = nnk.matmul(x1, x2, out=out)
            assert y.shape == (m, n)
            if not cpu.recording:
                assert_right(y, x1, x2)

    cpu.precompiled(body)


# ---- dtypes ----------------------------------------------------------------------------------


@pytest.mark.in_turn
@pytest.mark.parametrize(
    ("dtype", "out_dtype"),
    [("int8", "int32"), ("uint8", "int64"), ("float16", "float32"), ("complex64", "complex128")],
)
def test_out_dtype(dtype, out_dtype, backend):
    generator = np.random.default_rng(31)
    x1 = make_numbers(generator, (7, 40), dtype, "wide")
    x2 = make_numbers(generator, (40, 10), dtype, "ordinary")
    with backend.context():
        y = nnk.matmul(backend.array(x1), backend.array(x2), out_dtype=out_dtype)
    assert backend.numpy(y).dtype == numpy_dtype(out_dtype)
    assert_right(backend.numpy(y), x1, x2, out_dtype=out_dtype)


@pytest.mark.in_turn
def test_integers_wrap(backend):
    def body():
        generator = np.random.default_rng(32)
        # A half on a CPU; others are in other tests there.
        thinned = settings.default.derandomize
        for dtype in INTEGERS[not backend.is_cpu :: 2] if thinned else INTEGERS:
            x1, x2 = (make_numbers(generator, (3, 3), dtype, "wide") for _ in range(2))
            with backend.context():
                y = nnk.matmul(backend.array(x1), backend.array(x2))
            if not backend.recording:
                with np.errstate(over="ignore"):
                    assert np.array_equal(backend.numpy(y), x1 @ x2), dtype

    backend.precompiled(body)


def test_python_numbers_are_no_matrices(backend):
    with backend.context(), pytest.raises(nnk.ShapeError, match="x2"):
        nnk.matmul(backend.array(np.ones((2, 2))), 2.0)


def shared(on_cpu, elsewhere):
    """For the marker ``dtypes``: some on a CPU, where kernels take long to compile, others not."""
    if not settings.default.derandomize:
        return lambda arch: (*on_cpu, *elsewhere)
    return lambda arch: on_cpu if arch == "host" else elsewhere


@pytest.mark.in_turn
@pytest.mark.dtypes(of=shared(("float16", "int8"), ("float32", "complex64")))
def test_sides_of_0_and_1(dtype, backend):
    def body():
        generator = np.random.default_rng(38)
        for m, k, n in product((0, 1, 2), repeat=3):
            x1, x2 = (make_numbers(generator, s, dtype) for s in ((m, k), (k, n)))
            with backend.context():
                y = backend.numpy(nnk.matmul(backend.array(x1), backend.array(x2)))
            assert y.shape == (m, n)
            if not backend.recording:
                assert_right(y, x1, x2)

    backend.precompiled(body)


# ---- out ---------------------------------------------------------------------------------------


def test_out_of_any_layout(backend):
    @examples(0.5)
    @given(st.data())
    def right(data):
        dtype = data.draw(st.sampled_from(("float32", "float16", "complex128", "int64")))
        x1, x2 = (data.draw(numbers(s, dtype, kinds=("ordinary",))) for s in data.draw(products()))
        like = np.asarray(MATMUL.reference(x1, x2))
        layout = data.draw(
            layouts(like.shape, like.itemsize, byte_shifts=backend.is_cpu, writable=True)
        )
        target = place(np.zeros_like(like), layout)
        out = backend.array(target.view)
        with backend.context():
            result = nnk.matmul(backend.array(x1), backend.array(x2), out=out)
        if not backend.recording:
            assert result is out
            assert_right(backend.numpy(out), x1, x2)
            assert target.is_unchanged_outside

    backend.precompiled(right)


def test_no_operand_is_copied():
    x1 = np.ones((400, 300), np.float32)[::2, ::-1]
    x2 = np.ones((200, 600), np.float32).T[::2]
    out = np.empty((200, 200), np.float32).T
    nnk.matmul(x1, x2, out=out)  # the plan and the kernel are made here
    tracemalloc.start()
    try:
        nnk.matmul(x1, x2, out=out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16_000
    assert np.all(out == 300)


# ---- determinism -------------------------------------------------------------------------------


def test_any_number_of_threads_gives_the_same_bits():
    generator = np.random.default_rng(33)
    x1 = make_numbers(generator, (3, 150, 70), "float32")
    x2 = make_numbers(generator, (70, 200), "float32")
    assert_right(same_on_any_threads(lambda: nnk.matmul(x1, x2)), x1, x2)


def test_what_is_packed_serves_one_product_only():
    # Several blocks use the same packed columns of the same matrix: not those of the next columns,
    # matrix or call.
    generator = np.random.default_rng(35)
    for _ in range(3):
        x1 = make_numbers(generator, (2, 100, 90), "float32")
        x2 = make_numbers(generator, (2, 90, 700), "float32")
        assert_right(same_on_any_threads(partial(nnk.matmul, x1, x2)), x1, x2)


def test_a_slice_of_a_batch_gives_the_same_bits(backend):
    generator = np.random.default_rng(34)
    x1 = make_numbers(generator, (4, 9, 30), "float32")
    x2 = make_numbers(generator, (4, 30, 11), "float32")
    with backend.context(1):
        whole = backend.numpy(nnk.matmul(backend.array(x1), backend.array(x2)))
        one = backend.numpy(nnk.matmul(backend.array(x1[2:3]), backend.array(x2[2:3])))
    assert_same_bits(whole[2:3], one, "one matrix of a batch")


# ---- identities ----------------------------------------------------------------------------------


@pytest.mark.in_turn
@pytest.mark.dtypes(of=shared(("float32",), ("complex64",)))
def test_the_gradient_is_the_adjoint(dtype, backend):
    # <dy, A B> = <dA, A> and = <dB, B>, with the real part of the inner product of complex ones.
    def body():
        generator = np.random.default_rng(35)
        for first, second in (((13, 21), (21, 9)), ((2, 1, 6, 7), (3, 7, 5)), ((8,), (8, 3))):
            a, b = (make_numbers(generator, s, dtype) for s in (first, second))
            dy = make_numbers(generator, np.matmul(a, b).shape, dtype)
            with backend.context(2):
                da, db = nnk.matmul_backward(*map(backend.array, (dy, a, b)))
            if backend.recording:
                continue
            da, db = backend.numpy((da, db))
            assert (da.shape, db.shape) == (a.shape, b.shape)
            value = inner(dy, np.matmul(wide(a), wide(b)))
            size = float(np.sum(np.abs(dy)) * 50)
            assert abs(inner(da, a) - value) <= 1e-6 * size
            assert abs(inner(db, b) - value) <= 1e-6 * size
            for got, wanted in zip((da, db), BACKWARD.reference(dy, a, b), strict=True):
                assert_close(got, wanted, 150, scale=100.0)

    backend.precompiled(body)


def inner(a, b):
    return float(np.sum(np.conj(wide(a)) * wide(b)).real)


@pytest.mark.in_turn
def test_products_are_linear_and_transpose(backend):
    generator = np.random.default_rng(36)
    # Whole numbers: every sum is exact, whatever its order.
    a = generator.integers(-9, 9, (11, 23)).astype(np.float32)
    b, c = (generator.integers(-9, 9, (23, 6)).astype(np.float32) for _ in range(2))
    with backend.context(3):
        matmul = lambda x, y: backend.numpy(nnk.matmul(backend.array(x), backend.array(y)))  # noqa: E731
        assert np.array_equal(matmul(a, b) + 3 * matmul(a, c), matmul(a, b + 3 * c))
        assert np.array_equal(matmul(a, b).T, matmul(b.T, a.T))
        assert np.array_equal(matmul(a, np.eye(23, dtype=np.float32)), a)


# ---- any block, any tile -------------------------------------------------------------------------

# tile_m, tile_n, tile_k, micro_m, micro_n, teams; vector_a, vector_b.
TILES = [
    ((8, 8, 4, 8, 8, 1), (1, 1)),  # one thread
    ((21, 12, 3, 3, 12, 1), (1, 1)),  # seven
    ((16, 20, 5, 1, 5, 1), (1, 4)),  # 64, of which no warp is a rectangle
    ((40, 13, 16, 8, 1, 3), (4, 1)),  # 195: several matrices, some of which are not there
    ((64, 64, 16, 4, 4, 1), (2, 1)),
    ((6, 40, 8, 2, 8, 5), (1, 8)),
]


def test_any_block_and_tile_gives_the_right_answer(simulator, monkeypatch):
    original = matmul_simt.configure  # also where matrix cores would do it

    def body():
        generator = np.random.default_rng(37)
        for i, (tile, vectors) in enumerate(TILES):

            def configure(problem, device, tile=tile, vectors=vectors):
                names = ("tile_m", "tile_n", "tile_k", "micro_m", "micro_n", "teams")
                forced = dict(zip(names, tile, strict=True))
                loads = dict(zip(("vector_a", "vector_b"), vectors, strict=True))
                return replace(original(problem, device), unit_c=False, **forced, **loads)

            monkeypatch.setattr(config, "configure", configure)
            simulator.machine.plans.clear()
            order = ((0, 1, 2), (0, 2, 1))[i % 2]
            # What is loaded at once divides the extent along which it lies.
            shapes = ((2, 40, 24), (2, 24, 24)) if vectors != (1, 1) else ((37, 19), (19, 21))
            x1 = make_numbers(generator, shapes[0], "float32")
            x1 = place(
                x1,
                lay_out(
                    shapes[0],
                    4,
                    tuple(axis - 3 + x1.ndim for axis in order if axis >= 3 - x1.ndim),
                    (1,) * x1.ndim,
                ),
            ).view
            x2 = make_numbers(generator, shapes[1], "float32")
            x2 = place(x2, dense(shapes[1], 4)).view
            with simulator.context(i):
                y = nnk.matmul(x1, x2)
            if not simulator.recording:
                assert_right(y, x1, x2)

    simulator.precompiled(body)
    simulator.machine.plans.clear()


def test_every_dtype_of_the_record_is_tested():
    assert {name for pair in PAIRS for name in pair} | set(INTEGERS) >= set(MATMUL.dtypes)
    assert set(FLOATING) <= set(BACKWARD.dtypes)
