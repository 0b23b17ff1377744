"""Batch normalisation: from arrays to launches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from nnkernels.dispatch import batch_norm_plan, machines
from nnkernels.dispatch.batch_norm_plan import NAMES, Activated
from nnkernels.dispatch.channel_plan import ChannelPlan
from nnkernels.dispatch.elementwise import alignment_of, are_numpy, described, remember
from nnkernels.interop.libraries import adopt_all, library_of


def train(
    arrays: Sequence[Any],
    axis: int,
    eps: float,
    momentum: float,
    activation: Activated,
    wide: bool = False,
) -> tuple[Any, ...]:
    """y and the new running statistics, from x, weight, bias and the running statistics.

    `wide`: y keeps the computing type (float32 for float16 and bfloat16).
    """
    return _call(batch_norm_plan.training, NAMES, arrays, axis, (eps, momentum, wide), activation)


def infer(
    arrays: Sequence[Any], axis: int, eps: float, activation: Activated, wide: bool = False
) -> Any:
    """y, from x, weight, bias and the running statistics."""
    return _call(batch_norm_plan.inference, NAMES, arrays, axis, (eps, wide), activation)[0]


def backward(arrays: Sequence[Any], axis: int, eps: float, training: bool) -> tuple[Any, ...]:
    """dx, dweight and dbias, from dy, x, weight, bias and the running statistics.

    dy may be of the computing type.
    """
    make = batch_norm_plan.training_backward
    if not training:
        make = batch_norm_plan.inference_backward
    return _call(make, ("dy", *NAMES), arrays, axis, (eps,), None)


# ---- a call -------------------------------------------------------------------------------------


def _call(
    make: Callable[..., ChannelPlan],
    names: Sequence[str],
    arrays: Sequence[Any],
    axis: int,
    options: tuple[float, ...],
    activation: Activated,
) -> tuple[Any, ...]:
    library = like = None
    if not are_numpy(arrays, needed=1 + (names[0] == "dy")):
        given = [
            (a, n) for a, n in zip(arrays, names, strict=True) if a is not None or n in ("dy", "x")
        ]
        for array, name in given:
            library_of(array, name)  # not even a Python number
        adopted, library, like = adopt_all([a for a, _ in given], [n for _, n in given])
        found = iter(adopted)
        arrays = [None if a is None else next(found) for a in arrays]
    machine, address = machines.for_array(arrays[0])
    known, addresses = described(arrays, address)
    key: Any = (make, axis, options, activation, known)
    alignment = 1
    if machine.device.machine != "cpu":  # on a CPU, kernels do not depend on it
        alignment = alignment_of(*addresses)
        key = (*key, alignment)
    plans = machine.plans
    plan = plans.get(key)
    if plan is None:
        check_unaligned(machine, arrays, names)
        plan = make(arrays, axis, options, activation, machine, alignment)
        remember(plans, key, plan)
    results = launch(plan, machine, address, addresses)
    if library is None:
        return results
    return tuple(None if r is None else library.restore(r, like) for r in results)


def launch(
    plan: ChannelPlan,
    machine: Any,
    address: Any,
    addresses: list[int],
    more: Sequence[int] = (),
    ends: Callable[[Sequence[Any]], Sequence[bytes]] | None = None,
) -> tuple[Any, ...]:
    """The results of a plan.

    Parameters
    ----------
    addresses : list of int
        Of the arrays.
    more : sequence of int
        Pointers that follow all others.
    ends : callable, optional
        From the results to what may end the arguments of a launch: see `ChannelPlan`.
    """
    results = tuple([None if a is None else a.make(machine) for a in plan.results])
    pointers = addresses
    for result in results:
        pointers.append(0 if result is None else address(result))
    if plan.fill:
        for result in results:
            # CuPy writes on the current device, which need not be the array's.
            if result is not None:
                with nullcontext() if isinstance(result, np.ndarray) else result.device:
                    result[...] = 0
        return results
    # Both stay alive until the last launch.
    rows = workspace = None
    if plan.coefficients is not None:
        rows = plan.coefficients.make(machine)
        first = address(rows)
        pointers += [first + row for row in plan.row_starts]
    else:
        pointers += [0] * len(plan.row_starts)
    if plan.workspace is not None:
        workspace = plan.workspace.make(machine)
        pointers.append(address(workspace))
    else:
        pointers.append(0)
    pointers += more
    if ends is None:
        for start, take, pack, tail, _ in plan.launches:
            start(pack(*take(pointers)) + tail)
        return results
    known = ends(results)
    for start, take, pack, tail, end in plan.launches:
        start(pack(*take(pointers)) + tail + known[end])
    return results


def check_unaligned(machine: Any, views: Sequence[Any], names: Sequence[str]) -> None:
    """Check that a GPU can read every element: see ``machines.require_aligned``."""
    given = [(v, n) for v, n in zip(views, names, strict=True) if v is not None]
    machines.require_aligned(machine, [v for v, _ in given], [n for _, n in given])
