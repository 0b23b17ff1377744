"""Products with a vector: one reading of the matrix, in whichever order it lies."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from comparing import assert_close, assert_same_bits
from comparing import assert_product as assert_right
from hypothesis import given
from hypothesis import strategies as st
from layouts import lay_out, place
from strategies import examples, layouts, make_numbers, numbers
from threads import same_on_any_threads

import nnkernels as nnk
from nnkernels.config import gemv as config
from nnkernels.config.device import PROFILES
from nnkernels.dispatch.dtypes import numpy_dtype

PAIRS = (
    ("float32", "float32"),
    ("float64", "float64"),
    ("float16", "float16"),
    ("bfloat16", "float32"),
    ("complex64", "complex64"),
    ("complex128", "float64"),
    ("int8", "int8"),
    ("uint16", "int32"),
    ("int64", "int64"),
)
# Below, at and above a vector, a warp's vectors and a block's.
SIDES = (0, 1, 2, 3, 7, 8, 31, 33, 129, 300)


# ---- any layout ----------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [PAIRS[:4], PAIRS[4:]], ids=["real", "others"])
def test_any_layout(pairs, backend):
    @st.composite
    def cases(draw):
        m, k = draw(st.sampled_from(SIDES)), draw(st.sampled_from(SIDES))
        matrix, vector = (m, k), (k,)
        kind = draw(st.sampled_from(["vector", "column", "row", "stack"]))
        if kind == "column":
            vector = (k, 1)
        if kind == "stack":
            matrix, vector = (2, m, k), (2, k, 1)
        shapes = (matrix, vector) if kind != "row" else ((1, k), (k, m))
        placed = []
        for shape, dtype in zip(shapes, draw(st.sampled_from(pairs)), strict=True):
            layout = draw(layouts(shape, numpy_dtype(dtype).itemsize, byte_shifts=backend.is_cpu))
            placed.append(place(draw(numbers(shape, dtype, kinds=("ordinary",))), layout))
        return placed, draw(st.integers(0, 99))

    @examples(0.7)
    @given(cases())
    def right(case):
        placed, seed = case
        x1, x2 = (p.view for p in placed)
        with backend.context(seed):
            y = nnk.matmul(backend.array(x1), backend.array(x2))
        if not backend.recording:
            assert all(p.is_unchanged for p in placed)
            assert_right(backend.numpy(y), x1, x2)

    backend.precompiled(right)


# ---- which kernel ----------------------------------------------------------------------------


@pytest.mark.in_turn
def test_the_memory_order_of_the_matrix_decides(backend, kernels):
    generator = np.random.default_rng(60)
    rows = make_numbers(generator, (300, 200), "float32")
    x, z = (make_numbers(generator, (n,), "float32") for n in (200, 300))
    columns = np.asfortranarray(rows)
    calls = [
        (rows, x, "GemvAlong"),
        (columns, x, "GemvAcross"),
        (z, rows, "GemvAcross"),
        (z, columns, "GemvAlong"),
        (rows, x[:, None], "GemvAlong"),
        (z[None, :], rows, "GemvAcross"),
        (z, z, "GemvAlong"),
    ]
    for x1, x2, kernel in calls:
        backend.machine.plans.clear()
        kernels.clear()
        with backend.context():
            y = nnk.matmul(backend.array(x1), backend.array(x2))
        assert kernels == [kernel]
        assert_right(backend.numpy(y), x1, x2)


def test_vectors_that_share_a_matrix_are_a_product_of_matrices(kernels):
    matrix, vectors = np.ones((170, 80), "f4"), np.ones((5, 80), "f4")
    assert np.all(nnk.gemv(matrix, vectors) == 80)
    assert kernels == ["MatmulPacked"]


# What a test may ask of one kernel: the columns of a block, and how its threads share them.
FORCED = [
    {"columns": 8, "vector": 2, "threads": 64, "team": 32, "depth": 4},
    {"columns": 3, "vector": 4, "threads": 32, "team": 32, "depth": 3},
    {"columns": 2, "vector": 1, "threads": 96, "team": 96, "depth": 2},
    {"columns": 16, "vector": 1, "threads": 48, "team": 16, "depth": 3},
    {"columns": 32, "vector": 4, "threads": 8, "team": 8, "depth": 5},
]


@pytest.mark.in_turn(by="warp")
@pytest.mark.parametrize("order", "CF")
def test_any_block_gives_the_right_answer(order, simulator, monkeypatch):
    original = config.configure
    warp = simulator.device.warp

    def body():
        generator = np.random.default_rng(61)
        for i, forced in enumerate(FORCED):
            along = order == "C"
            # Along memory, a team is a warp or the block; across it, as many as are side by side.
            fits = forced["team"] in (warp, forced["threads"])
            if along and not (fits and forced["threads"] % forced["team"] == 0):
                continue
            if not along and forced["columns"] > forced["team"] * forced["vector"]:
                continue

            def configure(problem, device, forced=forced):
                return replace(original(problem, device), unit_x=False, unit_b=False, **forced)

            monkeypatch.setattr(config, "configure", configure)
            simulator.machine.plans.clear()
            a = np.asarray(make_numbers(generator, (37, 101), "float32"), order=order)
            x = make_numbers(generator, (101,), "float32")
            with simulator.context(i):
                y = nnk.matmul(a, x)
            if not simulator.recording:
                assert_right(y, a, x)

    simulator.precompiled(body)
    simulator.machine.plans.clear()


# ---- what must not change a result -------------------------------------------------------------


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_any_number_of_threads_gives_the_same_bits(order, dtype):
    generator = np.random.default_rng(62)
    a = np.asarray(make_numbers(generator, (1500, 700), dtype), order=order)
    x = make_numbers(generator, (700,), dtype)
    found = same_on_any_threads(lambda: nnk.matmul(a, x))
    assert_right(found, a, x)
    # Nor does it matter which rows are asked for, or where they lie.
    assert_same_bits(found[30:999], nnk.matmul(a[30:999], x), "some of the rows")
    shifted = np.empty(a.size + 1, a.dtype)[1:].reshape(a.shape, order=order)
    shifted[...] = a
    assert_same_bits(found, nnk.matmul(shifted, x), "another place in memory")


@pytest.mark.in_turn
def test_infinities_and_nan_stay_in_their_sums(backend):
    generator = np.random.default_rng(63)
    for order in "CF":
        a = np.asarray(make_numbers(generator, (35, 37), "float32"), order=order)
        x = make_numbers(generator, (37,), "float32")
        a[3, 36], a[7, 0], a[34, 5] = np.inf, np.nan, -np.inf
        x[0] = x[36] = 0.0
        with backend.context():
            y = backend.numpy(nnk.matmul(backend.array(a), backend.array(x)))
        with np.errstate(invalid="ignore"):
            wanted = (a.astype(np.float64) @ x.astype(np.float64)).astype(np.float32)
        assert np.isfinite(wanted).sum() == 32
        assert np.isnan(wanted[[3, 7]]).all()  # infinity times zero is NaN
        assert_close(y, wanted, 37, scale=50.0)


@pytest.mark.in_turn
def test_empty_sums_and_no_sums(backend):
    with backend.context():
        for a, x, shape in (((3, 0), (0,), (3,)), ((0, 3), (3,), (0,)), ((0,), (0,), ())):
            y = nnk.matmul(backend.array(np.ones(a, "f4")), backend.array(np.ones(x, "f4")))
            assert y.shape == shape
            assert np.all(backend.numpy(y) == 0)


def test_nothing_is_copied():
    a, x = np.ones((600, 500), np.float32), np.ones(500, np.float32)
    for matrix in (a, np.asfortranarray(a), np.ones((1200, 1000), "f4")[::-2, ::2]):
        nnk.matmul(matrix, x)
        tracemalloc.start()
        try:
            nnk.matmul(matrix, x)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 10_000


def test_complex_numbers_at_odd_addresses():
    # Where an aligned load of 16 bytes would be a fault.
    generator = np.random.default_rng(64)
    for shift in (1, 8):
        x = place(
            make_numbers(generator, (40,), "complex128"), lay_out((40,), 16, (0,), (1,), shift)
        )
        a = make_numbers(generator, (40, 30), "complex128")
        for matrix in (a, np.asfortranarray(a)):
            assert_right(nnk.matmul(x.view, matrix), x.view, matrix)


def test_long_sums_of_few_columns_are_split(kernels):
    generator = np.random.default_rng(65)
    x = make_numbers(generator, (140_000,), "float32")
    for n, order in ((1, "F"), (3, "F"), (5, "C"), (20, "C")):
        b = np.asarray(make_numbers(generator, (140_000, n), "float32"), order=order)
        kernels.clear()
        assert_right(same_on_any_threads(lambda b=b: nnk.matmul(x, b)), x, b)
        first = "GemvAlong" if order == "F" else "GemvAcross"
        assert kernels == [first, "MatmulSplits"] * 4


# ---- GPUs: blocks in flight ------------------------------------------------------------------


# Shape of A and its order, dtype, processors of the device; what is to be chosen.
REGIMES = (
    ((3, 20_000), "C", "float32", 40, {"along": True, "team": 256, "split": True, "unit_b": True}),
    ((40_000, 3), "F", "float16", 40, {"along": True, "team": 256, "split": True, "unit_b": True}),
    ((40, 3000), "C", "float32", 8, {"along": True, "team": 256, "split": False, "depth": 1}),
    ((60, 50), "C", "float32", 1, {"along": True, "depth": 1, "split": False}),
    ((300, 50), "C", "bfloat16", 1, {"along": True, "depth": 4, "split": False}),
    ((33, 5000), "F", "float32", 40, {"along": False, "split": True, "unit_b": False}),
    ((36, 5000), "F", "float32", 40, {"along": False, "split": True, "unit_b": True}),
    ((36, 5000), "F", "complex64", 40, {"along": False, "split": True, "unit_b": True}),
    ((1000, 60), "F", "float32", 1, {"along": False, "split": False, "unit_b": True}),
    ((20, 60), "F", "float64", 1, {"along": False, "split": False, "unit_b": True}),
)


@pytest.mark.in_turn(by="warp")
def test_each_regime_runs(simulator, chosen, kernels, monkeypatch):
    machine = simulator.machine

    def body():
        generator = np.random.default_rng(64)
        for number, (shape, order, dtype, processors, expected) in enumerate(REGIMES):
            monkeypatch.setattr(machine, "device", replace(machine.device, processors=processors))
            machine.plans.clear()
            a = np.asarray(make_numbers(generator, shape, dtype), order=order)
            across = shape[0] > 10_000  # the product from the left
            x = make_numbers(generator, (shape[0] if across else shape[1],), dtype)
            chosen.clear()
            kernels.clear()
            with simulator.context(number):
                y = nnk.matmul(x, a) if across else nnk.matmul(a, x)
            (found,) = chosen
            assert (found.splits > 1) == expected["split"], (shape, found)
            for name in expected.keys() - {"split"}:
                assert getattr(found, name) == expected[name], (shape, name, found)
            assert kernels[0] == ("GemvAlong" if expected["along"] else "GemvAcross")
            assert kernels[1:] == (["MatmulSplits"] if expected["split"] else [])
            if not simulator.recording:
                assert_right(y, *((x, a) if across else (a, x)))

    simulator.precompiled(body)
    machine.plans.clear()


@pytest.mark.parametrize("order", "CF")
def test_no_processor_is_idle(order):
    """Four blocks of each, or as many as there are terms to read for."""
    for device in PROFILES.values():
        for n, k in ((1, 10**6), (16, 10**6), (100, 10**5), (4096, 4096), (10**5, 100), (50, 9000)):
            strides = (4, 4 * k) if order == "C" else (4 * n, 4)
            problem = config.GemvProblem(n, k, 4, strides, (4, 4, 4), 4, False, (16, 16), "i")
            c = config.configure(problem, device)
            blocks = -(-n // c.columns) * c.splits
            assert blocks >= 2 * device.processors or k < 2 * c.splits * 8 * c.terms_at_once, c
            assert blocks <= 4 * device.processors or c.splits == 1
