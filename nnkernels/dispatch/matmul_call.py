"""A matrix product as the kernels see it: element types, operands, epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkernels.dispatch.axes import Shape, Strides, contiguous_strides, merge
from nnkernels.dispatch.dtypes import ELEMENTS, Element, element_named, promote, require
from nnkernels.dispatch.matmul_product import Product
from nnkernels.errors import DTypeError

if TYPE_CHECKING:
    from nnkernels.dispatch.elementwise import Functor
    from nnkernels.fusion.inside import Inside

# Kinds of element types: real floating, complex, integers.
KINDS = "fciu"


@dataclass(frozen=True)
class Epilogue:
    """What is done with the sums: ``activation(alpha sum + beta d)``.

    Attributes
    ----------
    alpha, beta : number
        ``beta`` is left out of account where no array is added.
    activation : Functor or None
        An elementwise functor of one operand.
    parameters : tuple of numbers
        Its scalars.
    function : Inside or None
        A fused function instead, of these sums and further arrays.
    """

    alpha: complex = 1
    beta: complex = 1
    activation: Functor | None = None
    parameters: tuple[complex, ...] = ()
    function: Inside | None = None

    def __hash__(self) -> int:
        # Of a key at every call, where that of five fields would take a microsecond.
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.alpha, self.beta, self.activation, self.parameters, self.function))

    @property
    def before(self) -> Epilogue:
        """What comes before the fused function."""
        return self if self.function is None else replace(self, function=None)

    @property
    def written(self) -> tuple[Element, ...]:
        """Elements of the results of the fused function."""
        results = () if self.function is None else self.function.results
        return tuple(map(element_named, results))


PLAIN = Epilogue()


@dataclass(frozen=True)
class Types:
    """Element types of a product.

    Attributes
    ----------
    a, b, c : Element
        Of A, B and C.
    d : Element or None
        Of D, which is added, if there is one.
    written : Element or None
        What is written to C where a fused function makes that of another type of its sums, which
        are those of c.
    """

    a: Element
    b: Element
    c: Element
    d: Element | None
    written: Element | None = None

    def mirrored(self) -> Types:
        """Those of the transposed product."""
        return replace(self, a=self.b, b=self.a)

    @property
    def result(self) -> Element:
        """What is written to C."""
        return self.written or self.c

    @property
    def accumulator(self) -> tuple[str, str, int]:
        """Type of the sums: in C++, by name, and its size."""
        given = [e for e in (self.a, self.b, self.c, self.d) if e is not None]
        if self.c.kind in "iu":
            # Unsigned: overflow wraps by definition, and gives the same bits as signed.
            bits = 64 if max(e.itemsize for e in given) == 8 else 32
            return f"uint{bits}", f"uint{bits}", bits // 8
        together = ELEMENTS[promote(tuple(e.name for e in given))]
        return together.compute, together.compute_name, together.compute_itemsize

    @property
    def storage_c(self) -> str:
        """C++ type of C: the accumulator itself for integers of its size, of the same bits."""
        if self.written is not None:
            return self.written.storage
        return self.accumulator[0] if self.is_summed_as_it_is(self.c) else self.c.storage

    def is_summed_as_it_is(self, element: Element) -> bool:
        """Whether elements of a type have the bits of the accumulator's."""
        accumulator = self.accumulator[0]
        whole = self.c.kind in "iu" and accumulator == f"uint{8 * element.itemsize}"
        return whole or element.storage == accumulator

    @property
    def dot(self) -> str:
        """For which elements an instruction would do that adds several products: or ""."""
        names, accumulator = {self.a.name, self.b.name}, self.accumulator[1]
        if names in ({"bfloat16"}, {"float16"}):
            return self.a.name if accumulator == "float32" else ""
        # Sums modulo 2^32; those of uint16 need more bits than a sum of signed products has,
        # unless they are cut to 16.
        if accumulator != "uint32" or max(self.a.itemsize, self.b.itemsize) > 2:
            return ""
        if max(self.a.itemsize, self.b.itemsize) == 1:
            return "int8"
        return "int16" if "uint16" not in names or self.c.itemsize <= 2 else ""

    @property
    def activated(self) -> tuple[str, str]:
        """The type in which a result is activated: in C++, and by name."""
        return (self.c.storage, self.c.name) if self.c.kind in "iu" else self.accumulator[:2]


def types_of(
    a: Any, b: Any, addend: Any, names: Sequence[str], out_dtype: Any, epilogue: Epilogue
) -> Types:
    """Element types of a call, checked.

    Raises
    ------
    DTypeError
        If they do not go together, or with the scalars of the epilogue.
    """
    arrays = (a, b) if addend is None else (a, b, addend)
    given = [require(x.dtype, KINDS, name) for x, name in zip(arrays, names, strict=False)]
    promoted = ELEMENTS[promote(tuple(e.name for e in given))]
    result = promoted if out_dtype is None else _result_element(promoted, given, out_dtype)
    _check_scalars(epilogue, result)
    written = epilogue.written
    d = given[2] if addend is not None else None
    return Types(given[0], given[1], result, d, written[0] if written else None)


def _result_element(promoted: Element, given: list[Element], out_dtype: Any) -> Element:
    name = out_dtype if isinstance(out_dtype, str) else str(out_dtype).rpartition(".")[2]
    if isinstance(out_dtype, type) or name not in ELEMENTS:
        try:
            dtype = np.dtype(out_dtype)
        except (TypeError, ValueError, SyntaxError):
            raise no_dtype(out_dtype) from None
        name = dtype.name if dtype.isnative else str(dtype)
    wanted = ELEMENTS.get(name)
    if wanted is None:
        raise no_dtype(out_dtype)
    whole = "iu"
    if wanted.kind != promoted.kind and not (wanted.kind in whole and promoted.kind in whole):
        raise DTypeError(
            f"out_dtype {name} does not go with a product of "
            f"{' and '.join(e.name for e in given)}; it must be of the same kind (floating, "
            "complex, integer)"
        )
    return wanted


def _check_scalars(epilogue: Epilogue, result: Element) -> None:
    for name, value in (("alpha", epilogue.alpha), ("beta", epilogue.beta)):
        if result.kind != "c" and value.imag != 0:
            raise DTypeError(f"{name} is {value}; it must be real for a result of {result.name}")
        if result.kind in "iu" and not float(value.real).is_integer():
            raise DTypeError(
                f"{name} is {value.real}; it must be a whole number for a result of {result.name}"
            )
    functor = epilogue.activation
    if functor is not None and result.kind not in functor.kinds:
        raise DTypeError(
            f"the activation {functor.name} is not defined for a result of {result.name}"
        )


def no_dtype(out_dtype: Any) -> DTypeError:
    """The error for an ``out_dtype`` that is none."""
    return DTypeError(
        "out_dtype must be one of the dtypes float16, bfloat16, float32, float64, complex64, "
        "complex128, int8 to int64 and uint8 to uint64, or its name; got "
        f"{type(out_dtype).__name__} {out_dtype!r:.60}"
    )


@dataclass(frozen=True)
class PixelAxes:
    """The pixels of a product over windows as axes of the arrays of a fused function.

    Attributes
    ----------
    rows : bool
        Whether they are the rows of the product; else its columns.
    shape : tuple of int
        Their lengths, two or more.
    strides : tuple
        For each array its strides.
    """

    rows: bool
    shape: Shape
    strides: tuple[Strides, ...]

    def mirrored(self) -> PixelAxes:
        """Those of the transposed product."""
        return replace(self, rows=not self.rows)


@dataclass(frozen=True)
class Call:
    """A product as the kernels see it.

    Attributes
    ----------
    product, types, conjugate, epilogue
        What is computed.
    alignments : tuple of int
        Of the addresses of A, B and C.
    in_place : bool
        Whether C is what is added.
    precision : {None, "tf32"}
        What operands may be rounded to.
    more_alignments : tuple of int
        Of the addresses of the further arrays of a fused function; on a CPU, on which kernels do
        not depend on them, none.
    pixels : PixelAxes or None
        The axes that these have in place of one of the product's.
    """

    product: Product
    types: Types
    conjugate: tuple[bool, bool]
    epilogue: Epilogue
    alignments: tuple[int, int, int]
    in_place: bool
    precision: str | None = None
    more_alignments: tuple[int, ...] = ()
    pixels: PixelAxes | None = None

    @property
    def batches(self) -> int:
        """How many matrices the result has."""
        return prod(self.product.batch)

    def batch(self) -> tuple[Shape, list[Strides]]:
        """Shape of the stack, and strides of A, B, C and of what else is added; merged."""
        p = self.product
        arrays = [p.strides_a, p.strides_b, p.strides_c, *p.added]
        return merge(p.batch, [strides[:-2] for strides in arrays])

    def part(self, splits: int, terms: int) -> Call:
        """The call that sums each of several ranges of `terms` terms apart.

        They are an outermost axis of its batch. C is the workspace, dense and of the accumulator's
        type.
        """
        p = self.product
        accumulator = ELEMENTS[self.types.accumulator[1]]
        batch = (splits, *p.batch)
        product = replace(
            p,
            batch=batch,
            strides_a=(terms * p.strides_a[-1], *p.strides_a),
            strides_b=(terms * p.strides_b[-2], *p.strides_b),
            strides_c=contiguous_strides((*batch, p.m, p.n), accumulator.itemsize),
            strides_d=None,
            more=(),
        )
        return replace(
            self,
            product=product,
            types=Types(self.types.a, self.types.b, accumulator, None),
            epilogue=PLAIN,
            alignments=(*self.alignments[:2], 16),
            in_place=False,
            more_alignments=(),
            pixels=None,
        )


def epilogue_call(
    rows: int, terms: int, types: Types, epilogue: Epilogue, strides_d: Strides | None
) -> Call:
    """A product of which only the epilogue is packed: by kernels with operands of their own."""
    none = (0, 0)
    return Call(
        Product((), rows, 1, terms, none, none, none, strides_d),
        types,
        (False, False),
        epilogue,
        (1, 1, 1),
        in_place=False,
    )
