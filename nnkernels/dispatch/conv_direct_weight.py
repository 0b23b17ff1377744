"""The gradient by the weights of a convolution with few channels in a group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from nnkernels.compile.instance import Instance
from nnkernels.config import conv_direct as config
from nnkernels.config.conv_direct import DirectProblem, DirectWeightConfig
from nnkernels.config.matmul_problem import index_kind
from nnkernels.dispatch.axes import Strides
from nnkernels.dispatch.conv_direct import (
    direct_problem,
    flag,
    in_memory_order,
    index_type,
    pack_geometry,
    weight_strides,
)
from nnkernels.dispatch.conv_geometry import Weights, WindowProduct
from nnkernels.dispatch.dtypes import ELEMENTS
from nnkernels.dispatch.matmul_call import PLAIN, Call, Types
from nnkernels.dispatch.matmul_product import Product
from nnkernels.dispatch.matmul_splits import Splits, prepare_splits
from nnkernels.dispatch.packing import Packer


@dataclass(frozen=True)
class WeightLaunches:
    """The launches.

    Attributes
    ----------
    start : callable
        Starts the first one.
    tail : bytes
        Its arguments after the pointers: those of gradients, image, and the result or workspace.
    offset : int
        Bytes to be added to the last one.
    splits : Splits or None
        The second one.
    """

    start: Callable[[bytes], None]
    tail: bytes
    offset: int
    splits: Splits | None


def prepare_direct_weight(
    product: WindowProduct,
    weights: Weights,
    channels_fast: bool,
    types: Types,
    conjugate: tuple[bool, bool],
    alignment: int,
    machine: Any,
) -> WeightLaunches:
    """Choose how the gradient is made, and prepare its launches.

    Parameters
    ----------
    weights : Weights
        Where it is written.
    channels_fast : bool
        Whether it is dense in order of taps and then channels, rather than of channels and taps.
    types : Types
        A are gradients of pixels, B is the image.
    conjugate : pair of bool
        Of A and B.
    alignment : int
        Of their addresses.
    """
    ordered, to = in_memory_order(product, weights)
    sizes = types.b.itemsize, types.a.itemsize
    problem = direct_problem(ordered, to, sizes, types, (alignment, alignment))
    chosen = config.configure_weight(problem, machine.device)
    splits = None
    dense = prepared = weights.groups * weights.rows * weights.terms * types.c.itemsize
    if chosen.splits > 1:
        call = _call(product, weights, channels_fast, types, conjugate)
        splits = prepare_splits(call, chosen.splits, machine)
        # The workspace lies as the result does, but for its type.
        types, before = replace(types, c=ELEMENTS[types.accumulator[1]]), types.c.itemsize
        to = _scaled(to, types.c.itemsize, before)
        prepared = dense // before * types.c.itemsize
        reach = max(problem.reach, chosen.splits * prepared)
        chosen = replace(chosen, index=index_kind(reach))
    tail = _pack(ordered, to, problem, chosen, prepared)
    instance = _instance(chosen, types, conjugate)
    # Work, in bytes that would take as long: see `matmul_launch.prepare_with`.
    traffic = product.groups * product.rows * product.pixel_count * problem.terms
    start = machine.prepare(instance, chosen.blocks(problem), chosen.shared_bytes(problem), traffic)
    return WeightLaunches(start, tail, to.offset, splits)


def _pack(
    product: WindowProduct,
    to: Weights,
    problem: DirectProblem,
    chosen: DirectWeightConfig,
    split_stride: int,
) -> bytes:
    """``ConvDirectWeight::Args``."""
    packer = Packer(3, chosen.index)
    parts = chosen.parts(problem)
    packer.add_index(problem.images * prod(parts), chosen.items_of_split, split_stride)
    packer.add("i", chosen.run, chosen.slab)
    # Without pixels there are no items.
    packer.add_divisors(max(n, 1) for n in parts)
    tiles = chosen.tiles(problem)
    packer.add_divisors((chosen.splits, *tiles, problem.kernel[0], product.channels, product.rows))
    packer.add_index(*chosen.tile)
    pack_geometry(packer, product, to)
    return packer.finish()


def _call(
    product: WindowProduct,
    weights: Weights,
    channels_fast: bool,
    types: Types,
    conjugate: tuple[bool, bool],
) -> Call:
    """The gradient as a product of matrices, of which the sums of splits are added up."""
    step = weights.step(channels_fast)
    assert step is not None, "the result is dense, in this order"
    nothing: Strides = (0, 0, 0)
    return Call(
        Product(
            (weights.groups,),
            weights.rows,
            weights.terms,
            product.pixel_count,
            nothing,
            nothing,
            (weights.group_stride, weights.row_stride, step),
        ),
        types,
        conjugate,
        PLAIN,
        (1, 1, 1),
        in_place=False,
    )


def _scaled(weights: Weights, to: int, by: int) -> Weights:
    """The same array of elements of another size."""
    group, row, channel, a, b, c = (s // by * to for s in weight_strides(weights))
    return replace(
        weights,
        offset=weights.offset // by * to,
        group_stride=group,
        row_stride=row,
        channel_stride=channel,
        tap_strides=(a, b, c),
    )


def _instance(chosen: DirectWeightConfig, types: Types, conjugate: tuple[bool, bool]) -> Instance:
    lanes, is_complex = chosen.lanes, types.c.kind == "c"
    storage = ", ".join((types.a.storage, types.b.storage, types.storage_c, types.accumulator[0]))
    conjugates = (conjugate[0] and is_complex, conjugate[1] and is_complex)
    flags = ", ".join(map(flag, (chosen.sliding, lanes.unit_image, lanes.unit_pixels, *conjugates)))
    kernel = (
        f"ConvDirectWeight<{storage}, {index_type(chosen.index)}, {flag(lanes.along_groups)}, "
        f"{lanes.vector}, {chosen.threads}, {flags}>"
    )
    return Instance("conv_direct_weight", kernel, chosen.threads)
