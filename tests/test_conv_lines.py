"""Convolutions from lines that all taps along a row share, on a CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from comparing import assert_same_bits
from convolving import BY_DATA, FORWARD, TRANSPOSE, Geometry, assert_right, geometries, operands
from hypothesis import given
from hypothesis import strategies as st
from layouts import channels_last
from strategies import examples, make_numbers
from threads import same_on_any_threads

import nnkernels as nnk
from nnkernels.config import conv as conv_config
from nnkernels.config import conv_lines as config
from nnkernels.config.conv_lines import LinesProblem
from nnkernels.config.conv_weight import is_shared_evenly
from nnkernels.config.device import PROFILES, Device
from nnkernels.dispatch import machines

CPU = Device("cpu", "host", 1, 2, 512 * 1024, 64, 8 << 20)
# 64 outputs of 7 taps, of 64 channels of 16384 elements.
WAVES = LinesProblem(
    groups=1,
    channels=64,
    rows=64,
    taps=(1, 1, 7),
    steps=(1, 1, 1),
    spacings=(1, 1, 1),
    row=16384,
    pitch=16387,
    rows_of_slice=1,
    slices=1,
    itemsize=4,
    is_complex=False,
    reads_weights=True,
    channels_fast=False,
)


@pytest.fixture
def wanted(monkeypatch, cpu):
    """Whatever can be made from lines is."""
    monkeypatch.setattr(machines.for_numpy(), "plans", {})
    monkeypatch.setattr(config, "pays", lambda problem, device: True)


@st.composite
def cases(draw, backend):
    geometry = draw(geometries(ranks=(1, 2, 2, 3), all_outputs=(2, 7, 13, 20)))
    dtype = draw(st.sampled_from(["float32", "float32", "float64", "float16", "int8", "int32"]))
    last = draw(st.booleans())
    x, weight, dy = (
        draw(operands(shape, dtype, backend, last))
        for shape in (geometry.x, geometry.weight, geometry.y)
    )
    bias = draw(operands((geometry.weight[0],), dtype, backend, last))
    return geometry, x, weight, dy, bias if draw(st.booleans()) else None


def test_any_geometry(cpu, kernels, wanted):
    @examples(0.6)
    @given(cases(cpu), st.booleans())
    def right(case, activated):
        geometry, x, weight, dy, bias = case
        options = geometry.options
        more = {"epilogue": "relu"} if activated and x.dtype.kind == "f" else {}
        x, weight, dy = (cpu.array(a) for a in (x, weight, dy))
        bias = None if bias is None else cpu.array(bias)
        y = nnk.conv(x, weight, bias, algorithm="direct", **options, **more)
        dx = nnk.conv_backward_data(dy, weight, geometry.x, **options)
        if cpu.recording:
            return
        arrays = [cpu.numpy(a) for a in (x, weight, dy)]
        given_bias = None if bias is None else cpu.numpy(bias)
        assert_right(
            FORWARD, [*arrays[:2], given_bias], options | more, cpu.numpy(y), geometry.terms
        )
        outputs = geometry.weight[0] // options["groups"] * geometry.terms // geometry.weight[1]
        own = options | {"x_shape": geometry.x}
        assert_right(BY_DATA, [arrays[2], arrays[1]], own, cpu.numpy(dx), outputs)

    cpu.precompiled(right)
    assert "ConvLines" in kernels


@pytest.mark.parametrize("layout", [np.ascontiguousarray, channels_last])
@pytest.mark.parametrize("channels", [16, 21])
def test_joined_phases(layout, channels, kernels, wanted, monkeypatch):
    """Rows of several phases, with a bias for those of each; whole squares of channels, and not."""
    monkeypatch.setattr(conv_config, "joins_phases", lambda rows, phases, *_: phases > 1)
    dy, weight, bias = (
        make_numbers(np.random.default_rng(i), shape, "float32")
        for i, shape in enumerate([(2, channels, 9, 40), (channels, 3, 5, 4), (3,)])
    )
    options = {"stride": 2, "padding": ((2, 1), (0, 1))}
    y = nnk.conv_transpose(layout(dy), weight, bias, **options)
    assert {"ConvLines", "ConvJoinedWeights"} <= set(kernels)
    assert_right(TRANSPOSE, [dy, weight, bias], options, y, channels * 20)


@pytest.mark.parametrize("layout", [np.ascontiguousarray, channels_last])
def test_blocks_of_panels(layout, kernels, wanted):
    """Two groups, whose weights each thread packs; lines of many short rows, and channels apart."""
    for shape, kernel, padding in (((3, 40, 30, 9), (3, 4), 2), ((1, 40, 6000), (5,), 0)):
        geometry = Geometry(shape, (26, 20, *kernel), {"padding": padding, "groups": 2})
        x, weight = (
            make_numbers(np.random.default_rng(i), s, "float32")
            for i, s in enumerate((geometry.x, geometry.weight))
        )
        # Flipped, they are not in the order of the terms.
        options = geometry.options | {"flip": True}

        def result(x=x, weight=weight, options=options):
            return nnk.conv(layout(x), weight, **options)

        y = result()
        assert "ConvLines" in kernels
        assert_right(FORWARD, [x, weight, None], options, y, geometry.terms)
        same_on_any_threads(result)


def test_rows_of_taps_with_lines_of_their_own(kernels, wanted):
    """Where rows are so long that no band has several, and the next ones are not in a line."""
    geometry = Geometry((1, 24, 4, 4000), (10, 24, 3, 5), {"padding": (1, 2), "stride": (1, 3)})
    x, weight = (
        make_numbers(np.random.default_rng(i), s, "float32")
        for i, s in enumerate((geometry.x, geometry.weight))
    )
    long = replace(WAVES, channels=24, taps=(1, 3, 5), steps=(1, 1, 3), pitch=4001, row=4000)
    assert {lines for lines, _ in config._lines(long)} == {(1, 1, 3), (1, 3, 3)}
    assert config.configure(replace(long, rows_of_slice=4), CPU).lines == (1, 3, 3)
    y = nnk.conv(x, weight, **geometry.options)
    assert "ConvLines" in kernels
    assert_right(FORWARD, [x, weight, None], geometry.options, y, geometry.terms)


def test_results_are_those_of_other_products(kernels, cpu, monkeypatch):
    """Chains in the order of the terms: also where an image decides that lines pay."""
    x, weight = (
        make_numbers(np.random.default_rng(i), shape, "float32")
        for i, shape in enumerate([(1, 24, 3000), (70, 24, 5)])
    )
    found = []
    for pays in (False, True):
        monkeypatch.setattr(machines.for_numpy(), "plans", {})
        monkeypatch.setattr(config, "pays", lambda problem, device, pays=pays: pays)
        found.append(nnk.conv(x, weight, padding=3))
    assert {"ConvLines", "MatmulPacked"} <= set(kernels)
    assert_same_bits(*found, "lines")


# ---- what is chosen ----------------------------------------------------------------------------


def test_what_is_possible():
    assert config.is_possible(WAVES, CPU)
    assert not config.is_possible(WAVES, PROFILES["sm_90"])
    assert not config.is_possible(replace(WAVES, is_complex=True), CPU)
    assert not config.is_possible(replace(WAVES, taps=(7, 1, 1)), CPU)
    assert config.is_possible(replace(WAVES, taps=(1, 7, 1)), CPU)
    assert config.is_possible(replace(WAVES, steps=(1, 1, 2), spacings=(1, 1, 3)), CPU)
    assert not config.is_possible(replace(WAVES, rows=4096), CPU)
    assert not config.is_possible(replace(WAVES, rows=4, channels=4096), CPU)


IMAGES = replace(
    WAVES, channels=16, rows=16, taps=(1, 3, 3), row=28, pitch=29, rows_of_slice=28, slices=64
)


def test_what_pays():
    """Many outputs of adjacent channels, and weights that are packed for few pixels, do not."""
    assert config.pays(WAVES, CPU)
    assert config.pays(IMAGES, CPU)
    assert config.pays(replace(IMAGES, channels=3, rows=64, steps=(1, 2, 2)), CPU)
    few = replace(WAVES, row=40, pitch=43, reads_weights=False)
    assert not config.pays(few, CPU)
    assert not config.pays(replace(IMAGES, rows=64, row=7, pitch=8, rows_of_slice=7), CPU)
    assert not config.pays(replace(WAVES, channels_fast=True), CPU)
    assert config.pays(replace(WAVES, channels_fast=True, rows=12), CPU)


def test_threads_do_not_decide_what_pays():
    problems = [replace(WAVES, channels_fast=True, rows=rows) for rows in range(1, 40)]
    for processors in (1, 2, 64):
        many = replace(CPU, processors=processors)
        assert [config.pays(p, many) for p in problems] == [config.pays(p, CPU) for p in problems]


def test_tiles():
    """No rows are left over, of those that registers have room for."""
    chosen = config.configure(WAVES, CPU)
    assert (chosen.micro_m, chosen.vector) == (8, 48)
    assert config.configure(replace(WAVES, rows=12), CPU).micro_m in (6, 12)
    narrow = replace(CPU, vector_bytes=32)
    assert config.configure(WAVES, narrow).micro_m == 6
    packed = replace(WAVES, reads_weights=False)
    assert chosen.shared_bytes(packed) > chosen.shared_bytes(WAVES)


@pytest.mark.parametrize("problem", [WAVES, IMAGES, replace(IMAGES, slices=1)])
def test_all_threads_have_work(problem):
    for processors in (2, 4):
        device = replace(CPU, processors=processors)
        chosen = config.configure(problem, device)
        assert is_shared_evenly(problem.slices * chosen.bands(problem), device)
        assert chosen.bands(problem) * chosen.panels_of_band >= chosen.panels(problem)
        assert chosen.line_bytes(problem) <= config._MOST_LINES


def test_rows_are_shared_where_a_band_has_several():
    assert config.configure(IMAGES, CPU).lines == (1, 1, 1)
    assert config.configure(IMAGES, CPU).reach == 2 * 29 + 2
    wide = replace(IMAGES, channels=64, row=4000, pitch=4001)
    assert config.configure(wide, CPU).lines == (1, 3, 1)


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 5))
def test_taps_of_a_line_see_each_other_s_elements(taps, step, spacing):
    """And those of different lines do not."""
    lines, shift = config.lines_along(taps, step, spacing)
    for tap in range(taps):
        # Where it sees, some windows before, what the first tap of its line does.
        first, before = tap % lines, tap // lines * shift
        assert tap * spacing - before * step == first * spacing
    assert len({first * spacing % step for first in range(lines)}) == lines
