"""Which of the GPU compilers are here, and marks that skip what needs one that is not."""

from __future__ import annotations

import pytest

from nnkernels.compile import clang, hiprtc, nvrtc
from nnkernels.config.device import PROFILES
from nnkernels.inspection import amd_assembly


def _why_not(arch: str) -> str:
    if PROFILES[arch].machine == "hip":
        return "" if hiprtc.library_path() else "hipRTC is not installed"
    if nvrtc.library_path() is None:
        return "NVRTC is not installed"
    if arch.rstrip("a") not in nvrtc.architectures():
        return f"this NVRTC cannot compile for {arch}"
    return ""


def parameter(arch: str, *more: object) -> object:
    """A test parameter that is skipped, with a reason, where the compiler is missing."""
    reason = _why_not(arch)
    marks = (pytest.mark.skip(reason=reason),) if reason else ()
    return pytest.param(arch, *more, marks=marks)


needs_nvdisasm = pytest.mark.skipif(
    nvrtc.nvdisasm_path() is None, reason="nvdisasm is not installed"
)


# ---- Clang, for AMD architectures that an old hipRTC does not know -------------------------------


def clang_kernels(assembly: str) -> dict[str, list[str]]:
    """Names of instructions, by kernel."""
    return {name: code.instructions for name, code in amd_assembly.codes(assembly).items()}


needs_clang = pytest.mark.skipif(
    clang.program() is None, reason="no Clang of version 17 or later for AMD GPUs is installed"
)
