"""The files of the speed page: ours from `site_assets/`, Plotly from its wheel, and the data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from results_files import Bandwidth, Result, Row, Timing, Unreadable

ASSETS = Path(__file__).resolve().parent / "site_assets"
DATA = "data.js"


class PageError(Exception):
    """A page that cannot be built; the message says why."""


@dataclass(frozen=True)
class Peak:
    """A roof that was given: the most GFLOP/s of machines whose name contains ``machine``."""

    machine: str
    dtype: str | None
    gflops: float


def parse_peak(text: str) -> Peak:
    """A peak from the command line.

    Raises
    ------
    PageError
        If it is not MACHINE=GFLOPS or MACHINE:DTYPE=GFLOPS.
    """
    where, _, number = text.rpartition("=")
    machine, _, dtype = where.partition(":")
    try:
        gflops = float(number)
    except ValueError:
        gflops = 0.0
    if not machine or not 0 < gflops < 1e12:
        raise PageError(f"--peak {text}: write it as MACHINE=GFLOPS, such as 'EPYC:float32=140'")
    return Peak(machine, dtype or None, gflops)


def build(
    results: Sequence[Result],
    unreadable: Sequence[Unreadable],
    out: Path,
    peaks: Sequence[Peak] = (),
) -> list[str]:
    """Write the page into a folder, and return what is doubtful about it.

    Raises
    ------
    PageError
        If Plotly is not installed.
    OSError
        If the folder cannot be written.
    """
    plotly, licence = _plotly()
    machines = {result.device for result in results}
    doubtful = [
        f"--peak {peak.machine}: no result is of such a machine; there are {_listed(machines)}"
        for peak in peaks
        if not any(peak.machine in machine for machine in machines)
    ]
    out.mkdir(parents=True, exist_ok=True)
    for asset in sorted(ASSETS.iterdir()):
        shutil.copyfile(asset, out / asset.name)
    shutil.copyfile(plotly, out / "plotly.min.js")
    shutil.copyfile(licence, out / "plotly.LICENSE.txt")
    (out / DATA).write_text(as_script(page_data(results, unreadable, peaks)), encoding="utf-8")
    return doubtful


def _listed(names: set[str]) -> str:
    return "; ".join(sorted(names))


def _plotly() -> tuple[Path, Path]:
    """Plotly's library for browsers and its licence, both from the installed wheel."""
    try:
        files = metadata.files("plotly") or []
    except metadata.PackageNotFoundError:
        raise PageError('the page needs Plotly: pip install "nnkernels[bench]"') from None
    found = {
        file.name: Path(str(file.locate())) for file in files if file.suffix in (".js", ".txt")
    }
    try:
        return found["plotly.min.js"], found["LICENSE.txt"]
    except KeyError as name:
        raise PageError(f"the installed Plotly has no {name}: install version 6 or 7") from None


# ---- the data ------------------------------------------------------------------------------


def as_script(data: dict[str, Any]) -> str:
    """A script that sets ``window.NNK_DATA``.

    No ``<`` is left, so that no text in it can end a script or begin a comment wherever it is put;
    in JSON one can only stand inside a text. The separators of lines that JavaScript knows and
    JSON does not are escaped too, as is everything outside ASCII.
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return f"window.NNK_DATA = {text.replace('<', chr(92) + 'u003c')};\n"


def page_data(
    results: Sequence[Result], unreadable: Sequence[Unreadable], peaks: Sequence[Peak] = ()
) -> dict[str, Any]:
    """What the page shows: numbers as they stand in the files, no more than it needs of them."""
    return {
        "results": [_result(result) for result in results],
        "rows": [_row(row, i) for i, result in enumerate(results) for row in result.rows],
        "unreadable": [{"name": one.path.name, "reason": one.reason} for one in unreadable],
        "peaks": [vars(peak) for peak in peaks],
    }


def _result(result: Result) -> dict[str, Any]:
    commit = result.commit
    return {
        "name": result.name,
        "date": result.when.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "commit": None if commit is None else commit.hash,
        "changed_files": 0 if commit is None else commit.changed_files,
        "machine": result.device,
        "backend": result.backend,
        "complete": result.complete,
        "compiler": result.compiler,
        "versions": result.versions,
        "warnings": result.warnings,
        "peers": result.peers,
        "copy": _bandwidth(result.copy),
        "read": _bandwidth(result.read),
        "means": [vars(mean) for mean in result.means],
        "checks": [vars(check) for check in result.checks],
    }


def _bandwidth(measured: Bandwidth | None) -> dict[str, Any] | None:
    return None if measured is None else {"bytes_per_s": measured.bytes_per_s, "by": measured.by}


def _row(row: Row, result: int) -> dict[str, Any]:
    return {
        "result": result,
        "op": row.op,
        "family": row.family,
        "shape": row.shape,
        "dtype": row.dtype,
        "axis": row.axis,
        "layout": row.layout,
        "backend": row.backend,
        "out": row.out,
        "bytes": row.bytes,
        "flops": row.flops,
        "sets": row.sets,
        "caches": row.caches,
        "timings": {name: _timing(timing, row) for name, timing in row.timings.items()},
        "ratios": row.ratios,
        "best_peer": row.best_peer,
        "ratio": row.ratio,
        "paired_ratio": row.paired_ratio,
        "bytes_per_s": row.bytes_per_s,
        "flops_per_s": row.flops_per_s,
        "copy_share": row.copy_share,
        "read_share": row.read_share,
        "target": None if row.target is None else vars(row.target),
    }


def _timing(timing: Timing, row: Row) -> dict[str, Any]:
    if timing.status != "ok":
        return {"status": timing.status, "message": timing.message}
    return {
        "status": "ok",
        "out": timing.out,
        "median_s": timing.median_s,
        "p25_s": timing.p25_s,
        "p75_s": timing.p75_s,
        "extra_bytes": timing.extra_bytes,
        # Elsewhere a call returns when it is done.
        "host_s": timing.host_median_s if row.backend == "cupy" else None,
        "cold_s": timing.cold_s,
    }
