"""Two commits timed in one run: a process for each, taking turns on the same problems."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fresh_process import description
from problems import Problem, UsageError
from timing import TURN_SECONDS

BENCH = Path(__file__).resolve().parent
# Threads of the process whose turn is over may still spin for some milliseconds.
SETTLE_SECONDS = 0.03
# The base runs twice: how much its two processes differ is how much chance does.
BASE, CONTROL, HEAD = "base", "control", "head"
SIDES = (BASE, CONTROL, HEAD)
LEAST_TURNS = 7
WORKING_TREE = "."


class SideError(Exception):
    """A process that cannot run a problem; the message says why."""


@dataclass
class Turns:
    """What the sides took for one problem.

    Attributes
    ----------
    medians : dict of str to list of float
        Seconds of a call, a number for each turn, by side.
    failures : dict of str to str
        Why a side has none.
    """

    medians: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


# ---- commits -------------------------------------------------------------------------------


def resolve(revision: str) -> str:
    """The hash of a commit of this checkout, or ``"."`` for its files as they are.

    Raises
    ------
    UsageError
        If there is no such commit.
    """
    if revision == WORKING_TREE:
        return revision
    try:
        return _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").strip()
    except subprocess.CalledProcessError:
        raise UsageError(
            f"{revision!r} is neither a result file nor a commit of this checkout"
        ) from None


def describe(commit: str) -> str:
    """Its short hash and its subject."""
    if commit == WORKING_TREE:
        return "the working tree"
    return _git("log", "-1", "--format=%h %s", commit).strip()


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """The files of a commit, in a directory that is removed afterwards."""
    if commit == WORKING_TREE:
        yield BENCH.parent
        return
    with tempfile.TemporaryDirectory(prefix="nnkernels-compare-") as scratch:
        tree = Path(scratch) / commit[:12]
        _git("worktree", "add", "--detach", "--force", str(tree), commit)
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(BENCH), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


# ---- processes -----------------------------------------------------------------------------


class Side:
    """A process that runs nnkernels from one tree."""

    def __init__(self, tree: Path, bench: Path, backend: str, threads: int | None) -> None:
        """Start it, with the bench of some commit.

        Raises
        ------
        SideError
            If this bench cannot run that nnkernels.
        """
        worker = bench / "compare_worker.py"
        settings = json.dumps({"backend": backend, "threads": threads})
        self._process = subprocess.Popen(
            [sys.executable, str(worker), settings],
            env={**os.environ, "PYTHONPATH": str(tree)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C ends the comparison, which then ends its processes.
            preexec_fn=_ignore_interrupts,
        )
        started = self._answer()
        if not Path(started["package"]).is_relative_to(tree.resolve()):
            self.close()
            raise SideError(f"nnkernels was imported from {started['package']}, not from {tree}")

    def ask(self, **request: Any) -> dict[str, Any]:
        """Have a request carried out."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise SideError("its process has ended") from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SideError(f"its process ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SideError(answer["error"])
        return answer

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


# ---- turns ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """How to measure: on what, with how many threads, for how long a side."""

    backend: str = "cpu"
    threads: int | None = None
    out: bool = False
    min_time: float = 0.3
    repeat: int | None = None


def measure(
    base: Path,
    head: Path,
    problems: Sequence[Problem],
    settings: Settings,
    progress: Callable[[str], None],
) -> Iterator[Turns]:
    """Time the trees on each problem.

    Raises
    ------
    SideError
        If one of them cannot be run at all.
    """
    trees = dict(zip(SIDES, (base, base, head), strict=True))
    with contextlib.ExitStack() as stack:
        sides = {}
        for name, tree in trees.items():
            progress(f"import of {name}")
            try:
                sides[name] = _started(tree, settings)
            except SideError as reason:
                raise SideError(f"{name}: {reason}") from None
            stack.callback(sides[name].close)
        for problem in problems:
            progress(problem.label)
            yield _interleaved(sides, problem, settings)


def _started(tree: Path, settings: Settings) -> Side:
    """With this bench, so that both sides are timed in the same way; else with the tree's own."""
    try:
        return Side(tree, BENCH, settings.backend, settings.threads)
    except SideError:
        own = tree / "bench"
        if not (own / "compare_worker.py").is_file():
            raise
        return Side(tree, own, settings.backend, settings.threads)


def _interleaved(sides: dict[str, Side], problem: Problem, settings: Settings) -> Turns:
    found = Turns()
    fields = description(problem)
    slowest = 0.0
    for name, side in sides.items():
        try:
            opened = side.ask(do="open", problem=fields, out=settings.out)
        except SideError as reason:
            found.failures[name] = str(reason)
            continue
        slowest = max(slowest, opened["seconds"])
        found.medians[name] = []
    min_time = problem.min_time or settings.min_time
    length = max(TURN_SECONDS, min(slowest, min_time / LEAST_TURNS))
    least = settings.repeat or max(LEAST_TURNS, round(min_time / length))
    order = list(found.medians)
    for _ in range(least):
        for name in order:
            time.sleep(SETTLE_SECONDS)
            try:
                runs = sides[name].ask(do="turn", seconds=length)["runs"]
            except SideError as reason:
                found.failures[name] = str(reason)
                continue
            found.medians[name].append(statistics.median(runs))
        # Nobody always comes after the same one.
        order.reverse()
    for name in found.failures:
        found.medians.pop(name, None)
    for side in sides.values():
        with contextlib.suppress(SideError):
            side.ask(do="close")
    return found
