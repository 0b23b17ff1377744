"""Plans of sampling at the points of a grid: everything about a call but its pointers."""

from __future__ import annotations

from math import prod
from typing import Any

from nnkernels.compile.instance import Instance
from nnkernels.config import grid_sample as config
from nnkernels.dispatch import machines
from nnkernels.dispatch.axes import (
    Shape,
    Strides,
    contiguous_strides,
    index_kind,
    largest_power_of_two,
    memory_order,
)
from nnkernels.dispatch.dtypes import ELEMENTS, Element, name_of, numpy_dtype
from nnkernels.dispatch.grid_sample import (
    MODES,
    PADDINGS,
    Sampling,
    problem_of,
    result_shape,
)
from nnkernels.dispatch.packing import Packer, pointer_struct
from nnkernels.dispatch.results import Allocation, check_out


class GridPlan:
    """A launch for pointers in some order."""

    __slots__ = ("allocation", "pack", "reaches", "start", "tail", "workspace")

    def __init__(self, allocation: Allocation, pointers: int) -> None:
        self.allocation = allocation
        self.workspace: Allocation | None = None
        self.start: Any = None
        self.tail = b""
        self.pack = pointer_struct(pointers).pack
        self.reaches: list[tuple[int, int]] = []

    def run(self, *addresses: int) -> None:
        """Launch, if there is anything to do."""
        if self.start is not None:
            self.start(self.pack(*addresses) + self.tail)


def _reach(shape: Shape, strides: Strides, itemsize: int = 0) -> tuple[int, int]:
    """The lowest and the highest byte."""
    steps = [stride * (size - 1) for stride, size in zip(strides, shape, strict=True)]
    return sum(s for s in steps if s < 0), sum(s for s in steps if s > 0) + itemsize


def _element(array: Any) -> Element:
    return ELEMENTS[name_of(array.dtype)]


def _index(rank: int, *arrays: tuple[Shape, Strides]) -> str:
    """``"i"`` if 32 bits reach every byte, and count all blocks and items."""
    kinds = [index_kind(shape, (strides,), slack=1 << 20) for shape, strides in arrays]
    return "q" if "q" in kinds else "i"


def _types(x: Any, grid: Any, sampling: Sampling) -> str:
    """The first template arguments."""
    found = _element(x)
    return (
        f"{found.storage}, {_element(grid).storage}, {found.compute}, {x.ndim - 2}, "
        f"{MODES[sampling.mode]}, {PADDINGS[sampling.padding_mode]}"
    )


def _pack_points(packer: Packer, x: Any, grid: Any, sampling: Sampling) -> None:
    """The struct GridPoints."""
    packer.align(8 if packer.index == "q" else 4)
    sizes = grid.shape[1:-1]
    packer.add_index(prod(sizes))
    packer.add_divisors(max(n, 1) for n in sizes)
    packer.add_index(*grid.strides)
    packer.add("i", *x.shape[2:], int(sampling.align_corners))
    packer.align(8 if packer.index == "q" else 4)


def _cpp_index(index: str) -> str:
    return "int32" if index == "i" else "int64"


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _flags(*values: bool, neighbours: int = 0) -> str:
    """The last template arguments, where they are not those that are left out."""
    flags = "".join(f", {_bool(v)}" for v in values) if any(values) or neighbours else ""
    return f"{flags}, {neighbours}" if neighbours else flags


# ---- values -------------------------------------------------------------------------------------


def values_plan(
    sampling: Sampling, x: Any, grid: Any, out: Any, machine: Any, alignment: int
) -> GridPlan:
    """The plan of the values; with ``out``, for a result that is given."""
    shape, found = result_shape(x, grid), _element(x)
    machines.require_aligned(machine, (x, grid), ("x", "grid"))
    order = memory_order(x.shape, x.strides)
    strides = contiguous_strides(shape, found.itemsize, order)
    plan = GridPlan(Allocation(shape, x.dtype, order), 3)
    if out is not None:
        check_out(out, "out", shape, x.dtype)
        machines.require_aligned(machine, (out,), ("out",))
        strides = out.strides
    if 0 in shape:
        return plan
    rank, size = x.ndim - 2, found.itemsize
    index = _index(rank, (x.shape, x.strides), (shape, strides), (grid.shape, grid.strides))
    others = [*x.strides[:1], *x.strides[2:], *strides[:1], *strides[2:]]
    taps = sampling.taps(rank)
    adjacent = shape[1] > 1 and x.strides[1] == strides[1] == size
    problem = problem_of(
        sampling, x, grid, found, index, (taps + 1, taps), channels_adjacent=adjacent,
        alignment=largest_power_of_two(alignment, *others),
    )  # fmt: skip
    chosen = config.configure(problem, machine.device)
    tiles = -(-problem.points // chosen.points)
    groups = -(-problem.channels // chosen.channels)
    packer = Packer(3, index)
    packer.add_index(tiles, groups, chosen.channels, problem.channels)
    packer.add_divisors((tiles, groups))
    packer.add_index(*strides)
    packer.add_index(*x.strides)
    packer.add_index(_reach(x.shape[2:], x.strides[2:])[0])
    for low, high in (_reach(shape, strides, size), _reach(x.shape, x.strides, size)):
        packer.add_index(low, high - low)
    _pack_points(packer, x, grid, sampling)
    plan.tail = packer.finish()
    unit = _is_row(shape[2:], strides[2:], size)
    kernel = (
        f"GridSample<{_types(x, grid, sampling)}, {chosen.vector}, {_bool(chosen.across)}, "
        f"{chosen.points}, {_cpp_index(index)}, {_bool(unit and chosen.across)}"
        f"{_flags(chosen.paired, neighbours=chosen.neighbours)}>"
    )
    traffic = prod(shape) * size * (1 + taps)
    plan.start = machine.prepare(
        Instance("grid_sample", kernel, chosen.threads), shape[0] * tiles * groups, 0, traffic
    )
    return plan


def _is_row(shape: Shape, strides: Strides, itemsize: int) -> bool:
    """Whether the elements are adjacent in C order."""
    wanted = contiguous_strides(shape, itemsize)
    return all(n == 1 or s == w for n, s, w in zip(shape, strides, wanted, strict=True))


# ---- gradients ----------------------------------------------------------------------------------


def grid_gradient_plan(sampling: Sampling, dy: Any, x: Any, grid: Any, machine: Any) -> GridPlan:
    """The plan of the gradient of the grid."""
    machines.require_aligned(machine, (dy, x, grid), ("dy", "x", "grid"))
    element = _element(grid)
    order = memory_order(grid.shape, grid.strides)
    strides = contiguous_strides(grid.shape, element.itemsize, order)
    plan = GridPlan(Allocation(grid.shape, grid.dtype, order), 4)
    if 0 in grid.shape:
        return plan
    rank = x.ndim - 2
    index = _index(
        rank, (x.shape, x.strides), (dy.shape, dy.strides), (grid.shape, grid.strides),
        (grid.shape, strides),
    )  # fmt: skip
    taps = sampling.taps(rank)
    adjacent = x.shape[1] > 1 and x.strides[1] == dy.strides[1] == x.dtype.itemsize
    problem = problem_of(
        sampling, x, grid, _element(x), index, (taps + 1, rank * taps), channels_adjacent=adjacent
    )
    chosen = config.configure_grid_gradient(problem, machine.device)
    tiles = -(-problem.points // chosen.points)
    packer = Packer(4, index)
    packer.add_index(tiles, problem.channels)
    packer.add_divisor(tiles)
    packer.add_index(*strides)
    packer.add_index(*dy.strides, _reach(dy.shape[2:], dy.strides[2:])[0])
    packer.add_index(*x.strides, _reach(x.shape[2:], x.strides[2:])[0])
    _pack_points(packer, x, grid, sampling)
    plan.tail = packer.finish()
    unit = not machine.device.is_gpu and _is_row(dy.shape[2:], dy.strides[2:], dy.dtype.itemsize)
    kernel = (
        f"GridSampleBackwardGrid<{_types(x, grid, sampling)}, {chosen.vector}, {chosen.points}, "
        f"{_cpp_index(index)}"
        f"{_flags(chosen.planes, chosen.paired, unit, neighbours=chosen.neighbours)}>"
    )
    traffic = dy.size * (1 + taps) * _element(x).itemsize
    instance = Instance("grid_sample_backward", kernel, chosen.threads)
    plan.start = machine.prepare(instance, x.shape[0] * tiles, 0, traffic)
    return plan


def image_gradient_plan(sampling: Sampling, dy: Any, x: Any, grid: Any, machine: Any) -> GridPlan:
    """The plan of the gradient of the image."""
    found, rank = _element(x), x.ndim - 2
    machines.require_aligned(machine, (dy, grid), ("dy", "grid"))
    order = memory_order(x.shape, x.strides)
    strides = contiguous_strides(x.shape, found.itemsize, order)
    plan = GridPlan(Allocation(x.shape, x.dtype, order), 4)
    if 0 in x.shape:
        return plan
    sizes, elements = x.shape[2:], prod(x.shape[2:])
    step = strides[-1] if sizes[-1] > 1 else min(strides[2:])
    linear = tuple(step * s for s in contiguous_strides(sizes, 1))
    apart = found.itemsize != found.compute_itemsize or any(
        n > 1 and s != w for n, s, w in zip(sizes, strides[2:], linear, strict=True)
    )
    sums: Strides = (strides[0], strides[1], step)
    if apart:
        plan.workspace = Allocation(
            (x.shape[0], x.shape[1], elements), numpy_dtype(found.compute_name), (0, 1, 2)
        )
        sums = contiguous_strides(plan.workspace.shape, found.compute_itemsize)
    index = _index(
        rank, (x.shape, strides), (x.shape[:2], sums[:2]), (dy.shape, dy.strides),
        (grid.shape, grid.strides),
    )  # fmt: skip
    taps = sampling.taps(rank)
    problem = problem_of(sampling, x, grid, found, index, (taps + 1, taps))
    chosen = config.configure_image_gradient(problem, machine.device)
    if chosen.scatters:
        return _scattered(plan, sampling, dy, x, grid, index, chosen, strides, machine)
    groups = -(-problem.channels // chosen.channels)
    length = -(-elements // (chosen.ranges * chosen.range_groups))
    packer = Packer(4, index)
    packer.add_index(groups, chosen.channels, problem.channels)
    packer.add_index(chosen.range_groups, chosen.ranges, length, elements)
    packer.add_divisors((groups, chosen.range_groups, chosen.channels))
    packer.add_index(*sums)
    plan.tail = _packed_gradient(packer, strides, dy, x, grid, sampling)
    kernel = (
        f"GridSampleBackwardX<{_types(x, grid, sampling)}, {chosen.points}, {_cpp_index(index)}, "
        f"{_bool(apart)}>"
    )
    traffic = (dy.size * (1 + taps) + x.size) * found.itemsize
    instance = Instance("grid_sample_backward", kernel, chosen.threads)
    blocks = x.shape[0] * groups * chosen.range_groups
    plan.start = machine.prepare(instance, blocks, 0, traffic)
    return plan


def _packed_gradient(
    packer: Packer, strides: Strides, dy: Any, x: Any, grid: Any, sampling: Sampling
) -> bytes:
    """The arguments of both kernels for the gradient of the image, with those that they share."""
    packer.add_index(*strides)
    packer.add_index(*dy.strides)
    packer.add_divisors(x.shape[2:])
    packer.add_index(*contiguous_strides(x.shape[2:], 1))
    _pack_points(packer, x, grid, sampling)
    return packer.finish()


def _lie(shape: Shape, strides: Strides, itemsize: int) -> str:
    """How a plane lies, as `cuda_src/nnk/grid_sample_scatter.cuh` names it."""
    if _is_row(shape[2:], strides[2:], itemsize):
        return "elements_adjacent"
    return "channels_adjacent" if strides[1] == itemsize else "planes_apart"


def _scattered(
    plan: GridPlan,
    sampling: Sampling,
    dy: Any,
    x: Any,
    grid: Any,
    index: str,
    chosen: config.GridConfig,
    strides: Strides,
    machine: Any,
) -> GridPlan:
    """The plan of a launch that adds channels side by side."""
    size = x.dtype.itemsize
    groups = -(-x.shape[1] // chosen.vector)
    packer = Packer(4, index)
    packer.add_index(groups, x.shape[1], prod(x.shape[2:]))
    packer.add_divisor(groups)
    plan.tail = _packed_gradient(packer, strides, dy, x, grid, sampling)
    plan.workspace = None
    kernel = (
        f"GridSampleScatter<{_types(x, grid, sampling)}, {chosen.vector}, {chosen.points}, "
        f"{_cpp_index(index)}, {_lie(x.shape, strides, size)}, {_lie(dy.shape, dy.strides, size)}>"
    )
    traffic = (dy.size * (1 + sampling.taps(x.ndim - 2)) + x.size) * size
    plan.start = machine.prepare(
        Instance("grid_sample_scatter", kernel, chosen.threads), x.shape[0] * groups,
        chosen.scratch_bytes, traffic,
    )  # fmt: skip
    return plan
