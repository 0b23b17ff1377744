"""The tiles of a product over windows on a GPU, by its ordinary arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nnkernels.config import matmul_simt
from nnkernels.config.conv import COLUMNS, ROWS, TERMS, ConvProblem
from nnkernels.config.device import Device
from nnkernels.config.matmul_problem import COLUMNS_FAST, ROWS_FAST, MatmulProblem
from nnkernels.config.matmul_simt import SimtConfig, side
from nnkernels.dispatch.axes import largest_power_of_two


@dataclass(frozen=True)
class ConvSimtConfig:
    """Template arguments of one instance; see ``cuda_src/nnk/conv_tile_copy.cuh``.

    Attributes
    ----------
    product : SimtConfig
        That of the product of matrices.
    pixels : str
        What pixels are to it: ``COLUMNS``, ``ROWS`` or ``TERMS``.
    channels_fast, scattered : bool
        See ``ConvProblem``.
    """

    product: SimtConfig
    pixels: str
    channels_fast: bool
    scattered: bool

    def shared_bytes(self, k: int, compute_itemsize: int) -> int:
        """Shared memory of a block: slices, and for every team what it knows of their terms."""
        product = self.product
        words = 5 if self.scattered and self.pixels == TERMS else 4
        index = 4 if product.index == "i" else 8
        tables = 2 * product.tile_k * words * index * product.teams
        return product.shared_elements(k) * compute_itemsize + tables

    def for_workspace(self, n: int, itemsize: int, index: str) -> ConvSimtConfig:
        """The same for the first launch of a split product, whose result is dense."""
        return replace(
            self,
            product=self.product.for_workspace(n, itemsize, index),
            scattered=self.scattered and self.pixels == TERMS,
        )


def configure(problem: ConvProblem, device: Device) -> ConvSimtConfig:
    """The kernel for a problem on a GPU: the tiles and splits of the product without windows."""
    chosen = matmul_simt.configure(_without_windows(problem), device)
    fast, vector = _image(problem)
    if problem.pixels == ROWS:
        chosen = replace(chosen, fast_a=fast, vector_a=vector)
    else:
        chosen = replace(chosen, fast_b=fast, vector_b=vector)
    if problem.packs_a and problem.pixels == TERMS:
        fast, vector = _scattered(problem)
        chosen = replace(chosen, fast_a=fast, vector_a=vector)
    if problem.scattered and problem.pixels != TERMS:
        chosen = replace(chosen, unit_c=_stores_groups(problem, chosen))
    return ConvSimtConfig(chosen, problem.pixels, problem.channels_fast, problem.scattered)


def _without_windows(problem: ConvProblem) -> MatmulProblem:
    """The product of matrices that has the tiles of a product over windows.

    What is gathered has no adjacent neighbours, so that the largest tile, whose threads have no
    registers for its places, is not taken. (On sm_80 it spilled 64 bytes.)
    """
    product = problem.product
    strides_a = (0, 0) if problem.packs_a else product.strides_a
    strides_b = (0, 0) if problem.pixels != ROWS else product.strides_b
    return replace(product, strides_a=strides_a, strides_b=strides_b)


def _image(problem: ConvProblem) -> tuple[int, int]:
    """Along which axis the operand of windows is read, and how many channels at once."""
    if problem.pixels == COLUMNS:  # neighbouring threads read neighbouring pixels
        return COLUMNS_FAST, 1
    if not problem.channels_fast:  # pixels that are terms
        return ROWS_FAST, 1
    itemsize = problem.product.itemsizes[0 if problem.pixels == ROWS else 1]
    # Of terms 32 bytes in shared memory, of columns 16: see matmul_simt.
    most = (32 if problem.pixels == ROWS else 16) // problem.product.compute_itemsize
    most = max(1, min(most, problem.image_alignment // itemsize))
    return COLUMNS_FAST, largest_power_of_two(most, problem.channels)


def _scattered(problem: ConvProblem) -> tuple[int, int]:
    """The same for the array of pixels, where these are terms."""
    product, itemsize = problem.product, problem.product.itemsizes[0]
    compute, (row, _) = product.compute_itemsize, product.strides_a
    if row == itemsize and problem.run == 1:
        most = max(1, min(problem.pixels_alignment // itemsize, 16 // compute))
        return ROWS_FAST, largest_power_of_two(most, product.m)
    alignment = largest_power_of_two(problem.pixels_alignment, row)
    most = max(1, min(alignment // itemsize, 32 // compute))
    return COLUMNS_FAST, largest_power_of_two(most, problem.run)


def _stores_groups(problem: ConvProblem, chosen: SimtConfig) -> bool:
    """Whether groups of sums, none of which is cut by the end of a run, are stored at once."""
    product = problem.product
    itemsize = product.itemsizes[2]
    size = side(chosen.micro_n, product.compute_itemsize)
    access = min(16, size * itemsize)
    if problem.pixels_alignment % access:
        return False
    if problem.pixels == COLUMNS:
        return problem.run % size == 0 and product.strides_c[0] % access == 0
    return product.strides_c[1] == itemsize and product.n % size == 0
