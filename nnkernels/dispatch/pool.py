"""Pooling: from arrays to launches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nnkernels.dispatch import machines
from nnkernels.dispatch.axes import Shape, Strides, contiguous_strides, memory_order
from nnkernels.dispatch.dtypes import ELEMENTS, Element, numpy_dtype, require
from nnkernels.dispatch.elementwise import alignment_of, remember
from nnkernels.dispatch.pool_pairs import add_gradient, add_launch, add_pairs, add_search
from nnkernels.dispatch.pool_plan import (
    Launch,
    Mode,
    Operand,
    PoolPlan,
    adaptive_axes,
    five_strides,
    label_element,
    ordered,
    three_axes,
)
from nnkernels.dispatch.results import Allocation, adopt_out, check_memory, check_out, reach
from nnkernels.dispatch.windows import Axis, Windows, out_shape
from nnkernels.errors import DTypeError, ShapeError
from nnkernels.interop.libraries import NUMPY, adopt_all

MAX = Mode("Max")


@dataclass(frozen=True)
class Pooling:
    """A pooling with its options.

    Attributes
    ----------
    mode : Mode
        What becomes of the taps of a window.
    windows : Windows or tuple of int
        The windows, or for adaptive ones how many there are along every axis.
    """

    mode: Mode
    windows: Windows | tuple[int, ...]

    def geometry(self, sizes: Sequence[int]) -> tuple[tuple[Axis, ...], bool]:
        """The axes for an image of some sizes, and whether windows divide it unequally.

        Raises
        ------
        ShapeError
            If windows do not fit into it.
        """
        if isinstance(self.windows, Windows):
            return self.windows.axes(sizes), False
        if 0 not in sizes and not any(n % out for n, out in zip(sizes, self.windows, strict=True)):
            parts = tuple(n // out for n, out in zip(sizes, self.windows, strict=True))
            ones = (1,) * len(parts)
            return Windows(parts, parts, ones, "valid").axes(sizes), False
        return adaptive_axes(sizes, self.windows), True


# ---- the functions ------------------------------------------------------------------------------


def forward(pooling: Pooling, x: Any, labels: str = "", out: Any = None) -> Any:
    """Pool an image; with `labels` "indices" or "taps", also where the maxima are."""
    key = (_forward, pooling, labels)
    kinds = "fiu" if pooling.mode.name == "Max" else "f"

    def make(views: Sequence[Any], machine: Any, alignment: int, given: Any) -> PoolPlan:
        return _forward(pooling, labels, kinds, views[0], machine, alignment, given)

    results = call(key, make, (x,), ("x",), out)
    return results if labels else results[0]


def backward_of_max(pooling: Pooling, dy: Any, x: Any, taps: Any, out: Any = None) -> Any:
    """The gradient of a maximum, whose places are looked up again if no taps are given."""

    def make(views: Sequence[Any], machine: Any, alignment: int, given: Any) -> PoolPlan:
        dy, x, *taps = views
        return _backward_of_max(pooling, dy, x, taps, machine, alignment, given)

    arrays, names = ((dy, x), ("dy", "x")) if taps is None else ((dy, x, taps), _WITH_TAPS)
    return call((_backward_of_max, pooling), make, arrays, names, out)[0]


_WITH_TAPS = ("dy", "x", "taps")


def backward_of_sum(pooling: Pooling, dy: Any, shape: Shape, out: Any = None) -> Any:
    """The gradient of an average over an image of some shape."""

    def make(views: Sequence[Any], machine: Any, alignment: int, given: Any) -> PoolPlan:
        return _backward_of_sum(pooling, views[0], shape, machine, alignment, given)

    return call((_backward_of_sum, pooling, shape), make, (dy,), ("dy",), out)[0]


def backward_of_norm(pooling: Pooling, dy: Any, x: Any, y: Any, out: Any = None) -> Any:
    """The gradient of a norm from its operand and result."""

    def make(views: Sequence[Any], machine: Any, alignment: int, given: Any) -> PoolPlan:
        dy, x, y = views
        return _backward_of_norm(pooling, dy, x, y, machine, alignment, given)

    names = ("dy", "x", "y")
    return call((_backward_of_norm, pooling), make, (dy, x, y), names, out)[0]


# ---- a call -------------------------------------------------------------------------------------

Make = Callable[[Sequence[Any], Any, int, Any], PoolPlan]


def call(
    key: tuple[Any, ...], make: Make, arrays: Sequence[Any], names: Sequence[str], out: Any
) -> tuple[Any, ...]:
    """Find or make the plan of a call, and run it. `out` takes the place of the first result."""
    views, library, like = adopt_all(arrays, names)
    machine, address = machines.for_array(views[0])
    given = None if out is None else adopt_out(out, "out", library, like)
    addresses = [address(v) for v in views]
    known = views if given is None else [*views, given]
    alignment = 1
    key = (key, given is None, *[(v.shape, v.strides, v.dtype) for v in known])
    if machine.device.machine != "cpu":  # on a CPU, kernels do not depend on it
        alignment = alignment_of(*addresses, *([] if given is None else [address(given)]))
        key = (*key, alignment)
    plans = machine.plans
    plan = plans.get(key)
    if plan is None:
        plan = make(views, machine, alignment, given)
        machines.require_aligned(machine, views, names)
        if given is not None:
            machines.require_aligned(machine, (given,), ("out",))
            plan.reaches = [reach(a) for a in (given, *views)]
        remember(plans, key, plan)
    if given is not None:
        places = [address(given), *addresses]
        check_memory(given, "out", views, names, False, places, plan.reaches)
    results = [r.make(machine) for r in plan.results[0 if given is None else 1 :]]
    if given is not None:
        results.insert(0, given)
    workspace = None if plan.workspace is None else plan.workspace.make(machine)
    pointers = [*addresses, *[address(r) for r in results]]
    pointers += [0 if workspace is None else address(workspace), 0]
    for run, pack, numbers, tail in plan.launches:
        run(pack(*[pointers[n] for n in numbers]) + tail)
    if library is NUMPY:
        return tuple(results)
    return tuple(
        out if i == 0 and out is not None else library.restore(r, like)
        for i, r in enumerate(results)
    )


# ---- plans --------------------------------------------------------------------------------------


def _forward(
    pooling: Pooling,
    labels: str,
    kinds: str,
    x: Any,
    machine: Any,
    alignment: int,
    given: Any,
) -> PoolPlan:
    found = require(x.dtype, kinds, "x")
    axes, adaptive = pooling.geometry(x.shape[2:])
    shape = (*x.shape[:2], *out_shape(axes))
    result, strides = ordered(shape, x.dtype, x)
    if given is not None:
        check_out(given, "out", shape, x.dtype)
        strides = given.strides
    three = three_axes(axes)
    results = [result]
    places = None
    if labels:
        element = ELEMENTS["int64"] if labels == "indices" else label_element(three)
        allocation, label_strides = ordered(shape, numpy_dtype(element.name), x)
        results.append(allocation)
        places = Operand(element, five_strides(label_strides), False)
    plan = PoolPlan(tuple(results))
    if 0 not in shape:
        launch = Launch(
            mode=pooling.mode,
            axes=three,
            adaptive=adaptive,
            backward=False,
            planes=x.shape[:2],
            operands=(
                Operand(found, five_strides(x.strides), True),
                Operand(found, five_strides(strides), False),
                places,
            ),
            pointers=(0, 1, 2 if labels else 3),
            flat=labels == "indices",
        )
        add = add_search if labels else add_launch
        add(plan, launch, machine, alignment)
    return plan


def _backward_of_max(
    pooling: Pooling,
    dy: Any,
    x: Any,
    taps: Sequence[Any],
    machine: Any,
    alignment: int,
    given: Any,
) -> PoolPlan:
    found = require(x.dtype, "f", "x")
    axes, adaptive = pooling.geometry(x.shape[2:])
    check_cotangent(dy, (*x.shape[:2], *out_shape(axes)), x.dtype)
    result, strides = _gradient(x.shape, x.dtype, memory_order(x.shape, x.strides), given)
    three = three_axes(axes)
    element = label_element(three)
    label_strides: Strides
    if taps:
        _check_taps(taps[0], dy, element)
    plan = PoolPlan((result,))
    if 0 in x.shape:
        return plan
    common: dict[str, Any] = {
        "mode": pooling.mode,
        "axes": three,
        "adaptive": adaptive,
        "planes": x.shape[:2],
    }
    image, dx, windows = (
        Operand(found, five_strides(s), is_image)
        for s, is_image in ((x.strides, True), (strides, True), (dy.strides, False))
    )
    if taps:
        label_strides = taps[0].strides
    elif add_pairs(
        plan,
        Launch(**common, backward=True, operands=(dx, windows, None, image), pointers=(2, 0, 3, 1)),
        machine,
        alignment,
    ):
        return plan
    else:
        plan.workspace, label_strides = ordered(dy.shape, numpy_dtype(element.name), x)
    labels = Operand(element, five_strides(label_strides), False)
    if not taps and 0 not in dy.shape:
        places = Launch(
            **common, backward=False, operands=(image, None, labels), pointers=(1, 4, 3)
        )
        add_search(plan, places, machine, alignment)
    # dx, dy and labels, and no x.
    pointers = (3, 0, 2, 5) if taps else (2, 0, 3, 4)
    gradient = Launch(
        **common, backward=True, operands=(dx, windows, labels, None), pointers=pointers
    )
    add_gradient(plan, gradient, machine, alignment)
    return plan


def _backward_of_sum(
    pooling: Pooling,
    dy: Any,
    shape: Shape,
    machine: Any,
    alignment: int,
    given: Any,
) -> PoolPlan:
    found = require(dy.dtype, "f", "dy")
    axes, adaptive = pooling.geometry(shape[2:])
    check_cotangent(dy, (*shape[:2], *out_shape(axes)), dy.dtype)
    order = memory_order(dy.shape, dy.strides)
    result, strides = _gradient(shape, dy.dtype, order, given)
    plan = PoolPlan((result,))
    if 0 not in shape:
        launch = Launch(
            mode=pooling.mode,
            axes=three_axes(axes),
            adaptive=adaptive,
            backward=True,
            planes=(shape[0], shape[1]),
            operands=(
                Operand(found, five_strides(strides), True),
                Operand(found, five_strides(dy.strides), False),
                None,
                None,
            ),
            pointers=(1, 0, 2, 2),
        )
        add_launch(plan, launch, machine, alignment)
    return plan


def _backward_of_norm(
    pooling: Pooling, dy: Any, x: Any, y: Any, machine: Any, alignment: int, given: Any
) -> PoolPlan:
    found = require(x.dtype, "f", "x")
    axes, adaptive = pooling.geometry(x.shape[2:])
    shape = (*x.shape[:2], *out_shape(axes))
    check_cotangent(dy, shape, x.dtype)
    check_cotangent(y, shape, x.dtype, "y")
    result, strides = _gradient(x.shape, x.dtype, memory_order(x.shape, x.strides), given)
    plan = PoolPlan((result,))
    if 0 not in x.shape:
        launch = Launch(
            mode=pooling.mode,
            axes=three_axes(axes),
            adaptive=adaptive,
            backward=True,
            planes=x.shape[:2],
            operands=(
                Operand(found, five_strides(strides), True),
                Operand(found, five_strides(dy.strides), False),
                Operand(found, five_strides(y.strides), False),
                Operand(found, five_strides(x.strides), True),
            ),
            pointers=(3, 0, 2, 1),
        )
        add_launch(plan, launch, machine, alignment)
    return plan


# ---- checks -------------------------------------------------------------------------------------


def check_cotangent(array: Any, shape: Shape, dtype: Any, name: str = "dy") -> None:
    """Check that an array is like the result of the pooling."""
    if array.shape != shape:
        raise ShapeError(f"{name} has shape {array.shape}; the result has shape {shape}")
    if array.dtype != dtype:
        raise DTypeError(f"{name} has dtype {array.dtype} and x {dtype}; they must be equal")


def _check_taps(taps: Any, dy: Any, element: Element) -> None:
    """Check that they are what the pooling returned."""
    if taps.shape != dy.shape:
        raise ShapeError(f"taps has shape {taps.shape}; it must have the shape {dy.shape} of dy")
    if taps.dtype.name != element.name:
        raise DTypeError(
            f"taps has dtype {taps.dtype}; it must be {element.name}, "
            'as the pooling returns it with return_indices="taps"'
        )


def _gradient(
    shape: Shape, dtype: Any, order: tuple[int, ...], given: Any
) -> tuple[Allocation, Strides]:
    """The allocation and strides of dx, or the strides of what is given for it."""
    if given is not None:
        check_out(given, "out", shape, dtype)
    allocation = Allocation(shape, dtype, order)
    dense = contiguous_strides(shape, dtype.itemsize, order)
    return allocation, dense if given is None else given.strides
