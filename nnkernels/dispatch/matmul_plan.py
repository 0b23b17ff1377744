"""Plans of matrix products: everything about a call but its pointers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nnkernels.dispatch import machines
from nnkernels.dispatch.axes import contiguous_strides
from nnkernels.dispatch.dtypes import numpy_dtype
from nnkernels.dispatch.matmul_call import Call, Epilogue, types_of
from nnkernels.dispatch.matmul_launch import prepare_gemv, prepare_matmul
from nnkernels.dispatch.matmul_product import match_shapes
from nnkernels.dispatch.matmul_splits import Splits
from nnkernels.dispatch.packing import pointer_struct
from nnkernels.dispatch.results import Allocation, check_out, reach


class MatmulPlan:
    """Everything about a call but its pointers."""

    __slots__ = ("adds", "allocation", "mirrored", "pack", "reaches", "splits", "start", "tail")

    def __init__(self, allocation: Allocation) -> None:
        self.allocation = allocation
        self.start: Any = None
        # Whether the kernel makes the transposed product: its operands change places.
        self.mirrored = False
        self.tail = b""
        # What adds up the sums of the first launch, where they are split.
        self.splits: Splits | None = None
        # Whether the kernel reads a third array, whose pointer then comes first.
        self.adds = False
        self.pack: Any = None
        # Where the result is given: the lowest and highest byte of it and of every operand.
        self.reaches: list[tuple[int, int]] = []


def make_plan(
    arrays: tuple[Any, Any, Any],
    names: Sequence[str],
    vectors: bool | None,
    out_dtype: Any,
    conjugate: tuple[bool, bool],
    epilogue: Epilogue,
    machine: Any,
    out: Any,
    in_place: bool,
    alignments: tuple[int, int, int],
    precision: str | None = None,
) -> MatmulPlan:
    """The plan of a call.

    Parameters
    ----------
    arrays : tuple of arrays
        Both operands, and what is added to their product or None.
    names : sequence of str
        Their names, for messages.
    vectors : bool, optional
        Whether the second operand is a stack of vectors. Default: whether it has one axis.
    out_dtype, conjugate, epilogue
        See `matmul.apply`.
    machine : machine
        Where it will run.
    out : array, optional
        The result, where it is given.
    in_place : bool
        Whether it is the array that is added.
    alignments : tuple of int
        Powers of two, up to 16, that the addresses of the operands and of the result are multiples
        of.
    precision : {None, "tf32"}
        What operands may be rounded to.
    """
    a, b, addend = arrays
    types = types_of(a, b, addend, names, out_dtype, epilogue)
    given = [x for x in arrays if x is not None]
    machines.require_aligned(machine, given, names[: len(given)])
    shapes = match_shapes(a, b, names, vectors)
    dtype = numpy_dtype(types.c.name)
    plan = MatmulPlan(Allocation(shapes.result, dtype, tuple(range(len(shapes.result)))))
    if out is not None:
        check_out(out, "out", shapes.result, dtype)
        machines.require_aligned(machine, (out,), ("out",))
        plan.reaches = [reach(array) for array in (out, *given)]
    strides_c = contiguous_strides(shapes.result, dtype.itemsize) if out is None else out.strides
    product = shapes.product(a, b, strides_c, addend, names[-1])
    if epilogue.beta == 0:  # what would be added is checked, and not read
        product, types = replace(product, strides_d=None), replace(types, d=None)
    if product.strides_d is None and epilogue.beta != 1:
        epilogue = replace(epilogue, beta=1)
    plan.adds = product.strides_d is not None
    plan.pack = pointer_struct(4 if plan.adds else 3).pack
    if 0 in shapes.result:
        return plan
    product, plan.mirrored = product.oriented()
    if plan.mirrored:
        types, conjugate = types.mirrored(), conjugate[::-1]
        alignments = (alignments[1], alignments[0], alignments[2])
    call = Call(product, types, conjugate, epilogue, alignments, in_place, precision)
    prepare = prepare_gemv if product.m == 1 else prepare_matmul
    plan.tail, plan.start, plan.splits = prepare(call, machine)
    if plan.splits is not None:
        plan.pack = pointer_struct(3).pack
    return plan
