"""Activation functions: one number in, one number out.

Their gradients are in ``activations_backward``.
"""

from __future__ import annotations

from math import inf, isfinite

from nnkernels._typing import Array
from nnkernels.dispatch import elementwise
from nnkernels.ops import _options
from nnkernels.ops._public import public

__all__ = [
    "celu",
    "elu",
    "gelu",
    "hard_shrink",
    "hard_sigmoid",
    "hard_swish",
    "hard_tanh",
    "leaky_relu",
    "lisht",
    "log_cosh",
    "log_sigmoid",
    "mish",
    "prelu",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "soft_shrink",
    "softplus",
    "softsign",
    "tanh",
    "tanh_shrink",
    "threshold_relu",
]


def _functor(name: str, kinds: str = "f", names: tuple[str, ...] = ("x",)) -> elementwise.Functor:
    return elementwise.Functor(name, "activations", len(names), outputs=1, kinds=kinds, names=names)


_RELU = _functor("Relu", kinds="fiu")
_RELU6 = _functor("Relu6", kinds="fiu")
_LEAKY_RELU = _functor("LeakyRelu")
_PRELU = _functor("Prelu", names=("x", "weight"))
_THRESHOLD_RELU = _functor("ThresholdRelu")
_ELU = _functor("Elu")
_CELU = _functor("Celu")
_SELU = _functor("Selu")
_SIGMOID = _functor("Sigmoid", kinds="fc")
_LOG_SIGMOID = _functor("LogSigmoid")
_HARD_SIGMOID = _functor("HardSigmoid")
_SOFTPLUS = _functor("Softplus")
_TANH = _functor("Tanh", kinds="fc")
_HARD_TANH = _functor("HardTanh", kinds="fiu")
_TANH_SHRINK = _functor("TanhShrink", kinds="fc")
_LISHT = _functor("Lisht")
_LOG_COSH = _functor("LogCosh")
_SOFTSIGN = _functor("Softsign")
_SILU = _functor("Silu", kinds="fc")
_MISH = _functor("Mish")
_HARD_SWISH = _functor("HardSwish")
_SOFT_SHRINK = _functor("SoftShrink")
_HARD_SHRINK = _functor("HardShrink")

# The functor and its scalars for each approximation. x sigmoid(1.702 x) is a silu.
_GELU = {
    "none": (_functor("Gelu"), ()),
    "tanh": (_functor("GeluTanh"), ()),
    "sigmoid": (_functor("Silu"), (1.702,)),
}


# ---- rectifiers ----------------------------------------------------------------------------


@public
def relu(x: Array, /, *, out: Array | None = None) -> Array:
    """Rectified linear unit: ``y = max(x, 0)``.

    {x, also integers}
    {out}

    Notes
    -----
    NaN gives NaN. The derivative at 0 is 0.

    References
    ----------
    V. Nair and G. E. Hinton, "Rectified linear units improve restricted Boltzmann machines",
    ICML 2010.

    {examples}
    >>> nnk.relu(np.array([-1.0, 0.0, 2.5])).tolist()
    [0.0, 0.0, 2.5]
    """
    return elementwise.apply(_RELU, (x,), params=(), out=out)


@public
def relu6(x: Array, /, *, out: Array | None = None) -> Array:
    """Rectified linear unit that saturates at 6: ``y = min(max(x, 0), 6)``.

    {x, also integers}
    {out}

    Notes
    -----
    NaN gives NaN. The derivative at 0 and at 6 is 0.

    References
    ----------
    A. Krizhevsky, "Convolutional deep belief networks on CIFAR-10", 2010.

    {examples}
    >>> nnk.relu6(np.array([-1, 4, 9], dtype=np.int8)).tolist()
    [0, 4, 6]
    """
    return elementwise.apply(_RELU6, (x,), params=(), out=out)


@public
def leaky_relu(x: Array, /, *, negative_slope: float = 0.01, out: Array | None = None) -> Array:
    """Leaky rectified linear unit: ``y = x`` where x > 0, else ``negative_slope x``.

    {x}
    negative_slope : float, default 0.01
        The derivative for x <= 0: any finite number.
    {out after options}

    References
    ----------
    A. L. Maas, A. Y. Hannun and A. Y. Ng, "Rectifier nonlinearities improve neural network
    acoustic models", ICML workshop 2013.

    {examples}
    >>> nnk.leaky_relu(np.array([-2.0, 3.0]), negative_slope=0.25).tolist()
    [-0.5, 3.0]
    """
    if type(negative_slope) is not float or not isfinite(negative_slope):
        negative_slope = _options.finite("negative_slope", negative_slope)
    return elementwise.apply(_LEAKY_RELU, (x,), params=(negative_slope,), out=out)


@public
def prelu(x: Array, weight: Array, /, *, axis: int = 1, out: Array | None = None) -> Array:
    """Rectified linear unit with a trained slope: ``y = x`` where x > 0, else ``weight x``.

    {x}
    weight : array
        The derivative for x <= 0: of shape ``(C,)``, one for each index of ``axis``, or of
        shape ``()`` or ``(1,)``, one for all.
    axis : int, default 1
        The axis of ``x`` of length C, not looked at where there is one weight for all.
    {out after options}

    References
    ----------
    K. He, X. Zhang, S. Ren and J. Sun, "Delving deep into rectifiers", arXiv:1502.01852.

    {examples}
    >>> x = np.array([[-1.0, -1.0], [2.0, -4.0]])
    >>> nnk.prelu(x, np.array([0.5, 0.25])).tolist()
    [[-0.5, -0.25], [2.0, -1.0]]
    """
    slope = elementwise.along_axis(weight, x, axis, "weight")
    return elementwise.apply(_PRELU, (x, slope), params=(), out=out)


@public
def threshold_relu(x: Array, /, *, theta: float = 1.0, out: Array | None = None) -> Array:
    """Thresholded rectified linear unit: ``y = x`` where x > theta, else 0.

    {x}
    theta : float, default 1.0
        Any finite number.
    {out after options}

    Notes
    -----
    NaN gives NaN. The derivative at theta is 0.

    References
    ----------
    K. Konda, R. Memisevic and D. Krueger, "Zero-bias autoencoders and the benefits of
    co-adapting features", arXiv:1402.3337; ONNX operator ThresholdedRelu.

    {examples}
    >>> nnk.threshold_relu(np.array([0.5, 1.0, 1.5])).tolist()
    [0.0, 0.0, 1.5]
    """
    if type(theta) is not float or not isfinite(theta):
        theta = _options.finite("theta", theta)
    return elementwise.apply(_THRESHOLD_RELU, (x,), params=(theta,), out=out)


# ---- exponential linear units --------------------------------------------------------------


@public
def elu(x: Array, /, *, alpha: float = 1.0, out: Array | None = None) -> Array:
    """Exponential linear unit: ``y = x`` where x > 0, else ``alpha (exp(x) - 1)``.

    {x}
    alpha : float, default 1.0
        Any finite number; -alpha is the limit for x to -inf.
    {out after options}

    References
    ----------
    D.-A. Clevert, T. Unterthiner and S. Hochreiter, "Fast and accurate deep network learning
    by exponential linear units", arXiv:1511.07289.

    {examples}
    >>> nnk.elu(np.array([-1.0, 0.0, 2.0])).round(4).tolist()
    [-0.6321, 0.0, 2.0]
    """
    if type(alpha) is not float or not isfinite(alpha):
        alpha = _options.finite("alpha", alpha)
    return elementwise.apply(_ELU, (x,), params=(alpha,), out=out)


@public
def celu(x: Array, /, *, alpha: float = 1.0, out: Array | None = None) -> Array:
    """Continuously differentiable ELU: ``y = x`` where x > 0, else ``alpha (exp(x / alpha) - 1)``.

    {x}
    alpha : float, default 1.0
        Any finite number but 0.
    {out after options}

    References
    ----------
    J. T. Barron, "Continuously differentiable exponential linear units", arXiv:1704.07483.

    {examples}
    >>> nnk.celu(np.array([-1.0, 0.0, 2.0]), alpha=2.0).round(4).tolist()
    [-0.7869, 0.0, 2.0]
    """
    if type(alpha) is not float or not isfinite(alpha) or alpha == 0.0:
        alpha = _options.not_zero("alpha", alpha)
    return elementwise.apply(_CELU, (x,), params=(alpha,), out=out)


@public
def selu(x: Array, /, *, out: Array | None = None) -> Array:
    """Self-normalising ELU: ``y = scale (x where x > 0, else alpha (exp(x) - 1))``.

    With scale = 1.0507009873554805 and alpha = 1.6732632423543772.

    {x}
    {out}

    References
    ----------
    G. Klambauer, T. Unterthiner, A. Mayr and S. Hochreiter, "Self-normalizing neural networks",
    arXiv:1706.02515.

    {examples}
    >>> nnk.selu(np.array([-1.0, 0.0, 2.0])).round(4).tolist()
    [-1.1113, 0.0, 2.1014]
    """
    return elementwise.apply(_SELU, (x,), params=(), out=out)


# ---- sigmoid, tanh and their relatives -----------------------------------------------------


@public
def sigmoid(x: Array, /, *, out: Array | None = None) -> Array:
    """Logistic function: ``y = 1 / (1 + exp(-x))``.

    {x, also complex}
    {out}

    Notes
    -----
    -inf gives 0, inf gives 1, NaN gives NaN.

    {examples}
    >>> nnk.sigmoid(np.array([-1.0, 0.0, 1.0])).round(4).tolist()
    [0.2689, 0.5, 0.7311]
    """
    return elementwise.apply(_SIGMOID, (x,), params=(), out=out)


@public
def log_sigmoid(x: Array, /, *, out: Array | None = None) -> Array:
    """Logarithm of the logistic function: ``y = -log(1 + exp(-x))``.

    {x}
    {out}

    Notes
    -----
    Computed as ``min(x, 0) - log1p(exp(-|x|))``, which neither overflows nor cancels.

    {examples}
    >>> nnk.log_sigmoid(np.array([-1000.0, 0.0, 1.0])).round(4).tolist()
    [-1000.0, -0.6931, -0.3133]
    """
    return elementwise.apply(_LOG_SIGMOID, (x,), params=(), out=out)


@public
def hard_sigmoid(
    x: Array, /, *, alpha: float = 1 / 6, beta: float = 0.5, out: Array | None = None
) -> Array:
    """Sigmoid of straight lines: ``y = min(max(alpha x + beta, 0), 1)``.

    {x}
    alpha, beta : float, default 1/6 and 0.5
        Any finite numbers. ONNX has 0.2 for the default of alpha.
    {out after options}

    Notes
    -----
    NaN gives NaN. The derivative at the two kinks is 0.

    References
    ----------
    M. Courbariaux, Y. Bengio and J.-P. David, "BinaryConnect", arXiv:1511.00363; ONNX operator
    HardSigmoid.

    {examples}
    >>> nnk.hard_sigmoid(np.array([-4.0, 0.0, 1.5, 4.0])).round(4).tolist()
    [0.0, 0.5, 0.75, 1.0]
    """
    if type(alpha) is not float or not isfinite(alpha):
        alpha = _options.finite("alpha", alpha)
    if type(beta) is not float or not isfinite(beta):
        beta = _options.finite("beta", beta)
    return elementwise.apply(_HARD_SIGMOID, (x,), params=(alpha, beta), out=out)


@public
def softplus(x: Array, /, *, beta: float = 1.0, out: Array | None = None) -> Array:
    """Smooth rectifier: ``y = log(1 + exp(beta x)) / beta``.

    {x}
    beta : float, default 1.0
        Above 0 and finite.
    {out after options}

    Notes
    -----
    Computed as ``max(x, 0) + log1p(exp(-|beta x|)) / beta``, which does not overflow: there is
    no threshold above which y = x is taken.

    References
    ----------
    C. Dugas, Y. Bengio, F. Bélisle, C. Nadeau and R. Garcia, "Incorporating second-order
    functional knowledge for better option pricing", NIPS 2000.

    {examples}
    >>> nnk.softplus(np.array([-1.0, 0.0, 1000.0])).round(4).tolist()
    [0.3133, 0.6931, 1000.0]
    """
    if type(beta) is not float or not 0.0 < beta < inf:
        beta = _options.positive("beta", beta)
    return elementwise.apply(_SOFTPLUS, (x,), params=(beta,), out=out)


@public
def tanh(x: Array, /, *, out: Array | None = None) -> Array:
    """Hyperbolic tangent.

    {x, also complex}
    {out}

    {examples}
    >>> nnk.tanh(np.array([-1.0, 0.0, 1.0])).round(4).tolist()
    [-0.7616, 0.0, 0.7616]
    """
    return elementwise.apply(_TANH, (x,), params=(), out=out)


@public
def hard_tanh(
    x: Array, /, *, min: float = -1.0, max: float = 1.0, out: Array | None = None
) -> Array:
    """Limit to an interval: ``y = min`` below min, ``max`` above max, else ``x``.

    {x, also integers}
    min, max : float, default -1.0 and 1.0
        The ends, min <= max; infinite ones limit nothing. For integers they are whole numbers,
        and one outside the range of the dtype means the end of that range.
    {out after options}

    Notes
    -----
    NaN gives NaN. The derivative at the ends is 0.

    {examples}
    >>> nnk.hard_tanh(np.array([-3.0, 0.5, 3.0])).tolist()
    [-1.0, 0.5, 1.0]
    """
    if type(min) is not float or type(max) is not float or not min <= max:
        min, max = interval(min, max)
    if not (min.is_integer() and max.is_integer()):
        min, max = _whole_bounds(x, min, max)
    return elementwise.apply(_HARD_TANH, (x,), params=(min, max), out=out)


def interval(low: object, high: object) -> tuple[float, float]:
    """Check the options min and max."""
    lower, upper = _options.number("min", low), _options.number("max", high)
    if lower > upper:
        raise ValueError(f"min must not be above max: got min={lower} and max={upper}")
    return lower, upper


def _whole_bounds(x: Array, low: float, high: float) -> tuple[float, float]:
    """Ends of an interval of which one is infinite or a fraction, as fits the dtype of x.

    Raises
    ------
    ValueError
        If x holds integers and an end lies between two of them.
    """
    if "int" not in str(getattr(x, "dtype", "")):
        return low, high
    for name, bound in (("min", low), ("max", high)):
        if isfinite(bound) and not bound.is_integer():
            raise ValueError(f"{name} must be a whole number for {x.dtype} arrays, not {bound}")
    beyond = 2.0**64  # no integer dtype reaches further, and it converts to an integer
    return max(low, -beyond), min(high, beyond)


@public
def tanh_shrink(x: Array, /, *, out: Array | None = None) -> Array:
    """What tanh takes away: ``y = x - tanh(x)``.

    {x, also complex}
    {out}

    Notes
    -----
    As the difference is taken in the type of the computation, its error near 0 is relative to
    x, not to y.

    {examples}
    >>> nnk.tanh_shrink(np.array([-1.0, 0.0, 3.0])).round(4).tolist()
    [-0.2384, 0.0, 2.0049]
    """
    return elementwise.apply(_TANH_SHRINK, (x,), params=(), out=out)


@public
def lisht(x: Array, /, *, out: Array | None = None) -> Array:
    """Linearly scaled hyperbolic tangent: ``y = x tanh(x)``.

    {x}
    {out}

    References
    ----------
    S. K. Roy, S. Manna, S. R. Dubey and B. B. Chaudhuri, "LiSHT: non-parametric linearly scaled
    hyperbolic tangent activation function for neural networks", arXiv:1901.05894.

    {examples}
    >>> nnk.lisht(np.array([-1.0, 0.0, 2.0])).round(4).tolist()
    [0.7616, 0.0, 1.9281]
    """
    return elementwise.apply(_LISHT, (x,), params=(), out=out)


@public
def log_cosh(x: Array, /, *, out: Array | None = None) -> Array:
    """Logarithm of the hyperbolic cosine: ``y = log(cosh(x))``.

    {x}
    {out}

    Notes
    -----
    Neither overflows for large |x| nor cancels for small ones.

    {examples}
    >>> nnk.log_cosh(np.array([-1000.0, 0.0, 1.0])).round(4).tolist()
    [999.3069, 0.0, 0.4338]
    """
    return elementwise.apply(_LOG_COSH, (x,), params=(), out=out)


@public
def softsign(x: Array, /, *, out: Array | None = None) -> Array:
    """Softsign: ``y = x / (1 + |x|)``.

    {x}
    {out}

    Notes
    -----
    -inf and inf give -1 and 1.

    References
    ----------
    J. Turian, J. Bergstra and Y. Bengio, "Quadratic features and deep architectures for
    chunking", NAACL 2009.

    {examples}
    >>> nnk.softsign(np.array([-1.0, 0.0, 3.0])).tolist()
    [-0.5, 0.0, 0.75]
    """
    return elementwise.apply(_SOFTSIGN, (x,), params=(), out=out)


# ---- x times a smooth step of x ------------------------------------------------------------


@public
def silu(x: Array, /, *, beta: float = 1.0, out: Array | None = None) -> Array:
    """Sigmoid linear unit, also called Swish: ``y = x / (1 + exp(-beta x))``.

    {x, also complex}
    beta : float, default 1.0
        Any finite number.
    {out after options}

    Notes
    -----
    -inf gives 0 (for beta > 0), NaN gives NaN.

    References
    ----------
    S. Elfwing, E. Uchibe and K. Doya, "Sigmoid-weighted linear units for neural network
    function approximation in reinforcement learning", arXiv:1702.03118; P. Ramachandran, B. Zoph
    and Q. V. Le, "Searching for activation functions", arXiv:1710.05941.

    {examples}
    >>> nnk.silu(np.array([-1.0, 0.0, 1.0])).round(4).tolist()
    [-0.2689, 0.0, 0.7311]
    """
    if type(beta) is not float or not isfinite(beta):
        beta = _options.finite("beta", beta)
    return elementwise.apply(_SILU, (x,), params=(beta,), out=out)


@public
def gelu(x: Array, /, *, approximate: str = "none", out: Array | None = None) -> Array:
    """Gaussian error linear unit: x times the normal distribution function of x.

    ``y = x (1 + erf(x / sqrt(2))) / 2``, or approximately
    ``y = x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`` or ``y = x sigmoid(1.702 x)``.

    {x}
    approximate : {"none", "tanh", "sigmoid"}, default "none"
        Which of the three formulas.
    {out after options}

    Notes
    -----
    The left tail is computed with erfc, or with exp, and does not cancel.
    -inf gives 0, NaN gives NaN.

    References
    ----------
    D. Hendrycks and K. Gimpel, "Gaussian error linear units", arXiv:1606.08415.

    {examples}
    >>> nnk.gelu(np.array([-1.0, 1.0])).round(4).tolist()
    [-0.1587, 0.8413]
    >>> nnk.gelu(np.array([-1.0, 1.0]), approximate="tanh").round(4).tolist()
    [-0.1588, 0.8412]
    """
    try:
        functor, params = _GELU[approximate]
    except (KeyError, TypeError):
        raise unknown_approximation(approximate) from None
    return elementwise.apply(functor, (x,), params=params, out=out)


def unknown_approximation(approximate: object) -> ValueError:
    """Make the error for an approximation that gelu does not have."""
    return ValueError(f'approximate must be "none", "tanh" or "sigmoid", not {approximate!r:.60}')


@public
def mish(x: Array, /, *, out: Array | None = None) -> Array:
    """Mish: ``y = x tanh(log(1 + exp(x)))``.

    {x}
    {out}

    Notes
    -----
    Computed as ``x n / (n + 2)`` with n = e (e + 2), e = exp(x): one exponential. -inf gives 0,
    NaN gives NaN.

    References
    ----------
    D. Misra, "Mish: a self regularized non-monotonic activation function", arXiv:1908.08681.

    {examples}
    >>> nnk.mish(np.array([-1.0, 0.0, 1.0])).round(4).tolist()
    [-0.3034, 0.0, 0.8651]
    """
    return elementwise.apply(_MISH, (x,), params=(), out=out)


@public
def hard_swish(x: Array, /, *, out: Array | None = None) -> Array:
    """Swish of straight lines: ``y = x min(max(x + 3, 0), 6) / 6``.

    {x}
    {out}

    Notes
    -----
    -inf gives 0, NaN gives NaN. The derivative at -3 is 0, at 3 it is 1.

    References
    ----------
    A. Howard et al., "Searching for MobileNetV3", arXiv:1905.02244.

    {examples}
    >>> nnk.hard_swish(np.array([-1.5, 0.0, 4.0])).tolist()
    [-0.375, 0.0, 4.0]
    """
    return elementwise.apply(_HARD_SWISH, (x,), params=(), out=out)


# ---- shrinkage -----------------------------------------------------------------------------


@public
def soft_shrink(x: Array, /, *, lambd: float = 0.5, out: Array | None = None) -> Array:
    """Soft threshold: x moved by lambd towards 0, and 0 where ``|x| <= lambd``.

    {x}
    lambd : float, default 0.5
        0 or more, and finite.
    {out after options}

    Notes
    -----
    NaN gives NaN. The derivative at -lambd and lambd is 0.

    References
    ----------
    D. L. Donoho, "De-noising by soft-thresholding", IEEE Transactions on Information Theory
    41(3), 1995.

    {examples}
    >>> nnk.soft_shrink(np.array([-2.0, 0.25, 2.0])).tolist()
    [-1.5, 0.0, 1.5]
    """
    if type(lambd) is not float or not 0.0 <= lambd < inf:
        lambd = _options.not_negative("lambd", lambd)
    return elementwise.apply(_SOFT_SHRINK, (x,), params=(lambd,), out=out)


@public
def hard_shrink(x: Array, /, *, lambd: float = 0.5, out: Array | None = None) -> Array:
    """Hard threshold: ``y = x`` where ``|x| > lambd``, else 0.

    {x}
    lambd : float, default 0.5
        0 or more, and finite.
    {out after options}

    Notes
    -----
    NaN gives NaN. The derivative at -lambd and lambd is 0.

    References
    ----------
    D. L. Donoho and I. M. Johnstone, "Ideal spatial adaptation by wavelet shrinkage",
    Biometrika 81(3), 1994.

    {examples}
    >>> nnk.hard_shrink(np.array([-2.0, 0.25, 2.0])).tolist()
    [-2.0, 0.0, 2.0]
    """
    if type(lambd) is not float or not 0.0 <= lambd < inf:
        lambd = _options.not_negative("lambd", lambd)
    return elementwise.apply(_HARD_SHRINK, (x,), params=(lambd,), out=out)
