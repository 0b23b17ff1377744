"""Plans of pooling of pairs of neighbours in a row, which a CPU has."""

from __future__ import annotations

from typing import Any

from nnkernels.compile.instance import Instance
from nnkernels.config import pool_pairs as config
from nnkernels.config.pool_pairs import PairsConfig
from nnkernels.dispatch import pool_bands, pool_crowded
from nnkernels.dispatch.dtypes import Element
from nnkernels.dispatch.packing import Packer, pointer_struct
from nnkernels.dispatch.pool_plan import (
    Launch,
    PoolPlan,
    pack_axis,
    pack_labels,
    pack_strides,
    parameters_of,
    problem_of,
    traffic_of,
)


def add_launch(plan: PoolPlan, launch: Launch, machine: Any, alignment: int) -> None:
    """Add a pooling without labels, or the gradient of a sum, to a plan."""
    takes_norm = launch.backward and launch.mode.name != "Average"
    if takes_norm or not add_pairs(plan, launch, machine, alignment):
        pool_bands.add_launch(plan, launch, machine, alignment)


def add_search(plan: PoolPlan, launch: Launch, machine: Any, alignment: int) -> None:
    """Add maxima and the labels of their taps to a plan."""
    if not add_pairs(plan, launch, machine, alignment):
        pool_crowded.add_search(plan, launch, machine, alignment)


def add_gradient(plan: PoolPlan, launch: Launch, machine: Any, alignment: int) -> None:
    """Add the gradient of a maximum by the numbers of its taps to a plan."""
    if not add_pairs(plan, launch, machine, alignment):
        pool_crowded.add_gradient(plan, launch, machine, alignment)


def add_pairs(plan: PoolPlan, launch: Launch, machine: Any, alignment: int) -> bool:
    """Add a launch to a plan if its windows are pairs, and say whether they are.

    The gradient of a maximum may have the image among its operands in place of labels.
    """
    problem, compute = problem_of(launch, alignment)
    chosen = config.configure(problem, machine.device)
    if chosen is None:
        return False
    # The third one of a gradient: labels or, where there are none, the image; sums need neither.
    is_labelled = launch.mode.name == "Max" and launch.operands[2] is not None
    numbers = [0, 1]
    if launch.backward or is_labelled:
        numbers.append(2 if is_labelled else 3)
    packer = Packer(len(numbers), chosen.index)
    packer.add("q", chosen.units, chosen.tile)
    packer.add_divisor(launch.planes[1])
    for axis in launch.axes:
        pack_axis(packer, axis, False)
    for number in numbers:
        pack_strides(packer, launch.operands[number], "", 0)
    if is_labelled and not launch.backward:
        pack_labels(packer, launch)
    else:
        packer.add_scalars(compute.name, parameters_of(launch, compute))
    instance = _instance(launch, chosen, compute)
    run = machine.prepare(instance, chosen.blocks, 0, traffic_of(launch))
    pointers = tuple(launch.pointers[number] for number in numbers)
    plan.launches.append((run, pointer_struct(len(pointers)).pack, pointers, packer.finish()))
    return True


def _instance(launch: Launch, chosen: PairsConfig, compute: Element) -> Instance:
    first = launch.operands[0]
    assert first is not None
    labels = launch.operands[2]
    index = "int32" if chosen.index == "i" else "int64"
    types = [f"Pool{launch.mode.name}", first.element.storage]
    flags = [chosen.streaming, chosen.fetches]
    struct = "PoolPairs"
    if launch.backward:
        struct = "PoolPairsGradient"
        types.append(labels.element.storage if labels else "uint8")
        flags.insert(0, labels is not None)
    elif labels is not None:
        struct, types = "PoolPairsLabels", [first.element.storage, labels.element.storage]
    words = [*types, compute.storage, str(chosen.vector), index]
    words += [str(flag).lower() for flag in flags]
    return Instance("pool_pairs", f"{struct}<{', '.join(words)}>", 1)
