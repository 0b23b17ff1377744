"""Values of images at the points of a grid, and the gradients."""

from __future__ import annotations

from typing import Any

from nnkernels._typing import Array
from nnkernels.dispatch import grid_sample as dispatch
from nnkernels.ops import _options, _windows
from nnkernels.ops._public import public


@public
def grid_sample(
    x: Array,
    grid: Array,
    /,
    *,
    mode: str = "linear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    out: Array | None = None,
) -> Array:
    """Values of images at the points that a grid names (a spatial transformer).

    Parameters
    ----------
    x : array
        Of shape (N, C, H, W) or (N, C, D, H, W), of any strides, and of float16, bfloat16, float32
        or float64.
    grid : array
        Of shape (N, out_h, out_w, 2) or (N, out_d, out_h, out_w, 3), of the dtype of ``x`` or
        float32: places as (x, y) or (x, y, z), so that the first number is along the last axis.
        -1 and 1 are the ends of an axis.
    mode : {"linear", "nearest", "cubic"}
        From two elements along each axis, one, or four (two spatial axes only).
    padding_mode : {"zeros", "border", "reflection"}
        What is outside: zeros, the nearest element of the border, or the image mirrored.
    align_corners : bool, default False
        Whether -1 and 1 are the centres of the first and last elements; else their outer edges.
    {out of windows}

    Notes
    -----
    Places and sums are computed in float32 (float64 for float64). A half is rounded to the even
    element in "nearest". A place that is NaN is outside for "zeros", and else the first element.

    References
    ----------
    M. Jaderberg et al., "Spatial transformer networks", NeurIPS 2015.

    {examples}
    >>> x = np.array([[[[0.0, 1.0], [2.0, 3.0]]]])
    >>> nnk.grid_sample(x, np.zeros((1, 1, 1, 2))).tolist()
    [[[[1.5]]]]
    """
    return dispatch.apply(_sampling(mode, padding_mode, align_corners), x, grid, out)


@public
def grid_sample_backward(
    dy: Array,
    x: Array,
    grid: Array,
    /,
    *,
    mode: str = "linear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
) -> tuple[Array, Array]:
    """Gradients of `grid_sample`, of the image and of the grid.

    Parameters
    ----------
    dy : array
        The cotangent: the gradient of the loss with respect to the result of `grid_sample`.
    x, grid : array
        The operands of `grid_sample`.
    mode : {"linear", "nearest", "cubic"}
        As in `grid_sample`. The gradient of the grid is 0 for "nearest".
    padding_mode : {"zeros", "border", "reflection"}
        As in `grid_sample`. At the border, and where an image is clipped, the gradient of the grid
        is 0.
    align_corners : bool, default False
        As in `grid_sample`.

    Returns
    -------
    dx, dgrid : array
        Of the shapes and dtypes of ``x`` and ``grid``.

    {raises}

    Notes
    -----
    {notes of sums}

    dx is a scatter: whoever owns a part of a plane of it goes through all points of the image in
    order. On a CPU a part is a whole plane, and little is done twice. On a GPU parts are small and
    all points are read for each of them: where there are few images and channels this is several
    times slower than atomic additions would be.

    {examples}
    >>> x, grid = np.array([[[[0.0, 1.0], [2.0, 3.0]]]]), np.zeros((1, 1, 1, 2))
    >>> dx, dgrid = nnk.grid_sample_backward(np.ones((1, 1, 1, 1)), x, grid)
    >>> dx.tolist(), dgrid.tolist()
    ([[[[0.25, 0.25], [0.25, 0.25]]]], [[[[1.0, 2.0]]]])
    """
    return dispatch.backward(_sampling(mode, padding_mode, align_corners), dy, x, grid)


def _sampling(mode: Any, padding_mode: Any, align_corners: Any) -> dispatch.Sampling:
    return dispatch.Sampling(
        _windows.choice("mode", mode, tuple(dispatch.MODES)),
        _windows.choice("padding_mode", padding_mode, tuple(dispatch.PADDINGS)),
        _options.flag("align_corners", align_corners),
    )
