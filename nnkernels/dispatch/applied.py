"""Fused functions that an op applies to its results: from the call's arguments to an epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from nnkernels.dispatch.axes import Shape, Strides, broadcast_to
from nnkernels.dispatch.dtypes import numpy_dtype
from nnkernels.dispatch.machines import require_aligned
from nnkernels.dispatch.matmul_call import Epilogue, no_dtype, types_of
from nnkernels.dispatch.results import adopt_out, check_memory, check_out, reach
from nnkernels.fusion.fuse import Fused
from nnkernels.fusion.inside import (
    adopt_operands,
    describe,
    out_names,
    outs_of,
    require_real,
)
from nnkernels.interop.libraries import Library


class Application(NamedTuple):
    """A fused function of ``alpha sum + beta d`` and operands, as they were given."""

    fused: Fused
    operands: tuple[Any, ...]
    alpha: complex = 1
    beta: complex = 1


class Applied(NamedTuple):
    """The same for arrays of some dtypes.

    Attributes
    ----------
    epilogue : Epilogue
        What is applied.
    arrays : sequence of arrays
        Its operands that are arrays, as views.
    numbers : bytes
        The numbers of this call.
    """

    epilogue: Epilogue
    arrays: Sequence[Any]
    numbers: bytes

    @property
    def names(self) -> tuple[str, ...]:
        """What these are called in messages."""
        function = self.epilogue.function
        assert function is not None
        return function.names

    def strides(self, shape: Shape) -> list[Strides]:
        """Strides of the operands broadcast to the result.

        Raises
        ------
        ShapeError
            Naming one that does not broadcast.
        """
        named = zip(self.arrays, self.names, strict=True)
        return [broadcast_to(array, shape, name) for array, name in named]


def apply_to(application: Application, dtype: Any, library: Library, like: Any) -> Applied:
    """The function for sums of some dtype, and its operands as views.

    Parameters
    ----------
    dtype : dtype
        Of the result that the op would have without the function.
    library, like
        Of the op's own arrays, and one of these.
    """
    fused, operands, alpha, beta = application
    if dtype.kind == "c":
        require_real(dtype, "a result")
    operands = tuple(adopt_operands(fused, 1, operands, library, like)) if operands else operands
    function, numbers = describe(fused, (dtype,), operands)
    if alpha == beta == 1:
        epilogue = _unscaled(function)
    else:
        epilogue = Epilogue(alpha, beta, function=function)
    if len(function.arrays) == len(operands):
        return Applied(epilogue, operands, numbers)
    return Applied(epilogue, [operands[i] for i in function.arrays], numbers)


@lru_cache(maxsize=1024)
def _unscaled(function: Any) -> Epilogue:
    return Epilogue(function=function)


def dtype_of_sums(
    arrays: Sequence[Any], names: Sequence[str], out_dtype: Any, epilogue: Application
) -> Any:
    """dtype of the result of a product without its function.

    Parameters
    ----------
    arrays : sequence of arrays
        Two operands, and what is added or None.

    Raises
    ------
    DTypeError
        As the product itself.
    """
    a, b, addend = arrays
    if addend is None and out_dtype is None and a.dtype is b.dtype and epilogue.alpha == 1:
        return a.dtype  # whether it is one of ours, the plan will see
    given = tuple([None if a is None else a.dtype for a in arrays])
    try:
        return _dtype_of_sums(given, tuple(names), out_dtype, epilogue.alpha, epilogue.beta)
    except TypeError:  # an out_dtype that cannot be a key is no dtype either
        raise no_dtype(out_dtype) from None


def dtype_of_arrays(arrays: Sequence[Any], names: Sequence[str], out_dtype: Any) -> Any:
    """The same of two or three adopted arrays."""
    given = [*arrays, None][:3]
    return _dtype_of_sums(
        tuple([None if a is None else a.dtype for a in given]), tuple(names), out_dtype, 1, 1
    )


class _OfDtype(NamedTuple):
    """What has a dtype alone."""

    dtype: Any


@lru_cache(maxsize=1024)
def _dtype_of_sums(
    given: tuple[Any, ...], names: tuple[str, ...], out_dtype: Any, alpha: complex, beta: complex
) -> Any:
    a, b, addend = (None if d is None else _OfDtype(d) for d in given)
    types = types_of(a, b, addend, names, out_dtype, Epilogue(alpha, beta))
    return numpy_dtype(types.c.name)


# ---- results that are given ---------------------------------------------------------------------


def adopted_outs(function: Any, out: Any, library: Library, like: Any) -> tuple[Any, ...]:
    """Views of the arrays of an ``out`` argument, one for each result of a function."""
    outs = zip(outs_of(function, out), out_names(function), strict=True)
    return tuple(adopt_out(o, name, library, like) for o, name in outs)


def check_outs(function: Any, outs: Sequence[Any], shape: Shape, machine: Any) -> None:
    """Check what stays the same for results of some shape and strides."""
    names = out_names(function)
    for view, name, dtype in zip(outs, names, function.results, strict=True):
        check_out(view, name, shape, numpy_dtype(dtype))
    require_aligned(machine, outs, names)


def check_outs_memory(
    function: Any,
    outs: Sequence[Any],
    inputs: tuple[Sequence[Any], Sequence[str]],
    elementwise: tuple[Sequence[Any], Sequence[str]],
    address: Any,
) -> None:
    """Check that results share no memory with what is read in another order.

    Parameters
    ----------
    inputs : tuple
        Arrays that no result may overlap, and their names.
    elementwise : tuple
        Those that a result may be.
    """
    names = out_names(function)
    for i, out in enumerate(outs):
        own = address(out), reach(out)
        further = list(outs[i + 1 :]), names[i + 1 :]
        for group in (elementwise, inputs, further):
            arrays, array_names = group
            addresses = [own[0], *map(address, arrays)]
            reaches = [own[1], *map(reach, arrays)]
            in_place = len(arrays) if group is elementwise else 0
            check_memory(out, names[i], arrays, array_names, in_place, addresses, reaches)
