"""Two panels of bars: how many times as long a peer takes, and the share of copy bandwidth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter, NullFormatter
from problems import shape_text

# Colours that colour-blind readers tell apart (Okabe and Ito 2008).
_PEER_COLOURS = {"torch": "#D55E00", "numpy": "#0072B2", "cupy": "#009E73"}
_SHARE_COLOUR = "#56B4E9"
_ROW_INCHES = 0.3
# Behind a number, so that a target's mark does not strike it through.
_PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}


def draw(path: Path, rows: Sequence[dict[str, Any]], title: str) -> None:
    """Write the figure; its format follows the file's name."""
    peers = [name for name in _PEER_COLOURS if any(name in row["ratios"] for row in rows)]
    height = 1.6 + _ROW_INCHES * len(rows) * max(1, 0.6 * len(peers))
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(12, height), sharey=True, width_ratios=(3, 2), layout="constrained"
    )
    _ratios(left, rows, peers)
    _shares(right, rows)
    left.set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize=8)
    left.set_ylim(len(rows) - 0.4, -0.6)  # the first row on top
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _ratios(axes: Any, rows: Sequence[dict[str, Any]], peers: Sequence[str]) -> None:
    thickness = 0.8 / max(1, len(peers))
    for i, peer in enumerate(peers):
        measured = [(y, row["ratios"][peer]) for y, row in enumerate(rows) if peer in row["ratios"]]
        places = [y - 0.4 + (i + 0.5) * thickness for y, _ in measured]
        # From 1 on, so that a bar to the left says slower and one to the right faster.
        lengths = [ratio - 1 for _, ratio in measured]
        axes.barh(places, lengths, thickness, left=1, color=_PEER_COLOURS[peer], label=peer)
        for place, (_, ratio) in zip(places, measured, strict=True):
            side = "left" if ratio >= 1 else "right"
            text = f" {ratio:.2f} "
            axes.text(ratio, place, text, va="center", ha=side, fontsize=7, bbox=_PAPER, zorder=4)
        for y, row in enumerate(rows):
            status = row["timings"].get(peer, {}).get("status")
            if status in ("wrong", "failed"):
                place = y - 0.4 + (i + 0.5) * thickness
                axes.text(1, place, f" {peer} {status}", va="center", fontsize=7)
    targets = [
        (y, row["target"]["limit"])
        for y, row in enumerate(rows)
        if row["target"] is not None and row["target"]["kind"].startswith("times")
    ]
    if targets:
        heights, limits = zip(*targets, strict=True)
        axes.scatter(limits, heights, marker="|", s=120, color="black", label="target", zorder=3)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12)
    axes.set_xlabel("time of the peer / time of nnkernels (above 1: nnkernels is faster)")
    if peers or targets:
        figure = axes.get_figure()
        figure.legend(loc="outside upper right", ncols=len(peers) + 1, fontsize=8, frameon=False)


def _shares(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    shares = [(y, 100 * row["copy_share"]) for y, row in enumerate(rows) if row["copy_share"]]
    if shares:
        places, lengths = zip(*shares, strict=True)
        axes.barh(places, lengths, 0.7, color=_SHARE_COLOUR)
        for place, length in shares:
            axes.text(length, place, f" {length:.0f}", va="center", fontsize=7)
    else:
        axes.text(0.5, 0.5, "no row exceeds the caches", ha="center", transform=axes.transAxes)
    axes.axvline(100, color="black", linewidth=0.8)
    axes.margins(x=0.12)
    axes.set_xlabel("share of the copy bandwidth, %")


def _label(row: dict[str, Any]) -> str:
    axis = "" if row["axis"] in (None, -1) else f", axis {row['axis']}"
    layout = "" if row["layout"] == "contiguous" else f", {row['layout']}"
    return f"{row['op']} {shape_text(row['shape'])}{axis}, {row['dtype']}{layout}"
