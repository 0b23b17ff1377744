"""Gradients of fused functions: against differences, and of the right shapes and dtypes."""

from __future__ import annotations

import numpy as np
import pytest
from comparing import assert_close, assert_same_numbers
from fusing import Recipe
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import examples

import nnkernels as nnk
from nnkernels.fusion.activations import ACTIVATIONS, GRADIENTS
from nnkernels.fusion.derivative import _RULES, gradient
from nnkernels.fusion.expression import OPERATIONS
from nnkernels.fusion.functions import FUNCTIONS
from nnkernels.reference import fusion as reference

SMOOTH = [
    FUNCTIONS[op.name]
    for op in OPERATIONS.values()
    if "f" in op.kinds and not op.truth and op.name not in ("floor", "ceil", "round", "sign")
]
OPERANDS = {FUNCTIONS[op.name]: op.operands for op in OPERATIONS.values()}


def differences(fused, arrays, dys):
    """Gradients by central differences of the reference, in float64."""
    traced = fused._traced([a.dtype for a in arrays])
    numbers = [s.value for s in traced.sources]

    def value(*moved):
        results = reference.evaluate(traced.program, moved, numbers)
        return sum(d * r for d, r in zip(dys, results, strict=True) if r.dtype.kind == "f")

    gradients = []
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    for i, x in enumerate(arrays):
        step = 1e-6 * np.maximum(np.abs(x), 1.0)
        sides = [value(*arrays[:i], x + s * step, *arrays[i + 1 :]) for s in (1, -1)]
        terms = np.broadcast_to((sides[0] - sides[1]) / (2 * step), shape)
        missing = terms.ndim - x.ndim
        terms = terms.sum(axis=tuple(range(missing)))
        axes = tuple(a for a, n in enumerate(x.shape) if n == 1)
        gradients.append(terms.sum(axis=axes, keepdims=True))
    return gradients


def check(fused, arrays, dys, places=2e-5):
    with np.errstate(all="ignore"):
        wanted = differences(fused, arrays, dys)
    results, pullback = nnk.vjp(fused, *arrays)
    several = isinstance(results, tuple)
    found = pullback(*(dys if several else dys[:1]))
    for i, (g, w) in enumerate(zip(found, wanted, strict=True)):
        assert g.shape == arrays[i].shape
        known = np.isfinite(w)
        scale = np.maximum(np.abs(w), 1.0)
        far = known & ~(np.abs(g - w) <= places * scale)
        assert not far.any(), f"gradient {i}: {g[far][0]} and {w[far][0]} by differences"


def test_every_operation_has_a_rule():
    chosen = [op for op in OPERATIONS.values() if "f" in op.kinds and not op.truth]
    assert {op.name for op in chosen} <= set(_RULES)
    generator = np.random.default_rng(2)
    x, y = generator.uniform(0.3, 2.2, (2, 60))
    dys = generator.standard_normal((len(chosen), 60))

    @nnk.fuse
    def every(x, y):
        return tuple(FUNCTIONS[op.name](*(x, y)[: op.operands]) for op in chosen)

    program = every._traced([x.dtype, y.dtype]).program
    pullback = nnk.vjp(every, x, y)[1]
    for i, op in enumerate(chosen):
        one = nnk.fuse(lambda x, y, i=i: every.fused_function(x, y)[i])
        wanted = differences(one, [x, y], [dys[i]])
        given = tuple(k == i for k in range(len(chosen)))
        derived = gradient(program, given, (False, False))
        found = reference.evaluate(
            derived.program, [(dys[i], x, y)[k] for k in derived.used], derived.values(())
        )
        for g, w in zip(found, wanted, strict=True):
            assert np.allclose(g, w, rtol=2e-5, atol=2e-5), op.name
    # All of them in one kernel: the sum of all.
    wanted = [sum(parts) for parts in zip(*(
        differences(nnk.fuse(lambda x, y, i=i: every.fused_function(x, y)[i]), [x, y], [dys[i]])
        for i in range(len(chosen))
    ), strict=True)]  # fmt: skip
    for g, w in zip(pullback(*dys), wanted, strict=True):
        assert np.allclose(g, w, rtol=1e-4, atol=1e-4)


def every_activation(x, y):
    return (
        nnk.relu(x), nnk.relu6(x), nnk.leaky_relu(x), nnk.threshold_relu(x, theta=0.4),
        nnk.elu(x), nnk.celu(x, alpha=0.7), nnk.selu(x), nnk.sigmoid(x), nnk.log_sigmoid(x),
        nnk.hard_sigmoid(x, alpha=0.3), nnk.softplus(x, beta=2.0), nnk.tanh(x), nnk.hard_tanh(x),
        nnk.tanh_shrink(x), nnk.lisht(x), nnk.log_cosh(x), nnk.softsign(x), nnk.silu(x, beta=1.5),
        nnk.gelu(x), nnk.gelu(x, approximate="tanh"), nnk.mish(x), nnk.hard_swish(x),
        nnk.soft_shrink(x), nnk.hard_shrink(x), nnk.swiglu(x, y), nnk.geglu(x, y),
        nnk.prelu(x, y, axis=0),
    )  # fmt: skip


def test_every_activation():
    fused = nnk.fuse(every_activation)
    generator = np.random.default_rng(4)
    x, y = generator.standard_normal((2, 50)) * 2
    x += 0.003  # off the kinks
    program = fused._traced([x.dtype, y.dtype]).program
    used = {n.detail.name for n in program.nodes if n.op == "activation"}
    assert used == set(ACTIVATIONS)
    dys = list(generator.standard_normal((len(program.outputs), 50)))
    check(fused, [x, y], dys)
    derived = gradient(program, (True,) * len(dys), (False, False))
    assert {n.detail.name for n in derived.program.nodes if n.op == "activation"} >= set(GRADIENTS)
    # The reference of the gradient is the same function.
    found = nnk.vjp(fused, x, y)[1](*dys)
    with nnk.use_backend("reference"):
        wanted = nnk.vjp(fused, x, y)[1](*dys)
    for g, w in zip(found, wanted, strict=True):
        assert_close(g, w, 60, 30.0, "gradient")


@st.composite
def cases(draw):
    steps = []
    for _ in range(draw(st.integers(1, 6))):
        function = draw(st.sampled_from(SMOOTH))
        places = tuple(draw(st.integers(0, 9)) for _ in range(OPERANDS[function]))
        number = draw(st.sampled_from([0, 0.5, 2.0])) if len(places) > 1 else 0
        steps.append((function, places, number))
    shapes = draw(st.sampled_from([[(7,)], [(5, 4), (4,)], [(5, 1), (1, 4), (5, 4)], [(), (3, 2)]]))
    return Recipe(steps, draw(st.integers(1, 2))), shapes, draw(st.integers(0, 2**32 - 1))


def test_random_functions(cpu):
    @examples(1.0)
    @given(cases())
    def right(case):
        recipe, shapes, seed = case
        generator = np.random.default_rng(seed)
        arrays = [generator.uniform(0.3, 1.7, shape) for shape in shapes]
        fused = nnk.fuse(recipe)
        shape = np.broadcast_shapes(*shapes)
        dys = [generator.standard_normal(shape) for _ in range(recipe.results)]
        traced = fused._traced([a.dtype for a in arrays])
        with np.errstate(all="ignore"):
            values = reference.evaluate(traced.program, arrays, [s.value for s in traced.sources])
        # Differences of large numbers have no digits, and quotients have jumps.
        assume(all(np.all(np.abs(v) < 1e3) for v in values))
        text = str(traced.program)
        assume("floor_divide" not in text and "remainder" not in text)
        with cpu.context():
            if cpu.recording:
                nnk.vjp(fused, *arrays)[1](*dys)
            else:
                check(fused, arrays, dys, 1e-4)

    cpu.precompiled(right)


@pytest.mark.in_turn
def test_narrow_types_broadcast_and_numbers(backend):
    # The gradient of the bias is a sum of terms in float32, rounded once.
    fused = nnk.fuse(lambda x, b, s: nnk.silu(x * s + b))
    generator = np.random.default_rng(7)
    x = generator.standard_normal((33, 20)).astype(np.float16)
    b = generator.standard_normal(20).astype(np.float16)
    dy = generator.standard_normal((33, 20)).astype(np.float16)
    with backend.context():
        _, pullback = nnk.vjp(fused, backend.array(x), backend.array(b), 1.5)
        dx, db, ds = pullback(backend.array(dy))
    dx, db = backend.numpy(dx), backend.numpy(db)
    assert ds is None
    assert (dx.dtype, db.dtype) == (np.float16, np.float16)
    z = x.astype(np.float64) * 1.5 + b
    slope = dy * (1 / (1 + np.exp(-z))) * (1 + z * (1 - 1 / (1 + np.exp(-z))))
    assert_close(dx, (slope * 1.5).astype(np.float16), 1, 2.0, "dx")
    assert_close(db, slope.sum(0).astype(np.float16), 33, 8.0, "db")


def test_bools_and_integers_have_no_gradient():
    fused = nnk.fuse(lambda x, m, i: (np.where(m, x, 2 * x), x > 1, i + 1))
    x = np.array([0.5, 2.0])
    m = np.array([True, False])
    i = np.array([1, 2])
    _, pullback = nnk.vjp(fused, x, m, i)
    dx, dm, di = pullback(np.ones(2), None, None)
    assert dx.tolist() == [1.0, 2.0]
    assert dm is None
    assert di is None
    with pytest.raises(nnk.DTypeError, match="has no gradient"):
        nnk.vjp(nnk.fuse(lambda i: i * 2), i)
    with pytest.raises(nnk.ShapeError, match="cotangent 0"):
        pullback(np.ones(3), None, None)


def test_the_gradient_is_one_kernel(cpu, kernels):
    fused = nnk.fuse(lambda x, y: nnk.gelu(x * y) + x)
    x, y = np.ones((8, 9), np.float32), np.full((8, 9), 2, np.float32)
    with cpu.context():
        _, pullback = nnk.vjp(fused, x, y)
        del kernels[:]
        pullback(x)
    assert kernels == ["Elementwise"]


def test_an_unused_argument_has_a_gradient_of_zeros():
    fused = nnk.fuse(lambda x, y: x * 2.0)
    dx, dy = nnk.vjp(fused, np.ones((2, 3)), np.ones(3))[1](np.ones((2, 3)))
    assert_same_numbers(dx, np.full((2, 3), 2.0), "dx")
    assert_same_numbers(dy, np.zeros(3), "dy")
