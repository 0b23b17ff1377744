"""Matrix products: from arrays to a launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnkernels.dispatch import applied, machines, matmul_call, matmul_plan
from nnkernels.dispatch.applied import Application, Applied
from nnkernels.dispatch.elementwise import alignment_of, remember
from nnkernels.dispatch.matmul_call import PLAIN, Epilogue
from nnkernels.dispatch.results import adopt_out, check_memory, is_same
from nnkernels.interop.libraries import NUMPY, Library, adopt_all

NAMES = ("x1", "x2")


def apply(
    x1: Any,
    x2: Any,
    out_dtype: Any = None,
    conjugate: tuple[bool, bool] = (False, False),
    out: Any = None,
    epilogue: Epilogue | Application = PLAIN,
    precision: str | None = None,
) -> Any:
    """The product of two stacks of matrices, as the Array API defines it.

    Parameters
    ----------
    conjugate : pair of bool
        Whether to take the complex conjugate of each operand.
    epilogue : Epilogue
        What is done with the sums.
    precision : {None, "tf32"}
        What operands may be rounded to.
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
        precision=precision,
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
    epilogue: Epilogue | Application = PLAIN,
    vectors: bool | None = None,
    precision: str | None = None,
    out: Any = None,
) -> Any:
    """The product of two adopted operands, plus a third array if there is one.

    The result may be written to the third array, and to no other operand.

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
    if type(epilogue) is Application:
        return _multiply_and_apply(
            arrays,
            names,
            library,
            like,
            out_dtype,
            conjugate,
            epilogue,
            vectors,
            precision,
            out,
        )
    assert isinstance(epilogue, Epilogue)
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
    if precision is not None:
        key = (*key, precision)
    if addend is not None or epilogue is not PLAIN:
        key = (*key, epilogue)
    if addend is not None:
        key = (*key, addend.shape, addend.strides, addend.dtype)
    in_place = view is not None and addend is not None and is_same(view, addend)
    if view is not None:
        key = (*key, view.shape, view.strides, view.dtype, in_place)
    alignments = (1, 1, 1)
    if machine.device.is_gpu:  # on a CPU, kernels do not depend on it
        aligned_c = 16 if view is None else alignment_of(address(view))
        alignments = (alignment_of(address(a)), alignment_of(address(b)), aligned_c)
        key = (*key, alignments)
    plans = machine.plans
    try:
        plan = plans.get(key)
    except TypeError:  # an out_dtype that cannot be a key is no dtype either
        raise matmul_call.no_dtype(out_dtype) from None
    if plan is None:
        plan = matmul_plan.make_plan(
            arrays,
            names,
            vectors,
            out_dtype,
            conjugate,
            epilogue,
            machine,
            None if view is None else (view,),
            in_place,
            alignments,
            precision,
        )
        remember(plans, key, plan)
    if view is None:
        result = plan.allocation.make(machine)
    else:
        result = view
        addresses, reaches = [address(view), address(a), address(b)], plan.reaches
        check_memory(view, "out", (a, b), names, 0, addresses, reaches)
        if addend is not None:
            addresses, reaches = [addresses[0], address(addend)], [reaches[0], reaches[3]]
            check_memory(view, "out", (addend,), names[2:], 1, addresses, reaches)
    if plan.start is not None:
        first, second = (b, a) if plan.mirrored else (a, b)
        pointers = (address(first), address(second))
        added = (address(addend),) if plan.adds else ()
        if plan.splits is None:
            plan.start(plan.pack(*added, *pointers, address(result)) + plan.tail)
        else:
            plan.splits.start(plan, machine, address, pointers, added, result)
    return library.restore(result, like) if out is None else out


def _multiply_and_apply(
    arrays: tuple[Any, Any, Any],
    names: Sequence[str],
    library: Library,
    like: Any,
    out_dtype: Any,
    conjugate: tuple[bool, bool],
    application: Application,
    vectors: bool | None,
    precision: str | None,
    out: Any,
) -> Any:
    """The product with a fused function of it and further arrays: see `multiply`."""
    a, b, addend = arrays
    dtype = applied.dtype_of_sums(arrays, names, out_dtype, application)
    found = applied.apply_to(application, dtype, library, like)
    function, more = found.epilogue.function, found.arrays
    assert function is not None
    machine, address = machines.for_array(a)
    outs = None if out is None else applied.adopted_outs(function, out, library, like)
    given = arrays if addend is not None else (a, b)
    key: Any = (
        found.epilogue,
        dtype,
        conjugate,
        vectors,
        precision,
        a.shape,
        a.strides,
        a.dtype,
        b.shape,
        b.strides,
        b.dtype,
    )
    for x in more if addend is None else (addend, *more):
        key = (*key, x.shape, x.strides, x.dtype)
    in_place = False
    if outs is not None:
        in_place = any(is_same(outs[0], x) for x in (*given[2:], *more))
        key = (key, in_place, tuple([(o.shape, o.strides, o.dtype) for o in outs]))
    alignments = (1, 1, 1)
    more_alignments: tuple[int, ...] = ()
    if machine.device.is_gpu:
        alignments, more_alignments = _alignments(address, arrays, found, outs)
        key = (key, alignments, more_alignments)
    plan = machine.plans.get(key)
    if plan is None:
        plan = matmul_plan.make_plan(
            arrays,
            names,
            vectors,
            out_dtype,
            conjugate,
            found.epilogue,
            machine,
            outs,
            in_place,
            alignments,
            precision,
            found,
            more_alignments,
        )
        remember(machine.plans, key, plan)
    if outs is None:
        results = (plan.allocation.make(machine), *[m.make(machine) for m in plan.further])
    else:
        results = outs
        own = [*given[2:], *more], [*names[2 : len(given)], *function.names]
        applied.check_outs_memory(function, outs, ((a, b), names[:2]), own, address)
    if plan.start is not None:
        first, second = (b, a) if plan.mirrored else (a, b)
        added = [address(x) for x in (*more, *results[1:])]
        if plan.adds:
            added.insert(0, address(addend))
        added.append(found.numbers)
        if plan.splits is None:
            packed = plan.pack(*added, address(first), address(second), address(results[0]))
            plan.start(packed + plan.tail)
        else:
            pair = address(first), address(second)
            plan.splits.start(plan, machine, address, pair, tuple(added), results[0])
    if out is not None:
        return out
    if not function.several:
        return library.restore(results[0], like)
    return tuple([library.restore(result, like) for result in results])


def _alignments(
    address: Any, arrays: tuple[Any, Any, Any], found: Applied, outs: Sequence[Any] | None
) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Of the addresses of A, B and C, and of the further arrays of a function."""
    aligned = [alignment_of(address(x)) for x in (*arrays[:2], *found.arrays)]
    function = found.epilogue.function
    assert function is not None
    written = [16] * len(function.results)
    if outs is not None:
        written = [alignment_of(address(out)) for out in outs]
    return (aligned[0], aligned[1], written[0]), (*aligned[2:], *written[1:])
