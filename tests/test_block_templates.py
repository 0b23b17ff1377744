"""The templates for users' kernels: against NumPy, in the simulator and on a GPU."""

from __future__ import annotations

from pathlib import Path

import gpu_compilers
import ml_dtypes
import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import own
from nnkernels.compile import clang, cxx
from nnkernels.config.device import PROFILES
from nnkernels.inspection import amd, nvidia
from nnkernels.reference import matmul as reference_matmul
from nnkernels.reference import norm as reference_norm
from nnkernels.reference import rows as reference_rows

SOURCE = Path(__file__).parent / "native" / "block_kernels.cu"
CODE = SOURCE.read_text()
THREADS = 96
MACHINES = ("sim:sm_90", "sim:gfx90a")

needs_compiler = pytest.mark.skipif(cxx.find_compiler() is None, reason="no C++ compiler")


@pytest.fixture(scope="module")
def module():
    return own.RawModule(CODE, path=SOURCE.name)


@pytest.fixture(params=MACHINES)
def launch(request, module):
    """Launches a kernel in a simulator, with NumPy arrays."""
    if cxx.find_compiler() is None:
        pytest.skip("no C++ compiler")

    def run(name, grid, block, args, shared_mem=0, seed=0):
        with nnk.use_backend(request.param, seed=seed):
            module.get_function(name)(grid, (block,), args, shared_mem=shared_mem)

    run.machine = request.param
    return run


def numbers(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def nans(*shape, dtype=np.float32):
    return np.full(shape, np.nan, dtype)


def assert_close(y, expected, tolerance):
    error = np.abs(np.asarray(y, np.float64) - np.asarray(expected, np.float64))
    assert (error <= tolerance * (1 + np.abs(np.asarray(expected, np.float64)))).all()


# ---- rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (13, 10), (200, 3), (5, 64), (0, 7)])
@pytest.mark.parametrize(
    ("name", "op"),
    [
        ("softmax_by_threads", "softmax"),
        ("softmax_by_lanes", "softmax"),
        ("log_softmax_by_warps", "log_softmax"),
        ("logsumexp_by_blocks", "logsumexp"),
    ],
)
def test_rows_of_softmax(launch, name, op, rows, length):
    wide = numbers(rows, length + 3, seed=rows) * 10
    x = wide[:, :length]
    if rows > 4:
        x[3] = -np.inf
        x[2, 0] = np.inf
    expected = getattr(reference_rows, op)(x, axis=-1)
    y = nans(rows, 1 if op == "logsumexp" else length)
    launch(name, (1,), THREADS, (wide, y, rows, length, length + 3), seed=rows)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(y.reshape(expected.shape), expected, rtol=3e-6, atol=1e-6)


def test_a_row_in_shared_memory_in_place(launch):
    x = numbers(3, 150, dtype=np.float16)
    y = nans(3, 150, dtype=np.float16)
    launch("softmax_of_a_row", (3,), THREADS, (x, y, 150), shared_mem=300)
    assert_close(y, reference_rows.softmax(x, axis=-1), 1e-3)


@pytest.mark.parametrize("length", [4, 1000, 1024])
def test_a_row_of_vectors(launch, length):
    x, y = numbers(2, length), nans(2, length)
    launch("softmax_of_a_wide_row", (2,), THREADS, (x, y, length))
    assert_close(y, reference_rows.softmax(x, axis=-1), 1e-6)


@needs_compiler
def test_a_row_that_is_longer_than_was_said(module):
    kernel = module.get_function("softmax_of_a_wide_row")
    x = numbers(1028)
    with pytest.raises(nnk.BackendError, match=r"out of bounds: .* extent 1024"):
        kernel((1,), (THREADS,), (x, x.copy(), 1028))


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (13, 10), (30, 77)])
def test_rows_of_layer_norm(launch, rows, length):
    wide = 1e3 + numbers(rows, length + 1)
    weight, bias = numbers(length, seed=1), numbers(length, seed=2).astype(ml_dtypes.bfloat16)
    y = nans(rows, length)
    launch("layer_norm", (1,), THREADS, (wide, y, weight, bias, rows, length, length + 1))
    x = wide[:, :length].astype(np.float64)
    deviation = x - x.mean(1, keepdims=True)
    expected = deviation / np.sqrt((deviation**2).mean(1, keepdims=True) + 1e-5)
    assert_close(y, expected * weight + bias.astype(np.float64), 1e-5)


def test_a_row_of_rms_norm(launch):
    x, weight = numbers(4, 200, dtype=np.float64), numbers(200)
    y = nans(4, 200, dtype=np.float64)
    launch("rms_norm", (4,), THREADS, (x, y, weight, 200))
    root = np.sqrt((x**2).mean(1, keepdims=True) + np.float32(1e-6))
    assert_close(y, x / root * weight, 1e-13)


def test_templates_one_after_the_other(launch):
    x, y = numbers(20, 50), nans(20, 50)
    for seed in range(4):
        launch("norm_and_softmax", (1,), THREADS, (x, y, 20, 50), seed=seed)
        expected = reference_rows.softmax(reference_norm.layer_norm(x), axis=-1)
        assert_close(y, expected, 1e-6)


# ---- reductions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 96, 1000])
def test_reductions(launch, n):
    x = 1 + 0.01 * numbers(n)
    y = nans(THREADS, 3)
    launch("reductions", (1,), THREADS, (x, y, n), seed=n)
    exact = x.astype(np.float64)
    assert_close(y, np.broadcast_to([exact.sum(), exact.max(), exact.prod()], y.shape), 1e-5)
    assert (y == y[0]).all()  # every thread has the same bits


# ---- products -----------------------------------------------------------------------------------

SHAPES = [(1, 1, 1), (33, 70, 19), (64, 64, 0), (5, 100, 64)]


def grid_of(m, n, tile_m, tile_n):
    # One row of blocks more than there are tiles: it has nothing to do.
    return (-(-n // tile_n), -(-m // tile_m) + 1)


@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_products(launch, m, n, k):
    a, b, c = numbers(m, k), numbers(k, n, seed=1), nans(m, n)
    launch("product", grid_of(m, n, 32, 64), 128, (a, b, c, m, n, k), shared_mem=16384)
    assert_close(c, reference_matmul.matmul(a, b), 1e-5)


@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_products_of_lines_and_a_function(launch, m, n, k):
    a, b = numbers(m, k, dtype=np.float64), numbers(n, k, seed=1, dtype=np.float64)
    c, bias = nans(m, n, dtype=np.float64), numbers(n, seed=2, dtype=np.float64)
    arguments = (a, b, c, bias, m, n, k)
    launch("product_of_lines", grid_of(m, n, 32, 32), 64, arguments, shared_mem=16384)
    sums = a @ b.T
    expected = np.where(sums > 0, sums + bias, -np.arange(m)[:, None])
    assert_close(c, expected, 1e-12)


def core_threads(launch, warps):
    return warps * (64 if "gfx90a" in launch.machine else 32)


@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_products_on_matrix_cores(launch, m, n, k):
    a, b = (numbers(*s, seed=i).astype(ml_dtypes.bfloat16) for i, s in enumerate([(m, k), (k, n)]))
    c = nans(m, n)
    block = core_threads(launch, 2)
    launch("tensor_product", grid_of(m, n, 64, 32), block, (a, b, c, m, n, k), shared_mem=12288)
    assert_close(c, a.astype(np.float64) @ b.astype(np.float64), 1e-5)


def test_a_product_of_what_is_in_shared_memory(launch):
    x, w = numbers(64, 64, dtype=np.float16), numbers(2, 64, 64, seed=1, dtype=np.float16) / 8
    w = w.astype(np.float16)
    y = nans(64, 64, dtype=np.float16)
    launch("two_products", (2,), core_threads(launch, 2), (x, w, y), shared_mem=64 + 12288)
    hidden = np.maximum(x.astype(np.float64) @ w[0].T, 0).astype(np.float16)
    assert_close(y, hidden.astype(np.float64) @ w[1].T, 2e-3)


# ---- encodings ----------------------------------------------------------------------------------


def test_fourier_features(launch):
    x, octaves = numbers(40, 3) * 4, 10
    y = nans(40, 2 * 3 * octaves)
    launch("encode", (1,), THREADS, (x, y, 40, 3, octaves))
    angle = np.pi * np.ldexp(x.astype(np.float64)[:, :, None], np.arange(octaves))
    expected = np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(40, -1)
    # As exact for angles of thousands of turns as for small ones.
    assert np.abs(y - expected).max() < 1e-6


# ---- machine code -------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", [gpu_compilers.parameter(a) for a in ("sm_80", "sm_90", "gfx90a")])
def test_machine_code(arch):
    found = (nvidia if PROFILES[arch].machine == "cuda" else amd).resources(CODE, arch)
    assert set(found) >= {"softmax_by_lanes", "tensor_product", "encode"}
    for name, resources in found.items():
        assert resources.spill_bytes == 0, name
        # Clang 15 leaves up to 9 bytes on the stack where rows are in shared memory.
        assert resources.local_bytes <= (12 if arch == "gfx90a" else 0), name
    if found["softmax_of_a_wide_row"].loads:  # there is a disassembler
        assert found["softmax_of_a_wide_row"].loads[16] == 3
        assert found["softmax_of_a_wide_row"].stores[16] == 3


@pytest.mark.parametrize("arch", ["gfx942", "gfx1100"])
@gpu_compilers.needs_clang
def test_amd_by_clang(arch):
    kernels = gpu_compilers.clang_kernels(clang.compile_assembly(CODE, arch))
    wanted = "v_mfma" if arch == "gfx942" else "v_wmma"
    assert any(i.startswith(wanted) for i in kernels["tensor_product"])
