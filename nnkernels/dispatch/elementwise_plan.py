"""Plans of elementwise calls: everything about a call but its pointers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkernels.compile.instance import Instance
from nnkernels.config import elementwise as config
from nnkernels.config.elementwise import ElementwiseConfig, ElementwiseProblem
from nnkernels.dispatch import machines
from nnkernels.dispatch.axes import (
    Shape,
    broadcast_strides,
    contiguous_strides,
    memory_order,
    merge,
)
from nnkernels.dispatch.dtypes import ELEMENTS, Element, numpy_dtype, promote, require
from nnkernels.dispatch.packing import Packer, pointer_struct
from nnkernels.dispatch.results import Allocation
from nnkernels.errors import ShapeError

if TYPE_CHECKING:
    from nnkernels.dispatch.elementwise import Functor


class Plan:
    """Everything about a call but its pointers."""

    __slots__ = ("allocations", "pack", "reaches", "start", "tail")

    def __init__(
        self, allocations: tuple[Allocation, ...], start: Any, tail: bytes, operands: int
    ) -> None:
        self.allocations = allocations
        self.start = start
        self.tail = tail
        self.pack = pointer_struct(operands).pack
        # Where results are given: the lowest and highest byte of every operand.
        self.reaches: list[tuple[int, int]] = []


def result_type(functor: Functor, arrays: Sequence[Any]) -> tuple[Shape, Any]:
    """Shape and dtype of the results.

    Raises
    ------
    DTypeError, ShapeError
        Naming the arguments that do not fit.
    """
    names = tuple(
        require(a.dtype, functor.kinds, n).name for a, n in zip(arrays, functor.names, strict=True)
    )
    shapes = [a.shape for a in arrays]
    first = 1 if functor.cotangent else 0
    try:
        shape = np.broadcast_shapes(*shapes[first:])
    except ValueError:
        listed = zip(functor.names[first:], shapes[first:], strict=True)
        text = " and ".join(f"{name} of shape {shape}" for name, shape in listed)
        raise ShapeError(f"{text} do not broadcast together") from None
    if functor.cotangent and shapes[0] != shape:
        raise ShapeError(
            f"{functor.names[0]} has shape {shapes[0]}; it must have the shape {shape} of the "
            "result"
        )
    return shape, numpy_dtype(promote(names))


def make_plan(
    functor: Functor,
    arrays: Sequence[Any],
    params: tuple[complex, ...],
    machine: Any,
    alignment: int,
    outs: Any,
    wide: tuple[bool, ...] = (),
) -> Plan:
    """The plan of a call; with ``outs``, for results that are given."""
    shape, dtype = result_type(functor, arrays)
    machines.require_aligned(machine, arrays, functor.names)
    result = ELEMENTS[dtype.name]
    widened = wide or (False,) * functor.outputs
    written = [ELEMENTS[result.compute_name] if w else result for w in widened]
    inputs = [broadcast_strides(a.shape, a.strides, shape) for a in arrays]
    if outs is None:
        leader = next((i for i, a in enumerate(arrays) if a.shape == shape), 0)
        order = memory_order(shape, inputs[leader])
        allocations = tuple(Allocation(shape, numpy_dtype(e.name), order) for e in written)
        results = [contiguous_strides(shape, e.itemsize, order) for e in written]
    else:
        allocations = ()
        results = [o.strides for o in outs]
        order = memory_order(shape, results[0])
    operands = functor.outputs + functor.inputs
    if 0 in shape:
        return Plan(allocations, None, b"", operands)
    elements = written + [ELEMENTS[a.dtype.name] for a in arrays]
    strides = [tuple(s[axis] for axis in order) for s in (*results, *inputs)]
    merged_shape, merged = merge(tuple(shape[axis] for axis in order), strides)
    problem = ElementwiseProblem(
        shape=merged_shape,
        strides=tuple(merged),
        itemsizes=tuple(e.itemsize for e in elements),
        compute_itemsize=0 if result.kind == "c" else result.compute_itemsize,
        results=functor.outputs,
        alignment=alignment,
    )
    chosen = config.configure(problem, machine.device)
    instance = make_instance(functor, result, elements, len(merged_shape), chosen)
    tail, blocks = pack_arguments(problem, chosen, result, params)
    traffic = sum(e.itemsize for e in elements) * int(np.prod(shape, dtype=np.int64))
    return Plan(allocations, machine.prepare(instance, blocks, 0, traffic), tail, operands)


def make_instance(
    functor: Functor,
    result: Element,
    elements: Sequence[Element],
    rank: int,
    chosen: ElementwiseConfig,
) -> Instance:
    """The template instance for a functor, the types of results and inputs, and a config."""
    outs = ", ".join(e.storage for e in elements[: functor.outputs])
    ins = ", ".join(e.storage for e in elements[functor.outputs :])
    steps = ", ".join(map(str, chosen.steps))
    index = "int32" if chosen.index == "i" else "int64"
    streaming = "true" if chosen.streaming else "false"
    kernel = (
        f"Elementwise<{functor.name}, {result.compute}, Types<{outs}>, Types<{ins}>, "
        f"Ints<{steps}>, {chosen.vector}, {chosen.unroll}, {rank}, {index}, {streaming}>"
    )
    return Instance("elementwise", kernel, chosen.threads, (functor.header,))


def pack_arguments(
    problem: ElementwiseProblem,
    chosen: ElementwiseConfig,
    result: Element,
    params: tuple[complex, ...],
) -> tuple[bytes, int]:
    """Everything that follows the pointers, and the number of blocks."""
    inner = problem.shape[-1]
    row_vectors = -(-inner // chosen.vector)
    rows = int(np.prod(problem.shape[:-1], dtype=np.int64))
    vectors = rows * row_vectors
    packer = Packer(len(problem.itemsizes), chosen.index)
    packer.add("q", vectors, chosen.tile)
    packer.add_index(inner, row_vectors)
    packer.add_divisor(row_vectors)
    packer.add_divisors(problem.shape)
    for strides in problem.strides:
        packer.add_index(*strides)
    packer.add_scalars(result.compute_name, params or (0,))
    return packer.finish(), -(-vectors // chosen.tile)
