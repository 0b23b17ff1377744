"""GPU kernels as the compilers make them: nothing spills, and memory is read 16 bytes at a time.

No GPU is needed. What the static report (`bench/static`) has is read there: test_static_report.py
compares that with what is compiled. Of all other instances that the configurations can choose, one
in 72 is compiled for one NVIDIA or AMD GPU, and a quarter of the float32 ones of a few ops for the
architecture that has no table. The profile `deep` of Hypothesis, or NNKERNELS_TEST_ALL_INSTANCES=1,
compiles all of them everywhere (20 minutes).
"""

from __future__ import annotations

import os
import zlib
from collections import Counter
from pathlib import Path

import gpu_compilers
import numpy as np
import pytest
from hypothesis import settings

import nnkernels as nnk
from nnkernels import registry
from nnkernels.compile import nvrtc
from nnkernels.compile.instance import source_text
from nnkernels.config import conv_channels
from nnkernels.config.device import PROFILES
from nnkernels.config.elementwise import UNIT_STEP
from nnkernels.dispatch.dtypes import ELEMENTS
from nnkernels.dispatch.rows_plan import FINISH_ROW, PART_OF_ROW
from nnkernels.inspection import amd, nvidia, static_table
from nnkernels.inspection.inspect import Choice, choices, compile_all, report
from nnkernels.inspection.kinds import template_arguments
from nnkernels.inspection.loops import multiply_adds
from nnkernels.inspection.problems import (
    Problem,
    channels_last,
    contiguous,
    images_far_apart,
    problems,
)
from nnkernels.inspection.record import launches
from nnkernels.inspection.result import Report, Resources

ARCHS = ("sm_80", "sm_90", "sm_120", "gfx90a")
# The same, as a device of compute capability 9.0 has them.
OF_INSTANCES = ("sm_80", "sm_90a", "sm_120", "gfx90a")
ALWAYS = ("softmax", "softmax_backward", "relu", "swiglu_backward", "matmul", "gemv")
# Of these ops, one in so many where there is no table.
THINNED = 4
# The others: one in so many, spread over the architectures.
SPARSE = 72 * len(OF_INSTANCES)
SHARES = 2
# Kernels of one translation unit.
BATCH = 40
# The reduction of large arguments of the double-precision sine uses an array; it is called for
# arguments beyond 10^5 alone, and not spilt.
TRIGONOMETRIC_ARRAY = 40


def all_instances() -> bool:
    """Whether nothing is left out."""
    asked = os.environ.get("NNKERNELS_TEST_ALL_INSTANCES", "") not in ("", "0")
    return asked or not settings.default.derandomize


def selected(arch: str, share: int) -> list[Choice]:
    """What is compiled for an architecture by one of the tests that share the work."""
    found: dict[str, Choice] = {}
    everything = all_instances()
    for op in registry.all_ops().values():
        # Of each op, one problem in a dtype and on an architecture at least.
        lot = zlib.crc32(op.name.encode())
        one = (op.dtypes[lot % len(op.dtypes)], next(problems(op)).label)
        if OF_INSTANCES[lot // 16 % len(OF_INSTANCES)] != arch:
            one = ("", "")
        families = static_table.FAMILIES.get(arch)
        in_table = families is not None and (not families or op.family in families)

        def wanted(
            dtype: str,
            problem: Problem,
            name: str = op.name,
            one: tuple[str, str] = one,
            in_table: bool = in_table,
            often: bool = families is None and op.name in ALWAYS,
        ) -> bool:
            if in_table and dtype in static_table.DTYPES and not everything:
                return False
            draw = zlib.crc32(f"{name} {dtype} {problem.label}".encode())
            if draw // SPARSE % SHARES != share:
                return False
            if often and dtype == "float32" and draw % THINNED == 0:
                return True
            if (dtype, problem.label) == one:
                return True
            return everything or draw % SPARSE == OF_INSTANCES.index(arch)

        for choice in choices(op, op.dtypes, arch, wanted):
            found.setdefault(choice.launch.instance.symbol, choice)
    return list(found.values())


def reports(chosen: list[Choice], arch: str) -> list[Report]:
    found = []
    for first in range(0, len(chosen), BATCH):
        batch = chosen[first : first + BATCH]
        compiled = compile_all(batch, arch)
        found += [report(c, arch, compiled[c.launch.instance.symbol]) for c in batch]
    return found


@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("arch", [gpu_compilers.parameter(arch) for arch in OF_INSTANCES])
@gpu_compilers.needs_nvdisasm
def test_instances(arch, share):
    chosen = selected(arch, share)
    assert len(chosen) > 10  # of half as many as when one in 36 was compiled: more than 15 then
    faults = [fault for row in reports(chosen, arch) for fault in faults_of(row)]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("arch", static_table.FAMILIES)
def test_instances_of_the_static_report(arch):
    """As :func:`test_instances`, without compiling."""
    rows = static_table.read(Path(__file__).parent.parent / "bench" / "static", arch).rows
    found = []
    for name, choice in static_table.representative(arch).items():
        if row := rows.get(name):
            code = Resources(
                row.registers, row.spill, row.local, row.static_shared, row.loads, row.stores
            )
            found.append(report(choice, arch, code))
    assert len(found) > 200
    faults = [fault for row in found for fault in faults_of(row)]
    assert not faults, "\n".join(faults)


def faults_of(row: Report) -> list[str]:
    """What is wrong with an instance."""
    found, resources = [], row.resources
    if resources.spill_bytes:
        found.append(f"{resources.spill_bytes} bytes of spills")
    allowed = TRIGONOMETRIC_ARRAY if ELEMENTS[row.dtype].kind == "c" else 0
    if resources.local_bytes > allowed:
        found.append(f"{resources.local_bytes} bytes of local memory")
    if row.blocks_per_processor == 0:
        found.append(f"{resources.registers} registers, and no block fits")
    if row.shared > PROFILES[row.arch].shared_limit:
        found.append(f"{row.shared} bytes of shared memory")
    if row.aligned:
        found += narrow_accesses(row)
    return [f"{row.arch} {row.op} {row.dtype}, {row.problem} ({row.kind}): {f}" for f in found]


def narrow_accesses(row: Report) -> list[str]:
    """Accesses of the aligned path that are narrower than they can be.

    One that the compiler splits, or that goes element by element, is missing in the counts.
    """
    found = []
    loads, stores = expected_accesses(row.kernel)
    # Neighbouring rows are taken four at a time: 8 bytes of a 2-byte type.
    widest = max(loads | stores, default=16)
    if widest < (16 if ELEMENTS[row.dtype].itemsize >= 4 else 8):
        found.append(f"at most {widest} bytes at a time")
    for what, counts, expected in (
        ("loads", row.resources.loads, loads),
        ("stores", row.resources.stores, stores),
    ):
        for width, least in expected.items():
            if counts.get(width, 0) < least:
                found.append(f"{what} {counts}, and {least} of {width} bytes were to be there")
    return found


SIZES = {element.storage: element.itemsize for element in ELEMENTS.values()}


def expected_accesses(kernel: str) -> tuple[Counter[int], Counter[int]]:
    """How many loads and stores of how many bytes a kernel has at least."""
    loads: Counter[int] = Counter()
    stores: Counter[int] = Counter()
    name, arguments = template_arguments(kernel)
    if name == "Elementwise":
        vector, groups = int(arguments[5]), int(arguments[6])
        outs, ins, steps = (template_arguments(argument)[1] for argument in arguments[2:5])
        for number, (storage, step) in enumerate(zip([*outs, *ins], steps, strict=True)):
            if step == str(UNIT_STEP):
                width = min(vector * SIZES[storage], 16)
                (stores if number < len(outs) else loads)[width] += groups
    elif name in ("SoftmaxForward", "SoftmaxBackward"):
        vector, depth, stage = (int(arguments[i]) for i in (7, 12, 13))
        width = vector * SIZES[arguments[1]]
        both = name == "SoftmaxBackward" and arguments[0] == "softmax_kind"
        writes = arguments[0] != "logsumexp_kind" and stage != PART_OF_ROW
        # The last stage of a logsumexp only reads what the first saved.
        if writes or stage != FINISH_ROW:
            loads[width] = depth * (2 if both else 1)
        if writes:
            stores[width] = depth
    elif name == "NormForward":
        vector, depth, stage = (int(arguments[i]) for i in (11, 16, 17))
        width, added = vector * SIZES[arguments[1]], arguments[6] == "true"
        # The sum with a residual is written by the launch that reads both.
        first, last = stage != FINISH_ROW, stage != PART_OF_ROW
        loads[width] = depth * (1 + (added and first))
        if last:
            stores[vector * SIZES[arguments[2]]] = depth
        if added:
            stores[width] += depth * first
    elif name == "NormBackward":
        vector, depth, stage = (int(arguments[i]) for i in (8, 13, 14))
        if stage == PART_OF_ROW:  # in a loop, so many groups at once: RowTeam::each
            depth = 4 if vector < 8 else 2
        for storage in arguments[1:3]:
            loads[vector * SIZES[storage]] += depth
        if stage != PART_OF_ROW:
            stores[vector * SIZES[arguments[1]]] = depth
    elif name == "GroupNormBackward":
        # x and dy, in a loop, of rows that are read again in two.
        vector, stage = int(arguments[7]), int(arguments[12])
        for storage in arguments[:2]:
            loads[vector * SIZES[storage]] += 1
        stores[vector * SIZES[arguments[0]]] = int(stage != PART_OF_ROW)
    elif name in ("GemvAlong", "GemvAcross"):
        # The matrix: for each of the columns, or rows, that are taken at once; four at least.
        loads[min(int(arguments[6]) * SIZES[arguments[1]], 16)] = 4
    return loads, stores


# A processor makes a multiply-add of four warps in a cycle and issues four instructions: what
# others take, multiplying loses. On gfx90a matrix cores make float32 products, and one instruction
# two multiply-adds.
LEAST_SHARE = {"sm_80": 0.8, "sm_90": 0.8, "sm_120": 0.8, "gfx90a": 0.7}
ORDINARY = {"sm_80": "float32", "sm_90": "float32", "sm_120": "float32", "gfx90a": "complex64"}


@pytest.mark.parametrize("arch", [gpu_compilers.parameter(arch) for arch in ARCHS])
@gpu_compilers.needs_nvdisasm
@pytest.mark.usefixtures("ordinary_products")
def test_the_main_loop_of_a_large_product_multiplies(arch):
    labels = ("large", "large, operands transposed")

    def wanted(dtype, problem):
        return problem.label in labels

    found = reports(choices(registry.find("matmul"), (ORDINARY[arch],), arch, wanted), arch)
    assert {row.problem for row in found} == set(labels)
    for row in found:
        assert row.kernel.startswith("MatmulSimt")
        loop = row.resources.loop
        share = multiply_adds(loop) / loop.total()
        assert share >= LEAST_SHARE[arch], (row.problem, row.kind, loop)
        assert not set(loop) & {"LDL", "STL", "scratch_load_dword", "scratch_store_dword"}
        assert multiply_adds(loop) >= 128
        if not arch.startswith("gfx"):
            # Both tiles as vectors of 16 bytes: 4 reads for 64 sums of a term.
            assert loop["LDS"] * 16 <= loop["FFMA"]
            assert loop["BAR"] == 1


# What a division by a number that is not known before is made of.
DIVIDES = (
    "MUFU", "I2F", "F2I", "I2FP", "CALL",
    "v_rcp_f32", "v_rcp_f32_e32", "v_rcp_iflag_f32", "v_rcp_iflag_f32_e32", "v_cvt_f32_u32",
    "v_cvt_f32_u32_e32", "s_swappc_b64",
)  # fmt: skip
# In vectors of 16 bytes along channels; else element by element, of which each is looked up, its
# place compared with the border, and its address added up.
LEAST_CONVOLVING = {True: 0.74, False: 0.63}


@pytest.mark.parametrize("arch", [gpu_compilers.parameter(arch) for arch in ARCHS])
@gpu_compilers.needs_nvdisasm
@pytest.mark.usefixtures("ordinary_products")
def test_the_main_loop_of_a_convolution_does_not_divide(arch):
    def wanted(dtype, problem):
        return problem.label.startswith("large")

    chosen = []
    for name in ("conv", "conv_backward_data", "conv_backward_weight"):
        chosen += choices(registry.find(name), (ORDINARY[arch],), arch, wanted)
    kernels = {choice.launch.instance.symbol: choice for choice in chosen}
    found = [r for r in reports(list(kernels.values()), arch) if "ConvTiles" in r.kernel]
    assert {row.kernel.partition("ConvTiles<")[2].split(",")[0] for row in found} == {
        "pixels_are_columns", "pixels_are_rows", "pixels_are_terms"
    }  # fmt: skip
    for row in found:
        loop, what = row.resources.loop, (row.op, row.problem, row.kind, row.resources)
        assert not faults_of(row), what
        assert not set(loop) & set(DIVIDES), what
        assert not set(loop) & {"LDL", "STL", "scratch_load_dword", "scratch_store_dword"}, what
        channels_last = row.problem.endswith("channels last")
        assert multiply_adds(loop) >= LEAST_CONVOLVING[channels_last] * loop.total(), what
        if not arch.startswith("gfx") and channels_last:
            # Both operands in vectors of 16 bytes, before the loop and in it.
            assert loop["BAR"] == 1, what
            assert row.resources.loads[16] == 2 * loop["LDG"], what


# Whatever else is in the loop of a matrix core counts, and computes addresses of copies: of each,
# two additions. There were 52 for a slice of 64 HMMA and 6 copies, where registers held the places
# of its stage.
COUNTING = 6
MATRIX_LOOP = {"HMMA", "LDSM", "LDGSTS", "LDGDEPBAR", "DEPBAR", "BAR", "BRA"}
NO_WORK = (
    "LDG", "STG", "LD", "ST", "LDL", "STL", "STS", "FFMA", "FADD", "FMUL", "HADD2", "HFMA2", "F2F",
    "F2FP", "PRMT", "SHFL", "CALL",
)  # fmt: skip


@pytest.mark.parametrize("arch", [gpu_compilers.parameter(arch) for arch in ARCHS])
@gpu_compilers.needs_nvdisasm
def test_the_main_loop_of_a_matrix_core_only_feeds_it(arch):
    labels = ("large", "large, operands transposed", "16 rows")

    def wanted(dtype, problem):
        return problem.label in labels

    found = reports(choices(registry.find("matmul"), ("float16",), arch, wanted), arch)
    found = [row for row in found if row.kernel.startswith("MatmulTensor")]
    assert {row.problem for row in found} == set(labels)
    for row in found:
        loop, what = row.resources.loop, (row.problem, row.kind, row.resources.loop)
        assert row.resources.spill_bytes == 0, what
        if arch.startswith("gfx"):
            assert not set(loop) & {"scratch_load_dword", "scratch_store_dword"}, what
            assert not set(loop) & {"buffer_load_dword", "buffer_store_dword"}, what
            assert sum(n for name, n in loop.items() if name.startswith("v_mfma")) >= 4, what
            continue
        # Reads of fragments, copies, one barrier; and few instructions for addresses.
        assert set(loop) >= MATRIX_LOOP, what
        assert not set(loop) & set(NO_WORK), what
        assert loop["LDSM"] <= loop["HMMA"], what
        assert loop["LDGSTS"] >= 6 * loop["BAR"], what
        # Nothing computes where a stage lies: the code of each has its own numbers. (Before every
        # LDGSTS, ptxas puts a few LDS that read nothing.)
        others = loop.total() - sum(loop[name] for name in (*MATRIX_LOOP, "LDS"))
        assert others <= 2 * loop["LDGSTS"] + COUNTING * loop["BAR"], what
        if row.problem != "16 rows":
            assert loop["HMMA"] == 4 * loop["LDSM"], what
            assert loop["HMMA"] == 64 * loop["BAR"], what
            assert loop.total() <= 1.8 * loop["HMMA"], what


# Elements of a line, and elements from one to the next, of operands of which each line is aligned
# to so many bytes.
LINES = {16: (1024, 1024), 8: (1004, 1004), 4: (1002, 1002), 2: (1001, 1001)}


def operand(rows, alignment, along_rows):
    """Of float16, with terms or rows adjacent."""
    if along_rows:
        whole = contiguous((1024, rows + alignment // 2), np.dtype(np.float16))
        return whole[: LINES[alignment][0], :rows].T
    return contiguous((rows, LINES[alignment][0]), np.dtype(np.float16))


def products_of_lines():
    """Name, and operands, of a large product; and how many bytes each is aligned to."""
    for along_rows in (False, True):
        for alignment in (8, 4, 2):
            a, b = (operand(2048, alignment, along_rows) for _ in range(2))
            yield f"{alignment} bytes, {along_rows}", a, b.T, (alignment, alignment)
    # K = 1024, and every row of A begins one element further on.
    a = contiguous((2048, 1026), np.dtype(np.float16))[:, :1024]
    yield "16 and 4 bytes", a, operand(2048, 16, along_rows=False).T, (4, 16)
    a = contiguous((2048, 1025), np.dtype(np.float16))[:, :1024]
    yield "16 and 2 bytes", a, operand(2048, 16, along_rows=False).T, (2, 16)


@pytest.mark.parametrize("arch", [gpu_compilers.parameter(arch) for arch in ("sm_80", "gfx90a")])
@gpu_compilers.needs_nvdisasm
def test_lines_that_are_not_aligned_are_not_read_element_by_element(arch):
    device = PROFILES[arch]
    found = {}
    for name, a, b, alignments in products_of_lines():
        (launch,) = launches(nnk.matmul, (a, b), {}, device)
        found[launch.instance.symbol] = name, launch.instance, alignments
    text = source_text(tuple(instance for _, instance, _ in found.values()), device.machine)
    if device.machine == "hip":
        for symbol, resources in amd.resources(text, arch).items():
            name, instance, alignments = found[symbol]
            assert resources.spill_bytes == resources.local_bytes == 0, name
            if name.endswith("False"):  # chunks of terms, at any address
                share = sum(copied_bytes(instance, alignments).values()) // 16
                assert resources.loads.get(16, 0) >= share, (name, resources.loads)
        return
    cubin = nvrtc.compile_cubin(text, arch)
    reports = nvidia.parse_report(cubin.log)
    for symbol, code in nvidia._disassembled(cubin.code).items():
        name, instance, alignments = found[symbol]
        loop, resources = nvidia.count(code)["loop"], reports[symbol]
        what = (name, instance.kernel, resources, loop)
        assert resources.spill_bytes == resources.local_bytes == 0, what
        share = copied_bytes(instance, alignments)
        widths = {alignment for alignment in share if alignment >= 4}
        copies = [name.split(".") for name in code.instructions if name.startswith("LDGSTS")]
        found_widths = {next((w for w in ("128", "64") if w in name), "32") for name in copies}
        assert found_widths == {str(8 * width) for width in widths}, what
        count = sum(share[width] // width for width in widths)
        assert loop["LDGSTS"] == count * loop["BAR"], what
        # Five words for 16 bytes.
        assert loop["LDG"] == share.get(2, 0) // 16 * 5 * loop["BAR"], what
        assert not {"LD", "ST", "LDL", "STL"} & set(loop), what
        assert not any(name.startswith(("LDG.E.U", "LDG.E.S")) for name in code.instructions), what


def copied_bytes(instance, alignments):
    """By alignment: bytes of float16 that a thread copies for a slice."""
    share = Counter()
    m, n, terms = (int(a) for a in template_arguments(instance.kernel)[1][7:10])
    for rows, alignment in zip((m, n), alignments, strict=True):
        share[alignment] += rows * terms * 2 // instance.threads
    return share


def convolutions():
    """Calls of convolutions of float16 images that have channels last, and other ones."""
    x, w, y = (
        channels_last(shape, np.dtype(np.float16))
        for shape in ((32, 256, 56, 56), (256, 256, 3, 3), (32, 256, 28, 28))
    )
    first, first_y = (contiguous(a.shape, a.dtype) for a in (x, y))
    many, strided = channels_last((256, 256, 6, 6), w.dtype), {"padding": 1, "stride": 2}
    far = np.moveaxis(images_far_apart((2, 56, 56, 256), x.dtype), -1, 1)
    return {
        "chunks": (nnk.conv, (x, w), {"padding": 1}),
        "chunks of many taps": (nnk.conv, (x, many), {"padding": 1}),
        "chunks far apart": (nnk.conv, (far, w), {"padding": 1}),
        "chunks of a gradient": (nnk.conv_backward_data, (y, w, x.shape), strided),
        "chunks of pixels": (nnk.conv_backward_weight, (y, x, w.shape), strided),
        "chunks of a copy": (nnk.conv, (first, w), {"padding": 1}),
        "pixels": (nnk.conv, (first, w), {"padding": 1}),
        "pixels as terms": (nnk.conv_backward_weight, (first_y, first, w.shape), strided),
    }  # fmt: skip


@pytest.mark.parametrize(
    "arch", [gpu_compilers.parameter(arch) for arch in ("sm_80", "sm_90", "gfx90a")]
)
@gpu_compilers.needs_nvdisasm
def test_the_main_loop_of_a_convolution_on_matrix_cores_does_not_divide(arch, monkeypatch):
    pays, device = conv_channels.pays, PROFILES[arch]
    found = {}
    for name, (function, arrays, options) in convolutions().items():
        if arch != "sm_80" and name not in ("chunks", "chunks of pixels"):
            continue
        # Where images were copied, none would be gathered pixel by pixel.
        copies = name.startswith("chunks")
        monkeypatch.setattr(conv_channels, "pays", pays if copies else lambda *of_problem: False)
        for launch in launches(function, arrays, options, device):
            if launch.instance.kernel.startswith("MatmulTensor"):
                found.setdefault(launch.instance.symbol, (name, launch))
    instances = tuple(launch.instance for _, launch in found.values())
    compiler = nvidia if device.machine == "cuda" else amd
    compiled = compiler.resources(source_text(instances, device.machine), arch)
    assert {name for name, _ in found.values()} >= {"chunks", "chunks of pixels"}
    for symbol, (name, launch) in found.items():
        resources, loop = compiled[symbol], compiled[symbol].loop
        what = (name, launch.instance.kernel, resources.registers, loop)
        assert resources.spill_bytes == resources.local_bytes == 0, what
        assert not set(loop) & set(DIVIDES), what
        if device.machine == "hip":
            assert sum(n for i, n in loop.items() if i.startswith("v_mfma")) >= 4, what
            continue
        assert loop["HMMA"] >= 32 * loop["BAR"], what
        assert loop["HMMA"] >= 2 * loop["LDSM"], what
        if name.startswith("chunks"):
            arguments = template_arguments(launch.instance.kernel)[1]
            m, n, terms = (int(a) for a in arguments[7:10])
            copies = (m + n) * terms * 2 // 16 // launch.instance.threads
            assert loop["LDGSTS"] == copies * loop["BAR"], what  # of 16 bytes each
            assert not set(loop) & {"LDG", "STS"}, what
            # Places among taps take additions; more of them in three coordinates, or in 64 bits, or
            # where pixels are terms, and those of every copy advance.
            others = loop.total() - loop["HMMA"] - loop["LDSM"] - loop["LDGSTS"]
            most = {
                "chunks": 1,
                "chunks of a copy": 1,
                "chunks of a gradient": 1,
                "chunks of pixels": 3.6,
            }.get(name, 2.5)
            assert others <= most * loop["HMMA"], what


def strided_products_of_vectors():
    """Of float16: nothing is adjacent, or terms of one are; few sums, many, far ones."""
    half, far = np.dtype(np.float16), (1 << 14) + 1024
    x, rows, many = (contiguous(shape, half) for shape in ((256,), (2048, 256), (8192, 256)))
    strided_x = contiguous((512,), half)[::2]
    strided, strided_many = (contiguous((n, 512), half)[:, ::2] for n in (2048, 1 << 16))
    far_away = contiguous((1 << 16, far), half)[:, :512:2]
    yield from ((strided, strided_x), (strided, x), (rows, strided_x))
    yield from ((strided_many, strided_x), (strided_many, x), (many, strided_x))
    yield from ((far_away, strided_x), (far_away[::32], strided_x))


@pytest.mark.parametrize("arch", [gpu_compilers.parameter(arch) for arch in ("sm_80", "sm_120")])
@gpu_compilers.needs_nvdisasm
def test_products_of_vectors_that_are_read_one_by_one_do_not_spill(arch):
    found = {}
    for arrays in strided_products_of_vectors():
        for launch in launches(nnk.matmul, arrays, {}, PROFILES[arch]):
            found[launch.instance.symbol] = launch.instance
    assert all(instance.kernel.startswith("GemvAlong") for instance in found.values())
    arguments = [template_arguments(instance.kernel)[1] for instance in found.values()]
    assert {(a[4], a[9]) for a in arguments} >= {
        ("int32", "1"), ("int32", "4"), ("int64", "1"), ("int64", "2"),
    }  # fmt: skip
    for symbol, resources in nvidia.resources(
        source_text(tuple(found.values()), "cuda"), arch
    ).items():
        assert resources.spill_bytes == resources.local_bytes == 0, (
            found[symbol].kernel,
            resources,
        )


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.usefixtures("ordinary_products")
def test_every_regime_of_products_is_reached(arch):
    found = choices(registry.find("matmul"), (ORDINARY[arch],), arch)
    kinds = {report_kind(choice, arch) for choice in found}
    if ORDINARY[arch] == "float32":
        large = {"tile 128x128x8", "tile 128x64x8", "tile 64x64x8"}
        others = {"tile 16x256x16", "sums of splits, 4 at once", "tile 16x16x16, 8 at once"}
    else:
        large = {"tile 64x64x8"}
        others = {"tile 16x128x8", "sums of splits, 2 at once", "tile 16x16x8, 4 at once"}
    assert others <= kinds
    assert kinds & large
    index = {
        template_arguments(choice.launch.instance.kernel)[1][4]
        for choice in found
        if choice.launch.instance.kernel.startswith("MatmulSimt")
    }
    assert index == {"int32", "int64"}


@pytest.mark.parametrize("arch", ARCHS)
def test_every_kind_of_vector_product_is_reached(arch):
    kinds = {
        report_kind(choice, arch) for choice in choices(registry.find("gemv"), ("float32",), arch)
    }
    slices = 256 // PROFILES[arch].warp
    assert f"{4 * slices} slices of terms, sums across memory" in kinds
    assert any(kind.startswith("sums of splits, 4 at once") for kind in kinds)
    assert {
        "warp for 1 sums along memory",
        "warp for 4 sums along memory",
        "block of 256 for 1 sums along memory",
        f"{slices} slices of terms, sums across memory",
    } <= kinds


def test_faults_are_seen():
    """The checks above, on reports with one fault each."""
    op = registry.find("softmax")
    (choice,) = [c for c in choices(op, ("float32",), "sm_90") if c.problem.label == "rows of 256"]
    good = {
        "registers": 54, "spill_bytes": 0, "local_bytes": 0, "static_shared": 0,
        "loads": {16: 8, 4: 32}, "stores": {16: 8, 4: 32},
    }  # fmt: skip
    assert faults_of(made(choice, good)) == []
    for change, word in (
        ({"spill_bytes": 8}, "spills"),
        ({"local_bytes": 16}, "local memory"),
        ({"registers": 600}, "no block fits"),
        ({"static_shared": 1 << 20}, "shared memory"),
        ({"loads": {16: 7, 4: 40}}, "8 of 16 bytes"),
        ({"stores": {8: 16, 4: 32}}, "8 of 16 bytes"),
    ):
        faults = faults_of(made(choice, good | change))
        assert any(word in fault for fault in faults), (change, faults)


def made(choice, fields):
    from nnkernels.inspection.result import Resources

    return report(choice, "sm_90", Resources(**fields))


@pytest.mark.parametrize("arch", ARCHS)
def test_every_row_length_class_is_reached(arch):
    """The problems that are compiled reach the whole ladder, so that no class goes untested."""
    kinds = set()
    for dtype in ("float32", "float64"):
        for choice in choices(registry.find("softmax"), (dtype,), arch):
            kinds.add(report_kind(choice, arch))
    warp = PROFILES[arch].warp
    lanes = {f"{n} lanes, row in registers" for n in (8, 16, 32) if n < warp}
    blocks = {f"block of {n}, row in registers" for n in (128, 256, 512)}
    assert lanes | blocks <= kinds
    assert "warp, row in registers" in kinds
    assert "block of 1024, row read again" in kinds
    assert {"block of 256, parts of rows", "block of 256, rows of parts"} <= kinds
    assert {"16 threads a column, row in registers", "16 threads a column, row read again"} <= kinds
    if PROFILES[arch].shared_limit > 160 * 1024:  # what registers cannot keep must still fit
        assert "block of 1024, row in shared memory" in kinds


def report_kind(choice, arch):
    from nnkernels.inspection.kinds import kind_of

    return kind_of(choice.launch.instance, PROFILES[arch].warp)


CLAMP = """\
#include "platform/cuda.cuh"
struct Kernel {
  struct Args { const int* in; int* out; };
  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const int n = args.in[group.rank()];
    const int left = %s;
    if (left == 4) args.out[group.rank()] = args.in[group.rank() + 32];
    else if (left > 1) args.out[group.rank()] = 7;
  }
};
NNK_ENTRY(clamp, 32, Kernel)
"""


@pytest.mark.parametrize("arch", [gpu_compilers.parameter("sm_90")])
@gpu_compilers.needs_nvdisasm
def test_counts_are_not_clamped_by_one_instruction(arch):
    """ptxas before CUDA 13.4 miscompiles comparisons of what VIMNMX.RELU makes: see within()."""

    def clamps(text):
        code = nvrtc.compile_cubin(text, arch).code
        return {
            name
            for kernel in nvidia._disassembled(code).values()
            for name in kernel.instructions
            if name.startswith("VIMNMX") and "RELU" in name
        }

    assert clamps(CLAMP % "n < 0 ? 0 : n < 4 ? n : 4")
    assert not clamps(CLAMP % "nnk::within(n, 4)")
    columns = np.empty((90, 4), np.float32)
    instances = [
        launch.instance
        for call, arrays in (
            (nnk.softmax, [columns]),
            (nnk.softmax_backward, [columns, columns]),
            (nnk.layer_norm, [columns]),
        )
        for launch in launches(call, arrays, {"axis": 0}, PROFILES[arch])
    ]
    numbers = np.empty(1000, np.int32)
    fused = nnk.fuse(lambda x, c: nnk.relu(np.minimum(x, c)) == c)
    instances += [x.instance for x in launches(fused, [numbers, numbers], {}, PROFILES[arch])]
    assert not clamps(source_text(tuple(dict.fromkeys(instances)), "cuda"))
