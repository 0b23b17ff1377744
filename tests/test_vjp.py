"""Gradients against difference quotients, and what every gradient must obey."""

from __future__ import annotations

import numpy as np
import pytest
from comparing import assert_close, wide
from strategies import make_numbers

import nnkernels as nnk
from nnkernels import registry
from nnkernels.registry import COMPLEX

OPS = registry.all_ops()
DIFFERENTIABLE = [op for op in OPS.values() if op.gradient is not None]


def cases(op):
    """Small shapes with every option of the record's examples, in float64 and complex128."""
    dtypes = ["float64"] + ["complex128"] * bool(set(COMPLEX) & set(op.dtypes))
    for dtype in dtypes:
        for example in op.examples:
            shapes = tuple(tuple(min(n, _limit(n)) for n in shape) for shape in example.shapes)
            yield dtype, shapes, example.options


def _limit(n):
    return 10 if n % 2 == 0 else 7  # even lengths stay even


def operands_for(op, shapes, dtype, seed, options=None):
    """Numbers at least 1e-3 away from kinks, and complex ones away from poles (1.57 i is one)."""
    generator = np.random.default_rng(seed)
    found = []
    for name, shape in zip(op.arrays, shapes, strict=False):
        if name in op.special:
            found.append(op.special[name](generator, shapes, options or {}))
            continue
        x = make_numbers(generator, shape, dtype)
        if x.dtype.kind == "f":
            near = np.abs(x - np.round(4 * x) / 4) < 1e-3
            x = np.where(near, x + 2e-3, x)
        else:
            x = x.real + 1j * np.clip(x.imag, -1, 1)
        found.append(x)
    return [
        np.abs(x) + 0.25 if name in op.positive else x
        for name, x in zip(op.arrays, found, strict=False)
    ]


def call(op, arrays, options):
    """The results of a call, as a tuple."""
    positional, named = op.arguments(arrays, options)
    result = op.function(*positional, **named)
    return result if isinstance(result, tuple) else (result,)


def pull_back(op, arrays, options):
    """The first result and what pulls its cotangent back: the others are not differentiated.

    Gradients of arrays in lists stand in a row with the others, as the arrays do.
    """
    positional, named = op.arguments(arrays, options)
    y, pullback = nnk.vjp(op.function, *positional, **named)
    if not isinstance(y, tuple):
        return y, lambda dy: registry.flat(pullback(dy))
    return y[0], lambda dy: pullback(dy, *(None,) * (len(y) - 1))


def inner(a, b):
    """The inner product; for complex numbers its real part, as those of R^2 have it."""
    return float(np.sum(np.conj(wide(a)) * wide(b)).real)


def test_every_forward_op_has_a_gradient():
    forward = {op.name for op in OPS.values() if not op.is_gradient}
    assert forward == {op.name for op in DIFFERENTIABLE}
    for name in forward:
        assert OPS[name].gradients
        assert set(OPS[name].gradients) <= set(OPS), name
    for name in set(OPS) - forward:
        assert name in OPS[OPS[name].forward].gradients, name


@pytest.mark.in_turn
@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_gradient_is_the_limit_of_difference_quotients(op, backend):
    step = 1e-5

    def body():
        for seed, (dtype, shapes, options) in enumerate(cases(op)):
            operands = operands_for(op, shapes, dtype, seed, options)
            generator = np.random.default_rng(1000 + seed)
            arrays = [backend.array(x) for x in operands]
            with backend.context(seed):
                y, pullback = pull_back(op, arrays, options)
                dy = make_numbers(generator, tuple(y.shape), dtype)
                gradients = pullback(backend.array(dy))
            assert len(gradients) == len(operands)
            for i, x in enumerate(operands):
                if gradients[i] is None:
                    assert op.arrays[i].startswith(("running", "indices")), "no gradient"
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
                            sides.append(backend.numpy(call(op, moved, options)[0]))
                    if backend.recording:
                        continue
                    gradient = backend.numpy(gradients[i])
                    assert gradient.shape == x.shape
                    assert gradient.dtype == x.dtype
                    quotient = inner(dy, (sides[0] - sides[1]) / (2 * step))
                    size = np.sum(np.abs(dy)) * 10 + np.sum(np.abs(gradient * direction))
                    assert abs(inner(gradient, direction) - quotient) <= 1e-8 * size, (i, options)

    backend.precompiled(body)


@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_pullbacks_are_linear(op, cpu):
    def body():
        generator = np.random.default_rng(40)
        dtype, shapes, options = next(cases(op))
        operands = operands_for(op, shapes, dtype, 41, options)
        y, pullback = pull_back(op, operands, options)
        one, two = (make_numbers(generator, y.shape, dtype) for _ in range(2))
        pulled = [pullback(dy) for dy in (one, two, one + 3 * two, np.zeros_like(one))]
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
        value = call(op, operands, options)[0]
        assert cpu.recording or np.array_equal(y, value)

    cpu.precompiled(body)


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
        (nnk.relu_backward, "no gradient"),
    ],
    ids=["a function of NumPy", "no function", "a backward function"],
)
def test_only_differentiable_functions(function, message):
    with pytest.raises(TypeError, match=message):
        nnk.vjp(function, np.ones(3), np.ones(3))


def test_out_is_refused():
    with pytest.raises(TypeError, match="out"):
        nnk.vjp(nnk.relu, np.ones(3), out=np.empty(3))
