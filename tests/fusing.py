"""Random fused functions, and how far a right result may lie from the reference."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from nnkernels.dispatch.dtypes import ELEMENTS, numpy_dtype
from nnkernels.errors import TraceError
from nnkernels.fusion.expression import BOOL, OPERATIONS, Program
from nnkernels.fusion.functions import FUNCTIONS
from nnkernels.reference import fusion as reference

# Roundings of an operation: functions of up to 4 units in the last place.
ROUNDINGS = 5.0
# Whose result jumps: if its operand may lie on either side, nothing can be said of the result.
JUMPS = ("floor", "ceil", "round", "sign", "floor_divide", "remainder")


class Recipe:
    """A function of values, from a list of steps that Hypothesis has drawn.

    Each step is the name of a function, where its operands are among the values so far, and a
    number that may stand for one of them. A step that the types do not allow is left out.
    """

    def __init__(self, steps: Sequence[tuple[Any, tuple[int, ...], float]], results: int) -> None:
        self.steps = steps
        self.results = results

    def __call__(self, *values: Any) -> Any:
        pool = list(values)
        for function, places, number in self.steps:
            # From the last value on: what no result needs is left out of a kernel.
            operands = [pool[-1 - place % len(pool)] for place in places]
            if number:
                operands[-1] = number
            try:
                pool.append(function(*operands))
            except (TraceError, ValueError):  # the latter of an option of an activation
                continue
        found = tuple(pool[-self.results :])
        return found if self.results > 1 else found[0]


def named_steps() -> list[tuple[Any, int]]:
    """Every function of values with the number of its operands."""
    found = [(FUNCTIONS[op.name], op.operands) for op in OPERATIONS.values()]
    return [*found, (FUNCTIONS["where"], 3), (FUNCTIONS["clip"], 3), *[(_larger_or, 3)] * 3]


def _larger_or(x: Any, y: Any, z: Any) -> Any:
    # Of values drawn at random, few are bools, which a condition must be.
    return FUNCTIONS["where"](FUNCTIONS["greater"](x, y), x, z)


def evaluate_with_errors(
    program: Program, arrays: Sequence[np.ndarray], numbers: Sequence[Any]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each result in float64 (or its integer type), and how far a kernel's may lie from it.

    Every value is a number and an error: a function of it is taken at both ends of the interval,
    and rounded in the computing type. Where the ends tell different things (another truth, NaN,
    another step of floor), the error is infinite.
    """
    values: list[Any] = []
    errors: list[Any] = []
    with np.errstate(all="ignore"):
        for node in program.nodes:
            ends = [_ends(values[k], errors[k]) for k in node.operands]
            middle = reference._value(node, [values[k] for k in node.operands], arrays, numbers)
            error = _spread(node, middle, ends, arrays, numbers)
            values.append(middle)
            errors.append(error)
    return [(values[k], errors[k]) for k in program.outputs]


def _ends(value: Any, error: Any) -> list[Any]:
    if value.dtype.kind != "f":
        return [value] if not np.any(error) else [value, _other(value, error)]
    return [value - error, value + error]


def _other(value: Any, error: Any) -> Any:
    uncertain = error > 0
    if value.dtype.kind == "b":
        return value ^ uncertain
    return np.where(uncertain, value + np.asarray(1, value.dtype), value)


def _spread(node: Any, middle: Any, ends: Any, arrays: Any, numbers: Any) -> Any:
    middle = np.asarray(middle)
    total = np.zeros(middle.shape)
    for corner in itertools.product(*ends):
        there = np.asarray(reference._value(node, list(corner), arrays, numbers))
        if middle.dtype.kind in "biu":
            total = np.where(there != middle, np.inf, total)
            continue
        same = (there == middle) | (np.isnan(there) & np.isnan(middle))
        distance = np.where(same, 0.0, np.abs(there - middle))
        total = np.fmax(total, np.where(np.isnan(distance), np.inf, distance))
    if middle.dtype.kind in "biu":
        return total
    if node.op in JUMPS and ends:
        total = np.where(total > 0, np.inf, total)
    info = np.finfo(ELEMENTS[node.dtype].compute_name)
    if node.op not in ("input", "scalar", "where", "cast", "negative", "abs"):
        size = np.abs(middle)
        if node.op == "logaddexp":  # a logarithm added to the larger operand, which may cancel
            size = size + np.fmax(*(np.abs(operand[0]) for operand in ends))
        if node.op == "activation":  # several operations, on numbers of the size of its operand
            size = 3 * size + np.fmin(np.abs(ends[0][0]), 1.0)
        rounding = ROUNDINGS * info.eps * size + 4 * info.tiny
        if node.op == "rounded":
            kind = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(node.dtype, 0.0)
            rounding = np.where(total > 0, 2 * kind * np.abs(middle) + 2.0**-24, 0.0)
        total = 2 * total + np.where(np.isfinite(middle), rounding, 0.0)
    # Near the largest number a result may be infinite, and infinite ones may be finite.
    edge = np.abs(middle) > float(info.max) / 4
    return np.where(edge, np.inf, total)


def assert_right(result: np.ndarray, value: Any, error: Any, dtype: str, what: str) -> float:
    """Raise unless a result lies within its error; gives the share that was checked."""
    shape = result.shape
    value, error = np.broadcast_to(value, shape), np.broadcast_to(error, shape)
    certain = np.isfinite(error)
    if dtype == BOOL or ELEMENTS[dtype].kind != "f":
        wrong = certain & (result != value)
    else:
        wide = result.astype(np.float64)
        eps = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(dtype, 0.0)
        with np.errstate(all="ignore"):
            wanted = value.astype(numpy_dtype(dtype)).astype(np.float64)
            limit = error + eps * np.abs(wanted) + (2.0**-24 if dtype == "float16" else 0.0)
            far = ~(np.abs(wide - wanted) <= limit)
        far &= ~((wide == wanted) | (np.isnan(wide) & np.isnan(wanted)))
        if dtype == "float16":
            far &= ~(np.abs(value) > 32768)
        wrong = certain & far
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(
            f"{what}: element {at} is {result[at]!r}, expected {value[at]!r} +- {error[at]:.3g}; "
            f"{int(wrong.sum())} of {wrong.size} are wrong"
        )
    return float(certain.mean()) if certain.size else 1.0
