"""Which kernel moves or sums elements along tables of axes, and its vectors and tiles."""

from __future__ import annotations

from dataclasses import dataclass

from nnkernels.config.blocks import units_of_a_block
from nnkernels.config.device import Device
from nnkernels.dispatch.axes import largest_power_of_two

_GPU_THREADS = 256
# Vectors of a thread that are loaded before the first is stored.
_GPU_UNROLL = 4
# Elements of a block on a CPU: enough to hide its cost, few enough to share out.
_CPU_TILE = 16384
# Elements of the result of one part of a row, and columns that stay in the level-2 cache.
_PART = 4096
_SCRATCH_BYTES = 128 * 1024
# From so many neighbours on, a row along an axis that is only copied fills vectors.
_LONG_ROW = 32


@dataclass(frozen=True)
class GatherProblem:
    """One call.

    Attributes
    ----------
    itemsize, compute_itemsize : int
        Of the elements, and of the type in which they are added.
    rows : int
        Elements of the result outside of a row.
    row : int
        Elements along the plain axis that lies innermost in the result; 1 if a mapped one does.
    moves : bool
        Whether every element of the result is one of x, or a value.
    unit_out, unit_in : bool
        Whether the elements of such a row are adjacent.
    alignment : int
        A power of two that divides all addresses and all other steps, in bytes.
    traffic : int
        Bytes of x and of the result.
    """

    itemsize: int
    compute_itemsize: int
    rows: int
    row: int
    moves: bool
    unit_out: bool
    unit_in: bool
    alignment: int
    traffic: int = 0


@dataclass(frozen=True)
class MoveCycles:
    """What a vector of `MoveRows` costs.

    Attributes
    ----------
    gathered : int
        By offsets, or by steps that have no code of their own.
    picked : int
        From one pair of registers.
    """

    gathered: int
    picked: int


# With AVX-512: a gather of 16 floats on Zen 4; two loads and a permutation.
_BY_INSTRUCTIONS = MoveCycles(55, 6)
# Otherwise, and of elements that no register holds, for each lane.
_BY_LANES = MoveCycles(2, 3)


@dataclass(frozen=True)
class GatherConfig:
    """The kernel of a call.

    Attributes
    ----------
    kernel : {"GatherMove", "MoveRows", "GatherSum", "ResampleRows"}
        The template.
    along_plain : bool
        Whether a row is the plain axis.
    vector, unroll, threads : int
        Template arguments.
    tile : int
        Elements of the result that a block makes, about.
    part, columns : int
        Limits of a part of a row, of `ResampleRows`.
    cycles : MoveCycles
        Of `MoveRows`.
    streaming : bool
        Whether whole vectors of the result go past the caches, if all are whole (`MoveRows`).
    """

    kernel: str
    along_plain: bool
    vector: int
    unroll: int
    threads: int
    tile: int
    part: int = _PART
    columns: int = _SCRATCH_BYTES
    cycles: MoveCycles = _BY_INSTRUCTIONS
    streaming: bool = False


def configure(problem: GatherProblem, device: Device) -> GatherConfig:
    """The kernel for a problem on a device."""
    if device.is_gpu:
        return _configure_gpu(problem, device)
    if problem.moves:
        vector = device.vector_bytes // problem.itemsize
        streaming = problem.traffic >= device.cache_bytes
        cycles = _BY_INSTRUCTIONS
        if device.vector_bytes < 64 or problem.itemsize > 8:
            cycles = MoveCycles(_BY_LANES.gathered * vector, _BY_LANES.picked * vector)
        tile = units_of_a_block(problem.rows * problem.row, 1, device)
        return GatherConfig(
            "MoveRows", problem.row > 1, vector, 1, 1, tile, cycles=cycles, streaming=streaming
        )  # fmt: skip
    lanes = max(device.vector_bytes // problem.compute_itemsize, 1)
    if problem.row >= _LONG_ROW:
        # Up to four registers, where the row has them: terms are looked up once for all.
        vector = largest_power_of_two(4, problem.row // lanes) * lanes
        return GatherConfig("GatherSum", True, vector, 1, 1, _CPU_TILE)
    columns = _SCRATCH_BYTES // problem.compute_itemsize
    return GatherConfig("ResampleRows", False, lanes, 1, 1, _CPU_TILE, columns=columns)


def _configure_gpu(problem: GatherProblem, device: Device) -> GatherConfig:
    vector = 1
    if problem.row > 1 and problem.unit_out and problem.unit_in:
        # Rows that are no multiple of a vector would leave a part of the threads with little.
        widest = max(device.vector_bytes // problem.itemsize, 1)
        vector = largest_power_of_two(widest, problem.row)
        while vector > 1 and problem.alignment % min(vector * problem.itemsize, 16):
            vector //= 2
    vectors = problem.rows * (problem.row // vector)
    busy = problem.moves and vectors >= device.processors * _GPU_THREADS * _GPU_UNROLL
    unroll = _GPU_UNROLL if busy else 1
    kernel = "GatherMove" if problem.moves else "GatherSum"
    return GatherConfig(
        kernel, problem.row > 1, vector, unroll, _GPU_THREADS, _GPU_THREADS * unroll * vector
    )
