"""How convolutions on a CPU are configured: every branch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nnkernels.config import conv as config
from nnkernels.config.conv import COLUMNS, ROWS, TERMS, ConvProblem
from nnkernels.config.device import Device
from nnkernels.config.matmul_complex import ComplexConfig
from nnkernels.config.matmul_problem import COLUMNS_FAST, ROWS_FAST, MatmulProblem
from nnkernels.config.matmul_tiles import TilesConfig

AVX512 = Device("cpu", "host", 1, 2, 512 * 1024, 64, 32 << 20)
SSE2 = replace(AVX512, vector_bytes=16)

# 64 outputs of 576 terms at 3136 pixels; weights lie by rows, dy by rows of pixels.
PRODUCT = MatmulProblem(
    m=64,
    n=3136,
    k=576,
    strides_a=(2304, 4),
    strides_b=(0, 0),
    itemsizes=(4, 4, 4),
    compute_itemsize=4,
    is_complex=False,
    reach=1 << 20,
    strides_c=(12544, 4),
    same_a=True,
)
PROBLEM = ConvProblem(PRODUCT, COLUMNS, False, False, (1, 3, 3))


def chosen(device=AVX512, **changes):
    own = {key: changes.pop(key) for key in tuple(changes) if hasattr(PRODUCT, key)}
    problem = replace(PROBLEM, product=replace(PRODUCT, **own), **changes)
    return config.configure(problem, device)


@pytest.mark.parametrize(
    ("pixels", "scattered", "gathered", "read_a", "in_place"),
    [
        (COLUMNS, False, False, True, True),
        (COLUMNS, False, True, False, True),  # weights are packed
        (COLUMNS, True, False, True, False),  # results are scattered
        (ROWS, False, False, False, True),  # the image is A
        (ROWS, True, True, False, False),
        (TERMS, False, False, True, True),
        (TERMS, True, False, False, True),  # A is scattered, C is not
    ],
)
def test_what_is_packed(pixels, scattered, gathered, read_a, in_place):
    found = chosen(pixels=pixels, scattered=scattered, gathered=gathered)
    assert (found.packed.read_a, found.packed.in_place) == (read_a, in_place)
    assert (found.pixels, found.scattered, found.gathered) == (pixels, scattered, gathered)


def test_what_is_gathered_is_packed_by_rows():
    """Whatever the strides of the array are: A as rows of terms, B as rows of columns."""
    turned = {"strides_a": (4, 2304), "strides_b": (4, 2304)}
    assert chosen(**turned).packed.fast_a == ROWS_FAST
    for pixels, gathered in ((ROWS, False), (COLUMNS, True)):
        packed = chosen(pixels=pixels, gathered=gathered, **turned).packed
        assert packed.fast_a == COLUMNS_FAST
        assert packed.unit_a
    assert chosen(pixels=ROWS, **turned).packed.fast_b == ROWS_FAST
    for pixels, gathered in ((ROWS, True), (COLUMNS, False), (TERMS, False)):
        packed = chosen(pixels=pixels, gathered=gathered, **turned).packed
        assert packed.fast_b == COLUMNS_FAST
        assert packed.unit_b


def test_few_rows_have_slices_as_many_rows_have():
    """A slice of the image is packed for them, which takes longer than to read a matrix."""
    assert chosen(m=8).packed.tile_k == chosen(m=512).packed.tile_k


def with_features(*features):
    return replace(AVX512, features=frozenset(features))


# Elements, features, bytes of one, the way to multiply, terms of a word, pixels of a group.
WORDS = [
    ("int8", "avx512_vnni", 1, "int8_quads", 4, 16),
    ("int8", "sse2", 1, "int16_pairs", 2, 32),
    ("int16", "sse2", 2, "int16_pairs", 2, 32),
    ("bfloat16", "avx512_bf16", 2, "bfloat16_pairs", 2, 32),
    ("float16", "avx512_bf16", 2, "fused", 1, 16),
    ("float16", "amx_bf16", 2, "fused", 1, 16),
    ("int8", "avx512f", 1, "fused", 1, 16),
]


@pytest.mark.parametrize(("dot", "feature", "itemsize", "way", "terms", "lanes"), WORDS)
def test_words(dot, feature, itemsize, way, terms, lanes):
    """Of float16 there are none: its words would be one term each, split into two numbers."""
    device = with_features(feature)
    assert config.multiplies_words(dot, device) == (terms > 1)
    numbers = {
        "dot": dot,
        "itemsizes": (itemsize, itemsize, 4),
        "strides_a": (576 * itemsize, itemsize),
    }
    for pixels in (COLUMNS, ROWS, TERMS):
        found = chosen(device, pixels=pixels, **numbers, same_a=False)
        assert (found.packed.micro, found.word_terms, found.lanes) == (way, terms, lanes)
        # Words of elements as they are can be read where these lie, unless they are gathered.
        lies = terms == 4 // itemsize and way != "int8_quads" and pixels != ROWS
        assert found.packed.read_a == lies
        gathered = chosen(device, pixels=pixels, gathered=True, **numbers, same_a=False)
        assert gathered.packed.read_a == (lies and pixels == TERMS)


def test_words_on_tile_registers():
    assert config.multiplies_words("int8", with_features("amx_int8"))
    found = chosen(with_features("amx_int8"), dot="int8", itemsizes=(1, 1, 4), strides_a=(576, 1))
    assert isinstance(found.packed, TilesConfig)
    assert (found.word_terms, found.lanes, found.panel_columns) == (4, 16, 32)


def test_slices_of_words():
    """Half as many words of twice as many columns, unless sums wait in scratch memory."""
    numbers = {"dot": "int8", "itemsizes": (1, 1, 4), "strides_a": (576, 1)}
    vnni = with_features("avx512_vnni")
    for pixels in (COLUMNS, TERMS):
        packed = chosen(vnni, pixels=pixels, **numbers).packed
        assert packed.tile_k == 256
        assert 256 < packed.tile_n <= 512
    for few in ({"scattered": True}, {"n": 200}):
        packed = chosen(vnni, **numbers, **few).packed
        assert packed.tile_k == 512
        assert packed.tile_n <= 256


def test_scratch_memory_of_words():
    """More pixels are looked up, and what those of a word see waits in lines."""
    numbers = {"itemsizes": (1, 1, 4), "strides_a": (576, 1), "dot": "int8"}
    found = chosen(with_features("avx512_vnni"), pixels=TERMS, **numbers)
    product = found.packed.shared_elements(576) * 4
    more = found.shared_bytes(576, (1, 3, 3), 4) - product
    pixels = 4 * found.packed.tile_k
    places = 2 * (pixels * 12 + 8) + 7 * -(-pixels // 16) * 4 + 9 * (8 + 16)
    assert more == places + 4 * found.packed.tile_n + 64


@pytest.mark.parametrize("pixels", [COLUMNS, ROWS, TERMS])
def test_tile_registers(pixels):
    """Pixels are gathered as bits of 16; rows that are gathered have 64 bytes between them."""
    device = replace(AVX512, features=frozenset({"amx_bf16"}))
    numbers = {"dot": "bfloat16", "itemsizes": (2, 2, 2), "strides_a": (1152, 2)}
    for gathered in (False, True):
        found = chosen(device, pixels=pixels, gathered=gathered, scattered=True, **numbers)
        packed = found.packed
        assert isinstance(packed, TilesConfig)
        assert (found.lanes, found.panel_columns) == (32, 32)
        gathers_a = pixels != COLUMNS or gathered
        assert packed.rows_at_once == 32 or not gathers_a
        product = packed.shared_elements(576) * 4
        most = packed.tile_k if pixels == TERMS else packed.tile_n
        more = found.shared_bytes(576, (1, 3, 3), 4) - product
        assert more >= 32 * 64 + 2 * most * 12 + 7 * -(-most // 32) * 4 + 9 * (8 + 4)


@pytest.mark.parametrize("device", [AVX512, SSE2])
def test_complex_numbers_are_multiplied_as_real_ones(device):
    """A register has lanes for the bits of complex64, not for those of complex128."""
    for itemsize in (8, 16):
        numbers = {"is_complex": True, "compute_itemsize": itemsize, "itemsizes": (itemsize,) * 3}
        numbers["strides_a"] = (2304, itemsize)
        found = chosen(device, **numbers)
        assert isinstance(found.packed, ComplexConfig)
        assert found.lanes == (device.vector_bytes // 8 if itemsize == 8 else 1)
        assert found.panel_columns % found.lanes == 0
        assert found.packed.read_a
        for pixels in (ROWS, TERMS):  # the image, or scattered pixels, are A
            other = chosen(device, **numbers, pixels=pixels, scattered=pixels == TERMS)
            assert not other.packed.read_a


@pytest.mark.parametrize(
    ("device", "itemsize", "n", "lanes"),
    [(AVX512, 4, 3136, 16), (AVX512, 8, 3136, 8), (SSE2, 4, 3136, 4), (AVX512, 4, 9, 16)],
)
def test_lanes(device, itemsize, n, lanes):
    found = chosen(device, compute_itemsize=itemsize, n=n)
    assert found.lanes == lanes
    assert found.packed.vector % lanes == 0


def test_scratch_memory_holds_what_is_known_of_pixels():
    """For runs an offset, lanes and a number each, for masks a word for every tap and group."""
    for pixels, most in ((COLUMNS, "tile_n"), (TERMS, "tile_k")):
        found = chosen(pixels=pixels)
        product = found.packed.shared_elements(576) * 4
        more = found.shared_bytes(576, (1, 3, 3), 4) - product
        count = getattr(found.packed, most)
        assert more >= 2 * count * 12 + 7 * -(-count // 16) * 4 + 9 * (8 + 16)
        assert found.shared_bytes(576, (1, 30, 30), 4) - product > 900 * (8 + 16)
        wide = replace(found, packed=replace(found.packed, index="q"))
        assert wide.shared_bytes(576, (1, 3, 3), 4) - product >= more + 8 * count


def test_images_are_joined_where_weights_would_be_packed_for_each():
    own = {"images": 8, "pixels": 49, "weights": 1 << 20, "strides_of_weights": (4, 2048)}
    assert config.joins_images(**own)
    for change in (
        {"images": 1},
        {"pixels": 784},
        {"weights": 4096},
        {"strides_of_weights": (2048, 4)},
    ):
        assert not config.joins_images(**own | change)


def test_columns_of_pixels_have_places_and_masks_of_runs():
    """Of each tap four: an index and 32 bits."""
    for reach, index in ((1 << 20, 4), (1 << 40, 8)):
        columns = chosen(reach=reach)
        alone = replace(columns, pixels=ROWS)
        more = columns.shared_bytes(576, (1, 3, 3), 4) - alone.shared_bytes(576, (1, 3, 3), 4)
        assert more == 9 * 4 * (index + 4)
