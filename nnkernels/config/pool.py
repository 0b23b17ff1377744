"""Which results of a pooling lie side by side in a vector, and what a block has of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from nnkernels.config.blocks import units_of_a_block
from nnkernels.config.device import Device
from nnkernels.config.elementwise import ANY_STEP, UNIT_STEP
from nnkernels.config.matmul_problem import round_up
from nnkernels.dispatch.axes import INT32_MAX, Strides, index_kind, largest_power_of_two
from nnkernels.dispatch.windows import Axis

# Threads of a block of a GPU, one vector each.
_GPU_THREADS = 256
# Images up to so many bytes are likely to be in a level-2 cache: to fetch them takes a third of the
# time then (20 channels of 64 8x8 images on Zen 4, averages of 2x2: 35 us on one core and 22).
_NEAR_BYTES = 512 * 1024
# Elements that a block adds up, about, where windows are large.
_CPU_TAPS = 65536
# Registers that make a vector where neighbours are independent: loops over taps are short.
_CPU_REGISTERS = (4, 2, 1)
# Elements of a row of an image in scratch memory: with its companions it stays in a level-1 cache.
_PIECE = 2048
# What the windows of one vector may span, and how far apart they may be, to be made from there.
_REACH = 2048
_STRIDE = 64
# Of fewer windows in a row, most lanes of a vector would be idle, but where sums of so many taps
# are vectors of their own.
_LEAST_WINDOWS = 3
# Of places of maxima, so few in a row are searched in many planes at once, although each lies
# apart: to begin a row takes longer. 1280 planes on two cores of Zen 4, 2x2 and 3x3 with stride 2:
# 2 windows 132 and 154 us by rows, 21 and 28 by planes, 8 windows 349 and 396, 212 and 333, 10 383
# and 424, 264 and 431.
_FEW_PLACES = 8
_LONG_WINDOW = 12
# Elements of a row of a gradient over which windows are spread, at least.
_LEAST_ELEMENTS = 8
# Rows of a window from which they are added up in scratch memory where channels are adjacent, and
# the memory that they may take, as far as a vector of channels leaves a choice.
_HIGH_WINDOW = 7
_COLUMNS_BYTES = 32 * 1024


@dataclass(frozen=True)
class PoolProblem:
    """One launch; operands are those of the kernel, in its order.

    Attributes
    ----------
    axes : tuple of Axis
        Three: depth, height and width, of which the first ones may be trivial.
    adaptive : bool
        Whether windows divide the image.
    backward : bool
        Whether results are elements of the image, not windows.
    planes : tuple of int
        Batch and channels.
    strides : tuple of tuple of int
        In bytes, of every operand: batch, channels and the three axes.
    images : tuple of bool
        Whether an operand has the shape of the image.
    itemsizes : tuple of int
        Of every operand.
    compute_itemsize : int
        Of the computing type.
    result : int
        The operand that decides about streaming.
    alignment : int
        A power of two that divides all addresses.
    index : str
        "i" or "q", see `index_of`.
    has_powers : bool
        Whether a tap costs a logarithm and an exponential.
    labelled : bool
        Whether labels of maxima are written or read.
    """

    axes: tuple[Axis, Axis, Axis]
    adaptive: bool
    backward: bool
    planes: tuple[int, int]
    strides: tuple[Strides, ...]
    images: tuple[bool, ...]
    itemsizes: tuple[int, ...]
    compute_itemsize: int
    result: int
    alignment: int
    index: str
    has_powers: bool = False
    labelled: bool = False

    @property
    def spatial(self) -> tuple[int, ...]:
        """Results of a plane along the three axes."""
        return tuple(axis.size if self.backward else axis.out for axis in self.axes)


@dataclass(frozen=True)
class PoolConfig:
    """Template arguments of one instance, and how its results are shared out.

    Attributes
    ----------
    rows : bool
        Whether results of a row make a vector (a block of one thread), else lanes do.
    lanes : {"channels", "batch", "planes", ""}
        The axis along which results make a vector: both axes of planes as one, or none.
    planes : tuple of int
        The axes of planes that are left.
    lane_count : int
        Length of the axis of lanes.
    piece : int
        Results of a row that are made at once.
    group : int
        Planes of one vector, where groups of them take the place of the second axis of planes: so
        that all results of a group are made before those of the next. Of columns, the planes
        whose columns are added up at once.
    columns : bool
        Whether the rows that windows see are added up before columns are, of lanes.
    few : bool
        Whether rows of windows make a vector; of `piece` elements are rows of the image.
    spreads : bool
        Whether windows are spread over rows of the gradient, one after the other.
    fetches : bool
        Whether the image is fetched ahead, where lanes are adjacent.
    """

    rows: bool
    lanes: str
    planes: tuple[int, int]
    lane_count: int
    vector: int
    threads: int
    step: int
    index: str
    streaming: bool
    units: int
    tile: int
    piece: int = 0
    group: int = 0
    columns: bool = False
    few: bool = False
    spreads: bool = False
    fetches: bool = True

    @property
    def blocks(self) -> int:
        """Size of the grid."""
        return -(-self.units // self.tile)


def configure(problem: PoolProblem, device: Device) -> PoolConfig:
    """The kernel for a problem on a device. No choice changes a bit of the result."""
    lanes = adjacent_lanes(problem)
    if device.is_gpu:
        return _with_lanes(problem, lanes, _gpu_vector(problem, lanes, device), device)
    width = device.vector_bytes // problem.compute_itemsize
    if not lanes and has_few_windows(problem, width, device):
        return _with_few_windows(problem, width)
    if not lanes and fits_rows(problem) and not _searches_planes(problem, width):
        return _with_rows(problem, width, device)
    if lanes and not problem.has_powers:
        width *= _registers_of_a_vector(-(-lane_count(problem, lanes) // width))
    if (
        lanes
        and has_high_windows(problem)
        and _columns_of(problem, width, width) <= device.shared_limit
    ):
        return _with_columns(problem, lanes, width, device)
    return _with_lanes(problem, lanes or any_lanes(problem), width, device)


# ---- vectors along planes -----------------------------------------------------------------------


def adjacent_lanes(problem: PoolProblem) -> str:
    """Channels or images of a batch that are neighbours in memory."""
    for name, axis in (("channels", 1), ("batch", 0)):
        if problem.planes[axis] > 1 and problem.strides[0][axis] == problem.itemsizes[0]:
            return name
    return ""


def any_lanes(problem: PoolProblem) -> str:
    """Planes of which several make a vector though they are apart: both axes if they are one."""
    batch, channels = problem.planes
    if all(s[0] == s[1] * channels for s in problem.strides):
        return "planes"
    return "channels" if channels >= batch else "batch"


def lane_count(problem: PoolProblem, lanes: str) -> int:
    """Results along the lanes."""
    batch, channels = problem.planes
    return {"channels": channels, "batch": batch, "planes": batch * channels, "": 1}[lanes]


def planes_beside(problem: PoolProblem, lanes: str) -> tuple[int, int]:
    """The axes of planes that are no lanes."""
    batch, channels = problem.planes
    return {
        "channels": (batch, 1),
        "batch": (1, channels),
        "planes": (1, 1),
        "": (batch, channels),
    }[lanes]


def lane_stride(strides: Strides, lanes: str) -> int:
    """Of an operand, in bytes."""
    return {"channels": strides[1], "batch": strides[0], "planes": strides[1], "": 0}[lanes]


def _registers_of_a_vector(count: int) -> int:
    """How many make a vector where there are `count` of lanes: a vector costs as much as one."""
    return min(_CPU_REGISTERS, key=lambda registers: -(-count // registers) * (registers + 1))


def _gpu_vector(problem: PoolProblem, lanes: str, device: Device) -> int:
    # 32 bytes of the computing type: more spills where taps cost an exponential.
    widest = (2 * device.vector_bytes) // problem.compute_itemsize
    vector = min(device.vector_bytes // problem.itemsizes[0], widest) if lanes else 1
    axis = 1 if lanes == "channels" else 0
    while vector > 1:
        aligned = all(
            s[axis] == size
            and largest_power_of_two(16, problem.alignment, *s[:axis], *s[axis + 1 :])
            >= min(vector * size, 16)
            for s, size in zip(problem.strides, problem.itemsizes, strict=True)
        )
        if aligned and vector <= lane_count(problem, lanes):
            break
        vector //= 2
    return vector


def _with_lanes(problem: PoolProblem, lanes: str, vector: int, device: Device) -> PoolConfig:
    count = lane_count(problem, lanes)
    planes = planes_beside(problem, lanes)
    strides = [lane_stride(s, lanes) for s in problem.strides]
    step = common_step(problem, strides) if lanes else UNIT_STEP
    depth, height, width = problem.spatial
    group = 0
    if not device.is_gpu and step == ANY_STEP and planes[1] == 1 and count % vector == 0:
        group = vector
        planes, count = (planes[0], count // vector), vector
    rows = prod(planes) * depth * height
    vectors = -(-count // vector)
    return PoolConfig(
        rows=False,
        lanes=lanes,
        planes=planes,
        lane_count=count,
        vector=vector,
        threads=_GPU_THREADS if device.is_gpu else 1,
        step=step,
        index=problem.index,
        streaming=step == UNIT_STEP and streams(problem, device),
        units=rows * width * vectors if device.is_gpu else rows,
        tile=_GPU_THREADS if device.is_gpu else units_of_a_block(rows, width * count, device),
        group=group,
        fetches=device.is_gpu or is_far(problem),
    )


def is_far(problem: PoolProblem) -> bool:
    """Whether the image, or its gradient, is too large to be near a core of a CPU."""
    sizes = (axis.size for axis in problem.axes)
    return prod(problem.planes) * prod(sizes) * problem.itemsizes[0] > _NEAR_BYTES


def has_high_windows(problem: PoolProblem) -> bool:
    """Whether windows have so many rows that these are added up first."""
    depth, height, _ = problem.axes
    plain = not (problem.backward or problem.labelled or problem.adaptive)
    return plain and depth.kernel * height.kernel >= _HIGH_WINDOW


def _columns_of(problem: PoolProblem, group: int, vector: int) -> int:
    """Scratch memory for a row of an image, in bytes."""
    return problem.axes[2].size * -(-group // vector) * vector * problem.compute_itemsize


def _with_columns(problem: PoolProblem, lanes: str, vector: int, device: Device) -> PoolConfig:
    count = lane_count(problem, lanes)
    group = max(_COLUMNS_BYTES // _columns_of(problem, vector, vector), 1) * vector
    group = min(group, count)
    planes = planes_beside(problem, lanes)
    step = common_step(problem, [lane_stride(s, lanes) for s in problem.strides])
    depth, height, width = problem.axes
    taps = depth.kernel * height.kernel * width.size * group
    return PoolConfig(
        rows=False,
        lanes=lanes,
        planes=planes,
        lane_count=count,
        vector=vector,
        threads=1,
        step=step,
        index=problem.index,
        streaming=step == UNIT_STEP and streams(problem, device),
        units=prod(planes) * -(-count // group) * depth.out * height.out,
        tile=max(_CPU_TAPS // taps, 1),
        group=group,
        columns=True,
    )


def common_step(problem: PoolProblem, strides: Sequence[int]) -> int:
    """Whether a vector is one access of every operand, of the first ones that have strides here.

    Where of one it is not, of none: what is scattered costs more than what is not could save, and
    instances would be many.
    """
    adjacent = all(s == size for s, size in zip(strides, problem.itemsizes, strict=False))
    return UNIT_STEP if adjacent else ANY_STEP


def streams(problem: PoolProblem, device: Device) -> bool:
    """Whether a result is too large for the caches of a CPU."""
    written = prod(problem.planes) * prod(problem.spatial) * problem.itemsizes[problem.result]
    return not device.is_gpu and written >= device.cache_bytes


# ---- vectors of rows of windows -----------------------------------------------------------------


def has_few_windows(problem: PoolProblem, vector: int, device: Device) -> bool:
    """Whether vectors of neighbouring windows would be short, or have windows of any size."""
    width = problem.axes[2]
    plain = not (problem.backward or problem.labelled)
    scratch = 2 * vector * round_up(width.size, vector) * problem.compute_itemsize
    few = problem.adaptive or width.out < vector
    return plain and few and scratch <= device.shared_limit


def _with_few_windows(problem: PoolProblem, vector: int) -> PoolConfig:
    depth, height, width = problem.axes
    units = prod(problem.planes) * depth.out * height.out
    taps = depth.kernel * height.kernel * width.size
    tile = max(_CPU_TAPS // taps, 1)
    return PoolConfig(
        rows=False,
        lanes="",
        planes=problem.planes,
        lane_count=1,
        vector=vector,
        threads=1,
        step=common_step(problem, [s[4] for s in problem.strides][:1]),
        index=problem.index,
        streaming=False,
        units=units,
        tile=tile if tile < vector else tile // vector * vector,
        piece=round_up(width.size, vector),
        few=True,
    )


# ---- vectors along rows -------------------------------------------------------------------------


def fits_rows(problem: PoolProblem) -> bool:
    """Whether vectors of neighbours in a row can be made from scratch memory, and are of use."""
    width = problem.axes[2]
    if spreads(problem):
        return width.size >= _LEAST_ELEMENTS
    return (
        not problem.adaptive
        and width.reach <= _REACH
        and width.stride <= _STRIDE
        and (width.out >= _LEAST_WINDOWS or has_long_windows(problem))
    )


def _searches_planes(problem: PoolProblem, vector: int) -> bool:
    """Whether places of maxima are searched in many planes at once, whose rows are short."""
    searches = problem.labelled and not problem.backward
    planes = lane_count(problem, any_lanes(problem))
    return searches and problem.axes[2].out <= _FEW_PLACES and planes >= vector


def has_long_windows(problem: PoolProblem) -> bool:
    """Whether the taps of a window along a row make vectors."""
    width = problem.axes[2]
    return not problem.labelled and width.dilation == 1 and width.kernel >= _LONG_WINDOW


def spreads(problem: PoolProblem) -> bool:
    """Whether windows give what they have to a row of the gradient of sums one after the other:
    those that divide the image, and those of many taps of which few are at one element.
    """
    width = problem.axes[2]
    if not problem.backward or problem.labelled:
        return False
    long = has_long_windows(problem)
    return problem.adaptive or (long and (width.out <= 2 or 2 * width.stride >= width.kernel))


def _with_rows(problem: PoolProblem, vector: int, device: Device) -> PoolConfig:
    width = problem.axes[2]
    results = problem.spatial[2]
    if problem.backward:
        whole = -(-results // width.stride)
        piece = min(whole, max(_PIECE // width.stride // vector, 1) * vector) * width.stride
    else:
        piece = min(results, max(_PIECE // width.stride // vector, 1) * vector)
    step = common_step(problem, [s[4] for s in problem.strides])
    units = prod(problem.planes) * -(-results // piece) * prod(problem.spatial[:2])
    return PoolConfig(
        rows=True,
        lanes="",
        planes=problem.planes,
        lane_count=1,
        vector=vector,
        threads=1,
        step=step,
        index=problem.index,
        streaming=step == UNIT_STEP and streams(problem, device),
        units=units,
        tile=units_of_a_block(units, piece, device),
        piece=piece,
        spreads=spreads(problem),
    )


# ---- the type of indices ------------------------------------------------------------------------


def index_of(
    axes: tuple[Axis, Axis, Axis],
    adaptive: bool,
    planes: tuple[int, int],
    strides: tuple[Strides, ...],
    images: tuple[bool, ...],
    itemsizes: tuple[int, ...],
) -> str:
    """Return "i" if 32 bits hold every offset, place and label of a launch, else "q"."""
    kind = "i" if prod(axis.kernel for axis in axes) <= INT32_MAX else "q"
    for s, image in zip(strides, images, strict=True):
        shape = (*planes, *(axis.size if image else axis.out for axis in axes))
        if index_kind(shape, [s], slack=_GPU_THREADS * 16) == "q":
            kind = "q"
    block = 1  # flat elements between neighbours along an axis
    for axis in reversed(axes):
        far = axis.size + axis.low + axis.high + axis.stride + axis.reach + 64
        if adaptive:
            far = (axis.out + 1) * (axis.size + 1)
        if far * (block + 1) + _PIECE * 8 > INT32_MAX:
            kind = "q"
        block *= max(axis.size, 1)
    return kind
