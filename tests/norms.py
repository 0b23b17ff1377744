"""Calls of normalisations, and how far their results may lie from the references."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from comparing import assert_close, wide
from layouts import place
from strategies import layouts, make_numbers

from nnkernels import registry
from nnkernels.dispatch.dtypes import numpy_dtype

OPS = {op.name: op for op in registry.all_ops().values() if op.family == "norm"}


@dataclass
class Call:
    """A normalisation: its arguments by name, None for a parameter that is not given.

    Attributes
    ----------
    name : str
        Of the forward function.
    shared : dict
        Options of the function and of its gradient.
    own : dict
        Options of the function alone.
    """

    name: str
    x: np.ndarray
    parameters: list[Any] = field(default_factory=list)
    shared: dict[str, Any] = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)

    @property
    def forward(self) -> Any:
        return OPS[self.name]

    @property
    def backward(self) -> Any:
        return OPS[f"{self.name}_backward"]

    def run(self, backend: Any, **more: Any) -> Any:
        return self._call(self.forward, backend, [self.x], self.own | more)

    def run_backward(self, backend: Any, dy: np.ndarray, **more: Any) -> Any:
        return self._call(self.backward, backend, [dy, self.x], more)

    def _call(self, op: Any, backend: Any, first: list[Any], more: dict[str, Any]) -> Any:
        arrays = [None if a is None else backend.array(a) for a in (*first, *self.parameters)]
        more = {k: backend.array(v) if isinstance(v, np.ndarray) else v for k, v in more.items()}
        arguments, options = op.arguments(arrays, self.shared | more)
        return op.function(*arguments, **options)

    def expected(self, **more: Any) -> Any:
        arrays, options = self.forward.arguments(
            [self.x, *self.parameters], self.shared | self.own | more
        )
        return self.forward.reference(*arrays, **options)

    def expected_backward(self, dy: np.ndarray, **more: Any) -> Any:
        arrays, options = self.backward.arguments(
            [dy, self.x, *self.parameters], self.shared | more
        )
        return self.backward.reference(*arrays, **options)

    # ---- sizes of rounding errors ----------------------------------------------------------------

    @property
    def channel(self) -> int:
        return self.shared.get("axis", 1) % self.x.ndim

    def axes(self) -> tuple[int, ...]:
        """What the statistics run over, in the view of `view`."""
        if self.name in ("layer_norm", "rms_norm"):
            axis, rank = self.shared.get("axis", -1), self.x.ndim
            axes = range(rank) if axis is None else (axis,) if isinstance(axis, int) else axis
            return tuple(a % rank for a in axes)
        if self.name == "batch_norm":
            return tuple(range(1, self.x.ndim))
        return (1, *range(2 + (self.channel > 0), self.x.ndim + 1))

    def view(self, x: np.ndarray) -> np.ndarray:
        """x with what the statistics run over on axes of their own: as the references have it."""
        if self.name in ("layer_norm", "rms_norm"):
            return x
        x = np.moveaxis(x, self.channel, 0)
        if self.name == "batch_norm":
            return x
        groups = self.shared.get("num_groups", max(x.shape[0], 1))
        return x.reshape(groups, x.shape[0] // groups, *x.shape[1:])

    def unview(self, y: np.ndarray) -> np.ndarray:
        if self.name in ("layer_norm", "rms_norm"):
            return y
        if self.name != "batch_norm":
            y = y.reshape(y.shape[0] * y.shape[1], *y.shape[2:])
        return np.moveaxis(y, 0, self.channel)

    def parameter(self, index: int, default: float) -> Any:
        """A parameter's magnitude, to broadcast with the view."""
        given = self.parameters[index] if index < len(self.parameters) else None
        if given is None:
            return default
        values = np.abs(wide(given))
        if self.name == "rms_norm":
            values = values + abs(self.shared.get("offset", 0.0))
        view = self.view(self.x)
        if self.name in ("layer_norm", "rms_norm"):
            axes = self.axes()
            others = tuple(a for a in range(view.ndim) if a not in axes)
            return np.expand_dims(values.transpose(np.argsort(axes)), others)
        channels = 1 if self.name == "batch_norm" else 2
        sides = view.shape[:channels]
        return values.reshape(*sides, *(1,) * (view.ndim - channels))

    def statistics(self) -> tuple[Any, Any]:
        """The size of mean, and the reciprocal deviation."""
        view, eps = wide(self.view(self.x)), self.shared.get("eps", 1e-5)
        with np.errstate(all="ignore"):
            if self.name == "rms_norm":
                square = _mean(np.square(view), self.axes())
                return 0.0, 1 / np.sqrt(square + self.shared.get("eps", 1e-6))
            if self.name == "batch_norm" and not self.shared.get("training", False):
                return self.parameter(2, 0.0), 1 / np.sqrt(self.parameter(3, 1.0) + eps)
            mean = _mean(view, self.axes())
            variance = _mean(np.square(view - mean), self.axes())
            return np.abs(mean), 1 / np.sqrt(variance + eps)

    def size_of_xhat(self) -> np.ndarray:
        """What rounding errors of the normalised numbers are relative to."""
        mean, reciprocal = self.statistics()
        return (np.abs(wide(self.view(self.x))) + mean) * reciprocal

    def assert_right(self, y: np.ndarray, what: str = "", expected: Any = None) -> None:
        """Raise unless a result is that of the reference."""
        with np.errstate(all="ignore"):
            size = self.size_of_xhat() * self.parameter(0, 1.0) + self.parameter(1, 0.0)
            size = self.unview(np.broadcast_to(size, self.view(self.x).shape))
        expected = self.expected() if expected is None else expected
        assert_close(y, expected, self.length, _finite(size), f"{self.name}{what}")

    def assert_right_backward(
        self, found: Any, dy: np.ndarray, what: str = "", **more: Any
    ) -> None:
        """Raise unless gradients are those of the reference."""
        expected = self.expected_backward(dy, **more)
        sizes = self._sizes_of_gradients(dy)
        if "dresidual" in more:
            sizes[0] = sizes[0] + np.abs(wide(more["dresidual"]))
        names = ("dx", "dweight", "dbias")
        assert len(found) == len(expected)
        for got, wanted, size, name in zip(found, expected, sizes, names, strict=False):
            if wanted is None:
                assert got is None, name
                continue
            length = max(self.length, self.x.size // max(wanted.size, 1))
            assert_close(got, wanted, length, _finite(size), f"{name} of {self.name}{what}")

    @property
    def length(self) -> int:
        view = self.view(self.x)
        return max(int(np.prod([view.shape[a] for a in self.axes()])), 1)

    def _sizes_of_gradients(self, dy: np.ndarray) -> list[Any]:
        axes = self.axes()
        mean, reciprocal = self.statistics()
        weight = self.parameter(0, 1.0)
        with np.errstate(all="ignore"):
            of_xhat = self.size_of_xhat()
            xhat = np.abs(wide(self.view(self.x)) - mean) * reciprocal
            xhat = np.minimum(of_xhat, xhat + 1)
            dz = np.abs(wide(self.view(dy)))
            if self.shared.get("activation"):
                dz = dz * 1.2 * (1 + of_xhat * weight + self.parameter(1, 0.0))
            g = dz * weight
            size = g
            if self.name != "batch_norm" or self.shared.get("training", False):
                size = (
                    g
                    + _mean(g, axes)
                    + of_xhat * _mean(g * xhat, axes)
                    + xhat * _mean(g * of_xhat, axes)
                )
            dx = self.unview(np.broadcast_to(size * reciprocal, dz.shape))
            sums = [self._summed(part) for part in (dz * of_xhat, dz)]
        return [dx, *sums]

    def _summed(self, part: np.ndarray) -> np.ndarray:
        axes = self.axes()
        if self.name in ("layer_norm", "rms_norm"):
            others = tuple(a for a in range(part.ndim) if a not in axes)
            order = np.argsort(np.argsort(axes))
            return part.sum(others).transpose(order)
        return part.sum(tuple(range(1 if self.name == "batch_norm" else 2, part.ndim))).reshape(-1)


def _mean(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The mean along axes; NaN of nothing, without a warning."""
    return x.sum(axes, keepdims=True) / np.float64(np.prod([x.shape[a] for a in axes]))


def _finite(size: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(size), size, 0.0)


# ---- calls from random numbers ------------------------------------------------------------------


def parameter_shape(name: str, shape: tuple[int, ...], shared: dict[str, Any]) -> tuple[int, ...]:
    """The shape of weight and bias."""
    if name in ("layer_norm", "rms_norm"):
        axis = shared.get("axis", -1)
        axes = range(len(shape)) if axis is None else (axis,) if isinstance(axis, int) else axis
        return tuple(shape[a] for a in axes)
    return (shape[shared.get("axis", 1)],)


def make_call(
    name: str,
    generator: np.random.Generator,
    shape: tuple[int, ...],
    dtype: str = "float32",
    parameters: str | None = "same",
    x: np.ndarray | None = None,
    **options: Any,
) -> Call:
    """A call with all parameters, of the dtype of x ("same"), of another, or with none (None)."""
    own = {key: options.pop(key) for key in ("momentum",) if key in options}
    found: list[Any] = []
    if parameters is not None:
        kind = dtype if parameters == "same" else parameters
        sides = parameter_shape(name, shape, options)
        found = [make_numbers(generator, sides, kind) for _ in OPS[name].arrays[1:]]
        if name == "batch_norm":
            found[3] = np.abs(found[3]) + numpy_dtype(kind).type(0.25)
    if x is None:
        x = make_numbers(generator, shape, dtype)
    return Call(name, x, found, options, own)


def laid_out(draw: Any, values: Any, backend: Any) -> Any:
    """Values, or None, in a layout drawn for them."""
    if values is None:
        return None
    return place(values, draw(layouts(values.shape, values.dtype.itemsize, backend.is_cpu)))
