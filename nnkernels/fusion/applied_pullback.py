"""Gradients through a fused function that an op applied to its sums.

Backward is one kernel, of the derivative of the function, and then the gradients of the op without
it. What that kernel needs of the sums the forward kernel writes as one more result, in the dtype of
the sums; nothing if the derivative does not depend on them, or if they are a result anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from nnkernels.dispatch import rows
from nnkernels.dispatch.applied import dtype_of_arrays
from nnkernels.dispatch.dtypes import name_of
from nnkernels.errors import DTypeError
from nnkernels.fusion.derivative import gradient, is_differentiable
from nnkernels.fusion.expression import Program
from nnkernels.fusion.fuse import Fused
from nnkernels.fusion.inside import adopt_operands, trace_inside
from nnkernels.fusion.pullback import launch
from nnkernels.interop.libraries import adopt_all
from nnkernels.reference import fusion as reference

# Takes cotangents; gives that of the sums, and the gradient of each operand or None.
Before = Callable[..., tuple[Any, tuple[Any, ...]]]


@lru_cache(maxsize=256)
def _with_sums(fused: Fused) -> Fused:
    """The function with its first value as one more result."""

    def function(sums: Any, *operands: Any) -> Any:
        results = fused(sums, *operands)
        return (*results, sums) if isinstance(results, tuple) else (results, sums)

    return Fused(function)


def differentiate(
    call: Callable[[Fused], Any],
    arrays: Sequence[Any],
    names: Sequence[str],
    fused: Fused,
    operands: tuple[Any, ...],
    out_dtype: Any = None,
) -> tuple[Any, Before]:
    """The results of an op with a fused function, and what pulls cotangents back to before it.

    Parameters
    ----------
    call : callable
        The op with a function of the same operands in place of this one.
    arrays, names
        The arrays of the op, of which some may be None, and what they are called.

    Raises
    ------
    DTypeError
        If the sums have no gradient.
    """
    given = [(a, n) for a, n in zip(arrays, names, strict=False) if a is not None]
    views, library, like = adopt_all([a for a, _ in given], [n for _, n in given])
    dtype = dtype_of_arrays(views, [n for _, n in given], out_dtype)
    adopted = adopt_operands(fused, 1, operands, library, like)
    traced = trace_inside(fused, (dtype,), adopted)
    program, positions = traced.program, traced.arrays[1:]
    if not is_differentiable(name_of(dtype)) or not any(map(is_differentiable, program.results)):
        raise DTypeError(
            f"{fused!r} of sums of {dtype} has no gradient: it is for floating numbers"
        )
    own = [adopted[i - 1] for i in positions]
    shapes = [tuple(a.shape) for a in own]
    numbers = reference.values_of(traced.sources, (None, *adopted))
    kept = _place_of_sums(program)
    if kept == len(program.outputs):
        *found, sums = call(_with_sums(fused))
        y = tuple(found) if traced.several else found[0]
    else:
        y = call(fused)
        results = y if traced.several else (y,)
        sums = None if kept is None else results[kept]
    first: Any = y[0] if traced.several else y
    shape = tuple(first.shape)

    def before(*cotangents: Any) -> tuple[Any, tuple[Any, ...]]:
        taken = tuple(d is not None for d in cotangents)
        wide = [
            s != shape if is_differentiable(d) else None
            for s, d in zip(shapes, program.inputs[1:], strict=True)
        ]
        derivative = gradient(program, taken, (False, *wide))
        present = [d for d in cotangents if d is not None]
        held = [] if sums is None else [sums]
        adopted, library, like = adopt_all(
            [*present, *held], [f"cotangent {i}" for i in range(len(present) + len(held))]
        )
        known = adopted if held else [*adopted, adopted[0]]  # a stand-in, which is not read
        parts = launch(derivative, [*known, *own], derivative.values(numbers))
        gradients: dict[int, Any] = {}
        floating = [k for k, is_wide in enumerate(wide) if is_wide is not None]
        for k, part in zip(floating, parts[1:], strict=True):
            total = rows.sum_to_shape(part, shapes[k], program.inputs[1 + k])
            gradients[positions[k] - 1] = library.restore(total, like)
        return (
            library.restore(parts[0], like),
            tuple(gradients.get(i) for i in range(len(operands))),
        )

    return y, before


def _place_of_sums(program: Program) -> int | None:
    """Which result holds the sums for the gradient: one more than there are, or None for none."""
    results = len(program.outputs)
    everything = gradient(
        program,
        (True,) * results,
        (False, *(False if is_differentiable(d) else None for d in program.inputs[1:])),
    )
    if results not in everything.used:
        return None
    nodes = program.nodes
    for place, position in enumerate(program.outputs):
        if nodes[position].op == "input" and nodes[position].detail == 0:
            return place
    return results
