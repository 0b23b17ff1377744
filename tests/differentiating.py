"""Calls of every op for tests of its gradient."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from strategies import make_numbers

from nnkernels.registry import COMPLEX


def cases(op):
    """Small shapes with every option of the record's examples, in float64 and complex128.

    Kernels of complex numbers are the slowest to compile: profile ci has the first example alone.
    """
    dtypes = ["float64"] + ["complex128"] * bool(set(COMPLEX) & set(op.dtypes))
    for dtype in dtypes:
        short = dtype == "complex128" and settings.default.derandomize
        for example in op.examples[:1] if short else op.examples:
            shapes = tuple(tuple(min(n, _limit(n)) for n in shape) for shape in example.shapes)
            if op.is_gradient and (op.family in ("conv", "pool", "windows") or "glu" in op.name):
                shapes = example.shapes  # of which the first follows from the others
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


# ---- for libraries that differentiate ------------------------------------------------------------

_GENERATOR = np.random.default_rng(5)
X, WEIGHT, BIAS = (_GENERATOR.standard_normal(s) for s in ((3, 4), (5, 4), (5,)))
IMAGES, KERNEL = (_GENERATOR.standard_normal(s) for s in ((1, 2, 4, 4), (3, 2, 2, 2)))

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
    "layer_norm": (lambda nn, x, r: nn.layer_norm(x, residual=r)[0], (X, X[::-1].copy()), True),
    "batch_norm": (lambda nn, x: nn.batch_norm(x, training=True)[0], (X,), True),
}
