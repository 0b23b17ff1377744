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

# From a checkout without installation.
if importlib.util.find_spec("nnkernels") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if TYPE_CHECKING:
    from peers import Library
    from problems import Problem

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
    what = parser.add_argument_group("what is timed")
    what.add_argument(
        "--op", type=_list, metavar="NAMES", help="ops, such as softmax,relu_backward"
    )
    what.add_argument("--suite", metavar="NAME", help="a list with targets; --list names them")
    what.add_argument(
        "--family",
        metavar="NAME",
        help="the ops of a family, gradients included, or the suite of that name where no shape, "
        "dtype, layout, axis or case is given",
    )
    what.add_argument("--list", action="store_true", help="show ops, their peers, and suites")
    what.add_argument(
        "--shape",
        type=_list,
        default=[],
        metavar="SHAPES",
        help="such as 4096x1024,8x8; a matrix product is MxKxN (default: some for each op)",
    )
    what.add_argument("--dtype", type=_list, default=["float32"], metavar="NAMES")
    what.add_argument(
        "--layout",
        type=_list,
        default=[],
        metavar="NAMES",
        help="contiguous, transposed (last two axes), strided (every second column)",
    )
    what.add_argument(
        "--case",
        default="",
        metavar="WORDS",
        help="of a convolution, outputs, kernel, stride and groups: '64 3x3', '32 3x3/2 g32'",
    )
    what.add_argument("--axis", type=int, help="for ops that have one (default: the op's own)")
    what.add_argument("--backward", action="store_true", help="also the gradient of each --op")
    who = parser.add_argument_group("on what, and against whom")
    who.add_argument("--backend", choices=("cpu", "cupy", "reference"), default="cpu")
    who.add_argument(
        "--peer",
        type=_list,
        metavar="NAMES",
        help="numpy, torch, cupy or none (default: those that fit the backend; torch in a suite)",
    )
    who.add_argument("--threads", type=_positive, help="of everybody (default: all processors)")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--out",
        action="store_true",
        help="write into arrays made beforehand; otherwise a call allocates its result",
    )
    how.add_argument(
        "--min-time",
        type=_seconds,
        default=0.5,
        metavar="SECONDS",
        help="time measured for each provider of a row (default: 0.5)",
    )
    how.add_argument(
        "--repeat", type=_positive, metavar="N", help="so many turns each, whatever --min-time says"
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


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, above 0")
    return seconds


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

    problems = _problems(arguments)
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


def _problems(arguments: argparse.Namespace) -> list[Problem]:
    import problems

    if (arguments.op is None) == (arguments.suite is None and arguments.family is None):
        raise problems.UsageError(
            "give either --op or --suite or --family; --list shows what there is"
        )
    if arguments.family is not None and arguments.suite is None:
        _choose_family(arguments)
    if arguments.suite is not None:
        wanted, skipped = _of_suite(arguments)
        for reason in skipped:
            _say(f"left out: {reason}")
        return wanted
    ops = problems.find_ops(arguments.op, arguments.backward)
    if not ops:
        raise problems.UsageError("--op is empty; --list shows what there is")
    if arguments.axis is not None and all(problems.default_axis(op) is None for op in ops):
        raise problems.UsageError(f"{', '.join(op.name for op in ops)}: no op here has an axis")
    shapes = [problems.parse_shape(text) for text in arguments.shape]
    wanted, skipped = problems.build(
        ops, shapes, arguments.dtype, arguments.layout, arguments.axis, arguments.case
    )
    for reason in skipped:
        _say(f"left out: {reason}")
    return wanted


def _of_suite(arguments: argparse.Namespace) -> tuple[list[Problem], list[str]]:
    """The problems of ``--suite``, and why some of it cannot be."""
    import problems
    import suites

    name = arguments.suite
    if name not in suites.SUITES:
        known = ", ".join(suites.SUITES)
        raise problems.UsageError(f"no suite is called {name!r}; there are {known}")
    of_shapes = name in suites.OF_SHAPES
    given = arguments.shape or arguments.axis is not None or arguments.backward or arguments.case
    if given or (arguments.layout and not of_shapes):
        raise problems.UsageError("a suite has its own shapes, layouts, axes and gradients")
    found = suites.problems_of(name)
    if arguments.family is not None:
        problems.names_of_family(arguments.family)
        if any(problem.record.family != arguments.family for problem in found):
            raise problems.UsageError(f"not all of suite {name} is of family {arguments.family}")
    if of_shapes:
        return problems.spread(found, arguments.dtype, arguments.layout)
    return found, []


def _choose_family(arguments: argparse.Namespace) -> None:
    """Put the suite, or the ops, of ``--family`` in its place."""
    import problems
    import suites

    names = problems.names_of_family(arguments.family)
    own = arguments.shape or arguments.layout or arguments.axis is not None or arguments.case
    if arguments.family in suites.SUITES and not own and arguments.dtype == ["float32"]:
        arguments.suite = arguments.family
    else:
        arguments.op = names


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
