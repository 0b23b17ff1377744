"""Records of pooling and of its gradients."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from nnkernels.ops import pool
from nnkernels.reference import pool as reference
from nnkernels.registry.record import FLOATING, INTEGERS, Example, Op, Shape
from nnkernels.registry.rule import Call, Gradients, Rule

_KERNEL, _SIZE = "kernel_size", "output_size"


# ---- gradients ----------------------------------------------------------------------------------


def _max_rule(backward: str, option: str) -> Rule:
    """Of a maximum: x and the taps are kept; without these the maxima are looked up again."""

    def pull(functions: Any, call: Call, dy: Any, *_: Any) -> Gradients:
        size, others = call.option(option)
        others.pop("return_indices", None)
        given = (size,) if option == _KERNEL else ()
        if call.result is not None:
            others["taps"] = call.result
        return (getattr(functions, backward)(dy, call.arrays[0], *given, **others),)

    return Rule(pull, keeps=("x",), keeps_result=1, saves=("return_indices", "taps"))


def _max_gradient_rule(forward: str, option: str) -> Rule:
    """Of its gradient, which is linear: each element of dy goes where its maximum is."""

    def pull(functions: Any, call: Call, v: Any) -> Gradients:
        x = call.arrays[1]
        if option == _KERNEL:
            size, others = call.option(option)
        else:
            size, others = tuple((call.shapes[0] or ())[2:]), dict(call.options)
        _, places = getattr(functions, forward)(x, size, return_indices=True, **others)
        return (functions.max_unpool_backward(v, places), *(None,) * (len(call.arrays) - 1))

    return Rule(pull, keeps=("x",))


def _average_rule(backward: str, option: str) -> Rule:
    """Of an average: of x only the shape is kept."""

    def pull(functions: Any, call: Call, dy: Any) -> Gradients:
        size, others = call.option(option)
        given = (size,) if option == _KERNEL else ()
        return (getattr(functions, backward)(dy, call.shapes[0], *given, **others),)

    return Rule(pull)


def _average_gradient_rule(forward: str, option: str) -> Rule:
    """Of its gradient, which is linear: the average is the transpose."""

    def pull(functions: Any, call: Call, v: Any) -> Gradients:
        others = {key: value for key, value in call.options.items() if key != "x_shape"}
        size = others.pop(option, tuple((call.shapes[0] or ())[2:]))
        return (getattr(functions, forward)(v, size, **others),)

    return Rule(pull)


def _lp_rule(backward: str, option: str) -> Rule:
    def pull(functions: Any, call: Call, dy: Any) -> Gradients:
        size, others = call.option(option)
        return (getattr(functions, backward)(dy, call.arrays[0], call.result, size, **others),)

    return Rule(pull, keeps=("x",), keeps_result=0)


def _pull_unpool(functions: Any, call: Call, dy: Any) -> Gradients:
    return functions.max_unpool_backward(dy, call.arrays[1]), None


def _pull_unpool_gradient(functions: Any, call: Call, v: Any) -> Gradients:
    return functions.max_unpool(v, call.arrays[1], call.shapes[0]), None


# ---- records ------------------------------------------------------------------------------------

# Images, options, and the shape of the result.
_WINDOWED: tuple[tuple[Shape, dict[str, Any], Shape], ...] = (
    ((2, 3, 7, 10), {_KERNEL: 3, "stride": 2, "padding": 1}, (2, 3, 4, 5)),
    ((2, 3, 10), {_KERNEL: 2, "ceil_mode": True, "padding": ((1, 0),)}, (2, 3, 6)),
    (
        (2, 2, 5, 4, 7),
        {_KERNEL: (2, 1, 3), "stride": (1, 2, 1), "padding": "same", "dilation": (2, 1, 1)},
        (2, 2, 5, 2, 7),
    ),
)
_DIVIDED: tuple[tuple[Shape, dict[str, Any], Shape], ...] = (
    ((2, 3, 7, 10), {_SIZE: (3, 4)}, (2, 3, 3, 4)),
    ((2, 3, 5), {_SIZE: 7}, (2, 3, 7)),
    ((2, 2, 5, 4, 3), {_SIZE: 1}, (2, 2, 1, 1, 1)),
)


def _with(cases: Any, **more: Any) -> Any:
    return tuple((shape, options | more, result) for shape, options, result in cases)


def _per_tap(shapes: tuple[Shape, ...], options: dict[str, Any]) -> float:
    kernel = options.get(_KERNEL, 1)
    rank = len(shapes[0]) - 2
    taps = kernel**rank if isinstance(kernel, int) else prod(kernel)
    return float(prod(shapes[0]) * taps)


def _op(
    name: str,
    arrays: tuple[str, ...],
    dtypes: tuple[str, ...],
    examples: tuple[Example, ...],
    number: Any,
    **more: Any,
) -> Op:
    return Op(
        name=name,
        family="pool",
        function=getattr(pool, name),
        reference=getattr(reference, name),
        arrays=arrays,
        dtypes=dtypes,
        examples=examples,
        number=number,
        flops=_per_tap,
        **more,
    )


def _pair(
    name: str,
    dtypes: tuple[str, ...],
    cases: Any,
    option: str,
    residuals: tuple[str, ...],
    rule: Callable[[str, str], Rule],
    second: Rule | None,
) -> tuple[Op, Op]:
    """Records of a pooling and of its gradient.

    Parameters
    ----------
    option : str
        That which stands among the positional arguments.
    residuals : tuple of str
        What the gradient wants beside dy: x, y, or x_shape.
    """
    backward = f"{name}_backward"
    is_maximum = name.endswith("max_pool")
    arrays = tuple(r for r in residuals if r != "x_shape")
    places: list[tuple[str, int]] = []
    if "x_shape" in residuals:
        places.append(("x_shape", 1))
    if option == _KERNEL:
        places.append((option, 1 + len(residuals)))
    examples = []
    for shape, options, result in cases:
        kept = {k: v for k, v in options.items() if k not in ("return_indices", _SIZE)}
        if "x_shape" in residuals:
            kept["x_shape"] = shape
        sides = {"x": shape, "y": result}
        examples.append(Example((result, *(sides[a] for a in arrays)), kept))
    return (
        _op(
            name,
            ("x",),
            dtypes,
            tuple(Example((shape,), options) for shape, options, _ in cases),
            (option, 1),
            gradient=rule(backward, option),
            **(_WITH_INDICES if is_maximum else {}),
        ),
        _op(
            backward,
            ("dy", *arrays),
            FLOATING,
            tuple(examples),
            tuple(places) or None,
            positive=("y",) if "y" in arrays else (),
            gradient=second,
            **(_WITH_TAPS if is_maximum else {}),
        ),
    )


_WITH_INDICES: dict[str, Any] = {"outputs": 2, "auxiliary": "indices"}
_WITH_TAPS: dict[str, Any] = {"array_options": ("taps",), "constant": ("taps",)}


def _places(
    generator: np.random.Generator, shapes: tuple[Shape, ...], options: dict[str, Any]
) -> np.ndarray:
    """Indices that do not repeat, of as many elements as a plane of the result has."""
    pooled = shapes[1]
    whole = options.get("output_shape", shapes[0])
    size, count = prod(whole[-(len(pooled) - 2) :]), prod(pooled[2:])
    rows = np.stack([generator.permutation(size)[:count] for _ in range(prod(pooled[:2]))])
    return rows.reshape(pooled).astype(np.int64)


OPS: tuple[Op, ...] = (
    *_pair(
        "max_pool",
        (*FLOATING, *INTEGERS),
        (*_WINDOWED, *_with(_WINDOWED[:1], return_indices=True)),
        _KERNEL,
        ("x",),
        _max_rule,
        _max_gradient_rule("max_pool", _KERNEL),
    ),
    *_pair(
        "avg_pool",
        FLOATING,
        (*_WINDOWED, *_with(_WINDOWED[1:2], count_include_pad=False)),
        _KERNEL,
        ("x_shape",),
        _average_rule,
        _average_gradient_rule("avg_pool", _KERNEL),
    ),
    *_pair(
        "lp_pool",
        FLOATING,
        (*_WINDOWED[:2], *_with(_WINDOWED[2:], p=3.0)),
        _KERNEL,
        ("x", "y"),
        _lp_rule,
        None,
    ),
    *_pair(
        "adaptive_max_pool",
        (*FLOATING, *INTEGERS),
        _DIVIDED,
        _SIZE,
        ("x",),
        _max_rule,
        _max_gradient_rule("adaptive_max_pool", _SIZE),
    ),
    *_pair(
        "adaptive_avg_pool",
        FLOATING,
        _DIVIDED,
        _SIZE,
        ("x_shape",),
        _average_rule,
        _average_gradient_rule("adaptive_avg_pool", _SIZE),
    ),
    _op(
        "max_unpool",
        ("x", "indices"),
        (*FLOATING, *INTEGERS),
        (
            Example(((2, 3, 3, 4), (2, 3, 3, 4)), {"output_shape": (2, 3, 7, 10)}),
            Example(((2, 3, 5), (2, 3, 5)), {"output_shape": (10,)}),
        ),
        ("output_shape", 2),
        gradient=Rule(_pull_unpool, keeps=("indices",)),
        special={"indices": _places},
        constant=("indices",),
    ),
    _op(
        "max_unpool_backward",
        ("dy", "indices"),
        FLOATING,
        (Example(((2, 3, 7, 10), (2, 3, 3, 4))), Example(((2, 3, 10), (2, 3, 5)))),
        None,
        gradient=Rule(_pull_unpool_gradient, keeps=("indices",)),
        special={"indices": _places},
        constant=("indices",),
    ),
)
