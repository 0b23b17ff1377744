"""Convolutions of complex numbers on a CPU, by the kernel of complex matrix products."""

from __future__ import annotations

import numpy as np
import pytest
from comparing import assert_same_bits
from convolving import BY_DATA, BY_WEIGHT, FORWARD, Geometry, assert_right
from strategies import make_numbers

import nnkernels as nnk

# More terms than a slice has, results that are scattered; edges of panels and of groups of pixels.
LONG = Geometry((2, 40, 6, 5), (19, 40, 3, 3), {"padding": 1})
STRIDED = Geometry(
    (3, 24, 9, 11),
    (20, 12, 3, 2),
    {"stride": (2, 1), "padding": ((1, 2), (0, 1)), "dilation": (1, 2), "groups": 2},
)
# An image is a product of its own, and sums wait in the result.
LARGE = Geometry((2, 20, 24, 23), (17, 20, 3, 5), {"padding": (1, 2)})


def make_arrays(geometry, dtypes, last):
    generator = np.random.default_rng(4)
    result = np.result_type(*dtypes).name
    shapes = (geometry.x, geometry.weight, geometry.y, geometry.weight[:1])
    kinds = (*dtypes, result, dtypes[0])
    arrays = [make_numbers(generator, s, d) for s, d in zip(shapes, kinds, strict=True)]
    if last:
        for i in (0, 2):  # weights stay as they are, and are gathered
            arrays[i] = np.moveaxis(np.ascontiguousarray(np.moveaxis(arrays[i], 1, -1)), -1, 1)
    return arrays


@pytest.mark.parametrize("last", [False, True], ids=["channels_first", "channels_last"])
def test_results(last, cpu):
    def body():
        for dtypes, geometry in (
            (("complex64", "complex64"), LONG),
            (("complex64", "complex64"), STRIDED),
            (("complex64", "complex64"), LARGE),
            (("complex128", "complex128"), LONG),
            (("float32", "complex64"), STRIDED),
        ):
            if last and dtypes[0] == "complex128":
                continue
            x, weight, dy, bias = make_arrays(geometry, dtypes, last)
            options = geometry.options
            y = nnk.conv(x, weight, bias, **options)
            dx = nnk.conv_backward_data(dy, weight, x.shape, **options)
            dw = nnk.conv_backward_weight(dy, x, weight.shape, **options)
            if cpu.recording:
                continue
            assert_right(FORWARD, [x, weight, bias], options, y, geometry.terms)
            taps = geometry.terms // weight.shape[1] * weight.shape[0] // options.get("groups", 1)
            assert_right(BY_DATA, [dy, weight], options | {"x_shape": x.shape}, dx, taps)
            own = options | {"weight_shape": weight.shape}
            assert_right(BY_WEIGHT, [dy, x], own, dw, dy.size // dy.shape[1])

    cpu.precompiled(body)


def test_a_view_is_its_copy(cpu):
    """Of every second column, whose registers are gathered; bit for bit."""
    x, weight, _, bias = make_arrays(LONG, ("complex64", "complex64"), last=False)
    wide = [np.repeat(a, 2, -1) for a in (x, weight)]
    views = [a[..., ::2] for a in wide]
    assert_same_bits(
        nnk.conv(*views, bias, **LONG.options),
        nnk.conv(x, weight, bias, **LONG.options),
        "a view and its copy",
    )


def test_which_kernel(cpu, kernels):
    """Sums of complex numbers one by one took 36 times as long."""
    x, weight, dy, bias = make_arrays(LARGE, ("complex64", "complex64"), last=False)
    nnk.conv(x, weight, bias, **LARGE.options)
    nnk.conv_backward_data(dy, weight, x.shape, **LARGE.options)
    nnk.conv_backward_weight(dy, x, weight.shape, **LARGE.options)
    assert set(kernels) == {"MatmulComplex"}
