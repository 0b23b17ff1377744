"""Convolutions and their gradients as products over windows: see ``cuda_src/nnk/conv_windows.cuh``.

A convolution multiplies the windows of an image by weights, and gives an array with an element for
each window, a *pixel*. Its gradient by the image is one such product for each phase of the strides,
with the image of gradients as image; its gradient by the weights multiplies the same windows by the
pixels' gradients. Nothing here looks at memory: an operand is its strides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product as every
from math import gcd, prod

from nnkernels.dispatch.axes import Shape, Strides, merge
from nnkernels.dispatch.windows import Axis

SPATIAL = 3


@dataclass(frozen=True)
class WindowAxis:
    """Windows along one spatial axis: pixel u and tap t see the element ``u step + t tap + start``.

    Attributes
    ----------
    pixels, taps : int
        How many there are.
    size : int
        Of the image: elements before 0 and from `size` on are zeros.
    """

    pixels: int
    taps: int
    step: int
    tap: int
    start: int
    size: int


NO_AXIS = WindowAxis(pixels=1, taps=1, step=1, tap=1, start=0, size=1)


@dataclass(frozen=True)
class Strides3:
    """Strides in bytes of an image, or of an array of pixels.

    Attributes
    ----------
    batch, group, channel : int
        From image to image, from group to group of channels, and from channel to channel.
    spatial : tuple of int
        Three.
    """

    batch: int
    group: int
    channel: int
    spatial: tuple[int, int, int]

    @classmethod
    def of(cls, strides: Strides, channels: int) -> Strides3:
        """Those of an array (N, C, *spatial) with so many channels in a group."""
        batch, channel, *spatial = strides
        return cls(batch, channel * channels, channel, _three(spatial, 0))


@dataclass(frozen=True)
class Weights:
    """The matrix of weights: for every group, `rows` lines of channels and taps; strides in bytes.

    Attributes
    ----------
    offset : int
        Bytes from the address of the array to group, row, channel and tap 0.
    """

    groups: int
    rows: int
    channels: int
    taps: tuple[int, int, int]
    offset: int
    group_stride: int
    row_stride: int
    channel_stride: int
    tap_strides: tuple[int, int, int]

    @property
    def terms(self) -> int:
        """Channels times taps."""
        return self.channels * prod(self.taps)

    def lines(self, taps_first: bool) -> tuple[Shape, Strides]:
        """Shape and strides of group, row and what a line is of: channels and taps, in order."""
        shape, strides = (self.channels, *self.taps), (self.channel_stride, *self.tap_strides)
        if taps_first:
            shape, strides = (*shape[1:], shape[0]), (*strides[1:], strides[0])
        return (self.groups, self.rows, *shape), (self.group_stride, self.row_stride, *strides)

    def in_order(self, itemsize: int) -> Strides:
        """Strides of group, row and term where they are dense, in order of the terms."""
        return self.rows * self.terms * itemsize, self.terms * itemsize, itemsize

    def step(self, taps_first: bool) -> int | None:
        """Bytes from term to term, if that is one number."""
        shape, strides = self.lines(taps_first)
        merged, (steps,) = merge(shape[2:], [strides[2:]])
        return steps[0] if len(merged) == 1 else None


@dataclass(frozen=True)
class WindowProduct:
    """One product over windows.

    Attributes
    ----------
    images, groups, channels, rows : int
        ``channels`` of the image in a group, ``rows`` of the array of pixels in one.
    axes : tuple of WindowAxis
        Three.
    image, pixels : Strides3
        The array that is seen through windows, and the one with an element for each of them.
    more : tuple of Strides3
        Arrays of a fused function with an element for each window and row.
    phases : tuple of int
        Of a transposed convolution, along each axis, that are joined: their rows are `rows`.
    phase_steps : tuple of int
        Bytes from one of them to the next in the array of pixels.
    """

    images: int
    groups: int
    channels: int
    rows: int
    axes: tuple[WindowAxis, WindowAxis, WindowAxis]
    image: Strides3
    pixels: Strides3
    more: tuple[Strides3, ...] = ()
    phases: tuple[int, int, int] = (1, 1, 1)
    phase_steps: tuple[int, int, int] = (0, 0, 0)

    @property
    def rows_of_phase(self) -> int:
        """Rows that are channels of the array of pixels."""
        return self.rows // prod(self.phases)

    @property
    def pixel_count(self) -> int:
        """How many windows there are in all images."""
        return self.images * prod(axis.pixels for axis in self.axes)

    @property
    def taps(self) -> tuple[int, int, int]:
        """Taps along each spatial axis."""
        a, b, c = (axis.taps for axis in self.axes)
        return a, b, c

    @property
    def terms(self) -> int:
        """Channels times taps."""
        return self.channels * prod(self.taps)

    def of_one_image(self) -> WindowProduct:
        """The product of each image, where these are a stack."""
        image, pixels = replace(self.image, batch=0), replace(self.pixels, batch=0)
        more = tuple(replace(array, batch=0) for array in self.more)
        return replace(self, images=1, image=image, pixels=pixels, more=more)

    def with_more(self, arrays: Sequence[Strides]) -> WindowProduct:
        """The product with further arrays (N, O, *spatial) of some strides."""
        return replace(self, more=tuple(Strides3.of(s, self.rows) for s in arrays))

    def merged_pixels(self, arrays: Sequence[Strides3]) -> tuple[Shape, list[Strides]]:
        """Images and spatial axes as few axes of all of some arrays, and their strides."""
        shape = (self.images, *(axis.pixels for axis in self.axes))
        return merge(shape, [(array.batch, *array.spatial) for array in arrays])

    @property
    def pixel_step(self) -> int | None:
        """Bytes from pixel to pixel of the array of pixels, if that is one number.

        Of joined phases it is none, as rows have no single step either.
        """
        if prod(self.phases) > 1:
            return None
        shape = (self.images, *(axis.pixels for axis in self.axes))
        merged, (steps,) = merge(shape, [(self.pixels.batch, *self.pixels.spatial)])
        return steps[0] if len(merged) == 1 else None

    @property
    def reach(self) -> int:
        """The largest byte offset or element count that an index must hold."""
        image = self.images * abs(self.image.batch) + self.groups * abs(self.image.group)
        image += self.channels * abs(self.image.channel)
        positions = 0
        for axis, stride in zip(self.axes, self.image.spatial, strict=True):
            far = axis.pixels * axis.step + axis.taps * abs(axis.tap)
            image += (abs(axis.start) + far) * abs(stride)
            positions = max(positions, abs(axis.start) + far + axis.size)
        phases = sum(n * abs(s) for n, s in zip(self.phases, self.phase_steps, strict=True))
        pixels = (phases + self._reach_of(array) for array in (self.pixels, *self.more))
        return max(image, *pixels, positions, self.pixel_count, self.terms)

    def _reach_of(self, array: Strides3) -> int:
        """The bytes that an array with an element for each window spans."""
        bytes = self.images * abs(array.batch) + self.groups * abs(array.group)
        bytes += self.rows * abs(array.channel)
        return bytes + sum(
            axis.pixels * abs(step) for axis, step in zip(self.axes, array.spatial, strict=True)
        )


# ---- arrays -------------------------------------------------------------------------------------


def weights_of(strides: Strides, shape: Shape, groups: int, flip: bool) -> Weights:
    """Weights (O, I / groups, *kernel) as lines of the outputs."""
    outputs, channels, *kernel = shape
    taps, tap_strides = _three(kernel, 1), _three(strides[2:], 0)
    offset = 0
    if flip:
        offset = sum((n - 1) * s for n, s in zip(taps, tap_strides, strict=True))
        tap_strides = _negative(tap_strides)
    return Weights(
        groups=groups,
        rows=outputs // groups,
        channels=channels,
        taps=taps,
        offset=offset,
        group_stride=strides[0] * (outputs // groups),
        row_stride=strides[0],
        channel_stride=strides[1],
        tap_strides=tap_strides,
    )


def _three(values: Sequence[int], fill: int) -> tuple[int, int, int]:
    a, b, c = (fill,) * (SPATIAL - len(values)) + tuple(values)
    return a, b, c


def _negative(numbers: tuple[int, int, int]) -> tuple[int, int, int]:
    return -numbers[0], -numbers[1], -numbers[2]


# ---- products -----------------------------------------------------------------------------------


def windows(
    x: tuple[Shape, Strides],
    y: Strides,
    axes: Sequence[Axis],
    weights: Weights,
    flip: bool = False,
) -> WindowProduct:
    """The windows of a convolution of x, with y or its gradient as pixels.

    Parameters
    ----------
    x : tuple
        Shape and strides of the image.
    y : tuple of int
        Strides of the array of pixels.
    flip : bool
        Whether taps are in order from the last one, which `weights` leaves as it is.
    """
    shape, strides = x
    return WindowProduct(
        images=shape[0],
        groups=weights.groups,
        channels=weights.channels,
        rows=weights.rows,
        axes=three_axes([_axis(a, flip) for a in axes]),
        image=Strides3.of(strides, weights.channels),
        pixels=Strides3.of(y, weights.rows),
    )


def _axis(axis: Axis, flip: bool) -> WindowAxis:
    tap, start = axis.dilation, -axis.low
    if flip:
        tap, start = -tap, start + (axis.kernel - 1) * tap
    return WindowAxis(axis.out, axis.kernel, axis.stride, tap, start, axis.size)


def three_axes(axes: Sequence[WindowAxis]) -> tuple[WindowAxis, WindowAxis, WindowAxis]:
    """Three axes, of which the first ones may be trivial."""
    a, b, c = (NO_AXIS,) * (SPATIAL - len(axes)) + tuple(axes)
    return a, b, c


def in_order_of_taps(product: WindowProduct, weights: Weights) -> tuple[WindowProduct, Weights]:
    """The same windows, with later taps at later elements; `weights.offset` is of the first tap."""
    axes: list[WindowAxis] = []
    steps, offset = list(weights.tap_strides), weights.offset
    for i, axis in enumerate(product.axes):
        last = max(axis.taps - 1, 0)
        if axis.tap < 0:
            offset += last * steps[i]
            steps[i] = -steps[i]
            axis = replace(axis, tap=-axis.tap, start=axis.start + last * axis.tap)
        axes.append(axis)
    return (
        replace(product, axes=(axes[0], axes[1], axes[2])),
        replace(weights, offset=offset, tap_strides=(steps[0], steps[1], steps[2])),
    )


@dataclass(frozen=True)
class Phase:
    """Those elements of an image whose windows have the same taps: every stride-th of each axis.

    Attributes
    ----------
    product : WindowProduct
        The pixels are elements of the gradient of the image, the image is the gradient of the
        convolution.
    offset : int
        Bytes to the first one of them.
    weights : Weights
        Those that they see, as lines of the channels of the image.
    more_offsets : tuple of int
        Bytes to the first element of further arrays.
    """

    product: WindowProduct
    offset: int
    weights: Weights
    more_offsets: tuple[int, ...] = ()


def phases(
    dx: tuple[Shape, Strides],
    dy: Strides,
    axes: Sequence[Axis],
    weights: Weights,
    forward: bool,
    more: Sequence[Strides] = (),
    ranges: Sequence[tuple[int, int]] = (),
) -> list[Phase]:
    """The gradient by the image, a product for each phase of the strides.

    Parameters
    ----------
    forward : bool
        Whether taps are in the order of the weights' memory. Else what they see is in order.
    more : sequence
        Strides of further arrays of the shape of the image.
    ranges : sequence of pair
        Along each axis, the first pixel of each phase and the end, if not all of them.

    No zero is multiplied but those of the padding: element i sees tap t of window o where
    ``o stride = i + low - t dilation``, so that for one remainder of i by the stride these are
    every ``stride / gcd(stride, dilation)``-th tap.
    """
    shape, strides = dx
    rank = len(axes)
    every_array = [Strides3.of(s, weights.channels) for s in (strides, *more)]
    found = []
    for remainders in every(*(range(min(a.stride, a.size)) for a in axes)):
        parts = [_phase(a, f, forward) for a, f in zip(axes, remainders, strict=True)]
        if ranges:
            parts = [(_cut(p[0], r), *p[1:]) for p, r in zip(parts, ranges, strict=True)]
            if any(part[0].pixels == 0 for part in parts):
                continue
        window_axes = three_axes([part[0] for part in parts])
        first = (0,) * (SPATIAL - rank) + tuple(part[1] for part in parts)
        every_tap = (1,) * (SPATIAL - rank) + tuple(part[2] for part in parts)
        taps = tuple(axis.taps for axis in window_axes)
        first_weight = weights.offset + sum(
            t * s for t, s in zip(first, weights.tap_strides, strict=True)
        )
        seen = Weights(
            groups=weights.groups,
            rows=weights.channels,
            channels=weights.rows,
            taps=(taps[0], taps[1], taps[2]),
            offset=first_weight,
            group_stride=weights.group_stride,
            row_stride=weights.channel_stride,
            channel_stride=weights.row_stride,
            tap_strides=_three(
                [n * s for n, s in zip(every_tap, weights.tap_strides, strict=True)], 0
            ),
        )
        steps = (1,) * (SPATIAL - rank) + tuple(a.stride for a in axes)
        firsts = [r[0] * a.stride for a, r in zip(axes, ranges, strict=False)] or [0] * rank
        begin = (0,) * (SPATIAL - rank) + tuple(map(sum, zip(remainders, firsts, strict=True)))
        own, *others = [
            replace(a, spatial=_three([n * s for n, s in zip(steps, a.spatial, strict=True)], 0))
            for a in every_array
        ]
        offset, *more_offsets = [
            sum(n * s for n, s in zip(begin, a.spatial, strict=True)) for a in every_array
        ]
        found.append(
            Phase(
                WindowProduct(
                    images=shape[0],
                    groups=weights.groups,
                    channels=weights.rows,
                    rows=weights.channels,
                    axes=window_axes,
                    image=Strides3.of(dy, weights.rows),
                    pixels=own,
                    more=tuple(others),
                ),
                offset,
                seen,
                tuple(more_offsets),
            )
        )
    return found


def _phase(axis: Axis, remainder: int, forward: bool) -> tuple[WindowAxis, int, int]:
    """Windows along an axis of a phase, its first tap, and from tap to tap."""
    common = gcd(axis.stride, axis.dilation)
    every_tap, back = axis.stride // common, axis.dilation // common
    pixels = -(-(axis.size - remainder) // axis.stride)
    position = remainder + axis.low
    if position % common:
        return WindowAxis(pixels, 0, 1, 1, 0, axis.out), 0, every_tap
    # t dilation = position modulo the stride.
    first = next(t for t in range(every_tap) if (position - t * axis.dilation) % axis.stride == 0)
    taps = max(-(-(axis.kernel - first) // every_tap), 0)
    # Later taps see elements before those of earlier ones.
    start = (position - first * axis.dilation) // axis.stride
    if forward or taps == 0:
        return WindowAxis(pixels, taps, 1, -back, start, axis.out), first, every_tap
    start -= back * (taps - 1)
    first += every_tap * (taps - 1)
    return WindowAxis(pixels, taps, 1, back, start, axis.out), first, -every_tap


def _cut(axis: WindowAxis, part: tuple[int, int]) -> WindowAxis:
    """Some of the windows along an axis."""
    first, end = part
    pixels = max(min(end, axis.pixels) - first, 0)
    return replace(axis, pixels=pixels, start=axis.start + first * axis.step)
