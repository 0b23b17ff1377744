"""Row kernels (softmax and its kin, sums over axes): from arrays to launches."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from nnkernels.dispatch import machines, rows_plan
from nnkernels.dispatch.axes import checked_axis, normalize_axes, reduced_shape
from nnkernels.dispatch.dtypes import ELEMENTS, Element, numpy_dtype
from nnkernels.dispatch.elementwise import alignment_of, remember
from nnkernels.dispatch.results import adopt_out, check_memory, check_out, reach
from nnkernels.interop.libraries import NUMPY, Library, adopt_all


@dataclass(frozen=True, eq=False)
class RowKernel:
    """A C++ row kernel: see ``cuda_src/nnk/row_team.cuh``.

    Attributes
    ----------
    struct, header : str
        The template, and the header of ``nnk/`` that has it.
    kind : str
        Its first template argument, if it has variants.
    names : tuple of str
        The array arguments, all of one shape and dtype.
    kinds : str
        dtypes: ``f`` real floating, ``c`` complex, ``i`` signed, ``u`` unsigned integers.
    tiles : int
        Rows kept on the chip at once.
    keeps_exp : bool
        Whether exponentials are kept.
    per_row : bool
        Whether the result has one element for a row.
    saved : int
        Numbers that a part of a row saves when several blocks share it.
    of_nothing : float
        The result for rows of length 0, if there is one for each row.
    result : str
        dtype of the result, if it is not that of the arrays.
    """

    struct: str
    header: str
    kind: str
    names: tuple[str, ...]
    kinds: str = "f"
    tiles: int = 1
    keeps_exp: bool = False
    per_row: bool = False
    saved: int = 1
    of_nothing: float = 0.0
    result: str = ""

    def result_of(self, found: Element) -> Element:
        """The element type of the result for arrays of one element type."""
        return ELEMENTS[self.result] if self.result else found


def apply(
    kernel: RowKernel, arrays: Sequence[Any], axis: Any, keepdims: bool = False, out: Any = None
) -> Any:
    """Run a row kernel over an axis, several, or all (None) of its arrays.

    Returns
    -------
    array
        Of the library and dtype of the inputs: of their shape and memory order, or without the
        reduced axes (of size 1 with ``keepdims``) if the kernel gives one number for a row.
    """
    for array in arrays:
        if type(array) is not np.ndarray:
            views, library, like = adopt_all(arrays, kernel.names)
            machine, address = machines.for_array(views[0])
            if out is not None:
                return _apply_out(kernel, views, axis, keepdims, out, library, like)
            return library.restore(_run(kernel, views, axis, keepdims, machine, address), like)
    if out is not None:
        return _apply_out(kernel, arrays, axis, keepdims, out, NUMPY, arrays[0])
    return _run(kernel, arrays, axis, keepdims, machines.for_numpy(), machines.numpy_address)


def _run(
    kernel: RowKernel, arrays: Sequence[Any], axis: Any, keepdims: bool, machine: Any, address: Any
) -> Any:
    key: Any = (kernel, axis if type(axis) is int else checked_axis(axis), keepdims)
    for a in arrays:
        key = (*key, a.shape, a.strides, a.dtype)
    addresses = [address(a) for a in arrays]
    plans = machine.plans
    if machine.device.machine != "cpu":  # on a CPU, kernels do not depend on it
        key = (*key, *map(alignment_of, addresses))
    plan = plans.get(key)
    if plan is None:
        alignments = (*map(alignment_of, addresses), alignment_of())
        plan = rows_plan.make_plan(kernel, arrays, axis, keepdims, machine, alignments, None)
        remember(plans, key, plan)
    result = plan.allocation.make(machine)
    _launch(plan, machine, address, addresses, result)
    return result


def _apply_out(
    kernel: RowKernel,
    arrays: Sequence[Any],
    axis: Any,
    keepdims: bool,
    out: Any,
    library: Library,
    like: Any,
) -> Any:
    view = adopt_out(out, "out", library, like)
    machine, address = machines.for_array(arrays[0])
    addresses = [address(view), *(address(a) for a in arrays)]
    first, *others = map(alignment_of, addresses)
    alignments = (*others, first)
    described = tuple((a.shape, a.strides, a.dtype) for a in (*arrays, view))
    key = (
        kernel,
        axis if type(axis) is int else checked_axis(axis),
        keepdims,
        alignments,
        described,
    )
    plans = machine.plans
    plan = plans.get(key)
    if plan is None:
        rows_plan.check_inputs(kernel, arrays)
        axes = normalize_axes(axis, arrays[0].ndim, kernel.names[0])
        shape = (
            reduced_shape(arrays[0].shape, axes, keepdims) if kernel.per_row else arrays[0].shape
        )
        check_out(view, "out", shape, arrays[0].dtype)
        machines.require_aligned(machine, (view,), ("out",))
        plan = rows_plan.make_plan(kernel, arrays, axis, keepdims, machine, alignments, view)
        plan.reaches = [reach(a) for a in (view, *arrays)]
        remember(plans, key, plan)
    in_place = 0 if kernel.per_row else len(arrays)
    check_memory(view, "out", arrays, kernel.names, in_place, addresses, plan.reaches)
    addresses = addresses[1:]
    _launch(plan, machine, address, addresses, view)
    return out


def _launch(plan: Any, machine: Any, address: Any, addresses: list[int], result: Any) -> None:
    if plan.fill is not None:
        # CuPy writes on the current device, which need not be the array's.
        with nullcontext() if isinstance(result, np.ndarray) else result.device:
            result[...] = plan.fill
    if plan.workspace is None:
        for start, tail in plan.steps:
            start(plan.pack(*addresses, address(result), 0) + tail)
        return
    workspace = plan.workspace.make(machine)
    pointers = plan.pack(*addresses, address(result), address(workspace))
    for start, tail in plan.steps:
        start(pointers + tail)


# ---- sums over axes -----------------------------------------------------------------------------


@cache
def _sum_kernel(result: str) -> RowKernel:
    return RowKernel(
        "RowSum", "row_sum", "", ("x",), kinds="fciu", tiles=0, per_row=True, result=result
    )


def sum_over(x: Any, axes: tuple[int, ...], keepdims: bool = False, dtype: str = "") -> Any:
    """The sum of an array over some axes, accumulated as everywhere here.

    Parameters
    ----------
    dtype : str, optional
        Name of the dtype of the result, if it is not that of the array.
    """
    if type(x) is np.ndarray and machines.for_reference():
        from nnkernels.reference.rows import sums

        return sums(x, axes, keepdims, numpy_dtype(dtype) if dtype else x.dtype)
    return apply(_sum_kernel(dtype), (x,), axes, keepdims)


def sum_to_shape(x: Any, shape: Sequence[int], dtype: str = "") -> Any:
    """The gradient of a broadcast: the sum over every axis along which ``shape`` was repeated."""
    have, wanted = tuple(x.shape), tuple(shape)
    if have == wanted:
        return x
    missing = len(have) - len(wanted)
    axes = tuple(range(missing)) + tuple(
        missing + a for a, n in enumerate(wanted) if n == 1 and have[missing + a] != 1
    )
    total = sum_over(x, axes, keepdims=True, dtype=dtype)
    # The axes that `shape` lacks, now of size 1, are left out.
    return total[(*(0,) * missing, ...)] if missing else total
