"""Products by the ordinary arithmetic of GPUs: which kernel is chosen, and that it runs."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from comparing import assert_close, assert_same_bits, wide
from comparing import assert_product as assert_right
from layouts import dense, lay_out, place
from strategies import make_numbers

import nnkernels as nnk
from nnkernels import registry
from nnkernels.config import matmul_simt
from nnkernels.config.device import PROFILES
from nnkernels.config.matmul_problem import COLUMNS_FAST, ROWS_FAST, MatmulProblem
from nnkernels.config.matmul_simt import TILES, Tile
from nnkernels.dispatch.dtypes import numpy_dtype

pytestmark = pytest.mark.usefixtures("ordinary_products")

GPUS = list(PROFILES.values())
GEMM = registry.find("gemm")


def problem(m, n, k, batches=1, itemsize=4, **changes):
    """A product of dense matrices by rows."""
    found = MatmulProblem(
        m=m, n=n, k=k, strides_a=(k * itemsize, itemsize), strides_b=(n * itemsize, itemsize),
        strides_c=(n * itemsize, itemsize), itemsizes=(itemsize,) * 3, compute_itemsize=itemsize,
        is_complex=False, reach=10**6, batches=batches, alignments=(16, 16, 16),
    )  # fmt: skip
    return replace(found, **changes)


def tile_of(chosen):
    return Tile(*(getattr(chosen, name) for name in (
        "tile_m", "tile_n", "tile_k", "micro_m", "micro_n", "teams"
    )))  # fmt: skip


def mirror(tile):
    return tile._replace(m=tile.n, n=tile.m, micro_m=tile.micro_n, micro_n=tile.micro_m)


# ---- tiles and splits ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 8, 16])
def test_tiles_are_ones_that_a_block_can_have(size):
    for tile in TILES[size]:
        assert tile.m % tile.micro_m == 0 == tile.n % tile.micro_n
        assert tile.threads in (64, 128, 256)
        assert tile.micro_m * tile.micro_n * size <= 64 * 4  # registers of sums
        for fast_a, fast_b in product((ROWS_FAST, COLUMNS_FAST), repeat=2):
            chosen = matmul_simt.SimtConfig(*tile, 1, 1, fast_a, fast_b, True, "i")
            assert chosen.threads == tile.threads
            assert chosen.shared_elements(100) * size <= 48 * 1024  # without asking for more
    oblong = {t for t in TILES[size] if t.m != t.n}
    assert oblong == {mirror(t) for t in oblong}


@pytest.mark.parametrize("device", GPUS, ids=lambda d: d.arch)
def test_each_regime_has_its_tile(device):
    def chosen(*args, **options):
        return matmul_simt.configure(problem(*args, **options), device)

    large = chosen(4096, 4096, 4096)
    assert large.micro_m * large.micro_n == 64
    assert large.splits == 1
    for changes in ({"alignments": (4, 4, 4)}, {"reach": 2**40}):  # more registers of addresses
        assert chosen(4096, 4096, 4096, **changes).threads <= 128
    small = chosen(96, 96, 96)
    assert tile_of(small)[:2] == (32, 32)
    for few, skinny in ((3, 16), (16, 16), (30, 32)):
        rows, columns = chosen(few, 4096, 4096), chosen(4096, few, 4096)
        assert rows.tile_m == skinny == columns.tile_n
        assert rows.tile_n >= 4 * skinny
        assert rows.splits > 1  # tiles are fewer than processors
        assert tile_of(columns) == mirror(tile_of(rows))
    for side in (3, 8, 12, 16):
        many = chosen(side, side, side, batches=10_000)
        assert (many.tile_m, many.tile_n) == ((8, 8) if side <= 8 else (16, 16))
        assert many.teams > 1
        assert many.splits == 1
    for long in (chosen(64, 64, 100_000), chosen(200, 300, 50_000), chosen(8, 8, 10**6)):
        assert long.splits > 8
    assert chosen(4096, 4096, 64).splits == 1


@pytest.mark.parametrize("size", [4, 8, 16])
def test_every_tile_is_chosen_for_some_product(size):
    found = set()
    sides = (4, 8, 16, 32, 64, 100, 512, 1000, 1024, 1280, 2048, 4096)
    for device in GPUS:
        for m, n, k, batches in product(sides, sides, (16, 128, 4096), (1, 3, 1000, 5000)):
            p = problem(m, n, k, batches, itemsize=size)
            found.add(tile_of(matmul_simt.configure(p, device)))
    assert found == set(TILES[size])


def test_a_workspace_with_long_offsets_has_a_smaller_tile():
    c = matmul_simt.SimtConfig(*matmul_simt.LARGEST, 4, 4, 0, 1, True, "i", splits=2)
    assert c.for_workspace(64, 4, "i").tile_n == matmul_simt.LARGEST.n
    long = c.for_workspace(64, 4, "q")
    assert (long.tile_m, long.tile_n, long.threads) == (128, 64, 128)


@pytest.mark.parametrize("device", GPUS, ids=lambda d: d.arch)
def test_sums_do_not_depend_on_how_operands_lie(device):
    # Else a view and its copy would differ in the last bits.
    for m, n, k in ((100, 200, 5000), (16, 4096, 4096), (512, 512, 512)):
        p = problem(m, n, k)
        by_columns = replace(p, strides_a=(4, 4 * m), alignments=(4, 4, 4), reach=2**40)
        one, other = (matmul_simt.configure(q, device) for q in (p, by_columns))
        assert (one.tile_k, one.splits) == (other.tile_k, other.splits)


# ---- accesses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ((COLUMNS_FAST, 4), (COLUMNS_FAST, 4), True)),
        ({"strides_a": (4, 2048)}, ((ROWS_FAST, 4), (COLUMNS_FAST, 4), True)),
        ({"strides_b": (4, 2048)}, ((COLUMNS_FAST, 4), (ROWS_FAST, 4), True)),
        ({"alignments": (8, 4, 8)}, ((COLUMNS_FAST, 2), (COLUMNS_FAST, 1), False)),
        ({"strides_a": (2056, 4)}, ((COLUMNS_FAST, 2), (COLUMNS_FAST, 4), True)),
        ({"strides_a": (2048, 8)}, ((COLUMNS_FAST, 1), (COLUMNS_FAST, 4), True)),
        ({"strides_a": (0, 4)}, ((COLUMNS_FAST, 4), (COLUMNS_FAST, 4), True)),
        ({"strides_b": (2048, -4)}, ((COLUMNS_FAST, 4), (COLUMNS_FAST, 1), True)),
        ({"strides_c": (2048, 8)}, ((COLUMNS_FAST, 4), (COLUMNS_FAST, 4), False)),
        ({"strides_c": (2052, 4)}, ((COLUMNS_FAST, 4), (COLUMNS_FAST, 4), False)),
        ({"k": 510}, ((COLUMNS_FAST, 2), (COLUMNS_FAST, 4), True)),
        ({"n": 510}, ((COLUMNS_FAST, 4), (COLUMNS_FAST, 2), False)),
        ({"n": 511}, ((COLUMNS_FAST, 4), (COLUMNS_FAST, 1), False)),
    ],
)
def test_accesses_are_as_wide_as_strides_and_alignments_allow(changes, expected):
    p = replace(problem(512, 512, 512), **changes)
    for device in GPUS:
        c = matmul_simt.configure(p, device)
        assert ((c.fast_a, c.vector_a), (c.fast_b, c.vector_b), c.unit_c) == expected


@pytest.mark.parametrize(
    ("dtype", "compute", "vector_a", "vector_b"),
    [("float16", 4, 8, 4), ("int8", 4, 8, 4), ("float64", 8, 2, 2), ("complex128", 16, 1, 1)],
)
def test_vectors_of_other_types(dtype, compute, vector_a, vector_b):
    p = problem(512, 512, 512, itemsize=numpy_dtype(dtype).itemsize, compute_itemsize=compute)
    c = matmul_simt.configure(p, PROFILES["sm_80"])
    assert (c.vector_a, c.vector_b) == (vector_a, vector_b)
    assert c.tile_k % c.vector_a == 0


# ---- what is chosen runs -------------------------------------------------------------------------


def small_device(monkeypatch, simulator, processors):
    """So few processors that a small product is a large one."""
    machine = simulator.machine
    monkeypatch.setattr(machine, "device", replace(machine.device, processors=processors))
    machine.plans.clear()


# Shapes of A and B, dtype, processors; tile and whether sums are split.
REGIMES = (
    ((250, 24), (24, 380), "float32", 1, (128, 128), False),
    ((9, 600), (600, 500), "float32", 40, (16, 64), True),
    ((500, 600), (600, 9), "float32", 40, (64, 16), True),
    ((15, 20), (20, 1100), "float32", 1, (16, 256), False),
    ((40, 600), (600, 60), "float32", 40, (32, 32), True),
    ((21, 5, 7), (21, 7, 6), "float32", 8, (8, 8), False),
    ((3, 7, 15, 20), (7, 20, 12), "float16", 4, (16, 16), False),
    ((128, 40), (40, 128), "float64", 1, (64, 64), False),
    ((30, 600), (600, 31), "complex64", 40, (32, 32), True),
    ((5, 9, 6), (5, 6, 7), "complex128", 1, (16, 16), False),
    ((60, 16), (16, 64), "complex128", 1, (64, 32), False),
    ((130, 16), (16, 130), "int8", 1, (64, 64), False),
)


@pytest.mark.in_turn(by="warp")
def test_each_regime_runs(simulator, chosen, monkeypatch):
    def body():
        generator = np.random.default_rng(90)
        for number, (first, second, dtype, processors, tile, split) in enumerate(REGIMES):
            small_device(monkeypatch, simulator, processors)
            a, b = (make_numbers(generator, s, dtype) for s in (first, second))
            chosen.clear()
            with simulator.context(number):
                y = nnk.matmul(a, b)
            (found,) = chosen
            assert (found.tile_m, found.tile_n) == tile, (first, second, found)
            assert (found.splits > 1) == split, (first, second, found)
            if not simulator.recording:
                assert_right(y, a, b)

    simulator.precompiled(body)
    simulator.machine.plans.clear()


@pytest.mark.in_turn
def test_a_view_and_its_copy_give_the_same_bits(simulator, chosen):
    # Wide loads along either axis, narrow ones, and ones of single elements.
    generator = np.random.default_rng(91)
    a = make_numbers(generator, (24, 200), "float32")
    b = make_numbers(generator, (200, 40), "float32")
    layouts = [
        (lambda s: dense(s, 4), lambda s: dense(s, 4)),
        (lambda s: lay_out(s, 4, (1, 0), (1, 1)), lambda s: lay_out(s, 4, (1, 0), (1, 1))),
        (lambda s: dense(s, 4, 8), lambda s: lay_out(s, 4, (0, 1), (1, -2))),
        (lambda s: dense(s, 4, 4), lambda s: lay_out(s, 4, (1, 0), (3, 1))),
    ]

    def body():
        results = []
        for number, (of_a, of_b) in enumerate(layouts):
            left, right = place(a, of_a(a.shape)).view, place(b, of_b(b.shape)).view
            with simulator.context(number):
                results.append(nnk.matmul(left, right))
        if not simulator.recording:
            assert_right(results[0], a, b)
            for other in results[1:]:
                assert_same_bits(results[0], other, "another layout")

    simulator.precompiled(body)
    vectors = {(c.vector_a, c.fast_a, c.vector_b, c.fast_b) for c in chosen}
    assert vectors == {
        (4, COLUMNS_FAST, 4, COLUMNS_FAST),
        (4, ROWS_FAST, 4, ROWS_FAST),
        (2, COLUMNS_FAST, 1, COLUMNS_FAST),
        (1, COLUMNS_FAST, 1, ROWS_FAST),
    }


@pytest.mark.in_turn
def test_sums_are_stored_in_groups_or_one_by_one(simulator, chosen):
    generator = np.random.default_rng(92)
    a = make_numbers(generator, (10, 30), "float32")

    def body():
        for n, shift in ((12, 0), (12, 4), (13, 0)):
            b = make_numbers(generator, (30, n), "float32")
            bias = make_numbers(generator, (n,), "float32")
            out = place(np.zeros((10, n), np.float32), dense((10, n), 4, shift))
            with simulator.context(n):
                nnk.gemm(a, b, bias, epilogue=nnk.relu, out=out.view)
            if not simulator.recording:
                wanted = np.maximum(wide(a) @ wide(b) + bias, 0).astype(np.float32)
                assert_close(out.view, wanted, 30, scale=30.0)
                assert out.is_unchanged_outside

    simulator.precompiled(body)
    assert [c.unit_c for c in chosen[:3]] == [True, False, False]
