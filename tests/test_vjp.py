"""Gradients against difference quotients, and what every gradient must obey."""

from __future__ import annotations

import gc
import weakref

import ml_dtypes
import numpy as np
import pytest
from comparing import assert_close, wide
from differentiating import cases, operands_for
from hypothesis import settings
from strategies import make_numbers

import nnkernels as nnk
from nnkernels import registry

OPS = registry.all_ops()
DIFFERENTIABLE = [op for op in OPS.values() if op.is_differentiable]
FORWARD = [op for op in DIFFERENTIABLE if not op.is_gradient]
BACKWARD = [op for op in DIFFERENTIABLE if op.is_gradient]


def call(op, arrays, options):
    """The results of a call, as a tuple."""
    positional, named = op.arguments(arrays, options)
    result = op.function(*positional, **named)
    return result if isinstance(result, tuple) else (result,)


def pull_back(op, arrays, options, **more):
    """The results that are differentiated, and what pulls a list of cotangents back.

    Gradients of arrays in lists stand in a row with the others, as the arrays do.
    """
    positional, named = op.arguments(arrays, options)
    y, pullback = nnk.vjp(op.function, *positional, **named, **more)
    results = y if isinstance(y, tuple) else (y,)
    if not op.auxiliary:
        return results, lambda dys: registry.flat(pullback(*dys))
    return results[:1], lambda dys: pullback(*dys, *(None,) * (len(results) - 1))


def cotangents_for(generator, results, dtype):
    """Random numbers for each result, None for None."""
    return [None if y is None else make_numbers(generator, tuple(y.shape), dtype) for y in results]


def inner(a, b):
    """The inner product; for complex numbers its real part, as those of R^2 have it."""
    return float(np.sum(np.conj(wide(a)) * wide(b)).real)


# Gradients that have none: there is no second derivative.
ONCE = {
    "lp_pool_backward",
    "grid_sample_backward",
    "mlp_backward",
}


def test_every_op_has_a_gradient():
    forward = {op.name for op in OPS.values() if not op.is_gradient}
    assert set(OPS) - ONCE == {op.name for op in DIFFERENTIABLE}
    for name in forward:
        assert OPS[name].gradients
        assert set(OPS[name].gradients) <= set(OPS), name
    for name in set(OPS) - forward:
        assert name in OPS[OPS[name].forward].gradients, name


@pytest.mark.in_turn
@pytest.mark.parametrize("op", FORWARD, ids=lambda op: op.name)
def test_gradient_is_the_limit_of_difference_quotients(op, backend):
    check_quotients(op, backend)


# The simulator's kernels are the same source, and tests of backward and fused functions run them.
@pytest.mark.in_turn(by="none")
@pytest.mark.parametrize("op", BACKWARD, ids=lambda op: op.name)
def test_second_derivative_is_the_limit_of_difference_quotients(op, backend):
    check_quotients(op, backend)


def check_quotients(op, backend):
    step, chosen = 1e-5, list(cases(op))
    if backend.name.startswith("sim") and settings.default.derandomize:
        chosen = chosen[:1]  # the others are calls of the same functions in Python

    def body():
        for seed, (dtype, shapes, options) in enumerate(chosen):
            operands = operands_for(op, shapes, dtype, seed, options)
            generator = np.random.default_rng(1000 + seed)
            arrays = [backend.array(x) for x in operands]
            with backend.context(seed):
                y, pullback = pull_back(op, arrays, options)
                dys = cotangents_for(generator, y, dtype)
                gradients = pullback([None if dy is None else backend.array(dy) for dy in dys])
            assert len(gradients) == len(operands)
            for i, x in enumerate(operands):
                if gradients[i] is None and op.arrays[i] in op.constant:
                    continue
                for _ in range(3):
                    direction = make_numbers(generator, x.shape, dtype)
                    sides = []
                    for sign in (1, -1):
                        moved = [
                            *arrays[:i],
                            backend.array(x + sign * step * direction),
                            *arrays[i + 1 :],
                        ]
                        with backend.context():
                            sides.append(backend.numpy(call(op, moved, options)))
                    if backend.recording:
                        continue
                    quotient, size = 0.0, 0.0
                    for dy, after, before in zip(dys, *sides, strict=False):
                        if dy is not None:
                            quotient += inner(dy, (after - before) / (2 * step))
                            size += 10 * np.sum(np.abs(dy))
                    if gradients[i] is None:  # which is zero, and so takes nothing
                        assert abs(quotient) <= 1e-8 * size, (i, options)
                        continue
                    gradient = backend.numpy(gradients[i])
                    assert gradient.shape == x.shape
                    assert gradient.dtype == x.dtype
                    size += np.sum(np.abs(gradient * direction))
                    assert abs(inner(gradient, direction) - quotient) <= 1e-8 * size, (i, options)

    backend.precompiled(body)


@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_pullbacks_are_linear(op, cpu):
    def body():
        generator = np.random.default_rng(40)
        dtype, shapes, options = next(cases(op))
        operands = operands_for(op, shapes, dtype, 41, options)
        y, pullback = pull_back(op, operands, options)
        one, two = (cotangents_for(generator, y, dtype) for _ in range(2))
        both = [None if a is None else a + 3 * b for a, b in zip(one, two, strict=True)]
        nothing = [None if a is None else np.zeros_like(a) for a in one]
        pulled = [pullback(dys) for dys in (one, two, both, nothing)]
        if cpu.recording:
            return
        for a, b, together, zero in zip(*pulled, strict=True):
            if together is not None:
                assert_close(a + 3 * b, together, 100, scale=100.0)
            assert zero is None or not np.any(zero)

    cpu.precompiled(body)


@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_value_is_that_of_the_function(op, cpu):
    def body():
        dtype, shapes, options = next(cases(op))
        operands = operands_for(op, shapes, dtype, 42, options)
        y, _ = pull_back(op, operands, options)
        values = call(op, operands, options)
        for result, value in zip(y, values, strict=False):
            assert cpu.recording or value is None or np.array_equal(result, value)

    cpu.precompiled(body)


@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_references_have_the_same_gradients(op, cpu):
    def body():
        dtype, shapes, options = next(cases(op))
        operands = operands_for(op, shapes, dtype, 45, options)
        found = []
        for name in ("cpu", "reference"):
            if name == "reference" and cpu.recording:
                return
            with nnk.use_backend(name):
                y, pullback = pull_back(op, operands, options)
                found.append(pullback(cotangents_for(np.random.default_rng(46), y, dtype)))
        for a, b in zip(*found, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                assert (a.shape, a.dtype) == (b.shape, b.dtype)
                assert_close(a, b, 100, scale=100.0)

    cpu.precompiled(body)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_sums_of_the_references_are_rounded_once(dtype):
    """A second derivative that is summed over the axes along which an argument was broadcast."""
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    x = np.full((3000, 1), -1, kind)
    with nnk.use_backend("reference"):
        _, pullback = nnk.vjp(nnk.prelu_backward, x, x, np.ones(1, kind), axis=1)
        _, _, dweight = pullback(np.full_like(x, 1.5), None)
    assert dweight.dtype == kind
    assert dweight == kind.type(-4500)


def test_the_gradient_by_a_bias_that_moves_nothing_is_zero():
    """Whatever it is: not 0 times an infinity."""
    x, weight, bias = np.arange(6.0).reshape(2, 3), np.ones(3), np.array([np.inf, np.nan, 1.0])
    found, pullback = nnk.vjp(nnk.layer_norm_backward, x[::-1].copy(), x, weight, bias)
    gradients = pullback(*map(np.ones_like, found))
    assert gradients[3].tolist() == [0, 0, 0]
    assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("activation", [None, "relu"])
def test_a_result_is_kept_only_where_it_is_needed(activation):
    """The pullback of a layer without an activation lets its result go."""
    y, pullback = nnk.vjp(nnk.linear, np.ones((2, 3)), np.ones((4, 3)), activation=activation)
    watched = weakref.ref(y)
    del y
    gc.collect()
    assert (watched() is None) == (activation is None)
    assert pullback(np.ones((2, 4)))[0].shape == (2, 3)


def test_pullback_may_be_called_again():
    x = np.linspace(-2, 2, 9)
    _, pullback = nnk.vjp(nnk.softmax, x)
    dy = np.arange(9.0)
    (first,), (second,) = pullback(dy), pullback(dy)
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (np.tanh, "must be one of nnkernels"),
        ([], "must be one of nnkernels"),
        (nnk.grid_sample_backward, "no gradient"),
    ],
    ids=["a function of NumPy", "no function", "a backward function"],
)
def test_only_differentiable_functions(function, message):
    with pytest.raises(TypeError, match=message):
        nnk.vjp(function, np.ones(3), np.ones(3))


def test_out_is_refused():
    with pytest.raises(TypeError, match="out"):
        nnk.vjp(nnk.relu, np.ones(3), out=np.empty(3))


def test_what_is_not_wanted_is_not_made(cpu, monkeypatch):
    """No product is made for the gradient of an array that wrt leaves out."""
    from nnkernels.dispatch import matmul_gradients

    x, weight = np.ones((3, 4)), np.ones((5, 4))
    made = []
    product = matmul_gradients._product
    monkeypatch.setattr(
        matmul_gradients, "_product", lambda *a, **k: made.append(1) or product(*a, **k)
    )
    everything = nnk.vjp(nnk.linear, x, weight, np.ones(5))[1](np.ones((3, 5)))
    assert len(made) == 2
    for wrt, wanted in ((1, {1}), ((1, 2), {1, 2}), ((-1,), {2}), ([0], {0}), (None, {0, 1, 2})):
        made.clear()
        found = nnk.vjp(nnk.linear, x, weight, np.ones(5), wrt=wrt)[1](np.ones((3, 5)))
        assert {i for i, g in enumerate(found) if g is not None} == wanted
        assert len(made) == len(wanted & {0, 1})
        for i in wanted:
            assert np.array_equal(found[i], everything[i])


# (Positions of lists are those of arguments: see test_mlp.py.)
@pytest.mark.parametrize(
    "op", [op for op in DIFFERENTIABLE if not op.lists], ids=lambda op: op.name
)
def test_wrt_leaves_out_and_changes_nothing(op):
    with nnk.use_backend("reference"):
        dtype, shapes, options = next(cases(op))
        operands = operands_for(op, shapes, dtype, 43, options)
        y, pullback = pull_back(op, operands, options)
        dys = cotangents_for(np.random.default_rng(44), y, dtype)
        everything = pullback(dys)
        for i, name in enumerate(op.arrays[: len(operands)]):
            if name in op.constant:
                with pytest.raises(TypeError, match=f"no gradient with respect to {name}"):
                    pull_back(op, operands, options, wrt=i)
                continue
            found = pull_back(op, operands, options, wrt=i)[1](dys)
            assert all(g is None for k, g in enumerate(found) if k != i)
            assert (found[i] is None) == (everything[i] is None)
            assert found[i] is None or np.array_equal(found[i], everything[i])


@pytest.mark.parametrize(
    ("wrt", "error", "message"),
    [
        (2, ValueError, "position 2"),
        ((0, -3), ValueError, "position -3"),
        ("x", TypeError, "wrt must be"),
        (True, TypeError, "wrt must be"),
        (0.5, TypeError, "wrt must be"),
    ],
)
def test_wrong_wrt(wrt, error, message):
    with pytest.raises(error, match=message):
        nnk.vjp(nnk.matmul, np.ones((2, 2)), np.ones((2, 2)), wrt=wrt)


def test_cotangents_of_a_gradient_may_be_missing(cpu):
    """None stands for zeros, in every place."""
    x, weight = np.arange(6.0).reshape(2, 3), np.ones((4, 3))
    dy = np.arange(8.0).reshape(2, 4)
    _, pullback = nnk.vjp(nnk.linear_backward, dy, x, weight, np.ones(4))
    cotangents = (x + 1, 2 * weight, np.arange(4.0))
    for chosen in ((0,), (1,), (2,), (0, 2), (1, 2)):
        some = [c if i in chosen else None for i, c in enumerate(cotangents)]
        zeros = [c if i in chosen else np.zeros_like(c) for i, c in enumerate(cotangents)]
        for a, b in zip(pullback(*some), pullback(*zeros), strict=True):
            assert (a is None and not np.any(b)) or np.array_equal(a, b)
    with pytest.raises(TypeError, match="one cotangent at least"):
        pullback(None, None, None)
