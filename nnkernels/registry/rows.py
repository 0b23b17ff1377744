"""Records of softmax and its kin."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from nnkernels.ops import rows
from nnkernels.reference import rows as reference
from nnkernels.registry.elementwise import from_result
from nnkernels.registry.functions import with_functions
from nnkernels.registry.record import FLOATING, Example, Op, Shape

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


def _softmax_gradient(forward: Any, backward: Any) -> Any:
    return with_functions(
        from_result(forward, backward),
        forward,
        lambda dv, u, v, others, options, more: (backward(dv, v, **options),),
        needs_input=False,
    )


def _logsumexp_gradient(x: Any, **options: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    y = rows.logsumexp(x, **options)
    return y, lambda dy: (rows.logsumexp_backward(dy, x, y, **options),)


def _op(
    name: str,
    arrays: tuple[str, ...],
    flops: float,
    examples: tuple[Example, ...],
    gradient: Any = None,
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
    )


# Operations of an element: ten for exp, one for each addition, multiplication or comparison.
OPS: tuple[Op, ...] = (
    _op("softmax", ("x",), 14, _examples(1), _softmax_gradient(rows.softmax, rows.softmax_backward)),
    _op("softmax_backward", ("dy", "y"), 4, _examples(2)),
    _op(
        "log_softmax",
        ("x",),
        14,
        _examples(1),
        _softmax_gradient(rows.log_softmax, rows.log_softmax_backward),
    ),
    _op("log_softmax_backward", ("dy", "y"), 13, _examples(2)),
    _op(
        "logsumexp",
        ("x",),
        13,
        _examples(1),
        with_functions(
            _logsumexp_gradient,
            rows.logsumexp,
            lambda dv, u, v, others, options, more: (rows.logsumexp_backward(dv, u, v, **options),),
        ),
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
    ),
)
