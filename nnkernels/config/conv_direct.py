"""Which convolutions have a direct kernel, and how its threads share them out.

See ``cuda_src/nnk/conv_direct.cuh`` and ``cuda_src/nnk/conv_direct_weight.cuh``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from nnkernels.config.device import Device
from nnkernels.config.matmul_problem import index_kind

# With more channels in a group or rows of results, or pairs of both, tiles of a matrix product
# fill.
MOST_CHANNELS = 8
MOST_PAIRS = 16
# Weights of so many terms, of several groups, fit into the shared memory of a block.
MOST_TERMS = 1024

# Vectors of pixels that a thread has in registers: on a GPU; on a CPU with 32 registers of 64
# bytes, and others. (Images have lengths of 7, 14, 28, ... more often than others.)
_GPU_REGISTERS, _WIDE_REGISTERS, _REGISTERS = 4, 14, 7
# Taps that are taken together: see ``cuda_src/nnk/conv_direct.cuh``.
TOGETHER = 3
# On a CPU, results of a block at least, and its weights at most.
_RESULTS_OF_BLOCK = 16384
_WEIGHT_BYTES = {True: 16 * 1024, False: 32 * 1024}


def is_direct(channels: int, rows: int, terms: int) -> bool:
    """Whether a convolution with so many channels and rows in a group has a direct kernel.

    One of a single tap has none, unless a group is a single number: it is a product of matrices.
    """
    few = max(channels, rows) <= MOST_CHANNELS and channels * rows <= MOST_PAIRS
    return few and terms <= MOST_TERMS and not (terms == channels and channels * rows > 1)


@dataclass(frozen=True)
class DirectProblem:
    """Windows over an image whose spatial axes are in order of memory; strides in bytes.

    Attributes
    ----------
    images, groups, channels, rows : int
        ``channels`` of the image in a group, ``rows`` of the array of pixels.
    pixels, kernel : tuple of int
        Windows and taps along the spatial axes.
    steps, taps : tuple of int
        Elements from window to window, and from tap to tap.
    image_steps, pixel_steps : pair of int
        From window to window along the last axis, and from group to group: in the image, and in
        the array of pixels.
    itemsizes : pair of int
        Of the image and the array of pixels.
    compute_itemsize : int
        Of the sums.
    is_complex : bool
        Whether these are complex.
    alignments : pair of int
        Powers of two, at most 16, that divide the addresses of image and array of pixels, and
        their strides but that from group to group. On a CPU, where nothing depends on them, 1.
    reach : int
        The largest byte offset or element count that an index must hold.
    """

    images: int
    groups: int
    channels: int
    rows: int
    pixels: tuple[int, int, int]
    kernel: tuple[int, int, int]
    steps: tuple[int, int, int]
    taps: tuple[int, int, int]
    image_steps: tuple[int, int]
    pixel_steps: tuple[int, int]
    itemsizes: tuple[int, int]
    compute_itemsize: int
    is_complex: bool
    alignments: tuple[int, int]
    reach: int

    @property
    def terms(self) -> int:
        """Channels times taps."""
        return self.channels * prod(self.kernel)


@dataclass(frozen=True)
class Lanes:
    """What the lanes of a vector are.

    Attributes
    ----------
    along_groups : bool
        Whether they are groups, rather than pixels along the last axis.
    vector : int
        How many there are.
    unit_image, unit_pixels : bool
        Whether they are adjacent in the image, and in the array of pixels.
    """

    along_groups: bool
    vector: int
    unit_image: bool
    unit_pixels: bool


@dataclass(frozen=True)
class DirectConfig:
    """``ConvDirect`` of ``cuda_src/nnk/conv_direct.cuh``.

    Attributes
    ----------
    lanes : Lanes
        Of a vector.
    registers : int
        Vectors of a thread.
    step : int
        Elements from one of them to the next, where taps see neighbours; else 0.
    threads : int
        Of a block.
    slab : int
        Vectors of groups of a block; 1 where lanes are pixels.
    items_of_block : int
        How often a thread has its registers full, times the threads.
    index : str
        Kind of index, ``"i"`` or ``"q"``.
    streaming : bool
        Whether results go past the caches.
    """

    lanes: Lanes
    registers: int
    step: int
    threads: int
    slab: int
    items_of_block: int
    index: str
    streaming: bool = False

    def tiles(self, problem: DirectProblem) -> tuple[int, int, int, int]:
        """Items of a slab along lanes, registers, the axis before them, and the first one."""
        lanes, p = self.lanes, problem.pixels
        if lanes.along_groups:
            return self.slab, -(-p[2] // self.registers), p[1], p[0]
        return -(-p[2] // lanes.vector), -(-p[1] // self.registers), 1, p[0]

    def slabs(self, problem: DirectProblem) -> int:
        """How many slabs there are for each row of a group."""
        width = self.slab * self.lanes.vector if self.lanes.along_groups else 1
        return -(-problem.groups // width)

    def shared_bytes(self, problem: DirectProblem) -> int:
        """Of weights, and the bias."""
        width = self.slab * self.lanes.vector if self.lanes.along_groups else 1
        return (problem.terms + 1) * width * problem.compute_itemsize


def configure(problem: DirectProblem, device: Device) -> DirectConfig:
    """How a convolution or its gradient by the image is made."""
    lanes = lanes_of(problem, device)
    axis = 2 if lanes.along_groups else 1
    registers = 1 if problem.pixels[axis] == 1 else _registers(lanes, device)
    slab, step = 1, problem.steps[axis]
    if step > 2 or problem.taps[axis] != 1 or problem.kernel[axis] < TOGETHER:
        step = 0
    if lanes.along_groups:
        weights = (problem.terms + 1) * lanes.vector * problem.compute_itemsize
        slab = max(
            min(_WEIGHT_BYTES[device.is_gpu] // weights, -(-problem.groups // lanes.vector)), 1
        )
    chosen = DirectConfig(lanes, registers, step, 1, slab, 1, index_kind(problem.reach))
    items = problem.images * prod(chosen.tiles(problem))
    threads, items_of_block = 1, max(_RESULTS_OF_BLOCK // (registers * lanes.vector), 16 * slab)
    if device.is_gpu:
        threads = 64 if items <= 64 else 128
        many = chosen.slabs(problem) * problem.rows * items >= 16 * device.processors * threads
        items_of_block = threads * (2 if many else 1)
    results = problem.images * problem.groups * problem.rows * prod(problem.pixels)
    return replace(
        chosen,
        threads=threads,
        items_of_block=items_of_block,
        streaming=not device.is_gpu
        and lanes.unit_pixels
        and results * problem.itemsizes[1] >= device.cache_bytes,
    )


def _registers(lanes: Lanes, device: Device) -> int:
    """Vectors of a thread."""
    if device.is_gpu:
        return _GPU_REGISTERS
    return _WIDE_REGISTERS if device.vector_bytes == 64 and lanes.unit_image else _REGISTERS


# ---- lanes --------------------------------------------------------------------------------------


def lanes_of(problem: DirectProblem, device: Device) -> Lanes:
    """What the lanes of vectors are: neighbours in memory, and many."""
    length = problem.pixels[2], problem.groups
    cost = [
        _cost(length[i], problem.image_steps[i], problem.itemsizes[0], device) for i in range(2)
    ]
    along_groups = cost[1] < cost[0]
    steps = [pair[along_groups] for pair in (problem.image_steps, problem.pixel_steps)]
    unit = [s == size for s, size in zip(steps, problem.itemsizes, strict=True)]
    if not device.is_gpu:
        vector = 1 if problem.is_complex else device.vector_bytes // problem.compute_itemsize
        while vector > 4 and vector // 2 >= length[along_groups]:
            vector //= 2
    else:
        # Neighbouring pixels are seen by neighbouring threads: windows are not aligned.
        vector = _aligned_vector(problem) if along_groups and all(unit) else 1
    return Lanes(along_groups, vector, unit[0], unit[1])


def _cost(length: int, step: int, itemsize: int, device: Device) -> float:
    """Time for a lane, with that of a full vector of adjacent lanes as 1."""
    # Threads of a GPU are neighbours along all axes: those of a warp may be in several rows.
    lanes = 4 if device.is_gpu else 16
    slow = {itemsize: 1, 2 * itemsize: 2}.get(abs(step), 6)
    return slow * -(-length // lanes) * lanes / length


def _aligned_vector(problem: DirectProblem) -> int:
    """Groups of one access of 16 bytes, or as many as alignment allows; vectors are whole."""
    vector = min(16 // problem.itemsizes[0], 8)
    sizes = problem.itemsizes
    while vector > 1 and (
        problem.groups % vector
        or any(
            alignment < min(16, vector * size)
            for alignment, size in zip(problem.alignments, sizes, strict=True)
        )
    ):
        vector //= 2
    return vector


# ---- the gradient by the weights ---------------------------------------------------------------

# Taps of a tile along either of the last two axes.
_SIDE = 3
# Of a CPU: with fewer blocks, pixels are split, into ranges of at least so many vectors (where
# these are groups, each is of all vectors of a slab); and at most so many, because a long sum
# rounds badly. No number of threads is looked at.
_LEAST_BLOCKS = 16
_LEAST_VECTORS, _MOST_VECTORS = {False: 256, True: 128}, 16384
# Sums of a slab of a CPU: they stay in a level-1 cache.
_SUM_BYTES = 16 * 1024
# Pixels of an item: on a GPU, on a CPU.
_LONGEST_RUN = {True: 8, False: 64}
# Of a GPU. A processor has registers for so many blocks: 128 of a thread whose lanes are groups (9
# vectors of 8 sums), else some 50.
_WEIGHT_THREADS = 128
_BLOCKS_OF_GROUPS, _BLOCKS_OF_PIXELS = 4, 8
_MOST_SPLITS = 1024


@dataclass(frozen=True)
class DirectWeightConfig:
    """``ConvDirectWeight`` of ``cuda_src/nnk/conv_direct_weight.cuh``.

    Attributes
    ----------
    lanes : Lanes
        Of a vector.
    threads : int
        Of a block.
    slab : int
        Vectors of groups of a block; 1 where lanes are pixels.
    tile : pair of int
        Taps of a block along the last two axes.
    sliding : bool
        Whether pixels of a run, and taps along it, are neighbours.
    run : int
        Pixels of an item at most: along the last axis where lanes are groups, else along the one
        before it.
    splits : int
        Into how many ranges items are split.
    items_of_split : int
        How many items are a range.
    index : str
        Kind of index, ``"i"`` or ``"q"``.
    """

    lanes: Lanes
    threads: int
    slab: int
    tile: tuple[int, int]
    sliding: bool
    run: int
    splits: int
    items_of_split: int
    index: str

    def slabs(self, problem: DirectProblem) -> int:
        """How many slabs of groups there are."""
        width = self.slab * self.lanes.vector if self.lanes.along_groups else 1
        return -(-problem.groups // width)

    def tiles(self, problem: DirectProblem) -> tuple[int, int]:
        """How many tiles of taps there are along the last two axes."""
        first, second = (
            -(-n // side) for n, side in zip(problem.kernel[1:], self.tile, strict=True)
        )
        return first, second

    def parts(self, problem: DirectProblem) -> tuple[int, int, int]:
        """Items of an image along its axes."""
        a, b, c = problem.pixels
        if self.lanes.along_groups:
            return a, b, -(-c // self.run)
        return a, -(-b // self.run), -(-c // self.lanes.vector)

    def blocks(self, problem: DirectProblem) -> int:
        """How many there are."""
        tiles = prod(self.tiles(problem)) * problem.kernel[0]
        return self.slabs(problem) * problem.rows * problem.channels * tiles * self.splits

    def shared_bytes(self, problem: DirectProblem) -> int:
        """Of sums of groups: those that threads of a GPU exchange, or of the slab of a CPU."""
        if not self.lanes.along_groups:
            return 0
        sums = self.threads if self.threads > 1 else self.slab * _SIDE * _SIDE
        return sums * self.lanes.vector * problem.compute_itemsize


def configure_weight(problem: DirectProblem, device: Device) -> DirectWeightConfig:
    """How the gradient by the weights is made."""
    lanes = lanes_of(problem, device)
    first, second = (-(-n // -(-n // _SIDE)) for n in problem.kernel[1:])
    slab, threads = 1, _WEIGHT_THREADS if device.is_gpu else 1
    if device.is_gpu and lanes.along_groups:
        slab = min(-(-problem.groups // lanes.vector), 32)
    axis = 2 if lanes.along_groups else 1
    length, longest = max(problem.pixels[axis], 1), _LONGEST_RUN[device.is_gpu]
    run = -(-length // -(-length // longest))
    sliding = problem.steps[axis] == problem.taps[axis] == 1
    chosen = DirectWeightConfig(
        lanes, threads, slab, (first, second), sliding, run, 1, 1, index_kind(problem.reach)
    )
    items = max(problem.images * prod(chosen.parts(problem)), 1)
    vectors = items * run
    if lanes.along_groups and not device.is_gpu:
        chosen = replace(chosen, slab=_slab(problem, chosen, vectors))
    blocks = chosen.blocks(problem)
    if device.is_gpu:
        teams = threads // slab
        # As many blocks as processors have at the same time: one more would be a second turn.
        each = _BLOCKS_OF_GROUPS if lanes.along_groups else _BLOCKS_OF_PIXELS
        at_once = max(each * device.processors // blocks, 1)
        splits = min(at_once, vectors // (16 * teams), _MOST_SPLITS)
    else:
        splits = min(-(-_LEAST_BLOCKS // blocks), vectors // _LEAST_VECTORS[lanes.along_groups])
        splits = max(splits, -(-vectors // _MOST_VECTORS))
    items_of_split = -(-items // max(splits, 1))
    return replace(chosen, splits=-(-items // items_of_split), items_of_split=items_of_split)


def _slab(problem: DirectProblem, chosen: DirectWeightConfig, vectors: int) -> int:
    """Vectors of groups that a block of a CPU has, of so many pixels: many, adjacent in memory.

    So many that blocks are enough as long as their pixels may be split: splits cost another launch.
    """
    across = -(-problem.groups // chosen.lanes.vector)
    sums = _SIDE * _SIDE * chosen.lanes.vector * problem.compute_itemsize
    blocks = replace(chosen, slab=across).blocks(problem)
    splits = max(vectors // _LEAST_VECTORS[True], 1)
    most = max(_SUM_BYTES // sums, 1)
    slabs = max(-(-_LEAST_BLOCKS // (blocks * splits)), -(-across // most))
    return max(-(-across // slabs), 1)
