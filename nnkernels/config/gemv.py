"""Which kernel multiplies a vector by a matrix, and how its threads share the work."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nnkernels.config.device import Device
from nnkernels.config.matmul_splits import splits_on_a_cpu
from nnkernels.config.rows import next_power_of_two


@dataclass(frozen=True)
class GemvProblem:
    """One product of a vector of k terms and a k x n matrix; strides in bytes.

    Attributes
    ----------
    n, k : int
        Columns of the matrix, and terms of a sum.
    stride_x : int
        Of the vector.
    strides_b : tuple of int
        Of rows and columns of the matrix.
    itemsizes : tuple of int
        Of the vector, the matrix and the result.
    compute_itemsize : int
        Of the sums.
    is_complex : bool
        Whether they are complex.
    alignments : tuple of int
        Powers of two, at most 16, of which the addresses of the vector and the matrix and the
        steps between their batches are multiples.
    index : str
        ``"i"`` if 32-bit indices reach everything, else ``"q"``.
    batches : int
        How many such products there are.
    """

    n: int
    k: int
    stride_x: int
    strides_b: tuple[int, int]
    itemsizes: tuple[int, int, int]
    compute_itemsize: int
    is_complex: bool
    alignments: tuple[int, int]
    index: str
    batches: int = 1


@dataclass(frozen=True)
class GemvConfig:
    """Template arguments of one instance, and the columns of a block.

    Attributes
    ----------
    along : bool
        Whether the terms of a sum are neighbours in memory (`GemvAlong`), or the columns.
    columns : int
        Of a block.
    vector : int
        Terms, or columns, that are loaded at once.
    threads, team : int
        Threads of a block; of those, the ones that share a sum, or lie side by side.
    depth : int
        Columns at once; or rows of the matrix at once.
    held : bool
        Whether threads keep their sums in registers.
    splits : int
        Ranges of terms that are summed apart, and then added up in a second launch.
    """

    along: bool
    columns: int
    vector: int
    threads: int
    team: int
    depth: int
    held: bool
    unit_x: bool
    unit_b: bool
    index: str
    splits: int = 1

    @property
    def terms_at_once(self) -> int:
        """Terms that a block goes through before its threads come to the next ones."""
        if self.along:
            return self.team * self.vector * max(1, 4 // self.depth)
        return self.threads // self.team * self.depth

    @property
    def shared_elements(self) -> int:
        """Elements of shared memory of a block, of the type of the sums."""
        if self.along:
            return 0
        if not self.held:
            return -(-self.columns // self.vector) * self.vector
        return self.threads * self.vector if self.threads > self.team else 0


# Columns of a block where their sums wait in a level-1 cache of a CPU, beside what is read: 16 KiB.
_WAITING_BYTES = 16 * 1024
# Columns at once where terms are neighbours: x is read once for them, and each is a stream of its
# own. By the size of a SIMD register: there are 32 of 64 bytes, and 16 of others.
_SUMS = {64: 8, 32: 4, 16: 4}
# Rows of the matrix at once where columns are neighbours: for all of them, the sums are read and
# written once, and meanwhile as many more are fetched. With eight, not fetched, of half as many
# columns, a matrix of 8192x8192 in memory took a tenth longer.
_TERMS = 4
# The same for the threads of a GPU. Where no operand is read by vectors and offsets have 64 bits,
# four columns at once would need 138 registers, for which a processor has one block.
_GPU_DEPTH = 4
_GPU_DEPTH_FAR = 2
_GPU_THREADS = 256
# A block shares a sum of at least so many terms if there are few of them, else a warp.
_BLOCK_TERMS = 2048
# Readings of a block before a split of its terms pays for the second launch: they wait for memory
# one after the other, some 700 ns each, and the launch takes as long as several.
_READINGS_ALONG, _READINGS_ACROSS = 2, 8


def configure(problem: GemvProblem, device: Device) -> GemvConfig:
    """The kernel for a problem on a device."""
    along = abs(problem.strides_b[0]) < abs(problem.strides_b[1]) or problem.n == 1
    return _gpu(problem, device, along) if device.is_gpu else _cpu(problem, device, along)


def _cpu(problem: GemvProblem, device: Device, along: bool) -> GemvConfig:
    lanes = device.vector_bytes // problem.compute_itemsize
    vector = 2 if problem.is_complex else 2 * lanes
    depth = _SUMS[device.vector_bytes] if along else _TERMS
    if along and problem.is_complex:  # no SIMD form, and so fewer
        depth //= 2
    held = not along and not problem.is_complex and problem.n <= vector
    if along:  # enough blocks for all threads, whose ends nobody waits for long
        depth = min(depth, next_power_of_two(problem.n))
        share = -(-problem.n // (4 * device.processors))
        columns = -(-share // depth) * depth
    elif held:
        columns = vector = lanes if problem.n <= lanes else vector
    else:  # a row of a block is a run in memory: long runs, a block for each thread
        share = -(-problem.n // device.processors)
        most = _WAITING_BYTES // problem.compute_itemsize
        columns = min(most, -(-max(share, 8 * vector) // vector) * vector)
    return GemvConfig(
        along=along,
        columns=columns,
        vector=vector,
        threads=1,
        team=1,
        depth=depth,
        held=held,
        unit_x=problem.stride_x == problem.itemsizes[0],
        unit_b=problem.strides_b[0 if along else 1] == problem.itemsizes[1],
        index=problem.index,
        splits=splits_on_a_cpu(1, problem.n, problem.k, problem.batches, problem.compute_itemsize),
    )


def _gpu(problem: GemvProblem, device: Device, along: bool) -> GemvConfig:
    # A thread reads 16 bytes of the matrix at once, where it may.
    vector = max(1, 16 // max(problem.itemsizes[1], problem.compute_itemsize // 2))
    unit_x = problem.stride_x == problem.itemsizes[0]
    unit_b = problem.strides_b[0 if along else 1] == problem.itemsizes[1]
    step = problem.strides_b[1 if along else 0]
    aligned = _is_aligned(problem.alignments[1], step, problem.itemsizes[1] * vector)
    unit_b = unit_b and (aligned or vector == 1)
    unit_x = unit_x and problem.alignments[0] % min(16, problem.itemsizes[0] * vector) == 0
    sums = problem.n * problem.batches
    if along:
        whole_block = problem.k >= _BLOCK_TERMS and sums < 8 * device.processors
        team = _GPU_THREADS if whole_block else device.warp
        teams = _GPU_THREADS // team
        # x is read once for several sums, if there are enough for four blocks of a processor.
        many = sums >= 4 * device.processors * teams * _GPU_DEPTH
        most = _GPU_DEPTH_FAR if problem.index == "q" and not (unit_x or unit_b) else _GPU_DEPTH
        depth = most if many and not whole_block else 1
        columns = teams * depth
    else:
        team, depth = device.warp, _GPU_DEPTH
        if -(-problem.n // (team * vector)) * problem.batches < 2 * device.processors:
            team //= 4  # 128 bytes of a row of float32: more blocks, whose threads go less far
        columns = team * vector
    found = GemvConfig(
        along=along,
        columns=columns,
        vector=vector,
        threads=_GPU_THREADS,
        team=team,
        depth=depth,
        held=not along,
        unit_x=unit_x,
        unit_b=unit_b,
        index=problem.index,
    )
    return replace(found, splits=_splits(problem, found, device))


def _splits(problem: GemvProblem, found: GemvConfig, device: Device) -> int:
    """Into how many ranges terms are split: for four blocks of each processor, if they are long."""
    blocks = -(-problem.n // found.columns) * problem.batches
    readings = _READINGS_ALONG if found.along else _READINGS_ACROSS
    most = problem.k // (readings * found.terms_at_once)
    if blocks >= 2 * device.processors or most < 2:
        return 1
    return min(most, 4 * device.processors // blocks)


def _is_aligned(alignment: int, step: int, access: int) -> bool:
    access = min(access, 16)
    return alignment % access == 0 and step % access == 0
