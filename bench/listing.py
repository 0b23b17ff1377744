"""What can be timed: the answer to ``--list``."""

from __future__ import annotations

import contextlib

import peers
import problems
import suites
from fusion import all_ops


def text() -> str:
    """Ops with the peers that are installed here, default shapes, and suites."""
    libraries = []
    for name in ("numpy", "torch"):
        with contextlib.suppress(peers.Unavailable):
            libraries.append(peers.open_peer(name, on_gpu=False, threads=1))
    lines = ["op: peers here; element types"]
    for op in all_ops().values():
        shape = problems.defaults(op)[0][0]
        example = problems.Problem(op.name, shape, axis=problems.default_axis(op))
        able = [library.name for library in libraries if library.functions(example)]
        lines.append(f"  {op.name}: {', '.join(able) or 'none'}; {', '.join(op.dtypes)}")
    lines.append("default shapes")
    for family, cases in problems.DEFAULTS.items():
        lines.append(f"  {family}: {', '.join(_case_text(*case) for case in cases)}")
    lines.append("suites")
    lines += [f"  {name}: {meaning}" for name, meaning in suites.MEANINGS.items()]
    return "\n".join(lines)


def _case_text(shape: problems.Shape, axis: int | None, layout: str) -> str:
    words = [problems.shape_text(shape)]
    if axis is not None:
        words.append(f"axis {axis}")
    if layout != "contiguous":
        words.append(layout)
    return " ".join(words)
