"""Which problems a command line and a configuration file ask for, and how they are timed."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import configuration
from configuration import SuiteTable, UsageError

if TYPE_CHECKING:
    from problems import Problem

Chosen = tuple[list["Problem"], list[str]]

DTYPES = ["float32"]
# What is timed, on the command line, and the keys of a suite whose place it takes.
_OF_SUITE = {
    "shape": "shapes",
    "dtype": "dtypes",
    "layout": "layouts",
    "axis": "axis",
    "direction": "direction",
}
# How, and the keys of [run].
_OF_RUN = {
    "backend": "backend",
    "peer": "peers",
    "threads": "threads",
    "min_time": "min_time",
    "repeat": "repeat",
    "out": "out",
    "memory": "memory",
    "compile_time": "compile_time",
}


# ---- the command line ----------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Describe the options that choose problems. What is not given is None."""
    what = parser.add_argument_group("what is timed")
    what.add_argument(
        "--op", type=listed, metavar="NAMES", help="ops, such as softmax,relu_backward"
    )
    what.add_argument(
        "--suite",
        type=listed,
        metavar="NAMES",
        help="lists with targets, of the configuration file or those that --list names",
    )
    what.add_argument(
        "--family",
        metavar="NAME",
        help="the ops of a family, gradients included, or the suite of that name where no shape, "
        "dtype, layout, axis, case or direction is given",
    )
    what.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="suites and settings in TOML, as bench/example.toml; options take the place of what "
        "it says",
    )
    what.add_argument(
        "--shape",
        type=listed,
        metavar="SHAPES",
        help="such as 4096x1024,8x8; a matrix product is MxKxN (default: some for each op)",
    )
    what.add_argument("--dtype", type=listed, metavar="NAMES", help="(default: float32)")
    what.add_argument(
        "--layout",
        type=listed,
        metavar="NAMES",
        help="contiguous, transposed (last two axes), strided (every second column), channels_last",
    )
    what.add_argument(
        "--case",
        metavar="WORDS",
        help="of a convolution, outputs, kernel, stride and groups: '64 3x3', '32 3x3/2 g32'",
    )
    what.add_argument("--axis", type=int, help="for ops that have one (default: the op's own)")
    what.add_argument(
        "--direction",
        choices=configuration.DIRECTIONS,
        help="the ops without gradients, their gradients instead, or both (default: as named)",
    )
    what.add_argument(
        "--backward",
        action="store_const",
        const="both",
        dest="direction",
        help="also the gradient of each --op: --direction both",
    )
    return what


def listed(text: str) -> list[str]:
    """The parts of a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def seconds(text: str) -> float:
    """A number of seconds above 0, of at most an hour."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, above 0")
    return number


def complete(arguments: argparse.Namespace, defaults: Mapping[str, Any]) -> None:
    """Read ``--config``; what is not given becomes what it says of the run, or else a default.

    ``arguments.configuration`` is the file's content or None, ``arguments.given`` the options of
    the command line.

    Raises
    ------
    UsageError
        If the file is wrong.
    """
    arguments.given = dict(vars(arguments))
    arguments.configuration = None
    run: Mapping[str, Any] = {}
    if arguments.config is not None:
        arguments.configuration = configuration.read(arguments.config)
        run = arguments.configuration.run
    for name, default in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, run.get(_OF_RUN[name], default))


# ---- problems ------------------------------------------------------------------------------


def chosen(arguments: argparse.Namespace) -> Chosen:
    """The problems that the options ask for, and why some of them cannot be timed.

    ``--family`` is replaced in ``arguments`` by the suite or the ops that it stands for.

    Raises
    ------
    UsageError
        If that is nothing, or more than one thing.
    """
    named = [arguments.op is not None, bool(arguments.suite) or arguments.family is not None]
    if all(named) or (not any(named) and arguments.configuration is None):
        raise UsageError(
            "give either --op or --suite or --family, or --config; --list shows what there is"
        )
    if arguments.op is not None and not arguments.op:
        raise UsageError("--op is empty; --list shows what there is")
    if arguments.family is not None and not arguments.suite:
        _choose_family(arguments)
    if arguments.op is not None:
        return _of_ops(arguments)
    return _of_suites(arguments)


def suite_names(arguments: argparse.Namespace) -> list[str]:
    """The suites that are asked for: those of the options, or else of the file."""
    if arguments.op is not None:
        return []
    if arguments.suite or arguments.configuration is None:
        return list(dict.fromkeys(arguments.suite or ()))
    run = arguments.configuration.run
    return list(run.get("suites", arguments.configuration.suites))


def _of_ops(arguments: argparse.Namespace) -> Chosen:
    """The problems of ``--op``."""
    keys = {key: getattr(arguments, name) for name, key in _OF_SUITE.items()}
    keys["cases"] = [arguments.case or ""]
    return _combinations(arguments.op, keys)


def _combinations(names: list[str], keys: Mapping[str, Any]) -> Chosen:
    """The problems of ops with the keys of a suite."""
    import problems

    ops, notes = problems.find_ops(names, keys.get("direction"))
    axis = keys.get("axis")
    if axis is not None and all(problems.default_axis(op) is None for op in ops):
        raise UsageError(f"{', '.join(op.name for op in ops)}: no op here has an axis")
    shapes = [problems.parse_shape(text) for text in keys.get("shapes") or ()]
    found: list[Problem] = []
    for case in keys.get("cases") or [""]:
        more, skipped = problems.build(
            ops, shapes, keys.get("dtypes") or DTYPES, keys.get("layouts") or [], axis, case
        )
        found += more
        notes += skipped
    return found, notes


def _of_suites(arguments: argparse.Namespace) -> Chosen:
    """The problems of the suites that are asked for."""
    import suites

    names = suite_names(arguments)
    own = {} if arguments.configuration is None else arguments.configuration.suites
    unknown = [name for name in names if name not in own and name not in suites.SUITES]
    if unknown and len(unknown) == len(names):
        raise UsageError(_no_suite(unknown[0], [*own, *suites.SUITES]))
    notes = [_no_suite(name, [*own, *suites.SUITES]) for name in unknown]
    found: list[Problem] = []
    for name in names:
        if name in own:
            more, skipped = _of_table(own[name], arguments)
        elif name in suites.SUITES:
            more, skipped = _of_built_in(name, _given(arguments), arguments.family)
        else:
            continue
        found += more
        notes += skipped
    if not found and names != ["startup"]:
        raise UsageError("; ".join(["nothing to time", *notes]))
    return list(dict.fromkeys(found)), list(dict.fromkeys(notes))


def _no_suite(name: str, known: list[str]) -> str:
    return f"no suite is called {name!r}; there are {', '.join(known)}"


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command line says in place of a suite's keys."""
    keys = {key: arguments.given[name] for name, key in _OF_SUITE.items()}
    keys["cases"] = [arguments.given["case"]] if arguments.given["case"] else None
    return {key: value for key, value in keys.items() if value not in (None, [])}


def _of_built_in(name: str, keys: Mapping[str, Any], family: str | None = None) -> Chosen:
    """The problems of a suite of the bench; ``keys`` may choose a direction, and a little more."""
    import problems
    import suites

    of_shapes = name in suites.OF_SHAPES
    if any(key in keys for key in ("shapes", "axis", "cases")) or (
        "layouts" in keys and not of_shapes
    ):
        raise UsageError(f"suite {name}: a suite has its own shapes, layouts, axes and cases")
    if "dtypes" in keys and not of_shapes:
        raise UsageError(f"suite {name}: a suite has its own dtypes, except {suites.OF_SHAPES[0]}")
    found = suites.problems_of(name)
    if family is not None:
        problems.names_of_family(family)
        # The suite of a family's own name may have others beside, to compare.
        if name != family and any(problem.record.family != family for problem in found):
            raise UsageError(f"not all of suite {name} is of family {family}")
    direction = keys.get("direction")
    if found and direction is not None:
        found = [problem for problem in found if problems.goes(problem.record, direction)]
        if not found:
            raise UsageError(f"suite {name} has nothing that is {direction}")
    if of_shapes:
        return problems.spread(found, keys.get("dtypes") or DTYPES, keys.get("layouts") or [])
    return found, []


def _choose_family(arguments: argparse.Namespace) -> None:
    """Put the suite, or the ops, of ``--family`` in its place."""
    import problems
    import suites

    names = problems.names_of_family(arguments.family)
    own = any(
        getattr(arguments, name) not in (None, "", [])
        for name in ("shape", "layout", "axis", "case", "direction")
    )
    if arguments.family in suites.SUITES and not own and (arguments.dtype or DTYPES) == DTYPES:
        arguments.suite = [arguments.family]
    else:
        arguments.op = names


# ---- a suite of the file -------------------------------------------------------------------


def _of_table(table: SuiteTable, arguments: argparse.Namespace) -> Chosen:
    """The problems of a suite in the file."""
    backends = table.keys.get("backends", configuration.BACKENDS)
    if arguments.backend not in backends:
        return [], [f"{table.place} is for {', '.join(backends)}, not for {arguments.backend}"]
    keys = {**table.keys, **_given(arguments)}
    try:
        found, notes = _of_keys(keys)
        if arguments.given.get("peer") is None and "peers" in keys:
            found = [replace(problem, peers=tuple(keys["peers"])) for problem in found]
        if arguments.given["min_time"] is None and "min_time" in keys:
            found = [replace(problem, min_time=keys["min_time"]) for problem in found]
        if "targets" in keys or "mean" in keys:
            _check_targets(keys.get("targets", ()))
            found = [_with_targets(problem, table, keys) for problem in found]
    except UsageError as error:
        raise UsageError(f"{table.place}: {error}") from None
    return found, [f"{table.place}: {note}" for note in notes]


def _of_keys(keys: Mapping[str, Any]) -> Chosen:
    import problems
    import suites

    if "suites" not in keys:
        names = keys["ops"] if "ops" in keys else problems.names_of_family(keys["family"])
        return _combinations(names, keys)
    found: list[Problem] = []
    notes: list[str] = []
    for name in keys["suites"]:
        if name not in suites.SUITES:
            notes.append(_no_suite(name, list(suites.SUITES)))
            continue
        more, skipped = _of_built_in(name, keys)
        found += more
        notes += skipped
    if not found:
        raise UsageError("; ".join(notes) or "nothing to time")
    return found, notes


def _check_targets(goals: Sequence[Mapping[str, Any]]) -> None:
    """Refuse names that would never be those of a row."""
    import problems

    from nnkernels.dispatch.dtypes import ELEMENTS

    known = {"ops": problems.known_ops(), "dtypes": ELEMENTS, "layouts": problems.LAYOUTS}
    for goal, (key, names) in itertools.product(goals, known.items()):
        for name in goal.get(key, ()):
            if name not in names:
                raise UsageError(f"targets {key}: {name!r} is none")


def _with_targets(problem: Problem, table: SuiteTable, keys: Mapping[str, Any]) -> Problem:
    """A problem with the first of the suite's targets that is for it, and its mean."""
    from problems import Mean, shape_text

    of_problem = {
        "ops": problem.op,
        "shapes": shape_text(problem.shape),
        "dtypes": problem.dtype,
        "layouts": problem.layout,
    }
    for goal in keys.get("targets", ()):
        if all(of_problem[key] in goal[key] for key in of_problem if key in goal):
            problem = replace(problem, target=_target(goal))
            break
    if "mean" in keys:
        name = f"{table.name}, {problem.op}"
        problem = replace(problem, mean=Mean(name, _target(keys["mean"])))
    return problem


def _target(goal: Mapping[str, Any]) -> Any:
    import peers
    from problems import Target

    if "seconds" in goal:
        return Target("seconds", goal["seconds"])
    peer = goal.get("peer", "best")
    known = (*peers.PEERS, "best", "contiguous")
    if peer not in known:
        raise UsageError(f"no peer is called {peer!r}; a target has one of {', '.join(known)}")
    return Target(f"times {peer}", goal["times"])
