"""The tiles of a matrix product on a GPU, by its ordinary arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from nnkernels.config.device import Device
from nnkernels.config.matmul_problem import (
    COLUMNS_FAST,
    ROWS_FAST,
    MatmulProblem,
    fast_axes,
    index_kind,
    round_up,
)
from nnkernels.dispatch.axes import largest_power_of_two


@dataclass(frozen=True)
class SimtConfig:
    """Template arguments of one instance; see ``cuda_src/nnk/matmul_simt.cuh``.

    Attributes
    ----------
    tile_m, tile_n, tile_k : int
        Rows and columns of C that a team of threads makes, and terms of a slice.
    micro_m, micro_n : int
        Those of a thread.
    teams : int
        Matrices that a block makes at once.
    vector_a, vector_b : int
        Neighbours that are loaded at once.
    fast_a, fast_b : int
        Along which axis of A and of B.
    unit_c : bool
        Whether groups of sums are stored at once.
    splits : int
        Ranges of terms that are summed apart, and then added up in a second launch.
    """

    tile_m: int
    tile_n: int
    tile_k: int
    micro_m: int
    micro_n: int
    teams: int
    vector_a: int
    vector_b: int
    fast_a: int
    fast_b: int
    unit_c: bool
    index: str
    splits: int = 1

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.teams * (self.tile_m // self.micro_m) * (self.tile_n // self.micro_n)

    def shared_elements(self, k: int) -> int:
        """Accumulator-type elements of shared memory of a block, for sums of `k` terms; or more."""
        # Of padding 4 elements at most: see `TileLayout` in cuda_src/nnk/matmul_tile_copy.cuh.
        a = self.tile_k * (self.tile_m + (4 if self.fast_a == COLUMNS_FAST else 0))
        b = self.tile_k * (self.tile_n + (4 if self.fast_b == ROWS_FAST else 0))
        # Teams of a warp begin in other banks: see there.
        own = 2 * (round_up(a, 4) + round_up(b, 4))
        return self.teams * (own + (32 if self.teams > 1 else 0))

    def for_workspace(self, n: int, itemsize: int, index: str) -> SimtConfig:
        """The same tiles for the first launch of a split product, whose C is dense."""
        unit_c = n % side(self.micro_n, itemsize) == 0
        # A tile without registers for long addresses: as in configure().
        largest = index == "q" and (self.tile_m, self.tile_n) == (LARGEST.m, LARGEST.n)
        tile_n = LARGE.n if largest else self.tile_n
        return replace(self, tile_n=tile_n, unit_c=unit_c, index=index)


class Tile(NamedTuple):
    """Rows, columns and terms of a tile, rows and columns of a thread, and teams of a block."""

    m: int
    n: int
    k: int
    micro_m: int
    micro_n: int
    teams: int = 1

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.teams * (self.m // self.micro_m) * (self.n // self.micro_n)


def _with_mirrors(*tiles: Tile) -> tuple[Tile, ...]:
    mirrors = (
        t._replace(m=t.n, n=t.m, micro_m=t.micro_n, micro_n=t.micro_m) for t in tiles if t.m != t.n
    )
    return tuple(dict.fromkeys((*tiles, *mirrors)))


# By the size of the accumulator. A thread has at most 64 registers of sums; a slice is 16 terms
# where that takes few registers, so that barriers are few. Last come the tiles of small matrices,
# several of which a block makes at once.
# The largest leaves no registers for the addresses of many single elements, or long ones, and gives
# way to the next there.
LARGEST, LARGE = Tile(128, 128, 8, 8, 8), Tile(128, 64, 8, 8, 8)
TILES = {
    4: _with_mirrors(
        LARGEST,
        LARGE,
        Tile(64, 64, 8, 8, 8),
        Tile(32, 32, 16, 4, 4),
        Tile(16, 256, 16, 4, 8),
        Tile(32, 128, 16, 4, 8),
        Tile(16, 64, 16, 4, 4),
        Tile(16, 16, 16, 4, 4, teams=8),
        Tile(8, 8, 8, 2, 4, teams=16),
    ),
    8: _with_mirrors(
        Tile(64, 64, 8, 8, 4),
        Tile(32, 32, 16, 4, 2),
        Tile(16, 128, 8, 4, 4),
        Tile(32, 64, 8, 4, 4),
        Tile(32, 32, 8, 4, 4, teams=2),
        Tile(16, 16, 8, 4, 2, teams=4),
        Tile(8, 8, 8, 2, 2, teams=8),
    ),
    16: _with_mirrors(
        Tile(64, 32, 4, 4, 4),
        Tile(32, 32, 4, 4, 2),
        Tile(16, 64, 8, 2, 4),
        Tile(16, 16, 8, 2, 2, teams=2),
        Tile(8, 8, 8, 2, 2, teams=4),
    ),
}
# Rows of tiles that blocks go through together.
BAND = 8
# Registers of a processor hold some 512 threads of these kernels; eight warps keep it busy.
_THREADS, _BUSY_WARPS = 512, 8
# Clock cycles in which a processor does a multiply-add of a warp, by the size of the accumulator
# (complex numbers take four), and in which a warp reads 16 bytes a thread of shared memory: 128
# bytes go in one. So 8 x 8 sums of a thread are the fewest that float32 is not kept waiting for.
_FMA_CYCLES, _READ_CYCLES = {4: 0.25, 8: 1.0, 16: 4.0}, 4.0
# Bytes that a processor gets in a clock cycle: of operands, from the level-2 cache; of sums, from
# memory.
_L2_BYTES, _MEMORY_BYTES = 32, 12
# Clock cycles of a block besides its slices, and of a launch.
_BLOCK_CYCLES, _LAUNCH_CYCLES = 1500, 4000
# A split of fewer terms is not worth its sums; more splits are not worth adding up.
_LEAST_TERMS, _MOST_SPLITS = 128, 64


def configure(problem: MatmulProblem, device: Device) -> SimtConfig:
    """The kernel for a problem on a device.

    Slices and splits depend on the shape alone, so that a view and its copy get the same sums.
    """
    tile, splits = min(
        ((t, s) for t in _candidates(problem) for s in _splits(t, problem, device)),
        key=lambda choice: _cycles(choice[0], choice[1], problem, device),
    )
    fast_a, vector_a = _loads(problem, 0, ROWS_FAST, problem.m)
    fast_b, vector_b = _loads(problem, 1, COLUMNS_FAST, problem.n)
    index = index_kind(problem.reach)
    if tile == LARGEST and (min(vector_a, vector_b) < 4 or index == "q"):
        tile = LARGE
    return SimtConfig(
        *tile,
        vector_a=vector_a,
        vector_b=vector_b,
        fast_a=fast_a,
        fast_b=fast_b,
        unit_c=_stores_groups(problem, tile),
        index=index,
        splits=splits,
    )


# ---- tiles --------------------------------------------------------------------------------------


def _candidates(problem: MatmulProblem) -> list[Tile]:
    return [
        tile
        for tile in TILES[problem.compute_itemsize]
        if tile.teams == 1 or (problem.batches > 1 and problem.m <= tile.m and problem.n <= tile.n)
    ]


def _blocks(tile: Tile, problem: MatmulProblem) -> int:
    tiles = -(-problem.m // tile.m) * -(-problem.n // tile.n)
    return tiles * -(-problem.batches // tile.teams)


def _splits(tile: Tile, problem: MatmulProblem, device: Device) -> list[int]:
    """Into how many ranges of terms the sums may be split, so that no processor is idle."""
    blocks, found = _blocks(tile, problem), [1]
    most = min(_MOST_SPLITS, problem.k // _LEAST_TERMS)
    if tile.teams == 1 and blocks < device.processors:
        found += [min(most, full * device.processors // blocks) for full in (1, 2)]
    return [splits for splits in found if splits >= 1]


def _cycles(tile: Tile, splits: int, problem: MatmulProblem, device: Device) -> float:
    """About how long a product takes, in clock cycles: only the order of the choices counts."""
    blocks = _blocks(tile, problem) * splits
    # Those of the processor that has most of them, and those that it has at once.
    in_turn = -(-blocks // device.processors)
    at_once = min(max(1, _THREADS // tile.threads), in_turn)
    warps, size = tile.threads / 32, problem.compute_itemsize
    reads = sum(micro // side(micro, size) for micro in (tile.micro_m, tile.micro_n))
    term = max(tile.micro_m * tile.micro_n * _FMA_CYCLES[size], reads * _READ_CYCLES) * warps
    term *= max(1, _BUSY_WARPS / (warps * at_once))
    loading = (tile.m + tile.n) * tile.teams * max(problem.itemsizes[:2]) / _L2_BYTES
    # What is loaded comes while terms are multiplied, but not quite for nothing.
    term = max(term, loading) + loading / 2
    slices = -(-problem.k // (splits * tile.k))
    total = in_turn * slices * tile.k * term + in_turn / at_once * _BLOCK_CYCLES
    if splits > 1:
        sums = problem.m * problem.n * problem.batches * problem.compute_itemsize
        total += _LAUNCH_CYCLES + 2 * splits * sums / (device.processors * _MEMORY_BYTES)
    return total


def side(micro: int, itemsize: int) -> int:
    """Sums that lie side by side: 16 bytes of them, if the micro-tile has so many."""
    n = max(1, 16 // itemsize)
    while micro % n:
        n //= 2
    return n


# ---- accesses -----------------------------------------------------------------------------------


def _loads(problem: MatmulProblem, operand: int, outer_axis: int, outers: int) -> tuple[int, int]:
    """Along which axis an operand is read, and how many neighbours at once."""
    strides = (problem.strides_a, problem.strides_b)[operand]
    itemsize, alignment = problem.itemsizes[operand], problem.alignments[operand]
    widest = 16 // itemsize
    # What is read along the terms is written to rows apart: 32 bytes of terms at most, so that the
    # writes of a warp meet in no bank. What is read along the other axis is written as one vector.
    most = {
        outer_axis: min(widest, max(1, 16 // problem.compute_itemsize)),
        1 - outer_axis: min(widest, 32 // problem.compute_itemsize),
    }
    extents = {outer_axis: outers, 1 - outer_axis: problem.k}
    found = {}
    for axis in (outer_axis, 1 - outer_axis):
        vector = largest_power_of_two(most[axis], extents[axis])
        while vector > 1 and (
            strides[axis] != itemsize
            or strides[1 - axis] % (vector * itemsize)
            or alignment % (vector * itemsize)
        ):
            vector //= 2
        found[axis] = vector
    if max(found.values()) == 1:
        return fast_axes(problem)[operand], 1
    fast = max(found, key=lambda axis: found[axis])
    return fast, found[fast]


def _stores_groups(problem: MatmulProblem, tile: Tile) -> bool:
    size = side(tile.micro_n, problem.compute_itemsize)
    access = min(16, size * problem.itemsizes[2])
    return (
        problem.strides_c[1] == problem.itemsizes[2]
        and problem.n % size == 0
        and problem.strides_c[0] % access == 0
        and problem.alignments[2] % access == 0
    )
