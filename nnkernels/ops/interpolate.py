"""Images at other sizes, and the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnkernels._typing import Array
from nnkernels.dispatch import gathers, window_ops
from nnkernels.errors import ShapeError
from nnkernels.ops import _options, _windows
from nnkernels.ops._public import public

MODES = ("nearest", "linear", "cubic")


@public
def interpolate(
    x: Array,
    /,
    size: Any = None,
    *,
    scale: Any = None,
    mode: str = "nearest",
    align_corners: bool = False,
    out: Array | None = None,
) -> Array:
    """An image at another size: each element is a weighted sum of those around its place.

    Parameters
    ----------
    x : array
        Of shape (N, C, *spatial) with one to three spatial axes, of any strides; real, and for
        "nearest" also complex or integer.
    size : int or tuple of int, optional
        Spatial sizes of the result.
    scale : float or tuple of float, optional
        Instead of a size: the result has floor(size scale) elements along an axis, and steps of
        1 / scale elements of x lie between them.
    mode : {"nearest", "linear", "cubic"}
        One element for each; two along each axis (bilinear, trilinear); or four (bicubic), by the
        cubic convolution with a = -0.75. Places outside take the first or last element.
    align_corners : bool, default False
        Whether the centres of the first and the last elements coincide; else the outer edges do.
        For "linear" and "cubic".
    {out of windows}

    Notes
    -----
    "nearest" is element floor(p size_in / size_out), or floor(p / scale), computed without
    rounding errors. Places and weights are computed in float64 and the weights rounded to the type
    of the sums: float32, or float64 for float64. Results are the same bit for bit in every layout.

    References
    ----------
    R. G. Keys, "Cubic convolution interpolation for digital image processing", IEEE Transactions on
    Acoustics, Speech, and Signal Processing 29(6), 1981.

    {examples}
    >>> nnk.interpolate(np.array([[[0.0, 4.0]]]), 4, mode="linear").tolist()
    [[[0.0, 1.0, 3.0, 4.0]]]
    """
    shape = _windows.image_shape(x)
    sizes, scales = _windows.output_sizes(shape, size, scale)
    return gathers.apply(_resampling(sizes, scales, mode, align_corners), x, out)


@public
def interpolate_backward(
    dy: Array,
    /,
    x_shape: Sequence[int],
    *,
    scale: Any = None,
    mode: str = "nearest",
    align_corners: bool = False,
    out: Array | None = None,
) -> Array:
    """Gradient of `interpolate`: each element takes back what it gave, by the same weights.

    Parameters
    ----------
    dy : array
        The cotangent: the gradient of the loss with respect to the result of `interpolate`.
    x_shape : tuple of int
        The shape of the operand of `interpolate`.
    scale : float or tuple of float, optional
        If it was given in place of a size.
    mode : {"nearest", "linear", "cubic"}
        As in `interpolate`.
    align_corners : bool, default False
        As in `interpolate`.
    {out of windows}

    Notes
    -----
    {notes of sums}

    {examples}
    >>> nnk.interpolate_backward(np.ones((1, 1, 4)), (1, 1, 2), mode="linear").tolist()
    [[[2.0, 2.0]]]
    """
    dy_shape = _windows.image_shape(dy, "dy")
    wanted = _windows.given_shape(x_shape, "x_shape")
    if len(wanted) != len(dy_shape):
        raise ShapeError(f"dy has shape {dy_shape} and x_shape is {wanted}; their ranks differ")
    if scale is None:
        sizes, scales = _windows.output_sizes(wanted, dy_shape[2:], None)
    else:
        sizes, scales = _windows.output_sizes(wanted, None, scale)
    forward = _resampling(sizes, scales, mode, align_corners)
    return gathers.apply(
        window_ops.InterpolateBackward(wanted, forward, kinds=_sums(mode)), dy, out
    )


def _resampling(
    sizes: tuple[int, ...], scales: tuple[float | None, ...], mode: Any, align_corners: Any
) -> window_ops.Interpolate:
    mode = _windows.choice("mode", mode, MODES)
    aligned = _options.flag("align_corners", align_corners)
    if aligned and mode == "nearest":
        raise ValueError('align_corners is for the modes "linear" and "cubic", not "nearest"')
    kinds = window_ops.kinds_of(mode)
    return window_ops.Interpolate(sizes, scales, mode, aligned, kinds=kinds)


def _sums(mode: str) -> str:
    return "fc" if mode == "nearest" else "f"
