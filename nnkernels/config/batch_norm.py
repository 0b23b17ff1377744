"""Layout, blocks and parts of batch normalisation's reductions over channels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from nnkernels.config.device import Device
from nnkernels.config.rows import ACROSS, ALONG, ANY_STEP, UNIT_STEP, ZERO_STEP, next_power_of_two
from nnkernels.dispatch.axes import Shape, Strides, index_kind, largest_power_of_two

# From so many channels on, a block for each keeps the threads of a CPU busy. No rule of a CPU may
# look at their number: results are the same for any.
_CPU_CHANNELS = 32
# The blocks that fewer channels are cut into, and the elements that are worth one.
_CPU_BLOCKS = 32
_CPU_PART = 16384
# Registers of sums that a CPU thread holds beside a chunk: neighbouring channels side by side.
_CPU_COLUMNS = 4

# A channel that a block of a GPU had better finish alone than share in three launches.
_GPU_WHOLE = 8192
_GPU_PART = 4096
_GPU_BLOCK = 256
# Blocks for each processor, so that all are busy to the end.
_GPU_WAVES = 4
# Groups that a thread reads at once: `chunk` of row_stats.cuh, `channel_depth` of channel_team.cuh.
_GPU_DEPTH = 4


@dataclass(frozen=True)
class ChannelProblem:
    """One call: channels, and the other axes of x in memory order, merged.

    Attributes
    ----------
    channels : int
        Length of the channel axis.
    inner : tuple of int
        Shape of a channel; at least one axis.
    channel_strides : tuple of int
        In bytes, for each operand: x first, the result last.
    inner_strides : tuple of tuple of int
        In bytes, for each operand.
    parameter_strides : tuple of int
        In bytes, of what there is one element of for each channel.
    itemsizes : tuple of int
        Of each operand.
    compute_itemsize : int
        Of the computing type.
    channels_last : bool
        Whether the channel axis is the last one in memory order.
    alignment : int
        A power of two that divides all addresses.
    inputs : int
        How many operands, from the first on, are x and what is broadcast to its shape: neighbours
        may share an element of those behind x.
    """

    channels: int
    inner: Shape
    channel_strides: tuple[int, ...]
    inner_strides: tuple[Strides, ...]
    parameter_strides: tuple[int, ...]
    itemsizes: tuple[int, ...]
    compute_itemsize: int
    channels_last: bool
    alignment: int
    inputs: int = 1

    @property
    def length(self) -> int:
        """Elements of a channel."""
        return prod(self.inner)


@dataclass(frozen=True)
class ChannelConfig:
    """Template arguments of one instance, the grid, and the cut of a channel into parts.

    Attributes
    ----------
    applies : bool
        Whether a block has whole channels, and goes on to write their result.
    tiles : int
        Blocks for each part.
    follows : bool
        Whether blocks with the same parts write the result in a launch of their own: where channels
        are adjacent, a thread of a GPU loads the coefficients of its channels once.
    """

    layout: int
    steps: tuple[int, ...]
    vector: int
    columns: int
    threads: int
    team: int
    crosses: bool
    parts: int
    part_groups: int
    applies: bool
    tiles: int
    index: str
    streaming: bool
    follows: bool = False


def configure(problem: ChannelProblem, device: Device) -> ChannelConfig:
    """The kernel for a problem on a device.

    The order in which elements meet (vector, threads, parts) depends on shape, memory order and
    dtype alone, not on strides or addresses.
    """
    layout = ACROSS if problem.channels_last else ALONG
    if device.is_gpu:
        # Numbers of one byte are widened as they are read. Of adjacent channels, more than four
        # of float32 in a thread leave registers for a quarter of a multiprocessor's threads.
        least = problem.compute_itemsize // (1 if layout == ACROSS else 2)
        vector = device.vector_bytes // max(problem.itemsizes[0], least)
        return _configure_gpu(problem, device, layout, vector)
    vector = device.vector_bytes // problem.compute_itemsize
    return _configure_cpu(problem, device, layout, vector)


def _configure_cpu(
    problem: ChannelProblem, device: Device, layout: int, vector: int
) -> ChannelConfig:
    columns = 1
    if layout == ACROSS:
        while columns < _CPU_COLUMNS and columns * vector < problem.channels:
            columns *= 2
        tiles, side = -(-problem.channels // (vector * columns)), vector * columns
    else:
        tiles, side = problem.channels, 1
    useful = problem.length * min(side, problem.channels) // _CPU_PART
    wanted = 1 if layout == ALONG and tiles >= _CPU_CHANNELS else -(-_CPU_BLOCKS // tiles)
    steps = _steps(problem, layout, 1, device)
    # What stays in a level-2 cache is read again at once: one launch less.
    whole = layout == ALONG or problem.length * side <= 2 * _CPU_PART
    written = problem.channels * problem.length * problem.itemsizes[-1]
    return _config(
        problem,
        layout=layout,
        steps=steps,
        vector=vector,
        columns=columns,
        threads=1,
        team=1,
        parts=min(wanted, useful),
        tiles=tiles,
        whole=whole,
        streaming=written >= device.cache_bytes and steps[-1] == UNIT_STEP,
    )


def _configure_gpu(
    problem: ChannelProblem, device: Device, layout: int, vector: int
) -> ChannelConfig:
    groups = -(-problem.length // vector)
    if layout == ALONG:
        threads = team = min(max(next_power_of_two(-(-groups // 8)), device.warp), _GPU_BLOCK)
        tiles = problem.channels
    else:
        side = min(next_power_of_two(-(-problem.channels // vector)), 32)
        threads, team = _GPU_BLOCK, _GPU_BLOCK // side
        tiles = -(-problem.channels // (side * vector))
    parts = min(_GPU_WAVES * device.processors // tiles, problem.length // _gpu_part(layout, team))
    whole = problem.channels >= device.processors or problem.length <= _GPU_WHOLE
    if layout == ALONG and whole:
        parts = 1
    chosen = _config(
        problem,
        layout=layout,
        steps=_steps(problem, layout, vector, device),
        vector=vector,
        columns=1,
        threads=threads,
        team=team,
        parts=parts,
        tiles=tiles,
        whole=whole and layout == ALONG,
        streaming=False,
    )
    return replace(chosen, follows=layout == ACROSS)


def _gpu_part(layout: int, team: int) -> int:
    """The least elements of a channel that are worth a block."""
    return _GPU_PART if layout == ALONG else 8 * team


def _config(
    problem: ChannelProblem,
    *,
    layout: int,
    steps: tuple[int, ...],
    vector: int,
    columns: int,
    threads: int,
    team: int,
    parts: int,
    tiles: int,
    whole: bool,
    streaming: bool,
) -> ChannelConfig:
    groups = problem.length if layout == ACROSS else -(-problem.length // vector)
    part_groups = -(-groups // max(parts, 1))
    if layout == ACROSS and threads > 1:  # a step of what a team reads at once after the other
        part_groups = -(-part_groups // (_GPU_DEPTH * team)) * _GPU_DEPTH * team
    parts = -(-groups // part_groups)
    return ChannelConfig(
        layout=layout,
        steps=steps,
        vector=vector,
        columns=columns,
        threads=threads,
        team=team,
        crosses=layout == ALONG and _crosses(problem, vector),
        parts=parts,
        part_groups=part_groups,
        applies=parts == 1 and whole,
        tiles=tiles,
        index=_index(problem),
        streaming=streaming,
    )


def _crosses(problem: ChannelProblem, vector: int) -> bool:
    return len(problem.inner) > 1 and problem.inner[-1] % vector != 0


def _steps(problem: ChannelProblem, layout: int, vector: int, device: Device) -> tuple[int, ...]:
    """Where a group is one access; on a GPU it has to be aligned for that."""
    crosses = layout == ALONG and _crosses(problem, vector)
    steps = []
    for o, (size, channel, inner) in enumerate(
        zip(problem.itemsizes, problem.channel_strides, problem.inner_strides, strict=True)
    ):
        step, others = (inner[-1], (channel, *inner[:-1])) if layout == ALONG else (channel, inner)
        together = step == size
        if together and device.is_gpu:
            wanted = min(vector * size, device.vector_bytes)
            aligned = largest_power_of_two(wanted, problem.alignment, *others) == wanted
            together = aligned and not crosses
        shared = step == 0 and 0 < o < problem.inputs
        steps.append(UNIT_STEP if together else ZERO_STEP if shared else ANY_STEP)
    return tuple(steps)


def _index(problem: ChannelProblem) -> str:
    shape = (problem.channels, *problem.inner)
    strides = [
        (channel, *inner)
        for channel, inner in zip(problem.channel_strides, problem.inner_strides, strict=True)
    ]
    parameters = tuple((stride, *(0,) * len(problem.inner)) for stride in problem.parameter_strides)
    # Loops step up to 4 groups of every thread past the end: 4 * 1024 threads * 16 elements.
    return index_kind(shape, [*strides, *parameters], slack=4 * 1024 * 16 * 16)
