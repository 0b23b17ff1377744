"""Gradients of row norms: from arrays to launches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnkernels.dispatch import machines, norm_backward_plan
from nnkernels.dispatch.axes import Shape
from nnkernels.dispatch.elementwise import alignment_of, remember
from nnkernels.dispatch.norm_axes import NormAxes, check_operands
from nnkernels.interop.libraries import adopt_all


@dataclass(frozen=True)
class NormGradient:
    """The gradients of a norm with its options.

    Attributes
    ----------
    kind : {"layer_kind", "rms_kind"}
        The variant of ``cuda_src/nnk/norm_backward.cuh``.
    axes_of : callable
        Gives the :class:`NormAxes` of a shape, ``axis`` and ``groups``.
    axis : int, tuple of int or None
        As the user gave it, for a key.
    groups : int or None
        Of a group norm; None for an instance norm.
    eps, offset : float
        Added to the variance, and to the weight.
    """

    kind: str
    axes_of: Callable[[Shape, Any, int | None], NormAxes]
    axis: Any
    groups: int | None
    eps: float
    offset: float = 0.0


def apply(norm: NormGradient, arrays: Sequence[Any]) -> tuple[Any, ...]:
    """Gradients of a norm.

    Parameters
    ----------
    norm : NormGradient
        Which.
    arrays : sequence
        dy, x, weight, bias, dresidual; the last three may be None.

    Returns
    -------
    tuple
        dx, dweight, dbias; None where there is no such array.
    """
    there = [(a, n) for a, n in zip(arrays, _NAMES, strict=True) if a is not None or n in _NEEDED]
    names = tuple(n for _, n in there)
    if all(type(a) is np.ndarray for a, _ in there):
        return _run(norm, {n: a for a, n in there})
    views, library, like = adopt_all([a for a, _ in there], names)
    found = _run(norm, dict(zip(names, views, strict=True)))
    return tuple(None if a is None else library.restore(a, like) for a in found)


_NAMES = ("dy", "x", "weight", "bias", "dresidual")
_NEEDED = ("dy", "x")


def _run(norm: NormGradient, arrays: dict[str, Any]) -> tuple[Any, ...]:
    machine, address = machines.for_array(arrays["x"])
    addresses = {name: address(a) for name, a in arrays.items()}
    described = tuple((n, a.shape, a.strides, a.dtype) for n, a in arrays.items())
    alignment = 1
    if machine.device.machine != "cpu":  # on a CPU, kernels do not depend on it
        alignment = alignment_of(*addresses.values())
    key = (norm, described, alignment)
    plans = machine.plans
    plan = plans.get(key)
    if plan is None:
        axes = _axes_of(norm, arrays)
        machines.require_aligned(machine, arrays.values(), arrays)
        plan = norm_backward_plan.make_plan(norm, axes, arrays, machine, alignment)
        remember(plans, key, plan)
    results = [None if a is None else a.make(machine) for a in plan.results]
    if plan.zeros:
        for result in results[1:]:
            if result is not None:
                with nullcontext() if isinstance(result, np.ndarray) else result.device:
                    result[...] = 0
    pointers = [addresses.get(n, 0) for n in ("x", "dy", "weight", "dresidual")]
    pointers += [0 if r is None else address(r) for r in results]
    workspaces = [w.make(machine) for w in plan.workspaces]
    pointers += [address(w) for w in workspaces]
    for step in plan.steps:
        step.launch(pointers)
    return tuple(results)


def _axes_of(norm: NormGradient, arrays: dict[str, Any]) -> NormAxes:
    """The axes of a call, for which its operands are checked."""
    x = arrays["x"]
    axes = norm.axes_of(x.shape, norm.axis, norm.groups)
    same = [n for n in ("dy", "dresidual") if n in arrays]
    parameters = {n: arrays[n] for n in ("weight", "bias") if n in arrays}
    check_operands(axes, x, [arrays[n] for n in same], same, parameters)
    return axes
