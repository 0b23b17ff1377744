"""End to end: training steps, and a block of a transformer, of nnkernels' public functions.

They are rows of the bench like ops, with records of their own. The reference is the same
composition of the references of its parts, in float64; that the composition itself is right, the
gradients that PyTorch's autograd makes of its own (`torch_models.py`) show.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import vision_models

import nnkernels as nnk
from nnkernels.registry import Example, Op

Array = Any
Shape = tuple[int, ...]

FAMILY = "models"
DTYPES = ("float32", "float64")

# ---- one step of examples/digits.py --------------------------------------------------------

HIDDEN, CLASSES = 128, 10
RATE, STEPS = 0.003, 10  # of Adam, and the number of this step
MEAN_DECAY, SQUARE_DECAY, EPSILON = 0.9, 0.999, 1e-8
MEAN_SCALE, SQUARE_SCALE = 1 / (1 - MEAN_DECAY**STEPS), 1 / (1 - SQUARE_DECAY**STEPS)

_DIGITS = (
    *("images", "labels", "cotangent"),
    *("weight1", "mean1", "square1"),
    *("weight2", "mean2", "square2"),
)


def digits_step(images: Array, labels: Array, cotangent: Array, *state: Array) -> tuple[Any, ...]:
    """Forward, loss, backward and Adam's update of a perceptron with one hidden layer.

    Parameters
    ----------
    images, labels, cotangent
        Rows of pixels with a one for the bias, their classes, and the gradient of the loss with
        respect to the log-probabilities.
    *state
        Weight, mean and mean square of its gradients, of each layer.

    Returns
    -------
    tuple
        The loss and the new state: new arrays, so that every call does the same.
    """
    first, second = state[0], state[3]
    scores, from_scores = nnk.vjp(nnk.matmul, images, first, wrt=1)
    hidden, from_hidden = nnk.vjp(nnk.relu, scores)
    logits, from_logits = nnk.vjp(nnk.matmul, hidden, second)
    log_probabilities, from_log = nnk.vjp(nnk.log_softmax, logits)
    loss = (log_probabilities * cotangent).sum()

    (d_logits,) = from_log(cotangent)
    d_hidden, d_second = from_logits(d_logits)
    (d_scores,) = from_hidden(d_hidden)
    _, d_first = from_scores(d_scores)
    return loss.reshape(1), *_adam(d_first, *state[:3]), *_adam(d_second, *state[3:])


def _adam(gradient: Array, weight: Array, mean: Array, square: Array) -> tuple[Array, ...]:
    """The update of Kingma & Ba, arXiv 1412.6980, as examples/digits.py writes it."""
    mean = mean + (1 - MEAN_DECAY) * (gradient - mean)
    square = square + (1 - SQUARE_DECAY) * (gradient * gradient - square)
    step = RATE * MEAN_SCALE * mean / ((SQUARE_SCALE * square) ** 0.5 + EPSILON)
    return weight - step, mean, square


def _digits_shapes(shape: Shape) -> dict[str, Shape]:
    batch, pixels = shape
    first, second = (pixels, HIDDEN), (HIDDEN, CLASSES)
    found: dict[str, Shape] = {
        "images": shape,
        "labels": (batch,),
        "cotangent": (batch, CLASSES),
    }
    found |= dict.fromkeys(("weight1", "mean1", "square1"), first)
    return found | dict.fromkeys(("weight2", "mean2", "square2"), second)


# ---- a block of a transformer --------------------------------------------------------------

HEAD = 64  # numbers of a head
EXPANSION = 4  # of the hidden layer of the feed-forward part

_PARAMETERS = (
    *("norm1_weight", "norm1_bias", "qkv_weight", "qkv_bias", "out_weight", "out_bias"),
    *("norm2_weight", "norm2_bias", "up_weight", "up_bias", "down_weight", "down_bias"),
)


def transformer_block(x: Array, *parameters: Array) -> Array:
    """``h = x + attention(norm(x)); y = h + down(gelu(up(norm(h))))``, without a mask.

    Xiong et al., arXiv 2002.04745, figure 1 (b): the norms come before their parts.
    """
    *first, qkv_weight, qkv_bias, out_weight, out_bias = parameters[:6]
    *second, up_weight, up_bias, down_weight, down_bias = parameters[6:]
    normed = nnk.layer_norm(x, *first)
    query, key, value = heads(nnk.linear(normed, qkv_weight, qkv_bias))
    scores = nnk.gemm(query, key, alpha=HEAD**-0.5, transpose_b=True)
    mixed = x.__array_namespace__().empty_like(x)
    nnk.matmul(nnk.softmax(scores), value, out=split(mixed))
    attended = nnk.linear(mixed, out_weight, out_bias)
    normed, h = nnk.layer_norm(attended, *second, residual=x)
    hidden = nnk.linear(normed, up_weight, up_bias, activation="gelu")
    y = nnk.linear(hidden, down_weight, down_bias)
    y += h
    return y


def transformer_step(dy: Array, x: Array, *parameters: Array) -> tuple[Array, ...]:
    """The block's result, and with the gradient of that those of x and of the parameters."""
    *first, qkv_weight, qkv_bias, out_weight, out_bias = parameters[:6]
    *second, up_weight, up_bias, down_weight, down_bias = parameters[6:]
    normed1, from_norm1 = nnk.vjp(nnk.layer_norm, x, *first)
    qkv, from_qkv = nnk.vjp(nnk.linear, normed1, qkv_weight, qkv_bias)
    query, key, value = heads(qkv)
    scale = HEAD**-0.5
    scores, from_scores = nnk.vjp(nnk.gemm, query, key, alpha=scale, transpose_b=True)
    weights, from_softmax = nnk.vjp(nnk.softmax, scores)
    mixed, from_mixed = nnk.vjp(nnk.matmul, weights, value)
    attended, from_out = nnk.vjp(nnk.linear, joined(mixed), out_weight, out_bias)
    h = attended + x
    normed2, from_norm2 = nnk.vjp(nnk.layer_norm, h, *second)
    up, from_up = nnk.vjp(nnk.linear, normed2, up_weight, up_bias)
    hidden, from_gelu = nnk.vjp(nnk.gelu, up)
    y, from_down = nnk.vjp(nnk.linear, hidden, down_weight, down_bias)
    y += h

    d_hidden, *of_down = from_down(dy)
    d_normed2, *of_up = from_up(*from_gelu(d_hidden))
    dh, *of_norm2 = from_norm2(d_normed2)
    dh += dy
    d_joined, *of_out = from_out(dh)
    d_weights, d_value = from_mixed(split(d_joined))
    d_query, d_key = from_scores(*from_softmax(d_weights))[:2]
    d_normed1, *of_qkv = from_qkv(joined_qkv(d_query, d_key, d_value))
    dx, *of_norm1 = from_norm1(d_normed1)
    dx += dh
    return (y, dx, *of_norm1, *of_qkv, *of_out, *of_norm2, *of_up, *of_down)


def split(rows: Array) -> Array:
    """(batch, tokens, width) as a view of (batch, heads, tokens, HEAD)."""
    batch, tokens, width = rows.shape
    return rows.reshape(batch, tokens, width // HEAD, HEAD).swapaxes(1, 2)


def heads(qkv: Array) -> tuple[Array, ...]:
    """Queries, keys and values, side by side in each row, as views."""
    width = qkv.shape[-1] // 3
    return tuple(split(qkv[..., i * width : (i + 1) * width]) for i in range(3))


def joined(mixed: Array) -> Array:
    """(batch, heads, tokens, HEAD) as rows of (batch, tokens, width); a copy."""
    batch, count, tokens, _ = mixed.shape
    return mixed.swapaxes(1, 2).reshape(batch, tokens, count * HEAD)


def joined_qkv(*parts: Array) -> Array:
    """Gradients of queries, keys and values side by side in each row."""
    batch, count, tokens, _ = parts[0].shape
    rows = parts[0].__array_namespace__().empty((batch, tokens, 3, count, HEAD), parts[0].dtype)
    for i, part in enumerate(parts):
        rows[:, :, i] = part.swapaxes(1, 2)
    return rows.reshape(batch, tokens, 3 * count * HEAD)


def _block_shapes(shape: Shape) -> dict[str, Shape]:
    width = shape[-1]
    found: dict[str, Shape] = {"dy": shape, "x": shape}
    for part, inputs, outputs in (
        ("qkv", width, 3 * width),
        ("out", width, width),
        ("up", width, EXPANSION * width),
        ("down", EXPANSION * width, width),
    ):
        found |= {f"{part}_weight": (outputs, inputs), f"{part}_bias": (outputs,)}
    norms = dict.fromkeys(
        (f"norm{i}_{name}" for i in (1, 2) for name in ("weight", "bias")), (width,)
    )
    return found | norms


# ---- what the bench asks -------------------------------------------------------------------


def operand_shapes(name: str, shape: Shape) -> tuple[Shape, ...]:
    """The shape of each array argument."""
    if name in vision_models.MODELS:
        return vision_models.operand_shapes(name, shape)
    shapes = _digits_shapes(shape) if name == "digits step" else _block_shapes(shape)
    return tuple(shapes[argument] for argument in OPS[name].arrays)


def obstacle(name: str, shape: Shape, layout: str) -> str:
    """Why a problem cannot be timed, or nothing."""
    if layout != "contiguous":
        return f"{name} is timed on contiguous arrays alone"
    if name in vision_models.MODELS:
        fits = len(shape) == 4 and min(shape) > 0 and min(shape[2:]) >= 4
        return (
            "" if fits else f"{name}: the shape is IMAGESxCHANNELSxHEIGHTxWIDTH, 4 pixels or more"
        )
    if name == "digits step":
        return "" if len(shape) == 2 else f"{name}: the shape is IMAGESxPIXELS"
    if len(shape) != 3 or shape[2] % HEAD:
        return f"{name}: the shape is BATCHxTOKENSxWIDTH, the width a multiple of {HEAD}"
    return ""


def operands(op: Op, shapes: tuple[Shape, ...], dtype: np.dtype[Any]) -> list[np.ndarray]:
    """Numbers of the size that they have in training."""
    if op.name in vision_models.MODELS:
        return vision_models.operands(op.name, shapes[0], dtype)
    random = np.random.default_rng(1)
    arrays = {
        name: _values(random, name, shape).astype(dtype)
        for name, shape in zip(op.arrays, shapes, strict=True)
    }
    if "labels" in arrays:
        labels = random.integers(0, CLASSES, arrays["labels"].shape)
        arrays["labels"] = labels
        arrays["cotangent"] = (np.eye(CLASSES)[labels] / -len(labels)).astype(dtype)
    return list(arrays.values())


def _values(random: np.random.Generator, name: str, shape: Shape) -> np.ndarray:
    values = random.standard_normal(shape)
    if name.startswith("square"):
        return 0.01 * values * values + 1e-4
    if name.startswith("norm") and name.endswith("weight"):
        return 1 + 0.1 * values
    if name.endswith("_weight"):
        return values / math.sqrt(shape[1])
    if name.startswith("weight"):
        return values / math.sqrt(shape[0])
    return 0.1 * values if name.endswith("bias") or name.startswith("mean") else values


def _reference(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function in float64 by the references of its parts, rounded to the operands' type."""

    def run(*arrays: np.ndarray) -> Any:
        dtype = arrays[0].dtype
        wide = [x.astype(np.float64) if x.dtype.kind == "f" else x for x in arrays]
        with nnk.use_backend("reference"):
            results = function(*wide)
        if isinstance(results, tuple):
            return tuple(part.astype(dtype) for part in results)
        return results.astype(dtype)

    return run


def _digits_flops(shapes: tuple[Shape, ...], options: dict[str, Any]) -> float:
    """Those of the products: forward, and the gradients that are needed."""
    batch, pixels = shapes[0]
    return 2.0 * batch * HIDDEN * (2 * pixels + 3 * CLASSES)


def _block_flops(shapes: tuple[Shape, ...], options: dict[str, Any]) -> float:
    """Those of the products, forward."""
    batch, tokens, width = shapes[0]
    rows = batch * tokens
    return 2.0 * rows * width * width * (4 + 2 * EXPANSION) + 4.0 * rows * tokens * width


def _record(
    name: str,
    function: Callable[..., Any],
    arrays: tuple[str, ...],
    flops: Callable[..., float],
    outputs: int,
) -> Op:
    example = (Example((SHAPES[name],)),)
    return Op(
        *(name, FAMILY, function, _reference(function), arrays, DTYPES, example),
        flops=flops,
        outputs=outputs,
    )


SHAPES: dict[str, Shape] = {
    "digits step": (64, 65),
    "transformer block": (8, 128, 256),
    "transformer step": (8, 128, 256),
    **vision_models.SHAPES,
}
DIRECTIONS = {
    "digits step": "both",
    "transformer block": "forward",
    "transformer step": "both",
    **dict.fromkeys(vision_models.MODELS, "both"),
}
OPS = {
    op.name: op
    for op in (
        _record("digits step", digits_step, _DIGITS, _digits_flops, 7),
        _record("transformer block", transformer_block, ("x", *_PARAMETERS), _block_flops, 1),
        _record(
            "transformer step",
            transformer_step,
            ("dy", "x", *_PARAMETERS),
            # Each product has two gradients of its own cost.
            lambda shapes, options: 3 * _block_flops(shapes, options),
            14,
        ),
        *(
            _record(
                name,
                vision_models.step(name),
                vision_models.arrays(name),
                vision_models.flops(name),
                len(vision_models.arrays(name)) - 1,  # the loss, and the state again
            )
            for name in vision_models.MODELS
        ),
    )
}
