"""Parts of the argument structs that the kernels of matrix products share."""

from __future__ import annotations

import struct

from nnkernels.dispatch.axes import Shape, Strides
from nnkernels.dispatch.dtypes import ELEMENTS
from nnkernels.dispatch.matmul_call import PLAIN, Call, Epilogue
from nnkernels.dispatch.packing import Packer


def pack_batch(packer: Packer, batch: Shape, batch_strides: list[Strides]) -> None:
    """Shape of the stack, and the strides of every array over it."""
    packer.add_divisors(batch)
    for strides in batch_strides:
        packer.add_index(*strides)


def call_struct(added: int, epilogue: Epilogue, pointers: int) -> struct.Struct:
    """Packs what changes from call to call, which the arguments begin with.

    That are the pointers of arrays that an epilogue has, the numbers of its fused function, and so
    many pointers.
    """
    function = epilogue.function
    numbers = "" if function is None else f"{function.number_bytes}s"
    return struct.Struct(f"={added}Q{numbers}{pointers}Q")


def pack_epilogue(packer: Packer, call: Call) -> None:
    """The ``Args`` of the epilogue: ``cuda_src/nnk/matmul_epilogue.cuh`` and ``fused_epilogue``."""
    if call.epilogue.function is None:
        _pack_affine(packer, call.epilogue, call)
        return
    alignment = 4 if packer.index == "i" else 8
    before = call.epilogue.before
    if not _is_plain(before, call):
        alignment = max(alignment, _affine_alignment(packer, call))
    packer.align(alignment)
    if call.pixels is not None:
        packer.add_divisors(call.pixels.shape)
        for strides in call.pixels.strides:
            packer.add_index(*strides)
    for strides in call.product.more or ((0, 0),):
        packer.add_index(*strides[-2:])
    _pack_affine(packer, before, call)
    packer.align(alignment)


def _is_plain(epilogue: Epilogue, call: Call) -> bool:
    return epilogue == PLAIN and call.product.strides_d is None


def _affine_alignment(packer: Packer, call: Call) -> int:
    activated = ELEMENTS[call.types.activated[1]].itemsize
    return max(call.types.accumulator[2], activated, 8 if packer.index == "q" else 4)


def _pack_affine(packer: Packer, epilogue: Epilogue, call: Call) -> None:
    """``AffineEpilogue::Args``."""
    types, strides_d = call.types, call.product.strides_d
    if _is_plain(epilogue, call):
        packer.add("i", 0)  # an empty struct has a byte
        return
    _, name, itemsize = types.accumulator
    packer.align(_affine_alignment(packer, call))
    scalars: tuple[complex, ...] = (epilogue.alpha, epilogue.beta)
    if types.c.kind in "iu":  # modulo 2^bits, as the sums
        scalars = tuple(int(value.real) % 2 ** (8 * itemsize) for value in scalars)
    packer.add_scalars(name, scalars)
    packer.add_scalars(types.activated[1], epilogue.parameters or (0,))
    packer.add_index(*(strides_d[-2:] if strides_d is not None else (0, 0)))
