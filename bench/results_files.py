"""Result files of the bench: what is in one, reading a folder of them, and what is wrong with one.

The classes are the schema: a field without a default must be there, one with a default may be
missing (it came later), and what is not named here is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

# The newest that is written and read. Raise it when a field changes its meaning or goes.
SCHEMA = 1
KIND = "nnkernels bench"
# A report of `gpu_check.py`, which holds the results of its bench among other things.
CHECK_KIND = "nnkernels GPU check"
OURS = "nnkernels"

# Larger ones are no measurements, and sums of a few of them would be infinite.
LARGEST_NUMBER = 1e300


class BadFile(Exception):
    """A file that is no result; the message says why, without its name."""


# ---- what is in a file ---------------------------------------------------------------------


@dataclass(frozen=True)
class Timing:
    """One provider in one row: ``status`` is ok, wrong, failed or missing; times if it is ok."""

    status: str
    out: bool | None = None
    message: str | None = None
    error_of_tolerance: float | None = None
    median_s: float | None = None
    p25_s: float | None = None
    p75_s: float | None = None
    host_median_s: float | None = None
    runs: int | None = None
    calls_per_run: int | None = None
    turns: int | None = None
    extra_bytes: int | None = None
    cold_s: float | None = None


@dataclass(frozen=True)
class Target:
    """What was asked of a row; ``met`` is None where it could not be told."""

    kind: str
    limit: float
    measured: float | None
    met: bool | None


@dataclass(frozen=True)
class Row:
    """One problem, timed with all providers; `measure.py` says what the columns are."""

    op: str
    family: str
    shape: list[int]
    dtype: str
    axis: int | None
    layout: str
    backend: str
    out: bool
    bytes: int
    flops: float | None
    sets: int
    sets_bytes: int
    caches: str
    timings: dict[str, Timing]
    ratios: dict[str, float]
    best_peer: str | None
    ratio: float | None
    paired_ratio: float | None
    bytes_per_s: float | None
    copy_share: float | None
    flops_per_s: float | None
    target: Target | None
    read_share: float | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """The same for the same problem in another file of the same machine."""
        place = (self.op, tuple(self.shape), self.dtype, self.axis, self.layout)
        return (*place, self.backend, self.out)


@dataclass(frozen=True)
class Mean:
    """The geometric mean of the ratios of a group of rows, and what was asked of it."""

    name: str
    dtype: str
    layout: str
    kind: str
    limit: float
    rows: int
    measured_rows: int
    measured: float | None
    least: float | None
    met: bool | None


@dataclass(frozen=True)
class Check:
    """A time that a user waits at the start."""

    name: str
    median_s: float | None
    p25_s: float | None
    p75_s: float | None
    limit_s: float | None
    met: bool | None
    runs: int | None = None


@dataclass(frozen=True)
class Bandwidth:
    """The best of several ways to copy or to read."""

    bytes_per_s: float
    by: str
    tried: dict[str, float]
    buffer_bytes: int


@dataclass(frozen=True)
class Gpu:
    """The GPU of a run on one."""

    name: str
    level_2_bytes: int | None = None
    memory_bytes: int | None = None
    processors: int | None = None


@dataclass(frozen=True)
class Machine:
    """The part of the machine's description that readers need."""

    cpu: str
    gpu: Gpu | None = None
    processors: int | None = None
    level_2_bytes: int | None = None
    last_level_bytes: int | None = None
    system: str | None = None
    load_average: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Commit:
    """The commit of the checkout, and how many of its files were changed."""

    hash: str
    changed_files: int


@dataclass(frozen=True)
class Result:
    """One file. ``name`` is the file's, which is not in it."""

    schema: int
    kind: str
    complete: bool
    date: str
    machine: Machine
    versions: dict[str, str]
    backend: str
    threads: int
    out: bool
    peers: list[str]
    rows: list[Row]
    checks: list[Check]
    name: str = ""
    suites: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    compiler: str | None = None
    commit: Commit | None = None
    environment: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    min_time_s: float | None = None
    copy: Bandwidth | None = None
    read: Bandwidth | None = None
    means: list[Mean] = field(default_factory=list)

    @property
    def when(self) -> datetime:
        """The date, in UTC."""
        return _when(self.date)

    @property
    def device(self) -> str:
        """The machine in a few words, the same for all its results."""
        if self.machine.gpu is not None:
            return self.machine.gpu.name
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.machine.cpu}, {threads}"


@dataclass(frozen=True)
class Unreadable:
    """A file that was left out, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


# ---- reading -------------------------------------------------------------------------------


def read_results(folder: Path) -> tuple[list[Result], list[Unreadable]]:
    """All results in a folder, oldest first, and the files that are none.

    Parameters
    ----------
    folder
        Its files that end in ``.json`` are read; not those in folders inside it. Of a report of
        ``gpu_check.py``, the results of the bench are taken.

    Raises
    ------
    OSError
        If the folder cannot be read.
    """
    paths = [path for path in sorted(folder.iterdir()) if path.suffix == ".json"]
    results: list[Result] = []
    unreadable: list[Unreadable] = []
    for path in paths:
        try:
            results += _results(_content(path), path.name)
        except BadFile as reason:
            unreadable.append(Unreadable(path, str(reason)))
    return sorted(results, key=lambda result: (result.when, result.name)), unreadable


def read_result(path: Path) -> Result:
    """The result in a file.

    Raises
    ------
    BadFile
        If it cannot be read, or is not a result that this version knows.
    """
    return _result(_content(path), path.name)


def _content(path: Path) -> Any:
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise BadFile(f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise BadFile("is not a text in UTF-8") from None
    return _json(text)


def _results(content: Any, name: str) -> list[Result]:
    """The result that a file is, or those in a report; a report without a bench has none."""
    if not isinstance(content, dict) or content.get("kind") != CHECK_KIND:
        return [_result(content, name)]
    parts = _read(dict[str, list[Any]], content.get("parts"), "parts")
    steps = [step for part in parts.values() for step in part if isinstance(step, dict)]
    found = []
    for step in steps:
        data = step.get("data")
        if isinstance(data, dict) and "result" in data:
            try:
                found.append(_result(data["result"], f"{name}, {step.get('name')}"))
            except BadFile as reason:
                raise BadFile(f"has a result in {step.get('name')} that {reason}") from None
    return found


def _result(content: Any, name: str) -> Result:
    _check_schema(content)
    result: Result = _read(Result, {**content, "name": name}, "")
    _check_values(result)
    return result


def _json(text: str) -> Any:
    if not text.strip():
        raise BadFile("is empty")
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        end = text.rstrip()
        if end.startswith("{") and (error.pos >= len(end) or not end.endswith("}")):
            raise BadFile(f"is cut short: it ends in line {end.count(chr(10)) + 1}") from None
        raise BadFile(f"is not JSON: {error.msg} in line {error.lineno}") from None
    except RecursionError:
        raise BadFile("is nested too deeply") from None
    except ValueError as error:  # a whole number of thousands of digits
        raise BadFile(f"is not JSON: {error}") from None


def _no_constant(name: str) -> None:
    raise BadFile(f"is not JSON: it contains {name}")


def _check_schema(content: Any) -> None:
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise BadFile(f"is not a result of the bench: its kind is not {KIND!r}")
    schema = content.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise BadFile(f"has no version: its schema is {_shown(schema)}")
    if schema > SCHEMA:
        raise BadFile(
            f"is of schema {schema}, and this reads up to {SCHEMA}: it needs a newer nnkernels"
        )


def _check_values(result: Result) -> None:
    """What types alone do not say."""
    try:
        _when(result.date)
    except ValueError:
        raise BadFile(f"date is {_shown(result.date)}, and not a date") from None
    for number, row in enumerate(result.rows):
        where = f"rows[{number}]"
        if any(side < 0 for side in row.shape):
            raise BadFile(f"{where}.shape has a negative side")
        if OURS not in row.timings:
            raise BadFile(f"{where}.timings has nothing of {OURS}")
        for name, timing in row.timings.items():
            times = timing.median_s, timing.p25_s, timing.p75_s
            if timing.status == "ok" and not all(t is not None and t > 0 for t in times):
                raise BadFile(f"{where}.timings.{name} is ok, and lacks a time above 0")


def _when(date: str) -> datetime:
    # Python 3.10 does not know the Z.
    read = datetime.fromisoformat(date.replace("Z", "+00:00"))
    return read.replace(tzinfo=read.tzinfo or timezone.utc).astimezone(timezone.utc)


# ---- a value of a type ---------------------------------------------------------------------


def _read(kind: Any, value: Any, where: str) -> Any:
    """A value of JSON as the type that a field has; ``where`` is its place in the file."""
    if is_dataclass(kind):
        return _record(kind, value, where)
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        (wanted,) = (part for part in inside if part is not type(None))
        return None if value is None else _read(wanted, value, where)
    if origin is list:
        _expect(isinstance(value, list), "a list", value, where)
        return [_read(inside[0], part, f"{where}[{i}]") for i, part in enumerate(value)]
    if origin is dict:
        _expect(isinstance(value, Mapping), "an object", value, where)
        return {name: _read(inside[1], part, f"{where}.{name}") for name, part in value.items()}
    return value if kind is Any else _SIMPLE[kind](value, where)


def _record(kind: Any, value: Any, where: str) -> Any:
    _expect(isinstance(value, Mapping), "an object", value, where)
    found = {}
    for one in fields(kind):
        place = f"{where}.{one.name}".lstrip(".")
        if one.name in value:
            found[one.name] = _read(_types(kind)[one.name], value[one.name], place)
        elif one.default is MISSING and one.default_factory is MISSING:
            raise BadFile(f"{place} is missing")
    return kind(**found)


@cache
def _types(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _text(value: Any, where: str) -> str:
    _expect(isinstance(value, str), "a text", value, where)
    return value


def _truth(value: Any, where: str) -> bool:
    _expect(isinstance(value, bool), "true or false", value, where)
    return value


def _whole(value: Any, where: str) -> int:
    _expect(isinstance(value, int) and not isinstance(value, bool), "a whole number", value, where)
    return value


def _number(value: Any, where: str) -> float:
    """A finite one: 1e999 is JSON, and Python reads it as infinity."""
    fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = fits and abs(value) <= LARGEST_NUMBER  # which NaN is not either
    _expect(fits, "a number", value, where)
    return float(value)


_SIMPLE: dict[Any, Callable[[Any, str], Any]] = {
    str: _text,
    bool: _truth,
    int: _whole,
    float: _number,
}


def _expect(fits: bool, wanted: str, value: Any, where: str) -> None:
    if not fits:
        raise BadFile(f"{where} is {_shown(value)}, and not {wanted}")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
