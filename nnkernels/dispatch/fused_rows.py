"""Row kernels with fused functions inside: from arrays to launches."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from nnkernels.compile.instance import Instance
from nnkernels.config import rows as config
from nnkernels.config.rows import ELEMENTWISE, PER_ROW, RowsConfig, RowsProblem
from nnkernels.dispatch import elementwise, machines, row_functions
from nnkernels.dispatch.axes import (
    Shape,
    broadcast_to,
    checked_axis,
    contiguous_strides,
    memory_order,
    normalize_axes,
    reduced_shape,
)
from nnkernels.dispatch.dtypes import Element, numpy_dtype
from nnkernels.dispatch.elementwise import alignment_of, remember
from nnkernels.dispatch.packing import Packer, pointer_struct
from nnkernels.dispatch.results import Allocation
from nnkernels.dispatch.row_functions import Bound, Functions
from nnkernels.dispatch.rows import RowKernel
from nnkernels.dispatch.rows_plan import (
    FINISH_ROW,
    PART_OF_ROW,
    WHOLE_ROW,
    add_rows,
    expand_strides,
    geometry_of,
    grid_of,
    row_arguments,
)
from nnkernels.interop.libraries import NUMPY, adopt_all

# Pointers of the kernel itself: x, y, the workspace.
_POINTERS = 3


class FusedRowsPlan:
    """Everything about a call but its pointers and the numbers of its functions."""

    __slots__ = ("extras", "fill", "pack", "reaches", "results", "steps", "workspace")

    def __init__(self, results: Sequence[Allocation], extras: Sequence[Allocation]) -> None:
        self.results = tuple(results)
        self.extras = tuple(extras)
        self.steps: list[tuple[Any, bytes]] = []
        self.workspace: Allocation | None = None
        # What the rows give that have no elements, before the epilogue.
        self.fill: float | None = None
        # Where results are given: the lowest and highest byte of them and of every input.
        self.reaches: list[tuple[int, int]] = []
        self.pack = pointer_struct(_POINTERS).pack


def apply(
    kernel: RowKernel,
    x: Any,
    functions: Functions,
    axis: Any,
    keepdims: bool = False,
    out: Any = None,
) -> Any:
    """Run a row kernel of one array with functions inside.

    Returns
    -------
    array, or tuple of arrays
        All results of the epilogue, or the one of the kernel, and the further results of the
        prologue.
    """
    name = kernel.names[0]
    if type(x) is np.ndarray:
        view, library, like = x, NUMPY, x
    else:
        (view,), library, like = adopt_all((x,), (name,))
    bound = Bound(functions, view, name, library, like)
    machine, address = machines.for_array(view)
    arrays = (view, *bound.views)
    outs, out_names = (None, ()) if out is None else bound.outs_of(out, library, like)
    given = arrays if outs is None else (*outs, *arrays)
    addresses = [address(a) for a in given]
    alignments = row_functions.alignments_of(addresses, machine.device.machine == "cpu")
    key = (
        (apply, kernel, axis if type(axis) is int else checked_axis(axis), keepdims),
        (bound.key, alignments, outs is None),
        *[(a.shape, a.strides, a.dtype) for a in given],
    )
    plans = machine.plans
    plan = plans.get(key)
    if plan is None:
        machines.require_aligned(machine, given, (*out_names, name, *bound.names))
        plan = _make_plan(kernel, view, bound, axis, keepdims, machine, alignments, outs, out_names)
        if outs is not None:
            plan.reaches = row_functions.reaches_of(given)
        remember(plans, key, plan)
    if outs is None:
        results = [a.make(machine) for a in plan.results]
    else:
        results = outs
        in_place = 0 if kernel.per_row else len(arrays)
        row_functions.check_outs_memory(
            outs, out_names, arrays, (name, *bound.names), in_place, addresses, plan.reaches
        )
        addresses = addresses[len(outs) :]
    extras = [a.make(machine) for a in plan.extras]
    if plan.fill is not None:
        results = _of_nothing(plan, bound, machine, address, results, outs is None)
    elif plan.steps:
        _launch(plan, bound, machine, address, addresses, results, extras)
    if library is not NUMPY:
        extras = [library.restore(e, like) for e in extras]
        results = [library.restore(r, like) for r in results]
    return bound.gathered(results if outs is None else bound.as_given(out), (), extras)


def _launch(
    plan: FusedRowsPlan,
    bound: Bound,
    machine: Any,
    address: Any,
    addresses: Sequence[int],
    results: Sequence[Any],
    extras: Sequence[Any],
) -> None:
    workspace = None if plan.workspace is None else plan.workspace.make(machine)
    written = [address(r) for r in results]
    pointers = plan.pack(addresses[0], written[0], 0 if workspace is None else address(workspace))
    end = bound.arguments(addresses[1:], [address(e) for e in extras], written)
    for start, tail in plan.steps:
        start(pointers + tail + end)


def _of_nothing(
    plan: FusedRowsPlan, bound: Bound, machine: Any, address: Any, results: Any, new: bool
) -> Any:
    """The results of rows without elements: the epilogue of one number."""
    shape, order = plan.results[0].shape, plan.results[0].order
    if bound.epilogue is None:
        _fill(results[0], plan.fill)
        return results
    whole = Allocation(shape, numpy_dtype(bound.found.name), order).make(machine)
    _fill(whole, plan.fill)
    functor = bound.epilogue.functor
    found = elementwise.run(
        functor, [whole, *bound.after], (), machine, address, (), bound.numbers_after
    )
    found = found if len(plan.results) > 1 else (found,)
    if new:
        return list(found)
    for result, value in zip(results, found, strict=True):
        result[...] = value
    return results


def _fill(array: Any, value: Any) -> None:
    # CuPy writes on the current device, which need not be the array's.
    with nullcontext() if isinstance(array, np.ndarray) else array.device:
        array[...] = value


# ---- plans --------------------------------------------------------------------------------------


def _make_plan(
    kernel: RowKernel,
    x: Any,
    bound: Bound,
    axis: Any,
    keepdims: bool,
    machine: Any,
    alignments: tuple[int, ...],
    outs: Any,
    out_names: Sequence[str],
) -> FusedRowsPlan:
    axes = normalize_axes(axis, x.ndim, kernel.names[0])
    order = memory_order(x.shape, x.strides)
    shape, result_order = x.shape, order
    if kernel.per_row:
        shape = reduced_shape(x.shape, axes, keepdims)
        kept_order = [a for a in order if a not in axes]
        ranked = sorted(kept_order)
        result_order = order if keepdims else tuple(ranked.index(a) for a in kept_order)
    results = [Allocation(shape, numpy_dtype(e.name), result_order) for e in bound.results]
    extras = [Allocation(x.shape, numpy_dtype(e.name), order) for e in bound.extras]
    plan = FusedRowsPlan(results, extras)
    if outs is not None:
        row_functions.check_outs(outs, out_names, shape, [a.dtype for a in results])
    operands = _operands(kernel, x, bound, axes, keepdims, shape, alignments, outs, plan)
    if 0 in x.shape:
        if kernel.per_row:
            plan.fill = kernel.of_nothing
        return plan
    geometry = geometry_of(x.shape, [o[0] for o in operands], axes, order)
    problem = RowsProblem(
        outer=geometry.outer,
        inner=geometry.inner,
        outer_strides=geometry.outer_strides,
        inner_strides=geometry.inner_strides,
        itemsizes=tuple(o[1] for o in operands),
        compute_itemsize=bound.found.compute_itemsize,
        tiles=kernel.tiles,
        keeps_exp=kernel.keeps_exp,
        per_row=kernel.per_row,
        alignments=tuple(o[3] for o in operands),
        roles=tuple(o[2] for o in operands),
        written=len(extras) + len(results),
    )
    chosen = config.configure(problem, machine.device)
    _add_steps(plan, kernel, row_functions.element_of(x), bound, problem, chosen, machine)
    return plan


# Of each operand of the geometry: strides along the axes of x, bytes of an element, role, and a
# power of two that divides its address.
_Operand = tuple[tuple[int, ...], int, int, int]


def _operands(
    kernel: RowKernel,
    x: Any,
    bound: Bound,
    axes: tuple[int, ...],
    keepdims: bool,
    shape: Shape,
    alignments: tuple[int, ...],
    outs: Any,
    plan: FusedRowsPlan,
) -> list[_Operand]:
    """All operands in the order of the kernel's geometry."""
    count = 0 if outs is None else len(outs)
    aligned = alignments[count:]
    found: list[_Operand] = [(x.strides, x.dtype.itemsize, ELEMENTWISE, aligned[0])]
    name, before = kernel.names[0], len(bound.before)

    def expanded(strides: Any) -> Any:
        return expand_strides(strides, x.ndim, axes, keepdims) if kernel.per_row else strides

    for i, view in enumerate(bound.views):
        size = view.dtype.itemsize
        if i < before or not kernel.per_row:
            strides = broadcast_to(view, x.shape, bound.names[i], name)
            role = row_functions.role_of(strides, size, x.strides, x.dtype.itemsize, x.shape)
        else:
            strides = broadcast_to(view, shape, bound.names[i])
            strides, role = expanded(strides), PER_ROW
        found.append((strides, size, role, aligned[1 + i]))
    new = alignment_of()
    for extra in plan.extras:
        size = extra.dtype.itemsize
        strides = contiguous_strides(extra.shape, size, extra.order)
        found.append((strides, size, ELEMENTWISE, new))
    for i, result in enumerate(plan.results):
        size = result.dtype.itemsize
        strides = contiguous_strides(shape, size, result.order) if outs is None else outs[i].strides
        role = PER_ROW if kernel.per_row else ELEMENTWISE
        found.append((expanded(strides), size, role, new if outs is None else alignments[i]))
    return found


def _add_steps(
    plan: FusedRowsPlan,
    kernel: RowKernel,
    source: Element,
    bound: Bound,
    problem: RowsProblem,
    chosen: RowsConfig,
    machine: Any,
) -> None:
    blocks, neighbours, tiles = grid_of(problem, chosen)
    packer = Packer(_POINTERS, chosen.index)
    add_rows(packer, problem, chosen, neighbours, tiles)
    tail = packer.finish()
    found = bound.found
    moved = sum(problem.itemsizes[o] for o in problem.operands(ELEMENTWISE))
    traffic = problem.rows * problem.length * moved
    stages = [WHOLE_ROW] if chosen.parts == 1 else [PART_OF_ROW, FINISH_ROW]
    if chosen.parts > 1:
        saved = problem.rows * chosen.parts * kernel.saved
        plan.workspace = Allocation((saved,), numpy_dtype(found.compute_name), (0,))
    for stage in stages:
        instance = make_instance(kernel, source, bound, problem, chosen, stage)
        grid = blocks * chosen.parts
        start = machine.prepare(instance, grid, chosen.kept * found.compute_itemsize, traffic)
        plan.steps.append((start, tail))


def make_instance(
    kernel: RowKernel,
    source: Element,
    bound: Bound,
    problem: RowsProblem,
    chosen: RowsConfig,
    stage: int,
) -> Instance:
    """The template instance of a row kernel with functions, of an array of an element type."""
    extras = 1 + len(bound.views)
    functions = bound.template(1, extras, extras + len(bound.extras))
    types = f"{source.storage}, {bound.results[0].storage}, {bound.found.compute}"
    streaming = "true" if chosen.streaming else "false"
    text = (
        f"{kernel.struct}<{kernel.kind}, {types}, {row_arguments(problem, chosen)}, "
        f"{chosen.keep}, {chosen.depth}, {stage}, {streaming}, {functions}>"
    )
    headers, definitions = bound.source()
    return Instance(kernel.header, text, chosen.threads, headers, definitions)
