"""Pooling on a CPU of windows that are large, or that overlap much: which kernels run, and bits."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from comparing import assert_close, assert_same_bits, assert_same_numbers
from layouts import channels_last
from pools import expected, image
from threads import same_on_any_threads

import nnkernels as nnk
from nnkernels.config import pool as config
from nnkernels.config import pool_crowded
from nnkernels.config.device import PROFILES
from nnkernels.dispatch.machines import cpu_machine
from nnkernels.dispatch.pool_plan import five_strides, three_axes
from nnkernels.dispatch.windows import Windows


def backwards(x):
    """The same array, of which channels and the last axis run backwards in memory."""
    return np.ascontiguousarray(x[:, ::-1, ..., ::-1])[:, ::-1, ..., ::-1]


def every_other(x):
    """The same array with gaps between the elements of a row."""
    return np.repeat(x, 2, axis=-1)[..., ::2]


LAYOUTS = (np.ascontiguousarray, channels_last, backwards)


@pytest.fixture
def plans():
    """No plans of other tests before, and none of this one afterwards."""
    cpu_machine().plans.clear()
    yield cpu_machine().plans
    cpu_machine().plans.clear()


# Shapes, and options of windows.
OVERLAPPING = (
    ((2, 3, 9, 12), {"kernel_size": 3, "stride": 1, "padding": 1}),
    ((2, 20, 9, 40), {"kernel_size": 5, "stride": 1, "padding": 2}),
    ((1, 37, 40), {"kernel_size": 4, "stride": 2, "padding": 2, "dilation": 2}),
    ((1, 5, 4, 6, 40), {"kernel_size": 3, "stride": (1, 2, 1), "padding": 1}),
    ((1, 17, 20, 30), {"kernel_size": 5, "stride": (2, 1), "padding": ((1, 0), (4, 9))}),
    ((2, 3, 9, 12), {"kernel_size": 3, "stride": 1, "padding": 8}),
)


# ---- gradients of maxima ---------------------------------------------------------------------


def test_scattering_gives_the_bits_of_gathering(cpu, plans, monkeypatch):
    """In one band, and in bands of a few rows or depths; in dx itself, and in scratch memory."""
    generator = np.random.default_rng(1)
    known = cpu.machine.device
    bands = set()
    in_place = pool_crowded._sums_in_place

    def scattered(*arguments, original=pool_crowded.configure_scatter):
        chosen = original(*arguments)
        bands.add(None if chosen is None else (chosen.bands != (1, 1), chosen.direct))
        return chosen

    monkeypatch.setattr(pool_crowded, "configure_scatter", scattered)
    monkeypatch.setattr(pool_crowded, "_VISITS", 9)
    monkeypatch.setattr(pool_crowded, "_SAVING", 10**9)  # fewer kernels

    def gradients(dy, x, options):
        whole = known.shared_limit
        for gathers, room, direct in (
            (True, whole, in_place),
            (False, whole, in_place),
            (False, 12288, in_place),
            (False, 12288, lambda *problem: False),
        ):
            monkeypatch.setattr(pool_crowded, "gathers", lambda *problem, found=gathers: found)
            monkeypatch.setattr(pool_crowded, "_sums_in_place", direct)
            monkeypatch.setattr(cpu.machine, "device", replace(known, shared_limit=room))
            plans.clear()
            yield nnk.max_pool_backward(dy, x, **options)

    def body():
        for (shape, options), layout in product(OVERLAPPING, LAYOUTS[:2]):
            narrow = shape == OVERLAPPING[1][0] and layout is channels_last
            for dtype in ("float32", "float16") if narrow else ("float32",):
                x = layout(image(generator, shape, dtype, ties=True))
                dy = image(generator, expected("max_pool", x, **options).shape, dtype)
                gathered, *others = gradients(dy, x, options)
                if cpu.recording:
                    continue
                right = expected("max_pool_backward", dy, x, **options)
                assert_close(gathered, right, 25, what=str(options))
                for dx in others:
                    assert_same_bits(dx, gathered, f"{shape} {options}")

    cpu.precompiled(body)
    assert bands == {None, *product((False, True), repeat=2)}


def test_sums_in_dx_stay_within_it(cpu, plans, monkeypatch):
    """Planes that are no multiple of a vector, of which a thread has some, and their neighbours."""
    monkeypatch.setattr(pool_crowded, "gathers", lambda *problem: False)
    generator = np.random.default_rng(7)
    for layout, planes in product(LAYOUTS[:2], (3, 37)):
        x = layout(image(generator, (4, planes, 7, 5), ties=True))
        y, taps = nnk.max_pool(x, 3, stride=2, return_indices="taps")
        dy = layout(image(generator, y.shape))
        dx = nnk.max_pool_backward(dy, x, 3, stride=2, taps=taps)
        # The last images but one, between others that have been written.
        around = layout(np.full(x.shape, 7, np.float32))
        some = slice(1, 3)
        nnk.max_pool_backward(
            dy[some], x[some], 3, stride=2, taps=taps[some], out=around[some]
        )  # fmt: skip
        assert_same_bits(around[some], dx[some], f"{planes} planes")
        assert np.all(around[::3] == 7)
        # What is no tap of a window goes nowhere, whatever it is.
        taps[0], dy[0] = 255, np.nan
        dx[0] = 0
        again = nnk.max_pool_backward(dy, x, 3, stride=2, taps=taps)
        assert_same_bits(again, dx, f"{planes} planes, taps that are none")


def test_sums_are_in_dx_where_it_lies_as_they_do():
    axes = three_axes(Windows.checked(2, 3, 2, 1, 1).axes((9, 7)))
    for change, itemsize, wanted in (
        (np.ascontiguousarray, 4, True),
        (channels_last, 4, True),
        (every_other, 4, False),
        (np.ascontiguousarray, 2, False),
    ):
        dtype = np.float32 if itemsize == 4 else np.float16
        strides = five_strides(change(np.empty((2, 6, 9, 7), dtype)).strides)
        problem = config.PoolProblem(
            axes=axes, adaptive=False, backward=True, planes=(2, 6), strides=(strides,) * 3,
            images=(True, False, False), itemsizes=(itemsize,) * 3, compute_itemsize=4, result=0,
            alignment=64, index="i", labelled=True,
        )  # fmt: skip
        lanes = config.adjacent_lanes(problem)
        beside = 6 if lanes else 1
        found = pool_crowded._sums_in_place(problem, lanes or "channels", beside, 1)
        assert found == wanted
    # Planes so far apart that 32 bits do not reach all of a group.
    far = replace(problem, itemsizes=(4,) * 3, strides=((2**40, 2**30, 252, 28, 4),) * 3)
    assert pool_crowded._sums_in_place(far, "channels", 1, 1)
    assert not pool_crowded._sums_in_place(far, "channels", 1, 4)


def test_scattering_of_any_layout(cpu, plans, monkeypatch):
    """A few channels beside each other, rows that do not follow each other, more than 255 taps."""
    monkeypatch.setattr(pool_crowded, "gathers", lambda *problem: False)
    ways = set()

    def scattered(*arguments, original=pool_crowded.configure_scatter):
        chosen = original(*arguments)
        ways.add(None if chosen is None else (chosen.adjacent, chosen.run > 1, chosen.group > 1))
        return chosen

    monkeypatch.setattr(pool_crowded, "configure_scatter", scattered)

    def body():
        generator = np.random.default_rng(5)
        for shape, kernel in (((3, 3, 9, 12), 3), ((2, 20, 9, 12), 2), ((1, 2, 20, 20), (17, 16))):
            x = image(generator, shape, ties=True)
            y, taps = nnk.max_pool(x, kernel, stride=2, return_indices="taps")
            dy = image(generator, y.shape)
            right = nnk.max_pool_backward(dy, x, kernel, stride=2, taps=taps)
            if not cpu.recording:
                wanted = expected("max_pool_backward", dy, x, kernel, stride=2)
                assert_close(right, wanted, 9)
            # dx is as x is.
            for of_x, of_dy in product((lambda a: a, channels_last, with_gaps), repeat=2):
                dx = nnk.max_pool_backward(of_dy(dy), of_x(x), kernel, stride=2, taps=of_dy(taps))
                if not cpu.recording:
                    assert_same_bits(np.ascontiguousarray(dx), right, f"{shape} {kernel}")

    cpu.precompiled(body)
    some = {way for way in ways if way is not None}
    assert None in ways
    assert [{way[i] for way in some} for i in range(3)] == [{False, True}] * 3


def with_gaps(x):
    """The same array with a gap behind each element, and one more behind each row."""
    apart = np.zeros((*x.shape[:-1], 2 * x.shape[-1] + 1), x.dtype)
    apart[..., :-1:2] = x
    return apart[..., :-1:2]


def test_scattering_unequal_divisions(cpu, plans):
    def body():
        generator = np.random.default_rng(2)
        for shape, out in (((2, 5, 7, 11), (3, 4)), ((1, 40, 9), (5,))):
            x = image(generator, shape, ties=True)
            dy = image(generator, (*shape[:2], *out))
            dx = nnk.adaptive_max_pool_backward(dy, x)
            if not cpu.recording:
                assert_close(dx, expected("adaptive_max_pool_backward", dy, x), 4)

    cpu.precompiled(body)


@pytest.mark.parametrize("ring", [128 * 1024, 3000], ids=["whole rows", "pieces"])
def test_searching_rows_first_finds_the_same(ring, cpu, plans, monkeypatch):
    monkeypatch.setattr(pool_crowded, "_RING_BYTES", ring)
    monkeypatch.setattr(pool_crowded, "_SAVING", 0)
    pieces = []

    def searched(problem, device, original=pool_crowded.configure_search):
        chosen = original(problem, device)
        if chosen is not None:
            pieces.append(chosen.piece < problem.axes[2].out)
        return chosen

    monkeypatch.setattr(pool_crowded, "configure_search", searched)

    def body():
        generator = np.random.default_rng(3)
        for (shape, options), layout in product(OVERLAPPING, LAYOUTS[:2]):
            narrow = shape == OVERLAPPING[1][0] and layout is channels_last
            for dtype in ("float32", "int8") if narrow else ("float32",):
                x = image(generator, shape, dtype, ties=True)
                if dtype == "float32":
                    x.flat[::13], x.flat[::7] = np.nan, -np.inf
                y, indices = nnk.max_pool(layout(x), **options, return_indices=True)
                if cpu.recording:
                    continue
                right, labels = expected("max_pool", x, **options, return_indices=True)
                assert_same_numbers(y, right, f"{shape} {options}")
                assert_same_numbers(indices, labels, f"{shape} {options}")

    cpu.precompiled(body)
    assert (True in pieces) == (ring == 3000)
    assert False in pieces


# ---- which way -------------------------------------------------------------------------------

# Of 8 images: channels and sides, window, stride; channels-last; searched first, scattered.
WAYS = {
    "few look-ups": ((32, 56, 560), 3, 2, False, (False, False)),
    "few look-ups, short rows": ((32, 56, 56), 3, 2, False, (False, True)),
    "few look-ups, channels": ((32, 56, 56), 3, 2, True, (False, False)),
    "as many windows as elements": ((32, 56, 560), 3, 1, False, (True, False)),
    "large": ((32, 28, 28), 13, 1, False, (True, True)),
    "large, channels": ((32, 28, 28), 13, 1, True, (True, True)),
    "far apart": ((32, 56, 56), 7, 2, False, (True, True)),
    "few windows": ((32, 20, 3), 3, 2, False, (False, True)),
    "rows too long for bands": ((32, 8, 20000), 7, 2, True, (True, False)),
    "few channels": ((3, 56, 56), 3, 2, True, (False, True)),
}


@pytest.mark.parametrize("name", WAYS)
def test_which_way(name, cpu):
    (channels, *sides), kernel, stride, last, wanted = WAYS[name]
    axes = three_axes(Windows.checked(2, kernel, stride, kernel // 2, 1).axes(tuple(sides)))
    layout = channels_last if last else np.ascontiguousarray
    strides = five_strides(layout(np.empty((8, channels, *sides), np.float32)).strides)
    problem = config.PoolProblem(
        axes=axes,
        adaptive=False,
        backward=True,
        planes=(8, channels),
        strides=(strides,) * 3,
        images=(True, False, False),
        itemsizes=(4, 4, 4),
        compute_itemsize=4,
        result=0,
        alignment=64,
        index="i",
        labelled=True,
    )
    device = cpu.machine.device
    search = pool_crowded.configure_search(replace(problem, backward=False), device)
    scatter = pool_crowded.configure_scatter(problem, device)
    assert (search is not None, scatter is not None) == wanted
    assert pool_crowded.configure_search(problem, PROFILES["sm_90"]) is None
    assert pool_crowded.configure_scatter(problem, PROFILES["sm_90"]) is None


# ---- sums of large windows -------------------------------------------------------------------

# Images, and how many windows divide them.
DIVIDED = (
    ((2, 3, 20, 30), (1, (2, 1), (5, 3), (10, 2), (4, 7))),
    ((1, 70, 12, 40), (1, (3, 2), (1, 5))),
    ((2, 20, 4, 16, 18), (1, (2, 4, 1))),
)


@pytest.fixture
def choices(plans, monkeypatch):
    found = []

    def configure(problem, device, original=config.configure):
        found.append(original(problem, device))
        return found[-1]

    monkeypatch.setattr(config, "configure", configure)
    return found


def test_windows_that_divide_an_image(cpu, choices):
    def body():
        generator = np.random.default_rng(4)
        for (shape, outs), layout in product(DIVIDED, LAYOUTS):
            x = layout(image(generator, shape))
            for out in outs:
                y = nnk.adaptive_avg_pool(x, out)
                best = nnk.adaptive_max_pool(x, out)
                dy = image(generator, y.shape)
                dx = nnk.adaptive_avg_pool_backward(layout(dy), shape)
                if cpu.recording:
                    continue
                what = f"{shape} in {out}"
                assert_close(y, expected("adaptive_avg_pool", x, out), 600, what=what)
                assert_same_numbers(best, expected("adaptive_max_pool", x, out), what)
                assert_close(dx, expected("adaptive_avg_pool_backward", dy, shape), 4, what=what)

    cpu.precompiled(body)
    assert {(c.rows, c.columns) for c in choices} == {(True, False), (False, True), (False, False)}


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_sums_of_large_windows(last, cpu, choices, monkeypatch):
    monkeypatch.setattr(config, "_COLUMNS_BYTES", 6000)  # groups of channels
    options = {"stride": (3, 9), "padding": ((3, 5), (8, 8)), "ceil_mode": True}
    shape, kernel = (2, 70, 14, 20), (8, 17)

    def body():
        generator = np.random.default_rng(5)
        x = image(generator, shape)
        given = channels_last(x) if last else x
        for padded in (False, True):
            more = {**options, "count_include_pad": padded}
            y = nnk.avg_pool(given, kernel, **more)
            dy = image(generator, y.shape)
            dx = nnk.avg_pool_backward(dy, shape, kernel, **more)
            if not cpu.recording:
                assert_close(y, expected("avg_pool", x, kernel, **more), 136)
                assert_close(dx, expected("avg_pool_backward", dy, shape, kernel, **more), 16)
        y = nnk.lp_pool(given, kernel, **options)
        dx = nnk.lp_pool_backward(dy, given, y, kernel, **options)
        if not cpu.recording:
            assert_close(y, expected("lp_pool", x, kernel, **options), 136)
            right = expected("lp_pool_backward", dy, x, y, kernel, **options)
            assert_close(dx, right, 16, 4.0)

    cpu.precompiled(body)
    forward = [c for c in choices if c.columns or c.rows]
    assert {c.columns for c in forward} == ({True, False} if last else {False})


def test_layouts_give_the_same_bits(cpu):
    x = image(np.random.default_rng(6), (2, 70, 24, 20))
    for out in (1, (3, 5)):
        results = [nnk.adaptive_avg_pool(layout(x), out) for layout in LAYOUTS]
        for other in results[1:]:
            assert_same_bits(other, results[0], f"of another layout, in {out}")


def test_any_number_of_threads_gives_the_same_bits(cpu, plans):
    generator = np.random.default_rng(7)
    x, dy = image(generator, (4, 30, 40, 41)), image(generator, (4, 30, 40, 41))
    for layout in LAYOUTS[:2]:
        given = layout(x)
        same_on_any_threads(
            lambda given=given: (
                nnk.max_pool_backward(dy, given, 7, stride=1, padding=3),
                *nnk.max_pool(given, 7, stride=1, padding=3, return_indices=True),
                nnk.adaptive_avg_pool(given, 1),
                nnk.avg_pool_backward(dy[..., :1, :1], x.shape, (40, 41)),
            )
        )


# Images, kernels and options: rows of fewer windows than lanes, windows that see padding alone,
# and whole planes that are one row of the gradient, or are not.
FEW = (
    ((3, 7, 5, 9), 3, {"stride": 2, "padding": ((1, 0), (2, 1)), "ceil_mode": True}),
    ((2, 3, 30, 50), (14, 17), {"stride": (13, 15), "dilation": (2, 1)}),
    ((1, 5, 3, 8, 33), (2, 3, 9), {"stride": (1, 2, 12), "padding": (1, 0, 4)}),
    ((1, 2, 4, 9), 2, {"stride": 3, "padding": 4}),
    ((3, 19, 7, 7), 7, {}),
    ((2, 2, 3, 14, 15), (3, 14, 15), {}),
)


def test_few_windows_in_a_row(cpu, choices):
    def body():
        generator = np.random.default_rng(9)
        for (shape, kernel, options), layout in product(FEW, (*LAYOUTS, every_other)):
            x = image(generator, shape)
            given = layout(x)
            y = nnk.avg_pool(given, kernel, **options)
            norm = nnk.lp_pool(given, kernel, **options) if layout is LAYOUTS[0] else None
            dy = image(generator, y.shape)
            dx = nnk.avg_pool_backward(layout(dy), shape, kernel, **options)
            if cpu.recording:
                continue
            what = f"{shape} {kernel} {layout.__name__}"
            assert_close(y, expected("avg_pool", x, kernel, **options), 700, what=what)
            right = expected("avg_pool_backward", dy, shape, kernel, **options)
            assert_close(dx, right, 16, what=what)
            if norm is not None:
                assert_close(norm, expected("lp_pool", x, kernel, **options), 700, what=what)
            else:
                assert_same_bits(y, nnk.avg_pool(x, kernel, **options), what)

    cpu.precompiled(body)
    assert {c.few for c in choices} == {True, False}
    assert {c.spreads for c in choices} == {True, False}


def test_a_whole_plane_whose_rows_lie_apart(cpu):
    """Its axes are not one."""
    generator = np.random.default_rng(11)
    x, dy = image(generator, (3, 19, 7, 9)), image(generator, (3, 19, 1, 1))
    apart = np.concatenate([x, image(generator, x.shape)], axis=-1)[..., :9]
    y = nnk.lp_pool(x, (7, 9))
    right = expected("lp_pool_backward", dy, x, y, (7, 9))
    for given in (x, apart):
        assert_close(nnk.lp_pool_backward(dy, given, y, (7, 9)), right, 63)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_third_and_fourth_element(dtype, cpu):
    """Which loads and permutations bring."""
    generator = np.random.default_rng(10)
    for stride in (3, 4):
        x = image(generator, (1, 2, 3, 33 * stride), dtype)
        y = nnk.avg_pool(x, (1, stride))
        assert_close(y, expected("avg_pool", x, (1, stride)), 9)
    x = channels_last(image(generator, (1, 17 * 4, 3, 5), dtype))
    b, c, h, w = x.shape
    wanted = x.reshape(b, c // 4, 2, 2, h, w).transpose(0, 1, 4, 2, 5, 3)
    assert_same_bits(nnk.pixel_shuffle(x, 2), wanted.reshape(b, c // 4, 2 * h, 2 * w), dtype)


# ---- unpooling -------------------------------------------------------------------------------


def test_unpooling_of_any_layouts(cpu):
    """Of images and of indices, each of which decides about vectors."""

    def body():
        generator = np.random.default_rng(8)
        both = product((*LAYOUTS, every_other), repeat=2)
        for (of_image, of_indices), (shape, pooled) in product(
            both, (((2, 3, 7, 10), (4, 5)), ((1, 37, 9, 10), (3, 20)))
        ):
            x = of_image(image(generator, (*shape[:2], *pooled)))
            indices = of_indices(generator.integers(-2, 92, x.shape))
            dy = of_image(image(generator, shape))
            y = nnk.max_unpool(x, indices, shape)
            dx = nnk.max_unpool_backward(dy, indices)
            part = nnk.max_unpool_backward(dy[:, :, ::-1, 1:], indices)  # no element by its number
            if cpu.recording:
                continue
            assert_same_numbers(y, expected("max_unpool", x, indices, shape), "y")
            assert_same_numbers(dx, expected("max_unpool_backward", dy, indices), "dx")
            right = expected("max_unpool_backward", dy[:, :, ::-1, 1:], indices)
            assert_same_numbers(part, right, "dx of a part")

    cpu.precompiled(body)


def test_unpooling_into_a_part_of_an_image(cpu):
    """No element is at a multiple of its number; lanes are neighbours, or channels."""

    def body():
        generator = np.random.default_rng(9)
        shape = (2, 37, 9, 10)
        x = image(generator, (*shape[:2], 3, 20))
        indices = generator.integers(-2, 92, x.shape)
        wanted = expected("max_unpool", x, indices, shape)
        for order in (lambda a: a, channels_last):
            memory = order(np.full((*shape[:3], shape[3] + 1), 7, np.float32))
            nnk.max_unpool(order(x), order(indices), shape, out=memory[..., 1:])
            if not cpu.recording:
                assert_same_numbers(memory[..., 1:], wanted, "y")
                assert np.all(memory[..., 0] == 7)

    cpu.precompiled(body)
