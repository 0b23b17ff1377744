"""Plans of gradients by weights: sums over all pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

from nnkernels.config.conv import TERMS
from nnkernels.config.conv_direct import is_direct
from nnkernels.dispatch.axes import Shape, contiguous_strides
from nnkernels.dispatch.conv_channels import add_copy, copies, image_of, pixels_of
from nnkernels.dispatch.conv_copies import copy_elements
from nnkernels.dispatch.conv_direct_weight import WeightLaunches, prepare_direct_weight
from nnkernels.dispatch.conv_geometry import Weights, weights_of, windows
from nnkernels.dispatch.conv_launch import Windows
from nnkernels.dispatch.conv_launches import add_launches
from nnkernels.dispatch.conv_operands import Operands, channels_are_fast
from nnkernels.dispatch.conv_plan import ConvPlan
from nnkernels.dispatch.conv_weight import prepare_weight
from nnkernels.dispatch.dtypes import numpy_dtype
from nnkernels.dispatch.matmul_call import PLAIN
from nnkernels.dispatch.results import Allocation
from nnkernels.dispatch.windows import Axis


def plan_by_weight(
    operands: Operands,
    shape: Shape,
    axes: Sequence[Axis],
    groups: int,
    flip: bool,
    machine: Any,
    conjugate: tuple[bool, bool] = (False, True),
) -> ConvPlan:
    """The plan of the gradient by weights of some shape, from dy and x."""
    dy, x = operands.arrays[:2]
    types = operands.types(0, 1, PLAIN)
    channels_fast = channels_are_fast(x, shape[1])
    # As the image lies: channels before taps, or after them.
    order = (0, *range(2, len(shape)), 1) if channels_fast else tuple(range(len(shape)))
    dtype = numpy_dtype(types.c.name)
    plan = ConvPlan(operands.given, Allocation(shape, dtype, order))
    if prod(shape) == 0:
        return plan
    strides = contiguous_strides(shape, dtype.itemsize, order)
    weights = weights_of(strides, shape, groups, flip=False)
    product = windows((x.shape, x.strides), dy.strides, axes, weights, flip)
    if is_direct(product.channels, product.rows, product.terms):
        alignment = operands.common_alignment(machine)
        direct = prepare_direct_weight(
            product, weights, channels_fast, types, conjugate, alignment, machine
        )
        _add_weight(plan, direct)
        return plan
    step = weights.step(channels_fast)
    assert step is not None, "the result is dense, in this order"
    lines = (weights.group_stride, weights.row_stride, step)
    aligned = (operands.alignment(0, machine), operands.alignment(1, machine), 16)
    prepared = Windows(
        product,
        TERMS,
        channels_fast,
        lines,
        types,
        conjugate,
        PLAIN,
        alignments=aligned,
        precision=operands.precision,
    )
    on_gpu = machine.device.is_gpu
    if on_gpu and not channels_fast and _weight_of_copies(plan, prepared, weights, machine):
        return plan
    packed = prepare_weight(prepared, machine)
    if packed is not None:
        _add_weight(plan, packed)
        return plan
    add_launches(plan, prepared, (0, 0), (1, 0), (), (plan.result_number, 0), machine)
    return plan


def _weight_of_copies(plan: ConvPlan, windows: Windows, weights: Weights, machine: Any) -> bool:
    """Add the launches of a gradient by weights from copies of its operands, if these pay.

    Its terms are in order of taps and then channels there, and so put in order at last.
    """
    product, types = windows.product, windows.types
    dy = pixels_of(product, 0, types.a, windows.alignments[0])
    x = image_of(product, 1, types.b, windows.alignments[1])
    copied = replace(
        windows,
        product=replace(product, image=x.copied(), pixels=dy.copied()),
        channels_fast=True,
        weights=weights.in_order(types.c.itemsize),
        alignments=(16, 16, 16),
    )
    if not copies(plan, windows, copied, (dy, x), 3, machine):
        return False
    first, image = (add_copy(plan, operand, machine) for operand in (dy, x))
    shape, strides = weights.lines(taps_first=True)
    number = plan.workspace(prod(shape), numpy_dtype(types.c.name))
    add_launches(plan, copied, first, image, (), (number, 0), machine)
    axes = (shape, strides, contiguous_strides(shape, types.c.itemsize))
    copy_elements(plan, (plan.result_number, weights.offset), (number, 0), axes, types.c, machine)
    return True


def _add_weight(plan: ConvPlan, launches: WeightLaunches) -> None:
    """Add the launch that sums, and the one that adds up the sums of ranges of pixels."""
    sums, splits = plan.result_number, launches.splits
    if splits is not None:
        sums = plan.workspace(splits.workspace.shape[0], splits.workspace.dtype)
    plan.add(launches.start, ((0, 0), (1, 0), (sums, launches.offset)), launches.tail)
    if splits is not None:
        plan.add(splits.finish, ((sums, 0), (plan.result_number, 0)), splits.tail)
