"""Which products over windows matrix cores make, and with which tiles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from nnkernels.config import matmul_tensor, matmul_warpgroup
from nnkernels.config.conv import COLUMNS, ROWS, TERMS, ConvProblem
from nnkernels.config.device import Device
from nnkernels.config.matmul_atoms import Atom, Tile, atom_for, atom_of
from nnkernels.config.matmul_problem import index_kind
from nnkernels.config.matmul_tensor import (
    ASYNC_ROWS,
    ASYNC_TERMS,
    SINGLE_ROWS,
    SINGLE_TERMS,
    VECTOR_ROWS,
    VECTOR_TERMS,
    Delays,
    TensorConfig,
    Way,
)
from nnkernels.dispatch.axes import largest_power_of_two

# Taps for which a word has a bit each.
_FEW_TAPS = 32
# Of the sums of an atom, one in so many along each side is wanted at least: ordinary arithmetic
# makes fewer.
_LEAST_SHARE = 4
# Finding pixels: the first places of a block are divisions, and those of pixels that are terms go
# on with every slice, one after the other. (On an H100 a block of 128 x 128 alone takes 920 cycles
# for a slice of pixels that are rows, 1107 where they are terms, and 874 of matrices.)
_DELAYS = {
    COLUMNS: Delays(100, 0, 4000, "b"),
    ROWS: Delays(100, 0, 4000, "a"),
    TERMS: Delays(100, 190, 4000, "b"),
}
# More tiles, of pixels that are rows whose channels come in chunks, asynchronously: 96 and 192 rows
# fill 132 processors where 128 leave a quarter of them idle (32 images of 14x14 or 28x28), and 8
# warps of a block that is alone wait less than 4.
_MORE_TILES = (
    Tile(192, 128, 48, 64, 64, 4, 0.92),
    Tile(96, 128, 48, 64, 64, 4, 0.88),
    Tile(96, 128, 48, 32, 64, 4, 0.8),
    Tile(128, 128, 64, 32, 64, 4, 0.82),
)
# Bytes of tables at most: of 128 terms of a byte.
_TABLE_BYTES = 12 << 10


@dataclass(frozen=True)
class ConvTensorConfig:
    """Template arguments of one instance: see ``cuda_src/nnk/conv_tensor_form.cuh``.

    Attributes
    ----------
    product : TensorConfig
        Tiles, and how operands come to shared memory: also those that are gathered.
    pixels : str
        What pixels are to the product: ``COLUMNS``, ``ROWS`` or ``TERMS``.
    few_taps : bool
        Whether the taps that a pixel sees are bits of a word.
    channels_fast, scattered : bool
        See ``ConvProblem``.
    vector : int
        Channels of a tap that are read at once, where these are no chunks of 16 bytes.
    """

    product: TensorConfig
    pixels: str
    channels_fast: bool
    few_taps: bool
    scattered: bool
    vector: int = 1

    @property
    def form(self) -> str:
        """C++ type of the form."""
        flags = (self.channels_fast, self.few_taps, self.scattered)
        texts = [self.pixels, *("true" if flag else "false" for flag in flags), str(self.vector)]
        return f"ConvTensorForm<{', '.join(texts)}>"

    def shared_bytes(self, k: int, compute_itemsize: int) -> int:
        """Shared memory of a block: that of the product, and tables of what is gathered."""
        return self.product.shared_elements(k) * compute_itemsize + self._table_bytes

    @property
    def _table_bytes(self) -> int:
        """See ``table_words`` in ``cuda_src/nnk/conv_tensor_gather.cuh``."""
        product, index = self.product, 4 if self.product.index == "i" else 8
        if self.pixels == TERMS:
            words = 4 * product.tile_n if product.way_b == SINGLE_TERMS else 0
            words += product.tile_m if self.scattered and product.way_a == SINGLE_TERMS else 0
            return words * index
        image = product.way_a if self.pixels == ROWS else product.way_b
        return (
            3 * product.tile_k * (2 if self.few_taps else 4) * index if image == SINGLE_ROWS else 0
        )

    def for_workspace(self, n: int, itemsize: int, index: str) -> ConvTensorConfig:
        """The same for the first launch of a split product, whose result is dense."""
        return replace(
            self,
            product=self.product.for_workspace(n, itemsize, index),
            scattered=self.scattered and self.pixels == TERMS,
        )


def configure(problem: ConvProblem, device: Device) -> ConvTensorConfig | None:
    """The tiles for a problem on a GPU, or None if ordinary arithmetic is to make it."""
    product = problem.product
    atom = atom_of(product, device)
    if atom is not None and atom.warps > 1 and _gathers_terms_singly(problem):
        atom = atom_for(product.element, device)
    if atom is None or min(product.m, product.n) * _LEAST_SHARE < atom.m:
        return None
    few_taps = problem.pixels == TERMS or prod(problem.kernel) <= _FEW_TAPS
    # Offsets of 64 bits, or three coordinates of each pixel.
    many_places = not few_taps or index_kind(product.reach) == "q"
    ways = _ways(problem, atom)
    chunks = problem.pixels == ROWS and all(way.alignment == 16 for way in ways)
    chunks = chunks and ways[0].way == ASYNC_TERMS and ways[1].way in (ASYNC_TERMS, ASYNC_ROWS)
    if atom.warps > 1:
        more = matmul_warpgroup.MORE_TILES
    else:
        more = _MORE_TILES if atom.itemsize == 2 else ()
    chosen = matmul_tensor.tiled(
        product,
        replace(device, shared_limit=device.shared_limit - _TABLE_BYTES),
        atom,
        ways,
        _wide_c(problem),
        many_places,
        delays=_DELAYS[problem.pixels],
        more_tiles=more if chunks and not many_places else (),
    )
    if chosen is None:
        return None
    image = chosen.way_a if problem.pixels == ROWS else chosen.way_b
    return ConvTensorConfig(
        chosen,
        problem.pixels,
        problem.channels_fast,
        few_taps,
        problem.scattered,
        _vector(problem) if image == SINGLE_ROWS else 1,
    )


def joins_phases(element: str, rows: int, phases: int, device: Device) -> bool:
    """Whether a GPU makes one product of all phases of a transposed convolution.

    That is where matrix cores take the rows of all phases together, but not those of one, as for
    the three channels of an image: by ordinary arithmetic, phases one by one took an H100 1650 us
    for 32 images of 224 x 224 from 64 channels by windows of 7 x 7.

    Parameters
    ----------
    element : str
        C++ type of operands.
    rows : int
        Of a phase.
    """
    atom = atom_for(element, device)
    if atom is None or phases == 1:
        return False
    return rows * _LEAST_SHARE < atom.m <= rows * phases * _LEAST_SHARE


def _vector(problem: ConvProblem) -> int:
    """Channels that are read at once: those of 8 bytes at most."""
    if not problem.channels_fast:
        return 1
    wanted = min(problem.image_alignment, 8) // problem.product.itemsizes[0]
    return largest_power_of_two(max(wanted, 1), problem.channels)


def _gathers_terms_singly(problem: ConvProblem) -> bool:
    """Whether terms are pixels of few channels, each element of which is loaded alone.

    A warpgroup waits for these longer than several warps do (7 x 7 over 3 channels of 32 images of
    224 x 224 on an H100: 141 us in place of 111, channels first 237 in place of 161). This does not
    look at strides, as sums would differ.
    """
    return problem.pixels == TERMS and problem.channels * problem.product.itemsizes[0] % 16 != 0


def _ways(problem: ConvProblem, atom: Atom) -> tuple[Way, Way]:
    """How the operands come to shared memory."""
    plain_a, plain_b = matmul_tensor.ways_of_matrices(problem.product, atom)
    size = problem.product.itemsizes[0]
    chunks = problem.channels_fast and problem.image_alignment >= 16
    chunks = chunks and problem.channels * size % 16 == 0
    if problem.pixels == TERMS:
        if problem.scattered:
            plain_a = _way_of_pixels(_pixels_have_chunks(problem, problem.product.m, size), atom)
        return plain_a, _way_of_pixels(chunks, atom)
    image = Way(SINGLE_ROWS)
    if chunks:
        image = Way(ASYNC_TERMS if atom.asynchronous else VECTOR_TERMS)
    return (image, plain_b) if problem.pixels == ROWS else (plain_a, image)


def _way_of_pixels(chunks: bool, atom: Atom) -> Way:
    """How an operand comes whose terms are pixels."""
    if not chunks:
        return Way(SINGLE_TERMS)
    return Way(ASYNC_ROWS if atom.asynchronous and atom.transposes else VECTOR_ROWS)


def _pixels_have_chunks(problem: ConvProblem, rows: int, size: int) -> bool:
    """Whether the array of pixels has adjacent rows, in whole chunks of 16 bytes."""
    product = problem.product
    step = product.strides_a[0] if problem.pixels == TERMS else product.strides_c[1]
    aligned = problem.pixels_alignment >= 16 and rows * size % 16 == 0
    return aligned and step == size and problem.run == 1


def _wide_c(problem: ConvProblem) -> bool:
    """Whether C is written in accesses of 16 bytes."""
    product = problem.product
    if problem.pixels == TERMS or not problem.scattered:
        return matmul_tensor.is_wide(product)
    return problem.pixels == ROWS and _pixels_have_chunks(problem, product.n, product.itemsizes[2])
