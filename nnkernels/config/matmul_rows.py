"""The tiles of a matrix product of few rows on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nnkernels.config.device import Device
from nnkernels.config.matmul_problem import MatmulProblem, index_kind, round_up


@dataclass(frozen=True)
class RowsConfig:
    """Template arguments of one instance for the CPU, and the size of its blocks.

    Attributes
    ----------
    tile_m, tile_n : int
        Rows and columns of C that one block makes.
    rows_at_once : int
        All of them.
    tile_k : int
        Terms of A that are packed at once.
    terms, vector : int
        Rows of B that are read at once, and columns.
    unit_a : bool
        Whether terms of A are adjacent.
    splits : int
        See `PackedConfig`.
    """

    tile_m: int
    tile_n: int
    rows_at_once: int
    tile_k: int
    terms: int
    vector: int
    unit_a: bool
    index: str
    splits: int = 1

    def for_workspace(self, n: int, itemsize: int, index: str) -> RowsConfig:
        """The same tiles for the first launch of a split product."""
        return replace(self, index=index)

    def shared_elements(self, k: int) -> int:
        """Accumulator-type elements of scratch memory of a thread, for sums of `k` terms."""
        return self.tile_m * (self.tile_k + self.tile_n)


# Beyond, multiplying takes longer than reading B, and panels of it are multiplied faster. Measured
# with 16 rows, 4096 terms and 4096 columns on Sapphire Rapids: 106 GFLOP/s in float32 and 44 in
# float64, and with packed panels 72 and 38.
_MOST_ROWS = 24
# Fewer columns would be too short a run.
_LEAST_COLUMNS = 256
# Of B, from which on it does not stay in caches between calls.
_LEAST_BYTES = 4 << 20
# Sums of a tile. In a level-1 cache they would leave runs of B that are too short.
_WAITING_BYTES = 128 * 1024
# Rows of B at once, by the size of a SIMD register, with two columns of each: of 32 registers, 24
# for B; of 16, 8. For each group of rows, sums are read and written once: with 8 rows of float64
# they took longer than B.
_TERMS = {64: 12, 32: 4, 16: 4}
# A multiple of them all, and of a vector.
_TILE_K = 192


def is_possible(problem: MatmulProblem) -> bool:
    """Whether a product has few rows, and a large B of adjacent columns."""
    return (
        problem.m <= _MOST_ROWS
        and problem.n >= _LEAST_COLUMNS
        and problem.strides_b[1] == problem.itemsizes[1]
        and problem.k * problem.n * problem.itemsizes[1] >= _LEAST_BYTES
    )


def configure(problem: MatmulProblem, device: Device) -> RowsConfig:
    """The tiles for a problem."""
    vector = 2 * device.vector_bytes // problem.compute_itemsize
    most = _WAITING_BYTES // (problem.m * problem.compute_itemsize) // vector * vector
    # Blocks of one size for every thread.
    share = -(-problem.n // device.processors)
    return RowsConfig(
        tile_m=problem.m,
        tile_n=max(vector, min(most, round_up(share, vector))),
        rows_at_once=problem.m,
        tile_k=_TILE_K,
        terms=_TERMS[device.vector_bytes],
        vector=vector,
        unit_a=problem.strides_a[1] == problem.itemsizes[0],
        index=index_kind(problem.reach),
    )
