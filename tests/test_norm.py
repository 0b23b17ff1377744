"""Layer, RMS, group and instance norm on every machine."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from comparing import assert_close, assert_same_bits, assert_same_numbers, wide
from hypothesis import given
from hypothesis import strategies as st
from layouts import is_dense, keeps_order, place
from norms import Call, laid_out, make_call
from strategies import examples, layouts, make_numbers, numbers, shapes
from threads import same_on_any_threads

import nnkernels as nnk
from nnkernels.dispatch import machines
from nnkernels.dispatch import norm as norm_dispatch
from nnkernels.registry import FLOATING

ROW_NORMS = ("layer_norm", "rms_norm")
DTYPES = ("float32", "float32", "float16", "bfloat16", "float64")


def axes_of(draw, rank):
    """One axis of either sign, several in any order, or all."""
    if draw(st.booleans()):
        return draw(st.integers(-rank, rank - 1))
    chosen = draw(st.lists(st.integers(0, rank - 1), unique=True, min_size=1, max_size=3))
    return tuple(a - rank if draw(st.booleans()) else a for a in chosen)


def divisors(number):
    return [n for n in range(1, max(number, 1) + 1) if number % n == 0]


@st.composite
def calls(draw, name, backend, most=1200):
    """A call in any layout, and what holds its memory."""
    dtype = draw(st.sampled_from(DTYPES))
    if name in ROW_NORMS:
        shape = draw(shapes(min_rank=1, max_rank=4, most=most))
        shared = {"axis": axes_of(draw, len(shape))}
    else:
        shape = draw(shapes(min_rank=1, max_rank=4, most=most))
        axis = draw(st.integers(-len(shape), len(shape) - 1))
        shared = {"axis": axis}
        if name == "group_norm":
            shared["num_groups"] = draw(st.sampled_from(divisors(shape[axis])))
    if draw(st.booleans()):
        shared["eps"] = 0.125
    if name == "rms_norm" and draw(st.booleans()):
        shared["offset"] = 1.0
    narrow = dtype in ("float16", "bfloat16")
    parameters = "float32" if narrow and draw(st.booleans()) else "same"
    x = draw(numbers(shape, dtype, subnormal=not backend.is_cupy, kinds=("ordinary", "wide")))
    call = make_call(name, np.random.default_rng(7), shape, dtype, parameters, x=x, **shared)
    # Every choice of parameters that are there.
    call.parameters = [p if draw(st.integers(0, 3)) else None for p in call.parameters]
    placed = [laid_out(draw, values, backend) for values in (x, *call.parameters)]
    call.x, *call.parameters = (p if p is None else p.view for p in placed)
    return call, [p for p in placed if p is not None]


# ---- any layout ----------------------------------------------------------------------------------


@pytest.mark.in_turn
@pytest.mark.parametrize("name", ["layer_norm", "group_norm"])
def test_any_layout(name, backend):
    @examples(0.6)
    @given(calls(name, backend), st.integers(0, 99))
    def right(case, seed):
        call, placed = case
        with backend.context(seed):
            y = call.run(backend)
        if backend.recording:
            return
        assert all(p.is_unchanged for p in placed)
        assert backend.is_own(y)
        assert is_dense(y)
        assert keeps_order(y, call.x)
        call.x = call.x.copy()
        call.assert_right(backend.numpy(y), f" {call.shared}")

    backend.precompiled(right)


# Rows in registers, in shared memory, in several blocks, side by side, of one element, of nothing.
SHAPES = (
    ((6, 70), -1), ((3, 700), -1), ((2, 20_000), -1), ((90, 12), 0), ((5, 1), -1), ((0, 7), -1),
    ((4, 0), -1), ((1, 5000), -1), ((70_000, 2), 0),
)  # fmt: skip
# RMS norms differ in the statistics alone.
RMS_SHAPES = tuple(("rms_norm", shape) for shape in (SHAPES[1], SHAPES[2], SHAPES[3]))


@pytest.mark.in_turn
def test_rows_of_every_length(backend):
    def body():
        generator = np.random.default_rng(60)
        for name, (shape, axis) in [*(("layer_norm", s) for s in SHAPES), *RMS_SHAPES]:
            call = make_call(name, generator, shape, axis=axis)
            with backend.context(2):
                y = call.run(backend)
            if not backend.recording:
                call.assert_right(backend.numpy(y), f" of {shape}")

    backend.precompiled(body)


def test_a_very_long_row(cpu):
    call = make_call("layer_norm", np.random.default_rng(61), (1, 2**20 + 3))
    call.assert_right(call.run(cpu))


GROUPS = (
    ((3, 8, 5, 4), {"num_groups": 4}),
    ((2, 6, 60), {"num_groups": 2}),
    ((3, 5, 4, 6), {"num_groups": 3, "axis": -1}),
    ((6, 40), {"num_groups": 2, "axis": 0}),
)


@pytest.mark.in_turn
@pytest.mark.parametrize("dtype", [d for d in FLOATING if d != "float32"])
def test_every_dtype(dtype, backend):
    def body():
        generator = np.random.default_rng(62)
        found = [make_call(name, generator, (6, 70), dtype) for name in ROW_NORMS]
        found += [make_call("group_norm", generator, s, dtype, **o) for s, o in GROUPS[:1]]
        if dtype in ("float16", "bfloat16"):  # the statistics and the parameters in float32
            found += [make_call("layer_norm", generator, (6, 70), dtype, "float32")]
        for call in found:
            with backend.context(3):
                y = call.run(backend)
            if not backend.recording:
                call.assert_right(backend.numpy(y), f" of {dtype}")

    backend.precompiled(body)


@pytest.mark.in_turn
def test_groups(backend):
    def body():
        generator = np.random.default_rng(63)
        for shape, options in GROUPS:
            call = make_call("group_norm", generator, shape, **options)
            last = np.moveaxis(np.ascontiguousarray(np.moveaxis(call.x, 1, -1)), -1, 1)
            for x in (call.x, last):
                call.x = x
                with backend.context(4):
                    y = backend.numpy(call.run(backend))
                if not backend.recording:
                    call.assert_right(y, f" of {shape}, {options}")
                    assert keeps_order(y, x)

    backend.precompiled(body)


# ---- numerics --------------------------------------------------------------------------------


@pytest.mark.in_turn
@pytest.mark.parametrize(("shape", "axis"), [((3, 4000), 1), ((500, 9), 0), ((2, 70_000), 1)])
def test_a_mean_far_above_the_deviation(shape, axis, backend):
    # The variance of 1e4 + 1e-2 z: what E[x^2] - E[x]^2 loses in float32 is a hundred times that.
    def body():
        z = np.random.default_rng(64).standard_normal(shape)
        x = (1e4 + 1e-2 * z).astype(np.float32)
        with backend.context(5):
            y = nnk.layer_norm(backend.array(x), axis=axis, eps=0.0)
        if backend.recording:
            return
        # The deviations are exact differences of near numbers; 1 / sqrt(variance) is their factor.
        exact = wide(x) - wide(x).mean(axis, keepdims=True)
        factor = (wide(backend.numpy(y)) * exact).sum(axis) / np.square(exact).sum(axis)
        variance = 1 / np.square(factor)
        error = np.abs(variance / np.square(exact).mean(axis) - 1)
        assert np.max(error) < 1e-3

    backend.precompiled(body)


@pytest.mark.in_turn
@pytest.mark.parametrize("name", ROW_NORMS)
def test_infinities_and_nan(name, backend):
    inf, nan = np.inf, np.nan
    x = np.array([[1, inf, 2, 3], [nan, 1, 2, 3], [-inf, inf, 0, 1], [1, 2, 3, 4]], np.float32)

    def body():
        with backend.context(6):
            y = getattr(nnk, name)(backend.array(x))
        if not backend.recording:
            y = backend.numpy(y)
            wrong = np.isnan(Call(name, x).expected())
            assert wrong[:3].any(axis=1).all()
            assert np.array_equal(np.isnan(y), wrong)

    backend.precompiled(body)


@pytest.mark.in_turn
def test_constant_rows(backend):
    x = np.stack([np.full(40, value, np.float32) for value in (0.0, 1e4, 0.1)])

    def body():
        bias = np.arange(40, dtype=np.float32)
        with backend.context(7):
            y = nnk.layer_norm(backend.array(x), None, backend.array(bias))
            nothing = nnk.layer_norm(backend.array(x), eps=0.0)
        if not backend.recording:
            if backend.is_cupy:
                # What the mean lacks is itself a rounded number, relative to a rounding of x.
                bound = 1e4 * np.finfo(np.float32).eps ** 2 / np.sqrt(1e-5)
                assert np.max(np.abs(backend.numpy(y) - bias)) < bound, "a constant row"
            else:
                assert_same_numbers(backend.numpy(y), np.tile(bias, (3, 1)), "a constant row")
            assert np.all(np.isnan(backend.numpy(nothing)))  # 0/0 is what was asked for

    backend.precompiled(body)


# ---- what is fused -------------------------------------------------------------------------------


@pytest.mark.in_turn
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "group_norm"])
def test_residual_and_activation(name, backend):
    def body():
        generator = np.random.default_rng(65)
        cases = [("float32", "silu"), ("float16", None)]
        for dtype, activation in cases:
            shape, options = GROUPS[0] if name == "group_norm" else ((5, 130), {})
            call = make_call(name, generator, shape, dtype, activation=activation, **options)
            residual = make_numbers(generator, shape, dtype)
            residual = np.asfortranarray(residual)  # of other strides than x
            with backend.context(8):
                result = call.run(backend, residual=residual)
            if backend.recording:
                continue
            y, total = backend.numpy(result)
            expected, wanted = call.expected(residual=residual)
            assert_same_numbers(total, wanted, "x + residual")
            call.x = wanted
            call.assert_right(y, f" of a sum, {dtype}", expected)

    backend.precompiled(body)


@pytest.mark.in_turn
def test_options_of_an_activation(backend):
    def body():
        from functools import partial

        activation = partial(nnk.leaky_relu, negative_slope=0.25)
        call = make_call("layer_norm", np.random.default_rng(66), (3, 33), activation=activation)
        with backend.context(9):
            y = call.run(backend)
        if not backend.recording:
            call.assert_right(backend.numpy(y))

    backend.precompiled(body)


# ---- identities ----------------------------------------------------------------------------------


@pytest.mark.in_turn
@pytest.mark.parametrize(("shape", "axis"), [((9, 64), 1), ((64, 9), 0)], ids=str)
def test_identities(shape, axis, backend):
    def body():
        generator = np.random.default_rng(67)
        # Whole numbers and a length that is a power of two: mean and deviations are exact.
        x = generator.integers(-9, 9, shape).astype(np.float32)
        rows, columns = generator.permutation(9), generator.permutation(64)

        def norm(values, function=nnk.layer_norm, **options):
            return backend.numpy(function(backend.array(values), axis=axis, **options))

        with backend.context(10):
            y = norm(x)
            shifted = norm(x + 32)
            scaled = norm(8 * x, eps=64 * 2.0**-10), norm(x, eps=2.0**-10)
            negated = norm(-x)
            permuted = norm(np.take(x, rows, 1 - axis))
            shuffled = norm(np.take(x, columns, axis))
            square = norm(x, nnk.rms_norm, eps=0.0)
            centred = norm(x - x.mean(axis, keepdims=True), nnk.rms_norm, eps=1e-5)
        if backend.recording:
            return
        assert_same_numbers(shifted, y, "layer norm of a shifted row")
        assert_same_numbers(*scaled, "layer norm of a scaled row")
        assert_same_numbers(negated, -y, "layer norm of a negated row")
        assert_same_numbers(permuted, np.take(y, rows, 1 - axis), "layer norm of permuted rows")
        assert_close(shuffled, np.take(y, columns, axis), 64, what="layer norm within a row")
        ones = np.ones(9, np.float32)
        assert_close(np.square(square).mean(axis), ones, 64, what="the mean square of an RMS norm")
        assert_close(y.sum(axis), 0 * ones, 64, scale=64.0, what="the sum of a layer norm")
        assert_close(centred, y, 64, scale=4.0, what="RMS norm of centred rows")

    backend.precompiled(body)


@pytest.mark.in_turn
def test_families_meet(backend):
    # One group is a layer norm of all but the batch; a group for each channel an instance norm.
    def body():
        generator = np.random.default_rng(68)
        x = make_numbers(generator, (3, 4, 32), "float32")
        with backend.context(11):
            view = backend.array(x)
            one = backend.numpy(nnk.group_norm(view, 1))
            layer = backend.numpy(nnk.layer_norm(view, axis=(1, 2)))
            four = backend.numpy(nnk.group_norm(view, 4))
            instance = backend.numpy(nnk.instance_norm(view))
            rows = backend.numpy(nnk.layer_norm(view))
        if not backend.recording:
            assert_close(one, layer, 128, what="one group")
            assert_same_numbers(four, instance, "a group for each channel")
            assert_close(instance, rows, 32, what="instance norm")

    backend.precompiled(body)


# ---- memory, determinism, threads ----------------------------------------------------------------


@pytest.mark.in_turn
def test_a_view_is_its_copy(backend):
    def body():
        generator = np.random.default_rng(69)
        whole = make_numbers(generator, (12, 96), "float32")
        weight = make_numbers(generator, (64,), "float32")
        views = (whole[::2, :64], whole[::-1, 32:], np.broadcast_to(whole[3, :64], (5, 64)))
        for view in views:
            found = []
            for x in (view, view.copy()):
                with backend.context(12):
                    y = nnk.layer_norm(backend.array(x), backend.array(weight))
                found.append(backend.numpy(y))
            if not backend.recording:
                assert_same_bits(*found, "a view and its copy")

    backend.precompiled(body)


def test_no_operand_is_copied():
    x = np.ones((800, 600), np.float32)[::2, ::-2].T  # rows of 400, of stride 4800
    out = np.empty((400, 300), np.float32).T
    weight = np.ones(800, np.float32)

    def call():
        for axis in (0, 1):
            part = weight[: 2 * x.shape[axis] : 2]
            nnk.layer_norm(x, part, part, axis=axis, out=out)
        nnk.group_norm(x, 2, weight[::2][:400], axis=1, out=out)

    call()  # the plans and the kernels are made here
    tracemalloc.start()
    try:
        call()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24_000


# Rows that are short, long, shared by several blocks, beside each other in memory, and few of them.
THREADED = [((3000, 20), 1), ((50, 3000), 1), ((2, 100_000), 1), ((700, 300), 0), ((20_000, 5), 0)]


@pytest.mark.parametrize(("shape", "axis"), THREADED, ids=str)
def test_any_number_of_threads_gives_the_same_bits(shape, axis, cpu):
    call = make_call("layer_norm", np.random.default_rng(70), shape, axis=axis)
    call.assert_right(same_on_any_threads(lambda: call.run(cpu)))


def test_the_order_of_threads_does_not_matter(simulator):
    generator = np.random.default_rng(71)
    for shape, axis in (((3, 700), 1), ((90, 12), 0)):
        call = make_call("layer_norm", generator, shape, axis=axis)
        found = []
        for seed in range(4):
            with simulator.context(seed):
                found.append(call.run(simulator))
        for other in found[1:]:
            assert_same_bits(found[0], other, "layer norm in another order of threads")


# ---- out -----------------------------------------------------------------------------------------


@pytest.mark.in_turn
@pytest.mark.parametrize("name", ["rms_norm", "instance_norm"])
def test_out_of_any_layout(name, backend):
    @examples(0.4)
    @given(st.data())
    def right(data):
        shape = data.draw(shapes(min_rank=2, max_rank=3, most=500))
        call = make_call(name, np.random.default_rng(72), shape)
        layout = data.draw(layouts(shape, 4, byte_shifts=backend.is_cpu, writable=True))
        target = place(np.zeros(shape, np.float32), layout)
        out = backend.array(target.view)
        with backend.context():
            result = call.run(backend, out=out)
        if not backend.recording:
            assert result is out
            call.assert_right(backend.numpy(out))
            assert target.is_unchanged_outside

    backend.precompiled(right)


@pytest.mark.in_turn
@pytest.mark.parametrize(("shape", "axis"), [((4, 90), 1), ((90, 4), 0), ((1, 20_000), 1)])
def test_out_may_be_the_operand(shape, axis, backend):
    def body():
        call = make_call("layer_norm", np.random.default_rng(73), shape, axis=axis)
        x = backend.array(call.x.copy())
        weight, bias = map(backend.array, call.parameters)
        with backend.context():
            result = nnk.layer_norm(x, weight, bias, axis=axis, out=x)
        if not backend.recording:
            assert result is x
            call.assert_right(backend.numpy(x), " in place")

    backend.precompiled(body)


# ---- a second oracle -----------------------------------------------------------------------------


def test_pytorch_agrees(cpu):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    generator = np.random.default_rng(74)

    def tensors(*arrays):
        return [torch.from_numpy(a) for a in arrays]

    call = make_call("layer_norm", generator, (6, 5, 7), axis=(1, 2))
    x, w, b = tensors(call.x, *call.parameters)
    call.assert_right(functional.layer_norm(x, (5, 7), w, b).numpy(), " by PyTorch")
    assert_close(call.run(cpu), functional.layer_norm(x, (5, 7), w, b).numpy(), 35, scale=9.0)
    call = make_call("rms_norm", generator, (6, 33))
    x, w = tensors(call.x, *call.parameters)
    theirs = functional.rms_norm(x, (33,), w, 1e-6).numpy()
    assert_close(call.run(cpu), theirs, 33, scale=9.0)
    call = make_call("group_norm", generator, (3, 8, 5, 4), num_groups=4)
    x, w, b = tensors(call.x, *call.parameters)
    assert_close(call.run(cpu), functional.group_norm(x, 4, w, b).numpy(), 40, scale=9.0)
    call = make_call("instance_norm", generator, (3, 5, 41))
    x, w, b = tensors(call.x, *call.parameters)
    theirs = functional.instance_norm(x, weight=w, bias=b).numpy()
    assert_close(call.run(cpu), theirs, 41, scale=9.0)


def test_an_empty_array_may_be_at_address_0():
    """As CuPy's are."""
    norm = norm_dispatch.norm_with("layer_kind", norm_dispatch.along_axes, -1, None, 1e-5, 0.0)
    x, machine = np.empty((0, 4), np.float32), machines.for_numpy()
    results = norm_dispatch._run_out(
        norm, (x, None, None, None), machine, lambda array: 0, np.empty_like(x)
    )
    assert results[0].shape == (0, 4)
