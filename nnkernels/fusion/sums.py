"""A fused function whose results are summed over the axes along which an array was broadcast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from nnkernels.dispatch import rows
from nnkernels.dispatch.axes import Shape
from nnkernels.dispatch.dtypes import ELEMENTS, name_of, promote
from nnkernels.fusion.fuse import Fused, fuse
from nnkernels.interop.libraries import adopt_all


def apply_and_sum(
    function: Callable[..., Any],
    arrays: Sequence[Any],
    names: Sequence[str],
    numbers: Sequence[Any],
    shapes: Sequence[Shape | None],
) -> tuple[Any, ...]:
    """One kernel for a function that gives a tuple, and a sum for each result of another shape.

    The terms of a sum keep the computing type: only the sum is rounded.

    Parameters
    ----------
    function : callable
        Of the arrays and then the numbers.
    shapes : sequence
        Of the results; None for one that keeps the shape to which the arrays broadcast.
    """
    views, library, like = adopt_all(arrays, names)
    whole = _broadcast(views)
    sums = tuple(shape is not None and shape != whole for shape in shapes)
    results = fused_tuple(function, sums)(*views, *numbers)
    dtype = promote(tuple(name_of(view.dtype) for view in views))
    return tuple(
        library.restore(rows.sum_to_shape(r, shape or (), dtype) if is_sum else r, like)
        for r, shape, is_sum in zip(results, shapes, sums, strict=True)
    )


def _broadcast(views: Sequence[Any]) -> Shape:
    return np.broadcast_shapes(*(tuple(view.shape) for view in views))


@cache
def fused_tuple(function: Callable[..., Any], wide: tuple[bool, ...] = ()) -> Fused:
    """The function as one kernel; results to be summed keep the computing type."""
    if not any(wide):
        return fuse(function)

    def widened(*values: Any) -> tuple[Any, ...]:
        results = function(*values)
        return tuple(
            r.astype(ELEMENTS[name_of(r.dtype)].compute_name) if is_wide else r
            for r, is_wide in zip(results, wide, strict=True)
        )

    return fuse(widened)
