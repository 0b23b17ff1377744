#!/usr/bin/env python3
"""Check nnkernels on the GPU of this machine: tests, compute-sanitizer and bench, in 8 minutes.

    make gpu-check
    make gpu-check PART=sanitizer,bench
    python bench/gpu_check.py --minutes 20 --folder report

It needs this checkout and a Python with CuPy, pytest, hypothesis and what nnkernels itself imports;
compute-sanitizer, PyTorch and pytest-xdist are used where they are. Whatever fails, the rest goes
on; the report begins with the failures. A part that is run alone takes its place in the report of
the same commit and device. exit status: 0, 1 if something failed, 2 without a GPU, 130 after
Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

# From a checkout without installation.
if importlib.util.find_spec("nnkernels") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gpu_report
import gpu_steps
import selection

PARTS = ("tests", "sanitizer", "bench")
FAILED, USAGE_ERROR, INTERRUPTED = 1, 2, 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--part",
        type=selection.listed,
        default=list(PARTS),
        metavar="NAMES",
        help=f"{', '.join(PARTS)} (default: all)",
    )
    parser.add_argument(
        "--minutes", type=_minutes, default=8.0, help="in all, for three parts (default: 8)"
    )
    parser.add_argument(
        "--jobs",
        type=selection.positive,
        help="test files at a time (default: most of the processors, at most 12)",
    )
    parser.add_argument(
        "--tests",
        type=selection.listed,
        metavar="WORDS",
        help="only test files whose names contain one of these",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(__file__).resolve().parent / "results",
        help="where the report is written (default: bench/results)",
    )
    # So that this script can be tested, and tried, where there is no GPU.
    parser.add_argument("--backend", default="cupy", help=argparse.SUPPRESS)
    return parser


def _minutes(text: str) -> float:
    return selection.seconds(text)


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    unknown = [part for part in arguments.part if part not in PARTS]
    if unknown or not arguments.part:
        parser.error(f"no part is called {(unknown or [''])[0]!r}; there are {', '.join(PARTS)}")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell's background job ignores it, and what this starts would too, out of time.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    import session
    from problems import UsageError

    try:
        device = session.gpu_facts() if arguments.backend == "cupy" else None
        arguments.folder.mkdir(parents=True, exist_ok=True)
    except (UsageError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return USAGE_ERROR
    return _check(arguments, device)


def _check(arguments: argparse.Namespace, device: dict[str, Any] | None) -> int:
    report = gpu_report.begun(arguments.folder, device, arguments.backend)
    jobs = arguments.jobs or max(1, min(12, 3 * (os.cpu_count() or 2) // 4))
    # Each part gets its share of the time that is left when it begins.
    end = time.monotonic() + 60 * arguments.minutes * len(arguments.part) / len(PARTS)
    left = list(arguments.part)
    status = 0
    try:
        for part in arguments.part:
            share = gpu_steps.SHARES[part] / sum(gpu_steps.SHARES[name] for name in left)
            seconds = max(10.0, (end - time.monotonic()) * share)
            settings = gpu_steps.Settings(arguments.backend, seconds, jobs, arguments.tests or [])
            report.put(part, gpu_steps.run(part, settings))
            report.write()  # what is there is kept if the next part is interrupted
            left.remove(part)
    except KeyboardInterrupt:
        print("interrupted: the report has the parts that were done", file=sys.stderr)
        status = INTERRUPTED
    print(report.text())
    print(f"\n{report.markdown_file}\n{report.json_file}")
    return status or (FAILED if report.failures else 0)


if __name__ == "__main__":
    sys.exit(main())
