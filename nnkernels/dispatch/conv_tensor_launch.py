"""From a product over windows to a prepared launch on matrix cores."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nnkernels.compile.instance import Instance
from nnkernels.config import conv_tensor as config
from nnkernels.config.conv import TERMS, ConvProblem
from nnkernels.config.conv_tensor import ConvTensorConfig
from nnkernels.config.matmul_problem import index_kind
from nnkernels.config.matmul_splits import terms_of_split
from nnkernels.dispatch.conv_geometry import WindowAxis, WindowProduct
from nnkernels.dispatch.matmul_call import Call
from nnkernels.dispatch.matmul_instances import matmul_instance
from nnkernels.dispatch.matmul_launch import Prepared, prepare_with
from nnkernels.dispatch.matmul_splits import prepare_splits, workspace_bytes
from nnkernels.dispatch.packing import Packer

if TYPE_CHECKING:
    from nnkernels.dispatch.conv_launch import Windows


def prepare_tensor(
    windows: Windows, call: Call, problem: ConvProblem, machine: Any
) -> Prepared | None:
    """Prepare the launches of a product over windows, or None if matrix cores are not to make it.

    Parameters
    ----------
    call : Call
        The product of matrices.
    problem : ConvProblem
        What a configuration may know about it.
    """
    chosen = config.configure(problem, machine.device)
    if chosen is None:
        return None
    product, splits = call.product, None
    part, terms = call, product.k
    if chosen.tensor.splits > 1:
        terms = terms_of_split(product.k, chosen.tensor.splits, chosen.tensor.tile_k)
        ranges = -(-product.k // terms)
        reach = max(problem.product.reach, workspace_bytes(call, ranges))
        chosen = chosen.for_workspace(problem.product, index_kind(reach))
        part = call.part(ranges, terms)
        splits = prepare_splits(call, ranges, machine)

    def pack(packer: Packer) -> None:
        windows.pack(packer)
        if chosen.scattered and chosen.pixels == TERMS:
            windows.pack_geometry(packer, as_image(windows.seen))

    shared = chosen.tensor.shared_elements(terms) * call.types.accumulator[2]
    instance = _instance(part, chosen)
    tail, start = prepare_with(part, chosen.tensor, terms, machine, instance, shared, pack)
    return tail, start, splits


def as_image(product: WindowProduct) -> WindowProduct:
    """The array of pixels as an image, which windows of one tap see."""
    a, b, c = (WindowAxis(axis.pixels, 1, 1, 1, 0, axis.pixels) for axis in product.axes)
    return replace(product, channels=product.rows, axes=(a, b, c), image=product.pixels)


def _instance(call: Call, chosen: ConvTensorConfig) -> Instance:
    product = matmul_instance(call, len(call.batch()[0]), chosen.tensor)
    flags = (chosen.channels_fast, chosen.few_taps, chosen.scattered)
    form = ", ".join([chosen.pixels, *("true" if flag else "false" for flag in flags)])
    return Instance(
        product.header,
        f"{product.kernel[:-1]}, ConvTensorForm<{form}>>",
        product.threads,
        (*product.more_headers, "conv_tensor_form"),
    )
