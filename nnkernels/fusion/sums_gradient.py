"""Gradients of products with a fused function of their sums, by the op's own rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnkernels.fusion.applied_pullback import differentiate
from nnkernels.fusion.inside import fused_of
from nnkernels.registry.record import Op
from nnkernels.registry.rule import Given, Rule

Pullback = Callable[..., tuple[Any, ...]]


def through_epilogue(
    op: Op, rule: Rule, given: Given, wanted: tuple[bool, ...]
) -> tuple[Any, Pullback]:
    """Results and pullback of a product with a function of its sums.

    The gradients of the function's operands follow those of the array arguments.
    """
    import nnkernels
    from nnkernels.differentiation import call_of

    options = dict(given.options)
    operands = tuple(options.pop("operands", ()))
    fused = fused_of(options.pop("epilogue"))

    def run(other: Any) -> Any:
        inside = {**options, "epilogue": other, "operands": operands}
        return op.call(op.function, Given(given.arrays, given.names, inside))

    y, before = differentiate(
        run, given.arrays, given.names, fused, operands, options.get("out_dtype")
    )
    plain = Given(given.arrays, given.names, options)
    call = call_of(rule, plain, None, wanted[: len(given.names)])

    def pullback(*cotangents: Any) -> tuple[Any, ...]:
        dz, gradients = before(*cotangents)
        return (*rule.pull(nnkernels, call, dz), *gradients)

    return y, pullback
