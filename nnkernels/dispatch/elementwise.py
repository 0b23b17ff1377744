"""Elementwise kernels: from arrays to a launch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnkernels.dispatch import elementwise_plan, machines
from nnkernels.dispatch.axes import Shape, memory_order
from nnkernels.dispatch.dtypes import ELEMENTS, Element, numpy_dtype
from nnkernels.dispatch.packing import Packer
from nnkernels.dispatch.results import Allocation, adopt_out, check_memory, check_out, reach
from nnkernels.errors import ShapeError
from nnkernels.interop.libraries import NUMPY, Library, adopt_all, library_of

# Plans are small (a few hundred bytes); a program that never repeats a shape must not keep all.
MAX_PLANS = 4096


@dataclass(frozen=True, eq=False)
class Functor:
    """A C++ functor: see ``cuda_src/nnk/elementwise.cuh``.

    Attributes
    ----------
    name, header : str
        The struct, and the header of ``nnk/`` that has it.
    inputs, outputs : int
        Arrays that it takes and gives.
    kinds : str
        dtypes: ``f`` real floating, ``c`` complex, ``i`` signed, ``u`` unsigned integers.
    names : tuple of str
        The array arguments, for messages.
    cotangent : bool
        Whether the first array must have the shape to which the others broadcast: true by default
        where it is called dy.
    chains : int
        See ``config.elementwise.ElementwiseProblem``.
    """

    name: str
    header: str
    inputs: int
    outputs: int
    kinds: str
    names: tuple[str, ...] = ("x",)
    cotangent: bool | None = None
    chains: int = 1

    def __post_init__(self) -> None:
        if self.cotangent is None:
            object.__setattr__(self, "cotangent", self.names[0] == "dy")

    # What differs for the functor of a fused function.

    def written(self, arrays: Sequence[Any], wide: tuple[bool, ...] = ()) -> tuple[Any, ...]:
        """The dtype of each result, or its computing type where that is asked for."""
        _, dtype = elementwise_plan.result_type(self, arrays)
        computing = numpy_dtype(ELEMENTS[dtype.name].compute_name)
        return tuple(computing if w else dtype for w in wide or (False,) * self.outputs)

    def computing(self, arrays: Sequence[Any]) -> tuple[str, int]:
        """The C++ type in which it computes, and its size; 0 if there is no register of it."""
        result = self._result(arrays)
        return result.compute, 0 if result.kind == "c" else result.compute_itemsize

    def pack(self, packer: Packer, arrays: Sequence[Any], params: tuple[complex, ...]) -> None:
        """Append the parameters to the arguments of a kernel."""
        packer.add_scalars(self._result(arrays).compute_name, params or (0,))

    def source(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Headers of ``nnk/``, and generated text, with its definition."""
        return (self.header,), ()

    def _result(self, arrays: Sequence[Any]) -> Element:
        _, dtype = elementwise_plan.result_type(self, arrays)
        return ELEMENTS[dtype.name]


@dataclass(frozen=True)
class Traced:
    """What `apply` gives for `OPERAND` in place of an array: what it would have run."""

    functor: Functor
    parameters: tuple[complex, ...]


# Stands for an array that is not there yet, to learn which functor a public function applies.
OPERAND = object()


def apply(
    functor: Functor,
    arrays: Sequence[Any],
    params: tuple[complex, ...] = (),
    out: Any = None,
    wide: tuple[bool, ...] = (),
) -> Any:
    """Apply a functor to arrays that broadcast together.

    Parameters
    ----------
    functor : Functor
        What is computed.
    arrays : sequence of arrays
        Its inputs, of one library and device.
    params : tuple of numbers
        Its scalars.
    out : array or tuple of arrays, optional
        Where the results go.
    wide : tuple of bool, optional
        For each output, whether it keeps the computing type (float32 for float16 and bfloat16):
        for terms that are summed next. Not together with `out`.

    Returns
    -------
    array, or tuple of arrays for several outputs
        Of the library of the inputs, their promoted dtype and the memory order of the first.
    """
    for array in arrays:
        if type(array) is not np.ndarray:
            return _apply_adopted(functor, arrays, params, out, wide)
    if out is not None:
        return run_out(functor, arrays, params, out, NUMPY, arrays[0])
    return run(functor, arrays, params, machines.for_numpy(), machines.numpy_address, wide)


def _apply_adopted(
    functor: Functor,
    arrays: Sequence[Any],
    params: tuple[complex, ...],
    out: Any,
    wide: tuple[bool, ...],
) -> Any:
    if arrays[0] is OPERAND:
        return Traced(functor, params)
    for array in arrays:
        if hasattr(type(array), "apply_functor"):  # a value of a function that is being fused
            return array.apply_functor(functor, arrays, params, out)
    views, library, like = adopt_all(arrays, functor.names)
    if out is not None:
        return run_out(functor, views, params, out, library, like)
    machine, address = machines.for_array(views[0])
    result = run(functor, views, params, machine, address, wide)
    # Several results are of NumPy or CuPy arrays: of others, apply_and_sum has made those.
    return result if functor.outputs > 1 else library.restore(result, like)


def run(
    functor: Functor,
    arrays: Sequence[Any],
    params: tuple[complex, ...],
    machine: Any,
    address: Any,
    wide: tuple[bool, ...] = (),
    numbers: bytes = b"",
) -> Any:
    """Launch on arrays of one machine; ``numbers`` end the arguments of a fused functor."""
    if len(arrays) == 1:
        x = arrays[0]
        key: Any = (functor, params, x.shape, x.strides, x.dtype)
    else:
        key = (functor, params, wide, *[(a.shape, a.strides, a.dtype) for a in arrays])
    addresses = [address(a) for a in arrays]
    plans = machine.plans
    if machine.device.machine != "cpu":  # on a CPU, kernels do not depend on it
        key = (key, alignment_of(*addresses))
    plan = plans.get(key)
    if plan is None:
        plan = elementwise_plan.make_plan(
            functor, arrays, params, machine, alignment_of(*addresses), None, wide
        )
        remember(plans, key, plan)
    if functor.outputs == 1:
        result = plan.allocations[0].make(machine)
        if plan.start is not None:
            plan.start(plan.pack(address(result), *addresses) + plan.tail + numbers)
        return result
    results = tuple(allocation.make(machine) for allocation in plan.allocations)
    if plan.start is not None:
        plan.start(plan.pack(*map(address, results), *addresses) + plan.tail + numbers)
    return results


def run_out(
    functor: Functor,
    arrays: Sequence[Any],
    params: tuple[complex, ...],
    out: Any,
    library: Library,
    like: Any,
    numbers: bytes = b"",
) -> Any:
    """The same into arrays that are given."""
    outs = out if functor.outputs > 1 else (out,)
    names = ("out",) if functor.outputs == 1 else tuple(f"out[{i}]" for i in range(functor.outputs))
    views = [adopt_out(o, name, library, like) for o, name in zip(outs, names, strict=True)]
    machine, address = machines.for_array(arrays[0])
    addresses = [address(a) for a in (*views, *arrays)]
    key = (
        functor,
        params,
        alignment_of(*addresses),
        *[(a.shape, a.strides, a.dtype) for a in (*views, *arrays)],
    )
    plans = machine.plans
    plan = plans.get(key)
    if plan is None:
        shape = elementwise_plan.result_shape(functor, arrays)
        for view, name, dtype in zip(views, names, functor.written(arrays), strict=True):
            check_out(view, name, shape, dtype)
        machines.require_aligned(machine, views, names)
        plan = elementwise_plan.make_plan(
            functor, arrays, params, machine, alignment_of(*addresses), views
        )
        plan.reaches = [reach(a) for a in (*views, *arrays)]
        remember(plans, key, plan)
    reaches = plan.reaches
    n = len(views)
    for i, view in enumerate(views):
        known = [addresses[i], *addresses[n:]], [reaches[i], *reaches[n:]]
        check_memory(view, names[i], arrays, functor.names, len(arrays), *known)
        if n > 1:  # nor may it overlap another result
            known = addresses[i:n], reaches[i:n]
            check_memory(view, names[i], views[i + 1 :], names[i + 1 :], 0, *known)
    if plan.start is not None:
        plan.start(plan.pack(*addresses) + plan.tail + numbers)
    return out


def remember(plans: dict[Any, Any], key: Any, plan: Any) -> None:
    """Keep a plan in the dictionary in which it was not found.

    That one, because a machine may have got a new dictionary since, for other settings.
    """
    if len(plans) >= MAX_PLANS:
        plans.clear()
    plans[key] = plan


def alignment_of(*addresses: int) -> int:
    """The largest power of two, up to 16, that divides all addresses."""
    bits = 16
    for address in addresses:
        bits |= address
    return bits & -bits


def are_numpy(arrays: Sequence[Any], needed: int = 1) -> bool:
    """Whether all arrays are NumPy's. All but the first ``needed``, one or two, may be None."""
    for a in arrays:
        if type(a) is not np.ndarray and a is not None:
            return False
    return arrays[0] is not None and arrays[needed - 1] is not None


def described(arrays: Sequence[Any], address: Any) -> tuple[tuple[Any, ...], list[int]]:
    """What a plan depends on of arrays, of which some may be None, and their addresses (or 0)."""
    found: list[Any] = []
    addresses = []
    for a in arrays:
        if a is None:
            found.append(None)
            addresses.append(0)
        else:
            found += (a.shape, a.strides, a.dtype)
            addresses.append(address(a))
    return tuple(found), addresses


# ---- helpers of the public functions ------------------------------------------------------------


def empty_like(x: Any, name: str = "x") -> Any:
    """A new array of the library, shape, dtype and memory order of another."""
    (view,), library, like = adopt_all((x,), (name,))
    machine, _ = machines.for_array(view)
    order = memory_order(view.shape, view.strides)
    return library.restore(Allocation(view.shape, view.dtype, order).make(machine), like)


def apply_and_sum(
    functor: Functor, arrays: Sequence[Any], params: tuple[complex, ...], shapes: Sequence[Shape]
) -> tuple[Any, ...]:
    """Apply a functor, and sum each result over the axes along which its shape was broadcast.

    The terms of a sum keep the computing type: only the sum is rounded.
    """
    from nnkernels.dispatch import rows

    views, library, like = adopt_all(arrays, functor.names)
    shape, dtype = elementwise_plan.result_type(functor, views)
    results = apply(functor, views, params, None, tuple(s != shape for s in shapes))
    summed = (rows.sum_to_shape(r, s, dtype.name) for r, s in zip(results, shapes, strict=True))
    return tuple(library.restore(r, like) for r in summed)


def split_halves(x: Any, axis: int, name: str = "x") -> tuple[Any, Any]:
    """The two halves of an array along an axis, as views.

    Raises
    ------
    DTypeError
        If it is no array.
    ShapeError
        If the axis is out of range or has an odd length.
    """
    library_of(x, name)
    shape = tuple(x.shape)
    axis = normalize_axis(axis, len(shape), name)
    if shape[axis] % 2:
        raise ShapeError(
            f"{name} has shape {shape}: axis {axis} must have an even length to be halved"
        )
    half = shape[axis] // 2
    before = (slice(None),) * axis
    return x[(*before, slice(0, half))], x[(*before, slice(half, None))]


def along_axis(weight: Any, x: Any, axis: int, name: str) -> Any:
    """A view of a vector that broadcasts along one axis of ``x``; of a number, the number.

    Raises
    ------
    DTypeError
        If one of the two is no array.
    ShapeError
        If the vector has neither one element nor the length of that axis.
    """
    if hasattr(
        type(x), "apply_functor"
    ):  # inside a fused function, the weight broadcasts by itself
        return weight
    library_of(x, "x")
    if type(weight) in (int, float):
        return weight
    library_of(weight, name)
    shape, target = tuple(weight.shape), tuple(x.shape)
    if shape in ((), (1,)):
        return weight[..., 0] if shape else weight
    axis = normalize_axis(axis, len(target), "x")
    if len(shape) != 1 or shape[0] != target[axis]:
        raise ShapeError(
            f"{name} has shape {shape}; it must be (), (1,) or ({target[axis]},), the length of "
            f"axis {axis} of x"
        )
    return weight[(slice(None), *(None,) * (len(target) - 1 - axis))]


def normalize_axis(axis: Any, rank: int, name: str) -> int:
    """An axis as a number from 0 on.

    Raises
    ------
    TypeError
        If it is no integer.
    ShapeError
        If the array has no such axis.
    """
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise TypeError(f"axis must be an integer; got {type(axis).__name__} {axis!r}")
    if not -rank <= axis < rank:
        raise ShapeError(
            f"axis {axis} is out of range for {name} of rank {rank}; it must lie in "
            f"[{-rank}, {rank})"
        )
    return int(axis) % rank
