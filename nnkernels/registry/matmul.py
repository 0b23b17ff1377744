"""Records of the matrix products."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from nnkernels.ops import matmul
from nnkernels.reference import matmul as reference
from nnkernels.registry.record import COMPLEX, FLOATING, INTEGERS, Example, Op, Shape


def _gradient(x1: Any, x2: Any, **options: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    return matmul.matmul(x1, x2, **options), lambda dy: matmul.matmul_backward(dy, x1, x2)


def _flops(shapes: tuple[Shape, ...], options: dict[str, Any]) -> float:
    columns = shapes[1][-1] if len(shapes[1]) > 1 else 1
    return 2.0 * prod(shapes[0]) * columns


_EXAMPLES = (
    Example(((64, 50), (50, 70))),
    Example(((3, 1, 5, 8), (2, 8, 4))),
    Example(((9,), (9,))),
)
_BACKWARD_EXAMPLES = (
    Example(((64, 70), (64, 50), (50, 70))),
    Example(((3, 2, 5, 4), (3, 1, 5, 8), (2, 8, 4))),
    Example(((), (9,), (9,))),
)

OPS: tuple[Op, ...] = (
    Op(
        name="matmul",
        family="matmul",
        function=matmul.matmul,
        reference=reference.matmul,
        arrays=("x1", "x2"),
        dtypes=FLOATING + COMPLEX + INTEGERS,
        examples=_EXAMPLES,
        gradient=_gradient,
        flops=_flops,
    ),
    Op(
        name="matmul_backward",
        family="matmul",
        function=matmul.matmul_backward,
        reference=reference.matmul_backward,
        arrays=("dy", "x1", "x2"),
        dtypes=FLOATING + COMPLEX,
        examples=_BACKWARD_EXAMPLES,
        flops=lambda shapes, options: 2 * _flops(shapes[1:], options),
        outputs=2,
    ),
)
