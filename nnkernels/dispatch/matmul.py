"""Matrix products: from arrays to a launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnkernels.dispatch import machines, matmul_plan, rows
from nnkernels.dispatch.dtypes import ELEMENTS
from nnkernels.dispatch.elementwise import remember
from nnkernels.dispatch.matmul_plan import PLAIN, Epilogue
from nnkernels.dispatch.matmul_product import match_shapes
from nnkernels.dispatch.results import adopt_out, check_memory
from nnkernels.errors import ShapeError
from nnkernels.interop.libraries import NUMPY, Library, adopt_all, library_of

NAMES = ("x1", "x2")


def apply(
    x1: Any,
    x2: Any,
    out_dtype: Any = None,
    conjugate: tuple[bool, bool] = (False, False),
    out: Any = None,
    epilogue: Epilogue = PLAIN,
) -> Any:
    """The product of two stacks of matrices, as the Array API defines it.

    Parameters
    ----------
    conjugate : pair of bool
        Whether to take the complex conjugate of each operand.
    epilogue : Epilogue
        What is done with the sums.
    """
    (a, b), library, like = adopted((x1, x2), NAMES)
    return multiply(
        (a, b, None),
        NAMES,
        library,
        like,
        out_dtype=out_dtype,
        conjugate=conjugate,
        epilogue=epilogue,
        out=out,
    )


def adopted(arrays: Sequence[Any], names: Sequence[str]) -> tuple[Sequence[Any], Library, Any]:
    """NumPy or CuPy views of some arrays, their library, and one of the original ones."""
    for array in arrays:
        if type(array) is not np.ndarray:
            return adopt_all(arrays, names)
    return arrays, NUMPY, arrays[0]


def multiply(
    arrays: tuple[Any, Any, Any],
    names: Sequence[str],
    library: Library,
    like: Any,
    *,
    out_dtype: Any = None,
    conjugate: tuple[bool, bool] = (False, False),
    epilogue: Epilogue = PLAIN,
    vectors: bool | None = None,
    out: Any = None,
) -> Any:
    """The product of two adopted operands, plus a third array if there is one.

    Parameters
    ----------
    arrays : tuple of arrays
        NumPy or CuPy views of both operands and, or None, of what is added.
    names : sequence of str
        Their names, for messages.
    library, like
        What the result is restored to: see `adopted`.
    vectors : bool, optional
        Whether the second operand is a stack of vectors. Default: whether it has one axis.
    """
    a, b, addend = arrays
    machine, address = machines.for_array(a)
    view = None if out is None else adopt_out(out, "out", library, like)
    key: Any = (
        "matmul",
        a.shape,
        a.strides,
        a.dtype,
        b.shape,
        b.strides,
        b.dtype,
        out_dtype,
        conjugate,
        vectors,
    )
    if addend is not None or epilogue is not PLAIN:
        key = (*key, epilogue)
    if addend is not None:
        key = (*key, addend.shape, addend.strides, addend.dtype)
    if view is not None:
        key = (*key, view.shape, view.strides, view.dtype)
    plans = machine.plans
    try:
        plan = plans.get(key)
    except TypeError:  # an out_dtype that cannot be a key is no dtype either
        raise matmul_plan.no_dtype(out_dtype) from None
    if plan is None:
        plan = matmul_plan.make_plan(
            arrays, names, vectors, out_dtype, conjugate, epilogue, machine, view
        )
        remember(plans, key, plan)
    if view is None:
        result = plan.allocation.make(machine)
    else:
        result = view
        inputs = arrays if addend is not None else (a, b)
        addresses = [address(view), *map(address, inputs)]
        check_memory(view, "out", inputs, names, False, addresses, plan.reaches)
    if plan.start is not None:
        first, second = (b, a) if plan.mirrored else (a, b)
        pointers: tuple[int, ...] = (address(first), address(second), address(result))
        if addend is not None:
            pointers = (address(addend), *pointers)
        plan.start(plan.pack(*pointers) + plan.tail)
    return library.restore(result, like) if out is None else out


def transposed(x: Any) -> Any:
    """A view with the last two axes exchanged, for an array of any library."""
    return x.swapaxes(-1, -2) if hasattr(x, "swapaxes") else x.mT


def gradient(x1: Any, x2: Any, conjugate: tuple[bool, bool], operand: Any) -> Any:
    """A product of the shape and dtype of an operand, summed over its broadcast batches.

    The terms of a sum keep the type of the accumulator: only the sum is rounded.
    """
    (a, b, wanted), library, like = adopt_all((x1, x2, operand), (*NAMES, "operand"))
    name = wanted.dtype.name
    terms = (
        name if match_shapes(a, b, NAMES).result == wanted.shape else ELEMENTS[name].compute_name
    )
    return library.restore(
        rows.sum_to_shape(apply(a, b, terms, conjugate), wanted.shape, name), like
    )


def check_cotangent(dy: Any, x1: Any, x2: Any) -> None:
    """Check the arguments of the gradient together.

    Raises
    ------
    DTypeError
        If one is no array.
    ShapeError
        If ``dy`` has not the shape of the product.
    """
    for array, name in ((dy, "dy"), (x1, "x1"), (x2, "x2")):
        library_of(array, name)  # not even a Python number
    (cotangent, a, b), _, _ = adopt_all((dy, x1, x2), ("dy", *NAMES))
    shape = match_shapes(a, b, NAMES).result
    if cotangent.shape != shape:
        raise ShapeError(
            f"dy has shape {cotangent.shape}; the product of x1 and x2 has shape {shape}"
        )
