"""Matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnkernels._typing import Array, DTypeLike
from nnkernels.dispatch import matmul as dispatch
from nnkernels.dispatch import matmul_gradients as gradients
from nnkernels.ops import _options
from nnkernels.ops._activation import ActivationLike, fused
from nnkernels.ops._public import public


@public
def matmul(
    x1: Array,
    x2: Array,
    /,
    *,
    out_dtype: DTypeLike | None = None,
    epilogue: ActivationLike = None,
    operands: Sequence[Any] = (),
    precision: str | None = None,
    out: Array | None = None,
) -> Array:
    """Matrix product of two arrays, as the Array API defines it.

    ``y[..., i, j] = sum_k x1[..., i, k] x2[..., k, j]``

    Parameters
    ----------
    x1 : array
        Of shape (..., M, K) or (K,), any strides, of any real floating, complex or integer type.
    x2 : array
        Of shape (..., K, N) or (K,). Batch shapes broadcast, without a copy.
    out_dtype : dtype, optional
        dtype of the result: another of the same kind, such as ``"int32"`` for int8 operands or
        ``"float32"`` for float16 ones. Default: the promoted dtype of the operands.
    {epilogue}
    {precision}
    out : array, optional
        Where to write the result: of its shape and dtype, of any strides, apart from the operands.

    Returns
    -------
    array
        Of the library of the operands and shape (..., M, N); an axis that a one-dimensional
        operand lacks is left out.

    Raises
    ------
    ShapeError
        If the inner sizes differ, the batch shapes do not broadcast, or ``out`` does not fit.
    DTypeError
        If an operand is no array or of an unsupported dtype, if the dtypes have no common one or
        do not go with ``out_dtype``, or if ``out`` is read-only or of another dtype.
    BackendError
        If arrays are on different devices, or a kernel cannot be compiled.
    {epilogue errors}

    Notes
    -----
    Sums are in float32 for float16 and bfloat16, in float64 for float64, in 32 bits for integers
    up to 32 bits and in 64 bits beyond, where overflow wraps. K = 0 gives zeros. NaN and inf
    propagate as IEEE 754 has it. On CPUs that multiply bfloat16 in one instruction (AMX, AVX-512
    BF16), subnormal bfloat16 operands and subnormal float32 sums count as zero.

    References
    ----------
    Python array API standard, ``matmul``.

    Examples
    --------
    >>> import numpy as np
    >>> import nnkernels as nnk
    >>> nnk.matmul(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]])).tolist()
    [[11.0]]
    """
    if precision is not None:
        precision = _options.precision("precision", precision)
    finish = fused(epilogue, "epilogue", operands=operands)
    return dispatch.apply(x1, x2, out_dtype, (False, False), out, finish, precision)


@public
def matmul_backward(
    dy: Array, x1: Array, x2: Array, /, *, precision: str | None = None
) -> tuple[Array, ...]:
    """Gradients of `matmul`: ``dx1 = dy x2^H`` and ``dx2 = x1^H dy``.

    Parameters
    ----------
    dy : array
        The cotangent: the gradient of the loss with respect to the result of `matmul`, before its
        epilogue; of the shape of that result and any strides.
    x1, x2 : array
        The operands of `matmul`, of a real floating or complex type.
    {precision}

    Returns
    -------
    dx1, dx2 : array
        Of the shapes of ``x1`` and ``x2``, summed over the batches along which those were
        broadcast.

    Raises
    ------
    ShapeError, DTypeError, BackendError
        As `matmul`; also if ``dy`` has not the shape of the product.
    TypeError, ValueError
        If ``precision`` is none.

    Notes
    -----
    The same kernels with strides swapped: nothing is transposed in memory. For complex operands
    the gradient is PyTorch's, with a conjugate.

    {references of gradients}

    Examples
    --------
    >>> import numpy as np
    >>> import nnkernels as nnk
    >>> x1, x2 = np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]])
    >>> dx1, dx2 = nnk.matmul_backward(np.ones((1, 1)), x1, x2)
    >>> dx1.tolist(), dx2.tolist()
    ([[3.0, 4.0]], [[1.0], [2.0]])
    """
    if precision is not None:
        precision = _options.precision("precision", precision)
    return gradients.matmul_backward(dy, x1, x2, precision)
