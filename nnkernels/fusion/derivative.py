"""Gradients of programs: the derivative of a program is a program, and so is one kernel.

Reverse mode: the values are computed again, since nothing but the arguments is kept, and then the
cotangent of each value from those of its users. What the gradients do not need is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from nnkernels.dispatch.dtypes import ELEMENTS
from nnkernels.fusion.activations import ACTIVATIONS
from nnkernels.fusion.expression import (
    BOOL,
    Argument,
    Constant,
    FunctorName,
    Node,
    Program,
    Source,
)
from nnkernels.fusion.functions import FUNCTIONS
from nnkernels.fusion.trace import Trace, Tracer

_F = FUNCTIONS


@dataclass(frozen=True)
class Computed:
    """A number that follows from numbers of the program, as one of the results of a function."""

    function: Callable[..., tuple[float, ...]]
    positions: tuple[int, ...]
    result: int


@dataclass(frozen=True)
class Gradient:
    """The gradient of a program.

    Attributes
    ----------
    program : Program
        Of cotangents and arguments to gradients.
    sources : tuple
        Its run-time numbers: an ``Argument`` is a run-time number of the program itself.
    used : tuple of int
        Which arrays it takes, among all cotangents that are given and then all arguments.
    """

    program: Program
    sources: tuple[Any, ...]
    used: tuple[int, ...]

    def values(self, numbers: Sequence[Any]) -> list[Any]:
        """The run-time numbers, given those of the program."""
        return [_value(source, numbers) for source in self.sources]


def _value(source: Any, numbers: Sequence[Any]) -> Any:
    if isinstance(source, Argument):
        return numbers[source.position]
    if isinstance(source, Computed):
        return source.function(*(numbers[k] for k in source.positions))[source.result]
    return source.value


def is_differentiable(dtype: str) -> bool:
    """Whether values of a dtype have gradients."""
    return dtype != BOOL and ELEMENTS[dtype].kind == "f"


# ---- rules: cotangent, result, operands -> the cotangent of each operand, None for none ---------

_LN2 = math.log(2.0)
_ERF_SLOPE = 2.0 / math.sqrt(math.pi)


def _power(d: Any, y: Any, a: Any, b: Any) -> tuple[Any, Any]:
    # 0^b does not depend on b, except where it jumps.
    return d * b * a ** (b - 1.0), _F["where"](a == 0.0, 0.0, d * y * _F["log"](a))


def _extremum(wins: str) -> Callable[..., tuple[Any, Any]]:
    def rule(d: Any, y: Any, a: Any, b: Any) -> tuple[Any, Any]:
        # Two equal operands share the cotangent.
        shared = d * 0.5
        first = _F["where"](_F[wins](a, b), d, _F["where"](_F[wins](b, a), 0.0, shared))
        return first, _F["where"](_F[wins](b, a), d, _F["where"](_F[wins](a, b), 0.0, shared))

    return rule


_RULES: dict[str, Callable[..., tuple[Any, ...]]] = {
    "add": lambda d, y, a, b: (d, d),
    "subtract": lambda d, y, a, b: (d, -d),
    "multiply": lambda d, y, a, b: (d * b, d * a),
    "divide": lambda d, y, a, b: (d / b, -d * y / b),
    "floor_divide": lambda d, y, a, b: (None, None),
    "remainder": lambda d, y, a, b: (d, -d * (a // b)),
    "pow": _power,
    "minimum": _extremum("less"),
    "maximum": _extremum("greater"),
    "logaddexp": lambda d, y, a, b: (d * _F["exp"](a - y), d * _F["exp"](b - y)),
    "negative": lambda d, y, x: (-d,),
    "abs": lambda d, y, x: (d * _F["sign"](x),),
    "sign": lambda d, y, x: (None,),
    "square": lambda d, y, x: (d * (2.0 * x),),
    "cube": lambda d, y, x: (d * (3.0 * x * x),),
    "fourth_power": lambda d, y, x: (d * (4.0 * x**3),),
    "floor": lambda d, y, x: (None,),
    "ceil": lambda d, y, x: (None,),
    "round": lambda d, y, x: (None,),
    "exp": lambda d, y, x: (d * y,),
    "exp2": lambda d, y, x: (d * (y * _LN2),),
    "expm1": lambda d, y, x: (d * _F["exp"](x),),
    "log": lambda d, y, x: (d / x,),
    "log1p": lambda d, y, x: (d / (1.0 + x),),
    "log2": lambda d, y, x: (d / (x * _LN2),),
    "sqrt": lambda d, y, x: (d * 0.5 / y,),
    "rsqrt": lambda d, y, x: (d * (-0.5 * y**3),),
    "reciprocal": lambda d, y, x: (-d * (y * y),),
    "sin": lambda d, y, x: (d * _F["cos"](x),),
    "cos": lambda d, y, x: (-d * _F["sin"](x),),
    "tan": lambda d, y, x: (d * (1.0 + y * y),),
    "tanh": lambda d, y, x: (d * ((1.0 - y) * (1.0 + y)),),
    "sinh": lambda d, y, x: (d * _F["cosh"](x),),
    "cosh": lambda d, y, x: (d * _F["sinh"](x),),
    "erf": lambda d, y, x: (d * (_ERF_SLOPE * _F["exp"](-(x * x))),),
    "where": lambda d, y, c, a, b: (None, _F["where"](c, d, 0.0), _F["where"](c, 0.0, d)),
    "rounded": lambda d, y, x: (d,),
}


@lru_cache(maxsize=256)
def gradient(program: Program, given: tuple[bool, ...], wide: tuple[bool | None, ...]) -> Gradient:
    """The gradient of a program.

    Parameters
    ----------
    given : tuple of bool
        For each result, whether its cotangent is given; it is zero otherwise.
    wide : tuple of bool or None
        For each array argument, whether its gradient keeps the computing type, for terms that are
        summed next; None if it is not asked for.
    """
    return _Reverse(program, given, wide).gradient()


class _Reverse:
    """Makes the gradient of one program."""

    def __init__(self, program: Program, given: Sequence[bool], wide: Sequence[bool | None]):
        self.program = program
        self.wide = wide
        self.run = Trace(frozenset())
        self.builder = self.run.builder
        results = program.results
        taken = [i for i, is_given in enumerate(given) if is_given]
        self.dtypes = [*(results[i] for i in taken), *program.inputs]
        self.cotangents: dict[int, Tracer] = {}
        self._copy_values(len(taken))
        for number, i in enumerate(taken):
            if is_differentiable(results[i]):
                d = self.builder.add("input", (), results[i], number)
                self._add(program.outputs[i], self.run.tracer(d))

    def _copy_values(self, offset: int) -> None:
        """The program itself; positions of arrays are moved behind the cotangents."""
        self.values: list[Tracer] = []
        self.active: list[bool] = []
        for node in self.program.nodes:
            operands = tuple(self.values[k]._position for k in node.operands)
            if node.op == "scalar":
                position = self.builder.scalar(Argument(node.detail), node.dtype)
            else:
                detail = node.detail + offset if node.op == "input" else node.detail
                position = self.builder.add(node.op, operands, node.dtype, detail)
            self.values.append(self.run.tracer(position))
            asked = node.op == "input" and self.wide[node.detail] is not None
            flows = is_differentiable(node.dtype)
            self.active.append(flows and (asked or any(self.active[k] for k in node.operands)))

    def _add(self, position: int, d: Tracer) -> None:
        known = self.cotangents.get(position)
        self.cotangents[position] = d if known is None else self.run.apply("add", (known, d))

    def gradient(self) -> Gradient:
        nodes = self.program.nodes
        for position in reversed(range(len(nodes))):
            d = self.cotangents.get(position)
            if d is not None and self.active[position] and nodes[position].operands:
                self._pull(position, nodes[position], d)
        outputs = []
        for number, is_wide in enumerate(self.wide):
            if is_wide is not None:
                outputs.append(self._result(number, is_wide))
        program, sources = self.builder.finish(tuple(outputs), tuple(self.dtypes))
        return _without_unused(program, sources)

    def _pull(self, position: int, node: Node, d: Tracer) -> None:
        operands = [self.values[k] for k in node.operands]
        if node.op == "cast":
            source = self.program.nodes[node.operands[0]].dtype
            pulled: Sequence[Any] = [
                self.run.tracer(self.builder.typed(d._position, source))
                if is_differentiable(source)
                else None
            ]
        elif node.op == "activation":
            pulled = self._pull_activation(position, node, d)
        else:
            pulled = _RULES[node.op](d, self.values[position], *operands)
        for k, part in zip(node.operands, pulled, strict=False):
            if part is not None and self.active[k]:
                self._add(k, part)

    def _pull_activation(self, position: int, node: Node, d: Tracer) -> list[Tracer]:
        functor, found = node.detail, ACTIVATIONS[node.detail.name]
        residuals = [self.values[k] for k in node.operands[: functor.arrays]]
        if found.takes_result:
            residuals = [self.values[position]]
        given = tuple(self.program.nodes[k].detail for k in node.operands[functor.arrays :])
        count = len(found.numbers(*([1.0] * len(given))))
        numbers = [
            self.builder.scalar(Computed(found.numbers, given, i), node.dtype)  # type: ignore[arg-type]
            for i in range(count)
        ]
        name = found.backward or f"{functor.name}Backward"
        backward = FunctorName(name, functor.header, 1 + len(residuals), functor.arrays)
        operands = (d._position, *(r._position for r in residuals), *numbers)
        whole = self.builder.add("activation", operands, node.dtype, backward)
        if functor.arrays == 1:
            return [self.run.tracer(whole)]
        parts = (self.builder.add("part", (whole,), node.dtype, i) for i in range(functor.arrays))
        return [self.run.tracer(part) for part in parts]

    def _result(self, number: int, is_wide: bool) -> int:
        dtype = self.program.inputs[number]
        wanted = ELEMENTS[dtype].compute_name if is_wide else dtype
        position = next(
            (i for i, n in enumerate(self.program.nodes) if n.op == "input" and n.detail == number),
            None,
        )
        d = None if position is None else self.cotangents.get(position)
        if d is None:
            return self.builder.scalar(Constant(0.0), wanted)
        return self.builder.typed(d._position, wanted)


def _without_unused(program: Program, sources: tuple[Source, ...]) -> Gradient:
    """The gradient with those arrays alone that it reads; one at least, which gives the shape."""
    used = sorted({n.detail for n in program.nodes if n.op == "input"}) or [0]
    places = {number: place for place, number in enumerate(used)}
    nodes = tuple(
        replace(n, detail=places[n.detail]) if n.op == "input" else n for n in program.nodes
    )
    inputs = tuple(program.inputs[number] for number in used)
    return Gradient(replace(program, nodes=nodes, inputs=inputs), sources, tuple(used))
