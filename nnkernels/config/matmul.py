"""Which kernel makes a matrix product."""

from __future__ import annotations

from nnkernels.config import matmul_packed, matmul_simt
from nnkernels.config.device import Device
from nnkernels.config.matmul_packed import PackedConfig
from nnkernels.config.matmul_problem import MatmulProblem
from nnkernels.config.matmul_simt import SimtConfig

Config = SimtConfig | PackedConfig


def configure(problem: MatmulProblem, device: Device) -> Config:
    """The kernel for a problem on a device."""
    if device.is_gpu:
        return matmul_simt.configure(problem, device)
    return matmul_packed.configure(problem, device)
