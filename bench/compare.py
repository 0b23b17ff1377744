#!/usr/bin/env python3
"""Compare two commits, timed in turn in one run, or two result files of the bench.

Examples:
    python bench/compare.py main HEAD
    python bench/compare.py HEAD~1 HEAD --op softmax,layer_norm --dtype float32,float16
    python bench/compare.py v0.1 HEAD --suite norm --threshold 1.05 --markdown table.md
    python bench/compare.py main . --config bench/example.toml
    python bench/compare.py old.json new.json

"." stands for the files of the checkout as they are, committed or not.

A ratio is the base's time over the head's: above 1, the head is faster. docs/benchmarking.md tells
how the noise band is estimated. exit status: 0, or 1 if the head is slower somewhere, by more than
the threshold and outside of the noise band, or fails there; 2 for a request that cannot be
carried out; 130 after Ctrl-C, which still reports the rows that were done.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

# From a checkout without installation.
if importlib.util.find_spec("nnkernels") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import selection

if TYPE_CHECKING:
    from comparison import Line
    from results_files import Result

DEFAULT_SUITE = "regression"
_BACKENDS = ("cpu", "cupy")
# Of what neither the command line nor the configuration file says.
_DEFAULTS = {"backend": "cpu", "threads": None, "min_time": 0.3, "repeat": None, "out": False}
REGRESSED, USAGE_ERROR, INTERRUPTED = 1, 2, 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", metavar="BASE", help="a commit, a dot, or a result file")
    parser.add_argument("head", metavar="HEAD", help="another one of the same kind")
    selection.add_arguments(parser)
    how = parser.add_argument_group("how commits are timed")
    how.add_argument("--backend", choices=_BACKENDS, help="(default: cpu)")
    how.add_argument("--threads", type=selection.positive, help="(default: all processors)")
    how.add_argument(
        "--out", action="store_true", default=None, help="write into arrays made beforehand"
    )
    how.add_argument(
        "--min-time",
        type=selection.seconds,
        metavar="SECONDS",
        help="time measured for each side of a row (default: 0.3)",
    )
    how.add_argument(
        "--repeat", type=selection.positive, metavar="N", help="so many turns each instead"
    )
    results = parser.add_argument_group("results")
    results.add_argument(
        "--threshold",
        type=_threshold,
        default=1.10,
        metavar="RATIO",
        help="slower by more than this is a regression (default: %(default)s)",
    )
    results.add_argument("--markdown", type=Path, metavar="FILE", help="for a comment")
    results.add_argument("--json", type=Path, metavar="FILE")
    return parser


def _threshold(text: str) -> float:
    number = selection.seconds(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is below 1: it is how many times as slow")
    return number


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    from compare_commits import SideError
    from configuration import UsageError

    try:
        selection.complete(arguments, _DEFAULTS)
        if arguments.backend not in _BACKENDS:
            raise UsageError(f"backend {arguments.backend}: compare on {' or '.join(_BACKENDS)}")
        return _compare(arguments)
    except (UsageError, SideError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return USAGE_ERROR


def _compare(arguments: argparse.Namespace) -> int:
    import comparison
    from configuration import UsageError

    for option, path in (("--markdown", arguments.markdown), ("--json", arguments.json)):
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise UsageError(f"{option} {path}: not a file in an existing directory")
    files = [_is_file(text) for text in (arguments.base, arguments.head)]
    if all(files):
        title, lines, notes = _of_files(arguments)
        complete = True
    elif any(files):
        raise UsageError("compare two commits or two result files, not one of each")
    else:
        title, lines, notes, complete = _of_commits(arguments)
    print(title)
    if lines:
        print(comparison.table(lines))
    print("\n".join([comparison.summary(lines), *notes]))
    for line in lines:
        if line.message:
            print(f"{line.label}: {line.message}")
    _write(arguments, title, lines, notes, complete)
    if not complete:
        print("interrupted: these are the rows that were done", file=sys.stderr)
        return INTERRUPTED
    return REGRESSED if comparison.regressed(lines) else 0


def _is_file(text: str) -> bool:
    return text.endswith(".json") or Path(text).is_file()


def _write(
    arguments: argparse.Namespace,
    title: str,
    lines: Sequence[Line],
    notes: Sequence[str],
    complete: bool,
) -> None:
    import comparison

    if arguments.markdown is not None:
        arguments.markdown.write_text(comparison.markdown(title, lines, notes))
    if arguments.json is not None:
        result = {
            "schema": comparison.SCHEMA,
            "kind": comparison.KIND,
            "complete": complete,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "title": title,
            "notes": list(notes),
            "threshold": arguments.threshold,
            "rows": [asdict(line) for line in lines],
        }
        arguments.json.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")


# ---- commits -------------------------------------------------------------------------------


def _of_commits(arguments: argparse.Namespace) -> tuple[str, list[Line], list[str], bool]:
    import compare_commits
    import comparison
    import machine
    from tqdm import tqdm

    base, head = (compare_commits.resolve(text) for text in (arguments.base, arguments.head))
    named = arguments.op is not None or arguments.family is not None or arguments.suite
    if not named and arguments.configuration is None:
        arguments.suite = [DEFAULT_SUITE]
    problems, skipped = selection.chosen(arguments)
    for reason in skipped:
        tqdm.write(f"left out: {reason}", file=sys.stderr)
    notes = [f"warning: {warning}" for warning in machine.warnings()]
    settings = compare_commits.Settings(
        arguments.backend, arguments.threads, arguments.out, arguments.min_time, arguments.repeat
    )
    found: list[Any] = []
    lines: list[Line] = []
    complete = False
    bar = tqdm(total=len(problems), unit="row", disable=None, file=sys.stderr)
    with (
        bar,
        contextlib.suppress(KeyboardInterrupt),
        compare_commits.checked_out(base) as base_tree,
        compare_commits.checked_out(head) as head_tree,
    ):

        def measure(some: Sequence[Any]) -> Iterator[Any]:
            """The turns of some problems, in processes of their own."""
            return compare_commits.measure(
                base_tree, head_tree, some, settings, bar.set_description
            )

        for turns in measure(problems):
            found.append(turns)
            bar.update()
        lines = comparison.of_turns(_labels(problems, found), found, arguments.threshold)
        # What is slower once may be where memory lay, or what else the machine did.
        doubtful = [i for i, line in enumerate(lines) if line.verdict == comparison.SLOWER]
        if doubtful:
            bar.reset(len(doubtful))
            for i, turns in zip(doubtful, measure([problems[i] for i in doubtful]), strict=True):
                lines[i] = comparison.repeated(lines[i], turns, found, arguments.threshold)
                bar.update()
        complete = True
    if not lines:  # it was interrupted
        lines = comparison.of_turns(_labels(problems, found), found, arguments.threshold)
    title = f"{compare_commits.describe(head)}, against {compare_commits.describe(base)}"
    return title, lines, notes, complete


def _labels(problems: Sequence[Any], found: Sequence[Any]) -> list[str]:
    """Of those problems that were measured."""
    return [problem.label for problem in problems[: len(found)]]


# ---- result files --------------------------------------------------------------------------


def _of_files(arguments: argparse.Namespace) -> tuple[str, list[Line], list[str]]:
    import comparison

    base, head = (_read(Path(text)) for text in (arguments.base, arguments.head))
    notes = []
    if base.device != head.device:
        notes.append(f"warning: measured on {base.device} and on {head.device}")
    if not {row.key for row in base.rows} & {row.key for row in head.rows}:
        notes.append("warning: the files have no row in common")
    title = f"{arguments.head}, against {arguments.base}"
    return title, comparison.of_results(base, head, arguments.threshold), notes


def _read(path: Path) -> Result:
    from configuration import UsageError
    from results_files import BadFile, read_result

    try:
        return read_result(path)
    except BadFile as reason:
        raise UsageError(f"{path} {reason}") from None


if __name__ == "__main__":
    sys.exit(main())
