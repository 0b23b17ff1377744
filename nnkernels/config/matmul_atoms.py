"""The steps of matrix cores, and the tiles of sums that blocks and warps make with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nnkernels.config.device import Device
from nnkernels.config.matmul_problem import MatmulProblem


@dataclass(frozen=True)
class Atom:
    """One step of a warp on a matrix core: see ``cuda_src/nnk/mma_*.cuh``.

    Attributes
    ----------
    header, name : str
        Where it is, and its C++ type.
    lanes : int
        Of the warp.
    m, n, k : int
        Sums and terms of a step.
    asynchronous : bool
        Whether the machine copies from global to shared memory without registers.
    transposes : bool
        Whether fragments can be read from a tile that lies by terms as fast as from another.
    rate : int
        Multiplications of a processor in a cycle.
    itemsize, sum_itemsize : int
        Of an element in shared memory, and of a sum.
    warps : int
        That make a step together, each its own rows, of what lies in shared memory.
    """

    header: str
    name: str
    lanes: int
    m: int
    n: int
    k: int
    asynchronous: bool
    transposes: bool
    rate: int
    itemsize: int
    sum_itemsize: int = 4
    warps: int = 1


@dataclass(frozen=True)
class Tile:
    """Sums of a block and of a warp, the bytes of terms of a slice, and the slices in flight.

    ``efficiency`` is the share of the matrix cores' rate that it may reach: the larger a tile, the
    less it reads from shared memory for a product. ``copiers``: threads that copy for the others.
    """

    m: int
    n: int
    warp_m: int
    warp_n: int
    slice_bytes: int
    stages: int
    efficiency: float = 1.0
    copiers: int = 0


def _nvidia(element: str, size: int, rate: int) -> Atom:
    name = f"MmaSm80<{element}>"
    return Atom("mma_sm80", name, 32, 16, 16, 32 // size, True, size == 2, rate, size)


def _warpgroup(element: str, size: int, rate: int) -> Atom:
    name = f"MmaSm90<{element}>"
    return Atom("mma_sm90", name, 32, 16, 16, 32 // size, True, size == 2, rate, size, warps=4)


def _cdna(arch: str, element: str, size: int, rate: int) -> Atom:
    name = f"MmaG{arch[1:]}<{element}>"
    if size == 8:
        return Atom("mma_gfx90a", name, 64, 16, 16, 8, False, False, rate, size, 8)
    return Atom("mma_gfx90a", name, 64, 32, 32, 32 // size, False, False, rate, size)


def _rdna(element: str, size: int) -> Atom:
    return Atom("mma_gfx1100", f"MmaGfx1100<{element}>", 32, 16, 16, 16, False, False, 512, size)


# By the element type of both operands. Rates: white papers of A100 and of CDNA 2 (MI200), ISA
# manual of RDNA 3; of later chips the ratios are much the same.
_NVIDIA = {
    "half": _nvidia("half", 2, 1024),
    "bfloat16": _nvidia("bfloat16", 2, 1024),
    "int8": _nvidia("int8", 1, 2048),
    "uint8": _nvidia("uint8", 1, 2048),
}
_NVIDIA_TF32 = _nvidia("Tf32", 4, 512)
# Other chips multiply doubles on matrix cores no faster than elsewhere. NVIDIA H100 white paper,
# table 2; A100 has half of it.
_NVIDIA_DOUBLE = Atom("mma_sm80", "MmaSm80<double>", 32, 16, 16, 4, True, True, 128, 8, 8)
_WITH_DOUBLE = ("sm_80", "sm_90", "sm_90a", "sm_100")
# NVIDIA H100 white paper, table 2: twice those of A100. Floats are cut off, not rounded, to Tf32,
# so these are left to the other atom; so are sums that would fill less than one step.
_WARPGROUP = {
    "half": _warpgroup("half", 2, 2048),
    "bfloat16": _warpgroup("bfloat16", 2, 2048),
    "int8": _warpgroup("int8", 1, 4096),
    "uint8": _warpgroup("uint8", 1, 4096),
}
_LEAST_OF_WARPGROUP = 64
_CDNA = {
    arch: {
        "half": _cdna(arch, "half", 2, 1024),
        "bfloat16": _cdna(arch, "bfloat16", 2, 1024),
        "int8": _cdna(arch, "int8", 1, 1024),
        "float": _cdna(arch, "float", 4, 256),
        "double": _cdna(arch, "double", 8, 128),
    }
    for arch in ("gfx90a", "gfx942")
}
_RDNA = {name: _rdna(name, size) for name, size in (("half", 2), ("bfloat16", 2), ("int8", 1))}


def atom_of(problem: MatmulProblem, device: Device) -> Atom | None:
    """The matrix-core step for a problem on a device, if there is one."""
    if problem.compute_itemsize != (8 if problem.element == "double" else 4):
        return None  # wider sums were asked for than the core makes
    least = min(problem.m, problem.n)
    if device.arch == "sm_90a" and least >= _LEAST_OF_WARPGROUP and problem.element in _WARPGROUP:
        return _WARPGROUP[problem.element]
    if _is_nvidia(device) and problem.element == "float" and problem.tf32:
        return _NVIDIA_TF32
    return atom_for(problem.element, device)


def _is_nvidia(device: Device) -> bool:
    return device.arch.startswith("sm_") and int(device.arch[3:].rstrip("a")) >= 80


def atom_for(element: str, device: Device) -> Atom | None:
    """The matrix-core step for operands of one C++ type on a device, if there is one."""
    if element == "double" and device.arch in _WITH_DOUBLE:
        return _NVIDIA_DOUBLE
    if _is_nvidia(device):
        return _NVIDIA.get(element)
    if device.arch in _CDNA:
        return _CDNA[device.arch].get(element)
    return _RDNA.get(element) if device.arch == "gfx1100" else None


def tile_k(atom: Atom, tile: Tile) -> int:
    """Terms of a slice: at least two steps, as two sets of fragments take turns."""
    return max(tile.slice_bytes // atom.itemsize, 2 * atom.k)


def shared_bytes(atom: Atom, tile: Tile) -> int:
    """What the slices in flight need, or the sums on their way to C in their place."""
    slices = tile.stages * (tile.m + tile.n) * tile_k(atom, tile) * atom.itemsize
    return max(slices, warps_of(tile) * atom.m * tile.warp_n * atom.sum_itemsize)


def warps_of(tile: Tile) -> int:
    """Warps of a block."""
    return tile.m // tile.warp_m * (tile.n // tile.warp_n)


def blocks_of(problem: MatmulProblem, tile: Tile) -> int:
    """Blocks of a launch, if sums are not split."""
    return problem.batches * -(-problem.m // tile.m) * -(-problem.n // tile.n)


def cycles_of_blocks(
    blocks: int, device: Device, at_once: int, turn: Callable[[int], float]
) -> float:
    """Of the processor with the most blocks; ``turn(n)`` is how long n of them take together.

    Parameters
    ----------
    at_once : int
        Blocks that a processor has at the same time.
    """
    own = max(1, -(-blocks // device.processors))
    resident = min(own, at_once)
    rest = own % resident
    return own // resident * turn(resident) + (turn(rest) if rest else 0.0)


def bytes_of_partial_sums(problem: MatmulProblem, atom: Atom, splits: int) -> int:
    """Written by the first launch of sums that are split, and read by the second one."""
    return 2 * splits * problem.batches * problem.m * problem.n * atom.sum_itemsize
