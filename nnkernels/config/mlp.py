"""How a multilayer perceptron is made: in one kernel, and by which tiles, or layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nnkernels.config.device import Device
from nnkernels.config.matmul_atoms import Atom, atom_for
from nnkernels.config.matmul_packed import micro_tile
from nnkernels.config.matmul_problem import round_up
from nnkernels.dispatch.axes import INT32_MAX, Strides, largest_power_of_two

# The widest layer whose activations stay on the chip, and the most layers that the arguments of a
# kernel have room for.
MOST_WIDTH, MOST_LAYERS = 128, 32
_CAPACITIES = (4, 8, 16, MOST_LAYERS)
# Widths of a tile of a GPU, and how many of its columns are a thread's.
_WIDTHS = {16: 2, 32: 4, 64: 8, 128: 8}
_SIMT_THREADS = 128
# Rows of a tile, the widest first. Beyond 64 columns a thread has no registers for more of them.
_GPU_ROWS = (128, 64, 32)
_WARP_M, _WARP_N = 32, 64
_LEAST_SLICE = 16
# Registers of a processor of NVIDIA's, and those that a thread has where matrix cores multiply, by
# the width of a tile (`python -m nnkernels inspect mlp --dtype float16`). Blocks that wait for room
# leave the last ones alone: on an H100, 262144 rows of width 128 took 572 us with three blocks for
# each processor, of which one is there at a time, and 512 with one.
_REGISTERS = 65536
_REGISTERS_OF_THREAD = {16: 56, 32: 96, 64: 168, 128: 240}
# Rows of a tile of a CPU: those of 64 columns of float32, 12 KiB, stay in the nearest cache beside
# the weights of a layer. Where weights are packed anew for each tile, which takes about as long as
# to multiply 32 rows, there are more.
_CPU_ROWS, _CPU_ROWS_REREAD = 48, 384
# What is packed of all layers may fill half of a level-2 cache of 2 MiB.
_CPU_KEPT = 1 << 20
# Blocks of a thread of a CPU: each packs the weights once.
_CPU_BLOCKS = 4
# Tiles of a block of a CPU at least, as packing takes about as long as one.
_CPU_TILES = 2


@dataclass(frozen=True)
class MlpProblem:
    """A network, and the arrays that go in and come out: x and y, or dy and dx.

    Attributes
    ----------
    rows : int
        Of both.
    widths : tuple of int
        Inputs of the network, and outputs of each layer.
    element : str
        C++ type of all arrays.
    itemsize, compute_itemsize : int
        Of an element, and of a sum.
    strides : pair of tuples
        Of the two arrays: of the axes of rows, and of the columns; in bytes.
    alignments : pair of int
        Of their addresses.
    reach : int
        Bytes that offsets have to reach.
    kept : int
        Bytes of rows that are written of layers, beside the second array.
    """

    rows: int
    widths: tuple[int, ...]
    element: str
    itemsize: int
    compute_itemsize: int
    strides: tuple[Strides, Strides]
    alignments: tuple[int, int]
    reach: int
    kept: int = 0

    @property
    def layers(self) -> int:
        """How many there are."""
        return len(self.widths) - 1


@dataclass(frozen=True)
class MlpConfig:
    """Template arguments of one instance, and its grid.

    Attributes
    ----------
    rows, width : int
        Of a tile.
    threads, blocks : int
        Of a block, and how many there are; they share the tiles out.
    kept : bool
        Whether the weights of all layers stay in shared memory; else a slice of one layer does.
    slice : int
        Terms of such a slice.
    micro_m, vector : int
        On a CPU: rows and columns whose sums stay in registers.
    atom : Atom or None
        The step of matrix cores, if they are used.
    warp_m, warp_n : int
        Then: sums of a warp.
    capacity : int
        Layers that the arguments have room for.
    units, vectors : pair
        Of the two arrays: whether elements of a row are adjacent, and how many of them are read or
        written at once.
    shared_bytes : int
        Of shared or scratch memory.
    streaming : bool
        Whether results and what is kept of layers are written past the caches.
    """

    rows: int
    width: int
    threads: int
    blocks: int
    kept: bool
    slice: int
    micro_m: int
    vector: int
    atom: Atom | None
    warp_m: int
    warp_n: int
    capacity: int
    units: tuple[bool, bool]
    vectors: tuple[int, int]
    shared_bytes: int
    index: str
    streaming: bool = False


def configure(problem: MlpProblem, device: Device) -> MlpConfig | None:
    """The tiles of the one kernel, or None if the network goes layer by layer."""
    if not is_fused(problem.widths):
        return None
    return _for_gpu(problem, device) if device.is_gpu else _for_cpu(problem, device)


def is_fused(widths: tuple[int, ...]) -> bool:
    """Whether a network is made in one kernel, on any machine."""
    return min(widths) > 0 and max(widths) <= MOST_WIDTH and len(widths) <= MOST_LAYERS + 1


def kept_pitch(width: int, itemsize: int) -> int:
    """Bytes between rows of what is kept of a layer: whole accesses of 16 bytes."""
    return round_up(width * itemsize, 16)


def _capacity(layers: int) -> int:
    return next(n for n in _CAPACITIES if n >= layers)


def _index(problem: MlpProblem) -> str:
    """Rows past the last one of a tile count too."""
    return "i" if problem.reach + 4096 * MOST_WIDTH * 8 <= INT32_MAX else "q"


def _units(problem: MlpProblem) -> tuple[bool, bool]:
    first, second = (strides[-1] == problem.itemsize for strides in problem.strides)
    return first, second


# ---- CPU ----------------------------------------------------------------------------------------


def _for_cpu(problem: MlpProblem, device: Device) -> MlpConfig:
    size = problem.compute_itemsize
    vector, micro_m = micro_tile(max(problem.widths), size, device)
    width = round_up(max(problem.widths), vector)
    kept = problem.layers * width * width * size <= _CPU_KEPT
    rows = round_up(_CPU_ROWS if kept else _CPU_ROWS_REREAD, micro_m)
    tiles = -(-problem.rows // rows)
    lanes = min(device.vector_bytes // size, vector)
    held = problem.layers if kept else 1
    waiting = micro_m if width == vector else rows
    elements = (rows + waiting) * width + held * (width * width + width)
    written = problem.rows * problem.widths[-1] * problem.itemsize + problem.kept
    return MlpConfig(
        rows=rows,
        width=width,
        threads=1,
        blocks=max(1, min(-(-tiles // _CPU_TILES), _CPU_BLOCKS * device.processors)),
        kept=kept,
        slice=width,
        micro_m=micro_m,
        vector=vector,
        atom=None,
        warp_m=0,
        warp_n=0,
        capacity=_capacity(problem.layers),
        units=_units(problem),
        vectors=(lanes, lanes),
        shared_bytes=elements * size,
        index=_index(problem),
        streaming=written >= device.cache_bytes,
    )


# ---- GPU ----------------------------------------------------------------------------------------


def _for_gpu(problem: MlpProblem, device: Device) -> MlpConfig:
    atom = atom_for(problem.element, device)
    if atom is not None and atom.itemsize != 2:
        atom = None  # float32 and float64 are not rounded, and have ordinary arithmetic
    least = 16 if atom is None else max(16, atom.n)
    width = next(w for w in _WIDTHS if w >= max(*problem.widths, least))
    found = list(_tiles(problem, device, atom, width))
    busy = [t for t in found if -(-problem.rows // t[0]) >= device.processors]
    rows, kept, part, shared = (busy or found[-1:])[0]
    warp_n = min(width, _WARP_N)
    threads = _SIMT_THREADS
    if atom is not None:
        threads = rows // _WARP_M * (width // warp_n) * atom.lanes
    resident = max(1, min(device.shared_limit // shared, 1024 // threads))
    if atom is not None and device.machine == "cuda":
        resident = max(1, min(resident, _REGISTERS // (threads * _REGISTERS_OF_THREAD[width])))
    return MlpConfig(
        rows=rows,
        width=width,
        threads=threads,
        blocks=max(1, min(-(-problem.rows // rows), device.processors * resident)),
        kept=kept,
        slice=part,
        micro_m=0,
        vector=0,
        atom=atom,
        warp_m=_WARP_M,
        warp_n=warp_n,
        capacity=_capacity(problem.layers),
        units=_units(problem),
        vectors=(_vector(problem, 0), _vector(problem, 1)),
        shared_bytes=shared,
        index=_index(problem),
    )


def _vector(problem: MlpProblem, array: int) -> int:
    *rows, column = problem.strides[array]
    if column != problem.itemsize:
        return 1
    return max(1, largest_power_of_two(problem.alignments[array], *rows) // problem.itemsize)


def _tiles(
    problem: MlpProblem, device: Device, atom: Atom | None, width: int
) -> Iterator[tuple[int, bool, int, int]]:
    """Rows, whether weights are kept, the terms of a slice, and shared memory; the largest first.

    Two blocks shall fit into a processor if they can, so that one multiplies while the other one
    waits.
    """
    size = problem.itemsize if atom is not None else problem.compute_itemsize
    chunk = 16 // size

    def shared(rows: int, kept: bool, terms: int) -> int:
        held = problem.layers if kept else 1
        lines = held * width * ((terms + chunk) * size + problem.compute_itemsize)
        return rows * (width + chunk) * size + lines

    for rows in _GPU_ROWS:
        if atom is None and rows * width > 64 * 128:  # 64 sums of a thread
            continue
        if 2 * shared(rows, True, width) <= device.shared_limit:
            yield rows, True, width, shared(rows, True, width)
            continue
        least = max(_LEAST_SLICE, atom.k if atom is not None else 0)
        slices = [width >> i for i in range(8) if width >> i >= least]
        for blocks in (2, 1):
            fitting = [t for t in slices if blocks * shared(rows, False, t) <= device.shared_limit]
            if fitting:
                yield rows, False, fitting[0], shared(rows, False, fitting[0])
                break
