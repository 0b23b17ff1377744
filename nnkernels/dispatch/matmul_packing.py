"""Parts of the argument structs that the kernels of matrix products share."""

from __future__ import annotations

from nnkernels.dispatch.axes import Shape, Strides
from nnkernels.dispatch.dtypes import ELEMENTS
from nnkernels.dispatch.matmul_call import PLAIN, Call
from nnkernels.dispatch.packing import Packer


def pack_batch(packer: Packer, batch: Shape, batch_strides: list[Strides]) -> None:
    """Shape of the stack, and the strides of every array over it."""
    packer.add_divisors(batch)
    for strides in batch_strides:
        packer.add_index(*strides)


def pack_epilogue(packer: Packer, call: Call) -> None:
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
