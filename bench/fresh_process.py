"""Measurements that need a process of their own: of a first call, an import, peak memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def output_of(arguments: Sequence[str], what: str, environment: Mapping[str, str]) -> str:
    """What Python prints, which finds the same nnkernels, also where it is not installed.

    Parameters
    ----------
    arguments
        Of Python.
    what
        The process does, for the message.
    environment
        Variables beside those of this process.

    Raises
    ------
    RuntimeError
        With the message of a process that failed.
    """
    # Here: the process that measures its memory imports this file before NumPy may come in.
    import nnkernels

    root = str(Path(nnkernels.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the process that {what} failed:\n{done.stderr.strip()}")
    return done.stdout


def empty_caches(directory: Path | str) -> dict[str, str]:
    """Variables with which kernels are compiled into a directory."""
    return {
        "NNKERNELS_CACHE_DIR": str(directory),
        "CUPY_CACHE_DIR": str(Path(directory) / "cupy"),
    }


def description(problem: Any) -> dict[str, Any]:
    """A problem as plain data, for another process; ``Problem(**fields)`` is the way back."""
    names = ("op", "shape", "dtype", "axis", "layout", "case")
    return {name: getattr(problem, name) for name in names}
