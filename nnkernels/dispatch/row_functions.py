"""Fused functions inside row kernels: what is normalised, and what becomes of the results.

A *prologue* is applied to what a kernel of rows loads, an *epilogue* to what it stores: see
``cuda_src/nnk/row_function.cuh``. Their operands broadcast to the array whose elements they meet, and
are operands of the kernel as that is.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nnkernels.config.rows import ELEMENTWISE, PARAMETER
from nnkernels.dispatch.axes import Shape, Strides, broadcast_strides
from nnkernels.dispatch.dtypes import ELEMENTS, Element, numpy_dtype
from nnkernels.dispatch.elementwise import alignment_of
from nnkernels.dispatch.results import adopt_out, check_memory, check_out, reach
from nnkernels.errors import DTypeError, ShapeError

if TYPE_CHECKING:
    from nnkernels.fusion.fuse import Fused
    from nnkernels.fusion.inside import Inside

# An array of bools, which only functions have.
_BOOL = Element("bool", "uint8", "uint8", "uint8", "b", 1, 1)


def element_named(name: str) -> Element:
    """The element type of a dtype of fused functions."""
    return ELEMENTS.get(name, _BOOL)


@dataclass(frozen=True, eq=False)
class Functions:
    """What a call is given: functions, or None, and their operands, arrays and numbers."""

    prologue: Fused | None
    prologue_operands: tuple[Any, ...]
    epilogue: Fused | None
    operands: tuple[Any, ...]


class Bound:
    """The functions of one call, for the dtype of its array.

    Attributes
    ----------
    prologue, epilogue : Inside or None
        The functions.
    views, names : list
        Their operands that are arrays, those of the prologue first.
    found : Element
        In which the kernel computes: the dtype of the array, or what the prologue gives.
    key : tuple
        What a plan depends on beside the arrays.
    """

    __slots__ = ("_count", "_numbers", "epilogue", "found", "key", "names", "prologue", "views")

    def __init__(self, functions: Functions, x: Any, name: str, library: Any, like: Any) -> None:
        from nnkernels.fusion.inside import adopt_operands, describe, require_real

        require_real(x.dtype, name)
        self.prologue: Inside | None = None
        self.epilogue: Inside | None = None
        self.views: list[Any] = []
        numbers = [b"", b""]
        dtype = x.dtype
        if functions.prologue is not None:
            given = adopt_operands(
                functions.prologue, 1, functions.prologue_operands, library, like
            )
            self.prologue, numbers[0] = describe(functions.prologue, (dtype,), given)
            self.views += [given[i] for i in self.prologue.arrays]
            dtype = numpy_dtype(self.prologue.results[0])
        self._count = len(self.views)
        found = ELEMENTS.get(dtype.name)
        if found is None or found.kind != "f":
            what = "the prologue gives" if functions.prologue is not None else f"{name} has"
            raise DTypeError(
                f"{what} dtype {dtype}, which is not supported here; supported: float16, bfloat16, "
                "float32, float64, which astype makes of others in a prologue"
            )
        self.found = found
        if functions.epilogue is not None:
            given = adopt_operands(functions.epilogue, 1, functions.operands, library, like)
            self.epilogue, numbers[1] = describe(functions.epilogue, (dtype,), given)
            self.views += [given[i] for i in self.epilogue.arrays]
        self._numbers = numbers
        self.names = [n for f in (self.prologue, self.epilogue) if f is not None for n in f.names]
        self.key = (self.prologue, self.epilogue)

    # ---- what a plan is made of ------------------------------------------------------------------

    @property
    def before(self) -> list[Any]:
        """Operands of the prologue."""
        return self.views[: self._count]

    @property
    def after(self) -> list[Any]:
        """Operands of the epilogue."""
        return self.views[self._count :]

    @property
    def extras(self) -> tuple[Element, ...]:
        """Element types of the further results of the prologue."""
        return () if self.prologue is None else _elements(self.prologue.results[1:])

    @property
    def results(self) -> tuple[Element, ...]:
        """Element types of all results of the epilogue, or the one of the kernel itself."""
        return (self.found,) if self.epilogue is None else _elements(self.epilogue.results)

    def template(
        self, first: int, extras: int, results: int, prologue: bool = True, epilogue: bool = True
    ) -> str:
        """Template arguments: the functions.

        Parameters
        ----------
        first, extras, results : int
            Places in the geometry, of the first operand, the first further result of the prologue,
            and the first result.
        prologue, epilogue : bool
            Whether they are wanted.
        """
        found = []
        for function, place, written, word in (
            (self.prologue if prologue else None, first, extras, "true"),
            (self.epilogue if epilogue else None, first + self._count, results + 1, "false"),
        ):
            if function is None:
                found.append("NoPrologue" if word == "true" else "NoEpilogue")
            else:
                found.append(f"RowFunction<{function.cpp_type()}, {place}, {written}, {word}>")
        return ", ".join(found)

    def source(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Headers and generated text of the functions."""
        sources = [f.source() for f in (self.prologue, self.epilogue) if f is not None]
        headers = dict.fromkeys(h for found, _ in sources for h in found)
        return tuple(headers), tuple(dict.fromkeys(t for _, found in sources for t in found))

    # ---- one call ------------------------------------------------------------------------------

    def arguments(
        self,
        addresses: Sequence[int],
        extras: Sequence[int],
        results: Sequence[int],
        epilogue: bool = True,
    ) -> bytes:
        """The end of the arguments of a kernel.

        Parameters
        ----------
        addresses, extras, results : sequence of int
            Addresses of the operands, the further results of the prologue, and all results.
        epilogue : bool
            Whether the kernel has it.
        """
        found = b""
        if self.prologue is not None:
            pointers = (*addresses[: self._count], *extras)
            found = struct.pack(f"={len(pointers)}Q", *pointers) + self._numbers[0]
        if self.epilogue is not None and epilogue:
            pointers = (*addresses[self._count :], *results[1:])
            found += struct.pack(f"={len(pointers)}Q", *pointers) + self._numbers[1]
        return found

    @property
    def numbers(self) -> bytes:
        """The numbers of both functions."""
        return self._numbers[0] + self._numbers[1]

    @property
    def numbers_after(self) -> bytes:
        """The numbers of the epilogue."""
        return self._numbers[1]

    def outs_of(self, out: Any, library: Any, like: Any) -> tuple[list[Any], list[str]]:
        """Views of the arrays of an ``out`` argument, one for each result, and their names."""
        if self.epilogue is None:
            return [adopt_out(out, "out", library, like)], ["out"]
        from nnkernels.fusion.inside import out_names, outs_of

        names = list(out_names(self.epilogue))
        outs = outs_of(self.epilogue, out)
        return [adopt_out(o, n, library, like) for o, n in zip(outs, names, strict=True)], names

    def as_given(self, out: Any) -> tuple[Any, ...]:
        """An ``out`` argument as one array for each result."""
        several = self.epilogue is not None and self.epilogue.several
        return tuple(out) if several else (out,)

    def gathered(self, results: Sequence[Any], others: Sequence[Any], extras: Sequence[Any]) -> Any:
        """What a call returns: results, further ones of the op, further ones of the prologue."""
        found = (*results, *others, *extras)
        several = self.epilogue is not None and self.epilogue.several
        return found if several or len(found) > 1 else found[0]


def _elements(names: Sequence[str]) -> tuple[Element, ...]:
    return tuple(map(element_named, names))


def element_of(view: Any) -> Element:
    """The element type of an array that functions take."""
    return element_named(view.dtype.name)


def operand_strides(view: Any, name: str, shape: Shape, of: str) -> Strides:
    """Strides of an operand that is broadcast to a shape.

    Raises
    ------
    ShapeError
        If it does not broadcast to it, naming it.
    """
    own = view.shape
    aligned = shape[len(shape) - len(own) :] if len(own) <= len(shape) else None
    if aligned is None or any(n not in (1, m) for n, m in zip(own, aligned, strict=True)):
        raise ShapeError(
            f"{name} has shape {own}, which does not broadcast to {shape}, the shape of {of}"
        )
    return broadcast_strides(own, view.strides, shape)


def role_of(strides: Strides, itemsize: int, like: Strides, size: int, shape: Shape) -> int:
    """Whether an operand lies as the array does, or is one that elements may share.

    Vectors are as long as what lies as the array does allows.
    """
    same = all(s * size == t * itemsize for s, t, n in zip(strides, like, shape, strict=True) if n > 1)
    return ELEMENTWISE if same else PARAMETER


def alignments_of(addresses: Sequence[int], is_cpu: bool) -> tuple[int, ...]:
    """Of operands; on a CPU, where no kernel depends on it, always 1."""
    return (1,) * len(addresses) if is_cpu else tuple(map(alignment_of, addresses))


def check_outs(
    outs: Sequence[Any], names: Sequence[str], shape: Shape, dtypes: Sequence[Any]
) -> None:
    """Check what stays the same for all arrays of the shapes and dtypes of ``outs``."""
    for view, name, dtype in zip(outs, names, dtypes, strict=True):
        check_out(view, name, shape, dtype)


def reaches_of(arrays: Sequence[Any]) -> list[tuple[int, int]]:
    """The lowest and the highest byte of arrays, of which some may be None."""
    return [(0, 0) if a is None else reach(a) for a in arrays]


def check_outs_memory(
    outs: Sequence[Any],
    names: Sequence[str],
    inputs: Sequence[Any],
    input_names: Sequence[str],
    in_place: int,
    addresses: Sequence[int],
    reaches: Sequence[tuple[int, int]],
) -> None:
    """Check the memory of results that are given: see ``results.check_memory``."""
    n = len(outs)
    for i, view in enumerate(outs):
        known = [addresses[i], *addresses[n:]], [reaches[i], *reaches[n:]]
        check_memory(view, names[i], inputs, input_names, in_place, *known)
        if n > 1:  # nor may it overlap another result
            known = list(addresses[i:n]), list(reaches[i:n])
            check_memory(view, names[i], outs[i + 1 :], names[i + 1 :], 0, *known)
