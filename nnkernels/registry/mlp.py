"""Records of multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Callable
from math import prod, sqrt
from typing import Any

from nnkernels.ops import mlp
from nnkernels.reference import mlp as reference
from nnkernels.registry.record import FLOATING, Example, Op, Shape
from nnkernels.registry.rule import Chain

_LAYERS = 3
_WEIGHTS = tuple(f"weight{i}" for i in range(_LAYERS))
_BIASES = tuple(f"bias{i}" for i in range(_LAYERS))
_LISTS = {"weights": _WEIGHTS, "biases": _BIASES}


def network(batch: Shape, widths: tuple[int, ...]) -> tuple[Shape, ...]:
    """Shapes of x, of the weights and of the biases.

    >>> network((7,), (2, 5, 3))
    ((7, 2), (5, 2), (3, 5), (5,), (3,))
    """
    pairs = list(zip(widths[1:], widths[:-1], strict=True))
    return ((*batch, widths[0]), *pairs, *((n,) for n in widths[1:]))


def scales(weights: tuple[str, ...]) -> dict[str, Callable[[Shape], float]]:
    """Of weights by their names, for records: activations stay as large as the inputs.

    Else they grow until float16 does not hold them, and a sigmoid of them is 1 but for a rounding,
    of which nothing is left in its derivative. The size is that of He et al., "Delving deep into
    rectifiers", equation 10.

    >>> scales(("weight0",))["weight0"]((5, 8))
    0.5
    """
    return dict.fromkeys(weights, lambda shape: sqrt(2 / shape[-1]))


def _flops(shapes: tuple[Shape, ...], options: dict[str, Any]) -> float:
    """Of x and what follows it."""
    rows = prod(shapes[0][:-1])
    return 2.0 * rows * sum(prod(shape) for shape in shapes[1:] if len(shape) == 2)


_Cases = tuple[tuple[Shape, tuple[int, ...], dict[str, Any]], ...]
_SMOOTH: _Cases = (
    ((3, 5), (4, 16, 18, 2), {"activation": "gelu", "output_activation": "sigmoid"}),
    ((6,), (150, 32, 130, 5), {"activation": "silu", "output_activation": "softplus"}),
)
# Rounded sums may lie on the other side of a kink than those of the reference, and then have
# another derivative: gradients are compared where there is none.
_FORWARD: _Cases = (((70,), (20, 64, 64, 3), {}), *_SMOOTH)
_BACKWARD: _Cases = (((70,), (20, 64, 64, 3), {"activation": "silu"}), *_SMOOTH)
# Activations, and on the way back their derivatives, of each layer.
_ROUNDINGS = 2 * _LAYERS

OPS: tuple[Op, ...] = (
    Op(
        name="mlp",
        family="mlp",
        function=mlp.mlp,
        reference=reference.mlp,
        arrays=("x", *_WEIGHTS, *_BIASES),
        scaled=scales(_WEIGHTS),
        dtypes=FLOATING,
        examples=tuple(
            Example(network(batch, widths), options) for batch, widths, options in _FORWARD
        ),
        chain=Chain(mlp.mlp_vjp, mlp.mlp_of_layers),
        flops=_flops,
        roundings=_ROUNDINGS,
        lists=_LISTS,
    ),
    Op(
        name="mlp_backward",
        family="mlp",
        function=mlp.mlp_backward,
        reference=reference.mlp_backward,
        arrays=("dy", "x", *_WEIGHTS, *_BIASES),
        scaled=scales(_WEIGHTS),
        dtypes=FLOATING,
        examples=tuple(
            Example(((*batch, widths[-1]), *network(batch, widths)), options)
            for batch, widths, options in _BACKWARD
        ),
        # The network once more, and two products for each layer.
        flops=lambda shapes, options: 3 * _flops(shapes[1:], options),
        outputs=1 + 2 * _LAYERS,
        roundings=2 * _ROUNDINGS,
        lists=_LISTS,
    ),
)
