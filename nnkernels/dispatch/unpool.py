"""Max-unpooling: from arrays to a launch."""

from __future__ import annotations

from math import prod
from typing import Any

from nnkernels.compile.instance import Instance
from nnkernels.dispatch.axes import (
    INT32_MAX,
    Shape,
    Strides,
    contiguous_strides,
    index_kind,
    memory_order,
)
from nnkernels.dispatch.dtypes import require
from nnkernels.dispatch.packing import Packer, pointer_struct
from nnkernels.dispatch.pool import call
from nnkernels.dispatch.pool_plan import PoolPlan, five_strides
from nnkernels.dispatch.results import Allocation, check_out
from nnkernels.errors import DTypeError, ShapeError

# Threads that share a plane compare their indices, each with all later ones.
_TURN = 128
_GPU_THREADS = 256
# Elements of a block on a CPU, about.
_CPU_ELEMENTS = 16384


def forward(x: Any, indices: Any, shape: Shape, out: Any = None) -> Any:
    """Put the elements of planes where the indices say, into zeros."""
    return call(
        (_plan, False, shape),
        lambda views, machine, alignment, given: _plan(False, views, shape, machine, given),
        (x, indices),
        ("x", "indices"),
        out,
    )[0]


def backward(dy: Any, indices: Any, out: Any = None) -> Any:
    """Take the elements of planes that the indices name."""
    return call(
        (_plan, True, None),
        lambda views, machine, alignment, given: _plan(True, views, None, machine, given),
        (dy, indices),
        ("dy", "indices"),
        out,
    )[0]


def _plan(takes: bool, views: Any, shape: Shape | None, machine: Any, given: Any) -> PoolPlan:
    array, indices = views
    found = require(array.dtype, "fiu", "dy" if takes else "x")
    if indices.dtype.name != "int64":
        raise DTypeError(f"indices has dtype {indices.dtype}; it must be int64, as max_pool has it")
    if shape is None:
        _check_planes(array, indices)
        shape = array.shape
    elif array.shape != indices.shape:
        raise ShapeError(
            f"indices has shape {indices.shape} and x {array.shape}; they must be equal"
        )
    pooled = indices.shape
    result = pooled if takes else shape
    order = memory_order(array.shape, array.strides)
    strides = contiguous_strides(result, found.itemsize, order)
    if given is not None:
        check_out(given, "out", result, array.dtype)
        strides = given.strides
    plan = PoolPlan((Allocation(result, array.dtype, order),))
    if 0 in result:
        return plan
    plane, small = (array.strides, strides) if takes else (strides, array.strides)
    packed = _pack(takes, shape, pooled, (plane, small, indices.strides), machine)
    tail, instance_index, units, tile, threads = packed
    struct = "MaxUnpoolBackward" if takes else "MaxUnpool"
    index = "int32" if instance_index == "i" else "int64"
    instance = Instance("max_unpool", f"{struct}<{found.storage}, {index}>", threads)
    traffic = found.itemsize * (prod(shape) + prod(pooled)) + 8 * prod(pooled)
    run = machine.prepare(instance, -(-units // tile), 0, traffic)
    # The array of planes, what is pooled, the indices.
    numbers = (0, 2, 1) if takes else (2, 0, 1)
    plan.launches.append((run, pointer_struct(3).pack, numbers, tail))
    return plan


def _check_planes(dy: Any, indices: Any) -> None:
    if dy.ndim != indices.ndim or dy.shape[:2] != indices.shape[:2]:
        raise ShapeError(
            f"indices has shape {indices.shape} and dy {dy.shape}; batch, channels and the number "
            "of spatial axes must be equal"
        )


def _pack(
    takes: bool, shape: Shape, pooled: Shape, strides: tuple[Strides, ...], machine: Any
) -> tuple[bytes, str, int, int, int]:
    """The arguments behind the pointers, the index type, the units, those of a block, threads."""
    planes, count = shape[0] * shape[1], prod(pooled[2:])
    sides = [(*(1,) * (5 - len(s)), *s[2:]) for s in (shape, pooled)]
    kinds = [
        index_kind(s, [stride], slack=4096)
        for s, stride in zip((shape, pooled, pooled), strides, strict=True)
    ]
    wide = "q" in kinds or prod(shape[2:]) > INT32_MAX - 4096
    rows = sides[1][0] * sides[1][1]
    gpu = machine.device.is_gpu
    if not takes:
        units, threads = planes, _TURN if gpu else 1
        tile = 1 if gpu else max(_CPU_ELEMENTS // max(prod(shape[2:]), 1), 1)
    elif gpu:
        units, threads, tile = planes * count, _GPU_THREADS, _GPU_THREADS
    else:
        units, threads = planes * rows, 1
        tile = max(_CPU_ELEMENTS // max(sides[1][2], 1), 1)
    packer = Packer(3, "q" if wide else "i")
    packer.add("q", units, tile)
    packer.add_divisor(max(shape[1], 1))
    packer.add_divisor(max(rows, 1))
    for side in sides:
        packer.add_index(*side)
    for axis in (1, 2):
        packer.add_divisors(max(side[axis], 1) for side in sides)
    for stride in strides:
        five = five_strides(stride)
        packer.add_index(*five, 0)
    return packer.finish(), packer.index, units, tile, threads
