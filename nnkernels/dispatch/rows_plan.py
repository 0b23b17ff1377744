"""Plans of row kernels: everything about a call but its pointers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from nnkernels.compile.instance import Instance
from nnkernels.config import rows as config
from nnkernels.config.rows import ACROSS, RowsConfig, RowsProblem
from nnkernels.dispatch import machines
from nnkernels.dispatch.axes import (
    Shape,
    Strides,
    contiguous_strides,
    memory_order,
    merge,
    normalize_axes,
    reduced_shape,
)
from nnkernels.dispatch.dtypes import Element, numpy_dtype, require
from nnkernels.dispatch.packing import Packer, pointer_struct
from nnkernels.dispatch.results import Allocation
from nnkernels.errors import DTypeError, ShapeError

if TYPE_CHECKING:
    from nnkernels.dispatch.rows import RowKernel

# Launches of a row: one that does everything, or two with a workspace between them.
WHOLE_ROW, PART_OF_ROW, FINISH_ROW = 0, 1, 2


@dataclass(frozen=True)
class Geometry:
    """Axes of one call: those of the rows' positions and those of a row, merged."""

    axes: tuple[int, ...]
    outer: Shape
    inner: Shape
    outer_strides: tuple[Strides, ...]
    inner_strides: tuple[Strides, ...]


class RowsPlan:
    """Everything about a call but its pointers."""

    __slots__ = ("allocation", "fill", "pack", "reaches", "steps", "workspace")

    def __init__(self, allocation: Allocation, operands: int) -> None:
        self.allocation = allocation
        self.steps: list[tuple[Any, bytes]] = []
        self.workspace: Allocation | None = None
        self.fill: float | None = None
        # Where the result is given: the lowest and highest byte of it and of every input.
        self.reaches: list[tuple[int, int]] = []
        self.pack = pointer_struct(operands + 1).pack


def check_inputs(kernel: RowKernel, arrays: Sequence[Any]) -> Element:
    """The element type of the arrays, which must have one shape and dtype."""
    first = arrays[0]
    found = require(first.dtype, kernel.kinds, kernel.names[0])
    for array, name in zip(arrays[1:], kernel.names[1:], strict=True):
        if array.shape != first.shape:
            raise ShapeError(
                f"{name} has shape {array.shape} and {kernel.names[0]} {first.shape}; they must be "
                "equal"
            )
        if array.dtype != first.dtype:
            raise DTypeError(
                f"{name} has dtype {array.dtype} and {kernel.names[0]} {first.dtype}; they must be "
                "equal"
            )
    return found


def make_plan(
    kernel: RowKernel,
    arrays: Sequence[Any],
    axis: Any,
    keepdims: bool,
    machine: Any,
    alignments: tuple[int, ...],
    out: Any,
) -> RowsPlan:
    """The plan of a call; with ``out``, for a result that is given.

    `alignments` are those of the arrays and the result.
    """
    found = check_inputs(kernel, arrays)
    machines.require_aligned(machine, arrays, kernel.names)
    main = arrays[0]
    axes = normalize_axes(axis, main.ndim, kernel.names[0])
    order = memory_order(main.shape, main.strides)
    if kernel.per_row:
        shape = reduced_shape(main.shape, axes, keepdims)
        kept_order = [a for a in order if a not in axes]
        ranked = sorted(kept_order)
        result_order = order if keepdims else tuple(ranked.index(a) for a in kept_order)
    else:
        shape, result_order = main.shape, order
    written = kernel.result_of(found)
    allocation = Allocation(shape, numpy_dtype(written.name), result_order)
    plan = RowsPlan(allocation, len(arrays) + 1)
    if 0 in main.shape:
        if kernel.per_row:
            plan.fill = kernel.of_nothing
        return plan
    result_strides = (
        contiguous_strides(shape, written.itemsize, result_order) if out is None else out.strides
    )
    if kernel.per_row:
        result_strides = expand_strides(result_strides, main.ndim, axes, keepdims)
    strides = [*(a.strides for a in arrays), result_strides]
    geometry = geometry_of(main.shape, strides, axes, order)
    problem = RowsProblem(
        outer=geometry.outer,
        inner=geometry.inner,
        outer_strides=geometry.outer_strides,
        inner_strides=geometry.inner_strides,
        itemsizes=(found.itemsize,) * len(arrays) + (written.itemsize,),
        compute_itemsize=found.compute_itemsize,
        tiles=kernel.tiles,
        keeps_exp=kernel.keeps_exp,
        per_row=kernel.per_row,
        alignments=alignments,
    )
    chosen = config.configure(problem, machine.device)
    _add_steps(plan, kernel, found, problem, chosen, machine)
    return plan


def expand_strides(strides: Strides, rank: int, axes: tuple[int, ...], keepdims: bool) -> Strides:
    """Strides of a reduced result as if it had the reduced axes, with one element for each."""
    if keepdims:
        return tuple(0 if a in axes else strides[a] for a in range(rank))
    remaining = iter(strides)
    return tuple(0 if a in axes else next(remaining) for a in range(rank))


def geometry_of(
    shape: Shape, strides: Sequence[Strides], axes: tuple[int, ...], order: tuple[int, ...]
) -> Geometry:
    """The rows along some axes of operands of one shape, their axes taken in an order."""
    inner_order = [a for a in order if a in axes]
    outer_order = [a for a in order if a not in axes]
    inner, inner_strides = merge(
        tuple(shape[a] for a in inner_order), [tuple(s[a] for a in inner_order) for s in strides]
    )
    outer, outer_strides = merge(
        tuple(shape[a] for a in outer_order), [tuple(s[a] for a in outer_order) for s in strides]
    )
    return Geometry(axes, outer, inner, tuple(outer_strides), tuple(inner_strides))


def _add_steps(
    plan: RowsPlan,
    kernel: RowKernel,
    found: Element,
    problem: RowsProblem,
    chosen: RowsConfig,
    machine: Any,
) -> None:
    blocks, neighbours, tiles = grid_of(problem, chosen)
    tail = _pack(problem, chosen, neighbours, tiles)
    shared = chosen.kept * found.compute_itemsize
    traffic = (
        problem.rows * problem.length * found.itemsize * (len(problem.itemsizes) - problem.per_row)
    )
    stages = [WHOLE_ROW] if chosen.parts == 1 else [PART_OF_ROW, FINISH_ROW]
    if chosen.parts > 1:
        dtype = numpy_dtype(found.compute_name)
        plan.workspace = Allocation((problem.rows * chosen.parts * kernel.saved,), dtype, (0,))
    for stage in stages:
        instance = make_instance(kernel, found, problem, chosen, stage)
        one_block_a_row = stage == FINISH_ROW and kernel.struct == "RowSum"
        grid = blocks if stage == WHOLE_ROW or one_block_a_row else blocks * chosen.parts
        plan.steps.append((machine.prepare(instance, grid, shared, traffic), tail))


def make_instance(
    kernel: RowKernel, found: Element, problem: RowsProblem, chosen: RowsConfig, stage: int
) -> Instance:
    """The template instance of a row kernel."""
    types = f"{found.storage}, {kernel.result_of(found).storage}, {found.compute}"
    rows = row_arguments(problem, chosen)
    if kernel.struct == "RowSum":
        text = f"RowSum<{types}, {rows}, {stage}>"
    else:
        streaming = "true" if chosen.streaming else "false"
        keep = f"{chosen.keep}, {chosen.depth}, {stage}, {streaming}"
        text = f"{kernel.struct}<{kernel.kind}, {types}, {rows}, {keep}>"
    return Instance(kernel.header, text, chosen.threads)


def grid_of(problem: RowsProblem, chosen: RowsConfig) -> tuple[int, int, int]:
    """Blocks of all rows (without parts), and the geometry's ``neighbours`` and ``tiles``."""
    if chosen.layout != ACROSS:
        return -(-problem.rows // (chosen.side_by_side * chosen.columns)), 1, 1
    neighbours = problem.outer[-1]
    tiles = -(-neighbours // (chosen.side_by_side * chosen.vector * chosen.columns))
    return prod(problem.outer[:-1]) * tiles, neighbours, tiles


def row_arguments(problem: RowsProblem, chosen: RowsConfig) -> str:
    """Template arguments from the geometry to the team."""
    index = "int32" if chosen.index == "i" else "int64"
    operands = len(problem.itemsizes)
    whole = ", true" if whole_groups(problem, chosen) else ""
    geometry = (
        f"RowGeometry<{operands}, {len(problem.outer)}, {len(problem.inner)}, {index}{whole}>"
    )
    steps = ", ".join(map(str, chosen.steps))
    return (
        f"{geometry}, {chosen.layout}, Ints<{steps}>, {chosen.vector}, {chosen.columns}, "
        f"{chosen.threads}, {chosen.team}"
    )


def whole_groups(problem: RowsProblem, chosen: RowsConfig) -> bool:
    """Whether vectors never reach beyond the end of a row: a GPU loads without a branch then."""
    if chosen.threads == 1:
        return False
    if chosen.layout == ACROSS:
        return problem.outer[-1] % chosen.vector == 0
    return problem.length % chosen.vector == 0


def _pack(problem: RowsProblem, chosen: RowsConfig, neighbours: int, tiles: int) -> bytes:
    packer = Packer(len(problem.itemsizes) + 1, chosen.index)
    add_rows(packer, problem, chosen, neighbours, tiles)
    return packer.finish()


def add_rows(
    packer: Packer, problem: RowsProblem, chosen: RowsConfig, neighbours: int, tiles: int
) -> None:
    """Append ``parts``, ``part_groups``, ``kept`` and the geometry."""
    packer.add("q", chosen.parts)
    packer.add_index(chosen.part_groups)
    packer.add("i", chosen.kept)
    packer.add("q", problem.rows)  # the geometry, an 8-byte aligned struct, begins here
    packer.add_index(problem.length, neighbours, tiles)
    packer.add_divisors(problem.outer)
    packer.add_divisors(problem.inner)
    for strides in problem.outer_strides:
        packer.add_index(*strides)
    for strides in problem.inner_strides:
        packer.add_index(*strides)
    packer.align(8)  # the end of the geometry
