"""Plans of moves and sums along tables of axes: everything about a call but its pointers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from nnkernels.compile.instance import Instance
from nnkernels.config import gathers as config
from nnkernels.config.gathers import GatherConfig, GatherProblem
from nnkernels.dispatch import axis_picks, axis_tables, machines
from nnkernels.dispatch.axes import (
    INT32_MAX,
    Shape,
    Strides,
    contiguous_strides,
    largest_power_of_two,
    memory_order,
    merge,
)
from nnkernels.dispatch.axis_maps import AxisMap
from nnkernels.dispatch.axis_picks import Picks
from nnkernels.dispatch.axis_tables import Assembly, Segment, Table
from nnkernels.dispatch.dtypes import ELEMENTS, Element, require
from nnkernels.dispatch.gathers import Gather, Geometry, Mapped
from nnkernels.dispatch.packing import Packer, pointer_struct
from nnkernels.dispatch.results import Allocation, check_out, reach

# What counters may overshoot by.
_SLACK = 1 << 20
# Rows shorter than this are joined with the next axis, up to so many elements.
_SHORT_ROW, _LONGEST_JOINED = 256, 16384
# Terms of one element for which code is laid out in a row.
_MOST_UNROLLED = 16
# A mapped row is joined with a copied axis of fewer elements than fill vectors.
_LONGEST_COLUMNS = 1 << 16
# An unsigned type for each size of elements that are only moved.
_MOVED = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64", 16: "complex128"}


class GatherPlan:
    """A launch, and the tables that it looks into."""

    __slots__ = ("allocation", "kept", "pack", "reaches", "start", "tables", "tail")

    def __init__(self, allocation: Allocation) -> None:
        self.allocation = allocation
        self.start: Any = None
        self.tail = b""
        self.kept: list[Any] = []
        self.tables: tuple[int, ...] = ()
        self.pack: Any = None
        self.reaches: list[tuple[int, int]] = []


@dataclass(frozen=True)
class Plain:
    """An axis that is only copied."""

    size: int
    out_stride: int
    in_stride: int


# Of a mapped axis of one element: its first term and the number of them, and its source.
_ONE_TERM = (np.array([0, 1]), np.array([0]))
# Kernels have one at least, so that there are fewer of them.
_ONE = Plain(1, 0, 0)


@dataclass
class _Call:
    """What is known of a call while its plan is made."""

    machine: Any
    found: Element
    x: Any
    out_strides: Strides
    out_shape: Shape
    value: Any
    moves: bool
    plain: list[Plain]
    tables: list[Table]
    alignment: int
    row: Plain | None = None

    @property
    def reaches(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The lowest and the highest byte of the result and of x."""
        return (
            _reach(self.out_shape, self.out_strides, self.found.itemsize),
            reach(self.x),
        )

    def index(self, more: int) -> str:
        """``"i"`` or ``"q"``: what reaches all bytes, rows and entries."""
        largest = max(prod(self.out_shape), more, *(high - low for low, high in self.reaches))
        return "i" if largest + _SLACK <= INT32_MAX else "q"


def _reach(shape: Shape, strides: Strides, itemsize: int) -> tuple[int, int]:
    steps = [stride * (size - 1) for stride, size in zip(strides, shape, strict=True)]
    return sum(s for s in steps if s < 0), sum(s for s in steps if s > 0) + itemsize


def make_plan(gather: Gather, x: Any, machine: Any, alignment: int, out: Any) -> GatherPlan:
    """The plan of a call; with ``out``, for a result that is given."""
    found = require(x.dtype, gather.kinds, gather.name)
    geometry = gather.geometry(x.shape)
    machines.require_aligned(machine, (x,), (gather.name,))
    order = tuple(range(len(geometry.shape)))
    if geometry.keeps_order:
        order = memory_order(x.shape, x.strides)
    plan = GatherPlan(Allocation(geometry.shape, x.dtype, order))
    strides = contiguous_strides(geometry.shape, found.itemsize, order)
    if out is not None:
        check_out(out, "out", geometry.shape, x.dtype)
        machines.require_aligned(machine, (out,), ("out",))
        strides = out.strides
    if 0 not in geometry.shape:
        call = _call(gather, geometry, x, found, strides, machine, alignment)
        _launch(call, plan)
    return plan


def _call(
    gather: Gather,
    geometry: Geometry,
    x: Any,
    found: Element,
    strides: Strides,
    machine: Any,
    alignment: int,
) -> _Call:
    ins, outs = _split(geometry.ins, x.strides), _split(geometry.outs, strides)
    sizes = [n for axis in geometry.ins for n in axis]
    plain = [(sizes[i], outs[o], ins[i]) for i, o in geometry.plain]
    moves = all(m.map.weight is None and m.map.most_terms <= 1 for m in geometry.mapped)
    mapped = geometry.mapped or (Mapped(AxisMap((), (), *_ONE_TERM), (), ()),)
    tables = [
        axis_tables.table_of(m.map, [ins[i] for i in m.ins], [outs[o] for o in m.outs])
        for m in mapped
    ]
    call = _Call(
        machine, found, x, strides, geometry.shape, gather.value, moves, _merged(plain), tables,
        alignment,
    )  # fmt: skip
    # A row lies along a copied axis where that is the innermost of the result.
    steps = [t.step for t in tables if t.size > 1]
    if call.plain and abs(call.plain[-1].out_stride) < min(steps, default=2**62):
        call.row = call.plain.pop()
    return call


def _split(axes: Sequence[Shape], strides: Strides) -> list[int]:
    """Strides of axes that are split."""
    found: list[int] = []
    for sizes, stride in zip(axes, strides, strict=True):
        steps = contiguous_strides(sizes, 1)
        found += [stride * step for step in steps]
    return found


def _merged(plain: list[tuple[int, int, int]]) -> list[Plain]:
    """Copied axes, from the slowest in the result to the fastest, joined where they are one."""
    by_step = sorted(plain, key=lambda axis: -abs(axis[1]))
    if not by_step:
        return []
    sizes, outs, ins = zip(*by_step, strict=True)
    shape, (out_strides, in_strides) = merge(sizes, (outs, ins))
    found = [Plain(*axis) for axis in zip(shape, out_strides, in_strides, strict=True)]
    return [axis for axis in found if axis.size > 1]


def _problem(call: _Call) -> GatherProblem:
    row = call.row or Plain(1, call.found.itemsize, call.found.itemsize)
    others = [n for axis in call.plain for n in (axis.out_stride, axis.in_stride)]
    for table in call.tables:
        others += [int(np.gcd.reduce(table.to)), int(np.gcd.reduce(table.source, initial=0))]
    return GatherProblem(
        itemsize=call.found.itemsize,
        compute_itemsize=call.found.itemsize if call.moves else call.found.compute_itemsize,
        rows=prod(a.size for a in call.plain) * prod(t.size for t in call.tables),
        row=row.size,
        moves=call.moves,
        unit_out=row.out_stride == call.found.itemsize,
        unit_in=row.in_stride == call.found.itemsize,
        alignment=largest_power_of_two(call.alignment, *others),
        traffic=(call.x.size + prod(call.out_shape)) * call.found.itemsize,
    )


def _launch(call: _Call, plan: GatherPlan) -> None:
    chosen = config.configure(_problem(call), call.machine.device)
    if chosen.kernel == "MoveRows":
        _move_rows(call, plan, chosen)
    elif chosen.kernel == "ResampleRows":
        _resample_rows(call, plan, chosen)
    else:
        _gather(call, plan, chosen)


# ---- pieces of arguments ------------------------------------------------------------------------


def _pack_reaches(packer: Packer, call: _Call) -> None:
    for low, high in call.reaches:
        packer.add_index(low, high - low)


def _pack_outer(
    packer: Packer, plain: Sequence[Plain], tables: Sequence[Table], firsts: Sequence[int]
) -> None:
    """The struct OuterAxes, which aligns as its widest member."""
    packer.align(8 if packer.index == "q" else 4)
    packer.add_divisors(p.size for p in plain)
    packer.add_index(*(p.out_stride for p in plain))
    packer.add_index(*(p.in_stride for p in plain))
    packer.add_divisors([t.size for t in tables] or [1])
    packer.add_index(*(firsts or [0]))


def _add_fill(packer: Packer, call: _Call) -> None:
    kind = _MOVED[call.found.itemsize]
    bits = np.asarray(call.value).astype(call.x.dtype).reshape(1)
    packer.add_scalars(kind, bits.view(kind).tolist())


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _cpp_index(index: str) -> str:
    return "int32" if index == "i" else "int64"


def _finish(
    call: _Call,
    plan: GatherPlan,
    instance: Instance,
    items: int,
    tile: int,
    arrays: Sequence[np.ndarray],
    packer: Packer,
    scratch: int = 0,
) -> None:
    plan.kept, addresses = [], []
    for array in arrays:
        kept, address = _uploaded(call.machine, array)
        plan.kept.append(kept)
        addresses.append(address)
    plan.tables = tuple(addresses)
    plan.pack = pointer_struct(2 + len(arrays)).pack
    plan.tail = packer.finish()
    terms = max(1, *(t.source.size // t.size for t in call.tables))
    traffic = (1 + terms) * call.found.itemsize * prod(call.out_shape)
    plan.start = call.machine.prepare(instance, -(-items // tile), scratch, traffic)


def _uploaded(machine: Any, array: np.ndarray) -> tuple[Any, int]:
    """A table where the kernels of a machine can read it, and its address."""
    place = machine.empty(array.shape, array.dtype)
    if isinstance(place, np.ndarray):
        return array, machines.numpy_address(array)
    with place.device as device:
        place.set(array)
        # Calls on any stream will read it: wait for the copy, once for a plan.
        device.synchronize()
    return place, machines.cupy_address(place)


# ---- the kernels --------------------------------------------------------------------------------


def _gather(call: _Call, plan: GatherPlan, chosen: GatherConfig) -> None:
    """`GatherMove` or `GatherSum`: all mapped axes outside of the row."""
    size = call.found.itemsize
    row = call.row or Plain(1, size, size)
    tables = call.tables
    if call.moves:  # any order will do: that of memory
        tables = sorted(tables, key=lambda t: -t.step if t.size > 1 else -(2**62))
    index = call.index(sum(t.size + t.source.size + 2 for t in tables) * 2)
    entries, sources = Assembly(index), Assembly(index)
    firsts, weights = [], []
    for table in tables:
        if call.moves:
            second = axis_tables.single_sources(table)
            firsts.append(entries.add(axis_tables.pairs(table.to, second)))
        else:
            firsts.append(_add_entries(entries, sources, table))
            weights.append(_weights(table))
    row_vectors = -(-row.size // chosen.vector)
    vectors = prod(a.size for a in call.plain) * prod(t.size for t in tables) * row_vectors
    tile = max(chosen.tile // chosen.vector, chosen.threads)
    packer = Packer(3 if call.moves else 5, index)
    packer.add("q", vectors, tile)
    packer.add_index(row.size, row_vectors, row.out_stride, row.in_stride, entries.size)
    _pack_reaches(packer, call)
    packer.add_divisor(row_vectors)
    plain = call.plain or [_ONE]
    _pack_outer(packer, plain, tables, firsts)
    units = f"{_bool(row.out_stride == size)}, {_bool(row.in_stride == size)}"
    axes = f"{len(plain)}, {len(tables)}, {_cpp_index(index)}"
    arrays = [entries.array()]
    if call.moves:
        _add_fill(packer, call)
        element = ELEMENTS[_MOVED[size]].storage
        kernel = f"GatherMove<{element}, {chosen.vector}, {chosen.unroll}, {axes}, {units}>"
        header = "gather_move"
    else:
        arrays += [sources.array(), _scalars(call, weights)]
        weighted = _bool(_is_weighted(call))
        element = f"{call.found.storage}, {call.found.compute}"
        kernel = (
            f"GatherSum<{element}, {chosen.vector}, {axes}, {weighted}, {_terms(tables)}, {units}>"
        )
        header = "gather_sum"
    instance = Instance(header, kernel, chosen.threads)
    _finish(call, plan, instance, vectors, tile, arrays, packer)


def _add_entries(entries: Assembly, sources: Assembly, table: Table) -> int:
    """Offsets with the number of the first term, and one entry more."""
    first = sources.add(table.source)
    to = np.concatenate([table.to, [0]])
    return entries.add(axis_tables.pairs(to, table.begin + first))


def _terms(tables: Sequence[Table]) -> int:
    """How many terms every element has along every axis; 0 if they differ, or are too many."""
    counts = {int(n) for table in tables for n in np.unique(np.diff(table.begin))}
    if len(counts) != 1:
        return 0
    (count,) = counts
    return count if count ** len(tables) <= _MOST_UNROLLED else 0


def _is_weighted(call: _Call) -> bool:
    return any(t.weight is not None for t in call.tables)


def _weights(table: Table) -> np.ndarray:
    return np.ones(table.source.size) if table.weight is None else table.weight


def _scalars(call: _Call, weights: Sequence[np.ndarray]) -> np.ndarray:
    """Weights in the computing type; one number where there are none."""
    if not _is_weighted(call):
        return np.zeros(1, call.found.compute_name)
    return np.concatenate([*weights, np.zeros(1)]).astype(call.found.compute_name)


def _move_rows(call: _Call, plan: GatherPlan, chosen: GatherConfig) -> None:
    size = call.found.itemsize
    mapped = [(t.to, axis_tables.single_sources(t)) for t in call.tables]
    mapped.sort(key=lambda t: -_smallest_step(t[0]))
    plain = list(call.plain)
    if call.row is not None:
        steps = np.arange(call.row.size, dtype=np.int64)
        to, source = steps * call.row.out_stride, steps * call.row.in_stride
        if call.row.size > _LONGEST_JOINED:
            return _move_long_rows(call, plan, chosen, mapped)
    else:
        to, source = mapped.pop()
    while to.size < _SHORT_ROW and (plain or mapped):
        # The slower axis that is the next one in the result.
        from_plain = plain and (
            not mapped or abs(plain[-1].out_stride) < _smallest_step(mapped[-1][0])
        )
        if (plain[-1].size if from_plain else mapped[-1][0].size) * to.size > _LONGEST_JOINED:
            break
        if from_plain:
            axis = plain.pop()
            steps = np.arange(axis.size, dtype=np.int64)
            slow = steps * axis.out_stride, steps * axis.in_stride
        else:
            slow = mapped.pop()
        to = axis_tables.crossed(slow[0], to)
        source = axis_tables.crossed(slow[1], source, marked=True)
    unit = size in np.diff(to)
    out_step = size if unit or to.size == 1 else int(to[1] - to[0])
    found, _ = axis_tables.segments(to, source, out_step, _LONGEST_JOINED, chosen.vector)
    found, picked = axis_picks.cheapest(
        found, source, out_step, chosen.vector, size, chosen.cycles, _LONGEST_JOINED
    )
    gathered = source if any(s.gathered >= 0 for s in found) else None
    _finish_rows(call, plan, chosen, plain, mapped, found, gathered, picked, out_step)
    return None


def _move_long_rows(call: _Call, plan: GatherPlan, chosen: GatherConfig, mapped: list[Any]) -> None:
    """A long row that is only copied, in pieces: no table of all its elements is needed."""
    row = call.row
    assert row is not None
    pieces = [
        Segment(
            a * row.out_stride, a * row.in_stride, min(row.size - a, _LONGEST_JOINED), row.in_stride
        )
        for a in range(0, row.size, _LONGEST_JOINED)
    ]
    _finish_rows(call, plan, chosen, call.plain, mapped, pieces, None, (), row.out_stride)


def _smallest_step(to: np.ndarray) -> int:
    return int(np.abs(np.diff(to)).min(initial=2**62))


def _finish_rows(
    call: _Call,
    plan: GatherPlan,
    chosen: GatherConfig,
    plain: Sequence[Plain],
    mapped: Sequence[tuple[np.ndarray, np.ndarray]],
    segments: Sequence[Segment],
    gathered: np.ndarray | None,
    picked: Sequence[Picks],
    out_step: int,
) -> None:
    size = call.found.itemsize
    plain = plain or [_ONE]
    elements = sum(s.count for s in segments)
    index = call.index(7 * len(segments) + 2 * sum(m[0].size for m in mapped) + 3 * elements)
    table = Assembly(index)
    firsts = [table.add(axis_tables.pairs(to, source)) for to, source in mapped]
    base = 0 if gathered is None else table.add(gathered)
    registers = table.size
    for picks in picked:
        table.add(picks.registers)
    at = table.add(
        [
            (s.to, s.source, s.count, s.step, s.gathered + base if s.gathered >= 0 else -1, s.pairs,
             s.first_pair)
            for s in segments
        ]
    )  # fmt: skip
    lanes = np.concatenate([*(p.lanes.reshape(-1) for p in picked), np.zeros(1, np.int8)])
    items = prod(p.size for p in plain) * prod(m[0].size for m in mapped) * len(segments)
    tile = max(1, chosen.tile * len(segments) // elements)
    packer = Packer(4, index)
    packer.add("q", items, tile)
    packer.add_index(len(segments), at, registers, out_step)
    packer.add_divisor(len(segments))
    axes = [Table(to, to, source, None) for to, source in mapped]
    _pack_outer(packer, plain, axes, firsts)
    _add_fill(packer, call)
    element = ELEMENTS[_MOVED[size]].storage
    vector = max(chosen.vector, 1)
    streaming = (
        chosen.streaming
        and out_step == size
        and gathered is None
        and _are_whole(plain, mapped, segments, vector, size)
    )
    kernel = (
        f"MoveRows<{element}, {vector}, {len(plain)}, {len(mapped)}, "
        f"{_cpp_index(index)}, {_bool(out_step == size)}{', true' if streaming else ''}>"
    )
    arrays = [table.array(), lanes]
    _finish(call, plan, Instance("move_rows", kernel, 1), items, tile, arrays, packer)


def _are_whole(
    plain: Sequence[Plain],
    mapped: Sequence[tuple[np.ndarray, np.ndarray]],
    segments: Sequence[Segment],
    vector: int,
    size: int,
) -> bool:
    """Whether all segments are whole vectors, at multiples of them from the first element on."""
    places = [*(p.out_stride for p in plain if p.size > 1), *(s.to for s in segments)]
    places += [int(np.gcd.reduce(to)) for to, _ in mapped]
    whole = all(place % (vector * size) == 0 for place in places)
    return whole and all(s.count % vector == 0 for s in segments)


def _resample_rows(call: _Call, plan: GatherPlan, chosen: GatherConfig) -> None:
    size = call.found.itemsize
    *outer, last = call.tables
    plain, in_stride = list(call.plain), None
    if call.row is not None:
        row = call.row
        if row.size * last.size <= _LONGEST_COLUMNS:
            last = axis_tables.with_plain(last, row.size, row.out_stride, row.in_stride)
            in_stride = row.in_stride
        else:
            plain.append(row)
    plain = plain or [_ONE]
    in_step = abs(in_stride) if in_stride else _common_step(last.source, size)
    unit = last.size == 1 or size in np.diff(last.to)
    out_step = size if unit else int(last.to[1] - last.to[0])
    rows = axis_tables.row_tables(
        last, chosen.vector, in_step, out_step, chosen.part, chosen.columns
    )
    index = call.index(sum(t.size + t.source.size for t in call.tables) * 8)
    table, sources = Assembly(index), Assembly(index)
    firsts = [_add_entries(table, sources, t) for t in outer]
    places = [table.add(part) for part in (rows.parts, rows.runs, rows.groups, rows.terms)]
    parts = len(rows.parts)
    items = prod(p.size for p in plain) * prod(t.size for t in outer) * parts
    tile = max(1, chosen.tile * parts // last.size)
    packer = Packer(7, index)
    packer.add("q", items, tile)
    packer.add_index(parts, *places, out_step, in_step)
    packer.add("i", rows.columns + 2 * chosen.vector)
    packer.add_divisor(parts)
    _pack_outer(packer, plain, outer, firsts)
    arrays = [
        table.array(),
        sources.array(),
        _scalars(call, [_weights(t) for t in outer]),
        np.ascontiguousarray(np.concatenate([rows.lanes.reshape(-1), np.zeros(1, np.int32)])),
        _scalars(call, [rows.weights.reshape(-1)]),
    ]
    kernel = (
        f"ResampleRows<{call.found.storage}, {call.found.compute}, {chosen.vector}, {len(plain)}, "
        f"{len(outer)}, {_cpp_index(index)}, {_bool(_is_weighted(call))}, {_terms(outer)}, "
        f"{_bool(out_step == size)}, {_bool(in_step == size)}>"
    )
    scratch = (rows.columns + 2 * chosen.vector) * call.found.compute_itemsize
    instance = Instance("resample_rows", kernel, 1)
    _finish(call, plan, instance, items, tile, arrays, packer, scratch)


def _common_step(source: np.ndarray, size: int) -> int:
    """The usual distance in x from one element that is needed to the next."""
    steps = np.diff(np.unique(source))
    if steps.size == 0 or size in steps:
        return size
    values, counts = np.unique(steps, return_counts=True)
    return int(values[np.argmax(counts)])
