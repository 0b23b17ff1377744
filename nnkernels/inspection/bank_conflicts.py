"""Bank conflicts in shared memory, counted from the places that the lanes of a warp access.

Shared memory is divided into banks of 4 bytes, each of which serves one address at a time. An
access of a warp goes in phases: as many lanes at once as need every bank one time. A phase in
which lanes need different words of one bank is repeated. An index function of a tile is good if
it makes no such repetition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

BANK_BYTES = 4
BANKS = 32

# 16-byte reads of CDNA: "Understanding AMD GPU LDS and Bank Conflicts" in the documentation of
# Composable Kernel. Writes, and narrower reads, take neighbours.
_READ_16_CDNA = tuple(
    tuple(half + lane for first in pair for lane in range(first, first + 4))
    for half in (0, 32)
    for pair in ((0, 20), (4, 16), (8, 28), (12, 24))
)
_CDNA = ("gfx908", "gfx90a", "gfx942")


def phases(arch: str, access_bytes: int, *, write: bool = False) -> tuple[tuple[int, ...], ...]:
    """The lanes of a warp that access shared memory together, phase by phase.

    Parameters
    ----------
    arch : str
        ``"sm_80"``, ``"gfx90a"``, ``"gfx1100"``, ...
    access_bytes : {1, 2, 4, 8, 16}
        That each lane reads or writes.
    write : bool
        Whether it writes: that makes a difference on CDNA.

    Returns
    -------
    tuple of tuple of int

    Notes
    -----
    NVIDIA: a warp, half a warp or a quarter of it for 4, 8 or 16 bytes. ``ldmatrix`` reads one
    matrix of 8 rows in a phase, which are the lanes of a 16-byte access. AMD documents the order
    for CDNA alone; for RDNA neighbours are assumed.

    Examples
    --------
    >>> [len(lanes) for lanes in phases("sm_80", 8)]
    [16, 16]
    >>> phases("gfx90a", 16)[0]
    (0, 1, 2, 3, 20, 21, 22, 23)
    """
    if access_bytes not in (1, 2, 4, 8, 16):
        raise ValueError(f"a lane accesses 1, 2, 4, 8 or 16 bytes, not {access_bytes}")
    if arch in _CDNA and access_bytes == 16 and not write:
        return _READ_16_CDNA
    warp = 64 if arch in _CDNA else 32
    lanes = BANKS * BANK_BYTES // max(access_bytes, BANK_BYTES)
    return tuple(tuple(range(first, first + lanes)) for first in range(0, warp, lanes))


def extra_phases(
    elements: Sequence[int | None],
    element_bytes: int,
    access_bytes: int,
    arch: str = "sm_80",
    *,
    write: bool = False,
) -> int:
    """How many phases of one access bank conflicts cost.

    Parameters
    ----------
    elements : sequence of int or None
        For each lane, the index of the first element that it accesses; None for a lane that
        takes no part, as those that are missing at the end do not. Of ``ldmatrix``: the rows
        whose addresses the lanes give.
    element_bytes : int
        Size of an element.
    access_bytes : {1, 2, 4, 8, 16}
        What each lane accesses; 16 for ``ldmatrix``.
    arch : str
        Of the processor.
    write : bool
        Whether it writes.

    Returns
    -------
    int
        0 if no two lanes of a phase need different words of one bank.

    Examples
    --------
    Eight rows of 64 float16 values, 128 bytes, begin in one bank; XOR with the row spreads them.

    >>> extra_phases([64 * row for row in range(8)], 2, 16)
    7
    >>> extra_phases([64 * row + 8 * (0 ^ row) for row in range(8)], 2, 16)
    0
    """
    return sum(
        _repetitions([elements[lane] for lane in lanes if lane < len(elements)],
                     element_bytes, access_bytes)
        for lanes in phases(arch, access_bytes, write=write)
    )  # fmt: skip


def _repetitions(elements: Sequence[int | None], element_bytes: int, access_bytes: int) -> int:
    words = {
        word
        for element in elements
        if element is not None
        for word in range(
            element * element_bytes // BANK_BYTES,
            (element * element_bytes + access_bytes - 1) // BANK_BYTES + 1,
        )
    }
    # Lanes that need the same word are served together.
    needed = Counter(word % BANKS for word in words)
    return max(needed.values(), default=1) - 1
