"""What two measurements say about each other: ratios, a noise band, and a verdict for each row."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from compare_commits import BASE, CONTROL, HEAD, Turns
from problems import shape_text
from report import aligned, duration
from results_files import OURS, Result, Row, Timing

SCHEMA = 1
KIND = "nnkernels comparison"

FASTER, SLOWER, SAME = "faster", "SLOWER", ""
FAILED, NEW, GONE = "FAILED", "new", "gone"

# The median of n values of a normal distribution scatters by this, over sqrt(n), times the
# scatter of one; the median of their distances from it is 1 / 1.4826 of that.
_OF_MEDIAN = math.sqrt(math.pi / 2)
_OF_DISTANCE = 1.4826
_QUARTILES = 1.349  # their distance, in standard deviations
_CONFIDENCE = 2.0  # standard deviations


@dataclass(frozen=True)
class Line:
    """One row of a comparison.

    Attributes
    ----------
    label : str
        Op, shape, dtype and layout.
    base_s, head_s : float or None
        Median seconds of a call.
    ratio : float or None
        Base over head: above 1, the head is faster.
    noise : float or None
        Half the width of the noise band, as a share of the ratio.
    verdict : str
        ``"faster"``, ``"SLOWER"``, ``""``, ``"FAILED"``, ``"new"`` or ``"gone"``.
    message : str
        Why a side has no time.
    """

    label: str
    base_s: float | None = None
    head_s: float | None = None
    ratio: float | None = None
    noise: float | None = None
    verdict: str = SAME
    message: str = ""


# ---- from turns ----------------------------------------------------------------------------


def of_turns(labels: Sequence[str], found: Sequence[Turns], threshold: float) -> list[Line]:
    """Lines of commits that took turns.

    Parameters
    ----------
    threshold : float
        Slower than so many times the base is a regression, if it is outside the noise band.

    Notes
    -----
    A row's band has two estimates, and the larger holds. One is the scatter of the ratio from
    turn to turn. The other, of the whole run, is how far apart the two processes of the base were:
    where memory happens to lie makes a difference that lasts as long as a process.
    """
    floor = _floor(found)
    return [
        _line(label, turns, floor, threshold) for label, turns in zip(labels, found, strict=True)
    ]


def repeated(line: Line, turns: Turns, found: Sequence[Turns], threshold: float) -> Line:
    """What a row is that was slower, and was timed once more in other processes.

    Parameters
    ----------
    turns : Turns
        Of the second time, whose band is that of all rows of the first one.

    Returns
    -------
    Line
        A regression is there twice, by the lesser factor. Else the row is as it was the second
        time, and not called faster either.
    """
    again = _line(line.label, turns, _floor(found), threshold)
    if again.verdict == SLOWER:
        return max(line, again, key=lambda one: one.ratio or 0.0)
    return replace(again, verdict=SAME) if again.verdict == FASTER else again


def _floor(found: Sequence[Turns]) -> float:
    """What nine of ten ratios of the base to itself stay within, as a logarithm."""
    distances = sorted(
        abs(statistics.median(_logarithms(turns, BASE, CONTROL)))
        for turns in found
        if BASE in turns.medians and CONTROL in turns.medians
    )
    return distances[math.ceil(0.9 * len(distances)) - 1] if distances else 0.0


def _logarithms(turns: Turns, over: str, under: str) -> list[float]:
    pairs = zip(turns.medians[over], turns.medians[under], strict=True)
    return [math.log(a / b) for a, b in pairs]


def _line(label: str, turns: Turns, floor: float, threshold: float) -> Line:
    base, head = (
        statistics.median(turns.medians[side]) if side in turns.medians else None
        for side in (BASE, HEAD)
    )
    if base is None or head is None:
        message = "; ".join(f"{side}: {why}" for side, why in turns.failures.items())
        # An op that only one commit has is no failure; the other side tells it by name.
        lacks = [side for side, why in turns.failures.items() if why.startswith("KeyError")]
        verdict = FAILED
        if base is None and head is not None:
            verdict = NEW
        elif HEAD in lacks:
            verdict = GONE
        return Line(label, base, head, verdict=verdict, message=message)
    ratios = _logarithms(turns, BASE, HEAD)
    if CONTROL in turns.medians:
        # Both processes of the base, so that where one of them lies counts half.
        control = _logarithms(turns, CONTROL, HEAD)
        ratios = [(a + b) / 2 for a, b in zip(ratios, control, strict=True)]
    center = statistics.median(ratios)
    scatter = _OF_DISTANCE * statistics.median(abs(r - center) for r in ratios)
    band = max(_CONFIDENCE * _OF_MEDIAN * scatter / math.sqrt(len(ratios)), floor)
    return _judged(Line(label, base, head, math.exp(center), math.expm1(band)), threshold)


def _judged(line: Line, threshold: float) -> Line:
    assert line.ratio is not None
    assert line.noise is not None
    verdict = SAME
    if line.ratio * (1 + line.noise) < 1 and line.ratio < 1 / threshold:
        verdict = SLOWER
    elif line.ratio / (1 + line.noise) > 1 and line.ratio > threshold:
        verdict = FASTER
    return Line(**{**asdict(line), "verdict": verdict})


# ---- from result files ---------------------------------------------------------------------


def of_results(base: Result, head: Result, threshold: float) -> list[Line]:
    """Lines of two result files: rows by what they measure, with the timing of nnkernels.

    Notes
    -----
    The band is the scatter of single runs on both sides, not that of their median, which
    would be far smaller: between two runs of the bench the machine changes more than within one.
    """
    bases, heads = ({row.key: row for row in result.rows} for result in (base, head))
    return [_of_pair(bases.get(key), heads.get(key), threshold) for key in bases | heads]


def _of_pair(base: Row | None, head: Row | None, threshold: float) -> Line:
    label = _label(base or head)
    before, after = (None if row is None else row.timings[OURS] for row in (base, head))
    seconds = before.median_s if before else None, after.median_s if after else None
    if before and after and before.median_s and after.median_s:
        noise = math.expm1(_CONFIDENCE * math.hypot(_spread(before), _spread(after)))
        line = Line(label, *seconds, ratio=before.median_s / after.median_s, noise=noise)
        return _judged(line, threshold)
    message = "; ".join(
        f"{name}: {timing.message or timing.status}"
        for name, timing in ((BASE, before), (HEAD, after))
        if timing is not None and timing.median_s is None
    )
    verdict = NEW if base is None else GONE if head is None else FAILED
    return Line(label, *seconds, verdict=verdict, message=message)


def _label(row: Row | None) -> str:
    assert row is not None
    axis = "" if row.axis is None else f" axis {row.axis}"
    layout = "" if row.layout == "contiguous" else f" {row.layout}"
    out = " out=" if row.out else ""
    return f"{row.op} {shape_text(row.shape)}{axis} {row.dtype}{layout}{out}"


def _spread(timing: Timing) -> float:
    """The scatter of runs, in standard deviations relative to the median."""
    if timing.median_s is None or timing.p25_s is None or timing.p75_s is None:
        return 0.0
    return (timing.p75_s - timing.p25_s) / _QUARTILES / timing.median_s


# ---- shown ---------------------------------------------------------------------------------

_HEADINGS = ["what", "base", "head", "ratio", "noise", ""]


def cells(line: Line) -> list[str]:
    """A line as text."""
    return [
        line.label,
        "-" if line.base_s is None else duration(line.base_s),
        "-" if line.head_s is None else duration(line.head_s),
        "" if line.ratio is None else f"{line.ratio:.2f}x",
        "" if line.noise is None else f"±{100 * line.noise:.0f}%",
        line.verdict,
    ]


def table(lines: Sequence[Line]) -> str:
    """For a terminal."""
    return aligned([_HEADINGS, *map(cells, lines)])


def markdown(title: str, lines: Sequence[Line], notes: Sequence[str]) -> str:
    """For a comment: first what changed, and all rows folded away."""
    changed = [line for line in lines if line.verdict]
    parts = [f"### {title}", "", summary(lines), ""]
    if changed:
        parts += [_markdown_table(changed), ""]
    parts += ["<details><summary>All rows</summary>", "", _markdown_table(lines), "", "</details>"]
    parts += ["", *notes]
    parts += [f"* `{line.label}`: {line.message}" for line in lines if line.message]
    return "\n".join(parts).rstrip() + "\n"


def _markdown_table(lines: Sequence[Line]) -> str:
    rule = ["---", "--:", "--:", "--:", "--:", "---"]
    rows = [_HEADINGS, rule, *(_emphasized(cells(line)) for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _emphasized(row: list[str]) -> list[str]:
    return [row[0].replace("|", "\\|"), *row[1:-1], f"**{row[-1]}**" if row[-1] else ""]


def summary(lines: Sequence[Line]) -> str:
    """How many rows got faster and slower, and by how much all of them."""
    known = [line.ratio for line in lines if line.ratio is not None]
    counts = {
        word: sum(line.verdict == verdict for line in lines)
        for word, verdict in (
            ("slower", SLOWER), ("faster", FASTER), ("failed", FAILED), ("new", NEW), ("gone", GONE)
        )
    }  # fmt: skip
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    text = f"{len(lines)} rows: {told or 'none changed'}"
    if known:
        mean = math.exp(sum(map(math.log, known)) / len(known))
        text += f"; geometric mean of the ratios {mean:.3f}x"
    return text


def regressed(lines: Sequence[Line]) -> bool:
    """Whether the head is slower, or fails where the base did not."""
    return any(
        line.verdict == SLOWER or (line.verdict == FAILED and line.base_s is not None)
        for line in lines
    )
