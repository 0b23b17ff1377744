"""Moves and weighted sums along tables of axes: padding, windows, resampling and their gradients.

An op says what its result is as a `Geometry`: which axes are only copied, and the map of each
other one. Everything else is here and in `gathers_plan`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from nnkernels.dispatch import machines
from nnkernels.dispatch.axes import Shape
from nnkernels.dispatch.axis_maps import AxisMap
from nnkernels.dispatch.elementwise import alignment_of, remember
from nnkernels.dispatch.results import adopt_out, check_memory, reach
from nnkernels.interop.libraries import NUMPY, adopt_all


@dataclass(frozen=True, eq=False)
class Mapped:
    """A map, with the axes of x and of the result between which it goes (in split shapes)."""

    map: AxisMap
    ins: tuple[int, ...]
    outs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Geometry:
    """What an op does with an array of some shape.

    Attributes
    ----------
    shape : tuple of int
        Of the result.
    ins, outs : tuple of tuples of int
        For each axis of x and of the result the axes into which it is split, slowest first.
    plain : tuple of pairs
        Axes that are only copied: that of x and that of the result, in split numbering.
    mapped : tuple of Mapped
        All others; sums over the terms of the first are the innermost.
    keeps_order : bool
        Whether the axes of the result lie in memory as those of x, else in C order.
    """

    shape: Shape
    ins: tuple[Shape, ...]
    outs: tuple[Shape, ...]
    plain: tuple[tuple[int, int], ...]
    mapped: tuple[Mapped, ...]
    keeps_order: bool = True


class Gather(Protocol):
    """An op with its options: hashable, for it is the key of plans."""

    @property
    def name(self) -> str:
        """The argument, for messages."""

    @property
    def kinds(self) -> str:
        """dtypes, as in `nnkernels.dispatch.dtypes`."""

    @property
    def value(self) -> Any:
        """Elements of the result that have no source."""

    def geometry(self, shape: Shape) -> Geometry:
        """What it does with an array of a shape, which is checked."""


def apply(gather: Gather, x: Any, out: Any = None) -> Any:
    """Run an op on an array.

    Returns
    -------
    array
        Of the library and dtype of x.
    """
    if type(x) is np.ndarray and out is None:
        return _run(gather, x, machines.for_numpy(), machines.numpy_address)
    (view,), library, like = adopt_all((x,), (gather.name,))
    machine, address = machines.for_array(view)
    if out is None:
        return library.restore(_run(gather, view, machine, address), like)
    target = adopt_out(out, "out", library if library is not NUMPY else NUMPY, like)
    _run_out(gather, view, target, machine, address)
    return out


def _run(gather: Gather, x: Any, machine: Any, address: Any) -> Any:
    key: Any = (gather, x.shape, x.strides, x.dtype)
    at = address(x)
    if machine.device.machine != "cpu":  # on a CPU, kernels do not depend on it
        key = (*key, alignment_of(at))
    plans = machine.plans
    plan = plans.get(key)
    if plan is None:
        from nnkernels.dispatch.gathers_plan import make_plan

        plan = make_plan(gather, x, machine, alignment_of(at), None)
        remember(plans, key, plan)
    result = plan.allocation.make(machine)
    if plan.start is not None:
        plan.start(plan.pack(address(result), at, *plan.tables) + plan.tail)
    return result


def _run_out(gather: Gather, x: Any, out: Any, machine: Any, address: Any) -> None:
    addresses = [address(out), address(x)]
    alignment = alignment_of(*addresses)
    key = (gather, x.shape, x.strides, x.dtype, alignment, out.shape, out.strides, out.dtype)
    plans = machine.plans
    plan = plans.get(key)
    if plan is None:
        from nnkernels.dispatch.gathers_plan import make_plan

        plan = make_plan(gather, x, machine, alignment, out)
        plan.reaches = [reach(out), reach(x)]
        remember(plans, key, plan)
    check_memory(out, "out", (x,), (gather.name,), False, addresses, plan.reaches)
    if plan.start is not None:
        plan.start(plan.pack(*addresses, *plan.tables) + plan.tail)
