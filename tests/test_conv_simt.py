"""Convolutions by the ordinary arithmetic of GPUs: which kernel is chosen, and that it runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from comparing import assert_same_bits
from convolving import BY_DATA, BY_WEIGHT, FORWARD, Geometry, assert_right
from strategies import make_numbers

import nnkernels as nnk
from nnkernels.config.conv import COLUMNS, ROWS, TERMS
from nnkernels.config.conv_simt import ConvSimtConfig
from nnkernels.dispatch.dtypes import numpy_dtype
from nnkernels.inspection.problems import channels_last, images_far_apart

pytestmark = pytest.mark.usefixtures("ordinary_products")


@pytest.fixture(autouse=True)
def no_direct_kernels(monkeypatch, simulator):
    """Few channels go the way of many."""
    for module in ("conv_product", "conv_by_data", "conv_by_weight"):
        monkeypatch.setattr(f"nnkernels.dispatch.{module}.is_direct", lambda *sizes: False)
    simulator.machine.plans.clear()
    yield
    simulator.machine.plans.clear()


def small_device(monkeypatch, simulator, processors):
    """So few processors that a small product is a large one."""
    machine = simulator.machine
    monkeypatch.setattr(machine, "device", replace(machine.device, processors=processors))
    machine.plans.clear()


def summary(c):
    """Pixels, whether their array is scattered, vectors of A and B, wide results, splits."""
    p = c.product
    split = "split" if p.splits > 1 else "whole"
    return (c.pixels, c.scattered, p.vector_a, p.vector_b, p.unit_c, split)


def laid(generator, shape, dtype, last):
    values = make_numbers(generator, shape, dtype)
    if not last:
        return values
    view = channels_last(shape, numpy_dtype(dtype))
    view[...] = values
    return view


# Image, weights, options, channels last, dtype, processors; what makes the convolution, its
# gradient by the image and that by the weights.
REGIMES = {
    "one image": (
        (1, 3, 20, 20), (20, 3, 3, 3), {"padding": 1}, False, "float32", 1,
        (COLUMNS, False, 1, 1, True, "whole"),
        (COLUMNS, False, 4, 1, True, "whole"),
        (TERMS, False, 4, 1, False, "whole"),
    ),
    "several images": (
        (3, 5, 4, 4), (8, 5, 3, 3), {"padding": 1}, False, "float32", 1,
        (COLUMNS, True, 1, 1, True, "whole"),
        (COLUMNS, True, 4, 1, True, "whole"),
        (TERMS, True, 4, 1, False, "whole"),
    ),
    "several images of odd sides, and long sums": (
        (2, 64, 5, 7), (60, 64, 2, 3), {"padding": 1}, False, "float32", 40,
        (COLUMNS, True, 4, 1, False, "split"),
        (COLUMNS, True, 4, 1, False, "split"),
        (TERMS, True, 2, 1, True, "whole"),
    ),
    "large images": (
        (2, 2, 24, 26), (4, 2, 3, 3), {"padding": 1, "dilation": (1, 2)}, False, "float64", 40,
        (COLUMNS, False, 2, 1, True, "whole"),
        (COLUMNS, False, 2, 1, True, "whole"),
        (TERMS, True, 2, 1, True, "split"),
    ),
    "channels last": (
        (2, 8, 9, 9), (12, 8, 3, 3), {}, True, "float32", 1,
        (ROWS, False, 4, 4, True, "whole"),
        (ROWS, False, 4, 4, True, "whole"),
        (TERMS, False, 4, 4, True, "whole"),
    ),
    "channels last, 16 bits": (
        (2, 16, 5, 5), (16, 16, 3, 3), {"padding": 1}, True, "float16", 1,
        (ROWS, False, 8, 8, True, "whole"),
        (ROWS, False, 8, 8, True, "whole"),
        (TERMS, False, 4, 4, True, "whole"),
    ),
    "channels last, strided, and long sums": (
        (2, 48, 9, 9), (64, 48, 3, 3), {"stride": 2, "padding": 1}, True, "float32", 40,
        (ROWS, False, 4, 4, True, "split"),
        (ROWS, True, 4, 4, True, "whole"),
        (TERMS, False, 4, 4, True, "whole"),
    ),
    "many groups": (
        (2, 24, 4, 4), (24, 2, 3, 3), {"groups": 12, "padding": 1}, False, "float32", 4,
        (COLUMNS, True, 2, 1, True, "whole"),
        (COLUMNS, True, 2, 1, True, "whole"),
        (TERMS, True, 4, 1, False, "whole"),
    ),
}  # fmt: skip


@pytest.mark.in_turn(by="warp")
@pytest.mark.parametrize("regime", REGIMES)
def test_each_regime_runs(regime, simulator, chosen, monkeypatch):
    x_shape, w_shape, options, last, dtype, processors, *expected = REGIMES[regime]
    small_device(monkeypatch, simulator, processors)
    generator = np.random.default_rng(95)
    x, w = (laid(generator, shape, dtype, last) for shape in (x_shape, w_shape))
    bias = make_numbers(generator, (w_shape[0],), dtype)
    dy = laid(generator, Geometry(x_shape, w_shape, options).y, dtype, last)
    results = []

    def body():
        results.clear()
        with simulator.context(len(regime)):
            results.append(nnk.conv(x, w, bias, epilogue="relu", **options))
            results.append(nnk.conv_backward_data(dy, w, x_shape, **options))
            results.append(nnk.conv_backward_weight(dy, x, w_shape, **options))

    simulator.precompiled(body)
    found = [summary(c) for c in chosen if isinstance(c, ConvSimtConfig)]
    assert found[0] == expected[0]
    assert found[-1] == expected[2]
    assert expected[1] in found[1:-1]
    assert_right(FORWARD, [x, w, bias], options | {"epilogue": "relu"}, results[0], w[0].size)
    by_image = options | {"x_shape": x_shape}
    assert_right(BY_DATA, [dy, w], by_image, results[1], w.size // w_shape[1])
    pixels = dy.size // w_shape[0]
    assert_right(BY_WEIGHT, [dy, x], options | {"weight_shape": w_shape}, results[2], pixels)
    simulator.machine.plans.clear()


@pytest.mark.in_turn
def test_windows_of_many_taps(simulator, chosen):
    # 32 taps along all axes, of which the one that is missing has one; and 33.
    generator = np.random.default_rng(94)

    def body():
        for taps, last in ((30, False), (31, False), (30, True), (31, True)):
            x = laid(generator, (2, 2, 17, 3), "float32", last)
            w = make_numbers(generator, (3, 2, taps, 1), "float32")
            options = {"padding": ((16, 14), (0, 0)), "flip": last}
            with simulator.context(taps):
                y = nnk.conv(x, w, **options)
            if not simulator.recording:
                assert_right(FORWARD, [x, w, None], options, y, 2 * taps)

    simulator.precompiled(body)
    found = [c.masked for c in chosen if isinstance(c, ConvSimtConfig)]
    assert found == [True, False] * 4


@pytest.mark.in_turn
def test_many_small_groups_share_a_block(simulator, chosen, monkeypatch):
    small_device(monkeypatch, simulator, 1)
    generator = np.random.default_rng(96)
    x, w = (make_numbers(generator, shape, "float32") for shape in ((1, 40, 4, 4), (40, 2, 3, 3)))

    def body():
        with simulator.context(5):
            y = nnk.conv(x, w, groups=20, padding="same")
        if not simulator.recording:
            assert_right(FORWARD, [x, w, None], {"groups": 20, "padding": "same"}, y, 18)

    simulator.precompiled(body)
    assert {c.product.teams > 1 for c in chosen} == {True}
    simulator.machine.plans.clear()


@pytest.mark.in_turn
@pytest.mark.parametrize("last", [False, True])
def test_images_two_gibibytes_apart(last, simulator, chosen):
    generator = np.random.default_rng(97)
    shape, w_shape = (2, 4, 5, 6), (3, 4, 2, 3)
    x = images_far_apart((2, 5, 6, 4) if last else shape, np.dtype(np.float32))
    x = np.moveaxis(x, -1, 1) if last else x
    x[...] = make_numbers(generator, shape, "float32")
    w = make_numbers(generator, w_shape, "float32")
    dy = make_numbers(generator, (2, 3, 4, 4), "float32")

    def body():
        with simulator.context(6):
            y = nnk.conv(x, w)
            dw = nnk.conv_backward_weight(dy, x, w_shape)
        if not simulator.recording:
            assert_right(FORWARD, [x, w, None], {}, y, 24)
            assert_right(BY_WEIGHT, [dy, x], {"weight_shape": w_shape}, dw, 32)

    simulator.precompiled(body)
    assert {c.product.index for c in chosen if isinstance(c, ConvSimtConfig)} == {"q"}


@pytest.mark.in_turn
def test_split_sums_are_the_same_in_every_run_and_for_every_view(simulator, chosen, monkeypatch):
    small_device(monkeypatch, simulator, 40)
    generator = np.random.default_rng(98)
    x, dy = (make_numbers(generator, (2, c, 13, 15), "float32") for c in (5, 4))
    wide = np.zeros((2, 5, 13, 33), np.float32)
    view = wide[..., 2:32:2]
    view[...] = x
    results = []

    def body():
        results.clear()
        for number, image in enumerate((x, x, view)):
            with simulator.context(number):
                results.append(nnk.conv_backward_weight(dy, image, (4, 5, 3, 3), padding=1))

    simulator.precompiled(body)
    assert all(c.product.splits > 1 for c in chosen)
    assert_same_bits(results[0], results[1], "another order of the threads")
    assert_same_bits(results[0], results[2], "a view")
    simulator.machine.plans.clear()
