"""Sampling at the points of a grid, and its gradients: from arrays to launches."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from nnkernels.config import grid_sample as config
from nnkernels.dispatch import machines
from nnkernels.dispatch.axes import Shape
from nnkernels.dispatch.dtypes import name_of, require
from nnkernels.dispatch.elementwise import alignment_of, remember
from nnkernels.dispatch.results import adopt_out, check_memory, reach
from nnkernels.errors import DTypeError, ShapeError
from nnkernels.interop.libraries import adopt_all

MODES = {"nearest": "grid_nearest", "linear": "grid_linear", "cubic": "grid_cubic"}
PADDINGS = {
    "zeros": "outside_zeros",
    "border": "outside_border",
    "reflection": "outside_reflection",
}


@dataclass(frozen=True)
class Sampling:
    """The options of a call, as the key of its plans."""

    mode: str
    padding_mode: str
    align_corners: bool

    def taps(self, rank: int) -> int:
        """Elements of an image that make a value."""
        return int({"nearest": 1, "linear": 2, "cubic": 4}[self.mode] ** rank)


def check(sampling: Sampling, x: Any, grid: Any) -> int:
    """The number of spatial axes.

    Raises
    ------
    DTypeError, ShapeError
        Naming the argument that does not fit.
    """
    found = require(x.dtype, "f", "x")
    allowed = tuple(dict.fromkeys((found.name, found.compute_name)))
    if require(grid.dtype, "f", "grid").name not in allowed:
        raise DTypeError(
            f"grid has dtype {grid.dtype}; beside x of dtype {found.name} it must be of "
            f"{' or '.join(allowed)}"
        )
    if x.ndim not in (4, 5):
        raise ShapeError(
            f"x has shape {x.shape}; it must be (N, C, H, W) or (N, C, D, H, W) for grid_sample"
        )
    rank = x.ndim - 2
    if sampling.mode == "cubic" and rank != 2:
        raise ShapeError(f'mode "cubic" is for two spatial axes; x has shape {x.shape}')
    if grid.ndim != rank + 2 or grid.shape[-1] != rank or grid.shape[0] != x.shape[0]:
        wanted = ", ".join([str(x.shape[0]), *(["out_d", "out_h", "out_w"][3 - rank :]), str(rank)])
        raise ShapeError(
            f"grid has shape {grid.shape}; beside x of shape {x.shape} it must be ({wanted})"
        )
    if 0 in x.shape[2:] and 0 not in grid.shape and x.shape[1]:
        raise ShapeError(f"x has shape {x.shape}: there is nothing along a spatial axis to sample")
    return rank


def result_shape(x: Any, grid: Any) -> Shape:
    """The shape of the values."""
    return (*x.shape[:2], *grid.shape[1:-1])


# ---- values -------------------------------------------------------------------------------------


def apply(sampling: Sampling, x: Any, grid: Any, out: Any = None) -> Any:
    """Values of x at the points of a grid."""
    (x, grid), library, like = adopt_all((x, grid), ("x", "grid"))
    machine, address = machines.for_array(x)
    view = None if out is None else adopt_out(out, "out", library, like)
    arrays = (x, grid) if view is None else (x, grid, view)
    addresses = [address(a) for a in arrays]
    alignment = alignment_of(*addresses)
    described = tuple((a.shape, a.strides, a.dtype) for a in arrays)
    key = (sampling, "values", described, alignment)
    plans = machine.plans
    plan = plans.get(key)
    if plan is None:
        from nnkernels.dispatch.grid_sample_plan import values_plan

        check(sampling, x, grid)
        plan = values_plan(sampling, x, grid, view, machine, alignment)
        plan.reaches = [] if view is None else [reach(view), reach(x), reach(grid)]
        remember(plans, key, plan)
    if view is None:
        y = plan.allocation.make(machine)
        plan.run(address(y), addresses[0], addresses[1])
        return library.restore(y, like)
    order = [addresses[2], addresses[0], addresses[1]]
    check_memory(view, "out", (x, grid), ("x", "grid"), False, order, plan.reaches)
    plan.run(*order)
    return out


# ---- gradients ----------------------------------------------------------------------------------


def backward(sampling: Sampling, dy: Any, x: Any, grid: Any) -> tuple[Any, Any]:
    """Gradients of x and of the grid."""
    (dy, x, grid), library, like = adopt_all((dy, x, grid), ("dy", "x", "grid"))
    machine, address = machines.for_array(x)
    addresses = [address(a) for a in (dy, x, grid)]
    alignment = alignment_of(*addresses)
    described = tuple((a.shape, a.strides, a.dtype) for a in (dy, x, grid))
    key = (sampling, "gradients", described, alignment)
    plans = machine.plans
    found = plans.get(key)
    if found is None:
        from nnkernels.dispatch import grid_sample_plan

        check(sampling, x, grid)
        _check_cotangent(dy, x, grid)
        found = (
            grid_sample_plan.image_gradient_plan(sampling, dy, x, grid, machine),
            grid_sample_plan.grid_gradient_plan(sampling, dy, x, grid, machine),
        )
        remember(plans, key, found)
    of_image, of_grid = found
    dx, dgrid = of_image.allocation.make(machine), of_grid.allocation.make(machine)
    sums = dx if of_image.workspace is None else of_image.workspace.make(machine)
    of_image.run(address(dx), address(sums), addresses[0], addresses[2])
    of_grid.run(address(dgrid), *addresses)
    return library.restore(dx, like), library.restore(dgrid, like)


def _check_cotangent(dy: Any, x: Any, grid: Any) -> None:
    wanted = result_shape(x, grid)
    if dy.shape != wanted:
        raise ShapeError(f"dy has shape {dy.shape}; the result of grid_sample has shape {wanted}")
    if name_of(dy.dtype) != name_of(x.dtype) or not dy.dtype.isnative:
        raise DTypeError(f"dy has dtype {dy.dtype} and x {x.dtype}; they must be equal")


def problem_of(
    sampling: Sampling,
    x: Any,
    grid: Any,
    found: Any,
    index: str,
    numbers: tuple[int, int],
    **more: Any,
) -> config.GridProblem:
    """What the configurations see."""
    return config.GridProblem(
        images=x.shape[0],
        channels=x.shape[1],
        points=prod(grid.shape[1:-1]),
        elements=prod(x.shape[2:]),
        itemsize=found.itemsize,
        compute_itemsize=found.compute_itemsize,
        index_itemsize=4 if index == "i" else 8,
        numbers=numbers,
        unit_row=x.shape[-1] > 1 and x.strides[-1] == found.itemsize,
        linear=sampling.mode == "linear",
        **more,
    )
