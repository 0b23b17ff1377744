"""Multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from nnkernels._typing import Array
from nnkernels.config.mlp import is_fused
from nnkernels.dispatch import machines, matmul_gradients
from nnkernels.dispatch import mlp as dispatch
from nnkernels.ops._activation import Activation, ActivationLike, differentiable, resolve
from nnkernels.ops._public import on_cpu, public
from nnkernels.ops.linear import linear

Gradients = tuple[Any, ...]
Pullback = Callable[[Array], Gradients]
_ALL = (True, True, True)


@public
def mlp(
    x: Array,
    weights: Sequence[Array],
    biases: Sequence[Array | None] | None = None,
    *,
    activation: ActivationLike = "relu",
    output_activation: ActivationLike = None,
    out: Array | None = None,
) -> Array:
    """Multilayer perceptron in one kernel: ``h = f(h weight^T + bias)`` for each layer.

    Parameters
    ----------
    x : array
        Of shape (..., inputs), any strides, and of float16, bfloat16, float32 or float64.
    weights : list or tuple of arrays
        Of each layer, of shape (outputs, inputs), any strides and the dtype of ``x``.
    biases : list or tuple, optional
        Of each layer, an array of shape (outputs,) and the dtype of ``x``, or None.
    activation : str or function, optional
        ``f`` of all layers but the last: the name of an activation of nnkernels such as
        ``"relu"``, the function, ``functools.partial`` of one with its options, or None.
    output_activation : str or function, optional
        ``f`` of the last layer.
    out : array, optional
        Where to write the result: of its shape and dtype, of any strides, apart from the operands.

    Returns
    -------
    array
        Of the library and dtype of ``x`` and shape (..., outputs).

    Raises
    ------
    ShapeError
        With the shapes, if a layer does not take the outputs of the one before, a bias does not
        belong to its weight, or ``out`` does not fit.
    DTypeError
        If an operand is no array or of a dtype that is not supported, if dtypes differ, or if
        ``out`` is read-only or of another dtype.
    BackendError
        If arrays are on different devices, or a kernel cannot be compiled.
    TypeError, ValueError
        If weights or biases are no list or tuple, or an activation is none of nnkernels.

    Notes
    -----
    Up to 32 layers that are at most 128 wide are one kernel: activations stay on the chip, and
    nothing but ``x``, the weights and the result passes through memory. Others go layer by layer
    with `linear`.

    Sums are in float32 for float16, bfloat16 and float32, and in float64 for float64; so are bias
    and activation. Between layers, activations of float16 and bfloat16 are rounded to that type
    where matrix cores multiply them (and where layers are kernels of their own), else not.

    References
    ----------
    T. Mueller, F. Rousselle, J. Novak and A. Keller, "Real-time neural radiance caching for path
    tracing", ACM Transactions on Graphics 40(4), 2021: fully fused networks.

    {examples}
    >>> x = np.array([[1.0, 2.0]])
    >>> weights = [np.array([[3.0, 4.0], [-5.0, 0.0]]), np.array([[1.0, 1.0]])]
    >>> nnk.mlp(x, weights, [np.ones(2), None]).tolist()
    [[12.0]]
    """
    hidden, output = _activations(activation, output_activation)
    call = dispatch.checked(x, weights, biases)
    if is_fused(call.widths):
        return dispatch.forward(call, _kernels(hidden), _kernels(output), out)
    return _by_layers(x, weights, biases, hidden, output, out)


@public
def mlp_backward(
    dy: Array,
    x: Array,
    weights: Sequence[Array],
    biases: Sequence[Array | None] | None = None,
    *,
    activation: ActivationLike = "relu",
    output_activation: ActivationLike = None,
) -> tuple[Array, list[Array], list[Array | None] | None]:
    """Gradients of `mlp`, in one kernel for the rows and a product for each weight.

    With ``z`` what an activation ``f`` is applied to, and ``h`` what it gives, for each layer from
    the last to the first: ``dz = dh f'(z)``, ``dweight = dz^T h``, ``dbias = sum of dz`` and
    ``dh = dz weight`` of the layer before.

    Parameters
    ----------
    dy : array
        The cotangent: the gradient of the loss with respect to the result of `mlp`, of its shape
        and dtype and any strides.
    x, weights, biases
        The operands of `mlp`.
    activation, output_activation : str or function, optional
        As in `mlp`. The network is computed once more for their derivatives; the pullback of `vjp`
        keeps what it needs instead, a number for each element of each layer.

    Returns
    -------
    dx : array
        Of the shape, dtype and memory order of ``x``.
    dweights : list of arrays
        Of the shapes and dtypes of the weights.
    dbiases : list or None
        Of the shapes and dtypes of the biases, None where there is none; None without them.

    Raises
    ------
    ShapeError, DTypeError, BackendError, TypeError, ValueError
        As `mlp`, and if ``dy`` is not of the shape and dtype of the result.

    Notes
    -----
    Between layers, cotangents of float16 and bfloat16 are rounded to that type. Sums are in
    float32 (float64 for float64), in one order whatever the layout and the number of threads.

    {references of gradients}

    {examples}
    >>> x, dy = np.array([[1.0, 2.0]]), np.array([[2.0]])
    >>> weights = [np.array([[3.0, 4.0], [-5.0, 0.0]]), np.array([[1.0, 1.0]])]
    >>> dx, dweights, dbiases = nnk.mlp_backward(dy, x, weights, [np.ones(2), None])
    >>> dx.tolist(), [dw.tolist() for dw in dweights], dbiases[0].tolist(), dbiases[1]
    ([[6.0, 8.0]], [[[2.0, 4.0], [0.0, 0.0]], [[24.0, 0.0]]], [2.0, 0.0], None)
    """
    hidden, output = _activations(activation, output_activation)
    call = dispatch.checked(x, weights, biases)
    dispatch.check_cotangent(call, dy)
    _, pullback = _differentiated(call, x, weights, biases, hidden, output, _ALL)
    dx, dweights, dbiases = pullback(dy)
    return dx, dweights, dbiases


def mlp_of_layers(
    functions: Any,
    x: Any,
    weights: Sequence[Any],
    biases: Sequence[Any] | None = None,
    *,
    activation: ActivationLike = "relu",
    output_activation: ActivationLike = None,
) -> Any:
    """`mlp` by the ``linear`` of some functions, layer by layer."""
    given = dispatch.of_layers(weights, biases)
    for weight, bias, inside in _layers(*given, activation, output_activation):
        x = functions.linear(x, weight, bias, activation=inside)
    return x


def mlp_vjp(*arguments: Any, wanted: tuple[bool, ...], **options: Any) -> tuple[Array, Pullback]:
    """The result of `mlp`, and what pulls a cotangent back: to lists, where arguments are lists."""
    y, pullback = _vjp(*arguments, wanted=(*wanted, False, False)[:3], **options)
    return y, lambda dy: pullback(dy)[: len(arguments)]


def _vjp(
    x: Array,
    weights: Sequence[Array],
    biases: Sequence[Array | None] | None = None,
    *,
    activation: ActivationLike = "relu",
    output_activation: ActivationLike = None,
    wanted: tuple[bool, ...],
) -> tuple[Array, Pullback]:
    if machines.for_reference() and on_cpu((x,)):
        chosen = {"activation": activation, "output_activation": output_activation}
        y = mlp(x, weights, biases, **chosen)
        return y, lambda dy: mlp_backward(dy, x, weights, biases, **chosen)
    hidden, output = _activations(activation, output_activation)
    call = dispatch.checked(x, weights, biases)
    return _differentiated(call, x, weights, biases, hidden, output, wanted)


def _differentiated(
    call: dispatch.Call,
    x: Array,
    weights: Sequence[Array],
    biases: Sequence[Array | None] | None,
    hidden: Activation | None,
    output: Activation | None,
    wanted: tuple[bool, ...],
) -> tuple[Array, Pullback]:
    pull: Callable[..., Gradients]
    if is_fused(call.widths):
        first, last = _kernels(hidden), _kernels(output)
        y, kept = dispatch.forward_kept(call, first, last)
        pull = partial(dispatch.backward, call, first, last, kept)
    else:
        y, pull = _by_layers_vjp(x, weights, call.biases, hidden, output)

    def pullback(dy: Array) -> Gradients:
        dx, dweights, dbiases = pull(dy, wanted)
        return dx, dweights, None if biases is None else dbiases

    return y, pullback


# ---- activations --------------------------------------------------------------------------------


def _activations(
    hidden: ActivationLike, output: ActivationLike
) -> tuple[Activation | None, Activation | None]:
    return resolve(hidden, "activation"), resolve(output, "output_activation")


def _kernels(activation: Activation | None) -> dispatch.Activated:
    return dispatch.NO_ACTIVATION if activation is None else activation.in_kernels


# ---- wide networks ------------------------------------------------------------------------------


def _layers(
    weights: Sequence[Array],
    biases: Sequence[Array | None] | None,
    hidden: ActivationLike,
    output: ActivationLike,
) -> list[tuple[Array, Array | None, Any]]:
    given = [None] * len(weights) if biases is None else biases
    activations = [hidden] * (len(weights) - 1) + [output]
    return list(zip(weights, given, activations, strict=True))


def _by_layers(
    x: Array,
    weights: Sequence[Array],
    biases: Sequence[Array | None] | None,
    hidden: Activation | None,
    output: Activation | None,
    out: Array | None,
) -> Array:
    *first, last = _layers(weights, biases, hidden, output)
    for weight, bias, activation in first:
        x = linear(x, weight, bias, activation=activation)
    weight, bias, activation = last
    return linear(x, weight, bias, activation=activation, out=out)


def _by_layers_vjp(
    x: Array,
    weights: Sequence[Array],
    biases: Sequence[Array | None],
    hidden: Activation | None,
    output: Activation | None,
) -> tuple[Array, Callable[..., Gradients]]:
    steps: list[Any] = []
    for weight, bias, activation in _layers(weights, biases, hidden, output):
        y, before = _differentiable_layer(x, weight, bias, activation)
        steps.append((before, x, weight, bias))
        x = y

    def pullback(dy: Any, wanted: tuple[bool, ...]) -> Gradients:
        dweights, dbiases = [], []
        for i, (before, inputs, weight, bias) in reversed([*enumerate(steps)]):
            dy, dweight, dbias = matmul_gradients.linear_backward(
                before(dy), inputs, weight, bias, wanted=(wanted[0] or i > 0, *wanted[1:])
            )
            dweights.append(dweight)
            dbiases.append(dbias)
        return dy, dweights[::-1], dbiases[::-1]

    return x, pullback


def _differentiable_layer(
    x: Array, weight: Array, bias: Array | None, activation: Activation | None
) -> tuple[Array, Callable[[Array], Array]]:
    return differentiable(lambda inside: linear(x, weight, bias, activation=inside), activation)
