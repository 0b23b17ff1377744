#!/usr/bin/env python3
"""Turn a folder of result files into a static page: python bench/site.py [RESULTS [PAGE]]."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from results_files import read_results
from site_page import PageError, Peak, build, parse_peak

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Build the page; return 0 if any result was read, and 2 if none or nothing can be built."""
    arguments = _parser().parse_args()
    folder, out = arguments.results, arguments.out
    try:
        peaks = [parse_peak(text) for text in arguments.peak]
        return _build(folder, out, peaks)
    except (PageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _build(folder: Path, out: Path, peaks: list[Peak]) -> int:
    results, unreadable = read_results(folder)
    for one in unreadable:
        print(f"warning: {one}; it is left out", file=sys.stderr)
    if not results:
        raise PageError(f"{folder} has no result file that can be read")
    for warning in build(results, unreadable, out, peaks):
        print(f"warning: {warning}", file=sys.stderr)
    rows = sum(len(result.rows) for result in results)
    found = len(results) + len(unreadable)
    print(f"{out / 'index.html'}: {rows} rows from {len(results)} of {found} files")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Turn a folder of result files of bench.py into a static page, which needs "
        "no server and asks nothing of the network: open index.html in a browser."
    )
    parser.add_argument(
        "results",
        nargs="?",
        type=Path,
        default=ROOT / "bench" / "results",
        help="folder with the files that bench.py --json wrote (default: bench/results)",
    )
    parser.add_argument(
        "out",
        nargs="?",
        type=Path,
        default=ROOT / "build" / "site",
        help="folder for the page, made if it is not there (default: build/site)",
    )
    parser.add_argument(
        "--peak",
        action="append",
        default=[],
        metavar="MACHINE[:DTYPE]=GFLOPS",
        help="roof of the roofline plot for machines whose name contains MACHINE; without it, "
        "the fastest that was measured there (may be given several times)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
