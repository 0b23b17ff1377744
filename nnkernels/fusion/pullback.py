"""The pullback of a fused function: one kernel, and sums over broadcast axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkernels.dispatch import elementwise, machines, rows
from nnkernels.errors import DTypeError
from nnkernels.fusion.derivative import Gradient, gradient, is_differentiable
from nnkernels.fusion.expression import Argument
from nnkernels.fusion.functor import number_packer
from nnkernels.interop.libraries import adopt_all
from nnkernels.reference import fusion as reference

if TYPE_CHECKING:
    from nnkernels.fusion.fuse import Fused


def pullback_of(fused: Fused, arguments: Sequence[Any]) -> Callable[..., tuple[Any, ...]]:
    """The pullback of a fused function at some arguments.

    Raises
    ------
    DTypeError
        If no argument or no result has a floating dtype.
    """
    traced, views, _, _ = fused.adopted(arguments)
    program = traced.program
    wanted = [is_differentiable(dtype) for dtype in program.inputs]
    if not any(wanted) or not any(map(is_differentiable, program.results)):
        raise DTypeError(
            f"{fused!r} of {', '.join(program.inputs)} has no gradient: it is for floating numbers"
        )
    shape = np.broadcast_shapes(*(v.shape for v in views))
    shapes = [tuple(v.shape) for v in views]
    wide = tuple(s != shape if w else None for s, w in zip(shapes, wanted, strict=True))
    numbers = reference.values_of(traced.sources, arguments)

    def pullback(*cotangents: Any) -> tuple[Any, ...]:
        given = tuple(d is not None for d in cotangents)
        found = gradient(program, given, wide)
        present = [d for d in cotangents if d is not None]
        names = ["dy" if len(cotangents) == 1 else f"cotangent {i}" for i in range(len(present))]
        adopted, library, like = adopt_all(present, names)
        parts = launch(found, [*adopted, *views], found.values(numbers))
        gradients: dict[int, Any] = {}
        floating = [i for i, is_wide in enumerate(wide) if is_wide is not None]
        for i, part in zip(floating, parts, strict=True):
            total = rows.sum_to_shape(part, shapes[i], program.inputs[i])
            gradients[traced.arrays[i]] = library.restore(total, like)
        return tuple(gradients.get(i) for i in range(len(arguments)))

    return pullback


def launch(found: Gradient, arrays: Sequence[Any], values: Sequence[Any]) -> tuple[Any, ...]:
    """The terms of all gradients, of the shape of the result."""
    from nnkernels.fusion.fuse import shared_functor

    chosen = [arrays[i] for i in found.used]
    machine, address = machines.for_array(chosen[0])
    if machine is machines.REFERENCE:
        return reference.evaluate(found.program, chosen, values)
    names = tuple(f"array {i}" for i in found.used)
    functor = shared_functor(found.program, names)
    sources = [Argument(i) for i in range(len(values))]
    numbers = number_packer(found.program, sources, names)(values)
    results = elementwise.run(functor, chosen, (), machine, address, (), numbers)
    return results if len(found.program.outputs) > 1 else (results,)
