"""Images that a GPU copies first, so that their channels are adjacent.

Matrix cores multiply faster than an image whose channels lie far apart is gathered, element by
element; so it is read once, and written as chunks of channels that windows see at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product as every
from math import prod
from typing import TYPE_CHECKING, Any

from nnkernels.compile.instance import Instance
from nnkernels.config import conv_channels as config
from nnkernels.config import conv_tensor
from nnkernels.config.conv_channels import ChannelsProblem
from nnkernels.dispatch.axes import Shape, Strides, largest_power_of_two, merge
from nnkernels.dispatch.conv_geometry import Strides3, Weights, WindowProduct
from nnkernels.dispatch.conv_launch import Windows
from nnkernels.dispatch.conv_pointwise import as_matrices
from nnkernels.dispatch.dtypes import Element, numpy_dtype
from nnkernels.dispatch.packing import Packer

if TYPE_CHECKING:
    from nnkernels.dispatch.conv_plan import ConvPlan, Slot

# Chunks of channels: bytes.
_CHUNK = 16
# Images that a kernel's arguments list: ``most_listed`` of ``cuda_src/nnk/channels_last.cuh``.
_MOST_LISTED = 32


@dataclass(frozen=True)
class Image:
    """An image (N, C, *spatial) that may be copied.

    Attributes
    ----------
    number : int
        Of its pointer.
    shape : tuple of int
        Images, groups, channels of a group, and three spatial axes.
    strides : Strides3
        Its strides.
    """

    number: int
    shape: Shape
    strides: Strides3
    element: Element
    alignment: int

    @property
    def channels(self) -> int:
        """Of all groups."""
        return self.shape[1] * self.shape[2]

    @property
    def bytes(self) -> int:
        """Its size."""
        a, b, c = self.shape[3:]
        return self.shape[0] * self.channels * a * b * c * self.element.itemsize

    @property
    def can_be_copied(self) -> bool:
        """Whether it is one row of adjacent pixels for each channel, and channels are chunks."""
        size = self.element.itemsize
        merged, (steps,) = merge(self.shape[3:], [self.strides.spatial])
        chunks = self.shape[2] * size % _CHUNK == 0 and size <= _CHUNK
        return chunks and len(merged) == 1 and steps[0] == size

    def copied(self) -> Strides3:
        """Strides of the copy."""
        size = self.element.itemsize
        pixel = self.channels * size
        _, b, c = self.shape[3:]
        whole = self.bytes // max(self.shape[0], 1)
        return Strides3(whole, self.shape[2] * size, size, (b * c * pixel, c * pixel, pixel))


def image_of(product: WindowProduct, number: int, element: Element, alignment: int) -> Image:
    """The image that is seen through windows."""
    p = product
    shape = (p.images, p.groups, p.channels, *(axis.size for axis in p.axes))
    return Image(number, shape, p.image, element, alignment)


def pixels_of(product: WindowProduct, number: int, element: Element, alignment: int) -> Image:
    """The array with an element for each window, as an image."""
    p = product
    shape = (p.images, p.groups, p.rows, *(axis.pixels for axis in p.axes))
    return Image(number, shape, p.pixels, element, alignment)


def copies(
    plan: ConvPlan,
    windows: Windows,
    copied: Windows,
    images: tuple[Image, ...],
    launches: int,
    machine: Any,
) -> bool:
    """Whether some images are copied first.

    Parameters
    ----------
    windows : Windows
        The product of the operands as they are.
    copied : Windows
        That of their copies.
    launches : int
        How many more the second one takes, if none of them is copied already.
    """
    device = machine.device
    if not all(image.can_be_copied for image in images) or as_matrices(windows) is not None:
        return False
    missing = [image for image in images if image.number not in plan.copies]
    launches -= len(images) - len(missing)
    problem = windows.problem(windows.call())
    if not config.pays(problem, sum(image.bytes for image in missing), launches, device):
        return False
    return conv_tensor.configure(copied.problem(copied.call()), device) is not None


def add_copy(plan: ConvPlan, image: Image, machine: Any) -> Slot:
    """Add the launch that copies an image, unless there is one; where its copy is."""
    if image.number in plan.copies:
        return plan.copies[image.number], 0
    images, *_, a, b, c = image.shape
    pixels, channels, size = a * b * c, image.channels, image.element.itemsize
    problem = ChannelsProblem(
        (1, images),
        channels,
        pixels,
        (0, image.strides.batch, image.strides.channel),
        (0, pixels * channels, channels),
        size,
        image.alignment,
    )
    number = plan.workspace(image.bytes // size, numpy_dtype(image.element.name))
    _add_launch(plan, problem, (number, 0), (image.number, 0), image.element, machine)
    plan.copies[image.number] = number
    return number, 0


def add_transposition(
    plan: ConvPlan,
    to: Slot,
    source: Slot,
    axes: tuple[Shape, Strides, Strides],
    element: Element,
    alignment: int,
    machine: Any,
) -> bool:
    """Add the launch that copies an array, if that is adjacent along another axis than its copy.

    Parameters
    ----------
    axes : tuple
        Shape, and strides of the dense copy and of the array.
    alignment : int
        Of the array's address.
    """
    shape, dense, strides = axes
    merged, (copy, own) = merge(shape, [dense, strides])
    *outer, channels = merged
    size = element.itemsize
    adjacent = [axis for axis, step in enumerate(own[:-1]) if step == size]
    if len(adjacent) != 1 or channels * size % _CHUNK or len(outer) > 3:
        return False
    (axis,) = adjacent
    images = [i for i in range(len(outer)) if i != axis]
    if config.is_narrow(channels, outer[axis], size) or not machine.device.is_gpu:
        return False
    counts = [1] * (2 - len(images)) + [outer[i] for i in images]
    steps = [0] * (2 - len(images)) + [own[i] for i in images]
    copy_steps = [0] * (2 - len(images)) + [copy[i] // size for i in images]
    problem = ChannelsProblem(
        (counts[0], counts[1]),
        channels,
        outer[axis],
        (steps[0], steps[1], own[-1]),
        (copy_steps[0], copy_steps[1], copy[axis] // size),
        size,
        alignment,
    )
    _add_launch(plan, problem, to, source, element, machine)
    return True


def add_transposed_phases(
    plan: ConvPlan, weights: Sequence[Weights], element: Element, alignment: int, machine: Any
) -> dict[Weights, Slot]:
    """Add one launch that writes the weights of some phases in order of taps and then channels.

    Returns
    -------
    dict
        Where weights are that were not in that order; none, if one launch does not write them.
    """
    found = [w for w in weights if w.terms > 0 and w.step(True) is None]
    size, taps = element.itemsize, sum(prod(w.taps) for w in found)
    if len(found) < 2 or taps > _MOST_LISTED or not machine.device.is_gpu:
        return {}
    first = found[0]
    chunks = first.channels * size % _CHUNK == 0 and first.groups == 1
    if not chunks or first.row_stride != size or config.is_narrow(first.channels, first.rows, size):
        return {}
    slots: dict[Weights, int] = {}
    listed: list[tuple[int, int, int]] = []  # of every tap
    elements = 0
    for w in found:
        slots[w] = elements
        for number, at in enumerate(every(*map(range, w.taps))):
            offset = w.offset + sum(t * s for t, s in zip(at, w.tap_strides, strict=True))
            listed.append((offset, elements + number * w.channels, w.terms))
        elements += w.rows * w.terms
    problem = ChannelsProblem(
        (1, taps),
        first.channels,
        first.rows,
        (0, max(abs(offset) for offset, _, _ in listed), first.channel_stride),
        (0, elements, max(w.terms for w in found)),
        size,
        largest_power_of_two(alignment, *(offset for offset, _, _ in listed)),
    )
    number = plan.workspace(elements, numpy_dtype(element.name))
    _add_launch(plan, problem, (number, 0), (1, 0), element, machine, listed)
    return {w: (number, at * size) for w, at in slots.items()}


def _add_launch(
    plan: ConvPlan,
    problem: ChannelsProblem,
    to: Slot,
    source: Slot,
    element: Element,
    machine: Any,
    listed: Sequence[tuple[int, int, int]] = (),
) -> None:
    chosen = config.configure(problem)
    packer = Packer(2, chosen.index)
    packer.add_index(problem.channels, problem.pixels, *problem.strides, *problem.copy_strides)
    packer.add_divisors((chosen.tiles_of_image, chosen.tiles_of_channels, problem.images[1]))
    for numbers in zip(*listed, strict=True):
        packer.add_index(*numbers, *[0] * (_MOST_LISTED - len(listed)))
    types = f"{element.storage}, {'int32' if chosen.index == 'i' else 'int64'}"
    options = f"{chosen.vector}, {chosen.threads}{', true' if listed else ''}"
    instance = Instance("channels_last", f"ChannelsLast<{types}, {options}>", chosen.threads)
    images = prod(problem.images)
    traffic = 2 * images * problem.channels * problem.pixels * problem.itemsize
    blocks = images * chosen.tiles_of_image
    start = machine.prepare(instance, blocks, chosen.shared_bytes, traffic)
    plan.add(start, (to, source), packer.finish())
