"""Fused functions as options of other ops: ``prologue=`` and ``epilogue=`` with their operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnkernels.dispatch.row_functions import Functions
from nnkernels.fusion.fuse import Fused, fuse
from nnkernels.fusion.inside import fused_of
from nnkernels.ops._activation import activation_named

Function = Callable[..., Any] | str | None
Operands = tuple[Any, ...]
_NO_OPERANDS: Operands = ()  # of which Python has one


def is_plain(given: tuple[Any, ...]) -> bool:
    """Whether a prologue, its operands, an epilogue and its operands are their defaults."""
    prologue, before, epilogue, after = given
    return prologue is epilogue is None and before is after is _NO_OPERANDS


def functions_of(
    prologue: Any, prologue_operands: Any, epilogue: Any, operands: Any
) -> Functions | None:
    """What a call is given; None where there is neither function.

    Parameters
    ----------
    prologue, epilogue : callable, str or None
        A fused function or one that could be; of an activation, its name is enough.
    prologue_operands, operands : tuple
        Their operands.

    Raises
    ------
    TypeError, ValueError
        If one is no function, or there are operands and no function.
    """
    before = _checked("prologue_operands", prologue_operands)
    after = _checked("operands", operands)
    if prologue is None and before:
        raise TypeError("prologue_operands are those of prologue=, which is not given")
    if epilogue is None:
        if after:
            raise TypeError("operands are those of epilogue=, which is not given")
        if prologue is None:
            return None
    return Functions(_fused("prologue", prologue), before, _fused("epilogue", epilogue), after)


def _checked(name: str, operands: Any) -> tuple[Any, ...]:
    if type(operands) is tuple:
        return operands
    if isinstance(operands, (tuple, list)):
        return tuple(operands)
    raise TypeError(
        f"{name} must be a tuple of arrays and numbers, such as (bias,); got "
        f"{type(operands).__name__}"
    )


def _fused(name: str, function: Any) -> Any:
    if function is None or isinstance(function, Fused):
        return function
    if isinstance(function, str):
        function = activation_named(function, name)
    if not callable(function):
        raise TypeError(f"{name} must be a function of an array; got {function!r:.60}")
    try:
        return fused_of(function)
    except TypeError:  # of a callable that is no key
        return fuse(function)
