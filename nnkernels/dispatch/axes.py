"""Shapes and byte strides: ordering and merging axes until as few as possible are left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnkernels.errors import ShapeError

Shape = tuple[int, ...]
Strides = tuple[int, ...]

INT32_MAX = 2**31 - 1


def memory_order(shape: Shape, strides: Strides) -> tuple[int, ...]:
    """Axes from the largest step in memory to the smallest (NumPy's ``order="K"``).

    Axes of size 1 and broadcast axes (stride 0) tell nothing and keep their place relative to
    the axis before them.
    """
    order: list[int] = []
    for axis in range(len(shape)):
        position = len(order)
        step = abs(strides[axis])
        if shape[axis] > 1 and step:
            # Move left past axes with a smaller step; an axis that tells nothing is passed only
            # together with one that does.
            for candidate in range(len(order) - 1, -1, -1):
                other = order[candidate]
                if shape[other] <= 1 or strides[other] == 0:
                    continue
                if abs(strides[other]) >= step:
                    break
                position = candidate
        order.insert(position, axis)
    return tuple(order)


def merge(shape: Shape, strides: Sequence[Strides]) -> tuple[Shape, list[Strides]]:
    """Drop axes of size 1 and join neighbours that are one axis for every operand.

    The order of the axes is kept. At least one axis is left.
    """
    kept = [axis for axis, size in enumerate(shape) if size != 1]
    merged_shape: list[int] = []
    merged: list[list[int]] = [[] for _ in strides]
    for axis in kept:
        size = shape[axis]
        if merged_shape and all(
            m[-1] == s[axis] * size for m, s in zip(merged, strides, strict=True)
        ):
            merged_shape[-1] *= size
            for m, s in zip(merged, strides, strict=True):
                m[-1] = s[axis]
        else:
            merged_shape.append(size)
            for m, s in zip(merged, strides, strict=True):
                m.append(s[axis])
    if not merged_shape:
        return (1,), [(0,) for _ in strides]
    return tuple(merged_shape), [tuple(m) for m in merged]


def broadcast_strides(shape: Shape, strides: Strides, to: Shape) -> Strides:
    """Strides of an array that is broadcast to another shape, to which it does broadcast."""
    missing = len(to) - len(shape)
    kept = (
        0 if n == 1 and wanted != 1 else s
        for n, s, wanted in zip(shape, strides, to[missing:], strict=True)
    )
    return (0,) * missing + tuple(kept)


def broadcast_to(array: Any, shape: Shape, name: str, of: str = "the result") -> Strides:
    """Strides of an array broadcast to a shape.

    Parameters
    ----------
    name, of : str
        What the array is called in messages, and what has the shape.

    Raises
    ------
    ShapeError
        If it has more axes, or a longer one.
    """
    own, missing = array.shape, len(shape) - array.ndim
    if missing < 0 or any(n not in (1, to) for n, to in zip(own, shape[missing:], strict=True)):
        raise ShapeError(
            f"{name} has shape {own}, which does not broadcast to {shape}, the shape of {of}"
        )
    return broadcast_strides(own, array.strides, shape)


def span(shape: Shape, strides: Strides) -> int:
    """Bytes between the first and the last element, by absolute strides."""
    return sum((n - 1) * abs(s) for n, s in zip(shape, strides, strict=True))


def index_kind(shape: Shape, strides: Sequence[Strides], slack: int = 0) -> str:
    """``"i"`` if 32-bit indices reach every byte and count every element, else ``"q"``.

    `slack` is what a loop counter may overshoot by.
    """
    elements = 1
    for n in shape:
        elements *= n
    reach = max([elements, *(span(shape, s) for s in strides)])
    return "i" if reach + slack + 64 <= INT32_MAX else "q"


def contiguous_strides(shape: Shape, itemsize: int, order: Sequence[int] | None = None) -> Strides:
    """Strides of a dense array whose axes lie in memory in the given order."""
    axes = range(len(shape)) if order is None else order
    strides = [0] * len(shape)
    step = itemsize
    for axis in reversed(tuple(axes)):
        strides[axis] = step
        step *= max(shape[axis], 1)
    return tuple(strides)


def largest_power_of_two(limit: int, *numbers: int) -> int:
    """The largest power of two up to `limit` that divides all the numbers (0 is divisible)."""
    vector = limit
    while vector > 1 and any(n % vector for n in numbers):
        vector //= 2
    return vector


# ---- the argument `axis` ------------------------------------------------------------------------


def checked_axis(axis: Any) -> Any:
    """The axis argument as a key: an int, a tuple of ints or None."""
    if axis is None:
        return None
    if isinstance(axis, tuple):
        return tuple(_axis_number(a) for a in axis)
    return _axis_number(axis)


def _axis_number(axis: Any) -> int:
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise TypeError(
            "axis must be an integer, a tuple of integers or None; got "
            f"{type(axis).__name__} {axis!r}"
        )
    return int(axis)


def normalize_axes(axis: Any, rank: int, name: str = "x") -> tuple[int, ...]:
    """Axes as sorted numbers from 0 on; None is all of them.

    Raises
    ------
    TypeError
        For anything but an integer, a tuple of integers or None.
    ShapeError
        For an axis out of range or given twice.
    """
    checked = checked_axis(axis)
    if checked is None:
        return tuple(range(rank))
    given = checked if isinstance(checked, tuple) else (checked,)
    for a in given:
        if not -rank <= a < rank:
            raise ShapeError(
                f"axis {a} is out of range for {name} of rank {rank}; it must lie in "
                f"[{-rank}, {rank})"
            )
    axes = sorted(a % rank for a in given)
    if len(set(axes)) != len(axes):
        raise ShapeError(f"axis {given} names an axis of {name} twice; give each once")
    return tuple(axes)


def reduced_shape(shape: Shape, axes: tuple[int, ...], keepdims: bool) -> Shape:
    """A shape without some axes, or with them of size 1."""
    if keepdims:
        return tuple(1 if a in axes else n for a, n in enumerate(shape))
    return tuple(n for a, n in enumerate(shape) if a not in axes)
