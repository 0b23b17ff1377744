"""Records of pooling and of its gradients."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from nnkernels.ops import pool
from nnkernels.reference import pool as reference
from nnkernels.registry.record import FLOATING, INTEGERS, Example, Op, Shape

Pullback = Callable[..., tuple[Any, ...]]


# ---- gradients ----------------------------------------------------------------------------------


def _max_rule(forward: Any, backward: Any, takes_size: bool) -> Any:
    """Of a maximum: x is kept, and the maxima are looked up again."""

    def rule(x: Any, size: Any, **options: Any) -> tuple[Any, Pullback]:
        result = forward(x, size, **options)
        rest = {k: v for k, v in options.items() if k != "return_indices"}
        given = (size,) if takes_size else ()

        def pullback(dy: Any, dindices: Any = None) -> tuple[Any, ...]:
            if dindices is not None:
                raise TypeError("indices are not differentiated: their cotangent must be None")
            return (backward(dy, x, *given, **rest),)

        return result, pullback

    return rule


def _average_rule(forward: Any, backward: Any, takes_size: bool) -> Any:
    """Of an average: of x only the shape is kept."""

    def rule(x: Any, size: Any, **options: Any) -> tuple[Any, Pullback]:
        shape = tuple(x.shape)
        given = (size,) if takes_size else ()
        return forward(x, size, **options), lambda dy: (backward(dy, shape, *given, **options),)

    return rule


def _lp_rule(x: Any, kernel_size: Any, **options: Any) -> tuple[Any, Pullback]:
    y = pool.lp_pool(x, kernel_size, **options)
    return y, lambda dy: (pool.lp_pool_backward(dy, x, y, kernel_size, **options),)


def _unpool_rule(x: Any, indices: Any, output_shape: Any) -> tuple[Any, Pullback]:
    y = pool.max_unpool(x, indices, output_shape)
    return y, lambda dy: (pool.max_unpool_backward(dy, indices), None)


# ---- records ------------------------------------------------------------------------------------

_KERNEL, _SIZE = "kernel_size", "output_size"

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
    rule: Any,
    outputs: int = 1,
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
            gradient=rule(getattr(pool, name), getattr(pool, backward), option == _KERNEL),
            outputs=outputs,
        ),
        _op(
            backward,
            ("dy", *arrays),
            FLOATING,
            tuple(examples),
            tuple(places) or None,
            positive=("y",) if "y" in arrays else (),
        ),
    )


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
        outputs=2,
    ),
    *_pair(
        "avg_pool",
        FLOATING,
        (*_WINDOWED, *_with(_WINDOWED[1:2], count_include_pad=False)),
        _KERNEL,
        ("x_shape",),
        _average_rule,
    ),
    *_pair(
        "lp_pool",
        FLOATING,
        (*_WINDOWED[:2], *_with(_WINDOWED[2:], p=3.0)),
        _KERNEL,
        ("x", "y"),
        lambda forward, backward, takes_size: _lp_rule,
    ),
    *_pair(
        "adaptive_max_pool", (*FLOATING, *INTEGERS), _DIVIDED, _SIZE, ("x",), _max_rule, outputs=2
    ),
    *_pair("adaptive_avg_pool", FLOATING, _DIVIDED, _SIZE, ("x_shape",), _average_rule),
    _op(
        "max_unpool",
        ("x", "indices"),
        (*FLOATING, *INTEGERS),
        (
            Example(((2, 3, 3, 4), (2, 3, 3, 4)), {"output_shape": (2, 3, 7, 10)}),
            Example(((2, 3, 5), (2, 3, 5)), {"output_shape": (10,)}),
        ),
        ("output_shape", 2),
        gradient=_unpool_rule,
        special={"indices": _places},
    ),
    _op(
        "max_unpool_backward",
        ("dy", "indices"),
        FLOATING,
        (Example(((2, 3, 7, 10), (2, 3, 3, 4))), Example(((2, 3, 10), (2, 3, 5)))),
        None,
        special={"indices": _places},
    ),
)
