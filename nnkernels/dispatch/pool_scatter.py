"""Gradients of maxima that are scattered: plans of them."""

from __future__ import annotations

from math import prod
from typing import Any

from nnkernels.compile.instance import Instance
from nnkernels.config import pool_scatter as config
from nnkernels.config.pool_scatter import ScatterConfig
from nnkernels.dispatch.packing import Packer, pointer_struct
from nnkernels.dispatch.pool_plan import (
    Launch,
    PoolPlan,
    pack_axis,
    pack_strides,
    problem_of,
    traffic_of,
)

# Elements and windows of a block, about.
_BLOCK = 16384


def scatter_of(launch: Launch, machine: Any, alignment: int) -> ScatterConfig | None:
    """How a gradient of a maximum is scattered, or None."""
    sizes = [a.size * a.out for a in launch.axes]
    if 0 in (*launch.planes, *sizes):
        return None
    problem, _ = problem_of(launch, alignment)
    return config.configure(problem, machine.device)


def add_scatter(
    plan: PoolPlan, launch: Launch, chosen: ScatterConfig, machine: Any, alignment: int
) -> None:
    """Add the launch of a gradient of a maximum to a plan; its labels are flat indices."""
    _, compute = problem_of(launch, alignment)
    operands = launch.operands[:3]
    dx, _, labels = operands
    assert dx is not None
    assert labels is not None
    index = "int32" if chosen.index == "i" else "int64"
    flags = (chosen.adjacent, launch.adaptive, chosen.streaming)
    text = f"{dx.element.storage}, {labels.element.storage}, {compute.storage}, {chosen.group}, "
    text += f"{chosen.vector}, {index}, " + ", ".join(str(flag).lower() for flag in flags)
    instance = Instance("pool_scatter", f"PoolScatter<{text}>", 1)
    elements = prod(a.size for a in launch.axes) // prod(chosen.bands) * chosen.group
    tile = max(_BLOCK // max(elements, 1), 1)
    groups = -(-chosen.lane_count // chosen.group)
    packer = Packer(3, chosen.index)
    packer.add("q", chosen.units, tile)
    packer.add_index(chosen.lane_count, *chosen.extent, chosen.capacity)
    for divisor in (groups, chosen.planes[1], *chosen.bands):
        packer.add_divisor(divisor)
    for axis in launch.axes:
        pack_axis(packer, axis, launch.adaptive)
    for operand in operands:
        pack_strides(packer, operand, chosen.lanes, 0)
    scratch = chosen.capacity * chosen.group * compute.itemsize
    run = machine.prepare(instance, -(-chosen.units // tile), scratch, traffic_of(launch))
    plan.launches.append((run, pointer_struct(3).pack, launch.pointers[:3], packer.finish()))
