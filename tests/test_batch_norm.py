"""Batch norm and its gradient on every machine, in training and inference."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from comparing import assert_close, assert_same_bits, assert_same_numbers, wide
from hypothesis import given
from hypothesis import strategies as st
from layouts import is_dense, keeps_order
from norms import laid_out, make_call
from strategies import examples, make_numbers, numbers, shapes
from threads import same_on_any_threads

import nnkernels as nnk
from nnkernels.registry import FLOATING

DTYPES = ("float32", "float32", "float16", "float64")


def assert_forward(call, result, what="", **options):
    """Raise unless y, and in training the running statistics, are those of the reference."""
    expected = call.expected(**options)
    if not call.shared["training"]:
        call.assert_right(result, what)
        return
    y, *running = result
    call.assert_right(y, what, expected[0])
    size = np.abs(wide(call.x)).max(initial=1.0)
    for got, wanted, scale in zip(running, expected[1:], (size, size * size), strict=True):
        if wanted is None:
            assert got is None
        else:
            assert_close(got, wanted, call.length, scale + np.abs(wide(wanted)), f"running{what}")


@st.composite
def calls(draw, backend):
    """A call in any layout, what holds its memory, and a cotangent."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(shapes(min_rank=1, max_rank=4, most=1200))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    others = np.prod(shape) // max(shape[axis], 1) if shape[axis] else 2
    shared = {"axis": axis, "training": bool(others > 1) and draw(st.booleans())}
    parameters = "float32" if dtype != "float64" and draw(st.booleans()) else "same"
    x = draw(numbers(shape, dtype, subnormal=not backend.is_cupy, kinds=("ordinary", "wide")))
    call = make_call(
        "batch_norm", np.random.default_rng(7), shape, dtype, parameters, x=x, **shared
    )
    if shared["training"] and draw(st.booleans()):
        call.parameters[2:] = [None, None]
    weight, bias, *running = call.parameters
    weight, bias = (p if draw(st.integers(0, 3)) else None for p in (weight, bias))
    dy = draw(numbers(shape, dtype, kinds=("ordinary",)))
    placed = [laid_out(draw, v, backend) for v in (x, weight, bias, *running, dy)]
    call.x, *call.parameters, dy = (p if p is None else p.view for p in placed)
    return call, [p for p in placed if p is not None], dy


@pytest.mark.in_turn
def test_any_layout(backend):
    @examples(0.6)
    @given(calls(backend), st.integers(0, 99))
    def right(case, seed):
        call, placed, dy = case
        with backend.context(seed):
            result = call.run(backend)
            gradients = call.run_backward(backend, dy)
        if backend.recording:
            return
        assert all(p.is_unchanged for p in placed)
        y = result[0] if call.shared["training"] else result
        assert is_dense(y)
        assert keeps_order(y, call.x)
        call.x = call.x.copy()
        assert_forward(call, numpy_of(backend, result), f" {call.shared}")
        call.assert_right_backward(numpy_of(backend, gradients), dy.copy(), f" {call.shared}")

    backend.precompiled(right)


def numpy_of(backend, result):
    if not isinstance(result, tuple):
        return backend.numpy(result)
    return tuple(None if part is None else backend.numpy(part) for part in result)


# Few and many channels, in parts and not; the axis first, last, and alone.
SHAPES = (
    ((4, 3, 5, 6), 1), ((2, 3, 4000), 1), ((700, 5), 1), ((5, 70), 0), ((33, 64), -1), ((0, 3), 0),
    ((2, 40_000), 0), ((40_000, 2), 1), ((6,), 0), ((2, 1, 300), 1),
)  # fmt: skip


@pytest.mark.in_turn
@pytest.mark.parametrize("training", [True, False])
def test_shapes(training, backend):
    def body():
        generator = np.random.default_rng(101)
        for shape, axis in SHAPES:
            if training and np.prod(shape) == shape[axis]:
                continue
            call = make_call("batch_norm", generator, shape, axis=axis, training=training)
            dy = make_numbers(generator, shape, "float32")
            with backend.context(1):
                result = call.run(backend, momentum=0.25)
                gradients = call.run_backward(backend, dy)
            if not backend.recording:
                options = {"momentum": 0.25}
                assert_forward(call, backend.numpy(result), f" of {shape}", **options)
                call.assert_right_backward(backend.numpy(gradients), dy, f" of {shape}")

    backend.precompiled(body)


@pytest.mark.in_turn
@pytest.mark.parametrize("dtype", FLOATING)
def test_every_dtype(dtype, backend):
    def body():
        generator = np.random.default_rng(102)
        cases = {  # dtypes of the parameters, and whether in training
            "float16": (("same", True), ("float32", False)),
            "bfloat16": (("same", False), ("float32", True)),
        }.get(dtype, (("same", True), ("same", False)))
        for kind, training in cases:
            call = make_call("batch_norm", generator, (3, 4, 30), dtype, kind, training=training)
            if dtype in ("float32", "float64"):  # else dy times its slope is rounded once more
                call.shared["activation"] = "silu"
            dy = make_numbers(generator, call.x.shape, dtype)
            with backend.context(2):
                result = call.run(backend)
                gradients = call.run_backward(backend, dy)
            if backend.recording:
                continue
            assert_forward(call, backend.numpy(result), f" of {dtype}")
            call.assert_right_backward(backend.numpy(gradients), dy, f" of {dtype}")

    backend.precompiled(body)


# ---- numerics ------------------------------------------------------------------------------------


@pytest.mark.in_turn
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_a_mean_far_above_the_deviation(last, backend):
    def body():
        z = np.random.default_rng(103).standard_normal((6, 4, 30, 33))
        x = (1e4 + 1e-2 * z).astype(np.float32)
        if last:
            x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
        zeros, ones = np.zeros(4, np.float32), np.ones(4, np.float32)
        arrays = [backend.array(a) for a in (x, ones, zeros, zeros, ones)]
        with backend.context(3):
            y, mean, variance = nnk.batch_norm(*arrays, training=True, momentum=1.0, eps=0.0)
        if backend.recording:
            return
        axes = (0, 2, 3)
        exact = wide(x).var(axes, ddof=1)
        assert np.max(np.abs(backend.numpy(variance) / exact - 1)) < 1e-3
        assert_close(backend.numpy(mean), wide(x).mean(axes).astype(np.float32), 1)
        y = wide(backend.numpy(y))
        assert np.max(np.abs(y.var(axes) - 1)) < 1e-3
        assert np.max(np.abs(y.mean(axes))) < 0.1

    backend.precompiled(body)


@pytest.mark.in_turn
def test_constant_channels(backend):
    x = np.broadcast_to(np.array([0, 1e4, 0.1], np.float32)[:, None], (4, 3, 25))

    def body():
        with backend.context(4):
            y, _, _ = nnk.batch_norm(backend.array(x), training=True)
            nothing, _, _ = nnk.batch_norm(backend.array(x), training=True, eps=0.0)
        if not backend.recording:
            assert_same_numbers(backend.numpy(y), np.zeros(x.shape, np.float32), "constant")
            assert np.all(np.isnan(backend.numpy(nothing)))  # 0/0 is what was asked for

    backend.precompiled(body)


@pytest.mark.in_turn
def test_one_channel_of_nan_spoils_no_other(backend):
    x = make_numbers(np.random.default_rng(104), (6, 3, 20), "float32")
    x[2, 1, 7] = np.nan

    def body():
        with backend.context(5):
            y, _, _ = nnk.batch_norm(backend.array(x), training=True)
        if not backend.recording:
            spoilt = np.isnan(backend.numpy(y)).all(axis=(0, 2))
            assert spoilt.tolist() == [False, True, False]
            assert np.isnan(backend.numpy(y)).sum() == 6 * 20

    backend.precompiled(body)


# ---- identities ----------------------------------------------------------------------------------


@pytest.mark.in_turn
def test_identities(backend):
    def body():
        generator = np.random.default_rng(105)
        x = generator.integers(-9, 9, (8, 4, 16)).astype(np.float32)
        order = generator.permutation(4)
        zeros, ones = np.zeros(4, np.float32), np.ones(4, np.float32)

        def norm(values):
            return backend.numpy(nnk.batch_norm(backend.array(values), training=True)[0])

        with backend.context(6):
            y, shifted, permuted = norm(x), norm(x + 64), norm(x[:, order])
            after, mean, var = nnk.batch_norm(
                *map(backend.array, (x, ones, zeros, zeros, ones)), training=True, momentum=1.0
            )
            biased = backend.numpy(var) * np.float32(127 / 128)
            again = nnk.batch_norm(
                backend.array(x), None, None, mean, backend.array(biased), training=False
            )
            layer = nnk.layer_norm(backend.array(x), axis=(0, 2))
        if backend.recording:
            return
        # Whole numbers, and 128 of them: means and deviations are exact.
        assert_same_numbers(shifted, y, "a shift")
        assert_same_numbers(permuted, y[:, order], "permuted channels")
        assert_same_numbers(backend.numpy(after), y, "weight 1 and bias 0")
        assert_close(backend.numpy(again), y, 128, scale=4.0, what="inference by the same numbers")
        assert_close(backend.numpy(layer), y, 128, scale=4.0, what="a layer norm over all but C")

    backend.precompiled(body)


def test_inputs_are_untouched_and_momentum_mixes(cpu):
    call = make_call("batch_norm", np.random.default_rng(106), (5, 3, 7), training=True)
    before = [p.copy() for p in call.parameters]
    for momentum in (0.0, 0.25, 1.0):
        _, mean, var = call.run(cpu, momentum=momentum)
        batch = wide(call.x).mean((0, 2)), wide(call.x).var((0, 2), ddof=1)
        for got, old, new in zip((mean, var), call.parameters[2:], batch, strict=True):
            wanted = (1 - momentum) * wide(old) + momentum * new
            assert_close(got, wanted.astype(np.float32), 35, scale=20.0)
    for kept, old in zip(call.parameters, before, strict=True):
        assert_same_bits(kept, old, "an argument")


def test_pullback(cpu):
    call = make_call("batch_norm", np.random.default_rng(107), (5, 3, 7), "float64", training=True)
    (y, mean, _), pullback = nnk.vjp(nnk.batch_norm, call.x, *call.parameters, training=True)
    dy = make_numbers(np.random.default_rng(108), y.shape, "float64")
    gradients = pullback(dy, None, None)
    assert len(gradients) == 5
    assert gradients[3:] == (None, None)
    call.assert_right_backward(gradients[:3], dy)
    with pytest.raises(TypeError, match="running statistics are not differentiated"):
        pullback(dy, mean, None)
    _, pullback = nnk.vjp(nnk.batch_norm, call.x, training=True)
    (dx,) = pullback(dy, None, None)
    assert dx.shape == call.x.shape
    with pytest.raises(TypeError, match="cotangent 1 must be None, as the result is"):
        pullback(dy, mean, None)


# ---- memory, determinism, threads ----------------------------------------------------------------

THREADED = (
    ((8, 16, 14, 14), False),
    ((8, 16, 14, 14), True),
    ((2000, 3), False),
    ((2, 3, 9000), True),
)


@pytest.mark.parametrize(("shape", "last"), THREADED, ids=str)
def test_any_number_of_threads_gives_the_same_bits(shape, last, cpu):
    generator = np.random.default_rng(109)
    call = make_call("batch_norm", generator, shape, training=True)
    if last:
        call.x = np.moveaxis(np.ascontiguousarray(np.moveaxis(call.x, 1, -1)), -1, 1)
    dy = make_numbers(generator, shape, "float32")
    found = same_on_any_threads(lambda: (*call.run(cpu), *call.run_backward(cpu, dy)))
    assert_forward(call, found[:3])
    call.assert_right_backward(found[3:], dy)


@pytest.mark.in_turn
def test_the_order_of_threads_does_not_matter(simulator):
    generator = np.random.default_rng(110)
    for shape in ((3, 4, 70), (90, 12)):
        call = make_call("batch_norm", generator, shape, training=True)
        dy = make_numbers(generator, shape, "float32")
        found = []
        for seed in range(3):
            with simulator.context(seed):
                found.append((*call.run(simulator), *call.run_backward(simulator, dy)))
        for other in found[1:]:
            for a, b in zip(found[0], other, strict=True):
                assert_same_bits(a, b, "batch norm in another order of threads")


def test_no_operand_is_copied(cpu):
    x = np.ones((400, 600), np.float32)[::2, ::-2].reshape(200, 3, 100).transpose(2, 1, 0)
    call = make_call("batch_norm", np.random.default_rng(111), x.shape, x=x, training=True)

    def results():
        return call.run(cpu), call.run_backward(cpu, x)

    results()
    tracemalloc.start()
    try:
        results()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * x.nbytes + 40_000  # y and dx


# ---- a second oracle -----------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_pytorch_agrees(training, cpu):
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(112)
    call = make_call("batch_norm", generator, (4, 3, 5, 6), "float64", training=training)
    dy = make_numbers(generator, call.x.shape, "float64")
    x, weight, bias = (torch.from_numpy(a).requires_grad_() for a in (call.x, *call.parameters[:2]))
    running = [torch.from_numpy(a.copy()) for a in call.parameters[2:]]
    y = torch.nn.functional.batch_norm(x, *running, weight, bias, training, 0.25, 1e-5)
    y.backward(torch.from_numpy(dy))
    result = call.run(cpu, momentum=0.25)
    ours = result if training else (result, *call.parameters[2:])
    for got, theirs in zip(ours, (y.detach(), *running), strict=True):
        assert_close(got, theirs.numpy(), 120, scale=20.0)
    for got, leaf in zip(call.run_backward(cpu, dy), (x, weight, bias), strict=True):
        assert_close(got, leaf.grad.numpy(), 120, scale=20.0)
