"""Records of softmax and its kin."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from nnkernels.ops import rows
from nnkernels.reference import rows as reference
from nnkernels.registry import second_derivatives
from nnkernels.registry.record import FLOATING, Example, Op, Shape
from nnkernels.registry.rule import Call, Gradients, Rule
from nnkernels.registry.rules import from_result

_SHAPES: tuple[tuple[Shape, dict[str, Any]], ...] = (
    ((64, 250), {}),
    ((5, 3, 7), {"axis": 0}),
    ((5, 3, 7), {"axis": (0, 2)}),
    ((4, 9), {"axis": None}),
)


def _per_element(operations: float) -> Callable[[tuple[Shape, ...], dict[str, Any]], float]:
    return lambda shapes, options: operations * prod(shapes[0])


def _examples(arrays: int) -> tuple[Example, ...]:
    return tuple(Example((shape,) * arrays, options) for shape, options in _SHAPES)


def _reduced(shape: Shape, axis: Any) -> Shape:
    axes = range(len(shape)) if axis is None else (axis,) if isinstance(axis, int) else axis
    dropped = {a % len(shape) for a in axes}
    return tuple(n for a, n in enumerate(shape) if a not in dropped)


def _pull_logsumexp(functions: Any, call: Call, dy: Any) -> Gradients:
    return (functions.logsumexp_backward(dy, call.arrays[0], call.result, **call.options),)


def _op(
    name: str,
    arrays: tuple[str, ...],
    flops: float,
    examples: tuple[Example, ...],
    gradient: Rule,
) -> Op:
    return Op(
        name=name,
        family="rows",
        function=getattr(rows, name),
        reference=getattr(reference, name),
        arrays=arrays,
        dtypes=FLOATING,
        examples=examples,
        gradient=gradient,
        flops=_per_element(flops),
        functions="" if name.endswith("_backward") else "rows",
    )


# Operations of an element: ten for exp, one for each addition, multiplication or comparison.
OPS: tuple[Op, ...] = (
    _op("softmax", ("x",), 14, _examples(1), from_result("softmax_backward")),
    _op("softmax_backward", ("dy", "y"), 4, _examples(2), second_derivatives.OF_SOFTMAX),
    _op(
        "log_softmax",
        ("x",),
        14,
        _examples(1),
        from_result("log_softmax_backward"),
    ),
    _op("log_softmax_backward", ("dy", "y"), 13, _examples(2), second_derivatives.OF_LOG_SOFTMAX),
    _op(
        "logsumexp",
        ("x",),
        13,
        _examples(1),
        Rule(_pull_logsumexp, keeps=("x",), keeps_result=0),
    ),
    _op(
        "logsumexp_backward",
        ("dy", "x", "y"),
        12,
        tuple(
            Example((reduced, shape, reduced), options)
            for shape, options in _SHAPES
            for reduced in [_reduced(shape, options.get("axis", -1))]
        ),
        second_derivatives.OF_LOGSUMEXP,
    ),
)
