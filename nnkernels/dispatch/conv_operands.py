"""Operands of a convolution: their types and alignments, and the plan that begins with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nnkernels.dispatch import machines
from nnkernels.dispatch.applied import Applied
from nnkernels.dispatch.axes import (
    Shape,
    Strides,
    contiguous_strides,
    largest_power_of_two,
    memory_order,
)
from nnkernels.dispatch.conv_plan import ConvPlan
from nnkernels.dispatch.dtypes import Element, numpy_dtype
from nnkernels.dispatch.elementwise import alignment_of
from nnkernels.dispatch.matmul_call import Epilogue, Types, types_of
from nnkernels.dispatch.results import Allocation

# Integers of fewer bits are summed, and returned, in so many.
_LEAST_INTEGER = "int32"


@dataclass(frozen=True)
class Operands:
    """What is convolved: operands in order of their pointers.

    Attributes
    ----------
    arrays : sequence of arrays
        Two operands, and the bias or None.
    names : sequence of str
        Their names, for messages.
    out_dtype : optional
        dtype of the result. Default: that of a product of the two.
    found : Applied or None
        The fused function of the epilogue.
    precision : {None, "tf32"}
        What float32 operands may be rounded to.
    """

    arrays: Sequence[Any]
    names: Sequence[str]
    out_dtype: Any = None
    found: Applied | None = None
    precision: str | None = None

    def types(self, first: int, second: int, epilogue: Epilogue) -> Types:
        """Element types, with one of the operands as A and another one as B."""
        a, b = self.arrays[first], self.arrays[second]
        names = (self.names[first], self.names[second], self.names[-1])
        bias = self.arrays[2] if len(self.arrays) > 2 else None
        return types_of(a, b, bias, names, self.out_dtype or whole_dtype(a, b), epilogue)

    def alignment(self, number: int, machine: Any, offset: int = 0) -> int:
        """Of the address of an operand and some bytes: a power of two up to 16; on a CPU 1."""
        if not machine.device.is_gpu:
            return 1
        array = self.arrays[number]
        return alignment_of(machines.for_array(array)[1](array) + offset)

    @property
    def given(self) -> int:
        """How many operands there are."""
        more = 0 if self.found is None else len(self.found.arrays)
        return sum(array is not None for array in self.arrays) + more

    def more(self, shape: Shape, order: tuple[int, ...]) -> list[Strides]:
        """Strides of the arrays of the function, for results of some shape and order in memory."""
        if self.found is None:
            return []
        written = self.found.epilogue.written[1:]
        results = [contiguous_strides(shape, e.itemsize, order) for e in written]
        return [*self.found.strides(shape), *results]

    def more_alignments(self, machine: Any, offsets: Sequence[int]) -> tuple[int, ...]:
        """Of the addresses of those arrays and some bytes; on a CPU none."""
        if self.found is None or not machine.device.is_gpu:
            return ()
        arrays = self.found.arrays
        aligned = [alignment_of(machines.for_array(a)[1](a)) for a in arrays]
        aligned += [16] * (len(offsets) - len(arrays))
        return tuple(largest_power_of_two(a, o) for a, o in zip(aligned, offsets, strict=True))

    @property
    def bias_stride(self) -> int | None:
        """Bytes from element to element of the bias."""
        bias = self.arrays[2] if len(self.arrays) > 2 else None
        return None if bias is None else bias.strides[0]

    def common_alignment(self, machine: Any) -> int:
        """The largest power of two up to 16 that divides all addresses; on a CPU 1."""
        given = (i for i, array in enumerate(self.arrays) if array is not None)
        return min(self.alignment(i, machine) for i in given)


def whole_dtype(a: Any, b: Any) -> str | None:
    """dtype of the result where both operands are integers of few bits."""
    few = a.dtype.kind in "iu" and b.dtype.kind in "iu"
    return _LEAST_INTEGER if few and max(a.dtype.itemsize, b.dtype.itemsize) < 4 else None


def begin(
    operands: Operands, shape: Shape, element: Element, like: Any
) -> tuple[ConvPlan, Strides, list[Strides]]:
    """A plan without launches, and strides of its result, which lies as another array does.

    And of the arrays of a fused function.
    """
    dtype = numpy_dtype(element.name)
    order = memory_order(like.shape, like.strides)
    plan = ConvPlan(operands.given, Allocation(shape, dtype, order))
    if operands.found is not None:
        epilogue = operands.found.epilogue
        plan.function = epilogue.function
        further = (numpy_dtype(e.name) for e in epilogue.written[1:])
        plan.further = tuple(Allocation(shape, d, order) for d in further)
    strides = contiguous_strides(shape, dtype.itemsize, order)
    return plan, strides, operands.more(shape, order)


def channels_are_fast(image: Any, channels: int) -> bool:
    """Whether the channels of a group of an image are adjacent, and its last axis is not."""
    itemsize = image.dtype.itemsize
    return channels > 1 and image.strides[1] == itemsize and abs(image.strides[-1]) > itemsize
