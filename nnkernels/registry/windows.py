"""Records of padding, windows and resampling, and of their gradients."""

from __future__ import annotations

from math import prod
from typing import Any

from nnkernels.ops import grid_sample, interpolate, pad, pixel_shuffle, unfold
from nnkernels.reference import grid_sample as grid_reference
from nnkernels.reference import windows as reference
from nnkernels.registry.record import COMPLEX, FLOATING, INTEGERS, Example, Op, Shape
from nnkernels.registry.rule import Call, Gradients, Rule
from nnkernels.registry.rules import from_operands

_ALL = FLOATING + COMPLEX + INTEGERS


# ---- gradients ----------------------------------------------------------------------------------


def _spatial(shape: Shape | None) -> Shape:
    return tuple((shape or ())[2:])


def _pull_pad(functions: Any, call: Call, dy: Any) -> Gradients:
    mode = call.options.get("mode", "constant")
    return (functions.pad_backward(dy, call.options["pad_width"], mode=mode),)


def _pull_pad_gradient(functions: Any, call: Call, v: Any) -> Gradients:
    """It is linear: padding, with zeros, is the transpose."""
    width, others = call.option("pad_width")
    return (functions.pad(v, width, **others),)


def _pull_unfold(functions: Any, call: Call, dy: Any) -> Gradients:
    size, others = call.option("kernel_size")
    return (functions.fold(dy, _spatial(call.shapes[0]), size, **others),)


def _pull_fold(functions: Any, call: Call, dy: Any) -> Gradients:
    size, others = call.option("kernel_size")
    del others["output_size"]
    return (functions.unfold(dy, size, **others),)


def _shuffle_rule(inverse: str) -> Rule:
    def pull(functions: Any, call: Call, dy: Any) -> Gradients:
        return (getattr(functions, inverse)(dy, call.options["factor"]),)

    return Rule(pull)


def _pull_interpolate(functions: Any, call: Call, dy: Any) -> Gradients:
    others = {key: value for key, value in call.options.items() if key != "size"}
    return (functions.interpolate_backward(dy, call.shapes[0], **others),)


def _pull_interpolate_gradient(functions: Any, call: Call, v: Any) -> Gradients:
    """It is linear: interpolation is the transpose."""
    others = {key: value for key, value in call.options.items() if key != "x_shape"}
    if others.get("scale") is not None:
        return (functions.interpolate(v, **others),)
    return (functions.interpolate(v, _spatial(call.shapes[0]), **others),)


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
    gradient: Rule,
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
        Rule(_pull_pad),
    ),
    _record(
        "pad_backward",
        pad.pad_backward,
        ("dy",),
        tuple(Example((y,), _without(options, "value")) for _, y, options in _PADS),
        FLOATING + COMPLEX,
        ("pad_width", 1),
        Rule(_pull_pad_gradient),
    ),
    _record(
        "unfold",
        unfold.unfold,
        ("x",),
        (Example(((2, 3, 6, 7),), _WINDOW), Example(((2, 3, 7),), {"kernel_size": 3})),
        _ALL,
        ("kernel_size", 1),
        Rule(_pull_unfold),
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
        Rule(_pull_fold),
        adjoint="unfold",
    ),
    _record(
        "pixel_shuffle",
        pixel_shuffle.pixel_shuffle,
        ("x",),
        (Example(((2, 8, 3, 5),), {"factor": 2}),),
        _ALL,
        ("factor", 1),
        _shuffle_rule("pixel_unshuffle"),
        adjoint="pixel_unshuffle",
    ),
    _record(
        "pixel_unshuffle",
        pixel_shuffle.pixel_unshuffle,
        ("x",),
        (Example(((2, 3, 6, 4),), {"factor": 2}),),
        _ALL,
        ("factor", 1),
        _shuffle_rule("pixel_shuffle"),
        adjoint="pixel_shuffle",
    ),
    _record(
        "interpolate",
        interpolate.interpolate,
        ("x",),
        tuple(Example((x,), {**size, **more}) for x, _, size, more in _RESIZED),
        FLOATING,
        ("size", 1),
        Rule(_pull_interpolate),
        _resampled,
    ),
    _record(
        "interpolate_backward",
        interpolate.interpolate_backward,
        ("dy",),
        tuple(Example((y,), {"x_shape": x, **more}) for x, y, _, more in _RESIZED),
        FLOATING,
        ("x_shape", 1),
        Rule(_pull_interpolate_gradient),
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
        gradient=from_operands("grid_sample_backward", "x", "grid"),
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
