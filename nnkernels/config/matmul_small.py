"""The micro-tiles of small matrix products on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

from nnkernels.config.device import Device
from nnkernels.config.matmul_problem import (
    COLUMNS_FAST,
    MatmulProblem,
    fast_axes,
    index_kind,
    round_up,
)


@dataclass(frozen=True)
class SmallConfig:
    """Template arguments of one instance for the CPU: a block makes a whole matrix.

    Attributes
    ----------
    tile_m, tile_n : int
        Rows and columns of C.
    micro_m, vector : int
        Rows and columns whose sums stay in registers.
    pack_b : bool
        Whether B is packed into panels of `vector` columns, and not read where it lies.
    ahead : int
        How many blocks later the matrices are used that a block fetches into the cache.
    streaming : bool
        Whether C goes past the caches: where all the matrices together do not fit them.
    staged_rows, staged_elements : int
        Rows of C, and elements of the accumulator's type that hold them, that then wait in scratch
        memory to be written together.
    """

    tile_m: int
    tile_n: int
    micro_m: int
    vector: int
    pack_b: bool
    fast_b: int
    unit_b: bool
    ahead: int
    streaming: bool
    staged_rows: int
    staged_elements: int
    index: str

    def shared_elements(self, k: int) -> int:
        """Accumulator-type elements of scratch memory of a thread, for sums of `k` terms."""
        packed = k * round_up(self.tile_n, self.vector) if self.pack_b else 0
        return packed + self.micro_m * self.vector + self.staged_elements


# B stays in a level-1 cache, of 32 or 48 KiB, beside what there is of A and C.
_MOST_BYTES_OF_B = 32 * 1024
_MOST_ROWS = 128
# No more terms than other products sum in one slice: so each sum is the same bit for bit whatever
# the number of rows and columns.
_MOST_TERMS = 128
# Sums of eight rows by two registers hide the latency of a multiply-add, and leave registers for B;
# four rows where there are 16 registers.
_MICRO_ROWS = {64: 8, 32: 4, 16: 4}
# Of C, they wait in a level-1 cache, beside B, unless a micro-tile of rows is larger.
_STAGED_BYTES = 16 * 1024
# So many bytes of matrices are fetched ahead. Measured with 1024 products of 32 x 32 in float32 on
# two cores, from memory: 90 GFLOP/s with nothing fetched, 140 with 8 KiB, 150 with 16, 140 with 32.
_AHEAD_BYTES = 16 * 1024


def is_small(problem: MatmulProblem) -> bool:
    """Whether a product is one of this kind."""
    return (
        not problem.is_complex
        and problem.itemsizes[0] == problem.itemsizes[1] == problem.compute_itemsize
        and 0 < problem.k * problem.n * problem.compute_itemsize <= _MOST_BYTES_OF_B
        and problem.m <= _MOST_ROWS
        and problem.k <= _MOST_TERMS
    )


def configure(problem: MatmulProblem, device: Device) -> SmallConfig:
    """The micro-tile for a problem."""
    lanes = device.vector_bytes // problem.compute_itemsize
    fast_b = fast_axes(problem)[1]
    unit_b = problem.strides_b[fast_b] == problem.itemsizes[1]
    matrix = (problem.m + problem.n) * problem.k * problem.compute_itemsize
    micro_m = _MICRO_ROWS[device.vector_bytes]
    # A result of a single column has no step from one to the next.
    adjacent = problem.strides_c[1] == problem.itemsizes[2]
    written = problem.m * problem.n * problem.itemsizes[2]
    streaming = adjacent and problem.batches * (matrix + written) >= device.cache_bytes
    staged_rows = _staged_rows(problem, micro_m) if streaming else 0
    return SmallConfig(
        tile_m=problem.m,
        tile_n=problem.n,
        micro_m=micro_m,
        vector=lanes if problem.n <= lanes else 2 * lanes,
        pack_b=not (fast_b == COLUMNS_FAST and unit_b),
        fast_b=fast_b,
        unit_b=unit_b,
        ahead=-(-_AHEAD_BYTES // matrix) if problem.batches > 1 else 0,
        streaming=streaming,
        staged_rows=staged_rows,
        staged_elements=-(
            -staged_rows * problem.n * problem.itemsizes[2] // problem.compute_itemsize
        ),
        index=index_kind(problem.reach),
    )


def _staged_rows(problem: MatmulProblem, micro_m: int) -> int:
    """Rows of C that are written together: all, or some micro-tiles of them."""
    fitting = _STAGED_BYTES // (problem.n * problem.itemsizes[2]) // micro_m * micro_m
    return min(problem.m, max(fitting, micro_m))
