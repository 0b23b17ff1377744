"""Which convolutions go through Winograd's transforms on a CPU, and their blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
    plain_depth : bool
        Whether the first axis is none.
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
    plain_depth: bool
    channels_fast: bool

    @property
    def tiles_of_image(self) -> tuple[int, int]:
        """Rows and columns of tiles of an image."""
        return -(-self.pixels[1] // TILE), -(-self.pixels[2] // TILE)

    @property
    def tiles(self) -> int:
        """Tiles of all images."""
        rows, columns = self.tiles_of_image
        return self.images * rows * columns


@dataclass(frozen=True)
class WinogradConfig:
    """Template arguments of the kernel, and the size of its blocks.

    Attributes
    ----------
    lanes : int
        Tiles whose inputs are transformed at once.
    vector, micro_m : int
        Tiles and outputs whose sums stay in registers.
    tile_n, tile_m : int
        Tiles and outputs of a block.
    rows_at_once : int
        Outputs whose products wait to be transformed.
    """

    lanes: int
    vector: int
    micro_m: int
    tile_n: int
    tile_m: int
    rows_at_once: int

    def blocks(self, problem: WinogradProblem) -> tuple[int, int]:
        """How many blocks there are along tiles and outputs."""
        return -(-problem.tiles // self.tile_n), -(-problem.outputs // self.tile_m)

    def point_elements(self, problem: WinogradProblem) -> int:
        """Elements of the transformed weights of a point."""
        return round_up(problem.outputs, self.micro_m) * problem.channels + _PAD

    def shared_bytes(self, channels: int) -> int:
        """Scratch memory of a thread."""
        runs = round_up(self.tile_n * _RUN_BYTES, 64)
        lines = 2 * POINTS * (4 * self.tile_n + 2 * max(2 * self.lanes, 16))
        waiting = (channels + self.rows_at_once) * self.tile_n + 2 * _PAD
        return runs + 4 * (lines + POINTS * POINTS * waiting)


# Of cuda_src/nnk/conv_winograd.cuh: sizeof(TileRun), and `pad`.
_RUN_BYTES, _PAD = 48, 16


def reason_against(problem: WinogradProblem, device: Device) -> str | None:
    """Why a convolution cannot be made so, or None if it can."""
    if device.is_gpu:
        return "there is no such kernel for GPUs"
    if problem.elements != {"float32"}:
        return f"all arrays must be float32, not {', '.join(sorted(problem.elements))}"
    if problem.taps != (1, 3, 3) or not problem.plain_depth:
        return "the kernel must be 3x3"
    if problem.steps[1:] != (1, 1) or problem.spacings[1:] != (1, 1):
        return "stride and dilation must be 1"
    if problem.groups != 1:
        return f"there must be one group, not {problem.groups}"
    if problem.channels == 0:
        return "there are no channels"
    return None


def pays(problem: WinogradProblem, device: Device) -> bool:
    """Whether it is faster than the direct sum.

    Lanes are tiles, so that channels-last images, whose neighbours along a row are far apart, go
    the direct way. How many threads there are must not decide, since the two ways round otherwise:
    it is as if there were one.
    """
    if problem.channels_fast:
        return False
    device = replace(device, processors=1)
    chosen = configure(problem, device)
    pixels = problem.images * problem.pixels[1] * problem.pixels[2]
    products = pixels * 9 * problem.channels * problem.outputs
    direct = products / _DIRECT_PRODUCTS
    return _cycles(problem, chosen, device) < _WORTH * direct


def configure(problem: WinogradProblem, device: Device) -> WinogradConfig:
    """The blocks for a convolution: those that threads finish first, by a rough count of cycles.

    Neither registers nor blocks change a sum, so that threads may decide.
    """
    candidates = [
        _config(problem, device, tile_n, output_blocks)
        for tile_n in _TILES
        for output_blocks in range(1, device.processors + 1)
    ]
    return min(candidates, key=lambda chosen: _cycles(problem, chosen, device))


def _config(
    problem: WinogradProblem, device: Device, tile_n: int, output_blocks: int
) -> WinogradConfig:
    vector, micro_m = micro_tile(tile_n, 4, device)
    tile_m = round_up(-(-problem.outputs // output_blocks), micro_m)
    return WinogradConfig(
        lanes=device.vector_bytes // 4,
        vector=vector,
        micro_m=micro_m,
        tile_n=tile_n,
        tile_m=tile_m,
        rows_at_once=min(_ROWS_AT_ONCE, tile_m),
    )


def _cycles(problem: WinogradProblem, chosen: WinogradConfig, device: Device) -> float:
    """Of the thread that is last, for registers of 16 numbers; narrower ones change no choice."""
    along_tiles, along_outputs = chosen.blocks(problem)
    rounds = -(-along_tiles * along_outputs // device.processors)
    channels, outputs = problem.channels, min(chosen.tile_m, problem.outputs)
    tiles = min(chosen.tile_n, round_up(problem.tiles, chosen.vector // 2))
    products = tiles * outputs * channels * POINTS * POINTS / _PRODUCTS
    transforms = _TRANSFORM * tiles * (channels + outputs)
    weights = POINTS * POINTS * 4 * problem.outputs * channels
    read = 0.0
    if weights > _NEAR_BYTES:
        read = weights * outputs / problem.outputs / _BYTES
    made = _WEIGHT * problem.outputs * channels / device.processors
    return _LAUNCH + made + rounds * (products + transforms + read)


# Multiply-adds of a cycle here, and in the direct sum. These numbers are fitted to measurements on
# two cores of an Emerald Rapids Xeon, and on the safe side for few channels.
_PRODUCTS, _DIRECT_PRODUCTS = 21, 25
# Cycles of the transform of the inputs of a tile and channel, or of the products of a tile and
# output, and of that of the weights of an output and channel; and of a second launch.
_TRANSFORM, _WEIGHT, _LAUNCH = 24, 40, 15000
# Weights of more bytes come from beyond the level-2 cache, so many a cycle.
_NEAR_BYTES, _BYTES = 1 << 20, 4
# Share of the time of the direct sum that makes it worth its rounding errors.
_WORTH = 0.8
# Tiles of a block: whole micro-tiles of any registers, and half of that.
_TILES = (64, 32)
_ROWS_AT_ONCE = 24
