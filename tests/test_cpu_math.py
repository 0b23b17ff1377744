"""The SIMD layer of the CPU machine: functions, arithmetic, conversion, memory, blocks.

``native/cpu_math.cc`` wraps it over arrays. It is compiled for the machine at hand, for AVX2
without AVX-512 and for the x86-64 baseline, so that every form of the code is tested.
"""

import ctypes
import ctypes.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

NATIVE = Path(__file__).parent / "native"
HEADERS = Path(__file__).parent.parent / "cuda_src"
FLAGS = [
    *("-O3", "-std=c++17", "-fPIC", "-shared", "-Wall", "-Werror", "-Wno-psabi"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
]
VARIANTS = {
    "native": ["-march=native"],
    "avx2": ["-march=haswell"],
    "baseline": ["-march=x86-64"],
}


def find_compiler():
    names = [os.environ.get("NNKERNELS_CXX"), "c++", "g++", "clang++"]
    return next((path for path in (shutil.which(name) for name in names if name) if path), None)


COMPILER = find_compiler()
pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: set NNKERNELS_CXX"),
    pytest.mark.xdist_group("cpu_math"),
]


def cpu_has(feature):
    try:
        return feature in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


@pytest.fixture(scope="session", params=list(VARIANTS))
def library_path(request, tmp_path_factory):
    if request.param != "native" and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("this variant is for x86-64")
    if request.param == "avx2" and not all(map(cpu_has, ("avx2", "fma", "f16c", "bmi2", "movbe"))):
        pytest.skip("this CPU has no AVX2")
    path = tmp_path_factory.mktemp("cpu_math") / f"{request.param}.so"
    command = [COMPILER, *FLAGS, *VARIANTS[request.param], f"-I{HEADERS}", "-o", str(path)]
    command.append(str(NATIVE / "cpu_math.cc"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="session")
def library(library_path):
    return ctypes.CDLL(str(library_path))


def address(array):
    return ctypes.c_void_p(array.ctypes.data)


def call(library, symbol, *arguments):
    function = getattr(library, symbol)
    function.restype = None
    function(
        *(address(a) if isinstance(a, np.ndarray) else ctypes.c_longlong(a) for a in arguments)
    )


# ---- functions of one argument ----------------------------------------------------------

# The largest error in units of the last place: a little above what was measured over millions
# of arguments (see math_simd_float.cuh and math_simd_double.cuh).
LIMITS = {
    "exp": {"float": 1.2, "double": 1.3},
    "expm1": {"float": 1.7, "double": 2.1},
    "log": {"float": 1.4, "double": 1.1},
    "log1p": {"float": 1.4, "double": 1.1},
    "tanh": {"float": 2.1, "double": 2.4},
    "erf": {"float": 1.9, "double": 1.5},
    "erfc": {"float": 3.5, "double": 4.0},
    "sqrt": {"float": 0.5, "double": 0.5},
    "rsqrt": {"float": 1.5, "double": 1.5},
    "abs": {"float": 0.0, "double": 0.0},
}
DTYPES = {"float": np.float32, "double": np.float64}
WIDTHS = {"float": ["16", "scalar"], "double": ["8", "scalar"]}
SMALL_WIDTHS = {"float": ["2", "4"], "double": ["2"]}  # of exp, log, tanh and sqrt


def libm_function(name):
    """``erf`` or ``erfc`` of long double, which rounds to double only at the end."""
    function = getattr(ctypes.CDLL(ctypes.util.find_library("m")), name)
    function.restype, function.argtypes = ctypes.c_longdouble, [ctypes.c_longdouble]
    return np.vectorize(function, otypes=[np.longdouble])


REFERENCES = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "abs": np.abs,
}


def reference(name, x):
    """In long double, of which float64 arguments need the digits."""
    with np.errstate(all="ignore"):
        if name in REFERENCES:
            return REFERENCES[name](x.astype(np.longdouble))
        return libm_function(name + "l")(x.astype(np.float64))


# Where exp overflows, goes subnormal and to zero; where erfc does; where a formula gives way to
# another.
BENDS = """0 1 inf
    88.72283 88.72284 87.33654 103.27892 103.97208 709.782712893384 709.782712893385
    708.3964185322641 745.1332191019411 745.1332191019412 9.19454 10.05 26.543 27.226
    0.5 0.75 0.85 1.5 2 4 6 10.2 20 27.3 40 89 104 710 746"""


def arguments(dtype, count=6000):
    """Special values, all binades, and the ranges in which the functions bend."""
    random = np.random.default_rng(7)
    info = np.finfo(dtype)
    bits = np.uint32 if dtype == np.float32 else np.uint64
    limits = [info.max, info.tiny, info.smallest_subnormal, 1 - info.eps, 1 + info.eps]
    special = np.array([*(float(number) for number in BENDS.split()), *limits], dtype)
    with np.errstate(all="ignore"):
        neighbours = [np.nextafter(special, dtype(side)) for side in (0, np.inf)]
    special = np.concatenate([special, *neighbours])
    parts = [special, -special, np.array([np.nan], dtype)]
    parts.append(random.integers(0, np.iinfo(bits).max, count, bits, endpoint=True).view(dtype))
    for size in (1e-6, 0.01, 1.0, 4.0, 12.0, 100.0, 750.0):
        parts.append(random.uniform(-size, size, count // 4).astype(dtype))
    parts.append(np.exp(random.uniform(-3, 3, count // 4)).astype(dtype))
    values = np.concatenate(parts)
    return values[: len(values) // 16 * 16]


def assert_ulps(got, expected, limit, x):
    """Within `limit` units of the last place; inf, NaN and the sign of zero must agree."""
    dtype = got.dtype.type
    with np.errstate(all="ignore"):
        rounded = expected.astype(dtype)
        wrong = np.isnan(got) != np.isnan(rounded)
        wrong |= (np.isinf(got) | np.isinf(rounded)) & ~np.isnan(got) & (got != rounded)
        wrong |= (got == 0) & (rounded == 0) & (np.signbit(got) != np.signbit(rounded))
        finite = np.isfinite(got) & np.isfinite(rounded)
        unit = np.spacing(np.abs(np.where(finite, rounded, 0))).astype(np.longdouble)
        error = np.where(finite, np.abs(got.astype(np.longdouble) - expected) / unit, 0)
    # The reference of erf and erfc is a double, and np.spacing is half as large below a power of 2.
    wrong |= error > limit + (0.51 if np.finfo(expected.dtype).eps > 1e-17 else 0.001)
    worst = np.flatnonzero(wrong)[:8]
    assert not len(worst), [(x[i], got[i], float(expected[i]), float(error[i])) for i in worst]


@pytest.mark.parametrize("scalar", ["float", "double"])
@pytest.mark.parametrize("name", list(LIMITS))
def test_function(library, name, scalar):
    x = arguments(DTYPES[scalar])
    expected = reference(name, x)
    widths = list(WIDTHS[scalar])
    if name in ("exp", "log", "tanh", "sqrt"):
        widths += SMALL_WIDTHS[scalar]
    if (name, scalar) == ("exp", "float"):
        widths.append("40")
    for width in widths:
        length = len(x) // 40 * 40 if width == "40" else len(x)
        y = np.empty_like(x)
        call(library, f"{name}_{scalar}_{width}", x, y, length)
        assert_ulps(y[:length], expected[:length], LIMITS[name][scalar], x)


# ---- arithmetic, comparison and selection --------------------------------------------------

OPERATIONS = [
    *("float32_1", "float32_3", "float32_48", "float64_2", "float64_16", "int8_64", "uint8_6"),
    *("int16_32", "uint16_24", "int32_16", "uint32_4", "int64_12", "uint64_1"),
]


def operands(dtype, count):
    random = np.random.default_rng(11)
    if np.issubdtype(dtype, np.integer):
        info = np.iinfo(dtype)
        a, b = random.integers(info.min, info.max, (2, count), dtype, endpoint=True)
        a[::5] = b[::5]
    else:
        a, b = random.normal(size=(2, count)).astype(dtype)
        special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 3.0], dtype)
        a[:36], b[:36] = np.repeat(special, 6), np.tile(special, 6)
        a[36::5] = b[36::5]
    return a, b


@pytest.mark.parametrize("symbol", OPERATIONS)
def test_operations(library, symbol):
    name, width = symbol.rsplit("_", 1)
    dtype = np.dtype(name)
    count = 4 * int(width) * (1 + 96 // int(width))
    a, b = operands(dtype, count)
    out = np.empty((15, count), dtype)
    call(library, f"operations_{symbol}", a, b, out, count)
    with np.errstate(all="ignore"):
        three, two = dtype.type(3), dtype.type(2)
        expected = [a + b, a - b, a * b, np.maximum(a, b), np.minimum(a, b), a * b + a]
        expected += [three - a * two]
        expected += [compare(a, b) for compare in (np.less, np.greater, np.less_equal)]
        expected += [compare(a, b) for compare in (np.greater_equal, np.equal, np.not_equal)]
        expected += [np.where((a < b) & (a != 0), a, b), np.where((a < b) | (b > 2), a, b)]
    for row, (got, want) in enumerate(zip(out, expected, strict=True)):
        if row == 5 and dtype.kind == "f":  # fma: one rounding or two
            eps = np.finfo(dtype).eps
            fine = np.isclose(got, want, rtol=4 * eps, atol=eps, equal_nan=True)
            assert fine.all(), (a[~fine], b[~fine], got[~fine], want[~fine])
        else:
            np.testing.assert_array_equal(got, want.astype(dtype), f"row {row}")


@pytest.mark.parametrize("width", [2, 6, 16, 48])
def test_lanes(library, width):
    out = np.zeros(4, np.float32)
    x = np.arange(1, width + 1, dtype=np.float32)
    call(library, f"lanes_{width}", x, out)
    assert out.tolist() == [x.sum(), 5.0, 0.0, 0.0]
    for lane in range(width):
        x[lane], kept = -1.0, x[lane]
        call(library, f"lanes_{width}", x, out)
        assert out[2:].tolist() == [1.0, 0.0]
        x[lane] = np.nan
        call(library, f"lanes_{width}", x, out)
        assert out[2:].tolist() == [0.0, 1.0]
        x[lane] = kept


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex(library, dtype):
    random = np.random.default_rng(3)
    a, b = (random.normal(size=(2, 64)) + 1j * random.normal(size=(2, 64))).astype(dtype)
    out = np.empty((6, 64), dtype)
    call(library, f"complex_operations_{np.dtype(dtype)}", a, b, out, 64)
    x, y = a.astype(np.complex128), b.astype(np.complex128)
    expected = [x + y, x * y, x / y, x.conj(), np.exp(x), np.tanh(x)]
    np.testing.assert_allclose(out, expected, rtol=40 * np.finfo(dtype).eps)


# ---- conversion -----------------------------------------------------------------------------


def to_bfloat16(x):
    """The bits of the nearest bfloat16, ties to even: of the two neighbours the closer one."""
    below = x.view(np.uint32) >> 16
    above = below + 1
    with np.errstate(invalid="ignore"):  # above inf is a signalling NaN
        value = [(bits << 16).view(np.float32).astype(np.float64) for bits in (below, above)]
        # The neighbour of the largest bfloat16 is infinity, at the distance of a number.
        beyond = np.copysign(2.0**128, x.astype(np.float64))
        value[1] = np.where(np.isinf(value[1]), beyond, value[1])
        low, high = np.abs(x - value[0]), np.abs(value[1] - x)
    up = (high < low) | ((high == low) & (below % 2 == 1))
    return np.where(np.isinf(x), below, np.where(up, above, below)).astype(np.uint16)


def half_arguments():
    """Every half as a float, the ties between them, and their neighbours."""
    with np.errstate(over="ignore", invalid="ignore"):
        halves = np.arange(65536).astype(np.uint16).view(np.float16)
        halves = halves[np.isfinite(halves)].astype(np.float32)
        ties = (np.sort(halves)[:-1] + np.sort(halves)[1:]) / 2
    edges = [65519.996, 65520.0, 65520.004, 65536.0, 1e10, np.inf, 2**-25, 2**-24, 1e-30]
    edges = np.array(edges, np.float32)
    values = np.concatenate([halves, ties, edges, -edges])
    neighbours = [np.nextafter(values, np.float32(side)) for side in (-np.inf, np.inf)]
    values = np.concatenate([values, *neighbours])
    return values[: len(values) // 96 * 96].copy()


@pytest.mark.parametrize("width", ["1", "4", "6", "32", "portable"])
def test_half(library, width):
    prefix, suffix = ("portable", "") if width == "portable" else ("convert", f"_{width}")
    bits = np.arange(65536).astype(np.uint16)[: 65536 // 96 * 96]
    y = np.empty(len(bits), np.float32)
    call(library, f"{prefix}_float16_float32{suffix}", bits, y, len(bits))
    np.testing.assert_array_equal(y, bits.view(np.float16).astype(np.float32))
    np.testing.assert_array_equal(np.signbit(y), bits >= 0x8000)

    x = half_arguments()
    got = np.empty(len(x), np.uint16)
    call(library, f"{prefix}_float32_float16{suffix}", x, got, len(x))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(got, x.astype(np.float16).view(np.uint16))
    x = np.array([0x7F800001, 0x7FFFFFFF, 0xFF800001, 0x7FC00000] * 24, np.uint32).view(np.float32)
    call(library, f"{prefix}_float32_float16{suffix}", x, got, len(x))
    assert np.isnan(got[: len(x)].view(np.float16)).all()


@pytest.mark.parametrize("width", [1, 4, 6, 32])
def test_bfloat16(library, width):
    bits = np.arange(65536).astype(np.uint16)[: 65536 // 96 * 96]
    y = np.empty(len(bits), np.float32)
    call(library, f"convert_bfloat16_float32_{width}", bits, y, len(bits))
    np.testing.assert_array_equal(y.view(np.uint32), bits.astype(np.uint32) << 16)

    random = np.random.default_rng(5)
    upper = random.integers(0, 65536, 9600, np.uint32) << 16
    lower = np.resize(np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32), 9600)
    x = (upper | lower).view(np.float32)
    x[:6] = [np.inf, -np.inf, 3.4028235e38, -3.4028235e38, 0.0, -0.0]
    # NaN whose upper half is that of inf.
    x[6:8] = np.array([0x7F800001, 0xFF800001], np.uint32).view(np.float32)
    got = np.empty(len(x), np.uint16)
    call(library, f"convert_float32_bfloat16_{width}", x, got, len(x))
    nan = np.isnan(x)
    np.testing.assert_array_equal(got[~nan], to_bfloat16(x[~nan]))
    assert nan.any()
    assert np.isnan((got[nan].astype(np.uint32) << 16).view(np.float32)).all()


CONVERSIONS = [
    *(("float32", "float64"), ("float64", "float32"), ("int8", "float32"), ("uint8", "float32")),
    *(("float32", "int8"), ("float32", "uint8"), ("int16", "float64"), ("float64", "int16")),
    *(("uint16", "float32"), ("int32", "float32"), ("float32", "int32"), ("int64", "float64")),
    *(("float64", "int64"), ("uint64", "float32"), ("int8", "int64"), ("int64", "int8")),
    *(("int32", "int16"), ("uint32", "uint8")),
]


@pytest.mark.parametrize("width", [6, 32])
@pytest.mark.parametrize(("source", "target"), CONVERSIONS)
def test_conversion(library, source, target, width):
    random = np.random.default_rng(9)
    source, target = np.dtype(source), np.dtype(target)
    if source.kind == "f" and target.kind in "iu":
        info = np.iinfo(target)  # of other values the result is undefined
        x = random.uniform(info.min, info.max * 0.9999, 960).astype(source)
    elif source.kind == "f":
        special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e300, 1e-300, 1e-40, 3e38, -1e-45]
        x = np.concatenate([random.normal(size=950), special])
        with np.errstate(over="ignore"):
            x = x.astype(source)
    else:
        info = np.iinfo(source)
        x = random.integers(info.min, info.max, 960, source, endpoint=True)
    y = np.empty(len(x), target)
    call(library, f"convert_{source}_{target}_{width}", x, y, len(x))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(y, x.astype(target))


# ---- memory ---------------------------------------------------------------------------------

SIZES = {"int8": 1, "float16": 2, "int16": 2, "float32": 4, "float64": 8, "complex64": 8}
MEMORY = [
    *("int8_3", "int8_64", "float16_8", "float16_32", "int16_32", "float32_1", "float32_2"),
    *("float32_12", "float32_32", "float64_2", "float64_8", "complex64_4"),
]


@st.composite
def accesses(draw):
    """A type and width, a number of elements, a byte distance and a misalignment."""
    symbol = draw(st.sampled_from(MEMORY))
    name, width = symbol.rsplit("_", 1)
    size = SIZES[name]
    count = draw(st.integers(0, int(width)) | st.just(int(width)))
    usual = st.sampled_from([2 * size, size, -size, -2 * size, 3 * size, 0])
    step = draw(usual | st.integers(-70, 70).filter(lambda step: abs(step) >= size))
    return symbol, size, int(width), count, step, draw(st.integers(0, 15))


def random_bytes(count):
    return np.frombuffer(np.random.default_rng(count).bytes(count), np.uint8).copy()


def element_offsets(size, count, step):
    """The bytes that `count` elements occupy, one row for each."""
    return np.arange(count)[:, None] * step + np.arange(size)


# The fixture holds a loaded library, which no example changes.
relaxed = settings(max_examples=300, suppress_health_check=list(settings().suppress_health_check))


@relaxed
@given(access=accesses())
def test_partial(library, access):
    symbol, size, width, count, _, offset = access
    memory, fill, out = random_bytes(1024), random_bytes(size), np.zeros(width * size, np.uint8)
    function = getattr(library, f"load_partial_{symbol}")
    function.restype = None
    function(ctypes.c_void_p(memory.ctypes.data + offset), count, address(fill), address(out))
    rest = np.tile(fill, width - count)
    there = slice(offset, offset + count * size)
    np.testing.assert_array_equal(out, np.concatenate([memory[there], rest]))

    expected = memory.copy()
    values = random_bytes(width * size + 1)[1:].copy()
    expected[there] = values[: count * size]
    function = getattr(library, f"store_partial_{symbol}")
    function.restype = None
    function(ctypes.c_void_p(memory.ctypes.data + offset), count, address(values))
    np.testing.assert_array_equal(memory, expected)


@relaxed
@given(access=accesses())
def test_strided(library, access):
    symbol, size, width, count, step, offset = access
    memory, fill, out = random_bytes(10240), random_bytes(size), np.zeros(width * size, np.uint8)
    start = ctypes.c_void_p(memory.ctypes.data + 5120 + offset)
    where = 5120 + offset + element_offsets(size, count, step)
    function = getattr(library, f"load_strided_{symbol}")
    function.restype = None
    distance = ctypes.c_longlong(step)
    function(start, distance, count, address(fill), address(out))
    rest = np.tile(fill, width - count)
    np.testing.assert_array_equal(out, np.concatenate([memory[where].ravel(), rest]))

    if step == 0:
        return  # which of the stores to one element comes last is not promised
    expected = memory.copy()
    values = random_bytes(width * size + 1)[1:].copy()
    expected[where] = values[: count * size].reshape(count, size)
    function = getattr(library, f"store_strided_{symbol}")
    function.restype = None
    function(start, distance, count, address(values))
    np.testing.assert_array_equal(memory, expected)


LANES = ["int8_16", "float16_16", "int16_32", "float32_4", "float32_16", "float64_8", "float64_16"]


@st.composite
def chosen_lanes(draw):
    """A type and width, bits of lanes, a byte distance and a misalignment."""
    symbol = draw(st.sampled_from(LANES))
    name, width = symbol.rsplit("_", 1)
    size, width = SIZES[name], int(width)
    every = (1 << width) - 1
    bits = draw(st.integers(0, every) | st.just(every))
    steps = st.sampled_from([1, 2, 2, 3, 4, 5, -1, -2]).map(lambda n: n * size)
    step = draw(steps | st.integers(size, 70) | st.integers(-70, -size))
    return symbol, size, width, bits, step, draw(st.integers(0, 15))


def of_bits(bits, width):
    return [i for i in range(width) if bits >> i & 1]


@relaxed
@given(access=chosen_lanes())
def test_chosen_lanes(library, access):
    symbol, size, width, bits, step, offset = access
    memory, fill, out = random_bytes(10240), random_bytes(size), np.zeros((width, size), np.uint8)
    start = ctypes.c_void_p(memory.ctypes.data + 5120 + offset)
    lanes = of_bits(bits, width)
    where = (5120 + offset + element_offsets(size, width, step))[lanes]
    function = getattr(library, f"load_lanes_{symbol}")
    function.restype = None
    distance = ctypes.c_longlong(step)
    function(start, distance, ctypes.c_uint32(bits), address(fill), address(out))
    loaded = np.tile(fill, (width, 1))
    loaded[lanes] = memory[where]
    np.testing.assert_array_equal(out, loaded)

    expected = memory.copy()
    values = random_bytes(width * size + 1)[1:].reshape(width, size).copy()
    expected[where] = values[lanes]
    function = getattr(library, f"store_lanes_{symbol}")
    function.restype = None
    function(start, distance, ctypes.c_uint32(bits), address(values))
    np.testing.assert_array_equal(memory, expected)


@relaxed
@given(access=chosen_lanes(), other=st.integers(0), step=st.sampled_from([1, 2]))
def test_merged_lanes(library, access, other, step):
    """Every `step`-th element of two places, each of which has some lanes."""
    symbol, size, width, bits, _, offset = access
    other &= ~bits & ((1 << width) - 1)
    memory, out = random_bytes(10240), np.zeros((width, size), np.uint8)
    firsts = 1024 + offset, 6144 + 3 * offset
    function = getattr(library, f"merge_lanes_{symbol}")
    function.restype = ctypes.c_bool
    p, q = (ctypes.c_void_p(memory.ctypes.data + first) for first in firsts)
    masks = (ctypes.c_uint32(b) for b in (bits, other))
    if not function(p, q, step, *masks, address(out)):
        return
    expected = np.zeros((width, size), np.uint8)
    for first, chosen in zip(firsts, (bits, other), strict=True):
        lanes = of_bits(chosen, width)
        expected[lanes] = memory[(first + element_offsets(size, width, step * size))[lanes]]
    np.testing.assert_array_equal(out, expected)


def test_lanes_are_merged_by_masks(library, library_path):
    """Where a machine has masks, of every size that a convolution has 8 or 16 pixels of."""
    features = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "bmi2")
    expected = library_path.stem == "native" and all(map(cpu_has, features))
    memory, out = random_bytes(512), np.zeros(128, np.uint8)
    for symbol in ("int8_16", "float16_16", "float32_16", "float64_8"):
        function = getattr(library, f"merge_lanes_{symbol}")
        function.restype = ctypes.c_bool
        for step in (1, 2):
            merged = function(address(memory), address(memory), step, 3, 12, address(out))
            assert merged == expected


def test_long_steps(library):
    """A distance whose triple does not fit into 32 bits, over memory that is never touched."""
    step = 3 << 28
    memory = np.zeros(3 * step + 4, np.uint8)  # pages that are not written take no room
    values = random_bytes(16)
    for element in range(4):
        memory[element * step :][:4] = values[4 * element :][:4]
    out = np.zeros(48, np.uint8)
    library.load_strided_float32_12.restype = None
    distance, fill = ctypes.c_longlong(step), np.zeros(4, np.uint8)
    library.load_strided_float32_12(address(memory), distance, 4, address(fill), address(out))
    np.testing.assert_array_equal(out, np.concatenate([values, np.zeros(32, np.uint8)]))
    last = ctypes.c_void_p(memory.ctypes.data + 3 * step)
    distance = ctypes.c_longlong(-step)
    library.load_strided_float32_12(last, distance, 4, address(fill), address(out))
    np.testing.assert_array_equal(out[:16], values.reshape(4, 4)[::-1].ravel())


@pytest.mark.parametrize("symbol", MEMORY)
@pytest.mark.parametrize("offset", [0, 16, 3])
def test_streaming_store(library, symbol, offset):
    name, width = symbol.rsplit("_", 1)
    memory, values = random_bytes(1024), random_bytes(int(width) * SIZES[name])
    start = -memory.ctypes.data % 64 + offset
    expected = memory.copy()
    expected[start : start + len(values)] = values
    function = getattr(library, f"store_streaming_{symbol}")
    function.restype = None
    function(ctypes.c_void_p(memory.ctypes.data + start), address(values))
    np.testing.assert_array_equal(memory, expected)


# Run in a process of its own, which a wrong access kills: one page between two that may not be
# touched, and elements up to its first and its last byte.
GUARD = """
import ctypes, mmap, sys
library, libc = ctypes.CDLL(sys.argv[1]), ctypes.CDLL(None, use_errno=True)
page = mmap.PAGESIZE
area = mmap.mmap(-1, 3 * page)
first = ctypes.addressof(ctypes.c_char.from_buffer(area))
for guard in (first, first + 2 * page):
    assert libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) == 0
low, high = first + page, first + 2 * page
buffer, fill = ctypes.create_string_buffer(1024), ctypes.create_string_buffer(16)
sizes = dict(int8=1, float16=2, int16=2, float32=4, float64=8, complex64=8)
done = 0
for symbol in sys.argv[2:]:
    name, width = symbol.rsplit("_", 1)
    size, width = sizes[name], int(width)
    load, store = (getattr(library, f"{kind}_partial_{symbol}") for kind in ("load", "store"))
    load_strided = getattr(library, f"load_strided_{symbol}")
    store_strided = getattr(library, f"store_strided_{symbol}")
    for count in range(width + 1):
        for start in (low, high - count * size):
            load(ctypes.c_void_p(start), count, fill, buffer)
            store(ctypes.c_void_p(start), count, buffer)
        for step in (*(n * size for n in (1, 2, 3, 4, -1, -2)), 2 * size + 1, -17):
            span = (count - 1) * abs(step) + size if count else 0
            if abs(step) < size or span > page:
                continue
            for bottom in (low, high - span):
                start = bottom if step > 0 else bottom + (span - size if count else 0)
                arguments = ctypes.c_void_p(start), ctypes.c_longlong(step), count
                load_strided(*arguments, fill, buffer)
                store_strided(*arguments, buffer)
                done += 1
for symbol in ("float16_16", "float32_16", "float64_8"):
    name, width = symbol.rsplit("_", 1)
    size, width = sizes[name], int(width)
    load, store, merge = (
        getattr(library, f"{kind}_lanes_{symbol}") for kind in ("load", "store", "merge"))
    ranges = [(i, j) for i in range(width) for j in range(i + 1, width + 1)]
    for (begin, end), step in [(r, n) for r in ranges for n in (1, 2, 3, 4)]:
        # Some lanes up to a border, beyond which others would be.
        bits, distance = ctypes.c_uint32((1 << end) - (1 << begin)), ctypes.c_longlong(step * size)
        for start in (low - begin * step * size, high - ((end - 1) * step + 1) * size):
            p = ctypes.c_void_p(start)
            load(p, distance, bits, fill, buffer)
            store(p, distance, bits, buffer)
            if step < 3:
                merge(p, p, step, bits, 0, buffer)
            done += 1
print(done)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")
def test_no_access_outside(library_path):
    command = [sys.executable, "-c", GUARD, str(library_path), *MEMORY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr or f"killed by signal {-done.returncode}"
    assert int(done.stdout) > 1000


# ---- blocks -----------------------------------------------------------------------------------


def test_block_entry(library):
    total, seen, count = np.zeros(1, np.float32), np.zeros(1, np.int32), np.zeros(1, np.int64)
    args = (ctypes.c_void_p * 3)(total.ctypes.data, seen.ctypes.data, count.ctypes.data)
    scratch = np.zeros(256, np.uint8)
    library.block_kernel.restype = None
    begin, end, blocks = (ctypes.c_longlong(n) for n in (3, 10, 20))
    library.block_kernel(args, begin, end, blocks, address(scratch))
    assert seen[0] == 7
    assert count[0] == 20
    assert total[0] == sum(range(3, 10)) + 0.5 * 7
