"""Layout, team and storage of the row kernels (softmax and its kin, norms, row sums)."""

from __future__ import annotations

from dataclasses import dataclass

from nnkernels.config.device import Device
from nnkernels.dispatch.axes import Shape, Strides, index_kind, largest_power_of_two

ALONG, ACROSS = 0, 1
ANY_STEP, UNIT_STEP, ZERO_STEP, PERIOD_STEP = 0, 1, 2, 3
# Adjacent elements of which one access of a GPU takes so many bytes more than this at most.
NARROW_STEP = 16
# What an operand has: an element for each of a row, a number that rows or their elements share
# (weights: 0 is an ordinary stride of theirs), or one number for a row.
ELEMENTWISE, PARAMETER, PER_ROW = 0, 1, 2
KEEP_NONE, KEEP_REGISTERS, KEEP_SHARED, KEEP_EXP = 0, 1, 2, 3

# Numbers that a GPU thread keeps in registers.
_GPU_KEPT = 32
# The most threads that do: 1024 have 64 registers each, and need some to compute with.
_GPU_KEPT_THREADS = 512
# Threads that take statistics of a row that is read again, and have 80 registers each for that: two
# blocks fit a multiprocessor.
_GPU_NORM_THREADS = 384
# In so many accesses a vector of a result is written. Of each, neighbouring threads fill one in so
# many parts of a sector, and level-2 caches take sectors; what is read again lies in level 1.
_GPU_STORES = 2
# Threads of a block that holds several short rows.
_GPU_SHORT_BLOCK = 128
_GPU_ACROSS_BLOCK = 256
# Neighbours in memory that a block reads at least of rows that lie beside each other, if there are
# so many: of narrower blocks there are more, but memory is read in pieces of 64 bytes.
_GPU_ACROSS_BYTES = 64
# Shared memory that a kernel may have beside the row: its reductions.
_REDUCTION_BYTES = 4096
# Rows in a level-2 cache that are worked on are in the way of so many times as many bytes that are
# read ahead or written.
_GPU_ROWS_BEYOND = 2
# A part of a row that is worth a block of its own.
_GPU_PART = 4096
_CPU_PART = 32768
# Groups of a row that a CPU thread keeps in registers.
_CPU_DEPTH = 8
# SIMD registers that the rows of one thread may fill in all.
_CPU_KEPT = 16


@dataclass(frozen=True)
class RowsProblem:
    """Merged axes of one call; operands in the order of the kernel's geometry.

    Attributes
    ----------
    outer, inner : tuple of int
        Shapes of the rows' positions and of a row; each has at least one axis.
    outer_strides, inner_strides : tuple of tuple of int
        In bytes, for each operand.
    itemsizes : tuple of int
        Of each operand.
    compute_itemsize : int
        Of the computing type.
    tiles : int
        Rows that are kept on the chip at once: 1 forward, 2 backward, 0 for a plain reduction.
    keeps_exp : bool
        Whether exponentials are computed once and kept (softmax), or nothing but the row.
    per_row : bool
        Whether the last operand has one element for a row.
    alignments : tuple of int
        For each operand a power of two that divides its address.
    roles : tuple of int
        Of each operand; without any, all are element-wise, but the last with ``per_row``.
    period : int
        How many neighbours along a row share a parameter, whose stride is that to the next one; 0
        if the axes tell.
    read_again : bool
        Whether one reading of a row tells all that is to be known of it (moments of norms), so that
        a CPU keeps long rows nowhere but in its caches.
    written : int
        How many of the last operands are results.
    crowding : int
        A thread of a GPU keeps so many times fewer numbers of rows, where sums need registers too.
    """

    outer: Shape
    inner: Shape
    outer_strides: tuple[Strides, ...]
    inner_strides: tuple[Strides, ...]
    itemsizes: tuple[int, ...]
    compute_itemsize: int
    tiles: int
    keeps_exp: bool
    per_row: bool
    alignments: tuple[int, ...]
    roles: tuple[int, ...] = ()
    period: int = 0
    read_again: bool = False
    written: int = 1
    crowding: int = 1

    def operands(self, *roles: int) -> list[int]:
        """The operands of some roles."""
        found = self.roles or (
            *(ELEMENTWISE,) * (len(self.itemsizes) - 1),
            PER_ROW if self.per_row else ELEMENTWISE,
        )
        return [o for o, role in enumerate(found) if role in roles]

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return _product(self.outer)

    @property
    def length(self) -> int:
        """Elements of a row."""
        return _product(self.inner)


@dataclass(frozen=True)
class RowsConfig:
    """Template arguments of one instance, and the cut of a row into parts (1: none)."""

    layout: int
    steps: tuple[int, ...]
    vector: int
    columns: int
    threads: int
    team: int
    keep: int
    depth: int
    parts: int
    part_groups: int
    kept: int
    index: str
    streaming: bool

    @property
    def side_by_side(self) -> int:
        """Teams of a block."""
        return self.threads // self.team


def configure(problem: RowsProblem, device: Device) -> RowsConfig:
    """The kernel for a problem on a device."""
    layout = _layout(problem)
    choose = {
        (False, ALONG): _cpu_along,
        (False, ACROSS): _cpu_across,
        (True, ALONG): _gpu_along,
        (True, ACROSS): _gpu_across,
    }
    return choose[device.is_gpu, layout](problem, device)


def across(problem: RowsProblem, device: Device) -> RowsConfig:
    """The kernel for rows that are known to lie beside each other."""
    return (_gpu_across if device.is_gpu else _cpu_across)(problem, device)


def _layout(problem: RowsProblem) -> int:
    # The main operand decides: its neighbours in memory are what SIMD lanes or threads take.
    inner_unit = problem.inner_strides[0][-1] == problem.itemsizes[0] or problem.length == 1
    outer_unit = problem.outer_strides[0][-1] == problem.itemsizes[0] and problem.outer[-1] > 1
    return ACROSS if outer_unit and not inner_unit else ALONG


def _steps(problem: RowsProblem, layout: int) -> tuple[int, ...]:
    strides = problem.inner_strides if layout == ALONG else problem.outer_strides
    steps = [
        UNIT_STEP if s[-1] == size else ANY_STEP
        for s, size in zip(strides, problem.itemsizes, strict=True)
    ]
    for o in problem.operands(PARAMETER):
        if strides[o][-1] == 0:
            steps[o] = ZERO_STEP
        elif problem.period:
            steps[o] = PERIOD_STEP
    return tuple(steps)


def _index(problem: RowsProblem) -> str:
    shape = problem.outer + problem.inner
    strides = [o + i for o, i in zip(problem.outer_strides, problem.inner_strides, strict=True)]
    # Loops step up to 4 groups of every thread past the end: 4 * 1024 threads * 16 elements.
    return index_kind(shape, strides, slack=4 * 1024 * 16 * 16)


def _streaming(problem: RowsProblem, device: Device, steps: tuple[int, ...]) -> bool:
    written = problem.rows * problem.length * problem.itemsizes[-1]
    return (
        not device.is_gpu
        and not problem.per_row
        and written >= device.cache_bytes
        and steps[-1] == UNIT_STEP
    )


def _along_vector(problem: RowsProblem, vector: int) -> int:
    # With several inner axes no group may cross the end of the last.
    if len(problem.inner) > 1:
        return largest_power_of_two(vector, problem.inner[-1])
    return vector


# ---- CPU -----------------------------------------------------------------------------------------


def _cpu_along(problem: RowsProblem, device: Device) -> RowsConfig:
    steps = _steps(problem, ALONG)
    vector = _along_vector(problem, device.vector_bytes // problem.compute_itemsize)
    groups = -(-problem.length // vector)
    depth = next_power_of_two(groups)
    keep, kept, columns = KEEP_NONE, 0, 1
    parts, part_groups = _cpu_parts(problem.rows, groups, vector, problem.length)
    if problem.tiles and depth * problem.tiles <= _CPU_DEPTH:
        keep = KEEP_REGISTERS
        # Several short rows at once: the folds of one run under the exponentials of the next.
        columns = min(_CPU_KEPT // (depth * problem.tiles), 4)
    elif (
        problem.tiles == 1
        and not problem.read_again
        and problem.length * problem.compute_itemsize <= device.shared_limit
    ):
        keep, kept = KEEP_EXP, groups * vector if problem.keeps_exp else 0
    if parts > 1:
        keep, kept, columns = KEEP_NONE, 0, 1
    return RowsConfig(
        layout=ALONG,
        steps=steps,
        vector=vector,
        columns=columns,
        threads=1,
        team=1,
        keep=keep,
        depth=depth if keep == KEEP_REGISTERS else 1,
        parts=parts,
        part_groups=part_groups,
        kept=kept,
        index=_index(problem),
        streaming=_streaming(problem, device, steps),
    )


def _cpu_parts(blocks: int, groups: int, width: int, elements: int) -> tuple[int, int]:
    """How many blocks share what is one block's: groups of a width, so many elements in all."""
    # The cut must not depend on the number of threads: results are the same for any.
    if blocks >= 8 or elements < 2 * _CPU_PART:
        return 1, groups
    part_groups = _CPU_PART // width
    return -(-groups // part_groups), part_groups


def _cpu_across(problem: RowsProblem, device: Device) -> RowsConfig:
    steps = _steps(problem, ACROSS)
    vector = device.vector_bytes // problem.compute_itemsize
    neighbours = problem.outer[-1]
    columns = 4
    while columns > 1 and (columns - 1) * vector >= neighbours:
        columns //= 2
    keep, kept, depth = KEEP_NONE, 0, 1
    if problem.tiles:
        limit = device.shared_limit // (
            problem.compute_itemsize * problem.tiles * vector * problem.length
        )
        if limit:
            while columns > limit:
                columns //= 2
            keep, kept = KEEP_SHARED, problem.tiles * problem.length * vector * columns
    blocks = _product(problem.outer[:-1]) * -(-neighbours // (vector * columns))
    beside = min(vector * columns, neighbours)
    parts, part_groups = _cpu_parts(blocks, problem.length, beside, beside * problem.length)
    if parts > 1:
        keep, kept = KEEP_NONE, 0
    return RowsConfig(
        layout=ACROSS,
        steps=steps,
        vector=vector,
        columns=columns,
        threads=1,
        team=1,
        keep=keep,
        depth=depth,
        parts=parts,
        part_groups=part_groups,
        kept=kept,
        index=_index(problem),
        streaming=_streaming(problem, device, steps),
    )


# ---- GPU -----------------------------------------------------------------------------------------


def _gpu_along(problem: RowsProblem, device: Device) -> RowsConfig:
    steps = _steps(problem, ALONG)
    vector = _along_vector(problem, _gpu_vector(problem, device, steps, ALONG))
    steps = _gpu_steps(problem, device, steps, vector, ALONG)
    groups = -(-problem.length // vector)
    limit = max(_GPU_KEPT // problem.crowding // (vector * max(problem.tiles, 1)), 1)
    threads, team = _gpu_team(problem, groups, limit, device)
    depth = next_power_of_two(-(-groups // team))
    keep, kept = KEEP_NONE, 0
    if problem.tiles and depth <= limit and threads <= _GPU_KEPT_THREADS:
        keep = KEEP_REGISTERS
    elif _stays_in_cache(problem, device):
        threads = team = _GPU_KEPT_THREADS
    elif problem.tiles and _fits_shared(problem, groups * vector, device):
        keep, kept = KEEP_SHARED, problem.tiles * groups * vector
    if keep == KEEP_NONE and problem.tiles == 1 and problem.roles and problem.compute_itemsize <= 4:
        threads = team = _GPU_NORM_THREADS
    parts, part_groups = _gpu_parts(
        device, groups, problem.length, -(-problem.rows * team // threads)
    )
    if parts > 1:
        keep, kept, threads, team = KEEP_NONE, 0, 256, 256
    return RowsConfig(
        layout=ALONG,
        steps=steps,
        vector=vector,
        columns=1,
        threads=threads,
        team=team,
        keep=keep,
        depth=depth if keep == KEEP_REGISTERS else 1,
        parts=parts,
        part_groups=part_groups,
        kept=kept,
        index=_index(problem),
        streaming=False,
    )


def _gpu_team(problem: RowsProblem, groups: int, limit: int, device: Device) -> tuple[int, int]:
    """Threads of a block and of a row: the fewest that keep the row in registers."""
    team = 8
    while team < device.warp and groups > team * limit:
        team *= 2
    if groups <= team * limit:
        return _GPU_SHORT_BLOCK, team
    threads = 128
    while threads < _GPU_KEPT_THREADS and groups > threads * limit:
        threads *= 2
    # In shared memory or read again: as many as there can be, but with numbers of 8 bytes, or
    # statistics and parameters beside a row (a norm has roles), 64 registers are too few even so.
    if groups > threads * limit and problem.compute_itemsize <= 4 and not problem.roles:
        threads = 1024
    return threads, threads


def _gpu_parts(
    device: Device, groups: int, elements: int, blocks: int, least: int = 2
) -> tuple[int, int]:
    """How many blocks share what is one block's, at least so many if that leaves processors idle.

    It has so many groups, of so many elements in all.
    """
    wanted = 2 * device.processors // max(blocks, 1)
    useful = elements // _GPU_PART
    if blocks >= device.processors or useful < 2 or wanted < least:
        return 1, groups
    part_groups = -(-groups // min(wanted, useful))
    return -(-groups // part_groups), part_groups


def _stays_in_cache(problem: RowsProblem, device: Device) -> bool:
    """Whether rows that are too long for registers lie in the level-2 cache when read again.

    Of those that are worked on, two for each processor: one is read while results of the other are
    written. In shared memory there would be room for one, as float32 at that.
    """
    if problem.tiles != 1 or problem.compute_itemsize > 4 or problem.rows <= device.processors:
        return False
    row = problem.length * problem.itemsizes[0]
    return 2 * _GPU_ROWS_BEYOND * device.processors * row <= device.cache_bytes


def _fits_shared(problem: RowsProblem, elements: int, device: Device) -> bool:
    return (
        problem.tiles * elements * problem.compute_itemsize + _REDUCTION_BYTES
        <= device.shared_limit
    )


def _gpu_vector(problem: RowsProblem, device: Device, steps: tuple[int, ...], layout: int) -> int:
    """Elements that are worked on together: as many as one access takes of some operand."""
    operands = problem.operands(ELEMENTWISE)
    if any(steps[o] != UNIT_STEP for o in operands):
        return 1
    taken = {o: _gpu_access(problem, device, o, layout) // problem.itemsizes[o] for o in operands}
    vector = device.vector_bytes // max(problem.itemsizes[o] for o in operands)
    vector = min(vector, max(1, *taken.values()))
    for o in operands:
        if o >= len(problem.itemsizes) - problem.written:
            vector = min(vector, _GPU_STORES * max(taken[o], 1))
    return vector


def _gpu_access(problem: RowsProblem, device: Device, operand: int, layout: int) -> int:
    """Bytes of the widest access of an operand whose elements are adjacent."""
    others = _other_strides(problem, operand, layout)
    return largest_power_of_two(device.vector_bytes, problem.alignments[operand], *others)


def _gpu_steps(
    problem: RowsProblem, device: Device, steps: tuple[int, ...], vector: int, layout: int
) -> tuple[int, ...]:
    """Steps, with the width of accesses where it is not that of a vector."""
    found = list(steps)
    for o, size in enumerate(problem.itemsizes):
        if steps[o] == UNIT_STEP and vector > 1:
            # What is wider than an access takes several as it is.
            wanted = min(vector * size, device.vector_bytes)
            access = _gpu_access(problem, device, o, layout)
            if access < wanted:
                found[o] = NARROW_STEP + access
    return tuple(found)


def _other_strides(problem: RowsProblem, operand: int, layout: int) -> list[int]:
    """All but the one along which vectors lie."""
    outer, inner = problem.outer_strides[operand], problem.inner_strides[operand]
    return [*outer, *inner[:-1]] if layout == ALONG else [*outer[:-1], *inner]


def _gpu_across(problem: RowsProblem, device: Device) -> RowsConfig:
    steps = _steps(problem, ACROSS)
    vector = min(_gpu_vector(problem, device, steps, ACROSS), 4)
    steps = _gpu_steps(problem, device, steps, vector, ACROSS)
    neighbours = -(-problem.outer[-1] // vector)
    others = _product(problem.outer[:-1])
    side = _gpu_side_by_side(problem, device, vector, neighbours, others)
    blocks = others * -(-neighbours // side)
    threads = _GPU_ACROSS_BLOCK
    if blocks < 2 * device.processors and problem.length * side >= 16 * threads:
        # Not many blocks: twice the threads of each, so that as many loads are under way.
        threads *= 2
    team = threads // side
    depth = next_power_of_two(-(-problem.length // team))
    kept = depth * vector * problem.tiles
    registers = problem.tiles and kept <= _GPU_KEPT // problem.crowding
    parts, part_groups = _gpu_parts(
        device, problem.length, problem.length * side * vector, blocks, least=4
    )
    if parts > 1:
        registers = False
    return RowsConfig(
        layout=ACROSS,
        steps=steps,
        vector=vector,
        columns=1,
        threads=threads,
        team=team,
        keep=KEEP_REGISTERS if registers else KEEP_NONE,
        depth=depth if registers else 1,
        parts=parts,
        part_groups=part_groups,
        kept=0,
        index=_index(problem),
        streaming=False,
    )


def _gpu_side_by_side(
    problem: RowsProblem, device: Device, vector: int, neighbours: int, others: int
) -> int:
    """Threads that take neighbouring vectors, of which there are so many in so many places.

    As many as take 512 bytes, or fewer if there is no block for each processor then; but at least
    as many as take two sectors of 32 bytes.
    """
    side = min(next_power_of_two(neighbours), 32)
    least = max(_GPU_ACROSS_BYTES // (vector * problem.itemsizes[0]), 1)
    while side > least and others * -(-neighbours // side) < device.processors:
        side //= 2
    return side


def next_power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(n - 1, 0).bit_length()


def _product(shape: Shape) -> int:
    product = 1
    for n in shape:
        product *= n
    return product
