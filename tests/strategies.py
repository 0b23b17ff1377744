"""Hypothesis strategies: shapes, layouts and numbers."""

from __future__ import annotations

from math import prod

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from layouts import Layout, lay_out

from nnkernels.dispatch.dtypes import ELEMENTS, numpy_dtype

# Below, at and above the widths of vectors, warps and teams.
SIDES = (0, 1, 1, 2, 3, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 100, 129)
NUMBERS = ("ordinary", "ordinary", "wide", "special")


def examples(share: float) -> settings:
    """Settings for a test whose examples are dearer (or cheaper) than others'."""
    return settings(max_examples=max(2, round(settings.default.max_examples * share)))


@st.composite
def shapes(draw, min_rank: int = 0, max_rank: int = 5, most: int = 2000, min_side: int = 0):
    """Shapes of at most so many elements; every fourth or so is empty."""
    rank = draw(st.integers(min_rank, max_rank))
    shape: list[int] = []
    for _ in range(rank):
        room = most // max(prod(shape), 1)
        shape.append(draw(st.sampled_from([n for n in SIDES if min_side <= n <= max(room, 1)])))
    return tuple(draw(st.permutations(shape)))


@st.composite
def layouts(
    draw, shape, itemsize: int, byte_shifts: bool = False, writable: bool = False
) -> Layout:
    """Any order of axes, gaps, reversed and broadcast axes, and a start off alignment.

    Parameters
    ----------
    byte_shifts : bool
        Whether elements may lie at odd addresses: x86 and Arm processors read them, GPUs do not.
    writable : bool
        Whether every element has memory of its own.
    """
    order = draw(st.permutations(range(len(shape))))
    kinds = [1, 1, 1, 2, -1, 3, -2] if writable else [1, 1, 1, 2, -1, 0, 3, -2]
    if draw(st.booleans()):  # dense, and so often one axis after merging
        steps = [1] * len(shape)
    else:
        steps = [draw(st.sampled_from(kinds)) for _ in shape]
    shifts = [0, 0, itemsize, 3 * itemsize] + ([1] if byte_shifts else [])
    return lay_out(shape, itemsize, order, steps, draw(st.sampled_from(shifts)))


@st.composite
def numbers(draw, shape, dtype: str, subnormal: bool = True, kinds=NUMBERS) -> np.ndarray:
    """An array of random numbers, from a seed: ordinary ones, of any size, or special ones."""
    kind = draw(st.sampled_from(kinds))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return make_numbers(generator, shape, dtype, kind, subnormal)


def make_numbers(
    generator: np.random.Generator,
    shape,
    dtype: str,
    kind: str = "ordinary",
    subnormal: bool = True,
) -> np.ndarray:
    """Numbers of one kind.

    ``ordinary`` is a normal distribution of width 2, ``wide`` has magnitudes from 1e-4 to 1e4,
    and ``special`` mixes in infinities, NaN, zeros of both signs, integers, the kinks of
    piecewise functions, the largest and the smallest numbers.
    """
    if ELEMENTS[dtype].kind in "iu":
        limits = np.iinfo(dtype)
        if kind == "ordinary":
            low, high = max(limits.min, -9), 9
        else:
            low, high = limits.min, limits.max
        return generator.integers(low, high, shape, dtype, endpoint=True)
    if ELEMENTS[dtype].kind == "c":
        part = {"complex64": "float32", "complex128": "float64"}[dtype]
        kind = "ordinary" if kind == "special" else kind  # C99's rules are not NumPy's
        real = make_numbers(generator, shape, part, kind, subnormal)
        return (real + 1j * make_numbers(generator, shape, part, kind, subnormal)).astype(dtype)
    values = np.asarray(2.0 * generator.standard_normal(shape))
    if kind == "wide":
        values = np.sign(values) * 10.0 ** generator.uniform(-4, 4, shape)
    if kind == "special":
        chosen = generator.choice(special_values(dtype, subnormal), shape)
        values = np.where(generator.random(shape) < 0.5, chosen, values)
    return values.astype(numpy_dtype(dtype))


def special_values(dtype: str, subnormal: bool = True) -> np.ndarray:
    """Infinities, NaN, zeros, kinks and the ends of the range of a floating type, in float64."""
    kinks = [0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 6.0, 20.0, 88.0, 104.0, 710.0]
    info = _FINFO[dtype]
    ends = [info["largest"], info["tiny"], info["eps"], np.inf]
    if subnormal:
        ends.append(info["smallest"])
    positive = np.array(kinks + ends)
    return np.concatenate([positive, -positive, [np.nan]])


_FINFO = {
    "float16": {"largest": 65504.0, "tiny": 2.0**-14, "eps": 2.0**-10, "smallest": 2.0**-24},
    "bfloat16": {
        "largest": (2 - 2.0**-7) * 2.0**127,
        "tiny": 2.0**-126,
        "eps": 2.0**-7,
        "smallest": 2.0**-133,
    },
    "float32": {
        "largest": (2 - 2.0**-23) * 2.0**127,
        "tiny": 2.0**-126,
        "eps": 2.0**-23,
        "smallest": 2.0**-149,
    },
    "float64": {
        "largest": float(np.finfo(np.float64).max),
        "tiny": 2.0**-1022,
        "eps": 2.0**-52,
        "smallest": 2.0**-1074,
    },
}
