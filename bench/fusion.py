"""What is timed of fused functions: chains of operations, which libraries run one by one.

The records here stand beside those of the ops: `all_ops` has both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any

import numpy as np

import nnkernels as nnk
from nnkernels import registry
from nnkernels.registry import Example, Op

Function = Callable[..., Any]


def chain(x: Any, y: Any) -> Any:
    """Five operations of arithmetic: all that they cost is memory."""
    return ((x * 2.0 + y) * x - y) * 0.5


def logistic_gate(x: Any, y: Any, exp: Function) -> Any:
    """Seven operations with an exponential."""
    return (x + y) / (1.0 + exp(-1.5 * (x + y))) * y


_fused_chain = nnk.fuse(chain)
_fused_gate = nnk.fuse(lambda x, y: logistic_gate(x, y, np.exp))


def fused_chain(x: Any, y: Any, /, *, out: Any = None) -> Any:
    """`chain` as one kernel."""
    return _fused_chain(x, y, out=out)


def fused_gate(x: Any, y: Any, /, *, out: Any = None) -> Any:
    """`logistic_gate` as one kernel."""
    return _fused_gate(x, y, out=out)


def linear_silu(x: Any, weight: Any, bias: Any, residual: Any, exp: Function) -> Any:
    """A linear layer with an activation and a residual, operation by operation."""
    z = x @ weight.T + bias
    return z / (1.0 + exp(-z)) + residual


_silu_and_residual = nnk.fuse(lambda acc, b, r: nnk.silu(acc + b) + r)


def fused_linear(x: Any, weight: Any, bias: Any, residual: Any, /, *, out: Any = None) -> Any:
    """`linear_silu` as one kernel."""
    return nnk.linear(x, weight, epilogue=_silu_and_residual, operands=(bias, residual), out=out)


def _linear_reference(x: Any, weight: Any, bias: Any, residual: Any) -> Any:
    wide = [a.astype(np.float64) for a in (x, weight, bias, residual)]
    exact = linear_silu(wide[0], wide[1], wide[2], wide[3], np.exp)
    return exact.astype(x.dtype)


def operand_shapes(op: Op, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The shape of each array argument."""
    if op.name != "fused_linear":
        return (shape,) * len(op.arrays)
    m, k, n = shape
    return (m, k), (n, k), (n,), (m, n)


def _wide(function: Function) -> Function:
    def reference(x: Any, y: Any) -> Any:
        wide = function(x.astype(np.float64), y.astype(np.float64))
        return wide.astype(np.result_type(x, y))

    return reference


def _record(function: Function, reference: Function, operations: int) -> Op:
    return Op(
        name=function.__name__,
        family="fusion",
        function=function,
        reference=_wide(reference),
        arrays=("x", "y"),
        dtypes=registry.FLOATING,
        examples=(Example(((64, 250), (64, 250))),),
        flops=lambda shapes, options: operations * prod(shapes[0]),
    )


OPS = (
    _record(fused_chain, chain, 5),
    _record(fused_gate, lambda x, y: logistic_gate(x, y, np.exp), 17),
    Op(
        name="fused_linear",
        family="fusion",
        function=fused_linear,
        reference=_linear_reference,
        arrays=("x", "weight", "bias", "residual"),
        dtypes=registry.FLOATING,
        examples=(Example(((64, 50), (70, 50), (70,), (64, 70))),),
        flops=lambda shapes, options: 2.0 * prod(shapes[0]) * shapes[1][0],
    ),
)


@cache
def all_ops() -> dict[str, Op]:
    """The ops of nnkernels, and the fused functions of this file."""
    return registry.all_ops() | {op.name: op for op in OPS}


def functions(exp: Function) -> dict[str, Function]:
    """The same expressions, operation by operation, by the ``exp`` of a library."""
    return {
        "fused_chain": chain,
        "fused_gate": lambda x, y: logistic_gate(x, y, exp),
        "fused_linear": lambda x, w, b, r: linear_silu(x, w, b, r, exp),
    }
