"""Which kernel makes a matrix product, and its tiles."""

from __future__ import annotations

from dataclasses import dataclass

from nnkernels.config.device import Device
from nnkernels.config.rows import next_power_of_two

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
    batches : int
        How many such products there are.
    in_place : bool
        Whether C has the accumulator's type, so that unfinished sums can wait in it.
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
    batches: int = 1
    in_place: bool = True


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
    index: str

    def shared_elements(self, k: int) -> int:
        """Accumulator-type elements of shared memory of a block, for sums of `k` terms."""
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


def configure(problem: MatmulProblem, device: Device) -> MatmulConfig | PackedConfig:
    """The kernel for a problem on a device."""
    return _configure_plain(problem) if device.is_gpu else _configure_packed(problem, device)


def _configure_plain(problem: MatmulProblem) -> MatmulConfig:
    tile_m, tile_n, tile_k, micro_m, vector = _GPU[problem.compute_itemsize]
    fast_a, fast_b = _fast_axes(problem)
    return MatmulConfig(
        tile_m,
        tile_n,
        tile_k,
        micro_m,
        vector,
        _GPU_THREADS,
        fast_a=fast_a,
        fast_b=fast_b,
        index=index_kind(problem.reach),
    )


def index_kind(reach: int) -> str:
    """``"i"`` if 32-bit indices reach so many bytes or elements and a tile beyond, else ``"q"``."""
    return "i" if reach + 4096 * 64 <= 2**31 - 1 else "q"


def _fast_axes(problem: MatmulProblem) -> tuple[int, int]:
    a, b = (tuple(abs(s) for s in strides) for strides in (problem.strides_a, problem.strides_b))
    return (
        ROWS_FAST if a[0] < a[1] else COLUMNS_FAST,
        ROWS_FAST if b[0] < b[1] else COLUMNS_FAST,
    )


# ---- CPU -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PackedConfig:
    """Template arguments of one instance for the CPU, and the size of its blocks.

    Attributes
    ----------
    tile_m, tile_n : int
        Rows and columns of C that one block makes.
    rows_at_once : int
        Rows of A that it packs at once.
    tile_k : int
        Terms of a sum that are packed at once.
    micro_m, vector : int
        Rows and columns whose sums stay in registers.
    in_place : bool
        Whether sums wait in C between two slices of ``tile_k`` terms.
    """

    tile_m: int
    tile_n: int
    rows_at_once: int
    tile_k: int
    micro_m: int
    vector: int
    fast_a: int
    fast_b: int
    unit_a: bool
    unit_b: bool
    in_place: bool
    index: str

    def shared_elements(self, k: int) -> int:
        """Accumulator-type elements of scratch memory of a thread, for sums of `k` terms."""
        panel = self.micro_m * self.tile_k + next_power_of_two(self.micro_m) - self.micro_m
        packed = self.rows_at_once // self.micro_m * panel + self.tile_n * self.tile_k
        packed += self.micro_m * self.vector
        waits = not self.in_place and k > self.tile_k
        return packed + (self.tile_m * self.tile_n if waits else 0)


# Rows of the micro-tile, two SIMD registers wide: of 32 registers, 14 rows leave four for B and the
# element of A; of 16, six rows leave four too. The smaller ones waste less where rows are few:
# up to four micro-tiles of them.
_MICRO_ROWS = {64: (14, 8), 32: (6, 4), 16: (6, 4)}
# Terms of a sum that are packed at once, by the size of the accumulator. Longer slices touch C less
# often; but rows of A 4 KiB apart would share one set of a level-1 cache (512 terms of float64
# were a fifth slower than 384).
_TERMS = {4: 512, 8: 384, 16: 128}
# What is packed of A, 224 KiB of float32, stays in a level-2 cache; what is packed of B, 512 KiB,
# is read once for it, from there or the next.
_ROWS_AT_ONCE = 112
_MOST_ROWS = 1024
_MOST_COLUMNS = 256
# Fewer products than this are not worth a second block.
_SMALLEST_BLOCK = 64 * 64 * 64


def _configure_packed(problem: MatmulProblem, device: Device) -> PackedConfig:
    lanes = device.vector_bytes // problem.compute_itemsize
    vector = lanes if problem.n <= lanes else 2 * lanes
    choices = _MICRO_ROWS[device.vector_bytes]
    if problem.is_complex:  # no SIMD form
        vector, choices = 2, (4, 4)
    micro_m = choices[1] if problem.m <= 4 * choices[1] else choices[0]
    fast_a, fast_b = _fast_axes(problem)
    # Sums that cannot wait in C wait in scratch memory, of the size of a block.
    most_rows, most_columns = (
        (_MOST_ROWS, _MOST_COLUMNS) if problem.in_place else (_MOST_ROWS // 4, _MOST_COLUMNS)
    )
    if problem.in_place and problem.m <= _ROWS_AT_ONCE:
        most_columns *= 2  # B is read once, and longer runs of it are read faster
    tiles_m, tiles_n = -(-problem.m // most_rows), -(-problem.n // most_columns)
    work = problem.m * problem.n * max(problem.k, 1)
    while (
        problem.batches * tiles_m * tiles_n < device.processors
        and work >= 2 * tiles_m * tiles_n * _SMALLEST_BLOCK
    ):
        # Across the longer side: less of A and B is packed twice.
        if problem.m * tiles_n > problem.n * tiles_m and problem.m > tiles_m * micro_m:
            tiles_m += 1
        elif problem.n > tiles_n * vector:
            tiles_n += 1
        else:
            break
    tile_m = round_up(-(-problem.m // tiles_m), micro_m)
    return PackedConfig(
        tile_m=tile_m,
        tile_n=round_up(-(-problem.n // tiles_n), vector),
        rows_at_once=min(tile_m, _ROWS_AT_ONCE // micro_m * micro_m),
        tile_k=_TERMS[problem.compute_itemsize],
        micro_m=micro_m,
        vector=vector,
        fast_a=fast_a,
        fast_b=fast_b,
        unit_a=problem.strides_a[fast_a] == problem.itemsizes[0],
        unit_b=problem.strides_b[fast_b] == problem.itemsizes[1],
        in_place=problem.in_place,
        index=index_kind(problem.reach),
    )


def round_up(n: int, multiple: int) -> int:
    """The smallest multiple that is at least `n`."""
    return -(-n // multiple) * multiple
