"""Gradient rules of ops with fused functions inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def with_functions(rule: Callable[..., Any], *parts: Any, **options: Any) -> Callable[..., Any]:
    """The rule of :mod:`nnkernels.fusion.rows_gradient`, which is imported where it is needed."""

    def either(*arguments: Any, **named: Any) -> Any:
        if named.keys().isdisjoint(_OPTIONS):
            return rule(*arguments, **named)
        from nnkernels.fusion import rows_gradient

        return rows_gradient.with_functions(rule, *parts, **options)(*arguments, **named)

    return either


_OPTIONS = ("prologue", "prologue_operands", "epilogue", "operands")
