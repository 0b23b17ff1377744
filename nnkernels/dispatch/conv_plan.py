"""Plans of convolutions: everything about a call but its pointers."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from nnkernels.compile.instance import Instance
from nnkernels.config.conv import COLUMNS, ROWS, TERMS
from nnkernels.config.conv_direct import is_direct
from nnkernels.dispatch import machines
from nnkernels.dispatch.applied import Applied
from nnkernels.dispatch.axes import (
    Shape,
    Strides,
    contiguous_strides,
    largest_power_of_two,
    memory_order,
)
from nnkernels.dispatch.conv_apart import join_apart
from nnkernels.dispatch.conv_channels import (
    add_copy,
    add_transposed_phases,
    add_transposition,
    copies,
    image_of,
    pixels_of,
)
from nnkernels.dispatch.conv_copies import copy_elements
from nnkernels.dispatch.conv_direct import in_memory_order, prepare_direct
from nnkernels.dispatch.conv_direct_weight import DirectWeight, prepare_direct_weight
from nnkernels.dispatch.conv_geometry import (
    Phase,
    Weights,
    WindowProduct,
    phases,
    weights_of,
    windows,
)
from nnkernels.dispatch.conv_joined import JoinedPhases, join_phases, prepare_joined_weights
from nnkernels.dispatch.conv_launch import Windows
from nnkernels.dispatch.conv_launches import add_launches
from nnkernels.dispatch.conv_weight import prepare_weight
from nnkernels.dispatch.conv_winograd import add_winograd
from nnkernels.dispatch.dtypes import Element, numpy_dtype
from nnkernels.dispatch.elementwise import alignment_of
from nnkernels.dispatch.matmul_call import PLAIN, Epilogue, Types, types_of
from nnkernels.dispatch.packing import Packer, pointer_struct
from nnkernels.dispatch.results import Allocation
from nnkernels.dispatch.windows import Axis

# Integers of fewer bits are summed, and returned, in so many.
_LEAST_INTEGER = "int32"

# A pointer: its number, and bytes from it on.
Slot = tuple[int, int]
# In the place of a pointer, the numbers of a fused function.
NUMBERS: Slot = (-1, 0)


@dataclass
class ConvPlan:
    """Everything about a call but its pointers.

    Those are numbered through: operands, those of a fused function, results, workspaces.

    Attributes
    ----------
    operands : int
        How many there are.
    result : Allocation
        The result.
    further : tuple of Allocation
        Further results of a fused function.
    function : Inside or None
        That function.
    workspaces : list of Allocation
        What lies between launches.
    launches : list
        For each what starts it, what packs its pointers, these, and its other arguments.
    copies : dict
        Of operands that are copied so that their channels are adjacent, the copies' numbers.
    ordered : dict
        Where weights are that are copied to the order of the terms.
    """

    operands: int
    result: Allocation
    further: tuple[Allocation, ...] = ()
    function: Any = None
    workspaces: list[Allocation] = field(default_factory=list)
    launches: list[tuple[Any, Any, tuple[Slot, ...], bytes]] = field(default_factory=list)
    copies: dict[int, int] = field(default_factory=dict)
    ordered: dict[Weights, Slot] = field(default_factory=dict)

    @property
    def result_number(self) -> int:
        """Number of the pointer of the result."""
        return self.operands

    def add(self, start: Any, slots: tuple[Slot, ...], tail: bytes) -> None:
        """Add a launch with these pointers."""
        packer = pointer_struct(len(slots))
        if NUMBERS in slots:
            at = slots.index(NUMBERS)
            size = self.function.number_bytes
            packer = struct.Struct(f"={at}Q{size}s{len(slots) - at - 1}Q")
        self.launches.append((start, packer.pack, slots, tail))

    def workspace(self, elements: int, dtype: Any) -> int:
        """Add a workspace; the number of its pointer."""
        self.workspaces.append(Allocation((elements,), dtype, (0,)))
        return self.operands + len(self.further) + len(self.workspaces)

    def added(self, bias: bool, offsets: Sequence[int]) -> tuple[Slot, ...]:
        """What an epilogue's arguments begin with: its arrays, and the numbers of its function.

        Parameters
        ----------
        bias : bool
            Whether there is one.
        offsets : sequence of int
            Bytes to the first elements of the arrays of the function.
        """
        found: tuple[Slot, ...] = ((2, 0),) if bias else ()
        if self.function is None:
            return found
        first = self.operands - len(self.function.arrays)
        numbers = [*range(first, self.operands)]
        numbers += [self.result_number + 1 + i for i in range(len(self.further))]
        return (*found, *zip(numbers, offsets, strict=True), NUMBERS)


@dataclass(frozen=True)
class Operands:
    """What is convolved: operands in order of their pointers.

    Attributes
    ----------
    arrays : sequence of arrays
        Two operands, and the bias or None.
    names : sequence of str
        Their names, for messages.
    out_dtype : optional
        dtype of the result. Default: that of a product of the two.
    found : Applied or None
        The fused function of the epilogue.
    precision : {None, "tf32"}
        What float32 operands may be rounded to.
    """

    arrays: Sequence[Any]
    names: Sequence[str]
    out_dtype: Any = None
    found: Applied | None = None
    precision: str | None = None

    def types(self, first: int, second: int, epilogue: Epilogue) -> Types:
        """Element types, with one of the operands as A and another one as B."""
        a, b = self.arrays[first], self.arrays[second]
        names = (self.names[first], self.names[second], self.names[-1])
        bias = self.arrays[2] if len(self.arrays) > 2 else None
        return types_of(a, b, bias, names, self.out_dtype or whole_dtype(a, b), epilogue)

    def alignment(self, number: int, machine: Any, offset: int = 0) -> int:
        """Of the address of an operand and some bytes: a power of two up to 16; on a CPU 1."""
        if not machine.device.is_gpu:
            return 1
        array = self.arrays[number]
        return alignment_of(machines.for_array(array)[1](array) + offset)

    @property
    def given(self) -> int:
        """How many operands there are."""
        more = 0 if self.found is None else len(self.found.arrays)
        return sum(array is not None for array in self.arrays) + more

    def more(self, shape: Shape, order: tuple[int, ...]) -> list[Strides]:
        """Strides of the arrays of the function, for results of some shape and order in memory."""
        if self.found is None:
            return []
        written = self.found.epilogue.written[1:]
        results = [contiguous_strides(shape, e.itemsize, order) for e in written]
        return [*self.found.strides(shape), *results]

    def more_alignments(self, machine: Any, offsets: Sequence[int]) -> tuple[int, ...]:
        """Of the addresses of those arrays and some bytes; on a CPU none."""
        if self.found is None or not machine.device.is_gpu:
            return ()
        arrays = self.found.arrays
        aligned = [alignment_of(machines.for_array(a)[1](a)) for a in arrays]
        aligned += [16] * (len(offsets) - len(arrays))
        return tuple(largest_power_of_two(a, o) for a, o in zip(aligned, offsets, strict=True))

    @property
    def bias_stride(self) -> int | None:
        """Bytes from element to element of the bias."""
        bias = self.arrays[2] if len(self.arrays) > 2 else None
        return None if bias is None else bias.strides[0]

    def common_alignment(self, machine: Any) -> int:
        """The largest power of two up to 16 that divides all addresses; on a CPU 1."""
        given = (i for i, array in enumerate(self.arrays) if array is not None)
        return min(self.alignment(i, machine) for i in given)


def whole_dtype(a: Any, b: Any) -> str | None:
    """dtype of the result where both operands are integers of few bits."""
    few = a.dtype.kind in "iu" and b.dtype.kind in "iu"
    return _LEAST_INTEGER if few and max(a.dtype.itemsize, b.dtype.itemsize) < 4 else None


def forward(
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
    plan, strides, more = _begin(operands, shape, types.result, x)
    if prod(shape) == 0:
        return plan
    weights = weights_of(weight.strides, weight.shape, groups, flip)
    product = windows((x.shape, x.strides), strides, axes, weights).with_more(more)
    offsets = [0] * (1 + len(more))
    conjugates = (conjugate, False)
    _add(plan, operands, product, weights, types, offsets, epilogue, conjugates, algorithm, machine)
    return plan


def backward_data(
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
    plan, strides, more = _begin(operands, shape, types.result, dy)
    if prod(shape) == 0:
        return plan
    weights = weights_of(weight.strides, weight.shape, groups, flip)
    channels_fast = _channels_fast(dy, weights.rows)
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
            _add(
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
    tail, start = prepare_joined_weights(joined, weights, types.a, channels_fast, machine)
    plan.add(start, ((number, 0), (1, weights.offset)), tail)
    prepared = Windows(
        product,
        ROWS if channels_fast else COLUMNS,
        channels_fast,
        (own.group_stride, own.row_stride, types.a.itemsize),
        types,
        conjugate,
        epilogue,
        operands.bias_stride,
        precision=operands.precision,
    )
    added = plan.added(operands.bias_stride is not None, ())
    add_launches(plan, prepared, (number, 0), (0, 0), added, (plan.result_number, 0), machine)


def backward_weight(
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
    channels_fast = _channels_fast(x, shape[1])
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
        _add_direct_weight(plan, direct)
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
        plan.add(packed[1], ((0, 0), (1, 0), (plan.result_number, 0)), packed[0])
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


def _add_direct_weight(plan: ConvPlan, direct: DirectWeight) -> None:
    """Add the launches of a gradient by weights of few channels in a group."""
    sums, splits = plan.result_number, direct.splits
    if splits is not None:
        sums = plan.workspace(splits.workspace.shape[0], splits.workspace.dtype)
    plan.add(direct.start, ((0, 0), (1, 0), (sums, direct.offset)), direct.tail)
    if splits is not None:
        plan.add(splits.finish, ((sums, 0), (plan.result_number, 0)), splits.tail)


# ---- parts --------------------------------------------------------------------------------------


def _begin(
    operands: Operands, shape: Shape, element: Element, like: Any
) -> tuple[ConvPlan, Strides, list[Strides]]:
    """A plan without launches, and strides of its result, which lies as another array does.

    And of the arrays of a fused function.
    """
    dtype = numpy_dtype(element.name)
    order = memory_order(like.shape, like.strides)
    plan = ConvPlan(operands.given, Allocation(shape, dtype, order))
    if operands.found is not None:
        epilogue = operands.found.epilogue
        plan.function = epilogue.function
        further = (numpy_dtype(e.name) for e in epilogue.written[1:])
        plan.further = tuple(Allocation(shape, d, order) for d in further)
    strides = contiguous_strides(shape, dtype.itemsize, order)
    return plan, strides, operands.more(shape, order)


def _channels_fast(image: Any, channels: int) -> bool:
    """Whether the channels of a group of an image are adjacent, and its last axis is not."""
    itemsize = image.dtype.itemsize
    return channels > 1 and image.strides[1] == itemsize and abs(image.strides[-1]) > itemsize


def _add(
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
    channels_fast = _channels_fast(operands.arrays[0], product.channels)
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
    if is_direct(product.channels, product.rows, product.terms):
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
            ROWS if _channels_fast(operands.arrays[0], product.channels) else COLUMNS,
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
