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
)


@cache
def all_ops() -> dict[str, Op]:
    """The ops of nnkernels, and the fused functions of this file."""
    return registry.all_ops() | {op.name: op for op in OPS}


def functions(exp: Function) -> dict[str, Function]:
    """The same expressions, operation by operation, by the ``exp`` of a library."""
    return {"fused_chain": chain, "fused_gate": lambda x, y: logistic_gate(x, y, exp)}
