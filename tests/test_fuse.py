"""Fused functions on arrays: what they compute, their types, layouts, results and kernels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from comparing import assert_same_numbers
from fusing import Recipe, assert_right, evaluate_with_errors, named_steps
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes
from layouts import is_dense, keeps_order, place
from strategies import examples, layouts, make_numbers, numbers

import nnkernels as nnk
from nnkernels.compile.instance import Instance
from nnkernels.dispatch.dtypes import numpy_dtype
from nnkernels.fusion.expression import BOOL, OPERATIONS
from nnkernels.fusion.functions import FUNCTIONS
from nnkernels.reference import fusion as reference
from nnkernels.registry import INTEGERS

STEPS = named_steps()
ACTIVATIONS = (
    (nnk.gelu, {}), (nnk.gelu, {"approximate": "tanh"}), (nnk.silu, {"beta": 1.5}),
    (nnk.relu, {}), (nnk.tanh, {}), (nnk.softplus, {}), (nnk.hard_sigmoid, {"alpha": 0.3}),
    (nnk.elu, {}), (nnk.hard_tanh, {"min": -0.5}),
)  # fmt: skip


def make(generator, shape, dtype, kind="ordinary", subnormal=True):
    if dtype == BOOL:
        return generator.random(shape) < 0.5
    return make_numbers(generator, shape, dtype, kind, subnormal)


def program_of(fused, arrays):
    kinds = [type(a) if type(a) in (int, float) else a.dtype for a in arrays]
    return fused._traced(kinds)


def check(fused, arguments, results, what=""):
    """Compare with the reference; the share of elements whose result is certain."""
    traced = program_of(fused, arguments)
    values = reference.values_of(traced.sources, arguments)
    arrays = [a for a in arguments if isinstance(a, np.ndarray)]
    found = evaluate_with_errors(traced.program, arrays, values)
    results = results if traced.several else (results,)
    shares = []
    for i, (result, (value, error)) in enumerate(zip(results, found, strict=True)):
        dtype = traced.program.results[i]
        assert result.dtype == numpy_dtype(dtype)
        shares.append(assert_right(result, value, error, dtype, f"{what} result {i}"))
    return min(shares)


# ---- random functions ---------------------------------------------------------------------------


@st.composite
def cases(draw, backend):
    count = draw(st.integers(1, 3))
    shapes = draw(
        mutually_broadcastable_shapes(num_shapes=count, min_side=0, max_side=9, max_dims=4)
    ).input_shapes
    kinds = ["float32", "float32", "float16", "bfloat16", "float64", "int32", "int8", "uint8", BOOL]
    placed = []
    for shape in shapes:
        dtype = draw(st.sampled_from(kinds))
        itemsize = 1 if dtype == BOOL else numpy_dtype(dtype).itemsize
        layout = draw(layouts(shape, itemsize, byte_shifts=backend.is_cpu))
        if dtype == BOOL:
            values = np.random.default_rng(draw(st.integers(0, 99))).random(shape) < 0.5
        else:
            values = draw(numbers(shape, dtype, subnormal=False))
        placed.append(place(values, layout))
    steps = []
    for _ in range(draw(st.integers(3, 9))):
        if draw(st.integers(0, 4)) == 0:
            function, options = draw(st.sampled_from(ACTIVATIONS))
            operands = 1
            function = lambda x, f=function, o=options: f(x, **o)  # noqa: E731
        else:
            function, operands = draw(st.sampled_from(STEPS))
        places = tuple(draw(st.sampled_from([0, 0, 1, 1, 2, 3, 5])) for _ in range(operands))
        number = draw(st.sampled_from([0, 0, 0.5, 2.0, -3.25, 2, 7]))
        steps.append((function, places, number if operands > 1 else 0))
    return placed, Recipe(steps, draw(st.integers(1, 3))), draw(st.integers(0, 99))


@pytest.mark.in_turn
def test_random_functions(backend):
    shares = []

    @examples(1.5)
    @given(cases(backend))
    def right(case):
        placed, recipe, seed = case
        fused = nnk.fuse(recipe)
        operands = [p.view for p in placed]
        with backend.context(seed):
            results = fused(*map(backend.array, operands))
        if backend.recording:
            return
        assert all(p.is_unchanged for p in placed)
        shape = np.broadcast_shapes(*(x.shape for x in operands))
        full = [x for x in operands if x.shape == shape]
        for result in results if isinstance(results, tuple) else (results,):
            assert backend.is_own(result)
            assert result.shape == shape
            assert is_dense(result)
            assert not full or keeps_order(result, full[0])
        copies = [np.ascontiguousarray(x).reshape(x.shape) for x in operands]
        program = program_of(fused, operands).program
        shares.append(check(fused, copies, backend.numpy(results), str(program)))

    backend.precompiled(right)
    assert np.mean(shares) > 0.6  # most is certain, so that most is checked


# ---- every operation ----------------------------------------------------------------------------


def every_function(kind):
    """One function whose results are all operations for numbers of a kind."""
    chosen = [op for op in OPERATIONS.values() if kind in op.kinds]

    def unary(x, y):
        return tuple(FUNCTIONS[op.name](*(x, y)[: op.operands]) for op in chosen)

    return nnk.fuse(unary), [op.name for op in chosen]


@pytest.mark.in_turn
@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "int32", "uint8", "int64", BOOL]
)
def test_every_operation(dtype, backend):
    kind = "b" if dtype == BOOL else np.dtype(dtype).kind
    fused, names = every_function(kind)
    generator = np.random.default_rng(3)
    for number_kind in ("ordinary", "wide", "special"):
        x = make(generator, (300,), dtype, number_kind, not backend.is_cupy)
        y = make(generator, (300,), dtype, number_kind, not backend.is_cupy)
        if number_kind == "ordinary" and kind == "f":
            y[::3] = np.round(y[::3])
        with backend.context(2):
            results = backend.numpy(fused(backend.array(x), backend.array(y)))
        traced = program_of(fused, (x, y))
        found = evaluate_with_errors(traced.program, (x, y), ())
        results_of = zip(names, results, found, traced.program.results, strict=True)
        for name, result, (value, error), result_dtype in results_of:
            what = f"{name} of {number_kind} {dtype}"
            assert_right(result, value, error, result_dtype, what)


@pytest.mark.in_turn
def test_whole_results_are_exact(backend):
    def whole(x):
        return np.floor(x), np.ceil(x), np.rint(x), np.trunc(x), np.exp2(np.rint(x)), -abs(x) // 1

    x = np.array([-2.5, -1.5, -0.5, -0.3, -0.0, 0.0, 0.5, 1.5, 2.5, 8388607.5, -4194303.5, 1e30,
                  -np.inf, np.nan, 7.0, 3.0, 0.49999997, 100.0], np.float32)  # fmt: skip
    with backend.context():
        results = backend.numpy(nnk.fuse(whole)(backend.array(x)))
    with np.errstate(all="ignore"):
        for result, wanted in zip(results, whole(x), strict=True):
            assert_same_numbers(result, wanted, "rounding")
            assert np.array_equal(np.signbit(result), np.signbit(wanted)) or np.isnan(x).any()
        for result, wanted in zip(results[:4], whole(x)[:4], strict=True):
            known = ~np.isnan(x)
            assert np.array_equal(np.signbit(result[known]), np.signbit(wanted[known]))


@pytest.mark.parametrize(("function", "options"), ACTIVATIONS)
def test_an_activation_is_the_one_of_its_own_kernel(function, options, cpu):
    x = make_numbers(np.random.default_rng(5), (999,), "float32", "special")
    with cpu.context():
        fused = nnk.fuse(lambda x: function(x, **options))(x)
        assert_same_numbers(fused, function(x, **options), function.__name__)


@pytest.mark.in_turn
def test_integers_of_every_size(backend):
    fused = nnk.fuse(lambda x, y: (x * y + 3, x // 5, np.where(x > y, x, y), abs(x), x**2))
    generator = np.random.default_rng(6)

    def body():
        for dtype in INTEGERS:
            x, y = (make_numbers(generator, (41,), dtype, "wide") for _ in range(2))
            with backend.context():
                results = fused(backend.array(x), backend.array(y))
            if not backend.recording:
                check(fused, (x, y), backend.numpy(results), dtype)

    backend.precompiled(body)


# ---- types --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "dtypes", "wanted"),
    [
        (lambda x, y: x + y, ("float16", "bfloat16"), "float32"),
        (lambda x, y: x + y, ("float32", "float64"), "float64"),
        (lambda x, y: x + y, ("int8", "uint8"), "int16"),
        (lambda x, y: x * 2.5 + y, ("float16", "float16"), "float16"),
        (lambda x, y: x * np.float32(2) + y, ("float16", "float16"), "float32"),
        (lambda x, y: x * (y > 0), ("float32", "int8"), "float32"),
        (lambda x, y: (x < y) ^ True, ("float32", "float64"), "bool"),
        (lambda x, y: np.where(x > 0, 1.0, 0.0), ("float32", "int8"), "float32"),
        (lambda x, y: np.where(x > 0, 1, 0), ("bool", "int8"), "int8"),
        (lambda x, y: x.astype("int32") + y, ("float32", "int8"), "int32"),
        (lambda x, y: (x.astype("bfloat16"), y)[0], ("float32", "int8"), "bfloat16"),
        (lambda x, y: y.astype(x.dtype), ("bfloat16", "int8"), "bfloat16"),
        (lambda x, y: x.astype(bool) & y, ("float32", "bool"), "bool"),
    ],
)
def test_types_of_results(function, dtypes, wanted):
    if wanted == "int8":
        function = lambda x, y: np.where(x, 1, 0)  # noqa: E731
    generator = np.random.default_rng(1)
    x, y = (make(generator, (7,), d) for d in dtypes)
    result = nnk.fuse(function)(x, y)
    assert result.dtype == numpy_dtype(wanted)


def test_values_of_float16_stay_wide_until_astype():
    x = np.full(3, 300.0, np.float16)
    assert nnk.fuse(lambda x: x * x / 300.0)(x).tolist() == [300.0] * 3
    narrow = nnk.fuse(lambda x: (x * x).astype(np.float16) / 300.0)
    assert narrow(x).tolist() == [math.inf] * 3


def test_large_numbers_and_bounds():
    x = np.ones(2, np.float32)
    assert nnk.fuse(lambda x: x * 1e300)(x).tolist() == [math.inf] * 2
    assert nnk.fuse(lambda x, s: x * s)(x, -1e300).tolist() == [-math.inf] * 2
    with pytest.raises(nnk.DTypeError, match="1000 does not fit int8"):
        nnk.fuse(lambda x, s: x * s)(np.ones(2, np.int8), 1000)
    with pytest.raises(nnk.DTypeError, match="complex64"):
        nnk.fuse(lambda x: x + 1)(np.ones(2, np.complex64))


# ---- kernels and traces -------------------------------------------------------------------------


@pytest.fixture
def compiled(monkeypatch):
    """The instances that are made from here on, which are fewer than the calls."""
    made = []
    original = Instance.__post_init__

    def note(self):
        original(self)
        made.append(self)

    monkeypatch.setattr(Instance, "__post_init__", note)
    return made


def scaled(factor, offset=0.25):
    return nnk.fuse(lambda x, y: nnk.silu(x * factor + offset) - 2.0 * y)


def test_another_number_or_shape_compiles_nothing(cpu, compiled):
    x, y = np.ones((4, 40), np.float32), np.full((4, 40), 3.0, np.float32)
    with cpu.context():
        scaled(2.0)(x, y)
        first = set(compiled)
        assert len(first) == 1
        for factor in (2.0, 0.25, 7, -0.0, 1e-3):
            result = scaled(factor)(x, y)
            z = x * factor + 0.25
            wanted = z / (1 + np.exp(-z)) - 2 * y
            assert np.allclose(result, wanted, rtol=1e-5)
        scaled(2.0)(x[:3, :17].copy(), y[:3, :17].copy())
    assert set(compiled) == first


def test_a_number_argument_is_one_of_the_kernel(cpu, compiled):
    fused = nnk.fuse(lambda x, a: a * x + a)
    x = np.arange(20, dtype=np.float32)
    with cpu.context():
        for number in (2.0, 3.0, -1.5):
            assert_same_numbers(fused(x, number), x * np.float32(number) + np.float32(number), "a")
        plans = len(cpu.machine.plans)
        fused(x, 9.0)
        assert len(cpu.machine.plans) == plans
    assert len(set(compiled)) == 1


scale_of_module = 2.0


def test_captured_numbers_are_looked_up_at_every_call(monkeypatch):
    alpha = 1.0
    runs = []

    def helper(x):
        return x + alpha

    @nnk.fuse
    def fused(x):
        runs.append(1)
        return helper(x) * scale_of_module

    plain = nnk.fuse(lambda x: helper(x) * scale_of_module)
    x = np.ones(3, np.float32)
    same = nnk.fuse(lambda x: x * alpha)
    for zero in (0.0, -0.0, 0.0):  # equal as numbers, and two results
        alpha = zero
        assert np.signbit(same(x)).tolist() == [math.copysign(1.0, zero) < 0] * 3
    for fused_now in (fused, plain):
        alpha = 1.0
        assert fused_now(x).tolist() == [4.0] * 3
        alpha = 4.0
        assert fused_now(x).tolist() == [10.0] * 3
        monkeypatch.setitem(globals(), "scale_of_module", -1.0)
        assert fused_now(x).tolist() == [-5.0] * 3
        monkeypatch.setitem(globals(), "scale_of_module", 2.0)


def test_changes_of_a_function_itself_are_seen():
    def scaled(x, factor=2.0):
        return x * factor

    def shifted(x, *, offset=1.0):
        return x + offset

    x = np.ones(3, np.float32)
    fused = nnk.fuse(scaled)
    assert fused(x).tolist() == [2.0] * 3
    scaled.__defaults__ = (5.0,)
    assert fused(x).tolist() == [5.0] * 3
    scaled.__code__ = (lambda x, factor: x - factor).__code__
    assert fused(x).tolist() == [-4.0] * 3
    fused = nnk.fuse(shifted)
    assert fused(x).tolist() == [2.0] * 3
    shifted.__kwdefaults__["offset"] = 7.0  # in the same dictionary
    assert fused(x).tolist() == [8.0] * 3


def test_a_number_that_is_captured_again_needs_no_new_trace(monkeypatch):
    factor = 2.5
    fused = nnk.fuse(lambda x: x * factor)
    x = np.ones(3, np.float32)
    expected = {}
    for factor in (2.5, -1.5):
        expected[factor] = fused(x).tolist()
    monkeypatch.setattr(type(fused), "_trace_again", None)
    for text in ("2.5", "-1.5", "2.5"):
        factor = float(text)  # an equal number, and another object
        assert fused(x).tolist() == expected[factor] == [factor] * 3


def test_no_more_traces_are_kept_than_a_number_of_them(monkeypatch):
    monkeypatch.setattr("nnkernels.fusion.fuse._MOST_TRACES", 3)
    number = 0.0
    captures = nnk.fuse(lambda x: x * number)
    takes = nnk.fuse(lambda x, option: x * len(option))
    x = np.ones(2, np.float32)
    for i in range(8):
        number = float(i)
        assert captures(x).tolist() == [number] * 2
        assert takes(x, "a" * (i + 1)).tolist() == [i + 1.0] * 2
        assert len(captures._traces) <= 3
        assert sum(map(len, takes._traces.values())) <= 3


def test_as_many_traces_as_are_kept_are_found_again(monkeypatch):
    monkeypatch.setattr("nnkernels.fusion.fuse._MOST_TRACES", 3)
    number = 0.0
    fused = nnk.fuse(lambda x: x * number)
    x = np.ones(2, np.float32)
    for i in (0, 1, 2):
        number = float(i)
        fused(x)
    monkeypatch.setattr(type(fused), "_trace_again", None)
    for i in (1, 0, 2, 1):
        number = float(i)
        assert fused(x).tolist() == [number] * 2


def test_a_function_is_traced_once(monkeypatch):
    pure = nnk.fuse(lambda x: x * 3.0)
    x = np.ones(3, np.float32)
    assert pure(x).tolist() == [3.0] * 3
    with monkeypatch.context() as patch:
        patch.setattr(type(pure), "_trace_again", None)
        pure(x)
        pure(np.ones((2, 5), np.float32))
    with pytest.raises(nnk.TraceError):
        nnk.fuse(lambda x: 1 / x.missing)(x)


def test_a_function_that_reads_attributes_is_traced_at_every_call():
    class Settings:
        factor = 2.0

    settings = Settings()
    fused = nnk.fuse(lambda x: x * settings.factor)
    x = np.ones(3, np.float32)
    assert fused(x).tolist() == [2.0] * 3
    settings.factor = 5.0
    assert fused(x).tolist() == [5.0] * 3


def test_equal_values_are_computed_once():
    text = nnk.device_source(lambda x: np.exp(x * 0.5) + np.exp(x * 0.5) * np.exp(x * 0.5))
    assert text.count("exp(") == 1


def test_small_exponents_are_products():
    text = nnk.device_source(lambda x: (x**2, x**3, x**0.5, x**-1, x**1.7, 2.0**x))
    assert text.count("pow(") == 2
    assert "sqrt" in text


def test_functions_of_other_namespaces():
    def by_namespace(x):
        xp = x.__array_namespace__()
        return xp.where(x > 0, xp.log1p(x), xp.expm1(x)) + xp.pi

    x = np.linspace(-2, 2, 9)
    wanted = np.where(x > 0, np.log1p(np.abs(x)), np.expm1(x)) + np.pi
    assert np.allclose(nnk.fuse(by_namespace)(x), wanted)
    assert np.allclose(
        nnk.fuse(lambda x: np.clip(x, -1.0, None) + np.round(x).clip(max=1.0))(x),
        np.clip(x, -1, None) + np.round(x).clip(max=1),
    )


def test_long_rows_take_several_registers_at_once(cpu, chosen):
    x = make_numbers(np.random.default_rng(2), (5, 4099), "float32")
    with cpu.context():
        fused = nnk.fuse(lambda x: nnk.silu(x) * np.exp(x))
        long, short = fused(x), fused(x[:, :7].copy().T.copy().T[:, ::2])
    assert [c.vector for c in chosen] == [4 * chosen[1].vector, chosen[1].vector]
    assert_same_numbers(np.ascontiguousarray(short), long[:, :7:2].copy(), "long and short rows")


# ---- results ------------------------------------------------------------------------------------


@pytest.mark.in_turn
def test_out(backend):
    fused = nnk.fuse(lambda x, y: (x * y, x > y))
    x, y = np.arange(12, dtype=np.float32).reshape(3, 4), np.full((3, 1), 5, np.float32)
    a, b = (
        backend.array(np.zeros((3, 8), np.float32)[:, ::2]),
        backend.array(np.zeros((3, 4), bool)),
    )
    with backend.context():
        given = fused(backend.array(x), backend.array(y), out=(a, b))
    assert given[0] is a
    assert given[1] is b
    assert_same_numbers(backend.numpy(a), x * y, "out")
    assert np.array_equal(backend.numpy(b), x > y)
    with backend.context(), pytest.raises(nnk.DTypeError, match=r"out\[1\] has dtype float32"):
        fused(backend.array(x), backend.array(y), out=(a, a))


def test_out_may_be_the_first_input(cpu):
    x = np.arange(30, dtype=np.float32)
    with cpu.context():
        fused = nnk.fuse(lambda x, y: x * 2.0 + y)
        assert fused(x, np.ones(1, np.float32), out=x) is x
        assert x.tolist() == [2.0 * i + 1 for i in range(30)]
        with pytest.raises(nnk.ShapeError, match="shares memory"):
            fused(x[1:], np.ones(1, np.float32), out=x[:-1])


def test_a_tuple_of_one(cpu):
    with cpu.context():
        (y,) = nnk.fuse(lambda x: (x + 1,))(np.ones(3))
    assert y.tolist() == [2.0] * 3


def test_the_reference_backend():
    fused = nnk.fuse(lambda x, s: (nnk.gelu(x) * s, x > 0))
    x = np.linspace(-3, 3, 11, dtype=np.float32)
    y, larger = fused(x, 2.0)
    with nnk.use_backend("reference"):
        z, also = fused(x, 2.0)
        out = np.empty_like(x)
        nnk.fuse(lambda x: x + 1.0)(x, out=out)
    assert np.allclose(y, z, rtol=1e-5)
    assert np.array_equal(larger, also)
    assert np.array_equal(out, x + 1)


def test_other_libraries():
    torch = pytest.importorskip("torch")
    x = torch.linspace(-2, 2, 7)
    y, positive = nnk.fuse(lambda x: (nnk.gelu(x) + 1, x > 0))(x)
    assert torch.allclose(y, torch.nn.functional.gelu(x) + 1, atol=1e-6)
    assert positive.dtype == torch.bool
    assert positive.tolist() == (x > 0).tolist()
    out = torch.empty(7)
    assert nnk.fuse(lambda x: x * 3.0)(x, out=out) is out
    assert torch.equal(out, x * 3)


def test_fused_functions_of_fused_functions():
    inner = nnk.fuse(lambda x: x * x)
    x = np.arange(4.0)
    assert (
        nnk.fuse(lambda x: inner(x) + inner(x + 1))(x).tolist() == (x * x + (x + 1) ** 2).tolist()
    )
