"""The ops as functions of JAX, under its transformations."""

from __future__ import annotations

import numpy as np
import pytest
from differentiating import CALLS, WEIGHT, X

import nnkernels as nnk

jax = pytest.importorskip("jax", reason="the other side is JAX")
jnp = pytest.importorskip("jax.numpy")
from jax.test_util import check_grads  # noqa: E402

from nnkernels.interop import jax as nnj  # noqa: E402


@pytest.fixture(autouse=True)
def _wide():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


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
        (lambda x: nnj.softmax(x, prologue=nnk.tanh), TypeError, "function inside is not recorded"),
        (lambda x: jax.jit(nnj.matmul)(x, x), nnk.ShapeError, "x1 has shape"),
        (
            lambda x: jax.grad(lambda x: jax.grad(lambda x: nnj.lp_pool(x, 2).sum())(x)[0, 0, 0])(
                x[None]
            ),
            TypeError,
            "lp_pool has no second derivative",
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
