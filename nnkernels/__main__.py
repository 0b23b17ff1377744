"""``python -m nnkernels``: information, tests and inspection from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from nnkernels import __version__
from nnkernels.cli import info, inspect, selftest


def parser() -> argparse.ArgumentParser:
    """The arguments of all commands."""
    whole = argparse.ArgumentParser(
        prog="python -m nnkernels", description="Neural-network kernels for CuPy and NumPy arrays."
    )
    whole.add_argument("--version", action="version", version=f"nnkernels {__version__}")
    commands = whole.add_subparsers(title="commands", metavar="COMMAND")
    for command in (info, selftest, inspect):
        command.add_parser(commands)
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    whole = parser()
    given = whole.parse_args(arguments)
    if not hasattr(given, "run"):
        whole.print_help()
        return 0
    return int(given.run(given))


if __name__ == "__main__":
    sys.exit(main())
