"""Training steps of the convolutional networks of `examples/vision`, as models of the bench.

The networks and the update are the example's own functions, and weights lie in one row there too;
only the new state goes into new arrays, so that every call does the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

Array = Any
Shape = tuple[int, ...]

CLASSES = 10
RATE, MOMENTUM, DECAY = 0.01, 0.9, 5e-4
FOLDER = Path(__file__).resolve().parent.parent / "examples" / "vision"
# A commit that is compared may have no such example.
MODELS = {"lenet step": "lenet", "resnet8 step": "resnet8"} if FOLDER.is_dir() else {}
_SHAPES: dict[str, Shape] = {"lenet step": (64, 1, 28, 28), "resnet8 step": (64, 3, 32, 32)}
SHAPES = {name: _SHAPES[name] for name in MODELS}


@cache
def example(name: str) -> ModuleType:
    """A module of the example, which is no package."""
    import importlib

    sys.path.append(str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))


@cache
def network(name: str, image: Shape) -> Any:
    """The network of a step, for images of a size."""
    return example("networks").MODELS[MODELS[name]](image, CLASSES)


def initial(name: str, image: Shape) -> tuple[dict[str, Array], dict[str, Array]]:
    """Its first parameters and running statistics, in the order of the arrays of a step."""
    found = network(name, image)
    return found.initial(np.random.default_rng(1)), found.statistics()


@cache
def layout(name: str, image: Shape) -> tuple[Any, tuple[str, ...]]:
    """How its parameters lie in one row of memory, and the names of its statistics.

    To draw the parameters takes milliseconds, which are no part of a step.
    """
    parameters, statistics = initial(name, image)
    return example("optimizer").Joined(parameters), tuple(statistics)


def step(name: str) -> Callable[..., tuple[Array, ...]]:
    """The function of a step: see `arrays` for what it takes.

    It returns the loss, and the new weights, velocities and statistics.
    """

    def run(
        images: Array, targets: Array, weights: Array, velocities: Array, *statistics: Array
    ) -> tuple[Array, ...]:
        networks, layers = example("networks"), example("layers")
        joined, names = layout(name, tuple(images.shape[1:]))
        renewed = dict(zip(names, statistics, strict=True))
        state = layers.Pass(joined.views(weights), renewed, training=True)
        loss, gradients = networks.loss_and_gradients(
            network(name, tuple(images.shape[1:])), state, images, targets
        )
        moving, new = joined.join(gradients), np.empty_like(weights)
        gradients.clear()
        numbers = RATE, MOMENTUM, DECAY
        example("optimizer").descend(weights, moving, velocities, *numbers, out=(new, moving))
        return loss.reshape(1), new, moving, *renewed.values()

    return run


def arrays(name: str) -> tuple[str, ...]:
    """The names of the arrays of a step."""
    return ("images", "targets", "weights", "velocities", *layout(name, SHAPES[name][1:])[1])


def operand_shapes(name: str, shape: Shape) -> tuple[Shape, ...]:
    """The shape of each."""
    parameters, statistics = initial(name, shape[1:])
    row = (sum(x.size for x in parameters.values()),)
    return (shape, (shape[0], CLASSES), row, row, *(x.shape for x in statistics.values()))


def operands(name: str, shape: Shape, dtype: np.dtype[Any]) -> list[np.ndarray]:
    """Images of noise, classes, and a state with some velocity, in which no unit is near 0.

    The gradient of ReLU jumps there: of two million units rounding turned one or none, which moved
    a gradient by 0.3 %. So channels are on or off by their biases, half of them.
    """
    random = np.random.default_rng(2)
    parameters, statistics = initial(name, shape[1:])
    parameters = {key: _far_from_kinks(key, x) for key, x in parameters.items()}
    found = [random.standard_normal(shape), np.eye(CLASSES)[random.integers(0, CLASSES, shape[0])]]
    row = layout(name, shape[1:])[0].join(parameters)
    found += [row, 0.01 * random.standard_normal(row.shape)]
    found += [*statistics.values()]
    return [x.astype(dtype) for x in found]


def _far_from_kinks(key: str, first: np.ndarray) -> np.ndarray:
    """A parameter: biases of turns, and what they are added to made small beside them."""
    layer, _, kind = key.rpartition(".")
    if layer in ("dense", "dense2"):  # the last one, without an activation
        return first
    if kind == "weight":
        return first * np.float32(0.25 if "norm" in layer else 0.05)
    # Those of a block's last norm outweigh what is added to it.
    size = 2.5 if layer.endswith("norm2") else 1.0
    return np.where(np.arange(len(first)) % 2 == 0, size, -size).astype(first.dtype)


def flops(name: str) -> Callable[[tuple[Shape, ...], dict[str, Any]], float]:
    """Those of convolutions and products: forward, and both gradients but for the images'."""

    def count(shapes: tuple[Shape, ...], options: dict[str, Any]) -> float:
        batch, _, height, width = shapes[0]
        total = 0.0
        for key, x in initial(name, shapes[0][1:])[0].items():
            if x.ndim < 2:
                continue
            pixels = _pixels(name, key, height, width) if x.ndim == 4 else 1
            products = 2.0 * batch * prod(x.shape) * pixels
            total += products * (2 if key == "conv1.weight" else 3)
        return total

    return count


def _pixels(name: str, key: str, height: int, width: int) -> int:
    """Of the result of a convolution."""
    if MODELS[name] == "lenet":
        cuts = 0 if key.startswith("conv1") else 1
    else:
        cuts = int(key[5]) - 1 if key.startswith("block") else 0
    for _ in range(cuts):
        odd = 1 if MODELS[name] == "resnet8" else 0  # strides round up, pooling rounds down
        height, width = (height + odd) // 2, (width + odd) // 2
    return height * width
