"""Convolutions with few channels in a group: from a product over windows to a direct kernel."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import prod
from typing import Any

from nnkernels.compile.instance import Instance
from nnkernels.config import conv_direct as config
from nnkernels.config.conv_direct import DirectConfig, DirectProblem
from nnkernels.dispatch.axes import largest_power_of_two
from nnkernels.dispatch.conv_geometry import Strides3, Weights, WindowProduct
from nnkernels.dispatch.matmul_call import Epilogue, Types
from nnkernels.dispatch.matmul_packing import words_before
from nnkernels.dispatch.packing import Packer


def in_memory_order(product: WindowProduct, weights: Weights) -> tuple[WindowProduct, Weights]:
    """The same product with the spatial axes in order of the image's memory: neighbours come last.

    Taps see elements in their order: those of a flipped convolution are taken from the last one.
    """
    order = sorted(
        range(3), key=lambda i: (product.axes[i].pixels > 1, -abs(product.image.spatial[i]))
    )
    axes, taps, offset = [], [], weights.offset
    for i in order:
        axis, stride = product.axes[i], weights.tap_strides[i]
        if axis.tap < 0 and axis.taps:
            last = axis.taps - 1
            axis = replace(axis, tap=-axis.tap, start=axis.start + last * axis.tap)
            offset, stride = offset + last * stride, -stride
        axes.append(axis)
        taps.append((axis.taps, stride))

    def strides(array: Strides3) -> Strides3:
        return replace(array, spatial=_three(array.spatial[i] for i in order))

    return (
        replace(
            product,
            axes=_three(axes),
            image=strides(product.image),
            pixels=strides(product.pixels),
            more=tuple(strides(array) for array in product.more),
        ),
        replace(
            weights,
            offset=offset,
            taps=_three(count for count, _ in taps),
            tap_strides=_three(stride for _, stride in taps),
        ),
    )


def _three(values: Iterable[Any]) -> tuple[Any, Any, Any]:
    a, b, c = values
    return a, b, c


def direct_problem(
    product: WindowProduct,
    weights: Weights,
    itemsizes: tuple[int, int],
    types: Types,
    alignments: tuple[int, int],
) -> DirectProblem:
    """What a configuration may know.

    Parameters
    ----------
    itemsizes : pair of int
        Of the image and the array of pixels.
    alignments : pair of int
        Of their addresses.
    """
    image, pixels, last = product.image, product.pixels, product.axes[-1]
    axes = product.axes
    a, b, c = (axis.pixels for axis in axes)
    sizes = (weights.groups, weights.rows, weights.channels, *weights.taps)
    reach = sum(n * abs(s) for n, s in zip(sizes, weight_strides(weights), strict=True))
    return DirectProblem(
        images=product.images,
        groups=product.groups,
        channels=product.channels,
        rows=product.rows,
        pixels=(a, b, c),
        kernel=product.taps,
        steps=_three(axis.step for axis in axes),
        taps=_three(axis.tap for axis in axes),
        image_steps=(last.step * image.spatial[2], image.group),
        pixel_steps=(pixels.spatial[2], pixels.group),
        itemsizes=itemsizes,
        compute_itemsize=types.accumulator[2],
        is_complex=types.c.kind == "c",
        alignments=(
            _alignment(
                alignments[0],
                image,
                product.images,
                product.channels,
                _three(axis.size for axis in axes),
            ),
            _alignment(alignments[1], pixels, product.images, product.rows, (a, b, c)),
        ),
        reach=max(product.reach, reach, product.groups * product.rows * product.pixel_count),
    )


def _alignment(
    address: int, array: Strides3, images: int, channels: int, spatial: tuple[int, int, int]
) -> int:
    """The largest power of two that divides an address and all steps but those between groups."""
    lengths = (images, channels, *spatial)
    strides = (array.batch, array.channel, *array.spatial)
    steps = (s for s, n in zip(strides, lengths, strict=True) if n > 1)
    return largest_power_of_two(address, *steps)


def weight_strides(weights: Weights) -> tuple[int, ...]:
    """Strides of groups, rows, channels and taps."""
    return (
        weights.group_stride,
        weights.row_stride,
        weights.channel_stride,
        *weights.tap_strides,
    )


def pack_geometry(packer: Packer, product: WindowProduct, weights: Weights) -> None:
    """``DirectGeometry`` of ``cuda_src/nnk/conv_direct_geometry.cuh``."""
    packer.align(16)
    packer.add_index(product.images, product.groups, product.channels, product.rows)
    for name in ("pixels", "step", "tap", "start", "size", "taps"):
        packer.add_index(*(getattr(axis, name) for axis in product.axes))
    for array in (product.image, product.pixels):
        packer.add_index(array.batch, array.group, array.channel, *array.spatial)
    packer.add_index(*weight_strides(weights))
    packer.add_divisor(product.axes[-1].step)


def prepare_direct(
    product: WindowProduct,
    weights: Weights,
    types: Types,
    conjugate: bool,
    epilogue: Epilogue,
    bias_stride: int | None,
    alignments: tuple[int, int],
    machine: Any,
) -> tuple[bytes, Any]:
    """Choose how a convolution with few channels in a group is made, and prepare its launch.

    Parameters
    ----------
    product, weights
        In order of memory.
    types : Types
        A are weights, B is the image.
    conjugate : bool
        Whether weights are taken so.
    alignments : pair of int
        Of the addresses of image and result.

    Returns
    -------
    tail : bytes
        Arguments after the pointers: those of bias, weights, image and result.
    start : callable
        Starts the launch.
    """
    assert epilogue.alpha == epilogue.beta == 1, "sums begin with the bias"
    sizes = types.b.itemsize, types.result.itemsize
    problem = direct_problem(product, weights, sizes, types, alignments)
    chosen = config.configure(problem, machine.device)
    tiles = chosen.tiles(problem)
    items = problem.images * prod(tiles)
    blocks = -(-items // chosen.items_of_block)
    arrays = 3 + (bias_stride is not None) + len(product.more)
    packer = Packer(words_before(arrays, epilogue), chosen.index)
    packer.add_index(items)
    packer.add("i", chosen.items_of_block, chosen.slab)
    packer.add_divisors((blocks, product.rows, *tiles[:2], *tiles[:1:-1]))
    packer.add_index(bias_stride or 0)
    packer.align(16)
    packer.add_scalars(types.activated[1], epilogue.parameters or (0,))
    pack_geometry(packer, product, weights)
    if epilogue.function is not None:
        packer.align(16)
        for a in product.more or (Strides3(0, 0, 0, (0, 0, 0)),):
            packer.add_index(a.batch, a.group, a.channel, *a.spatial)
    instance = _instance(chosen, types, conjugate, epilogue)
    # Work, in bytes that would take as long: see `matmul_launch.prepare_with`.
    traffic = product.groups * product.rows * product.pixel_count * max(problem.terms, 4)
    start = machine.prepare(
        instance,
        blocks * chosen.slabs(problem) * product.rows,
        chosen.shared_bytes(problem),
        traffic,
    )
    return packer.finish(), start


def _instance(chosen: DirectConfig, types: Types, conjugate: bool, epilogue: Epilogue) -> Instance:
    functor, lanes = epilogue.activation, chosen.lanes
    headers: tuple[str, ...]
    name, headers = ("Identity", ()) if functor is None else (functor.name, (functor.header,))
    storage = ", ".join(
        (
            types.b.storage,
            types.a.storage,
            types.storage_c,
            "void" if types.d is None else types.d.storage,
            types.accumulator[0],
            types.activated[0],
        )
    )
    numbers = f"{lanes.vector}, {chosen.registers}, {chosen.step}, {chosen.threads}"
    flags = (
        lanes.unit_image,
        lanes.unit_pixels,
        conjugate and types.c.kind == "c",
        chosen.streaming,
    )
    kernel = (
        f"ConvDirect<{storage}, {name}, {index_type(chosen.index)}, {flag(lanes.along_groups)}, "
        f"{numbers}, {', '.join(map(flag, flags))}>"
    )
    if epilogue.function is None:
        return Instance("conv_direct", kernel, chosen.threads, headers)
    headers, definitions = epilogue.function.source()
    kernel = f"{kernel[:-1]}, {epilogue.function.cpp_type()}>"
    return Instance("conv_direct", kernel, chosen.threads, headers, definitions)


def index_type(index: str) -> str:
    """The C++ type of a kind of index."""
    return "int32" if index == "i" else "int64"


def flag(value: bool) -> str:
    """A C++ truth value."""
    return "true" if value else "false"
