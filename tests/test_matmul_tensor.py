"""Matrix products on matrix cores, in the simulator: every tile, every way to shared memory."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from comparing import assert_close, assert_same_bits, wide
from hypothesis import settings
from layouts import lay_out, place
from strategies import make_numbers

import nnkernels as nnk
from nnkernels.config import matmul_atoms as atoms
from nnkernels.config import matmul_tensor as tensor
from nnkernels.config import matmul_warpgroup
from nnkernels.config.device import PROFILES
from nnkernels.config.matmul_problem import MatmulProblem
from nnkernels.config.matmul_tensor import TensorConfig
from nnkernels.dispatch.dtypes import ELEMENTS, numpy_dtype

# What matrix cores multiply, by architecture.
FLOATS = {
    "sm_80": ("float16", "bfloat16"),
    "sm_90": ("float16", "float64"),
    "sm_90a": ("float16",),
    "gfx90a": ("float16", "bfloat16", "float32", "float64"),
    "gfx1100": ("float16", "bfloat16"),
}


def square(backend):
    """The tile of 64 x 64 sums."""
    atom = atoms.atom_of(problem_of("float16"), backend.device)
    return next(t for t in tensor.tiles_of(atom, PROFILES[arch_of(backend)]) if t.m == t.n == 64)


def arch_of(backend):
    return backend.device.arch


@pytest.fixture
def one_tile(monkeypatch):
    """Let only one tile be chosen, and one number of splits."""
    machines = []

    def choose(backend, tile, splits=1):
        machines.append(backend.machine)
        backend.machine.plans.clear()
        monkeypatch.setattr(tensor, "_tiles", lambda problem, device, atom: [tile])
        monkeypatch.setattr(tensor, "_splits", lambda *of_problem: [splits])

    yield choose
    for machine in machines:
        machine.plans.clear()


def assert_right(y, a, b, epsilon=None, more=0.0):
    """Every sum within K eps of the sum of magnitudes; the result rounded once more."""
    exact = np.matmul(wide(a), wide(b)) + more
    scale = np.matmul(np.abs(wide(a)), np.abs(wide(b))) + np.abs(more)
    terms = a.shape[-1] + 2
    if epsilon is None:
        epsilon = np.finfo(np.float64 if a.dtype == np.float64 else np.float32).eps
    # gfx90a takes subnormal float16 and bfloat16 numbers for zeros.
    bound = terms * epsilon * scale + 2.0**-14 * (a.dtype.itemsize == 2) * 2.0**-6
    rounded = np.finfo(np.float32).eps if y.dtype == np.float32 else float(_eps(y.dtype))
    error = np.abs(wide(y) - exact)
    assert not (error > bound + rounded * np.abs(exact)).any(), float(np.max(error / scale))


def assert_near(y, exact, terms, scale):
    """As assert_close, for a result in float64."""
    assert_close(y, exact.astype(y.dtype), terms, scale)


def _eps(dtype):
    return {"bfloat16": 2.0**-8}.get(dtype.name) or np.finfo(dtype).eps


def operands(seed, m, n, k, dtype):
    generator = np.random.default_rng(seed)
    return make_numbers(generator, (m, k), dtype), make_numbers(generator, (k, n), dtype)


# ---- every tile ---------------------------------------------------------------------------------


@pytest.mark.warpgroups
def test_every_tile_of_every_atom(simulator, chosen, one_tile):
    arch = arch_of(simulator)

    def body():
        # The tiles of bfloat16 are those of float16.
        for dtype in (dtype for dtype in FLOATS[arch] if dtype != "bfloat16"):
            atom = atoms.atom_of(problem_of(dtype), simulator.device)
            for tile in tensor.tiles_of(atom, simulator.device):
                one_tile(simulator, tile)
                tile_k = atoms.tile_k(atom, tile)
                # Slices beyond those that are in shared memory at once.
                k = (tile.stages + 1) * tile_k + 8
                a, b = operands(1, tile.m + 8, tile.n + 8, k, dtype)
                chosen.clear()
                with simulator.context(2):
                    y = nnk.matmul(a, b)
                (found,) = chosen
                assert isinstance(found, TensorConfig)
                assert (found.tile_m, found.tile_n, found.tile_k) == (tile.m, tile.n, tile_k)
                if not simulator.recording:
                    assert_right(y, a, b)

    simulator.precompiled(body)


def problem_of(dtype, m=100, n=100, k=100, **changes):
    """Dense operands of one dtype."""
    size = ELEMENTS[dtype].itemsize
    problem = MatmulProblem(
        m=m, n=n, k=k, strides_a=(k * size, size), strides_b=(n * size, size),
        itemsizes=(size, size, size), compute_itemsize=8 if dtype == "float64" else 4,
        is_complex=False, reach=max(m * k, k * n, m * n) * size, strides_c=(n * size, size),
        alignments=(16, 16, 16), element=ELEMENTS[dtype].storage,
    )  # fmt: skip
    return replace(problem, **changes)


# ---- every layout -------------------------------------------------------------------------------

# Name: order of the axes in memory, steps, elements that it is shifted by.
LAYOUTS = {
    "terms": ((0, 1), (1, 1), 0),
    "rows": ((1, 0), (1, 1), 0),
    "terms, misaligned": ((0, 1), (1, 1), 1),
    "rows, misaligned": ((1, 0), (1, 1), 1),
    "every second term": ((0, 1), (1, -2), 0),
    "rows reversed": ((1, 0), (-1, 1), 0),
    "one row for all": ((0, 1), (0, 1), 0),
    "one term for all": ((1, 0), (1, 0), 0),
}
A_WAYS = {
    "terms": {tensor.ASYNC_TERMS, tensor.VECTOR_TERMS},
    "rows": {tensor.ASYNC_ROWS, tensor.VECTOR_ROWS},
    "terms, misaligned": {tensor.VECTOR_TERMS},
    "rows, misaligned": {tensor.VECTOR_ROWS},
    "every second term": {tensor.SINGLE_TERMS},
    "rows reversed": {tensor.SINGLE_ROWS},
    "one term for all": {tensor.ASYNC_ROWS, tensor.VECTOR_ROWS},
}


def placed(values, layout, turned=False):
    """Values in a layout; ``turned``: rows and terms change places."""
    order, steps, shift = LAYOUTS[layout]
    x = values.T if turned else values
    p = place(x, lay_out(x.shape, x.dtype.itemsize, order, steps, shift * x.dtype.itemsize))
    return p.view.T if turned else p.view


def one_of_each_size(arch):
    """A dtype of each size that the matrix cores of an architecture multiply."""
    tf32 = ("float32",) if arch in ("sm_80", "sm_90") else ()
    others = (dtype for dtype in FLOATS[arch] if dtype not in ("float16", "bfloat16"))
    return ("float16", "int8", *others, *tf32)


@pytest.mark.warpgroups
@pytest.mark.dtypes(of=one_of_each_size)
def test_every_pair_of_layouts(dtype, simulator, chosen):
    arch = arch_of(simulator)
    options = {"precision": "tf32"} if dtype == "float32" else {}
    if dtype == "int8":
        options["out_dtype"] = "int32"
    # Every layout of both operands; those of float16 on sm_80 all together, and elsewhere, where
    # kernels of the same templates are made, each with another one.
    few = dtype != "float16" or arch in ("sm_90", "sm_90a")
    names = ["terms", "rows", "every second term"] if few else list(LAYOUTS)
    others = ["rows", "every second term", "terms"] if few else ["rows", "terms", "rows reversed"]
    pairs = list(product(names, others))
    if settings.default.derandomize and (few or arch != "sm_80"):
        pairs = [(first, others[i % len(others)]) for i, first in enumerate(names)]

    def body():
        a, b = operands(3, 80, 96, 112, dtype)
        for first, second in pairs:
            x, y = placed(a, first), placed(b, second, turned=True)
            chosen.clear()
            simulator.machine.plans.clear()
            with simulator.context(4):
                got = nnk.matmul(x, y, **options)
                dense = nnk.matmul(x.copy(), y.copy(), **options)
            assert all(isinstance(c, TensorConfig) for c in chosen)
            assert chosen[0].way_a in A_WAYS.get(first, range(6))
            if simulator.recording:
                continue
            assert_same_bits(got, dense, f"{first}, {second}")
            if dtype == "int8":
                assert np.array_equal(got, wide(x) @ wide(y))
            else:
                tf32 = dtype == "float32" and arch.startswith("sm")
                assert_right(got, x, y, 2.0**-10 / 64 if tf32 else None)

    simulator.precompiled(body)


# ---- lines that are not aligned -----------------------------------------------------------------

# (Rows of A, columns, terms), elements that begin before the first line, and elements after each.
SIZES = ((40, 56, 124), (33, 47, 77), (48, 64, 128), (36, 42, 70))
BEFORE = ((0, 0), (8, 8), (4, 4), (2, 2), (1, 1), (0, 1), (0, 3), (16, 32), (4, 12), (8, 24))


def in_lines(values, by_rows, before, after):
    """An array whose lines of adjacent elements begin anywhere, between other numbers."""
    x = values.T if by_rows else values
    lines, length = x.shape
    shape, size = (lines, length + after), x.dtype.itemsize
    p = place(np.zeros(shape, x.dtype), lay_out(shape, size, (0, 1), (1, 1), before * size))
    p.buffer[...] = 0xFF  # NaN
    view = p.view[:, :length]
    view[...] = x
    return view.T if by_rows else view


def alignment_by_hand(x, lines_of):
    """Bytes that every line of an array and its length are multiples of; 16 at most."""
    start, strides = x.__array_interface__["data"][0], x.strides
    along = 1 - lines_of
    numbers = (start, strides[lines_of], x.shape[along] * x.dtype.itemsize)
    return next(n for n in (16, 8, 4, 2, 1) if not any(number % n for number in numbers))


def types_of_lines(arch):
    """AMD's architectures have the same ways to shared memory."""
    if not settings.default.derandomize:
        return ("float16", "int8")
    return {"sm_80": ("float16", "int8"), "gfx90a": ("float16",), "gfx1100": ("int8",)}.get(
        arch, ()
    )


@pytest.mark.dtypes(of=types_of_lines)
def test_lines_that_begin_anywhere(dtype, simulator, chosen):
    """Each operand comes in the widest accesses that its lines permit; the bits are the same."""
    atom = atoms.atom_of(problem_of(dtype), simulator.device)
    options = {"out_dtype": "int32"} if dtype == "int8" else {}
    seen = set()

    def expected(alignment, by_rows):
        copied = atom.asynchronous and alignment >= 4 and (atom.transposes or not by_rows)
        terms, rows = tensor.ASYNC_TERMS, tensor.ASYNC_ROWS
        if copied:
            return (rows if by_rows else terms), alignment
        way = tensor.VECTOR_ROWS if by_rows else tensor.VECTOR_TERMS
        return way, 16 if alignment == 16 else atom.itemsize

    def body():
        generator = np.random.default_rng(23)
        for m, n, k in SIZES:
            a, b = operands(24, m, n, k, dtype)
            for before, after in BEFORE:
                by_rows = [bool(generator.integers(2)) for _ in range(2)]
                x = in_lines(a, by_rows[0], before, after)
                # Every second time B is aligned as well as its length permits.
                own = generator.integers(2)
                length = n if by_rows[1] else k
                y = in_lines(b.T, by_rows[1], before * own, after if own else -length % 16).T
                chosen.clear()
                simulator.machine.plans.clear()
                with simulator.context(int(generator.integers(100))):
                    got = nnk.matmul(x, y, **options)
                    dense = nnk.matmul(a, b, **options)
                c = chosen[0]
                wanted = [
                    expected(alignment_by_hand(o, lines), rows)
                    for o, lines, rows in (
                        (x, by_rows[0], by_rows[0]),
                        (y, not by_rows[1], by_rows[1]),
                    )
                ]
                assert [(c.way_a, c.alignment_a), (c.way_b, c.alignment_b)] == wanted
                seen.update(wanted)
                if simulator.recording:
                    continue
                assert_same_bits(got, dense, (m, n, k, before, after))
                if dtype == "int8":
                    assert np.array_equal(got, wide(a) @ wide(b))
                else:
                    assert_right(got, a, b)

    simulator.precompiled(body)
    alignments = (16, 8, 4, atom.itemsize)
    every = {expected(n, by_rows) for n in alignments for by_rows in (False, True)}
    assert seen == every


def test_one_operand_that_is_not_aligned_leaves_the_other_alone():
    device = PROFILES["sm_80"]
    whole = problem_of("float16", 512, 512, 512)
    for alignment in (8, 4, 2):
        for first in (False, True):
            alignments = (alignment, 16, 16) if first else (16, alignment, 16)
            c = tensor.configure(replace(whole, alignments=alignments), device)
            ways = [(c.way_a, c.alignment_a), (c.way_b, c.alignment_b)]
            # A lies by terms, B by rows.
            aligned = (tensor.ASYNC_ROWS if first else tensor.ASYNC_TERMS, 16)
            assert ways[first] == aligned
            other = ways[not first]
            assert other[1] == alignment
            assert (other[0] < tensor.VECTOR_TERMS) == (alignment >= 4)


def test_a_stride_or_a_length_is_as_bad_as_an_address():
    device = PROFILES["sm_80"]
    for k, stride, alignment in (
        (1004, 1008, 8),
        (1008, 1002, 4),
        (1001, 1008, 2),
        (1008, 1008, 16),
    ):
        problem = problem_of("float16", 512, 512, k, strides_a=(2 * stride, 2))
        assert tensor.configure(problem, device).alignment_a == alignment


# ---- edges --------------------------------------------------------------------------------------

SIDES = ((2, 33, 1), (40, 2, 7), (17, 33, 8), (64, 65, 63), (65, 64, 64), (66, 8, 65), (9, 70, 200))


@pytest.mark.warpgroups
@pytest.mark.in_turn(by="warp")
@pytest.mark.parametrize("layout", ["terms", "rows", "every second term"])
def test_edges(layout, simulator, chosen, one_tile):
    # Beyond an edge lies NaN; and what the last multiplications add there must be zeros.
    one_tile(simulator, square(simulator))

    def body():
        for m, n, k in SIDES:
            for round_to in (1, 8):  # elements, and chunks
                sizes = [-(-size // round_to) * round_to for size in (m, n, k)]
                a, b = operands(5, *sizes, "float16")
                a, b = placed(a, layout), placed(b, layout, turned=True)
                with simulator.context(6):
                    y = nnk.matmul(a, b)
                if not simulator.recording:
                    assert_right(y, a, b)

    simulator.precompiled(body)
    assert all(isinstance(c, TensorConfig) for c in chosen)


@pytest.mark.parametrize("step", [2**30, -(2**30)])
def test_few_terms_far_apart(step, simulator, chosen):
    """Where terms would lie that the only slice lacks, no 32-bit offset says."""
    generator = np.random.default_rng(31)
    rows, memory = 40, np.zeros(2**29 + 64, np.float16)  # pages that nothing touches take no memory
    memory[:rows] = memory[2**29 : 2**29 + rows] = make_numbers(generator, (rows,), "float16")
    first = memory[2**29 :] if step < 0 else memory
    a = np.lib.stride_tricks.as_strided(first, (rows, 2), (2, step))

    def body():
        for terms in (1, 2):
            b = make_numbers(generator, (terms, 48), "float16")
            x, y = a[:, :terms], a[:, :terms].T
            with simulator.context(9):
                left, right = nnk.matmul(x, b), nnk.matmul(b.T, y)
            if not simulator.recording:
                assert_right(left, x, b)
                assert_right(right, b.T, y)

    simulator.precompiled(body)
    assert all(isinstance(c, TensorConfig) and c.index == "i" for c in chosen)


def test_rows_in_reverse(simulator):
    """Of dense rows, which come in 16-byte accesses; the last one is repeated past the edge."""
    a, b = operands(32, 70, 40, 72, "float16")
    a, b = a[::-1], b.T.copy()[::-1].T
    with simulator.context(10):
        y = nnk.matmul(a, b)
    assert_right(y, a, b)


def test_infinities_and_nan_stay_in_their_rows_and_columns(simulator):
    a, b = operands(7, 40, 48, 56, "float16")
    a[1, 55], a[3, 0], b[55, 4] = np.inf, np.nan, -np.inf
    with simulator.context():
        y = nnk.matmul(a, b)
    with np.errstate(invalid="ignore"):
        wanted = wide(a) @ wide(b)
    assert np.isfinite(wanted).sum() == 38 * 47
    assert np.array_equal(np.isnan(y), np.isnan(wanted))
    assert np.array_equal(np.isinf(y), np.isinf(wanted))


def test_no_terms(simulator):
    with simulator.context():
        y = nnk.matmul(np.ones((20, 0), np.float16), np.ones((0, 30), np.float16))
    assert np.array_equal(y, np.zeros((20, 30), np.float16))


@pytest.mark.in_turn(by="warp")
@pytest.mark.parametrize(("m", "n", "k"), [(40, 48, 61), (41, 49, 64), (35, 37, 39)])
def test_lines_that_begin_aligned_and_end_within_a_chunk(m, n, k, simulator, chosen):
    # Beyond the end of each line lies NaN.
    def within(x):
        lines, length = x.shape
        padded = np.full((lines, -(-length // 16) * 16), np.nan, x.dtype)
        padded[:, :length] = x
        return padded[:, :length]

    def body():
        a, b = operands(19, m, n, k, "float16")
        for x, y in ((within(a), within(b)), (within(a.T).T, within(b.T).T)):
            with simulator.context(9):
                z = nnk.matmul(x, y)
            if not simulator.recording:
                assert_right(z, a, b)

    simulator.precompiled(body)
    assert all(isinstance(c, TensorConfig) for c in chosen)


# ---- splits -------------------------------------------------------------------------------------


@pytest.mark.warpgroups
@pytest.mark.in_turn(by="warp")
@pytest.mark.parametrize("n", [72, 71])  # whole and cut 16-byte accesses to the workspace
def test_splits(n, simulator, chosen, one_tile):
    one_tile(simulator, square(simulator), splits=3)
    a, b = operands(8, 40, n, 700, "float16")
    bias = make_numbers(np.random.default_rng(9), (n,), "float16")

    def body():
        with simulator.context(3):
            y = nnk.gemm(a, b, bias, epilogue="relu")
        if not simulator.recording:
            exact = wide(a) @ wide(b) + wide(bias)
            assert_near(y, np.maximum(exact, 0), 700, np.abs(wide(a)) @ np.abs(wide(b)))

    simulator.precompiled(body)
    assert chosen[-1].splits == 3


@pytest.mark.warpgroups
@pytest.mark.dtypes(of=lambda arch: ("float16", "int8") if arch == "sm_90a" else ())
@pytest.mark.parametrize("splits", [1, 3])
def test_a_warpgroup_that_copies(dtype, splits, simulator, chosen, one_tile):
    """Results that are written 16 bytes at a time, and through which threads meet, and others."""
    tile = next(t for t in matmul_warpgroup.TILES if t.copiers and t.m == 64)
    one_tile(simulator, tile, splits=splits)
    # Of int8, B lies by terms: by rows it would come through registers.
    m, n, k = 72, 136, 10 * (64 if dtype == "float16" else 128)
    a, b = operands(10, m, n, k, dtype)
    b = placed(b, "terms", turned=True)
    kind = np.int32 if dtype == "int8" else a.dtype
    options = {"out_dtype": "int32"} if dtype == "int8" else {}
    outs = [np.empty((m, n), kind), np.empty((m, 2 * n), kind)[:, ::2]]

    def body():
        for out in outs:
            out[...] = 77
            with simulator.context(11):
                nnk.matmul(a, b, out=out, **options)
            if simulator.recording:
                continue
            if dtype == "int8":
                assert np.array_equal(out, wide(a) @ wide(b))
            else:
                assert_right(out, a, b)

    simulator.precompiled(body)
    assert {(c.copiers, c.splits) for c in chosen} == {(128, splits)}
    assert {c.wide_c for c in chosen} == {True, False}


# ---- results ------------------------------------------------------------------------------------


@pytest.mark.in_turn(by="warp")
@pytest.mark.parametrize("out_dtype", ["float16", "float32", "bfloat16", "float64"])
def test_types_of_results(out_dtype, simulator, chosen):
    a, b = operands(10, 70, 72, 40, "float16")
    with simulator.context(1):
        y = nnk.matmul(a, b, out_dtype=out_dtype)
    assert y.dtype == numpy_dtype(out_dtype)
    # Sums in float64 are the ordinary product's.
    assert isinstance(chosen[0], TensorConfig) == (out_dtype != "float64")
    if out_dtype != "float64":
        assert chosen[0].wide_c
    assert_right(y, a, b)


@pytest.mark.in_turn(by="warp")
@pytest.mark.parametrize(
    ("steps", "wide_c"), [((1, 1), True), ((2, -1), False), ((1, 2), False)], ids=str
)
def test_epilogues_and_places_of_results(steps, wide_c, simulator, chosen):
    generator = np.random.default_rng(11)
    a, b = operands(12, 70, 72, 40, "float16")
    c = make_numbers(generator, (70, 72), "float16")
    bias = make_numbers(generator, (72,), "float32")
    exact = wide(a) @ wide(b)
    scale = np.abs(wide(a)) @ np.abs(wide(b)) + 20

    def body():
        for out_dtype in ("float16", "float32"):
            target = place(
                np.zeros((70, 72), out_dtype),
                lay_out((70, 72), numpy_dtype(out_dtype).itemsize, (0, 1), steps),
            )
            chosen.clear()
            with simulator.context(5):
                nnk.gemm(a, b, c, alpha=0.5, beta=-2.0, out=target.view, out_dtype=out_dtype)
            assert chosen[0].wide_c == wide_c
            if not simulator.recording:
                assert_near(target.view, 0.5 * exact - 2 * wide(c), 40, scale)
                assert target.is_unchanged_outside
        with simulator.context(6):
            y = nnk.gemm(a, b, bias, epilogue="gelu")
        if not simulator.recording:
            assert y.dtype == np.float32
            activated = nnk.gelu(exact + wide(bias))
            assert_near(y, activated, 40, scale)

    simulator.precompiled(body)


@pytest.mark.in_turn(by="warp")
def test_batches(simulator, chosen):
    generator = np.random.default_rng(13)
    a = make_numbers(generator, (3, 1, 40, 24), "float16")
    b = make_numbers(generator, (3, 24, 72), "float16")[::-1]
    with simulator.context(7):
        y = nnk.matmul(a, b)
        one = nnk.matmul(a[1, 0], b[2])
    assert y.shape == (3, 3, 40, 72)
    assert all(isinstance(c, TensorConfig) for c in chosen)
    assert_right(y, a, b)
    assert_same_bits(y[1, 2], one, "one of a batch")


def test_grouped_tiles_make_the_whole_result(simulator, one_tile):
    # More than one band of 8 rows of tiles, the last one cut.
    one_tile(simulator, square(simulator))
    a, b = operands(14, 64 * 9 + 1, 130, 8, "float16")
    with simulator.context(8):
        y = nnk.matmul(a, b)
    assert_right(y, a, b)


# ---- types and precision ------------------------------------------------------------------------


def test_float32_is_rounded_only_if_asked(simulator, chosen):
    a, b = operands(15, 40, 48, 64, "float32")
    exact = wide(a) @ wide(b)
    scale = np.abs(wide(a)) @ np.abs(wide(b))
    arch = arch_of(simulator)

    def body():
        chosen.clear()
        with simulator.context(2):
            plain, rounded = nnk.matmul(a, b), nnk.matmul(a, b, precision="tf32")
            simulator.machine.plans.clear()  # the same product by another name
            products = [nnk.gemm(a, b, precision="tf32")]
            products.append(nnk.linear(a, b.T.copy(), precision="tf32"))
        tf32 = arch.startswith("sm")
        atoms = [c.atom.name if isinstance(c, TensorConfig) else "" for c in chosen]
        mfma = "MmaGfx90a<float>" if arch == "gfx90a" else ""
        assert atoms == [mfma] + 3 * ["MmaSm80<Tf32>" if tf32 else mfma]
        if simulator.recording:
            return
        assert_right(plain, a, b)
        error = np.abs(rounded - exact) / scale
        assert (np.max(error) > 1e-5) == tf32
        assert np.max(error) < 2.0**-10
        for y in products:
            assert_same_bits(y, rounded, "gemm and linear")

    simulator.precompiled(body)


@pytest.mark.dtypes(of=lambda arch: ["float32"] if arch.startswith("sm") else [])
def test_gradients_take_the_precision(dtype, simulator, chosen):
    generator = np.random.default_rng(16)
    x, w, dy = (make_numbers(generator, s, dtype) for s in ((40, 24), (48, 24), (40, 48)))

    def body():
        chosen.clear()
        with simulator.context(2):
            nnk.matmul_backward(dy, x, w.T, precision="tf32")
            nnk.gemm_backward(dy, x, w, transpose_b=True, precision="tf32")
            dx, dw, _ = nnk.linear_backward(dy, x, w, precision="tf32")
            _, pullback = nnk.vjp(nnk.linear, x, w, precision="tf32")
            same, _ = pullback(dy)
        assert len(chosen) > 3
        assert all(c.atom.name == "MmaSm80<Tf32>" for c in chosen)
        if not simulator.recording:
            assert_right(dx, dy, w, 2.0**-10)
            assert_right(dw, dy.T, x, 2.0**-10)
            assert_same_bits(same, dx, "vjp")

    simulator.precompiled(body)


def test_bytes_wrap(simulator, chosen):
    arch = arch_of(simulator)
    generator = np.random.default_rng(17)

    def body():
        for dtype in ("int8", "uint8"):
            a, b = (make_numbers(generator, s, dtype, "wide") for s in ((40, 80), (80, 48)))
            chosen.clear()
            with simulator.context(3):
                y, sums = nnk.matmul(a, b), nnk.matmul(a, b, out_dtype="int32")
            cores = dtype == "int8" or arch.startswith("sm")
            assert all(isinstance(c, TensorConfig) == cores for c in chosen)
            if not simulator.recording:
                assert np.array_equal(y, np.matmul(a, b))
                assert np.array_equal(sums, np.matmul(a.astype(np.int32), b.astype(np.int32)))

    simulator.precompiled(body)


@pytest.mark.in_turn
@pytest.mark.parametrize(
    ("first", "second"), [("float16", "bfloat16"), ("float16", "float32"), ("int8", "int16")]
)
def test_two_types_are_for_the_ordinary_product(first, second, simulator, chosen):
    generator = np.random.default_rng(18)
    a, b = make_numbers(generator, (20, 24), first), make_numbers(generator, (24, 32), second)
    with simulator.context():
        nnk.matmul(a, b)
    assert not isinstance(chosen[0], TensorConfig)


def test_precision_is_checked():
    x = np.ones((2, 2), np.float32)
    for call in (nnk.matmul, nnk.gemm, nnk.linear):
        with pytest.raises(ValueError, match="precision must be None"):
            call(x, x, precision="bf16")
        with pytest.raises(TypeError, match="precision must be None"):
            call(x, x, precision=19)


# ---- which tile ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "shape", "tile"),
    [
        ("sm_80", (4096, 4096, 4096), (128, 256, 32, 1)),
        ("sm_80", (2048, 2048, 2048), (128, 128, 32, 1)),
        # Fewer tiles than processors: as many splits as fill them.
        ("sm_80", (128, 4096, 4096), (128, 256, 32, 6)),
        ("sm_80", (512, 512, 512), (64, 64, 64, 1)),
        ("sm_80", (512, 512, 8192), (128, 256, 32, 13)),
        ("sm_80", (32, 4096, 4096), (32, 128, 64, 6)),
        ("sm_80", (16, 4096, 4096), (16, 128, 64, 6)),
        ("sm_80", (4096, 32, 4096), (128, 32, 64, 6)),
        ("sm_80", (4096, 16, 4096), (128, 16, 64, 6)),
        ("sm_90", (4096, 4096, 4096), (128, 256, 32, 1)),
        ("sm_90", (6272, 256, 1024), (128, 128, 32, 1)),  # 98 blocks: splits would not pay
    ],
)
def test_tile_by_shape(arch, shape, tile):
    c = tensor.configure(problem_of("float16", *shape), PROFILES[arch])
    assert (c.tile_m, c.tile_n, c.tile_k, c.splits) == tile
