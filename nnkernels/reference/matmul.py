"""The matrix product: the specification, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnkernels.dispatch.dtypes import ELEMENTS, numpy_dtype, promote


def matmul(x1: Any, x2: Any, *, out_dtype: Any = None) -> np.ndarray:
    """The Array API's matmul; sums in float64 or complex128, integers modulo 2^64."""
    promoted = promote((x1.dtype.name, x2.dtype.name))
    name = promoted if out_dtype is None else np.dtype(out_dtype).name
    wide = {"f": np.float64, "c": np.complex128}.get(ELEMENTS[promoted].kind, np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.matmul(x1.astype(wide), x2.astype(wide)).astype(numpy_dtype(name))


def matmul_backward(dy: Any, x1: Any, x2: Any) -> tuple[np.ndarray, np.ndarray]:
    """dy x2^H and x1^H dy, summed over broadcast batches."""
    rows, columns = x1.ndim > 1, x2.ndim > 1
    a = x1 if rows else x1[None, :]
    b = x2 if columns else x2[:, None]
    d = dy if rows else np.expand_dims(dy, -1 - columns)
    d = d if columns else d[..., None]
    dx1 = _sum_to(matmul(d, np.conj(b.astype(_wide(b))).swapaxes(-1, -2)), a.shape)
    dx2 = _sum_to(matmul(np.conj(a.astype(_wide(a))).swapaxes(-1, -2), d), b.shape)
    return dx1.reshape(x1.shape).astype(x1.dtype), dx2.reshape(x2.shape).astype(x2.dtype)


def _wide(x: np.ndarray) -> Any:
    return np.complex128 if x.dtype.kind == "c" else np.float64


def _sum_to(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    missing = x.ndim - len(shape)
    axes = tuple(range(missing)) + tuple(missing + a for a, n in enumerate(shape) if n == 1)
    return x.sum(axis=axes, keepdims=True).reshape(shape)
