"""``python -m nnkernels inspect``: what the compilers make of the kernels of ops."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnkernels import registry
from nnkernels.cli import static
from nnkernels.cli.table import table
from nnkernels.compile import cache
from nnkernels.config.device import PROFILES
from nnkernels.dispatch.dtypes import ELEMENTS
from nnkernels.errors import BackendError
from nnkernels.inspection.batches import Compilers
from nnkernels.inspection.inspect import inspect
from nnkernels.inspection.loops import multiply_adds
from nnkernels.inspection.result import Beginning, Rejected, Report, Unavailable, widths_text
from nnkernels.inspection.roofline import Estimate, estimates
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
_INTERRUPTED = 130


def add_parser(commands: Any) -> None:
    """Describe the command to argparse."""
    parser = commands.add_parser(
        "inspect",
        help="registers, spills, shared memory and instructions of GPU kernels",
        description="Compile every template instance that an op, or all ops, may choose, and "
        "report what the compiler made of it. Needs NVRTC and nvdisasm for sm_..., hipRTC for "
        "gfx..., and no GPU. What was compiled once is kept in the cache directory; Ctrl-C keeps "
        "what is done.",
        epilog="loads, stores: instructions on global memory as COUNTxBYTES of a thread. "
        "blocks: how many fit a multiprocessor at once, and their share of the threads that it "
        "holds. main loop: the share of its instructions "
        "that multiply and add. roofline: the least time of the call on a GPU, and whether its "
        "memory or its arithmetic sets it. exit status 1: worse than the table, or an instance "
        "does not compile; 2: bad arguments, or an architecture that could not be compiled for.",
    )
    parser.add_argument(
        "op", metavar="OP", nargs="?", default="", help="comma-separated public functions"
    )
    parser.add_argument("--all", action="store_true", help="every op, dtype and architecture")
    parser.add_argument("--op", metavar="LIST", dest="ops", default="", help="of --all, only these")
    parser.add_argument("--dtype", help="comma-separated (default: float32; with --all: every one)")
    parser.add_argument(
        "--arch",
        help=f"comma-separated, among {', '.join(PROFILES)} (default: sm_90a; with --all: all; "
        "with a table: those that it has)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes (default: one a core)")
    tables = parser.add_mutually_exclusive_group()
    tables.add_argument(
        "--compare", type=Path, metavar="DIR", help="compare with the table in a directory"
    )
    tables.add_argument(
        "--update", type=Path, metavar="DIR", help="write the table, compiling what changed"
    )
    parser.add_argument(
        "--sample",
        type=int,
        metavar="N",
        help="with --compare: at most so many changed instances of each op",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command; its exit status."""
    try:
        ops = _ops(arguments)
        dtypes = _dtypes(arguments, ops)
        archs = _archs(arguments)
        _check(arguments)
    except (KeyError, ValueError) as error:
        print(f"nnkernels inspect: {error.args[0]}", file=sys.stderr)
        return 2
    try:
        cache.writable_directory()
    except BackendError as error:
        print(f"nnkernels inspect: nothing will be kept: {error}", file=sys.stderr)
    try:
        with Compilers(arguments.jobs) as compilers:
            if arguments.update is not None:
                return static.update(arguments.update, archs, compilers)
            if arguments.compare is not None:
                names = {op.name for op in ops}
                return static.compare_all(
                    arguments.compare,
                    archs,
                    compilers,
                    wanted=lambda op, dtype: op in names and (not dtypes or dtype in dtypes),
                    sample=arguments.sample,
                    as_json=arguments.json,
                )
            return _list(ops, dtypes, archs, arguments, compilers)
    except KeyboardInterrupt:
        print(
            "nnkernels inspect: interrupted; what was compiled is kept, and the same command goes "
            "on from there",
            file=sys.stderr,
        )
        return _INTERRUPTED


# ---- arguments ----------------------------------------------------------------------------------


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _check(arguments: argparse.Namespace) -> None:
    table_asked = arguments.compare is not None or arguments.update is not None
    if table_asked and not arguments.all:
        raise ValueError("--compare and --update go with --all")
    if arguments.update is not None and (arguments.ops or arguments.dtype):
        raise ValueError("--update writes whole tables: without --op and --dtype")
    if arguments.jobs is not None and arguments.jobs < 1:
        raise ValueError(f"--jobs must be at least 1; got {arguments.jobs}")
    if arguments.sample is not None and (arguments.sample < 0 or arguments.compare is None):
        raise ValueError("--sample goes with --compare, and is not negative")


def _ops(arguments: argparse.Namespace) -> list[Op]:
    if bool(arguments.op) == arguments.all:
        raise ValueError("name an OP, or give --all" if not arguments.op else "an OP, or --all")
    if arguments.ops and not arguments.all:
        raise ValueError("--op goes with --all")
    names = _words(arguments.op or arguments.ops)
    return [registry.find(name) for name in names] or list(registry.all_ops().values())


def _dtypes(arguments: argparse.Namespace, ops: list[Op]) -> list[str] | None:
    """None for every one."""
    if arguments.dtype is None:
        return None if arguments.all else ["float32"]
    names = _words(arguments.dtype)
    if arguments.all:
        wrong = [name for name in names if name not in ELEMENTS]
        if wrong or not names:
            raise ValueError(
                f"no dtype is called {wrong[0] if wrong else arguments.dtype!r}; there are "
                f"{', '.join(ELEMENTS)}"
            )
        return names
    for op in ops:
        wrong = [name for name in names if name not in op.dtypes]
        if wrong or not names:
            raise ValueError(
                f"{op.name} has no dtype {wrong[0] if wrong else arguments.dtype!r}; it has "
                f"{', '.join(op.dtypes)}"
            )
    return names


def _archs(arguments: argparse.Namespace) -> list[str]:
    # What the chips of sm_90 run is compiled for sm_90a.
    known, all_of = list(PROFILES), [arch for arch in PROFILES if arch != "sm_90"]
    if arguments.update is not None or arguments.compare is not None:
        known = all_of = static.archs()
    if arguments.arch is None:
        return all_of if arguments.all else ["sm_90a"]
    names = _words(arguments.arch)
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        raise ValueError(
            f"no architecture {wrong[0] if wrong else arguments.arch!r} is known; there are "
            f"{', '.join(known)}"
        )
    return names


# ---- listing ------------------------------------------------------------------------------------


def _list(
    ops: list[Op],
    dtypes: list[str] | None,
    archs: list[str],
    arguments: argparse.Namespace,
    compilers: Compilers,
) -> int:
    failed: list[Unavailable] = []
    rejected: list[Rejected] = []

    def rows() -> Iterator[Report | Unavailable | Rejected]:
        with static.progress(hidden=not arguments.all) as bar:
            for row in inspect(ops, dtypes, archs, compilers):
                if isinstance(row, Beginning):
                    bar.begin(row.arch, row.instances)
                    continue
                if isinstance(row, Unavailable):
                    failed.append(row)
                    print(f"nnkernels inspect: {row.arch}: {row.reason}", file=sys.stderr)
                elif isinstance(row, Rejected):
                    rejected.append(row)
                    what = f"{row.arch} {row.op} {row.dtype}, {row.problem}"
                    print(f"nnkernels inspect: {what}: {row.reason}", file=sys.stderr)
                if not isinstance(row, Unavailable):
                    bar.step(1)
                yield row

    (_print_json if arguments.json else _print_tables)(rows())
    if arguments.all:
        print(
            f"nnkernels inspect: {compilers.compiled} compiled, {compilers.known} known from "
            "earlier runs",
            file=sys.stderr,
        )
    return 2 if failed else 1 if rejected else 0


def _print_json(rows: Iterator[Report | Unavailable | Rejected]) -> None:
    """One array, an element at a time; a whole one also when interrupted."""
    separator = "["
    try:
        for row in rows:
            text = f"{separator}\n{json.dumps(as_dict(row), indent=1)}\n"
            separator = ","
            print(text, end="", flush=True)
    finally:
        print("]" if separator == "," else "[]", flush=True)


def as_dict(row: Report | Unavailable | Rejected) -> dict[str, Any]:
    """A row as plain data, for JSON."""
    if isinstance(row, Unavailable):
        return {"arch": row.arch, "error": row.reason}
    if isinstance(row, Rejected):
        fields = dict(vars(row))
        return {**fields, "error": fields.pop("reason")}
    fields = {**vars(row), **vars(row.resources), **vars(row.cost)}
    del fields["resources"], fields["cost"]
    for name in ("mix", "loop"):
        fields[name] = dict(sorted(fields[name].items(), key=lambda item: -item[1]))
    fields["occupancy"] = row.occupancy
    fields["loop_multiply_adds"] = multiply_adds(row.resources.loop)
    fields["roofline"] = [vars(estimate) for estimate in _roofline(row)]
    return fields


def _roofline(row: Report) -> list[Estimate]:
    return estimates(row.arch, row.kernel, row.dtype, row.cost)


def _print_tables(rows: Iterator[Report | Unavailable | Rejected]) -> None:
    """A table for each op, dtype and architecture, when the last of its rows is there."""
    group: list[Report] = []
    try:
        for row in rows:
            if not isinstance(row, Report):
                continue
            if group and _group(group[0]) != _group(row):
                _print(group)
                group = []
            group.append(row)
    finally:
        _print(group)


def _group(row: Report) -> tuple[str, str, str]:
    return row.op, row.dtype, row.arch


def _print(rows: list[Report]) -> None:
    if not rows:
        return
    headings = (
        "problem", "kind", "threads", "registers", "spills", "local", "shared", "blocks", "loads",
        "stores", "main loop", "roofline", "instructions",
    )  # fmt: skip
    print(", ".join(_group(rows[0])))
    print(table(headings, [_cells(row) for row in rows]))
    print(flush=True)


def _cells(row: Report) -> tuple[object, ...]:
    found, share = row.resources, row.occupancy
    blocks = "?" if share is None else f"{row.blocks_per_processor} ({100 * share:.0f}%)"
    return (
        row.problem, row.kind, row.threads, found.registers, found.spill_bytes, found.local_bytes,
        row.shared, blocks, widths_text(found.loads), widths_text(found.stores),
        _loop(found.loop), " ".join(map(_estimate, _roofline(row))) or "-", _mix(found.mix),
    )  # fmt: skip


def _estimate(estimate: Estimate) -> str:
    return f"{estimate.gpu}: {1e6 * estimate.seconds:.3g} us, {estimate.bound}"


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
