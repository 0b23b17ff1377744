"""How convolutions are made on a GPU: pure functions of the problem and the device."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nnkernels.config import conv_simt
from nnkernels.config.conv import COLUMNS, ROWS, TERMS, ConvProblem
from nnkernels.config.device import PROFILES
from nnkernels.config.matmul_problem import COLUMNS_FAST, ROWS_FAST, MatmulProblem

GPUS = list(PROFILES.values())
CHANNELS, OUTPUTS, SIDE, TAPS = 64, 128, 56, 9
PIXELS = 32 * SIDE * SIDE


def problem(pixels, channels_fast, scattered, itemsize=4, compute=4, **changes):
    """A convolution of 32 large images, or a gradient of one."""
    m, n, k = {
        COLUMNS: (OUTPUTS, PIXELS, CHANNELS * TAPS),
        ROWS: (PIXELS, OUTPUTS, CHANNELS * TAPS),
        TERMS: (OUTPUTS, CHANNELS * TAPS, PIXELS),
    }[pixels]
    of_product = {
        "strides_a": (k * itemsize, itemsize) if pixels == COLUMNS else (SIDE * SIDE * itemsize, 0),
        "strides_b": (itemsize, k * itemsize) if pixels == ROWS else (0, 0),
        "strides_c": {
            COLUMNS: (SIDE * SIDE * itemsize, 0 if scattered else itemsize),
            ROWS: (0 if scattered else n * itemsize, itemsize),
            TERMS: (n * itemsize, itemsize),
        }[pixels],
        "reach": 10**8,
        "alignments": (16, 16, 16),
    } | {key: changes.pop(key) for key in list(changes) if key in MatmulProblem.__annotations__}
    return ConvProblem(
        product=MatmulProblem(
            m=m, n=n, k=k, itemsizes=(itemsize,) * 3, compute_itemsize=compute, is_complex=False,
            **of_product,
        ),
        pixels=pixels, channels_fast=channels_fast, scattered=scattered, kernel=(1, 3, 3),
        **{
            "channels": CHANNELS, "image_alignment": 16, "pixels_alignment": 16,
            "run": 1 if channels_fast else SIDE * SIDE,
        } | changes,
    )  # fmt: skip


def loads(c):
    p = c.product
    return (p.fast_a, p.vector_a), (p.fast_b, p.vector_b), p.unit_c


TERM, OUTER_A, OUTER_B = COLUMNS_FAST, ROWS_FAST, COLUMNS_FAST


@pytest.mark.parametrize(
    ("given", "changes", "expected"),
    [
        # Pixels of the image one by one, weights by terms, results in groups.
        ((COLUMNS, False, False), {}, ((TERM, 4), (OUTER_B, 1), True)),
        ((COLUMNS, False, True), {}, ((TERM, 4), (OUTER_B, 1), True)),
        ((COLUMNS, False, True), {"run": 49}, ((TERM, 4), (OUTER_B, 1), False)),
        ((COLUMNS, False, True), {"run": 1}, ((TERM, 4), (OUTER_B, 1), False)),
        ((COLUMNS, False, True), {"pixels_alignment": 4}, ((TERM, 4), (OUTER_B, 1), False)),
        ((COLUMNS, False, True), {"strides_c": (4 * 49, 0)}, ((TERM, 4), (OUTER_B, 1), False)),
        # Channels of the image, as many as lie in a tap and are aligned.
        ((ROWS, True, False), {}, ((TERM, 4), (ROWS_FAST, 4), True)),
        ((ROWS, True, False), {"channels": 6}, ((TERM, 2), (ROWS_FAST, 4), True)),
        ((ROWS, True, False), {"image_alignment": 4}, ((TERM, 1), (ROWS_FAST, 4), True)),
        ((ROWS, True, False), {"itemsize": 2}, ((TERM, 8), (ROWS_FAST, 8), True)),
        ((ROWS, True, False), {"itemsize": 8, "compute": 8}, ((TERM, 2), (ROWS_FAST, 2), True)),
        ((ROWS, True, True), {}, ((TERM, 4), (ROWS_FAST, 4), True)),
        ((ROWS, True, True), {"strides_c": (0, 8)}, ((TERM, 4), (ROWS_FAST, 4), False)),
        ((ROWS, True, True), {"pixels_alignment": 8}, ((TERM, 4), (ROWS_FAST, 4), False)),
        # Pixels as terms: of A along rows of the image, as far as they follow each other; of the
        # image one by one, or adjacent channels as columns.
        ((TERMS, False, True), {}, ((TERM, 4), (ROWS_FAST, 1), True)),
        ((TERMS, False, True), {"run": 49}, ((TERM, 1), (ROWS_FAST, 1), True)),
        ((TERMS, False, True), {"run": 50}, ((TERM, 2), (ROWS_FAST, 1), True)),
        ((TERMS, False, True), {"strides_a": (4 * 49, 0)}, ((TERM, 1), (ROWS_FAST, 1), True)),
        ((TERMS, False, True), {"itemsize": 2}, ((TERM, 8), (ROWS_FAST, 1), True)),
        ((TERMS, True, False), {"strides_a": (4, 512)}, ((OUTER_A, 4), (OUTER_B, 4), True)),
        ((TERMS, True, True), {"strides_a": (4, 0)}, ((OUTER_A, 4), (OUTER_B, 4), True)),
        ((TERMS, True, True), {"strides_a": (4, 0), "pixels_alignment": 8},
         ((OUTER_A, 2), (OUTER_B, 4), True)),
        ((TERMS, True, False), {"strides_a": (4, 512), "channels": 3},
         ((OUTER_A, 4), (OUTER_B, 1), True)),
    ],
)  # fmt: skip
def test_accesses_are_as_wide_as_channels_and_runs_allow(given, changes, expected):
    for device in GPUS:
        assert loads(conv_simt.configure(problem(*given, **changes), device)) == expected


@pytest.mark.parametrize("pixels", [COLUMNS, ROWS, TERMS])
def test_tiles_and_splits_are_those_of_the_product(pixels):
    for device in GPUS:
        large = conv_simt.configure(problem(pixels, pixels != COLUMNS, True), device).product
        # The largest tile has no registers for places.
        assert large.micro_m * large.micro_n == 64
        assert large.threads <= 128
        assert (large.splits > 1) == (pixels == TERMS)
        few = problem(pixels, pixels != COLUMNS, False)
        few = replace(few, product=replace(few.product, m=8, n=8, k=10**5))
        assert conv_simt.configure(few, device).product.splits > 8
        far = replace(few, product=replace(few.product, reach=2**40))
        assert conv_simt.configure(far, device).product.index == "q"


def test_shared_memory_has_room_for_places():
    device = PROFILES["sm_80"]
    for given, words in (
        ((COLUMNS, False, True), 4), ((ROWS, True, True), 4),
        ((TERMS, False, False), 4), ((TERMS, False, True), 5),
    ):  # fmt: skip
        c = conv_simt.configure(problem(*given), device)
        tables = 2 * c.product.tile_k * words * 4
        assert c.shared_bytes(100, 4) == c.product.shared_elements(100) * 4 + tables
        long = replace(c, product=replace(c.product, index="q"))
        assert long.shared_bytes(100, 4) == c.shared_bytes(100, 4) + tables


def test_the_workspace_of_split_sums_is_not_scattered():
    device = PROFILES["sm_80"]
    for pixels, stays in ((COLUMNS, False), (ROWS, False), (TERMS, True)):
        c = conv_simt.configure(problem(pixels, pixels == ROWS, True), device)
        part = c.for_workspace(64, 4, "q")
        assert part.scattered == stays
        assert part.product.unit_c
        assert part.product.index == "q"
