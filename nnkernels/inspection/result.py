"""What is known of one compiled instance."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from nnkernels.inspection.occupancy import share_of_threads
from nnkernels.inspection.roofline import Cost

# Bytes of one access, widest first.
WIDTHS = (16, 12, 8, 4, 2, 1)


@dataclass(frozen=True)
class Resources:
    """What a compiler reports, and the disassembled code, of one kernel.

    Attributes
    ----------
    registers : int
        Of a thread (vector registers on AMD).
    spill_bytes : int
        Stored to and loaded from memory for lack of registers.
    local_bytes : int
        Private memory of a thread: spills, and arrays indexed at run time.
    static_shared : int
        Bytes of a block.
    loads, stores : dict
        Number of instructions on global memory by bytes of a thread. Empty without a
        disassembler.
    mix : dict
        Instructions by name.
    loop : dict
        Those of the main loop: the innermost one that multiplies and adds most.
    """

    registers: int
    spill_bytes: int
    local_bytes: int
    static_shared: int
    loads: dict[int, int] = field(default_factory=dict)
    stores: dict[int, int] = field(default_factory=dict)
    mix: Counter[str] = field(default_factory=Counter)
    loop: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Report:
    """One instance on one architecture.

    Attributes
    ----------
    op, dtype, arch : str
        Which.
    problem : str
        The call that chose it, or the first of several.
    kind : str
        Its place in the ladder of row lengths, or the layout of its operands.
    aligned : bool
        Whether that call's arrays can be read and written in accesses of 16 bytes.
    symbol, kernel : str
        Name in the machine code, and C++ type.
    threads : int
        Of a block.
    dynamic_shared : int
        Bytes of a block, asked for at the launch.
    blocks_per_processor : int or None
        How many blocks fit a multiprocessor at once; None for an architecture whose limits are
        not known here.
    resources : Resources
        What the compiler made of it.
    cost : Cost
        Operations and bytes of the call, and what multiplies in it.
    """

    op: str
    dtype: str
    arch: str
    problem: str
    kind: str
    aligned: bool
    symbol: str
    kernel: str
    threads: int
    dynamic_shared: int
    blocks_per_processor: int | None
    resources: Resources
    cost: Cost

    @property
    def shared(self) -> int:
        """Static and dynamic shared memory of a block."""
        return self.resources.static_shared + self.dynamic_shared

    @property
    def occupancy(self) -> float | None:
        """Share of the threads that a multiprocessor can hold; None if that is not known."""
        return share_of_threads(self.arch, self.threads, self.blocks_per_processor)


@dataclass(frozen=True)
class Unavailable:
    """An architecture that could not be compiled for, and why."""

    arch: str
    reason: str


@dataclass(frozen=True)
class Beginning:
    """An architecture comes next, with so many instances."""

    arch: str
    instances: int


@dataclass(frozen=True)
class Rejected:
    """An instance that does not compile, and what the compiler says."""

    op: str
    dtype: str
    arch: str
    problem: str
    reason: str


def widths_text(counts: dict[int, int]) -> str:
    """``{16: 8, 4: 32}`` as ``"8x16 32x4"``."""
    return " ".join(f"{counts[width]}x{width}" for width in WIDTHS if counts.get(width)) or "-"
