"""Records of the matrix products."""

from __future__ import annotations

from math import prod
from typing import Any

from nnkernels.ops import gemm, linear, matmul
from nnkernels.reference import matmul as reference
from nnkernels.registry.record import COMPLEX, FLOATING, INTEGERS, Example, Op, Shape
from nnkernels.registry.rules import of_product_gradient, selective

# ---- gradients ----------------------------------------------------------------------------------


def _no_terms(a: Any, b: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    """The factors of matmul or gemm without the axis that both have in common."""
    turned_a, turned_b = options.get("transpose_a", False), options.get("transpose_b", False)
    a = a[..., :0, :] if turned_a else a[..., :0]
    return a, b[..., :0, :] if len(b.shape) > 1 and not turned_b else b[..., :0]


def _no_terms_of_vector(a: Any, x: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    return a[..., :0, :] if options.get("transpose_a", False) else a[..., :0], x[..., :0]


def _no_terms_of_linear(x: Any, weight: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    return x[..., :0], weight[:, :0]


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
    flops: Any,
    own: tuple[str, ...],
    no_terms: Any,
    fused: str = "epilogue",
) -> tuple[Op, Op]:
    """Records of a product and of its gradient.

    Parameters
    ----------
    examples : tuple
        For each the shape of the result, and the call.
    own : tuple of str
        Options that the gradient has too.
    no_terms : callable
        See `of_product_gradient`.
    fused : str
        The option that names an activation.
    """
    function, backward = functions
    return (
        Op(
            name=name,
            family="matmul",
            function=function,
            reference=getattr(reference, name),
            arrays=arrays,
            dtypes=FLOATING + COMPLEX + INTEGERS,
            examples=tuple(example for _, example in examples),
            gradient=selective(f"{name}_backward", arrays, own),
            flops=flops,
            fused=fused,
            functions="sums",
        ),
        Op(
            name=f"{name}_backward",
            family="matmul",
            function=backward,
            reference=getattr(reference, f"{name}_backward"),
            arrays=(cotangent, *arrays),
            dtypes=FLOATING + COMPLEX,
            examples=tuple(
                Example((result, *example.shapes), example.options) for result, example in examples
            ),
            gradient=of_product_gradient(name, (cotangent, *arrays[:2]), own, no_terms),
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
        _flops,
        ("precision",),
        _no_terms,
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
        _gemm_flops,
        (*_SCALARS, "transpose_b", "precision"),
        _no_terms,
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
        _gemv_flops,
        _SCALARS,
        _no_terms_of_vector,
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
        _linear_flops,
        ("precision",),
        _no_terms_of_linear,
        fused="activation",
    ),
)
