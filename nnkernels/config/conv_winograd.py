"""Which convolutions go through Winograd's transforms on a CPU, and their blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd

from nnkernels.config.device import Device
from nnkernels.config.matmul_packed import micro_tile
from nnkernels.config.matmul_problem import round_up

# Results along a side of a tile, and points at which its inputs are evaluated.
TILE, POINTS = 4, 6


@dataclass(frozen=True)
class WinogradProblem:
    """A convolution.

    Attributes
    ----------
    elements : frozenset of str
        Names of the dtypes of all arrays.
    groups, channels, outputs, images : int
        Channels of one group, and outputs of all.
    taps, steps, spacings : tuple of int
        Along three axes: taps of a window, elements from window to window and from tap to tap.
    pixels : tuple of int
        Windows along three axes.
    channels_fast : bool
        Whether channels of the image are adjacent.
    """

    elements: frozenset[str]
    groups: int
    channels: int
    outputs: int
    images: int
    taps: tuple[int, int, int]
    steps: tuple[int, int, int]
    spacings: tuple[int, int, int]
    pixels: tuple[int, int, int]
    channels_fast: bool

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return 8 if "float64" in self.elements else 4

    @property
    def slices(self) -> int:
        """Slices of results along the first axis, the depth, of all images."""
        return self.images * self.pixels[0]

    @property
    def terms(self) -> int:
        """Numbers that a product adds up: a channel for each tap along the depth."""
        return self.taps[0] * self.channels

    @property
    def tiles_of_image(self) -> tuple[int, int]:
        """Rows and columns of tiles of a slice of an image."""
        return -(-self.pixels[1] // TILE), -(-self.pixels[2] // TILE)

    @property
    def tiles(self) -> int:
        """Tiles of all images."""
        rows, columns = self.tiles_of_image
        return self.slices * rows * columns


@dataclass(frozen=True)
class WinogradConfig:
    """Template arguments of the kernel, and the size of its blocks.

    Attributes
    ----------
    lanes_are : str
        What is transformed at once: ``TILES``, or ``CHANNELS`` and outputs.
    lanes : int
        How many of them.
    vector, micro_m : int
        Columns and rows of products whose sums stay in registers: tiles and outputs, or outputs
        and tiles.
    tile_n, tile_m : int
        Tiles and outputs of a block.
    outputs_at_once : int
        Outputs whose products wait to be transformed.
    terms_at_once : int
        Terms whose inputs wait to be multiplied; if not all, `outputs_at_once` is `tile_m`.
    """

    lanes_are: str
    lanes: int
    vector: int
    micro_m: int
    tile_n: int
    tile_m: int
    outputs_at_once: int
    terms_at_once: int

    def blocks(self, problem: WinogradProblem) -> tuple[int, int]:
        """How many blocks there are along tiles and outputs."""
        return -(-problem.tiles // self.tile_n), -(-problem.outputs // self.tile_m)

    @property
    def side(self) -> int:
        """Outputs for which there are weights are a multiple of this."""
        return self.micro_m if self.lanes_are == TILES else self.vector

    def outputs_of_launch(self, problem: WinogradProblem) -> int:
        """Outputs whose transformed weights are in memory at once: of whole blocks."""
        each = POINTS * POINTS * problem.itemsize * problem.terms * self.tile_m
        return max(_WEIGHT_BYTES // each, 1) * self.tile_m

    def point_elements(self, problem: WinogradProblem) -> int:
        """Elements of the transformed weights of a point."""
        outputs = min(problem.outputs, self.outputs_of_launch(problem))
        return round_up(outputs, self.side) * problem.terms + _PAD

    def shared_bytes(self, itemsize: int) -> int:
        """Scratch memory of a thread: runs of tiles, lines, and what waits at the points."""
        runs, lines = round_up(self.tile_n * _RUN_BYTES, 64), 0
        if self.lanes_are == TILES:
            lines = 2 * POINTS * (4 * self.tile_n + 2 * max(2 * self.lanes, 16))
            waiting = (self.terms_at_once + self.outputs_at_once) * self.tile_n
        else:
            row = round_up(self.terms_at_once, self.lanes) + _PAD + self.outputs_at_once
            waiting = round_up(self.tile_n, self.micro_m) * row
        return runs + itemsize * (lines + POINTS * POINTS * (waiting + 2 * _PAD))


# What is transformed at once.
TILES, CHANNELS = "tiles", "channels"
# Of cuda_src/nnk/conv_winograd*.cuh: sizeof(TileRun), and `pad` and `row_pad`.
_RUN_BYTES, _PAD = 56, 16


def reason_against(problem: WinogradProblem, device: Device) -> str | None:
    """Why a convolution cannot be made so, or None if it can."""
    if device.is_gpu:
        return "there is no such kernel for GPUs"
    if problem.elements not in ({"float32"}, {"float64"}):
        names = ", ".join(sorted(problem.elements))
        return f"all arrays must be float32, or all float64, not {names}"
    if problem.taps[1:] != (3, 3):
        return "the kernel must be 3x3, or Dx3x3"
    if problem.steps[1:] != (1, 1) or problem.spacings[1:] != (1, 1):
        return "stride and dilation must be 1, but along the D"
    if problem.groups != 1:
        return f"there must be one group, not {problem.groups}"
    if problem.channels == 0:
        return "there are no channels"
    return None


def pays(problem: WinogradProblem, device: Device) -> bool:
    """Whether it is faster than the direct sum.

    How many threads there are must not decide, since the two ways round otherwise: it is as if
    there were one.
    """
    device = replace(device, processors=1)
    chosen = configure(problem, device)
    pixels = problem.slices * problem.pixels[1] * problem.pixels[2]
    products = pixels * 9 * problem.terms * problem.outputs
    direct = products / _DIRECT_PRODUCTS
    if not problem.channels_fast:
        direct += pixels / 16 * (_SEEN * problem.terms + _WRITTEN * problem.outputs)
    return _cycles(problem, chosen, device) < _WORTH * direct


def configure(problem: WinogradProblem, device: Device) -> WinogradConfig:
    """The blocks for a convolution: those that threads finish first, by a rough count of cycles.

    Neither lanes nor registers nor blocks change a sum, so that threads may decide.
    """
    parts = range(1, device.processors + 1)
    sizes = _MOST_TILES[_weights_are_far(problem)] if problem.channels_fast else _TILES
    ways = _lanes_are_channels if problem.channels_fast else _lanes_are_tiles
    # As many bytes of them, whatever the numbers are.
    sizes = tuple(4 * n // problem.itemsize for n in sizes)
    candidates = [_fitted(ways(problem, device, n, m), problem) for n in sizes for m in parts]
    return min(candidates, key=lambda chosen: _cycles(problem, chosen, device))


def _lanes_are_tiles(
    problem: WinogradProblem, device: Device, tile_n: int, output_blocks: int
) -> WinogradConfig:
    vector, micro_m = micro_tile(tile_n, problem.itemsize, device)
    tile_m = round_up(-(-problem.outputs // output_blocks), micro_m)
    return WinogradConfig(
        lanes_are=TILES,
        lanes=device.vector_bytes // problem.itemsize,
        vector=vector,
        micro_m=micro_m,
        tile_n=tile_n,
        tile_m=tile_m,
        outputs_at_once=min(_OUTPUTS_AT_ONCE[TILES], tile_m),
        terms_at_once=problem.terms,
    )


def _lanes_are_channels(
    problem: WinogradProblem, device: Device, most_tiles: int, output_blocks: int
) -> WinogradConfig:
    vector, micro_m = micro_tile(problem.outputs, problem.itemsize, device)
    tile_m = round_up(-(-problem.outputs // output_blocks), vector)
    # Rows of products are tiles, of which there may be any number: as many blocks as keep all
    # threads busy.
    output_blocks = -(-problem.outputs // tile_m)
    rounds = device.processors // gcd(device.processors, output_blocks)
    tile_blocks = round_up(-(-problem.tiles // most_tiles), rounds)
    return WinogradConfig(
        lanes_are=CHANNELS,
        lanes=device.vector_bytes // problem.itemsize,
        vector=vector,
        micro_m=micro_m,
        tile_n=max(-(-problem.tiles // tile_blocks), 1),
        tile_m=tile_m,
        outputs_at_once=min(_OUTPUTS_AT_ONCE[CHANNELS], tile_m),
        terms_at_once=problem.terms,
    )


def _fitted(chosen: WinogradConfig, problem: WinogradProblem) -> WinogradConfig:
    """The same with no more outputs, and terms at once, than memory has room for.

    A block has as many outputs as transformed weights may be of, or one side of a micro-tile. If
    inputs of all terms do not fit into scratch memory, products of all its outputs wait for them,
    and take half of it.
    """
    point = POINTS * POINTS * problem.itemsize
    tile_m = _evened(problem.outputs, _WEIGHT_BYTES // (point * problem.terms), chosen)
    chosen = replace(
        chosen,
        tile_m=min(tile_m, chosen.tile_m),
        outputs_at_once=min(tile_m, chosen.outputs_at_once),
    )
    if chosen.shared_bytes(problem.itemsize) <= _SCRATCH_BYTES:
        return chosen
    empty = replace(chosen, outputs_at_once=0, terms_at_once=0).shared_bytes(problem.itemsize)
    tiles = round_up(chosen.tile_n, chosen.vector if chosen.lanes_are == TILES else chosen.micro_m)
    room = (_SCRATCH_BYTES - empty) // (point * tiles)
    tile_m = min(chosen.tile_m, _evened(problem.outputs, room // 2, chosen))
    terms = max((room - tile_m) // chosen.lanes, 1) * chosen.lanes
    terms = round_up(-(-problem.terms // -(-problem.terms // terms)), chosen.lanes)
    return replace(chosen, tile_m=tile_m, outputs_at_once=tile_m, terms_at_once=terms)


def _evened(outputs: int, most: int, chosen: WinogradConfig) -> int:
    """Outputs of each block, at most so many or one side of a micro-tile: about as many of all."""
    most = max(most // chosen.side, 1) * chosen.side
    return round_up(-(-outputs // -(-outputs // most)), chosen.side)


def _cycles(problem: WinogradProblem, chosen: WinogradConfig, device: Device) -> float:
    """Of the thread that is last, for registers of 16 numbers; narrower ones change no choice."""
    along_tiles, along_outputs = chosen.blocks(problem)
    rounds = -(-along_tiles * along_outputs // device.processors)
    terms, outputs = problem.terms, min(chosen.tile_m, problem.outputs)
    tiles = min(chosen.tile_n, problem.tiles)
    if chosen.lanes_are == TILES:
        tiles, transform = round_up(tiles, chosen.vector // 2), _TRANSFORM
        made = tiles * outputs
    else:
        transform = _TRANSFORM_CHANNELS
        made = round_up(tiles, chosen.micro_m // 2) * round_up(outputs, chosen.vector // 2)
    products = made * terms * POINTS * POINTS / _PRODUCTS
    transforms = transform * tiles * (terms + outputs)
    read = 0.0
    if _weights_are_far(problem):
        read = POINTS * POINTS * 4 * outputs * terms / _BYTES
    prepared = _WEIGHT * problem.outputs * terms / device.processors
    return _LAUNCH + prepared + rounds * (products + transforms + read)


def _weights_are_far(problem: WinogradProblem) -> bool:
    """Whether those at the points come from beyond the level-2 cache, once for every block."""
    return POINTS * POINTS * problem.itemsize * problem.outputs * problem.terms > _NEAR_BYTES


# Multiply-adds of a cycle here, and in the direct sum. These numbers are fitted to measurements on
# two cores of an Emerald Rapids Xeon, and on the safe side for few channels.
_PRODUCTS, _DIRECT_PRODUCTS = 21, 25
# Cycles of the direct sum, besides: to pack 16 pixels of a channel, and to write those of an output
# (Zen 4; channels first).
_SEEN, _WRITTEN = 8, 10
# Cycles of the transform of the inputs of a tile and channel, or of the products of a tile and
# output, where lanes are tiles or channels, and of that of the weights of an output and channel;
# and of a second launch.
_TRANSFORM, _TRANSFORM_CHANNELS, _WEIGHT, _LAUNCH = 24, 9, 40, 15000
# Weights of more bytes are far, and come so many bytes a cycle.
_NEAR_BYTES, _BYTES = 1 << 20, 4
# Share of the time of the direct sum that makes it worth its rounding errors.
_WORTH = 0.8
# Tiles of a block: whole micro-tiles of any registers, and half of that. Where lanes are channels,
# the most of them, by whether weights are far; from 24 to 60 made no difference for 64 channels.
_TILES = (64, 32)
_MOST_TILES: dict[bool, tuple[int, ...]] = {False: (40,), True: (40, 72)}
_OUTPUTS_AT_ONCE = {TILES: 24, CHANNELS: 64}
# Scratch memory of a thread, which whatever 256 channels need fits into, and transformed weights.
_SCRATCH_BYTES, _WEIGHT_BYTES = 7 << 19, 16 << 20
