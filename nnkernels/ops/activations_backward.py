"""Gradients of the activation functions: the cotangent times the derivative.

Four of them take the result ``y`` of the activation, from which the derivative follows exactly
and, for sigmoid and tanh, without another exponential; the others take its operand ``x``. For
complex numbers the gradient is ``dy conj(f'(x))``, PyTorch's convention.
"""

from __future__ import annotations

from math import inf, isfinite

from nnkernels._typing import Array
from nnkernels.dispatch import elementwise
from nnkernels.ops import _options
from nnkernels.ops._public import public
from nnkernels.ops.activations import interval, unknown_approximation

__all__ = [
    "celu_backward",
    "elu_backward",
    "gelu_backward",
    "hard_shrink_backward",
    "hard_sigmoid_backward",
    "hard_swish_backward",
    "hard_tanh_backward",
    "leaky_relu_backward",
    "lisht_backward",
    "log_cosh_backward",
    "log_sigmoid_backward",
    "mish_backward",
    "prelu_backward",
    "relu6_backward",
    "relu_backward",
    "selu_backward",
    "sigmoid_backward",
    "silu_backward",
    "soft_shrink_backward",
    "softplus_backward",
    "softsign_backward",
    "tanh_backward",
    "tanh_shrink_backward",
    "threshold_relu_backward",
]


def _functor(name: str, kinds: str = "f", residual: str = "x") -> elementwise.Functor:
    names = ("dy", residual)
    return elementwise.Functor(name, "activations", inputs=2, outputs=1, kinds=kinds, names=names)


_RELU = _functor("ReluBackward", residual="y")
_RELU6 = _functor("Relu6Backward", residual="y")
_LEAKY_RELU = _functor("LeakyReluBackward")
_PRELU = elementwise.Functor(
    "PreluBackward", "activations", inputs=3, outputs=2, kinds="f", names=("dy", "x", "weight")
)
_THRESHOLD_RELU = _functor("ThresholdReluBackward")
_ELU = _functor("EluBackward")
_CELU = _functor("CeluBackward")
_SELU = _functor("SeluBackward")
_SIGMOID = _functor("SigmoidBackward", kinds="fc", residual="y")
_LOG_SIGMOID = _functor("LogSigmoidBackward")
_HARD_SIGMOID = _functor("HardSigmoidBackward")
_SOFTPLUS = _functor("SoftplusBackward")
_TANH = _functor("TanhBackward", kinds="fc", residual="y")
_HARD_TANH = _functor("HardTanhBackward")
_TANH_SHRINK = _functor("TanhShrinkBackward", kinds="fc")
_LISHT = _functor("LishtBackward")
_LOG_COSH = _functor("LogCoshBackward")
_SOFTSIGN = _functor("SoftsignBackward")
_SILU = _functor("SiluBackward", kinds="fc")
_MISH = _functor("MishBackward")
_HARD_SWISH = _functor("HardSwishBackward")
_SHRINK = _functor("ShrinkBackward")

# The functor and its scalars for each approximation, as in the forward function.
_GELU = {
    "none": (_functor("GeluBackward"), ()),
    "tanh": (_functor("GeluTanhBackward"), ()),
    "sigmoid": (_functor("SiluBackward"), (1.702,)),
}


# ---- rectifiers ----------------------------------------------------------------------------


@public
def relu_backward(dy: Array, y: Array, /, *, out: Array | None = None) -> Array:
    """Gradient of `relu`: ``dx = dy`` where y > 0, else 0.

    {dy, y}
    {gradient}

    Notes
    -----
    Where y is NaN, dx is dy, as in PyTorch.

    {examples}
    >>> nnk.relu_backward(np.array([3.0, 3.0]), nnk.relu(np.array([-1.0, 2.0]))).tolist()
    [0.0, 3.0]
    """
    return elementwise.apply(_RELU, (dy, y), params=(), out=out)


@public
def relu6_backward(dy: Array, y: Array, /, *, out: Array | None = None) -> Array:
    """Gradient of `relu6`: ``dx = dy`` where 0 < y < 6, else 0.

    {dy, y}
    {gradient}

    Notes
    -----
    Where y is NaN, dx is dy, as in PyTorch.

    {examples}
    >>> nnk.relu6_backward(np.array([3.0, 3.0]), nnk.relu6(np.array([2.0, 7.0]))).tolist()
    [3.0, 0.0]
    """
    return elementwise.apply(_RELU6, (dy, y), params=(), out=out)


@public
def leaky_relu_backward(
    dy: Array, x: Array, /, *, negative_slope: float = 0.01, out: Array | None = None
) -> Array:
    """Gradient of `leaky_relu`: ``dx = dy`` where x > 0, else ``negative_slope dy``.

    {dy, x}
    negative_slope : float, default 0.01
        As in `leaky_relu`.
    {gradient after options}

    {examples}
    >>> nnk.leaky_relu_backward(np.ones(2), np.array([-2.0, 2.0]), negative_slope=0.25).tolist()
    [0.25, 1.0]
    """
    if type(negative_slope) is not float or not isfinite(negative_slope):
        negative_slope = _options.finite("negative_slope", negative_slope)
    return elementwise.apply(_LEAKY_RELU, (dy, x), params=(negative_slope,), out=out)


@public
def prelu_backward(dy: Array, x: Array, weight: Array, /, *, axis: int = 1) -> tuple[Array, Array]:
    """Gradients of `prelu`.

    ``dx = dy`` where x > 0, else ``weight dy``; ``dweight`` is the sum of ``dy min(x, 0)`` over
    the elements that share a weight.

    {dy, x}
    weight : array
        As in `prelu`.
    axis : int, default 1
        As in `prelu`.

    Returns
    -------
    dx, dweight : array
        Of the shapes of ``x`` and ``weight``, and the promoted dtype of the operands.

    {raises}

    {examples}
    >>> x = np.array([[-1.0, -1.0], [2.0, -4.0]])
    >>> dx, dweight = nnk.prelu_backward(np.ones((2, 2)), x, np.array([0.5, 0.25]))
    >>> dx.tolist(), dweight.tolist()
    ([[0.5, 0.25], [1.0, 0.25]], [-1.0, -5.0])
    """
    slope = elementwise.along_axis(weight, x, axis, "weight")
    shapes = (tuple(x.shape), tuple(getattr(slope, "shape", ())))
    dx, dweight = elementwise.apply_and_sum(_PRELU, (dy, x, slope), (), shapes)
    # The slope has axes of length 1 after that of the weights; they go again.
    extra = len(shapes[1]) - len(getattr(weight, "shape", ()))
    return dx, dweight[(..., *(0,) * extra)] if extra >= 0 else dweight[None]


@public
def threshold_relu_backward(
    dy: Array, x: Array, /, *, theta: float = 1.0, out: Array | None = None
) -> Array:
    """Gradient of `threshold_relu`: ``dx = dy`` where x > theta, else 0.

    {dy, x}
    theta : float, default 1.0
        As in `threshold_relu`.
    {gradient after options}

    {examples}
    >>> nnk.threshold_relu_backward(np.ones(2), np.array([0.5, 1.5])).tolist()
    [0.0, 1.0]
    """
    if type(theta) is not float or not isfinite(theta):
        theta = _options.finite("theta", theta)
    return elementwise.apply(_THRESHOLD_RELU, (dy, x), params=(theta,), out=out)


# ---- exponential linear units --------------------------------------------------------------


@public
def elu_backward(dy: Array, x: Array, /, *, alpha: float = 1.0, out: Array | None = None) -> Array:
    """Gradient of `elu`: ``dx = dy`` where x > 0, else ``dy alpha exp(x)``.

    {dy, x}
    alpha : float, default 1.0
        As in `elu`.
    {gradient after options}

    {examples}
    >>> nnk.elu_backward(np.ones(2), np.array([-1.0, 2.0])).round(4).tolist()
    [0.3679, 1.0]
    """
    if type(alpha) is not float or not isfinite(alpha):
        alpha = _options.finite("alpha", alpha)
    return elementwise.apply(_ELU, (dy, x), params=(alpha,), out=out)


@public
def celu_backward(dy: Array, x: Array, /, *, alpha: float = 1.0, out: Array | None = None) -> Array:
    """Gradient of `celu`: ``dx = dy`` where x > 0, else ``dy exp(x / alpha)``.

    {dy, x}
    alpha : float, default 1.0
        As in `celu`.
    {gradient after options}

    {examples}
    >>> nnk.celu_backward(np.ones(2), np.array([-1.0, 2.0]), alpha=2.0).round(4).tolist()
    [0.6065, 1.0]
    """
    if type(alpha) is not float or not isfinite(alpha) or alpha == 0.0:
        alpha = _options.not_zero("alpha", alpha)
    return elementwise.apply(_CELU, (dy, x), params=(alpha,), out=out)


@public
def selu_backward(dy: Array, x: Array, /, *, out: Array | None = None) -> Array:
    """Gradient of `selu`: ``dx = scale dy`` where x > 0, else ``scale alpha exp(x) dy``.

    {dy, x}
    {gradient}

    {examples}
    >>> nnk.selu_backward(np.ones(2), np.array([-1.0, 2.0])).round(4).tolist()
    [0.6468, 1.0507]
    """
    return elementwise.apply(_SELU, (dy, x), params=(), out=out)


# ---- sigmoid, tanh and their relatives -----------------------------------------------------


@public
def sigmoid_backward(dy: Array, y: Array, /, *, out: Array | None = None) -> Array:
    """Gradient of `sigmoid`: ``dx = dy y (1 - y)``.

    {dy, y}
    {gradient}

    {examples}
    >>> nnk.sigmoid_backward(np.array([1.0, 2.0]), np.array([0.5, 0.25])).tolist()
    [0.25, 0.375]
    """
    return elementwise.apply(_SIGMOID, (dy, y), params=(), out=out)


@public
def log_sigmoid_backward(dy: Array, x: Array, /, *, out: Array | None = None) -> Array:
    """Gradient of `log_sigmoid`: ``dx = dy / (1 + exp(x))``.

    {dy, x}
    {gradient}

    {examples}
    >>> nnk.log_sigmoid_backward(np.ones(2), np.array([-1000.0, 0.0])).tolist()
    [1.0, 0.5]
    """
    return elementwise.apply(_LOG_SIGMOID, (dy, x), params=(), out=out)


@public
def hard_sigmoid_backward(
    dy: Array,
    x: Array,
    /,
    *,
    alpha: float = 1 / 6,
    beta: float = 0.5,
    out: Array | None = None,
) -> Array:
    """Gradient of `hard_sigmoid`: ``dx = alpha dy`` where 0 < alpha x + beta < 1, else 0.

    {dy, x}
    alpha, beta : float, default 1/6 and 0.5
        As in `hard_sigmoid`.
    {gradient after options}

    {examples}
    >>> nnk.hard_sigmoid_backward(np.full(2, 6.0), np.array([0.0, 3.0])).tolist()
    [1.0, 0.0]
    """
    if type(alpha) is not float or not isfinite(alpha):
        alpha = _options.finite("alpha", alpha)
    if type(beta) is not float or not isfinite(beta):
        beta = _options.finite("beta", beta)
    # The kinks as values of x: -3 and 3 exactly for the defaults. A flat line has none.
    low, high = (-beta / alpha, (1.0 - beta) / alpha) if alpha else (-inf, inf)
    if low > high:
        low, high = high, low
    return elementwise.apply(_HARD_SIGMOID, (dy, x), params=(alpha, low, high), out=out)


@public
def softplus_backward(
    dy: Array, x: Array, /, *, beta: float = 1.0, out: Array | None = None
) -> Array:
    """Gradient of `softplus`: ``dx = dy / (1 + exp(-beta x))``.

    {dy, x}
    beta : float, default 1.0
        As in `softplus`.
    {gradient after options}

    {examples}
    >>> nnk.softplus_backward(np.ones(2), np.array([0.0, 1000.0])).tolist()
    [0.5, 1.0]
    """
    if type(beta) is not float or not 0.0 < beta < inf:
        beta = _options.positive("beta", beta)
    return elementwise.apply(_SOFTPLUS, (dy, x), params=(beta,), out=out)


@public
def tanh_backward(dy: Array, y: Array, /, *, out: Array | None = None) -> Array:
    """Gradient of `tanh`: ``dx = dy (1 - y) (1 + y)``.

    {dy, y}
    {gradient}

    {examples}
    >>> nnk.tanh_backward(np.array([1.0, 2.0]), np.array([0.0, 0.5])).tolist()
    [1.0, 1.5]
    """
    return elementwise.apply(_TANH, (dy, y), params=(), out=out)


@public
def hard_tanh_backward(
    dy: Array,
    x: Array,
    /,
    *,
    min: float = -1.0,
    max: float = 1.0,
    out: Array | None = None,
) -> Array:
    """Gradient of `hard_tanh`: ``dx = dy`` where min < x < max, else 0.

    {dy, x}
    min, max : float, default -1.0 and 1.0
        As in `hard_tanh`.
    {gradient after options}

    Notes
    -----
    Where x is NaN, dx is dy, as in PyTorch.

    {examples}
    >>> nnk.hard_tanh_backward(np.ones(3), np.array([-1.0, 0.5, 3.0])).tolist()
    [0.0, 1.0, 0.0]
    """
    if type(min) is not float or type(max) is not float or not min <= max:
        min, max = interval(min, max)
    return elementwise.apply(_HARD_TANH, (dy, x), params=(min, max), out=out)


@public
def tanh_shrink_backward(dy: Array, x: Array, /, *, out: Array | None = None) -> Array:
    """Gradient of `tanh_shrink`: ``dx = dy tanh(x)^2``.

    {dy, x}
    {gradient}

    {examples}
    >>> nnk.tanh_shrink_backward(np.ones(2), np.array([0.0, 1.0])).round(4).tolist()
    [0.0, 0.58]
    """
    return elementwise.apply(_TANH_SHRINK, (dy, x), params=(), out=out)


@public
def lisht_backward(dy: Array, x: Array, /, *, out: Array | None = None) -> Array:
    """Gradient of `lisht`: ``dx = dy (t + x (1 - t^2))`` with t = tanh(x).

    {dy, x}
    {gradient}

    {examples}
    >>> nnk.lisht_backward(np.ones(2), np.array([0.0, 1.0])).round(4).tolist()
    [0.0, 1.1816]
    """
    return elementwise.apply(_LISHT, (dy, x), params=(), out=out)


@public
def log_cosh_backward(dy: Array, x: Array, /, *, out: Array | None = None) -> Array:
    """Gradient of `log_cosh`: ``dx = dy tanh(x)``.

    {dy, x}
    {gradient}

    {examples}
    >>> nnk.log_cosh_backward(np.ones(2), np.array([0.0, 1.0])).round(4).tolist()
    [0.0, 0.7616]
    """
    return elementwise.apply(_LOG_COSH, (dy, x), params=(), out=out)


@public
def softsign_backward(dy: Array, x: Array, /, *, out: Array | None = None) -> Array:
    """Gradient of `softsign`: ``dx = dy / (1 + |x|)^2``.

    {dy, x}
    {gradient}

    {examples}
    >>> nnk.softsign_backward(np.ones(2), np.array([0.0, -1.0])).tolist()
    [1.0, 0.25]
    """
    return elementwise.apply(_SOFTSIGN, (dy, x), params=(), out=out)


# ---- x times a smooth step of x ------------------------------------------------------------


@public
def silu_backward(dy: Array, x: Array, /, *, beta: float = 1.0, out: Array | None = None) -> Array:
    """Gradient of `silu`: ``dx = dy (s + beta x s (1 - s))`` with s = sigmoid(beta x).

    {dy, x}
    beta : float, default 1.0
        As in `silu`.
    {gradient after options}

    {examples}
    >>> nnk.silu_backward(np.ones(2), np.array([0.0, 1.0])).round(4).tolist()
    [0.5, 0.9277]
    """
    if type(beta) is not float or not isfinite(beta):
        beta = _options.finite("beta", beta)
    return elementwise.apply(_SILU, (dy, x), params=(beta,), out=out)


@public
def gelu_backward(
    dy: Array, x: Array, /, *, approximate: str = "none", out: Array | None = None
) -> Array:
    """Gradient of `gelu`: ``dx = dy (cdf(x) + x pdf(x))`` with the normal distribution.

    For an approximation it is the derivative of that formula.

    {dy, x}
    approximate : {"none", "tanh", "sigmoid"}, default "none"
        As in `gelu`.
    {gradient after options}

    {examples}
    >>> nnk.gelu_backward(np.ones(2), np.array([0.0, 1.0])).round(4).tolist()
    [0.5, 1.0833]
    """
    try:
        functor, params = _GELU[approximate]
    except (KeyError, TypeError):
        raise unknown_approximation(approximate) from None
    return elementwise.apply(functor, (dy, x), params=params, out=out)


@public
def mish_backward(dy: Array, x: Array, /, *, out: Array | None = None) -> Array:
    """Gradient of `mish`: ``dx = dy (t + x (1 - t^2) sigmoid(x))``, t = tanh(log(1 + exp(x))).

    {dy, x}
    {gradient}

    {examples}
    >>> nnk.mish_backward(np.ones(2), np.array([0.0, 1.0])).round(4).tolist()
    [0.6, 1.049]
    """
    return elementwise.apply(_MISH, (dy, x), params=(), out=out)


@public
def hard_swish_backward(dy: Array, x: Array, /, *, out: Array | None = None) -> Array:
    """Gradient of `hard_swish`: 0 where x <= -3, dy where x >= 3, else ``dy (x / 3 + 1 / 2)``.

    {dy, x}
    {gradient}

    {examples}
    >>> nnk.hard_swish_backward(np.ones(3), np.array([-4.0, 0.0, 4.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return elementwise.apply(_HARD_SWISH, (dy, x), params=(), out=out)


# ---- shrinkage -----------------------------------------------------------------------------


@public
def soft_shrink_backward(
    dy: Array, x: Array, /, *, lambd: float = 0.5, out: Array | None = None
) -> Array:
    """Gradient of `soft_shrink`: ``dx = dy`` where ``|x| > lambd``, else 0.

    {dy, x}
    lambd : float, default 0.5
        As in `soft_shrink`.
    {gradient after options}

    {examples}
    >>> nnk.soft_shrink_backward(np.ones(2), np.array([0.25, -2.0])).tolist()
    [0.0, 1.0]
    """
    if type(lambd) is not float or not 0.0 <= lambd < inf:
        lambd = _options.not_negative("lambd", lambd)
    return elementwise.apply(_SHRINK, (dy, x), params=(lambd,), out=out)


@public
def hard_shrink_backward(
    dy: Array, x: Array, /, *, lambd: float = 0.5, out: Array | None = None
) -> Array:
    """Gradient of `hard_shrink`: ``dx = dy`` where ``|x| > lambd``, else 0.

    {dy, x}
    lambd : float, default 0.5
        As in `hard_shrink`.
    {gradient after options}

    {examples}
    >>> nnk.hard_shrink_backward(np.ones(2), np.array([0.25, -2.0])).tolist()
    [0.0, 1.0]
    """
    if type(lambd) is not float or not 0.0 <= lambd < inf:
        lambd = _options.not_negative("lambd", lambd)
    return elementwise.apply(_SHRINK, (dy, x), params=(lambd,), out=out)
