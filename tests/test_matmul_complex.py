"""Complex matrix products on a CPU, made in real arithmetic."""

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
from nnkernels.config import matmul
from nnkernels.config.device import Device
from nnkernels.config.matmul_complex import ComplexConfig
from nnkernels.config.matmul_problem import MatmulProblem
from nnkernels.dispatch import matmul as dispatch
from nnkernels.dispatch.dtypes import numpy_dtype

SIDES = (1, 2, 3, 5, 6, 7, 13, 16, 17, 33, 47)
CPU = Device("cpu", "host", 1, 2, 512 * 1024, 64, 8 << 20)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_any_layout_and_conjugates(dtype, cpu, chosen):
    @st.composite
    def cases(draw):
        m, n, k = (draw(st.sampled_from(SIDES)) for _ in range(3))
        placed = []
        for shape in ((m, k), (k, n), (m, n)):
            size = numpy_dtype(dtype).itemsize
            layout = draw(layouts(shape, size, byte_shifts=True, writable=len(placed) == 2))
            placed.append(place(draw(numbers(shape, dtype, kinds=("ordinary",))), layout))
        return placed, (draw(st.booleans()), draw(st.booleans()))

    @examples(0.7)
    @given(cases())
    def right(case):
        (x1, x2, out), conjugate = case
        dispatch.apply(x1.view, x2.view, None, conjugate, out.view)
        if not cpu.recording:
            assert x1.is_unchanged
            assert x2.is_unchanged
            assert out.is_unchanged_outside
            one, two = (np.conj if c else np.positive for c in conjugate)
            assert_right(out.view, one(x1.view), two(x2.view))

    cpu.precompiled(right)
    products = [c for c in chosen if isinstance(c, ComplexConfig)]
    assert {c.read_a for c in products} == {c.unit_b for c in products} == {True, False}


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_slices_threads_and_copies(dtype, cpu, chosen):
    generator = np.random.default_rng(1)
    x1 = make_numbers(generator, (70, 300), dtype)
    x2 = make_numbers(generator, (300, 190), dtype)
    found = same_on_any_threads(lambda: nnk.matmul(x1, x2))
    assert_right(found, x1, x2)
    views = (np.repeat(x, 2, axis=1)[:, ::2] for x in (x1, x2))
    assert_same_bits(found, nnk.matmul(*views), "views with gaps")
    assert_same_bits(found[10:15], nnk.matmul(x1[10:15], x2), "some of the rows")
    # Where C has gaps, sums wait in scratch memory.
    out = np.zeros((70, 380), dtype)[:, ::2]
    nnk.matmul(x1, x2, out=out)
    assert_same_bits(found, np.ascontiguousarray(out), "a result with gaps")
    assert all(isinstance(c, ComplexConfig) for c in chosen)
    assert [c.in_place for c in chosen][-1] is False
    assert chosen[0].in_place


def test_epilogue_of_several_slices(cpu):
    generator = np.random.default_rng(2)
    a, b, c = (make_numbers(generator, s, "complex64") for s in ((9, 600), (600, 21), (9, 21)))
    wanted = ((2 - 1j) * (wide(a) @ wide(b)) + 3j * wide(c)).astype("c8")
    assert_close(nnk.gemm(a, b, c, alpha=2 - 1j, beta=3j), wanted, 600, 5000.0)
    out = c.copy()
    nnk.gemm(a, b, out, alpha=2 - 1j, beta=3j, out=out)
    assert_close(out, wanted, 600, 5000.0)


# ---- which kernel, and how ----------------------------------------------------------------------

COMPLEX = MatmulProblem(
    *(500, 500, 500, (4000, 8), (4000, 8), (8, 8, 8), 8, True, 10**6), strides_c=(4000, 8)
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"micro_m": 6, "vector": 64, "tile_k": 256, "tile_n": 256, "read_a": True}),
        ({}, {"unit_b": True, "in_place": True, "tile_m": 504}),
        ({"strides_a": (8, 4000)}, {"read_a": False, "unit_b": True}),
        ({"strides_b": (8, 4000)}, {"read_a": True, "unit_b": False}),
        ({"itemsizes": (4, 8, 8), "strides_a": (2000, 4)}, {"read_a": False}),
        ({"strides_c": (8000, 16)}, {"in_place": False, "tile_m": 252, "tile_n": 128}),
        ({"in_place": False}, {"in_place": False}),
        ({"n": 16}, {"vector": 32, "micro_m": 12}),
        ({"n": 2}, {"vector": 16, "micro_m": 12}),
        ({"reach": 2**31}, {"index": "q"}),
    ],
    ids=str,
)
def test_complex_product(changes, expected):
    found = matmul.configure(replace(COMPLEX, **changes), CPU)
    assert isinstance(found, ComplexConfig)
    assert {name: getattr(found, name) for name in expected} == expected
    assert found.tile_m % found.micro_m == found.rows_at_once % found.micro_m == 0
    assert found.tile_n % (found.vector // 2) == 0


@pytest.mark.parametrize("vector_bytes", [16, 32, 64])
@pytest.mark.parametrize("itemsize", [8, 16])
def test_scratch_memory_is_small(vector_bytes, itemsize):
    device = replace(CPU, vector_bytes=vector_bytes)
    for m, n in ((5, 3), (100, 5000), (5000, 5000)):
        for strides_a in ((5000 * itemsize, itemsize), (itemsize, 5000 * itemsize)):
            problem = replace(
                COMPLEX, m=m, n=n, k=5000, strides_a=strides_a, itemsizes=(itemsize,) * 3,
                compute_itemsize=itemsize, strides_c=(n * itemsize, itemsize),
            )  # fmt: skip
            found = matmul.configure(problem, device)
            assert found.in_place
            assert found.shared_elements(5000) * itemsize <= 1 << 20


@pytest.mark.parametrize("n", [2, 9, 17, 500])
@pytest.mark.parametrize("vector_bytes", [16, 32, 64])
@pytest.mark.parametrize("itemsize", [8, 16])
def test_a_micro_tile_fits_the_registers(n, vector_bytes, itemsize):
    device = replace(CPU, vector_bytes=vector_bytes)
    problem = replace(COMPLEX, n=n, itemsizes=(itemsize,) * 3, compute_itemsize=itemsize)
    found = matmul.configure(problem, device)
    lanes = vector_bytes // (itemsize // 2)
    of_a_row = 2 * -(-(found.vector // 2) // lanes)  # real and imaginary parts
    registers = 32 if vector_bytes == 64 else 16
    assert found.micro_m * of_a_row + of_a_row + 2 <= registers
