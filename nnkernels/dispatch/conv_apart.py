"""Phases of a transposed convolution that a GPU joins to one product.

Its results are rows of a workspace, which are put in place afterwards: see ``conv_joined.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

from nnkernels.config.conv import ROWS
from nnkernels.dispatch.axes import Shape, Strides, largest_power_of_two
from nnkernels.dispatch.conv_channels import Image, add_copy
from nnkernels.dispatch.conv_copies import copy_elements
from nnkernels.dispatch.conv_geometry import SPATIAL, Strides3, Weights
from nnkernels.dispatch.conv_joined import (
    JoinedPhases,
    apart,
    join_phases,
    prepare_joined_weights,
)
from nnkernels.dispatch.conv_launch import Windows
from nnkernels.dispatch.conv_launches import add_launches
from nnkernels.dispatch.dtypes import numpy_dtype
from nnkernels.dispatch.matmul_call import PLAIN, Types
from nnkernels.dispatch.windows import Axis

if TYPE_CHECKING:
    from nnkernels.dispatch.conv_operands import Operands
    from nnkernels.dispatch.conv_plan import ConvPlan, Slot


def join_apart(
    plan: ConvPlan,
    operands: Operands,
    dx: tuple[Shape, Strides],
    axes: Sequence[Axis],
    weights: Weights,
    types: Types,
    conjugate: tuple[bool, bool],
    machine: Any,
) -> JoinedPhases | None:
    """Add the launches of the product of all phases, if they are joined; and what that is."""
    image = _rows_of_pixels(operands, axes, weights, types, machine)
    if image is None:
        return None
    dy = operands.arrays[0]
    joined = join_phases(dx, dy.strides, axes, weights, types.a, True, machine)
    if joined is not None:
        _add(plan, joined, weights, types, conjugate, image, machine)
    return joined


def _rows_of_pixels(
    operands: Operands,
    axes: Sequence[Axis],
    weights: Weights,
    types: Types,
    machine: Any,
) -> Image | None:
    """The gradient of the convolution, if a GPU can see its channels in chunks, as it is or copied.

    Its strides are those of the copy, unless channels are adjacent already.
    """
    dy = operands.arrays[0]
    sizes = (1,) * (SPATIAL - len(axes)) + tuple(axis.out for axis in axes)
    shape = (dy.shape[0], weights.groups, weights.rows, *sizes)
    strides, alignment = Strides3.of(dy.strides, weights.rows), operands.alignment(0, machine)
    image = Image(0, shape, strides, types.b, alignment)
    if types.a != types.b or weights.rows * types.a.itemsize % 16:
        return None
    if strides.channel == types.b.itemsize:
        steps = (strides.batch, strides.group, *strides.spatial)
        return image if largest_power_of_two(alignment, *steps) == 16 else None
    return image if image.can_be_copied else None


def _add(
    plan: ConvPlan,
    joined: JoinedPhases,
    weights: Weights,
    types: Types,
    conjugate: tuple[bool, bool],
    image: Image,
    machine: Any,
) -> None:
    """Add the launches of the product of all phases on a GPU, whose results are put in place."""
    size, own = types.a.itemsize, joined.weights
    product, shape, strides, of_results = apart(joined, types.result.itemsize)
    slot: Slot = (image.number, 0)
    if image.strides.channel != size:
        slot, product = add_copy(plan, image, machine), replace(product, image=image.copied())
    number = plan.workspace(own.groups * own.rows * own.terms, numpy_dtype(types.a.name))
    tail, start = prepare_joined_weights(joined, weights, types.a, True, machine)
    plan.add(start, ((number, 0), (1, weights.offset)), tail)
    lines = own.in_order(size)
    aligned = (16, 16, 16)
    prepared = Windows(product, ROWS, True, lines, types, conjugate, PLAIN, alignments=aligned)
    results = plan.workspace(prod(shape), numpy_dtype(types.result.name))
    add_launches(plan, prepared, (number, 0), slot, (), (results, 0), machine)
    axes = (shape, strides, of_results)
    copy_elements(plan, (plan.result_number, 0), (results, 0), axes, types.result, machine)
