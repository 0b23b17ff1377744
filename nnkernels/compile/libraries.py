"""Where the GPU compilers' shared libraries lie: Python wheels, toolkits, the system."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path


@cache
def nvidia_wheel_directories() -> tuple[Path, ...]:
    """Directories of the ``nvidia`` wheels: ``nvidia/cu13``, ``nvidia/cuda_nvrtc``, ..."""
    spec = importlib.util.find_spec("nvidia")
    if spec is None or spec.submodule_search_locations is None:
        return ()
    roots = [Path(place) for place in spec.submodule_search_locations]
    return tuple(sorted(child for root in roots for child in root.iterdir() if child.is_dir()))


def toolkit_directories(variables: Iterable[str], usual: str) -> list[Path]:
    """Directories named by environment variables, and the usual one."""
    named = [Path(os.environ[name]) for name in variables if os.environ.get(name)]
    return [*named, Path(usual)]


def newest(directories: Iterable[Path], pattern: str) -> Path | None:
    """The file of the highest version that matches a pattern in the first directory with one."""
    for directory in directories:
        found = [path for path in directory.glob(pattern) if path.is_file()]
        if found:
            return max(found, key=_version)
    return None


def _version(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.name.partition(".so")[2])]


def system_library(name: str) -> str | None:
    """What the dynamic loader finds under a name, such as ``libnvrtc.so.13``."""
    return ctypes.util.find_library(name)
