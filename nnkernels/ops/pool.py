"""Pooling: maxima, averages and norms over windows of images."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from nnkernels._typing import Array
from nnkernels.dispatch import pool, unpool
from nnkernels.dispatch.pool import MAX, Pooling
from nnkernels.dispatch.pool_plan import Mode
from nnkernels.dispatch.windows import Windows, per_axis, spatial_rank
from nnkernels.errors import ShapeError
from nnkernels.interop.libraries import library_of
from nnkernels.ops import _options
from nnkernels.ops._public import public

Sizes = int | tuple[int, ...]
Padding = int | str | tuple[int | tuple[int, int], ...]

_AVERAGE, _OF_IMAGE = Mode("Average"), Mode("Average", include_pad=False)


# ---- maxima -------------------------------------------------------------------------------------


@public
def max_pool(
    x: Array,
    /,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool | str = False,
    out: Array | None = None,
) -> Any:
    """Max pooling: ``y = max(x)`` over every window.

    {image, also integers}
    {windows}
    {indices of a pooling}
    {out of a pooling with indices}

    {raises of pooling}

    Notes
    -----
    Padding never wins: a window that sees nothing else gives -inf, or the lowest integer. Of equal
    elements the first one is the maximum; NaN wins, and of several the last one, as in PyTorch.

    {examples}
    >>> x = np.array([[[1.0, 4.0, 2.0, 3.0]]])
    >>> nnk.max_pool(x, 2).tolist()
    [[[4.0, 3.0]]]
    >>> y, indices = nnk.max_pool(x, 3, stride=1, padding="same", return_indices=True)
    >>> indices.tolist()
    [[[1, 1, 1, 3]]]
    """
    found = _windows(x, kernel_size, stride, padding, dilation, ceil_mode)
    labels = _options.indices("return_indices", return_indices)
    return pool.forward(_pooling(MAX, found), x, labels, out)


@public
def max_pool_backward(
    dy: Array,
    x: Array,
    /,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    taps: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Gradient of `max_pool`: ``dx = sum(dy)`` over the windows whose maximum an element is.

    Parameters
    ----------
    dy : array
        The cotangent: the gradient of the loss with respect to the result of `max_pool`.
    x : array
        The operand of `max_pool`, of a floating-point dtype.
    kernel_size : int or tuple of int
        As in `max_pool`.
    {windows again}
    {taps}
    {gradient of an image}

    {raises of pooling}

    Notes
    -----
    The terms of an element are added in a fixed order, so the result is the same in every run, and
    with `taps` the same as without. What comes from a window of padding alone goes nowhere.

    {examples}
    >>> x = np.array([[[1.0, 4.0, 2.0, 3.0]]])
    >>> nnk.max_pool_backward(np.array([[[1.0, 10.0]]]), x, 3, stride=1).tolist()
    [[[0.0, 11.0, 0.0, 0.0]]]
    >>> y, taps = nnk.max_pool(x, 3, stride=1, return_indices="taps")
    >>> taps.tolist()
    [[[1, 0]]]
    >>> nnk.max_pool_backward(np.array([[[1.0, 10.0]]]), x, 3, stride=1, taps=taps).tolist()
    [[[0.0, 11.0, 0.0, 0.0]]]
    """
    found = _windows(x, kernel_size, stride, padding, dilation, ceil_mode)
    return pool.backward_of_max(_pooling(MAX, found), dy, x, taps, out)


@public
def adaptive_max_pool(
    x: Array,
    /,
    output_size: Sizes,
    *,
    return_indices: bool | str = False,
    out: Array | None = None,
) -> Any:
    """Max pooling over windows that divide the image.

    {image to be divided, also integers}
    {indices of a pooling}
    {out of a pooling with indices}

    {raises of pooling}

    Notes
    -----
    As `max_pool`.

    {examples}
    >>> nnk.adaptive_max_pool(np.array([[[1.0, 4.0, 2.0, 3.0, 0.0]]]), 2).tolist()
    [[[4.0, 3.0]]]
    """
    pooling = _adaptive(MAX, x, output_size)
    labels = _options.indices("return_indices", return_indices)
    return pool.forward(pooling, x, labels, out)


@public
def adaptive_max_pool_backward(
    dy: Array, x: Array, /, *, taps: Array | None = None, out: Array | None = None
) -> Array:
    """Gradient of `adaptive_max_pool`: ``dx = sum(dy)`` over the windows whose maximum it is.

    Parameters
    ----------
    dy : array
        The cotangent: the gradient of the loss with respect to the result of `adaptive_max_pool`.
    x : array
        The operand of `adaptive_max_pool`, of a floating-point dtype.
    {taps}
    {gradient of an image}

    {raises of pooling}

    {examples}
    >>> x = np.array([[[1.0, 4.0, 2.0, 3.0, 0.0]]])
    >>> nnk.adaptive_max_pool_backward(np.array([[[1.0, 10.0]]]), x).tolist()
    [[[0.0, 1.0, 0.0, 10.0, 0.0]]]
    """
    return pool.backward_of_max(_adaptive(MAX, x, _spatial(dy, "dy")), dy, x, taps, out)


@public
def max_unpool(
    x: Array, indices: Array, /, output_shape: tuple[int, ...], *, out: Array | None = None
) -> Array:
    """What undoes a max pooling: ``y[indices] = x`` in every plane, and 0 elsewhere.

    Parameters
    ----------
    x : array
        Of shape (N, C, *spatial) and of float16, bfloat16, float32, float64 or integers.
    indices : array
        int64 in the shape of ``x``, as `max_pool` returns it: flat indices into a plane of the
        result.
    output_shape : tuple of int
        Shape of the result, or its spatial part.
    out : array, optional
        Where to write y: an array of its shape and dtype, of any strides. It must not overlap an
        operand.

    Returns
    -------
    y : array
        Of shape `output_shape`, and of the library, dtype and memory order of ``x``.

    {raises of pooling}

    Notes
    -----
    Where indices of a plane repeat, as those of windows that overlap may, the last one in
    row-major order counts. An index outside of the plane, such as the -1 of a window of padding
    alone, names nothing: its element is left out.

    {examples}
    >>> y, indices = nnk.max_pool(np.array([[[1.0, 4.0, 2.0, 3.0]]]), 2, return_indices=True)
    >>> nnk.max_unpool(y, indices, (4,)).tolist()
    [[[0.0, 4.0, 0.0, 3.0]]]
    """
    return unpool.forward(x, indices, _shape_like(x, output_shape, "output_shape"), out)


@public
def max_unpool_backward(dy: Array, indices: Array, /, *, out: Array | None = None) -> Array:
    """Gradient of `max_unpool`: ``dx = dy[indices]`` in every plane.

    Parameters
    ----------
    dy : array
        The cotangent: the gradient of the loss with respect to the result of `max_unpool`.
    indices : array
        As in `max_unpool`.
    out : array, optional
        Where to write dx: an array of its shape and dtype, of any strides. It must not overlap an
        operand.

    Returns
    -------
    dx : array
        Of the shape of ``indices``, and of the library, dtype and memory order of ``dy``.

    {raises of pooling}

    Notes
    -----
    0 for an index outside of the plane. Indices count as if none were repeated, as in PyTorch.

    {examples}
    >>> nnk.max_unpool_backward(np.array([[[1.0, 2.0, 3.0]]]), np.array([[[2, 0]]])).tolist()
    [[[3.0, 1.0]]]
    """
    library_of(dy, "dy")
    spatial_rank(dy, "dy")
    return unpool.backward(dy, indices, out)


# ---- averages -----------------------------------------------------------------------------------


@public
def avg_pool(
    x: Array,
    /,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    out: Array | None = None,
) -> Array:
    """Average pooling: ``y = sum(x) / count`` over every window.

    {image}
    {windows}
    count_include_pad : bool, default True
        Whether taps in the padding count. Taps past it, where `ceil_mode` puts some, never do.
    {out of a pooling}

    {raises of pooling}

    Notes
    -----
    Sums are in float32 (float64 for float64). Without `count_include_pad`, a window that sees
    nothing but padding gives 0.

    {examples}
    >>> nnk.avg_pool(np.array([[[1.0, 4.0, 2.0, 3.0]]]), 2).tolist()
    [[[2.5, 2.5]]]
    >>> x = np.ones((1, 1, 3))
    >>> nnk.avg_pool(x, 3, stride=1, padding=1, count_include_pad=False).tolist()
    [[[1.0, 1.0, 1.0]]]
    """
    found = _windows(x, kernel_size, stride, padding, dilation, ceil_mode)
    return pool.forward(_pooling(_average(count_include_pad), found), x, out=out)


@public
def avg_pool_backward(
    dy: Array,
    /,
    x_shape: tuple[int, ...],
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    out: Array | None = None,
) -> Array:
    """Gradient of `avg_pool`: ``dx = sum(dy / count)`` over the windows that see an element.

    Parameters
    ----------
    dy : array
        The cotangent: the gradient of the loss with respect to the result of `avg_pool`.
    x_shape : tuple of int
        Shape of the operand of `avg_pool`.
    kernel_size : int or tuple of int
        As in `avg_pool`.
    {windows again}
    count_include_pad : bool, default True
        As in `avg_pool`.
    {gradient of a shape}

    {raises of pooling}

    {examples}
    >>> dy = np.array([[[2.0, 8.0]]])
    >>> nnk.avg_pool_backward(dy, (1, 1, 4), 2).tolist()
    [[[1.0, 1.0, 4.0, 4.0]]]
    """
    found = _windows(dy, kernel_size, stride, padding, dilation, ceil_mode, "dy")
    shape = _shape_like(dy, x_shape, "x_shape")
    return pool.backward_of_sum(_pooling(_average(count_include_pad), found), dy, shape, out)


@public
def adaptive_avg_pool(x: Array, /, output_size: Sizes, *, out: Array | None = None) -> Array:
    """Average pooling over windows that divide the image.

    {image to be divided}
    {out of a pooling}

    {raises of pooling}

    {examples}
    >>> nnk.adaptive_avg_pool(np.array([[[1.0, 4.0, 2.0, 3.0]]]), 2).tolist()
    [[[2.5, 2.5]]]
    """
    return pool.forward(_adaptive(_OF_IMAGE, x, output_size), x, out=out)


@public
def adaptive_avg_pool_backward(
    dy: Array, /, x_shape: tuple[int, ...], *, out: Array | None = None
) -> Array:
    """Gradient of `adaptive_avg_pool`: ``dx = sum(dy / count)`` over the windows of an element.

    Parameters
    ----------
    dy : array
        The cotangent: the gradient of the loss with respect to the result of `adaptive_avg_pool`.
    x_shape : tuple of int
        Shape of the operand of `adaptive_avg_pool`.
    {gradient of a shape}

    {raises of pooling}

    {examples}
    >>> nnk.adaptive_avg_pool_backward(np.array([[[3.0]]]), (1, 1, 3)).tolist()
    [[[1.0, 1.0, 1.0]]]
    """
    shape = _shape_like(dy, x_shape, "x_shape")
    pooling = _adaptive(_OF_IMAGE, dy, _spatial(dy, "dy"))
    return pool.backward_of_sum(pooling, dy, shape, out)


# ---- norms --------------------------------------------------------------------------------------


@public
def lp_pool(
    x: Array,
    /,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    p: float = 2.0,
    out: Array | None = None,
) -> Array:
    """Lp pooling: ``y = sum(|x|^p)^(1/p)`` over every window.

    {image}
    {windows}
    p : float, default 2
        The power, above 0.
    {out of a pooling}

    {raises of pooling}

    Notes
    -----
    A norm, as ONNX has it: PyTorch leaves out the absolute value, and so differs where p is odd.
    Squares (p = 2) are added in float32, or float64 for float64; other powers in float64.

    {examples}
    >>> nnk.lp_pool(np.array([[[3.0, -4.0, 0.0, 2.0]]]), 2).tolist()
    [[[5.0, 2.0]]]
    """
    found = _windows(x, kernel_size, stride, padding, dilation, ceil_mode)
    return pool.forward(_pooling(_norm(p), found), x, out=out)


@public
def lp_pool_backward(
    dy: Array,
    x: Array,
    y: Array,
    /,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    p: float = 2.0,
    out: Array | None = None,
) -> Array:
    """Gradient of `lp_pool`: ``dx = sign(x) |x|^(p-1) sum(dy y^(1-p))``, 0 where x or y is 0.

    Parameters
    ----------
    dy : array
        The cotangent: the gradient of the loss with respect to the result of `lp_pool`.
    x, y : array
        The operand and the result of `lp_pool`.
    kernel_size : int or tuple of int
        As in `lp_pool`.
    {windows again}
    p : float, default 2
        As in `lp_pool`.
    {gradient of an image}

    {raises of pooling}

    {examples}
    >>> x = np.array([[[3.0, -4.0]]])
    >>> nnk.lp_pool_backward(np.array([[[5.0]]]), x, nnk.lp_pool(x, 2), 2).tolist()
    [[[3.0, -4.0]]]
    """
    found = _windows(x, kernel_size, stride, padding, dilation, ceil_mode)
    return pool.backward_of_norm(_pooling(_norm(p), found), dy, x, y, out)


# ---- options ------------------------------------------------------------------------------------


def _windows(
    x: Array,
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: Any,
    name: str = "x",
) -> Windows:
    library_of(x, name)
    rank = spatial_rank(x, name)
    if type(ceil_mode) is not bool:
        ceil_mode = _options.flag("ceil_mode", ceil_mode)
    stride = kernel if stride is None else stride
    if type(kernel) is type(stride) is type(padding) is type(dilation) is int:
        return _plain_windows(rank, kernel, stride, padding, dilation, ceil_mode)
    return Windows.checked(rank, kernel, stride, padding, dilation, ceil_mode)


@lru_cache(maxsize=256)
def _plain_windows(
    rank: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool
) -> Windows:
    return Windows.checked(rank, kernel, stride, padding, dilation, ceil_mode)


@lru_cache(maxsize=256)
def _pooling(mode: Mode, windows: Windows) -> Pooling:
    return Pooling(mode, windows)


def _adaptive(mode: Mode, x: Array, output_size: Any) -> Pooling:
    library_of(x, "x")
    return Pooling(mode, per_axis(output_size, spatial_rank(x, "x"), "output_size"))


def _average(include_pad: object) -> Mode:
    return _AVERAGE if _options.flag("count_include_pad", include_pad) else _OF_IMAGE


def _norm(p: object) -> Mode:
    power = _options.positive("p", p)
    return Mode("Square" if power == 2 else "Power", p=power)


def _spatial(dy: Array, name: str) -> tuple[int, ...]:
    library_of(dy, name)
    spatial_rank(dy, name)
    return tuple(int(n) for n in dy.shape[2:])


def _shape_like(x: Array, shape: Any, name: str) -> tuple[int, ...]:
    """A shape of as many spatial axes as an array has, and of its batch and channels."""
    library_of(x, "x")
    rank = spatial_rank(x, "x")
    if not isinstance(shape, (tuple, list)):
        raise TypeError(f"{name} must be a tuple of integers, not {type(shape).__name__}")
    planes = x.shape[:2] if type(x) is np.ndarray else tuple(int(n) for n in x.shape[:2])
    spatial = shape
    if len(shape) == rank + 2:
        spatial = shape[2:]
        if tuple(shape[:2]) != planes:
            raise ShapeError(
                f"{name} is {tuple(shape)}; it must begin with {planes}, the batch and channels"
            )
    return (*planes, *per_axis(spatial, rank, name, least=0))
