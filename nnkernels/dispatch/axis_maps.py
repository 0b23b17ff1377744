"""What an op does along one axis: which elements of x make which element of the result.

Padding, windows and resampling are linear maps along each axis by itself. A map is written down
as the list of its terms, computed here once for each plan with whole numbers; the kernels look
into the tables made of it. The gradient of a map is its transpose, the same list in another
order: no term can be lost or counted twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from nnkernels.dispatch.axes import Shape
from nnkernels.dispatch.windows import Axis


@dataclass(frozen=True, eq=False)
class AxisMap:
    """A linear map along one axis, or along several that it takes together.

    Attributes
    ----------
    inputs, outputs : tuple of int
        Sizes of the axes of x and of the result that it takes together; positions count through
        them in C order.
    begin : array of int64
        For each element of the result its first term, and at the end the number of terms.
    source : array of int64
        For each term its element of x.
    weight : array of float64, optional
        For each term its factor, if not all are 1.
    """

    inputs: Shape
    outputs: Shape
    begin: np.ndarray
    source: np.ndarray
    weight: np.ndarray | None = None

    @property
    def most_terms(self) -> int:
        """Terms of the element that has the most."""
        return int(np.diff(self.begin).max(initial=0))

    def targets(self) -> np.ndarray:
        """For each term its element of the result."""
        return np.repeat(np.arange(self.begin.size - 1), np.diff(self.begin))

    def transposed(self) -> AxisMap:
        """The map of the gradient: from elements of the result to those of x."""
        order = np.argsort(self.source, kind="stable")
        counts = np.bincount(self.source, minlength=prod(self.inputs))
        return AxisMap(
            self.outputs,
            self.inputs,
            np.concatenate([[0], np.cumsum(counts)]),
            self.targets()[order],
            None if self.weight is None else self.weight[order],
        )

    def matrix(self) -> np.ndarray:
        """The map as a matrix, results by rows: for tests."""
        dense = np.zeros((prod(self.outputs), prod(self.inputs)))
        np.add.at(dense, (self.targets(), self.source), 1.0 if self.weight is None else self.weight)
        return dense


def _single(inputs: int, source: np.ndarray) -> AxisMap:
    """One term for each element of the result; none where the source is negative."""
    there = source >= 0
    begin = np.concatenate([[0], np.cumsum(there)])
    return AxisMap((inputs,), source.shape, begin, source[there])


def identity(size: int) -> AxisMap:
    """Every element is its own."""
    return _single(size, np.arange(size))


# ---- padding ------------------------------------------------------------------------------------


def padding(size: int, low: int, high: int, mode: str) -> AxisMap:
    """An axis with elements before and after it.

    Beyond the axis it goes on periodically where a mode mirrors or repeats it, as NumPy's `pad`.
    """
    at = np.arange(-low, size + high)
    inside = (at >= 0) & (at < size)
    if mode == "constant":
        return _single(size, np.where(inside, at, -1))
    if mode == "edge":
        return _single(size, np.clip(at, 0, size - 1))
    if mode == "wrap":
        return _single(size, at % size)
    # There and back: with the first and the last element once (reflect) or twice (symmetric).
    period = 2 * size - 2 if mode == "reflect" else 2 * size
    at = at % max(period, 1)
    return _single(size, np.where(at < size, at, period - at - (mode == "symmetric")))


# ---- windows ------------------------------------------------------------------------------------


def windows(axis: Axis) -> AxisMap:
    """From an axis to its taps and windows: element (tap, window) is what the tap sees there."""
    taps, positions = np.arange(axis.kernel)[:, None], np.arange(axis.out)[None, :]
    source = positions * axis.stride + taps * axis.dilation - axis.low
    single = _single(axis.size, np.where((source >= 0) & (source < axis.size), source, -1).ravel())
    return AxisMap((axis.size,), (axis.kernel, axis.out), single.begin, single.source)


# ---- resampling ---------------------------------------------------------------------------------


def nearest(size: int, out: int, scale: float | None) -> AxisMap:
    """Element floor(p size / out), in whole numbers; or floor(p / scale), if there is a scale."""
    position = np.arange(out)
    source = position * size // out if scale is None else np.floor(position / scale).astype(int)
    return _single(size, np.minimum(source, size - 1))


def places(size: int, out: int, scale: float | None, align_corners: bool) -> np.ndarray:
    """Where the elements of the result lie among those of x, in float64.

    Elements are squares of side 1 and their centres are half a square from the corner; or the
    centres of the first and of the last ones coincide (``align_corners``).
    """
    position = np.arange(out, dtype=np.float64)
    if align_corners:
        return position * ((size - 1) / (out - 1)) if out > 1 else position
    step = size / out if scale is None else 1.0 / scale
    return (position + 0.5) * step - 0.5


def linear(size: int, out: int, scale: float | None, align_corners: bool) -> AxisMap:
    """Between the two elements next to a place; what lies outside is the first or last one."""
    place = np.clip(places(size, out, scale, align_corners), 0, size - 1)
    low = np.minimum(np.floor(place).astype(int), size - 1)
    part = place - low
    source = np.stack([low, np.minimum(low + 1, size - 1)], 1)
    return _several(size, source, np.stack([1 - part, part], 1))


# Of the cubic convolution, as PyTorch and OpenCV have it; R. Keys, IEEE Trans. ASSP 29(6), 1981.
CUBIC = -0.75


def cubic_weights(part: np.ndarray) -> np.ndarray:
    """Weights of the four elements around a place, which lies between the middle two."""
    near = np.stack([part, 1 - part], -1)  # distances to the middle two
    far = 1 + near
    inner = ((CUBIC + 2) * near - (CUBIC + 3)) * near * near + 1
    outer = ((CUBIC * far - 5 * CUBIC) * far + 8 * CUBIC) * far - 4 * CUBIC
    return np.stack([outer[..., 0], inner[..., 0], inner[..., 1], outer[..., 1]], -1)


def cubic(size: int, out: int, scale: float | None, align_corners: bool) -> AxisMap:
    """Among four elements; those outside are the first or last one."""
    place = places(size, out, scale, align_corners)
    low = np.floor(place).astype(int)
    source = np.clip(low[:, None] + np.arange(-1, 3), 0, size - 1)
    return _several(size, source, cubic_weights(place - low))


def _several(size: int, source: np.ndarray, weight: np.ndarray) -> AxisMap:
    count, terms = source.shape
    begin = np.arange(count + 1) * terms
    return AxisMap((size,), (count,), begin, source.ravel(), weight.ravel())


def resampling(mode: str, size: int, out: int, scale: Any, align_corners: bool) -> AxisMap:
    """The map of one axis of `interpolate`."""
    if mode == "nearest":
        return nearest(size, out, scale)
    return (linear if mode == "linear" else cubic)(size, out, scale, align_corners)
