"""Instances as they are compiled now against the committed table: what became worse."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnkernels.inspection import static_table
from nnkernels.inspection.batches import Compilers, compiler_for
from nnkernels.inspection.contents import content_hash
from nnkernels.inspection.inspect import Choice
from nnkernels.inspection.result import Resources, widths_text
from nnkernels.inspection.static_table import COLUMNS, Identity, Row, Table

# Of the threads that a multiprocessor holds, and of what multiplies in the main loop, so much may
# go.
OCCUPANCY_LOSS = 0.25
LOOP_LOSS = 0.1
# A loop of which less than this multiplies and adds has something else to do.
WORKING_LOOP = 0.2
WIDE = 16
# Instances whose sources are those of the table that are compiled all the same.
RECHECKED = 4
# So many that are missing in the table, or there in vain, are named.
_NAMED = 5
REFRESH = "make static"


@dataclass
class Outcome:
    """What came of comparing one architecture.

    Attributes
    ----------
    faults : list of str
        What is worse than the table, or wrong with it.
    notes : list of str
        What else there is to say.
    rows, changed, compared, rechecked : int
        Lines of the table, those of other sources than now, and how many of these and of the
        others were compiled.
    """

    arch: str
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rows: int = 0
    changed: int = 0
    compared: int = 0
    rechecked: int = 0


# ---- rules --------------------------------------------------------------------------------------


def worse(old: Row, new: Row) -> list[str]:
    """What is worse in a line than in an older one of the same instance."""
    return [what for rule in (_memory, _accesses, _occupancy, _loop) for what in rule(old, new)]


def _memory(old: Row, new: Row) -> Iterator[str]:
    if new.spill > old.spill:
        yield f"spills {new.spill} bytes, and {old.spill} before"
    if new.local > old.local:
        yield f"{new.local} bytes of local memory, and {old.local} before"


def _accesses(old: Row, new: Row) -> Iterator[str]:
    for what, before, now in (
        ("loads", old.loads, new.loads),
        ("stores", old.stores, new.stores),
    ):
        both = f"{widths_text(now)}, and {widths_text(before)} before"
        if max(now, default=0) < max(before, default=0):
            yield f"the widest of its {what} is narrower: {both}"
        elif now.get(WIDE, 0) < before.get(WIDE, 0):
            yield f"fewer {what} of {WIDE} bytes: {both}"


def _occupancy(old: Row, new: Row) -> Iterator[str]:
    before, now = old.blocks * old.threads, new.blocks * new.threads
    if now < (1 - OCCUPANCY_LOSS) * before:
        yield (
            f"{now} threads at once ({new.registers} registers, "
            f"{new.static_shared + new.dynamic_shared} bytes of shared memory), and {before} "
            f"({old.registers}, {old.static_shared + old.dynamic_shared}) before"
        )


def _loop(old: Row, new: Row) -> Iterator[str]:
    before, now = (row.multiply_adds / max(row.loop, 1) for row in (old, new))
    if before >= WORKING_LOOP and now < (1 - LOOP_LOSS) * before:
        yield (
            f"{100 * now:.0f} % of the {new.loop} instructions of the main loop multiply and add, "
            f"and {100 * before:.0f} % of {old.loop} before"
        )


def differences(old: Row, new: Row) -> list[str]:
    """In which columns two lines differ, and how."""
    return [
        f"{name} {getattr(new, name)!r}, and {getattr(old, name)!r} in the table"
        for name in COLUMNS
        if getattr(old, name) != getattr(new, name)
    ]


# ---- a table ------------------------------------------------------------------------------------

Wanted = Callable[[str, str], bool]


def everything(op: str, dtype: str) -> bool:
    """Leave out nothing."""
    return True


def compare(
    table: Table,
    chosen: Mapping[Identity, Choice],
    compilers: Compilers,
    *,
    wanted: Wanted = everything,
    sample: int | None = None,
    rechecked: int = RECHECKED,
) -> Outcome:
    """Compare the instances of today with a table.

    Parameters
    ----------
    chosen : mapping
        The instances that belong into it: :func:`static_table.representative`.
    wanted : callable
        Which ops and dtypes to look at.
    sample : int, optional
        How many of those of each op whose sources changed are compiled. Default: all.
    rechecked : int
        How many of the others are compiled, so that it is found out if their code depends on more
        than is hashed, or if something else is counted in it.

    Raises
    ------
    BackendError
        If there is no compiler for the architecture.
    """
    arch = table.arch
    compiler = compiler_for(arch)
    rows = {name: row for name, row in table.rows.items() if wanted(*name[:2])}
    choices = {name: choice for name, choice in chosen.items() if wanted(*name[:2])}
    outcome = Outcome(arch, rows=len(rows))
    _complain(outcome, "missing in the table", choices.keys() - rows.keys())
    _complain(outcome, "in the table and chosen by nothing any more", rows.keys() - choices.keys())
    outcome.faults += [
        f"{arch} {rows[name].name}: this line of the table was edited; {REFRESH}"
        for name in sorted(table.edited & rows.keys())
    ]
    known = [name for name in rows if name in choices]
    hashes = {name: content_hash(choices[name].launch.instance, arch) for name in known}
    changed = [name for name in known if hashes[name] != rows[name].content]
    same = [name for name in known if hashes[name] == rows[name].content]
    outcome.changed = len(changed)
    for name in same:  # the call may launch the same code in another way
        now = static_table.relaunched(rows[name], choices[name], arch)
        _judge(outcome, rows[name], now)
    other = compiler != table.compiler
    if other:
        outcome.notes.append(f"compiled by {compiler}; the table is by {table.compiler}")
    drawn = _drawn(changed, sample, table)
    again = sorted(same, key=lambda name: _lot(name, table))[:rechecked]
    outcome.compared, outcome.rechecked = len(drawn), len(again)
    for name, found in _compiled(drawn, choices, arch, compilers, fresh=False):
        _judge_compiled(outcome, rows[name], choices[name], found)
    for name, found in _compiled(again, choices, arch, compilers, fresh=True):
        if other or isinstance(found, str):
            _judge_compiled(outcome, rows[name], choices[name], found)
            continue
        now = static_table.row_of(choices[name], arch, found)
        # Of what a launch decides, and not the code, there is a judgement already.
        old = static_table.relaunched(rows[name], choices[name], arch)
        outcome.faults += [
            f"{arch} {old.name}: of the same sources, {what}: if what is counted changed, raise "
            f"METHOD in contents.py; {REFRESH}"
            for what in differences(old, now)
        ]
    if changed:
        outcome.notes.append(
            f"{len(changed)} of {len(rows)} instances have other sources than in the table; "
            f"{len(drawn)} of them were compiled and compared; {REFRESH} refreshes it"
        )
    return outcome


def _complain(outcome: Outcome, what: str, names: Iterable[Identity]) -> None:
    found = [f"{outcome.arch} {op} {dtype} ({kind})" for op, dtype, _, kind in sorted(names)]
    outcome.faults += [f"{name}: {what}; {REFRESH}" for name in found[:_NAMED]]
    if len(found) > _NAMED:
        outcome.faults.append(f"... and {len(found) - _NAMED} more {what}")


def _drawn(changed: list[Identity], sample: int | None, table: Table) -> list[Identity]:
    """At most so many of each op."""
    left: dict[str, int] = {}
    found = []
    for name in sorted(changed, key=lambda name: _lot(name, table)):
        left[name[0]] = left.get(name[0], sample if sample is not None else len(changed)) - 1
        if left[name[0]] >= 0:
            found.append(name)
    return found


def _lot(name: Identity, table: Table) -> int:
    """A number at random that is the same in every run, and another one in another table."""
    row = table.rows[name]
    return zlib.crc32(f"{sum(row.registers for row in table.rows.values())} {row}".encode())


def _compiled(
    names: list[Identity],
    choices: Mapping[Identity, Choice],
    arch: str,
    compilers: Compilers,
    *,
    fresh: bool,
) -> Iterator[tuple[Identity, Resources | str]]:
    instances = [choices[name].launch.instance for name in names]
    yield from zip(names, compilers.compile(instances, arch, fresh=fresh), strict=True)


def _judge_compiled(outcome: Outcome, old: Row, choice: Choice, found: Resources | str) -> None:
    if isinstance(found, str):
        outcome.faults.append(f"{outcome.arch} {old.name}: does not compile: {found}")
        return
    _judge(outcome, old, static_table.row_of(choice, outcome.arch, found))


def _judge(outcome: Outcome, old: Row, new: Row) -> None:
    outcome.faults += [f"{outcome.arch} {new.name}: {what}" for what in worse(old, new)]


# ---- making the table ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Refreshed:
    """How a table was brought up to date."""

    arch: str
    rows: int
    changed: int
    rejected: tuple[str, ...]


def refresh(
    directory: Path, arch: str, compilers: Compilers, bar: Callable[[int], object]
) -> Refreshed:
    """Write the table of an architecture; only what changed is compiled.

    Parameters
    ----------
    bar : callable
        Is told of every instance that is done.

    Raises
    ------
    BackendError
        If there is no compiler for the architecture.
    """
    compiler = compiler_for(arch)
    choices = static_table.representative(arch)
    old = _usable(directory, arch, compiler)
    rows, missing = {}, []
    for name, choice in choices.items():
        row = old.get(name)
        if row is not None and row.content == content_hash(choice.launch.instance, arch):
            rows[name] = static_table.relaunched(row, choice, arch)
            bar(1)
        else:
            missing.append(name)
    rejected = []
    for name, found in _compiled(missing, choices, arch, compilers, fresh=False):
        bar(1)
        if isinstance(found, str):
            op, dtype, _, kind = name
            rejected.append(f"{arch} {op} {dtype} ({kind}): {found}")
        else:
            rows[name] = static_table.row_of(choices[name], arch, found)
    static_table.write(directory, arch, compiler, rows.values())
    return Refreshed(arch, len(rows), len(missing), tuple(rejected))


def _usable(directory: Path, arch: str, compiler: str) -> Mapping[Identity, Row]:
    """The lines of the present table, if they are of the same compiler."""
    try:
        table = static_table.read(directory, arch)
    except static_table.TableError:
        return {}
    if table.compiler != compiler:
        return {}
    return {name: row for name, row in table.rows.items() if name not in table.edited}
