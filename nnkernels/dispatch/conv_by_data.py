"""Plans of gradients by the image: a product for each phase of the strides, or one of all."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from nnkernels.compile.instance import Instance
from nnkernels.config.conv import COLUMNS, ROWS
from nnkernels.config.conv_direct import is_direct
from nnkernels.dispatch.axes import Shape
from nnkernels.dispatch.conv_apart import join_apart
from nnkernels.dispatch.conv_channels import add_transposed_phases
from nnkernels.dispatch.conv_geometry import Phase, Weights, phases, weights_of
from nnkernels.dispatch.conv_joined import (
    JoinedPhases,
    dense_weights,
    join_phases,
    prepare_joined_weights,
)
from nnkernels.dispatch.conv_launch import Windows
from nnkernels.dispatch.conv_launches import add_launches
from nnkernels.dispatch.conv_lines import prepare_lines
from nnkernels.dispatch.conv_operands import Operands, begin, channels_are_fast
from nnkernels.dispatch.conv_plan import ConvPlan
from nnkernels.dispatch.conv_product import add_product
from nnkernels.dispatch.dtypes import Element, numpy_dtype
from nnkernels.dispatch.matmul_call import PLAIN, Epilogue, Types
from nnkernels.dispatch.packing import Packer
from nnkernels.dispatch.windows import Axis


def plan_by_data(
    operands: Operands,
    shape: Shape,
    axes: Sequence[Axis],
    groups: int,
    flip: bool,
    epilogue: Epilogue,
    conjugate: bool,
    machine: Any,
    algorithm: str | None = None,
) -> ConvPlan:
    """The plan of the gradient by an image of some shape, from dy and weights; and a bias."""
    dy, weight = operands.arrays[:2]
    types = operands.types(1, 0, epilogue)
    plan, strides, more = begin(operands, shape, types.result, dy)
    if prod(shape) == 0:
        return plan
    weights = weights_of(weight.strides, weight.shape, groups, flip)
    channels_fast = channels_are_fast(dy, weights.rows)
    joined, conjugates = None, (conjugate, False)
    is_few = is_direct(weights.rows, weights.channels, weights.terms)
    is_plain = epilogue == PLAIN and operands.bias_stride is None and operands.found is None
    if machine.device.is_gpu:
        if is_plain and algorithm is None and not is_few:
            dx = (shape, strides)
            joined = join_apart(plan, operands, dx, axes, weights, types, conjugates, machine)
    elif algorithm is None and operands.found is None and not is_few:
        dx = (shape, strides)
        joined = join_phases(dx, dy.strides, axes, weights, types.a, channels_fast, machine)
        if joined is not None:
            _add_joined(
                plan, operands, joined, weights, types, epilogue, conjugates, channels_fast, machine
            )
    for ranges in [[]] if joined is None else joined.rest:
        found = phases((shape, strides), dy.strides, axes, weights, not channels_fast, more, ranges)
        if machine.device.is_gpu and is_plain and joined is None:
            found = _without_empty(plan, found, prod(shape), types.result, machine)
        if channels_fast and not is_few:
            alignment = operands.alignment(1, machine)
            of_phases = [phase.weights for phase in found]
            plan.ordered.update(add_transposed_phases(plan, of_phases, types.a, alignment, machine))
        # Those of most taps first: what they copy, others need not.
        for phase in sorted(found, key=lambda phase: -phase.product.terms):
            add_product(
                plan,
                operands,
                phase.product,
                phase.weights,
                types,
                (phase.offset, *phase.more_offsets),
                epilogue,
                conjugates,
                algorithm,
                machine,
            )
    return plan


def _without_empty(
    plan: ConvPlan, found: list[Phase], elements: int, element: Element, machine: Any
) -> list[Phase]:
    """Phases with taps. If there are others, what they are is written first: zeros, everywhere.

    (Products without terms wrote these at half of the speed, in a launch for each phase.)
    """
    others = [phase for phase in found if phase.product.terms > 0]
    if len(others) < len(found):
        threads, unroll = 256, 4
        instance = Instance("zeros", f"Zeros<{element.storage}, {unroll}>", threads)
        packer = Packer(1, "q")
        packer.add("q", elements)
        of_block = threads * unroll * max(16 // element.itemsize, 1)
        traffic = elements * element.itemsize
        start = machine.prepare(instance, -(-elements // of_block), 0, traffic)
        plan.add(start, ((plan.result_number, 0),), packer.finish())
    return others


def _add_joined(
    plan: ConvPlan,
    operands: Operands,
    joined: JoinedPhases,
    weights: Weights,
    types: Types,
    epilogue: Epilogue,
    conjugate: tuple[bool, bool],
    channels_fast: bool,
    machine: Any,
) -> None:
    """Add the launches of the product of all phases."""
    product, own = joined.product, joined.weights
    number = plan.workspace(own.groups * own.rows * own.terms, numpy_dtype(types.a.name))
    added = plan.added(operands.bias_stride is not None, ())
    result = (plan.result_number, 0)
    in_order = dense_weights(product, types.a.itemsize, taps_first=False)
    bias = operands.bias_stride
    lines = prepare_lines(product, in_order, types, epilogue, bias, channels_fast, machine)
    taps_first = channels_fast and lines is None
    tail, start = prepare_joined_weights(joined, weights, types.a, taps_first, machine)
    plan.add(start, ((number, 0), (1, weights.offset)), tail)
    if lines is not None:
        tail, start, at = lines
        plan.add(start, (*added, (number, at), (0, 0), result), tail)
        return
    prepared = Windows(
        product,
        ROWS if channels_fast else COLUMNS,
        channels_fast,
        (own.group_stride, own.row_stride, types.a.itemsize),
        types,
        conjugate,
        epilogue,
        bias,
        precision=operands.precision,
    )
    add_launches(plan, prepared, (number, 0), (0, 0), added, result, machine)
