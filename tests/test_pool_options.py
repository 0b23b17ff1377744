"""Pooling: which kernels run, what is refused, and PyTorch's results."""

from __future__ import annotations

import numpy as np
import pytest
from comparing import assert_close, assert_same_bits, assert_same_numbers
from layouts import channels_last
from pools import expected, image

import nnkernels as nnk
from nnkernels import DTypeError, ShapeError
from nnkernels.config import pool as config
from nnkernels.config.device import SIMULATED
from nnkernels.dispatch import pool_plan
from nnkernels.dispatch.machines import machine_named
from nnkernels.dispatch.windows import Windows

# ---- configurations --------------------------------------------------------------------------

# x, options and what they need on a CPU: (kind of vector, lanes).
WAYS = {
    "rows": ((2, 3, 5, 300), False, {"stride": 2}, (True, "", 1)),
    "rows in pieces": ((1, 2, 5000), False, {"stride": 1}, (True, "", 3)),
    "channels": ((2, 70, 5, 6), True, {"stride": 2}, (False, "channels", 0)),
    "batch": ((70, 1, 5, 6), None, {"stride": 2}, (False, "batch", 0)),
    "few windows": ((2, 3, 9, 5), False, {"stride": 2}, (False, "planes", 0)),
    "far apart windows": ((1, 2, 400), False, {"stride": 100}, (False, "planes", 0)),
}


@pytest.fixture
def choices(monkeypatch):
    """The configurations that calls choose; plans of earlier calls do not count."""
    found = []

    def configure(problem, device, original=config.configure):
        found.append(original(problem, device))
        return found[-1]

    monkeypatch.setattr(config, "configure", configure)
    for name in ("cpu", *SIMULATED):
        machine_named(name if name == "cpu" else f"sim:{name}").plans.clear()
    return found


@pytest.mark.parametrize(
    ("shape", "by_rows"), [((2, 3, 9, 13), True), ((2, 16, 9, 13), False), ((2, 16, 9, 21), True)]
)
def test_places_in_short_rows_are_searched_in_many_planes(shape, by_rows, cpu, choices):
    """Where there are as many planes as lanes, and up to eight windows in a row."""
    x = image(np.random.default_rng(23), shape, ties=True)
    y, places = nnk.max_pool(x, 3, stride=2, padding=1, return_indices=True)
    assert [c.rows for c in choices] == [by_rows]
    right, right_places = expected("max_pool", x, 3, stride=2, padding=1, return_indices=True)
    assert_same_numbers(y, right, str(shape))
    assert np.array_equal(places, right_places)


@pytest.mark.parametrize("name", WAYS)
def test_every_way_to_make_a_vector(name, cpu, choices):
    shape, last, options, wanted = WAYS[name]
    x = image(np.random.default_rng(21), shape)
    if last is None:
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0)
    elif last:
        x = channels_last(x)
    y = nnk.max_pool(x, 3, **options)
    dx = nnk.max_pool_backward(y, x, 3, **options)
    assert_same_numbers(y, expected("max_pool", x, 3, **options), name)
    assert_close(dx, expected("max_pool_backward", y, x, 3, **options), 9, what=name)
    pieces = [-(-x.shape[-1] // c.piece) if c.rows else 0 for c in choices]
    # Maxima, their places, and what gathers, if it does not scatter.
    few = wanted[1] == "planes"
    assert choices[0].few == few
    found = choices[1:] if few else choices
    assert [(c.rows, c.lanes) for c in found] == [wanted[:2]] * (1 if few else 3)
    assert pieces[-1] == wanted[2]


def test_small_images_are_not_fetched_ahead(cpu, choices):
    generator = np.random.default_rng(33)
    for channels, fetched in ((4, False), (130, True)):
        x = channels_last(image(generator, (8, channels, 13, 14)))
        choices.clear()
        y = nnk.avg_pool(x, 3, stride=2, padding=1)
        assert [c.fetches for c in choices] == [fetched]
        assert_close(y, expected("avg_pool", x, 3, stride=2, padding=1), 9)


def test_groups_of_planes(cpu, choices):
    """As many as a vector holds, all of whose results are made before those of the next."""
    generator = np.random.default_rng(32)
    for planes, whole in (((2, 64), True), ((1, 3), False)):
        x = image(generator, (*planes, 5, 6))
        choices.clear()
        y, indices = nnk.adaptive_max_pool(x, (2, 4), return_indices=True)
        dx = nnk.adaptive_avg_pool_backward(y, x.shape)
        assert [c.group == c.vector for c in choices] == [whole] * 2
        assert [c.group == 0 for c in choices] == [not whole] * 2
        right, labels = expected("adaptive_max_pool", x, (2, 4), return_indices=True)
        assert_same_numbers(y, right, "y")
        assert_same_numbers(indices, labels, "indices")
        assert_close(dx, expected("adaptive_avg_pool_backward", y, x.shape), 9)


# Channels of a channels-last image of float32, and how many are one access.
VECTORS = {8: 4, 6: 2, 5: 1, 3: 1}


def test_vectors_of_channels_on_a_gpu(simulator, choices):
    generator = np.random.default_rng(29)
    for channels, vector in VECTORS.items():
        x = channels_last(image(generator, (2, channels, 4, 5)))
        choices.clear()
        with simulator.context():
            y = nnk.max_pool(simulator.array(x), 2)
        assert [(c.lanes, c.vector, c.rows) for c in choices] == [("channels", vector, False)]
        assert_same_numbers(simulator.numpy(y), expected("max_pool", x, 2), f"{channels} channels")
    choices.clear()
    with simulator.context():
        nnk.max_pool(simulator.array(np.repeat(np.ascontiguousarray(x), 2, -1)[..., ::2]), 2)
    assert [(c.lanes, c.vector) for c in choices] == [("", 1)]


@pytest.mark.in_turn
def test_wide_indices(backend, monkeypatch):
    """As arrays of more than 2 GiB have them."""
    monkeypatch.setattr(config, "index_of", lambda *arguments: "q")
    backend.machine.plans.clear()

    def body():
        x = image(np.random.default_rng(22), (1, 2, 5, 20))
        with backend.context(23):
            given = backend.array(x)
            y, indices = nnk.max_pool(given, 3, padding=1, return_indices=True)
            dx = nnk.max_pool_backward(y, given, 3, padding=1)
        if not backend.recording:
            wanted, labels = expected("max_pool", x, 3, padding=1, return_indices=True)
            assert_same_numbers(backend.numpy(y), wanted, "y")
            assert_same_numbers(backend.numpy(indices), labels, "indices")
            right = expected("max_pool_backward", wanted, x, 3, padding=1)
            assert_close(backend.numpy(dx), right, 9)

    backend.precompiled(body)
    backend.machine.plans.clear()


def test_when_indices_are_wide():
    axes = pool_plan.three_axes(Windows.checked(1, 3, 1, 0, 1).axes((100,)))
    near = (axes, False, (2, 3), ((1200, 400, 0, 0, 4),), (True,), (4,))
    assert config.index_of(*near) == "i"
    assert config.index_of(axes, False, (2, 3), ((2**31, 400, 0, 0, 4),), (True,), (4,)) == "q"
    far = pool_plan.three_axes(Windows.checked(1, 3, 1, 2**31 - 4, 1).axes((100,)))
    assert config.index_of(far, *near[1:]) == "q"
    assert pool_plan.label_element(axes).name == "uint8"
    many = pool_plan.three_axes(Windows.checked(2, 16, 1, 0, 1).axes((16, 16)))
    assert pool_plan.label_element(many).name == "int32"


@pytest.mark.in_turn
def test_more_taps_than_a_byte_can_number(backend):
    def body():
        x = np.arange(720, dtype=np.float32).reshape(1, 2, 18, 20)  # the last tap wins
        with backend.context(25):
            y = nnk.max_pool(backend.array(x), (17, 16), stride=1)
            dx = nnk.max_pool_backward(y, backend.array(x), (17, 16), stride=1)
        if not backend.recording:
            y = backend.numpy(y)
            right = expected("max_pool_backward", y, x, (17, 16), stride=1)
            assert_close(backend.numpy(dx), right, 272)

    backend.precompiled(body)


# ---- bad input -------------------------------------------------------------------------------

X = np.zeros((2, 3, 6, 7), np.float32)
Y = np.zeros((2, 3, 3, 3), np.float32)
PLACES = np.zeros(Y.shape, np.int64)

BAD = {
    "a window too large": (lambda: nnk.max_pool(X, 8), ShapeError, "6 elements"),
    "no taps": (lambda: nnk.max_pool(X, 0), ValueError, r"kernel_size must lie in \[1"),
    "a matrix": (lambda: nnk.max_pool(X[0, 0], 2), ShapeError, r"\(N, C, \*spatial\)"),
    "four axes": (lambda: nnk.avg_pool(X[None, None], 2), ShapeError, "one to three"),
    "three numbers": (lambda: nnk.avg_pool(X, (1, 2, 3)), ShapeError, "3 numbers"),
    "a float": (lambda: nnk.max_pool(X, 2.0), TypeError, "kernel_size must be an integer"),
    "a bool": (lambda: nnk.max_pool(X, True), TypeError, "not bool"),
    "a negative padding": (lambda: nnk.max_pool(X, 2, padding=-1), ValueError, "padding"),
    "a flag": (lambda: nnk.max_pool(X, 2, ceil_mode=1), TypeError, "ceil_mode"),
    "another flag": (lambda: nnk.avg_pool(X, 2, count_include_pad=1), TypeError, "count_include"),
    "no indices": (lambda: nnk.max_pool(X, 2, return_indices=1), TypeError, "return_indices must"),
    "other places": (
        lambda: nnk.max_pool(X, 2, return_indices="places"), ValueError, "return_indices must be",
    ),
    "indices for taps": (
        lambda: nnk.max_pool_backward(Y, X, 2, taps=PLACES), DTypeError, "it must be uint8",
    ),
    "taps of another shape": (
        lambda: nnk.max_pool_backward(Y, X, 2, taps=PLACES[..., :2].astype("u1")),
        ShapeError, "taps has shape",
    ),
    "no windows": (lambda: nnk.adaptive_avg_pool(X, 0), ValueError, "output_size must lie in"),
    "integers": (lambda: nnk.avg_pool(PLACES, 2), DTypeError, "x has dtype int64"),
    "complex": (lambda: nnk.max_pool(X.astype("c8"), 2), DTypeError, "complex64"),
    "p of 0": (lambda: nnk.lp_pool(X, 2, p=0), ValueError, "p must be above 0"),
    "no array": (lambda: nnk.max_pool([1.0], 2), DTypeError, "x"),
    "dy of another shape": (
        lambda: nnk.max_pool_backward(Y, X, 3), ShapeError, r"dy has shape \(2, 3, 3, 3\)",
    ),
    "dy of another dtype": (
        lambda: nnk.max_pool_backward(Y.astype("f8"), X, 2), DTypeError, "dy has dtype float64",
    ),
    "x_shape of other planes": (
        lambda: nnk.avg_pool_backward(Y, (2, 4, 6, 7), 2), ShapeError, r"begin with \(2, 3\)",
    ),
    "a shape that is none": (lambda: nnk.avg_pool_backward(Y, 7, 2), TypeError, "x_shape"),
    "indices of another dtype": (
        lambda: nnk.max_unpool(Y, Y, X.shape), DTypeError, "indices has dtype float32",
    ),
    "indices of another shape": (
        lambda: nnk.max_unpool(Y, PLACES[..., :2], X.shape), ShapeError, "indices has shape",
    ),
    "out of another shape": (lambda: nnk.max_pool(X, 2, out=X), ShapeError, "out has shape"),
    "out that is x": (lambda: nnk.max_pool(X, 1, out=X), ShapeError, "shares memory with x"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("machine", ["cpu", "reference"])
def test_bad_input(name, machine):
    call, error, says = BAD[name]
    with nnk.use_backend(machine), pytest.raises(error, match=says) as caught:
        call()
    assert caught.type is error


def test_keywords_and_references(cpu):
    x = image(np.random.default_rng(26), (1, 2, 6, 6))
    with nnk.use_backend("reference"):
        found = nnk.max_pool(x, kernel_size=2), nnk.max_pool(x, 2)
    for y in found:
        assert_same_bits(y, nnk.max_pool(x, kernel_size=(2, 2)), "kernel_size by its name")


# ---- a second oracle -------------------------------------------------------------------------


TORCH = (
    ((2, 3, 9, 12), 3, {"stride": 2, "padding": 1}),
    ((2, 3, 9, 12), (2, 3), {"stride": (2, 1), "padding": (1, 0), "ceil_mode": True}),
    ((2, 3, 25), 4, {"stride": 3, "padding": 2, "ceil_mode": True}),
    ((2, 2, 5, 6, 7), 2, {"stride": 2, "ceil_mode": True}),
    ((2, 2, 5, 6, 7), 3, {"stride": 1, "padding": 1}),
)


@pytest.mark.parametrize("case", TORCH, ids=str)
def test_pytorch_agrees(case, cpu):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    shape, kernel, options = case
    generator, rank = np.random.default_rng(27), len(shape) - 2
    x = image(generator, shape, "float64", ties=True)
    x.flat[::11] = np.nan
    theirs = torch.from_numpy(x)
    wanted, labels = getattr(functional, f"max_pool{rank}d")(
        theirs, kernel, return_indices=True, **options
    )
    y, indices = nnk.max_pool(x, kernel, return_indices=True, **options)
    assert_same_numbers(y, wanted.numpy(), "maxima")
    assert_same_numbers(indices, labels.numpy(), "indices")
    x = image(generator, shape, "float64")
    leaf = torch.from_numpy(x).requires_grad_()
    dy = image(generator, y.shape, "float64")
    for mode, more in (
        ("max", {}),
        ("avg", {"count_include_pad": True}),
        ("avg", {"count_include_pad": False}),
    ):
        result = getattr(functional, f"{mode}_pool{rank}d")(leaf, kernel, **options, **more)
        ours = getattr(nnk, f"{mode}_pool")(x, kernel, **options, **more)
        assert_close(ours, result.detach().numpy(), 27, what=mode)
        (gradient,) = torch.autograd.grad(result, leaf, torch.from_numpy(dy))
        backward = getattr(nnk, f"{mode}_pool_backward")
        first = x if mode == "max" else shape
        ours = backward(dy, first, kernel, **options, **more)
        assert_close(ours, gradient.numpy(), 27, what=f"gradient of {mode}")


def test_pytorch_agrees_on_the_others(cpu):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x = image(np.random.default_rng(28), (2, 3, 9, 12), "float64")
    theirs = torch.from_numpy(x)
    for out in (1, (4, 5), (12, 9)):
        wanted, labels = functional.adaptive_max_pool2d(theirs, out, return_indices=True)
        y, indices = nnk.adaptive_max_pool(x, out, return_indices=True)
        assert_same_numbers(y, wanted.numpy(), "maxima")
        assert_same_numbers(indices, labels.numpy(), "indices")
        mean = functional.adaptive_avg_pool2d(theirs, out).numpy()
        assert_close(nnk.adaptive_avg_pool(x, out), mean, 108)
    assert_close(nnk.lp_pool(x, 3), functional.lp_pool2d(theirs, 2, 3).numpy(), 9)
    wanted, labels = functional.max_pool2d(theirs, 3, return_indices=True)
    back = functional.max_unpool2d(wanted, labels, 3, output_size=x.shape).numpy()
    assert_same_bits(nnk.max_unpool(wanted.numpy(), labels.numpy(), x.shape), back, "unpooled")
