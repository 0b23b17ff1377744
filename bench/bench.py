#!/usr/bin/env python3
"""Time nnkernels against other libraries: the same arrays, in turn, in one process.

Examples:
    python bench/bench.py --op softmax --peer numpy,torch
    python bench/bench.py --op softmax --shape 4096x1024,256x32768 --dtype float32,float16
    python bench/bench.py --op gelu,silu --layout transposed,strided --backward --out
    python bench/bench.py --family norm --peer torch
    python bench/bench.py --family conv --suite resnet50 --layout contiguous,channels_last
    python bench/bench.py --op conv --backward --shape 8x64x56x56 --case "128 3x3/2"
    python bench/bench.py --suite foundation --json result.json --plot result.png
    python bench/bench.py --list

bench/README.md tells what is measured and how to read the table.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import selection

# From a checkout without installation.
if importlib.util.find_spec("nnkernels") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if TYPE_CHECKING:
    from peers import Library

# Libraries read these once, when they are imported: nothing that imports NumPy may come before
# main() has set them.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PLOT_FORMATS = (".png", ".svg", ".pdf")

USAGE_ERROR, INTERRUPTED = 2, 130


# ---- the command line ----------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = selection.add_arguments(parser)
    what.add_argument("--list", action="store_true", help="show ops, their peers, and suites")
    who = parser.add_argument_group("on what, and against whom")
    who.add_argument("--backend", choices=("cpu", "cupy", "reference"), default="cpu")
    who.add_argument(
        "--peer",
        type=selection.listed,
        metavar="NAMES",
        help="numpy, torch, cupy or none (default: those that fit the backend; torch in a suite)",
    )
    who.add_argument(
        "--threads", type=selection.positive, help="of everybody (default: all processors)"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--out",
        action="store_true",
        help="write into arrays made beforehand; otherwise a call allocates its result",
    )
    how.add_argument(
        "--min-time",
        type=selection.seconds,
        default=0.5,
        metavar="SECONDS",
        help="time measured for each provider of a row (default: 0.5)",
    )
    how.add_argument(
        "--repeat",
        type=selection.positive,
        metavar="N",
        help="so many turns each, whatever --min-time says",
    )
    how.add_argument(
        "--memory",
        action="store_true",
        help="also the most memory that a call takes beside operands and results (Linux)",
    )
    results = parser.add_argument_group("results")
    results.add_argument("--json", type=Path, metavar="FILE")
    results.add_argument("--plot", type=Path, metavar="FILE", help="PNG, SVG or PDF")
    return parser


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.threads is not None:
        for name in _THREAD_VARIABLES:
            os.environ[name] = str(arguments.threads)
    from problems import UsageError

    try:
        if arguments.list:
            import listing

            print(listing.text())
            return 0
        return _bench(arguments)
    except UsageError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return USAGE_ERROR


def _bench(arguments: argparse.Namespace) -> int:
    import report
    import session
    import suites
    from problems import UsageError

    problems, skipped = selection.chosen(arguments)
    for reason in skipped:
        _say(f"left out: {reason}")
    _check_files(arguments)
    if arguments.memory and arguments.backend != "cpu":
        raise UsageError("--memory is that of a CPU: give --backend cpu")
    if arguments.backend == "cupy":
        session.gpu_facts()  # an error here comes before any work
    threads = session.set_threads(arguments.threads)
    request = session.Request(
        problems=problems,
        peers=_peers(arguments, threads),
        backend=arguments.backend,
        threads=threads,
        min_time=arguments.min_time,
        repeat=arguments.repeat,
        out=arguments.out,
        memory=arguments.memory,
        # The references have nothing to compile.
        with_startup=arguments.suite in suites.WITH_STARTUP and arguments.backend != "reference",
    )
    result = session.run(request)
    print(report.text(result))
    if arguments.json is not None:
        report.write_json(arguments.json, result)
    if arguments.plot is not None and result["rows"]:
        import plot

        plot.draw(arguments.plot, result["rows"], report.heading(result))
    if not result["complete"]:
        _say("interrupted: these are the rows that were done")
        return INTERRUPTED
    return 0 if report.ours_is_right(result["rows"]) else 1


def _say(message: str) -> None:
    from tqdm import tqdm

    tqdm.write(message, file=sys.stderr)


# ---- what is asked for ---------------------------------------------------------------------


def _check_files(arguments: argparse.Namespace) -> None:
    """Find out now, and not after minutes of work, that a result cannot be written."""
    from problems import UsageError

    for option, path in (("--json", arguments.json), ("--plot", arguments.plot)):
        if path is None:
            continue
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise UsageError(f"{option} {path}: not a file in an existing directory")
        if not os.access(path.absolute().parent, os.W_OK):
            raise UsageError(f"{option} {path}: the directory cannot be written")
    if arguments.plot is not None:
        if arguments.plot.suffix.lower() not in _PLOT_FORMATS:
            raise UsageError(f"--plot {arguments.plot}: write {', '.join(_PLOT_FORMATS)}")
        if importlib.util.find_spec("matplotlib") is None:
            raise UsageError('--plot needs matplotlib: pip install "nnkernels[bench]"')


def _peers(arguments: argparse.Namespace, threads: int) -> list[Library]:
    import peers
    from problems import UsageError

    on_gpu = arguments.backend == "cupy"
    names = arguments.peer
    if names is None:
        # The targets of most suites are against PyTorch, those of products against the best peer.
        only_torch = arguments.suite not in (None, "products")
        names = ["torch"] if only_torch else ["torch", "cupy"] if on_gpu else ["numpy", "torch"]
        if arguments.suite == "fusion" and not on_gpu:
            names = ["numpy", "torch", "torch_compile"]
    opened = []
    for name in dict.fromkeys(names):
        if name == "none":
            continue
        if name not in peers.PEERS:
            raise UsageError(
                f"no peer is called {name!r}; there are {', '.join(peers.PEERS)}, none"
            )
        try:
            opened.append(peers.open_peer(name, on_gpu, threads))
        except peers.Unavailable as reason:
            _say(f"peer left out: {reason}")
    return opened


if __name__ == "__main__":
    sys.exit(main())
