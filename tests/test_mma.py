"""Matrix instructions, the atoms on them, and what the simulator says of bugs around them.

Where an element lies is written here a second time, after the manuals and in their form, so that a
wrong table of a header cannot hide behind itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest
import sim_native
from sim_native import COMPILER, Builds, launch

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: set NNKERNELS_CXX")

SEEDS = range(5)
BFLOAT16 = ml_dtypes.bfloat16
# Rounds to 10 bits of the significand, as a matrix core reads a float.
TF32 = "tf32"

# ---- layouts, from the manuals ------------------------------------------------------------------
# Each is a function of the lane and gives (row, term), (term, column) or (row, column) of the
# elements that it holds.

Places = Callable[[int], list[tuple[int, int]]]


def ptx_a(size: int) -> Places:
    """PTX ISA, "Matrix Fragments for mma.m16n8k16", ".m16n8k32", ".m16n8k8" (.tf32), ".m16n8k4"."""

    def places(lane: int) -> list[tuple[int, int]]:
        group, member = lane >> 2, lane % 4
        if size == 2:
            return [
                (
                    group if i < 2 or 4 <= i < 6 else group + 8,
                    member * 2 + (i & 1) + (8 if i >= 4 else 0),
                )
                for i in range(8)
            ]
        if size == 1:
            return [
                (
                    group if i < 4 or 8 <= i < 12 else group + 8,
                    member * 4 + (i & 3) + (16 if i >= 8 else 0),
                )
                for i in range(16)
            ]
        if size == 8:
            return [(group, member), (group + 8, member)]
        return [(group, member), (group + 8, member), (group, member + 4), (group + 8, member + 4)]

    return places


def ptx_b(size: int) -> Places:
    def places(lane: int) -> list[tuple[int, int]]:
        group, member = lane >> 2, lane % 4
        if size == 2:
            return [(member * 2 + (i & 1) + (8 if i >= 2 else 0), group) for i in range(4)]
        if size == 1:
            return [(member * 4 + (i & 3) + (16 if i >= 4 else 0), group) for i in range(8)]
        return [(member, group), (member + 4, group)][: 8 // size]

    return places


def ptx_c(lane: int) -> list[tuple[int, int]]:
    return [(lane >> 2 if i < 2 else (lane >> 2) + 8, lane % 4 * 2 + (i & 1)) for i in range(4)]


def inverse(lanes: int, places: dict[tuple[int, int], list[tuple[int, int]]]) -> Places:
    """From (lanes and numbers that hold it) of each element."""
    held: list[dict[int, tuple[int, int]]] = [{} for _ in range(lanes)]
    for element, holders in places.items():
        for lane, number in holders:
            held[lane][number] = element
    return lambda lane: [held[lane][i] for i in range(len(held[lane]))]


def mfma(side: int, terms: int, per_lane: int) -> tuple[Places, Places, Places]:
    """CDNA: the formulas of AMD's matrix instruction calculator, from element to register."""
    every = [(i, k) for i in range(side) for k in range(terms)]
    a = {(i, k): [(side * (k // per_lane) + i, k % per_lane)] for i, k in every}
    b = {(k, j): [(side * (k // per_lane) + j, k % per_lane)] for j, k in every}
    if side == 32:
        c = {
            (i, j): [((32 * (i // 4)) % 64 + j, 4 * (i // 8) + i % 4)]
            for i in range(32)
            for j in range(32)
        }
    else:
        c = {(i, j): [(16 * (i % 4) + j, i // 4)] for i in range(16) for j in range(16)}
    return inverse(64, a), inverse(64, b), inverse(64, c)


def wmma() -> tuple[Places, Places, Places]:
    """RDNA3, waves of 32: the same source."""
    every = [(i, k) for i in range(16) for k in range(16)]
    a = {(i, k): [(i, k), (i + 16, k)] for i, k in every}
    b = {(k, j): [(j, k), (j + 16, k)] for j, k in every}
    c = {(i, j): [((16 * i) % 32 + j, i // 2)] for i, j in every}
    return inverse(32, a), inverse(32, b), inverse(32, c)


# ---- the atoms -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Atom:
    """One atom, its instruction, and what the header must say of both.

    Attributes
    ----------
    m, n, k, together, transposes
        Of the atom.
    size : tuple of int
        Rows, columns and terms of the instruction.
    layout : tuple of functions
        Of its A, B and C.
    """

    name: str
    lanes: int
    dtype: object
    m: int
    n: int
    k: int
    together: int
    transposes: bool
    size: tuple[int, int, int]
    layout: tuple[Places, Places, Places]

    @property
    def storage(self) -> np.dtype:
        return np.dtype(np.float32 if self.dtype is TF32 else self.dtype)

    @property
    def sum(self) -> np.dtype:
        if self.storage.kind in "iu":
            return np.dtype(np.int32)
        return np.dtype(np.float64 if self.storage == np.float64 else np.float32)


def sm80(name: str, dtype: object) -> Atom:
    size = 4 if dtype is TF32 else np.dtype(dtype).itemsize
    layout = ptx_a(size), ptx_b(size), ptx_c
    k = 32 // size
    return Atom(f"sm80_{name}", 32, dtype, 16, 16, k, 2, size >= 2, (16, 8, k), layout)


def cdna(name: str, dtype: object, side: int, terms: int, k: int) -> Atom:
    layout = mfma(side, terms, terms * side // 64)
    together, transposes = (4 if side == 32 else 1), np.dtype(dtype).itemsize > 1
    return Atom(name, 64, dtype, side, side, k, together, transposes, (side, side, terms), layout)


def rdna3(name: str, dtype: object) -> Atom:
    transposes = np.dtype(dtype).itemsize > 1
    return Atom(f"gfx1100_{name}", 32, dtype, 16, 16, 16, 1, transposes, (16, 16, 16), wmma())


ATOMS = {
    atom.name: atom
    for atom in (
        sm80("half", np.float16),
        sm80("bfloat16", BFLOAT16),
        sm80("tf32", TF32),
        sm80("int8", np.int8),
        sm80("uint8", np.uint8),
        sm80("double", np.float64),
        rdna3("half", np.float16),
        rdna3("bfloat16", BFLOAT16),
        rdna3("int8", np.int8),
        cdna("gfx90a_half", np.float16, 32, 8, 16),
        cdna("gfx90a_bfloat16", BFLOAT16, 32, 8, 16),
        cdna("gfx90a_float", np.float32, 32, 2, 8),
        cdna("gfx90a_double", np.float64, 16, 4, 8),
        cdna("gfx90a_int8", np.int8, 32, 8, 32),
        cdna("gfx942_half", np.float16, 32, 8, 16),
        cdna("gfx942_int8", np.int8, 32, 16, 32),
    )
}
atoms = pytest.mark.parametrize("atom", ATOMS.values(), ids=list(ATOMS))


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return Builds(tmp_path_factory.mktemp("mma"))


@pytest.fixture(scope="module")
def library(build):
    return lambda warp: build("sim_mma.cc", f"-DNNK_SIM_WARP={warp}")


def place(name):
    return sim_native.place("sim_mma.cc", name)


def numbers(generator, shape, dtype):
    """Of a type; of `tf32`, floats with all their bits."""
    if dtype is not TF32 and np.dtype(dtype).kind in "iu":
        info = np.iinfo(dtype)
        return generator.integers(info.min, info.max + 1, shape).astype(dtype)
    return generator.standard_normal(shape).astype(np.float32 if dtype is TF32 else dtype)


def cut_to_tf32(x):
    return (x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def rounded_to_tf32(x):
    """To the nearest, ties away from zero."""
    return ((x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def check(actual, a, b, c):
    """Actual against c + a b, where `a` and `b` are exact."""
    if actual.dtype.kind == "i":
        expected = c.astype(np.int64) + a.astype(np.int64) @ b.astype(np.int64)
        assert np.array_equal(actual, expected.astype(np.int32))
        return
    a, b, c = (x.astype(np.float64) for x in (a, b, c))
    allowed = 2 * a.shape[1] * np.finfo(actual.dtype).eps * (abs(c) + abs(a) @ abs(b))
    assert (abs(actual - (c + a @ b)) <= allowed).all()


# ---- one instruction -----------------------------------------------------------------------------


def run_raw(library, atom, a, b, c):
    """One instruction: operands to registers, and the sums back, by the layouts above."""
    m, n, _ = atom.size
    counts = [len(places(0)) for places in atom.layout]
    lane_type = np.dtype(
        [
            ("a", a.dtype, counts[0]),
            ("b", b.dtype, counts[1]),
            ("c", c.dtype, counts[2]),
        ]
    )
    lanes, out = np.zeros(atom.lanes, lane_type), np.zeros(atom.lanes, lane_type)
    for part, matrix, places in zip("abc", (a, b, c), atom.layout, strict=True):
        for lane in range(atom.lanes):
            lanes[part][lane] = [matrix[place] for place in places(lane)]
    assert launch(library(atom.lanes), f"raw_{atom.name}", out, lanes) == ""
    result, hits = np.zeros_like(c), np.zeros((m, n), int)
    for lane in range(atom.lanes):
        for i, where in enumerate(atom.layout[2](lane)):
            result[where] = out["c"][lane, i]
            hits[where] += 1
    assert (hits == 1).all()
    return result


@atoms
def test_instruction(library, atom):
    generator = np.random.default_rng(len(atom.name))
    m, n, k = atom.size
    for _ in range(3):
        a = numbers(generator, (m, k), atom.dtype)
        b = numbers(generator, (k, n), atom.dtype)
        if atom.sum.kind == "i":  # sums wrap
            c = generator.integers(-(2**31), 2**31, (m, n)).astype(np.int32)
        else:
            c = generator.standard_normal((m, n)).astype(atom.sum)
        result = run_raw(library, atom, a, b, c)
        if atom.dtype is TF32:  # the low bits are not seen
            a, b = cut_to_tf32(a), cut_to_tf32(b)
        check(result, a, b, c)


@pytest.mark.parametrize(
    ("atom", "part", "lane", "i", "expected"),
    [
        ("sm80_half", 2, 5, 1, (1, 3)),
        ("sm80_half", 2, 31, 2, (15, 6)),
        ("sm80_half", 0, 6, 7, (9, 13)),
        ("sm80_half", 1, 6, 2, (12, 1)),
        ("sm80_int8", 0, 1, 9, (0, 21)),
        ("sm80_tf32", 0, 7, 3, (9, 7)),
        ("gfx90a_half", 0, 33, 2, (1, 6)),
        ("gfx90a_half", 2, 40, 5, (13, 8)),
        ("gfx90a_float", 1, 40, 0, (1, 8)),
        ("gfx90a_double", 2, 20, 3, (13, 4)),
        ("gfx942_int8", 0, 34, 7, (2, 15)),
        ("gfx1100_half", 2, 17, 4, (9, 1)),
    ],
)
def test_positions_read_off_the_figures(atom, part, lane, i, expected):
    """The formulas of this file themselves, at single places in the manuals' figures."""
    assert ATOMS[atom].layout[part](lane)[i] == expected


@pytest.mark.parametrize("name", ["gfx90a_half", "gfx942_half", "gfx90a_bfloat16", "sm80_half"])
def test_subnormal_operands(library, name):
    """MI200 takes subnormal operands of 2-byte types for zeros, the others do not."""
    atom = ATOMS[name]
    m, n, k = atom.size
    smallest = np.float32(ml_dtypes.finfo(atom.storage).smallest_normal)
    a = np.full((m, k), smallest / 2).astype(atom.storage)
    b = np.full((k, n), 64).astype(atom.storage)
    a[1], a[2] = smallest, -smallest / 2
    result = run_raw(library, atom, a, b, np.zeros((m, n), np.float32))
    if name.startswith("gfx90a"):
        a[0], a[2:] = 0, 0
    check(result, a, b, np.zeros((m, n)))
    assert (result[1] != 0).all()


def test_rounding_to_tf32(library):
    generator = np.random.default_rng(0)
    # Every second one lies between two numbers of 11 bits, and goes to the larger.
    ties = (1 + np.arange(16) * 2.0**-11).astype(np.float32)
    x = np.concatenate([generator.standard_normal(96).astype(np.float32), ties, -ties])
    out = np.zeros_like(x)
    assert launch(library(32), "rounded_to_tf32", out, x, x.size) == ""
    assert np.array_equal(out, rounded_to_tf32(x))
    away = 1 + np.ceil(np.arange(16) / 2) * 2.0**-10
    assert np.array_equal(out[96:], np.concatenate([away, -away]))
    special = np.float32([np.inf, -np.inf, np.nan, 0, -0.0])
    out = np.zeros_like(special)
    assert launch(library(32), "rounded_to_tf32", out, special, special.size) == ""
    assert np.array_equal(out, special, equal_nan=True)


# ---- loads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix(library, count, transposed):
    """PTX ISA, "Warp-level matrix load instruction: ldmatrix"."""
    x = np.random.default_rng(count).integers(0, 2**16, (32, 8)).astype(np.uint16)
    out = np.zeros((32, count, 2), np.uint16)
    symbol = f"ldmatrix_x{count}" + ("_trans" if transposed else "")
    for seed in SEEDS:
        assert launch(library(32), symbol, out, x, seed=seed) == ""
        for number in range(count):
            matrix = x[[(8 * number + row) * 5 % 32 for row in range(8)]]
            if transposed:
                matrix = matrix.T
            assert np.array_equal(out[:, number], matrix.reshape(32, 2))


@pytest.mark.parametrize(("symbol", "dtype"), [("floats", np.uint32), ("bytes", np.uint8)])
def test_ldmatrix_of_other_elements(library, symbol, dtype):
    """Rows are 16 bytes of whatever."""
    x = np.random.default_rng(1).integers(0, 256, (32, 16)).astype(np.uint8)
    out = np.zeros((32, 4, 4), np.uint8)
    assert launch(library(32), f"ldmatrix_of_{symbol}", out, x.view(dtype)) == ""
    for number in range(4):
        matrix = x[[(8 * number + row) * 5 % 32 for row in range(8)]]
        assert np.array_equal(out[:, number], matrix.reshape(32, 4))


@pytest.mark.parametrize("count", [0, 4, 64, 128])
def test_copies_of_zeros(library, count):
    x = np.random.default_rng(2).standard_normal(128).astype(np.float32)
    out = np.full(128, np.nan, np.float32)
    assert launch(library(32), "zero_filled", out, x, count) == ""
    assert np.array_equal(out, np.where(np.arange(128) < count, x, 0))


# ---- atoms ---------------------------------------------------------------------------------------


@atoms
def test_facts_of_an_atom(library, atom):
    sums = atom.m * atom.n // atom.lanes
    out = np.full(2 * atom.lanes * sums + 8, -1, np.int32)
    assert launch(library(atom.lanes), f"facts_{atom.name}", out) == ""
    chunk = 16 // atom.storage.itemsize
    assert list(out[-8:]) == [
        *(atom.m, atom.n, atom.k),
        *(chunk, atom.k // chunk, sums, atom.together, atom.transposes),
    ]
    places = out[:-8].reshape(atom.lanes, sums, 2)
    hits = np.zeros((atom.m, atom.n), int)
    np.add.at(hits, (places[..., 0], places[..., 1]), 1)
    assert (hits == 1).all()
    runs = places.reshape(atom.lanes, -1, atom.together, 2)
    assert (runs[..., 0] == runs[..., :1, 0]).all()
    assert (runs[..., 1] == runs[..., :1, 1] + np.arange(atom.together)).all()
    assert (runs[..., 0, 1] % atom.together == 0).all()


@atoms
def test_product_on_an_atom(library, atom):
    """Of 2 m x 2 n sums of 2 k terms, from plain and swizzled tiles, as they are and transposed."""
    generator = np.random.default_rng(len(atom.name))
    m, n, k = 2 * atom.m, 2 * atom.n, 2 * atom.k
    a = numbers(generator, (m, k), atom.dtype)
    b = numbers(generator, (k, n), atom.dtype)
    exact = (rounded_to_tf32(a), rounded_to_tf32(b)) if atom.dtype is TF32 else (a, b)
    results = set()
    for form in range(8 if atom.transposes else 2):
        stored = (a.T if form & 2 else a, b if form & 4 else b.T)
        memory = np.concatenate([np.ascontiguousarray(x).ravel() for x in stored])
        for seed in SEEDS:
            out = np.full((m, n), 77, atom.sum)
            symbol = f"product_{atom.name}"
            assert launch(library(atom.lanes), symbol, out, memory, form, seed=seed) == ""
            check(out, *exact, np.zeros((m, n), atom.sum))
            results.add(out.tobytes())
    assert len(results) == 1, "the sums depend on how the operands lie"


# ---- planted bugs --------------------------------------------------------------------------------

# kernel, warp, place the message begins with, other places and words in it
REPORTS = [
    ("mma_by_half_a_warp", 32, "multiply", ["divergent warp operation", "has returned"]),
    (
        "mma_at_two_places",
        32,
        "even lanes multiply",
        ["divergent warp operation", "mma.sync", "at: odd lanes multiply"],
    ),
    ("mma_of_two_types", 32, "multiply", ["divergent warp operation", "thread 31 "]),
    ("mma_in_part_of_a_warp", 32, "multiply", ["mma.sync needs a warp of 32 lanes", "has 16"]),
    (
        "mma_against_barrier",
        32,
        "all but one multiply",
        ["divergent warp operation", "thread 0 is at the barrier", "at: one waits"],
    ),
    ("ldmatrix_by_half_a_warp", 32, "half load", ["divergent warp operation", "ldmatrix<32>"]),
    (
        "ldmatrix_out_of_bounds",
        32,
        "row out of bounds",
        ["shared memory access out of bounds: index 248, count 8, extent 248, by thread 31"],
    ),
    ("ldmatrix_misaligned", 32, "misaligned row", ["misaligned shared memory access: 16 bytes"]),
    ("ldmatrix_before_wait", 32, "load before wait", ["asynchronous copy by thread", "at: copy"]),
    (
        "ldmatrix_before_wait_for_zeros",
        32,
        "load before wait for zeros",
        ["asynchronous copy by thread", "at: copy of zeros"],
    ),
    ("wmma_of_two_copies", 32, "different copies", ["lanes 5 and 21 hold different copies"]),
    ("mfma_by_half_a_warp", 64, "multiply", ["divergent warp operation", "v_mfma<64>"]),
]


@pytest.mark.parametrize(
    ("symbol", "warp", "at", "words"), REPORTS, ids=[row[0] for row in REPORTS]
)
def test_planted_bug_is_reported_at_its_line(library, symbol, warp, at, words):
    x = np.zeros(1024, np.float32)
    for seed in SEEDS:
        message = launch(library(warp), symbol, np.zeros(64, np.float32), x, seed=seed)
        assert message.startswith(place(at) + ": "), message
        for word in words:
            assert (place(word[4:]) if word.startswith("at: ") else word) in message, message


def test_another_compiler(build):
    names = ("clang++", *(f"clang++-{version}" for version in range(25, 13, -1)))
    other = next(filter(None, map(shutil.which, names)), None)
    if other is None:
        pytest.skip("no clang++")

    def library(warp):
        return build("sim_mma.cc", f"-DNNK_SIM_WARP={warp}", compiler=other)

    for row in REPORTS:
        test_planted_bug_is_reported_at_its_line(library, *row)
    for atom in ATOMS.values():
        test_product_on_an_atom(library, atom)


@pytest.mark.parametrize(
    ("symbol", "first", "second"),
    [
        ("ldmatrix_before_barrier", "copy of a warp", "load by another warp"),
        ("store_before_barrier_after_ldmatrix", "load", "store into a row"),
    ],
)
def test_race_is_reported_with_every_seed(library, symbol, first, second):
    x = np.zeros(1024, np.float32)
    for seed in range(20):
        message = launch(library(32), symbol, np.zeros(64, np.float32), x, seed=seed)
        assert message.startswith((place(first) + ": ", place(second) + ": ")), message
        assert place(first) in message
        assert place(second) in message
