"""Direct kernels of convolutions as the compilers of GPUs make them: see test_gpu_compile.py."""

from __future__ import annotations

import gpu_compilers
import numpy as np
import pytest

from nnkernels import registry
from nnkernels.config.device import PROFILES
from nnkernels.inspection.inspect import Choice, compile_all, device_of, report
from nnkernels.inspection.problems import Problem, contiguous
from nnkernels.inspection.record import launches
from nnkernels.inspection.roofline import Cost

ARCHS = ("sm_80", "sm_90", "sm_120", "gfx90a")
X, WEIGHT = (8, 64, 28, 28), (64, 1, 3, 3)
NO_COST = Cost(0.0, 0)  # of no interest here
GIVEN = {
    "conv": ((X, WEIGHT, (64,)), {}),
    "conv_backward_data": ((X, WEIGHT), {"x_shape": X}),
    "conv_backward_weight": ((X, X), {"weight_shape": WEIGHT}),
}


def channels_last(shape, dtype):
    if len(shape) != 4:
        return contiguous(shape, dtype)
    n, c, h, w = shape
    return np.moveaxis(contiguous((n, h, w, c), dtype), -1, 1)


def chosen(arch):
    """Instances of depthwise convolutions, and whether channels are adjacent."""
    for name, (shapes, options) in GIVEN.items():
        op = registry.find(name)
        for dtype in ("float32", "float16"):
            for layout in (contiguous, channels_last):
                aligned = layout is channels_last
                more = {"padding": 1, "groups": 64, **options}
                problem = Problem("depthwise", aligned, shapes, more, layout)
                arguments = problem.arguments(op, dtype)
                for launch in launches(op.function, *arguments, device_of(arch)):
                    if launch.instance.kernel.startswith("ConvDirect"):
                        yield Choice(op, dtype, problem, launch, NO_COST)


@pytest.mark.parametrize("arch", [gpu_compilers.parameter(arch) for arch in ARCHS])
@gpu_compilers.needs_nvdisasm
def test_nothing_spills_and_channels_are_read_together(arch):
    found = list(chosen(arch))
    compiled = compile_all(found, arch)
    assert len(found) == 12
    for choice in found:
        row = report(choice, arch, compiled[choice.launch.instance.symbol])
        resources, what = row.resources, (row.kernel, row.resources)
        if arch.startswith("gfx"):
            # Strides are scalars, of which some wait in lanes of vector registers. For those lanes
            # the compiler stores 12 bytes of private memory, which nothing reads.
            assert not set(resources.mix) & {"buffer_load_dword", "scratch_load_dword"}, what
            assert resources.local_bytes <= 12, what
        else:
            assert resources.spill_bytes == 0, what
            assert resources.local_bytes == 0, what
        assert row.blocks_per_processor >= 2, what
        assert row.shared <= PROFILES[arch].shared_limit, what
        if choice.problem.aligned:
            assert resources.loads.get(16, 0) >= 3, what
            if row.op != "conv_backward_weight":
                assert resources.stores.get(16, 0) >= 4, what
