"""Convolutions of bfloat16 on the tile registers of a CPU: every way that operands are gathered."""

from __future__ import annotations

import re

import numpy as np
import pytest
from comparing import assert_same_bits
from convolving import BY_DATA, BY_WEIGHT, FORWARD, assert_right, geometries, operands
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples, make_numbers
from test_matmul_dot import BACKEND, processor
from threads import same_on_any_threads

import nnkernels as nnk
from nnkernels.compile.instance import Instance
from nnkernels.dispatch import machines

FEATURES = {"amx_bf16"}


@pytest.fixture(scope="module", autouse=True)
def _on_the_cpu():
    if machines.for_numpy() is machines.REFERENCE:
        pytest.skip("there is no C++ compiler")


@pytest.fixture
def forms(monkeypatch):
    """What kernels of new plans gather: pixels, whether channels are adjacent, and so on."""
    made = set()
    original = Instance.__post_init__

    def note(self):
        original(self)
        found = re.search(r"^MatmulTiles.*ConvWordsForm<(.*?)>", self.kernel)
        made.add(tuple(found[1].split(", ")) if found else self.kernel.partition("<")[0])

    monkeypatch.setattr(Instance, "__post_init__", note)
    return made


def last(x):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


def check_all(x, weight, dy_layout, **options):
    """A convolution and both gradients are those of the reference."""
    y = nnk.conv(x, weight, **options)
    dy = dy_layout(make_numbers(np.random.default_rng(3), y.shape, "bfloat16"))
    dx = nnk.conv_backward_data(dy, weight, x.shape, **options)
    dw = nnk.conv_backward_weight(dy, x, weight.shape, **options)
    if BACKEND.recording:
        return
    terms = int(np.prod(weight.shape[1:]))
    assert_right(FORWARD, [x, weight, None], options, y, terms)
    assert_right(BY_DATA, [dy, weight], {**options, "x_shape": x.shape}, dx, weight.size)
    shaped = {**options, "weight_shape": weight.shape}
    assert_right(BY_WEIGHT, [dy, x], shaped, dw, max(dy.size // weight.shape[0], 1))


# Shapes of image and weights, and options. The first has images of few pixels, which are joined;
# the second sums of several slices of 2048 terms, and images that are products of their own.
CASES = [
    ((3, 19, 9, 10), (37, 19, 3, 3), {"padding": 1}),
    ((2, 70, 26, 31), (12, 70, 6, 5), {"padding": ((1, 2), (3, 0)), "dilation": (2, 1)}),
    ((2, 33, 70), (12, 33, 4), {"padding": 2, "flip": True, "stride": 2}),
    ((1, 18, 5, 6, 9), (20, 9, 3, 2, 3), {"groups": 2, "padding": 1}),
]


def test_every_form(forms):
    def body():
        rng = np.random.default_rng(0)
        with processor(FEATURES):
            for x_shape, weight_shape, options in CASES:
                x, weight = (make_numbers(rng, s, "bfloat16") for s in (x_shape, weight_shape))
                check_all(x, weight, np.ascontiguousarray, **options)
                check_all(last(x), weight, last, **options)
            check_all(last(x), last(weight), last, **options)

    BACKEND.precompiled(body)
    found = {form for form in forms if isinstance(form, tuple)}
    kinds = {(pixels, fast) for pixels, fast, *_ in found}
    assert kinds == {
        ("pixels_are_columns", "false"),
        ("pixels_are_rows", "true"),
        ("pixels_are_terms", "true"),
        ("pixels_are_terms", "false"),
    }
    columns = {form[2:] for form in found if form[0] == "pixels_are_columns"}
    assert columns == {(s, w) for s in ("true", "false") for w in ("true", "false")}
    assert {form[3] for form in found if form[0] == "pixels_are_rows"} == {"true", "false"}
    assert {form[2] for form in found if form[0] == "pixels_are_terms"} == {"true", "false"}


@st.composite
def cases(draw):
    geometry = draw(geometries(all_channels=(9, 17, 33, 40), all_outputs=(1, 7, 16, 37)))
    fast = draw(st.booleans())
    shapes = (geometry.x, geometry.weight, geometry.y)
    return geometry, [draw(operands(shape, "bfloat16", BACKEND, fast)) for shape in shapes]


def test_any_geometry():
    @examples(0.4)
    @given(cases())
    def right(case):
        geometry, (x, weight, dy) = case
        y = nnk.conv(x, weight, **geometry.options)
        dx = nnk.conv_backward_data(dy, weight, geometry.x, **geometry.options)
        dw = nnk.conv_backward_weight(dy, x, geometry.weight, **geometry.options)
        if BACKEND.recording:
            return
        assert_right(FORWARD, [x, weight, None], geometry.options, y, geometry.terms)
        options = {**geometry.options, "x_shape": geometry.x}
        assert_right(BY_DATA, [dy, weight], options, dx, max(weight.size, 1))
        options = {**geometry.options, "weight_shape": geometry.weight}
        assert_right(BY_WEIGHT, [dy, x], options, dw, max(dy.size // geometry.weight[0], 1))

    def body():
        with processor(FEATURES):
            right()

    BACKEND.precompiled(body)


def test_bias_and_activation():
    rng = np.random.default_rng(4)
    shapes = ((3, 19, 9, 10), (37, 19, 3, 3), (37,))
    x, weight, bias = (make_numbers(rng, s, "bfloat16") for s in shapes)
    options = {"padding": 1, "epilogue": "relu"}
    with processor(FEATURES):
        for layout in (np.ascontiguousarray, last):
            y = nnk.conv(layout(x), weight, bias, **options)
            assert_right(FORWARD, [x, weight, bias], options, y, 172)
            # Results of another type than the operands.
            y = nnk.conv(layout(x), weight, bias.astype(np.float32), **options)
            assert y.dtype == np.float32
            assert_right(FORWARD, [x, weight, bias.astype(np.float32)], options, y, 172)


@pytest.mark.parametrize("layout", [np.ascontiguousarray, last])
def test_bits_do_not_depend_on_threads(layout):
    rng = np.random.default_rng(5)
    shapes = ((2, 40, 30, 31), (70, 40, 3, 3))
    x, weight = (layout(make_numbers(rng, s, "bfloat16")) for s in shapes)
    dy = layout(make_numbers(rng, (2, 70, 30, 31), "bfloat16"))
    with processor(FEATURES):
        same_on_any_threads(lambda: nnk.conv(x, weight, padding=1))
        same_on_any_threads(lambda: nnk.conv_backward_data(dy, weight, x.shape, padding=1))
        same_on_any_threads(lambda: nnk.conv_backward_weight(dy, x, weight.shape, padding=1))


@pytest.mark.parametrize("layout", [np.ascontiguousarray, last])
def test_what_was_in_scratch_memory_does_not_count(layout):
    """Terms that a tile lacks are zeros on both sides: NaN of an earlier call times zero is NaN."""
    rng = np.random.default_rng(6)
    x, weight = (layout(make_numbers(rng, s, "bfloat16")) for s in ((1, 40, 9, 9), (40, 40, 3, 3)))
    with processor(FEATURES):
        for few in (9, 11, 33):  # terms that are no multiple of a tile's
            y = nnk.conv(x[:, :few], weight[:, :few], padding=1)
            dw = nnk.conv_backward_weight(y, x[:, :few], (40, few, 3, 3), padding=1)
            for bad in (np.full_like(x, np.nan), np.full_like(x, np.inf)):
                nnk.conv(bad, weight * np.nan, padding=1)
                nnk.conv_backward_weight(bad, bad, weight.shape, padding=1)
                again = nnk.conv(x[:, :few], weight[:, :few], padding=1)
                assert_same_bits(again, y, f"{few} channels")
                again = nnk.conv_backward_weight(y, x[:, :few], (40, few, 3, 3), padding=1)
                assert_same_bits(again, dw, f"{few} channels, by weight")


def test_processors_without_tile_registers(forms):
    rng = np.random.default_rng(7)
    x, weight = (make_numbers(rng, s, "bfloat16") for s in ((1, 19, 12, 13), (9, 19, 3, 3)))
    for settings in ({"features": set()}, {"features": FEATURES, "refuses_tiles": True}):
        forms.clear()
        with processor(**settings):
            check_all(x, weight, np.ascontiguousarray, padding=1)
        assert "MatmulPacked" in forms
        assert "ConvWeight" in forms
        assert not any(isinstance(form, tuple) for form in forms)
