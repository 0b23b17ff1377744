"""When a GPU copies an image so that its channels are adjacent, and how."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from nnkernels.config.conv import TERMS, ConvProblem
from nnkernels.config.device import Device
from nnkernels.config.matmul_problem import index_kind
from nnkernels.dispatch.axes import largest_power_of_two

# Cycles that a processor takes longer for an element that it gathers alone than for one of a chunk
# of channels, on an H100: 64 outputs of 3x3 windows of 64 channels, 64 images of 56x56, took 306 us
# in place of 78; where pixels are terms, and both operands are gathered, 320 in place of 85.
_GATHERING, _GATHERING_BOTH = 0.46, 0.2
# Rows, or columns, for which what is gathered is used at once.
_TILE = 128
# Bytes that a processor reads or writes in a cycle, with all others, and what a launch takes.
_BYTES_OF_CYCLE, _LAUNCH_CYCLES = 12, 5000
_THREADS = 256
# Bytes of a row of a tile: see ``cuda_src/nnk/channels_last.cuh``.
_TILE_BYTES = 128


def pays(problem: ConvProblem, copied_bytes: int, launches: int, device: Device) -> bool:
    """Whether copying the operands takes less time than gathering them element by element.

    Parameters
    ----------
    problem : ConvProblem
        The product.
    copied_bytes : int
        Of the operands.
    launches : int
        How many more there are.
    """
    p = problem.product
    rows, columns = -(-p.m // _TILE), -(-p.n // _TILE)
    if problem.pixels == TERMS:
        cycles = _GATHERING_BOTH * (p.n * rows + p.m * columns)
    else:
        cycles = _GATHERING * p.n * rows
    gathering = cycles * p.batches * p.k / device.processors
    copying = 2 * copied_bytes / (_BYTES_OF_CYCLE * device.processors)
    return copying + launches * _LAUNCH_CYCLES < gathering


@dataclass(frozen=True)
class ChannelsProblem:
    """Images (N, C, pixels) that are copied so that channels are adjacent.

    Attributes
    ----------
    images : tuple of int
        Two axes of them.
    strides : tuple of int
        In bytes: along the axes of images, and from channel to channel. Pixels are adjacent.
    copy_strides : tuple of int
        In elements: along the axes of images, and from pixel to pixel.
    alignment : int
        Power of two, at most 16, that the address is a multiple of.
    """

    images: tuple[int, int]
    channels: int
    pixels: int
    strides: tuple[int, int, int]
    copy_strides: tuple[int, int, int]
    itemsize: int
    alignment: int


@dataclass(frozen=True)
class ChannelsConfig:
    """Template arguments of one instance, and its blocks."""

    vector: int
    threads: int
    tiles_of_channels: int
    tiles_of_image: int
    shared_bytes: int
    index: str


def configure(problem: ChannelsProblem) -> ChannelsConfig:
    """The kernel for a problem on a GPU."""
    itemsize = problem.itemsize
    side = _TILE_BYTES // itemsize
    of_channels = -(-problem.channels // side)
    tiles = of_channels * -(-problem.pixels // side)
    counts = (*problem.images, problem.channels)
    steps = [s for s, n in zip(problem.strides, counts, strict=True) if n > 1]
    aligned = largest_power_of_two(problem.alignment, *steps) // itemsize
    strides = (*problem.strides, *problem.copy_strides)
    reach = max(*map(abs, strides), prod(problem.images) * tiles, problem.pixels + side)
    return ChannelsConfig(
        largest_power_of_two(max(aligned, 1), problem.pixels),
        _THREADS,
        of_channels,
        tiles,
        side * side * itemsize,
        index_kind(reach),
    )


def is_narrow(channels: int, pixels: int, itemsize: int) -> bool:
    """Whether most of a tile's rows or columns would be empty."""
    return min(channels, pixels) * itemsize < _TILE_BYTES // 4
