"""The tiles and blocks of a complex matrix product on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nnkernels.config import matmul_packed
from nnkernels.config.device import Device
from nnkernels.config.matmul_problem import MatmulProblem, index_kind, round_up


@dataclass(frozen=True)
class ComplexConfig:
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
        Rows, and real numbers of one, whose sums stay in registers.
    unit_b, read_a : bool
        Whether rows of B, or of A, are read as real numbers where they lie.
    in_place : bool
        Whether sums wait in C between two slices of ``tile_k`` terms.
    splits : int
        See `PackedConfig`.
    """

    tile_m: int
    tile_n: int
    rows_at_once: int
    tile_k: int
    micro_m: int
    vector: int
    unit_b: bool
    read_a: bool
    in_place: bool
    index: str
    splits: int = 1

    def for_workspace(self, n: int, itemsize: int, index: str) -> ComplexConfig:
        """The same tiles for the first launch of a split product: sums wait in its C."""
        return replace(self, in_place=True, index=index)

    def shared_elements(self, k: int) -> int:
        """Accumulator-type elements of scratch memory of a thread, for sums of `k` terms."""
        packed_a = 0 if self.read_a else self.rows_at_once * (self.tile_k + ROW_PAD // 2)
        waits = not self.in_place and k > self.tile_k
        return (
            packed_a
            + self.tile_n * self.tile_k
            + self.micro_m * self.vector // 2
            + (self.tile_m * self.tile_n if waits else 0)
        )


# Real numbers between packed rows of A: see `packed_row` in matmul_complex.cuh.
ROW_PAD = 16
# Terms of a sum that are packed at once, by the size of the accumulator, and columns: 512 KiB of B;
# or half of it where as many kilobytes of sums wait beside it.
_TERMS = {8: 256, 16: 128}
_MOST_COLUMNS = 256
# Rows of a micro-tile: twice as many registers, for both parts, leave room for those of A and B.
_MOST_ROWS = {64: 12, 32: 6, 16: 6}
_ROWS_AT_ONCE = 48


def configure(problem: MatmulProblem, device: Device) -> ComplexConfig:
    """The tiles and blocks for a problem."""
    itemsize = problem.compute_itemsize
    problem = replace(problem, in_place=problem.in_place and problem.strides_c[1] == itemsize)
    vector, micro_m = matmul_packed.micro_tile(2 * problem.n, itemsize // 2, device)
    vector = max(vector, 4)  # an edge is half of it: a complex number at least
    micro_m = min(micro_m, _MOST_ROWS[device.vector_bytes])
    most_columns = _MOST_COLUMNS if problem.in_place else _MOST_COLUMNS // 2
    tiles_m, tiles_n = matmul_packed.blocks(problem, device, vector // 2, micro_m, most_columns)
    tile_m = round_up(-(-problem.m // tiles_m), micro_m)
    return ComplexConfig(
        tile_m=tile_m,
        tile_n=round_up(-(-problem.n // tiles_n), vector // 2),
        rows_at_once=min(tile_m, _ROWS_AT_ONCE // micro_m * micro_m),
        tile_k=_TERMS[itemsize],
        micro_m=micro_m,
        vector=vector,
        unit_b=problem.strides_b[1] == problem.itemsizes[1] == itemsize,
        read_a=problem.strides_a[1] == problem.itemsizes[0] == itemsize,
        in_place=problem.in_place,
        index=index_kind(problem.reach),
    )
