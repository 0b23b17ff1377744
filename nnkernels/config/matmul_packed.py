"""The tiles and blocks of a matrix product on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nnkernels.config.device import Device
from nnkernels.config.matmul_problem import MatmulProblem, fast_axes, index_kind, round_up
from nnkernels.config.rows import next_power_of_two


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
    splits : int
        Ranges of terms that are summed apart, and then added up in a second launch. What decides
        it must not depend on the number of threads, and so not on ``device.processors``.
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
    splits: int = 1

    def shared_elements(self, k: int) -> int:
        """Accumulator-type elements of scratch memory of a thread, for sums of `k` terms."""
        panel = self.micro_m * self.tile_k + next_power_of_two(self.micro_m) - self.micro_m
        packed = self.rows_at_once // self.micro_m * panel + self.tile_n * self.tile_k
        packed += self.micro_m * self.vector
        waits = not self.in_place and k > self.tile_k
        return packed + (self.tile_m * self.tile_n if waits else 0)

    def for_workspace(self, n: int, itemsize: int, index: str) -> PackedConfig:
        """The same tiles for the first launch of a split product: sums wait in its C."""
        return replace(self, in_place=True, index=index)


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


def configure(problem: MatmulProblem, device: Device) -> PackedConfig:
    """The tiles and blocks for a problem."""
    lanes = device.vector_bytes // problem.compute_itemsize
    vector = lanes if problem.n <= lanes else 2 * lanes
    choices = _MICRO_ROWS[device.vector_bytes]
    if problem.is_complex:  # no SIMD form
        vector, choices = 2, (4, 4)
    micro_m = choices[1] if problem.m <= 4 * choices[1] else choices[0]
    fast_a, fast_b = fast_axes(problem)
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
