"""Convolutions on matrix cores, in the simulator: every way that windows come to shared memory."""

from __future__ import annotations

import numpy as np
import pytest
from convolving import BY_DATA, BY_WEIGHT, FORWARD, Geometry, assert_right, geometries
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import examples, make_numbers

import nnkernels as nnk
from nnkernels.config import conv_tensor, matmul_warpgroup
from nnkernels.config import matmul_tensor as tensor
from nnkernels.config.conv_tensor import ConvTensorConfig
from nnkernels.config.device import PROFILES
from nnkernels.dispatch.dtypes import numpy_dtype
from nnkernels.inspection.problems import channels_last, images_far_apart
from nnkernels.inspection.record import launches

SIDE = 64


@pytest.fixture
def one_tile(simulator, monkeypatch):
    """Let only tiles of one size be chosen, so that few kernels are compiled; and a few splits."""

    def choose(splits=1):
        monkeypatch.setattr(tensor, "_tiles", _square)
        monkeypatch.setattr(conv_tensor, "_MORE_TILES", ())
        monkeypatch.setattr(tensor, "_splits", lambda *of_problem: [splits])
        simulator.machine.plans.clear()

    yield choose
    simulator.machine.plans.clear()


def float16_on(*archs):
    """For the marker ``dtypes``: kernels of the others are the same, or nearly so."""
    return lambda arch: ("float16",) if arch in archs else ()


def _square(problem, device, atom):
    return [tile for tile in tensor.tiles_of(atom, device) if tile.m == tile.n == SIDE]


def laid(generator, shape, dtype, last):
    """Numbers in the usual order of the axes, or with channels as the last one."""
    values = make_numbers(generator, shape, dtype)
    if not last:
        return values
    view = channels_last(shape, numpy_dtype(dtype))
    view[...] = values
    return view


def spread(x, axis=2):
    """The same numbers, every second place along an axis of another array."""
    wide = channels_last(tuple(n * (1 + (i == axis)) for i, n in enumerate(x.shape)), x.dtype)
    view = wide[(slice(None),) * axis + (slice(None, None, 2),)]
    view[...] = x
    return view


def shifted(x):
    """The same numbers in the same order, at an address that is no multiple of 16."""
    buffer = channels_last((1, x.size + 8, 1), x.dtype)[0, :, 0]
    order = [*range(2, x.ndim), 1]
    dense = buffer[1 : x.size + 1].reshape([x.shape[axis] for axis in (0, *order)])
    view = np.moveaxis(dense, -1, 1)
    view[...] = x
    return view


def check(backend, geometry, last, dtype, seed=1, bias=False, lay=lambda x: x):
    """Make a convolution and its gradients, and compare them with the reference."""
    generator = np.random.default_rng(seed)
    x, w, dy = (
        lay(laid(generator, shape, dtype, last))
        for shape in (geometry.x, geometry.weight, geometry.y)
    )
    b = make_numbers(generator, (geometry.weight[0],), dtype) if bias else None
    options = geometry.options
    more = {"epilogue": "relu"} if bias else {}
    with backend.context(seed):
        y = nnk.conv(x, w, b, **options, **more)
        dx = nnk.conv_backward_data(dy, w, geometry.x, **options)
        dw = nnk.conv_backward_weight(dy, x, geometry.weight, **options)
    if backend.recording:
        return
    assert_right(FORWARD, [x, w, b], options | more, y, geometry.terms)
    terms = geometry.weight[0] // options.get("groups", 1) * geometry.terms // w.shape[1]
    assert_right(BY_DATA, [dy, w], options | {"x_shape": geometry.x}, dx, terms)
    pixels = max(dy.size // w.shape[0], 1)
    assert_right(BY_WEIGHT, [dy, x], options | {"weight_shape": geometry.weight}, dw, pixels)


# Channels last or not, and how many; outputs; ranks.
FAMILIES = {
    "chunks of channels": (True, (16, 32), (16, 24), (1, 2, 3)),
    "few channels": (True, (3, 5), (20,), (2,)),
    "channels first": (False, (2, 5), (17,), (1, 2, 3)),
}


@pytest.mark.warpgroups
@pytest.mark.in_turn(by="warp")
@pytest.mark.parametrize("family", FAMILIES)
def test_any_geometry(family, simulator, chosen, one_tile):
    one_tile()
    last, channels, outputs, ranks = FAMILIES[family]

    @examples(0.5)
    @given(geometries(ranks, channels, outputs), st.integers(0, 99))
    def right(geometry, seed):
        check(simulator, geometry, last, "float16", seed, bias=seed % 4 == 0)

    simulator.precompiled(right)
    assert any(isinstance(c, ConvTensorConfig) for c in chosen)


# ---- what is chosen -----------------------------------------------------------------------------

# What pixels are, whether their array is scattered, how A and B come, whether C is written 16 bytes
# at a time, and whether taps are bits.
NAMES = ("terms", "rows", "terms", "rows", "single terms", "single rows")
BITS, COORDINATES = True, False


def summary(c):
    p = c.product
    ways = NAMES[p.way_a], NAMES[p.way_b]
    return (c.pixels.removeprefix("pixels_are_"), c.scattered, *ways, p.wide_c, c.few_taps)


# Geometry, channels last, layout; for the convolution, its gradients by image and by weights.
REGIMES = {
    "chunks of channels": (
        Geometry((2, 16, 5, 7), (24, 16, 3, 3), {"padding": 1}), True, None,
        ("rows", False, "terms", "terms", True, BITS),
        ("rows", False, "terms", "terms", True, BITS),
        ("terms", False, "rows", "rows", True, BITS),
    ),
    "strides scatter the gradient": (
        Geometry((2, 16, 9, 11), (24, 16, 3, 3), {"padding": 1, "stride": 2}), True, None,
        ("rows", False, "terms", "terms", True, BITS),
        ("rows", True, "terms", "terms", True, BITS),
        ("terms", False, "rows", "rows", True, BITS),
    ),
    "every second row": (
        Geometry((2, 16, 5, 7), (24, 16, 3, 3), {"padding": 1}), True, spread,
        ("rows", False, "terms", "terms", True, BITS),
        ("rows", False, "terms", "terms", True, BITS),
        ("terms", True, "rows", "rows", True, BITS),
    ),
    "chunks at odd addresses": (
        Geometry((2, 16, 5, 7), (24, 16, 3, 3), {"padding": 1}), True, shifted,
        ("rows", False, "single rows", "terms", True, BITS),
        ("rows", False, "single rows", "terms", True, BITS),
        ("terms", False, "rows", "single terms", True, BITS),
    ),
    "many taps": (
        Geometry((1, 16, 8, 9), (24, 16, 3, 11), {"padding": 5}), True, None,
        ("rows", False, "terms", "terms", True, COORDINATES),
        ("rows", False, "terms", "terms", True, COORDINATES),
        ("terms", False, "rows", "rows", True, BITS),
    ),
    "32 taps": (
        Geometry((1, 16, 8, 9), (24, 16, 4, 8), {"padding": 5}), True, None,
        ("rows", False, "terms", "terms", True, BITS),
        ("rows", False, "terms", "terms", True, BITS),
        ("terms", False, "rows", "rows", True, BITS),
    ),
    "few channels, many taps": (
        Geometry((2, 12, 11, 9), (20, 12, 6, 6), {"padding": 3, "stride": 2}), True, None,
        ("rows", False, "single rows", "terms", False, COORDINATES),
        ("rows", True, "single rows", "terms", False, BITS),
        ("terms", False, "rows", "single terms", True, BITS),
    ),
    "few channels, 4 bytes": (
        Geometry((2, 10, 9, 7), (22, 10, 3, 3), {"padding": 1}), True, None,
        ("rows", False, "single rows", "terms", False, BITS),
        ("rows", False, "single rows", "terms", False, BITS),
        ("terms", False, "rows", "single terms", False, BITS),
    ),
    "channels first": (
        Geometry((2, 8, 5, 7), (24, 8, 3, 3), {"padding": 1}), False, None,
        ("columns", True, "terms", "single rows", False, BITS),
        ("columns", True, "terms", "single rows", False, BITS),
        ("terms", True, "single terms", "single terms", True, BITS),
    ),
    "channels first, one image": (
        Geometry((1, 8, 6, 8), (24, 8, 3, 3), {"padding": 1}), False, None,
        ("columns", False, "terms", "single rows", True, BITS),
        ("columns", False, "terms", "single rows", True, BITS),
        ("terms", False, "terms", "single terms", True, BITS),
    ),
}  # fmt: skip


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.dtypes(of=float16_on("sm_80", "gfx90a"))
def test_each_regime_runs(regime, dtype, simulator, chosen, one_tile):
    one_tile()
    geometry, last, lay, *expected = REGIMES[regime]

    def body():
        chosen.clear()
        check(simulator, geometry, last, dtype, lay=lay or (lambda x: x))

    simulator.precompiled(body)
    configs = [c for c in chosen if isinstance(c, ConvTensorConfig)]
    found = [summary(c) for c in configs]
    assert [found[0], found[-1]] == [expected[0], expected[2]]
    assert expected[1] in found[1:-1]
    if "channels, " in regime:
        # Of the image: channels of 8 or 4 bytes.
        assert max(c.vector for c in configs) == (2 if "4 bytes" in regime else 4)
    asynchronous = simulator.device.arch.startswith("sm")
    for c in (c.product for c in configs):
        for way, alignment in ((c.way_a, c.alignment_a), (c.way_b, c.alignment_b)):
            copied = asynchronous and alignment >= 4
            assert way >= tensor.SINGLE_TERMS or (way < tensor.VECTOR_TERMS) == copied


# ---- types, splits, and far apart ---------------------------------------------------------------

USUAL = Geometry((1, 32, 8, 9), (24, 32, 3, 3), {"padding": 1})


def other_types(arch):
    """Of other sizes than two bytes, and bfloat16."""
    if not settings.default.derandomize:
        return ("bfloat16", "int8", *(("float64",) if arch == "gfx90a" else ()))
    types = {"sm_80": ("bfloat16", "int8"), "gfx90a": ("int8", "float64"), "gfx1100": ("bfloat16",)}
    return types.get(arch, ())


@pytest.mark.dtypes(of=other_types)
def test_types(dtype, simulator, chosen, one_tile):
    one_tile()

    def body():
        for geometry, last in ((USUAL, True), (Geometry((2, 3, 5, 6), (20, 3, 2, 2)), False)):
            check(simulator, geometry, last, dtype)

    simulator.precompiled(body)
    assert any(isinstance(c, ConvTensorConfig) for c in chosen)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.dtypes(of=lambda arch: ("float32",) if arch == "sm_80" else ())
def test_tf32_where_it_is_asked_for(last, dtype, simulator, kernels, one_tile):
    one_tile()
    # Halves are no others in TF32.
    x, w, dy = (
        laid(np.random.default_rng(4), shape, "float16", last).astype(np.float32)
        for shape in ((2, 16, 8, 10), (24, 16, 3, 3), (2, 24, 8, 10))
    )
    options = {"padding": 1}

    def calls(**more):
        kernels.clear()
        with simulator.context(4):
            y, from_y = nnk.vjp(nnk.conv, x, w, **options, **more)
            found = y, *from_y(dy)
        return found, {kernel for kernel in kernels if kernel.startswith("Matmul")}

    def body():
        simulator.machine.plans.clear()
        assert "MatmulTensor" not in calls()[1]
        found, made = calls(precision="tf32")
        assert {"MatmulTensor"} <= made <= {"MatmulTensor", "MatmulSplits"}
        if not simulator.recording:
            assert_right(FORWARD, [x, w], options, found[0], 1)
            assert_right(BY_DATA, [dy, w], {**options, "x_shape": x.shape}, found[1], 1)
            assert_right(BY_WEIGHT, [dy, x], {**options, "weight_shape": w.shape}, found[2], 1)

    simulator.precompiled(body)


def test_precision_is_checked():
    x, w = np.ones((1, 1, 3), np.float32), np.ones((1, 1, 2), np.float32)
    for call in (nnk.conv, nnk.conv_transpose):
        with pytest.raises(ValueError, match="precision must be None"):
            call(x, w, precision="bf16")
    with pytest.raises(TypeError, match="precision must be None"):
        nnk.conv_backward_weight(w, x, (1, 1, 2), precision=19)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.dtypes(of=float16_on("sm_80", "gfx90a"))
def test_splits(last, dtype, simulator, chosen, one_tile):
    one_tile(splits=3)
    strided = Geometry((2, 32, 11, 11), (40, 32, 5, 5), {"padding": (1, (0, 2)), "stride": 2})

    def body():
        for geometry in (USUAL, strided):
            check(simulator, geometry, last, dtype, bias=True)

    simulator.precompiled(body)
    found = [c for c in chosen if isinstance(c, ConvTensorConfig)]
    assert {c.product.splits for c in found} == {3}
    assert {(c.pixels.removeprefix("pixels_are_"), c.scattered) for c in found} >= (
        {("rows", False), ("rows", True), ("terms", False)}
        if last
        else {("columns", True), ("terms", True)}
    )


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.dtypes(of=float16_on("sm_80", "gfx90a"))
def test_images_two_gibibytes_apart(last, dtype, simulator, chosen, one_tile):
    one_tile()
    generator = np.random.default_rng(3)
    shape, w_shape = (2, 8, 5, 6), (24, 8, 2, 3)
    x = images_far_apart((2, 5, 6, 8) if last else shape, np.dtype(dtype))
    x = np.moveaxis(x, -1, 1) if last else x
    x[...] = make_numbers(generator, shape, dtype)
    w, dy = (laid(generator, s, dtype, last) for s in (w_shape, (2, 24, 4, 4)))

    def body():
        with simulator.context(6):
            y = nnk.conv(x, w)
            dw = nnk.conv_backward_weight(dy, x, w_shape)
        if not simulator.recording:
            assert_right(FORWARD, [x, w, None], {}, y, 48)
            assert_right(BY_WEIGHT, [dy, x], {"weight_shape": w_shape}, dw, 32)

    simulator.precompiled(body)
    assert {c.product.index for c in chosen if isinstance(c, ConvTensorConfig)} == {"q"}


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.dtypes(of=float16_on("sm_80", "gfx90a"))
def test_what_is_no_number_stays_in_its_windows(last, dtype, simulator, one_tile):
    """What is read beyond an edge, or is there instead of terms that K lacks, is zero."""
    one_tile()
    generator = np.random.default_rng(4)
    x, w = (laid(generator, s, dtype, last) for s in ((1, 8, 7, 9), (24, 8, 3, 3)))
    x[0, 3, 2, 4], x[0, 7, 6, 8], w[5, 0, 0, 0] = np.nan, np.inf, np.nan
    results = []

    def body():
        results.clear()
        with simulator.context(2):
            results.append(nnk.conv(x, w, padding=1))

    simulator.precompiled(body)
    finite = np.isfinite(results[0])
    expected = np.ones((24, 7, 9), bool)
    expected[5] = False
    expected[:, 1:4, 3:6] = False
    expected[:, 5:, 7:] = False
    assert np.array_equal(finite[0], expected)


def test_no_terms(simulator, chosen):
    """A stride longer than the kernel leaves elements that no window sees."""
    generator = np.random.default_rng(5)
    w, dy = (laid(generator, s, "float16", True) for s in ((16, 16, 1, 1), (2, 16, 8, 9)))
    with simulator.context(2):
        dx = nnk.conv_backward_data(dy, w, (2, 16, 15, 17), stride=2)
    assert any(isinstance(c, ConvTensorConfig) for c in chosen)
    assert_right(BY_DATA, [dy, w], {"stride": 2, "x_shape": (2, 16, 15, 17)}, dx, 16)


# ---- which problems -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "dtype", "shapes", "taken"),
    [
        ("sm_80", "float16", ((8, 64, 28, 28), (64, 64, 3, 3)), (64, 64, 3)),
        ("sm_90", "float16", ((32, 256, 56, 56), (256, 256, 3, 3)), (128, 256, 5)),
        ("gfx90a", "float32", ((32, 256, 56, 56), (256, 256, 3, 3)), (128, 128, 2)),
        ("sm_80", "float16", ((8, 64, 56, 56), (64, 64, 6, 6)), (128, 64, 4)),
        ("sm_80", "float32", ((8, 64, 28, 28), (64, 64, 3, 3)), None),
        ("sm_80", "float16", ((8, 64, 28, 28), (3, 64, 3, 3)), None),  # few outputs
        ("sm_80", "float16", ((8, 64, 28, 28), (4, 64, 3, 3)), (128, 16, 3)),
    ],
)
def test_problems_that_matrix_cores_take(arch, dtype, shapes, taken, chosen):
    x, w = (channels_last(shape, numpy_dtype(dtype)) for shape in shapes)
    launches(nnk.conv, (x, w), {"padding": 1}, PROFILES[arch])
    (c,) = chosen
    found = isinstance(c, ConvTensorConfig) and c.product
    assert (found and (found.tile_m, found.tile_n, found.stages)) == (taken or False)


@pytest.mark.parametrize(
    ("channels", "side", "tile"),
    [(64, 56, (64, 128)), (128, 28, (128, 128)), (256, 14, (128, 128))],
)
def test_gradients_by_weights_fill_a_gpu(channels, side, tile, chosen):
    """Sums over many pixels are split until every processor has two blocks."""
    x = channels_last((32, channels, side, side), np.dtype(np.float16))
    shape, device = (channels, channels, 3, 3), PROFILES["sm_90"]
    first, _ = launches(nnk.conv_backward_weight, (x, x, shape), {"padding": 1}, device)
    (c,) = (c.product for c in chosen if isinstance(c, ConvTensorConfig))
    assert (c.tile_m, c.tile_n) == tile
    assert 0.9 < first.blocks / (2 * device.processors) <= 1


@pytest.mark.parametrize(
    ("channels", "side", "blocks"), [(256, 14, 132), (128, 28, 131), (64, 56, 784)]
)
def test_rows_of_pixels_fill_a_gpu(channels, side, blocks, chosen):
    x = channels_last((32, channels, side, side), np.dtype(np.float16))
    w = channels_last((channels, channels, 3, 3), x.dtype)
    (found,) = launches(nnk.conv, (x, w), {"padding": 1}, PROFILES["sm_90"])
    assert found.blocks == blocks


def check_forward(simulator, shapes, terms, **options):
    """A convolution of an image and weights with channels last, by plans that are new."""
    simulator.machine.plans.clear()
    generator = np.random.default_rng(7)
    x, w = (laid(generator, shape, "float16", True) for shape in shapes)
    used = []

    def body():
        with simulator.context(2):
            used.append(nnk.conv(x, w, **options))

    simulator.precompiled(body)
    assert_right(FORWARD, [x, w, None], options, used[-1], terms)
    simulator.machine.plans.clear()


def check_more_tiles(module, name, tile, simulator, monkeypatch):
    """Images of 13 x 17 leave rows of every tile without pixels."""
    monkeypatch.setattr(module, name, (tile,))
    monkeypatch.setattr(tensor, "_cycles", lambda p, d, a, t, *_: 0.0 if t is tile else 1.0)
    check_forward(simulator, ((1, 16, 13, 17), (136, 16, 3, 3)), 144, padding=1)


@pytest.mark.parametrize("tile", conv_tensor._MORE_TILES)
@pytest.mark.dtypes(of=float16_on("sm_80"))
def test_tiles_of_other_heights(tile, dtype, simulator, monkeypatch, chosen):
    check_more_tiles(conv_tensor, "_MORE_TILES", tile, simulator, monkeypatch)
    assert {c.product.tile_m for c in chosen} == {tile.m}


@pytest.mark.warpgroups
@pytest.mark.dtypes(of=float16_on("sm_90a"))
@pytest.mark.parametrize(
    "tile",
    [*matmul_warpgroup.MORE_TILES, *(t for t in matmul_warpgroup.TILES if t.copiers and t.m == 64)],
)
def test_three_warpgroups_and_one_that_copies(tile, dtype, simulator, monkeypatch, chosen):
    check_more_tiles(matmul_warpgroup, "MORE_TILES", tile, simulator, monkeypatch)
    assert {(c.product.tile_m, c.product.copiers) for c in chosen} == {(tile.m, tile.copiers)}


@pytest.mark.warpgroups
@pytest.mark.dtypes(of=float16_on("sm_90a"))
def test_many_pixels_of_few_channels(dtype, simulator, monkeypatch, chosen):
    """512 threads, of which a thread gathers elements of one of 256 pixels."""
    tile = next(t for t in matmul_warpgroup.TILES if (t.m, t.n) == (128, 64))
    monkeypatch.setattr(tensor, "_tiles", lambda problem, device, atom: [tile])
    monkeypatch.setattr(matmul_warpgroup, "_LEAST_TURNS", 0)
    check_forward(simulator, ((2, 3, 27, 31), (65, 3, 5, 5)), 75, stride=2, padding=2)
    assert {(c.product.tile_m, c.product.threads) for c in chosen} == {(256, 512)}


def test_three_warpgroups_fill_a_gpu():
    """Of three, as 25088 pixels are 131 tiles of 192; with splits, or not chunks, it is another."""
    sizes = {(128, 28): 192, (256, 14): 128, (64, 56): 128}
    for (channels, side), rows in sizes.items():
        x = channels_last((32, channels, side, side), np.dtype(np.float16))
        w = channels_last((channels, channels, 3, 3), x.dtype)
        (found,) = launches(nnk.conv, (x, w), {"padding": 1}, PROFILES["sm_90a"])
        assert found.blocks == -(-32 * side * side // rows) * -(-channels // 128)
