"""Padding, windows, resampling and their gradients as geometries for `gathers`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from nnkernels.dispatch import axis_maps
from nnkernels.dispatch.axes import Shape
from nnkernels.dispatch.axis_maps import AxisMap
from nnkernels.dispatch.gathers import Geometry, Mapped
from nnkernels.dispatch.windows import Axis, Windows
from nnkernels.errors import ShapeError

Widths = tuple[tuple[int, int], ...]

# dtypes of what only moves elements, and of what adds them up.
_ALL, _SUMS = "fciu", "fc"


def _whole(shape: Sequence[int]) -> tuple[Shape, ...]:
    """Axes that are not split."""
    return tuple((int(n),) for n in shape)


def _axis_by_axis(shape: Shape, maps: dict[int, AxisMap]) -> Geometry:
    """A result of as many axes: some are mapped, the others copied."""
    sizes = tuple(maps[a].outputs[0] if a in maps else n for a, n in enumerate(shape))
    return Geometry(
        sizes,
        _whole(shape),
        _whole(sizes),
        tuple((a, a) for a in range(len(shape)) if a not in maps),
        tuple(Mapped(m, (a,), (a,)) for a, m in sorted(maps.items())),
    )


# ---- padding ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pad:
    """`pad`: (low, high) for each axis. The sign tells values 0 and -0 apart."""

    widths: Widths
    mode: str
    value: complex
    sign: float = 1.0
    name: str = "x"
    kinds: str = _ALL

    def geometry(self, shape: Shape) -> Geometry:
        """Of x."""
        return _axis_by_axis(shape, pad_maps(shape, self.widths, self.mode))


@dataclass(frozen=True)
class PadBackward:
    """`pad_backward`: every element takes what its copies give."""

    widths: Widths
    mode: str
    name: str = "dy"
    kinds: str = _SUMS
    value: int = 0

    def geometry(self, shape: Shape) -> Geometry:
        """Of dy."""
        sizes = []
        for axis, (n, (low, high)) in enumerate(zip(shape, self.widths, strict=True)):
            if n < low + high:
                raise ShapeError(
                    f"dy has shape {shape}: axis {axis} of {n} elements has no room for padding "
                    f"{low} + {high} = {low + high}"
                )
            sizes.append(n - low - high)
        maps = pad_maps(tuple(sizes), self.widths, self.mode)
        return _axis_by_axis(shape, {a: m.transposed() for a, m in maps.items()})


def pad_maps(shape: Shape, widths: Widths, mode: str) -> dict[int, AxisMap]:
    """The maps of the axes that are padded.

    Raises
    ------
    ShapeError
        If an axis has too few elements for its mode.
    """
    least = 1 if mode != "reflect" else 2
    found = {}
    for axis, (n, (low, high)) in enumerate(zip(shape, widths, strict=True)):
        if low == high == 0:
            continue
        if mode != "constant" and n < least:
            raise ShapeError(
                f"x has shape {shape}: axis {axis} has {n} elements, and mode {mode!r} needs at "
                f"least {least} to pad from"
            )
        found[axis] = axis_maps.padding(n, low, high, mode)
    return found


# ---- windows ------------------------------------------------------------------------------------


def _patch_axes(n: int, c: int, axes: Sequence[Axis]) -> tuple[Shape, ...]:
    """Axes of (N, C * prod(kernel), windows), split."""
    return (n,), (c, *(a.kernel for a in axes)), tuple(a.out for a in axes)


@dataclass(frozen=True)
class Unfold:
    """`unfold`: of each window its taps, in columns."""

    windows: Windows
    name: str = "x"
    kinds: str = _ALL
    value: int = 0

    def geometry(self, shape: Shape) -> Geometry:
        """Of x, (N, C, *spatial)."""
        n, c, *sizes = shape
        axes, rank = self.windows.axes(sizes), len(sizes)
        return Geometry(
            (n, c * prod(a.kernel for a in axes), prod(a.out for a in axes)),
            _whole(shape),
            _patch_axes(n, c, axes),
            ((0, 0), (1, 1)),
            tuple(
                Mapped(axis_maps.windows(a), (2 + i,), (2 + i, 2 + rank + i))
                for i, a in enumerate(axes)
            ),
            keeps_order=False,
        )


@dataclass(frozen=True)
class Fold:
    """`fold`: every element takes the sum of what windows have of it."""

    sizes: Shape
    windows: Windows
    name: str = "cols"
    kinds: str = _ALL
    value: int = 0

    def geometry(self, shape: Shape) -> Geometry:
        """Of the columns, (N, C * prod(kernel), windows)."""
        axes, rank = self.windows.axes(self.sizes, "the folded image"), len(self.sizes)
        n, rows, columns = shape
        taps, positions = prod(a.kernel for a in axes), prod(a.out for a in axes)
        if columns != positions:
            each = "; ".join(
                f"({a.size} + {a.low} + {a.high} - (({a.kernel} - 1) * {a.dilation} + 1)) // "
                f"{a.stride} + 1 = {a.out}"
                for a in axes
            )
            product = " * ".join(str(a.out) for a in axes)
            raise ShapeError(
                f"cols has shape {shape} with {columns} columns; output_size {self.sizes} has "
                f"{product} = {positions} windows: {each}"
            )
        if rows % taps:
            product = " * ".join(str(a.kernel) for a in axes)
            raise ShapeError(
                f"cols has shape {shape}: its axis 1 of {rows} must be a multiple of the "
                f"{product} = {taps} taps of a window"
            )
        c = rows // taps
        return Geometry(
            (n, c, *self.sizes),
            _patch_axes(n, c, axes),
            _whole((n, c, *self.sizes)),
            ((0, 0), (1, 1)),
            tuple(
                Mapped(axis_maps.windows(a).transposed(), (2 + i, 2 + rank + i), (2 + i,))
                for i, a in enumerate(axes)
            ),
            keeps_order=False,
        )


# ---- pixels and channels ------------------------------------------------------------------------


@dataclass(frozen=True)
class PixelShuffle:
    """`pixel_shuffle`: factor^2 channels become squares of pixels."""

    factor: int
    name: str = "x"
    kinds: str = _ALL
    value: int = 0

    def geometry(self, shape: Shape) -> Geometry:
        """Of x, (..., C factor^2, H, W)."""
        *leading, channels, height, width = shape
        r, k = self.factor, len(shape) - 3
        if channels % (r * r):
            raise ShapeError(
                f"x has shape {shape}: its {channels} channels (axis {k}) must be a multiple of "
                f"factor^2 = {r * r}"
            )
        return _squares(leading, channels // (r * r), height, width, r)


@dataclass(frozen=True)
class PixelUnshuffle:
    """`pixel_unshuffle`: squares of pixels become factor^2 channels."""

    factor: int
    name: str = "x"
    kinds: str = _ALL
    value: int = 0

    def geometry(self, shape: Shape) -> Geometry:
        """Of x, (..., C, H factor, W factor)."""
        *leading, c, height, width = shape
        r = self.factor
        if height % r or width % r:
            raise ShapeError(
                f"x has shape {shape}: its height {height} and width {width} must be multiples of "
                f"factor {r}"
            )
        return _inverse(_squares(leading, c, height // r, width // r, r))


def _squares(leading: Sequence[int], c: int, height: int, width: int, r: int) -> Geometry:
    """From c r^2 channels of height x width to squares of r x r pixels.

    Squares by rows and columns: (c, r1, r2), h, w to c, (h, r1), (w, r2).
    """
    k = len(leading)
    return Geometry(
        (*leading, c, height * r, width * r),
        (*_whole(leading), (c, r, r), (height,), (width,)),
        (*_whole(leading), (c,), (height, r), (width, r)),
        (*((a, a) for a in range(k)), (k, k), (k + 1, k + 2), (k + 2, k + 4)),
        (
            Mapped(_joined(height), (k + 3,), (k + 1,)),
            Mapped(_joined(width), (k + 4,), (k + 3,)),
        ),
    )


def _inverse(geometry: Geometry) -> Geometry:
    """The same between x and the result the other way round, of identities alone."""
    return Geometry(
        tuple(prod(split) for split in geometry.ins),
        geometry.outs,
        geometry.ins,
        tuple((b, a) for a, b in geometry.plain),
        tuple(Mapped(m.map, m.outs, m.ins) for m in geometry.mapped),
    )


def _joined(size: int) -> AxisMap:
    return axis_maps.identity(size)


# ---- resampling ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interpolate:
    """`interpolate`: the spatial axes at other sizes."""

    sizes: Shape
    scales: tuple[float | None, ...]
    mode: str
    align_corners: bool
    name: str = "x"
    kinds: str = _ALL
    value: int = 0

    def geometry(self, shape: Shape) -> Geometry:
        """Of x, (N, C, *spatial)."""
        return _axis_by_axis(shape, self.maps(shape[2:]))

    def maps(self, sizes: Shape) -> dict[int, AxisMap]:
        """The map of every spatial axis."""
        return {
            2 + i: axis_maps.resampling(self.mode, size, out, scale, self.align_corners)
            for i, (size, out, scale) in enumerate(zip(sizes, self.sizes, self.scales, strict=True))
        }


@dataclass(frozen=True)
class InterpolateBackward:
    """`interpolate_backward`: every element takes what it has given, by the same weights."""

    x_shape: Shape
    forward: Interpolate
    name: str = "dy"
    kinds: str = _SUMS
    value: int = 0

    def geometry(self, shape: Shape) -> Geometry:
        """Of dy."""
        wanted = (*self.x_shape[:2], *self.forward.sizes)
        if shape != wanted:
            raise ShapeError(
                f"dy has shape {shape}; the result of interpolate for x_shape {self.x_shape} has "
                f"shape {wanted}"
            )
        maps = self.forward.maps(self.x_shape[2:])
        return _axis_by_axis(shape, {a: m.transposed() for a, m in maps.items()})


def kinds_of(mode: str) -> str:
    """dtypes of `interpolate` in a mode: any where elements are only moved."""
    return _ALL if mode == "nearest" else "f"
