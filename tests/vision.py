"""The modules of the vision example."""

from __future__ import annotations

import importlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def importer(monkeypatch):
    """A function that imports a module of the example, or of the bench."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "vision"))
    return importlib.import_module
