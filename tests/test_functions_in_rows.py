"""Fused functions inside row kernels: prologues and epilogues of softmax, its kin and the norms."""

from __future__ import annotations

import numpy as np
import pytest
from fusing import Recipe, assert_right, named_steps
from hypothesis import assume, given
from hypothesis import strategies as st
from layouts import is_dense, keeps_order, place
from strategies import examples, layouts, make_numbers, shapes

import nnkernels as nnk
from nnkernels import DTypeError, ShapeError, TraceError
from nnkernels.fusion.expression import OPERATIONS
from nnkernels.fusion.functions import FUNCTIONS

# Functions whose results neither jump nor leave the range of numbers that a norm can take.
TAME = [
    (function, operands)
    for function, operands in named_steps()
    if function
    in [FUNCTIONS[n] for n in ("add", "subtract", "minimum", "maximum", "abs", "negative")]
]
assert TAME
assert OPERATIONS


def masked(x, mask, scale):
    return np.where(mask, x * scale, -3.0)


def tanh_sum(y, bias):
    return np.tanh(y) + bias


OPS = {
    "softmax": (nnk.softmax, {}),
    "log_softmax": (nnk.log_softmax, {}),
    "logsumexp": (nnk.logsumexp, {}),
    "layer_norm": (nnk.layer_norm, {}),
    "rms_norm": (nnk.rms_norm, {"activation": "silu"}),
    "instance_norm": (nnk.instance_norm, {"axis": 0}),
    "batch_norm": (nnk.batch_norm, {"axis": 0, "training": True}),
}


def results_of(found):
    return found if isinstance(found, tuple) else (found,)


def of_shape(draw, shape):
    """A shape that broadcasts to another."""
    kept = shape[draw(st.integers(0, len(shape))) :]
    return tuple(1 if draw(st.integers(0, 2)) == 0 else n for n in kept)


@st.composite
def cases(draw, backend, name):
    shape = draw(shapes(min_rank=2, max_rank=4, most=900, min_side=1))
    assume(name != "batch_norm" or np.prod(shape[1:]) > 1)
    dtype = draw(st.sampled_from(["float32", "float32", "float16", "float64"]))
    options = dict(OPS[name][1])
    if name in ("softmax", "log_softmax", "logsumexp", "layer_norm", "rms_norm"):
        axes = [-1, 0, (0, len(shape) - 1), None]
        options["axis"] = draw(st.sampled_from(axes))
    rng = np.random.default_rng(draw(st.integers(0, 99)))

    def placed(of, kind):
        values = rng.random(of) < 0.6 if kind == "bool" else make_numbers(rng, of, kind)
        layout = draw(layouts(of, values.dtype.itemsize, byte_shifts=backend.is_cpu))
        return place(values, layout)

    x = placed(shape, dtype)
    before = [placed(of_shape(draw, shape), k) for k in ("bool", dtype)]
    reduced = np.empty(shape).max(options["axis"]).shape if name == "logsumexp" else shape
    after = [placed(of_shape(draw, reduced), dtype)]
    steps = [
        (*draw(st.sampled_from(TAME))[:1], (draw(st.integers(0, 2)), draw(st.integers(0, 2))), 0)
        for _ in range(draw(st.integers(1, 3)))
    ]
    steps = [(f, p[: dict(TAME)[f]], n) for f, p, n in steps]
    return x, before, after, options, Recipe(steps, 1), draw(st.integers(1, 3)), rng


def run_both(name, case, backend, seed):
    """The fused call on a backend, and the same on the references."""
    x, (mask, shift), (bias,), options, recipe, kind, _ = case
    function = OPS[name][0]

    def prologue(x, mask, shift, scale):
        u = recipe(masked(x, mask, scale), shift)
        return (u, mask) if kind == 2 else u

    def epilogue(y, bias):
        z = tanh_sum(y, bias)
        return (z, y > 0.2718) if kind == 3 else z

    def call(array):
        return function(
            array(x.view),
            prologue=prologue,
            prologue_operands=(array(mask.view), array(shift.view), 0.5),
            epilogue=epilogue,
            operands=(array(bias.view),),
            **options,
        )

    with backend.context(seed):
        found = backend.numpy(results_of(call(backend.array)))
    if backend.recording:
        return found, None
    with nnk.use_backend("reference"):
        expected = results_of(call(lambda a: a))
    return found, expected


@pytest.mark.in_turn
@pytest.mark.parametrize("name", OPS)
def test_random_functions_of_any_layout(name, backend):
    @examples(0.2)  # each compiles a kernel of its own
    @given(cases(backend, name))
    def right(case):
        found, expected = run_both(name, case, backend, 1)
        if expected is None:
            return
        x, before, after, *_ = case
        assert all(p.is_unchanged for p in (x, *before, *after))
        assert len(found) == len(expected)
        y, wanted = found[0], expected[0]
        eps = {"float16": 2.0**-9, "float64": 1e-11}.get(y.dtype.name, 4e-5)
        assert y.dtype == wanted.dtype
        assert is_dense(y)
        if name != "logsumexp":
            assert keeps_order(y, x.view)
        # Near-constant rows of a norm magnify what is rounded before it.
        error = eps * 8 * (1 + np.abs(wanted.astype(np.float64)))
        if "norm" in name:
            error = error * 40
        assert_right(y, wanted.astype(np.float64), error, y.dtype.name, name)
        for got, other in zip(found[1:], expected[1:], strict=True):
            if other is None:
                assert got is None
                continue
            assert got.dtype == other.dtype
            assert got.shape == other.shape
            if other.dtype == bool:
                assert (got == other).mean() > 0.9

    backend.precompiled(right)


# ---- every regime -------------------------------------------------------------------------------

REGIMES = (
    ((64, 40), -1), ((3, 700), -1), ((2, 70_000), -1), ((700, 33), 0), ((2, 9000, 3), 1),
)  # fmt: skip


@pytest.mark.in_turn
@pytest.mark.parametrize("name", ["softmax", "layer_norm"])
def test_every_way_to_keep_a_row(name, backend):
    """In registers, in scratch or shared memory, read again, cut into parts, side by side."""
    function = OPS[name][0]
    generator = np.random.default_rng(4)

    def body():
        for shape, axis in REGIMES:
            x = make_numbers(generator, shape, "float32")
            mask = generator.random(shape[1:]) < 0.7
            with backend.context(2):
                y, u = function(
                    backend.array(x),
                    axis=axis,
                    prologue=lambda x, mask, scale: (
                        np.where(mask, x * scale, -2.0),
                        mask & (x > 0),
                    ),
                    prologue_operands=(backend.array(mask), 0.5),
                    epilogue=lambda y, x: y + x,
                    operands=(backend.array(x),),
                )
            if backend.recording:
                continue
            y, u = backend.numpy((y, u))
            with nnk.use_backend("reference"):
                plain = function(np.where(mask, x * 0.5, -2.0).astype("f"), axis=axis)
            np.testing.assert_allclose(y, plain + x, atol=2e-5, rtol=1e-4)
            assert np.array_equal(u, mask & (x > 0))

    backend.precompiled(body)


@pytest.mark.in_turn
def test_the_batch_norms_that_need_several_launches(backend):
    generator = np.random.default_rng(4)

    def body():
        for shape, axis in (((2, 3, 150, 150), 1), ((2, 120, 150, 5), 3), ((2, 6, 7, 7), 1)):
            x, r = (make_numbers(generator, shape, "float32") for _ in range(2))
            mean, variance = np.full(shape[axis], 0.5, "f"), np.full(shape[axis], 2.0, "f")
            for training in (True, False):
                given = (mean, variance) if not training else (None, None)
                arrays = [None if a is None else backend.array(a) for a in given]
                with backend.context(2):
                    found = nnk.batch_norm(
                        backend.array(x), None, None, *arrays, axis=axis, training=training,
                        prologue=lambda x, r: (x + r, x > r), prologue_operands=(backend.array(r),),
                        epilogue="relu",
                    )  # fmt: skip
                if backend.recording:
                    continue
                with nnk.use_backend("reference"):
                    plain = nnk.batch_norm(x + r, None, None, *given, axis=axis, training=training)
                plain = results_of(plain)[0]
                np.testing.assert_allclose(
                    backend.numpy(found[0]), np.maximum(plain, 0), atol=3e-5, rtol=1e-4
                )
                assert np.array_equal(backend.numpy(found[-1]), x > r)

    backend.precompiled(body)


def test_rows_without_elements(cpu):
    with cpu.context():
        y, twice = nnk.logsumexp(
            np.empty((3, 0), "f"), epilogue=lambda y, b: (y * b, b + b), operands=(np.ones(3, "f"),)
        )
        assert y.tolist() == [-np.inf] * 3
        assert twice.tolist() == [2.0] * 3
        assert nnk.softmax(np.empty((3, 0), "f"), epilogue="relu").shape == (3, 0)


@pytest.mark.in_turn
def test_a_cast_in_a_prologue_is_the_dtype_of_the_op(backend):
    x = np.arange(12, dtype=np.int8).reshape(3, 4)
    with backend.context():
        y = nnk.softmax(backend.array(x), prologue=lambda x: x.astype("float16") * 0.5)
        z = nnk.layer_norm(
            backend.array(x), prologue=lambda x: x.astype("float32"),
            epilogue=lambda y: y.astype("float64"),
        )  # fmt: skip
    assert (y.dtype, z.dtype) == (np.float16, np.float64)
    assert np.allclose(backend.numpy(y), nnk.softmax(x.astype("f") * 0.5), atol=1e-3)
    assert np.allclose(backend.numpy(z), nnk.layer_norm(x.astype("f")), atol=1e-5)


def test_results_that_are_given(cpu):
    x = np.linspace(-1, 1, 12, dtype="f").reshape(3, 4)
    out, positive = np.empty_like(x), np.empty(x.shape, bool)
    with cpu.context():
        wanted = nnk.layer_norm(x) + x
        found = nnk.layer_norm(
            x, epilogue=lambda y, x: (y + x, y > 0), operands=(x,), out=(out, positive)
        )
        assert found[0] is out
        assert found[1] is positive
        assert np.allclose(out, wanted)
        in_place = x.copy()
        nnk.layer_norm(in_place, epilogue=np.add, operands=(in_place,), out=in_place)
        assert np.allclose(in_place, wanted)
        with pytest.raises(ShapeError, match="out shares memory with y"):
            nnk.softmax(x, epilogue=lambda v, y: v + y, operands=(out[::-1],), out=out)


def test_another_number_or_shape_compiles_nothing(cpu):
    def call(shape, scale):
        mask = np.ones(shape[-1], bool)
        with cpu.context():
            return nnk.softmax(
                np.ones(shape, "f"), prologue=masked, prologue_operands=(mask, scale)
            )

    call((40, 24), 0.5)
    before = len(cpu.kernels._values)
    assert np.allclose(call((40, 24), 2.0), 1 / 24)
    assert np.allclose(call((50, 20), 3.0), 1 / 20)
    assert len(cpu.kernels._values) == before


# ---- gradients ----------------------------------------------------------------------------------


def two(x, r):
    return x * r, x + r


def both(y, b):
    return y * np.tanh(b), y > 0, y * y


# Gradients are made of the same calls on every machine: the other ops are tried on the references.
COMPILED = ("softmax", "layer_norm", "batch_norm")


@pytest.mark.parametrize("name", OPS)
def test_gradients(name):
    generator = np.random.default_rng(8)
    x, r, b = (generator.standard_normal(s) for s in ((3, 4, 5), (4, 1), (5,)))
    function, options = OPS[name]
    if name == "logsumexp":
        b = generator.standard_normal(4)
    operands = [x, r, b]

    def call(x, r, b):
        return results_of(function(x, **given_of(r, b)))

    def given_of(r, b):
        inside = {"prologue": two, "prologue_operands": (r,), "epilogue": both, "operands": (b,)}
        return inside | options

    with nnk.use_backend("cpu" if name in COMPILED else "reference"):
        y, pullback = nnk.vjp(function, x, **given_of(r, b))
        dys = [
            generator.standard_normal(a.shape) if a is not None and a.dtype.kind == "f" else None
            for a in y
        ]
        found = pullback(*dys)
        assert len(found) == 3
        for i, (operand, gradient) in enumerate(zip(operands, found, strict=True)):
            assert gradient.shape == operand.shape
            direction = generator.standard_normal(operand.shape)
            ends = []
            for step in (1e-6, -1e-6):
                moved = list(operands)
                moved[i] = operand + step * direction
                values = call(*moved)
                ends.append(
                    sum((v * d).sum() for v, d in zip(values, dys, strict=True) if d is not None)
                )
            slope = (ends[0] - ends[1]) / 2e-6
            assert abs(slope - (gradient * direction).sum()) < 1e-6 * (1 + abs(slope))


def test_gradients_of_what_the_prologue_gives_beside(cpu):
    """Alone: nothing comes back through the norm."""
    x, r = np.array([[1.0, 2.0, 4.0]]), np.array([3.0, 5.0, 7.0])
    with cpu.context():
        _, pullback = nnk.vjp(
            nnk.layer_norm, x, prologue=lambda x, r: (x - r, x * r), prologue_operands=(r,)
        )
        dx, dr = pullback(None, np.ones_like(x))
    np.testing.assert_array_equal(dx, r[None])
    np.testing.assert_array_equal(dr, x[0])


def test_gradients_of_what_has_none(cpu):
    with cpu.context():
        x = np.arange(6).reshape(2, 3)
        y, pullback = nnk.vjp(
            nnk.softmax, x, prologue=lambda x, s, k: x.astype("f") * s * k,
            prologue_operands=(np.ones(3, "f"), 2.0),
        )  # fmt: skip
        dx, ds, dk = pullback(np.ones_like(y))
        assert dx is None
        assert dk is None
        assert ds.shape == (3,)


# ---- bad input ----------------------------------------------------------------------------------

X = np.ones((3, 4), np.float32)
COMPLEX = X.astype(np.complex64)
BAD = (
    (ShapeError, r"mask has shape \(3,\), which does not broadcast to \(3, 4\), the shape of x",
     lambda: nnk.softmax(X, prologue=masked, prologue_operands=(np.ones(3, bool), 1.0))),
    (ShapeError, r"bias has shape \(2, 3, 4\)",
     lambda: nnk.layer_norm(X, epilogue=tanh_sum, operands=(np.ones((2, 3, 4), "f"),))),
    (ShapeError, "the shape of the result",
     lambda: nnk.logsumexp(X, epilogue=tanh_sum, operands=(X,))),
    (DTypeError, "complex", lambda: nnk.softmax(X.astype("c8"), epilogue="relu")),
    (DTypeError, "bias has dtype complex64",
     lambda: nnk.rms_norm(X, epilogue=tanh_sum, operands=(COMPLEX,))),
    (DTypeError, "the prologue gives dtype bool", lambda: nnk.softmax(X, prologue=lambda x: x > 0)),
    (TraceError, "reshape", lambda: nnk.layer_norm(X, prologue=lambda x: x.reshape(4))),
    (TypeError, "operands are those of epilogue=", lambda: nnk.softmax(X, operands=(X,))),
    (TypeError, "prologue_operands must be a tuple",
     lambda: nnk.softmax(X, prologue=masked, prologue_operands=X)),
    (TypeError, "residual and prologue", lambda: nnk.rms_norm(X, residual=X, prologue=abs)),
    (TypeError, "epilogue must be a function", lambda: nnk.rms_norm(X, epilogue=3)),
    (ValueError, "epilogue must be one of", lambda: nnk.rms_norm(X, epilogue="nothing")),
)  # fmt: skip


@pytest.mark.parametrize("backend_name", ["cpu", "reference"])
@pytest.mark.parametrize(("kind", "text", "call"), BAD, ids=[row[1][:25] for row in BAD])
def test_bad_input(kind, text, call, backend_name):
    with nnk.use_backend(backend_name), pytest.raises(kind, match=text):
        call()
