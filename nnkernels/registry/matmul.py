"""Records of the matrix products."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from nnkernels.fusion.applied_pullback import differentiate
from nnkernels.fusion.inside import fused_of
from nnkernels.ops import gemm, linear, matmul
from nnkernels.ops._activation import differentiable, is_function, resolve
from nnkernels.reference import matmul as reference
from nnkernels.registry.record import COMPLEX, FLOATING, INTEGERS, Example, Op, Shape

Pullback = Callable[..., tuple[Any, ...]]


# ---- gradients ----------------------------------------------------------------------------------


def _through(function: Any, backward: Any, option: str, own: tuple[str, ...] = ()) -> Any:
    """Gradient rule of a product whose option may name an activation.

    Parameters
    ----------
    function, backward : callable
        The backward function takes the cotangent before the activation.
    option : str
        The name of that option.
    own : tuple of str
        Options of the backward function.
    """

    def rule(*arrays: Any, **options: Any) -> tuple[Any, Pullback]:
        operands = tuple(options.pop("operands", ()))
        if is_function(options.get("epilogue"), operands):
            return _through_function(function, backward, arrays, operands, options, own)
        activation = resolve(options.pop(option, None), option)
        y, before_activation = differentiable(
            lambda inside: function(*arrays, **{option: inside}, **options), activation
        )
        kept = {name: value for name, value in options.items() if name in own}
        # Where there are fewer gradients than array arguments, the last one was not given.
        return y, lambda dy: backward(before_activation(dy), *arrays, **kept)[: len(arrays)]

    return rule


def _through_function(
    function: Any,
    backward: Any,
    arrays: tuple[Any, ...],
    operands: tuple[Any, ...],
    options: dict[str, Any],
    own: tuple[str, ...],
) -> tuple[Any, Pullback]:
    """The same for a fused function; gradients of its operands follow those of the arrays."""
    fused = fused_of(options.pop("epilogue"))
    y, before = differentiate(
        lambda other: function(*arrays, epilogue=other, operands=operands, **options),
        arrays,
        ("the first operand", "the second operand", "what is added"),
        fused,
        operands,
        options.get("out_dtype"),
    )
    kept = {name: value for name, value in options.items() if name in own}

    def pullback(*cotangents: Any) -> tuple[Any, ...]:
        dz, gradients = before(*cotangents)
        return (*backward(dz, *arrays, **kept)[: len(arrays)], *gradients)

    return y, pullback


_SCALARS = ("alpha", "beta", "transpose_a")


# ---- work ---------------------------------------------------------------------------------------


def _flops(shapes: tuple[Shape, ...], options: dict[str, Any]) -> float:
    columns = shapes[1][-1] if len(shapes[1]) > 1 else 1
    return 2.0 * prod(shapes[0]) * columns


def _gemm_flops(shapes: tuple[Shape, ...], options: dict[str, Any]) -> float:
    return 2.0 * prod(shapes[0]) * shapes[1][-2 if options.get("transpose_b") else -1]


def _gemv_flops(shapes: tuple[Shape, ...], options: dict[str, Any]) -> float:
    return 2.0 * prod(shapes[0])


def _linear_flops(shapes: tuple[Shape, ...], options: dict[str, Any]) -> float:
    return 2.0 * prod(shapes[0]) * shapes[1][0]


def _twice(flops: Any) -> Any:
    """Of the gradient, whose first array is the cotangent: two products."""
    return lambda shapes, options: 2 * flops(shapes[1:], options)


# ---- records ------------------------------------------------------------------------------------


def _pair(
    name: str,
    functions: tuple[Any, Any],
    arrays: tuple[str, ...],
    cotangent: str,
    examples: tuple[tuple[Shape, Example], ...],
    rule: Any,
    flops: Any,
    without: tuple[str, ...] = (),
) -> tuple[Op, Op]:
    """Records of a product and of its gradient.

    Parameters
    ----------
    examples : tuple
        For each the shape of the result, and the call.
    without : tuple of str
        Options that the gradient does not have.
    """
    function, backward = functions

    def kept(options: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in options.items() if key not in without}

    return (
        Op(
            name=name,
            family="matmul",
            function=function,
            reference=getattr(reference, name),
            arrays=arrays,
            dtypes=FLOATING + COMPLEX + INTEGERS,
            examples=tuple(example for _, example in examples),
            gradient=rule,
            flops=flops,
        ),
        Op(
            name=f"{name}_backward",
            family="matmul",
            function=backward,
            reference=getattr(reference, f"{name}_backward"),
            arrays=(cotangent, *arrays),
            dtypes=FLOATING + COMPLEX,
            examples=tuple(
                Example((result, *example.shapes), kept(example.options))
                for result, example in examples
            ),
            flops=_twice(flops),
            outputs=len(arrays),
        ),
    )


OPS: tuple[Op, ...] = (
    *_pair(
        "matmul",
        (matmul.matmul, matmul.matmul_backward),
        ("x1", "x2"),
        "dy",
        (
            ((64, 70), Example(((64, 50), (50, 70)))),
            ((3, 2, 5, 4), Example(((3, 1, 5, 8), (2, 8, 4)))),
            ((), Example(((9,), (9,)))),
        ),
        _through(matmul.matmul, matmul.matmul_backward, "epilogue", ("precision",)),
        _flops,
    ),
    *_pair(
        "gemm",
        (gemm.gemm, gemm.gemm_backward),
        ("a", "b", "c"),
        "dy",
        (
            ((64, 70), Example(((64, 50), (50, 70), (70,)))),
            (
                (2, 5, 4),
                Example(
                    ((2, 8, 5), (4, 8), (5, 1)),
                    {"alpha": 2, "beta": -3, "transpose_a": True, "transpose_b": True},
                ),
            ),
        ),
        _through(
            gemm.gemm, gemm.gemm_backward, "epilogue", (*_SCALARS, "transpose_b", "precision")
        ),
        _gemm_flops,
    ),
    *_pair(
        "gemv",
        (gemm.gemv, gemm.gemv_backward),
        ("a", "x", "y"),
        "dz",
        (
            ((64,), Example(((64, 50), (50,), (64,)))),
            ((2, 5), Example(((8, 5), (2, 8), ()), {"alpha": 3, "transpose_a": True})),
        ),
        _through(gemm.gemv, gemm.gemv_backward, "epilogue", _SCALARS),
        _gemv_flops,
    ),
    *_pair(
        "linear",
        (linear.linear, linear.linear_backward),
        ("x", "weight", "bias"),
        "dy",
        (
            ((64, 70), Example(((64, 50), (70, 50), (70,)))),
            ((3, 2, 4), Example(((3, 2, 8), (4, 8), (4,)))),
        ),
        _through(linear.linear, linear.linear_backward, "activation", ("precision",)),
        _linear_flops,
    ),
)
