"""How much of a call one block of a CPU has."""

from __future__ import annotations

from nnkernels.config.device import Device
from nnkernels.config.matmul_problem import round_up

# Results of a block, about: enough to hide its cost, few enough to share out.
_CPU_RESULTS = 16384
# For each thread, so many blocks or more need not be as many for all of them.
_MANY_BLOCKS = 8


def units_of_a_block(units: int, results: int, device: Device) -> int:
    """How many units, of so many results each, a thread of a CPU takes at once."""
    blocks = -(-units // max(_CPU_RESULTS // max(results, 1), 1))
    if blocks < _MANY_BLOCKS * device.processors:  # as many for each thread
        blocks = round_up(blocks, 2 * device.processors)
    return -(-units // max(blocks, 1))
