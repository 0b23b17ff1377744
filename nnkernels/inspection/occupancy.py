"""How many blocks of a kernel a multiprocessor or compute unit holds at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a multiprocessor (NVIDIA) or a compute unit (AMD) has.

    Attributes
    ----------
    warp : int
        Threads of a warp.
    warps, blocks : int
        At once.
    registers : int
        Of 32 bits, over all threads.
    register_step : int
        Registers of a thread are given out in multiples of this.
    shared, shared_step, shared_reserved : int
        Bytes in all, the multiple in which they are given out, and what the system takes of
        each block.
    partitions : int
        Schedulers: a warp lives in one of them, with its share of the registers.
    """

    warp: int
    warps: int
    blocks: int
    registers: int
    register_step: int
    shared: int
    shared_step: int
    shared_reserved: int
    partitions: int = 4


def _nvidia(warps: int, blocks: int, shared_kib: int) -> Limits:
    return Limits(32, warps, blocks, 65536, 8, shared_kib * 1024, 128, 1024)


# CUDA C++ Programming Guide, table "Technical Specifications per Compute Capability".
# AMD: "AMD Instinct MI200" and "MI300" instruction set guides (512 vector registers of a lane in
# each of 4 SIMD units, 8 waves each), and LLVM's AMDGPU usage guide for the steps; RDNA: 1024
# registers (1536 on gfx1100) of a lane, 16 waves, 2 SIMD units in a compute unit.
LIMITS: dict[str, Limits] = {
    "sm_80": _nvidia(64, 32, 164),
    "sm_86": _nvidia(48, 16, 100),
    "sm_89": _nvidia(48, 24, 100),
    "sm_90": _nvidia(64, 32, 228),
    "sm_90a": _nvidia(64, 32, 228),
    "sm_100": _nvidia(64, 32, 228),
    "sm_103": _nvidia(64, 32, 228),
    "sm_120": _nvidia(48, 24, 100),
    "sm_121": _nvidia(48, 24, 100),
    "gfx908": Limits(64, 40, 40, 4 * 256 * 64, 4, 65536, 512, 0),
    "gfx90a": Limits(64, 32, 32, 4 * 512 * 64, 8, 65536, 512, 0),
    "gfx942": Limits(64, 32, 32, 4 * 512 * 64, 8, 65536, 512, 0),
    "gfx1030": Limits(32, 32, 32, 2 * 1024 * 32, 8, 65536, 512, 0, partitions=2),
    "gfx1100": Limits(32, 32, 32, 2 * 1536 * 32, 24, 65536, 512, 0, partitions=2),
}


def blocks_per_processor(arch: str, threads: int, registers: int, shared: int) -> int | None:
    """Blocks at once, by registers, shared memory and threads; None for an unknown architecture.

    >>> blocks_per_processor("sm_90", 256, 32, 0)
    8
    >>> blocks_per_processor("sm_90", 1024, 64, 0)
    1
    >>> blocks_per_processor("sm_90", 128, 32, 100 * 1024)
    2
    """
    limits = LIMITS.get(arch)
    if limits is None:
        return None
    warps = -(-threads // limits.warp)
    by_warps = limits.warps // warps
    each = max(_round_up(registers, limits.register_step), 1) * limits.warp
    warps_of_partition = limits.registers // limits.partitions // each
    by_registers = warps_of_partition * limits.partitions // warps
    counts = [by_warps, by_registers, limits.blocks]
    used = _round_up(shared + limits.shared_reserved, limits.shared_step)
    if used:
        counts.append(limits.shared // used)
    return min(counts)


def share_of_threads(arch: str, threads: int, blocks: int | None) -> float | None:
    """Warps that so many blocks have, over those that there is room for.

    >>> share_of_threads("sm_90", 256, 4)
    0.5
    """
    if blocks is None:
        return None
    limits = LIMITS[arch]
    return blocks * -(-threads // limits.warp) / limits.warps


def _round_up(n: int, step: int) -> int:
    return -(-n // step) * step
