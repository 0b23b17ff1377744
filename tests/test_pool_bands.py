"""Pooling in bands of rows, as a GPU has it where rows are adjacent in memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from comparing import assert_close, assert_same_bits, assert_same_numbers
from layouts import channels_last
from pools import expected, image

import nnkernels as nnk
from nnkernels.config import pool_bands as config
from nnkernels.config.device import PROFILES
from nnkernels.inspection import record

# Images, and windows: several pieces of a row, several planes of a block, several bands of a plane,
# padding of more than a window, windows that skip elements, several depths.
CASES = {
    "pieces of rows": ((1, 2, 5000), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "small planes": ((3, 5, 7, 8), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "several bands": ((1, 2, 40, 120), {"kernel_size": (5, 3), "stride": (3, 2)}),
    "padding alone": (
        (1, 2, 9, 12),
        {"kernel_size": 3, "stride": (2, 1), "padding": ((5, 4), (1, 8))},
    ),
    "skipping": ((1, 2, 12, 24), {"kernel_size": 3, "stride": (3, 2), "dilation": (2, 3)}),
    "depths": ((1, 2, 5, 6, 12), {"kernel_size": 3, "stride": (2, 1, 2), "padding": 1}),
    "one window": ((2, 3, 7, 8), {"kernel_size": (7, 8), "stride": 1}),
    "many taps": ((1, 1, 20, 40), {"kernel_size": 13, "stride": 1, "padding": 6}),
}


@pytest.fixture
def choices(simulator, monkeypatch):
    """The configurations of bands that calls choose."""
    found = []

    def configure(problem, device, original=config.configure):
        found.append(original(problem, device))
        return found[-1]

    monkeypatch.setattr(config, "configure", configure)
    # As a GPU of few processors, which has large blocks.
    machine = simulator.machine
    monkeypatch.setattr(machine, "device", replace(machine.device, processors=1))
    machine.plans.clear()
    yield found
    machine.plans.clear()


def results(simulator, x, dy, options):
    """All poolings of an image, and their gradients."""
    with simulator.context(3):
        given, cotangent = simulator.array(x), simulator.array(dy)
        y, indices = nnk.max_pool(given, return_indices=True, **options)
        mean = nnk.avg_pool(given, count_include_pad=False, **options)
        norm = nnk.lp_pool(given, **options)
        found = {
            "max_pool": y,
            "indices": indices,
            "avg_pool": mean,
            "lp_pool": norm,
            "max_pool_backward": nnk.max_pool_backward(cotangent, given, **options),
            "avg_pool_backward": nnk.avg_pool_backward(cotangent, x.shape, **options),
            "lp_pool_backward": nnk.lp_pool_backward(cotangent, given, norm, **options),
        }
    return {name: np.ascontiguousarray(simulator.numpy(a)) for name, a in found.items()}


@pytest.mark.in_turn
def test_bands_give_the_bits_of_single_results(simulator, choices):
    def body():
        generator = np.random.default_rng(50)
        for what, (shape, options) in CASES.items():
            x = image(generator, shape, ties=True)
            x.flat[::7] = -np.inf
            y, labels = expected("max_pool", x, return_indices=True, **options)
            dy = image(generator, y.shape)
            choices.clear()
            found = results(simulator, x, dy, options)
            kinds = [c.kind for c in choices if c is not None]
            forward, maxima, sums = kinds.count("forward"), "maxima" in kinds, kinds.count("sums")
            assert (forward, maxima, sums) == (4, len(shape) > 3, 2), what
            single = results(simulator, channels_last(x), channels_last(dy), options)
            if simulator.recording:
                continue
            for name, bits in found.items():
                assert_same_bits(bits, single[name], f"{name}, {what}")
            assert_same_numbers(found["max_pool"], y, what)
            assert_same_numbers(found["indices"], labels, what)
            right = expected("max_pool_backward", dy, x, **options)
            assert_close(found["max_pool_backward"], right, 9, what=what)
        # The last NaN in order of rows, which is not that of columns.
        shape, options = CASES["several bands"]
        x = image(generator, shape, ties=True)
        x[generator.random(shape) < 0.2] = np.nan
        with simulator.context(4):
            found = nnk.max_pool(simulator.array(x), return_indices=True, **options)
        wanted = expected("max_pool", x, return_indices=True, **options)
        if not simulator.recording:
            for got, right in zip(found, wanted, strict=True):
                assert_same_numbers(simulator.numpy(got), right, "NaN")

    simulator.precompiled(body)


# ---- configurations --------------------------------------------------------------------------


# Of float32 on an H100, unless it says otherwise: an op, an image, its layout and windows; then
# elements of a load, rows, planes and pieces of a block, or None for one thread a
# result.
def every_second(x):
    return np.repeat(x, 2, -1)[..., ::2]


def shifted(x):
    """The same at an address that is a multiple of 8."""
    memory = np.empty(x.size + 6, x.dtype)
    start = (8 - memory.ctypes.data % 16) % 16 // x.itemsize
    view = memory[start : start + x.size].reshape(x.shape)
    assert view.ctypes.data % 16 == 8
    return view


PLAIN = np.ascontiguousarray
HALVES = {"kernel_size": 2}
THIRDS = {"kernel_size": 3, "stride": 2, "padding": 1}
LARGE = (32, 64, 112, 112)
WAYS = {
    "large": ("max_pool", LARGE, PLAIN, THIRDS, (4, 16, 0, 1)),
    "float16": ("max_pool", LARGE, lambda x: x.astype("float16"), THIRDS, (8, 16, 0, 1)),
    "int8": ("max_pool", LARGE, lambda x: x.astype("int8"), THIRDS, (8, 16, 0, 1)),
    "float64": ("avg_pool", LARGE, lambda x: x.astype("float64"), HALVES, (2, 8, 0, 1)),
    "few rows for the processors": ("avg_pool", (1, 4, 56, 56), PLAIN, HALVES, (4, 1, 0, 1)),
    "odd rows": ("max_pool", (32, 64, 55, 55), PLAIN, THIRDS, (1, 36, 0, 1)),
    "half aligned": ("max_pool", (32, 64, 56, 56), shifted, THIRDS, (2, 36, 0, 1)),
    "many short rows": ("max_pool", (256, 64, 8, 8), PLAIN, THIRDS, (4, 124, 0, 1)),
    "shortest rows": ("max_pool", (1024, 64, 6, 6), PLAIN, THIRDS, (2, 128, 0, 1)),
    "whole rows": (
        "max_pool",
        (64, 8, 1500),
        PLAIN,
        {"kernel_size": 300, "stride": 9},
        (4, 1, 0, 1),
    ),
    "pieces": ("avg_pool", (64, 8, 10000), PLAIN, HALVES, (4, 4, 0, 20)),
    "gradient": ("avg_pool_backward", LARGE, PLAIN, HALVES, (4, 16, 0, 1)),
    "gradient in pieces": ("avg_pool_backward", (64, 8, 10000), PLAIN, HALVES, (4, 4, 0, 20)),
    "maxima": ("max_pool_backward", LARGE, PLAIN, THIRDS, (2, 16, 1, 1)),
    "maxima of planes": ("max_pool_backward", (64, 99, 14, 14), PLAIN, THIRDS, (2, 14, 10, 1)),
    "maxima of few planes": ("max_pool_backward", (1, 9, 14, 14), PLAIN, THIRDS, (2, 14, 1, 1)),
    "most windows": (
        "max_pool_backward",
        (64, 99, 14, 28),
        PLAIN,
        {"kernel_size": 13, "stride": 1, "padding": 6},
        (2, 14, 5, 1),
    ),
    "maxima of long rows": ("max_pool_backward", (64, 8, 10000), PLAIN, THIRDS, None),
    "too many windows": (
        "max_pool_backward",
        (2, 4, 40, 2000),
        PLAIN,
        {"kernel_size": (13, 3), "stride": 1, "padding": (6, 1)},
        None,
    ),
    "far apart": ("max_pool", LARGE, PLAIN, {"kernel_size": 2, "stride": 3}, None),
    "one window": (
        "adaptive_avg_pool",
        (32, 2048, 7, 7),
        PLAIN,
        {"output_size": 1},
        (1, 124, 0, 1),
    ),
    "its gradient": (
        "avg_pool_backward",
        (32, 2048, 7, 8),
        PLAIN,
        {"kernel_size": (7, 8)},
        (1, 36, 0, 1),
    ),
    "windows of whole rows": ("avg_pool", (8, 8, 5000), PLAIN, {"kernel_size": 2100}, None),
    "channels": ("max_pool", (32, 64, 56, 56), channels_last, THIRDS, None),
    "scattered": ("max_pool", (32, 64, 56, 56), every_second, THIRDS, None),
    "powers": ("lp_pool", (32, 64, 56, 56), PLAIN, HALVES | {"p": 3.0}, None),
    "divided": ("adaptive_avg_pool", (32, 64, 10, 10), PLAIN, {"output_size": 4}, None),
}


@pytest.mark.parametrize("name", WAYS)
def test_which_bands(name, monkeypatch):
    op, shape, layout, options, wanted = WAYS[name]
    found = []

    def configure(problem, device, original=config.configure):
        found.append((problem, original(problem, device)))
        return found[-1][1]

    monkeypatch.setattr(config, "configure", configure)
    x = layout(np.empty(shape, np.float32))
    arrays = [x]
    if op.endswith("backward"):
        dy = record.call(nnk.max_pool, [x], options, PROFILES["sm_90"])[1]
        arrays = [dy, x if op.startswith("max") else shape]
    record.launches(getattr(nnk, op), arrays, options, PROFILES["sm_90"])
    problem, chosen = found[-1]
    if wanted is None:
        assert chosen is None
        return
    pieces = -(-problem.spatial[2] // chosen.piece)
    assert (chosen.loaded, chosen.tile, chosen.planes, pieces) == wanted
    assert chosen.scratch <= 4 * config.BAND_BYTES + 1024
