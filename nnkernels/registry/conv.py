"""Records of the convolutions."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from nnkernels.dispatch import conv as dispatch
from nnkernels.fusion.applied_pullback import differentiate
from nnkernels.fusion.inside import fused_of
from nnkernels.ops import conv as ops
from nnkernels.ops._activation import differentiable, is_function, resolve
from nnkernels.reference import conv as reference
from nnkernels.registry.record import COMPLEX, FLOATING, INTEGERS, Example, Op, Shape

Pullback = Callable[..., tuple[Any, ...]]


# ---- gradients ----------------------------------------------------------------------------------


def _conv(*arrays: Any, **options: Any) -> tuple[Any, Pullback]:
    """dx and dweight are those of the public functions, dbias the sum over images and space."""
    y, before = _before(ops.conv, arrays, options)
    x, weight = arrays[:2]

    def pullback(*cotangents: Any) -> tuple[Any, ...]:
        dz, gradients = before(*cotangents)
        own = dispatch.gradients(
            dz,
            x,
            weight,
            *arrays[2:],
            options=_given(options),
            algorithm=options.get("algorithm"),
        )
        return (*own, *gradients)

    return y, pullback


def _conv_transpose(*arrays: Any, **options: Any) -> tuple[Any, Pullback]:
    """The gradient by x is a convolution, that by the weights as of one with x and dy exchanged."""
    y, before = _before(ops.conv_transpose, arrays, options)
    x, weight = arrays[:2]
    kept = {key: value for key, value in options.items() if key != "output_padding"}

    def pullback(*cotangents: Any) -> tuple[Any, ...]:
        dz, gradients = before(*cotangents)
        own = dispatch.transposed_gradients(
            dz,
            x,
            weight,
            *arrays[2:],
            options=_given(kept),
            algorithm=kept.get("algorithm"),
        )
        return (*own, *gradients)

    return y, pullback


def _before(function: Any, arrays: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
    """The results, and what pulls cotangents back to before the epilogue.

    With the gradients of its operands. The options lose both.
    """
    epilogue, operands = options.pop("epilogue", None), tuple(options.pop("operands", ()))
    if is_function(epilogue, operands):
        return differentiate(
            lambda other: function(*arrays, epilogue=other, operands=operands, **options),
            arrays,
            ("x", "weight", "bias"),
            fused_of(epilogue),
            operands,
        )
    y, before = differentiable(
        lambda inside: function(*arrays, epilogue=inside, **options), resolve(epilogue, "epilogue")
    )
    return y, lambda dy: (before(dy), ())


def _given(options: dict[str, Any]) -> dispatch.Options:
    return (
        options.get("stride", 1),
        options.get("padding", 0),
        options.get("dilation", 1),
        options.get("groups", 1),
        options.get("flip", False),
    )


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
        gradient=_conv,
        flops=_flops,
        adjoint=("conv_backward_data", "conv_backward_weight"),
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
        gradient=_conv_transpose,
        flops=_spread_flops,
        adjoint=("conv", "conv_backward_weight"),
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
        flops=_weight_flops,
        number=("weight_shape", 2),
        gradient_of="conv",
    ),
)
