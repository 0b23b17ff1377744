"""The linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnkernels._typing import Array, DTypeLike
from nnkernels.dispatch import gemm as dispatch
from nnkernels.dispatch import matmul_gradients as gradients
from nnkernels.ops import _options
from nnkernels.ops._activation import ActivationLike, differentiable, fused, resolve
from nnkernels.ops._public import public


@public
def linear(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    /,
    *,
    activation: ActivationLike = None,
    epilogue: ActivationLike = None,
    operands: Sequence[Any] = (),
    out_dtype: DTypeLike | None = None,
    precision: str | None = None,
    out: Array | None = None,
) -> Array:
    """Linear layer in one kernel: ``y = activation(x weight^T + bias)``.

    Parameters
    ----------
    x : array
        Of shape (..., inputs), any strides and any real floating, complex or integer type.
    weight : array
        Of shape (outputs, inputs).
    bias : array, optional
        Of shape (outputs,).
    activation : str or function, optional
        What is applied to the sums before they are rounded and written: the name of an activation
        of nnkernels such as ``"relu"``, the function, or ``functools.partial`` of one with its
        options.
    {epilogue}
    {out_dtype}
    {precision}
    out : array, optional
        Where to write the result: of its shape and dtype, of any strides, apart from the operands.

    Returns
    -------
    array
        Of the library of the operands and shape (..., outputs).

    {raises of products}

    Notes
    -----
    {notes of products}

    References
    ----------
    ``torch.nn.functional.linear``.

    {examples}
    >>> x, weight = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [-5.0, 0.0]])
    >>> nnk.linear(x, weight, np.ones(2), activation="relu").tolist()
    [[12.0, 0.0]]
    """
    if precision is not None:
        precision = _options.precision("precision", precision)
    if epilogue is not None and activation is not None:
        raise TypeError("linear takes an activation or an epilogue, not both")
    if activation is None:
        finish = fused(epilogue, "epilogue", operands=operands)
    else:
        finish = fused(activation, "activation", operands=operands)
    return dispatch.linear(x, weight, bias, finish, out_dtype, out, precision)


@public
def linear_backward(
    dy: Array,
    x: Array,
    weight: Array,
    bias: Array | None = None,
    /,
    *,
    activation: ActivationLike = None,
    precision: str | None = None,
) -> tuple[Array | None, ...]:
    """Gradients of `linear`: ``dx = dz weight^*``, ``dweight = dz^T x^*``, ``dbias = sum of dz``.

    Here ``dz`` is ``dy`` times the derivative of the activation.

    Parameters
    ----------
    dy : array
        The cotangent: the gradient of the loss with respect to the result of `linear`, of its shape
        and any strides.
    x, weight, bias : array
        The operands of `linear`, of a real floating or complex type. Of ``bias`` only the shape
        and dtype are used, unless there is an activation.
    activation : str or function, optional
        As in `linear`. The layer is then computed once more for its derivative; the pullback of
        `vjp` keeps what it needs instead.
    {precision}

    Returns
    -------
    dx, dweight : array
        Of the shapes and dtypes of ``x`` and ``weight``.
    dbias : array or None
        Of the shape and dtype of ``bias``; None without it.

    {raises of products}

    Notes
    -----
    The same kernels with strides exchanged: nothing is transposed in memory. For complex operands
    the gradient is PyTorch's, with conjugates. Where the leading axes of ``dy`` or of ``x`` are not
    one axis in memory, the gradient of the weight is summed over a stack of products.

    {references of gradients}

    {examples}
    >>> x, weight = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [-5.0, 0.0]])
    >>> dx, dw, db = nnk.linear_backward(np.ones((1, 2)), x, weight, np.ones(2), activation="relu")
    >>> dx.tolist(), dw.tolist(), db.tolist()
    ([[3.0, 4.0]], [[1.0, 2.0], [0.0, 0.0]], [1.0, 0.0])
    """
    if precision is not None:
        precision = _options.precision("precision", precision)
    found = resolve(activation, "activation")
    if found is not None:
        _, before_activation = differentiable(
            lambda inside: linear(x, weight, bias, activation=inside, precision=precision), found
        )
        dy = before_activation(dy)
    return gradients.linear_backward(dy, x, weight, bias, precision)
