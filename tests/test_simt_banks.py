"""Where threads of the ordinary-arithmetic product write and read shared memory: in no bank twice.

The index functions are those of the C++ headers, called for every thread; the banks are counted
from what they say.
"""

from __future__ import annotations

import ctypes
import subprocess
from dataclasses import dataclass
from itertools import product

import pytest
from sim_native import COMPILER, FLAGS, HEADERS

from nnkernels.config.matmul_simt import TILES, Tile, side
from nnkernels.inspection.bank_conflicts import extra_phases

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: set NNKERNELS_CXX")

TYPES = {4: "float", 8: "double", 16: "Complex<double>"}
WARPS = {32: "sm_80", 64: "gfx90a"}
# For one instance: the row of its tile, its elements, and for every piece of every thread the
# place in the tile; then along m and n where every thread multiplies.
SOURCE = """
#include "platform/sim.cuh"
#include "nnk/matmul_simt.cuh"
using namespace nnk;
template <class Layout> void tile(int* to) {
  *to++ = Layout::row;
  *to++ = Layout::elements;
  *to++ = Layout::pieces_of_thread;
  for (int p = 0; p < Layout::pieces_of_thread; ++p)
    for (int t = 0; t < Layout::threads; ++t) {
      const int piece = t + p * Layout::threads;
      const int place = Layout::term(piece) * Layout::row + Layout::outer(piece);
      *to++ = piece < Layout::pieces ? place : -1;
    }
}
template <class Grid> void grid(int threads, int* to) {
  for (int t = 0; t < threads; ++t) {
    *to++ = Grid::m(t);
    *to++ = Grid::n(t);
  }
}
"""


@dataclass(frozen=True)
class Copy:
    """A tile of one operand, as it is copied."""

    size: int
    terms: int
    outer: int
    vector: int
    along_terms: bool
    threads: int


def vectors(size, along_terms):
    """How many neighbours are loaded at once: one, or the most."""
    return 1, max(1, min(4, 32 // size) if along_terms else 16 // size)


def copies(size):
    """Every tile and way to load it."""
    return {
        Copy(size, t.k, outer, vector, along, t.threads // t.teams)
        for t in TILES[size]
        for outer, along in product((t.m, t.n), (True, False))
        for vector in vectors(size, along)
    }


@pytest.fixture(scope="module", params=WARPS, ids=WARPS.values())
def library(request, tmp_path_factory):
    """All index functions, compiled for a width of the warp."""
    lines = [SOURCE]
    for number, c in enumerate(ALL_COPIES):
        along = "true" if c.along_terms else "false"
        layout = (
            f"TileLayout<{TYPES[c.size]}, {c.terms}, {c.outer}, {c.vector}, {along}, {c.threads}>"
        )
        lines.append(f'extern "C" void tile_{number}(int* to) {{ tile<{layout}>(to); }}')
    for number, (m, n) in enumerate(ALL_GRIDS):
        lines.append(
            f'extern "C" void grid_{number}(int* to) {{ grid<ThreadGrid<{m}, {n}>>({m * n}, to); }}'
        )
    folder = tmp_path_factory.mktemp("banks")
    (folder / "places.cc").write_text("\n".join(lines))
    command = [COMPILER, *FLAGS, "-O0", f"-DNNK_SIM_WARP={request.param}"]
    command += [f"-I{directory}" for directory in HEADERS]
    command += [str(folder / "places.cc"), "-o", str(folder / "places.so")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return request.param, ctypes.CDLL(str(folder / "places.so"))


ALL_COPIES = sorted({c for size in TYPES for c in copies(size)}, key=repr)


def grid_of(tile: Tile):
    return tile.m // tile.micro_m, tile.n // tile.micro_n


ALL_GRIDS = sorted({grid_of(t) for tiles in TILES.values() for t in tiles})


def called(library, name, count):
    numbers = (ctypes.c_int * count)()
    getattr(library, name)(numbers)
    return list(numbers)


def test_writes_of_a_team_meet_in_no_bank(library):
    warp, functions = library
    for number, c in enumerate(ALL_COPIES):
        row, elements, pieces, *places = called(functions, f"tile_{number}", 3 + 8192)
        written = []
        for p in range(pieces):
            ranks = places[p * c.threads : (p + 1) * c.threads]
            written += [place for place in ranks if place >= 0]
            for first in range(0, c.threads, warp):
                lanes = [place if place >= 0 else None for place in ranks[first : first + warp]]
                extra = conflicts(c, lanes, row, WARPS[warp])
                assert extra == 0, (c, p, first, extra)
        # Every element is written once, in the tile.
        step = row if c.along_terms else 1
        every = sorted(place + i * step for place in written for i in range(c.vector))
        assert every == sorted(k * row + x for k in range(c.terms) for x in range(c.outer))
        assert every[-1] < elements


def conflicts(c, lanes, row, arch):
    if not c.along_terms:
        return extra_phases(lanes, c.size, c.vector * c.size, arch, write=True)
    return max(
        extra_phases(
            [None if place is None else place + i * row for place in lanes],
            c.size, c.size, arch, write=True,
        )
        for i in range(c.vector)
    )  # fmt: skip


def elements_of(library, copy):
    """Of a tile in shared memory."""
    return called(library, f"tile_{ALL_COPIES.index(copy)}", 3 + 8192)[1]


@pytest.mark.parametrize("size", TYPES)
def test_reads_of_a_warp_meet_in_no_bank(size, library):
    warp, functions = library
    for tile in TILES[size]:
        grid = grid_of(tile)
        threads = grid[0] * grid[1]
        places = called(functions, f"grid_{ALL_GRIDS.index(grid)}", 2 * threads)
        ms, ns = places[::2], places[1::2]
        assert sorted(zip(ms, ns, strict=True)) == sorted(product(*map(range, grid)))
        team = tile.threads // tile.teams
        layouts = [
            {elements_of(functions, Copy(size, tile.k, outer, v, along, team))
             for along in (True, False) for v in vectors(size, along)}
            for outer in (tile.m, tile.n)
        ]  # fmt: skip
        for elements_a, elements_b in product(*layouts):
            buffer = 2 * (elements_a + elements_b)
            if tile.teams > 1 and threads < 32:
                buffer += (threads - buffer * size // 4) % 32 * 4 // size
            for axis, (own, micro) in enumerate(((ms, tile.micro_m), (ns, tile.micro_n))):
                wide = side(micro, size)
                elements = [
                    team * buffer + own[rank] * wide for team in range(tile.teams)
                    for rank in range(threads)
                ]  # fmt: skip
                for first in range(0, len(elements), warp):
                    extra = extra_phases(
                        elements[first : first + warp], size, wide * size, WARPS[warp]
                    )
                    assert extra == 0, (tile, axis, elements_a, elements_b, first, extra)
