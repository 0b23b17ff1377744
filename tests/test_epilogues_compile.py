"""Fused epilogues as the GPU compilers make them: no spill, and no access but to the operands."""

from __future__ import annotations

import gpu_compilers
import numpy as np
import pytest

import nnkernels as nnk
from nnkernels.compile.instance import source_text
from nnkernels.config.device import PROFILES
from nnkernels.inspection import amd, nvidia
from nnkernels.inspection.record import launches

ARCHS = [gpu_compilers.parameter(a) for a in ("sm_80", "gfx90a")]


def gelu_and_residual(sums, bias, residual):
    return nnk.gelu(sums + bias) + residual


def compiled(dtype, arch, **options):
    device = PROFILES[arch]
    x, w = np.empty((4096, 1024), dtype), np.empty((1024, 4096), dtype)
    (launch,) = launches(nnk.matmul, [x, w], options, device)
    text = source_text((launch.instance,), device.machine)
    resources = (nvidia if device.machine == "cuda" else amd).resources(text, arch)
    return resources[launch.instance.symbol]


def total(accesses):
    """Bytes of all instructions."""
    return sum(size * count for size, count in accesses.items())


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_an_epilogue_spills_nothing_and_reads_its_operands_alone(dtype, arch):
    bias, residual = np.empty(4096, dtype), np.empty((4096, 4096), dtype)
    plain = compiled(dtype, arch)
    found = compiled(dtype, arch, epilogue=gelu_and_residual, operands=(bias, residual))
    assert not found.spill_bytes
    assert found.local_bytes <= plain.local_bytes
    if not found.loads:  # there is no disassembler
        return
    assert set(found.stores) == set(plain.stores)  # how often loops are unrolled may differ
    # For what is written at once as many elements of the bias and of the residual are read.
    more = total(found.loads) - total(plain.loads)
    assert more <= 2 * total(found.stores)
    assert max(found.loads) == 16
