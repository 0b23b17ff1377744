"""Results against references: how large an error may be, and what else must hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nnkernels.reference.matmul import matmul
from nnkernels.reference.tolerance import assert_close

__all__ = [
    "assert_close",
    "assert_product",
    "assert_same_bits",
    "assert_same_numbers",
    "condition",
    "wide",
]


def wide(x: np.ndarray) -> np.ndarray:
    """An array in float64 or complex128."""
    return x.astype(np.complex128 if x.dtype.kind == "c" else np.float64)


def assert_product(result: np.ndarray, x1: np.ndarray, x2: np.ndarray, **options: Any) -> None:
    """Raise unless a result is the product of two arrays: within K roundings of its terms."""
    with np.errstate(all="ignore"):
        expected = np.asarray(matmul(x1, x2, **options))
        scale = np.abs(np.matmul(np.abs(wide(x1)), np.abs(wide(x2))))
    what = f"product of {x1.shape} {x1.dtype} and {x2.shape} {x2.dtype}"
    assert_close(result, expected, max(x1.shape[-1], 1), scale, what)


def condition(
    function: Callable[..., Any],
    operands: Sequence[np.ndarray],
    options: dict[str, Any],
    result: int = 0,
) -> np.ndarray:
    """How much an elementwise function changes for a relative change of its operands.

    ``sum_i |x_i df/dx_i|``, from difference quotients in float64. A kernel that works with
    rounded numbers cannot be more accurate than some roundings of its operands.
    """
    step = 1e-6
    operands = [wide(x) for x in operands]
    total: Any = 0.0
    with np.errstate(all="ignore"):
        for i in range(len(operands)):
            sides = []
            for factor in (1 + step, 1 - step):
                moved = [*operands[:i], operands[i] * factor, *operands[i + 1 :]]
                value = function(*moved, **options)
                sides.append(value[result] if isinstance(value, tuple) else value)
            slope = np.abs(sides[0] - sides[1]) / (2 * step)
            total = total + np.where(np.isfinite(slope), slope, 0.0)
    return total


def assert_same_bits(a: np.ndarray, b: np.ndarray, what: str) -> None:
    """Raise unless two arrays hold the same bytes (as two runs of one call must)."""
    assert a.shape == b.shape, what
    assert a.dtype == b.dtype, what
    assert a.tobytes() == b.tobytes(), f"{what}: {np.sum(_bits(a) != _bits(b))} elements differ"


def assert_same_numbers(a: np.ndarray, b: np.ndarray, what: str) -> None:
    """Raise unless two arrays hold the same numbers exactly; NaN equals NaN."""
    assert a.shape == b.shape, what
    assert a.dtype == b.dtype, what
    differ = ~((a == b) | ((a != a) & (b != b)))
    assert not differ.any(), f"{what}: {np.sum(differ)} of {a.size} elements differ"


def _bits(x: np.ndarray) -> np.ndarray:
    return np.frombuffer(x.tobytes(), f"V{x.dtype.itemsize}").reshape(x.shape)
