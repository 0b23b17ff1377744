"""Convolutions through Winograd's transforms, which are a regime of the CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from comparing import assert_same_bits
from convolving import BY_DATA, FORWARD, operands
from hypothesis import given
from hypothesis import strategies as st
from layouts import channels_last
from strategies import examples
from threads import same_on_any_threads

import nnkernels as nnk
from nnkernels.config import conv_winograd as config
from nnkernels.config.conv_winograd import WinogradProblem
from nnkernels.config.device import PROFILES, Device
from nnkernels.dispatch import machines

EPSILON = {"float32": 2.0**-24, "float64": 2.0**-53}


@pytest.fixture(scope="module", autouse=True)
def _on_the_cpu():
    if machines.for_numpy() is machines.REFERENCE:
        pytest.skip("there is no C++ compiler")


# ---- what is right ------------------------------------------------------------------------------

P, Q = 0.625, 1.5
POINTS = (0.0, P, -P, Q, -Q)


def transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The matrices for inputs (6x6), weights (6x3) and sums (4x6), from the points.

    At infinity a polynomial has its highest coefficient; `inputs` is what makes the three give
    the four sums of any inputs and weights.
    """
    others = [[x - y for y in POINTS if y != x] for x in POINTS]
    weights = np.array(
        [[x**i / np.prod(o) for i in range(3)] for x, o in zip(POINTS, others, strict=True)]
        + [[0, 0, 1]]
    )
    sums = np.array([[*(x**i for x in POINTS), float(i == 3)] for i in range(4)])
    inputs = [np.poly([y for y in POINTS if y != x])[::-1] for x in POINTS]
    inputs = [[*row, 0.0] for row in inputs] + [[*np.poly(POINTS)[::-1]]]
    return np.array(inputs), weights, sums


def bound(x: np.ndarray, weight: np.ndarray, padding) -> np.ndarray:
    """How far a result may be off, at most: a number for each of its elements.

    With k roundings on the way from operands to a result, its error is at most k epsilon of what
    it is with absolute values in place of operands and matrices (N. Higham, "Accuracy and stability
    of numerical algorithms", section 3.5). Along each axis there are 2 for inputs, 4 for weights
    and 3 for sums, and between them the sum of C products; then 2 of the epilogue.
    """
    k = x.shape[1] + 2 * (2 + 4 + 3) + 2
    inputs, weights, sums = (np.abs(m) for m in transforms())
    pads = [[0, 0], [0, 0], *padding]
    inside = [slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(pads, x.shape, strict=True)]
    padded = np.pad(np.abs(x[tuple(inside)]), [[max(a, 0), max(b, 0)] for a, b in pads])
    rows, columns = padded.shape[2] - 2, padded.shape[3] - 2
    padded = np.pad(padded.astype(float), [[0, 0], [0, 0], [0, -rows % 4], [0, -columns % 4]])
    u = np.einsum("ia,ocab,jb->ocij", weights, np.abs(weight.astype(float)), weights)
    result = np.zeros((x.shape[0], weight.shape[0], rows + -rows % 4, columns + -columns % 4))
    for i in range(0, rows, 4):
        for j in range(0, columns, 4):
            v = np.einsum("ia,ncab,jb->ncij", inputs, padded[:, :, i : i + 6, j : j + 6], inputs)
            m = np.einsum("ocij,ncij->noij", u, v)
            result[:, :, i : i + 4, j : j + 4] = np.einsum("ia,noab,jb->noij", sums, m, sums)
    dtype = x.dtype.name
    return result[:, :, :rows, :columns] * k * EPSILON[dtype] + np.finfo(dtype).tiny


def slices(x: np.ndarray, weight: np.ndarray, depth) -> tuple[np.ndarray, np.ndarray]:
    """The same sums in two dimensions: an image for each slice, a channel for each tap of depth.

    Parameters
    ----------
    depth : tuple
        Windows along the depth, where they begin, and elements from one to the next and from tap
        to tap.
    """
    count, start, step, tap = depth
    found = np.zeros((len(x), count, weight.shape[2], x.shape[1], *x.shape[3:]), x.dtype)
    for i in range(count):
        for t in range(weight.shape[2]):
            at = i * step + t * tap + start
            if 0 <= at < x.shape[2]:
                found[:, i, t] = x[:, :, at]
    weight = np.moveaxis(weight, 2, 1)
    return (
        found.reshape(-1, weight.shape[1] * x.shape[1], *x.shape[3:]),
        weight.reshape(len(weight), -1, *weight.shape[3:]),
    )


def bound_of_slices(x: np.ndarray, weight: np.ndarray, padding, depth) -> np.ndarray:
    """The bound for three axes."""
    found = bound(*slices(x, weight, depth), padding)
    found = found.reshape(len(x), depth[0], *found.shape[1:])
    return np.moveaxis(found, 1, 2)


def test_transforms_give_sums():
    inputs, weights, sums = transforms()
    rng = np.random.default_rng(0)
    d, g = rng.standard_normal(6), rng.standard_normal(3)
    np.testing.assert_allclose(sums @ ((weights @ g) * (inputs @ d)), np.correlate(d, g), 1e-12)


def wide(arrays):
    return [None if a is None else a.astype(np.float64) for a in arrays]


def close(result, expected, allowed) -> None:
    excess = np.abs(result - expected) - allowed
    assert result.shape == expected.shape
    assert np.all(excess <= 0), f"errors are {np.max(excess)} more than {np.max(allowed)}"


@st.composite
def paddings(draw):
    kind = draw(st.integers(0, 2))
    if kind == 0:
        return ((1, 1), (1, 1))
    sides = st.integers(0, 2 if kind == 1 else 9)
    return tuple((draw(sides), draw(sides)) for _ in range(2))


@st.composite
def cases(draw, backend):
    padding, dtype = draw(paddings()), draw(st.sampled_from(list(EPSILON)))
    images, channels = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 7, 16, 19]))
    outputs = draw(st.sampled_from([1, 2, 6, 13, 30, 70]))
    spatial = [draw(st.integers(max(3 - sum(p), 1), 23)) for p in padding]
    last = draw(st.booleans())
    x = draw(operands((images, channels, *spatial), dtype, backend, last))
    weight = draw(operands((outputs, channels, 3, 3), dtype, backend, last))
    bias = draw(operands((outputs,), dtype, backend, False))
    return padding, x, weight, bias if draw(st.booleans()) else None


def test_any_geometry(backend):
    if not backend.is_cpu:
        pytest.skip("a regime of the CPU")

    @examples(0.5)
    @given(cases(backend), st.booleans())
    def right(case, flip):
        padding, x, weight, bias = case
        epilogue = None if bias is None else "relu"
        options = {"padding": padding, "flip": flip}
        y = nnk.conv(x, weight, bias, epilogue=epilogue, algorithm="winograd", **options)
        dx = nnk.conv_backward_data(y, weight, x.shape, algorithm="winograd", **options)
        if backend.recording:
            return
        expected = FORWARD.reference(*wide((x, weight, bias)), epilogue=epilogue, **options)
        flipped = weight[:, :, ::-1, ::-1] if flip else weight
        allowed = bound(x, flipped, padding)
        if bias is not None:
            allowed = allowed + 2 * EPSILON[x.dtype.name] * np.abs(bias.astype(float)).reshape(
                -1, 1, 1
            )
        close(y, expected, allowed)
        # The gradient is a convolution with the reversed taps of transposed weights.
        expected = BY_DATA.reference(*wide((y, weight)), x_shape=x.shape, **options)
        back = flipped.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
        close(dx, expected, bound(y, back, [[2 - side for side in sides] for sides in padding]))

    backend.precompiled(right)


@st.composite
def deep_cases(draw, backend):
    """Some taps along a depth, of any stride and dilation."""
    dtype, last = draw(st.sampled_from(list(EPSILON))), draw(st.booleans())
    taps, stride, dilation = (draw(st.sampled_from([1, 2, 3])) for _ in range(3))
    low, high = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    channels, outputs = draw(st.sampled_from([1, 5, 16, 19])), draw(st.sampled_from([1, 7, 33]))
    depth = draw(st.integers(max((taps - 1) * dilation + 1 - low - high, 1), 7))
    x = draw(operands((draw(st.integers(1, 2)), channels, depth, 9, 10), dtype, backend, last))
    weight = draw(operands((outputs, channels, taps, 3, 3), dtype, backend, last))
    return (stride, dilation, low, high), x, weight


def test_any_depth(backend):
    if not backend.is_cpu:
        pytest.skip("a regime of the CPU")

    @examples(0.3)
    @given(deep_cases(backend))
    def right(case):
        (stride, dilation, low, high), x, weight = case
        options = {
            "padding": ((low, high), (1, 1), (1, 1)),
            "stride": (stride, 1, 1),
            "dilation": (dilation, 1, 1),
        }
        y = nnk.conv(x, weight, algorithm="winograd", **options)
        dx = nnk.conv_backward_data(y, weight, x.shape, algorithm="winograd", **options)
        if backend.recording:
            return
        sides = [(1, 1), (1, 1)]
        depth = (y.shape[2], -low, stride, dilation)
        expected = FORWARD.reference(*wide((x, weight, None)), **options)
        close(y, expected, bound_of_slices(x, weight, sides, depth))
        # The gradient is a convolution of what is spread out with the reversed taps.
        spread = np.zeros((*y.shape[:2], stride * (y.shape[2] - 1) + 1, *y.shape[3:]), y.dtype)
        spread[:, :, ::stride] = y
        back = weight.swapaxes(0, 1)[:, :, ::-1, ::-1, ::-1]
        depth = (x.shape[2], low - (weight.shape[2] - 1) * dilation, 1, dilation)
        expected = BY_DATA.reference(*wide((y, weight)), x_shape=x.shape, **options)
        close(dx, expected, bound_of_slices(spread, back, sides, depth))

    backend.precompiled(right)


@pytest.mark.parametrize(("outputs", "dtype"), [(14, "float32"), (70, "float32"), (14, "float64")])
def test_any_memory_order_gives_the_same_bits(backend, outputs, dtype):
    """Lanes are tiles, or channels; rows of products are outputs, or tiles."""
    if not backend.is_cpu:
        pytest.skip("a regime of the CPU")
    rng = np.random.default_rng(1)
    x, weight, bias = (
        rng.standard_normal(s).astype(dtype)
        for s in ((2, 19, 21, 22), (outputs, 19, 3, 3), outputs)
    )
    options = {"padding": 1, "epilogue": "relu", "algorithm": "winograd"}
    y = nnk.conv(x, weight, bias, **options)
    # Of channels that are adjacent, beyond which other ones lie, and in reverse.
    wide = channels_last(np.concatenate([x, x], axis=1))[:, :19]
    back = channels_last(x[:, :, ::-1, ::-1])[:, :, ::-1, ::-1]
    for view in (x[:, :, ::-1, ::-1].copy()[:, :, ::-1, ::-1], channels_last(x), wide, back):
        for w in (weight, channels_last(weight)):
            again = nnk.conv(view, w, bias, **options)
            assert_same_bits(np.ascontiguousarray(again), y, f"strides {view.strides}")


def test_any_memory_order_of_a_depth_gives_the_same_bits():
    """Terms are in order of taps along it and then channels, 19 of which end within a register."""
    rng = np.random.default_rng(8)
    x, weight = (rng.standard_normal(s).astype("f") for s in ((1, 19, 5, 9, 13), (20, 19, 3, 3, 3)))
    options = {"padding": (2, 1, 1), "stride": (2, 1, 1), "algorithm": "winograd"}
    y = nnk.conv(x, weight, **options)
    again = nnk.conv(channels_last(x), weight, **options)
    assert_same_bits(np.ascontiguousarray(again), y, "channels last")


@pytest.mark.parametrize("layout", [np.ascontiguousarray, channels_last])
def test_some_terms_and_outputs_at_once_give_the_same_bits(layout, monkeypatch):
    """Terms end within the channels of a tap; outputs are several blocks, and several launches."""
    rng = np.random.default_rng(9)
    shapes = ((1, 19, 5, 9, 13), (140, 19, 3, 3, 3), (140,))
    x, weight, bias = (rng.standard_normal(s).astype("f") for s in shapes)
    x, options = layout(x), {"padding": (2, 1, 1), "epilogue": "relu", "algorithm": "winograd"}
    plans, seen, configure = {}, [], config.configure
    monkeypatch.setattr(machines.for_numpy(), "plans", plans)
    monkeypatch.setattr(config, "configure", lambda *a: seen.append(configure(*a)) or seen[-1])

    def result():
        plans.clear()
        y = nnk.conv(x, weight, bias, **options)
        (plan,) = plans.values()
        return np.ascontiguousarray(y), len(plan.launches), seen[-1]

    y, launches, chosen = result()
    assert (launches, chosen.terms_at_once) == (2, 57)
    for of_weights in (16 << 20, 600_000):
        monkeypatch.setattr(
            config, "_SCRATCH_BYTES", 250_000 if layout is not channels_last else 400_000
        )
        monkeypatch.setattr(config, "_WEIGHT_BYTES", of_weights)
        again, launches, chosen = result()
        assert (launches > 2) == (of_weights == 600_000)
        assert chosen.terms_at_once < 57
        assert chosen.tile_m < 140
        assert_same_bits(again, y, f"{chosen.terms_at_once} terms, {launches} launches")


def test_results_lie_as_the_image_does():
    rng = np.random.default_rng(6)
    x, weight = (rng.standard_normal(s).astype("f") for s in ((2, 16, 9, 10), (20, 16, 3, 3)))
    y = nnk.conv(channels_last(x), weight, algorithm="winograd")
    assert y.strides == channels_last(y).strides
    dx = nnk.conv_backward_data(y, weight, x.shape, algorithm="winograd")
    assert dx.strides == channels_last(x).strides
    expected = nnk.conv_backward_data(
        np.ascontiguousarray(y), weight, x.shape, algorithm="winograd"
    )
    assert_same_bits(np.ascontiguousarray(dx), expected, "channels last")


def test_results_of_any_strides():
    """Channels are adjacent in the image, which has one row, but not in the result."""
    rng = np.random.default_rng(7)
    x, weight = (rng.standard_normal(s).astype("f") for s in ((1, 17, 1, 9), (20, 17, 3, 3)))
    # A row that is repeated: its step 0 makes the memory order another one.
    x = np.lib.stride_tricks.as_strided(channels_last(x), (1, 17, 6, 9), (0, 4, 0, 17 * 4))
    y = nnk.conv(x, weight, algorithm="winograd")
    assert y.strides[1] > y.itemsize
    again = nnk.conv(np.ascontiguousarray(x), weight, algorithm="winograd")
    assert_same_bits(np.ascontiguousarray(y), again, f"strides {y.strides}")


@pytest.mark.parametrize("layout", [np.ascontiguousarray, channels_last])
def test_bits_do_not_depend_on_threads(layout):
    rng = np.random.default_rng(2)
    # With one thread the blocks are others than with two, and so are the registers.
    shapes = ((3, 24, 30, 25), (26, 24, 3, 3))
    x, weight = (layout(rng.standard_normal(s).astype("f")) for s in shapes)
    same_on_any_threads(lambda: nnk.conv(x, weight, padding=1, algorithm="winograd"))


def test_gradients_take_the_same_algorithm():
    rng = np.random.default_rng(3)
    x, weight = (rng.standard_normal(s).astype("f") for s in ((1, 20, 24, 24), (20, 20, 3, 3)))
    results = {}
    for algorithm in ("direct", "winograd"):
        y, pullback = nnk.vjp(nnk.conv, x, weight, padding=1, algorithm=algorithm)
        dx = pullback(y)[0]
        options = {"padding": 1, "algorithm": algorithm}
        assert_same_bits(dx, nnk.conv_backward_data(y, weight, x.shape, **options), algorithm)
        results[algorithm] = nnk.conv_backward_data(x, weight, x.shape, **options)
    assert np.any(results["direct"] != results["winograd"])
    transposed = nnk.conv_transpose(x, weight, padding=1, algorithm="winograd")
    assert_same_bits(transposed, results["winograd"], "transposed")


# ---- which one is taken -------------------------------------------------------------------------

CPU = Device("cpu", "host", 1, 2, 512 * 1024, 64, 8 << 20)
PROBLEM = WinogradProblem(
    elements=frozenset({"float32"}),
    groups=1,
    channels=64,
    outputs=64,
    images=8,
    taps=(1, 3, 3),
    steps=(1, 1, 1),
    spacings=(1, 1, 1),
    pixels=(1, 56, 56),
    channels_fast=False,
)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"elements": frozenset({"float32", "float64"})}, "float32, float64"),
        ({"elements": frozenset({"float16"})}, "not float16"),
        ({"elements": frozenset({"float32", "float16"})}, "float16, float32"),
        ({"taps": (1, 3, 2)}, "3x3"),
        ({"taps": (3, 3, 1)}, "3x3"),
        ({"taps": (1, 1, 3)}, "3x3"),
        ({"steps": (1, 1, 2)}, "stride"),
        ({"spacings": (1, 2, 1)}, "dilation"),
        ({"groups": 2}, "one group, not 2"),
        ({"channels": 0}, "no channels"),
    ],
)
def test_what_cannot_be(change, reason):
    against = config.reason_against(replace(PROBLEM, **change), CPU)
    assert against is not None
    assert reason in against


def test_what_can_be():
    for change in (
        {},
        {"elements": frozenset({"float64"})},
        {"taps": (3, 3, 3), "steps": (2, 1, 1), "spacings": (3, 1, 1), "pixels": (9, 56, 56)},
    ):
        assert config.reason_against(replace(PROBLEM, **change), CPU) is None
    for device in PROFILES.values():
        assert "GPU" in config.reason_against(PROBLEM, device)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"channels_fast": True}, True),
        # Few channels: the transforms take as long as the products saved.
        ({"channels": 3, "outputs": 64}, False),
        ({"channels": 16, "outputs": 16}, True),
        ({"channels": 8, "outputs": 8}, False),
        # They take less where lanes are channels, which fill a register.
        ({"channels": 16, "outputs": 16, "channels_fast": True}, True),
        ({"channels": 3, "outputs": 16, "channels_fast": True}, False),
        # A third axis is more channels, and more tiles.
        ({"channels": 16, "outputs": 16, "taps": (3, 3, 3), "pixels": (8, 56, 56)}, True),
        ({"elements": frozenset({"float64"})}, True),
        # Few tiles: so do those of the weights.
        ({"images": 1, "channels": 512, "outputs": 512, "pixels": (1, 7, 7)}, False),
    ],
)
def test_what_pays(change, expected):
    # By any number of threads, since bits depend on it.
    for threads in (1, 2, 64):
        device = replace(CPU, processors=threads)
        assert config.pays(replace(PROBLEM, **change), device) is expected


def test_blocks():
    many = config.configure(replace(PROBLEM, pixels=(1, 224, 224)), CPU)
    assert (many.vector, many.micro_m, many.tile_n) == (64, 6, 64)
    assert many.blocks(PROBLEM)[1] == 1
    # One block of 64 tiles would leave a thread idle: halves of the tiles, or of the outputs.
    few = replace(PROBLEM, images=1, pixels=(1, 28, 28))
    assert np.prod(config.configure(few, CPU).blocks(few)) % 2 == 0
    tall = replace(PROBLEM, images=1, channels=256, outputs=256, pixels=(1, 32, 32))
    assert config.configure(tall, CPU).blocks(tall) == (1, 2)
    # Half of the tiles take twice as many rows.
    small = config.configure(replace(PROBLEM, images=1, pixels=(1, 20, 40)), CPU)
    assert (small.vector, small.micro_m, small.tile_n) == (32, 12, 32)
    narrow = config.configure(PROBLEM, replace(CPU, vector_bytes=32))
    assert (narrow.lanes, narrow.vector) == (8, 16)
    assert narrow.tile_n in (32, 64)


def test_blocks_of_float64_have_half_as_many_tiles():
    large = replace(PROBLEM, channels=32, pixels=(1, 224, 224))
    for last in (False, True):
        few, many = (
            config.configure(replace(large, elements=frozenset({e}), channels_fast=last), CPU)
            for e in ("float64", "float32")
        )
        assert (few.lanes, few.vector) == (8, 32)
        assert few.tile_n == many.tile_n // 2
        assert 0.8 < few.shared_bytes(8) / many.shared_bytes(4) < 1.6


def test_blocks_of_channels():
    last = replace(PROBLEM, channels_fast=True)
    many = config.configure(last, CPU)
    assert (many.lanes_are, many.vector, many.micro_m) == (config.CHANNELS, 64, 6)
    assert many.outputs_at_once == 64
    assert config.configure(PROBLEM, CPU).lanes_are == config.TILES
    # Threads share the tiles evenly, whatever number that is.
    assert many.tile_n <= 40
    assert many.blocks(last)[0] % 2 == 0
    few = replace(last, images=1, pixels=(1, 28, 28))
    assert config.configure(few, CPU).tile_n == 25
    # Weights that no cache holds are read less often by large blocks.
    large = replace(last, channels=256, outputs=256, pixels=(1, 16, 16))
    assert config.configure(large, CPU).tile_n == 64
    # Or by threads that have some of the outputs each.
    large = replace(large, images=1, pixels=(1, 14, 14))
    assert config.configure(large, CPU).blocks(large) == (1, 2)
    # Few outputs take more rows; and several panels wait together.
    narrow = config.configure(replace(last, outputs=20), CPU)
    assert (narrow.vector, narrow.micro_m, narrow.outputs_at_once) == (32, 12, 32)
    short = config.configure(last, replace(CPU, vector_bytes=32))
    assert (short.lanes, short.vector, short.outputs_at_once) == (8, 16, 64)
    # No more threads than tiles.
    one = replace(last, images=1, pixels=(1, 2, 2), outputs=16)
    assert config.configure(one, replace(CPU, processors=64)).tile_n == 1


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("element", ["float32", "float64"])
@pytest.mark.parametrize("channels", [256, 512, 2048])
def test_memory_is_bounded(channels, element, last):
    elements = frozenset({element})
    problem = replace(PROBLEM, elements=elements, channels=channels, channels_fast=last)
    for outputs in (16, 512, 2000):
        for taps in ((1, 3, 3), (3, 3, 3)):
            one = replace(problem, outputs=outputs, taps=taps)
            for device in (CPU, replace(CPU, vector_bytes=32), replace(CPU, processors=8)):
                chosen = config.configure(one, device)
                assert chosen.shared_bytes(one.itemsize) <= 3.5 * 2**20
                point = chosen.point_elements(one) * one.itemsize
                panel = chosen.side * one.terms * one.itemsize
                assert 36 * point <= max(16 * 2**20, 36 * panel) + 36 * 128
                # All terms at once, or all outputs of a block.
                cut = chosen.terms_at_once < one.terms
                assert chosen.outputs_at_once == chosen.tile_m or not cut
                assert cut == (one.terms > 256) or outputs == 16


@pytest.mark.parametrize("layout", [np.ascontiguousarray, channels_last])
def test_the_regime_is_taken_and_can_be_refused(layout):
    rng = np.random.default_rng(4)
    shapes = ((2, 64, 28, 28), (64, 64, 3, 3))
    x, weight = (layout(rng.standard_normal(s).astype("f")) for s in shapes)
    chosen = nnk.conv(x, weight, padding=1)
    assert_same_bits(chosen, nnk.conv(x, weight, padding=1, algorithm="winograd"), "chosen")
    assert np.any(chosen != nnk.conv(x, weight, padding=1, algorithm="direct"))


def test_errors():
    x, weight = np.ones((1, 2, 8, 8), "f"), np.ones((3, 2, 3, 3), "f")
    with pytest.raises(ValueError, match=r'algorithm="winograd" is not possible here: stride'):
        nnk.conv(x, weight, stride=2, algorithm="winograd")
    with pytest.raises(ValueError, match="float32, or all float64, not float32, float64"):
        nnk.conv(x, weight.astype(np.float64), algorithm="winograd")
    with pytest.raises(ValueError, match=r'algorithm must be None, "direct" or "winograd"; got'):
        nnk.conv(x, weight, algorithm="fft")
    with pytest.raises(TypeError, match=r'algorithm must be None, "direct" or "winograd", not int'):
        nnk.conv_backward_data(x, weight, (1, 2, 8, 8), algorithm=1)
    with nnk.use_backend("sim"), pytest.raises(ValueError, match="no such kernel for GPUs"):
        nnk.conv(x, weight, algorithm="winograd")
    assert nnk.conv(x[:0], weight, algorithm="winograd").shape == (0, 3, 6, 6)


@pytest.mark.parametrize("channels", [64, 512])
def test_accuracy(channels):
    # As docs/measured.md says: about twice the error of the direct sum, root mean square.
    rng = np.random.default_rng(5)
    x = rng.standard_normal((1, channels, 20, 20)).astype("f")
    weight = rng.standard_normal((12, channels, 3, 3)).astype("f")
    exact = FORWARD.reference(*wide((x, weight)))
    errors = {
        algorithm: np.sqrt(np.mean((nnk.conv(x, weight, algorithm=algorithm) - exact) ** 2))
        for algorithm in ("direct", "winograd")
    }
    assert 0 < errors["winograd"] < 2.5 * errors["direct"]
