"""The tiles of warpgroups of compute capability 9.0, and how long products with them take."""

from __future__ import annotations

from dataclasses import replace

from nnkernels.config.device import Device
from nnkernels.config.matmul_atoms import (
    Atom,
    Tile,
    blocks_of,
    bytes_of_partial_sums,
    cycles_of_blocks,
    shared_bytes,
    tile_k,
    warps_of,
)
from nnkernels.config.matmul_problem import MatmulProblem, index_kind


def _tile(m: int, n: int, stages: int, copiers: int = 0) -> Tile:
    """A warp has 16 of its warpgroup's 64 rows, and all columns; a line of 128 bytes is a slice."""
    return Tile(m, n, 16, n, 128, stages, copiers=copiers)


# One slice more than others is in shared memory, which a warpgroup that is behind still reads.
# Where a processor has one block, many slices under way hide how long each takes; with four, there
# is room for two blocks or more. Of a block that is alone, a warpgroup may copy for the others,
# whose next slice then begins at once: 1024 x 1024 x 1024 in 7.3 us in place of 8.7, B by rows of
# 4096 x 4096 x 4096 in 198 us in place of 212.
TILES = (
    _tile(128, 256, 4, 128),
    _tile(256, 128, 4),
    _tile(128, 128, 6),
    _tile(64, 128, 8, 128),
    _tile(128, 64, 8, 128),
    _tile(64, 128, 4),
    _tile(128, 64, 4),
    _tile(64, 64, 6),
    _tile(64, 64, 4),
)
# Where both operands are copied, and the rows of A are pixels: 131 blocks of 132 processors for 32
# images of 28 x 28.
MORE_TILES: tuple[Tile, ...] = (_tile(192, 128, 5),)
# Of operands that are loaded to registers, slices that are in shared memory: one is multiplied, one
# may still be read, and one is stored. Beside one that is copied, more would leave room for fewer
# blocks.
_LEAST_STAGES, _MIXED_STAGES = 3, 4
# Pixels of a block whose elements are gathered one by one, where there are enough blocks: 512
# threads load more at once (7 x 7 over 3 channels, 64 outputs: 131 us in place of 209).
_GATHERED_ROWS, _LEAST_TURNS = 256, 2

# The rest was fitted to 700 products of an H100 (19 tiles, up to 10 splits, of 15 products of
# matrices and over windows; docs/measured-gpu.md): the tiles it chooses take 1.04 times as long as
# the fastest ones, on average. The share of the matrix cores' rate that a block may reach; what a
# processor reads in a cycle, of an operand that lies there, of one that is gathered, and of one
# that half of the threads gather.
_EFFICIENCY, _READ_OF_CYCLE, _GATHERED_OF_CYCLE, _COPIED_OF_CYCLE = 0.85, 49, 30, 36
# Cycles from the copy of a slice until it is there; of a slice in which a block alone waits; of a
# block, for its first slices and its results, and for the places of windows.
_LATENCY, _WAIT, _BLOCK, _WINDOWS = 1700, 120, 3500, 1100
# A second launch, and the bytes of partial sums that all processors together write or read in a
# cycle.
_SPLIT, _BYTES_OF_CYCLE = 6000, 2150
_REGISTERS, _MANY_SUMS, _FEW_SUMS = 1 << 16, 256, 128
_SHARED_OF_BLOCK = 1 << 10


def cycles(
    problem: MatmulProblem, device: Device, atom: Atom, tile: Tile, splits: int, gathered: str
) -> float:
    """Roughly, how long it takes: the processor with the most blocks, some at a time.

    Parameters
    ----------
    gathered : str
        Which operands are seen through windows: "", "a" or "b".
    """
    terms = tile_k(atom, tile)
    slices = -(-problem.k // (terms * splits))
    multiplying = tile.m * tile.n * terms / (atom.rate * _EFFICIENCY)
    line = terms * atom.itemsize
    of_rows = _COPIED_OF_CYCLE if _half_copies(tile) else _GATHERED_OF_CYCLE
    reading = line * (
        tile.m / (of_rows if gathered == "a" else _READ_OF_CYCLE)
        + tile.n / (_GATHERED_OF_CYCLE if gathered == "b" else _READ_OF_CYCLE)
    )
    busy = max(multiplying, reading)
    once = _BLOCK + (_WINDOWS if gathered else 0)

    def turn(blocks: int) -> float:
        slowest = max(_LATENCY / (tile.stages - 1), blocks * busy, multiplying + _WAIT)
        return slices * slowest + once

    blocks = blocks_of(problem, tile) * splits
    found = cycles_of_blocks(blocks, device, blocks_at_once(device, atom, tile), turn)
    if splits > 1:
        found += _SPLIT + bytes_of_partial_sums(problem, atom, splits) / _BYTES_OF_CYCLE
    return found


def blocks_at_once(device: Device, atom: Atom, tile: Tile) -> int:
    """Blocks that a processor has at the same time."""
    registers = _MANY_SUMS if tile.n > 128 else _FEW_SUMS
    threads = warps_of(tile) * atom.lanes + tile.copiers
    of_registers = _REGISTERS // (threads * registers)
    of_shared = device.shared_limit // (shared_bytes(atom, tile) + _SHARED_OF_BLOCK)
    return max(1, min(of_registers, of_shared))


def _half_copies(tile: Tile) -> bool:
    """Whether as many threads copy as multiply: then they gather pixels, too, in time."""
    return tile.copiers > 0 and tile.m == 64


def for_copies(tile: Tile, by_terms: bool, gathered: str) -> Tile:
    """The tile for operands that are all copied.

    Parameters
    ----------
    by_terms : bool
        Whether rows of A are adjacent terms. (Of others, one warpgroup copies no faster than all.)
    """
    if gathered:
        keeps = gathered == "a" and _half_copies(tile)
    else:
        keeps = by_terms
    return tile if keeps else replace(tile, copiers=0)


def for_registers(
    tile: Tile, any_copied: bool, gathers_elements: bool, problem: MatmulProblem, device: Device
) -> Tile:
    """The tile where an operand comes through registers, in narrow pieces, or from many places.

    Parameters
    ----------
    gathers_elements : bool
        Whether rows of A are gathered element by element.
    """
    columns = min(tile.n, 128 if tile.m > 64 else 64)
    # Places of 64 bits leave registers for half as many columns of a thread.
    rows = max(tile.m, 128) if index_kind(problem.reach) == "q" else tile.m
    stages = min(tile.stages, _MIXED_STAGES) if any_copied else _LEAST_STAGES
    tile = replace(tile, m=rows, n=columns, warp_n=columns, stages=stages, copiers=0)
    high = replace(tile, m=_GATHERED_ROWS)
    enough = blocks_of(problem, high) >= _LEAST_TURNS * device.processors
    return high if gathers_elements and tile.m == 128 and columns == 64 and enough else tile
