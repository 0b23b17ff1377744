"""How far a kernel's result may lie from its reference, and the comparison that says so."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nnkernels.dispatch.dtypes import ELEMENTS

# Rounding errors of one element: a few operations and one or two functions of at most 4 units in
# the last place each.
_ELEMENT_ROUNDINGS = 16.0
# A sum of n rounded terms is off by about sqrt(n) roundings, in whatever order it is taken.
_SUM_ROUNDINGS = 2.0


def tolerance(
    dtype_name: str, reduction_length: int = 1, roundings: int = 0
) -> tuple[float, float]:
    """Relative and absolute error that a right result may have.

    Parameters
    ----------
    dtype_name : str
        Of the result. Integers must be exact.
    reduction_length : int
        Terms of the sums in it; 1 for an elementwise operation.
    roundings : int
        How often numbers on the way to the result are rounded to a dtype that is narrower than
        what they are computed in.

    Returns
    -------
    rtol, atol : float
        ``atol`` is for numbers of size about 1; :func:`compare` scales it.

    Examples
    --------
    >>> tolerance("int32")
    (0.0, 0.0)
    >>> rtol, atol = tolerance("float32", 1024)
    >>> 8e-6 < rtol < 1.2e-5
    True
    """
    element = ELEMENTS[dtype_name]
    if element.kind in "iu":
        return 0.0, 0.0
    computed = float(np.finfo(element.compute_name).eps)
    computations = _ELEMENT_ROUNDINGS + _SUM_ROUNDINGS * math.sqrt(max(reduction_length, 1))
    rtol = atol = computed * computations
    if element.itemsize < element.compute_itemsize:
        # Both sides are rounded to the narrow type, and may land on neighbours.
        rtol += _epsilon(dtype_name) * (1 + roundings)
        atol += _epsilon(dtype_name) * roundings
    return rtol, atol


def _epsilon(dtype_name: str) -> float:
    return 2.0**-7 if dtype_name == "bfloat16" else float(np.finfo(dtype_name).eps)


def compare(
    actual: Any,
    expected: Any,
    reduction_length: int = 1,
    scale: float | None = None,
    roundings: int = 0,
) -> float:
    """The largest error of a result, in units of what :func:`tolerance` allows.

    Parameters
    ----------
    actual, expected : array
        NumPy arrays of one shape and dtype; anything else is an infinite error.
    reduction_length : int
        Terms of the sums in the result.
    scale : float, optional
        Size of the numbers that were added up: an absolute error of ``scale * atol`` is allowed
        beside the relative one. Default: the largest finite expected magnitude, and at most 1
        for an elementwise result. 0 asks for relative accuracy everywhere.
    roundings : int
        As in :func:`tolerance`.

    Returns
    -------
    float
        At most 1 if the result is right. NaN belongs where the reference has NaN and nowhere
        else: anything else is an infinite error, and so is an infinity of the wrong sign.

    Examples
    --------
    >>> x = np.array([1.0, np.nan, -np.inf], np.float32)
    >>> compare(x, x)
    0.0
    >>> compare(np.array([1.0, 0.0, -np.inf], np.float32), x)
    inf
    """
    errors = errors_in_tolerances(actual, expected, reduction_length, scale, roundings)
    return math.inf if errors is None else float(np.max(errors, initial=0.0))


def errors_in_tolerances(
    actual: Any,
    expected: Any,
    reduction_length: int = 1,
    scale: float | None = None,
    roundings: int = 0,
) -> np.ndarray | None:
    """As :func:`compare`, for every element; None if shapes or dtypes differ."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return None
    name = expected.dtype.name
    if ELEMENTS[name].kind in "iu":
        return np.where(actual == expected, 0.0, math.inf)
    rtol, atol = tolerance(name, reduction_length, roundings)
    if scale is None:
        largest = _largest_finite(expected)
        scale = largest if reduction_length > 1 else min(largest, 1.0)
    limit = atol * scale + rtol * _magnitude(expected) + _smallest(name)
    with np.errstate(invalid="ignore", over="ignore"):
        errors = np.zeros(expected.shape)
        for a, e in zip(_parts(actual), _parts(expected), strict=True):
            ratio = np.abs(_bounded(a, name) - _bounded(e, name)) / limit
            # Not `ratio > 1`: with a NaN on one side that would be false.
            wrong = ~(ratio <= math.inf) | (np.isnan(a) != np.isnan(e))
            ratio = np.where(wrong, math.inf, ratio)
            errors = np.maximum(errors, np.where(np.isnan(a) & np.isnan(e), 0.0, ratio))
    return errors


def assert_close(
    actual: Any,
    expected: Any,
    reduction_length: int = 1,
    scale: float | None = None,
    what: str = "result",
    roundings: int = 0,
) -> None:
    """Raise AssertionError, with the worst element, unless :func:`compare` gives at most 1."""
    errors = errors_in_tolerances(actual, expected, reduction_length, scale, roundings)
    if errors is None:
        actual, expected = np.asarray(actual), np.asarray(expected)
        raise AssertionError(
            f"{what} has shape {actual.shape} and dtype {actual.dtype}; expected {expected.shape} "
            f"and {expected.dtype}"
        )
    if errors.size and not np.max(errors) <= 1:
        at = np.unravel_index(int(np.argmax(errors)), errors.shape)
        place = tuple(int(i) for i in at)
        got, wanted = np.asarray(actual)[at], np.asarray(expected)[at]
        raise AssertionError(
            f"{what}{list(place)} is {got!r}, expected {wanted!r}: {errors[at]:.3g} times the "
            f"tolerance; {int(np.sum(~(errors <= 1)))} of {errors.size} elements are off"
        )


def _parts(x: np.ndarray) -> list[np.ndarray]:
    if x.dtype.kind == "c":
        return [x.real.astype(np.float64), x.imag.astype(np.float64)]
    return [x.astype(np.float64)]


def _magnitude(x: np.ndarray) -> np.ndarray:
    """Absolute values, 0 for what is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.abs(x.astype(np.complex128 if x.dtype.kind == "c" else np.float64))
    return np.where(np.isfinite(size), size, 0.0)


def _largest_finite(x: np.ndarray) -> float:
    return float(np.max(_magnitude(x), initial=0.0))


def _bounded(x: np.ndarray, name: str) -> np.ndarray:
    # Infinity as the number that would come next: a result just below the largest number is close
    # to a reference that was rounded up to infinity.
    if ELEMENTS[name].compute_name in ("float64", "complex128"):
        top = float(np.finfo(np.float64).max)
    else:
        top = 65536.0 if name == "float16" else 2.0**128
    return np.where(np.isinf(x), np.copysign(top, x), x)


def _smallest(name: str) -> float:
    # GPUs flush float32 subnormals to zero (CuPy compiles with -ftz=true).
    smallest = float(np.finfo(ELEMENTS[name].compute_name).tiny)
    return smallest + (2.0**-24 if name == "float16" else 0.0)
