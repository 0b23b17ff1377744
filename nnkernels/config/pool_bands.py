"""Pooling on a GPU of rows that lie in memory element by element: bands of rows of a block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from nnkernels.config import pool
from nnkernels.config.device import Device
from nnkernels.config.matmul_problem import round_up
from nnkernels.config.pool import PoolProblem
from nnkernels.dispatch.axes import largest_power_of_two

# Threads of a block.
THREADS = 256
# What a block has in shared memory of what is pooled, in bytes: eight blocks of a multiprocessor
# leave room for its level-1 cache, where rows are that windows share.
BAND_BYTES = 8192
# Rows of a block at most: there is a table of them.
_ROWS = 128
# Blocks of a multiprocessor, so that all are busy.
_BLOCKS = 4
# What one access of a thread may be of the computing type.
_COMPUTED_BYTES = 32
# Rows of which a thread makes a result: it finds its place in a row once for them.
ROWS = 4
# Numbers of a row and of a window in the tables of the kernels.
_ROW_NUMBERS = 12
_WINDOW_NUMBERS = 4


@dataclass(frozen=True)
class BandConfig:
    """Template arguments of an instance of pool_bands.cuh or its gradients, and its pieces.

    Attributes
    ----------
    kind : {"forward", "sums", "maxima"}
        The kernel: a pooling, or the gradient of one.
    loaded, stored : int
        Elements of an access of what is read, of maxima of dx, and rows of results of a thread.
    tile : int
        Rows of results of a block; of maxima, rows of one plane.
    planes : int
        Planes of a block, of maxima.
    piece : int
        Results of a row that a block has.
    length : int
        Elements of a row in shared memory; of sums, windows.
    seen : tuple of int
        Of maxima, the most windows along depth and height that see a band.
    scratch : int
        Bytes of shared memory.
    """

    kind: str
    index: str
    loaded: int
    stored: int
    tile: int
    planes: int
    piece: int
    length: int
    seen: tuple[int, int]
    blocks: int
    scratch: int


def configure(problem: PoolProblem, device: Device) -> BandConfig | None:
    """How a block makes a band of rows, or None where rows are not made that way."""
    plain = not (problem.adaptive or problem.has_powers or pool.adjacent_lanes(problem))
    adjacent = all(s[4] == size for s, size in zip(problem.strides, problem.itemsizes, strict=True))
    if not (device.is_gpu and plain and adjacent):
        return None
    if not problem.backward:
        found = _forward(problem, device)
    elif problem.labelled:
        found = _maxima(problem, device)
    else:
        found = _sums(problem, device)
    return found if found and found.scratch <= device.shared_limit else None


def _access(problem: PoolProblem, operands: Sequence[int], length: int, most: int) -> int:
    """Elements of one access of some operands with rows of a length: a power of two."""
    count = most
    while count > 1:
        aligned = all(
            largest_power_of_two(16, problem.alignment, *problem.strides[i][:4])
            >= min(count * problem.itemsizes[i], 16)
            for i in operands
        )
        if aligned and length % count == 0:
            break
        count //= 2
    return count


def _widest(problem: PoolProblem, operand: int) -> int:
    """Elements of the widest access of an operand."""
    return min(16 // problem.itemsizes[operand], _COMPUTED_BYTES // problem.compute_itemsize)


def _shared_out(rows: int, most: int, pieces: int, device: Device) -> int:
    """Rows of a block, so that all processors have some."""
    wanted = -(-rows * pieces // (_BLOCKS * device.processors))
    return max(min(most, _ROWS, wanted), 1)


def _whole_sets(rows: int) -> int:
    """So that each thread has as many rows as it takes."""
    return rows // ROWS * ROWS if rows >= ROWS else rows


def _room(row: int, beside: int, elements: int) -> int:
    """Elements for each row of a block: for as many rows as a thread takes, if pieces of them are
    long beside what two of them share.
    """
    room = elements // ROWS
    return room if row <= room or 2 * beside <= room else elements


def _index_bytes(problem: PoolProblem) -> int:
    return 8 if problem.index == "q" else 4


def _forward(problem: PoolProblem, device: Device) -> BandConfig | None:
    depth, height, width = problem.axes
    if width.stride > width.reach:  # elements that no window sees would be read
        return None
    elements = BAND_BYTES // problem.compute_itemsize
    loaded = _access(problem, (0,), width.size, _widest(problem, 0))
    piece, length = width.out, round_up(width.size, loaded)
    room = _room(max(piece, length), width.reach + loaded, elements)
    if max(piece, length) > room:
        piece = (room - width.reach - loaded) // width.stride
        if piece <= 0:
            return None
        length = round_up((piece - 1) * width.stride + width.reach + loaded - 1, loaded)
    rows = prod(problem.planes) * depth.out * height.out
    pieces = -(-width.out // piece)
    tile = _whole_sets(_shared_out(rows, elements // length, pieces, device))
    kept = 2 if problem.labelled else 1
    tables = (tile * _ROW_NUMBERS + piece * _WINDOW_NUMBERS) * _index_bytes(problem)
    return BandConfig(
        kind="forward",
        index=problem.index,
        loaded=loaded,
        stored=ROWS,
        tile=tile,
        planes=0,
        piece=piece,
        length=length,
        seen=(0, 0),
        blocks=pieces * -(-rows // tile),
        scratch=tables + kept * tile * length * problem.compute_itemsize,
    )


def _sums(problem: PoolProblem, device: Device) -> BandConfig | None:
    depth, height, width = problem.axes
    elements = BAND_BYTES // problem.compute_itemsize
    pooled = [i for i, image in enumerate(problem.images) if not image]
    loaded = _access(problem, pooled, width.out, _widest(problem, 0))
    piece, length = width.size, width.out
    room = _room(max(piece, length), width.reach + 2 * loaded, elements)
    if max(piece, length) > room:
        piece = min((room - 2 * loaded - 1) * width.stride - width.reach, room)
        if piece <= 0:
            return None
        length = round_up(-(-(piece + width.reach - 1) // width.stride) + loaded, loaded)
    rows = prod(problem.planes) * depth.size * height.size
    pieces = -(-width.size // piece)
    tile = _whole_sets(_shared_out(rows, elements // max(piece, length), pieces, device))
    tables = (tile * _ROW_NUMBERS + length) * _index_bytes(problem)
    tables += round_up(2 * piece * _index_bytes(problem), 16)
    sums = round_up(tile * length * problem.compute_itemsize, 16)
    return BandConfig(
        kind="sums",
        index=problem.index,
        loaded=loaded,
        stored=ROWS,
        tile=tile,
        planes=0,
        piece=piece,
        length=length,
        seen=(0, 0),
        blocks=pieces * -(-rows // tile),
        scratch=tables + sums,
    )


def _maxima(problem: PoolProblem, device: Device) -> BandConfig | None:
    depth, height, width = problem.axes
    elements = BAND_BYTES // problem.compute_itemsize
    if width.size > elements:
        return None
    planes = prod(problem.planes)
    rows = min(height.size, elements // width.size)
    rows = -(-height.size // -(-height.size // rows))
    bands = depth.size * -(-height.size // rows)
    group = min(max(elements // (rows * width.size), 1), planes)
    group = _shared_out(planes * bands, group, 1, device)
    found = BandConfig(
        kind="maxima",
        index=problem.index,
        loaded=_access(problem, (0,), width.size, 2),
        stored=ROWS,
        tile=rows,
        planes=group,
        piece=width.size,
        length=0,
        seen=(0, 0),
        blocks=0,
        scratch=0,
    )
    while True:
        found = _with_scratch(found, problem)
        if found.scratch <= min(4 * BAND_BYTES, device.shared_limit):
            return found
        if found.planes > 1:
            found = replace(found, planes=found.planes // 2)
        elif found.tile > 1:
            found = replace(found, tile=-(-found.tile // 2))
        else:
            return None


def _with_scratch(chosen: BandConfig, problem: PoolProblem) -> BandConfig:
    """What a block of maxima needs for its rows and planes, and how many blocks there are."""
    depth, height, width = problem.axes
    seen = (
        min(-(-depth.reach // depth.stride), depth.out),
        min(-(-(chosen.tile + height.reach - 1) // height.stride), height.out),
    )
    lines = 4 * _index_bytes(problem) * chosen.planes * (-(-chosen.tile // ROWS) + prod(seen))
    taps = round_up(prod(axis.kernel for axis in problem.axes) * _index_bytes(problem), 16)
    covers = round_up(2 * (width.size // chosen.loaded) * _index_bytes(problem), 16)
    terms = chosen.planes * prod(seen) * width.out * 2 * problem.compute_itemsize
    groups = -(-prod(problem.planes) // chosen.planes)
    return replace(
        chosen,
        seen=seen,
        blocks=groups * depth.size * -(-height.size // chosen.tile),
        scratch=lines + taps + covers + terms,
    )
