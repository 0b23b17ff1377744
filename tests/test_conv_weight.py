"""Gradients by weights from packed pixels, which are a regime of the CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from comparing import assert_same_bits
from convolving import (
    Geometry,
    assert_right_weights,
    check_gradients_by_weights,
    image_and_pixels,
    same_bits_in_any_memory_order,
)
from layouts import channels_last

import nnkernels as nnk
from nnkernels.config import conv_weight as config
from nnkernels.config.conv_weight import WeightProblem
from nnkernels.config.device import Device
from nnkernels.dispatch import machines
from nnkernels.dispatch.machines import cpu_machine


@pytest.fixture(scope="module", autouse=True)
def _on_the_cpu():
    if machines.for_numpy() is machines.REFERENCE:
        pytest.skip("there is no C++ compiler")


@pytest.fixture
def small_slabs(monkeypatch):
    """Any number of pixels is made so, of which a few are packed at once, by many blocks."""
    monkeypatch.setattr(config, "_LEAST_PIXELS", 0)
    monkeypatch.setattr(config, "_MOST_STEP", 1 << 40)
    monkeypatch.setattr(config, "_FEW_PACKED_BYTES", 1024)
    monkeypatch.setattr(config, "_PACKED_BYTES", 1024)
    monkeypatch.setattr(config, "_SUM_BYTES", 4096)
    monkeypatch.setattr(config, "_LEAST_UNITS", 1)
    cpu_machine().plans.clear()
    yield
    cpu_machine().plans.clear()


@pytest.mark.usefixtures("small_slabs")
def test_any_geometry(backend, kernels):
    if not backend.is_cpu:
        pytest.skip("a regime of the CPU")

    # Few channels have a kernel of their own.
    check_gradients_by_weights(backend, (9, 13, 17, 22), (1, 3, 16, 20, 37))
    assert "ConvWeight" in kernels


IMAGES = Geometry((3, 13, 18, 19), (40, 13, 3, 3), {"padding": (2, 1), "stride": (1, 2)})


def test_any_memory_order_and_blocks_give_the_same_bits(monkeypatch):
    """And the same as the product that gathers windows, with zeros for the padding."""
    one, gradient = same_bits_in_any_memory_order(IMAGES)
    for name, value in (("_PACKED_BYTES", 4096), ("_SUM_BYTES", 8192), ("_LEAST_PIXELS", 1 << 20)):
        with monkeypatch.context() as changed:
            changed.setattr(config, name, value)
            cpu_machine().plans.clear()
            assert_same_bits(one, gradient(), name)
    cpu_machine().plans.clear()


@pytest.mark.parametrize(("channels", "packed"), [(128, True), (130, False)])
def test_adjacent_channels_of_far_pixels(channels, packed, kernels):
    """Every second pixel of 128 channels is 1024 bytes on, and every one is fetched before."""
    geometry = Geometry((1, channels, 25, 24), (20, channels, 3, 3), {"padding": 1, "stride": 2})
    dy, x = (channels_last(a) for a in image_and_pixels(geometry))
    dw = nnk.conv_backward_weight(dy, x, geometry.weight, **geometry.options)
    assert_right_weights(geometry, dy, x, dw)
    assert ("ConvWeight" in kernels) == packed


@pytest.mark.parametrize("last", [False, True])
def test_three_axes_with_padding(last):
    """Along each of them, some taps see nothing of some pixels."""
    padding = ((1, 2), (0, 1), (2, 1))
    options = {"padding": padding, "stride": (1, 2, 1), "dilation": (2, 1, 1), "flip": last}
    geometry = Geometry((2, 10, 6, 7, 9), (20, 10, 3, 2, 3), options)
    dy, x = image_and_pixels(geometry)
    if last:
        dy, x = channels_last(dy), channels_last(x)
    dw = nnk.conv_backward_weight(dy, x, geometry.weight, **options)
    assert int(np.prod(geometry.y)) // geometry.weight[0] >= config._LEAST_PIXELS
    assert_right_weights(geometry, dy, x, dw)


def test_padding_multiplies_nothing():
    """An infinite gradient of a pixel reaches the taps that see an element, and no others."""
    geometry = Geometry((1, 9, 12, 12), (9, 9, 3, 3), {"padding": 1})
    dy, x = image_and_pixels(geometry)
    dy[0, 4, 0, 0] = np.inf
    dw = nnk.conv_backward_weight(dy, x, geometry.weight, padding=1)
    assert np.isfinite(dw[4, :, 0]).all()
    assert np.isfinite(dw[4, :, :, 0]).all()
    assert np.isinf(dw[4, :, 1:, 1:]).all()
    assert np.isfinite(np.delete(dw, 4, axis=0)).all()


# ---- blocks -------------------------------------------------------------------------------------

AVX512 = Device("cpu", "host", 1, 2, 512 * 1024, 64, 32 << 20)
PROBLEM = WeightProblem(
    groups=1,
    channels=64,
    outputs=64,
    taps=(1, 3, 3),
    step=1,
    spacing=1,
    row=56,
    rows_of_pixels=8 * 56,
    step_bytes=4,
    image_row=4 * 57,
    compute_itemsize=4,
    is_complex=False,
)


def test_few_pixels_single_taps_and_complex_numbers_are_gathered():
    assert config.pays(PROBLEM)
    assert config.pays(replace(PROBLEM, step_bytes=1024))
    for change in (
        {"is_complex": True},
        {"row": 1, "rows_of_pixels": 49},
        {"taps": (1, 1, 1)},
        {"step_bytes": 1028},
    ):
        assert not config.pays(replace(PROBLEM, **change))


@pytest.mark.parametrize(
    ("outputs", "channels", "tile"),
    [
        (64, 64, (6, 64)),  # 66 rows of channels for 64
        (32, 32, (11, 32)),  # 33
        (96, 64, (11, 32)),  # three panels, and not two of 64 outputs
        (36, 28, (14, 16)),  # three panels
        (64, 3, (6, 64)),  # half a tile
    ],
)
def test_tiles_have_few_rows_to_spare(outputs, channels, tile):
    chosen = config.configure(replace(PROBLEM, outputs=outputs, channels=channels), AVX512)
    assert (chosen.micro_m, chosen.vector) == tile


def test_all_threads_have_work():
    """And as many pixels are packed for each as are sure to pay."""
    assert config.configure(PROBLEM, AVX512).parts == 2
    assert config.configure(replace(PROBLEM, outputs=128), AVX512).parts == 1
    many = config.configure(PROBLEM, replace(AVX512, processors=64))
    assert many.parts == -(-many.tiles * 9 // config._LEAST_UNITS)
    wide = config.configure(replace(PROBLEM, channels=2048), AVX512)
    assert wide.units * wide.micro_m * wide.vector * 4 <= config._SUM_BYTES


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("pixels", [0, 1, 300, 8 * 56 * 56])
def test_scratch_stays_in_a_cache(itemsize, pixels):
    problem = replace(
        PROBLEM, row=pixels, rows_of_pixels=1, compute_itemsize=itemsize, channels=2048
    )
    chosen = config.configure(problem, AVX512)
    assert 1 <= chosen.depth <= max(pixels, 1)
    assert chosen.shared_bytes(itemsize) <= AVX512.shared_limit
