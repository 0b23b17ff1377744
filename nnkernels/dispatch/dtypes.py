"""Element types: their C++ names, the types they are computed in, and how they promote."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from nnkernels.errors import DTypeError


@dataclass(frozen=True)
class Element:
    """One element type.

    Attributes
    ----------
    name : str
        NumPy's name.
    storage : str
        C++ type in memory.
    compute, compute_name : str
        C++ type and name of the type in which it is computed and summed.
    kind : str
        ``f`` real floating, ``c`` complex, ``i`` signed, ``u`` unsigned integer.
    """

    name: str
    storage: str
    compute: str
    compute_name: str
    kind: str
    itemsize: int
    compute_itemsize: int


def _table() -> dict[str, Element]:
    rows = [
        Element("float16", "half", "float", "float32", "f", 2, 4),
        Element("bfloat16", "bfloat16", "float", "float32", "f", 2, 4),
        Element("float32", "float", "float", "float32", "f", 4, 4),
        Element("float64", "double", "double", "float64", "f", 8, 8),
        Element("complex64", "Complex<float>", "Complex<float>", "complex64", "c", 8, 8),
        Element("complex128", "Complex<double>", "Complex<double>", "complex128", "c", 16, 16),
    ]
    for bits in (8, 16, 32, 64):
        for kind, prefix in (("i", "int"), ("u", "uint")):
            name = f"{prefix}{bits}"
            rows.append(Element(name, name, name, name, kind, bits // 8, bits // 8))
    return {row.name: row for row in rows}


ELEMENTS = _table()
# Truth values in memory: what fused functions may write, and no other kernel has.
BOOL = Element("bool", "uint8", "uint8", "uint8", "u", 1, 1)


def element_named(name: str) -> Element:
    """The element type of a dtype of fused functions, bools included."""
    return ELEMENTS.get(name, BOOL)


@cache
def element(dtype: Any) -> Element | None:
    """The record of a NumPy dtype, or None if no kernel works on it."""
    return ELEMENTS.get(dtype.name) if dtype.isnative else None


@cache
def name_of(dtype: Any) -> str:
    """The name of a NumPy dtype, which takes NumPy itself some microseconds to find."""
    return str(dtype.name)


@cache
def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype of a name, ``bfloat16`` included."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


_KIND_NAMES = {
    "f": "float16, bfloat16, float32, float64",
    "c": "complex64, complex128",
    "i": "int8 to int64",
    "u": "uint8 to uint64",
}


def require(dtype: Any, kinds: str, argument: str) -> Element:
    """The record of a dtype of one of some kinds.

    Raises
    ------
    DTypeError
        Naming the argument, its dtype and the dtypes that would do.
    """
    found = element(dtype)
    if found is None or found.kind not in kinds:
        supported = "; ".join(_KIND_NAMES[kind] for kind in kinds)
        order = "" if dtype.isnative else " of foreign byte order"
        raise DTypeError(
            f"{argument} has dtype {dtype}{order}, which is not supported here; "
            f"supported: {supported}"
        )
    return found


@cache
def promote(names: tuple[str, ...]) -> str:
    """The Array-API promotion of dtype names; float16 with bfloat16 gives float32.

    Raises
    ------
    DTypeError
        For mixed kinds, for which the standard has no rule.
    """
    result = names[0]
    for name in names[1:]:
        result = _promote_two(result, name)
    return result


def _promote_two(a: str, b: str) -> str:
    if a == b:
        return a
    x, y = ELEMENTS[a], ELEMENTS[b]
    if {x.kind, y.kind} <= {"f"}:
        if {a, b} == {"float16", "bfloat16"}:
            return "float32"
        return max((a, b), key=lambda name: ELEMENTS[name].itemsize)
    if {x.kind, y.kind} <= {"f", "c"}:
        double = any(name in ("float64", "complex128") for name in (a, b))
        return "complex128" if double else "complex64"
    if x.kind == y.kind:
        return max((a, b), key=lambda name: ELEMENTS[name].itemsize)
    if {x.kind, y.kind} == {"i", "u"}:
        signed, unsigned = (x, y) if x.kind == "i" else (y, x)
        bits = 8 * max(signed.itemsize, 2 * unsigned.itemsize)
        if bits <= 64:
            return f"int{bits}"
    raise DTypeError(
        f"dtypes {a} and {b} do not promote to a common one (the Array API has no rule for them); "
        "convert one first"
    )
