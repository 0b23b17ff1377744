"""``python -m nnkernels inspect``: what the compilers make of an op's kernels."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from typing import Any

from nnkernels import registry
from nnkernels.cli.table import table
from nnkernels.config.device import PROFILES
from nnkernels.inspection.inspect import inspect
from nnkernels.inspection.loops import multiply_adds
from nnkernels.inspection.result import Report, Unavailable, widths_text
from nnkernels.registry import Op

# What says most about a kernel, on either make of GPU; the other instructions are in --json.
_SHOWN = {
    "FFMA": "FFMA", "v_fma_f32": "FMA", "v_fmac_f32": "FMA", "v_pk_fma_f32": "FMA", "DFMA": "DFMA",
    "v_fma_f64": "DFMA", "HMMA": "HMMA", "v_mfma": "MFMA", "MUFU": "MUFU", "v_exp_f32": "EXP",
    "v_log_f32": "LOG", "v_rcp_f32": "RCP", "SHFL": "SHFL", "ds_bpermute_b32": "BPERM",
    "BAR": "BAR", "s_barrier": "BAR", "LDS": "LDS", "STS": "STS", "BRA": "BRA", "CALL": "CALL",
    "LDL": "LDL", "STL": "STL", "LDSM": "LDSM", "LDGSTS": "LDGSTS", "IMMA": "IMMA",
    "ds_read": "LDS", "ds_write": "STS",
}  # fmt: skip


def add_parser(commands: Any) -> None:
    """Describe the command to argparse."""
    parser = commands.add_parser(
        "inspect",
        help="registers, spills, shared memory and instructions of an op's GPU kernels",
        description="Compile every template instance that an op may choose, and report what the "
        "compiler made of it. Needs NVRTC and nvdisasm for sm_..., hipRTC for gfx..., and no GPU.",
        epilog="loads, stores: instructions on global memory as COUNTxBYTES of a thread. "
        "blocks: how many fit a multiprocessor at once. main loop: the share of its instructions "
        "that multiply and add. exit status 2: bad arguments, or an "
        "architecture that could not be compiled for.",
    )
    parser.add_argument("op", metavar="OP", help="name of a public function, such as softmax")
    parser.add_argument("--dtype", default="float32", help="comma-separated (default: %(default)s)")
    parser.add_argument(
        "--arch",
        default="sm_90",
        help=f"comma-separated, among {', '.join(PROFILES)} (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON array instead")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command; its exit status."""
    try:
        op = registry.find(arguments.op)
        dtypes = _dtypes(arguments.dtype, op)
        archs = _archs(arguments.arch)
    except (KeyError, ValueError) as error:
        print(f"nnkernels inspect: {error.args[0]}", file=sys.stderr)
        return 2
    rows = list(inspect(op, dtypes, archs))
    failed = [row for row in rows if isinstance(row, Unavailable)]
    reports = [row for row in rows if isinstance(row, Report)]
    if arguments.json:
        print(json.dumps([as_dict(row) for row in rows], indent=1))
    else:
        _print(op, reports)
    for row in failed:
        print(f"nnkernels inspect: {row.arch}: {row.reason}", file=sys.stderr)
    return 2 if failed else 0


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _dtypes(text: str, op: Op) -> list[str]:
    names = _words(text)
    wrong = [name for name in names if name not in op.dtypes]
    if wrong or not names:
        raise ValueError(
            f"{op.name} has no dtype {text!r}; it has {', '.join(op.dtypes)}"
            if not wrong
            else f"{op.name} has no dtype {wrong[0]!r}; it has {', '.join(op.dtypes)}"
        )
    return names


def _archs(text: str) -> list[str]:
    names = _words(text)
    wrong = [name for name in names if name not in PROFILES]
    if wrong or not names:
        raise ValueError(
            f"no architecture {wrong[0] if wrong else text!r} is known; there are "
            f"{', '.join(PROFILES)}"
        )
    return names


def as_dict(row: Report | Unavailable) -> dict[str, Any]:
    """A row as plain data, for JSON."""
    if isinstance(row, Unavailable):
        return {"arch": row.arch, "error": row.reason}
    fields = {**vars(row), **vars(row.resources)}
    del fields["resources"]
    for name in ("mix", "loop"):
        fields[name] = dict(sorted(fields[name].items(), key=lambda item: -item[1]))
    return fields


def _print(op: Op, reports: list[Report]) -> None:
    headings = (
        "problem", "kind", "threads", "registers", "spills", "local", "shared", "blocks", "loads",
        "stores", "main loop", "instructions",
    )  # fmt: skip
    groups: dict[tuple[str, str], list[Report]] = {}
    for row in reports:
        groups.setdefault((row.arch, row.dtype), []).append(row)
    for (arch, dtype), rows in groups.items():
        print(f"{op.name}, {dtype}, {arch}")
        print(table(headings, [_cells(row) for row in rows]))
        print()


def _cells(row: Report) -> tuple[object, ...]:
    found = row.resources
    blocks = "?" if row.blocks_per_processor is None else row.blocks_per_processor
    return (
        row.problem, row.kind, row.threads, found.registers, found.spill_bytes, found.local_bytes,
        row.shared, blocks, widths_text(found.loads), widths_text(found.stores),
        _loop(found.loop), _mix(found.mix),
    )  # fmt: skip


def _loop(loop: Counter[str]) -> str:
    """How many instructions it has, and the share of those that multiply and add."""
    size, work = loop.total(), multiply_adds(loop)
    return f"{100 * work / size:.0f}% of {size}" if work else "-"


def _mix(mix: Counter[str]) -> str:
    shown: Counter[str] = Counter()
    for name, count in mix.items():
        # Of these, AMD has one for each width or shape.
        family = next((f for f in ("v_mfma", "ds_read", "ds_write") if name.startswith(f)), name)
        known = _SHOWN.get(family)
        if known is not None:
            shown[known] += count
    return " ".join(f"{name} {count}" for name, count in shown.most_common()) or "-"
