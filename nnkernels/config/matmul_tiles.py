"""The blocks of a matrix product on a CPU with tile registers (AMX)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nnkernels.config.device import Device
from nnkernels.config.matmul_problem import (
    COLUMNS_FAST,
    ROWS_FAST,
    MatmulProblem,
    fast_axes,
    index_kind,
    round_up,
)


@dataclass(frozen=True)
class TilesConfig:
    """Template arguments of one instance, and the size of its blocks.

    Attributes
    ----------
    tile_m, tile_n : int
        Rows and columns of C that one block makes.
    tile_k : int
        Terms of a sum that are packed at once.
    rows_at_once : int
        Rows of A that are packed at once.
    itemsize : int
        Bytes of a term of a packed line.
    forms : int
        How often A is packed: with the parts of its elements exchanged too, if they have any.
    splits : int
        As in ``PackedConfig``.
    """

    tile_m: int
    tile_n: int
    tile_k: int
    rows_at_once: int
    itemsize: int
    forms: int
    fast_a: int
    fast_b: int
    unit_a: bool
    unit_b: bool
    index: str
    splits: int = 1

    def shared_elements(self, k: int) -> int:
        """Sums of 32 bits that the scratch memory of a thread holds, for sums of `k` terms."""
        lines = self.forms * self.rows_at_once + self.tile_n
        packed = lines * self.tile_k * self.itemsize // 4
        waiting = self.tile_m * self.tile_n if k > self.tile_k else 0
        return packed + MICRO * MICRO + waiting

    def for_workspace(self, n: int, itemsize: int, index: str) -> TilesConfig:
        """The same tiles for the first launch of a split product."""
        return replace(self, index=index)


# What a processor needs for the elements of a product: names of Linux' /proc/cpuinfo.
FEATURES = {"bfloat16": "amx_bf16", "float16": "amx_bf16", "int8": "amx_int8"}
# Elements that are split into two bfloat16: then A is packed in two forms, and half as many rows of
# it and of sums have room beside that.
SPLIT = "float16"
# Rows and columns of a micro-tile: two tiles each.
MICRO = 32
# Bytes of a row of a tile.
_ROW_BYTES = 64
# Bytes of a line that are packed at once, and of all packed lines of B, which stay in a level-2
# cache of 2 MiB. Sums of 2048 terms of bfloat16 need not wait at all: with 1024 terms and twice the
# columns, a product of 2048^3 took 10 % longer.
_LINE_BYTES = 4096
_PACKED_BYTES = 1 << 20
# However few the terms are.
_MOST_COLUMNS = 1024
# Rows of a block whose sums wait in scratch memory: 512 KiB.
_MOST_WAITING_ROWS = 512
# Rows of A that are packed at once where neighbours in memory are rows: 256 bytes of bfloat16.
_ROWS_AT_ONCE = {ROWS_FAST: 128, COLUMNS_FAST: MICRO}
# With so few rows or columns, or products, splitting float16 takes longer than multiplying it as
# float32: 2.3 ms in place of 5.7 for 4 rows by 4096 x 4096, 0.87 in place of 1.06 for 1024 products
# of 32 x 32, the same for 16 rows.
_FEW_ROWS, _FEW_PRODUCTS = 16, 64**3
# Fewer products than this are not worth a second block.
_SMALLEST_BLOCK = 128 * 128 * 128


def is_possible(problem: MatmulProblem, device: Device) -> bool:
    """Whether the processor has tiles for the elements of a problem, and they pay.

    That must not depend on how operands lie, nor on which of them is A: it decides the bits.
    """
    if problem.dot == SPLIT and (
        min(problem.m, problem.n) <= _FEW_ROWS or problem.m * problem.n * problem.k <= _FEW_PRODUCTS
    ):
        return False
    return FEATURES.get(problem.dot) in device.features


def without_tiles(device: Device) -> Device:
    """The same processor where the operating system keeps tile registers from a process."""
    return replace(device, features=device.features.difference(FEATURES.values()))


def configure(problem: MatmulProblem, device: Device) -> TilesConfig:
    """The blocks for a problem."""
    forms = 2 if problem.dot == SPLIT else 1
    itemsize = forms * problem.itemsizes[0]
    chunk = _ROW_BYTES // itemsize
    tile_k = min(round_up(max(problem.k, 1), chunk), _LINE_BYTES // (forms * itemsize))
    most_columns = min(_PACKED_BYTES // (tile_k * itemsize) // MICRO * MICRO, _MOST_COLUMNS)
    tiles_m = 1 if problem.k <= tile_k else -(-problem.m // (_MOST_WAITING_ROWS // forms))
    tiles_n = -(-problem.n // most_columns)
    work = problem.m * problem.n * max(problem.k, 1)
    while (
        not _is_shared_evenly(problem.batches * tiles_m * tiles_n, device)
        and work >= 2 * tiles_m * tiles_n * _SMALLEST_BLOCK
    ):
        # Across the longer side: less of A and B is packed twice.
        if problem.m * tiles_n > problem.n * tiles_m and problem.m > tiles_m * MICRO:
            tiles_m += 1
        elif problem.n > tiles_n * MICRO:
            tiles_n += 1
        else:
            break
    fast_a, fast_b = fast_axes(problem)
    tile_m = round_up(-(-problem.m // tiles_m), MICRO)
    return TilesConfig(
        tile_m=tile_m,
        tile_n=round_up(-(-problem.n // tiles_n), MICRO),
        tile_k=tile_k,
        rows_at_once=min(tile_m, max(_ROWS_AT_ONCE[fast_a] // forms, MICRO)),
        itemsize=itemsize,
        forms=forms,
        fast_a=fast_a,
        fast_b=fast_b,
        unit_a=problem.strides_a[fast_a] == problem.itemsizes[0],
        unit_b=problem.strides_b[fast_b] == problem.itemsizes[1],
        index=index_kind(problem.reach),
    )


def _is_shared_evenly(blocks: int, device: Device) -> bool:
    return blocks % device.processors == 0 or blocks >= 4 * device.processors
