"""Which gradients by weights a CPU makes from packed pixels, and their blocks.

See ``cuda_src/nnk/conv_weight.cuh``.
"""

from __future__ import annotations

from dataclasses import dataclass

from nnkernels.config.device import Device
from nnkernels.config.matmul_packed import micro_tile
from nnkernels.config.matmul_problem import round_up


@dataclass(frozen=True)
class WeightProblem:
    """The gradient of a convolution by its weights.

    Attributes
    ----------
    pixels : int
        Windows in all images.
    row : int
        Windows along the last axis.
    groups, channels, outputs : int
        Groups, and what there is in one of them.
    taps : int
        Of a window.
    compute_itemsize : int
        Of the sums.
    is_complex : bool
        Whether these are complex.
    """

    pixels: int
    row: int
    groups: int
    channels: int
    outputs: int
    taps: int
    compute_itemsize: int
    is_complex: bool


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
        numbers = (self.depth + self.units * self.micro_m) * self.vector
        return numbers * compute_itemsize + self.depth * _RUN_BYTES


# `Run` of cuda_src/nnk/conv_weight.cuh.
_RUN_BYTES = 16
# Of packed pixels and of sums: both stay in a level-2 cache, beside what is seen of the image.
_PACKED_BYTES, _SUM_BYTES = 128 * 1024, 192 * 1024
# With fewer pixels, transposing the sums as they are written takes too large a share of the time
# (512 channels, 3x3: 0.8 times as fast with 49 pixels, 1.1 with 196).
_LEAST_PIXELS = 128
# Fewer units than this are not worth a block, which packs pixels of its own.
_LEAST_UNITS = 8


def pays(problem: WeightProblem) -> bool:
    """Whether it is faster than the product that gathers the image.

    Both give the same bits. (But for what is not finite: 0 inf of the padding is left out here.)
    """
    return not problem.is_complex and problem.pixels >= _LEAST_PIXELS


def configure(problem: WeightProblem, device: Device) -> WeightConfig:
    """The blocks for a problem on a CPU."""
    itemsize = problem.compute_itemsize
    vector, most_m = micro_tile(problem.outputs, itemsize, device)
    micro_m = min(_rows(most_m), key=lambda m: _cost(problem.channels, m))
    panels, tiles = -(-problem.outputs // vector), -(-problem.channels // micro_m)
    units = tiles * problem.taps
    most_units = max(_SUM_BYTES // (micro_m * vector * itemsize), 1)
    parts = _parts(problem.groups * panels, units, most_units, device)
    slabs = -(-problem.pixels // (_PACKED_BYTES // (vector * itemsize)))
    return WeightConfig(
        micro_m=micro_m,
        vector=vector,
        panels=panels,
        tiles=tiles,
        parts=parts,
        depth=-(-problem.pixels // max(slabs, 1)) or 1,
        units=-(-units // parts),
    )


def _rows(most: int) -> list[int]:
    """Channels whose sums may stay in registers: a few numbers, each an instance of its own."""
    return [m for m in (14, 12, 11, 8, 6, 5) if m <= most]


def _cost(channels: int, micro_m: int) -> float:
    """Time of a pixel: that of multiplying, and of loading what all channels of a tile need."""
    rest = channels % micro_m
    half = micro_m // 2
    rows = channels - rest + (0 if rest == 0 else half if rest <= half else micro_m)
    return rows + 2 * -(-channels // micro_m)


def _parts(panels: int, units: int, most_units: int, device: Device) -> int:
    """Into how many blocks a panel is divided: as many as have work for all threads."""
    parts = -(-units // most_units)
    while parts * _LEAST_UNITS < units and not _is_shared_evenly(panels * parts, device):
        parts += 1
    return parts


def _is_shared_evenly(blocks: int, device: Device) -> bool:
    return blocks % device.processors == 0 or blocks >= 4 * device.processors
