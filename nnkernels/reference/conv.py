"""Convolutions: the specification, in NumPy, as sums over the taps of the windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from nnkernels.dispatch.conv import transposed_axes
from nnkernels.dispatch.dtypes import promote
from nnkernels.dispatch.windows import Axis, Windows
from nnkernels.reference.matmul import chosen, finished, widened


def conv(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    flip: bool = False,
    epilogue: Any = None,
    operands: Any = (),
    algorithm: Any = None,
    precision: Any = None,
) -> Any:
    """Sums over channels and taps in float64 or complex128, plus the bias."""
    axes = _axes(x.shape, weight.shape, stride, padding, dilation)
    padded = _padded(widened(x), axes)
    weights = widened(weight)
    shape = (x.shape[0], weight.shape[0], *(a.out for a in axes))
    y = np.zeros(shape, np.result_type(padded, weights))
    for tap, seen in _taps(axes, flip):
        y += _contract(padded[seen], _grouped_lines(weights[tap], groups))
    return _finished(y, (x, weight, bias), bias, epilogue, operands)


def conv_transpose(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    flip: bool = False,
    epilogue: Any = None,
    operands: Any = (),
    algorithm: Any = None,
    precision: Any = None,
) -> Any:
    """Every element of x adds the weights, times it, to what its window sees."""
    axes = transposed_axes(x, weight, stride, padding, dilation, output_padding, x.ndim - 2)
    shape = (x.shape[0], weight.shape[1] * groups, *(a.size for a in axes))
    y = _spread(widened(x), widened(weight), shape, axes, groups, flip)
    return _finished(y, (x, weight, bias), bias, epilogue, operands)


def conv_backward_data(
    dy: Any,
    weight: Any,
    x_shape: Sequence[int],
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    flip: bool = False,
    algorithm: Any = None,
    precision: Any = None,
) -> np.ndarray:
    """The adjoint of `conv` as a function of x."""
    axes = _axes(x_shape, weight.shape, stride, padding, dilation)
    dx = _spread(widened(dy), widened(weight).conj(), x_shape, axes, groups, flip)
    return _finished(dx, (dy, weight), None, None)


def conv_backward_weight(
    dy: Any,
    x: Any,
    weight_shape: Sequence[int],
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    flip: bool = False,
    precision: Any = None,
) -> np.ndarray:
    """The adjoint of `conv` as a function of its weights."""
    axes = _axes(x.shape, weight_shape, stride, padding, dilation)
    padded, cotangent = _padded(widened(x).conj(), axes), widened(dy)
    dw = np.zeros(tuple(weight_shape), np.result_type(padded, cotangent))
    for tap, seen in _taps(axes, flip):
        parts = [_grouped(part, groups) for part in (cotangent, padded[seen])]
        count = prod(axis.out for axis in axes)
        pixels = [part.reshape(*part.shape[:3], count) for part in parts]
        with np.errstate(over="ignore", invalid="ignore"):
            products = pixels[0] @ pixels[1].swapaxes(-1, -2)
        dw[tap] = products.sum(0).reshape(dw.shape[:2])
    return _finished(dw, (dy, x), None, None)


def conv_backward(
    dy: Any,
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    wrt: Any = None,
    algorithm: Any = None,
    precision: Any = None,
    **options: Any,
) -> tuple[np.ndarray | None, ...]:
    """Both adjoints, and the sum of dy over images and space, in the dtypes of the operands."""
    dx = conv_backward_data(widened(dy), weight, x.shape, **options)
    dw = conv_backward_weight(widened(dy), x, weight.shape, **options)
    return chosen(wrt, _like(dx, x), _like(dw, weight), _bias_gradient(dy, bias))


def conv_transpose_backward(
    dy: Any,
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    flip: bool = False,
    algorithm: Any = None,
    precision: Any = None,
    wrt: Any = None,
) -> tuple[np.ndarray | None, ...]:
    """The convolution of dy with the conjugate weights, and its adjoint as one of its weights."""
    axes = transposed_axes(x, weight, stride, padding, dilation, output_padding, x.ndim - 2)
    padded, weights = _padded(widened(dy), axes), widened(weight).conj()
    dx = np.zeros(x.shape, np.result_type(padded, weights))
    dw = np.zeros(weight.shape, np.result_type(padded, widened(x)))
    count = prod(axis.out for axis in axes)
    for tap, seen in _taps(axes, flip):
        dx += _contract(padded[seen], _grouped_lines(weights[tap], groups))
        parts = [_grouped(part, groups) for part in (widened(x).conj(), padded[seen])]
        pixels = [part.reshape(*part.shape[:3], count) for part in parts]
        dw[tap] = (pixels[0] @ pixels[1].swapaxes(-1, -2)).sum(0).reshape(dw.shape[:2])
    return chosen(wrt, _like(dx, x), _like(dw, weight), _bias_gradient(dy, bias))


def axes_of(
    x_shape: Sequence[int], weight_shape: Sequence[int], options: dict[str, Any]
) -> tuple[Axis, ...]:
    """The geometry of a call of `conv` with some options."""
    given = (options.get("stride", 1), options.get("padding", 0), options.get("dilation", 1))
    return _axes(x_shape, weight_shape, *given)


# ---- pieces -------------------------------------------------------------------------------------


def _axes(
    shape: Sequence[int], weight: Sequence[int], stride: Any, padding: Any, dilation: Any
) -> tuple[Axis, ...]:
    rank = len(shape) - 2
    return Windows.checked(rank, weight[2:], stride, padding, dilation).axes(shape[2:])


def _padded(x: np.ndarray, axes: Sequence[Axis]) -> np.ndarray:
    return np.pad(x, [(0, 0), (0, 0), *((a.low, a.high) for a in axes)])


def _like(gradient: np.ndarray, operand: np.ndarray) -> np.ndarray:
    """In the dtype of an operand, of which a real one has the real part of its gradient."""
    part = gradient if operand.dtype.kind == "c" else np.real(gradient)
    return np.asarray(part).astype(operand.dtype)


def _bias_gradient(dy: np.ndarray, bias: Any) -> np.ndarray | None:
    if bias is None:
        return None
    return _like(widened(dy).sum(axis=(0, *range(2, dy.ndim))), bias)


def _taps(axes: Sequence[Axis], flip: bool) -> Iterator[tuple[Any, Any]]:
    """For every tap its index in the weights, and what all windows see of a padded image there."""
    for tap in np.ndindex(*(a.kernel for a in axes)):
        first = [t * a.dilation for t, a in zip(tap, axes, strict=True)]
        seen = [
            slice(f, f + (a.out - 1) * a.stride + 1, a.stride)
            for f, a in zip(first, axes, strict=True)
        ]
        at = tuple(a.kernel - 1 - t for t, a in zip(tap, axes, strict=True)) if flip else tap
        yield (slice(None), slice(None), *at), (slice(None), slice(None), *seen)


def _grouped(x: np.ndarray, groups: int) -> np.ndarray:
    return x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])


def _grouped_lines(weight: np.ndarray, groups: int) -> np.ndarray:
    lines = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1])
    return np.ascontiguousarray(lines)  # else NumPy's products are slow ones


def _contract(x: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """A tap of all windows, (N, C, ...), times matrices (groups, O, C / groups)."""
    columns = _grouped(x, len(lines)).reshape(len(x), *lines.shape[::2], prod(x.shape[2:]))
    with np.errstate(over="ignore", invalid="ignore"):
        y = lines @ columns
    return y.reshape(len(x), lines.shape[0] * lines.shape[1], *x.shape[2:])


def _spread(
    y: np.ndarray,
    weight: np.ndarray,
    shape: Sequence[int],
    axes: Sequence[Axis],
    groups: int,
    flip: bool,
) -> np.ndarray:
    """What the windows of an image of some shape add to it."""
    sizes = [a.low + a.size + a.high for a in axes]
    padded = np.zeros((*shape[:2], *sizes), np.result_type(y, weight))
    if y.size:
        for tap, seen in _taps(axes, flip):
            lines = _grouped_lines(weight[tap], groups)
            padded[seen] += _contract(y, lines.swapaxes(1, 2))
    inside = [slice(a.low, a.low + a.size) for a in axes]
    return padded[(slice(None), slice(None), *inside)]


def _finished(sums: np.ndarray, arrays: Any, bias: Any, epilogue: Any, operands: Any = ()) -> Any:
    """With the bias and the activation; of integers of few bits in 32."""
    given = [x for x in arrays if x is not None]
    narrow = promote(tuple(x.dtype.name for x in given)) in ("int8", "int16", "uint8", "uint16")
    if bias is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            sums = sums + widened(bias).reshape(-1, *[1] * (sums.ndim - 2))
    return finished(sums, given, epilogue, "int32" if narrow else None, operands)
