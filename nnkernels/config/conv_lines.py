"""Which convolutions a CPU makes from lines of the image that taps share, and their tiles.

See ``cuda_src/nnk/conv_lines.cuh``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import gcd, prod

from nnkernels.config.device import Device
from nnkernels.config.matmul_packed import MICRO_TILE, NARROW_ROWS, ROW_PAD
from nnkernels.config.matmul_problem import round_up


@dataclass(frozen=True)
class LinesProblem:
    """A product over windows.

    Attributes
    ----------
    groups, channels, rows : int
        Groups, and channels of the image and rows of weights in one of them.
    taps, steps, spacings : tuple of int
        Along three axes: taps, and elements from window to window and from tap to tap.
    row, pitch : int
        Windows of a row, and the same with those between rows.
    rows_of_slice, slices : int
        Rows of windows at one place along the first axis, and such places in all images.
    itemsize : int
        Of the sums.
    is_complex : bool
        Whether these are complex.
    reads_weights : bool
        Whether weights have the type of the sums, and are adjacent in the order of the terms.
    channels_fast : bool
        Whether channels of the image are adjacent.
    """

    groups: int
    channels: int
    rows: int
    taps: tuple[int, int, int]
    steps: tuple[int, int, int]
    spacings: tuple[int, int, int]
    row: int
    pitch: int
    rows_of_slice: int
    slices: int
    itemsize: int
    is_complex: bool
    reads_weights: bool
    channels_fast: bool

    @property
    def terms(self) -> int:
        """Of a sum."""
        return self.channels * prod(self.taps)

    @property
    def columns(self) -> int:
        """Windows of a slice with those between rows, up to the last one that is written."""
        return (self.rows_of_slice - 1) * self.pitch + self.row


def lines_along(taps: int, step: int, spacing: int) -> tuple[int, int]:
    """First taps along an axis that share no elements, and the windows to one that does.

    Elements of taps have as many different remainders by the step. The tap after these sees in a
    window what the first one does so many windows on.
    """
    common = gcd(step, spacing)
    return min(step // common, taps), spacing // common


@dataclass(frozen=True)
class LinesConfig:
    """Template arguments of the kernel, and the size of its blocks.

    Attributes
    ----------
    micro_m, vector : int
        Rows and columns of products whose sums stay in registers.
    lanes : int
        Of a register.
    lines : tuple of int
        Of a channel: along each axis, the first taps, which share none.
    shifts : tuple of int
        Windows from a tap to the next one of the same line, along each axis.
    reach : int
        The same from the first tap to the last one, along all axes.
    panels_of_band : int
        What a block makes.
    """

    micro_m: int
    vector: int
    lanes: int
    lines: tuple[int, int, int]
    shifts: tuple[int, int, int]
    reach: int
    panels_of_band: int

    def panels(self, problem: LinesProblem) -> int:
        """How many there are in a slice."""
        return -(-problem.columns // self.vector)

    def bands(self, problem: LinesProblem) -> int:
        """How many there are in a slice."""
        return -(-self.panels(problem) // self.panels_of_band)

    @property
    def width(self) -> int:
        """Of a line: what a band sees, and a register that is stored where that ends.

        An odd number of registers, so that channels share no sets of a cache.
        """
        registers = -(-(self.panels_of_band * self.vector + self.reach) // self.lanes) + 1
        return (registers | 1) * self.lanes

    def line_bytes(self, problem: LinesProblem) -> int:
        """Of a band."""
        return problem.channels * prod(self.lines) * self.width * problem.itemsize

    def shared_bytes(self, problem: LinesProblem) -> int:
        """Scratch memory of a thread: weights, lines, sums, and places of pixels and taps."""
        words = self.micro_m * self.vector
        if not problem.reads_weights:
            words += problem.rows * (round_up(problem.terms, ROW_PAD) + ROW_PAD)
        own = words * problem.itemsize + self.line_bytes(problem)
        return own + self.vector * _RUN_BYTES + problem.terms * 4


# Of cuda_src/nnk/conv_windows.cuh: `PixelRuns::bytes` of a pixel.
_RUN_BYTES = 16
# Weights and lines of more bytes leave a level-2 cache, and of half as many share it with others:
# what that costs.
_MOST_WEIGHTS, _MOST_LINES, _NEAR_LINES, _FAR = 1 << 20, 1 << 19, 1 << 18, 1.05
# Beside micro-tiles of whole registers: registers of a row, and rows, of 32 registers of 64 bytes.
_SQUARE = {64: (3, 8)}
# Into how many bands a slice is divided: some choice.
_BANDS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024, 4096)
# What takes time, in multiply-adds of registers: a load of what is multiplied, of which a register
# of a line counts as two, since it lies in two cache lines; part of a row of a line, by the step
# along it, and the same of channels that are adjacent; a register of results, and one of adjacent
# channels, which is written lane by lane; a weight that is packed; and a block.
_LOAD, _PIECES, _FAR_PIECE, _SQUARE_PIECE = 1.7, {1: 10.0, 2: 16.0}, 30.0, 10.0
_WRITTEN, _SCATTERED, _WEIGHT, _BLOCK = 15.0, 24.0, 4.0, 1000.0
# The same of a product that packs what every tap sees: a register of pixels, by the step along a
# row, and more for the share of registers that are of several rows; a row of pixels, where these
# are rows of the product; and a multiply-add where few rows fill one register.
_PIXELS, _FAR_PIXELS, _RUNS, _ROW, _NARROW = {1: 5.0, 2: 16.0}, 30.0, 9.0, 0.5, 1.35
# The share of its time that makes lines worth it.
_WORTH = {False: 1.0, True: 0.9}


def is_possible(problem: LinesProblem, device: Device) -> bool:
    """Whether there is a kernel for a convolution."""
    return (
        not device.is_gpu
        and not problem.is_complex
        and problem.taps[1] * problem.taps[2] > 1
        and problem.rows * problem.terms * problem.itemsize <= _MOST_WEIGHTS
        and any(_candidates(problem, device))
    )


def pays(problem: LinesProblem, device: Device) -> bool:
    """Whether it is faster than a product that packs what every tap sees.

    How many threads there are must not decide, since the sums of adjacent channels are others.
    """
    device = replace(device, processors=1)
    chosen, lanes = configure(problem, device), device.vector_bytes // problem.itemsize
    pixels = problem.slices * problem.rows_of_slice * problem.row / lanes
    if problem.channels_fast:
        made = -(-problem.rows // lanes)
        before = lanes * (made * (_NARROW if made == 1 else 1) + _ROW)
    else:
        before = problem.rows + _PIXELS.get(problem.steps[2], _FAR_PIXELS)
        before += _RUNS * min(lanes / problem.row, 1.0)
        before += _WRITTEN * problem.rows / problem.terms
    before *= problem.groups * pixels * problem.terms
    return _cost(problem, chosen, device) < _WORTH[problem.channels_fast] * before


def configure(problem: LinesProblem, device: Device) -> LinesConfig:
    """The tiles for a problem, and bands that threads finish first; these change no sum."""
    return min(_candidates(problem, device), key=lambda chosen: _cost(problem, chosen, device))


def _candidates(problem: LinesProblem, device: Device) -> Iterator[LinesConfig]:
    """Tiles, bands and lines that memory has room for."""
    tiles = [MICRO_TILE[device.vector_bytes], *NARROW_ROWS[device.vector_bytes].items()]
    tiles += [_SQUARE[device.vector_bytes]] if device.vector_bytes in _SQUARE else []
    lanes = device.vector_bytes // problem.itemsize
    for registers, micro_m in tiles:
        vector = registers * lanes
        panels = -(-problem.columns // vector)
        for of_band in sorted({-(-panels // n) for n in _BANDS if n <= panels}, reverse=True):
            for lines, shifts in _lines(problem):
                spans = zip(problem.taps, lines, shifts, strict=True)
                reach = sum((taps - 1) // own * shift for taps, own, shift in spans)
                chosen = LinesConfig(micro_m, vector, lanes, lines, shifts, reach, of_band)
                if chosen.line_bytes(problem) <= _MOST_LINES:
                    yield chosen


_Axes = tuple[int, int, int]


def _lines(problem: LinesProblem) -> Iterator[tuple[_Axes, _Axes]]:
    """Lines and shifts: taps of all rows of a window share lines, or those of each row do."""
    z, y, x = problem.taps
    lines_y, shift_y = lines_along(y, problem.steps[1], problem.spacings[1])
    lines_x, shift_x = lines_along(x, problem.steps[2], problem.spacings[2])
    yield (z, lines_y, lines_x), (0, shift_y * problem.pitch, shift_x)
    if lines_y < y:
        yield (z, y, lines_x), (0, 0, shift_x)


def _cost(problem: LinesProblem, chosen: LinesConfig, device: Device) -> float:
    """Of the thread that is last, in multiply-adds of registers."""
    lanes, last = chosen.lanes, -(-problem.columns // chosen.lanes)
    most = chosen.vector // lanes
    # Registers of a band, and of its panels.
    registers = min(chosen.panels_of_band * most, last)
    panels, rest = divmod(registers, most)
    made = panels * _tiles(problem, chosen, most) + _tiles(problem, chosen, rest)
    made *= problem.terms * (1 if chosen.line_bytes(problem) <= _NEAR_LINES else _FAR)
    pieces = -(-problem.pitch // lanes) * lanes / problem.pitch
    lines = problem.channels * prod(chosen.lines)
    packed = pieces * lines * (registers + chosen.reach / lanes)
    if problem.channels_fast:
        packed *= _SQUARE_PIECE
    else:
        packed *= _PIECES.get(problem.steps[2], _FAR_PIECE)
    written = problem.rows * registers * (_SCATTERED if problem.channels_fast else _WRITTEN)
    blocks = problem.groups * problem.slices * chosen.bands(problem)
    weights = 0.0 if problem.reads_weights else _WEIGHT * problem.rows * problem.terms
    rounds = -(-blocks // device.processors)
    return rounds * (made + packed + written + _BLOCK) + weights * problem.groups


def _tiles(problem: LinesProblem, chosen: LinesConfig, registers: int) -> float:
    """A term of all rows and so many registers of columns."""

    def tile(rows: int) -> float:
        return max(rows * registers, _LOAD * (rows + 2 * registers))

    if registers == 0:
        return 0.0
    # The last rows are half a micro-tile where that is enough.
    half = max(chosen.micro_m // 2, 1)
    whole, left = divmod(problem.rows, chosen.micro_m)
    end = 0.0 if left == 0 else tile(half) if left <= half else tile(chosen.micro_m)
    return whole * tile(chosen.micro_m) + end
