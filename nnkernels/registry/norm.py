"""Records of the normalisations and of their gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from nnkernels.ops import batch_norm, norm, norm_backward
from nnkernels.reference import norm as reference
from nnkernels.registry.functions import with_functions
from nnkernels.registry.record import FLOATING, Example, Op, Shape

Pullback = Callable[..., tuple[Any, ...]]


# ---- gradients ----------------------------------------------------------------------------------


def _row_rule(forward: Any, backward: Any, numbers: int = 0) -> Any:
    """Gradient rule of a norm whose gradient recomputes the statistics of its rows.

    Parameters
    ----------
    numbers : int
        How many of the positional arguments are no arrays.
    """

    def rule(x: Any, *others: Any, residual: Any = None, **options: Any) -> tuple[Any, Pullback]:
        count = 1 + len(others) - numbers
        if residual is None:
            y = forward(x, *others, **options)
            return y, lambda dy: backward(dy, x, *others, **options)[:count]
        y, total = forward(x, *others, residual=residual, **options)

        def pullback(dy: Any, dtotal: Any) -> tuple[Any, ...]:
            found = backward(dy, total, *others, dresidual=dtotal, **options)
            # What is added to x has the gradient of x.
            return (*found[:count], found[0])

        return (y, total), pullback

    def reverse(
        dv: Any, u: Any, v: Any, others: Any, options: dict[str, Any], more: Any
    ) -> tuple[Any, ...]:
        options, count = dict(options), 1 + len(others) - numbers
        if options.pop("residual", None) is None:
            return backward(dv, u, *others, **options)[:count]
        found = backward(dv, u, *others, dresidual=more[0], **options)
        return (*found[:count], found[0])

    def further(options: dict[str, Any]) -> int:
        return int(options.get("residual") is not None)

    return with_functions(rule, forward, reverse, further=further)


def _refuse_running(running: Sequence[Any]) -> None:
    if any(cotangent is not None for cotangent in running):
        raise TypeError(
            "the running statistics are not differentiated: their cotangents must be None"
        )


def _plain_batch_rule(*arrays: Any, momentum: float = 0.1, **options: Any) -> tuple[Any, Pullback]:
    result = batch_norm.batch_norm(*arrays, momentum=momentum, **options)

    def pullback(dy: Any, *running: Any) -> tuple[Any, ...]:
        _refuse_running(running)
        found = batch_norm.batch_norm_backward(dy, *arrays, **options)
        return (*found, None, None)[: len(arrays)]

    return result, pullback


def _batch_reverse(
    dv: Any, u: Any, v: Any, others: Any, options: dict[str, Any], more: Any
) -> tuple[Any, ...]:
    _refuse_running(more)
    found = batch_norm.batch_norm_backward(dv, u, *others, **_without(options, "momentum"))
    return (*found, None, None)[: 1 + len(others)]


_batch_rule = with_functions(
    _plain_batch_rule,
    batch_norm.batch_norm,
    _batch_reverse,
    further=lambda options: 2 if options.get("training") else 0,
)


# ---- records ------------------------------------------------------------------------------------


def _per_element(operations: float) -> Callable[[tuple[Shape, ...], dict[str, Any]], float]:
    return lambda shapes, options: operations * prod(shapes[0])


def _pair(
    module: Any,
    backward_module: Any,
    name: str,
    arrays: tuple[str, ...],
    examples: tuple[Example, ...],
    operations: tuple[int, int],
    rule: Any,
    outputs: tuple[int, int] = (1, 3),
    place: int | None = None,
    positive: tuple[str, ...] = (),
) -> tuple[Op, Op]:
    """Records of a norm and of its gradient.

    Parameters
    ----------
    operations : tuple of int
        For each element, of the function and of its gradient: one for each addition or
        multiplication.
    outputs : tuple of int
        Number of results of both.
    place : int, optional
        Of the number of groups.
    """
    backward = f"{name}_backward"
    return (
        Op(
            name=name,
            family="norm",
            function=getattr(module, name),
            reference=getattr(reference, name),
            arrays=arrays,
            dtypes=FLOATING,
            examples=examples,
            gradient=rule,
            flops=_per_element(operations[0]),
            outputs=outputs[0],
            number=None if place is None else ("num_groups", place),
            positive=positive,
        ),
        Op(
            name=backward,
            family="norm",
            function=getattr(backward_module, backward),
            reference=getattr(reference, backward),
            arrays=("dy", *arrays),
            dtypes=FLOATING,
            examples=tuple(
                Example((e.shapes[0], *e.shapes), _without(e.options, "momentum")) for e in examples
            ),
            flops=_per_element(operations[1]),
            outputs=outputs[1],
            number=None if place is None else ("num_groups", place + 1),
            positive=positive,
        ),
    )


def _without(options: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != name}


def _of_rows(
    name: str,
    arrays: tuple[str, ...],
    examples: tuple[Example, ...],
    operations: tuple[int, int],
    place: int | None = None,
) -> tuple[Op, Op]:
    numbers = 0 if place is None else 1
    rule = _row_rule(getattr(norm, name), getattr(norm_backward, f"{name}_backward"), numbers)
    outputs = (1, len(arrays))
    return _pair(norm, norm_backward, name, arrays, examples, operations, rule, outputs, place)


_CHANNELS = {"axis": -1, "eps": 1e-3, "activation": "silu"}

OPS: tuple[Op, ...] = (
    *_of_rows(
        "layer_norm",
        ("x", "weight", "bias"),
        (
            Example(((64, 250), (250,), (250,))),
            Example(((5, 3, 7), (7, 5), (7, 5)), {"axis": (2, 0), "activation": "silu"}),
            Example(((5, 8, 7),), {"axis": 1, "eps": 1e-3}),
        ),
        (9, 16),
    ),
    *_of_rows(
        "rms_norm",
        ("x", "weight"),
        (
            Example(((64, 250), (250,))),
            Example(((5, 3, 7), (7, 5)), {"axis": (2, 0), "offset": 1.0, "activation": "silu"}),
            Example(((5, 8, 7),), {"axis": 1, "eps": 1e-3}),
        ),
        (5, 12),
    ),
    *_of_rows(
        "group_norm",
        ("x", "weight", "bias"),
        (
            Example(((6, 8, 9, 10), (8,), (8,)), {"num_groups": 4}),
            Example(((6, 5, 4), (4,), (4,)), {"num_groups": 2, **_CHANNELS}),
            Example(((6, 7),), {"num_groups": 3, "axis": 0}),
        ),
        (9, 16),
        place=1,
    ),
    *_of_rows(
        "instance_norm",
        ("x", "weight", "bias"),
        (
            Example(((6, 5, 9, 10), (5,), (5,))),
            Example(((6, 5, 4), (4,), (4,)), _CHANNELS),
        ),
        (9, 16),
    ),
    *_pair(
        batch_norm,
        batch_norm,
        "batch_norm",
        ("x", "weight", "bias", "running_mean", "running_var"),
        (
            Example(((6, 5, 9, 10), *((5,),) * 4), {"training": True}),
            Example(((6, 9, 4), *((4,),) * 4), {"training": False, **_CHANNELS}),
            Example(((8, 9),), {"training": True, "axis": 0, "momentum": 0.25}),
        ),
        (9, 14),
        _batch_rule,
        outputs=(3, 3),
        positive=("running_var",),
    ),
)
