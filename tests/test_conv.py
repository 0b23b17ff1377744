"""Convolutions and their gradients on every machine."""

from __future__ import annotations

import numpy as np
from convolving import (
    BY_DATA,
    BY_WEIGHT,
    FORWARD,
    assert_right,
    geometries,
    operands,
)
from hypothesis import given
from hypothesis import strategies as st
from layouts import is_dense, keeps_order
from strategies import examples

import nnkernels as nnk

DTYPES = ("float32", "float32", "float32", "float64", "float16", "bfloat16", "complex64")
WHOLE = ("int8", "int32", "uint8")


@st.composite
def cases(draw, backend, dtypes):
    geometry, dtype = draw(geometries()), draw(st.sampled_from(dtypes))
    last = draw(st.booleans())
    x, weight, dy = (
        draw(operands(shape, dtype, backend, last))
        for shape in (geometry.x, geometry.weight, geometry.y)
    )
    bias = draw(operands((geometry.weight[0],), dtype, backend, last))
    return geometry, x, weight, dy, bias if draw(st.booleans()) else None


def test_any_geometry(backend):
    @examples(1.5)
    @given(cases(backend, DTYPES), st.integers(0, 99), st.booleans())
    def right(case, seed, activated):
        geometry, x, weight, dy, bias = case
        options, terms = geometry.options, geometry.terms
        more = {"epilogue": "relu"} if activated and x.dtype.kind != "c" else {}
        x, weight, dy = (backend.array(a) for a in (x, weight, dy))
        bias = None if bias is None else backend.array(bias)
        with backend.context(seed):
            y = nnk.conv(x, weight, bias, **options, **more)
            dx = nnk.conv_backward_data(dy, weight, geometry.x, **options)
            dw = nnk.conv_backward_weight(dy, x, geometry.weight, **options)
        if backend.recording:
            return
        assert is_dense(y)
        assert keeps_order(y, x) or geometry.y != geometry.x
        arrays = [backend.numpy(a) for a in (x, weight, dy)]
        given_bias = None if bias is None else backend.numpy(bias)
        y, dx, dw = (backend.numpy(a) for a in (y, dx, dw))
        assert_right(FORWARD, [*arrays[:2], given_bias], options | more, y, terms)
        outputs = geometry.weight[0] // options["groups"] * terms // geometry.weight[1]
        own = options | {"x_shape": geometry.x}
        assert_right(BY_DATA, [arrays[2], arrays[1]], own, dx, outputs)
        own = options | {"weight_shape": geometry.weight}
        pixels = max(int(np.prod(geometry.y)) // max(geometry.weight[0], 1), 1)
        assert_right(BY_WEIGHT, [arrays[2], arrays[0]], own, dw, pixels)

    backend.precompiled(right)
