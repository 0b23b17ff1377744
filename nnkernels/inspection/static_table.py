"""The committed table of what compilers made of a set of instances: one file an architecture.

A line of comment with the version of the format, the architecture and the compiler; then CSV,
sorted, one instance a line, which ends with a checksum of itself.
"""

from __future__ import annotations

import csv
import io
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nnkernels import registry
from nnkernels.config.device import PROFILES
from nnkernels.inspection.contents import content_hash
from nnkernels.inspection.inspect import Choice, add, choices
from nnkernels.inspection.kinds import kind_of, template_arguments
from nnkernels.inspection.loops import multiply_adds
from nnkernels.inspection.occupancy import blocks_per_processor
from nnkernels.inspection.result import WIDTHS, Resources, widths_text

VERSION = 1
_TITLE = "# nnkernels static report"

# Of every op the first that chooses an instance of a kind, in float32 and a type of 16 bits (or the
# first type of an op that has neither). Two NVIDIA architectures differ little but in products.
DTYPES = ("float32", "float16")
FAMILIES: dict[str, tuple[str, ...]] = {
    "sm_80": ("matmul", "conv"),
    "sm_90a": (),  # all
    "gfx90a": (),
}

Identity = tuple[str, str, str, str]


class TableError(ValueError):
    """A file that is no table, or one of another version."""


@dataclass(frozen=True)
class Row:
    """One instance.

    Attributes
    ----------
    op, dtype, kernel, kind : str
        Which: with the name of the template these four are there once. So an instance whose
        template gets another argument is compared with what it was before.
    problem : str
        The call that chose it, first of several.
    spill, local, static_shared, dynamic_shared : int
        Bytes.
    blocks : int
        That fit a multiprocessor at once.
    loads, stores : dict
        Instructions on global memory by bytes of a thread.
    loop, multiply_adds : int
        Instructions of the main loop, and those that multiply and add.
    content : str
        Hash of the sources: see contents.py.
    """

    op: str
    dtype: str
    kernel: str
    kind: str
    problem: str
    threads: int
    registers: int
    spill: int
    local: int
    static_shared: int
    dynamic_shared: int
    blocks: int
    loads: dict[int, int]
    stores: dict[int, int]
    loop: int
    multiply_adds: int
    content: str

    @property
    def identity(self) -> Identity:
        """What makes it this instance and no other."""
        return self.op, self.dtype, self.kernel, self.kind

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.op} {self.dtype}, {self.problem} ({self.kind})"


COLUMNS = tuple(field.name for field in fields(Row))
CHECKSUM = "check"
_WIDTHS_COLUMNS = ("loads", "stores")
_NUMBERS = tuple(
    field.name for field in fields(Row) if field.type == "int"
)  # the annotations are strings


@dataclass(frozen=True)
class Table:
    """What a file holds."""

    arch: str
    compiler: str
    rows: dict[Identity, Row]
    edited: frozenset[Identity] = frozenset()  # whose checksum is not that of the line


# ---- which instances ----------------------------------------------------------------------------


def representative(arch: str) -> dict[Identity, Choice]:
    """The instances that belong into the table of an architecture."""
    families = FAMILIES[arch]
    found: dict[str, Choice] = {}
    for op in registry.all_ops().values():
        if families and op.family not in families:
            continue
        dtypes = [name for name in DTYPES if name in op.dtypes] or op.dtypes[:1]
        for choice in choices(op, dtypes, arch):
            add(found, choice)
    firsts: dict[Identity, Choice] = {}
    for choice in found.values():
        firsts.setdefault(identity_of(choice, arch), choice)
    return firsts


def identity_of(choice: Choice, arch: str) -> Identity:
    """By what an instance is found in a table."""
    instance = choice.launch.instance
    kind = kind_of(instance, PROFILES[arch].warp)
    return choice.op.name, choice.dtype, template_arguments(instance.kernel)[0], kind


def row_of(choice: Choice, arch: str, resources: Resources) -> Row:
    """The line of an instance."""
    launch = choice.launch
    op, dtype, kernel, kind = identity_of(choice, arch)
    shared = resources.static_shared + launch.shared_bytes
    blocks = blocks_per_processor(arch, launch.instance.threads, resources.registers, shared)
    return Row(
        op, dtype, kernel, kind, choice.problem.label, launch.instance.threads,
        resources.registers, resources.spill_bytes, resources.local_bytes,
        resources.static_shared, launch.shared_bytes, blocks or 0, _known(resources.loads),
        _known(resources.stores), resources.loop.total(), multiply_adds(resources.loop),
        content_hash(launch.instance, arch),
    )  # fmt: skip


def relaunched(row: Row, choice: Choice, arch: str) -> Row:
    """A line whose code is what it was, as the call launches it now."""
    compiled = Resources(row.registers, row.spill, row.local, row.static_shared)
    now = row_of(choice, arch, compiled)
    code = ("loads", "stores", "loop", "multiply_adds")
    return Row(**{name: getattr(row if name in code else now, name) for name in COLUMNS})


def _known(counts: dict[int, int]) -> dict[int, int]:
    return {width: counts[width] for width in WIDTHS if counts.get(width)}


# ---- the file -----------------------------------------------------------------------------------


def path_of(directory: Path, arch: str) -> Path:
    """Where the table of an architecture is."""
    return directory / f"{arch}.csv"


def text_of(arch: str, compiler: str, rows: Iterable[Row]) -> str:
    """A table as the contents of a file.

    >>> read_text(text_of("sm_90", "NVRTC 13.0", [])).compiler
    'NVRTC 13.0'
    """
    lines = io.StringIO()
    lines.write(f"{_TITLE} {VERSION}; {arch}; {compiler}\n")
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow((*COLUMNS, CHECKSUM))
    for row in sorted(rows, key=lambda row: row.identity):
        cells = _cells(row)
        writer.writerow((*cells, _checksum(cells)))
    return lines.getvalue()


def _cells(row: Row) -> list[str]:
    values = {name: getattr(row, name) for name in COLUMNS}
    for name in _WIDTHS_COLUMNS:
        values[name] = widths_text(values[name])
    return [str(value) for value in values.values()]


def _checksum(cells: list[str]) -> str:
    return f"{zlib.crc32(chr(0).join(cells).encode()):08x}"


def write(directory: Path, arch: str, compiler: str, rows: Iterable[Row]) -> None:
    """Write the table of an architecture, in one step."""
    directory.mkdir(parents=True, exist_ok=True)
    path = path_of(directory, arch)
    new = path.with_suffix(".new")
    new.write_text(text_of(arch, compiler, rows))
    os.replace(new, path)


def read(directory: Path, arch: str) -> Table:
    """The table of an architecture.

    Raises
    ------
    TableError
        If there is none, or it cannot be read here.
    """
    path = path_of(directory, arch)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{path} cannot be read ({error}); make static writes it") from error
    try:
        table = read_text(text)
    except TableError as error:
        raise TableError(f"{path}: {error}") from error
    if table.arch != arch:
        raise TableError(f"{path} is of {table.arch}")
    return table


def read_text(text: str) -> Table:
    """A table from the contents of a file.

    Raises
    ------
    TableError
        If it is none.
    """
    title, _, rest = text.partition("\n")
    words = title.removeprefix(_TITLE).split("; ")
    if not title.startswith(_TITLE) or len(words) != 3:
        raise TableError(f"no static report: it begins with {title[:60]!r}; make static writes one")
    version, arch, compiler = (word.strip() for word in words)
    if version != str(VERSION):
        raise TableError(
            f"a static report of version {version}, and this nnkernels reads {VERSION}; "
            "make static writes one of its own"
        )
    lines = csv.reader(io.StringIO(rest))
    columns, expected = tuple(next(lines, ())), (*COLUMNS, CHECKSUM)
    if columns != expected:
        strange = [name for name in columns if name not in expected]
        absent = [name for name in expected if name not in columns]
        what = f"unknown {strange}, missing {absent}" if strange or absent else "in another order"
        raise TableError(f"columns {what}; make static writes the table anew")
    rows: dict[Identity, Row] = {}
    edited = set()
    for number, cells in enumerate(lines, start=3):
        try:
            row = _row(dict(zip(expected, cells, strict=True)))
        except ValueError as error:
            raise TableError(f"line {number}: {error}") from error
        if row.identity in rows:
            raise TableError(f"line {number}: {row.name} is there twice")
        rows[row.identity] = row
        if cells[-1] != _checksum(cells[:-1]):
            edited.add(row.identity)
    return Table(arch, compiler, rows, frozenset(edited))


def _row(cells: dict[str, str]) -> Row:
    values: dict[str, Any] = {name: cells[name] for name in COLUMNS}
    for name in _NUMBERS:
        values[name] = int(cells[name])
    for name in _WIDTHS_COLUMNS:
        values[name] = _widths(cells[name])
    return Row(**values)


def _widths(text: str) -> dict[int, int]:
    """The reverse of :func:`widths_text`.

    >>> _widths("8x16 32x4"), _widths("-")
    ({16: 8, 4: 32}, {})
    """
    pairs = (part.split("x") for part in text.split() if part != "-")
    return {int(width): int(count) for count, width in pairs}
