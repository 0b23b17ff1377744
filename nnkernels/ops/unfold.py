"""Windows of an image as columns, and back: each is the gradient of the other."""

from __future__ import annotations

from typing import Any

from nnkernels._typing import Array
from nnkernels.dispatch import gathers, window_ops
from nnkernels.dispatch.windows import Windows, per_axis
from nnkernels.errors import ShapeError
from nnkernels.ops import _windows
from nnkernels.ops._public import public


@public
def unfold(
    x: Array,
    /,
    kernel_size: Any,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    out: Array | None = None,
) -> Array:
    """Windows of an image as columns (im2col): ``y[n, (c, taps), windows]``.

    Parameters
    ----------
    x : array
        Of shape (N, C, *spatial) with one to three spatial axes, of any strides; real, complex or
        integer.
    kernel_size : int or tuple of int
        Taps of a window along each spatial axis.
    {unfolded windows}
    {out of windows}

    Notes
    -----
    The result has shape (N, C prod(kernel_size), L) with L windows, and is in C order. A tap that
    sees padding gives 0. Its gradient is `fold`.

    {examples}
    >>> nnk.unfold(np.arange(4.0).reshape(1, 1, 4), 2)[0].tolist()
    [[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]]
    """
    rank = len(_windows.image_shape(x)) - 2
    windows = Windows.checked(rank, kernel_size, stride, padding, dilation)
    return gathers.apply(window_ops.Unfold(windows), x, out)


@public
def fold(
    cols: Array,
    /,
    output_size: Any,
    kernel_size: Any,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    out: Array | None = None,
) -> Array:
    """Columns of windows added up to an image (col2im): the adjoint of `unfold`.

    Parameters
    ----------
    cols : array
        Of shape (N, C prod(kernel_size), L), of any strides; real, complex or integer.
    output_size : int or tuple of int
        Spatial sizes of the image: its number of entries is that of the spatial axes.
    kernel_size : int or tuple of int
        As in `unfold`.
    {unfolded windows}
    {out of windows}

    Notes
    -----
    The result has shape (N, C, *output_size). An element that no window sees is 0. Its gradient is
    `unfold`.

    {notes of sums}

    {examples}
    >>> nnk.fold(np.ones((1, 2, 3)), (4,), 2)[0].tolist()
    [[1.0, 2.0, 2.0, 1.0]]
    """
    sizes, windows = _fold_options(output_size, kernel_size, stride, padding, dilation)
    shape = _windows.shape_of(cols, "cols")
    if len(shape) != 3:
        raise ShapeError(f"cols has shape {shape}; it must be (N, C * prod(kernel_size), L)")
    return gathers.apply(window_ops.Fold(sizes, windows), cols, out)


def _fold_options(
    output_size: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any
) -> tuple[tuple[int, ...], Windows]:
    given = output_size if isinstance(output_size, (tuple, list)) else (output_size,)
    if not 1 <= len(given) <= 3:
        raise ShapeError(
            f"output_size {output_size!r:.60} must have one to three entries, one for each spatial "
            "axis"
        )
    rank = len(given)
    windows = Windows.checked(rank, kernel_size, stride, padding, dilation)
    return per_axis(given, rank, "output_size", least=0), windows
