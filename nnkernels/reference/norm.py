"""Normalisation: the specification, in NumPy and float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nnkernels.ops._activation import resolve

Axis = int | tuple[int, ...] | None
View = Callable[[Any], Any]


# ---- public functions ---------------------------------------------------------------------------


def layer_norm(
    x: Any,
    weight: Any = None,
    bias: Any = None,
    *,
    axis: Axis = -1,
    eps: float = 1e-5,
    residual: Any = None,
    activation: Any = None,
) -> Any:
    """(x - mean) / sqrt(var + eps) weight + bias, the statistics along the axes."""
    total = _sum(x, residual)
    axes, parameter, _ = _along(x.shape, axis)
    y = _forward(total, parameter(weight), parameter(bias), _moments(total, axes, eps), activation)
    return _with_sum(y.astype(x.dtype), total, residual)


def layer_norm_backward(
    dy: Any,
    x: Any,
    weight: Any = None,
    bias: Any = None,
    *,
    axis: Axis = -1,
    eps: float = 1e-5,
    activation: Any = None,
    dresidual: Any = None,
) -> tuple[np.ndarray | None, ...]:
    """Gradients of the operands; x is the sum where there was a residual."""
    axes, parameter, back = _along(x.shape, axis)
    dx, dweight, dbias = _backward(
        dy, x, parameter(weight), parameter(bias), axes, _moments(x, axes, eps), activation
    )
    return _input(dx, x, dresidual), back(dweight, weight), back(dbias, bias)


def rms_norm(
    x: Any,
    weight: Any = None,
    *,
    axis: Axis = -1,
    eps: float = 1e-6,
    offset: float = 0.0,
    residual: Any = None,
    activation: Any = None,
) -> Any:
    """x / sqrt(mean(x^2) + eps) (weight + offset), the mean along the axes."""
    total = _sum(x, residual)
    axes, parameter, _ = _along(x.shape, axis)
    y = _forward(
        total, _raised(parameter(weight), offset), None, _square(total, axes, eps), activation
    )
    return _with_sum(y.astype(x.dtype), total, residual)


def rms_norm_backward(
    dy: Any,
    x: Any,
    weight: Any = None,
    *,
    axis: Axis = -1,
    eps: float = 1e-6,
    offset: float = 0.0,
    activation: Any = None,
    dresidual: Any = None,
) -> tuple[np.ndarray | None, ...]:
    """Gradients of the operands; x is the sum where there was a residual."""
    axes, parameter, back = _along(x.shape, axis)
    dx, dweight, _ = _backward(
        dy,
        x,
        _raised(parameter(weight), offset),
        None,
        axes,
        _square(x, axes, eps),
        activation,
        centred=False,
    )
    return _input(dx, x, dresidual), back(dweight, weight)


def group_norm(
    x: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    *,
    axis: int = 1,
    eps: float = 1e-5,
    residual: Any = None,
    activation: Any = None,
) -> Any:
    """(x - mean) / sqrt(var + eps) weight + bias, the statistics over a group of channels."""
    total = _sum(x, residual)
    view, back, axes = _grouped(x.shape, num_groups, axis)
    inside = view(total)
    y = _forward(
        inside,
        _per_channel(weight, inside),
        _per_channel(bias, inside),
        _moments(inside, axes, eps),
        activation,
    )
    return _with_sum(back(y).astype(x.dtype), total, residual)


def group_norm_backward(
    dy: Any,
    x: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    *,
    axis: int = 1,
    eps: float = 1e-5,
    activation: Any = None,
    dresidual: Any = None,
) -> tuple[np.ndarray | None, ...]:
    """Gradients of the operands; x is the sum where there was a residual."""
    view, back, axes = _grouped(x.shape, num_groups, axis)
    inside = view(x)
    dx, dweight, dbias = _backward(
        view(dy),
        inside,
        _per_channel(weight, inside),
        _per_channel(bias, inside),
        axes,
        _moments(inside, axes, eps),
        activation,
    )
    return (
        _input(back(dx), x, dresidual),
        _summed(dweight, weight, range(2, inside.ndim)),
        _summed(dbias, bias, range(2, inside.ndim)),
    )


def instance_norm(
    x: Any, weight: Any = None, bias: Any = None, *, axis: int = 1, **rest: Any
) -> Any:
    """Group normalisation where every channel is a group."""
    return group_norm(x, max(x.shape[axis], 1), weight, bias, axis=axis, **rest)


def instance_norm_backward(
    dy: Any, x: Any, weight: Any = None, bias: Any = None, *, axis: int = 1, **rest: Any
) -> tuple[np.ndarray | None, ...]:
    """Gradients of the operands; x is the sum where there was a residual."""
    return group_norm_backward(dy, x, max(x.shape[axis], 1), weight, bias, axis=axis, **rest)


def batch_norm(
    x: Any,
    weight: Any = None,
    bias: Any = None,
    running_mean: Any = None,
    running_var: Any = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    axis: int = 1,
    activation: Any = None,
) -> Any:
    """(x - mean) / sqrt(var + eps) weight + bias, the statistics of a channel or the running ones.

    In training also the new running statistics, with the unbiased variance.
    """
    view, back, axes = _channels(x.ndim, axis)
    inside = view(x)
    y = _forward(
        inside,
        _per_channel(weight, inside, 1),
        _per_channel(bias, inside, 1),
        _channel_moments(inside, running_mean, running_var, training, axes, eps),
        activation,
    )
    y = back(y).astype(x.dtype)
    if not training:
        return y
    count = x.size // max(inside.shape[0], 1)
    wide = _wide(inside)
    with np.errstate(all="ignore"):
        variance = np.float64(count) / np.float64(count - 1) * wide.var(axis=axes)
        new_mean = _moved(running_mean, wide.mean(axis=axes), momentum)
        return y, new_mean, _moved(running_var, variance, momentum)


def batch_norm_backward(
    dy: Any,
    x: Any,
    weight: Any = None,
    bias: Any = None,
    running_mean: Any = None,
    running_var: Any = None,
    *,
    training: bool = False,
    eps: float = 1e-5,
    axis: int = 1,
    activation: Any = None,
) -> tuple[np.ndarray | None, ...]:
    """Gradients of x, weight and bias; in inference the statistics are constants."""
    view, back, axes = _channels(x.ndim, axis)
    inside = view(x)
    dx, dweight, dbias = _backward(
        view(dy),
        inside,
        _per_channel(weight, inside, 1),
        _per_channel(bias, inside, 1),
        axes if training else None,
        _channel_moments(inside, running_mean, running_var, training, axes, eps),
        activation,
    )
    return back(dx).astype(x.dtype), _summed(dweight, weight, axes), _summed(dbias, bias, axes)


# ---- statistics ---------------------------------------------------------------------------------


def _moments(x: Any, axes: tuple[int, ...], eps: float) -> tuple[Any, Any]:
    """Mean, and reciprocal deviation."""
    wide = _wide(x)
    with np.errstate(all="ignore"):
        count = np.float64(np.prod([x.shape[a] for a in axes]))
        mean = wide.sum(axis=axes, keepdims=True) / count
        variance = np.square(wide - mean).sum(axis=axes, keepdims=True) / count
        return mean, 1 / np.sqrt(variance + eps)


def _square(x: Any, axes: tuple[int, ...], eps: float) -> tuple[Any, Any]:
    """0 for the mean, and the reciprocal root of the mean of squares."""
    with np.errstate(all="ignore"):
        count = np.float64(np.prod([x.shape[a] for a in axes]))
        square = np.square(_wide(x)).sum(axis=axes, keepdims=True) / count
        return 0.0, 1 / np.sqrt(square + eps)


def _channel_moments(
    x: Any, running_mean: Any, running_var: Any, training: bool, axes: tuple[int, ...], eps: float
) -> tuple[Any, Any]:
    if training:
        return _moments(x, axes, eps)
    with np.errstate(all="ignore"):
        return (
            _per_channel(running_mean, x, 1),
            1 / np.sqrt(_per_channel(running_var, x, 1) + eps),
        )


def _moved(running: Any, batch: Any, momentum: float) -> Any:
    if running is None:
        return None
    return ((1 - momentum) * _wide(running) + momentum * batch).astype(running.dtype)


# ---- the function and its gradient --------------------------------------------------------------


def _forward(x: Any, weight: Any, bias: Any, moments: tuple[Any, Any], activation: Any) -> Any:
    """act(xhat weight + bias) in float64; parameters that broadcast."""
    found = resolve(activation, "activation")
    with np.errstate(all="ignore"):
        z = _affine((_wide(x) - moments[0]) * moments[1], weight, bias)
        return z if found is None else found.reference(z)


def _backward(
    dy: Any,
    x: Any,
    weight: Any,
    bias: Any,
    axes: tuple[int, ...] | None,
    moments: tuple[Any, Any],
    activation: Any,
    centred: bool = True,
) -> tuple[Any, Any, Any]:
    """dx, dz xhat and dz in float64, where dz is the cotangent before the activation.

    Parameters
    ----------
    axes : tuple of int or None
        Along which the statistics are; None for statistics that do not depend on x.
    centred : bool
        Whether the mean is subtracted.
    """
    found = resolve(activation, "activation")
    dz, reciprocal = _wide(dy), moments[1]
    with np.errstate(all="ignore"):
        xhat = (_wide(x) - moments[0]) * reciprocal
        if found is not None:
            z = _affine(xhat, weight, bias)
            dz = found.reference_backward(dz, found.reference(z) if found.takes_result else z)
        g = _affine(dz, weight, None)
        if axes is None:
            return reciprocal * g, dz * xhat, dz
        count = np.float64(np.prod([x.shape[a] for a in axes]))
        inner = g - xhat * ((g * xhat).sum(axis=axes, keepdims=True) / count)
        if centred:
            inner = inner - g.sum(axis=axes, keepdims=True) / count
        return reciprocal * inner, dz * xhat, dz


def _affine(x: Any, weight: Any, bias: Any) -> Any:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


# ---- axes ---------------------------------------------------------------------------------------


def _along(shape: tuple[int, ...], axis: Axis) -> tuple[tuple[int, ...], View, Any]:
    """The axes; how a parameter of their shape broadcasts to x; how a sum becomes its gradient.

    A parameter's axes are in the order in which they are named.
    """
    named = range(len(shape)) if axis is None else (axis,) if isinstance(axis, int) else axis
    axes = tuple(a % len(shape) for a in named)
    order = tuple(int(a) for a in np.argsort(axes))
    others = tuple(a for a in range(len(shape)) if a not in axes)

    def parameter(values: Any) -> Any:
        if values is None:
            return None
        return np.expand_dims(_wide(values).transpose(order), others)

    def back(elements: Any, parameter: Any) -> Any:
        if parameter is None:
            return None
        total = elements.sum(axis=others).transpose(np.argsort(order))
        return np.asarray(total).astype(parameter.dtype)

    return axes, parameter, back


def _grouped(shape: tuple[int, ...], groups: int, axis: int) -> tuple[View, View, tuple[int, ...]]:
    """The view (groups, channels of one, batch, space...) of x, the way back, and what is summed.

    Where the channel axis is axis 0, there is no batch axis.
    """
    channel = axis % len(shape)
    rest = shape[:channel] + shape[channel + 1 :]
    batch = 0 if channel == 0 else 1
    inner = (groups, shape[channel] // groups, *rest)

    def view(x: Any) -> Any:
        return np.moveaxis(x, channel, 0).reshape(inner)

    def back(y: Any) -> Any:
        return np.moveaxis(y.reshape(shape[channel], *rest), 0, channel)

    return view, back, (1, *range(2 + batch, len(inner)))


def _channels(rank: int, axis: int) -> tuple[View, View, tuple[int, ...]]:
    """The view (channels, others...) of x, the way back, and the other axes."""
    return (
        lambda x: np.moveaxis(x, axis, 0),
        lambda y: np.moveaxis(y, 0, axis),
        tuple(range(1, rank)),
    )


def _per_channel(parameter: Any, view: Any, axes: int = 2) -> Any:
    """A parameter of the channels, which are the first axes of a view."""
    if parameter is None:
        return None
    return _wide(parameter).reshape(*view.shape[:axes], *(1,) * (view.ndim - axes))


def _summed(elements: Any, parameter: Any, axes: Any) -> Any:
    if parameter is None:
        return None
    total = elements.sum(axis=tuple(axes)).reshape(parameter.shape)
    return np.asarray(total).astype(parameter.dtype)


# ---- pieces -------------------------------------------------------------------------------------


def _wide(x: Any) -> np.ndarray:
    return np.asarray(x).astype(np.float64)


def _sum(x: Any, residual: Any) -> Any:
    """x + residual, rounded to the dtype of x."""
    return x if residual is None else (_wide(x) + _wide(residual)).astype(x.dtype)


def _with_sum(y: Any, total: Any, residual: Any) -> Any:
    return y if residual is None else (y, total)


def _input(dx: Any, x: Any, dresidual: Any) -> np.ndarray:
    wide = dx if dresidual is None else dx + _wide(dresidual)
    return np.asarray(wide).astype(x.dtype)


def _raised(weight: Any, offset: float) -> Any:
    """weight + offset; nothing where there is no weight."""
    return None if weight is None else weight + offset
