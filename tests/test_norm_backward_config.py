"""How the gradients of row norms are laid out: every way that the configuration knows."""

from __future__ import annotations

import pytest

from nnkernels.config import norm_backward as config
from nnkernels.config.device import PROFILES, Device
from nnkernels.config.norm_backward import (
    NO_SUMS,
    PARAMETER_SUMS,
    ROW_VALUES,
    WEIGHT_SUMS,
    NormBackwardProblem,
)
from nnkernels.config.rows import (
    ACROSS,
    ALONG,
    ELEMENTWISE,
    KEEP_NONE,
    KEEP_REGISTERS,
    KEEP_SHARED,
    PARAMETER,
    RowsProblem,
)

CPU = Device("cpu", "host", 1, 2, 512 * 1024, 64, 8 << 20)
H100, MI250 = PROFILES["sm_90"], PROFILES["gfx90a"]


def problem(rows, length, *, along=True, parameters=2, shared=True, size=4):
    """Dense x, dy and dx of so many rows, one after the other or beside each other."""
    outer, inner = (length * size, size) if along else (size, rows * size)
    weight = ((0,), (size,)) if shared else ((0,), (0,))
    outers = ((outer,), (outer,), weight[0], (0,), (outer,))
    inners = ((inner,), (inner,), weight[1], (0,), (inner,))
    rows_problem = RowsProblem(
        outer=(rows,),
        inner=(length,),
        outer_strides=outers,
        inner_strides=inners,
        itemsizes=(size,) * 5,
        compute_itemsize=max(size, 4),
        tiles=2,
        keeps_exp=False,
        per_row=False,
        alignments=(16,) * 5,
        roles=(ELEMENTWISE, ELEMENTWISE, PARAMETER, PARAMETER, ELEMENTWISE),
    )
    return NormBackwardProblem(rows_problem, parameters, shared)


# What there is, on which device; layout, what is kept, whether rows are cut, and which sums.
WAYS = [
    (problem(65536, 64), CPU, ALONG, KEEP_REGISTERS, False, PARAMETER_SUMS),
    (problem(4096, 1024), CPU, ALONG, KEEP_NONE, False, PARAMETER_SUMS),
    (problem(4096, 1024, parameters=1), CPU, ALONG, KEEP_NONE, False, WEIGHT_SUMS),
    (problem(4096, 1024, parameters=0), CPU, ALONG, KEEP_NONE, False, NO_SUMS),
    (problem(4096, 1024, shared=False), CPU, ALONG, KEEP_NONE, False, ROW_VALUES),
    (problem(2, 1 << 20), CPU, ALONG, KEEP_NONE, True, ROW_VALUES),
    (problem(64, 1 << 18), CPU, ALONG, KEEP_NONE, True, ROW_VALUES),
    (problem(4096, 64, along=False), CPU, ACROSS, KEEP_SHARED, False, ROW_VALUES),
    (problem(4096, 5000, along=False), CPU, ACROSS, KEEP_NONE, True, ROW_VALUES),
    (problem(65536, 64), H100, ALONG, KEEP_REGISTERS, False, PARAMETER_SUMS),
    (problem(4096, 4096), H100, ALONG, KEEP_REGISTERS, False, PARAMETER_SUMS),
    (problem(4096, 20000), H100, ALONG, KEEP_SHARED, False, PARAMETER_SUMS),
    (problem(4096, 20000), MI250, ALONG, KEEP_NONE, True, PARAMETER_SUMS),
    (problem(4096, 40000), H100, ALONG, KEEP_NONE, True, PARAMETER_SUMS),
    (problem(4096, 40000, size=8), H100, ALONG, KEEP_NONE, True, ROW_VALUES),
    (problem(2, 1 << 20), H100, ALONG, KEEP_NONE, True, ROW_VALUES),
    (problem(65536, 16, along=False), H100, ACROSS, KEEP_REGISTERS, False, ROW_VALUES),
    (problem(65536, 4096, along=False), H100, ACROSS, KEEP_NONE, True, ROW_VALUES),
]


@pytest.mark.parametrize(("what", "device", "layout", "keep", "cut", "sums"), WAYS)
def test_every_way(what, device, layout, keep, cut, sums):
    chosen = config.configure(what, device)
    rows = chosen.rows
    assert (rows.layout, rows.keep, rows.parts > 1, chosen.sums) == (layout, keep, cut, sums)
    assert chosen.blocks * chosen.tiles_of_block >= chosen.tiles
    assert (chosen.blocks - 1) * chosen.tiles_of_block < chosen.tiles
    groups = what.rows.length
    if layout == ALONG:
        groups = -(-groups // rows.vector)
    assert (rows.parts - 1) * rows.part_groups < groups <= rows.parts * rows.part_groups


def test_numbers_of_eight_bytes_take_half_the_registers():
    single = config.configure(problem(4096, 4096), H100).rows
    double = config.configure(problem(4096, 4096, size=8), H100).rows
    assert single.keep == double.keep == KEEP_REGISTERS
    assert 2 * double.depth * double.vector <= single.depth * single.vector


def test_rows_in_shared_memory_have_the_registers_of_fewer_threads():
    single = config.configure(problem(4096, 24576), H100).rows
    half = config.configure(problem(4096, 24576, size=2), H100).rows
    assert single.keep == half.keep == KEEP_SHARED
    assert (single.threads, half.threads, half.team, half.vector) == (512, 512, 512, 8)


@pytest.mark.parametrize(("length", "keep"), [(4096, KEEP_REGISTERS), (8192, KEEP_SHARED)])
def test_threads_of_a_large_block_keep_less(length, keep):
    assert config.configure(problem(4096, length), H100).rows.keep == keep


def test_blocks_of_a_cpu_do_not_depend_on_its_threads():
    many = Device("cpu", "host", 1, 64, 512 * 1024, 64, 8 << 20)
    for what, device, *_ in WAYS:
        if device is CPU:
            assert config.configure(what, many) == config.configure(what, CPU)


def test_blocks_of_a_gpu_run_at_once():
    chosen = config.configure(problem(65536, 1024), H100)
    assert chosen.tiles == 65536
    assert chosen.blocks <= H100.processors * 512 // chosen.rows.threads


def test_a_part_of_many_rows_is_summed_in_registers():
    few, many = (config.configure(problem(rows, 65536, size=2), H100) for rows in (96, 1024))
    assert few.sums == ROW_VALUES  # 3 rows of a block
    assert many.sums == PARAMETER_SUMS
    rows = many.rows
    assert rows.depth * rows.team == rows.part_groups
    assert many.blocks * rows.parts <= H100.processors * 512 // rows.threads


def test_partial_sums_are_added_up_in_one_piece():
    what = problem(1 << 20, 3, along=False).rows
    for device in (CPU, H100):
        chosen = config.of_partials(what, device)
        assert (chosen.layout, chosen.parts, chosen.part_groups) == (ACROSS, 1, 3)
