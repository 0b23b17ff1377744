"""The launches of a product over windows: which kernels, and with which pointers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nnkernels.config.conv import COLUMNS, joins_images
from nnkernels.dispatch.conv_launch import Windows, prepare_windows
from nnkernels.dispatch.conv_pointwise import as_matrices
from nnkernels.dispatch.matmul_launch import prepare_gemv, prepare_matmul

if TYPE_CHECKING:
    from nnkernels.dispatch.conv_plan import ConvPlan, Slot


def _are_joined(windows: Windows, machine: Any) -> bool:
    """Whether images are joined to one product, which gathers their pixels, on a CPU."""
    p = windows.product
    if machine.device.is_gpu or windows.pixels != COLUMNS or p.pixel_step is not None:
        return False
    pixels = p.pixel_count // max(p.images, 1)
    _, row, term = windows.weights
    return joins_images(p.images, pixels, p.rows * p.terms, (row, term))


def add_launches(
    plan: ConvPlan,
    windows: Windows,
    first: Slot,
    image: Slot,
    added: tuple[Slot, ...],
    result: Slot,
    machine: Any,
) -> None:
    """Add the launches of a product over windows to a plan.

    Parameters
    ----------
    first, image, added, result : Slot
        Pointers of A (weights, or pixels where these are terms), of the image, of what is added,
        if anything, and of the result.
    """
    matrices = as_matrices(windows)
    if matrices is not None and not _are_joined(windows, machine):
        call, offset, mirrored = matrices
        prepare = prepare_gemv if call.product.m == 1 else prepare_matmul
        tail, start, splits = prepare(call, machine)
        image = (image[0], image[1] + offset)
    else:
        mirrored = windows.mirrored
        tail, start, splits = prepare_windows(windows, machine)
    pair = (image, first) if mirrored else (first, image)
    if splits is None:
        plan.add(start, (*added, *pair, result), tail)
        return
    workspace = splits.workspace
    sums = (plan.workspace(workspace.shape[0], workspace.dtype), 0)
    plan.add(start, (*pair, sums), tail)
    plan.add(splits.finish, (*added, sums, result), splits.tail)
