"""Convolutions from lines that all taps along a row share: see ``cuda_src/nnk/conv_lines.cuh``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from nnkernels.compile.instance import Instance
from nnkernels.config import conv_lines as config
from nnkernels.config.conv import COLUMNS
from nnkernels.config.conv_lines import LinesConfig, LinesProblem
from nnkernels.dispatch.conv_geometry import Weights, WindowAxis, WindowProduct, in_order_of_taps
from nnkernels.dispatch.conv_launch import Windows, multiplies_words
from nnkernels.dispatch.matmul_call import Epilogue, Types, epilogue_call
from nnkernels.dispatch.matmul_instances import epilogue_type
from nnkernels.dispatch.matmul_packing import pack_epilogue, words_before
from nnkernels.dispatch.packing import Packer


def prepare_lines(
    product: WindowProduct,
    weights: Weights,
    types: Types,
    epilogue: Epilogue,
    bias_stride: int | None,
    channels_fast: bool,
    machine: Any,
) -> tuple[bytes, Any, int] | None:
    """The launch of a convolution, if it is one that is made from lines.

    Parameters
    ----------
    weights : Weights
        If phases are joined, those of the joined product.
    types : Types
        A are weights, B is the image.

    Returns
    -------
    tail : bytes
        Arguments after the pointers: those of bias, weights, image and result.
    start : callable
        Starts the launch.
    offset : int
        Bytes to be added to the pointer of the weights.
    """
    if epilogue.function is not None or machine.device.is_gpu or product.terms == 0:
        return None
    if multiplies_words(types, machine):
        return None
    product, weights = in_order_of_taps(product, weights)
    problem, device = _problem(product, weights, types, channels_fast), machine.device
    if not (config.is_possible(problem, device) and config.pays(problem, device)):
        return None
    chosen = config.configure(problem, device)
    tail, start = _prepare(product, weights, problem, chosen, types, epilogue, bias_stride, machine)
    return tail, start, weights.offset


def _problem(
    product: WindowProduct, weights: Weights, types: Types, channels_fast: bool
) -> LinesProblem:
    *others, last = product.axes
    adjacent = weights.step(False) == types.a.itemsize
    return LinesProblem(
        groups=product.groups,
        channels=product.channels,
        rows=product.rows,
        taps=product.taps,
        steps=_three(axis.step for axis in product.axes),
        spacings=_three(axis.tap for axis in product.axes),
        row=last.pixels,
        pitch=_pitch(last),
        rows_of_slice=others[1].pixels,
        slices=product.images * others[0].pixels,
        itemsize=types.accumulator[2],
        is_complex=types.c.kind == "c",
        reads_weights=adjacent and types.is_summed_as_it_is(types.a),
        channels_fast=channels_fast,
    )


def _three(numbers: Iterable[int]) -> tuple[int, int, int]:
    a, b, c = numbers
    return a, b, c


def _pitch(axis: WindowAxis) -> int:
    """Windows from the first one of a row to that of the next.

    Between rows are those whose taps are needed by the last ones of a row. The zeros that follow an
    image's row are as good as those before the next one.
    """
    lines, shift = config.lines_along(axis.taps, axis.step, axis.tap)
    reach = axis.pixels + (axis.taps - 1) // lines * shift
    # Windows that see an element after the first one, and taps that see one before it.
    after = -(-(axis.size - axis.start) // axis.step)
    before = axis.pixels + (axis.start + (axis.taps - 1) * axis.tap) // axis.step
    return min(reach, max(after, before, axis.pixels))


def _prepare(
    product: WindowProduct,
    weights: Weights,
    problem: LinesProblem,
    chosen: LinesConfig,
    types: Types,
    epilogue: Epilogue,
    bias_stride: int | None,
    machine: Any,
) -> tuple[bytes, Any]:
    """The arguments after the pointers, and what starts the launch."""
    d = None if bias_stride is None else (bias_stride, 0)
    call = epilogue_call(problem.rows, problem.channels, types, epilogue, d)
    image, pixels = product.image, product.pixels
    packer = Packer(words_before(3 + (d is not None), epilogue), "q")
    packer.add("q", problem.rows, problem.slices, problem.columns, problem.row)
    packer.add("q", chosen.bands(problem), chosen.panels_of_band)
    packer.add("q", weights.group_stride, weights.row_stride, weights.channel_stride)
    packer.add("q", *weights.tap_strides)
    packer.add("q", image.group, pixels.group, pixels.channel)
    packer.add("i", *chosen.lines, *chosen.shifts, chosen.reach, chosen.width)
    z, y, x = product.axes
    of_rows = replace(product, axes=(z, y, replace(x, pixels=problem.pitch)))
    windows = Windows(
        of_rows, COLUMNS, False, (0, 0, 0), types, (False, False), epilogue, bias_stride
    )
    windows.pack_product(packer, of_rows)
    pack_epilogue(packer, call)
    finish, more_headers, definitions = epilogue_type(call)
    flags = (problem.reads_weights, problem.channels_fast)
    options = ", ".join("true" if flag else "false" for flag in flags)
    name, _, _ = types.accumulator
    instance = Instance(
        "conv_lines",
        f"ConvLines<{types.a.storage}, {types.b.storage}, {types.storage_c}, {name}, "
        f"{chosen.micro_m}, {chosen.vector}, {options}, {finish}>",
        1,
        more_headers,
        definitions,
    )
    blocks = problem.groups * problem.slices * chosen.bands(problem)
    work = problem.groups * problem.rows * product.terms * problem.slices * problem.columns
    start = machine.prepare(instance, blocks, chosen.shared_bytes(problem), work)
    return packer.finish(), start
