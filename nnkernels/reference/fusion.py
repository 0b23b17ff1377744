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
from nnkernels.fusion.activations import ACTIVATIONS
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
    program: Program, arrays: Sequence[np.ndarray], numbers: Sequence[Any]
) -> tuple[np.ndarray, ...]:
    """All results of a program, of the dtypes of the program and broadcast to one shape.

    Parameters
    ----------
    arrays : sequence of array
        The inputs.
    numbers : sequence of numbers
        The run-time numbers, in the order of ``program.scalars``.
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
            results.append(result.astype(dtype))
    return tuple(results)


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
        return _wide(np.asarray(numbers[node.detail], ELEMENTS[node.dtype].compute_name), node.dtype)
    if node.op == "truth":
        return np.asarray(node.detail)
    if node.op == "where":
        return np.where(*operands)
    if node.op == "cast":
        return _wide(operands[0], node.dtype)
    if node.op == "rounded":
        return _wide(operands[0].astype(numpy_dtype(node.dtype)), node.dtype)
    if node.op == "activation":
        return _activation(node, operands)
    operation = OPERATIONS[node.op]
    function = _FUNCTIONS.get(operation.reference) or getattr(np, operation.reference)
    return _wide(function(*operands), node.dtype)


def _activation(node: Node, operands: list[Any]) -> Any:
    functor = node.detail
    found = ACTIVATIONS[functor.name]
    function = getattr(elementwise, found.reference)
    numbers = [float(x) for x in operands[functor.arrays :]]
    options = dict(zip(found.options, numbers, strict=True)) | dict(found.fixed)
    if functor.name == "Prelu":  # of a weight for each element
        x, weight = operands[:2]
        return np.where(x > 0, x, weight * x)
    return function(*operands[: functor.arrays], **options)
