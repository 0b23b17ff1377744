"""What is timed of padding, windows and resampling: options, and the shapes of arguments.

The shape of a problem is that of the image, (N, C, H, W); its case is one of `CASES`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Shape = tuple[int, ...]

# The cases of each op; the first one is that of a problem that names none.
CASES = {
    "pad": ("reflect", "constant", "edge"),
    "unfold": ("3x3",),
    "fold": ("3x3",),
    "pixel_shuffle": ("2",),
    "pixel_unshuffle": ("2",),
    "interpolate": ("linear x2", "linear x0.5", "nearest x2", "cubic x2", "linear x1.5"),
    "grid_sample": ("linear", "cubic"),
}
SIDE = 1  # of paddings


def case_of(op: str, case: str) -> str:
    """The case itself, or the first one."""
    return case or CASES[op.removesuffix("_backward")][0]


def options(op: str, shape: Shape, case: str) -> dict[str, Any]:
    """Options of a call."""
    forward, case = op.removesuffix("_backward"), case_of(op, case)
    if forward == "pad":
        return {"pad_width": ((0, 0), (0, 0), (SIDE, SIDE), (SIDE, SIDE)), "mode": case}
    if forward == "unfold":
        return {"kernel_size": 3, "padding": 1}
    if forward == "fold":
        return {"output_size": shape[2:], "kernel_size": 3, "padding": 1}
    if forward.startswith("pixel"):
        return {"factor": 2}
    if forward == "grid_sample":
        return {"mode": case}
    mode = case.split()[0]
    if op.endswith("_backward"):
        return {"x_shape": shape, "mode": mode}
    return {"size": _resized(shape, case)[2:], "mode": mode}


def _resized(shape: Shape, case: str) -> Shape:
    factor = float(case.split(" x")[1])
    return (*shape[:2], *(int(n * factor) for n in shape[2:]))


def operand_shapes(op: str, shape: Shape, case: str) -> tuple[Shape, ...]:
    """The shape of each array argument."""
    case = case_of(op, case)
    n, c, h, w = shape
    if op == "fold":
        return ((n, 9 * c, h * w),)
    if op == "pad_backward":
        return ((n, c, h + 2 * SIDE, w + 2 * SIDE),)
    if op == "interpolate_backward":
        return (_resized(shape, case),)
    if op == "grid_sample":
        return shape, (n, h, w, 2)
    if op == "grid_sample_backward":
        return shape, shape, (n, h, w, 2)
    return (shape,)


def obstacle(op: str, shape: Shape, case: str) -> str:
    """Why a problem cannot be timed, or nothing."""
    if len(shape) != 4:
        return f"{op}: the shape is that of an image, NxCxHxW"
    if (op == "pixel_shuffle" and shape[1] % 4) or (
        op == "pixel_unshuffle" and any(side % 2 for side in shape[2:])
    ):
        return f"{op}: the factor 2 does not divide the shape"
    return ""


def grid(random: np.random.Generator, shape: Shape) -> np.ndarray:
    """A place near each element, between it and the next.

    None lies so near an element that float32 and float64 may differ on which side of it: there
    gradients jump.
    """
    sizes = np.array([shape[2], shape[1]])
    y, x = np.meshgrid(np.arange(shape[1]), np.arange(shape[2]), indexing="ij")
    place = np.stack([x, y], -1) + random.uniform(0.05, 0.95, shape)
    return (2 * place + 1) / sizes - 1
