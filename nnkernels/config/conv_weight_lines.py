"""Which gradients by weights a CPU makes from packed lines of the image, and their blocks.

See ``cuda_src/nnk/conv_weight_lines.cuh``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from nnkernels.config.conv_weight import is_shared_evenly, micro_tiles
from nnkernels.config.device import Device
from nnkernels.config.matmul_tiles import FEATURES


@dataclass(frozen=True)
class WeightLinesProblem:
    """The gradient of a convolution by its weights.

    Attributes
    ----------
    groups, channels, outputs : int
        Groups, and what there is in one of them.
    taps : tuple of int
        Along three axes.
    step, spacing : int
        Elements of the image from window to window, and from tap to tap, along the last axis.
    row, rows_of_pixels : int
        Windows of a row, and rows of them in all images.
    compute_itemsize : int
        Of the sums.
    is_complex : bool
        Whether these are complex.
    is_bfloat16 : bool
        Whether all numbers that are multiplied are bfloat16.
    """

    groups: int
    channels: int
    outputs: int
    taps: tuple[int, int, int]
    step: int
    spacing: int
    row: int
    rows_of_pixels: int
    compute_itemsize: int
    is_complex: bool
    is_bfloat16: bool = False

    @property
    def rows(self) -> int:
        """Of the product: channels and taps."""
        return self.channels * prod(self.taps)

    @property
    def lines(self) -> int:
        """Of a piece of a row of pixels."""
        return self.channels * prod(self.taps[:2])


@dataclass(frozen=True)
class WeightLinesConfig:
    """Template arguments of the kernel, and the size of its blocks.

    Attributes
    ----------
    micro_m, vector : int
        Rows and outputs whose sums stay in registers.
    panels, tiles : int
        Into which outputs and rows of a group are divided.
    parts : int
        Blocks of a panel, which share out its tiles.
    length, pieces_of_row : int
        Pixels of a piece, and pieces of a row.
    width : int
        Numbers of a line.
    pieces : int
        Of a slab.
    """

    micro_m: int
    vector: int
    panels: int
    tiles: int
    parts: int
    length: int
    pieces_of_row: int
    width: int
    pieces: int

    @property
    def tiles_of_part(self) -> int:
        """At most."""
        return -(-self.tiles // self.parts)

    def shared_bytes(self, problem: WeightLinesProblem) -> int:
        """Scratch memory of a thread: packed pixels, lines, and sums."""
        numbers = self.pieces * (self.length * self.vector + problem.lines * self.width)
        numbers += self.tiles_of_part * self.micro_m * self.vector
        return numbers * problem.compute_itemsize


# Of packed pixels and lines together: they stay in a level-2 cache.
_SLAB_BYTES = 128 * 1024
# A longer row of pixels is divided into pieces.
_MOST_PIXELS = 256
# With more channels, tiles of channels alone have few rows to spare.
_MOST_CHANNELS = 4
# Fewer pixels than these are multiplied by any kernel in no time.
_LEAST_PIXELS = 128
# Most rows of the product: their sums stay in a level-2 cache.
_MOST_ROWS = 1024


def pays(problem: WeightLinesProblem, device: Device) -> bool:
    """Whether it is faster than tiles of channels, which few channels leave mostly empty."""
    if problem.is_complex or prod(problem.taps) == 1:
        return False
    if problem.is_bfloat16 and FEATURES["bfloat16"] in device.features:
        return False
    if problem.channels > _MOST_CHANNELS or problem.rows > _MOST_ROWS:
        return False
    if problem.rows_of_pixels * problem.row < _LEAST_PIXELS:
        return False
    return configure(problem, device).shared_bytes(problem) <= 4 * _SLAB_BYTES


def configure(problem: WeightLinesProblem, device: Device) -> WeightLinesConfig:
    """The blocks for a problem on a CPU."""
    itemsize = problem.compute_itemsize
    lanes = device.vector_bytes // itemsize
    registers, micro_m = min(
        micro_tiles(device), key=lambda tile: _cycles(problem, device, lanes, *tile)
    )
    vector = registers * lanes
    panels, tiles = -(-problem.outputs // vector), -(-problem.rows // micro_m)
    pieces_of_row = max(-(-problem.row // _MOST_PIXELS), 1)
    length = max(-(-problem.row // pieces_of_row), 1)
    seen = (length - 1) * problem.step + (problem.taps[2] - 1) * problem.spacing + 1
    width = -(-seen // lanes) * lanes
    piece_bytes = (length * vector + problem.lines * width) * itemsize
    return WeightLinesConfig(
        micro_m=micro_m,
        vector=vector,
        panels=panels,
        tiles=tiles,
        parts=_parts(problem.groups * panels, tiles, device),
        length=length,
        pieces_of_row=pieces_of_row,
        width=width,
        pieces=max(min(_SLAB_BYTES // piece_bytes, problem.rows_of_pixels * pieces_of_row), 1),
    )


def _parts(panels: int, tiles: int, device: Device) -> int:
    """Into how many blocks a panel is divided: no more than needed, as each packs all pixels."""
    found = (parts for parts in range(1, tiles + 1) if is_shared_evenly(panels * parts, device))
    return next(found, max(tiles, 1))


# To pack a pixel of a register of outputs, in multiply-adds of registers.
_PACKING = 6.0


def _cycles(
    problem: WeightLinesProblem, device: Device, lanes: int, registers: int, micro_m: int
) -> float:
    """Of a pixel, for the thread that has most to do: multiply-adds of registers, or loads."""

    def tile(rows: int) -> float:
        # A chain of multiply-adds takes its time.
        return max(rows * registers, rows + registers, 4) + 1

    panels, tiles = -(-problem.outputs // (registers * lanes)), -(-problem.rows // micro_m)
    parts = _parts(problem.groups * panels, tiles, device)
    of_part = -(-tiles // parts)
    rest = problem.rows - (tiles - 1) * micro_m
    last = tile(micro_m // 2 if rest <= micro_m // 2 else micro_m)
    # The last tile may be half one, but only the last part has it.
    own = (of_part - 1) * tile(micro_m) + (last if parts == 1 else tile(micro_m))
    blocks = -(-problem.groups * panels * parts // device.processors)
    return blocks * (own + _PACKING * registers)
