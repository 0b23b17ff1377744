"""Pixels of few and many runs, some elements apart, and weights in any order, on a CPU."""

from __future__ import annotations

import numpy as np
import pytest
from convolving import BY_DATA, FORWARD, Geometry, assert_right
from strategies import make_numbers

import nnkernels as nnk


def numbers(shape, dtype, seed):
    return make_numbers(np.random.default_rng(seed), shape, dtype)


# Of registers of 16 pixels: one row or less, two to four rows, and more than are put together.
WIDTHS = (40, 16, 9, 7, 5, 3, 1)


@pytest.mark.parametrize(
    ("dtype", "stride"),
    [
        *((dtype, n) for dtype in ("float16", "float64", "int8", "complex64") for n in (1, 2)),
        *(("float32", n) for n in (1, 2, 3, 4, 5)),
    ],
)
def test_columns_of_pixels(dtype, stride, cpu):
    """More terms than a slice has, so that the second one begins within a window."""
    channels, rows = (200, 7) if dtype != "complex64" else (60, 7)

    def body():
        for width in WIDTHS:
            # Windows see padding on all sides, and the last pixels are a part of a register.
            spatial = (3 * stride, (width - 1) * stride + 1)
            geometry = Geometry(
                (2, channels, *spatial),
                (rows, channels, 2, 3),
                {"stride": (1, stride), "padding": ((1, 1), (1, 1))},
            )
            x, weight = (numbers(s, dtype, i) for i, s in enumerate((geometry.x, geometry.weight)))
            y = nnk.conv(cpu.array(x), cpu.array(weight), **geometry.options)
            if not cpu.recording:
                arrays = [x, weight, None]
                assert_right(FORWARD, arrays, geometry.options, cpu.numpy(y), geometry.terms)

    cpu.precompiled(body)


@pytest.mark.parametrize("stride", [1, 2])
def test_channels_far_apart(stride, cpu):
    """More than a page: those of later ones are fetched, and none that a slice lacks."""
    geometry = Geometry((1, 100, 1500), (9, 100, 7), {"stride": stride, "padding": 3})
    x, weight = (numbers(s, "float32", i) for i, s in enumerate((geometry.x, geometry.weight)))
    y = nnk.conv(cpu.array(x), cpu.array(weight), **geometry.options)
    arrays = [x, weight, None]
    assert_right(FORWARD, arrays, geometry.options, cpu.numpy(y), geometry.terms)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "complex64"])
def test_weights_in_any_order(dtype, cpu):
    """The gradient by the image: rows and terms of weights change places, taps are turned round."""
    outputs = 90

    def body():
        for kernel, stride in (((7,), 1), ((3, 3), 2), ((5, 5), 2), ((5, 5), 1), ((3, 3, 3), 2)):
            rank = len(kernel)
            x_shape = (1, 13, *{1: (40,), 2: (9, 14), 3: (4, 5, 6)}[rank])
            weight = numbers((outputs, 13, *kernel), dtype, 1)
            options = {"stride": stride, "padding": 1}
            dy_shape = Geometry(x_shape, weight.shape, options).y
            dy = numbers(dy_shape, dtype, 2)
            for order in (weight, weight[:, ::-1]):
                dx = nnk.conv_backward_data(
                    cpu.array(dy), cpu.array(order), x_shape, algorithm="direct", **options
                )
                if not cpu.recording:
                    own = options | {"x_shape": x_shape}
                    terms = outputs * int(np.prod(kernel))
                    assert_right(BY_DATA, [dy, order], own, cpu.numpy(dx), terms)

    cpu.precompiled(body)
