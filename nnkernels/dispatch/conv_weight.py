"""Gradients by weights from packed pixels.

See ``cuda_src/nnk/conv_weight.cuh`` and, for few channels, ``conv_weight_lines.cuh``.
"""

from __future__ import annotations

from math import prod
from typing import Any

from nnkernels.compile.instance import Instance
from nnkernels.config import conv_weight as config
from nnkernels.config import conv_weight_lines
from nnkernels.config.conv_weight import WeightConfig, WeightProblem
from nnkernels.config.conv_weight_lines import WeightLinesConfig, WeightLinesProblem
from nnkernels.config.matmul_tiles import without_tiles
from nnkernels.dispatch.conv_launch import Windows, multiplies_words
from nnkernels.dispatch.conv_pointwise import as_matrices
from nnkernels.dispatch.packing import Packer


def prepare_weight(windows: Windows, machine: Any) -> tuple[bytes, Any] | None:
    """The launch of a gradient by weights, if it is one that is made so: its arguments, its start.

    Pointers are those of the gradients of pixels, the image, and the result.
    """
    if machine.device.is_gpu or as_matrices(windows) is not None:
        return None
    if multiplies_words(windows.types, machine):
        return None
    problem, device = _problem(windows), machine.device
    if problem.is_bfloat16 and not machine.allows_tiles():
        device = without_tiles(device)
    lines = _lines_problem(windows)
    if conv_weight_lines.pays(lines, device):
        by_lines = conv_weight_lines.configure(lines, device)
        shared_bytes = by_lines.shared_bytes(lines)
        return _pack_lines(windows, by_lines), _start(
            "ConvWeightLines", "conv_weight_lines", windows, by_lines, shared_bytes, machine
        )
    if not config.pays(problem, device):
        return None
    chosen = config.configure(problem, device)
    shared_bytes = chosen.shared_bytes(problem.compute_itemsize)
    start = _start("ConvWeight", "conv_weight", windows, chosen, shared_bytes, machine)
    return _pack(windows, chosen), start


def _start(
    struct: str,
    header: str,
    windows: Windows,
    chosen: WeightConfig | WeightLinesConfig,
    shared_bytes: int,
    machine: Any,
) -> Any:
    product, types = windows.product, windows.types
    names = (types.a.storage, types.b.storage, types.storage_c, types.accumulator[0])
    kernel = f"{struct}<{', '.join(names)}, {chosen.micro_m}, {chosen.vector}>"
    return machine.prepare(
        Instance(header, kernel, 1),
        product.groups * chosen.panels * chosen.parts,
        shared_bytes,
        product.groups * product.rows * product.pixel_count * product.terms,
    )


def _problem(windows: Windows) -> WeightProblem:
    product, types = windows.product, windows.types
    return WeightProblem(
        pixels=product.pixel_count,
        groups=product.groups,
        channels=product.channels,
        outputs=product.rows,
        taps=prod(product.taps),
        step=abs(product.axes[-1].step * product.image.spatial[-1]),
        compute_itemsize=types.accumulator[2],
        is_complex=types.c.kind == "c",
        is_bfloat16=types.dot == "bfloat16",
    )


def _lines_problem(windows: Windows) -> WeightLinesProblem:
    product, types = windows.product, windows.types
    last = product.axes[-1]
    row = last.pixels
    return WeightLinesProblem(
        groups=product.groups,
        channels=product.channels,
        outputs=product.rows,
        taps=product.taps,
        step=last.step,
        spacing=abs(last.tap),
        row=row,
        rows_of_pixels=product.pixel_count // row if row else 0,
        compute_itemsize=types.accumulator[2],
        is_complex=types.c.kind == "c",
        is_bfloat16=types.dot == "bfloat16",
    )


def _pack(windows: Windows, chosen: WeightConfig) -> bytes:
    """``ConvWeight::Args``."""
    product = windows.product
    packer = Packer(3, "q")
    packer.add("q", product.pixel_count, product.rows)
    packer.add("q", product.pixels.group, product.pixels.channel, product.image.group)
    packer.add("q", *windows.weights)
    packer.add("q", chosen.panels, chosen.tiles, chosen.parts, int(windows.channels_fast))
    packer.add("i", chosen.depth, chosen.units)
    windows.pack_geometry(packer, product)
    return packer.finish()


def _pack_lines(windows: Windows, chosen: WeightLinesConfig) -> bytes:
    """``ConvWeightLines::Args``."""
    product = windows.product
    row = product.axes[-1].pixels
    rows_of_pixels = product.pixel_count // row if row else 0
    packer = Packer(3, "q")
    packer.add("q", product.rows)
    packer.add("q", product.pixels.group, product.pixels.channel, product.image.group)
    packer.add("q", *windows.weights)
    packer.add("q", chosen.panels, product.terms, chosen.tiles, chosen.parts)
    packer.add("q", rows_of_pixels * chosen.pieces_of_row, chosen.pieces_of_row)
    packer.add("q", int(windows.channels_fast))
    packer.add("i", chosen.length, chosen.width, chosen.pieces, chosen.tiles_of_part)
    windows.pack_geometry(packer, product)
    return packer.finish()
