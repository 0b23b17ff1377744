"""Runs the bench's scripts within the process of the tests, as a user would start them."""

import importlib
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent / "bench"


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
