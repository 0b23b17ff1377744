"""Which problems a command line asks for: the options, and what they stand for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from problems import Problem


def add_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Describe the options that choose problems."""
    what = parser.add_argument_group("what is timed")
    what.add_argument(
        "--op", type=listed, metavar="NAMES", help="ops, such as softmax,relu_backward"
    )
    what.add_argument("--suite", metavar="NAME", help="a list with targets; --list names them")
    what.add_argument(
        "--family",
        metavar="NAME",
        help="the ops of a family, gradients included, or the suite of that name where no shape, "
        "dtype, layout, axis or case is given",
    )
    what.add_argument(
        "--shape",
        type=listed,
        default=[],
        metavar="SHAPES",
        help="such as 4096x1024,8x8; a matrix product is MxKxN (default: some for each op)",
    )
    what.add_argument("--dtype", type=listed, default=["float32"], metavar="NAMES")
    what.add_argument(
        "--layout",
        type=listed,
        default=[],
        metavar="NAMES",
        help="contiguous, transposed (last two axes), strided (every second column), channels_last",
    )
    what.add_argument(
        "--case",
        default="",
        metavar="WORDS",
        help="of a convolution, outputs, kernel, stride and groups: '64 3x3', '32 3x3/2 g32'",
    )
    what.add_argument("--axis", type=int, help="for ops that have one (default: the op's own)")
    what.add_argument("--backward", action="store_true", help="also the gradient of each --op")
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


def chosen(arguments: argparse.Namespace) -> tuple[list[Problem], list[str]]:
    """The problems that the options ask for, and why some of them cannot be timed.

    ``--family`` is replaced in ``arguments`` by the suite or the ops that it stands for.

    Raises
    ------
    UsageError
        If that is nothing, or more than one thing.
    """
    import problems

    if (arguments.op is None) == (arguments.suite is None and arguments.family is None):
        raise problems.UsageError(
            "give either --op or --suite or --family; --list shows what there is"
        )
    if arguments.family is not None and arguments.suite is None:
        _choose_family(arguments)
    if arguments.suite is not None:
        return _of_suite(arguments)
    ops = problems.find_ops(arguments.op, arguments.backward)
    if not ops:
        raise problems.UsageError("--op is empty; --list shows what there is")
    if arguments.axis is not None and all(problems.default_axis(op) is None for op in ops):
        raise problems.UsageError(f"{', '.join(op.name for op in ops)}: no op here has an axis")
    shapes = [problems.parse_shape(text) for text in arguments.shape]
    return problems.build(
        ops, shapes, arguments.dtype, arguments.layout, arguments.axis, arguments.case
    )


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
