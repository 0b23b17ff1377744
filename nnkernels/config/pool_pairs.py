"""Pooling of pairs of neighbours in a row, on a CPU: which calls it is for, and its pieces."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from nnkernels.config import pool
from nnkernels.config.blocks import units_of_a_block
from nnkernels.config.device import Device
from nnkernels.config.pool import PoolProblem
from nnkernels.dispatch.windows import Axis

# Windows of a vector, at least: their elements fill a register of 32 bytes, if they are of 4.
_LEAST_VECTOR = 4
# Bytes of a line of the cache.
_LINE = 64


@dataclass(frozen=True)
class PairsConfig:
    """Template arguments of an instance, and how rows of windows are shared out.

    Attributes
    ----------
    vector : int
        Windows whose results are made at once.
    streaming : bool
        Whether results are written past the caches.
    fetches : bool
        Whether what is read is fetched ahead.
    units, tile : int
        Rows of windows, and those of a block.
    """

    vector: int
    index: str
    streaming: bool
    fetches: bool
    units: int
    tile: int

    @property
    def blocks(self) -> int:
        """Size of the grid."""
        return -(-self.units // self.tile)


def configure(problem: PoolProblem, device: Device) -> PairsConfig | None:
    """The pieces, or None if windows are no pairs, overlap, or lie in another way."""
    depth, height, width = problem.axes
    adjacent = all(s[4] == size for s, size in zip(problem.strides, problem.itemsizes, strict=True))
    if device.is_gpu or problem.adaptive or not adjacent:
        return None
    if width.kernel != 2 or not all(_divides(axis) for axis in problem.axes):
        return None
    units = prod(problem.planes) * depth.out * height.out
    # What a row of windows reads or writes of the image, two elements as one result.
    elements = depth.kernel * height.kernel * width.out
    return PairsConfig(
        vector=_vector(width.out, device.vector_bytes // problem.compute_itemsize),
        index=problem.index,
        streaming=pool.streams(problem, device) and _has_whole_lines(problem),
        fetches=pool.is_far(problem),
        units=units,
        tile=units_of_a_block(units, elements, device),
    )


def _has_whole_lines(problem: PoolProblem) -> bool:
    """Whether rows of all results begin and end with a line of the cache.

    Written past the caches, those of 64x64x60x100 take 7.1 ms for the gradient of averages on two
    cores of Zen 4, and 5.2 otherwise; those of 32x64x128x128 3.6 and 7.1.
    """
    length = problem.axes[2].size if problem.backward else problem.axes[2].out
    operands = list(zip(problem.strides, problem.itemsizes, strict=True))
    results = operands[:1] if problem.backward else operands[1:]
    return all(
        length * size % _LINE == 0 and not any(step % _LINE for step in strides[:4])
        for strides, size in results
    )


def _vector(windows: int, widest: int) -> int:
    """As many as a register has, or no more than a row has: 1280 planes of 8x8, whose rows have 4
    windows, take 36 us with vectors of 4 on a core of Zen 4, and 45 with those of 16.
    """
    return min(widest, max(_LEAST_VECTOR, 1 << (windows - 1).bit_length()))


def _divides(axis: Axis) -> bool:
    """Whether windows lie beside each other within the image."""
    alone = axis.stride == axis.kernel or axis.out == 1
    whole = axis.low == 0 and 1 <= axis.out * axis.kernel <= axis.size
    return alone and whole and (axis.dilation == 1 or axis.kernel == 1)
