"""Records of the activation functions, the gated linear units and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from nnkernels.ops import activations, activations_backward, gated
from nnkernels.reference import elementwise as reference
from nnkernels.registry import second_derivatives
from nnkernels.registry.record import COMPLEX, FLOATING, INTEGERS, Example, Op, Shape
from nnkernels.registry.rule import Rule
from nnkernels.registry.rules import from_operands, from_result

SHAPE = (64, 250)
SMALL = (5, 3, 7)


# ---- records -------------------------------------------------------------------------------


def _per_element(operations: float) -> Callable[[tuple[Shape, ...], dict[str, Any]], float]:
    """``flops``: so many operations for each element of the first array."""
    return lambda shapes, options: operations * prod(shapes[0])


def _unary(
    name: str,
    operations: tuple[int, int],
    *options: dict[str, Any],
    dtypes: tuple[str, ...] = FLOATING,
    residual: str = "x",
) -> tuple[Op, Op]:
    """Records of an activation and of its gradient.

    Parameters
    ----------
    name : str
        Of the activation.
    operations : tuple of int
        Operations for each element, of the function and of its gradient: one for each
        addition, multiplication, division, comparison, minimum or selection, ten for exp, log,
        tanh or erf.
    *options : dict
        Calls worth an example, beside the one without options.
    dtypes : tuple of str
        Those of the function; the gradient has no integers.
    residual : {"x", "y"}
        What the gradient takes: the operand or the result.
    """
    function = getattr(activations, name)
    backward = getattr(activations_backward, f"{name}_backward")
    rule = from_result(f"{name}_backward")
    if residual == "x":
        rule = from_operands(f"{name}_backward", "x")
    calls = [(SHAPE, {}), *((SMALL, choice) for choice in options)]
    return (
        Op(
            name=name,
            family="elementwise",
            function=function,
            reference=getattr(reference, name),
            arrays=("x",),
            dtypes=dtypes,
            examples=tuple(Example((shape,), choice) for shape, choice in calls),
            gradient=rule,
            flops=_per_element(operations[0]),
        ),
        Op(
            name=f"{name}_backward",
            family="elementwise",
            function=backward,
            reference=getattr(reference, f"{name}_backward"),
            arrays=("dy", residual),
            gradient=second_derivatives.of_activation_gradient(name, residual),
            dtypes=tuple(dtype for dtype in dtypes if dtype not in INTEGERS),
            examples=tuple(Example((shape, shape), choice) for shape, choice in calls),
            flops=_per_element(operations[1]),
        ),
    )


def _prelu() -> tuple[Op, Op]:
    calls = [(SMALL, (3,), {}), (SHAPE, (), {}), (SMALL, (1,), {}), (SMALL, (7,), {"axis": -1})]
    function, backward = activations.prelu, activations_backward.prelu_backward
    return (
        Op(
            name="prelu",
            family="elementwise",
            function=function,
            reference=reference.prelu,
            arrays=("x", "weight"),
            dtypes=FLOATING,
            examples=tuple(Example((x, weight), choice) for x, weight, choice in calls),
            gradient=from_operands("prelu_backward", "x", "weight"),
            flops=_per_element(3),
        ),
        Op(
            name="prelu_backward",
            family="elementwise",
            function=backward,
            reference=reference.prelu_backward,
            arrays=("dy", "x", "weight"),
            dtypes=FLOATING,
            examples=tuple(Example((x, x, weight), choice) for x, weight, choice in calls),
            gradient=second_derivatives.OF_PRELU,
            flops=_per_element(6),
            outputs=2,
        ),
    )


def _glu() -> tuple[Op, Op]:
    # The shape of the result and that of the operand.
    calls = [((64, 125), SHAPE, {}), ((5, 2, 7), (5, 4, 7), {"axis": 1})]
    function, backward = gated.glu, gated.glu_backward
    return (
        Op(
            name="glu",
            family="elementwise",
            function=function,
            reference=reference.glu,
            arrays=("x",),
            dtypes=FLOATING,
            examples=tuple(Example((x,), choice) for _, x, choice in calls),
            gradient=from_operands("glu_backward", "x"),
            flops=_per_element(7),
        ),
        Op(
            name="glu_backward",
            family="elementwise",
            function=backward,
            reference=reference.glu_backward,
            arrays=("dy", "x"),
            dtypes=FLOATING,
            examples=tuple(Example((y, x), choice) for y, x, choice in calls),
            gradient=second_derivatives.OF_GLU,
            flops=_per_element(22),
        ),
    )


def _gated(name: str, operations: tuple[int, int], second: Rule) -> tuple[Op, Op]:
    """Records of x times an activation of a gate, and of its gradients."""
    function, backward = getattr(gated, name), getattr(gated, f"{name}_backward")
    pairs = [(SHAPE, SHAPE), (SMALL, (3, 1))]
    return (
        Op(
            name=name,
            family="elementwise",
            function=function,
            reference=getattr(reference, name),
            arrays=("x", "gate"),
            dtypes=FLOATING,
            examples=tuple(Example(pair) for pair in pairs),
            gradient=from_operands(f"{name}_backward", "x", "gate"),
            flops=lambda shapes, options: operations[0] * prod(np.broadcast_shapes(*shapes)),
        ),
        Op(
            name=f"{name}_backward",
            family="elementwise",
            function=backward,
            reference=getattr(reference, f"{name}_backward"),
            arrays=("dy", "x", "gate"),
            dtypes=FLOATING,
            examples=tuple(Example((np.broadcast_shapes(*pair), *pair)) for pair in pairs),
            gradient=second,
            flops=_per_element(operations[1]),
            outputs=2,
        ),
    )


OPS: tuple[Op, ...] = (
    *_unary("relu", (1, 2), dtypes=FLOATING + INTEGERS, residual="y"),
    *_unary("relu6", (2, 4), dtypes=FLOATING + INTEGERS, residual="y"),
    *_unary("leaky_relu", (3, 3), {"negative_slope": 0.25}),
    *_prelu(),
    *_unary("threshold_relu", (2, 2), {"theta": -0.25}),
    *_unary("elu", (13, 14), {"alpha": 0.5}),
    *_unary("celu", (14, 14), {"alpha": 0.5}),
    *_unary("selu", (14, 14)),
    *_unary("sigmoid", (13, 3), dtypes=FLOATING + COMPLEX, residual="y"),
    *_unary("log_sigmoid", (25, 14)),
    *_unary("hard_sigmoid", (4, 5), {"alpha": 0.25, "beta": 0.25}, {"alpha": -0.25}),
    *_unary("softplus", (28, 15), {"beta": 2.0}),
    *_unary("tanh", (10, 4), dtypes=FLOATING + COMPLEX, residual="y"),
    *_unary("hard_tanh", (2, 5), {"min": 0.0, "max": 2.0}, dtypes=FLOATING + INTEGERS),
    *_unary("tanh_shrink", (11, 12), dtypes=FLOATING + COMPLEX),
    *_unary("lisht", (11, 33)),
    *_unary("log_cosh", (32, 11)),
    *_unary("softsign", (5, 5)),
    *_unary("silu", (18, 27), {"beta": 2.0}, {"beta": -1.0}, dtypes=FLOATING + COMPLEX),
    *_unary("gelu", (14, 30), {"approximate": "tanh"}, {"approximate": "sigmoid"}),
    *_unary("mish", (17, 24)),
    *_unary("hard_swish", (6, 7)),
    *_unary("soft_shrink", (3, 3), {"lambd": 0.25}),
    *_unary("hard_shrink", (3, 3), {"lambd": 0.25}),
    *_glu(),
    *_gated("swiglu", (19, 27), second_derivatives.OF_SWIGLU),
    *_gated("geglu", (15, 32), second_derivatives.OF_GEGLU),
)
