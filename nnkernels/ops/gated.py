"""Gated linear units, one operand scaled by an activation of the other, and their gradients."""

from __future__ import annotations

from nnkernels._typing import Array
from nnkernels.dispatch import elementwise
from nnkernels.ops._public import public

__all__ = [
    "geglu",
    "geglu_backward",
    "glu",
    "glu_backward",
    "swiglu",
    "swiglu_backward",
]


def _functor(name: str, *names: str, outputs: int = 1) -> elementwise.Functor:
    return elementwise.Functor(name, "gated", len(names), outputs=outputs, kinds="f", names=names)


_GLU = _functor("Glu", "x", "x")
_GLU_BACKWARD = _functor("GluBackward", "dy", "x", "x", outputs=2)
_SWIGLU = _functor("Swiglu", "x", "gate")
_SWIGLU_BACKWARD = _functor("SwigluBackward", "dy", "x", "gate", outputs=2)
_GEGLU = _functor("Geglu", "x", "gate")
_GEGLU_BACKWARD = _functor("GegluBackward", "dy", "x", "gate", outputs=2)


@public
def glu(x: Array, /, *, axis: int = -1, out: Array | None = None) -> Array:
    """Gated linear unit: ``y = a sigmoid(b)``, a and b being the halves of x along an axis.

    {x}
    axis : int, default -1
        The axis that is halved. Its length is even.
    {out of half the shape}

    Notes
    -----
    The halves are views: nothing is copied.

    References
    ----------
    Y. N. Dauphin, A. Fan, M. Auli and D. Grangier, "Language modeling with gated convolutional
    networks", arXiv:1612.08083.

    {examples}
    >>> nnk.glu(np.array([1.0, 2.0, 0.0, 1000.0])).tolist()
    [0.5, 2.0]
    """
    return elementwise.apply(_GLU, elementwise.split_halves(x, axis, "x"), params=(), out=out)


@public
def glu_backward(dy: Array, x: Array, /, *, axis: int = -1, out: Array | None = None) -> Array:
    """Gradient of `glu`: ``da = dy s`` and ``db = dy a s (1 - s)`` with s = sigmoid(b).

    {dy, x}
    axis : int, default -1
        As in `glu`.
    {gradient after options}

    {examples}
    >>> nnk.glu_backward(np.array([1.0]), np.array([2.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    a, b = elementwise.split_halves(x, axis, "x")
    dx = elementwise.empty_like(x) if out is None else out
    halves = elementwise.split_halves(dx, axis, "out")
    elementwise.apply(_GLU_BACKWARD, (dy, a, b), params=(), out=halves)
    return dx


@public
def swiglu(x: Array, gate: Array, /, *, out: Array | None = None) -> Array:
    """Swish-gated linear unit: ``y = x silu(gate)``.

    {x, gate}
    {out of two operands}

    Notes
    -----
    In a LLaMA feed-forward block, x is the "up" projection and gate the "gate" projection.

    References
    ----------
    N. Shazeer, "GLU variants improve transformer", arXiv:2002.05202.

    {examples}
    >>> nnk.swiglu(np.array([1.0, 2.0]), np.array([1.0, -1.0])).round(4).tolist()
    [0.7311, -0.5379]
    """
    return elementwise.apply(_SWIGLU, (x, gate), params=(), out=out)


@public
def swiglu_backward(dy: Array, x: Array, gate: Array, /) -> tuple[Array, Array]:
    """Gradients of `swiglu`.

    ``dx = dy silu(gate)`` and ``dgate = dy x (s + gate s (1 - s))`` with s = sigmoid(gate).

    {dy, x, gate}

    {gradients}

    {raises}

    {examples}
    >>> dx, dgate = nnk.swiglu_backward(np.ones(1), np.array([2.0]), np.array([1.0]))
    >>> dx.round(4).tolist(), dgate.round(4).tolist()
    ([0.7311], [1.8553])
    """
    return _gradients(_SWIGLU_BACKWARD, dy, x, gate)


@public
def geglu(x: Array, gate: Array, /, *, out: Array | None = None) -> Array:
    """GELU-gated linear unit: ``y = x gelu(gate)``.

    {x, gate}
    {out of two operands}

    References
    ----------
    N. Shazeer, "GLU variants improve transformer", arXiv:2002.05202.

    {examples}
    >>> nnk.geglu(np.array([1.0, 2.0]), np.array([1.0, -1.0])).round(4).tolist()
    [0.8413, -0.3173]
    """
    return elementwise.apply(_GEGLU, (x, gate), params=(), out=out)


@public
def geglu_backward(dy: Array, x: Array, gate: Array, /) -> tuple[Array, Array]:
    """Gradients of `geglu`.

    ``dx = dy gelu(gate)`` and ``dgate = dy x (cdf(gate) + gate pdf(gate))`` with the normal
    distribution.

    {dy, x, gate}

    {gradients}

    {raises}

    {examples}
    >>> dx, dgate = nnk.geglu_backward(np.ones(1), np.array([2.0]), np.array([1.0]))
    >>> dx.round(4).tolist(), dgate.round(4).tolist()
    ([0.8413], [2.1666])
    """
    return _gradients(_GEGLU_BACKWARD, dy, x, gate)


def _gradients(
    functor: elementwise.Functor, dy: Array, x: Array, gate: Array
) -> tuple[Array, Array]:
    """Both gradients, each summed over the axes along which its operand was broadcast."""
    shapes = tuple(tuple(getattr(operand, "shape", ())) for operand in (x, gate))
    return elementwise.apply_and_sum(functor, (dy, x, gate), (), shapes)
