"""Batch normalisation and its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnkernels._typing import Array
from nnkernels.dispatch import batch_norm as dispatch
from nnkernels.dispatch import fused_batch_norm
from nnkernels.dispatch.batch_norm_plan import Activated
from nnkernels.ops import _options
from nnkernels.ops._activation import Activation, ActivationLike, resolve
from nnkernels.ops._functions import Function, Operands, functions_of, is_plain
from nnkernels.ops._public import public

__all__ = ["batch_norm", "batch_norm_backward"]


@public
def batch_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    /,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    axis: int = 1,
    activation: ActivationLike = None,
    prologue: Function = None,
    prologue_operands: Operands = (),
    epilogue: Function = None,
    operands: Operands = (),
) -> Any:
    """Batch normalisation: ``y = (x - mean) / sqrt(variance + eps) weight + bias`` by channels.

    In training, mean and variance are those of each channel of ``x``; in inference, the running
    ones.

    Parameters
    ----------
    x : array
        Of any shape and strides, and of float16, bfloat16, float32 or float64. Channels-last
        arrays are views with the channel axis moved, and as fast.
    weight, bias : array, optional
        One element for each channel, of the dtype of ``x`` or float32.
    running_mean, running_var : array, optional
        Running statistics, as ``weight``. Inference needs them.
    training : bool, default False
        Whether the statistics are those of ``x``.
    momentum : float, default 0.1
        In training, the new running statistics are ``(1 - momentum) running + momentum batch``,
        where the variance of the batch is the unbiased one.
    eps : float, default 1e-5
        What is added to the variance.
    axis : int, default 1
        The channel axis.
    activation : str or function, optional
        What is applied to the result before it is rounded and written: the name of an activation
        of nnkernels such as ``"relu"``, the function, or ``functools.partial`` of one with its
        options.
    {prologue and epilogue}

    Returns
    -------
    y : array
        Of the library, shape, dtype and memory order of ``x``: in inference all that is returned.
    running_mean, running_var : array or None
        In training, the new running statistics: new arrays, or None where there were none.

    Raises
    ------
    ShapeError
        If a parameter has not one element for each channel, or in training a channel has fewer
        than two elements.
    DTypeError
        If an argument is no array or of a dtype that is not supported or does not go with that of
        ``x``.
    BackendError
        If arrays are on different devices, or a kernel cannot be compiled.
    TypeError, ValueError
        If an option is of the wrong type, or out of its range, or inference is given no running
        statistics.

    Notes
    -----
    Statistics are in float32 (float64 for float64), from deviations, with the mean in two numbers:
    a channel of mean 1e4 and deviation 1e-2 keeps its variance in float32. A view and its copy of
    one memory order give the same bits. A channel of equal numbers with ``eps=0`` is 0 / 0.

    References
    ----------
    S. Ioffe and C. Szegedy, "Batch normalization: accelerating deep network training by reducing
    internal covariate shift", ICML 2015.

    {examples}
    >>> y, mean, variance = nnk.batch_norm(np.array([[1.0], [3.0]]), training=True)
    >>> y.round(3).tolist(), mean, variance
    ([[-1.0], [1.0]], None, None)
    """
    arrays = (x, weight, bias, running_mean, running_var)
    eps = _eps(eps)
    if type(momentum) is not float or not 0.0 <= momentum <= 1.0:
        momentum = _options.finite("momentum", momentum)
    finish = None if activation is None else _activated(resolve(activation, "activation"))
    given = (prologue, prologue_operands, epilogue, operands)
    functions = None if is_plain(given) else functions_of(*given)
    if functions is not None:
        if _options.flag("training", training):
            return fused_batch_norm.train(arrays, axis, eps, momentum, finish, functions)
        return fused_batch_norm.infer(arrays, axis, eps, finish, functions)
    if _options.flag("training", training):
        return dispatch.train(arrays, axis, eps, momentum, finish)
    return dispatch.infer(arrays, axis, eps, finish)


@public
def batch_norm_backward(
    dy: Array,
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    /,
    *,
    training: bool = False,
    eps: float = 1e-5,
    axis: int = 1,
    activation: ActivationLike = None,
) -> tuple[Array | None, ...]:
    """Gradients of `batch_norm`: of ``x``, ``weight`` and ``bias``.

    With ``xhat = (x - mean) rstd``: ``dbias = sum dy``, ``dweight = sum dy xhat``, and in training
    ``dx = weight rstd (dy - dbias / n - xhat dweight / n)`` for n elements of a channel, in
    inference ``dx = weight rstd dy``.

    Parameters
    ----------
    dy : array
        The cotangent: the gradient of the loss with respect to ``y``, of the shape and dtype of
        ``x``.
    x, weight, bias, running_mean, running_var : array
        The operands of `batch_norm`. Of ``bias`` only shape and dtype are used, unless there is an
        activation; running statistics are used in inference alone.
    training : bool, default False
        As in `batch_norm`.
    eps : float, default 1e-5
        As in `batch_norm`.
    axis : int, default 1
        As in `batch_norm`.
    activation : str or function, optional
        As in `batch_norm`. What goes into it is then computed once more, for its derivative.

    Returns
    -------
    dx : array
        Of the shape, dtype and memory order of ``x``.
    dweight, dbias : array or None
        Of the shapes and dtypes of ``weight`` and ``bias``; None where there is no such array.

    Raises
    ------
    ShapeError, DTypeError, BackendError, TypeError, ValueError
        As `batch_norm`, and if ``dy`` is not of the shape and dtype of ``x``.

    Notes
    -----
    Nothing is kept from the forward pass: mean and deviation come from the reading of ``x`` and
    ``dy`` that the sums need anyway, as moments of both. Running statistics are taken as
    constants.

    References
    ----------
    S. Ioffe and C. Szegedy, "Batch normalization: accelerating deep network training by reducing
    internal covariate shift", ICML 2015.

    {examples}
    >>> x, dy = np.array([[1.0], [3.0], [5.0]]), np.array([[1.0], [0.0], [0.0]])
    >>> dx, dweight, dbias = nnk.batch_norm_backward(dy, x, np.ones(1), np.ones(1), training=True)
    >>> dbias.tolist(), dweight.round(3).tolist()
    ([1.0], [-1.225])
    """
    eps = _eps(eps)
    training = _options.flag("training", training)
    found = resolve(activation, "activation")
    if found is not None:
        # Neither what goes into the activation nor its cotangent is rounded.
        arrays = (x, weight, bias, running_mean, running_var)
        inside = _activated(found if found.takes_result else None)
        if training:
            before = (*arrays[:3], None, None)
            residual = dispatch.train(before, axis, eps, 0.0, inside, wide=True)[0]
        else:
            residual = dispatch.infer(arrays, axis, eps, inside, wide=True)
        dy = found.backward(dy, residual, in_place=type(residual) is np.ndarray)
    return dispatch.backward((dy, x, weight, bias, running_mean, running_var), axis, eps, training)


def _eps(eps: float) -> float:
    if type(eps) is float and 0 <= eps < float("inf"):
        return eps
    return _options.not_negative("eps", eps)


def _activated(activation: Activation | None) -> Activated:
    return None if activation is None else (activation.functor, activation.parameters)
