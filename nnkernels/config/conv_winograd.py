"""Which convolutions go through Winograd's transforms on a CPU, and their blocks."""

from __future__ import annotations

from dataclasses import dataclass

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


def pays(problem: WinogradProblem) -> bool:
    """Whether it is faster than the direct sum."""
    return not problem.channels_fast


def configure(problem: WinogradProblem, device: Device) -> WinogradConfig:
    """The blocks for a convolution."""
    import os

    vector, micro_m = micro_tile(1 << 20, 4, device)
    tile_n = vector * int(os.environ.get("W_PANELS", 1))
    tile_m = round_up(-(-problem.outputs // int(os.environ.get("W_OB", 1))), micro_m)
    rows = int(os.environ.get("W_ROWS", 24))
    return WinogradConfig(
        lanes=device.vector_bytes // 4,
        vector=vector,
        micro_m=micro_m,
        tile_n=tile_n,
        tile_m=tile_m,
        rows_at_once=min(round_up(rows, micro_m), tile_m),
    )
