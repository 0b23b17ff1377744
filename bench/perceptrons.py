"""What is timed of multilayer perceptrons: five hidden layers of one width.

The shape of a problem is rows, inputs, width of the hidden layers, and outputs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nnkernels import registry
from nnkernels.registry import Op
from nnkernels.registry.mlp import network, scales

Shape = tuple[int, ...]

HIDDEN = 5
FAMILY = "mlp"


def _deep(op: Op) -> Op:
    """The record of the registry, for as many layers."""
    names = {kind: tuple(f"{kind}{i}" for i in range(HIDDEN + 1)) for kind in ("weight", "bias")}
    first = tuple(name for name in op.arrays if name in ("dy", "x"))
    return replace(
        op,
        arrays=(*first, *names["weight"], *names["bias"]),
        scaled=scales(names["weight"]),
        lists={"weights": names["weight"], "biases": names["bias"]},
        outputs=1 if op.outputs == 1 else 1 + 2 * (HIDDEN + 1),
    )


# They stand in the place of those of the registry.
OPS = {name: _deep(registry.find(name)) for name in ("mlp", "mlp_backward")}


def options(op: str, shape: Shape, case: str) -> dict[str, Any]:
    """Options of a call: a gradient is checked, so it may have no kinks."""
    return {"activation": "silu"} if op.endswith("_backward") else {}


def operand_shapes(op: str, shape: Shape, case: str) -> tuple[Shape, ...]:
    """The shape of each array argument."""
    rows, inputs, width, outputs = shape
    shapes = network((rows,), (inputs, *(width,) * HIDDEN, outputs))
    return ((rows, outputs), *shapes) if op.endswith("_backward") else shapes


def obstacle(op: str, shape: Shape, case: str) -> str:
    """Why a problem cannot be timed, or nothing."""
    if len(shape) != 4:
        return f"{op}: the shape is rows x inputs x width x outputs"
    return f"{op} has no cases" if case else ""
