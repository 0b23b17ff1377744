"""Fused functions as the GPU compilers make them: nothing spills, 16 bytes an access."""

from __future__ import annotations

import gpu_compilers
import numpy as np
import pytest

import nnkernels as nnk
from nnkernels.compile.instance import source_text
from nnkernels.config.device import PROFILES
from nnkernels.fusion.expression import OPERATIONS
from nnkernels.fusion.functions import FUNCTIONS
from nnkernels.inspection import amd, nvidia
from nnkernels.inspection.record import launches

ARCHS = [gpu_compilers.parameter(a) for a in ("sm_80", "sm_120", "gfx90a")]


def gated(x, y, bias):
    z = x + bias
    return nnk.gelu(z) * np.tanh(y) - 0.5 * z, z > 0


def every(kind):
    def function(x, y):
        found = [op for op in OPERATIONS.values() if kind in op.kinds]
        values = [FUNCTIONS[op.name](*(x, y)[: op.operands]) for op in found]
        total = values[0]
        for value in values[1:]:
            total = FUNCTIONS["where"](value, total, x) if value.dtype == bool else total + value
        return total

    return function


def compiled(function, arrays, arch):
    device = PROFILES[arch]
    (launch,) = launches(nnk.fuse(function), arrays, {}, device)
    assert launch.instance.definitions
    text = source_text((launch.instance,), device.machine)
    resources = (nvidia if device.machine == "cuda" else amd).resources(text, arch)
    return resources[launch.instance.symbol]


@pytest.mark.parametrize("arch", ARCHS)
def test_a_function_has_wide_accesses_and_spills_nothing(arch):
    large = np.empty((4096, 4096), np.float32)
    found = compiled(gated, [large, large.copy(), np.empty(4096, np.float32)], arch)
    assert not found.spill_bytes
    assert not found.local_bytes
    if found.loads:  # there is a disassembler
        assert max(found.loads) == 16
        assert max(found.stores) == 16


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_every_operation_compiles(dtype, arch):
    compiled(every(np.dtype(dtype).kind), [np.empty(100, dtype), np.empty(100, dtype)], arch)
