"""How the partial sums of a split product are added up, on any machine."""

from __future__ import annotations

from dataclasses import dataclass

from nnkernels.config.device import Device
from nnkernels.dispatch.axes import largest_power_of_two


@dataclass(frozen=True)
class SplitsProblem:
    """Partial sums of a stack of matrices; strides in bytes.

    Attributes
    ----------
    n : int
        Columns.
    rows, splits : int
        Rows of all matrices, and sums that are added up for each element.
    strides_c : tuple of int
        Of rows and columns of the result.
    itemsize : int
        Of the result.
    compute_itemsize : int
        Of the sums.
    is_complex : bool
        Whether they are complex.
    alignment : int
        Power of two, at most 16, of which the address of the result and the steps between its
        matrices are multiples.
    """

    n: int
    strides_c: tuple[int, int]
    itemsize: int
    compute_itemsize: int
    is_complex: bool
    alignment: int
    rows: int = 1
    splits: int = 1


@dataclass(frozen=True)
class SplitsConfig:
    """Template arguments of one instance, and the groups of columns of a block.

    ``teams`` threads of a GPU share the splits of a group.
    """

    vector: int
    threads: int
    groups: int
    unit_c: bool
    teams: int = 1
    shared_bytes: int = 0


# On a CPU: fewer terms are not worth a part of their own; more parts than this serve no processor,
# and more of their sums no cache.
_LEAST_TERMS, _MOST_SPLITS, _MOST_BYTES = 4096, 64, 4 << 20
# Products of so many blocks of 64 x 64, or with so few elements of A and B, have one part.
_MANY_BLOCKS, _FEW_ELEMENTS = 16, 1 << 18
# On a CPU the terms of a part are a multiple of this at least, and so of most slices. Slices differ
# by how operands lie, which must not change a bit.
CPU_MULTIPLE = 1024
_GPU_THREADS = 128
# Where there are few columns for the threads of a GPU, 4 or 16 share those of one: each adds up so
# many sums at least, of which it waits for 8 at the same time.
_MOST_TEAMS, _LEAST_SUMS, _BUSY_THREADS = 16, 4, 1024
# Of a block of a CPU: dividing them among threads costs nothing any more.
_CPU_GROUPS = 256


def configure(problem: SplitsProblem, device: Device) -> SplitsConfig:
    """The kernel for a problem on a device."""
    adjacent = problem.strides_c[1] == problem.itemsize
    if not device.is_gpu:
        vector = 2 if problem.is_complex else device.vector_bytes // problem.compute_itemsize
        return SplitsConfig(vector, 1, _CPU_GROUPS, adjacent)
    # Every thread reads 16 bytes of sums at once, where rows of the workspace begin aligned.
    vector = largest_power_of_two(max(1, 16 // problem.compute_itemsize), problem.n)
    access = min(16, vector * problem.itemsize)
    aligned = problem.alignment % access == 0 and problem.strides_c[0] % access == 0
    teams, groups = 1, problem.rows * -(-problem.n // vector)
    while (
        teams < _MOST_TEAMS
        and problem.splits >= 4 * teams * _LEAST_SUMS
        and groups * teams < device.processors * _BUSY_THREADS
    ):
        teams *= 4
    of_block = _GPU_THREADS // teams
    waiting = _GPU_THREADS * vector * problem.compute_itemsize if teams > 1 else 0
    return SplitsConfig(vector, _GPU_THREADS, of_block, adjacent and aligned, teams, waiting)


def splits_on_a_cpu(m: int, n: int, k: int, batches: int, compute_itemsize: int) -> int:
    """Into how many ranges of terms a product is split.

    That depends on the product alone, so that any number of threads gives the same bits.
    """
    blocks = batches * -(-m // 64) * -(-n // 64)
    if blocks >= _MANY_BLOCKS or batches * (m + n) * k < _FEW_ELEMENTS:
        return 1
    most_parts = _MOST_BYTES // (batches * m * n * compute_itemsize)
    return max(1, min(_MOST_SPLITS, k // _LEAST_TERMS, most_parts))


def terms_of_split(k: int, splits: int, multiple: int) -> int:
    """Terms of a sum that one split adds: a multiple of those of a slice."""
    return -(-k // (splits * multiple)) * multiple
