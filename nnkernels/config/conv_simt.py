"""The tiles of a product over windows on a GPU, by its ordinary arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nnkernels.config import matmul_simt
from nnkernels.config.conv import COLUMNS, ROWS, TERMS, ConvProblem
from nnkernels.config.device import Device
from nnkernels.config.matmul_problem import COLUMNS_FAST, ROWS_FAST
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

    @property
    def form(self) -> str:
        """C++ type of the form."""
        flags = (self.channels_fast, self.scattered)
        texts = [self.pixels, *("true" if flag else "false" for flag in flags)]
        return f"ConvTiles<{', '.join(texts)}>"

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
    product = problem.product
    # What is gathered has no strides: it takes a tile with registers for its places.
    strides_a = (0, 0) if problem.packs_a else product.strides_a
    strides_b = (0, 0) if problem.pixels != ROWS else product.strides_b
    chosen = matmul_simt.configure(
        replace(product, strides_a=strides_a, strides_b=strides_b), device
    )
    if problem.pixels == ROWS:
        fast, vector = _image(problem, chosen.tile_k)
        chosen = replace(chosen, fast_a=fast, vector_a=vector)
    else:
        fast, vector = _image(problem, chosen.tile_k)
        chosen = replace(chosen, fast_b=fast, vector_b=vector)
    if problem.packs_a and problem.pixels == TERMS:
        fast, vector = _scattered(problem)
        chosen = replace(chosen, fast_a=fast, vector_a=vector)
    if problem.scattered and problem.pixels != TERMS:
        chosen = replace(chosen, unit_c=_stores_groups(problem, chosen))
    return ConvSimtConfig(chosen, problem.pixels, problem.channels_fast, problem.scattered)


def _image(problem: ConvProblem, tile_k: int) -> tuple[int, int]:
    """Along which axis the operand of windows is read, and how many channels at once."""
    itemsize = problem.product.itemsizes[0 if problem.pixels == ROWS else 1]
    compute = problem.product.compute_itemsize
    # Written to rows of the tile apart, 32 bytes of terms; else as one vector: see matmul_simt.
    most = 32 // compute if problem.pixels == ROWS else 16 // compute
    vector = largest_power_of_two(
        max(1, min(16, problem.image_alignment) // itemsize), problem.channels
    )
    vector = max(1, min(vector, most))
    match problem.pixels:
        case "pixels_are_columns":  # neighbouring threads read neighbouring pixels
            return COLUMNS_FAST, 1
        case "pixels_are_rows":  # neighbouring channels
            return COLUMNS_FAST, vector
    # Columns are channels, if these are adjacent; else pixels are.
    return (COLUMNS_FAST, vector) if problem.channels_fast else (ROWS_FAST, 1)


def _scattered(problem: ConvProblem) -> tuple[int, int]:
    """The same for the array of pixels, where these are terms."""
    product, itemsize = problem.product, problem.product.itemsizes[0]
    widest, compute = 16 // itemsize, product.compute_itemsize
    aligned = max(1, problem.pixels_alignment // itemsize)
    if product.strides_a[0] == itemsize and problem.run == 1:
        return ROWS_FAST, largest_power_of_two(
            min(widest, aligned, max(1, 16 // compute)), product.m
        )
    whole_rows = product.strides_a[0] % (aligned * itemsize) == 0
    most = min(widest, aligned, 32 // compute) if whole_rows else 1
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
