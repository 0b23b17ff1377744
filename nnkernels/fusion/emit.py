"""C++ for a program: a functor over Vecs, which loads and stores nothing.

The elementwise kernel calls it (``cuda_src/nnk/elementwise.cuh``, ``fused.cuh``), and any other
kernel may that has a Vec of each operand in registers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

from nnkernels.dispatch.dtypes import ELEMENTS
from nnkernels.fusion.expression import BOOL, OPERATIONS, Node, Program

# The C++ type of elements in memory and of the values computed from them. A bool is a byte in
# memory and a Mask in registers.
_BYTE = "uint8"


@dataclass(frozen=True)
class Emitted:
    """A generated functor.

    Attributes
    ----------
    name : str
        Of the struct; it holds a hash of the text.
    text : str
        Its definition, for namespace ``nnk`` after the ``headers``.
    headers : tuple of str
        Headers of ``nnk/`` that it needs.
    """

    name: str
    text: str
    headers: tuple[str, ...]


def storage(dtype: str) -> str:
    """The C++ type of elements in memory."""
    return _BYTE if dtype == BOOL else ELEMENTS[dtype].storage


def compute(dtype: str) -> str:
    """The C++ type in which values of a dtype are computed; the lanes of an array of bools."""
    return _BYTE if dtype == BOOL else ELEMENTS[dtype].compute


@lru_cache(maxsize=1024)
def emit(program: Program) -> Emitted:
    """The functor of a program."""
    body = _Body(program)
    lines = body.lines()
    text = "\n".join(lines)
    name = f"Fused_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    headers = dict.fromkeys(n.detail.header for n in program.nodes if n.op == "activation")
    return Emitted(name, f"struct {name} {{\n{text}\n}};", ("fused", *headers))


class _Body:
    """Lines of the functor of a program."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.lanes: list[str] = []  # for each value the type of its lanes

    def lines(self) -> list[str]:
        program = self.program
        scalars = [f"{compute(d)} s{i};" for i, d in enumerate(program.scalars)]
        templates = [f"class T{i}" for i in range(len(program.inputs))]
        operands = [f"const Vec<T{i}, N>& x{i}" for i in range(len(program.inputs))]
        # Aligned and of a size that is a multiple of 8 wherever it stands.
        found = [f"  struct alignas(8) Parameters {{ {' '.join(scalars) or 'uint64 none;'} }};"]
        found.append(f"  template <int N, {', '.join(templates)}>")
        head = "  static NNK_FN auto apply([[maybe_unused]] const Parameters& p"
        found.append(f"{head}, {', '.join(operands)}) {{")
        for position, node in enumerate(program.nodes):
            text = self._value(node)
            # No copy of an operand: see in_type of cuda_src/nnk/fused_operand.cuh.
            kind = "const auto&" if node.op == "input" else "const auto"
            found.append(f"    {kind} t{position} = {text};")
        results = [self._result(p) for p in program.outputs]
        joined = results[0] if len(results) == 1 else f"several({', '.join(results)})"
        found += [f"    return {joined};", "  }"]
        return found

    def _value(self, node: Node) -> str:
        operands = [f"t{k}" for k in node.operands]
        lanes = compute(node.dtype) if node.dtype != BOOL else self._mask_lanes(node)
        self.lanes.append(lanes)
        if node.op == "input":
            return f"is_true(x{node.detail})" if node.dtype == BOOL else f"x{node.detail}"
        if node.op == "scalar":
            return f"Vec<{lanes}, N>::splat(p.s{node.detail})"
        if node.op == "truth":
            zeros = f"Vec<{lanes}, N>::splat({lanes}(0))"
            return f"{zeros} {'==' if node.detail else '!='} {zeros}"
        if node.op == "where":
            condition = self._mask(node.operands[0], lanes)
            return f"where({condition}, {operands[1]}, {operands[2]})"
        if node.op == "cast":
            return self._cast(node.operands[0], lanes)
        if node.op == "rounded":
            return f"rounded_to<{ELEMENTS[node.dtype].storage}>({operands[0]})"
        if node.op == "part":
            return f"{operands[0]}.template at<{node.detail}>()"
        if node.op == "activation":
            return self._activation(node)
        text = OPERATIONS[node.op].text
        if OPERATIONS[node.op].kinds == "b":
            operands = [self._mask(k, lanes) for k in node.operands]
        return text.format(*operands)

    def _mask_lanes(self, node: Node) -> str:
        """The type of the lanes of a mask: that of the numbers it was made of."""
        if node.op in ("input", "truth") or not node.operands:
            return _BYTE
        found = [self.lanes[k] for k in node.operands]
        return next((lanes for lanes in found if lanes != _BYTE), found[0])

    def _mask(self, position: int, lanes: str) -> str:
        return f"mask_as<{lanes}>(t{position})" if self.lanes[position] != lanes else f"t{position}"

    def _cast(self, position: int, lanes: str) -> str:
        node = self.program.nodes[position]
        if node.dtype == BOOL:
            return f"number_of<{lanes}>(t{position})"
        return f"convert<{lanes}>(t{position})" if self.lanes[position] != lanes else f"t{position}"

    def _activation(self, node: Node) -> str:
        functor = node.detail
        lanes = self.lanes[-1]
        arrays = ", ".join(f"t{k}" for k in node.operands[: functor.arrays])
        numbers = [f"p.s{self.program.nodes[k].detail}" for k in node.operands[functor.arrays :]]
        if not numbers:
            return f"{functor.name}::apply(static_cast<const {lanes}*>(nullptr), {arrays})"
        values = f"Numbers<{lanes}, {len(numbers)}>{{{', '.join(numbers)}}}.value"
        return f"{functor.name}::apply({values}, {arrays})"

    def _result(self, position: int) -> str:
        if self.program.nodes[position].dtype == BOOL:
            return f"number_of<{_BYTE}>(t{position})"
        return f"t{position}"
