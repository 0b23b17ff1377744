"""The atoms as the GPU compilers make them: the instructions that they stand for are there."""

from __future__ import annotations

from collections import Counter

import gpu_compilers
import pytest
from sim_native import NATIVE

from nnkernels.compile import clang, nvrtc
from nnkernels.inspection import amd, nvidia


def text_for(platform: str, header: str, lanes: int, atoms: dict[str, str], loop: str = "") -> str:
    """A translation unit with a product on each of some atoms, or the main loop of one."""
    source = NATIVE / ("mma_loop.cuh" if loop else "mma_product.cuh")
    kernel = "MmaLoop" if loop else "MmaProduct"
    entries = [
        f"NNK_ENTRY({kernel}_{name}, {2 * lanes}, {kernel}<{atom}{loop}>)\n"
        for name, atom in atoms.items()
    ]
    includes = f'#include "platform/{platform}.cuh"\n#include "nnk/{header}.cuh"\n'
    return includes + source.read_text().replace("#pragma once\n", "") + "".join(entries)


def in_loop(instructions: list[str], barrier: str, branch: str) -> Counter[str]:
    """What stands between the barrier and the end of the loop that it begins."""
    (first,) = (i for i, name in enumerate(instructions) if name.startswith(barrier))
    last = next(i for i in range(first, len(instructions)) if instructions[i].startswith(branch))
    return Counter(instructions[first:last])


# ---- NVIDIA ----------------------------------------------------------------------------------

SASS = {
    "half": "HMMA.16816.F32",
    "bfloat16": "HMMA.16816.F32.BF16",
    "Tf32": "HMMA.1688.F32.TF32",
    "int8": "IMMA.16832.S8.S8",
    "uint8": "IMMA.16832.U8.U8",
}
SM80 = {name: f"nnk::MmaSm80<nnk::{name}>" for name in SASS}
DOUBLE = {"sm_80": "DMMA.884", "sm_90": "DMMA.16x8x4"}


@pytest.mark.parametrize("arch", [gpu_compilers.parameter(a) for a in ("sm_80", "sm_90", "sm_120")])
@gpu_compilers.needs_nvdisasm
def test_nvidia(arch):
    cubin = nvrtc.compile_cubin(text_for("cuda", "mma_sm80", 32, SM80), arch)
    resources = nvidia.parse_report(cubin.log)
    disassembled = nvidia._disassembled(cubin.code)
    for name, product in SASS.items():
        symbol = f"MmaProduct_{name}"
        found = Counter(disassembled[symbol].instructions)
        assert {n for n in found if "MMA" in n} == {product}
        assert "LDSM.16.M88.4" in found
        assert ("LDSM.16.MT88.4" in found) == (name in ("half", "bfloat16"))
        assert "LDGSTS.E.BYPASS.128" in found
        assert resources[symbol].spill_bytes == resources[symbol].local_bytes == 0


@pytest.mark.parametrize("arch", [gpu_compilers.parameter(a) for a in DOUBLE])
@gpu_compilers.needs_nvdisasm
def test_double_on_nvidia(arch):
    text = text_for("cuda", "mma_sm80", 32, {"double": "nnk::MmaSm80<double>"})
    found = Counter(
        nvidia._disassembled(nvrtc.compile_cubin(text, arch).code)["MmaProduct_double"].instructions
    )
    assert {n for n in found if "MMA" in n} == {DOUBLE[arch]}
    assert "LDS.64" in found
    assert not {"DFMA", "DMUL", "DADD"} & set(found)


@pytest.mark.parametrize("arch", [gpu_compilers.parameter(a) for a in ("sm_80", "sm_90")])
@gpu_compilers.needs_nvdisasm
def test_loop_of_nvidia(arch):
    """4 x 4 atoms of a warp: 8 loads and 32 products for each step, and a few counters."""
    cubin = nvrtc.compile_cubin(text_for("cuda", "mma_sm80", 32, SM80, ", 4, 4"), arch)
    disassembled = nvidia._disassembled(cubin.code)
    resources = nvidia.parse_report(cubin.log)
    for name, product in SASS.items():
        symbol = f"MmaLoop_{name}"
        assert resources[symbol].spill_bytes == resources[symbol].local_bytes == 0
        found = in_loop(disassembled[symbol].instructions, "BAR", "BRA")
        assert found.pop(product) == 4 * 32
        assert found.pop("LDSM.16.M88.4") == 4 * 8
        if name != "Tf32":  # whose elements are rounded
            assert sum(found.values()) <= 8, found


@pytest.mark.parametrize("arch", [gpu_compilers.parameter(a) for a in ("sm_80", "sm_90")])
@gpu_compilers.needs_nvdisasm
def test_other_instructions_of_nvidia(arch):
    """The narrower forms of ldmatrix, and copies that may bring zeros, or nothing."""
    text = """\
#include "platform/cuda.cuh"
struct Tag;
struct Kernel {
  struct Args { const float* in; nnk::uint32* out; int n; };
  template <class G> static NNK_FN void run(G& group, const Args& args) {
    const auto x = group.template shared<float, 256, Tag>();
    const auto h = group.template shared<nnk::half, 512, int>();
    const int i = group.rank();
    nnk::copy_async<4>(x, 4 * i, args.in + 4 * i, i < args.n);
    nnk::copy_async<2>(x, 128 + 2 * i, args.in + 2 * i, i < args.n);
    nnk::copy_async<1>(x, 192 + i, args.in + i, i < args.n);
    nnk::copy_async_if<4>(args.n > 7, x, 4 * i, args.in + 4 * i);
    nnk::copy_async_if<1>(args.n > 8, x, 224 + i, args.in + i);
    nnk::copy_async_commit();
    nnk::copy_async_wait<0>();
    group.barrier();
    h.store(i, nnk::half{nnk::uint16(x.load(255 - i))});
    group.barrier();
    args.out[i] = nnk::load_matrices<1, false>(h, 8 * i).word[0] +
                  nnk::load_matrices<1, true>(h, 8 * i).word[0] +
                  nnk::load_matrices<2, false>(h, 8 * i).word[1] +
                  nnk::load_matrices<2, true>(h, 8 * i).word[1];
  }
};
NNK_ENTRY(kernel, 32, Kernel)
"""
    found = Counter(
        nvidia._disassembled(nvrtc.compile_cubin(text, arch).code)["kernel"].instructions
    )
    assert {"LDSM.16.M88", "LDSM.16.MT88", "LDSM.16.M88.2", "LDSM.16.MT88.2"} <= set(found)
    assert {"LDGSTS.E.BYPASS.128", "LDGSTS.E.64", "LDGSTS.E"} <= set(found)
    assert sum(n for name, n in found.items() if name.startswith("LDGSTS")) == 5
    # The zeros are an operand of the copy, and whether it is wanted is a predicate: no branch but
    # the one behind the end, and no store but that of the halves.
    assert found["BRA"] == 1
    assert sum(n for name, n in found.items() if name.startswith("STS")) == 1


# ---- AMD -------------------------------------------------------------------------------------

MFMA = {
    "gfx90a": {
        "half": "v_mfma_f32_32x32x8f16",
        "bfloat16": "v_mfma_f32_32x32x8bf16_1k",
        "float": "v_mfma_f32_32x32x2f32",
        "double": "v_mfma_f64_16x16x4f64",
        "int8": "v_mfma_i32_32x32x8i8",
    },
    "gfx942": {
        "half": "v_mfma_f32_32x32x8_f16",
        "bfloat16": "v_mfma_f32_32x32x8_bf16",
        "float": "v_mfma_f32_32x32x2_f32",
        "double": "v_mfma_f64_16x16x4_f64",
        "int8": "v_mfma_i32_32x32x16_i8",
    },
    "gfx1100": {
        "half": "v_wmma_f32_16x16x16_f16",
        "bfloat16": "v_wmma_f32_16x16x16_bf16",
        "int8": "v_wmma_i32_16x16x16_iu8",
    },
}


def amd_text(arch: str, loop: str = "") -> str:
    atoms = {}
    for name in MFMA[arch]:
        element = name if name in ("float", "double") else f"nnk::{name}"
        atoms[name] = f"nnk::MmaG{arch[1:]}<{element}>"
    header, lanes = ("mma_gfx1100", 32) if arch == "gfx1100" else ("mma_gfx90a", 64)
    return text_for("hip", header, lanes, atoms, loop)


def check_products(instructions: dict[str, list[str]], arch: str) -> None:
    for name, product in MFMA[arch].items():
        found = Counter(instructions[f"MmaProduct_{name}"])
        assert {n for n in found if n.startswith(("v_mfma", "v_wmma"))} == {product}
        assert {"ds_read_b128", "ds_load_b128"} & set(found)
        assert not any(n.startswith("scratch") for n in found)


@pytest.mark.parametrize("arch", [gpu_compilers.parameter("gfx90a")])
def test_hiprtc(arch):
    resources = amd.resources(amd_text(arch), arch)
    check_products({symbol: list(row.mix) for symbol, row in resources.items()}, arch)
    assert not any(row.spill_bytes or row.local_bytes for row in resources.values())


@pytest.mark.parametrize("arch", list(MFMA))
@gpu_compilers.needs_clang
def test_clang(arch):
    assembly = clang.compile_assembly(amd_text(arch), arch)
    check_products(gpu_compilers.clang_kernels(assembly), arch)
    assert assembly.count(".vgpr_spill_count: 0") == len(MFMA[arch])


@pytest.mark.parametrize("arch", list(MFMA))
@gpu_compilers.needs_clang
def test_loop_of_amd(arch):
    """2 x 2 atoms of a wave: every chunk is read once, in one access, and no register is moved.

    Sums of double are moved between the two kinds of registers, and half of their chunks are read
    twice; the reason is not known.
    """
    assembly = clang.compile_assembly(amd_text(arch, ", 2, 2"), arch)
    assert assembly.count(".vgpr_spill_count: 0") == len(MFMA[arch])
    kernels = gpu_compilers.clang_kernels(assembly)
    for name, product in MFMA[arch].items():
        found = in_loop(kernels[f"MmaLoop_{name}"], "s_barrier", "s_cbranch")
        load = "ds_load_b128" if arch == "gfx1100" else "ds_read_b128"
        # Eight chunks of two atoms of A and of B; a lane of gfx90a reads one chunk of each two
        # (of four with double), one of gfx1100 all of them.
        share = 1 if arch == "gfx1100" else 4 if name == "double" else 2
        assert found.pop(load) == 2 * 2 * 8 // share
        assert found.pop(product) >= 4 * 4
        rest = {n: count for n, count in found.items() if not n.startswith("s_")}
        assert name == "double" or not set(rest) - {"buffer_gl0_inv"}, rest
