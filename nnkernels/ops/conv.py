"""Convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnkernels._typing import Array
from nnkernels.dispatch import conv as dispatch
from nnkernels.ops import _options
from nnkernels.ops._activation import ActivationLike, fused
from nnkernels.ops._public import public

__all__ = [
    "conv",
    "conv_backward",
    "conv_backward_data",
    "conv_backward_weight",
    "conv_transpose",
    "conv_transpose_backward",
]

PerAxis = int | Sequence[int]
Padding = int | str | Sequence[int | Sequence[int]]


def _checked(flip: bool, precision: str | None) -> tuple[bool, str | None]:
    if precision is not None:
        precision = _options.precision("precision", precision)
    return _options.flag("flip", flip), precision


@public
def conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    /,
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
    flip: bool = False,
    epilogue: ActivationLike = None,
    operands: Sequence[Any] = (),
    algorithm: str | None = None,
    precision: str | None = None,
) -> Array:
    """Convolution over one to three spatial axes, as cross-correlation: the windows times weights.

    ``y[n, o, u] = epilogue(sum over c, t of x[n, c, u stride + t dilation - low] weight[o, c, t]
    + bias[o])``, with zeros where x has no element.

    Parameters
    ----------
    x : array
        Of shape (N, C, *spatial), any strides and any real floating, complex or integer type.
        Channels-last arrays are views with the channel axis moved, and as fast.
    weight : array
        Of shape (O, C / groups, *kernel).
    bias : array, optional
        Of shape (O,).
    stride : int or tuple of int, default 1
        Elements from window to window, for all spatial axes or each.
    {padding}
    dilation : int or tuple of int, default 1
        Elements from tap to tap of a window.
    groups : int, default 1
        Into how many groups channels and outputs are divided, each convolved on its own.
    flip : bool, default False
        Whether the taps are reversed: the mathematical convolution.
    {epilogue}
    algorithm : {None, "direct", "winograd"}, default None
        ``"direct"`` adds products up, and nothing else. ``"winograd"`` makes windows of 3x3 or, in
        three dimensions, Dx3x3, of stride and dilation 1 along the axes of 3, from a quarter of
        the multiplications, on a CPU, for float32 or float64 and one group: see the notes. By
        default nnkernels chooses by what is faster.
    {precision}

    Returns
    -------
    array
        Of shape (N, O, *windows) and the library and memory order of ``x``; of the promoted dtype
        of the operands, or int32 for integers of fewer bits.

    {raises of convolutions}

    Notes
    -----
    An implicit matrix product: windows are gathered as they are multiplied, and never lie in
    memory. Sums are in float32 for float16, bfloat16 and float32, and in float64 for float64, in
    order of channels and then taps, or where channels are adjacent in memory of taps and then
    channels. Weights whose memory is not in that order are copied. On processors with tile
    registers (AMX), subnormal bfloat16 operands and subnormal float32 sums count as zero.

    Winograd's convolution of tiles of 4x4, where it is taken (`algorithm`), rounds more: with
    normally distributed operands, errors are about twice those of the direct sums (root mean
    square). They are relative to the largest operands that a tile sees, and an infinity or NaN
    among these makes all of its 16 results NaN. It keeps the transformed weights, four times their
    memory, for the length of a call.

    References
    ----------
    S. Chetlur et al., "cuDNN: efficient primitives for deep learning", 2014 (implicit products);
    A. Lavin and S. Gray, "Fast algorithms for convolutional neural networks", CVPR 2016;
    ``torch.nn.functional.conv2d``.

    {examples}
    >>> x = np.arange(6.0).reshape(1, 1, 6)
    >>> nnk.conv(x, np.array([[[1.0, 0.0, -1.0]]]), padding=1).tolist()
    [[[-1.0, -2.0, -2.0, -2.0, -2.0, 4.0]]]
    """
    options = (stride, padding, dilation, groups, *_checked(flip, precision))
    algorithm = _options.algorithm("algorithm", algorithm)
    return dispatch.conv(
        x, weight, bias, options, fused(epilogue, "epilogue", operands=operands), algorithm
    )


@public
def conv_transpose(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    /,
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    output_padding: PerAxis = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
    flip: bool = False,
    epilogue: ActivationLike = None,
    operands: Sequence[Any] = (),
    algorithm: str | None = None,
    precision: str | None = None,
) -> Array:
    """Transposed convolution: the gradient of `conv` by its image, as a layer.

    Along a spatial axis of n elements the result has ``(n - 1) stride + (kernel - 1) dilation + 1
    - low - high + output_padding``.

    Parameters
    ----------
    x : array
        Of shape (N, C, *spatial), any strides and any real floating, complex or integer type.
    weight : array
        Of shape (C, O / groups, *kernel).
    bias : array, optional
        Of shape (O,).
    stride, dilation, groups, flip
        Those of the convolution that is transposed: see `conv`.
    padding : int, str or tuple, default 0
        That of the convolution, and so taken off the result; ``"same"`` and ``"same_lower"`` are
        that of a convolution from ``n stride`` elements to n.
    output_padding : int or tuple of int, default 0
        Further elements at the end of every axis, fewer than its stride or dilation: of the lengths
        that the convolution maps to the same one, which one is meant.
    epilogue, operands
        As in `conv`.
    algorithm : {None, "direct", "winograd"}, default None
        As in `conv`; of a convolution with stride 1. By default, one product is made of all phases
        of the strides where there are few outputs (on a GPU without bias and epilogue, and where
        matrix cores multiply), in which zeros meet what other phases see: infinities and NaN give
        NaN to neighbours. Not so ``"direct"``.
    {precision}

    Returns
    -------
    array
        Of shape (N, O, *spatial) and the library and memory order of ``x``.

    {raises of convolutions}

    Notes
    -----
    Strides cost nothing: the result is made in one product for each of its phases, in which no
    zero between elements of ``x`` is multiplied.

    References
    ----------
    ``torch.nn.functional.conv_transpose2d``.

    {examples}
    >>> x = np.array([[[1.0, 2.0]]])
    >>> nnk.conv_transpose(x, np.array([[[1.0, 10.0, 100.0]]]), stride=2).tolist()
    [[[1.0, 10.0, 102.0, 20.0, 200.0]]]
    """
    options = (stride, padding, dilation, groups, *_checked(flip, precision))
    finish = fused(epilogue, "epilogue", operands=operands)
    algorithm = _options.algorithm("algorithm", algorithm)
    return dispatch.conv_transpose(x, weight, bias, options, output_padding, finish, algorithm)


@public
def conv_backward_data(
    dy: Array,
    weight: Array,
    x_shape: Sequence[int],
    /,
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
    flip: bool = False,
    algorithm: str | None = None,
    precision: str | None = None,
) -> Array:
    """Gradient of `conv` by its image.

    Parameters
    ----------
    dy : array
        The cotangent: the gradient of the loss with respect to the result of `conv`, of its shape
        and any strides.
    weight : array
        The weights of `conv`.
    x_shape : tuple of int
        Shape of the image.
    stride, padding, dilation, groups, flip
        As in `conv`.
    algorithm : {None, "direct", "winograd"}, default None
        As in `conv_transpose`.
    {precision}

    Returns
    -------
    dx : array
        Of shape ``x_shape`` and the library and memory order of ``dy``.

    {raises of convolutions}

    Notes
    -----
    One product for each phase of the strides: no zero between windows is multiplied. For complex
    operands the gradient is PyTorch's, with conjugates.

    {references of gradients}

    {examples}
    >>> dy, weight = np.array([[[1.0, 2.0]]]), np.array([[[1.0, 10.0, 100.0]]])
    >>> nnk.conv_backward_data(dy, weight, (1, 1, 4)).tolist()
    [[[1.0, 12.0, 120.0, 200.0]]]
    """
    options = (stride, padding, dilation, groups, *_checked(flip, precision))
    algorithm = _options.algorithm("algorithm", algorithm)
    return dispatch.backward_data(dy, weight, x_shape, options, algorithm=algorithm)


@public
def conv_backward_weight(
    dy: Array,
    x: Array,
    weight_shape: Sequence[int],
    /,
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
    flip: bool = False,
    precision: str | None = None,
) -> Array:
    """Gradient of `conv` by its weights.

    Parameters
    ----------
    dy : array
        The cotangent: the gradient of the loss with respect to the result of `conv`, of its shape
        and any strides.
    x : array
        The image of `conv`.
    weight_shape : tuple of int
        Shape of the weights.
    stride, padding, dilation, groups, flip
        As in `conv`.
    {precision}

    Returns
    -------
    dweight : array
        Of shape ``weight_shape`` and the library of ``x``. Its channels are adjacent in memory
        where those of ``x`` are.

    {raises of convolutions}

    Notes
    -----
    The sums over all windows are in float32 (float64 for float64), in a fixed order. For complex
    operands the gradient is PyTorch's, with conjugates.

    {references of gradients}

    {examples}
    >>> dy, x = np.array([[[1.0, 2.0]]]), np.array([[[1.0, 10.0, 100.0, 1000.0]]])
    >>> nnk.conv_backward_weight(dy, x, (1, 1, 3)).tolist()
    [[[21.0, 210.0, 2100.0]]]
    """
    options = (stride, padding, dilation, groups, *_checked(flip, precision))
    return dispatch.backward_weight(dy, x, weight_shape, options)


@public
def conv_backward(
    dy: Array,
    x: Array,
    weight: Array,
    bias: Array | None = None,
    /,
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
    flip: bool = False,
    algorithm: str | None = None,
    precision: str | None = None,
    wrt: int | Sequence[int] | None = None,
) -> tuple[Array | None, ...]:
    """Gradients of `conv`: `conv_backward_data`, `conv_backward_weight` and sums for the bias.

    Parameters
    ----------
    dy : array
        The cotangent: the gradient of the loss with respect to the result of `conv`, before its
        epilogue; of its shape and any strides.
    x, weight, bias : array
        The operands of `conv`, of a real floating or complex type. Of ``bias`` only the shape and
        dtype are used.
    stride, padding, dilation, groups, flip
        As in `conv`.
    algorithm : {None, "direct", "winograd"}, default None
        As in `conv`; of the gradient by ``x``.
    {precision}
    wrt : int or tuple of int, optional
        Positions of the operands whose gradients are made; the others are None. All by default.

    Returns
    -------
    dx, dweight : array
        Of the shapes and dtypes of ``x`` and ``weight``.
    dbias : array or None
        Of the shape and dtype of ``bias``; None without it.

    {raises of convolutions}

    {references of gradients}

    {examples}
    >>> dy, x = np.array([[[1.0, 2.0]]]), np.array([[[1.0, 10.0, 100.0]]])
    >>> dx, dw, db = nnk.conv_backward(dy, x, np.array([[[3.0, 5.0]]]), np.zeros(1))
    >>> dx.tolist(), dw.tolist(), db.tolist()
    ([[[3.0, 11.0, 10.0]]], [[[21.0, 210.0]]], [3.0])
    >>> nnk.conv_backward(dy, x, np.array([[[3.0, 5.0]]]), wrt=1)
    (None, array([[[ 21., 210.]]]), None)
    """
    options = (stride, padding, dilation, groups, *_checked(flip, precision))
    algorithm = _options.algorithm("algorithm", algorithm)
    return dispatch.gradients(dy, x, weight, bias, options, algorithm, _options.wanted(wrt, 3))


@public
def conv_transpose_backward(
    dy: Array,
    x: Array,
    weight: Array,
    bias: Array | None = None,
    /,
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    output_padding: PerAxis = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
    flip: bool = False,
    algorithm: str | None = None,
    precision: str | None = None,
    wrt: int | Sequence[int] | None = None,
) -> tuple[Array | None, ...]:
    """Gradients of `conv_transpose`: by ``x`` the convolution of ``dy`` that it transposes.

    Parameters
    ----------
    dy : array
        The cotangent: the gradient of the loss with respect to the result of `conv_transpose`,
        before its epilogue; of its shape and any strides.
    x, weight, bias : array
        The operands of `conv_transpose`, of a real floating or complex type. Of ``bias`` only the
        shape and dtype are used.
    stride, padding, output_padding, dilation, groups, flip
        As in `conv_transpose`.
    algorithm : {None, "direct", "winograd"}, default None
        As in `conv`; of the gradient by ``x``.
    {precision}
    wrt : int or tuple of int, optional
        Positions of the operands whose gradients are made; the others are None. All by default.

    Returns
    -------
    dx, dweight : array
        Of the shapes and dtypes of ``x`` and ``weight``.
    dbias : array or None
        Of the shape and dtype of ``bias``; None without it.

    {raises of convolutions}

    {references of gradients}

    {examples}
    >>> dy, x = np.array([[[1.0, 10.0, 100.0]]]), np.array([[[1.0, 2.0]]])
    >>> dx, dw, _ = nnk.conv_transpose_backward(dy, x, np.array([[[3.0, 5.0]]]))
    >>> dx.tolist(), dw.tolist()
    ([[[53.0, 530.0]]], [[[21.0, 210.0]]])
    """
    options = (stride, padding, dilation, groups, *_checked(flip, precision))
    algorithm = _options.algorithm("algorithm", algorithm)
    wanted = _options.wanted(wrt, 3)
    return dispatch.transposed_gradients(
        dy, x, weight, bias, options, output_padding, algorithm, wanted
    )
