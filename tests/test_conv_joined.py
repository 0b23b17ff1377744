"""Phases of transposed convolutions that are joined to one product."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from comparing import assert_same_bits
from convolving import BY_DATA, TRANSPOSE, Geometry
from layouts import channels_last

import nnkernels as nnk
from nnkernels.config import conv as config
from nnkernels.config import conv_tensor
from nnkernels.config.conv import COLUMNS, ROWS
from nnkernels.config.device import PROFILES, Device
from nnkernels.dispatch import conv_joined, machines
from nnkernels.dispatch.dtypes import numpy_dtype

CPU = Device("cpu", "host", 1, 2, 512 * 1024, 64, 8 << 20)
# Shape of dx, of weights, and options. Sizes that are multiples of the strides, and others; kernels
# smaller than the stride, and of any remainder; padding on one side, and larger than the kernel.
CASES = [
    ((2, 3, 12, 14), (9, 3, 7, 7), {"stride": 2, "padding": 3}),
    ((1, 3, 13, 15), (12, 3, 4, 5), {"stride": 2, "padding": ((3, 0), (6, 1))}),
    ((2, 2, 11, 9), (20, 2, 2, 3), {"stride": (3, 1), "flip": True}),
    ((3, 4, 31), (22, 2, 5), {"stride": 3, "padding": 2, "groups": 2}),
    ((1, 1, 5, 6, 7), (10, 1, 3, 2, 3), {"stride": (2, 1, 3), "padding": 1}),
]


def whole_numbers(rng, shape, dtype):
    """Whose sums of products are exact, in any order."""
    x = rng.integers(-3, 4, shape).astype("f")
    if dtype == "complex64":
        x = x + 1j * rng.integers(-3, 4, shape)
    return x.astype(numpy_dtype(dtype))


@pytest.fixture
def joined(monkeypatch, cpu):
    """What is joined; everything that can be is."""
    found, join = [], conv_joined.join_phases
    monkeypatch.setattr(machines.for_numpy(), "plans", {})
    monkeypatch.setattr(config, "joins_phases", lambda rows, phases, *_: phases > 1)
    monkeypatch.setattr(
        "nnkernels.dispatch.conv_by_data.join_phases",
        lambda *a: found.append(join(*a)) or found[-1],
    )
    return found


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        (np.ascontiguousarray, "float32"),
        (channels_last, "float32"),
        (np.ascontiguousarray, "bfloat16"),
        (channels_last, "bfloat16"),
        (channels_last, "complex64"),
    ],
)
def test_any_geometry(layout, dtype, joined, cpu):
    """Results are exact, for the gradient by the image and for the op itself with a bias."""

    def right(result, expected, what):
        assert joined.pop() is not None
        if not cpu.recording:
            np.testing.assert_array_equal(result, expected.astype(result.dtype), what)

    def body():
        rng = np.random.default_rng(1)
        for shape, weight_shape, options in CASES if dtype == "float32" else CASES[1:3]:
            weight = whole_numbers(rng, weight_shape, dtype)
            y_shape = Geometry(shape, weight_shape, options).y
            dy = layout(whole_numbers(rng, y_shape, dtype))
            dx = nnk.conv_backward_data(dy, weight, shape, **options)
            expected = BY_DATA.reference(dy, weight, x_shape=shape, **options)
            right(dx, expected, f"{shape} {options}")
            if dtype != "float32" or shape != CASES[1][0]:
                continue
            bias = whole_numbers(rng, (shape[1],), dtype)
            given = {k: v for k, v in options.items() if k != "flip"}
            result = nnk.conv_transpose(dy, weight, bias, **given)
            right(result, TRANSPOSE.reference(dy, weight, bias, **given), f"{shape}, bias")

    cpu.precompiled(body)


def test_what_is_not_joined(joined, cpu):
    """Dilation, no stride, fewer elements than phases, few channels, a function, other wishes."""
    rng = np.random.default_rng(2)
    dy, weight = (rng.standard_normal(s).astype("f") for s in ((1, 9, 5, 5), (9, 3, 3, 3)))
    with cpu.noting():
        nnk.conv_transpose(dy, weight, stride=2, dilation=2)
        nnk.conv_transpose(dy, weight)
        nnk.conv_backward_data(dy[..., :1, :1], weight, (1, 3, 1, 9), stride=(2, 9), padding=1)
        assert joined == [None, None, None]
        nnk.conv_transpose(dy[:, :2], weight[:2], stride=2)
        nnk.conv_transpose(dy, weight, stride=2, epilogue=nnk.fuse(lambda y: y * y))
    direct = nnk.conv_transpose(dy, weight, stride=2, algorithm="direct")
    assert len(joined) == 3
    assert_same_bits(direct, nnk.conv_transpose(dy, weight, stride=2, algorithm="direct"), "again")
    dy[0, 0, 2, 2] = np.inf
    # Only what sees an infinity has it, unless phases are joined.
    there = np.isfinite(nnk.conv_transpose(dy, weight, stride=2, algorithm="direct"))
    assert np.count_nonzero(~there) == 3 * 3 * 3


@pytest.mark.parametrize("layout", [np.ascontiguousarray, channels_last])
@pytest.mark.dtypes(of=lambda arch: ("float16",) if arch in ("sm_90", "gfx90a") else ())
def test_a_gpu_joins_phases_of_few_rows(layout, dtype, simulator, kernels):
    """Two groups, odd sizes, strides that differ, three axes; zeros for what no tap sees."""
    rng = np.random.default_rng(3)
    cases = [
        ((2, 3, 12, 14), (8, 3, 7, 7), {"stride": 2, "padding": 3}),
        ((1, 2, 13, 15), (16, 1, 4, 5), {"stride": 2, "padding": ((3, 0), (6, 1)), "groups": 2}),
        ((1, 2, 11, 9), (24, 2, 2, 3), {"stride": (3, 1), "flip": True}),
        ((1, 1, 5, 6, 7), (8, 1, 3, 2, 3), {"stride": (2, 1, 3), "padding": 1}),
    ]
    made = []
    for shape, weight_shape, options in cases:
        weight = whole_numbers(rng, weight_shape, dtype)
        dy = layout(whole_numbers(rng, Geometry(shape, weight_shape, options).y, dtype))
        made.append((dy, weight, shape, options))
    results = []

    def body():
        results.clear()
        with simulator.context(5):
            for dy, weight, shape, options in made:
                results.append(nnk.conv_backward_data(dy, weight, shape, **options))

    simulator.precompiled(body)
    assert {"ConvJoinedWeights", "MatmulTensor"} <= {*kernels}
    for dx, (dy, weight, shape, options) in zip(results, made, strict=True):
        expected = BY_DATA.reference(dy, weight, x_shape=shape, **options)
        np.testing.assert_array_equal(dx, expected.astype(dx.dtype), f"{shape} {options}")


@pytest.mark.parametrize(
    ("element", "rows", "phases", "expected"),
    [
        ("half", 3, 4, True), ("half", 4, 4, False), ("half", 3, 1, False), ("half", 1, 3, False),
        ("half", 1, 4, True), ("float", 3, 4, False),
    ],
)  # fmt: skip
def test_what_a_gpu_joins(element, rows, phases, expected):
    assert conv_tensor.joins_phases(element, rows, phases, PROFILES["sm_90"]) is expected


@pytest.mark.parametrize(
    ("rows", "phases", "taps", "pixels", "expected"),
    [
        # Images of three channels, kernels of 7x7, 4x4 and 2x2 at stride 2.
        (3, 4, (49, 16), COLUMNS, True),
        (3, 4, (49, 16), ROWS, True),
        (3, 4, (16, 9), ROWS, True),
        (3, 4, (4, 1), COLUMNS, True),
        # Many rows: a joined product multiplies more zeros than it saves.
        (64, 4, (49, 16), COLUMNS, False),
        (64, 4, (49, 16), ROWS, False),
        (64, 4, (16, 9), ROWS, False),
        # Nothing to join.
        (3, 1, (49, 49), ROWS, False),
    ],
)
def test_what_pays(rows, phases, taps, pixels, expected):
    terms = 64 * taps[0], 64 * taps[1]
    assert config.joins_phases(rows, phases, terms, pixels, 16, CPU) is expected
    # By any number of threads, since bits depend on it; never on a GPU.
    many = replace(CPU, processors=64)
    assert config.joins_phases(rows, phases, terms, pixels, 16, many) is expected
    assert not config.joins_phases(rows, phases, terms, pixels, 16, PROFILES["sm_80"])
