"""Products whose sums are split among blocks and added up in a second launch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from comparing import assert_close, assert_same_bits, wide
from layouts import lay_out, place
from strategies import make_numbers
from threads import same_on_any_threads

import nnkernels as nnk
from nnkernels import registry
from nnkernels.config import matmul as config
from nnkernels.config import matmul_small, matmul_splits
from nnkernels.config.device import PROFILES, Device
from nnkernels.config.matmul_splits import SplitsProblem, splits_on_a_cpu
from nnkernels.config.matmul_tiles import TilesConfig
from nnkernels.dispatch import matmul_launch
from nnkernels.dispatch.dtypes import numpy_dtype

pytestmark = pytest.mark.usefixtures("ordinary_products")

GEMM = registry.find("gemm")
# Shapes of A, B and C, dtypes of operands and of what is added, options, splits.
CASES = (
    (((5, 300), (300, 7), None), ("float32", "float32"), {}, 3),
    (((2, 3, 9, 70), (3, 70, 12), None), ("float32", "float32"), {}, 4),
    (((5, 200), (200, 8), (5, 8)), ("float16", "float16"), {"beta": 0.5, "alpha": -2.0}, 2),
    (((4, 100), (100, 6), (6,)), ("complex64", "complex64"), {"alpha": 1 - 1j}, 5),
    (((3, 90), (90, 4), None), ("int8", "int8"), {"out_dtype": "int32"}, 3),
    (((3, 90), (90, 5), (3, 1)), ("int16", "int16"), {"epilogue": "relu"}, 64),
    (((17, 400), (400, 33), (33,)), ("bfloat16", "float32"), {"epilogue": "relu"}, 3),
    (((6, 64), (64, 6), None), ("float64", "float64"), {"transpose_a": True}, 2),
    # Threads of a GPU share those of a few columns: 4 and 16 of them.
    (((5, 272), (272, 7), (7,)), ("complex64", "complex64"), {"alpha": 1 - 1j}, 17),
    (((9, 1056), (1056, 34), None), ("float16", "float16"), {"epilogue": "relu"}, 66),
)


@pytest.fixture
def force(monkeypatch):
    """A function that makes every product split its sums, in slices of some terms."""
    original = config.configure

    def split(splits, tile_k=16):
        def configure(problem, device):
            chosen = original(problem, device)
            # Matrix units take 64 bytes of terms at once.
            terms = max(tile_k, 64) if isinstance(chosen, TilesConfig) else tile_k
            return replace(chosen, splits=splits, tile_k=terms)

        monkeypatch.setattr(config, "configure", configure)
        monkeypatch.setattr(matmul_small, "is_small", lambda problem: False)
        monkeypatch.setattr(matmul_splits, "CPU_MULTIPLE", 1)

    return split


def operands(generator, shapes, types, options):
    a, b = (make_numbers(generator, s, types[0]) for s in shapes[:2])
    if options.get("transpose_a"):
        a = a.swapaxes(-1, -2).copy()
    c = None if shapes[2] is None else make_numbers(generator, shapes[2], types[1])
    return a, b, c


@pytest.mark.in_turn
def test_split_sums_with_every_epilogue(backend, force, kernels):
    def body():
        generator = np.random.default_rng(80)
        for number, (shapes, types, options, splits) in enumerate(CASES):
            options = dict(options)
            if isinstance(options.get("epilogue"), str):
                options["epilogue"] = getattr(nnk, options["epilogue"])
            force(splits)
            machine.plans.clear()
            a, b, c = operands(generator, shapes, types, options)
            given = [None if x is None else backend.array(x) for x in (a, b, c)]
            with backend.context(number):
                y = nnk.gemm(*given, **options)
            if not backend.recording:
                check(backend.numpy(y), (a, b, c), options)

    machine = backend.machine
    backend.precompiled(body)
    force(3)
    machine.plans.clear()
    kernels.clear()
    with backend.context():
        nnk.matmul(*(backend.array(np.ones(s, np.float32)) for s in ((5, 300), (300, 7))))
    assert kernels[1:] == ["MatmulSplits"]
    assert kernels[0] != "MatmulSplits"
    machine.plans.clear()


def check(y, arrays, options):
    a, b, c = arrays
    expected = GEMM.reference(a, b, c, **options)
    left = wide(a).swapaxes(-1, -2) if options.get("transpose_a") else wide(a)
    scale = abs(options.get("alpha", 1)) * np.matmul(np.abs(left), np.abs(wide(b)))
    if c is not None:
        scale = scale + np.abs(wide(c)) * abs(options.get("beta", 1))
    assert_close(y, np.asarray(expected), left.shape[-1], scale, "split gemm")


@pytest.mark.in_turn
def test_split_sums_of_strided_arrays_in_place(backend, force):
    # Columns of C apart and in reverse, C being what is added; operands of any strides.
    force(4)
    backend.machine.plans.clear()
    generator = np.random.default_rng(81)
    shapes = (2, 9, 150), (2, 150, 12), (2, 9, 12)
    steps = ((1, -2, 1), (0, 1, 3), (2, 1, -1))
    orders = ((0, 1, 2), (0, 2, 1), (1, 0, 2))
    placed = [
        place(make_numbers(generator, s, "float32"), lay_out(s, 4, order, step))
        for s, order, step in zip(shapes, orders, steps, strict=True)
    ]
    a, b, c = (p.view for p in placed)
    before = c.copy()
    arrays = [backend.array(x) for x in (a, b, c)]
    with backend.context():
        nnk.gemm(*arrays, beta=2.0, out=arrays[2])
    check(backend.numpy(arrays[2]), (a, b, before), {"beta": 2.0})
    assert all(p.is_unchanged for p in placed[:2])
    assert placed[2].is_unchanged_outside
    backend.machine.plans.clear()


@pytest.mark.in_turn
def test_the_partial_sums_are_added_in_order(backend, force):
    # What float32 rounds tells the order.
    force(4)
    backend.machine.plans.clear()
    generator = np.random.default_rng(82)
    a, b = (
        make_numbers(generator, (6, 160), "float32"),
        make_numbers(generator, (160, 8), "float32"),
    )
    parts = [slice(i, i + 48) for i in range(0, 160, 48)]
    found = []
    for seed in (1, 2):
        with backend.context(seed):
            found.append(backend.numpy(nnk.matmul(backend.array(a), backend.array(b))))
    force(1)
    backend.machine.plans.clear()
    with backend.context():
        sums = [
            backend.numpy(nnk.matmul(backend.array(a[:, p]), backend.array(b[p]))) for p in parts
        ]
    total = sums[0]
    for part in sums[1:]:
        total = total + part
    assert_same_bits(found[0], found[1], "another order of the threads")
    assert_same_bits(found[0], total, "split sums")
    backend.machine.plans.clear()


@pytest.mark.in_turn
def test_indices_reach_the_end_of_the_workspace(backend, force, monkeypatch):
    force(3)
    a, b = (backend.array(np.ones(s, np.float32)) for s in ((5, 300), (300, 7)))
    for size, index in ((2**30, "int32"), (2**31, "int64")):
        monkeypatch.setattr(matmul_launch, "workspace_bytes", lambda call, splits, size=size: size)
        with backend.noting() as instances, backend.context():
            nnk.matmul(a, b)
        assert f", {index}, " in instances[0].kernel


def test_split_sums_on_any_number_of_threads(cpu, force):
    force(3, tile_k=128)
    generator = np.random.default_rng(83)
    a = make_numbers(generator, (40, 900), "float32")
    b = make_numbers(generator, (900, 50), "float32")
    found = same_on_any_threads(lambda: nnk.matmul(a, b))
    assert_close(found, (wide(a) @ wide(b)).astype(np.float32), 900, scale=300.0)
    cpu.machine.plans.clear()


# ---- how they are added up -------------------------------------------------------------------

CPU = Device("cpu", "host", 1, 2, 512 * 1024, 64, 32 << 20)


@pytest.mark.parametrize(
    ("device", "dtype", "n", "step", "alignment", "vector", "unit_c"),
    [
        (PROFILES["sm_90"], "float32", 64, 256, 16, 4, True),
        (PROFILES["sm_90"], "float32", 66, 264, 16, 2, True),
        (PROFILES["sm_90"], "float32", 65, 260, 16, 1, True),
        (PROFILES["sm_90"], "float32", 64, 256, 8, 4, False),
        (PROFILES["sm_90"], "float32", 64, 264, 16, 4, False),
        (PROFILES["sm_90"], "float16", 64, 136, 8, 4, True),
        (PROFILES["gfx90a"], "complex128", 7, 112, 16, 1, True),
        (CPU, "float32", 65, 260, 1, 16, True),
        (CPU, "complex64", 65, 520, 1, 2, True),
    ],
)
def test_sums_are_read_and_written_16_bytes_at_a_time_where_they_may(
    device, dtype, n, step, alignment, vector, unit_c
):
    size = numpy_dtype(dtype).itemsize
    is_complex = dtype.startswith("complex")
    problem = SplitsProblem(n, (step, size), size, max(size, 4), is_complex, alignment)
    chosen = matmul_splits.configure(problem, device)
    assert (chosen.vector, chosen.unit_c) == (vector, unit_c)
    apart = replace(problem, strides_c=(step, 2 * size))
    assert not matmul_splits.configure(apart, device).unit_c


@pytest.mark.parametrize(
    ("rows", "splits", "teams"),
    [(64, 52, 4), (1, 500, 16), (64, 15, 1), (10000, 500, 1), (500, 500, 4), (64, 64, 16)],
)
def test_threads_share_splits_of_few_columns(rows, splits, teams):
    problem = SplitsProblem(576, (1152, 2), 2, 4, False, 16, rows, splits)
    chosen = matmul_splits.configure(problem, PROFILES["sm_90"])
    assert (chosen.teams, chosen.groups) == (teams, chosen.threads // teams)
    assert chosen.shared_bytes == (chosen.threads * 4 * 4 if teams > 1 else 0)


def test_splits_are_whole_slices():
    for k, splits, tile in ((1000, 3, 16), (17, 64, 16), (16, 1, 16), (4096, 4, 8)):
        terms = matmul_splits.terms_of_split(k, splits, tile)
        assert terms % tile == 0
        assert -(-k // terms) <= splits
        assert splits * terms >= k


# ---- on a CPU -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("m", "n", "k", "batches", "splits"),
    [
        (32, 32, 10**6, 1, 64),
        (8, 8, 100_000, 1, 24),
        (32, 32, 9000, 1, 2),
        (32, 32, 8191, 1, 1),
        (8, 8, 10_000, 1, 1),  # little work
        (190, 190, 10**6, 1, 29),  # so much of partial sums
        (300, 300, 10**6, 1, 1),  # blocks enough
        (32, 32, 10**6, 16, 1),
        (32, 32, 10**6, 15, 64),
        (1, 1, 10**7, 1, 64),
    ],
)
def test_long_sums_are_split_on_a_cpu(m, n, k, batches, splits):
    assert splits_on_a_cpu(m, n, k, batches, 4) == splits


@pytest.mark.parametrize("dtype", ["float32", "complex64", "int32"])
def test_long_sums_on_a_cpu(dtype, cpu, kernels):
    generator = np.random.default_rng(85)
    x1 = make_numbers(generator, (3, 33_000), dtype)
    x2 = make_numbers(generator, (33_000, 9), dtype)
    found = same_on_any_threads(lambda: nnk.matmul(x1, x2))
    assert kernels[1::2] == ["MatmulSplits"] * 4
    check(found, (x1, x2, None), {})
    assert_same_bits(found, nnk.matmul(x1.copy("F"), x2.copy("F")), "operands by columns")


@pytest.mark.parametrize(("m", "first"), [(100, "MatmulPacked"), (12, "MatmulRows")])
def test_the_ranges_of_long_sums_do_not_depend_on_how_operands_lie(m, first, cpu, kernels):
    # Slices do: of 128 terms or 192 where rows of B are long, of 512 where it lies by columns.
    generator = np.random.default_rng(86)
    x1 = make_numbers(generator, (m, 9000), "float32")
    x2 = make_numbers(generator, (9000, 300), "float32")
    by_rows = nnk.matmul(x1, x2)
    assert kernels == [first, "MatmulSplits"]
    assert_same_bits(by_rows, nnk.matmul(x1, x2.copy("F")), "B by columns")
    assert kernels[2:] == ["MatmulPacked", "MatmulSplits"]
