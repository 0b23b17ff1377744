"""Which kernel is chosen: every rung of every ladder is reached, and what it chooses runs."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from comparing import assert_close, wide
from layouts import dense, lay_out, place
from strategies import make_numbers

import nnkernels as nnk
from nnkernels import registry
from nnkernels.config import elementwise, gemv, matmul, rows
from nnkernels.config.device import PROFILES, SIMULATED, Device
from nnkernels.config.elementwise import ElementwiseProblem
from nnkernels.config.matmul_complex import ComplexConfig
from nnkernels.config.matmul_packed import PackedConfig
from nnkernels.config.matmul_problem import COLUMNS_FAST, ROWS_FAST, MatmulProblem
from nnkernels.config.rows import RowsProblem
from nnkernels.dispatch import rows as rows_dispatch
from nnkernels.dispatch.axes import contiguous_strides

CPU = Device("cpu", "host", 1, 2, 512 * 1024, 64, 32 << 20)
GPUS = list(PROFILES.values())
REGISTER_NUMBERS = 32  # what a GPU thread keeps of its rows


def row_problem(count, length, across=False, tiles=1, itemsize=4, per_row=False, **changes):
    """Rows of a dense matrix; ``across``: the rows lie side by side in memory."""
    operands = 2 if tiles < 2 else 3
    step, next_row = (count * itemsize, itemsize) if across else (itemsize, length * itemsize)
    outer, inner = [(next_row,)] * operands, [(step,)] * operands
    if per_row:
        outer[-1], inner[-1] = (itemsize,), (0,)
    problem = RowsProblem(
        outer=(count,), inner=(length,), outer_strides=tuple(outer), inner_strides=tuple(inner),
        itemsizes=(itemsize,) * operands, compute_itemsize=max(itemsize, 4), tiles=tiles,
        keeps_exp=tiles == 1, per_row=per_row, alignments=(64,) * operands,
    )  # fmt: skip
    return replace(problem, **changes)


def flat_problem(shape, strides=None, itemsizes=(4, 4), alignment=64, compute=4):
    if strides is None:
        strides = tuple(contiguous_strides(shape, size) for size in itemsizes)
    return ElementwiseProblem(shape, strides, itemsizes, compute, 1, alignment)


# ---- rows on a GPU -------------------------------------------------------------------------

LENGTHS = sorted({1, 3, 7, *(2**e + d for e in range(2, 20) for d in (-1, 0, 1))})


@pytest.mark.parametrize("device", GPUS, ids=lambda d: d.arch)
@pytest.mark.parametrize("tiles", [1, 2])
def test_longer_rows_climb_the_ladder(tiles, device):
    # Many rows, so that no row is cut into parts, and no cache for those that are read again.
    device = replace(device, cache_bytes=0)
    chosen = [(n, rows.configure(row_problem(4096, n, tiles=tiles), device)) for n in LENGTHS]
    for n, c in chosen:
        assert c.layout == rows.ALONG
        assert c.threads % c.team == 0
        assert c.team == c.threads or (
            c.team <= device.warp and 2 ** c.team.bit_length() == 2 * c.team
        )
        assert c.threads <= 1024
        assert c.parts == 1
        groups = -(-n // c.vector)
        if c.keep == rows.KEEP_REGISTERS:
            assert c.depth * c.team >= groups
            assert c.depth * c.vector * tiles <= REGISTER_NUMBERS
            assert c.threads <= 512
            assert c.kept == 0
        elif c.keep == rows.KEEP_SHARED:
            assert c.kept >= tiles * n
            assert c.kept * 4 < device.shared_limit
    teams = [c.team for _, c in chosen]
    assert all(a <= b for a, b in pairwise(teams))
    lanes = [8, 16, 32, 64][: {32: 3, 64: 4}[device.warp]]
    assert sorted(set(teams)) == [*lanes, 128, 256, 512, 1024]
    # In registers, then in shared memory, then read again; each of them for some length.
    order = [rows.KEEP_REGISTERS, rows.KEEP_SHARED, rows.KEEP_NONE]
    ranks = [order.index(c.keep) for _, c in chosen]
    assert ranks == sorted(ranks)
    has_room = device.shared_limit - 4096 > 512 * REGISTER_NUMBERS * 4
    assert set(ranks) == ({0, 1, 2} if has_room else {0, 2})


def test_rows_that_stay_in_a_cache_are_read_again():
    h100 = PROFILES["sm_90"]
    for tiles, count, length, keep in (
        (1, 4096, 16384, rows.KEEP_REGISTERS),
        (1, 4096, 20000, rows.KEEP_NONE),
        (1, 4096, 40000, rows.KEEP_SHARED),  # too much of them for the cache
        (1, 132, 20000, rows.KEEP_SHARED),  # a row for each processor: nothing to read meanwhile
        (2, 4096, 20000, rows.KEEP_SHARED),
    ):
        chosen = rows.configure(row_problem(count, length, tiles=tiles), h100)
        assert chosen.keep == keep, (tiles, count, length)
        if keep == rows.KEEP_NONE:
            assert (chosen.threads, chosen.team, chosen.parts) == (512, 512, 1)
    norm = replace(row_problem(4096, 20000), roles=(rows.ELEMENTWISE, rows.ELEMENTWISE))
    assert rows.configure(norm, h100).threads == 384  # statistics take more registers


@pytest.mark.parametrize("device", GPUS, ids=lambda d: d.arch)
def test_few_long_rows_are_shared_by_blocks(device):
    for across in (False, True):
        for count, length in ((1, 10**6), (3, 100_000), (8, 50_000)):
            problem = row_problem(count, length, across and count > 1)
            c = rows.configure(problem, device)
            assert c.parts > 1, (count, length)
            assert c.keep == rows.KEEP_NONE
            groups = length if c.layout == rows.ACROSS else -(-length // c.vector)
            assert (c.parts - 1) * c.part_groups < groups <= c.parts * c.part_groups
    assert rows.configure(row_problem(device.processors * 4, 10**6), device).parts == 1
    assert rows.configure(row_problem(1, 5000), device).parts == 1


@pytest.mark.parametrize("device", GPUS, ids=lambda d: d.arch)
def test_rows_side_by_side_are_reduced_across(device):
    keeps = set()
    for count in (2, 5, 32, 1000):
        for length in (3, 50, 500, 5000):
            c = rows.configure(row_problem(count * 64, length, True), device)
            assert c.layout == rows.ACROSS
            assert c.threads % c.team == 0
            if c.keep == rows.KEEP_REGISTERS:
                assert c.depth * c.team >= length
                assert c.depth * c.vector <= REGISTER_NUMBERS
            keeps.add(c.keep)
    assert keeps == {rows.KEEP_REGISTERS, rows.KEEP_NONE}


@pytest.mark.parametrize(
    ("length", "count", "side", "threads"),
    [
        (1024, 4096, 4, 512),  # 128 blocks of 8 neighbours would leave 4 processors idle
        (1024, 8192, 8, 512),
        (1024, 65536, 32, 256),
        (32, 4096, 4, 256),
        (1024, 8, 2, 256),
    ],
)
def test_blocks_of_rows_side_by_side_are_as_many_as_processors(length, count, side, threads):
    chosen = rows.configure(row_problem(count, length, True), PROFILES["sm_90"])
    assert (chosen.side_by_side, chosen.threads, chosen.vector) == (side, threads, 4)


@pytest.mark.parametrize(
    ("changes", "vector"),
    [
        ({}, 4),
        ({"alignments": (8, 8)}, 2),
        ({"alignments": (4, 4)}, 1),
        ({"outer_strides": ((400,), (400,))}, 4),
        ({"outer_strides": ((408,), (408,))}, 2),
        ({"outer_strides": ((404,), (404,))}, 1),
        ({"inner_strides": ((4,), (8,))}, 1),
        ({"inner": (5, 6), "inner_strides": ((200, 4), (24, 4))}, 2),
        ({"inner": (5, 8), "inner_strides": ((204, 4), (36, 4))}, 1),
        ({"inner": (5, 8), "inner_strides": ((208, 4), (32, 4))}, 4),
        ({"itemsizes": (8, 8), "inner_strides": ((8,), (8,)), "outer_strides": ((96,), (96,))}, 2),
        ({"itemsizes": (2, 2), "inner_strides": ((2,), (2,)), "outer_strides": ((96,), (96,))}, 8),
    ],
)
def test_vectors_of_a_row_are_as_wide_as_alignment_allows(changes, vector):
    problem = row_problem(1000, 40, **changes)
    assert rows.configure(problem, PROFILES["sm_90"]).vector == vector


UNIT, NARROW = rows.UNIT_STEP, rows.NARROW_STEP


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize(
    ("size", "alignments", "vector", "steps"),
    [
        (4, (16, 16, 16), 4, (UNIT, UNIT, UNIT)),
        # One that is read is cut into accesses of its own, as many as it takes.
        (4, (4, 16, 16), 4, (NARROW + 4, UNIT, UNIT)),
        (4, (16, 8, 16), 4, (UNIT, NARROW + 8, UNIT)),
        (4, (8, 4, 16), 4, (NARROW + 8, NARROW + 4, UNIT)),
        (2, (2, 16, 16), 8, (NARROW + 2, UNIT, UNIT)),
        # A result is written in two at most.
        (4, (16, 16, 8), 4, (UNIT, UNIT, NARROW + 8)),
        (4, (16, 16, 4), 2, (UNIT, UNIT, NARROW + 4)),
        (4, (4, 16, 4), 2, (NARROW + 4, UNIT, NARROW + 4)),
        (2, (16, 16, 2), 2, (UNIT, UNIT, NARROW + 2)),
        # What all have in common is the vector.
        (4, (8, 8, 8), 2, (UNIT, UNIT, UNIT)),
        (4, (4, 4, 4), 1, (UNIT, UNIT, UNIT)),
        (8, (8, 8, 16), 2, (NARROW + 8, NARROW + 8, UNIT)),
    ],
)
def test_every_operand_has_accesses_of_its_own_width(across, size, alignments, vector, steps):
    problem = row_problem(4096, 64, across, tiles=2, itemsize=size, alignments=alignments)
    for device in GPUS:
        chosen = rows.configure(problem, device)
        assert chosen.steps == steps
        assert chosen.vector == (min(vector, 4) if across else vector)
    assert rows.configure(problem, CPU).steps == (UNIT,) * 3


def test_results_for_rows_side_by_side_are_written_as_they_lie():
    problem = row_problem(64, 40, True, tiles=0, per_row=True, alignments=(16, 4))
    for device in GPUS:
        chosen = rows.configure(problem, device)
        assert (chosen.vector, chosen.steps) == (4, (UNIT, NARROW + 4))


def test_a_result_for_a_row_needs_no_alignment():
    problem = row_problem(1001, 40, per_row=True)
    assert problem.outer_strides[-1] == (4,)
    assert rows.configure(problem, PROFILES["sm_90"]).vector == 4


# ---- rows on a CPU -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        # Short rows in registers, several at once; a power of two of groups.
        (row_problem(99, 16), {"keep": rows.KEEP_REGISTERS, "depth": 1, "columns": 4}),
        (row_problem(99, 128), {"keep": rows.KEEP_REGISTERS, "depth": 8, "columns": 2}),
        (row_problem(99, 64, tiles=2), {"keep": rows.KEEP_REGISTERS, "depth": 4, "columns": 2}),
        (row_problem(99, 65, tiles=2), {"keep": rows.KEEP_NONE, "columns": 1}),
        # The exponentials in a thread's scratch memory, as long as it stays in its cache.
        (row_problem(99, 129), {"keep": rows.KEEP_EXP, "kept": 144}),
        (row_problem(99, 129, keeps_exp=False), {"keep": rows.KEEP_EXP, "kept": 0}),
        (row_problem(99, 131_072), {"keep": rows.KEEP_EXP}),
        (row_problem(99, 131_073), {"keep": rows.KEEP_NONE, "kept": 0}),
        # Few long rows in parts, always the same ones.
        (row_problem(7, 65_536), {"keep": rows.KEEP_NONE, "parts": 2, "part_groups": 2048}),
        (row_problem(8, 65_536), {"parts": 1}),
        (row_problem(7, 65_535), {"parts": 1}),
        # A sum keeps nothing.
        (row_problem(99, 16, tiles=0, per_row=True), {"keep": rows.KEEP_NONE}),
        # Columns of a matrix: up to four registers side by side, kept in scratch memory.
        (row_problem(100, 30, True), {"layout": rows.ACROSS, "columns": 4, "kept": 30 * 64}),
        (row_problem(32, 30, True), {"columns": 2, "keep": rows.KEEP_SHARED}),
        (row_problem(16, 30, True), {"layout": rows.ACROSS, "columns": 1}),
        (row_problem(128, 8000, True), {"columns": 1, "keep": rows.KEEP_SHARED, "parts": 1}),
        (row_problem(512, 9000, True), {"columns": 4, "keep": rows.KEEP_NONE, "kept": 0}),
        # In parts where they alone would make fewer than eight blocks.
        (row_problem(112, 8000, True), {"keep": rows.KEEP_NONE, "parts": 4, "part_groups": 2048}),
        (row_problem(5, 10**5, True), {"columns": 1, "parts": 16, "part_groups": 6553}),
        # Moments tell all: the row is read again from the caches.
        (row_problem(99, 1000, read_again=True), {"keep": rows.KEEP_NONE, "kept": 0}),
        (row_problem(99, 100, read_again=True), {"keep": rows.KEEP_REGISTERS, "depth": 8}),
        (row_problem(99, 16, True, tiles=0, per_row=True), {"keep": rows.KEEP_NONE}),
        # Vectors are of the type that is computed in, and divide the last axis of several.
        (row_problem(99, 40, itemsize=8), {"vector": 8}),
        (row_problem(99, 40, itemsize=2), {"vector": 16}),
        (row_problem(99, 40, inner=(5, 8), inner_strides=((64, 4), (32, 4))), {"vector": 8}),
        (row_problem(99, 15, inner=(5, 3), inner_strides=((64, 4), (12, 4))), {"vector": 1}),
        # Results beyond the caches go past them, if they are dense.
        (row_problem(1 << 13, 1 << 10), {"streaming": True}),
        (row_problem(1 << 13, 1 << 10, per_row=True), {"streaming": False}),
        (row_problem(1 << 13, 1 << 9), {"streaming": False}),
        (row_problem(1 << 13, 1 << 10, True), {"streaming": True}),
    ],
)  # fmt: skip
def test_rows_on_a_cpu(problem, expected):
    found = rows.configure(problem, CPU)
    assert {name: getattr(found, name) for name in expected} == expected


def test_the_cut_of_a_row_does_not_depend_on_the_number_of_threads():
    for problem in (row_problem(3, 200_000), row_problem(64, 50_000, True)):
        chosen = {rows.configure(problem, replace(CPU, processors=n)) for n in (1, 2, 64)}
        assert len(chosen) == 1
        assert chosen.pop().parts > 1


PARAMETER_ROLES = (rows.ELEMENTWISE, rows.PARAMETER, rows.ELEMENTWISE)


@pytest.mark.parametrize(
    ("changes", "step", "vector"),
    [
        ({"inner_strides": ((2,), (4,), (2,))}, rows.UNIT_STEP, 8),  # read in two accesses
        ({"inner_strides": ((2,), (0,), (2,))}, rows.ZERO_STEP, 8),
        ({"inner_strides": ((2,), (8,), (2,))}, rows.ANY_STEP, 8),
        ({"inner_strides": ((2,), (4,), (2,)), "period": 7}, rows.PERIOD_STEP, 8),
        ({"inner_strides": ((2,), (0,), (2,)), "period": 7}, rows.ZERO_STEP, 8),
        ({"inner_strides": ((2,), (4,), (2,)), "alignments": (16, 8, 16)}, NARROW + 8, 8),
        (
            {"inner_strides": ((2,), (4,), (2,)), "outer_strides": ((2048,), (4,), (2048,))},
            NARROW + 4, 8,
        ),
    ],
)  # fmt: skip
def test_parameters_of_rows(changes, step, vector):
    """A weight of another type, shared by rows, does not make the accesses to x narrower."""
    problem = row_problem(
        99, 1024, tiles=2, itemsize=2, itemsizes=(2, 4, 2), roles=PARAMETER_ROLES,
        **({"outer_strides": ((2048,), (0,), (2048,))} | changes),
    )  # fmt: skip
    for device in (CPU, *GPUS):
        chosen = rows.configure(problem, device)
        expected = min(step, UNIT) if device is CPU and step >= NARROW else step
        assert chosen.steps == (UNIT, expected, UNIT)
        assert chosen.vector == (16 if device is CPU else vector)


# ---- index width ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "device", [CPU, PROFILES["sm_90"], PROFILES["gfx90a"]], ids=lambda d: d.arch
)
def test_indices_are_as_wide_as_the_reach_of_the_strides(device):
    far = 2**31
    for step, index in ((4, "i"), (far // 16, "i"), (far // 4, "q"), (-far // 4, "q"), (0, "i")):
        flat = flat_problem((8, 10), ((40, 4), (step, 4)))
        assert elementwise.configure(flat, device).index == index
        problem = row_problem(8, 10, outer_strides=((step,), (40,)))
        assert rows.configure(problem, device).index == index
    assert elementwise.configure(flat_problem((2**31,), ((1,), (0,)), (1, 1)), device).index == "q"
    product = MatmulProblem(8, 8, 8, (32, 4), (32, 4), (4, 4, 4), 4, False, reach=1000)
    assert matmul.configure(product, device).index == "i"
    assert matmul.configure(replace(product, reach=far), device).index == "q"


# ---- elementwise ----------------------------------------------------------------------------

UNIT, ZERO, ANY = elementwise.UNIT_STEP, elementwise.ZERO_STEP, elementwise.ANY_STEP


@pytest.mark.parametrize(
    ("problem", "vector", "steps"),
    [
        (flat_problem((100,)), 4, (UNIT, UNIT)),
        (flat_problem((100,), itemsizes=(2, 2)), 8, (UNIT, UNIT)),
        (flat_problem((100,), itemsizes=(1, 1)), 16, (UNIT, UNIT)),
        (flat_problem((100,), itemsizes=(8, 2)), 2, (UNIT, UNIT)),
        (flat_problem((100,), itemsizes=(16, 16)), 1, (UNIT, UNIT)),
        (flat_problem((100,), alignment=8), 2, (UNIT, UNIT)),
        (flat_problem((100,), alignment=4), 1, (UNIT, UNIT)),
        (flat_problem((9, 100), ((400, 4), (416, 4))), 4, (UNIT, UNIT)),
        (flat_problem((9, 100), ((400, 4), (408, 4))), 2, (UNIT, UNIT)),
        (flat_problem((9, 100), ((400, 4), (0, 4))), 4, (UNIT, UNIT)),
        (flat_problem((9, 100), ((400, 4), (40, 0))), 4, (UNIT, ZERO)),
        (flat_problem((100,), ((4,), (8,))), 1, (UNIT, ANY)),
        (flat_problem((100,), ((4,), (-4,))), 1, (UNIT, ANY)),
        (flat_problem((1,), ((0,), (0,))), 4, (UNIT, ZERO)),
    ],
)  # fmt: skip
def test_elementwise_on_a_gpu(problem, vector, steps):
    for device in GPUS:
        found = elementwise.configure(problem, device)
        assert (found.vector, found.steps, found.streaming) == (vector, steps, False)
        assert found.unroll == 1


def test_busy_gpus_unroll():
    for device in GPUS:
        enough = device.processors * 256 * 4 * 4
        for length, unroll in ((enough, 4), (enough - 4, 1)):
            found = elementwise.configure(flat_problem((length,)), device)
            assert (found.unroll, found.tile) == (unroll, 256 * unroll)


@pytest.mark.parametrize(
    ("problem", "vector", "streaming"),
    [
        (flat_problem((100,)), 16, False),
        (flat_problem((100,), itemsizes=(2, 2)), 16, False),
        (flat_problem((100,), itemsizes=(8, 2), compute=8), 8, False),
        (flat_problem((100,), itemsizes=(1, 1), compute=1), 64, False),
        (flat_problem((100,), itemsizes=(8, 8), compute=0), 1, False),
        (flat_problem((8 << 20,)), 16, True),
        (flat_problem((8 << 20,), ((8,), (4,))), 16, False),
        (flat_problem(((8 << 20) - 1,)), 16, False),
    ],
)
def test_elementwise_on_a_cpu(problem, vector, streaming):
    found = elementwise.configure(problem, CPU)
    assert (found.threads, found.vector, found.streaming) == (1, vector, streaming)


# ---- matrix products --------------------------------------------------------------------------


@pytest.mark.parametrize("device", [CPU, *GPUS], ids=lambda d: d.arch)
@pytest.mark.parametrize(("size", "is_complex"), [(4, False), (8, False), (8, True), (16, True)])
def test_tiles_of_a_product_fit(size, is_complex, device):
    problem = MatmulProblem(500, 500, 500, (4, 2000), (2000, 4), (4, 4, 4), size, is_complex, 10**6)
    c = matmul.configure(problem, device)
    # On a CPU, packed parts of A and B for level-2 and level-3 caches.
    assert c.shared_elements(500) * size <= (64 * 1024 if device.is_gpu else 3 << 19)
    assert c.tile_m % c.micro_m == 0
    assert c.tile_n % (c.micro_n if device.is_gpu else c.vector) == 0
    if isinstance(c, ComplexConfig):
        return  # reads single numbers of any strides: test_matmul_complex.py
    assert (c.fast_a, c.fast_b) == (ROWS_FAST, COLUMNS_FAST)
    if not device.is_gpu:  # there, see test_matmul_simt.py
        assert c.unit_a
        assert c.unit_b
    other = matmul.configure(replace(problem, strides_a=(2000, 8), strides_b=(4, 2000)), device)
    assert (other.fast_a, other.fast_b) == (COLUMNS_FAST, ROWS_FAST)
    if not device.is_gpu:
        assert not other.unit_a
        assert other.unit_b  # along its columns: transposed on the way


PACKED = MatmulProblem(500, 500, 500, (2000, 4), (2000, 4), (4, 4, 4), 4, False, 10**6)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # Two threads: blocks for both, cut across the longer side, and then, where a slice is all
        # of a sum, into up to 15 along the rows.
        ({}, {"tile_m": 72, "tile_n": 256, "rows_at_once": 48, "read_a": False}),
        ({"same_a": True}, {"tile_m": 72, "tile_n": 256, "read_a": True}),
        ({"same_a": True, "m": 64, "n": 64, "k": 320}, {"tile_m": 18, "tile_n": 64}),
        # Rows of A that are neighbours: shorter slices of more columns, unless sums have to wait.
        ({"strides_a": (4, 2000)}, {"rows_at_once": 96, "tile_n": 512, "tile_k": 256}),
        ({"strides_a": (4, 2000), "k": 200}, {"rows_at_once": 36, "tile_n": 512, "tile_k": 256}),
        ({"strides_a": (4, 2000), "n": 250}, {"rows_at_once": 36, "tile_n": 256, "tile_k": 512}),
        ({"strides_a": (4, 2000), "in_place": False}, {"tile_n": 256, "tile_k": 512}),
        # Longer sums: where A is read in place, longer slices of fewer columns.
        ({"same_a": True, "k": 1000}, {"tile_m": 168, "tile_n": 128, "tile_k": 1024}),
        ({"same_a": True, "k": 2000}, {"tile_m": 504, "tile_n": 128, "tile_k": 1024}),
        ({"k": 2000}, {"tile_m": 504, "tile_n": 256, "tile_k": 512}),
        ({"same_a": True, "strides_a": (4000, 8)}, {"rows_at_once": 48, "read_a": False}),
        ({"m": 400, "n": 200}, {"tile_m": 30, "tile_n": 256}),
        ({"m": 100, "n": 250}, {"tile_m": 18, "tile_n": 128}),
        ({"m": 3000}, {"tile_m": 432, "tile_n": 256}),
        ({"m": 3000, "k": 600}, {"tile_m": 3000, "tile_n": 256}),
        # Three blocks would not be shared evenly; many are evenly enough.
        ({"n": 600}, {"tile_m": 102, "tile_n": 256}),
        ({"n": 600, "k": 600}, {"tile_m": 252, "tile_n": 256}),
        ({"m": 60, "n": 4200}, {"tile_m": 60, "tile_n": 512, "tile_k": 128}),
        ({"m": 60, "n": 4200, "strides_b": (4, 8)}, {"tile_n": 256, "tile_k": 512}),
        ({"batches": 7, "n": 200}, {"tile_m": 252, "tile_n": 256}),
        ({"m": 60, "n": 50, "k": 170}, {"micro_m": 6, "tile_m": 60, "tile_n": 64}),
        ({"m": 25, "n": 4096}, {"micro_m": 6, "tile_m": 30, "tile_n": 512}),
        ({"m": 14, "n": 31}, {"micro_m": 12, "tile_m": 24, "tile_n": 32}),
        ({"m": 3000, "in_place": False}, {"tile_m": 252, "tile_n": 256, "in_place": False}),
        ({"compute_itemsize": 8}, {"vector": 32, "tile_k": 256}),
        ({"m": 12, "n": 40, "k": 10**6}, {"tile_m": 12, "tile_n": 64, "splits": 64}),
        ({"n": 16}, {"tile_n": 16, "vector": 16, "micro_m": 14}),
        ({"n": 17}, {"tile_n": 32, "vector": 32, "micro_m": 12}),
        ({"n": 33}, {"tile_n": 64, "vector": 64, "micro_m": 6}),
    ],
    ids=str,
)
def test_packed_product(changes, expected):
    device = replace(CPU, vector_bytes=64, processors=2)
    c = matmul.configure(replace(PACKED, **changes), device)
    assert isinstance(c, PackedConfig)
    assert {name: getattr(c, name) for name in expected} == expected
    assert c.tile_m % c.micro_m == c.rows_at_once % c.micro_m == c.tile_n % c.vector == 0
    assert c.tile_k % c.vector == 0
    waits = c.tile_m * c.tile_n if not c.in_place else 0
    assert c.shared_elements(c.tile_k + 1) - c.shared_elements(c.tile_k) == waits
    # A few hundred KiB for each thread.
    assert c.shared_elements(c.tile_k) * 4 <= 768 * 1024


@pytest.mark.parametrize(("m", "n", "tile"), [(6, 300, (6, 64)), (25, 60, (6, 64))])
def test_no_thread_waits_for_blocks_that_are_not_made(m, n, tile):
    """Four tiles of 300 columns would be three of 128; four of 25 rows, three of 12."""
    device = replace(CPU, vector_bytes=64, processors=4)
    c = matmul.configure(replace(PACKED, m=m, n=n, k=2500), device)
    assert (c.tile_m, c.tile_n) == tile
    assert -(-m // c.tile_m) * -(-n // c.tile_n) >= device.processors


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("in_place", [True, False])
def test_scratch_memory_of_a_cpu_thread_is_small(size, in_place):
    # Packed operands and waiting sums: no more, whatever the shape and the strides.
    for m, n, k in ((1, 1, 10**7), (5, 7, 3000), (60, 5000, 5000), (5000, 60, 5000), (5000,) * 3):
        for order in ((k * size, size), (size, m * size)):
            problem = replace(
                PACKED, m=m, n=n, k=k, strides_a=order, strides_b=(n * size, size),
                itemsizes=(size,) * 3, compute_itemsize=size, in_place=in_place,
            )  # fmt: skip
            found = matmul.configure(problem, CPU)
            assert found.shared_elements(k) * size <= 5 << 18
            assert found.splits * m * n * size <= 4 << 20 or found.splits == 1


ALONG = gemv.GemvProblem(1000, 1000, 4, (4, 4000), (4, 4, 4), 4, False, (16, 16), "i")
ACROSS = replace(ALONG, strides_b=(4000, 4))


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (ALONG, {"along": True, "columns": 128, "vector": 32, "depth": 8, "unit_b": True}),
        (replace(ALONG, n=1, strides_b=(4, 0)), {"along": True, "columns": 1, "depth": 1}),
        (replace(ALONG, n=3), {"columns": 4, "depth": 4, "splits": 1}),
        (replace(ALONG, n=3, k=10**5), {"columns": 4, "splits": 24}),
        (replace(ALONG, n=1, strides_b=(8, 4)), {"along": True, "unit_b": False}),
        (replace(ALONG, stride_x=8), {"unit_x": False, "unit_b": True}),
        (replace(ALONG, stride_x=-4), {"unit_x": False}),
        (replace(ALONG, batches=50), {"columns": 128}),
        (ACROSS, {"along": False, "columns": 512, "vector": 32, "depth": 4, "unit_b": True}),
        (replace(ACROSS, n=100_000), {"columns": 4096, "shared_elements": 4096}),
        (replace(ACROSS, n=40), {"columns": 256, "shared_elements": 256, "held": False}),
        (replace(ACROSS, n=32), {"columns": 32, "shared_elements": 0, "held": True}),
        (replace(ACROSS, n=5, k=10**5), {"columns": 16, "vector": 16, "splits": 24}),
        (replace(ACROSS, strides_b=(4000, 8)), {"along": False, "unit_b": False}),
        (replace(ACROSS, compute_itemsize=16, is_complex=True), {"vector": 2, "depth": 4}),
        (replace(ACROSS, index="q"), {"index": "q", "held": False, "threads": 1}),
    ],
    ids=str,
)
def test_vector_product_on_a_cpu(problem, expected):
    c = gemv.configure(problem, replace(CPU, vector_bytes=64, processors=2))
    assert {name: getattr(c, name) for name in expected} == expected
    assert c.columns % (c.depth if c.along else c.vector) == 0


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (ALONG, {"along": True, "team": 32, "depth": 1, "vector": 4, "columns": 8, "splits": 1}),
        (replace(ALONG, n=17_000), {"team": 32, "depth": 4, "columns": 32}),
        (replace(ALONG, batches=17), {"team": 32, "depth": 4}),
        (replace(ALONG, k=2048), {"team": 256, "depth": 1, "columns": 1, "splits": 1}),
        (replace(ALONG, k=2048, n=9000), {"team": 32, "depth": 1}),
        (replace(ALONG, k=10**6, n=3), {"team": 256, "splits": 122}),  # of two readings
        (replace(ALONG, k=10**7, n=3), {"team": 256, "splits": 176}),  # four blocks a processor
        (replace(ALONG, k=10**6, n=3, batches=100), {"team": 256, "splits": 1}),
        (replace(ALONG, alignments=(16, 8)), {"unit_x": True, "unit_b": False}),
        (replace(ALONG, alignments=(4, 16)), {"unit_x": False, "unit_b": True}),
        (replace(ALONG, strides_b=(4, 4004)), {"unit_x": True, "unit_b": False}),
        (replace(ALONG, itemsizes=(2, 2, 2)), {"vector": 8}),
        (replace(ALONG, itemsizes=(1, 1, 4)), {"vector": 8}),
        (replace(ALONG, itemsizes=(8, 8, 8), compute_itemsize=8), {"vector": 2}),
        (replace(ALONG, itemsizes=(16, 16, 16), compute_itemsize=16), {"vector": 1}),
        (ACROSS, {"along": False, "team": 8, "columns": 32, "held": True, "depth": 4}),
        (replace(ACROSS, n=40_000), {"team": 32, "columns": 128, "splits": 1}),
        (replace(ACROSS, n=4096, k=4096), {"team": 8, "splits": 4}),
        (replace(ACROSS, n=40, k=10**6), {"team": 8, "splits": 264}),
        (replace(ACROSS, n=40, k=100), {"team": 8, "splits": 1}),
        (replace(ACROSS, strides_b=(4002, 4)), {"unit_b": False}),
        (replace(ACROSS, strides_b=(4000, 8)), {"unit_b": False}),
    ],
    ids=str,
)
def test_vector_product_on_a_gpu(problem, expected):
    c = gemv.configure(problem, PROFILES["sm_90"])
    assert {name: getattr(c, name) for name in expected} == expected
    assert c.shared_elements == (0 if c.along else 256 * c.vector)
    wave = gemv.configure(problem, PROFILES["gfx90a"])
    assert wave.team in ((64, 256) if wave.along else (16, 64))


@pytest.mark.parametrize(("vector_bytes", "micro_m"), [(16, 6), (32, 6), (64, 6)])
def test_packed_product_fits_the_registers(vector_bytes, micro_m):
    device = replace(CPU, vector_bytes=vector_bytes)
    c = matmul.configure(replace(PACKED, m=420), device)
    registers = c.vector * 4 // vector_bytes
    assert (c.micro_m, registers) == (micro_m, 4 if vector_bytes == 64 else 2)
    # The sums, a row of B and an element of A.
    assert registers * (c.micro_m + 1) + 1 <= (32 if vector_bytes == 64 else 16)


# ---- every regime runs --------------------------------------------------------------------------


def run(name, shape, axis, seed=0):
    """Call a row operation on random numbers and compare it with NumPy."""
    generator = np.random.default_rng(seed)
    x = make_numbers(generator, shape, "float32")
    length = shape[axis]
    if name == "sum":
        wanted = wide(x).sum(axis).astype(np.float32)
        assert_close(rows_dispatch.sum_over(x, (axis,)), wanted, length, 50.0)
        return
    op = registry.find(name)
    operands = [x]
    if name.endswith("_backward"):
        forward = registry.find(name.removesuffix("_backward"))
        operands = [x, forward.reference(make_numbers(generator, shape, "float32"), axis=axis)]
    scale = 20.0 if "log" in name else 1.0
    result = op.function(*operands, axis=axis)
    assert_close(result, op.reference(*operands, axis=axis), length, scale, name)


@pytest.fixture
def machine_of(monkeypatch):
    """Change the properties of a machine, and the constants of a configuration, for one test."""
    machines = []

    def change(backend, constants, module=rows, **properties):
        machine = backend.machine
        machine.plans.clear()
        machines.append(machine)
        monkeypatch.setattr(machine, "device", replace(machine.device, **properties))
        for name, value in constants.items():
            monkeypatch.setattr(module, name, value)

    yield change
    for machine in machines:
        machine.plans.clear()


FORWARD = ("softmax", "log_softmax", "logsumexp")
BACKWARD = ("softmax_backward", "log_softmax_backward")
ALL = (*FORWARD, *BACKWARD, "sum")
KEPT = {"_GPU_KEPT": 4}  # so that short rows reach the higher rungs
PARTS = {"_GPU_PART": 64, "_CPU_PART": 64}


class _Many:
    """Equal to any number above 1."""

    def __eq__(self, other):
        return other > 1

    __hash__ = None


MANY = _Many()

# Name: operations, shape, axis, constants, device properties, what the configuration must say.
GPU_REGIMES = {
    "8 lanes a row": (ALL, (21, 30), 1, {}, {}, {"team": 8, "threads": 128}),
    "16 lanes a row": (("softmax", "sum"), (3, 60), 1, KEPT, {}, {"team": 16, "threads": 128}),
    "a warp a row": (FORWARD, (5, 128), 1, KEPT, {}, {"team": 32, "threads": 128}),
    "a block a row": (ALL, (2, 500), 1, KEPT, {}, {"team": 128, "threads": 128}),
    "a large block a row": (("softmax",), (2, 4000), 1, KEPT, {}, {"team": 1024, "threads": 1024}),
    "a row in shared memory": (
        ("softmax", "log_softmax", "softmax_backward"),
        *((2, 4100), 1, KEPT, {}, {"keep": rows.KEEP_SHARED}),
    ),
    "a row read again": (
        (*FORWARD, *BACKWARD),
        *((2, 4100), 1, KEPT, {"shared_limit": 8192}, {"keep": rows.KEEP_NONE, "parts": 1}),
    ),
    "rows read again from a cache": (
        *(FORWARD, (3, 4100), 1, KEPT, {"processors": 2}),
        {"keep": rows.KEEP_NONE, "parts": 1, "threads": 512},
    ),
    "rows in parts": (
        *(ALL, (2, 700), 1, PARTS, {"processors": 8}),
        {"keep": rows.KEEP_NONE, "parts": MANY},
    ),
    "rows side by side": (
        *(ALL, (30, 44), 0, {}, {}),
        {"layout": rows.ACROSS, "parts": 1},
    ),
    "long rows side by side": (
        *((*FORWARD, *BACKWARD), (600, 40), 0, KEPT, {"processors": 2}),
        {"layout": rows.ACROSS, "keep": rows.KEEP_NONE, "parts": 1},
    ),
    "rows side by side in parts": (
        *(ALL, (300, 11), 0, PARTS, {"processors": 6}),
        {"layout": rows.ACROSS, "parts": MANY},
    ),
}  # fmt: skip

CPU_REGIMES = {
    "rows in registers": (ALL[:5], (21, 30), 1, {}, {}, {"keep": rows.KEEP_REGISTERS}),
    "a row's exponentials": (FORWARD, (5, 300), 1, {}, {}, {"keep": rows.KEEP_EXP}),
    "a row read again": (
        *((*FORWARD, *BACKWARD), (9, 700), 1, {}, {"shared_limit": 1024}),
        {"keep": rows.KEEP_NONE, "parts": 1},
    ),
    "rows in parts": (ALL, (3, 1000), 1, PARTS, {}, {"keep": rows.KEEP_NONE, "parts": MANY}),
    "rows side by side": (ALL[:5], (30, 100), 0, {}, {}, {"layout": rows.ACROSS, "columns": 4}),
    "some rows side by side": (("softmax",), (30, 20), 0, {}, {}, {"layout": rows.ACROSS}),
    "a few rows side by side": (("softmax",), (30, 3), 0, {}, {}, {"columns": 1}),
    "long rows side by side": (
        *((*FORWARD, *BACKWARD), (300, 100), 0, {}, {"shared_limit": 4096}),
        {"layout": rows.ACROSS, "keep": rows.KEEP_NONE},
    ),
    "fewer long rows at a time": (
        *(("softmax",), (100, 100), 0, {}, {"shared_limit": 16384}),
        {"layout": rows.ACROSS, "keep": rows.KEEP_SHARED},
    ),
    "rows past the caches": (
        *((*FORWARD[:2], *BACKWARD), (64, 128), 1, {}, {"cache_bytes": 1024}),
        {"streaming": True},
    ),
    "rows side by side past the caches": (
        *(("softmax",), (33, 128), 0, {}, {"cache_bytes": 1024}),
        {"streaming": True},
    ),
}  # fmt: skip


def check_regime(regime, backend, chosen, change):
    names, shape, axis, constants, properties, expected = regime
    change(backend, constants, **properties)

    def body():
        for seed, name in enumerate(names):
            chosen.clear()
            with backend.context(seed):
                if backend.recording:
                    call_only(name, shape, axis)
                else:
                    run(name, shape, axis, seed)
            backward = name == "sum" or name in BACKWARD
            for found in chosen:
                wanted = dict(expected)
                if backward and backend.device.is_gpu and "parts" not in expected:
                    wanted.pop("team", None)  # two rows, or none, are kept: other rungs
                    wanted.pop("threads", None)
                assert wanted == {key: getattr(found, key) for key in wanted}, name
            assert chosen, name
            backend.machine.plans.clear()

    backend.precompiled(body)


def call_only(name, shape, axis):
    x = np.ones(shape, np.float32)
    if name == "sum":
        rows_dispatch.sum_over(x, (axis,))
    else:
        op = registry.find(name)
        op.function(*[x] * len(op.arrays), axis=axis)


@pytest.mark.in_turn
@pytest.mark.parametrize("name", GPU_REGIMES)
def test_regime_of_a_gpu_runs(name, simulator, chosen, machine_of):
    check_regime(GPU_REGIMES[name], simulator, chosen, machine_of)


@pytest.mark.parametrize("name", CPU_REGIMES)
def test_regime_of_a_cpu_runs(name, cpu, chosen, machine_of):
    check_regime(CPU_REGIMES[name], cpu, chosen, machine_of)


@pytest.mark.parametrize("shift", [0, 4, 8])
def test_elementwise_vectors_run(shift, simulator, chosen, machine_of):
    machine_of(simulator, {})
    x = place(make_numbers(np.random.default_rng(50), (3, 33), "float32"), dense((3, 33), 4, shift))
    with simulator.context(shift):
        y = nnk.relu(x.view)
    assert np.array_equal(y, np.maximum(x.view, 0))
    assert [c.vector for c in chosen] == [{0: 4, 4: 1, 8: 2}[shift]]


def test_unrolled_elementwise_runs(simulator, chosen, machine_of):
    machine_of(simulator, {}, processors=1)
    x = make_numbers(np.random.default_rng(51), (5000,), "float32")
    with simulator.context(3):
        y = nnk.relu(x)
    assert np.array_equal(y, np.maximum(x, 0))
    assert [c.unroll for c in chosen] == [4]


def test_elementwise_past_the_caches_runs(cpu, chosen, machine_of):
    machine_of(cpu, {}, cache_bytes=1024)
    generator = np.random.default_rng(52)
    for dtype in ("float32", "float16", "float64"):
        for shape in ((3001,), (30, 77)):
            x = make_numbers(generator, shape, dtype)
            for shift in (0, x.dtype.itemsize, 1):  # where vectors straddle cache lines, too
                out = place(np.zeros(shape, dtype), dense(shape, x.dtype.itemsize, shift))
                chosen.clear()
                nnk.relu(x, out=out.view)
                assert np.array_equal(out.view, np.maximum(x, x.dtype.type(0)))
                assert out.is_unchanged_outside
                assert all(c.streaming for c in chosen)


@pytest.mark.in_turn
def test_wide_indices_run(backend, monkeypatch):
    generator = np.random.default_rng(53)
    for module in (rows, elementwise):
        monkeypatch.setattr(module, "index_kind", lambda *args, **options: "q")
    original = matmul.configure
    monkeypatch.setattr(
        matmul, "configure", lambda problem, device: replace(original(problem, device), index="q")
    )
    x = place(
        make_numbers(generator, (4, 6, 20), "float32"),
        lay_out((4, 6, 20), 4, (1, 0, 2), (1, -2, 1)),
    ).view
    weight = make_numbers(generator, (6,), "float32")
    backend.machine.plans.clear()

    def body():
        with backend.context(2):
            x_, weight_ = backend.array(x), backend.array(weight)
            results = [
                (nnk.prelu(x_, weight_), registry.find("prelu").reference(x, weight)),
                (nnk.softmax(x_), registry.find("softmax").reference(x)),
                (nnk.softmax(x_, axis=(0, 1)), registry.find("softmax").reference(x, axis=(0, 1))),
                (nnk.logsumexp(x_, axis=1), registry.find("logsumexp").reference(x, axis=1)),
                (nnk.softmax(x_.T, axis=0), registry.find("softmax").reference(x.T, axis=0)),
                (nnk.matmul(x_, x_[0].T), registry.find("matmul").reference(x, x[0].T)),
            ]
        if not backend.recording:
            for got, wanted in results:
                assert_close(backend.numpy(got), wanted, 24)

    backend.precompiled(body)
    backend.machine.plans.clear()


@pytest.mark.in_turn
def test_strides_beyond_32_bits(backend, chosen):
    # Two rows 2 GiB apart. Of the memory between them nothing is ever touched.
    if backend.is_cupy:
        pytest.skip("takes 2 GiB of GPU memory")
    try:
        memory = np.zeros(2**31 + 4096, np.uint8)
    except MemoryError:
        pytest.skip("takes 2 GiB of address space")
    x = np.ndarray((2, 40), np.float32, memory, 0, (2**31, 4))
    x[...] = make_numbers(np.random.default_rng(54), (2, 40), "float32")
    backend.machine.plans.clear()
    with backend.context():
        y = nnk.relu(x)
        p = nnk.softmax(x)
        c = nnk.matmul(x, np.eye(40, dtype=np.float32))
    backend.machine.plans.clear()
    assert [found.index for found in chosen] == ["q", "q", "q"]
    assert np.array_equal(y, np.maximum(x, 0))
    assert_close(p, registry.find("softmax").reference(x), 40)
    assert np.array_equal(c, x)


def test_simulated_profiles_are_those_of_real_devices():
    assert set(SIMULATED) <= set(PROFILES)
    for arch in SIMULATED:
        device = PROFILES[arch].simulated()
        assert device.is_gpu
        assert replace(device, machine=PROFILES[arch].machine) == PROFILES[arch]
