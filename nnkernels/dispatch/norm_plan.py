"""Plans of norms: everything about a call but its pointers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nnkernels.compile.instance import Instance
from nnkernels.config import rows as config
from nnkernels.config.rows import ELEMENTWISE, PARAMETER, RowsConfig, RowsProblem
from nnkernels.dispatch import machines
from nnkernels.dispatch.axes import Shape, Strides, contiguous_strides, memory_order
from nnkernels.dispatch.dtypes import ELEMENTS, Element, numpy_dtype
from nnkernels.dispatch.elementwise import alignment_of
from nnkernels.dispatch.norm_axes import NormAxes
from nnkernels.dispatch.packing import Packer, pointer_struct
from nnkernels.dispatch.results import Allocation
from nnkernels.dispatch.rows_plan import (
    FINISH_ROW,
    PART_OF_ROW,
    WHOLE_ROW,
    Geometry,
    add_rows,
    geometry_of,
    grid_of,
    row_arguments,
)

if TYPE_CHECKING:
    from nnkernels.dispatch.norm import Norm

# The operands of a call, of which all but the first may be missing.
NAMES = ("x", "residual", "weight", "bias")
# Pointers of the kernel: these, the sum, the result, the workspace.
_POINTERS = len(NAMES) + 3
# Numbers that a part of a row saves.
_SAVED = {"layer_kind": 3, "rms_kind": 1}


class NormPlan:
    """Everything about a call but its pointers."""

    __slots__ = ("allocation", "has_sum", "pack", "reaches", "steps", "workspace")

    def __init__(self, allocation: Allocation, has_sum: bool) -> None:
        self.allocation = allocation
        self.has_sum = has_sum
        self.steps: list[tuple[Any, bytes]] = []
        self.workspace: Allocation | None = None
        # Where the result is given: the lowest and highest byte of it and of every input.
        self.reaches: list[tuple[int, int]] = []
        self.pack = pointer_struct(_POINTERS).pack


def make_plan(
    norm: Norm,
    axes: NormAxes,
    operands: Sequence[Any],
    machine: Any,
    alignments: tuple[int, ...],
    out: Any,
) -> NormPlan:
    """The plan of a call; with ``out``, for a result that is given.

    `alignments` are those of the operands, and of the result.
    """
    given = [(a, n) for a, n in zip(operands, NAMES, strict=True) if a is not None]
    machines.require_aligned(machine, [a for a, _ in given], [n for _, n in given])
    x, residual, *_ = operands
    order = memory_order(x.shape, x.strides)
    written = written_by(norm, x)
    plan = NormPlan(Allocation(x.shape, numpy_dtype(written.name), order), residual is not None)
    if 0 in x.shape:
        return plan
    dense = contiguous_strides(x.shape, written.itemsize, order)
    results = (written, dense, dense if out is None else out.strides)
    problem, siblings = _problem(axes, operands, results, alignments), 1
    apart = channels_apart(axes, x.shape, problem) if machine.device.machine == "cpu" else None
    separate = None if apart is None else _problem(apart, operands, results, alignments)
    # Rows are numbered in the order of channels, if these are the last of the outer axes.
    if separate is not None and separate.outer[-1] == x.shape[axes.channel]:
        problem = separate
        siblings = x.shape[axes.channel] // axes.groups
    chosen = config.configure(problem, machine.device)
    if siblings > 1:
        chosen = replace(chosen, keep=config.KEEP_NONE, depth=1, kept=0)
    _add_steps(plan, norm, operands, problem, chosen, siblings, machine)
    return plan


def written_by(norm: Norm, x: Any) -> Element:
    """The element type of the result of a norm of x."""
    found = ELEMENTS[x.dtype.name]
    return ELEMENTS[found.compute_name] if norm.wide else found


def _problem(
    axes: NormAxes,
    operands: Sequence[Any],
    results: tuple[Element, Strides, Strides],
    alignments: tuple[int, ...],
) -> RowsProblem:
    """Results: their element type, and the strides of the sum with a residual and of y."""
    x, residual, weight, bias = operands
    shape = axes.split_shape(x.shape)
    found = ELEMENTS[x.dtype.name]
    # (strides, size of an element, role), in the order of the kernel's geometry.
    written, sum_strides, y_strides = results
    like_x = [x.strides] if residual is None else [x.strides, residual.strides]
    new = [y_strides] if residual is None else [sum_strides, y_strides]

    def elements(strides: Sequence[Strides], of: Element) -> list[Any]:
        return [(axes.split_strides(x.shape, s), of.itemsize, ELEMENTWISE) for s in strides]

    parameters = [
        (axes.parameter_strides(a.strides, len(shape)), a.dtype.itemsize, PARAMETER)
        for a in (weight, bias)
        if a is not None
    ]
    described = [*elements(like_x, found), *parameters, *elements(new, written)]
    strides = [s for s, _, _ in described]
    aligned = [n for a, n in zip(operands, alignments, strict=False) if a is not None]
    if residual is not None:
        aligned.append(alignment_of())  # of the sum, which is new
    aligned.append(alignments[-1])
    geometry = geometry_of(shape, strides, axes.reduced, memory_order(shape, strides[0]))
    roles = tuple(role for _, _, role in described)
    inner, inner_strides, period = shared_parameters(geometry, roles, found.itemsize)
    return RowsProblem(
        outer=geometry.outer,
        inner=inner,
        outer_strides=geometry.outer_strides,
        inner_strides=inner_strides,
        itemsizes=tuple(size for _, size, _ in described),
        compute_itemsize=found.compute_itemsize,
        tiles=1,
        keeps_exp=False,
        per_row=False,
        alignments=tuple(aligned),
        roles=roles,
        period=period,
        read_again=True,
        written=len(new),
    )


# So many channels of a group lie together, if the channel axis is the last in memory, before it is
# read by itself: of fewer, whole lines of the caches are read for a part of their bytes.
_CHANNELS_TOGETHER = 64


def channels_apart(axes: NormAxes, shape: Shape, problem: RowsProblem) -> NormAxes | None:
    """The axes of a channels-last group norm if each channel is summed by itself, else None.

    Neighbouring channels are lanes then, and those of a group meet in the second of two launches.
    """
    a = axes.channel
    if a is None or len(problem.inner) < 2:
        return None
    together = shape[a] // axes.groups
    lies_last = (
        problem.inner[-1] == together and problem.inner_strides[0][-1] == problem.itemsizes[0]
    )
    if not lies_last or not 1 < together < _CHANNELS_TOGETHER:
        return None
    return replace(axes, reduced=tuple(r for r in axes.reduced if r != a + 1))


def shared_parameters(
    geometry: Geometry, roles: Sequence[int], itemsize: int
) -> tuple[Shape, tuple[Strides, ...], int]:
    """Axes and strides of a row, and the period of its parameters.

    Rows of adjacent elements that only the weights of a group norm cut, one for each channel, are
    one axis: vectors need not end with a channel, whose weights are shared by a period of elements.
    """
    inner, strides = geometry.inner, geometry.inner_strides
    if len(inner) == 2 and all(
        s == (inner[1] * itemsize, itemsize) if role == ELEMENTWISE else s[1] == 0
        for s, role in zip(strides, roles, strict=True)
    ):
        last = tuple(
            (s[1] if r == ELEMENTWISE else s[0],) for s, r in zip(strides, roles, strict=True)
        )
        return (inner[0] * inner[1],), last, inner[1]
    return inner, strides, 0


def _add_steps(
    plan: NormPlan,
    norm: Norm,
    operands: Sequence[Any],
    problem: RowsProblem,
    chosen: RowsConfig,
    siblings: int,
    machine: Any,
) -> None:
    found = ELEMENTS[operands[0].dtype.name]
    blocks, neighbours, tiles = grid_of(problem, chosen)
    packer = Packer(_POINTERS, chosen.index)
    add_rows(packer, problem, chosen, neighbours, tiles)
    packer.add_index(siblings)
    packer.add_divisor(max(problem.period, 1))
    packer.add_scalars(found.compute_name, (norm.eps, norm.offset))
    packer.add_scalars(found.compute_name, norm.parameters or (0,))
    tail = packer.finish()
    moved = sum(problem.itemsizes[o] for o in problem.operands(ELEMENTWISE))
    traffic = problem.rows * problem.length * moved
    whole = chosen.parts == 1 and siblings == 1
    stages = [WHOLE_ROW] if whole else [PART_OF_ROW, FINISH_ROW]
    if not whole:
        dtype = numpy_dtype(found.compute_name)
        saved = problem.rows * chosen.parts * _SAVED[norm.kind]
        plan.workspace = Allocation((saved,), dtype, (0,))
    for stage in stages:
        instance = make_instance(norm, operands, found, problem, chosen, stage)
        shared = chosen.kept * found.compute_itemsize
        start = machine.prepare(instance, blocks * chosen.parts, shared, traffic)
        plan.steps.append((start, tail))


def make_instance(
    norm: Norm,
    operands: Sequence[Any],
    found: Element,
    problem: RowsProblem,
    chosen: RowsConfig,
    stage: int,
) -> Instance:
    """The template instance of a norm."""
    x, residual, weight, bias = operands
    parameters = ", ".join(
        "void" if a is None else ELEMENTS[a.dtype.name].storage for a in (weight, bias)
    )
    functor = norm.activation
    text = (
        f"NormForward<{norm.kind}, {found.storage}, {written_by(norm, x).storage}, "
        f"{found.compute}, {parameters}, "
        f"{'true' if residual is not None else 'false'}, "
        f"{'Identity' if functor is None else functor.name}, "
        f"{row_arguments(problem, chosen)}, {chosen.keep}, {chosen.depth}, {stage}, "
        f"{'true' if chosen.streaming else 'false'}>"
    )
    headers = () if functor is None else (functor.header,)
    return Instance("norm", text, chosen.threads, headers)
