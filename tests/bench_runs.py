"""Runs the bench within the process of the tests: its scripts as a user would, and single rows.

Fixtures: import `module`, and `bench`, where a test takes them.
"""

import importlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from nnkernels.registry import all_ops

BENCH = Path(__file__).resolve().parent.parent / "bench"


def importable(name):
    """Whether a package is installed."""
    return importlib.util.find_spec(name) is not None


def importer(monkeypatch):
    """What imports a module of the bench by name."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module


def runner(module, script, monkeypatch, capsys):
    """What runs a script with arguments, and gives its exit status, output and messages."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, arguments)])
        try:
            status = module(script).main()
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def module(monkeypatch):
    """A module of the bench by name."""
    return importer(monkeypatch)


@pytest.fixture
def bench(module, monkeypatch, capsys):
    """Run the bench in this process: its exit status, output and messages."""
    return runner(module, "bench", monkeypatch, capsys)


def small_problem(module, op, dtype="float32", **choices):
    """A problem of an op with few elements."""
    problems = module("problems")
    of_images = op.name.removesuffix("_backward") in problems.CHANNEL_NORMS
    shape = (4, 6, 5) if op.family == "matmul" or of_images else (5, 6)
    if op.family == "pool":
        shape = (2, 3, 8, 9)
    if op.family in problems.CASES:
        shape = (2, 4, 8, 10)
    return problems.Problem(op.name, shape, dtype, problems.default_axis(op), **choices)


def reference_result(name, x):
    """What problems take from the reference for operands of theirs."""
    return all_ops()[name].reference(x)


def small_bench(module, peers, **changes):
    """What rows are measured with: a few milliseconds each, and caches of 64 KiB."""
    measure, timing = module("measure"), module("timing")
    settings = {
        "xp": np,
        "backend": "cpu",
        "peers": peers,
        "clock": timing.HostClock(),
        "settings": timing.Settings(min_time=0.01, repeat=2, settle=0.0),
        "warm_bytes": 1 << 12,
        "cache_bytes": 1 << 16,
        "memory_bytes": lambda: 1 << 30,
        "copy": module("bandwidth").Bandwidth(1e9, "a test", {}, 0),
        "read": module("bandwidth").Bandwidth(2e9, "a test", {}, 0),
        "out": False,
    }
    return measure.Bench(**{**settings, **changes})
