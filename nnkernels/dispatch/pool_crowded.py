"""Maxima of windows that overlap much: plans of the search along rows, and of scattering."""

from __future__ import annotations

from math import prod
from typing import Any

from nnkernels.compile.instance import Instance
from nnkernels.config import pool_crowded as config
from nnkernels.config.blocks import units_of_a_block
from nnkernels.config.pool_crowded import ScatterConfig, SearchConfig
from nnkernels.dispatch.dtypes import Element
from nnkernels.dispatch.packing import Packer, pointer_struct
from nnkernels.dispatch.pool_bands import add_launch
from nnkernels.dispatch.pool_plan import (
    Launch,
    PoolPlan,
    pack_axis,
    pack_labels,
    pack_strides,
    problem_of,
    traffic_of,
)


def add_search(plan: PoolPlan, launch: Launch, machine: Any, alignment: int) -> None:
    """Add the launch of maxima with labels to a plan: along rows first, if that is faster."""
    problem, compute = problem_of(launch, alignment)
    chosen = config.configure_search(problem, machine.device)
    if chosen is None:
        add_launch(plan, launch, machine, alignment)
        return
    image, _, labels = launch.operands
    assert image is not None
    assert labels is not None
    index = "int32" if chosen.index == "i" else "int64"
    text = f"{image.element.storage}, {labels.element.storage}, {compute.storage}, {chosen.step}, "
    text += f"{chosen.vector}, {index}, "
    text += ", ".join(str(flag).lower() for flag in (chosen.lanes != "", chosen.streaming))
    instance = Instance("pool_search", f"PoolSearch<{text}>", 1)
    run = machine.prepare(
        instance, -(-chosen.units // chosen.tile), _scratch(chosen, compute), traffic_of(launch)
    )
    tail = _pack_search(launch, chosen)
    plan.launches.append((run, pointer_struct(3).pack, launch.pointers, tail))


def _scratch(chosen: SearchConfig, compute: Element) -> int:
    elements, indices, _ = chosen.scratch
    return elements * compute.itemsize + indices * (4 if chosen.index == "i" else 8)


def _pack_search(launch: Launch, chosen: SearchConfig) -> bytes:
    packer = Packer(3, chosen.index)
    packer.add("q", chosen.units, chosen.tile)
    packer.add_index(chosen.piece, chosen.length, *chosen.ring, chosen.lane_count)
    pieces = -(-launch.axes[2].out // chosen.piece)
    for divisor in (chosen.groups, pieces, chosen.planes[1]):
        packer.add_divisor(divisor)
    for axis in launch.axes:
        pack_axis(packer, axis, False)
    for operand in launch.operands:
        pack_strides(packer, operand, chosen.lanes, 0)
    pack_labels(packer, launch)
    return packer.finish()


def add_gradient(plan: PoolPlan, launch: Launch, machine: Any, alignment: int) -> None:
    """Add the launch of a gradient of a maximum to a plan: scattered, if that is faster."""
    chosen = None
    if 0 not in (*launch.planes, *(a.size * a.out for a in launch.axes)):
        problem, _ = problem_of(launch, alignment)
        chosen = config.configure_scatter(problem, machine.device)
    if chosen is None:
        add_launch(plan, launch, machine, alignment)
    else:
        _add_scatter(plan, launch, chosen, machine, alignment)


def _add_scatter(
    plan: PoolPlan, launch: Launch, chosen: ScatterConfig, machine: Any, alignment: int
) -> None:
    _, compute = problem_of(launch, alignment)
    operands = launch.operands[:3]
    dx, _, labels = operands
    assert dx is not None
    assert labels is not None
    index = "int32" if chosen.index == "i" else "int64"
    flags = [chosen.adjacent, launch.adaptive, chosen.streaming]
    if chosen.direct:
        flags.append(True)
    text = f"{dx.element.storage}, {labels.element.storage}, {compute.storage}, {chosen.group}, "
    text += f"{chosen.vector}, {index}, " + ", ".join(str(flag).lower() for flag in flags)
    instance = Instance("pool_scatter", f"PoolScatter<{text}>", 1)
    elements = prod(chosen.extent) * launch.axes[2].size * chosen.beside * chosen.group
    tile = units_of_a_block(chosen.units, elements, machine.device)
    kernels = [axis.kernel for axis in launch.axes]
    packer = Packer(3, chosen.index)
    packer.add("q", chosen.units, tile)
    run = chosen.run * launch.axes[2].out * chosen.beside
    packer.add_index(chosen.lane_count, *chosen.extent, chosen.capacity, chosen.run, run)
    for divisor in (chosen.groups, chosen.planes[1], *chosen.bands, *kernels[1:]):
        packer.add_divisor(divisor)
    packer.add_index(prod(kernels))
    for axis in launch.axes:
        pack_axis(packer, axis, launch.adaptive)
    for operand in operands:
        pack_strides(packer, operand, chosen.lanes, 0)
    scratch = (chosen.sums + run + 2 * chosen.vector) * compute.itemsize
    launched = machine.prepare(instance, -(-chosen.units // tile), scratch, traffic_of(launch))
    plan.launches.append((launched, pointer_struct(3).pack, launch.pointers[:3], packer.finish()))
