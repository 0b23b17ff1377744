"""From a matrix product to a prepared launch: the problem, its kernel, the packed arguments."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnkernels.config import gemv as gemv_config
from nnkernels.config import matmul as config
from nnkernels.config.gemv import GemvProblem
from nnkernels.config.matmul_packed import PackedConfig
from nnkernels.config.matmul_problem import MatmulProblem, index_kind
from nnkernels.config.matmul_tiles import TilesConfig, without_tiles
from nnkernels.dispatch.axes import Shape, Strides, largest_power_of_two
from nnkernels.dispatch.dtypes import ELEMENTS
from nnkernels.dispatch.matmul_call import PLAIN, Call
from nnkernels.dispatch.matmul_instances import gemv_instance, matmul_instance
from nnkernels.dispatch.packing import Packer


def prepare_matmul(call: Call, machine: Any) -> tuple[bytes, Any]:
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
        dot=types.dot,
        same_a=types.is_summed_as_it_is(types.a)
        and not (call.conjugate[0] and types.a.kind == "c"),
    )
    chosen = config.configure(problem, machine.device)
    if isinstance(chosen, TilesConfig) and not machine.allows_tiles():
        chosen = config.configure(problem, without_tiles(machine.device))
    tiles_m, tiles_n = -(-product.m // chosen.tile_m), -(-product.n // chosen.tile_n)
    packer = Packer(len(batch_strides), chosen.index)
    packer.add("q", tiles_m, tiles_n)
    if isinstance(chosen, PackedConfig):
        packer.add("i", chosen.tile_m, chosen.tile_n, chosen.rows_at_once)
    elif isinstance(chosen, TilesConfig):
        packer.add("i", chosen.tile_m, chosen.tile_n, chosen.tile_k)
    packer.add_index(product.m, product.n, product.k)
    _pack_batch(packer, batch, batch_strides)
    packer.add_index(*problem.strides_a, *problem.strides_b, *product.strides_c[-2:])
    _pack_epilogue(packer, call)
    # Work, in bytes that would take as long: a product is worth a thread much earlier than a copy.
    traffic = batches * product.m * product.n * max(product.k, 1)
    shared_bytes = chosen.shared_elements(product.k) * compute_itemsize
    instance = matmul_instance(call, len(batch), chosen)
    return packer.finish(), machine.prepare(
        instance, batches * tiles_m * tiles_n, shared_bytes, traffic
    )


def prepare_gemv(call: Call, machine: Any) -> tuple[bytes, Any]:
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
        index=index_kind(product.reach),
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
    instance = gemv_instance(call, len(batch), chosen)
    return packer.finish(), machine.prepare(instance, batches * tiles, shared_bytes, traffic)


def _pack_batch(packer: Packer, batch: Shape, batch_strides: list[Strides]) -> None:
    packer.add_divisors(batch)
    for strides in batch_strides:
        packer.add_index(*strides)


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
