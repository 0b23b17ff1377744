"""Small matrix products on a CPU: many at once, each read where it lies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from comparing import assert_close, assert_same_bits, wide
from comparing import assert_product as assert_right
from hypothesis import given
from hypothesis import strategies as st
from layouts import dense, lay_out, place
from strategies import examples, layouts, make_numbers, numbers
from threads import same_on_any_threads

import nnkernels as nnk
from nnkernels.config import matmul, matmul_small
from nnkernels.config.device import Device
from nnkernels.config.matmul_problem import COLUMNS_FAST, ROWS_FAST, MatmulProblem
from nnkernels.config.matmul_small import SmallConfig
from nnkernels.dispatch.dtypes import numpy_dtype

DTYPES = ("float32", "float64", "int32")
# Below, at and above a register, two of them, and a micro-tile.
SIDES = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 65)
CPU = Device("cpu", "host", 1, 2, 512 * 1024, 64, 8 << 20)


@pytest.fixture
def packed(monkeypatch):
    """A function that makes any product with the kernel of larger ones."""

    def multiply(cpu, *arrays, **options):
        with monkeypatch.context() as patch:
            patch.setattr(matmul_small, "is_small", lambda problem: False)
            cpu.machine.plans.clear()
            result = nnk.matmul(*arrays, **options)
            cpu.machine.plans.clear()
        return result

    return multiply


# ---- any layout ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_layout_gives_the_bits_of_the_packed_product(dtype, cpu, kernels, packed):
    @st.composite
    def cases(draw):
        m, n, k = (draw(st.sampled_from(SIDES)) for _ in range(3))
        batch = draw(st.sampled_from([(), (3,), (2, 2), (1, 20)]))
        placed = []
        for shape in ((*batch, m, k), (*batch, k, n)):
            layout = draw(layouts(shape, numpy_dtype(dtype).itemsize, byte_shifts=True))
            placed.append(place(draw(numbers(shape, dtype, kinds=("ordinary",))), layout))
        return placed

    @examples(0.5)
    @given(cases())
    def right(placed):
        x1, x2 = (p.view for p in placed)
        y = nnk.matmul(x1, x2)
        other = packed(cpu, x1, x2)
        if not cpu.recording:
            assert all(p.is_unchanged for p in placed)
            assert_right(y, x1, x2)
            assert_same_bits(y, other, "small and packed product")

    cpu.precompiled(right)
    assert {"MatmulSmall", "MatmulPacked"} <= set(kernels)


def test_out_of_any_layout(cpu, kernels):
    generator = np.random.default_rng(1)

    def body():
        for m, k, n in ((33, 20, 37), (5, 3, 2), (16, 16, 16)):
            x1, x2 = (make_numbers(generator, s, "float32") for s in ((3, m, k), (3, k, n)))
            for order, steps, shift in (
                ((0, 1, 2), (1, 1, 1), 1),
                ((0, 1, 2), (2, -1, 1), 0),
                ((1, 0, 2), (1, 1, 2), 4),
                ((2, 1, 0), (1, 1, -1), 0),
            ):
                target = place(
                    np.zeros((3, m, n), "f4"), lay_out((3, m, n), 4, order, steps, shift)
                )
                nnk.matmul(x1, x2, out=target.view)
                if not cpu.recording:
                    assert_right(target.view, x1, x2)
                    assert target.is_unchanged_outside

    cpu.precompiled(body)
    assert set(kernels) == {"MatmulSmall"}


def test_epilogues(cpu, kernels):
    generator = np.random.default_rng(2)

    def body():
        for shape in ((4, 9, 20, 33), (2, 16, 5, 3)):
            batch, m, k, n = shape
            a, b, c = (
                make_numbers(generator, (batch, *s), "float32") for s in ((m, k), (k, n), (m, n))
            )
            wanted = np.maximum(2 * np.matmul(wide(a), wide(b)) - 3 * wide(c), 0).astype("f4")
            y = nnk.gemm(a, b, c, alpha=2, beta=-3, epilogue="relu")
            by_columns = np.zeros((batch, n, m), "f4").swapaxes(1, 2)
            nnk.gemm(a, b, c, alpha=2, beta=-3, epilogue="relu", out=by_columns)
            in_place = c.copy()
            nnk.gemm(a, b, in_place, alpha=2, beta=-3, epilogue="relu", out=in_place)
            if not cpu.recording:
                for got in (y, by_columns, in_place):
                    assert_close(got, wanted, k, 100.0)

    cpu.precompiled(body)
    assert set(kernels) == {"MatmulSmall"}


def test_infinities_and_nan_stay_in_their_rows_and_columns(cpu):
    generator = np.random.default_rng(3)
    for dtype in ("float32", "float64"):
        x1 = make_numbers(generator, (2, 13, 21), dtype)
        x2 = make_numbers(generator, (2, 21, 35), dtype)
        x1[1, 12, 20], x1[0, 3, 0], x2[1, 20, 34] = np.inf, np.nan, -np.inf
        for right in (x2, np.ascontiguousarray(x2.swapaxes(1, 2)).swapaxes(1, 2)):
            y = nnk.matmul(x1, right)
            bad = np.zeros(y.shape, bool)
            bad[1, 12], bad[0, 3], bad[1, :, 34] = True, True, True
            assert np.array_equal(~np.isfinite(y), bad)


# ---- what must not change a result -------------------------------------------------------------


def test_threads_slices_and_copies_give_the_same_bits(kernels):
    generator = np.random.default_rng(4)
    x1 = make_numbers(generator, (70, 30, 33), "float32")
    x2 = make_numbers(generator, (70, 33, 40), "float32")
    found = same_on_any_threads(lambda: nnk.matmul(x1, x2))
    assert_right(found, x1, x2)
    assert_same_bits(found[7:30:3], nnk.matmul(x1[7:30:3], x2[7:30:3]), "some of the matrices")
    turned = (np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2) for x in (x1, x2))
    assert_same_bits(found, nnk.matmul(*turned), "operands by columns")
    backwards = (np.ascontiguousarray(x[::-1, ::-1, ::-1])[::-1, ::-1, ::-1] for x in (x1, x2))
    assert_same_bits(found, nnk.matmul(*backwards), "operands backwards")
    assert set(kernels) == {"MatmulSmall"}


def test_past_the_caches(cpu, monkeypatch):
    """Results are those that go through them, wherever cache lines and rows begin."""
    chosen = []
    original = matmul.configure
    generator = np.random.default_rng(5)
    cases = []
    for dtype in ("float32", "float64"):
        for m, n in ((16, 32), (9, 40), (8, 16), (21, 3)):
            x1, x2 = (make_numbers(generator, s, dtype) for s in ((6, m, 12), (6, 12, n)))
            cases.append((x1, x2, nnk.matmul(x1, x2)))

    def configure(problem, device):
        chosen.append(original(problem, replace(device, cache_bytes=512)))
        return chosen[-1]

    monkeypatch.setattr(matmul, "configure", configure)
    monkeypatch.setattr(matmul_small, "_STAGED_BYTES", 1024)

    def body():
        for x1, x2, wanted in cases:
            for layout in past_the_caches(wanted):
                out = place(np.zeros_like(wanted), layout)
                nnk.matmul(x1, x2, out=out.view)
                if not cpu.recording:
                    assert_same_bits(out.view, wanted, "through the caches and past them")
                    assert out.is_unchanged_outside

    cpu.machine.plans.clear()
    cpu.precompiled(body)
    cpu.machine.plans.clear()
    assert all(isinstance(c, SmallConfig) and c.streaming for c in chosen)
    assert {True, False} == {c.staged_rows < c.tile_m for c in chosen}


def past_the_caches(y):
    """Layouts of results: dense from several bytes of a line on, rows apart, and upside down."""
    for shift in (0, y.itemsize, 16, 1):
        yield dense(y.shape, y.itemsize, shift)
    for step in (2, -1):
        yield lay_out(y.shape, y.itemsize, (0, 1, 2), (1, step, 1), 16)


def test_an_epilogue_past_the_caches(cpu, monkeypatch):
    original = matmul.configure
    monkeypatch.setattr(
        matmul, "configure", lambda p, device: original(p, replace(device, cache_bytes=512))
    )
    monkeypatch.setattr(matmul_small, "_STAGED_BYTES", 1024)
    generator = np.random.default_rng(6)
    a, b, c = (make_numbers(generator, (3, *s), "float32") for s in ((29, 16), (16, 33), (29, 33)))
    wanted = np.maximum(2 * np.matmul(wide(a), wide(b)) - 3 * wide(c), 0).astype("f4")
    cpu.machine.plans.clear()
    assert_close(nnk.gemm(a, b, c, alpha=2, beta=-3, epilogue="relu"), wanted, 16, 100.0)
    in_place = c.copy()
    nnk.gemm(a, b, in_place, alpha=2, beta=-3, epilogue="relu", out=in_place)
    cpu.machine.plans.clear()
    assert_close(in_place, wanted, 16, 100.0)


# ---- which kernel, and how ----------------------------------------------------------------------

SMALL = MatmulProblem(
    32, 32, 32, (128, 4), (128, 4), (4, 4, 4), 4, False, 10**6, batches=9, strides_c=(128, 4)
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"micro_m": 8, "vector": 32, "pack_b": False, "ahead": 2, "streaming": False}),
        ({"n": 16}, {"vector": 16}),
        ({"n": 17}, {"vector": 32}),
        ({"compute_itemsize": 8, "itemsizes": (8, 8, 8), "strides_b": (256, 8)}, {"vector": 16}),
        ({"m": 8, "n": 8, "k": 8}, {"ahead": 32}),
        ({"batches": 1}, {"ahead": 0}),
        ({"batches": 683}, {"streaming": True, "staged_rows": 32, "staged_elements": 1024}),
        ({"batches": 682}, {"streaming": False, "staged_rows": 0, "staged_elements": 0}),
        ({"batches": 683, "strides_c": (128, 8)}, {"streaming": False, "staged_elements": 0}),
        ({"batches": 999, "m": 100, "n": 64}, {"staged_rows": 64, "staged_elements": 4096}),
        ({"batches": 999, "m": 20, "n": 8192, "k": 1}, {"staged_rows": 8}),
        (
            {"batches": 999, "itemsizes": (4, 4, 2), "strides_c": (64, 2)},
            {"streaming": True, "staged_elements": 512},
        ),
        ({"strides_b": (4, 128)}, {"pack_b": True, "fast_b": ROWS_FAST, "unit_b": True}),
        ({"strides_b": (4, 256)}, {"pack_b": True, "fast_b": ROWS_FAST, "unit_b": True}),
        ({"strides_b": (256, 8)}, {"pack_b": True, "fast_b": COLUMNS_FAST, "unit_b": False}),
        ({"strides_b": (128, -4)}, {"pack_b": True, "unit_b": False}),
        ({"strides_b": (0, 4)}, {"pack_b": True, "fast_b": ROWS_FAST, "unit_b": False}),
        ({"reach": 2**31}, {"index": "q"}),
    ],
    ids=str,
)
def test_small_product(changes, expected):
    found = matmul.configure(replace(SMALL, **changes), CPU)
    assert isinstance(found, SmallConfig)
    assert {name: getattr(found, name) for name in expected} == expected
    packed_b = 32 * (found.tile_n + found.vector) if found.pack_b else 0
    most = packed_b + 8 * found.vector + found.staged_elements
    assert found.shared_elements(32) <= most


@pytest.mark.parametrize(
    "changes",
    [
        {"m": 129},
        {"n": 257},
        {"k": 129},
        {"k": 0},
        {"is_complex": True, "itemsizes": (8, 8, 8), "compute_itemsize": 8},
        {"itemsizes": (2, 2, 2)},
        {"itemsizes": (4, 2, 4)},
    ],
    ids=str,
)
def test_other_products_are_packed(changes):
    found = matmul.configure(replace(SMALL, **changes), CPU)
    assert not isinstance(found, SmallConfig)


@pytest.mark.parametrize("vector_bytes", [16, 32, 64])
def test_a_micro_tile_fits_the_registers(vector_bytes):
    found = matmul.configure(SMALL, replace(CPU, vector_bytes=vector_bytes))
    registers = 32 if vector_bytes == 64 else 16
    assert 2 * found.micro_m + 3 <= registers
