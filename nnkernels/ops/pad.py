"""Padding, and its gradient."""

from __future__ import annotations

from math import copysign, isnan
from typing import Any

import numpy as np

from nnkernels._typing import Array
from nnkernels.dispatch import gathers, window_ops
from nnkernels.interop.libraries import adopt_all
from nnkernels.ops import _windows
from nnkernels.ops._public import public

MODES = ("constant", "edge", "reflect", "symmetric", "wrap")
# One object, so that it equals itself as a part of the key of a plan.
_NAN = float("nan")


@public
def pad(
    x: Array,
    /,
    pad_width: Any,
    *,
    mode: str = "constant",
    value: complex = 0,
    out: Array | None = None,
) -> Array:
    """Elements before and after those of each axis, as NumPy's `pad`.

    Parameters
    ----------
    x : array
        Of any shape and strides; real, complex or integer.
    pad_width : int, (int, int), or one pair for each axis
        How many elements before and after: the same everywhere, one (low, high) for every axis, or
        one of its own for each.
    mode : {"constant", "edge", "reflect", "symmetric", "wrap"}
        What they are: a value; the first or last element; the elements mirrored at the first or
        last one, or beyond it, so that this one stands twice; or the axis over again.
        Longer paddings go on periodically.
    value : number, default 0
        Of the mode "constant".
    {out of windows}

    Notes
    -----
    Elements are copied bit by bit. The plan of a call has a table of two numbers for each element
    along a padded axis.

    {examples}
    >>> nnk.pad(np.array([1, 2, 3]), (2, 1), mode="reflect").tolist()
    [3, 2, 1, 2, 3, 2]
    """
    shape = _windows.shape_of(x)
    widths = _windows.pad_widths(pad_width, len(shape))
    mode = _windows.choice("mode", mode, MODES)
    fill: complex = 0
    if mode == "constant":
        view = x if isinstance(x, np.ndarray) else adopt_all((x,), ("x",))[0][0]
        fill = _windows.fill_value(value, view.dtype)
    real = fill.real
    if isnan(real) and not isinstance(fill, complex):
        fill = _NAN
    return gathers.apply(window_ops.Pad(widths, mode, fill, copysign(1.0, real)), x, out)


@public
def pad_backward(
    dy: Array, /, pad_width: Any, *, mode: str = "constant", out: Array | None = None
) -> Array:
    """Gradient of `pad`: for each element the sum over all its copies.

    Parameters
    ----------
    dy : array
        The cotangent: the gradient of the loss with respect to the result of `pad`.
    pad_width : int, (int, int), or one pair for each axis
        As in `pad`.
    mode : {"constant", "edge", "reflect", "symmetric", "wrap"}
        As in `pad`.
    {out of windows}

    Notes
    -----
    {notes of sums}

    {examples}
    >>> nnk.pad_backward(np.array([1.0, 2.0, 4.0, 8.0]), (0, 2), mode="edge").tolist()
    [1.0, 14.0]
    """
    shape = _windows.shape_of(dy, "dy")
    widths = _windows.pad_widths(pad_width, len(shape))
    mode = _windows.choice("mode", mode, MODES)
    return gathers.apply(window_ops.PadBackward(widths, mode), dy, out)
