"""Gradients of row norms: from arrays to launches."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnkernels.dispatch import machines, norm_backward_plan
from nnkernels.dispatch.axes import checked_axis, normalize_axes
from nnkernels.dispatch.dtypes import require
from nnkernels.dispatch.elementwise import alignment_of, remember
from nnkernels.errors import DTypeError, ShapeError
from nnkernels.interop.libraries import NUMPY, adopt_all

LAYER, RMS = "layer_norm_kind", "rms_norm_kind"


@dataclass(frozen=True)
class NormAxes:
    """What is normalised together, as axes of the array.

    Attributes
    ----------
    reduced : tuple of int
        The axes of a row; with groups, ``groups`` counts on the array with its channel axis
        ``channel`` as two axes, (groups, channels of a group).
    parameters : tuple of int
        The axes of weight and bias, in their order.
    channel, groups : int
        The axis that is split, and into how many groups; -1 and 1 for none.
    """

    reduced: tuple[int, ...]
    parameters: tuple[int, ...]
    channel: int = -1
    groups: int = 1

    def split(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """A shape with the channel axis as two."""
        a = self.channel
        if a < 0:
            return tuple(sizes)
        return (*sizes[:a], self.groups, sizes[a] // self.groups, *sizes[a + 1 :])

    def split_strides(self, strides: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
        """Strides of an array of a shape, with the channel axis as two."""
        a = self.channel
        if a < 0:
            return tuple(strides)
        step = strides[a]
        return (*strides[:a], step * (shape[a] // self.groups), step, *strides[a + 1 :])

    def parameter_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Of weight and bias for an array of a shape."""
        if self.channel >= 0:
            return (shape[self.channel],)
        return tuple(shape[a] for a in self.parameters)


def along_axes(axis: Any, rank: int) -> NormAxes:
    """Rows along some axes; parameters have these axes in the order in which they are named."""
    normalize_axes(axis, rank)
    named = checked_axis(axis)
    if named is None:
        named = tuple(range(rank))
    axes = tuple(a % rank for a in (named if isinstance(named, tuple) else (named,)))
    return NormAxes(axes, axes)


def in_groups(axis: Any, shape: Sequence[int], groups: int | None) -> NormAxes:
    """Rows of the channels of a group (None: of one channel) and of all axes but the first."""
    rank = len(shape)
    if isinstance(checked_axis(axis), (tuple, type(None))):
        raise TypeError(f"axis must be an integer; got {type(axis).__name__} {axis!r}")
    (channel,) = normalize_axes(axis, rank)
    channels = shape[channel]
    if groups is None:
        groups = max(channels, 1)
    if groups < 1 or channels % groups:
        raise ShapeError(
            f"num_groups is {groups} and does not divide the {channels} channels of x (axis "
            f"{channel} of shape {tuple(shape)})"
        )
    kept = {channel} if channel == 0 else {0, channel}
    reduced = tuple(a + (a > channel) for a in range(rank) if a not in kept)
    return NormAxes((channel + 1, *reduced), (channel, channel + 1), channel, groups)


def apply(
    kind: str,
    axes_of: Any,
    arrays: Sequence[Any],
    *,
    eps: float,
    offset: float = 0.0,
    biased: bool = True,
) -> tuple[Any, ...]:
    """Gradients of a norm.

    Parameters
    ----------
    kind : str
        ``LAYER`` or ``RMS``.
    axes_of : tuple
        A function of the shape of x that gives its NormAxes, and what it depends on.
    arrays : sequence
        dy, x, weight, bias, dresidual; of these the last three may be None.
    eps, offset : float
        As in the norms.
    biased : bool
        Whether the norm has a bias at all.

    Returns
    -------
    tuple
        dx, dweight and, for a norm that has one, dbias.
    """
    there = [(a, n) for a, n in zip(arrays, _NAMES, strict=True) if a is not None]
    names = tuple(n for _, n in there)
    if all(type(a) is np.ndarray for a, _ in there):
        found = _run(kind, axes_of, dict((n, a) for a, n in there), eps, offset)
    else:
        views, library, like = adopt_all([a for a, _ in there], names)
        found = _run(kind, axes_of, dict(zip(names, views, strict=True)), eps, offset)
        if library is not NUMPY:
            found = tuple(None if a is None else library.restore(a, like) for a in found)
    return found if biased else found[:2]


_NAMES = ("dy", "x", "weight", "bias", "dresidual")


def _run(
    kind: str, axes_of: Any, arrays: dict[str, Any], eps: float, offset: float
) -> tuple[Any, ...]:
    machine, address = machines.for_array(arrays["x"])
    addresses = {name: address(a) for name, a in arrays.items()}
    described = tuple((n, a.shape, a.strides, a.dtype) for n, a in arrays.items())
    alignment = 1
    if machine.device.machine != "cpu":  # on a CPU, kernels do not depend on it
        alignment = alignment_of(*addresses.values())
    function, *argument = axes_of
    key = ("norm_backward", kind, function, *argument, eps, offset, described, alignment)
    plans = machine.plans
    plan = plans.get(key)
    if plan is None:
        axes = function(*argument, arrays["x"].shape)
        _check(arrays, axes)
        machines.require_aligned(machine, arrays.values(), arrays)
        plan = norm_backward_plan.make_plan(kind, axes, arrays, eps, offset, machine, alignment)
        remember(plans, key, plan)
    results = [None if a is None else a.make(machine) for a in plan.results]
    if plan.zeros:
        for result in results[1:]:
            if result is not None:
                with nullcontext() if isinstance(result, np.ndarray) else result.device:
                    result[...] = 0
    pointers = [addresses.get(n, 0) for n in ("x", "dy", "weight", "dresidual")]
    pointers += [0 if r is None else address(r) for r in results]
    workspaces = [w.make(machine) for w in plan.workspaces]
    pointers += [address(w) for w in workspaces]
    for step in plan.steps:
        step.launch(pointers)
    return tuple(results)


def _check(arrays: dict[str, Any], axes: NormAxes) -> None:
    x = arrays["x"]
    found = require(x.dtype, "f", "x")
    for name in ("dy", "dresidual"):
        array = arrays.get(name, x)
        if array.shape != x.shape:
            raise ShapeError(f"{name} has shape {array.shape} and x {x.shape}; they must be equal")
        if array.dtype != x.dtype:
            raise DTypeError(f"{name} has dtype {array.dtype} and x {x.dtype}; they must be equal")
    wanted = axes.parameter_shape(x.shape)
    for name in ("weight", "bias"):
        if name not in arrays:
            continue
        parameter = arrays[name]
        if parameter.shape != wanted:
            raise ShapeError(
                f"{name} has shape {parameter.shape}; for x of shape {x.shape} it must have shape "
                f"{wanted}"
            )
        if parameter.dtype not in (x.dtype, np.dtype(found.compute_name)):
            raise DTypeError(
                f"{name} has dtype {parameter.dtype}; for x of dtype {x.dtype} it must have that "
                f"or {found.compute_name}"
            )
