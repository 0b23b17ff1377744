"""A product of weights and windows: its kernels, and the plan of a convolution, which is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

from nnkernels.config.conv import COLUMNS, ROWS
from nnkernels.config.conv_direct import is_direct
from nnkernels.dispatch.axes import Strides, contiguous_strides, largest_power_of_two
from nnkernels.dispatch.conv_channels import add_copy, add_transposition, copies, image_of
from nnkernels.dispatch.conv_copies import copy_elements
from nnkernels.dispatch.conv_direct import in_memory_order, prepare_direct
from nnkernels.dispatch.conv_geometry import Weights, WindowProduct, weights_of, windows
from nnkernels.dispatch.conv_launch import Windows
from nnkernels.dispatch.conv_launches import add_launches
from nnkernels.dispatch.conv_lines import prepare_lines
from nnkernels.dispatch.conv_operands import Operands, begin, channels_are_fast
from nnkernels.dispatch.conv_plan import ConvPlan, Slot
from nnkernels.dispatch.conv_winograd import add_winograd
from nnkernels.dispatch.dtypes import Element, numpy_dtype
from nnkernels.dispatch.matmul_call import Epilogue, Types
from nnkernels.dispatch.windows import Axis


def plan_forward(
    operands: Operands,
    axes: Sequence[Axis],
    groups: int,
    flip: bool,
    epilogue: Epilogue,
    machine: Any,
    conjugate: bool = False,
    algorithm: str | None = None,
) -> ConvPlan:
    """The plan of a convolution of x with weights, and a bias."""
    x, weight = operands.arrays[:2]
    types = operands.types(1, 0, epilogue)
    shape = (x.shape[0], weight.shape[0], *(axis.out for axis in axes))
    plan, strides, more = begin(operands, shape, types.result, x)
    if prod(shape) == 0:
        return plan
    weights = weights_of(weight.strides, weight.shape, groups, flip)
    product = windows((x.shape, x.strides), strides, axes, weights).with_more(more)
    offsets = [0] * (1 + len(more))
    conjugates = (conjugate, False)
    add_product(
        plan, operands, product, weights, types, offsets, epilogue, conjugates, algorithm, machine
    )
    return plan


def add_product(
    plan: ConvPlan,
    operands: Operands,
    product: WindowProduct,
    weights: Weights,
    types: Types,
    offsets: Sequence[int],
    epilogue: Epilogue,
    conjugate: tuple[bool, bool],
    algorithm: str | None,
    machine: Any,
) -> None:
    """Add the launches of a product of weights, the second operand, and windows, the first.

    Parameters
    ----------
    offsets : sequence of int
        Bytes to the first pixel of the result, and of the arrays of a fused function.
    """
    channels_fast = channels_are_fast(operands.arrays[0], product.channels)
    offset, *more_offsets = offsets
    added = plan.added(operands.bias_stride is not None, more_offsets)
    image, result = (0, 0), (plan.result_number, offset)
    if add_winograd(
        plan,
        product,
        weights,
        types,
        ((1, 0), image, result),
        added,
        epilogue,
        operands.bias_stride,
        channels_fast,
        algorithm,
        machine,
    ):
        return
    few = is_direct(product.channels, product.rows, product.terms)
    lines = None
    if not few:
        bias = operands.bias_stride
        lines = prepare_lines(product, weights, types, epilogue, bias, channels_fast, machine)
    if lines is not None:
        tail, start, at = lines
        plan.add(start, (*added, (1, at), image, result), tail)
        return
    if few:
        product, weights = in_memory_order(product, weights)
        tail, start = prepare_direct(
            product,
            weights,
            types,
            conjugate[0],
            epilogue,
            operands.bias_stride,
            (operands.common_alignment(machine), largest_power_of_two(16, offset)),
            machine,
        )
        plan.add(start, (*added, (1, weights.offset), image, result), tail)
        return

    def windows_of(product: WindowProduct, channels_fast: bool, image_alignment: int) -> Windows:
        step, on_gpu = weights.step(channels_fast), machine.device.is_gpu
        strides: Strides = (weights.group_stride, weights.row_stride, step or 0)
        if step is None and on_gpu:
            strides = weights.in_order(types.a.itemsize)
        return Windows(
            product,
            ROWS if channels_are_fast(operands.arrays[0], product.channels) else COLUMNS,
            channels_fast,
            strides,
            types,
            conjugate,
            epilogue,
            operands.bias_stride,
            weights if step is None and not on_gpu else None,
            alignments=(
                16 if step is None else operands.alignment(1, machine, weights.offset),
                image_alignment,
                largest_power_of_two(16, offset),
            ),
            more_alignments=operands.more_alignments(machine, more_offsets),
            precision=operands.precision,
        )

    alignment = operands.alignment(0, machine)
    prepared = windows_of(product, channels_fast, alignment)
    if machine.device.is_gpu and not channels_fast:
        whole = image_of(product, 0, types.b, alignment)
        copied = windows_of(replace(product, image=whole.copied()), True, 16)
        more = 1 + (weights.step(True) is None) - (weights.step(False) is None)
        if copies(plan, prepared, copied, (whole,), more, machine):
            prepared, image, channels_fast = copied, add_copy(plan, whole, machine), True
    slot = (1, weights.offset)
    if channels_fast and weights in plan.ordered:
        slot = plan.ordered[weights]
    elif weights.step(channels_fast) is None and machine.device.is_gpu:
        aligned = operands.alignment(1, machine, weights.offset)
        slot = _in_order(plan, weights, slot, types.a, channels_fast, aligned, machine)
    add_launches(plan, prepared, slot, image, added, result, machine)


def _in_order(
    plan: ConvPlan,
    weights: Weights,
    slot: Slot,
    element: Element,
    channels_fast: bool,
    alignment: int,
    machine: Any,
) -> Slot:
    """Add a launch that writes weights in the order of the terms; where they are then."""
    shape, strides = weights.lines(channels_fast)
    if weights.terms == 0:
        return slot
    number = plan.workspace(prod(shape), numpy_dtype(element.name))
    axes = (shape, contiguous_strides(shape, element.itemsize), strides)
    if not add_transposition(plan, (number, 0), slot, axes, element, alignment, machine):
        copy_elements(plan, (number, 0), slot, axes, element, machine)
    return number, 0
