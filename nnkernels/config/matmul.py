"""Which kernel makes a matrix product."""

from __future__ import annotations

from dataclasses import replace

from nnkernels.config import (
    matmul_complex,
    matmul_packed,
    matmul_rows,
    matmul_simt,
    matmul_small,
    matmul_tensor,
    matmul_tiles,
)
from nnkernels.config.device import Device
from nnkernels.config.matmul_complex import ComplexConfig
from nnkernels.config.matmul_packed import PackedConfig
from nnkernels.config.matmul_problem import MatmulProblem
from nnkernels.config.matmul_rows import RowsConfig
from nnkernels.config.matmul_simt import SimtConfig
from nnkernels.config.matmul_small import SmallConfig
from nnkernels.config.matmul_splits import splits_on_a_cpu
from nnkernels.config.matmul_tensor import TensorConfig
from nnkernels.config.matmul_tiles import TilesConfig

CpuConfig = PackedConfig | TilesConfig | ComplexConfig | RowsConfig
Config = SimtConfig | TensorConfig | SmallConfig | CpuConfig


def configure(problem: MatmulProblem, device: Device) -> Config:
    """The kernel for a problem on a device."""
    if device.is_gpu:
        tensor = matmul_tensor.configure(problem, device)
        return matmul_simt.configure(problem, device) if tensor is None else tensor
    if matmul_small.is_small(problem):
        return matmul_small.configure(problem, device)
    splits = splits_on_a_cpu(
        problem.m, problem.n, problem.k, problem.batches, problem.compute_itemsize
    )
    if splits == 1:
        return _on_a_cpu(problem, device)
    # Every part is one of a batch, and its sums wait in the workspace.
    part = replace(problem, batches=problem.batches * splits, in_place=True)
    return replace(_on_a_cpu(part, device), splits=splits)


def _on_a_cpu(problem: MatmulProblem, device: Device) -> CpuConfig:
    if problem.is_complex:
        return matmul_complex.configure(problem, device)
    if matmul_tiles.is_possible(problem, device):
        return matmul_tiles.configure(problem, device)
    packed = matmul_packed.configure(problem, device)
    if packed.micro == matmul_packed.FUSED and matmul_rows.is_possible(problem):
        return matmul_rows.configure(problem, device)
    return packed
