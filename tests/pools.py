"""Pooling in the tests: references, images and layouts."""

from __future__ import annotations

import numpy as np
from strategies import make_numbers

from nnkernels import registry
from nnkernels.dispatch.dtypes import numpy_dtype

OPS = {op.name: op for op in registry.all_ops().values() if op.family == "pool"}


def expected(name, *arguments, **options):
    """The result of the reference of an op."""
    with np.errstate(all="ignore"):
        return OPS[name].reference(*arguments, **options)


def image(generator, shape, dtype="float32", ties=False):
    """Numbers; with ties, few different ones, so that many windows have several maxima."""
    if ties:
        return generator.integers(-2, 3, shape).astype(numpy_dtype(dtype))
    return make_numbers(generator, shape, dtype)
