"""Matrix products with a scaled third array: BLAS's GEMM and GEMV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnkernels._typing import Array, DTypeLike
from nnkernels.dispatch import gemm as dispatch
from nnkernels.dispatch import matmul_gradients as gradients
from nnkernels.ops import _options
from nnkernels.ops._activation import ActivationLike, fused
from nnkernels.ops._public import public


@public
def gemm(
    a: Array,
    b: Array,
    c: Array | None = None,
    /,
    *,
    alpha: complex = 1.0,
    beta: complex = 1.0,
    transpose_a: bool = False,
    transpose_b: bool = False,
    epilogue: ActivationLike = None,
    operands: Sequence[Any] = (),
    out_dtype: DTypeLike | None = None,
    precision: str | None = None,
    out: Array | None = None,
) -> Array:
    """General matrix product: ``y = epilogue(alpha op(a) op(b) + beta c)``.

    ``op(a)`` is ``a``, or its transpose if ``transpose_a``.

    Parameters
    ----------
    a : array
        Of shape (..., M, K), or (..., K, M) if ``transpose_a``, of any strides and any real
        floating, complex or integer type.
    b : array
        Of shape (..., K, N), or (..., N, K) if ``transpose_b``. Batch shapes broadcast.
    c : array, optional
        Of any shape that broadcasts to that of the result, such as (N,), (M, 1) or (M, N).
    alpha, beta : number, default 1
        Whole for integers, real for real types. ``c`` is not read if ``beta`` is 0.
    transpose_a, transpose_b : bool, default False
        Whether to exchange the last two axes of an operand (without a conjugate).
    {epilogue}
    {out_dtype}
    {precision}
    out : array, optional
        Where to write the result: of its shape and dtype and any strides. It may be ``c`` itself,
        and must not overlap an operand in another way.

    Returns
    -------
    array
        Of the library of the operands and shape (..., M, N).

    {raises of products}

    Notes
    -----
    {notes of products}

    References
    ----------
    J. J. Dongarra, J. Du Croz, S. Hammarling and I. Duff, "A set of level 3 basic linear algebra
    subprograms", ACM TOMS 16(1), 1990; ONNX, operator Gemm.

    {examples}
    >>> a, b = np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]])
    >>> nnk.gemm(a, b, np.array([10.0]), alpha=2.0, beta=0.5).tolist()
    [[27.0]]
    >>> nnk.gemm(a, b, transpose_a=True, transpose_b=True).tolist()
    [[3.0, 4.0], [6.0, 8.0]]
    """
    finish = fused(epilogue, "epilogue", *_scalars(alpha, beta), operands)
    if precision is not None:
        precision = _options.precision("precision", precision)
    transpose = _flags(transpose_a, transpose_b)
    return dispatch.gemm(a, b, c, finish, transpose, out_dtype, out, precision)


@public
def gemm_backward(
    dy: Array,
    a: Array,
    b: Array,
    c: Array | None = None,
    /,
    *,
    alpha: complex = 1.0,
    beta: complex = 1.0,
    transpose_a: bool = False,
    transpose_b: bool = False,
    precision: str | None = None,
) -> tuple[Array | None, ...]:
    """Gradients of `gemm`: ``da = alpha dy op(b)^H``, ``db = alpha op(a)^H dy``, ``dc = beta dy``.

    Parameters
    ----------
    dy : array
        The cotangent: the gradient of the loss with respect to the result of `gemm`, before its
        epilogue; of the shape of that result and any strides.
    a, b, c : array
        The operands of `gemm`, of a real floating or complex type; of ``c`` only the shape
        and dtype are used.
    alpha, beta, transpose_a, transpose_b
        As in `gemm`.
    {precision}

    Returns
    -------
    da, db : array
        Of the shapes and dtypes of ``a`` and ``b``, summed over the batches along which those were
        broadcast.
    dc : array or None
        Of the shape and dtype of ``c``, summed likewise; None without it.

    {raises of products}

    Notes
    -----
    The same kernels with strides exchanged: nothing is transposed in memory. Of a transposed
    operand, the gradient is the transpose of the formula. For complex operands the gradient is
    PyTorch's: of ``alpha`` and ``beta`` the conjugates.

    {references of gradients}

    {examples}
    >>> a, b = np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]])
    >>> da, db, dc = nnk.gemm_backward(np.ones((1, 1)), a, b, np.zeros(1), beta=0.5)
    >>> da.tolist(), db.tolist(), dc.tolist()
    ([[3.0, 4.0]], [[1.0], [2.0]], [0.5])
    """
    if precision is not None:
        precision = _options.precision("precision", precision)
    transpose = _flags(transpose_a, transpose_b)
    return gradients.gemm_backward(dy, a, b, c, *_scalars(alpha, beta), transpose, precision)


@public
def gemv(
    a: Array,
    x: Array,
    y: Array | None = None,
    /,
    *,
    alpha: complex = 1.0,
    beta: complex = 1.0,
    transpose_a: bool = False,
    epilogue: ActivationLike = None,
    operands: Sequence[Any] = (),
    out_dtype: DTypeLike | None = None,
    out: Array | None = None,
) -> Array:
    """Product of a matrix and a vector: ``z = epilogue(alpha op(a) x + beta y)``.

    ``op(a)`` is ``a``, or its transpose if ``transpose_a``.

    Parameters
    ----------
    a : array
        Of shape (..., M, K), or (..., K, M) if ``transpose_a``, of any strides and any real
        floating, complex or integer type.
    x : array
        Of shape (..., K). Batch shapes broadcast.
    y : array, optional
        Of any shape that broadcasts to that of the result.
    alpha, beta : number, default 1
        Whole for integers, real for real types. ``y`` is not read if ``beta`` is 0.
    transpose_a : bool, default False
        Whether to exchange the last two axes of ``a`` (without a conjugate).
    {epilogue}
    {out_dtype}
    out : array, optional
        Where to write the result: of its shape and dtype and any strides. It may be ``y`` itself,
        and must not overlap an operand in another way.

    Returns
    -------
    array
        Of the library of the operands and shape (..., M).

    {raises of products}

    Notes
    -----
    {notes of products}

    References
    ----------
    J. J. Dongarra, J. Du Croz, S. Hammarling and R. J. Hanson, "An extended set of Fortran basic
    linear algebra subprograms", ACM TOMS 14(1), 1988.

    {examples}
    >>> a, x = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, -1.0])
    >>> nnk.gemv(a, x, np.ones(2), alpha=2.0).tolist()
    [-1.0, -1.0]
    >>> nnk.gemv(a, x, transpose_a=True, epilogue="relu").tolist()
    [0.0, 0.0]
    """
    finish = fused(epilogue, "epilogue", *_scalars(alpha, beta), operands)
    return dispatch.gemv(a, x, y, finish, _flags(transpose_a)[0], out_dtype, out)


@public
def gemv_backward(
    dz: Array,
    a: Array,
    x: Array,
    y: Array | None = None,
    /,
    *,
    alpha: complex = 1.0,
    beta: complex = 1.0,
    transpose_a: bool = False,
) -> tuple[Array | None, ...]:
    """Gradients of `gemv`: ``da = alpha dz x^H``, ``dx = alpha op(a)^H dz``, ``dy = beta dz``.

    Parameters
    ----------
    dz : array
        The cotangent: the gradient of the loss with respect to the result of `gemv`, before its
        epilogue; of the shape of that result and any strides.
    a, x, y : array
        The operands of `gemv`, of a real floating or complex type; of ``y`` only the shape
        and dtype are used.
    alpha, beta, transpose_a
        As in `gemv`.

    Returns
    -------
    da, dx : array
        Of the shapes and dtypes of ``a`` and ``x``, summed over the batches along which those were
        broadcast.
    dy : array or None
        Of the shape and dtype of ``y``, summed likewise; None without it.

    {raises of products}

    Notes
    -----
    As `gemm_backward`.

    {references of gradients}

    {examples}
    >>> a, x = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, -1.0])
    >>> da, dx, _ = nnk.gemv_backward(np.array([1.0, 0.0]), a, x)
    >>> da.tolist(), dx.tolist()
    ([[1.0, -1.0], [0.0, 0.0]], [1.0, 2.0])
    """
    return gradients.gemv_backward(dz, a, x, y, *_scalars(alpha, beta), _flags(transpose_a)[0])


def _scalars(alpha: complex, beta: complex) -> tuple[complex, complex]:
    if type(alpha) is not float or alpha != alpha:
        alpha = _options.scalar("alpha", alpha)
    if type(beta) is not float or beta != beta:
        beta = _options.scalar("beta", beta)
    return alpha, beta


def _flags(transpose_a: bool, transpose_b: bool = False) -> tuple[bool, bool]:
    if type(transpose_a) is not bool:
        transpose_a = _options.flag("transpose_a", transpose_a)
    if type(transpose_b) is not bool:
        transpose_b = _options.flag("transpose_b", transpose_b)
    return transpose_a, transpose_b
