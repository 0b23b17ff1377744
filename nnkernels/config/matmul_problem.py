"""What decides how a matrix product is made."""

from __future__ import annotations

from dataclasses import dataclass

ROWS_FAST, COLUMNS_FAST = 0, 1


@dataclass(frozen=True)
class MatmulProblem:
    """One product; strides in bytes.

    Attributes
    ----------
    m, n, k : int
        C is m x n, the sum has k terms.
    strides_a, strides_b, strides_c : tuple of int
        Of rows and columns.
    itemsizes : tuple of int
        Of A, B and C.
    compute_itemsize : int
        Of the accumulator.
    is_complex : bool
        Whether the accumulator is complex.
    reach : int
        The largest byte offset or element count that an index must hold.
    batches : int
        How many such products there are.
    in_place : bool
        Whether C has the accumulator's type, so that unfinished sums can wait in it.
    dot : str
        For which elements of A and B, ``"bfloat16"``, ``"float16"``, ``"int8"`` or ``"int16"``, an
        instruction would do that adds several products of them, or of parts of them, at once;
        ``""`` if there is none.
    same_a : bool
        Whether elements of A are multiplied as they are: not converted, not conjugated.
    alignments : tuple of int
        Powers of two, at most 16, of which the addresses of A, B and C and the steps between their
        batches are multiples. On a CPU, on which kernels do not depend on them, all 1.
    element : str
        C++ type of A and of B, if it is one.
    tf32 : bool
        Whether float32 operands may be rounded to TF32.
    """

    m: int
    n: int
    k: int
    strides_a: tuple[int, int]
    strides_b: tuple[int, int]
    itemsizes: tuple[int, int, int]
    compute_itemsize: int
    is_complex: bool
    reach: int
    batches: int = 1
    in_place: bool = True
    dot: str = ""
    same_a: bool = False
    strides_c: tuple[int, int] = (0, 0)
    alignments: tuple[int, int, int] = (1, 1, 1)
    element: str = ""
    tf32: bool = False


def index_kind(reach: int) -> str:
    """``"i"`` if 32-bit indices reach so many bytes or elements and a tile beyond, else ``"q"``."""
    return "i" if reach + 4096 * 64 <= 2**31 - 1 else "q"


def fast_axes(problem: MatmulProblem) -> tuple[int, int]:
    """Along which axis of A and of B neighbours in memory lie."""
    a, b = (tuple(abs(s) for s in strides) for strides in (problem.strides_a, problem.strides_b))
    return (
        ROWS_FAST if a[0] < a[1] else COLUMNS_FAST,
        ROWS_FAST if b[0] < b[1] else COLUMNS_FAST,
    )


def round_up(n: int, multiple: int) -> int:
    """The smallest multiple that is at least `n`."""
    return -(-n // multiple) * multiple
