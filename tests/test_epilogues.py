"""Fused functions as epilogues of every kernel of products and convolutions; their gradients."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from backends import Backend
from fusing import Recipe, assert_right, evaluate_with_errors, named_steps
from hypothesis import given, settings
from hypothesis import strategies as st

import nnkernels as nnk
from nnkernels.dispatch import machines
from nnkernels.dispatch.dtypes import name_of
from nnkernels.errors import DTypeError, ShapeError, TraceError
from nnkernels.fusion.inside import fused_of, trace_inside
from nnkernels.inspection.record import launches
from nnkernels.reference.fusion import values_of

BACKENDS = ["cpu", "sim:sm_80", "sim:gfx90a"]
STEPS = named_steps()


def numbers(seed, shape, dtype="float32"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def turned(seed, shape, dtype):
    """An array whose axes lie in memory the other way round, the last one from its end."""
    return numbers(seed, shape[::-1], dtype).T[..., ::-1]


def results_of(found):
    return found if isinstance(found, tuple) else (found,)


def assert_applied(results, function, sums, operands, slack):
    """Results are the function of float64 sums, which may be off by so much."""
    dtype = np.dtype("float32" if sums.dtype == np.float64 else sums.dtype)
    traced = trace_inside(fused_of(function), (dtype,), operands)
    arrays = [sums, *(operands[i - 1] for i in traced.arrays[1:])]
    known = values_of(traced.sources, (None, *operands))
    checked = []
    ends = [sums - slack, sums, sums + slack]
    all_ends = [evaluate_with_errors(traced.program, [s, *arrays[1:]], known) for s in ends]
    for i, result in enumerate(results_of(results)):
        values = [end[i][0] for end in all_ends]
        errors = [end[i][1] for end in all_ends]
        with np.errstate(all="ignore"):
            wide = [np.asarray(v, np.float64) for v in values]
            spread = np.maximum(abs(wide[0] - wide[1]), abs(wide[2] - wide[1]))
            error = np.maximum.reduce(np.broadcast_arrays(*errors)) + 2 * spread
        if values[1].dtype.kind != "f":
            error = np.where(error > 0, np.inf, error)
        error = np.where(np.isnan(error), np.inf, error)
        checked.append(assert_right(result, values[1], error, name_of(result.dtype), f"result {i}"))
    return min(checked)


# ---- every kernel ----

# Shapes that the configurations give to other kernels: small, packed, one row, rows of B that
# are read in place, and split sums.
PRODUCTS = {
    "small": ((5, 7), (7, 9)),
    "packed": ((70, 40), (40, 65)),
    "vector": ((33,), (33, 70)),
    "rows": ((3, 600), (600, 2000)),
    "split": ((16, 16384), (16384, 16)),
    "stack": ((3, 1, 20, 6), (2, 6, 17)),
}


def gated(sums, bias, residual, scale):
    z = sums + bias
    return nnk.gelu(z) * scale + residual, z, sums > residual


@pytest.mark.parametrize("name", BACKENDS)
def test_every_product(name):
    backend = Backend(name)

    def body():
        for i, (case, (left, right)) in enumerate(PRODUCTS.items()):
            if case in ("rows", "split") and not backend.is_cpu:
                left, right = (4, 1200), (1200, 3)
            x, w = numbers(i, left), numbers(i + 1, right)
            if case == "packed":
                x, w = x.astype(np.float16), w.astype(np.float16)
            sums = np.matmul(x.astype(np.float64), w.astype(np.float64))
            bias = numbers(2, sums.shape[-1:])[::-1]
            operands = (bias, turned(3, sums.shape, "float16"), 0.5)
            with backend.context(seed=i):
                found = nnk.matmul(x, w, epilogue=gated, operands=operands)
            if not backend.recording:
                assert [r.dtype.name for r in found] == [
                    "float32", "float32", "bool",
                ], case  # fmt: skip
                slack = 1e-6 * np.sqrt(left[-1]) * (1 + abs(sums))
                assert assert_applied(found, gated, sums, operands, slack) > 0.9

    backend.precompiled(body)


def scaled(sums, scale, residual):
    return nnk.relu(sums) * scale + residual, sums


CONVOLUTIONS = {
    "joined images": ((3, 8, 7, 9), (12, 8, 3, 3), {"padding": 1, "algorithm": "direct"}),
    "large images": ((2, 8, 24, 25), (5, 8, 3, 3), {"algorithm": "direct"}),
    "narrow": ((2, 32, 8, 9), (32, 32, 3, 3), {"padding": 1, "algorithm": "direct"}),
    "winograd": ((2, 16, 9, 10), (24, 16, 3, 3), {"padding": 1, "algorithm": "winograd"}),
    "winograd in depth": (
        (1, 16, 4, 9, 10),
        (24, 16, 3, 3, 3),
        {"padding": 1, "algorithm": "winograd"},
    ),
    "pointwise": ((2, 8, 6, 7), (12, 8, 1, 1), {}),
    "depthwise": ((2, 8, 9, 10), (8, 1, 3, 3), {"padding": 1, "groups": 8}),
    "one axis": ((2, 4, 20), (6, 2, 3), {"stride": 2, "groups": 2}),
}


def kernels(function, arrays, options, name):
    device = machines.machine_named(name).device
    found = launches(function, arrays, options | {"epilogue": lambda sums: sums * 2.0}, device)
    return {launch.instance.kernel.partition("<")[0] for launch in found}


def test_which_kernels_these_are():
    seen = {name: set() for name in BACKENDS}
    for name in BACKENDS:
        for case, (left, right) in PRODUCTS.items():
            dtype = "float16" if case == "packed" else "float32"
            arrays = [np.empty(left, dtype), np.empty(right, dtype)]
            seen[name] |= kernels(nnk.matmul, arrays, {}, name)
        for case, (image, weights, options) in CONVOLUTIONS.items():
            if options.get("algorithm") != "winograd" or name == "cpu":
                dtype = "float16" if case == "narrow" else "float32"
                arrays = [np.empty(image, dtype), np.empty(weights, dtype)]
                seen[name] |= kernels(nnk.conv, arrays, options, name)
    assert seen["cpu"] >= {
        "MatmulSmall", "MatmulPacked", "GemvAcross", "MatmulRows", "MatmulSplits", "ConvDirect",
        "ConvWinograd",
    }  # fmt: skip
    for name in BACKENDS[1:]:
        assert seen[name] >= {
            "MatmulSimt", "MatmulTensor", "GemvAcross", "MatmulSplits", "ConvDirect",
        }  # fmt: skip


# In one order of the axes alone: the other way their kernels differ by another case's only.
ONLY_FIRST = ("winograd", "depthwise", "one axis")
ONLY_LAST = ("large images", "winograd in depth")


@pytest.mark.parametrize(
    ("name", "channels_last"),
    [("cpu", False), ("cpu", True), ("sim:sm_80", False), ("sim:gfx90a", True)],
)
def test_every_convolution(name, channels_last):
    backend = Backend(name)
    left_out = ONLY_FIRST if channels_last else ONLY_LAST

    def body():
        for i, (case, (image, weights, options)) in enumerate(CONVOLUTIONS.items()):
            if case in left_out and backend.is_cpu:
                continue
            if options.get("algorithm") == "winograd" and not backend.is_cpu:
                continue
            dtype = "float16" if case == "narrow" else "float32"
            x, w = numbers(i, image, dtype), numbers(i + 1, weights, dtype)
            bias = numbers(i + 2, weights[0], dtype) if i % 2 else None
            if channels_last:
                x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
            with nnk.use_backend("reference"):
                wide = [None if a is None else a.astype(np.float64) for a in (x, w, bias)]
                sums = nnk.conv(*wide, **options | {"algorithm": None})
            ones = (1,) * (sums.ndim - 3)
            rows = numbers(i + 3, (sums.shape[0], 1, sums.shape[2], *ones))
            residuals = [turned(i + 4, sums.shape, "float32")]
            if not channels_last:
                residuals.append(numbers(i + 4, sums.shape))
            for residual in residuals:
                operands = (rows, residual)
                with backend.context(seed=i):
                    found = nnk.conv(x, w, bias, epilogue=scaled, operands=operands, **options)
                if not backend.recording:
                    order = [np.argsort(result.strides).tolist() for result in found]
                    assert order[0] == order[1]
                    slack = 3e-5 * (1 + abs(sums))
                    assert assert_applied(found, scaled, sums, operands, slack) > 0.9, case

    backend.precompiled(body)


def test_a_transposed_convolution():
    x, w = numbers(0, (2, 4, 5, 6)), numbers(1, (4, 3, 3, 3))
    with nnk.use_backend("reference"):
        sums = nnk.conv_transpose(x.astype(float), w.astype(float), stride=2)
    operands = (numbers(2, (3, 1, 1)), turned(3, sums.shape, "float32"))
    found = nnk.conv_transpose(x, w, stride=2, epilogue=scaled, operands=operands)
    assert_applied(found, scaled, sums, operands, 1e-5 * (1 + abs(sums)))


# ---- any function ----


@st.composite
def recipes(draw):
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(STEPS),
                st.tuples(*[st.integers(0, 5)] * 3),
                st.sampled_from([0.0, 0.0, 0.5, -1.5]),
            ),
            min_size=3,
            max_size=7,
        )
    )
    named = [(function, places[:count], number) for (function, count), places, number in steps]
    return Recipe(named, draw(st.integers(1, 2)))


@pytest.mark.parametrize("name", BACKENDS)
def test_any_function(name):
    backend = Backend(name)

    @settings(max_examples=4 if backend.is_cpu else 2, deadline=None)
    @given(recipe=recipes(), kind=st.sampled_from(["float32", "float64", "bool", "float16"]))
    def check(recipe, kind):
        x, w = numbers(0, (9, 6)), numbers(1, (6, 13))
        sums = x.astype(np.float64) @ w.astype(np.float64)
        operands = (numbers(2, (9, 1)), numbers(3, (9, 26), kind)[:, ::2])
        with backend.context():
            found = nnk.matmul(x, w, epilogue=recipe, operands=operands)
        if not backend.recording:
            assert_applied(found, recipe, sums, operands, 3e-6 * (1 + abs(sums)))

    backend.precompiled(check)


# ---- scalars, results, memory ----


def test_scalars_and_bias_come_first():
    a, b, c = numbers(0, (4, 5)), numbers(1, (5, 6)), numbers(2, (6,))
    plain = nnk.gemm(a, b, c, alpha=2.0, beta=-0.5)
    double = nnk.fuse(lambda sums: sums * 2.0)
    assert np.array_equal(nnk.gemm(a, b, c, alpha=2.0, beta=-0.5, epilogue=double), plain * 2)
    assert np.array_equal(nnk.linear(a, b.T, c, epilogue=double), nnk.linear(a, b.T, c) * 2)
    matrix, vector = numbers(3, (7, 5)), numbers(4, 5)
    z = nnk.gemv(matrix, vector, alpha=3.0, epilogue=lambda s, y: s - y, operands=(c[:1],))
    assert np.array_equal(z, nnk.gemv(matrix, vector, alpha=3.0) - c[0])


def test_sums_of_narrow_types_are_not_rounded():
    x = np.full((1, 2), 2.0, np.float16)
    w = np.array([[1024.0], [0.25]], np.float16)  # 2048.5, which float16 does not have
    assert nnk.matmul(x, w, epilogue=lambda sums: sums - 2048.0).item() == 0.5
    whole = np.array([[100]], np.int8)
    assert nnk.matmul(whole, whole, epilogue=lambda s: s + 1).item() == np.int64(10001).astype("i1")


def test_results_go_where_they_are_wanted():
    x, w, r = numbers(0, (40, 30)), numbers(1, (30, 20)), numbers(2, (40, 20))
    function = nnk.fuse(lambda sums, r: (nnk.tanh(sums) + r, sums))
    y, sums = nnk.matmul(x, w, epilogue=function, operands=(r,))
    own, wide = np.empty((20, 40), np.float32).T, np.empty((40, 60), np.float32)[:, ::3]
    assert nnk.matmul(x, w, epilogue=function, operands=(r,), out=(own, wide))[0] is own
    assert np.array_equal(own, y)
    assert np.array_equal(wide, sums)
    nnk.matmul(x, w, epilogue=function, operands=(r,), out=(r, wide))  # in place of an operand
    assert np.array_equal(r, y)


@pytest.mark.parametrize("shapes", [((0, 3), (3, 4)), ((2, 0), (0, 4)), ((3, 4), (4, 0))])
def test_empty_products(shapes):
    x, w = (np.ones(s, np.float32) for s in shapes)
    y, z = nnk.matmul(x, w, epilogue=lambda s, b: (s + b, s), operands=(np.ones(1),))
    assert y.shape == (x @ w).shape
    assert np.all(y == 1)
    assert np.all(z == 0)


def test_another_number_or_shape_compiles_nothing(monkeypatch):
    scale = 2.0
    function = nnk.fuse(lambda sums, b, t: nnk.silu(sums * scale + b) * t)

    def call(n, t):
        x, w = numbers(0, (64, 96)), numbers(1, (96, n))
        return nnk.matmul(x, w, epilogue=function, operands=(numbers(2, n), t))

    call(128, 1.0)
    before = set(machines.cpu_machine()._kernels._values)
    first = call(160, 3.0)
    scale = 4.0
    assert not np.array_equal(call(160, 3.0), first)
    assert set(machines.cpu_machine()._kernels._values) == before


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_other_backends_agree(name):
    x, w, b = numbers(0, (8, 6)), numbers(1, (6, 5)), numbers(2, 5)
    expected = nnk.matmul(x, w, epilogue=gated, operands=(b, 1.0, 2))
    out = tuple(np.empty_like(r) for r in expected)
    with nnk.use_backend(name):
        found = nnk.matmul(x, w, epilogue=gated, operands=(b, 1.0, 2))
        nnk.matmul(x, w, epilogue=gated, operands=(b, 1.0, 2), out=out)
        image = nnk.conv(x[None, :, :], w.T[:, None, :3].repeat(8, 1), epilogue=lambda s: s > 0)
    for one, other, target in zip(expected, found, out, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(other, target)
    assert image.dtype == bool


# ---- gradients ----


def bent(sums, bias, residual, scale):
    return np.tanh(sums + bias) * scale + residual * sums, np.exp(-sums * sums)


GRADIENTS = {
    "matmul": (nnk.matmul, [(4, 5), (5, 3)], {}),
    "stack": (nnk.matmul, [(2, 4, 5), (5, 3)], {}),
    "gemm": (nnk.gemm, [(5, 4), (5, 3), (3,)], {"alpha": 0.5, "beta": 2.0, "transpose_a": True}),
    "gemv": (nnk.gemv, [(4, 5), (5,)], {}),
    "linear": (nnk.linear, [(4, 5), (3, 5), (3,)], {}),
    "conv": (nnk.conv, [(2, 3, 4, 5), (4, 3, 2, 2), (4,)], {"padding": 1}),
    "conv_transpose": (nnk.conv_transpose, [(1, 2, 3), (2, 3, 2)], {"stride": 2}),
}


@pytest.mark.parametrize("case", GRADIENTS)
def test_gradients_are_difference_quotients(case):
    # They are made of the same calls on every machine.
    with nnk.use_backend("cpu" if case in ("matmul", "conv") else "reference"):
        check_gradients(case)


def check_gradients(case):
    function, shapes, options = GRADIENTS[case]
    arrays = [numbers(i, s, "float64") * 0.5 for i, s in enumerate(shapes)]
    result = function(*arrays, **options).shape
    channels = (result[1], *(1,) * (len(result) - 2)) if "conv" in case else result[-1:]
    operands = [numbers(7, channels, "float64"), numbers(8, result, "float64")]
    d = [numbers(9 + i, result, "float64") for i in range(2)]

    def call(*values):
        own, extra = values[: len(arrays)], values[len(arrays) :]
        return function(*own, epilogue=bent, operands=(*extra, 1.5), **options)

    _, pullback = nnk.vjp(function, *arrays, epilogue=bent, operands=(*operands, 1.5), **options)
    found = pullback(*d)
    assert found[-1] is None  # of a number
    everything = [*arrays, *operands]
    for i, gradient in enumerate(found[:-1]):
        assert gradient.shape == everything[i].shape
        step = numbers(20 + i, everything[i].shape, "float64") * 1e-5
        ends = []
        for sign in (1, -1):
            moved = list(everything)
            moved[i] = moved[i] + sign * step
            ends.append(sum((e * y).sum() for e, y in zip(d, call(*moved), strict=True)))
        np.testing.assert_allclose((gradient * step).sum(), (ends[0] - ends[1]) / 2, rtol=1e-6)


def test_the_pullback_keeps_no_more_than_it_needs():
    x, w, r = numbers(0, (4, 5)), numbers(1, (5, 3)), numbers(2, (4, 3))
    # Linear in the sums: nothing is kept. And a result that is the sums need not be kept again.
    for function in (lambda s, r: s * 2.0 + r, lambda s, r: (nnk.gelu(s) + r, s)):
        with nnk.use_backend("reference"):
            y, pullback = nnk.vjp(nnk.matmul, x, w, epilogue=function, operands=(r,))
            dy = np.ones((4, 3), np.float32)
            found = pullback(*[dy] * len(results_of(y)))
        assert [g.shape for g in found] == [x.shape, w.shape, r.shape]
        np.testing.assert_array_equal(found[2], dy)


# ---- errors ----


def test_bad_input():
    x, w, b = numbers(0, (4, 5)), numbers(1, (5, 3)), numbers(2, 7)
    image, weight = numbers(3, (1, 2, 5, 5)), numbers(4, (3, 2, 3, 3))
    add = nnk.fuse(lambda sums, bias: sums + bias)
    two = nnk.fuse(lambda sums: (sums, -sums))
    cases = [
        (lambda: nnk.matmul(x, w, epilogue=add, operands=(b,)), ShapeError, "bias has shape"),
        (lambda: nnk.conv(image, weight, epilogue=add, operands=(b,)), ShapeError, "bias has"),
        (lambda: nnk.matmul(x, w, epilogue=add), TypeError, "bias"),
        (lambda: nnk.matmul(x, w, epilogue=add, operands=b), TypeError, "must be a tuple"),
        (lambda: nnk.matmul(x, w, epilogue="relu", operands=(b,)), TypeError, "no function"),
        (lambda: nnk.matmul(x, w, operands=(b,)), TypeError, "no function"),
        (lambda: nnk.matmul(x, w, epilogue=add, operands=([1.0],)), DTypeError, "bias"),
        (lambda: nnk.matmul(x + 0j, w, epilogue=two), DTypeError, "complex"),
        (lambda: nnk.matmul(x, w, epilogue=lambda s: s if s > 0 else -s), TraceError, "truth"),
        (lambda: nnk.matmul(x, w, epilogue=two, out=np.empty((4, 3), "f4")), TypeError, "tuple"),
        (lambda: nnk.matmul(x, w, epilogue=two, out=(x[:, :3], x[:, :3])), ShapeError, "shares"),
        (lambda: nnk.linear(x, w.T, activation="relu", epilogue=two), TypeError, "not both"),
        (lambda: nnk.matmul(x, w, epilogue=3), TypeError, "epilogue must be"),
    ]
    for call, kind, text in cases:
        with pytest.raises(kind, match=text):
            call()
    same = np.empty((4, 3), np.float32)
    with pytest.raises(ShapeError, match=r"out\[0\] shares memory with out\[1\]"):
        nnk.matmul(x, w, epilogue=two, out=(same, same))


def test_plain_functions_and_activations_of_two_arrays():
    x, w = numbers(0, (4, 5)), numbers(1, (5, 3))
    y = nnk.matmul(x, w)
    weight = np.array([0.5, 0.25, 0.125], np.float32)
    found = nnk.matmul(x, w, epilogue=nnk.prelu, operands=(weight,))
    np.testing.assert_allclose(found, np.where(y > 0, y, y * weight), rtol=1e-6)
    assert np.array_equal(nnk.matmul(x, w, epilogue=np.negative), -y)
    for first, second in itertools.pairwise([nnk.relu, "relu"]):
        assert np.array_equal(nnk.matmul(x, w, epilogue=first), nnk.matmul(x, w, epilogue=second))
