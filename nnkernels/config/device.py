"""What a configuration may know about the processor it is for."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Device:
    """Properties that decide tiles, blocks and vector widths.

    Attributes
    ----------
    machine : {"cuda", "hip", "cpu", "sim"}
        Which platform header a kernel is compiled with.
    arch : str
        ``"sm_90"``, ``"gfx90a"``, ... or ``"host"``. ``"sm_90a"`` is ``"sm_90"`` with the
        instructions of warpgroups, which no other chip has.
    warp : int
        Threads that run in step; 1 on a CPU.
    processors : int
        Multiprocessors, compute units or CPU threads.
    shared_limit : int
        Shared memory that one block may have, in bytes; on a CPU the scratch memory of a
        thread that is sure to stay in its level-2 cache.
    vector_bytes : int
        The widest single access: 16 on a GPU, the SIMD register on a CPU.
    cache_bytes : int
        Results of at least so many bytes are written past the caches (CPU only).
    features : frozenset of str
        Instructions for products that the processor has (CPU only): names of Linux'
        ``/proc/cpuinfo``.
    """

    machine: str
    arch: str
    warp: int
    processors: int
    shared_limit: int
    vector_bytes: int
    cache_bytes: int
    features: frozenset[str] = frozenset()

    @property
    def is_gpu(self) -> bool:
        """Whether blocks have many threads (``sim`` runs the configuration of a GPU)."""
        return self.machine != "cpu"

    def simulated(self) -> Device:
        """The same device, its kernels run by the simulator."""
        return replace(self, machine="sim")


def _nvidia(arch: str, processors: int, shared_kib: int, l2_mib: int) -> Device:
    return Device("cuda", arch, 32, processors, shared_kib * 1024, 16, l2_mib << 20)


def _amd(arch: str, warp: int, processors: int, l2_mib: int) -> Device:
    return Device("hip", arch, warp, processors, 64 * 1024, 16, l2_mib << 20)


# Shared memory of a block: CUDA C++ Programming Guide, table "Technical Specifications per
# Compute Capability" (the opt-in maximum); LDS of AMD GPUs is 64 KiB. Processors and level-2
# caches are those of A100, RTX 3090, RTX 4090, H100 SXM, RTX 5090, MI250X (one die), MI300X and
# RX 7900 XTX; on a real device they are read from it.
PROFILES: dict[str, Device] = {
    device.arch: device
    for device in (
        _nvidia("sm_80", 108, 163, 40),
        _nvidia("sm_86", 82, 99, 6),
        _nvidia("sm_89", 128, 99, 72),
        _nvidia("sm_90", 132, 227, 50),
        _nvidia("sm_90a", 132, 227, 50),
        _nvidia("sm_120", 170, 99, 96),
        _amd("gfx90a", 64, 110, 8),
        _amd("gfx942", 64, 304, 256),
        _amd("gfx1100", 32, 96, 96),
    )
}
SIMULATED = ("sm_80", "sm_90", "sm_90a", "gfx90a", "gfx1100")
