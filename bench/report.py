"""The result of a run: as tables on the terminal, and as a JSON file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peers import OURS
from problems import shape_text

Row = dict[str, Any]


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def text(result: dict[str, Any]) -> str:
    """All that is printed of a result."""
    parts = [heading(result)]
    if result["copy"]:
        parts.append(bandwidth_text("copy bandwidth", ", read and written,", result["copy"]))
    if result.get("read"):
        parts.append(bandwidth_text("read bandwidth", "", result["read"]))
    if result["rows"]:
        parts.append(table(result["rows"], result["peers"]))
    if result["means"]:
        parts.append(means_table(result["means"]))
    if result["checks"]:
        parts.append(checks_table(result["checks"]))
    return "\n".join([*parts, *problems_text(result["rows"])])


def heading(result: dict[str, Any]) -> str:
    """Device, threads, versions, and whether results are allocated."""
    facts, versions = result["machine"], result["versions"]
    if facts["gpu"]:
        device = facts["gpu"]["name"]
    else:
        device = f"{facts['cpu']}, {result['threads']} threads"
    names = dict.fromkeys(["nnkernels", "numpy", *result["peers"]])
    used = ", ".join(f"{name} {versions[name]}" for name in names if name in versions)
    how = "results into out=" if result["out"] else "results allocated by the call"
    return f"{device}, {how}; {used}"


# ---- tables --------------------------------------------------------------------------------


def table(rows: Sequence[Row], peers: Sequence[str]) -> str:
    """One line for each row of a result file."""
    columns = ["op", "shape", "axis", "dtype", "layout", OURS, *peers]
    columns += ["ratio", "paired", "rate", "copy", "read", "sets", "extra MB"]
    columns += ["host", "cold", "target"]
    lines = [_line(row, peers) for row in rows]
    notes = []
    if any("*" in cell for line in lines for cell in line):
        notes.append("* allocates its result: it has no out=")
    if any(row["caches"] == "warm" for row in rows):
        notes.append("sets: buffers used in turn; warm: they fit into the cache, and are meant to")
    return "\n".join([aligned([columns, *lines]), *notes])


def _line(row: Row, peers: Sequence[str]) -> list[str]:
    axis = "" if row["axis"] is None else str(row["axis"])
    return [
        row["op"],
        shape_text(row["shape"]),
        axis,
        row["dtype"],
        "" if row["layout"] == "contiguous" else row["layout"],
        *(_time(row["timings"].get(name), row["out"]) for name in (OURS, *peers)),
        _times(row["ratio"]),
        _times(row["paired_ratio"]),
        _rate(row),
        _share(row["copy_share"]),
        _share(row["read_share"]),
        "warm" if row["caches"] == "warm" else str(row["sets"]),
        _extra(row["timings"], peers),
        _host(row, peers),
        _cold(row["timings"][OURS]),
        _verdict(row["target"]),
    ]


def _extra(timings: dict[str, Any], peers: Sequence[str]) -> str:
    """Memory beside operands and results, of ours and of each peer."""
    known = [timings.get(name, {}).get("extra_bytes") for name in (OURS, *peers)]
    if all(extra is None for extra in known):
        return ""
    return " / ".join("-" if extra is None else f"{extra / 1e6:.1f}" for extra in known)


def _host(row: Row, peers: Sequence[str]) -> str:
    """What a call costs the host, where that is not the time itself: ours and each peer's."""
    if row["backend"] != "cupy":
        return ""
    known = [row["timings"].get(name, {}).get("host_median_s") for name in (OURS, *peers)]
    if all(seconds is None for seconds in known):
        return ""
    return " / ".join("-" if seconds is None else duration(seconds) for seconds in known)


def _cold(timing: dict[str, Any]) -> str:
    """From the first call to its result, with nothing compiled."""
    return "" if timing.get("cold_s") is None else duration(timing["cold_s"])


def _share(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}%"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"


def _time(timing: dict[str, Any] | None, wanted_out: bool) -> str:
    """The median, and half the distance of the quartiles in per cent of it."""
    if timing is None or timing["status"] == "missing":
        return "-"
    if timing["status"] != "ok":
        return timing["status"].upper()
    spread = 50 * (timing["p75_s"] - timing["p25_s"]) / timing["median_s"]
    mark = "*" if wanted_out and not timing["out"] else ""
    return f"{duration(timing['median_s'])}{mark} ±{spread:.0f}%"


def _rate(row: Row) -> str:
    if row["family"] in ("matmul", "conv", "models") and row["flops_per_s"]:
        return f"{row['flops_per_s'] / 1e9:.3g} GFLOP/s"
    return "" if row["bytes_per_s"] is None else f"{row['bytes_per_s'] / 1e9:.3g} GB/s"


def _verdict(target: dict[str, Any] | None) -> str:
    if target is None:
        return ""
    if target["kind"] == "seconds":
        asked = f"at most {duration(target['limit'])}"
    else:
        asked = f"{target['limit']:g}x {target['kind'].removeprefix('times ')}"
    return f"{asked}: {met_text(target['met'])}"


def means_table(means: Sequence[dict[str, Any]]) -> str:
    """Geometric means of ratios."""
    lines = [["geometric mean", "dtype", "layout", "rows", "ratio", "least", "target"]]
    for mean in means:
        rows = str(mean["rows"])
        if mean["measured_rows"] < mean["rows"]:
            rows = f"{mean['measured_rows']} of {rows}"
        layout = "" if mean["layout"] == "contiguous" else mean["layout"]
        numbers = rows, _times(mean["measured"]), _times(mean["least"])
        lines.append([mean["name"], mean["dtype"], layout, *numbers, _verdict(mean)])
    return aligned(lines)


def met_text(met: bool | None) -> str:
    return {True: "met", False: "MISSED", None: "not measured"}[met]


def checks_table(checks: Sequence[dict[str, Any]]) -> str:
    """Import time and first calls."""
    lines = [["what", "median", "spread", "target", ""]]
    for check in checks:
        first, third = check["p25_s"], check["p75_s"]
        target = "" if check["limit_s"] is None else f"at most {duration(check['limit_s'])}"
        verdict = "" if check["limit_s"] is None else met_text(check["met"])
        median = "FAILED" if check["median_s"] is None else duration(check["median_s"])
        spread = "" if first is None else f"{duration(first)} - {duration(third)}"
        lines.append([check["name"], median, spread, target, verdict])
    return aligned(lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns side by side: the first line is the heading, numbers stand to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    used = [i for i, column in enumerate(zip(*lines[1:], strict=True)) if any(column)]
    text = []
    for line in lines:
        cells = [
            line[i].rjust(widths[i]) if _is_number(lines[1][i]) else line[i].ljust(widths[i])
            for i in used
        ]
        text.append("  ".join(cells).rstrip())
    rule = "  ".join("-" * widths[i] for i in used)
    return "\n".join([text[0], rule, *text[1:]])


def _is_number(cell: str) -> bool:
    return cell[:1].isdigit() and "x" not in cell[:-1]


def problems_text(rows: Sequence[Row]) -> list[str]:
    """What did not work, a line for each distinct message, and what each peer lacks."""
    found: dict[str, None] = {}
    missing: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, timing in row["timings"].items():
            what = f"{row['op']} {shape_text(row['shape'])} {row['dtype']} {row['layout']}"
            if timing["status"] == "wrong":
                error = timing["error_of_tolerance"]
                times = "beyond any" if error is None else f"{error:.2g} times the"
                found[f"{name} is WRONG on {what}: its error is {times} tolerance"] = None
            elif timing["status"] == "failed":
                reason = timing["message"].partition("\n")[0]
                found[f"{name} failed on {what}: {reason}"] = None
            elif timing["status"] == "missing":
                missing.setdefault(name, {})[_lacking(name, row, rows)] = None
    return [*found, *(f"{name} has no {', '.join(ops)}" for name, ops in missing.items())]


def _lacking(name: str, row: Row, rows: Sequence[Row]) -> str:
    """What a peer lacks: an op, or an op in one type."""
    alike = [other for other in rows if other["op"] == row["op"]]
    has_others = any(
        other["timings"][name]["status"] != "missing" for other in alike if name in other["timings"]
    )
    return f"{row['op']} of {row['dtype']}" if has_others else row["op"]


def ours_is_right(rows: Sequence[Row]) -> bool:
    return all(row["timings"][OURS]["status"] == "ok" for row in rows)


def bandwidth_text(name: str, counted: str, measured: dict[str, Any]) -> str:
    """One line on a bandwidth and the ways in which it was tried."""
    tried = ", ".join(f"{way} {rate / 1e9:.1f}" for way, rate in measured["tried"].items())
    return (
        f"{name} {measured['bytes_per_s'] / 1e9:.1f} GB/s{counted} by {measured['by']} "
        f"on buffers of {measured['buffer_bytes'] / 2**20:.0f} MiB (tried: {tried})"
    )


# ---- the file ------------------------------------------------------------------------------


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Write a result file in one step, so that no reader finds half of one."""
    text = json.dumps(result, indent=1, allow_nan=False)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text + "\n")
    unfinished.replace(path)
