"""Convolutions through Winograd's transforms: see ``cuda_src/nnk/conv_winograd.cuh``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkernels.compile.instance import Instance
from nnkernels.config import conv_winograd as config
from nnkernels.config.conv_winograd import CHANNELS, POINTS, WinogradConfig, WinogradProblem
from nnkernels.config.matmul_problem import round_up
from nnkernels.dispatch.conv_geometry import (
    Strides3,
    Weights,
    WindowProduct,
    in_order_of_taps,
)
from nnkernels.dispatch.matmul_call import Epilogue, Types, epilogue_call
from nnkernels.dispatch.matmul_instances import epilogue_type
from nnkernels.dispatch.matmul_packing import pack_epilogue, words_before
from nnkernels.dispatch.packing import Packer

if TYPE_CHECKING:
    from nnkernels.dispatch.conv_plan import ConvPlan, Slot

ALGORITHMS = (None, "direct", "winograd")


def add_winograd(
    plan: ConvPlan,
    product: WindowProduct,
    weights: Weights,
    types: Types,
    slots: tuple[Slot, Slot, Slot],
    added: tuple[Slot, ...],
    epilogue: Epilogue,
    bias_stride: int | None,
    channels_fast: bool,
    algorithm: str | None,
    machine: Any,
) -> bool:
    """Add the launches of a convolution to a plan, if it is one that goes through the transforms.

    Parameters
    ----------
    slots : tuple
        Pointers of weights, image and result.
    added : tuple
        What the arguments of the epilogue begin with.
    algorithm : {None, "direct", "winograd"}
        What is wanted.

    Returns
    -------
    bool
        Whether it is.

    Raises
    ------
    ValueError
        If it is wanted, and cannot be made so.
    """
    if algorithm == "direct" or product.taps[0] == 0:  # a phase that is nothing but zeros
        return False
    product, weights = in_order_of_taps(product, weights)
    problem = _problem(product, types, channels_fast)
    against = config.reason_against(problem, machine.device)
    if algorithm == "winograd" and against is not None:
        raise ValueError(f'algorithm="winograd" is not possible here: {against}')
    if against is not None or (algorithm is None and not config.pays(problem, machine.device)):
        return False
    chosen = config.configure(problem, machine.device)
    point, each = chosen.point_elements(problem), chosen.outputs_of_launch(problem)
    itemsize = types.accumulator[2]
    number = plan.workspace(POINTS * POINTS * point, np.dtype(types.c.name))
    for first in range(0, problem.outputs, each):
        outputs = first, min(first + each, problem.outputs)
        tail, start = _prepare_weights(weights, outputs, point, types, chosen, machine)
        of_weights = slots[0][1] + weights.offset + first * weights.row_stride
        plan.add(start, ((number, 0), (slots[0][0], of_weights)), tail)
        tail, start = _prepare(
            product, problem, chosen, outputs, point, types, epilogue, bias_stride, machine
        )
        # What would be the weights of output 0.
        at_points = number, -first * problem.terms * itemsize
        plan.add(start, (*added, at_points, *slots[1:]), tail)
    return True


def _problem(product: WindowProduct, types: Types, channels_fast: bool) -> WinogradProblem:
    arrays = [e for e in (types.a, types.b, types.c, types.d, types.result) if e is not None]
    a, b, c = product.axes
    return WinogradProblem(
        elements=frozenset(e.name for e in arrays),
        groups=product.groups,
        channels=product.channels,
        outputs=product.rows,
        images=product.images,
        taps=product.taps,
        steps=(a.step, b.step, c.step),
        spacings=(a.tap, b.tap, c.tap),
        pixels=(a.pixels, b.pixels, c.pixels),
        channels_fast=channels_fast,
    )


def _prepare_weights(
    weights: Weights,
    outputs: tuple[int, int],
    point: int,
    types: Types,
    chosen: WinogradConfig,
    machine: Any,
) -> tuple[bytes, Any]:
    packer = Packer(2, "q")
    rows = outputs[1] - outputs[0]
    packer.add("q", rows, weights.channels, weights.taps[0], point)
    packer.add("q", weights.row_stride, weights.channel_stride, *weights.tap_strides)
    panel, blocks = 0, round_up(rows, chosen.side)
    if chosen.lanes_are == CHANNELS:
        panel, blocks = chosen.vector, blocks // chosen.lanes
    name, _, itemsize = types.accumulator
    kernel = f"WinogradWeights<{name}, {chosen.lanes}, {panel}>"
    instance = Instance("conv_winograd_weights", kernel, 1)
    traffic = rows * weights.terms // 9 * (POINTS * POINTS + 9) * itemsize
    return packer.finish(), machine.prepare(instance, blocks, 0, traffic)


def _prepare(
    product: WindowProduct,
    problem: WinogradProblem,
    chosen: WinogradConfig,
    outputs: tuple[int, int],
    point: int,
    types: Types,
    epilogue: Epilogue,
    bias_stride: int | None,
    machine: Any,
) -> tuple[bytes, Any]:
    """The launch for outputs from one to before another."""
    d = None if bias_stride is None else (bias_stride, 0)
    name, _, itemsize = types.accumulator
    layout = f"LanesAreTiles<{name}, {chosen.lanes}, {chosen.vector}>"
    if chosen.lanes_are == CHANNELS:
        d = None if bias_stride is None else (0, bias_stride)
        layout = f"LanesAreChannels<{name}, {chosen.lanes}, {chosen.vector}, {chosen.micro_m}>"
    call = epilogue_call(product.rows, product.channels, types, epilogue.before, d)
    (depth, *axes), image, pixels = product.axes, product.image, product.pixels
    rows, columns = problem.tiles_of_image
    blocks = chosen.blocks(replace(problem, outputs=outputs[1] - outputs[0]))
    arrays = 3 + (d is not None) + len(product.more)
    packer = Packer(words_before(arrays, epilogue), "q")
    packer.add("q", problem.tiles, rows * columns, columns)
    packer.add("q", product.channels, outputs[1], problem.terms, point)
    packer.add("q", depth.pixels, depth.step, depth.tap, *(axis.pixels for axis in axes))
    packer.add("q", *(a.start for a in product.axes), *(a.size for a in product.axes))
    packer.add("q", image.batch, image.channel, *image.spatial)
    packer.add("q", pixels.batch, pixels.channel, *pixels.spatial)
    packer.add("q", outputs[0], blocks[1])
    packer.add("i", chosen.tile_n, chosen.tile_m, chosen.outputs_at_once, chosen.terms_at_once)
    finish, more_headers, definitions = epilogue_type(call)
    if epilogue.function is not None:
        more_headers, definitions = epilogue.function.source()
        finish = f"PlacedEpilogue<{epilogue.function.cpp_type()}, {finish}, 5>"
        for a in product.more or (Strides3(0, 0, 0, (0, 0, 0)),):
            packer.add_index(a.batch, a.channel, *a.spatial)
    pack_epilogue(packer, call)
    instance = Instance(
        "conv_winograd",
        f"ConvWinograd<{name}, {layout}, {chosen.vector}, {chosen.micro_m}, {finish}>",
        1,
        more_headers,
        definitions,
    )
    work = problem.tiles * POINTS * POINTS * (outputs[1] - outputs[0]) * problem.terms
    shared = chosen.shared_bytes(itemsize)
    return packer.finish(), machine.prepare(instance, blocks[0] * blocks[1], shared, work)
