"""The report of a check on a GPU: one JSON file and one Markdown page, failures first."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import machine
import report as tables
from gpu_steps import FAILED, Outcome

SCHEMA = 1
KIND = "nnkernels GPU check"
# Facts by which a report is of the same thing, and a part may take its place in it.
_SAME = ("schema", "kind", "backend", "device", "commit")
_SHOWN_FAILURES = 40


@dataclass
class Report:
    """``content`` is what the JSON file holds."""

    json_file: Path
    content: dict[str, Any]

    @property
    def markdown_file(self) -> Path:
        return self.json_file.with_suffix(".md")

    def put(self, part: str, outcomes: Sequence[Outcome]) -> None:
        """Add what became of a part, or replace it."""
        self.content["parts"][part] = [asdict(outcome) for outcome in outcomes]
        self.content["date"] = _now()

    @property
    def failures(self) -> list[dict[str, str]]:
        return [failure for step in self._steps for failure in step["failures"]]

    @property
    def _steps(self) -> list[dict[str, Any]]:
        return [step for steps in self.content["parts"].values() for step in steps]

    def write(self) -> None:
        tables.write_json(self.json_file, self.content)
        self.markdown_file.write_text(self.markdown())

    # ---- shown -------------------------------------------------------------------------------

    def text(self) -> str:
        """For a terminal: failures and the table of steps."""
        lines = [self._title, ""]
        lines += [f"FAILED {failure['name']}" for failure in self.failures]
        lines += ["", tables.aligned([_HEADINGS, *self._table])]
        return "\n".join(lines)

    def markdown(self) -> str:
        """For people: failures with their messages, then the steps, then the speed."""
        parts = [f"# GPU check: {self._title}", "", *self._facts, ""]
        failures = self.failures
        if failures:
            parts += [f"## {len(failures)} failures", ""]
            for failure in failures[:_SHOWN_FAILURES]:
                parts += [f"### `{failure['name']}`", "", *_fenced(failure["message"]), ""]
            if len(failures) > _SHOWN_FAILURES:
                rest = len(failures) - _SHOWN_FAILURES
                parts += [f"{rest} more are in {self.json_file.name}.", ""]
        else:
            parts += ["Nothing failed.", ""]
        parts += ["## Steps", "", *_markdown_table([_HEADINGS, *self._table]), ""]
        for step in self._steps:
            result = step["data"].get("result")
            if result is not None:
                parts += [f"## {step['name'].capitalize()}", "", *_fenced(tables.text(result)), ""]
        return "\n".join(parts)

    @property
    def _title(self) -> str:
        failed = len(self.failures)
        return f"{self.content['device']}, {failed} failures" if failed else (
            f"{self.content['device']}, nothing failed"
        )  # fmt: skip

    @property
    def _facts(self) -> list[str]:
        versions = ", ".join(f"{name} {text}" for name, text in self.content["versions"].items())
        commit = self.content["commit"]
        where = "outside a checkout" if commit is None else f"commit {commit['hash']}"
        if commit is not None and commit["changed_files"]:
            where += f" and {commit['changed_files']} changed files"
        return [f"{self.content['date']}, {where}", "", versions]

    @property
    def _table(self) -> list[list[str]]:
        # What did not work is on top.
        steps = sorted(self._steps, key=lambda step: step["status"] != FAILED)
        return [
            [step["name"], step["status"], f"{step['seconds']:.0f} s", step["summary"]]
            for step in steps
        ]


_HEADINGS = ["step", "status", "time", ""]


def _markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return [lines[0], "|---|---|--:|---|", *lines[1:]]


def _fenced(text: str) -> list[str]:
    """A block of code; the fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", text, fence]


# ---- files ---------------------------------------------------------------------------------


def begun(folder: Path, device: dict[str, Any] | None, backend: str) -> Report:
    """A new report, or that of the same device and commit, to which parts are added."""
    facts = machine.describe(device)
    name = facts["cpu"] if device is None else device["name"]
    content = {
        "schema": SCHEMA,
        "kind": KIND,
        "date": _now(),
        "backend": backend,
        "device": name,
        "machine": facts,
        "versions": machine.versions(),
        "commit": machine.commit(),
        "parts": {},
    }
    for path in sorted(folder.glob("*-check.json")):
        try:
            known = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(known, dict) and all(known.get(key) == content[key] for key in _SAME):
            return Report(path, {**content, "parts": known["parts"]})
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    revision = content["commit"]["hash"][:8] if content["commit"] else "release"
    return Report(folder / f"{_now()[:10]}-{slug}-{revision}-check.json", content)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
