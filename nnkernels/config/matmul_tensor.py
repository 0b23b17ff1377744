"""The tiles of a matrix product on the matrix cores of a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from nnkernels.config import matmul_warpgroup
from nnkernels.config.device import Device
from nnkernels.config.matmul_atoms import (
    Atom,
    Tile,
    atom_of,
    blocks_of,
    bytes_of_partial_sums,
    cycles_of_blocks,
    shared_bytes,
    tile_k,
    warps_of,
)
from nnkernels.config.matmul_problem import MatmulProblem, index_kind, round_up
from nnkernels.dispatch.axes import largest_power_of_two

# How an operand comes to shared memory: as in cuda_src/nnk/matmul_tensor_operand.cuh.
ASYNC_TERMS, ASYNC_ROWS, VECTOR_TERMS, VECTOR_ROWS, SINGLE_TERMS, SINGLE_ROWS = range(6)
# The narrowest asynchronous copy: PTX ISA, cp.async.
_LEAST_COPY = 4


class Way(NamedTuple):
    """How an operand comes to shared memory.

    Attributes
    ----------
    way : int
        By which accesses, in which order.
    alignment : int
        Of lines of adjacent elements, in bytes: 16, 8 or 4, which is how wide asynchronous copies
        are, or the size of an element. Of no account where each is read alone.
    """

    way: int
    alignment: int = 16


@dataclass(frozen=True)
class TensorConfig:
    """Template arguments of one instance.

    Attributes
    ----------
    way_a, alignment_a, way_b, alignment_b : int
        How the operands come to shared memory: see `Way`.
    wide_c : bool
        Whether C is written in accesses of 16 bytes.
    shared : int
        Accumulator-type elements of shared memory of a block.
    splits : int
        Ranges of terms that are summed apart, and then added up in a second launch.
    copiers : int
        Threads that copy for those that make sums.
    """

    atom: Atom
    tile_m: int
    tile_n: int
    tile_k: int
    warp_m: int
    warp_n: int
    stages: int
    way_a: int
    alignment_a: int
    way_b: int
    alignment_b: int
    wide_c: bool
    shared: int
    index: str
    splits: int = 1
    copiers: int = 0

    def shared_elements(self, k: int) -> int:
        """Accumulator-type elements of shared memory of a block, for sums of `k` terms."""
        return self.shared

    def for_workspace(self, n: int, compute_itemsize: int, index: str) -> TensorConfig:
        """The same, for sums of a split in a dense workspace of `n` columns."""
        return replace(self, wide_c=n * compute_itemsize % 16 == 0, index=index)

    @property
    def threads(self) -> int:
        """Threads of a block."""
        warps = self.tile_m // self.warp_m * (self.tile_n // self.warp_n)
        return warps * self.atom.lanes + self.copiers

    @property
    def atom_type(self) -> str:
        """C++ type of the atom."""
        return self.atom.name.replace(">", f", {self.copiers}>") if self.copiers else self.atom.name


# Where asynchronous copies keep three or four slices under way. A warp of 64 x 64 reads the fewest
# fragments for a product; its 128 sums of a lane leave room for two sets of them. Short slices
# suffice where there are many sums; longer ones have fewer barriers.
_ASYNC_TILES: tuple[Tile, ...] = (
    Tile(128, 256, 64, 64, 64, 5, 0.96),
    Tile(128, 256, 64, 64, 64, 4, 0.95),
    Tile(128, 128, 64, 64, 64, 4, 0.9),
    Tile(128, 64, 64, 32, 64, 4, 0.75),
    Tile(64, 128, 32, 64, 64, 4, 0.75),
    Tile(64, 64, 32, 32, 128, 3, 0.6),
    Tile(128, 32, 32, 32, 128, 3, 0.4),
    Tile(32, 128, 32, 32, 128, 3, 0.4),
    Tile(128, 16, 32, 16, 128, 3, 0.25),
    Tile(16, 128, 16, 32, 128, 3, 0.25),
    Tile(32, 32, 16, 16, 128, 3, 0.2),
)
# The same for sums of 8 bytes, of which a lane has half as many.
_ASYNC_WIDE_TILES: tuple[Tile, ...] = (
    Tile(128, 128, 64, 32, 64, 4, 0.9),
    Tile(128, 64, 32, 32, 64, 4, 0.75),
    Tile(64, 128, 32, 32, 64, 4, 0.75),
    Tile(64, 64, 32, 32, 64, 4, 0.6),
    Tile(128, 32, 32, 32, 64, 4, 0.4),
    Tile(32, 128, 32, 32, 64, 4, 0.4),
    Tile(128, 16, 32, 16, 128, 3, 0.25),
    Tile(16, 128, 16, 32, 128, 3, 0.25),
    Tile(32, 32, 16, 16, 128, 3, 0.2),
)
# Where operands come through registers: one slice in shared memory is multiplied, the next one is
# stored beside it. Beside sums and two sets of fragments of 64 x 64 there would not be room.
_STAGED_TILES = (
    Tile(128, 128, 64, 32, 64, 2, 0.8),
    Tile(128, 64, 64, 32, 64, 2, 0.7),
    Tile(64, 128, 32, 64, 64, 2, 0.7),
    Tile(64, 64, 32, 32, 128, 2, 0.6),
    Tile(128, 32, 32, 32, 128, 2, 0.4),
    Tile(32, 128, 32, 32, 128, 2, 0.4),
    Tile(128, 16, 32, 16, 128, 2, 0.25),
    Tile(16, 128, 16, 32, 128, 2, 0.25),
    Tile(32, 32, 16, 16, 128, 2, 0.2),
)
# The same for waves of 64 lanes, each of which has half as many of them.
_WAVE_TILES = (
    Tile(128, 128, 64, 64, 64, 2, 0.8),
    *_STAGED_TILES[1:-1],
    Tile(32, 32, 32, 32, 128, 2, 0.2),
)
# Sums that may be made for one that is wanted, times the fewest.
_MOST_MADE = 1.5
# Multiplications of an H100, and what its blocks of 128 x 128 take alone (874 cycles for a slice of
# 32 terms) and two at a time (617), fit the numbers below within a quarter: 30 products of matrices
# and over windows. Warps of a processor that multiply at the same time; cycles that a slice waits,
# for a barrier and the first fragments, divided by the warps that take turns.
_CORES, _SLICE_CYCLES = 4, 250
# What a processor reads in a cycle, of a level-2 cache that all of them read.
_READ_OF_CYCLE = 26
# Registers of a processor, and of a thread with many sums, and with few (`register_budget` of
# cuda_src/nnk/matmul_tensor.cuh); what a block has of shared memory besides its own.
_REGISTERS, _MANY_SUMS, _FEW_SUMS = 1 << 16, 256, 168
_SHARED_OF_BLOCK = 1 << 10
# A second launch, some 3 microseconds, in which sums are waited for; and the bytes that all
# processors together read or write in a cycle, of the partial sums.
_SPLIT_CYCLES = 6000
_BYTES_OF_CYCLE = 1600
_MOST_SPLITS = 256
# Slices that a split sums at least, so that the first ones from memory count for little.
_LEAST_SLICES = 6


class Delays(NamedTuple):
    """What blocks do besides multiplying, in cycles.

    Attributes
    ----------
    addresses : int
        Of a slice, in which a processor finds addresses instead of multiplying.
    waits : int
        Of a slice, in which the warps of a block wait for that, and other blocks may multiply.
    block : int
        Of a block: its first slices from memory, its results.
    gathered : str
        Which operand is seen through windows: "a" or "b".
    """

    addresses: int = 0
    waits: int = 0
    block: int = 2000
    gathered: str = ""


OF_MATRICES = Delays()


def configure(problem: MatmulProblem, device: Device) -> TensorConfig | None:
    """The tiles for a problem, or None if the device has no matrix core for it.

    How the terms of a sum are grouped, and so its bits, do not depend on strides and alignment.
    """
    atom = atom_of(problem, device)
    if atom is None:
        return None
    return tiled(problem, device, atom, ways_of_matrices(problem, atom), is_wide(problem))


def tiled(
    problem: MatmulProblem,
    device: Device,
    atom: Atom,
    ways: tuple[Way, Way],
    wide_c: bool,
    many_places: bool = False,
    delays: Delays = OF_MATRICES,
    more_tiles: tuple[Tile, ...] = (),
) -> TensorConfig | None:
    """The tiles for a problem whose operands come to shared memory in some ways.

    Parameters
    ----------
    ways : pair of Way
        Of A and B.
    wide_c : bool
        Whether C is written in accesses of 16 bytes.
    many_places : bool
        Whether copies need more registers than an address each.
    delays : Delays
        Of its blocks.
    more_tiles : tuple of Tile
        Other tiles that these ways allow. They are taken where sums are not split, so that how
        terms are grouped does not depend on them.
    """
    if max(problem.m, problem.n) < atom.m:  # less than a quarter of one step
        return None
    cycles, _, splits, tile = min(
        (_cycles(problem, device, atom, tile, splits, delays), number, splits, tile)
        for number, tile in enumerate(_tiles(problem, device, atom))
        for splits in _splits(problem, device, atom, tile)
    )
    if splits == 1:
        for other in more_tiles:
            if (found := _cycles(problem, device, atom, other, 1, delays)) < cycles:
                cycles, tile = found, other
    if atom.warps > 1:
        tile = _of_warpgroup(problem, device, tile, ways, many_places, delays.gathered)
    else:
        tile = _for_operands(atom, tile, ways, many_places)
    return _config(problem, atom, tile, splits, ways, wide_c)


def tiles_of(atom: Atom, device: Device) -> list[Tile]:
    """The tiles that an atom can make, and that fit in shared memory."""
    staged = _STAGED_TILES if atom.lanes == 32 else _WAVE_TILES
    copied = _ASYNC_TILES if atom.sum_itemsize == 4 else _ASYNC_WIDE_TILES
    if atom.warps > 1:
        copied = matmul_warpgroup.TILES
    return [
        tile
        for tile in (copied if atom.asynchronous else staged)
        if tile.warp_m % atom.m == tile.warp_n % atom.n == 0
        and shared_bytes(atom, tile) <= device.shared_limit
    ]


def _tiles(problem: MatmulProblem, device: Device, atom: Atom) -> list[Tile]:
    """Those of them that do not make much more than there is of the result."""

    def made(tile: Tile) -> int:
        return round_up(problem.m, tile.m) * round_up(problem.n, tile.n)

    tiles = tiles_of(atom, device)
    least = min(made(tile) for tile in tiles)
    return [tile for tile in tiles if made(tile) <= _MOST_MADE * least]


def _for_operands(atom: Atom, tile: Tile, ways: tuple[Way, Way], many_places: bool) -> Tile:
    """The tile, or one that suits operands that come through registers; of as many terms."""
    copied = _are_copied(ways)
    if not atom.asynchronous or (_in_chunks(ways) and not many_places):
        return tile
    # Twice as many threads, each with half as many sums, have registers for what they load, or for
    # the places of two or four times as many copies.
    tile = replace(tile, n=min(tile.n, 128), stages=tile.stages if any(copied) else 2)
    if atom.sum_itemsize == 8 and tile.warp_m > tile.warp_n:  # a block has 256 threads at most
        return replace(tile, m=tile.m // 2, warp_m=tile.warp_m // 2)
    if tile.warp_m > tile.warp_n:
        return replace(tile, warp_m=tile.warp_m // 2)
    return replace(tile, warp_n=max(tile.warp_n // 2, atom.n))


def _of_warpgroup(
    problem: MatmulProblem,
    device: Device,
    tile: Tile,
    ways: tuple[Way, Way],
    many_places: bool,
    gathered: str,
) -> Tile:
    """The same, of warps that have all columns."""
    if _in_chunks(ways) and not many_places:
        return matmul_warpgroup.for_copies(tile, ways[0].way == ASYNC_TERMS, gathered)
    single = gathered == "a" and ways[0].way == SINGLE_ROWS
    return matmul_warpgroup.for_registers(tile, any(_are_copied(ways)), single, problem, device)


def _are_copied(ways: tuple[Way, Way]) -> list[bool]:
    return [way in (ASYNC_TERMS, ASYNC_ROWS) for way, _ in ways]


def _in_chunks(ways: tuple[Way, Way]) -> bool:
    """Whether both operands are copied asynchronously, 16 bytes at a time."""
    return all(_are_copied(ways)) and all(alignment == 16 for _, alignment in ways)


def _config(
    problem: MatmulProblem,
    atom: Atom,
    tile: Tile,
    splits: int,
    ways: tuple[Way, Way],
    wide_c: bool,
) -> TensorConfig:
    return TensorConfig(
        atom,
        tile.m,
        tile.n,
        tile_k(atom, tile),
        tile.warp_m,
        tile.warp_n,
        tile.stages,
        *ways[0],
        *ways[1],
        wide_c=wide_c,
        shared=shared_bytes(atom, tile) // atom.sum_itemsize,
        index=index_kind(problem.reach),
        splits=splits,
        copiers=tile.copiers,
    )


# ---- how operands and results are read and written --------------------------------------------


def ways_of_matrices(problem: MatmulProblem, atom: Atom) -> tuple[Way, Way]:
    """How operands that are matrices come to shared memory."""
    a, b = problem.strides_a, problem.strides_b
    size, k = problem.itemsizes[0], problem.k
    return (
        _way(a[0], a[1], problem.m, k, size, problem.alignments[0], atom),
        _way(b[1], b[0], problem.n, k, size, problem.alignments[1], atom),
    )


def _way(row: int, term: int, rows: int, k: int, size: int, alignment: int, atom: Atom) -> Way:
    """How an operand of `rows` rows comes to shared memory; strides in bytes.

    Chunks of terms count from the end of a line, as the first slice is the one that is cut.
    """
    along_terms = largest_power_of_two(alignment, row, k * size) if term == size else 0
    along_rows = largest_power_of_two(alignment, term, rows * size) if row == size else 0
    widest = max(along_terms, along_rows)
    if widest < size:
        return Way(SINGLE_TERMS if abs(term) <= abs(row) else SINGLE_ROWS)
    copied = atom.asynchronous and widest >= _LEAST_COPY
    if along_terms == widest:
        return Way(ASYNC_TERMS, widest) if copied else _vectors(VECTOR_TERMS, widest, size)
    if copied and atom.transposes:
        return Way(ASYNC_ROWS, widest)
    return _vectors(VECTOR_ROWS, widest, size)


def _vectors(way: int, alignment: int, size: int) -> Way:
    """Vectors of 16 bytes; if they are not aligned, one kernel reads them wherever they lie."""
    return Way(way, 16 if alignment == 16 else size)


def is_wide(problem: MatmulProblem) -> bool:
    """Whether C is written in accesses of 16 bytes."""
    row, column = problem.strides_c
    size = problem.itemsizes[2]
    aligned = problem.alignments[2] >= 16 and row % 16 == 0 and problem.n * size % 16 == 0
    return aligned and column == size


# ---- how long it takes --------------------------------------------------------------------------


def _splits(problem: MatmulProblem, device: Device, atom: Atom, tile: Tile) -> Iterator[int]:
    """Numbers of splits: powers of two, and those of which so many blocks fill the processors."""
    most = min(-(-problem.k // tile_k(atom, tile)) // _LEAST_SLICES, _MOST_SPLITS)
    splits = 1
    while splits == 1 or splits <= most:
        yield splits
        splits *= 2
    for each in range(1, _resident(device, atom, tile) + 1):
        full = each * device.processors // blocks_of(problem, tile)
        if 1 < full <= most:
            yield full


def _resident(device: Device, atom: Atom, tile: Tile) -> int:
    """Blocks that a processor has at the same time."""
    if atom.warps > 1:
        return matmul_warpgroup.blocks_at_once(device, atom, tile)
    few = tile.warp_m * tile.warp_n * atom.sum_itemsize <= 64 * 32 * 4
    registers = _FEW_SUMS if few else _MANY_SUMS
    of_registers = _REGISTERS // (warps_of(tile) * atom.lanes * registers)
    return max(1, min(of_registers, device.shared_limit // _shared_of(atom, tile)))


def _shared_of(atom: Atom, tile: Tile) -> int:
    return shared_bytes(atom, tile) + _SHARED_OF_BLOCK


def _cycles(
    problem: MatmulProblem, device: Device, atom: Atom, tile: Tile, splits: int, delays: Delays
) -> float:
    """Roughly, how long it takes: the processor with the most blocks, a few at a time.

    A block alone leaves the matrix cores idle while it waits; several take turns with them, and
    with what is read.
    """
    if atom.warps > 1:
        return matmul_warpgroup.cycles(problem, device, atom, tile, splits, delays.gathered)
    terms = tile_k(atom, tile)
    slices = -(-problem.k // (terms * splits))
    multiplying = tile.m * tile.n * terms / (atom.rate * tile.efficiency)
    reading = (tile.m + tile.n) * terms * atom.itemsize / _READ_OF_CYCLE
    warps = warps_of(tile) / _CORES
    alone = multiplying * max(1.0, 1 / warps) + _SLICE_CYCLES / warps
    alone += delays.addresses + delays.waits

    def turn(blocks: int) -> float:
        together = max(blocks * (max(multiplying, reading) + delays.addresses), alone)
        return slices * together + delays.block

    blocks = blocks_of(problem, tile) * splits
    cycles = cycles_of_blocks(blocks, device, _resident(device, atom, tile), turn)
    if splits > 1:
        cycles += _SPLIT_CYCLES + bytes_of_partial_sums(problem, atom, splits) / _BYTES_OF_CYCLE
    return cycles
