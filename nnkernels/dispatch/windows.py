"""Geometry of windows that move over one to three spatial axes: convolution, pooling, unfold.

Arrays are ``(N, C, *spatial)``. Along a spatial axis, tap ``t`` of window ``o`` sees element
``o stride + t dilation - low`` of the image, or padding where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnkernels.dispatch.axes import Shape
from nnkernels.errors import ShapeError

# What `padding` may be, besides numbers.
NAMED_PADDINGS = ("valid", "same", "same_lower")
# More would be addressed by more than 31 bits along one axis.
_MOST = 2**31 - 1


@dataclass(frozen=True)
class Axis:
    """One spatial axis of an op with windows.

    Attributes
    ----------
    size : int
        Of the image.
    kernel : int
        Taps of the window.
    stride, dilation : int
        Elements from window to window, and from tap to tap.
    low, high : int
        Elements of padding before the first element, and after the last one.
    out : int
        Number of windows.
    """

    size: int
    kernel: int
    stride: int
    dilation: int
    low: int
    high: int
    out: int

    @property
    def reach(self) -> int:
        """Elements from the first one that a window sees to the last, both counted."""
        return reach(self.kernel, self.dilation)


def reach(kernel: int, dilation: int) -> int:
    """Elements from the first one that a window sees to the last, both counted."""
    return (kernel - 1) * dilation + 1


def spatial_rank(x: Any, name: str) -> int:
    """How many spatial axes an array has.

    Raises
    ------
    ShapeError
        If they are not one to three.
    """
    if not 3 <= x.ndim <= 5:
        raise ShapeError(
            f"{name} has shape {x.shape}; it must be (N, C, *spatial) with one to three spatial "
            "axes"
        )
    return int(x.ndim) - 2


# ---- options ------------------------------------------------------------------------------------


def per_axis(value: Any, rank: int, name: str, least: int = 1) -> tuple[int, ...]:
    """An option that is an integer, or one for each spatial axis.

    Raises
    ------
    TypeError
        For anything but integers.
    ValueError
        For an integer below `least`.
    ShapeError
        For another number of integers than spatial axes.
    """
    given = value if isinstance(value, (tuple, list)) else (value,) * rank
    if len(given) != rank:
        raise ShapeError(
            f"{name} has {len(given)} numbers, {_short(value)}, for {rank} spatial "
            f"{'axis' if rank == 1 else 'axes'}; give one for each, or one integer"
        )
    return tuple(whole(n, name, least) for n in given)


def whole(value: Any, name: str, least: int) -> int:
    """An integer of at least `least`."""
    if type(value) is int and least <= value <= _MOST:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(
            f"{name} must be an integer or a tuple of integers, not "
            f"{type(value).__name__} ({_short(value)})"
        )
    if not least <= value <= _MOST:
        raise ValueError(f"{name} must lie in [{least}, {_MOST}]; got {int(value)}")
    return int(value)


# One pair for each axis, or the name of a rule.
Padding = str | tuple[tuple[int, int], ...]


def checked_padding(padding: Any, rank: int) -> Padding:
    """The option `padding`: (low, high) for each spatial axis, or the name of a rule.

    Raises
    ------
    TypeError, ValueError
        For anything but non-negative integers, pairs of them and known names.
    ShapeError
        For another number of them than spatial axes.
    """
    if isinstance(padding, str):
        if padding not in NAMED_PADDINGS:
            known = ", ".join(f'"{name}"' for name in NAMED_PADDINGS)
            raise ValueError(
                f"padding must be integers, pairs of them, or {known}; got {padding!r}"
            )
        return padding
    if not isinstance(padding, (tuple, list)):
        both = whole(padding, "padding", 0)
        return ((both, both),) * rank
    if len(padding) != rank:
        raise ShapeError(
            f"padding has {len(padding)} entries, {_short(padding)}, for {rank} spatial "
            f"{'axis' if rank == 1 else 'axes'}; give one integer or (low, high) pair for each"
        )
    return tuple(_pair(entry) for entry in padding)


def _pair(entry: Any) -> tuple[int, int]:
    if not isinstance(entry, (tuple, list)):
        both = whole(entry, "padding", 0)
        return both, both
    if len(entry) != 2:
        raise ShapeError(f"padding of an axis must be an integer or (low, high); got {entry!r:.60}")
    return whole(entry[0], "padding", 0), whole(entry[1], "padding", 0)


def _short(value: Any) -> str:
    return f"{value!r:.60}"


# ---- geometry -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Windows:
    """The options of an op with windows, checked.

    Attributes
    ----------
    kernel, stride, dilation : tuple of int
        One for each spatial axis.
    padding : Padding
        See `checked_padding`.
    ceil_mode : bool
        Whether a last window that reaches past the padding counts, if it begins inside the image
        or the padding before it.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Padding
    ceil_mode: bool = False

    @classmethod
    def checked(
        cls,
        rank: int,
        kernel: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        ceil_mode: bool = False,
        kernel_name: str = "kernel_size",
    ) -> Windows:
        """From what a user gives; see `per_axis` and `checked_padding` for errors."""
        return cls(
            per_axis(kernel, rank, kernel_name),
            per_axis(stride, rank, "stride"),
            per_axis(dilation, rank, "dilation"),
            checked_padding(padding, rank),
            ceil_mode,
        )

    def axes(self, sizes: Sequence[int], name: str = "x") -> tuple[Axis, ...]:
        """The geometry of every spatial axis of an image of some sizes.

        Parameters
        ----------
        name : str
            Of the image, for messages.

        Raises
        ------
        ShapeError
            If a window does not fit into the padded image: with the arithmetic.
        """
        return tuple(self._axis(i, int(size), name) for i, size in enumerate(sizes))

    def _axis(self, i: int, size: int, name: str) -> Axis:
        kernel, stride, dilation = self.kernel[i], self.stride[i], self.dilation[i]
        span = reach(kernel, dilation)
        if isinstance(self.padding, str):
            low, high = named_padding(self.padding, size, span, stride)
        else:
            low, high = self.padding[i]
        room = size + low + high - span
        if room < 0:
            raise ShapeError(
                f"the window does not fit into spatial axis {i} of {name}: {size} elements + "
                f"padding {low} + {high} = {size + low + high}, and the window spans "
                f"({kernel} - 1) * dilation {dilation} + 1 = {span}"
            )
        out = room // stride + 1
        if self.ceil_mode:
            out = -(-room // stride) + 1
            if (out - 1) * stride >= size + low:
                out -= 1
        return Axis(size, kernel, stride, dilation, low, high, out)


def named_padding(rule: str, size: int, span: int, stride: int) -> tuple[int, int]:
    """(low, high): "same" is so much that there are ceil(size / stride) windows."""
    if rule == "valid":
        return 0, 0
    windows = -(-size // stride)
    total = max((windows - 1) * stride + span - size, 0)
    less, more = total // 2, total - total // 2
    return (less, more) if rule == "same" else (more, less)


def out_shape(axes: Sequence[Axis]) -> Shape:
    """How many windows there are along every axis."""
    return tuple(axis.out for axis in axes)
