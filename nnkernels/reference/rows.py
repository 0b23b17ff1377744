"""Softmax and its kin: the specification, in NumPy and float64."""

from __future__ import annotations

from typing import Any

import numpy as np

Axis = int | tuple[int, ...] | None


def _float64(x: Any) -> np.ndarray:
    return np.asarray(x).astype(np.float64)


def _shifted(x: np.ndarray, axis: Axis) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # -inf - -inf: a row of -inf is NaN
        return x - np.max(x, axis=axis, keepdims=True, initial=-np.inf)


def softmax(x: Any, *, axis: Axis = -1) -> np.ndarray:
    """exp(x) over its sum along the axis."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        e = np.exp(_shifted(_float64(x), axis))
        return (e / e.sum(axis=axis, keepdims=True)).astype(x.dtype)


def log_softmax(x: Any, *, axis: Axis = -1) -> np.ndarray:
    """x minus its logsumexp along the axis."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        shifted = _shifted(_float64(x), axis)
        return (shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))).astype(x.dtype)


def logsumexp(x: Any, *, axis: Axis = -1, keepdims: bool = False) -> np.ndarray:
    """log of the sum of exp(x) along the axis; -inf for nothing or only -inf."""
    wide = _float64(x)
    top = np.max(wide, axis=axis, keepdims=True, initial=-np.inf)
    shift = np.where(np.isinf(top), 0, top)
    with np.errstate(divide="ignore", over="ignore"):
        total = np.log(np.exp(wide - shift).sum(axis=axis, keepdims=True)) + shift
    return np.asarray(total if keepdims else total.squeeze(axis)).astype(x.dtype)


def softmax_backward(dy: Any, y: Any, *, axis: Axis = -1) -> np.ndarray:
    """y (dy - sum(dy y))."""
    dy_wide, y_wide = _float64(dy), _float64(y)
    with np.errstate(invalid="ignore", over="ignore"):
        total = (dy_wide * y_wide).sum(axis=axis, keepdims=True)
        return (y_wide * (dy_wide - total)).astype(dy.dtype)


def log_softmax_backward(dy: Any, y: Any, *, axis: Axis = -1) -> np.ndarray:
    """dy - exp(y) sum(dy)."""
    dy_wide = _float64(dy)
    with np.errstate(invalid="ignore", over="ignore"):
        return (dy_wide - np.exp(_float64(y)) * dy_wide.sum(axis=axis, keepdims=True)).astype(
            dy.dtype
        )


def logsumexp_backward(
    dy: Any, x: Any, y: Any, *, axis: Axis = -1, keepdims: bool = False
) -> np.ndarray:
    """dy exp(x - y); dy and y are of the reduced shape."""
    dy_wide, y_wide = _float64(dy), _float64(y)
    if not keepdims:
        axes = tuple(range(x.ndim)) if axis is None else axis
        dy_wide, y_wide = np.expand_dims(dy_wide, axes), np.expand_dims(y_wide, axes)
    with np.errstate(invalid="ignore", over="ignore"):
        return (dy_wide * np.exp(_float64(x) - y_wide)).astype(x.dtype)


def sums(x: Any, axes: tuple[int, ...], keepdims: bool, dtype: Any) -> np.ndarray:
    """The sum over some axes: of integers in their dtype, of others in float64 or complex128."""
    wide = {"c": np.complex128}.get(x.dtype.kind, x.dtype if x.dtype.kind in "iu" else np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        total = x.astype(wide).sum(axis=axes, keepdims=keepdims, dtype=wide)
        return np.asarray(total).astype(dtype)
