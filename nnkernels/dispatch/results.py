"""Arrays for results: their memory order, and what may be passed as ``out``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnkernels.dispatch.axes import Shape
from nnkernels.dispatch.machines import cupy_address, numpy_address
from nnkernels.errors import DTypeError, ShapeError
from nnkernels.interop.libraries import NUMPY, Library, check_together, library_of


@dataclass(frozen=True)
class Allocation:
    """A result to be allocated: axes lie in memory in ``order``, densely."""

    shape: Shape
    dtype: Any
    order: tuple[int, ...]
    plain: bool = field(init=False)  # the order of the axes is theirs
    laid_out: Shape = field(init=False)  # the shape in the order of memory
    places: tuple[int, ...] = field(init=False)  # in that order, of every axis

    def __post_init__(self) -> None:
        object.__setattr__(self, "plain", self.order == tuple(range(len(self.shape))))
        object.__setattr__(self, "laid_out", tuple(self.shape[axis] for axis in self.order))
        object.__setattr__(self, "places", tuple(np.argsort(self.order).tolist()))

    def make(self, machine: Any) -> Any:
        """The new array."""
        if self.plain:
            return machine.empty(self.shape, self.dtype)
        return machine.empty(self.laid_out, self.dtype).transpose(self.places)


def adopt_out(out: Any, name: str, library: Library, like: Any) -> Any:
    """The NumPy or CuPy view of an ``out`` argument.

    Raises
    ------
    DTypeError
        If it is no array, or of another library than ``like``, one of the inputs.
    BackendError
        If it is on another device than ``like``.
    """
    if library is NUMPY and type(out) is np.ndarray:
        return out
    found = library_of(out, name)
    check_together(library, found, "the input", name, like, out)
    if isinstance(out, np.generic):
        raise DTypeError(
            f"{name} is the NumPy scalar {out!r}, which cannot be written; give an array"
        )
    return found.adopt(out, name)


def check_out(out: Any, name: str, shape: Shape, dtype: Any) -> None:
    """Check what stays the same for every array of the shape, strides and dtype of ``out``.

    Raises
    ------
    ShapeError
        For another shape than the result's, or elements that share memory.
    DTypeError
        For another dtype.
    """
    if out.shape != shape:
        raise ShapeError(f"{name} has shape {out.shape}; the result has shape {shape}")
    if out.dtype != dtype:
        raise DTypeError(f"{name} has dtype {out.dtype}; the result has dtype {dtype}")
    if out.size:
        check_no_self_overlap(out, name)


def check_memory(
    out: Any,
    name: str,
    inputs: Sequence[Any],
    input_names: Sequence[str],
    in_place: int,
    addresses: Sequence[int],
    reaches: Sequence[tuple[int, int]],
) -> None:
    """Check what differs between two calls of one plan: the memory itself.

    Parameters
    ----------
    in_place : int
        How many inputs, from the first on, ``out`` may be: of the same memory, shape and strides.
    addresses, reaches : sequence
        Of ``out`` and then of the inputs: address, and its lowest and highest byte from there.

    Raises
    ------
    DTypeError
        For a read-only array.
    ShapeError
        For an overlap with an input.
    """
    if type(out) is np.ndarray and not out.flags.writeable:
        raise DTypeError(f"{name} is read-only; give an array that can be written")
    low, high = addresses[0] + reaches[0][0], addresses[0] + reaches[0][1]
    for i, array in enumerate(inputs, 1):
        first, end = reaches[i]
        if addresses[i] + first >= high or low >= addresses[i] + end:
            continue
        may_be_it = i <= in_place
        if not (may_be_it and is_same(out, array)) and overlap(out, array):
            allowed = "be it, of the same shape and strides, or " if may_be_it else ""
            raise ShapeError(
                f"{name} shares memory with {input_names[i - 1]}; it must {allowed}lie apart "
                f"from it. Their shapes are {out.shape} and {array.shape}"
            )


def reach(array: Any) -> tuple[int, int]:
    """The lowest and highest byte of an array, counted from its address; (0, 0) if it is empty."""
    if not array.size:
        return 0, 0
    low = high = 0
    for stride, size in zip(array.strides, array.shape, strict=True):
        if stride < 0:
            low += stride * (size - 1)
        else:
            high += stride * (size - 1)
    return low, high + array.dtype.itemsize


def check_no_self_overlap(out: Any, name: str) -> None:
    """Refuse an array of which two elements have a byte in common, such as a broadcast view."""
    span = out.dtype.itemsize
    axes = sorted((abs(s), n) for s, n in zip(out.strides, out.shape, strict=True) if n > 1)
    for stride, size in axes:
        if stride < span:
            break
        span += stride * (size - 1)
    else:
        return  # each axis steps over all that the smaller ones reach
    if out.size > _MAX_COMPARED or _offsets_collide(axes, out.dtype.itemsize):
        raise ShapeError(
            f"{name} has shape {out.shape} and strides {out.strides}: several of its elements "
            "share memory; give an array whose elements lie apart"
        )


# Beyond this many elements, an interleaved layout is not looked at one by one, but refused.
_MAX_COMPARED = 1 << 20


def _offsets_collide(axes: Sequence[tuple[int, int]], itemsize: int) -> bool:
    """Whether two elements lie closer than an element is long."""
    offsets = np.zeros(1, np.int64)
    for stride, size in axes:
        offsets = np.add.outer(offsets, np.arange(size) * stride).reshape(-1)
    offsets.sort()
    return bool((np.diff(offsets) < itemsize).any())


def _address(array: Any) -> int:
    return numpy_address(array) if isinstance(array, np.ndarray) else cupy_address(array)


def is_same(a: Any, b: Any) -> bool:
    """Whether two arrays are one: of the same memory, shape, strides and size of elements."""
    return (
        a.shape == b.shape
        and a.strides == b.strides
        and a.dtype.itemsize == b.dtype.itemsize
        and _address(a) == _address(b)
    )


class _Standin:
    """Describes memory to NumPy without letting it look there (it may be a GPU's)."""

    def __init__(self, array: Any) -> None:
        self.__array_interface__ = {
            "data": (_address(array), True),
            "shape": array.shape,
            "strides": array.strides,
            "typestr": f"|V{array.dtype.itemsize}",
            "version": 3,
        }


def overlap(a: Any, b: Any) -> bool:
    """Whether two arrays have a byte in common."""
    x, y = np.asarray(_Standin(a)), np.asarray(_Standin(b))
    # NumPy's stubs know two values of max_work; any number is a limit.
    work: Any = 100_000
    try:
        return np.shares_memory(x, y, max_work=work)
    except np.exceptions.TooHardError:
        return True
