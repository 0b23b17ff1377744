"""Products of every kind of shape on every machine: which kernel runs, and that it is right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from comparing import assert_product, assert_same_numbers, wide
from strategies import make_numbers

import nnkernels as nnk


def kernel_of_a_gpu(dtype, arch):
    """What multiplies matrices of which no side is tiny."""
    has_cores = dtype == "float16" or (dtype == "float32" and arch.startswith("gfx9"))
    return "MatmulTensor" if has_cores else "MatmulSimt"


def is_large(c):
    return c.tile_m * c.tile_n >= 128 * 128


def is_wide(c):
    return c.tile_m <= 32 and c.tile_n >= 2 * c.tile_m


def is_tall(c):
    return c.tile_n <= 32 and c.tile_m >= 2 * c.tile_n


def has_several(c):
    return c.teams > 1


# Shapes of both operands on a CPU, and its kernels; shapes on a GPU of so many processors, what its
# tile must be, and whether its sums are split.
REGIMES = {
    "large square": (
        ((300, 600), (600, 400)), ["MatmulPacked"],
        ((256, 40), (40, 256)), 1, is_large, False,
    ),
    "few rows": (
        ((16, 1100), (1100, 1003)), ["MatmulRows"],
        ((16, 40), (40, 1000)), 1, is_wide, False,
    ),
    "few rows, packed": (
        ((32, 300), (300, 700)), ["MatmulPacked"],
        ((30, 40), (40, 1000)), 1, is_wide, False,
    ),
    "few columns": (
        ((700, 300), (300, 16)), ["MatmulPacked"],
        ((1000, 40), (40, 16)), 1, is_tall, False,
    ),
    "fewer tiles than processors": (
        ((20, 9000), (9000, 30)), ["MatmulPacked", "MatmulSplits"],
        ((40, 1600), (1600, 60)), 40, None, True,
    ),
    "many small ones": (
        ((90, 16, 16), (90, 16, 16)), ["MatmulSmall"],
        ((50, 7, 8), (50, 8, 8)), 8, has_several, False,
    ),
    "very long sums": (
        ((8, 70_000), (70_000, 8)), ["MatmulPacked", "MatmulSplits"],
        ((8, 20_000), (20_000, 8)), 40, None, True,
    ),
}  # fmt: skip


def spoiled(generator, shapes, dtype):
    """Operands with a number that is not finite in the first and in the last term of a sum."""
    x1, x2 = (make_numbers(generator, shape, dtype) for shape in shapes)
    x1[..., 0, -1], x1[..., 1, 0], x2[..., -1, 0] = np.nan, np.inf, -np.inf
    return x1, x2


def assert_right(y, x1, x2):
    """Right, and not finite only where it should be."""
    with np.errstate(invalid="ignore"):
        exact = np.matmul(wide(x1), wide(x2))
    assert np.array_equal(np.isnan(y), np.isnan(exact))
    assert np.array_equal(np.isinf(y), np.isinf(exact))
    assert_product(y[..., 2:, 1:], x1[..., 2:, :], x2[..., 1:])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_products_of_matrices(dtype, backend, chosen, kernels, monkeypatch):
    machine, arch = backend.machine, backend.device.arch

    def run(x1, x2):
        machine.plans.clear()
        chosen.clear()
        kernels.clear()
        with backend.context():
            return backend.numpy(nnk.matmul(backend.array(x1), backend.array(x2)))

    def body():
        generator = np.random.default_rng(100)
        for name, (of_cpu, expected, of_gpu, processors, fits, split) in REGIMES.items():
            if backend.is_cpu:
                x1, x2 = spoiled(generator, of_cpu, dtype)
                if dtype == "float16":  # which is converted, or split, as it is packed
                    has_tiles = "amx_bf16" in machine.device.features and machine.allows_tiles()
                    on_tiles = has_tiles and min(x1.shape[-2], x2.shape[-1]) > 16
                    expected = ["MatmulTiles" if on_tiles else "MatmulPacked", *expected[1:]]
            else:
                x1, x2 = spoiled(generator, of_gpu, dtype)
                tiny = max(x1.shape[-2], x2.shape[-1]) < 16
                expected = ["MatmulSimt" if tiny else kernel_of_a_gpu(dtype, arch)]
                expected += ["MatmulSplits"] if split else []
                device = replace(machine.device, processors=processors)
                monkeypatch.setattr(machine, "device", device)
            y = run(x1, x2)
            assert kernels == expected, name
            if not backend.is_cpu:
                (c,) = chosen
                assert fits is None or fits(c), (name, c)
                assert (c.splits > 1) == split, (name, c)
            padding = (*(x2.ndim - 1) * ((0, 0),), (0, 5))
            other = run(np.repeat(x1, 2, axis=-1)[..., ::2], np.pad(x2, padding)[..., :-5])
            if not backend.recording:
                assert_right(y, x1, x2)
                assert_same_numbers(y, other, f"{name}: views with gaps")

    backend.precompiled(body)
    machine.plans.clear()


def test_products_of_a_matrix_and_a_vector(backend, kernels):
    generator = np.random.default_rng(101)
    by_rows = make_numbers(generator, (300, 200), "float32")
    by_columns = np.asfortranarray(by_rows)
    x, z = (make_numbers(generator, (n,), "float32") for n in (200, 300))

    def body():
        for a, vector, transpose, kernel in (
            (by_rows, x, False, "GemvAlong"),
            (by_columns, x, False, "GemvAcross"),
            (by_rows, z, True, "GemvAcross"),
            (by_columns, z, True, "GemvAlong"),
        ):
            backend.machine.plans.clear()
            kernels.clear()
            with backend.context():
                y = nnk.gemv(backend.array(a), backend.array(vector), transpose_a=transpose)
            assert kernels == [kernel]
            if not backend.recording:
                assert_product(backend.numpy(y), a.T if transpose else a, vector)

    backend.precompiled(body)
