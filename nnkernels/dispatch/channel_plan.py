"""Plans of batch normalisation: everything about a call but its pointers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from operator import itemgetter
from typing import Any, Protocol

from nnkernels.compile.instance import Instance
from nnkernels.config import batch_norm as config
from nnkernels.config import elementwise as elementwise_config
from nnkernels.config.batch_norm import ChannelConfig, ChannelProblem
from nnkernels.config.elementwise import ElementwiseProblem
from nnkernels.config.rows import ACROSS
from nnkernels.dispatch import elementwise_plan
from nnkernels.dispatch.axes import Strides, contiguous_strides, memory_order, merge
from nnkernels.dispatch.dtypes import ELEMENTS, Element, numpy_dtype
from nnkernels.dispatch.elementwise import Functor
from nnkernels.dispatch.packing import Packer, pointer_struct
from nnkernels.dispatch.results import Allocation

# Launches of a channel: see cuda_src/nnk/channel_team.cuh.
WHOLE, STATISTICS, PART, FINISH, APPLY = 0, 1, 2, 3, 4
# Rows of coefficients begin at a multiple of so many elements: of a cache line at least.
_ROW_ELEMENTS = 16


@dataclass
class ChannelPlan:
    """Everything about a call but its pointers.

    Those are numbered through: operands, results, rows of coefficients, workspace.

    Attributes
    ----------
    results : tuple of Allocation or None
        None for a result that is not wanted.
    launches : list
        For each what starts it, what takes its pointers from a list of all and what packs them, its
        other arguments, and which end of these a call with fused functions gives: 0 for none.
    extras, more : tuple of Allocation
        Further results of a prologue and of an epilogue.
    coefficients, workspace : Allocation or None
        What lies between launches.
    row_starts : tuple of int
        The byte at which each row of coefficients begins, also where there are none.
    fill : bool
        Whether the results are zeros, and nothing is launched.
    """

    results: tuple[Allocation | None, ...]
    launches: list[tuple[Any, Any, Any, bytes, int]] = field(default_factory=list)
    coefficients: Allocation | None = None
    workspace: Allocation | None = None
    row_starts: tuple[int, ...] = ()
    fill: bool = False
    extras: tuple[Allocation, ...] = ()
    more: tuple[Allocation, ...] = ()

    def add(self, start: Any, numbers: tuple[int, ...], tail: bytes, end: int = 0) -> None:
        """Add a launch with the pointers of these numbers."""
        pack = pointer_struct(len(numbers)).pack
        self.launches.append((start, itemgetter(*numbers), pack, tail, end))


class ChannelFunctions(Protocol):
    """Fused functions inside the kernels of a reduction."""

    def of_stage(self, stage: int) -> tuple[str, tuple[str, ...], tuple[str, ...], int]:
        """Of a launch: further template arguments, headers, generated text, and the `end`."""


class Channels:
    """x as channels: its axes in memory order, and the strides of a result like it."""

    def __init__(self, x: Any, axis: int, found: Element) -> None:
        self.shape, self.axis, self.found = x.shape, axis, found
        self.order = memory_order(x.shape, x.strides)
        self.count = x.shape[axis]
        self.length = prod(n for a, n in enumerate(x.shape) if a != axis)
        long_axes = [a for a in self.order if x.shape[a] > 1]
        self.last = bool(long_axes) and long_axes[-1] == axis
        self.row_elements = -(-self.count // _ROW_ELEMENTS) * _ROW_ELEMENTS
        self.row_bytes = self.row_elements * found.compute_itemsize

    def like(self, dtype: Any) -> Allocation:
        """A result of the shape and memory order of x."""
        return Allocation(self.shape, dtype, self.order)

    def strides_like(self, element: Element) -> Strides:
        """Strides of such a result."""
        return contiguous_strides(self.shape, element.itemsize, self.order)

    def vector(self, dtype: Any) -> Allocation:
        """A result with one element for each channel."""
        return Allocation((self.count,), dtype, (0,))

    def along(self, stride: int) -> Strides:
        """Strides of an array with one element for each channel, broadcast to the shape of x."""
        return tuple(stride if a == self.axis else 0 for a in range(len(self.shape)))

    def problem(
        self,
        operands: Sequence[tuple[Element, Strides]],
        parameter_strides: tuple[int, ...],
        alignment: int,
        inputs: int = 1,
    ) -> ChannelProblem:
        """The reduction over arrays of the shape of x, of which so many are its operands."""
        strides = [s for _, s in operands]
        rest = [a for a in self.order if a != self.axis]
        inner, inner_strides = merge(
            tuple(self.shape[a] for a in rest), [tuple(s[a] for a in rest) for s in strides]
        )
        return ChannelProblem(
            channels=self.count,
            inner=inner,
            channel_strides=tuple(s[self.axis] for s in strides),
            inner_strides=tuple(inner_strides),
            parameter_strides=parameter_strides,
            itemsizes=tuple(e.itemsize for e, _ in operands),
            compute_itemsize=self.found.compute_itemsize,
            channels_last=self.last,
            alignment=alignment,
            inputs=inputs,
        )


def add_reduction(
    plan: ChannelPlan,
    channels: Channels,
    machine: Any,
    problem: ChannelProblem,
    types: str,
    kernel: tuple[str, str, str],
    numbers: tuple[int, ...],
    scalars: Sequence[float],
    saved: int,
    functions: ChannelFunctions | None = None,
) -> ChannelConfig:
    """Add the launches of a reduction over channels.

    Parameters
    ----------
    types : str
        Template arguments up to the activation or what stands in its place.
    kernel : tuple of str
        Struct, header, and another header or "".
    numbers : tuple of int
        Of its pointers: see `ChannelPlan`.
    scalars : sequence of float
        Of the computing type.
    saved : int
        Numbers that a part of a channel saves.
    functions : ChannelFunctions, optional
        What goes into the kernels.
    """
    chosen = config.configure(problem, machine.device)
    found = channels.found
    tail = _pack(problem, chosen, channels, len(numbers), scalars)
    traffic = channels.count * channels.length * sum(problem.itemsizes)
    if chosen.applies:
        plan.coefficients = None  # nothing lies between launches
    if chosen.parts > 1:
        size = channels.count * chosen.parts * saved
        plan.workspace = Allocation((size,), numpy_dtype(found.compute_name), (0,))
    stages = [PART, FINISH] if chosen.parts > 1 else [WHOLE if chosen.applies else STATISTICS]
    if chosen.follows and functions is None:
        stages.append(APPLY)
    struct, header, more = kernel
    for stage in stages:
        headers: tuple[str, ...] = (more,) if more else ()
        definitions: tuple[str, ...] = ()
        inside, end = "", 0
        if functions is not None and stage != FINISH:
            inside, sources, definitions, end = functions.of_stage(stage)
            headers = (*headers, *sources)
        text = f"{struct}<{types}, {_team(problem, chosen, stage)}{inside}>"
        instance = Instance(header, text, chosen.threads, headers, definitions)
        grid = chosen.tiles * chosen.parts
        moved = traffic
        if stage == FINISH:
            grid = -(-channels.count // (chosen.threads // machine.device.warp))
            moved = channels.count * chosen.parts * saved * found.compute_itemsize
        plan.add(machine.prepare(instance, grid, 0, moved), numbers, tail, end)
    return chosen


def _team(problem: ChannelProblem, chosen: ChannelConfig, stage: int) -> str:
    index = "int32" if chosen.index == "i" else "int64"
    operands = len(problem.channel_strides)
    crosses = "true" if chosen.crosses else "false"
    streaming = "true" if chosen.streaming and stage == WHOLE else "false"
    # As of rows (see rows_plan.whole_groups): a GPU loads without a branch.
    end = problem.channels if chosen.layout == ACROSS else problem.length
    whole = ", true" if chosen.threads > 1 and end % chosen.vector == 0 else ""
    return (
        f"RowGeometry<{operands}, 1, {len(problem.inner)}, {index}{whole}>, {chosen.layout}, "
        f"Ints<{', '.join(map(str, chosen.steps))}>, {chosen.vector}, {chosen.columns}, "
        f"{chosen.threads}, {chosen.team}, {crosses}, {stage}, {streaming}"
    )


def _pack(
    problem: ChannelProblem,
    chosen: ChannelConfig,
    channels: Channels,
    pointers: int,
    scalars: Sequence[float],
) -> bytes:
    across = chosen.layout == ACROSS
    packer = Packer(pointers, chosen.index)
    packer.add("q", chosen.parts)
    packer.add_index(chosen.part_groups, problem.channels, channels.row_elements)
    packer.add_index(*problem.parameter_strides)
    packer.add_scalars(channels.found.compute_name, scalars)
    packer.add("q", 1 if across else problem.channels)  # the geometry: an 8-byte aligned struct
    packer.add_index(problem.length, problem.channels if across else 1)
    packer.add_index(chosen.tiles if across else 1)
    packer.add_divisors((problem.channels,))
    packer.add_divisors(problem.inner)
    packer.add_index(*problem.channel_strides)
    for strides in problem.inner_strides:
        packer.add_index(*strides)
    return packer.finish()


def add_elementwise(
    plan: ChannelPlan,
    channels: Channels,
    machine: Any,
    functor: Functor,
    operands: Sequence[tuple[int, Element, Strides]],
    params: tuple[complex, ...],
    alignment: int,
    more_headers: tuple[str, ...] = (),
) -> None:
    """Add an elementwise launch.

    Parameters
    ----------
    operands : sequence
        Results first; for each the number of its pointer, its element type, and its strides along
        the axes of x, or for all of them along the channels alone.
    """
    along_x = len(operands[0][2]) == len(channels.shape)
    shape, order = (channels.shape, channels.order) if along_x else ((channels.count,), (0,))
    strides = [tuple(s[a] for a in order) for _, _, s in operands]
    merged_shape, merged = merge(tuple(shape[a] for a in order), strides)
    found = channels.found
    problem = ElementwiseProblem(
        shape=merged_shape,
        strides=tuple(merged),
        itemsizes=tuple(e.itemsize for _, e, _ in operands),
        compute_itemsize=found.compute_itemsize,
        results=functor.outputs,
        alignment=alignment,
    )
    chosen = elementwise_config.configure(problem, machine.device)
    elements = [e for _, e, _ in operands]
    instance = elementwise_plan.make_instance(functor, found, elements, len(merged_shape), chosen)
    instance = replace(instance, more_headers=(*more_headers, functor.header))
    tail, blocks = elementwise_plan.pack_arguments(problem, chosen, found, params)
    traffic = prod(merged_shape) * sum(
        e.itemsize for e, s in zip(elements, merged, strict=True) if any(s)
    )
    plan.add(
        machine.prepare(instance, blocks, 0, traffic),
        tuple(number for number, _, _ in operands),
        tail,
    )


def add_coefficients(plan: ChannelPlan, channels: Channels, rows: int) -> None:
    """Give a plan rows of coefficients, one element of each for a channel."""
    dtype = numpy_dtype(channels.found.compute_name)
    plan.coefficients = Allocation((rows, channels.row_elements), dtype, (0, 1))
    plan.row_starts = tuple(row * channels.row_bytes for row in range(rows))


def compute_element(found: Element) -> Element:
    """The element type of coefficients."""
    return ELEMENTS[found.compute_name]
