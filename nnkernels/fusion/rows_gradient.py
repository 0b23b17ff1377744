"""Gradients of row ops with fused functions inside.

With u what the prologue makes of x, v what the op makes of u, and y the epilogue of v: the pullback
is one fused pass for the epilogue, the gradient of the op itself, and one fused pass for the
prologue. Of u and v it keeps what these need, as further results of the one kernel forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from nnkernels.dispatch.row_functions import Functions
from nnkernels.fusion.derivative import is_differentiable
from nnkernels.fusion.expression import Node, Program
from nnkernels.fusion.fuse import Fused, Traced, shared_functor
from nnkernels.fusion.pullback import pullback_of
from nnkernels.ops._functions import functions_of

Gradients = tuple[Any, ...]
# Gradients of all array arguments of an op: from dv, u, v, its other arguments, its options, and the
# cotangents of its further results.
Reverse = Callable[[Any, Any, Any, Sequence[Any], dict[str, Any], Sequence[Any]], Gradients]


def with_functions(
    rule: Callable[..., Any],
    forward: Callable[..., Any],
    reverse: Reverse,
    needs_input: bool = True,
    further: Callable[[dict[str, Any]], int] = lambda options: 0,
) -> Callable[..., Any]:
    """A gradient rule of a row op, for calls with fused functions inside too.

    Parameters
    ----------
    rule : callable
        The rule for calls without.
    forward : callable
        The op.
    reverse : callable
        Its gradient: see `Reverse`.
    needs_input : bool
        Whether that takes u.
    further : callable
        How many results the op has beside v, by its options.
    """

    def with_both(
        *arguments: Any,
        prologue: Any = None,
        prologue_operands: Any = (),
        epilogue: Any = None,
        operands: Any = (),
        **options: Any,
    ) -> tuple[Any, Callable[..., Gradients]]:
        functions = functions_of(prologue, prologue_operands, epilogue, operands)
        if functions is None:
            return rule(*arguments, **options)
        run = _Run(forward, reverse, functions, arguments, options, further(options))
        return run.value(needs_input), run.pullback

    return with_both


class _Run:
    """One call, and what its pullback keeps."""

    def __init__(
        self,
        forward: Callable[..., Any],
        reverse: Reverse,
        functions: Functions,
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        further: int,
    ) -> None:
        self.forward, self.reverse, self.functions = forward, reverse, functions
        self.x, *self.others = arguments
        self.options, self.further = options, further
        self.input = self.result = None
        self.pull_prologue: Callable[..., Gradients] | None = None
        self.pull_epilogue: Callable[..., Gradients] | None = None

    def value(self, needs_input: bool) -> Any:
        """The results of the call."""
        given = self.functions
        before, after = given.prologue, given.epilogue
        made, kept = 0, None  # results of the prologue beside u, and where u is among them
        if before is not None:
            operands = (self.x, *given.prologue_operands)
            program = before.adopted(operands)[0].program
            if any(map(is_differentiable, program.inputs)):
                self.pull_prologue = pullback_of(before, operands)
            made = len(program.outputs) - 1
            if needs_input:
                first, *more = program.outputs
                kept = more.index(first) if first in more else None
                if kept is None:
                    before, kept = further_result(before, False), made
        found = self.forward(
            self.x,
            *self.others,
            prologue=before,
            prologue_operands=given.prologue_operands,
            epilogue=None if after is None else further_result(after, True),
            operands=given.operands,
            **self.options,
        )
        results = list(found) if isinstance(found, tuple) else [found]
        extras = results[len(results) - made - (kept == made) :] if before is not None else []
        results = results[: len(results) - len(extras)]
        others = results[len(results) - self.further :] if self.further else []
        results = results[: len(results) - self.further]
        self.input = self.x if kept is None else extras[kept]
        # The sum with a residual is what is normalised.
        if "residual" in self.options and self.options["residual"] is not None:
            self.input = others[0]
        self.result = results[-1]
        several = len(results) > 1
        if after is not None:
            results.pop()
            several = after.adopted((self.result, *given.operands))[0].several
            self.pull_epilogue = pullback_of(after, (self.result, *given.operands))
        self.count = len(results)
        values = (*results, *others, *extras[:made])
        return values if several or len(values) > 1 else values[0]

    def pullback(self, *cotangents: Any) -> Gradients:
        """Gradients of the arguments of the op, and then of the operands of both functions."""
        given = self.functions
        n = self.count + self.further
        dv, after = cotangents[0], (None,) * len(given.operands)
        if self.pull_epilogue is not None:
            dv, *after = self.pull_epilogue(*cotangents[: self.count])
        found = self.reverse(
            dv, self.input, self.result, self.others, self.options, cotangents[self.count : n]
        )
        before: Sequence[Any] = (None,) * len(given.prologue_operands)
        if self.pull_prologue is not None:
            dx, *before = self.pull_prologue(found[0], *cotangents[n:])
            found = (dx, *found[1:])
        elif given.prologue is not None:
            found = (None, *found[1:])
        return (*found, *before, *after)


# ---- a function with one more result --------------------------------------------------------------


class _Further(Fused):
    """A fused function whose last result is its first argument, or its first result once more."""

    def __init__(self, fused: Fused, argument: bool) -> None:
        super().__init__(fused.fused_function)
        self._inner, self._argument = fused, argument

    def _traced(self, kinds: Sequence[Any]) -> Traced:
        return _extended(self._inner._traced(kinds), self._argument)


further_result = lru_cache(maxsize=64)(_Further)


@lru_cache(maxsize=256)
def _extended(traced: Traced, argument: bool) -> Traced:
    program = traced.program
    nodes, position = program.nodes, program.outputs[0]
    if argument:
        node = Node("input", (), program.inputs[0], 0)
        nodes = nodes if node in nodes else (*nodes, node)
        position = nodes.index(node)
    longer = Program(nodes, program.inputs, program.scalars, (*program.outputs, position))
    names = tuple(traced.names[i] for i in traced.arrays)
    return replace(traced, program=longer, several=True, functor=shared_functor(longer, names))
