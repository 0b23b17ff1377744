"""Records of the convolutions."""

from __future__ import annotations

from math import prod
from typing import Any

from nnkernels.ops import conv as ops
from nnkernels.reference import conv as reference
from nnkernels.registry.record import COMPLEX, FLOATING, INTEGERS, Example, Op, Shape
from nnkernels.registry.rule import Call, Gradients, Rule
from nnkernels.registry.rules import of_product_gradient, selective

# ---- gradients ----------------------------------------------------------------------------------

_OWN = ("stride", "padding", "dilation", "groups", "flip", "algorithm", "precision")


def _no_channels(x: Any, weight: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    return x[:, :0], weight[:, :0]


def _no_channels_transposed(x: Any, weight: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    return x[:, :0], weight[:0]


def _pull_data(functions: Any, call: Call, v: Any) -> Gradients:
    """By dy the convolution of v, by the weights as of one of v."""
    dy, weight = call.arrays
    _, options = call.option("x_shape")
    ddy = functions.conv(v, weight, **options) if call.wanted[0] else None
    if not call.wanted[1]:
        return ddy, None
    options.pop("algorithm", None)
    return ddy, functions.conv_backward_weight(dy, v, call.shapes[1], **options)


def _pull_weight(functions: Any, call: Call, v: Any) -> Gradients:
    """By dy the convolution with weights v, by x as of one with them."""
    dy, x = call.arrays
    _, options = call.option("weight_shape")
    ddy = functions.conv(x, v, **options) if call.wanted[0] else None
    if not call.wanted[1]:
        return ddy, None
    return ddy, functions.conv_backward_data(dy, v, call.shapes[1], **options)


# ---- work ---------------------------------------------------------------------------------------


def _flops(shapes: tuple[Shape, ...], options: dict[str, Any]) -> float:
    """Two for each window, output, channel and tap."""
    x, weight = shapes[:2]
    axes = reference.axes_of(x, weight, options)
    return 2.0 * x[0] * prod(weight) * prod(axis.out for axis in axes)


def _spread_flops(shapes: tuple[Shape, ...], options: dict[str, Any]) -> float:
    """Two for each element of the first array and weight that it is multiplied by."""
    return 2.0 * prod(shapes[0]) * prod(shapes[1][1:])


def _weight_flops(shapes: tuple[Shape, ...], options: dict[str, Any]) -> float:
    return 2.0 * prod(shapes[0]) * prod(options["weight_shape"][1:])


def _both_flops(shapes: tuple[Shape, ...], options: dict[str, Any]) -> float:
    """Of two gradients, each as the convolution."""
    return 4.0 * prod(shapes[0]) * prod(shapes[2][1:])


def _both_flops_transposed(shapes: tuple[Shape, ...], options: dict[str, Any]) -> float:
    return 4.0 * prod(shapes[1]) * prod(shapes[2][1:])


# ---- records ------------------------------------------------------------------------------------

_STRIDED = {"stride": (2, 1), "padding": ((1, 0), (0, 2)), "dilation": (1, 2), "groups": 2}

OPS: tuple[Op, ...] = (
    Op(
        name="conv",
        family="conv",
        function=ops.conv,
        reference=reference.conv,
        arrays=("x", "weight", "bias"),
        dtypes=FLOATING + COMPLEX + INTEGERS,
        examples=(
            Example(((2, 8, 12, 12), (16, 8, 3, 3), (16,)), {"padding": 1}),
            Example(((2, 4, 9, 10), (6, 2, 2, 3), (6,)), _STRIDED),
            Example(((1, 3, 20), (5, 3, 7), (5,)), {"padding": "same", "flip": True}),
        ),
        gradient=selective("conv_backward", ("x", "weight", "bias"), _OWN),
        flops=_flops,
        fused="epilogue",
        functions="sums",
        adjoint=("conv_backward_data", "conv_backward_weight", "conv_backward"),
    ),
    Op(
        name="conv_transpose",
        family="conv",
        function=ops.conv_transpose,
        reference=reference.conv_transpose,
        arrays=("x", "weight", "bias"),
        dtypes=FLOATING + COMPLEX + INTEGERS,
        examples=(
            Example(((2, 8, 6, 6), (8, 4, 4, 4), (4,)), {"stride": 2, "padding": 1}),
            Example(((1, 4, 5), (4, 3, 3), (6,)), {"stride": 3, "output_padding": 1, "groups": 2}),
        ),
        gradient=selective(
            "conv_transpose_backward", ("x", "weight", "bias"), (*_OWN, "output_padding")
        ),
        flops=_spread_flops,
        fused="epilogue",
        functions="sums",
    ),
    Op(
        name="conv_backward_data",
        family="conv",
        function=ops.conv_backward_data,
        reference=reference.conv_backward_data,
        arrays=("dy", "weight"),
        dtypes=FLOATING + COMPLEX,
        examples=(
            Example(((2, 16, 12, 12), (16, 8, 3, 3)), {"x_shape": (2, 8, 12, 12), "padding": 1}),
            Example(((2, 6, 5, 8), (6, 2, 2, 3)), {"x_shape": (2, 4, 9, 10), **_STRIDED}),
        ),
        gradient=Rule(_pull_data, keeps=("dy", "weight")),
        flops=_spread_flops,
        number=("x_shape", 2),
        gradient_of="conv",
    ),
    Op(
        name="conv_backward_weight",
        family="conv",
        function=ops.conv_backward_weight,
        reference=reference.conv_backward_weight,
        arrays=("dy", "x"),
        dtypes=FLOATING + COMPLEX,
        examples=(
            Example(
                ((2, 16, 12, 12), (2, 8, 12, 12)), {"weight_shape": (16, 8, 3, 3), "padding": 1}
            ),
            Example(((2, 6, 5, 8), (2, 4, 9, 10)), {"weight_shape": (6, 2, 2, 3), **_STRIDED}),
        ),
        gradient=Rule(_pull_weight, keeps=("dy", "x")),
        flops=_weight_flops,
        number=("weight_shape", 2),
        gradient_of="conv",
    ),
    Op(
        name="conv_backward",
        family="conv",
        function=ops.conv_backward,
        reference=reference.conv_backward,
        arrays=("dy", "x", "weight", "bias"),
        dtypes=FLOATING + COMPLEX,
        examples=(
            Example(((2, 16, 12, 12), (2, 8, 12, 12), (16, 8, 3, 3), (16,)), {"padding": 1}),
            Example(((2, 6, 5, 8), (2, 4, 9, 10), (6, 2, 2, 3), (6,)), _STRIDED),
        ),
        gradient=of_product_gradient("conv", ("dy", "x", "weight"), _OWN, _no_channels),
        flops=_both_flops,
        outputs=3,
    ),
    Op(
        name="conv_transpose_backward",
        family="conv",
        function=ops.conv_transpose_backward,
        reference=reference.conv_transpose_backward,
        arrays=("dy", "x", "weight", "bias"),
        dtypes=FLOATING + COMPLEX,
        examples=(
            Example(
                ((2, 4, 12, 12), (2, 8, 6, 6), (8, 4, 4, 4), (4,)), {"stride": 2, "padding": 1}
            ),
            Example(
                ((1, 6, 16), (1, 4, 5), (4, 3, 3), (6,)),
                {"stride": 3, "output_padding": 1, "groups": 2},
            ),
        ),
        gradient=of_product_gradient(
            "conv_transpose",
            ("dy", "x", "weight"),
            (*_OWN, "output_padding"),
            _no_channels_transposed,
        ),
        flops=_both_flops_transposed,
        outputs=3,
    ),
)
