"""Products of four warps together: one in the simulator, bugs around it, and as NVRTC makes them.

Where elements lie in shared memory is written here a second time, after the manual and in its form.
Whole products are tested in test_matmul_tensor.py and test_conv_tensor.py.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial

import gpu_compilers
import numpy as np
import pytest
import sim_native
from sim_native import COMPILER, Builds, launch
from test_matmul_tensor import problem_of

import nnkernels as nnk
from nnkernels.compile import nvrtc
from nnkernels.compile.instance import source_text
from nnkernels.config import matmul_atoms as atoms
from nnkernels.config import matmul_tensor as tensor
from nnkernels.config.device import PROFILES
from nnkernels.dispatch.dtypes import numpy_dtype
from nnkernels.inspection import nvidia
from nnkernels.inspection.problems import channels_last, contiguous, transposed
from nnkernels.inspection.record import launches

HOPPER = PROFILES["sm_90a"]
SEEDS = range(5)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: set NNKERNELS_CXX")


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    build = Builds(tmp_path_factory.mktemp("warpgroup"))
    return build("sim_warpgroup.cc", "-DNNK_SIM_WARP=32")


# ---- one product --------------------------------------------------------------------------------


def place_of(row, term, size, turned, column_bytes):
    """PTX ISA, wgmma: canonical layouts of K-major and MN-major matrices, swizzle of 128 bytes.

    In units of 16 bytes: K-major ((8, n), 2k) : ((8, SBO), 1); MN-major ((8, n), (8, k)) :
    ((1, LBO), (8, SBO)). Bits 4 to 6 of an address are exchanged by XOR with bits 7 to 9.
    """
    unit = 16 // size
    if turned:
        chunk, inside = divmod(row, unit)
        address = 16 * (chunk % 8) + chunk // 8 * column_bytes
        address += 128 * (term % 8) + 1024 * (term // 8) + inside * size
    else:
        chunk, inside = divmod(term, unit)
        address = 128 * (row % 8) + 1024 * (row // 8) + 16 * chunk + inside * size
    return address ^ (address >> 7) % 8 << 4


def sums_of(out, columns):
    """PTX ISA, "Register Fragments" of wgmma: matrix D of 64 rows."""
    found = np.empty((64, columns), out.dtype)
    for thread in range(128):
        for i in range(columns // 2):
            row = thread // 32 * 16 + thread % 32 // 4 + 8 * (i % 4 // 2)
            found[row, i // 4 * 8 + thread % 4 * 2 + i % 2] = out[thread, i]
    return found


RAW = {
    "half_terms_terms": ("float16", 64, False, False),
    "half_terms_rows": ("float16", 128, False, True),
    "half_rows_terms": ("float16", 64, True, False),
    "half_rows_rows": ("float16", 256, True, True),
    "int8_terms_terms": ("int8", 128, False, False),
}


@needs_compiler
@pytest.mark.parametrize("symbol", RAW)
def test_a_product_finds_its_operands(library, symbol):
    dtype, columns, *turned = RAW[symbol]
    generator, size = np.random.default_rng(5), np.dtype(dtype).itemsize
    terms, column_bytes = 32 // size, 3 * 1024
    # A step in the middle of a line, or of a column of lines.
    first = [1024 + (2048 if t else 64) for t in turned]
    rows = (64, columns)
    begins = (first[0], first[1] + 16 * 1024)
    # Whole numbers: every order of additions gives the same.
    a, b = (generator.integers(-9, 9, (n, terms)).astype(dtype) for n in rows)
    memory = np.full(64 * 1024, 0xFF, np.uint8)
    for matrix, begin, is_turned in zip((a, b), begins, turned, strict=True):
        # The swizzle is of addresses, so it counts from a multiple of 1024.
        base, step = divmod(begin, 1024)
        for row, term in np.ndindex(matrix.shape):
            shifted = term + (0 if is_turned else step // size)
            place = place_of(row, shifted, size, is_turned, column_bytes)
            place += 1024 * base + (step if is_turned else 0)
            memory[place : place + size] = matrix[row, term].reshape(1).view(np.uint8)
    at = np.array([*begins, column_bytes, column_bytes], np.int32) // 16
    out = np.zeros((128, columns // 2), np.float32 if dtype == "float16" else np.int32)
    data = np.concatenate([memory, at.view(np.uint8)])
    assert not launch(library, symbol, out, data, memory.size, shared=memory.size, limit=232448)
    wide = a.astype(np.float64) @ b.astype(np.float64).T
    assert np.array_equal(sums_of(out, columns), wide + 1)


# ---- bugs ---------------------------------------------------------------------------------------

BUGS = [
    ("never_waited_for", "unwaited", "never waited for"),
    ("never_committed", "uncommitted", "never committed"),
    ("two_sets_of_sums", "other sums", "different sums are under way"),
    ("different_tiles", "different tiles", "lanes 0 and 13 of a warp multiply different tiles"),
    ("overwritten_too_early", "overwriting", "data race"),
    ("out_of_bounds", "beyond the end", "out of bounds"),
]


def run(library, symbol, seed):
    out = np.zeros(128, np.float32)
    return out, launch(library, symbol, out, shared=2 * 8192, seed=seed)


@needs_compiler
@pytest.mark.parametrize(("symbol", "mark", "message"), BUGS)
def test_planted_bugs_are_found(library, symbol, mark, message):
    for seed in SEEDS:
        _, found = run(library, symbol, seed)
        assert message in found
        assert sim_native.place("sim_warpgroup.cc", mark) in found


@needs_compiler
def test_sums_are_there_after_the_wait_alone(library):
    for seed in SEEDS:
        out, message = run(library, "right", seed)
        assert not message
        assert (out == 1).all()
        out, message = run(library, "sums_before_the_wait", seed)
        assert not message
        assert np.isnan(out).all()


# ---- what is chosen -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "uint8"])
def test_what_fills_a_step_is_of_a_warpgroup(dtype):
    for m, n, together in ((64, 64, True), (4096, 64, True), (63, 4096, False), (4096, 63, False)):
        problem = problem_of(dtype, m, n)
        atom = atoms.atom_of(problem, HOPPER)
        assert (atom.warps > 1) == together
        # Other chips have no such step.
        assert atoms.atom_of(problem, PROFILES["sm_90"]).warps == 1
        assert atoms.atom_of(problem, PROFILES["sm_120"]).warps == 1


def test_floats_and_doubles_are_left_to_the_other_atoms():
    tf32 = replace(problem_of("float32", 512, 512), tf32=True)
    for problem in (tf32, problem_of("float64", 512, 512)):
        assert atoms.atom_of(problem, HOPPER) == atoms.atom_of(problem, PROFILES["sm_90"])
    assert atoms.atom_of(problem_of("float32", 512, 512), HOPPER) is None


@pytest.mark.parametrize("alignment", [16, 8, 2])
def test_a_warpgroup_has_all_columns(alignment):
    narrow = (alignment, alignment, 16)
    problem = replace(problem_of("float16", 4096, 4096, 4096), alignments=narrow)
    c = tensor.configure(problem, HOPPER)
    assert (c.warp_m, c.warp_n) == (16, c.tile_n)
    assert c.copiers == (128 if alignment == 16 else 0)
    assert c.threads == 2 * c.tile_m + c.copiers
    assert c.atom_type == ("MmaSm90<half, 128>" if alignment == 16 else "MmaSm90<half>")
    assert c.stages == (4 if alignment > 2 else 3)
    assert c.tile_n == (256 if alignment == 16 else 128)
    assert c.shared * 4 <= HOPPER.shared_limit


def size_of(m, n, k, turned=False):
    """The tile, splits and copiers of a product of float16; A by terms, or `turned`."""
    problem = problem_of("float16", m, n, k)
    if turned:
        problem = replace(problem, strides_a=(2, 2 * m))
    c = tensor.configure(problem, HOPPER)
    return (c.tile_m, c.tile_n, c.stages), c.splits, c.copiers


def test_sizes_of_products():
    """As an H100 is fastest, of those tried (docs/measured-gpu.md)."""
    assert size_of(4096, 4096, 4096) == ((128, 256, 4), 1, 128)
    assert size_of(2048, 2048, 2048) == ((128, 256, 4), 1, 128)
    assert size_of(1024, 1024, 1024) == ((64, 128, 8), 1, 128)
    assert size_of(512, 512, 512) == ((64, 64, 6), 1, 0)
    assert size_of(256, 4096, 4096) == ((64, 128, 8), 1, 128)
    # Where A lies by rows, all threads copy.
    assert size_of(4096, 4096, 4096, turned=True) == ((128, 256, 4), 1, 0)
    # Few blocks, and long sums.
    assert size_of(128, 128, 65536)[1] > 16


def tile_of(function, *operands, **options):
    (found,) = [c for c in configs_of(function, operands, options) if c is not None]
    return (found.tile_m, found.tile_n, found.stages), found.copiers


def configs_of(function, operands, options):
    found = []

    def recording(*arguments, **others):
        found.append(tiled(*arguments, **others))
        return found[-1]

    tiled = tensor.tiled
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensor, "tiled", recording)
        launches(function, operands, options, HOPPER)
    return found


def test_sizes_of_convolutions():
    half = numpy_dtype("float16")

    def last(*shapes):
        return [channels_last(shape, half) for shape in shapes]

    small = last((32, 512, 7, 7), (512, 512, 3, 3))
    # Windows are gathered by half of the threads, if any copy for others.
    assert tile_of(nnk.conv, *small, padding=1) == ((64, 128, 8), 128)
    assert tile_of(nnk.conv, *last(IMAGE, WEIGHT), padding=1) == ((192, 128, 5), 0)
    many = last((32, 256, 28, 28), (256, 256, 3, 3))
    assert tile_of(nnk.conv, *many, padding=1)[1] == 0
    # Element by element, of many pixels and of few.
    stem = last((32, 3, 224, 224), (64, 3, 7, 7))
    assert tile_of(nnk.conv, *stem, stride=2, padding=3) == ((256, 64, 3), 0)
    stem[0] = stem[0][:1, :, :112]
    assert tile_of(nnk.conv, *stem, stride=2, padding=3)[0][0] < 256
    # Pixels are terms, whose few channels are loaded alone: by warps, whatever the strides are.
    dy = last((32, 64, 112, 112))[0]
    for dense in (True, False):
        x = contiguous((32, 3, 224, 224), half) if dense else last((32, 3, 224, 224))[0]
        function = partial(nnk.conv_backward_weight, stride=2, padding=3)
        (found,) = configs_of(function, (dy, x, (64, 3, 7, 7)), {})
        assert found.atom.warps == 1
    # Of 64 rows through registers, no more columns.
    images = [contiguous(shape, half) for shape in ((32, 64, 56, 56), (32, 256, 56, 56))]
    weight = (64, 256, 1, 1)
    assert tile_of(nnk.conv_backward_weight, *images, weight) == ((64, 64, 3), 0)


# ---- as NVRTC makes them ------------------------------------------------------------------------

IMAGE, WEIGHT = (32, 128, 28, 28), (128, 128, 3, 3)
# Function, shapes of operands, layout, other arguments.
CALLS = {
    "terms and rows": (nnk.matmul, [(4096, 4096)] * 2, contiguous, ()),
    "rows and terms": (nnk.matmul, [(4096, 4096)] * 2, transposed, ()),
    "through registers": (nnk.matmul, [(4095, 4095)] * 2, contiguous, ()),
    "pixels are rows": (partial(nnk.conv, padding=1), [IMAGE, WEIGHT], channels_last, ()),
    "pixels are terms": (
        partial(nnk.conv_backward_weight, padding=1), [IMAGE, IMAGE], channels_last, (WEIGHT,),
    ),
}  # fmt: skip


@gpu_compilers.needs_nvdisasm
@pytest.mark.parametrize("arch", [gpu_compilers.parameter("sm_90a")])
def test_instructions(arch):
    """Four steps of a slice one after the other, with nothing to wait for between them."""
    calls = {}
    for what, (function, shapes, layout, others) in CALLS.items():
        arrays = [layout(shape, numpy_dtype("float16")) for shape in shapes]
        for found in launches(function, (*arrays, *others), {}, PROFILES[arch]):
            if "MmaSm90" in found.instance.kernel:
                calls[what] = found.instance
    assert set(calls) == set(CALLS)
    cubin = nvrtc.compile_cubin(source_text(tuple(calls.values()), "cuda"), arch)
    assert "serialized" not in cubin.log
    resources = nvidia.parse_report(cubin.log)
    code = nvidia._disassembled(cubin.code)
    for what, instance in calls.items():
        found = Counter(name.split(".")[0] for name in code[instance.symbol].instructions)
        assert found["HGMMA"] == 4, what
        assert found["WARPGROUP"] == 3, what  # the fence, and two waits
        assert found["FENCE"] >= 1, what  # what was stored is published
        assert not found["HMMA"] + found["LDSM"], what
        assert resources[instance.symbol].spill_bytes == 0, what
