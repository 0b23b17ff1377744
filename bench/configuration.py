"""What a configuration file says: settings of the run, and named suites of problems.

It is TOML. `KEYS_OF_RUN` and `KEYS_OF_SUITE` are all the keys there are; docs/benchmarking.md tells
what they mean. Nothing here imports NumPy: threads are set before that.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DIRECTIONS = ("forward", "backward", "both")
BACKENDS = ("cpu", "cupy", "reference")
_LONGEST_SECONDS = 3600


class UsageError(Exception):
    """A request that cannot be measured; the message says what could."""


@dataclass(frozen=True)
class SuiteTable:
    """One suite: ``place`` names the file and the table, for messages."""

    name: str
    place: str
    keys: Mapping[str, Any]


@dataclass(frozen=True)
class Configuration:
    """A file: what ``[run]`` says, and the suites by name."""

    run: Mapping[str, Any]
    suites: Mapping[str, SuiteTable]


def read(path: Path) -> Configuration:
    """The configuration in a file.

    Raises
    ------
    UsageError
        Naming the file, the table and the key where something is wrong.
    """
    toml = _toml()
    try:
        content = toml.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not a text in UTF-8") from None
    except toml.TOMLDecodeError as error:
        raise UsageError(f"{path}: is not TOML: {error}") from None
    _known(content, ("run", "suites"), f"{path}:", "table")
    run = _table(content.get("run", {}), KEYS_OF_RUN, f"{path}: [run]")
    tables = _expect(dict, "a table of suites", content.get("suites", {}), f"{path}: suites")
    suites = {name: _suite(path, name, given) for name, given in tables.items()}
    if not suites:
        raise UsageError(f"{path}: has no suite: write a table such as [suites.activations]")
    for name in run.get("suites", ()):
        if name not in suites:
            raise UsageError(
                f"{path}: [run] suites: no suite is called {name!r}; there are {', '.join(suites)}"
            )
    return Configuration(run, suites)


def _toml() -> Any:
    try:
        return importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ImportError:
        raise UsageError(
            '--config needs tomli on Python 3.10: pip install "nnkernels[bench]"'
        ) from None


def _suite(path: Path, name: str, given: Any) -> SuiteTable:
    place = f"{path}: [suites.{name}]"
    keys = _table(given, KEYS_OF_SUITE, place)
    named = [key for key in ("ops", "family", "suites") if key in keys]
    if len(named) != 1:
        raise UsageError(f"{place} needs one of ops, family and suites, and has {len(named)}")
    return SuiteTable(name, place, keys)


# ---- tables --------------------------------------------------------------------------------

Reader = Callable[[Any, str], Any]


def _table(given: Any, readers: Mapping[str, Reader], place: str) -> dict[str, Any]:
    _expect(dict, "a table", given, place)
    _known(given, tuple(readers), place, "key")
    return {key: readers[key](value, f"{place} {key}") for key, value in given.items()}


def _known(given: Mapping[str, Any], names: tuple[str, ...], place: str, kind: str) -> None:
    for name in given:
        if name not in names:
            raise UsageError(f"{place} has no {kind} {name!r}; there are {', '.join(names)}")


def _expect(kind: type, wanted: str, value: Any, where: str) -> Any:
    # True is a whole number to Python.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _wrong(wanted, value, where)
    return value


def _wrong(wanted: str, value: Any, where: str) -> UsageError:
    shown = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else repr(value)
    return UsageError(f"{where} is {shown}, and not {wanted}")


# ---- values --------------------------------------------------------------------------------


def _text(value: Any, where: str) -> str:
    return _expect(str, "a text", value, where)


def _truth(value: Any, where: str) -> bool:
    return _expect(bool, "true or false", value, where)


def _whole(value: Any, where: str) -> int:
    return _expect(int, "a whole number", value, where)


def _positive(value: Any, where: str) -> int:
    wanted = "a whole number of at least 1"
    if _expect(int, wanted, value, where) < 1:
        raise _wrong(wanted, value, where)
    return value


def _above_0(value: Any, where: str) -> float:
    fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not fits or not 0 < value < float("inf"):
        raise _wrong("a number above 0", value, where)
    return float(value)


def _seconds(value: Any, where: str) -> float:
    number = _above_0(value, where)
    if number > _LONGEST_SECONDS:
        raise _wrong(f"a number of seconds of at most {_LONGEST_SECONDS}", value, where)
    return number


def _texts(value: Any, where: str) -> list[str]:
    """A list of texts; one text is a list of one."""
    given = [value] if isinstance(value, str) else value
    fits = isinstance(given, list) and all(isinstance(part, str) for part in given)
    if not fits:
        raise _wrong("a text or a list of texts", value, where)
    if not given:
        raise UsageError(f"{where} is empty")
    return list(given)


def _one_of(*names: str) -> Reader:
    def read_one(value: Any, where: str) -> str:
        if value not in names:
            raise _wrong(f"one of {', '.join(names)}", value, where)
        return value

    return read_one


def _some_of(*names: str) -> Reader:
    def read_some(value: Any, where: str) -> list[str]:
        return [_one_of(*names)(part, where) for part in _texts(value, where)]

    return read_some


def _shapes(value: Any, where: str) -> list[str]:
    """Texts such as "8x64"; a list of whole numbers is a shape too."""
    wanted = 'a list of shapes, such as ["4096x1024", [8, 8]]'
    given = [value] if isinstance(value, str) else _expect(list, wanted, value, where)
    if not given:
        raise UsageError(f"{where} is empty")
    found = []
    for part in given:
        sides = part if isinstance(part, list) else []
        if isinstance(part, str):
            found.append(part)
        elif sides and all(type(side) is int for side in sides):
            found.append("x".join(map(str, sides)))
        else:
            raise _wrong(wanted, value, where)
    return found


def _goal(value: Any, where: str) -> dict[str, Any]:
    """``{peer = "torch", times = 1.3}`` or ``{seconds = 6e-6}``, and which rows it is for."""
    found = _table(value, _KEYS_OF_TARGET, where)
    if ("seconds" in found) == ("times" in found):
        raise UsageError(f"{where} needs either seconds or times")
    if "seconds" in found and "peer" in found:
        raise UsageError(f"{where} has seconds, which no peer goes with")
    return found


def _goals(value: Any, where: str) -> list[dict[str, Any]]:
    given = [value] if isinstance(value, dict) else value
    return [_goal(part, where) for part in _expect(list, "a list of tables", given, where)]


def _mean(value: Any, where: str) -> dict[str, Any]:
    found = _table(value, {"peer": _text, "times": _above_0}, where)
    if "times" not in found:
        raise UsageError(f"{where} needs times")
    return found


_KEYS_OF_TARGET: dict[str, Reader] = {
    "peer": _text,
    "times": _above_0,
    "seconds": _seconds,
    "ops": _texts,
    "shapes": _shapes,
    "dtypes": _texts,
    "layouts": _texts,
}
KEYS_OF_RUN: dict[str, Reader] = {
    "backend": _one_of(*BACKENDS),
    "peers": _texts,
    "threads": _positive,
    "min_time": _seconds,
    "repeat": _positive,
    "out": _truth,
    "memory": _truth,
    "compile_time": _truth,
    "suites": _texts,
}
KEYS_OF_SUITE: dict[str, Reader] = {
    "ops": _texts,
    "family": _text,
    "suites": _texts,
    "shapes": _shapes,
    "dtypes": _texts,
    "layouts": _texts,
    "cases": _texts,
    "axis": _whole,
    "direction": _one_of(*DIRECTIONS),
    "backends": _some_of(*BACKENDS),
    "peers": _texts,
    "min_time": _seconds,
    "targets": _goals,
    "mean": _mean,
}
