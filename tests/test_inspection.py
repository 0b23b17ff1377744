"""What `inspect` reads out of reports, disassemblies and calls; no compiler is needed."""

from __future__ import annotations

import struct

import gpu_compilers
import pytest

import nnkernels as nnk
from nnkernels import registry
from nnkernels.cli.table import table
from nnkernels.config.device import PROFILES
from nnkernels.dispatch import machines
from nnkernels.errors import BackendError
from nnkernels.inspection import amd, nvidia
from nnkernels.inspection.batches import Compilers, compiler_for
from nnkernels.inspection.inspect import choices, compile_all, inspect
from nnkernels.inspection.msgpack import unpack
from nnkernels.inspection.occupancy import LIMITS, blocks_per_processor
from nnkernels.inspection.problems import problems
from nnkernels.inspection.record import launches
from nnkernels.inspection.result import Unavailable, widths_text

PTXAS = """\
ptxas info    : 471 bytes gmem
ptxas info    : Compiling entry function 'second' for 'sm_90'
ptxas info    : Function properties for second
ptxas         .     16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 16 bytes cumulative stack size, 2048 bytes smem
ptxas info    : Compiling entry function 'first' for 'sm_90'
ptxas info    : Function properties for first
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 20 registers, used 0 barriers
"""

SASS = """\
	.section	.text.first,"ax",@progbits
.text.first:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/                   LDG.E R8, desc[UR4][R2.64+0x10] ;
.L_x_0:
        /*0030*/              @P1  LDG.E.U16 R9, desc[UR4][R2.64] ;
        /*0040*/                   STG.E.64 desc[UR4][R2.64], R4 ;
        /*0050*/             @UP0  UIADD3 UR4, UR4, 0x1, URZ ;
        /*f0a0*/                   STL.64 [R1], R2 ;
.text.second:
        /*0000*/                   ST.E.U8 desc[UR4][R2.64], R4 ;
"""

GCN = """\
first:
	s_load_dwordx4 s[16:19], s[4:5], 0x0                       // 000000002908: C00A0402 00000000
	global_load_dwordx4 v[2:5], v[0:1], off                    // 000000002910: DC5C8000
	global_load_ushort v6, v[0:1], off                         // 000000002918: DC488000
	global_load_short_d16_hi v6, v[0:1], off                   // 000000002920: DC948000
	v_add_f32_e32 v2, v2, v3                                   // 000000002928: 02040702
	flat_store_dword v[0:1], v2                                // 00000000292C: DC700000
	scratch_store_dword off, v2, s0                            // 000000002934: DC704000
	s_endpgm                                                   // 00000000293C: BF810000
	s_code_end                                                 // 000000002940: BF9F0000
0000000000002980 <second>:
	global_store_byte v[0:1], v2, off                          // 000000002980: DC608000
"""


def test_report_of_ptxas():
    found = nvidia.parse_report(PTXAS)
    assert set(found) == {"first", "second"}
    second = found["second"]
    assert (second.registers, second.spill_bytes, second.local_bytes) == (255, 20, 16)
    assert second.static_shared == 2048
    first = found["first"]
    assert (first.registers, first.spill_bytes, first.static_shared) == (20, 0, 0)


def test_machine_code_of_nvidia():
    kernels = nvidia.parse_disassembly(SASS)
    first = nvidia.count(kernels["first"])
    assert first["loads"] == {16: 1, 4: 1, 2: 1}
    assert first["stores"] == {8: 1}  # local memory is not counted as global
    assert first["mix"] == {"LDC": 1, "LDG": 3, "STG": 1, "UIADD3": 1, "STL": 1}
    assert nvidia.count(kernels["second"])["stores"] == {1: 1}


LOOPS = """\
.text.looping:
        /*0000*/                   MOV R1, R2 ;
.L_x_1:
        /*0010*/                   IADD3 R1, R1, R2, RZ ;
.L_x_2:
        /*0020*/                   LDS.128 R4, [R1] ;
        /*0030*/                   FFMA.FTZ R5, R4, R4, R5 ;
        /*0040*/                   FFMA.FTZ R5, R4, R4, R5 ;
        /*0050*/               @P0 BRA `(.L_x_2) ;
        /*0060*/                   FFMA.FTZ R5, R4, R4, R5 ;
        /*0070*/               @P0 BRA `(.L_x_1) ;
.L_x_3:
        /*0080*/                   FFMA.FTZ R5, R4, R4, R5 ;
        /*0090*/               @P1 BRA `(.L_x_3) ;
        /*00a0*/              @!P1 BRA `(.L_x_4) ;
        /*00b0*/                   FFMA.FTZ R5, R4, R4, R5 ;
.L_x_4:
        /*00c0*/                   EXIT ;
"""


def test_the_main_loop_is_the_innermost_one_with_most_work():
    code = nvidia.parse_disassembly(LOOPS)["looping"]
    assert code.branches == [(5, 2), (7, 1), (9, 8), (10, 12)]
    assert nvidia.count(code)["loop"] == {"LDS": 1, "FFMA": 2, "BRA": 1}
    straight = nvidia.parse_disassembly(SASS)["first"]
    assert nvidia.count(straight)["loop"] == {}


def test_the_main_loop_of_amd():
    # 65533 is -3: three words back from the end of the branch.
    text = """\
looping:
	s_cbranch_execz 3                  // 000000001000: BF880003  <looping+0x10>
	v_fmac_f32_e32 v2, v2, v3          // 000000001004: 02040702
	s_waitcnt lgkmcnt(0)               // 000000001008: BF8CC07F
	s_cbranch_scc1 65533               // 00000000100C: BF85FFFD  <looping+0x4>
	s_endpgm                           // 000000001010: BF810000
"""
    code = amd.parse_disassembly(text)["looping"]
    assert code.branches == [(0, 4), (3, 1)]
    assert amd.count(code)["loop"] == {"v_fmac_f32": 1, "s_waitcnt": 1, "s_cbranch_scc1": 1}


def test_machine_code_of_amd():
    kernels = amd.parse_disassembly(GCN)
    first = amd.count(kernels["first"])
    assert first["loads"] == {16: 1, 2: 2}
    assert first["stores"] == {4: 1}
    assert first["mix"]["v_add_f32"] == 1
    assert "s_code_end" not in first["mix"]
    assert amd.count(kernels["second"])["stores"] == {1: 1}


def elf(sections):
    """A file of nothing but a header, some sections and their table."""
    content, table_entries = b"", b""
    for kind, data in sections:
        table_entries += struct.pack(
            "<IIQQQQIIQQ", 0, kind, 0, 0, 64 + len(content), len(data), 0, 0, 0, 0
        )
        content += data
    header = b"\x7fELF\x02\x01".ljust(40, b"\0") + struct.pack("<Q", 64 + len(content))
    header = header.ljust(58, b"\0") + struct.pack("<HHH", 64, len(sections), 0)
    return header + content + table_entries


def note(name, kind, data):
    padded = name.ljust(-(-len(name) // 4) * 4, b"\0")
    return (
        struct.pack("<III", len(name), len(data), kind)
        + padded
        + data.ljust(-(-len(data) // 4) * 4, b"\0")
    )


def test_metadata_of_amd():
    packed = bytes([0x81, 0xA4]) + b"size" + bytes([0x2A])
    notes = note(b"GNU\0", 3, b"12345") + note(b"AMDGPU\0", 32, packed)
    assert amd.metadata(elf([(1, b"code"), (7, notes)])) == {"size": 42}
    with pytest.raises(nnk.BackendError, match="no metadata"):
        amd.metadata(elf([(1, b"code")]))
    with pytest.raises(nnk.BackendError, match="no 64-bit"):
        amd.metadata(b"MZ")


def test_messagepack():
    packed = (
        b"\xdf\x00\x00\x00\x02" + b"\xd9\x03abc" + b"\xdc\x00\x04\xc0\xc2\xff\xd0\x80"
        + b"\xda\x00\x01x" + b"\xcf\x00\x00\x00\x01\x00\x00\x00\x00"
    )  # fmt: skip
    assert unpack(packed) == {"abc": [None, False, -1, -128], "x": 2**32}
    with pytest.raises(ValueError, match="0xc4"):
        unpack(b"\xc4\x00")


@pytest.mark.parametrize(
    ("arch", "threads", "registers", "shared", "blocks"),
    [
        # NVIDIA's occupancy calculator: 40 registers, 48 of 64 warps
        ("sm_90", 256, 40, 0, 6),
        ("sm_90", 1024, 32, 0, 2),
        ("sm_90", 32, 16, 0, 32),
        ("sm_80", 256, 32, 80 * 1024, 2),  # 164 KiB, of which a block takes 1 KiB more
        ("sm_86", 256, 32, 0, 6),
        ("sm_90", 1024, 255, 0, 0),
        ("gfx90a", 256, 64, 0, 8),
        ("gfx90a", 256, 128, 0, 4),
        ("gfx90a", 64, 32, 32 * 1024, 2),
        ("sm_999", 32, 16, 0, None),
    ],
)
def test_occupancy(arch, threads, registers, shared, blocks):
    assert blocks_per_processor(arch, threads, registers, shared) == blocks


def test_limits_are_known_for_every_profile():
    assert set(PROFILES) <= set(LIMITS)
    for arch, device in PROFILES.items():
        assert LIMITS[arch].warp == device.warp
        assert LIMITS[arch].shared >= device.shared_limit


def test_every_op_can_be_inspected():
    for op in registry.all_ops().values():
        labels = [problem.label for problem in problems(op)]
        assert len(set(labels)) == len(labels), op.name
        assert choices(op, op.dtypes[:1], "sm_90"), op.name


def test_recording_launches_nothing():
    op = registry.find("softmax")
    problem = next(iter(problems(op)))
    before = machines.for_numpy()
    (launch,) = launches(op.function, problem.arrays("float32"), problem.options, PROFILES["sm_90"])
    assert launch.instance.header == "softmax"
    assert launch.blocks > 0
    assert machines.for_numpy() is before


def test_large_problems_take_no_memory():
    """Their pages are never touched."""
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    choices(registry.find("softmax_backward"), ("float64",), "sm_90")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB


def test_widths_are_written_widest_first():
    assert widths_text({4: 32, 16: 8}) == "8x16 32x4"
    assert widths_text({}) == "-"


def test_table():
    lines = table(("name", "n"), [("a", 1), ("bb", 10)]).splitlines()
    assert lines == ["name   n", "a      1", "bb    10"]
    assert table(("name",), []) == "name"


# ---- Clang, for AMD architectures that hipRTC does not know --------------------------------------

ASSEMBLY = """
first:                                  ; @first
; %bb.0:
\ts_load_dwordx2 s[0:1], s[0:1], 0x0
.LBB0_1:                                ; =>This Inner Loop Header: Depth=1
\tglobal_load_dwordx4 v[0:3], v4, s[0:1]
\tv_fma_f32_e64 v0, v1, v2, v3
\ts_cbranch_scc1 .LBB0_1
; %bb.2:
\tglobal_store_dword v4, v0, s[0:1]
\ts_endpgm
.Lfunc_end0:
\t.amdgpu_metadata
---
amdhsa.kernels:
  - .agpr_count:     0
    .args:
      - .name:           x
        .offset:         0
    .group_segment_fixed_size: 256
    .name:           first
    .private_segment_fixed_size: 16
    .sgpr_spill_count: 0
    .vgpr_count:     5
    .vgpr_spill_count: 2
  - .args:
      - .offset:         0
    .group_segment_fixed_size: 0
    .name:           second
    .private_segment_fixed_size: 0
    .sgpr_spill_count: 0
    .vgpr_count:     1
    .vgpr_spill_count: 0
amdhsa.target:   amdgcn-amd-amdhsa--gfx942
...
\t.end_amdgpu_metadata
"""


@pytest.fixture
def clang_alone(monkeypatch):
    """As if hipRTC knew no architecture; what compiles is found out anew."""

    def gives_up(text, arch, **_):
        raise BackendError(f"hipRTC gave up on {arch}")

    monkeypatch.setattr(amd.hiprtc, "version_text", lambda: "hipRTC")
    monkeypatch.setattr(amd.hiprtc, "compile_code_object", gives_up)
    amd._gives_up.cache_clear()
    yield
    amd._gives_up.cache_clear()


def test_assembler_text_of_clang(clang_alone, monkeypatch):
    monkeypatch.setattr(amd.clang, "program", lambda: "clang++")
    monkeypatch.setattr(amd.clang, "version_text", lambda: "Clang 19.1")
    monkeypatch.setattr(amd.clang, "compile_assembly", lambda text, arch: ASSEMBLY)
    found = amd.resources("", "gfx942")
    assert set(found) == {"first", "second"}
    first = found["first"]
    assert (first.registers, first.spill_bytes, first.local_bytes) == (5, 16, 16)
    assert first.static_shared == 256
    assert (first.loads, first.stores) == ({16: 1}, {4: 1})
    loop = {"global_load_dwordx4": 1, "v_fma_f32": 1, "s_cbranch_scc1": 1}
    assert first.loop == loop
    assert compiler_for("gfx942") == "Clang 19.1"


def test_nothing_compiles_for_an_architecture(clang_alone, monkeypatch):
    monkeypatch.setattr(amd.clang, "program", lambda: None)
    with Compilers(1) as compilers:
        (row,) = inspect([registry.find("relu")], ["float32"], ["gfx942"], compilers)
    assert row == Unavailable(
        "gfx942", "hipRTC gave up on gfx942; and no Clang for AMD GPUs is installed"
    )


@gpu_compilers.needs_clang
@pytest.mark.parametrize("arch", ["gfx942", "gfx1100"])
def test_kernels_by_clang(clang_alone, arch):
    op = registry.find("softmax")
    (choice,) = [c for c in choices(op, ("float16",), arch) if c.problem.label == "rows of 256"]
    found = compile_all([choice], arch)[choice.launch.instance.symbol]
    assert found.spill_bytes == 0
    assert set(found.loads) == set(found.stores) == {16}
    assert "v_exp_f32" in found.mix
    # Functions that the compiler does not know would be calls.
    assert not any(name.startswith(("s_swappc", "s_call")) for name in found.mix)
