"""The committed table of ``inspect``: compared with what is compiled today, and refreshed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnkernels.errors import BackendError
from nnkernels.inspection import comparing, static_table
from nnkernels.inspection.batches import Compilers


def archs() -> list[str]:
    """Those that have a table."""
    return list(static_table.FAMILIES)


class Progress:
    """A bar on the standard error stream, one for each architecture."""

    def __init__(self, hidden: bool) -> None:
        self._hidden = hidden
        self._bar: Any = None

    def begin(self, arch: str, total: int) -> None:
        """Begin the bar of an architecture."""
        from tqdm import tqdm

        self.end()
        self._bar = tqdm(
            total=total, desc=arch, unit="kernel", file=sys.stderr, disable=self._hidden
        )

    def step(self, count: int) -> None:
        """So many more are done."""
        if self._bar is not None:
            self._bar.update(count)

    def end(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


@contextmanager
def progress(hidden: bool = False) -> Iterator[Progress]:
    """A bar that is closed at the end."""
    bar = Progress(hidden)
    try:
        yield bar
    finally:
        bar.end()


def _say(text: str) -> None:
    print(f"nnkernels inspect: {text}", file=sys.stderr)


def update(directory: Path, archs: Sequence[str], compilers: Compilers) -> int:
    """Write tables; the exit status."""
    status = 0
    for arch in archs:
        try:
            with progress() as bar:
                bar.begin(arch, len(static_table.representative(arch)))
                done = comparing.refresh(directory, arch, compilers, bar.step)
        except BackendError as error:
            _say(f"{arch}: {error}; its table is left as it is")
            status = 2
            continue
        except OSError as error:
            _say(f"{arch}: the table cannot be written: {error}")
            status = 2
            continue
        print(f"{static_table.path_of(directory, arch)}: {done.rows} instances, {done.changed} new")
        for what in done.rejected:
            _say(what)
            status = status or 1
    return status


def compare_all(
    directory: Path,
    archs: Sequence[str],
    compilers: Compilers,
    *,
    wanted: comparing.Wanted,
    sample: int | None,
    as_json: bool,
) -> int:
    """Compare with tables, say what is worse; the exit status."""
    outcomes, unavailable = [], []
    for arch in archs:
        try:
            table = static_table.read(directory, arch)
            chosen = static_table.representative(arch)
            outcomes.append(
                comparing.compare(table, chosen, compilers, wanted=wanted, sample=sample)
            )
        except (BackendError, static_table.TableError) as error:
            unavailable.append({"arch": arch, "error": str(error)})
            _say(f"{arch}: {error}")
    if as_json:
        print(json.dumps([*(vars(outcome) for outcome in outcomes), *unavailable], indent=1))
    else:
        for outcome in outcomes:
            _print(outcome)
    faults = any(outcome.faults for outcome in outcomes)
    return 1 if faults else 2 if unavailable else 0


def _print(outcome: comparing.Outcome) -> None:
    print(
        f"{outcome.arch}: {outcome.rows} instances; {outcome.changed} of other sources, "
        f"{outcome.compared} of these compiled; {outcome.rechecked} of the others; "
        f"{len(outcome.faults)} worse or wrong"
    )
    for fault in outcome.faults:
        print(f"  {fault}")
    for note in outcome.notes:
        print(f"  note: {note}")
