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
from threads import same_on_any_threads

import nnkernels as nnk
from nnkernels.config import conv_weight
from nnkernels.config import conv_weight_lines as config
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
    """Any number of pixels is made so, of which a few are packed at once, in short pieces."""
    monkeypatch.setattr(conv_weight, "_LEAST_PIXELS", 0)
    monkeypatch.setattr(config, "_MANY_PIXELS", 0)
    monkeypatch.setattr(config, "_SLAB_BYTES", 8192)
    monkeypatch.setattr(config, "_MOST_PIXELS", 5)
    monkeypatch.setattr(config, "_SPLIT", 1 << 10)
    cpu_machine().plans.clear()
    yield
    cpu_machine().plans.clear()


@pytest.mark.usefixtures("small_slabs")
def test_any_geometry(backend, kernels):
    if not backend.is_cpu:
        pytest.skip("a regime of the CPU")

    # Of fewer outputs each group has a direct kernel.
    check_gradients_by_weights(backend, (1, 3, 4, 9), (16, 20, 37))
    assert {"ConvWeightLines", "MatmulSplits"} <= set(kernels)


IMAGES = Geometry((3, 3, 18, 19), (40, 3, 3, 3), {"padding": (2, 1), "stride": (1, 2)})


def test_any_memory_order_and_blocks_give_the_same_bits(monkeypatch, kernels):
    """And the same as the kernels that take more channels, where no sums are added up."""
    monkeypatch.setattr(config, "_MOST_SPLITS", 1)
    one, gradient = same_bits_in_any_memory_order(IMAGES)
    assert set(kernels) == {"ConvWeightLines"}
    changes = {"_SLAB_BYTES": 4096, "_MOST_PIXELS": 4, "_PANELS": (1,), "_MOST_CHANNELS": 1}
    for name, value in changes.items():
        with monkeypatch.context() as changed:
            changed.setattr(config, name, value)
            cpu_machine().plans.clear()
            assert_same_bits(one, gradient(), name)
    cpu_machine().plans.clear()
    assert set(kernels) == {"ConvWeightLines", "ConvWeight"}


def test_threads_do_not_change_the_bits(kernels):
    geometry = Geometry((40, 9, 12, 13), (16, 9, 3, 5), {"padding": 1})
    dy, x = image_and_pixels(geometry)
    same_on_any_threads(
        lambda: nnk.conv_backward_weight(dy, x, geometry.weight, **geometry.options)
    )
    assert {"ConvWeightLines", "MatmulSplits"} <= set(kernels)


@pytest.mark.parametrize("steps", [(1, -1), (-1, 1)])
def test_images_that_are_read_backwards(steps, kernels):
    geometry = Geometry((2, 3, 9, 21), (20, 3, 3, 5), {"padding": 2})
    dy, x = image_and_pixels(geometry)
    x = x[:, :, :: steps[0], :: steps[1]]
    dw = nnk.conv_backward_weight(dy, x, geometry.weight, padding=2)
    assert_right_weights(geometry, dy, x, dw)
    assert "ConvWeightLines" in kernels


@pytest.mark.parametrize("flip", [False, True])
def test_more_taps_than_registers(flip, kernels):
    """They are in chunks, of which the last one has fewer."""
    geometry = Geometry((2, 2, 9, 40), (16, 2, 2, 13), {"padding": (0, 6), "flip": flip})
    dy, x = image_and_pixels(geometry)
    dw = nnk.conv_backward_weight(dy, x, geometry.weight, **geometry.options)
    assert_right_weights(geometry, dy, x, dw)
    assert "ConvWeightLines" in kernels
    chosen = config.configure(replace(PROBLEM, outputs=16, taps=(1, 2, 13)), AVX512)
    assert (chosen.chunks, chosen.taps, chosen.margin) == (2, 7, 13)


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
PROBLEM = WeightProblem(
    groups=1,
    channels=1,
    outputs=20,
    taps=(1, 5, 5),
    step=1,
    spacing=1,
    row=28,
    rows_of_pixels=64 * 28,
    step_bytes=4,
    image_row=4 * 29,
    compute_itemsize=4,
    is_complex=False,
)


def test_few_channels_or_outputs_and_some_taps_and_pixels_are_made_from_lines():
    assert config.pays(PROBLEM, AVX512)
    assert config.pays(replace(PROBLEM, channels=4), AVX512)
    for change in (
        {"is_complex": True},
        {"taps": (1, 1, 1)},
        {"channels": 5, "outputs": 33},
        {"rows_of_pixels": 4},
        {"taps": (9, 15, 29)},
        {"image_row": 200_000},
        {"spacing": 300},
    ):
        assert not config.pays(replace(PROBLEM, **change), AVX512), change
    many = replace(PROBLEM, channels=16, outputs=32)
    assert config.pays(many, AVX512)
    for change in (
        {"channels": 17},
        {"outputs": 33},
        {"rows_of_pixels": 128},
        {"taps": (1, 5, 1)},
    ):
        assert not config.pays(replace(many, **change), AVX512), change


@pytest.mark.parametrize("row", [0, 1, 28, 256, 257, 16384])
@pytest.mark.parametrize("step", [1, 3])
def test_pieces_are_all_of_a_row_and_tiles_all_taps(row, step):
    problem = replace(PROBLEM, row=row, step=step)
    for device in (AVX512, replace(AVX512, vector_bytes=32)):
        chosen = config.configure(problem, device)
        assert chosen.length * chosen.pieces_of_row >= row
        assert chosen.length * (chosen.pieces_of_row - 1) < max(row, 1)
        assert chosen.length <= config._MOST_PIXELS
        assert chosen.remainders * chosen.chunks * chosen.taps >= problem.taps[2]
        registers = chosen.vector // (device.vector_bytes // 4)
        of_tile = (chosen.micro_m + 1) * chosen.taps * registers + 1
        assert of_tile <= config._REGISTERS[device.vector_bytes]
        assert chosen.shared_bytes(problem) <= AVX512.shared_limit


def test_tiles():
    """An element is for several taps, but where as many outputs fill the registers."""
    few = config.configure(replace(PROBLEM, outputs=16), AVX512)
    assert (few.micro_m, few.taps, few.vector) == (5, 5, 16)
    strided = replace(PROBLEM, channels=3, outputs=64, taps=(1, 7, 7), step=2)
    assert config.configure(strided, AVX512).taps == 1


def test_ranges_of_pixels():
    """As many as their sums are worth, whatever threads there are."""
    assert config.configure(PROBLEM, AVX512).splits == config._MOST_SPLITS
    assert config.configure(PROBLEM, replace(AVX512, processors=64)).splits == config._MOST_SPLITS
    assert config.configure(replace(PROBLEM, rows_of_pixels=20), AVX512).splits == 1
