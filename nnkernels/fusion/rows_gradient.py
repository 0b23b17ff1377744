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

from nnkernels.fusion.derivative import is_differentiable
from nnkernels.fusion.expression import Node, Program
from nnkernels.fusion.fuse import Fused, Traced, shared_functor
from nnkernels.fusion.pullback import pullback_of
from nnkernels.ops._functions import functions_of
from nnkernels.registry.record import Op
from nnkernels.registry.rule import Given, Rule

Gradients = tuple[Any, ...]
OPTIONS = ("prologue", "prologue_operands", "epilogue", "operands")


def through_functions(
    op: Op, rule: Rule, given: Given, wanted: tuple[bool, ...]
) -> tuple[Any, Callable[..., Gradients]]:
    """Results and pullback of a row op with functions of what it reads and writes.

    The gradients of the operands of the prologue, and then of the epilogue, follow those of the
    array arguments.
    """
    run = _Run(op, rule, given, wanted)
    return run.value(), run.pullback


class _Run:
    """One call, and what its pullback keeps."""

    def __init__(self, op: Op, rule: Rule, given: Given, wanted: tuple[bool, ...]) -> None:
        self.op, self.rule = op, rule
        options = dict(given.options)
        parts = [options.pop(name, None) for name in OPTIONS]
        functions = functions_of(parts[0], parts[1] or (), parts[2], parts[3] or ())
        assert functions is not None
        self.functions = functions
        self.given = Given(given.arrays, given.names, options)
        # The gradient by what is normalised leads to those of the prologue's operands.
        self.wanted = (True, *wanted[1 : len(given.names)])
        self.has_residual = "residual" in given.names
        # Results beside v: a sum, or running statistics.
        self.further = 1 if self.has_residual else 2 if options.get("training") else 0
        self.input = self.result = None
        self.others: Sequence[Any] = ()
        self.pull_prologue: Callable[..., Gradients] | None = None
        self.pull_epilogue: Callable[..., Gradients] | None = None

    def value(self) -> Any:
        """The results of the call."""
        given, x = self.functions, self.given.arrays[0]
        before, after = given.prologue, given.epilogue
        made, kept = 0, None  # results of the prologue beside u, and where u is among them
        if before is not None:
            operands = (x, *given.prologue_operands)
            program = before.adopted(operands)[0].program
            if any(map(is_differentiable, program.inputs)):
                self.pull_prologue = pullback_of(before, operands)
            made = len(program.outputs) - 1
            if self.op.arrays[0] in self.rule.keeps:
                first, *more = program.outputs
                kept = more.index(first) if first in more else None
                if kept is None:
                    before, kept = further_result(before, False), made
        inside = {
            "prologue": before,
            "prologue_operands": given.prologue_operands,
            "epilogue": None if after is None else further_result(after, True),
            "operands": given.operands,
        }
        options = {**self.given.options, **inside}
        found = self.op.call(self.op.function, Given(self.given.arrays, self.given.names, options))
        results = list(found) if isinstance(found, tuple) else [found]
        extras = results[len(results) - made - (kept == made) :] if before is not None else []
        results = results[: len(results) - len(extras)]
        others = results[len(results) - self.further :] if self.further else []
        results = results[: len(results) - self.further]
        self.input = x if kept is None else extras[kept]
        self.others, self.result = others, results[-1]
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
        after: Sequence[Any] = (None,) * len(given.operands)
        dv, others = cotangents[0], cotangents[self.count : n]
        if self.op.auxiliary and any(d is not None for d in others):
            raise TypeError(
                f"{self.op.auxiliary} are not differentiated: their cotangents must be None"
            )
        if self.pull_epilogue is not None and any(d is not None for d in cotangents[: self.count]):
            dv, *after = self.pull_epilogue(*cotangents[: self.count])
        # Nothing comes back through the op where only what the prologue gave beside is asked.
        found = (None,) * len(self.given.names) if dv is None else self._reverse(dv, others)
        before: Sequence[Any] = (None,) * len(given.prologue_operands)
        if self.pull_prologue is not None:
            dx, *before = self.pull_prologue(found[0], *cotangents[n:])
            found = (dx, *found[1:])
        elif given.prologue is not None:
            found = (None, *found[1:])
        return (*found, *before, *after)

    def _reverse(self, dv: Any, others: Sequence[Any]) -> Gradients:
        """The op's own rule, of u and v in place of x and y."""
        import nnkernels
        from nnkernels.differentiation import call_of

        arrays = (self.input, *self.given.arrays[1:])
        own = Given(arrays, self.given.names, self.given.options)
        result = (self.result, *self.others) if self.others else self.result
        call = call_of(self.rule, own, result, self.wanted)
        return self.rule.pull(nnkernels, call, dv, *others)


# ---- a function with one more result -------------------------------------------------------------


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
