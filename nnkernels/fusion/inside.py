"""Fused functions inside other kernels: epilogues and prologues.

The kernel has the first value of the function in registers; the others are *operands*, arrays that
it loads and numbers that are arguments. ``describe`` gives what a plan depends on, and the bytes of
the numbers of one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from nnkernels.dispatch.dtypes import ELEMENTS
from nnkernels.errors import DTypeError
from nnkernels.fusion.emit import compute, storage
from nnkernels.fusion.expression import BOOL, Program
from nnkernels.fusion.functor import FusedFunctor, number_bytes
from nnkernels.fusion.fuse import Fused, Traced, fuse
from nnkernels.interop.libraries import NUMPY, Library, adopt_all


@dataclass(frozen=True, eq=False)
class Inside:
    """A function inside a kernel: one object for equal functions, so it is compared by identity.

    Attributes
    ----------
    functor : FusedFunctor
        What is computed, of the first values and then the operands that are arrays.
    firsts : int
        How many values the kernel has in registers.
    several : bool
        Whether the function returns a tuple.
    arrays : tuple of int
        Which operands are arrays, by their places among all operands.
    """

    functor: FusedFunctor
    firsts: int
    several: bool
    arrays: tuple[int, ...]

    @property
    def program(self) -> Program:
        """The operations."""
        return self.functor.program

    @cached_property
    def results(self) -> tuple[str, ...]:
        """dtypes of all results, by name; ``bool`` lies in memory as bytes."""
        return self.program.results

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the operands that are arrays."""
        return self.functor.names[self.firsts :]

    @property
    def operand_types(self) -> tuple[str, ...]:
        """C++ types of the elements of the operands."""
        return tuple(map(storage, self.program.inputs[self.firsts :]))

    @property
    def result_types(self) -> tuple[str, ...]:
        """C++ types of the elements of all results."""
        return tuple(map(storage, self.results))

    @property
    def count(self) -> int:
        """How many arrays the kernel reads and writes for it: operands, and all results but one."""
        return len(self.arrays) + len(self.results) - 1

    @property
    def operand_itemsizes(self) -> tuple[int, ...]:
        """Bytes of an element of each operand."""
        return tuple(_itemsize(dtype) for dtype in self.program.inputs[self.firsts :])

    @property
    def number_bytes(self) -> int:
        """How many bytes the numbers of a call are."""
        return number_bytes(self.program)

    def cpp_type(self, steps: Sequence[int] = ()) -> str:
        """``FusedFunction<...>`` of ``cuda_src/nnk/fused_operand.cuh``.

        Parameters
        ----------
        steps : sequence of int
            What is known of the steps of operands and then further results along the lanes, as in
            ``cuda_src/nnk/view.cuh``. Default: nothing.
        """
        first = compute(self.program.inputs[0])
        known = ", ".join(map(str, steps or (0,) * self.count))
        return (
            f"FusedFunction<{self.functor.name}, {first}, Types<{', '.join(self.operand_types)}>, "
            f"Types<{', '.join(self.result_types[1:])}>, Ints<{known}>>"
        )

    def source(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Headers of ``nnk/``, and generated text, that the C++ type needs."""
        headers, definitions = self.functor.source()
        return (*headers, "fused_operand"), definitions


def _itemsize(dtype: str) -> int:
    return 1 if dtype == BOOL else ELEMENTS[dtype].itemsize


_inside = lru_cache(maxsize=1024)(Inside)


@lru_cache(maxsize=1024)
def _inside_of(traced: Traced, firsts: int) -> Inside:
    arrays = tuple([i - firsts for i in traced.arrays[firsts:]])
    return _inside(traced.functor, firsts, traced.several, arrays)


def describe(
    fused: Fused, firsts: Sequence[np.dtype[Any]], operands: Sequence[Any]
) -> tuple[Inside, bytes]:
    """A function for some dtypes, and the bytes of its numbers in one call.

    Parameters
    ----------
    firsts : sequence of dtype
        Of the values that the kernel has.
    operands : sequence
        NumPy or CuPy views of arrays, numbers, and options (bool, str, None): see
        `adopt_operands`.

    Raises
    ------
    TraceError
        For what is not elementwise.
    DTypeError
        For dtypes that fused functions do not have.
    """
    traced = trace_inside(fused, firsts, operands)
    return _inside_of(traced, len(firsts)), traced.numbers((*firsts, *operands))


def trace_inside(fused: Fused, firsts: Sequence[np.dtype[Any]], operands: Sequence[Any]) -> Traced:
    """The trace of a function for some dtypes: see `describe`."""
    kinds: list[Any] = [*firsts]
    for operand in operands:
        kind = type(operand)
        if kind is np.ndarray:
            kinds.append(operand.dtype)
        elif kind is float or kind is int:
            kinds.append(kind)
        elif kind is bool or kind is str or operand is None:
            kinds.append((operand,))
        else:
            kinds.append(operand.dtype)
    return fused._traced(kinds)


def adopt_operands(
    fused: Fused, firsts: int, operands: Sequence[Any], library: Library, like: Any
) -> Sequence[Any]:
    """Operands with NumPy or CuPy views in place of the arrays.

    Parameters
    ----------
    firsts : int
        How many values come before them.
    library, like
        Of the arrays of the op itself, and one of these: operands must be of it.

    Raises
    ------
    DTypeError, BackendError
        Naming an operand that is no array, or of another library or device.
    """
    if library is NUMPY:
        for operand in operands:
            if type(operand) not in _PLAIN:
                break
        else:
            return operands
    names = fused._names(firsts + len(operands))[firsts:]
    given = [i for i, x in enumerate(operands) if type(x) not in _NO_ARRAYS]
    views, _, _ = adopt_all(
        [like, *(operands[i] for i in given)], ["the input", *(names[i] for i in given)]
    )
    adopted = list(operands)
    for i, view in zip(given, views[1:], strict=True):
        adopted[i] = view
    return adopted


_NO_ARRAYS = (float, int, bool, str, type(None))
_PLAIN = (np.ndarray, *_NO_ARRAYS)


def checked_operands(operands: Any) -> tuple[Any, ...]:
    """An ``operands`` argument as a tuple.

    Raises
    ------
    TypeError
        If it is none: one array, for example.
    """
    if type(operands) is tuple:
        return operands
    if not isinstance(operands, list):
        raise TypeError(
            f"operands must be a tuple of arrays and numbers, such as (bias,); got "
            f"{type(operands).__name__}"
        )
    return tuple(operands)


# As fuse, and one object for one function: a plain callable is traced once.
fused_of = lru_cache(maxsize=256)(fuse)


def outs_of(inside: Inside, out: Any) -> tuple[Any, ...]:
    """An ``out`` argument as one array for each result.

    Raises
    ------
    TypeError
        If there are not as many.
    """
    if not inside.several:
        return (out,)
    count = len(inside.results)
    if not isinstance(out, (tuple, list)) or len(out) != count:
        found = len(out) if isinstance(out, (tuple, list)) else type(out).__name__
        raise TypeError(f"out must be a tuple of {count} arrays, one for each result; got {found}")
    return tuple(out)


def out_names(inside: Inside) -> tuple[str, ...]:
    """What the arrays of an ``out`` argument are called in messages."""
    if not inside.several:
        return ("out",)
    return tuple(f"out[{i}]" for i in range(len(inside.results)))


def require_real(dtype: Any, what: str) -> None:
    """Refuse complex values, which fused functions do not have.

    Raises
    ------
    DTypeError
        Naming the dtype.
    """
    if dtype.kind == "c":
        raise DTypeError(
            f"{what} of dtype {dtype} cannot go through a fused function: these have no complex "
            "numbers"
        )
