"""From a matrix product to a prepared launch: the problem, its kernel, the packed arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from nnkernels.compile.instance import Instance
from nnkernels.config import gemv as gemv_config
from nnkernels.config import matmul as config
from nnkernels.config import matmul_splits
from nnkernels.config.gemv import GemvConfig, GemvProblem
from nnkernels.config.matmul_complex import ComplexConfig
from nnkernels.config.matmul_packed import PackedConfig
from nnkernels.config.matmul_problem import MatmulProblem, index_kind
from nnkernels.config.matmul_rows import RowsConfig
from nnkernels.config.matmul_simt import BAND, SimtConfig
from nnkernels.config.matmul_small import SmallConfig
from nnkernels.config.matmul_splits import terms_of_split
from nnkernels.config.matmul_tensor import TensorConfig
from nnkernels.config.matmul_tiles import TilesConfig, without_tiles
from nnkernels.dispatch.axes import largest_power_of_two
from nnkernels.dispatch.matmul_call import Call
from nnkernels.dispatch.matmul_instances import gemv_instance, matmul_instance
from nnkernels.dispatch.matmul_packing import pack_batch, pack_epilogue
from nnkernels.dispatch.matmul_splits import Splits, prepare_splits, workspace_bytes
from nnkernels.dispatch.packing import Packer

# The packed arguments of the first launch without its pointers, what starts it, and the second
# launch if there is one.
Prepared = tuple[bytes, Any, Splits | None]


def prepare_matmul(call: Call, machine: Any) -> Prepared:
    """Choose the kernel of a product of matrices, and prepare its launches."""
    problem = matmul_problem(call)
    chosen = config.configure(problem, machine.device)
    if isinstance(chosen, TilesConfig) and not machine.allows_tiles():
        chosen = config.configure(problem, without_tiles(machine.device))
    if isinstance(chosen, SmallConfig) or chosen.splits == 1:
        return (*_prepare(call, chosen, call.product.k, machine), None)
    multiple = chosen.tile_k
    if not machine.device.is_gpu:
        multiple = max(multiple, matmul_splits.CPU_MULTIPLE)
    terms, splits, index = _ranges(call, chosen.splits, multiple)
    chosen = chosen.for_workspace(problem.n, problem.compute_itemsize, index)
    first = _prepare(call.part(splits, terms), chosen, terms, machine)
    return (*first, prepare_splits(call, splits, machine))


def _ranges(call: Call, splits: int, multiple: int) -> tuple[int, int, str]:
    """Terms of a range of a split product, how many ranges there are, and the kind of index.

    Parameters
    ----------
    splits : int
        The most ranges.
    multiple : int
        Of which the number of terms is one.
    """
    terms = terms_of_split(call.product.k, splits, multiple)
    splits = -(-call.product.k // terms)
    return terms, splits, index_kind(max(call.product.reach, workspace_bytes(call, splits)))


def matmul_problem(call: Call) -> MatmulProblem:
    """What a configuration may know about a product of matrices."""
    product, types = call.product, call.types
    accumulator, _, compute_itemsize = types.accumulator
    return MatmulProblem(
        m=product.m,
        n=product.n,
        k=product.k,
        strides_a=(product.strides_a[-2], product.strides_a[-1]),
        strides_b=(product.strides_b[-2], product.strides_b[-1]),
        itemsizes=(types.a.itemsize, types.b.itemsize, types.result.itemsize),
        compute_itemsize=compute_itemsize,
        is_complex=types.c.kind == "c",
        reach=product.reach,
        batches=call.batches,
        # Unfinished sums may wait in C, unless it holds what is still to be added.
        strides_c=(product.strides_c[-2], product.strides_c[-1]),
        in_place=types.storage_c == accumulator and not call.in_place,
        dot=types.dot,
        same_a=types.is_summed_as_it_is(types.a)
        and not (call.conjugate[0] and types.a.kind == "c"),
        alignments=_alignments(call),
        tf32=call.precision == "tf32",
        element=types.a.storage if types.a == types.b else "",
    )


def _alignments(call: Call) -> tuple[int, int, int]:
    given = zip(call.alignments, call.batch()[1], strict=False)  # what is added has none
    a, b, c = (largest_power_of_two(alignment, *strides) for alignment, strides in given)
    return a, b, c


def _prepare(call: Call, chosen: config.Config, terms: int, machine: Any) -> tuple[bytes, Any]:
    """The launch of a product, or of the first half of a split one, of `terms` terms a split."""
    instance = matmul_instance(call, len(call.batch()[0]), chosen)
    shared_bytes = chosen.shared_elements(terms) * call.types.accumulator[2]
    return prepare_with(call, chosen, terms, machine, instance, shared_bytes)


def prepare_with(
    call: Call,
    chosen: config.Config,
    terms: int,
    machine: Any,
    instance: Instance,
    shared_bytes: int,
    pack_more: Callable[[Packer], None] | None = None,
) -> tuple[bytes, Any]:
    """The launch of a product by an instance of its kernel.

    Parameters
    ----------
    shared_bytes : int
        Of shared or scratch memory.
    pack_more : callable, optional
        Appends arguments of the instance's own.
    """
    product = call.product
    batch, batch_strides = call.batch()
    batches, of_range = _matrices(call, terms)
    tiles = -(-product.m // chosen.tile_m), -(-product.n // chosen.tile_n)
    packer = Packer(len(batch_strides), chosen.index)
    blocks = _PACK_GRID[type(chosen)](packer, chosen, tiles, batches, of_range)
    packer.add_index(product.m, product.n, product.k, terms)
    pack_batch(packer, batch, batch_strides)
    for strides in (product.strides_a, product.strides_b, product.strides_c):
        packer.add_index(*strides[-2:])
    pack_epilogue(packer, call)
    if pack_more is not None:
        pack_more(packer)
    # Work, in bytes that would take as long: a product is worth a thread much earlier than a copy.
    traffic = batches * product.m * product.n * max(terms, 1)
    return packer.finish(), machine.prepare(instance, blocks, shared_bytes, traffic)


def _matrices(call: Call, terms: int) -> tuple[int, int]:
    """Matrices that a launch makes, and of those the ones for one range of `terms` terms."""
    ranges = -(-call.product.k // terms) if terms else 1
    return call.batches, call.batches // ranges


def _pack_tile_grid(
    packer: Packer,
    chosen: PackedConfig | ComplexConfig | TilesConfig | RowsConfig,
    tiles: tuple[int, int],
    batches: int,
    of_range: int,
) -> int:
    """How blocks of a CPU share a product out; how many there are."""
    packer.add("q", *tiles, of_range * tiles[0] * tiles[1])
    packer.add("i", chosen.tile_m, chosen.tile_n, chosen.rows_at_once, chosen.tile_k)
    return batches * tiles[0] * tiles[1]


def _pack_small_grid(
    packer: Packer, chosen: SmallConfig, tiles: tuple[int, int], batches: int, of_range: int
) -> int:
    """What blocks of a CPU that make a matrix each have to know; how many there are."""
    packer.add("i", chosen.ahead, chosen.staged_rows)
    return batches


def _pack_band_grid(
    packer: Packer,
    chosen: SimtConfig | TensorConfig,
    tiles: tuple[int, int],
    batches: int,
    of_range: int,
) -> int:
    """How blocks of a GPU share a product out; how many there are."""
    for divisor in (tiles[0] * tiles[1], BAND * tiles[1], of_range):
        packer.add_divisor(divisor, "i")
    packer.add("i", tiles[0], BAND, batches)
    teams = chosen.teams if isinstance(chosen, SimtConfig) else 1
    return tiles[0] * tiles[1] * -(-batches // teams)


_PACK_GRID: dict[type, Callable[[Packer, Any, tuple[int, int], int, int], int]] = {
    PackedConfig: _pack_tile_grid,
    SimtConfig: _pack_band_grid,
    TensorConfig: _pack_band_grid,
    TilesConfig: _pack_tile_grid,
    ComplexConfig: _pack_tile_grid,
    SmallConfig: _pack_small_grid,
    RowsConfig: _pack_tile_grid,
}


def prepare_gemv(call: Call, machine: Any) -> Prepared:
    """Choose the kernel of a product of a vector and a matrix, and prepare its launches."""
    problem = gemv_problem(call)
    chosen = gemv_config.configure(problem, machine.device)
    if chosen.splits == 1:
        return (*_prepare_gemv(call, chosen, call.product.k, machine), None)
    terms, splits, index = _ranges(call, chosen.splits, chosen.terms_at_once)
    first = _prepare_gemv(call.part(splits, terms), replace(chosen, index=index), terms, machine)
    return (*first, prepare_splits(call, splits, machine))


def gemv_problem(call: Call) -> GemvProblem:
    """What a configuration may know about a product of a vector and a matrix."""
    product, types = call.product, call.types
    return GemvProblem(
        n=product.n,
        k=product.k,
        stride_x=product.strides_a[-1],
        strides_b=(product.strides_b[-2], product.strides_b[-1]),
        itemsizes=(types.a.itemsize, types.b.itemsize, types.result.itemsize),
        compute_itemsize=types.accumulator[2],
        is_complex=types.c.kind == "c",
        alignments=_alignments(call)[:2],
        index=index_kind(product.reach),
        batches=call.batches,
    )


def _prepare_gemv(call: Call, chosen: GemvConfig, terms: int, machine: Any) -> tuple[bytes, Any]:
    """The launch of a product, or of the first half of a split one, of `terms` terms a split."""
    product, types = call.product, call.types
    batch, batch_strides = call.batch()
    batches, of_range = _matrices(call, terms)
    tiles = -(-product.n // chosen.columns)
    packer = Packer(len(batch_strides), chosen.index)
    packer.add("q", tiles, of_range * tiles)
    packer.add("i", chosen.columns)
    packer.add_index(product.n, product.k, terms)
    pack_batch(packer, batch, batch_strides)
    packer.add_index(product.strides_a[-1], *product.strides_b[-2:], product.strides_c[-1])
    pack_epilogue(packer, call)
    traffic = batches * product.n * max(terms, 1) * types.b.itemsize
    shared_bytes = chosen.shared_elements * types.accumulator[2]
    instance = gemv_instance(call, len(batch), chosen)
    return packer.finish(), machine.prepare(instance, batches * tiles, shared_bytes, traffic)
