"""Gradients by one protocol for every differentiable op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import nnkernels
from nnkernels import registry
from nnkernels._typing import Array
from nnkernels.errors import DTypeError, ShapeError
from nnkernels.fusion.fuse import Fused
from nnkernels.interop.libraries import library_of
from nnkernels.ops._activation import is_function, resolve
from nnkernels.ops._options import wanted
from nnkernels.registry.record import Op
from nnkernels.registry.rule import Call, Given, Rule, saving

Pullback = Callable[..., tuple[Array | None, ...]]


def vjp(
    function: Callable[..., Any],
    /,
    *arrays: Array,
    wrt: int | Sequence[int] | None = None,
    **options: Any,
) -> tuple[Any, Pullback]:
    """Value of an op, and the function that pulls a cotangent back through it.

    Parameters
    ----------
    function : callable
        A differentiable function of nnkernels, such as ``nnk.softmax``, or a function that
        :func:`fuse` gave.
    *arrays : array
        Its array arguments, lists of arrays among them where it takes these.
    wrt : int or tuple of int, optional
        Positions of the array arguments of which the gradient is wanted, so that others are not
        made; by default of all. (Options that are arrays, as ``residual``, come after them, and
        then the operands of fused functions that the op has inside.)
    **options
        Its other options.

    Returns
    -------
    y : array, or tuple of arrays
        ``function(*arrays, **options)``.
    pullback : callable
        ``pullback(dy)`` takes the cotangent of each result (of its shape and dtype; None instead
        of zeros for any but the first, or for that too if the function is a gradient) and returns a
        tuple with the gradient for each array argument, None where there is none or it is not
        wanted, and a list for a list. It keeps only what the gradient needs.

    Raises
    ------
    TypeError
        If the function is none of nnkernels or has no gradient, or none by an argument that ``wrt``
        asks for. From the pullback: if it is not given one cotangent for each result, or
        (DTypeError) one that is no array or of another dtype.
    ValueError
        If ``wrt`` has a position that no array argument has.
    ShapeError
        From the pullback: if a cotangent has not the shape of its result.

    Notes
    -----
    The vector-Jacobian product ``dx = J^T dy``; for complex arguments PyTorch's convention.
    Backward functions are differentiable themselves where nnkernels has a second derivative: all
    but those of ``lp_pool``, ``grid_sample`` and ``mlp``.

    Examples
    --------
    >>> import numpy as np
    >>> import nnkernels as nnk
    >>> y, pullback = nnk.vjp(nnk.relu, np.array([-1.0, 2.0]))
    >>> (dx,) = pullback(np.array([1.0, 1.0]))
    >>> dx.tolist()
    [0.0, 1.0]
    >>> y, pullback = nnk.vjp(nnk.matmul, np.ones((1, 2)), np.ones((2, 1)), wrt=1)
    >>> pullback(np.ones((1, 1)))
    (None, array([[1.],
           [1.]]))
    """
    if isinstance(function, Fused):
        chosen = wanted(wrt, len(arrays))
        y, pullback = function.gradient(*arrays, **options)
        return y, _checked(pullback, y, chosen)
    op = registry.of_function(function)
    if op is None:
        raise TypeError(
            f"function must be one of nnkernels, such as nnkernels.softmax; got {function!r}"
        )
    if not op.is_differentiable:
        raise TypeError(f"{op.name} has no gradient")
    if "out" in options:
        raise TypeError("vjp takes no out: the pullback keeps the result")
    if op.chain is not None:
        arguments = (*arrays, *(options.pop(name) for name in op.lists if name in options))
        chosen = wanted(wrt, len(arguments))
        y, pullback = op.chain.differentiated(*arguments, wanted=chosen, **options)
        return y, _checked(pullback, y, chosen)
    return differentiated(op, op.sorted_arguments(arrays, options), wrt)


def differentiated(op: Op, given: Given, wrt: Any = None) -> tuple[Any, Pullback]:
    """Value and pullback of an op that has a rule, of arguments that were sorted."""
    assert op.gradient is not None
    rule = op.gradient.of(given.names)
    inside = operands_inside(op, given.options)
    if inside is not None:
        return _with_functions(op, rule, given, wrt, inside)
    return _differentiated(op, rule, given, wanted_of(op, given.names, wrt))


def operands_inside(op: Op, options: dict[str, Any]) -> int | None:
    """How many operands the fused functions of a call have, if it has any function inside."""
    if not op.functions or options.keys().isdisjoint(_FUNCTIONS):
        return None
    before, after = (tuple(options.get(n) or ()) for n in ("prologue_operands", "operands"))
    epilogue = options.get("epilogue")
    if op.functions == "sums":
        return len(after) if is_function(epilogue, after) else None
    return None if options.get("prologue") is epilogue is None else len(before) + len(after)


_FUNCTIONS = ("prologue", "prologue_operands", "epilogue", "operands")


def _with_functions(
    op: Op, rule: Rule, given: Given, wrt: Any, inside: int
) -> tuple[Any, Pullback]:
    names = (*given.names, *(f"operand {i}" for i in range(inside)))
    chosen = wanted_of(op, names, wrt)
    if op.functions == "sums":
        from nnkernels.fusion.sums_gradient import through_epilogue as through
    else:
        from nnkernels.fusion.rows_gradient import through_functions as through
    y, pullback = through(op, rule, given, chosen)
    # The gradient of a sum with a residual needs that of the result.
    return y, _checked(pullback, y, chosen, optional="residual" not in given.names)


def wanted_of(op: Op, names: Sequence[str], wrt: Any) -> tuple[bool, ...]:
    """Of which of its array arguments an op is to be differentiated.

    Raises
    ------
    TypeError, ValueError
        If ``wrt`` has no positions, or one of an argument that has no gradient.
    """
    chosen = wanted(wrt, len(names))
    if not op.constant:
        return chosen
    for name, is_chosen in zip(names, chosen, strict=True):
        if wrt is not None and is_chosen and name in op.constant:
            raise TypeError(f"{op.name} has no gradient with respect to {name}")
    return tuple(c and n not in op.constant for c, n in zip(chosen, names, strict=True))


def _differentiated(
    op: Op, rule: Rule, given: Given, chosen: tuple[bool, ...]
) -> tuple[Any, Pullback]:
    given, hides = saving(rule, given)
    result, (activation, residual) = apply_activated(op, given)
    call = call_of(rule, given, result, chosen)
    if hides:
        result = result[0]

    def pullback(*cotangents: Any) -> tuple[Any, ...]:
        if activation is not None:
            cotangents = (activation.backward(cotangents[0], residual), *cotangents[1:])
        return rule.pull(nnkernels, call, *cotangents)

    return result, _checked(pullback, result, chosen, rule.optional, op.auxiliary)


def apply_activated(op: Op, given: Given) -> tuple[Any, tuple[Any, Any]]:
    """The result of an op; the activation that it applies, and what its gradient needs.

    The activation is applied by a kernel of its own where its gradient needs the operand.
    """
    activation = resolve(given.options.get(op.fused), op.fused) if op.fused else None
    if activation is None:  # the pullback must not keep a result that it does not need
        return op.call(op.function, given), (None, None)
    if activation.takes_result:
        result = op.call(op.function, given)
        return result, (activation, result)
    operand = op.call(op.function, given.without(op.fused))
    return activation(operand), (activation, operand)


def call_of(rule: Rule, given: Given, result: Any, chosen: tuple[bool, ...]) -> Call:
    """What the rule keeps of a call."""
    keeps = rule.keeps
    kept = [a if n in keeps else None for a, n in zip(given.arrays, given.names, strict=True)]
    return Call(
        tuple(kept),
        given.names,
        tuple([None if a is None else tuple(getattr(a, "shape", ())) for a in given.arrays]),
        rule.kept_result(result, given.options),
        given.options,
        chosen,
    )


def _checked(
    pullback: Pullback,
    y: Any,
    chosen: tuple[bool, ...],
    optional: bool = False,
    auxiliary: str = "",
) -> Pullback:
    """The pullback with checks of the cotangents; of the results it keeps shapes and dtypes."""
    results = y if isinstance(y, tuple) else (y,)
    described = [None if r is None else (tuple(r.shape), r.dtype) for r in results]
    everything = all(chosen)

    def call(*cotangents: Array) -> tuple[Array | None, ...]:
        if len(cotangents) != len(described):
            raise TypeError(
                f"the pullback takes one cotangent for each result, {len(described)} in all; "
                f"got {len(cotangents)}"
            )
        nothing = True
        for position, (cotangent, result) in enumerate(zip(cotangents, described, strict=True)):
            if cotangent is None and (position > 0 or (optional and len(described) > 1)):
                continue
            nothing = False
            if (
                type(cotangent) is not np.ndarray
                or result is None
                or cotangent.shape != result[0]
                or cotangent.dtype != result[1]
            ):
                _check(cotangent, result, "dy" if len(described) == 1 else f"cotangent {position}")
            if auxiliary and position > 0:
                raise TypeError(
                    f"{auxiliary} are not differentiated: their cotangents must be None"
                )
        if nothing:
            raise TypeError("one cotangent at least must not be None")
        gradients = pullback(*cotangents)
        if everything:
            return gradients
        return tuple(g if w else None for g, w in zip(gradients, chosen, strict=True))

    return call


def _check(cotangent: Any, result: Any, name: str) -> None:
    if result is None:
        raise TypeError(f"{name} must be None, as the result is")
    shape, dtype = result
    library_of(cotangent, name)
    if tuple(cotangent.shape) != shape:
        raise ShapeError(
            f"{name} has shape {tuple(cotangent.shape)}; it must have the shape {shape} "
            "of the result"
        )
    if cotangent.dtype != dtype:
        raise DTypeError(
            f"{name} has dtype {cotangent.dtype}; it must have the dtype {dtype} of the result"
        )


def value_and_grad(function: Callable[..., Any], argnum: int | Sequence[int] = 0) -> Any:
    """The value of a program and its gradient, by the ``autograd`` package.

    Parameters
    ----------
    function : callable
        A function of arrays that gives a number, such as a loss: made of functions of nnkernels,
        arithmetic, and the functions of ``autograd.numpy``.
    argnum : int or tuple of int, default 0
        The argument, or arguments, with respect to which.

    Returns
    -------
    callable
        Of the arguments of ``function``; it gives ``(value, gradient)``, the gradient a tuple if
        ``argnum`` is one.

    Raises
    ------
    ImportError
        If the package ``autograd`` is not installed. From the call: TypeError for a gradient that
        nnkernels does not have.

    Notes
    -----
    NumPy and CuPy arrays. A number among the arguments of an op is not recorded.

    Examples
    --------
    >>> import numpy as np
    >>> import nnkernels as nnk
    >>> def loss(weight, x):
    ...     return (nnk.tanh(nnk.linear(x, weight)) ** 2).sum()
    >>> value, dweight = nnk.value_and_grad(loss)(np.array([[0.5, -0.5]]), np.array([[1.0, 2.0]]))
    >>> round(value.item(), 4), dweight.round(4).tolist()
    (0.2136, [[-0.7269, -1.4537]])
    """
    try:
        from nnkernels.interop import autograd
    except ImportError as error:
        raise ImportError(
            "value_and_grad is by the package autograd, which is not installed: pip install "
            "autograd"
        ) from error
    return autograd.value_and_grad(function, argnum)
