"""Which products over windows matrix cores make, and with which tiles."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nnkernels.config import matmul_tensor
from nnkernels.config.conv import COLUMNS, ROWS, TERMS, ConvProblem
from nnkernels.config.device import Device
from nnkernels.config.matmul_problem import MatmulProblem, index_kind
from nnkernels.config.matmul_tensor import (
    ASYNC_ROWS,
    ASYNC_TERMS,
    SINGLE_ROWS,
    SINGLE_TERMS,
    VECTOR_ROWS,
    VECTOR_TERMS,
    Atom,
    TensorConfig,
)

# Taps for which a word has a bit each.
_FEW_TAPS = 32
# Of tables, in bytes: of 128 rows and 128 columns, or of 128 terms of a byte.
_MOST_OF_TABLES = 12 << 10
# Of the sums of an atom, at least one in so many along each side is wanted: else ordinary
# arithmetic makes fewer.
_LEAST_SHARE = 4


@dataclass(frozen=True)
class ConvTensorConfig:
    """The product, and what its form gathers: ``cuda_src/nnk/conv_tensor_form.cuh``.

    Attributes
    ----------
    tensor : TensorConfig
        Tiles, and how operands come to shared memory: also those that are gathered.
    few_taps : bool
        Whether the taps that a pixel sees are bits of a word.
    """

    tensor: TensorConfig
    pixels: str
    channels_fast: bool
    few_taps: bool
    scattered: bool

    def for_workspace(self, product: MatmulProblem, index: str) -> ConvTensorConfig:
        """The same, for sums of a split in a dense workspace."""
        tensor, tables = self.tensor, self.table_bytes // self.tensor.atom.sum_itemsize
        tensor = tensor.for_workspace(product.n, product.compute_itemsize, index)
        changed = replace(self, tensor=tensor)
        tables = changed.table_bytes // tensor.atom.sum_itemsize - tables
        return replace(changed, tensor=replace(tensor, shared=tensor.shared + tables))

    @property
    def table_bytes(self) -> int:
        """Shared memory for what is looked up: ``cuda_src/nnk/conv_tensor_gather.cuh``."""
        tensor, index = self.tensor, 4 if self.tensor.index == "i" else 8
        words = 0
        if self.pixels == TERMS:
            if tensor.way_b == SINGLE_TERMS:
                words += 4 * tensor.tile_n
            if self.scattered and tensor.way_a == SINGLE_TERMS:
                words += tensor.tile_m
        elif (tensor.way_a if self.pixels == ROWS else tensor.way_b) == SINGLE_ROWS:
            words = 3 * tensor.tile_k * (2 if self.few_taps else 4)
        return words * index


def configure(problem: ConvProblem, device: Device) -> ConvTensorConfig | None:
    """The tiles for a problem on a GPU, or None if ordinary arithmetic is to make it."""
    product = problem.product
    atom = matmul_tensor.atom_of(product, device)
    if atom is None or min(product.m, product.n) * _LEAST_SHARE < atom.m:
        return None
    taps = problem.kernel[0] * problem.kernel[1] * problem.kernel[2]
    few_taps = problem.pixels == TERMS or taps <= _FEW_TAPS
    ways = _ways(problem, atom)
    chosen = matmul_tensor.tiled(
        product,
        replace(device, shared_limit=device.shared_limit - _MOST_OF_TABLES),
        atom,
        ways,
        _wide_c(problem),
        # A second launch has a result with one step between its columns.
        may_split=problem.pixels == TERMS or not problem.scattered,
        most_n=256 if few_taps and index_kind(product.reach) == "i" else 128,
    )
    if chosen is None:
        return None
    config = ConvTensorConfig(
        tensor=chosen,
        pixels=problem.pixels,
        channels_fast=problem.channels_fast,
        few_taps=few_taps,
        scattered=problem.scattered,
    )
    tables = config.table_bytes // atom.sum_itemsize
    return replace(config, tensor=replace(chosen, shared=chosen.shared + tables))


def _ways(problem: ConvProblem, atom: Atom) -> tuple[int, int]:
    """How the operands come to shared memory."""
    product, plain = problem.product, matmul_tensor.ways_of_matrices(problem.product, atom)
    size = product.itemsizes[0]
    if problem.pixels == TERMS:
        image = _way_of_pixels(
            problem.image_steps, problem.channels, size, product.alignments[1], atom
        )
        if not problem.scattered:
            return plain[0], image
        steps = problem.pixel_steps
        return _way_of_pixels(steps, product.m, size, product.alignments[0], atom), image
    number = 0 if problem.pixels == ROWS else 1
    if _has_chunks(problem.image_steps, problem.channels, size, product.alignments[number]):
        image = ASYNC_TERMS if atom.asynchronous else VECTOR_TERMS
    else:
        image = SINGLE_ROWS
    return (image, plain[1]) if problem.pixels == ROWS else (plain[0], image)


def _way_of_pixels(
    steps: tuple[int, ...], channels: int, size: int, alignment: int, atom: Atom
) -> int:
    """How an operand comes whose terms are pixels."""
    if not _has_chunks(steps, channels, size, alignment):
        return SINGLE_TERMS
    return ASYNC_ROWS if atom.asynchronous and atom.transposes else VECTOR_ROWS


def _has_chunks(steps: tuple[int, ...], channels: int, size: int, alignment: int) -> bool:
    """Whether channels lie in whole chunks of 16 bytes; `steps`: that of channels, and others."""
    aligned = alignment >= 16 and channels * size % 16 == 0
    return aligned and steps[0] == size and all(step % 16 == 0 for step in steps[1:])


def _wide_c(problem: ConvProblem) -> bool:
    """Whether C is written in accesses of 16 bytes."""
    product = problem.product
    if problem.pixels == TERMS or not problem.scattered:
        return matmul_tensor.is_wide(product)
    if problem.pixels == COLUMNS:
        return False
    size = product.itemsizes[2]
    return _has_chunks(problem.pixel_steps, product.n, size, product.alignments[2])
