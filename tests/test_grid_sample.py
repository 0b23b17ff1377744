"""Sampling at the points of a grid, and its gradients, on every machine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from comparing import assert_close, assert_same_bits, wide
from layouts import channels_last, is_dense, keeps_order, lay_out, place
from strategies import make_numbers
from threads import same_on_any_threads

import nnkernels as nnk
from nnkernels import registry
from nnkernels.config import grid_sample as config
from nnkernels.config.device import PROFILES
from nnkernels.config.grid_sample import GridProblem

MODES = ("linear", "nearest", "cubic")
PADDINGS = ("zeros", "border", "reflection")
VALUES, GRADIENTS = (registry.find(name) for name in ("grid_sample", "grid_sample_backward"))
# The shapes of x and of the grid.
PLANES = ((2, 5, 6, 7), (2, 4, 9, 2))
VOLUMES = ((2, 3, 3, 4, 5), (2, 2, 3, 7, 3))
# All combinations compile for a minute: on GPUs, each mode and each padding.
CASES = [(mode, padding, PLANES) for mode in MODES for padding in PADDINGS] + [
    (mode, padding, VOLUMES) for mode in MODES[:2] for padding in PADDINGS
]
OF_GPUS = (0, 2, 4, 7, 8, 9)


def made(shapes, dtype="float32", of_grid=None, seed=0):
    """x, the grid with places inside and outside, and a cotangent."""
    generator = np.random.default_rng(seed)
    x = make_numbers(generator, shapes[0], dtype)
    grid = (1.7 * generator.standard_normal(shapes[1])).astype(of_grid or x.dtype)
    dy = make_numbers(generator, (*shapes[0][:2], *shapes[1][1:-1]), dtype)
    return x, grid, dy


def columns_first(x):
    return np.swapaxes(np.ascontiguousarray(np.swapaxes(x, -1, -2)), -1, -2)


def spread(x):
    steps = [1] * (x.ndim - 2) + [-1, 2]
    return place(x, lay_out(x.shape, x.itemsize, range(x.ndim), steps, x.itemsize)).view


def run(backend, x, grid, dy, seed=0, **options):
    with backend.context(seed):
        x, grid, dy = (backend.array(a) for a in (x, grid, dy))
        y = nnk.grid_sample(x, grid, **options)
        return backend.numpy((y, *nnk.grid_sample_backward(dy, x, grid, **options)))


def assert_right(found, x, grid, dy, what="", **options):
    y, dx, dgrid = found
    # A place is off by some roundings of its distance from the middle, and so are weights.
    reach = max(x.shape[2:]) * float(np.max(np.abs(wide(grid)), initial=1.0))
    top = float(np.max(np.abs(wide(x)), initial=1.0))
    given = float(np.max(np.abs(wide(dy)), initial=1.0))
    assert_close(y, VALUES.reference(x, grid, **options), 16, reach * top, f"y {what}")
    dx_wanted, dgrid_wanted = GRADIENTS.reference(dy, x, grid, **options)
    assert_close(dx, dx_wanted, 64, reach * given, f"dx {what}")
    size = reach * max(x.shape[2:]) * top * given * x.shape[1]
    assert_close(dgrid, dgrid_wanted, 64, size, f"dgrid {what}")


@pytest.mark.in_turn
@pytest.mark.parametrize("number", range(len(CASES)))
def test_values_and_gradients(number, backend):
    mode, padding, shapes = CASES[number]
    if not backend.is_cpu and number not in OF_GPUS:
        pytest.skip("on the CPU")

    def body():
        x, grid, dy = made(shapes, seed=number)
        for align in (False, True):
            options = {"mode": mode, "padding_mode": padding, "align_corners": align}
            found = run(backend, x, grid, dy, number, **options)
            if not backend.recording:
                assert_right(found, x, grid, dy, str(options), **options)

    backend.precompiled(body)


TYPES = (("float16", None), ("float16", "float32"), ("bfloat16", None), ("float64", None))


@pytest.mark.in_turn
def test_every_dtype(backend):
    def body():
        for dtype, of_grid in TYPES:
            x, grid, dy = made(PLANES, dtype, of_grid)
            found = run(backend, x, grid, dy)
            if not backend.recording:
                assert [a.dtype for a in found] == [x.dtype, x.dtype, grid.dtype]
                assert_right(found, x, grid, dy, dtype)

    backend.precompiled(body)


@pytest.mark.in_turn
@pytest.mark.parametrize("channels", [3, 24])
def test_any_layout(channels, backend):
    def body():
        shapes = ((2, channels, 6, 7), PLANES[1])
        x, grid, dy = made(shapes, seed=3)
        first = None
        for change in (lambda a: a, channels_last, spread):
            views = change(x), spread(grid), change(dy)
            found = run(backend, *views, padding_mode="border")
            if backend.recording:
                continue
            assert is_dense(found[0])
            assert keeps_order(found[0], views[0])
            assert keeps_order(found[1], views[0])
            first = first or found
            for a, b in zip(first, found, strict=True):
                assert_same_bits(a, b, "another layout")
        if not backend.recording:
            assert_right(first, x, grid, dy, padding_mode="border")

    backend.precompiled(body)


def test_gradient_of_the_grid_is_the_limit_of_difference_quotients(cpu):
    x, grid, dy = made(PLANES, "float64", seed=5)
    step = 1e-6

    def body():
        for mode, padding in (("linear", "zeros"), ("linear", "reflection"), ("cubic", "border")):
            options = {"mode": mode, "padding_mode": padding}
            dgrid = run(cpu, x, grid, dy, **options)[2]
            for axis in range(2):
                moved = np.zeros_like(grid)
                moved[..., axis] = step
                sides = [
                    (VALUES.function(x, grid + sign * moved, **options) * dy).sum(1)
                    for sign in (1, -1)
                ]
                quotient = (sides[0] - sides[1]) / (2 * step)
                difference = np.max(np.abs(quotient - dgrid[..., axis]))
                assert cpu.recording or difference < 1e-6, options

    cpu.precompiled(body)


@pytest.mark.in_turn
def test_places_of_note(backend):
    """The corners, the edges, halves, places far away, and none at all."""
    x = np.arange(1.0, 13.0, dtype=np.float32).reshape(1, 1, 3, 4)
    far = np.float32([1e4, -1e4, 1e30, -1e30, np.inf, -np.inf, np.nan])
    edges = np.float32([-1, 1, 0, -1.5, 1.25, -0.75, 0.5, -0.5])
    numbers = np.concatenate([edges, far])
    grid = np.stack(np.meshgrid(numbers, numbers), -1)[None]

    def body():
        for mode in MODES:
            for padding in ("zeros", "border"):
                options = {"mode": mode, "padding_mode": padding, "align_corners": True}
                with backend.context():
                    y = nnk.grid_sample(backend.array(x), backend.array(grid), **options)
                if not backend.recording:
                    y = backend.numpy(y)
                    wanted = VALUES.reference(x, grid, **options)
                    assert np.isfinite(y).all()
                    assert_close(y, wanted, 16, 40.0, str(options))
        with backend.context():
            y = nnk.grid_sample(backend.array(x), backend.array(grid), padding_mode="reflection")
        if not backend.recording:
            y = backend.numpy(y)
            assert np.isfinite(y).all()
            assert np.all((y >= 1) & (y <= 12))

    backend.precompiled(body)


def test_infinities_spread_to_what_sees_them_alone(backend):
    x = np.ones((1, 2, 5, 6), np.float32)
    x[0, 0, 2, 3] = np.inf
    grid = made(((1, 2, 5, 6), (1, 3, 8, 2)), seed=9)[1]

    def body():
        with backend.context():
            y = nnk.grid_sample(backend.array(x), backend.array(grid))
        if not backend.recording:
            y = backend.numpy(y)
            wanted = VALUES.reference(np.where(np.isinf(x), 100, x).astype(np.float32), grid)
            assert np.isfinite(y[:, 1]).all()
            assert np.array_equal(np.isfinite(y[:, 0]), wanted[:, 0] <= 1.01)

    backend.precompiled(body)


@pytest.mark.in_turn
def test_results_into_arrays_of_any_layout(backend):
    def body():
        x, grid, dy = made(PLANES, seed=11)
        y = run(backend, x, grid, dy)[0]
        for steps in ([1, 1, 1, 1], [2, 1, 1, 3], [-1, 1, -2, -1]):
            placed = place(np.zeros_like(dy), lay_out(dy.shape, 4, range(4), steps, 4))
            out = backend.array(placed.view)
            with backend.context():
                result = nnk.grid_sample(backend.array(x), backend.array(grid), out=out)
            if not backend.recording:
                assert result is out
                assert_same_bits(backend.numpy(out), y, str(steps))
                assert backend.is_cupy or placed.is_unchanged_outside

    backend.precompiled(body)


def test_any_number_of_threads(cpu):
    x, grid, dy = made(((6, 20, 30, 31), (6, 40, 41, 2)), seed=12)
    for view in (x, channels_last(x)):
        same_on_any_threads(lambda v=view: nnk.grid_sample(v, grid))
        same_on_any_threads(lambda v=view: nnk.grid_sample_backward(dy, v, grid))


def test_empty_arrays(backend):
    def body():
        for shapes in (
            ((0, 3, 4, 5), (0, 2, 2, 2)),
            ((2, 0, 4, 5), (2, 2, 2, 2)),
            ((2, 3, 4, 5), (2, 0, 2, 2)),
        ):
            x, grid, dy = made(shapes)
            found = run(backend, x, grid, dy)
            assert [a.shape for a in found] == [dy.shape, x.shape, grid.shape]
            if not backend.recording:
                assert not np.any(found[1])
                assert not np.any(found[2])

    backend.precompiled(body)


def test_results_are_those_of_torch(cpu):
    torch = pytest.importorskip("torch")
    names = {"linear": "bilinear", "nearest": "nearest", "cubic": "bicubic"}

    def body():
        for mode, padding, shapes in CASES:
            x, grid, dy = made(shapes, seed=14)
            for align in (False, True):
                leaves = [torch.from_numpy(a).requires_grad_(True) for a in (x, grid)]
                y = torch.nn.functional.grid_sample(*leaves, names[mode], padding, align)
                y.backward(torch.from_numpy(dy))
                options = {"mode": mode, "padding_mode": padding, "align_corners": align}
                found = run(cpu, x, grid, dy, **options)
                if cpu.recording:
                    continue
                wanted = [y.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)]
                for a, b, scale in zip(found, wanted, (60, 60, 1000), strict=True):
                    assert_close(a, b, 64, scale, str(options))

    cpu.precompiled(body)


# ---- kernels of a CPU ----------------------------------------------------------------------------

# Points between the last element of a row and the edge, and beyond: one tap of two, or none.
EDGES = np.float32([-1.9, -1, -0.999, 0.2, 0.999, 1, 1.9, 7])


def at_edges(images, shape):
    """A grid with all pairs of places at edges, some more than fill a register."""
    numbers = np.stack(np.meshgrid(*[EDGES] * len(shape)), -1).reshape(-1, len(shape))
    numbers = numbers[: 3 * len(EDGES) * 7]
    return np.broadcast_to(numbers, (images, *[1] * (len(shape) - 1), *numbers.shape)).copy()


@pytest.fixture
def names(cpu, monkeypatch):
    """The templates that calls ask for, with all of their arguments."""
    found = []

    def prepare(instance, *others, original=cpu.machine.prepare):
        found.append(instance.kernel)
        return original(instance, *others)

    monkeypatch.setattr(cpu.machine, "prepare", prepare)
    cpu.machine.plans.clear()
    return found


@pytest.mark.parametrize("shape", [(2, 3, 5, 2), (2, 3, 4, 19), (1, 2, 3, 2, 5)])
def test_pairs_of_taps_are_those_that_are_gathered(shape, cpu, names):
    """Rows of one pair, and of more than a register; two axes and three."""
    generator = np.random.default_rng(15)
    x = make_numbers(generator, shape, "float32")
    x[0, 0, 0, ..., -1] = np.inf  # what is no tap counts as 0, not as 0 times what is there
    grid = at_edges(shape[0], shape[2:])
    dy = make_numbers(generator, (*shape[:2], *grid.shape[1:-1]), "float32")
    # Rows whose elements are not adjacent have no pairs.
    apart = place(x, lay_out(shape, 4, range(len(shape)), [1] * (len(shape) - 1) + [2], 4)).view
    for padding in PADDINGS:
        options = {"padding_mode": padding}
        found = []
        for array, paired in ((x, True), (apart, False)):
            names.clear()
            found.append(run(cpu, array, grid, dy, **options))
            values = next(n for n in names if n.startswith("GridSample<"))
            slopes = next(n for n in names if n.startswith("GridSampleBackwardGrid<"))
            assert values.endswith(", true, true>") == paired
            assert slopes.endswith(", true, true, true>") == paired
        for a, b in zip(*found, strict=True):
            assert_same_bits(a, b, padding)
        assert np.isfinite(found[0][0]).any()
        assert not np.isfinite(found[0][0]).all()


@pytest.mark.parametrize("mode", MODES)
def test_adjacent_channels_that_are_loaded_together(mode, cpu, names):
    """Two to four: the bits of planes one by one, from no element past the last pixel."""
    generator = np.random.default_rng(17)
    grid = at_edges(2, (5, 3))
    for channels in (2, 3, 4, 5):
        x = make_numbers(generator, (2, channels, 5, 3), "float32")
        x[0, 0, 0, -1] = np.inf
        dy = make_numbers(generator, (2, channels, *grid.shape[1:-1]), "float32")
        planes = run(cpu, x, grid, dy, mode=mode)
        # Beside the channels there is another one, of NaN, which a pixel is not to be read with.
        wide = np.full((2, channels + 1, 5, 3), np.nan, np.float32)
        wide[:, :channels] = x
        wide_dy = np.full((2, channels + 1, *dy.shape[2:]), np.nan, np.float32)
        wide_dy[:, :channels] = dy
        for of_x, of_dy in (
            (channels_last(x), channels_last(dy)),
            (channels_last(wide)[:, :channels], channels_last(wide_dy)[:, :channels]),
        ):
            names.clear()
            found = run(cpu, of_x, grid, of_dy, mode=mode)
            kernels = [n for n in names if "Scatter" not in n and "BackwardX" not in n]
            together = channels if channels <= 4 else 0
            assert [n.endswith(f"false, {together}>") for n in kernels] == [together > 0] * 2
            for a, b in zip(planes, found, strict=True):
                assert_same_bits(a, b, f"{channels} channels")


# Images, channels; 16 lanes, 8 and 4, with some of no channel, and few points or elements. Each
# dtype has a kernel of its own for every number of lanes and axes: one has them all.
SCATTERED = (
    ((8, 16, 6, 7), "float32"), ((8, 16, 6, 7), "float64"), ((4, 19, 9, 5), "float32"),
    ((4, 19, 9, 5), "float16"), ((8, 7, 6, 7), "float32"), ((8, 7, 6, 7), "float16"),
    ((8, 3, 1, 1), "float32"), ((8, 3, 1, 1), "float64"), ((8, 2, 3, 4, 2), "float32"),
)  # fmt: skip


@pytest.mark.parametrize(("shape", "dtype"), SCATTERED)
def test_channels_side_by_side_add_as_planes_do(shape, dtype, cpu, kernels, monkeypatch):
    generator = np.random.default_rng(16)
    points = (13, 11) if len(shape) == 4 else (3, 11, 5)  # more than a tile
    x = make_numbers(generator, shape, dtype)
    grid = (0.8 * generator.standard_normal((shape[0], *points, len(points)))).astype(dtype)
    dy = make_numbers(generator, (*shape[:2], *points), dtype)
    layouts = (np.ascontiguousarray, channels_last, columns_first, spread)
    pairs = [(of_x(x), of_dy(dy)) for of_x in layouts for of_dy in layouts]
    found = cpu.precompiled(lambda: [run(cpu, a, grid, b)[1] for a, b in pairs])
    # Results lie in the same three ways, and dy in all four; of one element, some are alike.
    assert kernels.count("GridSampleScatter") >= (6 if x.shape[-1] > 1 else 2)
    assert "GridSampleBackwardX" not in kernels
    assert_close(
        found[0], GRADIENTS.reference(dy, x, grid)[0], 64, 10 * max(x.shape[2:]), "dx"
    )  # fmt: skip
    monkeypatch.setattr(config, "_LEAST_LANES", 1000)
    cpu.machine.plans.clear()
    found.append(run(cpu, x, grid, dy)[1])
    assert kernels.count("GridSampleBackwardX") == 1
    cpu.machine.plans.clear()
    for other in found[1:]:
        assert_same_bits(found[0], other, "another layout or kernel")


# ---- configurations ------------------------------------------------------------------------------


def problem(**changes):
    fields = {
        "images": 8, "channels": 64, "points": 3136, "elements": 3136, "itemsize": 4,
        "compute_itemsize": 4, "index_itemsize": 4, "numbers": (5, 4), "alignment": 16,
    }  # fmt: skip
    return GridProblem(**fields | changes)


def test_lanes_are_channels_where_these_are_adjacent(cpu):
    device = PROFILES["sm_90"]
    assert config.configure(problem(), device).across
    adjacent = config.configure(problem(channels_adjacent=True), device)
    assert (adjacent.across, adjacent.vector) == (False, 4)
    assert config.configure(problem(channels_adjacent=True, alignment=4), device).vector == 1
    assert config.configure(problem(channels_adjacent=True, channels=6), device).vector == 2
    assert config.configure(problem(channels_adjacent=True, channels=1), cpu.device).across
    assert not config.configure(problem(channels_adjacent=True), cpu.device).across


def test_few_adjacent_channels_are_loaded_together(cpu):
    few = problem(channels_adjacent=True, channels=3)
    for configure in (config.configure, config.configure_grid_gradient):
        assert configure(few, cpu.device).neighbours == 3
        assert configure(replace(few, channels=5), cpu.device).neighbours == 0
        assert configure(replace(few, itemsize=2), cpu.device).neighbours == 0
        assert configure(replace(few, channels_adjacent=False), cpu.device).neighbours == 0
        assert configure(few, PROFILES["sm_90"]).neighbours == 0
        # Of x in planes, whatever dy is.
        pairs = replace(few, unit_row=True, linear=True)
        assert configure(pairs, cpu.device).neighbours == 0


def test_pairs_are_for_floats_of_a_cpu_that_are_neighbours(cpu):
    pairs = problem(unit_row=True, linear=True)
    for configure in (config.configure, config.configure_grid_gradient):
        assert configure(pairs, cpu.device).paired
        assert not configure(pairs, PROFILES["sm_90"]).paired
        for change in ({"unit_row": False}, {"linear": False}, {"itemsize": 8}, {"itemsize": 2}):
            assert not configure(replace(pairs, **change), cpu.device).paired
    assert not config.configure(replace(pairs, channels_adjacent=True), cpu.device).paired
    # Whole planes one after the other, also where no two elements are one access.
    assert config.configure_grid_gradient(problem(unit_row=True), cpu.device).planes
    assert not config.configure_grid_gradient(problem(), cpu.device).planes


def test_sums_of_channels_lie_side_by_side_where_they_fit():
    device = replace(PROFILES["sm_90"], machine="cpu", vector_bytes=64, shared_limit=512 * 1024)

    def lanes(**changes):
        chosen = config.configure_image_gradient(problem(**changes), device)
        assert chosen.scratch_bytes <= device.shared_limit
        return chosen.vector if chosen.scatters else 0

    assert lanes() == 16
    assert lanes(compute_itemsize=8) == 8
    assert lanes(channels=7) == 8
    assert lanes(channels=3) == 4
    assert lanes(channels=1) == 0
    assert lanes(elements=128 * 128) == 8
    assert lanes(elements=512 * 512) == 0
    assert lanes(images=1) == 8  # blocks for some threads
    assert lanes(images=1, channels=4) == 0
    assert not config.configure_image_gradient(problem(), PROFILES["sm_90"]).scatters


def test_tables_fit_into_shared_memory(cpu):
    for device in (PROFILES["sm_90"], cpu.device):
        for numbers in ((5, 4), (17, 16), (17, 32), (9, 24)):
            for size in (4, 8):
                call = problem(
                    numbers=numbers, compute_itemsize=size, index_itemsize=size, unit_row=True,
                    linear=True,
                )  # fmt: skip
                for configure in (config.configure, config.configure_grid_gradient):
                    chosen = configure(call, device)
                    more = (numbers[0] - 1) // 2 if chosen.paired else 0
                    assert 16 <= chosen.points <= 512
                    assert chosen.points * (sum(numbers) + more) * size <= 48 * 1024


def test_every_element_of_the_gradient_has_one_owner(cpu):
    for images, channels, elements in ((1, 3, 50_000), (8, 64, 3136), (1, 1, 5), (64, 512, 49)):
        call = problem(images=images, channels=channels, elements=elements)
        for device in (PROFILES["sm_90"], PROFILES["gfx90a"], cpu.device):
            chosen = config.configure_image_gradient(call, device)
            length = -(-elements // (chosen.ranges * chosen.range_groups))
            assert length * chosen.ranges * chosen.range_groups >= elements
            assert chosen.channels <= channels
    few = config.configure_image_gradient(problem(images=1, channels=3), PROFILES["sm_90"])
    many = config.configure_image_gradient(problem(images=64, channels=512), PROFILES["sm_90"])
    assert few.ranges * few.range_groups > 50 * many.ranges * many.range_groups
    assert config.configure_image_gradient(problem(images=1), cpu.device).ranges == 1


# ---- bad input -----------------------------------------------------------------------------------

X, GRID = np.zeros((2, 4, 5, 6), np.float32), np.zeros((2, 3, 3, 2), np.float32)
REFUSED = (
    (lambda: nnk.grid_sample(X, GRID[..., :1]), nnk.ShapeError, "grid has shape"),
    (lambda: nnk.grid_sample(X, GRID[:1]), nnk.ShapeError, "must be \\(2, out_h, out_w, 2\\)"),
    (lambda: nnk.grid_sample(X[0], GRID), nnk.ShapeError, "x has shape \\(4, 5, 6\\)"),
    (lambda: nnk.grid_sample(X[:, :, :0], GRID), nnk.ShapeError, "nothing along"),
    (lambda: nnk.grid_sample(X, GRID.astype("f8")), nnk.DTypeError, "grid has dtype float64"),
    (lambda: nnk.grid_sample(X.astype(int), GRID), nnk.DTypeError, "x has dtype int64"),
    (lambda: nnk.grid_sample(X, GRID, mode="bilinear"), ValueError, "mode must be one of"),
    (lambda: nnk.grid_sample(X, GRID, padding_mode="edge"), ValueError, "padding_mode must be"),
    (lambda: nnk.grid_sample(X, GRID, align_corners=None), TypeError, "align_corners"),
    (
        lambda: nnk.grid_sample(X[:, :, None], np.zeros((2, 1, 1, 1, 3), "f4"), mode="cubic"),
        nnk.ShapeError,
        "cubic",
    ),
    (lambda: nnk.grid_sample_backward(X, X, GRID), nnk.ShapeError, "dy has shape"),
    (
        lambda: nnk.grid_sample_backward(np.zeros((2, 4, 3, 3)), X, GRID),
        nnk.DTypeError,
        "dy has dtype float64",
    ),
    (lambda: nnk.grid_sample(X, GRID, out=X), nnk.ShapeError, "out has shape"),
)


@pytest.mark.parametrize("case", range(len(REFUSED)))
@pytest.mark.parametrize("machine", ["cpu", "reference"])
def test_refused(case, machine):
    call, error, words = REFUSED[case]
    with nnk.use_backend(machine), pytest.raises(error, match=words):
        call()
