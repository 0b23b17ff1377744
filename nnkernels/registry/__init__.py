"""One frozen record for each op; tests, tables, ``selftest`` and the bench iterate over them."""

from __future__ import annotations

from functools import cache

from nnkernels.registry.record import COMPLEX, FLOATING, INTEGERS, Example, Op, flat

__all__ = [
    "COMPLEX",
    "FLOATING",
    "INTEGERS",
    "Example",
    "Op",
    "all_ops",
    "find",
    "flat",
    "of_function",
]


@cache
def all_ops() -> dict[str, Op]:
    """Every record by name, in the order of the families."""
    from nnkernels.registry import conv, elementwise, matmul, mlp, norm, pool, rows, windows

    tables = (
        elementwise.OPS,
        rows.OPS,
        matmul.OPS,
        norm.OPS,
        conv.OPS,
        pool.OPS,
        windows.OPS,
        mlp.OPS,
    )
    return {op.name: op for table in tables for op in table}


def find(name: str) -> Op:
    """The record of an op; KeyError with the known names if there is none."""
    ops = all_ops()
    if name not in ops:
        raise KeyError(f"no op is called {name!r}; there are {', '.join(ops)}")
    return ops[name]


@cache
def _by_function() -> dict[object, Op]:
    return {op.function: op for op in all_ops().values()}


def of_function(function: object) -> Op | None:
    """The record of a public function, or None."""
    try:
        return _by_function().get(function)
    except TypeError:  # not hashable, so none of ours
        return None
