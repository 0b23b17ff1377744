"""The elementwise references against PyTorch, difference quotients and known values."""

from __future__ import annotations

import inspect
import math

import ml_dtypes
import numpy as np
import pytest

from nnkernels.reference import elementwise as reference

FLOATING = ("float16", "bfloat16", "float32", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
HOLOMORPHIC = ("sigmoid", "tanh", "silu", "tanh_shrink")
FROM_RESULT = ("relu", "relu6", "sigmoid", "tanh")  # the gradient takes y

UNARY = [
    ("relu", {}),
    ("relu6", {}),
    ("leaky_relu", {}),
    ("leaky_relu", {"negative_slope": 0.3}),
    ("threshold_relu", {}),
    ("threshold_relu", {"theta": -0.5}),
    ("elu", {}),
    ("elu", {"alpha": 0.7}),
    ("celu", {}),
    ("celu", {"alpha": 0.7}),
    ("selu", {}),
    ("sigmoid", {}),
    ("log_sigmoid", {}),
    ("hard_sigmoid", {}),
    ("hard_sigmoid", {"alpha": 0.2, "beta": 0.4}),
    ("hard_sigmoid", {"alpha": -0.3}),
    ("softplus", {}),
    ("softplus", {"beta": 3.0}),
    ("tanh", {}),
    ("hard_tanh", {}),
    ("hard_tanh", {"min": -0.25, "max": 2.0}),
    ("tanh_shrink", {}),
    ("lisht", {}),
    ("log_cosh", {}),
    ("softsign", {}),
    ("silu", {}),
    ("silu", {"beta": 2.5}),
    ("silu", {"beta": -0.5}),
    ("silu", {"beta": 0.0}),
    ("gelu", {}),
    ("gelu", {"approximate": "tanh"}),
    ("gelu", {"approximate": "sigmoid"}),
    ("mish", {}),
    ("hard_swish", {}),
    ("soft_shrink", {}),
    ("soft_shrink", {"lambd": 0.3}),
    ("hard_shrink", {}),
    ("hard_shrink", {"lambd": 0.3}),
]


def label(value: object) -> str:
    """Read a case as one word in pytest's list."""
    if isinstance(value, dict):
        return ",".join(f"{k}={v}" for k, v in value.items()) or "defaults"
    return str(value)


def unary_backward(name: str, dy: np.ndarray, x: np.ndarray, options: dict) -> np.ndarray:
    """Call the gradient of a function of one operand, with what it wants."""
    residual = getattr(reference, name)(x, **options) if name in FROM_RESULT else x
    return getattr(reference, f"{name}_backward")(dy, residual, **options)


def numpy_dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def normal(seed: int, shape: tuple[int, ...], scale: float = 2.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal(shape)


# ---- PyTorch -------------------------------------------------------------------------------

# Each as in torch.nn.functional, our options given to it by position.
TORCH = [
    ("relu", {}, "relu", ()),
    ("relu6", {}, "relu6", ()),
    ("leaky_relu", {"negative_slope": 0.3}, "leaky_relu", (0.3,)),
    ("threshold_relu", {"theta": 0.5}, "threshold", (0.5, 0.0)),
    ("elu", {"alpha": 0.7}, "elu", (0.7,)),
    ("selu", {}, "selu", ()),
    ("sigmoid", {}, "sigmoid", ()),
    ("log_sigmoid", {}, "logsigmoid", ()),
    ("hard_sigmoid", {}, "hardsigmoid", ()),
    ("softplus", {"beta": 3.0}, "softplus", (3.0, 1e9)),
    ("tanh", {}, "tanh", ()),
    ("hard_tanh", {"min": -0.5, "max": 3.0}, "hardtanh", (-0.5, 3.0)),
    ("tanh_shrink", {}, "tanhshrink", ()),
    ("softsign", {}, "softsign", ()),
    ("silu", {}, "silu", ()),
    ("gelu", {}, "gelu", ()),
    ("gelu", {"approximate": "tanh"}, "gelu tanh", ()),
    ("mish", {}, "mish", ()),
    ("hard_swish", {}, "hardswish", ()),
    ("soft_shrink", {"lambd": 0.5}, "softshrink", (0.5,)),
    ("hard_shrink", {"lambd": 0.5}, "hardshrink", (0.5,)),
]
# Kinks of the piecewise functions above among them, to hold us to PyTorch's choice there.
POINTS = np.concatenate(
    [[-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 6.0, 30.0, -30.0], normal(0, (200,))]
)


def in_torch(name: str, arguments: tuple) -> object:
    torch = pytest.importorskip("torch", reason="PyTorch is the peer of this test")
    if name == "gelu tanh":
        return lambda x: torch.nn.functional.gelu(x, approximate="tanh")
    if name in ("sigmoid", "tanh"):
        return getattr(torch, name)
    return lambda x: getattr(torch.nn.functional, name)(x, *arguments)


@pytest.mark.parametrize(("name", "options", "peer", "arguments"), TORCH, ids=label)
def test_function_and_gradient_agree_with_pytorch(name, options, peer, arguments):
    torch = pytest.importorskip("torch", reason="PyTorch is the peer of this test")
    x = torch.tensor(POINTS, requires_grad=True)
    dy = normal(1, POINTS.shape)
    y = in_torch(peer, arguments)(x)
    y.backward(torch.tensor(dy))
    ours = getattr(reference, name)(POINTS, **options)
    np.testing.assert_allclose(ours, y.detach().numpy(), rtol=1e-13, atol=1e-15)
    gradient = unary_backward(name, dy, POINTS, options)
    # PyTorch holds constants such as 1 / 6 in float32 in some of its float64 gradients.
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-7, atol=1e-14)


def test_celu_agrees_with_pytorch_away_from_its_kink():
    # PyTorch's own derivative at 0 is 0.99999996 in float64.
    torch = pytest.importorskip("torch", reason="PyTorch is the peer of this test")
    x = torch.tensor(normal(2, (100,)), requires_grad=True)
    y = torch.nn.functional.celu(x, 0.7)
    y.sum().backward()
    points = x.detach().numpy()
    np.testing.assert_allclose(reference.celu(points, alpha=0.7), y.detach().numpy(), rtol=1e-7)
    ones = np.ones_like(points)
    ours = reference.celu_backward(ones, points, alpha=0.7)
    np.testing.assert_allclose(ours, x.grad.numpy(), rtol=1e-6)


def test_prelu_and_glu_agree_with_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is the peer of this test")
    x = torch.tensor(normal(3, (4, 6, 5)), requires_grad=True)
    weight = torch.tensor(normal(4, (6,)), requires_grad=True)
    dy = normal(5, (4, 6, 5))
    y = torch.nn.functional.prelu(x, weight)
    y.backward(torch.tensor(dy))
    operands = (x.detach().numpy(), weight.detach().numpy())
    np.testing.assert_allclose(reference.prelu(*operands), y.detach().numpy(), rtol=1e-14)
    dx, dweight = reference.prelu_backward(dy, *operands)
    np.testing.assert_allclose(dx, x.grad.numpy(), rtol=1e-14)
    np.testing.assert_allclose(dweight, weight.grad.numpy(), rtol=1e-12)

    x.grad = None
    y = torch.nn.functional.glu(x, 1)
    y.backward(torch.tensor(dy[:, :3]))
    np.testing.assert_allclose(reference.glu(operands[0], axis=1), y.detach().numpy(), rtol=1e-13)
    dx = reference.glu_backward(dy[:, :3], operands[0], axis=1)
    np.testing.assert_allclose(dx, x.grad.numpy(), rtol=1e-12)


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_complex_gradient_agrees_with_pytorch(name):
    torch = pytest.importorskip("torch", reason="PyTorch is the peer of this test")
    z, dz = (normal(seed, (50,)) + 1j * normal(seed + 1, (50,)) for seed in (6, 8))
    x = torch.tensor(z, requires_grad=True)
    y = getattr(torch, name)(x)
    y.backward(torch.tensor(dz))
    np.testing.assert_allclose(getattr(reference, name)(z), y.detach().numpy(), rtol=1e-11)
    np.testing.assert_allclose(unary_backward(name, dz, z, {}), x.grad.numpy(), rtol=1e-10)


# ---- difference quotients ------------------------------------------------------------------


def numerical_gradient(function, arrays, position, dy, step=1e-6):
    """Gradient of Re(sum(conj(dy) y)) with respect to one array, by central differences."""
    array = arrays[position]
    gradient = np.zeros_like(array)
    directions = (1.0, 1j) if np.iscomplexobj(array) else (1.0,)
    for index in np.ndindex(array.shape):
        for direction in directions:
            losses = []
            for sign in (1, -1):
                moved = array.copy()
                moved[index] += sign * step * direction
                changed = [*arrays[:position], moved, *arrays[position + 1 :]]
                losses.append(np.real(np.sum(np.conj(dy) * function(*changed))))
            gradient[index] += direction * (losses[0] - losses[1]) / (2 * step)
    return gradient


@pytest.mark.parametrize(("name", "options"), UNARY, ids=label)
def test_gradient_is_the_difference_quotient(name, options):
    x, dy = normal(10, (5, 8)), normal(11, (5, 8))
    expected = numerical_gradient(lambda a: getattr(reference, name)(a, **options), [x], 0, dy)
    actual = unary_backward(name, dy, x, options)
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", HOLOMORPHIC)
def test_complex_gradient_is_the_difference_quotient(name):
    x, dy = (normal(seed, (4, 5), 1.0) + 1j * normal(seed + 1, (4, 5), 1.0) for seed in (12, 14))
    expected = numerical_gradient(getattr(reference, name), [x], 0, dy)
    actual = unary_backward(name, dy, x, {})
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


# Shapes of the operands, options and the shape of the result.
OPERANDS = [
    ("prelu", ((2, 3, 4), (3,)), {}, (2, 3, 4)),
    ("prelu", ((2, 3, 4), (4,)), {"axis": -1}, (2, 3, 4)),
    ("prelu", ((2, 3, 4), (1,)), {}, (2, 3, 4)),
    ("prelu", ((5,), ()), {}, (5,)),
    ("glu", ((3, 4),), {}, (3, 2)),
    ("glu", ((4, 3, 2),), {"axis": 0}, (2, 3, 2)),
    ("swiglu", ((3, 4), (3, 4)), {}, (3, 4)),
    ("swiglu", ((3, 1), (2, 1, 4)), {}, (2, 3, 4)),
    ("geglu", ((3, 4), (3, 4)), {}, (3, 4)),
    ("geglu", ((2, 3, 4), ()), {}, (2, 3, 4)),
]


@pytest.mark.parametrize(("name", "shapes", "options", "result"), OPERANDS, ids=label)
def test_gradients_of_all_operands_are_difference_quotients(name, shapes, options, result):
    arrays = [np.asarray(normal(20 + i, shape, 1.5)) for i, shape in enumerate(shapes)]
    dy = normal(30, result)

    def function(*operands):
        return getattr(reference, name)(*operands, **options)

    assert function(*arrays).shape == result
    gradients = getattr(reference, f"{name}_backward")(dy, *arrays, **options)
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    assert len(gradients) == len(arrays)
    for position, actual in enumerate(gradients):
        expected = numerical_gradient(function, arrays, position, dy)
        assert actual.shape == shapes[position]
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)


# ---- limits and known values ---------------------------------------------------------------

SELU_LOW = -1.0507009873554805 * 1.6732632423543772
# Values and derivatives at -inf and inf.
LIMITS = [
    ("relu", {}, (0, math.inf), (0, 1)),
    ("relu6", {}, (0, 6), (0, 0)),
    ("leaky_relu", {}, (-math.inf, math.inf), (0.01, 1)),
    ("threshold_relu", {}, (0, math.inf), (0, 1)),
    ("elu", {"alpha": 0.7}, (-0.7, math.inf), (0, 1)),
    ("celu", {"alpha": 0.7}, (-0.7, math.inf), (0, 1)),
    ("selu", {}, (SELU_LOW, math.inf), (0, 1.0507009873554805)),
    ("sigmoid", {}, (0, 1), (0, 0)),
    ("log_sigmoid", {}, (-math.inf, 0), (1, 0)),
    ("hard_sigmoid", {}, (0, 1), (0, 0)),
    ("softplus", {}, (0, math.inf), (0, 1)),
    ("softplus", {"beta": 3.0}, (0, math.inf), (0, 1)),
    ("tanh", {}, (-1, 1), (0, 0)),
    ("hard_tanh", {}, (-1, 1), (0, 0)),
    ("tanh_shrink", {}, (-math.inf, math.inf), (1, 1)),
    ("lisht", {}, (math.inf, math.inf), (-1, 1)),
    ("log_cosh", {}, (math.inf, math.inf), (-1, 1)),
    ("softsign", {}, (-1, 1), (0, 0)),
    ("silu", {}, (0, math.inf), (0, 1)),
    ("silu", {"beta": -1.0}, (-math.inf, 0), (1, 0)),
    ("silu", {"beta": 0.0}, (-math.inf, math.inf), (0.5, 0.5)),
    ("gelu", {}, (0, math.inf), (0, 1)),
    ("gelu", {"approximate": "tanh"}, (0, math.inf), (0, 1)),
    ("gelu", {"approximate": "sigmoid"}, (0, math.inf), (0, 1)),
    ("mish", {}, (0, math.inf), (0, 1)),
    ("hard_swish", {}, (0, math.inf), (0, 1)),
    ("soft_shrink", {}, (-math.inf, math.inf), (1, 1)),
    ("hard_shrink", {}, (-math.inf, math.inf), (1, 1)),
]


@pytest.mark.parametrize(("name", "options", "values", "derivatives"), LIMITS, ids=label)
def test_infinity_gives_the_limit(name, options, values, derivatives):
    x = np.array([-math.inf, math.inf])
    np.testing.assert_allclose(getattr(reference, name)(x, **options), values, rtol=1e-15)
    dy = np.array([3.0, -2.0])
    np.testing.assert_allclose(
        unary_backward(name, dy, x, options), dy * derivatives, rtol=1e-15, atol=0
    )


@pytest.mark.parametrize("name", ["swiglu", "geglu"])
def test_an_infinite_gate_gives_the_limit(name):
    gate, x = np.array([-math.inf, math.inf]), np.array([2.0, 2.0])
    np.testing.assert_array_equal(getattr(reference, name)(x, gate), [0.0, math.inf])
    dx, dgate = getattr(reference, f"{name}_backward")(np.ones(2), x, gate)
    np.testing.assert_array_equal(dx, [0.0, math.inf])
    np.testing.assert_array_equal(dgate, [0.0, 2.0])


@pytest.mark.parametrize(("name", "options"), UNARY, ids=label)
def test_nan_gives_nan(name, options):
    y = getattr(reference, name)(np.array([math.nan, 1.0]), **options)
    np.testing.assert_array_equal(np.isnan(y), [True, False])


@pytest.mark.parametrize(("name", "options"), UNARY, ids=label)
def test_large_operands_overflow_only_with_the_result(name, options):
    x = np.array([-1e308, -1e5, -800.0, 800.0, 1e5, 1e308])
    y = getattr(reference, name)(x, **options)
    assert np.isfinite(y).all()
    # No activation here grows faster than its operand, nor has a slope above 1.76.
    assert (np.abs(y) <= 1.06 * np.abs(x) + 2).all()
    dx = unary_backward(name, np.ones(6), x, options)
    assert (np.abs(dx) <= 1.76).all()


# x and y, in tails and neighbourhoods of 0 where careless formulas cancel or overflow. Values of
# the normal distribution function are mpmath's ncdf with 30 digits.
KNOWN = [
    ("gelu", -20.0, -20 * 2.7536241186062337e-89),
    ("gelu", -10.0, -10 * 7.619853024160527e-24),
    ("gelu", 1.0, 0.8413447460685429),
    ("silu", -50.0, -50 * math.exp(-50)),
    ("sigmoid", -700.0, math.exp(-700)),
    ("log_sigmoid", 40.0, -math.exp(-40)),
    ("log_sigmoid", -1000.0, -1000.0),
    ("softplus", -40.0, math.exp(-40)),
    ("softplus", 1000.0, 1000.0),
    ("log_cosh", 1e-8, 0.5e-16),
    ("log_cosh", 1000.0, 1000.0 - math.log(2)),
    ("mish", -40.0, -40 * math.exp(-40)),
    ("mish", 1000.0, 1000.0),
    ("elu", -1e-20, -1e-20),
    ("log_cosh", 0.7, math.log(math.cosh(0.7))),
    ("log_cosh", -3.0, math.log(math.cosh(3.0))),
    ("lisht", 1e-20, 1e-40),
    ("lisht", -2.0, 2.0 * math.tanh(2.0)),
]


@pytest.mark.parametrize(("name", "x", "expected"), KNOWN)
def test_known_values(name, x, expected):
    # Rounding x / sqrt(2) alone changes gelu(-20) by up to 400 / 2 times 1.1e-16.
    assert getattr(reference, name)(np.array(x)) == pytest.approx(expected, rel=4e-14, abs=0)


def test_gelu_sigmoid_has_the_slope_of_its_paper():
    x = normal(35, (20,))
    expected = x / (1 + np.exp(-1.702 * x))
    np.testing.assert_allclose(reference.gelu(x, approximate="sigmoid"), expected, rtol=1e-14)


# ---- dtypes, shapes and strides ------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATING)
@pytest.mark.parametrize(("name", "options"), UNARY, ids=label)
def test_result_is_the_float64_result_rounded_once(name, options, dtype):
    x = normal(40, (3, 7)).astype(numpy_dtype(dtype))
    dy = normal(41, (3, 7)).astype(numpy_dtype(dtype))
    wide_x, wide_dy = x.astype(np.float64), dy.astype(np.float64)
    y = getattr(reference, name)(x, **options)
    assert y.dtype == x.dtype
    wide = getattr(reference, name)(wide_x, **options)
    np.testing.assert_array_equal(y, wide.astype(x.dtype))
    if name not in FROM_RESULT:  # the others see the rounded y
        dx = unary_backward(name, dy, x, options)
        assert dx.dtype == x.dtype
        wide = unary_backward(name, wide_dy, wide_x, options)
        np.testing.assert_array_equal(dx, wide.astype(x.dtype))


@pytest.mark.parametrize("name", HOLOMORPHIC)
def test_complex_dtypes_are_kept(name):
    z = (normal(42, (6,)) + 1j * normal(43, (6,))).astype(np.complex64)
    y = getattr(reference, name)(z)
    assert y.dtype == np.complex64
    wide = getattr(reference, name)(z.astype(np.complex128))
    np.testing.assert_array_equal(y, wide.astype(np.complex64))
    assert unary_backward(name, z, z, {}).dtype == np.complex64
    on_the_axis = getattr(reference, name)(z.real.astype(np.complex128))
    np.testing.assert_allclose(on_the_axis, getattr(reference, name)(z.real.astype(np.float64)))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_stay_integers(dtype):
    limits = np.iinfo(dtype)
    x = np.array([limits.min, 0, 3, 7, limits.max], dtype)
    for name, options, low, high in [
        ("relu", {}, 0, limits.max),
        ("relu6", {}, 0, 6),
        ("hard_tanh", {}, -1, 1),
        ("hard_tanh", {"min": -math.inf, "max": math.inf}, limits.min, limits.max),
        ("hard_tanh", {"min": -300.0, "max": 5.0}, -300, 5),
    ]:
        y = getattr(reference, name)(x, **options)
        assert y.dtype == x.dtype
        assert y.tolist() == [min(max(value, low), high) for value in x.tolist()]


def test_two_operands_promote():
    x, gate = np.ones(3, np.float16), np.ones(3, np.float32)
    assert reference.swiglu(x, gate).dtype == np.float32
    assert [g.dtype for g in reference.geglu_backward(x, x, gate)] == [np.float32] * 2


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1, 1)])
def test_shapes_without_elements_or_axes(shape):
    for name, options in UNARY:
        x = np.ones(shape)
        assert getattr(reference, name)(x, **options).shape == shape
        assert unary_backward(name, x, x, options).shape == shape


def test_strides_do_not_matter():
    base = normal(50, (6, 8, 4))
    view = base[::-2, 1::3, ::-1].T
    assert not view.flags.c_contiguous
    for name, options in UNARY:
        expected = getattr(reference, name)(view.copy(order="C"), **options)
        np.testing.assert_array_equal(getattr(reference, name)(view, **options), expected)
    repeated = np.broadcast_to(base[0, 0], (3, 4))
    expected = reference.swiglu(repeated.copy(), repeated.copy())
    np.testing.assert_array_equal(reference.swiglu(repeated, repeated), expected)


# ---- the interface -------------------------------------------------------------------------


def test_every_public_function_has_a_reference_of_its_signature():
    from nnkernels.ops import activations, activations_backward, gated

    found = 0
    for module in (activations, activations_backward, gated):
        for name in module.__all__:
            ours = inspect.signature(getattr(reference, name)).parameters
            public = inspect.signature(getattr(module, name)).parameters
            assert {n: (p.kind, p.default) for n, p in ours.items()} == {
                n: (p.kind, p.default) for n, p in public.items() if n != "out"
            }, name
            found += 1
    assert found == 54
