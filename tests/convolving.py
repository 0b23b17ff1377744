"""Convolutions of any geometry for tests: what is called, and what must come out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from comparing import assert_close, assert_same_bits, wide
from hypothesis import given
from hypothesis import strategies as st
from layouts import channels_last, place
from strategies import examples, layouts, make_numbers, numbers
from threads import same_on_any_threads

import nnkernels as nnk
from nnkernels import registry
from nnkernels.dispatch.dtypes import numpy_dtype
from nnkernels.dispatch.windows import Windows
from nnkernels.errors import ShapeError

FORWARD, TRANSPOSE = registry.find("conv"), registry.find("conv_transpose")
BY_DATA, BY_WEIGHT = registry.find("conv_backward_data"), registry.find("conv_backward_weight")
# A result must not be so large that its reference takes long.
MOST = 3000


@dataclass
class Geometry:
    """Shapes and options of a convolution that exists."""

    x: tuple[int, ...]
    weight: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def axes(self) -> Any:
        own = [self.options.get(name, value) for name, value in _DEFAULTS]
        rank = len(self.x) - 2
        return Windows.checked(rank, self.weight[2:], *own).axes(self.x[2:])

    @property
    def y(self) -> tuple[int, ...]:
        return (self.x[0], self.weight[0], *(axis.out for axis in self.axes))

    @property
    def terms(self) -> int:
        return max(int(np.prod(self.weight[1:])), 1)


_DEFAULTS = (("stride", 1), ("padding", 0), ("dilation", 1))


@st.composite
def geometries(
    draw,
    ranks=(1, 2, 2, 3),
    all_channels=(1, 1, 2, 3, 5, 8, 17),
    all_outputs=(1, 2, 3, 7, 13, 20),
):
    """Any rank, stride, dilation, groups and padding, larger than the window included."""
    rank = draw(st.sampled_from(ranks))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    channels = draw(st.sampled_from(all_channels))
    outputs = draw(st.sampled_from(all_outputs))
    images = draw(st.sampled_from([0, 1, 1, 2, 3]))
    most = {1: 70, 2: 13, 3: 6}[rank]
    kernel = [draw(st.integers(1, 4 if rank < 3 else 3)) for _ in range(rank)]
    stride = [draw(st.sampled_from([1, 1, 2, 3])) for _ in range(rank)]
    dilation = [draw(st.sampled_from([1, 1, 2, 3])) for _ in range(rank)]
    spatial = [draw(st.integers(1, most)) for _ in range(rank)]
    padding = draw(
        st.one_of(
            st.sampled_from(["same", "same", "same_lower"]),
            st.integers(0, 4),
            st.lists(
                st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=rank, max_size=rank
            ).map(tuple),
        )
    )
    options = {
        "stride": _same(stride),
        "padding": padding,
        "dilation": _same(dilation),
        "groups": groups,
        "flip": draw(st.booleans()),
    }
    found = Geometry(
        (images, channels * groups, *spatial), (outputs * groups, channels, *kernel), options
    )
    try:
        size = np.prod(found.y)
    except ShapeError:  # the window does not fit
        options["padding"] = "same"
        size = np.prod(found.y)
    if size > MOST:
        found.weight = (groups, *found.weight[1:])
    return found


def _same(values: list[int]) -> Any:
    """One number where all are the same, as users write it."""
    return values[0] if len(set(values)) == 1 else tuple(values)


@st.composite
def operands(draw, shape, dtype, backend, channels_last):
    """An array in any layout, or (every second) the usual ones."""
    values = draw(numbers(shape, dtype, kinds=("ordinary",)))
    if draw(st.booleans()):
        layout = draw(layouts(shape, numpy_dtype(dtype).itemsize, byte_shifts=backend.is_cpu))
        return place(values, layout).view
    if channels_last and len(shape) > 2:
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(values, 1, -1)), -1, 1)
    return values


def assert_right(
    op: Any, arrays: list[Any], options: dict[str, Any], result: Any, terms: int, what: str = ""
) -> None:
    """Raise unless a result is that of the reference, within roundings of its terms."""
    expected = op.reference(*arrays, **options)
    magnitudes = [None if a is None else np.abs(wide(a)) for a in arrays]
    with np.errstate(all="ignore"):
        sizes = op.reference(*magnitudes, **{k: v for k, v in options.items() if k != "epilogue"})
    assert_close(result, expected, terms + 1, np.abs(sizes), f"{op.name}{what} {options}")


def image_and_pixels(geometry: Geometry, dtype: str = "float32") -> list[np.ndarray]:
    """Arrays of ordinary numbers: the gradient of a result, and the image."""
    rng = np.random.default_rng(0)
    return [make_numbers(rng, shape, dtype) for shape in (geometry.y, geometry.x)]


WEIGHT_DTYPES = ("float32", "float32", "float64", "float16", "int8")


@st.composite
def _weight_cases(draw, backend, channels, outputs):
    geometry = draw(geometries(all_channels=channels, all_outputs=outputs))
    dtype, last = draw(st.sampled_from(WEIGHT_DTYPES)), draw(st.booleans())
    arrays = [draw(operands(shape, dtype, backend, last)) for shape in (geometry.y, geometry.x)]
    return geometry, *arrays


def check_gradients_by_weights(backend, channels, outputs):
    """Compare gradients of any geometry, of some channels and outputs, with the reference."""

    @examples(0.7)
    @given(_weight_cases(backend, channels, outputs))
    def right(case):
        geometry, dy, x = case
        dw = nnk.conv_backward_weight(dy, x, geometry.weight, **geometry.options)
        if not backend.recording:
            assert_right_weights(geometry, dy, x, dw)

    backend.precompiled(right)


def assert_right_weights(geometry: Geometry, dy: Any, x: Any, dw: Any) -> None:
    """Compare a gradient by weights with the reference."""
    pixels = max(int(np.prod(geometry.y)) // geometry.weight[0], 1)
    options = {**geometry.options, "weight_shape": geometry.weight}
    assert_right(BY_WEIGHT, [dy, x], options, dw, pixels)


def same_bits_in_any_memory_order(geometry: Geometry) -> tuple[Any, Any]:
    """A gradient by weights, the same on any number of threads and of views of any strides, and
    what makes it again.
    """
    dy, x = image_and_pixels(geometry)

    def gradient(dy: Any = dy, x: Any = x) -> Any:
        return nnk.conv_backward_weight(dy, x, geometry.weight, **geometry.options)

    one = same_on_any_threads(gradient)
    strided = [np.repeat(np.repeat(a, 2, -1), 2, 1)[:, ::2, ..., ::2] for a in (dy, x)]
    for other in ([channels_last(dy), channels_last(x)], [dy, channels_last(x)], strided):
        assert_same_bits(one, gradient(*other), "another order in memory")
    reversed_x = x[..., ::-1].copy()[..., ::-1]
    assert_same_bits(one, gradient(dy, reversed_x), "reversed rows")
    return one, gradient
