"""Plans of norms: everything about a call but its pointers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nnkernels.compile.instance import Instance
from nnkernels.config import rows as config
from nnkernels.config.rows import ELEMENTWISE, PARAMETER, RowsConfig, RowsProblem
from nnkernels.dispatch import machines, row_functions
from nnkernels.dispatch.axes import (
    Shape,
    Strides,
    broadcast_to,
    contiguous_strides,
    memory_order,
)
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
    from nnkernels.dispatch.row_functions import Bound

# The operands of a call, of which all but the first may be missing.
NAMES = ("x", "residual", "weight", "bias")
# Pointers of the kernel: these, the sum, the result, the workspace.
_POINTERS = len(NAMES) + 3
# Numbers that a part of a row saves.
_SAVED = {"layer_kind": 3, "rms_kind": 1}


class NormPlan:
    """Everything about a call but its pointers."""

    __slots__ = ("allocation", "extras", "more", "pack", "reaches", "steps", "total", "workspace")

    def __init__(self, allocation: Allocation, total: Allocation | None) -> None:
        self.allocation = allocation
        self.total = total  # the sum with a residual
        # Further results of a prologue and of an epilogue.
        self.extras: tuple[Allocation, ...] = ()
        self.more: tuple[Allocation, ...] = ()
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
    bound: Bound | None = None,
) -> NormPlan:
    """The plan of a call; with ``out``, for a result that is given.

    `alignments` are those of the operands, and of the result. With functions inside, of the
    operands, those of the functions, and all results; ``out`` is a list of these then.
    """
    given = [(a, n) for a, n in zip(operands, NAMES, strict=True) if a is not None]
    machines.require_aligned(machine, [a for a, _ in given], [n for _, n in given])
    x, residual, *_ = operands
    order = memory_order(x.shape, x.strides)
    written = (written_by(norm, x),) if bound is None else bound.results
    first, *more = [Allocation(x.shape, numpy_dtype(e.name), order) for e in written]
    plan = NormPlan(first, None if residual is None else Allocation(x.shape, x.dtype, order))
    plan.more = tuple(more)
    if bound is not None:
        plan.extras = tuple(Allocation(x.shape, numpy_dtype(e.name), order) for e in bound.extras)
    described = _described(operands, plan, alignments, out, bound)
    if 0 in x.shape:
        return plan
    compute = ELEMENTS[x.dtype.name] if bound is None else bound.found
    problem, siblings = _problem(axes, operands, described, compute), 1
    apart = channels_apart(axes, x.shape, problem) if machine.device.machine == "cpu" else None
    separate = None if apart is None else _problem(apart, operands, described, compute)
    # Rows are numbered in the order of channels, if these are the last of the outer axes.
    if separate is not None and separate.outer[-1] == x.shape[axes.channel]:
        problem = separate
        siblings = x.shape[axes.channel] // axes.groups
    chosen = config.configure(problem, machine.device)
    if siblings > 1:
        chosen = replace(chosen, keep=config.KEEP_NONE, depth=1, kept=0)
    _add_steps(plan, norm, operands, problem, chosen, siblings, machine, bound)
    return plan


def written_by(norm: Norm, x: Any) -> Element:
    """The element type of the result of a norm of x."""
    found = ELEMENTS[x.dtype.name]
    return ELEMENTS[found.compute_name] if norm.wide else found


# Of an operand that lies along x: strides, bytes of an element, role, and a power of two that
# divides its address.
_Described = tuple[Strides, int, int, int]


def _described(
    operands: Sequence[Any],
    plan: NormPlan,
    alignments: tuple[int, ...],
    out: Any,
    bound: Bound | None,
) -> tuple[list[_Described], list[_Described], list[_Described], tuple[int, int]]:
    """What lies along x before the parameters in the kernel's geometry, and after them: operands of
    functions, and what is written; and the alignments of weight and bias.
    """
    x, residual, *_ = operands
    names = len(NAMES)
    before: list[_Described] = [(x.strides, x.dtype.itemsize, ELEMENTWISE, alignments[0])]
    if residual is not None:
        before.append((residual.strides, residual.dtype.itemsize, ELEMENTWISE, alignments[1]))
    inside: list[_Described] = []
    if bound is not None:
        aligned = alignments[names:]
        for i, view in enumerate(bound.views):
            strides = broadcast_to(view, x.shape, bound.names[i], "x")
            size = view.dtype.itemsize
            role = row_functions.role_of(strides, size, x.strides, x.dtype.itemsize, x.shape)
            inside.append((strides, size, role, aligned[i]))
    sums = [] if plan.total is None else [plan.total]
    written = [
        (_dense(a), a.dtype.itemsize, ELEMENTWISE, alignment_of()) for a in (*sums, *plan.extras)
    ]
    results = (plan.allocation, *plan.more)
    outs = [out] if bound is None else out
    for i, result in enumerate(results):
        strides = _dense(result) if out is None else outs[i].strides
        alignment = alignments[i - len(results)]
        written.append((strides, result.dtype.itemsize, ELEMENTWISE, alignment))
    return before, inside, written, (alignments[2], alignments[3])


def _dense(result: Allocation) -> Strides:
    return contiguous_strides(result.shape, result.dtype.itemsize, result.order)


def _problem(
    axes: NormAxes,
    operands: Sequence[Any],
    described: tuple[list[_Described], list[_Described], list[_Described], tuple[int, int]],
    compute: Element,
) -> RowsProblem:
    """The rows of a call: see `_described`."""
    x, _, weight, bias = operands
    shape = axes.split_shape(x.shape)
    before, inside, written, aligned = described

    def split(found: Sequence[_Described]) -> list[_Described]:
        return [(axes.split_strides(x.shape, s), size, role, a) for s, size, role, a in found]

    parameters: list[_Described] = [
        (axes.parameter_strides(a.strides, len(shape)), a.dtype.itemsize, PARAMETER, alignment)
        for a, alignment in zip((weight, bias), aligned, strict=True)
        if a is not None
    ]
    # In the order of the kernel's geometry.
    found = [*split(before), *parameters, *split(inside), *split(written)]
    strides = [s for s, _, _, _ in found]
    itemsizes = tuple(size for _, size, _, _ in found)
    roles = tuple(role for _, _, role, _ in found)
    geometry = geometry_of(shape, strides, axes.reduced, memory_order(shape, strides[0]))
    inner, inner_strides, period = shared_parameters(geometry, roles, itemsizes)
    return RowsProblem(
        outer=geometry.outer,
        inner=inner,
        outer_strides=geometry.outer_strides,
        inner_strides=inner_strides,
        itemsizes=itemsizes,
        compute_itemsize=compute.compute_itemsize,
        tiles=1,
        keeps_exp=False,
        per_row=False,
        alignments=tuple(a for _, _, _, a in found),
        roles=roles,
        period=period,
        read_again=True,
        written=len(written),
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
    geometry: Geometry, roles: Sequence[int], itemsizes: Sequence[int]
) -> tuple[Shape, tuple[Strides, ...], int]:
    """Axes and strides of a row, and the period of its parameters.

    Rows of adjacent elements that only the weights of a group norm cut, one for each channel, are
    one axis: vectors need not end with a channel, whose weights are shared by a period of elements.
    """
    inner, strides = geometry.inner, geometry.inner_strides
    if len(inner) == 2 and all(
        s == (inner[1] * size, size) if role == ELEMENTWISE else s[1] == 0
        for s, role, size in zip(strides, roles, itemsizes, strict=True)
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
    bound: Bound | None,
) -> None:
    found = ELEMENTS[operands[0].dtype.name] if bound is None else bound.found
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
        instance = make_instance(norm, operands, found, problem, chosen, stage, bound)
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
    bound: Bound | None = None,
) -> Instance:
    """The template instance of a norm; `found` is what it computes in."""
    x, residual, weight, bias = operands
    parameters = ", ".join(
        "void" if a is None else ELEMENTS[a.dtype.name].storage for a in (weight, bias)
    )
    functor = norm.activation
    source, written = found, written_by(norm, x) if bound is None else bound.results[0]
    headers: tuple[str, ...] = () if functor is None else (functor.header,)
    definitions: tuple[str, ...] = ()
    functions = ""
    if bound is not None:
        source = row_functions.element_of(x)
        first = sum(a is not None for a in operands)
        extras = first + len(bound.views) + (residual is not None)
        functions = f", {bound.template(first, extras, extras + len(bound.extras))}"
        more, definitions = bound.source()
        headers = (*headers, *more)
    text = (
        f"NormForward<{norm.kind}, {source.storage}, {written.storage}, "
        f"{found.compute}, {parameters}, "
        f"{'true' if residual is not None else 'false'}, "
        f"{'Identity' if functor is None else functor.name}, "
        f"{row_arguments(problem, chosen)}, {chosen.keep}, {chosen.depth}, {stage}, "
        f"{'true' if chosen.streaming else 'false'}{functions}>"
    )
    return Instance("norm", text, chosen.threads, headers, definitions)
