"""Maxima of windows that overlap much, on a CPU: searched along rows first, gradients scattered."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from nnkernels.config import pool
from nnkernels.config.device import Device
from nnkernels.config.elementwise import UNIT_STEP
from nnkernels.config.pool import PoolProblem
from nnkernels.dispatch.axes import INT32_MAX
from nnkernels.dispatch.windows import Axis

# What gradients of maxima take, in cycles of Zen 4. Scattered, for an element, and for a window.
_CLEARED, _ADDITION = 0.8, 4.6


@dataclass(frozen=True)
class _Gathering:
    """Gathered: to begin a row, or a pixel; a register of results, and to look up a window."""

    begin: float
    store: float
    look_up: float


_IN_ROWS = _Gathering(90, 9, 6.8)
_IN_PIXELS = _Gathering(20, 7, 6)
# A register of a row whose remainders by the stride are put between each other one by one.
_JOIN = 20
# Windows whose places are kept in a table, about.
_RUN = 1024
# Planes whose sums are made at once where they are apart, and of how many.
_PLANES = 4
_MANY_PLANES = 16
# Of the scratch memory of a thread, the part that sums take.
_SHARE = 2
# Windows of a block, about.
_BLOCK = 16384
# How often a window may be visited, because bands are narrower than windows reach.
_VISITS = 2
# Registers of a vector, of independent comparisons.
_CHANNEL_REGISTERS = 4
_ROW_REGISTERS = 2
# Scratch memory for maxima of rows, and how many comparisons along rows must save.
_RING_BYTES = 128 * 1024
_SAVING = 1.5


# ---- the search ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchConfig:
    """Template arguments of an instance of ``PoolSearch``, and its pieces.

    Attributes
    ----------
    lanes : {"channels", "batch", ""}
        The axis of planes along which a vector is; none if it is along a row.
    planes : tuple of int
        The axes of planes that are left.
    groups : int
        Vectors along the lanes.
    step : int
        Whether a vector is one access of every operand.
    piece : int
        Windows of a row that are made at once.
    ring : tuple of int
        Depths and rows whose maxima are kept.
    length : int
        Elements of a row of the image that the windows of a piece see, rounded up.
    """

    lanes: str
    planes: tuple[int, int]
    lane_count: int
    groups: int
    vector: int
    step: int
    index: str
    streaming: bool
    piece: int
    ring: tuple[int, int]
    length: int
    units: int
    tile: int

    @property
    def scratch(self) -> tuple[int, int, int]:
        """Elements as wide as the computing type, and indices, and the elements of a row."""
        size = self.piece * self.vector if self.lanes else _whole(self.piece, self.vector)
        rows = prod(self.ring)
        return self.length + (2 * rows + 1) * size + rows, 2 * rows, size


def configure_search(problem: PoolProblem, device: Device) -> SearchConfig | None:
    """How maxima and their labels are searched along rows first, or None where that saves little.

    Parameters
    ----------
    problem : PoolProblem
        Of an image, y or not, and labels.
    """
    depth, height, width = problem.axes
    lanes = pool.adjacent_lanes(problem)
    if device.is_gpu or problem.adaptive or not (lanes or pool.fits_rows(problem)):
        return None
    at_once = depth.kernel * height.kernel * width.kernel
    along_rows = depth.kernel * (min(height.stride, height.kernel) * width.kernel + height.kernel)
    vector = device.vector_bytes // problem.compute_itemsize
    if lanes and pool.lane_count(problem, lanes) > vector:
        vector *= _CHANNEL_REGISTERS
    elif not lanes and width.out > vector:
        vector *= _ROW_REGISTERS
    ring = (depth.reach, height.reach)
    every = 2 * prod(ring) * problem.compute_itemsize * (vector if lanes else 1)
    piece = min(_RING_BYTES // every, width.out)
    if piece < min(width.out, 1 if lanes else vector) or at_once < _SAVING * along_rows:
        return None
    length = 0
    if not lanes:
        piece = min(_whole(piece, vector), width.out)
        windows = _whole(piece, vector)
        length = _whole((windows - 1) * width.stride + width.reach, vector) + vector
    planes = pool.planes_beside(problem, lanes)
    groups = -(-pool.lane_count(problem, lanes) // vector) if lanes else 1
    pieces = -(-width.out // piece)
    step = pool.common_step(
        problem, [pool.lane_stride(s, lanes) if lanes else s[4] for s in problem.strides]
    )
    return SearchConfig(
        lanes=lanes,
        planes=planes,
        lane_count=pool.lane_count(problem, lanes),
        groups=groups,
        vector=vector,
        step=step,
        index=problem.index,
        streaming=step == UNIT_STEP and pool.streams(problem, device),
        piece=piece,
        ring=ring,
        length=length,
        units=prod(planes) * groups * pieces * depth.out * height.out,
        tile=height.out * max(_BLOCK // (height.out * piece), 1),
    )


def _whole(count: int, vector: int) -> int:
    return -(-count // vector) * vector


# ---- the gradient -------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScatterConfig:
    """Template arguments of an instance of ``PoolScatter``, and its pieces.

    Attributes
    ----------
    lanes : {"channels", "batch", "planes"}
        The axis of planes that are made together.
    planes : tuple of int
        The axes of planes that are left.
    lane_count, group : int
        Length of the axis of lanes, and how many of them are made at once where they are apart.
    vector : int
        Windows whose places are found at once, and elements that are written.
    adjacent : bool
        Whether all planes of the lanes lie element beside element, and are one.
    extent : tuple of int
        Depths and rows of a band: all rows where there are several depths.
    capacity : int
        Sums of a plane in scratch memory, or elements from a plane of dx to the next.
    direct : bool
        Whether sums are made in dx itself.
    run : int
        Rows of windows that follow each other in memory.
    """

    lanes: str
    planes: tuple[int, int]
    lane_count: int
    group: int
    vector: int
    adjacent: bool
    index: str
    streaming: bool
    extent: tuple[int, int]
    bands: tuple[int, int]
    capacity: int
    direct: bool
    run: int

    @property
    def beside(self) -> int:
        """Numbers that lie beside each other for one element."""
        return self.lane_count if self.adjacent else 1

    @property
    def sums(self) -> int:
        """In scratch memory."""
        return 0 if self.direct else self.capacity * self.group

    @property
    def groups(self) -> int:
        """Of planes that are made at once."""
        return 1 if self.adjacent else -(-self.lane_count // self.group)

    @property
    def units(self) -> int:
        """Bands of all groups of planes."""
        return prod(self.planes) * self.groups * prod(self.bands)


def configure_scatter(problem: PoolProblem, device: Device) -> ScatterConfig | None:
    """How the gradient of a maximum is scattered, or None where gathering is faster.

    Parameters
    ----------
    problem : PoolProblem
        Of the gathering kernel: dx, dy and labels.
    """
    if device.is_gpu:
        return None
    adjacent = pool.adjacent_lanes(problem)
    lanes = adjacent or pool.any_lanes(problem)
    count = pool.lane_count(problem, lanes)
    if adjacent and not _is_dense(problem, lanes, count):
        return None
    vector = device.vector_bytes // problem.compute_itemsize
    if gathers(problem, adjacent, vector):
        return None
    group = 1 if adjacent or count < _MANY_PLANES else _PLANES
    beside = count if adjacent else 1
    room = (device.shared_limit // _SHARE // problem.compute_itemsize - 2 * vector) // group
    extent = _extent(problem.axes, room // beside)
    if extent is None or _visits(problem.axes, extent) > _VISITS:
        return None
    depth, height, width = problem.axes
    streaming = pool.streams(problem, device)
    direct = not streaming and _sums_in_place(problem, lanes, beside, group)
    capacity = _whole(prod(extent) * width.size * beside, vector)
    if direct:
        capacity = pool.lane_stride(problem.strides[0], lanes) // problem.itemsizes[0]
    return ScatterConfig(
        lanes=lanes,
        planes=pool.planes_beside(problem, lanes),
        lane_count=count,
        group=group,
        vector=vector,
        adjacent=bool(adjacent),
        index=problem.index,
        streaming=streaming,
        extent=extent,
        bands=(-(-depth.size // extent[0]), -(-height.size // extent[1])),
        capacity=capacity,
        direct=direct,
        run=_rows_of_a_run(problem, beside),
    )


def _is_dense(problem: PoolProblem, lanes: str, count: int) -> bool:
    """Whether in all operands neighbours along a row follow each other, and planes each other."""
    return all(
        pool.lane_stride(s, lanes) == size and s[4] == count * size
        for s, size in zip(problem.strides, problem.itemsizes, strict=True)
    )


def _sums_in_place(problem: PoolProblem, lanes: str, beside: int, group: int) -> bool:
    """Whether the elements of planes of dx lie as their sums do, and are of the computing type."""
    size = problem.itemsizes[0]
    strides = problem.strides[0]
    step = size * beside
    for axis, stride in zip(problem.axes[::-1], strides[:1:-1], strict=True):
        if axis.size > 1 and stride != step:
            return False
        step *= axis.size
    between = abs(pool.lane_stride(strides, lanes))
    return size == problem.compute_itemsize and group * between <= INT32_MAX


def _rows_of_a_run(problem: PoolProblem, beside: int) -> int:
    """How many rows of windows are taken as one: some that follow each other in memory."""
    _, height, width = problem.axes
    follow = all(s[3] == width.out * s[4] for s in problem.strides[1:])
    most = max(_RUN // (width.out * beside), 1)
    return min(most, height.out) if follow and not problem.adaptive else 1


def gathers(problem: PoolProblem, adjacent: str, vector: int) -> bool:
    """Whether looking up the windows of an element is faster than adding each to its maximum."""
    width = problem.axes[2]
    windows = prod(axis.out for axis in problem.axes) / prod(axis.size for axis in problem.axes)
    looks = windows * prod(axis.kernel for axis in problem.axes)
    if adjacent:
        cost, length = _IN_PIXELS, pool.lane_count(problem, adjacent)
        registers = float(-(-length // vector))
    elif pool.fits_rows(problem):
        cost, length = _IN_ROWS, width.size
        registers = length / vector
    else:
        return False
    join = _JOIN if not adjacent and width.stride > 2 else 0
    gathered = cost.begin + registers * (cost.store + looks * cost.look_up + join)
    return gathered < length * (_CLEARED + windows * _ADDITION)


def _extent(axes: tuple[Axis, Axis, Axis], room: int) -> tuple[int, int] | None:
    """Depths and rows of a band of at most `room` elements."""
    depth, height, width = axes
    rows = room // width.size
    if rows == 0:
        return None
    if rows >= height.size:
        return min(rows // height.size, depth.size), height.size
    return 1, rows


def _visits(axes: tuple[Axis, Axis, Axis], extent: tuple[int, int]) -> float:
    """How often a window is visited, about."""
    visits = 1.0
    for axis, part in zip(axes, extent, strict=False):
        if part < axis.size:
            visits *= (part + axis.reach - 1) / part
    return visits
