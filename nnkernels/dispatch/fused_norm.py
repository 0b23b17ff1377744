"""Norms with fused functions inside: from arrays to launches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from nnkernels.dispatch import machines, norm_plan, row_functions
from nnkernels.dispatch.axes import Shape
from nnkernels.dispatch.dtypes import numpy_dtype
from nnkernels.dispatch.elementwise import alignment_of, described, remember
from nnkernels.dispatch.norm import Norm, checked_axes
from nnkernels.dispatch.norm_plan import NAMES, NormPlan
from nnkernels.dispatch.row_functions import Bound, Functions
from nnkernels.interop.libraries import adopt_all


class _Computed(NamedTuple):
    """What is normalised: of the shape of x, and the dtype that the prologue gives it."""

    shape: Shape
    dtype: Any


def apply(
    norm: Norm,
    functions: Functions,
    x: Any,
    weight: Any = None,
    bias: Any = None,
    residual: Any = None,
    out: Any = None,
) -> Any:
    """Run a norm with functions inside.

    Returns
    -------
    array, or tuple of arrays
        All results of the epilogue, or y; the sum with a residual; and the further results of the
        prologue.
    """
    operands: Sequence[Any] = (x, residual, weight, bias)
    given = [(a, n) for a, n in zip(operands, NAMES, strict=True) if a is not None or n == "x"]
    views, library, like = adopt_all([a for a, _ in given], [n for _, n in given])
    adopted = iter(views)
    operands = tuple(None if a is None else next(adopted) for a in operands)
    bound = Bound(functions, operands[0], "x", library, like)
    machine, address = machines.for_array(operands[0])
    outs, names = (None, []) if out is None else bound.outs_of(out, library, like)
    known, addresses = described((*operands, *bound.views), address)
    places = [] if outs is None else [address(o) for o in outs]
    alignments = row_functions.alignments_of(
        (*addresses, *(places or (0,) * len(bound.results))), machine.device.machine == "cpu"
    )
    key = (
        (apply, norm, bound.key, alignments, known),
        None if outs is None else tuple([(o.shape, o.strides, o.dtype) for o in outs]),
    )
    plans = machine.plans
    plan = plans.get(key)
    if plan is None:
        plan = _make_plan(norm, operands, bound, machine, alignments, outs, names)
        remember(plans, key, plan)
    if outs is None:
        results = [a.make(machine) for a in (plan.allocation, *plan.more)]
    else:
        results = outs
        # They may be x, the residual or an operand; what is shared by rows would be read after it
        # was written.
        inputs = (operands[0], operands[1], *bound.views, *operands[2:])
        order = (*addresses[:2], *addresses[4:], *addresses[2:4])
        row_functions.check_outs_memory(
            outs, names, inputs, (*NAMES[:2], *bound.names, *NAMES[2:]), len(inputs) - 2,
            (*places, *order), plan.reaches,
        )  # fmt: skip
    total = None if plan.total is None else plan.total.make(machine)
    extras = [a.make(machine) for a in plan.extras]
    if plan.steps:
        _launch(plan, bound, machine, address, addresses, results, total, extras)
    restored = (
        [library.restore(r, like) for r in results] if outs is None else bound.as_given(out)
    )
    others = () if total is None else (library.restore(total, like),)
    return bound.gathered(restored, others, [library.restore(e, like) for e in extras])


def _launch(
    plan: NormPlan,
    bound: Bound,
    machine: Any,
    address: Any,
    addresses: Sequence[int],
    results: Sequence[Any],
    total: Any,
    extras: Sequence[Any],
) -> None:
    workspace = None if plan.workspace is None else plan.workspace.make(machine)
    written = [address(r) for r in results]
    count = len(NAMES)
    pointers = plan.pack(
        *addresses[:count],
        0 if total is None else address(total),
        written[0],
        0 if workspace is None else address(workspace),
    )
    end = bound.arguments(addresses[count:], [address(e) for e in extras], written)
    for start, tail in plan.steps:
        start(pointers + tail + end)


def _make_plan(
    norm: Norm,
    operands: Sequence[Any],
    bound: Bound,
    machine: Any,
    alignments: tuple[int, ...],
    outs: Any,
    names: Sequence[str],
) -> NormPlan:
    x = operands[0]
    computed = _Computed(x.shape, numpy_dtype(bound.found.name))
    axes = checked_axes(norm, computed, *operands[1:])
    machines.require_aligned(machine, bound.views, bound.names)
    if outs is not None:
        dtypes = [numpy_dtype(e.name) for e in bound.results]
        row_functions.check_outs(outs, names, x.shape, dtypes)
        machines.require_aligned(machine, outs, names)
    plan = norm_plan.make_plan(norm, axes, operands, machine, alignments, outs, bound)
    if outs is not None:
        inputs = (x, operands[1], *bound.views, *operands[2:])
        plan.reaches = row_functions.reaches_of((*outs, *inputs))
    return plan
