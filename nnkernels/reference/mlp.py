"""What multilayer perceptrons are: the specification in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnkernels.ops._activation import resolve
from nnkernels.reference.matmul import widened


def mlp(
    x: Any,
    weights: Any,
    biases: Any = None,
    *,
    activation: Any = "relu",
    output_activation: Any = None,
) -> Any:
    """``h = f(h weight^T + bias)`` for each layer, in float64."""
    return _layers(x, weights, biases, activation, output_activation)[-1][-1].astype(x.dtype)


def mlp_backward(
    dy: Any,
    x: Any,
    weights: Any,
    biases: Any = None,
    *,
    activation: Any = "relu",
    output_activation: Any = None,
) -> Any:
    """``dz = dh f'(z)``, ``dweight = dz^T h``, ``dbias = sum of dz``, ``dh = dz weight``."""
    layers = _layers(x, weights, biases, activation, output_activation)
    dh = widened(dy)
    dweights: list[Any] = []
    dbiases: list[Any] = []
    for weight, (f, inputs, z, h) in zip(weights[::-1], layers[::-1], strict=True):
        dz = dh if f is None else f.reference_backward(dh, h if f.takes_result else z)
        rows, terms = dz.reshape(-1, weight.shape[0]), inputs.reshape(-1, weight.shape[1])
        dweights.insert(0, (rows.T @ terms).astype(x.dtype))
        dbiases.insert(0, rows.sum(axis=0).astype(x.dtype))
        dh = dz @ widened(weight)
    if biases is not None:
        dbiases = [None if b is None else db for b, db in zip(biases, dbiases, strict=True)]
    return dh.astype(x.dtype), dweights, None if biases is None else dbiases


def _layers(x: Any, weights: Any, biases: Any, hidden: Any, output: Any) -> list[Any]:
    """Of each layer its activation, what goes in, the sums and the result."""
    given = [None] * len(weights) if biases is None else biases
    found = [resolve(hidden, "activation")] * (len(weights) - 1)
    found.append(resolve(output, "output_activation"))
    h, layers = widened(x), []
    for weight, bias, f in zip(weights, given, found, strict=True):
        z = h @ widened(weight).T
        z = z if bias is None else z + widened(bias)
        result = z if f is None else np.asarray(f.reference(z))
        layers.append((f, h, z, result))
        h = result
    return layers
