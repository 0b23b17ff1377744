"""Layer, RMS, group and instance norm: from arrays to launches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkernels.dispatch import machines, norm_plan
from nnkernels.dispatch.axes import Shape
from nnkernels.dispatch.elementwise import alignment_of, are_numpy, described, remember
from nnkernels.dispatch.norm_axes import NormAxes, channel_groups, check_operands, trailing_axes
from nnkernels.dispatch.norm_plan import NAMES
from nnkernels.dispatch.results import adopt_out, check_memory, check_out, reach
from nnkernels.interop.libraries import adopt_all

if TYPE_CHECKING:
    from nnkernels.dispatch.elementwise import Functor
    from nnkernels.dispatch.row_functions import Functions


@dataclass(frozen=True, eq=False)
class Norm:
    """A norm with its options.

    Attributes
    ----------
    kind : {"layer_kind", "rms_kind"}
        The variant of ``cuda_src/nnk/norm.cuh``.
    axes_of : callable
        Gives the :class:`NormAxes` of a shape, ``axis`` and ``groups``.
    axis : int, tuple of int or None
        As the user gave it, for a key.
    groups : int or None
        Of a group norm; None for an instance norm.
    eps, offset : float
        Added to the variance, and to the weight.
    activation : Functor or None
        What is applied to the result.
    parameters : tuple of numbers
        Its scalars.
    wide : bool
        Whether the result keeps the computing type, float32 for float16 and bfloat16.
    """

    kind: str
    axes_of: Callable[[Shape, Any, int | None], NormAxes]
    axis: Any
    groups: int | None
    eps: float
    offset: float = 0.0
    activation: Functor | None = None
    parameters: tuple[complex, ...] = ()
    wide: bool = False


@lru_cache(maxsize=4096)
def norm_with(
    kind: str,
    axes_of: Callable[[Shape, Any, int | None], NormAxes],
    axis: Any,
    groups: int | None,
    eps: float,
    offset: float,
    activation: Functor | None = None,
    parameters: tuple[complex, ...] = (),
    wide: bool = False,
) -> Norm:
    """The norm with some options, always the same object: the key of its plans."""
    return Norm(kind, axes_of, axis, groups, eps, offset, activation, parameters, wide)


def along_axes(shape: Shape, axis: Any, groups: int | None) -> NormAxes:
    """Axes of a layer or RMS norm."""
    return trailing_axes(shape, axis)


over_groups = channel_groups


def apply(
    norm: Norm, x: Any, weight: Any = None, bias: Any = None, residual: Any = None, out: Any = None
) -> Any:
    """Run a norm.

    Returns
    -------
    array, or tuple of two arrays
        Of the library, shape, dtype and memory order of x; with a residual also the sum.
    """
    operands: Sequence[Any] = (x, residual, weight, bias)
    if are_numpy(operands) and (out is None or type(out) is np.ndarray):
        machine, address = machines.for_numpy(), machines.numpy_address
        if out is None:
            results = _run(norm, operands, machine, address)
        else:
            results = _run_out(norm, operands, machine, address, out)
        return results if residual is not None else results[0]
    given = [(a, n) for a, n in zip(operands, NAMES, strict=True) if a is not None or n == "x"]
    views, library, like = adopt_all([a for a, _ in given], [n for _, n in given])
    adopted = iter(views)
    operands = tuple(None if a is None else next(adopted) for a in operands)
    machine, address = machines.for_array(operands[0])
    if out is not None:
        view = adopt_out(out, "out", library, like)
        results = _run_out(norm, operands, machine, address, view)
        return out if residual is None else (out, library.restore(results[1], like))
    results = tuple(library.restore(r, like) for r in _run(norm, operands, machine, address))
    return results if residual is not None else results[0]


def _run(norm: Norm, operands: Sequence[Any], machine: Any, address: Any) -> tuple[Any, ...]:
    known, addresses = described(operands, address)
    key: Any = (norm, known)
    if machine.device.machine != "cpu":  # on a CPU, kernels do not depend on it
        key = (key, *map(alignment_of, addresses))
    plans = machine.plans
    plan = plans.get(key)
    if plan is None:
        alignments = (*map(alignment_of, addresses), alignment_of())
        plan = norm_plan.make_plan(
            norm, axes_of(norm, operands), operands, machine, alignments, None
        )
        remember(plans, key, plan)
    y = plan.allocation.make(machine)
    return _launch(plan, machine, address, addresses, y)


def axes_of(norm: Norm, operands: Sequence[Any]) -> NormAxes:
    """The axes of a call, for which its operands are checked.

    Raises
    ------
    DTypeError, ShapeError, TypeError
        Naming the argument that does not fit.
    """
    x, residual, weight, bias = operands
    return checked_axes(norm, x, residual, weight, bias)


def checked_axes(norm: Norm, x: Any, residual: Any, weight: Any, bias: Any) -> NormAxes:
    """The same; x need only have a shape and the dtype in which the norm computes."""
    axes = norm.axes_of(x.shape, norm.axis, norm.groups)
    same = () if residual is None else (residual,)
    parameters = {n: a for n, a in (("weight", weight), ("bias", bias)) if a is not None}
    check_operands(axes, x, same, ("residual",), parameters)
    return axes


def _run_out(
    norm: Norm, operands: Sequence[Any], machine: Any, address: Any, out: Any
) -> tuple[Any, ...]:
    known, places = described((out, *operands), address)
    alignments = (1,) * len(places)
    if machine.device.machine != "cpu":  # on a CPU, kernels do not depend on it
        first, *others = map(alignment_of, places)
        alignments = (*others, first)
    key = (_run_out, norm, alignments, known)
    plans = machine.plans
    plan = plans.get(key)
    if plan is None:
        axes = axes_of(norm, operands)
        check_out(out, "out", operands[0].shape, operands[0].dtype)
        machines.require_aligned(machine, (out,), ("out",))
        plan = norm_plan.make_plan(norm, axes, operands, machine, alignments, out)
        plan.reaches = [(0, 0) if a is None else reach(a) for a in (out, *operands)]
        remember(plans, key, plan)
    # It may be x or the residual; what is shared by rows would be read after it was written. An
    # operand that is not given, of no bytes at address 0, lies apart from everything.
    check_memory(out, "out", operands, NAMES, 2, places, plan.reaches)
    return _launch(plan, machine, address, places[1:], out)


def _launch(
    plan: norm_plan.NormPlan, machine: Any, address: Any, addresses: Sequence[int], y: Any
) -> tuple[Any, ...]:
    total = None if plan.total is None else plan.total.make(machine)
    if plan.steps:
        workspace = None if plan.workspace is None else plan.workspace.make(machine)
        pointers = plan.pack(
            *addresses,
            0 if total is None else address(total),
            address(y),
            0 if workspace is None else address(workspace),
        )
        for start, tail in plan.steps:
            start(pointers + tail)
    return (y,) if total is None else (y, total)
