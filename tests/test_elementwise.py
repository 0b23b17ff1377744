"""Elementwise operations on every machine: numbers, layouts, results and their memory."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from comparing import assert_close, assert_same_bits, assert_same_numbers, condition, wide
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes
from layouts import dense, is_dense, keeps_order, lay_out, place
from strategies import NUMBERS, examples, layouts, make_numbers, numbers, shapes
from threads import same_on_any_threads

import nnkernels as nnk
from nnkernels import registry
from nnkernels.config import elementwise as config
from nnkernels.dispatch.dtypes import ELEMENTS, numpy_dtype
from nnkernels.registry import FLOATING, INTEGERS

OPS = {op.name: op for op in registry.all_ops().values() if op.family == "elementwise"}
# Operands of these have shapes of their own; every other op takes equal or broadcast shapes.
OWN_SHAPES = ("prelu", "prelu_backward", "glu", "glu_backward")
PLAIN = [name for name in OPS if name not in OWN_SHAPES]
# One operand and one result, two that broadcast, three operands and two results.
WITH_LAYOUTS = ("silu", "silu_backward", "swiglu", "swiglu_backward")
# These subtract numbers of nearly one size from x, at any x.
CANCELLING = ("tanh_shrink",)


def dtypes_of(op):
    """Which dtypes to test: float32 and another, a different one for the next op."""
    if settings.default.max_examples > 100:
        return op.dtypes
    others = [name for name in op.dtypes if name != "float32" and ELEMENTS[name].kind not in "iu"]
    return ("float32", others[list(OPS).index(op.name) % len(others)])


def options_of(op):
    """The different options of a record's examples."""
    return [dict(items) for items in {tuple(e.options.items()): None for e in op.examples}]


def cases_of(op, backend):
    """Pairs of a dtype and options: each is in one, on the simulator in every other pair."""
    options, dtypes = options_of(op), dtypes_of(op)
    if settings.default.max_examples > 100:
        return [(dtype, chosen) for dtype in dtypes for chosen in options]
    pairs = [(dtype, options[0]) for dtype in dtypes]
    pairs += [(dtypes[i % len(dtypes)], chosen) for i, chosen in enumerate(options) if i]
    return pairs if backend.is_cpu or backend.is_cupy else pairs[list(OPS).index(op.name) % 2 :: 2]


def make_operands(op, generator, shape, dtype, kind, subnormal=True):
    """Arrays for an op of one shape: the last is of the kind, a cotangent is ordinary."""
    ordinary = [make_numbers(generator, shape, dtype) for _ in op.arrays[1:]]
    return [*ordinary, make_numbers(generator, shape, dtype, kind, subnormal)]


def scale_of(op, operands, options, result=0):
    scale = condition(op.reference, operands, options, result)
    sizes = [np.abs(wide(x)) for x in operands]
    if op.name in CANCELLING:
        scale = scale + sizes[0]
    # A factor that has become subnormal, or 0, is off by the smallest normal number.
    info = np.finfo(ELEMENTS[np.result_type(*operands).name].compute_name)
    factors = np.ones(())
    for size in sizes:
        factors = factors * np.clip(np.nan_to_num(size), 1.0, 1e9)
    return scale + factors * float(info.tiny) / float(info.eps)


def assert_right(op, results, operands, options, what=""):
    """Raise unless the results of an op lie within tolerance of its reference."""
    expected = op.reference(*operands, **options)
    if op.outputs == 1:
        results, expected = (results,), (expected,)
    for i, (got, wanted) in enumerate(zip(results, expected, strict=True)):
        # What was summed over broadcast axes is as accurate as its largest terms are.
        terms = max(operands[0].size // max(got.size, 1), 1)
        if got.shape == operands[0].shape:
            scale = scale_of(op, operands, options, i)
        else:
            sizes = [np.max(np.abs(wide(x)), initial=0.0) for x in operands]
            scale = float(np.prod(sizes) * max(sizes[-1], 1.0))
        assert_close(got, wanted, terms, scale, f"{op.name}{what}")


# ---- numbers -------------------------------------------------------------------------------


@pytest.mark.in_turn
@pytest.mark.parametrize("names", [PLAIN[i::12] for i in range(12)], ids=" ".join)
def test_numbers(names, backend):
    def body():
        for op in map(OPS.get, names):
            for dtype, options in cases_of(op, backend):
                check(op, dtype, options)

    def check(op, dtype, options):
        # One dimension, dense: one kernel for every length but 1.
        @examples(0.5)
        @given(st.integers(2, 150), st.sampled_from(NUMBERS), st.integers(0, 2**32 - 1))
        def right(length, kind, seed):
            generator = np.random.default_rng(seed)
            operands = make_operands(op, generator, (length,), dtype, kind, not backend.is_cupy)
            with backend.context(seed % 7):
                results = op.function(*map(backend.array, operands), **options)
            if not backend.recording:
                assert_right(op, backend.numpy(results), operands, options, f" of {dtype}")

        right()

    backend.precompiled(body)


@pytest.mark.in_turn
@pytest.mark.parametrize("name", ["silu", "silu_backward"])
def test_numbers_of_every_dtype(name, backend):
    op = OPS[name]

    def body():
        generator = np.random.default_rng(3)
        for dtype in op.dtypes:
            operands = make_operands(op, generator, (77,), dtype, "wide")
            with backend.context(1):
                results = op.function(*map(backend.array, operands))
            if not backend.recording:
                assert backend.is_own(results)
                assert_right(op, backend.numpy(results), operands, {}, f" of {dtype}")

    backend.precompiled(body)


@pytest.mark.in_turn
@pytest.mark.parametrize(
    ("name", "dtype"), [("gelu", "float16"), ("gelu_backward", "bfloat16"), ("swiglu", "bfloat16")]
)
def test_every_number_of_a_narrow_type(name, dtype, backend):
    # GPUs compute these to 22 bits: within a rounding of the narrow type all the same, to the last
    # normal number, and right at infinities.
    op = OPS[name]

    def body():
        x = np.arange(2**16, dtype=np.uint16).view(numpy_dtype(dtype))
        with np.errstate(invalid="ignore"):
            x[np.isnan(x)] = np.nan  # NumPy warns where signalling ones are converted
        generator = np.random.default_rng(5)
        operands = [*(make_numbers(generator, x.shape, dtype) for _ in op.arrays[1:]), x]
        with backend.context(2):
            y = op.function(*map(backend.array, operands))
        if not backend.recording:
            assert_right(op, backend.numpy(y), operands, {}, f" of every {dtype}")

    backend.precompiled(body)


@pytest.mark.in_turn
@pytest.mark.parametrize("name", ["relu", "relu6", "hard_tanh"])
def test_integers_are_exact(name, backend):
    op = OPS[name]
    options = [{}] if name != "hard_tanh" else [{}, {"min": -3, "max": 300}, {"min": 2, "max": 5}]

    def body():
        generator = np.random.default_rng(4)
        for dtype in INTEGERS:
            for kind in ("ordinary", "wide"):
                x = make_numbers(generator, (41,), dtype, kind)
                for chosen in options:
                    with backend.context():
                        y = op.function(backend.array(x), **chosen)
                    if not backend.recording:
                        wanted = op.reference(x, **chosen)
                        assert_same_numbers(backend.numpy(y), wanted, f"{name} of {dtype} {chosen}")

    backend.precompiled(body)


# ---- shapes and layouts --------------------------------------------------------------------


@pytest.mark.in_turn
@pytest.mark.parametrize("name", WITH_LAYOUTS)
def test_any_layout(name, backend):
    op = OPS[name]
    other = "float64" if "backward" in name else "bfloat16"

    @st.composite
    def cases(draw):
        count = len(op.arrays)
        if name == "swiglu":
            broadcast = mutually_broadcastable_shapes(
                num_shapes=count, min_side=0, max_side=9, max_dims=5
            )
            parts = draw(broadcast).input_shapes
        else:
            parts = [draw(shapes(most=600))] * count
        dtype = draw(st.sampled_from(["float32", "float32", other]))
        itemsize = numpy_dtype(dtype).itemsize
        placed = []
        for shape in parts:
            layout = draw(layouts(shape, itemsize, byte_shifts=backend.is_cpu))
            placed.append(place(draw(numbers(shape, dtype, kinds=("ordinary",))), layout))
        return placed, draw(st.integers(0, 99))

    @given(cases())
    def right(case):
        placed, seed = case
        operands = [p.view for p in placed]
        arrays = [backend.array(x) for x in operands]
        with backend.context(seed):
            results = op.function(*arrays)
        if backend.recording:
            return
        assert all(p.is_unchanged for p in placed)
        shape = np.broadcast_shapes(*(x.shape for x in operands))
        full = [x for x in operands if x.shape == shape]
        for result in results if op.outputs > 1 else (results,):
            assert backend.is_own(result)
            assert result.shape == shape
            assert result.dtype == operands[0].dtype
            assert is_dense(result)
            assert not full or keeps_order(result, full[0])
        results = backend.numpy(results)
        assert_right(op, results, [np.ascontiguousarray(x).reshape(x.shape) for x in operands], {})

    backend.precompiled(right)


@pytest.mark.in_turn
def test_a_view_and_its_copy_give_the_same_bits(backend):
    # Every element is computed in the same way wherever it lies, in a whole vector or a cut one.
    @examples(0.75)
    @given(st.data())
    def right(data):
        shape = data.draw(shapes(min_rank=1, max_rank=3, most=300, min_side=1))
        values = data.draw(numbers(shape, "float32", subnormal=not backend.is_cupy))
        view = place(values, data.draw(layouts(shape, 4, byte_shifts=backend.is_cpu))).view
        copy = np.ascontiguousarray(view)
        with backend.context(5):
            a = nnk.gelu(backend.array(view))
            b = nnk.gelu(backend.array(copy))
        if not backend.recording:
            a, b = backend.numpy(a), backend.numpy(b)
            assert_same_numbers(np.ascontiguousarray(a), b, "gelu of a view and of its copy")

    backend.precompiled(right)


@pytest.mark.in_turn
def test_misaligned_after_aligned_of_the_same_shape(backend):
    # The second call finds the first one's plan if that does not say for which addresses it is.
    generator = np.random.default_rng(8)
    for shift in (0, 4, 8, 0):
        x = place(make_numbers(generator, (64,), "float32"), dense((64,), 4, shift)).view
        with backend.context():
            y = nnk.relu(backend.array(x))
        assert_same_numbers(backend.numpy(y), np.maximum(x, 0), f"relu {shift} bytes off")


@pytest.mark.in_turn
def test_mixed_dtypes_are_promoted(backend):
    def body():
        generator = np.random.default_rng(9)
        for a, b, promoted in (
            ("float16", "bfloat16", "float32"),
            ("bfloat16", "float32", "float32"),
            ("float64", "float32", "float64"),
            ("float64", "bfloat16", "float64"),
            ("float16", "float64", "float64"),
        ):
            x = make_numbers(generator, (4, 1, 9), a)
            gate = make_numbers(generator, (3, 1), b)
            with backend.context():
                y = backend.numpy(nnk.swiglu(backend.array(x), backend.array(gate)))
            assert y.dtype.name == promoted
            if not backend.recording:
                wanted = OPS["swiglu"].reference(x.astype(promoted), gate.astype(promoted))
                assert_close(y, wanted, scale=np.abs(wanted.astype(np.float64)), what=f"{a}, {b}")

    backend.precompiled(body)


@pytest.mark.in_turn
def test_python_numbers_take_the_dtype_of_the_array(backend):
    generator = np.random.default_rng(10)
    x = make_numbers(generator, (5, 7), "float16")
    with backend.context():
        y = nnk.swiglu(backend.array(x), 1.5)
        z = nnk.swiglu(2, backend.array(x))
    assert backend.numpy(y).dtype == np.float16
    assert_close(backend.numpy(y), OPS["swiglu"].reference(x, np.float16(1.5)), scale=1.0)
    assert_close(backend.numpy(z), OPS["swiglu"].reference(np.float16(2), x), scale=2.0)


# ---- operands with shapes of their own -------------------------------------------------------


@pytest.mark.in_turn
def test_prelu_and_its_gradient(backend):
    op, backward = OPS["prelu"], OPS["prelu_backward"]

    @st.composite
    def cases(draw):
        shape = draw(shapes(min_rank=1, max_rank=4, most=400))
        axis = draw(st.integers(-len(shape), len(shape) - 1))
        weights = draw(st.sampled_from([(), (1,), (shape[axis],)]))
        dtype = draw(st.sampled_from(["float32", "float16"]))
        parts = []
        for wanted in (shape, shape, weights):
            layout = draw(layouts(wanted, numpy_dtype(dtype).itemsize))
            parts.append(place(draw(numbers(wanted, dtype, kinds=("ordinary",))), layout).view)
        return parts, axis

    @given(cases())
    def right(case):
        (dy, x, weight), axis = case
        dy_, x_, weight_ = map(backend.array, (dy, x, weight))
        with backend.context():
            y = op.function(x_, weight_, axis=axis)
            dx, dweight = backward.function(dy_, x_, weight_, axis=axis)
        if backend.recording:
            return
        y, dx, dweight = map(backend.numpy, (y, dx, dweight))
        assert_close(y, op.reference(x, weight, axis=axis), scale=0.0, what="prelu")
        want_dx, want_dweight = backward.reference(dy, x, weight, axis=axis)
        assert_close(dx, want_dx, scale=0.0, what="dx")
        terms = max(x.size // max(dweight.size, 1), 1)
        largest = np.max(np.abs(wide(dy) * wide(x)), initial=0.0) * np.sqrt(terms)
        assert_close(dweight, want_dweight, terms, scale=float(largest), what="dweight")

    backend.precompiled(right)


@pytest.mark.in_turn
def test_glu_and_its_gradient(backend):
    op, backward = OPS["glu"], OPS["glu_backward"]

    @st.composite
    def cases(draw):
        shape = list(draw(shapes(min_rank=1, max_rank=4, most=300)))
        axis = draw(st.integers(-len(shape), len(shape) - 1))
        half = tuple(shape)
        shape[axis] *= 2
        dtype = draw(st.sampled_from(["float32", "bfloat16"]))
        itemsize = numpy_dtype(dtype).itemsize
        x = place(draw(numbers(tuple(shape), dtype)), draw(layouts(tuple(shape), itemsize))).view
        dy_layout = draw(layouts(half, itemsize))
        return place(draw(numbers(half, dtype, kinds=("ordinary",))), dy_layout).view, x, axis

    @given(cases())
    def right(case):
        dy, x, axis = case
        with backend.context():
            y = op.function(backend.array(x), axis=axis)
            dx = backward.function(backend.array(dy), backend.array(x), axis=axis)
        if backend.recording:
            return
        assert keeps_order(dx, x)
        options = {"axis": axis}
        y, dx = backend.numpy(y), backend.numpy(dx)
        assert_close(y, op.reference(x, axis=axis), scale=condition(op.reference, (x,), options))
        wanted = backward.reference(dy, x, axis=axis)
        scale = condition(backward.reference, (dy, x), options)
        if backend.is_cupy:
            scale = scale + flushed(dy, x, axis)
        assert_close(dx, wanted, scale=scale)

    backend.precompiled(right)


def flushed(dy, x, axis):
    """What the gradient of glu loses where a GPU takes a subnormal logistic function for 0."""
    value = np.split(wide(x), 2, axis)[0]
    factors = np.concatenate([np.abs(wide(dy)), np.abs(wide(dy) * value)], axis)
    return factors * float(np.finfo(np.float32).tiny) / np.finfo(np.float32).eps


# ---- out -----------------------------------------------------------------------------------


@pytest.mark.in_turn
def test_out_of_any_layout(backend):
    @given(st.data())
    def right(data):
        shape = data.draw(shapes(max_rank=4, most=300))
        dtype = data.draw(st.sampled_from(["float32", "float16"]))
        itemsize = numpy_dtype(dtype).itemsize
        x = place(data.draw(numbers(shape, dtype)), data.draw(layouts(shape, itemsize))).view
        layout = data.draw(layouts(shape, itemsize, byte_shifts=backend.is_cpu, writable=True))
        target = place(np.zeros(shape, x.dtype), layout)
        out = backend.array(target.view)
        with backend.context():
            result = nnk.relu(backend.array(x), out=out)
        if backend.recording:
            return
        assert result is out
        assert_same_numbers(backend.numpy(out), np.maximum(x, x.dtype.type(0)), "relu into out")
        assert target.is_unchanged_outside  # on a GPU the copy's surroundings are not looked at

    backend.precompiled(right)


@pytest.mark.in_turn
def test_out_may_be_an_operand(backend):
    def body():
        generator = np.random.default_rng(11)
        order, steps = (1, 0), (2, -1)
        for position in range(3):
            layout = lay_out((13, 21), 4, order, steps)
            parts = [place(make_numbers(generator, (13, 21), "float32"), layout) for _ in range(3)]
            values = [p.view.copy() for p in parts]
            arrays = [backend.array(p.view) for p in parts]
            with backend.context(position):
                nnk.logsumexp_backward(*arrays, axis=(), out=arrays[position])
            if not backend.recording:
                dy, x, y = (v.astype(np.float64) for v in values)
                wanted = (dy * np.exp(x - y)).astype(np.float32)
                assert_close(backend.numpy(arrays[position]), wanted, scale=np.abs(wanted) * 10)
                for other in {0, 1, 2} - {position}:
                    assert_same_bits(backend.numpy(arrays[other]), values[other], "an operand")

    backend.precompiled(body)


# ---- memory, determinism, threads ----------------------------------------------------------


def test_no_operand_is_copied():
    x = np.ones((700, 600), np.float32)[::2, ::-3].T
    gate = np.ones((300, 1, 200), np.float32)[:, 0]
    out = np.empty((350, 200), np.float32).T
    with nnk.use_backend("cpu"):
        nnk.swiglu(x, gate[:200, :1], out=out)  # the plan and the kernel are made here
        tracemalloc.start()
        try:
            nnk.swiglu(x, gate[:200, :1], out=out)
            with_out = tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
            nnk.silu(x)
            nnk.silu(x)
            without = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert with_out < 16_000
    assert without < 2 * x.size * 4 + 100_000


def test_two_runs_and_any_number_of_threads_give_the_same_bits():
    generator = np.random.default_rng(12)
    x = make_numbers(generator, (300, 900), "float32", "wide")
    gate = make_numbers(generator, (900, 300), "float32").T
    y, again = same_on_any_threads(lambda: (nnk.swiglu(x, gate), nnk.swiglu(x, gate)))
    assert_same_bits(y, again, "a second run")
    assert_right(OPS["swiglu"], y, [x, gate], {})


def test_the_order_of_threads_does_not_matter(simulator):
    x = make_numbers(np.random.default_rng(13), (3, 50), "float32")
    results = []
    for seed in range(5):
        with simulator.context(seed):
            results.append(nnk.mish(x))
    for other in results[1:]:
        assert_same_bits(results[0], other, "mish in another order of threads")


# ---- identities ----------------------------------------------------------------------------


@pytest.mark.in_turn
def test_identities(backend):
    def body():
        x = make_numbers(np.random.default_rng(14), (3, 65), "float32")
        x_ = backend.array(x)
        minus = backend.array(-x)
        with backend.context(2):
            pairs = {
                "relu is idempotent": (nnk.relu(nnk.relu(x_)), nnk.relu(x_)),
                "celu with alpha 1 is elu": (nnk.celu(x_), nnk.elu(x_)),
                "relu6 is a hard tanh": (nnk.relu6(x_), nnk.hard_tanh(x_, min=0.0, max=6.0)),
                "leaky relu with slope 0 is relu": (
                    nnk.leaky_relu(x_, negative_slope=0.0),
                    nnk.relu(x_),
                ),
                "tanh is odd": (nnk.tanh(x_), -nnk.tanh(minus)),
                "log_cosh is even": (nnk.log_cosh(x_), nnk.log_cosh(minus)),
                "silu with slope 0 is x / 2": (nnk.silu(x_, beta=0.0), 0.5 * x_),
                "sigmoids of x and -x add up to 1": (
                    nnk.sigmoid(x_) + nnk.sigmoid(minus),
                    0 * x_ + 1,
                ),
                "swiglu with 1 is silu": (nnk.swiglu(0 * x_ + 1, x_), nnk.silu(x_)),
                "log_sigmoid is minus softplus": (nnk.log_sigmoid(minus), -nnk.softplus(x_)),
            }
        if not backend.recording:
            for what, (a, b) in pairs.items():
                assert_close(backend.numpy(a), backend.numpy(b), what=what)

    backend.precompiled(body)


# ---- any block, any vector -------------------------------------------------------------------

# Threads of a block, vector width, unrolling, vectors of a tile.
BLOCKS = [
    (1, 1, 1, 5),
    (7, 2, 3, 21),
    (32, 4, 1, 32),
    (65, 1, 2, 200),
    (128, 4, 4, 100),
    (256, 2, 1, 1024),
]


@pytest.mark.in_turn
@pytest.mark.parametrize(("shape", "order"), [((1500,), (0,)), ((7, 9, 24), (2, 0, 1))], ids=str)
def test_any_block_and_vector_gives_the_right_answer(shape, order, simulator, monkeypatch):
    original = config.configure
    strides = lay_out(shape, 4, order, [1] * (len(shape) - 1) + [2])

    def body():
        generator = np.random.default_rng(15)
        for threads, vector, unroll, tile in BLOCKS:

            def configure(problem, device, chosen=(threads, vector, unroll, tile)):
                found = original(problem, device)
                threads, vector, unroll, tile = chosen
                vector = min(vector, found.vector)  # no wider than alignment allows
                return replace(found, threads=threads, vector=vector, unroll=unroll, tile=tile)

            monkeypatch.setattr(config, "configure", configure)
            for layout in (dense(shape, 4), strides):
                x = place(make_numbers(generator, shape, "float32"), layout).view
                gate = make_numbers(generator, shape[-1:], "float32")
                simulator.machine.plans.clear()
                with simulator.context(threads):
                    y = nnk.swiglu(x, gate)
                if not simulator.recording:
                    what = f" in blocks of {threads}, vectors of {vector}"
                    assert_right(OPS["swiglu"], y, [x, gate], {}, what)

    simulator.precompiled(body)
    simulator.machine.plans.clear()


def test_every_floating_dtype_is_in_every_record():
    assert all(set(FLOATING) <= set(op.dtypes) for op in OPS.values())
