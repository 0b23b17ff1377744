"""Convolutions whose images are copied first, so that their channels are adjacent."""

from __future__ import annotations

import numpy as np
import pytest
from convolving import Geometry, geometries
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples
from test_conv_tensor import check, float16_on, one_tile

import nnkernels as nnk
from nnkernels.config import conv_channels as config
from nnkernels.config.conv_channels import ChannelsProblem
from nnkernels.config.conv_tensor import ConvTensorConfig
from nnkernels.config.device import PROFILES
from nnkernels.inspection.problems import channels_last
from nnkernels.inspection.record import launches

_ = one_tile  # a fixture
COPY = "channels_last"


@pytest.fixture
def copying(simulator, monkeypatch, one_tile):
    """Copy whatever can be copied."""
    one_tile()
    monkeypatch.setattr(config, "pays", lambda *of_problem: True)


@pytest.mark.in_turn(by="warp")
def test_any_geometry(simulator, chosen, copying):
    @examples(0.5)
    @given(geometries((1, 2, 3), (8, 16, 72), (16, 24)), st.integers(0, 99))
    def right(geometry, seed):
        check(simulator, geometry, False, "float16", seed, bias=seed % 4 == 0)

    simulator.precompiled(right)
    assert any(isinstance(c, ConvTensorConfig) and c.channels_fast for c in chosen)


@pytest.mark.dtypes(of=float16_on("sm_80", "gfx90a"))
def test_tiles_end_where_images_do(dtype, simulator, copying):
    """More pixels and channels than a tile, read 1, 2, 4 and 8 at a time; split sums."""
    geometries = [
        Geometry((2, 72, 9, side), (8, 72, 2, 2), {"padding": 1}) for side in (8, 12, 10, 13)
    ]

    def body():
        for geometry in geometries:
            check(simulator, geometry, False, dtype)

    simulator.precompiled(body)


@pytest.mark.dtypes(of=float16_on("sm_80", "gfx90a"))
def test_weights_of_all_phases_are_written_at_once(dtype, simulator, kernels, one_tile):
    one_tile()
    geometries = [
        Geometry((2, 24, 9, 11), (16, 24, 3, 3), {"padding": 1, "stride": 2}),
        Geometry((1, 72, 7, 8), (80, 72, 5, 4), {"padding": 2, "stride": (3, 2), "flip": True}),
        Geometry((1, 16, 10, 9), (8, 16, 3, 3), {"stride": 2, "dilation": (1, 3)}),
        # More taps than are listed.
        Geometry((1, 16, 10, 9), (8, 16, 6, 6), {"stride": 2, "padding": 2}),
    ]

    def body():
        kernels.clear()
        for geometry in geometries:
            check(simulator, geometry, True, dtype)

    simulator.precompiled(body)
    assert "ChannelsLast" in kernels


def names_of(function, arrays, options, device=PROFILES["sm_90"]):
    found = launches(function, arrays, options, device)
    return [one.instance.header for one in found]


def three_calls(shape, outputs, make, kernel=3, **options):
    """The launches of a convolution and its gradients by image and weights."""
    options = {"padding": kernel // 2, **options}
    geometry = Geometry(shape, (outputs, shape[1], kernel, kernel), options)
    x, w, y = (make(s) for s in (geometry.x, geometry.weight, geometry.y))
    return [
        names_of(nnk.conv, (x, w), options),
        names_of(nnk.conv_backward_data, (y, w, x.shape), options),
        names_of(nnk.conv_backward_weight, (y, x, w.shape), options),
    ]


def contiguous(shape):
    return np.empty(shape, np.float16)


def test_which_calls_copy():
    shape = (32, 64, 56, 56)
    found = three_calls(shape, 64, contiguous)
    # Beside images, a gradient by the image copies weights, whose rows and channels change places.
    assert [names.count(COPY) for names in found] == [1, 2, 2]
    # Phases of a gradient share a copy; weights with taps between are copied one by one, or at
    # once where their rows are adjacent.
    assert three_calls(shape, 64, contiguous, stride=2)[1].count(COPY) == 1
    for other in (
        three_calls(shape, 64, lambda s: channels_last(s, np.dtype(np.float16))),
        three_calls((32, 63, 56, 56), 63, contiguous),  # no chunks of channels
        three_calls((1, 64, 14, 14), 64, contiguous),  # little to gather
        three_calls(shape, 64, lambda s: np.empty((*s[:3], 2 * s[3]), np.float16)[..., ::2]),
        three_calls(shape, 64, lambda s: np.empty(s, np.float32)),  # no matrix cores
    ):
        assert all(COPY not in names for names in (other[0], other[2]))
    last = three_calls(shape, 64, lambda s: channels_last(s, np.dtype(np.float16)))
    assert last[1].count(COPY) == 1
    last = three_calls(shape, 64, lambda s: channels_last(s, np.dtype(np.float16)), stride=2)
    assert (last[1].count(COPY), len(last[1])) == (1, 5)
    # A product of matrices as it is.
    assert COPY not in three_calls(shape, 64, contiguous, kernel=1)[0]


@pytest.mark.parametrize(
    ("pixels", "changes", "vector"),
    [
        (3136, {}, 8), (196, {}, 4), (98, {}, 2), (49, {}, 1),
        (3136, {"alignment": 2}, 1), (3136, {"strides": (0, 8, 6272 + 4)}, 2),
        (3136, {"strides": (0, 2**31, 6272)}, 8),
    ],
)  # fmt: skip
def test_accesses(pixels, changes, vector):
    of_images = {"strides": (0, 64 * pixels * 2, pixels * 2), "alignment": 16}
    of_images["copy_strides"] = (0, 72 * pixels, 72)
    problem = ChannelsProblem(images=(1, 8), channels=72, pixels=pixels, itemsize=2,
                              **(of_images | changes))  # fmt: skip
    chosen = config.configure(problem)
    assert chosen.vector == vector
    assert chosen.tiles_of_image == 2 * -(-pixels // 64)
    assert (chosen.index == "q") == (problem.strides[1] >= 2**31)
