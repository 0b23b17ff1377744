"""The ops as primitives of the autograd package."""

from __future__ import annotations

import numpy as np
import pytest
from differentiating import BIAS, CALLS, IMAGES, KERNEL, WEIGHT, X

import nnkernels as nnk

autograd = pytest.importorskip("autograd", reason="the other side is autograd")
anp = pytest.importorskip("autograd.numpy")
from autograd.test_util import check_grads  # noqa: E402

from nnkernels.interop import autograd as nna  # noqa: E402


@pytest.mark.parametrize("module", [nnk, nna], ids=["nnkernels", "interop.autograd"])
@pytest.mark.parametrize(("call", "arrays", "twice"), CALLS.values(), ids=CALLS)
def test_values_and_gradients(call, arrays, twice, module):
    assert np.array_equal(call(module, *arrays), call(nnk, *arrays))
    check_grads(lambda *given: call(module, *given), modes=["rev"], order=2 if twice else 1)(
        *arrays
    )


def test_whole_program():
    def loss(parameters, images):
        kernel, weight, bias = parameters
        y = nnk.avg_pool(nnk.conv(images, kernel, padding="same", epilogue="relu"), 4)
        y = nnk.linear(anp.reshape(y, (1, 3)), weight, bias)
        return -nnk.log_softmax(y)[0, 1] + anp.sum(weight**2)

    parameters = (KERNEL, WEIGHT[:, :3].copy(), BIAS)
    value, gradients = nnk.value_and_grad(loss)(parameters, IMAGES)
    assert value == loss(parameters, IMAGES)
    for i, parameter in enumerate(parameters):
        direction = np.random.default_rng(i).standard_normal(parameter.shape)
        sides = []
        for step in (1e-6, -1e-6):
            moved = [*parameters]
            moved[i] = parameter + step * direction
            sides.append(loss(moved, IMAGES))
        quotient = (sides[0] - sides[1]) / 2e-6
        assert abs(np.sum(gradients[i] * direction) - quotient) < 1e-6


def test_several_arguments():
    value, (dx, dw) = nnk.value_and_grad(lambda x, w: nnk.matmul(x, w).sum(), (0, 1))(X, X.T)
    assert value == nnk.matmul(X, X.T).sum()
    assert dx.shape == X.shape
    assert dw.shape == X.T.shape


@pytest.mark.parametrize("traced", ["lists", "arrays in lists"])
def test_networks(traced):
    weights = [np.random.default_rng(i).standard_normal(s) for i, s in enumerate([(5, 4), (2, 5)])]
    x = np.ones((3, 4))

    def loss(weights):
        return nnk.mlp(x, weights, activation="tanh").sum()

    if traced == "lists":
        value, found = nnk.value_and_grad(loss)(weights)
    else:
        value, found = nnk.value_and_grad(lambda a, b: loss([a, b]), (0, 1))(*weights)
    y, pullback = nnk.vjp(nnk.mlp, x, weights, activation="tanh")
    assert np.allclose(value, y.sum(), rtol=1e-12)
    for a, b in zip(found, pullback(np.ones_like(y))[1], strict=True):
        assert np.allclose(a, b, rtol=1e-12)
    with pytest.raises(TypeError, match="mlp_backward has no gradient"):
        autograd.grad(lambda x: nnk.mlp_backward(y, x, weights)[0].sum())(x)


def test_without_the_package(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "nnkernels.interop.autograd", None)
    monkeypatch.delattr("nnkernels.interop.autograd", raising=False)
    with pytest.raises(ImportError, match="pip install autograd"):
        nnk.value_and_grad(lambda x: x.sum())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: autograd.grad(
                lambda x: autograd.grad(lambda x: nnk.lp_pool(x, 2).sum())(x)[0, 0, 0]
            )(X[None]),
            "lp_pool has no second derivative",
        ),
        (
            lambda: autograd.grad(autograd.grad(autograd.grad(lambda x: nnk.gelu(x))))(
                np.array(0.5)
            ),
            "gelu has no third derivative",
        ),
        (lambda: autograd.grad(lambda x: nna.relu(x, out=X).sum())(X), "takes no out"),
        (
            lambda: autograd.grad(lambda x: nnk.softmax(x, prologue=nnk.tanh).sum())(X),
            "softmax with a fused function inside is not recorded here",
        ),
    ],
)
def test_wrong_use(call, message):
    with pytest.raises(TypeError, match=message):
        call()
