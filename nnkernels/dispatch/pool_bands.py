"""Plans of pooling in bands of rows, which a GPU has where rows are adjacent in memory."""

from __future__ import annotations

from math import prod
from typing import Any

from nnkernels.compile.instance import Instance
from nnkernels.config import pool_bands as config
from nnkernels.config.pool_bands import BandConfig
from nnkernels.dispatch import pool_plan
from nnkernels.dispatch.dtypes import Element
from nnkernels.dispatch.packing import Packer, pointer_struct
from nnkernels.dispatch.pool_plan import (
    Launch,
    PoolPlan,
    pack_axis,
    pack_labels,
    pack_strides,
    problem_of,
    traffic_of,
)


def add_launch(plan: PoolPlan, launch: Launch, machine: Any, alignment: int) -> None:
    """Configure a launch and add it to a plan: in bands of rows, or one result at a time."""
    chosen = None
    if machine.device.is_gpu:
        if launch.backward and launch.mode.name != "Max":
            launch = pool_plan.with_joined_axes(launch)
        problem, compute = problem_of(launch, alignment)
        chosen = config.configure(problem, machine.device)
    if chosen is None:
        pool_plan.add_launch(plan, launch, machine, alignment)
        return
    pointers = launch.pointers[:3] if chosen.kind == "maxima" else launch.pointers
    pack = {"forward": _pack_forward, "sums": _pack_sums, "maxima": _pack_maxima}[chosen.kind]
    run = machine.prepare(
        _instance(launch, chosen, compute), chosen.blocks, chosen.scratch, traffic_of(launch)
    )
    tail = pack(launch, chosen, compute)
    plan.launches.append((run, pointer_struct(len(pointers)).pack, pointers, tail))


def _instance(launch: Launch, chosen: BandConfig, compute: Element) -> Instance:
    first = next(o for o in launch.operands if o is not None)
    labels = launch.operands[2]
    index = "int32" if chosen.index == "i" else "int64"
    label = labels.element.storage if launch.mode.name == "Max" and labels else "uint8"
    mode = f"Pool{launch.mode.name}"
    if chosen.kind == "forward":
        mode += "Index" if launch.mode.name == "Max" and labels else ""
        text = f"{mode}, {first.element.storage}, {label}, {compute.storage}, {chosen.loaded}, "
        header, struct = "pool_bands", "PoolBands"
    elif chosen.kind == "sums":
        text = f"{mode}, {first.element.storage}, {compute.storage}, {chosen.loaded}, "
        header, struct = "pool_bands_backward", "PoolBandsBackward"
    else:
        text = f"{first.element.storage}, {label}, {compute.storage}, {chosen.loaded}, "
        header, struct = "pool_bands_maxima", "PoolBandsMaxima"
    return Instance(header, f"{struct}<{text}{chosen.stored}, {index}>", config.THREADS)


# ---- arguments: the structs of the headers, field by field --------------------------------------


def _pack_forward(launch: Launch, chosen: BandConfig, compute: Element) -> bytes:
    depth, height, _ = launch.axes
    rows = prod(launch.planes) * depth.out * height.out
    packer = _pack_pieces(launch, chosen, rows)
    for operand in launch.operands:
        pack_strides(packer, operand, "", 0)
    pack_labels(packer, launch)
    packer.add_scalars(compute.name, pool_plan.parameters_of(launch, compute))
    return packer.finish()


def _pack_sums(launch: Launch, chosen: BandConfig, compute: Element) -> bytes:
    depth, height, _ = launch.axes
    rows = prod(launch.planes) * depth.size * height.size
    packer = _pack_pieces(launch, chosen, rows)
    for operand in launch.operands:
        pack_strides(packer, operand, "", 0)
    packer.add_scalars(compute.name, pool_plan.parameters_of(launch, compute))
    return packer.finish()


def _pack_pieces(launch: Launch, chosen: BandConfig, rows: int) -> Packer:
    """All fields up to the axes of a kernel whose rows have pieces."""
    packer = Packer(len(launch.operands), chosen.index)
    packer.add("q", rows)
    packer.add_index(chosen.tile, chosen.piece, chosen.length, int(launch.mode.include_pad))
    packer.add_divisor(-(-rows // chosen.tile))
    packer.add_divisor(-(-chosen.length // chosen.loaded), "i")
    packer.add_divisor(chosen.piece, "i")
    packer.add_divisor(launch.planes[1])
    for axis in launch.axes:
        pack_axis(packer, axis, False)
    return packer


def _pack_maxima(launch: Launch, chosen: BandConfig, compute: Element) -> bytes:
    del compute
    depth, height, width = launch.axes
    packer = Packer(3, chosen.index)
    packer.add_index(prod(launch.planes), chosen.planes, chosen.tile)
    packer.add_index(prod(axis.kernel for axis in launch.axes))
    for divisor in (-(-height.size // chosen.tile), depth.size, launch.planes[1]):
        packer.add_divisor(divisor)
    deep, high = chosen.seen
    for divisor in (width.size // chosen.loaded, -(-chosen.tile // chosen.stored), high, deep):
        packer.add_divisor(divisor, "i")
    packer.add_divisor(height.kernel)
    packer.add_divisor(width.kernel)
    for axis in launch.axes:
        pack_axis(packer, axis, False)
    for operand in launch.operands[:3]:
        pack_strides(packer, operand, "", 0)
    return packer.finish()
