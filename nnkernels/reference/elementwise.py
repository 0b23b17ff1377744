"""Activation functions and gated linear units: what is right.

Each function is its definition in NumPy, computed in float64 or complex128 (integers stay
integers) and rounded once to the dtype of the result. The backward functions return the
product of the cotangent ``dy`` and the derivative; for complex numbers that is
``dy * conj(f'(x))``.

Where a formula meets 0 * inf or inf / inf at an infinite ``x``, the limit is meant.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from nnkernels._typing import Array

Function = TypeVar("Function", bound=Callable[..., Any])

SELU_SCALE = 1.0507009873554804934193349852946
SELU_ALPHA = 1.6732632423543772848170429916717
GELU_CUBIC = 0.044715
GELU_SIGMOID_SLOPE = 1.702


# ---- the numbers that the definitions share ------------------------------------------------


def _wide(array: Array) -> Array:
    """Return the array in the type in which it is computed."""
    if array.dtype.kind in "iu":
        return array
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _computed_wide(function: Function) -> Function:
    """Run a function in wide types and round its results to the dtype of its operands."""

    @functools.wraps(function)
    def wrapper(*arrays: Any, **options: Any) -> Any:
        operands = [np.asarray(array) for array in arrays]
        dtype = np.result_type(*operands)
        with np.errstate(all="ignore"):
            result = function(*map(_wide, operands), **options)
            if isinstance(result, tuple):
                return tuple(np.asarray(part).astype(dtype) for part in result)
            return np.asarray(result).astype(dtype)

    return cast(Function, wrapper)


def _scaled(x: Any, factor: Any) -> Any:
    """``x * factor``, where a factor that has vanished outweighs an infinite x."""
    return np.where(factor == 0, 0.0, x * factor)


def _slope_times(beta: float, x: Any) -> Any:
    """``beta * x``, and 0 for beta = 0 also at an infinite x."""
    return beta * x if beta else np.where(np.isnan(x), x, 0.0)


def _logistic(x: Any) -> Any:
    """``1 / (1 + exp(-x))``, the exponential taken where its modulus is at most 1."""
    left = np.real(x) < 0
    e = np.exp(np.where(left, x, -x))
    return np.where(left, e, 1.0) / (1 + e)


_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _normal_cdf(x: Any) -> Any:
    return 0.5 * _erfc(-x / math.sqrt(2))


def _normal_pdf(x: Any) -> Any:
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _into_range(bound: float, dtype: np.dtype[Any]) -> Any:
    """Return the nearest value to a bound that an integer dtype holds."""
    if dtype.kind not in "iu":
        return bound
    limits = np.iinfo(dtype)
    return dtype.type(int(min(max(bound, limits.min), limits.max)))


def _sum_to_shape(array: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes along which ``shape`` was broadcast to the shape of the array."""
    array = array.sum(axis=tuple(range(array.ndim - len(shape))))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and array.shape[i] != 1)
    return array.sum(axis=stretched, keepdims=True)


def _along_axis(weight: Array, x: Array, axis: int) -> Array:
    """Return a weight for each index of one axis, in a shape that broadcasts to x."""
    if weight.size == 1:
        return weight.reshape((1,) * x.ndim)
    shape = [1] * x.ndim
    shape[axis] = weight.size
    return weight.reshape(shape)


# ---- rectifiers ----------------------------------------------------------------------------


@_computed_wide
def relu(x: Array, /) -> Array:
    """max(x, 0)."""
    return np.maximum(x, 0)


@_computed_wide
def relu_backward(dy: Array, y: Array, /) -> Array:
    """Derivative 1 where y > 0, else 0; y is the result of relu."""
    return np.where(y <= 0, 0, dy)


@_computed_wide
def relu6(x: Array, /) -> Array:
    """min(max(x, 0), 6)."""
    return np.minimum(np.maximum(x, 0), 6)


@_computed_wide
def relu6_backward(dy: Array, y: Array, /) -> Array:
    """Derivative 1 where 0 < y < 6, else 0; y is the result of relu6."""
    return np.where((y <= 0) | (y >= 6), 0, dy)


@_computed_wide
def leaky_relu(x: Array, /, *, negative_slope: float = 0.01) -> Array:
    """Return x where x > 0, else negative_slope x."""
    return np.where(x > 0, x, negative_slope * x)


@_computed_wide
def leaky_relu_backward(dy: Array, x: Array, /, *, negative_slope: float = 0.01) -> Array:
    """Derivative 1 where x > 0, else negative_slope."""
    return np.where(x > 0, dy, negative_slope * dy)


@_computed_wide
def prelu(x: Array, weight: Array, /, *, axis: int = 1) -> Array:
    """Return x where x > 0, else weight x, one weight for each index of an axis."""
    return np.where(x > 0, x, _along_axis(weight, x, axis) * x)


@_computed_wide
def prelu_backward(dy: Array, x: Array, weight: Array, /, *, axis: int = 1) -> tuple[Array, Array]:
    """Return the gradients of x and of weight."""
    slope = _along_axis(weight, x, axis)
    dweight = _sum_to_shape(np.where(x > 0, 0, dy * x), slope.shape)
    return np.where(x > 0, dy, slope * dy), dweight.reshape(weight.shape)


@_computed_wide
def threshold_relu(x: Array, /, *, theta: float = 1.0) -> Array:
    """Return x where x > theta, else 0."""
    return np.where(x <= theta, 0, x)


@_computed_wide
def threshold_relu_backward(dy: Array, x: Array, /, *, theta: float = 1.0) -> Array:
    """Derivative 1 where x > theta, else 0."""
    return np.where(x <= theta, 0, dy)


# ---- exponential linear units --------------------------------------------------------------


@_computed_wide
def elu(x: Array, /, *, alpha: float = 1.0) -> Array:
    """Return x where x > 0, else alpha (exp(x) - 1)."""
    return np.where(x > 0, x, alpha * np.expm1(x))


@_computed_wide
def elu_backward(dy: Array, x: Array, /, *, alpha: float = 1.0) -> Array:
    """Derivative 1 where x > 0, else alpha exp(x)."""
    return np.where(x > 0, dy, dy * alpha * np.exp(x))


@_computed_wide
def celu(x: Array, /, *, alpha: float = 1.0) -> Array:
    """Return x where x > 0, else alpha (exp(x / alpha) - 1)."""
    return np.where(x > 0, x, alpha * np.expm1(x / alpha))


@_computed_wide
def celu_backward(dy: Array, x: Array, /, *, alpha: float = 1.0) -> Array:
    """Derivative 1 where x > 0, else exp(x / alpha)."""
    return np.where(x > 0, dy, dy * np.exp(x / alpha))


@_computed_wide
def selu(x: Array, /) -> Array:
    """Scale (x where x > 0, else alpha (exp(x) - 1))."""
    return SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(x))


@_computed_wide
def selu_backward(dy: Array, x: Array, /) -> Array:
    """Derivative scale where x > 0, else scale alpha exp(x)."""
    return dy * SELU_SCALE * np.where(x > 0, 1, SELU_ALPHA * np.exp(x))


# ---- sigmoid, tanh and their relatives -----------------------------------------------------


@_computed_wide
def sigmoid(x: Array, /) -> Array:
    """1 / (1 + exp(-x))."""
    return _logistic(x)


@_computed_wide
def sigmoid_backward(dy: Array, y: Array, /) -> Array:
    """Derivative y (1 - y); y is the result of sigmoid."""
    return dy * np.conj(y * (1 - y))


@_computed_wide
def log_sigmoid(x: Array, /) -> Array:
    """log(1 / (1 + exp(-x)))."""
    return -np.logaddexp(0, -x)


@_computed_wide
def log_sigmoid_backward(dy: Array, x: Array, /) -> Array:
    """Derivative 1 / (1 + exp(x))."""
    return dy * _logistic(-x)


@_computed_wide
def hard_sigmoid(x: Array, /, *, alpha: float = 1 / 6, beta: float = 0.5) -> Array:
    """min(max(alpha x + beta, 0), 1)."""
    return np.clip(alpha * x + beta, 0, 1)


@_computed_wide
def hard_sigmoid_backward(
    dy: Array, x: Array, /, *, alpha: float = 1 / 6, beta: float = 0.5
) -> Array:
    """Derivative alpha where 0 < alpha x + beta < 1, else 0."""
    line = alpha * x + beta
    return np.where((line <= 0) | (line >= 1), 0, alpha * dy)


@_computed_wide
def softplus(x: Array, /, *, beta: float = 1.0) -> Array:
    """log(1 + exp(beta x)) / beta."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(beta * x))) / beta


@_computed_wide
def softplus_backward(dy: Array, x: Array, /, *, beta: float = 1.0) -> Array:
    """Derivative sigmoid(beta x)."""
    return dy * _logistic(beta * x)


@_computed_wide
def tanh(x: Array, /) -> Array:
    """tanh(x)."""
    return np.tanh(x)


@_computed_wide
def tanh_backward(dy: Array, y: Array, /) -> Array:
    """Derivative 1 - y^2; y is the result of tanh."""
    return dy * np.conj((1 - y) * (1 + y))


@_computed_wide
def hard_tanh(x: Array, /, *, min: float = -1.0, max: float = 1.0) -> Array:
    """Return x limited to [min, max]."""
    return np.clip(x, _into_range(min, x.dtype), _into_range(max, x.dtype))


@_computed_wide
def hard_tanh_backward(dy: Array, x: Array, /, *, min: float = -1.0, max: float = 1.0) -> Array:
    """Derivative 1 where min < x < max, else 0."""
    return np.where((x <= min) | (x >= max), 0, dy)


@_computed_wide
def tanh_shrink(x: Array, /) -> Array:
    """Return x - tanh(x)."""
    return x - np.tanh(x)


@_computed_wide
def tanh_shrink_backward(dy: Array, x: Array, /) -> Array:
    """Derivative tanh(x)^2."""
    return dy * np.conj(np.tanh(x) ** 2)


@_computed_wide
def lisht(x: Array, /) -> Array:
    """Return x tanh(x)."""
    return x * np.tanh(x)


@_computed_wide
def lisht_backward(dy: Array, x: Array, /) -> Array:
    """Derivative tanh(x) + x / cosh(x)^2."""
    return dy * (np.tanh(x) + _scaled(x, np.cosh(x) ** -2.0))


@_computed_wide
def log_cosh(x: Array, /) -> Array:
    """log(cosh(x)), for small |x| as log(1 + sinh(x)^2) / 2."""
    a = np.abs(x)
    near = 0.5 * np.log1p(np.sinh(x) ** 2)
    return np.where(a < 1, near, a + np.log1p(np.exp(-2 * a)) - math.log(2))


@_computed_wide
def log_cosh_backward(dy: Array, x: Array, /) -> Array:
    """Derivative tanh(x)."""
    return dy * np.tanh(x)


@_computed_wide
def softsign(x: Array, /) -> Array:
    """Return x / (1 + |x|)."""
    return np.where(np.isinf(x), np.sign(x), x / (1 + np.abs(x)))


@_computed_wide
def softsign_backward(dy: Array, x: Array, /) -> Array:
    """Derivative 1 / (1 + |x|)^2."""
    return dy / (1 + np.abs(x)) ** 2


# ---- x times a smooth step of x ------------------------------------------------------------


@_computed_wide
def silu(x: Array, /, *, beta: float = 1.0) -> Array:
    """Return x sigmoid(beta x)."""
    return _scaled(x, _logistic(_slope_times(beta, x)))


@_computed_wide
def silu_backward(dy: Array, x: Array, /, *, beta: float = 1.0) -> Array:
    """Derivative s + beta x s (1 - s) with s = sigmoid(beta x)."""
    t = _slope_times(beta, x)
    s = _logistic(t)
    return dy * np.conj(s + _scaled(t, s * _logistic(-t)))


@_computed_wide
def gelu(x: Array, /, *, approximate: str = "none") -> Array:
    """Return x times the normal distribution function of x, or an approximation of that."""
    if approximate == "tanh":  # (1 + tanh(u)) / 2 = sigmoid(2 u)
        return _scaled(x, _logistic(2 * _gelu_tanh_argument(x)))
    if approximate == "sigmoid":
        return _scaled(x, _logistic(GELU_SIGMOID_SLOPE * x))
    return _scaled(x, _normal_cdf(x))


@_computed_wide
def gelu_backward(dy: Array, x: Array, /, *, approximate: str = "none") -> Array:
    """Derivative cdf(x) + x pdf(x), or that of the approximation."""
    if approximate == "tanh":
        s = _logistic(2 * _gelu_tanh_argument(x))
        slope = 2 * math.sqrt(2 / math.pi) * (1 + 3 * GELU_CUBIC * x * x)
        step = s * _logistic(-2 * _gelu_tanh_argument(x))
        return dy * (s + _scaled(x * slope, step))
    if approximate == "sigmoid":
        t = GELU_SIGMOID_SLOPE * x
        return dy * (_logistic(t) + _scaled(t, _logistic(t) * _logistic(-t)))
    return dy * (_normal_cdf(x) + _scaled(x, _normal_pdf(x)))


def _gelu_tanh_argument(x: Any) -> Any:
    return math.sqrt(2 / math.pi) * (x + GELU_CUBIC * x**3)


@_computed_wide
def mish(x: Array, /) -> Array:
    """Return x tanh(log(1 + exp(x)))."""
    return _scaled(x, np.tanh(np.logaddexp(0, x)))


@_computed_wide
def mish_backward(dy: Array, x: Array, /) -> Array:
    """Derivative t + x (1 - t^2) sigmoid(x) with t = tanh(log(1 + exp(x)))."""
    softplus_x = np.logaddexp(0, x)
    return dy * (np.tanh(softplus_x) + _scaled(x, np.cosh(softplus_x) ** -2.0 * _logistic(x)))


@_computed_wide
def hard_swish(x: Array, /) -> Array:
    """Return x min(max(x + 3, 0), 6) / 6."""
    return _scaled(x, np.clip(x + 3, 0, 6) / 6)


@_computed_wide
def hard_swish_backward(dy: Array, x: Array, /) -> Array:
    """Derivative 0 where x <= -3, 1 where x >= 3, else x / 3 + 1 / 2."""
    return np.where(x <= -3, 0, np.where(x >= 3, dy, dy * (x / 3 + 0.5)))


# ---- shrinkage -----------------------------------------------------------------------------


@_computed_wide
def soft_shrink(x: Array, /, *, lambd: float = 0.5) -> Array:
    """Return x moved by lambd towards 0, and 0 where |x| <= lambd."""
    return x - np.clip(x, -lambd, lambd)


@_computed_wide
def soft_shrink_backward(dy: Array, x: Array, /, *, lambd: float = 0.5) -> Array:
    """Derivative 1 where |x| > lambd, else 0."""
    return np.where(np.abs(x) <= lambd, 0, dy)


@_computed_wide
def hard_shrink(x: Array, /, *, lambd: float = 0.5) -> Array:
    """Return x where |x| > lambd, else 0."""
    return np.where(np.abs(x) <= lambd, 0, x)


@_computed_wide
def hard_shrink_backward(dy: Array, x: Array, /, *, lambd: float = 0.5) -> Array:
    """Derivative 1 where |x| > lambd, else 0."""
    return np.where(np.abs(x) <= lambd, 0, dy)


# ---- gated linear units --------------------------------------------------------------------


@_computed_wide
def glu(x: Array, /, *, axis: int = -1) -> Array:
    """First half of x along an axis, times the sigmoid of the second half."""
    a, b = np.split(x, 2, axis)
    return a * _logistic(b)


@_computed_wide
def glu_backward(dy: Array, x: Array, /, *, axis: int = -1) -> Array:
    """Return the gradient of x: of its first half, then of its second half."""
    a, b = np.split(x, 2, axis)
    s = _logistic(b)
    return np.concatenate([dy * s, dy * (a * s * _logistic(-b))], axis)


@_computed_wide
def swiglu(x: Array, gate: Array, /) -> Array:
    """Return x silu(gate)."""
    return x * _scaled(gate, _logistic(gate))


@_computed_wide
def swiglu_backward(dy: Array, x: Array, gate: Array, /) -> tuple[Array, Array]:
    """Return the gradients of x and of gate, summed over the axes that were broadcast."""
    s = _logistic(gate)
    dx = dy * _scaled(gate, s)
    dgate = dy * (x * (s + _scaled(gate, s * _logistic(-gate))))
    return _sum_to_shape(dx, x.shape), _sum_to_shape(dgate, gate.shape)


@_computed_wide
def geglu(x: Array, gate: Array, /) -> Array:
    """Return x gelu(gate)."""
    return x * _scaled(gate, _normal_cdf(gate))


@_computed_wide
def geglu_backward(dy: Array, x: Array, gate: Array, /) -> tuple[Array, Array]:
    """Return the gradients of x and of gate, summed over the axes that were broadcast."""
    cdf = _normal_cdf(gate)
    dx = dy * _scaled(gate, cdf)
    dgate = dy * (x * (cdf + _scaled(gate, _normal_pdf(gate))))
    return _sum_to_shape(dx, x.shape), _sum_to_shape(dgate, gate.shape)
