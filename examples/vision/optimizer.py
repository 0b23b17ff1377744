"""Stochastic gradient descent with momentum, each update one pass over memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from layers import Array, Arrays

import nnkernels as nnk


@nnk.fuse
def descend(
    weight: Array, gradient: Array, velocity: Array, rate: float, momentum: float, decay: float
) -> tuple[Array, Array]:
    """Return the new weight and velocity: ``v = momentum v + g + decay w``, ``w -= rate v``."""
    velocity = momentum * velocity + (gradient + decay * weight)
    return weight - rate * velocity, velocity


@nnk.fuse
def descend_and_round(
    weight: Array,
    gradient: Array,
    velocity: Array,
    copy: Array,
    rate: float,
    momentum: float,
    decay: float,
    scale: float,
) -> tuple[Array, Array, Array]:
    """Return also the weight as the network reads it, of the dtype of ``copy``."""
    velocity = momentum * velocity + (scale * gradient.astype(weight.dtype) + decay * weight)
    weight = weight - rate * velocity
    return weight, velocity, weight.astype(copy.dtype)


class Descent:
    """Parameters in float32 with their velocities, and copies for a network of another dtype.

    Parameters
    ----------
    masters : dict of arrays
        The parameters, float32; they change in place.
    dtype : dtype
        In which the network computes.
    momentum, decay : float
        Of the velocities and of the weights. As is usual, vectors (biases, norms) do not decay.
    """

    def __init__(self, masters: Arrays, dtype: Any, momentum: float, decay: float) -> None:
        self.masters = masters
        self.momentum = momentum
        self.decay = decay
        self.velocities = {name: 0 * x for name, x in masters.items()}
        narrow = np.dtype(dtype) != np.dtype(np.float32)
        # float32 stays what norms read: the mean of many small changes needs it.
        self.parameters = {
            name: x.astype(dtype) if narrow and ".norm" not in f".{name}" else x
            for name, x in masters.items()
        }

    def renew(self) -> None:
        """Round the masters again, after they were replaced."""
        for name, x in self.masters.items():
            if self.parameters[name] is not x:
                self.parameters[name][...] = x.astype(self.parameters[name].dtype)

    def step(self, gradients: Arrays, rate: float, scale: float = 1.0) -> None:
        """Descend by gradients that were multiplied by ``1 / scale``."""
        for name, gradient in gradients.items():
            master, velocity = self.masters[name], self.velocities[name]
            decay = self.decay if master.ndim > 1 else 0.0
            numbers = rate, self.momentum, decay
            copy = self.parameters[name]
            if copy is not master:
                out = master, velocity, copy
                descend_and_round(master, gradient, velocity, copy, *numbers, scale, out=out)
                continue
            if scale != 1.0:
                gradient = gradient * np.float32(scale)
            descend(master, gradient, velocity, *numbers, out=(master, velocity))


def cosine(rate: float, step: int, steps: int, warmup: int) -> float:
    """Return the rate of a step: it rises linearly, then falls as a half cosine to 0.

    Loshchilov & Hutter, arXiv 1608.03983, without restarts.
    """
    if step < warmup:
        return rate * (step + 1) / warmup
    return 0.5 * rate * (1.0 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))
