"""Products over windows of one element each that are products of matrices as they are."""

from __future__ import annotations

from math import prod

from nnkernels.config.conv import TERMS
from nnkernels.dispatch.axes import largest_power_of_two, merge
from nnkernels.dispatch.conv_launch import Windows
from nnkernels.dispatch.matmul_call import Call
from nnkernels.dispatch.matmul_product import Product


def as_matrices(windows: Windows) -> tuple[Call, int, bool] | None:
    """The product of matrices that is a product over windows, if there is one.

    There is one for kernels of one tap without padding, where the pixels of an image are one axis
    of it and of the array of pixels. A stride is no obstacle to that where there is one spatial
    axis.

    Returns
    -------
    call : Call
        With the weights, or the array of pixels where pixels are terms, as A.
    offset : int
        Bytes to the element of the image that the first pixel sees.
    mirrored : bool
        Whether A and B have changed places.
    """
    p = windows.product
    if (
        prod(p.phases) != 1
        or prod(p.taps) != 1
        or not all(
            axis.start >= 0 and axis.start + (axis.pixels - 1) * axis.step < axis.size
            for axis in p.axes
        )
    ):
        return None
    steps = tuple(s * axis.step for s, axis in zip(p.image.spatial, p.axes, strict=True))
    shape = (p.images, *(axis.pixels for axis in p.axes))
    arrays = [(a.batch, *a.spatial) for a in (p.pixels, *p.more)]
    merged, (image, *others) = merge(shape, [(p.image.batch, *steps), *arrays])
    if len(merged) == 1:  # the pixels of all images
        images, of_image, next_image = 1, *image, 0
        others = [(0, *steps) for steps in others]
    elif len(merged) == 2 and merged[0] == p.images and windows.pixels != TERMS:
        images = p.images
        next_image, of_image = image
    else:
        return None
    count = p.pixel_count // images
    batch = (p.groups, images)
    group, row, term = windows.weights
    left, right = (group, 0, row, term), (p.image.group, next_image, p.image.channel, of_image)
    c, *more = [
        (a.group, step, a.channel, of_pixels)
        for a, (step, of_pixels) in zip((p.pixels, *p.more), others, strict=True)
    ]
    if windows.pixels == TERMS:
        turned = (*right[:2], right[3], right[2])
        product = Product(batch, p.rows, p.channels, count, c, turned, left)
    else:
        d = None
        if windows.bias_stride is not None:
            d = (windows.bias_stride * p.rows, 0, windows.bias_stride, 0)
        product = Product(batch, p.rows, count, p.channels, left, right, c, d, tuple(more))
    product, mirrored = product.oriented()
    types, conjugate, (a, b, result) = windows.types, windows.conjugate, windows.alignments
    start = sum(axis.start * s for axis, s in zip(p.axes, p.image.spatial, strict=True))
    alignments = (a, largest_power_of_two(b, start), result)
    if mirrored:
        types, conjugate = types.mirrored(), conjugate[::-1]
        alignments = (alignments[1], alignments[0], result)
    call = Call(
        product,
        types,
        conjugate,
        windows.epilogue,
        alignments,
        in_place=False,
        more_alignments=windows.more_alignments,
    )
    return call, start, mirrored
