"""Max-unpooling: from arrays to a launch."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from nnkernels.compile.instance import Instance
from nnkernels.config.blocks import units_of_a_block
from nnkernels.config.device import Device
from nnkernels.config.elementwise import ANY_STEP, UNIT_STEP
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
_INDICES = {"i": "int32", "q": "int64"}


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
    arrays = (
        _Array(shape, plane, found.itemsize),
        _Array(pooled, small, found.itemsize),
        _Array(pooled, indices.strides, indices.dtype.itemsize),
    )
    make = _for_threads if machine.device.is_gpu else _for_vectors
    launch = make(takes, arrays, found.storage, machine.device)
    traffic = found.itemsize * (prod(shape) + prod(pooled)) + 8 * prod(pooled)
    run = machine.prepare(launch.instance, launch.blocks, 0, traffic)
    # The array of planes, what is pooled, the indices.
    numbers = (0, 2, 1) if takes else (2, 0, 1)
    plan.launches.append((run, pointer_struct(3).pack, numbers, launch.tail))
    return plan


def _check_planes(dy: Any, indices: Any) -> None:
    if dy.ndim != indices.ndim or dy.shape[:2] != indices.shape[:2]:
        raise ShapeError(
            f"indices has shape {indices.shape} and dy {dy.shape}; batch, channels and the number "
            "of spatial axes must be equal"
        )


# ---- launches -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Array:
    shape: Shape
    strides: Strides
    itemsize: int

    @property
    def sides(self) -> Shape:
        return (*(1,) * (5 - len(self.shape)), *self.shape[2:])

    @property
    def space(self) -> Strides:
        return five_strides(self.strides)[2:]

    @property
    def is_linear(self) -> bool:
        """Whether an element of a plane is at its number times the last stride."""
        step = self.space[2]
        _, height, width = self.sides
        wanted = (height * width * step, width * step, step)
        return all(n == 1 or s == w for n, s, w in zip(self.sides, self.space, wanted, strict=True))

    def joined(self) -> _Array:
        """The same with one spatial axis, if it is linear."""
        shape = (*self.shape[:2], prod(self.sides))
        return _Array(shape, (*self.strides[:2], self.space[2]), self.itemsize)


@dataclass(frozen=True)
class _Launch:
    instance: Instance
    blocks: int
    tail: bytes


_Arrays = tuple[_Array, _Array, _Array]


def _for_threads(takes: bool, arrays: _Arrays, storage: str, device: Device) -> _Launch:
    """For a GPU: blocks with a plane for itself, or a thread for each element."""
    planes, count = prod(arrays[0].shape[:2]), prod(arrays[1].shape[2:])
    index = _index_of(arrays)
    if takes:
        units, threads, tile, struct = planes * count, *(_GPU_THREADS,) * 2, "MaxUnpoolBackward"
    else:
        units, threads, tile, struct = planes, _TURN, 1, "MaxUnpool"
    tail = _pack(arrays, index, units, tile, ())
    text = f"{struct}<{storage}, {_INDICES[index]}>"
    return _Launch(Instance("max_unpool", text, threads), -(-units // tile), tail)


def _for_vectors(takes: bool, arrays: _Arrays, storage: str, device: Device) -> _Launch:
    """For a CPU: vectors along channels, if indices are neighbours there, or along rows."""
    plane, pooled, indices = arrays
    across = pooled.shape[1] > 1 and indices.strides[1] == indices.itemsize
    if takes and not across and pooled.is_linear and indices.is_linear:
        pooled, indices = pooled.joined(), indices.joined()
    vector = device.vector_bytes // max(plane.itemsize, 4)
    lanes = pooled.shape[1] if across else 1
    group = vector if takes else _planes_of_a_unit(pooled.shape[0], lanes, vector, device)
    groups = -(-lanes // group)
    steps = [a.strides[1] if across else a.space[2] for a in (pooled, indices)]
    step = UNIT_STEP if steps == [pooled.itemsize, indices.itemsize] else ANY_STEP
    depth, height, width = pooled.sides
    units = pooled.shape[0] * (groups if across else pooled.shape[1])
    elements = (width if takes else prod(plane.sides)) * min(lanes, group)
    if takes:
        units *= depth * height
    tile = units_of_a_block(units, elements, device)
    arrays = (plane, pooled, indices)
    index = _index_of(arrays)
    tail = _pack(arrays, index, units, tile, (lanes, vector, group) if across else ())
    struct = "MaxUnpoolBackwardVectors" if takes else "MaxUnpoolVectors"
    text = f"{struct}<{storage}, {_INDICES[index]}, {vector}, {step}, {str(across).lower()}>"
    return _Launch(Instance("max_unpool_vectors", text, 1), -(-units // tile), tail)


def _planes_of_a_unit(images: int, lanes: int, vector: int, device: Device) -> int:
    """As many as leave two units for each thread: all of them are written in order of memory."""
    wanted = -(-2 * device.processors // max(images, 1))
    vectors = -(-lanes // vector)
    return -(-vectors // min(wanted, vectors)) * vector


def _index_of(arrays: _Arrays) -> str:
    kinds = [index_kind(a.shape, [a.strides], slack=4096) for a in arrays]
    wide = "q" in kinds or prod(arrays[0].shape[2:]) > INT32_MAX - 4096
    return "q" if wide else "i"


def _pack(arrays: _Arrays, index: str, units: int, tile: int, across: tuple[int, ...]) -> bytes:
    """The arguments behind the pointers; `across`: planes along vectors, of one, and of a unit."""
    plane, pooled, _ = arrays
    lanes, vector, group = across or (1, 1, 1)
    packer = Packer(3, index)
    packer.add("q", units, tile)
    packer.add_divisor(1 if across else max(plane.shape[1], 1))
    packer.add_divisor(max(pooled.sides[0] * pooled.sides[1], 1))
    packer.add_divisor(-(-lanes // group))
    low = min((prod(plane.sides) - 1) * plane.space[2], 0)
    low += min((min(lanes, vector) - 1) * plane.strides[1], 0)
    packer.add_index(lanes, group, int(plane.is_linear), low)
    for array in arrays[:2]:
        packer.add_index(*array.sides)
    for axis in (1, 2):
        packer.add_divisors(max(array.sides[axis], 1) for array in arrays[:2])
    for array in arrays:
        batch, channels, *space = five_strides(array.strides)
        packer.add_index(batch, *((0, *space, channels) if across else (channels, *space, 0)))
    return packer.finish()
