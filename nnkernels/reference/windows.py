"""Padding, windows and resampling: the specification, in NumPy and float64."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import floor, prod
from typing import Any

import numpy as np

from nnkernels.dispatch.windows import Axis, Windows
from nnkernels.ops._windows import pad_widths


def _wide(x: Any) -> np.ndarray:
    array = np.asarray(x)
    if array.dtype.kind in "iu":
        return array
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _added(shape: Sequence[int], places: np.ndarray, x: Any) -> np.ndarray:
    """An array of zeros to which elements of another are added, at places; -1 is none."""
    wide = _wide(x)
    total = np.zeros(prod(shape), wide.dtype)
    there = places >= 0
    np.add.at(total, places[there], wide[there])
    return total.reshape(shape).astype(x.dtype)


# ---- padding ------------------------------------------------------------------------------------


def _pad_places(shape: Sequence[int], widths: Any, mode: str) -> np.ndarray:
    """For each element of the padded array the number of its element of x, or -1."""
    numbers = np.arange(prod(shape)).reshape(shape)
    more: Any = {"constant_values": -1} if mode == "constant" else {}
    pad_any: Any = np.pad  # whose stubs want literal modes
    return np.asarray(pad_any(numbers, widths or 0, mode, **more))


def pad(x: Any, pad_width: Any, *, mode: str = "constant", value: Any = 0) -> np.ndarray:
    """NumPy's own."""
    places = _pad_places(x.shape, pad_widths(pad_width, x.ndim), mode)
    flat = np.append(np.asarray(x).reshape(-1), np.asarray(value).astype(x.dtype))
    return np.asarray(flat[places])


def pad_backward(dy: Any, pad_width: Any, *, mode: str = "constant") -> np.ndarray:
    """What the copies of each element give, added up."""
    widths = pad_widths(pad_width, dy.ndim)
    shape = tuple(n - low - high for n, (low, high) in zip(dy.shape, widths, strict=True))
    return _added(shape, _pad_places(shape, widths, mode), dy)


# ---- windows ------------------------------------------------------------------------------------


def _window_places(sizes: Sequence[int], axes: Sequence[Axis]) -> np.ndarray:
    """For each (tap, window) the number of the element of the image, or -1."""
    found = []
    for taps in product(*(range(a.kernel) for a in axes)):
        for windows in product(*(range(a.out) for a in axes)):
            at = [
                w * a.stride + t * a.dilation - a.low
                for t, w, a in zip(taps, windows, axes, strict=True)
            ]
            inside = all(0 <= i < n for i, n in zip(at, sizes, strict=True))
            found.append(np.ravel_multi_index(at, sizes) if inside else -1)
    return np.array(found, np.int64).reshape(prod(a.kernel for a in axes), -1)


def unfold(
    x: Any, kernel_size: Any, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1
) -> np.ndarray:
    """What each tap of each window sees."""
    n, c, *sizes = x.shape
    axes = Windows.checked(len(sizes), kernel_size, stride, padding, dilation).axes(sizes)
    places = _window_places(sizes, axes)
    planes = np.concatenate([np.asarray(x).reshape(n, c, -1), np.zeros((n, c, 1), x.dtype)], 2)
    return planes[:, :, places].reshape(n, c * places.shape[0], places.shape[1])


def fold(
    cols: Any,
    output_size: Any,
    kernel_size: Any,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
) -> np.ndarray:
    """What the taps of all windows have of each element, added up."""
    sizes = (output_size,) if isinstance(output_size, int) else tuple(output_size)
    axes = Windows.checked(len(sizes), kernel_size, stride, padding, dilation).axes(sizes)
    places = _window_places(sizes, axes)
    n, rows, _ = cols.shape
    planes = np.asarray(cols).reshape(-1, *places.shape)
    made = [_added(sizes, places, plane) for plane in planes]
    shape = (n, rows // places.shape[0], *sizes)
    return np.array(made, cols.dtype).reshape(shape)


def pixel_shuffle(x: Any, factor: int) -> np.ndarray:
    """Channels (c, i, j) to pixels (h factor + i, w factor + j)."""
    *leading, channels, h, w = x.shape
    split = np.asarray(x).reshape(*leading, channels // factor**2, factor, factor, h, w)
    k = len(leading)
    order = (*range(k), k, k + 3, k + 1, k + 4, k + 2)
    return split.transpose(order).reshape(*leading, channels // factor**2, h * factor, w * factor)


def pixel_unshuffle(x: Any, factor: int) -> np.ndarray:
    """Pixels (h factor + i, w factor + j) to channels (c, i, j)."""
    *leading, channels, h, w = x.shape
    split = np.asarray(x).reshape(*leading, channels, h // factor, factor, w // factor, factor)
    k = len(leading)
    order = (*range(k), k, k + 2, k + 4, k + 1, k + 3)
    return split.transpose(order).reshape(*leading, channels * factor**2, h // factor, w // factor)


# ---- resampling ---------------------------------------------------------------------------------


def cubic(t: float) -> list[float]:
    """Weights of the elements at -1, 0, 1 and 2 for a place at t in [0, 1)."""
    a = -0.75

    def near(d: float) -> float:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1

    def far(d: float) -> float:
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a

    return [far(1 + t), near(t), near(1 - t), far(2 - t)]


def _taps(
    p: int, size: int, out: int, scale: float | None, mode: str, align_corners: bool
) -> list[tuple[int, float]]:
    """Elements of x that make element p of the result, with their weights."""
    if mode == "nearest":
        place = p * size // out if scale is None else floor(p / scale)
        return [(min(place, size - 1), 1.0)]
    if align_corners:
        at = p * ((size - 1) / (out - 1)) if out > 1 else 0.0
    else:
        at = (p + 0.5) * (size / out if scale is None else 1 / scale) - 0.5
    if mode == "linear":
        at = min(max(at, 0.0), size - 1.0)
        low = floor(at)
        return [(low, 1 - (at - low)), (min(low + 1, size - 1), at - low)]
    low = floor(at)
    return [
        (min(max(low + k, 0), size - 1), weight)
        for k, weight in zip(range(-1, 3), cubic(at - low), strict=True)
    ]


def _output_sizes(x_shape: Sequence[int], size: Any, scale: Any) -> tuple[Any, Any]:
    rank = len(x_shape) - 2
    scales = scale if isinstance(scale, (tuple, list)) else (scale,) * rank
    if size is None:
        size = [floor(n * s) for n, s in zip(x_shape[2:], scales, strict=True)]
    return size if isinstance(size, (tuple, list)) else (size,) * rank, scales


def interpolate(
    x: Any,
    size: Any = None,
    *,
    scale: Any = None,
    mode: str = "nearest",
    align_corners: bool = False,
) -> np.ndarray:
    """Axis by axis, the weighted sum of a few elements."""
    y = _wide(x)
    sizes, scales = _output_sizes(x.shape, size, scale)
    for axis, (out, s) in enumerate(zip(sizes, scales, strict=True), 2):
        taps = [_taps(p, x.shape[axis], out, s, mode, align_corners) for p in range(out)]
        source = np.array([[i for i, _ in of_p] for of_p in taps])
        weight = np.array([[w for _, w in of_p] for of_p in taps])
        taken = np.moveaxis(y, axis, -1)[..., source]
        total = taken[..., 0] if mode == "nearest" else (taken * weight).sum(-1)
        y = np.moveaxis(total, -1, axis)
    return y.astype(x.dtype)


def interpolate_backward(
    dy: Any,
    x_shape: Sequence[int],
    *,
    scale: Any = None,
    mode: str = "nearest",
    align_corners: bool = False,
) -> np.ndarray:
    """Axis by axis, each element of the result gives back by the same weights."""
    dx = _wide(dy)
    scales = scale if isinstance(scale, (tuple, list)) else (scale,) * (len(x_shape) - 2)
    for axis, s in enumerate(scales, 2):
        size, out = x_shape[axis], dy.shape[axis]
        along = np.moveaxis(dx, axis, 0)
        total = np.zeros((size, *along.shape[1:]), along.dtype)
        for p in range(out):
            for i, weight in _taps(p, size, out, s, mode, align_corners):
                total[i] += weight * along[p]
        dx = np.moveaxis(total, 0, axis)
    return dx.astype(dy.dtype)
