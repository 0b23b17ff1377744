"""Gradients by one protocol for every differentiable op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnkernels._typing import Array
from nnkernels.errors import DTypeError, ShapeError
from nnkernels.interop.libraries import library_of

Pullback = Callable[..., tuple[Array | None, ...]]


def vjp(function: Callable[..., Any], /, *arrays: Array, **options: Any) -> tuple[Any, Pullback]:
    """Value of an op, and the function that pulls a cotangent back through it.

    Parameters
    ----------
    function : callable
        A differentiable function of nnkernels, such as ``nnk.softmax``, or a function that
        :func:`fuse` gave.
    *arrays : array
        Its array arguments.
    **options
        Its other options.

    Returns
    -------
    y : array, or tuple of arrays
        ``function(*arrays, **options)``.
    pullback : callable
        ``pullback(dy)`` takes the cotangent of each result (of its shape and dtype; None instead
        of zeros for any but the first) and returns a tuple with the gradient for each array
        argument, None where there is none. It keeps only what the gradient needs.

    Raises
    ------
    TypeError
        If the function is none of nnkernels or has no gradient. From the pullback: if it is not
        given one cotangent for each result, or (DTypeError) one that is no array or of another
        dtype.
    ShapeError
        From the pullback: if a cotangent has not the shape of its result.

    Notes
    -----
    The vector-Jacobian product ``dx = J^T dy``; for complex arguments PyTorch's convention.

    Examples
    --------
    >>> import numpy as np
    >>> import nnkernels as nnk
    >>> y, pullback = nnk.vjp(nnk.relu, np.array([-1.0, 2.0]))
    >>> (dx,) = pullback(np.array([1.0, 1.0]))
    >>> dx.tolist()
    [0.0, 1.0]
    """
    from nnkernels import registry
    from nnkernels.fusion.fuse import Fused

    if isinstance(function, Fused):
        y, pullback = function.gradient(*arrays, **options)
        return y, _checked(pullback, y)
    op = registry.of_function(function)
    if op is None:
        raise TypeError(
            f"function must be one of nnkernels, such as nnkernels.softmax; got {function!r}"
        )
    if op.gradient is None:
        raise TypeError(f"{op.name} has no gradient")
    if "out" in options:
        raise TypeError("vjp takes no out: the pullback keeps the result")
    y, pullback = op.gradient(*arrays, **options)
    return y, _checked(pullback, y)


def _checked(pullback: Pullback, y: Any) -> Pullback:
    """The pullback with checks of the cotangents; of the results it keeps shapes and dtypes."""
    results = y if isinstance(y, tuple) else (y,)
    wanted = [None if r is None else (tuple(r.shape), r.dtype) for r in results]

    def call(*cotangents: Array) -> tuple[Array | None, ...]:
        if len(cotangents) != len(wanted):
            raise TypeError(
                f"the pullback takes one cotangent for each result, {len(wanted)} in all; "
                f"got {len(cotangents)}"
            )
        for position, (cotangent, result) in enumerate(zip(cotangents, wanted, strict=True)):
            name = "dy" if len(wanted) == 1 else f"cotangent {position}"
            if cotangent is None and position > 0:
                continue
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
                    f"{name} has dtype {cotangent.dtype}; it must have the dtype {dtype} of the "
                    "result"
                )
        return pullback(*cotangents)

    return call
