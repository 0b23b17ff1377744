"""Plans of matrix products: everything about a call but its pointers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nnkernels.dispatch import machines
from nnkernels.dispatch.applied import Applied, check_outs
from nnkernels.dispatch.axes import contiguous_strides
from nnkernels.dispatch.dtypes import numpy_dtype
from nnkernels.dispatch.matmul_call import Call, Epilogue, types_of
from nnkernels.dispatch.matmul_launch import prepare_gemv, prepare_matmul
from nnkernels.dispatch.matmul_packing import call_struct
from nnkernels.dispatch.matmul_product import match_shapes
from nnkernels.dispatch.matmul_splits import Splits
from nnkernels.dispatch.packing import pointer_struct
from nnkernels.dispatch.results import Allocation, check_out, reach


class MatmulPlan:
    """Everything about a call but its pointers."""

    __slots__ = (
        "adds",
        "allocation",
        "further",
        "mirrored",
        "pack",
        "reaches",
        "splits",
        "start",
        "tail",
    )

    def __init__(self, allocation: Allocation) -> None:
        self.allocation = allocation
        # Of the further results of a fused function.
        self.further: tuple[Allocation, ...] = ()
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
    outs: Sequence[Any] | None,
    in_place: bool,
    alignments: tuple[int, int, int],
    precision: str | None = None,
    found: Applied | None = None,
    more_alignments: tuple[int, ...] = (),
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
    outs : sequence of arrays, optional
        The results, where they are given.
    in_place : bool
        Whether the first one is an array that is added, or another one that the epilogue reads.
    alignments : tuple of int
        Powers of two, up to 16, that the addresses of the operands and of the result are multiples
        of.
    precision : {None, "tf32"}
        What operands may be rounded to.
    found : Applied, optional
        The fused function of the epilogue.
    more_alignments : tuple of int
        Of the addresses of its further arrays; on a CPU none.
    """
    a, b, addend = arrays
    types = types_of(a, b, addend, names, out_dtype, epilogue)
    given = [x for x in arrays if x is not None]
    machines.require_aligned(machine, given, names[: len(given)])
    shapes = match_shapes(a, b, names, vectors)
    dtype = numpy_dtype(types.result.name)
    dtypes = [dtype, *(numpy_dtype(e.name) for e in epilogue.written[1:])]
    order = tuple(range(len(shapes.result)))
    plan = MatmulPlan(Allocation(shapes.result, dtype, order))
    plan.further = tuple(Allocation(shapes.result, d, order) for d in dtypes[1:])
    if outs is None:
        strides = [contiguous_strides(shapes.result, d.itemsize) for d in dtypes]
    else:
        strides = [out.strides for out in outs]
        if found is None:
            check_out(outs[0], "out", shapes.result, dtype)
            machines.require_aligned(machine, outs, ("out",))
            plan.reaches = [reach(array) for array in (*outs, *given)]
        else:
            check_outs(epilogue.function, outs, shapes.result, machine)
    more: list[Any] = []
    if found is not None:
        assert epilogue.function is not None
        machines.require_aligned(machine, found.arrays, epilogue.function.names)
        more = [*found.strides(shapes.result), *strides[1:]]
    product = shapes.product(a, b, strides[0], addend, names[-1], more)
    if epilogue.beta == 0:  # what would be added is checked, and not read
        product, types = replace(product, strides_d=None), replace(types, d=None)
    if product.strides_d is None and epilogue.beta != 1:
        epilogue = replace(epilogue, beta=1)
    plan.adds = product.strides_d is not None
    plan.pack = call_struct(len(product.added), epilogue, 3).pack
    if 0 in shapes.result:
        return plan
    product, plan.mirrored = product.oriented()
    if plan.mirrored:
        types, conjugate = types.mirrored(), conjugate[::-1]
        alignments = (alignments[1], alignments[0], alignments[2])
    call = Call(
        product, types, conjugate, epilogue, alignments, in_place, precision, more_alignments
    )
    prepare = prepare_gemv if product.m == 1 else prepare_matmul
    plan.tail, plan.start, plan.splits = prepare(call, machine)
    if plan.splits is not None:
        plan.pack = pointer_struct(3).pack
    return plan
