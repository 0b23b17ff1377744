"""Convolutions of any geometry for tests: what is called, and what must come out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from comparing import assert_close, wide
from hypothesis import strategies as st
from layouts import place
from strategies import layouts, numbers

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
