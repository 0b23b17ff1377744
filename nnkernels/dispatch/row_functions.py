"""Fused functions inside row kernels: what is normalised, and what becomes of the results.

A *prologue* is applied to what a kernel of rows loads, an *epilogue* to what it stores: see
``cuda_src/nnk/row_function.cuh``. Their operands broadcast to the array whose elements they meet,
and are operands of the kernel as that is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

from nnkernels.config.rows import ELEMENTWISE, PARAMETER
from nnkernels.dispatch.axes import Shape, Strides
from nnkernels.dispatch.dtypes import ELEMENTS, Element, element_named, name_of, numpy_dtype
from nnkernels.dispatch.elementwise import alignment_of
from nnkernels.dispatch.packing import pointer_struct
from nnkernels.dispatch.results import adopt_out, check_memory, check_out, reach
from nnkernels.errors import DTypeError
from nnkernels.fusion.fuse import Fused
from nnkernels.fusion.inside import (
    Inside,
    adopt_operands,
    describe,
    out_names,
    outs_of,
    require_real,
)


class Functions(NamedTuple):
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
    views : list
        Their operands that are arrays, those of the prologue first.
    found : Element
        In which the kernel computes: the dtype of the array, or what the prologue gives.
    key : tuple
        What a plan depends on beside the arrays.
    """

    __slots__ = ("_count", "_numbers", "epilogue", "found", "key", "prologue", "views")

    def __init__(self, functions: Functions, x: Any, name: str, library: Any, like: Any) -> None:
        prologue = epilogue = None
        before = after = b""
        views: list[Any] = []
        if functions.prologue is not None:
            given = adopt_operands(
                functions.prologue, 1, functions.prologue_operands, library, like
            )
            require_real(x.dtype, name)
            prologue, before = describe(functions.prologue, (x.dtype,), given)
            views += [given[i] for i in prologue.arrays]
        self._count = len(views)
        self.found, dtype = _made(prologue, x.dtype, name)
        if functions.epilogue is not None:
            given = adopt_operands(functions.epilogue, 1, functions.operands, library, like)
            epilogue, after = describe(functions.epilogue, (dtype,), given)
            views += [given[i] for i in epilogue.arrays]
        self.prologue, self.epilogue, self.views = prologue, epilogue, views
        self._numbers = before, after
        self.key = (prologue, epilogue)

    @property
    def names(self) -> list[str]:
        """Of the views."""
        return [n for f in self.key if f is not None for n in f.names]

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
            found = _packer(len(pointers))(*pointers) + self._numbers[0]
        if self.epilogue is not None and epilogue:
            pointers = (*addresses[self._count :], *results[1:])
            found += _packer(len(pointers))(*pointers) + self._numbers[1]
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
        if len(found) > 1 or (self.epilogue is not None and self.epilogue.several):
            return found
        return found[0]


@lru_cache(maxsize=1024)
def _made(prologue: Inside | None, dtype: Any, name: str) -> tuple[Element, Any]:
    """The element type in which a kernel computes, and its dtype."""
    made = dtype if prologue is None else numpy_dtype(prologue.results[0])
    found = ELEMENTS.get(made.name) if made.isnative else None
    if found is None or found.kind != "f":
        require_real(made, name)
        what = f"{name} has" if prologue is None else "the prologue gives"
        raise DTypeError(
            f"{what} dtype {made}, which is not supported here; supported: float16, bfloat16, "
            "float32, float64, which astype makes of others in a prologue"
        )
    return found, made


@cache
def _packer(count: int) -> Callable[..., bytes]:
    return pointer_struct(count).pack


@lru_cache(maxsize=1024)
def _elements(names: tuple[str, ...]) -> tuple[Element, ...]:
    return tuple(map(element_named, names))


def element_of(view: Any) -> Element:
    """The element type of an array that functions take."""
    return element_named(name_of(view.dtype))


def role_of(strides: Strides, itemsize: int, like: Strides, size: int, shape: Shape) -> int:
    """Whether an operand lies as the array does, or is one that elements may share.

    Vectors are as long as what lies as the array does allows.
    """
    same = all(
        s * size == t * itemsize for s, t, n in zip(strides, like, shape, strict=True) if n > 1
    )
    return ELEMENTWISE if same else PARAMETER


def alignments_of(addresses: Sequence[int], is_cpu: bool) -> tuple[int, ...]:
    """Of operands; on a CPU, where no kernel depends on it, always 1."""
    return (1,) * len(addresses) if is_cpu else tuple([alignment_of(a) for a in addresses])


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
