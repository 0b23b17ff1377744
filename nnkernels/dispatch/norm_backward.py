"""Gradients of row norms: from arrays to launches."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from nnkernels.dispatch import machines, norm_backward_plan
from nnkernels.dispatch.elementwise import alignment_of, are_numpy, described, remember
from nnkernels.dispatch.norm import Norm
from nnkernels.dispatch.norm_axes import NormAxes, check_operands
from nnkernels.interop.libraries import adopt_all


def apply(norm: Norm, arrays: Sequence[Any]) -> tuple[Any, ...]:
    """Gradients of a norm.

    Parameters
    ----------
    norm : Norm
        Which; its activation plays no part.
    arrays : sequence
        dy, x, weight, bias, dresidual; the last three may be None.

    Returns
    -------
    tuple
        dx, dweight, dbias; None where there is no such array.
    """
    if are_numpy(arrays, needed=2):
        return _run(norm, arrays, machines.for_numpy(), machines.numpy_address)
    there = [(a, n) for a, n in zip(arrays, _NAMES, strict=True) if a is not None or n in _NEEDED]
    views, library, like = adopt_all([a for a, _ in there], [n for _, n in there])
    adopted = iter(views)
    arrays = [None if a is None else next(adopted) for a in arrays]
    machine, address = machines.for_array(arrays[0])
    found = _run(norm, arrays, machine, address)
    return tuple(None if a is None else library.restore(a, like) for a in found)


_NAMES = ("dy", "x", "weight", "bias", "dresidual")
_NEEDED = ("dy", "x")


def _run(norm: Norm, arrays: Sequence[Any], machine: Any, address: Any) -> tuple[Any, ...]:
    known, pointers = described(arrays, address)
    alignments = (1,) * len(pointers)
    if machine.device.machine != "cpu":  # on a CPU, kernels do not depend on it
        alignments = tuple(map(alignment_of, pointers))
    key = (_run, norm, known, alignments)
    plans = machine.plans
    plan = plans.get(key)
    if plan is None:
        named = {n: a for n, a in zip(_NAMES, arrays, strict=True) if a is not None}
        axes = _axes_of(norm, named)
        machines.require_aligned(machine, named.values(), named)
        aligned = dict(zip(_NAMES, alignments, strict=True))
        plan = norm_backward_plan.make_plan(norm, axes, named, machine, aligned)
        remember(plans, key, plan)
    results = [None if a is None else a.make(machine) for a in plan.results]
    if plan.zeros:
        for result in results[1:]:
            if result is not None:
                with nullcontext() if isinstance(result, np.ndarray) else result.device:
                    result[...] = 0
        return tuple(results)
    workspaces = [w.make(machine) for w in plan.workspaces]
    for made in (*results, *workspaces):
        pointers.append(0 if made is None else address(made))
    pointers.append(0)  # of what a step does not have
    for step in plan.steps:
        step.launch(pointers)
    return tuple(results)


def _axes_of(norm: Norm, arrays: dict[str, Any]) -> NormAxes:
    """The axes of a call, for which its operands are checked."""
    x = arrays["x"]
    axes = norm.axes_of(x.shape, norm.axis, norm.groups)
    same = [n for n in ("dy", "dresidual") if n in arrays]
    parameters = {n: arrays[n] for n in ("weight", "bias") if n in arrays}
    check_operands(axes, x, [arrays[n] for n in same], same, parameters)
    return axes
