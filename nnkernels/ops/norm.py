"""Normalisation by the statistics of rows: layer, RMS, group and instance norm."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnkernels._typing import Array
from nnkernels.dispatch import fused_norm
from nnkernels.dispatch import norm as dispatch
from nnkernels.dispatch.axes import checked_axis
from nnkernels.ops import _options
from nnkernels.ops._activation import Activation, ActivationLike, resolve
from nnkernels.ops._functions import Function, Operands, functions_of, is_plain
from nnkernels.ops._public import public

Axis = int | tuple[int, ...] | None


@public
def layer_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    /,
    *,
    axis: Axis = -1,
    eps: float = 1e-5,
    residual: Array | None = None,
    activation: ActivationLike = None,
    prologue: Function = None,
    prologue_operands: Operands = (),
    epilogue: Function = None,
    operands: Operands = (),
    out: Array | None = None,
) -> Any:
    """Layer norm: ``y = (x - mean) / sqrt(var + eps) * weight + bias`` along axes.

    Parameters
    ----------
    x : array
        Of any shape and strides, and of float16, bfloat16, float32 or float64.
    weight, bias : array, optional
        Of the shape of the axes, in the order in which ``axis`` names them, and of the dtype of
        ``x`` or float32.
    axis : int, tuple of int or None, default -1
        What makes a row: an axis, several, or all for None.
    {eps of a variance}
    {residual and activation}
    {out of a norm}

    {raises of norms}

    Notes
    -----
    {notes of norms}

    References
    ----------
    J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer normalization", arXiv:1607.06450.

    {examples}
    >>> nnk.layer_norm(np.array([1.0, 3.0]), np.array([2.0, 2.0]), eps=0).tolist()
    [-2.0, 2.0]
    """
    return _apply(
        "layer_kind", dispatch.along_axes, x, weight, bias, axis, None, eps, 0.0,
        residual, activation, (prologue, prologue_operands, epilogue, operands), out,
    )  # fmt: skip


@public
def rms_norm(
    x: Array,
    weight: Array | None = None,
    /,
    *,
    axis: Axis = -1,
    eps: float = 1e-6,
    offset: float = 0.0,
    residual: Array | None = None,
    activation: ActivationLike = None,
    prologue: Function = None,
    prologue_operands: Operands = (),
    epilogue: Function = None,
    operands: Operands = (),
    out: Array | None = None,
) -> Any:
    """RMS norm: ``y = x / sqrt(mean(x^2) + eps) * (weight + offset)`` along axes.

    Parameters
    ----------
    x : array
        Of any shape and strides, and of float16, bfloat16, float32 or float64.
    weight : array, optional
        Of the shape of the axes, in the order in which ``axis`` names them, and of the dtype of
        ``x`` or float32. Without it the last factor is 1.
    axis : int, tuple of int or None, default -1
        What makes a row: an axis, several, or all for None.
    eps : float, default 1e-6
        Added to the mean of squares; 0 or more.
    offset : float, default 0
        Added to the weight: 1 for weights that are stored as their distance from 1.
    {residual and activation}
    {out of a norm}

    {raises of norms}

    Notes
    -----
    {notes of norms}

    References
    ----------
    B. Zhang and R. Sennrich, "Root mean square layer normalization", NeurIPS 2019,
    arXiv:1910.07467.

    {examples}
    >>> nnk.rms_norm(np.array([3.0, 4.0, 0.0, 0.0]), eps=0).round(4).tolist()
    [1.2, 1.6, 0.0, 0.0]
    """
    if type(offset) is not float or not -1e6 < offset < 1e6:
        offset = _options.finite("offset", offset)
    return _apply(
        "rms_kind", dispatch.along_axes, x, weight, None, axis, None, eps, offset,
        residual, activation, (prologue, prologue_operands, epilogue, operands), out,
    )  # fmt: skip


@public
def group_norm(
    x: Array,
    num_groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    /,
    *,
    axis: int = 1,
    eps: float = 1e-5,
    residual: Array | None = None,
    activation: ActivationLike = None,
    prologue: Function = None,
    prologue_operands: Operands = (),
    epilogue: Function = None,
    operands: Operands = (),
    out: Array | None = None,
) -> Any:
    """Group norm: ``y = (x - mean) / sqrt(var + eps) * weight + bias``, by groups of channels.

    The mean and the variance are those of the channels of a group at all positions of one sample.

    Parameters
    ----------
    x : array
        Of any shape and strides, and of float16, bfloat16, float32 or float64. Axis 0 counts the
        samples, unless it is the channel axis.
    num_groups : int
        How many groups the channels are divided into, equal in size and each of neighbours.
    {weight and bias of channels}
    axis : int, default 1
        The channel axis: -1 for channels-last arrays.
    {eps of a variance}
    {residual and activation}
    {out of a norm}

    {raises of norms}

    Notes
    -----
    {notes of norms}

    References
    ----------
    Y. Wu and K. He, "Group normalization", arXiv:1803.08494.

    {examples}
    >>> x = np.array([[1.0, 3.0, 10.0, 30.0]])
    >>> nnk.group_norm(x, 2, eps=0).tolist()
    [[-1.0, 1.0, -1.0, 1.0]]
    """
    groups = count("num_groups", num_groups)
    return _apply(
        "layer_kind", dispatch.over_groups, x, weight, bias, axis, groups, eps, 0.0, residual,
        activation, (prologue, prologue_operands, epilogue, operands), out,
    )  # fmt: skip


@public
def instance_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    /,
    *,
    axis: int = 1,
    eps: float = 1e-5,
    residual: Array | None = None,
    activation: ActivationLike = None,
    prologue: Function = None,
    prologue_operands: Operands = (),
    epilogue: Function = None,
    operands: Operands = (),
    out: Array | None = None,
) -> Any:
    """Instance norm: ``y = (x - mean) / sqrt(var + eps) * weight + bias`` for every channel.

    The mean and the variance are those of one channel at all positions of one sample.

    Parameters
    ----------
    x : array
        Of any shape and strides, and of float16, bfloat16, float32 or float64. Axis 0 counts the
        samples, unless it is the channel axis.
    {weight and bias of channels}
    axis : int, default 1
        The channel axis: -1 for channels-last arrays.
    {eps of a variance}
    {residual and activation}
    {out of a norm}

    {raises of norms}

    Notes
    -----
    {notes of norms}

    References
    ----------
    D. Ulyanov, A. Vedaldi and V. Lempitsky, "Instance normalization: the missing ingredient for
    fast stylization", arXiv:1607.08022.

    {examples}
    >>> nnk.instance_norm(np.array([[[1.0, 3.0], [10.0, 30.0]]]), eps=0).tolist()
    [[[-1.0, 1.0], [-1.0, 1.0]]]
    """
    return _apply(
        "layer_kind", dispatch.over_groups, x, weight, bias, axis, None, eps, 0.0, residual,
        activation, (prologue, prologue_operands, epilogue, operands), out,
    )  # fmt: skip


def _apply(
    kind: str,
    axes_of: Any,
    x: Any,
    weight: Any,
    bias: Any,
    axis: Any,
    groups: int | None,
    eps: Any,
    offset: float,
    residual: Any,
    activation: ActivationLike,
    given: tuple[Any, ...],
    out: Any,
) -> Any:
    found = None if activation is None else resolve(activation, "activation")
    norm = with_options(kind, axes_of, axis, groups, eps, offset, found)
    functions = None if is_plain(given) else functions_of(*given)
    if functions is None:
        return dispatch.apply(norm, x, weight, bias, residual, out)
    if functions.prologue is not None and residual is not None:
        raise TypeError("residual and prologue are both given; the prologue can add the residual")
    return fused_norm.apply(norm, functions, x, weight, bias, residual, out)


def with_options(
    kind: str,
    axes_of: Any,
    axis: Any,
    groups: int | None,
    eps: Any,
    offset: float,
    activation: Activation | None = None,
    wide: bool = False,
) -> dispatch.Norm:
    """The norm of a call, whose axis and eps are checked here: see :class:`dispatch.Norm`."""
    if type(axis) is not int:
        axis = _index("axis", axis) if axes_of is dispatch.over_groups else checked_axis(axis)
    if type(eps) is not float or not 0.0 <= eps < 1.0:
        eps = _options.not_negative("eps", eps)
    if activation is None:
        return dispatch.norm_with(kind, axes_of, axis, groups, eps, offset, wide=wide)
    functor, scalars = activation.functor, activation.parameters
    return dispatch.norm_with(kind, axes_of, axis, groups, eps, offset, functor, scalars, wide)


def count(name: str, value: object) -> int:
    """A number of groups: 1 or more."""
    number = _index(name, value)
    if number < 1:
        raise ValueError(f"{name} must be at least 1, not {number}")
    return number


def _index(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, not {type(value).__name__} ({value!r:.60})")
    return int(value)
