"""Which products over windows matrix cores make, and with which tiles."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nnkernels.config import matmul_tensor
from nnkernels.config.conv import COLUMNS, ROWS, TERMS, ConvProblem
from nnkernels.config.device import Device
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


def configure(problem: ConvProblem, device: Device) -> ConvTensorConfig | None:
    """The tiles for a problem on a GPU, or None if ordinary arithmetic is to make it."""
    product = problem.product
    atom = matmul_tensor.atom_of(product, device)
    if atom is None or min(product.m, product.n) * _LEAST_SHARE < atom.m:
        return None
    chosen = matmul_tensor.tiled(
        product,
        device,
        atom,
        _ways(problem, atom),
        _wide_c(problem),
        # A second launch has a result with one step between its columns.
        may_split=problem.pixels == TERMS or not problem.scattered,
    )
    if chosen is None:
        return None
    taps = problem.kernel[0] * problem.kernel[1] * problem.kernel[2]
    return ConvTensorConfig(
        tensor=chosen,
        pixels=problem.pixels,
        channels_fast=problem.channels_fast,
        few_taps=problem.pixels == TERMS or taps <= _FEW_TAPS,
        scattered=problem.scattered,
    )


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


def for_workspace(chosen: ConvTensorConfig, problem: ConvProblem, index: str) -> ConvTensorConfig:
    """The same, for sums of a split in a dense workspace."""
    product = problem.product
    tensor = chosen.tensor.for_workspace(product.n, product.compute_itemsize, index)
    return replace(chosen, tensor=tensor)
