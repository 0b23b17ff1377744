"""Plans of batch normalisation: its checks, and its launches for arrays of given shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nnkernels.dispatch.channel_plan import (
    ChannelPlan,
    Channels,
    add_coefficients,
    add_elementwise,
    add_reduction,
    compute_element,
)
from nnkernels.dispatch.dtypes import ELEMENTS, Element, name_of, numpy_dtype, require
from nnkernels.dispatch.elementwise import Functor, normalize_axis
from nnkernels.errors import DTypeError, ShapeError

# An activation: its functor and scalars, or None.
Activated = tuple[Functor, tuple[complex, ...]] | None

if TYPE_CHECKING:
    from nnkernels.dispatch.fused_batch_norm import FunctionsInside

NAMES = ("x", "weight", "bias", "running_mean", "running_var")
_APPLY = "batch_norm_apply"


# ---- checks -------------------------------------------------------------------------------------


def _channels(x: Any, axis: int, functions: FunctionsInside | None = None) -> Channels:
    found = require(x.dtype, "f", "x") if functions is None else functions.found
    return Channels(x, normalize_axis(axis, x.ndim, "x"), found)


def _check_parameters(channels: Channels, arrays: Sequence[Any], names: Sequence[str]) -> None:
    found = channels.found
    allowed = tuple(dict.fromkeys((found.name, found.compute_name)))
    for array, name in zip(arrays, names, strict=True):
        if array is None:
            continue
        if array.shape != (channels.count,):
            raise ShapeError(
                f"{name} has shape {array.shape}; it must have shape ({channels.count},), for x "
                f"has shape {channels.shape} and its channel axis is {channels.axis}"
            )
        if name_of(array.dtype) not in allowed or not array.dtype.isnative:
            raise DTypeError(
                f"{name} has dtype {array.dtype}; beside x of dtype {found.name} it must be of "
                f"{' or '.join(allowed)}"
            )


def _check_several(channels: Channels) -> None:
    if channels.count and channels.length < 2:
        raise ShapeError(
            f"x has shape {channels.shape}: training takes more than {channels.length} elements "
            f"of each channel (axis {channels.axis})"
        )


def _check_cotangent(dy: Any, x: Any) -> None:
    if dy.shape != x.shape:
        raise ShapeError(f"dy has shape {dy.shape} and x {x.shape}; they must be equal")
    allowed = require(x.dtype, "f", "x")
    if require(dy.dtype, "f", "dy").name not in (allowed.name, allowed.compute_name):
        raise DTypeError(f"dy has dtype {dy.dtype} and x {x.dtype}; they must be equal")


def _check_given(arrays: Sequence[Any], names: Sequence[str]) -> None:
    for array, name in zip(arrays, names, strict=True):
        if array is None:
            raise ValueError(f"{name} is needed in inference (training=False), and was not given")


# ---- plans --------------------------------------------------------------------------------------


def _step(array: Any) -> int:
    return 0 if array is None or array.shape[0] == 1 else array.strides[0]


def _element(array: Any) -> Element:
    return ELEMENTS[name_of(array.dtype)]


def _types(arrays: Sequence[Any]) -> str:
    return f"Types<{', '.join('void' if a is None else _element(a).storage for a in arrays)}>"


def _apply_functor(activation: Activated) -> Functor:
    name = activation[0].name if activation else "Identity"
    return Functor(f"BatchNormApply<{name}>", _APPLY, 4, 1, "f", ("x", "mean", "scale", "shift"))


def _add_apply(
    plan: ChannelPlan,
    channels: Channels,
    x: Any,
    mean: tuple[int, Element, int],
    machine: Any,
    activation: Activated,
    alignment: int,
    written: Element,
) -> None:
    """y from x, the means (number, type and stride) and the rows `scale` and `shift`."""
    wide = compute_element(channels.found)
    along = channels.along(wide.itemsize)
    add_elementwise(
        plan,
        channels,
        machine,
        _apply_functor(activation),
        [
            (5, written, channels.strides_like(written)),
            (0, channels.found, x.strides),
            (mean[0], mean[1], channels.along(mean[2])),
            (9, wide, along),
            (10, wide, along),
        ],
        activation[1] if activation else (),
        alignment,
        (activation[0].header,) if activation else (),
    )


def training(
    views: Sequence[Any],
    axis: int,
    options: tuple[float, ...],
    activation: Activated,
    machine: Any,
    alignment: int,
    functions: FunctionsInside | None = None,
) -> ChannelPlan:
    """Plan of y and the new running statistics."""
    # Pointers: 0 x, 1 to 4 parameters, 5 y, 6 and 7 running statistics, 8 to 10 rows, 11 workspace,
    # and those of functions.
    x, *parameters = views
    channels = _channels(x, axis, functions)
    _check_parameters(channels, parameters, NAMES[1:])
    _check_several(channels)
    running = [None if a is None else channels.vector(a.dtype) for a in parameters[2:]]
    found = channels.found
    eps, momentum, is_wide = options
    source, written = found, compute_element(found) if is_wide else found
    operands = [(found, x.strides), (written, channels.strides_like(written))]
    if functions is not None:
        source, written, operands = functions.operands(channels, x)
    plan = ChannelPlan((channels.like(numpy_dtype(written.name)), *running))
    if functions is not None:
        functions.add_results(plan, channels)
    if 0 in x.shape:
        return plan
    add_coefficients(plan, channels, 3)
    scalars = activation[1] if activation else ()
    inputs = 1 if functions is None else functions.inputs
    problem = channels.problem(operands, tuple(map(_step, parameters)), alignment, inputs)
    name = activation[0].name if activation else "Identity"
    chosen = add_reduction(
        plan,
        channels,
        machine,
        problem,
        f"{source.storage}, {written.storage}, {found.compute}, {_types(parameters)}, {name}",
        ("BatchNormForward", "batch_norm", activation[0].header if activation else ""),
        (0, 5, 1, 2, 3, 4, 6, 7, 8, 11),
        (eps, momentum, channels.length / (channels.length - 1), *(scalars or (0,))),
        saved=3,
        functions=functions,
    )
    if not chosen.applies:
        wide = compute_element(found)
        mean = (8, wide, wide.itemsize)
        if functions is not None:
            functions.add_apply(plan, channels, x, mean, machine, activation, alignment, False)
        elif not chosen.follows:
            _add_apply(plan, channels, x, mean, machine, activation, alignment, written)
    return plan


def _add_coefficients(
    plan: ChannelPlan,
    channels: Channels,
    machine: Any,
    sources: Sequence[tuple[int, Any]],
    rows: tuple[int, int],
    eps: float,
    alignment: int,
) -> None:
    """Rows of scale and shift from the running variance, weight and bias."""
    wide = compute_element(channels.found)
    weight, bias = ("true" if array is not None else "false" for _, array in sources[1:])
    given = [(number, array) for number, array in sources if array is not None]
    functor = Functor(
        f"BatchNormCoefficients<{weight}, {bias}>", _APPLY, len(given), 2, "f", ("",) * len(given)
    )
    results = [(row, wide, (wide.itemsize,)) for row in rows]
    inputs = [(number, _element(array), (_step(array),)) for number, array in given]
    add_elementwise(plan, channels, machine, functor, [*results, *inputs], (eps,), alignment)


def inference(
    views: Sequence[Any],
    axis: int,
    options: tuple[float, ...],
    activation: Activated,
    machine: Any,
    alignment: int,
    functions: FunctionsInside | None = None,
) -> ChannelPlan:
    """Plan of y from running statistics."""
    # Pointers as in training; one result.
    x, weight, bias, mean, variance = views
    channels = _channels(x, axis, functions)
    _check_given((mean, variance), NAMES[3:])
    _check_parameters(channels, views[1:], NAMES[1:])
    eps, is_wide = options
    written = compute_element(channels.found) if is_wide else channels.found
    if functions is not None:
        _, written, _ = functions.operands(channels, x)
    y = channels.like(numpy_dtype(written.name))
    plan = ChannelPlan((y, None, None))
    if functions is not None:
        functions.add_results(plan, channels)
    if 0 in x.shape:
        return plan
    add_coefficients(plan, channels, 3)
    sources = [(4, variance), (1, weight), (2, bias)]
    _add_coefficients(plan, channels, machine, sources, (9, 10), eps, alignment)
    source = (3, _element(mean), _step(mean))
    if functions is not None:
        functions.add_apply(plan, channels, x, source, machine, activation, alignment, True)
    else:
        _add_apply(plan, channels, x, source, machine, activation, alignment, written)
    return plan


def training_backward(*arguments: Any) -> ChannelPlan:
    """Plan of dx, dweight and dbias."""
    return _backward(True, *arguments)


def inference_backward(*arguments: Any) -> ChannelPlan:
    """Plan of dx, dweight and dbias where the statistics are constants."""
    return _backward(False, *arguments)


def _backward(
    is_training: bool,
    views: Sequence[Any],
    axis: int,
    options: tuple[float, ...],
    activation: Activated,
    machine: Any,
    alignment: int,
) -> ChannelPlan:
    # Pointers: 0 dy, 1 x, 2 to 5 parameters, 6 dx, 7 dweight, 8 dbias, 9 to 12 rows, 13 workspace.
    dy, x, *parameters = views
    channels = _channels(x, axis)
    _check_cotangent(dy, x)
    _check_parameters(channels, parameters, NAMES[1:])
    if is_training:
        _check_several(channels)
    else:
        _check_given(parameters[2:], NAMES[3:])
    weight, bias, mean, variance = parameters
    gradients = [None if a is None else channels.vector(a.dtype) for a in (weight, bias)]
    found = channels.found
    plan = ChannelPlan((channels.like(x.dtype), *gradients))
    if 0 in x.shape:
        plan.fill = True
        return plan
    add_coefficients(plan, channels, 4)
    sources = (weight, None, None) if is_training else (weight, mean, variance)
    problem = channels.problem(
        [(found, x.strides), (_element(dy), dy.strides), (found, channels.strides_like(found))],
        tuple(map(_step, sources)),
        alignment,
    )
    kind = f"{_types((weight, bias))}, {'true' if is_training else 'false'}"
    chosen = add_reduction(
        plan,
        channels,
        machine,
        problem,
        f"{found.storage}, {_element(dy).storage}, {found.compute}, {_types(sources)}, {kind}",
        ("BatchNormBackward", "batch_norm_backward", ""),
        (1, 0, 6, 2, 4, 5, 7, 8, 9, 13),
        options,
        saved=5,
    )
    if not (chosen.applies or chosen.follows):
        _add_gradient(plan, channels, dy, x, machine, is_training, alignment)
    return plan


def _add_gradient(
    plan: ChannelPlan,
    channels: Channels,
    dy: Any,
    x: Any,
    machine: Any,
    is_training: bool,
    alignment: int,
) -> None:
    """Dx from dy, x and the rows of coefficients."""
    found, wide = channels.found, compute_element(channels.found)
    along = channels.along(wide.itemsize)
    operands = [(6, found, channels.strides_like(found)), (0, _element(dy), dy.strides)]
    if is_training:
        operands += [(1, found, x.strides), *((row, wide, along) for row in (9, 10, 11, 12))]
        functor = Functor("BatchNormGradient", _APPLY, 6, 1, "f", ("",) * 6)
    else:
        operands += [(10, wide, along)]
        functor = Functor("BatchNormScale", _APPLY, 2, 1, "f", ("", ""))
    add_elementwise(plan, channels, machine, functor, operands, (), alignment)
