"""Arrays at any place of a buffer: strided, reversed, broadcast, misaligned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# What surrounds the elements: NaN in every floating type, -1 in integers.
POISON = 0xFF
# Every address that a kernel may use for its widest access is a multiple of this.
_ALIGNMENT = 64


@dataclass(frozen=True)
class Layout:
    """Where the elements of an array lie in a buffer, in bytes."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    size: int


@dataclass
class Placed:
    """An array with its buffer, and what the buffer held."""

    view: np.ndarray
    buffer: np.ndarray
    before: np.ndarray

    @property
    def is_unchanged(self) -> bool:
        return bool(np.array_equal(self.buffer, self.before))

    @property
    def is_unchanged_outside(self) -> bool:
        """Whether all bytes that are not of an element are what they were."""
        inside = np.zeros(self.buffer.shape, bool)
        step = (*self.view.strides, 1)
        shape = (*self.view.shape, self.view.dtype.itemsize)
        start = (
            self.view.__array_interface__["data"][0] - self.buffer.__array_interface__["data"][0]
        )
        if self.view.size:
            np.ndarray(shape, bool, inside, start, step)[...] = True
        return bool(np.all(inside | (self.buffer == self.before)))


def place(values: np.ndarray, layout: Layout) -> Placed:
    """Put values into a fresh buffer; where elements share memory the last one stays."""
    dtype = values.dtype
    memory = np.empty(layout.size + _ALIGNMENT, np.uint8)
    start = -memory.__array_interface__["data"][0] % _ALIGNMENT
    buffer = memory[start : start + layout.size]
    buffer[:] = POISON
    view = np.ndarray(layout.shape, dtype, buffer, layout.offset, layout.strides)
    view[...] = values
    return Placed(view, buffer, buffer.copy())


def lay_out(
    shape: Sequence[int],
    itemsize: int,
    order: Sequence[int],
    steps: Sequence[int],
    shift: int = 0,
) -> Layout:
    """A layout whose axes lie in memory in an order, from the slowest to the fastest.

    ``steps`` is one number for each axis: 1 is dense, 2 leaves every other place free, -1 is
    reversed, 0 a broadcast. The array begins ``shift`` bytes behind an aligned address.
    """
    strides = [0] * len(shape)
    step, low = itemsize, 0
    for axis in reversed(order):
        strides[axis] = step * steps[axis]
        if steps[axis]:
            step *= max(shape[axis], 1) * abs(steps[axis])
        if strides[axis] < 0:
            low += strides[axis] * max(shape[axis] - 1, 0)
    return Layout(tuple(shape), tuple(strides), shift - low, shift + step + itemsize)


def dense(shape: Sequence[int], itemsize: int, shift: int = 0) -> Layout:
    """A layout in C order."""
    return lay_out(shape, itemsize, range(len(shape)), [1] * len(shape), shift)


def is_dense(array: object) -> bool:
    """Whether an array fills its memory, its axes in any order."""
    if 0 in array.shape:
        return True
    step = array.dtype.itemsize
    for stride, size in sorted((s, n) for s, n in zip(array.strides, array.shape, strict=True)):
        if size > 1:
            if stride != step:
                return False
            step *= size
    return True


def keeps_order(result: object, like: np.ndarray) -> bool:
    """Whether a result of the shape of an array has its axes in the same order in memory.

    Axes of size 1, of either, and broadcast ones say nothing.
    """
    if 0 in like.shape:
        return True
    sizes = [min(pair) for pair in zip(like.shape, result.shape, strict=False)]  # pooling shrinks
    telling = [a for a in range(like.ndim) if sizes[a] > 1 and like.strides[a] != 0]
    wanted = sorted(telling, key=lambda a: -abs(like.strides[a]))
    return wanted == sorted(telling, key=lambda a: -result.strides[a])


def channels_last(x: np.ndarray) -> np.ndarray:
    """The same array with its second axis, the channels, together in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
