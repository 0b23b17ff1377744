"""Rules of the backward functions of elementwise ops: second derivatives, as fused functions.

The gradient of ``g = dy f'(x)`` for a cotangent v is ``v f'(x)`` by dy, which is the backward
function itself, and ``v dy f''(x)`` by x. Where the backward function takes the result y, what
stands here is the derivative of f' as a function of y. Each formula is one kernel; its arguments
are clipped where the result has long underflowed to zero, so that infinities give their limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nnkernels.fusion.sums import apply_and_sum
from nnkernels.interop.libraries import adopt_all
from nnkernels.ops import activations, activations_backward
from nnkernels.registry.rule import Call, Gradients, Rule

Formula = Callable[..., Any]

_FAR = 1e3  # exp of it is infinite in float32 and float64, and its powers are finite
_NORMAL_FAR = 40.0  # the normal density is 0 from there on, in float64


# ---- v dy f'' ------------------------------------------------------------------------------------


def _elu(v: Any, dy: Any, x: Any, alpha: Any) -> Any:
    return v * dy * np.where(x > 0, 0.0, alpha * np.exp(np.minimum(x, 0)))


def _celu(v: Any, dy: Any, x: Any, alpha: Any) -> Any:
    return v * dy * np.where(x > 0, 0.0, np.exp(x / alpha) / alpha)


def _selu(v: Any, dy: Any, x: Any) -> Any:
    slope = 1.0507009873554804934 * 1.6732632423543772848  # as Selu in activations.cuh
    return v * dy * np.where(x > 0, 0.0, slope * np.exp(np.minimum(x, 0)))


def _sigmoid(v: Any, dy: Any, y: Any) -> Any:
    return v * dy * (1 - 2 * y)


def _tanh(v: Any, dy: Any, y: Any) -> Any:
    return v * dy * (-2 * y)


def _log_sigmoid(v: Any, dy: Any, x: Any) -> Any:
    return -(v * dy) * _bell(x)


def _softplus(v: Any, dy: Any, x: Any, beta: Any) -> Any:
    return v * dy * (beta * _bell(beta * x))


def _bell(t: Any) -> Any:
    """s (1 - s) with s = sigmoid(t)."""
    return activations.sigmoid(t) * activations.sigmoid(-t)


def _tanh_shrink(v: Any, dy: Any, x: Any) -> Any:
    t = activations.tanh(x)
    return v * dy * (2 * t * ((1 - t) * (1 + t)))


def _lisht(v: Any, dy: Any, x: Any) -> Any:
    # 2 (1 - t^2) (1 - x t), t = tanh(x) and 1 - t^2 = 4 s (1 - s) with s = sigmoid(2 x)
    a = np.clip(x, -_FAR, _FAR)
    return v * dy * (8 * _bell(2 * a) * (1 - a * activations.tanh(a)))


def _log_cosh(v: Any, dy: Any, x: Any) -> Any:
    return v * dy * (4 * _bell(2 * x))


def _softsign(v: Any, dy: Any, x: Any) -> Any:
    r = 1 / (1 + np.abs(x))
    return v * dy * (-2 * np.sign(x) * (r * r * r))


def _silu(v: Any, dy: Any, x: Any, beta: Any) -> Any:
    t = np.clip(beta * x, -_FAR, _FAR)
    return v * dy * (beta * _silu_curve(t))


def _silu_curve(t: Any) -> Any:
    """The second derivative of t sigmoid(t), s (1 - s) (2 + t (1 - 2 s)); 1 - 2 s = -tanh(t/2)."""
    return _bell(t) * (2 - t * activations.tanh(t * 0.5))


def _silu_of_complex(v: Any, dy: Any, x: Any, beta: Any) -> Any:
    s = activations.sigmoid(beta * x)
    return v * dy * (beta * s * (1 - s) * (2 + beta * x * (1 - 2 * s)))


def _gelu(v: Any, dy: Any, x: Any) -> Any:
    return v * dy * _gelu_curve(x)


def _gelu_curve(x: Any) -> Any:
    """pdf(x) (2 - x^2) with the normal density."""
    a = np.clip(x, -_NORMAL_FAR, _NORMAL_FAR)
    square = a * a
    return np.exp(-0.5 * square) * (2 - square) * (1 / math.sqrt(2 * math.pi))


def _gelu_tanh(v: Any, dy: Any, x: Any) -> Any:
    # x s(w): s' (2 w' + x w'') + x s'' w'^2, s' = s (1 - s), s'' = s' (1 - 2 s)
    slope, cubic = 1.59576912160573071176, 0.044715  # as GeluTanh in activations.cuh
    a = np.clip(x, -_NORMAL_FAR, _NORMAL_FAR)
    square = a * a
    w = a * (slope + (slope * cubic) * square)
    first, second = slope + (3 * slope * cubic) * square, (6 * slope * cubic) * a
    bell, turn = _bell(w), -activations.tanh(w * 0.5)
    return v * dy * (bell * (2 * first + a * second + a * turn * first * first))


def _gelu_sigmoid(v: Any, dy: Any, x: Any) -> Any:
    t = np.clip(1.702 * x, -_FAR, _FAR)
    return v * dy * (1.702 * _silu_curve(t))


def _mish(v: Any, dy: Any, x: Any) -> Any:
    # 2 w' + x w'', w = tanh(log(1 + exp(x))), w' = (1 - w^2) s, w'' = w' ((1 - s) - 2 w s)
    a = np.clip(x, -_FAR, _FAR)
    s, w = activations.sigmoid(a), activations.tanh(activations.softplus(a))
    first = (1 - w) * (1 + w) * s
    return v * dy * (first * (2 + a * (activations.sigmoid(-a) - 2 * w * s)))


def _hard_swish(v: Any, dy: Any, x: Any) -> Any:
    return v * dy * np.where((x <= -3) | (x >= 3), 0.0, 1 / 3)


_FORMULAS: dict[str, Formula] = {
    "elu": _elu, "celu": _celu, "selu": _selu, "sigmoid": _sigmoid, "tanh": _tanh,
    "log_sigmoid": _log_sigmoid, "softplus": _softplus, "tanh_shrink": _tanh_shrink,
    "lisht": _lisht, "log_cosh": _log_cosh, "softsign": _softsign, "silu": _silu,
    "gelu": _gelu, "mish": _mish, "hard_swish": _hard_swish,
}  # fmt: skip
_GELU = {"none": _gelu, "tanh": _gelu_tanh, "sigmoid": _gelu_sigmoid}
# Their options that are numbers, with the defaults of the public functions.
_NUMBERS = {"elu": ("alpha", 1.0), "celu": ("alpha", 1.0), "softplus": ("beta", 1.0)}
_NUMBERS["silu"] = _NUMBERS["softplus"]


def _formula(name: str, options: dict[str, Any]) -> tuple[Formula, tuple[float, ...]]:
    if name == "gelu":
        return _GELU[options.get("approximate", "none")], ()
    if name not in _NUMBERS:
        return _FORMULAS[name], ()
    option, default = _NUMBERS[name]
    return _FORMULAS[name], (float(options.get(option, default)),)


# ---- rules of one operand ------------------------------------------------------------------------


def of_activation_gradient(name: str, residual: str) -> Rule:
    """Of the backward function of an activation."""
    function = f"{name}_backward"
    if name not in _FORMULAS:  # the derivative is piecewise constant

        def pull_constant(functions: Any, call: Call, v: Any) -> Gradients:
            return getattr(functions, function)(v, call.arrays[1], **call.options), None

        return Rule(pull_constant, keeps=(residual,))
    backward = getattr(activations_backward, function)

    def pull(functions: Any, call: Call, v: Any) -> Gradients:
        dy, x = call.arrays
        ddy = dx = None
        formula, numbers = _formula(name, call.options)
        if any("complex" in str(a.dtype) for a in call.arrays):
            return _of_complex(name, backward, formula, numbers, (v, dy, x), call)
        if call.wanted[0]:
            ddy = backward(v, x, **call.options)
        if call.wanted[1]:
            (dx,) = apply_and_sum(
                _as_tuple(formula), (v, dy, x), ("dx", "dy", residual), numbers, (call.shapes[1],)
            )
        return ddy, dx

    return Rule(pull, keeps=("dy", residual), composed=False)


_TUPLES: dict[Formula, Formula] = {}


def _as_tuple(formula: Formula) -> Formula:
    """The formula as a function that gives a tuple; one for each, so that it is traced once."""
    if formula not in _TUPLES:
        _TUPLES[formula] = lambda *values: (formula(*values),)
    return _TUPLES[formula]


def _of_complex(
    name: str,
    backward: Callable[..., Any],
    formula: Formula,
    numbers: tuple[float, ...],
    arrays: tuple[Any, Any, Any],
    call: Call,
) -> Gradients:
    """By array arithmetic: fused functions have no complex numbers.

    With ``g = dy conj(f'(x))`` the gradients are ``v f'(x)`` and ``conj(v) dy conj(f''(x))``; f is
    real on the real line, so that conjugates pass through its derivatives.
    """
    (v, dy, x), library, like = adopt_all(arrays, ("dx", "dy", "x"))
    formula = _silu_of_complex if name == "silu" else formula
    ddy = backward(v, x.conj(), **call.options)
    dx = formula(v.conj(), dy, x.conj(), *numbers)
    return library.restore(ddy, like), library.restore(dx.astype(x.dtype, copy=False), like)


# ---- rules of several operands -------------------------------------------------------------------


def _prelu_terms(v: Any, u: Any, dy: Any, x: Any, weight: Any) -> tuple[Any, ...]:
    positive = x > 0
    zero = np.where(positive, 0.0, 1.0)
    return (
        v * np.where(positive, 1.0, weight) + u * (zero * x),
        u * (zero * dy),
        v * (zero * dy),
    )


def _swiglu_terms(v: Any, u: Any, dy: Any, x: Any, gate: Any) -> tuple[Any, ...]:
    value = activations.silu(gate)
    slope = activations_backward.silu_backward(u, gate)
    curve = _silu_curve(np.clip(gate, -_FAR, _FAR))
    return _gated(v, u, dy, x, value, slope, activations_backward.silu_backward(v, gate), curve)


def _geglu_terms(v: Any, u: Any, dy: Any, x: Any, gate: Any) -> tuple[Any, ...]:
    value = activations.gelu(gate)
    slope = activations_backward.gelu_backward(u, gate)
    return _gated(
        v, u, dy, x, value, slope, activations_backward.gelu_backward(v, gate), _gelu_curve(gate)
    )


def _glu_terms(v: Any, u: Any, dy: Any, x: Any, gate: Any) -> tuple[Any, ...]:
    value = activations.sigmoid(gate)
    bell = _bell(gate)
    curve = -bell * activations.tanh(gate * 0.5)
    return _gated(v, u, dy, x, value, u * bell, v * bell, curve)


def _gated(
    v: Any, u: Any, dy: Any, x: Any, value: Any, slope_u: Any, slope_v: Any, curve: Any
) -> tuple[Any, ...]:
    """Of ``dx = dy s(gate), dgate = dy x s'(gate)`` with cotangents v and u."""
    return (
        v * value + x * slope_u,
        dy * slope_u,
        dy * slope_v + u * (dy * x * curve),
    )


def of_gradients_of_two(terms: Formula, arrays: tuple[str, str]) -> Rule:
    """Of a backward function of two operands that broadcast together."""

    def pull(functions: Any, call: Call, v: Any, u: Any) -> Gradients:
        dy, x, other = call.arrays
        # A cotangent that is not there is a zero.
        given = [0.0 if v is None else v, 0.0 if u is None else u]
        return _two(terms, given, (dy, x, other), (call.shapes[1], call.shapes[2]))

    return Rule(pull, keeps=("dy", *arrays), composed=False, optional=True)


def _two(terms: Formula, cotangents: list[Any], arrays: Any, shapes: Any) -> Gradients:
    dy, x, other = arrays
    names = ("dx", "dother", "dy", "x", "other")
    return apply_and_sum(terms, (*cotangents, dy, x, other), names, (), (None, *shapes))


def _pull_prelu(functions: Any, call: Call, v: Any, u: Any) -> Gradients:
    from nnkernels.dispatch import elementwise

    dy, x, weight = call.arrays
    axis = call.options.get("axis", 1)
    slope = elementwise.along_axis(weight, x, axis, "weight")
    du = 0.0 if u is None else elementwise.along_axis(u, x, axis, "weight")
    shape = tuple(getattr(slope, "shape", ()))
    ddy, dx, dweight = _two(
        _prelu_terms, [0.0 if v is None else v, du], (dy, x, slope), (call.shapes[1], shape)
    )
    extra = len(shape) - len(call.shapes[2] or ())
    return ddy, dx, dweight[(..., *(0,) * extra)] if extra >= 0 else dweight[None]


def _pull_glu(functions: Any, call: Call, v: Any) -> Gradients:
    from nnkernels.dispatch import elementwise
    from nnkernels.fusion.sums import fused_tuple

    axis = call.options.get("axis", -1)
    (v, dy, x), library, like = adopt_all((v, *call.arrays), ("dx", "dy", "x"))
    halves = [part for array in (v, x) for part in elementwise.split_halves(array, axis)]
    dx = elementwise.empty_like(x)
    out = (elementwise.empty_like(dy), *elementwise.split_halves(dx, axis))
    vx, vgate, value, gate = halves
    ddy, *_ = fused_tuple(_glu_terms)(vx, vgate, dy, value, gate, out=out)
    return library.restore(ddy, like), library.restore(dx, like)


OF_SWIGLU = of_gradients_of_two(_swiglu_terms, ("x", "gate"))
OF_GEGLU = of_gradients_of_two(_geglu_terms, ("x", "gate"))
OF_PRELU = Rule(_pull_prelu, keeps=("dy", "x", "weight"), composed=False, optional=True)
OF_GLU = Rule(_pull_glu, keeps=("dy", "x"), composed=False)


# ---- rows ----------------------------------------------------------------------------------------


def _softmax_products(v: Any, dy: Any, y: Any) -> tuple[Any, Any]:
    return dy * y, v * y


def _softmax_curve(v: Any, dy: Any, dy_sum: Any, v_sum: Any) -> Any:
    return v * (dy - dy_sum) - dy * v_sum


def _pull_softmax(functions: Any, call: Call, v: Any) -> Gradients:
    """Of ``dx = y (dy - sum dy y)``: by dy that of v, by y ``v (dy - sum dy y) - dy sum v y``."""
    from nnkernels.ops import rows

    dy, y = call.arrays
    ddy = rows.softmax_backward(v, y, **call.options) if call.wanted[0] else None
    if not call.wanted[1]:
        return ddy, None
    sums = apply_and_sum(_softmax_products, (v, dy, y), ("dx", "dy", "y"), (), (_kept(call),) * 2)
    return ddy, apply_and_sum(
        _as_tuple(_softmax_curve), (v, dy, *sums), ("dx", "dy", "sum", "sum"), (), (None,)
    )[0]


def _log_softmax_terms(v: Any, dy: Any, y: Any) -> tuple[Any, Any]:
    return v * np.exp(y), dy * 1.0


def _log_softmax_curve(v: Any, dy: Any, y: Any, v_sum: Any, dy_sum: Any) -> tuple[Any, Any]:
    return v - v_sum, -(v * np.exp(y)) * dy_sum


def _pull_log_softmax(functions: Any, call: Call, v: Any) -> Gradients:
    """Of ``dx = dy - exp(y) sum(dy)``: ``v - sum(v exp y)`` and ``-v exp(y) sum(dy)``."""
    dy, y = call.arrays
    names = ("dx", "dy", "y", "sum", "sum")
    sums = apply_and_sum(_log_softmax_terms, (v, dy, y), names[:3], (), (_kept(call),) * 2)
    return apply_and_sum(_log_softmax_curve, (v, dy, y, *sums), names, (), (None, None))


def _logsumexp_terms(v: Any, dy: Any, x: Any, y: Any) -> tuple[Any, ...]:
    product = v * np.exp(x - y)
    dx = product * dy
    return product, dx, -dx


def _pull_logsumexp(functions: Any, call: Call, v: Any) -> Gradients:
    """Of ``dx = dy exp(x - y)``: ``sum(v exp(x - y))``, ``v dx`` and ``-sum(v dx)``."""
    dy, x, y = call.arrays
    kept = _kept(call, 1)
    index: Any = ...
    if not call.options.get("keepdims", False):
        index = tuple(None if reduced else slice(None) for reduced in _reduced(call, 1))
    terms = apply_and_sum(
        _logsumexp_terms,
        (v, dy[index], x, y[index]),
        ("dx", "dy", "x", "y"),
        (),
        (kept, None, kept),
    )
    if index is ...:
        return terms
    back = tuple(0 if i is None else i for i in index)
    return terms[0][back], terms[1], terms[2][back]


def _reduced(call: Call, position: int = 0) -> tuple[bool, ...]:
    from nnkernels.dispatch.axes import normalize_axes

    rank = len(call.shapes[position] or ())
    axes = normalize_axes(call.options.get("axis", -1), rank)
    return tuple(a in axes for a in range(rank))


def _kept(call: Call, position: int = 0) -> tuple[int, ...]:
    """The shape of sums over the rows, whose axes are kept with size 1."""
    shape = call.shapes[position] or ()
    return tuple(1 if r else n for n, r in zip(shape, _reduced(call, position), strict=True))


OF_SOFTMAX = Rule(_pull_softmax, keeps=("dy", "y"), composed=False)
OF_LOG_SOFTMAX = Rule(_pull_log_softmax, keeps=("dy", "y"), composed=False)
OF_LOGSUMEXP = Rule(_pull_logsumexp, keeps=("dy", "x", "y"), composed=False)
