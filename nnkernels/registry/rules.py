"""Rules that many ops have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnkernels.registry.rule import Call, Gradients, Rule


def as_tuple(gradients: Any) -> Gradients:
    """One gradient or several as a tuple."""
    return gradients if isinstance(gradients, tuple) else (gradients,)


def from_operands(backward: str, *arrays: str) -> Rule:
    """Of an op whose backward function takes the operands, and gives the gradients of all."""

    def pull(functions: Any, call: Call, dy: Any) -> Gradients:
        return as_tuple(getattr(functions, backward)(dy, *call.arrays, **call.options))

    return Rule(pull, keeps=arrays)


def from_result(backward: str) -> Rule:
    """Of an op of one operand whose backward function takes the result."""

    def pull(functions: Any, call: Call, dy: Any) -> Gradients:
        return (getattr(functions, backward)(dy, call.result, **call.options),)

    return Rule(pull, keeps_result=0)


def selective(backward: str, arrays: tuple[str, ...], own: tuple[str, ...]) -> Rule:
    """Of a product, linear in each operand, whose backward function makes the wanted gradients.

    Parameters
    ----------
    arrays : tuple of str
        The operands: two factors, and perhaps what is added to their product.
    own : tuple of str
        Options of the backward function.
    """

    def pull(functions: Any, call: Call, dy: Any) -> Gradients:
        kept = {name: value for name, value in call.options.items() if name in own}
        found = getattr(functions, backward)(dy, *call.arrays, wrt=call.wrt, **kept)
        # Where there are fewer array arguments than gradients, the last one was not given.
        return tuple(found[: len(call.shapes)])

    return Rule(pull, keeps=arrays)


def of_product_gradient(
    function: str,
    arrays: tuple[str, ...],
    own: tuple[str, ...],
    nothing: Callable[[Any, Any, dict[str, Any]], tuple[Any, Any]],
) -> Rule:
    """Of the backward function of such a product, ``z = p(a, b) + c``.

    Its gradients are ``B(dy; a, b)``, linear in dy, a and b. Cotangents of these, ``(va, vb, vc)``,
    are a direction in which the operands are moved: the gradient by dy is the derivative of z
    along it, ``p(va, b) + p(a, vb) + vc``, and those by a and b are ``B(dy; va, vb)``.

    Parameters
    ----------
    function : str
        The product; its gradient is the op of that name with ``_backward``.
    arrays : tuple of str
        The cotangent and both factors.
    own : tuple of str
        Options that both have.
    nothing : callable
        ``nothing(a, b, options)``: the factors without the terms of their sums.
    """

    def pull(functions: Any, call: Call, va: Any, vb: Any = None, vc: Any = None) -> Gradients:
        dy, a, b = call.arrays[:3]
        options = {name: value for name, value in call.options.items() if name in own}
        ddy = None
        if call.wanted[0]:
            product = getattr(functions, function)
            addend = (vc,) if vc is not None else ()
            if va is None and vb is None:
                ddy = product(*nothing(a, b, options), *addend, **options)
            elif va is None:
                ddy = product(a, vb, *addend, **options)
            else:
                ddy = product(va, b, *addend, **options)
                ddy = ddy if vb is None else ddy + product(a, vb, **options)
        # The gradient by one factor takes the cotangent of the other.
        wrt = tuple(i for i, v in ((0, vb), (1, va)) if v is not None and call.wanted[1 + i])
        da = db = None
        if wrt:
            directions = (a if va is None else va, b if vb is None else vb)
            backward = getattr(functions, f"{function}_backward")
            da, db = backward(dy, *directions, wrt=wrt, **options)[:2]
        return (ddy, da, db, None)[: len(call.shapes)]

    return Rule(pull, keeps=arrays, optional=True)
