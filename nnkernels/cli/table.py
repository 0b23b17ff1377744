"""Tables of text on a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as their contents; numbers to the right, everything else to the left.

    >>> print(table(["op", "error"], [["relu", 0], ["softmax", 1.25]]))
    op       error
    relu         0
    softmax   1.25
    """
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    right = [
        all(isinstance(row[i], (int, float)) for row in rows) and bool(rows)
        for i in range(len(headings))
    ]
    lines = [headings, *cells]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def _text(cell: object) -> str:
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)
