"""The table of ops, made from the registry for the README."""

from __future__ import annotations

from nnkernels.registry import all_ops
from nnkernels.registry.record import COMPLEX, FLOATING, INTEGERS, Op

_DTYPE_GROUPS = ((FLOATING, "real"), (COMPLEX, "complex"), (INTEGERS, "integer"))
# Every op has one set of templates for all machines. Those for GPUs are compiled and run in the
# simulator by every test run; docs/measured-gpu.md says what ran on a device.
MACHINES = {
    "NVIDIA": "yes, simulated",
    "AMD": "compiled, simulated",
    "CPU": "yes",
    "NumPy reference": "yes",
}


def _dtypes(op: Op) -> str:
    return ", ".join(name for group, name in _DTYPE_GROUPS if set(group) <= set(op.dtypes))


def markdown() -> str:
    """A Markdown table: one line for each op that is no gradient of another."""
    head = ["op", "family", "dtypes", "gradient", *MACHINES]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    ops = all_ops()
    for op in ops.values():
        if op.is_gradient:
            continue
        gradients = ", ".join(f"`{name}`" for name in op.gradients if name in ops)
        cells = [f"`{op.name}`", op.family, _dtypes(op), gradients, *MACHINES.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
