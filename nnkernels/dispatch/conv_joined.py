"""Phases of a transposed convolution as one product: see ``cuda_src/nnk/conv_joined_weights.cuh``.

Elements of the result whose indices have one remainder by the strides are a phase. Each sees other
taps, so that phases are products of their own (``phases`` of ``conv_geometry.py``), all of which
gather the same image. Of few rows, packing takes longer than multiplying, and registers are mostly
empty. Here the rows of all phases are those of one product, whose windows have whatever any phase
sees, with zeros for the weights that a phase lacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from nnkernels.compile.instance import Instance
from nnkernels.config import conv as config
from nnkernels.config import conv_tensor
from nnkernels.dispatch.axes import Shape, Strides
from nnkernels.dispatch.conv_geometry import (
    SPATIAL,
    Strides3,
    Weights,
    WindowAxis,
    WindowProduct,
    three_axes,
)
from nnkernels.dispatch.dtypes import Element
from nnkernels.dispatch.packing import Packer
from nnkernels.dispatch.windows import Axis

# Along each axis, the first pixel of each phase, and the end.
Ranges = list[tuple[int, int]]


@dataclass(frozen=True)
class JoinedPhases:
    """One product of all phases.

    Attributes
    ----------
    product : WindowProduct
        Of the pixels that all phases have.
    weights : Weights
        Where its weights are written: dense.
    starts : tuple of int
        Along three axes: tap j of phase r is tap ``r + start - j stride``.
    strides : tuple of int
        Of the convolution, along three axes.
    rest : list of Ranges
        The pixels that only some phases have.
    """

    product: WindowProduct
    weights: Weights
    starts: tuple[int, ...]
    strides: tuple[int, ...]
    rest: list[Ranges]


def join_phases(
    dx: tuple[Shape, Strides],
    dy: Strides,
    axes: Sequence[Axis],
    weights: Weights,
    element: Element,
    channels_fast: bool,
    machine: Any,
) -> JoinedPhases | None:
    """The product of all phases, if they are joined.

    Parameters
    ----------
    element : Element
        Of weights.
    channels_fast : bool
        Whether the channels of dy are adjacent, and terms are in order of taps and then channels.
    """
    shape, strides = dx
    if any(a.dilation > 1 or a.out == 0 or a.size < a.stride for a in axes):
        return None
    found = [_axis(a) for a in axes]
    taps = prod(axis.taps for axis, _ in found)
    channels, rows = weights.rows, weights.channels
    phases = prod(a.stride for a in axes)
    if machine.device.is_gpu:
        joins = conv_tensor.joins_phases(element.storage, rows, phases, machine.device)
    else:
        joins = config.joins_phases(
            rows,
            phases,
            (channels * prod(a.kernel for a in axes), channels * taps),
            config.ROWS if channels_fast else config.COLUMNS,
            max(machine.device.vector_bytes // element.compute_itemsize, 1),
            machine.device,
        )
    if not joins:
        return None
    missing = SPATIAL - len(axes)
    every = (1,) * missing + tuple(a.stride for a in axes)
    pixels = Strides3.of(strides, rows)
    by_phase = tuple(n * s for n, s in zip(every, pixels.spatial, strict=True))
    product = WindowProduct(
        images=shape[0],
        groups=weights.groups,
        channels=channels,
        rows=rows * prod(every),
        axes=three_axes([axis for axis, _ in found]),
        image=Strides3.of(dy, channels),
        pixels=replace(pixels, spatial=(by_phase[0], by_phase[1], by_phase[2])),
        phases=(every[0], every[1], every[2]),
        phase_steps=pixels.spatial,
    )
    return JoinedPhases(
        product,
        dense_weights(product, element.itemsize, channels_fast),
        (0,) * missing + tuple(start for _, start in found),
        every,
        _rest(axes),
    )


def apart(joined: JoinedPhases, itemsize: int) -> tuple[WindowProduct, Shape, Strides, Strides]:
    """The product with results in a workspace, whose rows are adjacent: for a GPU.

    Returns
    -------
    product : WindowProduct
        That product.
    shape, strides, own : tuple of int
        Of the results, with an axis for the phases of each axis: those in the array of pixels, and
        in the workspace.
    """
    p = joined.product
    a, b, c = (axis.pixels for axis in p.axes)
    pixel = p.groups * p.rows * itemsize
    dense = Strides3(
        a * b * c * pixel, p.rows * itemsize, itemsize, (b * c * pixel, c * pixel, pixel)
    )
    _, second, third = p.phases
    row = p.rows_of_phase * itemsize
    steps = (second * third * row, third * row, row)
    axes = [
        (p.images, p.pixels.batch, dense.batch),
        (p.groups, p.pixels.group, dense.group),
        (p.rows_of_phase, p.pixels.channel, itemsize),
    ]
    for i, axis in enumerate(p.axes):
        axes.append((axis.pixels, p.pixels.spatial[i], dense.spatial[i]))
        axes.append((p.phases[i], p.phase_steps[i], steps[i]))
    # As the array of pixels lies.
    axes.sort(key=lambda axis: -abs(axis[1]))
    shape, strides, own = zip(*axes, strict=True)
    product = replace(p, pixels=dense, phases=(1, 1, 1), phase_steps=(0, 0, 0))
    return product, shape, strides, own


def _axis(axis: Axis) -> tuple[WindowAxis, int]:
    """Windows that see what any phase sees, and `start` of ``JoinedPhases``.

    Phase r of pixel u sees tap t at the window ``u + (r + low - t) / stride``.
    """
    first = -(-(axis.low - axis.kernel + 1) // axis.stride)
    last = (axis.stride - 1 + axis.low) // axis.stride
    found = WindowAxis(
        axis.size // axis.stride, last - first + 1, step=1, tap=1, start=first, size=axis.out
    )
    return found, axis.low - first * axis.stride


def dense_weights(product: WindowProduct, itemsize: int, taps_first: bool) -> Weights:
    """Weights in order of the terms of the product."""
    a, b, c = product.taps
    channel, tap = (1, product.channels) if taps_first else (a * b * c, 1)
    return Weights(
        groups=product.groups,
        rows=product.rows,
        channels=product.channels,
        taps=product.taps,
        offset=0,
        group_stride=product.rows * product.terms * itemsize,
        row_stride=product.terms * itemsize,
        channel_stride=channel * itemsize,
        tap_strides=(b * c * tap * itemsize, c * tap * itemsize, tap * itemsize),
    )


def _rest(axes: Sequence[Axis]) -> list[Ranges]:
    """Pixels past the last ones that all phases have along an axis, for each axis."""
    whole = [(0, a.size // a.stride) for a in axes]
    every = [(0, a.size) for a in axes]
    return [
        [*whole[:i], (whole[i][1], a.size), *every[i + 1 :]]
        for i, a in enumerate(axes)
        if a.size % a.stride
    ]


def prepare_joined_weights(
    joined: JoinedPhases, weights: Weights, element: Element, channels_fast: bool, machine: Any
) -> tuple[bytes, Any]:
    """The launch that writes its weights; pointers are those of the result and of the weights."""
    product = joined.product
    packer = Packer(2, "q")
    packer.add("q", *product.phases, product.rows_of_phase, product.channels, *product.taps)
    packer.add("q", *joined.starts, *joined.strides, *weights.taps)
    packer.add("q", weights.group_stride, weights.channel_stride, weights.row_stride)
    packer.add("q", *weights.tap_strides, int(channels_fast))
    blocks, threads = product.groups * product.rows, 128 if machine.device.is_gpu else 1
    start = machine.prepare(
        Instance("conv_joined_weights", f"ConvJoinedWeights<{element.storage}>", threads),
        blocks,
        0,
        2 * blocks * product.terms * element.itemsize,
    )
    return packer.finish(), start
