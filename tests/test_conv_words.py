"""Convolutions by instructions that add several products: every way that words are gathered."""

from __future__ import annotations

import re

import numpy as np
import pytest
from comparing import assert_same_bits
from convolving import BY_DATA, BY_WEIGHT, FORWARD, assert_right, geometries, operands
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import examples, make_numbers
from test_matmul_dot import BACKEND, processor
from threads import same_on_any_threads

import nnkernels as nnk
from nnkernels.compile.instance import Instance
from nnkernels.dispatch import machines
from nnkernels.dispatch.dtypes import numpy_dtype

# Features of the processor, bytes of a SIMD register, types of image and weights, the kernel and
# how it multiplies.
TILES, PACKED = "MatmulTiles", "MatmulPacked"
BFLOAT16, INT8 = ("bfloat16", "bfloat16"), ("int8", "int8")
WAYS = {
    "tiles of bfloat16": ({"amx_bf16"}, 64, BFLOAT16, (TILES, "TileRegisters")),
    "tiles of int8": ({"amx_int8", "avx512_vnni"}, 64, INT8, (TILES, "TileRegisters")),
    "fours of int8": ({"avx512_vnni", "sse2"}, 64, INT8, (PACKED, "Int8Quads")),
    "pairs of bfloat16": ({"avx512_bf16"}, 64, BFLOAT16, (PACKED, "Bfloat16Pairs")),
    "pairs of int16": ({"avx512_vnni", "sse2"}, 64, ("int16", "int8"), (PACKED, "Int16Pairs")),
}
# With other signs, and with registers of other sizes, where few lanes are loaded at once.
MORE_WAYS = {
    "uint8 by int8": ({"avx512_vnni"}, 64, ("uint8", "int8"), (PACKED, "Int8Quads")),
    "int8 by uint8": ({"avx512_vnni"}, 64, ("int8", "uint8"), (PACKED, "Int8Quads")),
    "uint8": ({"avx512_vnni"}, 64, ("uint8", "uint8"), (PACKED, "Int8Quads")),
    "fours, 32 bytes": ({"avx_vnni"}, 32, INT8, (PACKED, "Int8Quads")),
    "pairs, 64 bytes": ({"sse2"}, 64, INT8, (PACKED, "Int16Pairs")),
    "pairs, 32 bytes": ({"sse2"}, 32, ("uint8", "int16"), (PACKED, "Int16Pairs")),
    "pairs, 16 bytes": ({"sse2"}, 16, INT8, (PACKED, "Int16Pairs")),
}
FEATURES = WAYS["tiles of bfloat16"][0]
# Profile deep: all of them. Of kernels of the same templates, elsewhere one of each kind.
ALIKE = ("tiles of int8", "pairs of int16", "int8 by uint8", "uint8", "pairs, 64 bytes")


def those_of(ways):
    return [way for way in ways if way not in ALIKE or not settings.default.derandomize]


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
        name = self.kernel.partition("<")[0]
        found = re.search(
            "(TileRegisters|[A-Za-z0-9]*(?:Pairs|Quads)).*ConvWordsForm<(.*?)>", self.kernel
        )
        made.add((name, found[1], *found[2].split(", ")) if found else name)

    monkeypatch.setattr(Instance, "__post_init__", note)
    return made


def last(x):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


def numbers(rng, shape, dtype):
    """Integers of all sizes, whose products are exact, and other numbers that are not extreme."""
    return make_numbers(rng, shape, dtype, "wide" if "int" in dtype else "ordinary")


def check_all(x, weight, dy_layout, **options):
    """A convolution and both gradients are those of the reference."""
    y = nnk.conv(x, weight, **options)
    dy = dy_layout(numbers(np.random.default_rng(3), y.shape, str(x.dtype)))
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


def check_cases(cases, features, vector_bytes, dtypes):
    rng = np.random.default_rng(0)
    with processor(features, vector_bytes):
        for x_shape, weight_shape, options in cases:
            x, weight = map(numbers, (rng, rng), (x_shape, weight_shape), dtypes)
            check_all(x, weight, np.ascontiguousarray, **options)
            check_all(last(x), weight, last, **options)
        check_all(last(x), last(weight), last, **options)


@pytest.mark.parametrize("way", those_of(WAYS))
def test_every_form(forms, way):
    *settings, kernel = WAYS[way]
    BACKEND.precompiled(lambda: check_cases(CASES, *settings))
    made = {form for form in forms if isinstance(form, tuple)}
    assert {form[:2] for form in made} == {kernel}
    found = {form[2:] for form in made}
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


@pytest.mark.parametrize("way", those_of(MORE_WAYS))
def test_other_signs_and_registers(forms, way):
    *settings, kernel = MORE_WAYS[way]
    BACKEND.precompiled(lambda: check_cases(CASES[:1], *settings))
    assert {form[:2] for form in forms if isinstance(form, tuple)} == {kernel}


@st.composite
def cases(draw, dtype):
    geometry = draw(geometries(all_channels=(9, 17, 33, 40), all_outputs=(1, 7, 16, 37)))
    fast = draw(st.booleans())
    shapes = (geometry.x, geometry.weight, geometry.y)
    return geometry, [draw(operands(shape, dtype, BACKEND, fast)) for shape in shapes]


@pytest.mark.parametrize("way", ["tiles of bfloat16", "fours of int8", "pairs of bfloat16"])
def test_any_geometry(way):
    features, _, (dtype, _), _ = WAYS[way]

    @examples(0.4)
    @given(cases(dtype))
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
        with processor(features):
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
def test_bias_and_functions_of_integers(layout):
    rng = np.random.default_rng(9)
    x, weight = (layout(numbers(rng, s, "int8")) for s in ((3, 19, 9, 10), (37, 19, 3, 3)))
    bias = numbers(rng, (37,), "int32")
    other = layout(numbers(rng, (3, 37, 9, 10), "int32"))
    with processor({"avx512_vnni"}):
        y = nnk.conv(x, weight, bias, padding=1, epilogue="relu")
        assert_right(FORWARD, [x, weight, bias], {"padding": 1, "epilogue": "relu"}, y, 172)
        sums = nnk.conv(x, weight, padding=1)
        added, few = nnk.conv(
            x,
            weight,
            padding=1,
            epilogue=lambda s, other: (s * 2 + other, (s + other).clip(-90, 90).astype("int8")),
            operands=(other,),
        )
        assert np.array_equal(added, sums * 2 + other)
        assert np.array_equal(few, (sums + other).clip(-90, 90).astype(np.int8))
        transposed = nnk.conv_transpose(x, weight.swapaxes(0, 1), stride=2)
    wanted = nnk.conv_transpose(*(a.astype(np.int32) for a in (x, weight.swapaxes(0, 1))), stride=2)
    assert np.array_equal(transposed, wanted)


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


@pytest.mark.parametrize("way", ["tiles of bfloat16", "pairs of bfloat16"])
@pytest.mark.parametrize("layout", [np.ascontiguousarray, last])
def test_what_was_in_scratch_memory_does_not_count(layout, way):
    """Terms that a word lacks are zeros on both sides: NaN of an earlier call times zero is NaN."""
    rng = np.random.default_rng(6)
    x, weight = (layout(make_numbers(rng, s, "bfloat16")) for s in ((1, 40, 9, 9), (40, 40, 3, 3)))
    with processor(WAYS[way][0]):
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


@pytest.mark.parametrize("way", ["tiles of bfloat16", "pairs of bfloat16"])
@pytest.mark.parametrize("layout", [np.ascontiguousarray, last])
def test_what_pixels_see_counts_once(layout, way):
    """Infinities are not multiplied by the zeros of a pixel that the last word lacks, either."""
    x = layout(np.ones((1, 40, 9, 9), numpy_dtype("bfloat16")))
    dy = layout(np.ones((1, 40, 9, 9), numpy_dtype("bfloat16")))
    x[:, :, 8, 7] = np.inf
    with processor(WAYS[way][0]):
        dw = nnk.conv_backward_weight(dy, x, (40, 40, 3, 3), padding=1)
    assert np.isinf(dw.astype(np.float32)).any()
    assert not np.isnan(dw.astype(np.float32)).any()


def test_processors_without_tile_registers(forms):
    rng = np.random.default_rng(7)
    x, weight = (make_numbers(rng, s, "bfloat16") for s in ((1, 19, 12, 13), (9, 19, 3, 3)))
    for chosen in ({"features": set()}, {"features": FEATURES, "refuses_tiles": True}):
        forms.clear()
        with processor(**chosen):
            check_all(x, weight, np.ascontiguousarray, padding=1)
        assert "MatmulPacked" in forms
        assert "ConvWeight" in forms
        assert not any(isinstance(form, tuple) for form in forms)


def test_integers_on_processors_without_words(forms):
    """As numbers of 32 bits: from lines, and from packed pixels."""
    rng = np.random.default_rng(8)
    for dtypes in (INT8, ("uint8", "int16")):
        x, weight = map(numbers, (rng, rng), ((1, 19, 12, 13), (9, 19, 3, 3)), dtypes)
        with processor(set()):
            check_all(x, weight, np.ascontiguousarray, padding=1)
            check_all(last(x), last(weight), last, padding=1)
    assert {"ConvLines", "MatmulPacked", "ConvWeight"} <= forms
    assert not any(isinstance(form, tuple) for form in forms)
