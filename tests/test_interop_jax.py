"""The ops as functions of JAX, under its transformations."""

from __future__ import annotations

import numpy as np
import pytest

import nnkernels as nnk

jax = pytest.importorskip("jax")
jnp = pytest.importorskip("jax.numpy")
from jax.test_util import check_grads  # noqa: E402

from nnkernels.interop import jax as nnj  # noqa: E402

GENERATOR = np.random.default_rng(5)
X, WEIGHT, BIAS = (GENERATOR.standard_normal(s) for s in ((3, 4), (5, 4), (5,)))
IMAGES, KERNEL = (GENERATOR.standard_normal(s) for s in ((1, 2, 4, 4), (3, 2, 2, 2)))


@pytest.fixture(autouse=True)
def _wide():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


# Arguments, and whether there is a second derivative.
CALLS = {
    "gelu": (lambda nn, x: nn.gelu(x), (X,), True),
    "relu": (lambda nn, x: nn.relu(x), (X,), True),
    "softmax": (lambda nn, x: nn.softmax(x, axis=0), (X,), True),
    "logsumexp": (lambda nn, x: nn.logsumexp(x, axis=(0, 1)), (X,), True),
    "linear": (lambda nn, *a: nn.linear(*a, activation="gelu"), (X, WEIGHT, BIAS), True),
    "mlp": (lambda nn, x, *w: nn.mlp(x, w, activation="gelu"), (X, WEIGHT, WEIGHT.T), True),
    "conv": (lambda nn, *a: nn.conv(*a, padding=1, epilogue="tanh"), (IMAGES, KERNEL), True),
    "max_pool": (lambda nn, x: nn.max_pool(x, 2, return_indices=True)[0], (IMAGES,), True),
    "avg_pool": (lambda nn, x: nn.avg_pool(x, 2), (IMAGES,), True),
    "swiglu": (lambda nn, x, gate: nn.swiglu(x, gate), (X, X[:1]), True),
    "layer_norm": (lambda nn, x, r: nn.layer_norm(x, residual=r)[0], (X, X[::-1].copy()), False),
    "batch_norm": (lambda nn, x: nn.batch_norm(x, training=True)[0], (X,), False),
}


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize(("call", "arrays", "twice"), CALLS.values(), ids=CALLS)
def test_values_and_gradients(call, arrays, twice, transform):
    function = transform(lambda *given: call(nnj, *given))
    given = [jnp.asarray(a) for a in arrays]
    result = function(*given)
    assert isinstance(result, jax.Array)
    assert np.array_equal(result, call(nnk, *arrays))
    check_grads(function, given, order=2 if twice else 1, modes=["rev"])


def test_gradient_in_a_compiled_function():
    def loss(weight, x):
        return (nnj.tanh(nnj.linear(x, weight)) ** 2).sum()

    got = jax.jit(jax.value_and_grad(loss))(jnp.asarray(WEIGHT), jnp.asarray(X))
    value, wanted = nnk.value_and_grad(lambda w: (nnk.tanh(nnk.linear(X, w)) ** 2).sum())(WEIGHT)
    assert np.allclose(got[0], value)
    assert np.allclose(got[1], wanted)


def test_vmap():
    rows = jnp.asarray(X)
    one = jax.grad(lambda x: nnj.softmax(x)[0])
    wanted = jnp.stack([one(row) for row in rows])
    assert np.allclose(jax.vmap(one)(rows), wanted)
    assert np.allclose(jax.jit(jax.vmap(one))(rows), wanted)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes(dtype):
    x = jnp.asarray(X, dtype)
    for function in (nnj.gelu, jax.jit(nnj.gelu)):
        y = function(x)
        assert y.dtype == x.dtype
        assert np.array_equal(np.asarray(y, "float32"), nnk.gelu(np.asarray(x)).astype("float32"))


def test_only_what_is_wanted_is_made(monkeypatch):
    seen = []
    backward = nnj.linear_backward
    monkeypatch.setattr(
        nnj, "linear_backward", lambda *a, **k: seen.append(k["wrt"]) or backward(*a, **k)
    )
    jax.grad(lambda w: nnj.linear(jnp.asarray(X), w).sum())(jnp.asarray(WEIGHT))
    assert seen == [(1,)]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: nnj.relu([1.0]), nnk.DTypeError, "x of relu must be a JAX array; got list"),
        (lambda x: nnj.relu(x, out=x), TypeError, "takes no out"),
        (lambda x: nnj.matmul(x, x), nnk.ShapeError, "x1 has shape"),
        (lambda x: jax.jit(nnj.matmul)(x, x), nnk.ShapeError, "x1 has shape"),
        (
            lambda x: jax.grad(lambda x: jax.grad(lambda x: nnj.layer_norm(x)[0])(x)[0])(x[0]),
            TypeError,
            "layer_norm has no second derivative",
        ),
        (
            lambda x: jax.grad(jax.grad(jax.grad(nnj.gelu)))(x[0, 0]),
            TypeError,
            "gelu has no third derivative",
        ),
    ],
)
def test_wrong_use(call, error, message):
    with pytest.raises(error, match=message):
        call(jnp.asarray(X))
