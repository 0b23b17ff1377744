"""Checks of the options of padding, windows and resampling."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, inf
from typing import Any

import numpy as np

from nnkernels.dispatch.windows import per_axis, whole
from nnkernels.errors import DTypeError, ShapeError
from nnkernels.interop.libraries import library_of
from nnkernels.ops import _options

_MOST = 2**31 - 1


def choice(name: str, value: Any, known: Sequence[str]) -> str:
    """One of some names."""
    if type(value) is str and value in known:
        return value
    listed = ", ".join(f'"{k}"' for k in known)
    if not isinstance(value, str):
        raise TypeError(
            f"{name} must be one of {listed}, not {type(value).__name__} ({value!r:.60})"
        )
    if value not in known:
        raise ValueError(f"{name} must be one of {listed}; got {value!r:.60}")
    return value


def shape_of(x: Any, name: str = "x") -> tuple[int, ...]:
    """The shape of an array of any library.

    Raises
    ------
    DTypeError
        If it is none.
    """
    if type(x) is np.ndarray:
        return x.shape
    library_of(x, name)
    return tuple(int(n) for n in x.shape)


def image_shape(x: Any, name: str = "x") -> tuple[int, ...]:
    """The shape of an array (N, C, *spatial) of one to three spatial axes."""
    shape = shape_of(x, name)
    if not 3 <= len(shape) <= 5:
        raise ShapeError(
            f"{name} has shape {shape}; it must be (N, C, *spatial) with one to three spatial axes"
        )
    return shape


# ---- padding ------------------------------------------------------------------------------------


def pad_widths(pad_width: Any, rank: int) -> tuple[tuple[int, int], ...]:
    """(low, high) of each axis, from what NumPy's `pad` takes: an integer, one pair, or all.

    Raises
    ------
    TypeError, ValueError
        For anything but non-negative integers.
    ShapeError
        For another number of pairs than axes.
    """
    several = isinstance(pad_width, (tuple, list))
    entries = pad_width if several else (pad_width,)
    pairs = [e for e in entries if isinstance(e, (tuple, list))]
    if not pairs and len(entries) <= 2:
        pairs = [entries or (0, 0)]
    elif len(pairs) != len(entries):  # some are numbers
        pairs = []
    widths = [(_width(pair[0]), _width(pair[-1])) for pair in pairs if 1 <= len(pair) <= 2]
    if len(widths) == 1:
        widths *= rank
    lengths = {len(pair) for pair in pairs}
    if len(widths) != rank or lengths not in ({1}, {2}):
        raise ShapeError(
            f"pad_width {pad_width!r:.80} does not fit an array of rank {rank}: give an integer, "
            "one (low, high), or one such pair for each axis"
        )
    return tuple(widths)


def _width(value: Any) -> int:
    return whole(value, "pad_width", 0)


def fill_value(value: Any, dtype: Any) -> complex:
    """A number that an array of a dtype can hold.

    Raises
    ------
    TypeError, ValueError
        If it is no number, or an integer out of range.
    DTypeError
        If it is complex or has a fraction, and the array does not.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (bool, np.bool_)) or not isinstance(
        value, (int, float, complex, np.number)
    ):
        raise TypeError(f"value must be a number, not {type(value).__name__} ({value!r:.60})")
    if dtype.kind in "iu":
        if isinstance(value, (complex, np.complexfloating)) or float(value) % 1:
            raise DTypeError(f"value {value!r} is no integer, and x has dtype {dtype}")
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        if not low <= value <= high:
            raise ValueError(f"value must lie in [{low}, {high}] for dtype {dtype}; got {value}")
        return int(value)
    if isinstance(value, (complex, np.complexfloating)):
        if dtype.kind != "c":
            raise DTypeError(f"value {value!r} is complex, and x has dtype {dtype}")
        return complex(value)
    return float(value)


# ---- sizes --------------------------------------------------------------------------------------


def output_sizes(
    shape: tuple[int, ...], size: Any, scale: Any
) -> tuple[tuple[int, ...], tuple[float | None, ...]]:
    """Spatial sizes of the result of `interpolate`, and the scales if these were given.

    Raises
    ------
    TypeError, ValueError
        If both or neither of size and scale are given, or something but positive numbers.
    ShapeError
        For another number of them than spatial axes, and where nothing is left of an axis, or
        nothing was there.
    """
    rank = len(shape) - 2
    if 0 in shape[2:]:
        raise ShapeError(f"x has shape {shape}: there is nothing along a spatial axis")
    if (size is None) == (scale is None):
        given = "neither" if size is None else "both"
        raise ValueError(f"size and scale: give one of the two; got {given}")
    if size is not None:
        return per_axis(size, rank, "size"), (None,) * rank
    scales = scales_of(scale, rank)
    sizes = tuple(floor(n * s) for n, s in zip(shape[2:], scales, strict=True))
    for axis, (n, s, out) in enumerate(zip(shape[2:], scales, sizes, strict=True)):
        if not 1 <= out <= _MOST:
            raise ShapeError(
                f"spatial axis {axis} of x has {n} elements, and scale {s} makes "
                f"floor({n} * {s}) = {out} of them"
            )
    return sizes, scales


def scales_of(scale: Any, rank: int) -> tuple[float, ...]:
    """A positive number for each spatial axis."""
    given = scale if isinstance(scale, (tuple, list)) else (scale,) * rank
    if len(given) != rank:
        raise ShapeError(
            f"scale has {len(given)} numbers, {scale!r:.60}, for {rank} spatial axes; give one "
            "for each, or one for all"
        )
    found = tuple(_options.positive("scale", s) for s in given)
    if max(found) > _MOST or 1 / min(found) == inf:
        raise ValueError(f"scale is out of range; got {scale!r:.60}")
    return found


def given_shape(value: Any, name: str) -> tuple[int, ...]:
    """The shape of an image, given as a tuple.

    Raises
    ------
    TypeError, ValueError
        For anything but non-negative integers.
    ShapeError
        If it is not (N, C, *spatial).
    """
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name} must be a tuple of integers, not {type(value).__name__}")
    shape = tuple(whole(n, name, 0) for n in value)
    if not 3 <= len(shape) <= 5:
        raise ShapeError(
            f"{name} is {shape}; it must be (N, C, *spatial) with one to three spatial axes"
        )
    return shape
