"""Convolutions and their gradients: from arrays to launches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nnkernels.dispatch import applied, machines, rows
from nnkernels.dispatch.applied import Application, Applied
from nnkernels.dispatch.axes import Shape
from nnkernels.dispatch.conv_by_data import plan_by_data
from nnkernels.dispatch.conv_by_weight import plan_by_weight
from nnkernels.dispatch.conv_operands import Operands, whole_dtype
from nnkernels.dispatch.conv_plan import ConvPlan
from nnkernels.dispatch.conv_product import plan_forward
from nnkernels.dispatch.dtypes import name_of
from nnkernels.dispatch.elementwise import alignment_of, remember
from nnkernels.dispatch.matmul_call import PLAIN, Epilogue
from nnkernels.dispatch.windows import (
    Axis,
    Windows,
    checked_padding,
    named_padding,
    per_axis,
    reach,
    spatial_rank,
    whole,
)
from nnkernels.errors import ShapeError
from nnkernels.interop.libraries import NUMPY, adopt_all, library_of

# Options of a convolution as they are given: stride, padding, dilation, groups, flip, precision.
Options = tuple[Any, Any, Any, Any, bool, str | None]


def conv(
    x: Any,
    weight: Any,
    bias: Any,
    options: Options,
    epilogue: Epilogue | Application,
    algorithm: str | None = None,
) -> Any:
    """``epilogue(x * weight + bias)``; bias may be None."""

    def make(arrays: Sequence[Any], machine: Any, found: Applied | None = None) -> ConvPlan:
        x, weight, bias = arrays
        finish = _finish(epilogue, found)
        stride, padding, dilation, groups, flip, precision = options
        rank = spatial_rank(x, "x")
        groups = whole(groups, "groups", 1)
        _check_weight(x.shape[1], "x", x.shape, weight, groups)
        _check_bias(bias, weight.shape[0], "weight", weight)
        geometry = Windows.checked(rank, weight.shape[2:], stride, padding, dilation)
        axes = geometry.axes(x.shape[2:])
        operands = Operands(
            (x, weight, bias), ("x", "weight", "bias"), found=found, precision=precision
        )
        return plan_forward(operands, axes, groups, flip, finish, machine, algorithm=algorithm)

    key = ("conv", _as_key(options), algorithm)
    return _call_with(epilogue, make, (x, weight, bias), ("x", "weight", "bias"), key)


def conv_transpose(
    x: Any,
    weight: Any,
    bias: Any,
    options: Options,
    output_padding: Any,
    epilogue: Epilogue | Application,
    algorithm: str | None = None,
) -> Any:
    """The transpose of a convolution with weights (I, O / groups, ...); bias may be None."""

    def make(arrays: Sequence[Any], machine: Any, found: Applied | None = None) -> ConvPlan:
        x, weight, bias = arrays
        finish = _finish(epilogue, found)
        stride, padding, dilation, groups, flip, precision = options
        rank = spatial_rank(x, "x")
        groups = whole(groups, "groups", 1)
        _check_transposed(x, weight, groups)
        outputs = weight.shape[1] * groups
        _check_bias(bias, outputs, "weight", weight)
        axes = transposed_axes(x, weight, stride, padding, dilation, output_padding, rank)
        shape = (x.shape[0], outputs, *(axis.size for axis in axes))
        operands = Operands(
            (x, weight, bias), ("x", "weight", "bias"), found=found, precision=precision
        )
        return plan_by_data(operands, shape, axes, groups, flip, finish, False, machine, algorithm)

    key = ("conv_transpose", _as_key((*options, output_padding)), algorithm)
    return _call_with(epilogue, make, (x, weight, bias), ("x", "weight", "bias"), key)


def backward_data(
    dy: Any,
    weight: Any,
    x_shape: Any,
    options: Options,
    out_dtype: Any = None,
    algorithm: str | None = None,
) -> Any:
    """The gradient of a convolution by x, an array of some shape."""
    shape = _checked_shape(x_shape, "x_shape")

    def make(arrays: Sequence[Any], machine: Any) -> ConvPlan:
        dy, weight = arrays
        stride, padding, dilation, groups, flip, precision = options
        rank = _rank_of(shape, "x_shape", dy)
        groups = whole(groups, "groups", 1)
        _check_weight(shape[1], "x_shape", shape, weight, groups)
        geometry = Windows.checked(rank, weight.shape[2:], stride, padding, dilation)
        axes = geometry.axes(shape[2:], "x")
        _check_cotangent(dy, (shape[0], weight.shape[0], *(axis.out for axis in axes)))
        operands = Operands((dy, weight), ("dy", "weight"), out_dtype, precision=precision)
        return plan_by_data(operands, shape, axes, groups, flip, PLAIN, True, machine, algorithm)

    key = ("conv_backward_data", shape, _as_key(options), out_dtype, algorithm)
    return _call(make, (dy, weight), ("dy", "weight"), key)


def backward_weight(
    dy: Any, x: Any, weight_shape: Any, options: Options, out_dtype: Any = None
) -> Any:
    """The gradient of a convolution by its weights, an array of some shape."""
    shape = _checked_shape(weight_shape, "weight_shape")

    def make(arrays: Sequence[Any], machine: Any) -> ConvPlan:
        dy, x = arrays
        stride, padding, dilation, groups, flip, precision = options
        rank = spatial_rank(x, "x")
        _rank_of(shape, "weight_shape", x)
        groups = whole(groups, "groups", 1)
        _check_weight(x.shape[1], "x", x.shape, _Shaped(shape), groups, "weight_shape")
        geometry = Windows.checked(rank, shape[2:], stride, padding, dilation)
        axes = geometry.axes(x.shape[2:])
        _check_cotangent(dy, (x.shape[0], shape[0], *(axis.out for axis in axes)))
        operands = Operands((dy, x), ("dy", "x"), out_dtype, precision=precision)
        return plan_by_weight(operands, shape, axes, groups, flip, machine)

    key = ("conv_backward_weight", shape, _as_key(options), out_dtype)
    return _call(make, (dy, x), ("dy", "x"), key)


def gradients(
    dy: Any,
    x: Any,
    weight: Any,
    bias: Any,
    options: Options,
    algorithm: str | None = None,
    wanted: tuple[bool, ...] = (True, True, True),
) -> tuple[Any, ...]:
    """Gradients of the operands of a convolution, each of its operand's dtype, or None."""
    _require_arrays((dy, x, weight, bias))
    dx = dw = None
    if wanted[0]:
        dx = backward_data(dy, weight, tuple(x.shape), options, _name(x), algorithm)
    if wanted[1]:
        dw = backward_weight(dy, x, tuple(weight.shape), options, _name(weight))
    return dx, dw, _bias_gradient(dy, bias, weight.shape[0]) if wanted[2] else None


def transposed_gradients(
    dy: Any,
    x: Any,
    weight: Any,
    bias: Any,
    options: Options,
    output_padding: Any = 0,
    algorithm: str | None = None,
    wanted: tuple[bool, ...] = (True, True, True),
) -> tuple[Any, ...]:
    """Gradients of the operands of a transposed convolution: see `gradients`.

    That by x is the convolution that was transposed, that by the weights its gradient with x as
    cotangent.
    """
    _require_arrays((dy, x, weight, bias))
    stride, padding, dilation, groups, flip, precision = options
    x_shape, weight_shape = tuple(x.shape), tuple(weight.shape)

    def axes_of(dy: Any, x_shape: Shape, weight_shape: Shape) -> list[Axis]:
        image, weights = _Shaped(x_shape), _Shaped(weight_shape)
        rank = spatial_rank(image, "x")
        _check_transposed(image, weights, whole(groups, "groups", 1))
        axes = transposed_axes(image, weights, stride, padding, dilation, output_padding, rank)
        _check_cotangent(dy, (x_shape[0], weight_shape[1] * groups, *(a.size for a in axes)))
        return axes

    def by_x(arrays: Sequence[Any], machine: Any) -> ConvPlan:
        operands = Operands(
            (*arrays, None), ("dy", "weight", "bias"), _name(x), precision=precision
        )
        axes = axes_of(arrays[0], x_shape, weight_shape)
        return plan_forward(
            operands, axes, groups, flip, PLAIN, machine, conjugate=True, algorithm=algorithm
        )

    def by_weight(arrays: Sequence[Any], machine: Any) -> ConvPlan:
        operands = Operands(arrays, ("x", "dy"), _name(weight), precision=precision)
        axes = axes_of(arrays[1], x_shape, weight_shape)
        return plan_by_weight(
            operands, weight_shape, axes, groups, flip, machine, conjugate=(True, False)
        )

    described = (x_shape, weight_shape, _name(x), _name(weight))
    key = (*described, _as_key((*options, output_padding)), algorithm)
    dx = dw = None
    if wanted[0]:
        dx = _call(by_x, (dy, weight), ("dy", "weight"), ("conv_transpose by x", *key))
    if wanted[1]:
        dw = _call(by_weight, (x, dy), ("x", "dy"), ("conv_transpose by weight", *key))
    outputs = weight_shape[1] * groups if len(weight_shape) > 1 else 0
    return dx, dw, _bias_gradient(dy, bias, outputs) if wanted[2] else None


def _require_arrays(arrays: Sequence[Any]) -> None:
    for array, name in zip(arrays, ("dy", "x", "weight", "bias"), strict=True):
        if array is not None or name != "bias":
            library_of(array, name)


def _name(array: Any) -> str:
    """dtype of an array of any library, by name."""
    if type(array) is np.ndarray:
        return name_of(array.dtype)
    return str(array.dtype).rpartition(".")[2]


def _bias_gradient(dy: Any, bias: Any, outputs: int) -> Any:
    """The sum over images and space."""
    if bias is None:
        return None
    if tuple(bias.shape) != (outputs,):
        raise ShapeError(f"bias has shape {tuple(bias.shape)}; it must have the shape ({outputs},)")
    (view,), library, like = adopt_all((dy,), ("dy",))
    if view.ndim < 3 or view.shape[1] != outputs:
        raise ShapeError(f"dy has shape {view.shape}; the convolution has {outputs} channels")
    axes = (0, *range(2, view.ndim))
    return library.restore(rows.sum_over(view, axes, dtype=_name(bias)), like)


# ---- a call -------------------------------------------------------------------------------------


def _finish(epilogue: Epilogue | Application, found: Applied | None) -> Epilogue:
    """The epilogue of a call: that of the function that was found, if one is wanted."""
    if found is not None:
        return found.epilogue
    assert isinstance(epilogue, Epilogue)
    return epilogue


def _call_with(
    epilogue: Epilogue | Application,
    make: Callable[..., ConvPlan],
    arrays: Sequence[Any],
    names: Sequence[str],
    options: tuple[Any, ...],
) -> Any:
    """A call with an epilogue."""
    if type(epilogue) is Application:
        return _call(make, arrays, names, options, epilogue)
    return _call(make, arrays, names, (*options, epilogue))


def _call(
    make: Callable[..., ConvPlan],
    arrays: Sequence[Any],
    names: Sequence[str],
    options: tuple[Any, ...],
    application: Application | None = None,
) -> Any:
    given = [(a, n) for a, n in zip(arrays, names, strict=True) if a is not None or n != "bias"]
    library = like = None
    views: Sequence[Any] = [a for a, _ in given]
    if not all(type(a) is np.ndarray for a in views):
        for array, name in given:
            library_of(array, name)  # not even a Python number
        views, library, like = adopt_all(views, [n for _, n in given])
    machine, address = machines.for_array(views[0])
    found, own = None, len(views)
    if application is not None:
        padded = [*views, *[None] * (3 - own)]
        dtype = applied.dtype_of_sums(padded, names, whole_dtype(*views[:2]), application)
        any_of_ours = given[0][0] if library is None else like
        found = applied.apply_to(application, dtype, library or NUMPY, any_of_ours)
        options = (*options, found.epilogue.function)
        views = [*views, *found.arrays]
    addresses = [address(v) for v in views]
    key: Any = (options, tuple((v.shape, v.strides, v.dtype) for v in views))
    if machine.device.is_gpu:  # on a CPU, kernels do not depend on it
        key = (key, tuple(map(alignment_of, addresses)))
    known = machine.plans
    try:
        plan = known.get(key)
    except TypeError:  # an option that cannot be a key is none that `make` takes
        plan = None
    if plan is None:
        machines.require_aligned(machine, views[:own], [n for _, n in given])
        padded = [*views[:own], *[None] * (len(names) - own)]
        if found is None:
            plan = make(padded, machine)
        else:
            machines.require_aligned(machine, found.arrays, found.names)
            plan = make(padded, machine, found)
        remember(known, key, plan)
    result = plan.result.make(machine)
    kept = [workspace.make(machine) for workspace in plan.workspaces]
    if found is not None:
        arrays = [result, *[further.make(machine) for further in plan.further], *kept]
        _launch_applied(plan, [*addresses, *map(address, arrays)], found.numbers)
        results = arrays[: 1 + len(plan.further)]
        if library is not None:
            results = [library.restore(r, like) for r in results]
        return tuple(results) if plan.function.several else results[0]
    addresses += [address(result), *map(address, kept)]
    for start, pack, slots, tail in plan.launches:
        start(pack(*[addresses[number] + offset for number, offset in slots]) + tail)
    return result if library is None else library.restore(result, like)


def _launch_applied(plan: ConvPlan, addresses: Sequence[int], numbers: bytes) -> None:
    """The launches of a convolution with a fused function."""
    for start, pack, slots, tail in plan.launches:
        given = [numbers if n < 0 else addresses[n] + offset for n, offset in slots]
        start(pack(*given) + tail)


def _as_key(option: Any) -> Any:
    """An option as part of a key: with its type, since True and 1.0 equal 1 and are refused."""
    kind = type(option)
    return tuple(map(_as_key, option)) if kind is tuple or kind is list else (kind, option)


# ---- checks -------------------------------------------------------------------------------------


class _Shaped:
    """What has a shape alone."""

    def __init__(self, shape: Shape) -> None:
        self.shape, self.ndim = shape, len(shape)


def _checked_shape(shape: Any, name: str) -> Shape:
    if not isinstance(shape, (tuple, list)):
        raise TypeError(f"{name} must be a tuple of integers, not {type(shape).__name__}")
    return tuple([n if type(n) is int and 0 <= n < 1 << 31 else whole(n, name, 0) for n in shape])


def _rank_of(shape: Shape, name: str, like: Any) -> int:
    """How many spatial axes a shape has: as many as an array."""
    if not 3 <= len(shape) <= 5 or like.ndim != len(shape):
        raise ShapeError(
            f"{name} is {shape}, beside an array of shape {like.shape}: both must have the same "
            "number of axes, of which one to three are spatial"
        )
    return len(shape) - 2


def _check_weight(
    channels: int, name: str, shape: Shape, weight: Any, groups: int, weight_name: str = "weight"
) -> None:
    """Check weights (O, I / groups, *kernel) for an image."""
    both = f"{name} has shape {shape} and {weight_name} {weight.shape}"
    if weight.ndim != len(shape):
        raise ShapeError(
            f"{both}: {weight_name} must be (outputs, channels / groups, *kernel), of as many axes"
        )
    if 0 in weight.shape[2:]:
        raise ShapeError(f"{both}: the kernel must have at least one tap along every axis")
    outputs, inputs = weight.shape[:2]
    if channels % groups or outputs % groups:
        what = ("channels", channels) if channels % groups else ("outputs", outputs)
        raise ShapeError(f"{both}: {what[1]} {what[0]} do not divide into groups={groups}")
    if inputs * groups != channels:
        raise ShapeError(
            f"{both}: axis 1 of {weight_name} must be channels / groups = {channels} / {groups} = "
            f"{channels // groups}, not {inputs}"
        )


def _check_transposed(x: Any, weight: Any, groups: int) -> None:
    """Check weights (I, O / groups, *kernel) for an image."""
    both = f"x has shape {x.shape} and weight {weight.shape}"
    if weight.ndim != x.ndim:
        raise ShapeError(
            f"{both}: weight must be (channels, outputs / groups, *kernel), of as many axes"
        )
    if 0 in weight.shape[2:]:
        raise ShapeError(f"{both}: the kernel must have at least one tap along every axis")
    if weight.shape[0] != x.shape[1]:
        raise ShapeError(
            f"{both}: axis 0 of weight must be the {x.shape[1]} channels of x, not "
            f"{weight.shape[0]}"
        )
    if x.shape[1] % groups:
        raise ShapeError(f"{both}: {x.shape[1]} channels do not divide into groups={groups}")


def _check_bias(bias: Any, outputs: int, name: str, weight: Any) -> None:
    if bias is not None and bias.shape != (outputs,):
        raise ShapeError(
            f"bias has shape {bias.shape} and {name} {weight.shape}; bias must have the shape "
            f"({outputs},)"
        )


def _check_cotangent(dy: Any, shape: Shape) -> None:
    if dy.shape != shape:
        raise ShapeError(f"dy has shape {dy.shape}; the convolution has shape {shape}")


def transposed_axes(
    x: Any, weight: Any, stride: Any, padding: Any, dilation: Any, output_padding: Any, rank: int
) -> list[Axis]:
    """The axes of the convolution that is transposed: its windows are the elements of x."""
    strides = per_axis(stride, rank, "stride")
    dilations = per_axis(dilation, rank, "dilation")
    more = per_axis(output_padding, rank, "output_padding", least=0)
    pads = checked_padding(padding, rank)
    axes = []
    for i, windows in enumerate(x.shape[2:]):
        kernel = weight.shape[2 + i]
        span = reach(kernel, dilations[i])
        if isinstance(pads, str):
            low, high = named_padding(pads, windows * strides[i], span, strides[i])
        else:
            low, high = pads[i]
        if more[i] >= max(strides[i], dilations[i]):
            raise ShapeError(
                f"output_padding {more[i]} of spatial axis {i} must be less than its stride "
                f"{strides[i]} or dilation {dilations[i]}"
            )
        size = (windows - 1) * strides[i] + span - low - high + more[i] if windows else 0
        if size < 0 or (windows and size == 0):
            raise ShapeError(
                f"the result would have no elements along spatial axis {i}: ({windows} - 1) * "
                f"stride {strides[i]} + window ({kernel} - 1) * {dilations[i]} + 1 - padding "
                f"{low} - {high} + output_padding {more[i]} = {size}"
            )
        axes.append(Axis(size, kernel, strides[i], dilations[i], low, high, windows))
    return axes
