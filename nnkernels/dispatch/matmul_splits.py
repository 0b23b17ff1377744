"""Products whose sums are split among blocks: the workspace, and the launch that adds them up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nnkernels.config import matmul_splits as config
from nnkernels.config.matmul_problem import index_kind
from nnkernels.config.matmul_splits import SplitsProblem
from nnkernels.dispatch.axes import largest_power_of_two, merge
from nnkernels.dispatch.dtypes import numpy_dtype
from nnkernels.dispatch.matmul_call import Call
from nnkernels.dispatch.matmul_instances import splits_instance
from nnkernels.dispatch.matmul_packing import call_struct, pack_batch, pack_epilogue, words_before
from nnkernels.dispatch.packing import Packer
from nnkernels.dispatch.results import Allocation


@dataclass(frozen=True)
class Splits:
    """The second launch of a product, and what lies between it and the first.

    Attributes
    ----------
    workspace : Allocation
        The partial sums, in order of the splits.
    finish : callable
        Starts the second launch.
    pack : callable
        Packs its pointers.
    tail : bytes
        Its other arguments.
    """

    workspace: Allocation
    finish: Callable[[bytes], None]
    pack: Callable[..., bytes]
    tail: bytes

    def start(
        self,
        plan: Any,
        machine: Any,
        address: Callable[[Any], int],
        operands: tuple[int, ...],
        added: tuple[Any, ...],
        result: Any,
    ) -> None:
        """Start both launches."""
        workspace = self.workspace.make(machine)
        sums = address(workspace)
        plan.start(plan.pack(*operands, sums) + plan.tail)
        self.finish(self.pack(*added, sums, address(result)) + self.tail)


def workspace_bytes(call: Call, splits: int) -> int:
    """Size of the workspace of a call."""
    product = call.product
    return splits * call.batches * product.m * product.n * call.types.accumulator[2]


def prepare_splits(call: Call, splits: int, machine: Any) -> Splits:
    """Choose the kernel that adds up the sums of a call, and prepare its launch."""
    product, types = call.product, call.types
    arrays = [product.strides_c, *product.added]
    batch, batch_strides = merge(product.batch, [strides[:-2] for strides in arrays])
    batches = call.batches
    size = workspace_bytes(call, splits)
    index = index_kind(max(product.reach, size))
    problem = SplitsProblem(
        n=product.n,
        strides_c=(product.strides_c[-2], product.strides_c[-1]),
        itemsize=types.result.itemsize,
        compute_itemsize=types.accumulator[2],
        is_complex=types.c.kind == "c",
        alignment=largest_power_of_two(call.alignments[2], *batch_strides[0]),
        rows=batches * product.m,
        splits=splits,
    )
    chosen = config.configure(problem, machine.device)
    groups_of_row = -(-product.n // chosen.vector)
    groups = batches * product.m * groups_of_row
    packer = Packer(words_before(1 + len(arrays), call.epilogue), index)
    packer.add("q", groups)
    packer.add("i", chosen.groups, splits)
    packer.add_index(product.m, product.n, batches * product.m * product.n)
    packer.add_divisors((groups_of_row, product.m))
    pack_batch(packer, batch, batch_strides)
    packer.add_index(*problem.strides_c)
    pack_epilogue(packer, call)
    instance = splits_instance(call, len(batch), chosen, index)
    blocks = -(-groups // chosen.groups)
    finish = machine.prepare(instance, blocks, chosen.shared_bytes, size)
    dtype = numpy_dtype(types.accumulator[1])
    return Splits(
        Allocation((size // types.accumulator[2],), dtype, (0,)),
        finish,
        call_struct(len(product.added), call.epilogue, 2).pack,
        packer.finish(),
    )
