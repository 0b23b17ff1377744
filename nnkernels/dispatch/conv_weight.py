"""Gradients by weights from packed pixels.

See ``cuda_src/nnk/conv_weight.cuh`` and, for few channels, ``conv_weight_lines.cuh``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nnkernels.compile.instance import Instance
from nnkernels.config import conv_weight as config
from nnkernels.config import conv_weight_lines
from nnkernels.config.conv_weight import WeightConfig, WeightProblem
from nnkernels.config.conv_weight_lines import WeightLinesConfig
from nnkernels.dispatch.conv_direct_weight import WeightLaunches
from nnkernels.dispatch.conv_launch import Windows, multiplies_words
from nnkernels.dispatch.conv_pointwise import as_matrices
from nnkernels.dispatch.dtypes import ELEMENTS
from nnkernels.dispatch.matmul_call import Types
from nnkernels.dispatch.matmul_splits import prepare_splits
from nnkernels.dispatch.packing import Packer


def prepare_weight(windows: Windows, machine: Any) -> WeightLaunches | None:
    """The launches of a gradient by weights, if it is one that is made so.

    Pointers are those of the gradients of pixels, the image, and the result.
    """
    if machine.device.is_gpu or as_matrices(windows) is not None:
        return None
    if multiplies_words(windows.types, machine):
        return None
    problem, device = _problem(windows), machine.device
    if conv_weight_lines.pays(problem, device):
        by_lines = conv_weight_lines.configure(problem, device)
        return _prepare_lines(windows, problem, by_lines, machine)
    if not config.pays(problem):
        return None
    chosen = config.configure(problem, device)
    start = _start(
        "conv_weight",
        f"ConvWeight<{_types(windows.types)}, {chosen.micro_m}, {chosen.vector}>",
        windows,
        chosen.panels * chosen.parts,
        chosen.shared_bytes(problem.compute_itemsize),
        machine,
    )
    return WeightLaunches(start, _pack(windows, chosen), 0, None)


def _prepare_lines(
    windows: Windows, problem: WeightProblem, chosen: WeightLinesConfig, machine: Any
) -> WeightLaunches:
    """The launch that sums ranges of pixels, and that which adds these up, if there are several."""
    splits = None
    if chosen.splits > 1:
        splits = prepare_splits(windows.call(), chosen.splits, machine)
        # The workspace is dense, of the type of the sums.
        sums = ELEMENTS[windows.types.accumulator[1]]
        product, itemsize = windows.product, sums.itemsize
        of_result = (product.rows * product.terms * itemsize, product.terms * itemsize, itemsize)
        windows = replace(windows, types=replace(windows.types, c=sums), weights=of_result)
    sizes = f"{chosen.micro_m}, {chosen.taps}, {chosen.vector}"
    start = _start(
        "conv_weight_lines",
        f"ConvWeightLines<{_types(windows.types)}, {sizes}>",
        windows,
        chosen.panels * chosen.splits,
        chosen.shared_bytes(problem),
        machine,
    )
    return WeightLaunches(start, _pack_lines(windows, problem, chosen), 0, splits)


def _types(types: Types) -> str:
    return ", ".join((types.a.storage, types.b.storage, types.storage_c, types.accumulator[0]))


def _start(
    header: str, kernel: str, windows: Windows, blocks: int, shared_bytes: int, machine: Any
) -> Any:
    product = windows.product
    work = product.groups * product.rows * product.pixel_count * product.terms
    return machine.prepare(Instance(header, kernel, 1), product.groups * blocks, shared_bytes, work)


def _problem(windows: Windows) -> WeightProblem:
    product, types = windows.product, windows.types
    last, next_element = product.axes[-1], abs(product.image.spatial[-1])
    return WeightProblem(
        groups=product.groups,
        channels=product.channels,
        outputs=product.rows,
        taps=product.taps,
        step=last.step,
        spacing=abs(last.tap),
        row=last.pixels,
        rows_of_pixels=product.pixel_count // max(last.pixels, 1),
        step_bytes=last.step * next_element,
        image_row=(last.size + last.step) * next_element,
        compute_itemsize=types.accumulator[2],
        is_complex=types.c.kind == "c",
    )


def _pack_arrays(windows: Windows, panels: int) -> Packer:
    """``WeightArrays``."""
    product, packer = windows.product, Packer(3, "q")
    packer.add("q", product.rows, product.pixels.group, product.pixels.channel)
    packer.add("q", product.image.group, *windows.weights, panels, int(windows.channels_fast))
    return packer


def _pack(windows: Windows, chosen: WeightConfig) -> bytes:
    """``ConvWeight::Args``."""
    packer = _pack_arrays(windows, chosen.panels)
    packer.add("q", windows.product.pixel_count, chosen.tiles, chosen.parts)
    packer.add("i", chosen.depth, chosen.units)
    windows.pack_geometry(packer, windows.product)
    return packer.finish()


def _pack_lines(windows: Windows, problem: WeightProblem, chosen: WeightLinesConfig) -> bytes:
    """``ConvWeightLines::Args``."""
    product, last = windows.product, windows.product.axes[-1]
    packer = _pack_arrays(windows, chosen.panels)
    packer.add("q", chosen.splits, product.groups * product.rows * windows.weights[1])
    packer.add("q", problem.rows_of_pixels * chosen.pieces_of_row, chosen.pieces_of_row)
    packer.add("i", chosen.length, chosen.pieces, chosen.remainders, chosen.shift, chosen.chunks)
    packer.add("i", chosen.zeros, int(last.tap < 0))
    if last.tap < 0:
        before = (last.taps - 1) * last.tap
        last = replace(last, tap=-last.tap, start=last.start + before)
        product = replace(product, axes=(product.axes[0], product.axes[1], last))
    windows.pack_geometry(packer, product)
    return packer.finish()
