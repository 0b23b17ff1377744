"""Programs: what a fused function computes, as an immutable list of operations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

BOOL = "bool"
# dtypes of Python numbers before they meet an array, whose dtype they take.
WEAK_INT, WEAK_FLOAT = "int", "float"
WEAK = (WEAK_INT, WEAK_FLOAT)


@dataclass(frozen=True)
class Operation:
    """One kind of operation whose operands have one dtype.

    Attributes
    ----------
    name : str
        The Array API's, where it has one.
    operands : int
        How many.
    kinds : str
        Of which dtypes: ``f`` floating, ``i`` and ``u`` integers, ``b`` bool.
    text : str
        C++ on Vecs (Masks for bool), ``{0}`` and so on being the operands.
    reference : str
        The same in NumPy.
    truth : bool
        Whether the result is bool.
    """

    name: str
    operands: int
    kinds: str
    text: str
    reference: str
    truth: bool = False


def _table() -> dict[str, Operation]:
    numbers, real = "fiu", "f"
    rows: list[tuple[str, int, str, str, str]] = [
        ("add", 2, numbers, "{0} + {1}", "add"),
        ("subtract", 2, numbers, "{0} - {1}", "subtract"),
        ("multiply", 2, numbers, "{0} * {1}", "multiply"),
        ("divide", 2, real, "{0} / {1}", "divide"),
        ("floor_divide", 2, numbers, "floor_divide({0}, {1})", "floor_divide"),
        ("remainder", 2, numbers, "remainder({0}, {1})", "remainder"),
        ("pow", 2, real, "pow({0}, {1})", "power"),
        ("minimum", 2, numbers, "min({0}, {1})", "minimum"),
        ("maximum", 2, numbers, "max({0}, {1})", "maximum"),
        ("logaddexp", 2, real, "logaddexp({0}, {1})", "logaddexp"),
        ("negative", 1, numbers, "-{0}", "negative"),
        ("abs", 1, numbers, "abs({0})", "abs"),
        ("sign", 1, numbers, "sign({0})", "sign"),
        ("square", 1, numbers, "square({0})", "square"),
        ("cube", 1, numbers, "cube({0})", "cube"),
        ("fourth_power", 1, numbers, "fourth_power({0})", "fourth_power"),
        ("floor", 1, real, "floor({0})", "floor"),
        ("ceil", 1, real, "ceil({0})", "ceil"),
        ("round", 1, real, "round_even({0})", "rint"),
    ]
    functions = "exp exp2 expm1 log log1p log2 sqrt rsqrt reciprocal sin cos tan tanh sinh cosh erf"
    rows += [(name, 1, real, f"{name}({{0}})", name) for name in functions.split()]
    table = {row[0]: Operation(*row) for row in rows}
    comparisons = {
        "less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">=",
        "equal": "==", "not_equal": "!=",
    }  # fmt: skip
    for name, sign in comparisons.items():
        table[name] = Operation(name, 2, numbers, f"{{0}} {sign} {{1}}", name, truth=True)
    for name in ("isnan", "isinf", "isfinite"):
        table[name] = Operation(name, 1, real, f"{name}({{0}})", name, truth=True)
    logical = (("and", 2, "{0} & {1}"), ("or", 2, "{0} | {1}"), ("not", 1, "!{0}"))
    for word, operands, text in (*logical, ("xor", 2, "exclusive_or({0}, {1})")):
        name = f"logical_{word}"
        table[name] = Operation(name, operands, "b", text, name, truth=True)
    return table


OPERATIONS = _table()


@dataclass(frozen=True)
class Node:
    """One value of a program.

    Attributes
    ----------
    op : str
        A name of :data:`OPERATIONS`, or

        ``input``, ``scalar``
            An array argument or a run-time number, ``detail`` its position.
        ``where``
            Of a bool and two values.
        ``cast``
            Its operand in another dtype.
        ``rounded``
            Its operand as a narrow dtype holds it: other values keep the computing type.
        ``truth``
            The bool ``detail``.
        ``activation``
            A functor of nnkernels: ``detail`` is its :class:`FunctorName`; the operands are its
            arrays and then its scalars.
        ``part``
            Result number ``detail`` of an activation that has several.
    operands : tuple of int
        Positions of earlier nodes.
    dtype : str
        Name of a NumPy dtype.
    """

    op: str
    operands: tuple[int, ...]
    dtype: str
    detail: Any = None


@dataclass(frozen=True)
class FunctorName:
    """A C++ functor of nnkernels: its struct, its header, how many arrays and results it has."""

    name: str
    header: str
    arrays: int
    results: int = 1


@dataclass(frozen=True)
class Program:
    """A whole function. Equal programs are one kernel.

    Attributes
    ----------
    nodes : tuple of Node
        Each after its operands; every one is needed for a result.
    inputs, scalars : tuple of str
        dtypes of the arrays and of the run-time numbers.
    outputs : tuple of int
        Positions of the results.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    scalars: tuple[str, ...]
    outputs: tuple[int, ...]

    @cached_property
    def results(self) -> tuple[str, ...]:
        """dtypes of the results."""
        return tuple(self.nodes[position].dtype for position in self.outputs)

    def __str__(self) -> str:
        return "; ".join(
            f"t{i} = {n.op}({', '.join(f't{k}' for k in n.operands)}): {n.dtype}"
            for i, n in enumerate(self.nodes)
        )


@dataclass(frozen=True)
class Constant:
    """A number of the function itself."""

    value: float


@dataclass(frozen=True)
class Argument:
    """A number that the function is called with, at a position among all its arguments."""

    position: int


Source = Constant | Argument


class Builder:
    """Collects the nodes of a program; equal ones are one, so nothing is computed twice."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._positions: dict[Node, int] = {}
        self.sources: list[Source] = []

    def add(self, op: str, operands: tuple[int, ...], dtype: str, detail: Any = None) -> int:
        """The position of a node, which is there already or is made."""
        node = Node(op, operands, dtype, detail)
        position = self._positions.get(node)
        if position is None:
            position = self._positions[node] = len(self.nodes)
            self.nodes.append(node)
        return position

    def dtype(self, position: int) -> str:
        """The dtype of a node."""
        return self.nodes[position].dtype

    def scalar(self, source: Source, dtype: str) -> int:
        """A run-time number, another one for every call of this."""
        self.sources.append(source)
        return self.add("scalar", (), dtype, len(self.sources) - 1)

    def typed(self, position: int, dtype: str) -> int:
        """A node in a dtype: made anew if it is of Python numbers alone, else cast."""
        node = self.nodes[position]
        if node.dtype == dtype:
            return position
        if node.dtype not in WEAK:
            return self.add("cast", (position,), dtype)
        operands = (
            k if self.nodes[k].dtype == BOOL else self.typed(k, dtype) for k in node.operands
        )
        return self.add(node.op, tuple(operands), dtype, node.detail)

    def finish(
        self, outputs: tuple[int, ...], inputs: tuple[str, ...]
    ) -> tuple[Program, tuple[Source, ...]]:
        """The program that gives some nodes, and where its run-time numbers come from."""
        needed: set[int] = set()
        todo = list(outputs)
        while todo:
            position = todo.pop()
            if position not in needed:
                needed.add(position)
                todo += self.nodes[position].operands
        moved: dict[int, int] = {}
        nodes: list[Node] = []
        sources: list[Source] = []
        scalars: list[str] = []
        for position in sorted(needed):
            node = self.nodes[position]
            detail = node.detail
            if node.op == "scalar":
                sources.append(self.sources[detail])
                scalars.append(node.dtype)
                detail = len(scalars) - 1
            moved[position] = len(nodes)
            operands = tuple(moved[k] for k in node.operands)
            nodes.append(Node(node.op, operands, node.dtype, detail))
        results = tuple(moved[k] for k in outputs)
        return Program(tuple(nodes), inputs, tuple(scalars), results), tuple(sources)
