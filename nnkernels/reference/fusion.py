"""Fused functions: what is right.

A program is evaluated operation after operation in NumPy: floating numbers in float64, integers in
their dtype, and each result is rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nnkernels.dispatch.dtypes import ELEMENTS, numpy_dtype
from nnkernels.fusion.activations import ACTIVATIONS, GRADIENTS
from nnkernels.fusion.expression import BOOL, OPERATIONS, Argument, Node, Program, Source
from nnkernels.reference import elementwise

_erf = np.vectorize(math.erf, otypes=[np.float64])
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "erf": _erf,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "cube": lambda x: x * x * x,
    "fourth_power": lambda x: (x * x) * (x * x),
}


def values_of(sources: Sequence[Source], arguments: Sequence[Any]) -> list[Any]:
    """The run-time numbers of a call."""
    return [arguments[s.position] if isinstance(s, Argument) else s.value for s in sources]


def evaluate(
    program: Program, arrays: Sequence[np.ndarray], numbers: Sequence[Any], rounded: bool = True
) -> tuple[np.ndarray, ...]:
    """All results of a program, of the dtypes of the program and broadcast to one shape.

    Parameters
    ----------
    arrays : sequence of array
        The inputs.
    numbers : sequence of numbers
        The run-time numbers, in the order of ``program.scalars``.
    rounded : bool
        Whether results have their dtypes, or floating numbers stay in float64.
    """
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    values: list[Any] = []
    with np.errstate(all="ignore"):
        for node in program.nodes:
            operands = [values[k] for k in node.operands]
            values.append(_value(node, operands, arrays, numbers))
        results = []
        for position in program.outputs:
            dtype = numpy_dtype(program.nodes[position].dtype)
            result = np.broadcast_to(np.asarray(values[position]), shape)
            results.append(result.astype(dtype) if rounded else result)
    return tuple(results)


def inside(
    fused: Any, first: np.ndarray, dtype: Any, operands: Sequence[Any]
) -> tuple[tuple[np.ndarray, ...], tuple[Any, ...], bool]:
    """A function inside another op: its results, not rounded, their dtypes, and whether it returns
    a tuple.

    Parameters
    ----------
    fused : Fused
        The function.
    first : array
        What the op gives it, as exactly as it is known.
    dtype : dtype
        Of that value.
    operands : sequence
        Arrays and numbers.
    """
    kinds: list[Any] = [dtype]
    for operand in operands:
        number = type(operand) in (int, float)
        is_option = type(operand) in (bool, str) or operand is None
        kinds.append(type(operand) if number else (operand,) if is_option else operand.dtype)
    traced = fused._traced(kinds)
    arrays = [(first, *operands)[i] for i in traced.arrays]
    numbers = values_of(traced.sources, (first, *operands))
    found = evaluate(traced.program, arrays, numbers, rounded=False)
    return found, tuple(map(numpy_dtype, traced.program.results)), traced.several


def _wide(value: Any, dtype: str) -> Any:
    if dtype == BOOL:
        return np.asarray(value).astype(bool)
    kind = "float64" if ELEMENTS[dtype].kind == "f" else dtype
    return np.asarray(value).astype(kind)


def _value(
    node: Node, operands: list[Any], arrays: Sequence[np.ndarray], numbers: Sequence[Any]
) -> Any:
    if node.op == "input":
        return _wide(arrays[node.detail], node.dtype)
    if node.op == "scalar":
        # As the computing type holds it: 0.1 is another number in float32.
        if ELEMENTS[node.dtype].kind != "f":
            return _wide(numbers[node.detail], node.dtype)
        return _wide(
            np.asarray(numbers[node.detail], ELEMENTS[node.dtype].compute_name), node.dtype
        )
    if node.op == "truth":
        return np.asarray(node.detail)
    if node.op == "where":
        return np.where(*operands)
    if node.op == "cast":
        return _wide(operands[0], node.dtype)
    if node.op == "rounded":
        return _wide(operands[0].astype(numpy_dtype(node.dtype)), node.dtype)
    if node.op == "part":
        return operands[0][node.detail]
    if node.op == "activation":
        return _activation(node, operands)
    operation = OPERATIONS[node.op]
    function = _FUNCTIONS.get(operation.reference) or getattr(np, operation.reference)
    return _wide(function(*operands), node.dtype)


def _activation(node: Node, operands: list[Any]) -> Any:
    name, count = node.detail.name, node.detail.arrays
    arrays, numbers = operands[:count], [float(x) for x in operands[count:]]
    if name == "HardSigmoidBackward":  # of the kinks as values of x
        alpha, low, high = numbers
        return np.where((arrays[1] <= low) | (arrays[1] >= high), 0.0, alpha * arrays[0])
    if name.startswith("Prelu"):  # of a weight for each element
        *dy, x, weight = arrays
        if not dy:
            return np.where(x > 0, x, weight * x)
        return np.where(x > 0, dy[0], weight * dy[0]), np.where(x > 0, 0.0, dy[0] * x)
    found = ACTIVATIONS[GRADIENTS.get(name, name)]
    if name in ("SwigluBackward", "GegluBackward"):
        dy, x, gate = arrays
        gated = elementwise.silu if name == "SwigluBackward" else elementwise.gelu
        slope = elementwise.silu_backward if name == "SwigluBackward" else elementwise.gelu_backward
        return dy * gated(gate), slope(dy * x, gate)
    suffix = "_backward" if name in GRADIENTS else ""
    function = getattr(elementwise, found.reference + suffix)
    options = dict(zip(found.options, numbers, strict=True)) | dict(found.fixed)
    return function(*arrays, **options)
