"""How compiled kernels are started, on each machine."""

from __future__ import annotations

from contextvars import ContextVar

# The order in which the simulator runs threads is drawn from this.
simulation_seed: ContextVar[int] = ContextVar("nnkernels_simulation_seed", default=0)
