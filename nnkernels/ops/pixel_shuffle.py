"""Channels as pixels, and back: each is the gradient of the other."""

from __future__ import annotations

from typing import Any

from nnkernels._typing import Array
from nnkernels.dispatch import gathers, window_ops
from nnkernels.dispatch.windows import whole
from nnkernels.errors import ShapeError
from nnkernels.ops import _windows
from nnkernels.ops._public import public


@public
def pixel_shuffle(x: Array, /, factor: int, *, out: Array | None = None) -> Array:
    """Channels to pixels: (..., C factor^2, H, W) becomes (..., C, H factor, W factor).

    ``y[c, h factor + i, w factor + j] = x[c factor^2 + i factor + j, h, w]``.

    Parameters
    ----------
    x : array
        Of at least three axes and any strides; real, complex or integer.
    factor : int
        At least 1; its square divides the channels.
    {out of windows}

    References
    ----------
    W. Shi et al., "Real-time single image and video super-resolution using an efficient sub-pixel
    convolutional neural network", CVPR 2016.

    {examples}
    >>> nnk.pixel_shuffle(np.arange(4).reshape(4, 1, 1), 2).tolist()
    [[[0, 1], [2, 3]]]
    """
    return gathers.apply(window_ops.PixelShuffle(_factor(x, factor)), x, out)


@public
def pixel_unshuffle(x: Array, /, factor: int, *, out: Array | None = None) -> Array:
    """Pixels to channels: (..., C, H factor, W factor) becomes (..., C factor^2, H, W).

    The inverse of `pixel_shuffle`.

    Parameters
    ----------
    x : array
        Of at least three axes and any strides; real, complex or integer.
    factor : int
        At least 1; it divides height and width.
    {out of windows}

    {examples}
    >>> nnk.pixel_unshuffle(np.array([[[0, 1], [2, 3]]]), 2).ravel().tolist()
    [0, 1, 2, 3]
    """
    return gathers.apply(window_ops.PixelUnshuffle(_factor(x, factor)), x, out)


def _factor(x: Any, factor: Any) -> int:
    shape = _windows.shape_of(x)
    if len(shape) < 3:
        raise ShapeError(f"x has shape {shape}; it must have three axes or more: (..., C, H, W)")
    return whole(factor, "factor", 1)
