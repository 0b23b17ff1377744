"""Softmax and its kin, and sums over axes, on every machine."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from comparing import assert_close, assert_same_bits, assert_same_numbers, wide
from hypothesis import given
from hypothesis import strategies as st
from layouts import dense, is_dense, keeps_order, lay_out, place
from strategies import examples, layouts, make_numbers, numbers, shapes
from threads import same_on_any_threads

import nnkernels as nnk
from nnkernels import registry
from nnkernels.config import rows as config
from nnkernels.dispatch import rows as dispatch
from nnkernels.dispatch.dtypes import numpy_dtype
from nnkernels.registry import COMPLEX, FLOATING, INTEGERS

OPS = {op.name: op for op in registry.all_ops().values() if op.family == "rows"}
FORWARD = ("softmax", "log_softmax", "logsumexp")
BACKWARD = ("softmax_backward", "log_softmax_backward", "logsumexp_backward")
# The dtype in which an op meets every layout, beside float32; the others are in one each.
OTHER = {
    "softmax": "float16",
    "log_softmax": "bfloat16",
    "logsumexp": "float64",
    "softmax_backward": "bfloat16",
    "log_softmax_backward": "float64",
}


def row_length(shape, axis):
    axes = range(len(shape)) if axis is None else (axis,) if isinstance(axis, int) else axis
    return int(np.prod([shape[a] for a in axes], dtype=np.int64))


def error_scale(name, operands, axis, expected):
    """Size of what rounding errors are relative to, beside the result itself.

    The operand of exp is a difference of numbers of some size: that is its error, and so the
    relative error of an exponential and the absolute one of a logarithm.
    """
    parts = [wide(x) for x in operands]
    with np.errstate(all="ignore"):
        if name == "logsumexp_backward":
            dy, x, y = parts
            scale = np.abs(expected.astype(np.float64)) * (1 + np.abs(x) + np.abs(y))
        elif name in FORWARD:
            top = np.max(parts[0], axis=axis, keepdims=True, initial=-np.inf)
            if name == "logsumexp":
                scale = 1 + np.abs(top.reshape(expected.shape))
            else:
                below = np.abs(parts[0] - top)
                scale = 1 + below if name == "log_softmax" else (1 + below) * np.abs(wide(expected))
        else:
            dy, y = parts
            if name == "softmax_backward":
                total = np.abs(dy * y).sum(axis=axis, keepdims=True)
                scale = np.abs(y) * (np.abs(dy) + total)
            else:
                total = np.abs(dy).sum(axis=axis, keepdims=True)
                scale = np.abs(dy) + np.exp(y) * (1 + np.abs(y)) * total
    return np.where(np.isfinite(scale), scale, 0.0)


def assert_right(name, result, operands, axis, what="", **options):
    expected = OPS[name].reference(*operands, axis=axis, **options)
    scale = error_scale(name, operands, axis, expected)
    length = max(row_length(operands[-1].shape, axis), 1)
    assert_close(result, expected, length, scale, f"{name}{what}")


def operands_for(name, draw_numbers, axis, shape, dtype):
    """Operands of an op: of backward functions a cotangent and a real result."""
    x = draw_numbers(shape, dtype)
    if name in FORWARD:
        return [x]
    y = OPS[name.removesuffix("_backward")].reference(x, axis=axis)
    dy = draw_numbers(y.shape, dtype)
    if name != "logsumexp_backward":
        return [dy, y]
    return [dy, x, y]


@st.composite
def axes_of(draw, rank):
    """An axis as a number of either sign, several as a tuple in any order, or None."""
    kind = draw(st.sampled_from(["one", "one", "some", "all"])) if rank else "all"
    if kind == "all":
        return None
    one = st.integers(-rank, rank - 1)
    if kind == "one":
        return draw(one)
    chosen = draw(st.lists(st.integers(0, rank - 1), unique=True, max_size=3))
    return tuple(a - rank if draw(st.booleans()) else a for a in chosen)


# ---- any layout ----------------------------------------------------------------------------


@pytest.mark.in_turn
@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD[:2]])
def test_any_layout(name, backend):
    op = OPS[name]

    @st.composite
    def cases(draw):
        shape = draw(shapes(most=1500))
        dtype = draw(st.sampled_from(("float32", "float32", OTHER[name])))
        axis = draw(axes_of(len(shape)))
        kinds = ("ordinary", "wide", "special") if name in FORWARD else ("ordinary",)

        def draw_numbers(shape, dtype):
            return draw(numbers(shape, dtype, subnormal=not backend.is_cupy, kinds=kinds))

        placed = []
        for values in operands_for(name, draw_numbers, axis, shape, dtype):
            itemsize = values.dtype.itemsize
            layout = draw(layouts(values.shape, itemsize, byte_shifts=backend.is_cpu))
            placed.append(place(values, layout))
        return placed, axis, draw(st.booleans()), draw(st.integers(0, 99))

    @given(cases())
    def right(case):
        placed, axis, keepdims, seed = case
        options = {"keepdims": keepdims} if name == "logsumexp" else {}
        arrays = [backend.array(p.view) for p in placed]
        with backend.context(seed):
            result = op.function(*arrays, axis=axis, **options)
        if backend.recording:
            return
        operands = [p.view for p in placed]
        assert all(p.is_unchanged for p in placed)
        assert backend.is_own(result)
        assert is_dense(result)
        if name == "logsumexp":
            assert keeps_order_of_rest(result, operands[0], axis, keepdims)
        else:
            assert keeps_order(result, operands[0])
        copies = [x.copy() for x in operands]
        assert_right(name, backend.numpy(result), copies, axis, **options)

    backend.precompiled(right)


def keeps_order_of_rest(result, like, axis, keepdims):
    if 0 in like.shape:
        return True
    axes = range(like.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    reduced = {a % like.ndim for a in axes} if like.ndim else set()
    index = tuple(slice(0, 1) if a in reduced else slice(None) for a in range(like.ndim))
    rest = like[index]
    return keeps_order(result, rest if keepdims else rest.squeeze(tuple(reduced)))


@pytest.mark.in_turn
def test_logsumexp_backward(backend):
    op = OPS["logsumexp_backward"]

    @given(st.data())
    def right(data):
        shape = data.draw(shapes(max_rank=3, most=400))
        axis = data.draw(axes_of(len(shape)))
        keepdims = data.draw(st.booleans())
        x = data.draw(numbers(shape, "float32", kinds=("ordinary", "wide")))
        x = place(x, data.draw(layouts(shape, 4))).view
        y = OPS["logsumexp"].reference(x, axis=axis, keepdims=keepdims)
        dy = data.draw(numbers(y.shape, "float32", kinds=("ordinary",)))
        with backend.context():
            dx = op.function(*map(backend.array, (dy, x, y)), axis=axis, keepdims=keepdims)
        if backend.recording:
            return
        dx = backend.numpy(dx)
        expected = op.reference(dy, x, y, axis=axis, keepdims=keepdims)
        full = OPS["logsumexp"].reference(x, axis=axis, keepdims=True)
        scale = error_scale("logsumexp_backward", (dy, x, full), axis, expected)
        assert_close(dx, expected, scale=scale)

    backend.precompiled(right)


@pytest.mark.in_turn
@pytest.mark.parametrize("dtype", [d for d in FLOATING if d != "float32"])
def test_every_dtype(dtype, backend):
    def body():
        generator = np.random.default_rng(20)
        for name in (n for n in OTHER if OTHER[n] != dtype):
            operands = operands_for(
                name, lambda s, d: make_numbers(generator, s, d), -1, (6, 70), dtype
            )
            with backend.context(3):
                result = OPS[name].function(*map(backend.array, operands))
            if not backend.recording:
                assert_right(name, backend.numpy(result), operands, -1, f" of {dtype}")

    backend.precompiled(body)


@pytest.mark.in_turn
@pytest.mark.parametrize("name", FORWARD)
def test_infinities_and_nan(name, backend):
    inf, nan = np.inf, np.nan
    x = np.array(
        [
            [-inf, -inf, -inf, -inf, -inf],
            [-inf, 1.0, -inf, 2.0, 0.0],
            [inf, 1.0, -inf, 2.0, 0.0],
            [inf, inf, 0.0, 0.0, 0.0],
            [nan, 1.0, 2.0, 3.0, 4.0],
            [1.0, 2.0, nan, inf, 4.0],
            [3e38, -3e38, 0.0, 3e38, 1.0],
        ],
        np.float32,
    )

    def body():
        for rows, axis in ((x, 1), (x.T, 0), (np.ascontiguousarray(x.T), 0)):
            with backend.context(4):
                y = OPS[name].function(backend.array(rows), axis=axis)
            if not backend.recording:
                assert_right(name, backend.numpy(y), [rows], axis)

    backend.precompiled(body)


# ---- sums ------------------------------------------------------------------------------------


@pytest.mark.in_turn
def test_sums(backend):
    @given(st.data())
    def right(data):
        shape = data.draw(shapes(max_rank=4, most=1500))
        dtype = data.draw(st.sampled_from((*FLOATING, *COMPLEX, *INTEGERS)))
        axis = data.draw(axes_of(len(shape)))
        values = data.draw(numbers(shape, dtype, kinds=("ordinary",)))
        x = place(values, data.draw(layouts(shape, numpy_dtype(dtype).itemsize))).view
        keepdims = data.draw(st.booleans())
        axes = dispatch.normalize_axes(axis, x.ndim)
        with backend.context(1):
            total = dispatch.sum_over(backend.array(x), axes, keepdims)
        if backend.recording:
            return
        if x.dtype.kind in "iu":
            expected = x.sum(axis=axes, keepdims=keepdims, dtype=x.dtype)
        else:
            expected = wide(x).sum(axis=axes, keepdims=keepdims).astype(x.dtype)
        scale = float(np.abs(wide(x)).max(initial=0.0)) * row_length(shape, axes)
        total, expected = backend.numpy(total), np.asarray(expected)
        assert_close(total, expected, max(row_length(shape, axes), 1), scale)

    backend.precompiled(right)


# ---- out ---------------------------------------------------------------------------------------


@pytest.mark.in_turn
@pytest.mark.parametrize("name", ["log_softmax", "logsumexp", "softmax_backward"])
def test_out_of_any_layout(name, backend):
    op = OPS[name]

    @examples(0.6)
    @given(st.data())
    def right(data):
        shape = data.draw(shapes(max_rank=3, most=500))
        axis = data.draw(axes_of(len(shape)))

        def draw_numbers(shape, dtype):
            return data.draw(numbers(shape, dtype, kinds=("ordinary",)))

        operands = operands_for(name, draw_numbers, axis, shape, "float32")
        wanted = np.asarray(op.reference(*operands, axis=axis)).shape
        layout = data.draw(layouts(wanted, 4, byte_shifts=backend.is_cpu, writable=True))
        target = place(np.zeros(wanted, np.float32), layout)
        out = backend.array(target.view)
        with backend.context():
            result = op.function(*map(backend.array, operands), axis=axis, out=out)
        if not backend.recording:
            assert result is out
            assert_right(name, backend.numpy(out), operands, axis)
            assert target.is_unchanged_outside

    backend.precompiled(right)


@pytest.mark.in_turn
@pytest.mark.parametrize("shape", [(4, 90), (90, 4)], ids=str)
def test_out_may_be_an_operand(shape, backend):
    axis = shape.index(90)

    def body():
        generator = np.random.default_rng(21)
        for name in ("softmax", "log_softmax", *BACKWARD[:2]):
            count = len(OPS[name].arrays)
            for position in range(count):
                operands = operands_for(
                    name, lambda s, d: make_numbers(generator, s, d), axis, shape, "float32"
                )
                arrays = [backend.array(x.copy()) for x in operands]
                with backend.context(position):
                    result = OPS[name].function(*arrays, axis=axis, out=arrays[position])
                if not backend.recording:
                    assert result is arrays[position]
                    assert_right(name, backend.numpy(result), operands, axis, " in place")

    backend.precompiled(body)


# ---- memory, determinism, threads --------------------------------------------------------------


def test_no_operand_is_copied():
    x = np.ones((800, 600), np.float32)[::2, ::-2].T  # rows of 400, of stride 4800
    out = np.empty((400, 300), np.float32).T
    for axis in (0, 1):
        nnk.softmax(x, axis=axis, out=out)  # the plan and the kernel are made here
        nnk.logsumexp(x, axis=axis)
        tracemalloc.start()
        try:
            nnk.softmax(x, axis=axis, out=out)
            nnk.logsumexp(x, axis=axis)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 16_000


# Rows that are short, long, shared by several blocks, and beside each other in memory.
THREADED = [((3000, 20), 1), ((50, 3000), 1), ((2, 100_000), 1), ((700, 300), 0)]


@pytest.mark.parametrize(("shape", "axis"), THREADED, ids=str)
def test_any_number_of_threads_gives_the_same_bits(shape, axis):
    generator = np.random.default_rng(22)
    x, dy = (make_numbers(generator, shape, "float32") for _ in range(2))

    def results():
        y = nnk.softmax(x, axis=axis)
        return y, nnk.softmax_backward(dy, y, axis=axis), dispatch.sum_over(x, (axis,))

    y, dx, _ = same_on_any_threads(results)
    assert_right("softmax", y, [x], axis)
    assert_right("softmax_backward", dx, [dy, y], axis)


@pytest.mark.in_turn
def test_the_order_of_threads_does_not_matter(simulator):
    generator = np.random.default_rng(23)
    for shape, axis in (((3, 1000), 1), ((40, 33), 0), ((9, 20), 1)):
        x = make_numbers(generator, shape, "float32")
        found = []
        for seed in range(6):
            with simulator.context(seed):
                found.append(nnk.softmax(x, axis=axis))
        for other in found[1:]:
            assert_same_bits(found[0], other, "softmax in another order of threads")


# ---- identities ----------------------------------------------------------------------------------


@pytest.mark.in_turn
@pytest.mark.parametrize(("shape", "axis"), [((9, 67), 1), ((67, 9), 0)], ids=str)
def test_identities(shape, axis, backend):
    def body():
        generator = np.random.default_rng(24)
        # Whole numbers, so that adding one to all of a row is exact.
        x = generator.integers(-9, 9, shape).astype(np.float32)
        shift = generator.integers(-99, 99, 9).astype(np.float32)
        shift = np.expand_dims(shift, axis)
        rows = generator.permutation(9)
        columns = generator.permutation(67)

        def softmax(values, **options):
            return backend.numpy(nnk.softmax(backend.array(values), axis=axis, **options))

        with backend.context(5):
            y = softmax(x)
            shifted = softmax(x + shift)
            permuted = softmax(np.take(x, rows, 1 - axis))
            shuffled = softmax(np.take(x, columns, axis))
            log_y = backend.numpy(nnk.log_softmax(backend.array(x), axis=axis))
            total = backend.numpy(nnk.logsumexp(backend.array(x), axis=axis, keepdims=True))
            moved = backend.numpy(nnk.logsumexp(backend.array(x + shift), axis=axis, keepdims=True))
            whole = backend.numpy(nnk.softmax(backend.array(x), axis=None))
            flat = backend.numpy(nnk.softmax(backend.array(x.reshape(-1))))
        if backend.recording:
            return
        assert_same_numbers(shifted, y, "softmax of a shifted row")
        assert_same_numbers(permuted, np.take(y, rows, 1 - axis), "softmax of permuted rows")
        assert_close(shuffled, np.take(y, columns, axis), 67, what="softmax within a row")
        assert np.all(y >= 0)
        assert_close(y.sum(axis), np.ones(9, np.float32), 67, what="the sum of a softmax")
        assert_close(np.exp(log_y), y, 67, what="exp of log_softmax")
        assert_close(x - total, log_y, 67, scale=200.0, what="x - logsumexp")
        assert np.all(total >= x.max(axis, keepdims=True))
        assert_close(moved, total + shift, 67, scale=200.0, what="logsumexp of a shifted row")
        assert_close(whole.reshape(-1), flat, 603, what="softmax over all axes")

    backend.precompiled(body)


@pytest.mark.in_turn
def test_gradients_are_tangent_to_the_sum(backend):
    # Softmax adds up to 1 whatever x is, so its gradient adds up to 0 along a row.
    def body():
        generator = np.random.default_rng(25)
        dy, y = (make_numbers(generator, (5, 130), "float32") for _ in range(2))
        with backend.context(6):
            y = nnk.softmax(backend.array(y))
            log_y = nnk.log_softmax(backend.array(dy))
            dx = nnk.softmax_backward(backend.array(dy), y)
            dlog = nnk.log_softmax_backward(backend.array(dy), log_y)
        if not backend.recording:
            zero = np.zeros(5, np.float32)
            assert_close(backend.numpy(dx).sum(1), zero, 130, scale=10.0)
            assert_close(backend.numpy(dlog).sum(1), zero, 130, scale=200.0)

    backend.precompiled(body)


# ---- any block -----------------------------------------------------------------------------------

# Threads of a block and of a row: the whole block for one row, or some lanes of a warp; and how
# many rows they have at once.
ALONG_BLOCKS = [
    (1, 1, 1), (7, 7, 1), (7, 1, 2), (32, 32, 1), (32, 8, 1), (65, 65, 1), (65, 1, 3), (128, 16, 1),
    (256, 256, 1), (256, 2, 1), (128, 128, 1), (256, 32, 2),
]  # fmt: skip
# Threads, and how many share a row (a power of two): the others lie side by side; and columns.
ACROSS_BLOCKS = [
    (1, 1, 1), (7, 1, 1), (7, 1, 2), (32, 4, 1), (65, 1, 1), (65, 1, 3), (96, 32, 1),
    (128, 128, 1), (256, 16, 1), (256, 256, 2), (32, 32, 1), (128, 8, 1),
]  # fmt: skip
KEEPS = (config.KEEP_REGISTERS, config.KEEP_SHARED, config.KEEP_NONE)


def override(problem, found, threads, team, columns, keep, split):
    """A configuration with another block, and all that follows from its size."""
    found = replace(found, columns=columns)
    side = threads // team * columns
    groups = problem.length if found.layout == config.ACROSS else -(-problem.length // found.vector)
    if split and groups > 1:
        part = -(-groups // 3)
        return replace(
            found, threads=threads, team=team, keep=config.KEEP_NONE, depth=1, kept=0,
            parts=-(-groups // part), part_groups=part,
        )  # fmt: skip
    depth = config.next_power_of_two(-(-groups // team))
    several_along = columns > 1 and found.layout == config.ALONG
    if not problem.tiles or (keep == config.KEEP_REGISTERS and depth > 64):
        keep = config.KEEP_NONE
    elif several_along:
        keep = config.KEEP_REGISTERS  # several rows along are kept nowhere else
    shared = keep == config.KEEP_SHARED
    return replace(
        found, threads=threads, team=team, keep=keep, parts=1, part_groups=groups,
        depth=depth if keep == config.KEEP_REGISTERS else 1,
        kept=max(problem.tiles, 1) * groups * side * found.vector if shared else 0,
    )  # fmt: skip


@pytest.mark.in_turn
@pytest.mark.parametrize("name", ["softmax", "logsumexp", "log_softmax_backward", "sum"])
@pytest.mark.parametrize("layout", ["along", "across"])
def test_any_block_gives_the_right_answer(name, layout, simulator, monkeypatch):
    original = config.configure
    blocks = ALONG_BLOCKS if layout == "along" else ACROSS_BLOCKS
    shape, axis = ((5, 150), 1) if layout == "along" else ((45, 38), 0)

    def body():
        generator = np.random.default_rng(26)
        for i, (threads, team, columns) in enumerate(blocks):
            # Every way to keep a row, and rows in parts, in turn.
            keep, split = KEEPS[i % 3], i % 4 == 3

            def configure(problem, device, chosen=(threads, team, columns, keep, split)):
                found = original(problem, device)
                assert found.layout == {"along": config.ALONG, "across": config.ACROSS}[layout]
                return override(problem, found, *chosen)

            monkeypatch.setattr(config, "configure", configure)
            simulator.machine.plans.clear()
            what = f" in blocks of {threads}, {team} for a row"
            if name == "sum":
                x = make_numbers(generator, shape, "float32")
                with simulator.context(i):
                    total = dispatch.sum_over(x, (axis,))
                if not simulator.recording:
                    wanted = wide(x).sum(axis).astype(np.float32)
                    assert_close(total, wanted, 150, scale=10.0, what="sum" + what)
                continue
            operands = operands_for(
                name, lambda s, d: make_numbers(generator, s, d), axis, shape, "float32"
            )
            with simulator.context(i):
                result = OPS[name].function(*operands, axis=axis)
            if not simulator.recording:
                assert_right(name, result, operands, axis, what)

    simulator.precompiled(body)
    simulator.machine.plans.clear()


@pytest.mark.in_turn
def test_vectors_of_any_width_that_divides_a_row(simulator, monkeypatch):
    # A row of several axes is walked in groups that do not cross the end of the last axis.
    original = config.configure
    x = place(
        make_numbers(np.random.default_rng(27), (3, 5, 8), "float32"),
        lay_out((3, 5, 8), 4, (1, 0, 2), (1, 2, 1)),
    ).view

    def body():
        for vector in (1, 2, 4):

            def configure(problem, device, width=vector):
                found = original(problem, device)
                assert found.vector == 4
                groups = -(-problem.length // width)
                depth = config.next_power_of_two(-(-groups // found.team))
                return replace(found, vector=width, depth=depth, part_groups=groups)

            monkeypatch.setattr(config, "configure", configure)
            simulator.machine.plans.clear()
            with simulator.context(vector):
                y = nnk.softmax(x, axis=(0, 2))
            if not simulator.recording:
                assert_right("softmax", y, [x], (0, 2), f" in vectors of {vector}")

    simulator.precompiled(body)
    simulator.machine.plans.clear()


def test_dense_is_what_the_tests_think():
    assert place(np.zeros((2, 3)), dense((2, 3), 8)).view.flags.c_contiguous
