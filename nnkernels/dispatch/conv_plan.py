"""Plans of convolutions: everything about a call but its pointers."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nnkernels.dispatch.conv_geometry import Weights
from nnkernels.dispatch.packing import pointer_struct
from nnkernels.dispatch.results import Allocation

# A pointer: its number, and bytes from it on.
Slot = tuple[int, int]
# In the place of a pointer, the numbers of a fused function.
NUMBERS: Slot = (-1, 0)


@dataclass
class ConvPlan:
    """Everything about a call but its pointers.

    Those are numbered through: operands, those of a fused function, results, workspaces.

    Attributes
    ----------
    operands : int
        How many there are.
    result : Allocation
        The result.
    further : tuple of Allocation
        Further results of a fused function.
    function : Inside or None
        That function.
    workspaces : list of Allocation
        What lies between launches.
    launches : list
        For each what starts it, what packs its pointers, these, and its other arguments.
    copies : dict
        Of operands that are copied so that their channels are adjacent, the copies' numbers.
    ordered : dict
        Where weights are that are copied to the order of the terms.
    """

    operands: int
    result: Allocation
    further: tuple[Allocation, ...] = ()
    function: Any = None
    workspaces: list[Allocation] = field(default_factory=list)
    launches: list[tuple[Any, Any, tuple[Slot, ...], bytes]] = field(default_factory=list)
    copies: dict[int, int] = field(default_factory=dict)
    ordered: dict[Weights, Slot] = field(default_factory=dict)

    @property
    def result_number(self) -> int:
        """Number of the pointer of the result."""
        return self.operands

    def add(self, start: Any, slots: tuple[Slot, ...], tail: bytes) -> None:
        """Add a launch with these pointers."""
        packer = pointer_struct(len(slots))
        if NUMBERS in slots:
            at = slots.index(NUMBERS)
            size = self.function.number_bytes
            packer = struct.Struct(f"={at}Q{size}s{len(slots) - at - 1}Q")
        self.launches.append((start, packer.pack, slots, tail))

    def workspace(self, elements: int, dtype: Any) -> int:
        """Add a workspace; the number of its pointer."""
        self.workspaces.append(Allocation((elements,), dtype, (0,)))
        return self.operands + len(self.further) + len(self.workspaces)

    def added(self, bias: bool, offsets: Sequence[int]) -> tuple[Slot, ...]:
        """What an epilogue's arguments begin with: its arrays, and the numbers of its function.

        Parameters
        ----------
        bias : bool
            Whether there is one.
        offsets : sequence of int
            Bytes to the first elements of the arrays of the function.
        """
        found: tuple[Slot, ...] = ((2, 0),) if bias else ()
        if self.function is None:
            return found
        first = self.operands - len(self.function.arrays)
        numbers = [*range(first, self.operands)]
        numbers += [self.result_number + 1 + i for i in range(len(self.further))]
        return (*found, *zip(numbers, offsets, strict=True), NUMBERS)
