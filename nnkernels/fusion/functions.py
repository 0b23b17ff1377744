"""Functions of the Array API, and of NumPy's names, on the values of a fused function."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nnkernels.errors import TraceError
from nnkernels.fusion.expression import OPERATIONS
from nnkernels.fusion.trace import Trace, Tracer, fail


def _trace_of(values: Sequence[Any], name: str) -> Trace:
    for value in values:
        if isinstance(value, Tracer):
            return value._trace
    raise fail(f"{name} of no value of the fused function")


def _named(name: str) -> Callable[..., Any]:
    operands = OPERATIONS[name].operands

    def function(*values: Any) -> Any:
        if len(values) != operands:
            raise fail(f"{name} takes {operands} operands; got {len(values)}")
        return _trace_of(values, name).apply(name, values)

    function.__name__ = name
    return function


def pow(base: Any, exponent: Any) -> Any:
    """``base ** exponent``."""
    return _trace_of((base, exponent), "pow").power(base, exponent)


def positive(x: Any) -> Any:
    """``x``."""
    return x


def where(condition: Any, x: Any = None, y: Any = None) -> Any:
    """``x`` where a bool is true, else ``y``."""
    if x is None or y is None:
        raise fail("where without the two values, whose result has another shape")
    return _trace_of((condition, x, y), "where").where(condition, x, y)


def clip(x: Any, min: Any = None, max: Any = None) -> Any:
    """``x`` between two bounds, of which either may be None."""
    trace = _trace_of((x, min, max), "clip")
    if min is not None:
        x = trace.apply("maximum", (x, min))
    return x if max is None else trace.apply("minimum", (x, max))


def astype(x: Any, dtype: Any, copy: bool = True) -> Any:
    """``x`` in another dtype."""
    return _trace_of((x,), "astype").astype(x, dtype)


def trunc(x: Any) -> Any:
    """``x`` without its fraction."""
    trace = _trace_of((x,), "trunc")
    return trace.where(
        trace.apply("less", (x, 0)), trace.apply("ceil", (x,)), trace.apply("floor", (x,))
    )


def expit(x: Any) -> Any:
    """The logistic function, under SciPy's name."""
    from nnkernels.ops.activations import sigmoid

    return sigmoid(x)


FUNCTIONS: dict[str, Callable[..., Any]] = {name: _named(name) for name in OPERATIONS}
FUNCTIONS |= {f.__name__: f for f in (pow, positive, where, clip, astype, trunc, expit)}
for _alias, _name in {
    "power": "pow", "absolute": "abs", "fabs": "abs", "true_divide": "divide", "mod": "remainder",
    "rint": "round", "around": "round", "bitwise_and": "logical_and", "bitwise_or": "logical_or",
    "bitwise_xor": "logical_xor", "invert": "logical_not", "bitwise_invert": "logical_not",
    "float_power": "pow",
}.items():  # fmt: skip
    FUNCTIONS[_alias] = FUNCTIONS[_name]

# Of ufuncs; dtype and the others would change the result.
_HARMLESS = {"out": None, "where": True, "dtype": None, "casting": "same_kind", "order": "K",
             "subok": True}  # fmt: skip


def call_ufunc(name: str, arguments: Sequence[Any], options: dict[str, Any]) -> Any:
    """A NumPy ufunc, or CuPy's of the same name."""
    for option, value in options.items():
        if _HARMLESS.get(option, ...) is not value and value != (None,):
            raise fail(f"{name} with {option}= in a fused function")
    return _find(name)(*arguments)


def call_function(name: str, arguments: Sequence[Any], options: dict[str, Any]) -> Any:
    """A NumPy function that is no ufunc."""
    found = _find(name)
    if name == "clip":
        options = {_CLIP.get(k, k): v for k, v in options.items() if k != "out" or v is not None}
    elif name in ("around", "round") and options.get("decimals", 0) == 0:
        options = {}
        arguments = arguments[:1] if list(arguments[1:]) in ([], [0]) else arguments
    try:
        return found(*arguments, **options)
    except TraceError:
        raise
    except TypeError as error:
        raise fail(f"{name} in a fused function: {error}") from None


_CLIP = {"a": "x", "a_min": "min", "a_max": "max"}


def _find(name: str) -> Callable[..., Any]:
    found = FUNCTIONS.get(name)
    if found is None:
        raise fail(f"{name} in a fused function, which has only {', '.join(sorted(FUNCTIONS))}")
    return found


class Namespace:
    """What ``__array_namespace__`` gives for a value of a fused function."""

    e, inf, nan, pi = math.e, math.inf, math.nan, math.pi
    __name__ = "nnkernels.fusion"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in ("bool", "float16", "float32", "float64", "bfloat16") or name in _INTEGERS:
            return name if name == "bfloat16" else np.dtype(name)
        return _find(name)


_INTEGERS = tuple(f"{prefix}{bits}" for prefix in ("int", "uint") for bits in (8, 16, 32, 64))
NAMESPACE = Namespace()
