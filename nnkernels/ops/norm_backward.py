"""Gradients of the normalisations of rows: layer, RMS, group and instance."""

from __future__ import annotations

from typing import Any

from nnkernels._typing import Array
from nnkernels.dispatch import norm as forward
from nnkernels.dispatch import norm_backward as dispatch
from nnkernels.dispatch.norm import along_axes, over_groups
from nnkernels.ops import _options
from nnkernels.ops import norm as norms
from nnkernels.ops._activation import ActivationLike, resolve
from nnkernels.ops._public import public

Axis = int | tuple[int, ...] | None


@public
def layer_norm_backward(
    dy: Array,
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    /,
    *,
    axis: Axis = -1,
    eps: float = 1e-5,
    activation: ActivationLike = None,
    dresidual: Array | None = None,
) -> tuple[Array | None, ...]:
    """Gradients of `layer_norm`: with ``h`` what it multiplies by the weight, ``g = dy weight``,
    ``dx = rstd (g - mean(g) - h mean(g h))``, ``dweight = sum(dy h)``, ``dbias = sum(dy)``.

    Parameters
    ----------
    {cotangent and operand of a norm}
    weight, bias : array, optional
        The parameters. Of ``bias`` only the shape and dtype are used, unless there is an
        activation.
    axis : int, tuple of int or None, default -1
        As in `layer_norm`.
    eps : float, default 1e-5
        As in `layer_norm`.
    {activation and cotangent of a sum}

    {gradients of a norm}

    {raises of norms}

    Notes
    -----
    Mean and deviation are computed from ``x`` again, which is read anyway. Sums are in float32
    (float64 for float64), and in the same order in every run: no atomics.

    References
    ----------
    J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer Normalization", arXiv 1607.06450, 2016.

    {examples}
    >>> dy, x = np.array([[1.0, 0.0, 0.0]]), np.array([[-1.0, 0.0, 1.0]])
    >>> dx, dweight, dbias = nnk.layer_norm_backward(dy, x, np.ones(3), np.zeros(3), eps=0.0)
    >>> dx.round(4).tolist()
    [[0.2041, -0.4082, 0.2041]]
    >>> dweight.round(4).tolist(), dbias.tolist()
    ([-1.2247, 0.0, 0.0], [1.0, 0.0, 0.0])
    """
    return _apply(
        "layer_kind", along_axes, (dy, x, weight, bias, dresidual), axis, None, eps, 0.0, activation
    )


@public
def rms_norm_backward(
    dy: Array,
    x: Array,
    weight: Array | None = None,
    /,
    *,
    axis: Axis = -1,
    eps: float = 1e-6,
    offset: float = 0.0,
    activation: ActivationLike = None,
    dresidual: Array | None = None,
) -> tuple[Array | None, ...]:
    """Gradients of `rms_norm`: with ``h = x rstd`` and ``g = dy (weight + offset)``,
    ``dx = rstd (g - h mean(g h))`` and ``dweight = sum(dy h)``.

    Parameters
    ----------
    {cotangent and operand of a norm}
    weight : array, optional
        The parameter.
    axis : int, tuple of int or None, default -1
        As in `rms_norm`.
    eps : float, default 1e-6
        As in `rms_norm`.
    offset : float, default 0.0
        As in `rms_norm`.
    {activation and cotangent of a sum}

    Returns
    -------
    dx : array
        Of the shape, dtype and memory order of ``x``.
    dweight : array or None
        Of the shape and dtype of ``weight``; None without it.

    {raises of norms}

    Notes
    -----
    The deviation is computed from ``x`` again, which is read anyway. Sums are in float32 (float64
    for float64), and in the same order in every run: no atomics.

    References
    ----------
    B. Zhang, R. Sennrich, "Root Mean Square Layer Normalization", arXiv 1910.07467, 2019.

    {examples}
    >>> dy, x = np.array([[1.0, 0.0]]), np.array([[3.0, 4.0]])
    >>> dx, dweight = nnk.rms_norm_backward(dy, x, np.ones(2), eps=0.0)
    >>> dx.round(4).tolist(), dweight.round(4).tolist()
    ([[0.181, -0.1358]], [0.8485, 0.0])
    """
    if type(offset) is not float or not -1.0 <= offset <= 1.0:
        offset = _options.finite("offset", offset)
    arrays = (dy, x, weight, None, dresidual)
    return _apply("rms_kind", along_axes, arrays, axis, None, eps, offset, activation)[:2]


@public
def group_norm_backward(
    dy: Array,
    x: Array,
    num_groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    /,
    *,
    axis: int = 1,
    eps: float = 1e-5,
    activation: ActivationLike = None,
    dresidual: Array | None = None,
) -> tuple[Array | None, ...]:
    """Gradients of `group_norm`: those of `layer_norm_backward`, the means over a group.

    Parameters
    ----------
    {cotangent and operand of a norm}
    num_groups : int
        As in `group_norm`.
    {parameters of channels}
    eps : float, default 1e-5
        As in `group_norm`.
    {activation and cotangent of a sum}

    {gradients of a norm}

    {raises of norms}

    Notes
    -----
    As of `layer_norm_backward`. The gradients of the parameters are a second reading of ``x`` and
    ``dy``.

    References
    ----------
    Y. Wu, K. He, "Group Normalization", arXiv 1803.08494, 2018.

    {examples}
    >>> dy, x = np.array([[1.0, 0.0, 0.0, 0.0]]), np.array([[-1.0, 1.0, 5.0, 7.0]])
    >>> dx, dweight, dbias = nnk.group_norm_backward(dy, x, 2, np.ones(4), np.zeros(4), eps=0.0)
    >>> dweight.tolist(), dbias.tolist()
    ([-1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0])
    """
    groups, arrays = norms.count("num_groups", num_groups), (dy, x, weight, bias, dresidual)
    return _apply("layer_kind", over_groups, arrays, axis, groups, eps, 0.0, activation)


@public
def instance_norm_backward(
    dy: Array,
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    /,
    *,
    axis: int = 1,
    eps: float = 1e-5,
    activation: ActivationLike = None,
    dresidual: Array | None = None,
) -> tuple[Array | None, ...]:
    """Gradients of `instance_norm`: those of `group_norm_backward`, each channel a group.

    Parameters
    ----------
    {cotangent and operand of a norm}
    {parameters of channels}
    eps : float, default 1e-5
        As in `instance_norm`.
    {activation and cotangent of a sum}

    {gradients of a norm}

    {raises of norms}

    Notes
    -----
    As of `group_norm_backward`.

    References
    ----------
    D. Ulyanov, A. Vedaldi, V. Lempitsky, "Instance Normalization", arXiv 1607.08022, 2016.

    {examples}
    >>> dy, x = np.array([[[1.0, 0.0], [0.0, 2.0]]]), np.array([[[-1.0, 1.0], [5.0, 7.0]]])
    >>> dx, dweight, dbias = nnk.instance_norm_backward(dy, x, np.ones(2), np.zeros(2), eps=0.0)
    >>> dweight.tolist(), dbias.tolist()
    ([-1.0, 2.0], [1.0, 2.0])
    """
    arrays = (dy, x, weight, bias, dresidual)
    return _apply("layer_kind", over_groups, arrays, axis, None, eps, 0.0, activation)


# ---- helpers --------------------------------------------------------------------------------


def _apply(
    kind: str,
    axes_of: Any,
    arrays: tuple[Any, ...],
    axis: Any,
    groups: int | None,
    eps: Any,
    offset: float,
    activation: ActivationLike,
) -> tuple[Any, ...]:
    options = (kind, axes_of, axis, groups, eps, offset)
    if activation is not None:
        found = resolve(activation, "activation")
        assert found is not None
        dy, x, weight, bias, _ = arrays
        # Neither what goes into the activation, or comes out of it, nor its cotangent is rounded.
        inside = norms.with_options(*options, found if found.takes_result else None, wide=True)
        dy = found.backward(dy, forward.apply(inside, x, weight, bias))
        arrays = (dy, *arrays[1:])
    return dispatch.apply(norms.with_options(*options), arrays)
