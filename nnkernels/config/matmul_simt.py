"""The tiles of a matrix product on a GPU, by its ordinary arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from nnkernels.config.matmul_problem import MatmulProblem, fast_axes, index_kind


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
    splits: int = 1

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


def configure(problem: MatmulProblem) -> MatmulConfig:
    """The tiles for a problem."""
    tile_m, tile_n, tile_k, micro_m, vector = _GPU[problem.compute_itemsize]
    fast_a, fast_b = fast_axes(problem)
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
