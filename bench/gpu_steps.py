"""What a check on a GPU does: the steps of each part, each a process that may fail on its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_calls import ANNOUNCEMENT
from tqdm import tqdm

BENCH = Path(__file__).resolve().parent
CHECKOUT = BENCH.parent

OK, FAILED, SKIPPED, CUT = "ok", "FAILED", "skipped", "out of time"
# Of the time in all. Most of the tests' is for compiling.
SHARES = {"tests": 0.5, "sanitizer": 0.25, "bench": 0.25}
# How long a process has to write what it knows, once it is told to stop.
_GRACE_SECONDS = 15.0
_SELFTEST = "selftest"
_TOOLS = ("memcheck", "racecheck", "synccheck")
_LONGEST_MESSAGE = 4000  # characters: the end of a traceback, where the error stands
_COMMON_PLACES = ("/usr/local/cuda/bin", "/opt/cuda/bin")


@dataclass(frozen=True)
class Settings:
    """``seconds`` is what a part may take; ``words`` choose test files."""

    backend: str
    seconds: float
    jobs: int
    words: Sequence[str] = ()


@dataclass
class Outcome:
    """What became of a step.

    Attributes
    ----------
    name, status, seconds, summary
        A line of the table.
    failures : list of dict
        ``name`` and ``message`` of each.
    data : dict
        What else is known, for the file.
    """

    name: str
    status: str
    seconds: float = 0.0
    summary: str = ""
    failures: list[dict[str, str]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)


def run(part: str, settings: Settings) -> list[Outcome]:
    """Carry out a part."""
    parts: dict[str, Callable[[Settings], list[Outcome]]] = {
        "tests": _tests,
        "sanitizer": _sanitizer,
        "bench": _bench,
    }
    return parts[part](settings)


# ---- processes -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Done:
    """A process that has ended; ``status`` is None if it had to be stopped."""

    status: int | None
    output: str
    seconds: float


class _Processes:
    """Those that run, so that Ctrl-C ends them all."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()

    def run(self, command: Sequence[Any], seconds: float) -> _Done:
        """A Python script, or another command, from the checkout; both its outputs as one."""
        # The output of pytest is read, and options of a user's own may change it. The usual cache
        # directory takes a package that nothing else here needs.
        cache = Path(tempfile.gettempdir()) / "nnkernels-gpu-check"
        environment = {"NNKERNELS_CACHE_DIR": str(cache), **os.environ}
        environment |= {"PYTHONUNBUFFERED": "1", "PYTEST_ADDOPTS": ""}
        paths = [str(CHECKOUT), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        start = time.monotonic()
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=CHECKOUT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        with self._lock:
            self._running.add(process)
        try:
            output, stopped = _communicated(process, seconds)
        finally:
            with self._lock:
                self._running.discard(process)
        status = None if stopped else process.returncode
        return _Done(status, output, time.monotonic() - start)

    def kill(self) -> None:
        with self._lock:
            for process in self._running:
                _signal(process, signal.SIGKILL)


def _communicated(process: subprocess.Popen[str], seconds: float) -> tuple[str, bool]:
    """The output, and whether the process had to be stopped."""
    for wait, then in ((seconds, signal.SIGINT), (_GRACE_SECONDS, signal.SIGKILL)):
        try:
            return process.communicate(timeout=max(wait, 0.1))[0], then is signal.SIGKILL
        except subprocess.TimeoutExpired:
            _signal(process, then)
    return process.communicate()[0], True


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)  # of its own session, with what it started


_PROCESSES = _Processes()


def _in_parallel(jobs: int, work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Results in the order of the items; Ctrl-C ends the processes and goes on its way."""
    with ThreadPoolExecutor(jobs) as pool:
        try:
            return list(pool.map(work, items))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            _PROCESSES.kill()
            raise


def _alone(command: Sequence[Any], seconds: float) -> _Done:
    done: _Done = _in_parallel(1, lambda one: _PROCESSES.run(one, seconds), [command])[0]
    return done


def _end(text: str) -> str:
    return text.strip()[-_LONGEST_MESSAGE:]


def _of_process(name: str, done: _Done, summary: str = "", **data: Any) -> Outcome:
    """The outcome of a process whose exit status says it all."""
    if done.status == 0:
        return Outcome(name, OK, done.seconds, summary, data=data)
    if done.status is None:
        return Outcome(name, CUT, done.seconds, summary, data=data)
    failure = {"name": name, "message": _end(done.output) or f"exit status {done.status}"}
    return Outcome(name, FAILED, done.seconds, summary, [failure], data)


# ---- tests ---------------------------------------------------------------------------------


def _tests(settings: Settings) -> list[Outcome]:
    end = time.monotonic() + settings.seconds
    counts, failure = _collected(settings)
    # The longest first, so that none is left alone at the end.
    names = [_SELFTEST, *sorted(counts, key=lambda name: -counts[name])]
    with tqdm(total=len(names), unit="file", desc="tests", disable=None, file=sys.stderr) as bar:

        def test(name: str) -> Outcome:
            seconds = end - time.monotonic()
            if name == _SELFTEST:
                outcome = _selftest(settings, seconds)
            else:
                outcome = _tested(name, counts[name], settings, seconds)
            bar.update()
            return outcome

        outcomes = _in_parallel(settings.jobs, test, names)
    return outcomes if failure is None else [*outcomes, failure]


def _selftest(settings: Settings, seconds: float) -> Outcome:
    command = [sys.executable, "-m", "nnkernels", "selftest", "--backend", settings.backend]
    if settings.words:  # of some tests, a glance at the rest
        command.append("--quick")
    done = _PROCESSES.run(command, seconds)
    lines = [line for line in done.output.strip().splitlines() if " ops are right" in line]
    return _of_process(_SELFTEST, done, lines[-1] if lines else "")


def _pytest(settings: Settings, *more: Any) -> list[Any]:
    options = ["--backend", settings.backend, "--only-backend", "-q", "-p", "no:cacheprovider"]
    return [sys.executable, "-m", "pytest", *options, *more]


def _collected(settings: Settings) -> tuple[Counter[str], Outcome | None]:
    """How many tests of the backend each file has, or why that could not be found out."""
    done = _alone(_pytest(settings, "--collect-only", "tests"), 120.0)
    found = Counter(
        line.partition("::")[0] for line in done.output.splitlines() if "::" in line[:200]
    )
    chosen = Counter(
        {
            name: count
            for name, count in found.items()
            if not settings.words or any(word in name for word in settings.words)
        }
    )
    if done.status or not chosen:
        message = _end(done.output) or "no test was found"
        failure = {"name": "collecting tests", "message": message}
        return Counter(), Outcome("collecting tests", FAILED, done.seconds, failures=[failure])
    return chosen, None


def _tested(name: str, count: int, settings: Settings, seconds: float) -> Outcome:
    """One file of tests."""
    if seconds < 1:
        return Outcome(name, CUT, summary=f"none of {count} tests run")
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        done = _PROCESSES.run(_pytest(settings, f"--junitxml={report}", name), seconds)
        cases = _cases(report)
    if cases is None:
        outcome = _of_process(name, done)
        outcome.summary = f"no report of {count} tests"
        return outcome
    failures = []
    skipped = 0
    for case in cases:
        skipped += case.find("skipped") is not None
        for kind in ("failure", "error"):
            for found in case.findall(kind):
                message = _end(found.text or found.get("message") or kind)
                failures.append({"name": f"{name}::{case.get('name')}", "message": message})
    passed = len(cases) - skipped - len(failures)
    words = [f"{passed} passed", f"{len(failures)} failed", f"{skipped} skipped"]
    summary = ", ".join(word for word in words if not word.startswith("0 ")) or "none"
    cut = len(cases) < count
    if cut:
        summary += f", {count - len(cases)} not run"
    status = FAILED if failures else CUT if cut else OK
    return Outcome(name, status, done.seconds, summary, failures)


def _cases(report: Path) -> list[ElementTree.Element] | None:
    """The tests that pytest reports; None without a report."""
    try:
        return list(ElementTree.parse(report).getroot().iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return None


# ---- the sanitizer -------------------------------------------------------------------------


def _sanitizer(settings: Settings) -> list[Outcome]:
    found = shutil.which("compute-sanitizer")
    for place in _COMMON_PLACES:
        found = found or shutil.which("compute-sanitizer", path=place)
    if found is None:
        return [Outcome("compute-sanitizer", SKIPPED, summary="it is not installed")]

    def watch(tool: str) -> Outcome:
        command = [found, "--tool", tool, sys.executable, BENCH / "gpu_calls.py", "calls"]
        return _watched(tool, _PROCESSES.run(command, settings.seconds))

    # Each is busy with one processor, and the GPU is hardly used.
    return _in_parallel(len(_TOOLS), watch, _TOOLS)


_SANITIZER_SUMMARY = re.compile(r"ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard")


def _watched(tool: str, done: _Done) -> Outcome:
    """Errors by the op that was announced before them."""
    op, calls = "before the first op", 0
    errors: dict[str, list[str]] = {}
    total = None
    for line in done.output.splitlines():
        if line.startswith(ANNOUNCEMENT):
            op = line.removeprefix(ANNOUNCEMENT)
            calls += 1
        elif summary := _SANITIZER_SUMMARY.search(line):
            total = int(summary[1] or summary[2])
        elif line.startswith("failed: ") or (
            line.startswith("=========") and line.strip("= ") and "COMPUTE-SANITIZER" not in line
        ):
            errors.setdefault(op, []).append(line)
    name = f"compute-sanitizer {tool}"
    failures = [
        {"name": f"{name}: {op}", "message": "\n".join(lines)[:_LONGEST_MESSAGE]}
        for op, lines in errors.items()
        if total or any(line.startswith("failed: ") for line in lines)
    ]
    summary_text = f"{calls} calls" + ("" if total is None else f", {total} errors")
    if done.status is None:
        return Outcome(name, FAILED if failures else CUT, done.seconds, summary_text, failures)
    if not failures and (done.status or total is None):
        return _of_process(name, _Done(done.status or 1, done.output, done.seconds), summary_text)
    return Outcome(name, FAILED if failures else OK, done.seconds, summary_text, failures)


# ---- the bench -----------------------------------------------------------------------------


def _bench(settings: Settings) -> list[Outcome]:
    end = time.monotonic() + settings.seconds
    outcomes = [
        _graphs(settings, end - time.monotonic()),
        _timed("dispatch", "calls", settings, 0.3 * (end - time.monotonic())),
    ]
    return [*outcomes, _timed("speed", "gpu", settings, end - time.monotonic())]


def _graphs(settings: Settings, seconds: float) -> Outcome:
    """Every op recorded in a CUDA graph and replayed."""
    name = "CUDA graphs"
    if settings.backend != "cupy":
        return Outcome(name, SKIPPED, summary=f"there are none on {settings.backend}")
    with tempfile.TemporaryDirectory() as scratch:
        saved = Path(scratch) / "graphs.json"
        command = [sys.executable, BENCH / "gpu_calls.py", "graphs", "--json", saved]
        done = _alone(command, 0.4 * seconds)
        found = _json(saved)
    if found is None:
        return _of_process(name, done)
    failures = [
        {"name": f"graph of {one['op']} {one['dtype']}", "message": one["message"]}
        for one in found
        if one["message"]
    ]
    summary = f"{len(found) - len(failures)} of {len(found)} calls can be recorded and replayed"
    return Outcome(name, FAILED if failures else OK, done.seconds, summary, failures)


def _timed(
    name: str,
    suite: str,
    settings: Settings,
    seconds: float,
) -> Outcome:
    """A suite of the bench."""
    with tempfile.TemporaryDirectory() as scratch:
        saved = Path(scratch) / "bench.json"
        options = ["--suite", suite, "--min-time", "0.05", "--json", saved]
        command = [sys.executable, BENCH / "bench.py", "--backend", settings.backend, *options]
        if settings.backend == "cupy" and suite != "calls":
            command += ["--peer", "torch,cupy"]
        done = _alone(command, seconds)
        result = _json(saved)
    if result is None:
        return _of_process(name, done)
    rows = result["rows"]
    failures = [
        {"name": f"{name}: {row['op']} {row['shape']} {row['dtype']}", "message": json.dumps(ours)}
        for row in rows
        if (ours := row["timings"]["nnkernels"])["status"] != "ok"
    ]
    missed = sum(row["target"] is not None and row["target"]["met"] is False for row in rows)
    summary = f"{len(rows)} rows, {missed} targets missed"
    status = FAILED if failures else OK if result["complete"] else CUT
    return Outcome(name, status, done.seconds, summary, failures, {"result": result})


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
