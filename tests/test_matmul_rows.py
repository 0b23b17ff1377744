"""Products of few rows by a large matrix on a CPU, which is read where it lies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from comparing import assert_close, assert_same_bits, wide
from comparing import assert_product as assert_right
from hypothesis import given
from hypothesis import strategies as st
from layouts import place
from strategies import examples, layouts, make_numbers, numbers
from threads import same_on_any_threads

import nnkernels as nnk
from nnkernels.config import matmul, matmul_rows
from nnkernels.config.device import Device
from nnkernels.config.matmul_packed import PackedConfig
from nnkernels.config.matmul_problem import MatmulProblem
from nnkernels.config.matmul_rows import RowsConfig
from nnkernels.dispatch.dtypes import numpy_dtype

CPU = Device("cpu", "host", 1, 2, 512 * 1024, 64, 8 << 20)
TYPES = ("float32", "float64", "float16", "int32")
SIDES = (1, 2, 5, 12, 13, 24, 31, 64, 200)


@pytest.fixture
def any_size(cpu, monkeypatch, chosen):
    """Products of any size by this kernel, if B has adjacent columns; which were chosen."""
    monkeypatch.setattr(matmul_rows, "_LEAST_BYTES", 0)
    monkeypatch.setattr(matmul_rows, "_LEAST_COLUMNS", 1)
    monkeypatch.setattr(matmul.matmul_small, "is_small", lambda problem: False)
    monkeypatch.setattr(matmul.matmul_tiles, "is_possible", lambda problem, device: False)
    yield chosen
    cpu.machine.plans.clear()


@pytest.mark.parametrize("dtype", TYPES)
def test_any_layout(dtype, cpu, any_size):
    size = numpy_dtype(dtype).itemsize

    @st.composite
    def cases(draw):
        m, k, n = (
            draw(st.integers(2, 24)),
            draw(st.sampled_from(SIDES)),
            draw(st.sampled_from(SIDES)),
        )
        a = draw(layouts((m, k), size, byte_shifts=True))
        out = draw(layouts((m, n), size, byte_shifts=True, writable=True))
        x1 = place(draw(numbers((m, k), dtype, kinds=("ordinary",))), a)
        x2 = draw(numbers((k, n), dtype, kinds=("ordinary",)))
        wider = np.zeros((k, n + draw(st.integers(0, 3))), x2.dtype)[:, :n]
        wider[...] = x2
        return x1, wider, place(np.zeros((m, n), x2.dtype), out)

    @examples(0.7)
    @given(cases())
    def right(case):
        x1, x2, out = case
        nnk.matmul(x1.view, x2, out=out.view)
        if not cpu.recording:
            assert x1.is_unchanged
            assert out.is_unchanged_outside
            assert_right(out.view, x1.view, x2)

    cpu.precompiled(right)
    assert any(isinstance(c, RowsConfig) for c in any_size)
    assert {c.unit_a for c in any_size if isinstance(c, RowsConfig)} == {True, False}


def test_epilogue_and_other_types(cpu, any_size):
    generator = np.random.default_rng(3)
    for dtype, out_dtype in (("float32", None), ("bfloat16", "float32"), ("float16", None)):
        a, b, c = (make_numbers(generator, s, dtype) for s in ((7, 500), (500, 90), (90,)))
        result = nnk.gemm(a, b, c, alpha=0.5, beta=-2, epilogue="relu", out_dtype=out_dtype)
        wanted = np.maximum(0.5 * (wide(a) @ wide(b)) - 2 * wide(c), 0).astype(result.dtype)
        assert_close(result, wanted, 500, 0.5 * (np.abs(wide(a)) @ np.abs(wide(b))) + 20)
    assert nnk.matmul(np.zeros((3, 0), "f4"), np.zeros((0, 9), "f4")).tolist() == [[0.0] * 9] * 3
    out = np.full((7, 90), np.nan, np.float32)
    c = np.ones((7, 90), np.float32)
    a, b = np.ones((7, 30), np.float32), np.ones((30, 90), np.float32)
    nnk.gemm(a, b, c, out=c)
    nnk.gemm(a, b, out=out)
    assert (c == 31).all()
    assert (out == 30).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_ones_are_chosen_and_any_number_of_threads_gives_the_same_bits(dtype, cpu, kernels):
    generator = np.random.default_rng(4)
    x1, x2 = (
        make_numbers(generator, (16, 1100), dtype),
        make_numbers(generator, (1100, 1003), dtype),
    )
    found = same_on_any_threads(lambda: nnk.matmul(x1, x2))
    assert_right(found, x1, x2)
    gaps = np.repeat(x1, 2, axis=1)[:, ::2]
    assert_same_bits(found, nnk.matmul(gaps, x2), "A with gaps")
    assert_same_bits(found, nnk.matmul(x1, np.pad(x2, ((0, 0), (0, 5)))[:, :-5]), "B with gaps")
    assert set(kernels) == {"MatmulRows"}


BASE = MatmulProblem(16, 4096, 4096, (16384, 4), (16384, 4), (4, 4, 4), 4, False, 10**6)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"tile_n": 2048, "terms": 12, "vector": 32, "unit_a": True}),
        ({"m": 24}, {"tile_m": 24, "tile_n": 1344}),
        ({"n": 300}, {"tile_n": 160}),
        ({"strides_a": (4, 64)}, {"unit_a": False}),
        ({"compute_itemsize": 8, "itemsizes": (8, 8, 8), "strides_b": (32768, 8)}, {"vector": 16}),
        ({"m": 25}, None),
        ({"n": 255, "k": 2**20}, None),
        ({"k": 200}, None),
        ({"strides_b": (4, 16384)}, None),
        ({"is_complex": True, "compute_itemsize": 8}, None),
        ({"dot": "int8", "itemsizes": (1, 1, 4), "strides_b": (4096, 1), "k": 4096}, None),
    ],
    ids=str,
)
def test_which_products(changes, expected):
    c = matmul.configure(
        replace(BASE, **changes), replace(CPU, features=frozenset({"avx512_vnni"}))
    )
    if expected is None:
        assert not isinstance(c, RowsConfig)
        return
    assert isinstance(c, RowsConfig)
    assert {name: getattr(c, name) for name in expected} == expected
    assert c.tile_k % c.terms == c.tile_k % c.vector == c.tile_n % c.vector == 0
    assert c.shared_elements(4096) * BASE.compute_itemsize <= 256 * 1024


def test_few_registers():
    narrow = matmul.configure(BASE, replace(CPU, vector_bytes=32))
    assert (narrow.terms, narrow.vector) == (4, 16)
    # Two columns of every row of B, the sums, and an element of A.
    for vector_bytes, registers in ((64, 32), (32, 16)):
        c = matmul.configure(BASE, replace(CPU, vector_bytes=vector_bytes))
        assert 2 * c.terms + 3 <= registers
    assert isinstance(matmul.configure(replace(BASE, m=30), CPU), PackedConfig)
