"""Softmax and its kin: functions of the rows of an array."""

from __future__ import annotations

from typing import Any

from nnkernels._typing import Array
from nnkernels.dispatch import elementwise, fused_rows, rows
from nnkernels.dispatch.axes import normalize_axes, reduced_shape
from nnkernels.errors import ShapeError
from nnkernels.interop.libraries import library_of
from nnkernels.ops._functions import Function, Operands, functions_of
from nnkernels.ops._public import public

Axis = int | tuple[int, ...] | None
# The default of operands: most calls have none, and are told by its identity.
_NONE: Operands = ()


def _forward(kind: str, **flags: Any) -> rows.RowKernel:
    return rows.RowKernel("SoftmaxForward", "softmax", kind, ("x",), saved=2, **flags)


def _backward(kind: str) -> rows.RowKernel:
    return rows.RowKernel("SoftmaxBackward", "softmax_backward", kind, ("dy", "y"), tiles=2)


_SOFTMAX = _forward("softmax_kind", keeps_exp=True)
_LOG_SOFTMAX = _forward("log_softmax_kind")
_LOGSUMEXP = _forward("logsumexp_kind", per_row=True, of_nothing=float("-inf"))
_SOFTMAX_BACKWARD = _backward("softmax_kind")
_LOG_SOFTMAX_BACKWARD = _backward("log_softmax_kind")
_LOGSUMEXP_BACKWARD = elementwise.Functor(
    "LogSumExpBackward",
    "logsumexp_backward",
    inputs=3,
    outputs=1,
    kinds="f",
    names=("dy", "x", "y"),
    cotangent=False,  # of the reduced shape
)


@public
def softmax(
    x: Array,
    /,
    *,
    axis: Axis = -1,
    prologue: Function = None,
    prologue_operands: Operands = (),
    epilogue: Function = None,
    operands: Operands = (),
    out: Array | None = None,
) -> Any:
    """Softmax: ``y = exp(x) / sum(exp(x))`` along an axis.

    {x}
    axis : int, tuple of int or None, default -1
        What makes a row: an axis, several, or all for None.
    {out after options}

    Notes
    -----
    The maximum of a row is subtracted first, so nothing overflows. Sums are in float32 (float64
    for float64). A row that holds NaN or +inf, or nothing but -inf, becomes NaN. On a GPU,
    subnormal numbers of float32 count as 0.

    References
    ----------
    J. S. Bridle, "Probabilistic interpretation of feedforward classification network outputs",
    Neurocomputing, NATO ASI Series 68, 1990.

    {examples}
    >>> nnk.softmax(np.array([[0.0, 0.0], [0.0, 100.0]])).round(4).tolist()
    [[0.5, 0.5], [0.0, 1.0]]
    """
    if prologue is epilogue is None and prologue_operands is operands is _NONE:
        return rows.apply(_SOFTMAX, (x,), axis, False, out)
    functions = functions_of(prologue, prologue_operands, epilogue, operands)
    return _apply(_SOFTMAX, x, functions, axis, False, out)


@public
def softmax_backward(dy: Array, y: Array, /, *, axis: Axis = -1, out: Array | None = None) -> Array:
    """Gradient of `softmax`: ``dx = y (dy - sum(dy y))``, the sum along the axis.

    {dy, y}
    axis : int, tuple of int or None, default -1
        As in `softmax`.
    {gradient of rows}

    {examples}
    >>> y = np.array([0.5, 0.5])
    >>> nnk.softmax_backward(np.array([1.0, 0.0]), y).tolist()
    [0.25, -0.25]
    """
    return rows.apply(_SOFTMAX_BACKWARD, (dy, y), axis, False, out)


@public
def log_softmax(
    x: Array,
    /,
    *,
    axis: Axis = -1,
    prologue: Function = None,
    prologue_operands: Operands = (),
    epilogue: Function = None,
    operands: Operands = (),
    out: Array | None = None,
) -> Any:
    """Logarithm of softmax: ``y = x - log(sum(exp(x)))`` along an axis.

    {x}
    axis : int, tuple of int or None, default -1
        What makes a row: an axis, several, or all for None.
    {out after options}

    Notes
    -----
    Accurate where softmax itself rounds to 0 or 1. Sums are in float32 (float64 for float64). A
    row that holds NaN or +inf, or nothing but -inf, becomes NaN.

    {examples}
    >>> nnk.log_softmax(np.array([0.0, 1000.0])).tolist()
    [-1000.0, 0.0]
    """
    if prologue is epilogue is None and prologue_operands is operands is _NONE:
        return rows.apply(_LOG_SOFTMAX, (x,), axis, False, out)
    functions = functions_of(prologue, prologue_operands, epilogue, operands)
    return _apply(_LOG_SOFTMAX, x, functions, axis, False, out)


@public
def log_softmax_backward(
    dy: Array, y: Array, /, *, axis: Axis = -1, out: Array | None = None
) -> Array:
    """Gradient of `log_softmax`: ``dx = dy - exp(y) sum(dy)``, the sum along the axis.

    {dy, y}
    axis : int, tuple of int or None, default -1
        As in `log_softmax`.
    {gradient of rows}

    {examples}
    >>> y = np.log(np.array([0.25, 0.75]))
    >>> nnk.log_softmax_backward(np.array([1.0, 0.0]), y).round(4).tolist()
    [0.75, -0.75]
    """
    return rows.apply(_LOG_SOFTMAX_BACKWARD, (dy, y), axis, False, out)


@public
def logsumexp(
    x: Array,
    /,
    *,
    axis: Axis = -1,
    keepdims: bool = False,
    prologue: Function = None,
    prologue_operands: Operands = (),
    epilogue: Function = None,
    operands: Operands = (),
    out: Array | None = None,
) -> Any:
    """Logarithm of the sum of exponentials: ``y = log(sum(exp(x)))`` along an axis.

    {x}
    axis : int, tuple of int or None, default -1
        What makes a row: an axis, several, or all for None.
    keepdims : bool, default False
        Whether the result keeps the axes, with size 1.
    {out of a row}

    Notes
    -----
    The maximum of a row is subtracted first, so nothing overflows. A row of nothing, or of
    nothing but -inf, gives -inf; one that holds +inf and no NaN gives +inf.

    {examples}
    >>> nnk.logsumexp(np.array([[0.0, 0.0], [1000.0, 0.0]])).round(4).tolist()
    [0.6931, 1000.0]
    """
    keepdims = _flag("keepdims", keepdims)
    if prologue is epilogue is None and prologue_operands is operands is _NONE:
        return rows.apply(_LOGSUMEXP, (x,), axis, keepdims, out)
    functions = functions_of(prologue, prologue_operands, epilogue, operands)
    return _apply(_LOGSUMEXP, x, functions, axis, keepdims, out)


@public
def logsumexp_backward(
    dy: Array,
    x: Array,
    y: Array,
    /,
    *,
    axis: Axis = -1,
    keepdims: bool = False,
    out: Array | None = None,
) -> Array:
    """Gradient of `logsumexp`: ``dx = dy exp(x - y)``.

    Parameters
    ----------
    dy : array
        The cotangent: the gradient of the loss with respect to the result of `logsumexp`.
    x : array
        The operand of `logsumexp`.
    y : array
        The result of `logsumexp`.
    axis : int, tuple of int or None, default -1
        As in `logsumexp`.
    keepdims : bool, default False
        As in `logsumexp`.
    {gradient after options}

    {examples}
    >>> x = np.array([0.0, 0.0])
    >>> nnk.logsumexp_backward(np.array(1.0), x, nnk.logsumexp(x)).round(4).tolist()
    [0.5, 0.5]
    """
    library_of(x, "x")
    shape = tuple(x.shape)
    axes = normalize_axes(axis, len(shape))
    wanted = reduced_shape(shape, axes, _flag("keepdims", keepdims))
    for array, name in ((dy, "dy"), (y, "y")):
        if tuple(getattr(array, "shape", wanted)) != wanted:
            raise ShapeError(
                f"{name} has shape {tuple(array.shape)}; the result of logsumexp has shape {wanted}"
            )
    if keepdims or not hasattr(dy, "shape") or not hasattr(y, "shape"):
        return elementwise.apply(_LOGSUMEXP_BACKWARD, (dy, x, y), (), out)
    # A view with the reduced axes put back, so that dy and y broadcast along the rows.
    index = tuple(None if a in axes else slice(None) for a in range(len(shape)))
    return elementwise.apply(_LOGSUMEXP_BACKWARD, (dy[index], x, y[index]), (), out)


def _apply(
    kernel: rows.RowKernel, x: Any, functions: Any, axis: Any, keepdims: bool, out: Any
) -> Any:
    if functions is None:
        return rows.apply(kernel, (x,), axis, keepdims, out)
    return fused_rows.apply(kernel, x, functions, axis, keepdims, out)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False; got {type(value).__name__} {value!r}")
    return value
