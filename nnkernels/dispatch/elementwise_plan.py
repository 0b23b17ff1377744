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
    """Shape and dtype of the results, for a functor whose results have one dtype.

    Raises
    ------
    DTypeError, ShapeError
        Naming the arguments that do not fit.
    """
    names = tuple(
        require(a.dtype, functor.kinds, n).name for a, n in zip(arrays, functor.names, strict=True)
    )
    return result_shape(functor, arrays), numpy_dtype(promote(names))


def result_shape(functor: Functor, arrays: Sequence[Any]) -> Shape:
    """Shape of the results.

    Raises
    ------
    ShapeError
        Naming the arguments that do not fit.
    """
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
    return shape


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
    shape = result_shape(functor, arrays)
    written = functor.written(arrays, wide)
    machines.require_aligned(machine, arrays, functor.names)
    inputs = [broadcast_strides(a.shape, a.strides, shape) for a in arrays]
    if outs is None:
        leader = next((i for i, a in enumerate(arrays) if a.shape == shape), 0)
        order = memory_order(shape, inputs[leader])
        allocations = tuple(Allocation(shape, dtype, order) for dtype in written)
        results = [contiguous_strides(shape, dtype.itemsize, order) for dtype in written]
    else:
        allocations = ()
        results = [o.strides for o in outs]
        order = memory_order(shape, results[0])
    operands = functor.outputs + functor.inputs
    if 0 in shape:
        return Plan(allocations, None, b"", operands)
    dtypes = [*written, *(a.dtype for a in arrays)]
    text, widest = functor.computing(arrays)
    strides = [tuple(s[axis] for axis in order) for s in (*results, *inputs)]
    merged_shape, merged = merge(tuple(shape[axis] for axis in order), strides)
    problem = ElementwiseProblem(
        shape=merged_shape,
        strides=tuple(merged),
        itemsizes=tuple(dtype.itemsize for dtype in dtypes),
        compute_itemsize=widest,
        results=functor.outputs,
        alignment=alignment,
        chains=functor.chains,
    )
    chosen = config.configure(problem, machine.device)
    storage = [ELEMENTS[d.name].storage if d.name in ELEMENTS else "uint8" for d in dtypes]
    instance = _instance(functor, text, storage, len(merged_shape), chosen)
    packer, blocks = pack_geometry(problem, chosen)
    functor.pack(packer, arrays, params)
    tail = packer.finish()
    traffic = sum(dtype.itemsize for dtype in dtypes) * int(np.prod(shape, dtype=np.int64))
    return Plan(allocations, machine.prepare(instance, blocks, 0, traffic), tail, operands)


def make_instance(
    functor: Functor,
    result: Element,
    elements: Sequence[Element],
    rank: int,
    chosen: ElementwiseConfig,
) -> Instance:
    """The template instance for a functor, the types of results and inputs, and a config."""
    return _instance(functor, result.compute, [e.storage for e in elements], rank, chosen)


def _instance(
    functor: Functor, computing: str, storage: list[str], rank: int, chosen: ElementwiseConfig
) -> Instance:
    outs, ins = storage[: functor.outputs], storage[functor.outputs :]
    return instance_of(functor.name, computing, outs, ins, rank, chosen, *functor.source())


def instance_of(
    functor: str,
    computing: str,
    outs: Sequence[str],
    ins: Sequence[str],
    rank: int,
    chosen: ElementwiseConfig,
    headers: tuple[str, ...],
    definitions: tuple[str, ...],
) -> Instance:
    """The template instance for a functor by its C++ name, and the C++ types of its arrays."""
    steps = ", ".join(map(str, chosen.steps))
    index = "int32" if chosen.index == "i" else "int64"
    streaming = "true" if chosen.streaming else "false"
    kernel = (
        f"Elementwise<{functor}, {computing}, Types<{', '.join(outs)}>, Types<{', '.join(ins)}>, "
        f"Ints<{steps}>, {chosen.vector}, {chosen.unroll}, {rank}, {index}, {streaming}>"
    )
    return Instance("elementwise", kernel, chosen.threads, headers, definitions)


def pack_arguments(
    problem: ElementwiseProblem,
    chosen: ElementwiseConfig,
    result: Element,
    params: tuple[complex, ...],
) -> tuple[bytes, int]:
    """Everything that follows the pointers, and the number of blocks."""
    packer, blocks = pack_geometry(problem, chosen)
    packer.add_scalars(result.compute_name, params or (0,))
    return packer.finish(), blocks


def pack_geometry(problem: ElementwiseProblem, chosen: ElementwiseConfig) -> tuple[Packer, int]:
    """What follows the pointers, up to the parameters, and the number of blocks."""
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
    return packer, -(-vectors // chosen.tile)
