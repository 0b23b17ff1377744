"""Matrix products as stacks of two-dimensional ones: shapes and strides of all operands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from nnkernels.dispatch.axes import Shape, Strides, broadcast_strides, broadcast_to, span
from nnkernels.errors import ShapeError


@dataclass(frozen=True)
class Product:
    """Operands as stacks of matrices: shapes and byte strides after broadcasting.

    Attributes
    ----------
    batch : tuple of int
        Shape of the stacks.
    m, n, k : int
        A is m x k, B is k x n.
    strides_a, strides_b, strides_c : tuple of int
        Of the batch and the two axes of the matrix.
    strides_d : tuple of int or None
        Of the array that is added, if there is one.
    more : tuple
        Of each array that a fused function reads or writes.
    """

    batch: Shape
    m: int
    n: int
    k: int
    strides_a: Strides
    strides_b: Strides
    strides_c: Strides
    strides_d: Strides | None = None
    more: tuple[Strides, ...] = ()

    @property
    def added(self) -> tuple[Strides, ...]:
        """Strides of all arrays but A, B and C."""
        return self.more if self.strides_d is None else (self.strides_d, *self.more)

    def mirrored(self) -> Product:
        """The transposed product: B transposed times A transposed."""
        a, b, c = map(_turned, (self.strides_b, self.strides_a, self.strides_c))
        d = None if self.strides_d is None else _turned(self.strides_d)
        more = tuple(map(_turned, self.more))
        return Product(self.batch, self.n, self.m, self.k, a, b, c, d, more)

    def folded(self) -> Product:
        """The product with the inner axes of the batch made rows of one matrix where they can be.

        They can where B is the same for all of them, and A, C and D step on as from row to row.
        """
        product = self
        while product.batch and product._batch_is_rows():
            product = product._with_batch_as_rows()
        return product

    def oriented(self) -> tuple[Product, bool]:
        """The product folded, and turned so that C lies by rows; whether it is the transposed one.

        A product with a vector becomes that of a vector and a matrix, of one row.
        """
        product, mirrored = self.folded(), False
        if product.n == 1 and product.m > 1:
            product, mirrored = product.mirrored().folded(), True
        if product.m > 1 and product.n > 1:
            by_columns = abs(product.strides_c[-2]) < abs(product.strides_c[-1])
            if by_columns:
                product, mirrored = product.mirrored().folded(), not mirrored
        return product, mirrored

    def _arrays_with_rows(self) -> list[Strides]:
        return [self.strides_a, self.strides_c, *self.added]

    def _batch_is_rows(self) -> bool:
        if self.batch[-1] == 1:
            return True
        # A single row has no step of its own.
        return self.strides_b[-3] == 0 and (
            self.m == 1 or all(s[-3] == s[-2] * self.m for s in self._arrays_with_rows())
        )

    def _with_batch_as_rows(self) -> Product:
        row = -3 if self.m == 1 and self.batch[-1] != 1 else -2
        a, c, *added = [(*s[:-3], s[row], s[-1]) for s in self._arrays_with_rows()]
        d = added[: len(added) - len(self.more)]
        return replace(
            self,
            batch=self.batch[:-1],
            m=self.m * self.batch[-1],
            strides_a=a,
            strides_b=(*self.strides_b[:-3], *self.strides_b[-2:]),
            strides_c=c,
            strides_d=d[0] if d else None,
            more=tuple(added[len(d) :]),
        )

    @property
    def reach(self) -> int:
        """The largest byte offset or element count that an index must hold."""
        m, n, k = self.m, self.n, self.k
        results = (self.strides_c, *self.added)
        shapes = (*self.batch, m, k), (*self.batch, k, n), *[(*self.batch, m, n)] * len(results)
        strides = self.strides_a, self.strides_b, *results
        spans = (span(shape, s) for shape, s in zip(shapes, strides, strict=True))
        return max(m, n, k, prod(self.batch), *spans)


def _turned(strides: Strides) -> Strides:
    return (*strides[:-2], strides[-1], strides[-2])


@dataclass(frozen=True)
class Shapes:
    """What the shapes of the two operands say.

    Attributes
    ----------
    batch : tuple of int
        Shape of the stacks.
    m, n, k : int
        A is m x k, B is k x n.
    has_rows, has_columns : bool
        Whether the result has an axis for them: a vector has none.
    """

    batch: Shape
    m: int
    n: int
    k: int
    has_rows: bool
    has_columns: bool

    @property
    def result(self) -> Shape:
        """Shape of the result."""
        rows = (self.m,) if self.has_rows else ()
        return self.batch + rows + ((self.n,) if self.has_columns else ())

    def product(
        self,
        a: Any,
        b: Any,
        strides_c: Strides,
        addend: Any,
        name: str,
        more: Sequence[Strides] = (),
    ) -> Product:
        """Strides of all operands after broadcasting.

        Parameters
        ----------
        a, b, addend : array
            The operands; the array that is added, or None.
        strides_c : tuple of int
            Of the result.
        name : str
            Of the array that is added.
        more : sequence
            Strides of further arrays, broadcast to the result.

        Raises
        ------
        ShapeError
            If the array that is added does not broadcast to the result.
        """
        strides_a = a.strides if self.has_rows else _before_last(a.strides)
        strides_b = b.strides if self.has_columns else (*b.strides, 0)
        shape_a = a.shape if self.has_rows else _before_last(a.shape, 1)
        shape_b = b.shape if self.has_columns else (*b.shape, 1)
        strides_d = None
        if addend is not None:
            strides_d = self._matrix_axes(broadcast_to(addend, self.result, name))
        return Product(
            self.batch,
            self.m,
            self.n,
            self.k,
            _full_strides(shape_a, strides_a, self.batch),
            _full_strides(shape_b, strides_b, self.batch),
            self._matrix_axes(strides_c),
            strides_d,
            tuple(map(self._matrix_axes, more)),
        )

    def _matrix_axes(self, strides: Strides) -> Strides:
        """Strides of the result with those of the axes that it lacks."""
        with_columns = strides if self.has_columns else (*strides, 0)
        return with_columns if self.has_rows else _before_last(with_columns)


def _before_last(numbers: tuple[int, ...], new: int = 0) -> tuple[int, ...]:
    return (*numbers[:-1], new, numbers[-1])


def match_shapes(a: Any, b: Any, names: Sequence[str], vectors: bool | None = None) -> Shapes:
    """What the shapes of two operands say.

    Parameters
    ----------
    names : sequence of str
        Of the operands, for messages.
    vectors : bool, optional
        Whether the second operand is a stack of vectors. Default: whether it has one axis.

    Raises
    ------
    ShapeError
        Naming both shapes.
    """
    first, second = names[:2]
    both = f"{first} has shape {a.shape} and {second} {b.shape}"
    if a.ndim == 0 or b.ndim == 0:
        raise ShapeError(f"{both}: a matrix product needs at least one axis on each")
    has_rows, has_columns = a.ndim > 1, b.ndim > 1 if vectors is None else not vectors
    shape_a = a.shape if has_rows else (1, *a.shape)
    shape_b = b.shape if has_columns else (*b.shape, 1)
    m, k = shape_a[-2:]
    k_b, n = shape_b[-2:]
    if k != k_b:
        axis = "second-last" if has_columns else "only" if b.ndim == 1 else "last"
        raise ShapeError(
            f"{both}: the last axis of {first} ({k}) must match the {axis} axis of {second} ({k_b})"
        )
    try:
        batch = np.broadcast_shapes(shape_a[:-2], shape_b[:-2])
    except ValueError:
        raise ShapeError(
            f"{both}: the batch shapes {shape_a[:-2]} and {shape_b[:-2]} do not broadcast together"
        ) from None
    return Shapes(batch, m, n, k, has_rows, has_columns)


def _full_strides(shape: Shape, strides: Strides, batch: Shape) -> Strides:
    return (*broadcast_strides(shape[:-2], strides[:-2], batch), *strides[-2:])
