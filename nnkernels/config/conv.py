"""Which kernel makes a product over windows, and its tiles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from nnkernels.config import matmul_complex, matmul_packed, matmul_tiles
from nnkernels.config.device import Device
from nnkernels.config.matmul_complex import ComplexConfig
from nnkernels.config.matmul_packed import (
    FUSED,
    MICRO_TERMS,
    PackedConfig,
    way_to_multiply,
)
from nnkernels.config.matmul_problem import MatmulProblem
from nnkernels.config.matmul_tiles import FEATURES, SPLIT, TilesConfig

# What pixels are to the product: its columns, rows, or the terms of its sums.
COLUMNS, ROWS, TERMS = "pixels_are_columns", "pixels_are_rows", "pixels_are_terms"

# From so many pixels on, an image is a product of its own: fewer do not fill panels of 64 columns.
LARGE_IMAGE = 512
# So many weights are worth being packed once.
_MANY_WEIGHTS = 1 << 16


def joins_images(
    images: int, pixels: int, weights: int, strides_of_weights: tuple[int, int]
) -> bool:
    """Whether a CPU makes one product of images of few pixels that might be a stack of products.

    Weights whose rows are adjacent are packed, and would be so for each image (512 and 2048 of
    them, eight images of 7x7: 7.0 ms in place of 10.3 on Emerald Rapids). Few weights cost less
    than finding where images end.

    Parameters
    ----------
    pixels : int
        Of an image.
    weights : int
        How many there are.
    strides_of_weights : tuple of int
        From row to row and from term to term.
    """
    row, term = (abs(stride) for stride in strides_of_weights)
    return images > 1 and pixels < LARGE_IMAGE and weights >= _MANY_WEIGHTS and row < term


# What packing a term of a register of pixels costs, in multiply-adds of registers: of pixels that
# are columns, or of a row of channels, of which a register has many.
_PACKING = {COLUMNS: 5.0, ROWS: 0.5}


def joins_phases(
    rows: int, phases: int, terms: tuple[int, int], pixels: str, lanes: int, device: Device
) -> bool:
    """Whether a CPU makes one product of all phases of a transposed convolution.

    Elements whose indices have one remainder by the strides see the same taps. Joined, they are
    rows of one product whose windows have all that any of them sees: fewer pixels are gathered, and
    few rows fill registers, but some weights are zeros.

    Parameters
    ----------
    rows : int
        Of a phase.
    phases : int
        How many there are.
    terms : pair of int
        Of all phases together, one by one, and of the joined product.
    pixels : str
        What pixels are to the product.
    lanes : int
        Of a register.
    """

    def cycles(rows: int, terms: int) -> float:
        # Rows fill lanes where pixels are rows; else each is a multiply-add.
        made = -(-rows // lanes) if pixels == ROWS else rows
        return terms * (made + _PACKING[pixels])

    if device.is_gpu or phases == 1:
        return False
    return cycles(rows * phases, terms[1]) < _WORTH * cycles(rows, terms[0])


# Share of the time of phases one by one that makes joining them worth it.
_WORTH = 0.8


@dataclass(frozen=True)
class ConvProblem:
    """A product over windows.

    Attributes
    ----------
    product : MatmulProblem
        The same without windows. Strides of what is gathered are not looked at.
    pixels : str
        What pixels are: ``COLUMNS``, ``ROWS`` or ``TERMS``.
    channels_fast : bool
        Whether channels of the image are adjacent, and seen tap by tap.
    scattered : bool
        Whether the array of pixels has no single step from pixel to pixel.
    kernel : tuple of int
        Taps along the spatial axes.
    gathered : bool
        Whether weights have no single step from term to term.
    channels : int
        Of a group of the image.
    image_alignment, pixels_alignment : int
        For a GPU: powers of two, at most 16, of which the address of the image, or of the array of
        pixels, and its strides are multiples; but for that of adjacent channels, and that of the
        rows of the array of pixels, and the step within a run of it.
    run : int
        Of the array of pixels, how many adjacent ones follow each other everywhere.
    """

    product: MatmulProblem
    pixels: str
    channels_fast: bool
    scattered: bool
    kernel: tuple[int, int, int]
    gathered: bool = False
    channels: int = 1
    image_alignment: int = 1
    pixels_alignment: int = 1
    run: int = 1

    @property
    def packs_a(self) -> bool:
        """Whether A is gathered: the image, the array of pixels, or weights."""
        scattered = self.pixels == TERMS and self.scattered
        return self.pixels == ROWS or scattered or (self.pixels == COLUMNS and self.gathered)

    @property
    def packs_b(self) -> bool:
        """Whether B is gathered: the image, or weights."""
        return self.pixels != ROWS or self.gathered


@dataclass(frozen=True)
class ConvPackedConfig:
    """A packed product of a CPU, with what its form packs: ``cuda_src/nnk/conv_form.cuh``, or
    ``conv_words_form.cuh`` if it multiplies words of several terms.

    Attributes
    ----------
    packed : PackedConfig, ComplexConfig or TilesConfig
        Tiles and blocks.
    lanes : int
        Pixels of a group, one for each lane of a register.
    """

    packed: PackedConfig | ComplexConfig | TilesConfig
    pixels: str
    channels_fast: bool
    scattered: bool
    gathered: bool
    lanes: int

    @property
    def word_terms(self) -> int:
        """Terms of a word of what is multiplied."""
        packed = self.packed
        if isinstance(packed, TilesConfig):
            return 4 // packed.itemsize
        return MICRO_TERMS[packed.micro] if isinstance(packed, PackedConfig) else 1

    @property
    def panel_columns(self) -> int:
        """Columns of a panel of B, whose sums stay in registers."""
        packed = self.packed
        if isinstance(packed, TilesConfig):
            return matmul_tiles.MICRO
        return packed.vector // 2 if isinstance(packed, ComplexConfig) else packed.vector

    def shared_bytes(self, k: int, kernel: tuple[int, int, int], compute_itemsize: int) -> int:
        """Scratch memory of a thread: that of the product, and what is known of some pixels."""
        packed = self.packed
        slice_terms = packed.tile_k
        if isinstance(packed, PackedConfig):
            slice_terms *= self.word_terms
        most = slice_terms if self.pixels == TERMS else packed.tile_n
        index = 4 if packed.index == "i" else 8
        runs = 2 * (most * (index + 8) + 8)
        # Pixels of no tap have what is known of one.
        kernel = max(kernel[0], 1), max(kernel[1], 1), max(kernel[2], 1)
        masks = sum(kernel) * -(-most // self.lanes) * 4
        of_tap = 2 * index + self.panel_columns // self.lanes * 4
        if self.pixels == COLUMNS:
            of_tap += _MOST_RUNS * (index + 4)
        taps = prod(kernel) * of_tap
        rows = _ROW_PAD * packed.rows_at_once if isinstance(packed, TilesConfig) else 0
        # What the pixels of a word see, for each column, from a cache line on.
        lines = 4 * packed.tile_n + _CACHE_LINE if self.word_terms > 1 else 0
        return packed.shared_elements(k) * compute_itemsize + rows + lines + runs + masks + taps


# Runs of pixels of a group whose lanes are put together: `most_runs` of
# cuda_src/nnk/conv_pixel_panels.cuh.
_MOST_RUNS = 4
# Bytes between rows of A on tile registers: `pad` of cuda_src/nnk/matmul_tiles.cuh.
_ROW_PAD = 64
_CACHE_LINE = 64
# Numbers whose bits registers have lanes for: not those of complex128.
_WIDEST = 8


def configure(problem: ConvProblem, device: Device) -> ConvPackedConfig:
    """The tiles and blocks for a problem on a CPU."""
    scatters = problem.scattered and problem.pixels != TERMS
    a, b, _ = problem.product.itemsizes
    product = problem.product
    if problem.packs_a:  # rows of adjacent terms
        product = replace(product, strides_a=(product.reach, a))
    if problem.packs_b:  # adjacent columns
        product = replace(product, strides_b=(product.reach, b))
    product = replace(
        product,
        dot=_dot(product.dot),
        in_place=product.in_place and not scatters,
    )
    chosen: PackedConfig | ComplexConfig | TilesConfig
    if matmul_tiles.is_possible(product, device):
        chosen = matmul_tiles.configure(product, device)
    elif product.is_complex:
        chosen = matmul_complex.configure(product, device)
        chosen = replace(chosen, read_a=chosen.read_a and not problem.packs_a)
    else:
        chosen = matmul_packed.configure(product, device, plain=False, packs_a=problem.packs_a)
    found = ConvPackedConfig(
        packed=chosen,
        pixels=problem.pixels,
        channels_fast=problem.channels_fast,
        scattered=problem.scattered,
        gathered=problem.gathered,
        lanes=1,
    )
    # Of numbers of two bytes, or as of words of four of one.
    itemsize = 2 if found.word_terms == 2 else product.compute_itemsize
    if itemsize > _WIDEST:
        return found
    return replace(found, lanes=min(device.vector_bytes // itemsize, found.panel_columns))


def _dot(dot: str) -> str:
    """For which elements words of several terms are gathered: not float16, which would be split."""
    return "" if dot == SPLIT else dot


def multiplies_words(dot: str, device: Device) -> bool:
    """Whether a CPU multiplies words of several terms of a convolution of some elements.

    Parameters
    ----------
    dot : str
        As in ``MatmulProblem``.
    """
    dot = _dot(dot)
    return FEATURES.get(dot) in device.features or way_to_multiply(dot, device) != FUSED
