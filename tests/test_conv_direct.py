"""Convolutions with few channels in a group, which have kernels of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from comparing import assert_same_bits
from convolving import BY_DATA, BY_WEIGHT, FORWARD, TRANSPOSE, Geometry, assert_right, operands
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples, make_numbers
from threads import same_on_any_threads

import nnkernels as nnk
from nnkernels.config import conv_direct as config
from nnkernels.config.conv_direct import DirectProblem
from nnkernels.config.device import PROFILES, Device
from nnkernels.dispatch import machines
from nnkernels.errors import ShapeError

# The kernels differ by their types, and by what the lanes are.
DTYPES = ("float32", "float32", "float32", "float64", "float16", "complex64", "int8")
CPU = Device("cpu", "host", 1, 2, 512 * 1024, 64, 8 << 20)


@st.composite
def geometries(draw):
    """Few channels in each of some groups: any rank, stride, dilation and padding."""
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))
    groups = draw(st.sampled_from([1, 3, 7, 16, 20, 40]))
    channels, rows = draw(st.sampled_from([(1, 1), (1, 1), (1, 1), (1, 2), (2, 1), (3, 4), (1, 8)]))
    most = {1: 60, 2: 20, 3: 6}[rank]
    kernel = [draw(st.sampled_from([1, 2, 3, 3, 4, 5])) for _ in range(rank)]
    stride = [draw(st.sampled_from([1, 1, 2, 3])) for _ in range(rank)]
    dilation = [draw(st.sampled_from([1, 1, 1, 2])) for _ in range(rank)]
    spatial = [draw(st.integers(1, most)) for _ in range(rank)]
    pads = st.tuples(st.integers(0, 4), st.integers(0, 4))
    padding = draw(
        st.one_of(
            st.sampled_from(["same", "same_lower"]),
            st.lists(pads, min_size=rank, max_size=rank).map(tuple),
        )
    )
    options = {
        "stride": tuple(stride),
        "padding": padding,
        "dilation": tuple(dilation),
        "groups": groups,
        "flip": draw(st.booleans()),
    }
    images = draw(st.sampled_from([0, 1, 1, 2, 3]))
    x, weight = (images, channels * groups, *spatial), (rows * groups, channels, *kernel)
    found = Geometry(x, weight, options)
    try:
        assert found.y
    except ShapeError:  # the window does not fit
        options["padding"] = "same"
    return found


@st.composite
def cases(draw, backend, dtypes):
    geometry, dtype = draw(geometries()), draw(st.sampled_from(dtypes))
    last = draw(st.booleans())
    x, weight, dy = (
        draw(operands(shape, dtype, backend, last))
        for shape in (geometry.x, geometry.weight, geometry.y)
    )
    bias = draw(operands((geometry.weight[0],), dtype, backend, last))
    return geometry, x, weight, dy, bias if draw(st.booleans()) else None


def test_any_geometry(backend, kernels):
    @examples(0.7)
    @given(cases(backend, DTYPES), st.integers(0, 99), st.booleans())
    def right(case, seed, activated):
        geometry, x, weight, dy, bias = case
        options = geometry.options
        more = {"epilogue": "relu"} if activated and x.dtype.kind == "f" else {}
        x, weight, dy = (backend.array(a) for a in (x, weight, dy))
        bias = None if bias is None else backend.array(bias)
        with backend.context(seed):
            y = nnk.conv(x, weight, bias, **options, **more)
            dx = nnk.conv_backward_data(dy, weight, geometry.x, **options)
            dw = nnk.conv_backward_weight(dy, x, geometry.weight, **options)
        if backend.recording:
            return
        arrays = [backend.numpy(a) for a in (x, weight, dy)]
        given_bias = None if bias is None else backend.numpy(bias)
        y, dx, dw = (backend.numpy(a) for a in (y, dx, dw))
        assert_right(FORWARD, [*arrays[:2], given_bias], options | more, y, geometry.terms)
        taps = geometry.terms // geometry.weight[1]
        outputs = geometry.weight[0] // options["groups"] * taps
        assert_right(
            BY_DATA, [arrays[2], arrays[1]], options | {"x_shape": geometry.x}, dx, outputs
        )
        own = options | {"weight_shape": geometry.weight}
        pixels = max(int(np.prod(geometry.y)) // geometry.weight[0], 1)
        assert_right(BY_WEIGHT, [arrays[2], arrays[0]], own, dw, pixels)

    backend.precompiled(right)
    # Of a single tap, they are products of matrices.
    assert {"ConvDirect", "ConvDirectWeight"} <= set(kernels)
    direct = [name for name in kernels if name in ("ConvDirect", "ConvDirectWeight")]
    assert len(direct) > len(kernels) / 2


@pytest.mark.in_turn
def test_transposed(backend):
    """The same kernel, with an image of fewer elements than the result."""
    x = make_numbers(np.random.default_rng(1), (2, 6, 9, 5), "float32")
    weight = make_numbers(np.random.default_rng(2), (6, 1, 3, 4), "float32")
    options = {"stride": (2, 3), "padding": ((1, 0), (0, 2)), "groups": 6}
    with backend.context():
        y = nnk.conv_transpose(backend.array(x), backend.array(weight), **options)
    assert_right(TRANSPOSE, [x, weight, None], options, backend.numpy(y), weight[0].size)


@pytest.mark.parametrize("last", [False, True])
def test_long_sums_are_split(cpu, kernels, last):
    """Of few groups, whose gradients several blocks sum; in the same order on any threads."""
    x = make_numbers(np.random.default_rng(1), (1, 2, 96, 100), "float32")
    if last:
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    dy = make_numbers(np.random.default_rng(2), (1, 2, 96, 100), "float32")
    options = {"padding": "same", "groups": 2}

    def gradient():
        with cpu.context():
            return nnk.conv_backward_weight(dy, x, (2, 1, 3, 5), **options)

    dw = gradient()
    assert kernels == ["MatmulSplits", "ConvDirectWeight"]
    own = options | {"weight_shape": (2, 1, 3, 5)}
    assert_right(BY_WEIGHT, [dy, x], own, dw, x[0, 0].size)
    same_on_any_threads(gradient)


@pytest.mark.parametrize(
    ("channels", "image", "slabs"),
    [(40, (2, 9, 7), 3), (500, (1, 5, 4), 16), (680, (9, 40, 35), 2)],
)
def test_vectors_of_a_slab_take_turns(channels, image, slabs, cpu, monkeypatch):
    """The last one has a few lanes, and the last slab fewer vectors, or all."""
    images, *spatial = image
    x, dy = (
        np.moveaxis(make_numbers(np.random.default_rng(i), (*image, channels), "float32"), -1, 1)
        for i in range(2)
    )
    options = {"padding": 1, "groups": channels}
    found, configure = [], config.configure_weight

    def watched(problem, device):
        chosen = configure(problem, replace(device, vector_bytes=64))
        found.append((chosen.slab, chosen.slabs(problem)))
        return chosen

    monkeypatch.setattr(config, "configure_weight", watched)
    monkeypatch.setattr(machines.for_numpy(), "plans", {})
    with cpu.context():
        dw = nnk.conv_backward_weight(dy, x, (channels, 1, 3, 3), **options)
    assert_right(
        BY_WEIGHT, [dy, x], options | {"weight_shape": dw.shape}, dw, images * int(np.prod(spatial))
    )
    ((slab, count),) = found
    assert count == slabs
    vectors = -(-channels // 16)
    assert slab == -(-vectors // slabs)


@pytest.mark.parametrize("last", [False, True])
def test_results_do_not_depend_on_threads(cpu, last):
    x = make_numbers(np.random.default_rng(1), (3, 40, 33, 29), "float32")
    if last:
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    weight = make_numbers(np.random.default_rng(2), (40, 1, 3, 3), "float32")

    def result():
        with cpu.context():
            return nnk.conv(x, weight, padding=1, groups=40)

    first = result()
    same_on_any_threads(result)
    assert_same_bits(result(), first, "a second run")


# ---- what is chosen ----------------------------------------------------------------------------

# Depthwise 3 x 3, of images of 32 x 14 x 14 float32 numbers.
PLANES = DirectProblem(
    images=1,
    groups=32,
    channels=1,
    rows=1,
    pixels=(1, 14, 14),
    kernel=(1, 3, 3),
    steps=(1, 1, 1),
    taps=(1, 1, 1),
    image_steps=(4, 784),
    pixel_steps=(4, 784),
    itemsizes=(4, 4),
    compute_itemsize=4,
    is_complex=False,
    alignments=(16, 16),
    reach=25088,
)
CHANNELS_LAST = replace(PLANES, image_steps=(128, 4), pixel_steps=(128, 4))


def test_which_convolutions_are_direct():
    assert config.is_direct(1, 1, 9)
    assert config.is_direct(1, 8, 9)
    assert config.is_direct(8, 1, 72)
    assert config.is_direct(4, 4, 36)
    assert not config.is_direct(4, 5, 36)
    assert not config.is_direct(4, 4, 4)
    assert not config.is_direct(1, 4, 1)
    assert config.is_direct(1, 1, 1)
    assert not config.is_direct(9, 1, 81)
    assert not config.is_direct(1, 9, 9)
    assert not config.is_direct(1, 1, 33 * 33)


def test_lanes_are_neighbours_in_memory():
    for device in (CPU, PROFILES["sm_90"], PROFILES["gfx90a"]):
        assert not config.configure(PLANES, device).lanes.along_groups
        assert config.configure(CHANNELS_LAST, device).lanes.along_groups
    # Neighbouring pixels are 8 bytes apart, channels 784.
    strided = replace(PLANES, steps=(1, 2, 2), image_steps=(8, 784))
    assert not config.configure(strided, CPU).lanes.along_groups
    assert not config.configure(strided, CPU).lanes.unit_image
    # A single pixel is no vector.
    assert config.configure(replace(PLANES, pixels=(1, 1, 1)), CPU).lanes.along_groups


def test_vectors():
    assert config.configure(PLANES, CPU).lanes.vector == 16
    assert config.configure(replace(PLANES, pixels=(1, 7, 7)), CPU).lanes.vector == 8
    assert config.configure(replace(PLANES, compute_itemsize=8), CPU).lanes.vector == 8
    assert config.configure(replace(PLANES, is_complex=True), CPU).lanes.vector == 1
    gpu = PROFILES["sm_90"]
    assert config.configure(PLANES, gpu).lanes.vector == 1
    assert config.configure(CHANNELS_LAST, gpu).lanes.vector == 4
    assert config.configure(replace(CHANNELS_LAST, alignments=(8, 16)), gpu).lanes.vector == 2
    assert config.configure(replace(CHANNELS_LAST, groups=6), gpu).lanes.vector == 2
    halves = replace(CHANNELS_LAST, itemsizes=(2, 2), image_steps=(64, 2), pixel_steps=(64, 2))
    assert config.configure(halves, gpu).lanes.vector == 8
    scattered = replace(CHANNELS_LAST, pixel_steps=(128, 8))
    assert config.configure(scattered, gpu).lanes.vector == 1


def test_registers_and_taps_together():
    narrow = replace(CPU, vector_bytes=32)
    assert config.configure(PLANES, CPU).registers == 14
    assert config.configure(PLANES, narrow).registers == 7
    assert config.configure(PLANES, PROFILES["sm_90"]).registers == 4
    assert config.configure(replace(PLANES, pixels=(1, 1, 14)), CPU).registers == 1
    assert config.configure(PLANES, CPU).step == 1
    assert config.configure(replace(PLANES, steps=(1, 2, 1)), CPU).step == 2
    assert config.configure(replace(PLANES, steps=(1, 3, 1)), CPU).step == 0
    assert config.configure(replace(PLANES, taps=(1, 2, 1)), CPU).step == 0
    assert config.configure(replace(PLANES, kernel=(1, 2, 3)), CPU).step == 0


def test_slabs_and_blocks():
    many = replace(CHANNELS_LAST, groups=4096)
    chosen = config.configure(many, CPU)
    assert chosen.slab > 1
    assert chosen.slabs(many) > 1
    assert chosen.shared_bytes(many) <= 32 * 1024
    gpu = PROFILES["sm_90"]
    assert config.configure(replace(PLANES, pixels=(1, 4, 4)), gpu).threads == 64
    chosen = config.configure(PLANES, gpu)
    assert chosen.items_of_block == chosen.threads
    chosen = config.configure(replace(PLANES, images=4096), gpu)
    assert chosen.items_of_block == 2 * chosen.threads


def test_slabs_of_gradients_by_weights():
    """Of a CPU: as many vectors as leave blocks enough, with or without splits."""
    wide = replace(CHANNELS_LAST, groups=384)
    few, many = (config.configure_weight(replace(wide, images=n), CPU) for n in (1, 8))
    assert (few.slab, few.splits) == (2, 1)
    assert (many.slab, many.splits) == (12, 8)
    wider = replace(wide, groups=4096, images=512)
    chosen = config.configure_weight(wider, CPU)
    assert chosen.shared_bytes(wider) <= 16 * 1024
    assert chosen.slabs(wider) > 1
    assert config.configure_weight(PLANES, CPU).shared_bytes(PLANES) == 0


def test_large_results_go_past_the_caches():
    assert not config.configure(PLANES, CPU).streaming
    large = replace(PLANES, images=512)
    assert config.configure(large, CPU).streaming
    assert not config.configure(large, PROFILES["sm_90"]).streaming
    assert not config.configure(replace(large, pixel_steps=(8, 1568)), CPU).streaming


def test_splits():
    assert config.configure_weight(PLANES, CPU).splits == 1
    few = replace(PLANES, groups=2, pixels=(1, 512, 512))
    chosen = config.configure_weight(few, CPU)
    assert 1 < chosen.splits <= 8
    # Nothing depends on the number of threads, nor are sums too long.
    assert config.configure_weight(few, replace(CPU, processors=64)) == chosen
    long = replace(CHANNELS_LAST, images=64, pixels=(1, 112, 112))
    chosen = config.configure_weight(long, CPU)
    assert chosen.items_of_split * chosen.run <= 2 * 16384
    gpu = PROFILES["sm_90"]
    assert config.configure_weight(PLANES, gpu).splits == 1
    assert config.configure_weight(few, gpu).splits > 8
    assert config.configure_weight(replace(PLANES, kernel=(1, 5, 7)), CPU).tile == (3, 3)
    assert config.configure_weight(replace(PLANES, kernel=(1, 1, 4)), CPU).tile == (1, 2)
