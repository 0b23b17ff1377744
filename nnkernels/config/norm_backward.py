"""How the gradients of row norms are computed: rows as ever, and the sums for the parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nnkernels.config import rows
from nnkernels.config.device import Device
from nnkernels.config.rows import (
    ALONG,
    KEEP_NONE,
    KEEP_REGISTERS,
    KEEP_SHARED,
    RowsConfig,
    RowsProblem,
)

# What a launch keeps for the gradients of parameters: see cuda_src/nnk/norm_backward.cuh.
NO_SUMS, ROW_VALUES, WEIGHT_SUMS, PARAMETER_SUMS = 0, 1, 2, 3

# A CPU: at most so many blocks add up sums of their own, each over so many rows or more, since
# these sums are written and read once more (their number must not depend on that of threads).
_CPU_BLOCKS = 64
_CPU_ROWS = 16
# Elements of a row up to which x, dy and the sums of the parameters stay in a level-2 cache.
_CPU_LONGEST = 1 << 17
_CPU_PART = 1 << 15
# A part of a row that a block of a GPU reads a second and third time from its level-1 cache.
_GPU_PART = 8192
_GPU_PART_THREADS = 256
# So many rows at least share the sums of a part: for fewer, writing and reading sums of float32
# takes as long as reading x and dy once more.
_GPU_ROWS_OF_PART = 4
# Registers of a multiprocessor that hold blocks of 128 registers a thread.
_GPU_RESIDENT_THREADS = 512

# Groups of channels (cuda_src/nnk/group_norm_backward.cuh): elements of a channel from which on it
# is worth a team of its own, threads of a block, and numbers that are kept of a channel.
_SHORTEST_CHANNEL = 16
_GPU_GROUP_THREADS = 256
CHANNEL_NUMBERS = 6
# Shared memory that reductions have beside them.
_REDUCTION_BYTES = 4096
# Groups from which on a CPU gives each to one thread.
_CPU_GROUPS = 8


@dataclass(frozen=True)
class NormBackwardProblem:
    """One call.

    Attributes
    ----------
    rows : RowsProblem
        Its operands are x, dy, weight, what is added to dx, and dx.
    parameters : int
        How many gradients of parameters are wanted: 0, 1 (of the weight) or 2.
    shared : bool
        Whether the parameters lie along a row and all rows share them.
    """

    rows: RowsProblem
    parameters: int
    shared: bool


@dataclass(frozen=True)
class NormBackwardConfig:
    """The launch over the rows.

    Attributes
    ----------
    rows : RowsConfig
        Template arguments.
    sums : int
        What is kept for the gradients of parameters.
    tiles, tiles_of_block, blocks : int
        In how many steps the rows are taken, how many of these are one block's, and how many blocks
        there are (for each part, where rows are cut into parts).
    """

    rows: RowsConfig
    sums: int
    tiles: int
    tiles_of_block: int
    blocks: int


def configure(problem: NormBackwardProblem, device: Device) -> NormBackwardConfig:
    """The kernel for a problem on a device."""
    wanted = bool(problem.parameters)
    here = wanted and problem.shared
    chosen = _rows(problem.rows, device)
    here = here and chosen.layout == ALONG
    tiles = _tiles(problem.rows, chosen)
    tiles_of_block = 1
    if here and chosen.parts > 1:
        found = _sums_of_parts(problem.rows, chosen, tiles, device)
        here = found is not None
        chosen, tiles_of_block = found or (chosen, 1)
    elif here:
        most = _cpu_blocks(problem.rows) if not device.is_gpu else _gpu_blocks(chosen, device)
        tiles_of_block = -(-tiles // most)
    sums = (ROW_VALUES if not here else WEIGHT_SUMS + problem.parameters - 1) if wanted else NO_SUMS
    return NormBackwardConfig(chosen, sums, tiles, tiles_of_block, -(-tiles // tiles_of_block))


def _sums_of_parts(
    problem: RowsProblem, chosen: RowsConfig, tiles: int, device: Device
) -> tuple[RowsConfig, int] | None:
    """For a GPU that adds up a part of many rows in registers: the kernel, and rows of a block."""
    depth = -(-chosen.part_groups // chosen.team)
    kept = depth * chosen.team * chosen.vector
    if not device.is_gpu or problem.compute_itemsize > 4 or kept > _GPU_PART:
        return None
    tiles_of_block = -(-tiles // max(_gpu_blocks(chosen, device) // chosen.parts, 1))
    if tiles_of_block < _GPU_ROWS_OF_PART:
        return None
    return replace(chosen, depth=depth), tiles_of_block


def of_partials(problem: RowsProblem, device: Device) -> RowsConfig:
    """The kernel that adds up partial sums, which are neighbours in memory: in one piece."""
    chosen = rows.across(problem, device)
    return replace(chosen, parts=1, part_groups=problem.length)


def of_groups(
    problem: RowsProblem, channels: int, device: Device
) -> tuple[RowsConfig, bool] | None:
    """The kernel for groups of so many channels, which are the rows, and whether a block has one.

    Otherwise a block has a channel. None if channels do not lie by themselves, or are too short or
    too few to be the work of a block or a team.
    """
    chosen = rows.configure(replace(problem, tiles=0), device)
    if chosen.layout != ALONG or chosen.parts > 1 or problem.length < _SHORTEST_CHANNEL:
        return None
    groups = problem.rows // channels
    few = groups < (device.processors // 2 if device.is_gpu else _CPU_GROUPS)
    room = (device.shared_limit - _REDUCTION_BYTES) // problem.compute_itemsize
    moments = _round_up(CHANNEL_NUMBERS * channels, 16)
    whole = moments <= room and (not few or channels == 1)
    chosen = replace(chosen, parts=channels, part_groups=-(-problem.length // chosen.vector))
    if device.is_gpu:
        threads, team = _group_team(chosen.part_groups, channels if whole else 1, device)
        chosen = replace(chosen, threads=threads, team=team)
    if not whole:
        return chosen, False
    kept = moments + 2 * channels * chosen.part_groups * chosen.vector
    if device.is_gpu and kept <= room:
        return replace(chosen, keep=KEEP_SHARED, kept=kept), True
    return replace(chosen, kept=moments), True


def _group_team(groups: int, channels: int, device: Device) -> tuple[int, int]:
    """Threads of a block and of a channel, which has so many groups of elements."""
    team = device.warp
    while team > 8 and team // 2 >= groups:
        team //= 2
    beside = rows.next_power_of_two(channels)
    if team * beside >= _GPU_GROUP_THREADS // 2:
        return min(team * beside, _GPU_GROUP_THREADS), team
    # Too few channels to fill a block with teams of a warp: one after the other.
    threads = min(max(rows.next_power_of_two(groups), device.warp), _GPU_GROUP_THREADS)
    return threads, threads


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def _rows(problem: RowsProblem, device: Device) -> RowsConfig:
    if not device.is_gpu:
        return _cut_for_cpu(problem, rows.configure(problem, device))
    if problem.compute_itemsize > 4:
        # Numbers of two registers: half as many of them leave room for sums and for addresses.
        problem = replace(problem, tiles=2 * problem.tiles)
    chosen = rows.configure(problem, device)
    full_block = chosen.threads >= _GPU_RESIDENT_THREADS
    if chosen.keep == KEEP_REGISTERS and full_block and problem.compute_itemsize <= 4:
        # 128 registers, all that so many threads have, are too few for the sums as well.
        chosen = rows.configure(replace(problem, crowding=2), device)
    if chosen.keep != KEEP_NONE or chosen.parts > 1:
        return chosen
    # No chip holds the row: parts of it are small enough for level-1 caches, where they are read
    # again, and only what comes after the sums reads x and dy from memory once more.
    along = chosen.layout == ALONG
    threads, team = (_GPU_PART_THREADS,) * 2 if along else (chosen.threads, chosen.team)
    width = chosen.vector if along else chosen.side_by_side * chosen.vector
    return _cut(replace(chosen, threads=threads, team=team), problem, width, _GPU_PART)


def _cut_for_cpu(problem: RowsProblem, chosen: RowsConfig) -> RowsConfig:
    if chosen.parts > 1 or chosen.keep != KEEP_NONE:
        return chosen
    if chosen.layout == ALONG and problem.length <= _CPU_LONGEST:
        return chosen
    beside = 1 if chosen.layout == ALONG else chosen.columns
    return _cut(chosen, problem, chosen.vector * beside, _CPU_PART)


def _cut(chosen: RowsConfig, problem: RowsProblem, width: int, part: int) -> RowsConfig:
    """With parts of about so many elements, if that makes several of a row."""
    groups = problem.length
    if chosen.layout == ALONG:
        groups = -(-groups // chosen.vector)
    part_groups = max(part // width, 1)
    parts = -(-groups // part_groups)
    return replace(chosen, parts=parts, part_groups=part_groups) if parts > 1 else chosen


def _tiles(problem: RowsProblem, chosen: RowsConfig) -> int:
    """In how many steps the rows are taken."""
    if chosen.layout == ALONG:
        return -(-problem.rows // (chosen.side_by_side * chosen.columns))
    beside = -(-problem.outer[-1] // (chosen.side_by_side * chosen.vector * chosen.columns))
    return problem.rows // problem.outer[-1] * beside


def _cpu_blocks(problem: RowsProblem) -> int:
    return max(min(_CPU_BLOCKS, problem.rows // _CPU_ROWS), 1)


def _gpu_blocks(chosen: RowsConfig, device: Device) -> int:
    """As many as run at once: each then adds up as many rows as can be."""
    resident = 1
    if chosen.keep == KEEP_REGISTERS or chosen.parts > 1:
        resident = _GPU_RESIDENT_THREADS // chosen.threads
    return device.processors * max(resident, 1)
