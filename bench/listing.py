"""What can be timed: the answer to ``--list``."""

from __future__ import annotations

import contextlib

import peers
import problems
import suites
from configuration import Configuration


def text(chosen: Configuration | None = None) -> str:
    """Ops with the peers that are installed here, default shapes, and suites."""
    libraries = []
    for name in ("numpy", "scipy", "torch"):
        with contextlib.suppress(peers.Unavailable):
            libraries.append(peers.open_peer(name, on_gpu=False, threads=1))
    lines = ["op: peers here; element types"]
    for op in problems.known_ops().values():
        shape = problems.defaults(op)[0][0]
        example = problems.Problem(op.name, shape, axis=problems.default_axis(op))
        able = [library.name for library in libraries if library.functions(example)]
        lines.append(f"  {op.name}: {', '.join(able) or 'none'}; {', '.join(op.dtypes)}")
    lines.append("default shapes")
    for family, cases in problems.DEFAULTS.items():
        lines.append(f"  {family}: {', '.join(_case_text(*case) for case in cases)}")
    lines.append("suites")
    lines += [f"  {name}: {meaning}" for name, meaning in suites.MEANINGS.items()]
    if chosen is not None:
        lines.append("suites of the configuration file")
        for name, table in chosen.suites.items():
            what = next(key for key in ("ops", "family", "suites") if key in table.keys)
            value = table.keys[what]
            lines.append(f"  {name}: {what} {value if what == 'family' else ', '.join(value)}")
    return "\n".join(lines)


def _case_text(shape: problems.Shape, axis: int | None, layout: str) -> str:
    words = [problems.shape_text(shape)]
    if axis is not None:
        words.append(f"axis {axis}")
    if layout != "contiguous":
        words.append(layout)
    return " ".join(words)
