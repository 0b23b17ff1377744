"""Plans of the gradients of row norms: everything about a call but its pointers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from operator import add, itemgetter
from typing import TYPE_CHECKING, Any

from nnkernels.compile.instance import Instance
from nnkernels.config import norm_backward as config
from nnkernels.config import rows as rows_config
from nnkernels.config.norm_backward import NO_SUMS, ROW_VALUES, NormBackwardProblem
from nnkernels.config.rows import ELEMENTWISE, PARAMETER, RowsConfig, RowsProblem
from nnkernels.dispatch.axes import Strides, contiguous_strides, memory_order
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

# Places of the pointers of a call: its arrays, results and workspaces, and 0 at the end.
DY, X, WEIGHT, _, ADDED, DX, DWEIGHT, DBIAS, WORK = range(9)
_NOTHING = -1


@dataclass(frozen=True)
class Step:
    """One launch.

    Attributes
    ----------
    start : callable
        Launches with packed arguments.
    tail : bytes
        The arguments after the pointers.
    pointers : tuple of (int, int)
        Place of each pointer, and bytes that are added to it.
    take, more, pack
        What gives these places of a list, the bytes to add, and what makes bytes of the sums.
    """

    start: Any
    tail: bytes
    pointers: tuple[tuple[int, int], ...]
    take: Any = field(init=False)
    more: tuple[int, ...] = field(init=False)
    pack: Any = field(init=False)

    def __post_init__(self) -> None:
        places, more = zip(*self.pointers, strict=True)
        object.__setattr__(self, "take", itemgetter(*places))
        object.__setattr__(self, "more", more)
        object.__setattr__(self, "pack", pointer_struct(len(places)).pack)

    def launch(self, addresses: Sequence[int]) -> None:
        """Run with the addresses of a call."""
        self.start(self.pack(*map(add, self.take(addresses), self.more)) + self.tail)


@dataclass
class Plan:
    """Everything about a call but its pointers.

    Attributes
    ----------
    results : tuple of (Allocation or None)
        dx, dweight, dbias.
    workspaces : list of Allocation
        Their addresses follow those of the results.
    steps : list of Step
        In order.
    zeros : bool
        Whether sums are over nothing.
    """

    results: tuple[Allocation | None, ...]
    workspaces: list[Allocation] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    zeros: bool = False

    def workspace(self, elements: int, dtype: str) -> int:
        """The place of a new workspace."""
        self.workspaces.append(Allocation((max(elements, 1),), numpy_dtype(dtype), (0,)))
        return WORK + len(self.workspaces) - 1


def make_plan(
    norm: Norm, axes: NormAxes, arrays: dict[str, Any], machine: Any, alignments: dict[str, int]
) -> Plan:
    """The plan of a call whose arrays have been checked."""
    return _Maker(norm.kind, axes, arrays, machine, alignments).make(norm.eps, norm.offset)


class _Maker:
    def __init__(
        self,
        kind: str,
        axes: NormAxes,
        arrays: dict[str, Any],
        machine: Any,
        alignments: dict[str, int],
    ) -> None:
        self.kind, self.axes, self.machine, self.alignments = kind, axes, machine, alignments
        x = arrays["x"]
        self.found: Element = ELEMENTS[x.dtype.name]
        self.dy: Element = ELEMENTS[arrays["dy"].dtype.name]
        self.arrays = arrays
        self.shape = axes.split_shape(x.shape)
        x_order = memory_order(x.shape, x.strides)
        self.strides: dict[str, Strides] = {
            name: axes.split_strides(x.shape, arrays[name].strides)
            for name in ("x", "dy", "dresidual")
            if name in arrays
        }
        dense = contiguous_strides(x.shape, self.found.itemsize, x_order)
        self.strides["dx"] = axes.split_strides(x.shape, dense)
        if "weight" in arrays:
            self.strides["weight"] = axes.parameter_strides(
                arrays["weight"].strides, len(self.shape)
            )
        self.order = memory_order(self.shape, self.strides["x"])
        # dweight and dbias lie in memory in the order of the row.
        places = [axes.parameters.index(a) for a in self.order if a in axes.parameters]
        self.parameter_order = (0,) if axes.channel is not None else tuple(places)
        self.parameter_axes = (
            axes.parameters
            if axes.channel is not None
            else tuple(axes.parameters[p] for p in places)
        )
        self.results = (
            Allocation(x.shape, x.dtype, x_order),
            self._parameter_result("weight"),
            self._parameter_result("bias"),
        )
        self.parameters = prod(self.shape[a] for a in axes.parameters)

    @property
    def values(self) -> int:
        """Numbers that are kept of a row."""
        return 3 if self.kind == "layer_kind" else 1

    def _parameter_result(self, name: str) -> Allocation | None:
        if name not in self.arrays:
            return None
        array = self.arrays[name]
        return Allocation(array.shape, array.dtype, self.parameter_order)

    def make(self, eps: float, offset: float) -> Plan:
        plan = Plan(self.results)
        if 0 in self.shape:
            plan.zeros = True
            return plan
        if self._add_groups(plan, eps):
            return plan
        problem = self._problem(self.axes.reduced)
        chosen = config.configure(problem, self.machine.device)
        sums = _NOTHING
        width = -(-problem.rows.length // chosen.rows.vector) * chosen.rows.vector
        outputs = problem.parameters
        compute = self.found.compute_name
        if chosen.sums == ROW_VALUES:
            sums = plan.workspace(problem.rows.rows * self.values, compute)
        elif chosen.sums != NO_SUMS:
            sums = plan.workspace(chosen.blocks * outputs * width, compute)
        self._add_rows(plan, problem, chosen, sums, eps, offset)
        if chosen.sums == ROW_VALUES:
            self._add_sums(plan, problem, sums)
        elif chosen.sums != NO_SUMS:
            self._add_partials(plan, sums, chosen.blocks, outputs, width)
        return plan

    # ---- the rows ----------------------------------------------------------------------------

    def _problem(self, reduced: tuple[int, ...]) -> NormBackwardProblem:
        nothing = (0,) * len(self.shape)
        names = ("x", "dy", "weight", "dresidual", "dx")
        strides = [self.strides.get(name, nothing) for name in names]
        geometry = geometry_of(self.shape, strides, reduced, self.order)
        item = self.found.itemsize
        weight_item = self.arrays["weight"].dtype.itemsize if "weight" in self.arrays else item
        added = ELEMENTWISE if "dresidual" in self.arrays else PARAMETER
        rows = RowsProblem(
            outer=geometry.outer,
            inner=geometry.inner,
            outer_strides=geometry.outer_strides,
            inner_strides=geometry.inner_strides,
            itemsizes=(item, self.dy.itemsize, weight_item, item, item),
            compute_itemsize=self.found.compute_itemsize,
            tiles=2,
            keeps_exp=False,
            per_row=False,
            alignments=self._alignments(*names),
            roles=(ELEMENTWISE, ELEMENTWISE, PARAMETER, added, ELEMENTWISE),
        )
        with_bias = "bias" in self.arrays
        row, parameters = (
            {a for a in axes if self.shape[a] > 1} for axes in (reduced, self.axes.parameters)
        )
        return NormBackwardProblem(
            rows,
            parameters=2 if with_bias else int("weight" in self.arrays),
            shared=row == parameters,
        )

    def _add_rows(
        self,
        plan: Plan,
        problem: NormBackwardProblem,
        chosen: config.NormBackwardConfig,
        sums: int,
        eps: float,
        offset: float,
    ) -> None:
        found, rows = self.found, chosen.rows
        scalar = "f" if found.compute_itemsize == 4 else "d"
        packer = Packer(7, rows.index)
        packer.add("q", problem.rows.rows, chosen.tiles, chosen.tiles_of_block)
        packer.add(scalar, eps, offset)
        add_rows(packer, problem.rows, rows, *grid_of(problem.rows, rows)[1:])
        tail = packer.finish()
        parts = _NOTHING
        if rows.parts > 1:
            parts = plan.workspace(problem.rows.rows * rows.parts * 5, found.compute_name)
        places = (X, DY, WEIGHT, ADDED, DX, sums, parts)
        moved = 2 * found.itemsize + self.dy.itemsize
        traffic = problem.rows.rows * problem.rows.length * moved
        stages = [WHOLE_ROW] if rows.parts == 1 else [PART_OF_ROW, FINISH_ROW]
        for stage in stages:
            grid = chosen.tiles if stage == PART_OF_ROW else chosen.blocks
            grid *= rows.parts
            instance = self._rows_instance(problem.rows, chosen, stage)
            start = self.machine.prepare(
                instance, grid, rows.kept * found.compute_itemsize, traffic
            )
            plan.steps.append(Step(start, tail, tuple((p, 0) for p in places)))

    def _rows_instance(
        self, problem: RowsProblem, chosen: config.NormBackwardConfig, stage: int
    ) -> Instance:
        found, rows = self.found, chosen.rows
        weight = found
        if "weight" in self.arrays:
            weight = ELEMENTS[self.arrays["weight"].dtype.name]
        sums = chosen.sums if stage != PART_OF_ROW else NO_SUMS
        flags = (rows.streaming, "weight" in self.arrays, "dresidual" in self.arrays)
        text = (
            f"NormBackward<{self.kind}, {found.storage}, {self.dy.storage}, {weight.storage}, "
            f"{found.compute}, {row_arguments(problem, rows)}, {rows.keep}, {rows.depth}, {stage}, "
            f"{', '.join(map(_cxx_bool, flags))}, {sums}>"
        )
        return Instance("norm_backward", text, rows.threads)

    # ---- groups of channels -------------------------------------------------------------------

    def _add_groups(self, plan: Plan, eps: float) -> bool:
        """Launches that read x and dy once for everything, if the layout lets them."""
        channel = self.axes.channel
        if channel is None:
            return False
        # Rows are channels, numbered by batch element, group and channel of the group.
        reduced = tuple(a for a in self.axes.reduced if a != channel + 1)
        order = [a for a in self.order if a not in reduced and self.shape[a] > 1]
        if order != sorted(order):
            return False
        problem = self._problem(reduced)
        rows, outputs = problem.rows, problem.parameters
        channels = self.shape[channel + 1]
        found = config.of_groups(rows, channels, self.machine.device)
        if found is None:
            return False
        chosen, whole = found
        compute, sums, workspace = self.found.compute_name, _NOTHING, _NOTHING
        if outputs:
            sums = plan.workspace(outputs * rows.rows, compute)
        if not whole:
            workspace = plan.workspace(rows.rows * config.CHANNEL_NUMBERS, compute)
        packer = Packer(7, chosen.index)
        packer.add_scalars(compute, (eps,))
        add_rows(packer, rows, chosen, 1, 1)
        tail = packer.finish()
        places = tuple((p, 0) for p in (X, DY, WEIGHT, ADDED, DX, sums, workspace))
        traffic = rows.rows * rows.length * (2 * self.found.itemsize + self.dy.itemsize)
        grid = rows.rows // channels if whole else rows.rows
        shared = chosen.kept * self.found.compute_itemsize
        for stage in [WHOLE_ROW] if whole else [PART_OF_ROW, FINISH_ROW]:
            instance = self._groups_instance(rows, chosen, stage, outputs)
            start = self.machine.prepare(instance, grid, shared, traffic)
            plan.steps.append(Step(start, tail, places))
        if outputs:
            count = rows.rows // self.parameters
            self._add_partials(plan, sums, count, outputs, self.parameters, by_output=True)
        return True

    def _groups_instance(
        self, rows: RowsProblem, chosen: RowsConfig, stage: int, outputs: int
    ) -> Instance:
        found = self.found
        weight = ELEMENTS[self.arrays["weight"].dtype.name] if "weight" in self.arrays else found
        flags = (chosen.streaming, "weight" in self.arrays, "dresidual" in self.arrays)
        text = (
            f"GroupNormBackward<{found.storage}, {self.dy.storage}, {weight.storage}, "
            f"{found.compute}, "
            f"{row_arguments(rows, chosen)}, {chosen.keep}, {stage}, "
            f"{', '.join(map(_cxx_bool, flags))}, {outputs}>"
        )
        return Instance("group_norm_backward", text, chosen.threads)

    # ---- the parameters -----------------------------------------------------------------------

    def _add_sums(self, plan: Plan, rows: NormBackwardProblem, values: int) -> None:
        """Launches that read x and dy once more, where parameters do not lie along the rows."""
        found = self.found
        nothing = (0,) * len(self.shape)
        row_axes = [a for a in self.order if a not in self.axes.reduced]
        number = self._dense(row_axes, found.compute_itemsize)
        outer_axes = self.parameter_axes
        others = tuple(a for a in self.order if a not in outer_axes)
        dweight, dbias = (
            nothing if r is None else self._dense(outer_axes, r.dtype.itemsize)
            for r in self.results[1:]
        )
        strides = [self.strides["x"], self.strides["dy"], number, dweight, dbias]
        geometry = geometry_of(self.shape, strides, others, (*outer_axes, *others))
        # The mean of every row follows the deviations of all of them.
        between = alignment_of(rows.rows.rows * found.compute_itemsize)
        aligned = (*self._alignments("x", "dy"), between)
        problem = self._sums_problem(geometry, found.itemsize, self.dy.itemsize, aligned)
        chosen = rows_config.configure(problem, self.machine.device)
        outputs = rows.parameters
        pointers = [(X, 0), (DY, 0), (values, 0), (DWEIGHT, 0), (DBIAS, 0)]
        partial = _NOTHING
        if chosen.parts > 1:
            partial = plan.workspace(chosen.parts * outputs * self.parameters, found.compute_name)
        self._add_sums_step(
            plan,
            problem,
            chosen,
            (*self._present(pointers), (partial, 0)),
            source="of_elements",
            stage=PART_OF_ROW if chosen.parts > 1 else WHOLE_ROW,
            stride=rows.rows.rows,
            biased=outputs == 2,
        )
        if chosen.parts > 1:
            self._add_partials(plan, partial, chosen.parts, outputs, self.parameters)

    def _add_partials(
        self,
        plan: Plan,
        partial: int,
        count: int,
        outputs: int,
        width: int,
        by_output: bool = False,
    ) -> None:
        """The launch that adds up partial sums: [count][outputs][width], or by output first."""
        size = self.found.compute_itemsize
        results = [
            (0,) if r is None or self.parameters == 1 else (r.dtype.itemsize,)
            for r in self.results[1:]
        ]
        step = (size if self.parameters > 1 else 0,)
        between = ((1 if by_output else outputs) * width * size if count > 1 else 0,)
        geometry = Geometry(
            (1,),
            (self.parameters,),
            (count,),
            (step, step, (0,), *results),
            (between, between, (0,), (0,), (0,)),
        )
        # Where the sums for dbias begin, after those for dweight.
        bias = (outputs - 1) * width * size * (count if by_output else 1)
        aligned = (alignment_of(bias), alignment_of(bias), alignment_of())  # both by one step
        problem = self._sums_problem(geometry, size, size, aligned)
        chosen = config.of_partials(problem, self.machine.device)
        pointers = [(partial, 0), (partial, bias), (_NOTHING, 0)]
        self._add_sums_step(
            plan,
            problem,
            chosen,
            (*pointers, *self._present([(DWEIGHT, 0), (DBIAS, 0)]), (_NOTHING, 0)),
            source="of_partials",
            stage=WHOLE_ROW,
            stride=0,
            biased=outputs == 2,
        )

    def _present(self, pointers: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        missing = {DWEIGHT: self.results[1] is None, DBIAS: self.results[2] is None}
        return [(_NOTHING, 0) if missing.get(p) else (p, more) for p, more in pointers]

    def _dense(self, axes: Sequence[int], itemsize: int) -> Strides:
        """Strides of an array that has some axes only, in this order in memory."""
        found, step = [0] * len(self.shape), itemsize
        for a in reversed(axes):
            found[a] = step
            step *= self.shape[a]
        return tuple(found)

    def _alignments(self, *names: str) -> tuple[int, ...]:
        return tuple(self.alignments[n] if n in self.arrays else alignment_of() for n in names)

    def _sums_problem(
        self,
        geometry: Geometry,
        itemsize: int,
        other_itemsize: int,
        alignments: tuple[int, ...],
    ) -> RowsProblem:
        """`alignments`: of all operands but the results."""
        found = self.found
        sizes = [
            found.compute_itemsize if r is None else r.dtype.itemsize for r in self.results[1:]
        ]
        return RowsProblem(
            outer=geometry.outer,
            inner=geometry.inner,
            outer_strides=geometry.outer_strides,
            inner_strides=geometry.inner_strides,
            itemsizes=(itemsize, other_itemsize, found.compute_itemsize, *sizes),
            compute_itemsize=found.compute_itemsize,
            tiles=0,
            keeps_exp=False,
            per_row=True,
            alignments=(*alignments, *(alignment_of(),) * 2),
            roles=(ELEMENTWISE, ELEMENTWISE, *(PARAMETER,) * 3),
        )

    def _add_sums_step(
        self,
        plan: Plan,
        problem: RowsProblem,
        chosen: RowsConfig,
        pointers: tuple[tuple[int, int], ...],
        *,
        source: str,
        stage: int,
        stride: int,
        biased: bool,
    ) -> None:
        found = self.found
        types = [found.compute] * 2
        if source == "of_elements":
            types = [found.storage, self.dy.storage]
        for result in self.results[1:]:
            types.append(found.compute if result is None else ELEMENTS[result.dtype.name].storage)
        text = (
            f"NormSums<{self.kind}, {source}, {', '.join(types)}, {found.compute}, "
            f"{row_arguments(problem, chosen)}, {stage}, {_cxx_bool(biased)}>"
        )
        packer = Packer(6, chosen.index)
        packer.add("q", stride, self.parameters)
        tiles, *beside = grid_of(problem, chosen)
        add_rows(packer, problem, chosen, *beside)
        tail = packer.finish()
        traffic = problem.rows * problem.length * (problem.itemsizes[0] + problem.itemsizes[1])
        start = self.machine.prepare(
            Instance("norm_sums", text, chosen.threads), tiles * chosen.parts, 0, traffic
        )
        plan.steps.append(Step(start, tail, pointers))


def _cxx_bool(value: bool) -> str:
    return "true" if value else "false"
