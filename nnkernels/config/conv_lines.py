"""Which convolutions a CPU makes from lines that all taps along a row share, and their tiles.

See ``cuda_src/nnk/conv_lines.cuh``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from nnkernels.config.device import Device
from nnkernels.config.matmul_packed import MICRO_TILE, NARROW_ROWS, ROW_PAD
from nnkernels.config.matmul_problem import round_up
from nnkernels.config.matmul_tiles import FEATURES


@dataclass(frozen=True)
class LinesProblem:
    """A product over windows.

    Attributes
    ----------
    groups, channels, rows : int
        Groups, and channels of the image and rows of weights in one of them.
    taps : tuple of int
        Along three axes.
    step, spacing : int
        Elements from window to window, and from tap to tap, along the last axis.
    row, pitch : int
        Windows of a row, and the same with those between rows.
    rows_of_pixels : int
        Rows of windows in all images.
    itemsize : int
        Of the sums.
    is_complex : bool
        Whether these are complex.
    is_bfloat16 : bool
        Whether all numbers that are multiplied are bfloat16.
    reads_weights : bool
        Whether weights have the type of the sums, and are adjacent in the order of the terms.
    channels_fast : bool
        Whether channels of the image are adjacent.
    """

    groups: int
    channels: int
    rows: int
    taps: tuple[int, int, int]
    step: int
    spacing: int
    row: int
    pitch: int
    rows_of_pixels: int
    itemsize: int
    is_complex: bool
    is_bfloat16: bool
    reads_weights: bool
    channels_fast: bool

    @property
    def lines(self) -> int:
        """Lines of a panel: one for each channel and tap, but those along a row."""
        return self.channels * prod(self.taps[:2])

    @property
    def span(self) -> int:
        """Elements from what the first tap along a row sees to what the last one does."""
        return (self.taps[2] - 1) * self.spacing

    @property
    def columns(self) -> int:
        """Windows with those between rows, up to the last one that is written."""
        return (self.rows_of_pixels - 1) * self.pitch + self.row


@dataclass(frozen=True)
class LinesConfig:
    """Template arguments of the kernel.

    Attributes
    ----------
    micro_m, vector : int
        Rows and columns of products whose sums stay in registers.
    lanes : int
        Of a register.
    """

    micro_m: int
    vector: int
    lanes: int

    def panels(self, problem: LinesProblem) -> int:
        """How many there are in a group."""
        return -(-problem.columns // self.vector)

    def panels_of_block(self, problem: LinesProblem) -> int:
        """How many a block makes, one after the other: several, if blocks are many all the same."""
        return min(max(self.panels(problem) * problem.groups // _MANY_BLOCKS, 1), _MOST_PANELS)

    def blocks(self, problem: LinesProblem) -> int:
        """How many there are in a group."""
        return -(-self.panels(problem) // self.panels_of_block(problem))

    def shared_bytes(self, problem: LinesProblem) -> int:
        """Scratch memory of a thread: weights, a panel of lines, sums, and places of pixels."""
        width = self.vector + self.lanes
        words = problem.lines * width + self.micro_m * self.vector
        if not problem.reads_weights:
            terms = problem.lines * problem.taps[2]
            words += problem.rows * (round_up(terms, ROW_PAD) + ROW_PAD)
        of_row, groups = prod(problem.taps[:2]), width // self.lanes
        runs = (self.vector + width) * _RUN_BYTES + 16
        masks = (sum(problem.taps[:2]) + 1) * groups * 4
        return words * problem.itemsize + runs + masks + of_row * (8 + 4 * groups + _MOST_RUNS * 12)


# Of cuda_src/nnk/conv_windows.cuh and conv_pixel_panels.cuh: `PixelRuns::bytes` of a pixel, and
# `most_runs`.
_RUN_BYTES, _MOST_RUNS = 16, 4
# Blocks for as many threads as a CPU may have, and panels of one.
_MANY_BLOCKS, _MOST_PANELS = 32, 8
# Weights and lines of more bytes leave a level-2 cache.
_MOST_WEIGHTS, _MOST_LINES = 1 << 20, 1 << 19
# Beside micro-tiles of whole registers: registers of a row, and rows, of 32 registers of 64 bytes.
_SQUARE = {64: (3, 8)}
# What packing costs, in multiply-adds of registers: a register of pixels, and more for the share of
# registers that are of several rows; one of a line of channels that are adjacent; a weight; a row
# of pixels, where these are rows of the product; and a multiply-add where few rows fill one
# register.
_PIXELS, _RUNS, _SQUARE_LINE, _WEIGHT = 5.0, 25.0, 10.0, 4.0
_ROW, _NARROW = 0.5, 1.35
# A register of results that is written lane by lane, since channels are adjacent; and the share of
# the time of other products that makes lines worth it.
_SCATTERED, _WORTH = 16.0, {False: 1.0, True: 0.9}


def is_possible(problem: LinesProblem, device: Device) -> bool:
    """Whether there is a kernel for a convolution, and none on tile registers."""
    lanes = device.vector_bytes // problem.itemsize
    if problem.is_bfloat16 and FEATURES["bfloat16"] in device.features:
        return False
    return (
        not device.is_gpu
        and not problem.is_complex
        and problem.step == 1
        and problem.taps[2] > 1
        and problem.span <= lanes
        and problem.rows * problem.lines * problem.taps[2] * problem.itemsize <= _MOST_WEIGHTS
        and problem.lines * 5 * device.vector_bytes <= _MOST_LINES
    )


def pays(problem: LinesProblem, device: Device) -> bool:
    """Whether it is faster than a product that packs what every tap sees."""
    chosen, lanes = configure(problem, device), device.vector_bytes // problem.itemsize
    pixels = problem.rows_of_pixels * problem.row / lanes
    if problem.channels_fast:
        made = -(-problem.rows // lanes)
        before = pixels * lanes * (made * (_NARROW if made == 1 else 1) + _ROW)
    else:
        before = pixels * (problem.rows + _PIXELS + _RUNS * min(lanes / problem.row, 1.0))
    return _cost(problem, chosen) < _WORTH[problem.channels_fast] * before


def configure(problem: LinesProblem, device: Device) -> LinesConfig:
    """The tiles for a problem."""
    registers, micro_m = MICRO_TILE[device.vector_bytes]
    tiles = [(registers, micro_m), *NARROW_ROWS[device.vector_bytes].items()]
    tiles += [_SQUARE[device.vector_bytes]] if device.vector_bytes in _SQUARE else []
    lanes = device.vector_bytes // problem.itemsize
    every = [LinesConfig(m, n * lanes, lanes) for n, m in tiles]
    return min(every, key=lambda chosen: _cost(problem, chosen))


def _cost(problem: LinesProblem, chosen: LinesConfig) -> float:
    """Multiply-adds of registers for a term, or what takes as long."""
    registers = chosen.vector // chosen.lanes
    # The last rows are half a micro-tile where that is enough.
    half = max(chosen.micro_m // 2, 1)
    whole, left = divmod(problem.rows, chosen.micro_m)
    rows = whole * chosen.micro_m + (0 if left == 0 else half if left <= half else chosen.micro_m)
    # Of a row of weights each, and of a register of the panel, an element is loaded for it.
    made = rows * registers + _LOADS * (rows + registers * -(-problem.rows // chosen.micro_m))
    line = _SQUARE_LINE
    if not problem.channels_fast:
        line = _PIXELS + _RUNS * min(chosen.lanes / problem.row, 1.0)
    packed = line * (registers + 1) / problem.taps[2]
    weights = 0.0 if problem.reads_weights else _WEIGHT * problem.rows
    written = 0.0
    if problem.channels_fast:
        terms = problem.lines * problem.taps[2]
        written = _SCATTERED * problem.rows * registers / terms
    return chosen.panels(problem) * (made + packed + written) + weights


# What a load costs that micro-tiles of other shapes need less of.
_LOADS = 0.02
