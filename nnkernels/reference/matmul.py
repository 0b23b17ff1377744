"""Matrix products: the specification, in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnkernels.dispatch.dtypes import ELEMENTS, numpy_dtype, promote
from nnkernels.ops import _options
from nnkernels.ops._activation import is_function, resolve
from nnkernels.reference.fusion import applied


def matmul(
    x1: Any,
    x2: Any,
    *,
    out_dtype: Any = None,
    epilogue: Any = None,
    operands: Any = (),
    precision: Any = None,
) -> Any:
    """The Array API's matmul; sums in float64 or complex128, integers modulo 2^64."""
    return finished(_product(x1, x2), (x1, x2), epilogue, out_dtype, operands)


def matmul_backward(
    dy: Any, x1: Any, x2: Any, *, precision: Any = None, wrt: Any = None
) -> tuple[np.ndarray | None, ...]:
    """dy x2^H and x1^H dy, summed over broadcast batches."""
    rows, columns = x1.ndim > 1, x2.ndim > 1
    a = x1 if rows else x1[None, :]
    b = x2 if columns else x2[:, None]
    d = dy if rows else np.expand_dims(dy, -1 - columns)
    d = d if columns else d[..., None]
    dx1, dx2 = _product(d, _adjoint(b)), _product(_adjoint(a), d)
    return chosen(wrt, _sum_to(dx1, a).reshape(x1.shape), _sum_to(dx2, b).reshape(x2.shape))


def gemm(
    a: Any,
    b: Any,
    c: Any = None,
    *,
    alpha: complex = 1.0,
    beta: complex = 1.0,
    transpose_a: bool = False,
    transpose_b: bool = False,
    epilogue: Any = None,
    operands: Any = (),
    out_dtype: Any = None,
    precision: Any = None,
) -> Any:
    """epilogue(alpha op(a) op(b) + beta c)."""
    x, y = _op(a, transpose_a), _op(b, transpose_b)
    return _affine(_product(x, y), (a, b, c), alpha, beta, epilogue, out_dtype, operands)


def gemm_backward(
    dy: Any,
    a: Any,
    b: Any,
    c: Any = None,
    *,
    alpha: complex = 1.0,
    beta: complex = 1.0,
    transpose_a: bool = False,
    transpose_b: bool = False,
    precision: Any = None,
    wrt: Any = None,
) -> tuple[np.ndarray | None, ...]:
    """alpha dy op(b)^H and alpha op(a)^H dy, transposed where the operand was; beta dy."""
    da = np.conj(alpha) * _product(dy, _adjoint(_op(b, transpose_b)))
    db = np.conj(alpha) * _product(_adjoint(_op(a, transpose_a)), dy)
    dc = None if c is None else _sum_to(np.conj(beta) * widened(dy), c)
    return chosen(wrt, _sum_to(_op(da, transpose_a), a), _sum_to(_op(db, transpose_b), b), dc)


def gemv(
    a: Any,
    x: Any,
    y: Any = None,
    *,
    alpha: complex = 1.0,
    beta: complex = 1.0,
    transpose_a: bool = False,
    epilogue: Any = None,
    operands: Any = (),
    out_dtype: Any = None,
) -> Any:
    """epilogue(alpha op(a) x + beta y)."""
    product = _product(_op(a, transpose_a), x[..., None])[..., 0]
    return _affine(product, (a, x, y), alpha, beta, epilogue, out_dtype, operands)


def gemv_backward(
    dz: Any,
    a: Any,
    x: Any,
    y: Any = None,
    *,
    alpha: complex = 1.0,
    beta: complex = 1.0,
    transpose_a: bool = False,
    wrt: Any = None,
) -> tuple[np.ndarray | None, ...]:
    """alpha dz x^H, transposed if a was; alpha op(a)^H dz; beta dz."""
    da = np.conj(alpha) * _product(dz[..., None], np.conj(x)[..., None, :])
    dx = np.conj(alpha) * _product(_adjoint(_op(a, transpose_a)), dz[..., None])[..., 0]
    dy = None if y is None else _sum_to(np.conj(beta) * widened(dz), y)
    return chosen(wrt, _sum_to(_op(da, transpose_a), a), _sum_to(dx, x), dy)


def linear(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    activation: Any = None,
    epilogue: Any = None,
    operands: Any = (),
    out_dtype: Any = None,
    precision: Any = None,
) -> Any:
    """activation(x weight^T + bias)."""
    finish = activation if epilogue is None else epilogue
    return _affine(_product(x, weight.T), (x, weight, bias), 1, 1, finish, out_dtype, operands)


def linear_backward(
    dy: Any,
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    activation: Any = None,
    precision: Any = None,
    wrt: Any = None,
) -> tuple[np.ndarray | None, ...]:
    """dz weight^*, dz^T x^* and the sum of dz, where dz is the cotangent before the activation."""
    found = resolve(activation, "activation")
    dz = dy
    if found is not None:
        inside = found if found.takes_result else None
        dz = found.reference_backward(dy, linear(x, weight, bias, activation=inside))
    rows = dz.reshape(-1, weight.shape[0])
    dx = _product(dz, np.conj(weight))
    dw = _product(rows.T, np.conj(x).reshape(-1, weight.shape[1]))
    db = None if bias is None else _sum_to(widened(dz), bias)
    return chosen(wrt, _sum_to(dx, x), _sum_to(dw, weight), db)


# ---- pieces -------------------------------------------------------------------------------------


def widened(x: np.ndarray) -> np.ndarray:
    """An array in float64, complex128 or int64."""
    kind = ELEMENTS[x.dtype.name].kind
    return x.astype({"f": np.float64, "c": np.complex128}.get(kind, np.int64))


def chosen(wrt: Any, *gradients: np.ndarray | None) -> tuple[np.ndarray | None, ...]:
    """Gradients, None for those that are not wanted."""
    return tuple(
        g if is_wanted else None
        for g, is_wanted in zip(gradients, _options.wanted(wrt, len(gradients)), strict=True)
    )


def _product(x1: Any, x2: Any) -> Any:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.matmul(widened(x1), widened(x2))


def _op(x: Any, transpose: bool) -> Any:
    return x.swapaxes(-1, -2) if transpose else x


def _adjoint(x: Any) -> Any:
    return np.conj(widened(x)).swapaxes(-1, -2)


def _affine(
    product: Any,
    arrays: tuple[Any, ...],
    alpha: complex,
    beta: complex,
    epilogue: Any,
    out_dtype: Any,
    operands: Any = (),
) -> Any:
    given = [x for x in arrays if x is not None]
    with np.errstate(over="ignore", invalid="ignore"):
        if arrays[2] is not None and beta != 0:
            product = alpha * product + beta * widened(arrays[2])
        else:
            product = alpha * product
    return finished(product, given, epilogue, out_dtype, operands)


def finished(
    sums: Any, arrays: Any, epilogue: Any, out_dtype: Any, operands: Sequence[Any] = ()
) -> Any:
    """Sums with an activation, in a dtype or the promoted one of some arrays; or with a function.

    The latter is given the sums as they are, and its results have dtypes of their own.
    """
    name = promote(tuple(x.dtype.name for x in arrays))
    name = name if out_dtype is None else np.dtype(out_dtype).name
    if is_function(epilogue, tuple(operands)):
        with np.errstate(over="ignore", invalid="ignore"):
            whole = sums.astype(numpy_dtype(name)) if ELEMENTS[name].kind in "iu" else sums
        return applied(epilogue, numpy_dtype(name), np.asarray(whole), operands)
    activation = resolve(epilogue, "epilogue")
    with np.errstate(over="ignore", invalid="ignore"):
        if ELEMENTS[name].kind in "iu":
            sums = sums.astype(numpy_dtype(name))
        if activation is not None:
            sums = activation.reference(np.asarray(sums))
        return np.asarray(sums).astype(numpy_dtype(name))


def _sum_to(x: np.ndarray, operand: np.ndarray) -> np.ndarray:
    """Summed to the shape of an operand, in its dtype; the real part for a real one."""
    missing = x.ndim - operand.ndim
    axes = tuple(range(missing)) + tuple(missing + a for a, n in enumerate(operand.shape) if n == 1)
    if operand.dtype.kind != "c":
        x = np.real(x)
    return x.sum(axis=axes, keepdims=True).reshape(operand.shape).astype(operand.dtype)
