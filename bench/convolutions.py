"""What is timed of convolutions: options, and the shapes of arguments.

The shape of a problem is that of the image x, (N, C, *spatial); its case says the rest in words:
outputs, kernel, stride and groups, such as "64 3x3", "128 3x3/2" or "32 3x3 g32". Padding is half
the kernel, so that stride 1 keeps the size of an image.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from nnkernels.dispatch.windows import Windows, out_shape

Shape = tuple[int, ...]

DEFAULT = "64 3"
_CASE = re.compile(r"([1-9]\d*) ([1-9]\d*(?:x[1-9]\d*)*)(?:/([1-9]\d*))?(?: g([1-9]\d*))?")
_SOME = 16  # outputs or channels of a result that are compared with the reference


@dataclass(frozen=True)
class Case:
    """A convolution of images of some rank; of a transposed one, that which is transposed."""

    outputs: int
    kernel: Shape
    stride: int
    groups: int

    @classmethod
    def of(cls, text: str, rank: int) -> Case:
        """The case in words, for so many spatial axes; ValueError if it is none."""
        found = _CASE.fullmatch(text or DEFAULT)
        if found is None:
            raise ValueError(
                f"{text!r} is no case; write OUTPUTS KERNEL/STRIDE gGROUPS, as '64 3x3/2'"
            )
        outputs, kernel, stride, groups = found.groups()
        sides = tuple(map(int, kernel.split("x")))
        if len(sides) == 1:
            sides *= rank
        if len(sides) != rank:
            raise ValueError(f"the kernel {kernel} is not one of {rank} axes")
        return cls(int(outputs), sides, int(stride or 1), int(groups or 1))

    @property
    def padding(self) -> tuple[int, ...]:
        return tuple(n // 2 for n in self.kernel)

    def weight(self, op: str, channels: int) -> Shape:
        if op.startswith("conv_transpose"):
            return (channels, self.outputs // self.groups, *self.kernel)
        return (self.outputs, channels // self.groups, *self.kernel)

    def result(self, shape: Shape) -> Shape:
        windows = Windows.checked(len(self.kernel), self.kernel, self.stride, self.padding, 1)
        return (shape[0], self.outputs, *out_shape(windows.axes(shape[2:])))

    def transposed(self, shape: Shape) -> Shape:
        sides = zip(shape[2:], self.kernel, self.padding, strict=True)
        return (
            shape[0],
            self.outputs,
            *((n - 1) * self.stride - 2 * pad + k for n, k, pad in sides),
        )


def options(op: str, shape: Shape, case: str) -> dict[str, Any]:
    """Options of a call."""
    wanted = Case.of(case, len(shape) - 2)
    chosen: dict[str, Any] = {
        "stride": wanted.stride,
        "padding": wanted.padding,
        "groups": wanted.groups,
    }
    if op == "conv_backward_data":
        chosen["x_shape"] = shape
    elif op == "conv_backward_weight":
        chosen["weight_shape"] = wanted.weight(op, shape[1])
    return chosen


def operand_shapes(op: str, shape: Shape, case: str) -> tuple[Shape, ...]:
    """The shape of each array argument."""
    wanted = Case.of(case, len(shape) - 2)
    weight = wanted.weight(op, shape[1])
    if op == "conv_backward_data":
        return wanted.result(shape), weight
    if op == "conv_backward_weight":
        return wanted.result(shape), shape
    forward = shape, weight, (wanted.outputs,)
    if op == "conv_backward":
        return wanted.result(shape), *forward
    if op == "conv_transpose_backward":
        return wanted.transposed(shape), *forward
    return forward


def obstacle(op: str, shape: Shape, case: str) -> str:
    """Why a problem cannot be timed, or nothing."""
    if not 3 <= len(shape) <= 5:
        return f"{op}: the shape is that of an image, NxCxHxW or the like, not {shape}"
    try:
        wanted = Case.of(case, len(shape) - 2)
    except ValueError as error:
        return f"{op}: {error}"
    if shape[1] % wanted.groups or wanted.outputs % wanted.groups:
        return f"{op}: {wanted.groups} groups do not divide {shape[1]} channels and {case}"
    return ""


def terms(op: str, shape: Shape, case: str) -> int:
    """The most products that an element of the result sums up."""
    wanted = Case.of(case, len(shape) - 2)
    if op in ("conv_backward_weight", "conv_backward"):
        return prod(wanted.result(shape)) // wanted.outputs
    if op == "conv_transpose_backward":
        return prod(wanted.transposed(shape)) // wanted.outputs
    channels = shape[1] if op in ("conv", "conv_transpose") else wanted.outputs
    return channels // wanted.groups * prod(wanted.kernel)


def sample(
    op: str, operands: list[np.ndarray], options: dict[str, Any]
) -> tuple[Any, list[np.ndarray], dict[str, Any]]:
    """The part of a result that is compared with the reference, which takes some seconds for all.

    That is the first and the last image, and of a convolution without groups both ends of its
    outputs, or channels, and some between; of all gradients together, everything.

    Returns
    -------
    tuple
        Index of the part, operands and options of the call that computes it.
    """
    if op.endswith("_backward"):
        return ..., operands, options
    left, right, *bias = operands
    few: Any = slice(None)
    options = dict(options)
    if op == "conv_backward_weight":
        if options["groups"] == 1:
            few = _some(left.shape[1])
            left = left[:, few]
            options["weight_shape"] = (left.shape[1], *options["weight_shape"][1:])
        return few, [left, right], options
    ends = slice(None, None, max(len(left) - 1, 1))
    left = left[ends]
    if options["groups"] == 1:
        axis = 0 if op == "conv" else 1
        few = _some(right.shape[axis])
        right = np.take(right, few, axis)
        bias = [x[few] for x in bias]
    if "x_shape" in options:
        sizes = options["x_shape"][2:]
        channels = right.shape[1] * options["groups"]
        options["x_shape"] = (len(left), channels, *sizes)
    return (ends, few), [left, right, *bias], options


def _some(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, _SOME).round().astype(int))
