"""How cotangents are pulled back through an op: what a record says about its gradient.

A rule is written once, with the functions of a namespace, and so serves every tool for
differentiation: for :func:`nnkernels.vjp` that namespace is nnkernels itself, for PyTorch, JAX and
autograd (``nnkernels.interop``) the same functions on their arrays. Where these are recorded, so
are gradients, and there are second derivatives wherever the gradients have rules of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Shape = tuple[int, ...]
Gradients = tuple[Any, ...]


# Not frozen, though nobody changes one: one is made at every call, in 0.4 us instead of 2.
@dataclass(slots=True)
class Call:
    """What a rule may know of a call of its op.

    Attributes
    ----------
    arrays : tuple
        The array arguments that the rule keeps, None in place of others.
    names : tuple of str
        Of all array arguments that were given.
    shapes : tuple
        Of all array arguments; None for an argument that is None.
    result : array or None
        The result that the rule keeps, if it does.
    options : dict
        The options, those that stand among the positional arguments by name.
    wanted : tuple of bool
        Of which array arguments the gradient is wanted.
    """

    arrays: tuple[Any, ...]
    names: tuple[str, ...]
    shapes: tuple[Shape | None, ...]
    result: Any
    options: dict[str, Any]
    wanted: tuple[bool, ...]

    def option(self, name: str) -> tuple[Any, dict[str, Any]]:
        """An option, and the others."""
        others = dict(self.options)
        return others.pop(name), others

    @property
    def wrt(self) -> tuple[int, ...]:
        """The positions of the wanted gradients."""
        return tuple(i for i, is_wanted in enumerate(self.wanted) if is_wanted)


@dataclass(frozen=True)
class Rule:
    """The gradient of an op.

    Attributes
    ----------
    pull : callable
        ``pull(functions, call, *cotangents)`` gives the gradient of each array argument, None where
        there is none or it is not wanted; ``functions`` has the public functions as attributes.
    keeps : tuple of str
        Array arguments that it needs.
    keeps_result : int, optional
        Which result it needs.
    saves : tuple, optional
        An option and its value with which the op gives one more result, that the gradient needs:
        calls that may be differentiated are made so. That result is the one that is kept, and
        where a caller has set the option otherwise there is none.
    composed : bool
        Whether it consists of calls of ``functions``, and additions, alone. One that does not is
        for arrays, and nothing can differentiate it.
    optional : bool
        Whether the first cotangent may be None, as those of the other results always may.
    with_residual : Rule, optional
        The rule for calls with the option ``residual``, which then is the last array.
    """

    pull: Callable[..., Gradients]
    keeps: tuple[str, ...] = ()
    keeps_result: int | None = None
    saves: tuple[str, Any] | None = None
    composed: bool = True
    optional: bool = False
    with_residual: Rule | None = None

    def of(self, names: tuple[str, ...]) -> Rule:
        """The rule for a call that was given some array arguments."""
        if self.with_residual is not None and "residual" in names:
            return self.with_residual
        return self

    def kept_result(self, result: Any, options: dict[str, Any]) -> Any:
        """What is kept of the result of a call, or of its results; None if nothing is."""
        number = self.keeps_result
        if number is None or (self.saves and options.get(self.saves[0]) != self.saves[1]):
            return None
        return result[number] if isinstance(result, tuple) else result


def saving(rule: Rule | None, given: Given) -> tuple[Given, bool]:
    """A call as it is made where it may be differentiated.

    Returns
    -------
    given : Given
        Its arguments.
    hides : bool
        Whether its last result is for the gradient alone.
    """
    if rule is None or rule.saves is None or given.options.get(rule.saves[0], False) is not False:
        return given, False
    options = {**given.options, rule.saves[0]: rule.saves[1]}
    return Given(given.arrays, given.names, options), True


@dataclass(frozen=True)
class Chain:
    """The gradient of an op some of whose arguments are lists of arrays, as layers of a network.

    Attributes
    ----------
    differentiated : callable
        ``differentiated(*arguments, wanted=..., **options)`` gives the result, and a function of a
        cotangent that gives the gradient of each wanted argument, a list in the place of a list:
        one that keeps what is between the parts of the op.
    composition : callable
        ``composition(functions, *arguments, **options)`` gives the result by other ops: what
        those tools differentiate that record calls of arrays.
    """

    differentiated: Callable[..., tuple[Any, Callable[[Any], Gradients]]]
    composition: Callable[..., Any]


@dataclass(slots=True)
class Given:
    """The arguments of a call, sorted.

    Attributes
    ----------
    arrays : tuple
        Those of the array arguments that were given, in order, then the options that are arrays.
    names : tuple of str
        Their names.
    options : dict
        All others.
    """

    arrays: tuple[Any, ...]
    names: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)

    def without(self, option: str) -> Given:
        """The same but for an option."""
        others = {name: value for name, value in self.options.items() if name != option}
        return Given(self.arrays, self.names, others)
