"""Stochastic gradient descent with momentum: one pass over memory for all weights."""

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


class Joined:
    """Arrays by name in one piece of memory, so that one launch does for all of them.

    Parameters
    ----------
    arrays : dict of arrays
        Of one dtype: what the names and shapes are, in their order.
    """

    def __init__(self, arrays: Arrays) -> None:
        self._places: list[tuple[str, int, int, tuple[int, ...]]] = []
        start = 0
        for name, x in arrays.items():
            self._places.append((name, start, start + x.size, x.shape))
            start += x.size

    def join(self, arrays: Arrays) -> Array:
        """Return a row of copies of arrays of these names and shapes."""
        parts = [arrays[name].reshape(-1) for name, *_ in self._places]
        return np.concatenate(parts)  # NumPy asks CuPy, where arrays are CuPy's

    def views(self, row: Array) -> Arrays:
        """Return the arrays in such a row."""
        return {name: row[a:b].reshape(shape) for name, a, b, shape in self._places}


class Group:
    """Parameters that are updated together, in one launch.

    Parameters
    ----------
    masters : dict of arrays
        The parameters, float32.
    dtype : dtype
        Of what the network reads.
    decay : float
        Of these weights.
    """

    def __init__(self, masters: Arrays, dtype: Any, decay: float) -> None:
        self.joined = Joined(masters)
        self.decay = decay
        self.masters = self.joined.join(masters)
        self.velocities = 0 * self.masters
        self.parameters = self.masters.astype(dtype, copy=False)

    def step(self, gradients: Arrays, rate: float, momentum: float, scale: float) -> None:
        """Descend by the gradients of all."""
        gradient = self.joined.join(gradients)
        masters, velocities, copy = self.masters, self.velocities, self.parameters
        numbers = rate, momentum, self.decay
        if copy is not masters:
            out = masters, velocities, copy
            descend_and_round(masters, gradient, velocities, copy, *numbers, scale, out=out)
            return
        if scale != 1.0:
            gradient *= np.float32(scale)
        descend(masters, gradient, velocities, *numbers, out=(masters, velocities))


class Descent:
    """Parameters in float32 with their velocities, and copies for a network of another dtype.

    Parameters
    ----------
    masters : dict of arrays
        The first parameters, float32.
    dtype : dtype
        In which the network computes.
    momentum, decay : float
        Of the velocities and of the weights. As is usual, vectors (biases, norms) do not decay.

    Attributes
    ----------
    masters, velocities, parameters : dict of arrays
        By name, and what the network reads. A step changes all of them in place.
    """

    def __init__(self, masters: Arrays, dtype: Any, momentum: float, decay: float) -> None:
        self.momentum = momentum
        # float32 stays what norms read: the mean of many small changes needs it.
        kinds = {
            name: (x.ndim > 1, np.dtype(np.float32 if ".norm" in f".{name}" else dtype))
            for name, x in masters.items()
        }
        self.groups = [
            Group({n: x for n, x in masters.items() if kinds[n] == kind}, kind[1], decay * kind[0])
            for kind in dict.fromkeys(kinds.values())
        ]
        self.masters = self._by_name(masters, "masters")
        self.velocities = self._by_name(masters, "velocities")
        self.parameters = self._by_name(masters, "parameters")

    def _by_name(self, order: Arrays, part: str) -> Arrays:
        found: Arrays = {}
        for group in self.groups:
            found |= group.joined.views(getattr(group, part))
        return {name: found[name] for name in order}

    def renew(self) -> None:
        """Round the masters again, after they were replaced."""
        for group in self.groups:
            if group.parameters is not group.masters:
                group.parameters[...] = group.masters.astype(group.parameters.dtype)

    def step(self, gradients: Arrays, rate: float, scale: float = 1.0) -> None:
        """Descend by gradients that were multiplied by ``1 / scale``."""
        for group in self.groups:
            group.step(gradients, rate, self.momentum, scale)


def cosine(rate: float, step: int, steps: int, warmup: int) -> float:
    """Return the rate of a step: it rises linearly, then falls as a half cosine to 0.

    Loshchilov & Hutter, arXiv 1608.03983, without restarts.
    """
    if step < warmup:
        return rate * (step + 1) / warmup
    return 0.5 * rate * (1.0 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))
