"""Tables that kernels look into, from the maps of axes and the strides of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from nnkernels.dispatch.axes import Shape
from nnkernels.dispatch.axis_maps import AxisMap

# Stands for an offset where there is no element: see cuda_src/nnk/axis_tables.cuh.
MISSING = {"i": -(2**31), "q": -(2**63)}
NOWHERE = MISSING["q"]
_NUMPY = {"i": np.int32, "q": np.int64}


def offsets(shape: Shape, strides: Sequence[int]) -> np.ndarray:
    """The byte offset of each element, in C order."""
    found = np.zeros(1, np.int64)
    for size, stride in zip(shape, strides, strict=True):
        found = np.add.outer(found, np.arange(size, dtype=np.int64) * stride).reshape(-1)
    return found


@dataclass(frozen=True, eq=False)
class Table:
    """The map of one axis, in bytes.

    Attributes
    ----------
    to : array of int64
        Where each element of the result lies.
    begin, source, weight
        Its terms, as in `AxisMap`; `source` is where the element of x lies.
    """

    to: np.ndarray
    begin: np.ndarray
    source: np.ndarray
    weight: np.ndarray | None

    @property
    def size(self) -> int:
        """Elements of the result."""
        return int(self.to.size)

    @property
    def step(self) -> int:
        """The smallest distance from one element of the result to another."""
        return int(np.abs(np.diff(self.to)).min(initial=2**62))


def table_of(axis_map: AxisMap, ins: Sequence[int], outs: Sequence[int]) -> Table:
    """The table of a map for axes of some strides."""
    source = offsets(axis_map.inputs, ins)[axis_map.source]
    return Table(offsets(axis_map.outputs, outs), axis_map.begin, source, axis_map.weight)


def with_plain(table: Table, size: int, out_stride: int, in_stride: int) -> Table:
    """The table of an axis and of a faster one that is only copied, as one axis."""
    steps = np.arange(size, dtype=np.int64)
    counts = np.repeat(np.diff(table.begin), size)
    begin = np.concatenate([[0], np.cumsum(counts)])
    terms = np.arange(begin[-1]) - np.repeat(begin[:-1], counts)
    terms += np.repeat(np.repeat(table.begin[:-1], size), counts)
    moved = np.repeat(np.tile(steps * in_stride, table.size), counts)
    return Table(
        np.add.outer(table.to, steps * out_stride).reshape(-1),
        begin,
        table.source[terms] + moved,
        None if table.weight is None else table.weight[terms],
    )


# ---- moves: at most one term each ---------------------------------------------------------------


def single_sources(table: Table) -> np.ndarray:
    """The one source of each element of the result, or a mark where there is none."""
    found = np.full(table.size, NOWHERE)
    found[np.diff(table.begin) > 0] = table.source
    return found


def crossed(slow: np.ndarray, fast: np.ndarray, marked: bool = False) -> np.ndarray:
    """Offsets of two axes as those of one; with marks of what is missing."""
    both = np.add.outer(slow, fast)
    if marked:
        both[slow == NOWHERE] = NOWHERE
        both[:, fast == NOWHERE] = NOWHERE
    return both.reshape(-1)


@dataclass(frozen=True)
class Segment:
    """A piece of a row: elements in equal steps, or by offsets, or picked, or missing ones."""

    to: int
    source: int
    count: int
    step: int
    gathered: int = -1  # where in the row its offsets begin
    pairs: int = 0  # of registers that a vector is picked from: see axis_picks.py
    first_pair: int = 0


# Runs of fewer elements that are not adjacent are better gathered, all together.
_SHORT_RUN = 64
# The most elements from one to the next that loads and permutations bring: of long runs (where
# every fourth one takes four loads), and of any.
_WIDE_STEP, _NARROW_STEP = 4, 2


def segments(
    to: np.ndarray, source: np.ndarray, out_step: int, longest: int, vector: int = _SHORT_RUN
) -> tuple[list[Segment], bool]:
    """A row as few segments, none longer than `longest`; and whether offsets are needed.

    Parameters
    ----------
    to, source : array of int64
        Where each element of the result and of x lies.
    vector : int
        Elements that are moved at once.
    """
    gone = source == NOWHERE
    next_to = np.diff(to) == out_step
    joined = next_to & (gone[1:] == gone[:-1])
    step = np.where(gone[1:] | gone[:-1], 0, np.diff(source))
    # Blocks of equal steps between neighbours.
    changes = np.flatnonzero((joined[1:] != joined[:-1]) | (step[1:] != step[:-1])) + 1
    if not gone.any() and (
        4 * changes.size > to.size or _is_scattered(step, changes, out_step, vector)
    ):
        cuts = np.flatnonzero(~next_to) + 1
        pieces = _cut(np.concatenate([[0], cuts, [to.size]]), longest)
        return [Segment(int(to[a]), 0, b - a, 0, a) for a, b in pieces], True
    found: list[Segment] = []
    bounds = [0, *changes.tolist(), step.size]
    first = 0  # the first element that is in no segment yet
    for a, b in pairwise(bounds):
        if b <= a or not joined[a]:
            found += _equal(to, source, 0, range(first, b), out_step, longest)
            first = max(first, b)
        elif b > first:  # else the one element that is left begins the next block
            found += _equal(to, source, int(step[a]), range(first, b + 1), out_step, longest)
            first = b + 1
    found += _equal(to, source, 0, range(first, to.size), out_step, longest)
    return found, False


def _is_scattered(step: np.ndarray, changes: np.ndarray, out_step: int, vector: int) -> bool:
    """Whether most elements are in short runs whose steps no vector access has."""
    # Between two runs the step changes twice.
    elements = 2 * (step.size + 1) / (changes.size + 2)
    if step.size == 0 or elements >= _SHORT_RUN:
        return False
    # Runs that fill vectors may have larger steps.
    largest = _WIDE_STEP if elements >= vector else _NARROW_STEP
    return bool(np.mean(np.abs(step) > largest * abs(out_step)) > 0.5)


def _equal(
    to: np.ndarray, source: np.ndarray, step: int, elements: range, out_step: int, longest: int
) -> list[Segment]:
    """Elements in equal steps; single ones if they are not joined (step 0 in a range of theirs)."""
    found = []
    a = elements.start
    while a < elements.stop:
        count = 1
        together = a + 1 < elements.stop and to[a + 1] - to[a] == out_step
        if together and _step(source, a) == step:
            count = min(elements.stop - a, longest)
        found.append(Segment(int(to[a]), int(source[a]), count, step if count > 1 else 0))
        a += count
    return found


def _step(source: np.ndarray, a: int) -> int | None:
    if source[a] == NOWHERE or source[a + 1] == NOWHERE:
        return 0 if source[a] == source[a + 1] else None
    return int(source[a + 1] - source[a])


def _cut(bounds: np.ndarray, longest: int) -> list[tuple[int, int]]:
    found = []
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        found += [(a, min(a + longest, end)) for a in range(start, end, longest)]
    return found


# ---- sums along a row ---------------------------------------------------------------------------


@dataclass
class RowTables:
    """What `cuda_src/nnk/resample_rows.cuh` needs of the axis along a row.

    Attributes
    ----------
    parts, runs, groups, terms : list of lists of int
        Records as the header describes them.
    lanes, weights : array
        For each vector of terms its columns, and its factors.
    columns : int
        The most columns of a part.
    """

    parts: np.ndarray
    runs: np.ndarray
    groups: np.ndarray
    terms: np.ndarray
    lanes: np.ndarray
    weights: np.ndarray
    columns: int


IN_A_ROW, NEAR, FAR = 0, 1, 2


def row_tables(
    table: Table, vector: int, in_step: int, out_step: int, longest: int, most_columns: int
) -> RowTables:
    """Cut a row into parts, and each part into groups of `vector` elements of the result."""
    pieces: list[tuple[int, int]] = []
    todo = [(a, min(a + longest, table.size)) for a in range(0, table.size, longest)][::-1]
    while todo:
        a, b = todo.pop()
        needed = np.unique(table.source[table.begin[a] : table.begin[b]]).size
        if needed > most_columns and b - a > vector:
            middle = a + (b - a) // 2
            todo += [(middle, b), (a, middle)]
        else:
            pieces.append((a, b))
    made = [_part(table, a, b, vector, in_step, out_step) for a, b in pieces]
    parts, run_at, group_at, term_at = [], 0, 0, 0
    for part in made:
        runs, groups = part.runs.shape[0], part.groups.shape[0]
        parts.append([run_at, run_at + runs, group_at, group_at + groups])
        part.groups[:, 2] += term_at
        run_at, group_at, term_at = run_at + runs, group_at + groups, term_at + len(part.terms)
    groups = np.concatenate([*(p.groups for p in made), [[0, 0, term_at]]])
    return RowTables(
        np.array(parts, np.int64),
        np.concatenate([p.runs for p in made]),
        groups,
        np.concatenate([p.terms for p in made]),
        np.concatenate([p.lanes for p in made]),
        np.concatenate([p.weights for p in made]),
        max(p.columns for p in made),
    )


def _part(table: Table, a: int, b: int, vector: int, in_step: int, out_step: int) -> RowTables:
    first, last = int(table.begin[a]), int(table.begin[b])
    columns, column = np.unique(table.source[first:last], return_inverse=True)
    runs = _runs(columns, in_step)
    # Groups end after `vector` elements, and where y goes on elsewhere.
    to = table.to[a:b]
    new = np.concatenate([[True], np.diff(to) != out_step])
    start = np.maximum.accumulate(np.where(new, np.arange(b - a), 0))
    lane = (np.arange(b - a) - start) % vector
    heads = np.flatnonzero(lane == 0)
    group = np.cumsum(lane == 0) - 1
    counts = np.diff(np.concatenate([heads, [b - a]]))
    terms_of = np.diff(table.begin[a : b + 1])
    most = np.maximum.reduceat(terms_of, heads)
    term_start = np.concatenate([[0], np.cumsum(most)])
    groups = np.stack([to[heads], counts, term_start[:-1]], 1).astype(np.int64)
    # The vector and the lane of every term.
    element = np.repeat(np.arange(b - a), terms_of)
    number = np.arange(last - first) - np.repeat(table.begin[a:b] - first, terms_of)
    row = term_start[group[element]] + number
    lanes = np.full((int(term_start[-1]), vector), -1, np.int64)
    lanes[row, lane[element]] = column
    weights = np.zeros(lanes.shape)
    weights[row, lane[element]] = 1.0 if table.weight is None else table.weight[first:last]
    return RowTables(
        np.zeros((0, 4)), runs, groups, *_kinds(lanes, np.repeat(counts, most), vector), weights,
        columns.size,
    )  # fmt: skip


def _runs(columns: np.ndarray, in_step: int) -> np.ndarray:
    """(from, column, count) of columns that are `in_step` bytes apart; that may be negative."""
    ends = np.flatnonzero(np.diff(columns) != abs(in_step)) + 1
    starts = np.concatenate([[0], ends]) if columns.size else np.zeros(0, np.int64)
    counts = np.diff(np.concatenate([starts, [columns.size]]))
    return np.stack([columns[starts], starts, counts], 1).astype(np.int64)


def _kinds(lanes: np.ndarray, counts: np.ndarray, vector: int) -> tuple[np.ndarray, np.ndarray]:
    """(first column, kind) of each vector of terms, and its lanes counted from there."""
    there = lanes >= 0
    low = np.where(there, lanes, 2**31 - 1).min(1, initial=2**31 - 1)
    relative = np.where(there, lanes - low[:, None], -1)
    numbers = np.arange(vector)
    in_a_row = ((relative == numbers) | (numbers >= counts[:, None])).all(1)
    near = relative.max(1, initial=0) < vector
    kind = np.where(in_a_row, IN_A_ROW, np.where(near, NEAR, FAR))
    return np.stack([low, kind], 1).astype(np.int64), relative.astype(np.int32)


# ---- assembly -----------------------------------------------------------------------------------


class Assembly:
    """One array of indices, put together piece by piece."""

    def __init__(self, index: str) -> None:
        self.index = index
        self._pieces: list[np.ndarray] = []
        self.size = 0

    def add(self, numbers: Any) -> int:
        """Append some; where they begin."""
        at = self.size
        flat = np.asarray(numbers, np.int64).reshape(-1)
        self._pieces.append(np.where(flat == NOWHERE, MISSING[self.index], flat))
        self.size += flat.size
        return at

    def array(self) -> np.ndarray:
        """All of them."""
        pieces = [*self._pieces, np.zeros(1, np.int64)]  # never empty
        return np.ascontiguousarray(np.concatenate(pieces).astype(_NUMPY[self.index]))


def pairs(to: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Entries of an axis: its offsets in the result, each with another number."""
    return np.stack([to, second], 1)
