"""Tiles of points, groups of channels and vectors of `grid_sample` and its gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nnkernels.config.device import Device
from nnkernels.config.matmul_problem import round_up
from nnkernels.dispatch.axes import largest_power_of_two

_GPU_THREADS = 128
# Of the tables of a tile in shared memory: of 48 KiB that any kernel may have, three or four fit.
_TABLE_BYTES = 24 * 1024
_CPU_POINTS = 512
# On a CPU, a block has so many elements of the result at least.
_CPU_BLOCK = 32768
# Channels of a block of a GPU, beside a tile of points.
_GPU_CHANNELS = 64
# Points of a tile whose gradients are added, as vectors of channels, to sums in scratch memory; the
# blocks that there are then at least; and channels that are worth it.
_CPU_SCATTERED = 128
_CPU_BLOCKS = 8
_LEAST_LANES = 2
# Adjacent channels that are loaded together, for a vector of points.
_MOST_NEIGHBOURS = 4
# A thread owns at least so many elements of a plane of dx: each goes through all points.
_LEAST_RANGE = 16


@dataclass(frozen=True)
class GridProblem:
    """One call.

    Attributes
    ----------
    images, channels, points, elements : int
        Of x; points of the grid and elements of x in a plane.
    itemsize, compute_itemsize, index_itemsize : int
        Of x, of the sums, and of an offset.
    numbers : int
        Offsets and weights that are kept for a point.
    channels_adjacent : bool
        Whether channels are adjacent in x and in the result.
    alignment : int
        A power of two that divides the addresses and all other strides of both.
    unit_row : bool
        Whether elements along the last axis of x are adjacent, of which there are two at least.
    linear : bool
        Whether the places of two taps along an axis follow each other.
    """

    images: int
    channels: int
    points: int
    elements: int
    itemsize: int
    compute_itemsize: int
    index_itemsize: int
    numbers: tuple[int, int]
    channels_adjacent: bool = False
    alignment: int = 1
    unit_row: bool = False
    linear: bool = False


@dataclass(frozen=True)
class GridConfig:
    """Template arguments and sizes of a block."""

    threads: int
    vector: int
    points: int
    across: bool
    channels: int
    ranges: int = 1
    range_groups: int = 1
    paired: bool = False
    neighbours: int = 0
    planes: bool = False
    scatters: bool = False
    scratch_bytes: int = 0


def loads_pairs(problem: GridProblem, device: Device) -> bool:
    """Whether a CPU loads two taps by one access of 8 bytes.

    They take the place of two gathers, which are slow on AMD's processors.
    """
    neighbours = problem.unit_row and problem.linear
    return not device.is_gpu and neighbours and problem.itemsize == 4


def _neighbours(problem: GridProblem, device: Device, lanes: int) -> int:
    """Channels of a pixel that a CPU loads at once, for a vector of points; 0 if it does not.

    They take the place of a gather for each channel.
    """
    if device.is_gpu or not problem.channels_adjacent or problem.itemsize != 4:
        return 0
    return problem.channels if problem.channels <= _MOST_NEIGHBOURS and lanes > 1 else 0


def _points(problem: GridProblem, device: Device, most: int) -> int:
    """Points of a tile: a power of two whose tables fit."""
    offsets, weights = problem.numbers
    if loads_pairs(problem, device):  # also what tells which elements are taps
        offsets += offsets // 2
    each = offsets * problem.index_itemsize + weights * problem.compute_itemsize
    limit = _TABLE_BYTES if device.is_gpu else 2 * _TABLE_BYTES
    points = most
    while points > 16 and points * each > limit:
        points //= 2
    return points


def configure(problem: GridProblem, device: Device) -> GridConfig:
    """The kernel for the values."""
    if device.is_gpu:
        across, vector = True, 1
        if problem.channels_adjacent:
            across = False
            widest = max(device.vector_bytes // problem.itemsize, 1)
            vector = largest_power_of_two(widest, problem.channels)
            while vector > 1 and problem.alignment % min(vector * problem.itemsize, 16):
                vector //= 2
        points = _points(problem, device, _GPU_THREADS)
        channels = min(problem.channels, _GPU_CHANNELS)
        return GridConfig(_GPU_THREADS, vector, points, across, channels)
    lanes = max(device.vector_bytes // problem.compute_itemsize, 1)
    across = not (problem.channels_adjacent and problem.channels >= lanes // 2)
    points = _points(problem, device, _CPU_POINTS)
    channels = min(problem.channels, max(_CPU_BLOCK // points, 1))
    if not across:  # up to four registers: a tap is looked up once for all
        lanes *= largest_power_of_two(4, max(channels // lanes, 1))
    paired = across and loads_pairs(problem, device)
    neighbours = _neighbours(problem, device, lanes) if across and not paired else 0
    return GridConfig(1, lanes, points, across, channels, paired=paired, neighbours=neighbours)


def configure_grid_gradient(problem: GridProblem, device: Device) -> GridConfig:
    """The kernel for the gradient of the grid."""
    if device.is_gpu:
        points = _points(problem, device, _GPU_THREADS)
        return GridConfig(_GPU_THREADS, 1, points, True, problem.channels)
    lanes = max(device.vector_bytes // problem.compute_itemsize, 1)
    return GridConfig(
        1, lanes, _points(problem, device, _CPU_POINTS), True, problem.channels,
        paired=loads_pairs(problem, device), planes=problem.unit_row,
        neighbours=0 if problem.unit_row else _neighbours(problem, device, lanes),
    )  # fmt: skip


def _scratch_bytes(problem: GridProblem, lanes: int) -> int:
    return round_up(problem.elements, lanes) * lanes * problem.compute_itemsize


def _scattered_lanes(problem: GridProblem, device: Device) -> int:
    """Channels whose sums lie side by side in scratch memory; 0 if too few would.

    By the shapes alone: some blocks for the threads, and few lanes without a channel.
    """
    lanes = max(device.vector_bytes // problem.compute_itemsize, 1)
    while lanes > 1 and (
        _scratch_bytes(problem, lanes) > device.shared_limit
        or 2 * problem.channels <= lanes
        or problem.images * -(-problem.channels // lanes) < _CPU_BLOCKS
    ):
        lanes //= 2
    return lanes if lanes >= _LEAST_LANES else 0


def configure_image_gradient(problem: GridProblem, device: Device) -> GridConfig:
    """The kernel for the gradient of the image: who owns which part of it."""
    planes = problem.images * problem.channels
    if not device.is_gpu:
        lanes = _scattered_lanes(problem, device)
        if lanes:
            wide = replace(problem, numbers=(problem.numbers[0], problem.numbers[1] + lanes))
            points = _points(wide, device, _CPU_SCATTERED)
            scratch = _scratch_bytes(problem, lanes)
            return GridConfig(1, lanes, points, False, lanes, scatters=True, scratch_bytes=scratch)
        # By the shapes alone: some blocks for the threads, and some channels for each tile.
        channels = min(max(planes // 32, 1), 16, problem.channels)
        return GridConfig(1, 1, _points(problem, device, _CPU_POINTS), True, channels)
    channels = min(problem.channels, 32)
    wanted = max(device.processors * _GPU_THREADS * 4 // planes, 1)
    most = max(problem.elements // _LEAST_RANGE, 1)
    parts = min(wanted, most)
    ranges = min(max(_GPU_THREADS // channels, 1), parts)
    points = _points(problem, device, _GPU_THREADS)
    return GridConfig(_GPU_THREADS, 1, points, True, channels, ranges, -(-parts // ranges))
