"""Rules of the backward functions of normalisations: second derivatives.

With ``xhat = (x - mean) r`` and ``g = dz w``, where n elements have one mean and one r, the
gradient by x is ``r P(g)``, ``P(g) = g - mean(g) - xhat mean(g xhat)``. P is symmetric, so that
cotangents (v, u, t) of the gradients by x, weight and bias give by dz ``w r P(v) + u xhat + t`` and
by the weight ``sum dz r P(v)``. By x, through xhat and through r,

    ``r P(h) - r^2 xhat mean(P(v) g)``, ``h = u dz - r (mean(g xhat) v + mean(v xhat) g)``.

An activation is a link more of the chain: dz is its backward function of dy and z, or the result.
What has no mean subtracted (`rms_norm`) has none in P, and constant statistics have ``P(g) = g``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

import nnkernels
from nnkernels import registry
from nnkernels.dispatch import rows
from nnkernels.dispatch.axes import Shape
from nnkernels.dispatch.dtypes import ELEMENTS, name_of, numpy_dtype
from nnkernels.fusion.sums import apply_and_sum
from nnkernels.interop.libraries import adopt_all
from nnkernels.ops._activation import resolve
from nnkernels.registry.rule import Call, Gradients, Rule

View = Callable[[Any], Any]


@dataclass(frozen=True)
class Frame:
    """How the arrays of a norm are seen.

    Attributes
    ----------
    image, image_back : callable
        The view of an array like x, and the way back.
    parameter, parameter_back : callable
        The view of a parameter that broadcasts to it, and the way back.
    axes : tuple of int
        Of the view of x, along which the statistics are.
    """

    image: View
    image_back: View
    parameter: View
    parameter_back: View
    axes: tuple[int, ...]


# ---- which elements have one mean ----------------------------------------------------------------


def along_axes(shape: Shape, options: dict[str, Any]) -> Frame:
    """Of `layer_norm` and `rms_norm`: a parameter has the axes in the order of their names."""
    axis = options.get("axis", -1)
    rank = len(shape)
    named = range(rank) if axis is None else (axis,) if isinstance(axis, int) else axis
    axes = tuple(int(a) % rank for a in named)
    order = tuple(int(a) for a in np.argsort(axes))
    index = tuple(slice(None) if a in axes else None for a in range(rank))
    places = tuple(int(a) for a in np.argsort(order))
    inner = tuple(shape[a] for a in sorted(axes))
    return Frame(
        _same,
        _same,
        lambda p: p.transpose(order)[index],
        lambda p: p.reshape(inner).transpose(places),
        axes,
    )


def in_groups(shape: Shape, options: dict[str, Any]) -> Frame:
    """Of `group_norm` and `instance_norm`: as (groups, channels of one, batch, space...)."""
    rank = len(shape)
    channel = int(options.get("axis", 1)) % rank
    groups = options.get("num_groups", max(shape[channel], 1))
    order = (channel, *(a for a in range(rank) if a != channel))
    places = tuple(int(a) for a in np.argsort(order))
    moved = tuple(shape[a] for a in order)
    inner = (groups, shape[channel] // groups)
    tail = (1,) * (rank - 1)
    batch = 0 if channel == 0 else 1
    return Frame(
        lambda x: x.transpose(order).reshape(*inner, *moved[1:]),
        lambda y: y.reshape(moved).transpose(places),
        lambda p: p.reshape(*inner, *tail),
        lambda p: p.reshape(shape[channel]),
        (1, *range(2 + batch, rank + 1)),
    )


def of_channels(shape: Shape, options: dict[str, Any]) -> Frame:
    """Of `batch_norm`."""
    rank = len(shape)
    channel = int(options.get("axis", 1)) % rank
    inner = tuple(shape[a] if a == channel else 1 for a in range(rank))
    return Frame(
        _same,
        _same,
        lambda p: p.reshape(inner),
        lambda p: p.reshape(shape[channel]),
        tuple(a for a in range(rank) if a != channel),
    )


def _same(x: Any) -> Any:
    return x


# ---- statistics ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Statistics:
    """Of each set of ``count`` elements: the mean in two numbers, and the reciprocal deviation.

    Attributes
    ----------
    centred, constant : bool
        Whether the mean is subtracted, and whether the statistics do not depend on x.
    row : tuple of int
        The shape of one number for each set.
    """

    mean: Any
    rest: Any
    reciprocal: Any
    count: int
    row: Shape
    centred: bool = True
    constant: bool = False

    @property
    def numbers(self) -> tuple[Any, Any, Any]:
        """What xhat is made of."""
        return self.mean, self.rest, self.reciprocal


def _statistics(x: Any, axes: tuple[int, ...], eps: float, centred: bool) -> Statistics:
    row = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    count = max(prod(x.shape[a] for a in axes), 1)
    mean: Any = 0.0
    rest: Any = 0.0
    if centred:
        mean = rows.sum_over(x, axes, keepdims=True) / count
        # What rounding left of the mean: of a mean of 1e4 more than some deviations.
        rest = _sums(_deviations, (x, mean), (row,))[0] / count
    (squares,) = _sums(_squares, (x, mean, rest), (row,))
    return Statistics(mean, rest, (squares / count + eps) ** -0.5, count, row, centred)


def _deviations(x: Any, mean: Any) -> tuple[Any, ...]:
    return (x - mean,)


def _squares(x: Any, mean: Any, rest: Any) -> tuple[Any, ...]:
    deviation = (x - mean) - rest
    return (deviation * deviation,)


def _sums(function: Any, arrays: tuple[Any, ...], shapes: tuple[Any, ...]) -> tuple[Any, ...]:
    names = tuple(f"array {i}" for i in range(len(arrays)))
    return apply_and_sum(function, arrays, names, (), shapes)


# ---- the kernels ---------------------------------------------------------------------------------


def _hat(x: Any, mean: Any, rest: Any, r: Any) -> Any:
    return ((x - mean) - rest) * r


def _affine(x: Any, weight: Any, bias: Any, mean: Any, rest: Any, r: Any) -> tuple[Any, ...]:
    return (_hat(x, mean, rest, r) * weight + bias,)


def _means(
    v: Any, dz: Any, x: Any, weight: Any, mean: Any, rest: Any, r: Any
) -> tuple[Any, Any, Any, Any]:
    hat, g = _hat(x, mean, rest, r), dz * weight
    return v * hat, g * hat, v * 1.0, g * 1.0


def _by_dz(
    v: Any, u: Any, t: Any, dz: Any, x: Any, weight: Any, mean: Any, rest: Any, r: Any,
    along: Any, level: Any,
) -> tuple[Any, Any]:  # fmt: skip
    hat = _hat(x, mean, rest, r)
    projected = v - level - hat * along
    return weight * (r * projected) + u * hat + t, projected * (dz * weight)


def _through_hat(
    u: Any, extra: Any, v: Any, dz: Any, x: Any, weight: Any, mean: Any, rest: Any, r: Any,
    along: Any, g_along: Any,
) -> tuple[Any, Any]:  # fmt: skip
    h = _h(u, extra, v, dz, weight, r, along, g_along)
    return h * 1.0, h * _hat(x, mean, rest, r)


def _h(u: Any, extra: Any, v: Any, dz: Any, weight: Any, r: Any, along: Any, g_along: Any) -> Any:
    return u * dz + extra * weight - r * (g_along * v + along * (dz * weight))


def _by_x_and_weight(
    u: Any, extra: Any, v: Any, dz: Any, x: Any, weight: Any, mean: Any, rest: Any, r: Any,
    along: Any, g_along: Any, level: Any, h_along: Any, h_level: Any, energy: Any,
) -> tuple[Any, Any]:  # fmt: skip
    hat = _hat(x, mean, rest, r)
    h = _h(u, extra, v, dz, weight, r, along, g_along)
    projected = r * (v - level - hat * along)
    by_x = r * (h - h_level - hat * h_along) - r * r * hat * energy
    return by_x, dz * projected + extra * hat


# ---- rules ---------------------------------------------------------------------------------------


def of_norm_gradient(
    frame: Callable[[Shape, dict[str, Any]], Frame],
    arrays: tuple[str, ...],
    eps: float,
    centred: bool = True,
) -> Rule:
    """Of the backward function of a norm.

    Parameters
    ----------
    arrays : tuple of str
        Of the norm.
    eps : float
        The default of that option.
    """

    def pull(functions: Any, call: Call, *cotangents: Any) -> Gradients:
        with np.errstate(all="ignore"):
            return _pull(frame, eps, centred, call, cotangents)

    keeps = ("dy", *arrays, "dresidual")
    return Rule(pull, keeps=keeps, composed=False, optional=True)


def _pull(
    frame_of: Callable[[Shape, dict[str, Any]], Frame],
    default_eps: float,
    centred: bool,
    call: Call,
    cotangents: tuple[Any, ...],
) -> Gradients:
    given = dict(zip(call.names, call.arrays, strict=True))
    inputs = {f"cotangent {i}": d for i, d in enumerate(cotangents)}
    present = {name: a for name, a in (given | inputs).items() if a is not None}
    adopted, library, like = adopt_all(tuple(present.values()), tuple(present))
    views = dict(zip(present, adopted, strict=True))
    x = views["x"]
    frame = frame_of(tuple(x.shape), call.options)
    wide = _Wide(frame, views, call.options.get("offset", 0.0))
    eps = call.options.get("eps", default_eps)
    if "running_mean" in call.names and not call.options.get("training", False):
        reciprocal = (wide.parameter("running_var", 1.0) + eps) ** -0.5
        statistics = Statistics(
            wide.parameter("running_mean", 0.0), 0.0, reciprocal, 1, (), constant=True
        )
    else:
        statistics = _statistics(wide.image("x"), frame.axes, eps, centred)
    activation = call.options.get("activation")
    ddy, dx, dweight, dbias = _second(wide, statistics, resolve(activation, "activation"))
    found = {
        "dy": frame.image_back(ddy),
        "x": frame.image_back(dx),
        "weight": None if dweight is None else frame.parameter_back(dweight),
        "bias": None if dbias is None else frame.parameter_back(dbias),
        "dresidual": views.get("cotangent 0"),
    }
    gradients: list[Any] = []
    for name, is_wanted in zip(call.names, call.wanted, strict=True):
        gradient = found.get(name)
        if not is_wanted or name not in views or name not in found:
            gradients.append(None)
            continue
        if gradient is None:  # a bias without an activation, or a residual of no cotangent
            gradient = np.zeros_like(views[name])
        gradients.append(library.restore(gradient.astype(views[name].dtype, copy=False), like))
    return tuple(gradients)


class _Wide:
    """The arrays of a call in the type in which is computed, as the frame sees them."""

    def __init__(self, frame: Frame, views: dict[str, Any], offset: float) -> None:
        self.frame, self.views, self.offset = frame, views, offset

    def _wide(self, name: str) -> Any:
        view = self.views[name]
        computing = ELEMENTS[name_of(view.dtype)].compute_name
        return view.astype(numpy_dtype(computing), copy=False)

    def image(self, name: str) -> Any:
        """An array like x; 0 for one that is not there."""
        return self.frame.image(self._wide(name)) if name in self.views else 0.0

    def parameter(self, name: str, otherwise: float) -> Any:
        """A parameter, or a cotangent of one; a number for one that is not there."""
        if name not in self.views:
            return otherwise
        found = self.frame.parameter(self._wide(name))
        return found + self.offset if name == "weight" and self.offset else found


def _second(
    wide: _Wide, statistics: Statistics, activation: Any
) -> tuple[Any, Any, Any | None, Any | None]:
    """The gradients by dy, x, weight and bias, as the frame sees them."""
    x, weight = wide.image("x"), wide.parameter("weight", 1.0)
    v, u, t = (
        wide.image("cotangent 0"),
        wide.parameter("cotangent 1", 0.0),
        wide.parameter("cotangent 2", 0.0),
    )
    dy = wide.image("dy")
    bias = wide.parameter("bias", 0.0)
    numbers, row = statistics.numbers, statistics.row
    dz, residual = dy, None
    if activation is not None:
        (residual,) = _sums(_affine, (x, weight, bias, *numbers), (None,))
        residual = activation(residual) if activation.takes_result else residual
        dz = activation.backward(dy, residual)
    along: Any = 0.0
    g_along: Any = 0.0
    level: Any = 0.0
    if not statistics.constant:
        found = _sums(_means, (v, dz, x, weight, *numbers), (row,) * 4)
        along, g_along, level, _ = (total / statistics.count for total in found)
        level = level if statistics.centred else 0.0
    energy_row = None if statistics.constant else row
    arrays = (v, u, t, dz, x, weight, *numbers, along, level)
    ddz, energy = _sums(_by_dz, arrays, (None, energy_row))
    energy = 0.0 if statistics.constant else energy / statistics.count
    ddy, extra = ddz, 0.0
    if activation is not None:
        ddy, extra = _through_activation(activation, dy, residual, ddz)
    arrays = (u, extra, v, dz, x, weight, *numbers, along, g_along)
    h_level = h_along = 0.0
    if not statistics.constant:
        found = _sums(_through_hat, arrays, (row, row))
        h_level, h_along = (total / statistics.count for total in found)
        h_level = h_level if statistics.centred else 0.0
    shape = getattr(weight, "shape", None)
    levels = level, h_along, h_level, energy
    dx, dweight = _sums(_by_x_and_weight, (*arrays, *levels), (None, shape))
    dbias = None
    if activation is not None and getattr(bias, "shape", None) is not None:
        dbias = rows.sum_to_shape(extra, bias.shape)
    return ddy, dx, None if shape is None else dweight, dbias


def _through_activation(activation: Any, dy: Any, residual: Any, ddz: Any) -> tuple[Any, Any]:
    """Of ``dz = f'(z) dy`` for a cotangent of it: the gradients by dy and z."""
    rule = registry.find(f"{activation.name}_backward").gradient
    assert rule is not None
    names = ("dy", "y" if activation.takes_result else "x")
    shapes = (tuple(dy.shape), tuple(residual.shape))
    call = Call((dy, residual), names, shapes, None, activation.options, (True, True))
    ddy, by_residual = rule.pull(nnkernels, call, ddz)
    if by_residual is None:
        return ddy, 0.0
    if activation.takes_result:
        by_residual = activation.backward(by_residual, residual)
    return ddy, by_residual
