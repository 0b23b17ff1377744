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


def compiled(function, arrays, arch, **options):
    device = PROFILES[arch]
    function = function if options else nnk.fuse(function)
    (launch,) = launches(function, arrays, options, device)
    assert launch.instance.definitions or options
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


def masked(score, mask, scale):
    return np.where(mask, score * scale, -np.inf)


def with_residual(x, residual):
    total = x + residual
    return total, total


# Of a row of 1024 elements: how many accesses of 16 bytes a function adds to each of those of x and
# y. (Others are those of rows that end within a vector.)
INSIDE = (
    (nnk.softmax, masked, (np.empty((512, 1024), bool), 0.125), {}, {}),
    (nnk.layer_norm, with_residual, (np.empty((64, 512, 1024), np.float32),), {16: 1}, {16: 1}),
)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("op", "function", "operands", "loads", "stores"), INSIDE)
def test_a_prologue_adds_its_own_accesses_alone(op, function, operands, loads, stores, arch):
    x = np.empty((64, 512, 1024), np.float32)
    plain = compiled(op, [x], arch, axis=-1)
    found = compiled(op, [x], arch, prologue=function, prologue_operands=operands)
    assert not found.spill_bytes
    assert not found.local_bytes
    if found.loads:  # there is a disassembler
        groups = plain.stores[16]  # of a thread
        assert plain.loads[16] == groups
        for counts, more, before in (
            (found.loads, loads, plain.loads),
            (found.stores, stores, plain.stores),
        ):
            assert counts[16] - before[16] == groups * more.get(16, 0), (counts, before)
