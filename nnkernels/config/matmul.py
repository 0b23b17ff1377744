"""Which kernel makes a matrix product."""

from __future__ import annotations

from nnkernels.config import matmul_complex, matmul_packed, matmul_simt, matmul_small
from nnkernels.config.device import Device
from nnkernels.config.matmul_complex import ComplexConfig
from nnkernels.config.matmul_packed import PackedConfig
from nnkernels.config.matmul_problem import MatmulProblem
from nnkernels.config.matmul_simt import SimtConfig
from nnkernels.config.matmul_small import SmallConfig

Config = SimtConfig | PackedConfig | SmallConfig | ComplexConfig


def configure(problem: MatmulProblem, device: Device) -> Config:
    """The kernel for a problem on a device."""
    if device.is_gpu:
        return matmul_simt.configure(problem, device)
    if matmul_small.is_small(problem):
        return matmul_small.configure(problem, device)
    if problem.is_complex:
        return matmul_complex.configure(problem, device)
    return matmul_packed.configure(problem, device)
