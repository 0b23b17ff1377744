"""Tiles of the plain matrix product."""

from __future__ import annotations

from dataclasses import dataclass

from nnkernels.config.device import Device

ROWS_FAST, COLUMNS_FAST = 0, 1


@dataclass(frozen=True)
class MatmulProblem:
    """One product; strides in bytes.

    Attributes
    ----------
    m, n, k : int
        C is m x n, the sum has k terms.
    strides_a, strides_b : tuple of int
        Of rows and columns.
    itemsizes : tuple of int
        Of A, B and C.
    compute_itemsize : int
        Of the accumulator.
    is_complex : bool
        Whether the accumulator is complex.
    reach : int
        The largest byte offset or element count that an index must hold.
    """

    m: int
    n: int
    k: int
    strides_a: tuple[int, int]
    strides_b: tuple[int, int]
    itemsizes: tuple[int, int, int]
    compute_itemsize: int
    is_complex: bool
    reach: int


@dataclass(frozen=True)
class MatmulConfig:
    """Template arguments of one instance."""

    tile_m: int
    tile_n: int
    tile_k: int
    micro_m: int
    vector: int
    threads: int
    fast_a: int
    fast_b: int
    unit_a: bool
    unit_b: bool
    index: str

    def shared_elements(self) -> int:
        """Accumulator-type elements of shared memory of a block."""
        micro_tiles = (self.tile_m // self.micro_m) * (self.tile_n // self.vector)
        waiting = self.tile_m * self.tile_n if micro_tiles > self.threads else 0
        return self.tile_k * (self.tile_m + self.tile_n) + waiting


# Rows: (tile_m, tile_n, tile_k, micro_m, vector) by the size of the accumulator. One micro-tile for
# each of 256 threads, in at most 32 registers of sums.
_GPU = {
    4: (64, 64, 16, 4, 4),
    8: (64, 64, 16, 8, 2),
    16: (32, 32, 16, 4, 1),
}
_GPU_THREADS = 256


def configure(problem: MatmulProblem, device: Device) -> MatmulConfig:
    """The kernel for a problem on a device."""
    if device.is_gpu:
        tile_m, tile_n, tile_k, micro_m, vector = _GPU[problem.compute_itemsize]
        threads = _GPU_THREADS
    else:
        tile_m, tile_n, tile_k, micro_m, vector = _cpu_tiles(problem, device)
        threads = 1
    # Indices run up to one tile past the end.
    index = "i" if problem.reach + 4096 * 64 <= 2**31 - 1 else "q"
    fast_a = ROWS_FAST if abs(problem.strides_a[0]) < abs(problem.strides_a[1]) else COLUMNS_FAST
    return MatmulConfig(
        tile_m,
        tile_n,
        tile_k,
        micro_m,
        vector,
        threads,
        fast_a=fast_a,
        fast_b=ROWS_FAST if abs(problem.strides_b[0]) < abs(problem.strides_b[1]) else COLUMNS_FAST,
        unit_a=problem.strides_a[fast_a] == problem.itemsizes[0],
        unit_b=problem.strides_b[1] == problem.itemsizes[1],
        index=index,
    )


def _cpu_tiles(problem: MatmulProblem, device: Device) -> tuple[int, int, int, int, int]:
    if problem.is_complex:  # no SIMD form: one element a micro-tile column
        return 32, 32, 64, 8, 1
    # 8 rows of two SIMD registers are 16 sums; two registers of B and A's element fit beside them.
    vector = 2 * device.vector_bytes // problem.compute_itemsize
    # Tiles of A and B of 64 and 128 KiB stay in a level-2 cache.
    return 64, 4 * vector, 1024 // problem.compute_itemsize, 8, vector
