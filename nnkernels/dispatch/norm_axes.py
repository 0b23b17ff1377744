"""Which axes a norm reduces, and where its parameters lie along the array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nnkernels.dispatch.axes import Shape, Strides, checked_axis, normalize_axes
from nnkernels.dispatch.dtypes import ELEMENTS, Element, require
from nnkernels.dispatch.elementwise import normalize_axis
from nnkernels.errors import DTypeError, ShapeError


@dataclass(frozen=True)
class NormAxes:
    """The axes of an array as a norm sees them.

    Those of a group norm have one more than the array: the channel axis is two, the group and the
    channel within it.

    Attributes
    ----------
    channel : int or None
        The axis that is split.
    groups : int
        How many groups it is split into.
    reduced : tuple of int
        What makes a row, of the axes after the split, in rising order.
    parameters : tuple of int
        Axes of the weight and the bias, after the split, in their order.
    parameter_shape : tuple of int
        Their shape, before the split.
    """

    channel: int | None
    groups: int
    reduced: tuple[int, ...]
    parameters: tuple[int, ...]
    parameter_shape: Shape

    def split_shape(self, shape: Shape) -> Shape:
        """The shape of an array after the split."""
        a = self.channel
        if a is None:
            return shape
        return (*shape[:a], self.groups, shape[a] // self.groups, *shape[a + 1 :])

    def split_strides(self, shape: Shape, strides: Strides) -> Strides:
        """The strides of an array of a shape after the split."""
        a = self.channel
        if a is None:
            return strides
        step = strides[a]
        return (*strides[:a], shape[a] // self.groups * step, step, *strides[a + 1 :])

    def parameter_strides(self, strides: Strides, rank: int) -> Strides:
        """Strides of a weight along the axes after the split, of which there are ``rank``."""
        if self.channel is not None:
            strides = (self.parameter_shape[0] // self.groups * strides[0], strides[0])
        along = [0] * rank
        for axis, step in zip(self.parameters, strides, strict=True):
            along[axis] = step
        return tuple(along)


def trailing_axes(shape: Shape, axis: Any) -> NormAxes:
    """The axes of a layer or RMS norm: those that are named, parameters in that order.

    Raises
    ------
    TypeError
        For anything but an integer, a tuple of integers or None (all axes).
    ShapeError
        For an axis out of range or given twice.
    """
    rank = len(shape)
    reduced = normalize_axes(axis, rank)
    given = checked_axis(axis)
    if given is None:
        named: tuple[int, ...] = reduced
    else:
        named = tuple(a % rank for a in (given if isinstance(given, tuple) else (given,)))
    return NormAxes(None, 1, reduced, named, tuple(shape[a] for a in named))


def channel_groups(shape: Shape, axis: Any, num_groups: int | None) -> NormAxes:
    """The axes of a group norm, or with None of an instance norm: every channel a group.

    Axis 0 is that of the batch, unless it is the channel axis.

    Raises
    ------
    TypeError
        For an axis that is no integer.
    ShapeError
        For an axis out of range, or channels that the groups do not divide.
    """
    channel = normalize_axis(axis, len(shape), "x")
    channels = shape[channel]
    groups = channels if num_groups is None else num_groups
    if num_groups is not None and channels % num_groups:
        raise ShapeError(
            f"num_groups is {num_groups}, which does not divide the {channels} channels along axis "
            f"{channel} of x of shape {shape}"
        )
    # An axis of no channels cannot be split, and need not be: nothing is computed.
    groups = max(groups, 1)
    batch = (0,) if channel > 0 else ()
    reduced = tuple(a for a in range(len(shape) + 1) if a != channel and a not in batch)
    return NormAxes(channel, groups, reduced, (channel, channel + 1), (channels,))


def check_operands(
    axes: NormAxes, x: Any, same: Sequence[Any], same_names: Sequence[str], parameters: Any
) -> Element:
    """The element type of x, of which all operands of a norm are found to fit.

    Parameters
    ----------
    axes : NormAxes
        Of the norm.
    x : array
        What is normalised.
    same, same_names : sequence
        Arrays like x: residual, cotangents.
    parameters : dict of str to array
        Weight and bias, of the dtype of x or float32 (mixed precision).

    Raises
    ------
    DTypeError, ShapeError
        Naming the argument that does not fit.
    """
    found = require(x.dtype, "f", "x")
    for array, name in zip(same, same_names, strict=False):
        if array.shape != x.shape:
            raise ShapeError(f"{name} has shape {array.shape} and x {x.shape}; they must be equal")
        # A cotangent may come from a kernel that did not round it.
        wide = name == "dy" and array.dtype.name == found.compute_name and array.dtype.isnative
        if array.dtype != x.dtype and not wide:
            raise DTypeError(f"{name} has dtype {array.dtype} and x {x.dtype}; they must be equal")
    for name, array in parameters.items():
        check_parameter(array, name, axes.parameter_shape, x.shape, found)
    return found


def check_parameter(array: Any, name: str, wanted: Shape, shape: Shape, found: Element) -> None:
    """Check the shape and dtype of a weight, a bias or a statistic.

    Raises
    ------
    DTypeError, ShapeError
        Naming the argument.
    """
    if array.shape != wanted:
        raise ShapeError(
            f"{name} has shape {array.shape}; for x of shape {shape} it must be {wanted}"
        )
    given = require(array.dtype, "f", name)
    allowed = {found.name, found.compute_name}
    if given.name not in allowed:
        raise DTypeError(
            f"{name} has dtype {given.name}; for x of dtype {found.name} it must be "
            f"{' or '.join(sorted(allowed, key=lambda n: ELEMENTS[n].itemsize))}"
        )
