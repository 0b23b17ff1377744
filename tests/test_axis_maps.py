"""Maps of axes, the tables made of them, and which kernel looks into them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples, make_numbers

import nnkernels as nnk
from nnkernels.config import gathers as config
from nnkernels.config.device import PROFILES
from nnkernels.config.gathers import GatherProblem
from nnkernels.dispatch import axis_maps, axis_picks, axis_tables
from nnkernels.dispatch.axis_tables import Table
from nnkernels.dispatch.windows import Windows

MODES = ("constant", "edge", "reflect", "symmetric", "wrap")


def all_maps():
    """Maps of every kind and of many sizes."""
    for mode in MODES:
        for size, low, high in ((2, 0, 1), (5, 3, 4), (5, 13, 27), (7, 0, 0), (3, 1000, 1)):
            yield axis_maps.padding(size, low, high, mode)
    for size, kernel, stride, padding, dilation in (
        (7, 3, 1, 1, 1), (9, 2, 3, ((4, 0),), 2), (4, 4, 1, 0, 1), (20, 3, 5, 2, 3),
    ):  # fmt: skip
        windows = Windows.checked(1, kernel, stride, padding, dilation)
        yield axis_maps.windows(windows.axes((size,))[0])
    for mode in ("nearest", "linear", "cubic"):
        for size, out in ((7, 7), (7, 14), (14, 7), (1, 5), (5, 1), (3, 100), (200, 60), (11, 13)):
            for align in (False, True)[: 1 if mode == "nearest" else 2]:
                yield axis_maps.resampling(mode, size, out, None, align)
        yield axis_maps.resampling(mode, 10, 17, 1.75, False)


MAPS = list(all_maps())


def test_the_gradient_is_the_transpose():
    for axis_map in MAPS:
        back = axis_map.transposed()
        assert np.array_equal(back.matrix(), axis_map.matrix().T)
        assert back.source.size == axis_map.source.size
        # In the order of the results that give back.
        for a, b in zip(back.begin[:-1], back.begin[1:], strict=True):
            assert np.all(np.diff(back.source[a:b]) >= 0)


def test_sums_of_weights():
    # A constant stays what it is; edges and the parts between two elements alike.
    for axis_map in MAPS:
        if axis_map.weight is not None:
            assert np.allclose(axis_map.matrix().sum(1), 1, rtol=0, atol=1e-14)


@pytest.mark.parametrize("mode", MODES)
def test_padding_is_that_of_numpy(mode):
    for size in range(2, 6):
        for low in range(0, 14, 3):
            for high in range(0, 14, 4):
                x = np.arange(1.0, size + 1)
                wanted = np.pad(x, (low, high), mode)
                assert np.array_equal(axis_maps.padding(size, low, high, mode).matrix() @ x, wanted)


def test_nearest_is_exact():
    # p * (size / out) falls below the whole number for some: in float32, and for others in float64.
    for size, out in ((2, 82), (14, 166), (54, 98), (10, 3)):
        source = axis_maps.nearest(size, out, None).source
        assert source.tolist() == [p * size // out for p in range(out)]


# ---- tables --------------------------------------------------------------------------------------


def table_of(axis_map, in_step=4, out_step=4):
    sizes = axis_map.inputs
    ins = tuple(in_step * int(np.prod(sizes[i + 1 :])) for i in range(len(sizes)))
    outs = (out_step * 50, out_step)[-len(axis_map.outputs) :]
    return axis_tables.table_of(axis_map, ins, outs)


@given(st.integers(0, 10**6), st.sampled_from([3, 1000]))
@examples(3)
def test_segments_are_the_row(seed, longest):
    """Any row, put together again from its segments: in runs, mirrored, with gaps and repeats."""
    generator = np.random.default_rng(seed)
    pieces = []
    for _ in range(generator.integers(1, 6)):
        count = int(generator.integers(1, 9))
        start, step = generator.integers(-50, 50), generator.integers(-2, 3)
        piece = 4 * (start + step * np.arange(count))
        if generator.random() < 0.3:
            piece = np.full(count, axis_tables.NOWHERE)
        if generator.random() < 0.2:
            piece = 4 * generator.integers(-50, 50, 3 * count)
        pieces.append(piece)
    source = np.concatenate(pieces)
    to = 4 * np.arange(source.size)
    to[generator.integers(0, source.size + 1) :] += 40  # the row goes on elsewhere
    found, gathered = axis_tables.segments(to, source, 4, longest)
    again_to, again_source = [], []
    for s in found:
        assert 1 <= s.count <= longest
        steps = np.arange(s.count)
        again_to += (s.to + 4 * steps).tolist()
        if s.gathered >= 0:
            assert gathered
            again_source += source[s.gathered : s.gathered + s.count].tolist()
        else:
            gone = s.source == axis_tables.NOWHERE
            again_source += [s.source] * s.count if gone else (s.source + s.step * steps).tolist()
    assert again_to == to.tolist()
    assert again_source == source.tolist()


@given(
    st.integers(0, 10**6), st.sampled_from([4, 16, 64]), st.sampled_from([1, 4, 8]),
    st.sampled_from([0.0, 0.5, 0.02]),
)  # fmt: skip
@examples(20)
def test_picked_vectors_are_the_row(seed, vector, size, share):
    """Any row, put together again from registers that lie within x; those of many places are not
    picked.
    """
    generator = np.random.default_rng(seed)
    count = int(generator.integers(1, 3 * vector))
    runs = generator.random(count) < share  # elements at which others begin
    start = generator.integers(0, 40, count)
    source = np.cumsum(np.where(runs, generator.integers(-40, 40, count), 1)) + start[0]
    source = source - source.min()
    extent = int(source.max()) + int(generator.integers(0, 2 * vector))
    source = np.where(generator.random(count) < 0.1, axis_tables.NOWHERE, size * source)
    found = axis_picks.picks(source, vector, size, (0, size * extent))
    if extent < vector - 1:
        assert found is None
        return
    if found is None:
        assert share > 0
        return
    heads = [*range(0, count - vector, vector), max(count - vector, 0)]
    assert found.lanes.shape == (len(heads), found.pairs, vector)
    for head, registers, lanes in zip(heads, found.registers, found.lanes, strict=True):
        assert np.all((registers >= 0) & (registers + size * (vector - 1) <= size * extent))
        again = np.full(vector, axis_tables.NOWHERE)
        for (low, high), lane in zip(registers, lanes, strict=True):
            ends = np.concatenate([low + size * np.arange(vector), high + size * np.arange(vector)])
            assert np.all(again[lane >= 0] == axis_tables.NOWHERE)  # each is picked once
            again[lane >= 0] = ends[lane[lane >= 0]]
        there = source[head : head + vector]
        assert np.array_equal(again[: there.size], there)
        assert np.all(again[there.size :] == axis_tables.NOWHERE)


def test_what_is_picked():
    """Short rows one after the other, but neither long ones nor elements far from each other."""
    cycles = config.MoveCycles(55, 6)

    def cut(row, low, high, mode, rows=9):
        table = table_of(axis_maps.padding(row, low, high, mode))
        single = axis_tables.single_sources(table)
        source = axis_tables.crossed(4 * row * np.arange(rows), single, marked=True)
        to = 4 * np.arange(source.size)
        segments, _ = axis_tables.segments(to, source, 4, 10**6, 16)
        return axis_picks.cheapest(segments, source, 4, 16, 4, cycles, 10**6)

    for mode in MODES:
        (segment,), (picks,) = cut(8, 1, 1, mode)
        assert (segment.count, segment.pairs, segment.first_pair) == (90, picks.pairs, 0)
        assert picks.pairs == 1
        # The other end of a row, which is no neighbour, is a third place.
        assert cut(20, 1, 1, mode)[1][0].pairs == (2 if mode == "wrap" else 1)
        assert not cut(5000, 3, 4, mode)[1]
    # The result goes on elsewhere: a piece for each, and pairs that are numbered through both.
    source = np.tile(4 * np.concatenate([np.arange(40)[::-1], np.arange(40)]), 2)
    to = 4 * np.arange(160) + np.repeat([0, 400], 80)
    segments, _ = axis_tables.segments(to, source, 4, 10**6, 16)
    found, picked = axis_picks.cheapest(segments, source, 4, 16, 4, cycles, 10**6)
    assert [(s.to, s.count, s.first_pair) for s in found] == [(0, 80, 0), (720, 80, 5)]
    assert [p.lanes.shape for p in picked] == [(5, 1, 16)] * 2
    # So does one that is longer than a segment may be.
    whole, _ = axis_tables.segments(4 * np.arange(160), source, 4, 40, 16)
    found, _ = axis_picks.cheapest(whole, source, 4, 16, 4, cycles, 80)
    assert [(s.to, s.count, s.first_pair) for s in found] == [(0, 80, 0), (320, 80, 5)]
    far = np.random.default_rng(0).permutation(5000)[:640] * 4
    segments, _ = axis_tables.segments(4 * np.arange(640), far, 4, 10**6, 16)
    assert axis_picks.cheapest(segments, far, 4, 16, 4, cycles, 10**6) == (segments, [])
    nothing = np.full(40, axis_tables.NOWHERE)
    segments, _ = axis_tables.segments(4 * np.arange(40), nothing, 4, 10**6, 16)
    assert axis_picks.cheapest(segments, nothing, 4, 16, 4, cycles, 10**6) == (segments, [])


def test_segments_are_few():
    def count(axis_map):
        table = table_of(axis_map)
        source = axis_tables.single_sources(table)
        return len(axis_tables.segments(table.to, source, 4, 10**6)[0])

    for mode in MODES:
        assert count(axis_maps.padding(100, 3, 4, mode)) <= 4
    windows = Windows.checked(1, 3, 1, 1, 1).axes((100,))
    assert count(axis_maps.windows(windows[0])) <= 5
    assert count(axis_maps.nearest(50, 100, None)) == 1  # by offsets


@pytest.mark.parametrize("vector", [4, 16])
def test_rows_are_their_maps(vector):
    """The matrix again from the tables of a row: every term once, in its order."""
    kinds = set()
    for axis_map in MAPS:
        for part, most in ((4096, 10**6), (40, 24)):
            table = table_of(axis_map)
            rows = axis_tables.row_tables(table, vector, 4, 4, part, most)
            place = {int(t): i for i, t in enumerate(table.to)}
            terms = [[] for _ in range(table.size)]
            for first_run, last_run, first_group, last_group in rows.parts:
                columns = {}
                for start, column, count in rows.runs[first_run:last_run]:
                    for i in range(count):
                        columns[int(column) + i] = int(start) + 4 * i
                assert len(columns) <= rows.columns
                for g in range(first_group, last_group):
                    to, count, first_term = rows.groups[g]
                    for v in range(first_term, rows.groups[g + 1][2]):
                        first, kind = rows.terms[v]
                        kinds.add(int(kind))
                        for lane in range(count):
                            column = lane if kind == axis_tables.IN_A_ROW else rows.lanes[v, lane]
                            if column >= 0:
                                assert kind != axis_tables.NEAR or column < vector
                                source = columns[int(first + column)]
                                weight = rows.weights[v, lane]
                                terms[place[int(to) + 4 * lane]].append((source, weight))
            weights = table.weight if table.weight is not None else np.ones(table.source.size)
            for p in range(table.size):
                of_p = slice(table.begin[p], table.begin[p + 1])
                pairs = zip(table.source[of_p].tolist(), weights[of_p].tolist(), strict=True)
                assert terms[p] == list(pairs)
    assert kinds == {axis_tables.IN_A_ROW, axis_tables.NEAR, axis_tables.FAR}


def test_a_copied_axis_joins():
    for axis_map in MAPS[::5]:
        table = table_of(axis_map, 12, 12)
        joined = axis_tables.with_plain(table, 3, 4, 4)
        whole = Table(joined.to // 4, joined.begin, joined.source // 4, joined.weight)
        assert np.array_equal(whole.to[::3] * 4, table.to)
        counts = np.repeat(np.diff(table.begin), 3)
        assert np.array_equal(np.diff(joined.begin), counts)
        for p in range(table.size):
            for c in range(3):
                a, b = joined.begin[3 * p + c], joined.begin[3 * p + c + 1]
                wanted = table.source[table.begin[p] : table.begin[p + 1]] + 4 * c
                assert np.array_equal(joined.source[a:b], wanted)


# ---- configurations ------------------------------------------------------------------------------


def problem(**changes):
    fields = {
        "itemsize": 4, "compute_itemsize": 4, "rows": 10**6, "row": 64, "moves": False,
        "unit_out": True, "unit_in": True, "alignment": 16,
    }  # fmt: skip
    return GatherProblem(**fields | changes)


def test_vectors_of_a_gpu():
    device = PROFILES["sm_90"]
    assert config.configure(problem(), device).vector == 4
    assert config.configure(problem(itemsize=2), device).vector == 8
    assert config.configure(problem(itemsize=1, row=20), device).vector == 4
    assert config.configure(problem(alignment=8), device).vector == 2
    assert config.configure(problem(unit_in=False), device).vector == 1
    assert config.configure(problem(unit_out=False), device).vector == 1
    assert config.configure(problem(row=1), device).vector == 1
    assert config.configure(problem(row=7), device).vector == 1
    large, small = (config.configure(problem(moves=True, rows=n), device) for n in (10**6, 100))
    assert (large.kernel, large.unroll, small.unroll) == ("GatherMove", 4, 1)
    assert config.configure(problem(), device).kernel == "GatherSum"


def test_kernels_of_a_cpu(cpu):
    device = cpu.device
    lanes = device.vector_bytes // 4
    moved = config.configure(problem(moves=True, rows=10), device)
    assert (moved.kernel, moved.along_plain) == ("MoveRows", True)
    assert config.configure(problem(row=1), device).kernel == "ResampleRows"
    assert config.configure(problem(row=31), device).kernel == "ResampleRows"
    along = config.configure(problem(row=32), device)
    assert (along.kernel, along.vector % lanes) == ("GatherSum", 0)
    assert config.configure(problem(row=1000), device).vector > lanes


IMAGE = (2, 64, 6, 40)


def test_kernels_that_run(kernels, cpu):
    x = make_numbers(np.random.default_rng(0), IMAGE, "float32")
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    few = np.moveaxis(np.ascontiguousarray(np.moveaxis(x[:, :3], 1, -1)), -1, 1)
    sides = ((0, 0), (0, 0), (1, 1), (1, 1))
    for call, name in (
        (lambda: nnk.pad(x, 1), "MoveRows"),
        (lambda: nnk.pad(last, 1, mode="edge"), "MoveRows"),
        (lambda: nnk.interpolate(x, (9, 50)), "MoveRows"),
        (lambda: nnk.interpolate(x, (9, 50), mode="linear"), "ResampleRows"),
        (lambda: nnk.interpolate(last, (9, 50), mode="linear"), "GatherSum"),
        (lambda: nnk.interpolate(few, (9, 50), mode="linear"), "ResampleRows"),
        (
            lambda: nnk.pad_backward(x, sides, mode="edge"),
            "ResampleRows",
        ),
        # What is only cut off is moved, and so are windows that do not overlap.
        (lambda: nnk.pad_backward(x, sides), "MoveRows"),
        (lambda: nnk.fold(x[0], (80,), 2, stride=2), "MoveRows"),
        (lambda: nnk.fold(x[0], (41,), 2), "ResampleRows"),
    ):
        kernels.clear()
        call()
        assert kernels == [name]


@pytest.fixture
def small_caches(cpu, monkeypatch):
    """The templates that calls ask for, on a CPU whose caches hold nothing."""
    machine, found = cpu.machine, []

    def prepare(instance, *others, original=machine.prepare):
        found.append(instance.kernel)
        return original(instance, *others)

    monkeypatch.setattr(machine, "prepare", prepare)
    monkeypatch.setattr(machine, "device", replace(machine.device, cache_bytes=1))
    machine.plans.clear()
    yield found
    machine.plans.clear()


def test_whole_vectors_of_large_results_go_past_the_caches(small_caches, cpu):
    lanes = cpu.device.vector_bytes // 4
    generator = np.random.default_rng(1)
    for channels, past in ((lanes, True), (3 * lanes, True), (lanes + 1, False)):
        x = make_numbers(generator, (2, 4 * channels, 3, 5), "float32")
        last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
        wanted = np.ascontiguousarray(nnk.pixel_shuffle(x, 2))
        small_caches.clear()
        y = nnk.pixel_shuffle(last, 2)
        assert [name.endswith(", true, true>") for name in small_caches] == [past]
        assert np.array_equal(y, wanted)
        # Memory that begins between two vectors.
        memory = np.zeros(y.size + 1, np.float32)
        out = np.moveaxis(memory[1:].reshape(2, 6, 10, channels), -1, 1)
        nnk.pixel_shuffle(last, 2, out=out)
        assert np.array_equal(out, wanted)
        assert memory[0] == 0
    # Nor do parts of vectors, nor what is gathered, nor results that the caches hold.
    small_caches.clear()
    nnk.pad(make_numbers(generator, (4, 2 * lanes), "float32"), 1)
    x = make_numbers(generator, (1, 1, 4, 312 * lanes), "float32")
    assert np.array_equal(nnk.interpolate(x, (4, 16 * lanes))[..., ::2], x[..., ::39])
    assert not any(name.endswith(", true, true>") for name in small_caches)
    # Whole vectors that are picked do.
    small_caches.clear()
    nnk.pixel_shuffle(make_numbers(generator, (1, 16, lanes, lanes), "float32"), 2)
    assert small_caches[0].endswith(", true, true>") == (lanes == 16)
    large = problem(moves=True, traffic=10**9)
    assert config.configure(large, cpu.device).streaming
    roomy = replace(cpu.device, cache_bytes=10**9 + 1)
    assert not config.configure(large, roomy).streaming
    assert not config.configure(large, PROFILES["sm_90"]).streaming


@pytest.mark.parametrize("dtype", ["float32", "uint8", "float64"])
def test_every_nth_element(dtype, cpu):
    """Steps of which each has code of its own, and those that none has; parts of vectors, too."""
    for step in (1, 2, 3, 4, 5):
        for size in (1, 7, 16, 75, 130):
            x = make_numbers(np.random.default_rng(step), (3, size * step), dtype)
            y = nnk.interpolate(x[None, None], (3, size))
            assert np.array_equal(y[0, 0], x[:, ::step])
            backwards = x[:, ::-1]
            y = nnk.interpolate(backwards[None, None], (3, size))
            assert np.array_equal(y[0, 0], backwards[:, ::step])
