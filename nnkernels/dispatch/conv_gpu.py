"""Products over windows on a GPU: from the kernel's choice to its launches."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nnkernels.compile.instance import Instance
from nnkernels.config import conv_simt, conv_tensor
from nnkernels.config.conv import COLUMNS, TERMS
from nnkernels.config.conv_simt import ConvSimtConfig
from nnkernels.config.conv_tensor import ConvTensorConfig
from nnkernels.config.matmul_problem import index_kind
from nnkernels.config.matmul_splits import terms_of_split
from nnkernels.dispatch.conv_geometry import WindowAxis, WindowProduct
from nnkernels.dispatch.matmul_call import Call
from nnkernels.dispatch.matmul_instances import matmul_instance
from nnkernels.dispatch.matmul_launch import Prepared, prepare_with
from nnkernels.dispatch.matmul_product import Product
from nnkernels.dispatch.matmul_splits import prepare_splits, workspace_bytes
from nnkernels.dispatch.packing import Packer

if TYPE_CHECKING:
    from nnkernels.dispatch.conv_launch import Windows


def prepare_windows(windows: Windows, machine: Any) -> Prepared:
    """Choose the kernel of a product over windows, and prepare its launches."""
    call = windows.call()
    problem = windows.problem(call)
    chosen: ConvSimtConfig | ConvTensorConfig | None
    chosen = conv_tensor.configure(problem, machine.device)
    if chosen is None:
        chosen = conv_simt.configure(problem, machine.device)
    terms = call.product.k
    if chosen.product.splits == 1:
        return (*_prepare(call, chosen, terms, windows, machine), None)
    terms = terms_of_split(terms, chosen.product.splits, chosen.product.tile_k)
    splits = -(-call.product.k // terms)
    index = index_kind(max(problem.product.reach, workspace_bytes(call, splits)))
    chosen = chosen.for_workspace(call.product.n, problem.product.compute_itemsize, index)
    # What is gathered has stride 0 along the terms, and so from split to split: the kernel finds
    # the first term of a split by itself.
    first = _prepare(call.part(splits, terms), chosen, terms, windows, machine)
    several = problem.scattered or call.pixels is not None
    finished = with_pixel_axes(windows, call) if several else call
    return (*first, prepare_splits(finished, splits, machine))


def _prepare(
    call: Call,
    chosen: ConvSimtConfig | ConvTensorConfig,
    terms: int,
    windows: Windows,
    machine: Any,
) -> tuple[bytes, Any]:
    """The launch of a product, or of the first half of a split one, of `terms` terms a split."""
    product = matmul_instance(call, len(call.batch()[0]), chosen.product)
    tensor = isinstance(chosen, ConvTensorConfig)
    instance = Instance(
        product.header,
        f"{product.kernel[:-1]}, {chosen.form}>",
        product.threads,
        (*product.more_headers, "conv_tensor_form" if tensor else "conv_tile_copy"),
        product.definitions,
    )

    def pack(packer: Packer) -> None:
        packer.align(16)
        windows.pack_geometry(packer, windows.seen)
        if tensor and chosen.scattered and chosen.pixels == TERMS:
            windows.pack_geometry(packer, as_image(windows.seen))

    shared = chosen.shared_bytes(terms, call.types.accumulator[2])
    return prepare_with(call, chosen.product, terms, machine, instance, shared, pack)


def as_image(product: WindowProduct) -> WindowProduct:
    """The array of pixels as an image, which windows of one tap see."""
    a, b, c = (WindowAxis(axis.pixels, 1, 1, 1, 0, axis.pixels) for axis in product.axes)
    return replace(product, channels=product.rows, axes=(a, b, c), image=product.pixels)


def with_pixel_axes(windows: Windows, call: Call) -> Call:
    """The call as what adds up split sums sees it: every axis of pixels is one of its own.

    The sums lie in a dense workspace in the order of rows and pixels (or the other way round), so
    that axes of the matrix may as well be axes of the stack.
    """
    if windows.pixels not in (COLUMNS, "pixels_are_rows"):
        return call
    p, product = windows.seen, call.product
    (*outer, inner), (steps, *more_steps) = p.merged_pixels((p.pixels, *p.more))
    own, none = (*outer,), (0,) * len(outer)
    batch, strides, d = product.batch, product.strides_c, product.strides_d
    if windows.mirrored:
        of_c = (*strides[:-2], *steps, strides[-1])
        of_d = None if d is None else (*d[:-2], *none, 0, d[-1])
        more = tuple(
            (*s[:-2], *steps, s[-1]) for s, steps in zip(product.more, more_steps, strict=True)
        )
        finished = Product(
            (*batch, *own), inner, product.n, product.k, of_c, of_c, of_c, of_d, more
        )
    else:
        rows = (product.m,)
        of_c = (*strides[:-2], strides[-2], *steps[:-1], 0, steps[-1])
        of_d = None if d is None else (*d[:-2], d[-2], *none, 0, 0)
        more = tuple(
            (*s[:-2], s[-2], *steps[:-1], 0, steps[-1])
            for s, steps in zip(product.more, more_steps, strict=True)
        )
        finished = Product((*batch, *rows, *own), 1, inner, product.k, of_c, of_c, of_c, of_d, more)
    return replace(call, product=finished, pixels=None)
