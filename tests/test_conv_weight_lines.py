"""Gradients by weights of few channels from packed lines of the image: a regime of the CPU."""

from __future__ import annotations

from dataclasses import replace

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
from nnkernels.config import conv_weight_lines as config
from nnkernels.config.conv_weight_lines import WeightLinesProblem
from nnkernels.config.device import Device
from nnkernels.dispatch import machines
from nnkernels.dispatch.machines import cpu_machine


@pytest.fixture(scope="module", autouse=True)
def _on_the_cpu():
    if machines.for_numpy() is machines.REFERENCE:
        pytest.skip("there is no C++ compiler")


@pytest.fixture
def small_slabs(monkeypatch):
    """Any number of pixels is made so, of which a few are packed at once, in short pieces."""
    monkeypatch.setattr(config, "_LEAST_PIXELS", 0)
    monkeypatch.setattr(config, "_SLAB_BYTES", 8192)
    monkeypatch.setattr(config, "_MOST_PIXELS", 5)
    cpu_machine().plans.clear()
    yield
    cpu_machine().plans.clear()


@pytest.mark.usefixtures("small_slabs")
def test_any_geometry(backend, kernels):
    if not backend.is_cpu:
        pytest.skip("a regime of the CPU")

    # Of fewer outputs each group has a direct kernel.
    check_gradients_by_weights(backend, (1, 3, 4), (16, 20, 37))
    assert "ConvWeightLines" in kernels


IMAGES = Geometry((3, 3, 18, 19), (40, 3, 3, 3), {"padding": (2, 1), "stride": (1, 2)})


def test_any_memory_order_and_blocks_give_the_same_bits(monkeypatch, kernels):
    """And the same as the kernels that take more channels."""
    one, gradient = same_bits_in_any_memory_order(IMAGES)
    assert set(kernels) == {"ConvWeightLines"}
    for name, value in (("_SLAB_BYTES", 4096), ("_MOST_PIXELS", 4), ("_MOST_CHANNELS", 1)):
        with monkeypatch.context() as changed:
            changed.setattr(config, name, value)
            cpu_machine().plans.clear()
            assert_same_bits(one, gradient(), name)
    cpu_machine().plans.clear()
    assert set(kernels) == {"ConvWeightLines", "ConvWeight"}


@pytest.mark.parametrize("last", [False, True])
def test_three_axes_with_padding(last, kernels):
    """Along each of them, some taps see nothing of some pixels."""
    padding = ((1, 2), (0, 1), (2, 1))
    options = {"padding": padding, "stride": (1, 2, 1), "dilation": (2, 1, 1), "flip": last}
    geometry = Geometry((2, 4, 6, 7, 9), (20, 4, 3, 2, 3), options)
    dy, x = image_and_pixels(geometry)
    if last:
        dy, x = channels_last(dy), channels_last(x)
    dw = nnk.conv_backward_weight(dy, x, geometry.weight, **options)
    assert_right_weights(geometry, dy, x, dw)
    assert "ConvWeightLines" in kernels


# ---- blocks -------------------------------------------------------------------------------------

AVX512 = Device("cpu", "host", 1, 2, 512 * 1024, 64, 32 << 20)
PROBLEM = WeightLinesProblem(
    groups=1,
    channels=1,
    outputs=20,
    taps=(1, 5, 5),
    step=1,
    spacing=1,
    row=28,
    rows_of_pixels=64 * 28,
    compute_itemsize=4,
    is_complex=False,
)


def test_few_channels_and_some_taps_and_pixels_are_made_from_lines():
    assert config.pays(PROBLEM, AVX512)
    assert config.pays(replace(PROBLEM, channels=4), AVX512)
    for change in (
        {"is_complex": True},
        {"taps": (1, 1, 1)},
        {"channels": 5},
        {"rows_of_pixels": 4},
        {"taps": (9, 11, 11)},
        {"spacing": 100_000},
    ):
        assert not config.pays(replace(PROBLEM, **change), AVX512), change


def test_bfloat16_is_for_tile_registers():
    problem = replace(PROBLEM, is_bfloat16=True)
    assert config.pays(problem, AVX512)
    assert not config.pays(problem, replace(AVX512, features=frozenset({"amx_bf16"})))


@pytest.mark.parametrize("row", [0, 1, 28, 256, 257, 16384])
@pytest.mark.parametrize("step", [1, 3])
def test_pieces_are_all_of_a_row_and_lines_all_that_is_seen(row, step):
    problem = replace(PROBLEM, row=row, step=step)
    chosen = config.configure(problem, AVX512)
    assert chosen.length * chosen.pieces_of_row >= row
    assert chosen.length * (chosen.pieces_of_row - 1) < max(row, 1)
    assert chosen.length <= config._MOST_PIXELS
    assert chosen.width % 16 == 0
    assert chosen.width >= (chosen.length - 1) * step + 5
    assert chosen.shared_bytes(problem) <= AVX512.shared_limit


def test_all_threads_have_work():
    assert config.configure(PROBLEM, AVX512).panels == 2
    assert config.configure(PROBLEM, AVX512).parts == 1
    few = config.configure(replace(PROBLEM, outputs=16), AVX512)
    assert (few.panels, few.parts) == (1, 2)
    assert few.tiles_of_part * few.parts >= few.tiles
