"""Sampling at the points of a grid: the specification, in NumPy and float64."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

A = -0.75  # of the cubic convolution


def _places(grid: Any, size: int, align: bool) -> tuple[np.ndarray, np.ndarray]:
    """Places among the elements of an axis, and their derivatives."""
    g = grid.astype(np.float64)
    if align:
        return (g + 1) / 2 * (size - 1), np.full(g.shape, (size - 1) / 2)
    return ((g + 1) * size - 1) / 2, np.full(g.shape, size / 2)


def _clip(at: np.ndarray, slope: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    outside = ~(at > 0) | (at >= size - 1)
    return np.where(at > 0, np.minimum(at, size - 1), 0.0), np.where(outside, 0.0, slope)


def _reflect(
    at: np.ndarray, slope: np.ndarray, size: int, align: bool
) -> tuple[np.ndarray, np.ndarray]:
    low, span = (0.0, size - 1.0) if align else (-0.5, float(size))
    if span == 0:
        return np.zeros_like(at), np.zeros_like(at)
    wave = np.mod(at - low, 2 * span)
    falls = wave > span
    mirrored = np.where(falls, 2 * span - wave, wave) + low
    mirrored = np.where(np.isfinite(at), mirrored, np.nan)
    return _clip(mirrored, np.where(falls, -slope, slope), size)


def _cubic(t: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    distances = [1 + t, t, 1 - t, 2 - t]
    weights, slopes = [], []
    for k, d in enumerate(distances):
        if k in (1, 2):
            weights.append((A + 2) * d**3 - (A + 3) * d**2 + 1)
            slope = 3 * (A + 2) * d**2 - 2 * (A + 3) * d
        else:
            weights.append(A * d**3 - 5 * A * d**2 + 8 * A * d - 4 * A)
            slope = 3 * A * d**2 - 10 * A * d + 8 * A
        slopes.append(slope if k < 2 else -slope)
    return weights, slopes


def _axis(
    grid: Any, size: int, mode: str, padding_mode: str, align: bool
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each tap of an axis: its element (-1: none), its weight, and the derivative of that."""
    with np.errstate(invalid="ignore"):
        at, slope = _places(grid, size, align)
        if mode != "cubic" and padding_mode == "border":
            at, slope = _clip(at, slope, size)
        if mode != "cubic" and padding_mode == "reflection":
            at, slope = _reflect(at, slope, size, align)
        if mode == "cubic" and padding_mode == "reflection":
            period = 2 * (size - 1) if align else 2 * size
            at = np.mod(at, period) if period else 0 * at
            at = np.where(np.isfinite(at), at, 0.0)
    at = np.where(at > -8, np.minimum(at, 3 * size + 8), -8.0)
    if mode == "nearest":
        return [(_bounded(np.rint(at), size), np.ones_like(at), np.zeros_like(at))]
    low = np.floor(at)
    if mode == "linear":
        t = at - low
        return [
            (_bounded(low, size), 1 - t, -slope),
            (_bounded(low + 1, size), t, slope),
        ]
    weights, slopes = _cubic(at - low)
    return [
        (_bounded(low + k - 1, size, padding_mode, align), weights[k], slopes[k] * slope)
        for k in range(4)
    ]


def _bounded(
    places: np.ndarray, size: int, padding_mode: str = "zeros", align: bool = False
) -> np.ndarray:
    i = places.astype(np.int64)
    if padding_mode == "border":
        return np.clip(i, 0, size - 1)
    if padding_mode == "reflection":
        period = 2 * (size - 1) if align else 2 * size
        i = np.mod(i, period) if period else 0 * i
        return np.where(i < size, i, period - i - (0 if align else 1))
    return np.where((i >= 0) & (i < size), i, -1)


def _all_taps(x: Any, grid: Any, mode: str, padding_mode: str, align: bool) -> Any:
    """For each combination of taps: its element of a plane (-1: none), and weights by axis."""
    sizes = x.shape[2:]
    rank = len(sizes)
    axes = [
        _axis(grid[..., rank - 1 - a], sizes[a], mode, padding_mode, align) for a in range(rank)
    ]
    for taps in product(*axes):
        element = np.zeros(grid.shape[:-1], np.int64)
        there = np.ones(grid.shape[:-1], bool)
        for (at, _, _), size in zip(taps, sizes, strict=True):
            element = element * size + np.maximum(at, 0)
            there &= at >= 0
        yield np.where(there, element, -1), [t[1] for t in taps], [t[2] for t in taps]


def _seen(planes: np.ndarray, element: np.ndarray) -> np.ndarray:
    """Elements (N, C, points) of planes (N, C, elements); 0 where there is none."""
    flat = element.reshape(element.shape[0], 1, -1)
    if planes.shape[2] == 0:
        return np.zeros((*planes.shape[:2], flat.shape[2]))
    taken = np.take_along_axis(planes, np.maximum(flat, 0), 2)
    return np.where(flat >= 0, taken, 0.0)


def grid_sample(
    x: Any,
    grid: Any,
    *,
    mode: str = "linear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
) -> np.ndarray:
    """The sum of weights times elements."""
    n, c = x.shape[:2]
    planes = np.asarray(x).astype(np.float64).reshape(n, c, -1)
    total = np.zeros((n, c, int(np.prod(grid.shape[1:-1]))))
    for element, weights, _ in _all_taps(x, grid, mode, padding_mode, align_corners):
        weight = np.prod(weights, axis=0).reshape(n, 1, -1)
        total += weight * _seen(planes, element)
    return total.reshape(n, c, *grid.shape[1:-1]).astype(x.dtype)


def grid_sample_backward(
    dy: Any,
    x: Any,
    grid: Any,
    *,
    mode: str = "linear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Of the image: what is given back by the same weights. Of the grid: by their derivatives."""
    n, c = x.shape[:2]
    planes = np.asarray(x).astype(np.float64).reshape(n, c, -1)
    given = np.asarray(dy).astype(np.float64).reshape(n, c, -1)
    dx, dgrid = np.zeros(planes.shape), np.zeros(grid.shape)
    images, channels = np.ogrid[:n, :c]
    rank = x.ndim - 2
    for element, weights, slopes in _all_taps(x, grid, mode, padding_mode, align_corners):
        flat = element.reshape(n, 1, -1)
        weight = np.prod(weights, axis=0).reshape(n, 1, -1)
        there = np.broadcast_to(flat >= 0, given.shape)
        where = np.broadcast_arrays(images[..., None], channels[..., None], flat)
        np.add.at(dx, tuple(w[there] for w in where), np.where(flat >= 0, weight * given, 0)[there])
        product_of = (given * _seen(planes, element)).sum(1).reshape(grid.shape[:-1])
        for a in range(rank):
            others = [slopes[b] if a == b else weights[b] for b in range(rank)]
            dgrid[..., rank - 1 - a] += np.prod(others, axis=0) * product_of
    return dx.reshape(x.shape).astype(x.dtype), dgrid.astype(grid.dtype)
