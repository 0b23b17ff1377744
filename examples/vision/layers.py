"""Layers of convolutional networks: the value of each and its pullback, by nnkernels' ops.

A layer's ``forward`` returns its output and a function. That takes the gradient of the output,
writes those of the layer's parameters into a dictionary, and returns the gradient of the input;
layers in a row are called back in the opposite order. There is no tape: what runs is what is
written here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import nnkernels as nnk

Array = Any  # a NumPy or a CuPy array
Arrays = dict[str, Array]
# From the gradient of the output, and where gradients of parameters go, to that of the input.
Back = Callable[[Array, Arrays], Any]


@dataclass
class Pass:
    """What one pass through a network reads, and the running statistics that it renews.

    Attributes
    ----------
    parameters : dict
        Of all layers, by name.
    statistics : dict
        Running means and variances, replaced in training.
    training : bool
        Whether batches are normalised by their own statistics.
    """

    parameters: Arrays
    statistics: Arrays
    training: bool


class Layer(ABC):
    """What layers without parameters have."""

    def initial(self, random: np.random.Generator) -> Arrays:
        """Return the first values of the parameters."""
        return {}

    def statistics(self) -> Arrays:
        """Return the first running statistics."""
        return {}

    @abstractmethod
    def forward(self, x: Array, run: Pass) -> tuple[Array, Back]:
        """Return the output and the function that takes gradients back."""


def through(rule: tuple[Array, Callable[..., tuple[Any, ...]]]) -> tuple[Array, Back]:
    """Return what `nnk.vjp` gave for an op of one array, as a layer without parameters has it."""
    y, pullback = rule
    return y, lambda dy, gradients: pullback(dy)[0]


@dataclass(frozen=True)
class Conv(Layer):
    """Convolution of images (N, C, H, W); an activation is applied in the same kernel."""

    name: str
    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    padding: int = 0
    bias: bool = False
    first: bool = False  # of the network: the images need no gradient
    activation: str | None = None

    def initial(self, random: np.random.Generator) -> Arrays:
        """Return weights scaled for ReLU (He et al., arXiv 1502.01852), and zeros."""
        shape = (self.outputs, self.inputs, self.kernel, self.kernel)
        deviation = math.sqrt(2.0 / (self.inputs * self.kernel**2))
        found = {f"{self.name}.weight": random.normal(0.0, deviation, shape).astype(np.float32)}
        if self.bias:
            found[f"{self.name}.bias"] = np.zeros(self.outputs, np.float32)
        return found

    def forward(self, x: Array, run: Pass) -> tuple[Array, Back]:
        """Return the convolution."""
        names = [f"{self.name}.weight", f"{self.name}.bias"][: 1 + self.bias]
        y, pullback = nnk.vjp(
            nnk.conv,
            x,
            *(run.parameters[name] for name in names),
            wrt=tuple(range(self.first, 1 + len(names))),
            stride=self.stride,
            padding=self.padding,
            epilogue=self.activation,
        )

        def back(dy: Array, gradients: Arrays) -> Any:
            dx, *found = pullback(dy)
            gradients.update(zip(names, found, strict=True))
            return dx

        return y, back


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Normalisation of each channel; its parameters are float32 for images of every dtype."""

    name: str
    channels: int
    activation: str | None = None

    def initial(self, random: np.random.Generator) -> Arrays:
        """Return ones and zeros."""
        return {
            f"{self.name}.weight": np.ones(self.channels, np.float32),
            f"{self.name}.bias": np.zeros(self.channels, np.float32),
        }

    def statistics(self) -> Arrays:
        """Return mean 0 and variance 1."""
        return {
            f"{self.name}.mean": np.zeros(self.channels, np.float32),
            f"{self.name}.variance": np.ones(self.channels, np.float32),
        }

    def forward(self, x: Array, run: Pass) -> tuple[Array, Back]:
        """Return the normalised images; in training, renew the running statistics."""
        mean, variance = f"{self.name}.mean", f"{self.name}.variance"
        arrays = (
            run.parameters[f"{self.name}.weight"],
            run.parameters[f"{self.name}.bias"],
            run.statistics[mean],
            run.statistics[variance],
        )
        if not run.training:
            return nnk.batch_norm(x, *arrays, activation=self.activation), unreachable
        (y, *renewed), pullback = nnk.vjp(
            nnk.batch_norm, x, *arrays, training=True, activation=self.activation
        )
        run.statistics[mean], run.statistics[variance] = renewed

        def back(dy: Array, gradients: Arrays) -> Any:
            dx, dweight, dbias = pullback(dy, None, None)[:3]
            gradients[f"{self.name}.weight"], gradients[f"{self.name}.bias"] = dweight, dbias
            return dx

        return y, back


def unreachable(dy: Array, gradients: Arrays) -> Any:
    """Refuse to differentiate a pass that is no training."""
    raise RuntimeError("gradients were asked of a pass that kept nothing for them")


@dataclass(frozen=True)
class Linear(Layer):
    """``activation(x weight^T + bias)`` of rows (N, inputs), in one kernel."""

    name: str
    inputs: int
    outputs: int
    activation: str | None = None

    def initial(self, random: np.random.Generator) -> Arrays:
        """Return weights scaled for ReLU, and zeros."""
        weight = random.normal(0.0, math.sqrt(2.0 / self.inputs), (self.outputs, self.inputs))
        return {
            f"{self.name}.weight": weight.astype(np.float32),
            f"{self.name}.bias": np.zeros(self.outputs, np.float32),
        }

    def forward(self, x: Array, run: Pass) -> tuple[Array, Back]:
        """Return the product."""
        names = f"{self.name}.weight", f"{self.name}.bias"
        y, pullback = nnk.vjp(
            nnk.linear, x, *(run.parameters[name] for name in names), activation=self.activation
        )

        def back(dy: Array, gradients: Arrays) -> Any:
            dx, gradients[names[0]], gradients[names[1]] = pullback(dy)
            return dx

        return y, back


class MaxPool(Layer):
    """The largest of each 2 x 2 elements."""

    def forward(self, x: Array, run: Pass) -> tuple[Array, Back]:
        """Return images of half the size, rounded down."""
        return through(nnk.vjp(nnk.max_pool, x, 2))


class GlobalAverage(Layer):
    """The mean of each channel: rows (N, C)."""

    def forward(self, x: Array, run: Pass) -> tuple[Array, Back]:
        """Return the rows."""
        y, pullback = nnk.vjp(nnk.adaptive_avg_pool, x, 1)
        return y.reshape(x.shape[:2]), lambda dy, gradients: pullback(dy.reshape(y.shape))[0]


class Flatten(Layer):
    """All elements of each image as a row."""

    def forward(self, x: Array, run: Pass) -> tuple[Array, Back]:
        """Return the rows."""
        return x.reshape(len(x), -1), lambda dy, gradients: dy.reshape(x.shape)


class Chain(Layer):
    """Layers one after another."""

    def __init__(self, *layers: Layer) -> None:
        self.layers = layers

    def initial(self, random: np.random.Generator) -> Arrays:
        """Return those of all layers."""
        return {name: x for layer in self.layers for name, x in layer.initial(random).items()}

    def statistics(self) -> Arrays:
        """Return those of all layers."""
        return {name: x for layer in self.layers for name, x in layer.statistics().items()}

    def forward(self, x: Array, run: Pass) -> tuple[Array, Back]:
        """Return what the last layer gives."""
        backs = []
        for layer in self.layers:
            x, back = layer.forward(x, run)
            backs.append(back)

        def all_back(dy: Array, gradients: Arrays) -> Any:
            while backs:  # what a layer kept is let go as soon as it was used
                dy = backs.pop()(dy, gradients)
            return dy

        return x, all_back


class Residual(Layer):
    """``relu(main(x) + shortcut(x))``: He et al., arXiv 1512.03385, figure 2."""

    def __init__(self, main: Layer, shortcut: Layer | None = None) -> None:
        self.main = main
        self.shortcut = Chain() if shortcut is None else shortcut

    def initial(self, random: np.random.Generator) -> Arrays:
        """Return those of both ways."""
        return self.main.initial(random) | self.shortcut.initial(random)

    def statistics(self) -> Arrays:
        """Return those of both ways."""
        return self.main.statistics() | self.shortcut.statistics()

    def forward(self, x: Array, run: Pass) -> tuple[Array, Back]:
        """Return the activated sum."""
        main, main_back = self.main.forward(x, run)
        short, short_back = self.shortcut.forward(x, run)
        y = sum_and_relu(main, short)

        def back(dy: Array, gradients: Arrays) -> Any:
            # From the result, which the next layer keeps too; the gradients of both are the same.
            dy = nnk.relu_backward(dy, y)
            dx = main_back(dy, gradients)
            dx += short_back(dy, gradients)
            return dx

        return y, back


@nnk.fuse
def sum_and_relu(x: Array, y: Array) -> Array:
    """Return both in one pass over memory."""
    return nnk.relu(x + y)
