"""Convolutions on matrix cores, in the simulator: every way that windows come to shared memory."""

from __future__ import annotations

import numpy as np
import pytest
from convolving import BY_DATA, BY_WEIGHT, FORWARD, assert_right, geometries
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples, make_numbers

import nnkernels as nnk
from nnkernels.config import matmul_tensor as tensor
from nnkernels.config.conv_tensor import ConvTensorConfig
from nnkernels.dispatch.dtypes import numpy_dtype
from nnkernels.inspection.problems import channels_last

SIDE = 64


@pytest.fixture
def one_tile(simulator, monkeypatch):
    """Let only tiles of one size be chosen, so that few kernels are compiled; and a few splits."""

    def choose(splits=1):
        monkeypatch.setattr(tensor, "_tiles", _square)
        monkeypatch.setattr(tensor, "_splits", lambda problem, atom, tile: [splits])
        simulator.machine.plans.clear()

    yield choose
    simulator.machine.plans.clear()


def _square(problem, device, atom):
    return [tile for tile in tensor.tiles_of(atom, device) if tile.m == tile.n == SIDE]


def laid(generator, shape, dtype, last):
    """Numbers in the usual order of the axes, or with channels as the last one."""
    values = make_numbers(generator, shape, dtype)
    if not last:
        return values
    view = channels_last(shape, numpy_dtype(dtype))
    view[...] = values
    return view


def check(backend, geometry, last, dtype, seed=1, bias=False):
    """Make a convolution and its gradients, and compare them with the reference."""
    generator = np.random.default_rng(seed)
    x, w, dy = (
        laid(generator, shape, dtype, last) for shape in (geometry.x, geometry.weight, geometry.y)
    )
    b = make_numbers(generator, (geometry.weight[0],), dtype) if bias else None
    options = geometry.options
    more = {"epilogue": "relu"} if bias else {}
    with backend.context(seed):
        y = nnk.conv(x, w, b, **options, **more)
        dx = nnk.conv_backward_data(dy, w, geometry.x, **options)
        dw = nnk.conv_backward_weight(dy, x, geometry.weight, **options)
    if backend.recording:
        return
    assert_right(FORWARD, [x, w, b], options | more, y, geometry.terms)
    terms = geometry.weight[0] // options.get("groups", 1) * geometry.terms // w.shape[1]
    assert_right(BY_DATA, [dy, w], options | {"x_shape": geometry.x}, dx, terms)
    pixels = max(dy.size // w.shape[0], 1)
    assert_right(BY_WEIGHT, [dy, x], options | {"weight_shape": geometry.weight}, dw, pixels)


# Channels last or not, and how many; outputs; ranks.
FAMILIES = {
    "chunks of channels": (True, (16, 32), (16, 24), (1, 2, 3)),
    "few channels": (True, (3, 5), (20,), (2,)),
    "channels first": (False, (2, 5), (17,), (1, 2, 3)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_any_geometry(family, simulator, chosen, one_tile):
    one_tile()
    last, channels, outputs, ranks = FAMILIES[family]

    @examples(1)
    @given(geometries(ranks, channels, outputs), st.integers(0, 99))
    def right(geometry, seed):
        check(simulator, geometry, last, "float16", seed, bias=seed % 4 == 0)

    simulator.precompiled(right)
    assert any(isinstance(c, ConvTensorConfig) for c in chosen)
