"""The tiles and blocks of a matrix product on a CPU."""

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
    micro : str
        How terms are packed and multiplied: ``"fused"``, or as words of several terms: a key of
        ``MICRO_TERMS``.
    tile_k : int
        Words of a sum that are packed at once.
    micro_m, vector : int
        Rows and columns whose sums stay in registers.
    read_a : bool
        Whether A is read where it lies, and not packed.
    in_place : bool
        Whether sums wait in C between two slices of ``tile_k`` terms.
    splits : int
        Ranges of terms that are summed apart, and then added up in a second launch. What decides
        it must not depend on the number of threads, and so not on ``device.processors``.
    """

    tile_m: int
    tile_n: int
    rows_at_once: int
    micro: str
    tile_k: int
    micro_m: int
    vector: int
    fast_a: int
    fast_b: int
    unit_a: bool
    unit_b: bool
    read_a: bool
    in_place: bool
    index: str
    splits: int = 1

    def shared_elements(self, k: int) -> int:
        """Accumulator-type elements of scratch memory of a thread, for sums of `k` terms."""
        words = self.tile_k + (1 if self.micro == INT8_QUADS else 0)
        packed = self._elements_a + self.tile_n * words + self.micro_m * self.vector
        waits = not self.in_place and k > self.tile_k * MICRO_TERMS[self.micro]
        return packed + (self.tile_m * self.tile_n if waits else 0)

    def for_workspace(self, n: int, itemsize: int, index: str) -> PackedConfig:
        """The same tiles for the first launch of a split product: sums wait in its C."""
        return replace(self, in_place=True, index=index)

    @property
    def _elements_a(self) -> int:
        """Of packed A: rows with what the last vector of one may write, or panels with that."""
        if self.read_a:
            return 0
        if self.fast_a == COLUMNS_FAST:
            return self.rows_at_once * (self.tile_k + ROW_PAD)
        panel = self.micro_m * self.tile_k + next_power_of_two(self.micro_m) - self.micro_m
        return self.rows_at_once // self.micro_m * panel


# Terms of a word, by the way to multiply: see cuda_src/nnk/matmul_words.cuh.
FUSED, BFLOAT16_PAIRS, INT8_QUADS = "fused", "bfloat16_pairs", "int8_quads"
INT16_PAIRS, INT16_PAIRS_VNNI = "int16_pairs", "int16_pairs_vnni"
MICRO_TERMS = {FUSED: 1, BFLOAT16_PAIRS: 2, INT16_PAIRS: 2, INT16_PAIRS_VNNI: 2, INT8_QUADS: 4}
# Elements between packed rows of A, which would otherwise share few sets of a level-1 cache:
# `row_pad` of matmul_packed.cuh.
ROW_PAD = 16
# Registers of a row of the micro-tile, and its rows, by the size of a register. Elements of A are
# loaded one by one, so many columns and few rows load least: of 32 registers, 6 rows of four leave
# eight for B and A. (14 rows of two were 5 % slower where B comes from a level-2 cache.)
MICRO_TILE = {64: (4, 6), 32: (2, 6), 16: (2, 6)}
# With as many registers for fewer columns.
NARROW_ROWS = {64: {2: 12, 1: 14}, 32: {1: 12}, 16: {1: 12}}
# Words of a sum that are packed at once with so many columns, by the size of the accumulator. What
# is packed of B, 512 KiB, is read from a level-2 cache for every micro-tile. Longer sums are cut
# into slices of twice as many words, and half as many columns: these touch C less often (squares of
# 1024 on one core of Emerald Rapids: 4 % faster).
_TERMS = {4: 512, 8: 256, 16: 128}
_MOST_COLUMNS = 256
# A whose rows are neighbours in memory is packed for every block of columns, in runs of rows that
# lie far apart: for twice the columns half as often (float32 of 1024 and 2048 on Emerald Rapids:
# 10 % faster). So is A of a convolution that multiplies words (gradients by weights of 64 channels,
# 3x3, on Zen 4: 1.41 times as fast where channels are adjacent, and 1.07). Not where sums wait in
# scratch memory, of which there would be twice as much.
_PANEL_COLUMNS = 2 * _MOST_COLUMNS
# Up to so many rows, reading B takes about as long as multiplying, and long runs of it are read
# fastest: terms and columns that are packed at once. Measured with 64 rows, 4096 terms and 4096
# columns on Sapphire Rapids: 12 to 18 % faster than slices of 256 columns.
_FEW_ROWS, _FEW_TERMS, _MANY_COLUMNS = 112, 128, 512
# Of A, about 100 KiB are packed at once: a few rows, or longer runs of columns.
_ROWS_AT_ONCE = {COLUMNS_FAST: 48, ROWS_FAST: 96}
# Rows of a block whose sums wait in scratch memory: 256 KiB of float32.
_MOST_WAITING_ROWS = 256
# Fewer products than this are not worth a second block.
_SMALLEST_BLOCK = 64 * 64 * 64


def configure(
    problem: MatmulProblem, device: Device, plain: bool = True, packs_a: bool = False
) -> PackedConfig:
    """The tiles and blocks for a problem.

    Parameters
    ----------
    plain : bool
        Whether operands are plain matrices, whose shapes and strides decide what is packed at once.
    packs_a : bool
        Whether A has to be packed.
    """
    vector, micro_m = micro_tile(problem.n, problem.compute_itemsize, device)
    fast_a, fast_b = fast_axes(problem)
    unit_a = problem.strides_a[fast_a] == problem.itemsizes[0]
    micro = way_to_multiply(problem.dot, device)
    read_a = not packs_a and _has_words(problem, micro) and unit_a and fast_a == COLUMNS_FAST
    tile_k, most_columns = _slice(problem, MICRO_TERMS[micro], read_a, plain)
    tiles_m, tiles_n = blocks(problem, device, vector, micro_m, most_columns)
    if problem.k <= tile_k * MICRO_TERMS[micro]:
        tiles_m = _finer(problem, device, tiles_m, tiles_n)
    tile_m = round_up(-(-problem.m // tiles_m), micro_m)
    return PackedConfig(
        tile_m=tile_m,
        tile_n=round_up(-(-problem.n // tiles_n), vector),
        rows_at_once=min(tile_m, _ROWS_AT_ONCE[fast_a] // micro_m * micro_m),
        micro=micro,
        tile_k=tile_k,
        micro_m=micro_m,
        vector=vector,
        fast_a=fast_a,
        fast_b=fast_b,
        unit_a=unit_a,
        unit_b=problem.strides_b[fast_b] == problem.itemsizes[1],
        read_a=read_a,
        in_place=problem.in_place,
        index=index_kind(problem.reach),
    )


def _finer(problem: MatmulProblem, device: Device, tiles_m: int, tiles_n: int) -> int:
    """Blocks along the rows where all of them use the same packed B, which a thread then keeps.

    A few for each thread, so that a fast one can help a slow one: of two cores of a virtual machine
    one did 105 GFLOP/s and the other 170. (Fewer than eight: more would be handed out in pairs.)
    """
    count = problem.batches * tiles_m * tiles_n
    if count % device.processors or device.processors == 1:
        return tiles_m
    work = problem.m * problem.n * max(problem.k, 1)
    most = min(8 * device.processors - 1, work // _SMALLEST_BLOCK)
    return max(tiles_m, most // (problem.batches * tiles_n))


def _slice(problem: MatmulProblem, word_terms: int, read_a: bool, plain: bool) -> tuple[int, int]:
    """Words of a sum and columns of B that are packed at once."""
    fast_a, fast_b = fast_axes(problem)
    if plain and problem.m <= _FEW_ROWS and problem.n > _MOST_COLUMNS and fast_b == COLUMNS_FAST:
        return _FEW_TERMS, _MANY_COLUMNS
    words = _TERMS[problem.compute_itemsize]
    # Of a form, A that is words is packed as slowly as if its rows were neighbours.
    is_slow = fast_a == ROWS_FAST if plain else word_terms > 1 and not read_a
    if is_slow and problem.in_place and problem.n > _MOST_COLUMNS:
        return words // 2, _PANEL_COLUMNS
    # For every block of columns, A is packed anew, if it has to be.
    if problem.k <= words * word_terms or not read_a:
        return words, _MOST_COLUMNS
    return 2 * words, _MOST_COLUMNS // 2


def way_to_multiply(dot: str, device: Device) -> str:
    """A key of ``MICRO_TERMS``, for ``dot`` of a ``MatmulProblem``."""
    features = device.features
    has_vnni = bool(features & ({"avx512_vnni"} if device.vector_bytes == 64 else _VNNI))
    if dot == "bfloat16" and "avx512_bf16" in features and device.vector_bytes == 64:
        return BFLOAT16_PAIRS
    if dot == "int8" and has_vnni:
        return INT8_QUADS
    if dot in ("int8", "int16") and "sse2" in features:
        return INT16_PAIRS_VNNI if has_vnni else INT16_PAIRS
    return FUSED


_VNNI = {"avx_vnni", "avx512_vnni"}


def _has_words(problem: MatmulProblem, micro: str) -> bool:
    """Whether A, where its terms are adjacent, has the words that are multiplied."""
    if micro == FUSED:
        return problem.same_a
    terms = MICRO_TERMS[micro]
    return problem.k % terms == 0 and problem.itemsizes[0] == 4 // terms and micro != INT8_QUADS


def micro_tile(n: int, itemsize: int, device: Device) -> tuple[int, int]:
    """Columns, of `n` numbers of a size, and rows whose sums stay in registers."""
    lanes = device.vector_bytes // itemsize
    registers, micro_m = MICRO_TILE[device.vector_bytes]
    while registers > 1 and n <= registers * lanes // 2:
        registers //= 2
        micro_m = NARROW_ROWS[device.vector_bytes][registers]
    return registers * lanes, micro_m


def blocks(
    problem: MatmulProblem, device: Device, vector: int, micro_m: int, most_columns: int
) -> tuple[int, int]:
    """How many blocks C is cut into, along its rows and columns."""
    tiles_m = 1 if problem.in_place else -(-problem.m // _MOST_WAITING_ROWS)
    tiles_n = -(-problem.n // most_columns)
    tiles_m, tiles_n = _made(problem.m, tiles_m, micro_m), _made(problem.n, tiles_n, vector)
    work = problem.m * problem.n * max(problem.k, 1)

    def is_shared_evenly(count: int) -> bool:
        return count % device.processors == 0 or count >= 4 * device.processors

    while (
        not is_shared_evenly(problem.batches * tiles_m * tiles_n)
        and work >= 2 * tiles_m * tiles_n * _SMALLEST_BLOCK
    ):
        can_cut_m, can_cut_n = problem.m > tiles_m * micro_m, problem.n > tiles_n * vector
        if not (can_cut_m or can_cut_n):
            break
        # Across the longer side: less of A and B is read twice. Of equal ones, across the rows: two
        # threads then share B, of which each packs its own copy, and this costs less than reading
        # all of A (squares of 256 and 512: 4 to 8 % faster on Emerald Rapids).
        is_tall = problem.m * tiles_n >= problem.n * tiles_m
        if can_cut_m and (is_tall or not can_cut_n):
            tiles_m = _next(problem.m, tiles_m, micro_m)
        else:
            tiles_n = _next(problem.n, tiles_n, vector)
    return tiles_m, tiles_n


def _made(length: int, tiles: int, unit: int) -> int:
    """How many tiles of whole units there are where so many are wanted."""
    return -(-length // round_up(-(-length // tiles), unit))


def _next(length: int, tiles: int, unit: int) -> int:
    """The next larger number of tiles of whole units: there is one if a tile has two."""
    wanted = tiles + 1
    while _made(length, wanted, unit) <= tiles:
        wanted += 1
    return _made(length, wanted, unit)
