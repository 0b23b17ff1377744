"""Which gradients by weights a CPU makes from packed pixels, and their blocks.

See ``cuda_src/nnk/conv_weight.cuh``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from nnkernels.config.device import Device
from nnkernels.config.matmul_packed import MICRO_TILE, NARROW_ROWS


@dataclass(frozen=True)
class WeightProblem:
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
    step_bytes, image_row : int
        Bytes from what one window sees to what the next one does along the last axis, and those of
        a row of the image and a window more.
    compute_itemsize : int
        Of the sums.
    is_complex : bool
        Whether these are complex.
    """

    groups: int
    channels: int
    outputs: int
    taps: tuple[int, int, int]
    step: int
    spacing: int
    row: int
    rows_of_pixels: int
    step_bytes: int
    image_row: int
    compute_itemsize: int
    is_complex: bool

    @property
    def pixels(self) -> int:
        """Windows in all images."""
        return self.row * self.rows_of_pixels

    @property
    def terms(self) -> int:
        """Of a window: channels and taps."""
        return self.channels * prod(self.taps)

    @property
    def lines(self) -> int:
        """Rows of taps of all channels."""
        return self.channels * prod(self.taps[:2])


@dataclass(frozen=True)
class WeightConfig:
    """Template arguments of the kernel, and the size of its blocks.

    Attributes
    ----------
    micro_m, vector : int
        Channels and outputs whose sums stay in registers.
    panels, tiles : int
        Into which outputs and channels of a group are divided.
    parts : int
        Blocks of a panel, which share out its units: a tap of a tile each.
    depth : int
        Pixels that are packed at once.
    units : int
        Most units of a part.
    """

    micro_m: int
    vector: int
    panels: int
    tiles: int
    parts: int
    depth: int
    units: int

    def shared_bytes(self, compute_itemsize: int) -> int:
        """Scratch memory of a thread: packed pixels, sums, and runs of pixels."""
        numbers = (self.depth + PIXELS_AFTER + self.units * self.micro_m) * self.vector
        return numbers * compute_itemsize + self.depth * _RUN_BYTES


# Of cuda_src/nnk/conv_weight_parts.cuh: packed pixels after the last one, a register of them or
# fewer.
PIXELS_AFTER = 16
# `Run` of cuda_src/nnk/conv_weight.cuh.
_RUN_BYTES = 16
# Of packed pixels and of sums: both stay in a level-2 cache, beside what is seen of the image.
_PACKED_BYTES, _SUM_BYTES = 128 * 1024, 192 * 1024
# Half a tile reads packed pixels faster than a level-2 cache gives them.
_FEW_PACKED_BYTES = 24 * 1024
# With fewer pixels, transposing the sums as they are written takes too large a share of the time
# (512 channels, 3x3: 0.8 times as fast with 49 pixels, 1.1 with 196).
_LEAST_PIXELS = 128
# What each pixel sees in a page of its own is better gathered once (channels-last, 3x3, Emerald
# Rapids: 1.1 to 1.7 times as fast from packed pixels at steps of up to 512 bytes, 0.9 to 1.2 at
# 1024, 0.5 at 4096; Zen 4: 1.1 to 1.3 times at 1024).
_MOST_STEP = 1024
# Fewer units than this are not worth a block, which packs pixels of its own.
_LEAST_UNITS = 8


def is_packed(problem: WeightProblem) -> bool:
    """Whether pixels are packed at all, and not the image gathered.

    That gathers each element once for each of its taps: windows of one element, some apart, cost
    it little (0.6 to 1.0 times as fast from packed pixels, 256 channels or more).
    """
    return not problem.is_complex and prod(problem.taps) > 1 and problem.pixels >= _LEAST_PIXELS


def pays(problem: WeightProblem) -> bool:
    """Whether it is faster than the product that gathers the image.

    Both give the same bits. (But for what is not finite: 0 inf of the padding is left out here.)
    """
    return is_packed(problem) and problem.step_bytes <= _MOST_STEP


def configure(problem: WeightProblem, device: Device) -> WeightConfig:
    """The blocks for a problem on a CPU."""
    itemsize = problem.compute_itemsize
    lanes = device.vector_bytes // itemsize
    registers, micro_m = min(
        micro_tiles(device), key=lambda tile: _cycles(problem, lanes * tile[0], *tile)
    )
    vector = registers * lanes
    panels, tiles = -(-problem.outputs // vector), -(-problem.channels // micro_m)
    units = tiles * prod(problem.taps)
    most_units = max(_SUM_BYTES // (micro_m * vector * itemsize), 1)
    parts = _parts(problem.groups * panels, units, most_units, device)
    few = problem.channels <= micro_m // 2
    packed_bytes = _FEW_PACKED_BYTES if few else _PACKED_BYTES
    slabs = -(-problem.pixels // (packed_bytes // (vector * itemsize)))
    return WeightConfig(
        micro_m=micro_m,
        vector=vector,
        panels=panels,
        tiles=tiles,
        parts=parts,
        depth=-(-problem.pixels // max(slabs, 1)) or 1,
        units=-(-units // parts),
    )


def micro_tiles(device: Device) -> list[tuple[int, int]]:
    """Registers of outputs, and channels, whose sums stay in registers: some, the best ones first.

    Each is an instance of its own, so that they are few.
    """
    found = []
    most, rows = MICRO_TILE[device.vector_bytes]
    for registers in (4, 2, 1):
        if registers <= most:
            limit = rows if registers == most else NARROW_ROWS[device.vector_bytes][registers]
            found += [(registers, m) for m in (14, 11, 8, 6, 4) if m <= limit]
    return found


def _cycles(problem: WeightProblem, vector: int, registers: int, micro_m: int) -> float:
    """Of a tap of all channels and outputs of one pixel, roughly: two multiply-adds or loads each.

    Packed pixels come from a level-2 cache, and a chain of multiply-adds takes its time.
    """

    def tile(rows: int) -> float:
        return max(rows * registers, rows + registers, 3 * registers, 8) / 2 + 1

    whole, rest = divmod(problem.channels, micro_m)
    last = 0.0 if rest == 0 else tile(micro_m // 2 if rest <= micro_m // 2 else micro_m)
    return -(-problem.outputs // vector) * (whole * tile(micro_m) + last)


def _parts(panels: int, units: int, most_units: int, device: Device) -> int:
    """Into how many blocks a panel is divided: as many as have work for all threads."""
    parts = -(-units // most_units)
    while parts * _LEAST_UNITS < units and not is_shared_evenly(panels * parts, device):
        parts += 1
    return parts


def is_shared_evenly(blocks: int, device: Device) -> bool:
    """Whether all threads have as many blocks, or nearly."""
    return blocks % device.processors == 0 or blocks >= 4 * device.processors
