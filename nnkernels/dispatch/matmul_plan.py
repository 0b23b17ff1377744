"""Plans of matrix products: everything about a call but its pointers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkernels.compile.instance import Instance
from nnkernels.config import gemv as gemv_config
from nnkernels.config import matmul as config
from nnkernels.config.gemv import GemvConfig, GemvProblem
from nnkernels.config.matmul import MatmulConfig, MatmulProblem, PackedConfig
from nnkernels.dispatch import machines
from nnkernels.dispatch.axes import Shape, Strides, contiguous_strides, largest_power_of_two, merge
from nnkernels.dispatch.dtypes import ELEMENTS, Element, numpy_dtype, promote, require
from nnkernels.dispatch.matmul_product import Product, match_shapes
from nnkernels.dispatch.packing import Packer, pointer_struct
from nnkernels.dispatch.results import Allocation, check_out, reach
from nnkernels.errors import DTypeError

if TYPE_CHECKING:
    from nnkernels.dispatch.elementwise import Functor

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
    """

    alpha: complex = 1
    beta: complex = 1
    activation: Functor | None = None
    parameters: tuple[complex, ...] = ()


PLAIN = Epilogue()


class MatmulPlan:
    """Everything about a call but its pointers."""

    __slots__ = ("adds", "allocation", "mirrored", "pack", "reaches", "start", "tail")

    def __init__(self, allocation: Allocation) -> None:
        self.allocation = allocation
        self.start: Any = None
        # Whether the kernel makes the transposed product: its operands change places.
        self.mirrored = False
        self.tail = b""
        # Whether the kernel reads a third array, whose pointer then comes first.
        self.adds = False
        self.pack: Any = None
        # Where the result is given: the lowest and highest byte of it and of every operand.
        self.reaches: list[tuple[int, int]] = []


@dataclass(frozen=True)
class Types:
    """Element types of a product: of A, B, C, and of D, which is added, if there is one."""

    a: Element
    b: Element
    c: Element
    d: Element | None

    def mirrored(self) -> Types:
        """Those of the transposed product."""
        return Types(self.b, self.a, self.c, self.d)

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
        accumulator = self.accumulator[0]
        whole = self.c.kind in "iu" and accumulator == f"uint{8 * self.c.itemsize}"
        return accumulator if whole else self.c.storage

    @property
    def activated(self) -> tuple[str, str]:
        """The type in which a result is activated: in C++, and by name."""
        return (self.c.storage, self.c.name) if self.c.kind in "iu" else self.accumulator[:2]


def _types(
    a: Any, b: Any, addend: Any, names: Sequence[str], out_dtype: Any, epilogue: Epilogue
) -> Types:
    arrays = (a, b) if addend is None else (a, b, addend)
    given = [require(x.dtype, KINDS, name) for x, name in zip(arrays, names, strict=False)]
    promoted = ELEMENTS[promote(tuple(e.name for e in given))]
    result = promoted if out_dtype is None else _result_element(promoted, given, out_dtype)
    _check_scalars(epilogue, result)
    return Types(given[0], given[1], result, given[2] if addend is not None else None)


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


def make_plan(
    arrays: tuple[Any, Any, Any],
    names: Sequence[str],
    vectors: bool | None,
    out_dtype: Any,
    conjugate: tuple[bool, bool],
    epilogue: Epilogue,
    machine: Any,
    out: Any,
    in_place: bool,
    alignments: tuple[int, int],
) -> MatmulPlan:
    """The plan of a call.

    Parameters
    ----------
    arrays : tuple of arrays
        Both operands, and what is added to their product or None.
    names : sequence of str
        Their names, for messages.
    vectors : bool, optional
        Whether the second operand is a stack of vectors. Default: whether it has one axis.
    out_dtype, conjugate, epilogue
        See `matmul.apply`.
    machine : machine
        Where it will run.
    out : array, optional
        The result, where it is given.
    in_place : bool
        Whether it is the array that is added.
    alignments : tuple of int
        Powers of two, up to 16, that the addresses of the operands are multiples of.
    """
    a, b, addend = arrays
    types = _types(a, b, addend, names, out_dtype, epilogue)
    given = [x for x in arrays if x is not None]
    machines.require_aligned(machine, given, names[: len(given)])
    shapes = match_shapes(a, b, names, vectors)
    dtype = numpy_dtype(types.c.name)
    plan = MatmulPlan(Allocation(shapes.result, dtype, tuple(range(len(shapes.result)))))
    if out is not None:
        check_out(out, "out", shapes.result, dtype)
        machines.require_aligned(machine, (out,), ("out",))
        plan.reaches = [reach(array) for array in (out, *given)]
    strides_c = contiguous_strides(shapes.result, dtype.itemsize) if out is None else out.strides
    product = shapes.product(a, b, strides_c, addend, names[-1])
    if epilogue.beta == 0:  # what would be added is checked, and not read
        product, types = replace(product, strides_d=None), replace(types, d=None)
    if product.strides_d is None and epilogue.beta != 1:
        epilogue = replace(epilogue, beta=1)
    plan.adds = product.strides_d is not None
    plan.pack = pointer_struct(4 if plan.adds else 3).pack
    if 0 in shapes.result:
        return plan
    product, plan.mirrored = product.oriented()
    if plan.mirrored:
        types, conjugate, alignments = types.mirrored(), conjugate[::-1], alignments[::-1]
    call = Call(product, types, conjugate, epilogue, alignments, in_place)
    finish = _finish_gemv if product.m == 1 else _finish
    plan.tail, plan.start = finish(call, machine)
    return plan


@dataclass(frozen=True)
class Call:
    """A product as the kernels see it.

    Attributes
    ----------
    product, types, conjugate, epilogue
        What is computed.
    alignments : tuple of int
        Of the addresses of A and B.
    in_place : bool
        Whether C is what is added.
    """

    product: Product
    types: Types
    conjugate: tuple[bool, bool]
    epilogue: Epilogue
    alignments: tuple[int, int]
    in_place: bool

    def batch(self) -> tuple[Shape, list[Strides]]:
        """Shape of the stack, and strides of A, B, C and what is added; merged."""
        p = self.product
        arrays = [p.strides_a, p.strides_b, p.strides_c]
        if p.strides_d is not None:
            arrays.append(p.strides_d)
        return merge(p.batch, [strides[:-2] for strides in arrays])


def _finish(call: Call, machine: Any) -> tuple[bytes, Any]:
    """Choose the kernel of a product of matrices, and prepare its launch."""
    product, types = call.product, call.types
    accumulator, _, compute_itemsize = types.accumulator
    batch, batch_strides = call.batch()
    batches = int(np.prod(batch, dtype=np.int64))
    problem = MatmulProblem(
        m=product.m,
        n=product.n,
        k=product.k,
        strides_a=(product.strides_a[-2], product.strides_a[-1]),
        strides_b=(product.strides_b[-2], product.strides_b[-1]),
        itemsizes=(types.a.itemsize, types.b.itemsize, types.c.itemsize),
        compute_itemsize=compute_itemsize,
        is_complex=types.c.kind == "c",
        reach=product.reach,
        batches=batches,
        # Unfinished sums may wait in C, unless it holds what is still to be added.
        in_place=types.storage_c == accumulator and not call.in_place,
    )
    chosen = config.configure(problem, machine.device)
    tiles_m, tiles_n = -(-product.m // chosen.tile_m), -(-product.n // chosen.tile_n)
    packer = Packer(len(batch_strides), chosen.index)
    packer.add("q", tiles_m, tiles_n)
    if isinstance(chosen, PackedConfig):
        packer.add("i", chosen.tile_m, chosen.tile_n, chosen.rows_at_once)
    packer.add_index(product.m, product.n, product.k)
    _pack_batch(packer, batch, batch_strides)
    packer.add_index(*problem.strides_a, *problem.strides_b, *product.strides_c[-2:])
    _pack_epilogue(packer, call)
    # Work, in bytes that would take as long: a product is worth a thread much earlier than a copy.
    traffic = batches * product.m * product.n * max(product.k, 1)
    shared_bytes = chosen.shared_elements(product.k) * compute_itemsize
    instance = make_instance(call, len(batch), chosen)
    return packer.finish(), machine.prepare(
        instance, batches * tiles_m * tiles_n, shared_bytes, traffic
    )


def _finish_gemv(call: Call, machine: Any) -> tuple[bytes, Any]:
    """Choose the kernel of a product of a vector and a matrix, and prepare its launch."""
    product, types = call.product, call.types
    batch, batch_strides = call.batch()
    batches = int(np.prod(batch, dtype=np.int64))
    steps = (batch_strides[0], batch_strides[1])
    problem = GemvProblem(
        n=product.n,
        k=product.k,
        stride_x=product.strides_a[-1],
        strides_b=(product.strides_b[-2], product.strides_b[-1]),
        itemsizes=(types.a.itemsize, types.b.itemsize, types.c.itemsize),
        compute_itemsize=types.accumulator[2],
        is_complex=types.c.kind == "c",
        alignments=(
            largest_power_of_two(call.alignments[0], *steps[0]),
            largest_power_of_two(call.alignments[1], *steps[1]),
        ),
        index=config.index_kind(product.reach),
        batches=batches,
    )
    chosen = gemv_config.configure(problem, machine.device)
    tiles = -(-product.n // chosen.columns)
    packer = Packer(len(batch_strides), chosen.index)
    packer.add("q", tiles)
    packer.add("i", chosen.columns)
    packer.add_index(product.n, product.k)
    _pack_batch(packer, batch, batch_strides)
    packer.add_index(problem.stride_x, *problem.strides_b, product.strides_c[-1])
    _pack_epilogue(packer, call)
    traffic = batches * product.n * max(product.k, 1) * types.b.itemsize
    shared_bytes = chosen.shared_elements * problem.compute_itemsize
    instance = make_gemv_instance(call, len(batch), chosen)
    return packer.finish(), machine.prepare(instance, batches * tiles, shared_bytes, traffic)


def _pack_batch(packer: Packer, batch: Shape, batch_strides: list[Strides]) -> None:
    packer.add_divisors(batch)
    for strides in batch_strides:
        packer.add_index(*strides)


# ---- the epilogue -------------------------------------------------------------------------------


def epilogue_type(epilogue: Epilogue, types: Types) -> tuple[str, tuple[str, ...]]:
    """The C++ type of an epilogue, and the header that it needs."""
    if epilogue == PLAIN and types.d is None:
        return "PlainEpilogue", ()
    functor = epilogue.activation
    name, headers = ("Identity", ()) if functor is None else (functor.name, (functor.header,))
    addend = "void" if types.d is None else types.d.storage
    return (
        f"AffineEpilogue<{addend}, {types.accumulator[0]}, {types.activated[0]}, {name}>",
        headers,
    )


def _pack_epilogue(packer: Packer, call: Call) -> None:
    """``AffineEpilogue::Args``: see ``cuda_src/nnk/matmul_epilogue.cuh``."""
    epilogue, types, strides_d = call.epilogue, call.types, call.product.strides_d
    if epilogue == PLAIN and strides_d is None:
        packer.add("i", 0)  # an empty struct has a byte
        return
    _, name, itemsize = types.accumulator
    packer.align(
        max(itemsize, ELEMENTS[types.activated[1]].itemsize, 8 if packer.index == "q" else 4)
    )
    scalars: tuple[complex, ...] = (epilogue.alpha, epilogue.beta)
    if types.c.kind in "iu":  # modulo 2^bits, as the sums
        scalars = tuple(int(value.real) % 2 ** (8 * itemsize) for value in scalars)
    packer.add_scalars(name, scalars)
    packer.add_scalars(types.activated[1], epilogue.parameters or (0,))
    packer.add_index(*(strides_d[-2:] if strides_d is not None else (0, 0)))


# ---- instances ----------------------------------------------------------------------------------


def make_instance(call: Call, batch_rank: int, chosen: MatmulConfig | PackedConfig) -> Instance:
    """The kernel of a config for a product of matrices."""
    types, conjugate = call.types, call.conjugate
    if isinstance(chosen, PackedConfig):
        header, name, threads = "matmul_packed", "MatmulPacked", 1
        storage_c = types.storage_c
        options = (
            f"{chosen.tile_k}, {chosen.micro_m}, {chosen.vector}, {chosen.fast_a}, "
            f"{chosen.fast_b}, {_flags(chosen.unit_a, chosen.unit_b, *conjugate, chosen.in_place)}"
        )
    else:
        header, name, threads = "matmul", "Matmul", chosen.threads
        storage_c = types.c.storage
        options = (
            f"{chosen.tile_m}, {chosen.tile_n}, {chosen.tile_k}, {chosen.micro_m}, "
            f"{chosen.vector}, {chosen.threads}, {chosen.fast_a}, {chosen.fast_b}, "
            f"{_flags(*conjugate)}"
        )
    finish, more_headers = epilogue_type(call.epilogue, types)
    kernel = (
        f"{name}<{types.a.storage}, {types.b.storage}, {storage_c}, {types.accumulator[0]}, "
        f"{_index_type(chosen.index)}, {batch_rank}, {options}, {finish}>"
    )
    return Instance(header, kernel, threads, more_headers)


def make_gemv_instance(call: Call, batch_rank: int, chosen: GemvConfig) -> Instance:
    """The kernel of a config for a product of a vector and a matrix."""
    types = call.types
    flags = (chosen.unit_x,) if chosen.along else (chosen.held,)
    finish, more_headers = epilogue_type(call.epilogue, types)
    kernel = (
        f"{'GemvAlong' if chosen.along else 'GemvAcross'}<{types.a.storage}, {types.b.storage}, "
        f"{types.storage_c}, {types.accumulator[0]}, {_index_type(chosen.index)}, {batch_rank}, "
        f"{chosen.vector}, {chosen.threads}, {chosen.team}, {chosen.depth}, "
        f"{_flags(*flags, chosen.unit_b, *call.conjugate)}, {finish}>"
    )
    return Instance("gemv", kernel, chosen.threads, more_headers)


def _index_type(index: str) -> str:
    return "int32" if index == "i" else "int64"


def _flags(*flags: bool) -> str:
    return ", ".join("true" if flag else "false" for flag in flags)


def no_dtype(out_dtype: Any) -> DTypeError:
    """The error for an ``out_dtype`` that is none."""
    return DTypeError(
        "out_dtype must be one of the dtypes float16, bfloat16, float32, float64, complex64, "
        "complex128, int8 to int64 and uint8 to uint64, or its name; got "
        f"{type(out_dtype).__name__} {out_dtype!r:.60}"
    )
