"""Pooling: the specification, in NumPy and float64 (integers as they are)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from nnkernels.dispatch.windows import Axis, Windows

# Where the taps of all windows lie along every axis: for each axis an array (windows, taps) of
# positions, and whether such a tap is in the image, or in the image or its padding.
Taps = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


# ---- public functions ---------------------------------------------------------------------------


def max_pool(
    x: Any,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: Any = False,
) -> Any:
    """The first greatest element of every window (the last NaN, if there is one)."""
    found = _fixed(x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    return _with_places(x, found, return_indices)


def max_pool_backward(
    dy: Any,
    x: Any,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    taps: Any = None,
) -> np.ndarray:
    """dy of every window goes to its maximum."""
    found = _fixed(x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    return _to_maxima(dy, x, found, taps)


def adaptive_max_pool(x: Any, output_size: Any, *, return_indices: Any = False) -> Any:
    """The first greatest element of every part of an image."""
    return _with_places(x, _adaptive(x.shape, output_size), return_indices)


def adaptive_max_pool_backward(dy: Any, x: Any, *, taps: Any = None) -> np.ndarray:
    """dy of every part goes to its maximum."""
    return _to_maxima(dy, x, _adaptive(x.shape, dy.shape[2:]), taps)


def avg_pool(
    x: Any,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> np.ndarray:
    """The sum over every window by the number of its taps; 0 for no taps."""
    taps = _fixed(x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    with np.errstate(all="ignore"):
        return (_sums(_wide(x), taps) / _counts(taps, count_include_pad)).astype(x.dtype)


def avg_pool_backward(
    dy: Any,
    x_shape: Any,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> np.ndarray:
    """dy over the number of taps, to every tap."""
    taps = _fixed(tuple(x_shape), kernel_size, stride, padding, dilation, ceil_mode)
    with np.errstate(all="ignore"):
        share = _wide(dy) / _counts(taps, count_include_pad)
        return _to_taps(share, tuple(x_shape), taps).astype(dy.dtype)


def adaptive_avg_pool(x: Any, output_size: Any) -> np.ndarray:
    """The mean of every part of an image."""
    taps = _adaptive(x.shape, output_size)
    with np.errstate(all="ignore"):
        return (_sums(_wide(x), taps) / _counts(taps, False)).astype(x.dtype)


def adaptive_avg_pool_backward(dy: Any, x_shape: Any) -> np.ndarray:
    """dy over the size of the part, to every element of it."""
    taps = _adaptive(tuple(x_shape), dy.shape[2:])
    with np.errstate(all="ignore"):
        share = _wide(dy) / _counts(taps, False)
        return _to_taps(share, tuple(x_shape), taps).astype(dy.dtype)


def lp_pool(
    x: Any,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    p: float = 2.0,
) -> np.ndarray:
    """(sum |x|^p)^(1/p) over every window."""
    taps = _fixed(x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    with np.errstate(all="ignore"):
        return (_sums(np.abs(_wide(x)) ** p, taps) ** (1 / p)).astype(x.dtype)


def lp_pool_backward(
    dy: Any,
    x: Any,
    y: Any,
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    p: float = 2.0,
) -> np.ndarray:
    """dy sign(x) (|x| / y)^(p - 1), summed over windows; 0 where x or y is 0."""
    taps = _fixed(x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    wide, norm = _wide(x), _wide(y)
    with np.errstate(all="ignore"):
        share = np.where(norm == 0, 0.0, _wide(dy) * norm ** (1 - p))
        total = _to_taps(share, x.shape, taps)
        slope = np.where(wide == 0, 0.0, np.sign(wide) * np.abs(wide) ** (p - 1))
        return (total * slope).astype(x.dtype)


def max_unpool(x: Any, indices: Any, output_shape: Any) -> np.ndarray:
    """x where the indices say, into zeros; the last one where they repeat."""
    shape = (*x.shape[:2], *tuple(output_shape)[-(x.ndim - 2) :])
    y = np.zeros(shape, x.dtype)
    size = prod(shape[2:])
    planes = y.reshape(prod(shape[:2]), size)
    for plane, (values, places) in enumerate(
        zip(*(a.reshape(len(planes), prod(x.shape[2:])) for a in (x, indices)), strict=True)
    ):
        for value, place in zip(values, places, strict=True):
            if 0 <= place < size:
                planes[plane, place] = value
    return y


def max_unpool_backward(dy: Any, indices: Any) -> np.ndarray:
    """dy at the indices; 0 for those outside."""
    size = prod(dy.shape[2:])
    dense = np.ascontiguousarray(dy).reshape(*dy.shape[:2], size)
    flat = indices.reshape(*indices.shape[:2], prod(indices.shape[2:]))
    inside = (flat >= 0) & (flat < size)
    if not size:
        return np.zeros(indices.shape, dy.dtype)
    found = np.take_along_axis(dense, np.where(inside, flat, 0), 2)
    return np.where(inside, found, np.zeros((), dy.dtype)).reshape(indices.shape)


# ---- where taps lie -----------------------------------------------------------------------------


def _fixed(
    shape: Sequence[int], kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Taps:
    stride = kernel if stride is None else stride
    windows = Windows.checked(len(shape) - 2, kernel, stride, padding, dilation, ceil_mode)
    return [_axis_taps(axis) for axis in windows.axes(shape[2:])]


def _axis_taps(axis: Axis) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    at = np.arange(axis.out)[:, None] * axis.stride - axis.low
    at = at + np.arange(axis.kernel) * axis.dilation
    return at, (at >= 0) & (at < axis.size), at < axis.size + axis.high


def _adaptive(shape: Sequence[int], output_size: Any) -> Taps:
    sizes = tuple(shape[2:])
    outs = (output_size,) * len(sizes) if isinstance(output_size, int) else tuple(output_size)
    found = []
    for size, out in zip(sizes, outs, strict=True):
        first = np.arange(out) * size // out
        last = -(-(np.arange(out) + 1) * size // out)
        at = first[:, None] + np.arange(int(np.max(last - first, initial=0)))
        found.append((at, at < last[:, None], at < last[:, None]))
    return found


def _each_tap(taps: Taps) -> Iterator[tuple[Any, Any]]:
    """In row-major order: the places of one tap of all windows, and whether it is in the image."""
    for tap in product(*(range(at.shape[1]) for at, _, _ in taps)):
        places = _open([at[:, t] for (at, _, _), t in zip(taps, tap, strict=True)])
        inside = _open([there[:, t] for (_, there, _), t in zip(taps, tap, strict=True)])
        there: Any = True
        for along in inside:
            there = there & along
        yield tuple(np.where(i, p, 0) for i, p in zip(inside, places, strict=True)), there


def _open(vectors: list[np.ndarray]) -> list[np.ndarray]:
    """Vectors, each along an axis of its own."""
    rank = len(vectors)
    return [v.reshape(*(-1 if i == a else 1 for i in range(rank))) for a, v in enumerate(vectors)]


def _counts(taps: Taps, include_pad: bool) -> np.ndarray:
    counts: Any = 1
    for along in np.ix_(
        *((padded if include_pad else inside).sum(1) for _, inside, padded in taps)
    ):
        counts = counts * along
    return np.maximum(counts, 1)


# ---- sums and maxima ----------------------------------------------------------------------------


def _outs(taps: Taps) -> tuple[int, ...]:
    return tuple(at.shape[0] for at, _, _ in taps)


def _sums(x: np.ndarray, taps: Taps) -> np.ndarray:
    total = np.zeros((*x.shape[:2], *_outs(taps)))
    for places, there in _each_tap(taps) if x.size else ():
        total += np.where(there, x[(..., *places)], 0.0)
    return total


def _to_taps(share: np.ndarray, shape: tuple[int, ...], taps: Taps) -> np.ndarray:
    dx = np.zeros(shape)
    for places, there in _each_tap(taps) if dx.size else ():
        np.add.at(dx, (..., *places), np.where(there, share, 0.0))
    return dx


def _with_places(x: Any, taps: Taps, return_indices: Any) -> Any:
    """The maxima, with their indices or taps if these are wanted."""
    y, numbers = _maxima(x, taps)
    if return_indices is False:
        return y
    if return_indices == "taps":
        return y, numbers.astype(_tap_dtype(taps))
    return y, _places(taps, numbers, x.shape)


def _tap_dtype(taps: Taps) -> Any:
    """The smallest type with a value beside those of all taps, for none."""
    count = prod(at.shape[1] for at, _, _ in taps)
    return np.uint8 if count <= 255 else np.int32 if count < 2**31 else np.int64


def _maxima(x: Any, taps: Taps) -> tuple[np.ndarray, np.ndarray]:
    """The maxima, and the numbers of their taps; -1 for none."""
    shape = (*x.shape[:2], *_outs(taps))
    values = x if x.dtype.kind in "iu" else _wide(x)
    lowest = np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf
    best = np.full(shape, lowest, values.dtype)
    label = np.full(shape, -1, np.int64)
    for number, (places, there) in enumerate(_each_tap(taps)) if x.size else ():
        candidate = values[(..., *places)]
        better = there & ((label < 0) | (candidate > best) | (candidate != candidate))
        best = np.where(better, candidate, best)
        label = np.where(better, number, label)
    return best.astype(x.dtype), label


def _places(taps: Taps, numbers: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Flat indices in a plane for numbers of taps; -1 for none."""
    indices = np.full(numbers.shape, -1, np.int64)
    for number, (places, _) in enumerate(_each_tap(taps)) if prod(shape) else ():
        flat: Any = 0
        for place, size in zip(places, shape[2:], strict=True):
            flat = flat * size + place
        indices = np.where(numbers == number, flat, indices)
    return indices


def _to_maxima(dy: Any, x: Any, found: Taps, taps: Any) -> np.ndarray:
    numbers = _maxima(x, found)[1] if taps is None else taps
    indices = _places(found, numbers, x.shape)
    dx = np.zeros((*x.shape[:2], prod(x.shape[2:])))
    flat = indices.reshape(*x.shape[:2], prod(indices.shape[2:]))
    n, c, i = np.nonzero(flat >= 0)
    with np.errstate(all="ignore"):
        np.add.at(dx, (n, c, flat[n, c, i]), _wide(dy).reshape(flat.shape)[n, c, i])
    return dx.reshape(x.shape).astype(x.dtype)


def _wide(x: Any) -> np.ndarray:
    return np.asarray(x).astype(np.float64)
