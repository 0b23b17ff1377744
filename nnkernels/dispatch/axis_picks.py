"""Pieces of a row whose vectors are picked from a few registers of x.

Where a row is padded, or is many short ones, a vector of it has elements of two or three places.
To load a register at each and to pick lanes takes a few cycles, whatever lies where, while each
segment of equal steps begins with some fifty and a gather takes as many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nnkernels.config.gathers import MoveCycles
from nnkernels.dispatch.axis_tables import NOWHERE, Segment

# Pairs of registers of a vector: from more it is no cheaper than a gather.
MOST_PAIRS = 4
# Cycles to begin a segment, and for a vector of equal steps by the step in elements: Zen 4, 16
# floats.
_BEGIN = 50
_EQUAL_STEPS = {0: 2, 1: 3, 2: 6, 3: 10, 4: 13}


@dataclass(frozen=True, eq=False)
class Picks:
    """Where vectors of a piece come from.

    Attributes
    ----------
    registers : array of int64, (vectors, pairs, 2)
        Byte offsets of the registers to load.
    lanes : array of int8, (vectors, pairs, lanes)
        For each lane of the vector that of the pair laid end to end, or -1 for none of them.
    """

    registers: np.ndarray
    lanes: np.ndarray

    @property
    def pairs(self) -> int:
        """Pairs of registers for a vector."""
        return self.lanes.shape[1]


def picks(source: np.ndarray, vector: int, size: int, bounds: tuple[int, int]) -> Picks | None:
    """How vectors of adjacent elements of the result are picked, if few registers do.

    Parameters
    ----------
    source : array of int64
        Where the elements lie in x, in bytes. The last vector ends with the last of them.
    vector, size : int
        Elements of a register, and bytes of an element.
    bounds : (int, int)
        The least and the greatest offset of an element that is there: nothing beyond is read.
    """
    low, last = bounds[0], bounds[1] - (vector - 1) * size
    if last < low or ((source[source != NOWHERE] - low) % size).any():
        return None
    count = source.size
    heads = np.minimum(np.arange(0, count, vector), max(count - vector, 0))
    padded = np.concatenate([source, np.full(max(vector - count, 0), NOWHERE)])
    wanted = padded[heads[:, None] + np.arange(vector)]
    left = wanted != NOWHERE
    registers: list[np.ndarray] = []
    lanes = np.full((heads.size, MOST_PAIRS, vector), -1, np.int8)
    while left.any() or len(registers) % 2 or not registers:
        if len(registers) == 2 * MOST_PAIRS:
            return None
        pair, high = divmod(len(registers), 2)
        first = np.where(left, wanted, bounds[1]).min(1)
        register = np.minimum(first, last)
        lane = (wanted - register[:, None]) // size
        found = left & (lane < vector)
        lanes[:, pair][found] = lane[found] + high * vector
        left &= ~found
        registers.append(register)
    places = np.stack(registers, 1).reshape(heads.size, -1, 2)
    return Picks(places, np.ascontiguousarray(lanes[:, : places.shape[1]]))


def cheapest(
    segments: Sequence[Segment], source: np.ndarray, out_step: int, vector: int, size: int,
    cycles: MoveCycles, longest: int,
) -> tuple[list[Segment], list[Picks]]:  # fmt: skip
    """Segments of a row, with those that follow each other picked as one where this takes less.

    Parameters
    ----------
    segments : sequence of Segment
        All of a row, in order.
    source : array of int64
        Of all elements of the row.
    longest : int
        The most elements of a segment.
    """
    there = source[source != NOWHERE]
    found: list[Segment] = []
    picked: list[Picks] = []
    pairs = at = 0
    for piece in _adjacent(segments, out_step, longest):
        count = sum(s.count for s in piece)
        cost = sum(_cycles(s, vector, size, cycles) for s in piece)
        least = _BEGIN + -(-count // vector) * cycles.picked
        candidate = None
        if there.size and least < cost:
            bounds = int(there.min()), int(there.max())
            candidate = picks(source[at : at + count], vector, size, bounds)
        if candidate is not None:
            least += -(-count // vector) * cycles.picked * (candidate.pairs - 1)
        if candidate is None or least >= cost:
            found += piece
        else:
            found.append(Segment(piece[0].to, 0, count, 0, pairs=candidate.pairs, first_pair=pairs))
            picked.append(candidate)
            pairs += candidate.lanes.shape[0] * candidate.pairs
        at += count
    return found, picked


def _adjacent(segments: Sequence[Segment], out_step: int, longest: int) -> Iterator[list[Segment]]:
    """Runs of segments that follow each other in the result."""
    piece: list[Segment] = []
    end = count = 0
    for segment in segments:
        if piece and (segment.to != end or count + segment.count > longest):
            yield piece
            piece, count = [], 0
        piece.append(segment)
        count += segment.count
        end = segment.to + segment.count * out_step
    if piece:
        yield piece


def _cycles(segment: Segment, vector: int, size: int, cycles: MoveCycles) -> int:
    each = cycles.gathered
    if segment.gathered < 0 and segment.step % size == 0:
        each = _EQUAL_STEPS.get(segment.step // size, each)
    return _BEGIN + -(-segment.count // vector) * each
