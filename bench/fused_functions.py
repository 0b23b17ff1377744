"""What is timed of fused functions: chains of operations, which libraries run one by one, and
functions inside row kernels, beside the same in steps of nnkernels (``..._steps``).

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


# ---- inside products ----------------------------------------------------------------------------


def linear_silu(x: Any, weight: Any, bias: Any, residual: Any, exp: Function) -> Any:
    """A linear layer with an activation and a residual, operation by operation."""
    z = x @ weight.T + bias
    return z / (1.0 + exp(-z)) + residual


_silu_and_residual = nnk.fuse(lambda acc, b, r: nnk.silu(acc + b) + r)


def fused_linear(x: Any, weight: Any, bias: Any, residual: Any, /, *, out: Any = None) -> Any:
    """`linear_silu` as one kernel."""
    return nnk.linear(x, weight, epilogue=_silu_and_residual, operands=(bias, residual), out=out)


def with_usual_sums(arrays: dict[str, Any]) -> None:
    """Make the weight of a layer so small that its sums do not overflow in exp."""
    weight = arrays.get("weight")
    if weight is not None and weight.ndim == 2:
        arrays["weight"] = (weight / np.sqrt(weight.shape[1])).astype(weight.dtype)


def _linear_reference(x: Any, weight: Any, bias: Any, residual: Any) -> Any:
    wide = [a.astype(np.float64) for a in (x, weight, bias, residual)]
    exact = linear_silu(wide[0], wide[1], wide[2], wide[3], np.exp)
    return exact.astype(x.dtype)


def operand_shapes(op: Op, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The shape of each array argument."""
    if op.name != "fused_linear":
        last = shape[-1:]
        found = {"weight": last, "bias": last, "mask": shape[-2:]}
        return tuple(found.get(name, shape) for name in op.arrays)
    m, k, n = shape
    return (m, k), (n, k), (n,), (m, n)


# ---- inside row kernels -------------------------------------------------------------------------

SCALE = 0.125


def masked(scores: Any, mask: Any, scale: Any) -> Any:
    """What attention takes the softmax of."""
    return np.where(mask, scores * scale, -np.inf)


def added(x: Any, residual: Any) -> tuple[Any, Any]:
    """What is normalised, and what is added to later."""
    total = x + residual
    return total, total


_fused_masked = nnk.fuse(masked)
_fused_sum = nnk.fuse(lambda x, residual: x + residual)


def attention_scores(scores: Any, mask: Any, /) -> Any:
    """Softmax of scores that are scaled and masked, in one kernel."""
    return nnk.softmax(scores, prologue=_fused_masked, prologue_operands=(mask, SCALE))


def attention_scores_steps(scores: Any, mask: Any, /) -> Any:
    """The same in two kernels."""
    return nnk.softmax(_fused_masked(scores, mask, SCALE))


def residual_norm(x: Any, residual: Any, weight: Any, bias: Any, /) -> Any:
    """Layer norm of a sum, and the sum, in one kernel."""
    return nnk.layer_norm(x, weight, bias, prologue=added, prologue_operands=(residual,))


def residual_norm_steps(x: Any, residual: Any, weight: Any, bias: Any, /) -> Any:
    """The same in two kernels."""
    total = _fused_sum(x, residual)
    return nnk.layer_norm(total, weight, bias), total


def _scores_by(xp: Any) -> Function:
    def scores_of(scores: Any, mask: Any) -> Any:
        z = xp.where(mask, scores * SCALE, -xp.inf)
        if hasattr(xp, "softmax"):
            return xp.softmax(z, -1)
        e = xp.exp(z - z.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)

    return scores_of


def _norm_by(xp: Any) -> Function:
    def norm_of(x: Any, residual: Any, weight: Any, bias: Any) -> Any:
        total = x + residual
        if hasattr(xp, "nn"):
            return xp.nn.functional.layer_norm(total, weight.shape, weight, bias), total
        deviation = total - total.mean(axis=-1, keepdims=True)
        variance = (deviation * deviation).mean(axis=-1, keepdims=True)
        return deviation / xp.sqrt(variance + 1e-5) * weight + bias, total

    return norm_of


def _exact(function: Function) -> Function:
    def reference(x: Any, *others: Any) -> Any:
        found = function(x.astype(np.float64), *(_wider(other) for other in others))
        if isinstance(found, tuple):
            return tuple(part.astype(x.dtype) for part in found)
        return found.astype(x.dtype)

    return reference


def _wider(x: Any) -> Any:
    return x if x.dtype == bool else x.astype(np.float64)


def _mask(random: Any, shapes: Any, options: Any) -> Any:
    return random.random(shapes[0][-2:]) < 0.5


# Operations of an element of each: those of the op, and of the function.
_INSIDE: tuple[tuple[str, tuple[str, ...], Function, int, int], ...] = (
    ("attention_scores", ("scores", "mask"), _scores_by(np), 16, 1),
    ("residual_norm", ("x", "residual", "weight", "bias"), _norm_by(np), 10, 2),
)


def _inside(name: str) -> list[Op]:
    arrays, reference, operations, outputs = next(row[1:] for row in _INSIDE if row[0] == name)
    shapes = tuple((250,) if a in ("weight", "bias") else (64, 250) for a in arrays)
    return [
        Op(
            name=function.__name__,
            family="fusion",
            function=function,
            reference=_exact(reference),
            arrays=arrays,
            dtypes=registry.FLOATING,
            examples=(Example(shapes),),
            flops=lambda shapes, options: operations * prod(shapes[0]),
            outputs=outputs,
            special={"mask": _mask} if "mask" in arrays else {},
        )
        for function in (globals()[name], globals()[f"{name}_steps"])
    ]


# ---- records ------------------------------------------------------------------------------------


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
    *_inside("attention_scores"),
    *_inside("residual_norm"),
)


@cache
def all_ops() -> dict[str, Op]:
    """The ops of nnkernels, and the fused functions of this file."""
    return registry.all_ops() | {op.name: op for op in OPS}


def functions(xp: Any) -> dict[str, Function]:
    """The same expressions, operation by operation, by the functions of a library."""
    found: dict[str, Function] = {
        "fused_chain": chain,
        "fused_gate": lambda x, y: logistic_gate(x, y, xp.exp),
        "fused_linear": lambda x, w, b, r: linear_silu(x, w, b, r, xp.exp),
    }
    for name, by in (("attention_scores", _scores_by), ("residual_norm", _norm_by)):
        found[name] = found[f"{name}_steps"] = by(xp)
    return found
