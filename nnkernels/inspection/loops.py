"""The main loop of a kernel, found in its machine code."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

# What multiplies and adds, on either make of GPU; a kernel of whole numbers has no other than
# these of the last pattern, which elsewhere compute addresses.
_MULTIPLY_ADD = re.compile(
    r"FFMA|HFMA2|DFMA|[HIDBQ]G?MMA|v_(pk_)?(fma|fmac|mad|mac)_(f|mix)\w+|v_mfma\w*|v_wmma\w*|v_dot\w+"
)
_WHOLE = re.compile(r"IMAD|v_mad_u64_u32|v_mul_lo_u32|v_mad_u32_u24|v_mad_i32_i24")


@dataclass
class Code:
    """The machine code of one kernel.

    Attributes
    ----------
    instructions : list of str
        Their names.
    branches : list of tuple of int
        From where to where control may go, as places in that list.
    """

    instructions: list[str] = field(default_factory=list)
    branches: list[tuple[int, int]] = field(default_factory=list)


def main_loop(code: Code) -> list[str]:
    """The instructions of the innermost loop that multiplies and adds most; none without one.

    A loop is what lies between a branch backwards and its target.

    >>> main_loop(Code(["MOV", "LDS", "FFMA", "FFMA", "BRA", "STG"], [(4, 1)]))
    ['LDS', 'FFMA', 'FFMA', 'BRA']
    """
    ranges = sorted({(target, at) for at, target in code.branches if target <= at})
    innermost = [
        (first, last)
        for first, last in ranges
        if not any(first <= a and b <= last and (a, b) != (first, last) for a, b in ranges)
    ]
    loops = [code.instructions[first : last + 1] for first, last in innermost]
    return max(loops, key=_work, default=[])


def _work(loop: list[str]) -> tuple[int, int]:
    return multiply_adds(Counter(loop)), sum(bool(_WHOLE.fullmatch(name)) for name in loop)


def multiply_adds(mix: Counter[str]) -> int:
    """How many of some instructions multiply and add numbers, or matrices of them."""
    return sum(count for name, count in mix.items() if _MULTIPLY_ADD.fullmatch(name))
