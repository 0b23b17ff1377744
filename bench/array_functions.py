"""The ops as plain array expressions, for NumPy and CuPy: what one writes without nnkernels.

They compute in the element type of their operands, as such expressions do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

# No out= where the last step of an expression has none.
WITHOUT_OUT = frozenset({"glu_backward", "matmul_backward", "linear_backward"})

Table = dict[str, Callable[..., Any]]


def table(xp: Any, special: Any, axis: int | None, is_complex: bool) -> Table:
    """Functions by op.

    Parameters
    ----------
    xp
        NumPy or CuPy.
    special
        A module with ``erf``, or None: then the exact GELU is missing.
    axis
        For the ops that have one.
    is_complex
        Whether the operands are; the gradients here are those of real numbers.
    """
    functions = _rows(xp, axis) | _activations(xp, axis) | _gated(xp, axis)
    if not is_complex:
        functions |= _gradients(xp)
    functions |= _products(xp)
    if special is not None:
        functions |= _with_erf(xp, special)
    return functions


def _adjoint(x: Any) -> Any:
    transposed = x.swapaxes(-1, -2)
    return transposed.conj() if x.dtype.kind == "c" else transposed


def _products(xp: Any) -> Table:
    def matmul(a: Any, b: Any, out: Any = None) -> Any:
        if a.dtype.itemsize == 1:  # as nnkernels is timed: sums of 32 bits
            return xp.matmul(a, b, out=out, dtype=xp.int32)
        return xp.matmul(a, b, out=out)

    def linear_backward(dy: Any, x: Any, weight: Any, bias: Any) -> Any:
        rows = dy.reshape(-1, dy.shape[-1])
        return dy @ weight, rows.T @ x.reshape(-1, x.shape[-1]), rows.sum(0)

    return {
        "matmul": matmul,
        "matmul_backward": lambda dy, a, b: (dy @ _adjoint(b), _adjoint(a) @ dy),
        "gemm": lambda a, b, c, out=None: xp.add(matmul(a, b), c, out=out),
        "gemv": lambda a, x, y, out=None: xp.add(matmul(a, x[..., None])[..., 0], y, out=out),
        "linear": lambda x, w, b, out=None: xp.add(matmul(x, w.T), b, out=out),
        "linear_backward": linear_backward,
    }


def _rows(xp: Any, axis: int | None) -> Table:
    def exponentials(x: Any) -> Any:
        return xp.exp(x - x.max(axis=axis, keepdims=True))

    def softmax(x: Any, out: Any = None) -> Any:
        e = exponentials(x)
        return xp.divide(e, e.sum(axis=axis, keepdims=True), out=out)

    def log_softmax(x: Any, out: Any = None) -> Any:
        shifted = x - x.max(axis=axis, keepdims=True)
        total = xp.exp(shifted).sum(axis=axis, keepdims=True)
        return xp.subtract(shifted, xp.log(total), out=out)

    def logsumexp(x: Any, out: Any = None) -> Any:
        top = x.max(axis=axis, keepdims=True)
        total = xp.exp(x - top).sum(axis=axis)
        return xp.add(xp.log(total), top.squeeze(axis), out=out)

    def softmax_backward(dy: Any, y: Any, out: Any = None) -> Any:
        return xp.multiply(y, dy - (dy * y).sum(axis=axis, keepdims=True), out=out)

    def log_softmax_backward(dy: Any, y: Any, out: Any = None) -> Any:
        return xp.subtract(dy, xp.exp(y) * dy.sum(axis=axis, keepdims=True), out=out)

    def logsumexp_backward(dy: Any, x: Any, y: Any, out: Any = None) -> Any:
        dy, y = xp.expand_dims(dy, axis), xp.expand_dims(y, axis)
        return xp.multiply(dy, xp.exp(x - y), out=out)

    return {
        "softmax": softmax,
        "log_softmax": log_softmax,
        "logsumexp": logsumexp,
        "softmax_backward": softmax_backward,
        "log_softmax_backward": log_softmax_backward,
        "logsumexp_backward": logsumexp_backward,
    }


def _sigmoid(xp: Any, x: Any, out: Any = None) -> Any:
    return xp.reciprocal(1 + xp.exp(-x), out=out)


def _softplus(xp: Any, x: Any, out: Any = None) -> Any:
    return xp.add(xp.maximum(x, 0), xp.log1p(xp.exp(-xp.abs(x))), out=out)


def _activations(xp: Any, axis: int | None) -> Table:
    return {
        "relu": lambda x, out=None: xp.maximum(x, 0, out=out),
        "relu6": lambda x, out=None: xp.clip(x, 0, 6, out=out),
        "hard_tanh": lambda x, out=None: xp.clip(x, -1, 1, out=out),
        "leaky_relu": lambda x, out=None: xp.maximum(x, x * 0.01, out=out),
        "prelu": lambda x, w, out=None: xp.add(
            xp.maximum(x, 0), _along(axis, w, x) * xp.minimum(x, 0), out=out
        ),
        "threshold_relu": lambda x, out=None: xp.multiply(x, x > 1, out=out),
        "elu": lambda x, out=None: xp.maximum(x, xp.expm1(xp.minimum(x, 0)), out=out),
        "celu": lambda x, out=None: xp.maximum(x, xp.expm1(xp.minimum(x, 0)), out=out),
        "sigmoid": lambda x, out=None: _sigmoid(xp, x, out),
        "log_sigmoid": lambda x, out=None: xp.negative(_softplus(xp, -x), out=out),
        "hard_sigmoid": lambda x, out=None: xp.clip(x * (1 / 6) + 0.5, 0, 1, out=out),
        "softplus": lambda x, out=None: _softplus(xp, x, out),
        "tanh": lambda x, out=None: xp.tanh(x, out=out),
        "tanh_shrink": lambda x, out=None: xp.subtract(x, xp.tanh(x), out=out),
        "lisht": lambda x, out=None: xp.multiply(x, xp.tanh(x), out=out),
        "softsign": lambda x, out=None: xp.divide(x, 1 + xp.abs(x), out=out),
        "silu": lambda x, out=None: xp.divide(x, 1 + xp.exp(-x), out=out),
        "mish": lambda x, out=None: xp.multiply(x, xp.tanh(_softplus(xp, x)), out=out),
        "hard_swish": lambda x, out=None: xp.multiply(x, xp.clip(x + 3, 0, 6) * (1 / 6), out=out),
        "soft_shrink": lambda x, out=None: xp.subtract(x, xp.clip(x, -0.5, 0.5), out=out),
        "hard_shrink": lambda x, out=None: xp.multiply(x, xp.abs(x) > 0.5, out=out),
    }


def _along(axis: int | None, weight: Any, x: Any) -> Any:
    shape = [1] * x.ndim
    shape[axis or 0] = -1
    return weight.reshape(shape)


def _gradients(xp: Any) -> Table:
    def silu_backward(dy: Any, x: Any, out: Any = None) -> Any:
        s = _sigmoid(xp, x)
        return xp.multiply(dy, s * (1 + x * (1 - s)), out=out)

    return {
        "relu_backward": lambda dy, y, out=None: xp.multiply(dy, y > 0, out=out),
        "sigmoid_backward": lambda dy, y, out=None: xp.multiply(dy, y * (1 - y), out=out),
        "tanh_backward": lambda dy, y, out=None: xp.multiply(dy, 1 - y * y, out=out),
        "silu_backward": silu_backward,
    }


def _gated(xp: Any, axis: int | None) -> Table:
    def glu(x: Any, out: Any = None) -> Any:
        a, b = xp.split(x, 2, axis)
        return xp.multiply(a, _sigmoid(xp, b), out=out)

    def glu_backward(dy: Any, x: Any) -> Any:
        a, b = xp.split(x, 2, axis)
        s = _sigmoid(xp, b)
        return xp.concatenate([dy * s, dy * a * s * (1 - s)], axis)

    def swiglu(x: Any, gate: Any, out: Any = None) -> Any:
        return xp.multiply(x, gate * _sigmoid(xp, gate), out=out)

    return {"glu": glu, "glu_backward": glu_backward, "swiglu": swiglu}


def _with_erf(xp: Any, special: Any) -> Table:
    def cdf(x: Any) -> Any:
        return 0.5 * (1 + special.erf(x * math.sqrt(0.5)))

    def gelu_backward(dy: Any, x: Any, out: Any = None) -> Any:
        density = xp.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
        return xp.multiply(dy, cdf(x) + x * density, out=out)

    return {
        "gelu": lambda x, out=None: xp.multiply(x, cdf(x), out=out),
        "gelu_backward": gelu_backward,
        "geglu": lambda x, gate, out=None: xp.multiply(x, gate * cdf(gate), out=out),
    }
