"""Copies of small arrays between the launches of a convolution."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from nnkernels.config import elementwise as elementwise_config
from nnkernels.config.elementwise import ElementwiseProblem
from nnkernels.dispatch import elementwise_plan
from nnkernels.dispatch.axes import Shape, Strides, merge
from nnkernels.dispatch.dtypes import Element
from nnkernels.dispatch.elementwise import Functor

if TYPE_CHECKING:
    from nnkernels.dispatch.conv_plan import ConvPlan, Slot

_COPY = Functor("Identity", "matmul_epilogue", inputs=1, outputs=1, kinds="fciu")


def copy_elements(
    plan: ConvPlan,
    to: Slot,
    source: Slot,
    axes: tuple[Shape, Strides, Strides],
    element: Element,
    machine: Any,
) -> None:
    """Add a launch that copies an array of some shape, and strides of the copy and its own."""
    shape, *all_strides = axes
    merged, all_strides = merge(shape, all_strides)
    problem = ElementwiseProblem(
        shape=merged,
        strides=tuple(all_strides),
        itemsizes=(element.itemsize, element.itemsize),
        compute_itemsize=0 if element.kind == "c" else element.compute_itemsize,
        results=1,
        alignment=element.itemsize,
    )
    chosen = elementwise_config.configure(problem, machine.device)
    instance = elementwise_plan.make_instance(
        _COPY, element, [element, element], len(merged), chosen
    )
    tail, blocks = elementwise_plan.pack_arguments(problem, chosen, element, ())
    start = machine.prepare(instance, blocks, 0, 2 * prod(shape) * element.itemsize)
    plan.add(start, (to, source), tail)
