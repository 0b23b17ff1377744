"""Gradients of matrix products: the same kernels, with strides exchanged."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Any

import numpy as np

from nnkernels.dispatch import elementwise, matmul, rows
from nnkernels.dispatch.axes import Shape, broadcast_to, merge
from nnkernels.dispatch.dtypes import ELEMENTS, name_of, promote
from nnkernels.dispatch.elementwise import Functor
from nnkernels.dispatch.gemm import GEMM, GEMV, LINEAR, check_linear, require_matrices, turned
from nnkernels.dispatch.matmul_call import PLAIN, Epilogue
from nnkernels.dispatch.matmul_product import match_shapes
from nnkernels.errors import ShapeError
from nnkernels.interop.libraries import NUMPY, adopt_all, library_of

_SCALE = Functor("Scale", "scale", inputs=1, outputs=1, kinds="fc")

Gradients = tuple[Any, ...]
_ALL = (True, True, True)


def matmul_backward(
    dy: Any,
    x1: Any,
    x2: Any,
    precision: str | None = None,
    wanted: tuple[bool, ...] = _ALL,
) -> Gradients:
    """Gradients of x1 and x2 of ``x1 x2``, None for one that is not wanted."""
    (d, a, b), restore = _adopt((dy, x1, x2), ("dy", *matmul.NAMES))
    _check_cotangent(d, match_shapes(a, b, matmul.NAMES).result, "the product of x1 and x2")
    # A vector is a matrix of one row or column.
    rows_a, columns_b = a.ndim > 1, b.ndim > 1
    d = d if columns_b else d[..., None]
    d = d if rows_a else d[..., None, :]
    first, second = a if rows_a else a[None, :], b if columns_b else b[:, None]
    da = db = None
    if wanted[0]:
        da = _product(d, second.swapaxes(-1, -2), (False, True), first, precision=precision)
        da = da if rows_a else da[0, :]
    if wanted[1]:
        db = _product(first.swapaxes(-1, -2), d, (True, False), second, precision=precision)
        db = db if columns_b else db[:, 0]
    return restore(da, db)


def gemm_backward(
    dy: Any,
    a: Any,
    b: Any,
    c: Any,
    alpha: complex,
    beta: complex,
    transpose: tuple[bool, bool],
    precision: str | None = None,
    wanted: tuple[bool, ...] = _ALL,
) -> Gradients:
    """Gradients of a, b and c (or None) of ``alpha op(a) op(b) + beta c``."""
    (d, first, second, added), restore = _adopt((dy, a, b, c), ("dy", *GEMM))
    require_matrices(first, second, GEMM, "gemm multiplies matrices; gemv takes a vector")
    op_a, name_a = turned(first, "a") if transpose[0] else (first, "a")
    op_b, name_b = turned(second, "b") if transpose[1] else (second, "b")
    _check_cotangent(d, match_shapes(op_a, op_b, (name_a, name_b)).result, "gemm")
    scale = _scale(alpha)
    d_turned = d.swapaxes(-1, -2)
    # d op(a) = dy op(b)^H and d op(b) = op(a)^H dy; their transposes for what was transposed.
    da = db = None
    if wanted[0] and transpose[0]:
        da = _product(op_b, d_turned, (True, False), first, scale, precision)
    elif wanted[0]:
        da = _product(d, op_b.swapaxes(-1, -2), (False, True), first, scale, precision)
    if wanted[1] and transpose[1]:
        db = _product(d_turned, op_a, (False, True), second, scale, precision)
    elif wanted[1]:
        db = _product(op_a.swapaxes(-1, -2), d, (True, False), second, scale, precision)
    return restore(da, db, _addend(d, added, "c", beta, wanted[2]))


def gemv_backward(
    dy: Any,
    a: Any,
    x: Any,
    y: Any,
    alpha: complex,
    beta: complex,
    transpose: bool,
    wanted: tuple[bool, ...] = _ALL,
) -> Gradients:
    """Gradients of a, x and y (or None) of ``alpha op(a) x + beta y``."""
    (d, matrix, vector, added), restore = _adopt((dy, a, x, y), ("dz", *GEMV))
    require_matrices(matrix, vector, GEMV, "gemv multiplies a matrix by a vector", vectors=True)
    op_a, name = turned(matrix, "a") if transpose else (matrix, "a")
    _check_cotangent(d, match_shapes(op_a, vector, (name, "x"), vectors=True).result, "gemv", "dz")
    scale = _scale(alpha)
    column = d[..., :, None]
    da = dx = None
    if wanted[0] and transpose:
        da = _product(vector[..., :, None], d[..., None, :], (True, False), matrix, scale)
    elif wanted[0]:
        da = _product(column, vector[..., None, :], (False, True), matrix, scale)
    if wanted[1]:
        dx = _product(op_a.swapaxes(-1, -2), column, (True, False), vector[..., :, None], scale)
        dx = dx[..., 0]
    return restore(da, dx, _addend(d, added, "y", beta, wanted[2]))


def linear_backward(
    dy: Any,
    x: Any,
    weight: Any,
    bias: Any,
    precision: str | None = None,
    wanted: tuple[bool, ...] = _ALL,
) -> Gradients:
    """Gradients of x, weight and bias (or None) of ``x weight^T + bias``."""
    (d, operand, matrix, added), restore = _adopt((dy, x, weight, bias), ("dy", *LINEAR))
    check_linear(operand, matrix, added)
    _check_cotangent(d, (*operand.shape[:-1], matrix.shape[0]), "linear")
    # A single vector is one row.
    rows_d, rows_x = (z if z.ndim > 1 else z[None, :] for z in (d, operand))
    dx = dw = None
    if wanted[0]:
        dx = _product(rows_d, matrix, (False, True), rows_x, precision=precision)
        dx = dx if operand.ndim > 1 else dx[0, :]
    if wanted[1]:
        dw = _product(rows_d.swapaxes(-1, -2), rows_x, (False, True), matrix, precision=precision)
    return restore(dx, dw, _addend(d, added, "bias", 1, wanted[2]))


def of_weight(dz: Any, inputs: Any, weight: Any) -> Any:
    """The gradient of a weight: ``dz^T inputs``, of (rows, outputs) and (..., inputs)."""
    if inputs.ndim > 2:
        dz = dz.reshape(*inputs.shape[:-1], dz.shape[-1])
    return _product(dz.swapaxes(-1, -2), inputs, (False, True), weight)


def of_bias(dz: Any, bias: Any) -> Any:
    """The gradient of a bias: the sums over rows of (rows, outputs)."""
    return _summed(dz, bias)


# ---- arguments ----------------------------------------------------------------------------------


def _adopt(arrays: Sequence[Any], names: Sequence[str]) -> tuple[list[Any], Any]:
    """Views of the arguments, and a function that restores the gradients.

    A fourth argument may be None.
    """
    given = arrays if arrays[-1] is not None else arrays[:3]
    missing = [None] * (len(arrays) - len(given))
    if all(type(x) is np.ndarray for x in given):
        return [*given, *missing], _as_they_are
    for array, name in zip(given[:3], names, strict=False):
        library_of(array, name)  # not even a Python number
    found, library, like = adopt_all(given, names[: len(given)])

    def restore(*gradients: Any) -> Gradients:
        return tuple(None if g is None else library.restore(g, like) for g in gradients)

    return [*found, *missing], restore


def _as_they_are(*gradients: Any) -> Gradients:
    return gradients


def _check_cotangent(dy: Any, shape: Shape, name: str, argument: str = "dy") -> None:
    if dy.shape != shape:
        raise ShapeError(f"{argument} has shape {dy.shape}; {name} has shape {shape}")


def _scale(alpha: complex) -> Epilogue:
    return PLAIN if alpha == 1 else Epilogue(alpha=alpha.conjugate())


# ---- parts of gradients -------------------------------------------------------------------------


def _product(
    first: Any,
    second: Any,
    conjugate: tuple[bool, bool],
    operand: Any,
    epilogue: Epilogue = PLAIN,
    precision: str | None = None,
) -> Any:
    """A product of the shape and dtype of an operand, summed over its broadcast batches.

    The terms of a sum keep the type of the accumulator: only the sum is rounded. Where the batches
    of both factors are more terms of one sum, no stack of products is made in between.
    """
    if operand.ndim == 2 and first.ndim == second.ndim > 2:
        first, second = _batch_as_terms(first, second)
    shape = match_shapes(first, second, ("dy", "the other operand")).result
    exact, wide = _terms(first.dtype, second.dtype, operand.dtype)
    product = matmul.multiply(
        (first, second, None),
        ("dy", "the other operand"),
        NUMPY,  # the arrays are of the machine itself: nothing is to be restored
        first,
        out_dtype=exact if shape == operand.shape else wide,
        conjugate=conjugate,
        epilogue=epilogue,
        precision=precision,
    )
    return _summed(product, operand)


@cache
def _terms(first: Any, second: Any, operand: Any) -> tuple[str, str]:
    """dtypes of a gradient that is one product, and of products that are summed next."""
    wanted = ELEMENTS[operand.name]
    names = wanted.name, wanted.compute_name
    if ELEMENTS[promote((first.name, second.name))].kind == wanted.kind:
        return names
    # Of a real operand beside a complex one, in complex numbers.
    return promote((names[0], "complex64")), promote((names[1], "complex64"))


def _batch_as_terms(first: Any, second: Any) -> tuple[Any, Any]:
    """Two stacks of one batch shape, (..., m, k) and (..., k, n), as two matrices.

    The axes of the batch become part of k where that takes no copy; else nothing changes.
    """
    batch, k = first.shape[:-2], first.shape[-1]
    strides = [(*first.strides[:-2], first.strides[-1]), second.strides[:-1]]
    if second.shape[:-2] != batch or len(merge((*batch, k), strides)[0]) > 1:
        return first, second
    terms = k * prod(batch)
    axes = (first.ndim - 2, *range(first.ndim - 2), first.ndim - 1)
    return (
        first.transpose(axes).reshape(first.shape[-2], terms),
        second.reshape(terms, second.shape[-1]),
    )


def _addend(dy: Any, addend: Any, name: str, beta: complex, is_wanted: bool) -> Any:
    """``conj(beta) dy``, summed over the axes along which the addend was broadcast."""
    if addend is None:
        return None
    broadcast_to(addend, dy.shape, name)
    if not is_wanted:
        return None
    total = _summed(dy, addend)
    if beta == 1:
        return total
    return elementwise.apply(_SCALE, (total,), params=(beta.conjugate(),))


def _summed(terms: Any, operand: Any) -> Any:
    """Terms summed to the shape of an operand, in its dtype; real parts for a real operand."""
    wanted = operand.dtype
    if terms.dtype.kind == "c" and wanted.kind != "c":
        terms = terms.real
    if terms.shape == operand.shape:
        return terms if terms.dtype == wanted else terms.astype(wanted)
    return rows.sum_to_shape(terms, operand.shape, name_of(wanted))
