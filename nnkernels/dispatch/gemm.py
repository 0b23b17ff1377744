"""Products of matrices with a third array added: from arrays to a launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnkernels.dispatch import matmul
from nnkernels.dispatch.applied import Application
from nnkernels.dispatch.matmul_call import Epilogue
from nnkernels.errors import ShapeError
from nnkernels.interop.libraries import Library

GEMM = ("a", "b", "c")
GEMV = ("a", "x", "y")
LINEAR = ("x", "weight", "bias")


def gemm(
    a: Any,
    b: Any,
    c: Any,
    epilogue: Epilogue | Application,
    transpose: tuple[bool, bool],
    out_dtype: Any,
    out: Any,
    precision: str | None = None,
) -> Any:
    """``epilogue(op(a) op(b), c)``; c may be None."""
    (x, y, d), library, like = _adopted((a, b, c), GEMM)
    require_matrices(x, y, GEMM, "gemm multiplies matrices; gemv takes a vector")
    x, name_a = turned(x, "a") if transpose[0] else (x, "a")
    y, name_b = turned(y, "b") if transpose[1] else (y, "b")
    return matmul.multiply(
        (x, y, d),
        (name_a, name_b, "c"),
        library,
        like,
        out_dtype=out_dtype,
        epilogue=epilogue,
        precision=precision,
        out=out,
    )


def gemv(
    a: Any,
    x: Any,
    y: Any,
    epilogue: Epilogue | Application,
    transpose: bool,
    out_dtype: Any,
    out: Any,
) -> Any:
    """``epilogue(op(a) x, y)`` for stacks of matrices and vectors; y may be None."""
    (matrix, vector, d), library, like = _adopted((a, x, y), GEMV)
    require_matrices(matrix, vector, GEMV, "gemv multiplies a matrix by a vector", vectors=True)
    matrix, name = turned(matrix, "a") if transpose else (matrix, "a")
    return matmul.multiply(
        (matrix, vector, d),
        (name, "x", "y"),
        library,
        like,
        out_dtype=out_dtype,
        epilogue=epilogue,
        vectors=True,
        out=out,
    )


def linear(
    x: Any,
    weight: Any,
    bias: Any,
    epilogue: Epilogue | Application,
    out_dtype: Any,
    out: Any,
    precision: str | None = None,
) -> Any:
    """``epilogue(x weight^T, bias)``; bias may be None."""
    (operand, matrix, d), library, like = _adopted((x, weight, bias), LINEAR)
    check_linear(operand, matrix, d)
    return matmul.multiply(
        (operand, matrix.swapaxes(0, 1), d),
        LINEAR,
        library,
        like,
        out_dtype=out_dtype,
        epilogue=epilogue,
        precision=precision,
        out=out,
    )


def check_linear(x: Any, weight: Any, bias: Any) -> None:
    """Check the shapes of a linear layer.

    Raises
    ------
    ShapeError
        Naming the shapes that do not fit.
    """
    if weight.ndim != 2:
        raise ShapeError(
            f"x has shape {x.shape} and weight {weight.shape}: weight must be (outputs, inputs)"
        )
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ShapeError(
            f"x has shape {x.shape} and weight {weight.shape}: the last axis of x must have the "
            f"length {weight.shape[1]} of the last axis of weight"
        )
    if bias is not None and bias.shape not in ((), (1,), (weight.shape[0],)):
        raise ShapeError(
            f"bias has shape {bias.shape} and weight {weight.shape}; bias must have the shape "
            f"({weight.shape[0]},)"
        )


def _adopted(arrays: Sequence[Any], names: Sequence[str]) -> tuple[Sequence[Any], Library, Any]:
    """Two operands and what is added, which may be None."""
    if arrays[2] is not None:
        return matmul.adopted(arrays, names)
    (first, second), library, like = matmul.adopted(arrays[:2], names[:2])
    return (first, second, None), library, like


def require_matrices(
    first: Any, second: Any, names: Sequence[str], reason: str, vectors: bool = False
) -> None:
    """Check that two operands, or only the first one, have the axes of matrices.

    Parameters
    ----------
    vectors : bool
        Whether the second operand is a stack of vectors.

    Raises
    ------
    ShapeError
        Naming both shapes, with the reason.
    """
    for operand, name in ((first, names[0]), (second, names[1]))[: 1 if vectors else 2]:
        if operand.ndim < 2:
            raise ShapeError(
                f"{names[0]} has shape {first.shape} and {names[1]} {second.shape}: {name} needs "
                f"at least two axes; {reason}"
            )


def turned(x: Any, name: str) -> tuple[Any, str]:
    """A stack of matrices transposed, and its name in messages."""
    return x.swapaxes(-1, -2), f"{name} transposed"
