"""Records of padding, windows and resampling, and of their gradients."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from nnkernels.ops import grid_sample, interpolate, pad, pixel_shuffle, unfold
from nnkernels.reference import grid_sample as grid_reference
from nnkernels.reference import windows as reference
from nnkernels.registry.elementwise import from_operands
from nnkernels.registry.record import COMPLEX, FLOATING, INTEGERS, Example, Op, Shape

Pullback = Callable[[Any], tuple[Any, ...]]

_ALL = FLOATING + COMPLEX + INTEGERS


# ---- gradients ----------------------------------------------------------------------------------


def _pad_rule(x: Any, pad_width: Any, *, mode: str = "constant", **options: Any) -> Any:
    y = pad.pad(x, pad_width, mode=mode, **options)
    return y, lambda dy: (pad.pad_backward(dy, pad_width, mode=mode),)


def _unfold_rule(x: Any, kernel_size: Any, **options: Any) -> tuple[Any, Pullback]:
    sizes = tuple(x.shape[2:])
    y = unfold.unfold(x, kernel_size, **options)
    return y, lambda dy: (unfold.fold(dy, sizes, kernel_size, **options),)


def _fold_rule(
    cols: Any, output_size: Any, kernel_size: Any, **options: Any
) -> tuple[Any, Pullback]:
    y = unfold.fold(cols, output_size, kernel_size, **options)
    return y, lambda dy: (unfold.unfold(dy, kernel_size, **options),)


def _shuffle_rule(forward: Any, inverse: Any) -> Any:
    def rule(x: Any, factor: int) -> tuple[Any, Pullback]:
        return forward(x, factor), lambda dy: (inverse(dy, factor),)

    return rule


def _interpolate_rule(
    x: Any, size: Any = None, *, scale: Any = None, **options: Any
) -> tuple[Any, Pullback]:
    shape = tuple(x.shape)
    y = interpolate.interpolate(x, size, scale=scale, **options)
    return y, lambda dy: (interpolate.interpolate_backward(dy, shape, scale=scale, **options),)


# ---- work ---------------------------------------------------------------------------------------


def _moves(shapes: tuple[Shape, ...], options: dict[str, Any]) -> float:
    """Nothing is computed where elements are only moved; one addition for each that comes back."""
    return float(prod(shapes[0]))


def _resampled(shapes: tuple[Shape, ...], options: dict[str, Any]) -> float:
    """A multiplication and an addition for each term of each element."""
    terms = {"nearest": 1, "linear": 2, "cubic": 4}[options.get("mode", "nearest")]
    return 2.0 * prod(shapes[0]) * terms ** (len(shapes[0]) - 2)


# ---- records ------------------------------------------------------------------------------------

_WINDOW = {"kernel_size": (2, 3), "stride": (1, 2), "padding": ((0, 1), (2, 1)), "dilation": (2, 1)}
_PADS: tuple[tuple[Shape, Shape, dict[str, Any]], ...] = (
    ((2, 3, 6, 7), (2, 3, 9, 7), {"pad_width": ((0, 0), (0, 0), (1, 2), (0, 0)), "value": 0.0}),
    ((3, 7), (8, 14), {"pad_width": ((1, 4), (5, 2)), "mode": "reflect"}),
    ((3, 7), (8, 14), {"pad_width": ((1, 4), (5, 2)), "mode": "symmetric"}),
    ((3, 7), (8, 14), {"pad_width": ((1, 4), (5, 2)), "mode": "edge"}),
    ((7,), (26,), {"pad_width": (3, 16), "mode": "wrap"}),
)
_RESIZED: tuple[tuple[Shape, Shape, dict[str, Any], dict[str, Any]], ...] = (
    # The shapes of x and of the result, the size or scale, and the other options.
    ((2, 3, 6, 7), (2, 3, 10, 5), {"size": (10, 5)}, {"mode": "linear"}),
    ((2, 3, 6, 7), (2, 3, 10, 5), {"size": (10, 5)}, {"mode": "cubic", "align_corners": True}),
    ((2, 3, 7), (2, 3, 12), {"scale": 1.75}, {"mode": "cubic", "scale": 1.75}),
    ((1, 2, 3, 2, 4), (1, 2, 5, 4, 3), {"size": (5, 4, 3)}, {"mode": "linear"}),
    ((2, 3, 6, 7), (2, 3, 10, 5), {"size": (10, 5)}, {}),
)


# The shapes of x, of the grid and of the result, and the options.
_SAMPLED: tuple[tuple[Shape, Shape, Shape, dict[str, Any]], ...] = (
    ((2, 3, 6, 7), (2, 4, 5, 2), (2, 3, 4, 5), {}),
    ((2, 3, 6, 7), (2, 4, 5, 2), (2, 3, 4, 5), {"mode": "cubic", "padding_mode": "reflection"}),
    (
        (1, 3, 4, 5, 6),
        (1, 2, 4, 5, 3),
        (1, 3, 2, 4, 5),
        {"padding_mode": "border", "align_corners": True},
    ),
)


def _sampled(shapes: tuple[Shape, ...], options: dict[str, Any]) -> float:
    """A multiplication and an addition for each element that is looked at."""
    *_, x, grid = shapes
    taps = {"nearest": 1, "linear": 2, "cubic": 4}[options.get("mode", "linear")]
    return 2.0 * x[1] * prod(grid[:-1]) * taps ** (len(x) - 2)


def _without(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in names}


def _record(
    name: str,
    function: Any,
    arrays: tuple[str, ...],
    examples: tuple[Example, ...],
    dtypes: tuple[str, ...],
    number: Any,
    gradient: Any = None,
    flops: Any = _moves,
    adjoint: str = "",
) -> Op:
    return Op(
        name=name,
        family="windows",
        function=function,
        reference=getattr(reference, name),
        arrays=arrays,
        dtypes=dtypes,
        examples=examples,
        gradient=gradient,
        flops=flops,
        number=number,
        adjoint=adjoint,
    )


OPS: tuple[Op, ...] = (
    _record(
        "pad",
        pad.pad,
        ("x",),
        tuple(Example((x,), options) for x, _, options in _PADS),
        _ALL,
        ("pad_width", 1),
        _pad_rule,
    ),
    _record(
        "pad_backward",
        pad.pad_backward,
        ("dy",),
        tuple(Example((y,), _without(options, "value")) for _, y, options in _PADS),
        FLOATING + COMPLEX,
        ("pad_width", 1),
    ),
    _record(
        "unfold",
        unfold.unfold,
        ("x",),
        (Example(((2, 3, 6, 7),), _WINDOW), Example(((2, 3, 7),), {"kernel_size": 3})),
        _ALL,
        ("kernel_size", 1),
        _unfold_rule,
        adjoint="fold",
    ),
    _record(
        "fold",
        unfold.fold,
        ("cols",),
        (
            Example(((2, 6, 8),), {"output_size": (3, 2), "kernel_size": (3, 1), "stride": (1, 2),
                                   "padding": ((1, 2), (0, 2))}),
            Example(((2, 6, 6),), {"output_size": (7,), "kernel_size": 2}),
        ),
        _ALL,
        (("output_size", 1), ("kernel_size", 2)),
        _fold_rule,
        adjoint="unfold",
    ),
    _record(
        "pixel_shuffle",
        pixel_shuffle.pixel_shuffle,
        ("x",),
        (Example(((2, 8, 3, 5),), {"factor": 2}),),
        _ALL,
        ("factor", 1),
        _shuffle_rule(pixel_shuffle.pixel_shuffle, pixel_shuffle.pixel_unshuffle),
        adjoint="pixel_unshuffle",
    ),
    _record(
        "pixel_unshuffle",
        pixel_shuffle.pixel_unshuffle,
        ("x",),
        (Example(((2, 3, 6, 4),), {"factor": 2}),),
        _ALL,
        ("factor", 1),
        _shuffle_rule(pixel_shuffle.pixel_unshuffle, pixel_shuffle.pixel_shuffle),
        adjoint="pixel_shuffle",
    ),
    _record(
        "interpolate",
        interpolate.interpolate,
        ("x",),
        tuple(Example((x,), {**size, **more}) for x, _, size, more in _RESIZED),
        FLOATING,
        ("size", 1),
        _interpolate_rule,
        _resampled,
    ),
    _record(
        "interpolate_backward",
        interpolate.interpolate_backward,
        ("dy",),
        tuple(Example((y,), {"x_shape": x, **more}) for x, y, _, more in _RESIZED),
        FLOATING,
        ("x_shape", 1),
        flops=_resampled,
    ),
    Op(
        name="grid_sample",
        family="windows",
        function=grid_sample.grid_sample,
        reference=grid_reference.grid_sample,
        arrays=("x", "grid"),
        dtypes=FLOATING,
        examples=tuple(Example((x, grid), options) for x, grid, _, options in _SAMPLED),
        gradient=from_operands(grid_sample.grid_sample, grid_sample.grid_sample_backward),
        flops=_sampled,
    ),
    Op(
        name="grid_sample_backward",
        family="windows",
        function=grid_sample.grid_sample_backward,
        reference=grid_reference.grid_sample_backward,
        arrays=("dy", "x", "grid"),
        dtypes=FLOATING,
        examples=tuple(Example((y, x, grid), options) for x, grid, y, options in _SAMPLED),
        flops=lambda shapes, options: 3 * _sampled(shapes, options),
        outputs=2,
    ),
)  # fmt: skip
