"""When gradients of maxima are scattered, on a CPU, and in which pieces."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from nnkernels.config import pool
from nnkernels.config.device import Device
from nnkernels.config.pool import PoolProblem
from nnkernels.dispatch.windows import Axis

# Windows that see an element, on average, from which adding each of them to its maximum is faster
# than looking all of them up, of neighbours in a row and of neighbouring channels.
_CROWDED_ROW = 20
_CROWDED_CHANNELS = 20
# Planes whose sums are made at once where they are apart, and of how many.
_PLANES = 4
_MANY_PLANES = 16
# Of the scratch memory of a thread, the part that sums take.
_SHARE = 2
# How often a window may be visited, because bands are narrower than windows reach.
_VISITS = 2


@dataclass(frozen=True)
class ScatterConfig:
    """Template arguments of an instance of ``PoolScatter``, and its pieces.

    Attributes
    ----------
    lanes : {"channels", "batch", "planes"}
        The axis of planes of which `group` are made at once.
    planes : tuple of int
        The axes of planes that are left.
    lane_count, group : int
        Length of the axis of lanes, and how many of them are made at once.
    vector : int
        Elements that are written at once.
    adjacent : bool
        Whether the planes of a group lie element beside element.
    extent : tuple of int
        Depths and rows of a band: all rows where there are several depths.
    capacity : int
        Sums of a plane in scratch memory.
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

    @property
    def units(self) -> int:
        """Bands of all groups of planes."""
        return prod(self.planes) * -(-self.lane_count // self.group) * prod(self.bands)


def configure(problem: PoolProblem, device: Device) -> ScatterConfig | None:
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
    crowd = windows_of_an_element(problem.axes, problem.adaptive)
    in_rows = not adjacent and pool.fits_rows(problem)
    if (adjacent and crowd < _CROWDED_CHANNELS) or (in_rows and crowd < _CROWDED_ROW):
        return None
    vector = device.vector_bytes // problem.compute_itemsize
    group = vector if adjacent else _PLANES if count >= _MANY_PLANES else 1
    room = device.shared_limit // _SHARE // (problem.compute_itemsize * group) - vector
    extent = _extent(problem.axes, room)
    if extent is None or _visits(problem.axes, extent) > _VISITS:
        return None
    depth, height, width = problem.axes
    elements = extent[0] * extent[1] * width.size
    return ScatterConfig(
        lanes=lanes,
        planes=pool.planes_beside(problem, lanes),
        lane_count=count,
        group=group,
        vector=vector,
        adjacent=bool(adjacent),
        index=problem.index,
        streaming=pool.streams(problem, device),
        extent=extent,
        bands=(-(-depth.size // extent[0]), -(-height.size // extent[1])),
        capacity=-(-elements // vector) * vector,
    )


def windows_of_an_element(axes: tuple[Axis, Axis, Axis], adaptive: bool) -> int:
    """How many windows see an element, about."""
    if adaptive:  # they divide the image
        return 1
    return prod(min(-(-axis.kernel // axis.stride), axis.out) for axis in axes)


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
