"""Plans of matrix products: everything about a call but its pointers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnkernels.compile.instance import Instance
from nnkernels.config import matmul as config
from nnkernels.config.matmul import MatmulConfig, MatmulProblem, PackedConfig
from nnkernels.dispatch import machines
from nnkernels.dispatch.axes import Shape, Strides, contiguous_strides, merge, span
from nnkernels.dispatch.dtypes import ELEMENTS, Element, numpy_dtype, promote, require
from nnkernels.dispatch.packing import Packer, pointer_struct
from nnkernels.dispatch.results import Allocation, check_out, reach
from nnkernels.errors import DTypeError, ShapeError

# The array arguments, and the kinds of element types: real floating, complex, integers.
NAMES = ("x1", "x2")
KINDS = "fciu"


@dataclass(frozen=True)
class Product:
    """Operands as stacks of matrices: shapes and byte strides after broadcasting."""

    batch: Shape
    m: int
    n: int
    k: int
    strides_a: Strides
    strides_b: Strides
    result: Shape

    def mirrored(self) -> Product:
        """The transposed product: B transposed times A transposed."""
        a, b = ((*s[:-2], s[-1], s[-2]) for s in (self.strides_b, self.strides_a))
        return Product(self.batch, self.n, self.m, self.k, a, b, self.result)


class MatmulPlan:
    """Everything about a call but its pointers."""

    __slots__ = ("allocation", "mirrored", "pack", "reaches", "start", "tail")

    def __init__(self, allocation: Allocation) -> None:
        self.allocation = allocation
        self.start: Any = None
        # Whether the kernel makes the transposed product: its operands change places.
        self.mirrored = False
        self.tail = b""
        self.pack = pointer_struct(3).pack
        # Where the result is given: the lowest and highest byte of it and of both operands.
        self.reaches: list[tuple[int, int]] = []


def _result_element(first: Element, second: Element, out_dtype: Any) -> Element:
    promoted = ELEMENTS[promote((first.name, second.name))]
    if out_dtype is None:
        return promoted
    name = out_dtype if isinstance(out_dtype, str) else str(out_dtype).rpartition(".")[2]
    if isinstance(out_dtype, type) or name not in ELEMENTS:
        try:
            given = np.dtype(out_dtype)
        except (TypeError, ValueError, SyntaxError):
            raise no_dtype(out_dtype) from None
        name = given.name if given.isnative else str(given)
    wanted = ELEMENTS.get(name)
    if wanted is None:
        raise no_dtype(out_dtype)
    whole = "iu"
    if wanted.kind != promoted.kind and not (wanted.kind in whole and promoted.kind in whole):
        raise DTypeError(
            f"out_dtype {name} does not go with a product of {first.name} and {second.name}; it "
            "must be of the same kind (floating, complex, integer)"
        )
    return wanted


def _accumulator(first: Element, second: Element, result: Element) -> tuple[str, int]:
    """C++ type and size of the sums."""
    if result.kind in "iu":
        # Unsigned: overflow wraps by definition, and gives the same bits as signed.
        bits = 64 if max(first.itemsize, second.itemsize, result.itemsize) == 8 else 32
        return f"uint{bits}", bits // 8
    together = ELEMENTS[promote((first.name, second.name, result.name))]
    return together.compute, together.compute_itemsize


def as_product(a: Any, b: Any) -> Product:
    """Shapes and strides of the operands as stacks of matrices.

    Raises
    ------
    ShapeError
        Naming both shapes.
    """
    both = f"x1 has shape {a.shape} and x2 {b.shape}"
    if a.ndim == 0 or b.ndim == 0:
        raise ShapeError(f"{both}: a matrix product needs at least one axis on each")
    shape_a, strides_a = (a.shape, a.strides) if a.ndim > 1 else ((1, *a.shape), (0, *a.strides))
    shape_b, strides_b = (b.shape, b.strides) if b.ndim > 1 else ((*b.shape, 1), (*b.strides, 0))
    m, k = shape_a[-2:]
    k_b, n = shape_b[-2:]
    if k != k_b:
        raise ShapeError(
            f"{both}: the last axis of x1 ({k}) must match the "
            f"{'only' if b.ndim == 1 else 'second-last'} axis of x2 ({k_b})"
        )
    try:
        batch = np.broadcast_shapes(shape_a[:-2], shape_b[:-2])
    except ValueError:
        raise ShapeError(
            f"{both}: the batch shapes {shape_a[:-2]} and {shape_b[:-2]} do not broadcast together"
        ) from None
    result = batch + ((m,) if a.ndim > 1 else ()) + ((n,) if b.ndim > 1 else ())
    return Product(
        batch,
        m,
        n,
        k,
        _full_strides(shape_a, strides_a, batch),
        _full_strides(shape_b, strides_b, batch),
        result,
    )


def _full_strides(shape: Shape, strides: Strides, batch: Shape) -> Strides:
    missing = len(batch) - (len(shape) - 2)
    own = zip(shape[:-2], strides[:-2], batch[missing:], strict=True)
    return (
        (0,) * missing
        + tuple(0 if n == 1 and wanted != 1 else s for n, s, wanted in own)
        + tuple(strides[-2:])
    )


def make_plan(
    a: Any, b: Any, out_dtype: Any, conjugate: tuple[bool, bool], machine: Any, out: Any
) -> MatmulPlan:
    """The plan of a call; with ``out``, for a result that is given."""
    first, second = require(a.dtype, KINDS, "x1"), require(b.dtype, KINDS, "x2")
    result = _result_element(first, second, out_dtype)
    machines.require_aligned(machine, (a, b), NAMES)
    product = as_product(a, b)
    dtype = numpy_dtype(result.name)
    plan = MatmulPlan(Allocation(product.result, dtype, tuple(range(len(product.result)))))
    if out is not None:
        check_out(out, "out", product.result, dtype)
        machines.require_aligned(machine, (out,), ("out",))
        plan.reaches = [reach(array) for array in (out, a, b)]
    if 0 in product.result:
        return plan
    strides_c = contiguous_strides(product.result, dtype.itemsize) if out is None else out.strides
    strides_c = _with_matrix_axes(strides_c, a.ndim > 1, b.ndim > 1)
    elements = (first, second, result)
    if product.n > 1 and abs(strides_c[-2]) < abs(strides_c[-1]):
        # C lies by columns: its transpose is the product of the transposes.
        plan.mirrored = True
        product, elements, conjugate = product.mirrored(), (second, first, result), conjugate[::-1]
        strides_c = (*strides_c[:-2], strides_c[-1], strides_c[-2])
    _finish(plan, product, elements, strides_c, conjugate, machine)
    return plan


def _finish(
    plan: MatmulPlan,
    product: Product,
    elements: tuple[Element, Element, Element],
    strides_c: Strides,
    conjugate: tuple[bool, bool],
    machine: Any,
) -> None:
    """Choose the kernel, and prepare its launch."""
    accumulator, compute_itemsize = _accumulator(*elements)
    batch, batch_strides = merge(
        product.batch, [product.strides_a[:-2], product.strides_b[:-2], strides_c[:-2]]
    )
    storage = result_storage(elements[2], accumulator)
    batches = int(np.prod(batch, dtype=np.int64))
    problem = MatmulProblem(
        m=product.m,
        n=product.n,
        k=product.k,
        strides_a=(product.strides_a[-2], product.strides_a[-1]),
        strides_b=(product.strides_b[-2], product.strides_b[-1]),
        itemsizes=(elements[0].itemsize, elements[1].itemsize, elements[2].itemsize),
        compute_itemsize=compute_itemsize,
        is_complex=elements[2].kind == "c",
        reach=_reach(product, strides_c),
        batches=batches,
        in_place=storage == accumulator,
    )
    chosen = config.configure(problem, machine.device)
    if isinstance(chosen, PackedConfig):
        instance = make_packed_instance(
            elements, storage, accumulator, len(batch), chosen, conjugate
        )
    else:
        instance = make_instance(elements, accumulator, len(batch), chosen, conjugate)
    tiles_m, tiles_n = -(-product.m // chosen.tile_m), -(-product.n // chosen.tile_n)
    plan.tail = _pack(problem, chosen, batch, batch_strides, strides_c[-2:], tiles_m, tiles_n)
    # Work, in bytes that would take as long: a product is worth a thread much earlier than a copy.
    traffic = batches * product.m * product.n * max(product.k, 1)
    shared_bytes = chosen.shared_elements(problem.k) * compute_itemsize
    plan.start = machine.prepare(instance, batches * tiles_m * tiles_n, shared_bytes, traffic)


def _with_matrix_axes(strides: Strides, has_m: bool, has_n: bool) -> Strides:
    if has_m and has_n:
        return strides
    if has_m:
        return (*strides, 0)
    return (*strides[:-1], 0, strides[-1]) if has_n else (*strides, 0, 0)


def _reach(product: Product, strides_c: Strides) -> int:
    m, n, k = product.m, product.n, product.k
    return max(
        span((*product.batch, m, k), product.strides_a),
        span((*product.batch, k, n), product.strides_b),
        span((*product.batch, m, n), strides_c),
        m,
        n,
        k,
        int(np.prod(product.batch, dtype=np.int64)),
    )


def make_instance(
    elements: tuple[Element, Element, Element],
    accumulator: str,
    batch_rank: int,
    chosen: MatmulConfig,
    conjugate: tuple[bool, bool],
) -> Instance:
    """The plain kernel for the element types of A, B and C, and a config."""
    types = ", ".join(e.storage for e in elements)
    kernel = (
        f"Matmul<{types}, {accumulator}, {_index_type(chosen)}, {batch_rank}, {chosen.tile_m}, "
        f"{chosen.tile_n}, {chosen.tile_k}, {chosen.micro_m}, {chosen.vector}, {chosen.threads}, "
        f"{chosen.fast_a}, {chosen.fast_b}, "
        f"{_flags(*conjugate)}>"
    )
    return Instance("matmul", kernel, chosen.threads)


def result_storage(result: Element, accumulator: str) -> str:
    """C++ type of C: the accumulator itself for integers of its size, whose bits are the same."""
    same_size = accumulator in (f"uint{8 * result.itemsize}", f"int{8 * result.itemsize}")
    return accumulator if result.kind in "iu" and same_size else result.storage


def make_packed_instance(
    elements: tuple[Element, Element, Element],
    storage: str,
    accumulator: str,
    batch_rank: int,
    chosen: PackedConfig,
    conjugate: tuple[bool, bool],
) -> Instance:
    """The kernel for a CPU, for the element types of A, B and C (`storage`) and a config."""
    kernel = (
        f"MatmulPacked<{elements[0].storage}, {elements[1].storage}, {storage}, {accumulator}, "
        f"{_index_type(chosen)}, {batch_rank}, {chosen.tile_k}, {chosen.micro_m}, "
        f"{chosen.vector}, {chosen.fast_a}, {chosen.fast_b}, "
        f"{_flags(chosen.unit_a, chosen.unit_b, *conjugate, chosen.in_place)}, PlainEpilogue>"
    )
    return Instance("matmul_packed", kernel, 1)


def _index_type(chosen: MatmulConfig | PackedConfig) -> str:
    return "int32" if chosen.index == "i" else "int64"


def _flags(*flags: bool) -> str:
    return ", ".join("true" if flag else "false" for flag in flags)


def _pack(
    problem: MatmulProblem,
    chosen: MatmulConfig | PackedConfig,
    batch: Shape,
    batch_strides: list[Strides],
    strides_c: Strides,
    tiles_m: int,
    tiles_n: int,
) -> bytes:
    packer = Packer(3, chosen.index)
    packer.add("q", tiles_m, tiles_n)
    if isinstance(chosen, PackedConfig):
        packer.add("i", chosen.tile_m, chosen.tile_n, chosen.rows_at_once)
    packer.add_index(problem.m, problem.n, problem.k)
    packer.add_divisors(batch)
    for strides in batch_strides:
        packer.add_index(*strides)
    packer.add_index(*problem.strides_a, *problem.strides_b, *strides_c)
    packer.add("i", 0)  # an empty epilogue has a byte
    return packer.finish()


def no_dtype(out_dtype: Any) -> DTypeError:
    """The error for an ``out_dtype`` that is none."""
    return DTypeError(
        "out_dtype must be one of the dtypes float16, bfloat16, float32, float64, complex64, "
        "complex128, int8 to int64 and uint8 to uint64, or its name; got "
        f"{type(out_dtype).__name__} {out_dtype!r:.60}"
    )
