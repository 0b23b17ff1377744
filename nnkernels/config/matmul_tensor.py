"""The tiles of a matrix product on the matrix cores of a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from nnkernels.config.device import Device
from nnkernels.config.matmul_problem import MatmulProblem, index_kind, round_up
from nnkernels.dispatch.axes import largest_power_of_two

# How an operand comes to shared memory: as in cuda_src/nnk/matmul_tensor_operand.cuh.
ASYNC_TERMS, ASYNC_ROWS, VECTOR_TERMS, VECTOR_ROWS, SINGLE_TERMS, SINGLE_ROWS = range(6)
# The narrowest asynchronous copy: PTX ISA, cp.async.
_LEAST_COPY = 4


class Way(NamedTuple):
    """How an operand comes to shared memory.

    Attributes
    ----------
    way : int
        By which accesses, in which order.
    alignment : int
        Of lines of adjacent elements, in bytes: 16, 8 or 4, which is how wide asynchronous copies
        are, or the size of an element. Of no account where each is read alone.
    """

    way: int
    alignment: int = 16


@dataclass(frozen=True)
class Atom:
    """One step of a warp on a matrix core: see ``cuda_src/nnk/mma_*.cuh``.

    Attributes
    ----------
    header, name : str
        Where it is, and its C++ type.
    lanes : int
        Of the warp.
    m, n, k : int
        Sums and terms of a step.
    asynchronous : bool
        Whether the machine copies from global to shared memory without registers.
    transposes : bool
        Whether fragments can be read from a tile that lies by terms as fast as from another.
    rate : int
        Multiplications of a processor in a cycle.
    itemsize, sum_itemsize : int
        Of an element in shared memory, and of a sum.
    warps : int
        That make a step together, each its own rows, of what lies in shared memory.
    """

    header: str
    name: str
    lanes: int
    m: int
    n: int
    k: int
    asynchronous: bool
    transposes: bool
    rate: int
    itemsize: int
    sum_itemsize: int = 4
    warps: int = 1


@dataclass(frozen=True)
class Tile:
    """Sums of a block and of a warp, the bytes of terms of a slice, and the slices in flight.

    ``efficiency`` is the share of the matrix cores' rate that it may reach: the larger a tile, the
    less it reads from shared memory for a product.
    """

    m: int
    n: int
    warp_m: int
    warp_n: int
    slice_bytes: int
    stages: int
    efficiency: float


@dataclass(frozen=True)
class TensorConfig:
    """Template arguments of one instance.

    Attributes
    ----------
    way_a, alignment_a, way_b, alignment_b : int
        How the operands come to shared memory: see `Way`.
    wide_c : bool
        Whether C is written in accesses of 16 bytes.
    shared : int
        Accumulator-type elements of shared memory of a block.
    splits : int
        Ranges of terms that are summed apart, and then added up in a second launch.
    """

    atom: Atom
    tile_m: int
    tile_n: int
    tile_k: int
    warp_m: int
    warp_n: int
    stages: int
    way_a: int
    alignment_a: int
    way_b: int
    alignment_b: int
    wide_c: bool
    shared: int
    index: str
    splits: int = 1

    def shared_elements(self, k: int) -> int:
        """Accumulator-type elements of shared memory of a block, for sums of `k` terms."""
        return self.shared

    def for_workspace(self, n: int, compute_itemsize: int, index: str) -> TensorConfig:
        """The same, for sums of a split in a dense workspace of `n` columns."""
        return replace(self, wide_c=n * compute_itemsize % 16 == 0, index=index)

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.tile_m // self.warp_m * (self.tile_n // self.warp_n) * self.atom.lanes


def _nvidia(element: str, size: int, rate: int) -> Atom:
    name = f"MmaSm80<{element}>"
    return Atom("mma_sm80", name, 32, 16, 16, 32 // size, True, size == 2, rate, size)


def _warpgroup(element: str, size: int, rate: int) -> Atom:
    name = f"MmaSm90<{element}>"
    return Atom("mma_sm90", name, 32, 16, 16, 32 // size, True, size == 2, rate, size, warps=4)


def _cdna(arch: str, element: str, size: int, rate: int) -> Atom:
    name = f"MmaG{arch[1:]}<{element}>"
    if size == 8:
        return Atom("mma_gfx90a", name, 64, 16, 16, 8, False, False, rate, size, 8)
    return Atom("mma_gfx90a", name, 64, 32, 32, 32 // size, False, False, rate, size)


def _rdna(element: str, size: int) -> Atom:
    return Atom("mma_gfx1100", f"MmaGfx1100<{element}>", 32, 16, 16, 16, False, False, 512, size)


# By the element type of both operands. Rates: white papers of A100 and of CDNA 2 (MI200), ISA
# manual of RDNA 3; of later chips the ratios are much the same.
_NVIDIA = {
    "half": _nvidia("half", 2, 1024),
    "bfloat16": _nvidia("bfloat16", 2, 1024),
    "int8": _nvidia("int8", 1, 2048),
    "uint8": _nvidia("uint8", 1, 2048),
}
_NVIDIA_TF32 = _nvidia("Tf32", 4, 512)
# Other chips multiply doubles on matrix cores no faster than elsewhere. NVIDIA H100 white paper,
# table 2; A100 has half of it.
_NVIDIA_DOUBLE = Atom("mma_sm80", "MmaSm80<double>", 32, 16, 16, 4, True, True, 128, 8, 8)
_WITH_DOUBLE = ("sm_80", "sm_90", "sm_90a", "sm_100")
# NVIDIA H100 white paper, table 2: twice those of A100. Floats are cut off, not rounded, to Tf32,
# so these are left to the other atom; so are sums that would fill less than one step.
_WARPGROUP = {
    "half": _warpgroup("half", 2, 2048),
    "bfloat16": _warpgroup("bfloat16", 2, 2048),
    "int8": _warpgroup("int8", 1, 4096),
    "uint8": _warpgroup("uint8", 1, 4096),
}
_LEAST_OF_WARPGROUP = 64
_CDNA = {
    arch: {
        "half": _cdna(arch, "half", 2, 1024),
        "bfloat16": _cdna(arch, "bfloat16", 2, 1024),
        "int8": _cdna(arch, "int8", 1, 1024),
        "float": _cdna(arch, "float", 4, 256),
        "double": _cdna(arch, "double", 8, 128),
    }
    for arch in ("gfx90a", "gfx942")
}
_RDNA = {name: _rdna(name, size) for name, size in (("half", 2), ("bfloat16", 2), ("int8", 1))}


def atom_of(problem: MatmulProblem, device: Device) -> Atom | None:
    """The matrix-core step for a problem on a device, if there is one."""
    if problem.compute_itemsize != (8 if problem.element == "double" else 4):
        return None  # wider sums were asked for than the core makes
    least = min(problem.m, problem.n)
    if device.arch == "sm_90a" and least >= _LEAST_OF_WARPGROUP and problem.element in _WARPGROUP:
        return _WARPGROUP[problem.element]
    if _is_nvidia(device) and problem.element == "float" and problem.tf32:
        return _NVIDIA_TF32
    return atom_for(problem.element, device)


def _is_nvidia(device: Device) -> bool:
    return device.arch.startswith("sm_") and int(device.arch[3:].rstrip("a")) >= 80


def atom_for(element: str, device: Device) -> Atom | None:
    """The matrix-core step for operands of one C++ type on a device, if there is one."""
    if element == "double" and device.arch in _WITH_DOUBLE:
        return _NVIDIA_DOUBLE
    if _is_nvidia(device):
        return _NVIDIA.get(element)
    if device.arch in _CDNA:
        return _CDNA[device.arch].get(element)
    return _RDNA.get(element) if device.arch == "gfx1100" else None


# Where asynchronous copies keep three or four slices under way. A warp of 64 x 64 reads the fewest
# fragments for a product; its 128 sums of a lane leave room for two sets of them. Short slices
# suffice where there are many sums; longer ones have fewer barriers.
_ASYNC_TILES: tuple[Tile, ...] = (
    Tile(128, 256, 64, 64, 64, 5, 0.96),
    Tile(128, 256, 64, 64, 64, 4, 0.95),
    Tile(128, 128, 64, 64, 64, 4, 0.9),
    Tile(128, 64, 64, 32, 64, 4, 0.75),
    Tile(64, 128, 32, 64, 64, 4, 0.75),
    Tile(64, 64, 32, 32, 128, 3, 0.6),
    Tile(128, 32, 32, 32, 128, 3, 0.4),
    Tile(32, 128, 32, 32, 128, 3, 0.4),
    Tile(128, 16, 32, 16, 128, 3, 0.25),
    Tile(16, 128, 16, 32, 128, 3, 0.25),
    Tile(32, 32, 16, 16, 128, 3, 0.2),
)
# The same for sums of 8 bytes, of which a lane has half as many.
_ASYNC_WIDE_TILES: tuple[Tile, ...] = (
    Tile(128, 128, 64, 32, 64, 4, 0.9),
    Tile(128, 64, 32, 32, 64, 4, 0.75),
    Tile(64, 128, 32, 32, 64, 4, 0.75),
    Tile(64, 64, 32, 32, 64, 4, 0.6),
    Tile(128, 32, 32, 32, 64, 4, 0.4),
    Tile(32, 128, 32, 32, 64, 4, 0.4),
    Tile(128, 16, 32, 16, 128, 3, 0.25),
    Tile(16, 128, 16, 32, 128, 3, 0.25),
    Tile(32, 32, 16, 16, 128, 3, 0.2),
)
# Of a warpgroup, lines of 128 bytes of terms: its 64 rows and all columns of a tile. One slice more
# than others is in shared memory, which a warpgroup that is behind still reads. (The efficiencies
# are guesses: no device has run them.)
_WARPGROUP_TILES: tuple[Tile, ...] = (
    Tile(128, 256, 16, 256, 128, 4, 0.85),
    Tile(128, 128, 16, 128, 128, 4, 0.8),
    Tile(128, 64, 16, 64, 128, 4, 0.6),
    Tile(64, 128, 16, 128, 128, 4, 0.6),
    Tile(64, 64, 16, 64, 128, 4, 0.45),
)
_LEAST_STAGES_OF_WARPGROUP = 3
# Where operands come through registers: one slice in shared memory is multiplied, the next one is
# stored beside it. Beside sums and two sets of fragments of 64 x 64 there would not be room.
_STAGED_TILES = (
    Tile(128, 128, 64, 32, 64, 2, 0.8),
    Tile(128, 64, 64, 32, 64, 2, 0.7),
    Tile(64, 128, 32, 64, 64, 2, 0.7),
    Tile(64, 64, 32, 32, 128, 2, 0.6),
    Tile(128, 32, 32, 32, 128, 2, 0.4),
    Tile(32, 128, 32, 32, 128, 2, 0.4),
    Tile(128, 16, 32, 16, 128, 2, 0.25),
    Tile(16, 128, 16, 32, 128, 2, 0.25),
    Tile(32, 32, 16, 16, 128, 2, 0.2),
)
# The same for waves of 64 lanes, each of which has half as many of them.
_WAVE_TILES = (
    Tile(128, 128, 64, 64, 64, 2, 0.8),
    *_STAGED_TILES[1:-1],
    Tile(32, 32, 32, 32, 128, 2, 0.2),
)
# Sums that may be made for one that is wanted, times the fewest.
_MOST_MADE = 1.5
# Multiplications of an H100, and what its blocks of 128 x 128 take alone (874 cycles for a slice of
# 32 terms) and two at a time (617), fit the numbers below within a quarter: 30 products of matrices
# and over windows. Warps of a processor that multiply at the same time; cycles that a slice waits,
# for a barrier and the first fragments, divided by the warps that take turns.
_CORES, _SLICE_CYCLES = 4, 250
# What a processor reads in a cycle, of a level-2 cache that all of them read.
_READ_OF_CYCLE = 26
# Registers of a processor, and of a thread with many sums, and with few (`register_budget` of
# cuda_src/nnk/matmul_tensor.cuh); what a block has of shared memory besides its own.
_REGISTERS, _MANY_SUMS, _FEW_SUMS = 1 << 16, 256, 168
_SHARED_OF_BLOCK = 1 << 10
# A second launch, some 3 microseconds, in which sums are waited for; and the bytes that all
# processors together read or write in a cycle, of the partial sums.
_SPLIT_CYCLES = 6000
_BYTES_OF_CYCLE = 1600
_MOST_SPLITS = 256
# Slices that a split sums at least, so that the first ones from memory count for little.
_LEAST_SLICES = 6


class Delays(NamedTuple):
    """What blocks do besides multiplying, in cycles.

    Attributes
    ----------
    addresses : int
        Of a slice, in which a processor finds addresses instead of multiplying.
    waits : int
        Of a slice, in which the warps of a block wait for that, and other blocks may multiply.
    block : int
        Of a block: its first slices from memory, its results.
    """

    addresses: int = 0
    waits: int = 0
    block: int = 2000


OF_MATRICES = Delays()


def configure(problem: MatmulProblem, device: Device) -> TensorConfig | None:
    """The tiles for a problem, or None if the device has no matrix core for it.

    How the terms of a sum are grouped, and so its bits, do not depend on strides and alignment.
    """
    atom = atom_of(problem, device)
    if atom is None:
        return None
    return tiled(problem, device, atom, ways_of_matrices(problem, atom), is_wide(problem))


def tiled(
    problem: MatmulProblem,
    device: Device,
    atom: Atom,
    ways: tuple[Way, Way],
    wide_c: bool,
    many_places: bool = False,
    delays: Delays = OF_MATRICES,
    more_tiles: tuple[Tile, ...] = (),
) -> TensorConfig | None:
    """The tiles for a problem whose operands come to shared memory in some ways.

    Parameters
    ----------
    ways : pair of Way
        Of A and B.
    wide_c : bool
        Whether C is written in accesses of 16 bytes.
    many_places : bool
        Whether copies need more registers than an address each.
    delays : Delays
        Of its blocks.
    more_tiles : tuple of Tile
        Other tiles that these ways allow. They are taken where sums are not split, so that how
        terms are grouped does not depend on them.
    """
    if max(problem.m, problem.n) < atom.m:  # less than a quarter of one step
        return None
    cycles, _, splits, tile = min(
        (_cycles(problem, device, atom, tile, splits, delays), number, splits, tile)
        for number, tile in enumerate(_tiles(problem, device, atom))
        for splits in _splits(problem, device, atom, tile)
    )
    if splits == 1:
        for other in more_tiles:
            if (found := _cycles(problem, device, atom, other, 1, delays)) < cycles:
                cycles, tile = found, other
    tile = _for_operands(atom, tile, ways, many_places)
    return _config(problem, atom, tile, splits, ways, wide_c)


def tiles_of(atom: Atom, device: Device) -> list[Tile]:
    """The tiles that an atom can make, and that fit in shared memory."""
    staged = _STAGED_TILES if atom.lanes == 32 else _WAVE_TILES
    copied = _ASYNC_TILES if atom.sum_itemsize == 4 else _ASYNC_WIDE_TILES
    if atom.warps > 1:
        copied = _WARPGROUP_TILES
    return [
        tile
        for tile in (copied if atom.asynchronous else staged)
        if tile.warp_m % atom.m == tile.warp_n % atom.n == 0
        and _shared_bytes(atom, tile) <= device.shared_limit
    ]


def _tiles(problem: MatmulProblem, device: Device, atom: Atom) -> list[Tile]:
    """Those of them that do not make much more than there is of the result."""

    def made(tile: Tile) -> int:
        return round_up(problem.m, tile.m) * round_up(problem.n, tile.n)

    tiles = tiles_of(atom, device)
    least = min(made(tile) for tile in tiles)
    return [tile for tile in tiles if made(tile) <= _MOST_MADE * least]


def _for_operands(atom: Atom, tile: Tile, ways: tuple[Way, Way], many_places: bool) -> Tile:
    """The tile, or one that suits operands that come through registers; of as many terms."""
    copied = [way in (ASYNC_TERMS, ASYNC_ROWS) for way, _ in ways]
    narrow = any(alignment < 16 for _, alignment in ways)
    if not atom.asynchronous or (all(copied) and not narrow and not many_places):
        return tile
    if atom.warps > 1:  # whose threads have all columns
        stages = tile.stages if any(copied) else _LEAST_STAGES_OF_WARPGROUP
        columns = min(tile.n, 128)
        return replace(tile, n=columns, warp_n=columns, stages=stages)
    # Twice as many threads, each with half as many sums, have registers for what they load, or for
    # the places of two or four times as many copies.
    tile = replace(tile, n=min(tile.n, 128), stages=tile.stages if any(copied) else 2)
    if atom.sum_itemsize == 8 and tile.warp_m > tile.warp_n:  # a block has 256 threads at most
        return replace(tile, m=tile.m // 2, warp_m=tile.warp_m // 2)
    if tile.warp_m > tile.warp_n:
        return replace(tile, warp_m=tile.warp_m // 2)
    return replace(tile, warp_n=max(tile.warp_n // 2, atom.n))


def tile_k(atom: Atom, tile: Tile) -> int:
    """Terms of a slice: at least two steps, as two sets of fragments take turns."""
    return max(tile.slice_bytes // atom.itemsize, 2 * atom.k)


def _shared_bytes(atom: Atom, tile: Tile) -> int:
    """What the slices in flight need, or the sums on their way to C in their place."""
    slices = tile.stages * (tile.m + tile.n) * tile_k(atom, tile) * atom.itemsize
    warps = tile.m // tile.warp_m * (tile.n // tile.warp_n)
    return max(slices, warps * atom.m * tile.warp_n * atom.sum_itemsize)


def _config(
    problem: MatmulProblem,
    atom: Atom,
    tile: Tile,
    splits: int,
    ways: tuple[Way, Way],
    wide_c: bool,
) -> TensorConfig:
    return TensorConfig(
        atom,
        tile.m,
        tile.n,
        tile_k(atom, tile),
        tile.warp_m,
        tile.warp_n,
        tile.stages,
        *ways[0],
        *ways[1],
        wide_c=wide_c,
        shared=_shared_bytes(atom, tile) // atom.sum_itemsize,
        index=index_kind(problem.reach),
        splits=splits,
    )


# ---- how operands and results are read and written --------------------------------------------


def ways_of_matrices(problem: MatmulProblem, atom: Atom) -> tuple[Way, Way]:
    """How operands that are matrices come to shared memory."""
    a, b = problem.strides_a, problem.strides_b
    size, k = problem.itemsizes[0], problem.k
    return (
        _way(a[0], a[1], problem.m, k, size, problem.alignments[0], atom),
        _way(b[1], b[0], problem.n, k, size, problem.alignments[1], atom),
    )


def _way(row: int, term: int, rows: int, k: int, size: int, alignment: int, atom: Atom) -> Way:
    """How an operand of `rows` rows comes to shared memory; strides in bytes.

    Chunks of terms count from the end of a line, as the first slice is the one that is cut.
    """
    along_terms = largest_power_of_two(alignment, row, k * size) if term == size else 0
    along_rows = largest_power_of_two(alignment, term, rows * size) if row == size else 0
    widest = max(along_terms, along_rows)
    if widest < size:
        return Way(SINGLE_TERMS if abs(term) <= abs(row) else SINGLE_ROWS)
    copied = atom.asynchronous and widest >= _LEAST_COPY
    if along_terms == widest:
        return Way(ASYNC_TERMS, widest) if copied else _vectors(VECTOR_TERMS, widest, size)
    if copied and atom.transposes:
        return Way(ASYNC_ROWS, widest)
    return _vectors(VECTOR_ROWS, widest, size)


def _vectors(way: int, alignment: int, size: int) -> Way:
    """Vectors of 16 bytes; if they are not aligned, one kernel reads them wherever they lie."""
    return Way(way, 16 if alignment == 16 else size)


def is_wide(problem: MatmulProblem) -> bool:
    """Whether C is written in accesses of 16 bytes."""
    row, column = problem.strides_c
    size = problem.itemsizes[2]
    aligned = problem.alignments[2] >= 16 and row % 16 == 0 and problem.n * size % 16 == 0
    return aligned and column == size


# ---- how long it takes --------------------------------------------------------------------------


def _blocks(problem: MatmulProblem, tile: Tile) -> int:
    return problem.batches * -(-problem.m // tile.m) * -(-problem.n // tile.n)


def _splits(problem: MatmulProblem, device: Device, atom: Atom, tile: Tile) -> Iterator[int]:
    """Numbers of splits: powers of two, and those of which so many blocks fill the processors."""
    most = min(-(-problem.k // tile_k(atom, tile)) // _LEAST_SLICES, _MOST_SPLITS)
    splits = 1
    while splits == 1 or splits <= most:
        yield splits
        splits *= 2
    for each in range(1, _resident(device, atom, tile) + 1):
        full = each * device.processors // _blocks(problem, tile)
        if 1 < full <= most:
            yield full


def _resident(device: Device, atom: Atom, tile: Tile) -> int:
    """Blocks that a processor has at the same time."""
    few = tile.warp_m * tile.warp_n * atom.sum_itemsize <= 64 * 32 * 4
    registers = _FEW_SUMS if few else _MANY_SUMS
    of_registers = _REGISTERS // (_warps(tile) * atom.lanes * registers)
    return max(1, min(of_registers, device.shared_limit // _shared_of(atom, tile)))


def _shared_of(atom: Atom, tile: Tile) -> int:
    return _shared_bytes(atom, tile) + _SHARED_OF_BLOCK


def _warps(tile: Tile) -> int:
    return tile.m // tile.warp_m * (tile.n // tile.warp_n)


def _cycles(
    problem: MatmulProblem, device: Device, atom: Atom, tile: Tile, splits: int, delays: Delays
) -> float:
    """Roughly, how long it takes: the processor with the most blocks, a few at a time.

    A block alone leaves the matrix cores idle while it waits; several take turns with them, and
    with what is read.
    """
    terms = tile_k(atom, tile)
    slices = -(-problem.k // (terms * splits))
    multiplying = tile.m * tile.n * terms / (atom.rate * tile.efficiency)
    reading = (tile.m + tile.n) * terms * atom.itemsize / _READ_OF_CYCLE
    warps = _warps(tile) / _CORES
    alone = multiplying * max(1.0, 1 / warps) + _SLICE_CYCLES / warps
    alone += delays.addresses + delays.waits

    def turn(blocks: int) -> float:
        together = max(blocks * (max(multiplying, reading) + delays.addresses), alone)
        return slices * together + delays.block if blocks else 0.0

    own = max(1, -(-_blocks(problem, tile) * splits // device.processors))
    resident = min(own, _resident(device, atom, tile))
    cycles = own // resident * turn(resident) + turn(own % resident)
    if splits > 1:
        sums = problem.batches * problem.m * problem.n * atom.sum_itemsize
        cycles += _SPLIT_CYCLES + 2 * splits * sums / _BYTES_OF_CYCLE
    return cycles
