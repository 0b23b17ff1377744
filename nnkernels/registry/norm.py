"""Records of the normalisations and of their gradients."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from nnkernels.ops import batch_norm, norm, norm_backward
from nnkernels.reference import norm as reference
from nnkernels.registry.norm_second import along_axes, in_groups, of_channels, of_norm_gradient
from nnkernels.registry.record import FLOATING, Example, Op, Shape
from nnkernels.registry.rule import Call, Gradients, Rule

# ---- gradients ----------------------------------------------------------------------------------


def _row_rule(backward: str, arrays: tuple[str, ...], number: str = "") -> Rule:
    """Gradient rule of a norm whose gradient recomputes the statistics of its rows.

    Parameters
    ----------
    number : str
        An option among the positional arguments, after x.
    """

    def arguments(call: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
        options = dict(call.options)
        return (options.pop(number),) if number else (), options

    def pull(functions: Any, call: Call, dy: Any) -> Gradients:
        (x, *parameters), (numbers, options) = call.arrays, arguments(call)
        found = getattr(functions, backward)(dy, x, *numbers, *parameters, **options)
        return tuple(found[: len(call.shapes)])

    def pull_with_residual(functions: Any, call: Call, dy: Any, dtotal: Any) -> Gradients:
        (_, *parameters, _), (numbers, options) = call.arrays, arguments(call)
        found = getattr(functions, backward)(
            dy, call.result, *numbers, *parameters, dresidual=dtotal, **options
        )
        # The statistics are those of the sum; what is added to x has the gradient of x.
        return (*found[: len(call.shapes) - 1], found[0])

    with_residual = Rule(pull_with_residual, keeps=arrays[1:], keeps_result=1)
    return Rule(pull, keeps=arrays, with_residual=with_residual)


def _pull_batch_norm(functions: Any, call: Call, dy: Any, *_: Any) -> Gradients:
    options = {key: value for key, value in call.options.items() if key != "momentum"}
    found = functions.batch_norm_backward(dy, *call.arrays, **options)
    return tuple((*found, None, None)[: len(call.shapes)])


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
    rule: Rule,
    outputs: tuple[int, int] = (1, 3),
    place: int | None = None,
    positive: tuple[str, ...] = (),
    residual: bool = True,
    second: Rule | None = None,
    **more: Any,
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
    residual : bool
        Whether the norm has an option of that name.
    second : Rule
        Of the gradient.
    **more
        Of the record of the norm.
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
            array_options=("residual",) if residual else (),
            number=None if place is None else ("num_groups", place),
            positive=positive,
            functions="rows",
            **more,
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
            gradient=second,
            flops=_per_element(operations[1]),
            outputs=outputs[1],
            constant=more.get("constant", ()),
            array_options=("dresidual",) if residual else (),
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
    second: Rule,
    place: int | None = None,
) -> tuple[Op, Op]:
    rule = _row_rule(f"{name}_backward", arrays, "" if place is None else "num_groups")
    outputs = (1, len(arrays))
    modules = norm, norm_backward
    return _pair(*modules, name, arrays, examples, operations, rule, outputs, place, second=second)


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
        of_norm_gradient(along_axes, ("x", "weight", "bias"), 1e-5),
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
        of_norm_gradient(along_axes, ("x", "weight"), 1e-6, centred=False),
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
        of_norm_gradient(in_groups, ("x", "weight", "bias"), 1e-5),
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
        of_norm_gradient(in_groups, ("x", "weight", "bias"), 1e-5),
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
        Rule(_pull_batch_norm, keeps=("x", "weight", "bias", "running_mean", "running_var")),
        outputs=(3, 3),
        second=of_norm_gradient(
            of_channels, ("x", "weight", "bias", "running_mean", "running_var"), 1e-5
        ),
        positive=("running_var",),
        residual=False,
        constant=("running_mean", "running_var"),
        auxiliary="the running statistics",
    ),
)
