"""Products by instructions that add several products at once: every way to multiply on a CPU."""

from __future__ import annotations

import platform
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from backends import Backend
from comparing import assert_close, assert_same_bits, wide
from processes import run_python
from strategies import make_numbers
from threads import same_on_any_threads

import nnkernels as nnk
from nnkernels.config import matmul as config
from nnkernels.config import matmul_tiles
from nnkernels.config.device import Device
from nnkernels.config.matmul_packed import MICRO_TERMS, PackedConfig
from nnkernels.config.matmul_problem import COLUMNS_FAST, ROWS_FAST, MatmulProblem
from nnkernels.config.matmul_tiles import TilesConfig
from nnkernels.dispatch.dtypes import numpy_dtype
from nnkernels.launch import cpu

BACKEND = Backend("cpu")


@pytest.fixture(autouse=True)
def any_size(request, monkeypatch):
    """Tiles for float16 of any size too, but in tests of the configuration."""
    if "few_products" not in request.node.name:
        monkeypatch.setattr(matmul_tiles, "_FEW_ROWS", 0)
        monkeypatch.setattr(matmul_tiles, "_FEW_PRODUCTS", 0)


TILES = "tiles"
SIGNS = [("int8", "int8"), ("uint8", "int8"), ("int8", "uint8"), ("uint8", "uint8")]
# Features of the processor, bytes of a SIMD register, element types, the way they are multiplied.
WAYS = [
    ({"amx_bf16"}, 64, [("bfloat16", "bfloat16")], TILES),
    ({"amx_bf16"}, 64, [("float16", "float16")], TILES),
    ({"amx_int8", "avx512_vnni", "sse2"}, 64, SIGNS, TILES),
    ({"avx512_bf16", "sse2"}, 64, [("bfloat16", "bfloat16")], "bfloat16_pairs"),
    ({"avx512_vnni", "sse2"}, 64, SIGNS, "int8_quads"),
    ({"avx_vnni", "sse2"}, 32, [("int8", "int8")], "int8_quads"),
    ({"avx512_vnni", "sse2"}, 64, [("int16", "uint8")], "int16_pairs_vnni"),
    ({"sse2"}, 64, [("int16", "int16")], "int16_pairs"),
    ({"sse2"}, 32, [("uint8", "uint8")], "int16_pairs"),
    ({"sse2"}, 16, [("int8", "int8")], "int16_pairs"),
    (set(), 64, [("int8", "int8")], "fused"),
]
IDS = [f"{way}-{size}-{'-'.join(pairs[0])}" for _, size, pairs, way in WAYS]
# Features, and elements that are multiplied as words of several numbers.
FLOATING = [({"amx_bf16"}, "bfloat16"), ({"avx512_bf16"}, "bfloat16"), ({"amx_bf16"}, "float16")]
FLOATING_IDS = [f"{'-'.join(features)}-{dtype}" for features, dtype in FLOATING]


@contextmanager
def processor(features, vector_bytes=64, refuses_tiles=False):
    """A CPU machine that has some features only, and the list of configs that it chooses."""
    machine, chosen, original = BACKEND.machine, [], config.configure
    if refuses_tiles:
        machine.allows_tiles = lambda: False
    elif features & set(matmul_tiles.FEATURES.values()) and not machine.allows_tiles():
        if "amx_tile" in cpu.cxx.cpu_model().split():
            pytest.skip("the operating system keeps tile registers from this process")
        # No such processor: the compiler has made loops of them.
        machine.allows_tiles = lambda: True

    def configure(problem, device):
        chosen.append(original(problem, device))
        return chosen[-1]

    device = machine.device
    machine.plans.clear()
    machine.device = replace(device, features=frozenset(features), vector_bytes=vector_bytes)
    config.configure = configure
    try:
        yield chosen
    finally:
        config.configure, machine.device = original, device
        machine.__dict__.pop("allows_tiles", None)
        machine.plans.clear()


def way_of(chosen):
    return TILES if isinstance(chosen, TilesConfig) else chosen.micro


def numbers(generator, shape, dtype):
    return make_numbers(generator, shape, dtype, "wide" if "int" in dtype else "ordinary")


def assert_right(y, a, b):
    """Exact for integers, whose sums wrap; else near."""
    if y.dtype.kind in "iu":
        with np.errstate(over="ignore"):
            assert np.array_equal(y, (a.astype(np.int64) @ b.astype(np.int64)).astype(y.dtype))
    else:
        scale = np.abs(wide(a)) @ np.abs(wide(b))
        assert_close(y, (wide(a) @ wide(b)).astype(y.dtype), a.shape[1], scale, "matmul")


def operands(generator, pair, m, k, n):
    """Both operands by rows, by columns, and with steps between their elements."""
    a, b = (numbers(generator, s, t) for s, t in zip(((m, k), (k, n)), pair, strict=True))
    yield a, b
    yield np.asfortranarray(a), np.asfortranarray(b)
    yield np.repeat(a, 2, 1)[:, ::2], np.repeat(b[::-1], 3, 0)[::-3]


# ---- every way -------------------------------------------------------------------------------


@pytest.mark.parametrize(("features", "vector_bytes", "pairs", "way"), WAYS, ids=IDS)
def test_every_way_gives_the_right_sums(features, vector_bytes, pairs, way):
    # Whole and cut micro-tiles and words, and several slices of words.
    shapes = [(33, 67, 70), (5, 8, 33), (290, 1, 65), (3, 4097, 64)]

    def body():
        generator = np.random.default_rng(60)
        with processor(features, vector_bytes) as chosen:
            for pair in pairs:
                for shape in shapes:
                    many = pair == pairs[0] and vector_bytes == 64 and way != "fused"
                    for a, b in list(operands(generator, pair, *shape))[: 3 if many else 1]:
                        out_dtype = "int32" if "int" in pair[0] else "float32"
                        y = nnk.matmul(a, b, out_dtype=out_dtype)
                        if not BACKEND.recording:
                            assert_right(y, a, b)
            assert {way_of(c) for c in chosen} == {way}

    BACKEND.precompiled(body)


def test_what_the_default_result_holds():
    # The sums themselves are of 32 bits; bits above those of the result are cut off.
    generator = np.random.default_rng(61)
    a, b = (numbers(generator, s, "int8") for s in ((9, 300), (300, 40)))
    y = nnk.matmul(a, b)
    assert y.dtype == np.int8
    assert_right(y, a, b)
    assert np.array_equal(nnk.matmul(a, b, out_dtype="uint8"), y.view(np.uint8))


def test_unsigned_pairs_only_where_their_highest_bits_do_not_count():
    generator = np.random.default_rng(62)
    a, b = (numbers(generator, s, "uint16") for s in ((9, 30), (30, 40)))
    for out_dtype, way in (("uint16", "int16_pairs"), ("uint32", "fused")):
        with processor({"sse2"}) as chosen:
            y = nnk.matmul(a, b, out_dtype=out_dtype)
        assert way_of(chosen[0]) == way
        assert_right(y, a, b)


# ---- properties --------------------------------------------------------------------------------


def aligned(x, offset):
    """A copy that begins `offset` bytes after a multiple of 64, as do its rows."""
    pitch = -(-x.nbytes // len(x) // 64) * 64
    memory = np.full(len(x) * pitch + 192, 0x7F, np.uint8)  # NaN, as bfloat16 and float16
    start = -memory.__array_interface__["data"][0] % 64 + offset
    strides = (pitch, x.itemsize)
    view = np.ndarray(x.shape, x.dtype, memory, start, strides)
    view[...] = x
    return view


@pytest.mark.parametrize(("features", "dtype"), FLOATING, ids=FLOATING_IDS)
def test_threads_and_layouts_do_not_change_a_bit(features, dtype):
    generator = np.random.default_rng(63)
    a, b = (numbers(generator, s, dtype) for s in ((150, 2077), (2077, 200)))
    found = []

    def product(a, b):
        return nnk.matmul(a, b, out_dtype="float32")

    with processor(features):
        found.append(same_on_any_threads(lambda: product(a, b)))
        # Rows that are read where they lie, and rows that are not.
        found += [product(aligned(a, offset), b) for offset in (0, 2, 34)]
        found.append(product(np.asfortranarray(a), b))
        found.append(product(a, np.asfortranarray(b)))
        found.append(product(b.T, a.T).T)
    assert_right(found[0], a, b)
    for number, y in enumerate(found[1:]):
        assert_same_bits(np.ascontiguousarray(y), found[0], f"call {number + 1}")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_part_of_a_product_has_the_same_bits(dtype):
    generator = np.random.default_rng(64)
    a, b = (numbers(generator, s, dtype) for s in ((150, 2077), (2077, 200)))
    with processor({"amx_bf16"}):
        whole, part = (
            nnk.matmul(x, y, out_dtype="float32") for x, y in ((a, b), (a[40:81], b[:, 30:111]))
        )
    assert_same_bits(np.ascontiguousarray(whole[40:81, 30:111]), part, "a part")


@pytest.mark.parametrize(("features", "dtype"), FLOATING, ids=FLOATING_IDS)
def test_infinities_and_nan_stay_in_their_rows_and_columns(features, dtype):
    generator = np.random.default_rng(65)
    a, b = (numbers(generator, s, dtype) for s in ((40, 37), (37, 50)))
    a[1, 36], a[3, 0], b[36, 4] = np.inf, np.nan, -np.inf
    # Times a power of two, whose smaller part is next to nothing, and times zero.
    b[36, 5], b[36, 6], a[5, 36], a[6, 36] = -2, 0, 0.25, -0.0
    with np.errstate(invalid="ignore"):
        wanted = wide(a) @ wide(b)
    with processor(features):
        for x in (a, aligned(a, 0), np.asfortranarray(a)):
            y = nnk.matmul(x, b, out_dtype="float32")
            assert np.array_equal(np.isnan(y), np.isnan(wanted))
            assert np.array_equal(y[np.isinf(y)], wanted[np.isinf(wanted)])
            assert_close(y, wanted.astype(np.float32), 37, scale=100.0)


def test_products_of_float16_are_exact():
    # The largest and smallest numbers, and all bits of them: a sum of one product is rounded once.
    a = np.array([65504, 1 + 2**-10, 2047, 1 - 2**-11, 2**-24, 2**-14 - 2**-24, -3, 0], np.float16)
    with processor({"amx_bf16"}):
        y = nnk.matmul(a[:, None], a[None], out_dtype="float32")
    wanted = np.outer(wide(a), wide(a))
    assert np.array_equal(y, wanted.astype(np.float32))


def test_epilogues_and_empty_sums():
    generator = np.random.default_rng(66)

    def body():
        with processor({"amx_bf16", "amx_int8"}) as chosen:
            cases = ("bfloat16", 2100), ("bfloat16", 0), ("float16", 1100), ("int8", 4100)
            for dtype, k in cases:
                a, b = (numbers(generator, s, dtype) for s in ((20, k), (k, 35)))
                result = "int32" if dtype == "int8" else dtype
                c = numbers(generator, (20, 35), "int8").astype(numpy_dtype(result))
                y = np.array(c)
                nnk.gemm(a, b, y, alpha=2, beta=3, out=y)  # sums must not wait where C still is
                positive = nnk.linear(a, b.T, c[0], activation="relu")
                if BACKEND.recording:
                    continue
                exact = wide(a) @ wide(b)
                scale = np.abs(wide(a)) @ np.abs(wide(b)) + 200
                wanted = 2 * exact + 3 * wide(c)
                assert_close(y, wanted.astype(y.dtype), max(k, 1), 2 * scale)
                wanted = np.maximum(exact + wide(c[0]), 0)
                assert_close(positive, wanted.astype(positive.dtype), max(k, 1), scale)
            assert {way_of(c) for c in chosen} == {TILES}

    BACKEND.precompiled(body)


# ---- where an instruction is missing -----------------------------------------------------------


def test_refused_tile_registers_are_not_used():
    generator = np.random.default_rng(67)
    a, b = (numbers(generator, s, "int8") for s in ((9, 30), (30, 40)))
    with processor({"amx_int8", "avx512_vnni"}, refuses_tiles=True) as chosen:
        y = nnk.matmul(a, b, out_dtype="int32")
    assert [way_of(c) for c in chosen] == [TILES, "int8_quads"]
    assert_right(y, a, b)


_OLD_COMPILER = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import test_matmul_dot as t
type(t.BACKEND.machine).allows_tiles = lambda self: True
t.matmul_tiles._FEW_ROWS = t.matmul_tiles._FEW_PRODUCTS = 0
found = set()
def body():
    generator = np.random.default_rng(68)
    for features, vector_bytes, pairs, way in t.WAYS[:-1]:
        if vector_bytes == 64:
            # Less to compile with small vectors.
            with t.processor(features, 64 if way == "bfloat16_pairs" else 16) as chosen:
                a, b = (t.numbers(generator, s, d) for s, d in zip(((9, 35), (35, 40)), pairs[0]))
                y = t.nnk.matmul(a, b, out_dtype="int32" if "int" in pairs[0][0] else "float32")
            if not t.BACKEND.recording:
                t.assert_right(y, a, b)
                found.add(t.way_of(chosen[0]))
t.BACKEND.precompiled(body)
print(*sorted(found))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="options of compilers for x86")
def test_a_compiler_without_the_instructions_makes_the_same_sums():
    # The processor has them, the compiler does not: loops of the same name take their place.
    tests = Path(__file__).resolve().parent
    # Vectors of 64 bytes take 20 seconds to compile where registers have 16.
    registers = ("avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl")
    known = [f"-m{name}" for name in registers if name in cpu.cxx.cpu_model().split()]
    flags = " ".join(["-march=x86-64", "-O1", *known])
    ways = run_python(_OLD_COMPILER, tests, NNKERNELS_CXXFLAGS=flags)
    assert set(ways.split()) == {TILES, *MICRO_TERMS} - {"fused"}


# In a process of its own, which a wrong access kills: operands up to the last byte before a page
# that may not be touched.
_AT_THE_END = """
import ctypes, mmap, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import test_matmul_dot as t
libc = ctypes.CDLL(None, use_errno=True)
areas = []

def at_the_end(x):
    size = -(-x.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    areas.append(mmap.mmap(-1, size + mmap.PAGESIZE))
    first = ctypes.addressof(ctypes.c_char.from_buffer(areas[-1]))
    page = ctypes.c_size_t(mmap.PAGESIZE)
    assert libc.mprotect(ctypes.c_void_p(first + size), page, 0) == 0
    bytes_ = np.frombuffer(areas[-1], np.uint8)[size - x.nbytes : size]
    y = bytes_.view(x.dtype).reshape(x.shape, order="F" if x.flags.f_contiguous else "C")
    y[...] = x
    return y

def body():
    generator = np.random.default_rng(65)
    for features, vector_bytes, pairs, way in t.WAYS:
        if vector_bytes != 64 or way == "fused":
            continue
        for shape in ((53, 30, 70), (102, 19, 41)):
            for a, b in list(t.operands(generator, pairs[0], *shape))[:2]:
                a, b = at_the_end(a), at_the_end(b)
                with t.processor(features, vector_bytes):
                    out_dtype = "int32" if "int" in pairs[0][0] else "float32"
                    y = t.nnk.matmul(a, b, out_dtype=out_dtype)
                if not t.BACKEND.recording:
                    t.assert_right(y, a, b)
t.BACKEND.precompiled(body)
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")
def test_nothing_is_read_past_operands():
    assert run_python(_AT_THE_END, Path(__file__).resolve().parent).strip() == "done"


# ---- configurations ----------------------------------------------------------------------------

CPU = Device("cpu", "host", 1, 2, 512 * 1024, 64, 32 << 20)
AMX = replace(CPU, features=frozenset({"amx_bf16", "amx_int8", "avx512_vnni", "sse2"}))
PRODUCT = MatmulProblem(
    2048, 2048, 2048, (4096, 2), (4096, 2), (2, 2, 2), 4, False, 10**7, 1, False, "bfloat16"
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"tile_m": 2048, "tile_n": 256, "tile_k": 2048}),
        ({"m": 1024, "n": 1024, "k": 1024}, {"tile_m": 1024, "tile_n": 512, "tile_k": 1024}),
        ({"m": 256, "n": 256, "k": 256}, {"tile_m": 256, "tile_n": 128, "tile_k": 256}),
        ({"m": 300, "n": 20, "k": 500}, {"tile_m": 320, "tile_n": 32, "tile_k": 512}),
        ({"m": 900, "n": 20, "k": 500}, {"tile_m": 480, "tile_n": 32}),
        ({"m": 30, "n": 50, "k": 50}, {"tile_m": 32, "tile_n": 64, "tile_k": 64}),
        ({"k": 0}, {"tile_k": 32}),
        ({"k": 5000}, {"tile_m": 512, "tile_k": 2048}),
        ({"m": 16, "n": 4096, "k": 64}, {"tile_m": 32, "tile_n": 1024}),
        ({"dot": "int8", "itemsizes": (1, 1, 4), "k": 5000}, {"tile_k": 4096, "itemsize": 1}),
        ({"dot": "float16"}, {"tile_k": 512, "tile_n": 512, "tile_m": 256, "forms": 2}),
        ({"dot": "float16", "strides_a": (2, 4096)}, {"fast_a": ROWS_FAST, "rows_at_once": 64}),
        ({"strides_b": (2, 4096)}, {"fast_b": ROWS_FAST, "unit_b": True, "unit_a": True}),
        ({"strides_a": (4, 8192)}, {"fast_a": ROWS_FAST, "unit_a": False, "rows_at_once": 128}),
        ({"strides_a": (2, 128), "m": 50}, {"fast_a": ROWS_FAST, "unit_a": True, "tile_m": 64}),
        ({"strides_a": (4096, -2)}, {"fast_a": COLUMNS_FAST, "unit_a": False}),
        ({"reach": 2**31}, {"index": "q"}),
    ],
    ids=str,
)
def test_blocks_of_tiles(changes, expected):
    problem = replace(PRODUCT, **changes)
    c = config.configure(problem, AMX)
    assert isinstance(c, TilesConfig)
    assert {name: getattr(c, name) for name in expected} == expected
    assert c.rows_at_once <= c.tile_m
    assert c.tile_m % 32 == c.rows_at_once % 32 == c.tile_n % 32 == c.tile_k * c.itemsize % 64 == 0
    # In a level-2 cache of 2 MiB.
    assert c.shared_elements(problem.k) * 4 <= 1 << 21
    waits = c.tile_m * c.tile_n
    assert c.shared_elements(c.tile_k + 1) - c.shared_elements(c.tile_k) == waits


@pytest.mark.parametrize("shape", [(16, 400, 400), (400, 400, 16), (32, 64, 128), (64, 64, 64)])
def test_few_products_of_float16_are_those_of_float32(shape):
    m, k, n = shape
    problem = replace(PRODUCT, m=m, n=n, k=k, dot="float16")
    assert isinstance(config.configure(problem, AMX), PackedConfig)
    larger = replace(problem, m=m + 32, n=n + 32)
    assert isinstance(config.configure(larger, AMX), TilesConfig)
    assert isinstance(config.configure(replace(problem, dot="bfloat16"), AMX), TilesConfig)


@pytest.mark.parametrize("way", MICRO_TERMS)
def test_a_is_read_where_its_words_lie(way):
    features, _, pairs, _ = next(w for w in WAYS if w[3] == way)
    sizes = [np.dtype(numpy_dtype(name)).itemsize for name in pairs[0]]
    dot = "bfloat16" if way == "bfloat16_pairs" else "int8" if max(sizes) == 1 else "int16"
    for k, strides in ((512, (1024, sizes[0])), (513, (1026, sizes[0])), (512, (sizes[0], 1024))):
        problem = replace(
            PRODUCT, k=k, strides_a=strides, itemsizes=(*sizes, 4), dot=dot, same_a=False
        )
        c = config.configure(problem, replace(CPU, features=frozenset(features)))
        assert isinstance(c, PackedConfig)
        assert c.micro == way
        whole = way in ("bfloat16_pairs", "int16_pairs", "int16_pairs_vnni")
        assert c.read_a == (whole and k == 512 and strides[1] == sizes[0])
        assert c.shared_elements(k) * 4 <= 3 << 19


def test_the_reference_backend_needs_no_tile_registers():
    x = np.arange(6, dtype=np.int8).reshape(2, 3)
    with nnk.use_backend("reference"):
        y = nnk.matmul(x, x.T, out_dtype="int32")
    assert y.dtype == np.int32
    assert np.array_equal(y, x.astype(np.int32) @ x.T.astype(np.int32))
